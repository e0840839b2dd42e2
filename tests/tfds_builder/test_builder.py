"""From WARC to training loop through the commands that people type, at toy size."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from beam_pipelines import cli
from beam_pipelines.schema import Example
from tests.conftest import REPOSITORY, loaded_by, make_crawl
from tfds_builder.x_instruction import x_instruction_dataset_builder as builders
from xinst_jax import formats

# Few steps of a small model: it learns to write English, not what about.
TOY = {
    "steps = 300": "steps = 80",
    "steps = 130": "steps = 4",
    "batch_tokens = 4096": "batch_tokens = 1024",
    "layers = 2": "layers = 1\nvocabulary = 1000",
    "examples/seed/*.jsonl": "seed.jsonl",
    "keep_above = 0.5": "keep_above = 0.0",
    "max_text_chars = 250": "max_text_chars = 40",
    "max_text_chars = 150": "max_text_chars = 40",
    "rounds = 2": "rounds = 0",
    "candidates = 4": "candidates = 2",
}
THINGS = (
    "rice water maize wells boats seeds roads lamps goats shoes hands pots sheds "
    "tools nets bikes coats doors wood milk"
).split()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a crawl, trained checkpoints and a recipe."""
    folder = tmp_path_factory.mktemp("toy")
    make_crawl().main(folder / "out" / "demo" / "crawl")
    rows = [
        json.loads(line)
        for file in sorted((REPOSITORY / "examples" / "seed").glob("*.jsonl"))
        for line in file.read_text().splitlines()[:20]
    ]
    for number, row in enumerate(rows):
        thing = THINGS[number % len(THINGS)]
        row["instruction"] = f"How do I keep {thing} clean and safe?"
    (folder / "seed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = (REPOSITORY / "examples" / "demo.toml").read_text()
    for old, new in TOY.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "x_instruction.toml").write_text(recipe)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main(["train", "generator", "x_instruction.toml"]) == 0
        assert cli.main(["train", "evaluator", "x_instruction.toml"]) == 0
    finally:
        os.chdir(before)
    return folder


def build(folder: Path, config: str, data_dir: str, *options: str) -> Path:
    """Runs `tfds build` as a person would; returns the data set's folder."""
    run = subprocess.run(
        [
            Path(sys.executable).with_name("tfds"),
            "build",
            "x_instruction",
            "--imports=tfds_builder.x_instruction",
            f"--config={config}",
            f"--data_dir={data_dir}",
            "--file_format=array_record",
            *options,
        ],
        cwd=folder,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    name = json.loads(config)["name"] if config.startswith("{") else config
    return next((folder / data_dir / "x_instruction" / name).iterdir())


def content(folder: Path) -> list[str]:
    """Every example, in an order of its own."""
    splits = tfds.builder_from_directory(folder).as_data_source()
    examples = [example for source in splits.values() for example in source]
    return sorted(json.dumps(example, default=_plain) for example in examples)


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value.item()


@pytest.fixture(scope="module")
def data_set(toy: Path) -> Path:
    return build(toy, "all", "data")


def test_the_data_set_is_whole(data_set):
    builder = tfds.builder_from_directory(data_set)
    splits = builder.as_data_source()
    assert set(splits) == {"train", "validation", "test"}
    assert all(len(source) for source in splits.values())
    for name, source in splits.items():
        assert {example["split"].decode() for example in source} == {name}
    metadata = builder.info.metadata
    assert metadata["recipe"]["name"] == "demo"
    assert "other_language" in metadata["funnel"]
    assert "TAGS" not in builder.info.description
    assert builder.info.citation.startswith("@inproceedings")


def test_a_store_given_or_not_one_worker_or_two_the_content_is_the_same(toy, data_set):
    config = json.dumps(
        {"name": "two", "recipe": "x_instruction.toml", "store": "other_store"}
    )
    two = build(
        toy,
        config,
        "data",
        "--beam_pipeline_options=runner=FnApiRunner,direct_running_mode="
        "multi_processing,direct_num_workers=2",
    )
    assert content(two) == content(data_set)


def test_a_language_is_a_part_of_all(toy, data_set):
    swahili = [json.loads(row) for row in content(build(toy, "sw", "data"))]
    assert {row["output_language"] for row in swahili} == {"sw"}
    ids = {json.loads(row)["id"] for row in content(data_set) if '"sw"' in row}
    assert {row["id"] for row in swahili} == ids


def test_a_format_adds_prompt_and_target_and_changes_nothing_else(toy, data_set):
    # The store of `all` has everything: nothing is made again.
    folder = build(toy, "all_afp", "data")
    rows = [json.loads(row) for row in content(folder)]
    for row in rows:
        pair = formats.FORMATS["afp"](row)
        assert (row.pop("prompt"), row.pop("target")) == pair
    assert sorted(map(json.dumps, rows)) == content(data_set)
    info = tfds.builder_from_directory(folder).info
    assert info.supervised_keys == ("prompt", "target")


def test_reading_loads_no_pipeline_no_tensorflow_and_no_jax(data_set):
    statement = (
        "import tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(data_set)!r})\n"
        "source = builder.as_data_source('train')\n"
        "assert len(source[0]['instruction']) > 10\n"
    )
    heavy = ("apache_beam", "jax", "tensorflow", "beam_pipelines", "xinst_jax")
    assert loaded_by(statement, heavy, Path("/")) == set()


def test_a_config_without_a_recipe_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    builder = builders.Builder(data_dir=tmp_path, config="sw")
    with pytest.raises(FileNotFoundError, match=r"x_instruction\.toml.*my\.toml"):
        builder._recipe_and_store(tmp_path)


def test_the_demo_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    builder = builders.Builder(data_dir=tmp_path, config="demo")
    recipe, root = builder._recipe_and_store(tmp_path)
    assert root == str(REPOSITORY / "out/demo/store")
    assert recipe.source.base.startswith(str(REPOSITORY))


def test_a_config_s_languages_are_checked():
    with pytest.raises(ValueError, match="'xx' is none of ours"):
        builders.XInstructionConfig(name="a", languages=["xx"])
    with pytest.raises(ValueError, match="expected a list"):
        builders.XInstructionConfig(name="a", languages="sw")


def test_the_formats_of_configs_are_those_that_a_web_page_suffices_for():
    fields = {field.name for field in dataclasses.fields(Example)}
    enough = [
        name
        for name, known in formats.FORMATS.items()
        if known.columns and fields.issuperset(known.columns)
    ]
    assert sorted(builders.FORMATS) == sorted(enough)
    configs = {config.name: config for config in builders.Builder.BUILDER_CONFIGS}
    for name in builders.FORMATS:
        assert configs[f"all_{name}"].format == name
    assert configs["all"].format == ""


def test_a_format_that_needs_a_translation_is_no_config(tmp_path):
    for name in ("plug", "crossin_x_en", "afp_translation", "no_format"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be built.*translation"):
            builders.XInstructionConfig(name="a", format=name)
    config = builders.XInstructionConfig(name="a", format="chat")
    features = builders.Builder(data_dir=tmp_path, config=config).info.features
    plain = builders.Builder(data_dir=tmp_path, config="all").info.features
    assert set(features) - set(plain) == {"prompt", "target"}
