"""Where records begin, in files that are made to mislead: the truth is how we wrote."""

import bisect
import dataclasses
import functools
import gzip
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import pytest

from beam_pipelines import members
from beam_pipelines.members import (
    FEED_BYTES,
    WINDOW_BYTES,
    Unreadable,
    Window,
    boundary,
    inflate_member,
)
from tests.beam_pipelines.test_warc import (
    flipped,
    member,
    metadata,
    read,
    response,
    starts_of,
)

MAGIC = b"\x1f\x8b\x08"
BLOCK_BYTES = 65_535  # All that the length field of a stored block can say.


def window_of(content: bytes) -> Window:
    return Window(io.BytesIO(content), len(content))


def trailer(payload: bytes) -> bytes:
    return struct.pack("<II", zlib.crc32(payload), len(payload))


def stored(payload: bytes, *blocks: int) -> bytes:
    """A member of stored blocks: of these sizes first, then as large as can be."""
    pieces, at, sizes = [MAGIC + bytes(7)], 0, iter(blocks)
    while at < len(payload) or len(pieces) == 1:
        size = min(next(sizes, BLOCK_BYTES), len(payload) - at)
        is_last = at + size == len(payload)
        pieces.append(struct.pack("<BHH", is_last, size, size ^ 0xFFFF))
        pieces.append(payload[at : at + size])
        at += size
    return b"".join(pieces) + trailer(payload)


def exactly(num_bytes: int, number: int = 0) -> bytes:
    """A stored member that holds a page and is of this size."""
    body = num_bytes - len(stored(response(number, b"")))
    while len(found := stored(response(number, bytes(body)))) > num_bytes:
        body -= len(found) - num_bytes
    assert len(found) == num_bytes
    return found


def chain(num_bytes: int, members: int) -> bytes:
    """Pages in stored members that take up so many bytes in all."""
    first = num_bytes // members
    last = num_bytes - first * (members - 1)
    return exactly(first) * (members - 1) + exactly(last, 1)


# Members.


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("num_bytes", [0, 1, 5000, 200_000, 2_000_000])
def test_a_member_is_its_payload_and_ends_where_the_next_begins(level, num_bytes):
    payload = random.Random(num_bytes).randbytes(num_bytes // 2) * 2
    before, content = b"before", gzip.compress(payload, level)
    found = inflate_member(window_of(before + content + content), len(before))
    assert found.payload == payload
    assert found.stop == len(before + content)


def test_a_member_may_end_anywhere_in_the_pieces_that_are_read():
    """The trailer is cut at each of its bytes, by the feed and by the window."""
    for edge in (FEED_BYTES, WINDOW_BYTES):
        for end in range(edge - 12, edge + 13):
            num_blocks = -(-end // (BLOCK_BYTES + 5))
            payload = bytes(end - 18 - 5 * num_blocks)
            content = stored(payload)
            assert len(content) == end
            for rest in (b"", b"rest", content):
                found = inflate_member(window_of(content + rest), 0)
                assert (found.stop, found.payload) == (end, payload)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        (4, struct.pack("<H", 12) + b"sl\x08\x00" + bytes(8)),
        (4, struct.pack("<H", 60_000) + MAGIC * 2000 + bytes(54_000)),
        (8, MAGIC + b"pages.warc\x00"),
        (16, b"c" * 70_000 + b"\x00"),
        (4 | 8 | 16, struct.pack("<H", 3) + MAGIC + b"n\x00" + b"c\x00"),
    ],
    ids=["extra", "long extra", "name", "long comment", "all"],
)
def test_a_member_whose_header_says_more_is_read_the_same(flags, fields):
    plain = stored(response(1))
    named = plain[:3] + bytes([flags]) + plain[4:10] + fields + plain[10:]
    assert gzip.decompress(named) == response(1)
    pieces = [member(response(0)), named, member(response(2))]
    content = b"".join(pieces)
    assert inflate_member(window_of(content), len(pieces[0])).payload == response(1)
    for offset in range(0, len(content), 97):
        expected = next((s for s in starts_of(pieces) if s >= offset), len(content))
        assert boundary(io.BytesIO(content), len(content), offset) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not_gzip"),
        (MAGIC[:2], "not_gzip"),
        (b"plain", "not_gzip"),
        (MAGIC, "truncated"),
        (member(response(0))[:-1], "truncated"),
        (member(response(0))[:40], "truncated"),
        (flipped(member(response(0)), 60), "damaged"),
        (flipped(member(response(0)), -2), "damaged"),
        (flipped(stored(response(0)), 12), "damaged"),
        (stored(bytes(7001)), "too_large"),
    ],
)  # fmt: skip
def test_a_member_that_cannot_be_had_is_named(content, reason, monkeypatch):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 7000)
    with pytest.raises(Unreadable) as error:
        inflate_member(window_of(content), 0)
    assert error.value.reason == reason
    assert error.value.detail


