"""The JAX engine: load a checkpoint, then generate, score, embed or fine-tune.

Importing this package loads no JAX: `xinst_jax.prompts` serves code that has none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xinst_jax.config import ModelConfig, SamplingConfig
    from xinst_jax.engine import Engine, Generation

__all__ = ["Engine", "Generation", "ModelConfig", "SamplingConfig"]

_HOME = {
    "Engine": "engine",
    "Generation": "engine",
    "ModelConfig": "config",
    "SamplingConfig": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
