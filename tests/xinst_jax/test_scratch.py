from pathlib import Path

import pytest

from xinst_jax.engine import Engine
from xinst_jax.scratch import new_checkpoint

TEXTS = [f"{'very ' * (i % 4)}ripe apple, number {i}. Ni tofaa." for i in range(8)]
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


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_a_new_checkpoint_is_deterministic_and_its_weights_are_the_seed_s(
    tmp_path: Path,
) -> None:
    for name, change in (("a", {}), ("b", {}), ("c", {"seed": 1})):
        new_checkpoint(tmp_path / name, TEXTS, **(SMALL | change))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    model = "model.safetensors"
    assert contents(tmp_path / "a")[model] != contents(tmp_path / "c")[model]


def test_a_new_tokenizer_writes_any_text(tmp_path: Path) -> None:
    new_checkpoint(tmp_path / "a", TEXTS, **SMALL)
    tokenizer = Engine.load(tmp_path / "a").tokenizer
    ids = tokenizer.encode("Naïve ไทย \x00").ids
    assert ids[0] == tokenizer.token_to_id("<s>") == 0
    assert tokenizer.decode(ids) == "Naïve ไทย \x00"


@pytest.mark.parametrize("change", [{"vocabulary": 100}, {"width": 30}])
def test_a_size_that_cannot_be_is_named(tmp_path: Path, change: dict) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        new_checkpoint(tmp_path / "no", ["text"], **(SMALL | change))


def test_words_of_the_forms_are_whole_and_the_embedding_is_of_the_texts(
    tmp_path: Path,
) -> None:
    form = "### Zanzibar:\n{text}"
    sizes = SMALL | {"vocabulary": 400}
    for name, forms in (("plain", ()), ("formed", (form,)), ("listed", [form])):
        new_checkpoint(tmp_path / name, TEXTS * 8, forms=forms, **sizes)
    plain, formed = (
        Engine.load(tmp_path / name).tokenizer for name in ("plain", "formed")
    )
    assert len(formed.encode(" Zanzibar").tokens) == 2
    assert len(plain.encode(" Zanzibar").tokens) > 4
    for word in (" apple", " number"):
        assert len(formed.encode(word).tokens) == len(plain.encode(word).tokens) == 2
    assert contents(tmp_path / "formed") == contents(tmp_path / "listed")
