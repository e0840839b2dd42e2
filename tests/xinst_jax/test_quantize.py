import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinst_jax.config import ModelConfig, SamplingConfig
from xinst_jax.engine import Engine
from xinst_jax.quantize import Quantized, quantized, quantized_project
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import load_weights


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.012), ("fp8", 0.05)])
def test_a_product_in_eight_bits_is_as_near_as_they_allow(
    kind: str, most: float
) -> None:
    rng = np.random.default_rng(0)
    # Tokens and channels of very different sizes: each has a scale of its own.
    x = rng.normal(size=(1, 7, 256)) * 10.0 ** rng.integers(-3, 3, (1, 7, 1))
    weight = rng.normal(size=(1, 64, 256)) * 10.0 ** rng.integers(-3, 3, (1, 64, 1))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    mesh = make_mesh()
    whole = quantized("layers.up", jnp.asarray(weight), kind, mesh)
    assert whole.values[...].dtype.itemsize == 1
    one = jax.tree.map(lambda a: a[0], whole)
    with jax.set_mesh(mesh):
        found = np.asarray(quantized_project(jnp.asarray(x), one))
    expected = np.einsum("rti,oi->rto", x, weight[0])
    # Of the standard deviation of a product of random factors.
    size = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(weight[0], axis=-1)
    relative = (found - expected) / (size / 256**0.5)
    assert 1e-4 < np.sqrt((relative**2).mean()) < most


def test_only_the_layers_matrices_are_quantized(
    checkpoint: Path, tiny: ModelConfig
) -> None:
    weights = load_weights(checkpoint, tiny, "float32", make_mesh(), quantize="int8")
    eight = {name for name, array in weights.items() if isinstance(array, Quantized)}
    assert eight == {
        f"layers.{name}"
        for name in ("query", "key", "value", "output", "gate", "up", "down")
    }
    with pytest.raises(ValueError, match="got 'int4'"):
        load_weights(checkpoint, tiny, "float32", make_mesh(), quantize="int4")


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.15), ("fp8", 0.5)])
def test_an_engine_in_eight_bits_says_nearly_the_same(
    kind: str, most: float, checkpoint: Path, engine: Engine
) -> None:
    eight = Engine.load(checkpoint, quantize=kind)
    tokens = np.random.default_rng(0).integers(0, 264, (2, 50))
    lengths = np.asarray([50, 30])
    logits = engine.logits(tokens, lengths)
    error = eight.logits(tokens, lengths) - logits
    assert 1e-3 < np.sqrt((error**2).mean()) / logits.std() < most


def test_neighbours_change_nothing_in_eight_bits(
    checkpoint: Path, prompts: list[list[int]]
) -> None:
    eight = Engine.load(checkpoint, quantize="int8")
    sampling = SamplingConfig(max_new_tokens=4)
    together = eight.generate(prompts[:8], sampling)
    assert eight.generate([prompts[5]], sampling) == [together[5]]


def test_biases_stay_beside_quantized_matrices(
    tmp_path: Path, tiny: ModelConfig, write_checkpoint: Callable
) -> None:
    config = dataclasses.replace(tiny, family="qwen2", qkv_bias=True)
    path = write_checkpoint(tmp_path / "m", config)
    tokens, lengths = np.asarray([[5, 6, 7]]), np.asarray([3])
    exact = Engine.load(path).logits(tokens, lengths)
    near = Engine.load(path, quantize="int8").logits(tokens, lengths)
    assert 0 < np.abs(near - exact).max() < 0.2 * np.abs(exact).max()
