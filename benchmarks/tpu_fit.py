"""Compiles the programs of `xinst_jax` for TPUs that are not there: what they take.

    python benchmarks/tpu_fit.py                  # needs libtpu; up to an hour
    python benchmarks/tpu_fit.py --quick          # one model on one kind of chip
    python benchmarks/tpu_fit.py --platform cpu   # tiny, on eight devices of a CPU

Memory, FLOPs and exchanges are the compiler's. Times are rooflines, not measurements:
what the makers' peak rates leave as a lower bound. The compiler's `optimal_seconds` is
not used: it counts a loop's body once, Pallas kernels not at all, and came out below
zero. Ends with 1 if a program does not fit or computes a tenth too much.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hlo
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from xinst_jax import engine, quantize
from xinst_jax.config import ModelConfig, Rope, SamplingConfig
from xinst_jax.families import weights_of
from xinst_jax.lora import ADAPTED, LoraConfig
from xinst_jax.model import Decoder
from xinst_jax.packing import RowShape, fill
from xinst_jax.sharding import spec, weight_shardings
from xinst_jax.step import Program, step_shapes, train_step

GIB = 1 << 30
ANSWER_TOKENS = 32  # of the documents whose rate is printed
DEMANDED = 1.10  # FLOPs of prefill over those by count
SPLASH_BLOCK = 512  # queries and keys that the kernel takes at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A kind of TPU; figures are its maker's (Google's page "TPU v6e").

    Attributes:
      topology: Eight chips, as the compiler spells them.
      hbm: Bytes that the compiler grants of its memory.
      flops: Peak of bfloat16 products, a second; int8 has twice that.
      bandwidth: Of its memory, bytes a second.
      link: One of its four links to other chips, one way, bytes a second.
    """

    topology: str
    hbm: float
    flops: float
    bandwidth: float
    link: float


CHIPS = {
    "v5e": Chip(
        topology="v5e:2x4",
        hbm=15.75 * GIB,
        flops=197e12,
        bandwidth=0.82e12,
        link=1600e9 / 8 / 4,
    ),
    "v6e": Chip(
        topology="v6e:2x4",
        hbm=31.25 * GIB,
        flops=918e12,
        bandwidth=1.64e12,
        link=3200e9 / 8 / 4,
    ),
}

