"""Who is chosen: topics, quotas, caps, and that nothing but content decides it."""

import collections
import dataclasses
import json
import math
import random
import shutil

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import diversify, quotas, verbs
from beam_pipelines.generate import Speed
from beam_pipelines.recipe import Diversify, Generator
from beam_pipelines.schema import Candidate, Document, Score


def contenders(vectors: np.ndarray, scores: list[float]) -> list[diversify.Contender]:
    place = quotas.Place(cluster=0, quota=0, reason="", by_score=False)
    return [
        diversify.Contender(
            item=diversify.Item(
                key=f"{number:032x}",
                language="sw",
                score=score,
                domain="a.example",
                verb="",
                vector=(vector / np.linalg.norm(vector)).astype(np.float16),
            ),
            place=place,
        )
        for number, (vector, score) in enumerate(zip(vectors, scores, strict=True))
    ]


def numbers(chosen: list[diversify.Contender]) -> list[int]:
    return [int(each.item.key, 16) for each in chosen]


@pytest.mark.parametrize(
    ("items", "expected"),
    [(1, 1), (100, 10), (1024, 32), (6400, 200), (128_000, 4000), (10**6, 4000)],
)
def test_topics_grow_with_the_root_and_then_with_what_is_asked_for(items, expected):
    assert diversify.num_clusters(items, Diversify()) == expected


def test_the_recipe_may_say_how_many_topics():
    settings = Diversify(clusters=7)
    assert diversify.num_clusters(10**6, settings) == 7
    assert diversify.num_clusters(3, settings) == 3


def test_a_sample_is_bounded_and_of_a_small_language_all():
    draw = random.Random(0)
    (item,) = (each.item for each in contenders(np.eye(1), [0.5]))
    some = [
        dataclasses.replace(item, key=f"{draw.getrandbits(128):032x}")
        for _ in range(4000)
    ]

    def share(number: int, settings: Diversify) -> float:
        kept = [list(diversify._sampled(i, settings, {"sw": number})) for i in some]
        return sum(map(len, kept)) / len(some)

    assert share(16_384, Diversify()) == 1
    # 32 for each of 4,000 topics, of a million.
    assert share(10**6, Diversify()) == pytest.approx(0.128, abs=0.02)
    assert share(10**6, Diversify(clusters=9)) == pytest.approx(0.016, abs=0.008)


# Quotas and caps.


def test_instructions_are_compared_by_pairs_of_words_and_roots():
    found = diversify.variety(["Explain how wells work.", "Explain how boats work."])
    assert found == {
        "distinct_2": round(5 / 6, 4),  # "explain how" comes twice.
        "top_verb": "explain",
        "top_verb_share": 1.0,
    }
    nothing = {"distinct_2": 0.0, "top_verb": "", "top_verb_share": 0.0}
    assert diversify.variety([]) == nothing


# The choice within a topic.