def test_every_flipped_bit_of_data_is_noticed():
    content = stored(response(0))
    # The header says when and where; then come bits that fill up a byte.
    for at in range(11, len(content)):
        with pytest.raises(Unreadable):
            inflate_member(window_of(flipped(content, at)), 0)


def test_a_window_shows_the_bytes_of_the_file_and_finds_what_is_in_it():
    rng = random.Random(6)
    content = bytearray(rng.randbytes(3 * WINDOW_BYTES + 12_345).replace(MAGIC, b"abc"))
    planted = [0, 1000, WINDOW_BYTES - 1, 2 * WINDOW_BYTES - 2, len(content) - 3]
    for at in planted:
        content[at : at + 3] = MAGIC
    window = window_of(bytes(content))
    for _ in range(200):
        at, num_bytes = rng.randrange(len(content)), rng.randrange(1, 70_000)
        assert window.at(at, num_bytes) == content[at : at + num_bytes]
    assert window.at(len(content), 10) == b""
    for _ in range(100):
        offset = rng.choice(planted) + rng.randrange(-3, 4)
        offset = rng.choice([max(offset, 0), rng.randrange(len(content))])
        expected = next((at for at in planted if at >= offset), -1)
        assert window.find(MAGIC, offset) == expected


# Files that mislead, and the truth about them.


def planted_in(content: bytes, starts: Iterable[int]) -> list[int]:
    """Where a member seems to begin, and no record does."""
    found, at, starts = [], -1, set(starts)
    while (at := content.find(MAGIC, at + 1)) >= 0:
        if at not in starts:
            found.append(at)
    return found


@dataclasses.dataclass(frozen=True)
class Layout:
    """A file, where its records begin, and where the last one ends.

    Whoever walks along the file comes upon what is `unreadable` too, and reports it.
    """

    content: bytes
    starts: list[int]
    end: int
    unreadable: frozenset[int] = frozenset()

    @functools.cached_property
    def planted(self) -> list[int]:
        """Where a member seems to begin, and no record does."""
        return planted_in(self.content, self.starts)

    def next_start(self, offset: int) -> int:
        at = bisect.bisect_left(self.starts, offset)
        return self.starts[at] if at < len(self.starts) else len(self.content)

    def is_right(self, offset: int, found: int) -> bool:
        """Whether no record lies between, and none is cut."""
        is_place = found in self.unreadable or self.next_start(found) == found
        return (
            offset <= found
            and self.next_start(found) == self.next_start(offset)
            and (is_place or found >= self.end)
        )


def lay(records: list[bytes], tail: bytes = b"", late: Sequence[bytes] = ()) -> Layout:
    """Records, then what is none, then records again up to the end of the file."""
    starts = starts_of([*records, tail, *late])
    end = starts[-1] if late else starts[len(records)]
    content = b"".join([*records, tail, *late])
    return Layout(content, starts[: len(records)] + starts[len(records) + 1 : -1], end)


def ordinary(rng: random.Random, count: int) -> list[bytes]:
    """Records as any file has them, one in five without a body."""
    return [
        member(
            response(n, rng.randbytes(rng.choice([0, 700, 3000, 6000, 9000])) * 2),
            rng.choice([0, 1, 6]),
        )
        for n in range(count)
    ]


