"""From a byte range of a crawl to its documents: one fused step that commits its part.

Reading, the language gate, extraction and cleaning need no shuffle, and most of a crawl
is dropped on the way; the step that read a range writes what came of it.
"""

import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa
import tld
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection

from beam_pipelines import extract, language, members, quality, scrub, warc
from beam_pipelines import store as stores
from beam_pipelines.crawl import (
    captures_in,
    file_size,
    open_file,
    path_key,
    read_exactly,
    runs,
)
from beam_pipelines.recipe import Recipe
from beam_pipelines.schema import Capture, Document, Page, from_row, to_row
from beam_pipelines.warc import ByteRange, Flaw, ReadWarc

_log = logging.getLogger("xinst")
# Of each range, so many drops of each reason and so many flaws are kept to look at.
_SAMPLES = 3
_MAX_FLAWS = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """A text that is no document, and why.

    Attributes:
      reason: A name that is counted.
      language: A key of `LANGUAGES`, or empty where it is not known.
      chars: Of the text that was judged.
    """

    reason: str
    language: str
    chars: int


def documents_of(page: Page, recipe: Recipe) -> list[Document | Drop]:
    """What becomes of a page: its documents, and the reasons for what is dropped.

    The cheapest checks come first, since nineteen of twenty pages fall at them.
    Documents are measured here and judged later, by `Judge`: a threshold can be
    changed without a new crawl.
    """
    languages = recipe.languages
    if language.declared_elsewhere(page.languages, languages):
        return [Drop("declared_elsewhere", "", 0)]
    is_html = page.content_type != "text/plain"
    source = extract.decode(page.body, page.charset)
    # Where the crawl declares one of ours, its detector has looked at the whole page.
    if not page.languages and (reason := _turned_away(source, is_html, languages)):
        return [Drop(reason, "", len(source))]
    text = extract.tidy(extract.main_text(source) if is_html else source)
    if not text:
        return [Drop("no_main_text", "", 0)]
    verdict = language.verdict(text, languages)
    if verdict.reason:
        return [Drop(verdict.reason, "", len(text))]
    robots = scrub.robots(source, page.robots) if is_html else ()
    license_url = scrub.license(source) if is_html else ""
    results: list[Document | Drop] = []
    for number, piece in enumerate(quality.pieces(text, recipe.documents)):
        if len(piece) < recipe.documents.min_chars:
            drop = Drop("too_short", verdict.language, len(piece))
            results.append(drop)
            continue
        # What is personal is gone before anything is kept.
        masked, found = scrub.mask(piece)
        checks = quality.measure(masked, verdict.language, page.url, verdict.score)
        document = Document(
            id=f"{page.id}.{number}" if number else page.id,
            url=page.url,
            domain=registered_domain(page.url),
            date=page.date,
            warc_file=page.warc_file,
            warc_offset=page.warc_offset,
            warc_length=page.warc_length,
            digest=page.digest,
            language=verdict.language,
            language_score=round(verdict.score, 4),
            text=masked,
            robots=robots,
            license=license_url,
            checks=checks | {f"masked_{kind}": float(n) for kind, n in found.items()},
        )
        results.append(document)
    return results


def _turned_away(source: str, is_html: bool, languages: Collection[str]) -> str | None:
    """Why a page of no declared language is none of ours; None if it may be."""
    if is_html and (reason := language.glance(extract.sample_text(source), languages)):
        return reason
    whole = extract.all_text(source) if is_html else source
    return language.gate(whole, languages) if whole.strip() else "no_text"


class Judge:
    """Says why a document goes no further, by the recipe as it is now."""

    def __init__(self, recipe: Recipe) -> None:
        self._quality = recipe.quality
        self._left_out = scrub.LeaveOut(recipe.source.leave_out)

    def reason(self, document: Document) -> str | None:
        """The first rule that it breaks; None if it breaks none."""
        if self._left_out.covers(document.url):
            return "left_out"
        return quality.drop_reason(document.checks, document.language, self._quality)


