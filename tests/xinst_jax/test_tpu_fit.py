# ruff: noqa: E501
"""Compiled programs: how their text is read, and what devices exchange in them.

On fake CPU devices, and for TPUs where their compiler is installed (`libtpu`).
"""

import collections
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TEXT = """\
HloModule jit_f

%add.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

%all-reduce-scatter.1.clone (input.4: bf16[64,32]) -> bf16[8,32] {
  %input.4 = bf16[64,32]{1,0} parameter(0)
  %all-reduce.8 = bf16[64,32]{0,1:T(8,128)(2,1)} all-reduce(%input.4), channel_id=4, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add.clone
  ROOT %dynamic-slice.60 = bf16[8,32]{0,1:T(8,128)} dynamic-slice(%all-reduce.8, %c, %m)
}

%slice_product (stack: bf16[6,64,32], i: s32[], x: bf16[16,32]) -> bf16[16,64] {
  %stack = bf16[6,64,32]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %x.1 = bf16[16,32]{1,0} parameter(2)
  %same = bf16[6,64,32]{2,1,0} copy(%stack)
  %slice = bf16[1,64,32]{2,1,0} dynamic-slice(%same, %i), dynamic_slice_sizes={1,64,32}
  %weight = bf16[64,32]{1,0} bitcast(%slice)
  ROOT %product = bf16[16,64]{1,0} convolution(%x.1, %weight), dim_labels=bf_oi->bf
}

%put (stack.2: bf16[6,16,64], new: bf16[16,64], i.2: s32[]) -> bf16[6,16,64] {
  %stack.2 = bf16[6,16,64]{2,1,0} parameter(0)
  %new = bf16[16,64]{1,0} parameter(1)
  %i.2 = s32[] parameter(2)
  %one = bf16[1,16,64]{2,1,0} bitcast(%new)
  ROOT %put.1 = bf16[6,16,64]{2,1,0} dynamic-update-slice(%stack.2, %one, %i.2)
}

%less (counter: s32[], bound: s32[]) -> pred[] {
  %counter = s32[] parameter(0)
  %six = s32[]{:T(128)} constant(6)
  ROOT %compare = pred[] compare(%counter, %six), direction=LT
}

%condition (carry: (s32[], bf16[16,32])) -> pred[] {
  %carry = (s32[], bf16[16,32]{1,0}) parameter(0)
  %counter.1 = s32[] get-tuple-element(%carry), index=0
  ROOT %less.1 = pred[] fusion(%counter.1), kind=kLoop, calls=%less
}

%body (carry.1: (s32[], /*index=1*/bf16[16,32])) -> (s32[], bf16[16,32]) {
  %carry.1 = (s32[], /*index=1*/bf16[16,32]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %x.2 = bf16[16,32]{1,0} get-tuple-element(%carry.1), index=1
  %weights = bf16[6,64,32]{2,1,0} constant({...})
  %fast = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%weights, %i.1, %x.2), kind=kOutput, calls=%slice_product
  %kept = bf16[6,16,64]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %put.2 = bf16[6,16,64]{2,1,0} fusion(%kept, %fast, %i.1), kind=kLoop, calls=%put
  %start = (bf16[16,32]{1,0}, bf16[16,32]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%x.2)
  %done = bf16[16,32]{1,0:S(1)} copy-done(%start)
  %sum = (bf16[8,4]{1,0}, f32[8,4]{1,0}) all-reduce(%done, %done), channel_id=3, replica_groups=[4,2]<=[8], to_apply=%add.clone
  ROOT %tuple = (s32[], bf16[16,32]{1,0}) tuple(%i.1, %x.2)
}

ENTRY %main (p: bf16[16,32], q: f32[32,8,4,128], r: f32[32,8,1024,128]) -> f32[] {
  %p = bf16[16,32]{1,0} parameter(0)
  %q = f32[32,8,4,128]{3,2,1,0} parameter(1)
  %r = f32[32,8,1024,128]{3,2,1,0} parameter(2)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[16,32]{1,0}) tuple(%zero, %p)
  %while = (s32[], bf16[16,32]{1,0}) while(%init), condition=%condition, body=%body
  %batched = f32[32,8,4,1024]{3,2,1,0:S(1)} convolution(%q, %r), window={size=32x8 stride=31x7 lhs_dilate=32x8}, dim_labels=01bf_01oi->01bf
  %scatter = bf16[8,32]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1.clone
  %permute-start = (bf16[24,64]{1,0}, bf16[24,64]{1,0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), source_target_pairs={{0,1},{1,2}}
  %permute-done = bf16[24,64]{1,0} collective-permute-done(%permute-start)
  %gather-start = ((f32[2,4]{1,0}, s8[16]{0}), (f32[8,4]{1,0}, s8[64]{0})) all-gather-start(%p, %p), replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([4,2]T(1,0)) {'a'}
  %gather-done = (f32[8,4]{1,0}, s8[64]{0}) all-gather-done(%gather-start)
  ROOT %psum = f32[] all-reduce(%zero), replica_groups={{0,1,2,3}}, to_apply=%add.clone, metadata={op_name="jit(f)/all-gather(fake)"}
}
"""