def archive(rng: random.Random, count: int, body: bytes | None = None) -> bytes:
    """A .warc.gz whose members are stored, so that they show through."""
    return b"".join(
        stored(
            response(n, rng.randbytes(rng.randrange(6000)) if body is None else body)
        )
        for n in range(count)
    )


def spoiled(rng: random.Random, count: int) -> bytes:
    """An archive in which many a checksum is wrong."""
    pieces = [archive(rng, 1) for _ in range(count)]
    return b"".join(flipped(p, len(p) - 6) if rng.random() < 0.3 else p for p in pieces)


def among(rng: random.Random, bodies: list[bytes], count: int = 40) -> list[bytes]:
    """Pages with these bodies, stored, among ordinary records."""
    records = ordinary(rng, count)
    records += [stored(response(n, body)) for n, body in enumerate(bodies)]
    rng.shuffle(records)
    return records


def nested(rng: random.Random) -> list[bytes]:
    """Pages that are archives of archives of archives."""
    inner = [archive(rng, 4) for _ in range(3)]
    middle = [archive(rng, 3, body) for body in inner]
    return among(rng, [archive(rng, 2, body) for body in middle])


def in_blocks(rng: random.Random) -> list[bytes]:
    """Records whose archives are cut by blocks in the middle of members."""
    records = ordinary(rng, 30)
    for number in range(3):
        payload = response(number, archive(rng, 40))
        blocks = [rng.randrange(1, BLOCK_BYTES) for _ in range(10)]
        records.append(stored(payload, *blocks))
    rng.shuffle(records)
    return records


def filled_blocks(rng: random.Random) -> list[bytes]:
    """Records in which an archive fills one block to its last byte, or nearly."""
    records = ordinary(rng, 30)
    for short in (0, 0, 1, 100):
        head = response(0, b"x")[: -len(b"x\r\n\r\n")]
        payload = head + chain(BLOCK_BYTES - short, 12) + bytes(short) + b"the rest"
        records.append(stored(payload, len(head)))
        assert len(records[-1]) == len(payload) + 18 + 3 * 5
    rng.shuffle(records)
    return records


def large(rng: random.Random) -> list[bytes]:
    """Records above a block, and one above the reader's window."""
    records = ordinary(rng, 20)
    sizes = [70_000, 140_000, BLOCK_BYTES, 1_200_000]
    records += [member(response(n, rng.randbytes(s)), 1) for n, s in enumerate(sizes)]
    records += [stored(response(0, archive(rng, 40)))]
    rng.shuffle(records)
    return records


def empty_bodies(rng: random.Random) -> list[bytes]:
    records = [member(response(n, b"")) for n in range(150)]
    return [*records, *among(rng, [archive(rng, 30)], 10)]


def one_member(rng: random.Random) -> list[bytes]:
    """All that a file has in a single member, archives included."""
    bodies = [archive(rng, 30), spoiled(rng, 20), b"", archive(rng, 3)]
    return [stored(b"".join(response(n, body) for n, body in enumerate(bodies)))]


def fooled(rng: random.Random) -> list[bytes]:
    """What comes before a tail: the last records have chains too short to believe."""
    records = among(rng, [archive(rng, 20), archive(rng, 8)], 25)
    return [*records, stored(response(0, archive(rng, 3))), *ordinary(rng, 2)]


