"""How far a run is, as its store tells: one line on the terminal.

What is in the store is true for one process, for many, and for a cluster that shares
its folder. Names of parts say which bytes of the source they cover, and each new
part's footer is read once. A store that is not a local folder would be slow to look
at; there Beam's own counters are what to watch.
"""

import collections
import contextlib
import dataclasses
import logging
import shutil
import sys
import threading
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import ingest
from beam_pipelines import store as stores
from beam_pipelines.crawl import path_key

if typing.TYPE_CHECKING:
    from beam_pipelines.store import Stage, Store

STAGES = ("documents", "candidates", "scores")
# To look costs at most this share of a processor.
_MAX_COST = 1 / 20
_LOOK_S = 1.0
_LINE_S = 30.0
# The pace of a stage is that of so many of its last parts.
_PARTS = 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a store holds at one moment of what a run is to make.

    Attributes:
      read: Bytes of the source that parts cover.
      source: Bytes of the source; None where nobody knows yet. Files whose size is not
        known count as the mean of the others.
      rows: By stage; only stages that the run comes to.
      tokens: By stage, how many its models read and wrote for its rows.
      most: By stage, how many rows it can have in the end, where that is known.
      index: Files of the crawl's index that were read, and all of them; or none.
    """

    read: int
    source: int | None
    rows: dict[str, int]
    tokens: dict[str, int]
    most: dict[str, int]
    index: tuple[int, int] = (0, 0)

    @property
    def is_read(self) -> bool:
        """Whether the whole source is."""
        return self.source is not None and self.read >= self.source


class Watch:
    """Looks at a store, again and again; it opens each part once.

    Args:
      store: In a local folder.
      snapshot: Path of the list of files and parts.
      candidates: The stages whose candidates the run makes; may be none.
      scores: Likewise.
    """

    def __init__(
        self,
        store: "Store",
        snapshot: str,
        candidates: Sequence["Stage"],
        scores: Sequence["Stage"],
    ) -> None:
        content = stores.read_json(snapshot)
        self.is_local = "://" not in store.root
        self._sizes = {path_key(path): size for path, size in content["files"]}
        self._num_index = len(content["index"])
        self._captures = store.captures
        self._documents = store.documents
        self._one_pass = len(scores) <= 1
        self._stages = {
            name: stages
            for name, stages in (("candidates", candidates), ("scores", scores))
            if stages
        }
        self._footers: dict[str, tuple[int, dict[str, Any]]] = {}

    def look(self) -> Look:
        """What the store holds now.

        Raises:
          OSError: A folder or a part cannot be read just now.
        """
        names = stores.part_names(self._documents)
        source: int | None = None
        if not self._num_index:
            names, source = self._source(names)
        footers = [self._footer(self._documents, name) for name in names]
        rows = {"documents": sum(number for number, _ in footers)}
        read = sum(facts["bytes"] for _, facts in footers)
        tokens: dict[str, int] = {}
        for name, stages in self._stages.items():
            found = [
                self._footer(stage, part)
                for stage in stages
                for part in stores.part_names(stage)
            ]
            rows[name] = sum(number for number, _ in found)
            tokens[name] = sum(facts.get("tokens", 0) for _, facts in found)
        listed = stores.part_names(self._captures) if self._num_index else []
        look = Look(
            read=read,
            source=source,
            rows=rows,
            tokens=tokens,
            most={"scores": rows["candidates"]} if "scores" in rows else {},
            index=(min(len(listed), self._num_index), self._num_index),
        )
        # Before that, nobody knows; and what later passes take, nobody ever does.
        if look.is_read and self._one_pass and "candidates" in rows:
            number = len(self._stages["candidates"])
            look.most["candidates"] = rows["documents"] * number
        return look

    def _source(self, names: list[str]) -> tuple[list[str], int | None]:
        """The parts that count, and the bytes of all files."""
        parts = ingest.by_path(names)
        chosen, known = [], []
        for key, size in self._sizes.items():
            mine = ingest.parts_of(parts.get(key, ()), size)
            chosen += mine
            if size is None and mine:
                size = ingest.place_of(mine[0])[0]
            if size is not None:
                known.append(size)
        if not known:
            return chosen, None
        return chosen, round(sum(known) / len(known) * len(self._sizes))

    def _footer(self, stage: "Stage", name: str) -> tuple[int, dict[str, Any]]:
        path = FileSystems.join(stage.folder, name)
        if path not in self._footers:
            number, facts = stores.read_footer(path)
            self._footers[path] = (
                number,
                {key: facts[key] for key in facts.keys() & {"tokens", "bytes"}},
            )
        return self._footers[path]


class Pace:
    """How fast a number grows, by the moments at which it did.

    Parts come one by one, so what has grown since the last one is not known: the first
    moment says when counting began, and adds nothing.
    """

    def __init__(self) -> None:
        self._moments: collections.deque[tuple[float, float]] = collections.deque(
            maxlen=_PARTS
        )
        self._value: float | None = None

    def add(self, now: float, value: float) -> None:
        """Takes in the number as it is at a moment, in seconds."""
        if self._value is not None and value > self._value:
            if now == self.last_grown:
                self._moments.pop()
            self._moments.append((now, value))
        self._value = value

    @property
    def last_grown(self) -> float | None:
        """When it last grew; None if it has not."""
        return self._moments[-1][0] if self._moments else None

    def per_second(self, now: float) -> float | None:
        """None before it has grown twice; less and less where it stands still."""
        if len(self._moments) < 2:
            return None
        (first, low), (last, high) = self._moments[0], self._moments[-1]
        between = (last - first) / (len(self._moments) - 1)
        return (high - low) / (max(last, now - between) - first)


class Line:
    """What is said of a run: numbers never fall, and no share is over 100 %."""

    def __init__(self) -> None:
        # Of the documents it is the bytes that were read.
        self._paces = {name: Pace() for name in STAGES}
        self._tokens = {name: Pace() for name in STAGES}
        self._look: Look | None = None

    def text(self, look: Look, now: float, *, at_end: bool = False) -> str:
        """The line at a moment.

        Args:
          look: At the store.
          now: Seconds.
          at_end: Whether the run is over, so that only what was made is told.
        """
        look = self._look = _no_less(look, self._look)
        for name, number in (look.rows | {"documents": look.read}).items():
            self._paces[name].add(now, number)
        for name, number in look.tokens.items():
            self._tokens[name].add(now, number)
        parts = [self._documents(look)]
        at_work = "" if at_end else self._at_work(look)
        for name in STAGES[1:]:
            if name in look.rows:
                pace = self._pace(name, look, now) if name == at_work else ""
                parts.append(f"{name} {look.rows[name]:,}{pace}")
        # First, since a narrow terminal shows the beginning.
        left = self._left(at_work, look, now) if at_work else []
        return " | ".join([*left, *parts])

    def _documents(self, look: Look) -> str:
        text = f"documents {look.rows['documents']:,}"
        if look.index[0] < look.index[1]:
            text = "index {:,} of {:,} files | ".format(*look.index) + text
        if look.source is None:
            return f"{text} from {describe_bytes(look.read)}"
        # Rounded down: 100 % is all of it.
        share = min(100, 100 * look.read // look.source) if look.source else 100
        return f"{text} from {share} % of {describe_bytes(look.source)}"

    def _pace(self, name: str, look: Look, now: float) -> str:
        text = ""
        if look.rows[name] and name in look.most:
            text += f" of at most {max(look.most[name], look.rows[name]):,}"
        if pace := self._paces[name].per_second(now):
            text += f", {pace:,.1f}/s"
            if tokens := self._tokens[name].per_second(now):
                text += f" with {tokens:,.0f} tokens/s"
        return text

    def _left(self, name: str, look: Look, now: float) -> list[str]:
        """How long the stage at work will take; one stage follows the other."""
        if name == "documents":
            if look.is_read:
                return []
            left = None if look.source is None else look.source - look.read
        else:
            most = look.most.get(name)
            left = None if most is None else max(0, most - look.rows[name])
        pace = self._paces[name].per_second(now)
        if left is None or not pace:
            return [f"{name}: ? left"]
        bound = "at most " if name in look.most else ""
        return [f"{name}: {bound}{_duration(left / pace)} left"]

    def _at_work(self, look: Look) -> str:
        """The stage that grew last, or the one whose turn it is."""
        grown = [
            (last, at, name)
            for at, name in enumerate(look.rows)
            if (last := self._paces[name].last_grown) is not None
        ]
        name = max(grown)[2] if grown else "documents"
        if name == "documents" and look.is_read and "candidates" in look.rows:
            return "candidates"
        return name


def _no_less(look: Look, before: Look | None) -> Look:
    """The look, with no number below what it was.

    A part that covers more from one place on may take the place of two others.
    """
    if before is None:
        return look
    return dataclasses.replace(
        look,
        read=max(look.read, before.read),
        rows={name: max(n, before.rows[name]) for name, n in look.rows.items()},
        tokens={name: max(n, before.tokens[name]) for name, n in look.tokens.items()},
    )


class Progress:
    """Shows how far a run is, while it lasts: `with Progress() as progress, …`.

    On a terminal the line is drawn over itself; elsewhere there is a new one every
    half a minute, and one at the end.

    Args:
      stream: Where to; standard error by default.
      clock: Tells seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._line = Line()
        self._said = ""
        self._said_at = clock()
        self._watch: Watch | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._lock = threading.Lock()

    def watch(self, watch: Watch) -> None:
        """Begins; a store that is not local is not looked at."""
        if watch.is_local:
            self._watch = watch
            self.look()
            self._thread.start()

    def __enter__(self) -> "Progress":
        if self._is_terminal:
            for handler in logging.getLogger("xinst").handlers:
                handler.addFilter(self._make_room)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for handler in logging.getLogger("xinst").handlers:
            handler.removeFilter(self._make_room)
        if self._watch:
            self._thread.join()
            self.look(at_end=True)

    def look(self, *, at_end: bool = False) -> None:
        """Looks at the store once, and says what there is to say."""
        # A part may be replaced in the very moment; the next look will find it.
        with contextlib.suppress(OSError, ValueError), self._lock:
            assert self._watch
            now = self._clock()
            text = self._line.text(self._watch.look(), now, at_end=at_end)
            if self._is_terminal:
                width = shutil.get_terminal_size().columns - 1
                ending = "\n" if at_end else ""
                self._stream.write(f"\r\x1b[K{text[:width]}{ending}")
            elif text != self._said and (at_end or now - self._said_at >= _LINE_S):
                self._stream.write(f"{text}\n")
                self._said, self._said_at = text, now
            self._stream.flush()

    def _show(self) -> None:
        pause = _LOOK_S
        while not self._ended.wait(pause):
            started = time.thread_time()
            self.look()
            pause = max(_LOOK_S, (time.thread_time() - started) / _MAX_COST)

    def _make_room(self, record: logging.LogRecord) -> bool:
        """Wipes the line away before a message is written in its place."""
        self._stream.write("\r\x1b[K")
        return True


def describe_bytes(number: float) -> str:
    """A number of bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        # Two of a unit at least, so that rounding says little that is wrong.
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
