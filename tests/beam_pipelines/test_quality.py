"""Rules at their bounds, pieces of long texts, and the bundled pages with a fault."""

import dataclasses
import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipelines import quality
from beam_pipelines.extract import tidy
from beam_pipelines.language import verdict
from beam_pipelines.quality import drop_reason, measure, pieces
from beam_pipelines.recipe import Documents, Quality, Thresholds
from beam_pipelines.schema import LANGUAGES

PAGES = Path(__file__).parents[2] / "examples" / "pages"
LIMITS = Documents()
QUALITY = Quality()


def bundled(name: str) -> list[dict]:
    lines = (PAGES / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def text_of(page: dict) -> str:
    return tidy("\n".join(page["paragraphs"]))


# What is measured.

SENTENCE = "Mvua ilinyesha usiku kucha."
EMPTY = dict.fromkeys(
    (
        *("chars", "replaced", "mojibake", "lorem", "code", "script", "foreign"),
        *(
            "repeated_lines",
            "repeated_ngrams",
            "top_2grams",
            "top_3grams",
            "top_4grams",
        ),
        *("mean_line", "lines_per_word", "ended_lines", "cut_lines", "mean_word"),
        *("alphabetic", "stop_words", "stray_marks", "policy_words", "adult_words"),
        "adult_url",
    ),
    0.0,
) | {"language_score": 1.0}
FIVE = "moja mbili tatu nne tano"
ENGLISH = (
    "Young trees need most care in their first two dry seasons. Give each one a bucket "
    "of water a week rather than a cup every day."
)
SWAHILI = (
    "Chimba mashimo mwezi mmoja kabla ya mvua kuanza na uchanganye udongo wa juu na "
    "samadi. Panda miche wakati ardhi imelowa vizuri."
)


@pytest.mark.parametrize("code", LANGUAGES)
def test_an_empty_text_measures_nothing(code):
    assert measure("", code) == EMPTY


@pytest.mark.parametrize(
    ("check", "code", "text", "value"),
    [
        ("chars", "sw", SENTENCE, len(SENTENCE)),
        ("chars", "hi", "हिंदी", 5),
        ("replaced", "sw", "ab\ufffdd", 0.25),
        ("mojibake", "id", "harga Â£ 27 juta", 100 / 4),
        ("mojibake", "fi", "pÃ¤ivÃ¤ on tÃ¤Ã¤llÃ¤", 500 / 3),
        ("mojibake", "tr", "baþka deðil yapýlan ve", 75),
        ("mojibake", "tr", "Þ ve þ", 0),
        ("mojibake", "hi", "à¤•à¥‡ क", 100),
        ("mojibake", "vi", "Ấn Độ là, ÂU CHÂU, á, à và Ã", 0),
        ("mojibake", "fi", "Ääni, Ångström ja Øresund", 0),
        ("lorem", "sw", "Lorem ipsum dolor sit amet.", 2.0),
        ("lorem", "tr", "LOREM IPSUM, Consectetur Adipiscing", 2.0),
        ("lorem", "sw", "Kalorem ipsum", 0.0),
        ("code", "sw", "a{b}=\\", 4 / 6),
        ("code", "sw", "</p><br/>", 2 / 9),
        ("code", "sw", "<EMAIL> [1] a | b & c", 0.0),
        ("script", "sw", "abcd", 1.0),
        ("script", "sw", "abc क", 0.75),
        ("script", "hi", "abc क", 0.25),
        ("script", "hi", "123 क।", 1.0),
        ("script", "ur", "ہےab", 0.5),
        ("foreign", "sw", SWAHILI, 0.0),
        ("foreign", "sw", ENGLISH, 1.0),
        ("foreign", "sw", "Soma hapa.", 0.0),
        # What the detector is unsure of is not foreign.
        ("foreign", "sw", "Qzxv wrtk plmn bvcd 0417 " * 6, 0.0),
        ("repeated_lines", "sw", "aaaa\n\nbb\n\naaaa", 0.4),
        ("repeated_lines", "sw", "aaaa\n\naaaa\n\naaaa\n\nbbb", 8 / 15),
        ("repeated_lines", "sw", "aaaa\n\nAAAA", 0.0),
        # Fifth words: 20 of 40 characters come again.
        ("repeated_ngrams", "sw", f"{FIVE} " * 2, 0.5),
        ("repeated_ngrams", "sw", "A bb ccc dddd ee, a BB ccc (dddd) ee", 0.5),
        ("repeated_ngrams", "sw", "moja mbili tatu nne " * 2, 0.0),
        ("repeated_ngrams", "sw", f"{FIVE} " * 3, 2 / 3),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณด" * 2, 0.5),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณด " * 2, 0.5),
        ("repeated_ngrams", "th", "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณ" * 2, 0.0),
        # Three times two words of five characters, of 36.
        ("top_2grams", "sw", "abc de x abc de yyyy abc de zzzzz abc", 15 / 28),
        ("top_2grams", "sw", "abc de x abc de yyyy", 0.0),
        ("top_3grams", "sw", "a b c 1 a b c 2 A, B c 3", 9 / 12),
        ("top_4grams", "sw", "a b c d 1 a b c d 2 a b c d 3", 12 / 15),
        ("top_2grams", "sw", "ha " * 50, 1.0),
        ("top_2grams", "th", "กขฃคฅฆงจ1กขฃคฅฆงจ2กขฃคฅฆงจ3", 24 / 27),
        ("mean_line", "sw", "a" * 10 + "\n\n" + "a" * 20, 15.0),
        ("lines_per_word", "sw", "moja mbili\n\ntatu\n\nnne tano", 0.6),
        ("lines_per_word", "th", "กขคงจฉชซ\n\nกขคงจฉชซ", 0.5),
        ("ended_lines", "sw", "Moja.\n\nMbili\n\nTatu!\n\nNne", 0.5),
        ("ended_lines", "hi", "एक।\n\nदो॥\n\nतीन |", 1.0),
        ("ended_lines", "ur", "ایک۔\n\nدو؟\n\nتین-\n\nچار.\u200f", 1.0),
        ("ended_lines", "sw", 'Alisema: "Ndiyo."\n\n(Hapana)\n\n“Sawa”', 1.0),
        ("ended_lines", "sw", "Ilikuwa mwaka huo. [1]", 1.0),
        ("ended_lines", "sw", "moja,\n\nmbili -", 0.0),
        ("cut_lines", "sw", "Soma zaidi...\n\nMoja.\n\nMbili […]\n\nTatu…", 0.75),
        ("mean_word", "sw", "(moja), mbili! 12", 11 / 3),
        ("mean_word", "hi", "क्या है", 3.0),
        ("mean_word", "th", "กขค งจ", 2.5),
        ("alphabetic", "sw", "moja 2 tatu4 – 5,6 ७", 2 / 6),
        ("alphabetic", "th", "กข12 ค.", 0.5),
        ("alphabetic", "hi", "हिंदी १२ की ।", 0.5),
        ("stop_words", "sw", "Mvua na jua, kwa watoto.", 0.4),
        ("stop_words", "tr", "BİR iki İLE x", 0.75),
        ("stop_words", "th", "ที่กขคง", 3 / 7),
        ("stray_marks", "hi", "कि की कु", 0.0),
        ("stray_marks", "hi", "ि क", 1.0),
        ("stray_marks", "hi", "काा कि", 1 / 3),
        ("stray_marks", "hi", "कािकि", 1 / 3),
        ("stray_marks", "hi", "कंं कि", 1 / 3),
        ("stray_marks", "hi", "हिंदी क्षि ड़ी ज़ अर्थात् अॅप ॐ ऽ", 0.0),
        # A vowel sign after a nasal, after an independent vowel and after a virama; a
        # virama after a sign; a nukta after a vowel; a base that a font put there.
        ("stray_marks", "hi", "कंा", 0.5),
        ("stray_marks", "hi", "आा", 1.0),
        ("stray_marks", "hi", "क्ा", 0.5),
        ("stray_marks", "hi", "का्", 0.5),
        ("stray_marks", "hi", "आ़", 1.0),
        ("stray_marks", "hi", "कि ◌ि", 2 / 3),
        ("stray_marks", "bn", "ক\u200dা কো", 0.0),
        ("stray_marks", "bn", "অ্যাপ এ্যা হৃৎপিণ্ড বাংলা ড়", 0.0),
        ("stray_marks", "bn", "ভূুমি", 1 / 3),
        ("stray_marks", "ta", "கி ெக", 0.5),
        ("stray_marks", "ta", "1ி", 1.0),
        ("stray_marks", "ta", "க் ஸ்ரீ அஃது கொள் கௌ", 0.0),
        ("stray_marks", "th", "ิก", 1.0),
        ("stray_marks", "th", "ที่ น้ำ ผู้ สิทธิ์ ก็ ปั๊ม ฤทธิ์ เก๋ไก๋", 0.0),
        ("stray_marks", "th", "ซึ่่ง", 1 / 3),
        ("stray_marks", "th", "ก่ี", 0.5),
        ("stray_marks", "th", "กิำ", 0.5),
        ("stray_marks", "th", "ก\uf70a", 1.0),
        ("stray_marks", "sw", "\u0301a", 0.0),
        ("policy_words", "sw", "faragha ridhaa " + "neno " * 98, 2.0),
        ("policy_words", "sw", "“Faragha,” (vidakuzi) " + "neno " * 98, 2.0),
        ("policy_words", "sw", "faragha faragha data binafsi neno", 80.0),
        # One kind of word may be the topic of an article.
        ("policy_words", "id", "Kebijakan ekonomi dan kebijakan luar negeri", 0.0),
        ("policy_words", "tr", "çerez, GİZLİLİK " + "kelime " * 18, 10.0),
        ("policy_words", "th", "คุกกี้ยินยอม" + "ก" * 48, 20.0),
        ("adult_words", "id", "bokep " + "kata " * 49, 2.0),
        ("adult_words", "id", "Video mesum! " + "kata " * 48, 4.0),
        ("adult_words", "ta", "சன்னி முஸ்லிம் மக்கள்", 0.0),
    ],
)  # fmt: skip
def test_measure_counts_as_its_name_says(check, code, text, value):
    assert measure(text, code)[check] == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("https://www.pornhub.example/x", 1),
        ("https://example.com/bokep-terbaru/xnxx", 2),
        ("https://xxx.example.com/", 1),
        ("https://milf.example/porn/1", 2),
        # Names, a town, the Games of the XXX. Olympiad, a size.
        ("https://siriporn.example/pornchai", 0),
        ("https://www.pornainen.example/", 0),
        ("https://example.com/london-2012/xxx-olympiad", 0),
        ("https://xxxl.example/sex-education", 0),
        ("", 0),
    ],
)
def test_adult_addresses_are_known_by_their_words(url, value):
    assert measure(SENTENCE, "sw", url)["adult_url"] == value


