"""Why a text is unusable: rules with a name, a value and a threshold.

`measure` computes every rule's value, so that a document keeps them all and a threshold
can be judged later; `drop_reason` compares them with a recipe's thresholds.
"""

import re
import unicodedata
from collections.abc import Iterator

from beam_pipelines.language import script_counts
from beam_pipelines.recipe import Documents
from beam_pipelines.schema import LANGUAGES

_SENTENCE_ENDS = tuple(".!?…:;।॥۔؟\"'”’»)")
_NGRAM_WORDS = 5

# Phrases of cookie notices, privacy policies and terms of use, rare elsewhere.
_POLICY_PHRASES = {
    "fi": "evästeet, evästeitä, evästeiden, tietosuoja, tietosuojaseloste, "
    "käyttöehdot, "
    "henkilötietoja, henkilötietojen, rekisterinpitäjä, suostumus",
    "id": "cookie, kebijakan privasi, ketentuan layanan, ketentuan, persetujuan, "
    "kebijakan, privasi, data pribadi, pengguna",
    "th": "คุกกี้, นโยบาย, ความเป็นส่วนตัว, ข้อกำหนด, ยินยอม, ข้อมูลส่วนบุคคล",
    "tr": "çerez, çerezler, çerezleri, gizlilik, politikası, kullanım koşulları, "
    "kişisel veriler, kişisel verilerin, kişisel verileriniz, açık rıza, onay, "
    "aydınlatma metni",
    "vi": "cookie, chính sách bảo mật, chính sách, điều khoản, bảo mật, thu thập, "
    "dữ liệu cá nhân, thông tin cá nhân, sự đồng ý, quyền riêng tư",
    "bn": "কুকি, গোপনীয়তা, নীতিমালা, শর্তাবলী, সম্মতি, ব্যক্তিগত তথ্য",
    "hi": "कुकी, कुकीज़, कुकीज, गोपनीयता, गोपनीयता नीति, नीति, शर्तें, सहमति, "
    "व्यक्तिगत जानकारी, व्यक्तिगत डेटा",
    "sw": "vidakuzi, faragha, sera, masharti, ridhaa, taarifa binafsi, data binafsi",
    "ta": "குக்கீ, குக்கீகள், தனியுரிமை, கொள்கை, விதிமுறைகள், ஒப்புதல்",
    "ur": "کوکیز, رازداری, پالیسی, شرائط, رضامندی, ذاتی معلومات",
}


def _any_of(phrases: str, *, spaced: bool) -> re.Pattern[str]:
    """Matches any of some phrases, the longest first, as whole words if spaced."""
    ordered = sorted(phrases.split(", "), key=lambda phrase: (-len(phrase), phrase))
    pattern = "|".join(map(re.escape, map(_nfc, ordered)))
    # Not \\b: the vowel signs of Indic scripts are no word characters to `re`.
    return re.compile(rf"(?<!\S)\W?({pattern})(?=\W?(?:\s|$))" if spaced else pattern)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_POLICY = {
    code: _any_of(phrases, spaced=code != "th")
    for code, phrases in _POLICY_PHRASES.items()
}
_LOREM = re.compile(r"\b(lorem ipsum|dolor sit amet|consectetur adipiscing)\b", re.I)
_SCRIPTS_WITH_MARKS = ("Beng", "Deva", "Taml")
_JOINERS = "\u200c\u200d"


def measure(text: str, language: str) -> dict[str, float]:
    """The value of every rule for a text.

    Args:
      text: Paragraphs, as `extract.tidy` leaves them.
      language: A key of `LANGUAGES`.

    Returns:
      chars; script: share of letters in the language's own script; repeated_lines and
      repeated_ngrams: shares of characters; mean_line: characters; ended_lines: share
      of lines; stray_marks: share of combining marks; policy_words: per 100 words;
      lorem: occurrences; replaced: share of U+FFFD.
    """
    lines = [line for line in text.split("\n") if line]
    words = _words(text, language)
    counts = script_counts(text)
    own = counts[LANGUAGES[language].script]
    return {
        "chars": float(len(text)),
        "script": _share(own, sum(counts.values())),
        "repeated_lines": _share(_repeated_chars(lines), sum(map(len, lines))),
        "repeated_ngrams": _repeated_ngrams(words),
        "mean_line": _share(sum(map(len, lines)), len(lines)),
        "ended_lines": _share(
            sum(line.endswith(_SENTENCE_ENDS) for line in lines), len(lines)
        ),
        "stray_marks": _stray_marks(text, LANGUAGES[language].script),
        "policy_words": 100 * _share(_policy_words(text, language), len(words)),
        "lorem": float(len(_LOREM.findall(text))),
        "replaced": _share(text.count("\ufffd"), len(text)),
    }


