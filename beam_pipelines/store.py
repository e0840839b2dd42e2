"""The store: what long work has made, in parts that are whole or absent.

A store is a folder on any filesystem that Beam knows: `documents/`, `candidates/` and
`scores/`, in each a folder per hash of what decides the stage, in it Parquet parts. A
part is written under a temporary name and renamed, and named by what it holds, so that
a retry replaces its own.

The list of parts is taken once, in a snapshot, when a pipeline is built. What is left
out and what is read back come from that list alone: a step that looked at the live
folder would take a retried bundle's own output for somebody else's and lose it.
"""

import dataclasses
import hashlib
import io
import json
import threading
import time
import types
import typing
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindow

from beam_pipelines import recipe as recipes
from beam_pipelines.schema import Candidate, Capture, Document, Score, from_row, to_row

# Ends the name of a dead letter: a file of the source that could not be had.
UNREAD = ".unread.json"
# What the rounds of refinement did, in the store's own folder.
REFINEMENT = "refinement.json"
# Writing a part takes seconds; a temporary file untouched for so long is nobody's.
_STALE_SECONDS = 60
_METADATA = b"x-instruction"
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}


class StoreError(ValueError):
    """A store that cannot serve; the message says why and what to do."""


def _arrow_schema(cls: type[Any]) -> pa.Schema:
    """The columns of `schema.to_row`, from the record's annotations."""
    fields = []
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            fields.append(pa.field("key", pa.string()))
        elif isinstance(hint, types.GenericAlias):
            inner = [_ARROW[a] for a in typing.get_args(hint) if a is not Ellipsis]
            kind = pa.list_ if hint.__origin__ is tuple else pa.map_
            fields.append(pa.field(name, kind(*inner)))
        else:
            fields.append(pa.field(name, _ARROW[hint]))
    return pa.schema(fields)


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One kind of part in one store.

    Attributes:
      folder: Where the parts of this hash lie.
      record: What a row is.
    """

    folder: str
    record: type[Any]

    @property
    def schema(self) -> pa.Schema:
        """The columns of a part."""
        return _arrow_schema(self.record)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What a part holds: rows, and facts about their making; and where it lies."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    path: str


class Store:
    """A folder of stages, as one recipe sees it.

    Attributes:
      root: The folder.
      recipe: Its hashes name the folders.
    """

    def __init__(self, root: str, recipe: recipes.Recipe) -> None:
        self.root = root
        self.recipe = recipe

    @property
    def captures(self) -> Stage:
        """What the crawl's index offers, by index file."""
        return self._stage("captures", self.recipe.captures_hash(), Capture)

    @property
    def documents(self) -> Stage:
        """Documents by byte range, or by file where the index chose."""
        return self._stage("documents", self.recipe.documents_hash(), Document)

    @property
    def candidates(self) -> tuple[Stage, ...]:
        """Instructions by batch; a stage for each of a document's candidates."""
        digest, number = self.recipe.candidates_hash(), self.recipe.generator.candidates
        folders = [digest, *(f"{digest}-{n}" for n in range(1, number))]
        return tuple(self._stage("candidates", folder, Candidate) for folder in folders)

    @property
    def scores(self) -> Stage:
        """Judgements by batch."""
        return self._stage("scores", self.recipe.scores_hash(), Score)

    @property
    def refinement(self) -> dict[str, Any]:
        """What `xinst refine` found; empty where it never ran with this recipe.

        Raises:
          RecipeError: The generator's checkpoint is not there.
        """
        path = FileSystems.join(self.root, REFINEMENT)
        if not FileSystems.exists(path):
            return {}
        content = read_json(path)
        same = content.get("recipe") == self.recipe.refinement_hash()
        return content if same else {}

    def passes(self, *, finished: bool = False) -> tuple["Store", ...]:
        """The store as each pass over the documents sees it.

        The first pass has the recipe's own models. Each round of refinement adds one,
        which takes the documents that have no kept pair yet.

        Args:
          finished: Whether refinement must have come to its end.

        Raises:
          StoreError: It has not.
        """
        wanted = self.recipe.refine.rounds
        if not wanted:
            return (self,)
        content = self.refinement
        if finished and not content.get("finished"):
            done = len(content.get("rounds", ()))
            raise StoreError(
                f"The recipe asks for {wanted} round(s) of refinement, and the store "
                f"{self.root} has {done}. Run `xinst refine RECIPE --store "
                f"{self.root}` first, or set refine.rounds to 0."
            )
        return self.as_in(content.get("passes") or [[0, 1]])

    def as_in(self, passes: Iterable[Sequence[int]]) -> tuple["Store", ...]:
        """The store with the models of these rounds: generator and evaluator each."""
        return tuple(
            Store(self.root, self.recipe.at_round(*numbers)) for numbers in passes
        )

    @property
    def examples(self) -> str:
        """The folder of what choosing did."""
        digests = [each.recipe.examples_hash() for each in self.passes()]
        name = digests[0]
        if len(digests) > 1:
            name = hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest()
        return FileSystems.join(self.root, "examples", name)

    def tidy(self) -> None:
        """Removes temporary files of writers that were killed."""
        patterns = [
            FileSystems.join(self.root, *folders, ".*.tmp")
            for folders in ((), ("*",), ("*", "*"))
        ]
        now = time.time()
        found = [
            file for each in FileSystems.match(patterns) for file in each.metadata_list
        ]
        if stale := [
            file.path
            for file in found
            if now - (file.last_updated_in_seconds or now) > _STALE_SECONDS
        ]:
            FileSystems.delete(stale)

    def _stage(self, name: str, digest: str, record: type[Any]) -> Stage:
        return Stage(FileSystems.join(self.root, name, digest), record)

    def open(self) -> list[str]:
        """Claims the store for the recipe.

        Returns:
          What has changed since the recipe was last run on it, for people: keys, their
          old and their new values.

        Raises:
          StoreError: It belongs to another recipe.
        """
        path = FileSystems.join(self.root, "recipe.json")
        now = _flat(recipes.canonical(self.recipe))
        changes = []
        if FileSystems.exists(path):
            before = read_json(path)
            if before["name"] != self.recipe.name:
                raise StoreError(
                    f"The store {self.root} holds the work of recipe "
                    f"{before['name']!r}, not of {self.recipe.name!r}. Name another "
                    "--store, or give the recipe that name if it is the same one."
                )
            changes = [
                f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key)
            ]
        write_json(path, now)
        return changes


