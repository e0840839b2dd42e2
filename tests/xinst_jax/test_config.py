import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from xinst_jax.config import ModelConfig, Rope, RopeScaling, SamplingConfig
from xinst_jax.families import canonical_name, config_json

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/golden.npz"))
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
    assert (config.rope, config.window, config.tied) == (Rope(theta=1e4), None, False)
    assert read(tmp_path, num_key_value_heads=None).kv_heads == 4
    assert read(tmp_path, head_dim=16).head_width == 16


def test_old_and_new_rope_spellings_agree(tmp_path: Path) -> None:
    old = read(tmp_path, rope_theta=5e5, rope_scaling=LLAMA3)
    new = read(tmp_path, rope_parameters={"rope_theta": 5e5, **LLAMA3})
    older = {"type": "llama3"} | {k: v for k, v in LLAMA3.items() if k != "rope_type"}
    assert old == new == read(tmp_path, rope_theta=5e5, rope_scaling=older)
    assert old.rope.theta == 5e5
    assert old.rope.scaling == RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
    )


def test_eos_may_be_a_list_and_generation_config_decides(tmp_path: Path) -> None:
    assert read(tmp_path).eos == (1,)
    assert read(tmp_path, eos_token_id=None).eos == ()
    assert read(tmp_path, {"eos_token_id": [3, 4]}).eos == (3, 4)


@pytest.mark.parametrize("family", sorted(p.parent.name for p in GOLDEN))
def test_what_is_written_is_read_back_equal(family: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN[0].parents[1] / family / "config.json", tmp_path)
    config = ModelConfig.from_checkpoint(tmp_path)
    for eos in ((5,), (3, 4)):
        config = dataclasses.replace(config, eos=eos)
        (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
        assert ModelConfig.from_checkpoint(tmp_path) == config


def test_published_spellings_that_leave_much_out(tmp_path: Path) -> None:
    def of(**given: object) -> ModelConfig:
        (tmp_path / "config.json").write_text(json.dumps(given))
        return ModelConfig.from_checkpoint(tmp_path)

    sizes = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 7}
    text = {"model_type": "gemma3_text", "sliding_window": 1024, **sizes}
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    gemma3 = of(model_type="gemma3", text_config=text, eos_token_id=[1, 106])
    assert (gemma3.heads, gemma3.kv_heads, gemma3.head_width) == (8, 4, 256)
    assert gemma3.vocabulary == 262_208 and gemma3.tied and gemma3.eos == (1, 106)
    assert gemma3.rope == Rope(theta=1e6, scaling=RopeScaling(factor=8.0))
    assert gemma3.local_rope == Rope(theta=1e4) and gemma3.window == 1024
    assert gemma3.windowed == (True,) * 5 + (False, True)
    rest = {"num_attention_heads": 8, "max_position_embeddings": 99, "vocab_size": 9}
    mistral = of(model_type="mistral", **sizes, **rest)
    assert mistral.window == 4096 and all(mistral.windowed)
    assert of(model_type="mistral", sliding_window=None, **sizes, **rest).window is None
    qwen = of(model_type="qwen2", sliding_window=4096, **sizes, **rest)
    assert qwen.window is None and qwen.qkv_bias
    gemma = of(model_type="gemma", hidden_act="gelu", **sizes, **rest)
    assert gemma.activation == "gelu_tanh" and gemma.tied and gemma.head_width == 256


def test_names_of_a_text_model_inside_another_are_its_own() -> None:
    own = "model.layers.0.mlp.up_proj.weight"
    for prefix in ("language_model.", "model.language_model."):
        inner = own if prefix == "language_model." else own.removeprefix("model.")
        assert canonical_name(prefix + inner) == own == canonical_name(own)
    assert canonical_name("language_model.lm_head.weight") == "lm_head.weight"
    for other in ("model.vision_tower.a.weight", "multi_modal_projector.b"):
        assert canonical_name(other) is None
    assert canonical_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "model_type='mixtral'"),
        ({"vocab_size": None}, "lacks vocab_size"),
        (
            {"model_type": "gemma2", "hidden_act": None, "hidden_activation": "gelu"},
            "hidden_activation='gelu'",
        ),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        (
            {"model_type": "mistral", "layer_types": ["chunked_attention"] * 2},
            "layer_types of",
        ),
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
