"""Kernels of `attention.attention` for accelerators: TPU, NVIDIA, and any other.

```
B slots, of all rows of one device   S position in a slot
N query heads   K key/value heads   H head width
```

All take `lens`, the documents' lengths, at least 1. Within a slot a query sees keys up
to its own, so past `lens` any finite numbers may stand; what comes out there means
nothing.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jaxtyping import Array, Float, Int

from xinst_jax.attention import attend_block, query_blocks

_LANES = 128  # of a TPU register: sizes and starts of blocks are multiples of it
_SPLASH_BLOCKS = 512, 384, 256, 128  # the largest that divides a slot is taken
_QUERY_BLOCK = 256


def splash(
    q: Float[Array, "B N S H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lens: Int[Array, " B"],
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    interpret: bool = False,
) -> Float[Array, "B N S H"]:
    """JAX's splash attention, for TPU; scores never leave the chip.

    All slots are one long sequence to the kernel, whose tables say which blocks of it
    to visit. Batched over slots instead, the lengths would make it a loop of copies.

    Args:
      q: Queries; each run of `N / K` heads shares one key/value head.
      k: Keys.
      v: Values.
      lens: Documents' lengths. Blocks of queries past them are skipped.
      scale: Of the scores, before the cap.
      softcap: Scores s become `softcap * tanh(s / softcap)`.
      window: How many keys a query sees, itself included; None is all before it.
      interpret: Runs the kernel's steps in JAX, on any platform: for tests.

    Returns:
      What each query attends to. Past `lens` it means nothing: of a block that was
      skipped the kernel makes 0 / 0.
    """
    num_slots, _, size, width = q.shape
    # Whole blocks: what is added lies after every query that means something.
    whole = -(-size // _LANES) * _LANES
    padding = (0, 0), (0, 0), (0, whole - size), (0, 0)

    def as_one(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(jnp.pad(x, padding), 0, 1).reshape(x.shape[1], -1, width)

    kernel = _splash_kernel(whole, lens, softcap, window, interpret)
    # By default products of float32 would be rounded to bfloat16.
    precise = q.dtype == jnp.float32
    with jax.default_matmul_precision("highest" if precise else None):
        out: Any = kernel(as_one(q * jnp.asarray(scale, q.dtype)), as_one(k), as_one(v))
    return jnp.swapaxes(out.reshape(-1, num_slots, whole, width)[:, :, :size], 0, 1)


def _splash_kernel(
    size: int,
    lens: Int[Array, " B"],
    softcap: float | None,
    window: int | None,
    interpret: bool,
) -> kernels.SplashAttentionKernel:
    """The kernel for slots of `size` one after the other, each up to its length."""
    block = next(b for b in _SPLASH_BLOCKS if size % b == 0)
    if window is None:
        mask: masks.Mask = masks.CausalMask((size, size))
    else:
        mask = masks.LocalMask((size, size), (window - 1, 0), offset=0)
    one = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask]),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    starts = np.arange(lens.shape[0])[:, None, None] * (size // block)
    ends = lens[:, None, None]

    # The tables are [1, queries, keys] in blocks, 0 where nothing is to be done. One
    # axis is packed, and `data_next` holds the real index of what is on it: keys, or
    # queries where the gradient of keys is computed.
    def repeat(info: Any, packed: str) -> Any:
        here, index = (
            x[0].astype(jnp.int32)[None] for x in (info.block_mask, info.data_next)
        )
        unpacked = np.arange(here.shape[1])[None, :, None]
        queries = index if packed == "queries" else unpacked
        runs = (here > 0) & (queries * block < ends)

        def lay_out(x: jax.Array) -> jax.Array:  # [B, queries, keys], slots in a row
            x = jnp.where(runs, x, 0)
            if packed == "keys":
                return x.reshape(1, -1, x.shape[2])
            return jnp.swapaxes(x, 0, 1).reshape(1, x.shape[1], -1)

        return info._replace(
            block_mask=lay_out(here).astype(jnp.int8),
            data_next=lay_out(index + starts).astype(jnp.int16),
            q_sequence=jnp.arange(lens.shape[0] * size),
        )

    return kernels.SplashAttentionKernel(
        repeat(one.fwd_mask_info, packed="keys"),
        repeat(one.dq_mask_info, packed="keys"),
        repeat(one.dkv_mask_info, packed="queries"),
        **one.kwargs,
    )


def cudnn(
    q: Float[Array, "B N S H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lens: Int[Array, " B"],
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Float[Array, "B N S H"]:
    """CuDNN's flash attention, for NVIDIA.

    It takes bfloat16 or float16, heads whose width is a multiple of 8 and at most 128,
    from Hopper on 256; for gradients S must be even. What it does not take JAX refuses
    as the program is traced.

    Args:
      q: Queries; each run of `N / K` heads shares one key/value head.
      k: Keys.
      v: Values.
      lens: Documents' lengths.
      scale: Of the scores.
      softcap: None: it has none.
      window: How many keys a query sees, itself included; None is all before it.

    Returns:
      What each query attends to. Past `lens` it means nothing.

    Raises:
      ValueError: There is a soft-cap.
    """
    if softcap is not None:
        raise ValueError(
            f"cuDNN has no soft-cap, got softcap={softcap}; use kernel='blockwise'."
        )
    lens = lens.astype(jnp.int32)
    out = jax.nn.dot_product_attention(
        *(jnp.swapaxes(x, 1, 2) for x in (q, k, v)),
        scale=scale,
        is_causal=True,
        query_seq_lengths=lens,
        key_value_seq_lengths=lens,
        # Keys before a query, without its own.
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    return jnp.swapaxes(out, 1, 2)


def blockwise(
    q: Float[Array, "B N S H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    lens: Int[Array, " B"],
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Float[Array, "B N S H"]:
    """Plain JAX for all slots at once, one block of queries after the other.

    Scores of a block, `[B, N, block, keys]` in float32, are all that is in memory of
    them; for the gradient they are made again.

    Args:
      q: Queries; each run of `N / K` heads shares one key/value head.
      k: Keys.
      v: Values.
      lens: Documents' lengths. Unused: no query sees beyond itself.
      scale: Of the scores, before the cap.
      softcap: Scores s become `softcap * tanh(s / softcap)`.
      window: How many keys a query sees, itself included; None is all before it.

    Returns:
      What each query attends to. Past `lens` it means nothing.
    """
    del lens
    num_slots, num_heads, size, width = q.shape
    num_kv = k.shape[1]
    grouped = q.reshape(num_slots * num_kv, num_heads // num_kv, size, width)
    k, v = (x.reshape(-1, size, width) for x in (k, v))
    attend = partial(attend_block, scale=scale, softcap=softcap, window=window)
    blocks: list[jax.Array] = []
    for first, start, end in query_blocks(size, _QUERY_BLOCK, window):
        first -= first % _LANES
        own = grouped[:, :, start:end]
        if blocks:
            # One after the other: side by side, all blocks' scores would be alive.
            own, blocks[-1] = jax.lax.optimization_barrier((own, blocks[-1]))
        run = jax.checkpoint(partial(attend, start=start, end=end))
        blocks.append(run(own, k[:, first:end], v[:, first:end]))
    return jnp.concatenate(blocks, axis=2).reshape(q.shape)
