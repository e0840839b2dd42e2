"""Rating data for the evaluator, made from seed pairs: good ones, and spoilt ones.

The paper rates candidates at three levels and does not say how their data was made;
this is our way. Each row names the corruption, so that recall is known for each.
"""

import dataclasses
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from xinst_jax import prompts
from xinst_jax.judge import rating_prompt
from xinst_jax.seed import Pair

GENERIC = (
    "Write something about it.",
    "Answer the question in detail.",
    "Tell me more about this.",
    "Give me some information.",
    "Explain it to me.",
)
BEST, FLAWED, WORST = prompts.RATINGS
# A generated instruction that shares more of its words with a person's is no worse.
_ALIKE = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """A pair, and how good it is.

    Attributes:
      instruction: English.
      response: Mostly in `language`.
      language: ISO 639-1 of the source.
      label: One of `prompts.RATINGS`.
      corruption: What was done to it; "none" for a good pair.
      source: Of the pair that it was made from; rows of one source stay together.
    """

    instruction: str
    response: str
    language: str
    label: str
    corruption: str
    source: str

    @property
    def level(self) -> int:
        """0 best, 1 flawed, 2 worst."""
        return prompts.RATINGS.index(self.label)


def rating_rows(
    pairs: Sequence[Pair],
    rounds: int,
    seed: int,
    generated: Mapping[str, str] | None = None,
) -> list[Rated]:
    """Best, flawed and worst pairs in equal thirds.

    Args:
      pairs: Good ones. The other pairs that corruptions need come from here too, so
        that what is held out stays apart.
      rounds: How often each pair is used; each time it is spoilt in other ways.
      seed: Of the choice of corruptions.
      generated: What the generator wrote for some of the responses, by `source_of`.
    """
    maker = _Maker(pairs, generated or {})
    rows = []
    for round_number in range(rounds):
        for number, pair in enumerate(pairs):
            draw = random.Random(f"{seed} {round_number} {number}")
            rows.append(_rated(pair, pair, BEST, "none"))
            for label, corruptions in ((FLAWED, _FLAWS), (WORST, _FAULTS)):
                spoilt, name = None, ""
                # Not every pair can be spoilt in every way.
                while spoilt is None or spoilt == pair:
                    name = draw.choice(list(corruptions))
                    spoilt = corruptions[name](maker, pair, draw)
                rows.append(_rated(pair, spoilt, label, name))
    return rows


def rating_pairs(rows: Iterable[Rated], max_text_chars: int) -> list[tuple[str, str]]:
    """Prompt and target for the evaluator.

    Args:
      rows: Rated pairs.
      max_text_chars: Of a response, so much is shown.
    """
    return [(rating_prompt(row, max_text_chars), row.label) for row in rows]


