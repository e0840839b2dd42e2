import dataclasses
import html.parser
import itertools
import math
import os
import re

import pytest

from beam_pipelines import charts, ingest, report
from beam_pipelines import store as stores
from beam_pipelines.funnel import beginning
from beam_pipelines.recipe import (
    Evaluator,
    Generator,
    Instructions,
    Quality,
    Recipe,
    Source,
)
from beam_pipelines.schema import LANGUAGES, Candidate, Document, Score, to_row
from beam_pipelines.warc import ByteRange

TEXTS = {
    "fi": "Metsässä kasvaa mustikoita ja puolukoita, ja syksyllä niitä poimitaan.",
    "id": "Setiap pagi para nelayan kembali ke pantai membawa ikan segar.",
    "th": "ทุกเช้าแม่จะตื่นมาหุงข้าวและทำแกงให้ลูกก่อนไปโรงเรียนในหมู่บ้าน",
    "tr": "Köyün ortasındaki çınar ağacının altında yaşlılar her akşam çay içer.",
    "vi": "Mỗi buổi sáng, bà tôi ra chợ mua rau tươi và nấu bữa cơm cho cả nhà.",
    "bn": "প্রতিদিন সকালে নদীর ধারে জেলেরা মাছ ধরতে যায় আর বিকেলে ফিরে আসে।",
    "hi": "हर सुबह किसान अपने खेत में जाते हैं और शाम को थककर घर लौटते हैं।",
    "sw": "Kila asubuhi wavuvi huenda baharini na kurudi jioni na samaki wengi.",
    "ta": "ஒவ்வொரு காலையிலும் விவசாயிகள் வயலுக்குச் சென்று மாலையில் திரும்புகிறார்கள்.",
    "ur": "ہر صبح کسان اپنے کھیتوں میں جاتے ہیں اور شام کو گھر واپس آتے ہیں۔",
}


def recipe_in(folder, name="made", **evaluator):
    """A recipe whose checkpoints are there, as far as hashes need them."""
    for model in ("generator", "evaluator"):
        os.makedirs(folder / model, exist_ok=True)
        (folder / model / "config.json").write_text(f'{{"is": "{model}"}}')
    return Recipe(
        name=name,
        languages=tuple(LANGUAGES),
        source=Source(warc=("crawl/*.warc.gz",)),
        generator=Generator(checkpoint=str(folder / "generator")),
        evaluator=Evaluator(checkpoint=str(folder / "evaluator"), **evaluator),
    )


def passing(language):
    """Checks that lie just within every threshold."""
    bounds = dataclasses.asdict(Quality().of(language))
    return {name.partition("_")[2]: float(bound) for name, bound in bounds.items()}


def document(number, language="fi", **changes):
    values = {
        "id": f"page-{number:03}",
        "url": f"https://site{number % 7}.example/{language}/{number}",
        "domain": f"site{number % 7}.example",
        "date": f"2026-01-{number % 28 + 1:02}T00:00:00Z",
        "warc_file": "crawl/a.warc.gz",
        "warc_offset": 1000 * number,
        "warc_length": 900,
        "digest": "sha1:X",
        "language": language,
        "language_score": 0.99,
        "text": f"{TEXTS[language]} ({number})",
        "robots": (),
        "license": "",
        "checks": passing(language),
    }
    return Document(**{**values, **changes})


def facts(path="crawl/a.warc.gz", start=0, stop=5000, **changes):
    values = {"path": path, "size": 5000, "start": start, "stop": stop, "pages": 0}
    more = {"drops": [], "num_flaws": 0, "flaws": [], "samples": []}
    found = {**values, **more, **changes}
    return {"bytes": found["stop"] - found["start"], **found}


def candidate(text, instruction="Describe a day in the village.", rejected=""):
    return Candidate(
        document=text,
        instruction=instruction,
        generator="g",
        logprob=-1.5,
        rejected=rejected,
    )


