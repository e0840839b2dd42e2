"""Documents of many lengths → full rows of tokens, and where to find them again.

```
R row   T token of a row   C document slot of a row   S position in a slot
```

A row is what the linear layers see: documents back to back, then padding. A slot is
what attention sees: one document alone. Every index past its end means padding.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

Ids = Any  # NumPy's on the host, JAX's on the device; or shapes alone, to compile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowShape:
    """The static sizes of packed rows, so that one program serves all documents.

    Attributes:
      rows: R; the mesh's data axis.
      tokens: T, in a row.
      slots: C, in a row.
      slot_tokens: S, the longest document.
    """

    rows: int
    tokens: int
    slots: int
    slot_tokens: int

    def __post_init__(self) -> None:
        if min(self.rows, self.slots) < 1 or not 1 <= self.slot_tokens <= self.tokens:
            raise ValueError(
                "RowShape needs 1 <= rows, 1 <= slots, 1 <= slot_tokens <= tokens, "
                f"got {self}."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Packed documents.

    Attributes:
      tokens: Ids, 0 in padding.
      positions: Of each token within its document, 0 in padding.
      slot_index: The row's token that belongs into a slot; T is padding.
      token_slot: `c * S + s` for each token of the row; C * S is padding.
      lens: Tokens of the document in a slot. An empty slot has length 1: a softmax
        over nothing and an index of -1 are both traps.
    """

    tokens: Int[Ids, "R T"]
    positions: Int[Ids, "R T"]
    slot_index: Int[Ids, "R C S"]
    token_slot: Int[Ids, "R T"]
    lens: Int[Ids, "R C"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packed documents, and which of their tokens are to be learnt.

    Attributes:
      rows: Prompts and targets, back to back.
      index: The states that predict a target's tokens; T in padding.
      targets: The ids that they predict.
    """

    rows: Rows
    index: Int[Ids, "R Q"]
    targets: Int[Ids, "R Q"]


def assign(
    lengths: Sequence[int], shape: RowShape
) -> tuple[list[list[int]], list[int]]:
    """Chooses a row for each document, the longest first, where it first fits.

    Args:
      lengths: Tokens of each document.
      shape: Its `rows`, `tokens` and `slots` bound the rows.

    Returns:
      For each row the documents in it, and the documents that did not fit, both as
      indices into `lengths`; the latter in their given order.

    Raises:
      ValueError: A document can never fit; names the first.
    """
    for document, length in enumerate(lengths):
        if not 1 <= length <= shape.slot_tokens:
            raise ValueError(
                f"A slot holds 1 to {shape.slot_tokens} tokens, "
                f"document {document} has {length}."
            )
    rows: list[list[int]] = [[] for _ in range(shape.rows)]
    room = [shape.tokens] * shape.rows
    left = []
    for document in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row, documents in enumerate(rows):
            if len(documents) < shape.slots and lengths[document] <= room[row]:
                documents.append(document)
                room[row] -= lengths[document]
                break
        else:
            left.append(document)
    return rows, sorted(left)


def fill(
    documents: Sequence[Sequence[Sequence[int] | np.ndarray]], shape: RowShape
) -> Rows:
    """Lays out the token ids `documents[row][slot]`, as `assign` chose them."""
    return _fill([_lay(in_row) for in_row in documents], shape)


def fill_targets(
    documents: Sequence[Sequence[Sequence[int] | np.ndarray]],
    prompt_tokens: Sequence[Sequence[int]],
    shape: RowShape,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Which states of the rows predict what follows each document's prompt.

    Args:
      documents: As in `fill`: ids of prompt and target together.
      prompt_tokens: How many of a document's ids, at least 1, are its prompt.
      shape: Of the rows.
      size: Q, at least the number of target tokens in any row.

    Returns:
      Indices into a row's tokens, T in padding, and the ids predicted, both [R, Q].
    """
    laid = [_lay(in_row) for in_row in documents]
    return _fill_targets(laid, prompt_tokens, shape, size)


def lay_out(
    examples: Sequence[tuple[Sequence[int] | np.ndarray, int]],
    rows: Sequence[Sequence[int]],
    shape: RowShape,
    size: int,
) -> Batch:
    """The batch of some examples, as `assign` chose their rows.

    Args:
      examples: Token ids, and how many of the first are only read, not predicted.
      rows: For each row the examples in it, as indices.
      shape: Of the rows.
      size: Q, at least the number of target tokens in any row.
    """
    texts = [[examples[i][0] for i in row] for row in rows]
    read = [[examples[i][1] for i in row] for row in rows]
    laid = [_lay(in_row) for in_row in texts]
    index, targets = _fill_targets(laid, read, shape, size)
    return Batch(rows=_fill(laid, shape), index=index, targets=targets)


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """Documents back to back, as arrays of the whole row.

    A call of NumPy's for each document would cost more than its work.

    Attributes:
      ids: Of all tokens.
      sizes: Tokens of each document.
      place: Of each token within the row.
      within: Of each token within its document.
    """

    ids: np.ndarray
    sizes: np.ndarray
    place: np.ndarray
    within: np.ndarray


def _lay(in_row: Sequence[Ids]) -> _Row:
    sizes = np.fromiter(map(len, in_row), np.int32, len(in_row))
    ends = np.cumsum(sizes, dtype=np.int32)
    place = np.arange(sizes.sum(), dtype=np.int32)
    within = place - np.repeat(ends - sizes, sizes)
    ids = np.empty(len(place), np.int32)
    if len(in_row):
        np.concatenate(in_row, out=ids, casting="same_kind")
    return _Row(ids, sizes, place, within)


def _fill(laid: Sequence[_Row], shape: RowShape) -> Rows:
    num_tokens, num_slots, size = shape.tokens, shape.slots, shape.slot_tokens
    tokens = np.zeros((shape.rows, num_tokens), np.int32)
    positions = np.zeros_like(tokens)
    slot_index = np.full((shape.rows, num_slots * size), num_tokens, np.int32)
    token_slot = np.full_like(tokens, num_slots * size)
    lens = np.ones((shape.rows, num_slots), np.int32)
    for number, row in enumerate(laid):
        own = slice(0, len(row.place))
        first = np.arange(len(row.sizes), dtype=np.int32) * size
        slots = row.within + np.repeat(first, row.sizes)
        tokens[number, own] = row.ids
        positions[number, own] = row.within
        slot_index[number, slots] = row.place
        token_slot[number, own] = slots
        lens[number, : len(row.sizes)] = row.sizes
    return Rows(
        tokens=tokens,
        positions=positions,
        slot_index=slot_index.reshape(shape.rows, num_slots, size),
        token_slot=token_slot,
        lens=lens,
    )


def _fill_targets(
    laid: Sequence[_Row],
    prompt_tokens: Sequence[Sequence[int]],
    shape: RowShape,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    index = np.full((shape.rows, size), shape.tokens, np.int32)
    targets = np.zeros_like(index)
    for number, (row, prompts) in enumerate(zip(laid, prompt_tokens, strict=True)):
        # A target's token follows its document's prompt.
        read = np.repeat(np.asarray(prompts, np.int32), row.sizes)
        at = row.place[row.within >= read]
        index[number, : len(at)] = at - 1
        targets[number, : len(at)] = row.ids[at]
    return index, targets
