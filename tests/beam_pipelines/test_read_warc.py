"""Every record exactly once, whoever cuts the file, wherever and whenever."""

import dataclasses
import functools
import gzip
import inspect
import io
import itertools
import json
import os
import random
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from warcio.warcwriter import WARCWriter

from beam_pipelines import crawl, ingest, members, store, warc
from beam_pipelines import recipe as recipes
from beam_pipelines.schema import Document, Page
from beam_pipelines.warc import ByteRange, Flaw, ReadWarc
from tests.beam_pipelines.test_members import (
    MAGIC,
    Fetches,
    archive,
    planted_in,
    spoiled,
    stored,
)
from tests.beam_pipelines.test_warc import (
    FILE,
    assert_cuts_deliver,
    assert_same_read,
    flaws_of,
    member,
    metadata,
    pages_of,
    read,
    response,
    signature,
    starts_of,
)
from tests.conftest import REPOSITORY, make_crawl


@dataclasses.dataclass(frozen=True)
class Crawl:
    """A file of pages, each with what the crawl says of it, and where all begins."""

    content: bytes
    starts: list[int]

    @functools.cached_property
    def near(self) -> list[int]:
        return [start + d for start in self.starts for d in (-1, 0, 1)]

    @functools.cached_property
    def planted(self) -> list[int]:
        """Where a page embeds a member."""
        return planted_in(self.content, self.starts)


@functools.cache
def misleading(seed: int) -> Crawl:
    """About 4 MB: archives as pages, large and empty ones, one above the window."""
    rng = random.Random(seed)
    pieces = []
    for number in range(200):
        kind = rng.choice(["page", "page", "page", "archive", "large", "empty"])
        body = {
            "page": lambda: rng.randbytes(rng.randrange(6000)),
            "archive": lambda: rng.choice([archive, spoiled])(rng, rng.randrange(45)),
            "large": lambda: rng.randbytes(rng.randrange(65_000, 100_000)),
            "empty": lambda: b"",
        }[kind]()
        if number == 100:
            body = rng.randbytes(1_200_000)
        page = response(number, body)
        pieces.append(stored(page) if kind == "archive" else member(page, 1))
        pieces.append(member(metadata(number, "swa")))
    return Crawl(b"".join(pieces), starts_of(pieces)[:-1])


def damaged(content: bytes, rng: random.Random, count: int) -> tuple[bytes, list[int]]:
    """The file with `count` bytes changed, none of them in its first three."""
    places = sorted(rng.sample(range(3, len(content)), count))
    broken = bytearray(content)
    for place in places:
        broken[place] ^= rng.randrange(1, 256)
    return bytes(broken), places


# Ranges that are cut before anything is read.


@pytest.mark.parametrize("seed", [0, 1])
def test_any_cuts_of_a_sound_file_deliver_each_record_once(seed):
    rng = random.Random(3 + seed)
    file = misleading(seed)
    whole = read(file.content)
    assert flaws_of(whole) == []
    assert [page.warc_offset for page in whole] == file.starts[::2]
    assert {page.languages for page in whole} == {("swa",)}
    size = len(file.content)
    for cuts in [
        rng.sample(range(size), 8),
        rng.sample(range(size), 200),
        rng.sample(file.near, 150),
        rng.sample(file.planted, 150),
    ]:
        assert_cuts_deliver(file.content, cuts, whole)


TAILS = [b"", b"garbage" * 500, MAGIC * 200, member(b"no record") * 30]


@pytest.mark.parametrize("seed", range(len(TAILS)))
def test_any_cuts_of_a_damaged_file_deliver_what_the_whole_read_does(seed):
    rng = random.Random(100 + seed)
    file = misleading(seed % 2)
    content, places = damaged(file.content, rng, 40)
    content += TAILS[seed]
    whole = read(content)
    assert len(flaws_of(whole)) >= 5
    assert len(pages_of(whole)) >= 50
    near = rng.sample(file.near, 60)
    at_damage = [place + d for place in places for d in (-1, 0, 1)]
    before = [place - rng.randrange(65_536) for place in places]
    for cuts in [rng.sample(range(len(content)), 60), at_damage, before, before + near]:
        assert_cuts_deliver(content, cuts, whole)


def sound_runs(content: bytes, starts: list[int]) -> list[list[int]]:
    """Starts of consecutive members that still inflate, and the end of each run."""
    runs, run = [], []
    for start, stop in zip(starts, [*starts[1:], len(content)], strict=True):
        try:
            gzip.decompress(content[start:stop])
            run.append(start)
        except (OSError, EOFError, zlib.error):
            runs.append([*run, start])
            run = []
    return [*runs, [*run, len(content)]]


