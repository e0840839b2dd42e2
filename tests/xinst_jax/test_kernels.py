"""Each kernel against softmax as it is defined, in NumPy and float64."""

import importlib
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xinst_jax import kernels
from xinst_jax.attention import How, attention

Kernel = Callable[..., jax.Array]

# Both run on any platform; "reference" is what CPU has.
KERNELS: dict[str, Kernel] = {
    "splash": partial(kernels.splash, interpret=True),
    "blockwise": kernels.blockwise,
    "reference": lambda q, k, v, lens, *, scale, softcap, window: attention(
        *(q, k, v, lens),
        window is not None,
        How(scale=scale, softcap=softcap, window=window, kernel="reference"),
    ),
}
SCALE = 0.3
# Heads, key/value heads, slot size, head width, lengths, window, soft-cap: full,
# grouped, one for all; windows of one, across blocks, of more than there is.
CASES = [
    (2, 2, 128, 16, (128, 1), None, None),
    (4, 2, 256, 8, (256, 37, 129), None, 5.0),
    (4, 1, 640, 8, (600, 128), 200, None),
    (2, 2, 256, 8, (200, 3), 1, 5.0),
    (2, 1, 384, 8, (384, 130), 1000, None),
]


def inputs(
    case: tuple[Any, ...], dtype: Any = np.float32
) -> tuple[list[np.ndarray], np.ndarray, dict[str, Any]]:
    heads, kv_heads, size, width, lens, window, softcap = case
    rng = np.random.default_rng(0)
    shapes = [(len(lens), n, size, width) for n in (heads, kv_heads, kv_heads)]
    arrays = [rng.normal(size=shape).astype(dtype) * 2 for shape in shapes]
    how = {"scale": SCALE, "window": window, "softcap": softcap}
    return arrays, np.asarray(lens, np.int32), how


def naive(
    np: Any, q: Any, k: Any, v: Any, *, scale: float, window: Any, softcap: Any
) -> Any:
    """By NumPy or by JAX."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = np.einsum("bnqh,bnsh->bnqs", q, k) * scale
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    back = np.arange(q.shape[2])[:, None] - np.arange(q.shape[2])[None]
    seen = (back >= 0) & (back < (window or len(back)))
    weights = np.where(seen[None, None], np.exp(scores), 0)
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("bnqs,bnsh->bnqh", weights / total, v)


def there(lens: np.ndarray, size: int) -> np.ndarray:
    """1 where a document is, in the shape of what attention returns."""
    return (np.arange(size) < lens[:, None])[:, None, :, None]


def within(x: Any, lens: np.ndarray) -> np.ndarray:
    """What means something, and zeros past it."""
    return np.where(there(lens, x.shape[2]), np.asarray(x, np.float64), 0)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_softmax_as_it_is_defined(name: str, case: tuple[Any, ...]) -> None:
    arrays, lens, how = inputs(case)
    out = jax.jit(partial(KERNELS[name], **how))(*arrays, lens)
    exact = naive(np, *(x.astype(np.float64) for x in arrays), **how)
    np.testing.assert_allclose(within(out, lens), within(exact, lens), atol=1e-5)


@pytest.mark.parametrize("name", KERNELS)
def test_bfloat16_costs_its_own_rounding(name: str) -> None:
    arrays, lens, how = inputs(CASES[1], jnp.bfloat16)
    out = jax.jit(partial(KERNELS[name], **how))(*arrays, lens)
    assert out.dtype == jnp.bfloat16
    exact = naive(np, *(x.astype(np.float64) for x in arrays), **how)
    error = np.abs(within(out, lens) - within(exact, lens)).max()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_as_it_is_defined(name: str) -> None:
    arrays, lens, how = inputs(CASES[1])
    weight = np.random.default_rng(1).normal(size=arrays[0].shape).astype(np.float32)
    weight *= there(lens, weight.shape[2])

    def loss(attend: Kernel, *arrays: jax.Array) -> jax.Array:
        # Past a document's end anything may come out, and the weight is 0.
        return jnp.where(weight != 0, attend(*arrays) * weight, 0).sum()

    def gradient(attend: Kernel) -> Any:
        return jax.jit(jax.grad(partial(loss, attend), (0, 1, 2)))(*arrays)

    ends = jnp.asarray(lens)
    own = gradient(lambda *arrays: KERNELS[name](*arrays, ends, **how))
    for mine, exact in zip(own, gradient(partial(naive, jnp, **how)), strict=True):
        assert np.abs(exact).max() > 0.1
        np.testing.assert_allclose(mine, exact, atol=3e-5 * np.abs(exact).max())


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_past_the_end_or_in_another_slot_changes_no_bit(name: str) -> None:
    (q, k, v), lens, how = inputs(CASES[1])
    run = jax.jit(partial(KERNELS[name], **how))
    before = within(run(q, k, v, lens), lens)
    q, k, v = (x.copy() for x in (q, k, v))
    for x in (q, k, v):
        x[1, :, lens[1] :] = 1e3
        x[2] = np.nan
    after = within(run(q, k, v, lens), lens)
    np.testing.assert_array_equal(after[:2], before[:2])
    assert np.isnan(after[2]).any()


def test_a_layer_chooses_its_window_as_the_program_runs() -> None:
    (q, k, v), lens, _ = inputs(CASES[2])
    how = How(scale=SCALE, softcap=None, window=200, kernel="blockwise")
    run = jax.jit(partial(attention, how=how))
    for windowed in (True, False):
        out = run(q, k, v, lens, jnp.asarray(windowed))
        own = {"scale": SCALE, "softcap": None, "window": 200 if windowed else None}
        exact = naive(np, *(x.astype(np.float64) for x in (q, k, v)), **own)
        np.testing.assert_allclose(within(out, lens), within(exact, lens), atol=1e-5)


def test_cudnn_refuses_a_soft_cap() -> None:
    arrays, lens, how = inputs(CASES[1])
    with pytest.raises(ValueError, match=r"no soft-cap, got softcap=5.0"):
        kernels.cudnn(*map(jnp.asarray, (*arrays, lens)), **how)


FUSED = "jax._src.cudnn.fused_attention_stablehlo"


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes JAX trace for a Hopper GPU with cuDNN 9.10 where there is none."""
    try:
        module = importlib.import_module(FUSED)
        for name, answer in (
            ("check_cudnn_version", lambda: 91_000),
            ("check_compute_capability", lambda least: True),
        ):
            monkeypatch.setattr(module, name, answer)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"JAX keeps these checks elsewhere now: {error}")


def cuda_calls(function: Callable[..., Any], *shapes: Any) -> list[tuple[Any, ...]]:
    """cuDNN calls of a program for CUDA: (name, mask, window, scale, [B, N, S, S])."""
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",))
    calls = re.findall(
        r'custom_call @(__cudnn\$\w+)\(.*?backend_config = "(.*?)"', lowered.as_text()
    )
    found = []
    for name, config in calls:
        own = json.loads(config.replace(r"\22", '"'))["cudnn_fmha_backend_config"]
        size = tuple(map(int, own["intermediate_tensor_shape"]["dimensions"]))
        window = own["sliding_window_length"]
        found.append((name, own["mask_type"], window, own["fmha_scale"], size))
    return found


def shapes(width: int = 128, dtype: Any = jnp.bfloat16) -> list[jax.ShapeDtypeStruct]:
    heads = [jax.ShapeDtypeStruct((4, n, 256, width), dtype) for n in (8, 2, 2)]
    return [*heads, jax.ShapeDtypeStruct((4,), jnp.int32)]


def cudnn(window: int | None = None) -> Callable[..., Any]:
    return partial(kernels.cudnn, scale=0.25, softcap=None, window=window)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(("window", "stated"), [(None, 0), (1, 1), (100, 100)])
def test_cudnn_is_one_call_with_lengths_and_window(
    window: int | None, stated: int
) -> None:
    assert cuda_calls(cudnn(window), *shapes()) == [
        ("__cudnn$fmhaSoftmax", "PADDING_CAUSAL", stated, 0.25, (4, 8, 256, 256))
    ]


@pytest.mark.usefixtures("hopper")
def test_cudnn_has_its_own_gradient_in_a_scan_with_a_choice() -> None:
    @jax.checkpoint
    def layer(x: jax.Array, flag: jax.Array, *rest: jax.Array) -> tuple[Any, None]:
        return jax.lax.cond(flag, cudnn(64), cudnn(), x, *rest), None

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, lens: jax.Array) -> jax.Array:
        flags = jnp.asarray([True, False])
        x, _ = jax.lax.scan(lambda x, flag: layer(x, flag, k, v, lens), q, flags)
        return x.astype(jnp.float32).sum()

    calls = cuda_calls(jax.grad(loss, (0, 1, 2)), *shapes())
    assert {(name, window) for name, _, window, *_ in calls} == {
        (name, window)
        for name in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
        for window in (0, 64)
    }


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"width": 264}, "head dim must be <= 256"),
        ({"width": 100}, "multiple of 8"),
        ({"dtype": jnp.float32}, "fp16/bf16"),
    ],
)
def test_jax_refuses_what_cudnn_does_not_take(given: dict[str, Any], says: str) -> None:
    with pytest.raises(NotImplementedError, match=says):
        cuda_calls(cudnn(), *shapes(**given))
