"""A plan keeps its promise, on the bundled crawl and on crawls made of numbers."""

import dataclasses
import gzip
import io
import itertools
import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from beam_pipelines import cli, crawl, ingest, plan, warc
from beam_pipelines import recipe as recipes
from beam_pipelines.plan import Figure, choose_ranges, exactly, predict
from tests.conftest import make_crawl

LANGUAGES = ("fi", "ta", "ur", "sw")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    make_crawl().main(folder)
    # Two of four files are enough.
    for number in (0, 3):
        (folder / f"demo-{number:05}.warc.gz").unlink()
    return folder


@pytest.fixture
def recipe(pages, tmp_path):
    return recipes.Recipe(
        name="test",
        languages=LANGUAGES,
        source=recipes.Source(warc=("*.warc.gz",), base=str(pages)),
        generator=recipes.Generator(
            checkpoint=str(tmp_path / "g"), candidates=3, temperature=0.7
        ),
        evaluator=recipes.Evaluator(
            checkpoint=str(tmp_path / "e"),
            evidence=("forward", "backward"),
            keep_above=0.6,
        ),
    )


@pytest.fixture
def models(recipe, fake_engine):
    for settings in (recipe.generator, recipe.evaluator):
        Path(settings.checkpoint).mkdir()
        (Path(settings.checkpoint) / "config.json").write_text("{}")
    return recipe


def whole(recipe) -> Counter[str]:
    """What reading all of the source gives."""
    found, judge = Counter(), ingest.Judge(recipe)
    for path, size in crawl.source_files(recipe.source):
        with crawl.open_file(recipe.source.root, path) as stream:
            reading = ingest.Reading(recipe)
            for item in warc.read_pages(stream, size, path, 0, lambda at: True):
                reading.add(item)
        found["pages"] += reading.pages
        for document in reading.documents:
            if judge.reason(document) is None:
                found[document.language] += 1
    return found


