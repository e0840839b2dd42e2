"""Fine-tuning on pairs of prompt and target: all weights, or adapters beside them.

The forward pass, the packing and the scoring of targets are the engine's own.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tokenizers import Tokenizer
from tqdm import tqdm

from xinst_jax import data
from xinst_jax.attention import choose_kernel
from xinst_jax.config import ModelConfig
from xinst_jax.curve import loss_curve
from xinst_jax.engine import Engine, use_compilation_cache
from xinst_jax.lora import LoraConfig, make_adapters
from xinst_jax.model import Decoder
from xinst_jax.packing import Batch, RowShape
from xinst_jax.resume import Unfinished
from xinst_jax.sharding import make_mesh, put_rows
from xinst_jax.step import LOGIT_CHUNK, Program, merged, model_of, optimizer, train_step
from xinst_jax.weights import DTYPES, load_tokenizer, load_weights, save_checkpoint

_PART = 1024  # pairs that are tokenised together


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How to fine-tune.

    Attributes:
      steps: Updates of the weights.
      batch_tokens: Tokens of one update, prompts included, over all devices.
      learning_rate: At the end of the warm-up; a cosine takes it to a tenth.
      warmup: Updates in which the rate rises from 0.
      weight_decay: AdamW's, on matrices (Loshchilov, Hutter 2019).
      clip: The largest global norm of a gradient.
      seed: Of the order of pairs, and of new adapters.
      eval_every: Updates between held-out losses; there is always one at the end.
      checkpoint_every: Updates between checkpoints to go on from after a kill.
      accumulate: Batches of one update, run one after the other: so many times fewer
        activations are in memory.
      lora: Train adapters of this size instead of the weights. It is how models of
        billions of parameters fit: AdamW on all of them takes 16 bytes a parameter,
        frozen in bfloat16 they take 2.
      dtype: "float32" or "bfloat16", of frozen weights and of activations; what is
        trained, and its moments, are float32. Without `lora` nothing is frozen.
    """

    steps: int
    batch_tokens: int = 4096
    learning_rate: float = 1e-3
    warmup: int = 20
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 100
    checkpoint_every: int = 200
    accumulate: int = 1
    lora: LoraConfig | None = None
    dtype: str = "float32"

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
            ("checkpoint_every", self.checkpoint_every >= 1, "1 <= checkpoint_every"),
            ("accumulate", self.accumulate >= 1, "1 <= accumulate"),
            ("dtype", self.dtype in DTYPES, f"dtype of {sorted(DTYPES)}"),
            (
                "dtype",
                self.lora is not None or self.dtype == "float32",
                "lora or dtype=float32",
            ),
        ):
            if not holds:
                value = getattr(self, name)
                raise ValueError(f"TrainingConfig needs {bound}, got {name}={value}.")


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
    """Trains a model to continue prompts with their targets; see `fit`.

    Args:
      checkpoint: Folder to start from.
      out: Folder to write.
      pairs: Prompt and target texts. The end token is added to the target. Those that
        are too long for the model are left out.
      held_out: Pairs to measure on and never to train on; may be empty.
      config: How long and how fast.
      progress: Show a bar with the losses.
      mesh: From `make_mesh`; by default the first device. Rows go over its data axis.

    Returns:
      The log, as `fit` describes it.

    Raises:
      ValueError: No pair is short enough for the model.
    """
    mesh = mesh or make_mesh()
    model_config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    end = model_config.eos[0]
    lengths = [
        len(ids)
        for start in range(0, len(pairs), _PART)  # all at once would take gigabytes
        for ids, read in data.encode(pairs[start : start + _PART], tokenizer, end)
        if read and len(ids) <= model_config.max_positions
    ]
    if not lengths:
        raise ValueError(
            f"None of {len(pairs)} pairs has a prompt and fits the model's "
            f"{model_config.max_positions} positions."
        )
    shape = _row_shape(lengths, config, mesh)
    batches = data.batches(
        pairs, tokenizer, end, shape, pair_of=tuple, seed=config.seed, epochs=None
    )
    return fit(checkpoint, out, batches, held_out, config, progress=progress, mesh=mesh)


