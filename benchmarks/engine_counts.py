"""Prints what of the engine can be counted: packing, programs, FLOPs, rounding.

    python benchmarks/engine_counts.py

Packing is that of documents as long as web pages are; FLOPs are those of the compiled
prefill of one layer of a Llama-3-8B, all of whose arithmetic the compiler counts.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from engine_speed import CONFIG, documents, ragged_lengths
from gpu_engine import LLAMA3_8B
from jax.sharding import NamedSharding
from tokenizers import Tokenizer, models

from xinst_jax import Engine, SamplingConfig, engine
from xinst_jax.config import ModelConfig
from xinst_jax.families import weights_of
from xinst_jax.model import Decoder
from xinst_jax.packing import RowShape, fill
from xinst_jax.sharding import make_mesh, spec, weight_shardings
from xinst_jax.weights import random_weights, save_checkpoint

SMALL = dataclasses.replace(CONFIG, width=128, layers=4, heads=4, kv_heads=2)
SMALL = dataclasses.replace(
    SMALL, head_width=32, query_scale=32**-0.5, mlp_width=384, vocabulary=4096
)

TWO = SamplingConfig(max_new_tokens=2)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model"
        weights = random_weights(SMALL, 0, "float32", make_mesh())
        weights = {n: w if "norm" in n else 4 * w for n, w in weights.items()}
        save_checkpoint(checkpoint, SMALL, weights, Tokenizer(models.BPE()))
        packing(checkpoint)
        print(f"compiled FLOPs of prefill, of those by count: {flops():.3f} (1.10)")
        rounding(checkpoint)
        cache(checkpoint, Path(folder) / "cache")


def packing(checkpoint: Path) -> None:
    loaded = Engine.load(checkpoint)
    texts = documents(ragged_lengths(1024), SMALL)
    sampling = SamplingConfig(max_new_tokens=4)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(seconds) if "backend_compile" in event else None
        )
    )
    loaded.warm_up(lambda prompts: loaded.generate(prompts, sampling))
    at_start, programs = len(compiled), engine._prefill._cache_size()
    sizes = set()
    for batch in loaded._decoding_batches(dict(enumerate(texts))):
        sizes |= {rows.slot_index.shape for rows, _ in batch.prefills}
    loaded.generate(texts, sampling)
    usage = loaded.take_usage()
    share = usage.useful_tokens / usage.row_tokens
    print(
        f"packing of 1,024 documents of 300 to 2,000 tokens: {share:.3f} of the places "
        f"useful (.95), {len(sizes)} programs (3) of {programs} that were warmed up, "
        f"{len(compiled) - at_start} compilations after the warm-up (0)"
    )


def flops() -> float:
    """Of the compiled program, over those by count; both of one layer."""
    config = dataclasses.replace(LLAMA3_8B, layers=1)
    lengths, mesh = [1000] * 16, make_mesh()
    shape = RowShape(rows=1, tokens=16_384, slots=32, slot_tokens=1024)
    # The kernel without loops: the compiler counts what a loop does once.
    model = Decoder(config, shapes_of(config), "blockwise")
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape,
            x.dtype,
            sharding=NamedSharding(mesh, spec("row", *[None] * (x.ndim - 1))),
        ),
        fill([[[0] * n for n in lengths]], shape),
    )
    with jax.set_mesh(mesh):
        compiled = engine._prefill.lower(model, rows).compile()
    return compiled.cost_analysis()["flops"] / config.prefill_flops(lengths)


def shapes_of(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    shardings = weight_shardings(config, make_mesh())
    return {
        name: jax.ShapeDtypeStruct(weight.shape, jnp.bfloat16, sharding=shardings[name])
        for name, weight in weights_of(config).items()
    }


def rounding(checkpoint: Path) -> None:
    """What bfloat16 and eight bits change, of the logits' standard deviation."""
    lengths = np.asarray([40, 200, 129, 300])
    tokens = np.random.default_rng(0).integers(0, SMALL.vocabulary, (4, 300))
    prompts = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
    exact = Engine.load(checkpoint)
    logits = exact.logits(tokens, lengths)
    ends = [row[n - 1].argmax() for row, n in zip(logits, lengths, strict=True)]
    print(f"logits' error (rms, of a standard deviation of {logits.std():.2f}):")
    for name, dtype, quantize in (
        ("bfloat16", "bfloat16", None),
        ("int8, float32 between", "float32", "int8"),
        ("int8, bfloat16 between", "bfloat16", "int8"),
        ("fp8, bfloat16 between", "bfloat16", "fp8"),
    ):
        other = Engine.load(checkpoint, dtype, quantize=quantize)
        error = other.logits(tokens, lengths) - logits
        first = [
            g.tokens[0]
            for g in other.generate(prompts, SamplingConfig(max_new_tokens=2))
        ]
        same = np.mean([a == b for a, b in zip(first, ends, strict=True)])
        size = np.sqrt((error[logits != 0] ** 2).mean()) / logits[logits != 0].std()
        print(f"  {name:24}{size:.2%}, first tokens the same: {same:.0%}")


def cache(checkpoint: Path, folder: Path) -> None:
    """How much sooner a second process has its programs."""
    script = (
        "import sys, jax; from xinst_jax import Engine, SamplingConfig; spent = []\n"
        "jax.monitoring.register_event_duration_secs_listener(\n"
        "  lambda e, s, **_: spent.append(s) if 'backend_compile' in e else None)\n"
        "engine = Engine.load(sys.argv[1])\n"
        "engine.generate([[0] * 999, [0] * 99], SamplingConfig(max_new_tokens=4))\n"
        "print(sum(spent))"
    )
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    taken = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, str(checkpoint)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        taken.append(float(done.stdout.split()[-1]))
    print(
        f"compiling: {taken[0]:.2f} s in a first process, {taken[1]:.2f} s in a second "
        f"({taken[1] / taken[0]:.2f} of it; .4)"
    )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"({time.perf_counter() - started:.0f} s)")
