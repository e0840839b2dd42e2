"""From pages to documents, and from byte ranges to parts of a store."""

import collections
import dataclasses
import functools
import io
import itertools
import json
import random
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from warcio.warcwriter import WARCWriter

from beam_pipelines import crawl as crawls
from beam_pipelines import extract, ingest, quality, store, warc
from beam_pipelines import recipe as recipes
from beam_pipelines.ingest import (
    Drop,
    Judge,
    documents_of,
    known_size,
    part_name,
    parts_of,
    registered_domain,
    uncovered,
)
from beam_pipelines.recipe import Documents, Recipe, Source
from beam_pipelines.schema import LANGUAGES, Document, Page
from beam_pipelines.warc import ByteRange
from tests.conftest import make_crawl

EXAMPLES = Path(__file__).parents[2] / "examples"


@functools.cache
def bundled(name: str) -> list[dict]:
    lines = (EXAMPLES / "pages" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def recipe(source: Source | None = None, **limits: float) -> Recipe:
    return Recipe(
        name="test",
        languages=tuple(LANGUAGES),
        source=source or Source(warc=("*.warc.gz",)),
        generator=recipes.Generator(checkpoint="none"),
        evaluator=recipes.Evaluator(checkpoint="none"),
        documents=Documents(**limits),
    )


RECIPE = recipe()


def page(body: str | bytes, **change: object) -> Page:
    whole = {
        "id": "c0ffee",
        "url": "https://www.gazeti.example/habari?a=1",
        "date": "2026-01-12T08:00:00Z",
        "warc_file": "a.warc.gz",
        "warc_offset": 11,
        "warc_length": 22,
        "digest": "sha1:A",
        "languages": (),
        "content_type": "text/html",
        "charset": "utf-8",
        "robots": "",
        "body": body.encode() if isinstance(body, str) else body,
    }
    return Page(**(whole | change))


def html(*paragraphs: str) -> str:
    content = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f"<html><body><article>{content}</article></body></html>"


def swahili(number: int = 0) -> list[str]:
    return bundled("sw")[number]["paragraphs"]


# Pages.


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_page_with_furniture_becomes_its_paragraphs_with_all_that_is_known(code):
    for entry in bundled(code)[3:5]:
        source = page(make_crawl().render(entry), url=make_crawl().address(entry))
        text = "\n\n".join(entry["paragraphs"])
        expected = list(quality.pieces(text, RECIPE.documents))
        found = documents_of(source, RECIPE)
        assert [document.text for document in found] == expected
        for document in found:
            for field in ("url", "date", "warc_file", "warc_offset", "digest"):
                assert getattr(document, field) == getattr(source, field)
            assert document.warc_length == source.warc_length
            assert document.language == code
            assert 0.8 <= document.language_score <= 1
            assert document.domain == entry["domain"].removeprefix("www.")
            assert document.duplicates == 1
            measured = quality.measure(document.text, code, source.url)
            measured["language_score"] = document.language_score
            assert document.checks.items() >= measured.items()
            masked = document.checks.keys() - measured.keys()
            assert len(masked) == 5
            assert all(document.checks[name] == 0 for name in masked)


def test_text_pages_are_taken_as_they_are():
    body = "\n".join(swahili())
    (from_text,) = documents_of(page(body, content_type="text/plain"), RECIPE)
    (from_html,) = documents_of(page(html(*swahili())), RECIPE)
    assert from_text == from_html
    assert from_text.text == "\n\n".join(swahili())


def test_a_page_in_another_character_set_is_read_by_what_it_is():
    paragraphs = bundled("th")[0]["paragraphs"]
    source = page(html(*paragraphs).encode("tis-620", "ignore"), charset="utf-8")
    documents = documents_of(source, RECIPE)
    assert {document.language for document in documents} == {"th"}
    assert documents[0].text.startswith(paragraphs[0][:50])


def test_a_long_page_becomes_pieces_numbered_from_its_id():
    paragraphs = list(itertools.chain(*(swahili(n) for n in range(6))))
    documents = documents_of(page(html(*paragraphs)), recipe(max_pieces=3))
    assert [document.id for document in documents] == ["c0ffee", "c0ffee.1", "c0ffee.2"]
    assert all(len(document.text) <= 2048 for document in documents)
    read = "\n\n".join(document.text for document in documents).split("\n\n")
    assert read == paragraphs[: len(read)]


def test_a_piece_that_is_dropped_leaves_the_others_their_ids():
    menu = [f"Kiungo cha {n}" for n in range(70)]
    good = list(itertools.chain(*(swahili(n) for n in range(2))))[:5]
    assert sum(map(len, good)) < 2000
    texts = [*good, *menu, *good]
    body = "\n".join(texts)
    # Each part fills one window.
    limits = recipe(max_chars=sum(map(len, good)) + 2 * len(good) + 20)
    found = documents_of(page(body, content_type="text/plain"), limits)
    judge = Judge(limits)
    kept = [item.id for item in found if not judge.reason(item)]
    assert [item.id for item in found] == ["c0ffee", "c0ffee.1", "c0ffee.2"]
    assert kept == ["c0ffee", "c0ffee.2"]


def test_what_is_personal_is_gone_before_anything_is_kept():
    text = "\n\n".join(swahili())
    body = f"{text}\n\nAndika kwa asha@gazeti.example au piga +255 754 123 456."
    (document,) = documents_of(page(body, content_type="text/plain"), RECIPE)
    assert document.text.endswith("Andika kwa <EMAIL> au piga <PHONE>.")
    assert document.checks["masked_email"] == document.checks["masked_phone"] == 1
    assert document.checks["masked_iban"] == 0


def test_what_a_page_asks_and_allows_is_recorded():
    body = html(*swahili()).replace(
        "<html>",
        '<html><head><meta name="robots" content="noai">'
        '<link rel="license" href="http://creativecommons.org/licenses/by/4.0/deed">'
        "</head>",
    )
    for document in documents_of(page(body, robots="noindex"), RECIPE):
        assert document.robots == ("noindex", "noai")
        assert document.license == "https://creativecommons.org/licenses/by/4.0/"


def test_a_page_that_is_listed_is_left_out_whatever_its_text(tmp_path):
    (tmp_path / "optout.txt").write_text("# Asked on 12 January.\ngazeti.example\n")
    listed = Source(warc=("a",), leave_out=(str(tmp_path / "optout.txt"),))
    (document, *_) = documents_of(page(html(*swahili())), RECIPE)
    assert Judge(RECIPE).reason(document) is None
    assert Judge(recipe(listed)).reason(document) == "left_out"
    other = dataclasses.replace(document, url="https://gazeti2.example/habari")
    assert Judge(recipe(listed)).reason(other) is None


def only_drop(source: Page, settings: Recipe = RECIPE) -> Drop:
    (found,) = documents_of(source, settings)
    assert isinstance(found, Drop), found
    return found


def in_text(name: str, code: str, number: int = 0) -> str:
    found = [entry for entry in bundled(name) if entry["language"] == code]
    return "\n\n".join(found[number]["paragraphs"])


def test_a_page_declared_elsewhere_is_not_even_decoded():
    source = page(html(*swahili()), languages=("eng", "deu"))
    assert only_drop(source) == Drop(reason="declared_elsewhere", language="", chars=0)
    for declared in [("swa",), ("eng", "swa")]:
        source = page(html(*swahili()), languages=declared)
        assert documents_of(source, RECIPE)[0].language == "sw"


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("", "text/html", "no_text"),
        ("", "text/plain", "no_text"),
        (" \n\t", "text/plain", "no_text"),
        ("<html><script>var a = 1;</script></html>", "text/html", "no_text"),
        ("<p>Это другой язык и другое письмо.</p>", "text/html", "other_script"),
        ("12 34 56", "text/plain", "other_script"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "text/plain", None),
    ],
)
def test_a_page_without_a_text_of_ours_is_dropped_by_name(body, kind, reason):
    drop = only_drop(page(body, content_type=kind))
    assert drop.language == ""
    assert drop.reason == reason or reason is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("en", "other_language"),
        ("az", "other_language"),
        ("ne", "other_language"),
        ("fa", "other_script"),
        ("lo", "other_script"),
        ("ms", "malay"),
        ("pnb", "punjabi"),
    ],
)
def test_a_page_of_a_neighbour_is_dropped_by_name_and_length(code, reason):
    text = in_text("neighbours", code)
    drop = only_drop(page(text, content_type="text/plain"))
    assert drop == Drop(reason=reason, language="", chars=len(text))


