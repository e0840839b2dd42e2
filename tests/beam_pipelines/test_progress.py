"""The line of a run: what it says follows from the store alone."""

import dataclasses
import io
import itertools
import logging
import random
import re

import pytest

from beam_pipelines import ingest, progress
from beam_pipelines import recipe as recipes
from beam_pipelines import store as stores
from beam_pipelines.progress import Line, Look, Pace, Progress, Watch
from beam_pipelines.schema import Candidate, Score
from beam_pipelines.warc import ByteRange

FILES = [("a.warc.gz", 1000), ("b.warc.gz", 3000)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def look(read=0, source=4000, documents=0, *, tokens=None, most=None, **rows):
    return Look(
        read=read,
        source=source,
        rows={"documents": documents, **rows},
        tokens=dict.fromkeys(rows, 0) | (tokens or {}),
        most=most or {},
    )


@pytest.fixture
def store(tmp_path):
    for name in ("generator", "evaluator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    recipe = recipes.Recipe(
        name="test",
        languages=("fi",),
        source=recipes.Source(warc=("*.warc.gz",)),
        generator=recipes.Generator(checkpoint=str(tmp_path / "generator")),
        evaluator=recipes.Evaluator(checkpoint=str(tmp_path / "evaluator")),
    )
    return stores.Store(str(tmp_path / "store"), recipe)


def watch(store, files=FILES, index=()):
    snapshot = stores.take_snapshot(store, [store.documents], files, index)
    return Watch(store, snapshot, store.candidates, [store.scores])


def read(store, path, start, stop, size):
    """A part of the documents, as if that range had been read; none are in it."""
    piece = ByteRange(path=path, size=size, start=start, stop=stop)
    facts = {"path": path, "bytes": min(stop, size) - start}
    stores.write_part(store.documents, ingest.part_name(piece), [], facts)


def candidates(number):
    row = {"instruction": "Say.", "generator": "g", "logprob": 0.0, "rejected": ""}
    return [row | {"key": f"k{n}"} for n in range(number)]


def scores(number):
    names = (field.name for field in dataclasses.fields(Score))
    row = dict.fromkeys(names, 0.0) | {"evidence": {}, "evaluator": "e"}
    row = {name: value for name, value in row.items() if name != "candidate"}
    return [row | {"rejected": "", "key": f"k{n}"} for n in range(number)]


def test_a_look_tells_what_the_parts_hold(store):
    seen = watch(store)
    assert seen.look() == look(candidates=0, scores=0, most={"scores": 0})
    read(store, "a.warc.gz", 0, 600, 1000)
    read(store, "b.warc.gz", 0, 3000, 3000)
    # Begins inside another part, is of a file that changed since, or of no file here.
    read(store, "b.warc.gz", 1000, 3000, 3000)
    read(store, "a.warc.gz", 600, 999, 999)
    read(store, "c.warc.gz", 0, 500, 500)
    stores.write_part(store.candidates[0], "x", candidates(3), {"rows": 3})
    facts = {"rows": 2, "tokens": 70}
    stores.write_part(store.candidates[0], "y", candidates(2), facts)
    stores.write_part(store.scores, "z", scores(4), facts)
    found = seen.look()
    assert (found.read, found.source, found.tokens["scores"]) == (3600, 4000, 70)
    assert found.rows == {"documents": 0, "candidates": 5, "scores": 4}
    # Until all is read, nobody knows how many candidates there will be.
    assert found.most == {"scores": 5}
    read(store, "a.warc.gz", 600, 1000, 1000)
    assert seen.look().is_read
    assert seen.look().most == {"scores": 5, "candidates": 0}


def test_each_part_is_opened_once(store, monkeypatch):
    opened = []
    footer = stores.read_footer
    monkeypatch.setattr(
        stores, "read_footer", lambda path: opened.append(path) or footer(path)
    )
    seen = watch(store)
    read(store, "a.warc.gz", 0, 600, 1000)
    for _ in range(3):
        seen.look()
    read(store, "a.warc.gz", 600, 1000, 1000)
    for _ in range(3):
        seen.look()
    assert len(opened) == len(set(opened)) == 2


def test_files_of_unknown_size_count_as_the_mean_of_the_others(store):
    names = [f"{n}.warc.gz" for n in range(4)]
    seen = watch(store, [(name, None) for name in names])
    assert seen.look().source is None
    assert "%" not in Line().text(seen.look(), 0)
    read(store, names[0], 0, 100, 100)
    assert seen.look().source == 400
    read(store, names[1], 0, 100, 300)
    assert seen.look().source == 800
    assert seen.look().read == 200


def test_files_of_the_index_are_counted_first(store):
    seen = watch(store, [], ["i0.parquet", "i1.parquet"])
    assert "index 0 of 2 files | " in Line().text(seen.look(), 0)
    for name in ("i0", "i1"):
        facts = {"path": name, "captures": 0}
        stores.write_part(store.captures, name, [], facts)
    assert seen.look().index == (2, 2)
    assert "index" not in Line().text(seen.look(), 0)


def test_an_empty_store_and_an_empty_source_are_no_trouble():
    for empty in (look(), look(source=0), look(source=None), look(candidates=0)):
        line = Line()
        for now in (0, 0, 1):
            assert "documents 0 from" in line.text(empty, now)


def test_the_line_of_a_whole_run():
    line = Line()

    def text(now, *args, **rows):
        return line.text(look(*args, **rows), now)

    nothing = {"candidates": 0, "scores": 0}
    assert text(0, 0, 4 * 10**9, **nothing) == (
        "documents: ? left | documents 0 from 0 % of 4.0 GB | candidates 0 | scores 0"
    )
    text(60, 1 * 10**9, 4 * 10**9, 40, **nothing)
    assert text(160, 2 * 10**9, 4 * 10**9, 80, **nothing) == (
        "documents: 3 min left | documents 80 from 50 % of 4.0 GB | candidates 0 | "
        "scores 0"
    )
    known = {"most": {"candidates": 160, "scores": 0}}
    assert text(360, 4 * 10**9, 4 * 10**9, 160, **nothing, **known) == (
        "candidates: ? left | documents 160 from 100 % of 4.0 GB | candidates 0 | "
        "scores 0"
    )
    for now, number in ((400, 16), (440, 32)):
        told = text(
            now,
            4 * 10**9,
            4 * 10**9,
            160,
            candidates=number,
            scores=0,
            tokens={"candidates": number * 1000},
            most={"candidates": 160, "scores": number},
        )
    assert told == (
        "candidates: at most 5 min left | documents 160 from 100 % of 4.0 GB | "
        "candidates 32 of at most 160, 0.4/s with 400 tokens/s | scores 0"
    )
    most = {"candidates": 160, "scores": 128}
    for now, number in ((900, 16), (920, 48)):
        told = text(
            now,
            4 * 10**9,
            4 * 10**9,
            160,
            candidates=128,
            scores=number,
            tokens={"candidates": 32000, "scores": number * 500},
            most=most,
        )
    assert told == (
        "scores: at most 50 s left | documents 160 from 100 % of 4.0 GB | "
        "candidates 128 | scores 48 of at most 128, 1.6/s with 800 tokens/s"
    )


def test_a_run_that_ends_with_documents_has_nothing_left_to_tell():
    line = Line()
    line.text(look(1000), 0)
    line.text(look(2000), 1)
    assert "documents: 1 s left" in line.text(look(3000), 2)
    assert line.text(look(4000), 3) == "documents 0 from 100 % of 0.0 MB"


def test_at_the_end_only_what_was_made_is_told():
    line, most = Line(), {"candidates": 9, "scores": 5}
    for now in range(4):
        seen = look(4000, candidates=5, scores=now, most=most)
        assert "left" in line.text(seen, now)
    assert line.text(seen, 4, at_end=True) == (
        "documents 0 from 100 % of 0.0 MB | candidates 5 | scores 3"
    )


def numbers(text: str) -> list[float]:
    found = re.findall(r"(?:documents|candidates|scores) ([\d,]+)|(\d+) %", text)
    return [float((a or b).replace(",", "")) for a, b in found]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_seen_no_number_falls_and_no_share_is_over_all(seed):
    rng, line, before = random.Random(seed), Line(), [0.0] * 4
    now = 0.0
    for _ in range(200):
        now += rng.choice([0, 0.1, 50])
        rows = {name: rng.randrange(10**12) for name in ("candidates", "scores")}
        seen = look(
            rng.randrange(5000),
            4000,
            rng.randrange(10**12),
            **rows,
            tokens={"scores": rng.randrange(10**15)},
            most={"candidates": rng.randrange(10), "scores": rng.randrange(10)},
        )
        text = line.text(seen, now)
        found = numbers(text)
        assert all(a >= b for a, b in zip(found, before, strict=True)), text
        assert found[1] <= 100
        assert "-" not in text and "inf" not in text and "nan" not in text
        before = found


def test_a_share_is_all_only_when_it_is():
    assert " 99 %" in Line().text(look(3999), 0)
    assert " 100 %" in Line().text(look(4000), 0)


def test_a_pace_needs_two_parts_and_the_first_adds_nothing():
    pace = Pace()
    pace.add(0, 500)
    assert pace.per_second(0) is None
    # Whatever the first part took, its time before is not known.
    pace.add(1, 1000)
    assert pace.per_second(1) is None
    pace.add(11, 1020)
    assert pace.per_second(11) == 2
    assert pace.per_second(20) == 2
    # Parts came every ten seconds; now none has come for a while.
    assert pace.per_second(41) == pytest.approx(20 / 30)
    for n in range(2, 100):
        pace.add(1 + 10 * n, 1000 + 40 * n)
    assert pace.per_second(991) == pytest.approx(4)


def test_a_terminal_has_one_line_and_is_left_below_it(store):
    stream = Terminal()
    clock = itertools.count().__next__
    log = logging.getLogger("xinst")
    handler = logging.StreamHandler(stream)
    log.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt), Progress(stream, clock) as shown:
            shown.watch(watch(store))
            read(store, "a.warc.gz", 0, 1000, 1000)
            shown.look()
            log.warning("something else")
            raise KeyboardInterrupt
        log.warning("after it")
    finally:
        log.removeHandler(handler)
    written = stream.getvalue()
    rows = written.split("\n")
    assert rows[-1] == ""
    # Each message has a row of its own, where the line was.
    assert any(row.endswith("\r\x1b[Ksomething else") for row in rows)
    assert rows[-2] == "after it"
    assert rows[-3].rpartition("\x1b[K")[2].startswith("documents 0 from 25 %")
    assert len(rows) == 4


