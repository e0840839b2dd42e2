"""Which scored candidates are published: spread over topics, then split by domain."""

import dataclasses
import hashlib
import math
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import PCollection

from beam_pipelines import store as stores
from beam_pipelines.generate import EngineHandler, Speed, count_usage
from beam_pipelines.recipe import Diversify, Generator
from beam_pipelines.schema import Example, Score

if typing.TYPE_CHECKING:
    from xinst_jax import Engine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What choosing needs to know of a scored candidate.

    Attributes:
      key: Of the candidate.
      score: The evaluator's.
      vector: The instruction's embedding, `[D]` float32.
    """

    key: str
    score: float
    vector: np.ndarray


class SpreadOverTopics(beam.PTransform):
    """Examples from scored candidates: the quota of each language, from all topics.

    Args:
      settings: Quotas and splits.
      generator: Its checkpoint embeds the instructions.
      seed: Of the clustering.
      model: Names the model, so that steps of a pipeline share it.
      speed: Batches and devices.
      counts: Path of the file that receives how many were not chosen.
    """

    def __init__(
        self,
        settings: Diversify,
        generator: Generator,
        seed: int,
        model: str,
        speed: Speed,
        counts: str,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._handler = _EmbeddingHandler(generator, speed)
        self._seed = seed
        self._model = model
        self._counts = counts

    def expand(self, scores: PCollection[Score]) -> PCollection[Example]:
        chosen = (
            scores
            | "Embed" >> RunInference(self._handler, model_identifier=self._model)
            | "ByLanguage" >> beam.GroupByKey()
            | "Choose" >> beam.FlatMap(_choose, self._settings, self._seed)
        )
        by_key = scores | "ByKey" >> beam.Map(lambda s: (s.candidate.key, s))
        joined = {"score": by_key, "cluster": chosen} | "Join" >> beam.CoGroupByKey()
        published = joined | "Chosen" >> beam.FlatMapTuple(_published)
        _ = (
            joined
            | "NotChosen" >> beam.FlatMapTuple(_not_chosen)
            | stores.WriteCounts(self._counts)
        )
        pins = (
            published
            | "Domains" >> beam.Map(lambda pair: pair[0].candidate.document.domain)
            | "Pins" >> beam.CombineGlobally(_PinnedDomains())
            | "EnoughDomains" >> beam.Map(enough_domains, self._settings)
        )
        return published | "Split" >> beam.Map(
            _example, self._settings, beam.pvalue.AsSingleton(pins)
        )


class _EmbeddingHandler(EngineHandler):
    """Scored candidates in, (language, item) out."""

    def run_inference(
        self,
        batch: Sequence[Score],
        model: "Engine",
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[tuple[str, Item]]:
        vectors = model.embed([score.candidate.instruction for score in batch])
        count_usage(model)
        for score, vector in zip(batch, vectors, strict=True):
            candidate = score.candidate
            item = Item(
                key=candidate.key, score=score.score, vector=np.nan_to_num(vector)
            )
            yield candidate.document.language, item


def choose(items: Iterable[Item], settings: Diversify, seed: int) -> dict[str, int]:
    """The cluster of each chosen item, by key: at most the quota of one language.

    Clusters of instructions are topics. A topic's share grows with the square root of
    its size, and within it the best scores come first.

    Args:
      items: All of one language, in any order.
      settings: The quota and the number of clusters.
      seed: Of the clustering.
    """
    from xinst_jax.kmeans import kmeans

    items = sorted(items, key=lambda item: item.key)
    clusters = settings.clusters or round(math.sqrt(len(items)))
    clusters = max(1, min(clusters, len(items)))
    labels = kmeans(np.stack([item.vector for item in items]), clusters, seed)
    members = defaultdict(list)
    for item, label in zip(items, map(int, labels), strict=True):
        members[label].append(item)
    sizes = {label: len(group) for label, group in members.items()}
    chosen = {}
    for label, quota in quotas(sizes, settings.examples_per_language).items():
        best = sorted(members[label], key=lambda item: (-item.score, item.key))
        chosen.update({item.key: label for item in best[:quota]})
    return chosen


def quotas(sizes: Mapping[int, int], total: int) -> dict[int, int]:
    """How many of each cluster are taken: all, or `total` by the root of their sizes.

    Args:
      sizes: Members of each cluster.
      total: At most so many are taken.
    """
    if sum(sizes.values()) <= total:
        return dict(sizes)
    taken = dict.fromkeys(sizes, 0)
    while (left := total - sum(taken.values())) > 0:
        open_labels = [label for label in sizes if taken[label] < sizes[label]]
        weight = sum(math.sqrt(sizes[label]) for label in open_labels)
        shares = {
            label: math.floor(left * math.sqrt(sizes[label]) / weight)
            for label in open_labels
        }
        if not any(shares.values()):
            # Fewer are left than clusters: one each, the largest first.
            largest = sorted(open_labels, key=lambda label: (-sizes[label], label))
            shares = dict.fromkeys(largest[:left], 1)
        for label, share in shares.items():
            taken[label] = min(sizes[label], taken[label] + share)
    return taken


def _choose(
    group: tuple[str, Iterable[Item]], settings: Diversify, seed: int
) -> Iterator[tuple[str, int]]:
    yield from choose(group[1], settings, seed).items()


def _published(
    key: str, found: dict[str, Iterable[Any]]
) -> Iterator[tuple[Score, int]]:
    clusters = list(found["cluster"])
    if clusters:
        yield next(iter(found["score"])), clusters[0]


def _not_chosen(key: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
    if not list(found["cluster"]):
        score = next(iter(found["score"]))
        yield "over_quota", score.candidate.document.language


def domain_position(domain: str) -> float:
    """Where a registered domain lies in [0, 1), by its hash alone."""
    digest = hashlib.blake2b(domain.encode(), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


@dataclasses.dataclass(frozen=True, slots=True)
class Pins:
    """The positions of the domains that keep every split from being empty.

    A share of 1 % of few domains may be no domain at all, and an empty split would
    fail the whole build at its end. So the lowest position is always for validation,
    the highest always for test, the second lowest always for training.

    Attributes:
      lowest: Up to two, ascending.
      highest: The highest, if there is one.
    """

    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()


def splits(settings: Diversify) -> list[str]:
    """The splits that a data set has; none of them will be empty."""
    shares = {"train": 1.0, "validation": settings.validation, "test": settings.test}
    return [split for split, share in shares.items() if share]


def enough_domains(pins: Pins, settings: Diversify) -> Pins:
    """The pins, if every promised split can have a domain.

    TFDS would fail too, but only after everything, and without saying why.

    Raises:
      ValueError: There are fewer domains than splits.
    """
    domains = len({*pins.lowest, *pins.highest})
    num_splits = len(splits(settings))
    if domains == 0:
        raise ValueError(
            "No pair was kept, so there is nothing to publish. Where they were lost, "
            "the funnel says: `xinst report STORE`."
        )
    if domains < num_splits:
        raise ValueError(
            f"The data set's examples come from {domains} registered domain(s), too "
            f"few for {num_splits} splits, which are made by domain. Read more pages, "
            "or set diversify.validation and diversify.test to 0 in the recipe."
        )
    return pins


def split_of(domain: str, settings: Diversify, pins: Pins) -> str:
    """The split of every example of a registered domain.

    Args:
      domain: Registered, so that one site's pages stay together.
      settings: The shares of validation and test.
      pins: Of all domains; `enough_domains` has passed them.
    """
    at = domain_position(domain)
    lowest = pins.lowest if settings.validation else (-1.0, *pins.lowest)
    if settings.validation and at == lowest[0]:
        return "validation"
    if settings.test and at == pins.highest[0]:
        return "test"
    if at == lowest[1]:
        return "train"
    if at < settings.validation:
        return "validation"
    return "test" if at >= 1 - settings.test else "train"


class _PinnedDomains(beam.CombineFn):
    """The pins of all domains."""

    def create_accumulator(self) -> Pins:
        return Pins()

    def add_input(self, pins: Pins, domain: str) -> Pins:
        at = (domain_position(domain),)
        return self.merge_accumulators([pins, Pins(at, at)])

    def merge_accumulators(self, parts: Iterable[Pins]) -> Pins:
        lowest: set[float] = set()
        highest: set[float] = set()
        for part in parts:
            lowest.update(part.lowest)
            highest.update(part.highest)
        return Pins(tuple(sorted(lowest)[:2]), tuple(sorted(highest)[-1:]))

    def extract_output(self, pins: Pins) -> Pins:
        return pins


def _example(found: tuple[Score, int], settings: Diversify, pins: Pins) -> Example:
    score, cluster = found
    document = score.candidate.document
    return Example(
        id=document.id,
        instruction=score.candidate.instruction,
        output=document.text,
        output_language=document.language,
        url=document.url,
        domain=document.domain,
        date=document.date,
        warc_file=document.warc_file,
        warc_offset=document.warc_offset,
        warc_length=document.warc_length,
        robots=document.robots,
        license=document.license,
        score=score.score,
        cluster=cluster,
        split=split_of(document.domain, settings, pins),
    )
