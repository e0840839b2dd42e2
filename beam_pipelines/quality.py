"""Why a text is unusable: rules with a name, a value and a threshold.

`measure` computes every rule's value, so that a document keeps them all and can be
judged later, by the thresholds that a recipe has then: `drop_reason` compares the two.

Which rules there are follows Gopher (Rae et al. 2021), FineWeb2 (Penedo et al. 2025)
and GlotCC (Kargaran et al. 2024); the lists of words are our own.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from beam_pipelines.language import fast_guess, script_counts
from beam_pipelines.recipe import Documents, Quality
from beam_pipelines.schema import LANGUAGES

# Why a text is dropped, and the threshold that says so: `min_x` and `max_x` bound the
# check `x`. Of several rules that a text breaks, the first gives the reason.
_RULES = {
    "undecodable": "max_replaced",
    "mojibake": "max_mojibake",
    "lorem_ipsum": "max_lorem",
    "code": "max_code",
    "mixed_script": "min_script",
    "mixed_language": "min_language_score",
    "foreign_sentences": "max_foreign",
    "repeated_lines": "max_repeated_lines",
    "repeated_ngrams": "max_repeated_ngrams",
    "top_2grams": "max_top_2grams",
    "top_3grams": "max_top_3grams",
    "top_4grams": "max_top_4grams",
    "short_lines": "min_mean_line",
    "list": "max_lines_per_word",
    "no_sentences": "min_ended_lines",
    "cut_lines": "max_cut_lines",
    "short_words": "min_mean_word",
    "long_words": "max_mean_word",
    "few_letters": "min_alphabetic",
    "few_stop_words": "min_stop_words",
    "stray_marks": "max_stray_marks",
    "policy": "max_policy_words",
    "adult": "max_adult_words",
    "adult_url": "max_adult_url",
}

# Hindi and Bengali are often typed with "|" for the danda.
_SENTENCE_ENDS = tuple(".!?…:;।॥|۔؟\"'”’»)]")
# Urdu, where the keyboard has no full stop.
_URDU_ENDS = (*_SENTENCE_ENDS, "-", "–")
_DIRECTION_MARKS = "\u200b\u200e\u200f"
_CUT_OFF = ("...", "…", "[...]", "[…]")
_SENTENCES = re.compile(r"(?<=[.!?…।॥|۔؟])\s+")
# The fast detector is mostly sure of the one and never of the other.
_SEGMENT_CHARS = 100
_MIN_SEGMENT_CHARS = 40
_NGRAM_WORDS = 5
# A phrase that comes twice is no repetition yet in a text of 40 words.
_TOP_NGRAM_TIMES = 3
_LOREM = re.compile(r"(?<!\w)(?:lorem ipsum|dolor sit amet|consectetur adipiscing)\b")
# What JSON, style sheets, scripts and markup leave behind.
_CODE = ("{", "}", "=", "\\", "</", "/>")

# Where words are not spaced, so many characters stand for a word.
_WORD_CHARS = 4
_UNSPACED = frozenset({"th"})
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿§©®™°·•±×÷№“”‘’„‚«»‹›‐‑–—…।॥|۔،؛؟"
_DIGITS = "".join(
    chr(zero + digit)
    for zero in (0x30, 0x660, 0x6F0, 0x966, 0x9E6, 0xBE6, 0xE50)
    for digit in range(10)
)

# The commonest function words: lists of products, names and keywords do without.
_STOP_WORDS = {
    "fi": "ja on ei se että oli hän ovat myös joka mutta kun niin kuin tai hänen sen "
    "ne jos mukaan kanssa jälkeen sekä vain jo nyt minä sinä me te he tämä nämä tämän "
    "jotka jossa jonka mitä voi olla olisi ollut en et emme eivät ole vielä kaikki "
    "siitä sitä tässä siinä koska ennen aina niitä hyvin",
    "id": "yang dan di ini itu dengan untuk pada dari tidak dalam adalah akan ke juga "
    "karena bisa ada oleh saya kita mereka anda dia kami atau seperti lebih telah "
    "sudah dapat sebagai para bahwa saat jika hanya namun tersebut serta secara agar "
    "masih menjadi setelah ia tetapi satu",
    "th": "ที่ และ ของ เป็น มี การ ได้ ใน ว่า ให้ ไม่ จะ กับ จาก นี้ ความ ก็ หรือ แต่ ซึ่ง โดย "
    "อยู่ แล้ว ด้วย มา ไป นั้น กัน เพราะ ต้อง",
    "tr": "ve bir bu da de için ile çok daha ne gibi kadar sonra olarak olan ama en o "
    "her var ise mi değil ya ki göre şey ben biz siz onu bunu şu veya hem önce ancak "
    "kendi diye tüm iki yok bile böyle",
    "vi": "và của là có các trong được cho không một với những người để khi này đã "
    "cũng như từ đến ra về tôi nhiều phải sẽ vào trên tại nhưng bạn nếu thì làm nên "
    "hay rất theo đó mà bị lại sau việc ở do hơn chỉ",
    "bn": "ও এই করে এবং থেকে না তার জন্য এক একটি কিন্তু হয় করা হয়েছে সঙ্গে সাথে যে তা "
    "কি আর এ যা তিনি আমি তাদের আমার হবে করতে আমাদের কোনো কোন অনেক পর মধ্যে বা নিয়ে "
    "দিয়ে যায় ছিল বলে সে নয় আপনি আপনার হলে পারে যখন তখন সব এর হতে",
    "hi": "के में है की और से का को एक हैं पर ने यह भी कि नहीं इस था तो हो कर ही जो "
    "लिए किया गया थे अपने या साथ वह थी हम आप कुछ रहा बाद तक जाता उन उस होता करने करते "
    "उनके मैं",
    "sw": "na ya wa kwa ni katika za la kuwa cha kama hii hiyo lakini pia au yake wake "
    "ili hivyo huu huo si baada sana kila watu yao wao mimi sisi yeye wewe hili hizi "
    "wakati tu bila hadi kutoka vya alikuwa ambayo ambao kwamba zaidi moja kabla ndani",
    "ta": "ஒரு என்று இந்த மற்றும் அந்த என்ற என இது அது அவர் நான் அவர்கள் இல்லை தான் "
    "மேலும் உள்ள பல ஆனால் போது வரை இருந்து கொண்டு மிகவும் எந்த அல்லது உள்ளது என்பது "
    "வேண்டும் இருந்தது நாம் நீங்கள் ஆகும் அதன் இதன் முதல் மூலம் குறித்து பிறகு பின்னர் எல்லா "
    "என்ன அவரது கூட இவர் நமது சில பற்றி போன்ற அதை இதை இருக்கும் என்றும் நம் தன் வந்து "
    "செய்து அதிக மட்டும் ஆகிய அங்கு இங்கு எனவே அவர்களின் மிக ஏற்படும் முடியும் இரண்டு",
    "ur": "کے میں کی ہے اور سے کا کو نے یہ کہ اس پر ہیں ایک بھی نہیں وہ تھا تو کر جو "
    "ہو ان کیا لیے ہی تھے گیا تھی ہم آپ اپنے جا ساتھ رہا کچھ بعد تک یا کرنے ہوتا اپنی "
    "مگر لیکن ہوئے مجھے میرے جب",
}

# Words of cookie notices, privacy policies and terms of use, rare elsewhere.
_POLICY = {
    "fi": "evästeet, evästeitä, evästeiden, tietosuoja, tietosuojaseloste, "
    "käyttöehdot, henkilötietoja, henkilötietojen, rekisterinpitäjä, suostumus",
    "id": "cookie, kuki, ketentuan, persetujuan, kebijakan, privasi, data pribadi, "
    "pengguna",
    "th": "คุกกี้, นโยบาย, ความเป็นส่วนตัว, ข้อกำหนด, ยินยอม, ข้อมูลส่วนบุคคล",
    "tr": "çerez, çerezler, çerezleri, gizlilik, politikası, kullanım koşulları, "
    "kişisel veriler, kişisel verilerin, kişisel verileriniz, açık rıza, onay, "
    "aydınlatma metni",
    "vi": "cookie, chính sách, điều khoản, bảo mật, thu thập, dữ liệu cá nhân, "
    "thông tin cá nhân, sự đồng ý, quyền riêng tư",
    "bn": "কুকি, গোপনীয়তা, নীতিমালা, শর্তাবলী, সম্মতি, ব্যক্তিগত তথ্য",
    "hi": "कुकी, कुकीज़, कुकीज, गोपनीयता, नीति, शर्तें, सहमति, व्यक्तिगत जानकारी, व्यक्तिगत डेटा",
    "sw": "vidakuzi, faragha, sera, masharti, ridhaa, taarifa binafsi, data binafsi",
    "ta": "குக்கீ, குக்கீகள், தனியுரிமை, கொள்கை, விதிமுறைகள், ஒப்புதல்",
    "ur": "کوکیز, رازداری, پالیسی, شرائط, رضامندی, ذاتی معلومات",
}

# Words of pornography, not of medicine, education or news about it, and none that is
# ordinary elsewhere: a Ford Escort, Sunni in Tamil, a burst pipe in Thai.
_ADULT_ANYWHERE = "porno, xnxx, xvideos, milf, blowjob, creampie, gangbang, hentai"
_ADULT = {
    "fi": "pornoa, pornovideo, pornovideot, pornoleffa, seksivideo, seksivideot, "
    "seksitreffit, seksiseuraa, panovideo, pillu, pillua, pilluun, kyrpä, kyrpää",
    "id": "bokep, ngentot, ngentotin, ngewe, memek, kontol, colmek, sange, toket, "
    "bugil, tante girang, video mesum, cerita sex",
    "th": "หนังโป๊, หนังโป้, คลิปโป๊, ภาพโป๊, เว็บโป๊, หนังเอ็กซ์, คลิปหลุด, เย็ด, ควย, เงี่ยน, เสียวหี",
    "tr": "pornosu, pornolar, sikiş, sikişi, sikişme, sikişen, sikiyor, amcık, amını, "
    "yarrak, yarrağı, götten, escort bayan, bayan escort, seks hikayesi, "
    "seks hikayeleri",
    "vi": "phim sex, truyện sex, phim heo, phim cấp ba, gái gọi, địt, lồn, cặc, chịch, "
    "bú cu, vú to, truyện loạn luân, dâm đãng",
    "bn": "চুদা, চোদা, চোদন, চুদাচুদি, চোদাচুদি, চুদতে, গুদ, ভোদা, মাগী, চটি গল্প, সেক্স ভিডিও, পর্ন",
    "hi": "चुदाई, चोदा, चोदना, चोदने, चुदवाने, चूत, लंड, लण्ड, गांड, गाण्ड, रंडी, "
    "अन्तर्वासना, पोर्न, सेक्सी वीडियो, सेक्स वीडियो, सेक्स कहानी, सेक्स स्टोरी",
    "sw": "kutomba, kutombana, kutombwa, kuma, mboo, mkundu, picha za uchi, "
    "picha za ngono, video za ngono, video za uchi",
    "ta": "புண்டை, கூதி, ஓழ், ஓக்க, காமக்கதை, காமக்கதைகள், காம கதை, காம கதைகள், "
    "செக்ஸ் வீடியோ, செக்ஸ் கதை",
    "ur": "چدائی, چودا, چودنا, چودنے, پھدی, چوت, لنڈ, گانڈ, رنڈی, پورن, سیکس ویڈیو, "
    "سیکسی ویڈیو, سیکس کہانی",
}
# Not "porn" inside a word (Siriporn and Pornchai are Thai names, Pornainen is a town),
# nor "xxx" in a path: London had the Games of the XXX. Olympiad.
_ADULT_URL = re.compile(
    r"^[a-z]+://[^/]*(?<![a-z])(?:xxx|milf)(?![a-z])|(?<![a-z])porn(?![a-z])|porno"
    r"|porn(?:hub|tube|star|video|movie|site)|xvideos|xnxx|xhamster|redtube|youporn"
    r"|brazzers|bokep|hentai|chudai|phimsex|sexvideo|sexstor|sexfilm|livesex"
)


def _split(phrases: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Phrases by language, in the form in which `_padded` text holds them."""
    return {
        code: tuple(_padded(phrase.split(), code) for phrase in _nfc(text).split(", "))
        for code, text in phrases.items()
    }


