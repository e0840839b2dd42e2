"""Which scored candidates are published: spread over topics, then split by domain.

A language's candidates may be more than a worker holds. So its topics are found from a
sample, every vector finds its own topic beside the others, and what must be seen in one
place, the quotas and the caps, is decided from 60 bytes a candidate, without vectors. A
topic's vectors meet only where they are few: twice its quota.
"""

import dataclasses
import hashlib
import itertools
import math
import re
import typing
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict, AsSingleton, PCollection

from beam_pipelines import store as stores
from beam_pipelines import verbs
from beam_pipelines.generate import EngineHandler, OnDemand, Speed, count_usage
from beam_pipelines.quotas import Entry, Place, plan
from beam_pipelines.recipe import Diversify, Generator
from beam_pipelines.schema import Example, Score
from beam_pipelines.splits import PinnedDomains, Pins, enough_domains, split_of

if typing.TYPE_CHECKING:
    from xinst_jax.kmeans import Centres

# Examples of a topic, and the least candidates for each topic, if the recipe does not
# say how many topics there are.
_EXAMPLES_EACH, _CANDIDATES_EACH = 8, 32
# Vectors that topics are found from: so many for each, and at least so many.
_SAMPLE_EACH, _MIN_SAMPLE = 32, 16_384
# So many of them at a time: comparing each with each takes the square.
_AT_A_TIME = 512
# Vectors whose topics are told at a time.
_BATCH = 1024
# Candidates of a language on the map, and how much of an instruction is shown there.
_SHOWN, _SHOWN_CHARS = 300, 120
# t-SNE sees so many directions of them; fewer points, or equal ones, are laid in a row.
_PLANE_DIRECTIONS, _MIN_PLACES = 50, 5
# Ten seconds for 3,000 points on one core; twice as many steps move little.
_PLANE_STEPS = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What choosing needs to know of a scored candidate.

    Attributes:
      key: `item_key` of the candidate's.
      language: A key of `LANGUAGES`.
      score: The evaluator's.
      domain: The registered domain of its page.
      verb: The root verb of the instruction, or empty.
      vector: The instruction's embedding as a unit vector, `[D]` float16.
    """

    key: str
    language: str
    score: float
    domain: str
    verb: str
    vector: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A candidate that is looked at, with those of its topic.

    Attributes:
      item: Its vector and score decide.
      place: Its topic and the quota of that.
    """

    item: Item
    place: Place


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a candidate.

    Attributes:
      cluster: Its topic.
      reason: Why it is not published; empty if it is.
      by_score: As that of its place.
    """

    cluster: int
    reason: str
    by_score: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate on the map.

    Attributes:
      key: Of the item.
      language: A key of `LANGUAGES`.
      cluster: Its topic.
      chosen: Whether it is published.
      instruction: Its beginning.
      vector: The instruction's embedding, `[D]` float16.
    """

    key: str
    language: str
    cluster: int
    chosen: bool
    instruction: str
    vector: np.ndarray