def take_snapshot(
    store: Store,
    stages: Sequence[Stage],
    files: list[Any],
    index: Sequence[str] = (),
    *,
    after: str = "",
) -> str:
    """Writes down which files there are to read, and which parts there are already.

    It goes into a file, since a crawl's list would not fit into a job's description.

    Args:
      store: Where to write.
      stages: Those whose parts are wanted.
      files: Of the source: (path, size in bytes).
      index: Of the source's columnar index, the files.
      after: Path of the snapshot that this one adds files to. The parts that there are
        were named by the first one, and are not named again.

    Returns:
      The snapshot's path.
    """
    content = {
        "files": files,
        "index": list(index),
        "parts": {s.folder: [] if after else part_names(s) for s in stages},
        "after": after,
    }
    name = hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
    path = FileSystems.join(store.root, "snapshots", f"{name}.json")
    write_json(path, content)
    return path


def snapshot_parts(snapshot: str, folder: str) -> list[str]:
    """Paths of a stage's parts that a snapshot names."""
    return [FileSystems.join(folder, name) for name in snapshot_names(snapshot, folder)]


def snapshot_names(snapshot: str, folder: str) -> list[str]:
    """Names of a stage's parts that a snapshot names."""
    return read_json(snapshot)["parts"][folder]


def part_names(stage: Stage) -> list[str]:
    """The names of a stage's whole parts, in order."""
    pattern = FileSystems.join(stage.folder, "*.parquet")
    found = FileSystems.match([pattern])[0].metadata_list
    return sorted(FileSystems.split(metadata.path)[1] for metadata in found)


