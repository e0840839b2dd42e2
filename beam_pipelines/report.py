"""The report on a store: a table for the terminal, and one page that stands alone."""

import itertools
import math
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import charts, letters, paper, rounds, topics, wheel
from beam_pipelines.charts import Html, escape, fill, join, paragraph, section, table
from beam_pipelines.funnel import P_BEST_BINS, Funnel, Shown, Step, read_funnel
from beam_pipelines.schema import LANGUAGES

__all__ = ["Funnel", "as_text", "read_funnel", "write"]

_TEXT_DAMAGE = 10
# Of each reason and language, so many that were dropped.
_DROPPED = 3
# Of each step: what came out, for a column; and what happens.
_STEPS = {
    "documents": (
        "documents",
        "Pages in our languages, read, cleaned and judged text by text.",
    ),
    "duplicates": (
        "unique",
        "The newest capture of each address, and one text of all that are nearly "
        "the same.",
    ),
    "candidates": (
        "with instruction",
        "The generator writes an instruction for each document; rules reject some.",
    ),
    "scores": (
        "kept",
        "The evaluator rates each pair; those that it finds best are kept.",
    ),
    "examples": ("published", "Of each language its quota, spread over topics."),
}


def as_text(funnel: Funnel) -> str:
    """The funnel as a table for a terminal."""
    reading = funnel.reading
    if not funnel.name:
        return f"Nothing was run on the store {_one_line(funnel.root)} yet."
    rows: list[tuple[str, ...]] = [("", "in", "out", "dropped")]
    for step in funnel.steps:
        counts = step.entered, step.left, step.dropped
        rows.append((step.name, *(f"{count.total():,}" for count in counts)))
        for reason, count in step.reasons.items():
            rows.append((f"  {_one_line(reason)}", "", "", f"{count:,}"))
        rows += [(f"  {remark}", "", "", "") for remark in _remarks(step)]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    lines = [f"{_one_line(funnel.name)}: {_extent(funnel)}"]
    for name, *numbers in rows:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    if reading.num_damaged:
        lines.append(f"damaged places: {reading.num_damaged:,}")
    for place in reading.damage[:_TEXT_DAMAGE]:
        file, reason = _one_line(place.file), _one_line(place.reason)
        lines.append(f"  {file}, offset {place.offset:,}: {reason}")
    if (more := reading.num_damaged - _TEXT_DAMAGE) > 0:
        lines.append(f"  … and {more:,} more")
    return "\n".join([*lines, *map(_one_line, funnel.notes)])


def write(root: str, out: str) -> None:
    """Writes the report on a store as a page; it is there whole, or not at all.

    Args:
      root: Of the store.
      out: A local file.

    Raises:
      ValueError: `out` is not local.
    """
    if "://" in out:
        raise ValueError(f"--out is {out!r}; expected a path on this machine.")
    text = page(read_funnel(root))
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def page(funnel: Funnel) -> Html:
    """The report as HTML."""
    title = f"{funnel.name or 'Empty store'} – X-Instruction report"
    if not funnel.name:
        body = fill(
            "<h1>Nothing here yet</h1><p>No recipe was run on the store "
            "<code>{root}</code>. To begin: {command}</p>",
            root=funnel.root,
            command=_command("documents", funnel.root),
        )
        return charts.page(title, body)
    sections = [
        _top(funnel),
        _funnel(funnel),
        _by_language(funnel),
        _reasons_by_language(funnel),
        _lengths(funnel),
        _scores(funnel),
        rounds.section(funnel.refinement),
        topics.section(funnel.topic_map, funnel.diversity),
        wheel.section(funnel.verbs, _what(funnel)),
        _shown(funnel),
        _damage(funnel),
        _dropped(funnel),
        _footer(funnel),
    ]
    style = rounds.STYLE + topics.STYLE + wheel.STYLE
    return charts.page(title, Html("\n".join(sections)), style)


def _what(funnel: Funnel) -> str:
    """Which texts the drawings are of."""
    return "kept pairs" if funnel.step("scores") else "what is there so far"


