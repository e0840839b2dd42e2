import json
import random
import re

import pytest

from tests.conftest import REPOSITORY, loaded_by
from xinst_jax import data, formats
from xinst_jax.packing import RowShape

# One example with every column, no two of which share a word.
ROW = {
    "id": "row-0",
    "instruction": "How do I dry maize?",
    "output": "Yaanike juani.",
    "output_language": "sw",
    "output_en": "Spread it in the sun.",
    "instruction_xx": "Nikaushe vipi mahindi?",
    "instruction_other": "Mısırı nasıl kuruturum?",
}
INPUTS = {"input": "It rains.", "input_xx": "Mvua.", "input_other": "Yağmur."}
TASK = (
    "Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n"
)
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)
# Every form of every format, typed from the papers: prompt, target.
FORMS = [
    (
        "xinstruction",
        ROW,
        f"{TASK}How do I dry maize? Answer in Swahili. \n\n### Response:",
        " Yaanike juani.",
    ),
    (
        "xinstruction_aug",
        ROW,
        f"{TASK}How do I dry maize? Answer in Swahili and the style of an AI assistant."
        " \n\n### Response:",
        " Yaanike juani.",
    ),
    (
        "chat",
        ROW,
        "<|user|>\nHow do I dry maize? Answer in Swahili.\n<|assistant|>\n",
        "Yaanike juani.",
    ),
    (
        "plug",
        ROW,
        "<|system|>\nPlease interpret the instruction in English, and then respond both"
        " in English and in Swahili.\n<|user|>\nNikaushe vipi mahindi?\n"
        "<|assistant|>\n",
        "English instruction: How do I dry maize?\n\n"
        "English response: Spread it in the sun.\n\n"
        "Jibu kwa Kiswahili: Yaanike juani.",
    ),
    (
        "plug",
        ROW
        | {
            "instruction_xx": " 怎么晒玉米？\n",
            "output": "\n放在阳光下。 ",
            "output_language": "zh",
        },
        "<|system|>\nPlease interpret the instruction in English, and then respond both"
        " in English and in Chinese.\n<|user|>\n怎么晒玉米？\n<|assistant|>\n",
        "English instruction: How do I dry maize?\n\n"
        "English response: Spread it in the sun.\n\n中文回复： 放在阳光下。",
    ),
    (
        "crossin_en_x",
        ROW | INPUTS,
        f"{ALPACA}How do I dry maize?\n\n### Input:\nIt rains.\n[sw]\n\n"
        "### Response:\n ",
        "Yaanike juani.",
    ),
    (
        "crossin_en_x",
        ROW,
        f"{ALPACA}How do I dry maize?\n\n### Input:\n\n[sw]\n\n### Response:\n ",
        "Yaanike juani.",
    ),
    (
        "crossin_x_en",
        ROW | INPUTS,
        f"{ALPACA}Nikaushe vipi mahindi?\n\n### Input:\nMvua.\n[en]\n\n"
        "### Response:\n ",
        "Spread it in the sun.",
    ),
    (
        "crossin_x_x",
        ROW | INPUTS,
        f"{ALPACA}Mısırı nasıl kuruturum?\n\n### Input:\nYağmur.\n[sw]\n\n"
        "### Response:\n ",
        "Yaanike juani.",
    ),
    (
        "crossin_translation",
        ROW | INPUTS,
        f"{ALPACA}Translate the following sentence into English.\n\n### Input:\n"
        "Nikaushe vipi mahindi?\n\n### Response:\n ",
        "How do I dry maize?",
    ),
    (
        "afp",
        ROW,
        "How do I dry maize? Answer in Swahili:",
        " Yaanike juani.",
    ),
    (
        "afp",
        ROW | INPUTS,
        "How do I dry maize? It rains. Answer in Swahili:",
        " Yaanike juani.",
    ),
]
# The forms that an id's hash decides between.
EITHER = {
    "afp_translation": {
        ("How do I dry maize? Translate into Swahili:", " Nikaushe vipi mahindi?"),
        ("How do I dry maize? =", " Nikaushe vipi mahindi?"),
    },
    "afp_parallel": {
        ("How do I dry maize? It rains. Answer in Swahili:", " Yaanike juani."),
        ("Nikaushe vipi mahindi? Mvua. Answer in Swahili:", " Yaanike juani."),
    },
}


