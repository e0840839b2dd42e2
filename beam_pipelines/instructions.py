"""Which instructions are used: rules on what is stored of the generator's."""

import re
import unicodedata
from collections.abc import Callable, Iterator

from beam_pipelines.language import fast_guess
from beam_pipelines.recipe import Instructions
from beam_pipelines.schema import Candidate

_LETTERS = re.compile(r"[A-Za-z]")
_COPIED_WORDS = 4
# A name or a title that both have is shorter.
_MIN_LEAKED_CHARS = 30


def drop_reason(candidate: Candidate, settings: Instructions) -> str | None:
    """Why a candidate is not used, by name: the generator's reason, or a broken rule.

    Args:
      candidate: As stored.
      settings: The rules and their bounds.

    Returns:
      None if it is used.
    """
    # What follows a colon is for people, and differs from one to the next.
    stored = candidate.rejected.partition(":")[0]
    response = candidate.document.text
    return stored or reject_reason(candidate.instruction, response, settings)


def reject_reason(
    instruction: str, response: str, settings: Instructions
) -> str | None:
    """The first rule that an instruction breaks, by name; None if it breaks none.

    Args:
      instruction: As generated, in one line.
      response: The text that it was generated for.
      settings: The rules and their bounds.
    """
    for rule in settings.rules:
        if _BREAKS[rule](instruction, response, settings):
            return rule
    return None


def starts_badly(text: str) -> bool:
    """Whether a text starts with a sign that English does not start with.

    Letters of any alphabet, digits and opening quotation marks are none.
    """
    return not text[:1].isascii() and not (
        text[0].isalnum() or unicodedata.category(text[0]) == "Pi"
    )


def is_english(text: str) -> bool:
    """Whether a short text may be English: its letters are, and no detector objects."""
    printable = text.replace(" ", "")
    letters = len(_LETTERS.findall(printable))
    return letters > 0.7 * len(printable) and fast_guess(text) in ("", "en")


def copied_share(instruction: str, response: str) -> float:
    """The share of the instruction's word 4-grams that the response has too."""
    ours = set(_ngrams(instruction))
    return len(ours.intersection(_ngrams(response))) / len(ours) if ours else 0.0


def leaked_share(instruction: str, response: str) -> float:
    """The longest run of characters of the response, as a share of the instruction.

    Case and the width of spaces do not count. A run of less than 30 characters is none.
    """
    ours, theirs = (" ".join(text.lower().split()) for text in (instruction, response))
    longest = _MIN_LEAKED_CHARS - 1
    for start in range(len(ours)):
        while (
            start + longest < len(ours) and ours[start : start + longest + 1] in theirs
        ):
            longest += 1
    return longest / len(ours) if longest >= _MIN_LEAKED_CHARS else 0.0


def is_ill_posed(instruction: str) -> bool:
    """Whether an instruction asks for an input that is not there.

    In this data the response is the text itself: what would be summarized, translated
    or looked at is nowhere. An instruction that brings its input, after a colon or as a
    quoted phrase, is well-posed; so is one whose text it asks for itself ("Write a
    story. The story ...").
    """
    text = " ".join(instruction.split()).replace("’", "'")
    if _POINTS.search(text):
        return True
    brought = _BROUGHT.search(text)
    if not brought and _ASKS.search(text):
        return True
    for found in _MENTIONS.finditer(text):
        noun = found["pointed"] or found["bare"]
        asked_for = rf"\b(?:{_INDEFINITE})\s+(?:[\w-]+\s+){{0,3}}?{noun}\b"
        before = text[: found.start()]
        introduced = noun and re.search(asked_for, before, re.I)
        # "..., and why is this information useful?" speaks of what was said before.
        spoken_of = re.fullmatch(_MORE, noun or "", re.I) and _CLAUSE.search(before)
        here = brought and found.end() <= brought.start()
        if not (introduced or spoken_of or here):
            return True
    return False


