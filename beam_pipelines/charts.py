"""Markup and drawings for a page that needs nothing but itself.

Whatever is put into markup is escaped there, unless it is `Html` already.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence

from beam_pipelines.schema import LANGUAGES

# Controls, lone surrogates (a strict encoder would fail on them), and the marks that
# turn the direction of whatever follows them.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_WEB = re.compile(r"https?://[^\s\ufffd]+", re.I)
_PLOT_PX = 140
# Of the languages, on light and on dark paper. They are as far apart as could be found
# also for eyes that lack one kind of cone, and none is too faint for a small point.
COLOURS = {
    "fi": ("#1810bc", "#2e7fba"),
    "id": ("#e11f67", "#b8527c"),
    "th": ("#8b166c", "#9165ff"),
    "tr": ("#16740b", "#51bf88"),
    "vi": ("#f583a2", "#fb8a35"),
    "bn": ("#5d2c10", "#7f7a0a"),
    "hi": ("#ac9eff", "#9c9ccd"),
    "sw": ("#0ebe0f", "#b2dfb4"),
    "ta": ("#4660fe", "#0dd9ff"),
    "ur": ("#9866b0", "#ffcf0e"),
}


class Html(str):
    """Markup of our own making; any other text is escaped where it meets it."""

    __slots__ = ()


def printable(text: str) -> str:
    """The text without characters that would do something to what is around it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def escape(value: object) -> Html:
    """Any value as markup; nothing for None, numbers with separators."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return Html(html.escape(printable(text)))


def fill(template: str, **values: object) -> Html:
    """The template with its places filled; values are escaped."""
    return Html(template.format(**{name: escape(v) for name, v in values.items()}))


def join(*parts: Html) -> Html:
    """One piece of markup after the other."""
    return Html("".join(parts))


def section(title: str, *parts: Html) -> Html:
    """A part of the page under its title."""
    return fill(
        "<section><h2>{title}</h2>{parts}</section>", title=title, parts=join(*parts)
    )


def paragraph(text: str) -> Html:
    """One, of text."""
    return fill("<p>{text}</p>", text=text)


def number(value: object) -> float | None:
    """What a small file has for a number, or None for whatever else stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def figure(value: object, spec: str) -> str:
    """A number of a small file as people read it; a dash for whatever else."""
    found = number(value)
    return "–" if found is None else format(found, spec)


def percent(part: float, whole: float) -> str:
    """A share as people read it: small ones with a digit more."""
    share = part / whole if whole else 0.0
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def language_name(code: str) -> str:
    """In English."""
    return LANGUAGES[code].name if code in LANGUAGES else code or "not known"


def colour(code: str) -> str:
    """The class that draws in a language's colour."""
    return f"of-{code}" if code in LANGUAGES else "of-other"


def foreign(text: str, code: str) -> Html:
    """Text in a language, for the browser to choose its direction and its font."""
    script = LANGUAGES[code].script if code in LANGUAGES else ""
    return fill(
        '<div class="text" lang="{code}" dir="{direction}">{text}</div>',
        code=code,
        direction="rtl" if script == "Arab" else "ltr",
        text=text,
    )


def link(url: str) -> Html:
    """A URL as text, and as a link where it leads to the web."""
    shown = fill('<bdi dir="ltr">{url}</bdi>', url=url)
    if not _WEB.fullmatch(printable(url)):
        return shown
    return fill(
        '<a href="{url}" rel="noopener nofollow">{shown}</a>', url=url, shown=shown
    )


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], css: str = ""
) -> Html:
    """A table; each row's first cell is its header, and numbers are aligned.

    Args:
      head: Of the columns.
      rows: As many cells each.
      css: Classes of the table.
    """
    numeric = [any(isinstance(row[at], int) for row in rows) for at in range(len(head))]
    top = [
        fill('<th scope="col"{css}>{cell}</th>', cell=cell, css=_number(is_number))
        for cell, is_number in zip(head, numeric, strict=True)
    ]
    body = []
    for row in rows:
        cells = [fill('<th scope="row">{cell}</th>', cell=row[0])]
        for name, cell, is_number in zip(head[1:], row[1:], numeric[1:], strict=True):
            cells.append(
                fill(
                    '<td{css} data-name="{name}">{cell}</td>',
                    css=_number(is_number, dim=not cell),
                    name="" if isinstance(name, Html) else name,
                    cell=cell,
                )
            )
        body.append(fill("<tr>{cells}</tr>", cells=join(*cells)))
    return fill(
        '<div class="scroll" tabindex="0"><table class="{css}"><thead><tr>{top}</tr>'
        "</thead><tbody>{body}</tbody></table></div>",
        css=css,
        top=join(*top),
        body=join(*body),
    )


