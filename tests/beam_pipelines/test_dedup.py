"""One document per text, whatever the order in which documents arrive."""

import dataclasses
import itertools
import random

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_pipelines import dedup, store
from beam_pipelines.dedup import RemoveDuplicates, normalised_url
from beam_pipelines.schema import Document

OLD, NEW = "2025-11-02T00:00:00Z", "2026-01-12T00:00:00Z"


def document(
    id: str, text: str, *, url: str = "", date: str = NEW, language: str = "sw"
) -> Document:
    url = url or f"https://site.example/{id.partition('.')[0]}"
    return Document(
        id=id,
        url=url,
        domain="site.example",
        date=date,
        warc_file="a.warc.gz",
        warc_offset=0,
        warc_length=1,
        digest="",
        language=language,
        language_score=1.0,
        text=text,
        robots=(),
        license="",
        checks={"chars": float(len(text))},
    )


def counted(document: Document, duplicates: int) -> Document:
    return dataclasses.replace(document, duplicates=duplicates)


# Two captures of a page of two pieces under addresses that are one, three pages with
# one text, one page that says something twice, and one like no other.
OLDER = [
    document("b", "Habari ya kwanza.", url="http://www.gazeti.example/1", date=OLD),
    document("b.1", "Habari ya pili.", url="http://www.gazeti.example/1", date=OLD),
]
NEWER = [
    document("a", "Habari mpya.", url="https://gazeti.example/1/?utm_source=x"),
    document("a.1", "Habari ya pili.", url="https://gazeti.example/1/?utm_source=x"),
]
SAME = [document(id, "Sala ya asubuhi.") for id in ("e", "c", "d")]
TWICE = [document("f", "Wimbo."), document("f.1", "Wimbo.")]
ALONE = [document("g", "Aamu tuli.", language="fi")]
DOCUMENTS = [*OLDER, *NEWER, *SAME, *TWICE, *ALONE]
KEPT = [*NEWER, counted(SAME[1], 3), counted(TWICE[0], 2), *ALONE]
COUNTS = [["older_capture", "sw", 2], ["same_text", "sw", 3]]


def run(documents: list[Document], path: str, expected: list[Document]) -> list:
    """Runs the step, checks what it gives, and returns what its file counts."""
    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        kept = pipeline | beam.Create(documents) | RemoveDuplicates(path)
        assert_that(kept, equal_to(expected))
    return store.read_json(path)


@pytest.mark.parametrize("seed", range(4))
def test_one_document_per_text_and_url_in_any_order(seed, tmp_path):
    documents = list(DOCUMENTS)
    random.Random(seed).shuffle(documents)
    assert run(documents, str(tmp_path / "duplicates.json"), KEPT) == COUNTS


def test_what_is_dropped_is_counted_by_reason_and_language(tmp_path):
    documents = [
        document("a", "Moja."),
        document("b", "Moja."),
        document("c", "Yksi.", language="fi"),
        document("d", "Yksi.", language="fi"),
        document("e", "Yksi.", language="fi"),
        document("g", "Uusi.", url="https://uutiset.example", language="fi"),
        document("f", "Vanha.", url="https://uutiset.example", date=OLD, language="fi"),
    ]
    kept = [counted(documents[0], 2), counted(documents[2], 3), documents[5]]
    assert run(documents, str(tmp_path / "duplicates.json"), kept) == [
        ["older_capture", "fi", 1],
        ["same_text", "fi", 2],
        ["same_text", "sw", 1],
    ]


def test_a_source_without_duplicates_passes_and_counts_nothing(tmp_path):
    documents = [document(id, f"Maneno ya {id}.") for id in "abc"]
    assert run(documents, str(tmp_path / "duplicates.json"), documents) == []


def test_no_documents_give_none_and_an_empty_count(tmp_path):
    assert run([], str(tmp_path / "duplicates.json"), []) == []


def test_a_document_delivered_twice_is_no_duplicate(tmp_path):
    documents = [*NEWER, *SAME, *ALONE]
    expected = [*NEWER, counted(SAME[1], 3), *ALONE]
    path = str(tmp_path / "duplicates.json")
    assert run([*documents, *documents, *ALONE], path, expected) == [
        ["same_text", "sw", 2]
    ]


def test_texts_count_as_the_same_only_if_every_character_is(tmp_path):
    texts = ["Moja.", "moja.", "Moja. ", "Moja", "Moja.\n\nMbili."]
    documents = [document(str(n), text) for n, text in enumerate(texts)]
    assert run(documents, str(tmp_path / "duplicates.json"), documents) == []


# The two combiners, however a runner splits and merges.


def combined(combiner: beam.CombineFn, items: list, rng: random.Random) -> object:
    """What a runner may make of items: any order, any tree of accumulators."""
    items = rng.sample(items, len(items))
    parts = [combiner.create_accumulator() for _ in range(rng.randrange(1, 9))]
    for item in items:
        at = rng.randrange(len(parts))
        parts[at] = combiner.add_input(parts[at], item)
    while len(parts) > 1:
        taken = [parts.pop() for _ in range(rng.randrange(2, len(parts) + 1))]
        parts.insert(0, combiner.merge_accumulators(taken))
    return combiner.extract_output(combiner.compact(parts[0]))