def test_a_page_that_is_all_furniture_has_no_main_text(monkeypatch):
    # No page was found on which both extractors give up and the gate does not.
    monkeypatch.setattr(ingest.extract, "main_text", lambda html: " \n ")
    drop = only_drop(page(html(*swahili())))
    assert drop == Drop(reason="no_main_text", language="", chars=0)


def test_an_unsure_verdict_is_measured_and_judged_by_the_recipe():
    text = "\n\n".join(swahili())
    (document,) = documents_of(page(text, content_type="text/plain"), RECIPE)
    unsure = dataclasses.replace(
        document, checks=document.checks | {"language_score": 0.7}
    )
    assert Judge(RECIPE).reason(document) is None
    assert Judge(RECIPE).reason(unsure) == "mixed_language"


@pytest.mark.parametrize(
    ("code", "fault", "reason"),
    [
        ("id", "policy", "policy"),
        ("fi", "menu", "short_lines"),
        ("hi", "broken_orthography", "stray_marks"),
        ("bn", "mixed_language", "mixed_script"),
        ("id", "repetitive", "repeated_ngrams"),
    ],
)
def test_a_page_with_a_fault_is_kept_to_be_judged_by_its_rule(code, fault, reason):
    documents = documents_of(page(make_crawl().render(faulty(code, fault))), RECIPE)
    judge = Judge(RECIPE)
    assert {(judge.reason(d), d.language) for d in documents} == {(reason, code)}


