"""Reading over http from a server that refuses, breaks off, stalls and changes."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import email.utils
import functools
import http.server
import io
import ipaddress
import itertools
import pickle
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, CompressedFile, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from beam_pipelines import remote

RATE = 1000.0
MIB = 1 << 20
CONTENT = random.Random(0).randbytes(300_000)
NOT_NOW = b"not now"


@dataclasses.dataclass
class Asked:
    """A request as the server saw it."""

    at: float
    method: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "").removeprefix("bytes=")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.server.clock(), self.command, headers)
        with self.server.lock:
            self.server.asked.append(asked)
            script = self.server.script
            answer = script.pop(0) if script else self.server.usual
        answer(self)

    do_HEAD = do_GET

    def send(self, status, body=b"", **headers):
        """One answer; Content-Length and others can be said wrongly, or left out."""
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            with self.server.lock:
                self.server.sent_bytes += len(body)
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class FaultServer(http.server.ThreadingHTTPServer):
    """Answers as its script says, then as usual, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, clock: Callable[[], float], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.clock = clock
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.content = CONTENT
        self.etag = '"first"'
        self.usual: Answer = serve
        self.script: list[Answer] = []
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a/file.bin"

    @property
    def ranges(self) -> list[str]:
        return [asked.range for asked in self.asked]

    def handle_error(self, *_) -> None:
        pass  # The other side goes away by design.


Answer = Callable[[Handler], None]


