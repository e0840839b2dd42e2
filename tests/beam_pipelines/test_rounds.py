import copy
import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from beam_pipelines import rounds
from beam_pipelines.schema import LANGUAGES

HOSTILE = "</td><script>alert(1)</script>\"'&\x1b[2J\ud800{x}"


def made(number, acceptance=0.5, **changes):
    evaluator = {
        "rows": 900,
        "accuracy": 0.8,
        "auc": 0.9,
        "ece": 0.03,
        "temperature": 1.3,
        "recall": {"none": 0.7, "truncated": 0.8},
        "reliability": [
            {"low": 0.0, "high": 0.5, "mean": 0.25, "share": 0.25, "count": 200},
            {"low": 0.5, "high": 1.0, "mean": 0.75, "share": 0.5, "count": 50},
        ],
    }
    generator = {"held_out_loss_before": 3.4, "held_out_loss": 3.3, "taken": True}
    values = {
        "round": number,
        "documents": 118,
        "rejected": 12,
        "kept": 70,
        "acceptance": acceptance,
        "mean_p_best": 0.61,
        "acceptance_by_language": {"fi": acceptance, "sw": 0.4},
        "seconds": 61.0,
    }
    evaluator |= changes.pop("evaluator", {})
    generator |= changes.pop("generator", {})
    return {**values, "evaluator": evaluator, "generator": generator, **changes}


def parsed(content):
    return ElementTree.fromstring(rounds.section(content))


def text_of(content):
    return " ".join("".join(parsed(content).itertext()).split())


def changes_of(content):
    """Of the table's last row: what moved, as (class, text)."""
    row = parsed(content).find(".//table").findall(".//tr")[-1]
    spans = row.findall(".//span")
    return [(span.get("class"), span.text) for span in spans]


def test_each_measure_is_better_in_its_own_direction():
    first = made(1)
    second = made(
        2,
        0.56,
        mean_p_best=0.6,
        evaluator={"auc": 0.92, "ece": 0.05},
        generator={"held_out_loss_before": 3.3, "held_out_loss": 3.2},
    )
    assert changes_of({"rounds": [first, second]}) == [
        ("better", "▲ 6.0 points"),
        ("worse", "▼ 0.010 worse"),
        ("better", "▲ 0.020"),
        ("worse", "▲ 0.020 worse"),
        ("better", "▼ 0.100"),
    ]
    text = text_of({"rounds": [first, second]})
    assert (
        "Round 2 is better than the one before in 3 of 5 measures: acceptance, " in text
    )
    # The first has nothing before it but its generator's own loss.
    assert changes_of({"rounds": [first]}) == [("better", "▼ 0.100")]


def test_what_does_not_move_is_neither_better_nor_worse():
    content = {"rounds": [made(1), made(2)]}
    assert [css for css, _ in changes_of(content)] == ["same"] * 4 + ["better"]
    assert "in 0 of 5 measures." in text_of(content)


def test_why_the_rounds_ended_is_said():
    assert "ended early: Enough <b>." in text_of(
        {"rounds": [made(1)], "stopped": "Enough <b>."}
    )
    assert "ended early" not in text_of({"rounds": [made(1)], "stopped": ""})


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"rounds": None}, {"rounds": []}, {"rounds": ["x", 3]}, "x"],
)
def test_without_rounds_there_is_nothing(content):
    assert rounds.section(content) == ""


def paths(value, path=()):
    """Of everything in nested dictionaries and lists."""
    if path:
        yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from paths(value[key], (*path, key))


REPLACEMENTS = [
    None,
    HOSTILE,
    float("nan"),
    float("-inf"),
    10**400,
    -(10**30),
    [],
    {},
    [HOSTILE],
    {HOSTILE: HOSTILE},
    True,
]


@pytest.mark.parametrize("bad", REPLACEMENTS, ids=lambda bad: type(bad).__name__)
def test_any_field_may_be_anything(bad):
    good = {"rounds": [made(1), made(2)], "stopped": ""}
    for path in paths(good):
        content = copy.deepcopy(good)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = bad
        section = rounds.section(content)
        if not section:
            continue
        root = ElementTree.fromstring(section)
        assert root.find(".//script") is None, path
        assert not re.search(r"\b(nan|inf|None)\b", "".join(root.itertext())), path
        for name in ("x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"):
            for each in root.findall(f".//svg//*[@{name}]"):
                assert abs(float(each.get(name).rstrip("%"))) < 1000, (path, name)


