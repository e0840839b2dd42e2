"""Quotas and caps: who may be chosen, whoever then is."""

import collections
import dataclasses
import itertools
import math
import random

import pytest

from beam_pipelines import quotas
from beam_pipelines.recipe import Diversify


def entries(number: int, seed: int = 0) -> list[quotas.Entry]:
    """Of 12 clusters; one domain and one verb are much more frequent than others."""
    draw = random.Random(seed)
    return [
        quotas.Entry(
            key=f"{draw.getrandbits(128):032x}",
            cluster=min(int(draw.expovariate(0.4)), 11),
            score=draw.randrange(1000) / 1000,
            domain=f"{min(int(draw.expovariate(0.1)), 40)}.example",
            verb=draw.choice(["explain"] * 5 + ["", "list", "name", "write", "find"]),
        )
        for _ in range(number)
    ]


def planned(
    given: list[quotas.Entry], settings: Diversify
) -> tuple[dict[str, quotas.Place], dict]:
    plan = quotas.plan(given, settings)
    return dict(plan.places), plan.summary


@pytest.mark.parametrize("seed", range(20))
def test_quotas_take_all_that_may_be_taken_and_no_more(seed):
    draw = random.Random(seed)
    sizes = {label: draw.randint(1, 40) for label in range(draw.randint(1, 12))}
    total = draw.randint(1, 200)
    taken = quotas.quotas(sizes, total)
    assert sum(taken.values()) == min(total, sum(sizes.values()))
    assert all(0 <= taken[label] <= size for label, size in sizes.items())
    # A larger topic never gets less than a smaller one.
    ordered = sorted(sizes, key=lambda label: sizes[label])
    assert all(
        taken[small] <= taken[large] + 1 for small, large in itertools.pairwise(ordered)
    )


def test_quotas_favour_small_topics():
    taken = quotas.quotas({0: 900, 1: 100}, 100)
    assert taken[1] == pytest.approx(25, abs=1)  # √100 / (√100 + √900)


# The number of topics, and the sample that they are found from.


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("asked", [1, 40, 150, 400, 5000])
def test_caps_hold_whoever_of_those_looked_at_is_chosen(seed, asked):
    settings = Diversify(examples_per_language=asked, max_per_domain=9)
    given = entries(900, seed)
    places, summary = planned(given, settings)
    by_key = {entry.key: entry for entry in given}
    assert places.keys() == by_key.keys()
    looked_at = [by_key[key] for key, place in places.items() if not place.reason]
    domains = collections.Counter(entry.domain for entry in looked_at)
    assert max(domains.values()) <= 9
    may = collections.Counter(entry.domain for entry in given)
    assert summary["chosen"] == min(asked, sum(min(9, n) for n in may.values()))
    quota = {place.cluster: place.quota for place in places.values()}
    assert sum(quota.values()) == summary["chosen"]
    # Each topic has enough to look at, and not many more.
    sizes = collections.Counter(entry.cluster for entry in looked_at)
    assert all(quota[at] <= sizes[at] <= 2 * quota[at] for at in sizes)
    assert {at for at, number in quota.items() if number} == set(sizes)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("asked", [8, 40, 150, 400, 800])
def test_a_verb_has_more_than_its_share_only_where_there_is_no_other(seed, asked):
    settings = Diversify(
        examples_per_language=asked, max_per_domain=900, max_verb_share=0.2
    )
    given = entries(900, seed)
    places, summary = planned(given, settings)
    verb_of = {entry.key: entry.verb for entry in given}
    eligible = collections.Counter(
        verb_of[key]
        for key, place in places.items()
        if place.reason in ("", "over_quota")
    )
    share = math.floor(0.2 * asked)
    all_of = collections.Counter(verb_of.values())
    others = sum(n if not v else min(n, share) for v, n in all_of.items())
    assert eligible.total() == max(asked, others)
    if others >= asked:
        assert eligible["explain"] == share < all_of["explain"]
    else:
        assert eligible["explain"] > share
    assert eligible[""] == all_of[""]
    assert summary["chosen"] == asked


def test_of_a_domain_the_best_may_be_chosen():
    settings = Diversify(examples_per_language=900, max_per_domain=4)
    given = entries(900)
    places, summary = planned(given, settings)
    for domain in {entry.domain for entry in given}:
        ranked = sorted(
            (e for e in given if e.domain == domain), key=lambda e: (-e.score, e.key)
        )
        for rank, entry in enumerate(ranked):
            assert (places[entry.key].reason == "domain_cap") == (rank >= 4)
    dropped = 900 - summary["chosen"]
    assert summary["shortfall"] == (
        f"of 900 candidates that were kept, {dropped} are beyond 4 of their domain"
    )


def test_a_shortfall_is_told_and_nothing_is_told_without_one():
    given = entries(50)
    settings = Diversify(examples_per_language=50)
    assert planned(given, settings)[1]["shortfall"] is None
    more = dataclasses.replace(settings, examples_per_language=51)
    assert planned(given, more)[1]["shortfall"] == "only 50 candidates were kept"


def test_a_summary_compares_with_the_best_scores_alone():
    given = entries(900)
    settings = Diversify(examples_per_language=100, max_verb_share=1.0)
    places, summary = planned(given, settings)
    best = sorted(given, key=lambda e: (-e.score, e.key))[:100]
    assert {e.key for e in best} == {k for k, place in places.items() if place.by_score}
    sizes = collections.Counter(entry.cluster for entry in best)
    entropy = -sum(n / 100 * math.log(n / 100) for n in sizes.values())
    assert summary["before"] == {
        "clusters": len(sizes),
        "entropy": pytest.approx(entropy, abs=1e-4),
    }
    assert summary["after"]["clusters"] == summary["clusters"] == 12
    assert summary["after"]["entropy"] > summary["before"]["entropy"]


def test_the_order_of_entries_changes_nothing():
    # Few different scores: the key decides.
    given = [
        dataclasses.replace(entry, score=round(entry.score, 1))
        for entry in entries(900)
    ]
    settings = Diversify(examples_per_language=120, max_per_domain=7)
    first = planned(given, settings)
    random.Random(1).shuffle(given)
    assert planned(given, settings) == first
