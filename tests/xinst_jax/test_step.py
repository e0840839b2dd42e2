"""Training on eight fake CPU devices, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xinst_jax.config import ModelConfig
from xinst_jax.families import weights_of

SCRIPT = """
import json, re, sys
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
from xinst_jax import data
from xinst_jax.config import ModelConfig
from xinst_jax.lora import LoraConfig
from xinst_jax.packing import RowShape
from xinst_jax.sharding import make_mesh, put_rows
from xinst_jax.step import Program, optimizer, step_shapes, train_step
from xinst_jax.train import TrainingConfig, _load, fit
from xinst_jax.weights import load_tokenizer

checkpoint, out = sys.argv[1:]
model, tokenizer = ModelConfig.from_checkpoint(checkpoint), load_tokenizer(checkpoint)
# Chunks of logits and of rows: collectives that belong outside of loops show inside.
shape = RowShape(rows=8, tokens=512, slots=6, slot_tokens=256)
pairs = [("ab" * n, "cd" * (n % 9 + 1)) for n in range(9, 99)]
batches = data.batches(pairs, tokenizer, 1, shape, pair_of=tuple, epochs=None)


def collectives(text):
    # Sizes of what is exchanged, by kind; "chunk": once for each chunk of logits.
    found = {}
    for line in text.splitlines():
        match = re.match(r".* = (.*?) (all-gather|all-reduce|reduce-scatter)\\(", line)
        if match:
            where = "chunk" if "/cond/branch" in line else "step"
            sizes = re.findall(r"f32\\[([\\d,]*)\\]", match[1])
            sizes = [sorted(map(int, size.split(","))) for size in sizes if size]
            found.setdefault(f"{match[2]} {where}", []).extend(sizes)
    return found


def alike(one, other):
    def same(a, b):
        placed = a.sharding.is_equivalent_to(b.sharding, a.ndim)
        return placed and (a.shape, a.dtype) == (b.shape, b.dtype)
    return jax.tree.all(jax.tree.map(same, one, other))


results = {}
for kind, lora, sizes in (
    ("full", None, [(1, 1), (8, 1), (4, 2), (2, 4)]),
    ("lora", LoraConfig(rank=4), [(1, 1), (4, 2)]),
):
    config = TrainingConfig(steps=3, warmup=0, learning_rate=1e-3, lora=lora)
    for size in sizes:
        mesh = make_mesh(*size)
        log = fit(checkpoint, out, batches, [], config, progress=False, mesh=mesh)
        results[f"{kind} {size[0]}x{size[1]}"] = [entry["loss"] for entry in log]
    mesh = make_mesh(4, 2)
    program = Program(model=model, lora=lora)
    with jax.set_mesh(mesh):
        trained, frozen = _load(checkpoint, model, config, mesh)
        state = jax.jit(optimizer(program).init)(trained)
        rows = put_rows((next(iter(batches)),), mesh)
        shapes = step_shapes(program, shape, mesh)
        given = trained, state, frozen, rows
        results[f"{kind} as described"] = alike(given, shapes[:4])
        after = train_step(*given, 0.1, program)
        results[f"{kind} stays"] = alike(after[:2], shapes[:2])
mesh, program = make_mesh(8, 1), Program(model=model)
with jax.set_mesh(mesh):
    shapes = step_shapes(program, shape, mesh)
    compiled = train_step.lower(*shapes, program=program).compile()
    results["collectives"] = collectives(compiled.as_text())
    moments = shapes[1][1].mu
    results["moments"] = str(moments["layers.query"].sharding.spec)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, checkpoint, tmp_path_factory.mktemp("m") / "o"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("run", ["full 8x1", "full 4x2", "full 2x4", "lora 4x2"])
def test_a_mesh_trains_as_one_device_does(results: dict, run: str) -> None:
    one = results[f"{run.split()[0]} 1x1"]
    assert len(one) == 3
    assert one[2] < one[0]
    assert results[run] == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_shapes_to_compile_from_are_those_of_a_training(
    results: dict, kind: str
) -> None:
    assert results[f"{kind} as described"]
    assert results[f"{kind} stays"]
    assert results["moments"] == "P(None, 'model', 'data')"


def test_weights_are_gathered_layer_by_layer_and_each_gradient_is_summed_once(
    results: dict, tiny: ModelConfig
) -> None:
    found = results["collectives"]
    of_layers, others = [], []
    for name, weight in weights_of(tiny).items():
        if name.startswith("layers.") and len(weight.shape) == 3:
            of_layers.append(sorted(weight.shape[1:]))
        elif len(weight.shape) == 2 and not name.startswith("layers."):
            others.append(sorted(weight.shape))
    # A layer's are gathered again for its gradient; activations never are.
    assert sorted(found["all-gather step"]) == sorted(of_layers * 2 + others)
    sums = found["all-reduce step"] + found.get("reduce-scatter step", [])
    matrices = [size for size in sums if len(size) == 2]
    assert sorted(matrices) == sorted(of_layers + others)
    assert not any("chunk" in name for name in found)
