"""Rules at their bounds, pieces of long texts, and the bundled pages with a fault."""

import dataclasses
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipelines import quality
from beam_pipelines.extract import tidy
from beam_pipelines.language import verdict
from beam_pipelines.quality import drop_reason, measure, pieces
from beam_pipelines.recipe import Documents
from beam_pipelines.schema import LANGUAGES

PAGES = Path(__file__).parents[2] / "examples" / "pages"
LIMITS = Documents()


def bundled(name: str) -> list[dict]:
    lines = (PAGES / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text_of(page: dict) -> str:
    return tidy("\n".join(page["paragraphs"]))


# What is measured.

SENTENCE = "Mvua ilinyesha usiku kucha."
EMPTY = {
    "chars": 0.0,
    "script": 0.0,
    "repeated_lines": 0.0,
    "repeated_ngrams": 0.0,
    "mean_line": 0.0,
    "ended_lines": 0.0,
    "stray_marks": 0.0,
    "policy_words": 0.0,
    "lorem": 0.0,
    "replaced": 0.0,
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_an_empty_text_measures_nothing_and_is_too_short(code):
    assert measure("", code) == EMPTY
    assert drop_reason(EMPTY, code, LIMITS) == "too_short"


@pytest.mark.parametrize(
    ("check", "code", "text", "value"),
    [
        ("chars", "sw", SENTENCE, len(SENTENCE)),
        ("chars", "hi", "हिंदी", 5),
        ("script", "sw", "abcd", 1.0),
        ("script", "sw", "abc क", 0.75),
        ("script", "hi", "abc क", 0.25),
        ("script", "hi", "123 क।", 1.0),
        ("script", "ur", "ہےab", 0.5),
        ("repeated_lines", "sw", "aaaa\n\nbb\n\naaaa", 0.4),
        ("repeated_lines", "sw", "aaaa\n\naaaa\n\naaaa\n\nbbb", 8 / 15),
        ("repeated_lines", "sw", "aaaa\n\nAAAA", 0.0),
        # Fifth words: 20 of 40 characters come again.
        ("repeated_ngrams", "sw", "moja mbili tatu nne tano " * 2, 0.5),
        ("repeated_ngrams", "sw", "A bb ccc dddd ee a BB ccc dddd ee", 0.5),
        ("repeated_ngrams", "sw", "moja mbili tatu nne " * 2, 0.0),
        ("repeated_ngrams", "sw", "moja mbili tatu nne tano " * 3, 2 / 3),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณด" * 2, 0.5),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณด " * 2, 0.5),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณ" * 2, 0.0),
        ("mean_line", "sw", "a" * 10 + "\n\n" + "a" * 20, 15.0),
        ("ended_lines", "sw", "Moja.\n\nMbili\n\nTatu!\n\nNne", 0.5),
        ("ended_lines", "hi", "एक।\n\nदो॥", 1.0),
        ("ended_lines", "ur", "ایک۔\n\nدو؟", 1.0),
        ("ended_lines", "sw", 'Alisema: "Ndiyo."\n\n(Hapana)\n\n“Sawa”', 1.0),
        ("ended_lines", "sw", "moja,\n\nmbili -", 0.0),
        ("stray_marks", "hi", "कि की कु", 0.0),
        ("stray_marks", "hi", "ि क", 1.0),
        ("stray_marks", "hi", "काा कि", 1 / 3),
        ("stray_marks", "hi", "कािकि", 1 / 3),
        ("stray_marks", "hi", "कंं कि", 1 / 3),
        ("stray_marks", "hi", "हिंदी क्षि ड़ी", 0.0),
        ("stray_marks", "bn", "ক\u200dা কো", 0.0),
        ("stray_marks", "ta", "கி ெக", 0.5),
        ("stray_marks", "ta", "1ி", 1.0),
        ("stray_marks", "th", "ิก", 0.0),
        ("stray_marks", "sw", "\u0301a", 0.0),
        ("policy_words", "sw", "faragha " + "neno " * 49, 2.0),
        ("policy_words", "sw", "“Faragha,” (vidakuzi) " + "neno " * 98, 1.0),
        ("policy_words", "tr", "çerez, gizlilik " + "kelime " * 18, 10.0),
        ("policy_words", "th", "คุกกี้" + "ก" * 54, 10.0),
        ("lorem", "sw", "Lorem ipsum dolor sit amet.", 2.0),
        ("lorem", "sw", "LOREM IPSUM, Consectetur Adipiscing", 2.0),
        ("lorem", "sw", "Kalorem ipsum", 0.0),
        ("replaced", "sw", "ab\ufffdd", 0.25),
    ],
)  # fmt: skip
def test_measure_counts_as_its_name_says(check, code, text, value):
    assert measure(text, code)[check] == pytest.approx(value)


def test_measure_gives_each_rule_a_value_and_shares_are_shares():
    rng = random.Random(0)
    alphabet = "ab ก ক ि ே ہ . \n। \ufffd 1"
    for number in range(300):
        text = tidy("".join(rng.choices(alphabet, k=rng.randrange(80))))
        found = measure(text, list(LANGUAGES)[number % 10])
        assert found.keys() == EMPTY.keys()
        assert all(type(value) is float and value >= 0 for value in found.values())
        for name in found.keys() - {"chars", "mean_line", "policy_words", "lorem"}:
            assert found[name] <= 1, name


@pytest.mark.parametrize("code", LANGUAGES)
def test_policy_words_are_found_in_every_language(code):
    phrases = quality._POLICY_PHRASES[code].split(", ")
    assert len(set(phrases)) == len(phrases)
    for phrase in phrases:
        assert measure(phrase, code)["policy_words"] == 100, phrase
    assert measure(", ".join(phrases), code)["policy_words"] >= 90


def test_vietnamese_text_about_fish_and_books_is_no_policy():
    text = (
        "Mùa thu năm ấy, bác Tư mang cá ra chợ bán, mỗi cân được năm mươi nghìn đồng. "
        "Về nhà, bác ngồi đọc sách cho các cháu nghe. Điều bác thích nhất là cuốn sách "
        "kể chuyện con cá vàng sống một mình giữa cánh đồng ngập nước."
    )
    assert measure(text, "vi")["policy_words"] <= LIMITS.max_policy_words


# Thresholds.

GOOD = EMPTY | {
    "chars": 500.0,
    "script": 1.0,
    "mean_line": 100.0,
    "ended_lines": 1.0,
}
# Reason, check, limit, and which way is worse.
RULES = [
    ("too_short", "chars", "min_chars", -1.0),
    ("mixed_script", "script", "min_script", -0.001),
    ("repeated_lines", "repeated_lines", "max_repeated_lines", 0.001),
    ("repeated_ngrams", "repeated_ngrams", "max_repeated_ngrams", 0.001),
    ("short_lines", "mean_line", "min_mean_line", -0.001),
    ("no_sentences", "ended_lines", "min_ended_lines", -0.001),
    ("stray_marks", "stray_marks", "max_stray_marks", 0.001),
    ("policy", "policy_words", "max_policy_words", 0.001),
]


@pytest.mark.parametrize(("reason", "check", "limit", "worse"), RULES)
def test_a_text_is_dropped_just_beyond_each_bound(reason, check, limit, worse):
    bound = getattr(LIMITS, limit)
    for value, expected in [
        (bound - worse, None),
        (bound, None),
        (bound + worse, reason),
    ]:
        assert drop_reason(GOOD | {check: value}, "sw", LIMITS) == expected


@pytest.mark.parametrize(("reason", "check", "limit", "worse"), RULES)
def test_each_bound_is_the_recipes_own(reason, check, limit, worse):
    bound = getattr(LIMITS, limit)
    dropped = GOOD | {check: bound + worse}
    step = int(worse) if limit == "min_chars" else worse
    moved = dataclasses.replace(LIMITS, **{limit: bound + step})
    assert drop_reason(dropped, "sw", LIMITS) == reason
    assert drop_reason(dropped, "sw", moved) is None


@pytest.mark.parametrize(
    ("reason", "check", "kept", "dropped"),
    [("lorem_ipsum", "lorem", 0.0, 1.0), ("undecodable", "replaced", 0.001, 0.0011)],
)
def test_a_text_is_dropped_beyond_the_fixed_bounds(reason, check, kept, dropped):
    assert drop_reason(GOOD | {check: kept}, "sw", LIMITS) is None
    assert drop_reason(GOOD | {check: dropped}, "sw", LIMITS) == reason


@pytest.mark.parametrize("code", LANGUAGES)
def test_lines_must_end_as_sentences_except_in_thai(code):
    expected = None if code == "th" else "no_sentences"
    assert drop_reason(GOOD | {"ended_lines": 0.0}, code, LIMITS) == expected


def test_of_several_broken_rules_the_first_is_named():
    order = [
        "too_short", "lorem_ipsum", "undecodable", "mixed_script", "repeated_lines",
        "repeated_ngrams", "short_lines", "no_sentences", "stray_marks", "policy",
    ]  # fmt: skip
    broken = {
        "chars": 1.0, "lorem": 1.0, "replaced": 1.0, "script": 0.0,
        "repeated_lines": 1.0, "repeated_ngrams": 1.0, "mean_line": 1.0,
        "ended_lines": 0.0, "stray_marks": 1.0, "policy_words": 100.0,
    }  # fmt: skip
    for number, (reason, check) in enumerate(zip(order, broken, strict=True)):
        mended = dict.fromkeys(list(broken)[:number])
        checks = broken | {name: GOOD[name] for name in mended}
        assert drop_reason(checks, "sw", LIMITS) == reason, check
    assert drop_reason(GOOD, "sw", LIMITS) is None


# The bundled pages.


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_sound_bundled_page_is_kept(code):
    for page in bundled(code):
        for piece in pieces(text_of(page), LIMITS):
            assert drop_reason(measure(piece, code), code, LIMITS) is None, page["path"]


# The rule that each fault was written to break; there is none for personal data.
REASONS = {
    "policy": {"policy"},
    "menu": {"short_lines"},
    "repetitive": {"repeated_lines", "repeated_ngrams"},
    "too_short": {"too_short"},
    "lorem_ipsum": {"lorem_ipsum"},
    "broken_orthography": {"stray_marks"},
    "mixed_language": {"mixed_script", "other_language"},
    "personal_data": {None},
}


def test_every_page_with_a_fault_is_dropped_for_it():
    pages = bundled("faults")
    assert {page["fault"] for page in pages} == REASONS.keys()
    for page in pages:
        code, text = page["language"], text_of(page)
        found = verdict(text, LANGUAGES)
        assert found.language == code or found.reason
        reasons = {found.reason} if found.reason else set()
        if not reasons:
            for piece in pieces(text, LIMITS):
                reasons.add(drop_reason(measure(piece, code), code, LIMITS))
        assert reasons, page["path"]
        assert reasons <= REASONS[page["fault"]], page["path"]


# Pieces.


def random_paragraphs(rng: random.Random, max_chars: int) -> list[str]:
    """Paragraphs that differ, of all lengths up to somewhat over the window."""
    longest = rng.choice([max_chars // 8, max_chars // 2, max_chars * 5 // 4])
    numbers = range(rng.randrange(1, 25))
    return [f"{n}." + "x" * rng.randrange(max(1, longest)) for n in numbers]


def random_limits(rng: random.Random) -> Documents:
    max_chars = rng.randrange(20, 200)
    min_chars = rng.randrange(1, max_chars)
    return Documents(min_chars=min_chars, max_chars=max_chars, max_pieces=10**6)


def spans(found: list[str], paragraphs: list[str]) -> list[range]:
    """Which paragraphs in a row each piece consists of."""
    at = {paragraph: number for number, paragraph in enumerate(paragraphs)}
    rows = [[at[part] for part in piece.split("\n\n")] for piece in found]
    assert all(row == list(range(row[0], row[-1] + 1)) for row in rows)
    return [range(row[0], row[-1] + 1) for row in rows]


def random_pages(count: int) -> Iterator[tuple[Documents, list[str]]]:
    for seed in range(count):
        rng = random.Random(seed)
        limits = random_limits(rng)
        yield limits, random_paragraphs(rng, limits.max_chars)


def test_pieces_are_runs_of_whole_paragraphs_in_the_window():
    for limits, paragraphs in random_pages(400):
        found = list(pieces("\n\n".join(paragraphs), limits))
        if len(found) == 1 and len(found[0]) < limits.min_chars:
            continue  # The one piece of a page that has none: see below.
        assert found
        for piece in found:
            assert limits.min_chars <= len(piece) <= limits.max_chars
        taken = spans(found, paragraphs)
        assert all(a.stop <= b.start for a, b in itertools.pairwise(taken))
        # Cut only where the next paragraph would not have fitted.
        for piece, span in zip(found, taken, strict=True):
            if span.stop < len(paragraphs):
                longer = f"{piece}\n\n{paragraphs[span.stop]}"
                assert len(longer) > limits.max_chars


def test_no_paragraph_that_fits_by_itself_is_lost():
    num_middle = 0
    for limits, paragraphs in random_pages(400):
        found = "\n\n".join(pieces("\n\n".join(paragraphs), limits)).split("\n\n")
        for number, paragraph in enumerate(paragraphs):
            if limits.min_chars <= len(paragraph) <= limits.max_chars:
                assert found.count(paragraph) == 1
                num_middle += 0 < number < len(paragraphs) - 1
    assert num_middle > 500


def test_a_page_gives_its_first_pieces_up_to_their_number():
    for limits, paragraphs in random_pages(100):
        text = "\n\n".join(paragraphs)
        every = list(pieces(text, limits))
        for number in range(1, len(every) + 2):
            fewer = dataclasses.replace(limits, max_pieces=number)
            assert list(pieces(text, fewer)) == every[:number]


def test_a_text_is_cut_one_character_over_the_window():
    limits = Documents(min_chars=10, max_chars=42)
    assert list(pieces("a" * 20 + "\n\n" + "b" * 20, limits)) == [
        "a" * 20 + "\n\n" + "b" * 20
    ]
    assert list(pieces("a" * 20 + "\n\n" + "b" * 21, limits)) == ["a" * 20, "b" * 21]


def test_a_rest_is_kept_from_the_least_length_on():
    limits = Documents(min_chars=10, max_chars=20)
    for num_chars, kept in [(9, False), (10, True), (20, True), (21, False)]:
        found = list(pieces("a" * 20 + "\n\n" + "b" * num_chars, limits))
        assert found == ["a" * 20, "b" * num_chars][: 1 + kept]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("short", ["short"]),
        ("x" * 21, [""]),
        ("x" * 21 + "\n\n" + "y" * 21, [""]),
        ("x" * 21 + "\n\nshort", ["short"]),
        ("x" * 21 + "\n\n" + "y" * 15 + "\n\n" + "z" * 21, ["y" * 15]),
    ],
)
def test_a_page_without_a_usable_piece_gives_one_to_be_dropped(text, expected):
    assert list(pieces(text, Documents(min_chars=10, max_chars=20))) == expected
