"""From a byte range of a crawl to its documents: one fused step that commits its part.

Reading, the language gate, extraction and cleaning need no shuffle, and most of a crawl
is dropped on the way; the step that read a range writes what came of it.
"""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import tld
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin, PCollection

from beam_pipelines import extract, language, quality, warc
from beam_pipelines import store as stores
from beam_pipelines.recipe import Recipe
from beam_pipelines.schema import Document, Page, from_row, to_row

RANGE_BYTES = 64 << 20
_log = logging.getLogger("xinst")
# Of each range, so many drops of each reason and so many flaws are kept to look at.
_SAMPLES = 3
_MAX_FLAWS = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A piece of a file to read: the records that begin in [start, stop).

    Attributes:
      path: As the recipe names it, without `source.base`.
      size: Of the whole file, in bytes.
      start: In bytes.
      stop: In bytes.
    """

    path: str
    size: int
    start: int
    stop: int

    @property
    def part(self) -> str:
        """The name of the part that covers it; `covered` reads it back."""
        return f"{_file_key(self.path, self.size)}-{self.start:015}-{self.stop:015}"


def documents_of(page: Page, recipe: Recipe) -> list[Document | Drop]:
    """What becomes of a page: its documents, and the reasons for what is dropped.

    The cheapest checks come first, since nineteen of twenty pages fall at them.
    """
    languages, limits = recipe.languages, recipe.documents
    if language.declared_elsewhere(page.languages, languages):
        return [Drop(reason="declared_elsewhere", language="", chars=0)]
    is_html = page.content_type != "text/plain"
    source = extract.decode(page.body, page.charset)
    whole = extract.all_text(source) if is_html else source
    if not whole.strip():
        return [Drop(reason="no_text", language="", chars=0)]
    if reason := language.gate(whole, languages):
        return [Drop(reason=reason, language="", chars=len(whole))]
    text = extract.tidy(extract.main_text(source) if is_html else whole)
    if not text:
        return [Drop(reason="no_main_text", language="", chars=0)]
    verdict = language.verdict(text, languages)
    if verdict.reason:
        return [Drop(reason=verdict.reason, language="", chars=len(text))]
    code = verdict.language
    if verdict.score < limits.min_language_score:
        return [Drop(reason="mixed_language", language=code, chars=len(text))]
    results: list[Document | Drop] = []
    for number, piece in enumerate(quality.pieces(text, limits)):
        checks = quality.measure(piece, code)
        if reason := quality.drop_reason(checks, code, limits):
            results.append(Drop(reason=reason, language=code, chars=len(piece)))
            continue
        document = Document(
            id=f"{page.id}.{number}" if number else page.id,
            url=page.url,
            domain=registered_domain(page.url),
            date=page.date,
            warc_file=page.warc_file,
            warc_offset=page.warc_offset,
            warc_length=page.warc_length,
            digest=page.digest,
            language=code,
            language_score=round(verdict.score, 4),
            text=piece,
            robots=(),
            license="",
            checks={name: round(value, 4) for name, value in checks.items()},
        )
        results.append(document)
    return results


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


def source_files(recipe: Recipe) -> list[tuple[str, int]]:
    """The files that a recipe's source names: path without `base`, size in bytes.

    Raises:
      ValueError: A pattern matches nothing.
    """
    base, files = recipe.source.base, {}
    for pattern in (*recipe.source.warc, *recipe.source.wet):
        full = FileSystems.join(base, pattern) if base else pattern
        found = FileSystems.match([full])[0].metadata_list
        if not found:
            raise ValueError(
                f"source: {full!r} matches no file. Was it made? Relative paths "
                "are taken from the folder that the command runs in."
            )
        for metadata in found:
            path = metadata.path
            if base:
                path = path.removeprefix(base).lstrip("/\\")
            files[path] = metadata.size_in_bytes
    return sorted(files.items())


def uncovered(
    files: Iterable[tuple[str, int]], parts: Iterable[str], range_bytes: int
) -> Iterator[ByteRange]:
    """The byte ranges that no part covers.

    Args:
      files: Path and size of each.
      parts: Names of the parts that there are.
      range_bytes: Longer gaps are cut into ranges of this length.
    """
    covered: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    for name in parts:
        key, first, last = name.removesuffix(".parquet").split("-")
        covered[key].append((int(first), int(last)))
    for path, size in files:
        at = 0
        # The end of the file closes the last gap; a file of 0 bytes is a range too.
        end = max(size, 1)
        for start, stop in (*sorted(covered[_file_key(path, size)]), (end, end)):
            while at < start:
                cut = min(start, (at // range_bytes + 1) * range_bytes)
                yield ByteRange(path=path, size=size, start=at, stop=cut)
                at = cut
            at = max(at, stop)


class ReadDocuments(beam.PTransform):
    """The documents of a recipe's source, from the store or newly read."""

    def __init__(self, recipe: Recipe, stage: stores.Stage, snapshot: str) -> None:
        super().__init__()
        self._recipe = recipe
        self._stage = stage
        self._snapshot = snapshot

    def expand(self, pipeline: PBegin) -> PCollection[Document]:
        snapshot = pipeline | "Snapshot" >> beam.Create([self._snapshot])
        read = (
            snapshot
            | "Ranges" >> beam.FlatMap(_ranges_to_read, self._stage.folder)
            # A crawl's ranges come out of one element: spread them over the workers.
            | "SpreadRanges" >> beam.Reshuffle()
            | "ReadRange" >> beam.ParDo(_ReadRange(self._recipe, self._stage))
        )
        stored = (
            snapshot
            | "Parts" >> beam.FlatMap(_parts_to_keep, self._stage.folder)
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadPart" >> beam.FlatMap(_stored_documents)
        )
        return (read, stored) | beam.Flatten()


