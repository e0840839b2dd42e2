"""One document per text: the newest capture of a URL, then exact duplicates.

Both are shuffles with combiners, so no worker ever holds a popular key's documents.
"""

import dataclasses
import urllib.parse
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_pipelines import store as stores
from beam_pipelines.schema import Document, text_digest

# Parameters that name a visit, not a page.
_TRACKING = frozenset(("fbclid", "gclid", "ref", "share"))
_TRACKING_PREFIXES = ("utm_", "mc_")


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
    """One document per text; how many had it is kept in `Document.duplicates`.

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
            | "Texts" >> beam.Values()
        )
        older = by_url | "Older" >> beam.FlatMap(
            lambda found: [("older_capture", code) for _, code in sorted(found.dropped)]
        )
        same = by_text | "Same" >> beam.FlatMap(
            lambda d: [("same_text", d.language)] * (d.duplicates - 1)
        )
        _ = (older, same) | beam.Flatten() | stores.WriteCounts(self._counts)
        return by_text


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
