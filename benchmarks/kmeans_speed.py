"""k-means against scikit-learn's MiniBatchKMeans: time of a step, inertia, memory.

    python benchmarks/kmeans_speed.py                                   # a minute
    python benchmarks/kmeans_speed.py --vectors 1000000 --clusters 4000 --passes 2

Vectors are invented as text embeddings are: twice as many topics as clusters, of which
some are much larger than others, and the variance of the i-th direction, of topics and
of what surrounds them alike, falls as 1 / i, or as --decay says. They lie in a float16
file. Both start from the same vectors and see the same batches in the same order;
inertia is that of all vectors, in all directions, to the means of their clusters.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from xinst_jax import kmeans

SEED = 0
BLOCK = 8192


class Rows:
    """The vectors of a file; what was read does not stay mapped."""

    def __init__(self, path: str, width: int) -> None:
        self._path = path
        self.shape = (Path(path).stat().st_size // (2 * width), width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.array(np.memmap(self._path, np.float16, "r", shape=self.shape)[rows])


def blocks(number: int) -> Iterator[slice]:
    return (slice(at, min(at + BLOCK, number)) for at in range(0, number, BLOCK))


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path: Path, number: int, width: int, clusters: int, decay: float) -> None:
    draw = np.random.default_rng(SEED)
    scale = (np.arange(1, width + 1) ** (-decay / 2)).astype(np.float32)
    topics = draw.standard_normal((2 * clusters, width), np.float32) * scale
    sizes = np.arange(1, 2 * clusters + 1) ** -0.5
    # Turned, so that no direction is an axis.
    turn, _ = np.linalg.qr(draw.standard_normal((width, width), np.float32))
    with path.open("wb") as file:
        for block in blocks(number):
            count = block.stop - block.start
            of = draw.choice(len(topics), count, p=sizes / sizes.sum())
            around = draw.standard_normal((count, width), np.float32) * scale
            file.write(unit((topics[of] + around) @ turn).astype(np.float16).tobytes())


def inertia(vectors: Rows, labels: np.ndarray, clusters: int) -> float:
    sums = np.zeros((clusters, vectors.shape[1]))
    for block in blocks(len(vectors)):
        order = labels[block].argsort(kind="stable")
        found, first = np.unique(labels[block][order], return_index=True)
        sums[found] += np.add.reduceat(unit(vectors[block])[order], first, axis=0)
    sizes = np.maximum(np.bincount(labels, minlength=clusters), 1)
    return len(vectors) - float((np.square(sums).sum(axis=1) / sizes).sum())


def ours(path: str, width: int, clusters: int, passes: int) -> None:
    """In a process of its own, so that its memory is its own."""
    vectors, started = Rows(path, width), time.perf_counter()
    centres = kmeans.fit(vectors, clusters, SEED, passes)
    fitted = time.perf_counter()
    labels = np.concatenate([centres.nearest(vectors[b]) for b in blocks(len(vectors))])
    assigned = time.perf_counter()
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    found = {
        "fit": fitted - started,
        "assign": assigned - fitted,
        "peak_gb": int(peak.split()[1]) / 1e6,
        "inertia": inertia(vectors, labels, clusters),
    }
    print(json.dumps(found))


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(path: str, flags: argparse.Namespace) -> None:
    clusters, passes, size = flags.clusters, flags.passes, kmeans.BATCH_ROWS
    command = [sys.executable, __file__, "--of", path]
    for name in ("width", "clusters", "passes"):
        command += [f"--{name}", str(getattr(flags, name))]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout)

    vectors, draw = Rows(path, flags.width), np.random.default_rng(SEED)
    directions, rows = None, None

    def prepare() -> None:
        nonlocal directions, rows
        directions = kmeans.main_directions(vectors, draw)
        rows = kmeans.project(vectors, directions)

    prepared = seconds(prepare)
    first = kmeans.starts(rows, clusters, draw)
    points, weights = rows[first], np.zeros(clusters)
    theirs = MiniBatchKMeans(
        clusters, init=unit(vectors[first]), n_init=1, batch_size=size
    )
    own, other = [], []
    for _ in range(passes):
        order = draw.permutation(len(vectors))
        for at in range(0, len(order), size):
            batch = order[at : at + size]
            if len(batch) < clusters:
                continue  # scikit-learn refuses so few.
            few, whole = rows[batch], unit(vectors[batch])
            # By turns, since others use the machine too.
            if len(own) < flags.timed:
                own.append(
                    seconds(partial(kmeans.step, few, points, weights, len(rows)))
                )
            other.append(seconds(partial(theirs.partial_fit, whole)))
    other_timed = other[: len(own)]
    labels = np.concatenate(
        [theirs.predict(unit(vectors[b])) for b in blocks(len(vectors))]
    )
    wide = inertia(vectors, labels, clusters)
    share = prepared / len(other)
    print(f"{len(vectors):,} vectors of width {flags.width}, {clusters} clusters")
    print(f"batches of {size}, {passes} passes, {len(own)} steps timed by turns")
    print("| | ours | scikit-learn | ratio |\n| --- | ---: | ---: | ---: |")
    for name, pick in (("best", np.min), ("median", np.median)):
        a, b = pick(own), pick(other_timed)
        print(f"| seconds a step, {name} | {a:.3f} | {b:.3f} | {b / a:.1f} |")
    a, b = np.median(own) + share, np.median(other_timed)
    print(f"| with a share of the directions | {a:.3f} | {b:.3f} | {b / a:.1f} |")
    near = found["inertia"]
    print(f"| inertia | {near:.0f} | {wide:.0f} | {near / wide:.4f} |")
    print(
        f"Ours: fitted in {found['fit']:.0f} s, all told their clusters in "
        f"{found['assign']:.0f} s, peak {found['peak_gb']:.2f} GB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--decay", type=float, default=1.0)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--timed", type=int, default=40, help="steps")
    parser.add_argument("--of", help="a file of vectors, to cluster and no more")
    flags = parser.parse_args()
    if flags.of:
        ours(flags.of, flags.width, flags.clusters, flags.passes)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors"
        write(path, flags.vectors, flags.width, flags.clusters, flags.decay)
        compare(str(path), flags)


if __name__ == "__main__":
    main()
