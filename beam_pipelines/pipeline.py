"""The whole path, from byte ranges of a crawl to examples."""

import argparse
import dataclasses
import functools
import uuid
from collections.abc import Collection, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection

from beam_pipelines import evaluate
from beam_pipelines.crawl import index_files, source_files
from beam_pipelines.dedup import RemoveDuplicates
from beam_pipelines.diversify import SpreadOverTopics
from beam_pipelines.evaluate import ScoreCandidates
from beam_pipelines.generate import GenerateInstructions, Speed
from beam_pipelines.ingest import Judge, ReadDocuments
from beam_pipelines.recipe import Evaluator, Recipe
from beam_pipelines.schema import Candidate, Document, Example, Score
from beam_pipelines.store import Resume, Store, forget_unread, take_snapshot

STAGES = ("documents", "candidates", "scores")


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


class Path:
    """The stages of one recipe on one store; each can be the last.

    The list of what the store holds is taken here, once, and every stage reads that.

    Args:
      pipeline: To add to.
      recipe: What to make.
      store: Where each stage's results are kept, and found again.
      languages: Only these go on after the documents; all of the recipe's by default.

    Raises:
      ValueError: The source matches no file, or a flag is out of bounds.
      RecipeError: A checkpoint is missing.
      StoreError: The store belongs to another recipe.
    """

    def __init__(
        self,
        pipeline: beam.Pipeline,
        recipe: Recipe,
        store: Store,
        *,
        until: str,
        languages: Collection[str] = (),
    ) -> None:
        self._pipeline = pipeline
        self._recipe = recipe
        self._store = store
        self._until = until
        self._languages = languages or recipe.languages
        given = pipeline.options.view_as(SpeedOptions)
        self._speed = Speed(
            batch_size=given.engine_batch_size, model_parallel=given.model_parallel
        )
        stages = [getattr(store, name) for name in STAGES[: _depth(until)]]
        source = recipe.source
        by_file = not source.index or source.max_files
        self._snapshot = take_snapshot(
            store,
            [*stages, store.captures] if source.index else stages,
            source_files(source) if by_file else [],
            index_files(source) if source.index else [],
        )
        forget_unread(store.documents)
        # Steps of this pipeline share a model; another pipeline on this host does not,
        # since a model dies with the process that holds it.
        self._run = uuid.uuid4().hex

    @functools.cached_property
    def documents(self) -> PCollection[Document]:
        """Every document of the source, measured and not judged."""
        return self._pipeline | "Read" >> ReadDocuments(
            self._recipe,
            self._store,
            self._snapshot,
            to_store_only=self._until == "documents",
        )

    @functools.cached_property
    def unique(self) -> PCollection[Document]:
        """One usable document per text."""
        folder, wanted = self._store.documents.folder, frozenset(self._languages)
        return (
            self.documents
            | "Wanted" >> beam.Filter(lambda document: document.language in wanted)
            | "Judge" >> beam.ParDo(_Usable(self._recipe))
            | "RemoveDuplicates"
            >> RemoveDuplicates(FileSystems.join(folder, "duplicates.json"))
        )

    @functools.cached_property
    def candidates(self) -> PCollection[Candidate]:
        """A candidate for every document, the unusable ones included."""
        recipe = self._recipe
        generate = GenerateInstructions(
            recipe.generator,
            recipe.seed,
            recipe.candidates_hash(),
            f"generator-{self._run}",
            self._speed,
        )
        return self.unique | "Generate" >> Resume(
            self._store.candidates,
            self._snapshot,
            generate,
            nested="document",
            part_rows=self._speed.batch_size,
        )

    @functools.cached_property
    def scores(self) -> PCollection[Score]:
        """A score for every candidate with a usable instruction."""
        recipe = self._recipe
        score = ScoreCandidates(
            recipe.evaluator,
            recipe.scores_hash(),
            f"evaluator-{self._run}",
            self._speed,
        )
        return (
            self.candidates
            | "Usable" >> beam.Filter(lambda candidate: not candidate.rejected)
            | "Score"
            >> Resume(
                self._store.scores,
                self._snapshot,
                score,
                nested="candidate",
                part_rows=self._speed.batch_size,
            )
        )

    @functools.cached_property
    def examples(self) -> PCollection[Example]:
        """What is published."""
        recipe = self._recipe
        folder = FileSystems.join(self._store.root, "examples", recipe.examples_hash())
        return (
            self.scores
            | "Keep" >> beam.Filter(_is_kept, recipe.evaluator)
            | "Diversify"
            >> SpreadOverTopics(
                recipe.diversify,
                recipe.generator,
                recipe.seed,
                f"generator-{self._run}",
                self._speed,
                FileSystems.join(folder, "not_chosen.json"),
            )
        )


def is_in_split(example: Example, split: str) -> bool:
    """Whether an example belongs to a split."""
    return example.split == split


def to_features(example: Example) -> tuple[str, dict[str, Any]]:
    """An example as TFDS takes it: its key and its features."""
    return example.id, dataclasses.asdict(example)


def _depth(until: str) -> int:
    return len(STAGES) if until == "examples" else STAGES.index(until) + 1


class _Usable(beam.DoFn):
    """The documents that the recipe's thresholds and lists let through."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def setup(self) -> None:
        # A long list of what to leave out is read by each worker, not sent to it.
        self._judge = Judge(self._recipe)

    def process(self, document: Document) -> Iterator[Document]:
        reason = self._judge.reason(document)
        Metrics.counter("documents", reason or "usable").inc()
        if reason is None:
            yield document


def _is_kept(score: Score, settings: Evaluator) -> bool:
    reason = evaluate.drop_reason(score, settings)
    Metrics.counter("scores", reason or "kept").inc()
    return reason is None
