import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from xinst_jax.config import ModelConfig
from xinst_jax.engine import Engine
from xinst_jax.families import weights_of
from xinst_jax.lora import ADAPTED, LoraConfig, adapter_shapes, make_adapters
from xinst_jax.sharding import make_mesh, weight_shardings
from xinst_jax.step import Program, merged, model_of

LORA = LoraConfig(rank=4, alpha=8.0)


@pytest.fixture
def parts(
    tiny: ModelConfig, random_arrays: Callable[..., dict[str, np.ndarray]]
) -> tuple[dict[str, Any], dict[str, jax.Array], Program]:
    """Adapters whose U are zero, frozen weights, and the program of both."""
    adapters = make_adapters(tiny, LORA, 0, make_mesh())
    at = weight_shardings(tiny, make_mesh(), spread=True)
    frozen = {n: jax.device_put(a, at[n]) for n, a in random_arrays(tiny).items()}
    return adapters, frozen, Program(model=tiny, lora=LORA)


def set_up(adapters: dict[str, Any]) -> None:
    """As if the adapters had been trained."""
    for number, adapter in enumerate(adapters.values()):
        drawn = jax.random.normal(jax.random.key(number), adapter.up.shape)
        adapter.up[...] = 0.1 * drawn


def logits(model: Any, byte_tokenizer: Callable[[], Any]) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(3, 264, (2, 40))
    with jax.set_mesh(make_mesh()):
        engine = Engine(model, byte_tokenizer(), make_mesh())
        return engine.logits(tokens, np.array([40, 23]))


def test_new_adapters_change_nothing(parts: Any, byte_tokenizer: Any) -> None:
    adapters, frozen, program = parts
    whole = dataclasses.replace(program, lora=None)
    base = logits(model_of(frozen, {}, whole), byte_tokenizer)
    np.testing.assert_array_equal(
        logits(model_of(adapters, frozen, program), byte_tokenizer), base
    )
    set_up(adapters)
    changed = logits(model_of(adapters, frozen, program), byte_tokenizer)
    assert np.abs(changed - base).max() > 0.1


def test_a_merged_model_is_the_model_with_adapters(
    parts: Any, byte_tokenizer: Any
) -> None:
    adapters, frozen, program = parts
    set_up(adapters)
    beside = logits(model_of(adapters, frozen, program), byte_tokenizer)
    whole = dataclasses.replace(program, lora=None)
    with jax.set_mesh(make_mesh()):
        weights = merged(adapters, frozen)
    one = logits(model_of(weights, {}, whole), byte_tokenizer)
    np.testing.assert_allclose(one, beside, atol=1e-5 * np.abs(beside).max())


def test_every_matrix_of_a_layer_has_an_adapter_of_its_own_sizes(
    tiny: ModelConfig,
) -> None:
    matrices = {
        name.removeprefix("layers."): weight.shape
        for name, weight in weights_of(tiny).items()
        if name.startswith("layers.") and len(weight.shape) == 3
    }
    shapes = adapter_shapes(tiny, LORA, make_mesh())
    assert set(shapes) == set(ADAPTED) == set(matrices)
    for name, (layers, outputs, inputs) in matrices.items():
        assert shapes[name].down.get_value().shape == (layers, 4, inputs)
        assert shapes[name].up.get_value().shape == (layers, outputs, 4)
        assert shapes[name].scale == 2.0


def test_adapters_are_the_seed_s(tiny: ModelConfig) -> None:
    first, again, other = (make_adapters(tiny, LORA, s, make_mesh()) for s in (0, 0, 1))
    for name in ADAPTED:
        down = first[name].down[...]
        assert (down == again[name].down[...]).all()
        assert (down != other[name].down[...]).any()
    assert (first["query"].down[...] != first["key"].down[...]).any()


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (1, 0.0)])
def test_a_size_out_of_bounds_is_refused(rank: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"rank={rank}, alpha={alpha}"):
        LoraConfig(rank=rank, alpha=alpha)