def test_the_verdicts_score_is_a_check():
    assert measure(SENTENCE, "sw", "", 0.87654321)["language_score"] == 0.8765


def test_measure_gives_each_rule_a_value_and_shares_are_shares():
    rng = random.Random(0)
    alphabet = "ab ก ค่ क ि े ہ . \n। \ufffd 1{…"
    no_shares = {"chars", "mean_line", "mean_word", "mojibake", "lorem", "adult_url"}
    no_shares |= {"policy_words", "adult_words"}
    for number in range(300):
        text = tidy("".join(rng.choices(alphabet, k=rng.randrange(80))))
        found = measure(text, list(LANGUAGES)[number % 10])
        assert found.keys() == EMPTY.keys()
        assert all(type(value) is float and value >= 0 for value in found.values())
        # What is stored is what was judged.
        assert all(value == round(value, 4) for value in found.values())
        for name in found.keys() - no_shares:
            assert found[name] <= 1, name


def test_repetition_is_what_counting_every_ngram_finds():
    """Against the rule written down plainly, without the short cuts."""
    rng = random.Random(1)
    for _ in range(200):
        words = rng.choices(["a", "bb", "ccc", "d"], k=rng.randrange(40))
        found = measure(" ".join(words), "sw")
        num_chars = sum(map(len, words)) or 1
        for size in (2, 3, 4):
            ngrams = [tuple(words[n : n + size]) for n in range(len(words) - size + 1)]
            shares = [
                ngrams.count(ngram) * len("".join(ngram)) / num_chars
                for ngram in set(ngrams)
                if ngrams.count(ngram) >= 3
            ]
            most = min(1.0, max(shares, default=0.0))
            assert found[f"top_{size}grams"] == pytest.approx(most, abs=6e-5)
        seen, repeated, at = set(), 0, 0
        while at + 5 <= len(words):
            ngram = tuple(words[at : at + 5])
            repeated += len("".join(ngram)) if ngram in seen else 0
            at += 5 if ngram in seen else 1
            seen.add(ngram)
        share = repeated / num_chars
        assert found["repeated_ngrams"] == pytest.approx(share, abs=6e-5)


