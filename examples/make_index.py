"""Path lists and a columnar index for WARC files, as Common Crawl has them.

Turns a folder of your own archives into a crawl that a recipe can name:

    ROOT/crawl-data/CRAWL/.../*.warc.gz      the archives, laid there before
    ROOT/crawl-data/CRAWL/warc.paths.gz      written, as are wet.paths.gz and
    ROOT/crawl-data/CRAWL/cc-index-table.paths.gz
    ROOT/cc-index/table/cc-main/warc/crawl=CRAWL/subset=warc/part-*.gz.parquet
"""

import datetime
import gzip
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipelines import warc
from beam_pipelines.schema import Page

# Those of Common Crawl's columns that say where a page lies and what it is.
SCHEMA = pa.schema(
    [
        ("url_surtkey", pa.string()),
        ("url", pa.string()),
        ("url_host_name", pa.string()),
        ("fetch_time", pa.timestamp("ms")),
        ("fetch_status", pa.int16()),
        ("content_digest", pa.string()),
        ("content_mime_type", pa.string()),
        ("content_mime_detected", pa.string()),
        ("content_charset", pa.string()),
        ("content_languages", pa.string()),
        ("content_truncated", pa.string()),
        ("warc_filename", pa.string()),
        ("warc_record_offset", pa.int32()),
        ("warc_record_length", pa.int32()),
        ("warc_segment", pa.string()),
    ]
)


def rows(root: Path, path: Path) -> Iterator[dict[str, Any]]:
    """A row for each page of a WARC file."""
    name = path.relative_to(root).as_posix()
    with path.open("rb") as stream:
        size = path.stat().st_size
        for page in warc.read_pages(stream, size, name, 0, lambda at: at < size):
            if isinstance(page, Page):
                yield row(page)


def row(page: Page) -> dict[str, Any]:
    """A page as the index has it."""
    url = urllib.parse.urlsplit(page.url)
    host = url.hostname or ""
    turned = ",".join(reversed(host.removeprefix("www.").split(".")))
    return {
        "url_surtkey": f"{turned}){url.path}",
        "url": page.url,
        "url_host_name": host,
        "fetch_time": datetime.datetime.strptime(page.date, "%Y-%m-%dT%H:%M:%SZ"),
        "fetch_status": 200,
        "content_digest": page.digest.removeprefix("sha1:"),
        "content_mime_type": page.content_type,
        "content_mime_detected": page.content_type,
        "content_charset": page.charset.upper() or None,
        "content_languages": ",".join(page.languages) or None,
        "content_truncated": None,
        "warc_filename": page.warc_file,
        "warc_record_offset": page.warc_offset,
        "warc_record_length": page.warc_length,
        "warc_segment": page.warc_file.split("/")[-2],
    }


def write(root: Path, crawl: str, num_files: int = 2) -> None:
    """Writes lists and index of the archives that lie in a root.

    Args:
      root: The folder that `source.base` will name.
      crawl: The crawl's name.
      num_files: Of the index, which is sorted by address.
    """
    folder = root / "crawl-data" / crawl
    archives = {
        kind: sorted(folder.rglob(f"*.{kind}.gz"), key=str) for kind in ("warc", "wet")
    }
    found = [item for path in archives["warc"] for item in rows(root, path)]
    found.sort(key=lambda item: item["url_surtkey"])
    table = root / f"cc-index/table/cc-main/warc/crawl={crawl}/subset=warc"
    table.mkdir(parents=True, exist_ok=True)
    index = []
    for number in range(num_files):
        first, last = (n * len(found) // num_files for n in (number, number + 1))
        index.append(table / f"part-{number:05}.gz.parquet")
        part = pa.Table.from_pylist(found[first:last], schema=SCHEMA)
        pq.write_table(part, index[-1], compression="gzip", row_group_size=20_000)
    lists = {f"{kind}.paths.gz": paths for kind, paths in archives.items()}
    for name, paths in (*lists.items(), ("cc-index-table.paths.gz", index)):
        lines = "".join(f"{path.relative_to(root).as_posix()}\n" for path in paths)
        (folder / name).write_bytes(gzip.compress(lines.encode(), mtime=0))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"Usage: {sys.argv[0]} ROOT CRAWL")
    write(Path(sys.argv[1]), sys.argv[2])