def _remarks(step: Step) -> list[str]:
    """What keeps a step's numbers from adding up, if anything does."""
    remarks = []
    if step.waiting:
        remarks.append(f"not done yet: {step.waiting:,}")
    if step.surplus:
        remarks.append(f"of texts that a later run replaced: {step.surplus:,}")
    return remarks


def _one_line(text: str) -> str:
    """Text from a store for a terminal: nothing in it moves the cursor."""
    return " ".join(charts.printable(text).split())


def _extent(funnel: Funnel) -> str:
    """How much was read, and when it was captured."""
    reading = funnel.reading
    if not reading.files:
        return "nothing was read yet"
    files = "1 file" if len(reading.files) == 1 else f"{len(reading.files):,} files"
    parts = [
        f"{reading.pages:,} pages from {files}, "
        f"{reading.files.total() / 1e6:,.1f} MB read"
    ]
    if reading.bytes_left:
        parts.append(f"{reading.bytes_left / 1e6:,.1f} MB still to read")
    if reading.files_left:
        parts.append(f"{reading.files_left:,} files not begun")
    if reading.dates:
        first, last = (date[:10] for date in reading.dates)
        parts.append(f"captured {first}" + (f" to {last}" if last != first else ""))
    return ", ".join(parts)


def _command(step: str, root: str) -> Html:
    """What makes the next step of a store."""
    # Duplicates are looked for where something follows.
    until = "candidates" if step == "duplicates" else step
    command = f"xinst run RECIPE --store {root} --until {until}"
    if step == "examples":
        command = "tfds build x_instruction"
    return fill("<code>{command}</code>", command=command)


def _languages(funnel: Funnel) -> list[str]:
    """Those that occur, in our order; the unknown one last."""
    found = {code for step in funnel.steps for code in step.entered}
    known = [code for code in LANGUAGES if code in found]
    return [*known, *sorted(found - LANGUAGES.keys())]


def _top(funnel: Funnel) -> Html:
    counts = {"pages read": funnel.reading.pages}
    counts |= {_STEPS[step.name][0]: step.left.total() for step in funnel.steps}
    tiles = [
        fill("<li><b>{count}</b><span>{name}</span></li>", count=count, name=name)
        for name, count in counts.items()
    ]
    extent = _extent(funnel)
    return fill(
        '<header><p class="soft">X-Instruction · what a store holds</p>'
        '<h1>{name}</h1><p>{extent}.</p><ul class="tiles">{tiles}</ul></header>',
        name=funnel.name,
        extent=extent[:1].upper() + extent[1:],
        tiles=join(*tiles),
    )


def _funnel(funnel: Funnel) -> Html:
    parts = [paragraph("Each bar is the whole of what came into its step.")]
    parts += [_step(funnel, step) for step in funnel.steps]
    missing = next((name for name in _STEPS if not funnel.step(name)), None)
    if missing:
        parts.append(
            fill(
                '<p class="soft">Not here yet: {name}. To go on: {command}</p>',
                name=missing,
                command=_command(missing, funnel.root),
            )
        )
    return section("The funnel", *parts)


def _step(funnel: Funnel, step: Step) -> Html:
    entered, left = step.entered.total(), step.left.total()
    about = _STEPS[step.name][1]
    if step.name == "documents" and entered > funnel.reading.pages:
        pages = f"{funnel.reading.pages:,}"
        about += f" Long ones are cut: {pages} pages gave {entered:,} texts."
    about += "".join(f" {remark.capitalize()}." for remark in _remarks(step))
    return fill(
        '<article class="step"><header><h3>{name}</h3>'
        '<span class="n">{entered} → {left}</span></header>'
        '<p class="soft">{about}</p>{bar}{reasons}</article>',
        name=step.name.capitalize(),
        entered=entered,
        left=left,
        about=about,
        bar=charts.shares(
            [
                ("kept", left),
                ("dropped", step.dropped.total()),
                ("waiting", step.waiting),
            ]
        ),
        reasons=charts.reason_bars(step.reasons, entered) if step.dropped else None,
    )