def score(pair, p_best, rejected=""):
    return Score(
        candidate=pair,
        p_best=p_best,
        p_flawed=1 - p_best,
        p_worst=0.0,
        score=(1 + p_best) / 2,
        evidence={},
        evaluator="e",
        rejected=rejected,
    )


def put(stage, name, records, facts):
    if "path" in facts:
        place = {key: facts[key] for key in ("path", "size", "start", "stop")}
        name = ingest.part_name(ByteRange(**place))
    stores.write_part(stage, name, map(to_row, records), facts)


@pytest.fixture
def store(tmp_path):
    made = stores.Store(str(tmp_path / "store"), recipe_in(tmp_path))
    made.open()
    return made


@pytest.fixture
def full(store):
    """Ten documents, their duplicates, candidates and scores, with parts read twice."""
    texts = [document(n, "ur" if n < 4 else "fi") for n in range(10)]
    drops = [["too_short", "fi", 3], ["other_language", "", 5], ["too_short", "ur", 1]]
    sample = {"reason": "too_short", "language": "ur", "chars": 12}
    put(
        store.documents,
        "a",
        texts[:6],
        facts(
            stop=3000,
            pages=14,
            drops=drops,
            samples=[{**sample, "url": "https://ur.example/x", "offset": 77}],
        ),
    )
    # A range beside it delivers two of the first one's documents again.
    put(store.documents, "b", texts[4:], facts(start=3000, pages=6))
    stores.write_json(
        f"{store.documents.folder}/duplicates.json",
        [["older_capture", "ur", 1], ["same_text", "fi", 1]],
    )
    unique = texts[1:9]
    pairs = [candidate(text) for text in unique[:5]]
    bad = candidate(unique[5], "Summarize this text.")
    failed = [candidate(unique[6], "", f"failed: {why}") for why in ("one", "two")]
    other = candidate(document(99), "Of a document that is not there any more.")
    put(store.candidates[0], "a", [*pairs, bad, failed[0]], {"rows": 7})
    put(store.candidates[0], "b", [pairs[0], bad, failed[1], other], {"rows": 4})
    judged = [score(pair, p) for pair, p in zip(pairs, (1, 0.5, 0.49, 0), strict=False)]
    judged.append(score(pairs[4], 0.0, "failed: the evaluator could not take it"))
    stray = score(candidate(unique[0], "Another generator's words for it."), 0.9)
    put(store.scores, "a", judged, {"rows": 5})
    put(store.scores, "b", [judged[0], judged[2], stray], {"rows": 3})
    return store


def steps_of(funnel):
    return {
        step.name: (
            step.entered.total(),
            step.left.total(),
            step.reasons,
            step.waiting,
        )
        for step in funnel.steps
    }


def test_read_funnel_counts_each_row_once_and_only_what_is_current(full):
    funnel = report.read_funnel(full.root)
    assert funnel.reading.pages == 20
    assert funnel.reading.dates == ("2026-01-01T00:00:00Z", "2026-01-10T00:00:00Z")
    assert steps_of(funnel) == {
        "documents": (19, 10, {"other_language": 5, "too_short": 4}, 0),
        "duplicates": (10, 8, {"older_capture": 1, "same_text": 1}, 0),
        "candidates": (8, 5, {"failed": 1, "ill_posed": 1}, 1),
        "scores": (5, 2, {"below_threshold": 2, "failed": 1}, 0),
    }
    assert funnel.p_best == {19: 1, 10: 1, 9: 1, 0: 1}
    assert funnel.step("documents").left == {"ur": 4, "fi": 6}
    assert funnel.step("duplicates").left == {"ur": 3, "fi": 5}
    assert funnel.step("scores").left == {"ur": 2}
    scores = {item.document.id: (item.score, item.p_best) for item in funnel.shown}
    assert scores == {"page-001": (1.0, 1.0), "page-002": (0.75, 0.5)}


