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
import logging
import time
import types
import typing
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PCollection

from beam_pipelines import recipe as recipes
from beam_pipelines.schema import Candidate, Capture, Document, Score, from_row, to_row

# Ends the name of a dead letter: a file of the source that could not be had.
UNREAD = ".unread.json"
# What the rounds of refinement did, in the store's own folder.
REFINEMENT = "refinement.json"
_METADATA = b"x-instruction"
_log = logging.getLogger("xinst")
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
    """What a part holds: rows, and facts about their making."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]


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
    store: Store, stages: Sequence[Stage], files: list[Any], index: Sequence[str] = ()
) -> str:
    """Writes down which files there are to read, and which parts there are already.

    It goes into a file, since a crawl's list would not fit into a job's description.

    Args:
      store: Where to write.
      stages: Those whose parts are wanted.
      files: Of the source: (path, size in bytes).
      index: Of the source's columnar index, the files.

    Returns:
      The snapshot's path.
    """
    content = {
        "files": files,
        "index": list(index),
        "parts": {s.folder: part_names(s) for s in stages},
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
    pattern = FileSystems.join(stage.folder, f"*{UNREAD}")
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
    schema = stage.schema.with_metadata({_METADATA: json.dumps(facts)})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    _commit(FileSystems.join(stage.folder, f"{name}.parquet"), buffer.getvalue())


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
    return Part(rows=rows, facts=facts)


def read_stage(stage: Stage) -> Iterator[Part]:
    """All parts of a stage as they are now, one in memory at a time."""
    for name in part_names(stage):
        yield read_part(FileSystems.join(stage.folder, name))


def write_json(path: str, value: Any) -> None:
    """Commits a small file."""
    _commit(path, json.dumps(value, ensure_ascii=False, indent=1).encode())


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

    Args:
      stage: Whose parts are read and written.
      snapshot: Path of the list of parts; the live folder is never looked at.
      compute: From inputs to results, one each. Results carry their input.
      nested: The field of a result that holds its input.
      part_rows: Results in a part.
    """

    def __init__(
        self,
        stage: Stage,
        snapshot: str,
        compute: beam.PTransform,
        nested: str,
        part_rows: int,
    ) -> None:
        super().__init__()
        self._stage = stage
        self._snapshot = snapshot
        self._compute = compute
        self._nested = nested
        self._part_rows = part_rows

    def expand(self, inputs: PCollection[Any]) -> PCollection[Any]:
        stored = (
            inputs.pipeline
            | "Snapshot" >> beam.Create([self._snapshot])
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
        made = (
            joined.to_do
            | "Compute" >> self._compute
            | "Batch"
            >> beam.BatchElements(
                min_batch_size=self._part_rows, max_batch_size=self._part_rows
            )
            | "Commit" >> beam.ParDo(_Commit(self._stage))
        )
        return (joined.known, made) | beam.Flatten()


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


class _Commit(beam.DoFn):
    """Writes each batch of results as a part, and passes the results on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._name = FileSystems.split(FileSystems.split(stage.folder)[0])[1]
        self._num_results = 0
        self._started = 0.0

    def start_bundle(self) -> None:
        self._num_results, self._started = 0, time.monotonic()

    def process(self, results: list[Any]) -> Iterator[Any]:
        rows = [to_row(result) for result in results]
        keys = "\n".join(sorted(row["key"] for row in rows))
        name = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()
        write_part(self._stage, name, rows, {"rows": len(rows)})
        self._num_results += len(rows)
        _log.info(
            "%s: %s written, %.1f/s",
            self._name,
            f"{self._num_results:,}",
            self._num_results / max(time.monotonic() - self._started, 1e-3),
        )
        Metrics.counter(self._name, "written").inc(len(rows))
        yield from results


class WriteCounts(beam.PTransform):
    """How many (reason, language) there are, as one small file: a part of the funnel.

    Args:
      path: Of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(
        self, drops: PCollection[tuple[str, str]]
    ) -> PCollection[list[tuple[str, str, int]]]:
        return (
            drops
            | "Count" >> beam.combiners.Count.PerElement()
            | "Row" >> beam.Map(_count_row)
            | "All" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write_counts, self._path)
        )


def _count_row(counted: tuple[tuple[str, str], int]) -> tuple[str, str, int]:
    (reason, language), count = counted
    return reason, language, count


def _write_counts(
    counts: list[tuple[str, str, int]], path: str
) -> list[tuple[str, str, int]]:
    write_json(path, sorted(counts))
    return counts
