"""Band keys: what a near duplicate is, against sets of 5-grams made the plain way."""

import itertools
import random
import sys
import tracemalloc
import unicodedata

import numpy as np
import pytest

from beam_pipelines import minhash

SWAHILI = (
    "Wakulima wa mkoa wa Tabora wamevuna mahindi mengi mwaka huu, baada ya mvua "
    "kunyesha kwa wakati. Bei ya gunia moja imeshuka hadi shilingi 45,000 sokoni."
)
THAI = "ชาวนาในหมู่บ้านเกี่ยวข้าวเสร็จก่อนฝนจะตก แล้วช่วยกันขนข้าวขึ้นยุ้งจนค่ำ"


def plain_grams(text: str, language: str) -> set[tuple[str, ...]]:
    """The set of 5-grams, as the docstring of `shingles` says and one at a time."""
    words, in_number = [""], False
    for sign in text:
        category = unicodedata.category(sign)
        if category == "Cf":
            continue
        if category == "Nd":
            words[-1] += "" if in_number else "0"
        elif category[0] in "LM":
            words[-1] += sign.lower()
        else:
            words.append("")
        in_number = category == "Nd"
    words = [word for word in words if word]
    units = list("".join(words)) if language == "th" else words
    number = min(5, len(units))
    if not number:
        return set()
    return {tuple(units[at : at + number]) for at in range(len(units) - number + 1)}


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def share_a_band(one: str, other: str, language: str = "sw") -> bool:
    keys = (minhash.band_keys(text, language) for text in (one, other))
    return not set(next(keys)).isdisjoint(next(keys))


def words(rng: random.Random, number: int) -> list[str]:
    syllables = "ba cho da fu ga ha ji ka li mo nya po sha ta u vi wa ya zi".split()
    return [
        "".join(rng.choices(syllables, k=rng.randrange(1, 4))) for _ in range(number)
    ]


def edited(rng: random.Random, text: list[str], share: float) -> list[str]:
    """The text with a share of its words replaced, in runs as an editor does it."""
    result = list(text)
    for _ in range(round(share * len(text) / 4)):
        at = rng.randrange(len(text) - 4)
        result[at : at + 4] = words(rng, 4)
    return result


def pairs(number: int) -> list[tuple[str, str, str]]:
    """Language and two texts, from one and the same to no relation."""
    rng = random.Random(0)
    made = []
    for index in range(number):
        language, gap = [("sw", " "), ("th", "")][index % 2]
        text = words(rng, rng.randrange(80, 400))
        other = edited(rng, text, rng.random() ** 2)
        made.append((language, gap.join(text), gap.join(other)))
    return made


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (SWAHILI, "sw"),
        (THAI, "th"),
        ("Ülkede 1.250 öğrenci,\nİstanbul'da 30'u…", "tr"),
        ("राम ने १२ आम खाए, और सीता ने ३ केले खाए।", "hi"),
        ("می\u200cخواهم یہ کتاب ۲۰ روپے میں خریدنا چاہتا ہوں", "ur"),
        ("moja mbili tatu", "sw"),
        ("ก1ข", "th"),
        ("a", "sw"),
        ("𝐁𝐨𝐥𝐝 🎉 ni moja, mbili na tatu tu", "sw"),
    ],
)
def test_shingles_are_the_5_grams_of_words_and_of_thai_characters(text, language):
    grams = minhash.shingles(text, language)
    in_plane = "".join(sign for sign in text if sign <= "\uffff")
    assert len(set(grams.tolist())) == len(plain_grams(in_plane, language)) > 0


def test_shingles_have_the_similarity_of_5_grams_made_the_plain_way():
    for language, one, other in pairs(60):
        hashed = [set(minhash.shingles(t, language).tolist()) for t in (one, other)]
        plain = [plain_grams(text, language) for text in (one, other)]
        assert jaccard(*hashed) == jaccard(*plain)


def test_equal_rows_are_as_frequent_as_common_shingles():
    errors = []
    for language, one, other in pairs(200):
        grams = [minhash.shingles(text, language) for text in (one, other)]
        rows = [minhash.signature(of_text) for of_text in grams]
        similarity = jaccard(*(set(of_text.tolist()) for of_text in grams))
        errors.append(np.mean(rows[0] == rows[1]) - similarity)
    # The standard deviation of 112 rows is 0.047 at most, of 200 such means 0.0033.
    assert np.abs(errors).max() < 4.5 * 0.047
    assert abs(np.mean(errors)) < 4 * 0.0033


