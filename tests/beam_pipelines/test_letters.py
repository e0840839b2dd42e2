"""What `xinst run` leaves of what it dropped: enough to find it, and to try again."""

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from warcio.warcwriter import WARCWriter

from beam_pipelines import cli, funnel, ingest, letters, report, store, warc
from beam_pipelines import recipe as recipes
from beam_pipelines.schema import Document, from_row
from tests.conftest import calls, make_crawl

RECIPE = """name = "test"
languages = ["fi", "sw", "ta"]
[source]
warc = ["*.warc.gz"]
base = "{folder}/crawl"
[generator]
checkpoint = "{folder}/generator"
[evaluator]
checkpoint = "{folder}/evaluator"
evidence = ["forward", "backward"]
keep_above = 0.6
[quality]
min_mean_line = 60.0
"""
NUM_FILES = 2


def write_crawl(folder: Path) -> None:
    folder.mkdir()
    pages = [
        p for p in make_crawl().read_pages() if p["language"] in ("fi", "sw", "et")
    ]
    for number in range(NUM_FILES):
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        for page in pages[number::NUM_FILES]:
            make_crawl().write_triple(writer, page)
        content = buffer.getvalue()
        if number:
            content = make_crawl().damage(content)
        (folder / f"{number}.warc.gz").write_bytes(content)


@pytest.fixture
def recipe(tmp_path, fake_engine) -> Path:
    write_crawl(tmp_path / "crawl")
    for name in ("generator", "evaluator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path / "store")


def run(recipe: Path, root: str, until: str) -> int:
    flags = ["--runner=FnApiRunner", "--engine_batch_size=4"]
    return cli.main(["run", str(recipe), "--store", root, "--until", until, *flags])


def read(root: str, stage: str) -> list[dict]:
    path = Path(root) / letters.FOLDER / f"{stage}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def poison(recipe: Path, root: str) -> str:
    """Makes one stored text one that no model takes; returns its document's id."""
    settings = recipes.load(recipe)
    stage, judge = store.Store(root, settings).documents, ingest.Judge(settings)
    part = next(store.read_stage(stage))
    row = next(
        row
        for row in part.rows
        if "mirror" not in row["url"] and not judge.reason(from_row(Document, row))
    )
    row |= {"text": f"POISON {row['text']}", "date": "2026-02-01T00:00:00Z"}
    store.write_part(stage, Path(part.path).stem, part.rows, part.facts)
    return row["id"]


def test_every_reason_has_a_letter_and_no_other_has(recipe, root, capsys):
    assert run(recipe, root, "documents") == 0
    poison(recipe, root)
    capsys.readouterr()
    assert run(recipe, root, "scores") == 0
    told = capsys.readouterr().out
    found = funnel.read_funnel(root)
    for name in letters.STAGES:
        step = found.step(name)
        expected = {r for r, n in step.dropped.items() if n}
        if name == "documents":
            expected |= {(d.reason, "") for d in found.reading.damage}
            assert ("damaged", "") in expected
        written = read(root, name)
        assert {(x["reason"], x["language"]) for x in written} == expected
        assert f"{name} {len(written)}" in told
    assert expected
    assert letters.FOLDER in told
    assert letters.FOLDER in report.page(found)


def test_a_letter_leads_to_the_page_and_to_the_part(recipe, root):
    run(recipe, root, "scores")
    folder = recipe.parent / "crawl"
    every = [x for name in letters.STAGES for x in read(root, name)]
    with_page = [x for x in every if x["url"]]
    assert len(with_page) > len(every) / 2
    for letter in with_page:
        stream = io.BytesIO((folder / letter["file"]).read_bytes())
        size = len(stream.getvalue())
        pages = warc.read_pages(
            stream, size, "", letter["offset"], lambda at, o=letter["offset"]: at <= o
        )
        assert next(pages).url == letter["url"]
    for letter in every:
        assert (Path(root) / letter["part"]).is_file()
    assert all(x["detail"] for x in every)


def test_what_failed_is_made_again_without_its_part(recipe, root, fake_engine):
    run(recipe, root, "documents")
    poisoned = poison(recipe, root)
    run(recipe, root, "candidates")
    (letter,) = [x for x in read(root, "candidates") if x["reason"] == "failed"]
    assert letter["id"] == poisoned
    assert letter["detail"] == "the prompt is poison"
    before = calls(fake_engine)["generate"]
    run(recipe, root, "candidates")
    assert calls(fake_engine)["generate"] == before
    part = Path(root) / letter["part"]
    rows = len(store.read_part(str(part)).rows)
    part.unlink()
    run(recipe, root, "candidates")
    assert calls(fake_engine)["generate"] == before + rows


def test_parts_say_what_their_results_took(recipe, root, fake_engine):
    run(recipe, root, "candidates")
    made = store.Store(root, recipes.load(recipe))
    found = [part.facts for part in store.read_stage(made.candidates[0])]
    assert len(found) > 3
    # The fake engine says the same of every call, and each part is one.
    for facts in found:
        assert (facts["tokens"], facts["device_seconds"]) == (4, 0.5)
    assert all(part.facts["seconds"] > 0 for part in store.read_stage(made.documents))


def test_an_unreadable_file_is_a_letter_until_it_can_be_read(
    recipe, root, monkeypatch, capsys
):
    from beam_pipelines import warc as reader

    def fails(root_, path):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(reader, "open_file", fails)
        assert run(recipe, root, "documents") == 1
    assert "could not be read" in capsys.readouterr().err
    written = read(root, "documents")
    assert {(x["file"], x["part"]) for x in written} == {
        (f"{number}.warc.gz", "") for number in range(NUM_FILES)
    }
    assert all("the disk is gone" in x["detail"] for x in written)
    assert run(recipe, root, "documents") == 0
    assert not any("the disk is gone" in x["detail"] for x in read(root, "documents"))


def test_letters_are_bounded_and_the_same_each_time(recipe, root):
    run(recipe, root, "scores")
    found = funnel.read_funnel(root)
    before = {name: read(root, name) for name in letters.STAGES}
    assert letters.write(found) == {name: len(x) for name, x in before.items()}
    assert {name: read(root, name) for name in letters.STAGES} == before
    stage = store.Store(root, recipes.load(recipe)).documents
    # The same drops again and again, of other places.
    part = next(store.read_stage(stage))
    sample = part.facts["samples"][0]
    samples = [sample | {"offset": n} for n in range(100)]
    store.write_part(stage, Path(part.path).stem, [], part.facts | {"samples": samples})
    store_now = funnel.read_funnel(root)
    letters.write(dataclasses.replace(store_now, refused=()))
    groups = Counter((x["reason"], x["language"]) for x in read(root, "documents"))
    assert 3 < groups[sample["reason"], sample["language"]] <= 20
    assert read(root, "candidates") == []


def test_nothing_dropped_says_nothing():
    assert letters.as_text("s", dict.fromkeys(letters.STAGES, 0)) == ""
