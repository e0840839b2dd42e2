"""Files at http and https addresses, as Beam file systems that only read.

`FileSystems` finds them by an address's scheme once this module is imported. What a
busy server refuses is asked for again, ever later; what it answers otherwise than asked
ends in an error, so that no read returns bytes of another place or version.
"""

import argparse
import contextlib
import dataclasses
import email.utils
import functools
import importlib.metadata
import io
import logging
import math
import os
import random
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn, cast

import urllib3
from apache_beam.io.filesystem import (
    BeamIOError,
    CompressedFile,
    CompressionTypes,
    FileMetadata,
    FileSystem,
    MatchResult,
)
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError

_BUFFER_BYTES = 8 << 20  # Of a sequential reader: one request each.
_REQUEST_BYTES = 16 << 20
_PIECE_BYTES = 64 << 10
_CONNECTIONS = 2  # Per host; with more, Common Crawl begins to answer 403.
_MAX_REDIRECTS = 5
_TIMEOUT_S = 30.0  # To connect, and without a byte.

_ATTEMPTS = 10  # Without a byte in between: 2.5 minutes on average, 5 at most.
_MAX_PAUSE_S = 60.0
_MAX_TOLD_S = 300.0
# Common Crawl answers 403 to whom it has limited: coming back soon makes it worse.
_FORBIDDEN_ATTEMPTS = 4
_FORBIDDEN_PAUSE_S = 60.0
_LOGGED_PAUSE_S = 5.0

_log = logging.getLogger("xinst")
_sleep = time.sleep
_clock = time.monotonic
_turns_lock = threading.Lock()
_next_turns: dict[str, float] = {}  # By host, on `_clock`.


