"""Writing the data set with TFDS, and reading it back into packed batches.

    python benchmarks/tfds_speed.py out/bench/tfds
    python benchmarks/tfds_speed.py out/bench/tfds --examples 20000 --parts write read

Examples are invented, of about 1.6 kB as TFDS writes them, and take the builder's own
last steps into its three splits.

*write*: `Builder.download_and_prepare` on FnApiRunner, in memory, against the same
pipeline that only counts; and what the steps take in a plain loop, so that what is left
is Beam's.

*memory*: that runner holds the whole data set, so its peak says nothing of the writer.
Here the writer's own steps run one after the other around a shuffle through files, as
on a cluster, where a worker writes one shard after the other: for a number of examples,
and for ten times as many.

*read*: in random order, examples a second: array_record alone, which is the limit; TFDS
on top; and our loader, with text, and with the tokens that `data.write_tokens` wrote.
Linux only.
"""

import argparse
import contextlib
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_datasets.core import example_serializer, file_adapters, naming, writer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from beam_pipelines import pipeline as pipelines
from beam_pipelines.schema import Example
from tfds_builder.x_instruction import x_instruction_dataset_builder as builders
from xinst_jax import data
from xinst_jax.packing import RowShape

SEEDS = Path(__file__).parents[1] / "examples/seed"
RUNNER = ["--runner=FnApiRunner"]
DEMANDED_MS, DEMANDED_RATE = 0.5, 50_000
CHARS = 1200  # Of an output.
BLOCK = 1000
VOCABULARY = 8000
SHAPE = RowShape(rows=8, tokens=4096, slots=12, slot_tokens=2048)
SPLITS = ("train", "validation", "test")
RECIPE = """name = "speed"
languages = ["sw"]
[source]
warc = ["none"]
[generator]
checkpoint = "{folder}/model"
[evaluator]
checkpoint = "{folder}/model"
[diversify]
validation = 0.01
test = 0.01
"""


def texts(language: str = "sw") -> str:
    lines = (SEEDS / f"{language}.jsonl").read_text("utf-8").splitlines()
    return " ".join(json.loads(line)["response"] for line in lines)


