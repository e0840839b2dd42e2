"""Meshes, and which axis of which array is split over what: all of it is here."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xinst_jax.config import ModelConfig
from xinst_jax.families import weights_of

# Logical axis -> mesh axis. Axes that are not here are whole on every device.
_SPLIT = {
    "row": "data",
    "vocabulary": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
    """The first `data * model` devices as a mesh with explicit axes (data, model).

    Args:
      data: Over how many devices documents are spread.
      model: Over how many devices each weight is split.

    Raises:
      ValueError: There are fewer devices than that.
    """
    if data * model > jax.device_count():
        raise ValueError(
            f"A mesh of data={data} x model={model} needs {data * model} devices, "
            f"there are {jax.device_count()}."
        )
    return jax.make_mesh(
        (data, model),
        ("data", "model"),
        axis_types=(AxisType.Explicit,) * 2,
        devices=jax.devices()[: data * model],
    )


def spec(*axes: str | None) -> P:
    """The partition of an array whose axes are these logical ones."""
    return P(*(_SPLIT.get(axis) if axis else None for axis in axes))


def kv_copies(config: ModelConfig, mesh: AbstractMesh | Mesh) -> int:
    """How often each key/value head is repeated so that every device holds one."""
    return max(1, mesh.shape["model"] // config.kv_heads)


def weight_shardings(
    config: ModelConfig, mesh: Mesh, *, spread: bool = False
) -> dict[str, NamedSharding]:
    """Where each weight of `weights_of(config)` lives.

    Args:
      config: Says which weights there are.
      mesh: Of axes (data, model).
      spread: Split matrices over the data axis as well, as training does: states of the
        optimiser take many times what weights do. See `gathered`.

    Raises:
      ValueError: A size does not divide by the mesh's model axis; shows both.
    """
    model = mesh.shape["model"]
    for name in ("vocabulary", "heads", "mlp_width", "kv_heads"):
        size = getattr(config, name)
        if size % model and not (name == "kv_heads" and model % size == 0):
            raise ValueError(
                f"{name}={size} does not divide by the mesh's model={model}."
            )
    # Fewer key/value heads than devices: their weights stay whole, see `kv_copies`.
    whole = {"kv_heads"} if kv_copies(config, mesh) > 1 else set()
    data = mesh.shape["data"]
    if spread and config.width % data:
        raise ValueError(
            f"width={config.width} does not divide by the mesh's data={data}."
        )

    def partition(axes: tuple[str | None, ...]) -> P:
        split = spec(*(None if axis in whole else axis for axis in axes))
        if not spread:
            return split
        return P(
            *("data" if a == "width" else s for a, s in zip(axes, split, strict=True))
        )

    return {
        name: NamedSharding(mesh, partition(weight.axes))
        for name, weight in weights_of(config).items()
    }


def gathered(weight: jax.Array) -> jax.Array:
    """A weight as the forward pass multiplies with it: whole along the data axis.

    In training weights are spread over that axis, and each layer's are gathered when it
    runs (FSDP; Zhao et al. 2023); the gradient's way back is a reduce-scatter.
    """
    split = jax.typeof(weight).sharding.spec
    if "data" not in split:
        return weight
    whole = (None if axis == "data" else axis for axis in split)
    return jax.sharding.reshard(weight, P(*whole, reduced={"data"}))


def put_rows(arrays: Any, mesh: Mesh) -> Any:
    """NumPy arrays [R, ...], in any structure, on the mesh with their rows split."""

    def put(x: np.ndarray) -> jax.Array:
        axes = spec("row", *[None] * (x.ndim - 1))
        return jax.device_put(x, NamedSharding(mesh, axes))

    return jax.tree.map(put, arrays)


def per_device(function: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`function` on each device's own rows and heads, with no exchange between them."""
    # The check of replicated outputs does not know gathers with a fill value.
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
