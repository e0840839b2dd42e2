"""Probabilities that can be trusted, and a judge that asks for what it needs."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from xinst_jax import judge, prompts
from xinst_jax.engine import Engine
from xinst_jax.judge import Calibration, Judge
from xinst_jax.relevance import Relevance
from xinst_jax.seed import Pair

NAMES = ("signal", "noise")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(seed, count=6000):
    """Values of two kinds, the probabilities that they mean, and levels drawn so."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, 2))
    # The middle level has its own hump, which needs the squares.
    signal = values[:, 0]
    logits = np.stack([2 * signal, 1 - signal**2, -2 * signal], axis=1)
    probabilities = softmax(logits)
    chosen = draw.random((count, 1)) > probabilities.cumsum(axis=1)
    return values, probabilities, chosen.sum(axis=1).clip(max=2)


@pytest.fixture(scope="module")
def fitted():
    values, _, levels = drawn(0)
    return Calibration.fit(NAMES, values, levels)


def test_a_calibration_finds_the_probabilities_that_labels_were_drawn_with(fitted):
    values, truth, levels = drawn(1)
    found = fitted(values)
    assert found.sum(axis=1) == pytest.approx(1)
    assert np.abs(found - truth).mean() < 0.02
    assert np.abs(truth.mean(axis=0) - truth).mean() > 0.2
    assert judge.figures(found, levels, ["none"] * len(levels))["ece"] < 0.03


def test_a_calibration_does_not_depend_on_the_units_of_its_values(fitted):
    values, _, levels = drawn(0)
    scale, offset = np.array([1e-3, 4e4]), np.array([-7.0, 1e3])
    other = Calibration.fit(NAMES, values * scale + offset, levels)
    assert np.allclose(other(values * scale + offset), fitted(values), atol=1e-3)


def test_more_of_what_good_rows_have_is_never_less_probable(fitted):
    grid = np.stack([np.linspace(-9, 9, 61), np.zeros(61)], axis=1)
    found = fitted(grid)
    assert (np.diff(found[:, 0]) > -1e-3).all()
    assert (np.diff(found[:, 2]) < 1e-3).all()
    assert found[0, 0] < 0.05 < 0.95 < found[-1, 0]


def test_a_value_beyond_all_that_was_seen_is_no_surer(fitted):
    far, farther = fitted(np.array([[20.0, 0.0], [1e9, 0.0]]))
    assert (far == farther).all()
    assert np.isfinite(far).all()


def test_a_value_that_never_varied_decides_nothing():
    values, _, levels = drawn(0)
    values[:, 1] = 4.0
    fitted = Calibration.fit(NAMES, values, levels)
    same, other = fitted(np.array([[0.5, 4.0], [0.5, 4.1]]))
    assert same == pytest.approx(other, abs=1e-6)


def test_what_was_not_measured_is_not_rated(fitted):
    values, _, _ = drawn(1, 3)
    whole = fitted(values)
    values[1, 1] = np.nan
    found = fitted(values)
    assert np.isnan(found[1]).all()
    assert (found[[0, 2]] == whole[[0, 2]]).all()


def test_a_calibration_is_the_same_after_a_round_trip(fitted):
    values, _, _ = drawn(2, 100)
    read = Calibration.from_json(fitted.as_json())
    assert read.names == NAMES
    assert (read(values) == fitted(values)).all()
    assert read.as_json() == fitted.as_json()


def test_a_damaged_calibration_is_named(fitted):
    text = fitted.as_json()
    whole = json.loads(text)
    broken = [text[:at] for at in range(0, len(text), 40)]
    broken += ["null", "[]", "3", '"names"']
    for key in whole:
        broken.append(json.dumps({k: v for k, v in whole.items() if k != key}))
        for value in (None, "x", 7, [1.0], [[1.0], [1.0, 2.0], []], {"a": 1}):
            broken.append(json.dumps(whole | {key: value}))
    for each in broken:
        with pytest.raises(ValueError, match=r"calibration\.json is damaged"):
            Calibration.from_json(each)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    draw = np.random.default_rng(0)
    for many, few in ((40, 7), (1, 1), (3, 90)):
        # Of few values, so that many are the same.
        good, bad = draw.integers(0, 6, many) / 5, draw.integers(0, 5, few) / 5
        pairs = list(itertools.product(good, bad))
        right = sum((a > b) + (a == b) / 2 for a, b in pairs)
        assert judge.auc(good, bad) == pytest.approx(right / len(pairs))
    assert math.isnan(judge.auc(good, bad[:0]))
    assert math.isnan(judge.auc(good[:0], bad))


