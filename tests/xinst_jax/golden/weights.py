"""Weights of the golden models, made from their names, so that none are stored.

A tensor depends on its checkpoint name and shape and on nothing else: SHAKE-256 gives
bits, and all arithmetic until the last rounding is exact, so no version of a library
and no processor changes them.
"""

import hashlib
import math

import numpy as np

# Standard deviations are chosen so that logits have one of about 0.6. That of the sum
# of four uniform 16-bit integers is this:
_NOISE = math.sqrt(4 * (2**32 - 1) / 12)


def noise(name: str, size: int) -> np.ndarray:
    """Float64 [size], nearly normal, with mean 0 and standard deviation 1."""
    bits = hashlib.shake_256(name.encode()).digest(8 * size)
    parts = np.frombuffer(bits, "<u2").reshape(size, 4).astype(np.int64)
    return (parts.sum(1) - 2 * (2**16 - 1)) / _NOISE


def tensor(
    name: str, shape: tuple[int, ...], *, unit_offset: bool = False
) -> np.ndarray:
    """The float32 weight of that checkpoint name.

    Args:
      name: As in the checkpoint, `model.layers.0.mlp.up_proj.weight`.
      shape: As in the checkpoint, outputs before inputs.
      unit_offset: Whether norms scale by 1 + weight, as Gemma's do.
    """
    values = noise(f"{name} {shape}", math.prod(shape)).reshape(shape)
    if name.endswith("norm.weight"):
        values = 0.2 * values + (0.0 if unit_offset else 1.0)
    elif len(shape) < 2:
        values = 0.2 * values
    elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
        values = values * (0.6 / math.sqrt(shape[-1]))
    elif name.endswith("gate_proj.weight"):
        # Wide enough that the kinds of GELU differ by more than rounding.
        values = values * (1.6 / math.sqrt(shape[-1]))
    else:
        values = values * (0.8 / math.sqrt(shape[-1]))
    return values.astype(np.float32)