@pytest.mark.parametrize("code", LANGUAGES)
def test_policy_and_adult_words_are_found_in_every_language(code):
    for check, lists in [
        ("policy_words", quality._POLICY),
        ("adult_words", quality._ADULT),
    ]:
        phrases = lists[code].split(", ")
        assert len(set(phrases)) == len(phrases)
        for phrase, other in itertools.pairwise((*phrases, phrases[0])):
            assert measure(f"{phrase}, {other}", code)[check] == 100, phrase


@pytest.mark.parametrize("code", LANGUAGES)
def test_function_words_are_listed_once_and_are_no_policy(code):
    words = quality._STOP_WORDS[code].split()
    assert len(set(words)) == len(words) >= 25
    assert measure(" ".join(words), code)["stop_words"] == 1.0
    assert measure(" ".join(words), code)["policy_words"] == 0.0


def test_vietnamese_text_about_fish_and_books_is_no_policy():
    text = (
        "Mùa thu năm ấy, bác Tư mang cá ra chợ bán, mỗi cân được năm mươi nghìn đồng. "
        "Về nhà, bác ngồi đọc sách cho các cháu nghe. Điều bác thích nhất là cuốn sách "
        "kể chuyện con cá vàng sống một mình giữa cánh đồng ngập nước."
    )
    assert measure(text, "vi")["policy_words"] <= QUALITY.vi.max_policy_words


