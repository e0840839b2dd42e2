"""Causal attention within document slots, and of one new token on a cache.

```
R row   T token of a row   C slot of a row   S position in a slot
B slots, of all rows of one device   M new token   N query heads
K key/value heads   G query heads to a key/value head   H head width
```

All of it runs within `sharding.per_device`, on a device's own rows and heads.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from xinst_jax.config import ModelConfig

# Queries of one block read the keys before its end, so that half of the square is
# never computed; smaller blocks skip more but multiply smaller matrices.
_QUERY_BLOCK = 128
# Sums over a document's keys are taken block by block; sizes of slots divide by it.
SLOT_BLOCK = 128
_MASKED = -1e30  # not -inf: a row with nothing to see must not turn into NaN


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What attention is besides queries, keys and values.

    Attributes:
      scale: Scores are multiplied by it.
      softcap: c, where scores become c tanh(score / c), or None.
      window: A token of a windowed layer sees itself and `window - 1` before it.
      kernel: "reference", or what `choose_kernel` finds faster.
    """

    scale: float
    softcap: float | None
    window: int | None
    kernel: str


def choose_kernel(platform: str, config: ModelConfig, dtype: str) -> str:
    """The fastest kernel there is for a platform and a model: a name for `How`."""
    if platform in ("cpu", "tpu"):
        return {"cpu": "reference", "tpu": "splash"}[platform]
    width = config.head_width
    fits = dtype == "bfloat16" and width % 8 == 0 and width <= 256
    return "cudnn" if fits and config.attention_softcap is None else "blockwise"


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
    windowed: bool | jax.Array,
    how: How,
) -> Float[Array, "B N S H"]:
    """Causal softmax attention within each slot, by the kernel that `how` names.

    Args:
      q: Queries; each run of `N / K` heads shares one key/value head.
      k: Keys.
      v: Values.
      lens: Documents' lengths, at least 1.
      windowed: Whether this layer's tokens see a window only.
      how: Scale, soft-cap, window and kernel.

    Returns:
      What each query attends to. Past `lens` it means nothing.
    """
    kernel = _reference
    if how.kernel != "reference":
        from xinst_jax import kernels  # of accelerators, which CPU has no use for

        kernel = getattr(kernels, how.kernel)
    attend = partial(kernel, scale=how.scale, softcap=how.softcap, window=None)
    if how.window is None or how.window >= q.shape[2] or windowed is False:
        return attend(q, k, v, lens)
    near = partial(attend, window=how.window)
    if windowed is True:
        return near(q, k, v, lens)
    return jax.lax.cond(windowed, near, attend, q, k, v, lens)


