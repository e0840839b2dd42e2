"""Rounds of refinement: what each kept, and whether it made anything better.

What is drawn comes from a small file that another version may have written: whatever
is missing, or is no number, becomes a dash.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from beam_pipelines import charts
from beam_pipelines.charts import Html, figure, fill, join, number, paragraph, table
from beam_pipelines.schema import LANGUAGES

_PLOT_PX, _TOP_PX, _LINE_PX = 210, 12, 15
# Where the last round stands, in per cent of the width; names follow.
_FIRST_AT, _LAST_AT = 8.0, 76.0
_SIDE, _COUNTS_PX = 300, 58


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is compared from round to round.

    Attributes:
      name: For people.
      path: Keys that lead to it in a round.
      spec: How it is written.
      sign: 1 if more is better, or -1.
    """

    name: str
    path: tuple[str, ...]
    spec: str
    sign: int


_MEASURES = (
    Measure(name="acceptance", path=("acceptance",), spec=".1%", sign=1),
    Measure(name="mean p_best", path=("mean_p_best",), spec=".3f", sign=1),
    Measure(name="evaluator’s AUC", path=("evaluator", "auc"), spec=".3f", sign=1),
    Measure(name="evaluator’s ECE", path=("evaluator", "ece"), spec=".3f", sign=-1),
    Measure(
        name="generator’s held-out loss",
        path=("generator", "held_out_loss"),
        spec=".3f",
        sign=-1,
    ),
)
_TAKEN = {True: "yes", False: "no"}


def section(content: object) -> Html:
    """The rounds as words, table and drawings; nothing if there were none.

    Args:
      content: Of `refinement.json`.
    """
    rounds = [each for each in _list(_at(content, "rounds")) if isinstance(each, dict)]
    if not rounds:
        return Html("")
    stopped = _at(content, "stopped")
    last = rounds[-1]
    columns = [
        fill("<div>{column}</div>", column=column)
        for column in (join(_acceptance(rounds), _recall(last)), _reliability(last))
        if column
    ]
    return charts.section(
        "Rounds of refinement",
        paragraph(
            "In each round the evaluator judges what the generator wrote, and the "
            "generator learns from the pairs that were kept. Beneath a number stands "
            "how far it moved since the round before, and if that is worse; beneath "
            "the loss, how far this round’s training moved it. A small change can be "
            "chance."
        ),
        _table(rounds),
        _changes(rounds),
        paragraph(f"The rounds ended early: {stopped}")
        if isinstance(stopped, str) and stopped
        else Html(""),
        fill('<div class="figures">{columns}</div>', columns=join(*columns)),
    )


def _at(content: object, *path: str) -> Any:
    """What lies under these keys, or None."""
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _list(content: object) -> list[Any]:
    return content if isinstance(content, list) else []


def _name(each: object, at: int) -> str:
    found = number(_at(each, "round"))
    return f"{found:g}" if found is not None else str(at + 1)


def _table(rounds: Sequence[object]) -> Html:
    rows = []
    for at, each in enumerate(rounds):
        before = rounds[at - 1] if at else None
        cells = [_with_change(measure, each, before) for measure in _MEASURES]
        taken = _at(each, "generator", "taken")
        rows.append(
            (
                _name(each, at),
                figure(_at(each, "documents"), ",.0f"),
                figure(_at(each, "rejected"), ",.0f"),
                figure(_at(each, "kept"), ",.0f"),
                *cells[:-1],
                _loss(each),
                _TAKEN[taken] if isinstance(taken, bool) else "–",
                figure(_at(each, "seconds"), ",.0f"),
            )
        )
    head = (
        "round",
        "documents in",
        "rejected by rules",
        "kept",
        "acceptance",
        "mean p_best",
        "evaluator’s AUC",
        "evaluator’s ECE",
        "generator’s held-out loss",
        "new generator taken",
        "seconds",
    )
    return table(head, rows, "across rounds")


def _loss(each: object) -> Html:
    """Before and after training; green where it fell."""
    before = number(_at(each, "generator", "held_out_loss_before"))
    after = number(_at(each, "generator", "held_out_loss"))
    return fill(
        "{before} → {after}{change}",
        before=figure(before, ".3f"),
        after=figure(after, ".3f"),
        change=_change(before, after, ".3f", -1),
    )


def _with_change(measure: Measure, each: object, before: object) -> Html:
    now, then = _at(each, *measure.path), _at(before, *measure.path)
    return fill(
        "{now}{change}",
        now=figure(now, measure.spec),
        change=_change(number(then), number(now), measure.spec, measure.sign),
    )


