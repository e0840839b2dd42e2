"""WARC and WET files: their records as pages, and a splittable source of them.

Members are found and inflated by `members`; of what is inside, only wanted records are
parsed. A byte range owns the records whose first byte lies in it, so any set of ranges
that covers a file reads each of its records once.
"""

import dataclasses
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import apache_beam as beam
import brotli
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from isal import isal_zlib
from warcio.bufferedreaders import ChunkedDataReader
from warcio.exceptions import ArchiveLoadFailed

from beam_pipelines import members
from beam_pipelines.crawl import open_file
from beam_pipelines.members import (
    FEED_BYTES,
    INFLATE_ERRORS,
    WINDOW_BYTES,
    Member,
    Unreadable,
    Window,
    boundary_in,
    inflate_member,
    is_splittable,
    next_record,
)
from beam_pipelines.schema import Page

MAX_HEADER_BYTES = 64 << 10
SPLIT_BYTES = 128 << 20
_RECORD_START = b"\r\n\r\nWARC/"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})(?=\r\n)", re.I)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_VERSIONS = ("WARC/1.0", "WARC/1.1", "WARC/0.17", "WARC/0.18")
_HTML = ("text/html", "application/xhtml+xml")

# What records that cannot be read raise: in warcio's chunks, in JSON of another form.
_PARSE_ERRORS = (
    ArchiveLoadFailed,
    EOFError,
    ValueError,
    AttributeError,
    TypeError,
    RecursionError,  # From JSON that is nested without end.
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A piece of a file to read: the records that begin in [start, stop).

    Attributes:
      path: As the recipe names it, without `Source.root`.
      size: Of the whole file, in bytes.
      start: In bytes.
      stop: In bytes.
    """

    path: str
    size: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """A place in a file where something could not be read.

    Attributes:
      offset: Bytes from the start of the file.
      reason: What was wrong, as a name that is counted.
      detail: For people.
    """

    offset: int
    reason: str
    detail: str


def read_pages(
    stream: BinaryIO,
    size: int,
    warc_file: str,
    start: int,
    claim: Callable[[int], bool],
) -> Iterator[Page | Flaw]:
    """Pages whose records begin at or after `start`, as long as they can be claimed.

    A file that is not a series of gzip members cannot be split: whoever claims byte 0
    reads all of it, others nothing.

    Args:
      stream: A seekable WARC or WET file, gzipped or plain.
      size: Of the file, in bytes.
      warc_file: The name that pages carry.
      start: In bytes.
      claim: Whether what begins at a byte is the caller's: `lambda at: at < stop` for a
        fixed range. Asked once for each place, in order, until it says no.

    Yields:
      Pages, and what could not be read, in the order of the file.
    """
    window = Window(stream, size)
    if is_splittable(stream):
        at = boundary_in(window, start)
        yield from _annotated(_gzip_pages(window, warc_file, at), claim)
    elif start > 0 or not claim(0):
        return
    elif window.at(0, 5) == b"WARC/":
        yield from _annotated(
            _plain_pages(stream, window, warc_file, 0), lambda _: True
        )
    elif size == 0:
        yield Flaw(offset=0, reason="empty_file", detail="0 bytes")
    else:
        detail = f"the file begins with {window.at(0, 12)!r}"
        yield Flaw(offset=0, reason="not_warc", detail=detail)


def read_page(
    stream: BinaryIO, size: int, warc_file: str, offset: int, length: int
) -> Page:
    """The page whose record lies at `offset`, as its `Page` or `Example` says.

    Raises:
      ValueError: There is no page.
    """
    window = Window(stream, size)
    if is_splittable(stream):
        found = _gzip_pages(window, warc_file, offset)
    else:
        found = _plain_pages(stream, window, warc_file, offset)
    for page in _annotated(found, lambda at: at <= offset):
        if isinstance(page, Page) and page.warc_length == length:
            return page
    raise ValueError(f"{warc_file} has no page of {length:,} bytes at byte {offset:,}.")


def page_of(content: bytes, warc_file: str, offset: int) -> Page | Flaw | None:
    """The page in one gzip member that was fetched on its own.

    Args:
      content: Its bytes.
      warc_file: Where they come from.
      offset: Where they begin there.

    Returns:
      The page; a flaw if it cannot be read; None if it is no page for us.
    """
    window = Window(io.BytesIO(content), len(content))
    try:
        member = inflate_member(window, 0)
        member.stop += offset
        found = list(_member_pages(member, warc_file, offset))
    except Unreadable as error:
        return Flaw(offset=offset, reason=error.reason, detail=error.detail)
    told = [item for item in found if isinstance(item, (Page, Flaw))]
    # A flaw beside the page has not cost it.
    return min(told, key=lambda item: isinstance(item, Flaw), default=None)


@dataclasses.dataclass(slots=True)
class _Note:
    """What the crawl says of a page in the metadata record after it."""

    offset: int
    page_id: str
    languages: tuple[str, ...]


@dataclasses.dataclass(slots=True)
class _Other:
    """A record of no interest, or the end of the file."""

    offset: int


_Found = Page | Flaw | _Note | _Other


def _annotated(
    found: Iterator[_Found], claim: Callable[[int], bool]
) -> Iterator[Page | Flaw]:
    """Pages that can be claimed, with the languages that the crawl declares.

    The metadata record comes after its page, so it is looked for past the last claim
    too; otherwise a page's languages would depend on where its file is cut.
    """
    page: Page | None = None
    ours, claimed = True, -1
    for item in found:
        if isinstance(item, _Note):
            if page is not None and item.page_id == page.id:
                page = dataclasses.replace(page, languages=item.languages)
        elif page is not None and not isinstance(item, Flaw):
            yield page
            page = None
        offset = item.warc_offset if isinstance(item, Page) else item.offset
        if ours and offset > claimed:
            ours, claimed = claim(offset), offset
        if not ours:
            if page is None or not isinstance(item, (_Note, Flaw)):
                break
        elif isinstance(item, Flaw):
            yield item
        elif isinstance(item, Page):
            page = item


def _gzip_pages(window: Window, warc_file: str, at: int) -> Iterator[_Found]:
    """What the members from the one at byte `at` hold, to the end of the file."""
    while at < window.size:
        try:
            member = inflate_member(window, at)
        except Unreadable as error:
            if error.reason == "too_large" and at == 0:
                # Perhaps the whole file is one member.
                yield from _single_member_pages(window, warc_file)
            else:
                yield Flaw(offset=at, reason=error.reason, detail=error.detail)
            at = next_record(window, at + 1)[0]
            continue
        yield from _member_pages(member, warc_file, at)
        at = member.stop
    yield _Other(window.size)


def _member_pages(member: Member, warc_file: str, offset: int) -> Iterator[_Found]:
    """What is in one member: a record, as a rule."""
    if not member.payload.startswith(b"WARC/"):
        detail = f"the member begins with {member.payload[:12]!r}"
        yield Flaw(offset=offset, reason="not_warc", detail=detail)
        return
    if _is_one_record(member.payload):
        yield _parse(member.payload, warc_file, offset, member.stop - offset)
        return
    records = []
    try:
        for _, record in _split_records(io.BytesIO(member.payload), 0, strict=False):
            records.append(record)
    except Unreadable as error:
        # What came before it is good: a Content-Length too small leaves a rest, say.
        yield Flaw(offset=offset, reason=error.reason, detail=error.detail)
    if len(records) > 1:
        yield _single_member(offset, f"{len(records):,} records share one gzip member")
    for record in records:
        yield _parse(record, warc_file, offset, member.stop - offset)


def _is_one_record(payload: bytes) -> bool:
    """Whether a payload is a record as its header describes it, and nothing else.

    Nearly all are; the others are read line by line.
    """
    end = payload.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
    lengths = _CONTENT_LENGTH.findall(payload, 0, end + 2) if end >= 0 else []
    return len(lengths) == 1 and payload[end + 4 + int(lengths[0]) :] == b"\r\n\r\n"


def _single_member(offset: int, detail: str) -> Flaw:
    return Flaw(offset=offset, reason="several_records_in_member", detail=detail)


def _single_member_pages(window: Window, warc_file: str) -> Iterator[_Found]:
    """The pages of a file's first member, which is too large to hold in memory."""
    stream = io.BufferedReader(_InflatedFile(window), WINDOW_BYTES)
    try:
        for number, (_, record) in enumerate(_split_records(stream, 0, strict=True)):
            if number == 1:
                yield _single_member(
                    0, "the file is one gzip member; it cannot be split"
                )
            yield _parse(record, warc_file, 0, window.size)
    except (Unreadable, *INFLATE_ERRORS) as error:
        reason = error.reason if isinstance(error, Unreadable) else "damaged"
        detail = error.detail if isinstance(error, Unreadable) else str(error)
        yield Flaw(offset=0, reason=reason, detail=detail)


class _InflatedFile(io.RawIOBase):
    """The inflated bytes of a file's first gzip member."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._offset = 0
        self._inflate = isal_zlib.decompressobj(wbits=31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            piece = self._inflate.unconsumed_tail
            if not piece:
                piece = self._window.at(self._offset, FEED_BYTES)
                self._offset += len(piece)
            if not piece:
                break
            output = self._inflate.decompress(piece, len(buffer))
            if output:
                buffer[: len(output)] = output
                return len(output)
        return 0


def _plain_pages(
    stream: BinaryIO, window: Window, warc_file: str, at: int
) -> Iterator[_Found]:
    """The pages of uncompressed records from the one at byte `at`, in order."""
    while at < window.size:
        stream.seek(at)
        try:
            for offset, record in _split_records(stream, at, strict=True):
                yield _parse(record, warc_file, offset, len(record))
            break
        except Unreadable as error:
            yield Flaw(offset=error.offset, reason=error.reason, detail=error.detail)
            found = window.find(_RECORD_START, error.offset)
            at = window.size if found < 0 else found + len(_RECORD_START) - 5
    yield _Other(window.size)


def _split_records(
    stream: BinaryIO, start: int, *, strict: bool
) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each uncompressed record in a row.

    Args:
      stream: At the first record.
      start: The first record's offset.
      strict: Whether a record must be as long as it says. In a gzip member of its own
        it is as long as the member, whatever it says.

    Raises:
      Unreadable: A record cannot be told from the next, or is too large.
    """
    at = start
    while line := stream.readline(MAX_HEADER_BYTES):
        if not line.strip():
            at += len(line)
            continue
        if not line.startswith(b"WARC/"):
            raise Unreadable("not_warc", f"a record begins with {line[:12]!r}", at)
        header, header_bytes, length = [line], len(line), -1
        while line.strip():
            line = stream.readline(MAX_HEADER_BYTES)
            header.append(line)
            header_bytes += len(line)
            if header_bytes > MAX_HEADER_BYTES:
                limit = f"over {MAX_HEADER_BYTES:,} bytes"
                raise Unreadable("endless_header", limit, at)
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                length = int(value)
        if length < 0 and strict:
            raise Unreadable("no_length", "no usable Content-Length", at)
        body = stream.read(
            min(length, members.MAX_RECORD_BYTES + 1) if length >= 0 else -1
        )
        if len(body) > members.MAX_RECORD_BYTES:
            raise Unreadable(
                "too_large", f"over {members.MAX_RECORD_BYTES:,} bytes", at
            )
        if len(body) < length and strict:
            detail = f"{len(body):,} of {length:,} bytes are there"
            raise Unreadable("truncated", detail, at)
        record = b"".join(header) + body
        yield at, record
        at += len(record)


def _parse(record: bytes, warc_file: str, offset: int, length: int) -> _Found:
    """What one record is to us."""
    kind = _warc_type(record)
    if kind not in (b"response", b"conversion", b"metadata"):
        return _Other(offset)
    try:
        version, fields, start = _head(record, 0)
        if version not in _VERSIONS:
            raise Unreadable("unparsable", f"its first line is {version[:40]!r}")
        declared = fields.get("content-length", "")
        stop = start + int(declared) if declared.isdecimal() else len(record)
        block = slice(start, stop)
        if kind == b"metadata":
            return _note(fields, record[block], offset)
        is_text = kind == b"conversion"
        page = _page(fields, record, block, warc_file, offset, length, is_text)
        return page or _Other(offset)
    except Unreadable as error:
        return Flaw(offset=offset, reason=error.reason, detail=error.detail)
    except _PARSE_ERRORS as error:
        detail = f"{type(error).__name__}: {error}"
        return Flaw(offset=offset, reason="unparsable", detail=detail)


def _head(data: bytes, start: int) -> tuple[str, dict[str, str], int]:
    """First line, fields by lower-case name, and where what they describe begins.

    This is WARC's form and HTTP's. Of fields with one name the first counts.

    Raises:
      Unreadable: The blank line does not come.
    """
    end = _HEAD_END.search(data, start, start + MAX_HEADER_BYTES)
    if end is None and len(data) - start > MAX_HEADER_BYTES:
        raise Unreadable("endless_header", f"over {MAX_HEADER_BYTES:,} bytes")
    head = data[start : end.start() if end else None]
    try:
        first, *lines = head.decode().split("\n")
    except UnicodeDecodeError:
        first, *lines = head.decode("latin-1").split("\n")
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t"):  # A field that goes on.
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        if name == "x-robots-tag" and name in fields:  # Each is for another crawler.
            fields[name] += f"\n{value.strip()}"
        fields.setdefault(name, value.strip())
    return first.strip(), fields, end.end() if end else len(data)


def _warc_type(record: bytes) -> bytes:
    """The record's type, found without parsing it: two of three are not read."""
    head = record[:2048].lower()
    at = head.find(b"\nwarc-type:")  # At a line's start: an address may hold it too.
    return head[at + 11 : at + 41].split(b"\n", 1)[0].strip() if at >= 0 else b""


def _page(
    fields: Mapping[str, str],
    record: bytes,
    block: slice,
    warc_file: str,
    offset: int,
    length: int,
    is_text: bool,
) -> Page | None:
    """The record as a page, or None if it holds no text for us.

    Args:
      fields: Of the record.
      record: Its bytes.
      block: Where in them its content lies; the page's body is copied only once.
      warc_file: See `Page`.
      offset: See `Page`.
      length: See `Page`.
      is_text: Whether it is of a WET file.
    """
    content_type, charset, robots = "text/plain", "utf-8", ""
    http: Mapping[str, str] = {}
    url = fields.get("warc-target-uri", "").strip("<>")
    if not is_text:
        if not url.startswith(("http:", "https:")):
            return None
        status, http, start = _head(record, block.start)
        block = slice(start, block.stop)
        if not status.startswith("HTTP/"):
            raise Unreadable("unparsable", f"its HTTP begins with {status[:40]!r}")
        if status.split()[1:2] != ["200"]:
            return None
        declared = http.get("content-type", "").lower()
        served, _, parameters = declared.partition(";")
        # Old crawls have the field, and nothing in it.
        content_type = fields.get("warc-identified-payload-type") or served.strip()
        if content_type not in _HTML:
            return None
        _, _, charset = parameters.partition("charset=")
        robots = http.get("x-robots-tag", "")
    date = fields.get("warc-date", "")
    digest = fields.get("warc-payload-digest") or fields.get("warc-block-digest", "")
    # A WET record has an id of its own; the page's makes WET and WARC agree.
    own = fields.get("warc-refers-to" if is_text else "warc-record-id", "")
    languages = fields.get("warc-identified-content-language", "")
    return Page(
        id=_uuid(own) or _derived_id(url, date, digest),
        url=url,
        date=date,
        warc_file=warc_file,
        warc_offset=offset,
        warc_length=length,
        digest=digest,
        languages=tuple(filter(None, languages.replace(" ", "").split(","))),
        content_type=content_type,
        charset=charset.strip(" \"'"),
        robots=robots,
        body=_decoded(http, record[block]),
    )


def _note(fields: Mapping[str, str], block: bytes, offset: int) -> _Note | _Other:
    """What Common Crawl's metadata record says of the page before it."""
    page_id = _uuid(fields.get("warc-concurrent-to", ""))
    for line in block[:MAX_HEADER_BYTES].splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"languages-cld2":
            detected = json.loads(value)
            # An unreliable guess is no declaration.
            if not detected.get("reliable"):
                return _Other(offset)
            found = detected.get("languages") or ()
            codes = (item.get("code-iso-639-3") for item in found)
            return _Note(offset, page_id, tuple(filter(None, codes)))
    return _Other(offset)


def _decoded(http: Mapping[str, str], body: bytes) -> bytes:
    """The HTTP payload with its encodings undone, if it has those it declares.

    Raises:
      Unreadable: It is brotli and damaged, or too large.
    """
    if http.get("transfer-encoding", "").lower() == "chunked":
        # Passes on what is not chunked although it says so.
        chunked = ChunkedDataReader(io.BytesIO(body))
        body = chunked.read(members.MAX_RECORD_BYTES)
    encoding = http.get("content-encoding", "").lower()
    if encoding == "br":
        return _unbrotli(body)
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _undeflate(body)
    return body


def _undeflate(body: bytes) -> bytes:
    """The body inflated, or as it is where the header was wrong about it."""
    for wbits in (47, -15):  # gzip or zlib by its header; raw.
        inflate = isal_zlib.decompressobj(wbits=wbits)
        try:
            inflated = inflate.decompress(body, members.MAX_RECORD_BYTES)
        except INFLATE_ERRORS:
            continue
        # Plain text may begin as raw deflate does, but not be that to its end.
        whole = inflate.eof and not inflate.unused_data
        if whole or (inflated and wbits > 0):
            return inflated
    return body


def _unbrotli(body: bytes) -> bytes:
    """The body inflated, or as it is where it is plainly text."""
    try:
        # Text may inflate by accident; brotli is not UTF-8 by accident.
        body.decode("utf-8")
        return body
    except UnicodeDecodeError:
        inflate = brotli.Decompressor()
    try:
        inflated = inflate.process(body, output_buffer_limit=members.MAX_RECORD_BYTES)
    except brotli.error as error:
        if body.lstrip()[:1] == b"<":
            return body
        raise Unreadable("damaged_brotli", str(error)) from error
    return inflated


def _uuid(urn: str) -> str:
    return urn.strip("<> ").removeprefix("urn:uuid:")


def _derived_id(url: str, date: str, digest: str) -> str:
    name = "\n".join((url, date, digest)).encode()
    return hashlib.blake2b(name, digest_size=16).hexdigest()


class _Bytes(beam.RestrictionProvider):
    """Any byte is a place to cut; the boundary rule finds the record that follows."""

    def initial_restriction(self, piece: ByteRange) -> OffsetRange:
        return OffsetRange(piece.start, piece.stop)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def split(
        self, piece: ByteRange, restriction: OffsetRange
    ) -> Iterator[OffsetRange]:
        for start in range(restriction.start, restriction.stop, SPLIT_BYTES):
            yield OffsetRange(start, min(start + SPLIT_BYTES, restriction.stop))

    def restriction_size(self, piece: ByteRange, restriction: OffsetRange) -> int:
        return restriction.size()


def _as_they_are(
    pages: Iterator[Page | Flaw], covered: Callable[[], ByteRange]
) -> Iterator[Page | Flaw]:
    return pages


class ReadWarc(beam.DoFn):
    """Splittable: from byte ranges of files to what is made of their pages.

    A runner may cut a range anywhere while it is read; progress is the offset of the
    last record.

    Args:
      root: Goes before each range's path; may be empty.
      use: Called once for each range as it is read, with its pages and flaws, and with
        a function that tells, when they are exhausted, which range they cover. By
        default they are passed on.
    """

    def __init__(
        self,
        root: str = "",
        use: Callable[
            [Iterator[Page | Flaw], Callable[[], ByteRange]], Iterable[Any]
        ] = _as_they_are,
    ) -> None:
        self._root = root
        self._use = use

    def process(
        self,
        piece: ByteRange,
        tracker: Any = beam.DoFn.RestrictionParam(_Bytes()),  # noqa: B008
    ) -> Iterator[Any]:
        def covered() -> ByteRange:
            rest = tracker.current_restriction()
            return dataclasses.replace(piece, start=rest.start, stop=rest.stop)

        yield from self._use(self._pages(piece, tracker), covered)

    def _pages(self, piece: ByteRange, tracker: Any) -> Iterator[Page | Flaw]:
        start = tracker.current_restriction().start
        try:
            with open_file(self._root, piece.path) as stream:
                yield from read_pages(
                    stream, piece.size, piece.path, start, tracker.try_claim
                )
        finally:
            # Nothing is left to cut off; without this, Beam takes it for unfinished.
            tracker.try_claim(sys.maxsize)
