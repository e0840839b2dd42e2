r"""An example → a prompt and its target, in the words of the paper that proposes them.

A *format* is what `data.batches` takes as `pair_of`. Prompt and target, one after the
other, are the paper's text to the letter; the loss is on the target alone. Needs no
JAX.

The columns of an example, as text or UTF-8; `columns` of a format says which it needs:

```
id                 of the example; choices between forms are made by its hash
instruction        English
output             in output_language, an ISO 639-1 code
output_en          the same in English
instruction_xx     the instruction in output_language
instruction_other  the instruction in a third language
input, input_xx, input_other
                   what an instruction is about, beside it; absent or empty if nothing
origin             where a mixture has it from, such as seed or web
```

Where a paper leaves something open, it is decided here and marked *ours*.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from xinst_jax import prompts, seed

Pair = tuple[str, str]

# PLUG (arXiv 2311.08711). The first marker and what stands between the parts are ours.
PLUG = (
    "<|system|>\nPlease interpret the instruction in English, and then respond both in "
    "English and in {language}.\n<|user|>\n{instruction_xx}\n<|assistant|>\n"
)
PLUG_RESPONSE = (
    "English instruction: {instruction}\n\nEnglish response: {output_en}\n\n"
    "{marker} {output}"
)
# The first four are the paper's; no native speaker has checked the others.
PLUG_MARKERS = {
    "zh": "中文回复：",
    "it": "Risposta in italiano:",
    "es": "Respuesta en español:",
    "ko": "한국어 응답:",
    "fi": "Vastaus suomeksi:",
    "id": "Jawaban dalam bahasa Indonesia:",
    "th": "คำตอบภาษาไทย:",
    "tr": "Türkçe yanıt:",
    "vi": "Câu trả lời bằng tiếng Việt:",
    "bn": "বাংলা উত্তর:",
    "hi": "हिंदी उत्तर:",
    "sw": "Jibu kwa Kiswahili:",
    "ta": "தமிழ் பதில்:",
    "ur": "اردو جواب:",
}
# CrossIn (arXiv 2404.11932): Alpaca's form, with a line break and a space at its end.
CROSSIN = (
    "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n "
)
CROSSIN_TRANSLATE = "Translate the following sentence into English."
# AFP (arXiv 2311.08089), up to the space before the target.
AFP = "{instruction} Answer in {language}:"
AFP_INPUT = "{instruction} {input} Answer in {language}:"
AFP_TRANSLATE = "{sentence} Translate into {language}:"
AFP_EQUALS = "{sentence} ="
# Ours: roles as PLUG writes them, and X-Instruction's words on the language.
CHAT = "<|user|>\n{content}\n<|assistant|>\n"
CHAT_USER = "{instruction} Answer in {language}."

_NAMES = prompts.LANGUAGE_NAMES | {
    "en": "English",
    "zh": "Chinese",
    "it": "Italian",
    "es": "Spanish",
    "ko": "Korean",
}
_CONTEXTS = ("input", "input_xx", "input_other")
_COLUMNS = (
    "id",
    "instruction",
    "output",
    "output_language",
    "output_en",
    "instruction_xx",
    "instruction_other",
    "origin",
    *_CONTEXTS,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How examples are written for training.

    Attributes:
      render: From an example's columns, as text, to prompt and target.
      columns: Which ones must hold text.
      contexts: Of `input`, `input_xx` and `input_other`, those that are shown. Where
        an instruction comes with an input, they must hold text.
      translates: The task is to translate the instruction, which does not need the
        input that the instruction comes with.
    """

    render: Callable[[Mapping[str, str]], Pair]
    columns: tuple[str, ...]
    contexts: tuple[str, ...] = ()
    translates: bool = False

    def __call__(self, example: Mapping[str, Any]) -> Pair:
        """Prompt and target of an example.

        Raises:
          ValueError: A column that is needed is missing or empty; the example has an
            input, and the format no place for it; or its language is not known.
        """
        row = _texts(example)
        needed = self.columns
        if not self.translates and any(row.get(name) for name in _CONTEXTS):
            needed += self.contexts
            if not self.contexts:
                raise ValueError(
                    f"Example {row.get('id')!r} has an input, and this format no place "
                    "for one: make it a part of the instruction."
                )
        for name in needed:
            if not (row.get(name) or "").strip():
                raise ValueError(
                    f"Example {row.get('id')!r} has no text in {name!r}; this format "
                    f"needs {', '.join(needed)}. Give it, from a parallel seed or a "
                    "translator, or choose another format."
                )
        if row["output_language"] not in _NAMES:
            raise ValueError(
                f"Example {row.get('id')!r}: output_language is "
                f"{row['output_language']!r}; expected one of {', '.join(_NAMES)}."
            )
        return self.render(row | {name: row.get(name) or "" for name in _CONTEXTS})


