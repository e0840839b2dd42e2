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


def fill(documents: Sequence[Sequence[Sequence[int]]], shape: RowShape) -> Rows:
    """Lays out the token ids `documents[row][slot]`, as `assign` chose them."""
    num_tokens, num_slots, size = shape.tokens, shape.slots, shape.slot_tokens
    tokens = np.zeros((shape.rows, num_tokens), np.int32)
    positions = np.zeros_like(tokens)
    slot_index = np.full((shape.rows, num_slots, size), num_tokens, np.int32)
    token_slot = np.full_like(tokens, num_slots * size)
    lens = np.ones((shape.rows, num_slots), np.int32)
    for row, in_row in enumerate(documents):
        start = 0
        for slot, ids in enumerate(in_row):
            place, within = slice(start, start + len(ids)), np.arange(len(ids))
            tokens[row, place] = ids
            positions[row, place] = within
            slot_index[row, slot, : len(ids)] = start + within
            token_slot[row, place] = slot * size + within
            lens[row, slot] = len(ids)
            start += len(ids)
    return Rows(
        tokens=tokens,
        positions=positions,
        slot_index=slot_index,
        token_slot=token_slot,
        lens=lens,
    )


def fill_targets(
    documents: Sequence[Sequence[Sequence[int]]],
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
    index = np.full((shape.rows, size), shape.tokens, np.int32)
    targets = np.zeros_like(index)
    for row, in_row in enumerate(documents):
        start = used = 0
        for ids, prompt in zip(in_row, prompt_tokens[row], strict=True):
            place = slice(used, used + len(ids) - prompt)
            index[row, place] = np.arange(start + prompt - 1, start + len(ids) - 1)
            targets[row, place] = ids[prompt:]
            start += len(ids)
            used += len(ids) - prompt
    return index, targets


def lay_out(
    examples: Sequence[tuple[Sequence[int], int]],
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
    index, targets = fill_targets(texts, read, shape, size)
    return Batch(rows=fill(texts, shape), index=index, targets=targets)