def _padded(words: Sequence[str], language: str) -> str:
    """Words to look phrases up in: each has its own two spaces, if words are spaced."""
    return "".join(words) if language in _UNSPACED else f" {'  '.join(words)} "


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_STOP_WORD_SETS = {c: frozenset(_nfc(text).split()) for c, text in _STOP_WORDS.items()}
_POLICY_PHRASES = _split(_POLICY)
_ADULT_PHRASES = _split(
    {code: f"{_ADULT_ANYWHERE}, {phrases}" for code, phrases in _ADULT.items()}
)


def measure(
    text: str, language: str, url: str = "", language_score: float = 1.0
) -> dict[str, float]:
    """The value of every rule for a text, to four decimals.

    A word is what stands between spaces, without the punctuation around it; in Thai,
    four characters stand for one. Shares lie in [0, 1].

    Args:
      text: Paragraphs, as `extract.tidy` leaves them.
      language: A key of `LANGUAGES`.
      url: Of the page.
      language_score: Probability of the language, as the verdict gave it.

    Returns:
      chars.
      language_score.
      replaced: Share of U+FFFD.
      mojibake: Traces of a wrongly guessed character set, per 100 words.
      lorem: Occurrences of filler text.
      code: Share of braces, backslashes, equals signs and ends of tags.
      script: Share of letters in the language's own script.
      foreign: Share of characters in sentences that are in another language.
      repeated_lines: Share of characters in lines that occurred before.
      repeated_ngrams: Share of characters in word 5-grams that occurred before.
      top_2grams, top_3grams, top_4grams: Share of characters in the word n-gram that
        covers most of the text, of those that occur three times.
      mean_line: Characters.
      lines_per_word.
      ended_lines: Share of lines with a sentence's end.
      cut_lines: Share of lines that end in an ellipsis.
      mean_word: Characters; in Thai, of what stands between spaces.
      alphabetic: Share of words with a letter; in Thai, of characters that are letters.
      stop_words: Share of function words; in Thai, of characters in them.
      stray_marks: Share of combining marks where the script allows none.
      policy_words: Words of policies, per 100 words, if there are two kinds of them.
      adult_words: Words of pornography, per 100 words.
      adult_url: Such words in the address.
    """
    lines = [line for line in text.split("\n") if line]
    ends = _URDU_ENDS if language == "ur" else _SENTENCE_ENDS
    num_line_chars = sum(map(len, lines))
    tokens = _lower(text, language).split()
    words = [word for token in tokens if (word := token.strip(_PUNCTUATION))]
    num_chars = sum(map(len, words))
    padded = _padded(words, language)
    scripts = script_counts(text)
    num_letters = sum(scripts.values())
    script = LANGUAGES[language].script
    if language in _UNSPACED:
        num_words = num_chars / _WORD_CHARS
        repetition = _repetition(padded, _WORD_CHARS)
        alphabetic = min(1.0, _share(num_letters, sum(map(len, tokens))))
        stop_chars = sum(
            padded.count(word) * len(word) for word in _STOP_WORD_SETS[language]
        )
        stop_words = min(1.0, _share(stop_chars, num_chars))
    else:
        num_words = len(words)
        repetition = _repetition(tuple(words), 1)
        lettered = sum(bool(word.strip(_PUNCTUATION + _DIGITS)) for word in words)
        alphabetic = _share(lettered, len(tokens))
        stop_words = _share(
            sum(map(_STOP_WORD_SETS[language].__contains__, words)), len(words)
        )
    # One kind alone may be the topic: an article on a government's policy.
    policy_words = _words_of(_POLICY_PHRASES[language], padded, language, min_kinds=2)
    adult_words = _words_of(_ADULT_PHRASES[language], padded, language, min_kinds=1)
    checks = {
        "chars": len(text),
        "language_score": language_score,
        "replaced": _share(text.count("\ufffd"), len(text)),
        "mojibake": 100 * _share(_mojibake(text, language), num_words),
        "lorem": len(_LOREM.findall(text.lower())),
        "code": _share(sum(map(text.count, _CODE)), len(text)),
        "script": _share(scripts[script], num_letters),
        "foreign": _foreign(lines, language),
        "repeated_lines": _share(_repeated_chars(lines), num_line_chars),
        **repetition,
        "mean_line": _share(num_line_chars, len(lines)),
        "lines_per_word": min(1.0, _share(len(lines), num_words)),
        "ended_lines": _share(_num_ending(lines, ends), len(lines)),
        "cut_lines": _share(_num_ending(lines, _CUT_OFF), len(lines)),
        "mean_word": _share(num_chars, len(words)),
        "alphabetic": alphabetic,
        "stop_words": stop_words,
        "stray_marks": stray_marks(text, script),
        "policy_words": 100 * _share(policy_words, num_words),
        "adult_words": 100 * _share(adult_words, num_words),
        "adult_url": len(_ADULT_URL.findall(url.lower())),
    }
    return {name: round(float(value), 4) for name, value in checks.items()}


