"""`xinst`: train the models, run the pipeline, look at what came of it."""

import argparse
import collections
import itertools
import json
import logging
import sys
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path

from beam_pipelines import recipe as recipes

if typing.TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from xinst_jax import seed

# How often each seed pair comes in another form: thinned out, or spoilt in another way.
_THINNING_ROUNDS = 20
_RATING_ROUNDS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      0, or 1 where it could not be done; the reason is on standard error.
    """
    parser = argparse.ArgumentParser(prog="xinst", description=__doc__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="make a checkpoint from seed pairs")
    train.add_argument("model", choices=["generator", "evaluator"])
    train.add_argument("recipe", help="a TOML file")

    run = commands.add_parser(
        "run",
        help="run the pipeline up to a stage",
        epilog="Every other flag is Beam's, such as --runner=FlinkRunner.",
    )
    run.add_argument("recipe", help="a TOML file")
    run.add_argument("--store", required=True, help="folder of what was made already")
    run.add_argument(
        "--until", choices=["documents", "candidates", "scores"], default="scores"
    )

    report = commands.add_parser("report", help="write what a store holds as a page")
    report.add_argument("store", help="a folder that `xinst run` made")
    report.add_argument("--out", default="report.html", help="the page to write")

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "run":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        if options.command == "train":
            _train(options.model, recipes.load(options.recipe))
        elif options.command == "run":
            _run(recipes.load(options.recipe), options.store, options.until, rest)
        else:
            _report(options.store, options.out)
    except KeyboardInterrupt:
        print("\nxinst: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if options.traceback:
            traceback.print_exc()
        print(f"xinst: {explain(error)}", file=sys.stderr)
        return 1
    return 0


def show_progress() -> None:
    """Our own messages on standard error, without the libraries' chatter."""
    log = logging.getLogger("xinst")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.propagate = False
    # Beam warns of Google Cloud clients that only its BigQuery sources need.
    logging.disable(logging.WARNING)
    import apache_beam  # noqa: F401

    logging.disable(logging.NOTSET)


def explain(error: BaseException) -> str:
    """What went wrong, in a line or two, without the layers it came through.

    Beam's runners wrap a worker's exception in another whose text is its traceback.
    """
    text = str(error).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    if isinstance(error, RuntimeError) and "Traceback" in text:
        # The worker's own exception stands in the last unindented line.
        text = next(line for line in reversed(lines) if not line.startswith(" "))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else text
    return text or type(error).__name__


def _run(
    recipe: recipes.Recipe, root: str, until: str, beam_arguments: list[str]
) -> None:
    show_progress()
    import apache_beam as beam
    from apache_beam.metrics.metric import MetricsFilter

    from beam_pipelines import report
    from beam_pipelines.generate import describe_usage
    from beam_pipelines.pipeline import Path as PipelinePath
    from beam_pipelines.store import Store, unread

    options = pipeline_options(beam_arguments)
    store = Store(root, recipe)
    for change in store.open():
        print(f"Recipe changed since this store was last run: {change}")
    with beam.Pipeline(options=options) as pipeline:
        path = PipelinePath(pipeline, recipe, store, until=until)
        getattr(path, until)
    print(report.as_text(report.read_funnel(root)))
    engine = MetricsFilter().with_namespace("engine")
    counted = pipeline.result.metrics().query(engine)["counters"]
    used: collections.Counter[str] = collections.Counter()
    for counter in counted:
        used[counter.key.metric.name] += counter.result
    if line := describe_usage(used):
        print(line)
    if letters := unread(store.documents):
        first = letters[0]
        raise RuntimeError(
            f"{len(letters):,} files or parts of files could not be read; the same "
            f"command tries them again. The first is {first['file']}: {first['detail']}"
        )


