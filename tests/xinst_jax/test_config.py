import dataclasses
import json
from pathlib import Path

import pytest

from xinst_jax.config import ModelConfig, RopeScaling, SamplingConfig

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def read(
    folder: Path, generation: dict | None = None, **changes: object
) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelConfig.from_checkpoint(folder)


def test_sizes_are_read_and_absent_keys_have_llamas_defaults(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.vocabulary, config.width, config.layers) == (64, 32, 2)
    assert (config.heads, config.kv_heads, config.head_width) == (4, 2, 8)
    assert (config.mlp_width, config.max_positions) == (48, 128)
    assert (config.rope_theta, config.rope_scaling, config.tied) == (1e4, None, False)
    assert read(tmp_path, num_key_value_heads=None).kv_heads == 4
    assert read(tmp_path, head_dim=16).head_width == 16


def test_old_and_new_rope_spellings_agree(tmp_path: Path) -> None:
    old = read(tmp_path, rope_theta=5e5, rope_scaling=LLAMA3)
    new = read(tmp_path, rope_parameters={"rope_theta": 5e5, **LLAMA3})
    older = {"type": "llama3"} | {k: v for k, v in LLAMA3.items() if k != "rope_type"}
    assert old == new == read(tmp_path, rope_theta=5e5, rope_scaling=older)
    assert old.rope_theta == 5e5
    assert old.rope_scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
    )


def test_eos_may_be_a_list_and_generation_config_decides(tmp_path: Path) -> None:
    assert read(tmp_path).eos == (1,)
    assert read(tmp_path, eos_token_id=None).eos == ()
    assert read(tmp_path, {"eos_token_id": [3, 4]}).eos == (3, 4)


def test_to_json_is_read_back_equal(tmp_path: Path) -> None:
    config = read(tmp_path, {"eos_token_id": [3, 4]}, rope_scaling=LLAMA3)
    for each in (config, dataclasses.replace(config, rope_scaling=None, eos=(5,))):
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
        (tmp_path / "config.json").write_text(json.dumps(each.to_json()))
        assert ModelConfig.from_checkpoint(tmp_path) == each


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gemma3"}, "model_type='gemma3'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type='yarn'"),
        ({"num_key_value_heads": 3}, "heads=4, kv_heads=3"),
        ({"head_dim": 7}, "head_width=7"),
        ({"vocab_size": 0}, "vocabulary=0"),
    ],
)
def test_an_unknown_architecture_is_named(
    tmp_path: Path, change: dict, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        read(tmp_path, **change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
    ],
)
def test_a_sampling_field_out_of_bounds_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*, got {field}={value}\."):
        SamplingConfig(**{field: value})