def named(name: str) -> Format:
    """The format of a name.

    Raises:
      ValueError: There is none; the message names those that there are.
    """
    if name not in FORMATS:
        raise ValueError(f"No format {name!r}; choose from {', '.join(FORMATS)}.")
    return FORMATS[name]


def by_origin(names: Mapping[str, str]) -> Callable[[Mapping[str, Any]], Pair]:
    """A format for each origin of a mixture's examples.

    Args:
      names: From an origin to the name of its format. X-Instruction's own are
        `{"seed": "xinstruction_aug", "web": "xinstruction"}`.

    Returns:
      What `data.batches` takes as `pair_of`. It raises `ValueError` on an example of
      another origin.
    """
    chosen = {origin: named(name) for origin, name in names.items()}

    def pair_of(example: Mapping[str, Any]) -> Pair:
        origin = _texts(example).get("origin")
        if origin not in chosen:
            raise ValueError(
                f"Example {example.get('id')!r} is of origin {origin!r}; there are "
                f"formats for {', '.join(chosen)}."
            )
        return chosen[origin](example)

    return pair_of


def with_pair(
    keyed: tuple[str, Mapping[str, Any]], name: str
) -> tuple[str, dict[str, Any]]:
    """A keyed example, as TFDS builds from, with its `prompt` and `target` added.

    Args:
      keyed: Any key, and the example.
      name: Of the format.
    """
    key, example = keyed
    prompt, target = named(name)(example)
    return key, {**example, "prompt": prompt, "target": target}