LLAMA_3_8B = ModelConfig(
    vocabulary=128_256,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_width=128,
    mlp_width=14_336,
    max_positions=8192,
    query_scale=128**-0.5,
    rope=Rope(theta=500_000.0),
    bos=128_000,
    eos=(128_001, 128_009),
)
LLAMA_2_13B = ModelConfig(
    vocabulary=32_000,
    width=5120,
    layers=40,
    heads=40,
    kv_heads=40,
    head_width=128,
    mlp_width=13_824,
    max_positions=4096,
    query_scale=128**-0.5,
    bos=1,
    eos=(2,),
)
GEMMA_7B = ModelConfig(
    family="gemma",
    vocabulary=256_000,
    width=3072,
    layers=28,
    heads=16,
    kv_heads=16,
    head_width=256,
    mlp_width=24_576,
    max_positions=8192,
    activation="gelu_tanh",
    norm_eps=1e-6,
    norm_offset=True,
    scaled_embedding=True,
    query_scale=256**-0.5,
    tied=True,
    bos=2,
    eos=(1,),
)
TINY = ModelConfig(
    vocabulary=264,
    width=32,
    layers=3,
    heads=8,
    kv_heads=4,
    head_width=8,
    mlp_width=48,
    max_positions=1024,
    query_scale=8**-0.5,
    eos=(1,),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model on eight devices, to generate or to train.

    Attributes:
      title: To print.
      chip: A key of `CHIPS`, or "cpu".
      config: The model.
      mesh: Devices along (data, model).
      tokens: T, of a packed row.
      slot_tokens: S.
      documents: P, decoded together on each device of the data axis; 0 trains.
      new_tokens: The longest answer; its decoding step is what counts.
      quantized: "int8" or None.
      lora: Adapters' size in training; None trains all weights.
      dtype: "bfloat16" or "float32".
    """

    title: str
    chip: str
    config: ModelConfig
    mesh: tuple[int, int]
    tokens: int
    slot_tokens: int
    documents: int = 0
    new_tokens: int = 128
    quantized: str | None = None
    lora: LoraConfig | None = None
    dtype: str = "bfloat16"

    @property
    def shape(self) -> RowShape:
        """Of the rows, with as many slots as the engine takes."""
        slots = self.tokens // (self.slot_tokens // 2)
        return RowShape(
            rows=self.mesh[0],
            tokens=self.tokens,
            slots=min(slots, self.documents or slots),
            slot_tokens=self.slot_tokens,
        )

    @property
    def kernel(self) -> str:
        return "reference" if self.chip == "cpu" else "splash"


def cases() -> list[Case]:
    """What a user may run on eight chips of a kind."""
    llama_3 = partial(Case, title="Llama-3-8B", config=LLAMA_3_8B, slot_tokens=1024)
    llama_2 = partial(Case, title="Llama-2-13B", config=LLAMA_2_13B, slot_tokens=1024)
    gemma = partial(Case, title="Gemma-7B", config=GEMMA_7B, slot_tokens=1024)
    long = partial(Case, title="Llama-3-8B", config=LLAMA_3_8B, slot_tokens=2048)
    int8 = partial(llama_3, quantized="int8")
    train, lora = partial(llama_3, mesh=(8, 1)), LoraConfig(rank=16)
    return [
        llama_3(chip="v5e", mesh=(4, 2), tokens=16_384, documents=64),
        long(chip="v5e", mesh=(4, 2), tokens=16_384, documents=32),
        int8(chip="v5e", mesh=(8, 1), tokens=8192, documents=16),
        llama_2(chip="v5e", mesh=(2, 4), tokens=8192, documents=16),
        gemma(chip="v5e", mesh=(2, 4), tokens=8192, documents=32),
        llama_3(chip="v6e", mesh=(8, 1), tokens=16_384, documents=64),
        long(chip="v6e", mesh=(8, 1), tokens=16_384, documents=32),
        llama_2(chip="v6e", mesh=(4, 2), tokens=8192, documents=16),
        gemma(chip="v6e", mesh=(4, 2), tokens=8192, documents=32),
        train(chip="v5e", tokens=4096, lora=lora),
        train(chip="v6e", tokens=8192, lora=lora),
        train(chip="v6e", tokens=2048, dtype="float32"),
    ]


def tiny_cases() -> list[Case]:
    tiny = partial(
        Case, title="tiny", chip="cpu", config=TINY, tokens=256, slot_tokens=128
    )
    meshes = [(8, 1), (4, 2), (2, 4)]
    return [
        each
        for mesh in meshes
        for each in (
            tiny(mesh=mesh, documents=4, new_tokens=8),
            tiny(mesh=mesh, lora=LoraConfig(rank=4)),
        )
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a program takes on one device; bytes, FLOPs and seconds of one run.

    Attributes:
      program: Its name.
      error: Why it could not be compiled, or None.
      arguments: Bytes of what it is given.
      results: Bytes of what it returns.
      temporaries: Bytes besides.
      resident: Bytes of all that is in memory while it runs: model and cache too.
      flops: Of its products, attention's included.
      counted_flops: What they are by count.
      hbm_bytes: Read from and written to memory.
      arithmetic_s: `flops` at the chip's peak.
      memory_s: `hbm_bytes` at its bandwidth.
      exchange_s: What is sent to other chips, at its links' bandwidth.
      in_turn_s: The larger of arithmetic and memory for each operation, in turn, and
        the exchanges: closer than the largest of the three, which overlap nowhere.
      collectives: As `hlo.collectives` finds them.
    """

    program: str
    error: str | None = None
    arguments: int = 0
    results: int = 0
    temporaries: int = 0
    resident: int = 0
    flops: float = 0.0
    counted_flops: float = 0.0
    hbm_bytes: float = 0.0
    arithmetic_s: float = 0.0
    memory_s: float = 0.0
    exchange_s: float = 0.0
    in_turn_s: float = 0.0
    collectives: Sequence[hlo.Collective] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A program to compile.

    Attributes:
      name: Of the program.
      lower: Traces it.
      held: Bytes a device that are in memory as it starts, given to it or not.
      counted_flops: What its products take by count, on all devices.
      attention_flops: What the Pallas kernel computes of them, on all devices.
    """

    name: str
    lower: Callable[[], Any]
    held: int
    counted_flops: float
    attention_flops: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", choices=("tpu", "cpu"), default="tpu")
    parser.add_argument("--quick", action="store_true", help="the first case only")
    parser.add_argument("--json", type=Path, help="a file for what was found")
    options = parser.parse_args()
    # No metadata server is asked, and several such programs may run at a time.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    jax.config.update("jax_platforms", "cpu")
    if options.platform == "cpu":
        jax.config.update("jax_num_cpu_devices", 8)
        # Half the time to compile, and the same exchanges.
        jax.config.update("jax_disable_most_optimizations", True)
    chosen = tiny_cases() if options.platform == "cpu" else cases()
    found: list[tuple[Case, list[Fit]]] = []
    for case in chosen[:1] if options.quick else chosen:
        fits = []
        print(heading(case), flush=True)
        for fit in compile_case(case):
            fits.append(fit)
            print(described(fit, case), flush=True)
        if case.chip != "cpu" and case.documents:
            print(rates(case, fits), flush=True)
        found.append((case, fits))
    if options.json:
        options.json.write_text(
            json.dumps(
                [
                    dataclasses.asdict(fit)
                    | {"case": case.title, "chip": case.chip, "mesh": case.mesh}
                    for case, fits in found
                    for fit in fits
                ]
            )
        )
    sys.exit(any(faults(case, fit) for case, fits in found for fit in fits))


def compile_case(case: Case) -> Iterable[Fit]:
    """Its programs, one after the other."""
    mesh = make_mesh(case)
    with jax.set_mesh(mesh):
        for work in generating(case, mesh) if case.documents else training(case, mesh):
            yield fit_of(case, work)


def make_mesh(case: Case) -> Mesh:
    if case.chip == "cpu":
        devices = jax.devices()
    else:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=CHIPS[case.chip].topology
        ).devices
    return Mesh(
        np.array(devices).reshape(case.mesh),
        ("data", "model"),
        axis_types=(AxisType.Explicit,) * 2,
    )


def generating(case: Case, mesh: Mesh) -> Iterable[Work]:
    """Prefill, insertion into the cache, and decoding."""
    config, shape = case.config, case.shape
    model = decoder(case, mesh)
    rows = by_row(mesh, fill([[]] * shape.rows, shape))
    prompts = shape.rows, case.documents
    # One stack of layers, as on accelerators.
    size = *prompts, case.slot_tokens, 1
    empty = jax.eval_shape(lambda model: engine._empty_cache(model, *size), model)
    cache = placed(mesh, empty)
    model_bytes, cache_bytes = map(bytes_on_device, (model, cache))
    lengths = [case.slot_tokens] * (case.tokens // case.slot_tokens) * shape.rows
    head = 2 * config.width * config.vocabulary
    attention = kernel_flops(config, lengths) if case.kernel == "splash" else 0
    yield Work(
        name="prefill",
        lower=lambda: engine._prefill.lower(model, rows),
        held=model_bytes + cache_bytes + bytes_on_device(rows),
        counted_flops=config.prefill_flops(lengths) - len(lengths) * head,
        attention_flops=attention,
    )
    prefilled = placed(mesh, jax.eval_shape(engine._prefill, model, rows))
    places = by_row(mesh, np.zeros((shape.rows, shape.slots), np.int32))
    yield Work(
        name="insert",
        lower=lambda: engine._insert.lower(cache, prefilled, places),
        held=model_bytes + cache_bytes + bytes_on_device(prefilled),
        counted_flops=0,
        attention_flops=0,
    )
    sampling = SamplingConfig(max_new_tokens=case.new_tokens)
    state = by_row(
        mesh, tuple(np.zeros(prompts, t) for t in (np.int32, np.uint32, np.bool_))
    )
    seen = case.slot_tokens + case.new_tokens
    per_token = 2 * config.matmul_parameters() + head
    per_token += 4 * config.layers * config.heads * config.head_width * seen
    drawn = shape.rows * case.documents
    yield Work(
        name="decode",
        lower=lambda: engine._decode.lower(model, cache, *state, None, sampling),
        held=model_bytes + cache_bytes,
        counted_flops=drawn * (case.new_tokens * per_token + head),
        attention_flops=0,
    )


def training(case: Case, mesh: Mesh) -> Iterable[Work]:
    """One step, all of whose tokens are both read and predicted."""
    config = case.config
    program = Program(
        model=config, lora=case.lora, dtype=case.dtype, kernel=case.kernel
    )
    shapes = step_shapes(program, case.shape, mesh)
    tokens = case.shape.rows * case.tokens
    lengths = [case.slot_tokens] * (tokens // case.slot_tokens)
    products = 2 * (config.matmul_parameters() + config.width * config.vocabulary)
    # Each product again for the gradient, and again for that of what is trained.
    times = 3 if case.lora else 4
    square = config.prefill_flops(lengths) - 2 * config.matmul_parameters() * tokens
    square -= 2 * len(lengths) * config.width * config.vocabulary
    yield Work(
        name="LoRA step" if case.lora else "full step",
        lower=lambda: train_step.lower(*shapes, program=program),
        held=bytes_on_device(shapes),
        # Attention's gradient has five products where it has two itself.
        counted_flops=times * products * tokens + (2 + 2.5) * square,
        # The kernel's has seven.
        attention_flops=(2 + 3.5) * kernel_flops(config, lengths)
        if case.kernel == "splash"
        else 0,
    )


def decoder(case: Case, mesh: Mesh) -> Decoder:
    """The model, with shapes in the places of arrays."""
    dtype = jnp.dtype(case.dtype)
    shardings = weight_shardings(case.config, mesh)
    weights: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(weight.shape, dtype, sharding=shardings[name])
        for name, weight in weights_of(case.config).items()
    }
    if case.quantized:
        for name in (f"layers.{adapted}" for adapted in ADAPTED):
            parts = quantize._to_eight_bits.eval_shape(weights[name], case.quantized)
            weights[name] = quantize.Quantized(*placed(mesh, parts))
    return Decoder(case.config, weights, case.kernel)


def placed(mesh: Mesh, shapes: Any) -> Any:
    """Shapes on a mesh of devices, where those of a traced function are on its axes."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, x.sharding.spec)
        ),
        shapes,
    )


