"""The decoder, and every forward pass that is made of it.

```
R row   T token of a row   C document slot of a row   S position in a slot
L layer   D model width   F MLP width   V vocabulary
N query heads   K key/value heads   H head width
```

Weights are stacked over layers, [L, outputs, inputs], and scanned: the program does
not grow with the depth. A row's padding has zero vectors at attention's exits and is
never read by a document.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from xinst_jax.attention import (
    SLOT_BLOCK,
    How,
    ragged_attention,
    take,
    to_slots,
)
from xinst_jax.config import ModelConfig, Rope
from xinst_jax.families import weights_of
from xinst_jax.lora import Adapter
from xinst_jax.packing import Rows
from xinst_jax.quantize import Quantized, quantized_project
from xinst_jax.sharding import gathered, kv_copies, per_device, spec

# Of a layer: the same for all of them, or another in each, within the scan.
Windowed = bool | jax.Array
Attend = Callable[
    [jax.Array, jax.Array, jax.Array, Any, Windowed], tuple[jax.Array, Any]
]
Rotation = tuple[Float[Array, "R T half"], Float[Array, "R T half"]]

_HEADS = spec("row", None, "heads", None)
_WHOLE = spec("row", None, None)


class Layers(nnx.Module):
    """All layers' weights, [L, ...]; within the scan one layer's.

    Their names are those of `weights_of`. A matrix may be `Quantized`, and may have an
    `Adapter` beside it, called `query_adapter` and so on.
    """

    def __init__(self, weights: Mapping[str, Any], config: ModelConfig) -> None:
        self.config = config
        for name in weights_of(config):
            if name.startswith("layers."):
                setattr(self, name.removeprefix("layers."), _param(weights[name]))

    def __call__(
        self,
        x: Float[Array, "R T D"],
        rotation: Rotation,
        attend: Attend,
        memory: Any,
        windowed: Windowed,
    ) -> tuple[Float[Array, "R T D"], Any]:
        """One layer; `memory` is its part of what `attend` reads."""
        h = self._norm(x, "attention_norm")
        q = rotate(self._normed(self._heads(h, "query"), "query_norm"), *rotation)
        k = rotate(self._normed(self._kv_heads(h, "key"), "key_norm"), *rotation)
        v = self._kv_heads(h, "value")
        attended, kept = attend(q, k, v, memory, windowed)
        attended = attended.reshape(*x.shape[:2], -1)
        branch = self._project(attended, "output", _WHOLE)
        x = x + self._normed(branch, "attention_end_norm")
        h = self._norm(x, "mlp_norm")
        gated = _ACTIVATIONS[self.config.activation](self._project(h, "gate"))
        branch = self._project(gated * self._project(h, "up"), "down", _WHOLE)
        return x + self._normed(branch, "mlp_end_norm"), kept

    def _project(
        self, x: jax.Array, name: str, out_sharding: PartitionSpec | None = None
    ) -> Float[Array, "R T outputs"]:
        weight = getattr(self, name)
        if isinstance(weight, Quantized):
            out = quantized_project(x, weight, out_sharding)
        else:
            out = project(x, gathered(weight[...]), out_sharding)
        adapter: Adapter | None = getattr(self, f"{name}_adapter", None)
        if adapter is not None:
            # Trained in float32, multiplied in the model's own type.
            down, up = (m[...].astype(x.dtype) for m in (adapter.down, adapter.up))
            inner = project(x, down, _WHOLE)
            out = out + adapter.scale * project(inner, up, out_sharding)
        bias = getattr(self, f"{name}_bias", None)
        return out if bias is None else out + bias[...][None, None]

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        config = self.config
        scale = getattr(self, name)[...]
        return rms_norm(x, scale, config.norm_eps, offset=config.norm_offset)

    def _normed(self, x: jax.Array, name: str) -> jax.Array:
        """Normed in families that have this norm."""
        return self._norm(x, name) if hasattr(self, name) else x

    def _heads(self, x: jax.Array, name: str) -> Float[Array, "R T heads H"]:
        flat = self._project(x, name)
        width = self.config.head_width
        # Stated, because a split of size 1 would else move on to the heads' width.
        split = PartitionSpec(*jax.typeof(flat).sharding.spec, None)
        shape = *flat.shape[:2], flat.shape[2] // width, width
        return jnp.reshape(flat, shape, out_sharding=split)

    def _kv_heads(self, x: jax.Array, name: str) -> Float[Array, "R T heads H"]:
        heads = self._heads(x, name)
        copies = kv_copies(self.config, jax.sharding.get_abstract_mesh())
        if copies > 1:
            heads = jnp.repeat(heads, copies, axis=2)
            heads = jax.sharding.reshard(heads, _HEADS)
        return heads


class Decoder(nnx.Module):
    """A decoder over the arrays that `weights_of(config)` describes.

    Args:
      config: The architecture.
      weights: Arrays, or matrices of `quantize.quantized`, by those names.
      kernel: Of attention, as `attention.choose_kernel` says.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Any], kernel: str = "reference"
    ) -> None:
        self.config = config
        self.kernel = kernel
        self.embedding = nnx.Param(weights["embedding"])
        self.layers = Layers(weights, config)
        self.final_norm = nnx.Param(weights["final_norm"])
        if not config.tied:
            self.head = nnx.Param(weights["head"])

    @property
    def head_weight(self) -> Float[Array, "V D"]:
        return gathered((self.embedding if self.config.tied else self.head)[...])

    @property
    def how(self) -> How:
        """What attention needs to know."""
        config = self.config
        return How(
            scale=config.query_scale,
            softcap=config.attention_softcap,
            window=config.window,
            kernel=self.kernel,
        )

    def weights(self) -> dict[str, jax.Array]:
        """Its arrays by the names of `weights_of`."""
        return {
            name: (
                getattr(self.layers, name.removeprefix("layers."))
                if name.startswith("layers.")
                else getattr(self, name)
            )[...]
            for name in weights_of(self.config)
        }

    def hidden(
        self,
        tokens: Int[Array, "R T"],
        positions: Int[Array, "R T"],
        attend: Attend,
        memory: Sequence[Any] = (None,),
    ) -> tuple[Float[Array, "R T D"], tuple[Any, ...]]:
        """Runs all layers; prefill, decoding, scoring, embedding, training share it.

        Args:
          tokens: Ids.
          positions: Of each token in its own text.
          attend: From (q, k, v, the layer's memory, whether it is windowed) to what is
            attended to and what to keep of the layer.
          memory: What attention reads besides, for groups of equally many layers, each
            stacked; one scan runs over the layers of a group.

        Returns:
          The final normed states, and what `attend` kept, in the same groups.
        """
        config = self.config
        x = gathered(self.embedding[...]).at[tokens].get(out_sharding=_WHOLE)
        if config.scaled_embedding:
            # Rounded to the compute type first, as Gemma was trained.
            x = x * jnp.asarray(config.width**0.5, x.dtype)
        whole = rope_rotation(positions, config.rope, config.head_width)
        local = whole
        if config.local_rope:
            local = rope_rotation(positions, config.local_rope, config.head_width)
        # One flag for all layers is no input of the scan: nothing is then chosen in it.
        same: bool | None = any(config.windowed)
        if same and not all(config.windowed):
            same = None
        flags = jnp.asarray(config.windowed) if same is None else None

        # For gradients a layer is run again: keeping what is inside it would take
        # gigabytes in a large model, and on CPU writing it takes longer than that.
        @jax.checkpoint
        def layer(x: jax.Array, own: tuple[Layers, Any, Any]) -> tuple[jax.Array, Any]:
            layers, memory, flag = own
            if same is None:
                rotation = jax.tree.map(partial(jnp.where, flag), local, whole)
                return layers(x, rotation, attend, memory, flag)
            return layers(x, local if same else whole, attend, memory, same)

        size, kept = config.layers // len(memory), []
        for start, own in zip(range(0, config.layers, size), memory, strict=True):
            layers = self.layers, flags
            if len(memory) > 1:
                layers = jax.tree.map(lambda w, at=start: w[at : at + size], layers)
            x, group = jax.lax.scan(layer, x, (layers[0], own, layers[1]))
            kept.append(group)
        norm = self.final_norm[...]
        x = rms_norm(x, norm, config.norm_eps, offset=config.norm_offset)
        return x, tuple(kept)

    def logits(self, x: Float[Array, "R T D"]) -> Float[Array, "R T V"]:
        """In float32 whatever the weights are."""
        return head_logits(x, self.head_weight, self.config.logit_softcap)


