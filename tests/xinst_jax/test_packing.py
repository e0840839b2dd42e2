import itertools

import numpy as np
import pytest

from xinst_jax.packing import RowShape, assign, fill, fill_targets

SHAPE = RowShape(rows=2, tokens=16, slots=3, slot_tokens=8)


def test_every_document_is_placed_once_or_returned_and_nothing_overflows() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 9, rng.integers(0, 20)).tolist()
        rows, left = assign(lengths, SHAPE)
        assert sorted(itertools.chain(*rows, left)) == list(range(len(lengths)))
        assert left == sorted(left)
        for row in rows:
            assert len(row) <= SHAPE.slots
            assert sum(lengths[i] for i in row) <= SHAPE.tokens
        for i in left:
            for row in rows:
                room = SHAPE.tokens - sum(lengths[j] for j in row)
                assert len(row) == SHAPE.slots or lengths[i] > room


def test_long_documents_fill_rows_first() -> None:
    rows, left = assign([3, 8, 8, 5, 8, 2], SHAPE)
    assert rows == [[1, 2], [4, 3, 0]]
    assert left == [5]


@pytest.mark.parametrize("length", [0, 9])
def test_a_document_that_can_never_fit_is_named(length: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 8 tokens, document 1 has {length}"):
        assign([4, length], SHAPE)


def test_slots_and_rows_hold_the_same_tokens() -> None:
    documents = [[[5, 6, 7], [8]], [[9, 9, 9, 9, 9, 9, 9, 9]]]
    rows = fill(documents, SHAPE)
    assert rows.tokens.shape == (2, 16)
    for r, in_row in enumerate(documents):
        padded = np.append(rows.tokens[r], -1)  # index T is padding
        slots = padded[rows.slot_index[r]]
        for c in range(SHAPE.slots):
            ids = in_row[c] if c < len(in_row) else []
            assert slots[c].tolist() == ids + [-1] * (8 - len(ids))
            assert rows.lens[r, c] == max(1, len(ids))
        flat = np.append(slots.ravel(), 0)
        assert flat[rows.token_slot[r]].tolist() == rows.tokens[r].tolist()
    assert rows.positions[0].tolist() == [0, 1, 2, 0] + [0] * 12


def test_targets_are_predicted_by_the_token_before_them() -> None:
    documents = [[[5, 6, 7, 8], [3, 4]], []]
    index, ids = fill_targets(documents, [[2, 1], []], SHAPE, size=4)
    assert index.tolist() == [[1, 2, 4, 16], [16] * 4]
    assert ids.tolist() == [[7, 8, 4, 0], [0] * 4]


def test_impossible_row_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="slot_tokens <= tokens"):
        RowShape(rows=1, tokens=4, slots=1, slot_tokens=8)