def binned(offset):
    """In each bin of p_best 200 rows, of which that share is good, and an offset."""
    rows = [
        (middle + offset, number >= round(200 * middle))
        for middle in np.arange(0.05, 1, 0.1).round(2)
        for number in range(200)
    ]
    best = np.array([probability for probability, _ in rows])
    levels = np.array([int(bad) for _, bad in rows])
    return np.stack([best, 0.6 * (1 - best), 0.4 * (1 - best)], axis=1), levels


@pytest.mark.parametrize("offset", [0.0, 0.03, -0.04])
def test_the_calibration_error_is_the_offset_from_what_is_true(offset):
    probabilities, levels = binned(offset)
    found = judge.figures(probabilities, levels, ["x"] * len(levels))
    assert found["ece"] == pytest.approx(abs(offset), abs=1e-9)
    assert sum(each["count"] for each in found["reliability"]) == len(levels)
    for each in found["reliability"]:
        assert each["low"] <= each["mean"] <= each["high"]
        assert each["share"] == pytest.approx(each["mean"] - offset)


def test_certainty_has_a_bin_too():
    probabilities = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = judge.figures(probabilities, np.array([0, 1, 2]), ["none", "a", "b"])
    assert [each["count"] for each in found["reliability"]] == [2, 1]
    assert (found["ece"], found["accuracy"], found["auc"]) == (0, 1, 1)


def test_figures_by_corruption_are_of_its_rows_alone():
    probabilities = np.array(
        [
            [0.8, 0.1, 0.1],
            [0.4, 0.5, 0.1],
            [0.1, 0.8, 0.1],
            [0.5, 0.3, 0.2],
            [0.1, 0.1, 0.8],
            [0.9, 0.0, 0.1],
        ]
    )
    levels = np.array([0, 0, 1, 1, 2, 2])
    names = ["none", "none", "cut", "cut", "cut", "menu"]
    found = judge.figures(probabilities, levels, names)
    assert found["rows"] == 6
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["recall"] == pytest.approx({"none": 0.5, "cut": 2 / 3, "menu": 0.0})
    # Of the six pairs of a good row and a cut one, five are in the right order.
    assert found["auc_by_corruption"] == pytest.approx({"cut": 5 / 6, "menu": 0.0})
    assert found["auc"] == pytest.approx(5 / 8)


def sourced():
    """Rows whose values name their source, and nothing else tells their level."""
    sources = [f"s{number}" for number in range(10) for _ in range(20)]
    levels = np.array([number % 3 for number in range(10) for _ in range(20)])
    values = np.repeat(np.eye(10), 20, axis=0)
    return [f"f{number}" for number in range(10)], values, levels, sources


def test_no_row_is_judged_by_a_calibration_that_saw_its_source():
    names, values, levels, sources = sourced()
    known = Calibration.fit(names, values, levels)(values)
    assert (known.argmax(axis=1) == levels).mean() == 1
    found = judge.cross_fitted(names, values, levels, sources)
    assert np.isfinite(found).all()
    assert (found.argmax(axis=1) == levels).mean() < 0.5
    for source in ("s0", "s4", "s9"):
        own = np.array(sources) == source
        other = judge.cross_fitted(
            names, values, np.where(own, (levels + 1) % 3, levels), sources
        )
        assert (other[own] == found[own]).all()
        assert (other != found).any()


def test_cross_fitting_does_not_cost_what_is_true():
    values, truth, levels = drawn(3, 3000)
    sources = [f"{number % 150}" for number in range(3000)]
    found = judge.cross_fitted(NAMES, values, levels, sources)
    assert np.abs(found - truth).mean() < 0.03


def test_figures_are_rounded_wherever_they_are():
    given = {"a": 0.123456, "b": [{"c": 1 / 3, "d": 5}], "e": "0.123456"}
    wanted = {"a": 0.1235, "b": [{"c": 0.3333, "d": 5}], "e": "0.123456"}
    assert judge.rounded(given) == wanted


