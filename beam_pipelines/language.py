"""Which language a text is in: a cheap gate for all pages, a verdict for the few.

Restricting a detector to our ten languages would destroy its precision: it must be
able to say "Malay" or "Marathi" for a page to be turned away. Even so each detector
takes languages that it was never shown for one of ours, but seldom do three that learnt
from different text agree on the same mistake.
"""

import dataclasses
import functools
import re
import threading
import unicodedata
from collections.abc import Collection

import numpy as np
import pycld2
from langdetect import detector_factory
from langdetect.lang_detect_exception import LangDetectException
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from beam_pipelines.detector import QuickDetector
from beam_pipelines.schema import LANGUAGES

# Menus come first, so the gate looks at the middle of a page's text.
_GATE_CHARS = 6000
_VERDICT_CHARS = 2000
_MIN_SAMPLE_LETTERS = 300
_MIN_SAMPLE_SHARE = 0.1

# Detectors take Malay for Indonesian and Indonesian for Malay; words decide.
_ALIASES = {"ms": "id"}
# py3langid halves its probability between Hindi, Nepali and Marathi on short texts, and
# other languages rarely get a fifth of it: 0.1 and 0.3 give the same figures.
_MIN_SECOND_OPINION = 0.2
_CRAWL_CODES = {language.crawl: code for code, language in LANGUAGES.items()} | {
    "msa": "id",
    "ind": "id",
    "swh": "sw",
}
# pycld2 raises on these: control characters, lone surrogates, noncharacters.
_UNREADABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
    )
    + "]"
)

# Letters that Urdu has and Arabic and Persian lack.
_URDU_LETTERS = frozenset("ٹڈڑںےھہۓ")
_MIN_SHARE_OF_SCRIPT = {"Latn": 0.5, "Arab": 0.25}
_MIN_SHARE_OF_URDU_LETTERS = 0.02

# Letters that a language's alphabet lacks and its neighbours write all the time:
# Assamese and Meitei; Kashmiri, Saraiki, Sindhi, Pashto, Kurdish and Uyghur.
_FOREIGN_LETTERS = {
    "bn": "ৰৱ",
    "ur": "ٻڀٺٽٿڃڄڇڋڌڍڏڊڙڦڪڳڱڻټځڅډړږښګڼېۍڕڵۆێەۇۈۋٲٳۄؠݙݨ\u0655\u065a\u065b",
}
# A quoted name or two does not make a text foreign.
_MAX_SHARE_OF_FOREIGN_LETTERS = 0.002
_PUNCTUATION = ".,;:!?()[]\"'“”‘’«»…।،؛؟۔"


def _words(text: str) -> frozenset[str]:
    return frozenset(unicodedata.normalize("NFC", text).split())


