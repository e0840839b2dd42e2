"""One step of training: all weights, or adapters beside them; on any mesh.

The same function trains here and is compiled for machines that are not there. Under
`jax.set_mesh(mesh)`, whose devices may be those of a topology description:

    program = Program(model=config, lora=LoraConfig(rank=16), dtype="bfloat16")
    shapes = step_shapes(program, RowShape(...), mesh)
    compiled = train_step.lower(*shapes, program=program).compile()
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from xinst_jax.config import ModelConfig
from xinst_jax.families import weights_of
from xinst_jax.lora import LoraConfig, adapter_shapes, merge
from xinst_jax.model import Decoder, hidden_of_rows, target_logprobs
from xinst_jax.packing import Batch, RowShape, lay_out
from xinst_jax.sharding import spec, weight_shardings
from xinst_jax.weights import DTYPES

LOGIT_CHUNK = 256  # target positions whose logits are in memory at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What the program of a step depends on, besides shapes.

    Attributes:
      model: The architecture.
      lora: Adapters' size; None trains all weights.
      dtype: "float32" or "bfloat16", of frozen weights and activations.
      kernel: Of attention, as `attention.choose_kernel` says.
      clip: The largest global norm of a gradient.
      weight_decay: AdamW's, on matrices.
    """

    model: ModelConfig
    lora: LoraConfig | None = None
    dtype: str = "float32"
    kernel: str = "reference"
    clip: float = 1.0
    weight_decay: float = 0.1


@partial(jax.jit, static_argnames="program", donate_argnames=("trained", "state"))
def train_step(
    trained: Any,
    state: Any,
    frozen: Mapping[str, jax.Array],
    batches: Sequence[Batch],
    rate: Any,
    program: Program,
) -> tuple[Any, Any, jax.Array]:
    """One update; the same function with all weights and with adapters.

    Args:
      trained: Weights by the names of `weights_of`, or adapters by their matrices'
        names; in float32. Overwritten, as is `state`.
      state: The optimiser's.
      frozen: With adapters, all weights; otherwise none.
      batches: What the gradient is summed over, all of one shape; their activations
        are in memory one after the other.
      rate: The learning rate.
      program: Static.

    Returns:
      The next `trained` and `state`, and the loss before: nats a target token, over
      all target tokens of the batches.
    """
    num_targets = sum((b.index < b.rows.tokens.shape[1]).sum() for b in batches)

    def loss_of(trained: Any, batch: Batch) -> jax.Array:
        model = model_of(trained, frozen, program)
        x, _ = hidden_of_rows(model, batch.rows)
        index, targets = batch.index, batch.targets
        logprobs = target_logprobs(model, x, index, targets, chunk=LOGIT_CHUNK)
        return -logprobs.sum() / num_targets

    loss_and_gradient = jax.value_and_grad(loss_of)
    if len(batches) == 1:
        loss, gradient = loss_and_gradient(trained, batches[0])
    else:
        # Stacked as a list of arrays: a `Batch` has no axis for it.
        structure = jax.tree.structure(batches[0])
        stacked = [
            jnp.stack(a) for a in zip(*map(jax.tree.leaves, batches), strict=True)
        ]

        def add(total: Any, leaves: list[jax.Array]) -> tuple[Any, None]:
            one = loss_and_gradient(trained, jax.tree.unflatten(structure, leaves))
            return jax.tree.map(jnp.add, total, one), None

        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained)
        (loss, gradient), _ = jax.lax.scan(add, zero, stacked)
    change, state = optimizer(program).update(gradient, state, trained)
    change = jax.tree.map(lambda x: -rate * x, change)
    return optax.apply_updates(trained, change), state, loss


def step_shapes(
    program: Program, shape: RowShape, mesh: Mesh, accumulate: int = 1
) -> tuple[Any, ...]:
    """The arguments of `train_step` as shapes with their shardings, and no array.

    Args:
      program: Says what is trained and what is frozen.
      shape: Of a batch's rows; `tokens` a multiple of `LOGIT_CHUNK`.
      mesh: Of axes (data, model).
      accumulate: Batches of a step.
    """

    def placed(x: Any, *axes: str | None) -> jax.ShapeDtypeStruct:
        at = NamedSharding(mesh, jax.P(*axes))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)

    described = weights_of(program.model)
    weights = {
        name: jax.ShapeDtypeStruct(
            described[name].shape, DTYPES[program.dtype], sharding=sharding
        )
        for name, sharding in weight_shardings(program.model, mesh, spread=True).items()
    }
    trained: Any = weights
    if program.lora:
        trained = adapter_shapes(program.model, program.lora, mesh)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(optimizer(program).init, trained)
    # Moments are where their weights are; a counter is nowhere in particular.
    state = jax.tree.map(
        lambda x: placed(x, *x.sharding.spec if x.sharding else ()), state
    )
    batch = jax.tree.map(
        lambda x: placed(x, *spec("row", *[None] * (x.ndim - 1))),
        lay_out([], [[]] * shape.rows, shape, shape.tokens),
    )
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    frozen = weights if program.lora else {}
    return trained, state, frozen, (batch,) * accumulate, rate


def model_of(
    trained: Any, frozen: Mapping[str, jax.Array], program: Program
) -> Decoder:
    """The decoder that both are together."""
    model = Decoder(program.model, frozen or trained, program.kernel)
    for name, adapter in trained.items() if frozen else ():
        setattr(model.layers, f"{name}_adapter", adapter)
    return model


def merged(trained: Any, frozen: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """The weights of `model_of`, without adapters; the frozen ones are used up."""
    if not frozen:
        return trained
    sums = {
        f"layers.{name}": merge(frozen[f"layers.{name}"], adapter)
        for name, adapter in trained.items()
    }
    return {**frozen, **sums}


def optimizer(program: Program) -> optax.GradientTransformation:
    """AdamW up to the learning rate, which changes with every step."""

    def matrices(trained: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not re.search("norm|bias", jax.tree_util.keystr(path)),
            trained,
        )

    return optax.chain(
        optax.clip_by_global_norm(program.clip),
        optax.scale_by_adam(b2=0.95),
        optax.add_decayed_weights(program.weight_decay, mask=matrices),
    )
