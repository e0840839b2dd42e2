"""Rounds of refinement: rate, keep, train again, and write again what was rejected.

Each round trains an evaluator, has the pipeline rate what the newest generator wrote,
trains that generator further on the seed and what was kept, and lets it take the
documents that have no kept pair yet. A model that is worse on held-out pairs than the
one before is not taken. What was done is in the store's `refinement.json`; killed, the
same command goes on where it was.
"""

import hashlib
import json
import logging
import time
import typing
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import funnel, training
from beam_pipelines import pipeline as pipelines
from beam_pipelines.progress import Progress
from beam_pipelines.recipe import Recipe, checkpoint_digest
from beam_pipelines.schema import Document, from_row
from beam_pipelines.store import REFINEMENT, Store, read_json, read_stage, write_json

if typing.TYPE_CHECKING:
    from xinst_jax.seed import Pair

_log = logging.getLogger("xinst")
# In a checkpoint's folder: what it was made of.
_MADE_OF = "made_of.json"


class RefinementError(ValueError):
    """A loop that cannot begin; the message says why and what to do."""


def refine(
    recipe: Recipe, store: Store, rounds: int, options: PipelineOptions
) -> dict[str, Any]:
    """Runs the rounds that are not done yet.

    Args:
      recipe: `recipe.refine.rounds` is what its data set is made of.
      store: Of the recipe.
      rounds: So many are done when this ends, unless a round gains nothing; all of the
        recipe's are needed before a data set is built.
      options: Beam's.

    Returns:
      What `refinement.json` holds: `rounds`, a table with a row each; `passes`, the
      generator and the evaluator of each pass over the documents; `stopped`, why there
      are fewer rounds than were asked for; `finished`.

    Raises:
      RefinementError: The recipe asks for fewer rounds.
      RecipeError: The generator's checkpoint is missing.
    """
    if not 1 <= rounds <= recipe.refine.rounds:
        raise RefinementError(
            f"--rounds is {rounds}, and the recipe's refine.rounds is "
            f"{recipe.refine.rounds}. What a data set holds follows from its recipe: "
            f"write `rounds = {max(rounds, 1)}` under [refine]."
        )
    content = store.refinement or {
        "recipe": recipe.refinement_hash(),
        "rounds": [],
        "passes": [[0, 1]],
        "stopped": "",
        "finished": False,
    }
    path = FileSystems.join(store.root, REFINEMENT)
    while not content["stopped"] and len(content["rounds"]) < rounds:
        content = _round(recipe, store, content, options)
        write_json(path, content)
    at_end = content["stopped"] or len(content["rounds"]) == recipe.refine.rounds
    if at_end and not content["finished"]:
        _log.info("Rating what the last generator wrote")
        _run(recipe, store, content["passes"], options)
        outcome = _outcome(store, store.as_in(content["passes"]))
        content |= {"final": outcome.figures(), "finished": True}
        write_json(path, content)
    return content


def as_text(content: dict[str, Any]) -> str:
    """The table of rounds for a terminal."""
    head = ("round", "documents", "kept", "of all", "p_best", "AUC", "ECE", "loss", "")
    rows: list[tuple[str, ...]] = [head]
    for each in content["rounds"]:
        evaluator, generator = each["evaluator"], each.get("generator")
        losses, taken = "–", ""
        if generator:
            before, after = (
                generator["held_out_loss_before"],
                generator["held_out_loss"],
            )
            losses = f"{before:.3f} → {after:.3f}"
            taken = "" if generator["taken"] else "not taken"
        rows.append(
            (
                str(each["round"]),
                f"{each['documents']:,}",
                f"{each['kept']:,}",
                f"{each['acceptance']:.1%}",
                f"{each['mean_p_best']:.3f}",
                f"{evaluator['auc']:.3f}",
                f"{evaluator['ece']:.3f}",
                losses,
                taken,
            )
        )
    if final := content.get("final"):
        share, p_best = f"{final['acceptance']:.1%}", f"{final['mean_p_best']:.3f}"
        rows.append(("end", "", "", share, p_best, "", "", "", ""))
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *filter(None, [content["stopped"]])])