def test_damage_costs_no_record_of_a_long_run_and_is_located():
    file = misleading(0)
    content, _ = damaged(file.content, random.Random(9), 40)
    found = read(content)
    delivered = {page.warc_offset for page in pages_of(found)}
    runs = sound_runs(content, file.starts)
    bad = {run[-1] for run in runs} - {len(content)}
    assert len(bad) > 20
    # Its last member is where a chain is left; a run to the end is believed at once.
    long = [run for run in runs if run[-1] - run[0] > 65_535 or run is runs[-1]]
    wanted = {start for run in long for start in run[:-1]} & set(file.starts[::2])
    assert len(wanted) > 50
    assert wanted <= delivered
    assert not bad & delivered
    # Whatever ended a run that was read is reported, where it lies.
    flaws = flaws_of(found)
    assert {run[-1] for run in long[:-1]} <= {offset for offset, _ in flaws} <= bad
    assert {reason for _, reason in flaws} <= {"damaged", "not_gzip", "too_large"}


# Ranges that are cut while they are read.


class Restless(OffsetRestrictionTracker):
    """A range that is cut at random before and after it is claimed from."""

    def __init__(self, whole: OffsetRange, rng: random.Random) -> None:
        super().__init__(whole)
        self.residuals: list[OffsetRange] = []
        self._rng = rng

    def try_claim(self, position: int) -> bool:
        self._cut()
        claimed = super().try_claim(position)
        self._cut()
        return claimed

    def _cut(self) -> None:
        if self._rng.random() < 0.2 and (
            split := self.try_split(self._rng.choice([0, 0.1, 0.5, 0.9]))
        ):
            self.residuals.append(split[1])


@dataclasses.dataclass
class Done:
    """What was read of a file, in order, and in which ranges."""

    items: list[Page | Flaw]
    covered: list[ByteRange]


def read_all(
    path: Path, size: int, tracker_of: Callable[[OffsetRange], OffsetRestrictionTracker]
) -> Done:
    """Reads a file as a runner does: what is cut off is read by another."""
    piece = ByteRange(path=path.name, size=size, start=0, stop=max(size, 1))
    found: list[tuple[ByteRange, list[Page | Flaw]]] = []

    def use(pages: Iterator, covered: Callable[[], ByteRange]) -> Iterator:
        items = list(pages)
        found.append((covered(), items))
        yield from items

    to_do = [OffsetRange(piece.start, piece.stop)]
    while to_do:
        tracker = tracker_of(to_do.pop())
        items = list(ReadWarc(str(path.parent), use).process(piece, tracker))
        assert items == found[-1][1]
        # What Beam asks after each range: is there something left?
        tracker.check_done()
        end = tracker.current_restriction()
        told = dataclasses.replace(piece, start=end.start, stop=end.stop)
        assert found[-1][0] == told
        to_do += getattr(tracker, "residuals", [])
    found.sort(key=lambda done: (done[0].start, done[0].stop))
    return Done([item for _, items in found for item in items], [r for r, _ in found])


def assert_tiled(ranges: list[ByteRange], size: int) -> None:
    edges = [0, *(piece.stop for piece in ranges)]
    assert [piece.start for piece in ranges] == edges[:-1]
    assert edges[-1] == max(size, 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_sound", [True, False], ids=["sound", "damaged"])
def test_random_splits_while_reading_deliver_each_record_once(tmp_path, seed, is_sound):
    rng = random.Random(seed)
    content = misleading(seed % 2).content
    if not is_sound:
        content = damaged(content, rng, 40)[0] + TAILS[seed]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    done = read_all(path, len(content), lambda whole: Restless(whole, rng))
    assert len(done.covered) > (100 if is_sound else 50)
    assert_tiled(done.covered, len(content))
    whole = read(content)
    assert len(pages_of(whole)) >= 50
    assert_same_read(done.items, whole)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 0.9])
def test_a_range_that_is_cut_at_every_record_delivers_each_once(tmp_path, fraction):
    class Cut(Restless):
        def _cut(self) -> None:
            # Never before the first claim: nobody would get on.
            last = self._last_claim_attempt
            if last is not None and (split := self.try_split(fraction)):
                self.residuals.append(split[1])

    rng = random.Random(7)
    pieces = []
    for number in range(12):
        pieces += [stored(response(number, archive(rng, 2)))]
        pieces += [member(metadata(number, "swa"))]
    content = b"".join(pieces)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    done = read_all(path, len(content), lambda whole: Cut(whole, rng))
    assert len(done.covered) >= 24
    assert_tiled(done.covered, len(content))
    assert_same_read(done.items, read(content))


