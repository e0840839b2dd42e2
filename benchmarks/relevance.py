"""Are true pairs told from shuffled ones, and by what? AUC over three seeds, as tables.

    python benchmarks/relevance.py                # on the bundled seed
    python benchmarks/relevance.py --texts DIR    # on SIB-200 and XQuAD

DIR holds `sib200/<language>/{train,dev}.tsv`, lines of `index_id`, `category`, `text`,
the same sentences in each language; and `xquad/xquad.{en,hi,th}.json.gz`.

A pair is an English text and one in another language: with --texts an English sentence
and its translation, or a question and the paragraph that answers it. Two encoders are
trained: n-grams by contrast, as evaluators have, and a small language model from
scratch, in both directions. Neither saw the texts that are measured, and of XQuAD
nothing at all is fitted. "shuffled" puts another text of the language in the place of
the right one; "same topic" another of its topic, or of its Wikipedia article.

"sounds" needs no training, and evaluators do not have it: the share of the
instruction's words and numbers that the response has too, in its own script, told by
the consonants; rare words count more.
"""

import argparse
import collections
import csv
import functools
import gzip
import json
import math
import random
import re
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xinst_jax import Engine, judge, prompts, scratch, seed, train
from xinst_jax.relevance import Relevance

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
HELD_OUT = 0.2
# Of a response, so many characters are shown to the language model.
MAX_CHARS = 400
# Pairs of SIB-200, and of a language of XQuAD; the likelihoods take their time.
NUM_SENTENCES, NUM_QUESTIONS = 600, 300
KINDS = ("shuffled", "same topic")
SIB = {
    "fi": "fin_Latn", "id": "ind_Latn", "th": "tha_Thai", "tr": "tur_Latn",
    "vi": "vie_Latn", "bn": "ben_Beng", "hi": "hin_Deva", "sw": "swh_Latn",
    "ta": "tam_Taml", "ur": "urd_Arab",
}  # fmt: skip
LIKELIHOODS = ("forward", "backward")
# What is combined; the logistic combination is fitted on rows like the first test's.
COMBINED = {
    "n-grams": ("similarity", "similarity_of_half"),
    "likelihoods": LIKELIHOODS,
    "n-grams and likelihoods": ("similarity", "similarity_of_half", *LIKELIHOODS),
    "n-grams and sounds": ("similarity", "similarity_of_half", "sounds"),
    "all": ("similarity", "similarity_of_half", *LIKELIHOODS, "sounds"),
}

# Sounds.

# Consonants by the names that Unicode has for them, up to the first vowel. Voice and
# breath are not told apart: no script of ours keeps all of them in foreign names.
GROUPS = {
    "k": "k kh khh g gh ghh q",
    "t": "t tt th tth d dd dh ddh",
    "p": "p ph b bh f",
    "s": "s ss sh c ch j jh z ts tch",
    "m": "m",
    "n": "n nn nnn ng ny",
    "r": "r rr rrh dddh",
    "l": "l ll lll",
    "v": "v w",
}
SOUND = {name: group for group, names in GROUPS.items() for name in names.split()}
# English spelling: these come first, in this order.
SPELT = {
    "ph": "f", "sch": "s", "sh": "s", "ch": "s", "ck": "k", "qu": "kv", "x": "ks",
    "ng": "n", "c(?=[eiy])": "s", "c": "k", "(?<=[aeiou])w(?![aeiou])": "",
}  # fmt: skip
LETTER = re.compile(
    r"(?:DEVANAGARI|BENGALI|TAMIL|ARABIC) LETTER (?:FARSI )?(\w+)"
    r"|THAI CHARACTER (?!SARA)(\w+) \w+"
)
MIN_SOUNDS, MAX_SUFFIX = 3, 3
# A word of more sounds is a sentence of a script without spaces.
SENTENCE, MIN_INSIDE = 12, 4


@functools.cache
def sound(letter: str) -> str:
    """The consonant group of a letter that is not Latin, or empty."""
    name = unicodedata.name(letter, "")
    if "ANUSVARA" in name or "CANDRABINDU" in name:
        return "n"
    found = LETTER.match(name)
    word = (found[1] or found[2]) if found else ""
    # Arabic letters that are said otherwise than they are named.
    word = {"THAL": "ZAL", "THEH": "SEH", "DAD": "ZAD"}.get(word, word)
    return SOUND.get(re.sub("[AEIOUY].*", "", word).lower(), "")