def registered_domain(url: str) -> str:
    """What one owner registers: `example.co.uk` of `https://a.b.example.co.uk/x`.

    Where the public suffix is not known, the last two labels.
    """
    domain = tld.get_fld(url, fail_silently=True, fix_protocol=True)
    if domain:
        return domain
    host = url.split("://", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1].lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    host = host.partition(":")[0]
    is_address = host.replace(".", "").isdigit()
    return host if is_address else ".".join(host.split(".")[-2:])


def part_name(piece: ByteRange) -> str:
    """The name of the part that covers a range; `parts_of` reads it back."""
    key = path_key(piece.path)
    return f"{key}-{piece.size:015}-{piece.start:015}-{piece.stop:015}"


def parts_of(names: Iterable[str], size: int | None) -> list[str]:
    """Those parts of one file that cover it best, in order.

    A range that was cut while it was read, and read again whole by a runner that forgot
    the cut, leaves parts that overlap: the longest from each place on is kept, and what
    begins inside it is as if it were not there.

    Args:
      names: Of the file's parts.
      size: Of the file now; parts of another size are of another file. None, if it is
        not known: any size that parts name, the one that most of them do.
    """
    names = list(names)
    if size is None:
        sizes = collections.Counter(place_of(name)[0] for name in names)
        size = max(sizes, key=lambda s: (sizes[s], s), default=0)
    mine = (name for name in names if place_of(name)[0] == size)
    kept: list[str] = []
    end = 0
    for name in sorted(mine, key=lambda n: (place_of(n)[1], -place_of(n)[2])):
        _, start, stop = place_of(name)
        if start >= end:
            kept.append(name)
            end = stop
    return kept


