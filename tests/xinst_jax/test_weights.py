import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from xinst_jax.config import ModelConfig
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import (
    _Reader,
    load_tokenizer,
    load_weights,
    save_checkpoint,
)

NAME = "model.layers.1.self_attn.k_proj.weight"


def edit(folder: Path, change: Callable[[dict], None]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_what_was_saved_is_loaded(
    tmp_path: Path,
    tied_config: ModelConfig,
    tiny: ModelConfig,
    byte_tokenizer: Callable,
    random_arrays: Callable,
    write_checkpoint: Callable,
) -> None:
    for number, config in enumerate((tiny, tied_config)):
        folder = write_checkpoint(tmp_path / str(number), config)
        assert ModelConfig.from_checkpoint(folder) == config
        loaded = load_weights(folder, config, "float32", make_mesh())
        saved = random_arrays(config)
        assert loaded.keys() == saved.keys()
        for name in saved:
            np.testing.assert_array_equal(loaded[name], saved[name])
        assert load_tokenizer(folder).to_str() == byte_tokenizer().to_str()
        names = load_file(folder / "model.safetensors")
        assert names[NAME].shape == (config.kv_heads * 8, 32)
        assert ("lm_head.weight" in names) == (not config.tied)


def test_several_files_and_bfloat16_are_read(
    tmp_path: Path,
    tiny: ModelConfig,
    random_arrays: Callable,
    write_checkpoint: Callable,
) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {}
    for part, own in (("a", names[::2]), ("b", names[1::2])):
        save_file({n: tensors[n] for n in own}, folder / f"{part}.safetensors")
        where |= {n: f"{part}.safetensors" for n in own}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    loaded = load_weights(folder, tiny, "bfloat16", make_mesh())
    assert {a.dtype.name for a in loaded.values()} == {"bfloat16"}
    saved = random_arrays(tiny)["layers.key"]
    np.testing.assert_allclose(
        np.asarray(loaded["layers.key"], np.float32), saved, rtol=2**-8
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), rf"lacks tensor {NAME}, expected \[16, 32\]"),
        (
            lambda t: t.update({NAME: np.zeros((9, 32), np.float32)}),
            rf"tensor {NAME} is \[9, 32\], config.json makes it \[16, 32\]",
        ),
        (
            lambda t: t.update({"model.extra": np.zeros((2, 3), np.float32)}),
            r"no place for: model.extra \[2, 3\]",
        ),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(
    tmp_path: Path,
    change: Callable[[dict], None],
    message: str,
    tiny: ModelConfig,
    write_checkpoint: Callable,
) -> None:
    with pytest.raises(ValueError, match=message):
        load_weights(
            edit(write_checkpoint(tmp_path / "m", tiny), change),
            tiny,
            "float32",
            make_mesh(),
        )


def test_a_tied_checkpoint_may_repeat_its_head(
    tmp_path: Path, tiny: ModelConfig, write_checkpoint: Callable
) -> None:
    config = dataclasses.replace(tiny, tied=True)
    assert "head" not in load_weights(
        write_checkpoint(tmp_path / "m", tiny), config, "float32", make_mesh()
    )


def test_missing_files_and_unknown_dtypes_are_named(
    tmp_path: Path, tiny: ModelConfig
) -> None:
    with pytest.raises(FileNotFoundError, match=r"No model\.safetensors"):
        load_weights(tmp_path, tiny, "float32", make_mesh())
    with pytest.raises(FileNotFoundError, match=r"No tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="got 'float16'"):
        load_weights(tmp_path, tiny, "float16", make_mesh())


def test_a_failed_save_leaves_the_old_checkpoint_and_no_rubbish(
    tmp_path: Path,
    tiny: ModelConfig,
    byte_tokenizer: Callable,
    random_arrays: Callable,
    write_checkpoint: Callable,
) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    arrays = random_arrays(tiny, seed=1)
    lacking = {k: v for k, v in arrays.items() if k != "layers.up"}
    with pytest.raises(KeyError, match=r"layers\.up"):
        save_checkpoint(folder, tiny, lacking, byte_tokenizer())
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    save_checkpoint(folder, tiny, arrays, byte_tokenizer())
    after = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert after.keys() == before.keys()
    assert after["model.safetensors"] != before["model.safetensors"]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_device_is_read_no_more_than_its_own_part() -> None:
    read: list[tuple[str, tuple[int, ...]]] = []

    class Tensor:
        """As safetensors' slices: what is asked for is what is read."""

        def __init__(self, name: str) -> None:
            self.name = name
            self.array = np.arange(32).reshape(4, 8) + ord(name[-1])

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            part = self.array[index]
            read.append((self.name, part.shape))
            return part

    tensors = {f"w{layer}": Tensor(f"w{layer}") for layer in range(3)}
    reader = _Reader(tensors, "w{layer}", (3, 4, 8), np.float32)
    half = slice(None), slice(0, 2), slice(None)
    part = reader(half)
    assert part.shape == (3, 2, 8) and part.dtype == np.float32
    np.testing.assert_array_equal(part[1], tensors["w1"].array[:2])
    assert reader(half) is part  # devices along the data axis share it
    assert read == [(f"w{layer}", (2, 8)) for layer in range(3)]
    reader((slice(1, 2), slice(None), slice(4, 8)))
    assert read[3:] == [("w1", (4, 4))]
