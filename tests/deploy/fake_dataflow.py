"""Cloud Storage and Dataflow's jobs on the loopback interface, enough to submit to.

Objects are kept in memory. A job is taken and is done at once: nothing runs.
"""

import base64
import contextlib
import email
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import google_crc32c

BUCKET = "bucket"
_MIXED = "multipart/mixed; boundary=part"


class FakeCloud(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
      objects: By name, what the bucket holds.
      jobs: As they were posted.
      job_bytes: The size of each.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.job_bytes: list[int] = []
        self.uploads: dict[str, tuple[str, bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What makes Google's clients talk to this server, without an account."""
        return {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.server_port}",
            "NO_GCE_CHECK": "true",
            "GCE_METADATA_HOST": "127.0.0.1:1",
        }

    @property
    def flags(self) -> list[str]:
        """Beam options of a submission; the word localhost has Beam speak http."""
        return [
            "--runner=DataflowRunner",
            "--no_auth",
            f"--dataflow_endpoint=http://localhost:{self.server_port}",
            "--project=my-project",
            "--region=us-central1",
            f"--temp_location=gs://{BUCKET}/temp",
            f"--staging_location=gs://{BUCKET}/staging",
        ]

    def metadata(self, name: str) -> dict[str, Any]:
        """Of an object, as the clients check it."""
        content = self.objects[name]
        crc = google_crc32c.Checksum(content).digest()
        return {
            "name": name,
            "bucket": BUCKET,
            "generation": "1",
            "metageneration": "1",
            "size": str(len(content)),
            "updated": "2026-01-01T00:00:00Z",
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
        }

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, Any]:
        """Status, and what is sent as JSON; bytes are sent as they are."""
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query))
        path = re.sub(r"^(/download|/upload)?(/storage/v1)?", "", parts.path)
        if path.startswith("/v1b3/"):
            return 200, self._job(method, path, body)
        if path == f"/b/{BUCKET}":
            return 200, {"name": BUCKET, "id": BUCKET, "projectNumber": "1"}
        if path == f"/b/{BUCKET}/o" and method == "GET":
            prefix = query.get("prefix", "")
            names = sorted(n for n in self.objects if n.startswith(prefix))
            return 200, {"items": [self.metadata(name) for name in names]}
        if path == f"/b/{BUCKET}/o":
            return 200, self._upload(query, body)
        name, _, copy = path.removeprefix(f"/b/{BUCKET}/o/").partition("/copyTo/")
        name = urllib.parse.unquote(name)
        if name not in self.objects:
            return 404, {"error": {"code": 404, "message": f"no {name}"}}
        if method == "DELETE":
            del self.objects[name]
            return 204, b""
        if copy:
            to = urllib.parse.unquote(copy.removeprefix(f"b/{BUCKET}/o/"))
            self.objects[to] = self.objects[name]
            return 200, self.metadata(to)
        if query.get("alt") == "media":
            return 200, self.objects[name]
        return 200, self.metadata(name)

    def _job(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        done = {"id": "job-1", "currentState": "JOB_STATE_DONE"}
        if method == "POST" and path.endswith("/jobs"):
            job = json.loads(body)
            self.jobs.append(job)
            self.job_bytes.append(len(body))
            where = {"projectId": "my-project", "location": "us-central1"}
            return job | done | where
        if method == "GET" and path.endswith("/jobs/job-1"):
            return done
        # Messages and metrics: none.
        return {}

    def _upload(self, query: dict[str, str], body: bytes) -> dict[str, Any]:
        # The boundary stands in the body's first line.
        boundary = body.split(b"\r\n", 1)[0].removeprefix(b"--").decode()
        head = f'Content-Type: multipart/related; boundary="{boundary}"\r\n\r\n'
        about, content = email.message_from_bytes(head.encode() + body).get_payload()
        name = json.loads(about.get_payload())["name"]
        self.objects[name] = content.get_payload(decode=True)
        return self.metadata(name)

    def batch(self, body: bytes) -> bytes:
        """Answers many requests in one."""
        answers = []
        for method, url in re.findall(rb"^(DELETE|POST) (\S+)", body, re.M):
            status, found = self.answer(method.decode(), url.decode(), b"")
            text = "" if status == 204 else json.dumps(found)
            answers.append(
                "--part\r\nContent-Type: application/http\r\n\r\n"
                f"HTTP/1.1 {status} done\r\nContent-Type: application/json\r\n\r\n"
                f"{text}\r\n"
            )
        return "".join([*answers, "--part--\r\n"]).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Requests in, answers out; an upload may come in pieces."""

    protocol_version = "HTTP/1.1"
    server: FakeCloud

    def log_message(self, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self) -> None:
        body, cloud = self._body(), self.server
        if self.path.startswith("/batch/"):
            self._send(200, cloud.batch(body), {"Content-Type": _MIXED})
        elif self.command == "POST" and "uploadType=resumable" in self.path:
            at = f"/resume/{len(cloud.uploads)}"
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            name = (query.get("name") or [json.loads(body or b"{}").get("name")])[0]
            cloud.uploads[at] = (name, b"")
            host = f"http://127.0.0.1:{cloud.server_port}"
            self._send(200, {}, {"Location": host + at})
        elif self.path.startswith("/resume/"):
            name, before = cloud.uploads[self.path]
            cloud.uploads[self.path] = (name, before + body)
            if (self.headers.get("Content-Range") or "/1").endswith("/*"):
                last = len(before) + len(body) - 1
                self._send(308, b"", {"Range": f"bytes=0-{last}"})
            else:
                cloud.objects[name] = before + body
                self._send(200, cloud.metadata(name))
        else:
            status, found = cloud.answer(self.command, self.path, body)
            asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
            if asked and isinstance(found, bytes) and status == 200:
                first, last = int(asked[1]), int(asked[2] or len(found) - 1)
                if first >= len(found):
                    self._send(416, b"")
                    return
                piece = found[first : last + 1]
                end = first + len(piece) - 1
                self._send(
                    206, piece, {"Content-Range": f"bytes {first}-{end}/{len(found)}"}
                )
            else:
                self._send(status, found)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, status: int, found: Any, headers: Any = ()) -> None:
        raw = isinstance(found, bytes)
        content = found if raw else json.dumps(found).encode()
        kind = "application/octet-stream" if raw else "application/json"
        self.send_response(status)
        for name, value in ({"Content-Type": kind} | dict(headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[FakeCloud]:
    """A server that ends with the block."""
    with FakeCloud() as cloud:
        thread = threading.Thread(target=cloud.serve_forever, daemon=True)
        thread.start()
        try:
            yield cloud
        finally:
            cloud.shutdown()
            thread.join()
