"""What a checkpoint says about its model, and how to draw text from it."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotations ("rope_type": "llama3").

    Attributes:
      factor: By how much wavelengths beyond the low-frequency bound are stretched.
      low_freq_factor: `original_positions` over this is the longest unscaled-to-scaled
        wavelength bound, in positions.
      high_freq_factor: Wavelengths under `original_positions` over this stay.
      original_positions: Positions of the first training, before stretching.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture, as `config.json` and `generation_config.json` give it.

    Attributes:
      vocabulary: Number of token ids.
      width: Of the residual stream.
      layers: Number of decoder layers.
      heads: Query heads.
      kv_heads: Key/value heads; each serves `heads / kv_heads` query heads.
      head_width: Of one head; even, because rotations take pairs.
      mlp_width: Of the gated hidden layer.
      max_positions: The longest sequence, prompt and answer together, in tokens.
      norm_eps: Added to the mean square in RMS norms.
      rope_theta: Base of the rotary wavelengths.
      rope_scaling: Llama 3's stretching, or None.
      tied: Whether the head's weight is the embedding's.
      bos: Id that opens a text, or None.
      eos: Ids that end one.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_positions: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tied: bool = False
    bos: int | None = None
    eos: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "mlp_width", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ModelConfig needs 1 <= {name}, got {name}={getattr(self, name)}."
                )
        if self.kv_heads < 1 or self.heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                "ModelConfig needs heads to be a multiple of kv_heads, "
                f"got heads={self.heads}, kv_heads={self.kv_heads}."
            )
        if self.head_width < 2 or self.head_width % 2:
            raise ValueError(
                "ModelConfig needs an even head_width >= 2, "
                f"got head_width={self.head_width}."
            )

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "ModelConfig":
        """Reads the folder's `config.json` and, if there, `generation_config.json`.

        Raises:
          FileNotFoundError: There is no `config.json`.
          ValueError: The model is of a kind that is not built here; names the key.
        """
        config = _read_json(Path(path) / "config.json")
        generation_path = Path(path) / "generation_config.json"
        generation = _read_json(generation_path) if generation_path.exists() else {}
        _refuse_unknown(config)
        heads = config["num_attention_heads"]
        theta, scaling = _rope(config)
        # Some checkpoints end a chat turn with ids that only the second file has.
        eos = generation.get("eos_token_id", config.get("eos_token_id"))
        return cls(
            vocabulary=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            mlp_width=config["intermediate_size"],
            max_positions=config["max_position_embeddings"],
            norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tied=config.get("tie_word_embeddings", False),
            bos=config.get("bos_token_id"),
            eos=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        )

    def to_json(self) -> dict[str, Any]:
        """The same as a Hugging Face `config.json`, in the spelling all can read."""
        scaling = self.rope_scaling
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.mlp_width,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling
            and {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_positions,
            },
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": list(self.eos) if len(self.eos) != 1 else self.eos[0],
        }


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
    """Every weight of the model by our name; the only list of them."""
    layers, width, mlp = config.layers, config.width, config.mlp_width
    query = config.heads * config.head_width
    key = config.kv_heads * config.head_width
    own = {
        "attention_norm": ((width,), (None,), "input_layernorm"),
        "query": ((query, width), ("heads", None), "self_attn.q_proj"),
        "key": ((key, width), ("kv_heads", None), "self_attn.k_proj"),
        "value": ((key, width), ("kv_heads", None), "self_attn.v_proj"),
        "output": ((width, query), (None, "heads"), "self_attn.o_proj"),
        "mlp_norm": ((width,), (None,), "post_attention_layernorm"),
        "gate": ((mlp, width), ("mlp", None), "mlp.gate_proj"),
        "up": ((mlp, width), ("mlp", None), "mlp.up_proj"),
        "down": ((width, mlp), (None, "mlp"), "mlp.down_proj"),
    }
    table = (config.vocabulary, width), ("vocabulary", None)
    weights = {
        "embedding": Weight(*table, "model.embed_tokens.weight"),
        "final_norm": Weight((width,), (None,), "model.norm.weight"),
    }
    for name, (shape, axes, theirs) in own.items():
        weights[f"layers.{name}"] = Weight(
            (layers, *shape), (None, *axes), f"model.layers.{{layer}}.{theirs}.weight"
        )
    if not config.tied:
        weights["head"] = Weight(*table, "lm_head.weight")
    return weights


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn. The default is greedy.

    Attributes:
      max_new_tokens: The answer's bound, end token included.
      temperature: 0 takes the likeliest token; else logits are divided by it.
      top_k: Draw among this many likeliest tokens; 0 is all of them.
      top_p: Draw among the likeliest tokens that together reach this probability.
      seed: With the record's id and the step, all the randomness there is.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, bound in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 <= max_new_tokens"),
            ("temperature", self.temperature >= 0, "0 <= temperature"),
            ("top_k", self.top_k >= 0, "0 <= top_k"),
            ("top_p", 0 < self.top_p <= 1, "0 < top_p <= 1"),
            ("seed", 0 <= self.seed < 2**32, "0 <= seed < 2**32"),
        ):
            if not holds:
                value = getattr(self, name)
                raise ValueError(f"SamplingConfig needs {bound}, got {name}={value}.")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _refuse_unknown(config: dict[str, Any]) -> None:
    """Raises on whatever would silently make another model of this one."""
    for key, known, default in (
        ("model_type", "llama", None),
        ("hidden_act", "silu", "silu"),
        ("attention_bias", False, False),
        ("mlp_bias", False, False),
        ("quantization_config", None, None),
    ):
        if (value := config.get(key, default)) != known:
            raise ValueError(
                f"config.json has {key}={value!r}; only {key}={known!r} is built here."
            )


def _rope(config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and stretching; transformers 5 writes both into `rope_parameters`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"config.json has rope_type={kind!r}; "
            "only 'default' and 'llama3' are built here."
        )
    return theta, RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_positions=rope["original_max_position_embeddings"],
    )