@pytest.mark.parametrize(
    ("code", "fault", "reason", "known"),
    [
        ("sw", "too_short", "too_short", "sw"),
        ("tr", "lorem_ipsum", "other_language", ""),
    ],
)
def test_a_page_with_a_fault_is_dropped_at_once(code, fault, reason, known):
    drop = only_drop(page(make_crawl().render(faulty(code, fault))))
    assert (drop.reason, drop.language) == (reason, known)


def faulty(code: str, fault: str) -> dict:
    (entry,) = [
        entry
        for entry in bundled("faults")
        if (entry["language"], entry["fault"]) == (code, fault)
    ]
    return entry


def test_a_language_that_is_not_wanted_is_dropped():
    settings = dataclasses.replace(RECIPE, languages=("fi",))
    assert only_drop(page(html(*swahili())), settings).reason == "other_language"
    thai = "\n".join(bundled("th")[0]["paragraphs"])
    source = page(thai, content_type="text/plain")
    assert only_drop(source, settings).reason == "other_script"


# Domains.


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.gazeti.co.tz/habari", "gazeti.co.tz"),
        ("https://a.b.gazeti.com:8080/?q=http://x.org", "gazeti.com"),
        ("http://user:pass@blogu.gazeti.or.ke/", "gazeti.or.ke"),
        ("HTTPS://Gazeti.COM/X", "gazeti.com"),
        ("https://mtu.github.io/x", "mtu.github.io"),
        # No known suffix: the last two labels.
        ("https://a.b.gazeti.example/x", "gazeti.example"),
        ("https://A.Gazeti.Example:80/x@y", "gazeti.example"),
        ("https://user@gazeti.example", "gazeti.example"),
        ("http://localhost/x", "localhost"),
        ("gazeti.example/x", "gazeti.example"),
        ("", ""),
    ],
)
def test_a_registered_domain_is_what_one_owner_registers(url, domain):
    assert registered_domain(url) == domain


def test_addresses_in_numbers_are_domains_of_their_own():
    urls = ["http://192.168.0.1/a", "http://10.7.0.1/a"]
    assert len(set(map(registered_domain, urls))) == 2
    urls = ["http://[2001:db8::1]/a", "http://[2001:db8::2]/a"]
    assert len(set(map(registered_domain, urls))) == 2


