"""Each corruption does what its name says, whatever the seed lacks."""

import collections
import dataclasses

import pytest

from beam_pipelines.instructions import is_ill_posed
from tests.conftest import REPOSITORY
from xinst_jax import judge, prompts, ratings, seed

SEED = seed.read([str(REPOSITORY / "examples" / "seed" / "*.jsonl")])[::3]
# What a generator wrote for every other text: at times just what a person did.
GENERATED = {
    ratings.source_of(pair): pair.instruction
    if number % 3 == 0
    else f"Describe this {pair.topic} thing, number {number}."
    for number, pair in enumerate(SEED)
    if number % 2 == 0
}


@pytest.fixture(scope="module")
def rows():
    return ratings.rating_rows(SEED, 2, 0, GENERATED)


@pytest.fixture(scope="module")
def spoilt(rows):
    """By corruption: the rows, each with the pair that it was made of."""
    sources = {ratings.source_of(pair): pair for pair in SEED}
    found = collections.defaultdict(list)
    for row in rows:
        found[row.corruption].append((row, sources[row.source]))
    return found


def test_the_levels_are_equal_thirds_and_the_choice_is_the_seed_s(rows):
    labels = collections.Counter(row.label for row in rows)
    assert labels == dict.fromkeys(prompts.RATINGS, 2 * len(SEED))
    assert [prompts.RATINGS[row.level] for row in rows] == [row.label for row in rows]
    assert rows == ratings.rating_rows(SEED, 2, 0, GENERATED)
    assert rows != ratings.rating_rows(SEED, 2, 1, GENERATED)


def test_every_corruption_occurs_and_spoils_something(spoilt):
    assert set(spoilt) == {
        "none", "truncated", "half_of_another", "generic", "english_inside",
        "generated", "random_instruction", "same_topic", "generated_for_another",
        "wrong_language", "boilerplate", "ill_posed",
    }  # fmt: skip
    for name, made in spoilt.items():
        assert name == "none" or len(made) > len(SEED) / 40
        for row, pair in made:
            same = (row.instruction, row.response) == (pair.instruction, pair.response)
            assert same == (name == "none") == (row.level == 0)
            assert row.language == pair.language


def test_only_one_side_is_spoilt(spoilt):
    response = {"truncated", "half_of_another", "english_inside", "boilerplate"}
    for name, made in spoilt.items():
        for row, pair in made:
            if name in response | {"wrong_language"}:
                assert row.instruction == pair.instruction
            else:
                assert row.response == pair.response


def test_a_truncated_response_is_a_beginning_that_does_not_end_well(spoilt):
    for row, pair in spoilt["truncated"]:
        assert pair.response.startswith(row.response)
        assert 0 < len(row.response) <= len(pair.response) / 2
        assert row.response[-1] not in ".।۔ "