def _change(then: float | None, now: float | None, spec: str, sign: int) -> Html:
    """How far a number moved, and whether to the better; nothing where it cannot."""
    if then is None or now is None:
        return Html("")
    moved = now - then
    points = spec.endswith("%")
    size = f"{100 * abs(moved):.1f} points" if points else format(abs(moved), spec)
    if not any(digit in size for digit in "123456789"):
        return Html('<span class="same">no change</span>')
    better = moved * sign > 0
    return fill(
        '<span class="{css}">{arrow} {size}{worse}</span>',
        css="better" if better else "worse",
        worse="" if better else " worse",
        arrow="▲" if moved > 0 else "▼",
        size=size,
    )


def _changes(rounds: Sequence[object]) -> Html:
    """For each round after the first: in how many of the measures it was better."""
    lines = []
    for at, (before, each) in enumerate(itertools.pairwise(rounds), 1):
        better, known = [], 0
        for measure in _MEASURES:
            then, now = (number(_at(r, *measure.path)) for r in (before, each))
            if then is not None and now is not None:
                known += 1
                if (now - then) * measure.sign > 0:
                    better.append(measure.name)
        if not known:
            continue
        lines.append(
            fill(
                "<p>Round {name} is better than the one before in <b>{n} of {known}</b>"
                " measures{which}.</p>",
                name=_name(each, at),
                n=len(better),
                known=known,
                which=f": {', '.join(better)}" if better else "",
            )
        )
    return join(*lines)


def _acceptance(rounds: Sequence[object]) -> Html:
    """Lines over the rounds: of each language thin, of all of them thick."""
    every = [number(_at(each, "acceptance")) for each in rounds]
    codes = [
        code
        for code in LANGUAGES
        if any(_acceptance_of(each, code) is not None for each in rounds)
    ]
    lines: list[tuple[str, str, list[float | None]]] = [
        (
            charts.language_name(code),
            charts.colour(code),
            [_acceptance_of(each, code) for each in rounds],
        )
        for code in codes
    ]
    if any(value is not None for value in every):
        lines.append(("all", "all", every))
    if not lines:
        return Html("")
    width = max(len(rounds) - 1, 1)
    across = [
        _FIRST_AT + (_LAST_AT - _FIRST_AT) * at / width for at in range(len(rounds))
    ]
    parts = [_scale(share) for share in (0, 0.25, 0.5, 0.75, 1)]
    for at, each in enumerate(rounds):
        parts.append(
            fill(
                '<text x="{x}%" y="{y}" text-anchor="middle">round {name}</text>',
                x=f"{across[at]:.2f}",
                y=_TOP_PX + _PLOT_PX + 18,
                name=_name(each, at),
            )
        )
    parts += [_line(*line, across, rounds) for line in lines]
    ends = {
        name: (values[-1], css) for name, css, values in lines if values[-1] is not None
    }
    heights = spread([_height(value or 0) for value, _ in ends.values()], _LINE_PX)
    for (name, (value, css)), y in zip(ends.items(), heights, strict=True):
        parts.append(
            fill(
                '<text class="{css} name" x="{x}%" dx="12" y="{y}">{name} {share}'
                "</text>",
                css=css,
                x=f"{across[-1]:.2f}",
                y=f"{y + 4:.1f}",
                name=name,
                share=figure(value, ".0%"),
            )
        )
    return fill(
        '<figure><h3>Acceptance</h3><svg class="acceptance" role="img" '
        'aria-label="Acceptance over the rounds" height="{height}">{parts}</svg>'
        "<figcaption>Share of a round’s pairs that were kept, of each language and of "
        "all.</figcaption></figure>",
        height=max([_TOP_PX + _PLOT_PX, *(y + 4 for y in heights)]) + 24,
        parts=join(*parts),
    )


def _acceptance_of(each: object, code: str) -> float | None:
    return number(_at(each, "acceptance_by_language", code))


def _height(share: float) -> float:
    """Pixels from the top; what is no share stays in the drawing."""
    return _TOP_PX + _PLOT_PX * (1 - min(max(share, 0.0), 1.0))


def _scale(share: float) -> Html:
    return fill(
        '<line class="grid" x1="{left}%" x2="{right}%" y1="{y}" y2="{y}"/>'
        '<text x="0" y="{text}">{percent}</text>',
        left=f"{_FIRST_AT:g}",
        right=f"{_LAST_AT:g}",
        y=f"{_height(share):.1f}",
        text=f"{_height(share) + 4:.1f}",
        percent=f"{share:.0%}",
    )


