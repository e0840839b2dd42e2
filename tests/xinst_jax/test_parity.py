"""Nine families against transformers: golden/make_golden.py made the files."""

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from xinst_jax.config import ModelConfig, Rope, SamplingConfig
from xinst_jax.engine import Engine
from xinst_jax.families import weights_of
from xinst_jax.model import Decoder, hidden_of_rows
from xinst_jax.packing import RowShape, fill
from xinst_jax.sharding import make_mesh, put_rows
from xinst_jax.weights import load_weights

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = [
    "llama2",
    "llama3",
    "llama32",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma1",
    "gemma2",
    "gemma3",
]
# A wrong knob must cost a hundred times what rounding may.
TOLERANCE, CAUGHT = 1e-5, 1e-3


def golden_tensor() -> Callable[..., np.ndarray]:
    spec = importlib.util.spec_from_file_location("weights", GOLDEN / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tensor


def tensors_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """By the names of a checkpoint."""
    tensor, tensors = golden_tensor(), {}
    for weight in weights_of(config).values():
        stacked = "{layer}" in weight.checkpoint
        for layer in range(config.layers if stacked else 1):
            name = weight.checkpoint.format(layer=layer)
            shape = weight.shape[1:] if stacked else weight.shape
            tensors[name] = tensor(name, shape, unit_offset=config.norm_offset)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Callable):
    """Where a family's checkpoint is; made when it is first asked for."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            path = made[family] = tmp_path_factory.mktemp(family)
            shutil.copy(GOLDEN / family / "config.json", path)
            tensors = tensors_of(ModelConfig.from_checkpoint(path))
            save_file(tensors, path / "model.safetensors")
            byte_tokenizer().save(str(path / "tokenizer.json"))
        return made[family]

    return make


def golden(family: str) -> dict[str, Any]:
    with np.load(GOLDEN / family / "golden.npz") as file:
        return dict(file)


# Compiled for each wrong knob, so compiled quickly.
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def all_logits(model: Decoder, rows: Any) -> jax.Array:
    x, _ = hidden_of_rows(model, rows)
    return model.logits(x)


def differences(model: Decoder, family: str) -> np.ndarray:
    """Our logits less transformers', at every token of every document."""
    expected = golden(family)
    lengths = expected["lengths"].tolist()
    texts = [t[:n].tolist() for t, n in zip(expected["tokens"], lengths, strict=True)]
    # In another order than theirs, several in a row, one slot empty.
    order = [3, 0, 5, 1, 4, 2]
    shape = RowShape(rows=1, tokens=256, slots=7, slot_tokens=128)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        rows = put_rows(fill([[texts[i] for i in order]], shape), mesh)
        logits = np.asarray(all_logits(model, rows)[0])
    found, start = [], 0
    for i in order:
        own = logits[start : start + lengths[i]]
        found.append(own - expected["logits"][i, : lengths[i]])
        start += lengths[i]
    return np.concatenate(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_are_those_of_transformers(
    family: str, folder: Callable
) -> None:
    engine = Engine.load(folder(family))
    expected = golden(family)
    assert expected["logits"].std() > 0.3
    assert np.abs(differences(engine.model, family)).max() <= TOLERANCE
    # Here nothing ends an answer, as when the files were made.
    engine.model.config = dataclasses.replace(engine.config, eos=())
    prompts = [
        row[:n].tolist()
        for row, n in zip(expected["tokens"], expected["lengths"], strict=True)
    ]
    answers = engine.generate(prompts, SamplingConfig(max_new_tokens=16))
    assert [list(a.tokens) for a in answers] == expected["greedy"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_as_torchs_own(family: str, folder: Callable) -> None:
    path = folder(family)
    config = ModelConfig.from_checkpoint(path)
    weights = load_weights(path, config, "bfloat16", make_mesh())
    error = differences(Decoder(config, weights), family)
    theirs_max, theirs_rms = golden(family)["torch_bf16_error"]
    assert 1e-4 < np.sqrt((error**2).mean()) <= 1.1 * theirs_rms
    # One logit of 20,000: where the worst one falls is chance.
    assert np.abs(error).max() <= 2 * theirs_max


def mutations(config: ModelConfig) -> dict[str, ModelConfig]:
    """The config with one knob turned, for each that it has."""
    change = dataclasses.replace
    rope = config.rope
    turned = {
        "norm_eps": change(config, norm_eps=1e-6),
        "query_scale": change(config, query_scale=config.query_scale * 1.1),
        "rope.theta": change(config, rope=change(rope, theta=rope.theta * 2)),
        "activation": change(
            config,
            activation={"silu": "gelu_tanh", "gelu_tanh": "silu"}[config.activation],
        ),
        "norm_offset": change(config, norm_offset=not config.norm_offset),
        "scaled_embedding": change(
            config, scaled_embedding=not config.scaled_embedding
        ),
    }
    if rope.scaling:
        turned["rope.scaling"] = change(config, rope=change(rope, scaling=None))
        for name in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_positions",
        ):
            if (value := getattr(rope.scaling, name)) is not None:
                scaling = change(rope.scaling, **{name: value * 2})
                turned[name] = change(config, rope=change(rope, scaling=scaling))
    for name in ("attention_softcap", "logit_softcap"):
        if getattr(config, name):
            turned[name] = change(config, **{name: None})
    if config.window:
        turned["no window"] = change(config, window=None, windowed=())
        turned["window + 1"] = change(config, window=config.window + 1)
        turned["window - 1"] = change(config, window=config.window - 1)
        if not all(config.windowed):
            shifted = config.windowed[1:] + config.windowed[:1]
            turned["windowed"] = change(config, windowed=shifted)
    if config.local_rope:
        turned["no local_rope"] = change(config, local_rope=None)
        turned["local_rope"] = change(config, local_rope=Rope(theta=5e3))
    if config.qkv_bias:
        turned["qkv_bias"] = change(config, qkv_bias=False)
    if config.qk_norm:
        turned["qk_norm"] = change(config, qk_norm=False)
    return turned


@pytest.mark.parametrize("family", FAMILIES)
def test_one_wrong_knob_is_caught(family: str, folder: Callable) -> None:
    path = folder(family)
    config = ModelConfig.from_checkpoint(path)
    weights = load_weights(path, config, "float32", make_mesh())
    missed = {}
    for name, turned in mutations(config).items():
        # Knobs of one family's traits take weights away, and never ask for more.
        error = np.abs(differences(Decoder(turned, weights), family)).max()
        if error < CAUGHT:
            missed[name] = error
    assert not missed


@pytest.mark.parametrize("family", FAMILIES)
def test_old_and_new_spellings_give_one_config(family: str, tmp_path: Path) -> None:
    configs = []
    for name in ("config.json", "config_v4.json"):
        shutil.copy(GOLDEN / family / name, tmp_path / "config.json")
        configs.append(ModelConfig.from_checkpoint(tmp_path))
    assert configs[0] == configs[1]


@pytest.mark.parametrize("spelling", ["v4", "v5"])
def test_a_text_model_is_read_out_of_a_multimodal_checkpoint(
    spelling: str, tmp_path: Path, folder: Callable
) -> None:
    source = GOLDEN / "gemma3_multimodal"
    text = folder("gemma3")
    shutil.copy(
        source / ("config.json" if spelling == "v5" else "config_v4.json"),
        tmp_path / "config.json",
    )
    config = ModelConfig.from_checkpoint(tmp_path)
    plain = ModelConfig.from_checkpoint(text)
    assert dataclasses.replace(config, eos=plain.eos, bos=plain.bos) == plain
    own, tensors = tensors_of(config), {}
    for name in json.loads((source / "names.json").read_text())[spelling]:
        inner = name.replace("language_model.model.", "model.")
        inner = inner.replace("model.language_model.", "model.")
        tensors[name] = own.pop(inner, np.zeros(2, np.float32))
    assert not own
    save_file(tensors, tmp_path / "model.safetensors")
    weights = load_weights(tmp_path, config, "float32", make_mesh())
    assert np.abs(differences(Decoder(config, weights), "gemma3")).max() <= TOLERANCE
