"""What is masked and what survives, opt-out lists, and what pages say of themselves."""

import gzip
import json
import random
import time
from pathlib import Path

import pytest

from beam_pipelines.scrub import LeaveOut, license, mask, robots

# Personal data. Numbers are invented; addresses are those reserved for documentation.


def with_check_digits(country: str, account: str) -> str:
    """An IBAN for an account number."""
    number = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02}{account}"


def in_fours(text: str, separator: str = " ") -> str:
    return separator.join(text[at : at + 4] for at in range(0, len(text), 4))


def card(start: str, num_digits: int) -> str:
    """Digits that pass Luhn's check."""
    body = start.ljust(num_digits - 1, "7")
    for last in "0123456789":
        digits = [int(digit) for digit in body + last][::-1]
        total = sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])
        if total % 10 == 0:
            return body + last
    raise AssertionError


FINNISH = with_check_digits("FI", "12345600007777")
TURKISH = with_check_digits("TR", "0006100000000012345678")
PAKISTANI = with_check_digits("PK", "ABCD0000001234567890")
VISA, AMEX, TROY = card("4111", 16), card("3411", 15), card("9792", 16)

MASKED = [
    ("email", "foo.bar@example.com", "<EMAIL>"),
    ("email", "Andika kwa a_b+c@mail.example.co.tz.", "Andika kwa <EMAIL>."),
    ("email", "อีเมลsomchai@example.comได้เลย", "อีเมล<EMAIL>ได้เลย"),
    ("email", "etunimi.sukunimi(at)example.fi", "<EMAIL>"),
    ("email", "info [at] example.org", "<EMAIL>"),
    ("email", ".x@example.com", ".<EMAIL>"),
    ("email", "mailto:x@y.example.com?a=b", "mailto:<EMAIL>?a=b"),
    ("ip", "IP 192.0.2.44, saa tatu", "IP <IP>, saa tatu"),
    ("ip", "203.0.113.7:8080", "<IP>:8080"),
    ("ip", "ไอพี198.51.100.23ครับ", "ไอพี<IP>ครับ"),
    ("ip", "2001:db8::8a2e:370:7334", "<IP>"),
    ("ip", "IP: 203.113.125.200", "IP: <IP>"),
    ("card", VISA, "<CARD>"),
    ("card", in_fours(VISA), "<CARD>"),
    ("card", in_fours(TROY, "-"), "<CARD>"),
    ("card", f"{AMEX[:4]} {AMEX[4:10]} {AMEX[10:]}", "<CARD>"),
    ("card", VISA.translate({0x30 + n: 0x966 + n for n in range(10)}), "<CARD>"),
    ("iban", FINNISH, "<IBAN>"),
    ("iban", f"IBAN: {in_fours(FINNISH)} BIC ABCDFIHH", "IBAN: <IBAN> BIC ABCDFIHH"),
    ("iban", in_fours(TURKISH), "<IBAN>"),
    ("iban", PAKISTANI, "<IBAN>"),
]  # fmt: skip
# In the common writings of the ten languages' countries.
PHONES = """
+254 700 000 000 | +255 712 345 678 | +255712345678 | 0755 123 456
022 2212 3456 | +62 812-3456-7890 | (+62) 812-3456-7890 | +62 (21) 555 1234
0062 812 3456 7890 | 0812-3456-7890 | 0812 3456 7890 | 081234567890
(021) 555 1234 | (021) 5551234 | 021-5551234 | 0274 123-456 | +66 81 234 5678
08-1234-5678 | 081-234-5678 | 02-123-4567 | ๐๘๑-๒๓๔-๕๖๗๘ | +90 532 123 45 67
0(532) 123 45 67 | 0 (532) 123 45 67 | 0 532 123 45 67 | 0532 123 45 67
(0212) 555 12 34 | 0912 345 678 | 091.234.5678 | (028) 3822 1234
+880 1712-345678 | 01712-345678 | ০১৭১২-৩৪৫৬৭৮ | ০১৭১২৩৪৫৬৭৮ | 02-9123456
+91-98765-43210 | 044-2345 6789 | +94 77 123 4567 | +92 300 1234567
0300-1234567 | ٠٣٠٠١٢٣٤٥٦٧ | ۰۳۰۰-۱۲۳۴۵۶۷ | +358 40 123 4567
+358 (0)40 123 4567 | 040 123 4567 | 040 123 45 67 | 09-1234567 | (09) 123 4567
+1 (555) 123-4567 | 0903.123.456
"""
# Numbers that a word before them makes telephone numbers.
NAMED_PHONES = """
Mobile: 98765 43210 | मोबाइल: ९८७६५ ४३२१० | मोबाइल नंबर 9876543210
मो. 9876543210 | contact no. 9876543210 | தொலைபேசி எண்: 98765 43210
মোবাইল নম্বর: 1712345678 | موبائل نمبر: 3001234567 | puh. 123 4567
Tel: 555 12 34 | simu 712 345 678 | WA: 6281234567890
https://wa.me/6281234567890 | โทร. 2123456
"""
SURVIVES = """
Mwaka 2019-2020 ulikuwa mzuri | 01.02.2023 12:30 | 12/05/2024 10:30 | 05-06-2567
2024-05-06T10:11:12 | 1.5.2020–30.6.2021 | 01-05-2023 sampai 05-06-2023
2020-2021-2022 | 06.12.2023 07.12.2023 | klo 08.00 - 16.00 | 08.00-16.30
12:30:45 | 3-2, 4-1 | 16:9 1920x1080 | ISBN 978-0-306-40615-7
978 0 306 40615 7 | ISBN 0-306-40615-2 | 0-306-40615-X | ISBN: 0306406152
Rp 1.250.000.000 | Rp0812500000 | 1.000.000.000 | 1 250 500 euroa
12 500 000 000 | +100 000 000 | +2 000 000 000 | 50,000,000 | ₹1,00,00,000
0-100 000 000 | Yohana 3:16 | Mathayo 5:3-12; 6:9-13 | -6.2088, 106.8456
60.169856, 24.938379 | 06.12345678, 39.1234567 | 0.123456789 | 0,123456789
3,14159265358979 | 299 792 458 m/s | v1.2.3.4 | versi 110.14.200.31
Windows 10.0.19041.1415 | kifungu 3.2.1.1 | 1.250.125.200 | 192.168.1.1
127.0.0.1 | 10.20.30.40 | 8.8.8.8 | 256.300.1.1 | 2001:2002:2003 | std::string
१९४७ से १९५० | ১৯৭১ সালের ২৬ মার্চ | ۱۹۴۷ء سے ۲۰۲۰ء | พ.ศ. ๒๕๖๗-๒๕๖๘ | ௧௯௪௭
கி.பி. 1947-1950 | 05 12 23 34 41 45 | 10-20 30-40 50-60 | 1990 1991 1992 1993
4000 4100 4200 4300 | logo@2x.png | @jina | C++11 | simu ya 1 500 000
telefonu 12.500.000 | hp 2019-2020 | https://habari.example/soma/0812345678/x
habari.example/soma/0812345678 | #0812345678 | 0812345678AB | Nomor 0123/2020
0123456-7 | 01.234.567.8-901.000 | 1900 1234 | 444 1 234 | 12345678901234567
0000 000 000 | 9876543210 | AB12 CDEF GHIJ KLMN | 20 000 000 – 30 000 000
"""