def _number(is_number: bool, dim: bool = False) -> Html:
    if not is_number:
        return Html("")
    return Html(' class="n dim"' if dim else ' class="n"')


def shares(parts: Sequence[tuple[str, int]]) -> Html:
    """A bar of a whole and its parts; each is also said in words beneath it.

    Args:
      parts: Class (`kept`, `dropped` or `waiting`) and count, in the order drawn.
    """
    whole = sum(count for _, count in parts)
    pieces = [
        fill('<i class="{css}" style="width:{width}%"></i>', css=css, width=width)
        for css, count in parts
        if (width := f"{100 * count / max(whole, 1):.2f}") != "0.00"
    ]
    words = [
        fill(
            '<span><i class="{css}"></i>{count} {css} · {share}</span>',
            css=css,
            count=count,
            share=percent(count, whole),
        )
        for css, count in parts
        if count or css == "kept"
    ]
    return fill(
        '<div class="bar" aria-hidden="true">{pieces}</div><p class="key">{words}</p>',
        pieces=join(*pieces),
        words=join(*words),
    )


def reason_bars(counts: Mapping[str, int], whole: int) -> Html:
    """One line for each reason: its name, a bar of its share, its count.

    Args:
      counts: Of each reason; a bar is as wide as its share of them.
      whole: Of what came in.
    """
    total = sum(counts.values())
    rows = [
        (
            fill("<code>{reason}</code>", reason=reason),
            fill(
                '<div class="bar thin" aria-hidden="true"><i class="dropped" '
                'style="width:{width}%"></i></div>',
                width=f"{100 * count / total:.2f}",
            ),
            count,
            percent(count, whole),
        )
        for reason, count in counts.items()
    ]
    return table(("dropped", "", "texts", "of all"), rows, "reasons")


def histogram(
    bins: Sequence[int],
    names: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    label: str,
    mark: tuple[float, str] | None = None,
) -> Html:
    """Bars over an axis, as wide as there is room.

    Args:
      bins: Counts.
      names: Of the bins, shown with their counts on hovering.
      ticks: (share of the axis, text).
      label: What the drawing shows, for those who do not see it.
      mark: (share of the axis, text) of a line across it.
    """
    highest = max(1, *bins)
    parts = []
    for at, (count, name) in enumerate(zip(bins, names, strict=True)):
        height = max(_PLOT_PX * count / highest, 1.5 if count else 0)
        parts.append(
            fill(
                '<rect x="{x}%" y="{y}" width="{width}%" height="{height}">'
                "<title>{name}: {count}</title></rect>",
                x=f"{100 * at / len(bins):.3f}",
                y=f"{_PLOT_PX + 22 - height:.1f}",
                width=f"{92 / len(bins):.3f}",
                height=f"{height:.1f}",
                name=name,
                count=count,
            )
        )
    base = _PLOT_PX + 22
    parts.append(fill('<line x1="0" x2="100%" y1="{y}" y2="{y}"/>', y=f"{base}.5"))
    for share, text in ticks:
        parts.append(_at(share, base + 16, text, ""))
    if mark:
        share, text = mark
        parts.append(
            fill(
                '<line class="mark" x1="{x}%" x2="{x}%" y1="16" y2="{y}"/>',
                x=f"{100 * share:.2f}",
                y=base,
            )
        )
        parts.append(_at(share, 11, text, "mark"))
    return fill(
        '<svg class="histogram" role="img" aria-label="{label}" height="{height}">'
        "{parts}</svg>",
        label=label,
        height=base + 22,
        parts=join(*parts),
    )


def _at(share: float, y: int, text: str, css: str) -> Html:
    # At the edges the text must not leave the drawing.
    anchor = "start" if share < 0.15 else "end" if share > 0.85 else "middle"
    return fill(
        '<text class="{css}" x="{x}%" y="{y}" text-anchor="{anchor}">{text}</text>',
        css=css,
        x=f"{100 * share:.2f}",
        y=y,
        anchor=anchor,
        text=text,
    )


