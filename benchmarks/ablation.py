"""Does each step of the method help? Small models on raw, refined and spread-out data.

    python benchmarks/ablation.py                          # on the bundled seed
    python benchmarks/ablation.py --texts DIR              # on SIB-200: more pairs
    python benchmarks/ablation.py --generator out/demo/checkpoints/generator

For each of three seeds, pairs are cut into three: the evaluator is trained on a third,
an eighth is held out, and the rest are texts to find instructions for. Unless a
generator writes those, candidates of known quality are made: half have their own
instruction; the others, in equal parts, have the instruction of a text of another
topic, a generic one, or a response broken off. Texts come as unevenly as the web's: of
the topic of rank j a share of j^-0.4.

Arms are of equal size and equal budget, and start from the same small model:

    raw       candidates as they come
    refined   those with p_best of at least --keep-above
    true      the texts of `raw` with their own instructions: what could be reached
    half      refined, half of them at random
    best      refined, the half with the highest p_best
    diverse   refined, half of them as the pipeline spreads them over topics

DIR is laid out as for `relevance.py`. A generator that was trained on the bundled seed
knows these texts by heart in part, and the true share is not known of what it writes.
"""

import argparse
import collections
import dataclasses
import json
import math
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from relevance import LIKELIHOODS, new_base, sib, spread, taught

