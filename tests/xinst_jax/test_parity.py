"""Nine families against transformers: golden/make_golden.py made the files."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import example
from xinst_jax.config import ModelConfig, SamplingConfig
from xinst_jax.engine import Engine
from xinst_jax.model import Decoder
from xinst_jax.sharding import make_mesh
from xinst_jax.weights import load_weights

parity = example("engine_parity", "benchmarks")
differences, golden = parity.differences, parity.golden
GOLDEN, FAMILIES = parity.GOLDEN, parity.FAMILIES
# A wrong knob must cost a hundred times what rounding may.
TOLERANCE, CAUGHT = 1e-5, 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Callable):
    """Where a family's checkpoint is; made when it is first asked for."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp("parity") / family
            made[family] = parity.write_checkpoint(path, family)
            byte_tokenizer().save(str(path / "tokenizer.json"))
        return made[family]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_are_those_of_transformers(
    family: str, folder: Callable
) -> None:
    engine = Engine.load(folder(family))
    expected = golden(family)
    assert expected["logits"].std() > 0.3
    assert np.abs(differences(engine.model, family)).max() <= TOLERANCE
    # Here nothing ends an answer, as when the files were made.
    engine.model.config = dataclasses.replace(engine.config, eos=())
    prompts = [
        row[:n].tolist()
        for row, n in zip(expected["tokens"], expected["lengths"], strict=True)
    ]
    answers = engine.generate(prompts, SamplingConfig(max_new_tokens=16))
    assert [list(a.tokens) for a in answers] == expected["greedy"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_as_near_as_torchs_own(family: str, folder: Callable) -> None:
    path = folder(family)
    config = ModelConfig.from_checkpoint(path)
    weights = load_weights(path, config, "bfloat16", make_mesh())
    error = differences(Decoder(config, weights), family)
    theirs_max, theirs_rms = golden(family)["torch_bf16_error"]
    assert 1e-4 < np.sqrt((error**2).mean()) <= 1.1 * theirs_rms
    # One logit of 20,000: where the worst one falls is chance.
    assert np.abs(error).max() <= 2 * theirs_max


@pytest.mark.parametrize("family", FAMILIES)
def test_one_wrong_knob_is_caught(family: str, folder: Callable) -> None:
    path = folder(family)
    config = ModelConfig.from_checkpoint(path)
    weights = load_weights(path, config, "float32", make_mesh())
    missed = {}
    for name, turned in parity.mutations(config).items():
        # Knobs of one family's traits take weights away, and never ask for more.
        error = np.abs(differences(Decoder(turned, weights), family)).max()
        if error < CAUGHT:
            missed[name] = error
    assert not missed


@pytest.mark.parametrize("family", FAMILIES)
def test_old_and_new_spellings_give_one_config(family: str, tmp_path: Path) -> None:
    configs = []
    for name in ("config.json", "config_v4.json"):
        shutil.copy(GOLDEN / family / name, tmp_path / "config.json")
        configs.append(ModelConfig.from_checkpoint(tmp_path))
    assert configs[0] == configs[1]


@pytest.mark.parametrize("spelling", ["v4", "v5"])
def test_a_text_model_is_read_out_of_a_multimodal_checkpoint(
    spelling: str, tmp_path: Path, folder: Callable
) -> None:
    source = GOLDEN / "gemma3_multimodal"
    text = folder("gemma3")
    shutil.copy(
        source / ("config.json" if spelling == "v5" else "config_v4.json"),
        tmp_path / "config.json",
    )
    config = ModelConfig.from_checkpoint(tmp_path)
    plain = ModelConfig.from_checkpoint(text)
    assert dataclasses.replace(config, eos=plain.eos, bos=plain.bos) == plain
    own, tensors = parity.tensors_of(config), {}
    for name in json.loads((source / "names.json").read_text())[spelling]:
        inner = name.replace("language_model.model.", "model.")
        inner = inner.replace("model.language_model.", "model.")
        tensors[name] = own.pop(inner, np.zeros(2, np.float32))
    assert not own
    save_file(tensors, tmp_path / "model.safetensors")
    weights = load_weights(tmp_path, config, "float32", make_mesh())
    assert np.abs(differences(Decoder(config, weights), "gemma3")).max() <= TOLERANCE
