"""Training: a checkpoint from scratch, and fine-tuning on pairs of prompt and target.

The forward pass, the packing and the scoring of targets are the engine's own.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm

from xinst_jax.config import ModelConfig
from xinst_jax.engine import Engine
from xinst_jax.model import Decoder, hidden_of_rows, target_logprobs
from xinst_jax.packing import Batch, RowShape, assign, lay_out
from xinst_jax.sharding import make_mesh, put_rows
from xinst_jax.weights import (
    load_tokenizer,
    load_weights,
    random_weights,
    save_checkpoint,
)

_SPECIALS = ("<s>", "</s>", "<pad>")
_LSA_TEXTS = 4000  # the eigenvectors cost the cube of this
LOGIT_CHUNK = 256  # target positions whose logits are in memory at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How to fine-tune.

    Attributes:
      steps: Updates of the weights.
      batch_tokens: Tokens of one update, prompts included, over all devices.
      learning_rate: At the end of the warm-up; a cosine takes it to a tenth.
      warmup: Updates in which the rate rises from 0.
      weight_decay: AdamW's, on matrices.
      clip: The largest global norm of a gradient.
      seed: Of the order of pairs.
      eval_every: Updates between held-out losses; there is always one at the end.
    """

    steps: int
    batch_tokens: int = 4096
    learning_rate: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 100

    def __post_init__(self) -> None:
        for name, holds, bound in (
            ("steps", self.steps >= 1, "1 <= steps"),
            ("batch_tokens", self.batch_tokens >= 1, "1 <= batch_tokens"),
            ("learning_rate", self.learning_rate > 0, "0 < learning_rate"),
            ("warmup", 0 <= self.warmup < self.steps, "0 <= warmup < steps"),
            ("weight_decay", self.weight_decay >= 0, "0 <= weight_decay"),
            ("clip", self.clip > 0, "0 < clip"),
            ("seed", self.seed >= 0, "0 <= seed"),
            ("eval_every", self.eval_every >= 1, "1 <= eval_every"),
        ):
            if not holds:
                value = getattr(self, name)
                raise ValueError(f"TrainingConfig needs {bound}, got {name}={value}.")