class FakeEngine(Engine):
    """A target is 3 nats likelier where prompt and target share an apple.

    What is too long for it holds LONG.
    """

    def __init__(self):
        self.asked = {"score": 0, "loglikelihood": 0}

    def score(self, prompts, labels):
        self.asked["score"] += len(prompts)
        rows = [[-1.0 - len(p) / 1000, -2.0, -4.0] for p in prompts]
        return np.array(
            [
                [np.nan] * 3 if "LONG" in prompt else row
                for prompt, row in zip(prompts, rows, strict=True)
            ],
            np.float32,
        ).reshape(-1, 3)

    def loglikelihood(self, prompts, targets):
        self.asked["loglikelihood"] += len(prompts)
        found = [
            np.nan
            if "LONG" in p + t
            else 3.0 * ("apple" in p and "apple" in t) - len(t)
            for p, t in zip(prompts, targets, strict=True)
        ]
        return np.array(found, np.float32)


def pair(instruction, response, language="fi"):
    return Pair(instruction=instruction, response=response, language=language)


PAIRS = [
    pair("Tell me of an apple.", "Tässä on apple ja puu."),
    pair("Tell me of a pear.", "Tässä on apple."),
    pair("Tell me of an apple.", "Hapa kuna LONG apple.", "sw"),
    pair("Tell me of a tree.", "Mti ni mkubwa, apple ni dogo.", "sw"),
]


@pytest.fixture(scope="module")
def relevance():
    texts = [("a pear", "omena ja päärynä"), ("a tree", "suuri puu ja metsä")]
    return Relevance.train([pair(*each) for each in texts * 2], 0, steps=2)


def test_columns_are_in_the_order_of_names_whatever_the_order_asked(relevance):
    orders = [list(judge.EVIDENCE), list(judge.EVIDENCE)[::-1], set(judge.EVIDENCE)]
    judges = [Judge(FakeEngine(), order, 100, relevance) for order in orders]
    assert len({each.names for each in judges}) == 1
    values = judges[0].measure(PAIRS)
    for each in judges[1:]:
        assert np.array_equal(each.measure(PAIRS), values, equal_nan=True)
    for name, columns in judge.EVIDENCE.items():
        alone = Judge(FakeEngine(), [name], 100, relevance)
        assert alone.names[3:] == columns
        at = [judges[0].names.index(column) for column in (*alone.names,)]
        assert np.array_equal(alone.measure(PAIRS), values[:, at], equal_nan=True)


def test_evidence_is_what_each_side_tells_of_the_other(relevance):
    judging = Judge(FakeEngine(), ["forward", "backward"], 100)
    found = dict(zip(judging.names, judging.measure(PAIRS).T, strict=True))
    length = len(PAIRS[0].response)
    whole = [0, 1, 3]
    assert found["forward"][whole] == pytest.approx([300 / length, 0, 0])
    assert found["backward"][whole] == pytest.approx([3, 0, 0])
    named = Judge(FakeEngine(), ["similarity", "language"], 100, relevance)
    values = named.measure(PAIRS)
    instructions = [each.instruction for each in PAIRS]
    responses = [each.response for each in PAIRS]
    similar = relevance.similarity(instructions, responses)
    assert np.array_equal(values[:, 3:5], similar)
    assert named.names[3:5] == ("similarity", "similarity_of_half")
    pure = relevance.purity(responses, ["fi", "fi", "sw", "sw"])
    assert np.array_equal(values[:, 5], pure)


def test_evidence_that_is_switched_off_is_not_asked_for():
    for evidence, asked in (([], 0), (["forward"], 8), (["backward", "forward"], 16)):
        engine = FakeEngine()
        Judge(engine, evidence, 100).measure(PAIRS)
        assert engine.asked == {"score": 4, "loglikelihood": asked}


def test_the_rating_alone_decides_where_there_is_no_calibration():
    judging = Judge(FakeEngine(), ["backward"], 100)
    values = judging.measure(PAIRS)
    found = judging.rate(values)
    assert found[[0, 1, 3]].sum(axis=1) == pytest.approx(1)
    # As the engine's own log-probabilities are to one another.
    assert np.log(found[0, 1] / found[0, 2]) == pytest.approx(2)
    assert np.isnan(found[2]).all()
    assert np.isnan(values[2]).all()


