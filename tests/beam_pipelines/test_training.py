"""Both checkpoints, and all that is read beside them, come of a handful of pairs."""

import dataclasses
import json
import math

import numpy as np
import pytest

from beam_pipelines import training
from beam_pipelines.recipe import from_table
from xinst_jax import judge, seed
from xinst_jax.engine import Engine

WORDS = {"rice": ("wali", "riisi"), "water": ("maji", "vesi"), "fire": ("moto", "tuli")}
PAIRS = [
    {
        "instruction": f"How do I keep {topic} {number} safe for {words[at]}?",
        "response": f"Namba {number} ya {words[at]} ni nzuri sana, {words[at]} safi. "
        * 2,
        "language": language,
        "topic": topic,
    }
    for number in range(4)
    for topic, words in WORDS.items()
    for at, language in enumerate(("sw", "fi"))
]


def recipe_of(data, **changes):
    """A recipe for models that are made in a moment."""
    train = {"data": [str(data)], "steps": 3, "batch_tokens": 2048, "held_out": 0.3}
    train |= {"learning_rate": 5e-3, "vocabulary": 300, "width": 16, "layers": 1}
    train |= {"heads": 2, **changes}
    shown = {"max_text_chars": 60, "train": train}
    return from_table(
        {
            "name": "small",
            "languages": ["sw", "fi"],
            "source": {"warc": ["no.warc.gz"]},
            "generator": {"checkpoint": "g", "max_new_tokens": 8, **shown},
            "evaluator": {"checkpoint": "e", **shown},
        }
    )


def write(path, pairs):
    path.write_text("\n".join(map(json.dumps, pairs)))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return recipe_of(write(tmp_path_factory.mktemp("seed") / "a.jsonl", PAIRS))


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """The folder of both checkpoints, and what their training told."""
    folder = tmp_path_factory.mktemp("made")
    generator, evaluator = folder / "generator", folder / "evaluator"
    told = training.train_generator(recipe, str(generator))
    figures = training.train_evaluator(recipe, str(evaluator), generator=str(generator))
    return folder, told, figures


def test_the_generator_is_trained_on_the_seed_that_is_not_held_out(recipe, made):
    folder, told, _ = made
    held = len(PAIRS) - told["pairs"]
    assert 0 < held < len(PAIRS) / 2
    assert (told["kept_pairs"], told["steps"]) == (0, 3)
    assert math.isfinite(told["loss"])
    before = training.held_out_loss(recipe, str(folder / "generator.base"))
    after = training.held_out_loss(recipe, str(folder / "generator"))
    assert 0 < after < before
    # The log's loss counts the end of each target too.
    assert told["held_out_loss"] == pytest.approx(after, rel=0.2)


def test_an_evaluator_s_folder_holds_all_that_a_judge_reads(recipe, made):
    folder, _, figures = made
    names = {path.name for path in (folder / "evaluator").iterdir()}
    beside = {"calibration.json", "evaluation.json", "relevance.safetensors"}
    assert beside | {"model.safetensors", "tokenizer.json"} <= names
    judging = judge.Judge.load(folder / "evaluator", recipe.evaluator.evidence, 60)
    pairs = [seed.Pair(**pair) for pair in PAIRS]
    values = judging.measure(pairs)
    found = judging.rate(values)
    assert np.isfinite(values).all()
    assert found.sum(axis=1) == pytest.approx(1)
    # It is the calibration that rates.
    assert not np.allclose(found, np.exp(values[:, :3]), atol=1e-3)
    assert json.loads((folder / "evaluator" / training.EVALUATION).read_text()) == (
        figures
    )


def test_an_evaluator_is_measured_on_held_out_rows_of_every_level(made):
    _, told, figures = made
    held = len(PAIRS) - told["pairs"]
    assert figures["rows"] == 3 * training._RATING_ROUNDS * held
    assert sum(each["count"] for each in figures["reliability"]) == figures["rows"]
    assert {"none", "truncated", "wrong_language"} <= set(figures["recall"])
    assert set(figures["auc_by_corruption"]) == set(figures["recall"]) - {"none"}
    for share in (figures["auc"], figures["ece"], *figures["recall"].values()):
        assert 0 <= share <= 1


def test_evidence_from_ngrams_is_learnt_only_where_it_is_asked_for(recipe, tmp_path):
    evaluator = dataclasses.replace(recipe.evaluator, evidence=("backward",))
    small = dataclasses.replace(recipe, evaluator=evaluator)
    training.train_evaluator(small, str(tmp_path / "e"))
    assert not (tmp_path / "e" / "relevance.safetensors").exists()
    judge.Judge.load(tmp_path / "e", ["backward"], 60)
    with pytest.raises(ValueError, match="calibrated on"):
        judge.Judge.load(tmp_path / "e", ["forward"], 60)


def test_a_model_is_trained_again_with_pairs_that_were_kept(recipe, made, tmp_path):
    folder, first, _ = made
    pair = seed.Pair(**PAIRS[0] | {"instruction": "What is kept?"})
    told = training.train_generator(
        recipe, str(tmp_path / "g"), base=str(folder / "generator"), kept=[pair] * 5,
        again=2,
    )  # fmt: skip
    assert (told["pairs"], told["kept_pairs"]) == (first["pairs"], 5)
    assert told["steps"] == 2
    assert not (tmp_path / "g.base").exists()
    tokenizers = [
        Engine.load(path).tokenizer.to_str()
        for path in (folder / "generator", tmp_path / "g")
    ]
    assert tokenizers[0] == tokenizers[1]


def test_thinned_pairs_are_still_the_seed_s(tmp_path):
    thinned = recipe_of(write(tmp_path / "a.jsonl", PAIRS), word_dropout=0.3, steps=1)
    told = training.train_generator(thinned, str(tmp_path / "g"))
    figures = training.train_evaluator(thinned, str(tmp_path / "e"))
    assert told["pairs"] < len(PAIRS)
    held = len(PAIRS) - told["pairs"]
    # What measures is whole.
    assert figures["rows"] == 3 * training._RATING_ROUNDS * held


@pytest.mark.parametrize("count", [1, 2])
def test_a_seed_that_is_too_small_is_named(tmp_path, count):
    small = recipe_of(write(tmp_path / "a.jsonl", PAIRS[:count]))
    for train, name in (
        (training.train_generator, "generator"),
        (training.train_evaluator, "evaluator"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.train\.data holds {count} "):
            train(small, str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_evaluator_is_not_measured_on_one_instruction_alone(tmp_path):
    pairs = [seed.Pair(**pair) for pair in PAIRS]
    kept, held = seed.split(pairs, 0.3)
    [one, *_] = held
    few = [dataclasses.asdict(pair) for pair in [*kept, one]]
    small = recipe_of(write(tmp_path / "a.jsonl", few))
    with pytest.raises(ValueError, match=rf"evaluator\.train\.data holds {len(few)} "):
        training.train_evaluator(small, str(tmp_path / "e"))


def test_the_figures_are_all_told():
    figures = {
        "rows": 1200,
        "auc": 0.91234,
        "accuracy": 0.8,
        "ece": 0.0251,
        "recall": {"none": 0.7, "truncated": 0.0, "generic": 1.0},
        "auc_by_corruption": {"truncated": 0.0, "generic": 0.75},
    }
    head, _, *lines = training.describe_evaluator(figures).splitlines()
    assert "1,200" in head and "0.912" in head and "0.025" in head
    assert [line.split() for line in lines] == [
        ["none", "0.70"],
        ["truncated", "0.00", "0.00"],
        ["generic", "1.00", "0.75"],
    ]