@pytest.fixture(scope="module")
def hlo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hlo", BENCHMARKS / "hlo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["hlo"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_a_loop_counts_as_often_as_it_runs(hlo: ModuleType) -> None:
    runs = hlo.parse(TEXT).runs
    assert runs == {"main": 1, "condition": 6, "body": 6}
    said = TEXT.replace("body=%body", 'body=%body, x={"known_trip_count":{"n":"9"}}')
    assert hlo.parse(said).runs["body"] == 9


def test_collectives_with_their_groups_and_an_asynchronous_pair_once(
    hlo: ModuleType,
) -> None:
    found = hlo.collectives(hlo.parse(TEXT))
    assert found == [
        hlo.Collective("all-gather", 1, 8 * 4 * 4 + 64, 4),
        hlo.Collective("all-reduce", 1, 4, 4),
        hlo.Collective("all-reduce", 6, 8 * 4 * (2 + 4), 2),
        hlo.Collective("collective-permute", 1, 24 * 64 * 2, 2),
        hlo.Collective("reduce-scatter", 1, 8 * 32 * 2, 8),
    ]
    assert [c.sent_bytes for c in found] == [144, 6, 192, 3072, 3584]


def test_flops_of_products_also_where_a_batch_is_written_as_space(
    hlo: ModuleType,
) -> None:
    assert hlo.flops(hlo.parse(TEXT)) == {
        "bf16": 6 * 2 * 16 * 64 * 32,
        "f32": 2 * 32 * 8 * 4 * 1024 * 128,
    }


def test_bytes_of_the_parts_that_are_read_and_written_in_slow_memory(
    hlo: ModuleType,
) -> None:
    layer = 2 * (64 * 32 + 16 * 32) + 4  # a slice of the weights, x, the counter
    layer += 2 * 16 * 64 + 4  # what is put into the stack; its source is fast
    layer += 2 * 16 * 32  # the copy's source
    layer += 8 * 4 * (2 + 4)  # what the sum returns
    condition = 4 + 1
    assert hlo.hbm_bytes(
        hlo.parse(TEXT.split("ENTRY")[0] + "ENTRY" + entry("%while"))
    ) == 6 * (layer + condition)


def entry(*names: str) -> str:
    """The entry's parameters and constants, and these of its instructions."""
    lines = TEXT.split("ENTRY")[1].splitlines()
    kept = [
        line
        for line in lines[1:-1]
        if any(f" {name} =" in line for name in ("%p", "%zero", "%init", *names))
    ]
    return "\n".join([lines[0], *kept, "}"])


def test_least_seconds_take_each_operation_at_its_own_roof(hlo: ModuleType) -> None:
    program = hlo.parse(TEXT.split("ENTRY")[0] + "ENTRY" + entry("%while"))
    slow_memory = hlo.least_seconds(program, {"bf16": 1e30}, 1.0)
    assert slow_memory == hlo.hbm_bytes(program)
    product = 2 * 16 * 64 * 32
    others = 6 * (2 * 16 * 64 + 4 + 8 * 4 * (2 + 4) + 4 + 1)  # no copy: it runs beside
    assert hlo.least_seconds(program, {"bf16": 0.1}, 1.0) == 6 * product * 10 + others


def test_what_jax_compiles_here_is_read_likewise(hlo: ModuleType) -> None:
    def f(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 64), (5, 64, 64))]
    compiled = jax.jit(f).lower(*shapes).compile()
    assert hlo.flops(hlo.parse(compiled.as_text())) == {"f32": 5 * 2 * 8 * 64 * 64}
    memory = hlo.memory(compiled)
    assert memory["arguments"] == 4 * (8 * 64 + 5 * 64 * 64)
    assert memory["results"] == 4 * 8 * 64
    assert memory["peak"] == sum(memory[k] for k in memory if k != "peak")


def run(path: Path, *options: str) -> list[dict[str, Any]]:
    """What `tpu_fit.py` finds, in a process of its own."""
    arguments = [str(BENCHMARKS / "tpu_fit.py"), *options, "--json", str(path)]
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run(tmp_path_factory.mktemp("tiny") / "fits.json", "--platform", "cpu")


MESHES = [(8, 1), (4, 2), (2, 4)]
LAYERS, STEPS = 3, 8  # of the tiny model and its answers


