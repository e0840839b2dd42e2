"""Gzip members of archives: inflating them one by one, and where records begin.

Common Crawl writes one gzip member a record. Members are inflated here, because that
is where the time goes and because it gives exact offsets, splitting and recovery after
damage.
"""

import dataclasses
import zlib
from typing import BinaryIO, cast

from isal import isal_zlib

MAX_RECORD_BYTES = 32 << 20  # Inflated. Common Crawl cuts pages at 5 MB.
WINDOW_BYTES = 1 << 20
FEED_BYTES = 32 << 10

# A payload's bytes appear verbatim in a deflate stream only inside one stored block,
# whose length field has 16 bits. So a chain of members inside a payload (an archived
# .warc.gz) covers at most this much, and a longer one is made of real records.
_STORED_BLOCK_BYTES = 65_535
_LOOK_BACK_BYTES = 1 << 20
_MAGIC = b"\x1f\x8b\x08"

# isal_zlib.error is no subclass of zlib.error.
INFLATE_ERRORS = (zlib.error, cast(type[Exception], isal_zlib.error))


class Unreadable(Exception):
    """A member or record that cannot be had: (reason, detail, offset)."""

    def __init__(self, reason: str, detail: str, offset: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.offset = offset


class Window:
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
            self._bytes = self._stream.read(max(WINDOW_BYTES, num_bytes))
            self._start, begin = offset, 0
        return self._bytes[begin : begin + num_bytes]

    def find(self, pattern: bytes, offset: int) -> int:
        """Where `pattern` first begins at or after `offset`, or -1."""
        while offset < self.size:
            # Only what is not there yet: a page may hold the pattern at every third
            # byte.
            self.at(offset, len(pattern))
            found = self._bytes.find(pattern, offset - self._start)
            if found >= 0:
                return self._start + found
            end = self._start + len(self._bytes)
            if end >= self.size or end - offset < len(pattern):
                return -1
            offset = end - len(pattern) + 1
        return -1


@dataclasses.dataclass(slots=True)
class Member:
    """One gzip member: where it ends, and what is in it."""

    stop: int
    payload: bytes


def inflate_member(window: Window, offset: int) -> Member:
    """The gzip member at `offset`.

    Raises:
      Unreadable: There is none, it is damaged, or it is too large.
    """
    if window.at(offset, 3) != _MAGIC:
        raise Unreadable("not_gzip", f"no gzip member begins at byte {offset:,}")
    inflate = isal_zlib.decompressobj(wbits=31)
    pieces, total, fed = [], 0, offset
    try:
        while not inflate.eof:
            piece = window.at(fed, FEED_BYTES)
            if not piece:
                raise Unreadable("truncated", "the file ends inside the record")
            fed += len(piece)
            while piece and not inflate.eof:
                pieces.append(inflate.decompress(piece, MAX_RECORD_BYTES + 1 - total))
                total += len(pieces[-1])
                if total > MAX_RECORD_BYTES:
                    raise Unreadable(
                        "too_large", f"over {MAX_RECORD_BYTES:,} bytes inflated"
                    )
                piece = inflate.unconsumed_tail
    except INFLATE_ERRORS as error:
        raise Unreadable("damaged", f"{error}") from error
    return Member(stop=fed - len(inflate.unused_data), payload=b"".join(pieces))


def _chain_end(window: Window, offset: int) -> tuple[int, bool]:
    """Where the chain of records from `offset` was left, and if it is believed."""
    at = offset
    while at < window.size:
        try:
            member = inflate_member(window, at)
        except Unreadable:
            return at, False
        if not member.payload.startswith(b"WARC/"):
            return at, False
        at = member.stop
        if at - offset > _STORED_BLOCK_BYTES:
            return at, True
    return at, at > offset


def next_record(window: Window, offset: int) -> tuple[int, bool]:
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
    return boundary_in(Window(stream, size), offset)


def boundary_in(window: Window, offset: int) -> int:
    """`boundary`, with what was read kept in the window."""
    if offset == 0:
        return 0
    found, passed = next_record(window, offset)
    if not passed:
        return found
    # A reader of the whole file would have come from before: start from a record that
    # is believed, and walk as that reader does.
    back = _LOOK_BACK_BYTES
    while True:
        begin = max(0, offset - back)
        at = next_record(window, begin)[0] if begin else 0
        if at < offset:
            break
        back *= 2
    while at < offset:
        at = _after(window, at)
    return at


def _after(window: Window, offset: int) -> int:
    """Where a sequential reader goes on after the member at `offset`."""
    try:
        return inflate_member(window, offset).stop
    except Unreadable:
        return next_record(window, offset + 1)[0]


def is_splittable(stream: BinaryIO) -> bool:
    """Whether ranges of a file can be read on their own: only gzip members can."""
    # A buffered stream would fetch megabytes over the network for these three bytes.
    raw = getattr(stream, "raw", stream)
    position = raw.tell()
    raw.seek(0)
    first = raw.read(len(_MAGIC))
    raw.seek(position)
    return first == _MAGIC