@functools.cache
def sounds(word: str) -> str:
    """The consonants of a word in any of our scripts: "Bowl" and "बाउल" are "pl"."""
    plain = unicodedata.normalize("NFKD", word.lower())
    if "LATIN" in unicodedata.name(plain[:1] or " ", ""):
        for spelt, said in SPELT.items():
            plain = re.sub(spelt, said, plain)
        heard = [SOUND.get(letter, "") for letter in plain]
    else:
        heard = [sound(letter) for letter in word]
    return re.sub(r"(.)\1+", r"\1", "".join(heard))


@functools.cache
def heard_in(text: str) -> tuple[tuple[str, ...], frozenset[int]]:
    """The sounds of a text's words, and its numbers."""
    words = re.split(r"[\s\-–/]+", text)
    # Signs for vowels are no letters; of words only what sounds is kept anyway.
    numbers = frozenset(int(digits) for digits in re.findall(r"\d+", text))
    return tuple(filter(None, map(sounds, words))), numbers


class Sounds:
    """What is shared by ear.

    Args:
      instructions: English ones; their commonest words count least.
    """

    def __init__(self, instructions: Sequence[str]) -> None:
        texts = sorted(set(instructions))
        self._number = len(texts)
        self._texts_with = collections.Counter(
            word for text in texts for word in set(heard_in(text)[0])
        )

    def __call__(self, pairs: Sequence[seed.Pair]) -> np.ndarray:
        """Shares in [0, 1]; 0 where the instruction has nothing to listen for."""
        return np.array([self._share(p.instruction, p.response) for p in pairs])

    def _share(self, instruction: str, response: str) -> float:
        words, numbers = heard_in(instruction)
        others, other_numbers = heard_in(response)
        most = math.log(1 + self._number)
        total, shared = most * len(numbers), most * len(numbers & other_numbers)
        for word in words:
            if len(word) >= MIN_SOUNDS:
                weight = most - math.log(1 + self._texts_with[word])
                total += weight
                shared += weight * any(_alike(word, other) for other in others)
        return shared / total if total else 0.0


def _alike(word: str, other: str) -> bool:
    """Whether the other is the word, perhaps with a suffix, or has it inside."""
    if len(other) > SENTENCE:
        return len(word) >= MIN_INSIDE and word in other
    return other.startswith(word) and len(other) <= len(word) + MAX_SUFFIX


# Texts.


def sib(texts: Path, part: str) -> list[seed.Pair]:
    """English sentences and their translations into our ten languages."""
    english = _sentences(texts / "sib200" / "eng_Latn" / f"{part}.tsv")
    return [
        seed.Pair(
            instruction=english[number]["text"],
            response=row["text"],
            language=code,
            topic=row["category"],
        )
        for code, folder in SIB.items()
        for number, row in _sentences(texts / "sib200" / folder / f"{part}.tsv").items()
    ]


def _sentences(file: Path) -> dict[str, dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["index_id"]: row for row in rows}