def head_logits(
    x: Float[Array, "R T D"], head: Float[Array, "V D"], softcap: float | None
) -> Float[Array, "R T V"]:
    """Logits of final states, in float32."""
    logits = project(x, head, None, "float32")
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _param(weight: Any) -> Any:
    return weight if isinstance(weight, Quantized) else nnx.Param(weight)


_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def project(
    x: Float[Array, "R T inputs"],
    weight: Float[Array, "outputs inputs"],
    out_sharding: PartitionSpec | None = None,
    dtype: str | None = None,
) -> Float[Array, "R T outputs"]:
    """`x` times the weight as checkpoints hold it, outputs first.

    Args:
      x: What is projected.
      weight: Its matrix.
      out_sharding: Needed where the inputs' axis is split: this asks for the sum.
      dtype: Of the result, if not that of `x`.
    """
    return jnp.einsum(
        "rti,oi->rto",
        x,
        weight,
        out_sharding=out_sharding,
        preferred_element_type=dtype,
    )


def _project_back(
    out_sharding: PartitionSpec | None,
    dtype: str | None,
    kept: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The gradient. Written out to multiply the weight's as inputs by outputs.

    Derived, it would transpose `g` and not `x`, and XLA on CPU then computes the
    layer's nonlinearities column by column: a step took 1.25 times as long.
    """
    x, weight = kept
    g = g.astype(x.dtype)
    split = jax.typeof(weight).sharding.spec
    outputs, inputs = split.partitions
    x_back = jnp.einsum("rto,oi->rti", g, weight, out_sharding=jax.typeof(x).sharding)
    weight_back = jnp.einsum(
        "rti,rto->io",
        x,
        g,
        out_sharding=PartitionSpec(inputs, outputs, unreduced=split.reduced),
    )
    return x_back, weight_back.T


project.defvjp(
    lambda x, weight, *how: (project(x, weight, *how), (x, weight)), _project_back
)


def rms_norm(
    x: Float[Array, "R T *heads D"],
    scale: Float[Array, " D"],
    eps: float,
    *,
    offset: bool = False,
) -> Float[Array, "R T *heads D"]:
    """`x` over its root mean square (Zhang, Sennrich 2019), times `scale`.

    Args:
      x: Normed over its last axis, in float32.
      scale: One factor a coordinate.
      eps: Added to the mean square.
      offset: Multiply by `1 + scale`, before the result is rounded (Gemma).
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    if offset:
        return _times(wide, 1 + scale.astype(jnp.float32)).astype(x.dtype)
    return _times(wide.astype(x.dtype), scale)


@jax.custom_vjp
def _times(
    x: Float[Array, "R T *heads D"], scale: Float[Array, " D"]
) -> Float[Array, "R T *heads D"]:
    return x * jnp.expand_dims(scale, range(x.ndim - 1))


def _times_back(
    kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The scale's gradient as a matrix product: XLA's sum of columns is slow on CPU."""
    x, scale = kept
    ones = jnp.ones_like(x[..., 0])
    scale_back = jnp.einsum("...,...d->d", ones, g * x, out_sharding=spec(None))
    return g * jnp.expand_dims(scale, range(x.ndim - 1)), scale_back


_times.defvjp(lambda x, scale: (_times(x, scale), (x, scale)), _times_back)


def rope_frequencies(rope: Rope, head_width: int) -> np.ndarray:
    """Radians a position for each pair of a head's coordinates, [H/2].

    Su et al. 2021; the stretching by wavelength is Llama 3.1's, as transformers has it.
    """
    exponents = np.arange(0, head_width, 2) / head_width
    frequencies = rope.theta**-exponents
    if (scaling := rope.scaling) is None:
        return frequencies.astype(np.float32)
    stretched = frequencies / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if low is None or high is None or scaling.original_positions is None:
        return stretched.astype(np.float32)
    # How often a wave turns in the original context decides: fast waves stay, slow
    # ones are stretched by `factor`, and between the bounds it is interpolated.
    turns = scaling.original_positions * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (kept * frequencies + (1 - kept) * stretched).astype(np.float32)


def rope_rotation(
    positions: Int[Array, "R T"], rope: Rope, head_width: int
) -> Rotation:
    """Cosine and sine of every token's rotation, in float32."""
    angles = positions[..., None] * rope_frequencies(rope, head_width)[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "R T heads H"],
    cos: Float[Array, "R T half"],
    sin: Float[Array, "R T half"],
) -> Float[Array, "R T heads H"]:
    """Turns the pairs (x[i], x[i + H/2]), the half-split layout of checkpoints."""
    # In its own type first: else XLA writes the product before it in float32; and on
    # TPU half a head would fill half a register.
    x = jax.lax.optimization_barrier(x)
    half = x.shape[-1] // 2
    swapped = jnp.concatenate([x[..., half:], x[..., :half]], axis=-1)
    cos = jnp.concatenate([cos, cos], axis=-1)[:, :, None]
    sin = jnp.concatenate([-sin, sin], axis=-1)[:, :, None]
    turned = x.astype(jnp.float32) * cos + swapped.astype(jnp.float32) * sin
    return turned.astype(x.dtype)


def hidden_of_rows(
    model: Decoder, rows: Rows, *, keep_cache: bool = False
) -> tuple[Float[Array, "R T D"], Any]:
    """Final states of packed documents.

    Returns:
      The states, and with `keep_cache` the keys and values [L, R, C, K, S, H].
    """
    by_row, by_slot = spec("row", None), spec("row", None, None)
    cache = spec("row", None, "heads", None, None)
    index = rows.slot_index, rows.token_slot, rows.lens

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, memory: None, windowed: Windowed
    ) -> tuple[jax.Array, Any]:
        attend_here = per_device(
            partial(ragged_attention, windowed=windowed, how=model.how),
            in_specs=(_HEADS, _HEADS, _HEADS, by_slot, by_row, by_row),
            out_specs=(_HEADS, (cache, cache)),
        )
        out, kept = attend_here(q, k, v, *index)
        return out, kept if keep_cache else None

    x, (kept,) = model.hidden(rows.tokens, rows.positions, attend)
    return x, kept


