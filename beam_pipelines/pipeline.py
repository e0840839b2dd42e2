"""The whole path, from byte ranges of a crawl to examples."""

import argparse
import dataclasses
import functools
import logging
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
)
from apache_beam.pvalue import PCollection

from beam_pipelines import evaluate, instructions
from beam_pipelines.crawl import index_files, source_files
from beam_pipelines.dedup import RemoveDuplicates
from beam_pipelines.diversify import SpreadOverTopics
from beam_pipelines.evaluate import ScoreCandidates
from beam_pipelines.follow import Looks, NoticeFiles
from beam_pipelines.generate import GenerateInstructions, Speed
from beam_pipelines.ingest import Judge, ReadDocuments, StoredDocuments
from beam_pipelines.progress import Watch
from beam_pipelines.recipe import Evaluator, Instructions, Recipe
from beam_pipelines.schema import Candidate, Document, Example, Score, to_row
from beam_pipelines.store import (
    Resume,
    Stage,
    Store,
    StoreError,
    count_outcome,
    counts_files,
    forget,
    forget_unread,
    read_stage,
    take_snapshot,
)

_log = logging.getLogger("xinst")
# The experiments of Dataflow that decide how many processes a host has.
_PROCESSES = {"use_multiple_sdk_containers", "no_use_multiple_sdk_containers"}
# Bundles at a time: one is with the model, the next is made ready.
_THREADS = 2