def test_a_calibration_decides_where_there_is_one_and_what_is_too_long_stays_so():
    names = Judge(FakeEngine(), ["forward", "backward"], 100).names
    draw = np.random.default_rng(0)
    values = draw.normal(size=(600, 5))
    # Good is what the response makes likelier, whatever the rating says.
    levels = np.where(values[:, 4] > 0, 0, draw.integers(1, 3, 600))
    fitted = Calibration.fit(names, values, levels)
    judging = Judge(FakeEngine(), ["backward", "forward"], 100, calibration=fitted)
    found = judging.rate(judging.measure(PAIRS))
    assert found[0, 0] > 0.9 > 0.6 > found[1, 0]
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 1, 3]]).all()


def test_pairs_come_with_their_probabilities_and_evidence():
    judging = Judge(FakeEngine(), ["forward"], 100)
    values = judging.measure(PAIRS)
    judged = judging.judge(PAIRS)
    for (levels, evidence), row in zip(judged, values, strict=True):
        assert tuple(evidence) == judging.names
        assert np.array_equal([*evidence.values()], row, equal_nan=True)
        assert np.array_equal(levels, judging.rate(row[None])[0], equal_nan=True)
    assert judging.judge([]) == []


def test_a_calibration_on_other_evidence_is_refused():
    values, _, levels = drawn(0, 50)
    names = Judge(FakeEngine(), ["backward"], 100).names
    wide = np.concatenate([values, values], axis=1)
    fitted = Calibration.fit(names, wide, levels)
    Judge(FakeEngine(), ["backward"], 100, calibration=fitted)
    for evidence in ([], ["forward"], ["backward", "forward"]):
        with pytest.raises(ValueError, match=r"calibrated on .*backward"):
            Judge(FakeEngine(), evidence, 100, calibration=fitted)


def test_what_lies_beside_a_checkpoint_is_read(tmp_path, relevance):
    with pytest.raises(FileNotFoundError, match="evidence"):
        Judge.beside(FakeEngine(), tmp_path, ["similarity"], 100)
    plain = Judge.beside(FakeEngine(), tmp_path, [], 100)
    draw = np.random.default_rng(0)
    values, levels = draw.normal(size=(60, 3)), draw.integers(0, 3, 60)
    fitted = Calibration.fit(plain.names, values, levels)
    (tmp_path / judge.CALIBRATION).write_text(fitted.as_json())
    read = Judge.beside(FakeEngine(), tmp_path, [], 100)
    assert (read.rate(values) == fitted(values)).all()
    assert not np.allclose(plain.rate(values), fitted(values))
    relevance.save(tmp_path)
    (tmp_path / judge.CALIBRATION).unlink()
    near = Judge.beside(FakeEngine(), tmp_path, ["language"], 100)
    assert np.isfinite(near.measure(PAIRS)[:, 3]).all()


def test_what_teaches_likelihoods_has_the_forms_in_which_they_are_asked():
    asked = set()

    class Listening(FakeEngine):
        def loglikelihood(self, prompts, targets):
            asked.update(zip(prompts, targets, strict=True))
            return super().loglikelihood(prompts, targets)

    many = [
        dataclasses.replace(PAIRS[n % 4], instruction=f"Tell me {n}.")
        for n in range(40)
    ]
    for evidence in (["forward"], ["backward"], ["backward", "forward"]):
        asked.clear()
        Judge(Listening(), evidence, 20).measure(many)
        taught = judge.evidence_pairs(many, evidence, 20)
        assert len(taught) == len(many) * len(evidence)
        assert set(taught) <= asked
    alone = [prompt for prompt, _ in taught if "Tell me" not in prompt]
    assert prompts.generate("") in alone
    assert judge.evidence_pairs(many, ["similarity", "language"], 20) == []


def test_a_rating_is_asked_of_what_is_shown():
    long = pair("Say it.", "a" * 50 + "b" * 100 + "c" * 50)
    prompt = judge.rating_prompt(long, 60)
    assert "Say it." in prompt
    assert "Finnish" in prompt
    assert "a" * 40 + " … " + "c" * 20 in prompt
    assert "b" not in prompt.split("### Response:")[1]