def test_the_best_comes_first_and_then_who_is_farthest():
    angles = np.radians([0, 1, 2, 90, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    given = contenders(vectors, [0.9, 0.8, 0.7, 0.6, 0.5])
    for quota in range(6):
        chosen = diversify.farthest_first(given, quota)
        assert numbers(chosen) == [0, 4, 3, 2, 1][:quota]


@pytest.mark.parametrize(("number", "width"), [(7, 33), (511, 1021)])
def test_of_equally_far_ones_the_better_is_taken(number, width):
    """Products of equal rows differ in their last bits at such sizes."""
    vectors = np.repeat(np.random.default_rng(0).normal(size=(1, width)), number, 0)
    scores = [at / number for at in range(number)]
    random.Random(7).shuffle(scores)
    chosen = diversify.farthest_first(contenders(vectors, scores), number - 2)
    assert [each.item.score for each in chosen] == sorted(scores)[:1:-1]


@pytest.mark.parametrize(
    ("number", "quota"), [(2000, 1000), (1300, 1299), (513, 256), (600, 600), (9, 20)]
)
def test_a_large_topic_is_gone_through_in_slices(number, quota):
    vectors = np.random.default_rng(1).normal(size=(number, 8))
    given = contenders(vectors, [1 - at / number for at in range(number)])
    random.Random(2).shuffle(given)
    chosen = numbers(diversify.farthest_first(given, quota))
    assert len(set(chosen)) == len(chosen) == min(quota, number)
    share = min(quota, number) / number
    assert sum(at < 512 for at in chosen) == math.floor(min(number, 512) * share)


# All of it.


class Embeds:
    """Embeds an instruction by its last word: topics are words."""

    def embed(self, texts: list[str]) -> np.ndarray:
        rows = []
        for text in texts:
            topic = np.eye(24)[verbs_free(text)]
            noise = np.random.default_rng(len(text)).normal(size=24)
            rows.append(topic + 0.05 * noise)
        return np.array(rows)

    def take_usage(self):
        from xinst_jax.engine import Usage

        return Usage()


def verbs_free(text: str) -> int:
    return int(text.rsplit(" ", 1)[1].strip("."))


def scored(number: int) -> list[Score]:
    draw = random.Random(5)
    made = []
    for at in range(number):
        verb = draw.choice(["Explain", "Explain", "Describe", "List", "Find"])
        topic = min(int(draw.expovariate(0.3)), 23)
        domain = f"{min(int(draw.expovariate(0.05)), 99)}.example"
        document = Document(
            **dict.fromkeys(("date", "warc_file", "digest", "license"), ""),
            **dict.fromkeys(("warc_offset", "warc_length"), 0),
            id=f"id{at}",
            url=f"https://{domain}/{at}",
            domain=domain,
            language=draw.choice(["sw", "sw", "sw", "fi"]),
            language_score=1.0,
            text=f"text {at}",
            robots=(),
            checks={},
        )
        candidate = Candidate(
            document=document,
            instruction=f"{verb} the {'very ' * draw.randrange(9)}old well {topic}.",
            generator="g",
            logprob=-1.0,
            rejected="",
        )
        score = draw.random()
        made.append(
            Score(
                candidate=candidate,
                **dict.fromkeys(("p_best", "p_flawed", "p_worst", "score"), score),
                evidence={},
                evaluator="e",
                rejected="",
            )
        )
    return made


@pytest.fixture
def spread(tmp_path, monkeypatch):
    """Runs the transform; returns its examples and the files beside them."""
    handler = diversify.EngineHandler
    monkeypatch.setattr(handler, "load_model", lambda self: Embeds())
    monkeypatch.setattr(handler, "share_model_across_processes", lambda self: False)

    def spread(given: list[Score], settings: Diversify, batch_size: int = 16):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as made:
            _ = (
                made
                | beam.Create(given)
                | diversify.SpreadOverTopics(
                    settings,
                    Generator(checkpoint="none"),
                    3,
                    "model",
                    Speed(batch_size=batch_size),
                    str(tmp_path / "out"),
                )
                | beam.Map(lambda example: json.dumps(dataclasses.asdict(example)))
                | beam.io.WriteToText(str(tmp_path / "out" / "examples"))
            )
        files = {p.name: p.read_text() for p in (tmp_path / "out").iterdir()}
        texts = [files.pop(n) for n in sorted(files) if n.startswith("examples")]
        examples = [json.loads(line) for text in texts for line in text.splitlines()]
        examples.sort(key=lambda example: example["id"])
        return examples, {name: json.loads(text) for name, text in files.items()}

    return spread


SETTINGS = Diversify(
    examples_per_language=60, clusters=12, max_per_domain=8, max_verb_share=0.3
)


def test_neither_order_nor_batches_change_a_byte(spread):
    given = scored(400)
    first = spread(given, SETTINGS)
    random.Random(1).shuffle(given)
    assert spread(given, SETTINGS, batch_size=400) == first


def test_what_was_done_is_told(spread):
    given = scored(400)
    examples, files = spread(given, SETTINGS)
    assert files.keys() == {"not_chosen.json", "diversity.json", "map.json"}
    kept = collections.Counter(s.candidate.document.language for s in given)
    for language in ("sw", "fi"):
        mine = [e for e in examples if e["output_language"] == language]
        told = files["diversity.json"][language]
        assert len(mine) == told["chosen"] <= told["asked"] == 60
        assert told["available"] == kept[language]
        lost = sum(n for _, code, n in files["not_chosen.json"] if code == language)
        assert len(mine) + lost == kept[language]
        domains = collections.Counter(e["domain"] for e in mine)
        assert max(domains.values()) <= 8
        sizes = collections.Counter(e["cluster"] for e in mine)
        assert told["after"]["clusters"] == len(sizes) <= told["clusters"]
        texts = [e["instruction"] for e in mine]
        found = diversify.variety(texts)
        assert {name: told["after"][name] for name in found} == found
        roots = collections.Counter(verbs.root(text)[0] for text in texts)
        assert max(roots.values()) <= 0.3 * len(mine)
        assert told["before"]["top_verb_share"] > 0.3
    assert files["diversity.json"]["sw"]["shortfall"] is None
    reasons = {reason for reason, _, _ in files["not_chosen.json"]}
    assert reasons == {"over_quota", "domain_cap", "verb_cap"}


def test_a_cluster_of_an_example_is_its_topic(spread):
    settings = dataclasses.replace(SETTINGS, examples_per_language=400, clusters=0)
    examples, _ = spread(scored(300), settings)
    clusters = {}
    for example in examples:
        if example["output_language"] == "sw":
            topic = verbs_free(example["instruction"])
            clusters.setdefault(example["cluster"], set()).add(topic)
    topics = set.union(*clusters.values())
    assert len(clusters) > 8
    # Fewer clusters than topics: some share one, and none is torn apart.
    assert sum(map(len, clusters.values())) <= len(topics) + 3


def test_the_map_shows_some_of_each_language_where_they_belong(spread, monkeypatch):
    monkeypatch.setattr(diversify, "_SHOWN", 40)
    given = scored(400)
    examples, files = spread(given, SETTINGS)
    points = files["map.json"]["points"]
    languages = collections.Counter(point["language"] for point in points)
    assert languages == {"sw": 40, "fi": 40}
    ids = {example["instruction"]: example for example in examples}
    assert {point["chosen"] for point in points} == {True, False}
    for point in points:
        assert 0 <= point["x"] <= 1
        assert 0 <= point["y"] <= 1
        if point["chosen"]:
            assert point["instruction"] in ids
    # Points of one topic lie nearer to each other than to others.
    places = np.array([[point["x"], point["y"]] for point in points])
    topics = np.array([verbs_free(point["instruction"]) for point in points])
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    same = topics[:, None] == topics
    np.fill_diagonal(same, False)
    assert apart[same].mean() < 0.5 * apart[topics[:, None] != topics].mean()


@pytest.mark.parametrize("number", [0, 1, 4, 5, 40])
def test_a_plane_has_a_place_for_each_also_for_few_or_equal_ones(number):
    draw = np.random.default_rng(0)
    for vectors in (draw.normal(size=(number, 9)), np.ones((number, 9))):
        found = diversify.plane(list(vectors.astype(np.float16)), seed=0)
        assert len(found) == number
        assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in found)


# Splits.
