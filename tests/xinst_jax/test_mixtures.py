import collections
import itertools
import math
import pickle

import grain
import pytest

from xinst_jax import data, formats, mixtures
from xinst_jax.packing import RowShape
from xinst_jax.seed import Pair

SIZES = {"sw": 40, "fi": 160, "ta": 1000}


def rows(sizes: dict[str, int], prefix: str = "row") -> list[dict[str, str]]:
    """So many examples of each language."""
    return [
        {
            "id": f"{prefix}-{language}-{number}",
            "instruction": f"Name {prefix} {number}.",
            "output": f"{language} {number}",
            "output_language": language,
        }
        for language, size in sizes.items()
        for number in range(size)
    ]


ENGLISH = rows({"en": 3000}, "alpaca")
OTHERS = rows(SIZES)


def by_language(mixture: mixtures.Mixture) -> dict[str, int]:
    found = collections.Counter()
    for (_, language), count in mixture.counts.items():
        found[language] += count
    return dict(found)


def ids(mixture) -> list[str]:
    return [example["id"] for example in mixture]


def test_a_pinch_is_so_many_and_the_rest_is_english():
    mixture = mixtures.pinch(ENGLISH, OTHERS, 40)
    counts = mixture.counts
    assert counts.pop(("english", "en")) == 2960
    assert sorted(counts) == [("multilingual", code) for code in ("fi", "sw", "ta")]
    assert sorted(counts.values()) == [13, 13, 14]
    assert len(mixture) == 3000 and len(set(ids(mixture))) == 3000
    counted = collections.Counter((e["origin"], e["output_language"]) for e in mixture)
    assert mixture.counts == counted
    small = mixtures.pinch(ENGLISH, OTHERS, 40, size=100)
    assert by_language(small)["en"] == 60 and len(small) == 100


def test_a_larger_pinch_has_the_smaller_one():
    def chosen(number: int) -> set[str]:
        mixture = mixtures.pinch(ENGLISH, OTHERS, number, temperature=2.0)
        return {e["id"] for e in mixture if e["origin"] == "multilingual"}

    numbers = [0, 1, 7, 40, 41, 200, 700, 1200]
    for small, large in itertools.pairwise(map(chosen, numbers)):
        assert small < large


def test_a_pinch_gives_no_example_twice_and_others_get_what_is_left():
    mixture = mixtures.pinch(ENGLISH, OTHERS, 900)
    assert len(set(ids(mixture))) == len(mixture)
    assert by_language(mixture) == {"en": 2100, "sw": 40, "fi": 160, "ta": 700}
    everything = mixtures.pinch(ENGLISH, OTHERS, 1200)
    assert by_language(everything) == SIZES | {"en": 1800}


def test_ids_decide_and_neither_order_nor_neighbours():
    for make in (
        lambda english, others: mixtures.pinch(english, others, 40),
        lambda english, others: mixtures.joined({"a": english, "b": others}),
        lambda english, others: mixtures.tempered(english + others, 3.0, size=500),
    ):
        first = make(ENGLISH, OTHERS)
        assert ids(first) == ids(make(ENGLISH, OTHERS))
        assert ids(first) == ids(make(ENGLISH[::-1], OTHERS[::-1]))
        assert ids(first) != sorted(ids(first))
    # Without some of the others, each that is left is chosen as before.
    few = mixtures.pinch(ENGLISH, OTHERS, 40)
    chosen = {e["id"] for e in few if e["origin"] == "multilingual"}
    rest = [row for row in OTHERS if row["id"] in chosen or row["id"].endswith("7")]
    again = mixtures.pinch(ENGLISH, rest, 40)
    assert {e["id"] for e in again if e["origin"] == "multilingual"} == chosen


def test_a_seed_changes_choice_and_order():
    one, other = (mixtures.pinch(ENGLISH, OTHERS, 40, seed=seed) for seed in (0, 1))
    assert set(ids(one)) != set(ids(other))
    one, other = (mixtures.joined({"a": OTHERS}, seed=seed) for seed in (0, 1))
    assert set(ids(one)) == set(ids(other)) and ids(one) != ids(other)
    parallel = mixtures.Parallel(sources=aligned(50, "en", "sw", "fi"))
    assert ids(mixtures.crossin(parallel, 20)) != ids(
        mixtures.crossin(parallel, 20, seed=1)
    )


def test_any_part_of_a_mixture_is_a_sample_of_it():
    mixture = mixtures.pinch(ENGLISH, OTHERS, 1000)
    for start in range(0, 3000, 500):
        part = by_language(mixture[start : start + 500])
        others = sum(count for language, count in part.items() if language != "en")
        # A third of 500, and five standard deviations of such a draw.
        assert abs(others - 500 / 3) < 53


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.3, math.inf])
def test_languages_are_in_proportion_to_a_power_of_their_sizes(temperature):
    mixture = mixtures.tempered(OTHERS, temperature, size=6000)
    weights = {code: size ** (1 / temperature) for code, size in SIZES.items()}
    for code, count in by_language(mixture).items():
        expected = 6000 * weights[code] / sum(weights.values())
        assert abs(count - expected) <= 1
    times = collections.Counter(ids(mixture))
    for code, size in SIZES.items():
        own = [times[f"row-{code}-{number}"] for number in range(size)]
        assert max(own) - min(own) <= 1


