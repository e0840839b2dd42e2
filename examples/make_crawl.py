"""Turns the bundled pages into a small crawl, stored as Common Crawl stores its own.

    python examples/make_crawl.py out/demo/crawl

Every page becomes a request, a response and a metadata record, one gzip member each.
Besides the pages there are an older capture and a mirror of some, which duplicate
removal should find, and one damaged record, which costs itself and nothing else.
Everything is derived from the pages, so that each run writes the same bytes.
"""

import hashlib
import html
import io
import json
import random
import sys
import uuid
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

FOLDER = Path(__file__).parent
NUM_FILES = 4
# Common Crawl's codes where they are not ISO 639-3 of the language itself.
DECLARED = {
    "fi": "fin", "id": "ind", "th": "tha", "tr": "tur", "vi": "vie", "bn": "ben",
    "hi": "hin", "sw": "swa", "ta": "tam", "ur": "urd", "en": "eng", "ms": "msa",
    "ne": "nep", "mr": "mar", "fa": "fas", "az": "aze", "ar": "ara", "et": "est",
}  # fmt: skip
RIGHT_TO_LEFT = {"ur", "fa", "ar", "pnb"}

PAGE = """<!DOCTYPE html>
<html lang="{language}" dir="{direction}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} | {domain}</title>
<link rel="canonical" href="{url}">
<link rel="stylesheet" href="/assets/site.{number}.css">
<script>window.dataLayer=window.dataLayer||[];
function track(){{dataLayer.push(arguments)}}
track("set",{{"page":"{path}","locale":"{language}","build":{number}}});</script>
<style>body{{margin:0;font:17px/1.6 serif}}.grid{{display:grid;gap:1rem}}</style>
</head>
<body class="{layout}">
<div id="cookie-banner" class="cookie-banner" role="dialog">{cookies}
<button>OK</button></div>
<header><a href="/" class="logo">{domain}</a>
<nav><ul>{nav}</ul></nav>
<form action="/search"><input name="q" placeholder="{search}"></form></header>
<div class="breadcrumb"><a href="/">{home}</a> &rsaquo; <a href="/c">{section}</a></div>
{content}
<aside class="sidebar"><h3>{related}</h3><ul>{related_titles}</ul>
<div class="newsletter"><p>{newsletter}</p><input type="email"></div></aside>
<section id="comments" class="comments"><h3>{comments}</h3>
<div class="comment"><p>{comment}</p></div></section>
<footer class="site-footer"><ul>{footer}</ul></footer>
<script src="/assets/app.{number}.js" async></script>
</body>
</html>
"""
LAYOUTS = {
    "news": '<main><article class="article"><h1>{title}</h1><p class="byline">{byline}'
    '</p><div class="share">{share}</div><div class="article-body">{paragraphs}</div>'
    "</article></main>",
    "blog": '<div id="content"><div class="post hentry"><h2 class="entry-title">{title}'
    '</h2><div class="entry-content">{paragraphs}</div><div class="post-meta">{byline}'
    '</div><div class="share">{share}</div></div></div>',
    "plain": '<table width="100%"><tr><td class="content"><h1>{title}</h1>{paragraphs}'
    "<small>{byline}</small></td></tr></table>",
}


