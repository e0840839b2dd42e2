"""Writes what transformers computes for one small model of each family.

    .venv-torch/bin/python tests/xinst_jax/golden/make_golden.py

A folder per family holds `config.json` as transformers 5 saves it, `config_v4.json`,
the same model in the spelling of published checkpoints, and `golden.npz`:

    tokens int32 [B, S]         documents from the left, zeros behind them
    lengths int32 [B]           tokens of each
    logits float32 [B, S, V]    eager attention in float32, each document alone
    greedy int32 [B, 16]        the likeliest next tokens, one after the other
    torch_bf16_error float32 [2]  largest and root mean square difference of bfloat16
                                logits, by transformers itself, from those above

Weights come from `weights.py`. `gemma3_multimodal` has configs and tensor names only.
With --teeth, nothing is written: every setting that should matter is changed alone, and
a table says by how much the logits move.

Needs torch and transformers; no network, as all models are made from their configs. On
one machine, the same bytes are written each time.
"""

import argparse
import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging
from weights import noise, tensor

HERE = Path(__file__).parent
LENGTHS = [17, 1, 64, 5, 48, 33]
NUM_GREEDY = 16
# Greedy choices nearer than this could fall otherwise by rounding alone.
MIN_MARGIN = 1e-3

Config = dict[str, Any]
Edit = Callable[[PreTrainedModel], object]

COMMON: Config = {
    "attention_dropout": 0.0,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "torch_dtype": "float32",
    "use_cache": True,
}
LLAMA: Config = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "intermediate_size": 112,
    "model_type": "llama",
    "num_hidden_layers": 4,
    "pretraining_tp": 1,
}
GEMMA: Config = COMMON | {
    "attention_bias": False,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 32,
    "intermediate_size": 128,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-3,
}