def test_a_temperature_of_one_and_all_examples_is_the_source():
    mixture = mixtures.tempered(OTHERS, 1.0)
    assert sorted(ids(mixture)) == sorted(row["id"] for row in OTHERS)


def test_rounding_does_not_favour_large_languages():
    # Nine small languages with half an example each: together they get theirs.
    sizes = {"ta": 910} | {f"small-{number}": 10 for number in range(9)}
    assert abs(mixtures.quotas(sizes, 50, 1.0, repeat=True)["ta"] - 45.5) <= 1


def test_quotas_at_their_bounds():
    quotas = mixtures.quotas
    assert quotas({"sw": 3, "fi": 0}, 3, 1.0, repeat=False) == {"sw": 3, "fi": 0}
    assert quotas({"sw": 3, "fi": 0}, 9, math.inf, repeat=True) == {"sw": 9, "fi": 0}
    assert quotas({}, 0, 1.0, repeat=True) == {}
    # So cold that all goes to the largest; no overflow.
    assert quotas({"sw": 10, "fi": 9}, 5, 1e-9, repeat=True) == {"sw": 5, "fi": 0}
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="0 < temperature"):
            quotas({"sw": 3}, 1, temperature, repeat=False)
    for available, repeat in (({"sw": 3}, False), ({"sw": 0}, True), ({}, True)):
        with pytest.raises(ValueError, match="4 examples wanted"):
            quotas(available, 4, 1.0, repeat=repeat)
    with pytest.raises(ValueError, match="0 <= size"):
        quotas({"sw": 3}, -1, 1.0, repeat=False)


def test_quotas_never_fall_where_more_is_handed_out():
    for temperature, repeat in itertools.product((1.0, 5.0, math.inf), (False, True)):
        before = dict.fromkeys(SIZES, 0)
        for size in range(1, 1200, 7):
            now = mixtures.quotas(SIZES, size, temperature, repeat=repeat)
            assert sum(now.values()) == size
            assert all(now[code] >= before[code] for code in SIZES)
            before = now


def test_what_a_pinch_cannot_be_made_of_is_named():
    for number, size in ((-1, None), (1201, None), (41, 40)):
        with pytest.raises(ValueError, match=f"num_multilingual={number}"):
            mixtures.pinch(ENGLISH, OTHERS, number, size=size)
    with pytest.raises(ValueError, match="needs 3001 English examples, got 3000"):
        mixtures.pinch(ENGLISH, OTHERS, 0, size=3001)
    with pytest.raises(ValueError, match="'row-sw-0' of english is in 'sw'"):
        mixtures.pinch(OTHERS, OTHERS, 1)
    with pytest.raises(ValueError, match="of multilingual is in 'en'"):
        mixtures.pinch(ENGLISH, ENGLISH, 1)
    for missing in ("id", "output_language"):
        bare = [{k: v for k, v in OTHERS[0].items() if k != missing}]
        with pytest.raises(ValueError, match=f"Example 0 of web has no '{missing}'"):
            mixtures.joined({"web": bare})


def test_seed_and_web_come_once_each_with_the_suffix_of_their_origin():
    pairs = [
        Pair(instruction=f"Ask {n}.", response=f"Jibu {n}.", language="sw")
        for n in range(30)
    ]
    own = mixtures.seed_examples(pairs)
    assert len({example["id"] for example in own}) == 30
    mixture = mixtures.joined({"seed": own, "web": OTHERS})
    assert sorted(ids(mixture)) == sorted(e["id"] for e in own + OTHERS)
    pair_of = formats.by_origin({"seed": "xinstruction_aug", "web": "xinstruction"})
    for example in mixture:
        prompt, _ = pair_of(example)
        assert ("of an AI assistant" in prompt) == (example["origin"] == "seed")
    assert by_language(mixture)["sw"] == 70


def aligned(size: int, *languages: str) -> dict[str, list[dict[str, str]]]:
    return {
        code: [
            {"instruction": f"{code} ask {n}", "input": "", "output": f"{code} say {n}"}
            for n in range(size)
        ]
        for code in languages
    }