def by_row(mesh: Mesh, arrays: Any) -> Any:
    """The shapes of what `sharding.put_rows` makes."""

    def shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
        axes = spec("row", *[None] * (x.ndim - 1))
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, axes)
        )

    return jax.tree.map(shape, arrays)


def bytes_on_device(shapes: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape)
        * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def kernel_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """What the splash kernel computes: whole blocks, where one of them is seen."""
    block = SPLASH_BLOCK
    pairs = sum(n * (n + block) / 2 for n in lengths)
    return 4 * pairs * config.layers * config.heads * config.head_width


def fit_of(case: Case, work: Work) -> Fit:
    try:
        compiled = work.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Fit(program=work.name, error=first_line(str(error)))
    memory = hlo.memory(compiled)
    program = hlo.parse(compiled.as_text())
    exchanged = hlo.collectives(program)
    products = hlo.flops(program)
    devices = case.mesh[0] * case.mesh[1]
    attention = work.attention_flops / devices
    found = Fit(
        program=work.name,
        arguments=memory["arguments"],
        results=memory["results"],
        temporaries=memory["temporaries"],
        resident=work.held + memory["peak"] - memory["arguments"],
        flops=sum(products.values()) + attention,
        counted_flops=work.counted_flops / devices,
        hbm_bytes=hlo.hbm_bytes(program),
        collectives=exchanged,
    )
    if case.chip == "cpu":
        return found
    chip = CHIPS[case.chip]
    peak = {dtype: chip.flops * (2 if dtype == "s8" else 1) for dtype in products}
    kernel = attention / chip.flops
    # Two chips that exchange share one link; in a ring each has two.
    exchange = sum(
        each.runs * each.sent_bytes / (chip.link * (1 if each.group == 2 else 2))
        for each in exchanged
    )
    in_turn = hlo.least_seconds(program, peak, chip.bandwidth)
    return dataclasses.replace(
        found,
        arithmetic_s=sum(n / peak[dtype] for dtype, n in products.items()) + kernel,
        memory_s=found.hbm_bytes / chip.bandwidth,
        exchange_s=exchange,
        in_turn_s=in_turn + kernel + exchange,
    )


