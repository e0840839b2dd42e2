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

    from beam_pipelines.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      0, or 1 where it could not be done, with the reason on standard error, or where
      a data set does not pass a gate.
    """
    parser = argparse.ArgumentParser(prog="xinst", description=__doc__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="make a checkpoint from seed pairs")
    train.add_argument("model", choices=["generator", "evaluator"])
    train.add_argument("recipe", help="a TOML file")

    # What every command that runs the pipeline takes.
    on_store = argparse.ArgumentParser(add_help=False)
    on_store.add_argument("recipe", help="a TOML file")
    on_store.add_argument(
        "--store", required=True, help="folder of what was made already"
    )
    up_to_stage = argparse.ArgumentParser(add_help=False)
    up_to_stage.add_argument(
        "--until", choices=["documents", "candidates", "scores"], default="scores"
    )
    epilog = "Every other flag is Beam's, such as --runner=FlinkRunner."

    commands.add_parser(
        "run",
        help="run the pipeline up to a stage",
        epilog=epilog,
        parents=[on_store, up_to_stage],
    )

    follow = commands.add_parser(
        "follow",
        help="run on a source that grows: its new files, as they come",
        epilog=epilog,
        parents=[on_store, up_to_stage],
    )
    follow.add_argument(
        "--every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="from one look at the source to the next",
    )
    follow.add_argument(
        "--for",
        type=float,
        dest="lasts",
        metavar="SECONDS",
        help="take no more looks after that; by default it goes on until it is stopped",
    )

    refine = commands.add_parser(
        "refine",
        help="train, rate, keep and train again, in rounds",
        epilog=epilog,
        parents=[on_store],
    )
    refine.add_argument(
        "--rounds", type=int, help="stop after so many; all of the recipe's by default"
    )

    plan = commands.add_parser(
        "plan", help="say what a recipe will give and take, from a sample"
    )
    plan.add_argument("recipe", help="a TOML file")
    plan.add_argument(
        "--sample",
        type=float,
        default=64.0,
        metavar="MB",
        help="so much of the source is read, in small pieces from all over it; 64",
    )
    plan.add_argument(
        "--documents",
        type=int,
        default=32,
        metavar="N",
        help="try the models on so many; 32. 0: leave them alone",
    )
    plan.add_argument(
        "--price",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=AMOUNT",
        help="of cpu or accelerator (an hour of one), read or stored (a GB)",
    )
    plan.add_argument("--json", metavar="OUT", help="write the figures there too")

    report = commands.add_parser("report", help="write what a store holds as a page")
    report.add_argument("store", help="a folder that `xinst run` made")
    report.add_argument("--out", default="report.html", help="the page to write")

    check = commands.add_parser("check", help="measure a data set, ours or another's")
    check.add_argument("dataset", help="a folder of `tfds build`, or .jsonl, .json")
    check.add_argument(
        "--against",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="evaluation sets whose texts it must not hold",
    )
    check.add_argument("--json", metavar="OUT", help="write the figures there too")

    evaluate = commands.add_parser("eval", help="measure a checkpoint")
    evaluate.add_argument("checkpoint", help="a folder in Hugging Face layout")
    evaluate.add_argument(
        "--choice",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="choices as in XCOPA, JSON lines",
    )
    evaluate.add_argument(
        "--prompts",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="instructions and languages to answer in, JSON lines",
    )
    evaluate.add_argument("--json", metavar="OUT", help="write the figures there too")

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("run", "follow", "refine"):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        if options.command == "train":
            _train(options.model, recipes.load(options.recipe))
        elif options.command == "run":
            _run(recipes.load(options.recipe), options.store, options.until, rest)
        elif options.command == "follow":
            recipe, every = recipes.load(options.recipe), options.every
            _run(recipe, options.store, options.until, rest, every, options.lasts)
        elif options.command == "refine":
            _refine(recipes.load(options.recipe), options.store, options.rounds, rest)
        elif options.command == "plan":
            _plan(options)
        elif options.command == "check":
            return 0 if _check(options) else 1
        elif options.command == "eval":
            _eval(options)
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
    recipe: recipes.Recipe,
    root: str,
    until: str,
    beam_arguments: list[str],
    every: float | None = None,
    lasts: float | None = None,
) -> None:
    """Runs the pipeline; if `every` is given, on a source that grows."""
    show_progress()
    import apache_beam as beam
    from apache_beam.metrics.metric import MetricsFilter

    from beam_pipelines import letters, report
    from beam_pipelines.follow import Looks
    from beam_pipelines.generate import describe_usage
    from beam_pipelines.pipeline import Path as PipelinePath
    from beam_pipelines.progress import Progress
    from beam_pipelines.store import unread

    options = pipeline_options(beam_arguments)
    looks = None if every is None else Looks(every=every, lasts=lasts)
    if looks:
        _stream(options, for_ever=lasts is None)
    store = _opened(recipe, root)
    # The pipeline runs where its block ends, and the progress ends after that.
    with Progress() as progress, beam.Pipeline(options=options) as pipeline:
        path = PipelinePath(pipeline, recipe, store, until=until, looks=looks)
        getattr(path, until)
        if not looks:
            progress.watch(path.watch)
    if _is_only_submitted(options):
        print(f"Submitted. `xinst report {root}` tells what it has made by then.")
        return
    store.tidy()
    funnel = report.read_funnel(root)
    print(report.as_text(funnel))
    if line := letters.as_text(root, letters.write(funnel)):
        print(line)
    engine = MetricsFilter().with_namespace("engine")
    counted = pipeline.result.metrics().query(engine)["counters"]
    used: collections.Counter[str] = collections.Counter()
    for counter in counted:
        # Prism answers None where nothing was counted.
        used[counter.key.metric.name] += counter.result or 0
    if line := describe_usage(used):
        print(line)
    if missing := unread(store.documents):
        first = missing[0]
        raise RuntimeError(
            f"{len(missing):,} files or parts of files could not be read; the same "
            f"command tries them again. The first is {first['file']}: {first['detail']}"
        )


def _refine(
    recipe: recipes.Recipe, root: str, rounds: int | None, beam_arguments: list[str]
) -> None:
    show_progress()
    from beam_pipelines import letters, refine
    from beam_pipelines.funnel import read_funnel

    options, store = pipeline_options(beam_arguments), _opened(recipe, root)
    wanted = recipe.refine.rounds if rounds is None else rounds
    print(refine.as_text(refine.refine(recipe, store, wanted, options)))
    store.tidy()
    if line := letters.as_text(root, letters.write(read_funnel(root))):
        print(line)


def _stream(options: "PipelineOptions", *, for_ever: bool) -> None:
    """Makes the options those of a source that grows.

    Raises:
      ValueError: The runner cannot take it.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    standard = options.view_as(StandardOptions)
    standard.streaming = True
    if for_ever and standard.runner == "FnApiRunner":
        raise ValueError(
            "FnApiRunner ends a step before it begins the next, so it comes to nothing "
            "on a source without an end. Say --for SECONDS, or name a runner that "
            "streams: --runner=PrismRunner, FlinkRunner or DataflowRunner."
        )


