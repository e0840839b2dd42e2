"""What is counted of instruction data, language by language, in bounded memory.

Hashes and counts are kept, and of rows that are to blame the first few numbers.
"""

import functools
import hashlib
import itertools
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import instructions, minhash, paper, rows, verbs
from beam_pipelines.language import (
    fast_guess,
    possible_languages,
    script_counts,
    unseen_neighbour,
    verdict,
)
from beam_pipelines.quality import stray_marks
from beam_pipelines.rows import Row
from beam_pipelines.schema import LANGUAGES

# The page verdict looks at as much.
_LANGUAGE_CHARS = 2000
MAX_STRAY_MARKS = 0.02
_MAX_SHOWN = 3
# Of the 112 rows of two texts with Jaccard similarity .8; bytes of rows that differ are
# equal once in 256.
_MIN_EQUAL_BYTES = 0.8 + 0.2 / 256
# Of texts that share a band, each is compared with the first and with so many before.
_LAGS = 8
_CHUNK = 1 << 14

# Word 12-grams, and in Thai 48 characters, as `quality` counts four for a word: of so
# many of `minhash`'s 5-grams in a row.
_CONTAMINATION_WORDS = 12
_WINDOW = _CONTAMINATION_WORDS - 4
_WINDOW_UNSPACED = 4 * _CONTAMINATION_WORDS - 4
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # Odd, so that it has an inverse.
_MANY_SHINGLES = 1 << 12

_ENDS = tuple(".!?…।॥|۔؟")
_CLOSERS = " \n\"'”’»)]*"
# Thai has no mark for a sentence's end.
_UNMARKED = frozenset({"th"})
_SENTENCE = re.compile(r"[^.!?।॥۔؟\n]{40,}")
_ENGLISH_WORDS = re.compile(
    r"\b(?:the|and|of|is|are|with|for|that|this|you|your|from|was|have|it)\b", re.I
)


OFFENCES = (
    "output_language",
    "instruction_english",
    "same_instruction",
    "same_output",
    "near_instruction",
    "near_output",
    "contamination",
    "stray_marks",
    "ill_posed",
)


def in_language(text: str, language: str) -> bool:
    """Whether a text is in a language, as surely as a page's verdict says it.

    A fast detector that is sure, the script and the absence of a neighbour's words are
    enough; else the verdict decides.

    Args:
      text: Any; its first 2,000 characters count.
      language: A key of `LANGUAGES`.
    """
    text = text[:_LANGUAGE_CHARS]
    if (
        fast_guess(text) == language
        and language in possible_languages(text)
        and not unseen_neighbour(text, language)
    ):
        return True
    return verdict(text, LANGUAGES).language == language


class EvaluationSet:
    """The n-grams of an evaluation set's texts, as sorted hashes.

    Args:
      file: .json, .jsonl, either with .gz, or a text of which every line counts.

    Attributes:
      num_texts: All texts.
      num_long: Those with at least 12 words, or in Thai 48 characters. Shorter ones
        cannot be found.
    """

    def __init__(self, file: str) -> None:
        found: list[np.ndarray] = []
        self.num_texts = self.num_long = 0
        for text in _evaluation_texts(file):
            codes = ("en", "th") if script_counts(text)["Thai"] else ("en",)
            grams = [_ngrams(minhash.shingles(text, code), code) for code in codes]
            self.num_texts += 1
            self.num_long += any(map(len, grams))
            found += grams
        if not self.num_texts:
            raise ValueError(f"Evaluation set {file} holds no text.")
        self._hashes = np.unique(np.concatenate(found))

    def shares_with(self, grams: np.ndarray) -> bool:
        """Whether any of a text's n-grams is one of the set's."""
        if not len(self._hashes) or not len(grams):
            return False
        places = np.searchsorted(self._hashes, grams)
        places[places == len(self._hashes)] = 0
        return bool((self._hashes[places] == grams).any())


