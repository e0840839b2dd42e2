"""Prints how near the engine comes to what one GPU can do, in one run of some minutes.

    python benchmarks/gpu_engine.py --torch python3   # a Llama-3-8B shape, bfloat16
    python benchmarks/gpu_engine.py --small           # a tiny one, also on CPU

Needs jax 0.10 or 0.11, flax, jaxtyping, tokenizers and safetensors; no Beam, and no
files of weights: they are drawn on the device. transformers runs first, in a process of
its own, so that it leaves the memory free.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".92")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from engine_speed import documents, ragged_lengths
from tokenizers import Tokenizer, models

from xinst_jax import Engine, ModelConfig, SamplingConfig
from xinst_jax.attention import choose_kernel
from xinst_jax.config import Rope, RopeScaling
from xinst_jax.families import config_json
from xinst_jax.model import Decoder
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import random_weights

LLAMA3_8B = ModelConfig(
    vocabulary=128_256,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_width=128,
    query_scale=128**-0.5,
    mlp_width=14_336,
    max_positions=8192,
    rope=Rope(
        theta=500_000.0,
        scaling=RopeScaling(
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_positions=8192,
        ),
    ),
)
SMALL = dataclasses.replace(
    LLAMA3_8B,
    vocabulary=512,
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=16,
    query_scale=0.25,
    mlp_width=128,
)
PROMPT_TOKENS, NEW_TOKENS = 1000, 32
DOCUMENTS = "documents/s, 1,000 tokens and 32 new (28 asked)"
# Bytes a second of the device's memory, as their makers state it.
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--torch", help="a Python that has torch and transformers")
    parser.add_argument("--kernels", nargs="*", help="by default the chosen one")
    options = parser.parse_args()
    config = SMALL if options.small else LLAMA3_8B
    dtype = "bfloat16"
    number = 16 if options.small else options.documents

    hf = None
    if options.torch:
        # A quarter of the documents: it is many times slower.
        hf = transformers_rate(options.torch, config, number // 4, options.small)

    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {dtype}")
    size = 512 if options.small else 8192
    gemm = gemm_rate(size)
    print(f"matrix product {size}^3: {gemm / 1e12:.1f} TFLOP/s")

    mesh = make_mesh()
    weights = random_weights(config, 0, dtype, mesh)
    parameters = sum(array.size for array in weights.values())
    print(f"{parameters / 1e9:.2f} G parameters drawn on the device\n")
    kernel = choose_kernel(device.platform, config, dtype)
    rates = {}
    for name in options.kernels or [kernel]:
        engine = Engine(Decoder(config, weights, name), Tokenizer(models.BPE()), mesh)
        rates[name] = measure(engine, number, gemm, device.device_kind)
        print(f"{name}:")
        for what, value in rates[name].items():
            print(f"  {what:54}{value}")
    if hf:
        ours = float(rates[kernel if kernel in rates else name][DOCUMENTS])
        print(f"\ntransformers generate: {hf:.2f} documents/s; ours {ours / hf:.1f} x")
    del weights, engine
    print(f"\nfloat32, device against CPU: {difference():.1e} (largest of the logits)")


def measure(engine: Engine, number: int, gemm: float, kind: str) -> dict[str, str]:
    """Rates of one engine, as text by what they are."""
    config = engine.config
    uniform = documents([PROMPT_TOKENS] * number, config)
    ragged = documents(ragged_lengths(number), config)
    whole = SamplingConfig(max_new_tokens=NEW_TOKENS)
    first = SamplingConfig(max_new_tokens=1)
    for sampling in (first, whole):
        engine.generate(uniform, sampling)
        engine.generate(ragged, sampling)
    prefill = best(lambda: engine.generate(uniform, first))
    engine.take_usage()
    ragged_prefill = best(lambda: engine.generate(ragged, first))
    usage = engine.take_usage()
    end_to_end = best(lambda: engine.generate(uniform, whole))
    tokens = PROMPT_TOKENS * number
    flops = config.prefill_flops([PROMPT_TOKENS] * number) / prefill
    ragged_tokens = sum(map(len, ragged))
    decode = end_to_end - prefill
    found = {
        "prefill tokens/s": f"{tokens / prefill:,.0f}",
        "  of the matrix product's rate (60 % asked)": f"{flops / gemm:.1%}",
        DOCUMENTS: f"{number / end_to_end:.2f}",
        "ragged: useful tokens/s against uniform (.9 asked)": (
            f"{ragged_tokens / ragged_prefill / (tokens / prefill):.3f}"
        ),
        "ragged: useful share of row tokens": (
            f"{usage.useful_tokens / usage.row_tokens:.3f}"
        ),
        "decode's share of the time (15 % at most)": f"{decode / end_to_end:.1%}",
        "decoding slots": str(engine._decoding_slots),
    }
    if kind in BANDWIDTH:
        item = 2  # bytes
        batches = -(-number // engine._decoding_slots)
        weights = item * (config.matmul_parameters() + config.vocabulary * config.width)
        keys = 2 * config.layers * config.kv_heads * config.head_width * item
        read = (NEW_TOKENS - 1) * (batches * weights + keys * tokens)
        share = read / decode / BANDWIDTH[kind]
        found["decode: bytes it must read, of the bandwidth (50 %)"] = f"{share:.1%}"
    return found


def gemm_rate(size: int) -> float:
    """FLOP/s of a square bfloat16 product of random factors."""
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    multiply = jax.jit(lambda a, b: a @ b)

    def ten() -> None:
        for _ in range(10):
            out = multiply(a, b)
        out.block_until_ready()

    ten()
    return 10 * 2 * size**3 / best(ten)


def best(work: Callable[[], Any], repeat: int = 3) -> float:
    """Seconds of the quickest run."""
    taken = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def transformers_rate(
    python: str, config: ModelConfig, number: int, small: bool
) -> float:
    """Documents a second of its `generate`, at the same shape, weights random too."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_json(config)))
        request = {
            "checkpoint": folder,
            "random_weights": True,
            "prompts": documents([PROMPT_TOKENS] * number, config),
            "max_new_tokens": NEW_TOKENS,
            "batch": 4 if small else 32,
            "order": "arrival",
            "dtype": "bfloat16",
            "device": "cpu" if small else "cuda",
            "threads": os.cpu_count(),
            "repeat": 2,
            "prefill": False,
        }
        done = subprocess.run(
            [python, Path(__file__).with_name("hf_generate.py")],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"hf_generate.py failed:\n{done.stderr[-2000:]}")
    return number / json.loads(done.stdout.splitlines()[-1])["seconds"]


def difference() -> float:
    """Largest difference of a small model's float32 logits, device against CPU."""
    lengths = np.asarray([1, 40, 200, 129])
    tokens = np.random.default_rng(0).integers(0, SMALL.vocabulary, (4, 200))
    found = []
    host = None
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        mesh = jax.make_mesh(
            (1, 1),
            ("data", "model"),
            axis_types=(jax.sharding.AxisType.Explicit,) * 2,
            devices=[device],
        )
        # Drawn once: random bits are the same anywhere, their logarithms may not be.
        if host is None:
            drawn = random_weights(SMALL, 0, "float32", mesh)
            host = {name: 5 * np.asarray(array) for name, array in drawn.items()}
        kernel = choose_kernel(device.platform, SMALL, "float32")
        place = {name: array.sharding for name, array in drawn.items()}
        place = {n: jax.sharding.NamedSharding(mesh, s.spec) for n, s in place.items()}
        model = Decoder(SMALL, jax.device_put(host, place), kernel)
        engine = Engine(model, Tokenizer(models.BPE()), mesh)
        found.append(engine.logits(tokens, lengths))
    return float(np.abs(found[0] - found[1]).max())


if __name__ == "__main__":
    main()
