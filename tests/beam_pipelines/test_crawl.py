"""What a source offers: patterns, path lists, the columnar index."""

import contextlib
import dataclasses
import gzip
import io
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import boto3
import moto.server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_pipelines import crawl, ingest, store, warc
from beam_pipelines import recipe as recipes
from beam_pipelines.cli import pipeline_options
from beam_pipelines.recipe import Recipe, RecipeError, Source
from beam_pipelines.schema import LANGUAGES, Capture, Document, Page
from tests.conftest import example, make_crawl

NAME = "CC-MAIN-2026-04"


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A crawl of the example pages, laid out and indexed as Common Crawl's are."""
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "crawl-data" / NAME / "segments" / "17.4" / "warc"
    make_crawl().main(folder)
    example("make_index").write(root, NAME)
    return root


def recipe(source: Source, *languages: str) -> Recipe:
    return Recipe(
        name="test",
        languages=languages or tuple(LANGUAGES),
        source=source,
        generator=recipes.Generator(checkpoint="none"),
        evaluator=recipes.Evaluator(checkpoint="none"),
    )


# Path lists.


def write_list(root: Path, name: str, content: bytes) -> Source:
    folder = root / "crawl-data" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return Source(crawl=NAME, base=str(root))


def listed(*paths: str) -> bytes:
    return gzip.compress("".join(f"{path}\n" for path in paths).encode())


def test_a_crawl_offers_the_files_of_its_list_without_asking_for_sizes(tmp_path):
    paths = [f"crawl-data/{NAME}/segments/1/warc/{n}.warc.gz" for n in range(3)]
    source = write_list(tmp_path, "warc.paths.gz", listed(*paths))
    assert crawl.source_files(source) == [(path, None) for path in paths]


def test_more_files_of_a_crawl_are_the_fewer_ones_and_others(tmp_path):
    paths = [f"crawl-data/{n:05}.warc.gz" for n in range(200)]
    source = write_list(tmp_path, "warc.paths.gz", listed(*paths))
    found = [
        {
            path
            for path, _ in crawl.source_files(dataclasses.replace(source, max_files=n))
        }
        for n in (1, 7, 50, 300)
    ]
    assert [len(files) for files in found] == [1, 7, 50, 200]
    assert all(few < many for few, many in itertools.pairwise(found))


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a b", "a\x00b", "é"]
)
def test_a_path_that_leaves_the_root_is_refused(tmp_path, path):
    lines = f"good/1.warc.gz\n{path}\n"
    source = write_list(tmp_path, "warc.paths.gz", listed(*lines.split("\n")))
    if path == "a b":  # Two paths, and neither leaves.
        assert len(crawl.source_files(source)) == 3
        return
    with pytest.raises(ValueError, match="no path below the root"):
        crawl.source_files(source)


