"""Scores for candidates: how likely each of three levels is. No text is parsed."""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_pipelines.generate import BatchHandler, OnDemand, Speed, count_usage
from beam_pipelines.recipe import Evaluator
from beam_pipelines.schema import Candidate, Score

if typing.TYPE_CHECKING:
    from xinst_jax import Engine
    from xinst_jax.judge import Judge


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
        self._handler = RatingHandler(settings, digest, speed)
        self._model = model

    def expand(self, batches: PCollection[list[Candidate]]) -> PCollection[list[Score]]:
        return batches | self._handler.step(self._model)


class RatingHandler(BatchHandler):
    """Candidates in, scores out."""

    _settings: Evaluator

    def __init__(self, settings: Evaluator, digest: str, speed: Speed) -> None:
        super().__init__(settings, speed)
        self._digest = digest

    def open_model(self) -> "Judge":
        from xinst_jax.judge import Judge

        settings = self._settings
        return Judge.beside(
            super().open_model(),
            settings.checkpoint,
            settings.evidence,
            settings.max_text_chars,
        )

    def results(self, batch: Sequence[Candidate], model: OnDemand) -> Iterable[Score]:
        from xinst_jax.seed import Pair

        pairs = [
            Pair(
                instruction=candidate.instruction,
                response=candidate.document.text,
                language=candidate.document.language,
            )
            for candidate in batch
        ]
        judged = model.judge(pairs)
        count_usage(model)
        for candidate, (probabilities, evidence) in zip(batch, judged, strict=True):
            yield score_of(candidate, probabilities, evidence, self._digest)

    def warm_up(self, engine: "Engine") -> None:
        from xinst_jax.prompts import RATINGS

        engine.warm_up(lambda prompts: engine.score(prompts, RATINGS))


def score_of(
    candidate: Candidate,
    probabilities: Sequence[float],
    evidence: Mapping[str, float],
    evaluator: str,
) -> Score:
    """A judgement as it is stored.

    Args:
      candidate: What was rated.
      probabilities: Of best, flawed, worst; NaN says that it could not be rated.
      evidence: What they come from.
      evaluator: Hash of the checkpoint.
    """
    rejected = ""
    if not all(math.isfinite(value) for value in probabilities):
        probabilities = (0.0, 0.0, 0.0)
        evidence = {}
        rejected = "failed: the evaluator could not take the pair"
    best, flawed, worst = (round(value, 6) for value in probabilities)
    return Score(
        candidate=candidate,
        p_best=best,
        p_flawed=flawed,
        p_worst=worst,
        score=round(best + flawed / 2, 6),
        evidence={name: round(value, 4) for name, value in evidence.items()},
        evaluator=evaluator,
        rejected=rejected,
    )


def drop_reason(score: Score, settings: Evaluator) -> str | None:
    """Why a scored candidate is not published, or None if it may be."""
    if score.rejected:
        return "failed"
    return None if score.p_best >= settings.keep_above else "below_threshold"