def test_candidates_of_texts_that_a_later_run_replaced_are_told_apart(store):
    texts = [document(n) for n in range(3)]
    put(store.documents, "a", texts, facts())
    counts = f"{store.documents.folder}/duplicates.json"
    stores.write_json(counts, [["same_text", "fi", 1]])
    put(store.candidates[0], "a", map(candidate, texts), {"rows": 3})
    funnel = report.read_funnel(store.root)
    assert funnel.step("candidates").surplus == 1
    assert "  of texts that a later run replaced: 1" in report.as_text(funnel)


def test_read_funnel_reads_what_a_build_did_not_choose(full):
    folder = f"{full.root}/examples/{full.recipe.examples_hash()}"
    stores.write_json(f"{folder}/not_chosen.json", [["over_quota", "ur", 1]])
    funnel = report.read_funnel(full.root)
    assert steps_of(funnel)["examples"] == (2, 1, {"over_quota": 1}, 0)


def test_keep_above_decides_what_is_kept(full):
    stricter = dataclasses.replace(full.recipe.evaluator, keep_above=0.75)
    stores.Store(full.root, dataclasses.replace(full.recipe, evaluator=stricter)).open()
    assert report.read_funnel(full.root).step("scores").left.total() == 1


def test_without_its_checkpoints_the_newest_folders_are_read_and_named(full, tmp_path):
    older = stores.Stage(f"{full.root}/candidates/zzzz", Candidate)
    put(older, "a", [candidate(document(1), "Old words.")], {"rows": 1})
    os.utime(f"{older.folder}/a.parquet", (1, 1))
    before = report.read_funnel(full.root)
    folder = os.path.basename(full.candidates[0].folder)
    assert before.notes[1] == f"Read: candidates/{folder}, the recipe's."
    for model in ("generator", "evaluator"):
        (tmp_path / model / "config.json").unlink()
    after = report.read_funnel(full.root)
    assert steps_of(after) == steps_of(before)
    assert after.notes[1].startswith(f"Read: candidates/{folder}, the newest")


def test_parts_of_another_source_are_left_out_and_named(full):
    put(full.documents, "c", [document(50)], facts(path="crawl/b.warc.gz", pages=1))
    assert report.read_funnel(full.root).reading.pages == 21
    listed = [["crawl/a.warc.gz", 5000], ["crawl/c.warc.gz", 700]]
    stores.take_snapshot(full, [], listed)
    funnel = report.read_funnel(full.root)
    assert funnel.reading.pages == 20
    assert funnel.reading.bytes_left == 700
    assert any(note.startswith("Left out: 1 parts") for note in funnel.notes)


def test_as_text_lines_up_and_tells_reasons(full):
    lines = report.as_text(report.read_funnel(full.root)).splitlines()
    assert lines[1].split() == ["in", "out", "dropped"]
    assert lines[2].split() == ["documents", "19", "10", "9"]
    assert lines[3].split() == ["other_language", "5"]
    assert "  not done yet: 1" in lines
    at = lines[1].index("dropped") + len("dropped")
    assert {len(line) for line in lines[1:5]} == {at}


@pytest.mark.parametrize(("num", "more"), [(10, ""), (11, "  … and 1 more")])
def test_as_text_shows_ten_damaged_places(store, num, more):
    flaw = {"reason": "damaged", "detail": "checksum"}
    flaws = [{**flaw, "offset": 7 * at} for at in range(num)]
    put(store.documents, "a", [], facts(num_flaws=num, flaws=flaws))
    text = report.as_text(report.read_funnel(store.root))
    assert text.count("crawl/a.warc.gz, offset ") == 10
    assert ("more" in text) == bool(more)
    assert more in text


def test_more_damage_than_is_kept_is_still_counted(store):
    flaws = [{"offset": at, "reason": "damaged", "detail": ""} for at in range(1000)]
    put(store.documents, "a", [], facts(num_flaws=1500, flaws=flaws))
    funnel = report.read_funnel(store.root)
    assert (funnel.reading.num_damaged, len(funnel.reading.damage)) == (1500, 200)
    assert "… and 1,300 more" in report.page(funnel)