def messages(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """What `chat` renders, as the list of roles that trainers with a template take.

    There is no system message: several models' templates refuse one.

    Raises:
      ValueError: As `chat` does.
    """
    _, target = FORMATS["chat"](example)
    return [
        {"role": "user", "content": _chat_user(_texts(example))},
        {"role": "assistant", "content": target},
    ]


def _texts(example: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that formats read. Others need not be text."""
    return {
        name: value.decode("utf-8") if isinstance(value, bytes) else value
        for name, value in example.items()
        if name in _COLUMNS
    }


def _fill(template: str, **parts: str) -> str:
    # In one pass: what is put in may hold braces, or a field's very name.
    return re.sub(r"\{(\w+)\}", lambda field: parts[field[1]], template)


def _language(row: Mapping[str, str]) -> str:
    return _NAMES[row["output_language"]]


def _is_first_form(row: Mapping[str, str]) -> bool:
    """True for half of all ids."""
    return seed.position(f"form {row['id']}") < 0.5


def _xinstruction(row: Mapping[str, str]) -> Pair:
    return prompts.answer(row["instruction"], _language(row)), f" {row['output']}"


def _xinstruction_aug(row: Mapping[str, str]) -> Pair:
    prompt = prompts.answer(row["instruction"], _language(row), assistant=True)
    return prompt, f" {row['output']}"


def _chat_user(row: Mapping[str, str]) -> str:
    return _fill(CHAT_USER, instruction=row["instruction"], language=_language(row))


def _chat(row: Mapping[str, str]) -> Pair:
    return _fill(CHAT, content=_chat_user(row)), row["output"]


def _plug(row: Mapping[str, str]) -> Pair:
    if row["output_language"] not in PLUG_MARKERS:
        raise ValueError(
            f"Example {row.get('id')!r}: PLUG goes from English into one of "
            f"{', '.join(PLUG_MARKERS)}, not into {row['output_language']!r}."
        )
    prompt = _fill(
        PLUG, language=_language(row), instruction_xx=row["instruction_xx"].strip()
    )
    target = _fill(
        PLUG_RESPONSE,
        instruction=row["instruction"].strip(),
        output_en=row["output_en"].strip(),
        marker=PLUG_MARKERS[row["output_language"]],
        output=row["output"].strip(),
    )
    return prompt, target


def _crossin(instruction: str, context: str, output: str) -> Pair:
    return _fill(CROSSIN, instruction=instruction, input=context), output


def _crossin_en_x(row: Mapping[str, str]) -> Pair:
    context = f"{row['input']}\n[{row['output_language']}]"
    return _crossin(row["instruction"], context, row["output"])


def _crossin_x_en(row: Mapping[str, str]) -> Pair:
    context = f"{row['input_xx']}\n[en]"
    return _crossin(row["instruction_xx"], context, row["output_en"])


def _crossin_x_x(row: Mapping[str, str]) -> Pair:
    context = f"{row['input_other']}\n[{row['output_language']}]"
    return _crossin(row["instruction_other"], context, row["output"])


def _crossin_translation(row: Mapping[str, str]) -> Pair:
    return _crossin(CROSSIN_TRANSLATE, row["instruction_xx"], row["instruction"])


def _afp_answer(
    row: Mapping[str, str], instruction: str = "instruction", context: str = "input"
) -> Pair:
    prompt = _fill(
        AFP_INPUT if row[context] else AFP,
        instruction=row[instruction],
        input=row[context],
        language=_language(row),
    )
    return prompt, f" {row['output']}"


def _afp_parallel(row: Mapping[str, str]) -> Pair:
    if _is_first_form(row):
        return _afp_answer(row)
    return _afp_answer(row, "instruction_xx", "input_xx")


def _afp_translation(row: Mapping[str, str]) -> Pair:
    prompt = _fill(
        AFP_TRANSLATE if _is_first_form(row) else AFP_EQUALS,
        sentence=row["instruction"],
        language=_language(row),
    )
    return prompt, f" {row['instruction_xx']}"


_ANSWERED = ("instruction", "output", "output_language")

# `xinstruction_aug` is the released code's name for the words of an assistant, which
# seed pairs are trained with and everyone asks with; web text is trained without.
FORMATS: Mapping[str, Format] = types.MappingProxyType(
    {
        "xinstruction": Format(render=_xinstruction, columns=_ANSWERED),
        "xinstruction_aug": Format(render=_xinstruction_aug, columns=_ANSWERED),
        "chat": Format(render=_chat, columns=_ANSWERED),
        "plug": Format(
            render=_plug, columns=(*_ANSWERED, "instruction_xx", "output_en")
        ),
        "crossin_en_x": Format(
            render=_crossin_en_x, columns=_ANSWERED, contexts=("input",)
        ),
        "crossin_x_en": Format(
            render=_crossin_x_en,
            columns=("instruction_xx", "output_en", "output_language"),
            contexts=("input_xx",),
        ),
        "crossin_x_x": Format(
            render=_crossin_x_x,
            columns=("instruction_other", "output", "output_language"),
            contexts=("input_other",),
        ),
        "crossin_translation": Format(
            render=_crossin_translation,
            columns=("instruction", "instruction_xx", "output_language"),
            translates=True,
        ),
        "afp": Format(render=_afp_answer, columns=_ANSWERED, contexts=("input",)),
        # The instruction is in the output's own language half of the time.
        "afp_parallel": Format(
            render=_afp_parallel,
            columns=("id", *_ANSWERED, "instruction_xx"),
            contexts=("input", "input_xx"),
        ),
        # Of the instruction, into the output's language: no other sentence is sure to
        # have a translation.
        "afp_translation": Format(
            render=_afp_translation,
            columns=("id", "instruction", "instruction_xx", "output_language"),
            translates=True,
        ),
    }
)