def cases(text: str) -> list[str]:
    return [
        case.strip() for line in text.split("\n") for case in line.split("|") if case
    ]


@pytest.mark.parametrize(("kind", "text", "expected"), MASKED)
def test_personal_data_becomes_a_placeholder_of_its_kind(kind, text, expected):
    masked, counts = mask(text)
    assert masked == expected
    assert counts == dict.fromkeys(("email", "iban", "card", "ip", "phone"), 0) | {
        kind: 1
    }


@pytest.mark.parametrize("number", cases(PHONES))
def test_telephone_numbers_are_masked_in_a_sentence(number):
    assert mask(number)[0] == "<PHONE>"
    masked, counts = mask(f"Piga {number}, kisha subiri (au {number}).")
    assert masked == "Piga <PHONE>, kisha subiri (au <PHONE>)."
    assert counts["phone"] == 2
    assert mask(f"โทร{number}ครับ")[0] == "โทร<PHONE>ครับ"


@pytest.mark.parametrize("text", cases(NAMED_PHONES))
def test_a_word_makes_a_number_a_telephone_number(text):
    masked, counts = mask(text)
    assert masked.endswith("<PHONE>")
    assert counts["phone"] == 1
    name = masked.removesuffix("<PHONE>")
    assert text.startswith(name)
    number = text.removeprefix(name)
    assert mask(f"mwaka {number} watu")[0] == f"mwaka {number} watu"