def serve(handler: Handler, cut: int | None = None, stall: bool = False, **wrong):
    """The file or a range of it; or `cut` bytes of it, then an end or nothing."""
    content, etag = handler.server.content, handler.server.etag
    headers = {"Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
    if etag:
        headers["ETag"] = etag
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
    if asked is None:
        handler.send(200, content, **headers | wrong)
        return
    start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
    if handler.headers.get("If-Match") not in (None, etag):
        handler.send(412)
        return
    if start >= len(content):
        headers = {"Content_Range": f"bytes */{len(content)}"}
        handler.send(416, **headers | wrong)
        return
    headers["Content_Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    headers["Content_Length"] = stop - start
    handler.send(206, content[start:stop][:cut], **headers | wrong)
    if stall:
        handler.wfile.flush()
        handler.server.over.wait(10)
    handler.close_connection = cut is not None


def serving(**how: object) -> Answer:
    return functools.partial(serve, **how)


def answering(status: int, body: bytes = NOT_NOW, **headers: object) -> Answer:
    return lambda handler: handler.send(status, body, **headers)


def ignoring_ranges(handler: Handler) -> None:
    handler.send(200, handler.server.content, ETag=handler.server.etag)


def redirecting(location: str, status: int = 302) -> Answer:
    return answering(status, b"", Location=location)


def resetting(handler: Handler) -> None:
    abort = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
    handler.close_connection = True
    handler.connection.close()
    handler.rfile.close()


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(remote, "_clock", clock)
    monkeypatch.setattr(remote, "_sleep", clock.sleep)
    monkeypatch.setattr(remote, "_next_turns", {})
    monkeypatch.setattr(random, "random", lambda: 0.5)
    monkeypatch.setattr(remote.urllib.request, "getproxies", dict)
    return clock


@contextlib.contextmanager
def running(server: FaultServer) -> Iterator[FaultServer]:
    poll = {"poll_interval": 0.01}
    thread = threading.Thread(target=server.serve_forever, kwargs=poll)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(clock) -> Iterator[FaultServer]:
    with running(FaultServer(clock)) as server:
        yield server


@pytest.fixture
def beam_options(monkeypatch) -> None:
    monkeypatch.setattr(FileSystems, "_pipeline_options", options())


def options(rate: float = RATE, **others: object) -> PipelineOptions:
    return PipelineOptions([], http_requests_per_second=rate, **others)


def file_system(rate: float = RATE) -> remote.HttpFileSystem:
    return remote.HttpFileSystem(options(rate))


def opened(server: FaultServer, rate: float = RATE) -> io.BufferedReader:
    stream = file_system(rate).open(server.url)
    assert isinstance(stream, io.BufferedReader)
    return stream


def gaps(server: FaultServer) -> list[float]:
    return [after.at - before.at for before, after in itertools.pairwise(server.asked)]


# What is asked for.


def test_a_raw_read_asks_for_its_bytes_and_no_others(server):
    raw = opened(server).detach()
    reads = [(1_000, 10), (250_000, 50_000), (0, 1), (299_999, 1), (5, 100)]
    for offset, num_bytes in reads:
        raw.seek(offset)
        assert raw.read(num_bytes) == CONTENT[offset : offset + num_bytes]
        assert raw.tell() == offset + num_bytes
    assert server.ranges == [f"{at}-{at + num - 1}" for at, num in reads]
    assert server.sent_bytes == sum(num for _, num in reads)
    assert {asked.method for asked in server.asked} == {"GET"}


def test_reading_through_takes_a_request_for_8_mib(server):
    server.content = random.Random(1).randbytes(20 * MIB)
    stream = opened(server)
    pieces = list(iter(lambda: stream.read(MIB), b""))
    assert b"".join(pieces) == server.content
    assert len(server.asked) == 3
    assert server.sent_bytes == len(server.content)


def test_reading_all_at_once_takes_few_requests(server):
    server.content = random.Random(1).randbytes(20 * MIB)
    assert opened(server).read() == server.content
    assert len(server.asked) == 3
    server.asked.clear()
    assert opened(server).detach().read(30 * MIB) == server.content
    assert server.ranges == ["0-16777215", "16777216-20971519"]


def test_nothing_is_asked_before_the_first_read_nor_past_the_end(server):
    stream = opened(server)
    stream.seek(len(CONTENT) - 5)
    assert server.asked == []
    assert stream.read() == CONTENT[-5:]
    assert stream.read(1) == b""
    stream.raw.seek(10 * len(CONTENT))
    assert stream.raw.read(1) == stream.raw.read(0) == b""
    assert len(server.asked) == 1


@pytest.mark.parametrize("told", [f"bytes */{len(CONTENT)}", None])
def test_a_read_past_an_end_not_known_yet_is_empty(server, told):
    server.script = [serving(Content_Range=told)]
    raw = opened(server).detach()
    raw.seek(2 * len(CONTENT))
    assert raw.read(10) == b""
    raw.seek(0)
    assert raw.read(10) == CONTENT[:10]
    assert len(server.asked) == 2


def test_the_end_is_a_place_to_seek_from(server):
    stream = opened(server)
    assert stream.seek(-10, io.SEEK_END) == len(CONTENT) - 10
    assert stream.read() == CONTENT[-10:]
    assert stream.raw.seek(-4, io.SEEK_CUR) == len(CONTENT) - 4
    with pytest.raises(ValueError, match="no byte -1 "):
        stream.raw.seek(-1)


def test_a_closed_file_cannot_be_read(server):
    stream = opened(server)
    raw = stream.raw
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        raw.read(1)
    assert server.asked == []


def test_connections_are_kept(server):
    raw = opened(server).detach()
    for offset in range(0, 1000, 100):
        raw.seek(offset)
        raw.read(10)
    file_system().size(server.url)
    file_system().size(server.url)
    assert len(server.asked) == 12
    assert server.connections == 1


def test_requests_say_who_asks_and_want_bytes_as_they_are(server):
    opened(server).read()
    contact = options(http_contact="crawl@example.org")
    remote.HttpFileSystem(contact).open(server.url).read()
    agents = [asked.headers["user-agent"] for asked in server.asked]
    assert re.fullmatch(r"x-instruction/[0-9][0-9a-z.+]*", agents[0])
    assert agents[1] == f"{agents[0]} (+crawl@example.org)"
    assert {asked.headers["accept-encoding"] for asked in server.asked} == {"identity"}


# Faults that pass, and faults that stay.

PASSING: dict[str, list[Answer]] = {
    "503 in a burst": [answering(503)] * 9,
    "503 with Retry-After": [answering(503, Retry_After=7)] * 3,
    "429": [answering(429, Retry_After=1), answering(429)],
    "other errors": [answering(500), answering(502), answering(504)],
    "403, then fine": [answering(403)] * 3,
    "cut": [serving(cut=100_000), serving(cut=1), serving(cut=199_998)],
    "cut before the body": [serving(cut=0)] * 3,
    "reset": [resetting] * 3,
    "redirect": [redirecting("/elsewhere")],
    "redirect to a busy place": [redirecting("/elsewhere", 307), answering(503)],
    "no length": [serving(Content_Length=None, cut=len(CONTENT))],
    "no length, cut": [serving(Content_Length=None, cut=1000)],
    "progress in between": [serving(cut=10), *[answering(500)] * 8] * 3,
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("etag", ['"first"', 'W/"weak"', ""])
def test_faults_that_pass_end_in_equal_bytes(server, fault, etag):
    server.etag = etag
    server.script = list(PASSING[fault])
    assert opened(server, rate=2.0).read() == CONTENT
    assert server.script == []
    assert len(server.asked) <= len(PASSING[fault]) + 2
    assert min(gaps(server), default=1.0) > 0.499


NO_RANGES = "Does the server serve ranges"
GAVE_UP = "gave up after 10 attempts in .* s without a byte; the last: "
STAYING: dict[str, tuple[Answer, int, str]] = {
    "404": (answering(404), 1, "answer 404"),
    "410": (answering(410), 1, "answer 410"),
    "401": (answering(401), 1, "answer 401"),
    "204": (answering(204, b""), 1, "answer 204"),
    "412": (answering(412), 1, "answer 412"),
    "416": (answering(416, Content_Range="bytes */300000"), 1, NO_RANGES),
    "503": (answering(503), 10, f"{GAVE_UP}the server answers 503"),
    "403": (answering(403), 4, "gave up after 4 attempts .*: the server answers 403"),
    "reset": (resetting, 10, GAVE_UP),
    "cut before the body": (serving(cut=0), 10, GAVE_UP),
    "no length, empty": (
        serving(Content_Length=None, cut=0),
        10,
        f"{GAVE_UP}.* ends 100 bytes early",
    ),
    "lengths that differ": (serving(Content_Length="100, 99"), 10, GAVE_UP),
    "another start": (serving(Content_Range="bytes 0-99/300000"), 1, NO_RANGES),
    "another stop": (serving(Content_Range="bytes 1000-1199/300000"), 1, NO_RANGES),
    "fewer": (serving(Content_Range="bytes 1000-1098/300000"), 1, NO_RANGES),
    "another length": (serving(Content_Length=99, cut=99), 1, NO_RANGES),
    "no size": (serving(Content_Range="bytes 1000-1099/*"), 1, NO_RANGES),
    "no range": (serving(Content_Range=None), 1, NO_RANGES),
    "endless": (serving(Content_Range="bytes 1000-1099/" + "9" * 5000), 1, NO_RANGES),
    "range ignored": (ignoring_ranges, 1, "bytes 1,000 to 1,099 .* the answer 200 "),
    "redirects": (redirecting("/a/file.bin"), 6, "over 5 redirects"),
    "redirect to a file": (redirecting("file:///etc/hostname"), 1, "is not followed"),
    "redirect to ftp": (redirecting("ftp://127.0.0.1/x"), 1, "is not followed"),
    "redirect nowhere": (answering(302, b""), 1, "answer 302"),
}


@pytest.mark.parametrize("fault", STAYING)
def test_faults_that_stay_end_in_one_explained_error(server, fault):
    server.usual, num_requests, explanation = STAYING[fault]
    raw = opened(server, rate=2.0).detach()
    raw.seek(1000)
    with pytest.raises(OSError, match=explanation) as caught:
        raw.read(100)
    assert server.url in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError) == (fault in ("404", "410"))
    assert len(server.asked) == num_requests
    assert min(gaps(server), default=1.0) > 0.499
    # The file stands where it stood.
    server.usual = serve
    assert raw.read(100) == CONTENT[1000:1100]


def test_a_read_that_fails_half_way_can_be_repeated(server):
    server.script = [serving(cut=1000), *[resetting] * 10]
    stream = opened(server)
    with pytest.raises(OSError, match="gave up"):
        stream.read(5000)
    assert stream.read(5000) == CONTENT[:5000]


def test_bytes_that_came_are_not_asked_for_again(server):
    server.script = [serving(cut=100_000), answering(503), serving(cut=50_000)]
    assert opened(server).detach().read(200_000) == CONTENT[:200_000]
    starts = [0, 100_000, 100_000, 150_000]
    assert server.ranges == [f"{start}-199999" for start in starts]
    assert server.sent_bytes == 200_000 + len(NOT_NOW)


def test_a_stalled_body_goes_on_where_it_stopped(server, monkeypatch):
    monkeypatch.setattr(remote, "_TIMEOUT_S", 0.2)
    server.script = [serving(cut=150_000, stall=True), serving(cut=0, stall=True)]
    assert opened(server).detach().read(300_000) == CONTENT
    assert server.ranges == ["0-299999", "150000-299999", "150000-299999"]


def test_a_server_that_is_not_there_yet_is_asked_again(clock, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    with contextlib.ExitStack() as stack:

        def sleep(pause_s: float) -> None:
            clock.sleep(pause_s)
            if len(clock.pauses) == 3:
                stack.enter_context(running(FaultServer(clock, port)))

        monkeypatch.setattr(remote, "_sleep", sleep)
        stream = file_system().open(f"http://127.0.0.1:{port}/file")
        assert stream.read() == CONTENT


@pytest.mark.parametrize(
    ("etags", "content", "how"),
    [
        (('"first"', '"second"'), CONTENT[::-1], 'its ETag is no longer "first"'),
        (('"first"', ""), CONTENT[::-1], 'its ETag is no longer "first"'),
        (('"first"', '"first"'), CONTENT[:-1], "it had 300,000 bytes, now 299,999"),
        (("", ""), CONTENT + b"!", "it had 300,000 bytes, now 300,001"),
        (("", ""), CONTENT[:500], "it had 300,000 bytes, now 500"),
    ],
)
def test_a_file_that_changes_is_an_error(server, etags, content, how):
    server.etag, then = etags
    raw = opened(server).detach()
    raw.read(1000)
    server.content, server.etag = content, then
    with pytest.raises(OSError, match=f"changed while it was read: {how}"):
        raw.read(1000)
    assert len(server.asked) == 2


def test_a_change_is_seen_where_if_match_is_ignored(server):
    raw = opened(server).detach()
    raw.read(1000)
    server.script = [
        answering(206, b"x", ETag='"second"', Content_Range="bytes 1000-1000/300000")
    ]
    with pytest.raises(OSError, match='its ETag was "first", now "second"'):
        raw.read(1)


def test_a_change_between_a_break_and_what_follows_is_seen(server):
    def change(handler: Handler) -> None:
        server.content, server.etag = CONTENT[::-1], '"second"'
        serve(handler)

    server.script = [serving(cut=1000), change]
    with pytest.raises(OSError, match="changed while"):
        opened(server).read()


@pytest.mark.parametrize(
    ("etag", "demanded"), [('"first"', '"first"'), ('W/"weak"', None), ("", None)]
)
def test_only_a_strong_etag_is_demanded_of_later_answers(server, etag, demanded):
    server.etag = etag
    raw = opened(server).detach()
    for _ in range(3):
        raw.read(10)
    matches = [asked.headers.get("if-match") for asked in server.asked]
    assert matches == [None, demanded, demanded]


def test_a_server_that_ignores_ranges_serves_for_small_files_only(server):
    server.usual = ignoring_ranges
    assert opened(server).read() == CONTENT
    assert file_system().size(server.url) == len(CONTENT)
    server.content = bytes(9 * MIB)
    with pytest.raises(OSError, match=NO_RANGES):
        opened(server).read(10)


@pytest.mark.parametrize(
    "usual", [serve, ignoring_ranges, answering(416, Content_Range=None)]
)
def test_an_empty_file_is_empty(server, usual):
    server.content, server.usual = b"", usual
    assert opened(server).read() == b""
    assert file_system().size(server.url) == 0
    assert opened(server).seek(0, io.SEEK_END) == 0


# Pauses.


def test_pauses_double_up_to_a_bound_and_are_drawn_at_random(
    server, clock, monkeypatch
):
    server.usual = answering(500)
    for fraction in (1.0, 0.25):
        clock.pauses.clear()
        monkeypatch.setattr(random, "random", lambda fraction=fraction: fraction)
        with pytest.raises(OSError, match="gave up after 10 attempts"):
            opened(server).read(1)
        ceilings = [2, 4, 8, 16, 32, 60, 60, 60, 60]
        pauses = [pause for pause in clock.pauses if pause > 1 / RATE]
        assert pauses == [fraction * ceiling for ceiling in ceilings]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("9" * 5000, 300),
        ("-5", 0),
        ("soon", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 99 Foo 2025 99:99:99 GMT", 0),
        (f"Fri, 31 Dec {'9' * 30} 23:59:59 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 300),
    ],
)
def test_retry_after_is_waited_for_up_to_a_bound(server, clock, header, seconds):
    server.script = [answering(503, Retry_After=header)]
    opened(server).read(1)
    assert clock.now - 1000 == pytest.approx(seconds + 1.0, abs=0.01)


def test_retry_after_may_be_a_date(server, clock):
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    server.script = [answering(429, Retry_After=date)]
    opened(server).read(1)
    assert clock.now - 1000 == pytest.approx(91, abs=3)


def test_a_403_means_long_pauses(server):
    server.script = [answering(403), answering(403, Retry_After=90)]
    opened(server).read(1)
    assert gaps(server) == pytest.approx([61, 92], abs=0.01)


def test_a_limit_holds_all_that_is_asked_of_the_host(server, clock):
    host = f"127.0.0.1:{server.server_port}"
    remote._Patience(server.url).wait(remote._Refusal(host, 429, 40.0))
    assert clock.now == 1000
    other = server.url.replace("127.0.0.1", "localhost")
    file_system().open(other).detach().read(1)
    opened(server).detach().read(1)
    assert [asked.at for asked in server.asked] == pytest.approx([1000, 1041])


def test_a_long_pause_is_logged_once(server, caplog):
    server.script = [answering(503), answering(503, Retry_After=30)]
    with caplog.at_level("WARNING", logger="xinst"):
        opened(server).read(1)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"{server.url}: the server answers 503; asking again in 32 s"]


def test_threads_share_one_cap_on_requests(server, monkeypatch):
    monkeypatch.setattr(remote, "_clock", time.monotonic)
    monkeypatch.setattr(remote, "_sleep", time.sleep)
    server.clock = time.monotonic

    def read(offset: int) -> bytes:
        raw = opened(server, rate=50).detach()
        raw.seek(offset)
        return raw.read(100)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        pieces = list(threads.map(read, range(0, 2000, 100)))
    assert b"".join(pieces) == CONTENT[:2000]
    assert server.asked[-1].at - server.asked[0].at >= 0.95 * 19 / 50
    assert server.connections <= 2


# As a file system.


def test_a_proxy_of_the_environment_is_asked(server, monkeypatch):
    proxy = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(remote.urllib.request, "getproxies", lambda: {"http": proxy})
    assert file_system().open("http://example.invalid/a").read() == CONTENT
    assert server.asked[0].headers["host"] == "example.invalid"


@pytest.mark.parametrize(
    "head",
    [
        answering(405),
        answering(501),
        answering(200, b"", Content_Length=None),
        answering(200, b"", Content_Length=0),
        answering(200, b"", Content_Length=-1),
    ],
)
def test_the_size_is_found_where_head_does_not_tell_it(server, head):
    server.script = [head]
    assert file_system().size(server.url) == len(CONTENT)
    assert [asked.method for asked in server.asked] == ["HEAD", "GET"]
    assert server.ranges[1] == "0-0"


def test_the_size_is_asked_for_again_where_the_server_is_busy(server):
    server.script = [answering(503), resetting, answering(403)]
    assert file_system().size(server.url) == len(CONTENT)
    server.usual = answering(200, b"", Content_Length=None)
    with pytest.raises(OSError, match="the answer 200 does not tell the file's size"):
        file_system().size(server.url)


@pytest.mark.usefixtures("beam_options")
def test_beam_finds_files_by_exact_address(server):
    url = f"{server.url}?version=1"
    found = FileSystems.match([url])[0].metadata_list
    assert [(file.path, file.size_in_bytes) for file in found] == [(url, 300_000)]
    modified = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert FileSystems.last_updated(url) == modified
    assert FileSystems.checksum(url) == '"first"'
    assert FileSystems.exists(url)
    with FileSystems.open(url, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        assert file.read() == CONTENT
    server.etag = ""
    assert FileSystems.checksum(url) == "300000"
    server.usual = answering(404)
    assert not FileSystems.exists(url)
    assert FileSystems.match([url])[0].metadata_list == []


@pytest.mark.usefixtures("beam_options")
def test_patterns_and_failures_are_named_when_matching(server, clock):
    with pytest.raises(BeamIOError, match=r"pattern, and http cannot list.*path list"):
        FileSystems.match([server.url, server.url + "/*.gz"])
    with pytest.raises(BeamIOError, match=r"http:///file.*[Nn]o host"):
        FileSystems.match(["http:///file"])
    assert max(clock.pauses, default=0.0) < 1
    server.usual = answering(403)
    with pytest.raises(BeamIOError, match="gave up after 4 attempts"):
        FileSystems.match([server.url])


def test_beam_finds_the_file_systems_by_scheme():
    for url, kind in {
        "http://example.org/a": remote.HttpFileSystem,
        "https://example.org/a": remote.HttpsFileSystem,
    }.items():
        assert type(FileSystems.get_filesystem(url)) is kind
    assert FileSystems.join("https://h.org/a/", "/b", "c") == "https://h.org/a/b/c"
    assert FileSystems.split("https://h.org/a/b") == ("https://h.org/a", "b")
    assert FileSystems.split("https://h.org") == ("https://h.org", "")


def test_files_are_inflated_by_their_names_as_elsewhere_in_beam(server):
    stream = file_system().open(f"{server.url}.gz")
    assert isinstance(stream, CompressedFile)


def test_writing_is_refused():
    url = "https://example.org/a"
    for write in (
        lambda: FileSystems.create(url),
        lambda: FileSystems.mkdirs(url),
        lambda: FileSystems.copy([url], [url]),
        lambda: FileSystems.rename([url], [url]),
        lambda: FileSystems.delete([url]),
    ):
        with pytest.raises(OSError, match=r"http is read only.*example\.org"):
            write()


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_a_rate_out_of_bounds_is_an_error(rate):
    with pytest.raises(ValueError, match=r"_per_second=.* above 0"):
        file_system(rate)


@pytest.mark.parametrize("contact", ["a\r\nHost: b", "höst"])
def test_a_contact_that_cannot_be_sent_is_an_error(contact):
    with pytest.raises(ValueError, match="printable ASCII"):
        remote.HttpFileSystem(options(http_contact=contact))


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"http_requests_per_second": 0.5},
        PipelineOptions(["--http_requests_per_second=0.5"]),
        PipelineOptions([], http_requests_per_second="0.5"),
    ],
)
def test_options_come_in_every_form_that_beam_hands_over(server, given):
    system = remote.HttpFileSystem(given)
    for _ in range(2):
        system.open(server.url).detach().read(1)
    assert gaps(server) == pytest.approx([2.0 if given else 0.2])


