import dataclasses
import json
from pathlib import Path

import pytest

from xinst_jax.config import SamplingConfig
from xinst_jax.engine import Engine
from xinst_jax.train import TrainingConfig, fine_tune, new_checkpoint

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
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_a_new_checkpoint_is_deterministic_and_writes_any_text(
    scratch: Path, tmp_path: Path
) -> None:
    new_checkpoint(tmp_path / "again", [p + t for p, t in PAIRS], **SMALL)
    assert contents(tmp_path / "again") == contents(scratch)
    new_checkpoint(tmp_path / "other", ["text"], **(SMALL | {"seed": 1}))
    model = "model.safetensors"
    assert contents(tmp_path / "other")[model] != contents(scratch)[model]
    tokenizer = Engine.load(scratch).tokenizer
    ids = tokenizer.encode("Naïve ไทย \x00").ids
    assert ids[0] == tokenizer.token_to_id("<s>") == 0
    assert tokenizer.decode(ids) == "Naïve ไทย \x00"
    with pytest.raises(ValueError, match="vocabulary=100"):
        new_checkpoint(tmp_path / "no", ["text"], **(SMALL | {"vocabulary": 100}))


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
    ],
)
def test_a_training_field_out_of_bounds_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"got {field}={value}"):
        dataclasses.replace(CONFIG, **{field: value})