def drop_reason(
    checks: Mapping[str, float], language: str, quality: Quality
) -> str | None:
    """The first rule that a text breaks, by name; None if it breaks none.

    Args:
      checks: From `measure`.
      language: A key of `LANGUAGES`.
      quality: The recipe's thresholds.
    """
    thresholds = quality.of(language)
    for reason, name in _RULES.items():
        value, bound = checks[name[4:]], getattr(thresholds, name)
        if value < bound if name.startswith("min_") else value > bound:
            return reason
    return None


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


def _lower(text: str, language: str) -> str:
    """Lower case; in Turkish, I is the capital of ı and İ that of i."""
    if language == "tr":
        text = text.replace("İ", "i").replace("I", "ı")
    return text.lower()


def _num_ending(lines: Sequence[str], ends: tuple[str, ...]) -> int:
    return sum(line.rstrip(_DIRECTION_MARKS).endswith(ends) for line in lines)


def _repeated_chars(lines: Sequence[str]) -> int:
    """Characters in lines that occurred before."""
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return repeated


def _repetition(units: Sequence[str], per_word: int) -> dict[str, float]:
    """The checks on word n-grams, as Gopher's rules count them.

    Args:
      units: Words; a string of characters where words are not spaced.
      per_word: So many units stand for a word.
    """
    found: dict[str, float] = {}
    num_chars = sum(map(len, units))
    # What occurs once is looked at once: no longer n-gram from there on comes again.
    starts: Sequence[int] = range(len(units))
    for num_words in (2, 3, 4, _NGRAM_WORDS):
        size = num_words * per_word
        ngrams = [(at, units[at : at + size]) for at in starts]
        counts = Counter(ngram for _, ngram in ngrams if len(ngram) == size)
        again = [(at, ngram) for at, ngram in ngrams if counts[ngram] > 1]
        starts = [at for at, _ in again]
        if num_words < _NGRAM_WORDS:
            often = [g for g, count in counts.items() if count >= _TOP_NGRAM_TIMES]
            most = max((counts[ngram] * _length(ngram) for ngram in often), default=0)
            found[f"top_{num_words}grams"] = min(1.0, _share(most, num_chars))
    seen: set[Sequence[str]] = set()
    repeated, free = 0, 0
    for at, ngram in again:
        if at < free:
            continue
        if ngram in seen:
            repeated += _length(ngram)
            free = at + size
        seen.add(ngram)
    return {"repeated_ngrams": _share(repeated, num_chars), **found}


