"""Prints how fast the engine generates on CPU, against transformers in the same run.

    python benchmarks/engine_speed.py --torch .venv-torch/bin/python

A Llama of 52 million random parameters continues documents by 32 tokens: uniform ones
of 512 tokens, and ragged ones of 300 to 2,000, as web pages are. Both sides get the
same ids and as many threads; each is measured several times in turn, the best counts.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models

from xinst_jax import Engine, ModelConfig, SamplingConfig
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import random_weights, save_checkpoint

CONFIG = ModelConfig(
    vocabulary=16_384,
    width=512,
    layers=12,
    heads=8,
    kv_heads=4,
    head_width=64,
    query_scale=64**-0.5,
    mlp_width=1408,
    max_positions=4096,
)
NEW_TOKENS = 32
BATCH = 8  # of transformers and of the padded path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", help="a Python that has torch and transformers")
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder) / "model", options)


def compare(checkpoint: Path, options: argparse.Namespace) -> None:
    weights = random_weights(CONFIG, 0, "float32", make_mesh())
    save_checkpoint(checkpoint, CONFIG, weights, Tokenizer(models.BPE()))
    num_parameters = sum(array.size for array in weights.values())
    engine = Engine.load(checkpoint)
    uniform = documents([512] * options.documents, CONFIG)
    ragged = documents(ragged_lengths(options.documents), CONFIG)
    tokens = sum(map(len, ragged))
    print(
        f"{num_parameters / 1e6:.0f} M parameters, float32, {options.documents} "
        f"documents, {NEW_TOKENS} new tokens; ragged: {tokens:,} tokens in all"
    )

    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS)
    first = SamplingConfig(max_new_tokens=1)
    runs: dict[str, Callable[[], float]] = {
        "uniform": lambda: seconds(engine, uniform, sampling),
        "uniform prefill": lambda: seconds(engine, uniform, first),
        "ragged": lambda: seconds(engine, ragged, sampling),
        "ragged prefill": lambda: seconds(engine, ragged, first),
        "padded prefill": lambda: seconds(engine, padded(ragged), first),
    }
    if options.torch:
        hf = HuggingFace(options.torch, checkpoint)
        runs |= {
            "hf uniform": lambda: hf.seconds(uniform, "arrival"),
            "hf arrival": lambda: hf.seconds(ragged, "arrival"),
            "hf sorted": lambda: hf.seconds(ragged, "sorted"),
        }
    best = {name: run() for name, run in runs.items()}
    engine.take_usage()
    for _ in range(options.repeat):
        for name, run in runs.items():
            best[name] = min(best[name], run())
    usage = engine.take_usage()

    num_tokens = {"uniform": 512 * options.documents, "ragged": tokens}
    print(f"\n{'':18}seconds   documents/s   prompt tokens/s")
    for name, value in best.items():
        size = num_tokens["uniform" if "uniform" in name else "ragged"]
        rate = options.documents / value
        print(f"{name:18}{value:7.2f}{rate:14.2f}{size / value:18,.0f}")
    print()
    ratio("ragged prefill, against our own padded path", best, "padded prefill", 1.8)
    if options.torch:
        hf_prefill = hf.prefill
        print(
            f"{'uniform prefill alone, against transformers':60}"
            f"{hf_prefill / best['uniform prefill']:5.2f} x"
        )
        ratio("uniform, against transformers", best, "hf uniform", 1.0)
        ratio("ragged, against transformers in arrival order", best, "hf arrival", 2.0)
        ratio("ragged, against transformers sorted by length", best, "hf sorted", 1.0)
    print(f"useful share of row tokens: {usage.useful_tokens / usage.row_tokens:.3f}")


def ratio(what: str, best: dict[str, float], other: str, asked: float) -> None:
    ours = {"padded prefill": "ragged prefill", "hf uniform": "uniform"}
    value = best[other] / best[ours.get(other, "ragged")]
    print(f"{what:60}{value:5.2f} x   (asked: {asked} x)")


def ragged_lengths(number: int) -> list[int]:
    """Log-normal as web pages' are, of mean 850, within 300 and 2,000 tokens."""
    drawn = np.random.default_rng(0).lognormal(np.log(850) - 0.125, 0.5, number)
    return np.clip(drawn, 300, 2000).astype(int).tolist()


def documents(lengths: Sequence[int], config: ModelConfig) -> list[list[int]]:
    draw = np.random.default_rng(1)
    return [draw.integers(0, config.vocabulary, length).tolist() for length in lengths]


def padded(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Each as long as the longest of its batch, in the order of arrival."""
    longer = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(map(len, batch))
        longer += [prompt + [0] * (longest - len(prompt)) for prompt in batch]
    return longer


def seconds(
    engine: Engine, prompts: Sequence[list[int]], sampling: SamplingConfig
) -> float:
    started = time.perf_counter()
    answers = engine.generate(prompts, sampling)
    taken = time.perf_counter() - started
    assert all(len(a.tokens) == sampling.max_new_tokens for a in answers)
    return taken


class HuggingFace:
    """transformers' `generate`, in an environment of its own."""

    def __init__(self, python: str, checkpoint: Path) -> None:
        self.python = python
        self.checkpoint = checkpoint
        self.prefill = float("inf")

    def seconds(self, prompts: Sequence[list[int]], order: str) -> float:
        uniform = len({len(prompt) for prompt in prompts}) == 1
        request = {
            "checkpoint": str(self.checkpoint),
            "prompts": prompts,
            "max_new_tokens": NEW_TOKENS,
            "batch": BATCH,
            "order": order,
            "dtype": "float32",
            "device": "cpu",
            "threads": os.cpu_count(),
            "repeat": 1,
            "prefill": uniform,
        }
        done = subprocess.run(
            [self.python, Path(__file__).with_name("hf_generate.py")],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(done.stdout.splitlines()[-1])
        if uniform:
            self.prefill = min(self.prefill, answer["prefill_seconds"])
        return answer["seconds"]


if __name__ == "__main__":
    main()