def _reference(
    q: Float[Array, "B N S H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lens: Int[Array, " B"],
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Float[Array, "B N S H"]:
    """One slot and key/value head after the other, made again for the gradient.

    So the scores stay in a processor's cache; and blocks of queries past a document's
    end are skipped, so that the size of its slot does not change it in the last bit.
    """
    num_slots, num_heads, size, width = q.shape
    num_kv = k.shape[1]
    one = num_slots * num_kv
    attend = partial(_attend_head_group, scale=scale, softcap=softcap, window=window)
    out = jax.lax.map(
        jax.checkpoint(attend),
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
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Float[Array, "G S H"]:
    q, k, v, length = inputs

    def attend(start: int, end: int, q: jax.Array, k: jax.Array, v: Any) -> jax.Array:
        return attend_block(
            q[None], k[None], v[None], start, end, scale, softcap, window
        )[0]

    blocks = []
    for first, start, end in query_blocks(q.shape[1], _QUERY_BLOCK, window):
        own = q[:, start:end], k[first:end], v[first:end]
        blocks.append(
            jax.lax.cond(
                start < length,
                partial(attend, start, end),
                lambda q, *_: jnp.zeros_like(q),
                *own,
            )
        )
    return jnp.concatenate(blocks, axis=1)


def query_blocks(
    size: int, block: int, window: int | None
) -> list[tuple[int, int, int]]:
    """For each block of queries its start and end, and the first key that it sees."""
    return [
        (max(0, start - window + 1) if window else 0, start, min(start + block, size))
        for start in range(0, size, block)
    ]


def attend_block(
    q: Float[Array, "B G Q H"],
    k: Float[Array, "B keys H"],
    v: Float[Array, "B keys H"],
    start: int,
    end: int,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Float[Array, "B G Q H"]:
    """Queries from `start` to `end` on the keys that end where they do."""
    query = np.arange(start, end)[:, None]
    key = np.arange(end - k.shape[1], end)[None, :]
    seen = query >= key
    if window is not None:
        seen &= query - key < window
    mask = np.where(seen, 0, _MASKED).astype(np.float32)
    scores = jnp.einsum(
        "bgqh,bsh->bgqs", q * scale, k, preferred_element_type=jnp.float32
    )
    scores = _capped(scores, softcap) + mask[None, None]
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bgqs,bsh->bgqh",
        weights.astype(v.dtype),
        v,
        preferred_element_type=jnp.float32,
    )
    return (out / total).astype(v.dtype)


def _capped(scores: jax.Array, softcap: float | None) -> jax.Array:
    """Scores as c tanh(score / c), within (-c, c) (Gemma 2)."""
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def ragged_attention(
    q: Float[Array, "R T N H"],
    k: Float[Array, "R T K H"],
    v: Float[Array, "R T K H"],
    slot_index: Int[Array, "R C S"],
    token_slot: Int[Array, "R T"],
    lens: Int[Array, "R C"],
    windowed: bool | jax.Array,
    how: How,
) -> tuple[
    Float[Array, "R T N H"], tuple[Float[Array, "R C K H S"], Float[Array, "R C K S H"]]
]:
    """Attention of packed rows: into slots, attend, and back.

    Returns:
      What each token attends to, and the slots' keys and values, which are a cache
      for decoding as they are: keys with their positions last, because a product of
      many small matrices that contracts the last axis of both is slow on CPU.
    """
    index = slot_index, token_slot
    q, k, v = (jnp.swapaxes(to_slots(x, *index), 2, 3) for x in (q, k, v))
    flat_q, flat_k, flat_v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    out = attention(flat_q, flat_k, flat_v, lens.reshape(-1), windowed, how)
    kept = jnp.swapaxes(k, 3, 4), v
    return to_rows(jnp.swapaxes(out.reshape(q.shape), 2, 3), *index), kept


def cached_attention(
    q: Float[Array, "R C N H"],
    new: tuple[Float[Array, "R C K H"], Float[Array, "R C K H"]],
    prompt: tuple[Float[Array, "R C K H S"], Float[Array, "R C K blocks block H"]],
    suffix: tuple[Float[Array, "R C K H M"], Float[Array, "R C K M H"]],
    lens: Int[Array, "R C"],
    step: Int[Array, ""],
    windowed: bool | jax.Array,
    how: How,
) -> Float[Array, "R C N H"]:
    """Attention of one new token in each slot.

    The cache has two parts: the prompt's is only read, and the suffix, which is
    small, is written at the same step for all slots. So no step copies the large one.

    Sums over the prompt go block by block, so that a larger slot, which only adds
    zeros, does not change them in the last bit.

    Args:
      q: Queries of the new token.
      new: Its key and value.
      prompt: Keys and values of the prompt, of which `lens` are there; values in
        blocks of `SLOT_BLOCK`.
      suffix: Keys and values of earlier new tokens, of which `step` are there.
      lens: Tokens of each prompt.
      step: Number of tokens that came after the prompt, the same in every slot.
      windowed: Whether this layer's tokens see a window only.
      how: Scale, soft-cap and window.
    """
    num_rows, num_slots, num_heads, width = q.shape
    num_kv, size = prompt[0].shape[2], prompt[0].shape[4]
    q = q.reshape(num_rows, num_slots, num_kv, -1, width) * how.scale
    score = partial(jnp.einsum, preferred_element_type=jnp.float32)
    old = score("rckgh,rckhs->rckgs", q, prompt[0])
    late = score("rckgh,rckhm->rckgm", q, suffix[0])
    own = score("rckgh,rckh->rckg", q, new[0])[..., None]
    old, late, own = (_capped(x, how.softcap) for x in (old, late, own))
    # How far back each key is; 0 is the new token itself.
    back_old = (lens + step)[:, :, None] - np.arange(size)[None, None]
    back_late = step - np.arange(late.shape[-1])
    seen_old = back_old > step
    seen_late = back_late > 0
    if how.window is not None and windowed is not False:
        seen_old &= (back_old < how.window) | jnp.logical_not(windowed)
        seen_late &= (back_late < how.window) | jnp.logical_not(windowed)
    old = jnp.where(seen_old[:, :, None, None], old, _MASKED)
    late = jnp.where(seen_late[None, None, None, None], late, _MASKED)
    top = jnp.maximum(jnp.maximum(old.max(-1), late.max(-1)), own[..., 0])[..., None]
    old, late, own = (jnp.exp(x - top) for x in (old, late, own))
    total = late.sum(-1, keepdims=True) + own
    out = score("rckgm,rckmh->rckgh", late.astype(q.dtype), suffix[1])
    out += own * new[1][:, :, :, None]
    blocked = size // SLOT_BLOCK, SLOT_BLOCK
    weights = jnp.swapaxes(old.reshape(*old.shape[:4], *blocked), 3, 4)
    totals = weights.sum(-1, keepdims=True)
    parts = score("rckbgs,rckbsh->rckbgh", weights.astype(q.dtype), prompt[1])
    for block in range(blocked[0]):
        total += totals[:, :, :, block]
        out += parts[:, :, :, block]
    return (out / total).astype(q.dtype).reshape(num_rows, num_slots, num_heads, width)
