"""The share of a run's work that is the runner's: outside our own functions.

    python benchmarks/runners.py              # in memory, and in two processes
    PRISM=/path/to/prism python benchmarks/runners.py --flink .flink

Invented short documents go through everything after reading: judged, duplicates
removed, a candidate and a score for each, committed to a store on disk. Generator and
evaluator are ones that answer at once, so what is left is what surrounds a model.

Each call of a function of ours that Beam makes is timed, in the processor's time of its
thread, wherever it runs. Of what all processes of the run use, these are our part; the
rest is the runner's: turning elements into bytes and back, shuffles, gRPC, and Beam's
own steps. What a run of 1 % of the documents uses is taken off both: it starts the
processes, and plans. Linux only.
"""

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from workers import cpu_seconds

from beam_pipelines import pipeline as pipelines
from beam_pipelines import quality
from beam_pipelines import recipe as recipes
from beam_pipelines.schema import Candidate, Document, Score
from beam_pipelines.store import Store

ROOT = Path(__file__).parents[1]
INVENT = "Invent"
BLOCK = 500
NUM_WORDS = 40
RUNNERS = {
    "in memory": ["--runner=FnApiRunner"],
    "two processes": [
        "--runner=FnApiRunner",
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    ],
}


def documents(
    block: int, number: int, words: list[str], checks: dict[str, float]
) -> Iterator[Document]:
    """One of every hundred is another's text."""
    for i in range(block * BLOCK, min((block + 1) * BLOCK, number)):
        draw = random.Random(i if i % 100 else i + 1)
        yield Document(
            id=f"{i:08x}-0000-4000-8000-000000000000",
            url=f"https://www.example{i % 997}.co.ke/habari/{i}",
            domain=f"example{i % 997}.co.ke",
            date="2026-01-01T00:00:00Z",
            warc_file=f"crawl/{i % 900:05}.warc.gz",
            warc_offset=i * 30_000,
            warc_length=30_000,
            digest="",
            language="sw",
            language_score=0.99,
            text=" ".join(draw.choices(words, k=NUM_WORDS)),
            robots=(),
            license="",
            checks=checks,
        )


class Answer(beam.PTransform):
    """In the place of `GenerateInstructions`."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def expand(self, batches: Any) -> Any:
        return batches | beam.Map(
            lambda batch: [
                Candidate(
                    document=each,
                    instruction=f"Write a few words about thing {each.id[:8]} here.",
                    generator="none",
                    logprob=-1.0,
                    rejected="",
                )
                for each in batch
            ]
        )


class Rate(beam.PTransform):
    """In the place of `ScoreCandidates`."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def expand(self, batches: Any) -> Any:
        return batches | beam.Map(
            lambda batch: [
                Score(
                    candidate=each,
                    p_best=0.8,
                    p_flawed=0.1,
                    p_worst=0.1,
                    score=0.85,
                    evidence={},
                    evaluator="none",
                    rejected="",
                )
                for each in batch
            ]
        )