UNSPLITTABLE = {
    "plain": b"".join(response(n) for n in range(40)),
    "one member": member(b"".join(response(n) for n in range(40))),
    "empty": b"",
    "garbage": random.Random(0).randbytes(9000),
    "garbage like gzip": MAGIC + random.Random(0).randbytes(9000),
    "cut off": member(response(0, random.Random(0).randbytes(9000)))[:-5],
    "members without records": member(b"text") * 40,
    "a short chain": bytes(3000) + member(response(0)) * 9 + bytes(3000),
}


@pytest.mark.parametrize("name", UNSPLITTABLE)
def test_a_file_that_cannot_be_split_is_read_once_and_all_of_it_is_done(tmp_path, name):
    content = UNSPLITTABLE[name]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    whole = read(content)
    for seed in range(20):
        rng = random.Random(seed)
        done = read_all(path, len(content), lambda w, rng=rng: Restless(w, rng))
        assert_tiled(done.covered, len(content))
        assert_same_read(done.items, whole)
    if name in ("plain", "one member"):
        assert len(pages_of(whole)) == 40
        # All of them come from the range that has the first byte.
        for start in (1, len(content) // 2, len(content) - 1):
            piece = OffsetRange(start, len(content))
            tracker = OffsetRestrictionTracker(piece)
            whole_file = ByteRange(
                path=path.name, size=len(content), start=0, stop=len(content)
            )
            assert list(ReadWarc(str(tmp_path)).process(whole_file, tracker)) == []
            tracker.check_done()


def test_a_range_past_the_last_record_is_empty_and_done(tmp_path):
    last = member(response(1, random.Random(0).randbytes(9000)))
    content = member(response(0)) + last
    path = tmp_path / "a.warc.gz"
    path.write_bytes(content)
    piece = ByteRange(
        path="a.warc.gz",
        size=len(content),
        start=len(content) - len(last) + 1,
        stop=len(content),
    )
    tracker = OffsetRestrictionTracker(OffsetRange(piece.start, piece.stop))
    assert list(ReadWarc(str(tmp_path)).process(piece, tracker)) == []
    tracker.check_done()


def test_a_file_that_is_gone_is_an_error_and_not_an_empty_range(tmp_path):
    piece = ByteRange(path="none.warc.gz", size=9, start=0, stop=9)
    tracker = OffsetRestrictionTracker(OffsetRange(0, 9))
    with pytest.raises(OSError, match=r"none\.warc\.gz"):
        list(ReadWarc(str(tmp_path)).process(piece, tracker))


# Size and progress.


def provider() -> beam.RestrictionProvider:
    """What Beam asks about a range: it stands in the signature."""
    parameter = inspect.signature(ReadWarc.process).parameters["tracker"]
    return parameter.default.restriction_provider


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 1000), (7, 1000), (0, 999)])
def test_initial_splits_tile_a_range_and_their_sizes_are_its_size(
    monkeypatch, start, stop
):
    monkeypatch.setattr(warc, "SPLIT_BYTES", 100)
    piece = ByteRange(path="a", size=1000, start=start, stop=stop)
    whole = provider().initial_restriction(piece)
    assert (whole.start, whole.stop) == (start, stop)
    splits = list(provider().split(piece, whole))
    assert [s.start for s in splits] == [start, *(s.stop for s in splits[:-1])]
    assert splits[-1].stop == stop
    assert len(splits) == -(-(stop - start) // 100)
    sizes = [provider().restriction_size(piece, s) for s in splits]
    assert sum(sizes) == stop - start
    assert max(sizes) <= 100


def test_progress_is_the_place_of_the_last_record_in_the_range(tmp_path):
    file = misleading(0)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(file.content)
    start, stop = 1_000_000, 3_000_000
    piece = ByteRange(path=path.name, size=len(file.content), start=start, stop=stop)
    tracker = provider().create_tracker(OffsetRange(start, stop))
    seen = []
    for page in ReadWarc(str(tmp_path)).process(piece, tracker):
        fraction = tracker.current_progress().fraction_completed
        seen.append((page.warc_offset, start + fraction * (stop - start)))
    assert len(seen) > 20
    places = [place for _, place in seen]
    assert places == sorted(places)
    for offset, place in seen[:-1]:
        # A page goes out after its metadata record.
        at = file.starts.index(offset)
        assert file.starts[at + 1] == pytest.approx(place)


# Bytes from far away.


@pytest.mark.parametrize("buffer_bytes", [8192, 8 << 20])
def test_a_buffered_file_is_read_the_same_wherever_it_stands(tmp_path, buffer_bytes):
    file = misleading(1)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(file.content)
    size = len(file.content)
    late = file.starts[-9] - 5
    for start, stop in [(0, size), (size // 3, 2 * size // 3), (late, size)]:
        expected = read(file.content, start, stop)
        assert len(expected) > 3
        for position in (0, 5, start, size):
            stream = io.BufferedReader(io.FileIO(path), buffer_bytes)
            stream.seek(position)
            stream.read(100)
            found = warc.read_pages(stream, size, FILE, start, lambda at: at < stop)  # noqa: B023
            assert list(found) == expected


def test_a_range_fetches_its_own_bytes_and_little_more():
    file = misleading(0)
    size = len(file.content)
    for start, stop in [(0, size), (1_000_000, 3_000_000), (size - 500_000, size)]:
        raw = Fetches(file.content)
        stream = io.BufferedReader(raw, 64 << 10)
        found = warc.read_pages(stream, size, FILE, start, lambda at: at < stop)  # noqa: B023
        assert len(list(found)) > 10
        # One window past the end, and at its start as far as it has to look back.
        assert raw.num_bytes <= stop - start + 4 * members.WINDOW_BYTES


# Runners.


@dataclasses.dataclass
class Splits:
    """The cuts that a runner made in ranges that were being read."""

    made: list[tuple[OffsetRange, OffsetRange]]
    enough: threading.Event


def watch_splits(monkeypatch: pytest.MonkeyPatch) -> Splits:
    """From now on, reading waits at its first record until it has been cut twice."""
    found = Splits([], threading.Event())
    try_split, read_pages = OffsetRestrictionTracker.try_split, warc.read_pages

    def counted(self, fraction):
        if split := try_split(self, fraction):
            found.made.append(split)
            if len(found.made) == 2:
                found.enough.set()
        return split

    def waiting(stream, size, warc_file, start, claim):
        def claim_and_wait(at):
            claimed = claim(at)
            found.enough.wait(20)
            found.enough.set()
            return claimed

        return read_pages(stream, size, warc_file, start, claim_and_wait)

    monkeypatch.setattr(OffsetRestrictionTracker, "try_split", counted)
    monkeypatch.setattr(warc, "read_pages", waiting)
    return found


def forced(step: str) -> PipelineOptions:
    """Options under which the runner cuts what a step is reading.

    In memory it would process nothing at all, and say that all went well.
    """
    # The first may come before there is anything to cut.
    cuts = {"timings": [0] * 12, "fractions": [0.5, 0.3, 0.7] * 4}
    return PipelineOptions(
        [
            "--direct_running_mode=multi_threading",
            f"--direct_test_splits={json.dumps({step: cuts})}",
        ]
    )


def whole_files(folder: Path) -> list[ByteRange]:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return [ByteRange(path=p, size=s, start=0, stop=s) for p, s in sizes.items()]


def test_splits_that_a_runner_forces_deliver_each_record_once(tmp_path, monkeypatch):
    file = misleading(0)
    (tmp_path / "a.warc.gz").write_bytes(file.content)
    expected = list(map(signature, read(file.content)))
    assert len(expected) == 200
    splits = watch_splits(monkeypatch)
    with beam.Pipeline(FnApiRunner(), forced("ReadWarc")) as pipeline:
        found = (
            pipeline
            | beam.Create(whole_files(tmp_path))
            | "ReadWarc" >> beam.ParDo(ReadWarc(str(tmp_path)))
            | beam.Map(signature)
        )
        assert_that(found, equal_to(expected))
    assert len(splits.made) >= 2


@dataclasses.dataclass(frozen=True)
class Noted:
    """Writes down who read which range, and passes on what is in it."""

    log: str

    def __call__(
        self, pages: Iterator, covered: Callable[[], ByteRange]
    ) -> Iterator[tuple]:
        found = [signature(item) for item in pages if isinstance(item, Page)]
        with open(self.log, "a") as log:
            piece = covered()
            log.write(f"{os.getpid()} {piece.path} {piece.start} {piece.stop}\n")
        return iter(found)


def test_two_processes_deliver_each_record_once(tmp_path):
    folder = tmp_path / "crawl"
    folder.mkdir()
    ranges, expected = [], []
    for seed in range(2):
        content = misleading(seed).content
        if seed:
            content, _ = damaged(content, random.Random(seed), 40)
        (folder / f"{seed}.warc.gz").write_bytes(content)
        expected += [signature(page) for page in pages_of(read(content))]
        rng = random.Random(seed)
        cuts = [0, *sorted(rng.sample(range(1, len(content)), 15)), len(content)]
        ranges += [
            ByteRange(path=f"{seed}.warc.gz", size=len(content), start=a, stop=b)
            for a, b in itertools.pairwise(cuts)
        ]
    assert len(expected) > 250
    log = tmp_path / "log"
    options = PipelineOptions(
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    )
    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        found = (
            pipeline
            | beam.Create(ranges)
            | beam.Reshuffle()
            | beam.ParDo(ReadWarc(str(folder), Noted(str(log))))
        )
        assert_that(found, equal_to(expected))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({process for process, *_ in lines} - {str(os.getpid())}) == 2
    done = sorted((path, int(start), int(stop)) for _, path, start, stop in lines)
    assert done == sorted((r.path, r.start, r.stop) for r in ranges)


PRISM = os.environ.get("PRISM") or shutil.which("prism")


@pytest.mark.skipif(not PRISM, reason="there is no prism on the path, nor in PRISM")
def test_another_runner_that_splits_as_it_likes_delivers_each_record_once(
    tmp_path, monkeypatch
):
    file = misleading(0)
    (tmp_path / "a.warc.gz").write_bytes(file.content)
    expected = list(map(signature, read(file.content)))
    options = PipelineOptions([f"--prism_location={PRISM}"])
    splits = watch_splits(monkeypatch)
    with beam.Pipeline("PrismRunner", options) as pipeline:
        found = (
            pipeline
            | beam.Create(whole_files(tmp_path))
            | beam.Reshuffle()
            | beam.ParDo(ReadWarc(str(tmp_path)))
            | beam.Map(signature)
        )
        assert_that(found, equal_to(expected))
    assert splits.made


# The step that reads ranges into the store.


def written_crawl(folder: Path) -> None:
    """Two files of a dozen pages."""
    folder.mkdir()
    for code in ("sw", "fi"):
        pages = REPOSITORY / "examples" / "pages" / f"{code}.jsonl"
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        for line in pages.read_text("utf-8").splitlines()[:12]:
            make_crawl().write_triple(writer, json.loads(line))
        (folder / f"{code}.warc.gz").write_bytes(buffer.getvalue())


def read_documents(
    settings: recipes.Recipe,
    kept: store.Store,
    expected: list[Document],
    options: PipelineOptions,
) -> list[str]:
    """Runs the step, checks what it gives, and names the parts that there are then."""
    files = crawl.source_files(settings.source)
    snapshot = store.take_snapshot(kept, [kept.documents], files)
    with beam.Pipeline(FnApiRunner(), options) as pipeline:
        documents = (
            pipeline | beam.Create([snapshot]) | ingest.ReadDocuments(settings, kept)
        )
        assert_that(documents, equal_to(expected))
    return store.part_names(kept.documents)


def test_parts_of_ranges_that_a_runner_splits_tile_the_files(tmp_path, monkeypatch):
    folder = tmp_path / "crawl"
    written_crawl(folder)
    settings = recipes.Recipe(
        name="test",
        languages=("sw", "fi"),
        source=recipes.Source(warc=("*.warc.gz",), base=str(folder)),
        generator=recipes.Generator(checkpoint="none"),
        evaluator=recipes.Evaluator(checkpoint="none"),
    )
    expected, contents = [], {p.name: p.read_bytes() for p in folder.iterdir()}
    for name, content in contents.items():
        for page in pages_of(read(content)):
            found = ingest.documents_of(
                dataclasses.replace(page, warc_file=name), settings
            )
            expected += [item for item in found if isinstance(item, Document)]
    assert len(expected) > 10
    kept = store.Store(str(tmp_path / "store"), settings)
    options = forced("ReadDocuments/ReadWarc")
    splits = watch_splits(monkeypatch)
    names = read_documents(settings, kept, expected, options)
    assert len(splits.made) >= 2
    assert len(names) >= len(contents) + 2
    ranges = [
        ByteRange(**{field: part.facts[field] for field in ByteRange.__slots__})
        for part in store.read_stage(kept.documents)
    ]
    assert sorted(f"{ingest.part_name(piece)}.parquet" for piece in ranges) == names
    for name, content in contents.items():
        mine = sorted((p for p in ranges if p.path == name), key=lambda p: p.start)
        assert_tiled(mine, len(content))
        # Whoever reads the files again will find nothing in them.
        (folder / name).write_bytes(bytes(len(content)))
    assert read_documents(settings, kept, expected, PipelineOptions([])) == names