class HttpOptions(PipelineOptions):
    """How http servers are asked."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--http_requests_per_second",
            type=float,
            default=5.0,
            help="At most so many to each host from each worker process.",
        )
        parser.add_argument(
            "--http_contact",
            default="",
            help="An e-mail or web address where a server's owner finds you; it is "
            "sent as part of the User-Agent.",
        )


class HttpsFileSystem(FileSystem):
    """Reads https addresses.

    `open` gives an `io.BufferedReader` that fetches 8 MiB at a time; a read of n bytes
    from its `raw` fetches those n bytes and no others.

    Args:
      pipeline_options: As Beam hands them over: options, a dict of them, or None.

    Raises:
      ValueError: One of `HttpOptions` is out of bounds.
    """

    def __init__(self, pipeline_options: PipelineOptions | dict[str, Any] | None):
        super().__init__(pipeline_options)
        options: Any = pipeline_options or {}
        if isinstance(options, dict):
            options = PipelineOptions.from_dictionary(options)
        options = options.view_as(HttpOptions)
        # What went through Beam's protocol buffers comes back as text.
        rate = float(options.http_requests_per_second)
        if not 0 < rate < math.inf:
            raise ValueError(f"--http_requests_per_second={rate} must be above 0.")
        contact = options.http_contact
        if not (contact.isascii() and contact.isprintable()):
            raise ValueError(f"--http_contact={contact!r} must be printable ASCII.")
        agent = f"x-instruction/{importlib.metadata.version('x-instruction')}"
        self._client = _Client(1 / rate, f"{agent} (+{contact})" if contact else agent)

    @classmethod
    def scheme(cls) -> str:
        return "https"

    def join(self, basepath: str, *paths: str) -> str:
        for path in paths:
            basepath = f"{basepath.rstrip('/')}/{path.lstrip('/')}"
        return basepath

    def split(self, path: str) -> tuple[str, str]:
        scheme, _, rest = path.partition("://")
        head, _, tail = rest.rpartition("/")
        return (f"{scheme}://{head}", tail) if head else (path, "")

    def has_dirs(self) -> bool:
        return False

    def open(
        self,
        path: str,
        mime_type: str = "application/octet-stream",
        compression_type: str = CompressionTypes.AUTO,
    ) -> BinaryIO:
        """A file to read; the server is asked for nothing before the first read."""
        compression = self._get_compression_type(path, compression_type)
        stream = io.BufferedReader(_HttpFile(path, self._client), _BUFFER_BYTES)
        if compression == CompressionTypes.UNCOMPRESSED:
            return stream
        return cast(BinaryIO, CompressedFile(stream, compression))

    def exists(self, path: str) -> bool:
        try:
            self._client.version(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return self._client.version(path).size

    def last_updated(self, path: str) -> float:
        return self._client.version(path).modified

    def checksum(self, path: str) -> str:
        version = self._client.version(path)
        return version.etag or str(version.size)

    def metadata(self, path: str) -> FileMetadata:
        version = self._client.version(path)
        return FileMetadata(path, version.size, version.modified)

    def match(
        self, patterns: Sequence[str], limits: Sequence[int | None] | None = None
    ) -> list[MatchResult]:
        """The file at each address: one, or none where there is none.

        Raises:
          BeamIOError: An address is a pattern, or the server does not tell.
        """
        results, errors = [], {}
        for address in patterns:
            found = []
            try:
                # A question mark is no pattern here: it begins the query.
                if set(urllib.parse.urlsplit(address).path) & set("*["):
                    self._list(address)
                found = [self.metadata(address)]
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                errors[address] = error
            results.append(MatchResult(address, found))
        if errors:
            raise BeamIOError("http: not found out", errors)
        return results

    def _list(self, dir_or_prefix: str) -> NoReturn:
        raise ValueError(
            f"{dir_or_prefix!r} is a pattern, and http cannot list files. Name exact "
            "addresses, or take them from a path list."
        )

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise io.UnsupportedOperation(
            f"http is read only, and was to write, move or delete {args or kwargs}. "
            "Use a local path, s3:// or gs:// for what is written."
        )

    create = mkdirs = copy = rename = delete = _refuse


class HttpFileSystem(HttpsFileSystem):
    """Reads http addresses."""

    @classmethod
    def scheme(cls) -> str:
        return "http"


@dataclasses.dataclass(frozen=True, slots=True)
class _Version:
    """Which content an address has.

    Attributes:
      size: In bytes.
      etag: If strong, else empty.
      modified: Unix time in seconds, or 0.
    """

    size: int
    etag: str
    modified: float


class _HttpFile(io.RawIOBase):
    """An address as a file without a buffer: what a read returns is what it fetches."""

    mode = "rb"

    def __init__(self, url: str, client: "_Client") -> None:
        self._url = url
        self._client = client
        self._position = 0
        self._version: _Version | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            self._version = self._version or self._client.version(self._url)
            offset += self._version.size
        if offset < 0:
            raise ValueError(f"{self._url}: there is no byte {offset:,} to seek.")
        self._position = offset
        return offset

    def readall(self) -> bytes:
        # The base class would ask for 8 KiB at a time.
        return b"".join(iter(lambda: self.read(_BUFFER_BYTES) or b"", b""))

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer; less than all of it only at the end of the file."""
        self._checkClosed()
        view = memoryview(buffer).cast("B")
        patience = _Patience(self._url)
        got = 0
        while got < len(view):
            before, at = got, self._position + got
            stop = at + min(len(view) - got, _REQUEST_BYTES)
            try:
                for piece in self._pieces(at, stop):
                    view[got : got + len(piece)] = piece
                    got += len(piece)
                    patience.renew()
                if got == before:
                    break
            except (HTTPError, _Refusal) as error:
                patience.wait(error)
        # Only now: a read that fails leaves the file where it was.
        self._position += got
        Metrics.counter("remote", "bytes").inc(got)
        return got

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes [start, stop) as they arrive, in one request; none at the end."""
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        if first := self._version:
            stop = min(stop, first.size)
            if start >= stop:
                return
            headers["Range"] = f"bytes={start}-{stop - 1}"
            if first.etag:
                headers["If-Match"] = first.etag
        with self._client.request("GET", self._url, headers) as response:
            if response.status == 412 and "If-Match" in headers:
                self._fail_as_changed(f"its ETag is no longer {headers['If-Match']}")
            span = _span(response)
            if span is not None:
                if first or response.status != 416:
                    self._check(_version(response, span[2]))
                stop = min(stop, span[2])
                if start >= stop:
                    return
            if span is None or span[:2] != (start, stop):
                raise OSError(
                    f"{self._url}: bytes {start:,} to {stop - 1:,} were asked for, and "
                    f"{_told(response)} does not hold them. Does the server serve "
                    "ranges of files? If not, use another, or copy the file."
                )
            while start < stop:
                piece = response.read1(min(stop - start, _PIECE_BYTES))
                if not piece:
                    raise ProtocolError(f"the answer ends {stop - start:,} bytes early")
                yield piece
                start += len(piece)

    def _check(self, now: _Version) -> None:
        """Holds every answer to the version of the first.

        Raises:
          OSError: It is another.
        """
        first = self._version or now
        if now.size != first.size:
            self._fail_as_changed(f"it had {first.size:,} bytes, now {now.size:,}")
        if first.etag and now.etag and now.etag != first.etag:
            self._fail_as_changed(f"its ETag was {first.etag}, now {now.etag}")
        self._version = first

    def _fail_as_changed(self, how: str) -> NoReturn:
        raise OSError(f"{self._url} changed while it was read: {how}. Read it again.")


class _Refusal(Exception):
    """The server does not answer now, but may later."""

    def __init__(self, host: str, status: int, told_s: float) -> None:
        super().__init__(f"the server answers {status}")
        self.host = host
        self.status = status
        self.told_s = told_s


@dataclasses.dataclass(frozen=True, slots=True)
class _Client:
    """Sends requests, none too soon.

    Attributes:
      interval_s: Between two requests to a host.
      agent: Who asks.
    """

    interval_s: float
    agent: str

    def version(self, url: str) -> _Version:
        """What is at an address now.

        Raises:
          FileNotFoundError: Nothing is.
          OSError: The server does not tell.
        """
        patience = _Patience(url)
        while True:
            try:
                with self.request("HEAD", url, {}) as response:
                    span = _span(response)
                    if span is not None and span[2] > 0:
                        return _version(response, span[2])
                # Some servers refuse HEAD, or answer it with no length, or with 0.
                with self.request("GET", url, {"Range": "bytes=0-0"}) as response:
                    span = _span(response)
                    if span is not None:
                        return _version(response, span[2])
                    told = _told(response)
                    raise OSError(f"{url}: {told} does not tell the file's size.")
            except (HTTPError, _Refusal) as error:
                patience.wait(error)

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a request, after redirects; its body is not read yet.

        Raises:
          FileNotFoundError: It is 404 or 410.
          OSError: It redirects to where we do not go.
          HTTPError: It does not come, or not whole.
          _Refusal: The server is busy, or has had enough of us.
        """
        headers = {**headers, "Accept-Encoding": "identity", "User-Agent": self.agent}
        target = url
        for _ in range(_MAX_REDIRECTS + 1):
            host = urllib.parse.urlsplit(target).netloc
            _await_turn(host, self.interval_s)
            Metrics.counter("remote", "requests").inc()
            response = _pool_for(target).urlopen(
                method,
                target,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=_TIMEOUT_S,
            )
            try:
                if location := response.get_redirect_location():
                    target = _redirected(target, location)
                    continue
                if response.status in (404, 410):
                    raise FileNotFoundError(f"{url}: {_told(response)}.")
                if response.status in (403, 429, 500, 502, 503, 504):
                    told_s = _retry_after_s(response.headers.get("Retry-After", ""))
                    raise _Refusal(host, response.status, told_s)
                yield response
                return
            finally:
                # A connection with an unread rest is of no further use.
                if response.length_remaining == 0:
                    response.drain_conn()
                else:
                    response.close()
                response.release_conn()
        raise OSError(f"{url}: over {_MAX_REDIRECTS} redirects, the last to {target}.")


