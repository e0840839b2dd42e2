"""Memory and cost of `xinst run --until documents` as a WARC grows 16-fold.

    python benchmarks/ingest_scale.py out/bench/scale    # 125 MB, 200 MB and 2 GB

Every run is a process of its own, on a store of its own. The smaller files are read
again after the large one, so that a machine that has become slower or faster in the
meantime shows. The files repeat 500 pages under new addresses, those in our languages
with new text; all are deleted.

The peak is the largest resident set until the last page is read, and that of the whole
run, which ends with counting what the store holds. Linux only.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from bench_crawl import write_recipe

MAX_GROWTH = 0.1  # Of the peak from 200 MB to 2 GB, and of a page's cost at 16 ×.
NUM_BODIES = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What the system says of one run.

    Attributes:
      seconds: Of the processor.
      reading_peak: The largest resident set until every page was read, in bytes.
      peak: Of the whole run, in bytes.
    """

    seconds: float
    reading_peak: int
    peak: int


def make(folder: Path, num_pages: int) -> int:
    """Writes a crawl of one file; returns its size in bytes.

    In a process of its own: a process that starts another hands it its own peak.
    """
    script = Path(__file__).with_name("bench_crawl.py")
    command = f"{folder} --pages {num_pages} --bodies {NUM_BODIES} --minimum 0"
    subprocess.run(
        [sys.executable, script, *command.split(), "--kinds", "plain", "--files", "1"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    write_recipe(folder, "scale")
    return (folder / "plain-00000.warc.gz").stat().st_size


def measure(folder: Path, num_pages: int) -> Run:
    """Runs the pipeline on a crawl, from nothing.

    Raises:
      RuntimeError: It failed, or read other pages than there are.
    """
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    xinst = Path(sys.executable).with_name("xinst")
    command = f"{xinst} run {folder}/recipe.toml --store {store} --until documents"
    log, reading_peak = folder / "log", 0
    pages: dict[str, int] = {}
    with log.open("w") as file:
        process = subprocess.Popen(
            command.split(), stdout=file, stderr=subprocess.STDOUT
        )
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        peak = _peak(process.pid)
        if num_read(store, pages) < num_pages:
            reading_peak = peak
        time.sleep(0.05)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text("utf-8")
    if process.returncode != 0:
        raise RuntimeError(f"{command} failed:\n{said}")
    if num_read(store, pages) != num_pages:
        raise RuntimeError(f"The run did not read {num_pages:,} pages:\n{said}")
    seconds = usage.ru_utime + usage.ru_stime
    return Run(seconds, reading_peak, usage.ru_maxrss * 1024)


def num_read(store: Path, pages: dict[str, int]) -> int:
    """Pages in the ranges that a run has committed.

    Args:
      store: Of the run.
      pages: Of each part that was looked at before; others are added.
    """
    for part in store.glob("documents/*/*.parquet"):
        if part.name not in pages:
            facts = pq.read_metadata(part).metadata[b"x-instruction"]
            pages[part.name] = json.loads(facts)["pages"]
    return sum(pages.values())


def _peak(process_id: int) -> int:
    """The largest resident set of a process so far, in bytes."""
    status = Path(f"/proc/{process_id}/status").read_text()
    # A process that has just ended has none.
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files lie for a while")
    parser.add_argument(
        "--pages", type=int, default=3750, help="of the smallest file; 33 KB each"
    )
    options = parser.parse_args()
    sizes = {
        # Enough for everything that is loaded when it is first needed.
        "start": 150,
        "small": options.pages,
        "middle": options.pages * 8 // 5,
        "large": options.pages * 16,
    }
    # What 16 × 33 KB a page need, the store, and some room.
    needed = options.pages * 24 * 33_000
    options.folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(options.folder).free) < needed:
        parser.error(f"{options.folder} needs {needed:,} bytes, {free:,} are free.")
    folders = {name: options.folder.absolute() / name for name in sizes}
    runs: dict[str, list[Run]] = {name: [] for name in sizes}
    try:
        sizes_bytes = {name: make(folders[name], sizes[name]) for name in sizes}
        for name in ("start", "small", "middle", "large", "middle", "small", "start"):
            runs[name].append(measure(folders[name], sizes[name]))
            print(f"{name}: {runs[name][-1]}", file=sys.stderr)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def mean(name: str) -> float:
        return sum(run.seconds for run in runs[name]) / len(runs[name])

    print(
        "| WARC | pages | peak while reading | of the whole run | CPU seconds | "
        "pages per CPU second |"
    )
    print("|---|---|---|---|---|---|")
    reading, whole, rates = {}, {}, {}
    for name in ("small", "middle", "large"):
        reading[name] = max(run.reading_peak for run in runs[name])
        whole[name] = max(run.peak for run in runs[name])
        # Of what comes after the start: imports and tables cost the same for any size.
        seconds = mean(name) - mean("start")
        rates[name] = (sizes[name] - sizes["start"]) / seconds
        print(
            f"| {sizes_bytes[name] / 1e6:,.0f} MB | {sizes[name]:,} | "
            f"{reading[name] / 1e6:,.0f} MB | {whole[name] / 1e6:,.0f} MB | "
            f"{mean(name):,.1f} | {rates[name]:,.0f} |"
        )
    print(
        f"\nThe last column leaves out the {mean('start'):.1f} CPU seconds that a file "
        f"of {sizes['start']} pages takes, most of them to start."
    )
    print("\n| large file | demanded | reached |\n|---|---|---|")
    rows = (
        ("peak while reading, over middle file", reading["large"] / reading["middle"]),
        ("peak of the whole run, over middle file", whole["large"] / whole["middle"]),
    )
    for what, ratio in rows:
        print(f"| {what} | ≤ +{MAX_GROWTH:.0%} | {ratio - 1:+.1%} |")
    cost = rates["large"] / rates["small"] - 1
    print(
        f"| pages per CPU second, over small file | ± {MAX_GROWTH:.0%} | {cost:+.1%} |"
    )


if __name__ == "__main__":
    main()