def test_near_duplicates_share_a_band_and_texts_apart_do_not():
    near, far = [], []
    for language, one, other in pairs(600):
        similarity = jaccard(plain_grams(one, language), plain_grams(other, language))
        if similarity >= 0.9:
            near.append(share_a_band(one, other, language))
        elif similarity <= 0.4:
            far.append(share_a_band(one, other, language))
    assert min(len(near), len(far)) > 100
    assert np.mean(near) >= 0.99
    assert np.mean(far) <= 0.02


@pytest.mark.parametrize(
    "other",
    [
        SWAHILI.upper(),
        SWAHILI.replace(",", " –").replace(".", "!!"),
        SWAHILI.replace("45,000", "7,250"),
        SWAHILI.replace(" ", "\n\n"),
        SWAHILI.replace("mahindi", "ma\u00adhin\u200bdi"),
        f"«{SWAHILI}» 🎉",
    ],
)
def test_case_punctuation_numbers_and_invisible_signs_do_not_tell_texts_apart(other):
    assert minhash.band_keys(other, "sw") == minhash.band_keys(SWAHILI, "sw")


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("काल", "कल", "hi"),
        ("কি", "কী", "bn"),
        ("ข้าว", "ขาว", "th"),
        ("má", "mà", "vi"),
        ("öl", "ol", "tr"),
        ("moja 1", "moja", "sw"),
    ],
)
def test_vowel_signs_tones_and_marks_tell_texts_apart(one, other, language):
    assert not share_a_band(one, other, language)


def test_spaces_tell_thai_texts_apart_as_little_as_punctuation_does():
    spaced = THAI.replace("ข้าว", " ข้าว ") + " ๆ"
    assert minhash.band_keys(spaced, "th") == minhash.band_keys(f"{THAI}ๆ", "th")
    assert not share_a_band(spaced, THAI, "sw")


def test_texts_of_two_languages_share_no_band():
    keys = [set(minhash.band_keys(SWAHILI, code)) for code in ("sw", "id", "th")]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(keys, 2))


def test_a_text_shorter_than_a_5_gram_is_near_to_its_own_words_only():
    assert share_a_band("Habari za asubuhi!", "habari ZA asubuhi")
    for other in (
        "Habari za",
        "Habari za jioni",
        "asubuhi za Habari",
        "Habariza asubuhi",
    ):
        assert not share_a_band("Habari za asubuhi!", other)


@pytest.mark.parametrize("text", ["", " \n", "—", "***", "🎉", "\u200b"])
def test_a_text_without_words_is_near_to_nothing(text):
    assert minhash.band_keys(text, "sw") == minhash.band_keys(text, "th") == []


def test_keys_are_of_14_bands_of_8_rows():
    keys = minhash.band_keys(SWAHILI, "sw")
    rows = minhash.signature(minhash.shingles(SWAHILI, "sw"))
    assert len(set(keys)) == 14
    assert rows.shape == (14 * 8,)
    assert {len(key) for key in keys} == {16}


def test_keys_are_the_same_on_every_machine_and_version():
    assert minhash.band_keys(SWAHILI, "sw")[::13] == SWAHILI_KEYS
    assert minhash.band_keys(THAI, "th")[::13] == THAI_KEYS


SWAHILI_KEYS = ["d9c5bae4c88379ce", "facc9e2f96884493"]
THAI_KEYS = ["76faf1ed12ac9437", "073f07579d7f4a4b"]


@pytest.mark.parametrize("language", ["sw", "th"])
def test_any_characters_are_a_text(language):
    for text in (
        "".join(map(chr, range(sys.maxunicode + 1))),
        "\ud800 a \udfff \x00 b",
        "a" * 100_000,
        "1" * 100_000,
        " " * 100_000 + "a",
    ):
        assert len(minhash.band_keys(text, language)) == 14


def test_a_signature_needs_no_more_memory_for_a_longer_text():
    peaks = []
    for number in (10_000, 1_000_000):
        grams = np.arange(number, dtype=np.uint32)
        tracemalloc.start()
        minhash.signature(grams)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 1 << 20