# Byte ranges.


def parts_at_random(rng: random.Random, size: int) -> list[ByteRange]:
    """Ranges that runs may have left, some of them over one another."""
    parts = []
    for _ in range(rng.randrange(6)):
        start, stop = sorted(rng.sample(range(max(size, 1) + 1), 2))
        parts.append(ByteRange(path="a", size=size, start=start, stop=stop))
    return parts


def test_parts_and_uncovered_ranges_tile_a_file(monkeypatch):
    for seed in range(1000):
        rng = random.Random(seed)
        size = rng.choice([0, 1, rng.randrange(2, 120)])
        parts = parts_at_random(rng, size)
        names = [f"{part_name(part)}.parquet" for part in parts]
        rng.shuffle(names)
        range_bytes = rng.randrange(1, 60)
        monkeypatch.setattr(warc, "SPLIT_BYTES", range_bytes)
        kept = parts_of(names, size)
        found = list(uncovered("a", size, names))
        assert set(kept) <= set(names)
        places = [tuple(map(int, n[:-8].split("-")[2:])) for n in kept]
        places += [(piece.start, piece.stop) for piece in found]
        # Each byte is in the store or is read, and never twice.
        at = sorted(byte for start, stop in places for byte in range(start, stop))
        assert at == list(range(max(size, 1)))
        for piece in found:
            assert (piece.path, piece.size) == ("a", size)
            assert piece.stop - piece.start <= range_bytes
        again = [*names, *map(part_name, found)]
        assert list(uncovered("a", size, again)) == []
        assert known_size(again) == size


def test_a_range_read_whole_after_it_was_cut_counts_once():
    cut = [ByteRange(path="a", size=9, start=0, stop=4)]
    cut += [ByteRange(path="a", size=9, start=4, stop=9)]
    whole = ByteRange(path="a", size=9, start=0, stop=9)
    names = [part_name(piece) for piece in (*cut, whole)]
    assert parts_of(names, 9) == parts_of(names, None) == [part_name(whole)]


def test_parts_of_another_size_cover_nothing():
    other = part_name(ByteRange(path="a", size=11, start=0, stop=11))
    whole = ByteRange(path="a", size=10, start=0, stop=10)
    assert list(uncovered("a", 10, [other])) == [whole]
    assert list(uncovered("a", 10, [other, part_name(whole)])) == []


def test_an_empty_file_is_one_range():
    (piece,) = uncovered("a", 0, [])
    assert (piece.start, piece.stop) == (0, 1)
    assert list(uncovered("a", 0, [part_name(piece)])) == []


def test_the_size_of_a_file_that_is_not_read_whole_is_not_known():
    half = part_name(ByteRange(path="a", size=10, start=0, stop=5))
    rest = part_name(ByteRange(path="a", size=10, start=5, stop=10))
    assert known_size([]) is None
    assert known_size([half]) is None
    assert known_size([rest, half]) == 10


def test_parts_are_named_in_order_of_their_place_and_told_apart():
    pieces = [
        ByteRange(path=path, size=2 * 10**12, start=start, stop=10**12)
        for path in ("a", "b", "a-1")
        for start in (0, 9, 10, 10**11)
    ]
    names = [part_name(piece) for piece in pieces]
    assert len(set(names)) == len(names)
    assert names[:4] == sorted(names[:4])
    assert all(set(name) <= set("0123456789abcdef-") for name in names)


# Files.


def touch(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * number)


@pytest.mark.parametrize("ending", ["", "/"])
def test_source_files_are_named_without_the_base_and_once(tmp_path, ending):
    touch(tmp_path, "crawl/b.warc.gz", "crawl/a.warc.gz", "c.wet.gz", "d.txt")
    source = Source(
        warc=("crawl/*.warc.gz", "crawl/b.*"),
        wet=("c.wet.gz",),
        base=f"{tmp_path}{ending}",
    )
    expected = [("c.wet.gz", 2), ("crawl/a.warc.gz", 1), ("crawl/b.warc.gz", 0)]
    assert crawls.source_files(source) == expected


