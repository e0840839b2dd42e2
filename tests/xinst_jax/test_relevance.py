"""A code book of two languages is learnt; what is of another language is told."""

import random

import numpy as np
import pytest

from xinst_jax import judge
from xinst_jax.relevance import Relevance
from xinst_jax.seed import Pair

# Each language has letters of its own, so that n-grams tell it.
LETTERS = {"en": "bcdfgaei", "fi": "hjklmaou", "sw": "npqrsaei"}


def vocabulary(code):
    draw = random.Random(code)
    return ["".join(draw.choices(LETTERS[code], k=6)) for _ in range(60)]


WORDS = {code: vocabulary(code) for code in LETTERS}


def made(count, seed, topics=True):
    """Pairs whose response says the instruction's words in its own language."""
    draw = random.Random(seed)
    pairs = []
    for number in range(count):
        language, topic = ("fi", "sw")[number % 2], draw.randrange(6)
        meant = draw.sample(range(10 * topic, 10 * topic + 10), 4)
        said = [WORDS[language][m] for m in meant] * 2
        draw.shuffle(said)
        pairs.append(
            Pair(
                instruction=f"Say {' '.join(WORDS['en'][m] for m in meant)}.",
                response=" ".join(said),
                language=language,
                topic=f"t{topic}" if topics else "",
            )
        )
    return pairs


@pytest.fixture(scope="module")
def relevance():
    return Relevance.train(made(240, 0), 0, steps=80)


def sides(pairs):
    return [p.instruction for p in pairs], [p.response for p in pairs]


def told_apart(relevance, pairs):
    """AUC of true pairs against shuffled ones of the same language, as a whole."""
    instructions, responses = sides(pairs)
    # By two: the languages take turns.
    shuffled = responses[2:] + responses[:2]
    own = relevance.similarity(instructions, responses)[:, 0]
    return judge.auc(own, relevance.similarity(instructions, shuffled)[:, 0])


def test_what_belongs_together_is_nearer_also_where_it_was_never_seen(relevance):
    assert told_apart(relevance, made(120, 1)) > 0.9
    untaught = Relevance.train(made(240, 0), 0, steps=0)
    assert told_apart(untaught, made(120, 1)) < 0.7


def test_it_is_learnt_without_topics_too():
    learnt = Relevance.train(made(240, 0, topics=False), 0, steps=80)
    assert told_apart(learnt, made(120, 1)) > 0.9


def test_a_language_of_few_pairs_takes_nothing_from_the_others():
    pairs = made(240, 0)
    rare = [p for p in pairs if p.language == "fi"] + [
        p for p in pairs if p.language == "sw"
    ][:1]
    learnt = Relevance.train(rare, 0, steps=80)
    held = [p for p in made(240, 1) if p.language == "fi"]
    assert told_apart(learnt, held) > 0.9


def test_a_foreign_half_is_farther_than_the_whole(relevance):
    pairs = made(120, 1)
    instructions, responses = sides(pairs)
    others = responses[2:] + responses[:2]
    mixed = [
        a[: len(a) // 2] + b[len(b) // 2 :]
        for a, b in zip(responses, others, strict=True)
    ]
    whole = relevance.similarity(instructions, responses)
    spoilt = relevance.similarity(instructions, mixed)
    assert (whole <= 1.0001).all() and (whole >= -1.0001).all()
    by_half, by_all = (judge.auc(whole[:, at], spoilt[:, at]) for at in (1, 0))
    assert by_half > 0.85
    assert (spoilt[:, 1] < spoilt[:, 0]).mean() > 0.9
    assert by_all > 0.5


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        Relevance.train(made(20, 0), seed, steps=3).save(tmp_path / name)
    found = {f.parent.name: f.read_bytes() for f in tmp_path.glob("*/*")}
    assert found["a"] == found["b"] != found["c"]


def test_what_is_saved_is_what_is_loaded(relevance, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"relevance\.safetensors is missing"):
        Relevance.load(tmp_path)
    relevance.save(tmp_path)
    loaded, pairs = Relevance.load(tmp_path), made(10, 2)
    instructions, responses = sides(pairs)
    assert np.array_equal(
        loaded.similarity(instructions, responses),
        relevance.similarity(instructions, responses),
    )
    languages = [p.language for p in pairs]
    assert np.array_equal(
        loaded.purity(responses, languages), relevance.purity(responses, languages)
    )


def test_a_batch_changes_nothing(relevance):
    instructions, responses = sides(made(9, 3))
    whole = relevance.similarity(instructions, responses)
    for at in range(9):
        [alone] = relevance.similarity([instructions[at]], [responses[at]])
        assert np.array_equal(alone, whole[at])
    assert relevance.similarity([], []).shape == (0, 2)
    assert relevance.purity([], []).shape == (0,)


@pytest.mark.parametrize("empty", ["", " ", "\n \u3000" * 9])
def test_of_an_empty_text_nothing_is_said(relevance, empty):
    word = WORDS["fi"][0]
    found = relevance.similarity([empty, word, empty], [word, empty, empty])
    assert (found == 0).all()
    assert relevance.purity([empty], ["fi"]) == [0]


def test_a_text_is_of_its_language_from_beginning_to_end(relevance):
    draw = random.Random(5)

    def text(*codes):
        return " ".join(w for code in codes for w in draw.choices(WORDS[code], k=8))

    for own, other in (("fi", "sw"), ("sw", "fi")):
        pure = [text(own, own, own, own) for _ in range(20)]
        assert (relevance.purity(pure, [own] * 20) > 0).all()
        assert (relevance.purity(pure, [other] * 20) < 0).all()
        for foreign in (other, "en"):
            for at in range(4):
                parts = [own] * 4
                parts[at] = foreign
                found = relevance.purity([text(*parts) for _ in range(5)], [own] * 5)
                assert (found < 0).all(), (own, foreign, at)


def test_a_blank_part_spoils_nothing(relevance):
    words = " ".join(WORDS["fi"][:8])
    [found] = relevance.purity([words + " " * 3 * len(words)], ["fi"])
    assert found > 0


@pytest.mark.parametrize(
    "text", ["\ud800", "maji \udfff\ud800 moto", "\x00", "🍎" * 700]
)
def test_no_text_is_too_strange(relevance, text):
    assert np.isfinite(relevance.similarity([text], [text])).all()
    assert np.isfinite(relevance.purity([text], ["sw"])).all()
    pair = Pair(instruction=text, response=text, language="sw")
    Relevance.train([pair, *made(3, 0)], 0, steps=1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_seed_is_learnt_from(count):
    learnt = Relevance.train(made(count, 0), 0, steps=2)
    found = learnt.similarity(*sides(made(4, 1)))
    assert np.isfinite(found).all()
