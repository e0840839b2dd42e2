"""Instructions for documents: the model behind RunInference, and the rules after it."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import PCollection

from beam_pipelines.language import fast_guess
from beam_pipelines.recipe import Generator
from beam_pipelines.schema import Candidate, Document

if typing.TYPE_CHECKING:
    from xinst_jax import Engine

MIN_CHARS, MAX_CHARS = 10, 500

_THE_INPUT = (
    r"(text|article|passage|paragraph|sentence|document|page|story|content|excerpt|"
    r"post|blog|website|extract|abstract)s?"
)
# Instructions that ask for an input which is not there: the response *is* the text.
_ILL_POSED = re.compile(
    rf"\b(summari[sz]e|translate|paraphrase|rewrite|proofread|shorten)\b.*"
    rf"\b(this|the|following|above|given)\b.*\b{_THE_INPUT}\b"
    rf"|\b(this|these|the (above|following|given|attached|provided))\s+(\w+\s+)?"
    rf"{_THE_INPUT}\b"
    rf"|\bthe {_THE_INPUT} (above|below)\b"
    r"|\b(link|url|video|image|picture|photo|attachment)s?\b.*"
    r"\b(above|below|following|attached|here)\b"
    r"|\b(the (above|following)|find an?|attached) (link|url|video|image|picture)\b"
    r"|^(summari[sz]e|translate)\b",
    re.I,
)
_LETTERS = re.compile(r"[A-Za-z]")
_COPIED_WORDS = 4


class EngineHandler(ModelHandler[Any, Any, "Engine"]):
    """A model on the accelerator of a host, one for all of its worker processes.

    Args:
      checkpoint: A folder in Hugging Face layout.
      dtype: Of the weights.
      batch_size: Elements that the engine is handed at a time; it packs them itself.
        It changes the speed, never the results.
    """

    def __init__(self, checkpoint: str, dtype: str, batch_size: int) -> None:
        # Fixed: sizes that adapt to timing would split the store's parts at random.
        super().__init__(
            min_batch_size=batch_size, max_batch_size=batch_size, large_model=True
        )
        self._checkpoint = checkpoint
        self._dtype = dtype

    def load_model(self) -> "Engine":
        # Imported here: only the process that owns the accelerator may start JAX.
        from xinst_jax import Engine

        return Engine.load(self._checkpoint, dtype=self._dtype)

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        # A metric; by default every batch would be pickled for it.
        return 0


class GenerateInstructions(beam.PTransform):
    """A candidate for every document; those with an unusable instruction say why.

    Args:
      settings: Checkpoint and decoding.
      seed: Of the sampling.
      digest: Hash of checkpoint and decoding.
      model: Names the model, so that steps of a pipeline share it.
      batch_size: Documents that the engine is handed at a time.
    """

    def __init__(
        self, settings: Generator, seed: int, digest: str, model: str, batch_size: int
    ) -> None:
        super().__init__()
        self._handler = _InstructionHandler(settings, seed, digest, batch_size)
        self._model = model

    def expand(self, documents: PCollection[Document]) -> PCollection[Candidate]:
        return documents | RunInference(self._handler, model_identifier=self._model)


class _InstructionHandler(EngineHandler):
    """Documents in, candidates out."""

    def __init__(
        self, settings: Generator, seed: int, digest: str, batch_size: int
    ) -> None:
        super().__init__(settings.checkpoint, settings.dtype, batch_size)
        self._settings = settings
        self._seed = seed
        self._digest = digest

    def run_inference(
        self,
        batch: Sequence[Document],
        model: "Engine",
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Candidate]:
        from xinst_jax import SamplingConfig, prompts

        settings = self._settings
        sampling = SamplingConfig(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=self._seed,
        )
        generations = model.generate(
            [prompts.generate(d.text[: settings.max_text_chars]) for d in batch],
            sampling,
            ids=[document.id for document in batch],
        )
        for document, generation in zip(batch, generations, strict=True):
            instruction = " ".join(generation.text.split())
            reason = generation.error and f"failed: {generation.error}"
            if not reason and not generation.stopped:
                reason = "unfinished"
            reason = reason or reject_reason(instruction, document.text)
            if reason:
                Metrics.counter("candidates", reason.partition(":")[0]).inc()
            yield Candidate(
                document=document,
                instruction=instruction,
                generator=self._digest,
                logprob=round(float(generation.logprob), 4),
                rejected=reason or "",
            )


def reject_reason(instruction: str, response: str) -> str | None:
    """The first rule that an instruction breaks, by name; None if it breaks none.

    Args:
      instruction: As generated, in one line.
      response: The text that it was generated for.
    """
    if len(instruction) < MIN_CHARS:
        return "instruction_too_short"
    if len(instruction) > MAX_CHARS:
        return "instruction_too_long"
    if not is_english(instruction):
        return "not_english"
    if _ILL_POSED.search(instruction):
        return "ill_posed"
    if copied_share(instruction, response) > 0.5:
        return "copies_response"
    return None


def is_english(text: str) -> bool:
    """Whether a short text may be English: its letters are, and no detector objects."""
    printable = text.replace(" ", "")
    letters = len(_LETTERS.findall(printable))
    return letters > 0.7 * len(printable) and fast_guess(text) in ("", "en")


def copied_share(instruction: str, response: str) -> float:
    """The share of the instruction's word 4-grams that the response has too."""
    ours = set(_ngrams(instruction))
    return len(ours.intersection(_ngrams(response))) / len(ours) if ours else 0.0


def _ngrams(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(_COPIED_WORDS)), strict=False)
