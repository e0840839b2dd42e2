"""Pairs of prompt and answer as batches for a training loop, through Grain.

Needs Grain and a tokenizer, and neither the pipeline nor TensorFlow.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from tokenizers import Tokenizer

from xinst_jax import formats
from xinst_jax.packing import Batch, RowShape, lay_out

# A text's token ids, and how many of the first are only read, not predicted.
Example = tuple[list[int], int]
# Examples beyond those of a batch, to choose from for what room its rows have left.
_AHEAD = 256


def batches(
    source: Sequence[Any],
    tokenizer: Tokenizer,
    end_token: int,
    shape: RowShape,
    *,
    # Web text is no assistant's answer; the paper asks for it in other words.
    pair_of: Callable[[Any], tuple[str, str]] = formats.FORMATS["xinstruction"],
    seed: int = 0,
    epochs: int | None = 1,
    process: int = 0,
    processes: int = 1,
) -> grain.IterDataset[Batch]:
    """Batches of a data set, shuffled anew in each epoch, the loss on answers only.

    The iterator's `get_state` and `set_state` go into a checkpoint, so that training
    goes on where it was. Left out are examples longer than a slot, or without a prompt.

    Args:
      source: Examples by index, such as `tfds.data_source(name, split="train")`.
      tokenizer: The model's.
      end_token: Ends every answer.
      shape: Of the rows; `rows` is this process's share of the mesh's data axis.
      pair_of: An example's prompt and answer: one of `formats.FORMATS`, or any other
        function.
      seed: Of the order.
      epochs: Times over the data; None goes on for ever.
      process: This process's number.
      processes: How many share the data.

    Returns:
      Batches of one size, in which a target is possible for every token (Q = T). Only
      the last ones of all have rows that could be fuller.
    """
    examples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .slice(slice(process, None, processes))
        .repeat(epochs)
        .map(_Encode(tokenizer, end_token, pair_of))
        .filter(lambda example: 0 < example[1] < len(example[0]) <= shape.slot_tokens)
        .to_iter_dataset()
    )
    # Packed in a thread of its own, while the device works on the batch before.
    return grain.experimental.ThreadPrefetchIterDataset(
        _Packed(examples, shape), prefetch_buffer_size=2
    )


def encode(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, end_token: int
) -> list[Example]:
    """Each pair's tokens: of the prompt, of the answer, and the end token."""
    read = tokenizer.encode_batch([prompt for prompt, _ in pairs])
    learnt = tokenizer.encode_batch(
        [answer for _, answer in pairs], add_special_tokens=False
    )
    return [
        ([*prompt.ids, *answer.ids, end_token], len(prompt.ids))
        for prompt, answer in zip(read, learnt, strict=True)
    ]


def choose(lengths: Sequence[int], shape: RowShape) -> list[list[int]]:
    """Fills rows with the first of some examples, and their gaps with others.

    The first of them, as many as leave room for one more in each row, come before all
    others: so none waits for ever, and a batch's lengths are those of the data. Each
    goes, the longest first, where most room is: so each row has long ones and short
    ones, and needs few slots.

    Args:
      lengths: Tokens of each example, the one that has waited longest first.
      shape: Of the rows.

    Returns:
      For each row the examples in it, as indices into `lengths`.
    """
    totals = itertools.accumulate(lengths)
    most = shape.rows * (shape.tokens - np.mean(lengths))
    first = sum(total <= most for total in totals)
    rows: list[list[int]] = [[] for _ in range(shape.rows)]
    room = np.full(shape.rows, shape.tokens)
    for i in sorted(range(len(lengths)), key=lambda i: (i >= first, -lengths[i], i)):
        row = int(room.argmax())
        if lengths[i] <= room[row]:
            rows[row].append(i)
            # A row whose slots are all taken has no room.
            room[row] = len(rows[row]) < shape.slots and room[row] - lengths[i]
    return rows


class _Encode(grain.transforms.Map):
    """An example → its tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_token: int,
        pair_of: Callable[[Any], tuple[str, str]],
    ) -> None:
        self._tokenizer = tokenizer
        self._end_token = end_token
        self._pair_of = pair_of

    def map(self, example: Any) -> Example:
        (encoded,) = encode([self._pair_of(example)], self._tokenizer, self._end_token)
        return encoded


class _Packed(grain.IterDataset[Batch]):
    """Examples → batches of full rows."""

    def __init__(self, examples: grain.IterDataset[Example], shape: RowShape) -> None:
        super().__init__(examples)
        self._shape = shape

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        return _PackingIterator(iter(self._parent), self._shape)


class _PackingIterator(grain.DatasetIterator[Batch]):
    """Packs the oldest of the examples that wait, and fills gaps with later ones.

    Its state holds no example: it is that of the examples' iterator before the oldest
    that waits, and which of those read since then wait too.
    """

    def __init__(
        self, examples: grain.DatasetIterator[Example], shape: RowShape
    ) -> None:
        super().__init__(examples)
        self._shape = shape
        # How many were read before an example, the iterator's state then, the example.
        self._waiting: list[tuple[int, dict[str, Any], Example]] = []
        self._read = 0

    def __next__(self) -> Batch:
        shape = self._shape
        while len(self._waiting) < shape.rows * shape.slots + _AHEAD:
            try:
                self._wait_for_next()
            except StopIteration:
                break
        if not self._waiting:
            raise StopIteration
        examples = [example for *_, example in self._waiting]
        lengths = [len(ids) for ids, _ in examples]
        rows = choose(lengths, shape)
        chosen = {i for row in rows for i in row}
        self._waiting = [w for i, w in enumerate(self._waiting) if i not in chosen]
        return lay_out(examples, rows, shape, shape.tokens)

    def get_state(self) -> dict[str, Any]:
        if not self._waiting:
            return {"examples": self._parent.get_state(), "waiting": []}
        oldest, state, _ = self._waiting[0]
        waiting = [number - oldest for number, *_ in self._waiting]
        return {"examples": state, "waiting": waiting, "read": self._read - oldest}

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["examples"])
        self._waiting, self._read = [], 0
        for _ in range(state.get("read", 0)):
            self._wait_for_next()
        self._waiting = [self._waiting[number] for number in state["waiting"]]

    def _wait_for_next(self) -> None:
        before = self._parent.get_state()
        self._waiting.append((self._read, before, next(self._parent)))
        self._read += 1