def test_half_of_another_has_both_halves(spoilt):
    ends = collections.defaultdict(set)
    for pair in SEED:
        ends[pair.language].add(pair.response[len(pair.response) // 2 :])
    for row, pair in spoilt["half_of_another"]:
        middle = len(pair.response) // 2
        assert row.response[:middle] == pair.response[:middle]
        assert row.response[middle:] in ends[pair.language]
        assert row.response[middle:] != pair.response[middle:]


def test_english_stands_inside_a_response_that_goes_on(spoilt):
    english = {pair.instruction for pair in SEED}
    for row, pair in spoilt["english_inside"]:
        assert row.response[:20] == pair.response[:20]
        assert row.response[-20:] == pair.response[-20:]
        assert sum(each in row.response for each in english) >= 1


def test_a_generic_instruction_says_nothing_of_the_topic(spoilt):
    for row, pair in spoilt["generic"]:
        assert row.instruction in ratings.GENERIC
        assert pair.topic not in row.instruction


def test_a_generator_s_instruction_is_worse_only_where_its_words_differ(spoilt):
    for row, pair in spoilt["generated"]:
        assert row.instruction == GENERATED[row.source] != pair.instruction
    alike = {ratings.source_of(p): p.instruction.upper() + "!" for p in SEED}
    made = ratings.rating_rows(SEED, 1, 0, alike)
    assert "generated" not in {row.corruption for row in made}
    # Of another topic's text they are worst all the same.
    assert "generated_for_another" in {row.corruption for row in made}


def test_another_s_instruction_is_of_the_topic_that_is_said(spoilt):
    topics, languages = {}, collections.defaultdict(set)
    for pair in SEED:
        topics[pair.instruction] = pair.topic
        languages[pair.instruction].add(pair.language)
    for row, pair in spoilt["same_topic"]:
        assert topics[row.instruction] == pair.topic
        assert row.instruction != pair.instruction
        assert pair.language in languages[row.instruction]
    for row, pair in spoilt["random_instruction"]:
        assert topics[row.instruction] != pair.topic
        assert pair.language in languages[row.instruction]
    written = collections.defaultdict(set)
    for pair in SEED:
        written[GENERATED.get(ratings.source_of(pair))].add(pair.topic)
    for row, pair in spoilt["generated_for_another"]:
        assert written[row.instruction] - {pair.topic}


def test_a_response_in_the_wrong_language_is_of_the_topic(spoilt):
    pairs = {pair.response: pair for pair in SEED}
    for row, pair in spoilt["wrong_language"]:
        assert pairs[row.response].language != row.language == pair.language
        assert pairs[row.response].topic == pair.topic


def test_a_menu_is_made_of_first_words(spoilt):
    for row, pair in spoilt["boilerplate"]:
        entries = row.response.split(" | ")
        assert 8 <= len(entries) <= 14
        assert all(len(each) <= 24 for each in entries)
        starts = [p.response[:24] for p in SEED if p.language == pair.language]
        assert all(any(s.startswith(e) for s in starts) for e in entries)


def test_an_ill_posed_instruction_is_what_the_rule_rejects(spoilt):
    found = {row.instruction for row, _ in spoilt["ill_posed"]}
    assert len(found) == 9
    assert all(map(is_ill_posed, found))


def kept(pairs, **changes):
    return [dataclasses.replace(pair, **changes) for pair in pairs]


FINNISH = [pair for pair in SEED if pair.language == "fi"]
SMALL_SEEDS = {
    "one pair": SEED[:1],
    "two pairs": SEED[:2],
    "one instruction": kept(SEED[:3], instruction="Say it."),
    "one topic": [pair for pair in SEED if pair.topic == SEED[0].topic],
    "one language": FINNISH,
    "no topics": kept(SEED[::4], topic=""),
    "one language, no topics": kept(FINNISH, topic=""),
    "a letter": kept(SEED[:40], response="a"),
}


@pytest.mark.parametrize("name", SMALL_SEEDS)
def test_a_seed_that_lacks_something_is_spoilt_in_the_ways_that_are_left(name):
    pairs = SMALL_SEEDS[name]
    instructions = {ratings.source_of(p): p.instruction for p in pairs}
    responses = {ratings.source_of(p): p.response for p in pairs}
    made = ratings.rating_rows(pairs, 8, 0)
    labels = collections.Counter(row.label for row in made)
    assert labels == dict.fromkeys(prompts.RATINGS, 8 * len(pairs))
    good = {(p.instruction, p.response) for p in pairs}
    for row in made:
        assert row.response
        own = (instructions[row.source], responses[row.source])
        if name != "one instruction":
            assert ((row.instruction, row.response) == own) == (row.level == 0)
        if row.level and name != "a letter":
            assert (row.instruction, row.response) not in good, row.corruption
        if row.corruption in ("random_instruction", "same_topic"):
            assert row.instruction != instructions[row.source]
    names = {row.corruption for row in made}
    if len({pair.language for pair in pairs}) == 1:
        assert "wrong_language" not in names
    if not any(pair.topic for pair in pairs):
        assert "same_topic" not in names


def test_without_topics_another_language_is_wrong_still():
    pairs = SMALL_SEEDS["no topics"]
    language = {pair.response: pair.language for pair in pairs}
    made = ratings.rating_rows(pairs, 4, 0)
    wrong = [row for row in made if row.corruption == "wrong_language"]
    assert wrong
    assert all(language[row.response] != row.language for row in wrong)
    # And what should be of the same language is.
    own = {(p.language, p.instruction) for p in pairs}
    for row in made:
        if row.corruption == "random_instruction":
            assert (row.language, row.instruction) in own


def test_rows_of_one_pair_have_one_source_however_it_was_changed(rows):
    by_source = collections.defaultdict(set)
    for row in rows:
        by_source[row.source].add(row.corruption)
    assert len(by_source) == len(SEED)
    assert all("none" in names and len(names) >= 3 for names in by_source.values())
    thin = seed.thinned(SEED[:20], 0.5, 3, 0)
    assert len({ratings.source_of(p) for p in thin}) == 20
    one = SEED[0]
    other = dataclasses.replace(one, language="fi" if one.language != "fi" else "sw")
    assert ratings.source_of(one) != ratings.source_of(other)


def test_the_evaluator_is_trained_with_what_it_is_asked(rows):
    for row, (prompt, target) in zip(
        rows[:60], ratings.rating_pairs(rows[:60], 80), strict=True
    ):
        assert prompt == judge.rating_prompt(row, 80)
        assert target == row.label
        if row.corruption == "truncated":
            # The end is shown: it tells.
            assert row.response[-20:] in prompt
