"""Scripts, the gate and the verdict, on the bundled pages and on odd texts."""

import functools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from beam_pipelines import language
from beam_pipelines.language import Verdict, gate, script_counts, verdict
from beam_pipelines.schema import LANGUAGES

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "examples" / "pages"


def bundled(name: str) -> list[dict]:
    lines = (PAGES / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text_of(page: dict) -> str:
    return "\n\n".join(page["paragraphs"])


OURS = [(code, text_of(page)) for code in LANGUAGES for page in bundled(code)]
NEIGHBOURS = [(page["language"], text_of(page)) for page in bundled("neighbours")]


def decide(text: str) -> Verdict:
    """Both steps, as a page goes through them."""
    if reason := gate(text, LANGUAGES):
        return Verdict(language="", score=0.0, reason=reason)
    return verdict(text, LANGUAGES)


@functools.cache
def decided() -> list[Verdict]:
    return [decide(text) for _, text in [*OURS, *NEIGHBOURS]]


# Scripts.


@pytest.mark.parametrize(
    ("script", "letters"),
    [
        ("Latn", "azAZ"),
        ("Latn", "\u00c0\u00d6\u00d8\u00f6\u00f8\u024f"),
        ("Latn", "şŞıİğäöåđơưĐ"),
        ("Latn", "ạảấầẩẫậắỹ\u1e00\u1eff"),
        ("Arab", "\u0620\u0627\u064b\u065f"),
        ("Arab", "ٹڈڑںےھہۓگچپ"),
        ("Arab", "\u0750\u077f\ufb50\ufdff\ufe70\ufefc"),
        ("Beng", "\u0980আমি\u09be\u09cd\u09e3"),
        ("Deva", "\u0900हिंदी\u093f\u094d\u0963"),
        ("Taml", "\u0b82தமிழ்\u0bbf\u0bcd"),
        ("Thai", "\u0e01ไทย\u0e34\u0e48\u0e4e"),
        ("Zyyy", "абвЯ"),
        ("Zyyy", "漢字かな한글"),
        ("Zyyy", "\u0c05\u0d05\u0e81"),
        ("Zyyy", "\U00010400\U0003ffff\U0010ffff"),
    ],
)
def test_letters_and_marks_are_counted_by_script(script, letters):
    counts = script_counts(letters)
    assert counts.pop(script) == len(letters)
    assert set(counts.values()) == {0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "0123456789",
        ".,;:!?()[]{}<>@#$%^&*-_=+/\\|~`'\"",
        "\u00d7\u00f7\u00a0«»¿¡§©®°",
        "\u2014\u2019\u201c\u2026\u20ac\u2192\u25cf",
        "\u0964\u0965",
        "\u3001\u3002\ufe0f",
        "\x00\x1f\x7f",
    ],
)
def test_signs_spaces_and_digits_are_no_letters(text):
    assert sum(script_counts(text).values()) == 0
    assert language.possible_languages(text) == frozenset()


@pytest.mark.parametrize(
    "zero", ["\u0966", "\u09e6", "\u0be6", "\u0e50", "\u0660", "\u06f0"], ids=ascii
)
def test_digits_of_any_script_are_no_letters(zero):
    digits = "".join(chr(ord(zero) + n) for n in range(10))
    assert sum(script_counts(digits).values()) == 0


def test_every_code_point_is_counted_once_or_not_at_all():
    for first in range(0, 0x110000, 0x8000):
        text = "".join(map(chr, range(first, first + 0x8000)))
        assert 0 <= sum(script_counts(text).values()) <= len(text)
    rng = random.Random(0)
    for _ in range(200):
        point = chr(rng.randrange(0x110000))
        assert sum(script_counts(point).values()) in (0, 1)


SCRIPTS = {
    "Latn": {"fi", "id", "sw", "tr", "vi"},
    "Thai": {"th"},
    "Beng": {"bn"},
    "Deva": {"hi"},
    "Taml": {"ta"},
}
LETTER = {"Latn": "a", "Thai": "ก", "Beng": "ক", "Deva": "क", "Taml": "க"}


@pytest.mark.parametrize(
    ("script", "num_own"), [("Latn", 51), *((s, 26) for s in LETTER if s != "Latn")]
)
def test_a_language_is_possible_above_its_share_of_letters(script, num_own):
    own = SCRIPTS[script]
    for share, possible in [(num_own, own), (num_own - 1, set())]:
        text = LETTER[script] * share + "я" * (100 - share)
        assert language.possible_languages(text) == possible
        # Signs and digits change no share.
        assert language.possible_languages(f"1. {text}! 2026") == possible