def uncovered(path: str, size: int, names: Iterable[str]) -> Iterator[ByteRange]:
    """The byte ranges of a file that no part covers, none over `warc.SPLIT_BYTES`.

    Args:
      path: Of the file.
      size: In bytes.
      names: Of its parts.
    """
    at = 0
    # The end of the file closes the last gap; a file of 0 bytes is a range too.
    end = max(size, 1)
    covered = [place_of(name) for name in parts_of(names, size)]
    for _, start, stop in (*covered, (size, end, end)):
        while at < start:
            cut = min(start, (at // warc.SPLIT_BYTES + 1) * warc.SPLIT_BYTES)
            yield ByteRange(path=path, size=size, start=at, stop=cut)
            at = cut
        at = max(at, stop)


def known_size(names: Iterable[str]) -> int | None:
    """The size of a file that its parts cover whole; None if they do not."""
    names = list(names)
    sizes = {place_of(name)[0] for name in names}
    return next((s for s in sorted(sizes) if not any(uncovered("", s, names))), None)


def by_path(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of parts by `path_key` of their file."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        found[name.partition("-")[0]].append(name)
    return found


def place_of(name: str) -> tuple[int, int, int]:
    """Size of the file, start and stop of the range, of a part's name; in bytes."""
    size, start, stop = map(int, name.removesuffix(".parquet").split("-")[1:])
    return size, start, stop


class ReadDocuments(beam.PTransform):
    """The documents of a recipe's source, from the store or newly read.

    Takes the paths of the snapshots that name files and parts.

    Args:
      recipe: Names the source.
      store: Where parts are found and committed.
      to_store_only: Whether nothing follows: then no documents come out.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: stores.Store,
        *,
        to_store_only: bool = False,
    ) -> None:
        super().__init__()
        self._recipe = recipe
        self._store = store
        self._to_store_only = to_store_only

    def expand(self, snapshots: PCollection[str]) -> PCollection[Document]:
        stage = self._store.documents
        commit = _Commit(self._recipe, stage)
        if self._recipe.source.index:
            plan = snapshots | "Index" >> _PlanByIndex(self._recipe, self._store)
            read = beam.ParDo(_ReadCaptures(commit))
        else:
            plan = (
                snapshots
                | "Files" >> beam.FlatMap(_files_and_parts, stage.folder)
                # A crawl's files come out of one element: spread them over the workers.
                | "SpreadFiles" >> beam.Reshuffle()
                | "Plan"
                >> beam.ParDo(_PlanFile(commit)).with_outputs(STORED, main="read")
            )
            read = beam.ParDo(ReadWarc(commit.root, commit))
        # Runners that redistribute no splits have pieces to spread all the same.
        newly = plan.read | "Spread" >> beam.Reshuffle() | "ReadWarc" >> read
        if self._to_store_only:
            # Local runners keep in memory what comes out, also where nothing follows.
            return newly | "Nothing" >> beam.Filter(lambda _: False)
        stored = (
            plan[STORED]
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadPart" >> beam.FlatMap(_stored_documents, stage.folder)
        )
        return (newly, stored) | beam.Flatten()


class StoredDocuments(beam.PTransform):
    """The documents that a store holds, whatever source they came from.

    Takes the paths of the snapshots that name the parts.

    Args:
      store: Where they lie.
    """

    def __init__(self, store: stores.Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, snapshots: PCollection[str]) -> PCollection[Document]:
        folder = self._store.documents.folder
        by_index = self._store.recipe.source.index
        return (
            snapshots
            | "Parts" >> beam.FlatMap(_whole_parts, folder, by_index)
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadPart" >> beam.FlatMap(_stored_documents, folder)
        )


def _whole_parts(snapshot: str, folder: str, by_index: bool) -> Iterator[str]:
    for names in by_path(stores.snapshot_names(snapshot, folder)).values():
        # What an index chose of a file may differ from part to part, and count twice.
        yield from names if by_index else parts_of(names, None)


STORED = "stored"
_FileAndParts = tuple[str, int | None, list[str]]


def _files_and_parts(snapshot: str, folder: str) -> Iterator[_FileAndParts]:
    content = stores.read_json(snapshot)
    parts = by_path(content["parts"][folder])
    for path, size in content["files"]:
        yield path, size, parts.get(path_key(path), [])


class _PlanFile(beam.DoFn):
    """What of a file is still to be read; the parts that hold the rest are `STORED`."""

    def __init__(self, commit: "_Commit") -> None:
        self._commit = commit

    def process(self, file: _FileAndParts) -> Iterator[Any]:
        path, size, names = file
        if size is None:
            # Files of a crawl do not change: one that is done need not be asked for.
            size = known_size(names)
        if size is None:
            try:
                size = file_size(self._commit.root, path)
            except Exception as error:
                self._commit.give_up(path_key(path), path, 0, error)
                return
        for name in parts_of(names, size):
            yield beam.pvalue.TaggedOutput(STORED, name)
        yield from uncovered(path, size, names)


def _stored_documents(part: str, folder: str) -> list[Document]:
    path = FileSystems.join(folder, part)
    return [from_row(Document, row) for row in stores.read_part(path).rows]


class _PlanByIndex(beam.PTransform):
    """What the crawl's index offers and is still to be fetched, a WARC file at a time.

    What each index file offers is kept in the store too: that takes hours to find out.
    """

    def __init__(self, recipe: Recipe, store: stores.Store) -> None:
        super().__init__()
        self._recipe = recipe
        self._store = store

    def expand(self, snapshot: PCollection[str]) -> Any:
        captures, folder = self._store.captures, self._store.documents.folder
        only = snapshot | "Only" >> beam.Map(_chosen_files)
        wanted = (
            snapshot
            | "Files" >> beam.FlatMap(_index_and_parts, captures.folder)
            | "Spread" >> beam.Reshuffle()
            | "ReadIndex" >> beam.ParDo(_ReadIndex(self._recipe, captures))
            | "Chosen" >> beam.Filter(_is_chosen, beam.pvalue.AsSingleton(only))
            | "ByFile" >> beam.Map(lambda c: (path_key(c.warc_file), c))
        )
        parts = (
            snapshot
            | "Parts" >> beam.FlatMap(lambda s: stores.snapshot_names(s, folder))
            | "ByPartFile" >> beam.Map(lambda name: (name.partition("-")[0], name))
        )
        return (
            {"captures": wanted, "parts": parts}
            | "Join" >> beam.CoGroupByKey()
            | "Plan" >> beam.ParDo(_PlanCaptures()).with_outputs(STORED, main="read")
        )


def _chosen_files(snapshot: str) -> frozenset[str]:
    """Of the crawl's files, those to read; none says all."""
    return frozenset(path for path, _ in stores.read_json(snapshot)["files"])


def _is_chosen(capture: Capture, only: frozenset[str]) -> bool:
    return not only or capture.warc_file in only


def _index_and_parts(snapshot: str, folder: str) -> Iterator[tuple[str, str]]:
    """Each index file, and the part that holds what it offers, if there is one."""
    content = stores.read_json(snapshot)
    parts = {name.partition(".")[0]: name for name in content["parts"][folder]}
    for path in content["index"]:
        yield path, parts.get(path_key(path), "")


class _ReadIndex(beam.DoFn):
    """What one file of the index offers, from the store or newly read."""

    def __init__(self, recipe: Recipe, stage: stores.Stage) -> None:
        self._recipe = recipe
        self._stage = stage

    def process(self, file: tuple[str, str]) -> Iterator[Capture]:
        path, part = file
        if part:
            rows = stores.read_part(FileSystems.join(self._stage.folder, part)).rows
            yield from (from_row(Capture, row) for row in rows)
            return
        with open_file(self._recipe.source.root, path) as stream:
            try:
                found = list(captures_in(stream, self._recipe.languages))
            except (ValueError, pa.ArrowException) as error:
                raise ValueError(f"{path}: {error}") from error
        facts = {"path": path, "captures": len(found)}
        stores.write_part(self._stage, path_key(path), map(to_row, found), facts)
        Metrics.counter("captures", "written").inc(len(found))
        yield from found


@dataclasses.dataclass(frozen=True, slots=True)
class _Fetch:
    """Records of one file to fetch, and the part that will hold what they give."""

    part: str
    captures: tuple[Capture, ...]


class _PlanCaptures(beam.DoFn):
    """A file's records to fetch, unless a part holds what these very ones gave."""

    def process(self, joined: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        key, found = joined
        captures = sorted(set(found["captures"]), key=lambda c: c.warc_offset)
        if not captures:
            return
        places = ",".join(f"{c.warc_offset}+{c.warc_length}" for c in captures)
        name = f"{key}-{path_key(places)}"
        if f"{name}.parquet" in set(found["parts"]):
            yield beam.pvalue.TaggedOutput(STORED, f"{name}.parquet")
        else:
            yield _Fetch(name, tuple(captures))


class _ReadCaptures(beam.DoFn):
    """The documents of a file's chosen records; nothing else of it is fetched."""

    def __init__(self, commit: "_Commit") -> None:
        self._commit = commit

    def process(self, fetch: _Fetch) -> Iterator[Document]:
        path = fetch.captures[0].warc_file
        reading = self._commit.reading()
        try:
            with open_file(self._commit.root, path) as stream:
                for item in fetched(stream, fetch.captures):
                    reading.add(item)
        except Exception as error:
            self._commit.give_up(fetch.part, path, 0, error)
            return
        num_bytes = sum(capture.warc_length for capture in fetch.captures)
        facts = {"path": path, "bytes": num_bytes, "captures": len(fetch.captures)}
        yield from self._commit.write(fetch.part, facts, reading)


def fetched(stream: BinaryIO, captures: Iterable[Capture]) -> Iterator[Page | Flaw]:
    """The pages of some records of one file, a run of near ones at a time.

    Args:
      stream: The file, seekable.
      captures: Where its records lie.
    """
    good = []
    for capture in captures:
        if 0 < capture.warc_length <= members.MAX_RECORD_BYTES:
            good.append(capture)
        else:
            detail = f"the index says that it has {capture.warc_length:,} bytes"
            yield Flaw(offset=capture.warc_offset, reason="too_large", detail=detail)
    for run in runs(good):
        begin, last = run[0].warc_offset, run[-1]
        num_bytes = last.warc_offset + last.warc_length - begin
        content = read_exactly(stream, begin, num_bytes)
        for capture in run:
            at = capture.warc_offset - begin
            member = content[at : at + capture.warc_length]
            found = warc.page_of(member, capture.warc_file, capture.warc_offset)
            if isinstance(found, Page):
                yield dataclasses.replace(found, languages=capture.languages)
            elif found:
                yield found


class _Commit:
    """Makes documents of pages, and commits them as a part.

    Attributes:
      root: Of the source.
    """

    def __init__(self, recipe: Recipe, stage: stores.Stage) -> None:
        self.root = recipe.source.root
        self._recipe = recipe
        self._stage = stage

    def __call__(
        self, pages: Iterator[Page | Flaw], covered: Callable[[], ByteRange]
    ) -> Iterator[Document]:
        """As `ReadWarc` calls it: reads a range, and commits what it covered."""
        reading = self.reading()
        try:
            for item in pages:
                reading.add(item)
        except Exception as error:
            piece = covered()
            self.give_up(part_name(piece), piece.path, piece.start, error)
            return
        piece = covered()
        num_bytes = min(piece.stop, piece.size) - piece.start
        facts = dataclasses.asdict(piece) | {"bytes": num_bytes}
        yield from self.write(part_name(piece), facts, reading)

    def reading(self) -> "Reading":
        """Where the pages of a new part go."""
        return Reading(self._recipe)

    def write(
        self, part: str, facts: Mapping[str, Any], reading: "Reading"
    ) -> Iterator[Document]:
        """Commits a part, and passes on its documents."""
        documents = reading.documents
        rows = map(to_row, documents)
        stores.write_part(self._stage, part, rows, {**facts, **reading.facts()})
        reading.count()
        yield from documents

    def give_up(self, part: str, path: str, offset: int, error: Exception) -> None:
        """Writes down that a file could not be had: a dead letter, not a part.

        Filesystems raise what they like, and one file must not end a crawl. The next
        run tries again, since no part covers it.
        """
        detail = f"{type(error).__name__}: {error}"
        _log.warning("documents: %s could not be read: %s", path, detail)
        Metrics.counter("documents", "unread").inc()
        letter = {"file": path, "offset": offset, "detail": detail}
        name = f"{part}{stores.UNREAD}"
        stores.write_json(FileSystems.join(self._stage.folder, name), letter)


class Reading:
    """What comes of the pages of one part, and what is said of its making.

    The funnel is read from these facts. All of it happens in one thread.

    Args:
      recipe: Decides what becomes of a page.

    Attributes:
      documents: In the order of their pages.
      pages: That were read.
      num_flaws: Places that could not be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._started = time.thread_time()
        self.documents: list[Document] = []
        self.pages = 0
        self.num_flaws = 0
        self._recipe = recipe
        self._drops: collections.Counter[tuple[str, str]] = collections.Counter()
        self._flaws: list[Flaw] = []
        self._samples: list[dict[str, Any]] = []

    def add(self, item: Page | Flaw) -> None:
        """Takes in a page, or a place that could not be read."""
        if isinstance(item, Flaw):
            self.num_flaws += 1
            if len(self._flaws) < _MAX_FLAWS:
                self._flaws.append(item)
            return
        self.pages += 1
        detail = ""
        try:
            results = documents_of(item, self._recipe)
        except Exception as error:
            # The libraries below meet pages that nobody foresaw; one costs itself.
            _log.exception("documents: %s failed", item.url)
            results = [Drop("failed", "", len(item.body))]
            detail = f"{type(error).__name__}: {error}"
        for result in results:
            if isinstance(result, Document):
                self.documents.append(result)
                continue
            self._drops[result.reason, result.language] += 1
            if self._drops[result.reason, result.language] <= _SAMPLES:
                sample = {"url": item.url, "offset": item.warc_offset}
                sample |= {"detail": detail} if detail else {}
                self._samples.append(dataclasses.asdict(result) | sample)

    def count(self) -> None:
        """Adds what came of the pages to Beam's metrics."""
        Metrics.counter("documents", "pages").inc(self.pages)
        Metrics.counter("documents", "flaws").inc(self.num_flaws)
        for code, count in collections.Counter(
            document.language for document in self.documents
        ).items():
            stores.count_outcome("documents", code, None, count)
        for (reason, code), count in self._drops.items():
            stores.count_outcome("documents", code, reason, count)

    def facts(self) -> dict[str, Any]:
        """For the part's metadata; `seconds` are those of the processor."""
        return {
            "seconds": round(time.thread_time() - self._started, 3),
            "pages": self.pages,
            "drops": [[*key, count] for key, count in sorted(self._drops.items())],
            "num_flaws": self.num_flaws,
            "flaws": [dataclasses.asdict(flaw) for flaw in self._flaws],
            "samples": self._samples,
        }