@pytest.mark.parametrize(("name", "row", "prompt", "target"), FORMS)
def test_every_form_is_the_paper_s_to_the_letter(name, row, prompt, target):
    assert formats.FORMATS[name](row) == (prompt, target)
    encoded = {key: value.encode() for key, value in row.items()}
    assert formats.FORMATS[name](encoded) == (prompt, target)


@pytest.mark.parametrize("name", EITHER)
def test_both_forms_come_equally_often_and_an_id_decides(name):
    rows = [ROW | INPUTS | {"id": f"row-{number}"} for number in range(2000)]
    found = [formats.FORMATS[name](row) for row in rows]
    assert set(found) == EITHER[name]
    # Five standard deviations.
    assert abs(found.count(found[0]) - 1000) < 112
    assert [formats.FORMATS[name](row) for row in reversed(rows)] == found[::-1]


def test_no_format_is_without_a_test_to_the_letter():
    assert {name for name, *_ in FORMS} | set(EITHER) == set(formats.FORMATS)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_text_is_inserted_once_as_it_is(name):
    # What a template could take for a field, a group or an escape.
    pieces = [
        *(f"{{{column}}}" for column in ROW),
        *("{language}", "{input}", "{sentence}", "{marker}", "{content}", "{}", "{0}"),
        *(r"\1", r"\g<0>", "\\", "%s", "}{", "[sw]", "<|user|>", "\n", "ไทย"),
    ]
    draw = random.Random(name)
    for number in range(200):
        row = {"id": f"{number}", "output_language": "sw"}
        texts = {
            column: f"a{''.join(draw.choices(pieces, k=3))}z"
            for column in set(ROW | INPUTS) - set(row) - refused(name)
        }
        rendered = "\0".join(formats.FORMATS[name](row | texts))
        # The same with marks, in which a template finds nothing of its own.
        marks = {column: f"<<{column}>>" for column in texts}
        marked = "\0".join(formats.FORMATS[name](row | marks))
        pieces_of_it = re.split(r"<<(\w+)>>", marked)
        pieces_of_it[1::2] = [texts[column] for column in pieces_of_it[1::2]]
        assert rendered == "".join(pieces_of_it)


def refused(name: str) -> set[str]:
    known = formats.FORMATS[name]
    return set() if known.contexts or known.translates else set(INPUTS)


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("empty", [None, "", " \n", b""])
def test_a_missing_column_is_named_and_no_other_is_needed(name, empty):
    known = formats.FORMATS[name]
    least = {column: ROW[column] for column in known.columns}
    assert all(known(least))
    for column in known.columns:
        without = {key: value for key, value in least.items() if key != column}
        if empty is not None:
            without[column] = empty
        with pytest.raises(ValueError, match=f"no text in '{column}'.*translator"):
            known(without)


def test_an_input_is_shown_or_refused_and_never_lost():
    for known in formats.FORMATS.values():
        if known.translates:
            continue
        if not known.contexts:
            with pytest.raises(ValueError, match=r"'row-0' has an input.*no place"):
                known(ROW | {"input": "It rains."})
            continue
        for number in range(8):
            prompt, _ = known(ROW | INPUTS | {"id": str(number)})
            assert any(INPUTS[column] in prompt for column in known.contexts)
        for column in known.contexts:
            without = {key: text for key, text in INPUTS.items() if key != column}
            with pytest.raises(ValueError, match=f"no text in '{column}'"):
                known(ROW | without)
    assert formats.FORMATS["crossin_translation"](ROW | INPUTS)