def timed(function: Callable[..., Any], spent: list[int]) -> Callable[..., Any]:
    """The function, adding to `spent` the nanoseconds that it and its iterator take."""

    def iterate(results: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.thread_time_ns()
            try:
                result = next(results)
            except StopIteration:
                return
            finally:
                spent[0] += time.thread_time_ns() - started
            yield result

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.thread_time_ns()
        result = function(*args, **kwargs)
        spent[0] += time.thread_time_ns() - started
        return iterate(result) if isinstance(result, Iterator) else result

    return call


def at_end(
    finish_bundle: Callable[[], Any], spent: list[int], whose: str
) -> Callable[[], Any]:
    """Ends a bundle, and counts what was spent in it."""

    @functools.wraps(finish_bundle)
    def call() -> Any:
        Metrics.counter(whose, "ns").inc(spent[0])
        spent[0] = 0
        return finish_bundle()

    return call


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `timed`, for combining: there is no end of a bundle to count at."""
    spent = [0]
    inner = timed(function, spent)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        result = inner(*args)
        Metrics.counter("ours", "ns").inc(spent[0])
        spent[0] = 0
        return result

    return call


class TimeOurs(PipelineVisitor):
    """Times every function of ours; not those of which Beam's transforms are made."""

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        combine = getattr(node.transform, "fn", None)
        if isinstance(combine, beam.CombineFn) and not _is_beams(combine):
            for name in ("add_input", "merge_accumulators", "extract_output"):
                setattr(combine, name, counted(getattr(combine, name)))

    def visit_transform(self, node: AppliedPTransform) -> None:
        if not isinstance(node.transform, beam.ParDo) or _is_within_beams(node):
            return
        # Our source is no part of what is measured.
        whose = "source" if node.full_label == INVENT else "ours"
        function, spent = node.transform.fn, [0]
        function.process = timed(function.process, spent)
        function.finish_bundle = at_end(function.finish_bundle, spent, whose)


def _is_beams(thing: object) -> bool:
    return type(thing).__module__.startswith("apache_beam.")


def _is_within_beams(node: AppliedPTransform) -> bool:
    parent = node.parent
    while parent and parent.transform:
        if _is_beams(parent.transform):
            return True
        parent = parent.parent
    return False


def run(folder: Path, number: int, flags: list[str]) -> None:
    """Runs the pipeline in this process, and prints what our functions took."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    recipe = recipes.from_table(
        {
            "name": "runners",
            "languages": ["sw"],
            "source": {"warc": ["none"]},
            "generator": {"checkpoint": str(model)},
            "evaluator": {"checkpoint": str(model)},
        }
    )
    store = Store(str(folder / "store"), recipe)
    seed = (ROOT / "examples/seed/sw.jsonl").read_text("utf-8").splitlines()
    responses = [json.loads(line)["response"] for line in seed]
    # What is measured of a text is read with it; here all have the values of one.
    sample = "\n\n".join(responses[:10])
    checks = quality.measure(sample, "sw", "https://example.co.ke/", 0.99)

    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    with (
        mock.patch.object(pipelines, "GenerateInstructions", Answer),
        mock.patch.object(pipelines, "ScoreCandidates", Rate),
        mock.patch.object(pipelines, "source_files", lambda _: []),
    ):
        path = pipelines.Path(pipeline, recipe, store, until="scores")
        path.documents = (
            pipeline
            | beam.Create(range(-(-number // BLOCK)))
            | beam.Reshuffle()
            | INVENT
            >> beam.FlatMap(documents, number, " ".join(responses).split(), checks)
        )
        _ = path.kept | "Count" >> beam.combiners.Count.Globally()
    pipeline.visit(TimeOurs())
    started = time.perf_counter()
    result = pipeline.run()
    result.wait_until_finish()
    found = {
        "wall": time.perf_counter() - started,
        "ours": counter(result, "ours", "ns") / 1e9,
        "source": counter(result, "source", "ns") / 1e9,
        "scored": counter(result, store.scores.folder.split("/")[-2], "written"),
    }
    print(json.dumps(found))


def counter(result: Any, namespace: str, name: str) -> int:
    """A counter of a run, of all steps."""
    wanted = MetricsFilter().with_namespace(namespace).with_name(name)
    counters = result.metrics().query(wanted)["counters"]
    # Some runners commit none.
    return sum(each.committed or each.attempted or 0 for each in counters)


def spend(number: int, flags: list[str], others: list[int]) -> dict[str, float]:
    """One run, in a process of its own.

    Args:
      number: Of documents.
      flags: Beam's.
      others: Processes that work for it and are there already.

    Returns:
      What `run` printed, and what all its processes used in `cpu`, in seconds.

    Raises:
      RuntimeError: It failed, or did not score most of the documents.
    """
    start: dict[int, float] = {}
    for each in others:
        start |= cpu_seconds(each)
    used = dict(start)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, __file__, "--of", folder, "--documents", str(number)]
        process = subprocess.Popen(
            [*command, "--", *flags], stdout=subprocess.PIPE, stderr=log, text=True
        )
        while process.poll() is None:
            for each in (process.pid, *others):
                used |= cpu_seconds(each)
            time.sleep(0.05)
        assert process.stdout
        said = process.stdout.read().splitlines()
        log.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(flags)}:\n{log.read()[-4000:]}")
    found: dict[str, float] = json.loads(said[-1])
    if found["scored"] < 0.9 * number:
        raise RuntimeError(f"{' '.join(flags)}: of {number:,} documents, {found}.")
    return found | {"cpu": sum(used.values()) - sum(start.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--prism", default=os.environ.get("PRISM"), help="the binary")
    parser.add_argument("--flink", type=Path, help="what `make flink` installed")
    parser.add_argument("--of", type=Path, help="a folder for one run, and no more")
    parser.add_argument("flags", nargs="*", help="of that run, Beam's; after --")
    options = parser.parse_args()
    if options.of:
        run(options.of, options.documents, options.flags)
        return
    runners = dict(RUNNERS)
    if prism := options.prism or shutil.which("prism"):
        runners["Prism"] = ["--runner=PrismRunner", f"--prism_location={prism}"]
    print(f"{options.documents:,} documents; seconds beyond a run of 1 % of them")
    print("| runner | wall | CPU | ours | outside ours |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, flags in runners.items():
        compare(name, options.documents, flags, [])
    if options.flink:
        sys.path.insert(0, str(ROOT / "deploy/flink"))
        from cluster import Cluster

        with (
            tempfile.TemporaryDirectory() as folder,
            Cluster(options.flink, Path(folder)) as cluster,
        ):
            there = [*cluster.taskmanagers, *cluster.pools]
            compare(
                "Flink",
                options.documents,
                cluster.beam_options,
                [process.pid for process in there],
            )


def compare(name: str, number: int, flags: list[str], others: list[int]) -> None:
    few = max(1, number // 100)
    less, more = spend(few, flags, others), spend(number, flags, others)
    wall, cpu, ours, source = (
        more[key] - less[key] for key in ("wall", "cpu", "ours", "source")
    )
    share = 1 - ours / (cpu - source)
    print(
        f"| {name} | {wall:,.1f} | {cpu - source:,.1f} | {ours:,.1f} | {share:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
