"""What is nobody's business: personal data, sites that opted out, a page's own terms.

Everything here reads hostile text, so every pattern takes linear time: what repeats is
bounded, or can match in one way only.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote, urlsplit

import numpy as np
from apache_beam.io.filesystems import FileSystems

# Personal data.


def mask(text: str) -> tuple[str, dict[str, int]]:
    """A text without personal numbers and addresses.

    Each becomes a placeholder of its kind: `<EMAIL>`, `<IBAN>`, `<CARD>`, `<IP>` or
    `<PHONE>`. Addresses of private networks stay, since they belong to nobody; national
    numbers are those of the ten languages' countries, in digits of any script.

    Args:
      text: Paragraphs, as `extract.tidy` leaves them.

    Returns:
      The text, and how many of each kind were masked: `email`, `iban`, `card`, `ip`,
      `phone`.
    """
    counts = {}
    for kind, (pattern, find) in _FINDERS.items():
        text, counts[kind] = _masked(text, f"<{kind.upper()}>", pattern, find)
    return text, counts


_Span = tuple[int, int]
_Finder = Callable[[re.Match[str]], _Span | None]


def _masked(
    text: str, placeholder: str, pattern: re.Pattern[str], find: _Finder
) -> tuple[str, int]:
    """The text with the spans replaced that `find` makes of what `pattern` matches."""
    parts, done, at = [], 0, 0
    while match := pattern.search(text, at):
        at = match.end()
        if span := find(match):
            parts.append(text[done : span[0]])
            done = at = span[1]
    if not parts:
        return text, 0
    return placeholder.join((*parts, text[done:])), len(parts)


# Also written out against harvesters: name(at)example.com, name [at] example.com.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_%+-])[A-Za-z0-9_%+-]{1,64}+(?:\.[A-Za-z0-9_%+-]{1,64}+){0,8}+"
    r"(?:@|[ ]?[\[({](?:at|AT|ät)[\])}][ ]?)"
    r"(?:[A-Za-z0-9-]{1,63}+\.){1,8}([A-Za-z]{2,24})(?![A-Za-z0-9])"
)
# "logo@2x.png" is a picture.
_FILE_ENDINGS = frozenset("png jpg jpeg gif svg webp css js html php pdf".split())


def _email(match: re.Match[str]) -> _Span | None:
    return None if match[1].lower() in _FILE_ENDINGS else match.span()


_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})[0-9]{2}(?:[ ]?[A-Z0-9]){11,30}")
# Characters of an IBAN by country, as in the SWIFT registry.
_IBAN_CHARS = {
    country: int(chars)
    for chars, countries in (
        ("15", "NO"), ("16", "BE"), ("18", "DK FI NL FO GL"), ("19", "MK SI"),
        ("20", "AT BA EE KZ LT LU XK"), ("21", "CH HR LI LV"),
        ("22", "BG BH CR DE GB GE IE ME RS VA"), ("23", "AE GI IL IQ TL"),
        ("24", "AD CZ ES MD PK RO SA SE SK TN VG"), ("25", "PT"), ("26", "IS TR"),
        ("27", "FR GR IT MC MR SM"), ("28", "AL AZ BY CY DO GT HU LB PL"),
        ("29", "BR EG PS QA UA"), ("30", "JO KW MU"), ("31", "MT SC"),
    )
    for country in countries.split()
}  # fmt: skip


def _iban(match: re.Match[str]) -> _Span | None:
    num_chars = _IBAN_CHARS.get(match[1], 0)
    # The pattern may run on into words in capitals that follow.
    places = [at for at in range(*match.span()) if match.string[at] != " "]
    if not num_chars or len(places) < num_chars:
        return None
    stop = places[num_chars - 1] + 1
    code = match.string[match.start() : stop].replace(" ", "")
    # ISO 7064: letters count from 10, the first four characters come last.
    number = int("".join(str(int(sign, 36)) for sign in code[4:] + code[:4]))
    if number % 97 != 1 or match.string[stop : stop + 1].isalnum():
        return None
    return match.start(), stop


_CARD = re.compile(
    r"(?<![\dA-Za-z_])(?<!\d[ .,-])"
    r"(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|\d{4}([ -]?)\d{6}\2\d{4,5})"
    r"(?![\dA-Za-z_]|[ .,-]\d)"
)
# First digits of cards by their length: Diners Club; American Express; Visa,
# Mastercard, Discover, JCB, UnionPay, RuPay and Troy.
_CARD_STARTS = {
    14: re.compile("3(?:0[0-5]|[689])"),
    15: re.compile("3[47]"),
    16: re.compile(
        "4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|6(?:0|2|4[4-9]|5)|35(?:2[89]|[3-8])"
        "|8[12]|508|9792"
    ),
}


def _card(match: re.Match[str]) -> _Span | None:
    digits = re.sub("[ -]", "", _ascii(match[0]))
    starts = _CARD_STARTS.get(len(digits))
    if not starts or not starts.match(digits):
        return None
    # Luhn: every second digit from the right counts double, its own digits added.
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return match.span() if (doubled + sum(map(int, digits[::-2]))) % 10 == 0 else None


# Of IPv6, addresses that are unique in the world.
_IP = re.compile(
    r"(?<![A-Za-z0-9_.])(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.[0-9])"
    r"|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}+)(?![A-Za-z0-9_])"
)
# Networks whose addresses are the same everywhere.
_NOBODYS = tuple(
    map(
        ipaddress.ip_network,
        "0.0.0.0/8 10.0.0.0/8 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 "
        "224.0.0.0/3".split(),
    )
)
_VERSION = re.compile(
    r"(?:(?<![^\W\d_])v|(?<![^\W\d_])ver|versi\w*|sürüm\w*|phiên bản|toleo|firmware"
    r"|release|เวอร์ชั่?น|รุ่น|संस्करण|वर्[जज़]+न|সংস্করণ|ভার্সন|பதிப்பு|ورژن)[\s.:]{0,3}$"
)


def _ip(match: re.Match[str]) -> _Span | None:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return match.span()
    parts = match[0].split(".")
    before = match.string[max(0, match.start() - 20) : match.start()].lower()
    if any(address in network for network in _NOBODYS) or _VERSION.search(before):
        return None
    # Numbers of sections and versions, and public resolvers such as 8.8.4.4.
    if all(int(part) < 20 for part in parts):
        return None
    # 1.250.125.200 is 1,250,125,200 in most of our languages.
    if all(len(part) == 3 for part in parts[1:]) and not re.search(r"\bip\b", before):
        return None
    return match.span()


# Digits of any script, with brackets and separators between them.
_NUMBER = re.compile(
    r"(?<![\dA-Za-z_@$€£₹৳฿₫¥])(?<!\d[.,:/-])"
    r"(?:\+[ ]?|\(\+?)?\d(?:[ .()‐-–-]{0,3}\d){6,19}"
    r"(?![\dA-Za-z_%€£₹৳฿₫¥]|[.,:/]\d|-[Xx])"
)
_MIN_PHONE_DIGITS, _MAX_PHONE_DIGITS = 7, 15
# Words right before a number that make it a telephone number, and words for "number"
# that may come between, or another such number.
_PHONE_WORDS = re.compile(
    r"(?:(?<![^\W\d_])(?:tel|phone|mob|cell|hp|gsm|fax|faks|whatsapp|viber|zalo|hotline"
    r"|sms|call|contact|puh|soita|matkapuh|ponsel|hubungi|kontak|cep|điện thoại|đt|sđt"
    r"|di động|gọi|liên hệ|simu|piga)|(?<![^\W\d_])(?:wa|p)(?=[.:])|wa\.me|tel:|phone="
    r"|โทร|มือถือ|เบอร์|ติดต่อ|แฟกซ์|ফোন|মোবাইল|যোগাযোগ|फोन|फ़ोन|मोबाइल|मो\.|संपर्क|सम्पर्क"
    r"|व्हाट्स|दूरभाष|போன்|மொபைல்|தொலைபேசி|கைபேசி|அலைபேசி|தொடர்பு|வாட்ஸ்"
    r"|فون|موبائل|رابطہ|واٹس ایپ)[^\s\d.,:;()/]{0,12}"
    r"(?:[\s.:()#-]{0,3}(?:no|nr|nro|num|number|numero|nomor|namba|nambari|numaras[ıi]"
    r"|số|หมายเลข|নম্বর|নাম্বার|नंबर|नम्बर|नं|எண்|نمبر)){0,2}"
    r"(?:[\s.:]{0,3}[\d ()+-]{7,20}[,/;&])?[\s.:()#№/–-]{0,4}$"
)
_NO_PHONE_WORDS = re.compile(r"(?:isbn|issn|isni|doi|orcid)\S{0,12}[\s.:]{0,3}$")
_YEAR = r"(?:19|2[0-6])\d\d"
_DATES = re.compile(rf"\d\d?\D\d\d?\D{_YEAR}|{_YEAR}\D(?:\d\d?\D\d\d?\b|{_YEAR})")


def _phone(match: re.Match[str]) -> _Span | None:
    """The first telephone number among the groups of digits that were matched."""
    text, start = match.string, match.start()
    before = text[max(0, start - 64) : start].lower()
    if _NO_PHONE_WORDS.search(before) or _is_in_address(text, start):
        return None
    named = bool(_PHONE_WORDS.search(before))
    groups = [
        (start + group.start(), start + group.end())
        for group in re.finditer(r"\d+", match[0])
    ]
    for first, (begin, _) in enumerate(groups):
        # In "978-0-306-40615" a number goes on: only after a space may one begin.
        if first and text[begin - 1] not in " (+":
            continue
        plus = begin > start and "+" in text[max(start, begin - 2) : begin]
        named = named and not first
        if not (plus or named or int(text[begin]) == 0):
            continue
        if stop := _phone_stop(text, groups[first:], plus, named):
            while begin > start and text[begin - 1] in "+( ":
                begin -= 1
            # What opens a bracket that closes later is no part of the number.
            shown = text[begin:stop]
            if shown.count("(") > shown.count(")"):
                begin += shown.index("(") + 1
            return begin, stop
    return None


def _phone_stop(text: str, groups: list[_Span], plus: bool, named: bool) -> int:
    """Where the telephone number ends that begins with the first group; 0 if none."""
    stop, num_digits = 0, 0
    sizes: list[int] = []
    for first, end in groups:
        sizes.append(end - first)
        num_digits += end - first
        # After its first digits, a number is written in groups of two at least; an
        # exception is the zero that is dialled at home: +358 (0)40.
        alone = len(sizes) > 1 and sizes[-1] == 1 and text[end - 2 : end + 1] != "(0)"
        if alone or num_digits > _MAX_PHONE_DIGITS:
            break
        if num_digits < _MIN_PHONE_DIGITS:
            continue
        if not _is_phone(_ascii(text[groups[0][0] : end]), sizes, plus, named):
            continue
        # In "0712 345 678 20", what ends in one pair is followed by another number.
        if not stop or sizes[-1] > 2 or sizes[-2:] == [2, 2]:
            stop = end
    return stop


def _is_phone(number: str, sizes: list[int], plus: bool, named: bool) -> bool:
    """Whether digits and what separates them are a whole telephone number.

    Args:
      number: In ASCII digits, from the first to the last.
      sizes: Digits of each group.
      plus: Whether a plus comes before it.
      named: Whether a word before it says that it is one.
    """
    digits = re.sub(r"\D", "", number)
    num_digits, separators = len(digits), set(re.sub(r"[\d()]", "", number))
    mixed = "." in separators and len(separators) > 1
    if len(set(digits)) == 1 or mixed:
        return False
    if digits.startswith("00"):
        return digits[2] != "0" and num_digits >= 11
    if plus:
        # No country but those of 1 and 7 has a code of one digit.
        if digits[0] == "0" or (sizes[0] == 1 and digits[0] not in "17"):
            return False
        return num_digits == 11 if digits[0] == "1" else 9 <= num_digits <= 13
    if _DATES.match(number):
        return False
    if sizes[0] == 1 and digits[0] == "0":
        # 0 (532) 123 45 67, but not 0.5321234567 or 0-100 000 000.
        return number[1] in " (" and 10 <= num_digits <= 11
    if digits[0] == "0":
        # Neither a decimal number nor those of a draw.
        if max(sizes) < 3 or (separators == {"."} and len(sizes) == 2 and sizes[0] < 3):
            return False
        fewest = 9 if named or len(sizes) > 1 else 10
        return fewest <= num_digits <= (13 if digits[1] == "8" else 12)
    if not named or num_digits > 13 or digits.endswith("000"):
        return False
    # 1 250 500 and 1.250.500.300 are amounts.
    in_thousands = len(sizes) > 1 and sizes[0] <= 3 and set(sizes[1:]) == {3}
    return not in_thousands or (separators != {"."} and num_digits > 7)


def _ascii(text: str) -> str:
    """Digits of any script as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(int(c)) if c.isdecimal() else c for c in text)


