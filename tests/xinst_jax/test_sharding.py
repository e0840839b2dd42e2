"""Eight fake CPU devices, in a process of their own: JAX counts devices only once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
from xinst_jax.engine import Engine
from xinst_jax.config import SamplingConfig
from xinst_jax.sharding import make_mesh
from xinst_jax.train import TrainingConfig, fine_tune
checkpoint, out, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
results = {}
for data, model in ((1, 1), (8, 1), (4, 2), (2, 4)):
    mesh = make_mesh(data, model)
    engine = Engine.load(checkpoint, mesh=mesh)
    greedy = engine.generate(prompts, SamplingConfig(max_new_tokens=6))
    warm = engine.generate(
        prompts, SamplingConfig(max_new_tokens=6, temperature=1.0, top_k=40, top_p=0.9)
    )
    name = f"{data}x{model}"
    log = fine_tune(
        checkpoint, f"{out}/{name}", [("ab" * n, "cd") for n in range(9, 15)],
        [("abc", "d")], TrainingConfig(steps=2, batch_tokens=512, warmup=0),
        progress=False, mesh=mesh,
    )
    results[name] = {
        "tokens": [g.tokens for g in greedy + warm],
        "score": engine.score(prompts, ["a", "b"]).tolist(),
        "embed": engine.embed(prompts).tolist(),
        "likelihood": engine.loglikelihood(prompts, [[9, 8]] * len(prompts)).tolist(),
        "held_out": log[-1]["held_out_loss"],
    }
try:
    Engine.load(checkpoint, mesh=make_mesh(1, 5))
except ValueError as error:
    results["error"] = str(error)
try:
    make_mesh(4, 4)
except ValueError as error:
    results["too many"] = str(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(
    checkpoint: Path, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> dict:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    out = tmp_path_factory.mktemp("meshes")
    arguments = [str(checkpoint), str(out), json.dumps(prompts)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["8x1", "4x2", "2x4"])
def test_a_mesh_gives_what_one_device_gives(results: dict, mesh: str) -> None:
    one, many = results["1x1"], results[mesh]
    assert many["tokens"] == one["tokens"]
    for name in ("score", "embed", "likelihood"):
        for a, b in zip(many[name], one[name], strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    assert many["held_out"] == pytest.approx(one["held_out"], rel=0.05)


def test_a_size_that_does_not_divide_is_shown_with_its_mesh(results: dict) -> None:
    assert results["error"] == "vocabulary=264 does not divide by the mesh's model=5."
    assert "needs 16 devices, there are 8" in results["too many"]
