"""A source that grows is read once, and its store is that of a run over all of it."""

import dataclasses
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from warcio.warcwriter import WARCWriter

from beam_pipelines import cli, crawl, follow, funnel, ingest, store
from beam_pipelines import pipeline as pipelines
from beam_pipelines import recipe as recipes
from beam_pipelines.schema import LANGUAGES
from tests.conftest import REPOSITORY, calls, make_crawl

PRISM = os.environ.get("PRISM") or shutil.which("prism")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four files; each repeats a text of its own, and one of the file before it."""
    pages = [page for page in make_crawl().read_pages() if "fault" not in page]
    folder = tmp_path_factory.mktemp("crawl")
    for number in range(4):
        mine = pages[6 * number : 6 * number + 6]
        again = pages[max(0, 6 * number - 6) : 6 * number + 1 : 6]
        mirrors = [page | {"domain": f"{number}.{page['domain']}"} for page in again]
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        for page in (*mine, *mirrors):
            make_crawl().write_triple(writer, page)
        (folder / f"{number}.warc.gz").write_bytes(buffer.getvalue())
    return sorted(folder.iterdir())


@pytest.fixture
def recipe(tmp_path: Path) -> recipes.Recipe:
    for name in ("generator", "evaluator", "crawl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return recipes.Recipe(
        name="test",
        languages=tuple(LANGUAGES),
        source=recipes.Source(warc=("*.warc.gz",), base=str(tmp_path / "crawl")),
        generator=recipes.Generator(checkpoint=str(tmp_path / "generator")),
        evaluator=recipes.Evaluator(
            checkpoint=str(tmp_path / "evaluator"), evidence=("forward", "backward")
        ),
    )


def appear(recipe: recipes.Recipe, files: Sequence[Path]) -> None:
    for file in files:
        shutil.copy(file, Path(recipe.source.base) / file.name)


def run(
    recipe: recipes.Recipe,
    root: Path,
    until: str = "candidates",
    looks: follow.Looks | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> store.Store:
    """Follows for some looks, or runs once; what happens meanwhile does so in time."""
    of_recipe = store.Store(str(root), recipe)
    of_recipe.open()
    thread = threading.Thread(target=meanwhile) if meanwhile else None
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        path = pipelines.Path(pipeline, recipe, of_recipe, until=until, looks=looks)
        _ = getattr(path, until)
        if thread:
            thread.start()
    if thread:
        thread.join()
    return of_recipe


def rows(stage: store.Stage) -> dict[str, dict]:
    """What a stage's parts hold by key; none may hold it twice."""
    found = [row for part in store.read_stage(stage) for row in part.rows]
    keys = [row.get("key") or row["id"] for row in found]
    assert len(set(keys)) == len(keys), "made twice"
    return dict(zip(keys, found, strict=True))


def parts(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}


def wait_for_a_snapshot(root: Path) -> None:
    while not list(root.glob("snapshots/*.json")):
        time.sleep(0.01)


FEW = follow.Looks(every=0.5, lasts=2.9)


# Which files are named, and when.


def test_a_file_is_named_once_and_not_before_its_size_has_stayed():
    seen = follow.Seen()
    assert seen.ready([("a", 10)], 0.0, 5) == []
    assert seen.ready([("a", 20), ("b", 1)], 6.0, 5) == []
    assert seen.ready([("a", 20), ("b", 1)], 10.0, 5) == []
    assert seen.ready([("a", 20), ("b", 1)], 11.0, 5) == [("a", 20), ("b", 1)]
    assert seen.ready([("a", 20), ("b", 1)], 99.0, 5) == []


def test_what_a_crawl_lists_is_named_at_once():
    assert follow.Seen().ready([("a", None)], 0.0, 5) == [("a", None)]


