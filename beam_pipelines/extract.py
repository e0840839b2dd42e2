"""HTML → text: all of it, cheaply, for the gate; the main content for documents."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from html import unescape

import trafilatura
from lxml.etree import ElementDefaultClassLookup, LxmlError
from lxml.html import HtmlElement, HTMLParser, fromstring
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import (
    bytes_to_str,
    detect_encoding,
    map_encoding_to_html5,
)
from resiliparse.parse.html import HTMLTree
from trafilatura.utils import repair_faulty_html

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_SPACES = re.compile("[^\\S\n]+")
_BLANK_LINES = re.compile("\n\\s*\n+")
_META_BYTES = 4096
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w-]{1,30})", re.I)
_HIGH_BYTES = bytes(range(0x80, 0x100))
# A page of which so much is no UTF-8 is not UTF-8 with a flaw.
_MAX_BROKEN = 0.05
_CODE = re.compile("<(script|style|SCRIPT|STYLE)")
_TAG = re.compile("<[^>]*>?")
_SAMPLE_PLACES = (0.3, 0.5, 0.7)
_SAMPLE_CHARS = 8000
# Extraction takes time in the square of the depth: 100,000 nested tags would hold up a
# worker for hours. Pages that people wrote are some 30 deep.
_TOO_DEEP = "/*" * 250
_MAX_FRAGMENT_TAGS = 5000


def decode(body: bytes, charset: str) -> str:
    """A page's bytes as text, by the character set that fits them.

    What the bytes look like decides; what they are said to be is often wrong, and asked
    only where the looks say nothing. Bytes that fit no character set become U+FFFD.

    Args:
      body: HTML.
      charset: As the HTTP header declares it, or empty.
    """
    try:
        # Most of the web; anything else hardly ever decodes as this by accident.
        return body.decode("utf-8")
    except UnicodeDecodeError:
        encoding = detect_encoding(body, html5_compatible=True) or "utf-8"
    if encoding != "utf-8":
        return bytes_to_str(body, encoding, errors="replace")
    text = body.decode("utf-8", "replace")
    num_high = len(body) - len(body.translate(None, _HIGH_BYTES))
    if text.count("\ufffd") > _MAX_BROKEN * num_high:
        in_html = _META_CHARSET.search(body, 0, _META_BYTES)
        declared = in_html[1].decode("ascii") if in_html else ""
        for name in (charset, declared):
            known = map_encoding_to_html5(name, fallback_utf8=False)
            if known and known != "utf-8":
                return bytes_to_str(body, known, errors="replace")
    return text


def all_text(html: str) -> str:
    """Everything that a page shows, menus included."""
    return extract_plain_text(HTMLTree.parse(html), alt_texts=False)


def sample_text(html: str) -> str:
    """Some of what a page shows, from three places, at a fifth of the cost of all.

    Nothing is parsed: what looks like a tag is left out, and scripts and styles are.
    """
    shown = "".join(_without_code(html))
    pieces = []
    for place in _SAMPLE_PLACES:
        start = max(0, int(place * len(shown)) - _SAMPLE_CHARS // 2)
        piece = shown[start : start + _SAMPLE_CHARS]
        if start and -1 < (end := piece.find(">")) < piece.find("<"):
            piece = piece[end + 1 :]  # It began within a tag.
        pieces.append(_TAG.sub(" ", piece))
    # Whole texts may be written in references to characters.
    return unescape(" ".join(pieces))


def _without_code(html: str) -> Iterator[str]:
    """The parts of a page between its scripts and styles."""
    at = 0
    while found := _CODE.search(html, at):
        yield html[at : found.start()]
        at = html.find(f"</{found[1]}", found.end())
        if at < 0:
            return
    yield html[at:]


def main_text(html: str) -> str:
    """A page's main content: paragraphs, each on a line of its own; may be empty.

    trafilatura loses least in our languages; where it finds nothing, resiliparse does.
    """
    page, text = _parse(html), None
    if page is not None:
        if page.xpath(_TOO_DEEP):
            return ""
        text = trafilatura.extract(page, include_comments=False, include_tables=False)
    elif html.count("<") > _MAX_FRAGMENT_TAGS:
        return ""
    if not text:
        tree = HTMLTree.parse(html)
        text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return text or ""


def _parse(html: str) -> HtmlElement | None:
    """A page as trafilatura takes it; None if it is none."""
    beginning = html[:50].lower()
    content = repair_faulty_html(html, beginning).encode("utf-8", "replace")
    try:
        page = fromstring(content, parser=_parser())
    except (LxmlError, ValueError):
        return None
    return page if "html" in beginning or len(page) > 1 else None


@functools.cache
def _parser() -> HTMLParser:
    """Trafilatura's parser, whose elements are all of one class.

    lxml.html's own asks Python for the class of each element, form or not, and that is
    a twelfth of extraction's time.
    """
    parser = HTMLParser(
        encoding="utf-8",
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
        default_doctype=False,
    )
    parser.set_element_class_lookup(ElementDefaultClassLookup(element=HtmlElement))
    return parser


def tidy(text: str) -> str:
    """NFC, one blank line between paragraphs, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # NFC last: what stood on both sides of a control character may compose.
    text = unicodedata.normalize("NFC", _SPACES.sub(" ", _CONTROL.sub("", text)))
    lines = (line.strip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n", "\n".join(lines)).strip().replace("\n", "\n\n")
