"""How fast WARC files are read: every page's payload, and nothing done with it.

    python benchmarks/read_speed.py out/bench/crawl    # see bench_crawl.py

All readers read a file before the next file's turn, in changing order and several
times over, so that other work on the machine slows all of them alike. Time is that of
the processor; the files come from the system's cache.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from fastwarc.warc import ArchiveIterator as FastArchiveIterator
from fastwarc.warc import WarcRecordType
from warcio.archiveiterator import ArchiveIterator

from beam_pipelines import warc
from beam_pipelines.schema import Page

DEMANDED = 2.0  # Ours over warcio.
HTML = ("text/html", "application/xhtml+xml")


def ours(file: Path) -> list[int]:
    """The size of every page's payload, in bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        found = warc.read_pages(stream, size, file.name, 0, lambda _: True)
        return [len(page.body) for page in found if isinstance(page, Page)]


def by_warcio(file: Path) -> list[int]:
    with file.open("rb") as stream:
        return [
            len(record.content_stream().read())
            for record in ArchiveIterator(stream)
            if record.rec_type == "response"
            and record.http_headers.get_statuscode() == "200"
            and record.http_headers.get_header("Content-Type").startswith(HTML)
        ]


def by_fastwarc(file: Path) -> list[int]:
    with file.open("rb") as stream:
        return [
            len(record.reader.read())
            for record in FastArchiveIterator(
                stream, record_types=WarcRecordType.response
            )
            if record.http_headers.status_code == 200
            and record.http_content_type in HTML
        ]


READERS: dict[str, Callable[[Path], list[int]]] = {
    "warcio": by_warcio,
    "ours": ours,
    "fastwarc": by_fastwarc,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crawl", type=Path, help="a folder that bench_crawl.py filled")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    files = sorted(options.crawl.glob("plain-*.warc.gz"))
    if not files:
        parser.error(f"{options.crawl} holds no plain-*.warc.gz. Was the crawl made?")
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    num_pages = 0
    names = list(READERS)
    for round_number in range(options.rounds + 1):
        for file in files:
            sizes = {}
            for name in names:
                start = time.process_time()
                sizes[name] = READERS[name](file)
                if round_number > 0:  # The first round fills the caches.
                    seconds[name].append(time.process_time() - start)
            if len(set(map(tuple, sizes.values()))) > 1:
                raise ValueError(f"{file}: the readers disagree about its pages.")
            num_pages += len(sizes["ours"]) if round_number > 0 else 0
            names.append(names.pop(0))
    print("| reader | pages per CPU second | × warcio, median (range) |")
    print("|---|---|---|")
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(seconds["warcio"], own, strict=True)]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        ratio = f"{statistics.median(ratios):.2f} ({spread})"
        print(f"| {name} | {num_pages / sum(own):,.0f} | {ratio} |")
        if name == "ours":
            reached = statistics.median(ratios)
    print(f"\nOurs reads {reached:.2f} × as fast as warcio; demanded: {DEMANDED} ×.")


if __name__ == "__main__":
    main()
