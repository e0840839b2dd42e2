"""Seed pairs: read, split by source, and turned round into training pairs."""

import dataclasses
import glob
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from xinst_jax import prompts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An English instruction and a response that a person would accept.

    Attributes:
      instruction: English.
      response: In `language`.
      language: ISO 639-1.
      topic: Groups pairs that are near to one another; may be empty.
    """

    instruction: str
    response: str
    language: str
    topic: str = ""


def read(patterns: Iterable[str]) -> list[Pair]:
    """Pairs from JSON Lines files, in the order of their names.

    Args:
      patterns: Paths or glob patterns.

    Raises:
      FileNotFoundError: A pattern matches no file.
      ValueError: A line is no pair; the message names file and line.
    """
    pairs = []
    for pattern in patterns:
        files = sorted(glob.glob(pattern))
        if not files:
            raise FileNotFoundError(f"Seed {pattern!r} matches no file.")
        for file in files:
            lines = Path(file).read_text("utf-8").splitlines()
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    pairs.append(_pair(line, f"{file}, line {number}"))
    return pairs


def _pair(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
        fields = {name: row[name] for name in ("instruction", "response", "language")}
        fields["topic"] = row.get("topic", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: no seed pair: {error!r}.") from error
    for name, value in fields.items():
        if not isinstance(value, str) or not (value.strip() or name == "topic"):
            raise ValueError(f"{where}: {name} is {value!r}; expected some text.")
    return Pair(**fields)


def split(pairs: Sequence[Pair], held_out: float) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs to measure on, by a hash of the instruction.

    All pairs of one instruction fall on the same side.

    Args:
      pairs: Of any languages.
      held_out: Share to measure on, in (0, 1).
    """
    train: list[Pair] = []
    held: list[Pair] = []
    for pair in pairs:
        (held if position(pair.instruction) < held_out else train).append(pair)
    return train, held


def position(text: str) -> float:
    """Where a text lies in [0, 1), by its hash alone."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


def thinned(
    pairs: Sequence[Pair], dropout: float, rounds: int, seed: int
) -> list[Pair]:
    """The pairs again and again, each time with other words of the response left out.

    A small model would otherwise learn a small seed by heart, by its rarest words.

    Args:
      pairs: The seed.
      dropout: Share of the words to leave out; 0 gives the pairs once, as they are.
      rounds: How often each pair comes.
      seed: Of the choice of words.
    """
    if not dropout:
        return list(pairs)
    draw = random.Random(seed)
    return [
        dataclasses.replace(pair, response=_without_some(pair.response, dropout, draw))
        for _ in range(rounds)
        for pair in pairs
    ]


def _without_some(text: str, dropout: float, draw: random.Random) -> str:
    words = text.split(" ")
    if len(words) < len(text) / 20:
        # Thai puts spaces between sentences only.
        words = [text[at : at + 6] for at in range(0, len(text), 6)]
        return "".join(word for word in words if draw.random() >= dropout)
    return " ".join(word for word in words if draw.random() >= dropout)


def reversed_pairs(pairs: Iterable[Pair], max_text_chars: int) -> list[tuple[str, str]]:
    """Prompt and target for the generator: from the response to the instruction.

    Args:
      pairs: The seed.
      max_text_chars: Of a response, so much is shown.
    """
    return [
        (prompts.generate(pair.response[:max_text_chars]), f" {pair.instruction}")
        for pair in pairs
    ]


def topic_pairs(pairs: Sequence[Pair], max_text_chars: int) -> list[tuple[str, str]]:
    """Prompt and target that teach a model from scratch what texts are about.

    Of every other pair with a topic the response, or at times the instruction. One
    word of an answer says more of a text than the many of an instruction.

    Args:
      pairs: The seed.
      max_text_chars: Of a text, so much is shown.
    """
    made = []
    for number, pair in enumerate(pairs[::2]):
        if pair.topic:
            text = pair.response if number % 4 else pair.instruction
            made.append((prompts.topic(text[:max_text_chars]), f" {pair.topic}"))
    return made
