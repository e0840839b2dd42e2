"""The evaluator: how good a pair is, from all that one checkpoint knows of it.

The checkpoint is asked for a rating, and the probability of each answer is read; no
text is parsed. What else it knows needs no judge: how much likelier the instruction
makes the response, and the response the instruction (pointwise mutual information),
and how near the two are to the encoder beside it. A calibration, fitted on rating data
that training never saw, makes probabilities of all that.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

from xinst_jax import prompts
from xinst_jax.engine import Engine, Usage
from xinst_jax.relevance import Relevance

# What may be measured besides the rating, and the values that it gives.
EVIDENCE = {
    "forward": ("forward",),
    "backward": ("backward",),
    "similarity": ("similarity", "similarity_of_half"),
    "language": ("language",),
}
_BY_NGRAMS = {"similarity", "language"}
CALIBRATION = "calibration.json"
_RATINGS = tuple(f"rating{label.replace(' ', '_')}" for label in prompts.RATINGS)
# Of the squared weights; and how many deviations a value counts at most.
_RIDGE, _FURTHEST = 0.01, 3.0


@runtime_checkable
class PairLike(Protocol):
    """What is judged: texts, and a key of `prompts.LANGUAGE_NAMES`."""

    @property
    def instruction(self) -> str: ...
    @property
    def response(self) -> str: ...
    @property
    def language(self) -> str: ...


@runtime_checkable
class Reader(Protocol):
    """What a judge needs of an engine; see `xinst_jax.engine.Engine`."""

    def score(self, prompts: Sequence[Any], labels: Sequence[str]) -> np.ndarray: ...
    def loglikelihood(
        self, prompts: Sequence[Any], targets: Sequence[Any]
    ) -> np.ndarray: ...
    def take_usage(self) -> Usage: ...


class Calibration:
    """From what was measured of a pair to the probabilities of the three levels.

    Multinomial logistic regression on the values and their squares, each taken from its
    mean in deviations.

    Args:
      names: Of the values, in order.
      mean: `[F]`.
      scale: `[F]` deviations.
      weights: `[2 F + 1, 3]`, the last row constant.
    """

    def __init__(
        self,
        names: Sequence[str],
        mean: Float[np.ndarray, " F"],
        scale: Float[np.ndarray, " F"],
        weights: Float[np.ndarray, "G 3"],
    ) -> None:
        self.names = tuple(names)
        self._mean, self._scale, self._weights = mean, scale, weights

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        values: Float[np.ndarray, "N F"],
        levels: Int[np.ndarray, " N"],
    ) -> "Calibration":
        """The most probable weights of some rated rows, small ones preferred.

        Args:
          names: Of the values.
          values: What was measured.
          levels: 0 best, 1 flawed, 2 worst.
        """
        scale = np.maximum(values.std(axis=0), 1e-6)
        made = cls(names, values.mean(axis=0), scale, np.zeros((0, 3)))
        inputs, right = made._inputs(values), np.eye(3)[levels]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(-1, 3)
            logprobs = _log_softmax(inputs @ weights)
            likelihood = (right * logprobs).sum() / len(inputs)
            gradient = inputs.T @ (np.exp(logprobs) - right) / len(inputs)
            penalty = weights * ([[1.0]] * (len(weights) - 1) + [[0.0]])
            size = (penalty * weights).sum() / 2
            return _RIDGE * size - likelihood, (gradient + _RIDGE * penalty).ravel()

        start = np.zeros(inputs.shape[1] * 3)
        found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B")
        made._weights = found.x.reshape(-1, 3)
        return made

    def __call__(self, values: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N 3"]:
        """Probabilities of best, flawed, worst; NaN where a value is."""
        return np.exp(_log_softmax(self._inputs(values) @ self._weights))

    def as_json(self) -> str:
        """What `from_json` reads."""
        content = {
            "names": self.names,
            "mean": self._mean.tolist(),
            "scale": self._scale.tolist(),
            "weights": self._weights.tolist(),
        }
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Raises ValueError where it is none."""
        try:
            content = json.loads(text)
            names = [str(name) for name in content["names"]]
            arrays = [np.array(content[k], float) for k in ("mean", "scale", "weights")]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{CALIBRATION} is damaged: {error!r}.") from error
        size = len(names)
        if [a.shape for a in arrays] != [(size,), (size,), (2 * size + 1, 3)]:
            raise ValueError(f"{CALIBRATION} is damaged: sizes do not fit {names}.")
        return cls(names, *arrays)

    def _inputs(self, values: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N G"]:
        far = np.clip((values - self._mean) / self._scale, -_FURTHEST, _FURTHEST)
        return np.concatenate([far, far**2, np.ones((len(far), 1))], axis=1)


class Judge:
    """An evaluator's checkpoint, ready to judge.

    Args:
      engine: Its language model.
      evidence: What is measured besides the rating, of `EVIDENCE`.
      max_text_chars: Of a response, so much is shown to the model.
      relevance: What n-grams tell; needed for "similarity" and "language".
      calibration: Without one the rating alone decides.

    Raises:
      ValueError: The calibration was fitted on other evidence, or n-grams are missing.
    """

    def __init__(
        self,
        engine: Reader,
        evidence: Collection[str],
        max_text_chars: int,
        relevance: Relevance | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.engine = engine
        self._evidence = [name for name in EVIDENCE if name in evidence]
        values = [value for name in self._evidence for value in EVIDENCE[name]]
        self.names = (*_RATINGS, *values)
        if calibration and calibration.names != self.names:
            raise ValueError(
                f"The evaluator was calibrated on {', '.join(calibration.names)}; the "
                f"recipe asks for {', '.join(self.names)}. Train it again, or change "
                "evaluator.evidence."
            )
        if needs_relevance(evidence) and relevance is None:
            raise ValueError(
                f"evaluator.evidence is {', '.join(evidence)}; 'similarity' and "
                "'language' need the n-grams that training leaves beside the evaluator."
            )
        self._max_text_chars = max_text_chars
        self._relevance = relevance
        self._calibration = calibration

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        evidence: Collection[str],
        max_text_chars: int,
        **engine: Any,
    ) -> "Judge":
        """Reads a checkpoint with what lies beside it.

        Args:
          checkpoint: The folder.
          evidence: Of `EVIDENCE`.
          max_text_chars: Of a response, so much is shown.
          **engine: For `Engine.load`.
        """
        return cls.beside(
            Engine.load(checkpoint, **engine), checkpoint, evidence, max_text_chars
        )

    @classmethod
    def beside(
        cls,
        engine: Reader,
        checkpoint: str | os.PathLike[str],
        evidence: Collection[str],
        max_text_chars: int,
    ) -> "Judge":
        """An engine, and what lies beside its checkpoint."""
        calibration = Path(checkpoint) / CALIBRATION
        there = calibration.is_file()
        return cls(
            engine,
            evidence,
            max_text_chars,
            Relevance.load(checkpoint) if needs_relevance(evidence) else None,
            Calibration.from_json(calibration.read_text()) if there else None,
        )

    def measure(self, pairs: Sequence[PairLike]) -> Float[np.ndarray, "N F"]:
        """What `names` says, of each pair.

        Log-probabilities of the three ratings, normalised over them; "forward": nats by
        which the instruction makes 100 characters of the response likelier; "backward":
        nats by which the response makes the instruction likelier; `Relevance` says what
        the others are. NaN where a pair is too long for the model.
        """
        limit = self._max_text_chars
        asked = [rating_prompt(pair, limit) for pair in pairs]
        rated = np.asarray(self.engine.score(asked, prompts.RATINGS), float)
        columns = [_log_softmax(rated)]
        for name in self._evidence:
            if name == "forward":
                lengths = [len(prompts.excerpt(p.response, limit)) or 1 for p in pairs]
                gained = self._gained(_forward, pairs) / np.array(lengths) * 100
                columns.append(gained[:, None])
            elif name == "backward":
                columns.append(self._gained(_backward, pairs)[:, None])
            elif self._relevance and name == "similarity":
                instructions = [pair.instruction for pair in pairs]
                responses = [pair.response for pair in pairs]
                columns.append(self._relevance.similarity(instructions, responses))
            elif self._relevance:
                responses = [pair.response for pair in pairs]
                languages = [pair.language for pair in pairs]
                columns.append(self._relevance.purity(responses, languages)[:, None])
        return np.concatenate(columns, axis=1)

    def rate(self, values: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N 3"]:
        """Probabilities of best, flawed, worst, from what `measure` found."""
        if self._calibration:
            return self._calibration(values)
        return np.exp(values[:, :3])

    def judge(
        self, pairs: Sequence[PairLike]
    ) -> list[tuple[tuple[float, float, float], dict[str, float]]]:
        """Of each pair the probabilities of best, flawed, worst, and their evidence."""
        values = self.measure(pairs)
        return [
            (
                (float(best), float(flawed), float(worst)),
                dict(zip(self.names, map(float, row), strict=True)),
            )
            for (best, flawed, worst), row in zip(
                self.rate(values), values, strict=True
            )
        ]

    def take_usage(self) -> Usage:
        """What the engine did since the last time."""
        return self.engine.take_usage()

    def _gained(
        self, form: Callable[..., tuple[str, str]], pairs: Sequence[PairLike]
    ) -> Float[np.ndarray, " N"]:
        """Nats by which targets are likelier after their condition than after none."""
        found = []
        for alone in (False, True):
            made = [form(pair, self._max_text_chars, alone=alone) for pair in pairs]
            asked, wanted = [prompt for prompt, _ in made], [text for _, text in made]
            found.append(np.asarray(self.engine.loglikelihood(asked, wanted), float))
        return found[0] - found[1]


def needs_relevance(evidence: Collection[str]) -> bool:
    """Whether some of the evidence comes from n-grams."""
    return bool(_BY_NGRAMS & set(evidence))


def rating_prompt(pair: PairLike, max_text_chars: int) -> str:
    """What asks for one of `prompts.RATINGS`."""
    return prompts.rate(
        pair.instruction,
        prompts.excerpt(pair.response, max_text_chars),
        prompts.LANGUAGE_NAMES[pair.language],
    )


def evidence_pairs(
    pairs: Sequence[PairLike], evidence: Collection[str], max_text_chars: int
) -> list[tuple[str, str]]:
    """What teaches a small model the likelihoods that the evidence needs.

    Each prompt and target in both forms, one in eight without its condition. A large
    model knows texts well enough; a few of these remind it of the form.

    Args:
      pairs: Good ones.
      evidence: Of `EVIDENCE`.
      max_text_chars: Of a response, so much is shown.
    """
    made = []
    for number, pair in enumerate(pairs):
        alone = number % 8 == 0
        if "forward" in evidence:
            made.append(_forward(pair, max_text_chars, alone=alone))
        if "backward" in evidence:
            made.append(_backward(pair, max_text_chars, alone=alone))
    return made


def _forward(
    pair: PairLike, max_text_chars: int, *, alone: bool = False
) -> tuple[str, str]:
    """The response after the instruction, or after none."""
    language = prompts.LANGUAGE_NAMES[pair.language]
    asked = prompts.answer("" if alone else pair.instruction, language)
    return asked, f" {prompts.excerpt(pair.response, max_text_chars)}"


def _backward(
    pair: PairLike, max_text_chars: int, *, alone: bool = False
) -> tuple[str, str]:
    """The instruction after the response, or after none."""
    shown = "" if alone else prompts.excerpt(pair.response, max_text_chars)
    return prompts.generate(shown), f" {pair.instruction}"


def _log_softmax(values: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    highest = values.max(axis=1, keepdims=True)
    return values - highest - np.log(np.exp(values - highest).sum(axis=1))[:, None]


def figures(
    probabilities: Float[np.ndarray, "N 3"],
    levels: Int[np.ndarray, " N"],
    corruptions: Sequence[str],
) -> dict[str, Any]:
    """How well probabilities tell the levels apart, and whether they can be trusted.

    Args:
      probabilities: Of best, flawed, worst.
      levels: 0 best, 1 flawed, 2 worst.
      corruptions: Of each row, by name.

    Returns:
      `rows`; `accuracy` over three levels; `auc` of p_best, good rows against others;
      `ece`, the expected calibration error of p_best in ten equal bins (Guo et al.
      2017); `reliability`, those bins; by corruption, `recall`: the share of its rows
      that got their own level, and `auc_by_corruption`: good rows against these.
    """
    best, good = probabilities[:, 0], levels == 0
    right = probabilities.argmax(axis=1) == levels
    names = np.array(corruptions)
    bins = np.minimum((best * 10).astype(int), 9)
    reliability = [
        {
            "low": at / 10,
            "high": (at + 1) / 10,
            "mean": float(best[bins == at].mean()),
            "share": float(good[bins == at].mean()),
            "count": int((bins == at).sum()),
        }
        for at in range(10)
        if (bins == at).any()
    ]
    error = sum(b["count"] * abs(b["mean"] - b["share"]) for b in reliability)
    spoilt = [str(name) for name in np.unique(names[~good])]
    return {
        "rows": len(best),
        "accuracy": float(right.mean()),
        "auc": auc(best[good], best[~good]),
        "ece": error / len(best),
        "recall": {
            str(name): float(right[names == name].mean()) for name in np.unique(names)
        },
        "auc_by_corruption": {
            name: auc(best[good], best[names == name]) for name in spoilt
        },
        "reliability": reliability,
    }


def auc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """The chance that a positive ranks above a negative; ties count as half.

    Args:
      positives: `[P]` values that should be high.
      negatives: `[N]` values that should be low.
    """
    if not len(positives) or not len(negatives):
        return float("nan")
    ranked = np.sort(negatives)
    below = np.searchsorted(ranked, positives, "left")
    not_above = np.searchsorted(ranked, positives, "right")
    return float((below + not_above).mean() / 2 / len(negatives))


def cross_fitted(
    names: Sequence[str],
    values: Float[np.ndarray, "N F"],
    levels: Int[np.ndarray, " N"],
    sources: Sequence[str],
    folds: int = 5,
) -> Float[np.ndarray, "N 3"]:
    """Probabilities from calibrations that saw none of a row's source.

    Args:
      names: Of the values.
      values: What was measured.
      levels: 0 best, 1 flawed, 2 worst.
      sources: Rows of one source stay together.
      folds: In so many parts the sources are cut.
    """
    number = {source: n for n, source in enumerate(sorted(set(sources)))}
    fold = np.array([number[source] % folds for source in sources])
    found = np.full((len(values), 3), np.nan)
    for each in np.unique(fold):
        out = fold == each
        fitted = Calibration.fit(names, values[~out], levels[~out])
        found[out] = fitted(values[out])
    return found


def rounded(value: Any) -> Any:
    """Figures to four places, to be read."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