def take_states(
    x: Float[Array, "R T D"], index: Int[Array, "R Q"]
) -> Float[Array, "R Q D"]:
    """The states at a row's tokens `index`; zeros where it is T or more."""
    states = spec("row", None, None)
    return per_device(take, (states, spec("row", None)), states)(x, index)


def last_states(x: Float[Array, "R T D"], rows: Rows) -> Float[Array, "R C D"]:
    """The state at each document's last token; of an empty slot, zeros."""
    slots = jnp.arange(rows.slot_index.shape[2])[None, None]
    is_last = slots == rows.lens[:, :, None] - 1
    return take_states(x, jnp.where(is_last, rows.slot_index, 0).sum(2))


def mean_states(x: Float[Array, "R T D"], rows: Rows) -> Float[Array, "R C D"]:
    """The mean over each document's tokens, in float32; of an empty slot, zeros."""
    rows_of, by_row = spec("row", None, None), spec("row", None)

    def mean(x: jax.Array, slots: jax.Array, at: jax.Array, lens: Any) -> jax.Array:
        # Through slots: summed at a row's offsets, the last bit would depend on them;
        # and block by block, for else it would depend on the slot's size.
        alone = to_slots(x, slots, at)
        blocks = alone.reshape(*alone.shape[:2], -1, SLOT_BLOCK, alone.shape[3])
        sums = blocks.sum(3)
        return sum(sums[:, :, i] for i in range(sums.shape[2])) / lens[:, :, None]

    split = per_device(mean, (rows_of, rows_of, by_row, by_row), rows_of)
    return split(x.astype(jnp.float32), rows.slot_index, rows.token_slot, rows.lens)


