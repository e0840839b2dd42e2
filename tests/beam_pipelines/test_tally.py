"""What is counted, against slower and plainer ways to count it."""

import itertools
import json
import math
import random
import statistics

import pytest

from beam_pipelines import minhash, tally
from beam_pipelines.rows import Row
from tests.conftest import REPOSITORY

WORDS = "river stone maize boat lamp road well seed goat market cloud bread".split()


def pages(language: str) -> list[str]:
    file = REPOSITORY / "examples" / "seed" / f"{language}.jsonl"
    return [json.loads(line)["response"] for line in file.read_text().splitlines()]


def row(instruction: str, output: str, language: str = "fi", domain: str = "") -> Row:
    return Row(
        where="",
        instruction=instruction,
        output=output,
        language=language,
        domain=domain,
    )


def jaccard(a: str, b: str, language: str) -> float:
    one, other = (set(minhash.shingles(text, language).tolist()) for text in (a, b))
    return len(one & other) / len(one | other)


def side(texts: list[str], language: str) -> tally._Side:
    kept = tally._Side()
    for number, text in enumerate(texts):
        kept.add(number, text, minhash.shingles(text, language))
    return kept


@pytest.mark.parametrize("language", ["fi", "th"])
def test_near_duplicates_are_those_that_share_four_fifths(language):
    draw = random.Random(0)
    texts, alike = [], []
    for number, text in enumerate(pages(language)[:80]):
        # Some characters after one place are others: as many shingles are lost.
        letters = list(text)
        for at in range(2 * number):
            letters[-1 - at] = draw.choice("abcdefgh")
        changed = "".join(letters)
        alike.append(jaccard(text, changed, language))
        texts += [text, changed]
    found = side(texts, language).near()
    assert set(found.values()) <= set(range(0, len(texts), 2))
    surely = {2 * n + 1 for n, share in enumerate(alike) if 0.93 <= share < 1}
    hardly = {2 * n + 1 for n, share in enumerate(alike) if share < 0.68}
    assert len(surely) > 4 and len(hardly) > 4
    assert surely <= found.keys()
    assert not hardly & found.keys()


def test_a_repeated_text_is_the_same_and_not_near():
    texts = [*pages("fi")[:5], *pages("fi")[1:3], pages("fi")[0].upper()]
    kept = side(texts, "fi")
    assert kept.same() == {5: 1, 6: 2}
    assert kept.near() == {7: 0}


def test_many_copies_of_one_template_are_all_found():
    texts = [f"{pages('fi')[0]} {WORDS[n % 12]} {n}" for n in range(300)]
    assert len(side(texts, "fi").near()) == 299


def test_a_crowded_band_hides_no_pair():
    """Six kinds of text, twice, and all of them share every band."""
    kept = tally._Side()
    for number in range(12):
        signature = bytes(random.Random(number % 6).choices(range(256), k=112))
        kept.numbers.append(100 + number)
        kept.digests.append(number)
        kept.keys.extend([7] * minhash.NUM_BANDS)
        kept.signatures += signature
    assert kept.near() == {106 + number: 100 + number for number in range(6)}


def test_texts_without_words_are_like_none_but_their_equals():
    kept = side(["!!", "??", "!!", ""], "fi")
    assert kept.same() == {2: 0}
    assert kept.near() == {}


def ngrams(text: str, language: str):
    return tally._ngrams(minhash.shingles(text, language), language)


def test_ngrams_do_not_depend_on_their_place():
    """Also past the powers that are kept from one text to the next."""
    words = [f"{a}{b}{c}" for a in WORDS for b in WORDS for c in WORDS]
    behind = ngrams(" ".join(words), "fi")
    for start in (0, 7, 1000):
        part = ngrams(" ".join(words[start : start + 40]), "fi")
        assert part.tolist() == behind[start : start + 29].tolist()
    assert len(set(behind.tolist())) == len(words) - 11
    many = ngrams(" ".join(words * 3), "fi")
    assert many[-29:].tolist() == ngrams(" ".join(words[-40:]), "fi").tolist()


@pytest.mark.parametrize("common", [11, 12])
def test_twelve_words_in_common_are_contamination_and_eleven_are_not(tmp_path, common):
    shared = WORDS[:common]
    file = tmp_path / "e.jsonl"
    file.write_text(
        json.dumps({"a": {"b": ["x", " ".join(["Early", *shared, "late", "later"])]}})
    )
    found = tally.EvaluationSet(str(file))
    assert (found.num_texts, found.num_long) == (2, 1)
    ours = f"one two {', '.join(shared).upper()}! three four"
    assert found.shares_with(ngrams(ours, "fi")) == (common == 12)


