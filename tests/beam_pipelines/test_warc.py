"""WARC files built here, whole and broken in every way we know."""

import dataclasses
import gzip
import io
import itertools
import json
import random
import tracemalloc
import uuid
import zlib

import brotli
import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from beam_pipelines import members, warc
from beam_pipelines.schema import Page

DATE = "2026-01-12T08:00:00Z"
FILE = "crawl/segment-7.warc.gz"
HTML = "text/html; charset=utf-8"


def uuid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def record(
    kind: str, url: str, block: bytes, *more: str, length: int | None = None
) -> bytes:
    """A WARC record; `length` is what it says of its block, -1 says nothing."""
    length = len(block) if length is None else length
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{uuid_of(f'{kind} {url}')}>",
        f"WARC-Target-URI: {url}",
        f"WARC-Date: {DATE}",
        *(["Content-Type: application/http"] if kind == "response" else []),
        *([f"Content-Length: {length}"] if length >= 0 else []),
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + block + b"\r\n\r\n"


def http(body: bytes, *headers: str, status: str = "200 OK", kind: str = HTML) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def address(number: int) -> str:
    return f"https://site-{number}.example/page"


def body_of(number: int) -> bytes:
    return f"<p>Ukurasa wa {number} una maneno yake yenyewe.</p>".encode()


def response(number: int, body: bytes | None = None, *headers: str) -> bytes:
    block = http(body_of(number) if body is None else body, *headers)
    return record("response", address(number), block)


def metadata(number: int, *codes: str, reliable: bool = True) -> bytes:
    found = [{"code-iso-639-3": code, "text-covered": 0.9} for code in codes]
    detected = json.dumps({"reliable": reliable, "languages": found})
    fields = f"fetchTimeMs: 8\r\nlanguages-cld2: {detected}\r\n".encode()
    page = uuid_of(f"response {address(number)}")
    concurrent = f"WARC-Concurrent-To: <urn:uuid:{page}>"
    return record("metadata", address(number), fields, concurrent)


def member(content: bytes, level: int = 6) -> bytes:
    return gzip.compress(content, level, mtime=0)


def starts_of(pieces: list[bytes]) -> list[int]:
    """Where each piece begins in their concatenation, and where that ends."""
    return [sum(map(len, pieces[:number])) for number in range(len(pieces) + 1)]


def read(content: bytes, start: int = 0, stop: int | None = None) -> list:
    size = len(content)
    stop = max(size, 1) if stop is None else stop
    return list(
        warc.read_pages(io.BytesIO(content), size, FILE, start, lambda at: at < stop)
    )


def pages_of(found: list) -> list[Page]:
    return [item for item in found if isinstance(item, Page)]


def flaws_of(found: list) -> list[tuple[int, str]]:
    return [(flaw.offset, flaw.reason) for flaw in found if isinstance(flaw, warc.Flaw)]


def read_in_ranges(content: bytes, cuts: list[int]) -> list:
    edges = sorted({0, len(content), *(c for c in cuts if 0 < c < len(content))})
    ranges = itertools.pairwise(edges)
    return [item for start, stop in ranges for item in read(content, start, stop)]


# What a page says.


@dataclasses.dataclass(frozen=True)
class Written:
    """A page as warcio wrote it: our reader must find the same."""

    url: str
    body: bytes
    offset: int
    length: int