def test_parallel_rows_are_joined_by_index():
    parallel = mixtures.Parallel(sources=aligned(20, "sw", "en", "fi", "ta"))
    assert len(parallel) == 60
    assert len(set(ids(parallel))) == 60
    thirds = set()
    for example in parallel:
        number, code = example["id"].split(".")
        assert example["output_language"] == code
        assert example["instruction"] == f"en ask {number}"
        assert example["output_en"] == f"en say {number}"
        assert example["instruction_xx"] == f"{code} ask {number}"
        assert example["output"] == f"{code} say {number}"
        third, rest = example["instruction_other"].split(" ", 1)
        assert rest == f"ask {number}" and third not in (code, "en")
        thirds.add((code, third))
    assert len(thirds) == 6
    assert parallel[-1] == parallel[59]
    with pytest.raises(IndexError):
        parallel[60]
    for name, known in formats.FORMATS.items():
        assert all(known(parallel[5])), name


def test_parallel_sources_must_fit_together():
    with pytest.raises(ValueError, match=r"as many rows in each.*'fi': 3"):
        mixtures.Parallel(sources=aligned(4, "en", "sw") | aligned(3, "fi"))
    for wrong in ({}, aligned(4, "sw", "fi"), aligned(4, "en")):
        with pytest.raises(ValueError, match="'en' and another language"):
            mixtures.Parallel(sources=wrong)
    two = mixtures.Parallel(sources=aligned(4, "en", "sw"))
    with pytest.raises(ValueError, match="instruction_other"):
        formats.FORMATS["crossin_x_x"](two[0])


def test_crossin_draws_rows_and_languages_uniformly_and_again():
    parallel = mixtures.Parallel(sources=aligned(10, "en", "sw", "fi", "ta"))
    mixture = mixtures.crossin(parallel, 6000)
    assert ids(mixture) == ids(mixtures.crossin(parallel, 6000))
    assert ids(mixture)[:100] == ids(mixtures.crossin(parallel, 100))
    times = collections.Counter(ids(mixture))
    # 30 pairs of row and language, 200 times each: chi-squared of 29 degrees of
    # freedom; one draw in 10,000 is above 66.
    assert len(times) == 30
    assert sum((count - 200) ** 2 / 200 for count in times.values()) < 66
    counted = collections.Counter(("crossin", e["output_language"]) for e in mixture)
    assert mixture.counts == counted
    with pytest.raises(ValueError, match="no row"):
        mixtures.crossin(mixtures.Parallel(sources=aligned(0, "en", "sw")), 1)


def test_a_mixture_is_a_source():
    inner = mixtures.pinch(ENGLISH, OTHERS, 40, size=200)
    outer = mixtures.joined({"base": inner, "web": rows({"ur": 30})})
    assert outer.counts[("web", "ur")] == 30 and len(outer) == 230
    assert {example["origin"] for example in outer} == {"base", "web"}
    assert outer[-1] == outer[229] == list(outer)[229]
    assert ids(outer[10:20]) == ids(outer)[10:20]
    with pytest.raises(IndexError):
        outer[230]
    assert list(pickle.loads(pickle.dumps(outer))) == list(outer)


def test_what_grain_has_left_out_is_left_out_and_bytes_are_text():
    encoded = [{key: text.encode() for key, text in row.items()} for row in OTHERS]
    some = grain.MapDataset.source(encoded).filter(
        lambda row: row["output_language"] != b"ta"
    )
    mixture = mixtures.joined({"web": some})
    assert mixture.counts == {("web", "fi"): 160, ("web", "sw"): 40}
    assert [key.decode() for key in ids(mixture)] == ids(
        mixtures.joined({"web": [r for r in OTHERS if r["output_language"] != "ta"]})
    )


def test_grain_shuffles_shards_and_resumes_a_mixture(byte_tokenizer):
    mixture = mixtures.pinch(ENGLISH, OTHERS, 40, size=120)
    shape = RowShape(rows=1, tokens=2048, slots=8, slot_tokens=512)

    def batches(process: int, processes: int):
        return data.batches(
            mixture,
            byte_tokenizer(),
            1,
            shape,
            pair_of=formats.FORMATS["afp"],
            process=process,
            processes=processes,
        )

    def answers(found) -> list[bytes]:
        return [batch.rows.tokens.tobytes() for batch in found]

    whole = answers(batches(0, 1))
    iterator = iter(batches(0, 1))
    next(iterator)
    state = iterator.get_state()
    resumed = iter(batches(0, 1))
    resumed.set_state(state)
    assert answers(resumed) == whole[1:]

    def documents(found) -> list[str]:
        return [
            byte_tokenizer().decode(batch.rows.tokens[0, slot[:length]].tolist())
            for batch in found
            for slot, length in zip(
                batch.rows.slot_index[0], batch.rows.lens[0], strict=True
            )
            if length > 1
        ]

    parts = [documents(batches(process, 3)) for process in range(3)]
    expected = sorted("".join(formats.FORMATS["afp"](row)) for row in mixture)
    assert sorted(itertools.chain(*parts)) == expected
    assert [len(part) for part in parts] == [40, 40, 40]
