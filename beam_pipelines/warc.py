"""WARC and WET files: gzip members, record boundaries, pages.

Common Crawl writes one gzip member a record. Members are inflated here, because that
is where the time goes and because it gives exact offsets, splitting and recovery after
damage; what is inside a wanted member is parsed by warcio.

A byte range owns the records whose first byte lies in it, so any set of ranges that
covers a file reads each of its records once.
"""

import dataclasses
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import brotli
from isal import isal_zlib
from warcio.bufferedreaders import ChunkedDataReader
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader
from warcio.statusandheaders import StatusAndHeadersParserException

from beam_pipelines.schema import Page

MAX_RECORD_BYTES = 32 << 20  # Inflated. Common Crawl cuts pages at 5 MB.
MAX_HEADER_BYTES = 64 << 10

# A payload's bytes appear verbatim in a deflate stream only inside one stored block,
# whose length field has 16 bits. So a chain of members inside a payload (an archived
# .warc.gz) covers at most this much, and a longer one is made of real records.
_STORED_BLOCK_BYTES = 65_535
_LOOK_BACK_BYTES = 1 << 20
_MAGIC = b"\x1f\x8b\x08"
_RECORD_START = b"\r\n\r\nWARC/"
_WINDOW_BYTES = 1 << 20
_FEED_BYTES = 32 << 10
_HTML = ("text/html", "application/xhtml+xml")

# isal_zlib.error is no subclass of zlib.error.
_INFLATE_ERRORS = (zlib.error, cast(type[Exception], isal_zlib.error))
# What warcio raises on records that it cannot read; the last two are its own slips on
# records that end early.
_PARSE_ERRORS = (
    ArchiveLoadFailed,
    StatusAndHeadersParserException,
    EOFError,
    ValueError,
    AttributeError,
    TypeError,
    RecursionError,  # From JSON that is nested without end.
)


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