class SpreadOverTopics(beam.PTransform):
    """Examples from scored candidates: the quota of each language, from all topics.

    Args:
      settings: Quotas, caps and splits.
      generator: Its checkpoint embeds the instructions.
      seed: Of the clustering.
      model: Names the model, so that steps of a pipeline share it.
      speed: Batches and devices.
      folder: Receives `not_chosen.json`, how many were not chosen, by reason and
        language; `diversity.json`, what choosing did; `map.json`, some candidates as
        points of a plane.
    """

    def __init__(
        self,
        settings: Diversify,
        generator: Generator,
        seed: int,
        model: str,
        speed: Speed,
        folder: str,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._handler = _EmbeddingHandler(generator, speed)
        self._seed = seed
        self._model = model
        self._folder = folder

    def expand(self, scores: PCollection[Score]) -> PCollection[Example]:
        settings = self._settings
        items = (
            scores
            | "Embed" >> self._handler.step(self._model)
            # Several steps read them: they must not be embedded for each.
            | "Embedded" >> beam.Reshuffle()
        )
        centres = items | "FindTopics" >> _FindTopics(settings, self._seed)
        placed = (
            items
            | "Batch" >> beam.BatchElements(_BATCH, _BATCH)
            | "TellTopics" >> beam.FlatMap(_entries, AsDict(centres))
            | "Entries" >> beam.GroupByKey()
            | "Place"
            >> beam.ParDo(_PlanAll(settings)).with_outputs("summary", main="places")
        )
        joined = {
            "item": items | "ItemsByKey" >> beam.Map(lambda item: (item.key, item)),
            "place": placed.places,
        } | "JoinPlaces" >> beam.CoGroupByKey()
        chosen = (
            joined
            | "LookedAt" >> beam.FlatMapTuple(_looked_at)
            | "ByTopic" >> beam.GroupByKey()
            | "Choose" >> beam.FlatMapTuple(_choose)
        )
        passed = joined | "PassedOver" >> beam.FlatMapTuple(_passed_over)
        shown = (
            items
            | "ByLanguage" >> beam.Map(lambda item: (item.language, item))
            | "Shown" >> beam.combiners.Top.SmallestPerKey(_SHOWN, key=_order)
            | "Vectors" >> beam.FlatMapTuple(_vectors)
        )
        ended = {
            "score": scores | "ScoresByKey" >> beam.Map(_by_key),
            "outcome": (chosen, passed) | beam.Flatten(),
            "vector": shown,
        } | "JoinOutcomes" >> beam.CoGroupByKey()
        self._write(ended, placed.summary)
        published = ended | "Chosen" >> beam.FlatMapTuple(_published)
        pins = (
            published
            | "Domains" >> beam.Map(lambda pair: pair[0].candidate.document.domain)
            | "Pins" >> beam.CombineGlobally(PinnedDomains())
            | "EnoughDomains" >> beam.Map(enough_domains, settings)
        )
        return published | "Split" >> beam.Map(_example, settings, AsSingleton(pins))

    def _write(
        self,
        ended: PCollection[tuple[str, dict[str, Iterable[Any]]]],
        summary: PCollection[tuple[str, dict[str, Any]]],
    ) -> None:
        """The small files that say what was done."""
        _ = (
            ended
            | "NotChosen" >> beam.FlatMapTuple(_not_chosen)
            | stores.WriteCounts(FileSystems.join(self._folder, "not_chosen.json"))
        )
        compared = (
            ended
            | "Instructions" >> beam.FlatMapTuple(_instructions)
            | "BeforeAndAfter" >> beam.GroupByKey()
            | "Compare" >> beam.MapTuple(_compared)
        )
        diversity = FileSystems.join(self._folder, "diversity.json")
        _ = (
            {"summary": summary, "compared": compared}
            | "JoinSummaries" >> beam.CoGroupByKey()
            | "Summarise" >> beam.MapTuple(_summarised)
            | "Summaries" >> beam.combiners.ToList()
            | "WriteSummaries" >> beam.Map(_write_summaries, diversity)
        )
        topic_map = FileSystems.join(self._folder, "map.json")
        _ = (
            ended
            | "Points" >> beam.FlatMapTuple(_points)
            | "AllPoints" >> beam.combiners.ToList()
            | "WriteMap" >> beam.Map(_write_map, self._seed, topic_map)
        )


class _EmbeddingHandler(EngineHandler):
    """Scored candidates in, items out."""

    def run_inference(
        self,
        batch: Sequence[Score],
        model: OnDemand,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Item]:
        vectors = model.embed([score.candidate.instruction for score in batch])
        count_usage(model)
        for score, vector in zip(batch, vectors, strict=True):
            candidate = score.candidate
            vector = np.nan_to_num(np.asarray(vector, np.float32))
            length = max(float(np.linalg.norm(vector)), 1e-12)
            yield Item(
                key=item_key(candidate.key),
                language=candidate.document.language,
                score=score.score,
                domain=candidate.document.domain,
                verb=verbs.root(candidate.instruction)[0],
                vector=(vector / length).astype(np.float16),
            )


def item_key(key: str) -> str:
    """32 hexadecimal digits that stand for a candidate's key, and order it at random.

    Samples take the first of this order, and equal scores are decided by it: so neither
    depends on where and when a candidate was made.
    """
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _by_key(score: Score) -> tuple[str, Score]:
    return item_key(score.candidate.key), score


def _order(item: Item) -> str:
    return item.key


def _vectors(language: str, items: Iterable[Item]) -> Iterator[tuple[str, np.ndarray]]:
    for item in items:
        yield item.key, item.vector


# Topics.


def num_clusters(num_items: int, settings: Diversify) -> int:
    """How many topics a language has.

    The recipe's number; or else the root of the number of candidates, but one for 8 of
    the examples that are asked for as soon as there are 32 candidates for each: 4,000
    for 32,000 examples of 128,000 candidates. Between, one for 32 candidates.

    Args:
      num_items: Of the language, at least 1.
      settings: What the recipe says.
    """
    enough = min(
        settings.examples_per_language // _EXAMPLES_EACH, num_items // _CANDIDATES_EACH
    )
    wanted = settings.clusters or max(round(math.sqrt(num_items)), enough)
    return max(1, min(wanted, num_items))


class _FindTopics(beam.PTransform):
    """The centres of each language's topics, from a sample of its vectors.

    One worker holds a language's sample: 260 MB of 4,000 topics at width 1,024.
    """

    def __init__(self, settings: Diversify, seed: int) -> None:
        super().__init__()
        self._settings = settings
        self._seed = seed

    def expand(self, items: PCollection[Item]) -> PCollection[tuple[str, "Centres"]]:
        numbers = (
            items
            | "Languages" >> beam.Map(lambda item: item.language)
            | "Numbers" >> beam.combiners.Count.PerElement()
        )
        return (
            items
            | "Sample" >> beam.FlatMap(_sampled, self._settings, AsDict(numbers))
            | "Samples" >> beam.GroupByKey()
            | "Fit" >> beam.Map(_fit, self._settings, self._seed, AsDict(numbers))
        )


def _sampled(
    item: Item, settings: Diversify, numbers: Mapping[str, int]
) -> Iterator[tuple[str, Item]]:
    number = numbers[item.language]
    wanted = max(_MIN_SAMPLE, _SAMPLE_EACH * num_clusters(number, settings))
    # The first of the order by key, about as many as are wanted.
    if int(item.key, 16) * number < wanted << 128:
        yield item.language, item


def _fit(
    group: tuple[str, Iterable[Item]],
    settings: Diversify,
    seed: int,
    numbers: Mapping[str, int],
) -> tuple[str, "Centres"]:
    language, sample = group
    return language, find_topics(sample, numbers[language], settings, seed)


def find_topics(
    sample: Iterable[Item], num_items: int, settings: Diversify, seed: int
) -> "Centres":
    """The centres of a language's topics.

    Args:
      sample: Of its items, in any order.
      num_items: That it has.
      settings: The number of topics.
      seed: Of the clustering.
    """
    from xinst_jax import kmeans

    vectors = [item.vector for item in sorted(sample, key=_order)]
    clusters = min(num_clusters(num_items, settings), len(vectors))
    return kmeans.fit(np.stack(vectors), clusters, seed)


def _entries(
    batch: Sequence[Item], centres: Mapping[str, "Centres"]
) -> Iterator[tuple[str, Entry]]:
    by_language = defaultdict(list)
    for item in batch:
        by_language[item.language].append(item)
    for language, items in by_language.items():
        found = centres[language].nearest(np.stack([item.vector for item in items]))
        for item, cluster in zip(items, map(int, found), strict=True):
            yield (
                language,
                Entry(
                    key=item.key,
                    cluster=cluster,
                    score=item.score,
                    domain=item.domain,
                    verb=item.verb,
                ),
            )


class _PlanAll(beam.DoFn):
    """The places of a language's items; what was done goes to `summary`."""

    def __init__(self, settings: Diversify) -> None:
        self._settings = settings

    def process(self, group: tuple[str, Iterable[Entry]]) -> Iterator[Any]:
        language, entries = group
        planned = plan(entries, self._settings)
        yield beam.pvalue.TaggedOutput("summary", (language, planned.summary))
        yield from planned.places


# The choice within a topic.


def farthest_first(contenders: Iterable[Contender], quota: int) -> list[Contender]:
    """The best of one topic that are unlike each other.

    The best score is taken first, and then again and again the one whose instruction is
    farthest from all that are taken; of equally far ones the better. Who is looked at
    is good enough to be taken: the best two times the quota. Where these are more than
    512, they are gone through from the best down in slices of 512, of which each gives
    its share, so that the work grows with their number and not with its square.

    Args:
      contenders: Of one language and topic, in any order.
      quota: How many are taken at most.
    """
    ranked = sorted(contenders, key=lambda c: (-c.item.score, c.item.key))
    taken: list[Contender] = []
    for start in range(0, len(ranked), _AT_A_TIME):
        some = ranked[start : start + _AT_A_TIME]
        reached = min(quota, len(ranked)) * (start + len(some)) // len(ranked)
        vectors = np.stack([each.item.vector for each in some]).astype(np.float32)
        apart = np.full(len(some), 2.0)
        while len(taken) < reached:
            found = int(apart.argmax())
            taken.append(some[found])
            # Rounded, so that equal vectors are equally far.
            distance = np.round(1 - vectors @ vectors[found], 5)
            apart = np.minimum(apart, distance)
            apart[found] = -np.inf
    return taken


def _looked_at(
    _: str, found: dict[str, Iterable[Any]]
) -> Iterator[tuple[str, Contender]]:
    item, place = next(iter(found["item"])), next(iter(found["place"]))
    if not place.reason:
        topic = f"{item.language}:{place.cluster}"
        yield topic, Contender(item=item, place=place)


def _choose(_: str, contenders: Iterable[Contender]) -> Iterator[tuple[str, Outcome]]:
    contenders = list(contenders)
    chosen = farthest_first(contenders, contenders[0].place.quota)
    keys = {contender.item.key for contender in chosen}
    for contender in contenders:
        reason = "" if contender.item.key in keys else "over_quota"
        yield contender.item.key, _outcome(contender.place, reason)


def _passed_over(
    key: str, found: dict[str, Iterable[Any]]
) -> Iterator[tuple[str, Outcome]]:
    place = next(iter(found["place"]))
    if place.reason:
        yield key, _outcome(place, place.reason)


def _outcome(place: Place, reason: str) -> Outcome:
    return Outcome(cluster=place.cluster, reason=reason, by_score=place.by_score)


# What is told of it.


def _ended(found: dict[str, Iterable[Any]]) -> tuple[Score, Outcome]:
    return next(iter(found["score"])), next(iter(found["outcome"]))


def _published(_: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[Score, int]]:
    score, outcome = _ended(found)
    if not outcome.reason:
        yield score, outcome.cluster


def _not_chosen(_: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
    score, outcome = _ended(found)
    if outcome.reason:
        yield outcome.reason, score.candidate.document.language


def _instructions(_: str, found: dict[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
    """What is compared: by language and `before` or `after`, one a chosen candidate."""
    score, outcome = _ended(found)
    language = score.candidate.document.language
    for when, holds in (("before", outcome.by_score), ("after", not outcome.reason)):
        if holds:
            yield f"{language}:{when}", score.candidate.instruction


def _compared(key: str, instructions: Iterable[str]) -> tuple[str, dict[str, Any]]:
    language, _, when = key.partition(":")
    return language, {when: variety(instructions)}


def variety(instructions: Iterable[str]) -> dict[str, Any]:
    """How much instructions differ.

    Returns:
      `distinct_2`, the share of different ones among all pairs of neighbouring words;
      `top_verb`, the commonest root verb, empty if there is none; and `top_verb_share`,
      how many of the instructions have it.
    """
    pairs: set[tuple[str, str]] = set()
    num_pairs = 0
    roots: Counter[str] = Counter()
    for instruction in instructions:
        words = re.findall(r"\w+", instruction.lower())
        pairs.update(itertools.pairwise(words))
        num_pairs += max(0, len(words) - 1)
        roots[verbs.root(instruction)[0]] += 1
    number = roots.total()
    del roots[""]
    top = min(roots, key=lambda verb: (-roots[verb], verb), default="")
    return {
        "distinct_2": round(len(pairs) / max(1, num_pairs), 4),
        "top_verb": top,
        "top_verb_share": round(roots[top] / max(1, number), 4),
    }


def _summarised(
    language: str, found: dict[str, Iterable[Any]]
) -> tuple[str, dict[str, Any]]:
    summary = dict(next(iter(found["summary"])))
    for compared in found["compared"]:
        for when, values in compared.items():
            summary[when] = summary[when] | values
    return language, summary


def _write_summaries(summaries: list[tuple[str, dict[str, Any]]], path: str) -> None:
    stores.write_json(path, dict(sorted(summaries)))


def _points(key: str, found: dict[str, Iterable[Any]]) -> Iterator[Point]:
    for vector in found["vector"]:
        score, outcome = _ended(found)
        yield Point(
            key=key,
            language=score.candidate.document.language,
            cluster=outcome.cluster,
            chosen=not outcome.reason,
            instruction=score.candidate.instruction[:_SHOWN_CHARS],
            vector=vector,
        )


def _write_map(points: list[Point], seed: int, path: str) -> None:
    points = sorted(points, key=lambda point: (point.language, point.key))
    places = plane([point.vector for point in points], seed)
    written = [
        {
            "x": x,
            "y": y,
            "language": point.language,
            "cluster": point.cluster,
            "chosen": point.chosen,
            "instruction": point.instruction,
        }
        for point, (x, y) in zip(points, places, strict=True)
    ]
    stores.write_json(path, {"points": written})


def plane(vectors: Sequence[np.ndarray], seed: int) -> list[tuple[float, float]]:
    """Places in the unit square where those lie together that are neighbours: t-SNE.

    Args:
      vectors: `[D]` each; thousands at most.
      seed: Of the optimisation.
    """
    number = len(vectors)
    if number < _MIN_PLACES or not np.ptp(vectors, axis=0).any():
        return [((at + 0.5) / number, 0.5) for at in range(number)]
    # Imported here: one worker needs them, and they take a second.
    import threadpoolctl
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.stack(vectors).astype(np.float64)
    # Sums of several threads differ in their last bits, which t-SNE makes visible.
    with threadpoolctl.threadpool_limits(1):
        directions = min(_PLANE_DIRECTIONS, number, rows.shape[1])
        rows = PCA(directions, svd_solver="covariance_eigh").fit_transform(rows)
        found = TSNE(
            perplexity=min(30, (number - 1) / 3),
            init=rows[:, :2] / max(float(rows[:, 0].std()), 1e-12) * 1e-4,
            max_iter=_PLANE_STEPS,
            random_state=seed,
        ).fit_transform(rows)
    low, high = found.min(axis=0), found.max(axis=0)
    scaled = (found - low) / np.maximum(high - low, 1e-12)
    return [(round(float(x), 4), round(float(y), 4)) for x, y in scaled]


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
