import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

from xinst_jax.config import SamplingConfig
from xinst_jax.engine import Engine, Generation

GREEDY = SamplingConfig(max_new_tokens=8)
WARM = SamplingConfig(max_new_tokens=8, temperature=1.0, top_k=50, top_p=0.95, seed=3)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (
        x
        - x.max(-1, keepdims=True)
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
    )


def test_cached_decoding_equals_full_forward(
    engine: Engine, prompts: list[list[int]]
) -> None:
    generations = engine.generate(prompts, GREEDY)
    assert any(g.stopped for g in generations) or all(
        len(g.tokens) == 8 for g in generations
    )
    for prompt, generation in zip(prompts, generations, strict=True):
        new = [*generation.tokens, *([1] if generation.stopped else [])]
        text = np.asarray([[*prompt, *generation.tokens]])
        logits = engine.logits(text, np.asarray([text.shape[1]]))[0, len(prompt) - 1 :]
        best = logits.argmax(-1)[: len(new)]
        assert best[: len(generation.tokens)].tolist() == list(generation.tokens)
        steps = log_softmax(logits[: len(new)])
        total = steps[np.arange(len(new)), best].sum()
        assert generation.logprob == pytest.approx(total, abs=1e-3)
        if generation.stopped:
            assert best[-1] in engine.config.eos


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_batch_order_and_neighbours_change_nothing_bitwise(
    engine: Engine, prompts: list[list[int]], sampling: SamplingConfig
) -> None:
    together = engine.generate(prompts, sampling)
    assert len({g.tokens for g in together}) > len(prompts) // 2
    assert engine.generate(prompts[::-1], sampling)[::-1] == together
    for i in (0, 5, 9, 12):
        assert engine.generate([prompts[i]], sampling) == [together[i]]
    crowd = [[7] * (n % 250 + 1) for n in range(70)]
    crowded = engine.generate([*crowd, *prompts], sampling)
    assert crowded[len(crowd) :] == together


def test_scores_and_vectors_do_not_depend_on_neighbours_bitwise(
    engine: Engine, prompts: list[list[int]]
) -> None:
    prompts = prompts[:11]  # two slot sizes; a third would only be compiled
    labels = ["a", "b"]
    targets = [[5, 9, 11]] * len(prompts)
    scores = engine.score(prompts, labels)
    vectors = engine.embed(prompts)
    likelihoods = engine.loglikelihood(prompts, targets)
    for i in (1, 6, 10):
        own = [prompts[i]]
        np.testing.assert_array_equal(engine.score(own, labels)[0], scores[i])
        np.testing.assert_array_equal(engine.embed(own)[0], vectors[i])
        np.testing.assert_array_equal(
            engine.loglikelihood(own, targets[:1])[0], likelihoods[i]
        )


def test_generation_stops_at_each_end_token_and_flags_what_did_not(
    engine: Engine,
) -> None:
    rng = np.random.default_rng(5)
    prompts = [rng.integers(3, 264, 12).tolist() for _ in range(64)]
    warm = SamplingConfig(max_new_tokens=100, temperature=1.5)
    generations = engine.generate(prompts, warm)
    stopped = [g for g in generations if g.stopped]
    assert 0 < len(stopped) < len(generations)
    for generation in generations:
        assert not set(generation.tokens) & set(engine.config.eos)
        assert generation.stopped or len(generation.tokens) == 100
        assert generation.text == engine.tokenizer.decode(list(generation.tokens))
        assert generation.logprob < 0
    longer = SamplingConfig(max_new_tokens=120, temperature=1.5)
    for short, long in zip(generations, engine.generate(prompts, longer), strict=True):
        assert long.tokens[: len(short.tokens)] == short.tokens


def test_ids_and_seed_decide_what_is_drawn(engine: Engine) -> None:
    prompts = [[5, 6, 7]] * 3
    a, b, c = engine.generate(prompts, WARM, ids=["x", "y", "x"])
    assert a == c != b
    assert engine.generate(prompts[:1], WARM, ids=["y"]) == [b]
    with pytest.raises(ValueError, match="3 prompts and 1 ids"):
        engine.generate(prompts, WARM, ids=["x"])