def read_pages() -> list[dict]:
    """All bundled pages, in a fixed order, with an id from their address and date."""
    pages = []
    for file in sorted((FOLDER / "pages").glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            pages.append(json.loads(line))
    return [*pages, *copies(pages)]


def copies(pages: list[dict]) -> list[dict]:
    """Older captures of some pages, and mirrors of others under another domain."""
    sound = [page for page in pages if "fault" not in page]
    older = [
        page | {"date": "2026-01-02T00:00:00Z", "paragraphs": page["paragraphs"][:-1]}
        for page in sound[::17]
    ]
    mirrors = [page | {"domain": f"mirror-{page['domain']}"} for page in sound[5::23]]
    return older + mirrors


def furniture(language: str) -> dict:
    """The words around a page's text, in its language; else in English."""
    own = FOLDER / "chrome" / f"{language}.json"
    file = own if own.exists() else FOLDER / "chrome" / "en.json"
    return json.loads(file.read_text("utf-8"))


def listed(items: list[str]) -> str:
    return "".join(f'<li><a href="#">{html.escape(item)}</a></li>' for item in items)


def render(page: dict) -> bytes:
    """The page as HTML, in the layout that its domain has."""
    words = furniture(page["language"])
    number = int(hashlib.md5(page["domain"].encode()).hexdigest()[:4], 16)
    layout = list(LAYOUTS)[number % len(LAYOUTS)]
    text = {key: html.escape(v) for key, v in words.items() if isinstance(v, str)}
    text |= {
        "title": html.escape(page["title"]),
        "share": " ".join(f"<span>{html.escape(s)}</span>" for s in words["share"]),
        "paragraphs": "\n".join(f"<p>{html.escape(p)}</p>" for p in page["paragraphs"]),
    }
    filled = PAGE.format(
        **text
        | {
            "direction": "rtl" if page["language"] in RIGHT_TO_LEFT else "ltr",
            "domain": page["domain"],
            "url": address(page),
            "path": page["path"],
            "number": number,
            "layout": layout,
            "nav": listed(words["nav"]),
            "home": html.escape(words["nav"][0]),
            "section": html.escape(words["nav"][-1]),
            "related_titles": listed(words["related_titles"]),
            "footer": listed(words["footer"]),
            "content": LAYOUTS[layout].format(**text),
        },
    )
    return filled.encode("utf-8")


def address(page: dict) -> str:
    return f"https://{page['domain']}{page['path']}"


def urn(page: dict, kind: str) -> str:
    name = f"{kind} {address(page)} {page['date']}"
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


def write_triple(writer: WARCWriter, page: dict) -> None:
    """A request, a response and a metadata record, as Common Crawl orders them."""
    url, common = address(page), {"WARC-Date": page["date"]}
    response_id = urn(page, "response")
    together = common | {"WARC-Concurrent-To": response_id}
    request_line = StatusAndHeaders(
        f"GET {page['path']} HTTP/1.1",
        [("Host", page["domain"]), ("User-Agent", "x-instruction-demo/1.0")],
        is_http_request=True,
    )
    writer.write_record(
        writer.create_warc_record(
            url,
            "request",
            http_headers=request_line,
            warc_headers_dict=together | {"WARC-Record-ID": urn(page, "request")},
        )
    )
    response_line = StatusAndHeaders(
        "200 OK",
        [("Content-Type", "text/html; charset=utf-8"), ("Server", "nginx")],
        protocol="HTTP/1.1",
    )
    writer.write_record(
        writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(render(page)),
            http_headers=response_line,
            warc_headers_dict=common
            | {
                "WARC-Record-ID": response_id,
                "WARC-Identified-Payload-Type": "text/html",
            },
        )
    )
    fields = f"fetchTimeMs: {random.Random(url).randrange(50, 900)}\r\n"
    # The crawl declares a language for most pages, not for all.
    code = DECLARED.get(page["language"])
    if code and random.Random(response_id).random() < 0.6:
        found = {"code-iso-639-3": code, "text-covered": 0.97, "score": 900.0}
        detected = json.dumps({"reliable": True, "languages": [found]})
        fields += f"charset-detected: UTF-8\r\nlanguages-cld2: {detected}\r\n"
    writer.write_record(
        writer.create_warc_record(
            url,
            "metadata",
            payload=io.BytesIO(fields.encode()),
            warc_headers_dict=together | {"WARC-Record-ID": urn(page, "metadata")},
            warc_content_type="application/warc-fields",
        )
    )


def damage(content: bytes) -> bytes:
    """The file with one byte of its last response flipped, so that its CRC is wrong."""
    members = [
        at for at in range(len(content)) if content.startswith(b"\x1f\x8b\x08", at)
    ]
    largest = max(
        zip(members, [*members[1:], len(content)], strict=True),
        key=lambda member: member[1] - member[0],
    )
    middle = sum(largest) // 2
    flipped = bytes([content[middle] ^ 0x55])
    return content[:middle] + flipped + content[middle + 1 :]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pages = read_pages()
    # Pages of one site lie together, as a crawl's do; sites are spread over files.
    for number in range(NUM_FILES):
        mine = [
            page
            for page in sorted(pages, key=lambda p: (p["domain"], p["path"], p["date"]))
            if int(hashlib.md5(page["domain"].encode()).hexdigest(), 16) % NUM_FILES
            == number
        ]
        buffer = io.BytesIO()
        writer = WARCWriter(buffer, gzip=True)
        info = writer.create_warcinfo_record(
            f"demo-{number:05}.warc.gz", {"software": "x-instruction demo"}
        )
        info.rec_headers.replace_header("WARC-Date", "2026-01-12T00:00:00Z")
        info.rec_headers.replace_header(
            "WARC-Record-ID", f"<urn:uuid:{uuid.UUID(int=number + 1)}>"
        )
        writer.write_record(info)
        for page in mine:
            write_triple(writer, page)
        content = buffer.getvalue()
        if number == NUM_FILES - 1:
            content = damage(content)
        path = folder / f"demo-{number:05}.warc.gz"
        path.write_bytes(content)
        print(f"{path}: {len(mine)} pages, {len(content):,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"Usage: {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
