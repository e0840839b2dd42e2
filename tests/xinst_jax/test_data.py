import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from xinst_jax import data, prompts
from xinst_jax.kmeans import kmeans
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
    expected = [data.conversation(example) for example in EXAMPLES]
    assert sorted(found) == sorted((p + a, a) for p, a in expected)
    assert found != [(p + a, a) for p, a in expected], "not shuffled"


def test_the_order_is_the_seed_s_and_goes_on_from_a_state(tokenizer):
    first = read(data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2), tokenizer)
    assert first == read(
        data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2), tokenizer
    )
    other = data.batches(EXAMPLES, tokenizer, 0, SHAPE, epochs=2, seed=1)
    assert first != read(other, tokenizer)
    iterator = iter(data.batches(EXAMPLES, tokenizer, 0, SHAPE))
    next(iterator)
    state = iterator.get_state()
    rest = [batch.rows.tokens for batch in iterator]
    iterator.set_state(state)
    again = [batch.rows.tokens for batch in iterator]
    assert len(rest) > 1
    assert all(np.array_equal(a, b) for a, b in zip(rest, again, strict=True))


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
    prompt, answer = data.conversation(EXAMPLES[1])
    assert prompt == prompts.answer("Name thing 1.", "Swahili")
    assert answer == " Kitu Kitu "


def test_kmeans_finds_separate_groups_and_refuses_too_many():
    draw = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), [400, 30, 20, 10, 5])
    vectors = 10 * np.eye(8)[truth] + draw.normal(size=(len(truth), 8)) * 0.5
    labels = kmeans(vectors.astype(np.float32), 5, 0)
    assert len({(t, found) for t, found in zip(truth, labels, strict=True)}) == 5
    assert len(set(labels.tolist())) == 5
    with pytest.raises(ValueError, match="clusters=3, vectors=2"):
        kmeans(np.ones((2, 4), np.float32), 3, 0)
