"""What several tests need: a small recipe, and an engine that answers at once."""

import functools
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

# Tests run side by side on few cores.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

REPOSITORY = Path(__file__).parents[1]


@functools.cache
def example(name: str, folder: str = "examples") -> types.ModuleType:
    """A script of a folder beside the packages, as a module."""
    path = REPOSITORY / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_crawl() -> types.ModuleType:
    """It renders pages as sites do, furniture included."""
    return example("make_crawl")


def loaded_by(
    statement: str, packages: Sequence[str], folder: Path = REPOSITORY
) -> set[str]:
    """Which of some packages a fresh interpreter has after a statement."""
    found = f"[name for name in {packages} if name in sys.modules]"
    code = f"{statement}\nimport sys\nprint(*{found})"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return set(run.stdout.split())


class FakeEngine:
    """Answers that depend on the prompt alone, as the real engine's do."""

    def generate(self, prompts: Sequence[str], sampling: object, ids: Sequence[str]):
        from xinst_jax.engine import Generation

        self.log("generate", len(prompts))
        for prompt in prompts:
            number = int(hashlib.md5(prompt.encode()).hexdigest(), 16) % 1000
            poisoned = "POISON" in prompt
            yield Generation(
                text="" if poisoned else f" Explain to me how thing {number} works.",
                tokens=(number,),
                logprob=-number / 100,
                stopped=True,
                error="the prompt is poison" if poisoned else None,
            )

    def score(self, prompts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        self.log("score", len(prompts))
        rows = []
        for prompt in prompts:
            best = 0.05 + 0.9 * (len(prompt) % 97) / 96
            rows.append([math.log(p) for p in (best, (1 - best) / 2, (1 - best) / 2)])
        return np.array(rows)

    def loglikelihood(
        self, prompts: Sequence[str], targets: Sequence[str]
    ) -> np.ndarray:
        self.log("loglikelihood", len(prompts))
        return np.array([-(len(p) % 13) - 1.0 for p in prompts])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        seeds = [int(hashlib.md5(t.encode()).hexdigest()[:8], 16) for t in texts]
        return np.array([np.random.default_rng(s).normal(size=8) for s in seeds])

    def take_usage(self):
        from xinst_jax.engine import Usage

        return Usage(useful_tokens=3, row_tokens=4, new_tokens=1, seconds=0.5)

    @staticmethod
    def log(call: str, number: int) -> None:
        """Counts what was asked, also in other processes."""
        if path := os.environ.get("FAKE_ENGINE_LOG"):
            with open(path, "a") as file:
                file.write(json.dumps([call, number]) + "\n")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replaces the engine behind RunInference; returns the log of its calls."""
    from beam_pipelines.generate import EngineHandler

    log = tmp_path / "engine.log"
    monkeypatch.setenv("FAKE_ENGINE_LOG", str(log))
    monkeypatch.setattr(EngineHandler, "open_model", lambda self: FakeEngine())
    # A generator's results cannot cross to another process.
    monkeypatch.setattr(
        EngineHandler, "share_model_across_processes", lambda self: False
    )
    return log


def calls(log: Path) -> dict[str, int]:
    """How many prompts each method of the fake engine was given."""
    total: dict[str, int] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        call, number = json.loads(line)
        total[call] = total.get(call, 0) + number
    return total
