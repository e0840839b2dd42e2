"""What decides a model's architecture, and how text is drawn from it.

`families.py` reads these records from a checkpoint's `config.json`, and writes them.
"""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Stretching of rotary wavelengths beyond the positions of the first training.

    Attributes:
      factor: By how much wavelengths are stretched; all of them if the bounds are None
        ("rope_type": "linear"), else as Llama 3 does ("llama3").
      low_freq_factor: `original_positions` over this is the wavelength, in positions,
        beyond which all are stretched by `factor`.
      high_freq_factor: Wavelengths under `original_positions` over this stay.
      original_positions: Positions of the first training, before stretching.
    """

    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_positions: int | None = None

    def __post_init__(self) -> None:
        low, high = self.low_freq_factor, self.high_freq_factor
        bounds = low, high, self.original_positions
        ordered = low is None or high is None or low < high
        if self.factor <= 0 or len({b is None for b in bounds}) > 1 or not ordered:
            raise ValueError(
                "RopeScaling needs 0 < factor, all bounds or none, and "
                f"low_freq_factor < high_freq_factor, got {self}."
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions (Su et al. 2021).

    Attributes:
      theta: Base of the wavelengths.
      scaling: How they are stretched, or None.
    """

    theta: float = 10_000.0
    scaling: RopeScaling | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture of one decoder; what the families differ in is here.

    Attributes:
      family: How `families.py` spells it in a checkpoint.
      vocabulary: Number of token ids.
      width: Of the residual stream.
      layers: Number of decoder layers.
      heads: Query heads.
      kv_heads: Key/value heads; each serves `heads / kv_heads` query heads.
      head_width: Of one head; even, because rotations take pairs.
      mlp_width: Of the gated hidden layer.
      max_positions: The longest sequence, prompt and answer together, in tokens.
      activation: Of the gate: "silu", or "gelu_tanh".
      norm_eps: Added to the mean square in RMS norms.
      norm_offset: Norms multiply by 1 + weight, in float32 (Gemma).
      sandwich_norms: Each branch's end is normed as well (Gemma 2, 3).
      qkv_bias: Queries, keys and values have biases (Qwen 2).
      qk_norm: Each head's query and key is normed (Qwen 3, Gemma 3).
      scaled_embedding: Embeddings are multiplied by the root of `width` (Gemma).
      query_scale: What dot products of queries and keys are multiplied by.
      attention_softcap: c, where scores become c tanh(score / c), or None (Gemma 2).
      logit_softcap: Likewise of the logits.
      rope: Rotations.
      local_rope: Those of windowed layers, where they are others (Gemma 3).
      window: A token of a windowed layer sees itself and `window - 1` before it.
      windowed: For each layer whether it is; () where none is.
      tied: Whether the head's weight is the embedding's.
      bos: Id that opens a text, or None.
      eos: Ids that end one.
    """

    family: str = "llama"
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_positions: int
    activation: str = "silu"
    norm_eps: float = 1e-5
    norm_offset: bool = False
    sandwich_norms: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    scaled_embedding: bool = False
    query_scale: float
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    rope: Rope = Rope()
    local_rope: Rope | None = None
    window: int | None = None
    windowed: tuple[bool, ...] = ()
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
        if self.activation not in ("silu", "gelu_tanh"):
            raise ValueError(
                "ModelConfig needs activation 'silu' or 'gelu_tanh', "
                f"got activation={self.activation!r}."
            )
        for name in ("attention_softcap", "logit_softcap", "window", "query_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"ModelConfig needs 0 < {name}, got {name}={value}.")
        if len(self.windowed) not in (0, self.layers) or (
            any(self.windowed) != (self.window is not None)
        ):
            raise ValueError(
                "ModelConfig needs windowed for each layer if there is a window, and "
                f"() if not, got layers={self.layers}, window={self.window}, "
                f"windowed={self.windowed}."
            )

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str]) -> "ModelConfig":
        """What `families.read_config` reads from a checkpoint's folder."""
        from xinst_jax.families import read_config

        return read_config(path)

    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: no embedding, no head."""
        query, key = (n * self.head_width for n in (self.heads, self.kv_heads))
        per_layer = self.width * (2 * query + 2 * key + 3 * self.mlp_width)
        return self.layers * per_layer

    def prefill_flops(self, lengths: Any) -> float:
        """Floating-point operations to read documents and predict one token of each.

        Two for each weight and token, two for each pair of query and key that causality
        (and a window) lets meet, for scores and for values, and the head once.

        Args:
          lengths: Tokens of each document.
        """
        flops = 0.0
        for length in lengths:
            pairs = length * (length + 1) / 2
            near = min(length, self.window or length)
            # The first `near` queries see all before them, the others `near` keys.
            local = near * (near + 1) / 2 + (length - near) * near
            num_local = sum(self.windowed)
            seen = num_local * local + (self.layers - num_local) * pairs
            flops += 2 * self.matmul_parameters() * length
            flops += 4 * seen * self.heads * self.head_width
            flops += 2 * self.width * self.vocabulary
        return flops


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How tokens are drawn. The default is greedy.

    Attributes:
      max_new_tokens: The answer's bound, end token included.
      temperature: 0 takes the likeliest token; else logits are divided by it.
      top_k: Draw among this many likeliest tokens; 0 is all of them.
      top_p: Draw among the likeliest tokens that together reach this probability.
      no_repeat_ngram: No run of so many tokens comes twice in prompt and answer
        together; 0 lets it.
      seed: With the record's id and the step, all the randomness there is.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, bound in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 <= max_new_tokens"),
            ("temperature", self.temperature >= 0, "0 <= temperature"),
            ("top_k", self.top_k >= 0, "0 <= top_k"),
            ("top_p", 0 < self.top_p <= 1, "0 < top_p <= 1"),
            ("no_repeat_ngram", self.no_repeat_ngram >= 0, "0 <= no_repeat_ngram"),
            ("seed", 0 <= self.seed < 2**32, "0 <= seed < 2**32"),
        ):
            if not holds:
                value = getattr(self, name)
                raise ValueError(f"SamplingConfig needs {bound}, got {name}={value}.")
