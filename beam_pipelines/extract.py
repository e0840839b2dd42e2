"""HTML → text: all of it, cheaply, for the gate; the main content for documents."""

import re
import unicodedata

import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_SPACES = re.compile("[^\\S\n]+")
_BLANK_LINES = re.compile("\n\\s*\n+")
# Extraction takes time in the square of the depth: 100,000 nested tags would hold up a
# worker for hours. Pages that people wrote are some 30 deep.
_TOO_DEEP = "/*" * 250


def decode(body: bytes, charset: str) -> str:
    """A page's bytes as text, by the character set that fits them.

    What the bytes look like decides; the HTTP header is often wrong. Bytes that fit no
    character set become U+FFFD.

    Args:
      body: HTML.
      charset: As the HTTP header declares it, or empty.
    """
    try:
        # Most of the web; anything else hardly ever decodes as this by accident.
        return body.decode("utf-8")
    except UnicodeDecodeError:
        encoding = detect_encoding(body, html5_compatible=True)
    return bytes_to_str(
        body,
        encoding or charset or "utf-8",
        errors="replace",
        fallback_encodings=("utf-8",),
    )


def all_text(html: str) -> str:
    """Everything that a page shows, menus included."""
    return extract_plain_text(HTMLTree.parse(html), alt_texts=False)


def main_text(html: str) -> str:
    """A page's main content: paragraphs, each on a line of its own; may be empty.

    trafilatura loses least in our languages; where it finds nothing, resiliparse does.
    """
    tree = trafilatura.load_html(html)
    if tree is None or tree.xpath(_TOO_DEEP):
        return ""
    text = trafilatura.extract(tree, include_comments=False, include_tables=False)
    if not text:
        tree = HTMLTree.parse(html)
        text = extract_plain_text(tree, main_content=True, alt_texts=False)
    return text or ""


def tidy(text: str) -> str:
    """NFC, one blank line between paragraphs, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # NFC last: what stood on both sides of a control character may compose.
    text = unicodedata.normalize("NFC", _SPACES.sub(" ", _CONTROL.sub("", text)))
    lines = (line.strip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n", "\n".join(lines)).strip().replace("\n", "\n\n")