@pytest.mark.parametrize("text", cases(SURVIVES))
def test_numbers_that_are_nobodys_survive(text):
    assert mask(text)[0] == text
    sentence = f"Waliandika {text}, kisha wakaondoka."
    assert mask(sentence)[0] == sentence


def test_numbers_in_a_row_are_masked_one_by_one():
    text = "0812-3456-7890 0813-2222-3333, 0712 345 678 20 watu 0712 345 678"
    assert mask(text)[0] == "<PHONE> <PHONE>, <PHONE> 20 watu <PHONE>"
    assert mask("Mob: 9876543210, 9123456780")[0] == "Mob: <PHONE>, <PHONE>"
    assert mask("(0812-3456-7890) (021) 5551234")[0] == "(<PHONE>) <PHONE>"


def test_a_wrong_check_digit_keeps_a_number():
    for number in (VISA, TROY, FINNISH, TURKISH):
        wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
        assert mask(in_fours(wrong))[0] == in_fours(wrong)
    # No such country, no such length.
    assert mask(with_check_digits("XX", "12345600007777"))[1]["iban"] == 0
    assert mask(with_check_digits("FI", "1234560000777777"))[1]["iban"] == 0
    # The sixteen digits of an identity card are no bank's.
    assert mask(card("3273", 16))[1]["card"] == 0


def test_masking_what_is_masked_changes_nothing():
    text = "\n\n".join((*(text for _, text, _ in MASKED), *cases(PHONES)))
    masked, counts = mask(text)
    assert counts["phone"] == len(cases(PHONES))
    assert sum(counts.values()) == len(cases(PHONES)) + len(MASKED)
    assert mask(masked) == (masked, dict.fromkeys(counts, 0))


def test_masking_touches_nothing_between_what_it_masks():
    rng = random.Random(0)
    words = ["neno", "(", ")", "2019", "na", "।", "12", "ข้อ", "-", "3:16", "و"]
    found = [("foo@example.com", "<EMAIL>"), ("+254 700 000 000", "<PHONE>")]
    for _ in range(300):
        parts, expected = [], []
        for _ in range(rng.randrange(1, 5)):
            between = f" {rng.choice(words[:1])} {rng.choice(words)} neno, "
            text, placeholder = rng.choice(found)
            parts += [between, text]
            expected += [between, placeholder]
        assert mask("".join(parts))[0] == "".join(expected)


def test_of_the_bundled_pages_only_the_one_with_personal_data_is_masked():
    folder = Path(__file__).parents[2] / "examples" / "pages"
    num_pages = 0
    for file in sorted(folder.glob("*.jsonl")):
        for page in map(json.loads, file.read_text("utf-8").splitlines()):
            counts = mask("\n\n".join(page["paragraphs"]))[1]
            found = {kind for kind, count in counts.items() if count}
            is_personal = page.get("fault") == "personal_data"
            assert found == ({"email", "phone", "ip"} if is_personal else set())
            num_pages += 1
    assert num_pages > 120


