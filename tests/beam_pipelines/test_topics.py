import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from beam_pipelines import topics
from beam_pipelines.charts import colour
from beam_pipelines.schema import LANGUAGES

HOSTILE = "</title><script>alert(1)</script>\"'&\x1b[2J\ud800{x}"
THEMES = {
    (0.1, 0.1): "vaccine fever clinic mosquito",
    (0.9, 0.1): "maize harvest irrigation compost",
    (0.5, 0.5): "football referee league stadium",
    (0.1, 0.9): "grandmother wedding ceremony birthday",
    (0.98, 0.98): "parliament election contract government",
}


def made(num=600, seed=0):
    """Themes that lie apart, in all languages."""
    draw, codes = random.Random(seed), list(LANGUAGES)
    found = []
    for at in range(num):
        (x, y), words = draw.choice(list(THEMES.items()))
        one, two = draw.sample(words.split(), 2)
        found.append(
            {
                "x": draw.gauss(x, 0.05),
                "y": draw.gauss(y, 0.05),
                "language": codes[at % len(codes)],
                "cluster": 0,
                "chosen": at % 3 > 0,
                "instruction": f"Tell how a {one} matters to a {two} of the village.",
            }
        )
    return found


def parsed(points, diversity=None):
    return ElementTree.fromstring(topics.section({"points": points}, diversity))


def overlap(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


@pytest.mark.parametrize("seed", range(5))
def test_labels_lie_in_the_frame_and_never_over_each_other(seed):
    labels = topics.labels(topics.points({"points": made(seed=seed)}))
    narrow = [label for label in labels if label.narrow]
    assert len(labels) > 5 and len(narrow) > 2
    for size, shown in ((topics.WIDE, labels), (topics.NARROW, narrow)):
        boxes = [topics.box(label, size) for label in shown]
        assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
        for left, top, right, bottom in boxes:
            assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]


def test_labels_are_words_of_their_place_and_of_no_other():
    labels = topics.labels(topics.points({"points": made()}))
    themes = {word: place for place, words in THEMES.items() for word in words.split()}
    for label in labels:
        x, y = themes[label.text]
        assert abs(label.x - x) < 0.12 and abs(label.y - y) < 0.12, label
    assert {themes[label.text] for label in labels} == set(THEMES)
    assert "village" not in {label.text for label in labels}


def test_few_points_have_no_typical_words():
    assert topics.labels(topics.points({"points": made(2)})) == []
    assert topics.labels([]) == []


def test_every_point_lies_in_the_frame():
    wild = [{"x": x, "y": y} for x in (-9, 0, 0.5, 1, 1e9) for y in (-1, 0.3, 7)]
    circles = parsed(wild).findall(".//circle")
    assert len(circles) == len(wild)
    for circle in circles:
        for name in ("cx", "cy"):
            assert 0 < float(circle.get(name).rstrip("%")) < 100
    # Up is down in drawings: a point of y 0 is at the top.
    (corner,) = parsed([{"x": 1, "y": 0}]).findall(".//circle")
    assert float(corner.get("cx").rstrip("%")) > 95
    assert float(corner.get("cy").rstrip("%")) < 5


def test_colour_and_filling_say_language_and_whether_it_was_chosen():
    points = made(40)
    root = parsed(points)
    found = sorted(circle.get("class") for circle in root.findall(".//circle"))
    expected = [
        f"of-{point['language']}" + ("" if point["chosen"] else " hollow")
        for point in points
    ]
    assert found == sorted(expected)
    legend = "".join(root.find(".//fieldset").itertext())
    chosen = sum(point["chosen"] for point in points)
    assert f"all {chosen}/40" in legend
    finnish = [point["chosen"] for point in points if point["language"] == "fi"]
    assert f"Finnish {sum(finnish)}/{len(finnish)}" in legend