def test_source_files_of_an_anchored_recipe_are_the_same(tmp_path):
    touch(tmp_path, "crawl/a.warc.gz", "crawl/b.warc.gz")
    expected = [("crawl/a.warc.gz", 0), ("crawl/b.warc.gz", 1)]
    at = recipes.anchored(recipe(Source(warc=("crawl/*.gz",))), str(tmp_path))
    assert crawls.source_files(at.source) == expected


def test_a_pattern_without_a_file_is_an_error_that_names_it(tmp_path):
    touch(tmp_path, "a.warc.gz")
    source = Source(warc=("a.warc.gz", "none-*.warc.gz"), base=str(tmp_path))
    with pytest.raises(ValueError, match=r"none-\*\.warc\.gz' matches no file"):
        crawls.source_files(source)


# The step.

# Pages of every fate: kept in whole or in pieces, dropped by gate, verdict and rule.
ENTRIES = [
    *[bundled(code)[n] for code in ("sw", "ta", "fi") for n in range(3)],
    *[e for e in bundled("neighbours") if e["language"] in ("ms", "fa", "en")],
    *[e for e in bundled("faults") if e["fault"] in ("policy", "menu")],
]


@dataclasses.dataclass(frozen=True)
class Crawl:
    """Two files of pages; the record at `damaged` in the second cannot be read."""

    folder: Path
    damaged: int
    lost: str

    @property
    def recipe(self) -> Recipe:
        return recipe(Source(warc=("*.warc.gz",), base=str(self.folder)))

    def pages(self) -> list[Page]:
        found = []
        for path in sorted(self.folder.glob("*.warc.gz")):
            stream, size = io.BytesIO(path.read_bytes()), path.stat().st_size
            found += warc.read_pages(stream, size, path.name, 0, lambda at: True)
        return [item for item in found if isinstance(item, Page)]

    def documents(self) -> list[Document]:
        found = [item for p in self.pages() for item in documents_of(p, self.recipe)]
        return [item for item in found if isinstance(item, Document)]


@pytest.fixture
def crawl(tmp_path) -> Crawl:
    folder = tmp_path / "crawl"
    folder.mkdir()
    for number in range(2):
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        starts = []
        for entry in ENTRIES[number::2]:
            starts.append(buffer.tell())
            make_crawl().write_triple(writer, entry)
        content = bytearray(buffer.getvalue())
        if number == 1:
            # The request is first of the three; the response has the page.
            damaged = content.index(b"\x1f\x8b\x08", starts[1] + 1)
            content[damaged + 300] ^= 1
        (folder / f"{number}.warc.gz").write_bytes(content)
    return Crawl(folder, damaged, make_crawl().address(ENTRIES[3]))


@dataclasses.dataclass
class Run:
    """What one run of the step read, counted and left in the store."""

    counters: dict[str, int]
    written: dict[str, int]
    facts: list[dict]


def run(crawl: Crawl, root: Path, expected: list[Document]) -> Run:
    """Runs the step on a store, checks what it gives, and says what it did."""
    settings = crawl.recipe
    kept = store.Store(str(root), settings)
    files = crawls.source_files(settings.source)
    snapshot = store.take_snapshot(kept, [kept.documents], files)
    pipeline = test_pipeline.TestPipeline(runner=FnApiRunner())
    with pipeline:
        documents = (
            pipeline | beam.Create([snapshot]) | ingest.ReadDocuments(settings, kept)
        )
        assert_that(documents, equal_to(expected))
    query = MetricsFilter().with_namespace("documents")
    found = pipeline.result.metrics().query(query)["counters"]
    folder = Path(kept.documents.folder)
    return Run(
        counters={counter.key.metric.name: counter.result for counter in found},
        written={path.name: path.stat().st_mtime_ns for path in folder.iterdir()},
        facts=[part.facts for part in store.read_stage(kept.documents)],
    )