@pytest.mark.parametrize(
    "unit",
    [
        "1", "0 ", "01 ", "071 ", "0712-345 ", "tel 712 3 ", "a", "a.", "a@", "a(at)",
        "AB12", "FI21 1234 ", "1.2.3.", "2001:", "+1(2)", "(", "1-",
        "4111 1111 1111 111 ", "a" * 63 + ".", "http://x/0712345678/", "โทร081",
    ],
)  # fmt: skip
def test_masking_takes_linear_time(unit):
    def seconds(num_chars: int) -> float:
        text = unit * (num_chars // len(unit))
        start = time.process_time()
        mask(text)
        return time.process_time() - start

    # A quadratic pattern would take 225 times as long, an exponential one for ever.
    assert seconds(60_000) < 60 * max(seconds(4_000), 0.001)


# Sites that opted out.


@pytest.fixture
def leave_out(tmp_path):
    def make(text: str) -> LeaveOut:
        path = tmp_path / "leave_out.txt"
        path.write_text(text, encoding="utf-8")
        return LeaveOut([str(path)])

    return make


def test_a_domain_stands_for_its_subdomains_and_no_others(leave_out):
    listed = leave_out("example.com\nwww.example.net\n")
    for host in (
        "example.com", "www.example.com", "a.b.example.com", "EXAMPLE.com.",
        "example.com:8080", "user@example.com", "example.net", "x.example.net",
    ):  # fmt: skip
        assert listed.covers(f"https://{host}/a?b#c"), host
        assert listed.covers(f"http://{host}"), host
    for host in ("notexample.com", "example.com.example", "com", "example.org", ""):
        assert not listed.covers(f"https://{host}/example.com"), host


def test_a_prefix_ends_at_the_end_of_a_segment(leave_out):
    listed = leave_out(
        "https://blog.example/a/b\nexample.org/@jina\nhttp://one.example/"
    )
    for covered in (
        "https://blog.example/a/b", "http://www.blog.example/a/b/",
        "//blog.example/a/b?c", "https://blog.example/a/b/c/d", "https://blog.example/a%2Fb/c#d",
        "https://example.org/@jina/1", "https://one.example", "https://one.example/x",
    ):  # fmt: skip
        assert listed.covers(covered), covered
    for free in (
        "https://blog.example/a", "https://blog.example/a/bc", "https://blog.example/",
        "https://x.blog.example/a/b", "https://blog.example/A/b", "https://example.org/",
        "https://sub.one.example/x",
    ):  # fmt: skip
        assert not listed.covers(free), free


def test_a_prefix_may_have_a_query(leave_out):
    listed = leave_out("https://example.com/page?id=3")
    assert listed.covers("https://www.example.com/page?id=3")
    assert not listed.covers("https://example.com/page?id=33")
    assert not listed.covers("https://example.com/page")


def test_hosts_are_the_same_in_letters_and_in_ascii(leave_out):
    listed = leave_out("sähkö.example\nhttps://xn--e1afmkfd.example/x")
    assert listed.covers("https://www.xn--shk-qla0d.example/") or listed.covers(
        "https://" + "sähkö.example".encode("idna").decode() + "/"
    )
    assert listed.covers("https://пример.example/x")


def test_comments_and_empty_lines_are_no_entries(leave_out):
    listed = leave_out(
        "\ufeff# maelezo\n\n  example.com  # sababu\n#example.org\nb.example/#x"
    )
    assert len(listed) == 2
    assert listed.covers("https://example.com/")
    assert not listed.covers("https://example.org/")


@pytest.mark.parametrize(
    "line",
    ["com", "*.example.com", "example.com example.org", "http://", "a b",
     "x@example.com", "exa mple.com", "http://[::1/", "-a.example",
     "a" * 64 + ".example", "/path", "example.com" + "/a" * 65],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_file_and_number(leave_out, line):
    with pytest.raises(ValueError, match=r"leave_out\.txt, line 3: "):
        leave_out(f"example.com\n\n{line}\n")


def test_a_line_that_is_not_utf_8_is_refused_with_its_number(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"example.com\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"x\.txt, line 2"):
        LeaveOut([str(tmp_path / "x.txt")])


def test_files_are_read_by_pattern_and_compressed(tmp_path):
    (tmp_path / "a.txt").write_text("a.example\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b.example\nb2.example\n"))
    listed = LeaveOut([str(tmp_path / "*.txt"), str(tmp_path / "*.gz")])
    assert len(listed) == 3
    assert all(map(listed.covers, ("http://a.example", "http://b2.example")))
    with pytest.raises(ValueError, match=r"none\.txt' matches no file"):
        LeaveOut([str(tmp_path / "none.txt")])


def test_an_entry_takes_eight_bytes(leave_out):
    listed = leave_out("".join(f"site{number}.example\n" for number in range(5000)))
    assert len(listed) == 5000
    assert listed._hashes.nbytes == 8 * 5000
    assert all(listed.covers(f"http://x.site{n}.example/") for n in range(0, 5000, 7))
    assert not any(listed.covers(f"http://site{n}.example/") for n in range(5000, 9000))


def test_no_list_and_no_address_cover_nothing(leave_out):
    assert not LeaveOut([]).covers("https://example.com/")
    listed = leave_out("example.com")
    for url in (
        "", "x", "https://", "http://[", "https://" + "a." * 9999 + "example.com",
        "https://example.org/" + "a/" * 100_000, "\ud800",
    ):  # fmt: skip
        assert not listed.covers(url)


# What a page says of itself.


@pytest.mark.parametrize(
    ("html", "header", "expected"),
    [
        ("", "", ()),
        ('<meta name="robots" content="noindex">', "", ("noindex",)),
        ("<META CONTENT='NoIndex, NoFollow' NAME='Robots'/>", "", ("noindex",)),
        ("<meta name=robots content=none>", "", ("noindex",)),
        ('<meta name="robots"\n content="noimageai;noai">', "", ("noai", "noimageai")),
        ('<meta name="ccbot" content="noindex">', "", ("noindex",)),
        ('<meta name="googlebot" content="noindex">', "", ()),
        ('<meta name="robots" content="index, follow, all">', "", ()),
        ('<meta name="robots" content="noindexing">', "", ()),
        ('<meta property="robots" content="noindex">', "", ()),
        ('<meta content="noindex">', "", ()),
        ('<!-- <meta name="robots" content="noindex"> -->', "", ()),
        ('<!-- a --><meta name="robots" content="noai"><!-- b -->', "", ("noai",)),
        ('<!-- <meta name="robots" content="noai">', "", ()),
        ('<head></head><body><meta name="robots" content="noindex">', "", ()),
        ('<meta name="tdm-reservation" content="1">', "", ("tdm-reservation",)),
        ('<meta name="tdm-reservation" content="0">', "", ()),
        ("", "noindex", ("noindex",)),
        ("", "NOAI, noimageai", ("noai", "noimageai")),
        ("", "none", ("noindex",)),
        ("", "googlebot: noindex, noai", ()),
        ("", "googlebot: nofollow\nnoindex", ("noindex",)),
        ("", "noai, googlebot: noindex", ("noai",)),
        ("", "googlebot: noindex, CCBot: noai", ("noai",)),
        ("", "*: noindex", ("noindex",)),
        ("", "max-snippet: 10, noindex", ("noindex",)),
        ("", "max-image-preview: none", ()),
        ("", "unavailable_after: 25 Jun 2030 15:00:00 PST, noai", ("noai",)),
        ("", "unavailable_after: Tue, 25 Jun 2030 15:00:00 PST, noai", ("noai",)),
        ('<meta name="robots" content="noai">', "noindex", ("noindex", "noai")),
    ],
)  # fmt: skip
def test_hints_are_those_for_everyone_or_common_crawl(html, header, expected):
    assert robots(html, header) == expected


CC = "https://creativecommons.org/licenses"
BY, BY_SA = f"{CC}/by/4.0/", f"{CC}/by-sa/4.0/"
PUBLIC = "https://creativecommons.org/publicdomain"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("", ""),
        (f'<a rel="license" href="{BY}">CC</a>', BY),
        (f"<link href='{BY_SA}deed.sw' rel='license'>", BY_SA),
        ("<A HREF=http://www.creativecommons.org/licenses/BY/4.0>", BY),
        ('<a href="//creativecommons.org/licenses/by/4.0/legalcode">', BY),
        (f'<a href="{CC}/by/3.0/fi/deed.fi">', f"{CC}/by/3.0/fi/"),
        (f'<a href="{CC}/by-nd/4.0/?ref=x#y">', f"{CC}/by-nd/4.0/"),
        (f'<a href="{CC}/by-sa/">', f"{CC}/by-sa/"),
        (f'<a href="{PUBLIC}/zero/1.0/">', f"{PUBLIC}/zero/1.0/"),
        (f'<a href="{PUBLIC}/mark/1.0/deed.th">', f"{PUBLIC}/mark/1.0/"),
        (f'<a href="{BY}">1</a><a href="{BY}deed.id">2</a>', BY),
        # Different ones say nothing, unless one is the page's own.
        (f'<a href="{BY}">1</a><a href="{BY_SA}">2</a>', ""),
        (f'<a href="{BY}"></a><a href="{BY_SA}" rel="nofollow license">', BY_SA),
        (f'<a rel=license href="{BY}"></a><a rel=license href="{BY_SA}">', ""),
        (f"Soma {BY} kwanza.", ""),
        (f'<img src="{BY}88x31.png">', ""),
        (f'<p title="{BY}">', ""),
        ('<a href="https://example.com/creativecommons.org/licenses/by/4.0/">', ""),
        ('<a href="https://creativecommons.org/about/">', ""),
        ('<a rel="license" href="https://example.com/licence">', ""),
    ],
)  # fmt: skip
def test_a_licence_is_the_one_that_the_page_names(html, expected):
    assert license(html) == expected
    assert license(f"<html><p>x</p>{html}<p>y</p></html>") == expected


@pytest.mark.parametrize(
    "unit",
    ["<meta ", "<meta a", '<meta name="', "a= ", "<!--", "<!---->", "<!-- a", "<link ",
     "creativecommons.org/", "<a href=creativecommons.org/", "a='", " "],
)  # fmt: skip
def test_hostile_html_costs_little(unit):
    html = "<meta " + unit * (1_000_000 // len(unit))
    start = time.process_time()
    assert robots(html, "a:" * 10_000) == ()
    assert license(html) == ""
    assert time.process_time() - start < 2
