"""Prints how far logits of nine families are from transformers', and what a test sees.

    python benchmarks/engine_parity.py

What transformers gives stands in tests/xinst_jax/golden, made by the script there, so
that this needs no torch. Weights are made from their names.
"""

import dataclasses
import importlib.util
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from xinst_jax.config import ModelConfig, Rope
from xinst_jax.families import weights_of
from xinst_jax.model import Decoder, hidden_of_rows
from xinst_jax.packing import RowShape, fill
from xinst_jax.sharding import make_mesh, put_rows
from xinst_jax.weights import load_weights

GOLDEN = Path(__file__).parents[1] / "tests" / "xinst_jax" / "golden"
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


def main() -> None:
    print(
        f"{'':9}{'f32: largest':>13}{'bf16 rms':>10}{'of torch':>9}"
        f"{'bf16 largest':>14}{'of torch':>9}   least change of a wrong knob"
    )
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            path = write_checkpoint(Path(folder) / family, family)
            config = ModelConfig.from_checkpoint(path)
            load = partial(load_weights, path, config, mesh=make_mesh())
            whole = load("float32")
            exact = np.abs(differences(Decoder(config, whole), family)).max()
            half = differences(Decoder(config, load("bfloat16")), family)
            rms, largest = np.sqrt((half**2).mean()), np.abs(half).max()
            torch_largest, torch_rms = golden(family)["torch_bf16_error"]
            least, knob = min(
                (np.abs(differences(Decoder(turned, whole), family)).max(), name)
                for name, turned in mutations(config).items()
            )
            print(
                f"{family:9}{exact:13.1e}{rms:10.4f}{rms / torch_rms:8.2f}x"
                f"{largest:14.4f}{largest / torch_largest:8.2f}x   {least:.4f} ({knob})"
            )


def write_checkpoint(path: Path, family: str) -> Path:
    """The family's golden model as transformers would save it."""
    path.mkdir()
    shutil.copy(GOLDEN / family / "config.json", path)
    save_file(tensors_of(ModelConfig.from_checkpoint(path)), path / "model.safetensors")
    return path


def tensors_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """By the names of a checkpoint."""
    spec = importlib.util.spec_from_file_location("weights", GOLDEN / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tensors = {}
    for weight in weights_of(config).values():
        stacked = "{layer}" in weight.checkpoint
        for layer in range(config.layers if stacked else 1):
            name = weight.checkpoint.format(layer=layer)
            shape = weight.shape[1:] if stacked else weight.shape
            tensors[name] = module.tensor(name, shape, unit_offset=config.norm_offset)
    return tensors


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
                scaling = change(rope.scaling, **{name: type(value)(value * 1.5)})
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


if __name__ == "__main__":
    main()
