"""The data set as batches for a training loop: Grain → packed, masked, sharded rows.

Needs Grain and a tokenizer, and neither the pipeline nor TensorFlow.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from xinst_jax import prompts