def test_urdu_is_possible_from_its_own_letters_alone():
    for num_own, possible in [(2, {"ur"}), (1, set())]:
        text = "ے" * num_own + "ا" * (100 - num_own)
        assert language.possible_languages(text) == possible
    # A share of the Arabic letters, not of all.
    text = "ے" * 2 + "ا" * 98 + "я" * 200
    assert language.possible_languages(text) == {"ur"}
    assert language.possible_languages("ے" * 26 + "я" * 74) == {"ur"}
    assert language.possible_languages("ے" * 25 + "я" * 75) == frozenset()


def test_a_mixed_page_may_be_either_language():
    half = "a" * 60 + "ก" * 40
    assert language.possible_languages(half) == SCRIPTS["Latn"] | {"th"}


# Declared languages.


@pytest.mark.parametrize(
    ("declared", "elsewhere"),
    [
        ([], False),
        (["swa"], False),
        (["swh"], False),
        (["eng", "swa"], False),
        (["eng", "deu", "swa"], False),
        (["eng"], True),
        (["eng", "deu"], True),
        (["fin"], True),
        (["und"], True),
        (["sw"], True),
    ],
)
def test_a_page_is_declared_elsewhere_if_all_it_declares_is(declared, elsewhere):
    assert language.declared_elsewhere(declared, ["sw", "ur"]) is elsewhere


def test_every_language_is_known_by_its_crawl_code_and_malay_may_be_indonesian():
    for code, entry in LANGUAGES.items():
        assert not language.declared_elsewhere([entry.crawl], [code])
    assert not language.declared_elsewhere(["msa"], ["id"])
    assert language.declared_elsewhere(["msa"], ["sw"])


# The bundled pages.


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_bundled_page_is_accepted_as_its_language(code):
    texts = [text for language_code, text in OURS if language_code == code]
    assert len(texts) >= 10
    for text in texts:
        assert gate(text, LANGUAGES) is None, text[:80]
        found = verdict(text, LANGUAGES)
        assert (found.language, found.reason) == (code, ""), text[:80]
        assert 0.8 <= found.score <= 1


def test_every_page_of_a_neighbouring_language_is_rejected():
    assert len(NEIGHBOURS) >= 40
    found = decided()[len(OURS) :]
    for (code, text), rejected in zip(NEIGHBOURS, found, strict=True):
        assert rejected.language == "", (code, text[:80])
        assert rejected.reason
    reasons = {
        code: decision.reason
        for (code, _), decision in zip(NEIGHBOURS, found, strict=True)
    }
    assert reasons["ms"] == "malay"
    assert reasons["pnb"] == "punjabi"
    for code in ("fa", "ar", "lo", "ml"):
        assert reasons[code] == "other_script"
    for code in ("az", "ne", "mr", "et", "rw", "as", "so", "en"):
        assert reasons[code] == "other_language"


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_that_is_not_wanted_is_turned_away(code):
    others = [other for other in LANGUAGES if other != code]
    text = next(text for own, text in OURS if own == code)
    alone = sum(LANGUAGES[code].script == LANGUAGES[c].script for c in LANGUAGES) == 1
    assert gate(text, others) == ("other_script" if alone else "other_language")
    assert verdict(text, others).reason == "other_language"
    assert verdict(text, others).language == ""
    assert gate(text, [code]) is None
    assert verdict(text, [code]).language == code


def test_verdicts_are_the_same_in_any_order_and_again():
    texts = [text for _, text in [*OURS, *NEIGHBOURS]]
    expected = dict(zip(texts, decided(), strict=True))
    assert len(expected) == len(texts)
    # Short ones are where a detector that draws at random changes its mind.
    short = {text[:60]: decide(text[:60]) for text in texts[::2]}
    order = [*texts[::3], *short, *list(short)[::5]]
    random.Random(0).shuffle(order)
    for text in order:
        assert decide(text) == {**expected, **short}[text]