# Neighbours that all detectors take for one of ours: words that only the neighbour has,
# and words that only our language has. Neither list holds a word that the other side
# knows in another sense or an older spelling (Indonesian "polis", "teknikal"), or a
# name ("Wang", "Gayle"). Minangkabau stands for Banjar too, Bhojpuri for all of Hindi's
# eastern kin from Awadhi to Maithili, Punjabi for Saraiki.
_NEIGHBOURS = {
    "id": {
        "malay": (
            _words(
                "kerana bahawa sahaja mahu mahukan mahupun iaitu sesetengah sentiasa "
                "antarabangsa syarikat pertubuhan universiti kualiti kuantiti "
                "aktiviti komuniti identiti fakulti majoriti minoriti kapasiti "
                "fasiliti perlembagaan parlimen kempen pilihanraya timbalan naib "
                "mesyuarat setiausaha jawatankuasa suruhanjaya perbadanan pengerusi "
                "pentadbiran jurucakap pengundi tentera siasatan menyiasat kemalangan "
                "jenayah penjenayah banduan peguam pelabur pelaburan insurans "
                "hartanah eksport mengeksport mengimport pengilang jenama diskaun "
                "baucar peratus bilion purata saiz jururawat pesakit kesihatan sihat "
                "ubat ubatan kanser jangkitan makmal fizik fizikal matematik mencuba "
                "percubaan dicuba perkhidmatan kakitangan kerjaya pesara berbeza "
                "perbezaan beza kahwin berkahwin perkahwinan haiwan arnab epal resipi "
                "basikal motosikal teksi stesen jambatan lebuhraya hujung pelancongan "
                "tingkap kerusi katil seluar kasut akaun nombor minit dekad darjah "
                "tempoh rasmi merasmikan dirasmikan perisian pautan sesawang emel "
                "talian skrin televisyen muzik muzium filem pawagam pelakon konsert "
                "sastera sukan pingat kejohanan jurulatih juruterbang angkasawan "
                "jurutera kejuruteraan pensyarah empayar ogos julai disember isnin "
                "khamis jumaat jepun sepanyol eropah inggeris dijangka dijangkakan"
            ),
            _words(
                "karena bahwa saja mau maupun uang yaitu berbagai bisa senantiasa "
                "butuh membutuhkan kebutuhan internasional perusahaan universitas "
                "kualitas kuantitas aktivitas komunitas identitas fakultas mayoritas "
                "minoritas kapasitas realitas fasilitas konstitusi parlemen kampanye "
                "pemilu partai komite gubernur bupati provinsi kabupaten kecamatan "
                "pendukung mendukung didukung dukungan tentara kecelakaan narapidana "
                "investor investasi asuransi properti ekspor impor merek diskon "
                "kantor pabrik bisnis persen miliar dokter perawat pasien kesehatan "
                "sehat obat kanker infeksi laboratorium metode fisika fisik "
                "matematika teknis kritis klinis tropis ilmuwan coba mencoba "
                "percobaan dicoba bagian sebagian layanan pelayanan karier pensiunan "
                "berbeda perbedaan beda pikir berpikir pikiran istri menikah "
                "pernikahan perkawinan kawin putri tetangga rekan tamu hewan kelinci "
                "apel resep sepeda mobil taksi stasiun jembatan ujung wisatawan "
                "pariwisata jendela kursi celana sepatu tipis listrik akun nomor "
                "menit dekade derajat resmi meresmikan diresmikan delapan proyek "
                "situs daring televisi telepon musik film bioskop konser sastra "
                "olahraga olimpiade klub medali insinyur dosen kekaisaran kristen "
                "agustus juli desember maret senin kamis jumat jepang italia prancis "
                "spanyol eropa inggris serikat tiongkok kemarin sore banget nggak gak "
                "enggak gratis silakan"
            ),
        ),
        "minangkabau": (
            _words(
                "nan jo untuak indak ado pado adolah urang dek iko inyo sarato kito "
                "sacaro samo bahaso ciek iduik buliah alah nang wan gasan kada hudah "
                "inya buhan buhannya ngini ngitu sidin banyu ulun pian"
            ),
            _words("yang untuk tidak pada adalah oleh secara orang"),
        ),
    },
    "bn": {
        "meitei": (
            _words(
                "অমসুং অসি অদু মসি মসিগী মদু মদুগী নত্ত্রগা অমা য়াম্না ঐখোয় মখোয় "
                "মখোয়গী মীওই পুম্নমক করিগুম্বা হায়বা হায়না লৈবা লৈরে ওইবা ওইরে "
                "মতমদা মতুংদা"
            ),
            _words("এবং এই একটি করে হয় থেকে জন্য তার তাদের না যে ছিল হয়েছে করা সঙ্গে"),
        ),
    },
    "hi": {
        "bhojpuri": (
            _words(
                "बा बाटे बाड़न हवे रहल रहली भइल कइल गइल देहल होखे होला एह ऊ जवन तवन "
                "कवन केहू हमनी रउआ आपन ओकर एकर जेकर ओकरा एकरा जेकरा हमार तोहार हमरा "
                "सबहि अउर अउरी आउर अउ आउ नइखे अइसन जइसन ओइसन अइसे जइसे कइसे इहाँ उहाँ "
                "अछि छथि छैक छलाह नहि अपन एहि ओहि जाहि हुनक सँ केँ कें लेल कएल कयल "
                "होइत सेहो आओर हई हइ हय हलई हथिन हलथिन गेलई देलई दोसर कोनो अहै अहैं "
                "जउन कउन कउनो गवा भवा किहिस किहिन दिहिस लिहिस कहिन रहिन करै होय कै "
                "होइ जाइ रहै करत होत कहत रहत सकत मिलत करब होब जाब रहब वहि यहि हवय "
                "हावय रिहिस रहिस बर ओखर येखर करिस कहिस होथे होइस करथे जाथे घलो गिस "
                "दिस नइ"
            ),
            _words("हैं था थे थी और को ने यह लिए हुआ हुई गया गई किया करने अपने"),
        ),
    },
    "ur": {
        "punjabi": (
            _words(
                "دا دیاں نوں وچ وچوں ایہہ ایہ توں تے ہن نیں اوس جیہڑا جیہڑے جہیڑے "
                "کیتا کیتی کیتے ہوندا ہوندے ہوندی جاندا جاندے نال اتے اُتے کوں ایں "
                "ساڈے تہاڈے"
            ),
            _words("کا کے کی کو میں یہ ہے سے تھا اور نے ہیں پر اس"),
        ),
    },
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a text was found to be.

    Attributes:
      language: A key of `LANGUAGES`, or empty if it is none of ours.
      score: Probability of the language, in [0, 1].
      reason: Why it is none of ours; empty if it is.
    """

    language: str
    score: float
    reason: str


def crawl_codes(languages: Collection[str]) -> frozenset[str]:
    """The codes by which Common Crawl may declare any of `languages`."""
    return frozenset(code for code, ours in _CRAWL_CODES.items() if ours in languages)


def declared_elsewhere(declared: Collection[str], languages: Collection[str]) -> bool:
    """Whether the crawl declares languages and none of them is wanted.

    Args:
      declared: ISO 639-3 codes as Common Crawl gives them; none says nothing.
      languages: Keys of `LANGUAGES`.
    """
    return bool(declared) and not any(
        _CRAWL_CODES.get(code) in languages for code in declared
    )


def gate(text: str, languages: Collection[str]) -> str | None:
    """Why a page's whole text is in none of `languages`, or None if it may be.

    Script first, since it costs least, then a fast detector whose "unknown" passes.
    """
    text = middle(text, _GATE_CHARS)
    scripts = possible_languages(text)
    if scripts.isdisjoint(languages):
        return "other_script"
    guess = _ALIASES.get(code := fast_guess(text), code)
    if guess and guess not in scripts.intersection(languages):
        return "other_language"
    return None


def glance(sample: str, languages: Collection[str]) -> str | None:
    """Why a page is in none of `languages`, to judge by some of its text; or None.

    The sample may have missed what matters, so a tenth of it in one of the languages,
    or doubt, is enough to look at the page as a whole.
    """
    counts = script_counts(sample)
    letters = sum(counts.values())
    if letters < _MIN_SAMPLE_LETTERS:
        return None
    scripts = {LANGUAGES[code].script for code in languages}
    if sum(counts[script] for script in scripts) < _MIN_SAMPLE_SHARE * letters:
        return "other_script"
    reliable, guesses = _detect(sample, best_effort=False)
    found = {_ALIASES.get(code, code) for code, percent in guesses if percent >= 10}
    if reliable and found.isdisjoint(languages):
        return "other_language"
    return None


def verdict(text: str, languages: Collection[str]) -> Verdict:
    """The language of a page's main text, by langdetect, the final arbiter.

    Two other detectors must not contradict it, nor letters and words that tell of a
    neighbour. The first 2,000 characters give the decision of the full text in 99.4 %
    of pages at a fraction of its time.
    """
    text = text[:_VERDICT_CHARS]
    identifier = _load_detectors()
    try:
        detector = QuickDetector(detector_factory._factory)
        detector.append(text)
        best = detector.get_probabilities()[0]
    except LangDetectException:
        return Verdict(language="", score=0.0, reason="no_letters")
    if best.lang not in languages:
        reason = "other_language"
    elif best.lang not in possible_languages(text):
        reason = "other_script"
    elif not _seconded(text, best.lang, identifier):
        reason = "other_language"
    else:
        reason = unseen_neighbour(text, best.lang) or ""
    return Verdict(language="" if reason else best.lang, score=best.prob, reason=reason)


def middle(text: str, max_chars: int) -> str:
    """At most `max_chars` characters around the middle of the text."""
    start = max(0, (len(text) - max_chars) // 2)
    return text[start : start + max_chars]


def fast_guess(text: str, *, best_effort: bool = False) -> str:
    """ISO 639-1 of the language that pycld2 finds, or empty where it is unsure.

    Args:
      text: Plain text.
      best_effort: Names the likeliest language of a text too short to be sure of.
    """
    reliable, guesses = _detect(text, best_effort=best_effort)
    code = guesses[0][0]
    return code if (reliable or best_effort) and code != "un" else ""


def _detect(text: str, *, best_effort: bool) -> tuple[bool, list[tuple[str, int]]]:
    """Whether pycld2 is sure; up to three languages and their shares in percent."""
    try:
        found = pycld2.detect(text, isPlainText=True, bestEffort=best_effort)
    except (pycld2.error, UnicodeEncodeError):
        text = _UNREADABLE.sub(" ", text)
        found = pycld2.detect(text, isPlainText=True, bestEffort=best_effort)
    reliable, _, guesses = found
    return reliable, [(code, percent) for _, code, percent, _ in guesses]


def possible_languages(text: str) -> frozenset[str]:
    """Those of our languages whose script the text is written in."""
    counts = script_counts(text)
    letters = sum(counts.values())
    if not letters:
        return frozenset()
    possible = {
        code
        for code, language in LANGUAGES.items()
        if counts[language.script] / letters
        > _MIN_SHARE_OF_SCRIPT.get(language.script, 0.25)
    }
    if "ur" in possible:
        own = sum(map(text.count, _URDU_LETTERS))
        if own / counts["Arab"] < _MIN_SHARE_OF_URDU_LETTERS:
            possible.discard("ur")
    return frozenset(possible)


def script_counts(text: str) -> dict[str, int]:
    """Letters and combining marks of the text by ISO 15924 script; `Zyyy` is others."""
    table = _script_table()
    points = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    found = np.bincount(
        table[np.minimum(points, len(table) - 1)], minlength=len(_SCRIPTS) + 2
    )
    return dict(zip((*_SCRIPTS, "Zyyy"), map(int, found[1:]), strict=True))


def unseen_neighbour(text: str, language: str) -> str | None:
    """What a text is that every detector takes for `language`, if it is a neighbour.

    Args:
      text: Plain text.
      language: A key of `LANGUAGES`.

    Returns:
      "other_alphabet" if it has letters that the language lacks, or the name of the
      neighbour whose own words outnumber those of the language.
    """
    text = unicodedata.normalize("NFC", text.lower())
    foreign = sum(map(text.count, _FOREIGN_LETTERS.get(language, "")))
    if foreign > _MAX_SHARE_OF_FOREIGN_LETTERS * len(text):
        return "other_alphabet"
    if language in _NEIGHBOURS:
        words = [word.strip(_PUNCTUATION) for word in text.split()]
        for neighbour, (theirs, ours) in _NEIGHBOURS[language].items():
            if sum(word in theirs for word in words) > sum(
                word in ours for word in words
            ):
                return neighbour
    return None


def _seconded(text: str, language: str, identifier: LanguageIdentifier) -> bool:
    """Whether pycld2 and py3langid, too, may take the text for the language."""
    guess = fast_guess(text, best_effort=True)
    if _ALIASES.get(guess, guess) != language:
        return False
    probability = sum(
        probability
        for code, probability in identifier.rank(text)
        if _ALIASES.get(code, code) == language
    )
    return probability >= _MIN_SECOND_OPINION


_SCRIPTS = ("Latn", "Arab", "Beng", "Deva", "Taml", "Thai")
# Blocks by code point: (script, first, last). Signs and digits are no letters.
_BLOCKS = (
    ("Latn", 0x41, 0x5A),
    ("Latn", 0x61, 0x7A),
    ("Latn", 0xC0, 0x24F),
    ("Latn", 0x1E00, 0x1EFF),
    ("Arab", 0x620, 0x65F),
    ("Arab", 0x66E, 0x6D3),
    ("Arab", 0x6D5, 0x6EF),
    ("Arab", 0x750, 0x77F),
    ("Arab", 0xFB50, 0xFDFF),
    ("Arab", 0xFE70, 0xFEFC),
    ("Beng", 0x980, 0x9E5),
    ("Deva", 0x900, 0x963),
    ("Taml", 0xB80, 0xBE5),
    ("Thai", 0xE01, 0xE4E),
)


@functools.cache
def _script_table() -> np.ndarray:
    """Code point → 0 for no letter, 1 + index into `_SCRIPTS`, or "other"."""
    other = len(_SCRIPTS) + 1
    # The last entry stands for every point beyond the first planes.
    table = np.full(0x30001, other, dtype=np.uint8)
    table[:0xC0] = 0
    table[0x2000:0x2C00] = 0
    table[0x3000:0x3040] = 0
    table[0xFE00:0xFE10] = 0
    table[[0xD7, 0xF7, 0x964, 0x965]] = 0
    for script, first, last in _BLOCKS:
        table[first : last + 1] = _SCRIPTS.index(script) + 1
    table[[0xD7, 0xF7]] = 0
    for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xBE6, 0xE50):
        table[zero : zero + 10] = 0
    return table


_detectors_lock = threading.Lock()


def _load_detectors() -> LanguageIdentifier:
    """Loads langdetect's profiles and py3langid's model once a process.

    langdetect gets a seed, since it draws at random otherwise.
    """
    with _detectors_lock:
        if detector_factory._factory is None:
            detector_factory.DetectorFactory.seed = 0
            detector_factory.init_factory()
        return _identifier()


@functools.cache
def _identifier() -> LanguageIdentifier:
    """py3langid with probabilities: about 1 s to load, 80 MB."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
