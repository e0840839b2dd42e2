"""The whole path on the bundled pages, with an engine that answers at once."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import extract, store, warc
from beam_pipelines import pipeline as pipelines
from beam_pipelines import recipe as recipes
from beam_pipelines.schema import LANGUAGES, Example
from tests.conftest import REPOSITORY, calls, make_crawl


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    make_crawl().main(folder)
    return folder


@pytest.fixture
def recipe(crawl: Path, tmp_path: Path) -> recipes.Recipe:
    for name in ("generator", "evaluator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return recipes.Recipe(
        name="test",
        languages=tuple(LANGUAGES),
        source=recipes.Source(warc=("*.warc.gz",), base=str(crawl)),
        generator=recipes.Generator(checkpoint=str(tmp_path / "generator")),
        evaluator=recipes.Evaluator(
            checkpoint=str(tmp_path / "evaluator"),
            evidence=("forward", "backward"),
            keep_above=0.2,
        ),
        diversify=recipes.Diversify(validation=0.1, test=0.1),
    )


def run(
    recipe: recipes.Recipe,
    root: Path,
    until: str = "examples",
    *flags: str,
    before_running=lambda: None,
) -> dict[str, dict]:
    """The records of a stage by id, as plain values."""
    options = PipelineOptions(["--runner=FnApiRunner", *flags])
    of_recipe = store.Store(str(root), recipe)
    of_recipe.open()
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    with beam.Pipeline(options=options) as pipeline:
        path = pipelines.Path(pipeline, recipe, of_recipe, until=until)
        _ = (
            getattr(path, until)
            | beam.Map(lambda record: json.dumps(dataclasses.asdict(record)))
            | beam.io.WriteToText(str(out / "records"))
        )
        before_running()
    lines = [line for f in out.iterdir() for line in f.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    by_id = {_id(record): record for record in records}
    assert len(by_id) == len(records), "an id occurs twice"
    return by_id


def _id(record: dict) -> str:
    while "id" not in record:
        record = record.get("candidate") or record["document"]
    return record["id"]


def parts(root: Path, stage: str) -> list[Path]:
    return sorted((root / stage).rglob("*.parquet"))


def test_every_language_reaches_the_data_set_and_neighbours_do_not(
    recipe, tmp_path, fake_engine
):
    examples = run(recipe, tmp_path / "store")
    pages = {
        f"https://{page['domain']}{page['path']}": page["language"]
        for file in (REPOSITORY / "examples" / "pages").glob("*.jsonl")
        for page in map(json.loads, file.read_text().splitlines())
    }
    found = {
        (e["output_language"], pages.get(e["url"].replace("mirror-", "")))
        for e in examples.values()
    }
    assert found == {(code, code) for code in LANGUAGES}


def test_an_example_leads_back_to_its_page(recipe, crawl, tmp_path, fake_engine):
    for example in run(recipe, tmp_path / "store").values():
        content = (crawl / example["warc_file"]).read_bytes()
        page = warc.read_page(
            io.BytesIO(content),
            len(content),
            example["warc_file"],
            example["warc_offset"],
            example["warc_length"],
        )
        assert page.url == example["url"]
        assert example["id"].partition(".")[0] == page.id
        html = extract.all_text(extract.decode(page.body, page.charset))
        first = example["output"].split("\n")[0]
        assert first[:40] in extract.tidy(html)


def test_a_second_run_makes_nothing_and_gives_the_same(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    first = run(recipe, root)
    made = calls(fake_engine)
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}
    assert run(recipe, root) == first
    assert calls(fake_engine) == made
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.parquet")} == written


def test_what_is_missing_is_made_again_and_nothing_else(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    flags = ("--engine_batch_size=16",)
    first = run(recipe, root, "examples", *flags)
    before = calls(fake_engine)
    lost = parts(root, "candidates")[0]
    rows = len(store.read_part(str(lost)).rows)
    lost.unlink()
    parts(root, "documents")[0].unlink()
    assert run(recipe, root, "examples", *flags) == first
    assert calls(fake_engine)["generate"] - before["generate"] == rows
    assert calls(fake_engine)["score"] == before["score"]


def test_a_part_that_appears_while_running_is_not_taken_for_done(
    recipe, tmp_path, fake_engine
):
    """What a retried bundle sees: its own part is in the folder already."""
    root, other = tmp_path / "store", tmp_path / "other"
    run(recipe, root, "documents")
    whole = run(recipe, other, "candidates")

    def another_worker_commits() -> None:
        for part in parts(other, "candidates"):
            target = root / part.relative_to(other)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(part, target)

    found = run(recipe, root, "candidates", before_running=another_worker_commits)
    assert found == whole


def test_a_record_in_two_parts_counts_once(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    first = run(recipe, root)
    for stage in ("documents", "candidates", "scores"):
        part = parts(root, stage)[0]
        # A document part is named by its range; a retry may have ended elsewhere.
        name = (
            f"{part.stem[:-15]}{int(part.stem[-15:]) - 1:015}.parquet"
            if stage == "documents"
            else f"retry{part.name}"
        )
        shutil.copy(part, part.with_name(name))
    assert run(recipe, root) == first


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_sizes_change_nothing(recipe, tmp_path, fake_engine, batch_size):
    examples = run(recipe, tmp_path / "a")
    flag = f"--engine_batch_size={batch_size}"
    assert run(recipe, tmp_path / "b", "examples", flag) == examples


def test_a_new_threshold_costs_no_generation(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    many = run(recipe, root)
    made = calls(fake_engine)
    strict = dataclasses.replace(recipe.evaluator, keep_above=0.6)
    few = run(dataclasses.replace(recipe, evaluator=strict), root)
    assert set(few) < set(many)
    assert all(example["score"] > 0.6 for example in few.values())
    assert calls(fake_engine) == made


def test_a_new_rule_on_instructions_costs_no_generation(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    many = run(recipe, root)
    made = calls(fake_engine)
    longest = max(len(example["instruction"]) for example in many.values())
    strict = recipes.Instructions(max_chars=longest - 1)
    few = run(dataclasses.replace(recipe, instructions=strict), root)
    assert set(few) < set(many)
    assert all(len(example["instruction"]) < longest for example in few.values())
    assert run(recipe, root) == many
    assert calls(fake_engine) == made
    # Nothing is lost for a rule: all of them are stored.
    stored = run(dataclasses.replace(recipe, instructions=strict), root, "candidates")
    assert not any(candidate["rejected"] for candidate in stored.values())


def test_a_quota_is_kept_and_what_it_cost_is_counted(recipe, tmp_path, fake_engine):
    root = tmp_path / "store"
    everything = run(recipe, root)
    quota = dataclasses.replace(recipe.diversify, examples_per_language=4)
    few = run(dataclasses.replace(recipe, diversify=quota), root)
    languages = [example["output_language"] for example in few.values()]
    assert {code: languages.count(code) for code in LANGUAGES} == dict.fromkeys(
        LANGUAGES, 4
    )
    counts = [json.loads(p.read_text()) for p in root.rglob("not_chosen.json")]
    assert max(sum(n for _, _, n in rows) for rows in counts) == len(everything) - 40


def test_no_split_is_empty_and_no_domain_is_in_two(recipe, tmp_path, fake_engine):
    splits: dict[str, set[str]] = {}
    for share in (0.001, 0.3):
        diversify = recipes.Diversify(validation=share, test=share)
        varied = dataclasses.replace(recipe, diversify=diversify)
        splits = {"train": set(), "validation": set(), "test": set()}
        for example in run(varied, tmp_path / "store").values():
            splits[example["split"]].add(example["domain"])
        assert all(splits.values())
        assert sum(map(len, splits.values())) == len(set.union(*splits.values()))
    assert len(splits["validation"]) > 5


def test_a_poison_document_costs_itself(recipe, tmp_path, fake_engine):
    of_recipe = store.Store(str(tmp_path / "store"), recipe)
    run(recipe, tmp_path / "store", "documents")
    part_file = parts(tmp_path / "store", "documents")[0]
    part = store.read_part(str(part_file))
    # A page of its own: neither an older capture nor one of several with its text.
    row = next(row for row in part.rows if "mirror" not in row["url"])
    row |= {"text": f"POISON {row['text']}", "date": "2026-02-01T00:00:00Z"}
    store.write_part(of_recipe.documents, part_file.stem, part.rows, part.facts)
    candidates = run(recipe, tmp_path / "store", "candidates")
    failed = [c for c in candidates.values() if c["rejected"]]
    assert [c["document"]["id"] for c in failed] == [row["id"]]
    assert failed[0]["rejected"] == "failed: the prompt is poison"


def test_a_store_of_another_recipe_is_refused(recipe, tmp_path):
    store.Store(str(tmp_path), recipe).open()
    other = dataclasses.replace(recipe, name="other")
    with pytest.raises(store.StoreError, match="holds the work of recipe 'test'"):
        store.Store(str(tmp_path), other).open()


def test_a_changed_recipe_is_told(recipe, tmp_path):
    store.Store(str(tmp_path), recipe).open()
    changed = dataclasses.replace(recipe, documents=recipes.Documents(min_chars=300))
    assert store.Store(str(tmp_path), changed).open() == [
        "documents.min_chars: 200 -> 300"
    ]


def test_a_pattern_without_files_is_an_error(recipe, tmp_path):
    nothing = dataclasses.replace(recipe, source=recipes.Source(warc=("no/*.gz",)))
    with pytest.raises(ValueError, match=r"'no/\*\.gz' matches no file"):
        run(nothing, tmp_path)


def test_features_are_the_fields_of_an_example():
    values = {
        field.name: field.type() if field.type in (int, float, str) else None
        for field in dataclasses.fields(Example)
    }
    key, features = pipelines.to_features(Example(**values | {"id": "x"}))
    assert key == "x"
    assert features == values | {"id": "x"}