def test_an_unknown_language_format_or_origin_is_named():
    with pytest.raises(ValueError, match="'row-0': output_language is 'xx'"):
        formats.FORMATS["afp"](ROW | {"output_language": "xx"})
    with pytest.raises(ValueError, match="not into 'en'"):
        formats.FORMATS["plug"](ROW | {"output_language": "en"})
    with pytest.raises(ValueError, match="No format 'plugg'; choose from xinst"):
        formats.named("plugg")
    with pytest.raises(ValueError, match="No format 'b'"):
        formats.by_origin({"a": "b"})
    pair_of = formats.by_origin({"seed": "xinstruction_aug", "web": "xinstruction"})
    for origin in ({}, {"origin": "english"}):
        with pytest.raises(ValueError, match="formats for seed, web"):
            pair_of(ROW | origin)


def test_each_origin_has_its_suffix():
    pair_of = formats.by_origin({"seed": "xinstruction_aug", "web": "xinstruction"})
    assert "AI assistant" in pair_of(ROW | {"origin": "seed"})[0]
    assert "AI assistant" not in pair_of(ROW | {"origin": b"web"})[0]


def test_messages_say_what_chat_renders():
    row = ROW | {"instruction": "Say {language}."}
    roles = formats.messages(row)
    assert roles == [
        {"role": "user", "content": "Say {language}. Answer in Swahili."},
        {"role": "assistant", "content": "Yaanike juani."},
    ]
    text = "".join(f"<|{m['role']}|>\n{m['content']}\n" for m in roles)
    assert "".join(formats.FORMATS["chat"](row)) + "\n" == text


def test_every_language_of_ours_has_a_marker_of_its_own():
    markers = list(formats.PLUG_MARKERS.values())
    assert len(set(markers)) == len(markers)
    for code in formats.prompts.LANGUAGE_NAMES:
        _, target = formats.FORMATS["plug"](ROW | {"output_language": code})
        assert target.endswith(f"{formats.PLUG_MARKERS[code]} Yaanike juani.")
    assert all(marker.endswith((":", "：")) for marker in markers)


def test_a_column_that_is_no_text_does_not_matter():
    image = {"image": b"\xff\xd8", "score": 0.5, "robots": [b"noai"]}
    assert formats.FORMATS["afp"](ROW | image) == formats.FORMATS["afp"](ROW)


def test_formats_and_mixtures_load_no_jax_and_no_grain():
    statement = "import xinst_jax.formats, xinst_jax.mixtures"
    assert loaded_by(statement, ("jax", "grain", "numpy")) == set()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_batch_s_loss_is_on_the_target_and_its_end_alone(name, byte_tokenizer):
    lines = (REPOSITORY / "examples" / "seed" / "sw.jsonl").read_text().splitlines()
    rows = []
    for number, line in enumerate(lines[:12]):
        pair = json.loads(line)
        own = {"output": pair["response"], "instruction": pair["instruction"]}
        rows.append(ROW | own | {"id": f"{number}"})
    tokenizer = byte_tokenizer()
    shape = RowShape(rows=2, tokens=4096, slots=8, slot_tokens=2048)
    expected = sorted(formats.FORMATS[name](row) for row in rows)
    end, found = 1, []
    for batch in data.batches(
        rows, tokenizer, end, shape, pair_of=formats.FORMATS[name]
    ):
        for tokens, slots, lens, index, targets in zip(
            batch.rows.tokens,
            batch.rows.slot_index,
            batch.rows.lens,
            batch.index,
            batch.targets,
            strict=True,
        ):
            # The token after each state that predicts: what the loss is on.
            learnt = {int(at) + 1: int(t) for at, t in zip(index, targets, strict=True)}
            learnt.pop(shape.tokens + 1, None)
            for places, length in zip(slots, lens, strict=True):
                if length == 1:
                    continue
                own = [int(at) for at in places[:length]]
                ids = [int(tokens[at]) for at in own]
                mask = [at in learnt for at in own]
                start = mask.index(True)
                assert mask == [at >= start for at in range(length)]
                assert [learnt.pop(at) for at in own[start:]] == ids[start:]
                assert ids[-1] == end and end not in ids[:-1]
                parts = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:-1])
                found.append(parts)
            assert not learnt, "a loss that is no example's"
    assert sorted(found) == expected
