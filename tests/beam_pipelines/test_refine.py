"""Rounds of refinement, with models that answer at once and trainings of no cost."""

import dataclasses
import json
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import funnel, refine, store, training
from beam_pipelines import pipeline as pipelines
from beam_pipelines import recipe as recipes
from tests.beam_pipelines.test_pipeline import crawl, run  # noqa: F401
from tests.conftest import calls

FIGURES = {"auc": 0.9, "ece": 0.01, "accuracy": 0.8, "rows": 9}


@pytest.fixture
def recipe(crawl: Path, tmp_path: Path) -> recipes.Recipe:  # noqa: F811
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "config.json").write_text("{}")
    return recipes.Recipe(
        name="test",
        languages=("fi", "sw"),
        source=recipes.Source(warc=("*.warc.gz",), base=str(crawl)),
        generator=recipes.Generator(checkpoint=str(tmp_path / "generator")),
        evaluator=recipes.Evaluator(
            checkpoint=str(tmp_path / "evaluator"), evidence=(), keep_above=0.5
        ),
        refine=recipes.Refine(rounds=2, min_gain=0.0),
        diversify=recipes.Diversify(validation=0.1, test=0.1),
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that only write what others look for; returns their names in order."""
    names: list[str] = []

    def make(out: str, **files: object) -> None:
        names.append(Path(out).name)
        Path(out).mkdir(exist_ok=True)
        # Models of different rounds are different.
        files["config.json"] = {"name": Path(out).name}
        for name, content in files.items():
            (Path(out) / name).write_text(json.dumps(content))

    monkeypatch.setattr(
        training,
        "train_evaluator",
        lambda recipe, out, **_: make(out, **{training.EVALUATION: FIGURES}),
    )
    monkeypatch.setattr(training, "train_generator", lambda recipe, out, **_: make(out))
    # A later generator is a little better.
    monkeypatch.setattr(
        training,
        "held_out_loss",
        lambda recipe, path: (
            4
            - 0.1 * path.count("round")
            - 0.01 * int(path[-1] if path[-1].isdigit() else 0)
        ),
    )
    return names


def run_rounds(recipe: recipes.Recipe, root: Path, rounds: int = 2) -> dict:
    of_recipe = store.Store(str(root), recipe)
    of_recipe.open()
    options = PipelineOptions(["--runner=FnApiRunner"])
    return refine.refine(recipe, of_recipe, rounds, options)


def test_each_round_takes_what_no_round_kept(recipe, tmp_path, fake_engine, trained):
    root = tmp_path / "store"
    content = run_rounds(recipe, root)
    assert trained == [
        "evaluator", "generator.round1", "evaluator.round2", "generator.round2",
    ]  # fmt: skip
    assert content["finished"]
    assert content["passes"] == [[0, 1], [1, 2], [2, 2]]
    first, second = content["rounds"]
    assert 0 < first["kept"] < first["documents"]
    assert second["documents"] == first["documents"] - first["kept"]
    # Nothing is written for a document that has a kept pair.
    written = calls(fake_engine)["generate"]
    left = second["documents"] - second["kept"]
    assert written == first["documents"] + second["documents"] + left
    examples = run(recipe, root)
    assert calls(fake_engine)["generate"] == written
    kept = first["kept"] + second["kept"] + content["final"]["kept"]
    assert len(examples) == kept
    share = content["final"]["acceptance"]
    assert share == pytest.approx(kept / first["documents"], abs=1e-4)
    step = funnel.read_funnel(str(root)).step("scores")
    assert step.left.total() == kept


def test_killed_in_a_round_it_ends_as_if_it_had_not_been(
    recipe, tmp_path, fake_engine, trained, monkeypatch
):
    whole = run_rounds(recipe, tmp_path / "whole")
    trained.clear()
    for path in tmp_path.glob("*round*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    train, root = training.train_generator, tmp_path / "killed"

    def stop(recipe: recipes.Recipe, out: str, **given: object) -> None:
        if out.endswith("round2"):
            raise KeyboardInterrupt
        train(recipe, out, **given)

    monkeypatch.setattr(training, "train_generator", stop)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(recipe, root)
    monkeypatch.setattr(training, "train_generator", train)
    before = calls(fake_engine)
    with pytest.raises(
        store.StoreError, match=r"asks for 2 round.* has 1\. Run `xinst"
    ):
        run(recipe, root)
    again = run_rounds(recipe, root)
    # What was trained and rated is not made again.
    assert trained == ["generator.round1", "evaluator.round2", "generator.round2"]
    last = again["rounds"][-1]["documents"] - again["rounds"][-1]["kept"]
    assert calls(fake_engine)["generate"] - before["generate"] == last
    assert _timeless(again) == _timeless(whole)
    assert run_rounds(recipe, root) == again


def test_a_worse_generator_is_not_taken(
    recipe, tmp_path, fake_engine, trained, monkeypatch
):
    monkeypatch.setattr(
        training, "held_out_loss", lambda recipe, path: 4 + path.count("round")
    )
    content = run_rounds(recipe, tmp_path / "store")
    assert content["passes"] == [[0, 1]]
    assert content["rounds"][0]["generator"]["taken"] is False
    assert "worse on held-out pairs" in content["stopped"]
    assert content["finished"]
    assert run(recipe, tmp_path / "store")
    assert "not taken" in refine.as_text(content)


def test_a_round_that_gains_nothing_is_the_last(recipe, tmp_path, fake_engine, trained):
    strict = dataclasses.replace(recipe, refine=recipes.Refine(rounds=2, min_gain=1.0))
    content = run_rounds(strict, tmp_path / "store")
    assert "gained less than 100.0%" in content["stopped"]
    assert "generator" not in content["rounds"][-1]
    assert trained[-1] == "evaluator.round2"


def test_other_settings_begin_anew(recipe, tmp_path, fake_engine, trained):
    root = tmp_path / "store"
    run_rounds(recipe, root, rounds=1)
    strict = dataclasses.replace(recipe.evaluator, keep_above=0.9)
    other = store.Store(str(root), dataclasses.replace(recipe, evaluator=strict))
    assert store.Store(str(root), recipe).refinement["rounds"]
    assert other.refinement == {}
    assert len(other.passes()) == 1


@pytest.mark.parametrize("rounds", [0, 3])
def test_more_rounds_than_the_recipe_says_are_refused(recipe, tmp_path, rounds):
    with pytest.raises(refine.RefinementError, match=r"refine\.rounds is 2"):
        run_rounds(recipe, tmp_path / "store", rounds)


def test_the_best_of_several_candidates_is_kept(recipe, tmp_path, fake_engine):
    (tmp_path / "evaluator").mkdir()
    (tmp_path / "evaluator" / "config.json").write_text("{}")
    plain = dataclasses.replace(recipe, refine=recipes.Refine())
    warm = dataclasses.replace(plain.generator, temperature=0.7)
    several = dataclasses.replace(warm, candidates=3)
    one = run(dataclasses.replace(plain, generator=warm), tmp_path / "a", "scores")
    root = tmp_path / "b"
    made = calls(fake_engine)["generate"]
    kept = run(dataclasses.replace(plain, generator=several), root)
    # The fake engine writes the same thrice, which is rated once.
    assert calls(fake_engine)["generate"] - made == 3 * len(one)
    assert set(kept) == {key for key, score in one.items() if score["p_best"] >= 0.5}


def test_settling_takes_the_best_pair_or_leaves_the_document():
    pairs = [
        _Scored(0.5, _Keyed("b")), _Scored(0.9, _Keyed("c")), _Scored(0.9, _Keyed("a"))
    ]  # fmt: skip
    for order in (pairs, pairs[::-1]):
        found = {"scores": order, "documents": ["text"]}
        assert list(pipelines._best("k", found)) == [pairs[2]]
    (left,) = pipelines._best("k", {"scores": [], "documents": ["text"]})
    assert (left.tag, left.value) == ("left", "text")


@dataclasses.dataclass(frozen=True)
class _Keyed:
    key: str


@dataclasses.dataclass(frozen=True)
class _Scored:
    score: float
    candidate: _Keyed


def _timeless(content: dict) -> dict:
    rows = [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in content["rounds"]
    ]
    return content | {"rounds": rows}