def _round(
    recipe: Recipe, store: Store, content: dict[str, Any], options: PipelineOptions
) -> dict[str, Any]:
    """The table and the passes after one more round."""
    started = time.monotonic()
    number = len(content["rounds"]) + 1
    title = f"Round {number} of {recipe.refine.rounds}"
    *earlier, (newest, _) = content["passes"]
    # The newest generator's documents are rated anew, by this round's evaluator.
    passes = [*earlier, [newest, number]]
    _log.info("%s: the evaluator", title)
    figures = _evaluator(recipe, newest, number)
    _log.info("%s: writing and rating", title)
    _run(recipe, store, passes, options)
    outcome = _outcome(store, store.as_in(passes))
    row = {"round": number, **outcome.figures(), "evaluator": figures}
    stopped = _no_gain(recipe, content["rounds"], row)
    if not stopped:
        _log.info("%s: the generator", title)
        kept = outcome.best_pairs(recipe.refine.kept_per_language)
        row["generator"] = _generator(recipe, newest, number, kept)
        if row["generator"]["taken"]:
            passes = [*passes, [number, number]]
        else:
            stopped = (
                f"Round {number}'s generator is worse on held-out pairs than the one "
                "before, which stays; so nothing is written again."
            )
    row["seconds"] = round(time.monotonic() - started, 1)
    return content | {
        "rounds": [*content["rounds"], row],
        "passes": passes,
        "stopped": stopped,
    }


def _no_gain(
    recipe: Recipe, rounds: Sequence[dict[str, Any]], row: dict[str, Any]
) -> str:
    """Why the loop ends after this round, or empty."""
    if not rounds:
        return ""
    gains = {
        "acceptance": row["acceptance"] - rounds[-1]["acceptance"],
        "accuracy": row["evaluator"]["accuracy"] - rounds[-1]["evaluator"]["accuracy"],
    }
    if max(gains.values()) >= recipe.refine.min_gain:
        return ""
    told = " and ".join(f"{name} {gain:+.1%}" for name, gain in gains.items())
    return (
        f"Round {row['round']} gained less than {recipe.refine.min_gain:.1%}: {told}. "
        "So the generator is not trained again."
    )


def _run(
    recipe: Recipe,
    store: Store,
    passes: Sequence[Sequence[int]],
    options: PipelineOptions,
) -> None:
    with Progress() as progress, beam.Pipeline(options=options) as pipeline:
        path = pipelines.Path(
            pipeline, recipe, store, until="scores", passes=store.as_in(passes)
        )
        _ = path.scores
        progress.watch(path.watch)


class _Outcome:
    """What came of the passes so far.

    Args:
      judged: Of every text.
      texts: Language and characters of every text with a candidate.
      documents: Where they are.
      passes: Where the candidates are.
    """

    def __init__(
        self,
        judged: funnel.Judged,
        texts: funnel.Texts,
        store: Store,
        passes: Sequence[Store],
    ) -> None:
        self._judged, self._texts = judged, texts
        self._store, self._passes = store, passes

    def figures(self) -> dict[str, Any]:
        """What a row of the table says of them."""
        judged = self._judged
        kept = Counter(self._texts[funnel.text_key(key)][0] for key in judged.kept)
        every = Counter(language for language, _ in self._texts.values())
        best = [p_best for _, p_best in judged.kept.values()]
        raw = [*judged.p_best.values()]
        return {
            "documents": len(self._texts) - judged.kept_before,
            "rejected": len(judged.rejected),
            "kept": len(judged.kept) - judged.kept_before,
            "acceptance": round(kept.total() / max(every.total(), 1), 4),
            "acceptance_by_language": {
                code: round(kept[code] / count, 4)
                for code, count in sorted(every.items())
            },
            "mean_p_best": round(sum(best) / max(len(best), 1), 4),
            "mean_p_best_of_all": round(sum(raw) / max(len(raw), 1), 4),
        }

    def best_pairs(self, per_language: int) -> "list[Pair]":
        """The best rated pairs that were kept, of each language so many at most."""
        from xinst_jax.seed import Pair

        ranked = sorted(self._judged.kept.items(), key=lambda item: (-item[1][0], item))
        room: Counter[str] = Counter()
        chosen = []
        for key, _ in ranked:
            language = self._texts[funnel.text_key(key)][0]
            if room[language] < per_language:
                room[language] += 1
                chosen.append(key)
        stages = [stage for each in self._passes for stage in each.candidates]
        asked = funnel.look_up(stages, funnel.candidate_key, chosen)
        texts = [funnel.text_key(key) for key in chosen]
        rows = funnel.look_up([self._store.documents], funnel.document_key, texts)
        documents = [from_row(Document, rows[key]) for key in texts]
        return [
            Pair(
                instruction=asked[key]["instruction"],
                response=document.text,
                language=document.language,
            )
            for key, document in zip(chosen, documents, strict=True)
        ]


