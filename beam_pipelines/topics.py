"""The map of topics: where instructions lie, what they are about, what was chosen.

What is drawn comes from small files that a build leaves; whatever in them is missing,
or is of another kind, is left out or becomes a dash.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beam_pipelines import charts
from beam_pipelines.charts import Html, figure, fill, join, number, paragraph, table
from beam_pipelines.schema import LANGUAGES

# More would make a page that browsers are slow with.
MAX_POINTS = 3000
_TITLE_CHARS = 220
# Up to so many points are few, and can be larger; pixels.
_FEW = 400
_RADII = {"few": 6.0, "many": 4.2}
# Of the frame, in per cent, so that no point touches it.
_MARGIN = 2.5
# Topics are looked for in windows of 3 by 3 of this many cells across and down.
_CELLS = 14
_MAX_LABELS = 26
# A word says something of a place if so many instructions there have it, and it is so
# many times as frequent there as on the whole map.
_FEWEST, _LIFT = 3, 2.0
# The drawing as it is on a wide screen and on a narrow one: width, height.
WIDE, NARROW = (1010.0, 640.0), (330.0, 400.0)
# So that words are of many places, and not all of the densest one.
_APART = 0.075
# A label's size; letters are wider than most, so that it has air around it.
LETTER_PX, LABEL_PX = 9.0, 19.0

_WORD = re.compile(r"\b[a-z]{3,20}\b(?!['’])")
# Words that an instruction has whatever it is about.
_EMPTY = frozenset(
    "about above after again all also among and another answer any are aren article "
    "ask based because been before being below best between both brief briefly but "
    "can compose could create describe description detail detailed did different "
    "does doing done during each english example examples explain explanation few "
    "find following for from generate get give given good had has have help her here "
    "his how include including information instruction into its keep kind know let "
    "like list long main make many may might mine more most much must name need new "
    "not note number off one only other our out over own paragraph people piece "
    "please point points prepare provide question response say sentence sentences "
    "several she short should show simple since some someone something step steps "
    "still such summarize take tell text than that the their them then there these "
    "they thing things this those three through too translate two under until use "
    "used using very want was way ways well were what when where whether which while "
    "who whom whose why will with within without word words would write writing you "
    "your".split()
) | frozenset(language.name.lower() for language in LANGUAGES.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An instruction on the map.

    Attributes:
      x: From the left, in [0, 1].
      y: From the top, likewise.
      language: A key of `LANGUAGES`, or empty for any other.
      chosen: Whether it is published.
      instruction: The beginning of its text.
    """

    x: float
    y: float
    language: str
    chosen: bool
    instruction: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A word that says what instructions at a place are about.

    Attributes:
      text: The word.
      x: Its middle, in [0, 1].
      y: Likewise.
      narrow: Whether it has room on a narrow screen too.
    """

    text: str
    x: float
    y: float
    narrow: bool


def points(content: object) -> list[Point]:
    """The points of `map.json` that have a place."""
    found = content.get("points") if isinstance(content, Mapping) else None
    usable = []
    for each in found[:MAX_POINTS] if isinstance(found, list) else ():
        if not isinstance(each, Mapping):
            continue
        x, y = number(each.get("x")), number(each.get("y"))
        if x is None or y is None:
            continue
        code, text = each.get("language"), each.get("instruction")
        usable.append(
            Point(
                x=min(max(x, 0.0), 1.0),
                y=min(max(y, 0.0), 1.0),
                language=code if isinstance(code, str) and code in LANGUAGES else "",
                chosen=each.get("chosen") is True,
                instruction=_shortened(text) if isinstance(text, str) else "",
            )
        )
    return usable


def section(content: object, diversity: object) -> Html:
    """The map, and beside it what choosing did in each language.

    Args:
      content: Of `map.json`, or None.
      diversity: Of `diversity.json`, or None.
    """
    found = points(content)
    parts = []
    if found:
        parts += [
            paragraph(
                "Each point is an English instruction; those that ask for similar "
                "things lie near each other. Filled ones are published, hollow ones "
                "are not. Words name what is typical of a place. Rest on a point to "
                "read it; choose a language to see it apart."
            ),
            _map(found),
        ]
    if rows := _rows(diversity):
        parts.append(_spread(rows))
    return charts.section("The map of topics", *parts) if parts else Html("")


def labels(found: Sequence[Point]) -> list[Label]:
    """The most typical words of the densest places; none lies over another.

    A word is worth how often it is used near a place, times the logarithm of how much
    more frequent it is there than elsewhere: tf-idf, with windows as the documents.
    """
    words = [_content_words(point.instruction) for point in found]
    everywhere = Counter(word for each in words for word in each)
    cells: dict[tuple[int, int], list[int]] = {}
    for at, point in enumerate(found):
        cells.setdefault((_cell(point.x), _cell(point.y)), []).append(at)
    ranked = []
    for column, row in itertools.product(range(_CELLS), repeat=2):
        inside = [
            at
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for at in cells.get((i, j), ())
        ]
        here = Counter(word for at in inside for word in words[at])
        for word, count in here.items():
            lift = count * len(found) / (everywhere[word] * len(inside))
            if count >= _FEWEST and lift >= _LIFT:
                ranked.append((-count * math.log(lift), word, column, row, inside))
    ranked.sort(key=lambda item: item[:4])
    placed: list[Label] = []
    for _, word, _, _, inside in ranked:
        if any(_alike(word, label.text) for label in placed):
            continue
        having = [found[at] for at in inside if word in words[at]]
        x = sum(point.x for point in having) / len(having)
        y = sum(point.y for point in having) / len(having)
        if any(math.hypot(x - other.x, y - other.y) < _APART for other in placed):
            continue
        label = Label(text=word, x=x, y=y, narrow=True)
        if not _has_room(label, placed, WIDE):
            continue
        small = [other for other in placed if other.narrow]
        narrow = _has_room(label, small, NARROW)
        placed.append(dataclasses.replace(label, narrow=narrow))
        if len(placed) == _MAX_LABELS:
            break
    return placed


def _content_words(instruction: str) -> set[str]:
    return set(_WORD.findall(instruction.lower())) - _EMPTY


def _cell(share: float) -> int:
    return min(int(share * _CELLS), _CELLS - 1)


def _alike(one: str, two: str) -> bool:
    """Whether both are forms of a word, as far as their beginnings tell."""
    short, long = sorted((one, two), key=len)
    return long.startswith(short[: max(4, len(short) - 1)])


def box(label: Label, size: tuple[float, float]) -> tuple[float, float, float, float]:
    """The left, top, right and bottom of a label in a drawing of that size, pixels."""
    width, height = size
    length = LETTER_PX * len(label.text)
    x, y = (_across(share) / 100 for share in (label.x, label.y))
    left = x * width - length * {"start": 0, "middle": 0.5, "end": 1}[_anchor(label)]
    top = y * height - LABEL_PX / 2
    return left, top, left + length, top + LABEL_PX


def _anchor(label: Label) -> str:
    """At the edges a word must not leave the drawing."""
    return "start" if label.x < 0.2 else "end" if label.x > 0.8 else "middle"


def _has_room(label: Label, others: Iterable[Label], size: tuple[float, float]) -> bool:
    left, top, right, bottom = box(label, size)
    for other in others:
        left2, top2, right2, bottom2 = box(other, size)
        if left < right2 and left2 < right and top < bottom2 and top2 < bottom:
            return False
    return True


def _across(share: float) -> float:
    """Where a place of the map lies in its frame, per cent."""
    return _MARGIN + (100 - 2 * _MARGIN) * share


def _map(found: Sequence[Point]) -> Html:
    size = "few" if len(found) <= _FEW else "many"
    # What is published lies above what is not; in a set order, not one language last.
    order = sorted(found, key=lambda point: (point.chosen, point.x, point.y))
    dots = [
        fill(
            '<circle class="{css}" cx="{x}%" cy="{y}%" r="{r}"><title>{name}: '
            "{text}</title></circle>",
            css=charts.colour(point.language) + ("" if point.chosen else " hollow"),
            x=f"{_across(point.x):.2f}",
            y=f"{_across(point.y):.2f}",
            r=f"{_RADII[size] * (1 if point.chosen else 0.8):.1f}",
            name=charts.language_name(point.language),
            text=point.instruction,
        )
        for point in order
    ]
    words = [
        fill(
            '<text class="{css}" x="{x}%" y="{y}%" text-anchor="{anchor}">{text}'
            "</text>",
            css="narrow" if label.narrow else "wide",
            x=f"{_across(label.x):.2f}",
            y=f"{_across(label.y):.2f}",
            anchor=_anchor(label),
            text=label.text,
        )
        for label in labels(found)
    ]
    return fill(
        '<div class="topics">{chips}<svg class="map {size}" role="img" '
        'aria-label="{label}">{dots}{words}</svg></div>',
        chips=_chips(found),
        size=size,
        label=f"Map of {len(found):,} instructions",
        dots=join(*dots),
        words=join(*words),
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _TITLE_CHARS else f"{text[:_TITLE_CHARS]} …"


def _chips(found: Sequence[Point]) -> Html:
    """The legend, which also chooses what is shown."""
    total = Counter(point.language for point in found)
    chosen = Counter(point.language for point in found if point.chosen)
    chips = [_chip("all", "", "all", chosen.total(), len(found))]
    for code in (*LANGUAGES, ""):
        if total[code]:
            name = charts.language_name(code)
            css = charts.colour(code)
            chips.append(_chip(css, css, name, chosen[code], total[code]))
    return fill(
        '<fieldset class="chips"><legend>published, of those on the map</legend>{chips}'
        '<label><input type="checkbox" name="hollow" checked=""/> those not published'
        "</label></fieldset>",
        chips=join(*chips),
    )


def _chip(value: str, css: str, name: str, chosen: int, total: int) -> Html:
    return fill(
        '<label><input type="radio" name="topics" value="{value}"{checked}/>{dot}'
        ' {name} <span class="soft n">{chosen}/{total}</span></label>',
        value=value,
        checked=Html(' checked=""') if value == "all" else None,
        dot=fill('<i class="{css}"></i>', css=css) if css else None,
        name=name,
        chosen=chosen,
        total=total,
    )


def _rows(diversity: object) -> list[tuple[object, ...]]:
    """What choosing did in each language, as a table has it."""
    if not isinstance(diversity, Mapping):
        return []
    known = [code for code in LANGUAGES if code in diversity]
    others = sorted(str(code) for code in diversity if code not in LANGUAGES)
    rows = []
    for code in (*known, *others):
        found = diversity[code]
        if not isinstance(found, Mapping):
            continue
        short = found.get("shortfall")
        rows.append(
            (
                charts.language_name(code),
                *(_count(found.get(key)) for key in ("asked", "available", "chosen")),
                _before_after(found, "clusters", ",.0f", found.get("clusters")),
                _before_after(found, "entropy", ".2f"),
                _before_after(found, "distinct_2", ".3f"),
                _top_verbs(found),
                short if isinstance(short, str) and short else "–",
            )
        )
    return rows


def _count(value: object) -> object:
    found = number(value)
    return "–" if found is None else round(found)


def _before_after(
    found: Mapping[str, Any], key: str, spec: str, whole: object = None
) -> Html:
    before, after = _sides(found, key)
    of = "" if number(whole) is None else f" of {figure(whole, spec)}"
    return fill(
        '<span class="n">{before} → <b>{after}</b>{of}</span>',
        before=figure(before, spec),
        after=figure(after, spec),
        of=of,
    )


def _sides(found: Mapping[str, Any], key: str) -> tuple[object, object]:
    """What was measured before, and after."""
    before, after = (
        side.get(key) if isinstance(side := found.get(when), Mapping) else None
        for when in ("before", "after")
    )
    return before, after


def _top_verbs(found: Mapping[str, Any]) -> Html:
    verbs, shares = _sides(found, "top_verb"), _sides(found, "top_verb_share")
    before, after = (
        f"{verb} {figure(share, '.0%')}" if isinstance(verb, str) and verb else "–"
        for verb, share in zip(verbs, shares, strict=True)
    )
    if verbs[0] == verbs[1] and after != "–":
        after = figure(shares[1], ".0%")
    return fill("{before} → <b>{after}</b>", before=before, after=after)


def _spread(rows: Sequence[tuple[object, ...]]) -> Html:
    head = (
        "",
        "asked",
        "available",
        "chosen",
        "topics covered",
        "entropy",
        "distinct-2",
        "commonest verb",
        "why not all",
    )
    return join(
        Html('<h3 class="under">What choosing did</h3>'),
        paragraph(
            "Before the arrow: as many pairs by their scores alone; after it: those "
            "that were chosen. Topics are clusters of embeddings, entropy (nats) says "
            "how evenly they are used, distinct-2 is the share of different ones among "
            "all pairs of neighbouring words."
        ),
        table(head, rows, "across spread"),
    )


def _only(css: str) -> str:
    return (
        f'.topics:has(input[value="{css}"]:checked) circle:not(.{css}) '
        "{ opacity: .07; pointer-events: none; }"
    )


STYLE = """
svg.map { display: block; width: 100%; height: clamp(25rem, 62vw, 40rem);
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.map circle { fill: var(--c); stroke: var(--card); stroke-width: .8; }
.map circle.hollow { fill: transparent; stroke: var(--c); stroke-width: 1.3;
  opacity: .65; }
.map circle:hover { stroke: var(--ink); stroke-width: 2.5; opacity: 1; }
.map text { fill: var(--ink); font-size: 13.5px; font-weight: 650; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px; stroke-linejoin: round;
  dominant-baseline: central; pointer-events: none; }
.chips { border: 0; padding: 0; margin: .8rem 0 .6rem; display: flex; flex-wrap: wrap;
  gap: .3rem .5rem; font-size: .9rem; }
.chips legend { color: var(--soft); padding: 0; margin-bottom: .3rem; }
.chips label { display: inline-flex; align-items: center; gap: .35rem; cursor: pointer;
  border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .7rem .1rem .5rem;
  background: var(--card); }
.chips label:has(input[type="radio"]:checked) { border-color: var(--ink); }
.chips input { margin: 0; accent-color: var(--kept); }
.chips i { width: .8em; height: .8em; border-radius: 50%; background: var(--c); }
.topics:has(input[name="hollow"]:not(:checked)) circle.hollow { display: none; }
.spread td:nth-last-child(-n+5) { white-space: nowrap; }
.spread td:last-child { white-space: normal; min-width: 11rem; }
h3.under { margin-top: 1.6rem; }
@media (max-width: 46rem) {
  .map text.wide { display: none; }
  .map.many circle { r: 2.7px; }
}
""" + "\n".join(_only(charts.colour(code)) for code in (*LANGUAGES, ""))
