"""k-means over unit vectors, a million of them in little memory: NumPy alone.

N vectors   D their width   P width they are compared in   K clusters   B rows at a time

Beam's workers call it, and of all processes of a host only the engine's may start JAX.

Nearly all the work is comparing vectors with centres, N x K of them. They are compared
in the P directions in which the vectors differ most, 192 of 1,024: that is
what the time is saved by, and `benchmarks/kmeans_speed.py` shows what it costs.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

# P at most. Text embeddings of width 1,024 have most of their variance in as many.
_DIRECTIONS = 192
# Rows that the directions are found from.
_DIRECTION_ROWS = 16_384
# Rows of a step of `fit`.
BATCH_ROWS = 8192
# Rows that are compared with all centres at a time: B x K products, 16 MB of 4,000.
_ROWS = 1024
# Draws for each starting row, of which the best is taken.
_TRIALS = 8
# Rows for each cluster that the starting rows are drawn from.
_START_ROWS = 4
# Products of float32 unit vectors are off by less, whatever the order of summing.
_ROUNDING = 2e-5


@dataclasses.dataclass(frozen=True, slots=True)
class Centres:
    """What a vector's cluster is told by.

    Attributes:
      directions: Orthonormal columns, `[D, P]` float32.
      points: The centres along these directions, `[K, P]` float32.
    """

    directions: Float[np.ndarray, "D P"]
    points: Float[np.ndarray, "K P"]

    def nearest(self, vectors: Float[np.ndarray, "N D"]) -> Int[np.ndarray, " N"]:
        """The cluster of each vector, in [0, K); it does not depend on the others.

        A product's last bits depend on how many rows are multiplied at a time, and by
        how many threads. Where that could decide, the row is computed again with twice
        the digits.
        """
        labels = np.empty(len(vectors), np.int64)
        for rows in _blocks(len(vectors), _ROWS):
            unit = _unit(vectors[rows])
            near = _nearness(unit @ self.directions, self.points)
            labels[rows] = near.argmax(axis=1)
            best = near.max(axis=1, keepdims=True)
            np.greater_equal(near, best - _ROUNDING, out=near)
            for row in np.flatnonzero(near.sum(axis=1) > 1):
                close = np.flatnonzero(near[row])
                labels[rows.start + row] = close[self._exactly(unit[row], close)]
        return labels

    def _exactly(
        self, unit: Float[np.ndarray, " D"], close: Int[np.ndarray, " C"]
    ) -> int:
        """Which of some centres is the nearest, with twice the digits."""
        row = unit.astype(np.float64) @ self.directions.astype(np.float64)
        apart = self.points[close].astype(np.float64) - row
        return int(np.square(apart).sum(axis=1).argmin())


def fit(
    vectors: Float[np.ndarray, "N D"], clusters: int, seed: int, passes: int = 10
) -> Centres:
    """The centres of clusters of directions, by k-means in small batches.

    In a step the centres move to the mean of their rows, past ones included, of which
    those of more than a pass ago are forgotten by and by. With all rows in one batch it
    is Lloyd's algorithm.

    Args:
      vectors: Any lengths but 0; only their directions count. They are read in blocks
        and may lie in a memory-mapped file; N x P float32 are kept.
      clusters: K, at most N.
      seed: Chooses the vectors that clusters start from, and the batches.
      passes: How often each vector is looked at.

    Raises:
      ValueError: There are fewer vectors than clusters.
    """
    if not 1 <= clusters <= len(vectors):
        raise ValueError(
            f"kmeans needs 1 <= clusters <= vectors, got clusters={clusters}, "
            f"vectors={len(vectors)}."
        )
    draw = np.random.default_rng(seed)
    directions = main_directions(vectors, draw)
    rows = project(vectors, directions)
    points = rows[starts(rows, clusters, draw)]
    weights = np.zeros(clusters)
    for _ in range(passes):
        order = draw.permutation(len(rows))
        for batch in _blocks(len(rows), BATCH_ROWS):
            step(rows[order[batch]], points, weights, len(rows))
    return Centres(directions, points)


def project(
    vectors: Float[np.ndarray, "N D"], directions: Float[np.ndarray, "D P"]
) -> Float[np.ndarray, "N P"]:
    """Unit vectors along the directions, float32."""
    rows = np.empty((len(vectors), directions.shape[1]), np.float32)
    for block in _blocks(len(vectors), BATCH_ROWS):
        rows[block] = _unit(vectors[block]) @ directions
    return rows


def step(
    batch: Float[np.ndarray, "B P"],
    points: Float[np.ndarray, "K P"],
    weights: Float[np.ndarray, " K"],
    num_rows: int,
) -> None:
    """Moves the centres, in place, by one batch of `num_rows` rows."""
    labels = np.concatenate(
        [
            _nearness(batch[rows], points).argmax(axis=1)
            for rows in _blocks(len(batch), _ROWS)
        ]
    )
    order = labels.argsort(kind="stable")
    found, first, number = np.unique(
        labels[order], return_index=True, return_counts=True
    )
    sums = np.add.reduceat(batch[order], first, axis=0)
    weights *= 1 - len(batch) / num_rows
    weights[found] += number
    share = (number / weights[found])[:, None].astype(np.float32)
    points[found] += share * (sums / number[:, None].astype(np.float32) - points[found])


def _nearness(
    rows: Float[np.ndarray, "B P"], points: Float[np.ndarray, "K P"]
) -> Float[np.ndarray, "B K"]:
    """The larger, the nearer is the centre: |a - b|² = |a|² - 2 (a·b - |b|²/2)."""
    near = rows @ points.T
    near -= np.square(points).sum(axis=1) / 2
    return near


def main_directions(
    vectors: Float[np.ndarray, "N D"], draw: np.random.Generator
) -> Float[np.ndarray, "D P"]:
    """The directions of most variance, from some of the rows; all where D is small."""
    width = vectors.shape[1]
    if width <= _DIRECTIONS:
        return np.eye(width, dtype=np.float32)
    few = _some(len(vectors), _DIRECTION_ROWS, draw)
    if len(few) < width:
        # The same from products of rows with rows, which are fewer.
        unit = _unit(vectors[few])
        values, found = np.linalg.eigh((unit @ unit.T).astype(np.float64))
        kept = values[-_DIRECTIONS:] > 1e-6 * values[-1]
        found = unit.T @ found[:, -_DIRECTIONS:][:, kept]
        found /= np.linalg.norm(found, axis=0)
    else:
        moments = np.zeros((width, width))
        for block in _blocks(len(few), _ROWS):
            unit = _unit(vectors[few[block]])
            moments += unit.T @ unit
        found = np.linalg.eigh(moments)[1][:, -_DIRECTIONS:]
    return np.ascontiguousarray(found, np.float32)


def starts(
    rows: Float[np.ndarray, "N P"], clusters: int, draw: np.random.Generator
) -> Int[np.ndarray, " K"]:
    """Rows to start from, far apart: greedy k-means++ (Arthur, Vassilvitskii 2007).

    Starting anywhere leaves small clusters without a centre of their own.
    """
    few = _some(len(rows), max(_START_ROWS * clusters, BATCH_ROWS), draw)
    return few[_spread(rows[few], clusters, draw)]


def _some(num_rows: int, most: int, draw: np.random.Generator) -> Int[np.ndarray, " M"]:
    """Numbers of some rows, ascending, so that a file is read from front to back."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(draw.choice(num_rows, most, replace=False))


def _spread(
    rows: Float[np.ndarray, "M P"], clusters: int, draw: np.random.Generator
) -> Int[np.ndarray, " K"]:
    squares = np.square(rows).sum(axis=1)

    def to(others: Int[np.ndarray, " T"]) -> Float[np.ndarray, "M T"]:
        between = squares[:, None] + squares[others] - 2 * rows @ rows[others].T
        # Rounding may take it below 0.
        return np.maximum(between, 0)

    chosen = [int(draw.integers(len(rows)))]
    distance = to(np.array(chosen))[:, 0]
    while len(chosen) < clusters:
        reached = np.cumsum(distance, dtype=np.float64)
        if reached[-1] > 0:
            tried = np.searchsorted(reached, draw.random(_TRIALS) * reached[-1])
        else:
            tried = draw.integers(len(rows), size=_TRIALS)
        left = np.minimum(distance[:, None], to(tried))
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(tried[best]))
        distance = left[:, best]
    return np.array(chosen)


def _unit(vectors: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
    rows = np.asarray(vectors, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _blocks(number: int, size: int) -> Iterator[slice]:
    """All of `number` rows, in slices of at most `size`."""
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))