def _line(
    name: str,
    css: str,
    values: Sequence[float | None],
    across: Sequence[float],
    rounds: Sequence[object],
) -> Html:
    parts = []
    points = list(zip(across, values, strict=True))
    for (x1, one), (x2, two) in itertools.pairwise(points):
        if one is not None and two is not None:
            parts.append(
                fill(
                    '<line x1="{x1}%" x2="{x2}%" y1="{y1}" y2="{y2}"/>',
                    x1=f"{x1:.2f}",
                    x2=f"{x2:.2f}",
                    y1=f"{_height(one):.1f}",
                    y2=f"{_height(two):.1f}",
                )
            )
    for at, (x, value) in enumerate(points):
        if value is not None:
            parts.append(
                fill(
                    '<circle cx="{x}%" cy="{y}" r="{r}"><title>{name}, round {round}: '
                    "{share}</title></circle>",
                    x=f"{x:.2f}",
                    y=f"{_height(value):.1f}",
                    r=5 if css == "all" else 3.5,
                    name=name,
                    round=_name(rounds[at], at),
                    share=figure(value, ".1%"),
                )
            )
    return fill('<g class="{css}">{parts}</g>', css=css, parts=join(*parts))


def spread(heights: Sequence[float], apart: float) -> list[float]:
    """Places for labels near their points, and at least `apart` from each other."""
    order = sorted(range(len(heights)), key=lambda at: (heights[at], at))
    # Groups of labels that touch: each stands around the mean of its points.
    groups: list[list[int]] = []

    def top(group: Sequence[int]) -> float:
        middle = sum(heights[at] for at in group) / len(group)
        return middle - apart * (len(group) - 1) / 2

    for at in order:
        groups.append([at])
        while len(groups) > 1 and top(groups[-2]) + apart * len(groups[-2]) > top(
            groups[-1]
        ):
            last = groups.pop()
            groups[-1] += last
    found = [0.0] * len(heights)
    # Above the drawing there is no room.
    lowest = apart / 2
    for group in groups:
        y = max(top(group), lowest)
        for at in group:
            found[at] = y
            y += apart
        lowest = y
    return found