def test_documents_are_those_of_the_pages_and_all_else_is_accounted_for(
    crawl, tmp_path
):
    documents, pages = crawl.documents(), crawl.pages()
    assert len(documents) >= 8
    assert {document.language for document in documents} > {"sw", "ta", "fi"}
    done = run(crawl, tmp_path / "store", documents)
    # Two files, each shorter than a range.
    assert len(done.written) == len(done.facts) == 2
    assert done.counters["pages"] == len(pages) == len(ENTRIES) - 1
    for code in ("sw", "ta", "fi"):
        expected = sum(document.language == code for document in documents)
        assert done.counters[f"{code}/passed"] == expected
    by_file = sorted(done.facts, key=lambda facts: facts["path"])
    assert [facts["num_flaws"] for facts in by_file] == [0, 1]
    (flaw,) = by_file[1]["flaws"]
    assert (flaw["offset"], flaw["reason"]) == (crawl.damaged, "damaged")
    assert flaw["detail"]
    assert crawl.lost not in {page.url for page in pages}
    drops: dict[tuple[str, str], int] = {}
    for facts in done.facts:
        size = (crawl.folder / facts["path"]).stat().st_size
        assert (facts["size"], facts["start"], facts["stop"]) == (size, 0, size)
        for reason, code, count in facts["drops"]:
            drops[reason, code] = drops.get((reason, code), 0) + count
    expected_drops: dict[tuple[str, str], int] = {}
    for source in pages:
        for item in documents_of(source, crawl.recipe):
            if isinstance(item, Drop):
                key = item.reason, item.language
                expected_drops[key] = expected_drops.get(key, 0) + 1
    assert drops == expected_drops
    for kind, number in (("reason", 0), ("dropped", 1)):
        counted = collections.Counter[str]()
        for key, count in drops.items():
            name = key[number] or "unknown"
            counted[f"{name}/{kind}" if number else f"{kind}/{name}"] += count
        assert counted.items() <= done.counters.items()
    assert {reason for reason, _ in drops} >= {"other_language", "malay"}
    judge = Judge(crawl.recipe)
    assert {judge.reason(d) for d in documents} >= {None, "policy", "short_lines"}


def test_a_page_that_breaks_a_library_costs_itself(crawl, tmp_path, monkeypatch):
    whole, bad = crawl.documents(), crawl.pages()[0]
    main_text = extract.main_text

    def fragile(html: str) -> str:
        if bad.body.decode() == html:
            raise RecursionError("too deep")
        return main_text(html)

    monkeypatch.setattr(ingest.extract, "main_text", fragile)
    others = [document for document in whole if document.url != bad.url]
    assert len(others) < len(whole)
    done = run(crawl, tmp_path / "store", others)
    drops = [drop for facts in done.facts for drop in facts["drops"]]
    assert [drop for drop in drops if drop[0] == "failed"] == [["failed", "", 1]]
    samples = [sample for facts in done.facts for sample in facts["samples"]]
    assert bad.url in {s["url"] for s in samples if s["reason"] == "failed"}


def test_dropped_pages_can_be_looked_up_a_few_of_each_reason(crawl, tmp_path):
    done = run(crawl, tmp_path / "store", crawl.documents())
    for facts in done.facts:
        samples = facts["samples"]
        for reason, code, count in facts["drops"]:
            mine = [
                s for s in samples if (s["reason"], s["language"]) == (reason, code)
            ]
            assert len(mine) == min(count, 3)
        path = crawl.folder / facts["path"]
        stream, size = io.BytesIO(path.read_bytes()), path.stat().st_size
        urls = {
            item.warc_offset: item.url
            for item in warc.read_pages(stream, size, path.name, 0, lambda at: True)
            if isinstance(item, Page)
        }
        assert {sample["offset"]: sample["url"] for sample in samples}.items() <= (
            urls.items()
        )
    counts = [count for facts in done.facts for *_, count in facts["drops"]]
    assert max(counts) > 3


def test_a_second_run_gives_the_same_and_reads_nothing(crawl, tmp_path):
    documents = crawl.documents()
    first = run(crawl, tmp_path / "store", documents)
    # Whoever read the files again would find nothing in them.
    for path in crawl.folder.iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    second = run(crawl, tmp_path / "store", documents)
    assert second.written == first.written
    assert second.facts == first.facts
    assert "pages" not in second.counters


