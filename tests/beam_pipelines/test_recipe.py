"""Recipes: what is refused and in which words, and what each hash stands for."""

import dataclasses
import json
import math
import os
import tomllib
import typing

import pytest

from beam_pipelines import recipe as recipes
from beam_pipelines.recipe import (
    Diversify,
    Documents,
    Evaluator,
    Generator,
    Instructions,
    Quality,
    Recipe,
    RecipeError,
    Refine,
    Source,
    Thresholds,
    Training,
)
from beam_pipelines.schema import LANGUAGES

SMALLEST = """
name = "small"
languages = ["sw", "fi"]
[source]
warc = ["a.warc.gz"]
[generator]
checkpoint = "models/generator"
[evaluator]
checkpoint = "models/evaluator"
"""
OF_A_CRAWL = {"source.crawl", "source.kind", "source.index", "source.max_files"}
EVERYTHING = """
name = "all"
languages = ["ur", "sw"]
seed = 7
[source]
warc = ["a.warc.gz", "b.warc.gz"]
wet = ["c.wet.gz"]
base = "https://data.example"
leave_out = ["optout.txt"]
[documents]
min_chars = 100
max_chars = 900
max_pieces = 2
[quality]
max_policy_words = 5.0
min_mean_line = 20.0
[quality.ur]
min_mean_line = 25.0
min_script = 0.5
[generator]
checkpoint = "g"
dtype = "bfloat16"
quantize = "int8"
max_prompt_tokens = 4096
max_text_chars = 700
max_new_tokens = 99
temperature = 0.5
top_k = 11
top_p = 0.9
no_repeat_ngram = 6
candidates = 3
[generator.train]
data = ["x.jsonl"]
base = "b"
steps = 3
batch_tokens = 512
accumulate = 2
learning_rate = 0.5
lora_rank = 8
dtype = "bfloat16"
held_out = 0.25
word_dropout = 0.125
vocabulary = 300
width = 64
layers = 2
heads = 2
[instructions]
rules = ["not_english", "ill_posed"]
min_chars = 20
max_chars = 300
max_copied = 0.25
max_leaked = 0.75
[evaluator]
checkpoint = "e"
dtype = "bfloat16"
quantize = "fp8"
max_prompt_tokens = 1024
max_text_chars = 600
evidence = ["language", "backward"]
keep_above = 0.75
[evaluator.train]
data = ["y.jsonl"]
[refine]
rounds = 2
min_gain = 0.02
kept_per_language = 40
steps = 9
[diversify]
examples_per_language = 12
clusters = 4
max_per_domain = 3
max_verb_share = 0.5
validation = 0.2
test = 0.3
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return recipes.load(path)

    return load


def small(**change: object) -> Recipe:
    whole = {
        "name": "small",
        "languages": ("sw", "fi"),
        "source": Source(warc=("a.warc.gz",)),
        "generator": Generator(checkpoint="models/generator"),
        "evaluator": Evaluator(checkpoint="models/evaluator"),
    }
    return Recipe(**(whole | change))


# Loading.


def test_what_a_recipe_leaves_out_has_its_default(load):
    assert load(SMALLEST) == small()


def test_every_key_of_a_recipe_arrives_in_its_field(load):
    loaded = load(EVERYTHING)
    written = tomllib.loads(EVERYTHING)
    written["languages"] = ["sw", "ur"]

    def compare(section: object, table: dict, where: str) -> None:
        for field in dataclasses.fields(section):
            if where == "evaluator.train." and field.name != "data":
                continue  # Like generator.train.
            if field.name == "quality":
                continue  # For all languages or one: see below.
            if f"{where}{field.name}" in OF_A_CRAWL:
                continue  # Instead of files: see below.
            value = getattr(section, field.name)
            assert field.name in table, f"add {where}{field.name} to EVERYTHING"
            if dataclasses.is_dataclass(value):
                compare(value, table[field.name], f"{where}{field.name}.")
            else:
                value = list(value) if isinstance(value, tuple) else value
                assert value == table[field.name], field.name
                assert type(value) is type(table[field.name]), field.name

    compare(loaded, written, "")


def test_every_key_of_a_crawl_arrives_in_its_field(load):
    written = {"crawl": "CC-MAIN-2026-04", "index": True, "max_files": 3}
    lines = '[source]\ncrawl = "CC-MAIN-2026-04"\nindex = true\nmax_files = 3\n'
    before, after = EVERYTHING.partition("[source]")[0], EVERYTHING.index("[documents]")
    assert load(before + lines + EVERYTHING[after:]).source == Source(**written)
    wet = lines.replace("index = true", 'kind = "wet"')
    assert load(before + wet + EVERYTHING[after:]).source.kind == "wet"
    assert {f"source.{name}" for name in (*written, "kind")} == OF_A_CRAWL


def test_an_index_chooses_documents_of_its_own(whole):
    crawl = Source(crawl="CC-MAIN-2026-04")
    of_files = dataclasses.replace(whole, source=crawl)
    assert changed(whole, of_files) == NOTHING
    for more in ({"kind": "wet"}, {"max_files": 9}, {"crawl": "CC-MAIN-2025-51"}):
        other = dataclasses.replace(crawl, **more)
        assert changed(whole, dataclasses.replace(whole, source=other)) == NOTHING
    indexed = dataclasses.replace(crawl, index=True)
    assert changed(whole, dataclasses.replace(whole, source=indexed)) == DOCUMENTS


THRESHOLDS = [field.name for field in dataclasses.fields(Thresholds)]


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_is_set_for_all_languages_or_for_one(load, name):
    default = Quality()
    value, other = (30.0, 40.0) if name == "max_mean_word" else (0.5, 1.0)
    for_all, for_one = f"[quality]\n{name} = {{}}\n", f"[quality.sw]\n{name} = {{}}\n"
    everywhere = load(SMALLEST + for_all.format(value)).quality
    swahili = load(SMALLEST + for_one.format(value)).quality
    both = load(SMALLEST + for_all.format(other) + for_one.format(value)).quality
    for code in LANGUAGES:
        with_value = dataclasses.replace(default.of(code), **{name: value})
        with_other = dataclasses.replace(default.of(code), **{name: other})
        assert everywhere.of(code) == with_value
        assert swahili.of(code) == (with_value if code == "sw" else default.of(code))
        assert both.of(code) == (with_value if code == "sw" else with_other)


def test_what_is_set_for_one_language_comes_before_what_is_set_for_all(load):
    quality = load(EVERYTHING).quality
    assert (quality.ur.min_mean_line, quality.sw.min_mean_line) == (25.0, 20.0)
    assert (quality.ur.min_script, quality.sw.min_script) == (0.5, 0.8)
    assert quality.ur.max_policy_words == quality.th.max_policy_words == 5.0
    # What is set for all languages is set for Thai too, whatever its default.
    assert Quality().th.min_ended_lines == 0.0
    assert load(SMALLEST + "[quality]\nmin_ended_lines = 0.2\n").quality == (
        Quality(
            **{
                code: dataclasses.replace(Quality().of(code), min_ended_lines=0.2)
                for code in LANGUAGES
            }
        )
    )


def test_every_language_has_thresholds_of_its_own():
    assert [field.name for field in dataclasses.fields(Quality)] == list(LANGUAGES)
    found = [Quality().of(code) for code in LANGUAGES]
    assert len(set(found)) == len(LANGUAGES)
    # A whole number would hash otherwise than the same number out of a file.
    assert all(type(getattr(t, name)) is float for t in found for name in THRESHOLDS)


def test_a_recipe_comes_back_from_its_canonical_form(load):
    for text in (SMALLEST, EVERYTHING):
        loaded = load(text)
        assert recipes.from_table(recipes.canonical(loaded)) == loaded


def test_a_whole_number_serves_for_a_number(load):
    loaded = load(SMALLEST + "keep_above = 1\n")
    assert loaded.evaluator.keep_above == 1.0
    assert type(loaded.evaluator.keep_above) is float


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SMALLEST + "keep_over = 1\n", ["evaluator.keep_over", "'keep_above'"]),
        ("sead = 3\n" + SMALLEST, ["'sead'", "'seed'"]),
        (SMALLEST + "[evaluator.train]\nstep = 3\n", ["train.step'", "'steps'"]),
        (SMALLEST + "[document]\nmin_chars = 3\n", ["'document'", "'documents'"]),
        (SMALLEST + "[documents]\nmin_char = 3\n", ["documents.min_char'", "chars"]),
        (SMALLEST + "[quality]\nmin_scrip = 1\n", ["quality.min_scrip'", "min_script"]),
        (SMALLEST + "[quality.sw]\nmin_scrip = 1\n", ["quality.sw.min_scrip'"]),
        (SMALLEST + "[quality.swa]\nmin_script = 1\n", ["quality.swa'", "'sw'"]),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_known_one(load, text, parts):
    with pytest.raises(RecipeError, match=r"unknown key .* Did you mean") as caught:
        load(text)
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_key_like_no_other_is_refused_with_all_known_ones(load):
    with pytest.raises(RecipeError) as caught:
        load("zzzz = 1\n" + SMALLEST)
    message = str(caught.value)
    assert "Did you mean" not in message
    assert all(field.name in message for field in dataclasses.fields(Recipe))


@pytest.mark.parametrize(
    ("line", "key", "kind"),
    [
        ("name", "name", "a string"),
        ("languages", "languages", "a list, each item a string"),
        ("[source]", "source", "a table"),
        ("[generator]", "generator", "a table"),
        ("[evaluator]", "evaluator", "a table"),
        ("checkpoint", "generator.checkpoint", "a string"),
    ],
)
def test_a_missing_key_is_named_with_what_it_is(load, line, key, kind):
    lines = SMALLEST.splitlines()
    at = next(n for n, text in enumerate(lines) if text.startswith(line))
    # A table goes with the one key in it.
    del lines[at : at + (2 if line.startswith("[") else 1)]
    with pytest.raises(RecipeError) as caught:
        load("\n".join(lines))
    assert f"key {key!r} is missing; it is {kind}." in str(caught.value)


@pytest.mark.parametrize(
    ("section", "line", "key", "kind"),
    [
        ("", "seed = true", "seed", "a whole number"),
        ("", "seed = 1.0", "seed", "a whole number"),
        ("", 'seed = "1"', "seed", "a whole number"),
        ("", "seed = []", "seed", "a whole number"),
        ("", "documents = 3", "documents", "a table"),
        ("", "documents = []", "documents", "a table"),
        ("quality", "min_script = true", "quality.min_script", "a number"),
        ("quality", "min_script = {}", "quality.min_script", "a number"),
        ("quality", "sw = 0.5", "quality.sw", "a table"),
        ("quality.sw", 'min_script = "0.5"', "quality.sw.min_script", "a number"),
        ("documents", "min_chars = 200.0", "documents.min_chars", "a whole number"),
        ("documents", "min_chars = {}", "documents.min_chars", "a whole number"),
        ("generator.train", 'data = "x"', "generator.train.data", "a list"),
        ("generator.train", "data = [1]", "generator.train.data", "a string"),
        ("generator.train", "base = 1", "generator.train.base", "a string"),
        ("diversify", "test = 2026-01-01", "diversify.test", "a number"),
    ],
)
def test_a_wrong_type_is_refused_by_key_value_and_type(load, section, line, key, kind):
    table = f"[{section}]\n{line}\n" if section else ""
    text = f"{line}\n{SMALLEST}" if not section else SMALLEST + table
    with pytest.raises(RecipeError) as caught:
        load(text)
    message = str(caught.value)
    value = tomllib.loads(line)[line.split()[0]]
    shown = value[0] if value and isinstance(value, list) else value
    assert f"key {key!r} is {shown!r}; expected {kind}" in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing = tmp_path / "none.toml"
    with pytest.raises(RecipeError, match=r"none\.toml: No such file"):
        recipes.load(missing)
    latin = tmp_path / "latin.toml"
    latin.write_bytes('name = "Äpfel"'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml is not UTF-8"):
        recipes.load(latin)
    broken = tmp_path / "broken.toml"
    broken.write_text("name = = 3")
    with pytest.raises(RecipeError, match=r"broken\.toml is no TOML.*line 1"):
        recipes.load(broken)


def test_a_bound_broken_in_a_file_names_the_file(load):
    with pytest.raises(RecipeError, match=r"recipe\.toml: Training needs steps >= 1"):
        load(SMALLEST + "[evaluator.train]\nsteps = 0\n")


# Bounds: section, values that break one, the rule, and values that just keep it.

NEEDED = {Generator: {"checkpoint": "c"}, Evaluator: {"checkpoint": "c"}}
UNBOUNDED = {
    *("max_mojibake", "max_lorem", "min_mean_line", "min_mean_word", "max_mean_word"),
    *("max_policy_words", "max_adult_words", "max_adult_url"),
}
BOUNDS = [
    (
        Generator,
        {"temperature": 0.0, "candidates": 2},
        "temperature > 0 with candidates > 1",
        {"temperature": 0.1, "candidates": 2},
    ),
    (Generator, {"candidates": 0}, "1 <= candidates <= 16", {"candidates": 1}),
    (Refine, {"rounds": 10}, "0 <= rounds <= 9", {"rounds": 9}),
    (Refine, {"min_gain": -0.1}, "0 <= min_gain <= 1", {"min_gain": 0.0}),
    (
        Refine,
        {"kept_per_language": 0},
        "kept_per_language >= 1",
        {"kept_per_language": 1},
    ),
    (Refine, {"steps": 0}, "steps >= 1", {"steps": 1}),
    (
        Evaluator,
        {"evidence": ("feeling",)},
        "evidence of forward, backward, similarity, language",
        {"evidence": ()},
    ),
    (
        Source,
        {"warc": (), "wet": (), "crawl": ""},
        "either paths in warc or wet, or a crawl",
        {"wet": ("a",)},
    ),
    (
        Documents,
        {"min_chars": 9, "max_chars": 8},
        "0 < min_chars <= max_chars",
        {"min_chars": 9, "max_chars": 9},
    ),
    (
        Documents,
        {"min_chars": 0, "max_chars": 2048},
        "0 < min_chars <= max_chars",
        {"min_chars": 1},
    ),
    (Documents, {"max_pieces": 0}, "max_pieces >= 1", {"max_pieces": 1}),
    (Training, {"steps": 0}, "steps >= 1", {"steps": 1}),
    (Training, {"batch_tokens": 255}, "batch_tokens >= 256", {"batch_tokens": 256}),
    (Training, {"accumulate": 0}, "accumulate >= 1", {"accumulate": 1}),
    (Training, {"lora_rank": -1}, "lora_rank >= 0", {"lora_rank": 0}),
    (
        Training,
        {"base": "", "lora_rank": 1},
        "a base with lora_rank",
        {"base": "b", "lora_rank": 1},
    ),
    (
        Training,
        {"dtype": "int8"},
        "dtype float32 or bfloat16",
        {"base": "b", "lora_rank": 1, "dtype": "bfloat16"},
    ),
    (
        Training,
        {"lora_rank": 0, "dtype": "bfloat16"},
        "dtype float32 without lora_rank",
        {"dtype": "float32"},
    ),
    (
        Training,
        {"learning_rate": 0.0},
        "0 < learning_rate < 1",
        {"learning_rate": 1e-9},
    ),
    (
        Training,
        {"learning_rate": math.nan},
        "0 < learning_rate < 1",
        {"learning_rate": 0.999},
    ),
    (Training, {"held_out": 0.0}, "0 < held_out < 1", {"held_out": 0.001}),
    (Training, {"held_out": 1.0}, "0 < held_out < 1", {"held_out": 0.999}),
    (Training, {"word_dropout": -0.1}, "0 <= word_dropout < 1", {"word_dropout": 0.0}),
    (Training, {"word_dropout": 1.0}, "0 <= word_dropout < 1", {"word_dropout": 0.99}),
    (
        Training,
        {"width": 10, "heads": 4},
        "width a multiple of heads",
        {"width": 12, "heads": 4},
    ),
    (Generator, {"dtype": "int8"}, "dtype float32 or bfloat16", {"dtype": "bfloat16"}),
    (Generator, {"max_text_chars": 0}, "max_text_chars >= 1", {"max_text_chars": 1}),
    (
        Generator,
        {"max_new_tokens": 0},
        "1 <= max_new_tokens <= 2048",
        {"max_new_tokens": 1},
    ),
    (
        Generator,
        {"max_new_tokens": 2049},
        "1 <= max_new_tokens <= 2048",
        {"max_new_tokens": 2048},
    ),
    (Generator, {"temperature": -0.1}, "0 <= temperature <= 10", {"temperature": 0.0}),
    (Generator, {"temperature": 10.1}, "0 <= temperature <= 10", {"temperature": 10.0}),
    (Generator, {"top_k": -1}, "top_k >= 0", {"top_k": 0}),
    (Generator, {"top_p": 0.0}, "0 < top_p <= 1", {"top_p": 0.001}),
    (Generator, {"top_p": 1.001}, "0 < top_p <= 1", {"top_p": 1.0}),
    (Generator, {"no_repeat_ngram": -1}, "no_repeat_ngram >= 0", {"top_k": 0}),
    *[
        case
        for section in (Generator, Evaluator)
        for case in (
            (section, {"quantize": "int4"}, "quantize int8 or fp8", {"quantize": ""}),
            (
                section,
                {"max_prompt_tokens": 8193},
                "1 <= max_prompt_tokens <= 8192",
                {"max_prompt_tokens": 8192},
            ),
        )
    ],
    (Evaluator, {"dtype": "half"}, "dtype float32 or bfloat16", {"dtype": "float32"}),
    (Evaluator, {"max_text_chars": 0}, "max_text_chars >= 1", {"max_text_chars": 1}),
    (Evaluator, {"keep_above": -0.1}, "0 <= keep_above <= 1", {"keep_above": 0.0}),
    (Evaluator, {"keep_above": 1.1}, "0 <= keep_above <= 1", {"keep_above": 1.0}),
    (
        Diversify,
        {"examples_per_language": 0},
        "examples_per_language >= 1",
        {"examples_per_language": 1},
    ),
    (Diversify, {"clusters": -1}, "clusters >= 0", {"clusters": 0}),
    *[
        (
            Instructions,
            {"min_chars": low, "max_chars": high},
            "0 < min_chars <= max_chars",
            {"min_chars": 1, "max_chars": 1},
        )
        for low, high in ((0, 1), (2, 1))
    ],
    *[
        (Instructions, {name: value}, f"0 <= {name} <= 1", {name: bound})
        for name in ("max_copied", "max_leaked")
        for value, bound in ((-0.1, 0.0), (1.1, 1.0))
    ],
    (Diversify, {"max_per_domain": 0}, "max_per_domain >= 1", {"max_per_domain": 1}),
    (
        Diversify,
        {"max_verb_share": 0.0},
        "0 < max_verb_share <= 1",
        {"max_verb_share": 1.0},
    ),
    *[
        (
            Diversify,
            broken,
            "validation >= 0, test >= 0 and validation + test < 1",
            {"validation": 0.0, "test": 0.999},
        )
        for broken in (
            {"validation": 0.5, "test": 0.5},
            {"validation": -0.1, "test": 0.0},
            {"validation": 0.0, "test": -0.1},
        )
    ],
]


@pytest.mark.parametrize(("section", "broken", "rule", "kept"), BOUNDS)
def test_a_bound_is_refused_by_key_value_and_bound(section, broken, rule, kept):
    needed = NEEDED.get(section, {})
    section(**needed | kept)
    with pytest.raises(RecipeError) as caught:
        section(**needed | broken)
    got = ", ".join(f"{name}={value!r}" for name, value in broken.items())
    assert str(caught.value) == f"{section.__name__} needs {rule}, got {got}."


@pytest.mark.parametrize("name", ["vocabulary", "width", "layers", "heads"])
@pytest.mark.parametrize("value", [0, -4])
def test_a_model_without_a_size_is_refused(name, value):
    with pytest.raises(RecipeError, match=rf"{name}={value}"):
        Training(**{name: value})


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_is_refused_outside_its_bounds(name):
    most = 1000 if name in UNBOUNDED else 1
    given = dataclasses.asdict(Quality().sw) | {"min_mean_word": 0.0}
    if name == "min_mean_word":
        given["max_mean_word"] = 1000.0
    for kept in (0.0, 0.5, float(most)):
        assert getattr(Thresholds(**given | {name: kept}), name) == kept
    for broken in (-0.001, most + 0.001, math.nan, math.inf):
        with pytest.raises(RecipeError) as caught:
            Thresholds(**given | {name: broken})
        assert str(caught.value) == (
            f"Thresholds needs 0 <= {name} <= {most}, got {name}={broken!r}."
        )


def test_words_may_not_be_longer_at_least_than_at_most():
    with pytest.raises(RecipeError, match=r"min_mean_word=9\.5, max_mean_word=9\.0"):
        dataclasses.replace(Quality().sw, min_mean_word=9.5)
    assert dataclasses.replace(Quality().sw, min_mean_word=9.0)


def test_languages_must_be_some_of_ours():
    with pytest.raises(RecipeError, match="at least one of languages, got languages="):
        small(languages=())
    with pytest.raises(RecipeError, match="'ms' is none of ours; choose from fi, id"):
        small(languages=("sw", "ms"))
    assert small(languages=tuple(LANGUAGES)).languages == tuple(LANGUAGES)


# Hashes.


def checkpoint(folder, weights: bytes = b"w") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "config.json": b"{}",
        "tokenizer.json": b"t",
        "generation_config.json": b"g",
        "model.safetensors": weights,
    }.items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture
def whole(tmp_path) -> Recipe:
    return small(
        # With a temperature, so that there may be several candidates.
        generator=Generator(checkpoint=checkpoint(tmp_path / "g"), temperature=0.7),
        evaluator=Evaluator(checkpoint=checkpoint(tmp_path / "e", b"e")),
    )


HASHES = ("documents", "candidates", "scores", "examples")


def hashes(recipe: Recipe) -> dict[str, str]:
    return {name: getattr(recipe, f"{name}_hash")() for name in HASHES}


def changed(recipe: Recipe, other: Recipe) -> set[str]:
    before, after = hashes(recipe), hashes(other)
    return {name for name in HASHES if before[name] != after[name]}


NOTHING: set[str] = set()
DOCUMENTS, CANDIDATES = {"documents", "examples"}, {"candidates", "examples"}
SCORES, EXAMPLES = {"scores", "examples"}, {"examples"}
# Every field of every section, another value, and the hashes that it changes.
FIELDS = {
    "name": ("other", NOTHING),
    "languages": (("sw",), DOCUMENTS),
    "seed": (1, CANDIDATES),
    "source.warc": (("b.warc.gz",), NOTHING),
    "source.wet": (("b.wet.gz",), NOTHING),
    "source.base": ("elsewhere", NOTHING),
    "source.leave_out": (("optout.txt",), NOTHING),
    "documents.min_chars": (199, DOCUMENTS),
    "documents.max_chars": (2047, DOCUMENTS),
    "documents.max_pieces": (3, DOCUMENTS),
    "generator.dtype": ("bfloat16", CANDIDATES),
    "generator.quantize": ("int8", CANDIDATES),
    "generator.max_prompt_tokens": (4096, CANDIDATES),
    "generator.max_text_chars": (2047, CANDIDATES),
    "generator.max_new_tokens": (127, CANDIDATES),
    "generator.temperature": (0.1, CANDIDATES),
    "generator.top_k": (1, CANDIDATES),
    "generator.top_p": (0.9, CANDIDATES),
    "generator.no_repeat_ngram": (6, CANDIDATES),
    "generator.candidates": (2, EXAMPLES),
    "generator.train": (Training(steps=3, data=("x",), base="b"), NOTHING),
    "instructions.rules": (("ill_posed",), EXAMPLES),
    "instructions.min_chars": (11, EXAMPLES),
    "instructions.max_chars": (499, EXAMPLES),
    "instructions.max_copied": (0.4, EXAMPLES),
    "instructions.max_leaked": (0.4, EXAMPLES),
    "evaluator.dtype": ("bfloat16", SCORES),
    "evaluator.quantize": ("fp8", SCORES),
    "evaluator.max_prompt_tokens": (1024, SCORES),
    "evaluator.max_text_chars": (2047, SCORES),
    "evaluator.evidence": (("similarity",), SCORES),
    "evaluator.keep_above": (0.6, EXAMPLES),
    "evaluator.train": (Training(width=64, layers=2), NOTHING),
    "refine.rounds": (1, NOTHING),
    "refine.min_gain": (0.02, NOTHING),
    "refine.kept_per_language": (40, NOTHING),
    "refine.steps": (9, NOTHING),
    "diversify.examples_per_language": (31999, EXAMPLES),
    "diversify.clusters": (8, EXAMPLES),
    "diversify.max_per_domain": (49, EXAMPLES),
    "diversify.max_verb_share": (0.26, EXAMPLES),
    "diversify.validation": (0.02, EXAMPLES),
    "diversify.test": (0.02, EXAMPLES),
}  # fmt: skip


def fields_of(cls: type) -> list[str]:
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        inner = fields_of(hint) if dataclasses.is_dataclass(hint) else []
        names += [f"{name}.{field}" for field in inner] or [name]
    return names


def test_the_table_of_hashes_names_every_field():
    of_training = {f for f in fields_of(Recipe) if ".train." in f}
    assert {field.rpartition(".")[0] for field in of_training} <= FIELDS.keys()
    # A checkpoint counts by its content: see below.
    by_content = {"generator.checkpoint", "evaluator.checkpoint"}
    of_quality = {f for f in fields_of(Recipe) if f.startswith("quality.")}
    assert len(of_quality) == len(LANGUAGES) * len(THRESHOLDS)
    assert FIELDS.keys() - {"generator.train", "evaluator.train"} == (
        set(fields_of(Recipe)) - of_training - by_content - of_quality - OF_A_CRAWL
    )


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changes_the_hashes_that_it_decides_and_no_others(name, whole):
    value, expected = FIELDS[name]
    section, _, field = name.rpartition(".")
    if section:
        before = getattr(whole, section)
        assert getattr(before, field) != value
        value = dataclasses.replace(before, **{field: value})
        field = section
    assert changed(whole, dataclasses.replace(whole, **{field: value})) == expected


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_changes_what_is_published_and_no_stored_document(name, whole):
    def with_moved(code: str) -> Recipe:
        own = whole.quality.of(code)
        moved = dataclasses.replace(own, **{name: getattr(own, name) + 0.0001})
        quality = dataclasses.replace(whole.quality, **{code: moved})
        return dataclasses.replace(whole, quality=quality)

    assert changed(whole, with_moved("sw")) == EXAMPLES
    # That of a language which is not made changes nothing at all.
    assert "th" not in whole.languages
    assert changed(whole, with_moved("th")) == NOTHING


def test_a_new_rule_is_measured_on_documents_anew(whole, monkeypatch):
    fields = dataclasses.fields(Thresholds)[1:]
    before = whole.documents_hash()
    real = dataclasses.fields
    monkeypatch.setattr(
        recipes.dataclasses,
        "fields",
        lambda section: fields if section is Thresholds else real(section),
    )
    assert whole.documents_hash() != before


@pytest.mark.parametrize(
    ("model", "file", "expected"),
    [
        ("generator", "model.safetensors", CANDIDATES),
        ("generator", "model-00002-of-00002.safetensors", CANDIDATES),
        ("generator", "config.json", CANDIDATES),
        ("generator", "tokenizer.json", CANDIDATES),
        ("generator", "generation_config.json", CANDIDATES),
        ("generator", "training_log.json", NOTHING),
        ("generator", "README.md", NOTHING),
        ("evaluator", "model.safetensors", SCORES),
        ("evaluator", "evaluation.json", NOTHING),
    ],
)
def test_a_checkpoint_counts_by_what_decides_its_output(model, file, expected, whole):
    before = hashes(whole)
    with open(os.path.join(getattr(whole, model).checkpoint, file), "ab") as stream:
        stream.write(b" ")
    after = hashes(whole)
    assert {name for name in HASHES if before[name] != after[name]} == expected


def test_a_checkpoint_counts_the_same_wherever_it_lies(whole, tmp_path):
    far = checkpoint(tmp_path / "far" / "away")
    moved = dataclasses.replace(whole.generator, checkpoint=far)
    assert changed(whole, dataclasses.replace(whole, generator=moved)) == NOTHING


def test_a_checkpoint_that_is_missing_is_named_with_what_to_do(tmp_path):
    with pytest.raises(RecipeError, match=r"config\.json.*xinst train"):
        recipes.checkpoint_digest(str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="models/generator"):
        small().candidates_hash()
    # Documents need no model.
    assert small().documents_hash()


def test_an_unknown_rule_is_refused_with_the_known_ones(load):
    with pytest.raises(RecipeError) as caught:
        load(SMALLEST + '[instructions]\nrules = ["too_dull"]\n')
    assert "'too_dull' is none of ours" in str(caught.value)
    assert all(rule in str(caught.value) for rule in recipes.INSTRUCTION_RULES)


def test_the_order_in_which_rules_are_listed_changes_nothing():
    one = Instructions(rules=("ill_posed", "not_english", "ill_posed"))
    assert one == Instructions(rules=("not_english", "ill_posed"))


def test_the_order_and_number_of_times_languages_are_listed_change_nothing(whole):
    for listed in [("fi", "sw"), ("sw", "fi"), ("sw", "fi", "sw")]:
        other = dataclasses.replace(whole, languages=listed)
        assert other == whole
        assert changed(whole, other) == NOTHING


def test_equal_recipes_have_equal_hashes_and_canonical_forms(whole):
    again = dataclasses.replace(whole)
    assert hashes(again) == hashes(whole)
    assert recipes.canonical(again) == recipes.canonical(whole)
    assert len(set(hashes(whole).values())) == 4


def test_a_hash_is_the_same_in_every_version(load):
    """Else a store's folders would not be found again."""
    assert small().documents_hash() == "f8efb1bcc24d6729"