def test_verdicts_are_the_same_in_another_process():
    texts = [text[:60] for _, text in [*OURS[::9], *NEIGHBOURS[::9]]]
    program = (
        "import json, sys\n"
        "from beam_pipelines import language\n"
        "texts = json.load(sys.stdin)[::-1]\n"
        "found = [language.verdict(t, language.LANGUAGES) for t in texts][::-1]\n"
        "print(json.dumps([[f.language, f.score, f.reason] for f in found]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    here = [verdict(text, LANGUAGES) for text in texts]
    assert json.loads(output) == [[f.language, f.score, f.reason] for f in here]


def test_the_gate_looks_at_the_middle_and_the_verdict_at_the_beginning():
    swahili = " ".join(text for code, text in OURS if code == "sw")
    english = " ".join(text for code, text in NEIGHBOURS if code == "en")
    # Menus come first and last on a page.
    framed = english[:6000] + swahili[:6000] + english[:6000]
    assert len(framed) == 18_000
    assert gate(framed, LANGUAGES) is None
    assert verdict(swahili[:2000] + english * 3, LANGUAGES).language == "sw"
    assert verdict(english[:2000] + swahili * 3, LANGUAGES).language == ""


@pytest.mark.parametrize(
    ("num_chars", "max_chars", "expected"),
    [(10, 4, "3456"), (9, 4, "2345"), (4, 4, "0123"), (3, 4, "012"), (0, 4, "")],
)
def test_middle_is_in_the_middle(num_chars, max_chars, expected):
    text = "0123456789"[:num_chars]
    assert language.middle(text, max_chars) == expected


# Neighbours by words.


def test_a_neighbour_is_seen_if_its_words_are_more_and_the_text_is_long_enough():
    filler = ["rumah"] * 40
    for theirs, ours, expected in [
        (["kerana"], [], "malay"),
        (["kerana"], ["karena"], None),
        (["kerana", "wang"], ["uang"], "malay"),
        ([], ["karena"], None),
        ([], [], None),
    ]:
        words = (theirs + ours + filler)[:40]
        assert language.unseen_neighbour(" ".join(words), "id") == expected
        assert language.unseen_neighbour(" ".join(words[:39]), "id") is None
        assert language.unseen_neighbour(" ".join(words), "vi") is None
    shouted = " ".join(["(KERANA,", "“rumah”", *filler])
    assert language.unseen_neighbour(shouted, "id") == "malay"


def test_malay_and_indonesian_pages_are_told_apart_by_their_words():
    for code, text in [*OURS, *NEIGHBOURS]:
        if code in ("id", "ms"):
            seen = language.unseen_neighbour(text, "id")
            assert seen == ("malay" if code == "ms" else None), text[:80]
        if code in ("ur", "pnb"):
            seen = language.unseen_neighbour(text, "ur")
            assert seen == ("punjabi" if code == "pnb" else None), text[:80]


# Odd texts.

ODD = {
    "empty": "",
    "blank": " \n\t\r\n ",
    "digits": "2026 12 31 08:00",
    "signs": "!?… — «»",
    "control characters": "\x00\x01\x1f\x7f\x85\x9f",
    "no characters": "\ufffe\uffff",
    "surrogates": "\ud800\udfff\udc00",
    "other script": "Это предложение на другом языке. " * 5,
    "addresses": "https://a.example/b?c=d " * 30,
    "one letter": "a",
    "emoji": "\U0001f600\U0001f327\ufe0f" * 20,
    "replaced": "\ufffd" * 100,
}


@pytest.mark.parametrize("name", ODD)
def test_a_text_that_says_nothing_is_rejected_with_a_reason(name):
    found = decide(ODD[name])
    assert (found.language, bool(found.reason)) == ("", True)
    # Where the gate lets it pass, the verdict alone must not fail either.
    assert verdict(ODD[name], LANGUAGES).language == ""


@pytest.mark.parametrize("name", ["empty", "blank", "digits", "signs", "surrogates"])
def test_a_text_without_letters_has_no_letters(name):
    assert gate(ODD[name], LANGUAGES) == "other_script"
    assert verdict(ODD[name], LANGUAGES) == Verdict(
        language="", score=0.0, reason="no_letters"
    )


NOISE = [
    "\x00", "\x08", "\x0b", "\x1b", "\x7f", "\x80", "\x85", "\x9f", "\ufffe", "\uffff",
    "\ud800", "\udfff", "\ufeff", "\u200b", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("noise", NOISE, ids=ascii)
def test_unreadable_characters_change_no_decision(noise):
    for code, text in [*OURS[::25], *NEIGHBOURS[::8]]:
        noisy = noise + text.replace(" ", f" {noise}", 20) + noise
        assert gate(noisy, LANGUAGES) == gate(text, LANGUAGES), (code, text[:80])
        assert verdict(noisy, LANGUAGES).language == verdict(text, LANGUAGES).language


@pytest.mark.parametrize("noise", ["\ufdd0", "\ufdef", "\U0001fffe"], ids=ascii)
def test_noncharacters_let_nothing_through_the_gate(noise):
    for _, text in NEIGHBOURS:
        assert gate(text + noise, LANGUAGES) == gate(text, LANGUAGES)


@pytest.mark.parametrize("text", ["a", "Tk Tk Tk", "a\ufdd0b"])
def test_what_the_fast_detector_is_unsure_of_passes_the_gate(text):
    assert language.fast_guess(text) == ""
    assert gate(text, LANGUAGES) is None


def test_any_mixture_of_code_points_gets_a_decision():
    rng = random.Random(1)
    pieces = [text[:30] for _, text in OURS[::10]] + list(ODD.values())
    for _ in range(150):
        points = [chr(rng.randrange(0x110000)) for _ in range(20)]
        text = "".join(rng.choices(pieces + points, k=12))
        found = verdict(text, LANGUAGES)
        assert found.language in {"", *LANGUAGES}
        assert bool(found.language) != bool(found.reason)
        assert 0 <= found.score <= 1
        assert gate(text, LANGUAGES) in {None, "other_script", "other_language"}
