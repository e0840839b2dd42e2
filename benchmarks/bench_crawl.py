"""Makes a crawl on disk that weighs what Common Crawl weighs.

    python benchmarks/bench_crawl.py out/bench/crawl

Its pages are 165 KB of HTML on average, 33 KB compressed. A twelfth of that is text;
4.6 % of the pages are in our languages. Each is a request, a response and a metadata
record, one gzip member each. `plain-*` declares no languages, `declared-*` holds the
same pages with their true ones, `wet-*` (if asked for) their text; `labels.jsonl` says
what each page is.

The text is this repository's: sentences of the bundled pages and seed, in new orders.
What surrounds it, from menus to scripts and inline images, is drawn at random with the
sizes that such things have. The same arguments write the same bytes.
"""

import argparse
import base64
import bisect
import collections
import contextlib
import dataclasses
import functools
import hashlib
import html
import itertools
import json
import math
import random
import re
import statistics
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

EXAMPLES = Path(__file__).parents[1] / "examples"

# Label, ISO 639-3 and per cent of the pages of a crawl. Ours and most neighbours are as
# in CC-MAIN-2026-04, rounded; the others are estimates.
OURS = {
    "tr": ("tur", 1.199), "id": ("ind", 1.149), "vi": ("vie", 1.098),
    "th": ("tha", 0.393), "fi": ("fin", 0.363), "hi": ("hin", 0.224),
    "bn": ("ben", 0.110), "ta": ("tam", 0.050), "ur": ("urd", 0.032),
    "sw": ("swa", 0.013),
}  # fmt: skip
NEIGHBOURS = {
    "ar": ("ara", 0.663), "fa": ("fas", 0.195), "et": ("est", 0.140),
    "ms": ("msa", 0.083), "az": ("aze", 0.058), "ne": ("nep", 0.057),
    "mr": ("mar", 0.033), "uz": ("uzb", 0.030), "ml": ("mal", 0.030),
    "so": ("som", 0.006), "lo": ("lao", 0.006), "rw": ("kin", 0.003),
    "as": ("asm", 0.003), "jv": ("jav", 0.002), "zu": ("zul", 0.002),
    "pnb": ("pnb", 0.001), "mai": ("mai", 0.001),
}  # fmt: skip
MAJORITY = {
    "en": ("eng", 44.0), "ru": ("rus", 6.2), "de": ("deu", 5.6), "ja": ("jpn", 5.4),
    "zh": ("zho", 5.0), "es": ("spa", 4.6), "fr": ("fra", 4.4), "it": ("ita", 2.5),
    "pt": ("por", 2.3), "nl": ("nld", 1.9), "pl": ("pol", 1.8), "ko": ("kor", 0.8),
    "sv": ("swe", 0.7),
}  # fmt: skip
SHARE_OF_OURS = sum(share for _, share in OURS.values()) / 100

MEDIAN_PAGE_BYTES = 94_000
PAGE_SIGMA = 1.1  # Of a log-normal size: the mean is 1.8 medians.
MAX_PAGE_BYTES = 1 << 20  # There older crawls cut pages.
SHARE_OF_LEGACY_CHARSETS = 0.1  # Of pages in languages that have one.
SHARE_OF_OTHER_CAPTURES = 0.03  # Files that are no HTML, redirects, missing pages.

_CHARSETS = {
    "tr": ("windows-1254", "iso-8859-9"), "th": ("tis-620",),
    "fi": ("iso-8859-1", "windows-1252"), "ru": ("windows-1251", "koi8-r"),
    "ja": ("shift_jis", "euc-jp"), "zh": ("gbk", "gb18030"), "ko": ("euc-kr",),
    "pl": ("iso-8859-2",), "ar": ("windows-1256",), "de": ("iso-8859-1",),
    "fr": ("windows-1252",), "es": ("iso-8859-1",), "pt": ("iso-8859-1",),
    "it": ("windows-1252",), "sv": ("iso-8859-1",), "et": ("windows-1257",),
}  # fmt: skip
_GOLDEN = (math.sqrt(5) - 1) / 2
_RIGHT_TO_LEFT = {"ur", "fa", "ar", "pnb"}
_UNSPACED = {"th", "lo", "zh", "ja"}
_SENTENCE = re.compile(r"(?<=[.!?।۔؟])\s+|(?<=[。！？])")


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """Sentences by language, put together anew for every page.

    Attributes:
      sentences: By label.
      codes: ISO 639-3, by label.
      shares: Of all pages, in [0, 1], by label.
    """

    sentences: dict[str, list[str]]
    codes: dict[str, str]
    shares: dict[str, float]

    @classmethod
    def bundled(cls) -> "Texts":
        """Of this repository."""
        found: dict[str, list[str]] = collections.defaultdict(list)
        for file in sorted((EXAMPLES / "pages").glob("*.jsonl")):
            for row in map(json.loads, file.read_text("utf-8").splitlines()):
                if "fault" not in row:
                    for paragraph in row["paragraphs"]:
                        found[row["language"]] += _split(paragraph)
        for file in sorted((EXAMPLES / "seed").glob("*.jsonl")):
            for row in map(json.loads, file.read_text("utf-8").splitlines()):
                found[row["language"]] += _split(row["response"])
        for label, text in _MAJORITY_TEXTS.items():
            found[label] += _split(text)
        table = OURS | NEIGHBOURS | MAJORITY
        return cls(
            dict(found),
            {label: code for label, (code, _) in table.items()},
            {label: share / 100 for label, (_, share) in table.items()},
        )

    @classmethod
    def read(cls, path: Path) -> "Texts":
        """Of a file of JSON lines, each a `text` and its `label`.

        Labels are ISO 639-1 where they are ours, else `!` and ISO 639-3.
        """
        found: dict[str, list[str]] = collections.defaultdict(list)
        for row in map(json.loads, path.read_text("utf-8").splitlines()):
            found[row["label"]] += _split(row["text"])
        labels = sorted(found)
        codes = {x: OURS[x][0] if x in OURS else x.strip("!")[:3] for x in labels}
        known = dict((OURS | NEIGHBOURS | MAJORITY).values())
        times = collections.Counter(codes.values())
        # What is not in the table is rare; two labels of one language share its pages.
        shares = {x: known.get(c, 0.02) / times[c] / 100 for x, c in codes.items()}
        return cls(dict(found), codes, shares)

    def plan(self, num_pages: int, minimum: int, draw: random.Random) -> list[str]:
        """The label of every page, in random order.

        Args:
          num_pages: Of the crawl.
          minimum: So many pages at least of each of our languages and their
            neighbours: too few Swahili or Malay pages would show neither what is lost
            nor what is let in.
          draw: Of the order.
        """
        common = {code for code, _ in MAJORITY.values()}
        ours = [x for x in self.sentences if x in OURS]
        rest = [x for x in self.sentences if self.codes[x] in common]
        near = [x for x in self.sentences if x not in {*ours, *rest}]
        share_near = sum(self.shares[x] for x in near)
        num_ours = max(round(SHARE_OF_OURS * num_pages), minimum * len(ours))
        num_near = max(round(share_near * num_pages), minimum * len(near))
        labels = [
            *self._divide(num_ours, ours, minimum),
            *self._divide(num_near, near, minimum),
            *self._divide(max(0, num_pages - num_ours - num_near), rest, 0),
        ]
        draw.shuffle(labels)
        return labels

    def _divide(self, num: int, among: list[str], minimum: int) -> Iterator[str]:
        """`num` labels by their shares, and at least so many of each."""
        counts = dict.fromkeys(among, minimum)
        for _ in range(num - minimum * len(among)):
            counts[min(among, key=lambda x: (counts[x] + 1) / self.shares[x])] += 1
        for label, count in counts.items():
            yield from itertools.repeat(label, count)

    def paragraphs(self, label: str, chars: int, draw: random.Random) -> list[str]:
        """About so many characters; a sentence comes again only when all have come."""
        paragraphs: list[str] = []
        sentences: list[str] = []
        total = 0
        joint = "" if label in ("zh", "ja") else " "
        while total < chars:
            sentences = sentences or draw.sample(
                self.sentences[label], len(self.sentences[label])
            )
            taken = 1 if label in ("th", "lo") else draw.randint(2, 5)
            paragraphs.append(joint.join(sentences[:taken]))
            del sentences[:taken]
            total += len(paragraphs[-1])
        return paragraphs

    def headline(self, label: str, draw: random.Random, words: int = 7) -> str:
        """The beginning of a sentence."""
        sentence = draw.choice(self.sentences[label])
        if label in _UNSPACED:
            return sentence[: 3 * words].strip(" 。、，")
        return " ".join(sentence.split()[:words]).strip(" ,;:.।۔")