def test_a_number_hashes_the_same_written_whole_or_not(load):
    section = "[quality]\nmin_mean_line = {}\n[quality.sw]\nmin_script = {}\n"
    one, other = (
        load(SMALLEST + section.format(*values)).quality
        for values in [("30", "1"), ("30.0", "1.0")]
    )
    assert json.dumps(recipes.canonical(one)) == json.dumps(recipes.canonical(other))


# Paths.


def test_relative_local_paths_are_taken_from_the_folder():
    training = Training(data=("seed/*.jsonl", "/s/a.jsonl"), base="models/base")
    recipe = small(
        generator=Generator(checkpoint="g", train=training),
        evaluator=Evaluator(
            checkpoint="/abs/e", train=Training(data=("t",), base="gs://b/m")
        ),
    )
    at = recipes.anchored(recipe, "/home/recipes")
    assert at.generator.checkpoint == "/home/recipes/g"
    assert at.generator.train.data == ("/home/recipes/seed/*.jsonl", "/s/a.jsonl")
    assert at.generator.train.base == "/home/recipes/models/base"
    assert at.evaluator.checkpoint == "/abs/e"
    assert at.evaluator.train.data == ("/home/recipes/t",)
    assert at.evaluator.train.base == "gs://b/m"
    # Records name their file without the base, so the paths themselves stay.
    assert at.source.warc == recipe.source.warc
    assert os.path.normpath(at.source.base) == "/home/recipes"


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("crawl", "/home/recipes/crawl"),
        ("/data", "/data"),
        ("https://data.example/x", "https://data.example/x"),
    ],
)
def test_the_base_of_the_source_is_taken_from_the_folder(base, expected):
    recipe = small(source=Source(warc=("a.warc.gz",), base=base))
    assert recipes.anchored(recipe, "/home/recipes").source.base == expected


def test_anchoring_changes_paths_alone_and_no_empty_one():
    recipe = small(seed=3, documents=Documents(min_chars=7))
    at = recipes.anchored(recipe, "/r")
    assert at.generator.train == at.evaluator.train == Training()
    assert at.documents_hash() == recipe.documents_hash()
    back = dataclasses.replace(
        at,
        source=recipe.source,
        generator=recipe.generator,
        evaluator=recipe.evaluator,
    )
    assert back == recipe