@pytest.mark.parametrize("common", [47, 48])
def test_thai_is_compared_by_48_characters(tmp_path, common):
    letters = "".join(chr(0x0E01 + n * 7 % 40) for n in range(48))
    file = tmp_path / "e.txt"
    file.write_text(f"\n{letters}\n")
    found = tally.EvaluationSet(str(file))
    assert (found.num_texts, found.num_long) == (1, 1)
    ours = f"ฮฮ{letters[:common]}ฬฬ"
    assert found.shares_with(ngrams(ours, "th")) == (common == 48)


def test_a_table_of_numbers_is_no_contamination(tmp_path):
    file = tmp_path / "e.txt"
    file.write_text(" ".join(map(str, range(40))))
    ours = ngrams(" ".join(map(str, range(500, 540))), "fi")
    assert not tally.EvaluationSet(str(file)).shares_with(ours)


@pytest.mark.parametrize("language", ["fi", "id", "th", "bn", "sw", "ur"])
def test_a_text_is_in_its_language_and_in_no_other(language):
    texts = pages(language)[:8]
    assert all(tally.in_language(text, language) for text in texts)
    for other in {"fi", "id", "th", "bn", "sw", "ur"} - {language}:
        assert not any(tally.in_language(text, other) for text in texts)


def test_lengths_are_those_of_the_statistics_module():
    counted = tally.Tally("fi")
    texts = pages("fi")[:30]
    for number, text in enumerate(texts):
        counted.add(number, row("Say so, please.", text), {})
    figures = counted.figures()
    lengths = list(map(len, texts))
    assert figures["output_chars"] == round(statistics.fmean(lengths), 1)
    assert figures["output_chars_deviation"] == round(statistics.pstdev(lengths), 1)
    assert figures["output_chars_z"] == round(
        (statistics.fmean(lengths) - 1027) / 553, 2
    )
    assert figures["distinct_1"] == round(3 / 90, 4)
    assert figures["distinct_2"] == round(2 / 60, 4)
    assert figures["top_verbs"] == {"say": 1.0}


def test_parts_add_up_to_the_whole():
    whole, parts = tally.Tally("fi"), [tally.Tally("fi"), tally.Tally("fi")]
    for number, text in enumerate(pages("fi")[:20]):
        instruction = (
            f"{['Explain', 'Sketch', 'Write'][number % 3]} the {WORDS[number % 12]}."
        )
        english = " This is what you have and it was not translated for the page."
        output = text + english * (number % 3 == 0)
        made = row(instruction, output, domain=f"{number % 4}.example")
        whole.add(number, made, {})
        parts[number % 2].add(number, made, {})
    parts[0].merge(parts[1])
    assert parts[0].figures() == whole.figures()
    assert whole.figures()["with_english"] == 7 / 20
    for ours, theirs in (
        (parts[0].by_domain, whole.by_domain),
        (parts[0].by_verb, whole.by_verb),
        (parts[0].wrong, whole.wrong),
    ):
        assert {k: (p.count, p.first) for k, p in ours.items()} == {
            k: (p.count, p.first) for k, p in theirs.items()
        }


def test_what_is_kept_of_a_row_is_small():
    kept = tally._Side()
    for number, text in enumerate(itertools.islice(itertools.cycle(pages("fi")), 100)):
        kept.add(number, text * 10, minhash.shingles(text * 10, "fi"))
    arrays = (kept.numbers, kept.digests, kept.keys)
    num_bytes = sum(len(each) * each.itemsize for each in arrays) + len(kept.signatures)
    assert num_bytes <= 100 * 240


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tämä on suomea. Tässä ei ole muuta kuin suomen kieltä ja sen sanoja.", False),
        ("Se on hyvä. This is what nobody has translated for the reader. Niin.", True),
        ("अच्छा है। This is the sentence that nobody has translated for you। ठीक", True),
        ("Kappale The Sound of Silence on vanha.", False),
    ],
)
def test_english_sentences_are_seen(text, found):
    assert tally.has_english(text) is found


def test_entropy_and_divergence_at_known_values():
    assert tally.entropy([3] * 8) == pytest.approx(3)
    assert tally.entropy([5, 0]) == 0
    assert tally.entropy([]) == 0
    shares = {"write": 75.0, "give": 25.0}
    assert tally.divergence({"write": 30, "give": 10, "x": 1}, shares) == 0
    assert tally.divergence({"find": 3, "see": 1}, shares) == pytest.approx(1)
    assert tally.divergence({}, shares) is None
    # ½ (log2(1/.875) + .75 log2(.75/.875) + .25 log2(.25/.125)), by hand.
    by_hand = 0.5 * (math.log2(8 / 7) + 0.75 * math.log2(6 / 7) + 0.25)
    assert tally.divergence({"write": 1}, shares) == pytest.approx(by_hand, abs=1e-4)