def chosen_logprobs(
    logits: Float[Array, "R Q V"], ids: Int[Array, "R Q"]
) -> Float[Array, "R Q"]:
    """Natural log-probability of one token id in each place."""
    # A comparison, not an index: the vocabulary may be split over devices.
    chosen = jnp.arange(logits.shape[-1])[None, None] == ids[:, :, None]
    logit = jnp.where(chosen, logits, 0).sum(axis=-1)
    return logit - jax.nn.logsumexp(logits, axis=-1)


def target_logprobs(
    model: Decoder,
    x: Float[Array, "R T D"],
    index: Int[Array, "R Q"],
    targets: Int[Array, "R Q"],
    *,
    chunk: int = 256,
) -> Float[Array, "R Q"]:
    """Natural log-probability of chosen tokens, for scoring and for the loss.

    Logits are made for `chunk` positions at a time, and only where one is asked for:
    those of a whole row would take gigabytes with a large vocabulary.

    Args:
      model: Gives the head.
      x: Final states.
      index: Which token's state predicts the target; T is padding.
      targets: Ids.
      chunk: Divides Q.

    Returns:
      Log-probabilities, 0 in padding.
    """
    states = take_states(x, index)
    head = model.head_weight

    # Made again for the gradient: what is kept of a chunk is then its states alone.
    @jax.checkpoint
    def logprobs(states: jax.Array, asked: jax.Array, ids: jax.Array) -> jax.Array:
        def compute() -> jax.Array:
            logits = head_logits(states, head, model.config.logit_softcap)
            return jnp.where(asked, chosen_logprobs(logits, ids), 0.0)

        return jax.lax.cond(
            asked.any(), compute, lambda: jnp.zeros_like(ids, jnp.float32)
        )

    def chunked(a: jax.Array) -> jax.Array:
        shape = a.shape[0], a.shape[1] // chunk, chunk, *a.shape[2:]
        # Stated, because the rows' split, of size 1, would else move to one chunk.
        split = spec("row", *[None] * a.ndim)
        return jnp.swapaxes(jnp.reshape(a, shape, out_sharding=split), 0, 1)

    chunks = tuple(map(chunked, (states, index < x.shape[1], targets)))
    out = jax.lax.map(lambda own: logprobs(*own), chunks)
    return jnp.swapaxes(out, 0, 1).reshape(index.shape)
