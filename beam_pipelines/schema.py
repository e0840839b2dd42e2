"""The records that pass from room to room, and the table of languages.

Standard library only, so that everything else may import it.
"""

import dataclasses
import hashlib
import types
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language that we publish.

    Attributes:
      code: ISO 639-1, in recipes, configs and records.
      name: In English, as prompts name it.
      tag: ISO 639-3 of the individual language and its ISO 15924 script, where
        scripts matter: `swh-Latn`.
      crawl: ISO 639-3 as Common Crawl declares it (a macrolanguage for Swahili).
    """

    code: str
    name: str
    tag: str
    crawl: str

    @property
    def script(self) -> str:
        """ISO 15924: `Latn`, `Arab`, `Beng`, `Deva`, `Taml` or `Thai`."""
        return self.tag.partition("-")[2]


LANGUAGES: Mapping[str, Language] = types.MappingProxyType(
    {
        code: Language(code=code, name=name, tag=tag, crawl=crawl)
        for code, name, tag, crawl in (
            ("fi", "Finnish", "fin-Latn", "fin"),
            ("id", "Indonesian", "ind-Latn", "ind"),
            ("th", "Thai", "tha-Thai", "tha"),
            ("tr", "Turkish", "tur-Latn", "tur"),
            ("vi", "Vietnamese", "vie-Latn", "vie"),
            ("bn", "Bengali", "ben-Beng", "ben"),
            ("hi", "Hindi", "hin-Deva", "hin"),
            ("sw", "Swahili", "swh-Latn", "swa"),
            ("ta", "Tamil", "tam-Taml", "tam"),
            ("ur", "Urdu", "urd-Arab", "urd"),
        )
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Where a page lies, as a crawl's index tells.

    Attributes:
      warc_file: Relative to the source's root.
      warc_offset: Bytes from the start of that file to the record.
      warc_length: Bytes of the record there, compressed as it is.
      languages: ISO 639-3 codes that the index declares, main language first.
    """

    warc_file: str
    warc_offset: int
    warc_length: int
    languages: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One capture of a web page, as the crawl stored it.

    Attributes:
      id: The UUID of its WARC record; derived from url, date and digest where the
        record has none. A WET record carries the id of the page it came from.
      url: As crawled.
      date: Of the capture, ISO 8601 in UTC.
      warc_file: Where the record lies, relative to the recipe's `source.base`.
      warc_offset: Bytes from the start of that file to the record.
      warc_length: Bytes of the record there, compressed as it is.
      digest: Of the payload, as the record declares it; empty if it does not.
      languages: ISO 639-3 codes that the crawl declares, main language first.
      content_type: MIME type; `text/plain` says that `body` is WET text.
      charset: As the HTTP header declares it, or empty.
      robots: The `X-Robots-Tag` headers as served, a line each; or empty.
      body: HTML or UTF-8 text, its transfer encodings undone.
    """

    id: str
    url: str
    date: str
    warc_file: str
    warc_offset: int
    warc_length: int
    digest: str
    languages: tuple[str, ...]
    content_type: str
    charset: str
    robots: str
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Natural web text in one of our languages: the response of a future example.

    Attributes:
      id: The page's id; `.1`, `.2`, … are added to the later pieces of a long page.
      url: As crawled.
      domain: The registered domain of `url`.
      date: Of the capture, ISO 8601 in UTC.
      warc_file: Where the page lies.
      warc_offset: Bytes.
      warc_length: Bytes.
      digest: Of the page's payload.
      language: A key of `LANGUAGES`.
      language_score: Probability, in [0, 1].
      text: UTF-8, NFC; paragraphs separated by a blank line.
      robots: What the page asks of crawlers in its header and its HTML: of `noindex`,
        `noai`, `noimageai` and `tdm-reservation`, in this order.
      license: The Creative Commons licence that the page names, as its URL; or empty.
      checks: Name of every quality rule that was measured, and its value.
      duplicates: The size of its group of near duplicates, exact copies and itself
        included.
    """

    id: str
    url: str
    domain: str
    date: str
    warc_file: str
    warc_offset: int
    warc_length: int
    digest: str
    language: str
    language_score: float
    text: str
    robots: tuple[str, ...]
    license: str
    checks: dict[str, float]
    duplicates: int = 1

    @property
    def key(self) -> str:
        """Of this very text on this very page: what a stage's results are kept by."""
        return f"{self.id}:{text_digest(self.text)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A document paired with the English instruction that it might answer.

    Attributes:
      document: Its text becomes the output.
      instruction: English, as generated.
      generator: Hash of the checkpoint and the decoding settings.
      logprob: Natural log-probability of the instruction, given the text.
      rejected: Why there is no whole instruction; empty if there is one.
    """

    document: Document
    instruction: str
    generator: str
    logprob: float
    rejected: str

    @property
    def key(self) -> str:
        """Of this instruction for this text, whichever generator wrote it."""
        return f"{self.document.key}:{text_digest(self.instruction)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """An evaluator's judgement of a candidate.

    Attributes:
      candidate: What is judged.
      p_best: Probability of the label "best", in [0, 1]; the three sum to 1.
      p_flawed: Probability of "flawed".
      p_worst: Probability of "worst".
      score: `p_best + p_flawed / 2`.
      evidence: What the probabilities come from, by name; see `xinst_jax.judge`.
      evaluator: Hash of the evaluator's checkpoint.
      rejected: Why it could not be judged; empty if it was.
    """

    candidate: Candidate
    p_best: float
    p_flawed: float
    p_worst: float
    score: float
    evidence: dict[str, float]
    evaluator: str
    rejected: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What is published: one instruction, its output, and where that came from.

    Attributes:
      id: The document's id.
      instruction: English.
      output: Natural text in `output_language`.
      output_language: ISO 639-1.
      url: Of the page.
      domain: The registered domain of `url`.
      date: Of the capture, ISO 8601 in UTC.
      warc_file: Where the page lies.
      warc_offset: Bytes.
      warc_length: Bytes.
      robots: As the document's.
      license: As the document's.
      score: The evaluator's, in [0, 1].
      cluster: Topic cluster of the instruction within its language.
      split: `train`, `validation` or `test`.
    """

    id: str
    instruction: str
    output: str
    output_language: str
    url: str
    domain: str
    date: str
    warc_file: str
    warc_offset: int
    warc_length: int
    robots: tuple[str, ...]
    license: str
    score: float
    cluster: int
    split: str


def text_digest(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def to_row(record: Any) -> dict[str, Any]:
    """The written form of a record: its own fields, and the key of what it judges.

    A nested record is written once, by the stage that made it, and found again by
    that key.
    """
    row: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, (Document, Candidate)):
            row["key"] = value.key
        else:
            row[field.name] = value
    return row


def from_row(cls: type[T], row: Mapping[str, Any], **nested: Any) -> T:
    """The record that `to_row` wrote; what it judges is given by name."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = {field.name for field in fields} - nested.keys()
    values = {name: row[name] for name in names}
    for name, value in values.items():
        if isinstance(value, list):  # Parquet knows no tuples.
            values[name] = tuple(value)
    return cls(**values, **nested)