def _is_in_address(text: str, at: int) -> bool:
    """Whether a place lies in an address of the web, but none that dials a number."""
    word = re.split(r"\s", text[max(0, at - 200) : at])[-1].lower()
    is_address = re.search(r"://|www\.|[a-z0-9]\.[a-z]{2,24}/|[=&#]$", word)
    return bool(is_address) and not re.search(r"wa\.me|whatsapp|tel:|phone=", word)


_FINDERS: dict[str, tuple[re.Pattern[str], _Finder]] = {
    "email": (_EMAIL, _email),
    "iban": (_IBAN, _iban),
    "card": (_CARD, _card),
    "ip": (_IP, _ip),
    # Last, since it takes whatever looks like a number.
    "phone": (_NUMBER, _phone),
}


# Sites that opted out.


class LeaveOut:
    """Domains and URL prefixes whose pages are not wanted.

    A domain stands for all of its subdomains; a prefix ends at the end of a segment of
    the path, and is the same over http and https and with or without `www.`. An entry
    takes eight bytes: of each, only a hash is kept.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Reads files of one domain or URL prefix a line; `#` begins a comment.

        Args:
          patterns: Paths or patterns, on any filesystem that Beam knows.

        Raises:
          ValueError: A pattern matches no file, or a line is no entry.
        """
        hashes = (_hash(key) for pattern in patterns for key in _keys_in(pattern))
        self._hashes = np.unique(np.fromiter(hashes, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._hashes)

    def covers(self, url: str) -> bool:
        """Whether the page at this address is to be left out."""
        if not len(self._hashes):
            return False
        wanted = np.fromiter(map(_hash, _keys_over(url)), dtype=np.uint64)
        at = np.searchsorted(self._hashes, wanted)
        found = self._hashes[np.minimum(at, len(self._hashes) - 1)] == wanted
        return bool(found.any())


_MAX_HOST_CHARS = 253
_MAX_SEGMENTS = 64
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def _keys_in(pattern: str) -> Iterator[str]:
    files = FileSystems.match([pattern])[0].metadata_list
    if not files:
        raise ValueError(f"leave_out: {pattern!r} matches no file. Was it made?")
    for file in files:
        with FileSystems.open(file.path) as stream:
            # Beam's compressed files are no iterators.
            for number, line in enumerate(iter(stream.readline, b""), 1):
                try:
                    entry = re.split(r"(?:^|\s)#", line.decode("utf-8-sig"))[0].strip()
                    if entry:
                        yield _key(entry)
                except ValueError as error:
                    raise ValueError(f"{file.path}, line {number}: {error}") from error


def _key(entry: str) -> str:
    """The form in which an entry is looked up: `example.com` or `example.com/a/b`."""
    address = entry if "://" in entry else f"//{entry}"
    host, path = _host_and_path(address)
    labels = host.split(".")
    is_host = len(labels) > 1 and all(map(_LABEL.fullmatch, labels))
    if not is_host or "@" in urlsplit(address).netloc:
        raise ValueError(
            f"{entry!r} is neither a domain such as example.com, which stands for its "
            "subdomains too, nor a URL such as https://example.com/a."
        )
    if path.count("/") > _MAX_SEGMENTS:
        raise ValueError(f"{entry!r} has more than {_MAX_SEGMENTS} segments.")
    return host + path


def _keys_over(url: str) -> Iterator[str]:
    """The keys of every entry that would cover a page."""
    try:
        host, path = _host_and_path(url)
    except ValueError:
        return
    labels = host.split(".")[-127:]
    for first in range(len(labels)):
        yield ".".join(labels[first:])
    yield f"{host}/"
    path, _, query = path.partition("?")
    segments = path.split("/")[1 : _MAX_SEGMENTS + 1]
    for count in range(1, len(segments) + 1):
        yield f"{host}/{'/'.join(segments[:count])}"
    if query:
        yield f"{host}{path}?{query}"


def _host_and_path(url: str) -> tuple[str, str]:
    """Host without `www.`, and path with its query, empty if there is none.

    Raises:
      ValueError: The address cannot be read.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".").removeprefix("www.")
    if len(host) > _MAX_HOST_CHARS:
        raise ValueError(f"a host has {_MAX_HOST_CHARS} characters at most.")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    path = unquote(parts.path)
    # Of "/a/", the last segment is "a"; "/" alone stands for this one host.
    path = path.rstrip("/") or path[:1]
    return host, f"{path}?{parts.query}" if parts.query else path


def _hash(key: str) -> int:
    data = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


# A page's own terms.

_HINTS = ("noindex", "noai", "noimageai", "tdm-reservation")
# Names by which a page speaks to all crawlers, or to Common Crawl's.
_ADDRESSED = frozenset({"", "*", "all", "robots", "ccbot"})
_RULES_WITH_VALUES = frozenset(
    "unavailable_after max-snippet max-image-preview max-video-preview".split()
)
_HEAD_CHARS = 1 << 20
_META = re.compile(r"<[mM][eE][tT][aA]\b([^<>]*)")
_ATTRIBUTE = re.compile(
    r"(?<![a-zA-Z:-])([a-zA-Z:-]{1,40}+)\s*+=\s*+"
    r"""(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))"""
)


def robots(html: str, header: str) -> tuple[str, ...]:
    """What a page asks of crawlers in its HTML and its header.

    Args:
      html: The page.
      header: `X-Robots-Tag` as served; empty if there was none.

    Returns:
      Of `noindex` (which `none` includes), `noai`, `noimageai` and `tdm-reservation`
      (the rights to text and data mining are reserved), in this order.
    """
    found = set(_header_rules(header))
    for match in _META.finditer(_head(html)):
        meta = _attributes(match[1])
        name, content = meta.get("name", "").lower(), meta.get("content", "").lower()
        if name == "tdm-reservation" and content.strip() == "1":
            found.add(name)
        elif name and name in _ADDRESSED:
            found.update(re.split(r"[\s,;]+", content))
    if "none" in found:
        found.add("noindex")
    return tuple(hint for hint in _HINTS if hint in found)


def _header_rules(header: str) -> Iterator[str]:
    """The rules in `X-Robots-Tag` headers, one a line, for all or Common Crawl."""
    for line in header.lower().splitlines():
        agent = ""
        for part in line.split(","):
            name, colon, rest = map(str.strip, part.partition(":"))
            if name in _RULES_WITH_VALUES:
                continue
            # A name holds for the rules that follow, up to the next name.
            if colon and re.fullmatch(r"[a-z*][\w.*-]*", name):
                agent, name = name, rest
            if agent in _ADDRESSED:
                yield name


def _head(html: str) -> str:
    """The head of a page without its comments."""
    html = html[:_HEAD_CHARS]
    ends = (at for tag in ("</head", "</HEAD") if (at := html.find(tag)) >= 0)
    stop = min(ends, default=len(html))
    parts, at = [], 0
    while 0 <= at < stop:
        comment = html.find("<!--", at, stop)
        parts.append(html[at : comment if comment >= 0 else stop])
        at = html.find("-->", comment, stop) if comment >= 0 else -1
    return "".join(parts)


def _attributes(tag: str) -> dict[str, str]:
    return {
        name.lower(): quoted or single or bare
        for name, quoted, single, bare in _ATTRIBUTE.findall(tag)
    }


_CREATIVE_COMMONS = re.compile(
    r"(?:https?:)?//(?:www\.)?creativecommons\.org/"
    r"(licenses/[a-z+-]{2,30}|publicdomain/(?:zero|mark))(/\d\.\d)?(/(?!deed|rdf)[a-z]{2,8}(?=/|$))?"
)
_MAX_TAG_CHARS = 2000
_MAX_LICENSE_LINKS = 200


def license(html: str) -> str:
    """The Creative Commons licence, or mark of the public domain, that a page names.

    What it links with `rel="license"` comes before other links; links to different
    licences, such as those of several pictures, say nothing of the page.

    Returns:
      Its address, such as `https://creativecommons.org/licenses/by-sa/4.0/`; empty if
      the page names none, or several.
    """
    linked: dict[bool, set[str]] = {True: set(), False: set()}
    at = -1
    for _ in range(_MAX_LICENSE_LINKS):
        at = html.find("creativecommons.org/", at + 1)
        if at < 0:
            break
        start = html.rfind("<", max(0, at - _MAX_TAG_CHARS), at)
        stop = html.find(">", at, at + _MAX_TAG_CHARS)
        tag = re.match(r"<(?:a|link|area)\s", html[start : start + 6], re.I)
        if start < 0 or stop < 0 or not tag:
            continue
        attributes = _attributes(html[start:stop])
        named = _CREATIVE_COMMONS.match(attributes.get("href", "").strip().lower())
        if named:
            path = "".join(filter(None, named.groups()))
            is_its_own = "license" in attributes.get("rel", "").lower().split()
            linked[is_its_own].add(f"https://creativecommons.org/{path}/")
    found = linked[True] or linked[False]
    return found.pop() if len(found) == 1 else ""
