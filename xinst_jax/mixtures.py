"""Mixtures of data sets: which examples, how often, in what order.

A *source* answers `len()` and `[index]` with mappings: a list, `tfds.data_source`,
`grain.MapDataset`, another mixture. So does a mixture, and Grain shuffles, shards and
resumes it as any other. Every choice is made by the hash of an example's id. Grain's
own `MapDataset.mix` is not used: it takes each source from its beginning, ends with
the shortest, and knows neither ids nor languages. Needs neither Grain nor JAX.
"""

import collections
import dataclasses
import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xinst_jax.seed import Pair, position

Source = Any  # answers len() and [index]; None at an index is no example


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One place of a mixture.

    Attributes:
      origin: Which source.
      index: In it.
      id: Of the example.
      language: Of its output, an ISO 639-1 code.
    """

    origin: str
    index: int
    id: str
    language: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture(Sequence[Any]):
    """Examples of several sources, by index; each says its `origin`.

    Attributes:
      sources: By origin.
      picks: What is at each index. The order is by hash: any beginning of it is a
        sample of the whole.
    """

    sources: Mapping[str, Source]
    picks: Sequence[Pick]

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """How many examples there are of each origin and language."""
        found = collections.Counter((pick.origin, pick.language) for pick in self.picks)
        return dict(sorted(found.items()))

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return dataclasses.replace(self, picks=self.picks[index])
        pick = self.picks[index]
        return {**self.sources[pick.origin][pick.index], "origin": pick.origin}


def joined(sources: Mapping[str, Source], *, seed: int = 0) -> Mixture:
    """Every example of every source, once.

    With `{"seed": …, "web": …}` it is what X-Instruction trains on, and
    `formats.by_origin` gives each the suffix that it has there.

    Args:
      sources: By origin; the examples have `id` and `output_language`.
      seed: Of the order.

    Raises:
      ValueError: An example has no `id` or no `output_language`.
    """
    picks = [
        pick for origin, source in sources.items() for pick in _picks(source, origin)
    ]
    return Mixture(sources=sources, picks=_in_order(picks, seed))


def pinch(
    english: Source,
    multilingual: Source,
    num_multilingual: int,
    *,
    size: int | None = None,
    temperature: float = math.inf,
    seed: int = 0,
) -> Mixture:
    """A few multilingual examples in an English set (arXiv 2401.01854: 40 suffice).

    A larger pinch of the same sources has all multilingual examples of a smaller one.

    Args:
      english: Examples in English, `id` and `output_language` among their columns.
      multilingual: Examples in other languages, likewise.
      num_multilingual: How many of these, none twice.
      size: Of the mixture; by default that of `english`, in which they take places.
      temperature: Of the languages, see `quotas`; by default all get as many. Where a
        language has too few, the others get more.
      seed: Of the choice and the order.

    Raises:
      ValueError: There are not enough examples, or one is in the wrong language.
    """
    rows = _picks(english, "english")
    others = _picks(multilingual, "multilingual")
    for pick in rows + others:
        if (pick.language == "en") != (pick.origin == "english"):
            raise ValueError(
                f"Example {pick.id!r} of {pick.origin} is in {pick.language!r}."
            )
    size = len(rows) if size is None else size
    if not 0 <= num_multilingual <= min(size, len(others)):
        raise ValueError(
            "pinch needs 0 <= num_multilingual <= size and as many examples, got "
            f"num_multilingual={num_multilingual}, size={size}, {len(others)} examples."
        )
    if size - num_multilingual > len(rows):
        raise ValueError(
            f"pinch needs {size - num_multilingual} English examples, got {len(rows)}."
        )
    by_language = _by_language(others, seed)
    shares = quotas(
        {language: len(found) for language, found in by_language.items()},
        num_multilingual,
        temperature,
        repeat=False,
    )
    chosen = _by_language(rows, seed).get("en", [])[: size - num_multilingual]
    for language, share in shares.items():
        chosen += by_language[language][:share]
    return Mixture(
        sources={"english": english, "multilingual": multilingual},
        picks=_in_order(chosen, seed),
    )


def tempered(
    source: Source,
    temperature: float,
    *,
    size: int | None = None,
    origin: str = "tempered",
    seed: int = 0,
) -> Mixture:
    """Languages in proportion to their sizes to the power 1 / temperature.

    In a language each example comes as often as any other, give or take one.

    Args:
      source: Examples with `id` and `output_language`.
      temperature: 1 leaves the proportions as they are, `math.inf` evens them out.
      size: Of the mixture; by default that of `source`.
      origin: What its examples say in `origin`.
      seed: Of the choice and the order.

    Raises:
      ValueError: The source is empty, or temperature or size are out of bounds.
    """
    by_language = _by_language(_picks(source, origin), seed)
    available = {language: len(found) for language, found in by_language.items()}
    size = sum(available.values()) if size is None else size
    picks = [
        found[number % len(found)]
        for language, share in quotas(available, size, temperature, repeat=True).items()
        for found in (by_language[language],)
        for number in range(share)
    ]
    return Mixture(sources={origin: source}, picks=_in_order(picks, seed))


def quotas(
    available: Mapping[str, int], size: int, temperature: float, *, repeat: bool
) -> dict[str, int]:
    """How many examples each language gets: p ∝ available ** (1 / temperature).

    Rounded by Sainte-Laguë's method: for a larger `size` no language gets fewer.

    Args:
      available: Examples of each language.
      size: To hand out.
      temperature: Above 0; `math.inf` gives all the same.
      repeat: Examples may come several times; without, no language gets more than it
        has, and the others get what is left.

    Raises:
      ValueError: There is not enough, or a bound does not hold.
    """
    held = {language: count for language, count in available.items() if count}
    if not temperature > 0 or size < 0:
        raise ValueError(
            f"quotas needs 0 < temperature, 0 <= size, got {temperature=}, {size=}."
        )
    if size > (0 if not held else math.inf if repeat else sum(held.values())):
        raise ValueError(f"quotas: {size} examples wanted, {sum(held.values())} there.")
    given = dict.fromkeys(available, 0)
    most = max(held.values(), default=1)
    weights = {c: (count / most) ** (1 / temperature) for c, count in held.items()}
    # Ties go by a hash, not to the first of the alphabet each time.
    queue = [(-weights[c], position(f"tie {c}"), c) for c in held]
    heapq.heapify(queue)
    for _ in range(size):
        _, tie, language = queue[0]
        given[language] += 1
        if not repeat and given[language] == held[language]:
            heapq.heappop(queue)
        else:
            next_claim = -weights[language] / (2 * given[language] + 1)
            heapq.heapreplace(queue, (next_claim, tie, language))
    return given


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parallel(Sequence[Any]):
    """Rows in several languages as examples with parallel columns (see `formats`).

    There is one for each row and each language but English. The third language of its
    `instruction_other` is chosen by hash; with one language beside English there is
    none.

    Attributes:
      sources: By language, `en` among them. Row i of each says the same: `instruction`,
        `output`, and `input` if there is one. `id` is taken from English, or is i.
    """

    sources: Mapping[str, Source]

    def __post_init__(self) -> None:
        if "en" not in self.sources or len(self.sources) < 2:
            raise ValueError(
                "Parallel needs 'en' and another language, got "
                f"{', '.join(self.sources) or 'none'}."
            )
        sizes = {language: len(source) for language, source in self.sources.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Parallel needs as many rows in each, got {sizes}.")

    @property
    def languages(self) -> tuple[str, ...]:
        """Of the outputs, in the order of `sources`."""
        return tuple(language for language in self.sources if language != "en")

    def __len__(self) -> int:
        return len(self.sources["en"]) * len(self.languages)

    def __getitem__(self, index: Any) -> Any:
        number, at = divmod(range(len(self))[index], len(self.languages))
        language = self.languages[at]
        english = self.sources["en"][number]
        own = self.sources[language][number]
        key = f"{_text(english.get('id', str(number)))}.{language}"
        example = {
            "id": key,
            "instruction": english["instruction"],
            "input": english.get("input", ""),
            "output_en": english["output"],
            "instruction_xx": own["instruction"],
            "input_xx": own.get("input", ""),
            "output": own["output"],
            "output_language": language,
        }
        rest = [other for other in self.languages if other != language]
        if rest:
            third = self.sources[rest[int(position(f"other {key}") * len(rest))]]
            example["instruction_other"] = third[number]["instruction"]
            example["input_other"] = third[number].get("input", "")
        return example


def crossin(parallel: Parallel, size: int, *, seed: int = 0) -> Mixture:
    """CrossIn's draw: rows uniform with replacement, languages uniform, English apart.

    Args:
      parallel: To draw from.
      size: The paper tries 3,000, 6,000 and 15,000.
      seed: Of the draws.

    Raises:
      ValueError: There is no row to draw.
    """
    if size and not len(parallel):
        raise ValueError("crossin: there is no row to draw from.")
    picks = []
    for draw in range(size):
        # Both at once: there is one example for each row and language.
        index = int(position(f"crossin {seed} {draw}") * len(parallel))
        language = parallel.languages[index % len(parallel.languages)]
        pick = Pick(origin="crossin", index=index, id=str(draw), language=language)
        picks.append(pick)
    return Mixture(sources={"crossin": parallel}, picks=picks)


def seed_examples(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    """Seed pairs as examples, their ids made from what they say."""
    return [
        {
            "id": _digest(f"{pair.language}\n{pair.instruction}\n{pair.response}"),
            "instruction": pair.instruction,
            "output": pair.response,
            "output_language": pair.language,
        }
        for pair in pairs
    ]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _text(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _picks(source: Source, origin: str) -> list[Pick]:
    """Every example of a source. Reads them all, once."""
    picks = []
    for index in range(len(source)):
        example = source[index]
        if example is None:
            continue
        for name in ("id", "output_language"):
            if name not in example:
                raise ValueError(f"Example {index} of {origin} has no {name!r}.")
        key, language = _text(example["id"]), _text(example["output_language"])
        picks.append(Pick(origin=origin, index=index, id=key, language=language))
    return picks


def _by_language(picks: Iterable[Pick], seed: int) -> dict[str, list[Pick]]:
    """The picks of each language, in the order in which they are chosen."""
    found: dict[str, list[Pick]] = {}
    for pick in sorted(picks, key=lambda p: (position(f"choose {seed} {p.id}"), p.id)):
        found.setdefault(pick.language, []).append(pick)
    return dict(sorted(found.items()))


def _in_order(picks: Iterable[Pick], seed: int) -> list[Pick]:
    """Mixed by hash, and not by the one that chose: those chosen lie low in it."""
    times: collections.Counter[tuple[str, str]] = collections.Counter()
    keyed = []
    for pick in picks:
        times[pick.origin, pick.id] += 1
        again = times[pick.origin, pick.id]
        place = position(f"order {seed} {pick.origin} {pick.id} {again}")
        keyed.append((place, pick.id, again, pick))
    keyed.sort(key=lambda entry: entry[:3])
    return [pick for *_, pick in keyed]
