"""`xinst check`: what a data set is worth, in figures, some with a gate.

Everything is measured in one pass that keeps hashes and counts, not texts; a second
one fetches the texts of the rows that a failed gate shows.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines import charts, rows
from beam_pipelines.language import fast_guess
from beam_pipelines.rows import BadRow, Row
from beam_pipelines.schema import LANGUAGES
from beam_pipelines.tally import MAX_STRAY_MARKS, EvaluationSet, Places, Tally

ALL = "all"
# A domain's share says little before there are so many rows.
_MIN_ROWS_FOR_DOMAINS = 1000
_MAX_SHOWN = 3
_SHOWN_CHARS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A bound that a data set must keep.

    Attributes:
      name: In tables and in JSON.
      title: For a person.
      bound: The value's.
      at_least: Whether the value must reach the bound; else it must not pass it.
      side: The column that an offending row is shown by.
    """

    name: str
    title: str
    bound: float
    at_least: bool = False
    side: str = "instruction"

    def passes(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


GATES = (
    Gate(
        name="output_language",
        title="output in its language",
        bound=0.99,
        at_least=True,
        side="output",
    ),
    Gate(
        name="instruction_english",
        title="instruction in English",
        bound=0.995,
        at_least=True,
    ),
    Gate(name="same_instruction", title="same instruction, rows", bound=0),
    Gate(name="same_output", title="same output, rows", bound=0, side="output"),
    Gate(name="near_instruction", title="nearly same instruction", bound=0.005),
    Gate(name="near_output", title="nearly same output", bound=0.005, side="output"),
    Gate(name="contamination", title="in evaluation sets, rows", bound=0),
    Gate(
        name="stray_marks",
        title="ill-formed marks, worst text",
        bound=MAX_STRAY_MARKS,
        side="output",
    ),
    Gate(name="ill_posed", title="ill-posed instruction", bound=0.01),
    Gate(name="top_domain", title="top domain", bound=0.02),
    Gate(name="top_verb", title="top root verb", bound=0.25),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One gate on one language, or on all of them.

    Attributes:
      gate: Which.
      scope: A key of `LANGUAGES`, or `ALL`.
      value: What was measured.
      offending: Rows that are to blame.
      shown: The first of them, by their number among the usable rows.
      twins: For each of them that repeats an earlier row, that row's number.
      detail: What else is known: the verb, the domain, the evaluation sets.
    """

    gate: Gate
    scope: str
    value: float
    offending: int
    shown: tuple[int, ...]
    twins: Mapping[int, int]
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.gate.passes(self.value)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """All that was measured of a data set.

    Attributes:
      path: As given.
      counts: Usable rows by scope.
      bad: Unusable rows, by reason.
      bad_shown: The first of them.
      judged: Every gate that applies, on every scope, in the order of `GATES`.
      figures: By scope, what is reported without a gate.
      against: For each evaluation set, its texts, and those long enough to be found.
      texts: What is shown of rows, by number: (where, instruction, output).
    """

    path: str
    counts: Mapping[str, int]
    bad: Mapping[str, int]
    bad_shown: Sequence[BadRow]
    judged: Sequence[Judged]
    figures: Mapping[str, Mapping[str, Any]]
    against: Mapping[str, tuple[int, int]]
    texts: Mapping[int, tuple[str, str, str]]

    @property
    def failed(self) -> list[Judged]:
        return [each for each in self.judged if not each.passed]


def check(path: str, against: Mapping[str, str]) -> Checked:
    """Measures a data set.

    Args:
      path: As `rows.read` takes it.
      against: Evaluation sets: a name, and a file of JSON (all of its texts count) or
        of plain lines.

    Raises:
      ValueError: The data set has no usable row or lacks columns, or an evaluation
        set holds no text.
      OSError: A file cannot be read.
    """
    evaluation = {name: EvaluationSet(file) for name, file in against.items()}
    tallies: dict[str, Tally] = {}
    bad: Counter[str] = Counter()
    bad_shown: list[BadRow] = []
    number = 0
    for row in rows.read(path):
        if isinstance(row, BadRow):
            bad[row.reason] += 1
            if len(bad_shown) < _MAX_SHOWN:
                bad_shown.append(row)
            continue
        tally = tallies.setdefault(row.language, Tally(row.language))
        tally.add(number, row, evaluation)
        number += 1
    if not tallies:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in bad.items())
        raise ValueError(f"{path} holds no usable row. {reasons}".strip())
    scopes = [tallies[code] for code in LANGUAGES if code in tallies]
    whole = Tally(ALL)
    judged_by_scope = []
    for tally in scopes:
        tally.finish()
        judged_by_scope.append(judge(tally))
        whole.merge(tally)
    judged_by_scope.append(judge(whole))
    order = {gate.name: place for place, gate in enumerate(GATES)}
    judged = sorted(
        (
            each
            for some in judged_by_scope
            for each in some
            if evaluation or each.gate.name != "contamination"
        ),
        key=lambda each: order[each.gate.name],
    )
    failed = [each for each in judged if not each.passed]
    wanted = {n for each in failed for n in (*each.shown, *each.twins.values())}
    return Checked(
        path=path,
        counts={tally.scope: tally.rows for tally in [*scopes, whole]},
        bad=bad,
        bad_shown=bad_shown,
        judged=judged,
        figures={tally.scope: tally.figures() for tally in [*scopes, whole]},
        against={n: (e.num_texts, e.num_long) for n, e in evaluation.items()},
        texts=_texts(path, wanted) if wanted else {},
    )


def judge(tally: Tally) -> list[Judged]:
    """Every gate that applies to what was counted."""
    places: dict[str, Places] = dict(tally.wrong)
    named = [f"{count:,} of {n}" for n, count in sorted(tally.contaminated.items())]
    details = {"contamination": ", ".join(named)}
    groups = {"top_verb": dict(tally.by_verb)}
    groups["top_verb"].pop("", None)
    if tally.rows > _MIN_ROWS_FOR_DOMAINS:
        groups["top_domain"] = tally.by_domain
    for name, group in groups.items():
        if group:
            top = max(group, key=lambda key: (group[key].count, key))
            places[name], details[name] = group[top], top
    return [
        Judged(
            gate=gate,
            scope=tally.scope,
            value=_measured(gate, places[gate.name], tally),
            offending=places[gate.name].count,
            shown=tuple(places[gate.name].first),
            twins=dict(places[gate.name].twins),
            detail=details.get(gate.name, ""),
        )
        for gate in GATES
        if gate.name in places
    ]


def _measured(gate: Gate, places: Places, tally: Tally) -> float:
    if gate.name == "stray_marks":
        return tally.worst_marks
    if gate.bound == 0:
        return places.count
    count = tally.rows - places.count if gate.at_least else places.count
    return count / tally.rows


def _texts(path: str, wanted: set[int]) -> dict[int, tuple[str, str, str]]:
    """Where the wanted rows stand, and what they say, by number."""
    found = {}
    usable = (row for row in rows.read(path) if isinstance(row, Row))
    for number, row in enumerate(usable):
        if number in wanted:
            found[number] = (row.where, row.instruction, row.output)
            if len(found) == len(wanted):
                break
    return found


def as_text(checked: Checked) -> str:
    """Tables for a terminal: gates, figures, and what failed with its rows."""
    lines = [f"{checked.path}: {checked.counts[ALL]:,} rows"]
    if checked.bad:
        number = sum(checked.bad.values())
        lines.append(f"{number:,} more cannot be used:")
        for reason, count in sorted(checked.bad.items(), key=lambda item: -item[1]):
            where = next((b.where for b in checked.bad_shown if b.reason == reason), "")
            lines.append(f"  {count:,} × {reason}" + (f", first {where}" * bool(where)))
    for name, (texts, long) in checked.against.items():
        lines.append(f"Against {name}: {long:,} of its {texts:,} texts are long enough")
    lines += ["", *_gate_table(checked), "", *_figure_table(checked)]
    top = checked.figures[ALL]["top_verbs"]
    if top:
        shares = ", ".join(f"{verb} {share:.1%}" for verb, share in top.items())
        lines.append(f"top root verbs: {shares}")
    failed = []
    for gate in GATES:
        if of_gate := [each for each in checked.failed if each.gate is gate]:
            failed.append(gate.title)
            lines += ["", *_explained(gate, of_gate, checked)]
    lines += ["", f"FAIL: {'; '.join(failed)}" if failed else "Every gate is passed."]
    return "\n".join(lines)


def _gate_table(checked: Checked) -> list[str]:
    scopes = list(checked.counts)
    table, last = [["", "bound", *scopes]], [""]
    for gate in GATES:
        found = {each.scope: each for each in checked.judged if each.gate is gate}
        if not found:
            reason = {
                "top_domain": f"asked of over {_MIN_ROWS_FOR_DOMAINS:,} rows",
                "contamination": "needs --against",
            }.get(gate.name, "")
            table.append([gate.title, _bound(gate), *["–"] * len(scopes)])
            last.append(reason)
            continue
        passed = all(each.passed for each in found.values())
        values = [
            _value(gate, found[scope].value) + "!" * (not found[scope].passed)
            if scope in found
            else "–"
            for scope in scopes
        ]
        table.append([gate.title, _bound(gate), *values])
        last.append("pass" if passed else "FAIL")
    lines = _aligned(table)
    width = max(map(len, lines))
    return [
        f"{line.ljust(width)}  {word}".rstrip()
        for line, word in zip(lines, last, strict=True)
    ]


def _bound(gate: Gate) -> str:
    return f"{'≥' if gate.at_least else '≤'} {gate.bound:g}"


def _value(gate: Gate, value: float) -> str:
    return f"{value:,.0f}" if gate.bound == 0 else f"{value:.4f}"


def _figure_table(checked: Checked) -> list[str]:
    scopes = list(checked.counts)
    titles = {
        "rows": "rows",
        "instruction_chars": "instruction, characters",
        "instruction_chars_deviation": "  standard deviation",
        "instruction_chars_z": "  mean against the paper's, z",
        "output_chars": "output, characters",
        "output_chars_deviation": "  standard deviation",
        "output_chars_z": "  mean against the paper's, z",
        "without_verb": "instructions without a root verb",
        "verb_entropy": "entropy of root verbs, bits",
        "verb_divergence": "their divergence from the paper's",
        "ended": "outputs that end in a sentence's end",
        "with_english": "outputs with an English sentence",
        "distinct_1": "distinct words of instructions",
        "distinct_2": "distinct word pairs",
    }
    table = [["", *scopes]]
    for name, title in titles.items():
        values = [checked.figures[scope][name] for scope in scopes]
        cells = ["–" if value is None else f"{value:,}" for value in values]
        table.append([title, *cells])
    return _aligned(table)


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *cells in table:
        numbers = [c.rjust(w) for c, w in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return lines


def _explained(gate: Gate, failed: Sequence[Judged], checked: Checked) -> Iterator[str]:
    """Where a gate failed, by how much, and the first rows that are to blame."""
    yield f"{gate.title}, expected {_bound(gate)}"
    for each in failed:
        detail = f" ({each.detail})" if each.detail else ""
        yield (
            f"  {each.scope}: {_value(gate, each.value)}{detail}, "
            f"{each.offending:,} of {checked.counts[each.scope]:,} rows"
        )
    shown = dict.fromkeys(number for each in failed for number in each.shown)
    twins = {a: b for each in failed for a, b in each.twins.items()}
    for number in list(shown)[:_MAX_SHOWN]:
        where, instruction, output = checked.texts[number]
        text = output if gate.side == "output" else instruction
        text = " ".join(charts.printable(text).split())
        remark = ""
        if gate.name in ("output_language", "instruction_english"):
            code = fast_guess(text, best_effort=True)
            remark = f" [{code or 'unknown'}]"
        elif number in twins:
            remark = f" [as {checked.texts[twins[number]][0]}]"
        short = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
        yield f"    {where}{remark}  {short}"


def as_json(checked: Checked) -> dict[str, Any]:
    """The same for programs."""
    return {
        "dataset": checked.path,
        "rows": dict(checked.counts),
        "unusable": dict(checked.bad),
        "passed": not checked.failed,
        "against": {
            name: {"texts": texts, "long_enough": long}
            for name, (texts, long) in checked.against.items()
        },
        "gates": [
            {
                "figure": each.gate.name,
                "scope": each.scope,
                "value": each.value,
                "bound": each.gate.bound,
                "at_least": each.gate.at_least,
                "offending_rows": each.offending,
                "detail": each.detail,
                "passed": each.passed,
                "shown": [checked.texts[number][0] for number in each.shown]
                if not each.passed
                else [],
            }
            for each in checked.judged
        ],
        "figures": {scope: dict(values) for scope, values in checked.figures.items()},
    }


def run(path: str, against: Sequence[str], out: str | None) -> bool:
    """Prints what `check` finds, and writes it to `out` as JSON.

    Args:
      path: The data set.
      against: `NAME=FILE` each.
      out: A local file, or None.

    Returns:
      Whether every gate was passed.

    Raises:
      ValueError: An item of `against` is no `NAME=FILE`, or as of `check`.
    """
    files = {}
    for item in against:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--against {item!r}: expected NAME=FILE.")
        files[name] = file
    checked = check(path, files)
    print(as_text(checked))
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(checked), indent=1, ensure_ascii=True)
        Path(out).write_text(f"{text}\n")
    return not checked.failed
