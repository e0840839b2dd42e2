"""Rating data for the evaluator, made from seed pairs: good ones, and spoilt ones.

The paper rates candidates at three levels and does not say how their data was made;
this is our way. Each row names the corruption, so that recall is known for each.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xinst_jax import prompts
from xinst_jax.seed import Pair

GENERIC = (
    "Write something about it.",
    "Answer the question in detail.",
    "Tell me more about this.",
    "Give me some information.",
    "Explain it to me.",
)
BEST, FLAWED, WORST = prompts.RATINGS


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """A pair, and how good it is.

    Attributes:
      instruction: English.
      response: Mostly in `language`.
      language: ISO 639-1 of the source.
      label: One of `prompts.RATINGS`.
      corruption: What was done to it; "none" for a good pair.
    """

    instruction: str
    response: str
    language: str
    label: str
    corruption: str


def rating_rows(pairs: Sequence[Pair], rounds: int, seed: int) -> list[Rated]:
    """Best, flawed and worst pairs in equal thirds.

    Args:
      pairs: Good ones. The other pairs that corruptions need come from here too, so
        that what is held out stays apart.
      rounds: How often each pair is used; each time it is spoilt in other ways.
      seed: Of the choice of corruptions.
    """
    rows = []
    for round_number in range(rounds):
        for number, pair in enumerate(pairs):
            draw = random.Random(f"{seed} {round_number} {number}")
            rows.append(_rated(pair, BEST, "none"))
            for label, corruptions in ((FLAWED, _FLAWS), (WORST, _FAULTS)):
                name = draw.choice(list(corruptions))
                spoilt = corruptions[name](pair, pairs, draw)
                rows.append(_rated(spoilt, label, name))
    return rows


def rating_pairs(rows: Iterable[Rated], max_text_chars: int) -> list[tuple[str, str]]:
    """Prompt and target for the evaluator.

    Args:
      rows: Rated pairs.
      max_text_chars: Of a response, so much is shown.
    """
    return [
        (
            prompts.rate(
                row.instruction,
                row.response[:max_text_chars],
                prompts.LANGUAGE_NAMES[row.language],
            ),
            row.label,
        )
        for row in rows
    ]


def _rated(pair: Pair, label: str, corruption: str) -> Rated:
    return Rated(
        instruction=pair.instruction,
        response=pair.response,
        language=pair.language,
        label=label,
        corruption=corruption,
    )


def _other(
    pair: Pair, pairs: Sequence[Pair], draw: random.Random, *, same_language: bool
) -> Pair:
    """Another pair, of another topic where topics are known."""
    for _ in range(1000):
        other = draw.choice(pairs)
        if (
            other.instruction != pair.instruction
            and (other.topic != pair.topic or not pair.topic)
            and (other.language == pair.language) == same_language
        ):
            return other
    # A seed of one language or one topic has no such pair.
    return draw.choice(pairs)


def _truncated(pair: Pair, pairs: Sequence[Pair], draw: random.Random) -> Pair:
    """The response, broken off in the middle of a word."""
    cut = draw.randint(len(pair.response) // 5, len(pair.response) // 2)
    return dataclasses.replace(pair, response=pair.response[:cut].rstrip(" .।۔"))


def _half_of_another(pair: Pair, pairs: Sequence[Pair], draw: random.Random) -> Pair:
    """The response's first half, and another one's second half."""
    other = _other(pair, pairs, draw, same_language=True).response
    response = pair.response[: len(pair.response) // 2] + other[len(other) // 2 :]
    return dataclasses.replace(pair, response=response)


def _generic(pair: Pair, pairs: Sequence[Pair], draw: random.Random) -> Pair:
    """An instruction that any response would answer."""
    return dataclasses.replace(pair, instruction=draw.choice(GENERIC))


def _random_instruction(pair: Pair, pairs: Sequence[Pair], draw: random.Random) -> Pair:
    """The instruction of another pair in this language."""
    other = _other(pair, pairs, draw, same_language=True)
    return dataclasses.replace(pair, instruction=other.instruction)


def _foreign_instruction(
    pair: Pair, pairs: Sequence[Pair], draw: random.Random
) -> Pair:
    """The instruction of a pair in another language."""
    other = _other(pair, pairs, draw, same_language=False)
    return dataclasses.replace(pair, instruction=other.instruction)


def _ill_posed(pair: Pair, pairs: Sequence[Pair], draw: random.Random) -> Pair:
    """An instruction that asks for an input which is not there."""
    verb = draw.choice(("Summarize", "Translate", "Rewrite"))
    what = draw.choice(("article", "text", "passage"))
    return dataclasses.replace(pair, instruction=f"{verb} the {what} above.")


_Corruption = Callable[[Pair, Sequence[Pair], random.Random], Pair]
_FLAWS: Mapping[str, _Corruption] = {
    "truncated": _truncated,
    "half_of_another": _half_of_another,
    "generic": _generic,
}
_FAULTS: Mapping[str, _Corruption] = {
    "random_instruction": _random_instruction,
    "foreign_instruction": _foreign_instruction,
    "ill_posed": _ill_posed,
}


def measure(
    rows: Sequence[Rated], pairs: Sequence[tuple[str, str]], checkpoint: str
) -> dict[str, Any]:
    """How well an evaluator tells the levels apart on rows it never saw.

    Args:
      rows: What was held out.
      pairs: The rows as prompts, in the same order.
      checkpoint: The evaluator.

    Returns:
      `rows`; `accuracy` over three levels; `auc` of the probability of "best", good
      rows against spoilt ones; `recall`: for each corruption the share of its rows
      that got their own level.
    """
    from xinst_jax.engine import Engine

    logprobs = Engine.load(checkpoint).score([p for p, _ in pairs], prompts.RATINGS)
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    best = weights[:, 0] / weights.sum(axis=1)
    labels = np.array([prompts.RATINGS.index(row.label) for row in rows])
    right = logprobs.argmax(axis=1) == labels
    corruptions = np.array([row.corruption for row in rows])
    return {
        "rows": len(rows),
        "accuracy": round(float(right.mean()), 4),
        "auc": round(auc(best[labels == 0], best[labels != 0]), 4),
        "recall": {
            str(name): round(float(right[corruptions == name].mean()), 4)
            for name in np.unique(corruptions)
        },
    }


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The chance that a positive ranks above a negative; ties count as half.

    Args:
      positives: `[P]` values that should be high.
      negatives: `[N]` values that should be low.
    """
    higher = (positives[:, None] > negatives[None, :]).mean()
    equal = (positives[:, None] == negatives[None, :]).mean()
    return float(higher + equal / 2)
