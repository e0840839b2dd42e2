"""Versions of one data set, each up to a day, from a store that goes on growing."""

import hashlib
import io
import json
from pathlib import Path

import apache_beam as beam
import pytest
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from warcio.warcwriter import WARCWriter

from beam_pipelines import pipeline as pipelines
from beam_pipelines import recipe as recipes
from beam_pipelines.store import Store, StoreError
from tests.conftest import calls, make_crawl
from tfds_builder.x_instruction import x_instruction_dataset_builder as builders

RECIPE = """
name = "news"
languages = ["bn", "fi", "hi", "sw"]
[source]
warc = ["*.warc.gz"]
base = "{folder}/crawl"
[generator]
checkpoint = "{folder}/generator"
[evaluator]
checkpoint = "{folder}/evaluator"
evidence = ["forward", "backward"]
keep_above = 0.0
[diversify]
validation = 0.2
test = 0.2
"""
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")


@pytest.fixture
def folder(tmp_path: Path, fake_engine: Path) -> Path:
    """A recipe, its checkpoints, and a crawl of three days, a file each."""
    for name in ("generator", "evaluator", "crawl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


def crawl(folder: Path, *days: int) -> None:
    """The files of some days, and what comes of them up to the scores, in the store."""
    pages = [page for page in make_crawl().read_pages() if "fault" not in page]
    for number in days:
        buffer, date = io.BytesIO(), {"date": f"{DAYS[number]}T23:59:59Z"}
        writer = WARCWriter(buffer, gzip=True)
        for page in pages[number:75:3]:
            make_crawl().write_triple(writer, page | date)
        (folder / "crawl" / f"{number}.warc.gz").write_bytes(buffer.getvalue())
    recipe = recipes.load(folder / "recipe.toml")
    store = Store(str(folder / "store"), recipe)
    store.open()
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = pipelines.Path(pipeline, recipe, store, until="scores").scores


def build(folder: Path, day: str, data_dir: str = "data") -> Path:
    config = builders.XInstructionConfig(
        name="news",
        recipe=str(folder / "recipe.toml"),
        store=str(folder / "store"),
        until=day,
    )
    builder = builders.Builder(
        config=config, data_dir=folder / data_dir, file_format="array_record"
    )
    builder.download_and_prepare()
    return Path(builder.data_dir)


def files(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def content(folder: Path) -> dict[str, dict]:
    splits = tfds.builder_from_directory(folder).as_data_source()
    rows = [row for source in splits.values() for row in source]
    return {row["id"].decode(): {k: str(v) for k, v in row.items()} for row in rows}


def test_a_version_a_day_and_none_changes_when_the_store_grows(folder, fake_engine):
    crawl(folder, 0)
    first = build(folder, DAYS[0])
    assert first == folder / "data" / "x_instruction" / "news" / "0.3.20261101"
    before, examples = files(first), content(first)
    assert {row["date"][2:12] for row in examples.values()} == {DAYS[0]}

    crawl(folder, 1, 2)
    made = calls(fake_engine)
    # What the source has by now is not asked: it may be gone.
    for file in (folder / "crawl").iterdir():
        file.unlink()
    killed = first.parent / "incomplete.ABCDEF_0.3.20261102"
    other = first.parent / "incomplete.ABCDEF_0.3.20261105"
    for left in (killed, other):
        left.mkdir()
        (left / "half.array_record").write_text("half")
    second = build(folder, DAYS[1])
    assert not killed.exists()
    assert other.exists()
    assert files(first) == before
    later = content(second)
    assert {row["date"][2:12] for row in later.values()} == set(DAYS[:2])
    # The same day again, from the store that has more by now.
    again = build(folder, DAYS[0], "elsewhere")
    assert content(again) == examples
    assert json.loads((again / "dataset_info.json").read_text()) == json.loads(
        (first / "dataset_info.json").read_text()
    )
    assert calls(fake_engine) == made

    for version, wanted in (("0.3.20261101", examples), ("0.3.20261102", later)):
        name = f"x_instruction/news:{version}"
        source = tfds.builder(name, data_dir=folder / "data").as_data_source()
        assert sum(map(len, source.values())) == len(wanted)


def test_a_store_without_such_documents_says_what_to_do(folder):
    with pytest.raises(StoreError, match="no document captured up to 2026-11-01"):
        build(folder, "2026-11-01")
    crawl(folder, 0)
    with pytest.raises(StoreError, match=r"2026-10-31\. Fill it first: `xinst follow"):
        build(folder, "2026-10-31")


@pytest.mark.parametrize("day", ["2026-13-01", "20261101", "2026-W45-1", "today", 3])
def test_what_is_no_day_is_refused(day):
    with pytest.raises(ValueError, match="expected a day such as '2026-11-01'"):
        builders.XInstructionConfig(name="news", until=day)


def test_a_day_decides_its_version():
    config = builders.XInstructionConfig(name="news", until="2026-11-01")
    assert config.version == "0.3.20261101"
    with pytest.raises(ValueError, match=r"is version 0\.3\.20261101"):
        builders.XInstructionConfig(name="news", until="2026-11-01", version="0.3.1")
    assert builders.XInstructionConfig(name="news").version is None