def test_a_month_of_cc_news_is_read_as_its_list_grows(tmp_path):
    source = recipes.Source(crawl="CC-NEWS/2026/11", base=str(tmp_path))
    paths = [f"crawl-data/CC-NEWS/2026/11/{name}.warc.gz" for name in "abc"]
    month, seen = tmp_path / "crawl-data" / "CC-NEWS" / "2026" / "11", follow.Seen()
    month.mkdir(parents=True)
    for number in (1, 3):
        listed = "\n".join(paths[:number]).encode()
        (month / "warc.paths.gz").write_bytes(gzip.compress(listed))
        ready = seen.ready(crawl.source_files(source, grows=True), 0.0, 60)
        assert [path for path, _ in ready] == paths[number // 2 : number]


def test_a_file_that_went_and_came_back_waits_anew():
    seen = follow.Seen()
    seen.ready([("a", 10)], 0.0, 5)
    seen.ready([], 1.0, 5)
    assert seen.ready([("a", 10)], 6.0, 5) == []


def test_a_look_that_is_taken_again_names_the_same_and_loses_nothing():
    """A runner throws away what a failed look remembered, and what it gave."""
    kept = follow.Seen.from_json(None)
    kept.ready([("a", 10), ("b", None)], 0.0, 5)
    text = kept.to_json()
    files = [("a", 10), ("b", None), ("c", None)]
    first = follow.Seen.from_json(text).ready(files, 9.0, 5)
    again = follow.Seen.from_json(text)
    assert again.ready(files, 9.0, 5) == first == [("a", 10), ("c", None)]
    assert follow.Seen.from_json(again.to_json()) == again


def test_looks_and_sources_that_cannot_be_are_refused(recipe, tmp_path, capsys):
    with pytest.raises(ValueError, match="--every is 0; it must be above 0"):
        follow.Looks(every=0)
    with pytest.raises(ValueError, match="--for is -1"):
        follow.Looks(every=1, lasts=-1)
    source = recipes.Source(crawl="CC-MAIN-2026-04", max_files=3)
    fixed = dataclasses.replace(recipe, source=source)
    with pytest.raises(ValueError, match="a crawl that is complete"):
        run(fixed, tmp_path / "store", looks=FEW)


def test_a_runner_that_would_never_come_to_anything_is_refused(tmp_path, capsys):
    demo = str(REPOSITORY / "examples" / "demo.toml")
    assert cli.main(["follow", demo, "--store", str(tmp_path / "store")]) == 1
    assert not (tmp_path / "store").exists()
    assert "Say --for SECONDS" in capsys.readouterr().err


# The whole path.


def test_files_that_come_are_read_once_and_the_store_is_that_of_one_run(
    recipe, written, tmp_path, fake_engine
):
    appear(recipe, written[:1])

    def grow() -> None:
        wait_for_a_snapshot(tmp_path / "store")
        appear(recipe, written[1:])

    followed = run(recipe, tmp_path / "store", "scores", FEW, grow)
    made = calls(fake_engine)
    once = run(recipe, tmp_path / "other", "scores")
    names = store.part_names(followed.documents)
    read = [name.partition("-")[0] for name in names]
    assert sorted(read) == sorted(ingest.path_key(file.name) for file in written)
    snapshots = [json.loads(p.read_text()) for p in tmp_path.glob("store/snapshots/*")]
    assert len([s for s in snapshots if s["files"]]) >= 2
    assert rows(followed.documents) == rows(once.documents)
    # Of duplicates in two windows both stay; a later run over all chooses among them.
    of_one, of_both = rows(once.candidates[0]), rows(followed.candidates[0])
    assert of_one.items() <= of_both.items()
    assert made["generate"] == len(of_both)


def test_a_second_follow_repeats_nothing_and_takes_what_came_meanwhile(
    recipe, written, tmp_path, fake_engine
):
    root, half = tmp_path / "store", len(written) // 2
    appear(recipe, written[:half])
    run(recipe, root, looks=FEW)
    made, there = calls(fake_engine), parts(root)
    run(recipe, root, looks=FEW)
    assert calls(fake_engine) == made
    assert parts(root) == there
    appear(recipe, written[half:])
    of_recipe = run(recipe, root, looks=FEW)
    assert parts(root).items() >= there.items()
    assert calls(fake_engine)["generate"] == len(rows(of_recipe.candidates[0]))
    # What duplicates across windows cost is that some of these are not published.
    before = calls(fake_engine)
    run(recipe, root)
    assert calls(fake_engine) == before


def test_what_a_follow_left_half_is_made_by_the_next_and_nothing_else(
    recipe, written, tmp_path, fake_engine
):
    root = tmp_path / "store"
    appear(recipe, written)
    of_recipe = run(recipe, root, looks=FEW)
    whole = rows(of_recipe.documents), rows(of_recipe.candidates[0])
    made, number = calls(fake_engine), 0
    for stage in (of_recipe.documents, of_recipe.candidates[0]):
        lost = Path(stage.folder) / store.part_names(stage)[0]
        number = len(store.read_part(str(lost)).rows)
        lost.unlink()
    run(recipe, root, looks=FEW)
    assert (rows(of_recipe.documents), rows(of_recipe.candidates[0])) == whole
    assert calls(fake_engine)["generate"] - made["generate"] == number


def test_stored_documents_without_candidates_get_theirs(
    recipe, written, tmp_path, fake_engine
):
    root = tmp_path / "store"
    appear(recipe, written)
    run(recipe, root, "documents", looks=FEW)
    assert not list((root / "candidates").rglob("*.parquet"))
    there = parts(root)
    followed = run(recipe, root, looks=FEW)
    assert parts(root).items() >= there.items()
    once = run(recipe, tmp_path / "other")
    assert rows(followed.candidates[0]) == rows(once.candidates[0])


def test_the_funnel_of_a_followed_store_counts_every_file(
    recipe, written, tmp_path, fake_engine
):
    root, half = tmp_path / "store", len(written) // 2

    def grow() -> None:
        wait_for_a_snapshot(root)
        appear(recipe, written[half:])

    appear(recipe, written[:half])
    run(recipe, root, "candidates", FEW, grow)
    found = funnel.read_funnel(str(root))
    run(recipe, tmp_path / "other", "candidates")
    of_one = funnel.read_funnel(str(tmp_path / "other"))
    assert found.reading.pages == of_one.reading.pages
    assert not found.reading.files_left
    assert found.step("documents") == of_one.step("documents")
    step, candidates = found.step("duplicates"), found.step("candidates")
    # A later run counts across the windows, in the place of what each of them counted.
    assert 0 < step.dropped.total() < of_one.step("duplicates").dropped.total()
    assert step.left.total() == candidates.left.total() + candidates.dropped.total()
    assert not candidates.waiting
    run(recipe, root, "candidates")
    assert funnel.read_funnel(str(root)).step("duplicates") == of_one.step("duplicates")


def test_a_source_that_cannot_be_listed_just_now_is_asked_again(
    recipe, written, tmp_path, fake_engine, monkeypatch
):
    appear(recipe, written)
    asked = []

    def listed(source: recipes.Source, *, grows: bool) -> list:
        asked.append(source)
        if len(asked) == 1:
            raise OSError("the server is away")
        return [(file.name, file.stat().st_size) for file in written]

    monkeypatch.setattr(follow, "source_files", listed)
    of_recipe = run(recipe, tmp_path / "store", "documents", looks=FEW)
    assert len(store.part_names(of_recipe.documents)) == len(written)


# With a runner that streams, and a process that is killed.

FOLLOW = """
import sys
from beam_pipelines import cli
from beam_pipelines.generate import EngineHandler
from tests.conftest import FakeEngine

EngineHandler.open_model = lambda self: FakeEngine()
EngineHandler.share_model_across_processes = lambda self: False
sys.exit(cli.main(sys.argv[1:]))
"""


def start_follow(folder: Path, *flags: str) -> subprocess.Popen:
    """As a person would, in a process with an engine that answers at once."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            FOLLOW,
            "follow",
            str(folder / "recipe.toml"),
            f"--store={folder / 'store'}",
            "--until=candidates",
            "--every=2",
            "--runner=PrismRunner",
            f"--prism_location={PRISM}",
            "--engine_batch_size=4",
            *flags,
        ],
        cwd=REPOSITORY,
        env=os.environ | {"FAKE_ENGINE_LOG": str(folder / "engine.log")},
        start_new_session=True,
    )


def wait_until(holds: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.05)


@pytest.mark.cluster
@pytest.mark.skipif(not PRISM, reason="there is no prism on the path, nor in PRISM")
def test_a_follow_that_is_killed_and_started_again_loses_and_repeats_nothing(
    recipe, written, tmp_path, fake_engine
):
    (tmp_path / "recipe.toml").write_text(
        'name = "test"\n'
        f"languages = {json.dumps(recipe.languages)}\n"
        f'[source]\nwarc = ["*.warc.gz"]\nbase = "{recipe.source.base}"\n'
        f'[generator]\ncheckpoint = "{recipe.generator.checkpoint}"\n'
        f'[evaluator]\ncheckpoint = "{recipe.evaluator.checkpoint}"\n'
    )
    followed = store.Store(str(tmp_path / "store"), recipe)

    documents, (candidates,) = followed.documents, followed.candidates

    def num_read() -> int:
        # Prism cuts files while they are read.
        return len(ingest.by_path(store.part_names(documents)))

    process = start_follow(tmp_path)
    try:
        appear(recipe, written[:2])
        # While it goes on, what the first window made is in the store.
        wait_until(lambda: bool(store.part_names(candidates)), process)
        appear(recipe, written[2:3])
        wait_until(lambda: num_read() == 3, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    appear(recipe, written[3:])
    there = parts(tmp_path / "store")
    assert start_follow(tmp_path, "--for=9").wait() == 0
    assert parts(tmp_path / "store").items() >= there.items()
    assert num_read() == 4
    made, asked = rows(candidates), calls(fake_engine)["generate"]
    once = rows(run(recipe, tmp_path / "other").candidates[0])
    assert once.items() <= made.items()
    # At most what was being written when it was killed was asked for twice.
    assert len(made) <= asked <= len(made) + 4
