import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from xinst_jax import data, train
from xinst_jax.config import SamplingConfig
from xinst_jax.curve import loss_curve
from xinst_jax.engine import Engine
from xinst_jax.lora import LoraConfig
from xinst_jax.packing import RowShape
from xinst_jax.scratch import new_checkpoint
from xinst_jax.train import TrainingConfig, fine_tune, fit
from xinst_jax.weights import load_tokenizer

FRUITS = ["apple", "banana", "cherry", "damson", "elder", "fig", "grape", "hazel"]
PAIRS = [
    (f"{'very ' * (i % 4)}ripe {fruit}, what is it?", f" It is {fruit}.")
    for i, fruit in enumerate(FRUITS * 4)
]
CONFIG = TrainingConfig(
    steps=80, batch_tokens=256, learning_rate=1e-2, warmup=4, eval_every=40
)
SMALL = {
    "vocabulary": 300,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "mlp_width": 64,
    "max_positions": 128,
    "seed": 0,
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scratch") / "model"
    new_checkpoint(path, [p + t for p, t in PAIRS], **SMALL)
    return path


@pytest.fixture(scope="module")
def trained(scratch: Path) -> tuple[Path, list[dict]]:
    out = scratch.parent / "trained"
    held = PAIRS[:8]
    return out, fine_tune(scratch, out, PAIRS, held, CONFIG, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    """What does not depend on the time that it took."""
    found = {f.name: f.read_bytes() for f in sorted(folder.iterdir())}
    del found["training_log.jsonl"]
    return found


def timeless(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in log]


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoint / "model.safetensors")


def batches(
    checkpoint: Path, pairs: list, shape: RowShape, epochs: int
) -> grain.IterDataset:
    tokenizer = load_tokenizer(checkpoint)
    return data.batches(pairs, tokenizer, 1, shape, pair_of=tuple, epochs=epochs)


def test_training_lowers_the_loss_and_is_learnt(
    scratch: Path, trained: tuple[Path, list[dict]]
) -> None:
    out, log = trained
    assert [entry["step"] for entry in log] == list(range(1, 81))
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
    assert [e["step"] for e in log if "held_out_loss" in e] == [40, 80]
    lines = (out / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log
    engine = Engine.load(out)
    answers = engine.generate(
        [p for p, _ in PAIRS[:8]], SamplingConfig(max_new_tokens=16)
    )
    assert [a.text for a in answers] == [t for _, t in PAIRS[:8]]
    assert all(a.stopped for a in answers)


def test_the_first_loss_is_the_engines_own_likelihood(
    scratch: Path, trained: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    one = dataclasses.replace(CONFIG, steps=1, warmup=0, learning_rate=1e-9)
    (entry,) = fine_tune(scratch, tmp_path / "o", PAIRS, PAIRS, one, progress=False)
    engine = Engine.load(scratch)
    targets = [
        [*engine.tokenizer.encode(t, add_special_tokens=False).ids, 1] for _, t in PAIRS
    ]
    total = -engine.loglikelihood([p for p, _ in PAIRS], targets).sum()
    mean = total / sum(map(len, targets))
    assert entry["held_out_loss"] == pytest.approx(mean, rel=1e-4)


def test_the_same_seed_gives_the_same_bytes(
    scratch: Path, trained: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    short = dataclasses.replace(CONFIG, steps=6)
    for name, config in (
        ("a", short),
        ("b", short),
        ("c", dataclasses.replace(short, seed=1)),
    ):
        fine_tune(scratch, tmp_path / name, PAIRS, [], config, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_pairs_that_are_too_long_are_left_out_unless_all_are(
    scratch: Path, tmp_path: Path
) -> None:
    one = TrainingConfig(steps=1, batch_tokens=256, warmup=0)
    long = ("?" * 200, "!")
    fine_tune(scratch, tmp_path / "a", [long, *PAIRS], [], one, progress=False)
    fine_tune(scratch, tmp_path / "b", PAIRS, [], one, progress=False)
    with pytest.raises(ValueError, match="None of 1 pairs"):
        fine_tune(scratch, tmp_path / "c", [long], [], one, progress=False)


def test_each_line_of_the_log_says_what_a_step_did(
    trained: tuple[Path, list[dict]],
) -> None:
    out, log = trained
    rates = [entry["learning_rate"] for entry in log]
    assert rates[3] == max(rates) == pytest.approx(CONFIG.learning_rate)
    assert rates[0] == pytest.approx(CONFIG.learning_rate / 4)
    assert rates[-1] == pytest.approx(CONFIG.learning_rate / 10)
    # 32 pairs of 27 to 42 bytes, less what the tokenizer has learnt, fill 256 tokens.
    assert all(240 < entry["tokens"] <= 256 for entry in log)
    assert all(entry["seconds"] > 0 for entry in log)
    assert not out.with_name(f"{out.name}.training").exists()


def test_accumulated_batches_are_one_large_batch(scratch: Path, tmp_path: Path) -> None:
    shape = RowShape(rows=2, tokens=256, slots=12, slot_tokens=128)
    pairs = [("a" * 60, "b"), ("a" * 55, "b"), ("a", "b" * 50), ("a", "b" * 40)]
    large = list(itertools.islice(batches(scratch, pairs, shape, epochs=20), 3))
    targets = [(batch.index < 256).sum(axis=1) for batch in large]
    # Equal numbers of targets would hide a mean of means.
    assert all(abs(first - second) > 9 for first, second in targets), targets
    small = [
        jax.tree.map(lambda a, row=row: a[row : row + 1], batch)
        for batch in large
        for row in (0, 1)
    ]
    logs = []
    for name, own, accumulate in (("one", large, 1), ("two", small, 2)):
        numbers = grain.MapDataset.source(range(len(own)))
        source = numbers.map(own.__getitem__).to_iter_dataset()
        config = TrainingConfig(
            steps=3, warmup=0, learning_rate=1e-2, accumulate=accumulate
        )
        out = tmp_path / name
        logs.append(fit(scratch, out, source, [], config, progress=False))
    for one, two in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["tokens"] == two["tokens"]
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=2e-4, err_msg=name)


def test_a_step_s_tokens_are_shared_out_over_rows_and_batches(
    scratch: Path, tmp_path: Path
) -> None:
    config = TrainingConfig(steps=2, batch_tokens=1024, warmup=0, accumulate=2)
    log = fine_tune(scratch, tmp_path / "a", PAIRS, [], config, progress=False)
    assert all(1000 < entry["tokens"] <= 1024 for entry in log)


# Each fruit is taken for the next one.
WRONG = [
    (prompt, PAIRS[(i + 1) % len(PAIRS)][1]) for i, (prompt, _) in enumerate(PAIRS)
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_learn_and_what_is_frozen_stays_as_it_is(
    trained: tuple[Path, list[dict]], tmp_path: Path, dtype: str
) -> None:
    base, out = trained[0], tmp_path / "a"
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=8), dtype=dtype)
    log = fine_tune(base, out, WRONG, [], config, progress=False)
    whole = dataclasses.replace(CONFIG, steps=1, warmup=0)
    (first,) = fine_tune(base, tmp_path / "b", WRONG, [], whole, progress=False)
    # They begin with the model as it is.
    rel = 1e-6 if dtype == "float32" else 0.05
    assert log[0]["loss"] == pytest.approx(first["loss"], rel=rel)
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
    answers = Engine.load(out).generate(
        [p for p, _ in WRONG[:8]], SamplingConfig(max_new_tokens=16)
    )
    assert [a.text for a in answers] == [t for _, t in WRONG[:8]]
    before, after = weights(base), weights(out)
    assert {str(array.dtype) for array in after.values()} == {dtype}
    assert before.keys() == after.keys()
    for name in before:
        same = (before[name].astype(dtype) == after[name]).all()
        assert same != name.endswith("_proj.weight"), name


def test_where_batches_end_training_does_too_with_a_last_held_out_loss(
    scratch: Path, tmp_path: Path
) -> None:
    shape = RowShape(rows=1, tokens=256, slots=12, slot_tokens=128)
    ended = batches(scratch, PAIRS, shape, epochs=1)
    num_batches = len(list(ended))
    log = fit(scratch, tmp_path / "a", ended, PAIRS[:2], CONFIG, progress=False)
    assert [e["step"] for e in log if "held_out_loss" in e] == [num_batches]
    lines = (tmp_path / "a" / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log
    more = dataclasses.replace(CONFIG, accumulate=num_batches + 1)
    with pytest.raises(ValueError, match="fewer batches than accumulate"):
        fit(scratch, tmp_path / "c", ended, [], more, progress=False)
    with pytest.raises(ValueError, match="no batch to train"):
        fit(
            scratch,
            tmp_path / "b",
            batches(scratch, [("a" * 200, "b")], shape, epochs=1),
            [],
            CONFIG,
            progress=False,
        )


def test_rows_that_no_chunks_of_logits_fill_are_refused(
    scratch: Path, tmp_path: Path
) -> None:
    odd = RowShape(rows=1, tokens=300, slots=12, slot_tokens=128)
    source = batches(scratch, PAIRS, odd, epochs=1)
    with pytest.raises(ValueError, match="300 places for targets, no multiple of 256"):
        fit(scratch, tmp_path / "a", source, [], CONFIG, progress=False)


LONG = dataclasses.replace(CONFIG, steps=20, checkpoint_every=5, eval_every=10)
KILLED = """
import os, signal, sys
import grain
from xinst_jax import train
from xinst_jax.lora import LoraConfig

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

scratch, out, pairs, config, where = eval(sys.argv[1])
if where == "step":
    step = train.train_step
    def killing(*arguments, **more):
        killing.calls += 1
        return kill() if killing.calls == 13 else step(*arguments, **more)
    killing.calls = 0
    train.train_step = killing
else:
    save = grain.checkpoint.CheckpointHandler.save
    def killing(self, directory, *arguments, **more):
        save(self, directory, *arguments, **more)
        killing.calls += 1
        if killing.calls == 3:
            kill()
    killing.calls = 0
    grain.checkpoint.CheckpointHandler.save = killing
train.fine_tune(scratch, out, pairs, pairs[:4], eval(config), progress=False)
"""


@pytest.mark.parametrize(
    ("where", "lora", "begun", "logged"),
    [("step", None, 10, 12), ("saving", LoraConfig(rank=4), 10, 15)],
)
def test_a_killed_training_goes_on_to_the_same_bytes(
    scratch: Path,
    tmp_path: Path,
    where: str,
    lora: LoraConfig | None,
    begun: int,
    logged: int,
) -> None:
    """Killed in a step, and in the middle of writing a checkpoint."""
    config = dataclasses.replace(LONG, lora=lora)
    whole = fine_tune(
        scratch, tmp_path / "whole", PAIRS, PAIRS[:4], config, progress=False
    )
    out = tmp_path / "killed"
    fields = ", ".join(
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
    )
    argument = repr(
        (str(scratch), str(out), PAIRS, f"train.TrainingConfig({fields})", where)
    )
    done = subprocess.run(
        [sys.executable, "-c", KILLED, argument],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not out.exists()
    left = tmp_path / "killed.training"
    assert [f.name for f in left.glob("checkpoints/*") if f.name.isdigit()] == [
        str(begun)
    ]
    assert len((left / "training_log.jsonl").read_text().splitlines()) == logged
    steps = []
    step = train.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", lambda *a: steps.append(1) or step(*a))
        log = fine_tune(scratch, out, PAIRS, PAIRS[:4], config, progress=False)
    assert len(steps) == 20 - begun
    assert timeless(log) == timeless(whole)
    assert contents(out) == contents(tmp_path / "whole")
    lines = (out / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log
    assert not left.exists()


def test_a_checkpoint_of_other_settings_is_refused_and_left_alone(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    def attempt(**change: object) -> None:
        config = dataclasses.replace(LONG, **change)
        fine_tune(scratch, tmp_path / "a", PAIRS, PAIRS[:4], config, progress=False)

    monkeypatch.setattr(train, "loss_curve", stop)  # drawn at step 10
    with pytest.raises(KeyboardInterrupt):
        attempt()
    monkeypatch.undo()
    left = tmp_path / "a.training"
    with pytest.raises(
        ValueError, match=r"a\.training .* weight_decay was 0\.1 and is"
    ):
        attempt(weight_decay=0.2)
    with pytest.raises(ValueError, match="first_batch was "):
        attempt(seed=1)
    os.utime(scratch / "config.json")
    with pytest.raises(ValueError, match="base was "):
        attempt()
    assert (left / "checkpoints" / "5").exists()
    assert not (tmp_path / "a").exists()


def test_the_curve_is_a_picture_of_the_log(trained: tuple[Path, list[dict]]) -> None:
    out, log = trained
    drawn = (out / "training.svg").read_text()
    assert drawn == loss_curve(log)
    root = xml.etree.ElementTree.fromstring(drawn)
    lines = {
        line.get("class"): [
            tuple(map(float, point.split(","))) for point in line.get("points").split()
        ]
        for line in root.iter("{http://www.w3.org/2000/svg}polyline")
    }
    assert {kind: len(points) for kind, points in lines.items()} == {
        "each": 80,
        "smooth": 80,
        "held": 2,
    }
    xs, ys = zip(*lines["each"], strict=True)
    assert list(xs) == sorted(xs)
    # Downwards is up: the largest loss is drawn the highest.
    assert ys[np.argmax([e["loss"] for e in log])] == min(ys)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0", "20", "40", "60", "80", "step", "training"} <= set(texts)
    assert f"held out, {log[-1]['held_out_loss']:.3f} at the end" in texts
    assert "prefers-color-scheme: dark" in drawn


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_tokens", 0),
        ("learning_rate", 0.0),
        ("warmup", 80),
        ("weight_decay", -1.0),
        ("clip", 0.0),
        ("seed", -1),
        ("eval_every", 0),
        ("checkpoint_every", 0),
        ("accumulate", 0),
        ("dtype", "int8"),
        ("dtype", "bfloat16"),
    ],
)
def test_a_training_field_out_of_bounds_is_named(
    field: str, value: float | str
) -> None:
    with pytest.raises(ValueError, match=f"got {field}={value}"):
        dataclasses.replace(CONFIG, **{field: value})
