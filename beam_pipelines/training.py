"""The checkpoints that a recipe names, made from its seed."""

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_pipelines.recipe import Recipe, Training

if typing.TYPE_CHECKING:
    from xinst_jax import seed
    from xinst_jax.train import TrainingConfig

# How often each seed pair comes in another form: thinned out, or spoilt in another way.
_THINNING_ROUNDS = 20
_RATING_ROUNDS = 4
# Every so many pairs, one teaches likelihoods beside its three rows of rating data.
_PAIRS_PER_EVIDENCE = 2
# Seed responses, at most, for which the generator is asked to spoil the data.
_GENERATED = 240
# Of the recipe's rate, where a model that is trained already is trained again.
_RATE_AGAIN = 0.15
EVALUATION = "evaluation.json"


def train_generator(
    recipe: Recipe,
    out: str,
    *,
    base: str = "",
    kept: "Sequence[seed.Pair]" = (),
    again: int = 0,
) -> dict[str, Any]:
    """Fine-tunes a model on the reversed seed: from a response to its instruction.

    Args:
      recipe: Says how.
      out: The folder to write.
      base: The checkpoint to start from; by default the recipe's, or a new one.
      kept: Pairs that join the seed.
      again: So many steps more for a model that is trained already; 0: the recipe's.

    Returns:
      `pairs`, `kept_pairs`, `steps`, `loss` and `held_out_loss` in nats a token.

    Raises:
      ValueError: The seed is too small to hold some of it out.
    """
    from xinst_jax import seed, train

    training, limit = recipe.generator.train, recipe.generator.max_text_chars
    train_pairs, held = _seed("generator", training)
    base = base or training.base or _new_base(out, training, train_pairs, recipe.seed)
    shown = _shown([*train_pairs, *kept], training, recipe.seed)
    pairs = seed.reversed_pairs(shown, limit)
    if not training.base:
        pairs += seed.topic_pairs(shown, limit)
    config = _config(training, recipe.seed, again)
    log = train.fine_tune(base, out, pairs, seed.reversed_pairs(held, limit), config)
    return {
        "pairs": len(train_pairs),
        "kept_pairs": len(kept),
        "steps": config.steps,
        "loss": log[-1]["loss"],
        "held_out_loss": log[-1]["held_out_loss"],
    }


def train_evaluator(
    recipe: Recipe, out: str, *, base: str = "", generator: str = "", again: int = 0
) -> dict[str, Any]:
    """Trains a model to rate pairs, calibrates it, and measures it.

    Rows that training never saw both fit the calibration and measure it, by turns: no
    row is judged by a calibration that saw its source.

    Args:
      recipe: Says how.
      out: The folder to write.
      base: The checkpoint to start from; by default the recipe's, or a new one.
      generator: Checkpoint of the generator, some of whose own instructions become
        rating data; empty: none.
      again: So many steps more for a model that is trained already; 0: the recipe's.

    Returns:
      What `xinst_jax.judge.figures` finds on held-out rows; it is kept in the folder
      too.

    Raises:
      ValueError: The seed is too small to hold some of it out.
    """
    import numpy as np

    from xinst_jax import judge, ratings, relevance, train

    settings, training = recipe.evaluator, recipe.evaluator.train
    # Of two, each is judged by what the other one tells.
    train_pairs, held = _seed("evaluator", training, least=2)
    base = base or training.base or _new_base(out, training, train_pairs, recipe.seed)
    limit = settings.max_text_chars
    written = _generated(recipe, generator, train_pairs, held) if generator else {}
    shown = _shown(train_pairs, training, recipe.seed)
    # Each thinned copy of a pair is spoilt in its own way already.
    rounds = 1 if len(shown) > len(train_pairs) else _RATING_ROUNDS
    rows = ratings.rating_rows(shown, rounds, recipe.seed, written)
    pairs = ratings.rating_pairs(rows, limit)
    some = shown[::_PAIRS_PER_EVIDENCE]
    pairs += judge.evidence_pairs(some, settings.evidence, limit)
    rated = ratings.rating_rows(held, _RATING_ROUNDS, recipe.seed, written)
    config = _config(training, recipe.seed, again)
    train.fine_tune(base, out, pairs, ratings.rating_pairs(rated, limit), config)
    if judge.needs_relevance(settings.evidence):
        try:
            # One that was trained before knows the same seed.
            ngrams = relevance.Relevance.load(base)
        except FileNotFoundError:
            ngrams = relevance.Relevance.train(train_pairs, recipe.seed)
        ngrams.save(out)
    judging = judge.Judge.load(out, settings.evidence, limit)
    values = judging.measure(rated)
    there = np.isfinite(values).all(axis=1)
    rated = [row for row, ok in zip(rated, there, strict=True) if ok]
    values = values[there]
    levels = np.array([row.level for row in rated])
    calibration = judge.Calibration.fit(judging.names, values, levels)
    (Path(out) / judge.CALIBRATION).write_text(calibration.as_json())
    sources = [row.source for row in rated]
    found = judge.cross_fitted(judging.names, values, levels, sources)
    figures = judge.figures(found, levels, [row.corruption for row in rated])
    figures = judge.rounded(figures)
    (Path(out) / EVALUATION).write_text(json.dumps(figures, indent=1))
    return figures


def describe_evaluator(figures: Mapping[str, Any]) -> str:
    """The figures of an evaluator, for a terminal."""
    lines = [
        f"On {figures['rows']:,} held-out rows: AUC of best against rest "
        f"{figures['auc']:.3f}, accuracy {figures['accuracy']:.3f}, expected "
        f"calibration error {figures['ece']:.3f}.",
        f"{'corruption':24}recall   AUC",
    ]
    for name, recall in figures["recall"].items():
        ranked = figures["auc_by_corruption"].get(name)
        lines.append(
            f"{name:24}{recall:6.2f}" + ("" if ranked is None else f"{ranked:6.2f}")
        )
    return "\n".join(lines)


def held_out_loss(recipe: Recipe, checkpoint: str) -> float:
    """A generator's loss on the seed's held-out pairs, in nats a token."""
    import numpy as np

    from xinst_jax import Engine, seed

    settings = recipe.generator
    _, held = _seed("generator", settings.train)
    pairs = seed.reversed_pairs(held, settings.max_text_chars)
    engine = Engine.load(checkpoint, dtype=settings.dtype)
    found = engine.loglikelihood([p for p, _ in pairs], [t for _, t in pairs])
    there = np.isfinite(found)
    targets = [text for (_, text), ok in zip(pairs, there, strict=True) if ok]
    encoded = engine.tokenizer.encode_batch(targets, add_special_tokens=False)
    num_tokens = sum(len(each.ids) for each in encoded)
    # Without any the division is by 0, and the answer NaN: nothing is known.
    return float(-np.asarray(found)[there].sum() / np.float64(num_tokens))


def _seed(
    model: str, training: Training, least: int = 1
) -> "tuple[list[seed.Pair], list[seed.Pair]]":
    """The seed's pairs to train on, and those of `least` instructions held out."""
    from xinst_jax import seed

    pairs = seed.read(training.data)
    kept, held = seed.split(pairs, training.held_out)
    if not kept or len({pair.instruction for pair in held}) < least:
        raise ValueError(
            f"{model}.train.data holds {len(pairs)} pairs: too few to hold "
            f"{training.held_out:.0%} of them out."
        )
    return kept, held


def _shown(
    pairs: "Sequence[seed.Pair]", training: Training, random_seed: int
) -> "list[seed.Pair]":
    from xinst_jax import seed

    return seed.thinned(pairs, training.word_dropout, _THINNING_ROUNDS, random_seed)


def _generated(
    recipe: Recipe, checkpoint: str, *groups: "Sequence[seed.Pair]"
) -> dict[str, str]:
    """What the generator writes for some responses of each group, by their source."""
    from xinst_jax import Engine, SamplingConfig, prompts, seed
    from xinst_jax.ratings import source_of

    some = [
        pair
        for group in groups
        for pair in sorted(group, key=lambda p: seed.position(p.response))[
            : _GENERATED // len(groups)
        ]
    ]
    settings = recipe.generator
    engine = Engine.load(checkpoint, dtype=settings.dtype)
    written = engine.generate(
        [prompts.generate(pair.response[: settings.max_text_chars]) for pair in some],
        SamplingConfig(max_new_tokens=settings.max_new_tokens),
        [source_of(pair) for pair in some],
    )
    return {
        source_of(pair): " ".join(each.text.split())
        for pair, each in zip(some, written, strict=True)
        if each.stopped
    }


def _config(training: Training, random_seed: int, again: int) -> "TrainingConfig":
    """How to train: from the recipe's base, or so many steps more after that."""
    from xinst_jax import lora, train

    steps = again or training.steps
    return train.TrainingConfig(
        steps=steps,
        batch_tokens=training.batch_tokens,
        learning_rate=training.learning_rate * (_RATE_AGAIN if again else 1),
        warmup=min(20, steps - 1),
        seed=random_seed,
        accumulate=training.accumulate,
        lora=lora.LoraConfig(rank=training.lora_rank) if training.lora_rank else None,
        dtype=training.dtype,
    )


def _new_base(
    out: str, training: Training, pairs: "Sequence[seed.Pair]", random_seed: int
) -> str:
    """A small model with random weights, beside the checkpoint that it becomes."""
    from xinst_jax import prompts, scratch

    base = Path(out).with_name(f"{Path(out).name}.base")
    scratch.new_checkpoint(
        base,
        [f"{pair.instruction}\n{pair.response}" for pair in pairs],
        forms=(prompts.GENERATE, prompts.ANSWER, prompts.RATE, prompts.TOPIC),
        vocabulary=training.vocabulary,
        width=training.width,
        layers=training.layers,
        heads=training.heads,
        kv_heads=max(1, training.heads // 2),
        mlp_width=3 * training.width,
        max_positions=2048,
        seed=random_seed,
    )
    return str(base)