def unread(stage: Stage) -> list[dict[str, Any]]:
    """What the last run could not read: file, offset in bytes, detail."""
    pattern = FileSystems.join(stage.folder, f"*{UNREAD}")
    found = FileSystems.match([pattern])[0].metadata_list
    return [read_json(path) for path in sorted(metadata.path for metadata in found)]


def forget_unread(stage: Stage) -> None:
    """Removes the dead letters of an earlier run, since all is tried again."""
    forget(FileSystems.join(stage.folder, f"*{UNREAD}"))


def forget(pattern: str) -> None:
    """Removes small files that an earlier run left."""
    if found := FileSystems.match([pattern])[0].metadata_list:
        FileSystems.delete([metadata.path for metadata in found])


def write_part(
    stage: Stage, name: str, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Commits a part: it is there whole, or not at all.

    Args:
      stage: What it belongs to.
      name: Without its ending; the same for the same content.
      rows: From `schema.to_row`.
      facts: About their making, as JSON values.
    """
    content = part_bytes(stage.record, rows, facts)
    _commit(FileSystems.join(stage.folder, f"{name}.parquet"), content)


def part_bytes(
    record: type[Any], rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> bytes:
    """What a part of such records is as a file."""
    schema = _arrow_schema(record).with_metadata({_METADATA: json.dumps(facts)})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_part(path: str) -> Part:
    """A committed part."""
    with FileSystems.open(path, compression_type=_AS_IT_IS) as stream:
        file = pq.ParquetFile(pa.BufferReader(stream.read()))
    # In this thread: one of Arrow's own might let go of the bytes only when Python is
    # already exiting, and cannot then; the process aborts (apache/arrow#49942).
    table = file.read(use_threads=False)
    facts = json.loads(table.schema.metadata[_METADATA])
    # Maps come back as lists of pairs.
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    rows = table.to_pylist()
    for row in rows:
        row.update({name: dict(row[name]) for name in maps})
    return Part(rows=rows, facts=facts, path=path)


def read_footer(path: str) -> tuple[int, dict[str, Any]]:
    """How many rows a part has, and its facts; the rows are not read."""
    with FileSystems.open(path, compression_type=_AS_IT_IS) as stream:
        footer = pq.read_metadata(pa.PythonFile(stream, mode="r"))
    return footer.num_rows, json.loads(footer.metadata[_METADATA])


def read_stage(stage: Stage) -> Iterator[Part]:
    """All parts of a stage as they are now, one in memory at a time."""
    for name in part_names(stage):
        yield read_part(FileSystems.join(stage.folder, name))


def write_json(path: str, value: Any) -> None:
    """Commits a small file."""
    _commit(path, json.dumps(value, ensure_ascii=False, indent=1).encode())


def write_lines(path: str, values: Iterable[Any]) -> None:
    """Commits a small file with a line of JSON for each value."""
    lines = (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    _commit(path, "".join(lines).encode())


def read_json(path: str) -> Any:
    """A small file.

    Raises:
      StoreError: It is not what `write_json` wrote.
    """
    with FileSystems.open(path, compression_type=_AS_IT_IS) as stream:
        text = stream.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"{path} is no JSON: {error}. Delete it.") from error


_AS_IT_IS = CompressionTypes.UNCOMPRESSED


def _commit(path: str, content: bytes) -> None:
    folder, name = FileSystems.split(path)
    temporary = FileSystems.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    if not FileSystems.exists(folder):
        _make_folder(folder)
    try:
        with FileSystems.create(temporary, compression_type=_AS_IT_IS) as stream:
            stream.write(content)
        FileSystems.rename([temporary], [path])
    except BaseException:
        # A full disk, say: the half that was written must not take up the rest.
        if FileSystems.exists(temporary):
            FileSystems.delete([temporary])
        raise


def _make_folder(folder: str) -> None:
    try:
        FileSystems.mkdirs(folder)
    except OSError:
        # Another worker was first.
        if not FileSystems.exists(folder):
            raise


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class Resume(beam.PTransform):
    """A stage's results: what the store holds, and the rest made and committed.

    Takes the inputs, and the paths of the snapshots that name the parts, in the same
    windows; the live folder is never looked at.

    Args:
      stage: Whose parts are read and written.
      compute: From lists of inputs to lists of results, one each. Results carry their
        input.
      nested: The field of a result that holds its input.
      part_rows: Results in a part, about.
    """

    def __init__(
        self,
        stage: Stage,
        compute: beam.PTransform,
        nested: str,
        part_rows: int,
    ) -> None:
        super().__init__()
        self._stage = stage
        self._compute = compute
        self._nested = nested
        self._part_rows = part_rows

    def expand(self, given: Any) -> PCollection[Any]:
        inputs, snapshots = given
        stored = (
            snapshots
            | "Parts" >> beam.FlatMap(snapshot_parts, self._stage.folder)
            | "SpreadParts" >> beam.Reshuffle()
            | "ReadParts" >> beam.FlatMap(lambda path: read_part(path).rows)
            | "ByStoredKey" >> beam.Map(lambda row: (row["key"], row))
        )
        keyed = inputs | "ByKey" >> beam.Map(lambda item: (item.key, item))
        joined = (
            {"inputs": keyed, "stored": stored}
            | "Join" >> beam.CoGroupByKey()
            | "Known"
            >> beam.ParDo(_Known(self._stage.record, self._nested)).with_outputs(
                "to_do", main="known"
            )
        )
        batches = (
            joined.to_do
            | "Batches" >> _Batches(self._part_rows)
            | "ReadBack"
            >> beam.ParDo(_ReadBack(self._stage, self._nested)).with_outputs(
                "to_do", main="committed"
            )
        )
        made = (
            batches.to_do
            | "Compute" >> self._compute
            | "Commit" >> beam.ParDo(_Commit(self._stage))
        )
        return (joined.known, batches.committed, made) | beam.Flatten()


class _Known(beam.DoFn):
    """Results that the store holds; the inputs without one go to `to_do`."""

    def __init__(self, record: type[Any], nested: str) -> None:
        self._record = record
        self._nested = nested

    def process(self, joined: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        _, found = joined
        # A retry may have left two of either; they are equal.
        item = next(iter(found["inputs"]), None)
        row = next(iter(found["stored"]), None)
        if item is None:
            return
        if row is None:
            yield beam.pvalue.TaggedOutput("to_do", item)
        else:
            yield from_row(self._record, row, **{self._nested: item})


class _Batches(beam.PTransform):
    """Inputs in lists. The same inputs give the same lists, whoever cuts them.

    So a batch that is tried again finds the part that the first try committed.

    Args:
      rows: In a list, about: which one an input is in hangs on its key alone.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def expand(self, inputs: PCollection[Any]) -> PCollection[list[Any]]:
        count = beam.CombineGlobally(beam.combiners.CountCombineFn())
        # With windows Beam knows no count of nothing; without any, none is asked for.
        number = inputs | "Count" >> count.without_defaults()
        return (
            inputs
            | "ByBatch" >> beam.Map(_by_batch, self._rows, beam.pvalue.AsIter(number))
            | "Group" >> beam.GroupByKey()
            | "List"
            >> beam.MapTuple(lambda _, items: sorted(items, key=lambda item: item.key))
        )


def _by_batch(item: Any, rows: int, counts: Iterable[int]) -> tuple[int, Any]:
    number = -(-sum(counts) // rows)
    digest = hashlib.blake2b(item.key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % number, item


class _ReadBack(beam.DoFn):
    """Results that this very run has committed; batches without go to `to_do`.

    A runner that tries a bundle again does so from its start, and what a model wrote
    in it was paid for. Only the part of the whole batch is asked for: it is read, or it
    is made, and so nothing is lost.
    """

    def __init__(self, stage: Stage, nested: str) -> None:
        self._stage = stage
        self._nested = nested

    def process(self, batch: list[Any]) -> Iterator[Any]:
        name = _batch_name(item.key for item in batch)
        path = FileSystems.join(self._stage.folder, f"{name}.parquet")
        if not FileSystems.exists(path):
            yield beam.pvalue.TaggedOutput("to_do", batch)
            return
        inputs = {item.key: item for item in batch}
        for row in read_part(path).rows:
            item = inputs[row["key"]]
            yield from_row(self._stage.record, row, **{self._nested: item})


def _batch_name(keys: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(sorted(keys)).encode(), digest_size=16).hexdigest()


class _Commit(beam.DoFn):
    """Writes each batch of results as a part, and passes the results on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._name = FileSystems.split(FileSystems.split(stage.folder)[0])[1]

    def start_bundle(self) -> None:
        # Of a bundle that failed before it came here.
        take_spent()

    def process(self, results: list[Any]) -> Iterator[Any]:
        rows = [to_row(result) for result in results]
        name = _batch_name(row["key"] for row in rows)
        write_part(self._stage, name, rows, {"rows": len(rows), **take_spent()})
        Metrics.counter(self._name, "written").inc(len(rows))
        yield from results


class _Spent(threading.local):
    """What the results that this thread is making took so far."""

    def __init__(self) -> None:
        self.amounts: Counter[str] = Counter()


_spent = _Spent()


def spend(**amounts: float) -> None:
    """Notes what results took: the next part of this thread says so in its facts.

    Who makes results and who commits them are fused steps of one thread. Where two
    processes share a model, either may be told what both used: only sums are right.
    """
    _spent.amounts.update(amounts)


def take_spent() -> dict[str, float]:
    """What `spend` noted in this thread since the last time."""
    taken, _spent.amounts = _spent.amounts, Counter()
    return dict(taken)


def count_outcome(
    stage: str, language: str, reason: str | None, number: int = 1
) -> None:
    """Counts what became of records in Beam's metrics, to watch a run by.

    By language whether they go on, and by reason why not: some tens of counters a
    stage. What is exact, and by both, is in the parts.

    Args:
      stage: The counters' namespace.
      language: A key of `LANGUAGES`, or empty where it is not known.
      reason: Why they go no further; None if they do.
      number: How many there are.
    """
    outcome = "dropped" if reason else "passed"
    Metrics.counter(stage, f"{language or 'unknown'}/{outcome}").inc(number)
    if reason:
        Metrics.counter(stage, f"reason/{reason}").inc(number)


class WriteCounts(beam.PTransform):
    """How many (reason, language) there are, as one small file: a part of the funnel.

    Args:
      path: Of the file. Where there are windows, each has its own: see `counts_files`.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(
        self, drops: PCollection[tuple[str, str]]
    ) -> PCollection[list[tuple[str, str, int]]]:
        together = beam.combiners.ToList()
        if not drops.windowing.is_default():
            # Then Beam knows no empty list; a window without drops writes nothing.
            together = together.without_defaults()
        return (
            drops
            | "Count" >> beam.combiners.Count.PerElement()
            | "Row" >> beam.Map(_count_row)
            | "All" >> together
            | "Write" >> beam.Map(_write_counts, self._path)
        )


def counts_files(path: str) -> tuple[str, str]:
    """Patterns of what `WriteCounts` writes: a whole run's file, those of windows."""
    stem, _, ending = path.rpartition(".")
    return path, f"{stem}-*.{ending}"


def _count_row(counted: tuple[tuple[str, str], int]) -> tuple[str, str, int]:
    (reason, language), count = counted
    return reason, language, count


def _write_counts(
    counts: list[tuple[str, str, int]], path: str, window: Any = beam.DoFn.WindowParam
) -> list[tuple[str, str, int]]:
    if not isinstance(window, GlobalWindow):
        path = counts_files(path)[1].replace("*", str(window.start.micros))
    write_json(path, sorted(counts))
    return counts
