"""From WARC to training loop through the commands that people type, at toy size."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from beam_pipelines import cli
from tests.conftest import REPOSITORY
from tfds_builder.x_instruction import x_instruction_dataset_builder as builders

# Few steps of a small model: it learns to write English, not what about.
TOY = {
    "steps = 300": "steps = 60",
    "steps = 200": "steps = 4",
    "examples/seed/*.jsonl": "seed.jsonl",
    "keep_above = 0.5": "keep_above = 0.0",
    "max_text_chars = 500": "max_text_chars = 120",
    "[diversify]": "batch_tokens = 2048\n[diversify]",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a crawl, trained checkpoints and a recipe."""
    folder = tmp_path_factory.mktemp("toy")
    path = REPOSITORY / "examples" / "make_crawl.py"
    spec = importlib.util.spec_from_file_location("make_crawl", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder / "out" / "demo" / "crawl")
    pairs = []
    for number in range(60):
        things = ("rice", "water", "maize")[number % 3]
        pairs.append(
            {
                "instruction": f"How do I keep {things} clean and safe?",
                "response": f"Maelezo ya {things} namba {number}. " * 6,
                "language": "sw",
            }
        )
    # Held out by a hash of the instruction: one more, so that both sides have some.
    pairs += [
        row | {"instruction": f"Tell me about no {i}."} for i, row in enumerate(pairs)
    ]
    (folder / "seed.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = (REPOSITORY / "examples" / "demo.toml").read_text()
    for old, new in TOY.items():
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
    rows = [
        json.dumps(
            {k: v.decode() if isinstance(v, bytes) else v.item() for k, v in e.items()}
        )
        for source in splits.values()
        for e in source
    ]
    return sorted(rows)


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


def test_reading_needs_no_pipeline(data_set):
    code = (
        "import sys\n"
        "for name in ('apache_beam', 'jax', 'tensorflow', 'beam_pipelines'):\n"
        "    sys.modules[name] = None\n"
        "import tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(data_set)!r})\n"
        "source = builder.as_data_source('train')\n"
        "print(len(source), source[0]['instruction'].decode())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert int(run.stdout.split()[0]) > 0


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