def test_a_line_is_no_wider_than_the_terminal(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with Progress(stream) as shown:
        shown.watch(watch(store))
    lines = stream.getvalue().replace("\n", "").split("\r\x1b[K")[1:]
    assert lines and all(len(line) == 29 for line in lines)


def test_elsewhere_there_is_a_line_every_half_minute_and_one_at_the_end(store):
    stream, now = io.StringIO(), [0.0]
    with Progress(stream, lambda: now[0]) as shown:
        shown.watch(watch(store))
        for stop in (200, 400, 600, 800):
            read(store, "a.warc.gz", stop - 200, stop, 1000)
            now[0] += 14
            shown.look()
        assert stream.getvalue().count("\n") == 1
        read(store, "a.warc.gz", 800, 1000, 1000)
    lines = stream.getvalue().splitlines()
    assert [numbers(line)[1] for line in lines] == [15, 25]
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_store_that_cannot_be_read_just_now_ends_no_run(store, monkeypatch):
    def fail(stage):
        raise OSError("busy")

    seen = watch(store)
    monkeypatch.setattr(progress.stores, "part_names", fail)
    stream = io.StringIO()
    with Progress(stream) as shown:
        shown.watch(seen)
    assert stream.getvalue() == ""


def test_a_store_elsewhere_is_not_looked_at(store, monkeypatch):
    seen = watch(store)
    seen.is_local = False
    monkeypatch.setattr(Watch, "look", lambda self: pytest.fail("looked"))
    stream = io.StringIO()
    with Progress(stream) as shown:
        shown.watch(seen)
    assert stream.getvalue() == ""


def test_candidates_have_the_columns_that_are_written_here():
    names = {field.name for field in dataclasses.fields(Candidate)} - {"document"}
    assert names | {"key"} == candidates(1)[0].keys()