def faults(case: Case, fit: Fit) -> list[str]:
    """What is wrong with it, in words."""
    if fit.error is not None:
        return [f"does not fit: {fit.error}"]
    found = []
    if case.chip != "cpu" and fit.resident > CHIPS[case.chip].hbm:
        found.append("does not fit beside what else is in memory")
    # On CPU attention computes whole blocks, which are much of a tiny model.
    most = DEMANDED if case.chip != "cpu" else 3
    if fit.program == "prefill" and fit.flops > most * fit.counted_flops:
        found.append(f"computes over {most} of what it needs")
    return found


def first_line(message: str) -> str:
    """The compiler's own sentence on sizes, without the listing of buffers."""
    sizes = re.search(r"Used [\d.]+\w? of [\d.]+\w? hbm", message)
    return sizes[0] if sizes else message.splitlines()[0][:200]


def heading(case: Case) -> str:
    data, model = case.mesh
    shape = case.shape
    what = f"{case.documents} documents a row" if case.documents else "training"
    kind = case.quantized or case.dtype
    return (
        f"\n{case.title}, {kind}, {case.chip}, data {data} x model {model}; "
        f"T={shape.tokens:,} C={shape.slots} S={shape.slot_tokens:,}, {what}"
    )


def described(fit: Fit, case: Case) -> str:
    """A few lines."""
    wrong = "".join(f"\n    ** {fault}" for fault in faults(case, fit))
    if fit.error is not None:
        return f"  {fit.program}{wrong}"
    room = f" of {CHIPS[case.chip].hbm / 1e9:.2f}" if case.chip != "cpu" else ""
    lines = [
        f"  {fit.program}",
        f"    GB on a device: arguments {fit.arguments / 1e9:.2f}, "
        f"results {fit.results / 1e9:.2f}, temporaries {fit.temporaries / 1e9:.2f}; "
        f"with all that is there {fit.resident / 1e9:.2f}{room}",
        f"    TFLOP {fit.flops / 1e12:.3f}"
        + (f", {fit.flops / fit.counted_flops:.3f} of the count" if fit.flops else "")
        + f"; GB moved {fit.hbm_bytes / 1e9:.2f}",
    ]
    counts: dict[hlo.Collective, int] = {}
    for each in fit.collectives:
        counts[each] = counts.get(each, 0) + 1
    lines += [
        f"    {count} {each.kind} of {each.group} x {each.runs} runs, "
        f"{each.size_bytes / 1e6:.2f} MB"
        for each, count in counts.items()
    ] or ["    no exchange"]
    if case.chip != "cpu":
        lines.append(
            "    roofline, not a measurement, ms: "
            f"arithmetic {fit.arithmetic_s * 1e3:.1f}, "
            f"memory {fit.memory_s * 1e3:.1f}, exchange {fit.exchange_s * 1e3:.1f}; "
            f"operation by operation {fit.in_turn_s * 1e3:.1f}"
        )
    return "\n".join(lines) + wrong


def rates(case: Case, fits: Sequence[Fit]) -> str:
    """Documents a second that the rooflines of all programs together leave."""
    if any(fit.error for fit in fits):
        return "  no rate: it does not fit"
    rows = case.shape.rows
    prompt = 1000 * (case.slot_tokens // 1024)  # tokens, nearly a slot
    read = rows * (case.tokens // prompt)
    # A program's time is shared by the documents in it.
    documents = {
        "prefill": read,
        "insert": read,
        "decode": rows * case.documents * case.new_tokens / ANSWER_TOKENS,
    }

    def rate(seconds: Callable[[Fit], float]) -> float:
        return 1 / sum(seconds(fit) / documents[fit.program] for fit in fits)

    most = rate(lambda f: max(f.arithmetic_s, f.memory_s, f.exchange_s))
    in_turn = rate(lambda f: f.in_turn_s)
    return (
        f"  roofline, not a measurement: {prompt:,} tokens in, {ANSWER_TOKENS} out, "
        f"eight chips: at most {most:.0f} documents/s, operation by operation "
        f"{in_turn:.0f}"
    )


if __name__ == "__main__":
    main()
