"""Clustering: topics are found, and what a vector's neighbours are changes nothing."""

import numpy as np
import pytest

from xinst_jax import kmeans


def around(
    topics: np.ndarray, sizes: list[int], noise: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of any length around topics, in random order, and their topics."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(len(sizes)), sizes))
    width = topics.shape[1]
    vectors = topics[labels] + noise * draw.normal(size=(len(labels), width))
    lengths = draw.uniform(0.5, 20, size=(len(labels), 1))
    return (vectors * lengths).astype(np.float32), labels


def topics(number: int, width: int) -> np.ndarray:
    made = np.random.default_rng(9).normal(size=(width, width))
    return np.linalg.qr(made)[0][:number]  # At right angles.


def agree(found: np.ndarray, true: np.ndarray) -> bool:
    """Whether both cut the rows into the same groups."""
    pairs = set(zip(found.tolist(), true.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(true.tolist()))


def inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = [unit[labels == label] for label in np.unique(labels)]
    return sum(float(np.square(g - g.mean(axis=0)).sum()) for g in groups)


@pytest.mark.parametrize("width", [8, 300])
def test_topics_are_found_however_long_their_vectors_are(width):
    vectors, true = around(topics(6, width), [300, 80, 40, 12, 5, 3], 0.2 / width**0.5)
    assert agree(kmeans.fit(vectors, 6, seed=1).nearest(vectors), true)


def test_topics_of_more_vectors_than_a_batch_are_found():
    vectors, true = around(topics(40, 200), [500] * 39 + [60], 0.005)
    assert len(vectors) > 2 * kmeans.BATCH_ROWS
    assert agree(kmeans.fit(vectors, 40, seed=1, passes=3).nearest(vectors), true)


def test_a_cluster_is_that_of_the_nearest_centre_in_all_digits():
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(700, 50)).astype(np.float32)
    centres = kmeans.fit(vectors, 30, seed=0)
    unit = vectors.astype(float) / np.linalg.norm(vectors, axis=1, keepdims=True)
    along = unit @ centres.directions
    far = np.square(along[:, None] - centres.points).sum(axis=2)
    assert (centres.nearest(vectors) == far.argmin(axis=1)).all()


def test_the_neighbours_of_a_vector_change_nothing_even_between_two_centres():
    """Midway between two centres the last bits of a product would decide."""
    draw = np.random.default_rng(4)
    points = draw.normal(size=(100, 128)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[50:] = points[:50] + 1e-7 * draw.normal(size=(50, 128))
    directions = np.linalg.qr(draw.normal(size=(300, 128)))[0].astype(np.float32)
    centres = kmeans.Centres(directions, points)
    vectors = (points[:50] @ directions.T).astype(np.float32)
    vectors = np.tile(vectors, (30, 1))
    whole = centres.nearest(vectors)
    for size in (1, 7, 64, 1000):
        parts = [
            centres.nearest(vectors[at : at + size])
            for at in range(0, len(vectors), size)
        ]
        assert (np.concatenate(parts) == whole).all()
    assert (whole.reshape(30, 50) == whole[:50]).all()


def test_one_batch_is_a_step_of_lloyds_algorithm():
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(200, 16)).astype(np.float32)
    points = rows[:7].copy()
    labels = np.square(rows[:, None] - points).sum(axis=2).argmin(axis=1)
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(7)])
    weights = draw.uniform(0, 99, size=7)  # All of it is forgotten.
    kmeans.step(rows, points, weights, len(rows))
    np.testing.assert_allclose(points, means, atol=1e-6)
    assert (weights == np.bincount(labels)).all()


def test_a_centre_is_the_mean_of_what_it_took_in_a_pass():
    draw = np.random.default_rng(6)
    rows = draw.normal(size=(4000, 4)).astype(np.float32)
    points, weights = np.zeros((1, 4), np.float32), np.zeros(1)
    for at in range(0, 4000, 100):
        kmeans.step(rows[at : at + 100], points, weights, 10**9)
    np.testing.assert_allclose(points[0], rows.mean(axis=0), atol=1e-5)
    # Of a stream without an end the last pass is what counts.
    for _ in range(10):
        for at in range(0, 4000, 100):
            kmeans.step(rows[at : at + 100] + 5, points, weights, 4000)
    np.testing.assert_allclose(points[0], rows.mean(axis=0) + 5, atol=0.05)


def test_it_is_as_close_as_scikit_learn_in_all_directions():
    from sklearn.cluster import KMeans

    draw = np.random.default_rng(7)
    scale = np.arange(1, 401) ** -0.5
    vectors = draw.normal(size=(60, 400))[draw.integers(60, size=3000)] * scale
    vectors += draw.normal(size=(3000, 400)) * scale
    vectors = vectors.astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    theirs = KMeans(40, n_init=1, random_state=0).fit_predict(unit)
    found = kmeans.fit(vectors, 40, seed=0, passes=20)
    assert found.directions.shape == (400, 192)
    ratio = inertia(vectors, found.nearest(vectors)) / inertia(vectors, theirs)
    assert ratio < 1.02


def test_the_same_seed_gives_the_same_and_another_starts_elsewhere():
    vectors = np.random.default_rng(8).normal(size=(500, 20)).astype(np.float16)
    first, again, other = (kmeans.fit(vectors, 9, seed) for seed in (1, 1, 2))
    assert (first.points == again.points).all()
    assert not (first.points == other.points).all()


@pytest.mark.parametrize("rows", [60, 250])
def test_few_vectors_of_large_width_keep_their_distances(rows):
    vectors = np.random.default_rng(2).normal(size=(rows, 400)).astype(np.float32)
    vectors[:, 100:] = 0
    directions = kmeans.main_directions(vectors, np.random.default_rng(0))
    np.testing.assert_allclose(
        directions.T @ directions, np.eye(directions.shape[1]), atol=1e-5
    )
    along = kmeans.project(vectors, directions)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(along @ along.T, unit @ unit.T, atol=1e-5)


def test_equal_vectors_are_one_cluster():
    vectors = np.ones((50, 200), np.float32)
    assert len(set(kmeans.fit(vectors, 3, seed=0).nearest(vectors).tolist())) == 1


def test_more_clusters_than_vectors_are_refused():
    vectors = np.ones((3, 4), np.float32)
    for clusters in (0, 4):
        with pytest.raises(ValueError, match=f"clusters={clusters}, vectors=3"):
            kmeans.fit(vectors, clusters, seed=0)
