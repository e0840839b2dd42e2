"""One document per text: newest capture of a URL, exact duplicates, near duplicates.

All of it is shuffles: of documents with combiners, of digests as streams, so no worker
ever holds what a popular key has.
"""

import dataclasses
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_pipelines import minhash
from beam_pipelines import store as stores
from beam_pipelines.schema import Document, text_digest

# Parameters that name a visit, not a page.
_TRACKING = frozenset(("fbclid", "gclid", "ref", "share"))
_TRACKING_PREFIXES = ("utm_", "mc_")

# Beam has no loops, so groups of near duplicates are found in so many unrolled rounds.
# Copies of one page lie a step or two from each other, however many there are. Of
# simulated chains, where a text resembles only the next, all of 15 texts are found
# whole, 99.7 % of those of 20; of one of 1,000 texts, one in 44 stays.
_ROUNDS = 3
_SHORTCUTS = 2


def normalised_url(url: str) -> str:
    """A URL without what does not change the page: scheme, `www.`, fragment, tracking.

    Args:
      url: As crawled; one that cannot be parsed is returned as it is.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").removeprefix("www.")
        port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    except ValueError:
        return url
    # Older sites escape bytes of other character sets: they must stay apart.
    query = urllib.parse.parse_qsl(
        parts.query, keep_blank_values=True, errors="surrogateescape"
    )
    kept = sorted(
        (name, value)
        for name, value in query
        if name not in _TRACKING and not name.startswith(_TRACKING_PREFIXES)
    )
    path = parts.path.rstrip("/") or "/"
    tail = urllib.parse.urlencode(kept, errors="surrogateescape")
    tail = f"?{tail}" if tail else ""
    return f"{host}{port}{path}{tail}"


class RemoveDuplicates(beam.PTransform):
    """One document of all that say the same; their number is in `Document.duplicates`.

    Of captures of one URL the newest stays, of documents with one text that with the
    first id, of near duplicates that whose text has the lowest digest: a choice by
    content alone, which prefers neither the long nor the short, neither the old nor
    the new.

    Args:
      counts: Path of the file that receives how many were dropped, by reason and
        language.
    """

    def __init__(self, counts: str) -> None:
        super().__init__()
        self._counts = counts

    def expand(self, documents: PCollection[Document]) -> PCollection[Document]:
        by_url = (
            documents
            | "ByUrl" >> beam.Map(lambda d: (normalised_url(d.url), d))
            | "NewestCapture" >> beam.CombinePerKey(_NewestCapture())
            | "Captures" >> beam.Values()
        )
        by_text = (
            by_url
            | "Pieces" >> beam.FlatMap(lambda found: found.documents)
            | "ByText" >> beam.Map(lambda d: (text_digest(d.text), d))
            | "OneOfText" >> beam.CombinePerKey(_OneOfText())
        )
        stand_ins = (
            by_text
            | "ByBand" >> beam.FlatMapTuple(_by_band)
            | "StandIns" >> _FindStandIns()
        )
        numbers = by_text | "Numbers" >> beam.MapTuple(
            lambda digest, d: (digest, d.duplicates)
        )
        added = (
            {"number": numbers, "stand_in": stand_ins}
            | "JoinNumbers" >> beam.CoGroupByKey()
            | "ByStandIn" >> beam.FlatMapTuple(_by_stand_in)
            | "Added" >> beam.CombinePerKey(sum)
        )
        joined = {
            "document": by_text,
            "stand_in": stand_ins,
            "added": added,
        } | "JoinTexts" >> beam.CoGroupByKey()
        older = by_url | "Older" >> beam.FlatMap(
            lambda found: [("older_capture", code) for _, code in sorted(found.dropped)]
        )
        same = by_text | "Same" >> beam.FlatMapTuple(
            lambda _, d: [("same_text", d.language)] * (d.duplicates - 1)
        )
        near = joined | "Near" >> beam.FlatMapTuple(_near)
        _ = (older, same, near) | beam.Flatten() | stores.WriteCounts(self._counts)
        return joined | "Kept" >> beam.FlatMapTuple(_kept)


@dataclasses.dataclass(frozen=True, slots=True)
class _Captures:
    """The documents of the newest capture of a URL, and what older ones cost.

    Attributes:
      documents: Of the newest capture.
      dropped: Id and language of each document of an older one.
    """

    documents: tuple[Document, ...] = ()
    dropped: frozenset[tuple[str, str]] = frozenset()


class _NewestCapture(beam.CombineFn):
    """Of all captures of a URL, the newest; one document an id."""

    def create_accumulator(self) -> _Captures:
        return _Captures()

    def add_input(self, captures: _Captures, document: Document) -> _Captures:
        return self.merge_accumulators([captures, _Captures((document,))])

    def merge_accumulators(self, parts: Iterable[_Captures]) -> _Captures:
        documents: dict[str, Document] = {}
        dropped: set[tuple[str, str]] = set()
        for part in parts:
            # A retried range may have delivered a document twice: that is no duplicate.
            documents.update({document.id: document for document in part.documents})
            dropped |= part.dropped
        if not documents:
            return _Captures()
        newest = max(_capture(document) for document in documents.values())
        kept = []
        for document in sorted(documents.values(), key=lambda d: d.id):
            if _capture(document) == newest:
                kept.append(document)
            else:
                dropped.add((document.id, document.language))
        return _Captures(tuple(kept), frozenset(dropped))

    def extract_output(self, captures: _Captures) -> _Captures:
        return captures


def _capture(document: Document) -> tuple[str, str]:
    """Orders captures by date; the page's id decides between equal dates."""
    return document.date, document.id.partition(".")[0]


