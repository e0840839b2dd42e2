import os
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from beam_pipelines import recipe as recipes
from beam_pipelines import store
from beam_pipelines.schema import Candidate, Capture, Document, to_row

_READ = """
import os, sys
from beam_pipelines import store
before = len(os.listdir("/proc/self/task"))
store.read_part(sys.argv[1])
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads")
def test_reading_a_part_leaves_no_thread_behind(tmp_path):
    # One that still holds the bytes when Python exits aborts the process.
    stage = store.Stage(str(tmp_path), Capture)
    capture = Capture(warc_file="a", warc_offset=0, warc_length=5, languages=("fin",))
    store.write_part(stage, "part", [to_row(capture)], {})
    command = [sys.executable, "-c", _READ, str(tmp_path / "part.parquet")]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(read.stdout) == 0


def document(number: int) -> Document:
    values = dict.fromkeys(Document.__dataclass_fields__, "")
    values |= {"id": f"id-{number}", "text": f"text {number}", "language": "sw"}
    values |= {"warc_offset": 0, "warc_length": 0, "language_score": 1.0}
    return Document(**values | {"robots": (), "checks": {}})


class Made(beam.PTransform):
    """An instruction for each document, and a line in a log for each batch."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = str(log)

    def expand(self, batches):
        return batches | beam.Map(self.make, self.log)

    @staticmethod
    def make(batch: list[Document], log: str) -> list[Candidate]:
        with open(log, "a") as file:
            file.write(" ".join(each.id for each in batch) + "\n")
        return [
            Candidate(
                document=each,
                instruction=f"About {each.id}",
                generator="g",
                logprob=-1.0,
                rejected="",
            )
            for each in batch
        ]


def resumed(folder: Path, documents: list[Document], parts: list[str]) -> list[str]:
    """Runs a stage whose snapshot names some parts; the batches that were made."""
    stage = store.Stage(str(folder / "stage"), Candidate)
    snapshot = str(folder / "snapshot.json")
    store.write_json(snapshot, {"parts": {stage.folder: parts}})
    log = folder / "log"
    log.write_text("")
    with beam.Pipeline("FnApiRunner") as pipeline:
        inputs = pipeline | "Documents" >> beam.Create(documents)
        snapshots = pipeline | "Snapshots" >> beam.Create([snapshot])
        made = (inputs, snapshots) | store.Resume(stage, Made(log), "document", 10)
        expected = [(each, f"About {each.id}") for each in documents]
        found = made | beam.Map(lambda c: (c.document, c.instruction))
        assert_that(found, equal_to(expected))
    return sorted(log.read_text().splitlines())


def test_a_step_that_is_tried_again_reads_what_its_first_try_committed(tmp_path):
    documents = [document(number) for number in range(95)]
    batches = resumed(tmp_path, documents, [])
    assert sum(len(batch.split()) for batch in batches) == 95
    assert 5 < len(batches) <= 10
    # The same snapshot again is what a runner's second try has, in any order.
    assert not resumed(tmp_path, documents[::-1], [])
    lost = sorted((tmp_path / "stage").glob("*.parquet"))[:3]
    for part in lost:
        part.unlink()
    again = resumed(tmp_path, documents, [])
    assert len(again) == 3
    assert set(again) <= set(batches)


def test_what_the_snapshot_names_is_not_made_and_makes_no_other_batches(tmp_path):
    documents = [document(number) for number in range(95)]
    resumed(tmp_path, documents[:40], [])
    parts = [path.name for path in (tmp_path / "stage").glob("*.parquet")]
    batches = resumed(tmp_path, documents, parts)
    made = {key for batch in batches for key in batch.split()}
    assert made == {each.id for each in documents[40:]}


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path):
    recipe = recipes.Recipe(
        name="r",
        languages=("sw",),
        source=recipes.Source(warc=("*.warc.gz",)),
        generator=recipes.Generator(checkpoint="g"),
        evaluator=recipes.Evaluator(checkpoint="e"),
    )
    mine = store.Store(str(tmp_path), recipe)
    folder = tmp_path / "candidates" / "abc"
    folder.mkdir(parents=True)
    old, new, part = (
        folder / name for name in (".a.parquet.1.tmp", ".b.parquet.2.tmp", "a.parquet")
    )
    for path in (old, new, part, tmp_path / ".recipe.json.3.tmp"):
        path.write_text("x")
        os.utime(path, (time.time() - 3600,) * 2)
    os.utime(new)
    mine.tidy()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".b.parquet.2.tmp",
        "a.parquet",
    ]
