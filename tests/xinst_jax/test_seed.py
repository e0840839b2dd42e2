import dataclasses
import json

import pytest

from xinst_jax import prompts, seed

PAIRS = [
    seed.Pair(
        instruction=f"How do I keep thing {number} of {topic} safe?",
        response=f"Neno la {topic} namba {number} lina sehemu nyingi sana hapa. " * 4,
        language=language,
        topic=topic,
    )
    for number in range(12)
    for topic in ("rice", "water")
    for language in ("sw", "fi")
]


def test_pairs_are_read_in_order_and_faults_are_located(tmp_path):
    rows = [{"instruction": f"i{n}", "response": "r", "language": "sw"} for n in (1, 2)]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert [p.instruction for p in seed.read([f"{tmp_path}/*.jsonl"])] == ["i1", "i2"]
    for line in (
        '{"instruction": "i"}',
        "no json",
        '["i"]',
        json.dumps(rows[0] | {"response": " "}),
    ):
        (tmp_path / "b.jsonl").write_text(f"{json.dumps(rows[0])}\n{line}")
        with pytest.raises(ValueError, match=r"b\.jsonl, line 2"):
            seed.read([f"{tmp_path}/*.jsonl"])
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        seed.read([f"{tmp_path}/none.jsonl"])


def test_one_instruction_is_on_one_side_only():
    kept, held = seed.split(PAIRS, 0.3)
    assert len(kept) + len(held) == len(PAIRS)
    assert 0.1 < len(held) / len(PAIRS) < 0.5
    assert not {p.instruction for p in kept} & {p.instruction for p in held}


def test_thinning_leaves_words_out_and_repeats_itself():
    thin = seed.thinned(PAIRS, 0.4, 5, 7)
    assert thin == seed.thinned(PAIRS, 0.4, 5, 7) != seed.thinned(PAIRS, 0.4, 5, 8)
    assert len(thin) == 5 * len(PAIRS)
    left = sum(len(p.response.split()) for p in thin) / 5
    whole = sum(len(p.response.split()) for p in PAIRS)
    assert left / whole == pytest.approx(0.6, abs=0.03)
    assert seed.thinned(PAIRS, 0.0, 5, 7) == PAIRS


def test_text_without_spaces_is_thinned_too():
    thai = seed.Pair(instruction="i", response="ข้าว" * 60, language="th")
    [thin] = seed.thinned([thai], 0.5, 1, 0)
    assert 40 < len(thin.response) < 200
    assert set(thin.response) <= set(thai.response)


def test_the_generator_s_pairs_show_a_limited_text():
    [(prompt, target), *_] = seed.reversed_pairs(PAIRS, 20)
    assert prompt == prompts.generate(PAIRS[0].response[:20])
    assert target == f" {PAIRS[0].instruction}"


def test_topics_are_taught_by_every_other_pair_that_has_one():
    taught = seed.topic_pairs(PAIRS, 20)
    assert len(taught) == len(PAIRS) / 2
    shown = {
        (prompts.topic(text[:20]), f" {pair.topic}")
        for pair in PAIRS
        for text in (pair.instruction, pair.response)
    }
    assert set(taught) <= shown
    # Both what was asked and what was answered are seen.
    starts = {prompt.split("### Text:\n")[1][:4] for prompt, _ in taught}
    assert starts == {"How ", "Neno"}
    without = [dataclasses.replace(pair, topic="") for pair in PAIRS]
    assert seed.topic_pairs(without, 20) == []


def test_prompts_are_the_paper_s_to_the_letter_and_safe_with_braces():
    assert prompts.answer("Say {language}.", "Tamil").endswith(
        "### Instruction:\nSay {language}. Answer in Tamil. \n\n### Response:"
    )
    assert " and the style of an AI assistant. \n\n" in prompts.answer(
        "Hi.", "Urdu", assistant=True
    )
    rated = prompts.rate("{response}", "{instruction}", "Thai")
    assert "### Instruction:\n{response}\n\n### Response:\n{instruction}\n\n" in rated
    assert prompts.generate("a {text}").count("a {text}") == 1
    assert prompts.topic("a {text}").count("a {text}") == 1


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 29, 30, 31, 90, 1000])
def test_an_excerpt_keeps_beginning_and_end(size):
    text = "".join(chr(0x4E00 + n) for n in range(size))
    for limit in (1, 2, 3, 4, 10, 30, 89):
        shown = prompts.excerpt(text, limit)
        if size <= limit:
            assert shown == text
            continue
        assert len(shown) <= limit + 3
        first, last = shown.split(" … ")
        assert text.startswith(first) and text.endswith(last)
        assert len(first) + len(last) == limit
        assert 2 * len(last) <= len(first)
        assert limit < 3 or last