def _by_language(funnel: Funnel) -> Html:
    if not funnel.steps:
        return Html("")
    head = ["", "texts judged", *(_STEPS[step.name][0] for step in funnel.steps)]
    columns = [funnel.steps[0].entered, *(step.left for step in funnel.steps)]
    rows: list[list[object]] = [
        [charts.language_name(code), *(column[code] for column in columns)]
        for code in _languages(funnel)
    ]
    rows.append(["all", *(column.total() for column in columns)])
    return section("Stage by language", table(head, rows, "across total"))


def _reasons_by_language(funnel: Funnel) -> Html:
    if not any(step.dropped for step in funnel.steps):
        return Html("")
    languages = _languages(funnel)
    heads = [
        fill('<abbr title="{name}">{code}</abbr>', name=charts.language_name(c), code=c)
        if c
        else escape("not known")
        for c in languages
    ]
    rows = [
        [
            fill("<code>{reason}</code>", reason=reason),
            step.name,
            *(step.dropped[reason, code] for code in languages),
            count,
        ]
        for step in funnel.steps
        for reason, count in step.reasons.items()
    ]
    return section(
        "Why, by language", table(["reason", "stage", *heads, "all"], rows, "across")
    )


def _lengths(funnel: Funnel) -> Html:
    if not funnel.output_chars:
        return Html("")
    parts = [
        paragraph(
            f"In characters, of {_what(funnel)}. Beside ours (dot, solid line) the "
            "lengths that the X-Instruction paper published (diamond, dotted line): "
            "mean ± standard deviation."
        )
    ]
    kinds = (
        ("Outputs", funnel.output_chars, 1),
        ("Instructions", funnel.instruction_chars, 0),
    )
    figures = [_length(*kind) for kind in kinds if kind[1]]
    parts.append(fill('<div class="figures">{f}</div>', f=join(*figures)))
    return section("Lengths", *parts)


def _length(name: str, counts: Mapping[tuple[str, int], int], side: int) -> Html:
    by_language: dict[str, Counter[int]] = {}
    for (code, chars), count in counts.items():
        by_language.setdefault(code, Counter())[chars] += count
    every = sum(by_language.values(), Counter[int]())
    width = _nice_width(max(every))
    num_bins = max(every) // width + 1
    bins = [0] * num_bins
    for chars, count in every.items():
        bins[chars // width] += count
    limit = num_bins * width
    figures = {
        code: (_mean_and_deviation(by_language[code]), paper.LENGTHS[code][side])
        for code in LANGUAGES
        if code in by_language
    }
    # One axis for all of them.
    furthest = max(sum(each) for pair in figures.values() for each in pair)
    rows = [
        (
            charts.language_name(code),
            by_language[code].total(),
            fill('<span class="n">{x}</span>', x="{:.0f} ± {:.0f}".format(*ours)),
            fill('<span class="n">{x}</span>', x="{} ± {}".format(*theirs)),
            charts.strip(ours, theirs, furthest),
        )
        for code, (ours, theirs) in figures.items()
    ]
    drawing = charts.histogram(
        bins,
        [f"{at * width:,} to {(at + 1) * width - 1:,}" for at in range(num_bins)],
        [(share, f"{share * limit:,.0f}") for share in (0, 0.5, 1)],
        f"{name}: number of characters, of {every.total():,}",
    )
    return fill(
        "<figure><h3>{name}</h3>{drawing}<figcaption>characters; highest bar: {n}"
        "</figcaption>{table}</figure>",
        name=name,
        drawing=drawing,
        n=max(bins),
        table=table(("", "texts", "ours", "paper", ""), rows, "lengths"),
    )


def _nice_width(longest: int) -> int:
    """1, 2 or 5 times a power of ten, for some ten to twenty-five bins."""
    width = 10 ** max(0, math.floor(math.log10(max(longest, 1))) - 1)
    return next(width * step for step in (1, 2, 5) if longest < 25 * width * step)


def _mean_and_deviation(counts: Counter[int]) -> tuple[float, float]:
    number = counts.total()
    mean = sum(value * count for value, count in counts.items()) / number
    squares = sum((value - mean) ** 2 * count for value, count in counts.items())
    return mean, math.sqrt(squares / number)


def _scores(funnel: Funnel) -> Html:
    if not funnel.p_best:
        return Html("")
    bins = [funnel.p_best[at] for at in range(P_BEST_BINS)]
    edges = [at / P_BEST_BINS for at in range(P_BEST_BINS + 1)]
    drawing = charts.histogram(
        bins,
        [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)],
        [(share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)],
        f"Probability of the rating “best”, of {sum(bins):,} pairs",
        (funnel.keep_above, f"keep_above {funnel.keep_above:g}"),
    )
    return section(
        "Scores",
        paragraph(
            "How sure the evaluator is that a pair is of the best kind (p_best). Pairs "
            "left of the dashed line are dropped."
        ),
        fill(
            "<figure>{drawing}<figcaption>p_best; highest bar: {n} of {all} pairs"
            "</figcaption></figure>",
            drawing=drawing,
            n=max(bins),
            all=sum(bins),
        ),
    )