def test_the_newest_capture_is_the_same_however_it_is_combined():
    captures = [
        *[document(f"p{n}", f"{n}", date=f"2026-01-0{n}T00:00:00Z") for n in (1, 2, 3)],
        *[document(f"q{end}", f"q{end}", date="2026-01-04T00:00:00Z") for end in "123"],
        document("q3.1", "more", date="2026-01-04T00:00:00Z"),
        document("q3.2", "most", date="2026-01-04T00:00:00Z"),
    ]
    for seed in range(200):
        found = combined(dedup._NewestCapture(), captures, random.Random(seed))
        # Of equal dates, that of the last id, with all its pieces.
        assert [document.id for document in found.documents] == ["q3", "q3.1", "q3.2"]
        assert sorted(id_ for id_, _ in found.dropped) == ["p1", "p2", "p3", "q1", "q2"]


def test_a_newest_capture_delivered_twice_counts_once_however_it_is_combined():
    captures = [*OLDER, *NEWER, *NEWER]
    for seed in range(100):
        found = combined(dedup._NewestCapture(), captures, random.Random(seed))
        assert list(found.documents) == NEWER
        assert found.dropped == {(older.id, "sw") for older in OLDER}


def test_an_older_capture_delivered_twice_counts_once_however_it_is_combined():
    captures = [*OLDER, *OLDER, *NEWER]
    for seed in range(100):
        found = combined(dedup._NewestCapture(), captures, random.Random(seed))
        assert list(found.documents) == NEWER
        assert found.dropped == {(older.id, "sw") for older in OLDER}


def test_the_document_of_a_text_is_the_same_however_it_is_combined():
    rng = random.Random(0)
    for _ in range(200):
        assert combined(dedup._OneOfText(), SAME, rng) == counted(SAME[1], 3)
    assert combined(dedup._OneOfText(), [], rng) is None


# Addresses.

ONE_ADDRESS = [
    "https://gazeti.example/habari",
    "http://gazeti.example/habari",
    "https://www.gazeti.example/habari",
    "https://GAZETI.example/habari",
    "https://gazeti.example:443/habari",
    "http://gazeti.example:80/habari",
    "https://gazeti.example/habari/",
    "https://gazeti.example/habari#maoni",
    "https://gazeti.example/habari?",
    "https://gazeti.example/habari?utm_source=a&utm_medium=b",
    "https://gazeti.example/habari?fbclid=1&gclid=2&mc_cid=3&mc_eid=4",
    "https://gazeti.example/habari?ref=juu&share=x",
    "https://mtu:siri@gazeti.example/habari",
]
ADDRESSES = [
    ONE_ADDRESS[0],
    "https://gazeti.example/",
    "https://gazeti.example/Habari",
    "https://gazeti.example/habari/2",
    "https://gazeti.example/habari?id=1",
    "https://gazeti.example/habari?id=2",
    "https://gazeti.example/habari?id=1&p=2",
    "https://gazeti.example/habari?ID=1",
    "https://gazeti.example/habari?id=",
    "https://gazeti.example/habari?id=a%26p",
    "https://gazeti.example/habari?id=a&p",
    "https://gazeti.example:8080/habari",
    "https://m.gazeti.example/habari",
    "https://wwwgazeti.example/habari",
]


def test_addresses_of_one_page_are_one():
    assert {normalised_url(url) for url in ONE_ADDRESS} == {"gazeti.example/habari"}


def test_addresses_of_two_pages_are_two():
    for one, other in itertools.combinations(ADDRESSES, 2):
        assert normalised_url(one) != normalised_url(other), (one, other)


def test_the_order_of_parameters_makes_no_difference():
    urls = [
        "https://gazeti.example/?" + "&".join(order)
        for order in itertools.permutations(["a=1", "b=2", "utm_id=3", "a=0"])
    ]
    assert {normalised_url(url) for url in urls} == {"gazeti.example/?a=0&a=1&b=2"}


def test_a_normalised_address_stays_as_it_is():
    for url in [*ONE_ADDRESS, *ADDRESSES]:
        once = normalised_url(url)
        assert normalised_url(f"https://{once}") == once


@pytest.mark.parametrize(
    "url",
    ["https://[gazeti.example/x", "https://gazeti.example:99999/x", "http://[::1"],
)
def test_an_address_that_cannot_be_parsed_stays_as_it_is(url):
    assert normalised_url(url) == url


@pytest.mark.parametrize(
    "name", ["reference", "refid", "refresh", "share_id", "shared"]
)
def test_a_parameter_that_begins_like_a_tracking_one_names_a_page(name):
    one, other = (f"https://duka.example/bidhaa?{name}={n}" for n in (1, 2))
    assert normalised_url(one) != normalised_url(other)


def test_escapes_in_another_character_set_tell_pages_apart():
    # TIS-620, as on older Thai sites.
    one, other = (f"https://khao.example/?q={q}" for q in ("%A1%D2", "%A2%D2"))
    assert normalised_url(one) != normalised_url(other)
