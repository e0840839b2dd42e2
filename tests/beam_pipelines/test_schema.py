"""Records and their written form, here and in a Parquet part."""

import dataclasses

import pytest

from beam_pipelines import store
from beam_pipelines.schema import (
    LANGUAGES,
    Candidate,
    Document,
    Example,
    Page,
    Score,
    from_row,
    text_digest,
    to_row,
)

TEXT = "Mvua ilinyesha usiku kucha.\n\nاگلے دن دھوپ نکلی۔\n\nமழை பெய்தது \U0001f327"

PAGE = Page(
    id="0d5a2d2e-6f0c-4b3c-9a3e-1c2b3a4d5e6f",
    url="https://habari.example/mvua?a=1",
    date="2026-01-12T08:00:00Z",
    warc_file="crawl/segment-7.warc.gz",
    warc_offset=5_000_000_000,
    warc_length=1234,
    digest="sha1:ABC",
    languages=("swa", "eng"),
    content_type="text/html",
    charset="utf-8",
    robots="noai",
    body=b"<p>\x00\xff</p>",
)
DOCUMENT = Document(
    id=f"{PAGE.id}.1",
    url=PAGE.url,
    domain="habari.example",
    date=PAGE.date,
    warc_file=PAGE.warc_file,
    warc_offset=PAGE.warc_offset,
    warc_length=PAGE.warc_length,
    digest=PAGE.digest,
    language="sw",
    language_score=0.1 + 0.2,
    text=TEXT,
    robots=("noindex", "noai"),
    license="https://creativecommons.org/licenses/by/4.0/",
    checks={"chars": 64.0, "script": 1 / 3},
    duplicates=3,
)
CANDIDATE = Candidate(
    document=DOCUMENT,
    instruction='Write about "rain".\nBriefly.',
    generator="f00d",
    logprob=-12.375,
    rejected="too_long",
)
SCORE = Score(
    candidate=CANDIDATE,
    p_best=0.5,
    p_flawed=0.3,
    p_worst=0.2,
    score=0.65,
    evidence={"similarity": 0.5},
    evaluator="beef",
    rejected="no_label",
)
EXAMPLE = Example(
    id=DOCUMENT.id,
    instruction=CANDIDATE.instruction,
    output=TEXT,
    output_language="sw",
    url=PAGE.url,
    domain=DOCUMENT.domain,
    date=PAGE.date,
    warc_file=PAGE.warc_file,
    warc_offset=PAGE.warc_offset,
    warc_length=PAGE.warc_length,
    robots=DOCUMENT.robots,
    license=DOCUMENT.license,
    score=0.65,
    cluster=17,
    split="validation",
)
NESTED = {Candidate: {"document": DOCUMENT}, Score: {"candidate": CANDIDATE}}
RECORDS = [PAGE, DOCUMENT, CANDIDATE, SCORE, EXAMPLE]


def name_of(record: object) -> str:
    return type(record).__name__


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_no_field_has_a_value_that_a_lost_field_would_have(record):
    """Otherwise a round trip could forget it unseen."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        assert value, field.name
        assert field.default is dataclasses.MISSING or value != field.default


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_record_comes_back_from_its_row(record):
    row = to_row(record)
    assert from_row(type(record), row, **NESTED.get(type(record), {})) == record


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_row_holds_every_field_and_a_nested_record_as_its_key(record):
    names = {field.name for field in dataclasses.fields(record)}
    nested = NESTED.get(type(record), {})
    row = to_row(record)
    assert row.keys() == (names - nested.keys()) | ({"key"} if nested else set())
    for inner in nested.values():
        assert row["key"] == inner.key


@pytest.mark.parametrize("record", RECORDS[1:], ids=name_of)
def test_a_record_comes_back_from_a_part(record, tmp_path):
    stage = store.Stage(str(tmp_path), type(record))
    nested = NESTED.get(type(record), {})
    plain = {
        field.name: ""
        for field in dataclasses.fields(record)
        if field.type is str and field.name not in nested
    }
    other = dataclasses.replace(record, **plain)
    facts = {"pages": 2, "drops": [["too_short", "sw", 3]], "path": "ä"}
    store.write_part(stage, "part", map(to_row, [record, other]), facts)
    (part,) = store.read_stage(stage)
    assert part.facts == facts
    assert [from_row(type(record), row, **nested) for row in part.rows] == [
        record,
        other,
    ]


def test_an_empty_part_has_no_rows_and_its_facts(tmp_path):
    stage = store.Stage(str(tmp_path), Document)
    store.write_part(stage, "part", [], {"pages": 0})
    (part,) = store.read_stage(stage)
    assert (part.rows, part.facts) == ([], {"pages": 0})


def test_a_row_that_lacks_a_field_is_refused():
    row = to_row(DOCUMENT)
    del row["digest"]
    with pytest.raises(KeyError, match="digest"):
        from_row(Document, row)


@pytest.mark.parametrize(
    ("change", "document_key", "candidate_key"),
    [
        ({"id": "another"}, True, True),
        ({"text": "Another."}, True, True),
        ({"language": "vi"}, False, False),
        ({"duplicates": 9}, False, False),
        ({"checks": {}}, False, False),
    ],
)
def test_a_key_changes_with_the_page_and_the_text_alone(
    change, document_key, candidate_key
):
    other = dataclasses.replace(DOCUMENT, **change)
    candidate = dataclasses.replace(CANDIDATE, document=other)
    assert (other.key != DOCUMENT.key) == document_key
    assert (candidate.key != CANDIDATE.key) == candidate_key


def test_a_candidates_key_changes_with_its_instruction_alone():
    def key(**change: object) -> str:
        return dataclasses.replace(CANDIDATE, **change).key

    assert key(instruction="Another.") != CANDIDATE.key
    assert key(generator="x", logprob=-1.0, rejected="") == CANDIDATE.key


def test_text_digest_tells_texts_apart_and_takes_any_text():
    texts = ["", "a", "b", "ab", "a\n", "\u00e9", "e\u0301", "\ud800", "\udfff"]
    digests = [text_digest(text) for text in texts]
    assert len(set(digests)) == len(texts)
    assert all(len(d) == 16 and int(d, 16) >= 0 for d in digests)
    # Stored data is found again by it, so it must not move.
    assert text_digest("Mvua.") == text_digest("Mvua.")
    assert text_digest("") == "e4a6a0577479b2b4"


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_records_cannot_be_edited(record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[1].name, "")


def test_languages_are_keyed_by_their_code_and_named_once():
    assert list(LANGUAGES) == "fi id th tr vi bn hi sw ta ur".split()
    for code, language in LANGUAGES.items():
        assert language.code == code
        assert language.tag == f"{language.tag[:3]}-{language.script}"
    for attribute in ("name", "tag", "crawl"):
        values = {getattr(language, attribute) for language in LANGUAGES.values()}
        assert len(values) == len(LANGUAGES)
    assert {language.script for language in LANGUAGES.values()} == {
        "Latn", "Arab", "Beng", "Deva", "Taml", "Thai"
    }  # fmt: skip