def test_a_list_that_is_not_there_or_no_list_is_explained(tmp_path, monkeypatch):
    source = Source(crawl=NAME, base=str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no .*paths.gz. Is 'CC-MAIN"):
        crawl.source_files(source)
    write_list(tmp_path, "warc.paths.gz", b"<html>" * 10)
    with pytest.raises(ValueError, match="is no gzip file"):
        crawl.source_files(source)
    write_list(tmp_path, "warc.paths.gz", gzip.compress(b"a/b.warc.gz\n" * 99)[:-9])
    with pytest.raises(ValueError, match="ends early"):
        crawl.source_files(source)
    monkeypatch.setattr(crawl, "_MAX_LIST_BYTES", 1000)
    write_list(tmp_path, "warc.paths.gz", gzip.compress(b"a/b.warc.gz\n" * 10**5))
    with pytest.raises(ValueError, match=r"more than 1,000 bytes"):
        crawl.source_files(source)


def test_only_index_files_of_good_captures_are_read(tmp_path):
    lines = "".join(
        f"cc-index/table/cc-main/warc/crawl={NAME}/subset={subset}/p.parquet\n"
        for subset in ("crawldiagnostics", "robotstxt", "warc")
    )
    source = write_list(tmp_path, "cc-index-table.paths.gz", listed(*lines.split("\n")))
    (found,) = crawl.index_files(source)
    assert "subset=warc" in found


@pytest.mark.parametrize(
    "settings, rule",
    [
        ({}, "either paths in warc or wet, or a crawl"),
        ({"warc": ("a",), "crawl": NAME}, "either paths in warc or wet, or a crawl"),
        ({"warc": ("a",), "index": True}, "a crawl for index"),
        ({"warc": ("a",), "max_files": 3}, "a crawl for max_files"),
        ({"warc": ("a",), "kind": "wet"}, "a crawl for kind"),
        ({"crawl": NAME, "kind": "arc"}, "kind warc or wet"),
        ({"crawl": NAME, "kind": "wet", "index": True}, "kind warc with index"),
        ({"crawl": NAME, "max_files": -1}, "max_files >= 0"),
        ({"crawl": "../x"}, "crawl to be a name"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(settings, rule):
    with pytest.raises(RecipeError, match=re.escape(rule)):
        Source(**settings)


# The index.


def index_of(rows: list[dict]) -> io.BytesIO:
    """A Parquet file in Common Crawl's schema."""
    schema = example("make_index").SCHEMA
    whole = [dict.fromkeys(schema.names) | row for row in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(whole, schema=schema), buffer, row_group_size=3)
    buffer.seek(0)
    return buffer


def row(offset: int, languages: str | None, **change) -> dict:
    good = {
        "fetch_status": 200,
        "content_mime_detected": "text/html",
        "content_languages": languages,
        "warc_filename": "crawl-data/a.warc.gz",
        "warc_record_offset": offset,
        "warc_record_length": 10,
    }
    return good | change


def test_records_are_chosen_by_any_declared_language_of_ours():
    rows = [
        row(0, "swa"),
        row(10, "eng,swa"),
        row(20, "eng"),
        row(30, None),
        row(40, "swh,eng,fra"),
        row(50, "kin"),
        row(60, "xswa"),
        row(70, "swa", fetch_status=404),
        row(80, "swa", content_mime_detected="application/pdf"),
        row(90, "swa", content_mime_detected=None),
        row(95, "fin", content_mime_detected="application/xhtml+xml"),
    ]
    found = list(crawl.captures_in(index_of(rows), ["sw"]))
    assert [capture.warc_offset for capture in found] == [0, 10, 40]
    assert found[1].languages == ("eng", "swa")
    both = list(crawl.captures_in(index_of(rows), ["sw", "fi"]))
    assert [capture.warc_offset for capture in both] == [0, 10, 40, 95]


def test_malay_is_fetched_for_indonesian_since_detectors_mix_them():
    rows = [row(0, "msa"), row(1, "ind"), row(2, "jav")]
    assert len(list(crawl.captures_in(index_of(rows), ["id"]))) == 2
    assert not list(crawl.captures_in(index_of(rows), ["tr"]))


def test_an_index_without_languages_is_explained():
    table = pa.table({"url": ["a"], "warc_filename": ["b"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    with pytest.raises(ValueError, match=r"no column content_languages.*2018-39"):
        list(crawl.captures_in(buffer, ["sw"]))


def test_an_index_that_names_a_file_outside_the_root_is_refused():
    rows = [row(0, "swa", warc_filename="../secret")]
    with pytest.raises(ValueError, match=r"names a file '\.\./secret'"):
        list(crawl.captures_in(index_of(rows), ["sw"]))


# Runs.


def captures_at_random(rng: random.Random) -> list[Capture]:
    at, found = 0, []
    for _ in range(rng.randrange(60)):
        at += rng.choice([0, 0, 100, 1000, 5000, 200_000])
        length = rng.choice([1, 3000, 30_000, 300_000, 3_000_000])
        found.append(capture(at, length))
        at += length
    return found


def capture(offset: int, length: int) -> Capture:
    return Capture(
        warc_file="a", warc_offset=offset, warc_length=length, languages=("swa",)
    )


def test_runs_hold_every_capture_once_and_little_else():
    joined = 0
    for seed in range(500):
        rng = random.Random(seed)
        wanted = captures_at_random(rng)
        shuffled = rng.sample(wanted, len(wanted)) + rng.sample(
            wanted, len(wanted) // 2
        )
        found = list(crawl.runs(shuffled))
        assert [item for run in found for item in run] == wanted
        num_bytes = sum(item.warc_length for item in wanted)
        spans = [
            run[-1].warc_offset + run[-1].warc_length - run[0].warc_offset
            for run in found
        ]
        assert sum(spans) <= 1.04 * num_bytes
        assert all(span <= 8 << 20 for span in spans)
        joined += len(wanted) - len(found)
    assert joined > 1000


def test_captures_that_overlap_are_fetched_apart():
    wanted = [capture(0, 100), capture(50, 100), capture(50, 20)]
    found = list(crawl.runs(wanted))
    assert all(len(run) == 1 for run in found)
    assert {run[0] for run in found} == set(wanted)


class Counting(io.RawIOBase):
    """A file below its buffer; it knows how much was asked of it."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer) -> int:
        found = self._file.read(len(buffer))
        self.num_bytes += len(buffer)
        buffer[: len(found)] = found
        return len(found)


def test_records_are_fetched_and_nothing_else_and_are_the_pages_of_a_scan(root):
    for path in sorted((root / "crawl-data").rglob("*.warc.gz")):
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        stream = io.BytesIO(content)
        scanned = [
            page
            for page in warc.read_pages(stream, len(content), name, 0, lambda at: True)
            if isinstance(page, Page)
        ]
        wanted = [
            Capture(
                warc_file=page.warc_file,
                warc_offset=page.warc_offset,
                warc_length=page.warc_length,
                languages=page.languages,
            )
            for page in scanned[::2]
        ]
        raw = Counting(content)
        found = list(ingest.fetched(io.BufferedReader(raw, 8 << 20), wanted))
        assert found == scanned[::2]
        assert raw.num_bytes <= 1.05 * sum(item.warc_length for item in wanted)


def test_a_record_that_is_not_where_the_index_says_is_a_flaw():
    content = io.BytesIO(b"no gzip here" * 10)
    wanted = [capture(0, 10), capture(90, 100), capture(0, 1 << 40), capture(5, 0)]
    found = list(ingest.fetched(content, wanted))
    assert len(found) == 4
    assert all(isinstance(item, warc.Flaw) for item in found)


# Both ways, end to end.


def documents(
    settings: Recipe,
    folder: Path,
    expected: list | None = None,
    options: PipelineOptions | None = None,
) -> list:
    """The documents of a source, through the store."""
    FileSystems.set_options(options or PipelineOptions([]))
    kept = store.Store(str(folder), settings)
    source = settings.source
    files = crawl.source_files(source) if source.max_files or not source.index else []
    index = crawl.index_files(source) if source.index else []
    stages = [kept.documents, kept.captures]
    snapshot = store.take_snapshot(kept, stages, files, index)
    pipeline = test_pipeline.TestPipeline(runner=FnApiRunner(), options=options)
    with pipeline:
        found = (
            pipeline | beam.Create([snapshot]) | ingest.ReadDocuments(settings, kept)
        )
        if expected is not None:
            assert_that(found, equal_to(expected))
    assert not store.unread(kept.documents)
    rows = [row for part in store.read_stage(kept.documents) for row in part.rows]
    return [store.from_row(Document, row) for row in rows]


def test_a_scan_and_the_index_give_the_same_documents_where_a_language_is_declared(
    root, tmp_path
):
    source = Source(crawl=NAME, base=str(root))
    scanned = documents(recipe(source, "sw", "ta"), tmp_path / "scan")
    by_index = dataclasses.replace(source, index=True)
    chosen = documents(recipe(by_index, "sw", "ta"), tmp_path / "index")
    declared = set()
    for path in (root / "cc-index").rglob("*.parquet"):
        for item in pq.read_table(path).to_pylist():
            if item["content_languages"]:
                declared.add(item["url"])
    assert {d.id: d for d in chosen} == {d.id: d for d in scanned if d.url in declared}
    assert 5 < len(chosen) < len(scanned)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}
    # Again: from the store alone, the index included.
    documents(recipe(by_index, "sw", "ta"), tmp_path / "index", expected=chosen)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")} == written


def test_the_index_is_read_for_the_chosen_files_only(root, tmp_path):
    source = Source(crawl=NAME, base=str(root), index=True, max_files=1)
    ((path, _),) = crawl.source_files(source)
    found = documents(recipe(source), tmp_path)
    assert found
    assert {document.warc_file for document in found} == {path}


def test_a_file_that_is_gone_is_a_dead_letter_and_no_other_is_lost(root, tmp_path):
    source = Source(crawl=NAME, base=str(root))
    files = [*crawl.source_files(source), ("crawl-data/gone.warc.gz", None)]
    settings = recipe(source)
    kept = store.Store(str(tmp_path), settings)
    snapshot = store.take_snapshot(kept, [kept.documents], files)
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create([snapshot]) | ingest.ReadDocuments(settings, kept)
    (letter,) = store.unread(kept.documents)
    assert letter["file"] == "crawl-data/gone.warc.gz"
    assert "gone.warc.gz" in letter["detail"]
    assert len(store.part_names(kept.documents)) == len(files) - 1
    store.forget_unread(kept.documents)
    assert store.unread(kept.documents) == []


@contextlib.contextmanager
def over_http(root: Path) -> Iterator[tuple[str, list[str]]]:
    with example("index_bytes", "benchmarks").serve(root) as server:
        yield server.address, ["--http_requests_per_second=10000"]


@contextlib.contextmanager
def over_s3(root: Path) -> Iterator[tuple[str, list[str]]]:
    """A bucket on a server that speaks S3, on this machine."""
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        _, port = server.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        key = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", **key
        )
        client.create_bucket(Bucket="commoncrawl")
        for path in root.rglob("*"):
            if path.is_file():
                name = path.relative_to(root).as_posix()
                client.upload_file(str(path), "commoncrawl", name)
        yield (
            "s3://commoncrawl",
            [
                f"--s3_endpoint_url={endpoint}",
                "--s3_region_name=us-east-1",
                "--s3_access_key_id=test",
                "--s3_secret_access_key=test",
            ],
        )
    finally:
        server.stop()


@pytest.mark.parametrize("served", [over_http, over_s3])
def test_a_crawl_far_away_gives_the_documents_of_a_local_one(root, served, tmp_path):
    source = Source(crawl=NAME, base=str(root))
    local = documents(recipe(source, "ur", "fi"), tmp_path / "local")
    assert local
    with served(root) as (base, flags):
        options = pipeline_options(flags)
        there = dataclasses.replace(source, base=base)
        scanned = recipe(there, "ur", "fi")
        documents(scanned, tmp_path / "scan", expected=local, options=options)
        chosen = recipe(dataclasses.replace(there, index=True), "ur", "fi")
        found = documents(chosen, tmp_path / "index", options=options)
    assert found
    assert {item.id for item in found} < {item.id for item in local}
    assert all(item in local for item in found)