@pytest.mark.parametrize("seed", range(20))
def test_ranges_lie_in_files_and_apart_and_are_as_many_as_asked_for(seed):
    rng = random.Random(seed)
    files = [(f"f{n}", rng.choice([0, 1, 10**5, 10**7])) for n in range(9)]
    total = sum(size for _, size in files)
    wanted = rng.randrange(1, 2 * total)
    ranges = choose_ranges(files, wanted, rng)
    sizes = dict(files)
    assert all(0 <= r.start < r.stop <= r.size == sizes[r.path] for r in ranges)
    places = sorted((r.path, r.start, r.stop) for r in ranges)
    for one, two in itertools.pairwise(places):
        assert one[0] != two[0] or one[2] <= two[1]
    read = sum(r.stop - r.start for r in ranges)
    assert max(r.stop - r.start for r in ranges) <= 1 << 20
    if wanted >= total:
        assert read == total
    elif wanted > 10**6:
        # The last cell of a file may be short.
        assert 0.7 * wanted < read < 1.2 * wanted
        assert len(ranges) >= min(64, total // (1 << 20))


def test_every_place_is_as_likely():
    files = [("a", 40_000), ("b", 120_000)]
    hits = Counter(
        (r.path, r.start)
        for seed in range(2000)
        for r in choose_ranges(files, 16_000, random.Random(seed))
    )
    assert len(hits) == 10 + 30
    expected = sum(hits.values()) / len(hits)
    assert all(abs(n / expected - 1) < 0.3 for n in hits.values())


def test_a_plan_that_reads_everything_is_exact(recipe):
    found, made = whole(recipe), predict(recipe, 10**9)
    assert found["pages"] > 50
    assert made.sampled == made.read.value > 200_000
    assert made.pages == exactly(found["pages"])
    for code in LANGUAGES:
        assert found[code] >= 3
        assert made.documents[code] == exactly(found[code])
    usable = sum(found[code] for code in LANGUAGES)
    assert made.usable == exactly(usable)
    assert made.candidates == exactly(3 * usable)
    assert made.kept is made.device_hours is made.money is None


def test_a_plan_of_a_part_is_near_and_the_same_each_time(recipe):
    found, made = whole(recipe), predict(recipe, 60_000)
    assert 0.15 < made.sampled / made.read.value < 0.3
    assert made.pages.low < found["pages"] < made.pages.high
    usable = sum(found[code] for code in LANGUAGES)
    assert made.usable.low < usable < made.usable.high
    again = predict(recipe, 60_000)
    assert (again.pages, again.documents) == (made.pages, made.documents)
    assert predict(recipe, 60_000, seed=1).documents != made.documents


def invented(rng: random.Random, number: int) -> list[plan._Read]:
    """Ranges of a crawl in which what is rare comes in clusters."""
    read = []
    for _ in range(number):
        num_pages = rng.randrange(2, 8)
        seconds = num_pages * rng.uniform(0.1, 0.2)
        counts = Counter({"pages": num_pages, "seconds": seconds})
        for name, share, times in (("common", 0.5, 2), ("rare", 0.02, 4)):
            counts[name] = times * sum(rng.random() < share for _ in range(num_pages))
        read.append(plan._Read(rng.randrange(800, 1000), counts, 0.0, [], []))
    return read


def test_figures_are_right_in_the_mean_and_within_bounds_nine_times_of_ten():
    every = invented(random.Random(0), 400)
    total = sum(r.num_bytes for r in every)
    actual = sum((r.counts for r in every), Counter())
    inside, ratio, trials = Counter(), Counter(), 150
    for seed in range(trials):
        found = plan._predicted(random.Random(seed).sample(every, 64), total)
        for name, value in actual.items():
            inside[name] += found[name].low <= value <= found[name].high
            ratio[name] += found[name].value / value
    for name in ("pages", "common", "seconds"):
        assert abs(ratio[name] / trials - 1) < 0.02
        assert 0.85 <= inside[name] / trials <= 0.96
    assert abs(ratio["rare"] / trials - 1) < 0.1
    assert inside["rare"] / trials >= 0.75


def test_what_is_in_no_range_may_still_be_there(recipe):
    read = invented(random.Random(0), 30)
    figure = plan._predicted(read, 10 * sum(r.num_bytes for r in read))["hidden"]
    assert (figure.value, figure.low) == (0, 0)
    # Of three expected, none is seen one time of twenty.
    assert 20 < figure.high < 40


def test_uncertainties_add_up():
    near, far = Figure(10, 9, 11), Figure(0.5, 0.1, 0.9)
    assert exactly(10) * exactly(3) == exactly(30)
    product = near * far
    assert product.value == 5
    assert product.high == pytest.approx(5 * (1 + math.hypot(0.1, 0.8)))
    assert product.low == pytest.approx(5 * (1 - math.hypot(0.1, 0.8)))
    assert (near * Figure(0, 0, 0.2)) == Figure(0, 0, 11 * 0.2)
    assert near + exactly(1) == Figure(11, 10, 12)


def test_models_that_are_there_are_tried(models):
    made = predict(models, 10**9, 8)
    assert made.num_tried == 8
    # The fake engine takes half a second a call: three to write, one to rate.
    seconds = made.usable.value * (3 + 1) * 0.5 / 8
    assert made.device_hours.value == pytest.approx(seconds / 3600)
    assert 0 < made.kept.low < made.kept.value < made.kept.high <= made.usable.value
    without = predict(models, 10**9, 0)
    assert without.kept is None
    assert made.stored.value > without.stored.value > 10_000
    text = plan.as_text(made)
    assert "tried on 8 documents" in text
    assert "kept pairs" in text and "kept pairs" not in plan.as_text(without)


def test_money_is_the_sum_of_what_has_a_price(models):
    prices = plan.prices_of(["cpu=36000", "accelerator=7200", "read=2e3", "stored=0"])
    made = predict(models, 10**9, 8, prices)
    expected = (
        made.cpu_hours.value * 36000
        + made.device_hours.value * 7200
        + made.read.value * 2e-6
    )
    assert made.money.value == pytest.approx(expected)
    assert "money" in plan.as_text(made)
    assert "money" not in plan.as_text(predict(models, 10**9, 0))
    with pytest.raises(ValueError, match="not known without checkpoints"):
        predict(models, 60_000, 0, {"accelerator": 1.0})


@pytest.mark.parametrize("price", ["cpu", "cpu=x", "cpu=-1", "cpu=inf", "gpu=1", "=1"])
def test_a_price_of_nothing_known_is_refused(price):
    with pytest.raises(ValueError, match="expected NAME=AMOUNT"):
        plan.prices_of([price])


class Counting(io.BytesIO):
    """A file of which it is known how much of it was fetched."""

    fetched = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        Counting.fetched += len(found)
        return found


def test_of_a_crawl_no_more_is_fetched_than_the_sample(
    recipe, pages, tmp_path, monkeypatch
):
    """As for Common Crawl: sizes are not known, and every byte is asked for."""
    folder, big = tmp_path / "mirror", tmp_path / "big"
    content = b"".join(p.read_bytes() for p in sorted(pages.iterdir()))
    big.write_bytes(content * 10)
    names = [f"crawl-data/C-1/{n}.warc.gz" for n in range(100)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).hardlink_to(big)
    listing = gzip.compress("\n".join(names).encode())
    (folder / "crawl-data" / "C-1" / "warc.paths.gz").write_bytes(listing)
    of_crawl = dataclasses.replace(
        recipe, source=recipes.Source(crawl="C-1", base=str(folder))
    )
    asked = []
    file_size = plan.file_size
    monkeypatch.setattr(
        plan,
        "file_size",
        lambda root, path: asked.append(path) or file_size(root, path),
    )
    monkeypatch.setattr(
        plan,
        "open_file",
        lambda root, path: Counting((Path(root) / path).read_bytes()),
    )
    Counting.fetched = 0
    sample = 500_000
    made = predict(of_crawl, sample)
    assert len(asked) == len(set(asked)) == 64
    assert made.num_files == 100
    assert made.read.value == pytest.approx(100 * 10 * len(content))
    # A record that begins in a range ends behind it.
    assert sample * 0.9 < made.sampled < sample * 1.1
    assert Counting.fetched < made.num_ranges * 5 * (64 << 10)
    assert Counting.fetched < made.read.value / 10
    expected = 1000 * whole(recipe)["pages"]
    assert made.pages.low < expected < made.pages.high


def test_what_cannot_be_sampled_is_explained(recipe, tmp_path):
    plain = tmp_path / "plain.warc"
    plain.write_bytes(b"WARC/1.0\r\n" * 1000)
    source = recipes.Source(warc=(str(plain),))
    with pytest.raises(ValueError, match="not a series of gzip members"):
        predict(dataclasses.replace(recipe, source=source), 1000)
    index = recipes.Source(crawl="C-1", index=True)
    with pytest.raises(ValueError, match="an index is sorted by address"):
        predict(dataclasses.replace(recipe, source=index), 1000)
    with pytest.raises(ValueError, match="A sample of 0 bytes"):
        predict(recipe, 0)


def test_the_command_prints_a_table_and_writes_the_figures(pages, tmp_path, capsys):
    shutil.copy(next(pages.iterdir()), tmp_path / "a.warc.gz")
    path = tmp_path / "my.toml"
    path.write_text(
        f'name = "mine"\nlanguages = ["fi", "sw"]\n[source]\n'
        f'warc = ["{tmp_path}/*.warc.gz"]\n[generator]\ncheckpoint = "none"\n'
        '[evaluator]\ncheckpoint = "none"\n'
    )
    out = tmp_path / "new" / "plan.json"
    arguments = ["plan", str(path), "--sample", "0.03", "--json", str(out)]
    assert cli.main([*arguments, "--price", "cpu=0.05", "read=0.01"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("mine: from ")
    for name in ("pages", "usable documents", "  fi", "core hours", "money"):
        assert f"\n{name}  " in text
    figures = json.loads(out.read_text())
    assert set(figures["pages"]) == {"value", "low", "high"}
    assert figures["documents"].keys() == {"all", "fi", "sw"}
    assert figures["device_hours"] is None
    assert cli.main([*arguments, "--price", "gpu=1"]) == 1
    assert "expected NAME=AMOUNT" in capsys.readouterr().err
