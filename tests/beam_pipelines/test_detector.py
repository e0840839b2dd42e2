"""The quick detector against langdetect's own."""

import json
import random
from pathlib import Path

import pytest
from langdetect import detector_factory
from langdetect.detector import Detector
from langdetect.lang_detect_exception import LangDetectException

from beam_pipelines import language
from beam_pipelines.detector import QuickDetector

PAGES = Path(__file__).parents[2] / "examples" / "pages"
TEXTS = [
    "\n\n".join(json.loads(line)["paragraphs"])
    for path in sorted(PAGES.glob("*.jsonl"))
    for line in path.read_text("utf-8").splitlines()
]
ODD = [
    "",
    "   ",
    "123 456",
    "A",
    "AB cd",
    "NASA na UNESCO zilisema HIVYO",
    "see https://a.example/b?c or mail to a.b@c.example  now   then",
    "ti\u1ebfng Vi\u1ec7t e\u0302\u0301 o\u031b\u0300",
    "\u0219i \u021bara",
    "日本語のテキスト ひらがな カタカナ 한국어",
    "x" * 11_000,
    ("word  " * 3000),
]


def probabilities(kind: type[Detector], text: str) -> list[tuple[str, float]]:
    found = kind(detector_factory._factory)
    found.append(text)
    try:
        return [(item.lang, item.prob) for item in found.get_probabilities()]
    except LangDetectException as error:
        return [(str(error), 0.0)]


def mixed(seed: int) -> str:
    """Pieces of pages in several languages, with capitals, numbers and spaces."""
    rng = random.Random(seed)
    pieces = []
    for _ in range(rng.randrange(1, 8)):
        text = rng.choice(TEXTS)
        start = rng.randrange(len(text))
        piece = text[start : start + rng.randrange(1, 300)]
        pieces.append(rng.choice([str, str.upper, str.title, str.swapcase])(piece))
    return rng.choice([" ", "  ", "\n", " 12 ", "\u3000", "\xa0"]).join(pieces)


@pytest.mark.parametrize("texts", [TEXTS, ODD, [mixed(n) for n in range(300)]])
def test_every_probability_is_langdetects_to_the_last_bit(texts):
    language._load_detectors()
    for text in texts:
        text = text[:2000] if len(text) < 10_000 else text
        assert probabilities(QuickDetector, text) == probabilities(Detector, text), text
