"""On a real Flink cluster of two TaskManagers: one content, whatever is killed.

`make test-cluster` runs it. The cluster is slow to start and is shared by all tests.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, example

HOME = Path(os.environ.get("FLINK", REPOSITORY / ".flink"))
PRISM = os.environ.get("PRISM") or shutil.which("prism")
XINST = [str(Path(sys.executable).with_name("xinst"))]
# Small batches: there must be something left to do when a fifth is done.
BATCHES = "engine_batch_size=8"
LOCAL = ("runner=FnApiRunner", BATCHES)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not shutil.which("java"), reason="there is no Java"),
]


class World:
    """One crawl, one pair of small models, and a recipe that takes both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run([sys.executable, "examples/make_crawl.py", str(folder / "crawl")])
        self.recipe = self.write_recipe("recipe.toml")
        run([*XINST, "train", "generator", str(self.recipe)])
        run([*XINST, "train", "evaluator", str(self.recipe)])

    def write_recipe(self, name: str, **changes: str) -> Path:
        """The demo's, with less training and no rounds of refinement.

        Args:
          name: Of the file.
          changes: What follows `key = `, in place of what the demo has.
        """
        text = (REPOSITORY / "examples" / "demo.toml").read_text()
        text = re.sub(r"\[refine\].*?(?=\n\[)", "", text, flags=re.DOTALL)
        less = {"steps": "60", "candidates": "2", "keep_above": "0.3"} | changes
        for key, value in less.items():
            text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        path = self.folder / name
        path.write_text(text.replace("out/demo", str(self.folder)))
        return path

    def build_command(
        self, out: str, options: Sequence[str], store: str = "", recipe: str = ""
    ) -> list[str]:
        """`tfds build` into a folder of its own."""
        store = store or f"{out}-store"
        config = {
            "name": "cluster",
            "recipe": str(self.folder / (recipe or self.recipe.name)),
            "store": str(self.folder / store),
        }
        return [
            str(Path(sys.executable).with_name("tfds")),
            "build",
            "x_instruction",
            "--imports=tfds_builder.x_instruction",
            f"--config={json.dumps(config)}",
            f"--data_dir={self.folder / out}",
            "--file_format=array_record",
            f"--beam_pipeline_options={','.join(options)}",
        ]

    def build(self, out: str, options: Sequence[str], **others: str) -> str:
        """Builds, and returns the digest of the sorted examples."""
        run(self.build_command(out, options, **others))
        return self.digest(out)

    def digest(self, out: str) -> str:
        """Of a data set's examples, which are whole: no key twice, nothing left."""
        import tensorflow_datasets as tfds

        (folder,) = (self.folder / out / "x_instruction" / "cluster").iterdir()
        assert not folder.name.startswith("incomplete")
        builder = tfds.builder_from_directory(folder)
        found = {}
        for split in builder.info.splits:
            for row in builder.as_data_source(split=split):
                key = row["id"].decode()
                assert key not in found
                found[key] = repr(sorted(row.items()))
        assert len(found) > 100
        return hashlib.sha256(
            "\n".join(map(found.get, sorted(found))).encode()
        ).hexdigest()

    def rows(self, store: str) -> dict[str, collections.Counter[str]]:
        """Candidates and scores of a store, by their content."""
        from beam_pipelines import store as stores
        from beam_pipelines.recipe import load

        found = {}
        mine = stores.Store(str(self.folder / store), load(self.recipe))
        for name, stages in (
            ("candidates", mine.candidates),
            ("scores", [mine.scores]),
        ):
            found[name] = collections.Counter(
                repr((number, sorted(row.items())))
                for number, stage in enumerate(stages)
                for part in stores.read_stage(stage)
                for row in part.rows
            )
        return found

    def parts(self, store: str) -> int:
        """How many parts of candidates there are."""
        return len(list((self.folder / store / "candidates").glob("*/*.parquet")))


