"""The wheel of verbs: what instructions ask for, beside what the paper's ask for."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from beam_pipelines import charts, paper
from beam_pipelines.charts import Html, fill, join, paragraph, percent, table

_VERBS, _NOUNS = 16, 4
# Where the answer is the text itself, nothing is left to summarize or to translate.
ILL_POSED = ("summarize", "translate")
# Radii: of the hole, of the border between the rings, of the whole.
_HOLE, _BORDER, _RIM = 50.0, 126.0, 204.0
_FONT_PX = 13.0
_SMALLEST_PX = 7.5
# Of a letter, as a share of the font's size; wide enough for most words.
_LETTER = 0.58
_NAME_CHARS = 40


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A piece of a ring.

    Attributes:
      name: A verb or a noun.
      start: Where it begins, in turns from the top, clockwise.
      stop: Where it ends.
      nouns: Outside of a verb's, in a row from its start; they need not fill it.
    """

    name: str
    start: float
    stop: float
    nouns: tuple["Slice", ...] = ()


def slices(
    verbs: Mapping[str, float], nouns: Mapping[tuple[str, str], float]
) -> tuple[Slice, ...]:
    """The full circle, shared out to the commonest verbs, and these to their objects.

    Args:
      verbs: How much each verb has; an empty name is not drawn.
      nouns: How much of a verb each (verb, noun) has; an empty noun is not drawn.
    """
    named = {name: size for name, size in verbs.items() if name and size > 0}
    largest = _largest(named, _VERBS)
    whole = sum(largest.values())
    found, start = [], 0.0
    for verb, size in largest.items():
        own = {n: part for (v, n), part in nouns.items() if v == verb and n}
        few = _largest(own, _NOUNS)
        # Measured parts may come to a little more than their whole.
        scale = size / max(size, sum(few.values())) / whole
        outer, at = [], start
        for noun, part in few.items():
            outer.append(Slice(name=noun, start=at, stop=at + part * scale))
            at = outer[-1].stop
        stop = start + size / whole
        found.append(Slice(name=verb, start=start, stop=stop, nouns=tuple(outer)))
        start = stop
    return tuple(found)


def section(counts: Counter[tuple[str, str]], what: str) -> Html:
    """What the instructions ask for, as a drawing, in words and as a table.

    Args:
      counts: How many instructions have each (verb, noun), as `verbs.root` finds them.
      what: Which instructions they are.
    """
    ours: Counter[str] = Counter()
    for (verb, _), count in counts.items():
        ours[verb] += count
    all_of_them = ours.total()
    del ours[""]
    if not ours:
        return Html("")
    wheel = slices(ours, counts)
    covered = sum(ours[piece.name] for piece in wheel)
    theirs = slices(
        paper.VERB_SHARES,
        {("write", n): share for n, share in paper.WRITE_SHARES.items()},
    )
    rim = paragraph(
        "The inner ring shows the root verbs of the instructions, the outer one the "
        "commonest objects of each verb, as Self-Instruct drew them. The red rim marks "
        "what is ill-posed, since the answer is the text itself: summarize and "
        "translate."
    )
    drawings = [
        _figure(
            "Ours",
            wheel,
            {piece.name: percent(ours[piece.name], covered) for piece in wheel},
            {},
            f"The {len(wheel)} commonest verbs: {covered:,} of the {all_of_them:,} "
            f"instructions of {what}. Where the outer ring is open there are other "
            "objects, or none.",
        ),
        _figure(
            "The paper’s",
            theirs,
            {verb: f"{share:.1f}%" for verb, share in paper.VERB_SHARES.items()},
            paper.NOUNS,
            "The 16 verbs of its own chart, by their angles. Of the objects only "
            "those of “write” were measured; the others stand there without a size.",
        ),
    ]
    return charts.section(
        "What the instructions ask for",
        _words(ours, wheel, counts),
        rim,
        fill('<div class="figures">{drawings}</div>', drawings=join(*drawings)),
        _details(ours, covered, counts),
    )