def _split(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]


# --- What surrounds the text ---------------------------------------------------------

_STYLES = (
    "c-{0}__{1} c-{0}__{1}--{2}",
    "css-{3} sc-{4}",
    "flex items-center px-{5} py-2 text-sm font-medium md:{2} hover:text-{1} {0}-{1}",
    "{0}-{1}",
    "wp-block-{0} is-layout-{2} has-{1}-font-size wp-elements-{3}",
    "col-md-{5} {0} {1}_{2} js-{1}",
)
_NOUNS = (
    "card title link media body grid item list menu image label meta date author tag "
    "panel hero teaser badge icon button wrap inner row column block price caption"
).split()
_ADJECTIVES = "small wide dark active primary hidden compact inline fluid left".split()
_VERBS = "get set load init render update bind track push parse send open close".split()


def _name(draw: random.Random) -> str:
    return f"{draw.choice(_VERBS)}{draw.choice(_NOUNS).title()}"


def _token(draw: random.Random, num_bytes: int = 6) -> str:
    return base64.b32encode(draw.randbytes(num_bytes)).decode().strip("=").lower()


def _script_line(draw: random.Random) -> str:
    """A minified function."""
    a, b, c = draw.choices("abcdefghijklmnoprstuvwx", k=3)
    f, g = _name(draw), _name(draw)
    word, number = draw.choice(_NOUNS), draw.randrange(10_000)
    return draw.choice(
        (
            f"function {f}({a},{b}){{var {c}={a}.length;return {b}?{c}:this.{g}({a})}}",
            f'{a}.{f}=function({b}){{if(!{b}||{b}.type!=="{word}")return null;'
            f"return {b}.{g}({number})}};",
            f"const {a}=e=>t=>{{const{{{f}:{b},...{c}}}=t;return e({{...{c},"
            f'{word}:{b}??"{_token(draw, 4)}"}})}};',
            f"{number}:({a},{b},{c})=>{{{c}.d({b},{{{f}:()=>{a}.{g}}});var "
            f'i={c}({number * 7 % 9973});i.{f}("{word}",{number})}},',
            f'window.{f}=window.{f}||[];{f}.push({{event:"{word}",id:"{_token(draw)}",'
            f"value:{draw.random():.4f}}});",
            f"try{{{f}({number},{{{word}:!0,{draw.choice(_NOUNS)}:!1}})}}"
            f"catch({a}){{{g}({a})}}",
        )
    )


def _style_line(draw: random.Random) -> str:
    name, other = draw.choice(_NOUNS), draw.choice(_ADJECTIVES)
    number = draw.randrange(64)
    return draw.choice(
        (
            f".{name}-{_token(draw, 3)}{{display:flex;padding:{number}px 1rem}}",
            f"@media (min-width:{number * 16}px){{.{name}--{other}"
            f"{{margin:0 {number / 16:.3f}rem;width:{number * 1.5625:.4f}%}}}}",
            f".{name} .{name}__{other}:hover{{color:#{draw.getrandbits(24):06x};"
            f"background:rgba(0,0,0,.{number})}}",
            f":root{{--{name}-{other}-{number}:#{draw.getrandbits(24):06x};}}",
        )
    )


