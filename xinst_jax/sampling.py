"""Logits → token; pure.

```
B row   V vocabulary
```
"""

import hashlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from xinst_jax.config import SamplingConfig


def record_seed(record: str | bytes) -> int:
    """A record's own 32 bits; its randomness depends on nothing around it."""
    data = record.encode() if isinstance(record, str) else record
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def sample(
    logits: Float[Array, "B V"],
    records: UInt32[Array, " B"],
    step: Int[Array, ""],
    config: SamplingConfig,
    text: Int[Array, "B length"] | None = None,
    text_tokens: Int[Array, " B"] | None = None,
) -> Int[Array, " B"]:
    """One token id per row.

    Args:
      logits: In float32.
      records: `record_seed` of each row. With `config.seed` and `step` it is the
        key, so the place in the batch never matters.
      step: Number of tokens drawn before.
      config: Greedy at temperature 0; else filters by top_k, then by top_p.
      text: What was written so far, if `config.no_repeat_ngram` is set.
      text_tokens: How much of it.
    """
    if config.no_repeat_ngram:
        assert text is not None and text_tokens is not None
        logits = _without_repeats(logits, text, text_tokens, config.no_repeat_ngram)
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        ones = jnp.ones_like(logits)
        logits = _keep_likeliest(logits, ones, float(config.top_k))
    if config.top_p < 1:
        logits = _keep_likeliest(logits, jax.nn.softmax(logits, -1), config.top_p)

    def draw(logits: jax.Array, record: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(config.seed), record)
        return jax.random.categorical(jax.random.fold_in(key, step), logits)

    return jax.vmap(draw)(logits, records)


def _without_repeats(
    logits: Float[Array, "B V"],
    text: Int[Array, "B length"],
    text_tokens: Int[Array, " B"],
    size: int,
) -> Float[Array, "B V"]:
    """-inf for tokens that would end a run of `size` tokens that was there before.

    transformers' `no_repeat_ngram_size`: the prompt counts as well.
    """
    starts = jnp.arange(text.shape[1] - size + 1)
    # The last tokens, which one more would make a run.
    back = text_tokens[:, None] - (size - 1) + jnp.arange(size - 1)[None]
    last = jnp.take_along_axis(text, jnp.maximum(back, 0), axis=1)
    same = (starts[None] + size <= text_tokens[:, None]) & (text_tokens >= size)[
        :, None
    ]
    for offset in range(size - 1):
        same &= text[:, starts + offset] == last[:, offset, None]
    ended = text[:, starts + size - 1]
    worst = jnp.where(same, -jnp.inf, jnp.inf)
    return jax.vmap(lambda row, i, value: row.at[i].min(value))(logits, ended, worst)


def _keep_likeliest(
    logits: Float[Array, "B V"], weights: Float[Array, "B V"], enough: float
) -> Float[Array, "B V"]:
    """-inf for all but the fewest likeliest whose weights sum to `enough`.

    Those equal to the last one kept stay too. The threshold is found bit by bit, 32
    sums over the vocabulary: sorting takes ten times as long on CPU.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    # Unsigned integers in the order of the floats: flip all bits below zero, else
    # the sign.
    bits = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(2**31))

    def settle(i: Int[Array, ""], threshold: Array) -> Array:
        higher = threshold | (jnp.uint32(2**31) >> i.astype(jnp.uint32))
        weight = jnp.where(bits >= higher[:, None], weights, 0).sum(-1)
        return jnp.where(weight >= enough, higher, threshold)

    lowest = jnp.zeros(logits.shape[0], jnp.uint32)
    threshold = jax.lax.fori_loop(0, 32, settle, lowest)
    return jnp.where(bits >= threshold[:, None], logits, -jnp.inf)
