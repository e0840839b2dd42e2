r"""The templates that models are trained and asked with. Trailing spaces count.

`generate`, `answer` and `assistant` are the X-Instruction paper's, to the letter (Li et
al., ACL Findings 2024, as in its released code); `rate` and `topic` are ours. What
follows a prompt begins with one space, which is part of the target.
"""

GENERATE = (
    "Below is a text that describes a candidate output. Write an English instruction "
    "that can take the given text as an appropriate answer.\n\n### Text:\n{text}\n\n"
    "### English Instruction:"
)
ANSWER = (
    "Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n{instruction} Answer in "
    "{language}. \n\n### Response:"
)
ASSISTANT = (
    "Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\n{instruction} Answer in "
    "{language} and the style of an AI assistant. \n\n### Response:"
)
RATE = (
    "Below is an English instruction and a candidate response in {language}. Rate the "
    "response: best, flawed or worst.\n\n### Instruction:\n{instruction}\n\n"
    "### Response:\n{response}\n\n### Rating:"
)
TOPIC = "Below is a text. Name its topic.\n\n### Text:\n{text}\n\n### Topic:"
RATINGS = (" best", " flawed", " worst")
LANGUAGE_NAMES = {
    "fi": "Finnish",
    "id": "Indonesian",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "bn": "Bengali",
    "hi": "Hindi",
    "sw": "Swahili",
    "ta": "Tamil",
    "ur": "Urdu",
}


def generate(text: str) -> str:
    """Asks for the instruction that `text` answers."""
    return GENERATE.replace("{text}", text)


def answer(instruction: str, language: str, *, assistant: bool = False) -> str:
    """Asks for a response.

    Args:
      instruction: English.
      language: The English name of the language to answer in.
      assistant: In an assistant's style, as pairs written for the purpose are; web
        text is not.
    """
    template = ASSISTANT if assistant else ANSWER
    # The language first: an instruction may hold braces.
    return template.replace("{language}", language).replace(
        "{instruction}", instruction
    )


def rate(instruction: str, response: str, language: str) -> str:
    """Asks for one of `RATINGS`.

    Args:
      instruction: English.
      response: In `language`.
      language: Its English name.
    """
    head, tail = RATE.replace("{language}", language).split("{instruction}")
    return head + instruction + tail.replace("{response}", response)


def topic(text: str) -> str:
    """Asks what a text is about."""
    return TOPIC.replace("{text}", text)


def excerpt(text: str, max_chars: int) -> str:
    """A text as a model is shown it: all, or its beginning and its end.

    The end tells whether a text is whole.

    Args:
      text: Of any length.
      max_chars: Two thirds of these are for the beginning.
    """
    if len(text) <= max_chars:
        return text
    tail = max_chars // 3
    return f"{text[: max_chars - tail]} … {text[len(text) - tail :]}"
