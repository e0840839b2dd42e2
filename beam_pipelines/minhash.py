"""MinHash of a text: near duplicates share a band key, other texts hardly ever.

14 bands of 8 rows over 5-grams, as FineWeb2 has them. Two texts whose sets of 5-grams
have Jaccard similarity s share a band with probability 1 - (1 - s^8)^14: 1 % at 0.4,
half at 0.68, 92 % at 0.8, 99.96 % at 0.9. No use of `hash` or of a random generator:
any machine and version computes the same keys.
"""

import functools
import hashlib
import unicodedata

import numpy as np

NUM_BANDS = 14
NUM_ROWS = 8
_NGRAM = 5
# Written without spaces between words, so that 5-grams are of characters.
_UNSPACED = frozenset(("th",))

# What characters become; any number above is a letter or a mark, in lower case.
_INVISIBLE, _GAP, _DIGIT = 0, ord(" "), ord("0")
# Of so many shingles at a time, all rows together stay in a core's cache.
_BLOCK = 256
# Odd, so that it has an inverse modulo 2^64; 5 modulo 8, so that its powers differ.
_BASE = 6364136223846793005


def band_keys(text: str, language: str) -> list[str]:
    """What a text is grouped by: a key for each band, none for a text without words.

    Args:
      text: In NFC; a lone surrogate does no harm.
      language: A key of `LANGUAGES`; texts of two languages share no key.
    """
    grams = shingles(text, language)
    if not len(grams):
        return []
    bands = signature(grams).astype("<u4").reshape(NUM_BANDS, NUM_ROWS)
    # 64 bits: a crawl of 10^8 documents has 0.05 accidental pairs.
    return [
        hashlib.blake2b(
            f"{language} {number} ".encode() + band.tobytes(), digest_size=8
        ).hexdigest()
        for number, band in enumerate(bands)
    ]


def shingles(text: str, language: str) -> np.ndarray:
    """Hashes of a text's 5-grams of words, of characters where words are not spaced.

    Pages of one template differ in case, punctuation and numbers, so none of these
    tells texts apart: letters are lower case, any number is one digit, and anything
    but letters, marks and digits is a gap. Marks stay, unlike in datatrove: they are
    the vowels of Thai and of the Indic scripts, the tones of Vietnamese. Gaps do not
    count where words are not spaced. A text of fewer than 5 words, or of fewer than 5
    characters, is one shingle.

    Returns:
      `[S]` uint32, in order of the text, repeated ones included.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    # Characters beyond the table become its last, a noncharacter and so a gap.
    signs = np.take(_signs(), codes, mode="clip")
    signs = np.pad(signs[signs != _INVISIBLE], 1, constant_values=_GAP)
    runs_on = (signs[1:] == signs[:-1]) & (signs[1:] <= _DIGIT)
    signs = signs[np.append(True, ~runs_on)]
    if language in _UNSPACED:
        signs = signs[signs != _GAP]
        bounds = np.arange(len(signs) + 1)
    else:
        bounds = np.flatnonzero(signs == _GAP)
    units = min(_NGRAM, len(bounds) - 1)
    if not units:
        return np.empty(0, np.uint32)
    starts, ends = bounds[:-units], bounds[units:]
    # The sum of sign x base^place, from differences of running sums, brought back to
    # place 0; all modulo 2^64.
    places = len(signs) + 1
    sums = np.zeros(places, np.uint64)
    np.cumsum(signs * _powers(_BASE, places)[:-1], out=sums[1:])
    back = _powers(pow(_BASE, -1, 1 << 64), places)
    grams = _mix((sums[ends] - sums[starts]) * back[starts])
    return (grams >> np.uint64(32)).astype(np.uint32)


def signature(grams: np.ndarray) -> np.ndarray:
    """For each of 112 orders of all shingles, the first of a text: `[112]` uint32.

    Args:
      grams: At least one of `shingles`.
    """
    factors, terms = _orders()
    least = np.full(len(factors), np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(grams), _BLOCK):
        block = grams[start : start + _BLOCK, np.newaxis] * factors
        block += terms
        np.minimum(least, block.min(axis=0), out=least)
    return least


@functools.cache
def _signs() -> np.ndarray:
    """What each character of the basic plane becomes: `[65536]` uint64."""
    signs = np.full(1 << 16, _GAP, np.uint64)
    for code in range(len(signs)):
        category = unicodedata.category(chr(code))
        if category == "Nd":
            signs[code] = _DIGIT
        elif category == "Cf":  # joiners, soft hyphens, marks of direction
            signs[code] = _INVISIBLE
        elif category[0] in "LM":
            signs[code] = ord(chr(code).lower()[0])
    return signs


@functools.cache
def _orders() -> tuple[np.ndarray, np.ndarray]:
    """Factor and term of each row: x -> factor * x + term modulo 2^32 is an order."""
    numbers = _mix(np.arange(1, 2 * NUM_BANDS * NUM_ROWS + 1, dtype=np.uint64))
    factors, terms = np.split((numbers >> np.uint64(32)).astype(np.uint32), 2)
    return factors | np.uint32(1), terms


def _powers(base: int, number: int) -> np.ndarray:
    """1, base, base^2, … modulo 2^64."""
    powers = np.full(number, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """A permutation of 64-bit numbers that leaves no pattern: SplitMix64."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