def test_each_choice_of_the_legend_has_its_rule():
    chips = parsed([*made(40), {"x": 0, "y": 0, "language": "xx"}])
    values = {chip.get("value") for chip in chips.findall(".//input[@type='radio']")}
    rules = re.findall(r'value="(.*?)"]:checked\) circle:not\(\.(.*?)\)', topics.STYLE)
    assert all(value == css for value, css in rules)
    assert values == {"all"} | {value for value, _ in rules}
    assert values == {"all", *map(colour, (*LANGUAGES, ""))}


@pytest.mark.parametrize(
    "point",
    [
        None,
        "x",
        [],
        {},
        {"x": 0.5},
        {"x": "0.5", "y": 0.5},
        {"x": float("nan"), "y": 0.5},
        {"x": 0.5, "y": float("inf")},
        {"x": True, "y": 10**400},
    ],
)
def test_a_point_without_a_place_is_left_out(point):
    assert topics.points({"points": [point, {"x": 0.5, "y": 0.5}]}) == [
        topics.Point(x=0.5, y=0.5, language="", chosen=False, instruction="")
    ]


def test_hostile_fields_of_a_point_stay_text():
    fields = {"language": HOSTILE, "cluster": HOSTILE, "chosen": HOSTILE}
    fields |= {"instruction": HOSTILE, HOSTILE: HOSTILE}
    lists = {key: [HOSTILE] for key in ("language", "chosen", "instruction")}
    root = parsed([{"x": 0.5, "y": 0.5, **more} for more in (fields, lists)])
    assert root.find(".//script") is None
    text = "".join(root.itertext())
    assert text.count("</title><script>alert(1)</script>") == 1
    assert {c.get("class") for c in root.findall(".//circle")} == {"of-other hollow"}


def test_a_map_is_no_larger_than_a_browser_bears():
    long = [{"x": 0.5, "y": 0.5, "instruction": "x" * 10_000}]
    section = topics.section({"points": long * 10_000}, None)
    assert section.count("<circle") == topics.MAX_POINTS
    assert len(section) < 500 * topics.MAX_POINTS


@pytest.mark.parametrize("content", [None, [], {}, {"points": None}, {"points": []}, 3])
def test_without_points_and_counts_there_is_nothing(content):
    assert topics.section(content, None) == ""
    assert topics.section(content, content if content != 3 else "x") == ""


def rows_of(diversity):
    root = ElementTree.fromstring(topics.section(None, diversity))
    return [
        ["".join(cell.itertext()) for cell in row]
        for row in root.findall(".//tbody/tr")
    ]


def test_what_choosing_did_is_a_row_for_each_language():
    side = {"clusters": 9, "entropy": 2.5, "distinct_2": 0.25, "top_verb": "write"}
    side["top_verb_share"] = 0.41
    swahili = {
        "asked": 1200,
        "available": 1300,
        "chosen": 1000,
        "shortfall": "verbs above their share",
        "clusters": 12,
        "before": side,
        "after": {
            "clusters": 11,
            "entropy": 3.0,
            "distinct_2": 0.5,
            "top_verb": "write",
            "top_verb_share": 0.25,
        },
    }
    assert rows_of({"sw": swahili, "fi": {}, "xx": 5}) == [
        ["Finnish", "–", "–", "–", *["– → –"] * 4, "–"],
        [
            "Swahili",
            "1,200",
            "1,300",
            "1,000",
            "9 → 11 of 12",
            "2.50 → 3.00",
            "0.250 → 0.500",
            "write 41% → 25%",
            "verbs above their share",
        ],
    ]


@pytest.mark.parametrize("bad", [None, HOSTILE, [HOSTILE], {HOSTILE: 1}, float("nan")])
def test_any_count_of_choosing_may_be_anything(bad):
    keys = ("asked", "available", "chosen", "shortfall", "clusters", "before", "after")
    rows = rows_of({HOSTILE: dict.fromkeys(keys, bad)})
    assert len(rows) == 1 and rows[0][1] == "–"
    assert rows[0][0].startswith("</title><script>")