def _evaluation_texts(file: str) -> Iterator[str]:
    if ".json" not in Path(file).name:
        with open(file, encoding="utf-8", errors="replace") as lines:
            yield from (line for line in lines if line.strip())
        return
    for _, value in rows.of_file(file):
        yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, those that are keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _ngrams(shingles: np.ndarray, language: str) -> np.ndarray:
    """Hashes of a text's word 12-grams, in Thai of its 48-grams of characters.

    Case, punctuation and the digits of numbers do not count, as in `minhash`. A row of
    the same 5-gram, such as a table of numbers, is none.

    Args:
      shingles: The text's, from `minhash`.
      language: A key of `LANGUAGES`, or "en".

    Returns:
      `[number]` uint64.
    """
    window = _WINDOW_UNSPACED if language == "th" else _WINDOW
    number = len(shingles)
    if number < window:
        return np.empty(0, np.uint64)
    # The sum of shingle x factor^place, from differences of running sums, brought back
    # to place 0; all modulo 2^64.
    forth, back = _powers(number)
    sums = np.zeros(number + 1, np.uint64)
    np.cumsum(shingles * forth, out=sums[1:])
    hashes = (sums[window:] - sums[:-window]) * back[: number - window + 1]
    changes = np.zeros(number, np.int64)
    np.cumsum(shingles[1:] != shingles[:-1], out=changes[1:])
    return hashes[changes[window - 1 :] > changes[: number - window + 1]]


def _powers(number: int) -> tuple[np.ndarray, np.ndarray]:
    """1, factor, factor^2, … modulo 2^64, and their inverses."""
    longest = max(_MANY_SHINGLES, 1 << (number - 1).bit_length())
    forth, back = _all_powers(longest)
    return forth[:number], back[:number]