LAYOUTS: dict[str, Callable[[random.Random], Layout]] = {
    "stored archives": lambda rng: lay(
        among(rng, [archive(rng, n) for n in (1, 5, 20, 45)])
    ),
    "archives of archives": lambda rng: lay(nested(rng)),
    "bad checksums inside": lambda rng: lay(
        among(rng, [spoiled(rng, n) for n in (3, 20, 45)])
    ),
    "archives cut by blocks": lambda rng: lay(in_blocks(rng)),
    "archives that fill a block": lambda rng: lay(filled_blocks(rng)),
    "large records": lambda rng: lay(large(rng)),
    "empty bodies": lambda rng: lay(empty_bodies(rng)),
    "one giant member": lambda rng: lay(one_member(rng)),
    "tail of zeros": lambda rng: lay(fooled(rng), bytes(5000)),
    "tail of magic numbers": lambda rng: lay(fooled(rng), MAGIC * 40),
    "tail like gzip": lambda rng: lay(
        fooled(rng), member(b"")[:10] + rng.randbytes(3000)
    ),
    "tail of half a record": lambda rng: lay(fooled(rng), ordinary(rng, 1)[0][:-3]),
    "tail of plain records": lambda rng: lay(fooled(rng), response(7) * 30),
    "tail of members without records": lambda rng: lay(
        fooled(rng), b"".join(stored(rng.randbytes(4000)) for _ in range(30))
    ),
    # Such records are given up: nobody can tell them from what a page embeds.
    "tail with a short chain": lambda rng: lay(
        fooled(rng), bytes(999) + archive(rng, 9) + bytes(999)
    ),
    "tail, then records to the end": lambda rng: lay(
        fooled(rng), bytes(999), ordinary(rng, 6)
    ),
}  # fmt: skip


@functools.cache
def laid(name: str) -> Layout:
    return LAYOUTS[name](random.Random(name))