def test_a_round_of_which_nothing_is_known_is_a_row_of_dashes():
    row = parsed({"rounds": [{}]}).find(".//table").findall(".//tr")[-1]
    assert "".join(row.itertext()) == "1" + "–" * 7 + "– → –" + "––"


def test_names_in_the_file_stay_text():
    recall = {HOSTILE: 0.5}
    root = parsed(
        {"rounds": [made(1, evaluator={"recall": recall})], "stopped": HOSTILE}
    )
    assert root.find(".//script") is None
    assert "".join(root.itertext()).count("<script>alert(1)</script>") == 2


def test_acceptance_is_drawn_where_it_is_and_never_outside():
    content = {"rounds": [made(1, 0.0), made(2, 1.0), made(3, 7.0)]}
    drawing = parsed(content).find(".//svg[@class='acceptance']")
    bottom, top, beyond = (
        float(each.get("cy")) for each in drawing.findall("g[@class='all']/circle")
    )
    assert top == beyond < bottom
    scale = [float(line.get("y1")) for line in drawing.findall("line[@class='grid']")]
    assert (max(scale), min(scale)) == (bottom, top)
    middle = parsed({"rounds": [made(1, 0.5)]}).find(".//g[@class='all']/circle")
    assert float(middle.get("cy")) == pytest.approx((top + bottom) / 2)
    across = [
        float(each.get("cx").rstrip("%"))
        for each in drawing.findall("g[@class='all']/circle")
    ]
    assert across == sorted(across) and across[0] > 0 and across[-1] < 100


def test_a_language_that_a_round_lacks_leaves_a_gap():
    first, second, third = made(1), made(2), made(3)
    second["acceptance_by_language"] = {"fi": 0.5}
    drawing = parsed({"rounds": [first, second, third]}).find(".//svg")
    assert len(drawing.findall("g[@class='of-sw']/circle")) == 2
    assert len(drawing.findall("g[@class='of-sw']/line")) == 0
    assert len(drawing.findall("g[@class='of-fi']/line")) == 2


@pytest.mark.parametrize("seed", range(30))
def test_labels_are_spread_no_further_than_they_must(seed):
    draw = random.Random(seed)
    heights = [draw.uniform(0, 200) for _ in range(draw.randint(1, 11))]
    found = rounds.spread(heights, 15)
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    places = [found[at] for at in order]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert all(gap >= 15 - 1e-6 for gap in gaps)
    assert min(found) >= 7.5
    far = rounds.spread([30, 60, 100], 15)
    assert far == [30, 60, 100]
    assert sum(rounds.spread([100, 101], 15)) == pytest.approx(201)


def test_labels_of_all_languages_fit_beside_the_lines():
    by_language = dict.fromkeys(LANGUAGES, 0.99)
    each = made(1, 0.99, acceptance_by_language=by_language)
    drawing = parsed({"rounds": [each]}).find(".//svg")
    places = [
        float(text.get("y"))
        for text in drawing.findall("text")
        if "name" in text.get("class", "")
    ]
    assert len(places) == 11
    assert max(places) < float(drawing.get("height"))


def test_what_is_predicted_rightly_lies_on_the_diagonal():
    drawing = parsed({"rounds": [made(1)]}).find(".//svg[@class='reliability']")
    right, wrong = drawing.findall("circle")
    assert float(right.get("cx")) + float(right.get("cy")) == pytest.approx(300)
    # Too sure of itself: beneath the diagonal, that is further down than it.
    assert float(wrong.get("cx")) + float(wrong.get("cy")) > 300 + 50
    bars = [float(bar.get("height")) for bar in drawing.findall("rect")]
    assert bars[0] == pytest.approx(4 * bars[1], rel=0.01)


def test_recall_tells_good_pairs_from_spoilt_ones():
    table = parsed({"rounds": [made(1)]}).find(".//table[@class='recall']")
    rows = ["".join(row.itertext()) for row in table.findall("tbody/tr")]
    assert rows == ["good pairs70%", "truncated80%"]
    bars = [bar.get("style") for bar in table.findall(".//i")]
    assert bars == ["width:70.0%", "width:80.0%"]