def _data_line(draw: random.Random) -> str:
    """An object of a page's state."""
    number = draw.getrandbits(30)
    return json.dumps(
        {
            "id": number,
            "type": draw.choice(_NOUNS),
            "slug": f"{draw.choice(_NOUNS)}-{_token(draw, 4)}",
            "image": {
                "src": f"https://cdn{number % 5}.example/media/{_token(draw)}.jpg",
                "width": number % 1600,
                "height": number % 900,
            },
            "tags": draw.choices(_ADJECTIVES, k=2),
            "score": round(draw.random(), 5),
            "isActive": number % 2 == 0,
        },
        separators=(",", ":"),
    )


def _path(draw: random.Random, steps: int) -> str:
    """An SVG outline."""
    points = (
        f"{draw.choice('lcshv')}{draw.uniform(-9, 9):.2f} {draw.uniform(-9, 9):.2f}"
        for _ in range(steps)
    )
    return f"M{draw.randrange(24)} {draw.randrange(24)}{''.join(points)}z"


class _Filler:
    """A long text of short lines, of which pages take pieces."""

    def __init__(self, line: Callable[[random.Random], str], size: int) -> None:
        draw = random.Random(line.__name__)
        lines = [line(draw) for _ in range(size)]
        self._text = "\n".join(lines)
        self._ends = list(itertools.accumulate(len(line) + 1 for line in lines))

    def take(self, chars: int, draw: random.Random, joint: str = "\n") -> str:
        """About `chars` characters of whole lines from anywhere."""
        pieces = []
        while chars > 0:
            first = draw.randrange(len(self._ends) - 1)
            start = self._ends[first]
            last = min(
                bisect.bisect_left(self._ends, start + chars), len(self._ends) - 1
            )
            pieces.append(self._text[start : self._ends[max(last, first + 1)] - 1])
            chars -= len(pieces[-1]) + 1
        joined = "\n".join(pieces)
        return joined if joint == "\n" else joined.replace("\n", joint)


@functools.cache
def _fillers() -> dict[str, _Filler]:
    return {
        "script": _Filler(_script_line, 6000),
        "style": _Filler(_style_line, 6000),
        "data": _Filler(_data_line, 4000),
    }


class _Site:
    """One web site: its markup differs from the next one's, its pages' does not."""

    def __init__(self, number: int) -> None:
        draw = random.Random(f"site {number}")
        style = draw.choice(_STYLES)

        def name() -> str:
            return style.format(
                draw.choice(_NOUNS),
                draw.choice(_NOUNS),
                draw.choice(_ADJECTIVES),
                _token(draw, 4),
                _token(draw, 3),
                draw.randrange(1, 12),
            )

        self.domain = f"www.{draw.choice(_NOUNS)}{number}.example"
        self.layout = draw.choice(list(_LAYOUTS))
        self.names = [name() for _ in range(24)]
        self.num_links = draw.randrange(12, 60)
        # Of what is not content: cards, styles and scripts differ from site to site.
        self.share_of_cards = draw.uniform(0.35, 0.7)
        self.share_of_styles = draw.uniform(0.05, 0.35)
        self.has_state = draw.random() < 0.3
        icon = f'<svg viewBox="0 0 24 24"><path d="{_path(draw, 12)}"/></svg>'
        image = (
            '<img class="{c[3]}" src="/media/{slug}-320.jpg" srcset="/media/{slug}-320'
            '.jpg 320w, /media/{slug}-640.jpg 640w, /media/{slug}-1280.jpg 1280w" '
            'sizes="(max-width: 640px) 100vw, 33vw" alt="" loading="lazy" width="320">'
        )
        card = draw.choice(
            (
                f'<article class="{{c[0]}}" id="post-{{number}}" data-id="{{number}}">'
                f'<a class="{{c[1]}}" href="/{{slug}}">{image}</a><div class="{{c[2]}}"'
                '><h3 class="{c[4]}"><a href="/{slug}" data-track="{token}">{title}</a>'
                f'</h3><span class="{{c[5]}}">{icon}{{date}}</span></div></article>',
                '<li class="{c[0]} post-{number}"><div class="{c[1]}" data-props="{{'
                '&quot;id&quot;:{number},&quot;list&quot;:&quot;{token}&quot;}}">'
                f'{image}<a class="{{c[2]}}" href="https://{self.domain}/{{slug}}?ref='
                '{token}">{title}</a><b class="{c[4]}">{price}</b><button type="button"'
                f' class="{{c[5]}}" aria-label="+">{icon}</button></div></li>',
                '<div class="{c[0]}"><div class="{c[1]}" style="background-image:url('
                "/media/{slug}.webp)\"></div><div class='{c[2]}'><a href='/{slug}' "
                "title='{token}' onclick=\"track('{token}',{number})\" class='{c[4]}'>"
                "{title}</a><time datetime='{date}' class='{c[5]}'>{date}</time></div>"
                "</div>",
            )
        )
        self.card = functools.partial(card.format, c=draw.sample(self.names, 6))
        self.link = functools.partial(
            '<li class="{c[0]}"><a class="{c[1]}" href="/{slug}">{title}</a>'.format,
            c=draw.sample(self.names, 2),
        )


_LAYOUTS = {
    "article": '<main class="{c[6]}"><article class="{c[7]}"><header><h1>{title}</h1>'
    '<p class="byline">{byline}</p></header><div class="article-body {c[8]}">{body}'
    "</div></article></main>",
    "post": '<div id="content" class="{c[6]}"><div class="post hentry {c[7]}"><h2 class'
    '="entry-title">{title}</h2><div class="entry-content">{body}</div><div class='
    '"post-meta">{byline}</div></div></div>',
    "table": '<table width="100%" class="{c[6]}"><tr><td class="{c[7]}"><h1>{title}'
    "</h1>{body}<small>{byline}</small></td></tr></table>",
    "soup": '<div class="{c[6]}"><div class="{c[7]}"><div><div class="{c[8]}"><h1 class'
    '="{c[9]}">{title}</h1></div><div class="{c[10]}"><div>{body}</div></div></div>'
    '<div class="{c[11]}">{byline}</div></div></div>',
}
# Share of the pages in per cent, and the median length of the text in characters.
_KINDS = {
    "article": (60, 4500),
    "listing": (18, 1000),
    "shop": (12, 1500),
    "forum": (10, 4000),
}