@functools.lru_cache(maxsize=4)
def _all_powers(number: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.uint64(pow(int(_FACTOR), -1, 1 << 64))
    powers = []
    for base in (_FACTOR, inverse):
        each = np.full(number, base)
        each[0] = 1
        powers.append(np.multiply.accumulate(each))
    return powers[0], powers[1]


class Places:
    """How many rows there are of some kind, and the first few of them.

    Attributes:
      count: All of them.
      first: Numbers of the first.
      twins: For some of these, the number of the row that they repeat.
    """

    __slots__ = ("count", "first", "twins")

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []
        self.twins: dict[int, int] = {}

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < _MAX_SHOWN:
            self.first.append(number)

    def merge(self, other: "Places") -> None:
        self.count += other.count
        self.first = sorted([*self.first, *other.first])[:_MAX_SHOWN]
        self.twins = self.twins | other.twins


class _Moments:
    """Mean and standard deviation of whole numbers."""

    def __init__(self) -> None:
        self.count = self.total = self.squares = 0

    def add(self, value: int) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value

    def merge(self, other: "_Moments") -> None:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        # Whole numbers of any size until here: nothing cancels.
        variance = self.count * self.squares - self.total * self.total
        return math.sqrt(variance) / self.count


class _Side:
    """What is kept of the instructions, or of the outputs, of a language: 240 bytes."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.digests = array("Q")
        self.keys = array("Q")
        self.signatures = bytearray()

    def add(self, number: int, text: str, shingles: np.ndarray) -> None:
        """Takes in a text and the shingles that `minhash` makes of it."""
        digest = _digest(text)
        if len(shingles):
            signature = minhash.signature(shingles)
        else:  # Without words a text resembles only its equals.
            signature = np.frombuffer(digest.to_bytes(8, "little") * 56, "<u4")
        bands = signature.reshape(minhash.NUM_BANDS, minhash.NUM_ROWS)
        powers, _ = _powers(minhash.NUM_ROWS)
        self.numbers.append(number)
        self.digests.append(digest)
        self.keys.frombytes((bands.astype(np.uint64) @ powers).tobytes())
        # Eight bits of each row are enough to see which rows are equal.
        self.signatures += signature.astype(np.uint8).tobytes()

    def same(self) -> dict[int, int]:
        """Rows whose very text came before, and the row where it did, by number."""
        digests = np.frombuffer(self.digests, np.uint64)
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        before = first[group]
        return self._numbered(np.arange(len(digests)), before)

    def near(self) -> dict[int, int]:
        """Rows that another, not equal one resembles that came before, and that one.

        Candidates share a band of the MinHash; their Jaccard similarity is estimated
        by its 112 rows, to ±.04 at .8.
        """
        digests = np.frombuffer(self.digests, np.uint64)
        # One of each text, in the order of their first rows.
        first = np.sort(np.unique(digests, return_index=True)[1])
        keys = np.frombuffer(self.keys, np.uint64).reshape(-1, minhash.NUM_BANDS)
        signatures = np.frombuffer(self.signatures, np.uint8).reshape(len(digests), -1)
        places = np.arange(len(first))
        like = places.copy()
        for band in keys[first].T:
            order = np.argsort(band, kind="stable")
            band = band[order]
            new = np.append(True, band[1:] != band[:-1])
            starts = np.maximum.accumulate(np.where(new, places, 0))
            for lag in range(_LAGS + 1):
                before = starts if lag == 0 else np.maximum(places - lag, starts)
                pairs = (before < places) & (like[order] == order)
                ours, theirs = order[pairs], order[before[pairs]]
                for at in range(0, len(ours), _CHUNK):
                    a, b = ours[at : at + _CHUNK], theirs[at : at + _CHUNK]
                    equal = signatures[first[a]] == signatures[first[b]]
                    found = equal.mean(axis=1) >= _MIN_EQUAL_BYTES
                    like[a[found]] = b[found]
        return self._numbered(first, first[like])

    def _numbered(self, rows: np.ndarray, others: np.ndarray) -> dict[int, int]:
        """Numbers of places, and of those that are not the same place."""
        numbers = np.frombuffer(self.numbers, np.uint64)
        apart = rows != others
        pairs = (numbers[rows[apart]].tolist(), numbers[others[apart]].tolist())
        return dict(zip(*pairs, strict=True))


class Tally:
    """What is counted of the rows of a language; or of all, by merging.

    Args:
      scope: A key of `LANGUAGES`, or another name.

    Attributes:
      scope: As given.
      rows: All of them.
      wrong: By each of `OFFENCES`, the rows that are to blame.
      worst_marks: The largest share of stray marks of an output.
      contaminated: Rows by the evaluation set that they share n-grams with.
      by_verb: Rows by root verb; "" is none.
      by_domain: Rows by domain, of those that have one.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.rows = 0
        self.wrong = {name: Places() for name in OFFENCES}
        self.worst_marks = 0.0
        self.contaminated: Counter[str] = Counter()
        self.by_verb: dict[str, Places] = {}
        self.by_domain: dict[str, Places] = {}
        self.sides = {"instruction": _Side(), "output": _Side()}
        self.lengths = {"instruction": _Moments(), "output": _Moments()}
        self.ended = self.could_end = self.with_english = 0
        self.words = array("Q")
        self.bigrams = array("Q")

    def add(self, number: int, row: Row, against: Mapping[str, EvaluationSet]) -> None:
        instruction, output, language = row.instruction, row.output, row.language
        self.rows += 1
        wrong = self.wrong
        if not in_language(output, language):
            wrong["output_language"].add(number)
        if not instructions.is_english(instruction):
            wrong["instruction_english"].add(number)
        if instructions.is_ill_posed(instruction):
            wrong["ill_posed"].add(number)
        marks = stray_marks(output, LANGUAGES[language].script)
        self.worst_marks = max(self.worst_marks, marks)
        if marks > MAX_STRAY_MARKS:
            wrong["stray_marks"].add(number)
        texts = {"instruction": (instruction, "en"), "output": (output, language)}
        grams = []
        for side, (text, code) in texts.items():
            shingles = minhash.shingles(text, code)
            self.sides[side].add(number, text, shingles)
            self.lengths[side].add(len(text))
            if against:
                grams.append(_ngrams(shingles, code))
        if found := [
            n for n, each in against.items() if any(map(each.shares_with, grams))
        ]:
            self.contaminated.update(found)
            wrong["contamination"].add(number)
        verb, _ = verbs.root(instruction)
        self.by_verb.setdefault(verb, Places()).add(number)
        if row.domain:
            self.by_domain.setdefault(row.domain, Places()).add(number)
        if language not in _UNMARKED:
            self.could_end += 1
            self.ended += output.rstrip(_CLOSERS).endswith(_ENDS)
        self.with_english += has_english(output)
        words = [_word(word) for word in re.findall(r"\w+", instruction.lower())]
        self.words.extend(words)
        self.bigrams.extend(
            (a * int(_FACTOR) + b) % (1 << 64) for a, b in itertools.pairwise(words)
        )

    def merge(self, other: "Tally") -> None:
        """Adds what another language has; `other` must have been finished."""
        self.rows += other.rows
        self.worst_marks = max(self.worst_marks, other.worst_marks)
        self.contaminated += other.contaminated
        for ours, theirs in (
            (self.wrong, other.wrong),
            (self.by_verb, other.by_verb),
            (self.by_domain, other.by_domain),
        ):
            for key, places in theirs.items():
                ours.setdefault(key, Places()).merge(places)
        for side, lengths in other.lengths.items():
            self.lengths[side].merge(lengths)
        self.ended += other.ended
        self.could_end += other.could_end
        self.with_english += other.with_english
        self.words += other.words
        self.bigrams += other.bigrams

    def finish(self) -> None:
        """Looks for repeated texts: of one language, since others do not repeat them.

        Two languages may answer one instruction. What was kept for it is let go.
        """
        for side, kept in self.sides.items():
            for name, found in (("same", kept.same()), ("near", kept.near())):
                places = self.wrong[f"{name}_{side}"]
                places.count, places.first = len(found), sorted(found)[:_MAX_SHOWN]
                places.twins = {number: found[number] for number in places.first}
        self.sides = {}

    def figures(self) -> dict[str, Any]:
        """What is reported without a gate; None where it does not apply."""
        figures: dict[str, Any] = {"rows": self.rows}
        for place, (side, lengths) in enumerate(self.lengths.items()):
            figures[f"{side}_chars"] = round(lengths.mean, 1)
            figures[f"{side}_chars_deviation"] = round(lengths.deviation, 1)
            published = paper.LENGTHS.get(self.scope)
            z = None
            if published:
                mean, deviation = published[place]
                z = (lengths.mean - mean) / deviation
            figures[f"{side}_chars_z"] = None if z is None else round(z, 2)
        counts = Counter({verb: places.count for verb, places in self.by_verb.items()})
        figures["without_verb"] = round(counts.pop("", 0) / self.rows, 4)
        figures["verb_entropy"] = round(entropy(counts.values()), 2)
        figures["verb_divergence"] = divergence(counts, paper.VERB_SHARES)
        figures["top_verbs"] = {
            verb: round(count / self.rows, 4) for verb, count in counts.most_common(10)
        }
        ended = self.ended / self.could_end if self.could_end else None
        figures["ended"] = None if ended is None else round(ended, 4)
        figures["with_english"] = round(self.with_english / self.rows, 4)
        for name, hashes in (("distinct_1", self.words), ("distinct_2", self.bigrams)):
            number = len(np.unique(np.frombuffer(hashes, np.uint64))) if hashes else 0
            figures[name] = round(number / len(hashes), 4) if hashes else None
        return figures


def has_english(text: str) -> bool:
    """Whether a stretch of 40 characters or more between sentence ends is English."""
    for sentence in _SENTENCE.findall(text):
        if len(_ENGLISH_WORDS.findall(sentence)) > 1 and fast_guess(sentence) == "en":
            return True
    return False


def entropy(counts: Iterable[int]) -> float:
    """In bits."""
    counts = [count for count in counts if count]
    total = sum(counts)
    return sum(c / total * math.log2(total / c) for c in counts)


def divergence(counts: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """Jensen–Shannon divergence in bits, in [0, 1], from shares of the top words.

    Ours are cut to as many top words as there are shares, since the paper's chart shows
    no others; None without any.
    """
    ours = dict(Counter(counts).most_common(len(shares)))
    if not (total := sum(ours.values())):
        return None
    whole = sum(shares.values())
    found = 0.0
    for word in ours.keys() | shares.keys():
        p, q = ours.get(word, 0) / total, shares.get(word, 0.0) / whole
        found += sum(x / 2 * math.log2(2 * x / (p + q)) for x in (p, q) if x)
    return round(found, 4)


@functools.lru_cache(maxsize=1 << 16)
def _word(word: str) -> int:
    return _digest(word)


def _digest(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
