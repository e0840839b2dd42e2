"""Adapters of low rank beside frozen matrices (LoRA; Hu et al. 2021).

A projection y = W x becomes W x + (alpha / rank) U D x. D starts at random and U at
zero, so that training starts from the model as it is; merged, the sum is a matrix as
before, and a checkpoint like any other.
"""

import dataclasses

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
        down: Float[Array, "L rank inputs"],
        up: Float[Array, "L outputs rank"],
        scale: float,
    ) -> None:
        self.down = AdapterParam(down)
        self.up = AdapterParam(up)
        self.scale = scale


def make_adapters(
    config: ModelConfig, lora: LoraConfig, seed: int, mesh: Mesh
) -> dict[str, Adapter]:
    """New adapters for every projection of a layer, by its name, in float32.

    Each is split over the mesh's model axis as its matrix is, along the outputs or the
    inputs; the rank never is.
    """
    shardings = weight_shardings(config, mesh)
    adapters = {}
    for number, name in enumerate(ADAPTED):
        weight = weights_of(config)[f"layers.{name}"]
        layers, outputs, inputs = weight.shape
        _, out_axis, in_axis = shardings[f"layers.{name}"].spec

        def draw(
            number: int = number, shape: tuple[int, ...] = (layers, lora.rank, inputs)
        ) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(seed), number)
            return jax.random.normal(key, shape, jnp.float32) * shape[2] ** -0.5

        with jax.set_mesh(mesh):
            down_at = NamedSharding(mesh, jax.P(None, None, in_axis))
            up_at = NamedSharding(mesh, jax.P(None, out_axis, None))
            down = jax.jit(draw, out_shardings=down_at)()
            up = jnp.zeros((layers, outputs, lora.rank), jnp.float32, device=up_at)
        adapters[name] = Adapter(down, up, lora.alpha / lora.rank)
    return adapters


def merge(weight: jax.Array, adapter: Adapter) -> jax.Array:
    """The matrix that projects as `weight` and the adapter together do."""
    up, down = adapter.up[...], adapter.down[...]
    product = jnp.einsum(
        "lor,lri->loi", up, down, out_sharding=jax.typeof(weight).sharding.spec
    )
    return (weight.astype(jnp.float32) + adapter.scale * product).astype(weight.dtype)
