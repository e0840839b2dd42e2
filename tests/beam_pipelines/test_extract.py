"""Bytes to characters, characters to text."""

import json
import random
import time
import unicodedata
from pathlib import Path

import pytest

from beam_pipelines import extract
from beam_pipelines.extract import all_text, decode, main_text, tidy
from beam_pipelines.schema import LANGUAGES
from tests.conftest import make_crawl

EXAMPLES = Path(__file__).parents[2] / "examples"


def bundled(name: str) -> list[dict]:
    lines = (EXAMPLES / "pages" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


# Decoding.

THAI = "ฝนตกทั้งคืนและเช้านี้ถนนหน้าบ้านยังเปียกอยู่ เด็กๆ จึงเดินไปโรงเรียน"
TURKISH = (
    "Gece boyunca yağmur yağdı, sabah ışıkları ıslak taşlara düştü. Şükür ki rüzgâr"
)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (THAI, "utf-8"),
        (THAI, "utf-16"),
        (THAI, "tis-620"),
        (TURKISH, "utf-8"),
        (TURKISH, "iso-8859-9"),
        (TURKISH, "cp1254"),
    ],
)
@pytest.mark.parametrize("declared", ["true", "", "utf-8", "no-such-charset"])
@pytest.mark.parametrize("meta", [False, True])
def test_a_page_is_decoded_as_what_it_is_whatever_its_header_says(
    text, encoding, declared, meta
):
    head = f'<meta charset="{encoding}">' if meta else ""
    html = f"<html><head>{head}</head><body><p>{text * 4}</p></body></html>"
    decoded = decode(
        html.encode(encoding), encoding if declared == "true" else declared
    )
    assert decoded.lstrip("\ufeff") == html


KOREAN = (
    "겨울이 오기 전에 김치를 담그려면 배추를 하루 동안 소금물에 절여 두어야 합니다. "
)


@pytest.mark.parametrize("how", ["header", "meta"])
@pytest.mark.parametrize(
    ("text", "charset"), [(KOREAN, "euc-kr"), (TURKISH, "iso-8859-9")]
)
def test_a_page_that_looks_like_nothing_is_what_it_says(
    text, charset, how, monkeypatch
):
    monkeypatch.setattr(extract, "detect_encoding", lambda *_, **__: "utf-8")
    meta = f'<meta charset="{charset}">' if how == "meta" else ""
    body = f"<html><head>{meta}</head><p>{text}".encode(charset)
    header = charset if how == "header" else ""
    assert text.rstrip() in decode(body, header)


def test_a_flaw_in_utf_8_does_not_make_it_another_character_set(monkeypatch):
    monkeypatch.setattr(extract, "detect_encoding", lambda *_, **__: "utf-8")
    body = (THAI * 5).encode() + b"\xff" + (THAI * 5).encode()
    assert decode(body, "iso-8859-1") == f"{THAI * 5}\ufffd{THAI * 5}"


def test_bytes_that_fit_no_character_set_are_replaced():
    rng = random.Random(0)
    body = bytearray((TURKISH * 20).encode())
    for place in rng.sample(range(len(body)), 30):
        body[place] = 0xFF
    assert "\ufffd" in decode(bytes(body), "utf-8")


def test_any_bytes_decode_to_text_that_can_be_written():
    rng = random.Random(1)
    charsets = [
        "",
        "utf-8",
        "none",
        "utf-8; boundary=x",
        "windows-874",
        "\x00",
        "utf-7",
    ]
    for number in range(400):
        size = rng.choice([0, 1, 2, 3, 50, 400])
        body = rng.choice([b"", b"<meta charset=bogus>", b"\xff\xfe", b"\xef\xbb\xbf"])
        text = decode(body + rng.randbytes(size), charsets[number % len(charsets)])
        assert text.encode("utf-8").decode("utf-8") == text


# Extraction.

PAGE = """<html><head><title>Kichwa cha dirisha</title><style>p { color: red }</style>
<script>var siri = "usiri";</script></head><body><nav><a href="/">Mwanzo</a></nav>
<article><p>Mvua &amp; jua.</p><p>Siku&nbsp;mpya<br>inaanza.</p></article>
<img alt="Picha ya ng'ombe"></body></html>"""


def test_all_text_is_what_a_page_shows():
    text = all_text(PAGE)
    for shown in ("Mwanzo", "Mvua & jua.", "mpya", "inaanza."):
        assert shown in text
    for hidden in ("color", "siri", "Picha", "&nbsp;", "<"):
        assert hidden not in text


def test_a_sample_is_text_from_the_middle_and_no_code():
    words = [f"neno{n}" for n in range(4000)]
    shown = "".join(f"<p class='x{word}y'>{word}</p>" for word in words)
    code = "<script>var neno='code';</script><STYLE>.code{}</STYLE>" * 200
    sample = extract.sample_text(f"<html><body>{code}{shown}{code}</body></html>")
    assert "code" not in sample
    assert "<" not in sample and ">" not in sample
    found = sample.split()
    assert set(found) <= set(words)
    assert found[0] > "neno1" and "neno2000" in found and len(found) > 500


