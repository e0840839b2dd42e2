"""TFDS builders; `x_instruction` is the data set."""
