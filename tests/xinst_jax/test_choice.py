"""Choices and languages, by engines whose answers are known and by a tiny real one."""

import json
import math

import numpy as np
import pytest

from xinst_jax import choice
from xinst_jax.engine import Generation

ROW = {
    "premise": "The boat sank.",
    "choice1": "It had a hole.",
    "choice2": "It was new.",
    "question": "cause",
    "label": 0,
}


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Known:
    """An engine that prefers targets by a function of them."""

    def __init__(self, logprob, answers=None):
        self.logprob, self.answers = logprob, answers or {}

    def loglikelihood(self, prompts, targets):
        return np.asarray([self.logprob(t) for t in targets], np.float32)

    def generate(self, prompts):
        self.prompts = prompts
        for prompt in prompts:
            text = next((a for q, a in self.answers.items() if q in prompt), None)
            error = "too long" if text is None else None
            yield Generation(
                text=text or "", tokens=(), logprob=0.0, stopped=True, error=error
            )


@pytest.mark.parametrize(
    ("name", "change", "prompt", "target"),
    [
        ("val.en.jsonl", {}, "The boat sank because", " it had a hole."),
        (
            "val.en.jsonl",
            {"question": "effect"},
            "The boat sank therefore",
            " it had a hole.",
        ),
        ("val.th.jsonl", {"premise": "เรือจม"}, "เรือจมเพราะ", "it had a hole."),
        ("val.tr.jsonl", {"choice1": "Irmak"}, "The boat sank çünkü", " ırmak"),
        ("val.tr.jsonl", {"choice1": "İki"}, "The boat sank çünkü", " iki"),
        ("x.jsonl", {"language": "hi", "premise": "नाव डूबी।"}, "नाव डूबी क्योंकि", None),
        ("x.jsonl", {"language": "Swahili"}, "The boat sank kwa sababu", None),
    ],
)
def test_premise_and_choice_become_one_sentence(tmp_path, name, change, prompt, target):
    found = choice.read_choices(write(tmp_path / name, [ROW | change]))[0]
    assert found.prompt == prompt
    assert found.targets[0] == (target or " it had a hole.")
    assert found.label == 0


def test_accuracy_counts_the_likelier_of_two(tmp_path):
    rows = [ROW | {"label": label} for label in (0, 0, 0, 1)]
    choices = choice.read_choices(write(tmp_path / "a.en.jsonl", rows))
    # The first continuation is 15 bytes, the second 12.
    by_length = choice.accuracy(Known(lambda t: -float(len(t))), choices)
    assert (by_length.total.right, by_length.total.trials) == (1, 4)
    # Per byte they are equal: a draw is not right.
    assert by_length.normalised.right == 0
    longest = choice.accuracy(Known(lambda t: -2.0 - (len(t) < 15)), choices)
    assert (longest.total.right, longest.normalised.right) == (3, 3)
    # Less likely in all, likelier per byte.
    per_byte = choice.accuracy(Known(lambda t: {15: -13.0, 12: -12.0}[len(t)]), choices)
    assert (per_byte.total.right, per_byte.normalised.right) == (1, 3)


def test_what_cannot_be_read_is_no_trial(tmp_path):
    rows = [ROW, ROW | {"choice2": "It was blue."}]
    choices = choice.read_choices(write(tmp_path / "a.en.jsonl", rows))
    engine = Known(lambda t: math.nan if "blue" in t else -float("hole" not in t))
    found = choice.accuracy(engine, choices).total
    assert (found.right, found.trials, found.unreadable) == (1, 1, 1)