def _ranges_to_read(snapshot: str, folder: str) -> Iterator[ByteRange]:
    content = stores.read_json(snapshot)
    return uncovered(content["files"], content["parts"][folder], RANGE_BYTES)


def _parts_to_keep(snapshot: str, folder: str) -> Iterator[str]:
    """Paths of the parts that belong to the files of this source."""
    content = stores.read_json(snapshot)
    keys = {_file_key(path, size) for path, size in content["files"]}
    for name in content["parts"][folder]:
        if name.partition("-")[0] in keys:
            yield FileSystems.join(folder, name)


def _stored_documents(part: str) -> list[Document]:
    return [from_row(Document, row) for row in stores.read_part(part).rows]


class _ReadRange(beam.DoFn):
    """A range's documents, and its part in the store."""

    def __init__(self, recipe: Recipe, stage: stores.Stage) -> None:
        self._recipe = recipe
        self._stage = stage

    def process(self, piece: ByteRange) -> Iterator[Document]:
        documents: list[Document] = []
        facts = _Facts(piece)
        for page in self._pages(piece):
            if isinstance(page, warc.Flaw):
                facts.add_flaw(page)
                continue
            facts.pages += 1
            for result in documents_of(page, self._recipe):
                if isinstance(result, Drop):
                    facts.add_drop(result, page)
                else:
                    documents.append(result)
        rows = map(to_row, documents)
        stores.write_part(self._stage, piece.part, rows, facts.to_json())
        _log.info(
            "documents: %s bytes %s-%s: %s pages, %s documents, %s flaws",
            piece.path,
            f"{piece.start:,}",
            f"{min(piece.stop, piece.size):,}",
            f"{facts.pages:,}",
            f"{len(documents):,}",
            f"{facts.num_flaws:,}",
        )
        Metrics.counter("documents", "pages").inc(facts.pages)
        for document in documents:
            Metrics.counter("documents", document.language).inc()
            yield document

    def _pages(self, piece: ByteRange) -> Iterator[Page | warc.Flaw]:
        base = self._recipe.source.base
        path = FileSystems.join(base, piece.path) if base else piece.path
        as_it_is = CompressionTypes.UNCOMPRESSED
        with FileSystems.open(path, compression_type=as_it_is) as stream:
            yield from warc.read_pages(
                stream, piece.size, piece.path, piece.start, piece.stop
            )


class _Facts:
    """What a part says of its making: the funnel is read from this."""

    def __init__(self, piece: ByteRange) -> None:
        self.pages = 0
        self.num_flaws = 0
        self._piece = piece
        self._drops: collections.Counter[tuple[str, str]] = collections.Counter()
        self._flaws: list[warc.Flaw] = []
        self._samples: list[dict[str, Any]] = []

    def add_flaw(self, flaw: warc.Flaw) -> None:
        self.num_flaws += 1
        if len(self._flaws) < _MAX_FLAWS:
            self._flaws.append(flaw)

    def add_drop(self, drop: Drop, page: Page) -> None:
        self._drops[drop.reason, drop.language] += 1
        if self._drops[drop.reason, drop.language] <= _SAMPLES:
            sample = {"url": page.url, "offset": page.warc_offset}
            self._samples.append(dataclasses.asdict(drop) | sample)

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self._piece),
            "pages": self.pages,
            "drops": [[*key, count] for key, count in sorted(self._drops.items())],
            "num_flaws": self.num_flaws,
            "flaws": [dataclasses.asdict(flaw) for flaw in self._flaws],
            "samples": self._samples,
        }


def _file_key(path: str, size: int) -> str:
    name = f"{path}\n{size}".encode()
    return hashlib.blake2b(name, digest_size=8).hexdigest()
