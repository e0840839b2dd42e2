"""Pairs of prompt and answer as batches for a training loop, through Grain.

Needs Grain and a tokenizer, and neither the pipeline nor TensorFlow.

Most of the time goes into the tokenizer. Who trains on the same text more than once
writes its tokens into a file, with `write_tokens`, and trains on `Tokens`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tokenizers import Tokenizer

from xinst_jax import formats
from xinst_jax.packing import Batch, RowShape, lay_out

# A text's token ids, and how many of the first are only read, not predicted.
Example = tuple[Sequence[int] | np.ndarray, int]
Pair = tuple[str, str]
# Examples beyond those of a batch, to choose from for what room its rows have left.
_AHEAD = 256
# Examples that are read and tokenized together. One by one, opening, locking and
# Grain's own work for an element take longer than all the rest.
_BLOCK = 1024


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
    read = _Encode(tokenizer, end_token, pair_of)
    return _batches(source, read, shape, seed, epochs, process, processes)


def token_batches(
    source: Sequence[Example],
    shape: RowShape,
    *,
    seed: int = 0,
    epochs: int | None = 1,
    process: int = 0,
    processes: int = 1,
) -> grain.IterDataset[Batch]:
    """As `batches`, of examples that are tokens already, such as `Tokens`."""
    return _batches(source, list, shape, seed, epochs, process, processes)


def write_tokens(
    path: str | os.PathLike[str],
    source: Sequence[Any],
    tokenizer: Tokenizer,
    end_token: int,
    pair_of: Callable[[Any], Pair] = formats.FORMATS["xinstruction"],
) -> None:
    """Writes the tokens of a data set's examples, in its order, for `Tokens` to read.

    Args:
      path: Of the file, an array_record.
      source: As for `batches`.
      tokenizer: The model's.
      end_token: Ends every answer.
      pair_of: As for `batches`.
    """
    read = _Encode(tokenizer, end_token, pair_of)
    # In groups of one, since they are read in any order; to decompress them would
    # take as long as all else that reading takes.
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
    for start in range(0, len(source), _BLOCK):
        keys = range(start, min(start + _BLOCK, len(source)))
        for ids, num_read in read(_items(source, keys)):
            writer.write(np.array([num_read, *ids], "<i4").tobytes())
    writer.close()


class Tokens(Sequence[Example]):
    """The examples of a file that `write_tokens` wrote.

    Args:
      path: Of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._records = ArrayRecordDataSource(os.fspath(path))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, key: Any) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[SupportsIndex]) -> list[Example]:
        found = (np.frombuffer(r, "<i4") for r in self._records.__getitems__(keys))
        return [(numbers[1:], int(numbers[0])) for numbers in found]


def encode(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, end_token: int
) -> list[Example]:
    """Each pair's tokens: of the prompt, of the answer, and the end token."""
    # The fast way tells the same ids, and not where in the text they are.
    read = tokenizer.encode_batch_fast([prompt for prompt, _ in pairs])
    learnt = tokenizer.encode_batch_fast(
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
    sizes = np.asarray(lengths)
    most = shape.rows * (shape.tokens - sizes.mean())
    first = int(np.count_nonzero(np.cumsum(sizes) <= most))
    rows: list[list[int]] = [[] for _ in range(shape.rows)]
    room = [shape.tokens] * shape.rows

    for start, stop in ((0, first), (first, len(sizes))):
        order = start + np.argsort(-sizes[start:stop], kind="stable")
        falling = -sizes[order]
        at = 0
        while True:
            row = max(range(shape.rows), key=room.__getitem__)
            # What is longer than the most room there is fits nowhere, now or later.
            at += int(np.searchsorted(falling[at:], -room[row]))
            if at == len(order):
                break
            i = int(order[at])
            rows[row].append(i)
            # A row whose slots are all taken has no room.
            left = room[row] - int(sizes[i])
            room[row] = left if len(rows[row]) < shape.slots else 0
            at += 1
    return rows


def _batches(
    source: Sequence[Any],
    read: Callable[[Sequence[Any]], list[Example]],
    shape: RowShape,
    seed: int,
    epochs: int | None,
    process: int,
    processes: int,
) -> grain.IterDataset[Batch]:
    blocks = (
        # Of keys: what they stand for is read block by block.
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .slice(slice(process, None, processes))
        .repeat(epochs)
        .batch(_BLOCK, batch_fn=list)
        .map(_ReadBlock(source, read, shape.slot_tokens))
    )
    # Two blocks are read, and two batches packed, while the device works on a batch;
    # the tokenizer and the reader of files have threads of their own.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    return grain.experimental.ThreadPrefetchIterDataset(
        _Packed(blocks.to_iter_dataset(options), shape), prefetch_buffer_size=2
    )