def run(command: Sequence[str]) -> None:
    """Runs a command to its good end."""
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert not done.returncode, f"{command}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world) -> str:
    """The digest of what one process builds, which is what everybody builds."""
    return world.build("plain", LOCAL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator:
    module = example("cluster", "deploy/flink")
    with module.Cluster(HOME, tmp_path_factory.mktemp("flink")) as running:
        yield running


def flink(cluster) -> list[str]:
    return [option.removeprefix("--") for option in [*cluster.beam_options, BATCHES]]


def run_command(world, cluster, store: str) -> list[str]:
    options = [f"--{option}" for option in flink(cluster)]
    folder = str(world.folder / store)
    return [*XINST, "run", str(world.recipe), "--store", folder, *options]


# One content.


def test_two_processes_build_the_same(world, undisturbed):
    options = ("direct_running_mode=multi_processing", "direct_num_workers=2")
    assert world.build("two", (*LOCAL, *options)) == undisturbed


def test_other_batches_and_files_in_another_order_build_the_same(world, undisturbed):
    files = sorted((world.folder / "crawl").glob("*.warc.gz"), reverse=True)
    assert len(files) > 1
    world.write_recipe("permuted.toml", warc=json.dumps([str(f) for f in files]))
    options = ("runner=FnApiRunner", "engine_batch_size=100")
    assert world.build("permuted", options, recipe="permuted.toml") == undisturbed


@pytest.mark.skipif(not PRISM, reason="there is no Prism")
def test_prism_builds_the_same(world, undisturbed):
    options = ("runner=PrismRunner", f"prism_location={PRISM}", BATCHES)
    assert world.build("prism", options) == undisturbed


def test_two_task_managers_build_the_same(world, undisturbed, cluster):
    assert world.build("flink", flink(cluster)) == undisturbed
    assert last_job(cluster)["state"] == "FINISHED"


# Killed, and nothing lost.


def last_job(cluster) -> dict:
    jobs = cluster.get("/jobs/overview")["jobs"]
    return max(jobs, key=lambda job: job["start-time"])


def failures(cluster) -> list[str]:
    """What made the last job begin again, as Flink tells."""
    told = cluster.get(f"/jobs/{last_job(cluster)['jid']}/exceptions")
    return [entry["exceptionName"] for entry in told["exceptionHistory"]["entries"]]


@contextlib.contextmanager
def after_a_fifth(world, cluster, command, store, all_parts):
    """Runs a command; the block begins when a fifth of the candidates is committed."""
    log = (world.folder / f"{store}.log").open("w+b")
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
    )
    try:
        cluster.wait_for(
            lambda: world.parts(store) * 5 >= all_parts or process.poll() is not None,
            "a fifth of the candidates",
            300,
        )
        assert process.poll() is None, (world.folder / f"{store}.log").read_text()[
            -5000:
        ]
        assert world.parts(store) * 3 < all_parts * 2, "too late to kill anything"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ends_well(process, world, store) -> None:
    assert process.wait(timeout=400) == 0, (world.folder / f"{store}.log").read_text()[
        -6000:
    ]


def nothing_is_left_over(world, store) -> None:
    assert not list((world.folder / store).rglob("*.tmp"))


def listener(port: int) -> int:
    """The process that listens on a port of loopback."""
    wanted = f"{port:04X}"
    inodes = {
        fields[9]
        for name in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{name}").read_text().splitlines())
        if fields[1].rpartition(":")[2] == wanted and fields[3] == "0A"
    }
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link).removeprefix("socket:[").removesuffix("]") in inodes:
                return int(link.parts[2])
    raise AssertionError(f"nobody listens on {port}")


def model_host(since: float) -> int:
    """The worker that holds the newest model, where the others find it."""
    import tempfile

    addresses = Path(tempfile.gettempdir()).glob("generator-*.address")
    newest = max(addresses, key=lambda path: path.stat().st_mtime)
    assert newest.stat().st_mtime > since
    return listener(int(newest.read_text().rpartition(":")[2]))


def test_a_killed_task_manager_costs_its_work_in_flight(world, undisturbed, cluster):
    store, parts = "manager-store", world.parts("plain-store")
    command = run_command(world, cluster, store)
    with after_a_fifth(world, cluster, command, store, parts) as process:
        cluster.taskmanagers[0].kill()
        cluster.start_taskmanager(0)
        ends_well(process, world, store)
    assert last_job(cluster)["state"] == "FINISHED"
    assert failures(cluster)
    assert world.rows(store) == world.rows("plain-store")
    nothing_is_left_over(world, store)


@pytest.mark.parametrize("victim", ["worker", "model"])
def test_a_killed_worker_costs_its_work_in_flight(world, undisturbed, cluster, victim):
    store, parts = f"{victim}-store", world.parts("plain-store")
    started = time.time()
    command = run_command(world, cluster, store)
    with after_a_fifth(world, cluster, command, store, parts) as process:
        host = model_host(started)
        # Workers of earlier jobs may still be about.
        mine = {
            p for p in cluster.workers() if Path(f"/proc/{p}").stat().st_ctime > started
        }
        assert len(mine) == 2
        assert host in mine
        os.kill(host if victim == "model" else (mine - {host}).pop(), signal.SIGKILL)
        ends_well(process, world, store)
    assert last_job(cluster)["state"] == "FINISHED"
    assert failures(cluster)
    expected = world.rows("plain-store")
    assert world.rows(store) == expected
    assert max(expected["candidates"].values()) == 1
    nothing_is_left_over(world, store)


def test_a_killed_submitter_is_run_again(world, undisturbed, cluster):
    store, parts = "again-store", world.parts("plain-store")
    command = world.build_command("again", flink(cluster))
    with after_a_fifth(world, cluster, command, store, parts) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = world.parts(store)
    # Nobody waits for the first job any more, so it is cancelled, as a person would.
    job = last_job(cluster)["jid"]
    cancel = urllib.request.Request(f"{cluster.url}/jobs/{job}", method="PATCH")
    urllib.request.urlopen(cancel, timeout=10).close()
    cluster.wait_for(
        lambda: cluster.get(f"/jobs/{job}")["state"] in ("CANCELED", "FINISHED"),
        "the first job's end",
        60,
    )
    assert done < parts
    assert world.build("again", flink(cluster)) == undisturbed
    nothing_is_left_over(world, store)
