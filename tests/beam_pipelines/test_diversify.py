import itertools
import random

import numpy as np
import pytest

from beam_pipelines import diversify
from beam_pipelines.recipe import Diversify


def items(groups: dict[int, int], noise: float = 0.05) -> list[diversify.Item]:
    """Unit vectors around orthogonal topics; the scores fall with the number."""
    draw = np.random.default_rng(0)
    made = []
    for topic, size in groups.items():
        for number in range(size):
            vector = np.eye(16)[topic] + noise * draw.normal(size=16)
            made.append(
                diversify.Item(
                    key=f"{topic}-{number:03}",
                    score=1 - number / 1000,
                    vector=vector.astype(np.float32),
                )
            )
    return made


@pytest.mark.parametrize("seed", range(20))
def test_quotas_take_all_that_may_be_taken_and_no_more(seed):
    draw = random.Random(seed)
    sizes = {label: draw.randint(1, 40) for label in range(draw.randint(1, 12))}
    total = draw.randint(1, 200)
    taken = diversify.quotas(sizes, total)
    assert sum(taken.values()) == min(total, sum(sizes.values()))
    assert all(0 <= taken[label] <= size for label, size in sizes.items())
    # A larger topic never gets less than a smaller one.
    ordered = sorted(sizes, key=lambda label: sizes[label])
    assert all(
        taken[small] <= taken[large] + 1 for small, large in itertools.pairwise(ordered)
    )


def test_quotas_favour_small_topics():
    taken = diversify.quotas({0: 900, 1: 100}, 100)
    assert taken[1] == pytest.approx(25, abs=1)  # √100 / (√100 + √900)


def test_choosing_depends_neither_on_order_nor_on_neighbours_left_out():
    settings = Diversify(examples_per_language=30, clusters=4)
    made = items({0: 50, 1: 20, 2: 10, 3: 10})
    first = diversify.choose(made, settings, seed=3)
    random.Random(1).shuffle(made)
    assert diversify.choose(made, settings, seed=3) == first
    assert len(first) == 30


def test_within_a_topic_the_best_scores_come_first():
    settings = Diversify(examples_per_language=8, clusters=1)
    chosen = diversify.choose(items({0: 40}), settings, seed=0)
    assert set(chosen) == {f"0-{number:03}" for number in range(8)}


def test_topics_are_found_and_all_are_represented():
    made = items({0: 60, 5: 6, 9: 6})
    chosen = diversify.choose(made, Diversify(examples_per_language=9, clusters=3), 1)
    by_topic: dict[str, set[int]] = {}
    for key, cluster in chosen.items():
        by_topic.setdefault(key[0], set()).add(cluster)
    assert set(by_topic) == {"0", "5", "9"}
    assert all(len(clusters) == 1 for clusters in by_topic.values())
    assert len(set.union(*by_topic.values())) == 3


def test_one_item_is_a_topic():
    assert diversify.choose(items({0: 1}), Diversify(), 0) == {"0-000": 0}


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 0.45])
@pytest.mark.parametrize("num_domains", [3, 4, 200])
def test_no_promised_split_is_empty(share, num_domains):
    domains = [f"site{number}.example" for number in range(num_domains)]
    settings = Diversify(validation=share, test=share)
    pins = _pins(domains)
    splits = [diversify.split_of(domain, settings, pins) for domain in domains]
    promised = {"train"} if share == 0 else {"train", "validation", "test"}
    assert set(splits) == promised


def test_shares_of_many_domains_are_as_asked():
    domains = [f"site{number}.example" for number in range(5000)]
    settings = Diversify(validation=0.1, test=0.2)
    pins = _pins(domains)
    splits = [diversify.split_of(domain, settings, pins) for domain in domains]
    assert splits.count("validation") / 5000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 5000 == pytest.approx(0.2, abs=0.02)


def test_too_few_domains_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"1 registered domain.*3 splits.*to 0"):
        diversify.enough_domains(_pins(["a.example"]), Diversify())
    with pytest.raises(ValueError, match="No pair was kept"):
        diversify.enough_domains(diversify.Pins(), Diversify())
    alone = Diversify(validation=0, test=0)
    pins = diversify.enough_domains(_pins(["a.example"]), alone)
    assert diversify.split_of("a.example", alone, pins) == "train"


def _pins(domains: list[str]) -> diversify.Pins:
    combine = diversify._PinnedDomains()
    parts = [
        combine.add_input(combine.create_accumulator(), domain) for domain in domains
    ]
    half = len(parts) // 2
    return combine.merge_accumulators(
        [
            combine.merge_accumulators(parts[:half]),
            combine.merge_accumulators(parts[half:]),
        ]
    )
