"""Checkpoints in the Hugging Face layout: read straight into shards, and written."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from xinst_jax.config import ModelConfig
from xinst_jax.families import canonical_name, config_json, weights_of
from xinst_jax.quantize import quantized
from xinst_jax.sharding import weight_shardings

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def load_weights(
    path: str | os.PathLike[str],
    config: ModelConfig,
    dtype: str,
    mesh: Mesh,
    *,
    quantize: str | None = None,
    spread: bool = False,
) -> dict[str, Any]:
    """Reads `model.safetensors`, or the files that its index names.

    Each device's part is read by itself, so the host never holds more than that.

    Args:
      path: Folder of the checkpoint.
      config: Says which weights there must be.
      dtype: "float32" or "bfloat16"; what the arrays become.
      mesh: Where they go.
      quantize: "int8" or "fp8" turns the layers' matrices into `Quantized`, each as
        soon as it is read.
      spread: Over the mesh's data axis as well, for training.

    Returns:
      Arrays by the names of `weights_of(config)`.

    Raises:
      FileNotFoundError: There are no safetensors.
      ValueError: A tensor is missing, surplus or of another shape; names it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}.")
    shardings = weight_shardings(config, mesh, spread=spread)
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for file in _files(Path(path)):
            opened = stack.enter_context(safe_open(file, framework="numpy"))
            for name in opened.keys():  # noqa: SIM118
                if ours := canonical_name(name):
                    tensors[ours] = opened.get_slice(name)
        _check(tensors, config, Path(path))
        arrays = {}
        for name, weight in weights_of(config).items():
            read = _Reader(tensors, weight.checkpoint, weight.shape, DTYPES[dtype])
            array = jax.make_array_from_callback(weight.shape, shardings[name], read)
            arrays[name] = quantized(name, array, quantize, mesh)
        return jax.block_until_ready(arrays)


def random_weights(
    config: ModelConfig, seed: int, dtype: str, mesh: Mesh
) -> dict[str, jax.Array]:
    """A model from scratch: normal matrices, norms of one; born in their shards.

    The residual branches' last matrices start smaller, by the root of the number of
    additions, so that the stream's variance does not grow with depth.
    """

    def draw(number: int, shape: tuple[int, ...], std: float) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        drawn = jax.random.normal(key, shape, jnp.float32) * std
        return drawn.astype(DTYPES[dtype])

    arrays, shardings = {}, weight_shardings(config, mesh)
    with jax.set_mesh(mesh):
        for number, (name, weight) in enumerate(weights_of(config).items()):
            sharding = shardings[name]
            if name.endswith(("norm", "bias")):
                one = float(name.endswith("norm") and not config.norm_offset)
                arrays[name] = jnp.full(
                    weight.shape, one, DTYPES[dtype], device=sharding
                )
                continue
            last = name in ("layers.output", "layers.down")
            std = 0.02 / (2 * config.layers) ** 0.5 if last else 0.02
            # One after the other: drawing takes several times a weight's own memory.
            make = jax.jit(draw, static_argnums=(0, 1, 2), out_shardings=sharding)
            arrays[name] = make(number, weight.shape, std)
    return jax.block_until_ready(arrays)


def save_checkpoint(
    path: str | os.PathLike[str],
    config: ModelConfig,
    weights: Mapping[str, jax.Array | np.ndarray],
    tokenizer: Tokenizer,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder in the Hugging Face layout, whole or not at all.

    Args:
      path: Becomes the checkpoint; one that is there is replaced.
      config: Of the model.
      weights: By the names of `weights_of(config)`.
      tokenizer: Written as `tokenizer.json`.
      texts: Other files to write, by their names.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        tensors: dict[str, Any] = {}
        for name, weight in weights_of(config).items():
            array = np.asarray(weights[name])
            if "{layer}" not in weight.checkpoint:
                tensors[weight.checkpoint] = array
                continue
            for layer in range(config.layers):
                tensors[weight.checkpoint.format(layer=layer)] = array[layer]
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        described = config_json(config)
        described["torch_dtype"] = str(array.dtype)
        _write_json(draft / "config.json", described)
        ends = {key: described[key] for key in ("bos_token_id", "eos_token_id")}
        _write_json(draft / "generation_config.json", ends)
        tokenizer.save(str(draft / "tokenizer.json"))
        for name, text in (texts or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp's own folder is closed to others
        if path.exists():
            path.rename(draft / "replaced")
            draft.rename(path)
            shutil.rmtree(path / "replaced")
        else:
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The checkpoint's `tokenizer.json`.

    Raises:
      FileNotFoundError: There is none.
    """
    file = Path(path) / "tokenizer.json"
    if not file.exists():
        raise FileNotFoundError(f"No tokenizer.json in {path}.")
    return Tokenizer.from_file(str(file))


class _Reader:
    """Reads the part of a stacked weight that a device asks for."""

    def __init__(
        self, tensors: Mapping[str, Any], name: str, shape: tuple[int, ...], dtype: Any
    ) -> None:
        self.tensors, self.name, self.shape, self.dtype = tensors, name, shape, dtype
        self.last: tuple[Any, np.ndarray] | None = None

    def __call__(self, index: Any) -> np.ndarray:
        # Devices along the data axis ask for the same part, one after the other.
        if self.last is None or self.last[0] != index:
            self.last = index, self._read(index)
        return self.last[1]

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        if "{layer}" not in self.name:
            return np.asarray(self.tensors[self.name][index], self.dtype)
        layers = range(*index[0].indices(self.shape[0]))
        parts = (self.tensors[self.name.format(layer=i)][index[1:]] for i in layers)
        return np.stack([np.asarray(part, self.dtype) for part in parts])


def _files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [path / name for name in sorted(set(names))]
    if not (path / "model.safetensors").exists():
        raise FileNotFoundError(
            f"No model.safetensors or model.safetensors.index.json in {path}."
        )
    return [path / "model.safetensors"]


def _check(tensors: Mapping[str, Any], config: ModelConfig, path: Path) -> None:
    expected = {}
    for weight in weights_of(config).values():
        if "{layer}" in weight.checkpoint:
            for layer in range(config.layers):
                name = weight.checkpoint.format(layer=layer)
                expected[name] = weight.shape[1:]
        else:
            expected[weight.checkpoint] = weight.shape
    # Tied models are sometimes saved with the head as a copy of the embedding.
    spare = {"lm_head.weight"} if config.tied else set()
    found = {
        name: tuple(tensor.get_shape())
        for name, tensor in tensors.items()
        if name not in spare
    }
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{path} lacks tensor {name}, expected {list(shape)}.")
        if found[name] != shape:
            raise ValueError(
                f"{path}: tensor {name} is {list(found[name])}, "
                f"config.json makes it {list(shape)}."
            )
    if surplus := sorted(found.keys() - expected.keys()):
        shapes = ", ".join(f"{name} {list(found[name])}" for name in surplus[:5])
        raise ValueError(
            f"{path} has {len(surplus)} tensors that the model has no place for: "
            f"{shapes}."
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
