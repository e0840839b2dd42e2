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
) -> Int[Array, " B"]:
    """One token id per row.

    Args:
      logits: In float32.
      records: `record_seed` of each row. With `config.seed` and `step` it is the
        key, so the place in the batch never matters.
      step: Number of tokens drawn before.
      config: Greedy at temperature 0; else filters by top_k, then by top_p.
    """
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1] or config.top_p < 1:
        logits = _keep_likeliest(logits, config)

    def draw(logits: jax.Array, record: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(config.seed), record)
        return jax.random.categorical(jax.random.fold_in(key, step), logits)

    return jax.vmap(draw)(logits, records)


def _keep_likeliest(
    logits: Float[Array, "B V"], config: SamplingConfig
) -> Float[Array, "B V"]:
    """-inf for all but the likeliest; those equal to the last one kept stay too."""
    ordered = jnp.sort(logits, axis=-1, descending=True)
    if 0 < config.top_k < logits.shape[-1]:
        last = ordered[:, config.top_k - 1, None]
        ordered = jnp.where(ordered < last, -jnp.inf, ordered)
    # A token stays while those before it fall short of top_p; the first always does.
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    kept = (mass - jax.nn.softmax(ordered, axis=-1) < config.top_p).sum(-1)
    last = jnp.take_along_axis(ordered, kept[:, None] - 1, axis=1)
    return jnp.where(logits < last, -jnp.inf, logits)
