"""How well pages of other languages are told from ours, as Markdown tables.

    python benchmarks/language_accuracy.py FILE.jsonl

A line of the file has a `text` and its `label`: a key of `LANGUAGES`, or for any other
language "!" and its ISO 639-3 code (with a script or region behind it, if need be). For
texts that are long and for texts that are not, and for each of our languages: recall;
decisions that langdetect alone gets right and we lose; precision on the file as it is;
precision if languages were as frequent as in Common Crawl; the three languages most
often taken for it. Then texts per second of CPU time.
"""

import argparse
import collections
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import langdetect
from langdetect.lang_detect_exception import LangDetectException

from beam_pipelines.language import gate, verdict
from beam_pipelines.schema import LANGUAGES

# Characters. Shorter texts are the size of a heading or a comment.
MIN_LONG = 300
# Detectors load on first use.
WARM_UP = "Kielet ja niiden puhujat."

# Percent of the pages of CC-MAIN-2026-04, by Common Crawl's own language labels.
SHARES = {
    "id": 1.149, "tr": 1.199, "vi": 1.098, "th": 0.393, "fi": 0.363, "hi": 0.224,
    "bn": 0.110, "ta": 0.050, "ur": 0.032, "sw": 0.0126,
    "msa": 0.083, "aze": 0.058, "nep": 0.057, "mar": 0.033, "fas": 0.195, "ara": 0.663,
    "som": 0.006, "kin": 0.003, "zul": 0.002,
}  # fmt: skip
# Kurdish had 0.004 in 2018, Javanese 0.001, Yoruba 0.0004.
SHARE_OF_OTHERS = 0.001
# Members and other names of those.
MACROLANGUAGES = {
    "zsm": "msa", "mly": "msa", "azj": "aze", "npi": "nep", "pes": "fas", "prs": "fas",
    "arb": "ara",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was made of one text.

    Attributes:
      label: A key of `LANGUAGES`, or another language's code.
      alone: What langdetect says of the first 2,000 characters; empty for nothing.
      ours: What gate and verdict say; empty for none of our languages.
      is_long: Whether the text has at least `MIN_LONG` characters.
      gate_s: CPU seconds.
      verdict_s: CPU seconds; None if the gate turned the text away.
    """

    label: str
    alone: str
    ours: str
    is_long: bool
    gate_s: float
    verdict_s: float | None


def decide(text: str, label: str) -> Decision:
    start = time.process_time()
    reason = gate(text, LANGUAGES)
    middle = time.process_time()
    found = "" if reason else verdict(text, LANGUAGES).language
    stop = time.process_time()
    return Decision(
        label=label,
        alone=alone(text),
        ours=found,
        is_long=len(text) >= MIN_LONG,
        gate_s=middle - start,
        verdict_s=None if reason else stop - middle,
    )


def alone(text: str) -> str:
    # Any verdict before has loaded langdetect's profiles and set its seed.
    try:
        return langdetect.detect_langs(text[:2000])[0].lang
    except LangDetectException:
        return ""


def language(label: str) -> str:
    """The language that a label stands for: "!azj_latn" → "aze"."""
    code = re.split("[-_]", label.removeprefix("!"))[0]
    return MACROLANGUAGES.get(code, code)


def percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else float("nan")


def mean(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def weighted_precision(decisions: list[Decision], code: str) -> float:
    """Percent of the pages accepted as `code` that would be, in a crawl."""
    texts = collections.Counter(d.label for d in decisions)
    accepted = collections.Counter(d.label for d in decisions if d.ours == code)
    pages = {
        label: SHARES.get(label, SHARE_OF_OTHERS) * number / texts[label]
        for label, number in accepted.items()
    }
    return percent(pages.get(code, 0.0), sum(pages.values()))


def table(decisions: list[Decision]) -> str:
    """One row for each of our languages that the decisions know, and their mean."""
    rows: list[str] = []
    recalls, precisions, weighted = [], [], []
    lost, right = 0, 0
    for code in LANGUAGES:
        own = [d for d in decisions if d.label == code]
        accepted = [d for d in decisions if d.ours == code]
        if not own:
            continue
        true = sum(d.label == code for d in accepted)
        recalls.append(percent(true, len(own)))
        precisions.append(percent(true, len(accepted)))
        weighted.append(weighted_precision(decisions, code))
        known = [d for d in own if d.alone == code]
        gone = sum(d.ours != code for d in known)
        lost, right = lost + gone, right + len(known)
        wrong = collections.Counter(d.label for d in accepted if d.label != code)
        taken = ", ".join(f"{other} {number}" for other, number in wrong.most_common(3))
        rows.append(
            f"| {code} | {len(own)} | {recalls[-1]:.1f} | {gone} "
            f"| {precisions[-1]:.1f} | {weighted[-1]:.1f} | {taken} |"
        )
    num_own = sum(d.label in LANGUAGES for d in decisions)
    return "\n".join(
        (
            "| language | texts | recall | lost | precision | weighted "
            "| false accepts |",
            "|---|---|---|---|---|---|---|",
            *rows,
            f"| **mean** | {num_own} | {mean(recalls):.2f} "
            f"| {lost} of {right} ({percent(lost, right):.2f} %) "
            f"| {mean(precisions):.2f} | {mean(weighted):.2f} | |",
        )
    )


def precision_of(decisions: list[Decision], said: Callable[[Decision], str]) -> float:
    """Macro precision, in percent, of what is said of each text."""
    return mean(
        percent(
            sum(said(d) == d.label == code for d in decisions),
            sum(said(d) == code for d in decisions),
        )
        for code in LANGUAGES
        if any(d.label == code for d in decisions)
    )


def speed(decisions: list[Decision]) -> str:
    verdicts = [d.verdict_s for d in decisions if d.verdict_s is not None]
    gate_s, verdict_s = sum(d.gate_s for d in decisions), sum(verdicts)
    return (
        f"{len(decisions) / max(gate_s, 1e-9):,.0f} texts/s through the gate; "
        f"{percent(len(verdicts), len(decisions)):.1f} % of them on to the verdict, "
        f"{len(verdicts) / max(verdict_s, 1e-9):,.0f} texts/s. "
        f"langdetect alone: precision {precision_of(decisions, lambda d: d.alone):.2f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="JSON lines with `text` and `label`")
    lines = parser.parse_args().file.read_text("utf-8").splitlines()
    verdict(WARM_UP, LANGUAGES)
    decisions = [
        decide(line["text"], language(line["label"])) for line in map(json.loads, lines)
    ]
    for is_long, title in [(True, "Long texts"), (False, "Short texts")]:
        if chosen := [d for d in decisions if d.is_long == is_long]:
            others = {d.label for d in chosen} - LANGUAGES.keys()
            print(f"## {title}: {len(chosen)}, in {len(others)} other languages\n")
            print(table(chosen), end="\n\n")
            print(speed(chosen), end="\n\n")


if __name__ == "__main__":
    main()
