"""Causal attention within document slots, and of one new token on a cache.

```
R row   T token of a row   C slot of a row   S position in a slot
B slots, of all rows of one device   M new token   N query heads
K key/value heads   G query heads to a key/value head   H head width
```

All of it runs within `sharding.per_device`, on a device's own rows and heads.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Queries of one block read the keys before its end, so that half of the square is
# never computed; smaller blocks skip more but multiply smaller matrices.
_QUERY_BLOCK = 128
_MASKED = -1e30  # not -inf: a row with nothing to see must not turn into NaN


def take(x: jax.Array, index: jax.Array) -> jax.Array:
    """`x[r, index[r]]` for each row r, and zeros where the index is past the end."""
    return jax.vmap(lambda row, i: row.at[i].get(mode="fill", fill_value=0))(x, index)


def _no_gradient(x: jax.Array) -> np.ndarray:
    return np.zeros(x.shape, jax.dtypes.float0)


@jax.custom_vjp
def to_slots(
    x: Float[Array, "R T *rest"],
    slot_index: Int[Array, "R C S"],
    token_slot: Int[Array, "R T"],
) -> Float[Array, "R C S *rest"]:
    """Each document alone in its slot, zeros after it."""
    return take(x, slot_index)


@jax.custom_vjp
def to_rows(
    x: Float[Array, "R C S *rest"],
    slot_index: Int[Array, "R C S"],
    token_slot: Int[Array, "R T"],
) -> Float[Array, "R T *rest"]:
    """The inverse of `to_slots`, zeros in the row's padding."""
    num_rows, num_slots, size, *rest = x.shape
    return take(x.reshape(num_rows, num_slots * size, *rest), token_slot)


# The two are each other's transpose, so that gradients gather as well; derived
# automatically they would scatter, which is many times slower on CPU and TPU.
to_slots.defvjp(
    lambda x, slots, rows: (to_slots(x, slots, rows), (slots, rows)),
    lambda index, g: (to_rows(g, *index), *map(_no_gradient, index)),
)
to_rows.defvjp(
    lambda x, slots, rows: (to_rows(x, slots, rows), (slots, rows)),
    lambda index, g: (to_slots(g, *index), *map(_no_gradient, index)),
)


def attention(
    q: Float[Array, "B N S H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lens: Int[Array, " B"],
) -> Float[Array, "B N S H"]:
    """Causal softmax attention within each slot; kernels would take its place.

    The portable reference: one slot and key/value head after the other, so that the
    scores stay in a processor's cache, and made again for the gradient.

    Args:
      q: Queries; each run of `N / K` heads shares one key/value head.
      k: Keys.
      v: Values.
      lens: Documents' lengths. Blocks of queries past them are skipped.

    Returns:
      What each query attends to. Past `lens` it means nothing.
    """
    num_slots, num_heads, size, width = q.shape
    num_kv = k.shape[1]
    one = num_slots * num_kv
    out = jax.lax.map(
        jax.checkpoint(_attend_head_group),
        (
            q.reshape(one, num_heads // num_kv, size, width),
            k.reshape(one, size, width),
            v.reshape(one, size, width),
            jnp.repeat(lens, num_kv),
        ),
    )
    return out.reshape(q.shape)


def _attend_head_group(
    inputs: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
) -> Float[Array, "G S H"]:
    q, k, v, length = inputs
    q = q * q.shape[-1] ** -0.5

    def block(start: int, end: int, q: jax.Array, k: jax.Array, v: Any) -> jax.Array:
        causal = np.arange(start, end)[:, None] >= np.arange(end)[None, :]
        scores = jnp.einsum("gqh,sh->gqs", q, k, preferred_element_type=jnp.float32)
        scores = scores + np.where(causal, 0, _MASKED).astype(np.float32)[None]
        top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.einsum(
            "gqs,sh->gqh",
            weights.astype(v.dtype),
            v,
            preferred_element_type=jnp.float32,
        )
        return (out / total).astype(v.dtype)

    blocks = []
    for start in range(0, q.shape[1], _QUERY_BLOCK):
        end = min(start + _QUERY_BLOCK, q.shape[1])
        own = q[:, start:end], k[:end], v[:end]
        blocks.append(
            jax.lax.cond(
                start < length,
                partial(block, start, end),
                lambda q, *_: jnp.zeros_like(q),
                *own,
            )
        )
    return jnp.concatenate(blocks, axis=1)


def ragged_attention(
    q: Float[Array, "R T N H"],
    k: Float[Array, "R T K H"],
    v: Float[Array, "R T K H"],
    slot_index: Int[Array, "R C S"],
    token_slot: Int[Array, "R T"],
    lens: Int[Array, "R C"],
) -> tuple[
    Float[Array, "R T N H"], tuple[Float[Array, "R C K S H"], Float[Array, "R C K S H"]]
]:
    """Attention of packed rows: into slots, attend, and back.

    Returns:
      What each token attends to, and the slots' keys and values, which are a cache
      for decoding as they are.
    """
    index = slot_index, token_slot
    q, k, v = (jnp.swapaxes(to_slots(x, *index), 2, 3) for x in (q, k, v))
    flat_q, flat_k, flat_v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    out = attention(flat_q, flat_k, flat_v, lens.reshape(-1)).reshape(q.shape)
    return to_rows(jnp.swapaxes(out, 2, 3), *index), (k, v)


def cached_attention(
    q: Float[Array, "R C N H"],
    new: Sequence[Float[Array, "R C K H"]],
    prompt: Sequence[Float[Array, "R C K S H"]],
    suffix: Sequence[Float[Array, "R C K M H"]],
    lens: Int[Array, "R C"],
    step: Int[Array, ""],
) -> Float[Array, "R C N H"]:
    """Attention of one new token in each slot.

    The cache has two parts: the prompt's is only read, and the suffix, which is
    small, is written at the same step for all slots. So no step copies the large one.

    Args:
      q: Queries of the new token.
      new: Its key and value.
      prompt: Keys and values of the prompt, of which `lens` are there.
      suffix: Keys and values of earlier new tokens, of which `step` are there.
      lens: Tokens of each prompt.
      step: Number of tokens that came after the prompt, the same in every slot.
    """
    num_rows, num_slots, num_heads, width = q.shape
    q = q.reshape(num_rows, num_slots, new[0].shape[2], -1, width) * width**-0.5
    score = partial(jnp.einsum, preferred_element_type=jnp.float32)
    old = score("rckgh,rcksh->rckgs", q, prompt[0])
    late = score("rckgh,rckmh->rckgm", q, suffix[0])
    own = score("rckgh,rckh->rckg", q, new[0])[..., None]
    there = jnp.arange(old.shape[-1])[None, None] < lens[:, :, None]
    old = jnp.where(there[:, :, None, None], old, _MASKED)
    written = jnp.arange(late.shape[-1]) < step
    late = jnp.where(written[None, None, None, None], late, _MASKED)
    weights = jax.nn.softmax(jnp.concatenate([old, late, own], -1), -1)
    weights = weights.astype(q.dtype)
    size = old.shape[-1]
    out = (
        jnp.einsum("rckgs,rcksh->rckgh", weights[..., :size], prompt[1])
        + jnp.einsum("rckgm,rckmh->rckgh", weights[..., size:-1], suffix[1])
        + weights[..., -1:] * new[1][:, :, :, None]
    )
    return out.reshape(num_rows, num_slots, num_heads, width)