def new_checkpoint(
    path: str | os.PathLike[str],
    texts: Iterable[str],
    *,
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    max_positions: int,
    seed: int,
) -> None:
    """Writes a small Llama with random weights and a tokenizer of its own.

    The tokenizer is a byte-level BPE learnt from `texts`, so it can write any text.
    The head is the embedding, which in a small model is most of the parameters. It
    starts from which tokens occur in the same texts: an instruction and its response
    in one text bring the words of two languages near to one another.

    Args:
      path: Becomes the checkpoint.
      texts: What the tokenizer and the embedding learn from.
      vocabulary: At most this many ids, 259 at least: bytes and special tokens.
      width: Of the residual stream, a multiple of `heads`.
      layers: Number of decoder layers.
      heads: Query heads.
      kv_heads: Key/value heads.
      mlp_width: Of the gated hidden layer.
      max_positions: The longest sequence in tokens.
      seed: Of the weights.
    """
    if vocabulary < 256 + len(_SPECIALS) or width % heads:
        raise ValueError(
            f"new_checkpoint needs {256 + len(_SPECIALS)} <= vocabulary and width a "
            "multiple of heads, "
            f"got vocabulary={vocabulary}, width={width}, heads={heads}."
        )
    texts = list(texts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bos, eos = 0, 1  # the trainer numbers special tokens first
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIALS[0]} $A", special_tokens=[(_SPECIALS[0], bos)]
    )
    config = ModelConfig(
        vocabulary=tokenizer.get_vocab_size(),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        query_scale=(width // heads) ** -0.5,
        mlp_width=mlp_width,
        max_positions=max_positions,
        tied=True,
        bos=bos,
        eos=(eos,),
    )
    weights = random_weights(config, seed, "float32", make_mesh())
    random = np.asarray(weights["embedding"])
    weights["embedding"] = jax.device_put(
        _embedding_of(texts, tokenizer, random), weights["embedding"].sharding
    )
    save_checkpoint(path, config, weights, tokenizer)


def _embedding_of(
    texts: Sequence[str], tokenizer: Tokenizer, random: np.ndarray
) -> np.ndarray:
    """Latent semantic analysis: directions in which tokens share texts, `[V, D]`.

    The singular vectors of the tokens' tf-idf (Deerwester et al. 1990), as long as the
    random vectors, with some of those mixed in to tell tokens apart.
    """
    num_tokens, width = random.shape
    found = [
        sorted(set(encoded.ids))
        for encoded in tokenizer.encode_batch(texts[:_LSA_TEXTS])
    ]
    frequency = np.bincount(np.concatenate(found), minlength=num_tokens)
    weight = np.log((1 + len(found)) / np.maximum(frequency, 1))
    occurs = np.zeros((len(found), num_tokens))
    for row, ids in zip(occurs, found, strict=True):
        row[ids] = weight[ids] / np.linalg.norm(weight[ids])
    # The left singular vectors are eigenvectors of a matrix that is much smaller; the
    # largest come last.
    rank = min(width * 7 // 8, len(found))
    _, left = np.linalg.eigh(occurs @ occurs.T)
    shared = occurs.T @ left[:, -rank:]
    shared /= np.maximum(np.linalg.norm(shared, axis=1, keepdims=True), 1e-9)
    # Tokens of one text alone share nothing.
    shared *= (frequency > 1)[:, None] * np.linalg.norm(random, axis=1).mean()
    embedding = 0.3 * random
    embedding[:, :rank] += shared
    return embedding.astype(np.float32)


def fine_tune(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pairs: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    config: TrainingConfig,
    *,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Trains all weights to continue prompts with their targets, in float32.

    Args:
      checkpoint: Folder to start from.
      out: Folder to write, with `training_log.jsonl` in it.
      pairs: Prompt and target texts. The end token is added to the target.
      held_out: Pairs to measure on and never to train on; may be empty.
      config: How long and how fast.
      progress: Show a bar with the losses.
      mesh: From `make_mesh`; by default the first device. Rows go over its data axis.

    Returns:
      The log: for each step its `loss` a target token in nats, and now and then
      `held_out_loss`, of the targets alone.

    Raises:
      ValueError: No pair is short enough for the model.
    """
    mesh = mesh or make_mesh()
    model_config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    examples = _encode(pairs, tokenizer, model_config)
    shape = _row_shape([len(ids) for ids, _ in examples], config, mesh)
    plan = list(_plan(examples, shape, config))
    size = max(_most_targets(examples, rows) for rows in plan)
    size = -(-size // LOGIT_CHUNK) * LOGIT_CHUNK
    batches = (lay_out(examples, rows, shape, size) for rows in plan)
    return fit(checkpoint, out, batches, held_out, config, progress=progress, mesh=mesh)


def fit(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    batches: Iterable[Batch],
    held_out: Sequence[tuple[str, str]],
    config: TrainingConfig,
    *,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Trains all weights on batches as they come, in float32.

    Args:
      checkpoint: Folder to start from.
      out: Folder to write, with `training_log.jsonl` in it.
      batches: All of one shape; Q a multiple of `LOGIT_CHUNK`. Where they end before
        `config.steps`, so does the training.
      held_out: Pairs to measure on and never to train on; may be empty.
      config: How long and how fast.
      progress: Show a bar with the losses.
      mesh: From `make_mesh`; by default the first device. Rows go over its data axis.

    Returns:
      The log: for each step its `loss` a target token in nats, and now and then
      `held_out_loss`.
    """
    mesh = mesh or make_mesh()
    model_config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    held = _encode(held_out, tokenizer, model_config)
    log: list[dict[str, Any]] = []
    with jax.set_mesh(mesh):
        weights = load_weights(checkpoint, model_config, "float32", mesh)
        model = Decoder(model_config, weights)
        how = {"clip": config.clip, "weight_decay": config.weight_decay}
        state = _optimizer(**how).init(model)
        rates = _learning_rates(config)
        shown: dict[str, str] = {}
        bar = tqdm(
            itertools.islice(batches, config.steps),
            total=config.steps,
            disable=not progress,
            unit="step",
            desc=Path(out).name,
            mininterval=1,
        )
        for step, batch in enumerate(bar, start=1):
            rate = np.float32(rates(step))
            batch = put_rows(batch, mesh)
            model, state, loss = _update(model, state, batch, rate, **how)
            log.append({"step": step, "loss": float(loss)})
            if held and (step % config.eval_every == 0 or step == config.steps):
                log[-1]["held_out_loss"] = _held_out_loss(model, held, tokenizer, mesh)
            shown |= {k: f"{v:.3f}" for k, v in log[-1].items() if "loss" in k}
            bar.set_postfix(shown, refresh=False)
    save_checkpoint(out, model_config, model.weights(), tokenizer)
    lines = "".join(json.dumps(entry) + "\n" for entry in log)
    (Path(out) / "training_log.jsonl").write_text(lines, encoding="utf-8")
    return log


# A text's token ids, and how many of the first are only read, not predicted.
Example = tuple[list[int], int]


def _encode(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    config: ModelConfig,
) -> list[Example]:
    prompts = tokenizer.encode_batch([prompt for prompt, _ in pairs])
    targets = tokenizer.encode_batch(
        [target for _, target in pairs], add_special_tokens=False
    )
    examples = []
    for prompt, target in zip(prompts, targets, strict=True):
        ids = [*prompt.ids, *target.ids, *config.eos[:1]]
        if prompt.ids and len(ids) <= config.max_positions:
            examples.append((ids, len(prompt.ids)))
    if pairs and not examples:
        raise ValueError(
            f"None of {len(pairs)} pairs has a prompt and fits the model's "
            f"{config.max_positions} positions."
        )
    return examples


def _row_shape(lengths: Sequence[int], config: TrainingConfig, mesh: Mesh) -> RowShape:
    """One static shape for all steps, so that the step compiles once."""
    rows = mesh.shape["data"]
    size = -(-max(lengths) // 128) * 128
    tokens = max(config.batch_tokens // rows, size)
    # A few more slots than an average row needs, for a row of short texts.
    slots = int(np.ceil(1.1 * tokens / np.mean(lengths)))
    return RowShape(rows=rows, tokens=tokens, slots=slots, slot_tokens=size)


def _plan(
    examples: Sequence[Example], shape: RowShape, config: TrainingConfig
) -> Iterator[list[list[int]]]:
    """For each step the examples in each row."""
    waiting: list[int] = []
    epoch = 0
    for _ in range(config.steps):
        while len(waiting) < shape.rows * shape.slots:
            order = np.random.default_rng((config.seed, epoch)).permutation
            waiting += order(len(examples)).tolist()
            epoch += 1
        window = waiting[: shape.rows * shape.slots]
        rows, left = assign([len(examples[i][0]) for i in window], shape)
        waiting = [window[j] for j in left] + waiting[len(window) :]
        yield [[window[j] for j in row] for row in rows]


def _most_targets(examples: Sequence[Example], rows: list[list[int]]) -> int:
    return max(sum(len(examples[i][0]) - examples[i][1] for i in row) for row in rows)


def _learning_rates(config: TrainingConfig) -> Callable[[int], Any]:
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup,
        config.steps,
        config.learning_rate / 10,
    )


def _optimizer(clip: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW up to the learning rate, which changes with every step."""

    def matrices(model: Decoder) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "norm" not in jax.tree_util.keystr(path), model
        )

    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b2=0.95),
        optax.add_decayed_weights(weight_decay, mask=matrices),
    )


def _loss(model: Decoder, batch: Batch) -> jax.Array:
    """Nats a target token."""
    index, targets = jnp.asarray(batch.index), jnp.asarray(batch.targets)
    x, _ = hidden_of_rows(model, batch.rows)
    logprobs = target_logprobs(model, x, index, targets, chunk=LOGIT_CHUNK)
    return -logprobs.sum() / (index < x.shape[1]).sum()


@partial(
    jax.jit,
    static_argnames=("clip", "weight_decay"),
    donate_argnames=("model", "state"),
)
def _update(
    model: Decoder,
    state: Any,
    batch: Batch,
    rate: Any,
    clip: float,
    weight_decay: float,
) -> tuple[Decoder, Any, jax.Array]:
    """The next model and optimizer state, and the loss before."""
    loss, gradient = jax.value_and_grad(_loss)(model, batch)
    change, state = _optimizer(clip, weight_decay).update(gradient, state, model)
    change = jax.tree.map(lambda x: -rate * x, change)
    return optax.apply_updates(model, change), state, loss


def _held_out_loss(
    model: Decoder, held: Sequence[Example], tokenizer: Tokenizer, mesh: Mesh
) -> float:
    """Nats a target token."""
    prompts = [ids[:read] for ids, read in held]
    targets = [ids[read:] for ids, read in held]
    logprobs = Engine(model, tokenizer, mesh).loglikelihood(prompts, targets)
    there = np.isfinite(logprobs)  # the engine leaves out what is too long for it
    num_tokens = sum(len(t) for t, ok in zip(targets, there, strict=True) if ok)
    return float(-logprobs[there].sum(dtype=np.float64) / num_tokens)
