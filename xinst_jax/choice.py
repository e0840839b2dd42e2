"""What a checkpoint can do: choosing between continuations, answering in a language.

Continuations are compared by log-probability, as XCOPA is evaluated; nothing is parsed
out of a generated text.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinst_jax import prompts

if TYPE_CHECKING:
    from xinst_jax.engine import Engine

# "Because" and "therefore", between a premise and what it came of or led to.
_CONNECTIVES = {
    "en": ("because", "therefore"),
    "fi": ("koska", "siksi"),
    "id": ("karena", "maka"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "bn": ("কারণ", "তাই"),
    "hi": ("क्योंकि", "इसलिए"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("ஏனெனில்", "எனவே"),
    "ur": ("کیونکہ", "اس لیے"),
}
_QUESTIONS = ("cause", "effect")
# Written without spaces between clauses.
_UNSPACED = frozenset({"th"})
_ENDS = " .!?…।॥|۔؟"
_CODES = {name.lower(): code for code, name in prompts.LANGUAGE_NAMES.items()}
_DEVIATIONS = 1.96  # Either side of which a normal variable is 5 % of the time.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A premise with two continuations, of which one is right.

    Attributes:
      prompt: The premise, up to the word that connects it.
      targets: The two continuations, as they follow the prompt.
      label: Which of them is right, 0 or 1.
    """

    prompt: str
    targets: tuple[str, str]
    label: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An instruction to be answered in a language.

    Attributes:
      instruction: English.
      language: ISO 639-1.
    """

    instruction: str
    language: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many of some trials succeeded.

    Attributes:
      right: Successes; a draw between two continuations is none.
      trials: Of so many.
      unreadable: Rows that the model could not read or answer; they are no trials.
    """

    right: int
    trials: int
    unreadable: int

    @property
    def share(self) -> float:
        """In [0, 1]; NaN without trials."""
        return self.right / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, in [0, 1]."""
        if not self.trials:
            return 0.0, 1.0
        n, share, square = self.trials, self.share, _DEVIATIONS**2
        middle = (share + square / (2 * n)) / (1 + square / n)
        spread = share * (1 - share) / n + square / (4 * n * n)
        half = _DEVIATIONS * math.sqrt(spread) / (1 + square / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How often the right continuation was the likelier one.

    Attributes:
      total: By summed log-probability, which prefers the shorter.
      normalised: By log-probability per UTF-8 byte.
    """

    total: Rate
    normalised: Rate


