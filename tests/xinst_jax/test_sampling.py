import jax.numpy as jnp
import numpy as np
import pytest

from xinst_jax.config import SamplingConfig
from xinst_jax.sampling import record_seed, sample


def draw(logits: np.ndarray, records: list[int], step: int = 0, **how: float) -> list:
    config = SamplingConfig(**({"temperature": 1.0} | how))
    ids = jnp.asarray(records, jnp.uint32)
    return sample(jnp.asarray(logits), ids, jnp.int32(step), config).tolist()


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 50)).astype(np.float32) * 2


@pytest.mark.parametrize(
    "how",
    [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}],
)
def test_at_its_limits_sampling_is_greedy(logits: np.ndarray, how: dict) -> None:
    assert draw(logits, list(range(64)), **how) == logits.argmax(-1).tolist()


def test_frequencies_are_the_probabilities() -> None:
    p = np.asarray([0.5, 0.3, 0.15, 0.05])
    num = 20_000
    logits = np.tile(np.log(p).astype(np.float32) * 2, (num, 1))
    counts = np.bincount(draw(logits, list(range(num)), temperature=2.0), minlength=4)
    # Four standard deviations.
    assert np.all(np.abs(counts / num - p) < 4 * np.sqrt(p * (1 - p) / num))


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_p": 0.49}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.81}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.85}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.83}, {0, 1}),  # 0.8 of the 0.95 that top_k leaves
    ],
)
def test_filters_keep_exactly_the_likeliest(how: dict, kept: set[int]) -> None:
    p = np.asarray([0.5, 0.3, 0.15, 0.05])
    logits = np.tile(np.log(p).astype(np.float32), (500, 1))
    assert set(draw(logits, list(range(500)), **how)) == kept


def test_thresholds_order_positive_and_negative_logits() -> None:
    logits = np.tile(np.asarray([-3.0, 2.0, 0.5, -0.1], np.float32), (500, 1))
    assert set(draw(logits, list(range(500)), top_k=2)) == {1, 2}
    assert set(draw(logits, list(range(500)), top_k=3, temperature=9.0)) == {1, 2, 3}


def test_a_draw_depends_on_seed_record_and_step_not_on_its_row() -> None:
    logits = np.zeros((32, 1000), np.float32)
    records = list(range(32))
    drawn = draw(logits, records)
    assert draw(logits, records[::-1])[::-1] == drawn
    assert draw(logits[:5], records[:5]) == drawn[:5]
    assert len(set(drawn)) > 20
    assert draw(logits, records, step=1) != drawn
    assert draw(logits, records, seed=1) != drawn


def test_record_seeds_are_fixed_and_differ() -> None:
    assert record_seed("a") == record_seed(b"a") != record_seed("b")
    assert record_seed("urn:uuid:1") == 835019566
    assert 0 <= record_seed("a") < 2**32