def _length(units: Sequence[str]) -> int:
    """Characters."""
    return len(units) if isinstance(units, str) else sum(map(len, units))


def _words_of(
    phrases: Sequence[str], padded: str, language: str, min_kinds: int
) -> float:
    """Words in any of the phrases, if so many kinds of them occur."""
    counts = {phrase: count for phrase in phrases if (count := padded.count(phrase))}
    if len(counts) < min_kinds:
        return 0.0
    if language in _UNSPACED:
        return sum(len(p) * count for p, count in counts.items()) / _WORD_CHARS
    return sum(len(p.split()) * count for p, count in counts.items())


def _foreign(lines: Sequence[str], language: str) -> float:
    """Share of characters in sentences that the fast detector finds to be foreign."""
    own = ("id", "ms") if language == "id" else (language,)
    foreign = num_chars = 0
    for segment in _segments(lines, language):
        num_chars += len(segment)
        if len(segment) >= _MIN_SEGMENT_CHARS:
            guess = fast_guess(segment)
            foreign += len(segment) if guess and guess not in own else 0
    return _share(foreign, num_chars)


def _segments(lines: Sequence[str], language: str) -> Iterator[str]:
    """Sentences of a line, short ones with their neighbours."""
    for line in lines:
        rest = ""
        segments = []
        sentences = line.split() if language in _UNSPACED else _SENTENCES.split(line)
        for sentence in sentences:
            rest = f"{rest} {sentence}" if rest else sentence
            if len(rest) >= _SEGMENT_CHARS:
                segments.append(rest)
                rest = ""
        if segments:
            segments[-1] = f"{segments[-1]} {rest}"
        else:
            segments = [rest]
        yield from segments