class SpeedOptions(PipelineOptions):
    """How work is cut up. None of it changes what comes out."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--engine_batch_size",
            type=int,
            default=256,
            help="Documents that the engine is handed, and commits, at a time.",
        )
        parser.add_argument(
            "--model_parallel",
            type=int,
            default=1,
            help="Devices of a host that one copy of a model is split over.",
        )
        parser.add_argument(
            "--accelerator",
            default="",
            help="What steps with a model, and no others, ask the runner for; on "
            "Dataflow such as type:nvidia-l4;count:1;install-nvidia-driver.",
        )


def share_accelerators(options: PipelineOptions) -> None:
    """Has Dataflow start one process, of few threads, on a host with accelerators.

    A TPU opens in one process only, and on a GPU each process would reserve memory. By
    default there is a process for each core. Who sets either flag is left alone.

    Args:
      options: Changed in place.

    Raises:
      ValueError: What is asked for excludes itself on Dataflow.
    """
    accelerator = options.view_as(SpeedOptions).accelerator
    services = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    whole_job = [each for each in services if each.startswith("worker_accelerator=")]
    if not (accelerator or whole_job):
        return
    if whole_job and (accelerator or len(whole_job) > 1):
        raise ValueError(
            f"Accelerators are asked for twice: --accelerator={accelerator!r} for the "
            f"steps with a model, and {', '.join(whole_job)} for the whole job. Give "
            "one of them."
        )
    if "type:tpu" in accelerator:
        raise ValueError(
            f"--accelerator is {accelerator!r}, and Dataflow has no TPUs for single "
            f"steps. Ask for the whole job: --dataflow_service_options="
            f"worker_accelerator={accelerator}"
        )
    debug = options.view_as(DebugOptions)
    changed = []
    if not _PROCESSES & set(debug.experiments or []):
        debug.add_experiment("no_use_multiple_sdk_containers")
        changed.append("--experiments=no_use_multiple_sdk_containers")
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = _THREADS
        changed.append(f"--number_of_worker_harness_threads={_THREADS}")
    if changed:
        _log.info("Hosts with accelerators: %s", " ".join(changed))


class Path:
    """The stages of one recipe on one store; each can be the last.

    The list of what the store holds is taken once, and every stage reads that: here,
    or, where a source that grows is followed, at the first look at it.

    Args:
      pipeline: To add to.
      recipe: What to make.
      store: Where each stage's results are kept, and found again.
      until: The stage that comes last.
      languages: Only these go on after the documents; all of the recipe's by default.
      passes: The store as each pass over the documents sees it; by default those that
        refinement came to.
      looks: If given, the source grows, and is looked at so often.
      up_to: If given, a day as 2026-11-01: only documents that were captured until it
        is over are taken, in UTC, and only from the store; the source is not asked.

    Raises:
      ValueError: The source matches no file or cannot grow, or a flag is out of bounds.
      RecipeError: A checkpoint is missing.
      StoreError: The store belongs to another recipe, it holds no document up to that
        day, or examples are wanted before refinement has come to its end.
    """

    def __init__(
        self,
        pipeline: beam.Pipeline,
        recipe: Recipe,
        store: Store,
        *,
        until: str,
        languages: Collection[str] = (),
        passes: Sequence[Store] = (),
        looks: Looks | None = None,
        up_to: str = "",
    ) -> None:
        self._recipe = recipe
        self._store = store
        self._until = until
        self._up_to = up_to
        self._languages = languages or recipe.languages
        given = pipeline.options.view_as(SpeedOptions)
        self._speed = Speed(
            batch_size=given.engine_batch_size,
            model_parallel=given.model_parallel,
            accelerator=given.accelerator,
        )
        if type(pipeline.runner).__name__ == "DataflowRunner":
            share_accelerators(pipeline.options)
        if until == "documents":
            self._passes: list[_Pass] = []
        else:
            stores = passes or store.passes(finished=until == "examples")
            self._passes = [
                _Pass(number, of_pass) for number, of_pass in enumerate(stores)
            ]
        if looks:
            notice = NoticeFiles(recipe.source, store, list(self._stages()), looks)
            self._snapshots = pipeline | "NoticeFiles" >> notice
        else:
            self._snapshot = self._take_snapshot()
            self._snapshots = pipeline | "Snapshot" >> beam.Create([self._snapshot])
        if not up_to:
            forget_unread(store.documents)
            if self._passes:
                whole, windows = counts_files(self._duplicates)
                # What windows of an earlier run dropped is counted anew by the first.
                forget(windows)
                if looks:
                    forget(whole)
        # Steps of this pipeline share a model; another pipeline on this host does not,
        # since a model dies with the process that holds it.
        self._run = uuid.uuid4().hex

    def _take_snapshot(self) -> str:
        store, source = self._store, self._recipe.source
        stages = list(self._stages())
        if self._up_to:
            _check_holds(store, self._up_to)
            return take_snapshot(store, stages, [])
        by_file = not source.index or source.max_files
        return take_snapshot(
            store,
            [*stages, *([store.captures] if source.index else [])],
            source_files(source) if by_file else [],
            index_files(source) if source.index else [],
        )

    def _stages(self) -> Iterator[Stage]:
        """All that this path reads of the store and adds to it."""
        yield self._store.documents
        for each in self._passes:
            yield from each.store.candidates
            # The last pass may end before its scores.
            if self._until != "candidates" or each is not self._passes[-1]:
                yield each.store.scores

    @property
    def watch(self) -> Watch:
        """Looks at how far the stages of this path are, where the source is whole."""
        scored = self._until in ("scores", "examples")
        return Watch(
            self._store,
            self._snapshot,
            candidates=[
                stage for each in self._passes for stage in each.store.candidates
            ],
            scores=[each.store.scores for each in self._passes if scored],
        )

    @functools.cached_property
    def documents(self) -> PCollection[Document]:
        """Every document of the source, measured and not judged."""
        if up_to := self._up_to:
            return (
                self._snapshots
                | "Stored" >> StoredDocuments(self._store)
                | "UpTo"
                >> beam.Filter(lambda document: _is_up_to(document.date, up_to))
            )
        return self._snapshots | "Read" >> ReadDocuments(
            self._recipe, self._store, to_store_only=self._until == "documents"
        )

    @functools.cached_property
    def unique(self) -> PCollection[Document]:
        """One usable document per text."""
        wanted = frozenset(self._languages)
        return (
            self.documents
            | "Wanted" >> beam.Filter(lambda document: document.language in wanted)
            | "Judge" >> beam.ParDo(_Usable(self._recipe))
            | "RemoveDuplicates" >> RemoveDuplicates(self._duplicates)
        )

    @property
    def _duplicates(self) -> str:
        """The file that counts duplicates; one up to a day goes beside its examples."""
        folder = self._examples if self._up_to else self._store.documents.folder
        return FileSystems.join(folder, "duplicates.json")

    @property
    def _examples(self) -> str:
        """The folder of what choosing did."""
        return "-".join(filter(None, [self._store.examples, self._up_to]))

    @functools.cached_property
    def candidates(self) -> PCollection[Candidate]:
        """Candidates of every pass, the unusable ones included."""
        return _together("Candidates", map(self._candidates, self._passes))

    @functools.cached_property
    def scores(self) -> PCollection[Score]:
        """A score for every candidate with a usable instruction."""
        return _together("Scores", map(self._scores, self._passes))

    @functools.cached_property
    def kept(self) -> PCollection[Score]:
        """The best pair of each document that has one good enough."""
        if len(self._passes) == 1 and self._recipe.generator.candidates == 1:
            # No document has two pairs to choose from.
            return self._kept(self._passes[0])
        kept = (self._settled(each)[0] for each in self._passes)
        return _together("Kept", kept)

    @functools.cached_property
    def examples(self) -> PCollection[Example]:
        """What is published."""
        recipe = self._recipe
        return self.kept | "Diversify" >> SpreadOverTopics(
            recipe.diversify,
            recipe.generator,
            recipe.seed,
            f"generator-{self._run}",
            self._speed,
            self._examples,
        )

    def _candidates(self, each: "_Pass") -> PCollection[Candidate]:
        if each.candidates is None:
            recipe = each.store.recipe
            documents = self.unique
            if each.number:
                documents = self._settled(self._passes[each.number - 1])[1]
            found = []
            for number, stage in enumerate(each.store.candidates):
                generate = GenerateInstructions(
                    recipe.generator,
                    recipe.seed,
                    recipe.candidates_hash(),
                    self._model("generator", each.store),
                    self._speed,
                    number,
                )
                name = f"Generate{each.label}" + (f"-{number}" if number else "")
                found.append(
                    (documents, self._snapshots)
                    | name
                    >> Resume(
                        stage,
                        generate,
                        nested="document",
                        part_rows=self._speed.batch_size,
                    )
                )
            each.documents = documents
            each.candidates = _together(f"Candidates{each.label or '_0'}", found)
        return each.candidates

    def _scores(self, each: "_Pass") -> PCollection[Score]:
        if each.scores is None:
            recipe = each.store.recipe
            score = ScoreCandidates(
                recipe.evaluator,
                recipe.scores_hash(),
                self._model("evaluator", each.store),
                self._speed,
            )
            usable = self._candidates(each) | f"Usable{each.label}" >> beam.Filter(
                _is_usable, recipe.instructions
            )
            each.scores = (
                usable,
                self._snapshots,
            ) | f"Score{each.label}" >> Resume(
                each.store.scores,
                score,
                nested="candidate",
                part_rows=self._speed.batch_size,
            )
        return each.scores

    def _kept(self, each: "_Pass") -> PCollection[Score]:
        return self._scores(each) | f"Keep{each.label}" >> beam.Filter(
            _is_kept, self._recipe.evaluator
        )

    def _settled(
        self, each: "_Pass"
    ) -> tuple[PCollection[Score], PCollection[Document]]:
        """The pairs that a pass keeps, and the documents that it leaves to the next."""
        if each.settled is None:
            by_document = self._kept(each) | f"ByDocument{each.label}" >> beam.Map(
                lambda score: (score.candidate.document.key, score)
            )
            documents = each.documents | f"ByText{each.label}" >> beam.Map(
                lambda document: (document.key, document)
            )
            joined = (
                {"documents": documents, "scores": by_document}
                | f"Settle{each.label}" >> beam.CoGroupByKey()
                | f"Best{each.label}"
                >> beam.FlatMapTuple(_best).with_outputs("left", main="kept")
            )
            each.settled = joined.kept, joined.left
        return each.settled

    def _model(self, kind: str, store: Store) -> str:
        """Names a model, so that steps with the same one share it."""
        checkpoint = getattr(store.recipe, kind).checkpoint
        first = checkpoint == getattr(self._recipe, kind).checkpoint
        return f"{kind}-{self._run}" + ("" if first else f"-{checkpoint}")


@dataclasses.dataclass(slots=True)
class _Pass:
    """What one pass over the documents makes.

    Attributes:
      number: 0 for the first.
      store: As this pass sees it.
      documents: That it takes.
      candidates: Of these.
      scores: Of the usable ones.
      settled: The pairs that are kept, and the documents that are left.
    """

    number: int
    store: Store
    documents: PCollection[Document] | None = None
    candidates: PCollection[Candidate] | None = None
    scores: PCollection[Score] | None = None
    settled: tuple[PCollection[Score], PCollection[Document]] | None = None

    @property
    def label(self) -> str:
        """Ends the names of its steps."""
        return f"_{self.number}" if self.number else ""


def is_in_split(example: Example, split: str) -> bool:
    """Whether an example belongs to a split."""
    return example.split == split


def to_features(example: Example) -> tuple[str, dict[str, Any]]:
    """An example as TFDS takes it: its key and its features."""
    return example.id, to_row(example)


def _check_holds(store: Store, day: str) -> None:
    parts = read_stage(store.documents)
    if not any(_is_up_to(row["date"], day) for part in parts for row in part.rows):
        raise StoreError(
            f"The store {store.root} holds no document captured up to {day}. Fill it "
            f"first: `xinst follow RECIPE --store {store.root}`, or `xinst run`."
        )


def _is_up_to(date: str, day: str) -> bool:
    """Whether a date in UTC, as ISO 8601 writes it, is of that day or before."""
    return "" < date[: len(day)] <= day


class _Usable(beam.DoFn):
    """The documents that the recipe's thresholds and lists let through."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def setup(self) -> None:
        # A long list of what to leave out is read by each worker, not sent to it.
        self._judge = Judge(self._recipe)

    def process(self, document: Document) -> Iterator[Document]:
        reason = self._judge.reason(document)
        count_outcome("judged", document.language, reason)
        if reason is None:
            yield document


def _is_usable(candidate: Candidate, settings: Instructions) -> bool:
    reason = instructions.drop_reason(candidate, settings)
    count_outcome("candidates", candidate.document.language, reason)
    return reason is None


def _is_kept(score: Score, settings: Evaluator) -> bool:
    reason = evaluate.drop_reason(score, settings)
    count_outcome("scores", score.candidate.document.language, reason)
    return reason is None


def _best(key: str, found: dict[str, Iterable[Any]]) -> Iterator[Any]:
    """The best rated pair of a document, or the document itself if it has none."""
    # A retry may have left two of either; they are equal.
    scores = sorted(found["scores"], key=lambda s: (-s.score, s.candidate.key))
    if scores:
        yield scores[0]
    elif document := next(iter(found["documents"]), None):
        yield beam.pvalue.TaggedOutput("left", document)


def _together(name: str, parts: Iterable[PCollection[Any]]) -> PCollection[Any]:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else parts | name >> beam.Flatten()
