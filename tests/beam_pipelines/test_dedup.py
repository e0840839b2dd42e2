"""One document per text, whatever the order in which documents arrive."""

import collections
import dataclasses
import itertools
import random
import time
import tracemalloc
from collections.abc import Callable, Iterator

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_pipelines import dedup, minhash, store
from beam_pipelines.dedup import RemoveDuplicates, normalised_url
from beam_pipelines.schema import Document, text_digest

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


# Two threads take turns at bundles of one element or few.
IN_THREADS = {"direct_running_mode": "multi_threading", "direct_num_workers": 2}


def run(
    documents: list[Document], path: str, expected: list[Document], **options: object
) -> list:
    """Runs the step, checks what it gives, and returns what its file counts."""
    with test_pipeline.TestPipeline(
        runner=FnApiRunner(), options=PipelineOptions([], **options)
    ) as pipeline:
        kept = pipeline | beam.Create(documents) | RemoveDuplicates(path)
        assert_that(kept, equal_to(expected))
    return store.read_json(path)


@pytest.mark.parametrize("seed", range(2))
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
    stays = min(documents[:4], key=lambda d: text_digest(d.text))
    kept = [counted(stays, 4), documents[4]]
    assert run(documents, str(tmp_path / "duplicates.json"), kept) == [
        ["near_duplicate", "sw", 3]
    ]


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


# Near duplicates.


def words(rng: random.Random, number: int) -> list[str]:
    syllables = "ba cho da fu ga ha ji ka li mo nya po sha ta u vi wa ya zi".split()
    return [
        "".join(rng.choices(syllables, k=rng.randrange(1, 4))) for _ in range(number)
    ]


def with_versions(seed: int, number: int) -> list[Document]:
    """Texts, and of some a few versions: edited here and there, copied, re-captured."""
    rng = random.Random(seed)
    made: list[Document] = []
    while len(made) < number:
        language, gap = rng.choice([("sw", " "), ("id", " "), ("th", "")])
        text = words(rng, rng.randrange(60, 200))
        for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
            at = rng.randrange(len(text))
            text[at : at + 2] = words(rng, rng.randrange(5))
            page = document(
                f"{rng.getrandbits(64):016x}", gap.join(text), language=language
            )
            made += [page] * rng.choice([1, 1, 2])  # delivered twice
            if rng.random() < 0.2:
                made.append(dataclasses.replace(page, id=f"{page.id}.1"))
                made.append(dataclasses.replace(page, id=f"{page.id}.2", date=OLD))
    return made


def one_of_each_group(documents: list[Document]) -> list[Document]:
    """What should stay, worked out with everything in memory."""
    documents = [d for d in {d.id: d for d in documents}.values() if d.date != OLD]
    copies = collections.defaultdict(list)
    for each in documents:
        copies[each.text].append(each)
    group_of = {text: {text} for text in copies}
    by_key: dict[str, str] = {}
    for text, same in copies.items():
        for key in minhash.band_keys(text, same[0].language):
            joined = group_of[text] | group_of[by_key.setdefault(key, text)]
            group_of.update(dict.fromkeys(joined, joined))
    kept = []
    for group in {id(group): group for group in group_of.values()}.values():
        stays = min(copies[min(group, key=text_digest)], key=lambda d: d.id)
        kept.append(counted(stays, sum(len(copies[text]) for text in group)))
    return kept


@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, IN_THREADS)])
def test_one_document_of_each_group_stays_in_any_order(seed, options, tmp_path):
    documents = with_versions(seed=5, number=300)
    expected = one_of_each_group(documents)
    random.Random(seed).shuffle(documents)
    drops = run(documents, str(tmp_path / "duplicates.json"), expected, **options)
    # Whatever came in is kept, stands behind what is kept, or is an older capture.
    dropped = collections.Counter()
    for reason, _, number in drops:
        dropped[reason] += number
    came = len({d.id for d in documents})
    older = len({d.id for d in documents if d.date == OLD})
    assert dropped["older_capture"] == older > 20
    assert sum(d.duplicates for d in expected) == came - older
    assert dropped["same_text"] + dropped["near_duplicate"] == (
        came - older - len(expected)
    )
    assert dropped["near_duplicate"] > 50


