import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from xinst_jax import data, formats, prompts
from xinst_jax.packing import RowShape

SHAPE = RowShape(rows=2, tokens=1024, slots=6, slot_tokens=700)
EXAMPLES = [
    {
        "instruction": f"Name thing {number}.".encode(),
        "output": ("Kitu " * (number % 7 + 1)).encode(),
        "output_language": b"sw",
    }
    for number in range(300)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet)
    )
    return tokenizer


def read(batches, tokenizer) -> list[tuple[str, str]]:
    """Every packed document: its whole text, and what is to be learnt of it."""
    found = []
    for batch in batches:
        assert batch.rows.tokens.shape == (2, 1024)
        for row in range(2):
            tokens, learnt = batch.rows.tokens[row], batch.index[row]
            for slot, length in enumerate(batch.rows.lens[row]):
                place = batch.rows.slot_index[row, slot, :length]
                if length == 1:
                    continue
                own = [
                    t
                    for at, t in zip(learnt, batch.targets[row], strict=True)
                    if at in place
                ]
                found.append(
                    (tokenizer.decode(tokens[place].tolist()), tokenizer.decode(own))
                )
    return found


def test_every_example_comes_once_an_epoch_and_only_its_answer_is_learnt(tokenizer):
    found = read(data.batches(EXAMPLES, tokenizer, 0, SHAPE), tokenizer)
    expected = [formats.FORMATS["xinstruction"](example) for example in EXAMPLES]
    assert sorted(found) == sorted((p + a, a) for p, a in expected)
    assert found != [(p + a, a) for p, a in expected], "not shuffled"


def test_the_order_is_the_seed_s_and_goes_on_from_a_state(tokenizer):
    first = read(data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2), tokenizer)
    assert first == read(
        data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2), tokenizer
    )
    other = data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2, seed=1)
    assert first != read(other, tokenizer)


@pytest.mark.parametrize("block", [7, 1024])
def test_a_state_goes_on_exactly_wherever_it_was_taken(tokenizer, monkeypatch, block):
    monkeypatch.setattr(data, "_BLOCK", block)
    batches = data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2)
    iterator = iter(batches)
    states, seen = [iterator.get_state()], []
    for batch in iterator:
        states.append(json.loads(json.dumps(iterator.get_state())))
        seen.append(batch)
    assert len(seen) > 20
    # Set in an iterator of its own, and back in one that is ahead.
    for start in (0, 1, 7, len(seen) - 1, len(seen)):
        for resumed in (iter(batches), iterator):
            resumed.set_state(states[start])
            rest = list(resumed)
            assert len(rest) == len(seen) - start
            for found, expected in zip(rest, seen[start:], strict=True):
                pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
                assert all(np.array_equal(one, other) for one, other in pairs)


def test_how_many_are_read_at_once_changes_nothing(tokenizer, monkeypatch):
    found = []
    for block in (7, 300, 1024):
        monkeypatch.setattr(data, "_BLOCK", block)
        batches = data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=3)
        found.append(read(batches, tokenizer))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3 * len(EXAMPLES)


def test_each_epoch_has_an_order_of_its_own(tokenizer):
    found = read(data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2), tokenizer)
    place = {pair: at for at, pair in enumerate(found[:300])}
    # Packing moves an example by some tens of places; in one order all would be near.
    near = [abs(place.get(pair, 999) - at) < 50 for at, pair in enumerate(found[300:])]
    assert 0 < sum(near) < 150


def test_tokens_from_a_file_make_the_same_batches(tokenizer, tmp_path):
    data.write_tokens(tmp_path / "tokens", EXAMPLES, tokenizer, 0)
    tokens = data.Tokens(tmp_path / "tokens")
    assert len(tokens) == len(EXAMPLES)
    ids, num_read = tokens[5]
    pair = formats.FORMATS["xinstruction"](EXAMPLES[5])
    assert tokenizer.decode(ids.tolist()) == "".join(pair)
    assert tokenizer.decode(ids[:num_read].tolist()) == pair[0]
    found = read(data.token_batches(tokens, SHAPE, epochs=2, seed=1), tokenizer)
    asked = data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2, seed=1)
    assert found == read(asked, tokenizer)


def test_examples_that_wait_are_few_and_none_waits_for_long(tokenizer):
    iterator = iter(data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=None))
    for _ in range(50):
        next(iterator)
        state = iterator.get_state()
        assert len(state["waiting"]) < SHAPE.rows * SHAPE.slots + 256
        # Those read since the oldest that waits; a batch takes about ten of them.
        assert state["read"] - state["waiting"][0] < 400


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("distribution", ["log-normal", "uniform"])
def test_rows_are_full(rows, distribution):
    draw = np.random.default_rng(0)
    if distribution == "uniform":
        lengths = draw.integers(20, 1024, 2000)
    else:
        lengths = draw.lognormal(6, 0.5, 2000).clip(100, 1024).astype(int)
    slots = int(np.ceil(1.25 * 4096 / lengths.mean()))
    shape = RowShape(rows=rows, tokens=4096, slots=slots, slot_tokens=1024)
    waiting, useful = lengths.tolist(), []
    while len(waiting) > rows * slots + 256:
        window = waiting[: rows * slots + 256]
        packed = data.choose(window, shape)
        chosen = [i for row in packed for i in row]
        assert 0 in chosen, "the oldest goes first"
        assert len(set(chosen)) == len(chosen)
        for row in packed:
            assert len(row) <= slots
            assert sum(window[i] for i in row) <= 4096
        useful.append(sum(window[i] for i in chosen) / (rows * 4096))
        waiting = [n for i, n in enumerate(waiting) if i not in set(chosen)]
    assert np.mean(useful) > 0.98


def test_any_pairs_can_be_learnt_and_one_without_a_prompt_is_left_out(tokenizer):
    pairs = [("one", "eins"), ("", "zwei"), ("three", "drei")]
    batches = data.batches(pairs, tokenizer, 0, SHAPE, pair_of=tuple)
    assert sorted(read(batches, tokenizer)) == [
        ("oneeins", "eins"),
        ("threedrei", "drei"),
    ]


def test_processes_share_the_data(tokenizer):
    parts = [
        read(
            data.batches(EXAMPLES, tokenizer, 0, SHAPE, process=p, processes=3),
            tokenizer,
        )
        for p in range(3)
    ]
    assert [len(part) for part in parts] == [100, 100, 100]
    assert len({text for part in parts for text, _ in part}) == 300


def test_what_is_longer_than_a_slot_is_left_out(tokenizer):
    long = EXAMPLES[0] | {"output": b"x" * 700}
    found = read(data.batches([long, *EXAMPLES[:3]], tokenizer, 0, SHAPE), tokenizer)
    assert len(found) == 3


def test_the_paper_s_prompt_is_asked():
    prompt, answer = formats.FORMATS["xinstruction"](EXAMPLES[1])
    assert prompt == prompts.answer("Name thing 1.", "Swahili")
    assert answer == " Kitu Kitu "
