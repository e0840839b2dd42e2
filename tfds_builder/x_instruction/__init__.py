"""The x_instruction data set: importing it makes `tfds` know its name."""

# Relative, so that it is one module under whichever name `tfds build` imports it.
from .x_instruction_dataset_builder import Builder

__all__ = ["Builder"]
