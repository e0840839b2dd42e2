"""What a second worker is worth to `xinst run --until documents`.

    python benchmarks/workers.py out/bench/workers                # 6 runs, some minutes
    python benchmarks/workers.py out/bench/workers --pages 9600

The stages up to the documents are work for the processor alone, and need no shuffle of
pages. Runs with one worker process and with two take turns, each on a store of its own.
A run's rate is taken from when its parts were committed: pages after the first part, by
the time from then to the last, so that starting is left out; the whole run is beside
it. Between the runs as many plain processes as there are workers count, which tells
what this machine gives two processes at that time. Linux only.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import bench_crawl
import pyarrow.parquet as pq

DEMANDED = 1.7
NUM_BODIES = 400


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What became of one run.

    Attributes:
      wall: Seconds from the start of the command to its end.
      rate: Pages a second, after the first part.
      by_busiest: The same pages, by the CPU seconds of the busiest process meanwhile.
      by_all: The same pages, by the CPU seconds of all processes meanwhile.
    """

    wall: float
    rate: float
    by_busiest: float
    by_all: float


def measure(folder: Path, workers: int, num_pages: int) -> Run:
    """Runs the pipeline from nothing.

    Raises:
      RuntimeError: It failed, or read other pages than there are.
    """
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    xinst = Path(sys.executable).with_name("xinst")
    command = (
        f"{xinst} run {folder}/recipe.toml --store {store} --until documents "
        f"--runner=FnApiRunner --direct_running_mode=multi_processing "
        f"--direct_num_workers={workers}"
    )
    log = folder / "log"
    started = time.time()
    with log.open("w") as file:
        process = subprocess.Popen(
            command.split(), stdout=file, stderr=subprocess.STDOUT
        )
    used: list[tuple[float, dict[int, float]]] = []
    while process.poll() is None:
        used.append((time.time(), cpu_seconds(process.pid)))
        time.sleep(0.1)
    wall = time.time() - started
    parts = sorted(
        (part.stat().st_mtime, pages_of(part))
        for part in store.glob("documents/*/*.parquet")
    )
    if process.returncode or sum(pages for _, pages in parts) != num_pages:
        raise RuntimeError(
            f"{command} did not read {num_pages:,} pages:\n{log.read_text('utf-8')}"
        )
    first, last = parts[0][0], parts[-1][0]
    pages = sum(pages for _, pages in parts[1:])
    between = [cpu for at, cpu in used if first <= at <= last]
    spent = [cpu - between[0].get(own, 0.0) for own, cpu in between[-1].items()]
    return Run(wall, pages / (last - first), pages / max(spent), pages / sum(spent))


def pages_of(part: Path) -> int:
    facts = pq.read_metadata(part).metadata[b"x-instruction"]
    pages: int = json.loads(facts)["pages"]
    return pages


def cpu_seconds(process_id: int) -> dict[int, float]:
    """What a process and each that it started have used so far."""
    found, waiting = {}, [process_id]
    while waiting:
        own = Path(f"/proc/{(number := waiting.pop())}")
        # A process that has just ended has no files.
        with contextlib.suppress(OSError):
            fields = (own / "stat").read_text().rpartition(")")[2].split()
            # Its own time, in user and system mode.
            ticks = sum(map(int, fields[11:13]))
            found[number] = ticks / os.sysconf("SC_CLK_TCK")
            for task in (own / "task").glob("*/children"):
                waiting += map(int, task.read_text().split())
    return found


def count(_: int) -> int:
    return sum(number * number for number in range(10_000_000))


def plain_rate(processes: int) -> float:
    """What plain processes get done a second, all together."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        pool.map(count, range(processes))  # all have started
        started = time.perf_counter()
        pool.map(count, range(2 * processes), chunksize=1)
        return 2 * processes / (time.perf_counter() - started)


def make(folder: Path, num_pages: int, num_files: int) -> None:
    command = f"{folder} --pages {num_pages} --bodies {NUM_BODIES} --minimum 0"
    with contextlib.redirect_stdout(sys.stderr):
        bench_crawl.main(
            [*command.split(), "--kinds", "plain", "--files", str(num_files)]
        )
    bench_crawl.write_recipe(folder, "workers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files lie for a while")
    parser.add_argument("--pages", type=int, default=4800, help="33 KB each")
    parser.add_argument("--files", type=int, default=48, help="a part for each")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder.absolute()
    runs: dict[int, list[Run]] = {1: [], 2: []}
    plain: dict[int, list[float]] = {1: [], 2: []}
    try:
        make(folder, options.pages, options.files)
        for _ in range(options.repeats):
            for workers in runs:
                plain[workers].append(plain_rate(workers))
                runs[workers].append(measure(folder, workers, options.pages))
                print(f"{workers}: {runs[workers][-1]}", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(runs, plain, options)


def report(
    runs: dict[int, list[Run]],
    plain: dict[int, list[float]],
    options: argparse.Namespace,
) -> None:
    print(f"{options.pages:,} pages in {options.files} files; medians of turns")
    print("| | one worker | two | two over one |\n| --- | ---: | ---: | ---: |")

    def row(what: str, one: Sequence[float], two: Sequence[float], digits: int) -> None:
        a, b = statistics.median(one), statistics.median(two)
        # Neighbours in time are compared, since others use the machine too.
        ratio = statistics.median(y / x for x, y in zip(one, two, strict=True))
        print(f"| {what} | {a:,.{digits}f} | {b:,.{digits}f} | {ratio:.2f} |")

    def values(name: str) -> list[list[float]]:
        return [[getattr(run, name) for run in runs[number]] for number in (1, 2)]

    row("pages a second, after the first part", *values("rate"), 0)
    row("the same by CPU seconds of the busiest process", *values("by_busiest"), 0)
    row("the same by CPU seconds of all", *values("by_all"), 0)
    row("seconds, the whole run", *values("wall"), 1)
    row("plain processes, what they get done", plain[1], plain[2], 2)
    print(
        f"\nDemanded of the first or, where others use the machine, of the second: "
        f"{DEMANDED}."
    )


if __name__ == "__main__":
    main()