def examples(block: int, number: int, pool: str) -> Iterator[Example]:
    for i in range(block * BLOCK, min((block + 1) * BLOCK, number)):
        at = i * 7919 % (len(pool) - CHARS)
        split = "train" if i % 50 else SPLITS[1 + i // 50 % 2]
        yield Example(
            id=f"{i:08x}-0000-4000-8000-{i * 2654435761 % 2**48:012x}",
            instruction=f"Explain thing {i} in a few words that anybody can follow.",
            output=pool[at : at + CHARS],
            output_language="sw",
            url=f"https://www.example{i % 997}.co.ke/habari/{i}",
            domain=f"example{i % 997}.co.ke",
            date="2026-01-01T00:00:00Z",
            warc_file=f"crawl-data/CC-MAIN-2026-04/warc/{i % 900:05}.warc.gz",
            warc_offset=i * 30_000,
            warc_length=30_000,
            robots=(),
            license="",
            score=0.75,
            cluster=i % 100,
            split=split,
        )


class Invented:
    """In the place of `pipeline.Path`, of which the builder takes the examples."""

    def __init__(self, pipeline: beam.Pipeline, number: int) -> None:
        self.examples = (
            pipeline
            | beam.Create(range(-(-number // BLOCK)))
            | beam.Reshuffle()
            | beam.FlatMap(examples, number, texts())
        )


def build(folder: Path, number: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder))
    builder = empty_builder(folder)
    with mock.patch.object(
        pipelines, "Path", lambda pipeline, *_, **__: Invented(pipeline, number)
    ):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                beam_options=PipelineOptions(RUNNER)
            )
        )


def empty_builder(folder: Path) -> builders.Builder:
    config = builders.XInstructionConfig(
        name="speed", recipe=f"{folder}/recipe.toml", store=f"{folder}/store"
    )
    return builders.Builder(
        config=config, data_dir=folder / "data", file_format="array_record"
    )


def count(folder: Path, number: int) -> None:
    with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
        made = Invented(pipeline, number).examples
        for split in SPLITS:
            _ = (
                made
                | f"Only_{split}" >> beam.Filter(pipelines.is_in_split, split)
                | f"Features_{split}" >> beam.Map(pipelines.to_features)
                | f"Count_{split}" >> beam.combiners.Count.Globally()
            )


def steps(folder: Path, number: int) -> dict[str, float]:
    """Milliseconds an example of what the pipeline does to it, in a plain loop."""
    made = [e for b in range(-(-number // BLOCK)) for e in examples(b, number, texts())]
    found = {}

    def each(what: str, function: Callable[[Any], Any], given: list[Any]) -> list[Any]:
        started = time.process_time()
        results = [function(one) for one in given]
        found[what] = 1e3 * (time.process_time() - started) / number
        return results

    builder = empty_builder(folder)
    out = beam_writer(builder, folder / "steps")
    features = builder.info.features
    keyed = each("ours: the example as features", pipelines.to_features, made)
    encoded = each(
        "TFDS: encoded", lambda one: (one[0], features.encode_example(one[1])), keyed
    )
    rows = each("TFDS: serialized", out._serialize_example, encoded)
    each(
        "TFDS: sorted and written",
        lambda r: out._write_final_shard((0, r), [0]),
        [rows],
    )
    return found


def beam_writer(builder: builders.Builder, folder: Path) -> writer.BeamWriter:
    """As `SplitBuilder` makes it for a split."""
    folder.mkdir(parents=True, exist_ok=True)
    file_format = file_adapters.FileFormat.ARRAY_RECORD
    return writer.BeamWriter(
        serializer=example_serializer.ExampleSerializer(
            builder.info.features.get_serialized_info()
        ),
        filename_template=naming.ShardedFileTemplate(
            dataset_name="x_instruction",
            data_dir=folder,
            split="train",
            filetype_suffix=file_format.file_suffix,
        ),
        hash_salt="train",
        disable_shuffling=False,
        example_writer=writer.ExampleWriter(file_format=file_format),
    )


def shuffle(folder: Path, number: int) -> dict[str, float]:
    """The writer's steps around a shuffle through files; its memory, in MB."""
    builder = empty_builder(folder)
    spilled = folder / f"spilled-{number}"
    out = beam_writer(builder, spilled)
    features, pool = builder.info.features, texts()
    largest = total = 0
    with (spilled / "all").open("wb") as file:
        for block in range(-(-number // BLOCK)):
            for example in examples(block, number, pool):
                key, made = pipelines.to_features(example)
                row = out._serialize_example((key, features.encode_example(made)))
                largest, total = max(largest, row[0]), total + len(row[1])
                put(file, row)
    num_shards = out._number_of_shards(number, total)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context((spilled / f"{shard}").open("wb"))
            for shard in range(num_shards)
        ]
        for row in taken(spilled / "all"):
            shard, row = out._assign_shard(row, num_shards, [largest])
            put(files[shard], row)
    (spilled / "all").unlink()
    before = peak_mb()
    sizes = []
    for shard in range(num_shards):
        rows = taken(spilled / f"{shard}")
        info = out._write_final_shard((shard, rows), range(num_shards))
        sizes.append(info.size / 1e6)
    shutil.rmtree(spilled)
    return {
        "shards": num_shards,
        "largest": max(sizes),
        "total": total / 1e6,
        "before": before,
        "peak": peak_mb(),
    }


def put(file: Any, row: tuple[int, bytes]) -> None:
    key, content = row
    file.write(key.to_bytes(16, "big") + struct.pack("<I", len(content)) + content)


def taken(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        while head := file.read(20):
            size = struct.unpack("<I", head[16:])[0]
            yield int.from_bytes(head[:16], "big"), file.read(size)


def peak_mb() -> float:
    """The largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1e3


def read(folder: Path, number: int) -> dict[str, list[float]]:
    """Examples a second, by the clock, and of the processor."""
    builder = tfds.builder_from_directory(
        next((folder / "data/x_instruction/speed").iterdir())
    )
    source = builder.as_data_source(split="train")
    tokens_file, found = folder / "tokens.array_record", {}
    few = Part(source, min(len(source), 5000))
    model = tokenizer()

    def rate(what: str, function: Callable[[], int]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        done = function()
        found[what] = [
            done / (time.perf_counter() - wall),
            done / (time.process_time() - cpu),
        ]

    order = np.random.default_rng(0).permutation(len(source)).tolist()

    def blocks(of: Any, most: int) -> int:
        keys = order[:most]
        for at in range(0, len(keys), data._BLOCK):
            of.__getitems__(keys[at : at + data._BLOCK])
        return len(keys)

    def batches(made: Any) -> int:
        return sum(int((batch.rows.lens > 1).sum()) for batch in made)

    whole = len(order)
    rate("array_record, of examples", lambda: blocks(source.data_source, whole))
    rate("the same through TFDS", lambda: blocks(source, 10_000))
    rate("our loader, of text", lambda: batches(data.batches(few, model, 0, SHAPE)))
    data.write_tokens(tokens_file, source, model, 0)
    tokens = data.Tokens(tokens_file)
    rate("array_record, of tokens", lambda: blocks(tokens._records, whole))
    rate("our loader, of tokens", lambda: batches(data.token_batches(tokens, SHAPE)))
    return found


class Part:
    """The first of some examples."""

    def __init__(self, source: Any, number: int) -> None:
        self._source, self._number = source, number

    def __len__(self) -> int:
        return self._number

    def __getitems__(self, keys: list[int]) -> Any:
        return self._source.__getitems__(keys)


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    languages = sorted(path.stem for path in SEEDS.glob("*.jsonl"))
    made.train_from_iterator(map(texts, languages), trainer)
    return made


TASKS = {each.__name__: each for each in (build, count, steps, shuffle, read)}


def alone(task: str, folder: Path, number: int) -> dict[str, Any]:
    """A task in a process of its own: what it found, its seconds and its peak."""
    command = [sys.executable, __file__, str(folder), "--of", task]
    done = subprocess.run(
        [*command, "--examples", str(number)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{task} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{task} {number:,}: {found}", file=sys.stderr)
    return found


def report_writing(folder: Path, number: int) -> None:
    runs = {task: alone(task, folder, number) for task in ("count", "build")}
    found = alone("steps", folder, min(number, 20_000))["found"]
    print(f"\n{number:,} examples on FnApiRunner, in memory; milliseconds an example")
    print("| | by the clock | of the processor |\n| --- | ---: | ---: |")
    names = {"build": "the builder", "count": "the same, only counted"}
    per = {
        task: [1e3 * runs[task][key] / number for key in ("wall", "cpu")]
        for task in runs
    }
    per["difference"] = [a - b for a, b in zip(per["build"], per["count"], strict=True)]
    for task, (wall, cpu) in per.items():
        name = names.get(task, f"difference; demanded: {DEMANDED_MS}")
        print(f"| {name} | {wall:.3f} | {cpu:.3f} |")
    for step, cpu in found.items():
        print(f"| {step}, in a plain loop | | {cpu:.3f} |")
    rest = per["build"][1] - sum(found.values())
    print(f"| the rest: Beam, and starting | | {rest:.3f} |")


def report_memory(folder: Path, number: int) -> None:
    print(
        "\n| examples | MB | shards | largest, MB | peak before writing shards, MB | "
        "peak, MB |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for each in (number, 10 * number):
        run = alone("shuffle", folder, each)["found"]
        print(
            f"| {each:,} | {run['total']:,.0f} | {run['shards']} | "
            f"{run['largest']:,.0f} | {run['before']:,.0f} | {run['peak']:,.0f} |",
            flush=True,
        )


def report_reading(folder: Path, number: int) -> None:
    if not (folder / "data").exists():
        alone("build", folder, number)
    rates = alone("read", folder, number)["found"]
    print(f"\nExamples a second; demanded: {DEMANDED_RATE:,}, or array_record's own")
    print("| | by the clock | by a CPU second | of array_record |")
    print("| --- | ---: | ---: | ---: |")
    for what, (wall, cpu) in rates.items():
        if what.startswith("array_record"):
            limit = wall
        print(f"| {what} | {wall:,.0f} | {cpu:,.0f} | {wall / limit:.0%} |")


REPORTS = {"write": report_writing, "memory": report_memory, "read": report_reading}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files lie for a while")
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", choices=REPORTS, default=list(REPORTS))
    parser.add_argument("--of", choices=TASKS, help="one task, and no more")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if options.of:
        wall, cpu = time.perf_counter(), time.process_time()
        found = TASKS[options.of](folder, options.examples)
        seconds = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }
        print(json.dumps({"found": found, "peak": peak_mb(), **seconds}))
        return
    try:
        for part in options.parts:
            REPORTS[part](folder, options.examples)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