def _words(
    ours: Counter[str], wheel: tuple[Slice, ...], counts: Counter[tuple[str, str]]
) -> Html:
    """The shares that matter most, of both."""
    covered = sum(ours[piece.name] for piece in wheel)
    first = max(paper.VERB_SHARES, key=lambda verb: paper.VERB_SHARES[verb])
    drawn = {piece.name for piece in wheel}
    text = fill(
        "<p>The commonest verb of ours is “{verb}” with <b>{share}</b>, and "
        "<b>{bad}</b> ask to summarize or to translate. Of the paper’s it is “{first}” "
        "with <b>{first_share}</b>, and <b>{paper_bad}</b> summarize or translate.</p>",
        verb=_name(wheel[0].name),
        share=percent(ours[wheel[0].name], covered),
        bad=percent(sum(ours[verb] for verb in ILL_POSED if verb in drawn), covered),
        first=first,
        first_share=f"{paper.VERB_SHARES[first]:.1f}%",
        paper_bad=f"{sum(paper.VERB_SHARES[verb] for verb in ILL_POSED):.1f}%",
    )
    # There the four objects of "write" fill all of its piece: the chart seems to leave
    # out what it does not draw, so its shares are counted like that here too.
    pairs = Counter(
        {p.name: sum(counts[p.name, n.name] for n in p.nouns) for p in wheel}
    )
    if not pairs.total():
        return text
    (widest, most), *_ = pairs.most_common(1)
    alone = fill(
        '<p class="soft">The paper’s chart seems to count only the objects that it '
        "draws. Counted like that, ours has “{verb}” with {share}, and {bad} to "
        "summarize or translate.</p>",
        verb=_name(widest),
        share=percent(most, pairs.total()),
        bad=percent(sum(pairs[verb] for verb in ILL_POSED), pairs.total()),
    )
    return join(text, alone)


def _figure(
    title: str,
    wheel: tuple[Slice, ...],
    shares: Mapping[str, str],
    known: Mapping[str, Sequence[str]],
    caption: str,
) -> Html:
    top = wheel[0].name
    return fill(
        "<figure><h3>{title}</h3>{drawing}<figcaption>{caption}</figcaption></figure>",
        title=title,
        drawing=fill(
            '<svg class="wheel" role="img" aria-label="{label}" '
            'viewBox="-214 -214 428 428">{pieces}<text class="big" y="-1">{share}'
            '</text><text class="under" y="17">{verb}</text></svg>',
            label=f"{title}: "
            + ", ".join(f"{_name(v)} {s}" for v, s in shares.items()),
            pieces=join(*_pieces(wheel, shares, known)),
            share=shares[top],
            verb=_name(top),
        ),
        caption=caption,
    )


def _pieces(
    wheel: Iterable[Slice],
    shares: Mapping[str, str],
    known: Mapping[str, Sequence[str]],
) -> list[Html]:
    """The verbs, each with its objects: measured ones, or the names that are known."""
    parts = []
    for at, verb in enumerate(wheel):
        title = f"{_name(verb.name)} {shares[verb.name]}"
        names = known.get(verb.name, ())
        if names:
            title += f"; objects: {', '.join(names)}"
        inner = [_piece(verb, _HOLE, _BORDER, "verb", title)]
        for noun in verb.nouns:
            of_verb = (noun.stop - noun.start) / (verb.stop - verb.start)
            title = (
                f"{_name(verb.name)} … {_name(noun.name)}: {percent(of_verb, 1)} of "
                f"“{_name(verb.name)}”"
            )
            inner.append(_piece(noun, _BORDER + 2, _RIM, "noun", title))
        if not verb.nouns:
            width = (verb.stop - verb.start) / max(len(names), 1)
            for place, name in enumerate(names):
                start = verb.start + width * place
                bare = Slice(name=name, start=start, stop=start + width)
                inner.append(_label(bare, _BORDER + 10, _RIM - 6, "bare"))
        if verb.name in ILL_POSED:
            edge = _RIM if verb.nouns else _BORDER
            path = sector(verb.start, verb.stop, edge + 3, edge + 8)
            inner.append(fill('<path class="rim" d="{path}"/>', path=path))
        parts.append(
            fill(
                '<g class="{css}" style="--h:{hue}">{inner}</g>',
                css="ill" if verb.name in ILL_POSED else "well",
                hue=_hue(verb.name, at),
                inner=join(*inner),
            )
        )
    return parts


def _hue(verb: str, at: int) -> int:
    """Degrees: one verb has one colour in both wheels, and neighbours differ."""
    order = list(paper.VERB_SHARES)
    place = order.index(verb) if verb in paper.VERB_SHARES else len(order) + at
    return round(170 + place * 137.5) % 360


def _piece(piece: Slice, inner: float, outer: float, css: str, title: str) -> Html:
    return fill(
        '<path class="{css}" d="{path}"><title>{title}</title></path>{label}',
        css=css,
        path=sector(piece.start, piece.stop, inner, outer),
        title=title,
        label=_label(piece, inner, outer),
    )


