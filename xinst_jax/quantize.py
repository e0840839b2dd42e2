"""Matrices of eight bits: half bfloat16's memory, twice its rate where chips can.

Each output channel of a weight has a scale of its own, and so has each token of its
input, found when it is multiplied: LLM.int8 (Dettmers et al. 2022) without outliers.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from xinst_jax.lora import ADAPTED

# The largest magnitude that each type holds; int8's -128 is left out, for symmetry.
_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
QUANTIZATIONS = {"int8": "int8", "fp8": "float8_e4m3fn"}


class Quantized(nnx.Module):
    """A matrix in eight bits.

    Attributes:
      values: `[L, outputs, inputs]` of int8 or float8_e4m3fn.
      scale: `[L, outputs]` in float32; `values * scale` is the matrix.
    """

    def __init__(self, values: Array, scale: Float[Array, "L outputs"]) -> None:
        self.values = nnx.Param(values)
        self.scale = nnx.Param(scale)


def quantized(name: str, weight: Array, kind: str | None, mesh: Mesh) -> Any:
    """A weight in eight bits if it is one of the layers' matrices, or as it was.

    Args:
      name: As in `weights_of`.
      weight: `[L, outputs, inputs]` of a matrix.
      kind: "int8", "fp8", or None to change nothing.
      mesh: Where it is.

    Raises:
      ValueError: There is no such kind.
    """
    if kind is None:
        return weight
    if kind not in QUANTIZATIONS:
        raise ValueError(
            f"quantize must be one of {sorted(QUANTIZATIONS)} or None, got {kind!r}."
        )
    if name.removeprefix("layers.") not in ADAPTED:
        return weight
    with jax.set_mesh(mesh):
        return Quantized(*_to_eight_bits(weight, QUANTIZATIONS[kind]))


def quantized_project(
    x: Float[Array, "R T inputs"],
    weight: Quantized,
    out_sharding: PartitionSpec | None = None,
) -> Float[Array, "R T outputs"]:
    """`x` times a quantized matrix of one layer, `[outputs, inputs]`."""
    values, scale = weight.values[...], weight.scale[...]
    x8, x_scale = _to_eight_bits(x, str(values.dtype))
    exact = jnp.int32 if values.dtype == jnp.int8 else jnp.float32
    product = jnp.einsum(
        "rti,oi->rto",
        x8,
        values,
        out_sharding=out_sharding,
        preferred_element_type=exact,
    )
    product = product.astype(jnp.float32) * x_scale[..., None]
    return (product * scale[None, None]).astype(x.dtype)


@partial(jax.jit, static_argnums=1)
def _to_eight_bits(
    x: Float[Array, "*rows inputs"], dtype: str
) -> tuple[Array, Float[Array, " *rows"]]:
    """Values of eight bits, and the scale of each row."""
    largest = _LARGEST[dtype]
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1) / largest
    scaled = wide / jnp.maximum(scale, 1e-30)[..., None]
    if dtype == "int8":
        scaled = jnp.round(scaled)
    return jnp.clip(scaled, -largest, largest).astype(dtype), scale