def exchanges(
    fits: list[dict[str, Any]], program: str, mesh: tuple[int, int]
) -> dict[tuple[Any, ...], int]:
    """How many of each kind, number of runs, and group of devices."""
    (fit,) = (f for f in fits if f["program"] == program and f["mesh"] == [*mesh])
    kinds = [(c["kind"], c["runs"], c["group"]) for c in fit["collectives"]]
    return collections.Counter(kind for kind in kinds if kind[2] > 1)


@pytest.mark.parametrize("mesh", MESHES)
def test_prefill_exchanges_the_sums_that_split_weights_need(
    tiny: list[dict[str, Any]], mesh: tuple[int, int]
) -> None:
    model = mesh[1]
    expected = {
        ("all-reduce", 1, model): 1,  # a token's embedding is on one of the devices
        ("all-reduce", LAYERS, model): 2,  # the ends of attention and MLP
    }
    assert exchanges(tiny, "prefill", mesh) == (expected if model > 1 else {})
    assert exchanges(tiny, "insert", mesh) == {}


@pytest.mark.parametrize("mesh", MESHES)
def test_decoding_exchanges_besides_logits_and_whether_all_have_ended(
    tiny: list[dict[str, Any]], mesh: tuple[int, int]
) -> None:
    data, model = mesh
    expected = collections.Counter({("all-reduce", STEPS, data): 1})  # have all ended?
    if model > 1:
        expected += {
            ("all-gather", 1, model): 1,  # logits of the prompts
            ("all-gather", STEPS, model): 1,  # and of each new token
            ("all-reduce", STEPS, model): 1,  # embedding
            ("all-reduce", STEPS * LAYERS, model): 2,
        }
    assert exchanges(tiny, "decode", mesh) == expected


@pytest.mark.parametrize("mesh", MESHES)
def test_a_step_gathers_weights_and_sums_gradients_of_adapters(
    tiny: list[dict[str, Any]], mesh: tuple[int, int]
) -> None:
    (fit,) = (f for f in tiny if f["program"] == "LoRA step" and f["mesh"] == [*mesh])
    data, model = mesh
    sizes: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for each in fit["collectives"]:
        sizes[each["kind"], each["runs"], each["group"]] += each["size_bytes"]
    width, mlp, query, key, rank, tokens = 32, 48, 64, 32, 4, 256
    layer = width * (2 * query + 2 * key + 3 * mlp)
    # Forward, and again for the gradient.
    assert sizes["all-gather", LAYERS, data] == 2 * 4 * layer // model
    assert sizes["all-gather", 1, data] == 2 * 4 * 264 * width // model
    down = 3 * width + width + query + mlp + width  # inputs of the seven
    up = query + 2 * key + width + 2 * mlp + width
    split = query + mlp + query + 2 * key + 2 * mlp  # along the model axis
    adapters = rank * (down + up - split + split // model)
    assert sizes["all-reduce", LAYERS, data] == 4 * adapters
    del sizes["all-gather", LAYERS, data], sizes["all-gather", 1, data]
    del sizes["all-reduce", LAYERS, data]
    if model > 1:
        # The ends of attention and MLP, attention's again for the gradient, and
        # backwards the starts: queries, keys, values, gate and up.
        states = 3 + 5
        # Adapters' inner products: of the ends likewise; of all their starts.
        inner = 3 + 5 + 1
        assert sizes.pop(("all-reduce", LAYERS, model)) == 4 * tokens * (
            states * width + inner * rank
        )
    # The rest is once a step: at most the embedding, the loss's states twice, sums.
    assert {kind for kind, _, _ in sizes} == {"all-reduce"}
    assert {runs for _, runs, _ in sizes} == {1}
    assert sum(sizes.values()) < 4 * tokens * (4 * width + 8)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, TPU's compiler"
)
def test_a_model_fits_eight_chips_and_exchanges_no_more(tmp_path: Path) -> None:
    fits = run(tmp_path / "fits.json", "--quick")
    assert [fit["program"] for fit in fits] == ["prefill", "insert", "decode"]
    layers, steps = 32, 128
    assert exchanges(fits, "prefill", (4, 2)) == {
        ("all-reduce", 1, 2): 1,
        ("all-reduce", layers, 2): 2,
    }
    assert exchanges(fits, "insert", (4, 2)) == {}
    assert exchanges(fits, "decode", (4, 2)) == {
        ("all-reduce", steps, 4): 1,
        ("all-gather", 1, 2): 1,
        ("all-gather", steps, 2): 1,
        ("all-reduce", steps, 2): 1,
        ("all-reduce", layers * steps, 2): 2,
    }
    prefill, insert, decode = fits
    assert 1 <= prefill["flops"] / prefill["counted_flops"] < 1.02
    assert 1 <= decode["flops"] / decode["counted_flops"] < 1.01
    # Of a layer's activations, and of weights and cache: more would be copies.
    assert prefill["hbm_bytes"] / layers < 5.7e9
    assert decode["hbm_bytes"] / steps < 12.6e9
    assert insert["temporaries"] < 1e7
