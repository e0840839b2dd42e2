import dataclasses
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from xinst_jax import engine as engine_module
from xinst_jax.config import ModelConfig, SamplingConfig
from xinst_jax.engine import Engine, Generation, Usage
from xinst_jax.model import Decoder
from xinst_jax.sharding import make_mesh, weight_shardings

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


def test_nothing_is_compiled_after_warm_up(checkpoint: Path) -> None:
    engine = Engine.load(checkpoint)
    labels = ["a", "b"]
    engine.warm_up(lambda prompts: engine.generate(prompts, GREEDY))
    engine.warm_up(lambda prompts: engine.score(prompts, labels))
    compiled: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    rng = np.random.default_rng(3)
    for number in (1, 3, 40, 90):
        lengths = rng.integers(1, 312, number)
        prompts = [rng.integers(3, 264, n).tolist() for n in lengths]
        assert all(g.error is None for g in engine.generate(prompts, GREEDY))
        assert np.isfinite(engine.score(prompts, labels)).all()
    assert compiled == []
    engine.generate([[5]], dataclasses.replace(GREEDY, max_new_tokens=9))
    assert compiled  # the listener hears


def test_rows_are_full_of_useful_tokens_with_three_programs(
    tiny: ModelConfig, random_arrays: Callable, byte_tokenizer: Callable
) -> None:
    config = dataclasses.replace(tiny, max_positions=4096)
    mesh = make_mesh()
    placed = jax.device_put(random_arrays(config), weight_shardings(config, mesh))
    engine = Engine(Decoder(config, placed), byte_tokenizer(), mesh)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(850) - 0.125, 0.5, 1024), 300, 2000)
    documents = {i: [5] * int(n) for i, n in enumerate(lengths)}
    packed = [
        (rows, shape)
        for batch in engine._decoding_batches(documents)
        for rows, shape in batch.prefills
    ]
    places = sum(rows.tokens.size for rows, _ in packed)
    assert sum(map(len, documents.values())) / places >= 0.95
    assert len({rows.slot_index.shape for rows, _ in packed}) <= 3
    held = [
        i
        for batch in engine._decoding_batches(documents)
        for row in batch.held
        for i, _ in row
    ]
    assert sorted(held) == list(documents)


def test_usage_adds_up_and_starts_anew(engine: Engine, prompts: list) -> None:
    engine.take_usage()
    generations = engine.generate(prompts, GREEDY)
    usage = engine.take_usage()
    assert usage.useful_tokens == sum(map(len, prompts))
    assert usage.row_tokens % 2048 == 0 and usage.row_tokens >= usage.useful_tokens
    assert usage.new_tokens == sum(len(g.tokens) + g.stopped for g in generations)
    assert usage.seconds > 0 and usage.peak_flops == 0  # of a CPU it is not known
    per_token = 2 * engine.config.matmul_parameters()
    assert usage.flops > per_token * usage.useful_tokens
    assert engine.take_usage() == Usage()
    engine.embed(prompts)
    assert engine.take_usage().useful_tokens == usage.useful_tokens


def test_counted_flops_are_those_of_a_loop_over_all_pairs(tiny: ModelConfig) -> None:
    for window, windowed in ((None, ()), (4, (True, False, True))):
        config = dataclasses.replace(tiny, window=window, windowed=windowed)
        pairs = 0
        for layer in range(config.layers):
            near = window if window and windowed[layer] else 999
            pairs += sum(q - k < near for q in range(9) for k in range(q + 1))
        attention = 4 * config.heads * config.head_width * pairs
        linear = 2 * config.matmul_parameters() * 9
        head = 2 * config.width * config.vocabulary
        assert config.prefill_flops([9]) == attention + linear + head


@pytest.mark.parametrize("call", ["generate", "embed"])
def test_where_memory_does_not_suffice_batches_are_halved(
    call: str,
    engine: Engine,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = getattr(engine, call)(prompts)
    small = Engine(engine.model, engine.tokenizer, engine.mesh)
    program = {"generate": "_decode", "embed": "_embed_rows"}[call]
    real, refused = getattr(engine_module, program), []

    def out_of_memory(model: Decoder, second: object, *rest: object) -> object:
        size = rest[0].shape[1] if call == "generate" else second.tokens.shape[1]
        if size > {"generate": 8, "embed": 600}[call]:
            refused.append(size)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(model, second, *rest)

    monkeypatch.setattr(engine_module, program, out_of_memory)
    found = getattr(small, call)(prompts)
    assert refused == {"generate": [32, 16], "embed": [2048, 1024]}[call]
    if call == "generate":
        assert [g.tokens for g in found] == [g.tokens for g in expected]
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    getattr(small, call)(prompts)
    assert len(refused) == 2  # the smaller size is kept

    def broken(*_: object) -> object:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(engine_module, program, broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        getattr(small, call)(prompts)


def test_a_prompt_of_which_no_number_comes_costs_itself(
    tiny: ModelConfig, engine: Engine, random_arrays: Callable
) -> None:
    weights = random_arrays(tiny)
    weights["embedding"][263] = np.nan
    placed = jax.device_put(weights, weight_shardings(tiny, engine.mesh))
    model = Decoder(tiny, placed)
    poisoned = Engine(model, engine.tokenizer, engine.mesh)
    good = [[5, 6, 7], [9] * 60, [10, 11]]
    expected = engine.generate(good, GREEDY)
    assert not any(263 in g.tokens for g in expected)
    first, second, bad, third = poisoned.generate([*good[:2], [5, 263], good[2]])
    assert bad.error == "the model gave no finite probability" and bad.text == ""
    assert [first.error, second.error, third.error] == [None] * 3
    assert first.tokens[:8] == expected[0].tokens


def test_no_ngram_comes_twice_in_prompt_and_answer(engine: Engine) -> None:
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 30, n).tolist() for n in (1, 2, 40, 200, 256)]
    for size in (1, 3):
        sampling = SamplingConfig(max_new_tokens=40, no_repeat_ngram=size)
        for prompt, answer in zip(
            prompts, engine.generate(prompts, sampling), strict=True
        ):
            text = [*prompt, *answer.tokens]
            seen = {tuple(prompt[i : i + size]) for i in range(len(prompt) - size + 1)}
            for end in range(len(prompt) + 1, len(text) + 1):
                if end >= size:
                    ngram = tuple(text[end - size : end])
                    assert ngram not in seen
                    seen.add(ngram)
    plain = engine.generate(prompts, SamplingConfig(max_new_tokens=40))
    assert any(len(set(g.tokens)) < len(g.tokens) for g in plain)


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