def strip(ours: tuple[float, float], theirs: tuple[float, float], limit: float) -> Html:
    """Two means with their deviations on one axis: a dot for ours, a diamond above.

    Args:
      ours: Mean and standard deviation.
      theirs: Likewise.
      limit: The axis goes from 0 to this.
    """
    return fill(
        '<svg class="strip" height="26" aria-hidden="true">{theirs}{ours}</svg>',
        theirs=_range(theirs, limit, 7, "theirs", '<path d="M-5 0L0-5 5 0 0 5Z"/>'),
        ours=_range(ours, limit, 19, "ours", '<circle r="4.5"/>'),
    )


def _range(
    figures: tuple[float, float], limit: float, y: int, css: str, point: str
) -> Html:
    mean, deviation = figures
    low, high = max(0.0, mean - deviation), mean + deviation
    return fill(
        '<g class="{css}"><line x1="{low}%" x2="{high}%" y1="{y}" y2="{y}"/>'
        '<svg x="{mid}%" y="{y}" overflow="visible">{point}</svg></g>',
        css=css,
        low=f"{100 * low / limit:.2f}",
        mid=f"{100 * mean / limit:.2f}",
        high=f"{100 * high / limit:.2f}",
        y=y,
        point=Html(point),
    )


def page(title: str, body: Html, style: str = "") -> Html:
    """The whole file; it may load nothing, and run nothing.

    Args:
      title: Plain text.
      body: Its sections.
      style: Of the drawings in them, beyond what is common.
    """
    return fill(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<title>{title}</title><style>{style}</style></head>\n"
        "<body><main>\n{body}\n</main></body></html>\n",
        title=title,
        style=Html(_STYLE + _colours() + style),
        body=body,
    )