def _items(source: Sequence[Any], keys: Sequence[int]) -> Sequence[Any]:
    """Examples by their keys; at once where the source can, as TFDS's do."""
    at_once = getattr(source, "__getitems__", None)
    return at_once(keys) if at_once else [source[key] for key in keys]


class _Encode:
    """Examples → their tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_token: int,
        pair_of: Callable[[Any], Pair],
    ) -> None:
        self._tokenizer = tokenizer
        self._end_token = end_token
        self._pair_of = pair_of

    def __call__(self, examples: Sequence[Any]) -> list[Example]:
        pairs = [self._pair_of(example) for example in examples]
        return encode(pairs, self._tokenizer, self._end_token)


class _ReadBlock(grain.transforms.Map):
    """Keys → their examples, without those that fit no slot or have no prompt."""

    def __init__(
        self,
        source: Sequence[Any],
        read: Callable[[Sequence[Any]], list[Example]],
        slot_tokens: int,
    ) -> None:
        self._source = source
        self._read = read
        self._slot_tokens = slot_tokens

    def map(self, keys: list[int]) -> list[Example]:
        return [
            (ids, num_read)
            for ids, num_read in self._read(_items(self._source, keys))
            if 0 < num_read < len(ids) <= self._slot_tokens
        ]


class _Packed(grain.IterDataset[Batch]):
    """Lists of examples → batches of full rows."""

    def __init__(
        self, blocks: grain.IterDataset[list[Example]], shape: RowShape
    ) -> None:
        super().__init__(blocks)
        self._shape = shape

    def __iter__(self) -> grain.DatasetIterator[Batch]:
        return _PackingIterator(iter(self._parent), self._shape)


class _PackingIterator(grain.DatasetIterator[Batch]):
    """Packs the oldest of the examples that wait, and fills gaps with later ones.

    Its state holds no example: it is that of the blocks' iterator before the block that
    the oldest that waits is of, and which of those read since then wait too.
    """

    def __init__(
        self, blocks: grain.DatasetIterator[list[Example]], shape: RowShape
    ) -> None:
        super().__init__(blocks)
        self._shape = shape
        self._clear()

    def _clear(self) -> None:
        # How many were read before an example, and the example.
        self._waiting: list[tuple[int, Example]] = []
        # The same of a block, and the state of the blocks' iterator before it.
        self._blocks: list[tuple[int, dict[str, Any]]] = []
        self._rest: Iterator[Example] = iter(())
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
        examples = [example for _, example in self._waiting]
        rows = choose([len(ids) for ids, _ in examples], shape)
        chosen = {i for row in rows for i in row}
        self._waiting = [w for i, w in enumerate(self._waiting) if i not in chosen]
        oldest = self._waiting[0][0] if self._waiting else self._read
        while len(self._blocks) > 1 and self._blocks[1][0] <= oldest:
            del self._blocks[0]
        return lay_out(examples, rows, shape, shape.tokens)

    def get_state(self) -> dict[str, Any]:
        start = (0, self._parent.get_state())
        first, state = self._blocks[0] if self._blocks else start
        waiting = [number - first for number, _ in self._waiting]
        return {"blocks": state, "waiting": waiting, "read": self._read - first}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._parent.set_state(state["blocks"])
        self._clear()
        for _ in range(state["read"]):
            self._wait_for_next()
        self._waiting = [self._waiting[number] for number in state["waiting"]]

    def _wait_for_next(self) -> None:
        while (example := next(self._rest, None)) is None:
            before = self._parent.get_state()
            self._rest = iter(next(self._parent))
            self._blocks.append((self._read, before))
        self._waiting.append((self._read, example))
        self._read += 1
