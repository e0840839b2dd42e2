"""What a recipe will give and what it will take, told from a sample of its source.

The sample is byte ranges at random places of the source's files, so that every page is
as likely as any other to be in it. Pages beside each other are alike, so many small
ranges tell more than few large ones, and how far ranges differ tells how sure a figure
is. The pages go through the functions that a run uses, on this machine.
"""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines import evaluate, ingest, instructions, progress, warc
from beam_pipelines import store as stores
from beam_pipelines.crawl import file_size, open_file, source_files
from beam_pipelines.evaluate import RatingHandler
from beam_pipelines.generate import InstructionHandler, Speed
from beam_pipelines.members import FEED_BYTES, is_splittable
from beam_pipelines.recipe import Recipe
from beam_pipelines.schema import Document, Score, text_digest, to_row
from beam_pipelines.warc import ByteRange

# What a price is of.
PRICED = {
    "cpu": "an hour of a processor core",
    "accelerator": "an hour of an accelerator like this machine's",
    "read": "a GB that is read",
    "stored": "a GB that is stored",
}
# At least so many ranges, none longer than this: servers are asked for each.
_RANGES = 64
_MIN_RANGE, _MAX_RANGE = 4 << 10, 1 << 20
# Records are inflated from pieces of half of that.
_MIN_READ = 2 * FEED_BYTES
# Of a crawl's files, whose sizes must be asked for, so many at most.
_FILES = 64
_DRAWS = 2000
# So many ranges that hold something tell how much ranges differ in it.
_ENOUGH = 20
# Each figure lies in its interval nine times of ten; its normal deviate.
_SPREAD, _DEVIATE = (5, 95), 1.645


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A prediction, with bounds that hold nine times of ten.

    Attributes:
      value: What is likeliest.
      low: The lower bound.
      high: The upper bound.
    """

    value: float
    low: float
    high: float

    def __mul__(self, factor: "float | Figure") -> "Figure":
        if not isinstance(factor, Figure):
            return Figure(self.value * factor, self.low * factor, self.high * factor)
        # As sure as both are, apart from each other.
        value = self.value * factor.value
        if not value:
            return Figure(value, 0.0, self.high * factor.high)
        below = math.hypot(self._share(self.low), factor._share(factor.low))
        above = math.hypot(self._share(self.high), factor._share(factor.high))
        return Figure(value, value * max(0.0, 1 - below), value * (1 + above))

    def __add__(self, other: "Figure") -> "Figure":
        """Of figures that go up and down together."""
        return Figure(
            self.value + other.value, self.low + other.low, self.high + other.high
        )

    def _share(self, bound: float) -> float:
        return abs(bound / self.value - 1)


def exactly(value: float) -> Figure:
    """A figure that is known."""
    return Figure(value, value, value)


# Two runs on one machine differ by so much in speed (`benchmarks/plan_check.py`).
_STEADY = Figure(1, 0.8, 1.2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is predicted.

    Attributes:
      recipe: Its name.
      num_ranges: That were read.
      sampled: Bytes in them.
      num_pages: In them.
      num_files: Of the source.
      read: Bytes that a run reads.
      pages: That it finds.
      documents: By language, the texts that pass the recipe's rules; near duplicates,
        which no sample shows, are among them.
      candidates: That are written for these documents.
      kept: Pairs that the first pass keeps; None where no models were tried.
      cpu_hours: Of one core like this machine's, from bytes to documents.
      device_hours: Of one accelerator like this machine's; None likewise.
      stored: Bytes of the store.
      money: What all this costs by the prices that were given; None without any.
      device: On which the models were tried; empty where they were not.
      num_tried: Documents that the models were tried on.
    """

    recipe: str
    num_ranges: int
    sampled: int
    num_pages: int
    num_files: int
    read: Figure
    pages: Figure
    documents: dict[str, Figure]
    candidates: Figure
    kept: Figure | None
    cpu_hours: Figure
    device_hours: Figure | None
    stored: Figure
    money: Figure | None
    device: str
    num_tried: int

    @property
    def usable(self) -> Figure:
        """Documents of all languages."""
        return self.documents["all"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """What one range of the sample gave.

    Attributes:
      num_bytes: Of the range.
      counts: Pages, usable documents in all and by language, all documents, seconds of
        the processor.
      loading: Seconds more that it took the first time.
      documents: All of them.
      usable: Those that the recipe's rules let through.
    """

    num_bytes: int
    counts: Counter[str]
    loading: float
    documents: list[Document]
    usable: list[Document]


def predict(
    recipe: Recipe,
    sample_bytes: int,
    num_documents: int = 32,
    prices: Mapping[str, float] | None = None,
    seed: int | None = None,
) -> Plan:
    """Reads a sample, tries the models on some of it, and says what a run will do.

    Args:
      recipe: What is to be made.
      sample_bytes: So much of the source is read.
      num_documents: The models are tried on so many, if they are there; on none: 0.
      prices: By a name of `PRICED`.
      seed: Which places are read; the recipe's by default.

    Raises:
      ValueError: The source cannot be sampled.
      OSError: It cannot be read.
    """
    if sample_bytes < 1 or num_documents < 0:
        raise ValueError(
            f"A sample of {sample_bytes:,} bytes and {num_documents:,} documents tells "
            "nothing: expected --sample above 0 and --documents of 0 or more."
        )
    if recipe.source.index:
        raise ValueError(
            "source.index is true, and an index is sorted by address, so that no small "
            "part of it tells what the rest holds. Plan the scan (index = false), or "
            "run `--until documents` with a few max_files."
        )
    rng = random.Random(recipe.seed if seed is None else seed)
    files, scale = _sized_files(recipe, rng)
    total = sum(size for _, size in files) * scale
    ranges = choose_ranges(files, sample_bytes, rng)
    read = [*_read(recipe, ranges)]
    found = _predicted(read, total)
    usable = {code: found[f"usable {code}"] for code in ("all", *recipe.languages)}
    tried = _try_models(recipe, [d for r in read for d in r.usable], num_documents)

    loading = exactly(sum(r.loading for r in read))
    cpu_hours = (found["seconds"] + loading) * _STEADY * (1 / 3600)
    num_parts = sum(-(-size // warc.SPLIT_BYTES) for _, size in files) * scale
    stored = exactly(num_parts * _part_bytes(Document))
    stored += found["documents"] * _row_bytes([d for r in read for d in r.documents])
    device_hours = kept = None
    if tried:
        seconds = usable["all"] * (tried.seconds / tried.documents)
        device_hours = (seconds + exactly(tried.starting)) * _STEADY * (1 / 3600)
        kept = usable["all"] * _share(tried.kept, tried.documents)
        stored += usable["all"] * (tried.num_bytes / tried.documents)
    amounts = {
        "cpu": cpu_hours,
        "accelerator": device_hours,
        "read": exactly(total / 1e9),
        "stored": stored * 1e-9,
    }
    return Plan(
        recipe=recipe.name,
        num_ranges=len(ranges),
        sampled=sum(r.num_bytes for r in read),
        num_pages=sum(r.counts["pages"] for r in read),
        num_files=round(len(files) * scale),
        read=exactly(total),
        pages=found["pages"],
        documents=usable,
        candidates=usable["all"] * recipe.generator.candidates,
        kept=kept,
        cpu_hours=cpu_hours,
        device_hours=device_hours,
        stored=stored,
        money=_money(amounts, prices or {}),
        device=tried.device if tried else "",
        num_tried=tried.documents if tried else 0,
    )


def _sized_files(
    recipe: Recipe, rng: random.Random
) -> tuple[list[tuple[str, int]], float]:
    """Files with their sizes, and how many of the source one of them stands for."""
    listed = source_files(recipe.source)
    if all(size is not None for _, size in listed):
        return [(path, size or 0) for path, size in listed], 1.0
    chosen = rng.sample(listed, min(_FILES, len(listed)))
    sized = [(path, file_size(recipe.source.root, path)) for path, _ in chosen]
    return sized, len(listed) / len(sized)


def choose_ranges(
    files: Sequence[tuple[str, int]], sample_bytes: int, rng: random.Random
) -> list[ByteRange]:
    """Ranges at random places, as likely in one place as in another; none overlap.

    Args:
      files: Paths and sizes in bytes.
      sample_bytes: Of all ranges together, about.
      rng: Chooses.
    """
    width = min(max(sample_bytes // _RANGES, _MIN_RANGE), _MAX_RANGE)
    # The files one behind the other, cut into cells of this width.
    cells = [-(-size // width) for _, size in files]
    number = min(max(1, -(-sample_bytes // width)), sum(cells))
    chosen = iter(sorted(rng.sample(range(sum(cells)), number)))
    ranges, before, at = [], 0, next(chosen, None)
    for (path, size), of_file in zip(files, cells, strict=True):
        while at is not None and at < before + of_file:
            start = (at - before) * width
            stop = min(start + width, size)
            ranges.append(ByteRange(path=path, size=size, start=start, stop=stop))
            at = next(chosen, None)
        before += of_file
    return ranges


def _read(recipe: Recipe, ranges: Iterable[ByteRange]) -> Iterator[_Read]:
    """What each range gives, through the functions of a run."""
    judge = ingest.Judge(recipe)
    for piece in ranges:
        with open_file(recipe.source.root, piece.path) as stream:
            if not is_splittable(stream):
                raise ValueError(
                    f"{piece.path} is not a series of gzip members, so no part of it "
                    "can be read on its own. Compress it record by record to plan."
                )
            pages = list(
                warc.read_pages(
                    _Sparing(stream, piece.stop - piece.start),  # type: ignore[arg-type]
                    piece.size,
                    piece.path,
                    piece.start,
                    lambda at, stop=piece.stop: at < stop,  # type: ignore[misc]
                )
            )
        # The first time, a page may also wait for word lists and models to load.
        before = _read_pages(recipe, pages).facts()["seconds"]
        reading = _read_pages(recipe, pages)
        seconds = reading.facts()["seconds"]
        usable = [d for d in reading.documents if judge.reason(d) is None]
        counts = Counter({f"usable {d}": n for d, n in _languages(usable).items()})
        counts["usable all"] = len(usable)
        counts["documents"] = len(reading.documents)
        counts["pages"] = reading.pages
        # Fractions of seconds are as good as numbers of things.
        counts["seconds"] = seconds
        loading = max(0.0, before - seconds)
        size = piece.stop - piece.start
        yield _Read(size, counts, loading, reading.documents, usable)


class _Sparing:
    """A file of which no more is fetched at a time than a small range needs.

    Buffers, and whoever reads whole files, fetch megabytes ahead.
    """

    def __init__(self, stream: Any, num_bytes: int) -> None:
        raw = getattr(stream, "raw", stream)
        self.seek, self.tell, self._read = raw.seek, raw.tell, raw.read
        self._most = max(num_bytes, _MIN_READ)

    def read(self, num_bytes: int) -> bytes:
        return self._read(min(num_bytes, self._most))


def _read_pages(recipe: Recipe, pages: Iterable[Any]) -> ingest.Reading:
    reading = ingest.Reading(recipe)
    for item in pages:
        reading.add(item)
    return reading


def _languages(documents: Iterable[Document]) -> Counter[str]:
    return Counter(document.language for document in documents)


def _predicted(read: Sequence[_Read], total: float) -> dict[str, Figure]:
    """Each count for all of the source, by the bytes of both.

    The spread is that of the ranges drawn again and again (bootstrap), less what is
    known of the rest because part of it was read. What few ranges hold may by chance be
    in none of those drawn, so such counts are at least as unsure as Poisson's.
    """
    sizes = np.array([r.num_bytes for r in read], float)
    scale = total / max(sizes.sum(), 1)
    unknown = math.sqrt(max(0.0, 1 - 1 / scale)) if scale else 0.0
    draws = np.random.default_rng(0).multinomial(
        len(read), np.full(len(read), 1 / max(len(read), 1)), _DRAWS
    )
    figures = {}
    names = {name for r in read for name in r.counts}
    for name in sorted(names):
        found = np.array([r.counts[name] for r in read], float)
        number = found.sum()
        low, high = np.percentile(draws @ found / (draws @ sizes) * total, _SPREAD)
        low, high = float(low), float(high)
        value = float(number * scale)
        if name != "seconds" and np.count_nonzero(found) < _ENOUGH:
            low = min(low, _poisson(number, -1) * scale)
            high = max(high, _poisson(number + 1, 1) * scale)
        figures[name] = Figure(
            value, value - (value - low) * unknown, value + (high - value) * unknown
        )
    none = _poisson(1, 1) * scale * unknown
    missing = Figure(0.0, 0.0, none)
    return _WithDefault(figures, missing)


class _WithDefault(dict[str, Figure]):
    """What is in no range is not therefore nowhere."""

    def __init__(self, figures: dict[str, Figure], missing: Figure) -> None:
        super().__init__(figures)
        self._missing = missing

    def __missing__(self, name: str) -> Figure:
        return self._missing


def _poisson(number: float, side: int) -> float:
    """A bound of a Poisson mean, from a count: square roots are nearly normal."""
    return max(0.0, math.sqrt(number) + side * _DEVIATE / 2) ** 2


def _share(number: int, of: int) -> Figure:
    """A share, with Wilson's bounds."""
    z = _DEVIATE
    middle = (number + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(number * (of - number) / of + z * z / 4)
    return Figure(number / of, max(0.0, middle - half), min(1.0, middle + half))


@dataclasses.dataclass(frozen=True, slots=True)
class _Tried:
    """What the models did with a few documents.

    Attributes:
      documents: How many.
      num_bytes: Of their candidates and scores in a store.
      kept: How many documents have a pair that is kept.
      seconds: In which the device had work, once all was ready.
      starting: Seconds more that compiling took.
      device: Its name.
    """

    documents: int
    num_bytes: float
    kept: int
    seconds: float
    starting: float
    device: str


def _try_models(
    recipe: Recipe, documents: Sequence[Document], number: int
) -> _Tried | None:
    """None where the generator is not there, or nothing is to be tried."""
    # Chosen by a hash, so that neighbours are not all from one site.
    few = sorted(documents, key=lambda d: text_digest(d.id))[:number]
    if not few or not _is_there(recipe.generator.checkpoint):
        return None
    speed = Speed(batch_size=len(few))
    handlers = [
        InstructionHandler(recipe.generator, recipe.seed, "", speed, number)
        for number in range(recipe.generator.candidates)
    ]
    clock = _Clock()
    candidates = clock.run(handlers, few)
    usable = [
        c
        for c in candidates
        if instructions.drop_reason(c, recipe.instructions) is None
    ]
    scores: list[Score] = []
    if usable and _is_there(recipe.evaluator.checkpoint):
        scores = clock.run([RatingHandler(recipe.evaluator, "", speed)], usable)
    kept = {
        score.candidate.document.id
        for score in scores
        if evaluate.drop_reason(score, recipe.evaluator) is None
    }
    import jax

    part_rows = Speed().batch_size
    return _Tried(
        documents=len(few),
        num_bytes=sum(
            len(rows) * (_row_bytes(rows) + _part_bytes(type(rows[0])) / part_rows)
            for rows in (candidates, scores)
            if rows
        ),
        kept=len(kept),
        seconds=clock.seconds,
        starting=clock.starting,
        device=jax.devices()[0].device_kind,
    )


class _Clock:
    """Counts a device's seconds, those apart that only the first call takes."""

    def __init__(self) -> None:
        self.seconds = self.starting = 0.0

    def run(self, handlers: Sequence[Any], batch: Sequence[Any]) -> list[Any]:
        """What the handlers, which share a model, make of a batch."""
        model = handlers[0].load_model()
        _, first = self._timed(handlers[0], batch, model)
        made, seconds = [], []
        for handler in handlers:
            found, taken = self._timed(handler, batch, model)
            made += found
            seconds.append(taken)
        self.starting += max(0.0, first - seconds[0])
        self.seconds += sum(seconds)
        return made

    def _timed(
        self, handler: Any, batch: Sequence[Any], model: Any
    ) -> tuple[list[Any], float]:
        stores.take_spent()
        made = list(handler.results(batch, model))
        return made, stores.take_spent()["device_seconds"]


def _is_there(checkpoint: str) -> bool:
    return (Path(checkpoint) / "config.json").is_file()


def _part_bytes(record: type[Any], records: Iterable[Any] = ()) -> int:
    """How large a part is; without records, what every part has besides them."""
    return len(stores.part_bytes(record, map(to_row, records), {}))


def _row_bytes(records: Sequence[Any]) -> float:
    """What a record adds to a part."""
    if not records:
        return 0.0
    record = type(records[0])
    return (_part_bytes(record, records) - _part_bytes(record)) / len(records)


def _money(
    amounts: Mapping[str, Figure | None], prices: Mapping[str, float]
) -> Figure | None:
    """The sum of what has a price.

    Raises:
      ValueError: What is priced is not known.
    """
    money = exactly(0.0)
    for name, price in prices.items():
        amount = amounts[name]
        if amount is None:
            raise ValueError(
                f"--price {name}: how long models take is not known without "
                "checkpoints to try. Train or fetch them first, or leave it out."
            )
        money += amount * price
    return money if prices else None


def prices_of(given: Iterable[str]) -> dict[str, float]:
    """Prices by name, from `NAME=AMOUNT`.

    Raises:
      ValueError: One is no price, or of what has none.
    """
    prices = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            prices[name] = float(amount)
        except ValueError:
            prices[name] = math.nan
        if name not in PRICED or not 0 <= prices[name] < math.inf:
            known = "; ".join(f"{name}, {what}" for name, what in PRICED.items())
            raise ValueError(
                f"--price is {text!r}; expected NAME=AMOUNT with an amount of at least "
                f"0, in any currency, and a name of: {known}."
            )
    return prices


def as_json(plan: Plan) -> dict[str, Any]:
    """The prediction as plain values; hours, bytes, and the currency of the prices."""
    return dataclasses.asdict(plan)


def as_text(plan: Plan) -> str:
    """The prediction as a table for a terminal."""
    share = plan.sampled / plan.read.value if plan.read.value else 1.0
    rows = [("", "predicted", "nine times of ten")]
    rows += [(name, show(f.value), _span(f, show)) for name, f, show in figures(plan)]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines = [
        f"{plan.recipe}: from {plan.num_pages:,} pages in {plan.num_ranges:,} ranges, "
        f"{progress.describe_bytes(plan.sampled)} ({share:.2%}) of "
        f"{plan.num_files:,} files"
    ]
    for name, *cells in rows:
        right = [c.rjust(width) for c, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    lines.append(
        "Near duplicates do not show in a sample: fewer documents will be unique, and "
        "what follows shrinks with them."
    )
    if plan.kept is None:
        lines.append("No generator was tried: train or fetch it to learn of pairs.")
    else:
        lines.append(
            f"Models were tried on {plan.num_tried:,} documents, on {plan.device}; "
            "full batches are faster. Kept pairs are the first pass's, one a document."
        )
    return "\n".join(lines)


def figures(plan: Plan) -> Iterator[tuple[str, Figure, Any]]:
    """The table's figures: name, figure, and what writes one of its numbers."""
    yield "bytes to read", plan.read, progress.describe_bytes
    yield "pages", plan.pages, _count
    yield "usable documents", plan.usable, _count
    for code, figure in plan.documents.items():
        if code != "all":
            yield f"  {code}", figure, _count
    yield "candidates", plan.candidates, _count
    if plan.kept is not None:
        yield "kept pairs", plan.kept, _count
    yield "core hours", plan.cpu_hours, _hours
    if plan.device_hours is not None:
        yield "accelerator hours", plan.device_hours, _hours
    yield "bytes to store", plan.stored, progress.describe_bytes
    if plan.money is not None:
        yield "money", plan.money, "{:,.2f}".format


def _span(figure: Figure, show: Any) -> str:
    if figure.low == figure.high:
        return ""
    return f"{show(figure.low)} to {show(figure.high)}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"