# UTF-8 that was read as Latin-1 or Windows-1252: "Ã¤", "â€™", "à¤•", "áº¿", "Ä±", "Ø§".
_MOJIBAKE = re.compile(
    "â€|ï¿½|ï»¿|á[º»]|à[¤¥¦§®¯¸¹]|Â[¡-¿]|[ÄÅÆÐÑØÙ][¡-¿±‡…]"
    "|Ã[\u00a0-\u00bfƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ]"
)
# Turkish in ISO 8859-9 that was read as Latin-1: "baþka", "deðil", "yapýlan".
_LATIN_1_TURKISH = re.compile("(?<=[a-zA-Z])[ðþýÐÞÝ]|[ðþýÐÞÝ](?=[a-zA-Z])")


def _mojibake(text: str, language: str) -> int:
    found = len(_MOJIBAKE.findall(text))
    if language == "tr":
        found += len(_LATIN_1_TURKISH.findall(text))
    return found


def _marks(
    *,
    base: str,
    consonant: str,
    vowel: str,
    sign: str,
    virama: str,
    nasal: str,
    nukta: str = "",
    after_virama: str = "",
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The combining marks of an Indic script, and those that stand where none may.

    Args:
      base: Character class of what takes a mark.
      consonant: Of consonants.
      vowel: Of independent vowels, which take no vowel sign.
      sign: Of dependent vowel signs.
      virama: The sign that takes a consonant's vowel away.
      nasal: Of the signs that end a syllable.
      nukta: The dot below a consonant.
      after_virama: With what follows it, a virama may stand after a vowel.
    """
    mark = sign + virama + nasal + nukta
    stray = [
        # Zero-width joiners may come between a letter and its mark.
        rf"(?<![{base}{mark}\u200c\u200d])[{mark}]",
        rf"(?<=[{vowel}{sign}{virama}{nasal}])[{sign}]",
        rf"(?<=[{vowel}{sign}{virama}{nasal}])[{virama}](?!{after_virama or '(?!)'})",
        rf"(?<=[{nasal}])[{nasal}]",
        *([rf"(?<![{consonant}])[{nukta}]"] if nukta else []),
        # Printed where a font finds no base for a mark.
        "\u25cc",
    ]
    return re.compile(f"[{mark}\u25cc]"), re.compile("|".join(stray))


# By script: marks, and stray ones. Text copied out of a PDF or an old font has vowel
# signs before their consonants, doubled, or at the start of a word.
_MARKS = {
    "Deva": _marks(
        base="\u0904-\u0939\u093d\u0950\u0958-\u0961\u0972-\u097f",
        consonant="\u0915-\u0939\u0958-\u095f\u0978-\u097f",
        # Not \u0905, which with \u0945 makes a vowel of English words.
        vowel="\u0904\u0906-\u0914\u0960\u0961\u0972-\u0977",
        sign="\u093a\u093b\u093e-\u094c\u094e\u094f\u0955-\u0957\u0962\u0963",
        virama="\u094d",
        nasal="\u0900-\u0903",
        nukta="\u093c",
    ),
    "Beng": _marks(
        base="\u0985-\u09b9\u09bd\u09ce\u09dc-\u09e1\u09f0\u09f1",
        consonant="\u0995-\u09b9\u09dc-\u09df\u09f0\u09f1",
        vowel="\u0985-\u0994\u09e0\u09e1",
        sign="\u09be-\u09cc\u09d7\u09e2\u09e3",
        virama="\u09cd",
        nasal="\u0981-\u0983",
        nukta="\u09bc",
        # অ্যা is how the vowel of "apple" is written.
        after_virama="\u09af",
    ),
    "Taml": _marks(
        base="\u0b83-\u0bb9",
        consonant="\u0b95-\u0bb9",
        vowel="\u0b85-\u0b94",
        sign="\u0bbe-\u0bcc\u0bd7",
        virama="\u0bcd",
        nasal="\u0b82",
    ),
    # Thai: vowels above and below, then tones; U+F700… are glyphs of old fonts.
    "Thai": (
        re.compile("[\u0e31\u0e33-\u0e3a\u0e47-\u0e4e\uf700-\uf71a\u25cc]"),
        re.compile(
            "(?<![\u0e01-\u0e2e\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])"
            "[\u0e31\u0e33-\u0e3a\u0e47-\u0e4e]"
            "|(?<=[\u0e31\u0e34-\u0e39\u0e47-\u0e4b])[\u0e31\u0e34-\u0e39]"
            "|(?<=[\u0e48-\u0e4b])[\u0e48-\u0e4b]"
            "|(?<=[\u0e31\u0e34-\u0e39])\u0e33"
            "|[\uf700-\uf71a\u25cc]"
        ),
    ),
}


def stray_marks(text: str, script: str) -> float:
    """The share of a text's combining marks that stand where its script allows none.

    Args:
      text: Any.
      script: As in `LANGUAGES`; 0 for one whose marks are not known.
    """
    if script not in _MARKS:
        return 0.0
    marks, stray = _MARKS[script]
    return _share(len(stray.findall(text)), len(marks.findall(text)))
