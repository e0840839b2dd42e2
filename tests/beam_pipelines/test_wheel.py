import math
import random
import re
from collections import Counter
from xml.etree import ElementTree

import pytest

from beam_pipelines import wheel

HOSTILE = "<script>alert(1)</script>\"'&\x1b\ud800{x}"


def counts_of(seed):
    """Verbs with one to seven objects, or none, of very different sizes."""
    draw = random.Random(seed)
    return Counter(
        {
            (f"verb{v}", f"noun{n}" if n else ""): draw.randint(
                1, 10 ** draw.randint(0, 4)
            )
            for v in range(draw.randint(1, 25))
            for n in range(draw.randint(1, 8))
        }
    )


def by_verb(counts):
    verbs = Counter()
    for (verb, _), count in counts.items():
        verbs[verb] += count
    return verbs


def parsed(counts):
    return ElementTree.fromstring(wheel.section(counts, "kept pairs"))


@pytest.mark.parametrize("seed", range(20))
def test_the_verbs_fill_the_circle_and_objects_lie_within_their_verb(seed):
    counts = counts_of(seed)
    verbs = by_verb(counts)
    pieces = wheel.slices(verbs, counts)
    assert len(pieces) == min(16, len(verbs))
    assert pieces[0].start == 0
    assert pieces[-1].stop == pytest.approx(1)
    whole = sum(verbs[piece.name] for piece in pieces)
    assert whole == sum(count for _, count in verbs.most_common(16))
    at = 0
    for piece in pieces:
        assert piece.start == pytest.approx(at)
        assert piece.stop - piece.start == pytest.approx(verbs[piece.name] / whole)
        assert len(piece.nouns) <= 4
        edge = piece.start
        for noun in piece.nouns:
            assert noun.start == pytest.approx(edge)
            share = counts[piece.name, noun.name] / whole
            assert noun.stop - noun.start == pytest.approx(share)
            edge = noun.stop
        assert edge <= piece.stop + 1e-9
        at = piece.stop


def test_measured_objects_that_come_to_more_than_their_verb_are_drawn_within_it():
    (piece,) = wheel.slices({"write": 10.0}, {("write", "a"): 8.0, ("write", "b"): 4.0})
    assert piece.nouns[-1].stop == pytest.approx(1)
    assert piece.nouns[0].stop == pytest.approx(8 / 12)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0.25), (0.1, 0.9), (0.4, 0.4001), (0, 1)]
)
def test_a_sector_goes_along_both_circles_by_way_of_their_middles(start, stop):
    path = wheel.sector(start, stop, 50, 200)
    corners = re.findall(r"(-?[\d.]+) (-?[\d.]+)(?=[ALZ])", path)
    found = [(float(x), float(y)) for x, y in corners]
    middle = (start + stop) / 2
    expected = [(turn, 200) for turn in (start, middle, stop)]
    expected += [(turn, 50) for turn in (stop, middle, start)]
    assert len(found) == 6
    for (x, y), (turn, radius) in zip(found, expected, strict=True):
        assert math.hypot(x, y) == pytest.approx(radius, abs=0.02)
        across = radius * math.sin(2 * math.pi * turn)
        up = radius * math.cos(2 * math.pi * turn)
        assert (x, -y) == pytest.approx((across, up), abs=0.02)
    # Outward the arcs turn with the clock, back against it.
    assert re.findall(r"A\S+ \S+ 0 0 ([01]) ", path) == ["1", "1", "0", "0"]


@pytest.mark.parametrize("seed", range(5))
def test_no_label_stands_on_its_head_or_leaves_its_ring(seed):
    labels = parsed(counts_of(seed)).findall(".//svg//text[@transform]")
    assert labels
    for label in labels:
        turn = float(re.search(r"rotate\((.*?)\)", label.get("transform"))[1])
        assert math.cos(math.radians(turn)) > -1e-6
        size = float(re.search(r"[\d.]+", label.get("style"))[0])
        assert 7 < size <= 13
        assert size * 0.5 * len(label.text) < 80


def test_shares_of_both_are_said_in_words():
    counts = Counter(
        {
            ("explain", "difference"): 30,
            ("explain", ""): 30,
            ("give", "advice"): 37,
            ("translate", "text"): 2,
            ("summarize", ""): 1,
            ("", ""): 900,
        }
    )
    text = "".join(parsed(counts).itertext())
    assert "ours is “explain” with 60%, and 3.0% ask to summarize" in text
    assert "the paper’s it is “write” with 41.0%, and 15.8% summarize" in text
    # By objects alone: 30 explain, 37 give, 2 translate.
    assert "ours has “give” with 54%, and 2.9% to summarize" in text
    assert "4 commonest verbs: 100 of the 1,000 instructions of kept pairs" in text


def test_what_is_ill_posed_is_marked_in_both_wheels():
    ours, theirs = parsed(Counter({("give", "list"): 3, ("translate", ""): 1})).findall(
        ".//svg"
    )
    assert len(ours.findall(".//path[@class='rim']")) == 1
    assert len(theirs.findall(".//path[@class='rim']")) == 2
    assert len(theirs.findall(".//path[@class='verb']")) == 16
    assert len(theirs.findall(".//path[@class='noun']")) == 4


def test_a_verb_has_one_colour_in_both_wheels():
    ours, theirs = parsed(Counter({("describe", ""): 3, ("boil", ""): 9})).findall(
        ".//svg"
    )
    colours = [
        {
            group.find("path/title").text.split()[0]: group.get("style")
            for group in drawing.findall("g")
        }
        for drawing in (ours, theirs)
    ]
    assert colours[0]["describe"] == colours[1]["describe"]
    assert len(set(colours[1].values())) == 16
    assert colours[0]["boil"] not in colours[1].values()


def test_nothing_is_drawn_where_no_verb_is_known():
    assert wheel.section(Counter(), "kept pairs") == ""
    assert wheel.section(Counter({("", ""): 5}), "kept pairs") == ""


def test_hostile_words_stay_words():
    counts = Counter({(HOSTILE, HOSTILE): 3, ("x" * 5000, "y" * 5000): 2})
    root = parsed(counts)
    assert root.find(".//script") is None
    assert "<script>alert(1)</script>" in "".join(root.itertext())
    assert len(wheel.section(counts, "kept pairs")) < 40_000