@functools.cache
def _furniture(label: str) -> dict[str, list[str]]:
    """Menus, buttons and notices in a language; English ones where we have none."""
    own = EXAMPLES / "chrome" / f"{label}.json"
    file = own if own.exists() else EXAMPLES / "chrome" / "en.json"
    return {
        key: list(map(html.escape, [words] if isinstance(words, str) else words))
        for key, words in json.loads(file.read_text("utf-8")).items()
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Capture:
    """What a crawler brought home from one address.

    Attributes:
      label: The language, or empty where it is no page.
      url: As crawled.
      status: Of the HTTP response, with its phrase.
      mime: What the payload is.
      charset: What it is encoded in.
      header: Further lines of the HTTP header.
      body: The payload.
      truncated: Whether it was cut at `MAX_PAGE_BYTES`.
      text: All that a page shows, for WET.
    """

    label: str
    url: str
    status: str
    mime: str
    charset: str
    header: tuple[tuple[str, str], ...]
    body: bytes
    truncated: bool = False
    text: str = ""


def page(texts: Texts, label: str, number: int, shape: int, seed: int) -> Capture:
    """A page in a language.

    Args:
      texts: What it says.
      label: Of the language.
      number: Decides the text.
      shape: Decides the rest: its site, how large it is and what for.
      seed: Of the crawl.
    """
    draw = random.Random(f"{seed} shape {shape}")
    story = random.Random(f"{seed} text {number} {label}")
    site = _Site(draw.randrange(400))
    # Not drawn but spread evenly over the distribution, whose tail is long: a small
    # crawl's mean is a large one's.
    quantile = (shape + 0.5) * _GOLDEN % 1
    deviation = statistics.NormalDist().inv_cdf(quantile)
    size = int(math.exp(PAGE_SIGMA * deviation) * MEDIAN_PAGE_BYTES)
    title = html.escape(texts.headline(label, story))
    # Many a site is run with a theme that nobody has translated.
    words = _furniture(label if draw.random() < 0.8 else "en")
    shown = [title, *words["nav"]]

    def card() -> str:
        shown.append(texts.headline(label, story))
        return site.card(
            title=html.escape(shown[-1]),
            number=draw.getrandbits(24),
            slug=f"{draw.choice(_NOUNS)}/{_token(draw)}",
            token=_token(draw),
            date=f"2026-0{draw.randint(1, 6)}-{draw.randint(10, 28)}",
            price=f"{draw.randrange(9, 999)},{draw.randrange(10, 99)}",
        )

    def link(words: int) -> str:
        shown.append(texts.headline(label, story, words))
        return site.link(title=html.escape(shown[-1]), slug=_token(draw, 4))

    kind = draw.choices(list(_KINDS), [share for share, _ in _KINDS.values()])[0]
    chars = min(int(draw.lognormvariate(0, 0.8) * _KINDS[kind][1]), 40_000)
    paragraphs = texts.paragraphs(label, max(chars, 150), story)
    shown += paragraphs
    content = _content(kind, site, title, paragraphs, words["byline"][0], card, draw)
    top = "".join(map(link, draw.choices((1, 2, 3), k=site.num_links)))
    bottom = "".join(map(link, draw.choices((1, 2, 3), k=site.num_links // 2)))
    shown += [*words["cookies"], *words["footer"], *words["newsletter"]]
    room = max(0, size - len((content + top + bottom).encode()) - 3000)
    # Huge pages are huge by their scripts and data rather than by what they show.
    cards_room = min(site.share_of_cards * room, 60_000 + 0.25 * room)
    cards: list[str] = []
    while cards_room > 0:
        cards.append(card())
        cards_room -= len(cards[-1])
    styles = int(min(site.share_of_styles * room, 80_000))
    scripts = max(0, room - sum(map(len, cards)) - styles)
    images = int(scripts * max(0.0, draw.gauss(0.03, 0.04)))
    state = scripts // 2 if site.has_state else scripts // 12
    filler = _fillers()
    legacy = _CHARSETS.get(label) if draw.random() < SHARE_OF_LEGACY_CHARSETS else None
    charset = draw.choice(legacy) if legacy else "utf-8"
    told = draw.random()  # Where a page says its charset: header and HTML, one, none.
    said = json.dumps(shown[:40], ensure_ascii=False) if site.has_state else "[]"
    parts = (
        f'<!DOCTYPE html><html lang="{label.strip("!")}" dir="'
        f'{"rtl" if label in _RIGHT_TO_LEFT else "ltr"}"><head>',
        f'<meta charset="{charset}">' if told < 0.9 else "",
        f"<title>{title} | {site.domain}</title>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta property="og:title" content="{title}"><meta property="og:site_name" '
        f'content="{site.domain}"><link rel="stylesheet" href="/{_token(draw)}.css">',
        f"<style>{filler['style'].take(styles, draw)}</style>",
        f"<script>{filler['script'].take(scripts // 4, draw)}</script></head>",
        f'<body class="{site.names[0]}"><div class="cookie-banner {site.names[1]}">'
        f"<p>{words['cookies'][0]}</p><button>OK</button></div>",
        f'<header class="{site.names[2]}"><a href="/">{site.domain}</a><nav><ul>{top}'
        f'</ul></nav><form action="/search"><input name="q"></form></header>',
        content,
        f'<aside class="sidebar {site.names[4]}"><h3>{words["related"][0]}</h3>',
        "".join(cards[: len(cards) // 2]),
        f'</aside><section class="{site.names[5]}">{"".join(cards[len(cards) // 2 :])}',
        f'<img alt="" src="data:image/png;base64,{_base64(images, draw)}"></section>',
        f'<footer class="site-footer"><ul>{bottom}</ul><p>{words["newsletter"][0]}</p>'
        f"<small>{words['footer'][0]}</small></footer>",
        f'<script id="state" type="application/json">{{"text":{said},"items":['
        f"{filler['data'].take(state, draw, ',')}]}}</script>",
        f"<script>{filler['script'].take(scripts * 3 // 4 - images - state, draw)}",
        "</script></body></html>",
    )
    body = "".join(parts).encode(charset, "xmlcharrefreplace")
    served = "utf-8" if told > 0.97 else charset if told < 0.75 else ""
    return Capture(
        label=label,
        url=f"https://{site.domain}/{draw.choice(_NOUNS)}/{number}-{_token(draw, 4)}",
        status="200 OK",
        mime="text/html" if draw.random() < 0.96 else "application/xhtml+xml",
        charset=served,
        header=(("X-Robots-Tag", "noai"),) if draw.random() < 0.01 else (),
        body=body[:MAX_PAGE_BYTES],
        truncated=len(body) > MAX_PAGE_BYTES,
        text="\n".join(map(html.unescape, shown)),
    )


def _content(
    kind: str,
    site: _Site,
    title: str,
    paragraphs: list[str],
    byline: str,
    card: Callable[[], str],
    draw: random.Random,
) -> str:
    """What a page is there for: an article, or what takes its place."""
    escaped = [html.escape(paragraph) for paragraph in paragraphs]
    if kind == "forum":
        posts = (
            f'<div class="{site.names[12]}" id="p{draw.getrandbits(20)}"><div class='
            f'"{site.names[13]}"><a href="/user/{_token(draw, 3)}">{_token(draw, 4)}'
            f'</a><span>#{n}</span></div><div class="message {site.names[14]}">{text}'
            "</div></div>"
            for n, text in enumerate(escaped, 1)
        )
        return f'<div class="thread"><h1>{title}</h1>{"".join(posts)}</div>'
    if site.layout == "table":
        body = "<br><br>".join(escaped)
    else:
        body = "".join(_paragraph(text, draw) for text in escaped)
    filled = _LAYOUTS[site.layout].format(
        c=site.names, title=title, byline=byline, body=body
    )
    if kind == "article":
        return filled
    shelf = "".join(card() for _ in range(draw.randrange(6, 24)))
    if kind == "listing":
        return f'<main class="{site.names[6]}">{shelf}</main>{filled}'
    facts = "".join(
        f"<tr><th>{_token(draw, 3)}</th><td>{draw.randrange(1000)} mm</td></tr>"
        for _ in range(draw.randrange(4, 16))
    )
    return f'{filled}<table class="{site.names[15]}">{facts}</table><ul>{shelf}</ul>'


def _paragraph(text: str, draw: random.Random) -> str:
    """A paragraph as editors leave them: links, emphasis, headings, advertisements."""
    kind = draw.random()
    if kind < 0.70:
        return f"<p>{text}</p>\n"
    first, _, rest = text.partition(" ")
    if kind < 0.82:
        return f'<p><a href="/{_token(draw, 4)}">{first}</a> {rest}</p>\n'
    if kind < 0.90:
        return f"<p><strong>{first}</strong> {rest}</p>\n"
    if kind < 0.95:
        return f"<h2>{first} {rest[:20]}</h2><p>{text}</p>\n"
    return f'<p>{text}</p><div class="ad" id="ad-{_token(draw)}"></div>\n'


def _base64(num_chars: int, draw: random.Random) -> str:
    return base64.b64encode(draw.randbytes(num_chars * 3 // 4)).decode()


def other_capture(number: int, seed: int) -> Capture:
    """A capture that holds no page: a picture, a document, a redirect, an error."""
    draw = random.Random(f"{seed} other {number}")
    url = f"https://www.{draw.choice(_NOUNS)}{draw.randrange(400)}.example/{number}"
    make = functools.partial(Capture, "", url, charset="")
    if draw.random() < 0.3:
        target = (("Location", f"{url}/index"),)
        return make(
            status="301 Moved Permanently", mime="text/html", header=target, body=b""
        )
    if draw.random() < 0.3:
        body = b"<html><body><h1>Not Found</h1></body></html>"
        return make(status="404 Not Found", mime="text/html", header=(), body=body)
    kinds = ("application/pdf", "image/jpeg", "application/json", "application/rss+xml")
    kind = draw.choice(kinds)
    size = int(draw.lognormvariate(0, 1) * 30_000)
    if kind in kinds[:2]:
        body = draw.randbytes(size)
    else:
        body = f"[{_fillers()['data'].take(size, draw, ',')}]".encode()
    return make(status="200 OK", mime=kind, header=(), body=body)


# --- Records -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Packed:
    """A response's HTTP part, compressed once for every record that it goes into."""

    capture: Capture
    block: bytes
    deflated: bytes
    digest: str

    @classmethod
    def of(cls, capture: Capture) -> "_Packed":
        lines = [
            f"HTTP/1.1 {capture.status}",
            "Server: nginx",
            f"Content-Type: {capture.mime}"
            + (f"; charset={capture.charset}" if capture.charset else ""),
            *(f"{name}: {value}" for name, value in capture.header),
            "X-Crawler-Content-Encoding: gzip",
            f"Content-Length: {len(capture.body)}",
            "Cache-Control: max-age=600",
            "Connection: keep-alive",
        ]
        block = "\r\n".join((*lines, "", "")).encode() + capture.body
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        # What ends a record belongs to the block: it is the same for all of them.
        deflated = deflate.compress(block + b"\r\n\r\n") + deflate.flush()
        return cls(capture, block, deflated, _digest(capture.body))


def _digest(content: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(content).digest()).decode()


def _member(header: dict[str, str], packed: _Packed) -> bytes:
    """A record as one gzip member; only its header is compressed here."""
    head = _head(header)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    # A full flush ends at a byte, so that another deflate stream may follow.
    start = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    crc = zlib.crc32(b"\r\n\r\n", zlib.crc32(packed.block, zlib.crc32(head)))
    size = len(head) + len(packed.block) + 4
    trailer = crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    return (
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + start + packed.deflated + trailer
    )


def _record(header: dict[str, str], block: bytes) -> bytes:
    """A small record as one gzip member."""
    header = header | {
        "WARC-Block-Digest": _digest(block),
        "Content-Length": str(len(block)),
    }
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    return deflate.compress(_head(header) + block + b"\r\n\r\n") + deflate.flush()


def _head(header: dict[str, str]) -> bytes:
    lines = (f"{name}: {value}" for name, value in header.items())
    return "\r\n".join(("WARC/1.0", *lines, "", "")).encode()


class _Records:
    """The records of one capture, in the forms that the files want."""

    def __init__(
        self, packed: _Packed, url: str, code: str, number: int, seed: int
    ) -> None:
        draw = random.Random(f"{seed} record {number}")
        self.id, self._request_id, self._metadata_id = (_urn(draw) for _ in range(3))
        self._packed = packed
        self._capture = packed.capture
        self._url = url
        self._code = code
        self._fetched = draw.randrange(50, 900)
        hour, rest = divmod(number, 3600)
        minute, second = divmod(rest, 60)
        self._common = {
            "WARC-Date": f"2026-01-{12 + hour // 24:02}T{hour % 24:02}:{minute:02}:"
            f"{second:02}Z",
            "WARC-Warcinfo-ID": _INFO_ID,
            "WARC-Target-URI": url,
        }

    def warc(self, *, declared: bool) -> bytes:
        """Request, response, metadata."""
        capture, packed = self._capture, self._packed
        host, _, path = self._url.removeprefix("https://").partition("/")
        request = (
            f"GET /{path} HTTP/1.1\r\nUser-Agent: CCBot/2.0 (benchmark)\r\n"
            "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
            "\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: br,gzip\r\n"
            f"Host: {host}\r\nConnection: Keep-Alive\r\n\r\n"
        )
        response = self._common | {
            "WARC-Record-ID": self.id,
            "WARC-Type": "response",
            "WARC-Concurrent-To": self._request_id,
            "WARC-IP-Address": "203.0.113.7",
            "WARC-Payload-Digest": packed.digest,
            "Content-Type": "application/http; msgtype=response",
            "Content-Length": str(len(packed.block)),
            "WARC-Identified-Payload-Type": capture.mime,
        }
        if capture.truncated:
            response["WARC-Truncated"] = "length"
        fields = f"fetchTimeMs: {self._fetched}\r\n"
        if capture.label:
            fields += "charset-detected: UTF-8\r\n"
        if declared and capture.label:
            found = {"code-iso-639-3": self._code, "text-covered": 0.97, "score": 900.0}
            detected = {
                "reliable": True,
                "text-bytes": len(capture.text.encode()),
                "languages": [found],
            }
            fields += f"languages-cld2: {json.dumps(detected)}\r\n"
        return b"".join(
            (
                _record(
                    self._common
                    | {
                        "WARC-Record-ID": self._request_id,
                        "WARC-Type": "request",
                        "WARC-Concurrent-To": self.id,
                        "Content-Type": "application/http; msgtype=request",
                    },
                    request.encode(),
                ),
                _member(response, packed),
                _record(
                    self._common
                    | {
                        "WARC-Record-ID": self._metadata_id,
                        "WARC-Type": "metadata",
                        "WARC-Concurrent-To": self.id,
                        "Content-Type": "application/warc-fields",
                    },
                    fields.encode() + b"\r\n",
                ),
            )
        )

    def wet(self) -> bytes:
        """The page's text as a conversion record, with its language."""
        header = self._common | {
            "WARC-Type": "conversion",
            "WARC-Record-ID": self._metadata_id,
            "WARC-Refers-To": self.id,
            "WARC-Identified-Content-Language": self._code,
            "Content-Type": "text/plain",
        }
        return _record(header, self._capture.text.encode())


def _urn(draw: random.Random) -> str:
    return f"<urn:uuid:{uuid.UUID(int=draw.getrandbits(128), version=4)}>"


_INFO_ID = _urn(random.Random("warcinfo"))


def _warcinfo(name: str) -> bytes:
    header = {
        "WARC-Type": "warcinfo",
        "WARC-Date": "2026-01-12T00:00:00Z",
        "WARC-Record-ID": _INFO_ID,
        "WARC-Filename": name,
        "Content-Type": "application/warc-fields",
    }
    return _record(header, b"software: x-instruction benchmark\r\n")


def captures(
    texts: Texts, num_pages: int, minimum: int, seed: int, num_bodies: int = 0
) -> Iterator[tuple[_Packed, str, int]]:
    """The captures of a crawl, packed, with the address and number of each.

    Args:
      texts: What the pages say.
      num_pages: Without the captures that hold no page, which come besides.
      minimum: See `Texts.plan`.
      seed: Of every random choice.
      num_bodies: If not 0, a crawl of so many pages is repeated under new addresses,
        so that a large one is made quickly and is a multiple of a small one. Pages in
        our languages say something new every time and repeat their shape only.
    """
    draw = random.Random(f"{seed} crawl")
    pool = [
        _Packed.of(page(texts, label, -number, -number, seed))
        for number, label in enumerate(texts.plan(num_bodies, 0, draw), 1)
        if label not in OURS
    ]
    num_shapes = num_bodies - len(pool)
    others, ours = itertools.cycle(pool), itertools.count()
    numbers = itertools.count()
    for label in texts.plan(num_pages, minimum, draw):
        if draw.random() < SHARE_OF_OTHER_CAPTURES:
            number = next(numbers)
            packed = _Packed.of(other_capture(number, seed))
            yield packed, packed.capture.url, number
        number = next(numbers)
        if pool and label not in OURS:
            packed = next(others)
            yield packed, f"{packed.capture.url}?again={number}", number
        else:
            shape = next(ours) % num_shapes if pool else number
            packed = _Packed.of(page(texts, label, number, shape, seed))
            yield packed, packed.capture.url, number


def make_crawl(
    folder: Path,
    texts: Texts,
    num_pages: int,
    *,
    minimum: int = 3,
    seed: int = 0,
    num_files: int = 1,
    num_bodies: int = 0,
    kinds: Sequence[str] = ("plain", "declared"),
) -> None:
    """Writes the files of a crawl, page by page.

    Args:
      folder: Where `plain-*.warc.gz`, `declared-*.warc.gz`, `wet-*.warc.wet.gz` and
        `labels.jsonl` go.
      texts: What the pages say.
      num_pages: Of all files together.
      minimum: See `Texts.plan`.
      seed: Of every random choice.
      num_files: Of each kind.
      num_bodies: See `captures`.
      kinds: Of `plain`, `declared` and `wet`; the same pages in each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = captures(texts, num_pages, minimum, seed, num_bodies)
    num_written = 0
    with (folder / "labels.jsonl").open("w", encoding="utf-8") as labels:
        for file_number in range(num_files):
            stop = num_pages * (file_number + 1) // num_files
            with contextlib.ExitStack() as stack:
                files = {
                    kind: stack.enter_context(_created(folder, kind, file_number))
                    for kind in kinds
                }
                while num_written < stop:
                    packed, url, number = next(found)
                    capture = packed.capture
                    code = texts.codes.get(capture.label, "")
                    records = _Records(packed, url, code, number, seed)
                    for kind, file in files.items():
                        if kind != "wet":
                            file.write(records.warc(declared=kind == "declared"))
                        elif capture.label:
                            file.write(records.wet())
                    if capture.label:
                        row = {
                            "url": url,
                            "id": records.id[10:-1],
                            "language": capture.label,
                            "bytes": len(capture.body),
                        }
                        labels.write(json.dumps(row) + "\n")
                        num_written += 1


def _created(folder: Path, kind: str, number: int) -> BinaryIO:
    """A new file of a crawl, begun with its warcinfo record."""
    ending = "warc.wet.gz" if kind == "wet" else "warc.gz"
    file = (folder / f"{kind}-{number:05}.{ending}").open("wb")
    file.write(_warcinfo(Path(file.name).name))
    return file


def write_recipe(folder: Path, name: str) -> None:
    """Writes `recipe.toml`, which reads the files of kind `plain`; no models."""
    recipe = (
        f'name = "{name}"\nlanguages = {json.dumps(list(OURS))}\n'
        f'[source]\nwarc = ["{folder}/plain-*.warc.gz"]\n'
        '[generator]\ncheckpoint = "none"\n[evaluator]\ncheckpoint = "none"\n'
    )
    (folder / "recipe.toml").write_text(recipe, "utf-8")


def read_labels(folder: Path) -> dict[str, str]:
    """The language of every page of a crawl, by the id of its record."""
    lines = (folder / "labels.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: row["language"] for row in map(json.loads, lines)}


# Languages that much of the web is written in and the bundled pages are not.
_MAJORITY_TEXTS = {
    "ru": (
        "Перед тем как чинить велосипед, переверните его и проверьте, ровно ли "
        "вращаются оба колеса. Цепь лучше сначала протереть сухой тряпкой, а потом "
        "смазать каплей масла каждое звено. Если тормоза скрипят, чаще всего дело в "
        "грязи на ободе, а не в колодках. Наш сосед держит в сарае старую коробку с "
        "гайками и уверяет, что там найдётся всё. Зимой велосипед стоит хранить в "
        "сухом месте и раз в месяц подкачивать шины. Весной достаточно получаса, "
        "чтобы подготовить его к первой поездке за город. Детям мы разрешаем "
        "кататься только во дворе и обязательно в шлеме. Расписание пригородных "
        "поездов можно узнать на станции или по телефону."
    ),
    "ja": (
        "庭に小さな畑を作ったので、今年は春から野菜を育てています。最初に植えたのはき"
        "ゅうりとトマトで、どちらも思ったより早く実をつけました。朝の水やりは子どもた"
        "ちの仕事ですが、雨の日は休みになります。虫が多いときは、葉の裏をよく見て手で"
        "取るのがいちばん確実です。近所の人が苗を分けてくれたおかげで、畑の端には茄子"
        "も並びました。収穫した野菜は冷蔵庫に入れず、涼しい台所に置いておくと長持ちし"
        "ます。来週の土曜日には公民館で料理の会が開かれる予定です。参加したい方は、前"
        "の日までに受付へ電話してください。"
    ),
    "zh": (
        "我们家楼下新开了一间小面馆，每天早上六点钟就开始营业。老板说，好面条最要紧的"
        "是水和面粉的比例，揉好以后还要放半个小时。客人多的时候，他一边煮面一边跟大家"
        "聊天，从来不着急。冬天来一碗热汤面，再加一个荷包蛋，整个上午都觉得暖和。孩子"
        "们更喜欢拌面，不放辣椒，只放一点香油和葱花。周末去的人很多，最好提前打电话留"
        "座位。面馆旁边是一家修鞋的铺子，师傅已经在这里干了三十年。他说现在的人买鞋多"
        "，修鞋的人却越来越少了。"
    ),
    "es": (
        "Antes de plantar los tomates conviene mezclar la tierra con un poco de "
        "abono y dejarla descansar unos días. Las plantas necesitan mucha luz, pero "
        "en agosto agradecen algo de sombra a mediodía. Mi abuela regaba siempre al "
        "anochecer y decía que así el agua no se perdía. Cuando aparecen hojas "
        "amarillas, lo mejor es cortarlas cuanto antes. La feria del pueblo empieza "
        "el viernes y termina el domingo con una comida para todos los vecinos. "
        "Quien quiera ayudar puede apuntarse en el ayuntamiento hasta el miércoles. "
        "El año pasado llovió los tres días y aun así vino más gente que nunca. Este "
        "verano los autobuses saldrán cada hora desde la plaza."
    ),
    "fr": (
        "Pour réussir une bonne soupe de légumes, il vaut mieux commencer par faire "
        "revenir les oignons à feu doux. On ajoute ensuite les carottes, les "
        "poireaux et deux pommes de terre coupées en morceaux. Ma voisine y met "
        "toujours une feuille de laurier qu'elle cueille derrière la maison. La "
        "bibliothèque du quartier sera fermée jusqu'au quinze mars pour des travaux "
        "de peinture. Pendant ce temps, les livres peuvent être rendus à la mairie "
        "aux heures d'ouverture. Les enfants ont préparé une petite pièce de théâtre "
        "qu'ils joueront samedi après-midi. L'entrée est libre, mais le nombre de "
        "places reste limité. Un goûter sera offert à la sortie par l'association "
        "des parents."
    ),
    "it": (
        "Il sentiero comincia dietro la chiesa e sale dolcemente fra i castagni fino "
        "al vecchio mulino. Chi parte di buon'ora trova ancora la nebbia nella valle "
        "e può vedere qualche capriolo. Conviene portare acqua e un maglione, perché "
        "in cima tira quasi sempre vento. Al rifugio si mangia una minestra calda e "
        "del formaggio fatto dai pastori della zona. Per il ritorno esiste una "
        "strada più corta, ma dopo la pioggia diventa scivolosa. Mio zio ha "
        "restaurato il forno di casa e ogni sabato cuoce il pane per tutta la "
        "famiglia. L'impasto deve riposare una notte intera, altrimenti la crosta "
        "resta dura. Le iscrizioni al corso si chiudono alla fine del mese."
    ),
    "pt": (
        "O mercado da nossa rua abre cedo e, às sete da manhã, já há fila diante da "
        "banca do peixe. Os pescadores contam que este inverno foi difícil por causa "
        "do vento e das ondas altas. Para fazer um bom caldo, basta refogar cebola e "
        "alho e juntar o peixe só no fim. A escola vai organizar uma feira de livros "
        "usados no próximo sábado. Quem tiver livros em casa que já não lê pode "
        "entregá-los na secretaria até quinta-feira. O dinheiro da venda servirá "
        "para comprar bolas e redes novas para o campo. As crianças também "
        "prepararam cartazes e um pequeno concerto de flauta. Se chover, tudo passa "
        "para o salão da junta."
    ),
    "nl": (
        "Wie een oude stoel wil opknappen, begint met het voorzichtig verwijderen "
        "van de losse verf. Daarna schuur je het hout glad en haal je het stof weg "
        "met een vochtige doek. Gebruik liever twee dunne lagen dan een dikke, want "
        "die droogt veel te langzaam. Onze buurvrouw geeft elke woensdag les in de "
        "schuur achter haar huis. De fietsenstalling bij het station wordt dit "
        "voorjaar uitgebreid met driehonderd plaatsen. Tot die tijd kunnen reizigers "
        "hun fiets achter het postkantoor zetten. Vorige week lag er zoveel sneeuw "
        "dat de kinderen met de slee naar school gingen. Het zwembad blijft door de "
        "verbouwing nog twee maanden dicht."
    ),
    "pl": (
        "Grzyby najlepiej zbierać rano, kiedy w lesie jest jeszcze wilgotno i "
        "chłodno. Do koszyka wkładamy tylko te, które dobrze znamy, a resztę "
        "zostawiamy na swoim miejscu. W domu trzeba je od razu oczyścić, pokroić i "
        "ususzyć albo ugotować. Babcia dodaje do zupy śmietanę, koperek i trochę "
        "czarnego pieprzu. W sobotę w naszej miejscowości odbędzie się spotkanie w "
        "sprawie nowego placu zabaw. Każdy mieszkaniec może zgłosić własny pomysł i "
        "porozmawiać z projektantem. Ostatniej zimy zamarzło jezioro i przez dwa "
        "tygodnie można było jeździć na łyżwach. Autobus do miasta odjeżdża teraz o "
        "dziesięć minut wcześniej."
    ),
    "ko": (
        "겨울이 오기 전에 김치를 담그려면 배추를 하루 동안 소금물에 절여 두어야 "
        "합니다. 우리 집에서는 할머니가 양념의 맛을 보고 마지막에 배와 생강을 조금 "
        "더 넣으십니다. 이웃들이 함께 모여 일하면 힘들지 않고 이야기도 많이 나눌 수 "
        "있습니다. 담근 김치는 서늘한 곳에 두고 사흘쯤 지나서 먹기 시작합니다. 동네 "
        "도서관은 다음 달부터 저녁 아홉 시까지 문을 엽니다. 아이들을 위한 책 읽기 "
        "모임은 매주 토요일 오전에 열립니다. 자전거를 타고 오는 분들은 건물 뒤쪽에 "
        "세워 주시기 바랍니다. 비가 많이 오는 날에는 모임을 쉬니 미리 전화로 확인해 "
        "주세요."
    ),
}


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument(
        "--minimum", type=int, default=3, help="pages of each language that matters"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bodies", type=int, default=0, help="repeat a crawl of so many pages"
    )
    parser.add_argument(
        "--kinds", nargs="+", default=["plain", "declared"],
        choices=["plain", "declared", "wet"],
    )  # fmt: skip
    parser.add_argument(
        "--texts", type=Path, help="other text: JSON lines with `text` and `label`"
    )
    options = parser.parse_args(arguments)
    make_crawl(
        options.folder,
        Texts.read(options.texts) if options.texts else Texts.bundled(),
        options.pages,
        minimum=options.minimum,
        seed=options.seed,
        num_files=options.files,
        num_bodies=options.bodies,
        kinds=options.kinds,
    )
    lines = (options.folder / "labels.jsonl").read_text("utf-8").splitlines()
    html_bytes = sum(json.loads(line)["bytes"] for line in lines)
    print(
        f"{options.folder}: {options.pages:,} pages, each of "
        f"{html_bytes / options.pages:,.0f} bytes of HTML on average"
    )
    for kind in options.kinds:
        sizes = [file.stat().st_size for file in options.folder.glob(f"{kind}-*.gz")]
        print(
            f"{kind}: {sum(sizes):,} bytes, {sum(sizes) / options.pages:,.0f} a page, "
            f"in {len(sizes)} files"
        )


if __name__ == "__main__":
    main()
