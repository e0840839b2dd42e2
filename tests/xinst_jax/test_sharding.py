"""Eight fake CPU devices, in a process of their own: JAX counts devices only once."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xinst_jax.config import ModelConfig, Rope

MANY = {
    "qk_norm": True,
    "qkv_bias": True,
    "window": 20,
    "windowed": (True, False, True),
    "attention_softcap": 2.0,
    "logit_softcap": 3.0,
    "local_rope": Rope(theta=50.0),
}
SCRIPT = """
import dataclasses, json, sys
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
from xinst_jax import engine as engine_module
from xinst_jax.engine import Engine
from xinst_jax.config import ModelConfig, Rope, SamplingConfig
from xinst_jax.model import Decoder
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import load_tokenizer, load_weights
from xinst_jax.train import TrainingConfig, fine_tune
# Small rows: eight devices share a few cores.
engine_module._ROW_TOKENS["cpu"] = 512
engine_module._DECODING_SLOTS["cpu"] = 4
checkpoint, out, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
results = {}
for data, model in ((1, 1), (8, 1), (4, 2), (2, 4)):
    mesh = make_mesh(data, model)
    engine = Engine.load(checkpoint, mesh=mesh)
    greedy = engine.generate(prompts, SamplingConfig(max_new_tokens=6))
    own = results[f"{data}x{model}"] = {
        "greedy": [g.tokens for g in greedy],
        "score": engine.score(prompts, ["a", "b"]).tolist(),
    }
    if (data, model) not in ((8, 1), (2, 4)):  # compiling takes all of the time
        warm = SamplingConfig(max_new_tokens=6, temperature=1.0, top_k=40, top_p=0.9)
        own["warm"] = [g.tokens for g in engine.generate(prompts, warm)]
    if (data, model) not in ((8, 1), (4, 2)):
        own["embed"] = engine.embed(prompts).tolist()
# Windows in some layers, norms of heads, biases, caps: no family has all of it.
config = dataclasses.replace(ModelConfig.from_checkpoint(checkpoint), **{MANY})
for data, model in ((1, 1), (2, 4)):
    mesh = make_mesh(data, model)
    for quantize in (None, "int8"):
        weights = load_weights(sys.argv[4], config, "float32", mesh, quantize=quantize)
        engine = Engine(Decoder(config, weights), load_tokenizer(checkpoint), mesh)
        greedy = engine.generate(prompts, SamplingConfig(max_new_tokens=6))
        name = "greedy of many parts, " + (quantize or "whole")
        results[f"{data}x{model}"][name] = [g.tokens for g in greedy]
pairs = [("ab" * n, "cd") for n in range(9, 15)]
for data, model in ((1, 1), (2, 4)):
    log = fine_tune(
        checkpoint, f"{out}/{data}", pairs, pairs,
        TrainingConfig(steps=3, batch_tokens=1024, warmup=0), progress=False,
        mesh=make_mesh(data, model),
    )
    results[f"{data}x{model}"]["held_out"] = log[-1]["held_out_loss"]
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
    checkpoint: Path,
    prompts: list[list[int]],
    tiny: ModelConfig,
    write_checkpoint: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    out = tmp_path_factory.mktemp("meshes")
    many = dataclasses.replace(tiny, **MANY)
    path = write_checkpoint(out / "many", many)
    arguments = [str(checkpoint), str(out), json.dumps(prompts[:7]), str(path)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{MANY}", repr(MANY)), *arguments],
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
    assert {"greedy", "score"} <= many.keys()
    for name in [n for n in many if "greedy" in n or n == "warm"]:
        assert many[name] == one[name]
    for name in many.keys() & {"score", "embed"}:
        for a, b in zip(many[name], one[name], strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def test_training_on_a_mesh_comes_to_the_same_loss(results: dict) -> None:
    losses = results["1x1"]["held_out"], results["2x4"]["held_out"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_size_that_does_not_divide_is_shown_with_its_mesh(results: dict) -> None:
    assert results["error"] == "vocabulary=264 does not divide by the mesh's model=5."
    assert "needs 16 devices, there are 8" in results["too many"]