def _is_only_submitted(options: "PipelineOptions") -> bool:
    """Whether a run ends before its job: a template, or a job not waited for."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, StandardOptions

    template = options.view_as(GoogleCloudOptions).template_location
    return bool(template) or options.view_as(StandardOptions).no_wait_until_finish


def _opened(recipe: recipes.Recipe, root: str) -> "Store":
    """The store, claimed for the recipe; what has changed of it is printed."""
    from beam_pipelines.store import Store

    store = Store(root, recipe)
    for change in store.open():
        print(f"Recipe changed since this store was last run: {change}")
    return store


def pipeline_options(arguments: Sequence[str]) -> "PipelineOptions":
    """Beam's options, with a runner always named and nothing silently ignored.

    Raises:
      ValueError: Beam knows no such flag.
    """
    from apache_beam.io.filesystems import FileSystems
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
    # The store is opened before there is a pipeline; credentials are looked for once.
    FileSystems.set_options(options)
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


def _plan(options: argparse.Namespace) -> None:
    show_progress()
    from beam_pipelines import plan

    made = plan.predict(
        recipes.load(options.recipe),
        round(options.sample * 1e6),
        options.documents,
        plan.prices_of(options.price),
    )
    print(plan.as_text(made))
    if options.json:
        _write_json(options.json, plan.as_json(made))


def _check(options: argparse.Namespace) -> bool:
    show_progress()
    from beam_pipelines import check

    return check.run(options.dataset, options.against, options.json)


def _eval(options: argparse.Namespace) -> None:
    show_progress()
    from beam_pipelines.tally import in_language
    from xinst_jax import choice

    rates = choice.evaluate(
        options.checkpoint, options.choice, options.prompts, in_language
    )
    print(choice.as_text(rates))
    if options.json:
        _write_json(options.json, choice.as_json(rates))


def _write_json(path: str, value: object) -> None:
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(value, indent=1))


def _train(model: str, recipe: recipes.Recipe) -> None:
    """Makes the generator's or the evaluator's checkpoint."""
    from beam_pipelines import training

    if model == "generator":
        out = recipe.generator.checkpoint
        figures = training.train_generator(recipe, out)
        print(
            f"{out}: {figures['pairs']} pairs, {figures['steps']} steps, loss "
            f"{figures['loss']:.3f}, held-out loss {figures['held_out_loss']:.3f}"
        )
        return
    out, generator = recipe.evaluator.checkpoint, recipe.generator.checkpoint
    there = (Path(generator) / "config.json").is_file()
    figures = training.train_evaluator(
        recipe, out, generator=generator if there else ""
    )
    print(f"{out}: {training.describe_evaluator(figures)}")
