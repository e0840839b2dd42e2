"""Bytes that index mode fetches for one language, against those of its records.

A crawl, its index and its path lists are served over http on this machine; every byte
of an answer is counted. Beside it stands what a scan of the same files fetches.

    python benchmarks/index_bytes.py [FOLDER] [--pages 3000]
"""

import argparse
import contextlib
import http.server
import logging
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

import bench_crawl  # noqa: E402
import make_index  # noqa: E402

from beam_pipelines import recipe as recipes  # noqa: E402
from beam_pipelines.cli import pipeline_options  # noqa: E402
from beam_pipelines.pipeline import Path as PipelinePath  # noqa: E402
from beam_pipelines.schema import LANGUAGES  # noqa: E402
from beam_pipelines.store import Store, part_names, read_stage, unread  # noqa: E402

CRAWL = "CC-MAIN-2026-04"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Ranges of files below a folder, as an object store serves them."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            self._answer(404, b"")
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), int(asked[2]) + 1) if asked else (0, size)
        if self.command == "HEAD":
            self._answer(200, b"", size)
        elif start >= size:
            self._answer(416, b"", 0, f"bytes */{size}")
        else:
            with path.open("rb") as file:
                file.seek(start)
                body = file.read(min(stop, size) - start)
            end = start + len(body) - 1
            self._answer(206, body, len(body), f"bytes {start}-{end}/{size}")
        kind = "index" if path.suffix == ".parquet" else path.suffixes[-2].lstrip(".")
        with self.server.lock:
            self.server.requests[kind] += 1
            if self.command == "GET" and start < size:
                self.server.num_bytes[kind] += len(body)

    do_HEAD = do_GET

    def _answer(
        self, status: int, body: bytes, length: int = 0, content_range: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"only"')
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and counts requests and bytes by kind of file."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.num_bytes: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Server]:
    """A server of a folder, for as long as the block lasts."""
    with Server(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ingest(base: str, languages: list[str], folder: Path, *, index: bool) -> Store:
    """Runs the pipeline to its documents on a crawl; returns the store."""
    recipe = recipes.Recipe(
        name="index",
        languages=tuple(languages),
        source=recipes.Source(crawl=CRAWL, base=base, index=index),
        generator=recipes.Generator(checkpoint="none"),
        evaluator=recipes.Evaluator(checkpoint="none"),
    )
    store = Store(str(folder), recipe)
    options = pipeline_options(["--http_requests_per_second=10000"])
    with beam.Pipeline(FnApiRunner(), options=options) as pipeline:
        _ = PipelinePath(pipeline, recipe, store, until="documents").documents
    if letters := unread(store.documents):
        raise RuntimeError(f"could not be read: {letters[0]}")
    return store


def main(folder: Path, num_pages: int) -> None:
    root = folder / "mirror"
    warcs = root / "crawl-data" / CRAWL / "segments" / "1768220000000.1" / "warc"
    texts = bench_crawl.Texts.bundled()
    bench_crawl.make_crawl(
        warcs, texts, num_pages, num_files=4, minimum=8, kinds=["declared"]
    )
    make_index.write(root, CRAWL)
    with serve(root) as server:
        ingest(server.address, list(LANGUAGES), folder / "scan", index=False)
        scan = server.num_bytes["warc"]
        print("| language | records | their bytes | fetched | ratio | of a scan |")
        print("|---|--:|--:|--:|--:|--:|")
        worst = 0.0
        for code in LANGUAGES:
            server.num_bytes.clear()
            store = ingest(server.address, [code], folder / code, index=True)
            parts = list(read_stage(store.captures))
            assert len(parts) == len(part_names(store.captures)) > 0
            lengths = [row["warc_length"] for part in parts for row in part.rows]
            fetched = server.num_bytes["warc"]
            ratio = fetched / sum(lengths)
            worst = max(worst, ratio)
            print(
                f"| {code} | {len(lengths):,} | {sum(lengths):,} | {fetched:,} "
                f"| {ratio:.3f} | 1/{scan / fetched:.0f} |"
            )
    print(f"\nWorst ratio {worst:.3f} (at most 1.05). A scan fetches {scan:,} bytes.")
    print("Here rare languages have far more of the crawl than on the web.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pages", type=int, default=3000)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        main(arguments.folder or Path(temporary), arguments.pages)