# What may be asked about without being there. The second list holds what instructions
# also name in general ("the story of ..."), and so counts only where it is pointed at.
_TEXTS = (
    r"(?:text|passage|article|paragraph|excerpt|extract|sentence|document|poem|essay|"
    r"conversation|dialogue|transcript|snippet|tweet|e-?mail|letter|message|review|"
    r"report|statement|speech|announcement|press release|abstract|interview|verse|"
    r"news(?: (?:article|story|item|report))?|webpage|blog post|post|photo(?:graph)?|"
    r"picture|image|video|chart|graph|audio|recording|infographic|screenshot|lyrics)"
)
_MORE = (
    r"(?:story|page|website|site|blog|content|information|data|list|table|code|program|"
    r"script|function|book|song|joke|title|headline|word|phrase|proverb|saying|quote|"
    r"question|problem statement|term|expression|option|line|description|input|"
    r"advertisement|ad|product|recipe|file|link|url|attachment|context|facts|notes|"
    r"hadith|prayer|commentary|thread|comment|map|figure|diagram|equation)"
)
_ANY = rf"(?:{_TEXTS}|{_MORE})"
_INDEFINITE = r"an?|one|another|some|my|our|your|his|her|their|short|brief"
_LATER = (
    r"(?:days?|weeks?|months?|years?|morning|evening|night|season|decade|century|round)"
)

# Colons of times and verses (3:16) bring nothing.
_BROUGHT = re.compile(
    r":\s+\W?\w|:\s*[\"“‘'«]|(?<!\w)[\"“‘'«](?=\w)[^\"”»]{2,}[\"”’'»](?!\w)"
)

# These point at something, whatever else the instruction brings.
_POINTS = re.compile(
    rf"\b{_ANY}s?\s+(?:above|below)\b"
    r"|\b(?:mentioned|described|listed|given|shown|stated|quoted|provided|written|"
    r"presented) (?:above|below|here)\b"
    rf"|\b(?:the|an?|these) (?:above|attached|enclosed)(?!-average)[\w-]*\s+"
    rf"(?:[\w-]+\s+){{0,2}}?{_ANY}s?\b"
    r"|\b(?:from|in|of|see|read|using|on|explain|summari[sz]e) the (?:above|below)"
    r"(?=[\s.?!,]*$)"
    rf"|^given (?:the|an?|this|these|two|some) (?:[\w-]+\s+){{0,2}}?{_ANY}s?\b"
    # Links and films cannot be an answer in words.
    r"|(?:^|[.!?] |\bplease |\byou |\bme )(?:find|give|provide|share|send|show|post|"
    r"get|include|search for|look for)\b(?: (?:me|us))?"
    r"(?: (?:the|an?|some|any|related|more))?(?: [\w-]+)? "
    r"(?:link|url|video(?! (?:cards?|games?|editors?))|picture|photo|image|"
    r"clip)s?\b(?! between)"
    r"|\b(?:click|tap)(?: on)? (?:the|this|here)\b"
    r"|\b(?:open|visit|follow|watch|view|see|look at|listen to|play) "
    r"(?:the|this|these) (?:[\w-]+ )?"
    r"(?:link|url|video|clip|picture|photo|image|audio|recording)s?\b",
    re.I,
)