def warc_bytes(bodies: dict[str, bytes], *, gz: bool = True) -> tuple[bytes, list]:
    """A crawl file by warcio's own writer: request and response of every page."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gz)
    writer.write_record(writer.create_warcinfo_record(FILE, {"software": "a test"}))
    written = []
    for url, body in bodies.items():
        get = StatusAndHeaders("GET / HTTP/1.1", [("Host", "x")], is_http_request=True)
        writer.write_record(writer.create_warc_record(url, "request", http_headers=get))
        ok = StatusAndHeaders("200 OK", [("Content-Type", HTML)], protocol="HTTP/1.1")
        offset = buffer.tell()
        page = writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            http_headers=ok,
            warc_headers_dict={"WARC-Date": DATE},
        )
        writer.write_record(page)
        written.append(Written(url, body, offset, buffer.tell() - offset))
    return buffer.getvalue(), written


@pytest.mark.parametrize("gz", [True, False])
def test_pages_are_those_that_warcio_wrote_and_where(gz):
    bodies = {address(n): body_of(n) * (1 + n * 40) for n in range(6)}
    content, written = warc_bytes(bodies, gz=gz)
    found = read(content)
    assert flaws_of(found) == []
    got = [Written(p.url, p.body, p.warc_offset, p.warc_length) for p in found]
    if not gz:  # warcio counts the record's last two line ends; our record lacks them.
        got = [dataclasses.replace(w, length=w.length + 4) for w in got]
    assert got == written
    for page in found:
        assert (page.warc_file, page.date) == (FILE, DATE)
        assert (page.content_type, page.charset) == ("text/html", "utf-8")
        assert page.digest.startswith("sha1:")
        assert uuid.UUID(page.id)
    assert len({page.id for page in found}) == len(found)


@pytest.mark.parametrize("gz", [True, False])
def test_a_page_is_found_again_by_offset_and_length(gz):
    content, _ = warc_bytes({address(n): body_of(n) * (1 + n) for n in range(6)}, gz=gz)
    for page in read(content):
        again = warc.read_page(
            io.BytesIO(content), len(content), FILE, page.warc_offset, page.warc_length
        )
        assert again == page


def test_a_member_fetched_on_its_own_gives_the_page_that_reading_gives():
    pieces = [
        member(record("warcinfo", "", b"software: a test\r\n")),
        member(record("request", address(0), b"GET / HTTP/1.1\r\n\r\n")),
        member(response(0)),
        member(metadata(0, "swa")),
        member(response(1, LONG), 0),
        member(record("response", address(2), http(b"", status="404 Not Found"))),
        member(response(3, gzip.compress(LONG), "Content-Encoding: gzip")),
        member(wet(4, LONG, "WARC-Identified-Content-Language: swa")),
    ]
    content = b"".join(pieces)
    pages = {page.warc_offset: page for page in read(content)}
    assert len(pages) == 4
    for piece, offset in zip(pieces, starts_of(pieces), strict=False):
        expected = pages.get(offset)
        if expected and expected.url == address(0):
            # What the crawl says of it lies in another member.
            expected = dataclasses.replace(expected, languages=())
        # More than the member may have been fetched.
        for fetched in (piece, content[offset:]):
            assert warc.page_of(fetched, FILE, offset) == expected


def test_read_page_refuses_a_place_without_that_page():
    pieces = [member(response(0)), member(metadata(0, "swa")), member(response(1))]
    content, starts = b"".join(pieces), starts_of(pieces)
    for offset, length in [
        (0, len(pieces[0]) + 1),
        (1, len(pieces[0])),
        (starts[1], len(pieces[1])),
        (starts[1], len(pieces[2])),
        (len(content), 10),
    ]:
        with pytest.raises(ValueError, match=f"no page of {length:,} bytes at byte"):
            warc.read_page(io.BytesIO(content), len(content), FILE, offset, length)


def test_a_page_has_its_record_id_or_one_derived_from_url_date_and_digest():
    def anonymous(url: str, date: str, digest: str) -> str:
        block = http(b"<p>a</p>")
        lines = record("response", url, block, f"WARC-Payload-Digest: {digest}")
        lines = lines.replace(DATE.encode(), date.encode())
        named = b"\r\n".join(
            line for line in lines.split(b"\r\n") if not line.startswith(b"WARC-Record")
        )
        (page,) = read(member(named))
        return page.id

    (named,) = read(member(response(3)))
    assert named.id == uuid_of(f"response {address(3)}")
    ids = [
        anonymous(*fields)
        for fields in [
            (address(0), DATE, "sha1:AA"),
            (address(1), DATE, "sha1:AA"),
            (address(0), "2026-02-12T08:00:00Z", "sha1:AA"),
            (address(0), DATE, "sha1:BB"),
        ]
    ]
    assert len(set(ids)) == 4
    assert anonymous(address(0), DATE, "sha1:AA") == ids[0]


@pytest.mark.parametrize(
    "block",
    [
        http(b"<p>not here</p>", status="404 Not Found"),
        http(b"<p>moved</p>", status="301 Moved"),
        http(b"%PDF-1.7", kind="application/pdf"),
        http(b"{}", kind="application/json"),
        http(b"", kind=""),
    ],
)
def test_what_is_no_page_of_html_is_neither_page_nor_flaw(block):
    content = member(record("response", address(0), block)) + member(response(1))
    assert [page.url for page in read(content)] == [address(1)]


def test_the_identified_type_goes_before_the_declared_one():
    html_after_all = record(
        "response",
        address(0),
        http(b"<p>a</p>", kind="application/octet-stream"),
        "WARC-Identified-Payload-Type: application/xhtml+xml",
    )
    no_html = record(
        "response",
        address(1),
        http(b"GIF89a"),
        "WARC-Identified-Payload-Type: image/gif",
    )
    (page,) = read(member(html_after_all) + member(no_html))
    assert (page.url, page.content_type) == (address(0), "application/xhtml+xml")


def test_an_identified_type_that_is_empty_says_nothing():
    empty = record(
        "response", address(0), http(b"<p>a</p>"), "WARC-Identified-Payload-Type: "
    )
    (page,) = read(member(empty))
    assert page.content_type == "text/html"


@pytest.mark.parametrize(
    ("declared", "charset"),
    [
        ("text/html", ""),
        ("text/html;charset=TIS-620", "tis-620"),
        ('Text/HTML; Charset="UTF-8"', "utf-8"),
        ("text/html; charset='iso-8859-9' ", "iso-8859-9"),
    ],
)
def test_charset_is_the_declared_one_without_its_quotes(declared, charset):
    (page,) = read(
        member(record("response", address(0), http(b"<p>a</p>", kind=declared)))
    )
    assert page.charset == charset
    assert page.content_type == "text/html"


def test_a_record_type_is_not_read_out_of_an_address():
    url = "https://site.example/?warc-type:request"
    plain = record("response", url, http(b"<p>a</p>"))
    kind = b"WARC-Type: response\r\n"
    assert plain.count(kind) == 1
    moved = plain.replace(kind, b"").replace(b"WARC-Date", kind + b"WARC-Date")
    assert [page.url for page in read(member(moved))] == [url]


def test_header_names_are_read_in_any_case():
    shouted = response(0).replace(b"WARC-Type", b"wArC-tYPE")
    shouted = shouted.replace(b"Content-Length", b"CONTENT-LENGTH")
    assert [page.body for page in read(member(shouted))] == [body_of(0)]
    assert [page.body for page in read(shouted)] == [body_of(0)]


def odd_response(rng: random.Random) -> bytes:
    """A response as careless writers put it: cases, spaces, folds, line ends."""

    def field(name: str, value: str) -> str:
        name = rng.choice([name, name, name.lower(), name.upper()])
        if rng.random() < 0.1:
            value = value.replace(" ", f"{ends} ", 1)
        colon = rng.choice([": ", ":", ":  ", ":\t"])
        return f"{name}{colon}{value}{rng.choice(['', '', ' '])}"

    def head(first: list[str], fields: dict[str, list[str]], kept: float) -> bytes:
        lines = [
            field(name, rng.choice(values))
            for name, values in fields.items()
            if rng.random() < kept
        ]
        rng.shuffle(lines)
        lines = [rng.choice(first), *lines, "", ""]
        return ends.join(lines).encode(rng.choice(["utf-8", "latin-1"]))

    ends = rng.choice(["\r\n", "\r\n", "\n"])
    kinds = ["text/html; charset=utf-8", 'Text/HTML;charset="x"', "text/plain"]
    statuses = ["HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/2 200 ", "HTTP/1.1 404 No"]
    own = {"Content-Type": kinds, "X-Robots-Tag": ["noindex, nofollow"], "X-Ü": ["ä ö"]}
    bodies = [b"", b"<p>a</p>", b"\r\n\r\nWARC/1.0\r\n", b"\n\nx", rng.randbytes(50)]
    block = head(statuses, own, 0.7) + rng.choice(bodies)
    ends = rng.choice(["\r\n", "\r\n", "\n"])
    fields = {
        "WARC-Type": ["response"],
        "WARC-Target-URI": ["http://a.example/", "<https://b.example/ü>"],
        "WARC-Date": [DATE],
        "WARC-Payload-Digest": ["sha1:AA"],
        "Content-Type": ["application/http; msgtype=response"],
        "Content-Length": [str(len(block))],
        "WARC-Identified-Payload-Type": ["text/html", "image/gif", ""],
    }
    versions = ["WARC/1.0", "WARC/1.1", "WARC/0.18"]
    return head(versions, fields, 0.95) + block + b"\r\n\r\n"


def test_headers_are_read_as_warcio_reads_them():
    num_pages = 0
    for seed in range(600):
        content = odd_response(random.Random(seed))
        try:
            parsed = next(ArchiveIterator(io.BytesIO(content)))
        except AttributeError:  # Its own slip: there is no address.
            assert read(member(content)) == []
            continue
        expected = None
        get, http = parsed.rec_headers.get_header, parsed.http_headers
        if http and http.get_statuscode() == "200":
            declared = (http.get_header("Content-Type") or "").lower()
            kind, _, rest = declared.partition(";")
            kind = get("WARC-Identified-Payload-Type") or kind.strip()
            if kind == "text/html":
                expected = {
                    "url": get("WARC-Target-URI").strip("<>"),
                    "date": get("WARC-Date") or "",
                    "digest": get("WARC-Payload-Digest") or "",
                    "charset": rest.partition("charset=")[2].strip(' "'),
                    "robots": http.get_header("X-Robots-Tag") or "",
                    "body": parsed.raw_stream.read(),
                }
        found = read(member(content))
        assert len(found) == (expected is not None), content
        if expected:
            got = dataclasses.asdict(found[0])
            assert {name: got[name] for name in expected} == expected, content
            num_pages += 1
    assert num_pages > 150


# Bodies and their encodings.


def chunked(body: bytes, num_bytes: int) -> bytes:
    pieces = [body[at : at + num_bytes] for at in range(0, len(body), num_bytes)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in [*pieces, b""])


def raw_deflate(body: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(body) + deflate.flush()


LONG = "".join(
    f"<p>Aya ya {n}: mvua ilinyesha siku {n * n}.</p>" for n in range(4000)
).encode()


@pytest.mark.parametrize(
    ("headers", "stored"),
    [
        (["Transfer-Encoding: chunked"], chunked(LONG, 1000)),
        (["Transfer-Encoding: Chunked"], chunked(LONG, 70_000)),
        (["Content-Encoding: gzip"], gzip.compress(LONG)),
        (["Content-Encoding: x-gzip"], gzip.compress(LONG)),
        (["Content-Encoding: GZIP"], gzip.compress(LONG)),
        (["Content-Encoding: deflate"], zlib.compress(LONG)),
        (["Content-Encoding: deflate"], raw_deflate(LONG)),
        (["Content-Encoding: br"], brotli.compress(LONG, quality=3)),
        (
            ["Content-Encoding: gzip", "Transfer-Encoding: chunked"],
            chunked(gzip.compress(LONG), 1000),
        ),
        (
            ["Content-Encoding: br", "Transfer-Encoding: chunked"],
            chunked(brotli.compress(LONG, quality=3), 999),
        ),
    ],
)
def test_encodings_of_a_body_are_undone(headers, stored):
    (page,) = read(member(response(0, stored, *headers)))
    assert page.body == LONG


OPENINGS = ["<!DOCTYPE html><p>", "<p>", "\ufeff<html>", "", "{", "K", "Ö", "x^", "\n"]


@pytest.mark.parametrize(
    "header",
    [
        "Content-Encoding: gzip",
        "Content-Encoding: deflate",
        "Content-Encoding: br",
        "Transfer-Encoding: chunked",
    ],
)
def test_a_plain_body_passes_whatever_its_header_says(header):
    rng = random.Random(5)
    words = "Wengi Kulübün yılın lapangan mưa จะ பல والے एक".split()
    bodies = [
        (opening + " ".join(rng.choices(words, k=40))).encode()
        for opening in OPENINGS
        for _ in range(25)
    ]
    content = b"".join(
        member(response(n, body, header)) for n, body in enumerate(bodies)
    )
    found = read(content)
    assert flaws_of(found) == []
    assert [page.body for page in found] == bodies


def test_an_empty_gzip_body_is_empty():
    (page,) = read(member(response(0, gzip.compress(b""), "Content-Encoding: gzip")))
    assert page.body == b""


def test_a_damaged_brotli_body_costs_its_page_and_is_named():
    # Neither brotli nor text.
    broken = b"\xff\xfe\xfd" + random.Random(0).randbytes(400)
    pieces = [
        member(response(0)),
        member(response(1, broken, "Content-Encoding: br")),
        member(response(2)),
    ]
    found = read(b"".join(pieces))
    assert [page.url for page in pages_of(found)] == [address(0), address(2)]
    assert flaws_of(found) == [(starts_of(pieces)[1], "damaged_brotli")]


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_body_that_inflates_without_end_is_capped(encoding, monkeypatch):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 100_000)
    zeros = b"\xc3\xa4" * 2_000_000
    packed = gzip.compress(zeros) if encoding == "gzip" else brotli.compress(zeros)
    assert len(packed) < 10_000
    content = member(response(0, packed, f"Content-Encoding: {encoding}"))
    tracemalloc.start()
    (page,) = read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # brotli goes on to the end of its output block.
    assert 90_000 < len(page.body) < 300_000
    assert set(page.body) == set(zeros)
    assert peak < 3_000_000


# What the crawl declares about languages.


def test_languages_are_those_of_the_pages_own_metadata_record():
    other = metadata(9, "fin")
    records = [
        [response(0), metadata(0, "swa", "eng")],
        [response(1), metadata(1, "tur", reliable=False)],
        [response(2), other],
        [response(3)],
        [response(4), other, metadata(4, "tha")],
        [metadata(5, "vie"), response(5)],
    ]
    found = read(b"".join(member(r) for group in records for r in group))
    assert [page.languages for page in found] == [
        ("swa", "eng"), (), (), (), ("tha",), ()
    ]  # fmt: skip


@pytest.mark.parametrize(
    "detected",
    ["no json", "[" * 30_000, "[]", "3", '{"reliable": true, "languages": 7}'],
)
def test_metadata_that_cannot_be_read_costs_itself_and_is_named(detected):
    pieces = [
        response(0),
        metadata(0, "swa").replace(b"{", detected.encode() + b"\r\n{", 1),
        response(1),
        metadata(1, "swa"),
    ]
    # The length changed with the line.
    lines = pieces[1].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n\r\n")
    page = f"WARC-Concurrent-To: <urn:uuid:{uuid_of(f'response {address(0)}')}>"
    pieces[1] = record("metadata", address(0), lines, page)
    pieces = [member(piece) for piece in pieces]
    found = read(b"".join(pieces))
    assert [page.languages for page in pages_of(found)] == [(), ("swa",)]
    assert flaws_of(found) == [(starts_of(pieces)[1], "unparsable")]


def test_metadata_without_a_list_of_languages_declares_nothing():
    fields = b'languages-cld2: {"reliable": true}\r\n'
    page = f"WARC-Concurrent-To: <urn:uuid:{uuid_of(f'response {address(0)}')}>"
    note = record("metadata", address(0), fields, page)
    found = read(member(response(0)) + member(note))
    assert [page.languages for page in found] == [()]


@pytest.mark.parametrize("between", [b"", b"not a member", member(b"no record")])
def test_languages_are_the_same_wherever_the_file_is_cut(between):
    pieces = []
    for number in range(2):
        pieces += [
            member(record("request", address(number), b"GET / HTTP/1.1\r\n\r\n")),
            member(response(number)),
            between if number == 1 else b"",
            member(metadata(number, "swa", f"x{number}")),
        ]
    content = b"".join(pieces)
    whole = pages_of(read(content))
    assert [page.languages for page in whole] == [("swa", "x0"), ("swa", "x1")]
    for cut in range(1, len(content)):
        assert pages_of(read_in_ranges(content, [cut])) == whole, cut
    assert pages_of(read_in_ranges(content, list(range(0, len(content), 5)))) == whole


# Text that somebody else extracted.


def wet(number: int, text: bytes, *more: str) -> bytes:
    page = uuid_of(f"response {address(number)}")
    return record(
        "conversion",
        address(number),
        text,
        f"WARC-Refers-To: <urn:uuid:{page}>",
        "Content-Type: text/plain",
        *more,
    )


@pytest.mark.parametrize("pack", [member, bytes])
def test_wet_records_are_pages_of_text_with_the_id_of_their_page(pack):
    texts = [
        b"Sentensi ya kwanza.\nYa pili.",
        b"",
        b"K\xfdz \xff",
        b"a" * 70_000,
    ]
    content = b"".join(
        pack(wet(n, text, "WARC-Identified-Content-Language: swa, eng"))
        for n, text in enumerate(texts)
    )
    found = read(content)
    assert [page.body for page in found] == texts
    for number, page in enumerate(found):
        assert page.id == pages_of(read(member(response(number))))[0].id
        assert (page.content_type, page.languages) == ("text/plain", ("swa", "eng"))


@pytest.mark.parametrize("pack", [member, bytes])
def test_a_line_that_looks_like_a_record_does_not_split_a_text(pack):
    text = b"Kwanza.\r\n\r\nWARC/1.0\r\nWARC-Type: conversion\r\n\r\nMwisho."
    content = pack(wet(0, text)) + pack(wet(1, b"Nyingine."))
    found = read(content)
    assert flaws_of(found) == []
    assert [page.body for page in found] == [text, b"Nyingine."]


# Files that are cut anywhere.


def signature(page: Page) -> tuple:
    """What tells pages of a file apart, in any process."""
    place = page.warc_offset, page.warc_length
    return *place, page.id, page.languages, zlib.crc32(page.body)


def assert_same_read(found: list, whole: list) -> None:
    """The same pages, each once and in order, and no flaw that is not there."""
    assert list(map(signature, pages_of(found))) == list(
        map(signature, pages_of(whole))
    )
    # A bad member exactly where a range begins is nobody's; nothing else is missed.
    flaws, expected = flaws_of(found), flaws_of(whole)
    assert len(flaws) == len(set(flaws))
    assert set(flaws) <= set(expected)


def assert_cuts_deliver(content: bytes, cuts: list[int], whole: list) -> None:
    """Any ranges give the pages of the whole file."""
    assert_same_read(read_in_ranges(content, cuts), whole)


# The damage table of the design: five records, the third one faulty.


@dataclasses.dataclass(frozen=True)
class Fault:
    """A third member, what is delivered, and the flaw that must be reported."""

    third: bytes
    delivered: list[int]
    reason: str | None
    cut_after: bool = False


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


GOOD = member(response(2))
BLOCK = http(body_of(2))
ALL, WITHOUT = [0, 1, 2, 3, 4], [0, 1, 3, 4]
FAULTS = {
    "file ends inside": Fault(GOOD[: len(GOOD) // 2], [0, 1], "truncated", True),
    "file ends in the trailer": Fault(GOOD[:-1], [0, 1], "truncated", True),
    "bit flip": Fault(flipped(GOOD, len(GOOD) // 2), WITHOUT, "damaged"),
    "bit flip in the checksum": Fault(flipped(GOOD, len(GOOD) - 6), WITHOUT, "damaged"),
    "bit flip in the magic number": Fault(flipped(GOOD, 0), WITHOUT, "not_gzip"),
    "member without WARC": Fault(member(b"<html>"), WITHOUT, "not_warc"),
    "empty member": Fault(member(b""), WITHOUT, "not_warc"),
    "bad version line": Fault(member(response(2)[1:]), WITHOUT, "not_warc"),
    "unknown version": Fault(
        member(response(2).replace(b"WARC/1.0", b"WARC/x")), WITHOUT, "unparsable"
    ),
    "raw bytes": Fault(b"\x01\x02 raw \x1f\x8b bytes", WITHOUT, "not_gzip"),
    "uncompressed record": Fault(response(2), WITHOUT, "not_gzip"),
    "no final line ends": Fault(member(response(2).rstrip(b"\r\n")), ALL, None),
    "length missing": Fault(
        member(record("response", address(2), BLOCK, length=-1)), ALL, None
    ),
    "length too big": Fault(
        member(record("response", address(2), BLOCK, length=len(BLOCK) + 900)),
        ALL,
        None,
    ),
    "length too small": Fault(
        member(record("response", address(2), BLOCK, length=len(BLOCK) - 9)),
        ALL,
        "not_warc",
    ),
    "endless header": Fault(
        member(b"WARC/1.0\r\nWARC-Type: response\r\n" + b"X-More: yes\r\n" * 9000),
        WITHOUT,
        "endless_header",
    ),
    "endless line": Fault(
        member(b"WARC/1.0\r\nWARC-Type: response\r\nX: " + b"y" * 99_000),
        WITHOUT,
        "endless_header",
    ),
    "two records": Fault(
        member(response(2) + record("request", address(2), b"")),
        ALL,
        "several_records_in_member",
    ),
}  # fmt: skip


def five(fault: Fault) -> list[bytes]:
    pieces = [member(response(n)) for n in range(5)]
    pieces[2] = fault.third
    return pieces[:3] if fault.cut_after else pieces


@pytest.mark.parametrize("name", FAULTS)
def test_one_faulty_record_of_five_costs_itself_and_is_located(name):
    fault = FAULTS[name]
    pieces = five(fault)
    found = read(b"".join(pieces))
    assert [page.url for page in pages_of(found)] == list(map(address, fault.delivered))
    for number, page in zip(fault.delivered, pages_of(found), strict=True):
        if number != 2:
            assert page.body == body_of(number)
    expected = [(starts_of(pieces)[2], fault.reason)] if fault.reason else []
    assert flaws_of(found) == expected
    assert all(item.detail for item in found if isinstance(item, warc.Flaw))


@pytest.mark.parametrize("name", FAULTS)
def test_one_faulty_record_of_five_costs_the_same_wherever_the_file_is_cut(name):
    content = b"".join(five(FAULTS[name]))
    whole = read(content)
    for cut in [*range(1, len(content), 11), len(content) - 1]:
        assert_cuts_deliver(content, [cut], whole)


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_member_fetched_on_its_own_gives_its_page_or_its_flaw(name):
    fault = FAULTS[name]
    pieces = five(fault)
    offset = starts_of(pieces)[2]
    pages = {page.warc_offset: page for page in pages_of(read(b"".join(pieces)))}
    found = warc.page_of(pieces[2], FILE, offset)
    if 2 in fault.delivered:
        assert found == pages[offset]
    else:
        assert isinstance(found, warc.Flaw)
        assert (found.offset, found.reason) == (offset, fault.reason)
        assert found.detail


def test_a_length_that_is_too_small_cuts_the_body_there():
    whole = body_of(2)
    (page,) = pages_of(
        read(member(record("response", address(2), BLOCK, length=len(BLOCK) - 9)))
    )
    assert page.body == whole[:-9]


@pytest.mark.parametrize("name", ["length missing", "length too big"])
def test_a_length_that_is_no_use_keeps_the_whole_body(name):
    page = pages_of(read(b"".join(five(FAULTS[name]))))[2]
    assert page.body.rstrip(b"\r\n") == body_of(2)


def test_damage_costs_no_sound_record_far_from_it():
    """Runs of sound records over 64 KiB between faults are all delivered."""
    rng = random.Random(4)
    pieces = [member(response(n, rng.randbytes(9000))) for n in range(100)]
    starts = starts_of(pieces)
    bad = [10, 30, 31, 55, 80]
    for number in bad:
        pieces[number] = flipped(pieces[number], 4000)
    found = read(b"".join(pieces))
    sound = [address(n) for n in range(100) if n not in bad]
    assert [page.url for page in pages_of(found)] == sound
    # 31 lies in the resynchronisation after 30.
    assert flaws_of(found) == [(starts[n], "damaged") for n in bad if n != 31]


# Files that are one gzip member, or no gzip at all.


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("limit", [None, 3000], ids=["in memory", "streamed"])
def test_a_file_of_one_member_gives_all_pages_to_its_first_range(
    level, limit, monkeypatch
):
    rng = random.Random(level)
    bodies = [rng.randbytes(rng.randrange(2000)) for _ in range(300)]
    content = member(b"".join(response(n, b) for n, b in enumerate(bodies)), level)
    if limit:
        monkeypatch.setattr(members, "MAX_RECORD_BYTES", limit)
    found = read(content)
    assert [page.body for page in pages_of(found)] == bodies
    assert flaws_of(found) == [(0, "several_records_in_member")]
    assert {(p.warc_offset, p.warc_length) for p in pages_of(found)} == {
        (0, len(content))
    }
    half = len(content) // 2
    assert read(content, 0, half) == found
    assert read(content, half) == []


@pytest.mark.parametrize("fault", ["truncated", "damaged"])
def test_a_broken_file_of_one_streamed_member_gives_what_comes_first(
    fault, monkeypatch
):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 3000)
    rng = random.Random(7)
    bodies = [rng.randbytes(2000) for _ in range(400)]
    content = member(b"".join(response(n, b) for n, b in enumerate(bodies)), 1)
    at = len(content) * 3 // 4
    content = content[:at] if fault == "truncated" else flipped(content, 12)
    found = read(content)
    assert [p.body for p in pages_of(found)] == bodies[: len(pages_of(found))]
    assert len(pages_of(found)) >= (250 if fault == "truncated" else 0)
    offset, reason = flaws_of(found)[-1]
    # Its end may fall into a record's header.
    assert offset == 0
    assert reason in ({"truncated", "no_length"} if fault == "truncated" else {fault})


def test_what_follows_a_giant_first_record_is_read(monkeypatch):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 3000)
    pieces = [member(response(0, b"z" * 5000))]
    pieces += [member(response(n)) for n in range(1, 5)]
    content = b"".join(pieces)
    whole = read(content)
    assert [page.url for page in pages_of(whole)] == [address(n) for n in range(1, 5)]
    assert flaws_of(whole) == [(0, "too_large")]
    for cut in range(1, len(content), 7):
        assert_cuts_deliver(content, [cut], whole)


def test_a_gzip_bomb_is_a_flaw_and_not_memory(monkeypatch):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 100_000)
    bomb = member(b"WARC/1.0\r\n" + b"\0" * 30_000_000)
    pieces = [member(response(0)), bomb, member(response(1))]
    content = b"".join(pieces)
    tracemalloc.start()
    found = read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [page.url for page in pages_of(found)] == [address(0), address(1)]
    assert flaws_of(found) == [(len(pieces[0]), "too_large")]
    assert peak < 3_000_000


def test_a_record_is_too_large_one_byte_over_the_limit(monkeypatch):
    whole = response(1, b"x" * 5000)
    pieces = [member(response(0)), member(whole), member(response(2))]
    for limit, delivered in [(len(whole), 3), (len(whole) - 1, 2)]:
        monkeypatch.setattr(members, "MAX_RECORD_BYTES", limit)
        assert len(pages_of(read(b"".join(pieces)))) == delivered


def test_an_empty_file_is_named():
    assert flaws_of(read(b"")) == [(0, "empty_file")]
    # As the range that stands for an empty file is.
    assert flaws_of(read(b"", 0, 1)) == [(0, "empty_file")]


@pytest.mark.parametrize(
    "content", [b"<html>a page</html>", b"WARC", b"\x1f\x8b", b"PK\x03\x04" * 50]
)
def test_a_file_that_is_no_warc_is_named_once(content):
    assert flaws_of(read(content)) == [(0, "not_warc")]
    assert read(content, 1) == []


def test_a_gzip_file_that_is_no_warc_is_named():
    assert flaws_of(read(member(b"some text"))) == [(0, "not_warc")]


def plain_faults() -> dict[str, tuple[bytes, str]]:
    """A third record in a plain file, and what is to be said of it."""
    return {
        "raw bytes": (b"\x01\x02 no record at all \x00\r\n\r\n", "not_warc"),
        "bad version line": (response(2)[1:], "not_warc"),
        "no length": (record("response", address(2), BLOCK, length=-1), "no_length"),
        "length past the end": (
            record("response", address(2), BLOCK, length=10**6),
            "truncated",
        ),
        "endless header": (
            b"WARC/1.0\r\n" + b"X-More: yes\r\n" * 9000 + b"\r\n\r\n\r\n",
            "endless_header",
        ),
        "too large": (response(2, b"z" * 50_000), "too_large"),
        "unknown version": (response(2).replace(b"WARC/1", b"WARC/x"), "unparsable"),
    }


@pytest.mark.parametrize("name", plain_faults())
def test_one_faulty_record_of_a_plain_file_costs_itself_and_is_located(
    name, monkeypatch
):
    monkeypatch.setattr(members, "MAX_RECORD_BYTES", 40_000)
    third, reason = plain_faults()[name]
    if name == "length past the end":
        monkeypatch.setattr(members, "MAX_RECORD_BYTES", 2 * 10**6)
    pieces = [response(n) for n in range(5)]
    pieces[2] = third
    content = b"".join(pieces)
    found = read(content)
    assert [page.url for page in pages_of(found)] == list(map(address, WITHOUT))
    assert [page.body for page in pages_of(found)] == list(map(body_of, WITHOUT))
    assert flaws_of(found) == [(starts_of(pieces)[2], reason)]
    assert read(content, len(pieces[0])) == []


@pytest.mark.parametrize("kind", ["members", "one member", "plain"])
@pytest.mark.parametrize("num_yes", [0, 1, 3, 99])
def test_a_claim_is_made_once_for_each_place_in_order_until_it_is_refused(
    kind, num_yes
):
    pieces = [r for n in range(5) for r in (response(n), metadata(n, "swa"))]
    content = {
        "members": b"".join(map(member, pieces)),
        "one member": member(b"".join(pieces)),
        "plain": b"".join(pieces),
    }[kind]
    asked: list[int] = []

    def claim(at: int) -> bool:
        asked.append(at)
        return len(asked) <= num_yes

    found = warc.read_pages(io.BytesIO(content), len(content), FILE, 0, claim)
    pages = pages_of(list(found))
    if kind == "members":
        places = starts_of([member(piece) for piece in pieces])
        assert asked == places[: num_yes + 1]
        assert len(pages) == min(-(-num_yes // 2), 5)
    else:
        # Nothing of it can be left to others.
        assert asked[0] == 0
        assert len(pages) == (5 if num_yes else 0)
    assert asked == sorted(set(asked))
    assert all(page.languages == ("swa",) for page in pages)


def test_a_plain_file_that_ends_inside_a_record_gives_what_comes_first():
    pieces = [response(n) for n in range(3)]
    content = b"".join(pieces)[:-40]
    found = read(content)
    assert [page.url for page in pages_of(found)] == [address(0), address(1)]
    assert flaws_of(found) == [(starts_of(pieces)[2], "truncated")]


def test_a_plain_length_that_is_too_small_is_located():
    pieces = [response(n) for n in range(5)]
    pieces[2] = record("response", address(2), BLOCK, length=len(BLOCK) - 9)
    found = read(b"".join(pieces))
    assert [page.url for page in pages_of(found)] == list(map(address, ALL))
    end_of_body = starts_of(pieces)[3] - len(b"\r\n\r\n") - 9
    assert flaws_of(found) == [(end_of_body, "not_warc")]
