"""A source that grows: its new files are noticed while the pipeline runs.

Every so often a look is taken at the source. What a look finds is written down in a
snapshot, once, and goes on in a window of its own, through the same steps as any other
source: when the window's files are read, its shuffles close and its results are
committed.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms.periodicsequence import PeriodicImpulse, RebaseMode
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from beam_pipelines import store as stores
from beam_pipelines.crawl import path_key, source_files
from beam_pipelines.recipe import Source

_log = logging.getLogger("xinst")
_File = tuple[str, int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looks:
    """When a source is looked at.

    Attributes:
      every: Seconds from one look to the next.
      lasts: Seconds after which no more looks are taken; None: until it is stopped.

    Raises:
      ValueError: One of them is not above 0.
    """

    every: float
    lasts: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("for", self.lasts)):
            if value is not None and not value > 0:
                raise ValueError(f"--{name} is {value:g}; it must be above 0 seconds.")


class NoticeFiles(beam.PTransform):
    """Paths of snapshots: the first is as of any run, each later one adds new files.

    Args:
      source: Where files appear.
      store: Where snapshots are written.
      stages: Those whose parts the first snapshot names.
      looks: When.

    Raises:
      ValueError: The source cannot grow.
    """

    def __init__(
        self,
        source: Source,
        store: stores.Store,
        stages: Sequence[stores.Stage],
        looks: Looks,
    ) -> None:
        super().__init__()
        if source.index or source.max_files:
            raise ValueError(
                "source.index and source.max_files choose among the files of a crawl "
                "that is complete; a source that grows is followed without them."
            )
        self._notice = _Notice(source, store, stages, looks)
        self._looks = looks

    def expand(self, pipeline: PBegin) -> PCollection[str]:
        looks = self._looks
        if looks.lasts is None:
            stop, rebase = MAX_TIMESTAMP, RebaseMode.REBASE_START
        else:
            stop, rebase = Timestamp.of(looks.lasts), RebaseMode.REBASE_ALL
        return (
            pipeline
            | "Look" >> PeriodicImpulse(Timestamp(0), stop, looks.every, rebase=rebase)
            # What was seen is remembered by key; there is one source.
            | "Source" >> beam.Map(lambda _: ("", None))
            | "Notice" >> beam.ParDo(self._notice)
            | "Windows" >> beam.WindowInto(FixedWindows(looks.every))
            # A snapshot is decided before anything of it is done: a step that is tried
            # again must find the same one.
            | "Decide" >> beam.Reshuffle()
        )


@dataclasses.dataclass(kw_only=True)
class Seen:
    """What earlier looks saw.

    Attributes:
      snapshot: Path of the last one; empty before the first.
      named: `path_key` of every file in a snapshot so far.
      waiting: Of the others the size in bytes, and since when it is that.
    """

    snapshot: str = ""
    named: set[str] = dataclasses.field(default_factory=set)
    waiting: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)

    def ready(self, files: Iterable[_File], now: float, pause: float) -> list[_File]:
        """The files that are named now, each once; the others wait.

        A file may still be written, so its size must have stayed for a while. What a
        crawl lists, without a size, is complete.

        Args:
          files: That there are now: path and size in bytes.
          now: Seconds.
          pause: How many of them a size must have stayed.
        """
        found: list[_File] = []
        before, self.waiting = self.waiting, {}
        for path, size in files:
            key = path_key(path)
            if key in self.named:
                continue
            if size is not None:
                then, since = before.get(key, (size, now))
                since = since if then == size else now
                if now - since < pause:
                    self.waiting[key] = size, since
                    continue
            self.named.add(key)
            found.append((path, size))
        return found

    def to_json(self) -> str:
        """As it is kept between looks."""
        return json.dumps([self.snapshot, sorted(self.named), self.waiting])

    @classmethod
    def from_json(cls, text: str | None) -> "Seen":
        """What `to_json` kept, if it kept anything."""
        if not text:
            return cls()
        snapshot, named, waiting = json.loads(text)
        return cls(snapshot=snapshot, named=set(named), waiting=waiting)


class _Notice(beam.DoFn):
    """Looks at the source, and writes a snapshot of what is new.

    Who remembers no snapshot is new here, or starts again after a failure that took
    all: then it names what the store holds too, and the rest of the path leaves that
    out.
    """

    SEEN = ReadModifyWriteStateSpec("seen", StrUtf8Coder())

    def __init__(
        self,
        source: Source,
        store: stores.Store,
        stages: Sequence[stores.Stage],
        looks: Looks,
    ) -> None:
        self._source = source
        self._store = store
        self._stages = list(stages)
        # Looks may come late, and then close to one another.
        self._pause = looks.every / 2

    def process(
        self,
        _: tuple[str, None],
        seen: Any = beam.DoFn.StateParam(SEEN),  # noqa: B008
    ) -> Iterator[str]:
        try:
            files = source_files(self._source, grows=True)
        except (OSError, ValueError) as error:
            # A server that is away for a minute ends no crawl.
            _log.warning("follow: the source cannot be listed just now: %s", error)
            return
        memory = Seen.from_json(seen.read())
        found = memory.ready(files, time.time(), self._pause)
        if found:
            memory.snapshot = stores.take_snapshot(
                self._store, self._stages, found, after=memory.snapshot
            )
            _log.info(
                "follow: %s files more, %s that may still grow",
                f"{len(found):,}",
                f"{len(memory.waiting):,}",
            )
            yield memory.snapshot
        seen.write(memory.to_json())