def _outcome(store: Store, passes: Sequence[Store]) -> _Outcome:
    """Reads the parts of the passes; the first pass has a row for every text."""
    keys = {
        row["key"]
        for stage in passes[0].candidates
        for part in read_stage(stage)
        for row in part.rows
    }
    texts: funnel.Texts = {}
    for part in read_stage(store.documents):
        for row in part.rows:
            if (key := funnel.document_key(row)) in keys:
                texts[key] = row["language"], len(row["text"])
    folders = [funnel.Pass(each.candidates, each.scores) for each in passes]
    judged = funnel.read_passes(folders, store.documents, texts, store.recipe)
    return _Outcome(judged, texts, store, passes)


def _evaluator(recipe: Recipe, generator: int, number: int) -> dict[str, Any]:
    """The figures of a round's evaluator, which is trained where it is not there."""
    now = recipe.at_round(generator, number)
    out = now.evaluator.checkpoint
    made_of = [recipe.refinement_hash(), checkpoint_digest(now.generator.checkpoint)]
    own = number == 1 and (Path(out) / "config.json").is_file()
    if not own and not _is_made_of(out, made_of):
        # A later one starts from the one before, on data of the newest generator.
        again = number > 1
        base = recipe.at_round(0, number - 1).evaluator.checkpoint if again else ""
        training.train_evaluator(
            recipe,
            out,
            base=base,
            generator=now.generator.checkpoint,
            again=recipe.refine.steps if again else 0,
        )
        _write_made_of(out, made_of)
    path = Path(out) / training.EVALUATION
    if not path.is_file():
        raise RefinementError(
            f"The evaluator in {out!r} has no {training.EVALUATION}, so nobody knows "
            "what its rounds are worth. Train it with `xinst train evaluator RECIPE`."
        )
    return json.loads(path.read_text())


def _generator(
    recipe: Recipe, before: int, number: int, kept: "Sequence[Pair]"
) -> dict[str, Any]:
    """Trains a round's generator, and says whether it is better than the one before."""
    base = recipe.at_round(before, 1).generator.checkpoint
    out = recipe.at_round(number, 1).generator.checkpoint
    texts = [[pair.language, pair.instruction, pair.response] for pair in kept]
    digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()
    made_of = [recipe.refinement_hash(), checkpoint_digest(base), digest]
    if not _is_made_of(out, made_of):
        training.train_generator(
            recipe, out, base=base, kept=kept, again=recipe.refine.steps
        )
        _write_made_of(out, made_of)
    losses = [training.held_out_loss(recipe, checkpoint) for checkpoint in (base, out)]
    return {
        "held_out_loss_before": round(losses[0], 4),
        "held_out_loss": round(losses[1], 4),
        "taken": losses[1] < losses[0],
        "kept_pairs": len(kept),
    }


def _is_made_of(checkpoint: str, content: Sequence[str]) -> bool:
    path = Path(checkpoint) / _MADE_OF
    return path.is_file() and read_json(str(path)) == list(content)


def _write_made_of(checkpoint: str, content: Sequence[str]) -> None:
    write_json(str(Path(checkpoint) / _MADE_OF), list(content))