class _OneOfText(beam.CombineFn):
    """Of all documents with one text, that with the first id, and their number."""

    def create_accumulator(self) -> Document | None:
        return None

    def add_input(self, best: Document | None, document: Document) -> Document | None:
        return self.merge_accumulators([best, document])

    def merge_accumulators(self, parts: Iterable[Document | None]) -> Document | None:
        found = [part for part in parts if part is not None]
        if not found:
            return None
        number = sum(document.duplicates for document in found)
        first = min(found, key=lambda document: document.id)
        return dataclasses.replace(first, duplicates=number)

    def extract_output(self, best: Document | None) -> Document | None:
        return best


# Near duplicates: texts that share a band are neighbours in a graph, and of each of its
# connected components one text stays. Only the digests of texts travel.


def _by_band(digest: str, document: Document) -> list[tuple[str, str]]:
    keys = minhash.band_keys(document.text, document.language)
    return [(key, digest) for key in keys]


class _FindStandIns(beam.PTransform):
    """From (band key, text) to (text, the text that is kept in its stead).

    The components are found by large-star and small-star (Kiveris et al., Connected
    Components in MapReduce and Beyond, 2014): in turn, every text hands its larger
    neighbours, then its smaller ones, over to the smallest. That keeps what is
    connected so, and leaves a star around the smallest when it has run to its end.
    Where the rounds end sooner, each text follows its smallest neighbour, and theirs,
    and goes if it comes to one that stays. So each text that goes has a stand-in that
    stays, and every round is a function of the set of edges: neither order nor
    doubled records matter.
    """

    def expand(
        self, members: PCollection[tuple[str, str]]
    ) -> PCollection[tuple[str, str]]:
        edges = (
            members
            | "Bands" >> beam.GroupByKey()
            | "Star" >> beam.FlatMapTuple(_star)
            # Near duplicates share several bands, which say the same.
            | "Distinct" >> beam.Distinct()
        )
        for number in range(_ROUNDS):
            edges = (
                edges
                | f"Larger{number}" >> _ForNeighbours(_large_star)
                | f"Smaller{number}" >> beam.GroupByKey()
                | f"SmallStar{number}" >> beam.FlatMapTuple(_small_star)
            )
        edges = edges | "Smallest" >> beam.CombinePerKey(min)
        for number in range(_SHORTCUTS):
            # Each text has one smaller neighbour by now, and takes on that one's.
            edges = edges | f"Shortcut{number}" >> _ForNeighbours(_large_star)
        return edges | "Leaves" >> _ForNeighbours(_leaves)


class _ForNeighbours(beam.PTransform):
    """What a function makes of every text and its neighbours, larger and smaller.

    An edge is (larger text, smaller text). Functions go through the neighbours twice
    rather than list them: the stand-in of a cookie notice has millions.
    """

    def __init__(
        self, function: Callable[[str, Iterable[str]], Iterator[tuple[str, str]]]
    ) -> None:
        super().__init__()
        self._function = function

    def expand(
        self, edges: PCollection[tuple[str, str]]
    ) -> PCollection[tuple[str, str]]:
        return (
            edges
            | "BothWays" >> beam.FlatMapTuple(_both_ways)
            | "Neighbours" >> beam.GroupByKey()
            | "Edges" >> beam.FlatMapTuple(self._function)
        )


def _both_ways(larger: str, smaller: str) -> list[tuple[str, str]]:
    return [(larger, smaller), (smaller, larger)]


def _star(_: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    smallest = min(texts)
    for text in texts:
        if text != smallest:
            yield text, smallest


def _large_star(text: str, neighbours: Iterable[str]) -> Iterator[tuple[str, str]]:
    smallest = min(text, min(neighbours))
    for neighbour in neighbours:
        if neighbour > text:
            yield neighbour, smallest


def _small_star(text: str, smaller: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield text, min(smaller)
    yield from _star(text, smaller)


def _leaves(text: str, neighbours: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The neighbours of a text that has no smaller one, and so stays."""
    if min(neighbours) > text:
        for neighbour in neighbours:
            yield neighbour, text


def _by_stand_in(_: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[str, int]]:
    for stand_in in found["stand_in"]:
        yield stand_in, next(iter(found["number"]))


def _near(_: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
    if list(found["stand_in"]):
        yield "near_duplicate", next(iter(found["document"])).language


def _kept(_: str, found: dict[str, Iterable[Any]]) -> Iterator[Document]:
    if not list(found["stand_in"]):
        document = next(iter(found["document"]))
        number = document.duplicates + sum(found["added"])
        yield dataclasses.replace(document, duplicates=number)
