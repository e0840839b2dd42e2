"""Pages per CPU second from WARC to documents, beside two pipelines that others run.

    python benchmarks/ingest_speed.py out/bench/crawl --datatrove .venv-datatrove

"Obvious" is warcio, trafilatura on every page, and langdetect on every extract;
"datatrove" reads and extracts only, with its defaults. All of them work through a file
before the next file's turn, in changing order, so that other work on the machine slows
them alike. `bench_crawl.py` makes the crawl and knows each page's language.
"""

import argparse
import collections
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import langdetect
import trafilatura
from bench_crawl import read_labels
from langdetect.lang_detect_exception import LangDetectException
from warcio.archiveiterator import ArchiveIterator

from beam_pipelines import ingest, recipe, warc
from beam_pipelines.schema import LANGUAGES, Document, Page

RECIPE = recipe.Recipe(
    name="benchmark",
    languages=tuple(LANGUAGES),
    source=recipe.Source(warc=("*.warc.gz",)),
    generator=recipe.Generator(checkpoint="none"),
    evaluator=recipe.Evaluator(checkpoint="none"),
)
HTML = ("text/html", "application/xhtml+xml")
NUM_WARM_UP = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """A page that a pipeline takes for one of our languages.

    Attributes:
      id: Of the WARC record.
      language: A key of `LANGUAGES`.
      num_documents: That came of it.
    """

    id: str
    language: str
    num_documents: int


def ours(file: Path, limit: int | None = None) -> list[Accepted]:
    """What the package makes of a file."""
    accepted = []
    for page in _pages(file, limit):
        results = ingest.documents_of(page, RECIPE)
        documents = [result for result in results if isinstance(result, Document)]
        # A text that is dropped for its quality is in one of our languages all the
        # same; one of several languages is in none.
        found = {
            result.language
            for result in results
            if isinstance(result, Document) or result.reason != "mixed_language"
        } - {""}
        accepted += [Accepted(page.id, code, len(documents)) for code in found]
    return accepted


def _pages(file: Path, limit: int | None) -> Iterator[Page]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        number = 0
        for page in warc.read_pages(stream, size, file.name, 0, lambda _: True):
            if number == limit:
                break
            if isinstance(page, Page):
                number += 1
                yield page


def obvious(file: Path, limit: int | None = None) -> list[Accepted]:
    """What a first draft makes of a file: every library as its front page shows it."""
    accepted = []
    with file.open("rb") as stream:
        number = 0
        for record in ArchiveIterator(stream):
            if number == limit:
                break
            if (
                record.rec_type != "response"
                or record.http_headers.get_statuscode() != "200"
                or not record.http_headers.get_header("Content-Type").startswith(HTML)
            ):
                continue
            number += 1
            text = trafilatura.extract(record.content_stream().read())
            if not text:
                continue
            try:
                language = langdetect.detect(text)
            except LangDetectException:
                continue
            if language in LANGUAGES:
                page_id = record.rec_headers.get_header("WARC-Record-ID")[10:-1]
                accepted.append(Accepted(page_id, language, 1))
    return accepted


# Runs with datatrove's interpreter: files come in on standard input, CPU seconds of
# this process and its own children go out. trafilatura is imported here so that its
# import counts in none of the children that datatrove starts.
_DATATROVE = """
import os, resource, sys
import cchardet, magic, trafilatura, warcio
from loguru import logger
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
logger.remove()
def seconds():
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)
print("ready", flush=True)
for line in sys.stdin:
    folder, name = os.path.split(line.strip())
    start = seconds()
    reader = WarcReader(folder, glob_pattern=name)
    texts = [d.text for d in Trafilatura(timeout=10).run(reader.run())]
    print(seconds() - start, len(texts), flush=True)
"""


