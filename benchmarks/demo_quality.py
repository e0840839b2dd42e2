"""How good the demo's small models are, on text that they never saw.

    python benchmarks/demo_quality.py    # after `make demo`, in the repository's root

Three questions, each with what chance would give: are instructions for unseen pages
English and usable; does a text make its own instruction likelier than another text of
the same language does; does the evaluator prefer true pairs to shuffled ones.
"""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np

from beam_pipelines import recipe as recipes
from beam_pipelines.instructions import reject_reason
from beam_pipelines.schema import LANGUAGES
from beam_pipelines.training import EVALUATION
from xinst_jax import Engine, SamplingConfig, judge, prompts, seed

ROOT = Path(__file__).parents[1]


def unseen_pages() -> list[seed.Pair]:
    """The bundled pages of our languages; no model is trained on them."""
    return [
        seed.Pair(
            instruction="",
            response="\n\n".join(page["paragraphs"]),
            language=page["language"],
            topic=page["topic"],
        )
        for code in LANGUAGES
        for page in map(
            json.loads,
            (ROOT / "examples" / "pages" / f"{code}.jsonl").read_text().splitlines(),
        )
    ]


def shuffled(pairs: list[seed.Pair]) -> list[seed.Pair]:
    """For each pair another one, of its language and of another topic."""
    draw = random.Random(0)
    return [
        draw.choice(
            [p for p in pairs if p.language == pair.language and p.topic != pair.topic]
        )
        for pair in pairs
    ]


def main() -> None:
    recipe = recipes.load(ROOT / "examples" / "demo.toml")
    training, limit = recipe.generator.train, recipe.generator.max_text_chars
    _, held_out = seed.split(seed.read(training.data), training.held_out)
    others = shuffled(held_out)
    generator = Engine.load(recipe.generator.checkpoint)
    evaluator = judge.Judge.load(
        recipe.evaluator.checkpoint,
        recipe.evaluator.evidence,
        recipe.evaluator.max_text_chars,
    )

    pages = unseen_pages()
    written = generator.generate(
        [prompts.generate(page.response[:limit]) for page in pages],
        SamplingConfig(max_new_tokens=recipe.generator.max_new_tokens),
    )
    usable = [
        g.stopped
        and not reject_reason(g.text.strip(), page.response, recipe.instructions)
        for g, page in zip(written, pages, strict=True)
    ]
    distinct = len({g.text for g in written}) / len(written)
    print(f"unseen pages: {len(pages)}")
    print(f"  instructions that are English and pass every rule: {np.mean(usable):.1%}")
    print(f"  distinct instructions: {distinct:.1%}")

    def likelihood(texts: list[seed.Pair]) -> np.ndarray:
        return generator.loglikelihood(
            [prompts.generate(text.response[:limit]) for text in texts],
            [f" {pair.instruction}" for pair in held_out],
        )

    own, other = likelihood(held_out), likelihood(others)
    print(f"held-out seed pairs: {len(held_out)}")
    print(
        "  own text makes the instruction likelier than another text: "
        f"{np.mean(own > other):.1%} (chance 50 %), by {np.mean(own - other):.2f} nats"
    )

    def p_best(texts: list[seed.Pair]) -> np.ndarray:
        made = [
            dataclasses.replace(text, instruction=pair.instruction)
            for pair, text in zip(held_out, texts, strict=True)
        ]
        return evaluator.rate(evaluator.measure(made))[:, 0]

    area = judge.auc(p_best(held_out), p_best(others))
    print(f"  evaluator, true against shuffled pairs: AUC {area:.3f} (chance 0.5)")
    figures = json.loads((Path(recipe.evaluator.checkpoint) / EVALUATION).read_text())
    print(f"  evaluator, good against spoilt pairs: AUC {figures['auc']:.3f}")
    for name, recall in figures["recall"].items():
        ranked = figures["auc_by_corruption"].get(name)
        told = "" if ranked is None else f", AUC {ranked:.3f}"
        print(f"    recall of {name}: {recall:.1%}{told}")


if __name__ == "__main__":
    main()