def drop_reason(
    checks: dict[str, float], language: str, limits: Documents
) -> str | None:
    """The first rule that a text breaks, by name; None if it breaks none.

    Args:
      checks: From `measure`.
      language: A key of `LANGUAGES`.
      limits: The recipe's thresholds.
    """
    # Thai marks sentences with spaces, so the ends of its lines say nothing.
    min_ended_lines = 0.0 if language == "th" else limits.min_ended_lines
    broken = {
        "too_short": checks["chars"] < limits.min_chars,
        "lorem_ipsum": checks["lorem"] > 0,
        "undecodable": checks["replaced"] > 0.001,
        "mixed_script": checks["script"] < limits.min_script,
        "repeated_lines": checks["repeated_lines"] > limits.max_repeated_lines,
        "repeated_ngrams": checks["repeated_ngrams"] > limits.max_repeated_ngrams,
        "short_lines": checks["mean_line"] < limits.min_mean_line,
        "no_sentences": checks["ended_lines"] < min_ended_lines,
        "stray_marks": checks["stray_marks"] > limits.max_stray_marks,
        "policy": checks["policy_words"] > limits.max_policy_words,
    }
    return next((name for name, is_broken in broken.items() if is_broken), None)


def pieces(text: str, limits: Documents) -> Iterator[str]:
    """A text in the length window: whole, or cut at the ends of paragraphs.

    A single paragraph longer than the window is left out, as is what remains too short.

    Args:
      text: Paragraphs separated by blank lines.
      limits: The window, and how many pieces one page may give.
    """
    piece, given = "", 0
    for paragraph in (*text.split("\n\n"), None):
        if paragraph is not None:
            longer = f"{piece}\n\n{paragraph}" if piece else paragraph
            if len(longer) <= limits.max_chars:
                piece = longer
                continue
        # The first piece of a short page passes too, to be dropped by name.
        if len(piece) >= limits.min_chars or (paragraph is None and not given):
            yield piece
            given += 1
        if given == limits.max_pieces:
            return
        piece = paragraph if paragraph and len(paragraph) <= limits.max_chars else ""


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _words(text: str, language: str) -> list[str]:
    """Words; where they are not spaced, characters."""
    if language == "th":
        return [character for character in text if not character.isspace()]
    return text.lower().split()


def _repeated_chars(lines: list[str]) -> int:
    """Characters in lines that occurred before."""
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return repeated


def _repeated_ngrams(words: list[str]) -> float:
    """Share of characters in word 5-grams seen before, as Gopher's rule counts them."""
    size = _NGRAM_WORDS if words and len(max(words, key=len)) > 1 else 4 * _NGRAM_WORDS
    seen: set[tuple[str, ...]] = set()
    repeated, at = 0, 0
    while at + size <= len(words):
        ngram = tuple(words[at : at + size])
        if ngram in seen:
            repeated += sum(map(len, ngram))
            at += size
        else:
            seen.add(ngram)
            at += 1
    return _share(repeated, sum(map(len, words)))


def _stray_marks(text: str, script: str) -> float:
    """Share of combining marks that follow neither a letter nor another mark's letter.

    Text copied out of a PDF or an old font has vowel signs before their consonants,
    doubled, or at the start of a word; clean text has next to none.
    """
    if script not in _SCRIPTS_WITH_MARKS:
        return 0.0
    marks = stray = 0
    previous = " "
    for character in text:
        if unicodedata.category(character) in ("Mn", "Mc"):
            marks += 1
            alone = not previous.isalpha() and unicodedata.category(previous)[0] != "M"
            stray += alone or previous == character or _two_vowels(previous, character)
        if character not in _JOINERS:
            previous = character
    return _share(stray, marks)


def _two_vowels(first: str, second: str) -> bool:
    """Whether both are dependent vowel signs, of which a consonant takes only one."""
    return all("VOWEL SIGN" in unicodedata.name(mark, "") for mark in (first, second))


def _policy_words(text: str, language: str) -> int:
    """Words in phrases of policies; in Thai, characters."""
    found = [match.group() for match in _POLICY[language].finditer(text.lower())]
    return sum(len(phrase if language == "th" else phrase.split()) for phrase in found)