def test_pickled_file_systems_and_threads_read_the_same(server):
    system = pickle.loads(pickle.dumps(file_system()))

    def read(number: int) -> bytes:
        raw = system.open(server.url).detach()
        raw.seek(number)
        return raw.read(200_000)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        pieces = list(threads.map(read, range(16)))
    assert pieces == [CONTENT[number : number + 200_000] for number in range(16)]
    assert server.connections <= 2


def test_two_columns_of_parquet_cost_two_columns(server):
    columns = {
        f"column_{number}": np.random.default_rng(number).bytes(8 * 20_000)
        for number in range(10)
    }
    table = pa.table({n: np.frombuffer(c, np.int64) for n, c in columns.items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=5_000, compression="none")
    server.content = sink.getvalue()
    wanted = ["column_3", "column_7"]
    with opened(server) as stream:
        found = pq.ParquetFile(stream.raw, pre_buffer=True).read(wanted)
    assert found.equals(table.select(wanted))
    assert server.sent_bytes < 0.3 * len(server.content)


def test_a_pipeline_reads_over_http_and_counts_what_it_asked(server):
    server.script = [answering(503), serving(cut=1000)]

    def read(url: str) -> bytes:
        uncompressed = CompressionTypes.UNCOMPRESSED
        with FileSystems.open(url, compression_type=uncompressed) as stream:
            return stream.read()

    pipeline = beam.Pipeline(FnApiRunner(), options())
    content = pipeline | beam.Create([server.url]) | beam.Map(read)
    assert_that(content, equal_to([CONTENT]))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace("remote"))
    counted = {c.key.metric.name: c.committed for c in counters["counters"]}
    assert counted == {"requests": 3, "retries": 2, "bytes": len(CONTENT)}


def test_an_unknown_certificate_is_refused(clock, tmp_path):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    place = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([place]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = FaultServer(clock)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        stream = remote.HttpsFileSystem(options()).open(server.url.replace("p:", "ps:"))
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            stream.read()
    assert server.asked == []