class _Patience:
    """How often and how long an address is asked in vain, since it last gave a byte."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.renew()

    def renew(self) -> None:
        self._failures = 0
        self._since = _clock()

    def wait(self, error: HTTPError | _Refusal) -> None:
        """Pauses, at random, so that many workers do not come back as one.

        Raises:
          OSError: It was asked too often.
          ValueError: It is no address.
        """
        if isinstance(error, LocationValueError):
            raise ValueError(f"{self._url}: {error}") from error
        status = error.status if isinstance(error, _Refusal) else 0
        told_s = error.told_s if isinstance(error, _Refusal) else 0.0
        attempts = _ATTEMPTS
        if status == 403:
            attempts = _FORBIDDEN_ATTEMPTS
            told_s = max(told_s, _FORBIDDEN_PAUSE_S)
        self._failures += 1
        if self._failures >= attempts:
            raise OSError(
                f"{self._url}: gave up after {self._failures} attempts in "
                f"{_clock() - self._since:.0f} s without a byte; the last: {error}. "
                "Try later, with fewer workers or a lower --http_requests_per_second."
            ) from error
        Metrics.counter("remote", "retries").inc()
        pause_s = told_s + random.random() * min(_MAX_PAUSE_S, 2.0**self._failures)
        if pause_s > _LOGGED_PAUSE_S:
            _log.warning("%s: %s; asking again in %.0f s", self._url, error, pause_s)
        if isinstance(error, _Refusal) and status in (403, 429, 503):
            # These are meant for all that this process asks of the host.
            _hold(error.host, pause_s)
        else:
            _sleep(pause_s)


def _await_turn(host: str, interval_s: float) -> None:
    with _turns_lock:
        now = _clock()
        turn = max(now, _next_turns.get(host, now))
        _next_turns[host] = turn + interval_s
    if turn > now:
        _sleep(turn - now)


def _hold(host: str, pause_s: float) -> None:
    with _turns_lock:
        turn = _clock() + pause_s
        _next_turns[host] = max(turn, _next_turns.get(host, turn))


def _pool_for(url: str) -> urllib3.PoolManager:
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return _pool("")
    return _pool(urllib.request.getproxies().get(parts.scheme, ""))


@functools.cache
def _pool(proxy: str) -> urllib3.PoolManager:
    if proxy:
        return urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS, block=True)
    return urllib3.PoolManager(maxsize=_CONNECTIONS, block=True)


def _redirected(url: str, location: str) -> str:
    target = urllib.parse.urljoin(url, location)
    if urllib.parse.urlsplit(target).scheme not in ("https", url.partition(":")[0]):
        raise OSError(
            f"{url}: redirects to {target!r}. That is not followed: only https is, and "
            "http from http."
        )
    return target


_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})")


def _span(response: urllib3.BaseHTTPResponse) -> tuple[int, int, int] | None:
    """Which bytes an answer holds: start, stop, and the file's size, if it tells."""
    length = response.headers.get("Content-Length", "")
    if response.status == 200 and re.fullmatch(r"[0-9]{1,18}", length):
        return 0, int(length), int(length)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 416:
        # Nothing from there on. It should name the size, but some do not.
        size = int(found[3]) if found else 0
        return size, size, size
    if response.status != 206 or found is None or found[1] is None:
        return None
    start, stop = int(found[1]), int(found[2]) + 1
    return (start, stop, int(found[3])) if length in ("", str(stop - start)) else None


def _version(response: urllib3.BaseHTTPResponse, size: int) -> _Version:
    etag = response.headers.get("ETag", "")
    modified = _unix_time(response.headers.get("Last-Modified", ""))
    return _Version(size, etag if etag.startswith('"') else "", modified or 0.0)


def _told(response: urllib3.BaseHTTPResponse) -> str:
    """An answer, as errors put it."""
    content = response.headers.get("Content-Range")
    return f"the answer {response.status}" + (f" ({content})" if content else "")


def _retry_after_s(value: str) -> float:
    """Seconds, of a header that holds them or a date; bounded."""
    if value.isdecimal():
        told_s = float(value[:9])
    else:
        told_s = (_unix_time(value) or 0.0) - time.time()
    return min(max(told_s, 0.0), _MAX_TOLD_S)


def _unix_time(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
