"""The data set as batches for a training loop: Grain → packed rows with their targets.

Needs Grain and a tokenizer, and neither the pipeline nor TensorFlow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grain
from tokenizers import Tokenizer

from xinst_jax import prompts
from xinst_jax.packing import Batch, RowShape, assign, lay_out

# Examples packed together. The last rows of a window are rarely full, so a larger
# one wastes less; a smaller one follows the shuffle more closely.
_WINDOW = 256


def batches(
    source: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    end_token: int,
    shape: RowShape,
    *,
    seed: int = 0,
    epochs: int | None = 1,
    process: int = 0,
    processes: int = 1,
) -> grain.IterDataset[Batch]:
    """Batches of a data set, shuffled anew in each epoch, the loss on answers only.

    The iterator's `get_state` and `set_state` go into a checkpoint, so that training
    goes on where it was. Examples longer than a slot are left out.

    Args:
      source: Examples by index, such as `tfds.data_source(name, split="train")`.
      tokenizer: The model's.
      end_token: Ends every answer.
      shape: Of the rows; `rows` is this process's share of the mesh's data axis.
      seed: Of the order.
      epochs: Times over the data; None goes on for ever.
      process: This process's number.
      processes: How many share the data.
    """
    return (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .slice(slice(process, None, processes))
        .repeat(epochs)
        .map(_Encode(tokenizer, end_token))
        .filter(lambda encoded: len(encoded[0]) <= shape.slot_tokens)
        .to_iter_dataset()
        .batch(_WINDOW, drop_remainder=False, batch_fn=list)
        .pipe(grain.experimental.FlatMapIterDataset, _Pack(shape))
    )


def conversation(example: Mapping[str, Any]) -> tuple[str, str]:
    """The prompt that an example's instruction makes, and its answer.

    Args:
      example: `instruction`, `output` and `output_language`, as text or UTF-8.
    """
    instruction, output, language = (
        value.decode("utf-8") if isinstance(value, bytes) else value
        for value in (
            example["instruction"],
            example["output"],
            example["output_language"],
        )
    )
    # Web text is no assistant's answer; the paper asks for it in other words.
    prompt = prompts.answer(instruction, prompts.LANGUAGE_NAMES[language])
    return prompt, f" {output}"


class _Encode(grain.transforms.Map):
    """An example → its token ids, and how many of them are the prompt."""

    def __init__(self, tokenizer: Tokenizer, end_token: int) -> None:
        self._tokenizer = tokenizer
        self._end_token = end_token

    def map(self, example: Mapping[str, Any]) -> tuple[list[int], int]:
        prompt, answer = conversation(example)
        read = self._tokenizer.encode(prompt).ids
        learnt = self._tokenizer.encode(answer, add_special_tokens=False).ids
        return [*read, *learnt, self._end_token], len(read)


class _Pack(grain.experimental.FlatMapTransform):
    """A window of encoded examples → as many batches as it fills."""

    max_fan_out = _WINDOW

    def __init__(self, shape: RowShape) -> None:
        self._shape = shape

    def flat_map(self, window: Sequence[tuple[list[int], int]]) -> list[Batch]:
        shape, packed = self._shape, []
        while window:
            rows, left = assign([len(ids) for ids, _ in window], shape)
            # A target for every token of a row: one static size for all batches.
            packed.append(lay_out(window, rows, shape, shape.tokens))
            window = [window[i] for i in left]
        return packed
