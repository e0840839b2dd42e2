"""k-means over unit vectors: Lloyd's algorithm, the same result for the same rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Rows are padded to a multiple of this, so that few sizes are compiled.
_ROWS = 256
# Draws for each starting row, of which the best is taken.
_TRIALS = 8


def kmeans(
    vectors: Float[np.ndarray, "N D"], clusters: int, seed: int, iterations: int = 20
) -> Int[np.ndarray, " N"]:
    """The cluster of each vector, by direction.

    Args:
      vectors: Any lengths but 0; only their directions count.
      clusters: K, at most N.
      seed: Chooses the vectors that clusters start from.
      iterations: Of assigning and averaging.

    Returns:
      Numbers in [0, K). Clusters may stay empty.

    Raises:
      ValueError: There are fewer vectors than clusters.
    """
    num_vectors, width = vectors.shape
    if not 1 <= clusters <= num_vectors:
        raise ValueError(
            f"kmeans needs 1 <= clusters <= vectors, got clusters={clusters}, "
            f"vectors={num_vectors}."
        )
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    starts = _spread(unit, clusters, np.random.default_rng(seed))
    padded = -(-num_vectors // _ROWS) * _ROWS
    rows = np.zeros((padded, width), np.float32)
    rows[:num_vectors] = unit
    weights = np.zeros(padded, np.float32)
    weights[:num_vectors] = 1
    labels = _lloyd(rows, weights, unit[starts].astype(np.float32), iterations)
    return np.asarray(labels)[:num_vectors]


def _spread(
    unit: Float[np.ndarray, "N D"], clusters: int, draw: np.random.Generator
) -> list[int]:
    """Rows to start from, far apart: greedy k-means++ (Arthur, Vassilvitskii 2007).

    Starting anywhere leaves small clusters without a centre of their own.
    """
    starts = [int(draw.integers(len(unit)))]
    distance = _to(unit, starts)[:, 0]
    while len(starts) < clusters:
        total = distance.sum()
        weights = distance / total if total > 0 else None
        tried = draw.choice(len(unit), size=_TRIALS, p=weights)
        left = np.minimum(distance[:, None], _to(unit, tried))
        best = int(left.sum(axis=0).argmin())
        starts.append(int(tried[best]))
        distance = left[:, best]
    return starts


def _to(
    unit: Float[np.ndarray, "N D"], others: Int[np.ndarray, " M"] | list[int]
) -> Float[np.ndarray, "N M"]:
    """Squared distances to some of the rows, |a - b|² = 2 - 2 a·b."""
    # Rounding may take it below 0.
    return np.maximum(2 - 2 * unit @ unit[others].T, 0)


@partial(jax.jit, static_argnames="iterations")
def _lloyd(
    rows: Float[Array, "M D"],
    weights: Float[Array, " M"],
    centres: Float[Array, "K D"],
    iterations: int,
) -> Int[Array, " M"]:
    """Labels of the rows; those of weight 0 move no centre."""

    def nearest(centres: jax.Array) -> jax.Array:
        return jnp.argmax(rows @ centres.T, axis=1)

    def step(_: jax.Array, centres: jax.Array) -> jax.Array:
        share = jax.nn.one_hot(nearest(centres), len(centres)) * weights[:, None]
        sums = share.T @ rows
        lengths = jnp.linalg.norm(sums, axis=1, keepdims=True)
        # A cluster that lost all its rows stays where it was.
        return jnp.where(lengths > 0, sums / jnp.maximum(lengths, 1e-12), centres)

    return nearest(jax.lax.fori_loop(0, iterations, step, centres))