def source_of(pair: Pair) -> str:
    """Names a pair by its instruction and language, whatever became of its response."""
    data = f"{pair.language} {pair.instruction}".encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _rated(source: Pair, pair: Pair, label: str, corruption: str) -> Rated:
    return Rated(
        instruction=pair.instruction,
        response=pair.response,
        language=pair.language,
        label=label,
        corruption=corruption,
        source=source_of(source),
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


class _Maker:
    """The pairs that corruptions choose from."""

    def __init__(self, pairs: Sequence[Pair], generated: Mapping[str, str]) -> None:
        self.pairs = pairs
        self._generated = generated
        self.with_generated = [p for p in pairs if source_of(p) in generated]

    def generated(self, pair: Pair) -> str:
        """What the generator wrote for a pair, or empty."""
        return self._generated.get(source_of(pair), "")

    def other(
        self,
        pair: Pair,
        draw: random.Random,
        *,
        among: Sequence[Pair] | None = None,
        same_language: bool | None = None,
        same_topic: bool = False,
    ) -> Pair | None:
        """Another pair; of another topic where topics are known, unless asked for."""
        among = self.pairs if among is None else among
        if same_topic and not pair.topic:
            return None
        for _ in range(100 if among else 0):
            other = draw.choice(among)
            if (
                other.instruction != pair.instruction
                and (not pair.topic or (other.topic == pair.topic) == same_topic)
                and same_language in (None, other.language == pair.language)
            ):
                return other
        if same_topic or same_language is False or among is not self.pairs:
            return None
        # A seed of one topic, or of few pairs in this language: any other one.
        others = [p for p in self.pairs if p.instruction != pair.instruction]
        return draw.choice(others) if others else None


def _truncated(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """The response, broken off in the middle of a word."""
    cut = draw.randint(len(pair.response) // 5, len(pair.response) // 2)
    left = pair.response[:cut].rstrip(" .।۔")
    return dataclasses.replace(pair, response=left) if left else None


def _half_of_another(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """The response's first half, and another one's second half."""
    other = maker.other(pair, draw, same_language=True)
    if other is None:
        return None
    ours, theirs = pair.response, other.response
    return dataclasses.replace(
        pair, response=ours[: len(ours) // 2] + theirs[len(theirs) // 2 :]
    )


def _generic(maker: _Maker, pair: Pair, draw: random.Random) -> Pair:
    """An instruction that any response would answer."""
    return dataclasses.replace(pair, instruction=draw.choice(GENERIC))


def _english_inside(maker: _Maker, pair: Pair, draw: random.Random) -> Pair:
    """English sentences in the middle of the response, as if left untranslated."""
    english = " ".join(draw.choice(maker.pairs).instruction for _ in range(2))
    half = len(pair.response) // 2
    start, end = pair.response[: half // 2 + half // 3], pair.response[half:]
    return dataclasses.replace(pair, response=f"{start} {english} {end}")


def _as_generated(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """The generator's own instruction, where it is another than a person's."""
    written = maker.generated(pair)
    ours, theirs = _words(written), _words(pair.instruction)
    if not ours or len(ours & theirs) > _ALIKE * len(ours | theirs):
        return None
    return dataclasses.replace(pair, instruction=written)


def _generated_for_another(
    maker: _Maker, pair: Pair, draw: random.Random
) -> Pair | None:
    """What the generator wrote for a text of another topic."""
    other = maker.other(pair, draw, among=maker.with_generated)
    return other and dataclasses.replace(pair, instruction=maker.generated(other))


def _random_instruction(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """The instruction of a pair of another topic in this language."""
    other = maker.other(pair, draw, same_language=True)
    return other and dataclasses.replace(pair, instruction=other.instruction)


def _same_topic(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """The hard one: the instruction of another pair of the same topic."""
    other = maker.other(pair, draw, same_language=True, same_topic=True)
    return other and dataclasses.replace(pair, instruction=other.instruction)


def _wrong_language(maker: _Maker, pair: Pair, draw: random.Random) -> Pair | None:
    """A response of the same topic in another language than is said."""
    other = maker.other(pair, draw, same_language=False, same_topic=bool(pair.topic))
    return other and dataclasses.replace(pair, response=other.response)


def _boilerplate(maker: _Maker, pair: Pair, draw: random.Random) -> Pair:
    """A menu instead of a text: the first words of other responses."""
    entries = []
    for _ in range(draw.randint(8, 14)):
        other = maker.other(pair, draw, same_language=True) or pair
        words = other.response.split(" ")[: draw.randint(1, 3)]
        entries.append(" ".join(words)[:24].strip(" ,.।۔"))
    return dataclasses.replace(pair, response=" | ".join(entries))


def _ill_posed(maker: _Maker, pair: Pair, draw: random.Random) -> Pair:
    """An instruction that asks for an input which is not there."""
    verb = draw.choice(("Summarize", "Translate", "Rewrite"))
    what = draw.choice(("article", "text", "passage"))
    return dataclasses.replace(pair, instruction=f"{verb} the {what} above.")


_Corruption = Callable[[_Maker, Pair, random.Random], Pair | None]
_FLAWS: Mapping[str, _Corruption] = {
    "truncated": _truncated,
    "half_of_another": _half_of_another,
    "generic": _generic,
    "english_inside": _english_inside,
    "generated": _as_generated,
}
_FAULTS: Mapping[str, _Corruption] = {
    "random_instruction": _random_instruction,
    "same_topic": _same_topic,
    "generated_for_another": _generated_for_another,
    "wrong_language": _wrong_language,
    "boilerplate": _boilerplate,
    "ill_posed": _ill_posed,
}