def fit(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    batches: grain.IterDataset[Batch] | grain.DatasetIterator[Batch],
    held_out: Sequence[tuple[str, str]],
    config: TrainingConfig,
    *,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> list[dict[str, Any]]:
    """Trains all weights, or adapters that are merged into them, on batches.

    Weights are spread over the whole mesh, and gathered layer by layer. A checkpoint in
    `<out>.training` is left every `checkpoint_every` steps; called again with the same
    arguments after a kill, the training goes on there, and comes to the same bytes. The
    folder is removed when `out` is written.

    Args:
      checkpoint: Folder to start from.
      out: Folder to write: a checkpoint like the first, in `dtype`, with
        `training_log.jsonl` and the losses as a picture, `training.svg`.
      batches: As `data.batches` gives them: all of one shape, their rows a multiple of
        the mesh's data axis, Q a multiple of `LOGIT_CHUNK`. A step takes `accumulate`
        of them. Where they end before `config.steps`, so does the training.
      held_out: Pairs to measure on and never to train on; may be empty.
      config: How long and how fast.
      progress: Show a bar with the losses.
      mesh: From `make_mesh`; by default the first device. Rows go over its data axis.

    Returns:
      The log, a line a step: `step`; `loss` a target token in nats, before the update;
      `learning_rate`; `tokens`, without padding; `seconds` of the step; now and then
      `held_out_loss`, of the targets alone, after the update.

    Raises:
      ValueError: There is no batch, or `<out>.training` is of other settings.
    """
    use_compilation_cache()
    mesh = mesh or make_mesh()
    model_config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    held = data.encode(held_out, tokenizer, model_config.eos[0])
    program = Program(
        model=model_config,
        lora=config.lora,
        dtype=config.dtype,
        kernel=choose_kernel(mesh.devices.flat[0].platform, model_config, config.dtype),
        clip=config.clip,
        weight_decay=config.weight_decay,
    )
    rates = _learning_rates(config)
    iterator = iter(batches)
    begin = iterator.get_state()
    if (sample := next(iterator, None)) is None:
        raise ValueError(f"There is no batch to train {out} on.")
    if sample.index.shape[1] % LOGIT_CHUNK:
        raise ValueError(
            f"Rows have {sample.index.shape[1]} places for targets, no multiple of "
            f"{LOGIT_CHUNK}: choose RowShape.tokens so."
        )
    iterator.set_state(begin)
    settings = _settings(checkpoint, config, sample)
    with contextlib.closing(Unfinished(Path(out), settings)) as run, jax.set_mesh(mesh):
        trained, frozen = _load(checkpoint, model_config, config, mesh)
        state = jax.jit(optimizer(program).init)(trained)
        if run.step:
            trained, state = run.restore((trained, state), iterator)

        def measured() -> dict[str, float]:
            if not held:
                return {}
            model = model_of(trained, frozen, program)
            return {"held_out_loss": _held_out_loss(model, held, tokenizer, mesh)}

        with tqdm(
            initial=run.step,
            total=config.steps,
            disable=not progress,
            unit="step",
            desc=Path(out).name,
            mininterval=1,
        ) as bar:
            for step in range(run.step + 1, config.steps + 1):
                start = time.perf_counter()
                taken = tuple(itertools.islice(iterator, config.accumulate))
                if len(taken) < config.accumulate:
                    break
                rate = np.float32(rates(step))
                trained, state, loss = train_step(
                    trained, state, frozen, put_rows(taken, mesh), rate, program
                )
                entry = {
                    "step": step,
                    "loss": float(loss),
                    "learning_rate": float(rate),
                    "tokens": sum(map(_useful_tokens, taken)),
                    "seconds": round(time.perf_counter() - start, 4),
                }
                if step % config.eval_every == 0 or step == config.steps:
                    run.write(entry | measured())
                    run.show(loss_curve(run.log))
                else:
                    run.write(entry)
                if step % config.checkpoint_every == 0 and step < config.steps:
                    run.save(step, (trained, state), iterator)
                bar.set_postfix(_shown(run.log), refresh=False)
                bar.update()
        log = run.log
        if not log:
            raise ValueError(f"There are fewer batches than accumulate for {out}.")
        if held and "held_out_loss" not in log[-1]:  # the batches ended early
            log[-1] |= measured()
        lines = "".join(json.dumps(entry) + "\n" for entry in log)
        texts = {"training_log.jsonl": lines, "training.svg": loss_curve(log)}
        weights = merged(trained, frozen)
        save_checkpoint(out, model_config, weights, tokenizer, texts)
    run.remove()
    return log


def _load(
    checkpoint: str | os.PathLike[str],
    model: ModelConfig,
    config: TrainingConfig,
    mesh: Mesh,
) -> tuple[Any, dict[str, jax.Array]]:
    """What is trained, and what is frozen."""
    weights = load_weights(checkpoint, model, config.dtype, mesh, spread=True)
    if config.lora is None:
        return weights, {}
    return make_adapters(model, config.lora, config.seed, mesh), weights


def _row_shape(lengths: Sequence[int], config: TrainingConfig, mesh: Mesh) -> RowShape:
    """One static shape for all steps, so that the step compiles once."""
    rows = mesh.shape["data"]
    size = -(-max(lengths) // 128) * 128
    tokens = max(config.batch_tokens // (rows * config.accumulate), size)
    tokens = -(-tokens // LOGIT_CHUNK) * LOGIT_CHUNK
    # A few more slots than an average row needs, for a row of short texts.
    slots = int(np.ceil(1.25 * tokens / np.mean(lengths)))
    return RowShape(rows=rows, tokens=tokens, slots=slots, slot_tokens=size)


def _settings(
    checkpoint: str | os.PathLike[str], config: TrainingConfig, sample: Batch
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be of use."""
    settings = dataclasses.asdict(config)
    # These two change nothing that comes of the training.
    del settings["eval_every"], settings["checkpoint_every"]
    files = sorted(Path(checkpoint).iterdir())
    settings["base"] = {f.name: [(s := f.stat()).st_size, s.st_mtime_ns] for f in files}
    arrays = jax.tree.leaves(sample)
    settings["batch"] = [list(array.shape) for array in arrays]
    contents = b"".join(array.tobytes() for array in arrays)
    settings["first_batch"] = hashlib.sha256(contents).hexdigest()
    return settings


def _useful_tokens(batch: Batch) -> int:
    """Without padding."""
    _, num_slots, size = batch.rows.slot_index.shape
    return int((batch.rows.token_slot < num_slots * size).sum())


def _shown(log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the bar says."""
    last = log[-20:]
    shown = {"loss": f"{log[-1]['loss']:.3f}"}
    if held := [e["held_out_loss"] for e in log if "held_out_loss" in e]:
        shown["held-out"] = f"{held[-1]:.3f}"
    seconds = sum(entry["seconds"] for entry in last)
    shown["tokens/s"] = f"{sum(entry['tokens'] for entry in last) / seconds:,.0f}"
    return shown


def _learning_rates(config: TrainingConfig) -> Callable[[int], Any]:
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup,
        config.steps,
        config.learning_rate / 10,
    )


def _held_out_loss(
    model: Decoder, held: Sequence[data.Example], tokenizer: Tokenizer, mesh: Mesh
) -> float:
    """Nats a target token."""
    prompts = [ids[:read] for ids, read in held]
    targets = [ids[read:] for ids, read in held]
    logprobs = Engine(model, tokenizer, mesh).loglikelihood(prompts, targets)
    there = np.isfinite(logprobs)  # the engine leaves out what is too long for it
    num_tokens = sum(len(t) for t, ok in zip(targets, there, strict=True) if ok)
    return float(-logprobs[there].sum(dtype=np.float64) / num_tokens)