def test_the_engine_s_choice_is_that_of_its_logits(engine, tmp_path):
    """Independent of how targets are packed: each sum is made from whole logits."""
    rows = [
        ROW | {"premise": f"Boat {n} sank.", "choice1": "a" * (n + 1), "choice2": "bc"}
        for n in range(6)
    ]
    choices = choice.read_choices(write(tmp_path / "a.en.jsonl", rows))
    right = [0, 0]
    for each in choices:
        sums = []
        for target in each.targets:
            start = engine.tokenizer.encode(each.prompt).ids
            ids = engine.tokenizer.encode(target, add_special_tokens=False).ids
            logits = engine.logits(
                np.asarray([start + ids]), np.asarray([len(start + ids)])
            )[0]
            logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            at = range(len(start) - 1, len(start) + len(ids) - 1)
            sums.append(sum(logprobs[a, i] for a, i in zip(at, ids, strict=True)))
        right[0] += sums[0] > sums[1]
        per_byte = [s / len(t) for s, t in zip(sums, each.targets, strict=True)]
        right[1] += per_byte[0] > per_byte[1]
    found = choice.accuracy(engine, choices)
    assert [found.total.right, found.normalised.right] == right
    assert found.total.trials == 6


def test_the_rate_of_languages_asks_as_an_assistant(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [
        {"instruction": "Say A.", "language": "fi"},
        {"instruction": "Say B.", "language": "Finnish"},
        {"instruction": "Say C.", "language": "ta"},
        {"instruction": "Say D.", "language": "ta"},
    ]
    questions = choice.read_questions(write(path, rows))
    engine = Known(None, {"Say A.": "fi!", "Say B.": " \n", "Say C.": "fi!"})
    rates = choice.language_rates(
        engine, questions, lambda text, code: code in text or not text
    )
    found = {code: (r.right, r.trials, r.unreadable) for code, r in rates.items()}
    assert found == {"fi": (1, 2, 0), "ta": (0, 1, 1)}
    assert (
        "Say C. Answer in Tamil and the style of an AI assistant." in engine.prompts[2]
    )


def test_the_interval_is_wilson_s():
    # Agresti and Coull 1998: of 10 trials none right, the bound is .278.
    none = choice.Rate(right=0, trials=10, unreadable=0)
    assert none.interval == (0, pytest.approx(0.2775, abs=1e-3))
    half = choice.Rate(right=50, trials=100, unreadable=0)
    assert half.interval == (
        pytest.approx(0.4038, abs=1e-3),
        pytest.approx(0.5962, abs=1e-3),
    )
    assert choice.Rate(right=0, trials=0, unreadable=3).interval == (0, 1)


def test_a_checkpoint_is_evaluated_from_files(checkpoint, tmp_path):
    file = write(tmp_path / "val.id.jsonl", [ROW] * 3)
    questions = write(tmp_path / "q.jsonl", [{"instruction": "Hi.", "language": "ur"}])
    arguments = (str(checkpoint), [str(file)], [str(questions)])
    rates = choice.evaluate(*arguments, lambda text, code: True)
    assert list(rates) == [
        "val.id.jsonl, by log-probability",
        "val.id.jsonl, per byte",
        "answers in Urdu",
    ]
    assert rates["val.id.jsonl, per byte"].trials == 3
    text = choice.as_text(rates)
    assert all(name in text for name in rates)
    figures = choice.as_json(rates)
    assert json.loads(json.dumps(figures)) == figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "label is 2"),
        ({"question": "why"}, "question is 'why'"),
        ({"premise": ""}, "premise is ''"),
        ({"choice2": None}, "choice2 is None"),
        ({"language": "xx"}, "language is 'xx'"),
    ],
)
def test_a_row_of_another_form_is_located(tmp_path, change, message):
    path = write(tmp_path / "val.id.jsonl", [ROW, ROW | change])
    with pytest.raises(ValueError, match=rf"val.id.jsonl:2: {message}"):
        choice.read_choices(path)


def test_files_without_rows_or_languages_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no language is known"):
        choice.read_choices(write(tmp_path / "a.jsonl", [ROW]))
    with pytest.raises(ValueError, match="holds no row"):
        choice.read_questions(write(tmp_path / "b.jsonl", []))
    (tmp_path / "c.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"c\.jsonl:1 is no JSON"):
        choice.read_questions(tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match="name files"):
        choice.evaluate("none", [], [], lambda text, code: True)