def test_a_near_duplicate_stands_behind_that_of_the_lowest_digest(tmp_path):
    text = " ".join(words(random.Random(3), 150))
    one = document("b", text)
    others = [document(id, f"{text} Mwisho.") for id in ("e", "c", "d")]
    stays = min(one, others[1], key=lambda d: text_digest(d.text))
    path = str(tmp_path / "duplicates.json")
    assert run([*others, one], path, [counted(stays, 4)]) == [
        ["near_duplicate", "sw", 1],
        ["same_text", "sw", 2],
    ]


def test_what_is_alike_in_two_languages_stays_in_both(tmp_path):
    text = " ".join(words(random.Random(4), 150))
    documents = [
        document("a", f"{text}!", language="sw"),
        document("b", f"{text}.", language="id"),
    ]
    assert run(documents, str(tmp_path / "duplicates.json"), documents) == []


def stand_ins(members: list[tuple[str, str]], path: str) -> dict[str, str]:
    """Runs the search for stand-ins, and returns what it finds."""

    def write(found: list[tuple[str, str]]) -> None:
        store.write_json(path, sorted(found))

    with test_pipeline.TestPipeline(runner=FnApiRunner()) as pipeline:
        found = pipeline | beam.Create(members) | dedup._FindStandIns()
        assert_that(found, write)
    pairs = store.read_json(path)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def chain(rng: random.Random, name: str, length: int) -> list[tuple[str, str]]:
    """Texts of which each shares a band with the next only: (band key, text)."""
    texts = [f"{name}{number:04}" for number in range(length)]
    rng.shuffle(texts)
    return [
        (f"{one} {other}", text)
        for one, other in itertools.pairwise(texts)
        for text in (one, other)
    ]


def test_a_chain_is_one_group(tmp_path):
    rng = random.Random(0)
    members = [pair for n in range(50) for pair in chain(rng, f"{n:02}-", 15)]
    found = stand_ins(members, str(tmp_path / "found.json"))
    assert len(found) == 50 * 14
    assert all(found[text] == f"{text[:3]}0000" for _, text in members if text in found)


def test_a_chain_beyond_the_rounds_keeps_a_few_and_loses_none(tmp_path):
    members = chain(random.Random(1), "", 2000)
    found = stand_ins(members, str(tmp_path / "found.json"))
    kept = {text for _, text in members} - found.keys()
    assert set(found.values()) <= kept
    assert 1 < len(kept) < 2000 / 25
    random.Random(2).shuffle(members)
    again = stand_ins([*members, *members], str(tmp_path / "again.json"))
    assert again == found


def test_a_band_of_20_000_texts_is_found_in_seconds(tmp_path):
    texts = [f"{number:05}" for number in range(20_000)]
    random.Random(0).shuffle(texts)
    started = time.process_time()
    found = stand_ins([("band", t) for t in texts], str(tmp_path / "found.json"))
    assert found == {text: "00000" for text in texts if text != "00000"}
    assert time.process_time() - started < 60


class Texts:
    """Very many texts, made as they are asked for; of which no list is made."""

    def __iter__(self) -> Iterator[str]:
        return (f"{number:07}" for number in range(100_000, 0, -1))


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (dedup._star, ""),
        (dedup._large_star, "0000000"),
        (dedup._small_star, "9"),
        (dedup._leaves, "0000000"),
    ],
)
def test_what_a_popular_key_has_is_never_listed(
    step: Callable[[str, Texts], Iterator[tuple[str, str]]], text: str
):
    tracemalloc.start()
    number = sum(1 for _ in step(text, Texts()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number >= 99_999
    assert peak < 10_000


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