def xquad(texts: Path, code: str) -> list[seed.Pair]:
    """English questions and the paragraphs that answer them, by article."""
    questions = {
        asked["id"]: asked["question"]
        for article in _articles(texts, "en")
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    }
    return [
        seed.Pair(
            instruction=questions[asked["id"]],
            response=paragraph["context"].strip("\ufeff"),
            language=code,
            topic=article["title"],
        )
        for article in _articles(texts, code)
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def _articles(texts: Path, code: str) -> list[dict]:
    with gzip.open(
        texts / "xquad" / f"xquad.{code}.json.gz", "rt", encoding="utf-8"
    ) as file:
        return json.load(file)["data"]


def shuffled(pairs: list[seed.Pair], kind: str, random_seed: int) -> list[seed.Pair]:
    """Each instruction with another response of the language."""
    draw = random.Random(random_seed)
    groups = collections.defaultdict(list)
    for pair in pairs:
        groups[_group(pair, kind)].append(pair.response)
    made = []
    for pair in pairs:
        others = [r for r in groups[_group(pair, kind)] if r != pair.response]
        # A topic of one text: any other text, then.
        others = others or [p.response for p in pairs if p.language == pair.language]
        made.append(
            seed.Pair(
                instruction=pair.instruction,
                response=draw.choice(others),
                language=pair.language,
                topic=pair.topic,
            )
        )
    return made


def _group(pair: seed.Pair, kind: str) -> str:
    return pair.language + (pair.topic if kind == "same topic" else "")


# What is measured.


def language_model(
    pairs: list[seed.Pair], folder: Path, random_seed: int, steps: int
) -> Engine:
    """A small model of responses after instructions, and of the reverse."""
    base, model = folder / "base", folder / "model"
    new_base(base, pairs, 6000, 128, 2, random_seed)
    shown = seed.thinned(pairs, 0.2, 2, random_seed)
    return taught(base, model, shown, MAX_CHARS, random_seed, steps)


def new_base(
    out: Path,
    pairs: Sequence[seed.Pair],
    vocabulary: int,
    width: int,
    layers: int,
    random_seed: int,
) -> None:
    """A model with random weights that knows the words of some pairs."""
    scratch.new_checkpoint(
        out,
        [f"{pair.instruction}\n{pair.response}" for pair in pairs],
        forms=(prompts.GENERATE, prompts.ANSWER),
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=2,
        kv_heads=1,
        mlp_width=3 * width,
        max_positions=2048,
        seed=random_seed,
    )


def taught(
    base: Path,
    out: Path,
    shown: list[seed.Pair],
    max_chars: int,
    random_seed: int,
    steps: int,
) -> Engine:
    """A model of some pairs in both directions; it sees them in another order."""
    random.Random(random_seed).shuffle(shown)
    pairs = judge.evidence_pairs(shown, LIKELIHOODS, max_chars)
    config = train.TrainingConfig(
        steps=steps, batch_tokens=2048, learning_rate=4e-3, seed=random_seed
    )
    train.fine_tune(base, out, pairs, [], config, progress=False)
    return Engine.load(out)


def gains(
    engine: Engine, sets: Sequence[list[seed.Pair]]
) -> list[dict[str, np.ndarray]]:
    """Nats by which each side makes the other likelier than nothing does, a set.

    As `judge.Judge` measures it; here the sets share texts, and of each prompt and
    target the likelihood is asked for once.
    """
    asked: dict[tuple[str, str], float] = {}
    wanted = []
    for pairs in sets:
        for pair in pairs:
            shown = prompts.excerpt(pair.response, MAX_CHARS)
            answer = functools.partial(
                prompts.answer, language=prompts.LANGUAGE_NAMES[pair.language]
            )
            wanted.append(
                (
                    (answer(pair.instruction), f" {shown}"),
                    (answer(""), f" {shown}"),
                    (prompts.generate(shown), f" {pair.instruction}"),
                    (prompts.generate(""), f" {pair.instruction}"),
                    len(shown),
                )
            )
            asked.update(dict.fromkeys(wanted[-1][:4], 0.0))
    found = engine.loglikelihood([p for p, _ in asked], [t for _, t in asked])
    asked = dict(zip(asked, map(float, found), strict=True))
    rows = np.array(
        [
            (
                (asked[after] - asked[alone]) / size * 100,
                asked[after_response] - asked[without],
            )
            for after, alone, after_response, without, size in wanted
        ]
    )
    parts = np.split(rows, np.cumsum([len(pairs) for pairs in sets])[:-1])
    return [dict(zip(LIKELIHOODS, part.T, strict=True)) for part in parts]


def measured(
    sets: Sequence[list[seed.Pair]],
    engine: Engine,
    encoder: Relevance,
    sounding: Sounds,
) -> list[dict[str, np.ndarray]]:
    rows = []
    for pairs, gained in zip(sets, gains(engine, sets), strict=True):
        near = encoder.similarity(
            [pair.instruction for pair in pairs], [pair.response for pair in pairs]
        )
        rows.append(
            {"similarity": near[:, 0], "similarity_of_half": near[:, 1]}
            | gained
            | {"sounds": sounding(pairs)}
        )
    return rows


def combined(
    rows: list[dict[str, np.ndarray]],
    names: Sequence[str],
    fitted: judge.Calibration | None,
    sources: list[str],
) -> list[np.ndarray]:
    """Of true rows and each kind of shuffled ones: how probably they are true.

    Without a combination that was fitted elsewhere, by ones that saw none of a row's
    source.
    """
    values = [np.stack([each[name] for name in names], axis=1) for each in rows]
    if fitted:
        return [fitted(each)[:, 0] for each in values]
    levels = np.repeat([0] + [2] * (len(rows) - 1), len(sources))
    found = judge.cross_fitted(
        names, np.concatenate(values), levels, sources * len(rows)
    )
    return np.split(found[:, 0], len(rows))


def fit(rows: list[dict[str, np.ndarray]], names: Sequence[str]) -> judge.Calibration:
    """The logistic combination of true rows against shuffled ones of both kinds."""
    values = [np.stack([each[name] for name in names], axis=1) for each in rows]
    levels = np.repeat([0] + [2] * (len(rows) - 1), len(values[0]))
    return judge.Calibration.fit(names, np.concatenate(values), levels)


def by_language(true: np.ndarray, false: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """AUC of each language that there is, in the order of their codes."""
    return np.array(
        [judge.auc(true[codes == c], false[codes == c]) for c in np.unique(codes)]
    )


Areas = dict[tuple[str, str, str], list[np.ndarray]]


def one_seed(
    train_pairs: list[seed.Pair],
    tests: dict[str, list[seed.Pair]],
    random_seed: int,
    steps: int,
    areas: Areas,
) -> None:
    """Adds a seed's AUCs, by test, kind of shuffling and evidence."""
    started = time.perf_counter()
    encoder = Relevance.train(train_pairs, random_seed)
    sounding = Sounds([pair.instruction for pair in train_pairs])
    with tempfile.TemporaryDirectory() as folder:
        engine = language_model(train_pairs, Path(folder), random_seed, steps)
        size = (Path(folder) / "model" / "model.safetensors").stat().st_size // 4
        trained = time.perf_counter() - started
        fitted: dict[str, judge.Calibration | None] = dict.fromkeys(COMBINED)
        for test, pairs in tests.items():
            sets = [pairs, *(shuffled(pairs, kind, random_seed) for kind in KINDS)]
            rows = measured(sets, engine, encoder, sounding)
            codes = np.array([pair.language for pair in pairs])
            sources = [pair.instruction for pair in pairs]
            told = {name: [each[name] for each in rows] for name in rows[0]}
            for name, of in COMBINED.items():
                told[name] = combined(rows, of, fitted[name], sources)
            for name, (true, *others) in told.items():
                for kind, false in zip(KINDS, others, strict=True):
                    found = by_language(true, false, codes)
                    areas.setdefault((test, kind, name), []).append(found)
            if not any(fitted.values()):
                fitted = {name: fit(rows, of) for name, of in COMBINED.items()}
    print(
        f"seed {random_seed}: a language model of {size:,} parameters, {steps} steps; "
        f"training {trained:.0f} s, all {time.perf_counter() - started:.0f} s",
        flush=True,
    )


def spread(values: Sequence[float]) -> str:
    """Mean ± deviation of what is known; empty if nothing is."""
    known = [value for value in values if value == value]
    if not known:
        return ""
    deviation = np.std(known, ddof=1) if len(known) > 1 else float("nan")
    return f"{np.mean(known):.3f} ± {deviation:.3f}"


def print_tables(areas: Areas, tests: dict[str, list[seed.Pair]]) -> None:
    columns = [(test, kind) for test in tests for kind in KINDS]
    names = list(dict.fromkeys(name for *_, name in areas))
    print("\nAUC, the mean of languages; mean ± deviation over seeds\n")
    print("| evidence | " + " | ".join(f"{t}, {k}" for t, k in columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name in names:
        cells = [
            spread([found.mean() for found in areas[test, kind, name]])
            for test, kind in columns
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    first = next(iter(tests))
    codes = np.unique([pair.language for pair in tests[first]])
    shown = ("similarity", "backward", "sounds", "all")
    print(f"\n{first}, shuffled, by language\n")
    print("| language | " + " | ".join(shown) + " |")
    print("|---" * (1 + len(shown)) + "|")
    for at, code in enumerate(codes):
        cells = [spread([f[at] for f in areas[first, KINDS[0], n]]) for n in shown]
        print(f"| {code} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="a folder with sib200 and xquad")
    parser.add_argument("--steps", type=int, help="of the language model")
    arguments = parser.parse_args()
    texts: Path | None = arguments.texts
    if texts:
        train_pairs = sib(texts, "train")
        draw = random.Random(0)
        tests = {"SIB-200 dev": draw.sample(sib(texts, "dev"), NUM_SENTENCES)}
        for code in ("hi", "th"):
            tests[f"XQuAD {code}"] = draw.sample(xquad(texts, code), NUM_QUESTIONS)
    else:
        pairs = seed.read([str(ROOT / "examples" / "seed" / "*.jsonl")])
        train_pairs, held = seed.split(pairs, HELD_OUT)
        tests = {"held-out seed": held}
    sizes = ", ".join(f"{test} {len(pairs):,}" for test, pairs in tests.items())
    print(f"{len(train_pairs):,} pairs to train on; to measure on: {sizes}")
    areas: Areas = {}
    for random_seed in SEEDS:
        steps = arguments.steps or (600 if texts else 300)
        one_seed(train_pairs, tests, random_seed, steps, areas)
    print_tables(areas, tests)


if __name__ == "__main__":
    main()