class _Unreadable(Exception):
    """A member or record that cannot be had: (reason, detail, offset)."""

    def __init__(self, reason: str, detail: str, offset: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.offset = offset


class _Window:
    """A file, read in large pieces, looked at anywhere."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self._stream = stream
        self._start = 0
        self._bytes = b""

    def at(self, offset: int, num_bytes: int) -> bytes:
        """Up to `num_bytes` from `offset`; fewer only at the end of the file."""
        begin = offset - self._start
        if begin < 0 or begin + num_bytes > len(self._bytes):
            self._stream.seek(offset)
            self._bytes = self._stream.read(max(_WINDOW_BYTES, num_bytes))
            self._start, begin = offset, 0
        return self._bytes[begin : begin + num_bytes]

    def find(self, pattern: bytes, offset: int) -> int:
        """Where `pattern` first begins at or after `offset`, or -1."""
        while offset < self.size:
            piece = self.at(offset, _WINDOW_BYTES)
            found = piece.find(pattern)
            if found >= 0:
                return offset + found
            if offset + len(piece) >= self.size or len(piece) < len(pattern):
                return -1
            offset += len(piece) - len(pattern) + 1
        return -1


@dataclasses.dataclass(slots=True)
class _Member:
    """One gzip member: where it ends, and what is in it."""

    stop: int
    payload: bytes


def _inflate(window: _Window, offset: int) -> _Member:
    """The gzip member at `offset`.

    Raises:
      _Unreadable: There is none, it is damaged, or it is too large.
    """
    if window.at(offset, 3) != _MAGIC:
        raise _Unreadable("not_gzip", f"no gzip member begins at byte {offset:,}")
    inflate = isal_zlib.decompressobj(wbits=31)
    pieces, total, fed = [], 0, offset
    try:
        while not inflate.eof:
            piece = window.at(fed, _FEED_BYTES)
            if not piece:
                raise _Unreadable("truncated", "the file ends inside the record")
            fed += len(piece)
            while piece and not inflate.eof:
                pieces.append(inflate.decompress(piece, MAX_RECORD_BYTES + 1 - total))
                total += len(pieces[-1])
                if total > MAX_RECORD_BYTES:
                    raise _Unreadable(
                        "too_large", f"over {MAX_RECORD_BYTES:,} bytes inflated"
                    )
                piece = inflate.unconsumed_tail
    except _INFLATE_ERRORS as error:
        raise _Unreadable("damaged", f"{error}") from error
    return _Member(stop=fed - len(inflate.unused_data), payload=b"".join(pieces))


def _chain_end(window: _Window, offset: int) -> tuple[int, bool]:
    """Where the chain of records from `offset` was left, and if it is believed."""
    at = offset
    while at < window.size:
        try:
            member = _inflate(window, at)
        except _Unreadable:
            return at, False
        if not member.payload.startswith(b"WARC/"):
            return at, False
        at = member.stop
        if at - offset > _STORED_BLOCK_BYTES:
            return at, True
    return at, at > offset


def _search(window: _Window, offset: int) -> tuple[int, bool]:
    """The first believed record from `offset` on, and if a shorter chain was passed.

    That is exact on sound files. Next to damage, a good record may begin a chain too
    short to be believed.
    """
    passed = False
    while (candidate := window.find(_MAGIC, offset)) >= 0:
        end, believed = _chain_end(window, candidate)
        if believed:
            return candidate, passed
        passed |= end > candidate
        # Going on from candidate + 1 would be quadratic.
        offset = max(end, candidate + 1)
    return window.size, passed


def boundary(stream: BinaryIO, size: int, offset: int) -> int:
    """Where the first record at or after `offset` begins; `size` if none does.

    It depends on the file and `offset` alone, so neighbouring ranges agree.

    Args:
      stream: A seekable file of gzip members, one a record.
      size: Of the file, in bytes.
      offset: In bytes.
    """
    return _boundary(_Window(stream, size), offset)


def _boundary(window: _Window, offset: int) -> int:
    if offset == 0:
        return 0
    found, passed = _search(window, offset)
    if not passed:
        return found
    # A reader of the whole file would have come from before: start from a record that
    # is believed, and walk as that reader does.
    back = _LOOK_BACK_BYTES
    while True:
        begin = max(0, offset - back)
        at = _search(window, begin)[0] if begin else 0
        if at < offset:
            break
        back *= 2
    while at < offset:
        at = _after(window, at)
    return at


def _after(window: _Window, offset: int) -> int:
    """Where a sequential reader goes on after the member at `offset`."""
    try:
        return _inflate(window, offset).stop
    except _Unreadable:
        return _search(window, offset + 1)[0]


def is_splittable(stream: BinaryIO) -> bool:
    """Whether ranges of a file can be read on their own: only gzip members can."""
    stream.seek(0)
    return stream.read(3) == _MAGIC


def read_pages(
    stream: BinaryIO, size: int, warc_file: str, start: int, stop: int
) -> Iterator[Page | Flaw]:
    """Pages whose records begin in [start, stop), and what could not be read there.

    A file that is not a series of gzip members cannot be split: the range that begins
    at 0 reads all of it, the others nothing.

    Args:
      stream: A seekable WARC or WET file, gzipped or plain.
      size: Of the file, in bytes.
      warc_file: The name that pages carry.
      start: In bytes.
      stop: In bytes.
    """
    window = _Window(stream, size)
    if window.at(0, 3) == _MAGIC:
        at = _boundary(window, start)
        yield from _annotated(_gzip_pages(window, warc_file, at), stop)
    elif start > 0:
        return
    elif window.at(0, 5) == b"WARC/":
        yield from _annotated(_plain_pages(stream, window, warc_file, 0), size)
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
    window = _Window(stream, size)
    if is_splittable(stream):
        found = _gzip_pages(window, warc_file, offset)
    else:
        found = _plain_pages(stream, window, warc_file, offset)
    for page in _annotated(found, offset + 1):
        if isinstance(page, Page) and page.warc_length == length:
            return page
    raise ValueError(f"{warc_file} has no page of {length:,} bytes at byte {offset:,}.")


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


def _annotated(found: Iterator[_Found], stop: int) -> Iterator[Page | Flaw]:
    """Pages that begin before `stop`, with the languages that the crawl declares.

    The metadata record comes after its page, so it is looked for past `stop` too;
    otherwise a page's languages would depend on where its file is cut.
    """
    page: Page | None = None
    for item in found:
        if isinstance(item, _Note):
            if page is not None and item.page_id == page.id:
                page = dataclasses.replace(page, languages=item.languages)
        elif page is not None and not isinstance(item, Flaw):
            yield page
            page = None
        offset = item.warc_offset if isinstance(item, Page) else item.offset
        if offset >= stop:
            if page is None or not isinstance(item, (_Note, Flaw)):
                break
        elif isinstance(item, Flaw):
            yield item
        elif isinstance(item, Page):
            page = item
    if page is not None:
        yield page


def _gzip_pages(window: _Window, warc_file: str, at: int) -> Iterator[_Found]:
    """What the members from the one at byte `at` hold, to the end of the file."""
    while at < window.size:
        try:
            member = _inflate(window, at)
        except _Unreadable as error:
            if error.reason == "too_large" and at == 0:
                # Perhaps the whole file is one member.
                yield from _single_member_pages(window, warc_file)
            else:
                yield Flaw(offset=at, reason=error.reason, detail=error.detail)
            at = _search(window, at + 1)[0]
            continue
        yield from _member_pages(member, warc_file, at)
        at = member.stop
    yield _Other(window.size)


def _member_pages(member: _Member, warc_file: str, offset: int) -> Iterator[_Found]:
    """What is in one member: a record, as a rule."""
    if not member.payload.startswith(b"WARC/"):
        detail = f"the member begins with {member.payload[:12]!r}"
        yield Flaw(offset=offset, reason="not_warc", detail=detail)
        return
    records = []
    try:
        for _, record in _split_records(io.BytesIO(member.payload), 0, strict=False):
            records.append(record)
    except _Unreadable as error:
        # What came before it is good: a Content-Length too small leaves a rest, say.
        yield Flaw(offset=offset, reason=error.reason, detail=error.detail)
    if len(records) > 1:
        yield _single_member(offset, f"{len(records):,} records share one gzip member")
    for record in records:
        yield _parse(record, warc_file, offset, member.stop - offset)


def _single_member(offset: int, detail: str) -> Flaw:
    return Flaw(offset=offset, reason="several_records_in_member", detail=detail)


def _single_member_pages(window: _Window, warc_file: str) -> Iterator[_Found]:
    """The pages of a file's first member, which is too large to hold in memory."""
    stream = io.BufferedReader(_InflatedFile(window), _WINDOW_BYTES)
    try:
        for number, (_, record) in enumerate(_split_records(stream, 0, strict=True)):
            if number == 1:
                yield _single_member(
                    0, "the file is one gzip member; it cannot be split"
                )
            yield _parse(record, warc_file, 0, window.size)
    except (_Unreadable, *_INFLATE_ERRORS) as error:
        reason = error.reason if isinstance(error, _Unreadable) else "damaged"
        detail = error.detail if isinstance(error, _Unreadable) else str(error)
        yield Flaw(offset=0, reason=reason, detail=detail)


class _InflatedFile(io.RawIOBase):
    """The inflated bytes of a file's first gzip member."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self._offset = 0
        self._inflate = isal_zlib.decompressobj(wbits=31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            piece = self._inflate.unconsumed_tail
            if not piece:
                piece = self._window.at(self._offset, _FEED_BYTES)
                self._offset += len(piece)
            if not piece:
                break
            output = self._inflate.decompress(piece, len(buffer))
            if output:
                buffer[: len(output)] = output
                return len(output)
        return 0


def _plain_pages(
    stream: BinaryIO, window: _Window, warc_file: str, at: int
) -> Iterator[_Found]:
    """The pages of uncompressed records from the one at byte `at`, in order."""
    while at < window.size:
        stream.seek(at)
        try:
            for offset, record in _split_records(stream, at, strict=True):
                yield _parse(record, warc_file, offset, len(record))
            break
        except _Unreadable as error:
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
      _Unreadable: A record cannot be told from the next, or is too large.
    """
    at = start
    while line := stream.readline(MAX_HEADER_BYTES):
        if not line.strip():
            at += len(line)
            continue
        if not line.startswith(b"WARC/"):
            raise _Unreadable("not_warc", f"a record begins with {line[:12]!r}", at)
        header, header_bytes, length = [line], len(line), -1
        while line.strip():
            line = stream.readline(MAX_HEADER_BYTES)
            header.append(line)
            header_bytes += len(line)
            if header_bytes > MAX_HEADER_BYTES:
                limit = f"over {MAX_HEADER_BYTES:,} bytes"
                raise _Unreadable("endless_header", limit, at)
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                length = int(value)
        if length < 0 and strict:
            raise _Unreadable("no_length", "no usable Content-Length", at)
        body = stream.read(min(length, MAX_RECORD_BYTES + 1) if length >= 0 else -1)
        if len(body) > MAX_RECORD_BYTES:
            raise _Unreadable("too_large", f"over {MAX_RECORD_BYTES:,} bytes", at)
        if len(body) < length and strict:
            detail = f"{len(body):,} of {length:,} bytes are there"
            raise _Unreadable("truncated", detail, at)
        record = b"".join(header) + body
        yield at, record
        at += len(record)


def _parse(record: bytes, warc_file: str, offset: int, length: int) -> _Found:
    """What one record is to us."""
    kind = _warc_type(record)
    if kind not in (b"response", b"conversion", b"metadata"):
        return _Other(offset)
    try:
        parsed = ArcWarcRecordLoader().parse_record_stream(io.BytesIO(record))
        if kind == b"metadata":
            return _note(parsed, offset)
        return _page(parsed, warc_file, offset, length) or _Other(offset)
    except _Unreadable as error:
        return Flaw(offset=offset, reason=error.reason, detail=error.detail)
    except _PARSE_ERRORS as error:
        detail = f"{type(error).__name__}: {error}"
        return Flaw(offset=offset, reason="unparsable", detail=detail)


def _warc_type(record: bytes) -> bytes:
    """The record's type, found without parsing it: two of three are not read."""
    head = record[:2048].lower()
    at = head.find(b"\nwarc-type:")  # At a line's start: an address may hold it too.
    return head[at + 11 : at + 41].split(b"\n", 1)[0].strip() if at >= 0 else b""


def _page(
    record: ArcWarcRecord, warc_file: str, offset: int, length: int
) -> Page | None:
    """The record as a page, or None if it holds no text for us."""
    header = record.rec_headers.get_header
    is_text = record.rec_type == "conversion"
    content_type, charset, robots = "text/plain", "utf-8", ""
    if not is_text:
        if record.http_headers is None or record.http_headers.get_statuscode() != "200":
            return None
        declared = record.http_headers.get_header("Content-Type") or ""
        content_type, _, parameters = declared.lower().partition(";")
        content_type = header("WARC-Identified-Payload-Type") or content_type.strip()
        if content_type not in _HTML:
            return None
        _, _, charset = parameters.partition("charset=")
        robots = record.http_headers.get_header("X-Robots-Tag") or ""
    url = header("WARC-Target-URI") or ""
    date = header("WARC-Date") or ""
    digest = header("WARC-Payload-Digest") or header("WARC-Block-Digest") or ""
    # A WET record has an id of its own; the page's makes WET and WARC agree.
    own = header("WARC-Refers-To") if is_text else header("WARC-Record-ID")
    languages = header("WARC-Identified-Content-Language") or ""
    return Page(
        id=_uuid(own) or _derived_id(url, date, digest),
        url=url.strip("<>"),
        date=date,
        warc_file=warc_file,
        warc_offset=offset,
        warc_length=length,
        digest=digest,
        languages=tuple(filter(None, languages.replace(" ", "").split(","))),
        content_type=content_type,
        charset=charset.strip(" \"'"),
        robots=robots,
        body=record.raw_stream.read() if is_text else _body(record),
    )


def _note(record: ArcWarcRecord, offset: int) -> _Note | _Other:
    """What Common Crawl's metadata record says of the page before it."""
    page_id = _uuid(record.rec_headers.get_header("WARC-Concurrent-To"))
    for line in record.raw_stream.read(MAX_HEADER_BYTES).splitlines():
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


def _body(record: ArcWarcRecord) -> bytes:
    """The HTTP payload with its encodings undone, if it has those it declares.

    Raises:
      _Unreadable: It is brotli and damaged, or too large.
    """
    stream = record.raw_stream
    headers = record.http_headers
    if (headers.get_header("Transfer-Encoding") or "").lower() == "chunked":
        # Passes on what is not chunked although it says so.
        stream = ChunkedDataReader(stream)
    body = stream.read(MAX_RECORD_BYTES)
    encoding = (headers.get_header("Content-Encoding") or "").strip().lower()
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
            inflated = inflate.decompress(body, MAX_RECORD_BYTES)
        except _INFLATE_ERRORS:
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
        inflated = inflate.process(body, output_buffer_limit=MAX_RECORD_BYTES)
    except brotli.error as error:
        if body.lstrip()[:1] == b"<":
            return body
        raise _Unreadable("damaged_brotli", str(error)) from error
    return inflated


def _uuid(urn: str | None) -> str:
    return (urn or "").strip("<> ").removeprefix("urn:uuid:")


def _derived_id(url: str, date: str, digest: str) -> str:
    name = "\n".join((url, date, digest)).encode()
    return hashlib.blake2b(name, digest_size=16).hexdigest()
