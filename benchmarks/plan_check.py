"""What `xinst plan` predicts of a recipe, beside what then happened.

    python examples/make_crawl.py out/demo/crawl
    xinst run examples/demo.toml --store out/plan/store --until documents  # or scores
    python benchmarks/plan_check.py examples/demo.toml out/plan/store

A share of the source is read, as a plan does, and each figure is set against that of
the store. Then it is sampled again from other places, to count how often the store's
number lies within the bounds: nine of ten are promised.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import plan, recipe
from beam_pipelines import store as stores
from beam_pipelines.crawl import source_files
from beam_pipelines.funnel import Funnel, read_funnel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a TOML file")
    parser.add_argument("store", help="of a run of that recipe, from nothing")
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the source to read"
    )
    parser.add_argument("--documents", type=int, default=32, help="to try models on")
    parser.add_argument("--times", type=int, default=20, help="how often to sample")
    options = parser.parse_args()
    settings = recipe.load(options.recipe)
    sizes = [size or 0 for _, size in source_files(settings.source)]
    sample = round(sum(sizes) * options.share)
    first = plan.predict(settings, sample, options.documents)
    print(plan.as_text(first), end="\n\n")
    actual = dict(happened(settings, options.store))
    rows = [("", "predicted", "actual", "within")]
    for name, figure in figures(first).items():
        if name in actual:
            value = actual[name]
            within = "yes" if is_within(figure, value) else "NO"
            rows.append((name, f"{figure.value:,.4g}", f"{value:,.4g}", within))
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        cells = [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))
    checked, held, errors = 0, 0, []
    for seed in range(1, options.times + 1):
        again = figures(plan.predict(settings, sample, 0, seed=seed))
        # How fast the machine is changes from one to the next.
        for name in again.keys() & actual.keys() - {"core hours", "candidates"}:
            checked += 1
            held += is_within(again[name], actual[name])
        errors.append(again["usable documents"].value / actual["usable documents"] - 1)
    if checked:
        mean = sum(errors) / len(errors)
        print(
            f"\nSampled from {options.times} other seeds: {held / checked:.0%} of "
            f"{checked:,} figures within their bounds; usable documents off by "
            f"{mean:+.1%} in the mean, {max(map(abs, errors)):.0%} at most."
        )


def is_within(figure: plan.Figure, value: float) -> bool:
    """Whether the bounds hold; they are of no whole numbers."""
    slack = 1e-6 * abs(value)
    return figure.low - slack <= value <= figure.high + slack


def figures(made: plan.Plan) -> dict[str, plan.Figure]:
    """A plan's figures by the names of its table."""
    found = {name.strip(): figure for name, figure, _ in plan.figures(made)}
    return {name: figure for name, figure in found.items() if name != "money"}


def happened(settings: recipe.Recipe, root: str) -> Iterator[tuple[str, float]]:
    """The same figures, as a store tells."""
    funnel, store = read_funnel(root), stores.Store(root, settings)
    documents = funnel.step("documents")
    if documents is None:
        raise ValueError(f"No documents in {root!r}. Was it made by `xinst run`?")
    yield "bytes to read", funnel.reading.files.total()
    yield "pages", funnel.reading.pages
    yield "usable documents", documents.left.total()
    for code in settings.languages:
        yield code, documents.left[code]
    facts, stored = _parts(store.documents)
    yield "core hours", sum(each["seconds"] for each in facts) / 3600
    if funnel.step("scores") is None:
        yield "bytes to store", stored
        return
    yield from _results(settings, funnel, store, stored)


def _results(
    settings: recipe.Recipe, funnel: Funnel, store: stores.Store, stored: int
) -> Iterator[tuple[str, float]]:
    """What the first pass made of the documents."""
    seconds, num_candidates = 0.0, 0
    for stage in (*store.candidates, store.scores):
        facts, size = _parts(stage)
        stored += size
        seconds += sum(each.get("device_seconds", 0) for each in facts)
        if stage != store.scores:
            num_candidates += sum(each["rows"] for each in facts)
    yield "candidates", num_candidates
    scores = funnel.step("scores")
    if scores and not settings.refine.rounds:
        yield "kept pairs", scores.left.total()
    yield "accelerator hours", seconds / 3600
    yield "bytes to store", stored


def _parts(stage: stores.Stage) -> tuple[list[dict], int]:
    """The facts of a stage's parts, and its bytes; the store is on this machine."""
    paths = [FileSystems.join(stage.folder, name) for name in stores.part_names(stage)]
    facts = [stores.read_footer(path)[1] for path in paths]
    return facts, sum(Path(path).stat().st_size for path in paths)


if __name__ == "__main__":
    main()