class _Parser(html.parser.HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed in order."""

    VOID = ("meta", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if not self.get_starttag_text().endswith("/>") or self._open[-1] == tag:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\ud800"


def test_hostile_text_stays_text(tmp_path):
    plain = HOSTILE.replace("\ud800", "").replace("\x1b", "")
    lenient = dataclasses.replace(
        recipe_in(tmp_path, name=plain), instructions=Instructions(rules=())
    )
    store = stores.Store(str(tmp_path / "store"), lenient)
    store.open()
    urls = [
        "javascript:alert(3)",
        "https://x/?" + plain.replace(" ", "+"),
        " data:text/html,x",
    ]
    sample = {"language": HOSTILE, "chars": 1, "offset": 1}
    text = document(1, text=HOSTILE.replace("\ud800", ""), url='https://x/"onclick="a')
    put(
        store.documents,
        "a",
        [text],
        facts(
            path=f"crawl/{plain}",
            drops=[[HOSTILE, HOSTILE, 1]],
            num_flaws=1,
            flaws=[{"offset": 1, "reason": HOSTILE, "detail": HOSTILE}],
            samples=[{**sample, "reason": url[:9], "url": url} for url in urls],
        ),
    )
    put(store.candidates[0], "a", [candidate(text, plain)], {"rows": 1})
    out = tmp_path / "report.html"
    report.write(store.root, str(out))
    parsed = _Parser(out.read_text(encoding="utf-8"))
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "img", "link", "base"})
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "src" not in attributes
        if tag == "a":
            assert attributes["href"].startswith("https://x")
            assert attributes["rel"] == "noopener nofollow"
    assert sum(tag == "a" for tag, _ in parsed.tags) == 2
    assert "<script>alert(1)</script>" in parsed.text
    assert "javascript:alert(3)" in parsed.text
    assert "\x1b" not in parsed.text
    shown = report.as_text(report.read_funnel(store.root))
    assert shown.replace("\n", "").isprintable()


def put_small_files(store, refinement, topic_map, diversity):
    folder = f"{store.root}/examples/{store.recipe.examples_hash()}"
    stores.write_json(f"{store.root}/refinement.json", refinement)
    stores.write_json(f"{folder}/not_chosen.json", [])
    stores.write_json(f"{folder}/map.json", topic_map)
    stores.write_json(f"{folder}/diversity.json", diversity)


def test_hostile_text_in_the_small_files_stays_text(full):
    evil = HOSTILE.replace("\ud800", "")
    point = dict.fromkeys(("language", "cluster", "chosen", "instruction"), evil)
    each = {"round": evil, "documents": evil, "acceptance_by_language": {evil: 1}}
    each |= {"evaluator": {"recall": {evil: 0.5}, "reliability": evil}}
    put_small_files(
        full,
        {"rounds": [each, each], "stopped": evil},
        {"points": [{"x": 0.5, "y": 0.5, **point}, evil]},
        {evil: {"asked": evil, "shortfall": evil, "before": evil}, "fi": evil},
    )
    parsed = _Parser(report.page(report.read_funnel(full.root)))
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "img", "link", "base"})
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
    # The recall's name, why it stopped, the instruction, language and shortfall.
    assert parsed.text.count("<script>alert(1)</script>") == 5


@pytest.mark.parametrize("nothing", [None, {}, [], "x", 3])
def test_small_files_that_say_nothing_change_nothing(full, nothing):
    put_small_files(full, nothing, nothing, nothing)
    funnel = report.read_funnel(full.root)
    assert funnel.refinement == nothing
    without = dataclasses.replace(
        funnel, refinement=None, topic_map=None, diversity=None
    )
    assert report.page(funnel) == report.page(without)


def test_rounds_and_map_are_read_where_they_lie(full, tmp_path):
    titles = ("Rounds of refinement", "The map of topics", "What choosing did")
    text = _Parser(report.page(report.read_funnel(full.root))).text
    assert not any(title in text for title in titles)
    put_small_files(
        full,
        {"rounds": [{"round": 1, "acceptance": 0.593}]},
        {"points": [{"x": 0.5, "y": 0.5, "instruction": "Tell a story."}]},
        {"ur": {"asked": 200, "available": 2, "chosen": 2}},
    )
    text = _Parser(report.page(report.read_funnel(full.root))).text
    assert all(title in text for title in titles)
    assert "59.3%" in text and "Tell a story." in text
    # They are also found when the recipe's hashes cannot be told.
    (tmp_path / "evaluator" / "config.json").unlink()
    assert titles[1] in _Parser(report.page(report.read_funnel(full.root))).text


def test_the_rules_are_those_of_the_recipe_as_it_is_now(full):
    step = report.read_funnel(full.root).step("candidates")
    assert step.reasons == {"failed": 1, "ill_posed": 1}
    english = Instructions(rules=("not_english",))
    changed = dataclasses.replace(full.recipe, instructions=english)
    stores.Store(full.root, changed).open()
    step = report.read_funnel(full.root).step("candidates")
    assert step.reasons == {"failed": 1}
    # The rule compares with the text of the very document.
    copied = Instructions(rules=("copies_response", "leaks_answer"), max_leaked=0)
    changed = dataclasses.replace(full.recipe, instructions=copied)
    stores.Store(full.root, changed).open()
    text = document(9)
    put(store := full.candidates[0], "c", [candidate(text, text.text)], {"rows": 1})
    assert store.folder == stores.Store(full.root, changed).candidates[0].folder
    step = report.read_funnel(full.root).step("candidates")
    assert step.reasons == {"copies_response": 1, "failed": 1}


def test_verbs_are_those_of_what_is_left(store):
    texts = [document(n) for n in range(4)]
    put(store.documents, "a", texts, facts())
    asked = ("Write a letter.", "Write a poem.", "List three birds.", "Boil an egg.")
    pairs = [candidate(*pair) for pair in zip(texts, asked, strict=True)]
    rejected = dataclasses.replace(pairs[3], rejected="unfinished")
    put(store.candidates[0], "a", [*pairs[:3], rejected], {"rows": 4})
    roots = [("write", "letter"), ("write", "poem"), ("list", "bird")]
    assert report.read_funnel(store.root).verbs == dict.fromkeys(roots, 1)
    judged = [
        score(pair, p) for pair, p in zip(pairs[:3], (0.9, 0.1, 0.8), strict=True)
    ]
    put(store.scores, "a", judged, {"rows": 3})
    funnel = report.read_funnel(store.root)
    assert funnel.verbs == {("write", "letter"): 1, ("list", "bird"): 1}
    assert "What the instructions ask for" in _Parser(report.page(funnel)).text


# What eyes see that lack one kind of cone, in linear RGB (Machado et al., 2009).
SIGHT = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(colour):
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def turned(rows, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in rows]


def oklab(rgb):
    cones = turned(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        [min(max(part, 0), 1) for part in rgb],
    )
    return turned(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        [part ** (1 / 3) for part in cones],
    )


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(("at", "paper"), [(0, "#ffffff"), (1, "#1c2022")])
def test_languages_can_be_told_apart_by_all_eyes(sight, at, paper):
    assert charts.COLOURS.keys() == LANGUAGES.keys()
    colours = [pair[at] for pair in charts.COLOURS.values()]
    seen = [oklab(turned(SIGHT[sight], linear(c))) for c in (*colours, paper)]
    for one, two in itertools.combinations(seen, 2):
        # .02 is the least difference that is noticed.
        assert math.dist(one, two) > 0.075


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (-3, -3.0),
        (True, None),
        (None, None),
        ("1", None),
        ([1], None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
    ],
)
def test_only_numbers_are_numbers(value, number):
    assert charts.number(value) == number
    assert (charts.figure(value, ".1f") == "–") == (number is None)


def test_the_page_needs_nothing_but_itself(full):
    text = report.page(report.read_funnel(full.root))
    assert not re.search(r"@import|url\(|<link|<script|<iframe|srcset|src=", text)
    assert "default-src 'none'" in text


def test_each_language_has_its_direction():
    assert 'lang="ur" dir="rtl"' in charts.foreign(TEXTS["ur"], "ur")
    for code in LANGUAGES.keys() - {"ur"}:
        assert f'lang="{code}" dir="ltr"' in charts.foreign(TEXTS[code], code)


@pytest.mark.parametrize(
    ("url", "is_link"),
    [
        ("http://a.example/", True),
        ("HTTPS://a.example/?q=1&r=2", True),
        ("ftp://a.example/", False),
        ("JavaScript:alert(1)//http://a.example", False),
        ("https://a.example/ b", False),
        ("//a.example/", False),
        ("https://[broken", True),
        ("", False),
    ],
)
def test_only_web_addresses_are_links(url, is_link):
    assert ("<a " in charts.link(url)) == is_link


def test_marks_that_turn_the_text_around_do_not_reach_the_page():
    assert "\u202e" not in charts.link("https://a.example/\u202egpj.exe")


def test_an_empty_store_says_so(tmp_path, store):
    nothing = report.read_funnel(str(tmp_path / "nowhere"))
    assert "Nothing was run" in report.as_text(nothing)
    assert "No recipe was run" in _Parser(report.page(nothing)).text
    opened = report.read_funnel(store.root)
    assert "nothing was read yet" in report.as_text(opened)
    text = _Parser(report.page(opened)).text
    assert "Not here yet: documents" in text
    assert not re.search("<table", report.page(opened))


def test_a_store_of_documents_says_what_is_next(store):
    put(store.documents, "a", [document(n, c) for n, c in enumerate(TEXTS)], facts())
    text = _Parser(report.page(report.read_funnel(store.root))).text
    assert "Not here yet: duplicates" in text
    assert "none has an instruction yet" in text
    assert all(sample in text for sample in TEXTS.values())
    assert "p_best" not in text


def test_at_most_three_texts_a_language_whatever_order_they_come_in(store):
    texts = [document(n) for n in range(20)]
    put(store.documents, "a", texts, facts())
    first = report.read_funnel(store.root).shown
    put(store.documents, "a", texts[::-1], facts())
    assert report.read_funnel(store.root).shown == first
    assert len(first) == 3
    assert {item.document.id for item in first} != {text.id for text in texts[:3]}


def test_lengths_stand_beside_the_papers(store):
    texts = [document(1, text="x" * 100), document(2, text="y" * 300)]
    put(store.documents, "a", texts, facts())
    text = report.page(report.read_funnel(store.root))
    assert ">200 ± 100<" in text
    assert ">1027 ± 553<" in text


def test_the_threshold_is_marked_where_it_is(tmp_path):
    bins = charts.histogram([1, 3], ["a", "b"], [], "", (0.25, "keep_above 0.25"))
    assert 'class="mark" x1="25.00%" x2="25.00%"' in bins
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', bins)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01)


def test_write_is_whole_or_not_at_all(full, tmp_path, monkeypatch):
    out = tmp_path / "new" / "report.html"
    report.write(full.root, str(out))
    first = out.read_bytes()
    assert first.endswith(b"</html>\n")
    report.write(full.root, str(out))
    assert out.read_bytes() == first

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        report.write(full.root, str(out))
    assert os.listdir(out.parent) == ["report.html"]
    assert out.read_bytes() == first


def test_write_refuses_what_is_not_on_this_machine(full):
    with pytest.raises(ValueError, match="gs://bucket"):
        report.write(full.root, "gs://bucket/report.html")


@pytest.mark.parametrize("code", TEXTS)
def test_beginning_cuts_between_words_or_characters(code):
    text = TEXTS[code]
    assert beginning(text, len(text)) == text
    for limit in range(20, len(text)):
        head = beginning(text, limit).removesuffix(" …")
        assert text.startswith(head) and limit // 2 < len(head) <= limit
        rest = text[len(head) :]
        assert not re.match(r"[\u0941\u0947\u094d\u0bcd\u0e31\u0e34\u0e49]", rest)
    if code != "th":
        assert text[len(beginning(text, 40)) - 2] == " "