# In the old spelling, with the keys that published checkpoints of each family have and
# without those that they leave to defaults.
FAMILIES: dict[str, Config] = {
    "llama2": LLAMA
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-4,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.31.0",
        "vocab_size": 96,
    },
    "llama3": LLAMA
    | {
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "mlp_bias": False,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-4,
        # One rotation is fast enough to stay, one is in between, the rest are slow.
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
            "rope_type": "llama3",
        },
        "rope_theta": 50000.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.43.0",
        "vocab_size": 112,
    },
    "llama32": LLAMA
    | {
        "bos_token_id": 1,
        "eos_token_id": [2, 3, 4],
        "head_dim": 32,
        "mlp_bias": False,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-3,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 2.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "transformers_version": "4.45.0",
        "vocab_size": 120,
    },
    "mistral": COMMON
    | {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "intermediate_size": 112,
        "model_type": "mistral",
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-3,
        "rope_theta": 20000.0,
        "sliding_window": 16,
        "tie_word_embeddings": False,
        "transformers_version": "4.34.0",
        "vocab_size": 96,
    },
    "qwen2": COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "bos_token_id": 3,
        "eos_token_id": 4,
        "hidden_act": "silu",
        "intermediate_size": 112,
        "max_window_layers": 2,
        "model_type": "qwen2",
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-3,
        "rope_theta": 1000000.0,
        "sliding_window": 16,
        "tie_word_embeddings": False,
        "transformers_version": "4.40.0",
        "use_sliding_window": True,
        "vocab_size": 104,
    },
    "qwen3": COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 3,
        "eos_token_id": 4,
        "head_dim": 32,
        "hidden_act": "silu",
        "intermediate_size": 112,
        "max_window_layers": 2,
        "model_type": "qwen3",
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-3,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        # Means nothing, as the next key says.
        "sliding_window": 16,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "transformers_version": "4.51.0",
        "vocab_size": 104,
    },
    "gemma1": GEMMA
    | {
        "architectures": ["GemmaForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": None,
        "model_type": "gemma",
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "transformers_version": "4.38.0",
        "vocab_size": 128,
    },
    "gemma2": GEMMA
    | {
        "architectures": ["Gemma2ForCausalLM"],
        "attn_logit_softcapping": 2.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 2.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 16,
        "rope_theta": 10000.0,
        "sliding_window": 16,
        "transformers_version": "4.42.4",
        "vocab_size": 128,
    },
    "gemma3": GEMMA
    | {
        "architectures": ["Gemma3ForCausalLM"],
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 6],
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 20,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "transformers_version": "4.50.0",
        "vocab_size": 128,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="all, if none is named")
    parser.add_argument("--teeth", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in arguments.families or FAMILIES:
        if arguments.teeth:
            show_teeth(name)
        else:
            write_family(name, arguments.out / name)
    if not arguments.teeth:
        write_multimodal(arguments.out / "gemma3_multimodal")


def parse(config: Config) -> PreTrainedConfig:
    """What transformers makes of a `config.json` of either spelling."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", config)
        return AutoConfig.from_pretrained(folder)


def without_old_keys(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same model, as made in transformers 5: what it no longer reads is gone."""
    fields = {field.name for field in dataclasses.fields(config)}
    kept = {key: v for key, v in config.to_dict().items() if key in fields}
    return type(config)(**kept)


def build(
    config: PreTrainedConfig, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model with our weights."""
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation="eager"
    ).eval()
    load_weights(model)
    # Rotations stay exact in bfloat16, as in a model that is loaded from files.
    rotations = {key: b for key, b in model.named_buffers() if "inv_freq" in key}
    assert rotations and all(b.dtype == torch.float32 for b in rotations.values())
    return model


def load_weights(model: PreTrainedModel) -> None:
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    gemma = model.config.model_type.startswith("gemma")
    ours = {
        name: torch.from_numpy(tensor(name, tuple(old.shape), unit_offset=gemma))
        for name, old in state.items()
    }
    assert ours.keys() == dict(model.named_parameters()).keys()
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    if model.config.tie_word_embeddings:
        assert model.lm_head.weight is model.model.embed_tokens.weight


def draw_tokens(name: str, draw: int, config: Config) -> np.ndarray:
    """Int32 [B, S], without the ids that begin, end or pad a text."""
    special = {config["bos_token_id"], *eos_ids(config), config.get("pad_token_id")}
    usable = [i for i in range(config["vocab_size"]) if i not in special]
    tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
    for row, length in enumerate(LENGTHS):
        values = noise(f"tokens {name} {draw} {row}", length)
        tokens[row, :length] = np.take(usable, np.int64(values * 1e6) % len(usable))
    return tokens


def eos_ids(config: Config) -> list[int]:
    eos = config["eos_token_id"]
    return eos if isinstance(eos, list) else [eos]


@torch.no_grad()
def all_logits(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """Float32 [B, S, V], zeros past the lengths."""
    rows = []
    for row, length in zip(tokens, LENGTHS, strict=True):
        ids = torch.from_numpy(row[None, :length].astype(np.int64))
        logits = model(input_ids=ids, use_cache=False).logits[0].float().numpy()
        rows.append(np.pad(logits, ((0, len(row) - length), (0, 0))))
    return np.stack(rows)


@torch.no_grad()
def continue_greedily(
    model: PreTrainedModel, tokens: np.ndarray
) -> tuple[np.ndarray, float]:
    """Int32 [B, 16], and the smallest lead of a choice over the next best."""
    chosen, margin = np.zeros((len(tokens), NUM_GREEDY), np.int32), np.inf
    for row, length in enumerate(LENGTHS):
        ids = torch.from_numpy(tokens[row, :length].astype(np.int64))
        for step in range(NUM_GREEDY):
            logits = model(input_ids=ids[None], use_cache=False).logits[0, -1]
            best = torch.topk(logits, 2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            chosen[row, step] = best.indices[0]
            ids = torch.cat([ids, best.indices[:1]])
    return chosen, margin


def valid(logits: np.ndarray) -> np.ndarray:
    """The positions that hold a token, [sum of lengths, V]."""
    return np.concatenate(
        [row[:length] for row, length in zip(logits, LENGTHS, strict=True)]
    )


def write_family(name: str, folder: Path) -> None:
    config = FAMILIES[name]
    model = build(parse(config))
    for draw in range(100):
        tokens = draw_tokens(name, draw, config)
        greedy, margin = continue_greedily(model, tokens)
        # Engines stop at an end token, so none is among those compared.
        if margin > MIN_MARGIN and not np.isin(greedy, eos_ids(config)).any():
            break
    else:
        raise RuntimeError(f"No text of 100 has clear greedy choices in {name}.")
    logits = all_logits(model, tokens)
    brain = all_logits(build(parse(config), torch.bfloat16), tokens)
    error = valid(brain) - valid(logits)

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as saved:
        build(without_old_keys(parse(config))).save_pretrained(saved)
        text = (Path(saved) / "config.json").read_text()
        with safe_open(Path(saved) / "model.safetensors", "pt") as tensors:
            assert set(tensors.keys()) == dict(model.named_parameters()).keys()
    # Both spellings are the same model.
    again = all_logits(build(parse(json.loads(text))), tokens)
    assert np.array_equal(again, logits)
    (folder / "config.json").write_text(text)
    write_json(folder / "config_v4.json", config)
    np.savez_compressed(
        folder / "golden.npz",
        tokens=tokens,
        lengths=np.array(LENGTHS, np.int32),
        logits=logits,
        greedy=greedy,
        torch_bf16_error=np.array(
            [np.abs(error).max(), np.sqrt((error**2).mean())], np.float32
        ),
    )
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(
        f"{name:8} largest |logit| {np.abs(logits).max():.2f}, "
        f"std {valid(logits).std():.3f}, "
        f"bf16 {np.abs(error).max():.3f} / {np.sqrt((error**2).mean()):.4f}, "
        f"margin {margin:.4f} in draw {draw}, {size:,} bytes",
        flush=True,
    )


def write_multimodal(folder: Path) -> None:
    """Gemma 3 with images: the config nests, and tensor names have prefixes."""
    old = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 126,
        "eoi_token_index": 127,
        "eos_token_id": [1, 6],
        "image_token_index": 125,
        "initializer_range": 0.02,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": without_defaults(FAMILIES["gemma3"]),
        "torch_dtype": "float32",
        "transformers_version": "4.50.0",
        "vision_config": {
            "hidden_size": 32,
            "image_size": 28,
            "intermediate_size": 48,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
    text = without_old_keys(parse(FAMILIES["gemma3"]))
    # End tokens stand outside; the rest of the text model is as in gemma3.
    both = [c.to_dict() for c in (text, without_old_keys(parse(old).text_config))]
    for parsed in both:
        for key in ("architectures", "dtype", "eos_token_id"):
            del parsed[key]
    assert both[0] == both[1]
    config = Gemma3Config(
        text_config=text,
        **{
            key: value
            for key, value in old.items()
            if key not in ("text_config", "torch_dtype", "transformers_version")
        },
    )
    model = Gemma3ForConditionalGeneration(config)
    folder.mkdir(exist_ok=True)
    names = {}
    for original in (True, False):
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved, save_original_format=original)
            text_of_config = (Path(saved) / "config.json").read_text()
            with safe_open(Path(saved) / "model.safetensors", "pt") as tensors:
                names[original] = sorted(tensors.keys())
    (folder / "config.json").write_text(text_of_config)
    write_json(folder / "config_v4.json", old)
    write_json(
        folder / "names.json",
        {
            # Published ones differ from what is saved today in the tower alone.
            "v4": [
                name.replace("vision_tower.", "vision_tower.vision_model.")
                for name in names[True]
            ],
            "v5": names[True],
            "v5_state_dict": names[False],
        },
    )


def without_defaults(config: Config) -> Config:
    """What a published `text_config` of Gemma 3 has: only what is not usual."""
    usual = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
        "use_cache": True,
    }
    assert all(config[key] == value for key, value in usual.items())
    elsewhere = {"architectures", "cache_implementation", "eos_token_id"}
    elsewhere |= {"torch_dtype", "transformers_version"}
    return {k: v for k, v in config.items() if k not in usual.keys() | elsewhere}


def show_teeth(name: str) -> None:
    config = FAMILIES[name]
    tokens = draw_tokens(name, 0, config)
    truth = all_logits(build(parse(config)), tokens)
    print(f"{name}:")
    for label, (change, edit) in knobs(config).items():
        model = build(parse(copy.deepcopy(config) | change))
        edit(model)
        moved = np.abs(all_logits(model, tokens) - truth).max()
        print(f"  {label:48} {moved:.1e}{'' if moved > 1e-3 else '  TOO SMALL'}")


def knobs(config: Config) -> dict[str, tuple[Config, Edit]]:
    """What may be read wrongly: a changed config, or a changed model."""

    def nothing(model: PreTrainedModel) -> None:
        pass

    changes: dict[str, Config] = {
        "theta doubled": {"rope_theta": 2 * config.get("rope_theta", 1e4)},
        "eps 1e-5": {"rms_norm_eps": 1e-5},
        "eps 1e-6": {"rms_norm_eps": 1e-6},
    }
    edits: dict[str, Edit] = {}
    if scaling := config.get("rope_scaling"):
        changes["no scaling"] = {"rope_scaling": None}
        for key, value in scaling.items():
            if key != "rope_type":
                changed = value * 2 if key != "high_freq_factor" else value + 1
                if key == "low_freq_factor":
                    changed = value * 1.5
                changes[f"{key} {value} -> {changed}"] = {
                    "rope_scaling": scaling | {key: changed}
                }
    if config.get("use_sliding_window", True) and "sliding_window" in config:
        window = config["sliding_window"]
        for other in (window - 1, window + 1, 256):
            changes[f"window {other}"] = {"sliding_window": other}
    if config.get("use_sliding_window") is False:
        changes["window in use"] = {"use_sliding_window": True}
    elif "max_window_layers" in config:
        for layers in (0, 1, 3):
            changes[f"max_window_layers {layers}"] = {"max_window_layers": layers}
    if "sliding_window_pattern" in config:
        for pattern in (2, 4, 6):
            changes[f"window pattern {pattern}"] = {"sliding_window_pattern": pattern}
    if "rope_local_base_freq" in config:
        changes["local theta doubled"] = {"rope_local_base_freq": 2e4}
        changes["local theta as global"] = {"rope_local_base_freq": 1e6}
    if config["model_type"] == "gemma2":
        kinds = ["full_attention", "sliding_attention"] * 3
        changes["local and global exchanged"] = {"layer_types": kinds[:5]}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            changes[f"no {key}"] = {key: None}
            changes[f"{key} + 0.1"] = {key: config[key] + 0.1}
    if "query_pre_attn_scalar" in config:
        changes["query scalar = head_dim"] = {"query_pre_attn_scalar": 32}
    if "tie_word_embeddings" in config:
        tied = config["tie_word_embeddings"]
        changes[f"tied {not tied}"] = {"tie_word_embeddings": not tied}
    key = "hidden_act" if config["model_type"] == "gemma" else "hidden_activation"
    if config["model_type"].startswith("gemma"):
        changes["exact gelu"] = {key: "gelu"}
        changes["silu"] = {key: "silu"}
        edits["norms without 1 +"] = subtract_one_from_norms
        edits["embeddings not scaled"] = lambda model: setattr(
            model.model.embed_tokens,
            "embed_scale",
            torch.ones_like(model.model.embed_tokens.embed_scale),
        )
    else:
        changes["gelu"] = {"hidden_act": "gelu"}
        changes["tanh gelu"] = {"hidden_act": "gelu_pytorch_tanh"}
    if config["model_type"] in ("qwen3", "gemma3_text"):
        edits["no q norm"] = lambda model: remove(model, "q_norm")
        edits["no k norm"] = lambda model: remove(model, "k_norm")
    if config["model_type"] == "qwen2":
        for part in "qkv":
            edits[f"no {part} bias"] = lambda model, part=part: [
                nn.init.zeros_(value)
                for key, value in model.named_parameters()
                if key.endswith(f"{part}_proj.bias")
            ]
    return {label: (change, nothing) for label, change in changes.items()} | {
        label: ({}, edit) for label, edit in edits.items()
    }


def remove(model: PreTrainedModel, part: str) -> None:
    for layer in model.model.layers:
        setattr(layer.self_attn, part, nn.Identity())


@torch.no_grad()
def subtract_one_from_norms(model: PreTrainedModel) -> None:
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            value -= 1


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
