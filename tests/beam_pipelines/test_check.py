"""A clean data set passes every gate, each planted fault fails its own."""

import json

import pytest

from beam_pipelines import check, cli
from tests.conftest import REPOSITORY

LANGUAGES = ("fi", "hi", "th")
SPOILT_HINDI = "मलेरिया मच्छर क ेकाटन ेस ेफैलता है। य ेबीमारी बरसात म ेंबढ़ती है। "


def clean() -> list[dict[str, str]]:
    """120 rows, none like another."""
    rows = []
    for code in LANGUAGES:
        lines = (REPOSITORY / "examples" / "seed" / f"{code}.jsonl").read_text()
        for row in map(json.loads, lines.splitlines()[:40]):
            instruction, output = row["instruction"], row["response"]
            rows.append(
                {
                    "instruction": instruction,
                    "output": output,
                    "output_language": code,
                    "domain": f"{len(rows)}.example",
                }
            )
    return rows


def write(path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def failed(tmp_path):
    def run(rows, against=None) -> dict[str, list[check.Judged]]:
        found = check.check(write(tmp_path / "a.jsonl", rows), against or {})
        by_gate: dict[str, list[check.Judged]] = {}
        for each in found.failed:
            by_gate.setdefault(each.gate.name, []).append(each)
        return by_gate

    return run


def test_clean_rows_pass_every_gate(failed):
    assert failed(clean()) == {}


def spoil_language(rows):
    rows[3]["output"] = rows[50]["output"] + " " + rows[51]["output"][:50]


def spoil_instruction(rows):
    rows[3]["instruction"] = "Miten keitän riisiä niin, ettei se pala pohjaan kiinni?"


def spoil_marks(rows):
    rows[43]["output"] = SPOILT_HINDI * 3


def spoil_posed(rows):
    rows[3]["instruction"] = "Summarize the main points of the article above."


def repeat_instruction(rows):
    rows[3]["instruction"] = rows[2]["instruction"]


def repeat_output(rows):
    rows[3]["output"] = rows[2]["output"]


def nearly_repeat_instruction(rows):
    rows[3]["instruction"] = rows[2]["instruction"].upper()


def nearly_repeat_output(rows):
    rows[3]["output"] = rows[2]["output"] + " Niin se on."


def repeat_verb(rows):
    for number in range(12):
        rows[number]["instruction"] = (
            f"Carve {'abcdefghijkl'[number] * 4}, {number}, from soft birch wood."
        )


@pytest.mark.parametrize(
    ("spoil", "gate", "scope", "place"),
    [
        (spoil_language, "output_language", "fi", 3),
        (spoil_instruction, "instruction_english", "fi", 3),
        (spoil_marks, "stray_marks", "hi", 43),
        (spoil_posed, "ill_posed", "fi", 3),
        (repeat_instruction, "same_instruction", "fi", 3),
        (repeat_output, "same_output", "fi", 3),
        (nearly_repeat_instruction, "near_instruction", "fi", 3),
        (nearly_repeat_output, "near_output", "fi", 3),
        (repeat_verb, "top_verb", "fi", 0),
    ],
)
def test_a_fault_fails_its_own_gate_and_is_shown(failed, spoil, gate, scope, place):
    rows = clean()
    spoil(rows)
    found = failed(rows)
    assert list(found) == [gate]
    first = found[gate][0]
    assert first.scope == scope
    assert place in first.shown
    assert {each.scope for each in found[gate]} <= {scope, check.ALL}


def test_no_verb_is_no_top_verb(failed):
    rows = clean()
    for number in range(30):
        rows[number]["instruction"] = f"What is the price of {number + 2} boats here?"
    assert "top_verb" not in failed(rows)


def test_languages_do_not_repeat_each_other(failed):
    rows = clean()
    rows[43]["instruction"] = rows[3]["instruction"]
    assert failed(rows) == {}


@pytest.mark.parametrize(
    ("name", "passing", "failing"),
    [
        ("output_language", 0.99, 0.98999),
        ("instruction_english", 0.995, 0.99499),
        ("same_output", 0, 1),
        ("near_output", 0.005, 0.00501),
        ("stray_marks", 0.02, 0.0201),
        ("ill_posed", 0.01, 0.0101),
        ("top_domain", 0.02, 0.0201),
        ("top_verb", 0.25, 0.2501),
        ("contamination", 0, 1),
    ],
)
def test_each_gate_at_its_bound(name, passing, failing):
    gate = next(gate for gate in check.GATES if gate.name == name)
    assert gate.passes(passing)
    assert not gate.passes(failing)


def test_shares_are_exact_at_the_bound(tmp_path):
    """One row of 100 in another language is .99, which passes; one of 99 is not."""
    for number, passes in ((100, True), (99, False)):
        rows = (clean()[:40] * 3)[:number]
        rows[0] = rows[0] | {"output": clean()[60]["output"]}
        found = check.check(write(tmp_path / "a.jsonl", rows), {})
        language = next(e for e in found.judged if e.gate.name == "output_language")
        assert language.offending == 1
        assert language.passed is passes


@pytest.mark.parametrize(("number", "gated"), [(38, False), (39, True)])
def test_a_domain_is_judged_where_rows_are_many(tmp_path, monkeypatch, number, gated):
    assert check._MIN_ROWS_FOR_DOMAINS == 1000
    monkeypatch.setattr(check, "_MIN_ROWS_FOR_DOMAINS", 38)
    rows = clean()[:number]
    for row in rows[5:25]:
        row["domain"] = "big.example"
    found = check.check(write(tmp_path / "a.jsonl", rows), {})
    domains = [each for each in found.judged if each.gate.name == "top_domain"]
    assert [each.scope for each in domains] == ["fi", check.ALL] * gated
    for each in domains:
        assert (each.detail, each.offending) == ("big.example", 20)
        assert each.shown == (5, 6, 7)
        assert not each.passed


def test_contamination_names_the_set_on_either_side(failed, tmp_path):
    rows = clean()
    against = {
        "outputs": write(tmp_path / "o.jsonl", [{"q": rows[7]["output"]}]),
        "others": write(tmp_path / "n.jsonl", [{"q": "Something else. " * 9}]),
    }
    found = failed(rows, against)
    assert list(found) == ["contamination"]
    assert found["contamination"][0].shown == (7,)
    assert found["contamination"][0].detail == "1 of outputs"
    long = "Explain how one two three four five six seven eight nine goats crossed it."
    rows[7]["instruction"] = long
    (tmp_path / "i.txt").write_text(f"first\n{long.lower()}\n")
    found = failed(rows, {"lines": str(tmp_path / "i.txt")})
    assert found["contamination"][0].shown == (7,)


def test_the_command_says_what_failed_and_by_how_much(tmp_path, capsys):
    rows = clean()
    assert cli.main(["check", write(tmp_path / "a.jsonl", rows)]) == 0
    assert "Every gate is passed." in capsys.readouterr().out
    repeat_output(rows)
    rows[60]["instruction"] = "Translate the following text. \ud800\x1b[2J"
    out = tmp_path / "new" / "out.json"
    path = write(tmp_path / "b.jsonl", [*rows, {"instruction": 3}])
    assert cli.main(["check", path, "--json", str(out)]) == 1
    text = capsys.readouterr().out
    assert "FAIL: same output, rows; ill-posed instruction" in text
    assert "fi: 1, 1 of 40 rows" in text
    assert "hi: 0.0250, 1 of 40 rows" in text
    assert "b.jsonl:4 [as b.jsonl:3]" in text
    assert "1 × instruction is no text, first b.jsonl:121" in text
    assert "\x1b" not in text
    figures = json.loads(out.read_text())
    assert not figures["passed"]
    assert figures["rows"] == {"fi": 40, "hi": 40, "th": 40, "all": 120}
    failed = {(e["figure"], e["scope"]) for e in figures["gates"] if not e["passed"]}
    assert failed == {
        ("same_output", "fi"),
        ("same_output", "all"),
        ("ill_posed", "hi"),
    }
    assert figures["figures"]["hi"]["output_chars"] > 0


def test_a_table_has_every_figure_of_every_scope(tmp_path):
    checked = check.check(write(tmp_path / "a.jsonl", clean()), {})
    text = check.as_text(checked)
    for name, value in checked.figures["th"].items():
        if isinstance(value, float):
            assert f"{value:,}" in text, name
    for gate in check.GATES:
        assert gate.title in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no usable row"),
        ("garbage\n[]\n", "1 × no JSON, 1 × no object"),
        ('{"a": 1}', "no column 'instruction', 'output', 'output_language'"),
    ],
)
def test_garbage_is_explained(tmp_path, capsys, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert cli.main(["check", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_a_wrong_evaluation_set_is_explained(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", clean()[:3])
    assert cli.main(["check", path, "--against", "xcopa"]) == 1
    assert "expected NAME=FILE" in capsys.readouterr().err
    assert cli.main(["check", path, "--against", f"x={tmp_path}/no.jsonl"]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "e.jsonl").write_text("[1]")
    assert cli.main(["check", path, "--against", f"x={tmp_path}/e.jsonl"]) == 1
    assert "holds no text" in capsys.readouterr().err