_CLAUSE = re.compile(r"(?:\S+\s+){4,}?\S+[,;.?!]\s")
_START = (
    r"(?:^|[.!?;]\s+|\bplease,?\s+|\b(?:can|could|would|will) you\s+(?:please\s+)?|"
    r"\bwant you to\s+|\bhelp me(?: to)?\s+)"
)
_CHANGE = (
    r"(?:summari[sz]e|translate|paraphrase|rephrase|rewrite|reword|proofread|shorten|"
    r"condense|simplify|edit)"
)
_HERE = rf"(?:this|these|the|its|an?|given|following|{_TEXTS}s?)"
# These ask for what would have to be there, unless it is.
_ASKS = re.compile(
    # "Summarize.", "Translate to English.", "Rewrite it in simple words."
    rf"{_START}{_CHANGE}(?:\s+(?:it|them|this|that|briefly))?"
    r"(?=\s*(?:[.!?,]|$)|\s+(?:in(?:to)?|to|as|for|using|with|from)\b)"
    # "Summarize the speech of the minister", whoever's it is.
    rf"|{_START}{_CHANGE}\s+(?:{_HERE}\s+)(?:[\w'-]+\s+){{0,3}}?{_TEXTS}s?\b"
    rf"|{_START}{_CHANGE}\s+{_TEXTS}s?\b"
    # "Give a summary of the news", "Write a headline for the article"
    r"|\b(?:summary|translation|paraphrase|gist|headline|title|caption|meaning|"
    r"conclusion|key points|main points) "
    rf"(?:of|for) (?:the|this|these) (?:[\w'-]+\s+){{0,2}}?{_TEXTS}s?\b"
    # "the given city", "You are given two questions."
    r"|\b(?:the|these) (?:given|provided|supplied|underlined|highlighted)\s+(?!name\b)"
    r"\w|\b(?:are|is|was|were|been) (?:given|provided|shown) (?:to (?:you|us)\b|with\b|"
    r"below\b|(?=[.,?!]))|\byou (?:are|were|have been) (?:given|provided|shown)\b"
    r"|\b(?:information|details?|facts|description|context|data|examples?) "
    r"(?:given|provided|supplied)\b"
    r"|\b(?:what (?:is|are)|identify|find|give|state|list|summari[sz]e|explain) the "
    r"(?:main|central|key) (?:idea|point|topic|theme|message|argument)s?(?=\s*[.?!]|$)"
    r"|\bthe (?:author|speaker|writer|narrator|interviewee|poet)'s "
    r"(?:view|opinion|point|purpose|argument|attitude|tone|main|message)"
    r"|\b(?:according to|(?:does|did|is|was) the) "
    r"(?:author|speaker|writer|narrator|interviewee|poet)\b(?! of)"
    r"|\banswer (?:the|these|all) (?:[\w-]+\s+)?questions?\b"
    r"|\b(?:complete|finish|continue) the (?:sentence|story|dialogue|poem|text|"
    r"conversation|paragraph)s?\b(?! of)"
    r"|\bfill in the (?:blank|gap)s?\b"
    r"|\b(?:choose|select|pick|mark) the (?:correct|right|best|most \w+) "
    r"(?:option|answer|word|alternative|title|choice)s?\b",
    re.I,
)

_AFTER = (
    r"(?=\s*(?:[.?!,;:)]|$)|'s\b|\s+(?:in(?:to)?|to|and|or|is|are|was|were|say|says|said|"
    r"using|as|so|with|from|that|for|mean|means|discuss|mention|describe|show|shows|"
    r"about|on|by|given|provided|attached|teach|tell|tells|then|if|when|please|"
    r"correctly|briefly|without|at|like)\b)"
)
# A text that is spoken of as if it were there.
_MENTIONS = re.compile(
    rf"\b(?:this|these|the (?:following|given|provided|supplied|preceding|previous|"
    rf"said|below|passed))\s+(?!kind|sort|type)(?:[\w'-]+\s+){{0,2}}?"
    rf"(?P<pointed>{_ANY})s?\b"
    rf"|\bthe following\b(?! {_LATER}\b)(?! [\w-]+ {_LATER}\b)"
    rf"|\bthe (?P<bare>{_TEXTS})s?\b{_AFTER}",
    re.I,
)

_BREAKS: dict[str, Callable[[str, str, Instructions], bool]] = {
    "instruction_too_short": lambda ours, _, bounds: len(ours) < bounds.min_chars,
    "instruction_too_long": lambda ours, _, bounds: len(ours) > bounds.max_chars,
    "bad_start": lambda ours, _, __: starts_badly(ours),
    "not_english": lambda ours, _, __: not is_english(ours),
    "ill_posed": lambda ours, _, __: is_ill_posed(ours),
    "copies_response": lambda ours, theirs, bounds: (
        copied_share(ours, theirs) > bounds.max_copied
    ),
    "leaks_answer": lambda ours, theirs, bounds: (
        leaked_share(ours, theirs) > bounds.max_leaked
    ),
}


def _ngrams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(_COPIED_WORDS)), strict=False)