from beam_pipelines import diversify, quotas, recipe, training, verbs
from beam_pipelines.instructions import reject_reason
from beam_pipelines.schema import LANGUAGES
from xinst_jax import (
    Engine,
    SamplingConfig,
    judge,
    kmeans,
    prompts,
    ratings,
    seed,
)
from xinst_jax.relevance import Relevance

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
FOR_EVALUATOR, HELD_OUT = 1 / 3, 1 / 8
SKEW = 0.4
MAX_CHARS = 200
# Of SIB-200 so many of 7,010 pairs, so that three seeds take a quarter of an hour.
NUM_SENTENCES = 4000
# Pairs to measure on, at most.
MEASURED = 200
ENCODER_STEPS = 120
TRUE, GENERATED = "true", "generated"
# What a model must learn for.
LEARNT = (
    "instruction nats",
    "response nats",
    "backward AUC",
    "forward AUC",
    "encoder AUC",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A text with an instruction.

    Attributes:
      pair: What would be published.
      true: The same text, whole, with its own instruction.
      kind: What was done to it; `TRUE` for nothing; `GENERATED` if a model wrote it.
    """

    pair: seed.Pair
    true: seed.Pair
    kind: str


def truth(candidate: Candidate) -> float:
    """1 for a text's own instruction, 0 for a spoilt pair; NaN if nobody knows."""
    if candidate.kind == GENERATED:
        return float("nan")
    return float(candidate.kind == TRUE)


# Pairs and candidates.


def cut(
    pairs: Sequence[seed.Pair], random_seed: int
) -> tuple[list[seed.Pair], list[seed.Pair], list[seed.Pair]]:
    """For the evaluator, held out, and to find instructions for.

    Pairs of one instruction stay together.
    """
    parts: tuple[list[seed.Pair], ...] = ([], [], [])
    for pair in pairs:
        at = seed.position(f"{random_seed} {pair.instruction}")
        parts[(at >= FOR_EVALUATOR) + (at >= FOR_EVALUATOR + HELD_OUT)].append(pair)
    draw = random.Random(random_seed)
    evaluator, held, pool = parts
    # SIB-200 is parallel: a sample of the held-out rows is enough.
    return evaluator, draw.sample(held, min(MEASURED, len(held))), pool


def uneven(pool: Sequence[seed.Pair], draw: random.Random) -> list[seed.Pair]:
    """Fewer and fewer of each topic."""
    topics = sorted({pair.topic for pair in pool})
    draw.shuffle(topics)
    share = {topic: (n + 1) ** -SKEW for n, topic in enumerate(topics)}
    return [pair for pair in pool if draw.random() < share[pair.topic]]


def simulated(texts: Sequence[seed.Pair], draw: random.Random) -> list[Candidate]:
    """Candidates of known quality."""
    made = []
    for pair in texts:
        kind, spoilt = TRUE, pair
        if draw.random() < 0.5:
            kind = draw.choice(("another's", "generic", "truncated"))
            if kind == "another's":
                other = draw.choice(
                    [
                        p
                        for p in texts
                        if p.language == pair.language and p.topic != pair.topic
                    ]
                )
                spoilt = dataclasses.replace(pair, instruction=other.instruction)
            elif kind == "generic":
                generic = draw.choice(ratings.GENERIC)
                spoilt = dataclasses.replace(pair, instruction=generic)
            else:
                size = draw.randint(len(pair.response) // 5, len(pair.response) // 2)
                spoilt = dataclasses.replace(pair, response=pair.response[:size])
        made.append(Candidate(pair=spoilt, true=pair, kind=kind))
    return made


def generated(texts: Sequence[seed.Pair], checkpoint: str) -> list[Candidate]:
    """What a generator writes for the texts, if no rule is against it."""
    engine, settings = Engine.load(checkpoint), recipe.Instructions()
    written = engine.generate(
        [prompts.generate(pair.response[:MAX_CHARS]) for pair in texts],
        SamplingConfig(max_new_tokens=64),
    )
    made = []
    for pair, each in zip(texts, written, strict=True):
        instruction = " ".join(each.text.split())
        if each.stopped and not reject_reason(instruction, pair.response, settings):
            changed = dataclasses.replace(pair, instruction=instruction)
            made.append(Candidate(pair=changed, true=pair, kind=GENERATED))
    return made


# The steps.


def evaluator(
    pairs: Sequence[seed.Pair], folder: Path, random_seed: int, steps: int
) -> tuple[Engine, judge.Judge, dict[str, Any]]:
    """As `xinst train evaluator` makes it, its judge, and its figures."""
    data = folder / "seed.jsonl"
    rows = [json.dumps(dataclasses.asdict(pair)) for pair in pairs]
    data.write_text("\n".join(rows), "utf-8")
    out, evidence = str(folder / "evaluator"), ("similarity", "language")
    made = recipe.Recipe(
        name="ablation",
        languages=tuple(LANGUAGES),
        source=recipe.Source(warc=("none",)),
        generator=recipe.Generator(checkpoint="none"),
        evaluator=recipe.Evaluator(
            checkpoint=out,
            max_text_chars=MAX_CHARS,
            evidence=evidence,
            train=recipe.Training(
                data=(str(data),),
                steps=steps,
                batch_tokens=2048,
                learning_rate=4e-3,
                held_out=0.25,
                # Only a small seed is learnt by heart.
                word_dropout=0.2 if len(pairs) < 1000 else 0.0,
                vocabulary=3000,
                width=64,
                layers=1,
                heads=2,
            ),
        ),
        seed=random_seed,
    )
    figures = training.train_evaluator(made, out)
    engine = Engine.load(out)
    return engine, judge.Judge.beside(engine, out, evidence, MAX_CHARS), figures


def spread_out(
    kept: Sequence[Candidate],
    p_best: Sequence[float],
    vectors: np.ndarray,
    number: int,
    random_seed: int,
) -> list[Candidate]:
    """So many of the kept, chosen as the pipeline does."""
    chosen: list[Candidate] = []
    rows = collections.defaultdict(list)
    for at, candidate in enumerate(kept):
        rows[candidate.pair.language].append(at)
    # Largest remainders, so that the arm is as large as the other.
    exact = {code: number * len(own) / len(kept) for code, own in rows.items()}
    quota = {code: math.floor(value) for code, value in exact.items()}
    missing = number - sum(quota.values())
    for code in sorted(exact, key=lambda c: (quota[c] - exact[c], c))[:missing]:
        quota[code] += 1
    for code, own in rows.items():
        if not quota[code]:
            continue
        settings = recipe.Diversify(
            examples_per_language=quota[code], max_per_domain=len(own)
        )
        items = {
            (key := diversify.item_key(str(at))): diversify.Item(
                key=key,
                language=code,
                score=float(p_best[at]),
                domain="",
                verb=verbs.root(kept[at].pair.instruction)[0],
                vector=vectors[at],
            )
            for at in own
        }
        centres = diversify.find_topics(
            items.values(), len(items), settings, random_seed
        )
        topics = centres.nearest(np.stack([item.vector for item in items.values()]))
        entries = [
            quotas.Entry(
                key=item.key,
                cluster=int(topic),
                score=item.score,
                domain=item.domain,
                verb=item.verb,
            )
            for item, topic in zip(items.values(), topics, strict=True)
        ]
        contenders = collections.defaultdict(list)
        for key, place in quotas.plan(entries, settings).places:
            if not place.reason:
                contenders[place.cluster].append(
                    diversify.Contender(item=items[key], place=place)
                )
        at_of = dict(zip(items, own, strict=True))
        for group in contenders.values():
            for each in diversify.farthest_first(group, group[0].place.quota):
                chosen.append(kept[at_of[each.item.key]])
    return chosen


# Measures.


def nats_a_token(engine: Engine, asked: Sequence[str], wanted: Sequence[str]) -> float:
    """Mean log-probability of targets after their prompts."""
    found = engine.loglikelihood(asked, wanted)
    encoded = engine.tokenizer.encode_batch(list(wanted), add_special_tokens=False)
    return float(found.sum() / sum(len(each.ids) for each in encoded))


def model_measures(
    engine: Engine, held: Sequence[seed.Pair], others: Sequence[seed.Pair]
) -> dict[str, float]:
    """How likely true held-out pairs are, and whether shuffled ones are less so."""
    shown = [prompts.excerpt(pair.response, MAX_CHARS) for pair in held]
    names = [prompts.LANGUAGE_NAMES[pair.language] for pair in held]
    asked = [
        prompts.answer(pair.instruction, name)
        for pair, name in zip(held, names, strict=True)
    ]
    judging = judge.Judge(engine, LIKELIHOODS, MAX_CHARS)
    true, false = (judging.measure(pairs) for pairs in (held, others))
    at = {name: judging.names.index(name) for name in LIKELIHOODS}
    return {
        "instruction nats": nats_a_token(
            engine,
            [prompts.generate(text) for text in shown],
            [f" {pair.instruction}" for pair in held],
        ),
        "response nats": nats_a_token(engine, asked, [f" {text}" for text in shown]),
        "backward AUC": judge.auc(true[:, at["backward"]], false[:, at["backward"]]),
        "forward AUC": judge.auc(true[:, at["forward"]], false[:, at["forward"]]),
    }


def encoder_measure(
    pairs: Sequence[seed.Pair],
    held: Sequence[seed.Pair],
    others: Sequence[seed.Pair],
    random_seed: int,
) -> float:
    """AUC of an n-gram encoder that learns from the pairs, topics unknown."""
    untold = [dataclasses.replace(pair, topic="") for pair in pairs]
    encoder = Relevance.train(untold, random_seed, steps=ENCODER_STEPS)
    true, false = (similarity(encoder, rows) for rows in (held, others))
    return judge.auc(true, false)


def similarity(encoder: Relevance, pairs: Sequence[seed.Pair]) -> np.ndarray:
    return encoder.similarity(
        [pair.instruction for pair in pairs], [pair.response for pair in pairs]
    )[:, 0]


def data_measures(
    arm: Sequence[Candidate], engine: Engine, centres: Mapping[str, kmeans.Centres]
) -> dict[str, float]:
    """What can be said of data without training on them."""
    topics = collections.Counter((c.pair.language, c.true.topic) for c in arm)
    shares = np.array([*topics.values()]) / len(arm)
    found = diversify.variety(candidate.pair.instruction for candidate in arm)
    hit = 0
    for code, among in centres.items():
        own = [c.pair.instruction for c in arm if c.pair.language == code]
        hit += len(np.unique(among.nearest(engine.embed(own)))) if own else 0
    return {
        "true share": float(np.mean([truth(candidate) for candidate in arm])),
        "distinct-2": found["distinct_2"],
        "clusters hit": hit / sum(len(among.points) for among in centres.values()),
        "topic entropy": float(-(shares * np.log(shares)).sum()),
    }


def clustered(
    candidates: Sequence[Candidate], vectors: np.ndarray, random_seed: int
) -> dict[str, kmeans.Centres]:
    """The topics of each language's instructions.

    They are found from all candidates, so that all arms are measured alike.
    """
    codes = np.array([candidate.pair.language for candidate in candidates])
    found = {}
    for code in LANGUAGES:
        own = vectors[codes == code]
        if len(own):
            number = max(1, round(2 * math.sqrt(len(own))))
            found[code] = kmeans.fit(own, min(number, len(own)), random_seed + 100)
    return found


# The whole.

Results = dict[tuple[str, str], list[float]]


def one_seed(
    pairs: Sequence[seed.Pair],
    random_seed: int,
    arguments: argparse.Namespace,
    results: Results,
    by_language: Results,
) -> None:
    """Adds a seed's measures, by arm and by language."""
    started = time.perf_counter()
    draw = random.Random(random_seed)
    for_evaluator, held, pool = cut(pairs, random_seed)
    texts = uneven(pool, draw)
    candidates = (
        generated(texts, arguments.generator)
        if arguments.generator
        else simulated(texts, draw)
    )
    others = []
    for pair in held:
        same = [p for p in held if p.language == pair.language]
        wrong = [p for p in same if p.topic != pair.topic]
        other = draw.choice(wrong or same)
        others.append(dataclasses.replace(other, instruction=pair.instruction))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rating, judging, figures = evaluator(
            for_evaluator, folder, random_seed, arguments.evaluator_steps
        )
        values = judging.measure([c.pair for c in candidates])
        p_best = judging.rate(values)[:, 0]
        vectors = rating.embed([c.pair.instruction for c in candidates])
        centres = clustered(candidates, vectors, random_seed)
        near = values[:, judging.names.index("similarity")]
        keep = p_best >= arguments.keep_above
        kept = [c for c, ok in zip(candidates, keep, strict=True) if ok]
        if len(kept) < 2 * len(LANGUAGES):
            raise SystemExit(
                f"The evaluator keeps {len(kept)} of {len(candidates)} candidates: too "
                "few to train on. Lower --keep-above."
            )
        raw = draw.sample(candidates, len(kept))
        half = len(kept) // 2
        arms = {
            "raw": raw,
            "refined": kept,
            "true": [Candidate(pair=c.true, true=c.true, kind=TRUE) for c in raw],
            "half": draw.sample(kept, half),
            "best": [kept[n] for n in np.argsort(-p_best[keep])[:half]],
            "diverse": spread_out(kept, p_best[keep], vectors[keep], half, random_seed),
        }
        base = folder / "base"
        new_base(base, for_evaluator, 3000, 64, 1, random_seed)
        for arm, chosen in arms.items():
            pairs = [candidate.pair for candidate in chosen]
            shown = seed.thinned(pairs, 0.3, 20, random_seed)
            out, steps = folder / arm, arguments.steps
            engine = taught(base, out, shown, MAX_CHARS, random_seed, steps)
            found = data_measures(chosen, rating, centres)
            found |= model_measures(engine, held, others)
            found["encoder AUC"] = encoder_measure(pairs, held, others, random_seed)
            for measure, value in found.items():
                results.setdefault((arm, measure), []).append(value)
        size = (base / "model.safetensors").stat().st_size // 4
    for code in LANGUAGES:
        own = np.array([c.pair.language == code for c in candidates])
        true = np.array([truth(candidate) for candidate in candidates])
        for column, rows in (("raw", own), ("kept", own & keep)):
            for measure, each in (("true", true), ("similarity", near)):
                mean = float(each[rows].mean()) if rows.any() else float("nan")
                key = (code, f"{column} {measure}")
                by_language.setdefault(key, []).append(mean)
        share = float(keep[own].mean()) if own.any() else float("nan")
        by_language.setdefault((code, "kept share"), []).append(share)
    of_kind = collections.defaultdict(list)
    for candidate, ok in zip(candidates, keep, strict=True):
        of_kind[candidate.kind].append(ok)
    told = ", ".join(f"{kind} {np.mean(oks):.2f}" for kind, oks in of_kind.items())
    print(
        f"seed {random_seed}: evaluator on {len(for_evaluator)} pairs, AUC "
        f"{figures['auc']:.2f}; {len(candidates)} candidates, {len(kept)} kept; kept "
        f"of each kind: {told}; models of {size:,} parameters, {arguments.steps} "
        f"steps; {time.perf_counter() - started:.0f} s",
        flush=True,
    )


def print_table(results: Results, name: str) -> None:
    rows = list(dict.fromkeys(row for row, _ in results))
    columns = list(dict.fromkeys(column for _, column in results))
    print(f"\n| {name} | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for row in rows:
        cells = [spread(results[row, column]) for column in columns]
        print(f"| {row} | " + " | ".join(cells) + " |")


# Before and after of each step.
STEPS = {
    "refine (raw → refined)": ("raw", "refined"),
    "take the best (half → best)": ("half", "best"),
    "diversify (best → diverse)": ("best", "diverse"),
    "both (half → diverse)": ("half", "diverse"),
    "what could be reached (raw → true)": ("raw", "true"),
}


def print_differences(results: Results) -> None:
    """What each step changes, seed by seed: the seeds differ more than the arms."""
    print("\nDifferences of arms in the same seed; `*`: of one sign in all seeds.\n")
    columns = list(dict.fromkeys(column for _, column in results))
    print("| step | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    blind: list[str] = []
    for name, (before, after) in STEPS.items():
        cells, unsure = [], []
        for column in columns:
            change = np.subtract(results[after, column], results[before, column])
            sure = bool(abs(np.sign(change).sum()) == len(change))
            cells.append(spread([*change]) + "*" * sure)
            if not sure and column in LEARNT:
                unsure.append(column)
        print(f"| {name} | " + " | ".join(cells) + " |")
        blind = unsure
    if blind:
        print(
            f"\n{', '.join(blind)}: cannot judge the steps here. Even each text's own "
            "instruction instead of the raw candidate does not move it the same way in "
            "all seeds: models so small learn too little from so few pairs."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="a folder with sib200")
    parser.add_argument("--generator", default="", help="a checkpoint")
    parser.add_argument("--keep-above", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=120, help="of each small model")
    parser.add_argument("--evaluator-steps", type=int, default=80)
    arguments = parser.parse_args()
    pairs = (
        random.Random(0).sample(sib(arguments.texts, "train"), NUM_SENTENCES)
        if arguments.texts
        else seed.read([str(ROOT / "examples" / "seed" / "*.jsonl")])
    )
    results: Results = {}
    by_language: Results = {}
    for random_seed in SEEDS:
        one_seed(pairs, random_seed, arguments, results, by_language)
    print(
        "\nHeld-out pairs; nats a token, higher is better; chance is an AUC of 0.5; "
        "mean ± deviation over seeds."
    )
    print_table(results, "arm")
    print_differences(results)
    print("\nCandidates and what the evaluator keeps of them.")
    print_table(by_language, "language")


if __name__ == "__main__":
    main()