def _reliability(each: object) -> Html:
    """What was predicted against what was so, over a line where both agree."""
    bins = []
    for found in _list(_at(each, "evaluator", "reliability")):
        low, high = number(_at(found, "low")), number(_at(found, "high"))
        mean, share = number(_at(found, "mean")), number(_at(found, "share"))
        if mean is None and low is not None and high is not None:
            mean = (low + high) / 2
        if mean is not None and share is not None:
            count = number(_at(found, "count"))
            # Bars stand side by side where the bins are, whatever their means.
            middle = mean if low is None or high is None else (low + high) / 2
            bins.append((_within(mean), _within(share), count, _within(middle)))
    if not bins:
        return Html("")
    most = max([1.0, *(count for _, _, count, _ in bins if count)])
    parts = [
        fill('<path class="grid" d="M0 {y}H{s}M{y} 0V{s}"/>', y=_place(share), s=_SIDE)
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(fill('<path class="even" d="M0 {s}L{s} 0"/>', s=_SIDE))
    bins.sort(key=lambda found: found[0])
    path = " ".join(f"{_place(mean)} {_place(1 - share)}" for mean, share, *_ in bins)
    parts.append(fill('<polyline class="curve" points="{path}"/>', path=path))
    for mean, share, count, middle in bins:
        title = f"p_best {mean:.2f}: {share:.1%} are best, of {figure(count, ',.0f')}"
        height = (_COUNTS_PX - 16) * max(count or 0, 0) / most
        parts.append(
            fill(
                '<circle cx="{x}" cy="{y}" r="5"><title>{title}</title></circle>'
                '<rect x="{left}" y="{top}" width="18" height="{height}">'
                '<title>{title}</title></rect><text x="{center}" y="{over}" '
                'text-anchor="middle">{count}</text>',
                x=_place(mean),
                y=_place(1 - share),
                title=title,
                center=_place(middle),
                left=f"{middle * _SIDE - 9:.1f}",
                top=f"{_SIDE + 26 + _COUNTS_PX - height:.1f}",
                over=f"{_SIDE + 22 + _COUNTS_PX - height:.1f}",
                height=f"{height:.1f}",
                count=figure(count, ",.0f"),
            )
        )
    for share in (0, 0.5, 1):
        parts.append(
            fill(
                '<text x="{x}" y="{under}" text-anchor="middle">{text}</text>'
                '<text x="-8" y="{y}" text-anchor="end">{text}</text>',
                x=_place(share),
                under=_SIDE + 17,
                y=f"{(1 - share) * _SIDE + 4:.1f}",
                text=f"{share:g}",
            )
        )
    facts = [
        f"{name} {figure(_at(each, 'evaluator', key), spec)}"
        for name, key, spec in (
            ("ECE", "ece", ".3f"),
            ("temperature", "temperature", ".2f"),
            ("accuracy", "accuracy", ".1%"),
            ("held-out rows", "rows", ",.0f"),
        )
        if number(_at(each, "evaluator", key)) is not None
    ]
    return fill(
        "<figure><h3>Does p_best mean what it says?</h3>"
        '<svg class="reliability" role="img" aria-label="Reliability of p_best" '
        'viewBox="-34 -12 {width} {height}">{parts}</svg><figcaption>Across: the '
        "p_best that the last round’s evaluator gives; up: the share of these pairs "
        "that really are of the best kind. On the dashed line it is right. Beneath: "
        "how many pairs. {facts}</figcaption></figure>",
        width=_SIDE + 52,
        height=_SIDE + _COUNTS_PX + 42,
        parts=join(*parts),
        facts=f"{', '.join(facts)}." if facts else "",
    )


def _place(share: float) -> str:
    return f"{share * _SIDE:.1f}"


def _within(share: float) -> float:
    return min(max(share, 0.0), 1.0)


def _recall(each: object) -> Html:
    """How many of each kind of pair the evaluator tells for what it is, as bars."""
    recall = _at(each, "evaluator", "recall")
    found = {
        str(name): _within(share)
        for name, value in (recall.items() if isinstance(recall, Mapping) else ())
        if (share := number(value)) is not None
    }
    if not found:
        return Html("")
    # Good pairs first: what is found of the spoilt is worth only what it costs here.
    order = sorted(found, key=lambda name: (name != "none", -found[name], name))
    rows = [
        (
            "good pairs" if name == "none" else fill("<code>{name}</code>", name=name),
            fill(
                '<div class="bar thin" aria-hidden="true"><i class="{css}" '
                'style="width:{width}%"></i></div>',
                css="kept" if name == "none" else "dropped",
                width=f"{100 * found[name]:.1f}",
            ),
            fill('<span class="n">{share}</span>', share=f"{found[name]:.0%}"),
        )
        for name in order
    ]
    return fill(
        "<figure><h3>What does the evaluator see?</h3>{table}<figcaption>Of held-out "
        "pairs of each kind, those that the last round’s evaluator took for what they "
        "are: good ones, and good ones that were spoilt on purpose.</figcaption>"
        "</figure>",
        table=table(("kind", "", "told"), rows, "recall"),
    )


STYLE = """
.rounds td { white-space: nowrap; font-variant-numeric: tabular-nums; }
.rounds thead th { min-width: 4.6rem; }
.better, .worse, .same { display: block; font-size: .82rem; }
.better { color: var(--kept); }
.worse { color: var(--mark); }
.same { color: var(--soft); }
svg.acceptance { display: block; width: 100%; overflow: visible; }
svg .grid { stroke: var(--line); fill: none; }
.acceptance g line { stroke: var(--c); stroke-width: 1.6; }
.acceptance g circle { fill: var(--c); }
.acceptance g.all { --c: var(--ink); }
.acceptance g.all line { stroke-width: 3.5; }
.acceptance text.name { fill: color-mix(in srgb, var(--c) 65%, var(--ink));
  font-weight: 500; }
.acceptance text.all { fill: var(--ink); font-weight: 700; }
svg.reliability { display: block; width: 100%; max-width: 24rem; margin: .4rem 0; }
.reliability .even { stroke: var(--soft); stroke-dasharray: 5 4; }
.reliability .curve { stroke: var(--kept); stroke-width: 2; fill: none; }
.reliability circle { fill: var(--kept); stroke: var(--paper); stroke-width: 1.5; }
.reliability rect { opacity: .55; }
.reliability text { font-size: 11px; }
.recall { width: 100%; table-layout: fixed; }
.recall th:nth-child(1) { width: 11rem; }
.recall :is(th, td):nth-child(3) { width: 4rem; text-align: right; padding-right: 0; }
.recall td:nth-child(2) { vertical-align: middle; }
"""