def pipeline_options(arguments: Sequence[str]) -> "PipelineOptions":
    """Beam's options, with a runner always named and nothing silently ignored.

    Raises:
      ValueError: Beam knows no such flag.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    from beam_pipelines import pipeline  # noqa: F401  (declares our own flags)

    options = PipelineOptions(list(arguments))
    known = options.get_all_options()
    every = options.get_all_options(retain_unknown_options=True)
    stray = [
        word
        for before, word in itertools.pairwise(("", *arguments))
        if not word.startswith("-") and ("=" in before or not before.startswith("--"))
    ]
    if unknown := sorted(every.keys() - known.keys()) + stray:
        raise ValueError(
            f"Beam knows no option {', '.join(map(repr, unknown))}. "
            "See `xinst run --help` and Beam's pipeline options."
        )
    standard = options.view_as(StandardOptions)
    if not standard.runner:
        # "DirectRunner" picks between two runners by what the pipeline contains.
        standard.runner = "FnApiRunner"
    return options


def _report(root: str, out: str) -> None:
    show_progress()
    from apache_beam.io.filesystems import FileSystems

    from beam_pipelines import report

    if not FileSystems.exists(FileSystems.join(root, "recipe.json")):
        raise ValueError(
            f"No store in {root!r}. Was it made? `xinst run RECIPE --store {root}`"
        )
    report.write(root, out)
    print(f"Report: {out}")


def _train(model: str, recipe: recipes.Recipe) -> None:
    """Makes the generator's or the evaluator's checkpoint."""
    from xinst_jax import lora, ratings, seed, train

    settings = recipe.generator if model == "generator" else recipe.evaluator
    training, out = settings.train, Path(settings.checkpoint)
    pairs = seed.read(training.data)
    kept, held = seed.split(pairs, training.held_out)
    if not kept or not held:
        raise ValueError(
            f"{model}.train.data holds {len(pairs)} pairs: too few to hold "
            f"{training.held_out:.0%} of them out."
        )
    base = (
        Path(training.base)
        if training.base
        else _new_base(out, training, kept, recipe.seed)
    )
    config = train.TrainingConfig(
        steps=training.steps,
        batch_tokens=training.batch_tokens,
        learning_rate=training.learning_rate,
        warmup=min(20, training.steps - 1),
        seed=recipe.seed,
        accumulate=training.accumulate,
        lora=lora.LoraConfig(rank=training.lora_rank) if training.lora_rank else None,
        dtype=training.dtype,
    )
    limit = settings.max_text_chars
    shown = seed.thinned(kept, training.word_dropout, _THINNING_ROUNDS, recipe.seed)
    if model == "generator":
        to_learn = seed.reversed_pairs(shown, limit)
        to_measure = seed.reversed_pairs(held, limit)
    else:
        rated = ratings.rating_rows(held, _RATING_ROUNDS, recipe.seed)
        to_measure = ratings.rating_pairs(rated, limit)
        # Each thinned copy of a pair is spoilt in its own way already.
        rounds = 1 if len(shown) > len(kept) else _RATING_ROUNDS
        to_learn = ratings.rating_pairs(
            ratings.rating_rows(shown, rounds, recipe.seed), limit
        )
    log = train.fine_tune(base, out, to_learn, to_measure, config)
    print(
        f"{out}: {len(kept)} pairs, {training.steps} steps, loss {log[-1]['loss']:.3f},"
        f" held-out loss {log[-1]['held_out_loss']:.3f}"
    )
    if model == "evaluator":
        figures = ratings.measure(rated, to_measure, str(out))
        (out / "evaluation.json").write_text(json.dumps(figures, indent=1))
        print(json.dumps(figures, indent=1))


def _new_base(
    out: Path, training: recipes.Training, pairs: "list[seed.Pair]", weights_seed: int
) -> Path:
    """A small model with random weights, beside the checkpoint that it becomes."""
    from xinst_jax import scratch

    base = out.with_name(f"{out.name}.base")
    scratch.new_checkpoint(
        base,
        [f"{pair.instruction}\n{pair.response}" for pair in pairs],
        vocabulary=training.vocabulary,
        width=training.width,
        layers=training.layers,
        heads=training.heads,
        kv_heads=max(1, training.heads // 2),
        mlp_width=3 * training.width,
        max_positions=2048,
        seed=weights_seed,
    )
    return base
