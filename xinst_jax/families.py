"""What each family of checkpoints calls things: keys of config.json, names of tensors.

Read are the spellings of transformers 4 and 5, and text models inside multimodal ones;
written is the older one, which both read.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xinst_jax.config import ModelConfig, Rope, RopeScaling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What a `model_type` stands for.

    Attributes:
      architecture: The class that transformers has for it.
      absent: What a key means that config.json leaves out.
      traits: Fields of `ModelConfig` that all of the family share.
    """

    architecture: str
    absent: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    traits: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_ABSENT = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
_GEMMA = {
    "activation": "gelu_tanh",
    "norm_offset": True,
    "scaled_embedding": True,
}
_GEMMA_ABSENT = {"tie_word_embeddings": True, "head_dim": 256}
_FAMILIES = {
    "llama": _Family(architecture="LlamaForCausalLM"),
    "mistral": _Family(
        architecture="MistralForCausalLM",
        absent={"sliding_window": 4096, "num_key_value_heads": 8},
    ),
    "qwen2": _Family(
        architecture="Qwen2ForCausalLM",
        absent={"sliding_window": 4096, "max_window_layers": 28},
        traits={"qkv_bias": True},
    ),
    "qwen3": _Family(
        architecture="Qwen3ForCausalLM",
        absent={"sliding_window": 4096, "max_window_layers": 28, "head_dim": 128},
        traits={"qk_norm": True},
    ),
    "gemma": _Family(
        architecture="GemmaForCausalLM", absent=_GEMMA_ABSENT, traits=_GEMMA
    ),
    "gemma2": _Family(
        architecture="Gemma2ForCausalLM",
        absent=_GEMMA_ABSENT
        | {
            "sliding_window": 4096,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        traits=_GEMMA | {"sandwich_norms": True},
    ),
    "gemma3_text": _Family(
        architecture="Gemma3ForCausalLM",
        # Published multimodal checkpoints leave most of these out.
        absent=_GEMMA_ABSENT
        | {
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256,
        },
        traits=_GEMMA | {"sandwich_norms": True, "qk_norm": True},
    ),
}
# Keys that would silently make another model of it, and the values that would not.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "mlp_bias": (False, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),  # 1: all of a head's coordinates turn
    "use_bidirectional_attention": (False, None),
    "attention_multiplier": (None,),
}
_ACTIVATIONS = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    # Gemma 1's first files say so and mean the other (transformers' own remark).
    "gelu": "gelu_tanh",
}


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """Reads a folder's `config.json` and, if there, `generation_config.json`.

    Raises:
      FileNotFoundError: There is no `config.json`.
      ValueError: The model is of a kind that is not built here; names the key.
    """
    outer = _read_json(Path(path) / "config.json")
    generation_path = Path(path) / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    # A multimodal checkpoint's text model; what it does not say, the whole does.
    given = outer | outer["text_config"] if "text_config" in outer else outer
    kind = given.get("model_type")
    if kind not in _FAMILIES:
        raise ValueError(
            f"config.json has model_type={kind!r}; built here are "
            f"{', '.join(_FAMILIES)}."
        )
    family = _FAMILIES[kind]
    config = _ABSENT | dict(family.absent) | given
    _refuse_unknown(kind, given)
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"):
        if config.get(key) is None:
            raise ValueError(f"config.json lacks {key}.")
    heads = config["num_attention_heads"]
    head_width = config["head_dim"] or config["hidden_size"] // heads
    window, windowed = _windows(kind, config)
    rope, local_rope = _ropes(config)
    # Some checkpoints end a chat turn with ids that only the second file has.
    eos = generation.get("eos_token_id", outer.get("eos_token_id"))
    if eos is None:
        eos = given.get("eos_token_id")
    return ModelConfig(
        family=kind,
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config["num_key_value_heads"] or heads,
        head_width=head_width,
        mlp_width=config["intermediate_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        query_scale=(config.get("query_pre_attn_scalar") or head_width) ** -0.5,
        attention_softcap=config.get("attn_logit_softcapping"),
        logit_softcap=config.get("final_logit_softcapping"),
        rope=rope,
        local_rope=local_rope,
        window=window,
        windowed=windowed,
        tied=config["tie_word_embeddings"],
        bos=config.get("bos_token_id"),
        eos=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        **family.traits,
    )


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The same as a Hugging Face `config.json`; `read_config` gives it back."""
    gemma = config.activation == "gelu_tanh"
    written: dict[str, Any] = {
        "architectures": [_FAMILIES[config.family].architecture],
        "model_type": config.family,
        "hidden_act": "gelu_pytorch_tanh" if gemma else "silu",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": _scaling_json(config.rope.scaling),
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos,
        "eos_token_id": list(config.eos) if len(config.eos) != 1 else config.eos[0],
        "sliding_window": config.window,
    }
    if gemma:
        written["hidden_activation"] = "gelu_pytorch_tanh"
    if config.family in ("gemma2", "gemma3_text"):
        written["query_pre_attn_scalar"] = config.query_scale**-2
        written["attn_logit_softcapping"] = config.attention_softcap
        written["final_logit_softcapping"] = config.logit_softcap
    if config.local_rope:
        written["rope_local_base_freq"] = config.local_rope.theta
    if config.family in ("qwen2", "qwen3"):
        written["use_sliding_window"] = config.window is not None
        written["max_window_layers"] = config.layers - sum(config.windowed)
    if config.family in ("qwen2", "qwen3", "gemma2", "gemma3_text"):
        windowed = config.windowed or (False,) * config.layers
        written["layer_types"] = [
            "sliding_attention" if local else "full_attention" for local in windowed
        ]
    return written


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """One array of the model, before it exists: how to make, split and load it.

    Attributes:
      shape: The layers of a stacked weight first, then the checkpoint's own shape
        (outputs before inputs).
      axes: A logical axis for each size, or None; `sharding.py` says what is split.
      checkpoint: Its Hugging Face name, with `{layer}` where it is stacked.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    checkpoint: str


def weights_of(config: ModelConfig) -> dict[str, Weight]:
    """Every weight of the model by our name; the only list of them.

    The axis "width" is that of the residual stream, which only training splits.
    """
    layers, width, mlp = config.layers, config.width, config.mlp_width
    query = config.heads * config.head_width
    key = config.kv_heads * config.head_width
    norm = (width,), (None,)
    own: dict[str, tuple[tuple[int, ...], tuple[str | None, ...], str]] = {
        "attention_norm": (*norm, "input_layernorm"),
        "query": ((query, width), ("heads", "width"), "self_attn.q_proj"),
        "key": ((key, width), ("kv_heads", "width"), "self_attn.k_proj"),
        "value": ((key, width), ("kv_heads", "width"), "self_attn.v_proj"),
        "output": ((width, query), ("width", "heads"), "self_attn.o_proj"),
        "mlp_norm": (*norm, "post_attention_layernorm"),
        "gate": ((mlp, width), ("mlp", "width"), "mlp.gate_proj"),
        "up": ((mlp, width), ("mlp", "width"), "mlp.up_proj"),
        "down": ((width, mlp), ("width", "mlp"), "mlp.down_proj"),
    }
    if config.sandwich_norms:
        own["attention_end_norm"] = (*norm, "post_attention_layernorm")
        own["mlp_norm"] = (*norm, "pre_feedforward_layernorm")
        own["mlp_end_norm"] = (*norm, "post_feedforward_layernorm")
    if config.qk_norm:
        head = (config.head_width,), (None,)
        own["query_norm"] = (*head, "self_attn.q_norm")
        own["key_norm"] = (*head, "self_attn.k_norm")
    table = (config.vocabulary, width), ("vocabulary", "width")
    weights = {
        "embedding": Weight(*table, "model.embed_tokens.weight"),
        "final_norm": Weight(*norm, "model.norm.weight"),
    }
    for name, (shape, axes, theirs) in own.items():
        weights[f"layers.{name}"] = Weight(
            (layers, *shape), (None, *axes), f"model.layers.{{layer}}.{theirs}.weight"
        )
    if config.qkv_bias:
        for name in ("query", "key", "value"):
            shape, axes, theirs = own[name]
            weights[f"layers.{name}_bias"] = Weight(
                (layers, shape[0]),
                (None, axes[0]),
                f"model.layers.{{layer}}.{theirs}.bias",
            )
    if not config.tied:
        weights["head"] = Weight(*table, "lm_head.weight")
    return weights


def canonical_name(name: str) -> str | None:
    """The name that a text model's tensor has in a checkpoint of its own.

    Multimodal checkpoints put the text model under `language_model.` (transformers 4)
    or `model.language_model.` (5) and have towers besides.

    Returns:
      The name, or None for tensors of other towers, and for rotary frequencies, which
      old checkpoints hold though they follow from the config.
    """
    for prefix, instead in (
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        ("model.language_model.", "model."),
    ):
        if name.startswith(prefix):
            name = instead + name.removeprefix(prefix)
    towers = ("vision_tower.", "multi_modal_projector.")
    if name.removeprefix("model.").startswith(towers):
        return None
    return None if name.endswith("rotary_emb.inv_freq") else name


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _refuse_unknown(kind: str, given: Mapping[str, Any]) -> None:
    """Raises on whatever would silently make another model of this one."""
    for key, values in _HARMLESS.items():
        if given.get(key) not in values:
            raise ValueError(
                f"config.json has {key}={given[key]!r}; only {key}={values[0]!r} is "
                "built here."
            )
    # Qwen 2 has its biases without saying so; the key then means another thing.
    if given.get("attention_bias") not in (False, None):
        raise ValueError(
            f"config.json has attention_bias={given['attention_bias']!r}; biases are "
            "built here for qwen2 alone."
        )
    wanted = _FAMILIES[kind].traits.get("activation", "silu")
    for key in ("hidden_act", "hidden_activation"):
        name = given.get(key)
        exact = name == "gelu" and kind != "gemma"
        if name is not None and (exact or _ACTIVATIONS.get(name) != wanted):
            raise ValueError(
                f"config.json has {key}={name!r}; {kind} is built here with {wanted}."
            )


def _windows(
    kind: str, config: Mapping[str, Any]
) -> tuple[int | None, tuple[bool, ...]]:
    """The window, and which layers have it."""
    layers, window = config["num_hidden_layers"], config["sliding_window"]
    # Qwen's is inert unless it is asked for.
    inert = kind in ("qwen2", "qwen3") and not config.get("use_sliding_window")
    if window is None or inert or kind in ("llama", "gemma"):
        return None, ()
    if types := config.get("layer_types"):
        if unknown := set(types) - {"sliding_attention", "full_attention"}:
            raise ValueError(f"config.json has layer_types of {sorted(unknown)}.")
        windowed = tuple(each == "sliding_attention" for each in types)
    elif kind in ("qwen2", "qwen3"):
        windowed = tuple(i >= config["max_window_layers"] for i in range(layers))
    elif pattern := config.get("sliding_window_pattern"):
        windowed = tuple((i + 1) % pattern != 0 for i in range(layers))
    else:
        windowed = (True,) * layers
    return (window, windowed) if any(windowed) else (None, ())


def _ropes(config: Mapping[str, Any]) -> tuple[Rope, Rope | None]:
    """Rotations of all layers, and those of windowed ones where they have their own."""
    given = config.get("rope_parameters")
    if given and "full_attention" in given:
        whole, local = given["full_attention"], given.get("sliding_attention")
        return _rope(whole, config), _rope(local, config) if local else None
    whole = given or config.get("rope_scaling") or {}
    base = config.get("rope_local_base_freq")
    return _rope(whole, config), None if base is None else Rope(theta=float(base))


def _rope(given: Mapping[str, Any], config: Mapping[str, Any]) -> Rope:
    theta = float(given.get("rope_theta", config["rope_theta"]))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, scaling=RopeScaling(factor=given["factor"]))
    if kind != "llama3":
        raise ValueError(
            f"config.json has rope_type={kind!r}; "
            "only 'default', 'linear' and 'llama3' are built here."
        )
    return Rope(
        theta=theta,
        scaling=RopeScaling(
            factor=given["factor"],
            low_freq_factor=given["low_freq_factor"],
            high_freq_factor=given["high_freq_factor"],
            original_positions=given["original_max_position_embeddings"],
        ),
    )


def _scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.original_positions is None:
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }
