"""A tiny random Llama on disk, and the strictness all tests share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from xinst_jax.config import ModelConfig, Rope, RopeScaling
from xinst_jax.engine import Engine
from xinst_jax.families import weights_of
from xinst_jax.weights import save_checkpoint

jax.config.update("jax_numpy_rank_promotion", "raise")

# Its four rotations are one fast wave that stays, one slow that is stretched, and two
# between; its heads together are wider than the model.
TINY = ModelConfig(
    vocabulary=264,
    width=32,
    layers=3,
    heads=8,
    kv_heads=2,
    head_width=8,
    mlp_width=48,
    max_positions=320,
    norm_eps=1e-6,
    query_scale=8**-0.5,
    rope=Rope(
        theta=100.0,
        scaling=RopeScaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64
        ),
    ),
    bos=0,
    eos=(1, 2),
)


def make_tokenizer() -> Tokenizer:
    """Ids 0..7 are special, then one id a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", "<end>", "<pad>", "<a>", "<b>", "<c>", "<d>"]
    vocabulary = {token: i for i, token in enumerate(specials + letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def make_arrays(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights large enough that tokens differ, norms that are not one."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, weight in weights_of(config).items():
        spread = rng.normal(size=weight.shape)
        array = 1 + 0.3 * spread if name.endswith("norm") else 0.2 * spread
        arrays[name] = array.astype(np.float32)
    return arrays


def save(path: Path, config: ModelConfig) -> Path:
    save_checkpoint(path, config, make_arrays(config), make_tokenizer())
    return path


# With pytest's importlib mode test files cannot import this one: functions, too, are
# handed to them as fixtures.


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return TINY


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[[], Tokenizer]:
    return make_tokenizer


@pytest.fixture(scope="session")
def random_arrays() -> Callable[..., dict[str, np.ndarray]]:
    return make_arrays


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[[Path, ModelConfig], Path]:
    return save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny") / "model", TINY)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Engine:
    return Engine.load(checkpoint)


@pytest.fixture(scope="session")
def tied_config() -> ModelConfig:
    return dataclasses.replace(TINY, tied=True, rope=Rope(theta=100.0), kv_heads=8)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Ids of many lengths, so that slots of both sizes and several rows are used."""
    rng = np.random.default_rng(1)
    lengths = [1, 2, 5, 17, 40, 64, 127, 128, 129, 200, 255, 256, 257, 300]
    return [rng.integers(3, TINY.vocabulary, n).tolist() for n in lengths]