def _colours() -> str:
    light, dark = (
        "\n".join(
            f".of-{code} {{ --c: {pair[at]}; }}" for code, pair in COLOURS.items()
        )
        for at in (0, 1)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


_STYLE = """
:root { --paper: #fbfaf7; --card: #fff; --ink: #22251f; --soft: #5f645a;
  --line: #dedbd1; --kept: #2f6f68; --lost: #b08a5a; --mark: #9a3b26;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181a; --card: #1c2022;
  --ink: #e7e5de; --soft: #a2a79e; --line: #363b3d; --kept: #7cc0b4; --lost: #c3a071;
  --mark: #f0937b; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 var(--sans); }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3.25rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 0; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--kept); }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace;
  overflow-wrap: anywhere; }
.soft, .key, figcaption, footer { color: var(--soft); font-size: .9rem; }
.n, .tiles b { font-variant-numeric: tabular-nums; }
.n { white-space: nowrap; }
.tiles { display: grid; gap: .75rem; padding: 0; margin: 1.5rem 0 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.25; font-weight: 600; }
.tiles span { color: var(--soft); font-size: .88rem; }
.step { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem 1.1rem; margin: .9rem 0; }
.step header { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline;
  justify-content: space-between; }
.bar { display: flex; height: 14px; border-radius: 4px; overflow: hidden;
  margin: .5rem 0; border: 1px solid var(--line); }
.bar.thin { height: 9px; margin: 0; border: 0; }
.bar i { display: block; min-width: 1px; }
i.kept { background: var(--kept); }
i.dropped { background: repeating-linear-gradient(45deg, var(--lost) 0 3px,
  color-mix(in srgb, var(--lost) 45%, transparent) 3px 6px); }
i.waiting { background: repeating-linear-gradient(90deg, var(--line) 0 2px,
  transparent 2px 5px); }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; margin: 0 0 .3rem;
  font-variant-numeric: tabular-nums; }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .45em;
  border-radius: 2px; outline: 1px solid var(--line); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem .9rem .32rem 0; }
th { font-weight: 600; }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem;
  vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; }
th code { overflow-wrap: normal; }
.across tbody th { position: sticky; left: 0; background: var(--paper); }
td.n, th.n { text-align: right; }
.total tbody tr:last-child { border-top: 2px solid var(--line); font-weight: 600; }
.dim { color: var(--soft); opacity: .7; }
.reasons { width: 100%; table-layout: fixed; }
.reasons th:nth-child(1) { width: 32%; }
.reasons th:nth-child(3) { width: 6rem; }
.reasons th:nth-child(4) { width: 4rem; padding-right: 0; }
.reasons td:nth-child(2) { vertical-align: middle; }
.reasons :is(th, td):nth-child(4) { text-align: right; padding-right: 0;
  font-variant-numeric: tabular-nums; }
.figures { display: grid; gap: 1.5rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 1rem 0 0; min-width: 0; }
svg.histogram { display: block; width: 100%; overflow: visible; }
svg.strip { display: block; width: 100%; min-width: 8rem; overflow: visible; }
svg rect { fill: var(--kept); }
svg line { stroke: var(--soft); }
svg text { fill: var(--soft); font: 12px var(--sans); }
svg line.mark { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 5 3; }
svg text.mark { fill: var(--mark); }
.theirs line { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 2 3; }
.theirs path { fill: var(--card); stroke: var(--soft); stroke-width: 1.5; }
.ours line { stroke: var(--kept); stroke-width: 3; }
.ours circle { fill: var(--kept); }
.lengths { width: 100%; }
.lengths td:last-child { width: 40%; padding-right: 0; vertical-align: middle; }
.lengths :is(th, td):nth-child(n+3) { text-align: right; }
.shown { width: 100%; table-layout: fixed; }
.shown th:nth-child(1) { width: 6.5rem; }
.shown th:nth-child(2) { width: 24%; }
.shown th:nth-child(4) { width: 5rem; }
.shown th:nth-child(5) { width: 22%; }
.shown td, .places td { overflow-wrap: anywhere; }
.shown td, .shown tbody th { padding-top: .7rem; padding-bottom: .7rem; }
.place { display: block; margin-top: .25rem; color: var(--soft); font-size: .85rem; }
details summary { cursor: pointer; padding: .4rem 0; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
.text { white-space: pre-line; }
.of-other { --c: var(--soft); }
.text:lang(th) { font-family: "Noto Sans Thai", "Noto Sans Thai UI", "Leelawadee UI",
  Thonburi, sans-serif; line-height: 1.8; }
.text:lang(hi) { font-family: "Noto Sans Devanagari", "Nirmala UI",
  "Kohinoor Devanagari", sans-serif; line-height: 1.8; }
.text:lang(bn) { font-family: "Noto Sans Bengali", "Nirmala UI", "Kohinoor Bangla",
  sans-serif; line-height: 1.8; }
.text:lang(ta) { font-family: "Noto Sans Tamil", "Nirmala UI", "Tamil Sangam MN",
  sans-serif; line-height: 1.8; }
.text:lang(ur) { font-family: "Noto Nastaliq Urdu", "Jameel Noori Nastaleeq",
  "Urdu Typesetting", "Noto Naskh Arabic", serif; line-height: 2.5; }
@media (max-width: 46rem) {
  main { padding: 1.5rem .9rem 3rem; }
  .shown thead { display: none; }
  .shown, .shown tbody, .shown tr, .shown td, .shown tbody th { display: block;
    width: auto; }
  .shown tr { padding: .8rem 0; }
  .shown tbody th { font-weight: 600; }
  .shown td, .shown tbody th { padding: .2rem 0; text-align: left; }
  .shown td::before { content: attr(data-name); display: block; color: var(--soft);
    font-size: .8rem; }
  th, td { padding-right: .7rem; }
  .reasons, .lengths, :is(.reasons, .lengths) :is(thead, tbody) { display: block; }
  :is(.reasons, .lengths) tr { display: grid; padding: .2rem 0; }
  .reasons th:nth-child(n) { width: auto; }
  .reasons tr { grid-template-columns: 1fr 4rem 4.5rem; }
  .lengths tr { grid-template-columns: 1fr 3rem 6.3rem 6.3rem; }
  :is(.reasons, .lengths) :is(th, td) { width: auto; padding: .1rem 0 .1rem .4rem; }
  :is(.reasons, .lengths) :is(th, td):first-child { padding-left: 0; }
  .reasons td:nth-child(2), .lengths td:last-child { grid-column: 1 / -1; order: 1;
    padding-left: 0; }
  :is(.reasons th:nth-child(2), .lengths th:last-child) { display: none; }
}
"""
