"""Adapters of low rank beside frozen matrices (LoRA; Hu et al. 2021).

A projection y = W x becomes W x + (alpha / rank) U D x. D starts at random and U at
zero, so that training starts from the model as it is; merged, the sum is a matrix as
before, and a checkpoint like any other.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from xinst_jax.config import ModelConfig
from xinst_jax.families import weights_of
from xinst_jax.sharding import weight_shardings

ADAPTED = ("query", "key", "value", "output", "gate", "up", "down")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """How large adapters are.

    Attributes:
      rank: Of the matrices' product.
      alpha: The product is multiplied by `alpha / rank`.
    """

    rank: int = 16
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"LoraConfig needs 1 <= rank and 0 < alpha, got {self}.")


class AdapterParam(nnx.Param):
    """What is trained while all else is frozen."""


class Adapter(nnx.Module):
    """One projection's two matrices, stacked over layers.

    Attributes:
      down: `[L, rank, inputs]`.
      up: `[L, outputs, rank]`.
      scale: `alpha / rank`.
    """

    def __init__(
        self,
        down: Float[Any, "L rank inputs"],
        up: Float[Any, "L outputs rank"],
        scale: float,
    ) -> None:
        self.down = AdapterParam(down)
        self.up = AdapterParam(up)
        self.scale = scale


def adapter_shapes(
    config: ModelConfig, lora: LoraConfig, mesh: Mesh
) -> dict[str, Adapter]:
    """Adapters for every projection of a layer, by its name, before they exist.

    Each is split over the mesh's model axis as its matrix is, along the outputs or the
    inputs; the rank never is. In the places of arrays are their shapes, float32.
    """
    shardings = weight_shardings(config, mesh)
    adapters = {}
    for name in ADAPTED:
        layers, outputs, inputs = weights_of(config)[f"layers.{name}"].shape
        _, out_axis, in_axis = shardings[f"layers.{name}"].spec
        down, up = (
            jax.ShapeDtypeStruct(
                shape, jnp.float32, sharding=NamedSharding(mesh, jax.P(*axes))
            )
            for shape, axes in (
                ((layers, lora.rank, inputs), (None, None, in_axis)),
                ((layers, outputs, lora.rank), (None, out_axis, None)),
            )
        )
        adapters[name] = Adapter(down, up, lora.alpha / lora.rank)
    return adapters


def make_adapters(
    config: ModelConfig, lora: LoraConfig, seed: int, mesh: Mesh
) -> dict[str, Adapter]:
    """New adapters as `adapter_shapes` says: D at random, U zero."""

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32) * shape[2] ** -0.5

    adapters = adapter_shapes(config, lora, mesh)
    with jax.set_mesh(mesh):
        for number, (name, shapes) in enumerate(adapters.items()):
            down, up = shapes.down.get_value(), shapes.up.get_value()
            key = jax.random.fold_in(jax.random.key(seed), number)
            drawn = jax.jit(draw, static_argnums=1, out_shardings=down.sharding)
            zeros = jnp.zeros(up.shape, up.dtype, device=up.sharding)
            adapters[name] = Adapter(drawn(key, down.shape), zeros, shapes.scale)
    return adapters


@partial(jax.jit, donate_argnames="weight")
def merge(weight: Float[Array, "L outputs inputs"], adapter: Adapter) -> jax.Array:
    """The matrix that projects as `weight` and the adapter together do.

    Summed in float32, and in the weight's type and place again: `weight` is used up.
    """
    split = jax.typeof(weight).sharding.spec

    # Layer by layer: the products of all would take twice a bfloat16 model's memory.
    def merge_layer(own: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        matrix, up, down = own
        product = jnp.einsum(
            "or,ri->oi", up, down, out_sharding=jax.P(*split[1:]), precision="highest"
        )
        return (matrix.astype(jnp.float32) + adapter.scale * product).astype(
            matrix.dtype
        )

    return jax.lax.map(merge_layer, (weight, adapter.up[...], adapter.down[...]))
