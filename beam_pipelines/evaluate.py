"""Scores for candidates: how likely each of three ratings is. No text is parsed."""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import PCollection

from beam_pipelines.generate import EngineHandler, Speed, count_usage
from beam_pipelines.recipe import Evaluator
from beam_pipelines.schema import LANGUAGES, Candidate, Score

if typing.TYPE_CHECKING:
    from xinst_jax import Engine


class ScoreCandidates(beam.PTransform):
    """A score for every candidate.

    Args:
      settings: The evaluator's checkpoint.
      digest: Its hash.
      model: Names the model, so that steps of a pipeline share it.
      speed: Batches and devices.
    """

    def __init__(
        self, settings: Evaluator, digest: str, model: str, speed: Speed
    ) -> None:
        super().__init__()
        self._handler = _RatingHandler(settings, digest, speed)
        self._model = model

    def expand(self, candidates: PCollection[Candidate]) -> PCollection[Score]:
        return candidates | RunInference(self._handler, model_identifier=self._model)


class _RatingHandler(EngineHandler):
    """Candidates in, scores out."""

    def __init__(self, settings: Evaluator, digest: str, speed: Speed) -> None:
        super().__init__(settings, speed)
        self._digest = digest

    def run_inference(
        self,
        batch: Sequence[Candidate],
        model: "Engine",
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Score]:
        from xinst_jax import prompts

        asked = [
            prompts.rate(
                candidate.instruction,
                candidate.document.text[: self._settings.max_text_chars],
                LANGUAGES[candidate.document.language].name,
            )
            for candidate in batch
        ]
        rated = model.score(asked, prompts.RATINGS)
        count_usage(model)
        for candidate, logprobs in zip(batch, rated, strict=True):
            yield score_of(candidate, logprobs, self._digest)

    def warm_up(self, engine: "Engine") -> None:
        from xinst_jax.prompts import RATINGS

        engine.warm_up(lambda prompts: engine.score(prompts, RATINGS))


def score_of(candidate: Candidate, logprobs: Sequence[float], evaluator: str) -> Score:
    """The ratings' log-probabilities, normalised over the three.

    Args:
      candidate: What was rated.
      logprobs: Of `prompts.RATINGS`; NaN says that it could not be rated.
      evaluator: Hash of the checkpoint.
    """
    if not all(math.isfinite(value) for value in logprobs):
        best = flawed = worst = 0.0
        rejected = "failed: the evaluator could not take the pair"
    else:
        highest = max(logprobs)
        weights = [math.exp(value - highest) for value in logprobs]
        best, flawed, worst = (round(w / sum(weights), 6) for w in weights)
        rejected = ""
    return Score(
        candidate=candidate,
        p_best=best,
        p_flawed=flawed,
        p_worst=worst,
        score=round(best + flawed / 2, 6),
        evaluator=evaluator,
        rejected=rejected,
    )


def drop_reason(score: Score, settings: Evaluator) -> str | None:
    """Why a scored candidate is not published, or None if it may be."""
    if score.rejected:
        return "failed"
    return None if score.p_best >= settings.keep_above else "below_threshold"