@pytest.mark.parametrize(
    "unit",
    ["a", "a ", "ก", "กิ", " ", ". ", ".\n", "। ", "\n", "ि", "{", "ab cd ", "İ",
     "…\u200f", "Ã", "lorem ipsum ", "https://a.example/porn "],
)  # fmt: skip
def test_measuring_takes_linear_time(unit):
    def seconds(num_chars: int) -> float:
        text = unit * (num_chars // len(unit))
        start = time.process_time()
        measure(text, "th", text)
        measure(text, "hi", text)
        return time.process_time() - start

    assert seconds(60_000) < 60 * max(seconds(4_000), 0.001)


# Thresholds.

GOOD = EMPTY | {
    "chars": 500.0,
    "script": 1.0,
    "mean_line": 100.0,
    "ended_lines": 1.0,
    "mean_word": 6.0,
    "alphabetic": 1.0,
    "stop_words": 0.3,
}
# In the order in which they are looked at: of several broken rules, the first is named.
RULES = {
    "undecodable": "max_replaced",
    "mojibake": "max_mojibake",
    "lorem_ipsum": "max_lorem",
    "code": "max_code",
    "mixed_script": "min_script",
    "mixed_language": "min_language_score",
    "foreign_sentences": "max_foreign",
    "repeated_lines": "max_repeated_lines",
    "repeated_ngrams": "max_repeated_ngrams",
    "top_2grams": "max_top_2grams",
    "top_3grams": "max_top_3grams",
    "top_4grams": "max_top_4grams",
    "short_lines": "min_mean_line",
    "list": "max_lines_per_word",
    "no_sentences": "min_ended_lines",
    "cut_lines": "max_cut_lines",
    "short_words": "min_mean_word",
    "long_words": "max_mean_word",
    "few_letters": "min_alphabetic",
    "few_stop_words": "min_stop_words",
    "stray_marks": "max_stray_marks",
    "policy": "max_policy_words",
    "adult": "max_adult_words",
    "adult_url": "max_adult_url",
}


def beyond(name: str, bound: float) -> dict[str, float]:
    """Checks just beyond a threshold."""
    worse = -0.0001 if name.startswith("min_") else 0.0001
    return {name[4:]: bound + worse}


def test_every_threshold_bounds_a_check_and_has_a_reason():
    names = [field.name for field in dataclasses.fields(Thresholds)]
    assert sorted(names) == sorted(RULES.values())
    assert {name[4:] for name in names} == EMPTY.keys() - {"chars"}
    assert all(name.startswith(("min_", "max_")) for name in names)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize(("reason", "name"), RULES.items())
def test_a_text_is_dropped_just_beyond_each_bound_of_its_language(reason, name, code):
    bound = getattr(QUALITY.of(code), name)
    assert drop_reason(GOOD | {name[4:]: bound}, code, QUALITY) is None
    assert drop_reason(GOOD | beyond(name, bound), code, QUALITY) == reason


@pytest.mark.parametrize("code", LANGUAGES)
def test_lines_must_end_as_sentences_except_in_thai(code):
    expected = None if code == "th" else "no_sentences"
    assert drop_reason(GOOD | {"ended_lines": 0.0}, code, QUALITY) == expected


@pytest.mark.parametrize(("reason", "name"), RULES.items())
def test_a_threshold_is_moved_for_one_language_alone(reason, name):
    checks = GOOD | beyond(name, getattr(QUALITY.sw, name))
    assert drop_reason(checks, "sw", QUALITY) == reason
    moved = {name: checks[name[4:]]}
    eased = dataclasses.replace(QUALITY, sw=dataclasses.replace(QUALITY.sw, **moved))
    assert drop_reason(checks, "sw", eased) is None
    assert drop_reason(checks, "fi", eased) == drop_reason(checks, "fi", QUALITY)


def test_of_several_broken_rules_the_first_is_named():
    broken = dict(GOOD)
    for name in RULES.values():
        check = beyond(name, getattr(QUALITY.sw, name))
        broken |= check if name != "min_mean_word" else {}
    order = [reason for reason in RULES if reason != "short_words"]
    for reason in order:
        assert drop_reason(broken, "sw", QUALITY) == reason
        broken[RULES[reason][4:]] = GOOD[RULES[reason][4:]]
    assert drop_reason(broken, "sw", QUALITY) is None


def test_what_is_no_prose_is_dropped_and_prose_is_not():
    def reason(text: str, code: str, url: str = "") -> str | None:
        return drop_reason(measure(tidy(text), code, url), code, QUALITY)

    prose = (
        f"{SWAHILI} Zuia mbuzi na ng'ombe kwa uzio wa matawi mpaka miti iwe mirefu. "
        "Mizizi hushika udongo usichukuliwe na maji ya mvua."
    )
    assert reason(prose, "sw") is None
    assert reason(prose, "sw", "https://bokep.example/") == "adult_url"
    assert reason(prose + '\n\n{"a": [{"b": 1, "c": {"d": "e"}}]}', "sw") == "code"
    assert reason(f"{prose}\n\n{ENGLISH} {ENGLISH}", "sw") == "foreign_sentences"
    assert reason(f"{prose}\n\n{ENGLISH[:58]}", "sw") is None
    products = (
        "Kabati dogo, meza kubwa, kiti cheusi, taa nyeupe, sufuria, kikombe, jiko, "
        "zulia, pazia, godoro, blanketi."
    )
    assert reason(products, "sw") == "few_stop_words"
    teasers = (
        "Mvua ya masika ilinyesha katika mikoa ya kaskazini na...\n"
        "Wachezaji wa timu ya wasichana walifanya mazoezi hadi...\n"
        "Bei ya mahindi katika soko la mji ilipanda kwa sababu..."
    )
    assert reason(teasers, "sw") == "cut_lines"
    numbers = "Mauzo yalikuwa 1200, 3400, 5600 na 7800 katika miezi 4 ya mwaka 2019."
    assert reason(numbers, "sw") == "few_letters"
    glued = (
        "Mvuailinyesha usikukucha nawatuwote waliendanyumbani kwaonakulala mapemasana "
        "hadiasubuhi walipoamka."
    )
    assert reason(glued, "sw") == "long_words"
    menu = "Nyumbani\nHabari za leo\nMichezo\nWasiliana nasi\nKuhusu sisi"
    assert reason(menu, "sw") == "short_lines"
    names = (
        "Ramadhani Abdallah Mwinyimvua.\nMwanahamisi Juma Kondo.\n"
        "Abdulrahman Hassan Mwakasege."
    )
    eased = dataclasses.replace(QUALITY.sw, min_mean_line=0.0)
    quality_of_names = dataclasses.replace(QUALITY, sw=eased)
    assert drop_reason(measure(names, "sw"), "sw", quality_of_names) == "list"


def test_a_third_of_a_text_may_be_in_another_language():
    for share, expected in [(0.2, None), (0.45, "foreign_sentences")]:
        num_chars = int(len(SWAHILI) * share / (1 - share))
        text = f"{SWAHILI * 4}\n\n{(ENGLISH * 4)[: 4 * num_chars]}"
        found = measure(text, "sw")["foreign"]
        assert found == pytest.approx(share, abs=0.1)
        assert drop_reason(GOOD | {"foreign": found}, "sw", QUALITY) == expected


# The bundled pages.


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_sound_bundled_page_is_kept(code):
    for page in bundled(code):
        for piece in pieces(text_of(page), LIMITS):
            checks = measure(piece, code, f"https://{page['domain']}{page['path']}")
            assert drop_reason(checks, code, QUALITY) is None, page["path"]


# The rule that each fault was written to break; there is none for personal data.
REASONS = {
    "policy": {"policy"},
    "menu": {"short_lines"},
    "repetitive": {"repeated_lines", "repeated_ngrams"},
    "too_short": {"too_short"},
    "lorem_ipsum": {"lorem_ipsum", "other_language"},
    "broken_orthography": {"stray_marks"},
    "mixed_language": {"mixed_script", "other_language", "foreign_sentences"},
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
                checks = measure(piece, code, language_score=found.score)
                is_short = len(piece) < LIMITS.min_chars
                reasons.add(
                    "too_short" if is_short else drop_reason(checks, code, QUALITY)
                )
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