def _shown(funnel: Funnel) -> Html:
    if funnel.step("scores"):
        title, what = "Examples", "pairs that were kept"
    elif funnel.step("candidates"):
        title, what = "Examples", "pairs with a usable instruction; none is scored yet"
    else:
        title, what = "Texts", "documents; none has an instruction yet"
    if not funnel.shown:
        return section(title, paragraph(f"There are no {what}."))
    head = ("language", "instruction", "output", "score", "page")
    return section(
        title,
        paragraph(f"Some {what}. The hash of its id decides whether a text is shown."),
        table(head, [_example(item) for item in funnel.shown], "shown"),
    )


def _example(item: Shown) -> tuple[object, ...]:
    document = item.document
    return (
        charts.language_name(document.language),
        item.instruction or "–",
        charts.foreign(document.text, document.language),
        "–"
        if item.p_best is None
        else fill(
            '{score}<span class="place">p_best {p_best}</span>',
            score=f"{item.score:.2f}",
            p_best=f"{item.p_best:.2f}",
        ),
        _page(document.url, document.warc_file, document.warc_offset),
    )


def _page(url: str, file: str, offset: int) -> Html:
    return fill(
        '{link}<span class="place"><bdi dir="ltr">{file}</bdi>, offset {offset}</span>',
        link=charts.link(url),
        file=file,
        offset=offset,
    )


def _damage(funnel: Funnel) -> Html:
    reading = funnel.reading
    if not reading.files:
        return Html("")
    if not reading.num_damaged:
        return section("Damage", paragraph("Nothing that was read is damaged."))
    rows = [(d.file, d.offset, d.reason, d.detail) for d in reading.damage]
    parts = [
        paragraph("Places that could not be read. Reading went on behind them."),
        table(("file", "offset", "reason", "detail"), rows, "places"),
    ]
    if (more := reading.num_damaged - len(rows)) > 0:
        parts.append(paragraph(f"… and {more:,} more."))
    return section("Damage", *parts)


def _dropped(funnel: Funnel) -> Html:
    few = [
        item
        for _, found in sorted(funnel.reading.few.items())
        for _, item in found[:_DROPPED]
    ]
    if not few:
        return Html("")
    rows = [
        (
            fill("<code>{reason}</code>", reason=item.reason),
            charts.language_name(item.language),
            item.chars,
            _page(item.url, item.file, item.offset),
        )
        for item in few
    ]
    return section(
        "What was dropped",
        paragraph("Some texts that became no document, for every reason and language."),
        _letters(funnel),
        fill(
            "<details><summary>{n} texts</summary>{table}</details>",
            n=len(rows),
            table=table(("reason", "language", "characters", "page"), rows, "places"),
        ),
    )


def _letters(funnel: Funnel) -> Html:
    """Where more of what was dropped lies, if it was written down."""
    folder = FileSystems.join(funnel.root, letters.FOLDER)
    if not FileSystems.exists(folder):
        return Html("")
    return fill(
        "<p>More of them, of every stage, and how to try them again: "
        "<code>{folder}</code></p>",
        folder=folder,
    )


def _footer(funnel: Funnel) -> Html:
    lines = map(paragraph, (f"Store: {funnel.root}", *funnel.notes))
    return fill("<footer>{lines}</footer>", lines=join(*lines))