def test_a_part_that_is_gone_is_made_again_and_no_other(crawl, tmp_path):
    documents = crawl.documents()
    first = run(crawl, tmp_path / "store", documents)
    folder = Path(store.Store(str(tmp_path / "store"), crawl.recipe).documents.folder)
    gone = sorted(first.written)[0]
    (folder / gone).unlink()
    second = run(crawl, tmp_path / "store", documents)
    assert second.written.keys() == first.written.keys()
    changed = {n for n in first.written if first.written[n] != second.written[n]}
    assert changed == {gone}
    # But for the time that it took.
    assert [f | {"seconds": 0} for f in second.facts] == [
        f | {"seconds": 0} for f in first.facts
    ]


def test_a_file_that_is_added_is_read_and_one_that_goes_is_left_out(crawl, tmp_path):
    run(crawl, tmp_path / "store", crawl.documents())
    old = crawl.documents()
    content = (crawl.folder / "0.warc.gz").read_bytes()
    (crawl.folder / "2.warc.gz").write_bytes(content)
    (crawl.folder / "1.warc.gz").unlink()
    new = crawl.documents()
    assert {d.warc_file for d in new} == {"0.warc.gz", "2.warc.gz"}
    done = run(crawl, tmp_path / "store", new)
    assert len(done.written) == 3
    assert done.counters["pages"] == len(ENTRIES[::2])
    assert {d.warc_file for d in old} == {"0.warc.gz", "1.warc.gz"}


@pytest.mark.parametrize("range_bytes", [1000, 7001])
def test_documents_do_not_depend_on_how_files_are_cut(
    crawl, tmp_path, monkeypatch, range_bytes
):
    monkeypatch.setattr(warc, "SPLIT_BYTES", range_bytes)
    done = run(crawl, tmp_path / "store", crawl.documents())
    sizes = [path.stat().st_size for path in crawl.folder.iterdir()]
    assert len(done.written) == sum(-(-size // range_bytes) for size in sizes)
    assert done.counters["pages"] == len(ENTRIES) - 1
    # A bad record that a range would begin with is counted by none.
    assert all(
        f["start"] // range_bytes * range_bytes == f["start"] for f in done.facts
    )
    found = [
        (facts["path"], flaw["offset"])
        for facts in done.facts
        for flaw in facts["flaws"]
    ]
    assert found in ([("1.warc.gz", crawl.damaged)], [])


def test_files_without_pages_are_covered_and_their_flaws_kept(crawl, tmp_path):
    for path in crawl.folder.iterdir():
        path.unlink()
    (crawl.folder / "empty.warc.gz").write_bytes(b"")
    (crawl.folder / "text.warc.gz").write_bytes(b"some text")
    first = run(crawl, tmp_path / "store", [])
    reasons = {f["path"]: [flaw["reason"] for flaw in f["flaws"]] for f in first.facts}
    assert reasons == {"empty.warc.gz": ["empty_file"], "text.warc.gz": ["not_warc"]}
    assert run(crawl, tmp_path / "store", []).written == first.written


def test_flaws_are_all_counted_and_only_so_many_kept(crawl, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_MAX_FLAWS", 2)
    for path in crawl.folder.iterdir():
        path.unlink()
    broken = b"WARC/1.0\r\nWARC-Type: response\r\n\r\n" * 5
    (crawl.folder / "a.warc.gz").write_bytes(broken)
    (facts,) = run(crawl, tmp_path / "store", []).facts
    assert facts["num_flaws"] == 5
    assert len(facts["flaws"]) == 2


def test_a_recipe_with_other_limits_has_parts_of_its_own(crawl, tmp_path):
    first = run(crawl, tmp_path / "store", crawl.documents())
    limits = Documents(min_chars=900)
    other = dataclasses.replace(crawl.recipe, documents=limits)
    kept = store.Store(str(tmp_path / "store"), other)
    assert store.part_names(kept.documents) == []
    own = store.Store(str(tmp_path / "store"), crawl.recipe)
    assert store.part_names(own.documents) == sorted(first.written)