def offsets_in(layout: Layout, rng: random.Random, count: int) -> list[int]:
    """Those next to true starts and to seeming ones, and others at random."""
    near = [at + d for at in layout.starts for d in (-1, 0, 1)]
    planted = [at + d for at in layout.planted for d in (0, 1)]
    size = len(layout.content)
    chosen = {
        0, 1, layout.end - 1, layout.end, layout.end + 1, size - 1, size,
        # Where the magic number lies across the end of the reader's window.
        *(at - WINDOW_BYTES + d for at in layout.starts for d in range(4)),
        *rng.sample(near, min(len(near), count // 3)),
        *rng.sample(planted, min(len(planted), count // 3)),
    }  # fmt: skip
    chosen = {at for at in chosen if 0 <= at <= size}
    while len(chosen) < count:
        chosen.add(rng.randrange(size))
    return sorted(chosen)


def assert_boundaries(layout: Layout, offsets: list[int]) -> None:
    stream, size = io.BytesIO(layout.content), len(layout.content)
    found = {offset: boundary(stream, size, offset) for offset in offsets}
    assert [at for at in found if not layout.is_right(at, found[at])] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_boundary_is_the_next_record_however_a_file_misleads(name):
    layout = laid(name)
    assert len(layout.starts) >= 25 or name == "one giant member"
    assert len(layout.planted) > 20
    offsets = offsets_in(layout, random.Random(0), -(-10_000 // len(LAYOUTS)))
    assert_boundaries(layout, offsets)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_boundary_is_the_next_record_however_a_large_file_misleads(seed):
    """About 10 MB in which every kind of record stands next to every other."""
    rng = random.Random(seed)
    kinds = (nested, in_blocks, filled_blocks, large, empty_bodies, one_member, fooled)
    records = [record for kind in kinds for _ in range(3) for record in kind(rng)]
    rng.shuffle(records)
    layout = lay(records, bytes(999))
    assert_boundaries(layout, offsets_in(layout, rng, 10_000))


# How long a chain must be, and what a reader of the whole file would do.


@pytest.mark.parametrize(
    ("num_bytes", "believed"), [(BLOCK_BYTES, False), (BLOCK_BYTES + 1, True)]
)
def test_a_chain_is_believed_one_byte_beyond_what_a_block_can_hold(num_bytes, believed):
    before, junk = chain(BLOCK_BYTES + 500, 9), bytes(700)
    run = chain(num_bytes, 9)
    layout = lay([before], junk + run + junk)
    start = len(before + junk)
    size = len(layout.content)
    stream = io.BytesIO(layout.content)
    for offset in (len(before) + 1, start - 1, start):
        expected = start if believed else size
        assert boundary(stream, size, offset) == expected
    found = {page.warc_offset for page in read(layout.content) if hasattr(page, "url")}
    assert (start in found) == believed
    assert 0 in found


def test_members_without_records_are_no_boundary_however_long_their_chain():
    rng = random.Random(4)
    before, after = ordinary(rng, 30), ordinary(rng, 30)
    others = [stored(rng.randbytes(4000)) for _ in range(30)]
    layout = lay(before, b"".join(others), after)
    first = layout.starts[len(before)]
    assert min(first - len(b"".join(before)), layout.end - first) > BLOCK_BYTES
    stream, size = io.BytesIO(layout.content), len(layout.content)
    for at in starts_of([b"".join(before), *others])[1:]:
        assert boundary(stream, size, at) == first
        assert boundary(stream, size, at - 1) == first


def test_a_run_that_is_too_short_to_believe_is_found_by_who_would_have_come_to_it():
    """Its records begin less than a block before damage; the way to them is long."""
    rng = random.Random(8)
    giant = member(response(0, rng.randbytes(2_500_000)), 1)
    run = [exactly(20_000) for _ in range(4)]
    for before in ([], [giant], [*run, giant]):
        records = [*before, *ordinary(rng, 6)]
        layout = lay(records, flipped(stored(response(1)), 40) + bytes(50))
        near = [at + d for at in layout.starts for d in (-1, 0, 1) if at + d >= 0]
        assert_boundaries(layout, near)


def test_boundary_is_a_place_at_which_a_reader_of_the_whole_file_looks():
    """Whatever is damaged, a range begins with what the file gives at all."""
    rng = random.Random(12)
    records = [*ordinary(rng, 100), *(member(metadata(n, "swa")) for n in range(50))]
    records += [stored(response(n, archive(rng, 9))) for n in range(10)]
    rng.shuffle(records)
    content = bytearray(b"".join(records))
    for place in rng.sample(range(3, len(content)), 8):
        for at in range(place, min(place + 5000, len(content)), 1000):
            content[at] ^= 1 + rng.randrange(255)
    window, at, good, bad = window_of(bytes(content)), 0, [], []
    while at < len(content):
        try:
            stop = inflate_member(window, at).stop
            good.append(at)
            at = stop
        except Unreadable:
            bad.append(at)
            at = members.next_record(window, at + 1)[0]
    assert len(bad) > 4
    assert 60 < len(good) < len(records) - 10
    layout = Layout(bytes(content), good, len(content), frozenset(bad))
    assert_boundaries(layout, offsets_in(layout, rng, 1000))


def test_records_over_the_limit_are_passed_and_what_they_embed_is_not_seen(monkeypatch):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 90_000)
    rng = random.Random(3)
    giants = [stored(response(n, archive(rng, 40))) for n in range(3)]
    records = []
    for giant in giants:
        # So many that their chain can be believed.
        records += [*ordinary(rng, 30), giant]
    layout = lay([*records, *ordinary(rng, 2)])
    over = {at for at, r in zip(layout.starts, records, strict=False) if r in giants}
    assert len(over) == 3
    layout = Layout(
        layout.content,
        [at for at in layout.starts if at not in over],
        layout.end,
        frozenset(over),
    )
    assert_boundaries(layout, offsets_in(layout, rng, 300))


def test_only_gzip_members_are_splittable_and_the_place_in_the_file_is_kept():
    for content, expected in [
        (member(response(0)), True),
        (response(0), False),
        (MAGIC[:2], False),
        (b"", False),
    ]:
        stream = io.BytesIO(content)
        for position in (0, len(content)):
            stream.seek(position)
            assert members.is_splittable(stream) == expected
            assert stream.tell() == position


class Fetches(io.RawIOBase):
    """A file that counts what is read of it, as one far away would be paid for."""

    def __init__(self, content: bytes) -> None:
        self._stream = io.BytesIO(content)
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:
        found = self._stream.readinto(buffer)
        self.num_bytes += found
        return found


def test_to_tell_whether_a_file_is_splittable_three_bytes_are_fetched():
    content = b"".join(ordinary(random.Random(0), 200))
    raw = Fetches(content)
    stream = io.BufferedReader(raw, 8 << 20)
    stream.seek(40_000)
    assert members.is_splittable(stream)
    assert raw.num_bytes == 3
    assert stream.read(500_000) == content[40_000:540_000]
    # In the middle of a buffer too.
    assert members.is_splittable(stream)
    assert stream.read() == content[540_000:]
