"""A training's folder until it is finished: all that it needs to go on after a kill."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp


class Unfinished:
    """The folder `<out>.training`: settings, log, and the newest checkpoint (Orbax).

    A checkpoint is committed by a rename, so a kill leaves none that is half written.

    Args:
      out: What the training will write when it is finished.
      settings: What a checkpoint is good for: JSON, the same ones on every call.

    Attributes:
      step: Of the checkpoint that was found, 0 where there is none.
      log: The lines up to that step, and those written since.

    Raises:
      ValueError: The folder has a checkpoint that was made with other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out.absolute().with_name(f"{out.name}.training")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.folder / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1,
                # The next step overwrites the arrays: they are written before it runs.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )
        self.step = self._manager.latest_step() or 0
        written = self.folder / "settings.json"
        if self.step:
            _refuse_others(json.loads(written.read_text("utf-8")), settings, written)
        _replace(written, json.dumps(settings, indent=1))
        log = self.folder / "training_log.jsonl"
        lines = log.read_text("utf-8").splitlines()[: self.step] if self.step else []
        self.log: list[dict[str, Any]] = [json.loads(line) for line in lines]
        _replace(log, "".join(f"{line}\n" for line in lines))
        self._log = log.open("a", encoding="utf-8")

    def restore(self, arrays: Any, batches: grain.DatasetIterator[Any]) -> Any:
        """The checkpoint's arrays in the place of these, and `batches` set to follow.

        Args:
          arrays: A pytree of the shapes, types and shardings that the result has.
          batches: Set to the batch after the checkpoint's last.
        """
        shapes = jax.tree.map(ocp.tree.to_shape_dtype_struct, jax.tree.leaves(arrays))
        found = self._manager.restore(
            self.step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(shapes),
                batches=grain.checkpoint.CheckpointRestore(batches),
            ),
        )
        return jax.tree.unflatten(jax.tree.structure(arrays), found.arrays)

    def save(self, step: int, arrays: Any, batches: grain.DatasetIterator[Any]) -> None:
        """A checkpoint after `step`, in the place of the one before."""
        # As a list: then what trains may be any pytree, and Orbax need not know it.
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(jax.tree.leaves(arrays)),
                batches=grain.checkpoint.CheckpointSave(batches),
            ),
        )

    def write(self, entry: dict[str, Any]) -> None:
        """One more step's line of the log, on disk when this returns."""
        self.log.append(entry)
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()

    def show(self, curve: str) -> None:
        """The losses so far as a picture, to look at while the training runs."""
        _replace(self.folder / "training.svg", curve)

    def close(self) -> None:
        """Leaves the folder to a later call."""
        self._log.close()
        self._manager.close()

    def remove(self) -> None:
        """Removes the folder; for when the result is written."""
        self.close()
        shutil.rmtree(self.folder)


def _refuse_others(
    found: Mapping[str, Any], given: Mapping[str, Any], written: Path
) -> None:
    changes = [
        f"{name} was {found.get(name)!r} and is {given.get(name)!r}"
        for name in sorted(found.keys() | given.keys())
        if found.get(name) != given.get(name)
    ]
    if changes:
        raise ValueError(
            f"{written.parent} holds an unfinished training with other settings: "
            f"{'; '.join(changes)}. Give it the same ones to go on, or delete the "
            "folder to start anew."
        )


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