def test_a_bad_prompt_costs_itself_only(engine: Engine) -> None:
    bad = {
        "prompt is empty": "",
        "prompt has 400 tokens, the engine takes at most 312": [5] * 400,
        "prompt is neither text nor token ids: <class 'int'>": 7,
        "prompt is neither text nor token ids: <class 'list'>": ["a"],
        "prompt has a token id outside 0..263": [3, 264],
        "prompt is not Unicode text (surrogates not allowed)": "\ud800",
    }
    good = engine.generate(["hello"], GREEDY)[0]
    results = engine.generate([*bad.values(), "hello"], GREEDY)
    assert [r.error for r in results] == [*bad, None]
    assert results[-1] == good
    assert results[0].text == "" and results[0].tokens == ()
    vectors = engine.embed(["", "hello"])
    assert np.isnan(vectors[0]).all() and np.isfinite(vectors[1]).all()
    scores = engine.score(["", "hello"], ["a"])
    assert np.isnan(scores[0]).all() and np.isfinite(scores[1]).all()
    assert np.isnan(engine.loglikelihood(["hello", ""], ["", "a"])).all()


def test_the_longest_prompt_leaves_room_for_the_answer(engine: Engine) -> None:
    fits, over = engine.generate([[5] * 312, [5] * 313], GREEDY)
    assert fits.error is None and over.error is not None
    with pytest.raises(ValueError, match="max_new_tokens=320 leaves no room"):
        engine.generate(["a"], SamplingConfig(max_new_tokens=320))


def test_a_one_token_label_scores_its_log_softmax(engine: Engine) -> None:
    texts = ["an apple", "x" * 150]
    scores = engine.score(texts, ["a", "b", "?"])
    for text, row in zip(texts, scores, strict=True):
        ids = engine.tokenizer.encode(text).ids
        logits = engine.logits(np.asarray([ids]), np.asarray([len(ids)]))[0, -1]
        label_ids = [
            engine.tokenizer.encode(label, add_special_tokens=False).ids[0]
            for label in ("a", "b", "?")
        ]
        np.testing.assert_allclose(row, log_softmax(logits)[label_ids], atol=1e-5)


def test_a_longer_label_scores_the_sum_of_its_tokens(engine: Engine) -> None:
    scores = engine.score(["an apple"], ["a", "pie"])
    assert scores[0, 0] == pytest.approx(
        engine.score(["an apple"], ["a"])[0, 0], abs=1e-5
    )
    prompt = engine.tokenizer.encode("an apple").ids
    total = 0.0
    for token in engine.tokenizer.encode("pie", add_special_tokens=False).ids:
        logits = engine.logits(np.asarray([prompt]), np.asarray([len(prompt)]))[0, -1]
        total += log_softmax(logits)[token]
        prompt = [*prompt, token]
    assert scores[0, 1] == pytest.approx(total, abs=1e-4)
    with pytest.raises(ValueError, match="Labels need tokens"):
        engine.score(["a"], [""])


def test_loglikelihood_agrees_with_what_generate_reports(
    engine: Engine, prompts: list[list[int]]
) -> None:
    generations = engine.generate(prompts, WARM)
    whole = [i for i, g in enumerate(generations) if not g.stopped]
    assert whole
    likelihoods = engine.loglikelihood(
        [prompts[i] for i in whole], [generations[i].tokens for i in whole]
    )
    expected = [generations[i].logprob for i in whole]
    np.testing.assert_allclose(likelihoods, expected, atol=1e-3)


def test_embedding_is_the_mean_over_tokens(engine: Engine) -> None:
    one, two = engine.embed([[5], [5, 6]])
    # The first token cannot see the second, so its state is the same in both.
    second = 2 * two - one
    assert not np.allclose(second, one)
    head = np.asarray(engine.model.head_weight)
    logits = engine.logits(np.asarray([[5, 6]]), np.asarray([2]))[0]
    np.testing.assert_allclose(head @ one, logits[0], atol=1e-4)
    np.testing.assert_allclose(head @ second, logits[1], atol=1e-4)


def test_results_can_be_pickled_and_the_engine_weakly_referenced(
    engine: Engine,
) -> None:
    results = engine.generate(["hello"], GREEDY)
    assert pickle.loads(pickle.dumps(results)) == results
    assert type(engine.score(["a"], ["b"])) is np.ndarray
    assert weakref.ref(engine)() is engine


def test_threads_take_turns(engine: Engine, prompts: list[list[int]]) -> None:
    expected = engine.generate(prompts[:6], WARM)
    results: dict[int, list[Generation]] = {}

    def call(i: int) -> None:
        results[i] = engine.generate([prompts[i]], WARM)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i][0] for i in range(6)] == expected


def test_nothing_in_nothing_out(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert engine.embed([]).shape == (0, 32)
    assert engine.score([], ["a"]).shape == (0, 1)
    assert engine.loglikelihood([], []).shape == (0,)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Engine.load(tmp_path)