def test_a_sample_of_a_short_page_is_all_of_it():
    html = "<body><p>Maji ni uhai.</p><script>if (a<b) {}</script><p>Kesho.</p>"
    words = set("Maji ni uhai. Kesho.".split())
    assert set(extract.sample_text(html).split()) == words


def test_a_sample_reads_references_to_characters():
    html = "".join(f"&#{ord(letter)};" for letter in THAI)
    assert THAI[:20] in extract.sample_text(html)


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<",
        "<" * 10**6,
        "<script>" * 10**5,
        "<script></script>" * 10**5,
        "&#x" * 10**5,
    ],
    ids=lambda html: f"{html[:9]}...",
)
def test_a_sample_of_anything_costs_little(html):
    started = time.process_time()
    extract.sample_text(html)
    assert time.process_time() - started < 1


def test_a_page_nested_without_end_has_no_main_text_and_takes_no_time():
    depth = 50_000
    text = "Serikali imetangaza mpango mpya wa maji safi kwa kijiji. " * 20
    started = time.process_time()
    assert main_text("<div>" * depth + text + "</div>" * depth) == ""
    assert time.process_time() - started < 5
    shallow = "<div>" * 60 + f"<p>{text}</p><p>{text}</p>" + "</div>" * 60
    assert main_text(f"<html><body>{shallow}</body></html>")


@pytest.mark.parametrize("code", LANGUAGES)
def test_main_text_is_the_paragraphs_of_a_bundled_page_and_no_furniture(code):
    render = make_crawl().render
    for page in bundled(code)[:3]:
        html = render(page).decode()
        whole = all_text(html)
        furniture = make_crawl().furniture(code)
        assert all(furniture[key] in whole for key in ("related", "newsletter"))
        assert tidy(main_text(html)) == "\n\n".join(page["paragraphs"])


@pytest.mark.parametrize(
    "html",
    [
        "<table><tr><td>Neno la jedwali</td></tr></table>",
        "<div><span>Neno la jedwali</span></div>",
    ],
)
def test_the_second_extractor_serves_where_the_first_finds_nothing(html):
    first = extract.trafilatura.extract(
        html, include_comments=False, include_tables=False
    )
    assert first is None
    assert main_text(html) == "Neno la jedwali"


@pytest.mark.parametrize(
    "html",
    [
        "",
        "<",
        "\x00",
        "<html></html>",
        "<!-- -->",
        "<p></p>" * 100,
        "<div>" * 3000,
        "<script>x</script>",
        '<?xml version="1.0" encoding="utf-16"?><html><body></body></html>',
    ],
    ids=range(9),
)
def test_a_page_without_text_gives_none(html):
    assert main_text(html).strip("<\x00 ") == ""
    assert all_text(html).strip("<\x00 ") == ""


# Tidying.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\t\n ", ""),
        ("a", "a"),
        ("a\nb", "a\n\nb"),
        ("a\n\nb", "a\n\nb"),
        ("a\n \t\n\n\n b", "a\n\nb"),
        ("a\r\nb\rc", "a\n\nb\n\nc"),
        ("  a \t  b\u00a0\u3000c  ", "a b c"),
        ("a\u2028b", "a b"),
        ("a\x00b\x1fc\x7fd\x85e\x9ff", "abcdef"),
        ("\ufeffa\ud800b\udfff", "ab"),
        ("a\x00\n\x00\nb", "a\n\nb"),
        ("e\u0301", "\u00e9"),
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", "Ti\u1ebfng Vi\u1ec7t"),
        ("\u09c7\u09be", "\u09cb"),
        # These keep words apart and together.
        ("\u0995\u200d\u09be \u200c", "\u0995\u200d\u09be \u200c"),
    ],
)
def test_tidy_leaves_paragraphs_with_one_blank_line_between(text, expected):
    assert tidy(text) == expected


def random_texts(alphabet: str, count: int) -> list[str]:
    rng = random.Random(2)
    return ["".join(rng.choices(alphabet, k=12)) for _ in range(count)]


PLAIN = "ab .\n\n\n\r\t \u00a0\u2028\u3000\u200be\u00e9ি\u09c7\x00\x0b\x85\ufeff\ud800"


def test_tidy_text_is_clean_and_stays_as_it_is():
    for text in random_texts(PLAIN, 2000):
        clean = tidy(text)
        assert tidy(clean) == clean
        assert clean == clean.strip()
        for paragraph in clean.split("\n\n") if clean else ():
            assert paragraph == paragraph.strip() != ""
            assert "\n" not in paragraph
            assert "  " not in paragraph
        categories = {unicodedata.category(c) for c in clean if c != "\n"}
        assert not categories & {"Cc", "Cs", "Zl", "Zp"}


def test_tidy_text_is_nfc_where_no_control_character_stands_before_a_mark():
    for text in random_texts("ab \ne\u0301\u0302\u0323\u1ea1\u0958\u09c7\u09be", 2000):
        assert unicodedata.is_normalized("NFC", tidy(text))


def test_tidy_text_is_nfc_although_a_control_character_stood_before_a_mark():
    assert tidy("e\x00\u0301") == "\u00e9"
