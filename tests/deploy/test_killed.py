"""One machine, killed at any moment: what was paid for is not paid for again."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import REPOSITORY, calls

pytestmark = pytest.mark.cluster
BATCH = 8
SEED = 20261127
# `xinst run` with an engine that notes what it is asked, and takes its time.
PROGRAM = """
import sys, time
from beam_pipelines import cli
from beam_pipelines.generate import EngineHandler
from tests.conftest import FakeEngine

class Slow(FakeEngine):
    def generate(self, prompts, sampling, ids):
        for answer in super().generate(prompts, sampling, ids):
            time.sleep(0.03)
            yield answer

EngineHandler.open_model = lambda self: Slow()
EngineHandler.share_model_across_processes = lambda self: False
sys.exit(cli.main(sys.argv[1:]))
"""
RECIPE = """
name = "killed"
languages = ["fi", "id", "th", "tr", "vi", "bn", "hi", "sw", "ta", "ur"]
[source]
warc = ["{folder}/crawl/*.warc.gz"]
[generator]
checkpoint = "{folder}/generator"
[evaluator]
checkpoint = "{folder}/evaluator"
"""


def test_each_kill_costs_no_more_than_the_work_in_flight(tmp_path):
    crawl = [sys.executable, "examples/make_crawl.py", str(tmp_path / "crawl")]
    subprocess.run(crawl, cwd=REPOSITORY, check=True)
    for model in ("generator", "evaluator"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text("{}")
    recipe, log = tmp_path / "recipe.toml", tmp_path / "engine.log"
    recipe.write_text(RECIPE.format(folder=tmp_path))

    def start(store: str) -> subprocess.Popen:
        arguments = ["run", str(recipe), "--store", str(tmp_path / store)]
        options = ["--until=candidates", f"--engine_batch_size={BATCH}"]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments, *options],
            cwd=REPOSITORY,
            env=os.environ | {"FAKE_ENGINE_LOG": str(log)},
            stdout=subprocess.DEVNULL,
        )

    def committed(store: str) -> int:
        return sum(1 for _ in (tmp_path / store / "candidates").rglob("*.parquet"))

    assert start("whole").wait() == 0
    unique, parts = calls(log)["generate"], committed("whole")
    assert parts > 12
    log.unlink()
    chance = random.Random(SEED)
    for number in range(3):
        process = start("killed")
        wanted = parts * chance.uniform(number + 0.3, number + 0.9) / 3
        while committed("killed") < wanted:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        largest = max(n for _, n in map(json.loads, log.read_text().splitlines()))
        # One process, one batch at a time: what was not committed is the last one.
        repeated = calls(log)["generate"] - rows(tmp_path / "killed")
        assert repeated <= (number + 1) * largest
    assert start("killed").wait() == 0
    assert calls(log)["generate"] - unique <= 3 * largest
    assert rows(tmp_path / "killed") == unique
    assert not list((tmp_path / "killed").rglob("*.parquet.*.tmp"))


def rows(store) -> int:
    """Candidates that a store holds."""
    import pyarrow.parquet as pq

    files = (store / "candidates").rglob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)
