"""Logits against Llama written once more, naively, in NumPy and float64."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinst_jax.attention import to_rows, to_slots
from xinst_jax.config import ModelConfig, Rope
from xinst_jax.engine import Engine
from xinst_jax.packing import RowShape, fill


def naive_logits(config: ModelConfig, w: dict, tokens: list[int]) -> np.ndarray:
    """One text, one head and one position at a time."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    width = config.head_width
    half = width // 2

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def frequency(pair: int) -> float:
        plain = config.rope.theta ** (-2 * pair / width)
        if (s := config.rope.scaling) is None:
            return plain
        wavelength = 2 * math.pi / plain
        if wavelength < s.original_positions / s.high_freq_factor:
            return plain
        if wavelength > s.original_positions / s.low_freq_factor:
            return plain / s.factor
        smooth = (s.original_positions / wavelength - s.low_freq_factor) / (
            s.high_freq_factor - s.low_freq_factor
        )
        return (1 - smooth) * plain / s.factor + smooth * plain

    def turn(x: np.ndarray, position: int) -> np.ndarray:
        out = np.empty_like(x)
        for i in range(half):
            angle = position * frequency(i)
            c, s = math.cos(angle), math.sin(angle)
            out[i] = x[i] * c - x[i + half] * s
            out[i + half] = x[i + half] * c + x[i] * s
        return out

    x = w["embedding"][tokens]
    for layer in range(config.layers):
        own = {n[7:]: a[layer] for n, a in w.items() if n.startswith("layers.")}
        h = norm(x, own["attention_norm"])
        q, k, v = (h @ own[name].T for name in ("query", "key", "value"))
        attended = np.zeros((len(tokens), config.heads * width))
        for head in range(config.heads):
            mine = slice(head * width, (head + 1) * width)
            shared = head // (config.heads // config.kv_heads)
            theirs = slice(shared * width, (shared + 1) * width)
            keys = [turn(k[t, theirs], t) for t in range(len(tokens))]
            for t in range(len(tokens)):
                query = turn(q[t, mine], t)
                scores = np.asarray([query @ keys[s] for s in range(t + 1)])
                weights = np.exp(scores / math.sqrt(width))
                weights /= weights.sum()
                attended[t, mine] = weights @ v[: t + 1, theirs]
        x = x + attended @ own["output"].T
        h = norm(x, own["mlp_norm"])
        gate = h @ own["gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ own["up"].T)) @ own["down"].T
    head = w["embedding"] if config.tied else w["head"]
    return norm(x, w["final_norm"]) @ head.T


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope": Rope(theta=100.0), "tied": True, "kv_heads": 8},
        {"kv_heads": 1, "head_width": 4, "query_scale": 0.5, "norm_eps": 1e-2},
    ],
    ids=["llama3", "tied", "multi-query"],
)
def test_logits_equal_a_naive_forward(
    tmp_path: Path,
    changes: dict,
    tiny: ModelConfig,
    random_arrays: Callable,
    write_checkpoint: Callable,
) -> None:
    config = dataclasses.replace(tiny, **changes)
    engine = Engine.load(write_checkpoint(tmp_path / "m", config))
    weights = random_arrays(engine.config)
    rng = np.random.default_rng(0)
    lengths = np.asarray([1, 7, 70, 150])
    tokens = rng.integers(0, engine.config.vocabulary, (4, 150))
    logits = engine.logits(tokens, lengths)
    for row, length in enumerate(lengths):
        expected = naive_logits(engine.config, weights, tokens[row, :length].tolist())
        assert expected.std() > 0.5
        np.testing.assert_allclose(logits[row, :length], expected, atol=2e-5)
        assert not logits[row, length:].any()


def test_every_part_of_the_config_moves_the_logits(
    engine: Engine, tiny: ModelConfig, random_arrays: Callable
) -> None:
    tokens = np.random.default_rng(0).integers(0, 264, 60).tolist()
    weights = random_arrays(tiny)
    base = engine.logits(np.asarray([tokens]), np.asarray([60]))[0]
    for change in (
        {"rope": dataclasses.replace(tiny.rope, theta=1e6)},
        {"rope": Rope(theta=100.0)},
        {"norm_eps": 1e-3},
    ):
        other = naive_logits(dataclasses.replace(tiny, **change), weights, tokens)
        assert np.abs(other - base).max() > 1e-3


def test_bfloat16_is_near_float32(checkpoint: Path, engine: Engine) -> None:
    low = Engine.load(checkpoint, dtype="bfloat16")
    tokens = np.random.default_rng(0).integers(0, 264, (2, 50))
    lengths = np.asarray([50, 30])
    difference = low.logits(tokens, lengths) - engine.logits(tokens, lengths)
    assert 0 < np.abs(difference).max() < 0.5
    assert np.sqrt((difference**2).mean()) < 0.05


def test_slots_and_rows_are_each_others_transpose() -> None:
    shape = RowShape(rows=1, tokens=8, slots=3, slot_tokens=4)
    rows = fill([[[1, 2, 3], [4, 5]]], shape)
    index = jnp.asarray(rows.slot_index), jnp.asarray(rows.token_slot)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 8, 2)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(1, 3, 4, 2)), jnp.float32)
    slots, back = jax.vjp(lambda x: to_slots(x, *index), x)
    np.testing.assert_allclose((slots * y).sum(), (x * back(y)[0]).sum(), rtol=1e-6)
    assert not slots[0, 1, 2:].any() and not slots[0, 2].any()
    np.testing.assert_array_equal(to_rows(slots, *index)[0, :5], x[0, :5])