def sector(start: float, stop: float, inner: float, outer: float) -> str:
    """The path of a piece of a ring.

    Args:
      start: Turns from the top, clockwise.
      stop: Likewise; no less.
      inner: Radius.
      outer: Radius.
    """
    # By way of its middle, since no arc can lead around the whole circle.
    angles = (start, (start + stop) / 2, stop)
    out = [_point(angle, outer) for angle in angles]
    back = [_point(angle, inner) for angle in reversed(angles)]
    arcs = [f"A{outer:g} {outer:g} 0 0 1 {to}" for to in out[1:]]
    returns = [f"A{inner:g} {inner:g} 0 0 0 {to}" for to in back[1:]]
    return f"M{out[0]}{''.join(arcs)}L{back[0]}{''.join(returns)}Z"


def _point(turns: float, radius: float) -> str:
    angle = 2 * math.pi * turns
    return f"{radius * math.sin(angle):.2f} {-radius * math.cos(angle):.2f}"


def _label(piece: Slice, inner: float, outer: float, css: str = "") -> Html:
    """The name along the radius, where there is room for it."""
    name, middle = _name(piece.name), (piece.start + piece.stop) / 2
    radius = (inner + outer) / 2
    arc = 2 * math.pi * radius * (piece.stop - piece.start)
    along = (outer - inner - 8) / (_LETTER * len(name))
    size = min(_FONT_PX, arc * 0.92, along)
    if size < _SMALLEST_PX:
        return Html("")
    # On the left side it would stand on its head.
    turn = 360 * middle - 90 + (180 if middle % 1 > 0.5 else 0)
    return fill(
        '<text class="{css}" transform="translate({at}) rotate({turn})" '
        'style="font-size:{size}px">{name}</text>',
        css=css,
        at=_point(middle, radius),
        turn=f"{turn:.2f}",
        size=f"{size:.1f}",
        name=name,
    )


def _details(
    ours: Counter[str], covered: int, counts: Counter[tuple[str, str]]
) -> Html:
    """All of it in words, for those who read rather than look."""
    verbs = [*_largest(ours, _VERBS)]
    verbs += [verb for verb in paper.VERB_SHARES if verb not in verbs]
    rows = []
    for verb in verbs:
        own = {n: count for (v, n), count in counts.items() if v == verb and n}
        objects = [f"{_name(n)} {c:,}" for n, c in _largest(own, _NOUNS).items()]
        rows.append(
            (
                _name(verb),
                ours[verb],
                percent(ours[verb], covered),
                f"{paper.VERB_SHARES[verb]:.1f}%" if verb in paper.VERB_SHARES else "–",
                ", ".join(objects) or "–",
                ", ".join(paper.NOUNS.get(verb, ())) or "–",
            )
        )
    head = ("verb", "ours", "share", "paper", "our objects", "the paper's objects")
    return fill(
        "<details><summary>Verbs and objects as a table</summary>{table}</details>",
        table=table(head, rows),
    )


def _largest(sizes: Mapping[str, float], limit: int) -> dict[str, float]:
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    return {name: sizes[name] for name in order[:limit]}


def _name(word: str) -> str:
    """A word that is no longer than a drawing can bear."""
    return word if len(word) <= _NAME_CHARS else f"{word[:_NAME_CHARS]}…"


STYLE = """
svg.wheel { display: block; width: 100%; max-width: 31rem; margin: .4rem auto; }
.wheel path { stroke: var(--paper); stroke-width: 1.2; }
.wheel .verb { fill: oklch(.82 .085 var(--h)); }
.wheel .noun { fill: oklch(.91 .045 var(--h)); }
.wheel .ill .verb { fill: color-mix(in srgb, var(--mark) 55%, var(--paper)); }
.wheel .ill .noun { fill: color-mix(in srgb, var(--mark) 28%, var(--paper)); }
.wheel .rim { fill: var(--mark); }
.wheel g:hover .verb, .wheel .noun:hover { filter: brightness(1.07) saturate(1.3); }
.wheel text { fill: var(--ink); text-anchor: middle; dominant-baseline: central;
  pointer-events: none; }
.wheel .bare { fill: var(--soft); font-style: italic; }
.wheel .big { font-size: 24px; font-weight: 600; }
.wheel .under { font-size: 13px; fill: var(--soft); }
@media (prefers-color-scheme: dark) {
  .wheel .verb { fill: oklch(.47 .075 var(--h)); }
  .wheel .noun { fill: oklch(.34 .045 var(--h)); }
}
"""