class Datatrove:
    """datatrove in a process and an environment of its own."""

    def __init__(self, environment: Path) -> None:
        python = environment / "bin" / "python"
        if not python.exists():
            raise FileNotFoundError(
                f"No datatrove: {python} is not there. `make bench-ingest` installs it."
            )
        self._process = subprocess.Popen(
            [python, "-c", _DATATROVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def seconds(self, file: Path) -> float:
        """The CPU seconds that a file took; start-up is not among them."""
        assert self._process.stdin
        self._process.stdin.write(f"{file.absolute()}\n")
        self._process.stdin.flush()
        seconds, num_texts = self._line().split()
        if num_texts == "0":
            raise RuntimeError(f"datatrove found no text in {file}.")
        return float(seconds)

    def _line(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError(
            "datatrove has stopped; it says above why. It needs the libmagic library."
        )

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


@dataclasses.dataclass(slots=True)
class Score:
    """What a pipeline took, and what it found.

    Attributes:
      seconds: Of the processor, by file.
      accepted: Pages of all files.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    accepted: list[Accepted] = dataclasses.field(default_factory=list)

    def found(self, labels: dict[str, str], *, with_documents: bool) -> int:
        """Pages of our languages that were accepted, with documents or at all."""
        return sum(
            labels[page.id] == page.language
            and (page.num_documents > 0 or not with_documents)
            for page in self.accepted
        )

    def false_accepts(self, labels: dict[str, str]) -> dict[str, int]:
        """Pages that were accepted as what they are not, by their true language."""
        return collections.Counter(
            labels[page.id]
            for page in self.accepted
            if labels[page.id] != page.language
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("crawl", type=Path, help="a folder that bench_crawl.py filled")
    parser.add_argument("--datatrove", type=Path, default=Path(".venv-datatrove"))
    options = parser.parse_args()
    files = sorted(options.crawl.glob("plain-*.warc.gz"))
    if not files:
        parser.error(f"{options.crawl} holds no plain-*.warc.gz. Was the crawl made?")
    labels = read_labels(options.crawl)

    langdetect.DetectorFactory.seed = 0
    for pipeline in (ours, obvious):
        pipeline(files[0], NUM_WARM_UP)
    try:
        datatrove = Datatrove(options.datatrove)
    except (FileNotFoundError, RuntimeError) as error:
        print(f"{error} Measured without it.\n", file=sys.stderr)
        datatrove = None

    scores: dict[str, Score] = collections.defaultdict(Score)

    def measure(
        name: str, pipeline: Callable[[Path], list[Accepted]], file: Path
    ) -> None:
        start = time.process_time()
        accepted = pipeline(file)
        scores[name].seconds.append(time.process_time() - start)
        scores[name].accepted += accepted

    for number, file in enumerate(files):
        declared = file.with_name(file.name.replace("plain", "declared"))
        turns = [
            lambda file=file: measure("obvious", obvious, file),
            lambda file=file: measure("ours", ours, file),
            lambda file=declared: measure("ours, languages declared", ours, file),
        ]
        if datatrove:
            turns.append(
                lambda file=file: scores["datatrove"].seconds.append(
                    datatrove.seconds(file)
                )
            )
        for turn in turns[number % len(turns) :] + turns[: number % len(turns)]:
            turn()
    if datatrove:
        datatrove.close()
    _report(scores, labels)


def _report(scores: dict[str, Score], labels: dict[str, str]) -> None:
    targets = sum(label in LANGUAGES for label in labels.values())
    print(f"{len(labels):,} pages, {targets} of them in our languages.\n")
    print(
        "| pipeline | pages per CPU second | ms a page | × obvious (by file) | "
        "found by language | with documents | false accepts |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in ("obvious", "datatrove", "ours", "ours, languages declared"):
        if name not in scores:
            continue
        score, total = scores[name], sum(scores[name].seconds)
        found = ["–"] * 3
        if name != "datatrove":
            found = [
                str(score.found(labels, with_documents=False)),
                str(score.found(labels, with_documents=True)),
                str(sum(score.false_accepts(labels).values())),
            ]
        print(
            f"| {name} | {len(labels) / total:,.1f} | {1e3 * total / len(labels):.2f} |"
            f" {_ratio(scores['obvious'], score)} | {' | '.join(found)} |"
        )
    for name in ("obvious", "ours", "ours, languages declared"):
        wrong = sorted(scores[name].false_accepts(labels).items())
        listed = ", ".join(f"{label} {count}" for label, count in wrong)
        print(f"\nFalse accepts of {name}: {listed or 'none'}.", end="")
    print("\n\n| demanded of ours | bound | reached |\n|---|---|---|")
    plain, declared = scores["ours"], scores["ours, languages declared"]
    naive = scores["obvious"]
    rows = [
        ("× obvious", "≥ 8", _ratio(naive, plain)),
        ("× obvious, languages declared", "≥ 15", _ratio(naive, declared)),
        (
            "pages found",
            f"≥ {naive.found(labels, with_documents=False)}",
            str(plain.found(labels, with_documents=False)),
        ),
        (
            "false accepts",
            f"≤ {sum(naive.false_accepts(labels).values()) / 20:.1f}",
            str(sum(plain.false_accepts(labels).values())),
        ),
    ]
    if "datatrove" in scores:
        rows.insert(1, ("× datatrove", "≥ 8", _ratio(scores["datatrove"], plain)))
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _ratio(slow: Score, fast: Score) -> str:
    """How many times faster over all files, and the range of the single ones."""
    ratios = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    whole = sum(slow.seconds) / sum(fast.seconds)
    return f"{whole:.1f} ({min(ratios):.1f}–{max(ratios):.1f})"


if __name__ == "__main__":
    main()
