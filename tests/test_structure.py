"""The shape of the house: who imports whom, and what is said twice."""

import dataclasses
import re
import tomllib

import pytest

from beam_pipelines import recipe as recipes
from beam_pipelines.schema import LANGUAGES, Example
from tests.conftest import REPOSITORY, loaded_by
from tfds_builder.x_instruction import x_instruction_dataset_builder as builder
from xinst_jax import prompts

HEAVY = ("apache_beam", "tensorflow", "jax", "beam_pipelines", "xinst_jax", "grain")


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import tfds_builder.x_instruction", set()),
        ("from xinst_jax import prompts", {"xinst_jax"}),
        ("import beam_pipelines.schema", {"beam_pipelines"}),
        ("import beam_pipelines.recipe", {"beam_pipelines"}),
        ("import beam_pipelines.members", {"beam_pipelines"}),
        ("import beam_pipelines.pipeline", {"beam_pipelines", "apache_beam"}),
        ("import xinst_jax.engine", {"xinst_jax", "jax"}),
        ("import xinst_jax.train", {"xinst_jax", "jax", "grain"}),
    ],
)
def test_an_import_loads_no_more_than_it_may(statement, allowed):
    assert loaded_by(statement, HEAVY) <= allowed


def test_the_engine_imports_nothing_of_ours():
    for file in (REPOSITORY / "xinst_jax").glob("*.py"):
        found = re.findall(
            r"^\s*(?:from|import) (beam_pipelines|tfds_builder)", file.read_text(), re.M
        )
        assert not found, file


def test_the_tables_of_languages_agree():
    assert tuple(LANGUAGES) == builder.LANGUAGES
    names = {code: language.name for code, language in LANGUAGES.items()}
    assert names == prompts.LANGUAGE_NAMES


def test_the_features_are_the_fields_of_an_example(tmp_path):
    features = builder.Builder(data_dir=tmp_path, config="all").info.features
    assert set(features) == {field.name for field in dataclasses.fields(Example)}


@pytest.mark.parametrize(
    "section",
    [
        recipes.Source,
        recipes.Documents,
        recipes.Training,
        recipes.Generator,
        recipes.Evaluator,
        recipes.Diversify,
    ],
)
def test_every_setting_is_read_somewhere(section):
    code = "\n".join(
        file.read_text()
        for file in (REPOSITORY / "beam_pipelines").glob("*.py")
        if file.name != "recipe.py"
    )
    own = (REPOSITORY / "beam_pipelines" / "recipe.py").read_text()
    for field in dataclasses.fields(section):
        used = re.search(rf"\.{field.name}\b", code)
        assert used or f".{field.name})" in own, field.name


def test_packages_and_pins_are_complete():
    setup = (REPOSITORY / "setup.py").read_text()
    for package in ("beam_pipelines", "tfds_builder.x_instruction", "xinst_jax"):
        assert f'"{package}"' in setup
    pins = (REPOSITORY / "constraints.txt").read_text().lower().replace("_", "-")
    wanted = re.findall(r'^ {4}"([\w-]+)(?:[\[>=].*)?",', setup, re.M)
    assert len(wanted) > 20
    for name in wanted:
        assert f"\n{name.lower().replace('_', '-')}==" in f"\n{pins}", name


def test_the_demo_recipe_is_one():
    path = REPOSITORY / "examples" / "demo.toml"
    assert recipes.load(path).languages == tuple(LANGUAGES)
    assert tomllib.loads(path.read_text())["name"] == "demo"