def read_choices(path: str | os.PathLike[str]) -> list[Choice]:
    """Choices from JSON lines in the form of XCOPA.

    Args:
      path: Each row has `premise`, `choice1`, `choice2`, `question` ("cause" or
        "effect"), `label` (0 or 1) and perhaps `language`; else the language is a part
        of the file's name, as in `val.id.jsonl`.

    Raises:
      ValueError: There is no row, one is of another form, or no language is known.
    """
    named = [part for part in Path(path).name.split(".") if part in _CONNECTIVES]
    choices = []
    for where, row in _rows(path):
        language = _language(row.get("language", named[0] if named else None), where)
        texts = [_text(row, name, where) for name in ("premise", "choice1", "choice2")]
        question, label = row.get("question"), row.get("label")
        if question not in _QUESTIONS:
            raise ValueError(
                f"{where}: question is {question!r}; expected {_QUESTIONS}"
            )
        if label not in (0, 1):
            raise ValueError(f"{where}: label is {label!r}; expected 0 or 1.")
        connective = _CONNECTIVES[language][_QUESTIONS.index(question)]
        choices.append(_joined(texts, connective, language, int(label)))
    return choices


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Questions from JSON lines with `instruction` and `language`.

    Args:
      path: The language is ISO 639-1, or the name in English; one of those that
        prompts name.

    Raises:
      ValueError: There is no row, or one is of another form.
    """
    return [
        Question(
            instruction=_text(row, "instruction", where),
            language=_language(row.get("language"), where, prompts.LANGUAGE_NAMES),
        )
        for where, row in _rows(path)
    ]


def accuracy(engine: "Engine", choices: Sequence[Choice]) -> Accuracy:
    """How often the engine finds the right continuation likelier than the other."""
    scores = engine.loglikelihood(
        [choice.prompt for choice in choices for _ in choice.targets],
        [target for choice in choices for target in choice.targets],
    ).reshape(len(choices), 2)
    sizes = [[len(target.encode()) for target in choice.targets] for choice in choices]
    rates = []
    for by_row in (
        scores.tolist(),
        [
            [score / size for score, size in zip(pair, of_row, strict=True)]
            for pair, of_row in zip(scores.tolist(), sizes, strict=True)
        ],
    ):
        right = readable = 0
        for choice, pair in zip(choices, by_row, strict=True):
            readable += not any(map(math.isnan, pair))
            right += pair[choice.label] > pair[1 - choice.label]
        rates.append(
            Rate(right=right, trials=readable, unreadable=len(choices) - readable)
        )
    return Accuracy(total=rates[0], normalised=rates[1])


def language_rates(
    engine: "Engine",
    questions: Sequence[Question],
    is_in: Callable[[str, str], bool],
) -> dict[str, Rate]:
    """How often answers are in the language that was asked for, by language.

    Decoding is greedy, up to 128 tokens.

    Args:
      engine: Any.
      questions: Asked in the style of an AI assistant, as models are used.
      is_in: Whether a text is in a language, given its ISO 639-1 code. An empty answer
        is in none.
    """
    generations = engine.generate(
        [
            prompts.answer(
                question.instruction,
                prompts.LANGUAGE_NAMES[question.language],
                assistant=True,
            )
            for question in questions
        ]
    )
    found: dict[str, list[int]] = {}
    for question, generation in zip(questions, generations, strict=True):
        counts = found.setdefault(question.language, [0, 0, 0])
        if generation.error:
            counts[2] += 1
            continue
        text = generation.text.strip()
        counts[0] += bool(text) and is_in(text, question.language)
        counts[1] += 1
    return {
        code: Rate(right=right, trials=trials, unreadable=unreadable)
        for code, (right, trials, unreadable) in sorted(found.items())
    }


def evaluate(
    checkpoint: str,
    choice_files: Sequence[str],
    prompt_files: Sequence[str],
    is_in: Callable[[str, str], bool],
) -> dict[str, Rate]:
    """All figures of a checkpoint, by what was measured.

    Files are read before the model is: a mistake in one costs no waiting.

    Args:
      checkpoint: In Hugging Face layout.
      choice_files: As `read_choices` takes them.
      prompt_files: As `read_questions` takes them.
      is_in: As of `language_rates`.

    Raises:
      ValueError: There are no files, or as of the readers.
      OSError: A file cannot be read.
    """
    if not choice_files and not prompt_files:
        raise ValueError("Nothing to evaluate: name files by --choice or --prompts.")
    choices = {path: read_choices(path) for path in choice_files}
    questions = [q for path in prompt_files for q in read_questions(path)]

    from xinst_jax.engine import Engine

    engine = Engine.load(checkpoint)
    rates = {}
    for path, of_file in choices.items():
        found = accuracy(engine, of_file)
        name = Path(path).name
        rates[f"{name}, by log-probability"] = found.total
        rates[f"{name}, per byte"] = found.normalised
    for code, rate in language_rates(engine, questions, is_in).items():
        rates[f"answers in {prompts.LANGUAGE_NAMES[code]}"] = rate
    return rates


def as_text(rates: Mapping[str, Rate]) -> str:
    """A table for a terminal."""
    table = [("", "right", "of", "share", "95 %", "unreadable")]
    for name, rate in rates.items():
        low, high = rate.interval
        table.append(
            (
                name,
                f"{rate.right:,}",
                f"{rate.trials:,}",
                f"{rate.share:.3f}" if rate.trials else "–",
                f"{low:.3f} to {high:.3f}" if rate.trials else "–",
                f"{rate.unreadable:,}" if rate.unreadable else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def as_json(rates: Mapping[str, Rate]) -> dict[str, Any]:
    """The same for programs."""
    return {
        name: {
            "right": rate.right,
            "trials": rate.trials,
            "unreadable": rate.unreadable,
            "share": rate.share if rate.trials else None,
            "interval": list(rate.interval) if rate.trials else None,
        }
        for name, rate in rates.items()
    }


def _joined(texts: Sequence[str], connective: str, language: str, label: int) -> Choice:
    """`premise because` and ` choice`: one sentence, as the language writes it."""
    premise, *choices = (text.strip() for text in texts)
    space = "" if language in _UNSPACED else " "
    first, second = (space + _uncapitalised(choice, language) for choice in choices)
    return Choice(
        prompt=f"{premise.rstrip(_ENDS)}{space}{connective}",
        targets=(first, second),
        label=label,
    )


def _uncapitalised(text: str, language: str) -> str:
    first = text[:1]
    if language == "tr":
        first = {"I": "ı", "İ": "i"}.get(first, first)
    return first.lower() + text[1:]


def _rows(path: str | os.PathLike[str]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    name = Path(path).name
    found = []
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}:{number} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{name}:{number} is no object.")
            found.append((f"{name}:{number}", row))
    if not found:
        raise ValueError(f"{path} holds no row.")
    return found


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    text = row.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {name} is {text!r}; expected a text.")
    return text


def _language(value: Any, where: str, known: Mapping[str, Any] = _CONNECTIVES) -> str:
    if value is None:
        raise ValueError(
            f"{where}: no language is known; give the row a `language`, or the file a "
            "name such as val.id.jsonl."
        )
    code = _CODES.get(str(value).lower(), value)
    if code not in known:
        raise ValueError(
            f"{where}: language is {value!r}; expected one of {', '.join(known)}."
        )
    return str(code)
