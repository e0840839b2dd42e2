"""The recipe: what a data set is made of, and the hashes that stages are kept by.

A recipe says what the content is and nothing about machines. Standard library only.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beam_pipelines.schema import LANGUAGES

COMMON_CRAWL = "https://data.commoncrawl.org"


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names key, value and bound."""


def _check(holds: bool, section: object, rule: str) -> None:
    """Raises a `RecipeError` that quotes the rule and the values that break it."""
    if not holds:
        named = [f.name for f in dataclasses.fields(section) if f.name in rule]  # type: ignore[arg-type]
        got = ", ".join(f"{name}={getattr(section, name)!r}" for name in named)
        raise RecipeError(f"{type(section).__name__} needs {rule}, got {got}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where the pages come from: files that are named, or a crawl.

    Attributes:
      warc: Paths or patterns of WARC files, on any filesystem that Beam knows.
      wet: The same for WET files, whose text is extracted already.
      crawl: A crawl of Common Crawl's, such as `CC-MAIN-2026-04`, instead of files; of
        CC-NEWS, which never ends, a month: `CC-NEWS/2026/11`.
      kind: Which files of the crawl are read: `warc` or `wet`.
      index: Whether the crawl's columnar index chooses records first, by the languages
        that it declares; only those are fetched. Cheaper for rare languages, dearer for
        common ones, and whatever has no declared language is left out.
      max_files: Of the crawl's files, so many at most, chosen by a hash of their
        paths: a larger number only adds to them. 0 is all.
      base: A folder or address that goes before every path; where a crawl is named,
        `https://data.commoncrawl.org` by default. Records name their file without it,
        so that a mirror serves the same data set.
      leave_out: Files of domains and URL prefixes whose pages are not wanted.
    """

    warc: tuple[str, ...] = ()
    wet: tuple[str, ...] = ()
    crawl: str = ""
    kind: str = "warc"
    index: bool = False
    max_files: int = 0
    base: str = ""
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(
            bool(self.warc or self.wet) != bool(self.crawl),
            self,
            "either paths in warc or wet, or a crawl",
        )
        _check(self.kind in ("warc", "wet"), self, "kind warc or wet")
        _check(self.max_files >= 0, self, "max_files >= 0")
        if not self.crawl:
            _check(not self.index, self, "a crawl for index")
            _check(not self.max_files, self, "a crawl for max_files")
            _check(self.kind == "warc", self, "a crawl for kind")
        # The index says where records of WARC files lie.
        _check(not self.index or self.kind == "warc", self, "kind warc with index")
        name = re.sub(r"(?<=.)/\d{4}/\d\d$", "", self.crawl)
        _check(
            not set(name) & set("/\\*?[") and not name.startswith("."),
            self,
            "crawl to be a name such as CC-MAIN-2026-04 or CC-NEWS/2026/11",
        )

    @property
    def root(self) -> str:
        """What goes before every path; may be empty."""
        return self.base or (COMMON_CRAWL if self.crawl else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Documents:
    """Which texts of a page are stored as documents.

    Attributes:
      min_chars: A document has at least so many characters.
      max_chars: Longer texts are cut at the ends of paragraphs.
      max_pieces: So many documents at most come from one page.
    """

    min_chars: int = 200
    max_chars: int = 2048
    max_pieces: int = 4

    def __post_init__(self) -> None:
        _check(0 < self.min_chars <= self.max_chars, self, "0 < min_chars <= max_chars")
        _check(self.max_pieces >= 1, self, "max_pieces >= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Which documents of a language are used: bounds of what `quality.measure` finds.

    Shares lie in [0, 1]. What has no default differs by language: see `Quality`.

    Attributes:
      max_replaced: Share of characters that are U+FFFD.
      max_mojibake: Traces of a wrongly guessed character set, per 100 words.
      max_lorem: Occurrences of filler text.
      max_code: Share of braces, backslashes, equals signs and ends of tags.
      min_script: Share of letters in the language's own script.
      min_language_score: Probability of the language.
      max_foreign: Share of characters in sentences of another language. GlotCC keeps
        a page where 60 % of the sentences agree.
      max_repeated_lines: Share of characters in lines seen before; Gopher's bound.
      max_repeated_ngrams: Share of characters in word 5-grams seen before.
      max_top_2grams: Share of characters in the word 2-gram that covers most.
      max_top_3grams: In the 3-gram.
      max_top_4grams: In the 4-gram.
      min_mean_line: Mean length of a line, in characters.
      max_lines_per_word: Lines for each word.
      min_ended_lines: Share of lines with a sentence's end.
      max_cut_lines: Share of lines that end in an ellipsis; Gopher's bound.
      min_mean_word: Mean length of a word, in characters; in Thai, of what stands
        between spaces.
      max_mean_word: The same, from above.
      min_alphabetic: Share of words with a letter; in Thai, of characters.
      min_stop_words: Share of function words; in Thai, of characters in them.
      max_stray_marks: Share of combining marks where the script allows none (bn, hi,
        ta, th).
      max_policy_words: Words on cookies, privacy and terms, per 100 words.
      max_adult_words: Words of pornography, per 100 words.
      max_adult_url: Such words in the address.
    """

    max_replaced: float = 0.001
    max_mojibake: float = 1.0
    max_lorem: float = 0.0
    max_code: float = 0.01
    min_script: float = 0.8
    min_language_score: float = 0.8
    max_foreign: float = 0.3
    max_repeated_lines: float = 0.2
    max_repeated_ngrams: float
    max_top_2grams: float
    max_top_3grams: float
    max_top_4grams: float
    min_mean_line: float = 30.0
    max_lines_per_word: float
    min_ended_lines: float = 0.4
    max_cut_lines: float = 0.3
    min_mean_word: float
    max_mean_word: float
    min_alphabetic: float
    min_stop_words: float
    max_stray_marks: float = 0.02
    max_policy_words: float = 3.0
    max_adult_words: float = 2.0
    max_adult_url: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            most = 1000 if field.name in _NO_SHARES else 1
            value = getattr(self, field.name)
            _check(0 <= value <= most, self, f"0 <= {field.name} <= {most}")
        _check(
            self.min_mean_word <= self.max_mean_word,
            self,
            "min_mean_word <= max_mean_word",
        )


_NO_SHARES = {
    f"{bound}_{check}"
    for bound in ("min", "max")
    for check in (
        "mojibake lorem mean_line mean_word policy_words adult_words adult_url".split()
    )
}


# What differs by language. All but the last column are FineWeb2's figures (Penedo et
# al. 2025, the repository's `configs`), found from each language's own distribution;
# Thai's mean word and letters are ours, since FineWeb2 cuts Thai into words. The least
# share of function words is about half of what 99 % of clean paragraphs reach.
_TUNED_NAMES = (
    *("max_repeated_ngrams", "max_top_2grams", "max_top_3grams", "max_top_4grams"),
    *("max_lines_per_word", "min_mean_word", "max_mean_word", "min_alphabetic"),
    "min_stop_words",
)
_TUNED_OTHERS = {
    # Thai marks sentences with spaces, so the ends of its lines say nothing; foreign
    # names stay in their own letters, a third of a report on football.
    "th": {"min_ended_lines": 0.0, "min_script": 0.6}
}
_TUNED = {
    code: Thresholds(
        **dict(zip(_TUNED_NAMES, row, strict=True)),
        **_TUNED_OTHERS.get(code, {}),
    )
    for code, row in {
        "fi": (0.153, 0.253, 0.202, 0.179, 0.161, 3.0, 14.0, 0.755, 0.03),
        "id": (0.166, 0.194, 0.166, 0.145, 0.157, 3.0, 12.0, 0.805, 0.08),
        "th": (0.185, 0.221, 0.197, 0.162, 0.153, 4.0, 150.0, 0.7, 0.06),
        "tr": (0.154, 0.214, 0.168, 0.147, 0.222, 3.0, 21.0, 0.773, 0.02),
        "vi": (0.178, 0.223, 0.197, 0.171, 0.103, 3.0, 11.0, 0.803, 0.08),
        "bn": (0.118, 0.177, 0.158, 0.147, 0.171, 3.0, 24.0, 0.8, 0.04),
        "hi": (0.135, 0.208, 0.198, 0.161, 0.316, 2.0, 21.0, 0.837, 0.1),
        "sw": (0.193, 0.396, 0.282, 0.231, 0.167, 3.0, 9.0, 0.802, 0.08),
        "ta": (0.149, 0.23, 0.212, 0.19, 0.195, 4.0, 37.0, 0.779, 0.01),
        "ur": (0.125, 0.139, 0.123, 0.107, 0.222, 2.0, 31.0, 0.839, 0.12),
    }.items()
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """The thresholds of each language.

    In a recipe, `[quality]` holds for all languages and `[quality.sw]` for one; what
    neither names is as below. Documents are stored with their values and judged
    afterwards, so a threshold can be changed without reading the crawl again.
    """

    fi: Thresholds = _TUNED["fi"]
    id: Thresholds = _TUNED["id"]
    th: Thresholds = _TUNED["th"]
    tr: Thresholds = _TUNED["tr"]
    vi: Thresholds = _TUNED["vi"]
    bn: Thresholds = _TUNED["bn"]
    hi: Thresholds = _TUNED["hi"]
    sw: Thresholds = _TUNED["sw"]
    ta: Thresholds = _TUNED["ta"]
    ur: Thresholds = _TUNED["ur"]

    def of(self, language: str) -> Thresholds:
        """The thresholds of a language, a key of `LANGUAGES`."""
        return getattr(self, language)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a checkpoint is made.

    Attributes:
      data: Seed pairs as JSON Lines: `instruction`, `response`, `language`.
      base: The checkpoint to start from; empty: a small model, from scratch.
      steps: Optimiser steps.
      batch_tokens: Tokens in a step.
      accumulate: Parts of a step's batch that are run one after the other, where the
        activations of all of it do not fit into memory.
      learning_rate: At its peak.
      lora_rank: Of adapters (LoRA) to train instead of all weights; 0: none. With 16
        and dtype bfloat16, one accelerator trains a base of billions of parameters.
      dtype: `float32` or `bfloat16`: of the base beside adapters, and of what comes of
        it. Training all weights takes `float32`.
      held_out: Share of the seed that only measures the loss.
      word_dropout: Share of a response's words that are left out at random, anew each
        time that a pair is seen. Keeps a small model from learning the seed by heart.
      vocabulary: Of a model from scratch, as are the sizes that follow.
      width: Of the residual stream.
      layers: Number of them.
      heads: Query heads; half as many for keys and values.
    """

    data: tuple[str, ...] = ()
    base: str = ""
    steps: int = 500
    batch_tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = 1e-5
    lora_rank: int = 0
    dtype: str = "float32"
    held_out: float = 0.05
    word_dropout: float = 0.0
    vocabulary: int = 6000
    width: int = 128
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        _check(self.steps >= 1, self, "steps >= 1")
        _check(self.batch_tokens >= 256, self, "batch_tokens >= 256")
        _check(self.accumulate >= 1, self, "accumulate >= 1")
        _check(0 < self.learning_rate < 1, self, "0 < learning_rate < 1")
        _check(self.lora_rank >= 0, self, "lora_rank >= 0")
        _check(self.lora_rank == 0 or self.base != "", self, "a base with lora_rank")
        _check(self.dtype in ("float32", "bfloat16"), self, "dtype float32 or bfloat16")
        frozen = self.lora_rank > 0 or self.dtype == "float32"
        _check(frozen, self, "dtype float32 without lora_rank")
        _check(self.vocabulary >= 300, self, "vocabulary >= 300")
        _check(self.layers >= 1, self, "layers >= 1")
        _check(self.heads >= 1, self, "heads >= 1")
        _check(self.width >= 1, self, "width >= 1")
        _check(0 < self.held_out < 1, self, "0 < held_out < 1")
        _check(0 <= self.word_dropout < 1, self, "0 <= word_dropout < 1")
        _check(self.width % self.heads == 0, self, "width a multiple of heads")


_EVIDENCE = ("forward", "backward", "similarity", "language")


def _check_model(section: Any) -> None:
    """What the generator and the evaluator say of how their model is run."""
    known = section.dtype in ("float32", "bfloat16")
    _check(known, section, "dtype float32 or bfloat16")
    _check(section.quantize in ("", "int8", "fp8"), section, "quantize int8 or fp8")
    in_bounds = 1 <= section.max_prompt_tokens <= 8192
    _check(in_bounds, section, "1 <= max_prompt_tokens <= 8192")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """The model that writes instructions, and how it decodes.

    Attributes:
      checkpoint: A folder in Hugging Face layout.
      dtype: `float32` or `bfloat16`.
      quantize: `int8` or `fp8` has the layers multiply in eight bits; empty: in dtype.
      max_prompt_tokens: Longer prompts are rejected. Tokens per character differ much
        between scripts: with Llama 2's tokenizer a Tamil text has several a letter.
      max_text_chars: Of a text, so much is shown to the model.
      max_new_tokens: Longer instructions are rejected as unfinished.
      temperature: 0 is greedy.
      top_k: 0 keeps every token.
      top_p: 1 keeps every token.
      no_repeat_ngram: No run of so many tokens comes twice; 0 lets it.
      candidates: So many instructions are written for each document, of which the best
        rated may be kept. More than one needs a temperature.
      train: How `xinst train generator` makes it.
    """

    checkpoint: str
    dtype: str = "float32"
    quantize: str = ""
    max_prompt_tokens: int = 2048
    max_text_chars: int = 2048
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram: int = 0
    candidates: int = 1
    train: Training = Training()

    def __post_init__(self) -> None:
        _check_model(self)
        _check(self.max_text_chars >= 1, self, "max_text_chars >= 1")
        _check(1 <= self.max_new_tokens <= 2048, self, "1 <= max_new_tokens <= 2048")
        _check(0 <= self.temperature <= 10, self, "0 <= temperature <= 10")
        _check(self.top_k >= 0, self, "top_k >= 0")
        _check(0 < self.top_p <= 1, self, "0 < top_p <= 1")
        _check(self.no_repeat_ngram >= 0, self, "no_repeat_ngram >= 0")
        _check(1 <= self.candidates <= 16, self, "1 <= candidates <= 16")
        varied = self.candidates == 1 or self.temperature > 0
        _check(varied, self, "temperature > 0 with candidates > 1")


INSTRUCTION_RULES = (
    *("instruction_too_short", "instruction_too_long", "bad_start", "not_english"),
    *("ill_posed", "copies_response", "leaks_answer"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions:
    """Which instructions are used.

    Candidates are stored whatever they are and judged afterwards, so a rule can be
    changed without generating again.

    Attributes:
      rules: Those that apply, of `INSTRUCTION_RULES`. What the generator did not finish
        is never used.
      min_chars: An instruction has at least so many characters.
      max_chars: And at most so many.
      max_copied: Share of its word 4-grams that the response has too.
      max_leaked: Share of it that is one run of the response's characters.
    """

    rules: tuple[str, ...] = INSTRUCTION_RULES
    min_chars: int = 10
    max_chars: int = 500
    max_copied: float = 0.5
    max_leaked: float = 0.5

    def __post_init__(self) -> None:
        _check(0 < self.min_chars <= self.max_chars, self, "0 < min_chars <= max_chars")
        _check(0 <= self.max_copied <= 1, self, "0 <= max_copied <= 1")
        _check(0 <= self.max_leaked <= 1, self, "0 <= max_leaked <= 1")
        for rule in self.rules:
            if rule not in INSTRUCTION_RULES:
                raise RecipeError(
                    f"rules: {rule!r} is none of ours; choose from "
                    f"{', '.join(INSTRUCTION_RULES)}."
                )
        # One order, so that the order in which a recipe lists them changes nothing.
        rules = tuple(rule for rule in INSTRUCTION_RULES if rule in self.rules)
        object.__setattr__(self, "rules", rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """The model that judges pairs, and what is kept.

    Attributes:
      checkpoint: A folder in Hugging Face layout.
      dtype: `float32` or `bfloat16`.
      quantize: `int8` or `fp8` has the layers multiply in eight bits; empty: in dtype.
      max_prompt_tokens: Longer prompts are rejected. Tokens per character differ much
        between scripts: with Llama 2's tokenizer a Tamil text has several a letter.
      max_text_chars: Of a response, so much is shown to the model.
      evidence: What is measured besides the rating, and counts as its calibration
        found: `forward`, how much likelier the instruction makes the response;
        `backward`, the other way round; `similarity`, how near the two are to an
        encoder that learns from the seed; `language`, how surely all of the response is
        in its language. The first two read each pair twice more.
      keep_above: Pairs whose `p_best` is lower are not published.
      train: How `xinst train evaluator` makes it.
    """

    checkpoint: str
    dtype: str = "float32"
    quantize: str = ""
    max_prompt_tokens: int = 2048
    max_text_chars: int = 2048
    evidence: tuple[str, ...] = _EVIDENCE
    keep_above: float = 0.5
    train: Training = Training()

    def __post_init__(self) -> None:
        _check_model(self)
        _check(self.max_text_chars >= 1, self, "max_text_chars >= 1")
        _check(
            set(self.evidence) <= set(_EVIDENCE),
            self,
            f"evidence of {', '.join(_EVIDENCE)}",
        )
        _check(0 <= self.keep_above <= 1, self, "0 <= keep_above <= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refine:
    """The rounds of `xinst refine`: rate, keep, train again, write again.

    Attributes:
      rounds: At most so many; 0: instructions are written and rated once.
      min_gain: The loop ends where neither the share of documents with a kept pair nor
        the evaluator's accuracy rose by so much.
      kept_per_language: So many pairs of a language at most, the best rated, join the
        seed when the generator is trained again.
      steps: Optimiser steps of each training after the first.
    """

    rounds: int = 0
    min_gain: float = 0.01
    kept_per_language: int = 3200
    steps: int = 500

    def __post_init__(self) -> None:
        _check(0 <= self.rounds <= 9, self, "0 <= rounds <= 9")
        _check(0 <= self.min_gain <= 1, self, "0 <= min_gain <= 1")
        _check(self.kept_per_language >= 1, self, "kept_per_language >= 1")
        _check(self.steps >= 1, self, "steps >= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diversify:
    """How examples are spread over topics, and split.

    Attributes:
      examples_per_language: At most so many are published in a language.
      clusters: Topics per language; 0 derives it from the number of candidates.
      max_per_domain: At most so many examples of a language are of one domain.
      max_verb_share: So large a share of a language's examples at most has one root
        verb, as far as there are others; 1 lets all have the same.
      validation: Share of registered domains whose examples are for validation.
      test: Likewise. A share of 0 leaves the split out.
    """

    examples_per_language: int = 32000
    clusters: int = 0
    max_per_domain: int = 50
    max_verb_share: float = 0.25
    validation: float = 0.01
    test: float = 0.01

    def __post_init__(self) -> None:
        _check(self.examples_per_language >= 1, self, "examples_per_language >= 1")
        _check(self.clusters >= 0, self, "clusters >= 0")
        _check(self.max_per_domain >= 1, self, "max_per_domain >= 1")
        _check(0 < self.max_verb_share <= 1, self, "0 < max_verb_share <= 1")
        _check(
            min(self.validation, self.test) >= 0 and self.validation + self.test < 1,
            self,
            "validation >= 0, test >= 0 and validation + test < 1",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a data set holds.

    Attributes:
      name: Of the recipe, in messages and in the data set's metadata.
      languages: Keys of `LANGUAGES`.
      seed: Of every random choice.
    """

    name: str
    languages: tuple[str, ...]
    source: Source
    generator: Generator
    evaluator: Evaluator
    seed: int = 0
    documents: Documents = Documents()
    quality: Quality = Quality()
    instructions: Instructions = Instructions()
    refine: Refine = Refine()
    diversify: Diversify = Diversify()

    def __post_init__(self) -> None:
        _check(bool(self.languages), self, "at least one of languages")
        for code in self.languages:
            if code not in LANGUAGES:
                raise RecipeError(
                    f"languages: {code!r} is none of ours; choose from "
                    f"{', '.join(LANGUAGES)}."
                )
        # One order, so that the order in which a recipe lists them changes nothing.
        object.__setattr__(
            self,
            "languages",
            tuple(code for code in LANGUAGES if code in self.languages),
        )

    def captures_hash(self) -> str:
        """Of what decides which records of a crawl's index are fetched."""
        return _digest(self.languages)

    def documents_hash(self) -> str:
        """Of what decides a page's documents; the files read are not part of it."""
        # Stored documents are judged by the values that they were stored with.
        checks = [field.name for field in dataclasses.fields(Thresholds)]
        by_index = self.source.index
        return _digest([self.languages, canonical(self.documents), checks, by_index])

    def candidates_hash(self) -> str:
        """Of what decides a document's instruction: the weights and the decoding.

        Raises:
          RecipeError: The checkpoint is not there.
        """
        settings = canonical(self.generator)
        # Each of several candidates has a folder of its own.
        del settings["train"], settings["candidates"]
        settings["checkpoint"] = checkpoint_digest(self.generator.checkpoint)
        return _digest([self.seed, settings])

    def scores_hash(self) -> str:
        """Of what decides a candidate's score.

        Raises:
          RecipeError: The checkpoint is not there.
        """
        settings = canonical(self.evaluator)
        # What is kept is decided after the scores.
        del settings["train"], settings["keep_above"]
        settings["checkpoint"] = checkpoint_digest(self.evaluator.checkpoint)
        return _digest(settings)

    def refinement_hash(self) -> str:
        """Of what decides how the models are refined, the crawl apart.

        Raises:
          RecipeError: The generator's checkpoint is not there.
        """
        settings = canonical(self.evaluator)
        del settings["checkpoint"]
        parts = self.instructions, self.refine, self.generator.train
        written = self.candidates_hash(), self.generator.candidates
        return _digest([written, settings, [*map(canonical, parts)]])

    def at_round(self, generator: int, evaluator: int) -> "Recipe":
        """The recipe with the models of a round of refinement.

        Args:
          generator: 0 is the recipe's own.
          evaluator: 1 is the recipe's own.
        """

        def after(path: str, rounds: int) -> str:
            return f"{path}.round{rounds}" if rounds else path

        written = after(self.generator.checkpoint, generator)
        rated = after(self.evaluator.checkpoint, evaluator if evaluator > 1 else 0)
        return dataclasses.replace(
            self,
            generator=dataclasses.replace(self.generator, checkpoint=written),
            evaluator=dataclasses.replace(self.evaluator, checkpoint=rated),
        )

    def examples_hash(self) -> str:
        """Of what decides which scored candidates are published, and how."""
        return _digest(
            [
                self.documents_hash(),
                [canonical(self.quality.of(code)) for code in self.languages],
                self.candidates_hash(),
                canonical(self.instructions),
                self.scores_hash(),
                self.generator.candidates,
                self.evaluator.keep_above,
                canonical(self.diversify),
            ]
        )


def load(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe.

    Raises:
      RecipeError: The file is missing or no TOML, or a key is unknown, missing, of
        the wrong type or out of bounds.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"Recipe {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"Recipe {path} is not UTF-8: {error}.") from error
    try:
        return from_table(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"Recipe {path} is no TOML: {error}.") from error
    except RecipeError as error:
        raise RecipeError(f"Recipe {path}: {error}") from error


def from_table(table: Mapping[str, Any]) -> Recipe:
    """The recipe that nested tables describe; `canonical` gives them back.

    Raises:
      RecipeError: A key is unknown, missing, of the wrong type or out of bounds.
    """
    return _parse(Recipe, table, "")


def anchored(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with its relative local paths taken from `folder`."""

    def at(path: str) -> str:
        return path if not path or "://" in path else os.path.join(folder, path)

    def trained(training: Training) -> Training:
        return dataclasses.replace(
            training, data=tuple(map(at, training.data)), base=at(training.base)
        )

    return dataclasses.replace(
        recipe,
        source=dataclasses.replace(
            recipe.source,
            base=at(recipe.source.root or "."),
            leave_out=tuple(map(at, recipe.source.leave_out)),
        ),
        generator=dataclasses.replace(
            recipe.generator,
            checkpoint=at(recipe.generator.checkpoint),
            train=trained(recipe.generator.train),
        ),
        evaluator=dataclasses.replace(
            recipe.evaluator,
            checkpoint=at(recipe.evaluator.checkpoint),
            train=trained(recipe.evaluator.train),
        ),
    )


def canonical(section: Any) -> dict[str, Any]:
    """The section as plain values, the same for equal sections."""
    return json.loads(json.dumps(dataclasses.asdict(section), sort_keys=True))


def checkpoint_digest(path: str) -> str:
    """Of the contents of a checkpoint's configuration, tokenizer and weights.

    Raises:
      RecipeError: There is no checkpoint.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise RecipeError(
            f"No checkpoint in {path!r}: it has no config.json. Train it with `xinst "
            "train generator|evaluator RECIPE`, or name another folder."
        )
    files = tuple(
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.iterdir())
        if file.suffix == ".safetensors" or file.name in _CONTENT_FILES
    )
    return _contents_digest(files)


@functools.lru_cache(maxsize=8)
def _contents_digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Of files as they were at that size and time; gigabytes are read only once."""
    digest = hashlib.blake2b(digest_size=16)
    for path, _, _ in files:
        digest.update(Path(path).name.encode())
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# What a checkpoint's folder holds besides (logs, cards) changes no output.
_CONTENT_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json"),
    "calibration.json",
)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _parse(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """`table` as an instance of the dataclass `cls`; `where` is its key's prefix."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in table:
            kind = _kind(hints[field.name])
            raise RecipeError(f"key {where + field.name!r} is missing; it is {kind}.")
    return cls(**_values(hints, table, where))


def _parse_quality(table: Mapping[str, Any], where: str) -> Quality:
    """Thresholds by language: the defaults, then those for all, then its own."""
    hints = typing.get_type_hints(Quality) | typing.get_type_hints(Thresholds)
    common = {key: value for key, value in table.items() if key not in LANGUAGES}
    common = _values(hints, common, where)
    defaults = canonical(Quality())
    thresholds = {}
    for code in LANGUAGES:
        own = table.get(code, {})
        if isinstance(own, dict):
            own = defaults[code] | common | own
        thresholds[code] = _value(Thresholds, own, where + code)
    return Quality(**thresholds)


def _values(
    hints: Mapping[str, Any], table: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The values of a table's keys, each as the type that its hint names."""
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(hints)
            raise RecipeError(f"unknown key {where + key!r}.{hint} Known: {known}.")
    return {key: _value(hints[key], value, where + key) for key, value in table.items()}


def _value(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type that `hint` names, or a `RecipeError`."""
    if hint is Quality and isinstance(value, dict):
        return _parse_quality(value, f"{key}.")
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _parse(typing.cast(type, hint), value, f"{key}.")
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    # `type`, not `isinstance`: true is no number of anything.
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise RecipeError(f"key {key!r} is {value!r}; expected {_kind(hint)}.")


def _kind(hint: Any) -> str:
    """A type's name as people write it in TOML."""
    if dataclasses.is_dataclass(hint):
        return "a table"
    if isinstance(hint, types.GenericAlias):
        return f"a list, each item {_kind(typing.get_args(hint)[0])}"
    names = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
    }
    return names.get(hint, str(hint))
