"""The funnel: what a store holds, what was dropped on the way to it, and why.

It is read from the parts and the small files of counts. Beam's counters would count a
retried bundle twice.
"""

import bisect
import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import evaluate, ingest, instructions, verbs
from beam_pipelines import recipe as recipes
from beam_pipelines import store as stores
from beam_pipelines.crawl import path_key
from beam_pipelines.recipe import Recipe, RecipeError
from beam_pipelines.schema import (
    LANGUAGES,
    Candidate,
    Document,
    Score,
    from_row,
    text_digest,
)

K = TypeVar("K")
T = TypeVar("T")
Texts = dict[str, tuple[str, int]]
Asked = tuple[int, tuple[str, str]]
# With the path of its part.
Instruction = tuple[str, str]

P_BEST_BINS = 20
# To look at: of each language, of each (reason, language), of all damaged places.
_SHOWN, _DROPPED, _DAMAGE = 3, 20, 200
_BEGINNING_CHARS = 300


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: what went in came out, was dropped, or waits for the next run.

    Attributes:
      name: `documents`, `duplicates`, `candidates`, `scores` or `examples`.
      entered: How many went in, by language; an empty one is not known.
      left: How many came out, by language.
      dropped: How many were dropped, by (reason, language).
    """

    name: str
    entered: Counter[str]
    left: Counter[str]
    dropped: Counter[tuple[str, str]]

    @property
    def waiting(self) -> int:
        """How many went in and are not done."""
        return (self.entered - self._done).total()

    @property
    def surplus(self) -> int:
        """How many are done and did not go in: their texts were replaced since."""
        return (self._done - self.entered).total()

    @property
    def _done(self) -> Counter[str]:
        return self.left + _by_language(self.dropped)

    @property
    def reasons(self) -> dict[str, int]:
        """How many were dropped, by reason, the commonest first."""
        total: Counter[str] = Counter()
        for (reason, _), count in self.dropped.items():
            total[reason] += count
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A place in a file that could not be read.

    Attributes:
      file: As the recipe names it, without `source.base`.
      offset: Bytes.
      reason: What was wrong, as a name that is counted.
      detail: For people.
      part: Path of the part that says so; empty where the file could not be had.
    """

    file: str
    offset: int
    reason: str
    detail: str
    part: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A text that became no document.

    Attributes:
      reason: Why.
      language: A key of `LANGUAGES`, or empty where it is not known.
      chars: Of the text that was judged.
      url: Of its page.
      file: Where the page lies.
      offset: Bytes.
      part: Path of the part that says so.
      detail: What was raised, if that is the reason.
    """

    reason: str
    language: str
    chars: int
    url: str
    file: str
    offset: int
    part: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A candidate or a score that went no further.

    Attributes:
      stage: `candidates` or `scores`.
      reason: Why, as a name that is counted.
      key: Of the text.
      detail: For people.
      part: Path of the part that it is in.
    """

    stage: str
    reason: str
    key: str
    detail: str
    part: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One of what is left at the end, to look at.

    Attributes:
      document: Its text is only the beginning.
      instruction: Empty while there is none.
      score: None while there is none.
      p_best: Likewise.
    """

    document: Document
    instruction: str
    score: float | None
    p_best: float | None


@dataclasses.dataclass(slots=True)
class Reading:
    """What the parts of the documents say of the crawl.

    Attributes:
      pages: That were read.
      files: Bytes that were read of each file.
      bytes_left: Of the last run's source, in files whose size is known, that no part
        covers.
      files_left: Of the last run's source, that no part is of.
      dates: Of the first and the last capture with a document, ISO 8601; or empty.
      texts: Language and characters of each usable document, by its key.
      unusable: Keys of the others.
      drops: How many texts were dropped, by (reason, language).
      few: Some of them, by (reason, language); each with the hash that chose it.
      num_damaged: Damaged places.
      damage: The first of them.
    """

    pages: int = 0
    files: Counter[str] = dataclasses.field(default_factory=Counter)
    bytes_left: int = 0
    files_left: int = 0
    dates: tuple[str, ...] = ()
    texts: Texts = dataclasses.field(default_factory=dict)
    unusable: set[str] = dataclasses.field(default_factory=set)
    drops: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    few: dict[tuple[str, str], list[tuple[str, Dropped]]] = dataclasses.field(
        default_factory=dict
    )
    num_damaged: int = 0
    damage: list[Damage] = dataclasses.field(default_factory=list)

    def add(self, part: stores.Part, judge: ingest.Judge) -> None:
        """Counts what one part holds, and what was dropped, then or by now."""
        facts = part.facts
        file = facts["path"]
        self.pages += facts["pages"]
        self.files[file] += facts["bytes"]
        for reason, language, count in facts["drops"]:
            self.drops[reason, language] += count
        for sample in facts["samples"]:
            self._show(Dropped(file=file, part=part.path, **sample))
        self.num_damaged += facts["num_flaws"]
        room = _DAMAGE - len(self.damage)
        self.damage.extend(
            Damage(file=file, part=part.path, **flaw) for flaw in facts["flaws"][:room]
        )
        for row in part.rows:
            document = from_row(Document, row)
            dates = (*self.dates, document.date)
            self.dates = min(dates), max(dates)
            if document.key in self.texts or document.key in self.unusable:
                continue
            if reason := judge.reason(document):
                self.unusable.add(document.key)
                self.drops[reason, document.language] += 1
                dropped = Dropped(
                    reason=reason,
                    language=document.language,
                    chars=len(document.text),
                    url=document.url,
                    file=document.warc_file,
                    offset=document.warc_offset,
                    part=part.path,
                )
                self._show(dropped)
            else:
                self.texts[document.key] = document.language, len(document.text)

    def _show(self, item: Dropped) -> None:
        group, name = (item.reason, item.language), f"{item.file}:{item.offset}"
        _keep_few(self.few, group, name, item, _DROPPED)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """What a store holds.

    Attributes:
      root: Of the store.
      documents: Where the texts lie; None: nothing was run on this store yet.
      name: Of the recipe; empty likewise.
      keep_above: The recipe's threshold on `p_best`.
      reading: What was read of the crawl.
      steps: Those that the store has come to, in order.
      output_chars: How many texts at the end have (language, number of characters).
      instruction_chars: The same for their instructions.
      p_best: How many scored pairs fall into each of `P_BEST_BINS` equal bins.
      shown: A few in each language of what is left at the end.
      refused: Some candidates and scores that went no further, of every reason.
      verbs: How many instructions of what is left at the end have each (root verb,
        object).
      refinement: What `refinement.json` says; None before there were rounds.
      topic_map: What the last build's `map.json` says, likewise.
      diversity: What its `diversity.json` says, likewise.
      notes: Which folders were read, and what was left out, for people.
    """

    root: str
    documents: stores.Stage | None = None
    name: str = ""
    keep_above: float = 0.0
    reading: Reading = dataclasses.field(default_factory=Reading)
    steps: tuple[Step, ...] = ()
    output_chars: Counter[tuple[str, int]] = dataclasses.field(default_factory=Counter)
    instruction_chars: Counter[tuple[str, int]] = dataclasses.field(
        default_factory=Counter
    )
    p_best: Counter[int] = dataclasses.field(default_factory=Counter)
    shown: tuple[Shown, ...] = ()
    refused: tuple[Refused, ...] = ()
    verbs: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    refinement: object = None
    topic_map: object = None
    diversity: object = None
    notes: tuple[str, ...] = ()

    def step(self, name: str) -> Step | None:
        """The step of that name, if the store has come to it."""
        return next((step for step in self.steps if step.name == name), None)


def read_funnel(root: str) -> Funnel:
    """What a store holds, whatever stages it has come to.

    Raises:
      RecipeError: Its `recipe.json` is of another version.
      StoreError: A small file in it is damaged.
    """
    path = FileSystems.join(root, "recipe.json")
    if not FileSystems.exists(path):
        return Funnel(root=root)
    recipe = _recipe(stores.read_json(path))
    store = stores.Store(root, recipe)
    notes: list[str] = []
    documents, passes = store.documents, _passes(store, notes)
    if stores.part_names(documents):
        notes.insert(0, f"Read: {_named(documents)}, the recipe's.")

    reading = _read_documents(documents, root, recipe, notes)
    texts, steps, examples = reading.texts, [], ""
    final = dict.fromkeys(texts, "")
    if reading.files:
        languages = Counter(language for language, _ in texts.values())
        entered = languages + _by_language(reading.drops)
        steps.append(_step("documents", entered, languages, reading.drops))
        counts = FileSystems.join(documents.folder, "duplicates.json")
        files = _present(*stores.counts_files(counts))
        steps.extend(_counted_step("duplicates", languages, files))
    judged = read_passes(passes, documents, texts, recipe)
    if judged.usable or judged.rejected:
        final = {text_key(key): key for key in judged.usable}
        rejected = Counter((r, texts[key][0]) for key, r in judged.rejected.items())
        languages = Counter(texts[key][0] for key in final)
        steps.append(_step("candidates", steps[-1].left, languages, rejected))
    if judged.kept or judged.dropped:
        final = {text_key(key): key for key in judged.kept}
        dropped = Counter((r, texts[key][0]) for key, r in judged.dropped.items())
        languages = Counter(texts[key][0] for key in final)
        steps.append(_step("scores", steps[-1].left, languages, dropped))
        examples = _not_chosen(store, notes)
        steps.extend(_counted_step("examples", languages, _present(examples)))
    usable = judged.usable

    return Funnel(
        root=root,
        documents=documents,
        name=recipe.name,
        keep_above=recipe.evaluator.keep_above,
        reading=reading,
        steps=tuple(steps),
        output_chars=Counter(texts[key] for key in final),
        instruction_chars=Counter(
            (texts[key][0], usable[pair][0]) for key, pair in final.items() if pair
        ),
        p_best=judged.bins,
        shown=_show(final, texts, judged.kept, documents, passes),
        refused=tuple(item for _, few in sorted(judged.few.items()) for _, item in few),
        verbs=Counter(usable[pair][1] for pair in final.values() if pair),
        refinement=_small_file(root, stores.REFINEMENT),
        topic_map=_beside(examples, "map.json"),
        diversity=_beside(examples, "diversity.json"),
        notes=tuple(notes),
    )


def _recipe(flat: Mapping[str, Any]) -> Recipe:
    """The recipe that `Store.open` wrote with dotted keys."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, key = dotted.split(".")
        table = nested
        for name in path:
            table = table.setdefault(name, {})
        table[key] = value
    return recipes.from_table(nested)


def _newest(*names: str) -> str:
    """The file of a pattern that was written last; empty if there is none."""
    found = FileSystems.match([FileSystems.join(*names)])[0].metadata_list
    newest = max(found, key=lambda m: (m.last_updated_in_seconds, m.path), default=None)
    return newest.path if newest else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Pass:
    """The folders of one pass over the documents."""

    candidates: tuple[stores.Stage, ...]
    scores: stores.Stage


def _passes(store: stores.Store, notes: list[str]) -> list[Pass]:
    """The passes of the recipe, or the newest folders if those cannot be told."""
    try:
        found, how = [], "the recipe's"
        for each in store.passes():
            candidates = each.candidates
            try:
                found.append(Pass(candidates, each.scores))
            except RecipeError:
                scores = _newest_stage(store, "scores", Score)
                found.append(Pass(candidates, scores))
    except RecipeError:
        how = "the newest, since the recipe's checkpoint is not there to tell"
        candidates = (_newest_stage(store, "candidates", Candidate),)
        found = [Pass(candidates, _newest_stage(store, "scores", Score))]
    for one in found:
        for stage in (*one.candidates, one.scores):
            if stores.part_names(stage):
                notes.append(f"Read: {_named(stage)}, {how}.")
    return found


def _newest_stage(store: stores.Store, name: str, record: type[Any]) -> stores.Stage:
    part = _newest(store.root, name, "*", "*.parquet")
    empty = FileSystems.join(store.root, name, "none")
    return stores.Stage(FileSystems.split(part)[0] if part else empty, record)


def _named(stage: stores.Stage) -> str:
    above, digest = FileSystems.split(stage.folder)
    return f"{FileSystems.split(above)[1]}/{digest}"


def _not_chosen(store: stores.Store, notes: list[str]) -> str:
    """The path of the counts that a build leaves, or empty."""
    try:
        folder = store.examples
    except RecipeError:
        path = _newest(store.root, "examples", "*", "not_chosen.json")
        if path:
            digest = FileSystems.split(FileSystems.split(path)[0])[1]
            notes.append(f"Read: examples/{digest}, the newest.")
        return path
    return FileSystems.join(folder, "not_chosen.json")


def _small_file(*names: str) -> object:
    """What a file of JSON says, or None where it is not there."""
    path = FileSystems.join(*names)
    return stores.read_json(path) if FileSystems.exists(path) else None


def _beside(path: str, name: str) -> object:
    """The same of a file in the folder of another; None without that."""
    return _small_file(FileSystems.split(path)[0], name) if path else None


def _step(
    name: str,
    entered: Counter[str],
    left: Counter[str],
    dropped: Counter[tuple[str, str]],
) -> Step:
    return Step(name=name, entered=entered, left=left, dropped=dropped)


def _present(*patterns: str) -> list[str]:
    """The files that there are."""
    found = [FileSystems.match([pattern])[0] for pattern in patterns if pattern]
    return [metadata.path for match in found for metadata in match.metadata_list]


def _counted_step(name: str, entered: Counter[str], paths: Iterable[str]) -> list[Step]:
    """The step whose drops are in small files; none before one is written."""
    dropped: Counter[tuple[str, str]] = Counter()
    written = [stores.read_json(path) for path in paths]
    for reason, language, count in itertools.chain.from_iterable(written):
        dropped[reason, language] += count
    left = entered - _by_language(dropped)
    return [_step(name, entered, left, dropped)] if written else []


def _by_language(drops: Mapping[tuple[str, str], int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for (_, language), count in drops.items():
        total[language] += count
    return total


def document_key(row: Mapping[str, Any]) -> str:
    """The key of the document that a row is."""
    return from_row(Document, row).key


def candidate_key(row: Mapping[str, Any]) -> str:
    """The key of the candidate that a row is."""
    return f"{row['key']}:{text_digest(row['instruction'])}"


def text_key(key: str) -> str:
    """The document's key in that of a candidate."""
    return key.rpartition(":")[0]


def _read_documents(
    stage: stores.Stage, root: str, recipe: Recipe, notes: list[str]
) -> Reading:
    """The parts of the last run's source; a recipe's source may have changed."""
    listed, by_index = _listed(_newest(root, "snapshots", "*.json"))
    names = stores.part_names(stage)
    reading, judge = Reading(), ingest.Judge(recipe)
    kept = [] if listed else names
    parts = ingest.by_path(names)
    for path, size in listed:
        mine = parts.get(path_key(path), [])
        if not by_index:
            mine = ingest.parts_of(mine, size)
        kept.extend(mine)
        reading.files_left += not mine
    for name in kept:
        part = stores.read_part(FileSystems.join(stage.folder, name))
        reading.add(part, judge)
    if num_others := len(names) - len(kept):
        notes.append(f"Left out: {num_others} parts of files outside the last source.")
    sizes = Counter({path: size or 0 for path, size in listed})
    reading.bytes_left = (sizes - reading.files).total()
    for letter in stores.unread(stage):
        reading.num_damaged += 1
        reading.damage.append(Damage(reason="unreachable", **letter))
    return reading


def _listed(snapshot: str) -> tuple[list[tuple[str, int | None]], bool]:
    """The files that the last run was to read, and whether an index chose of them."""
    files: list[tuple[str, int | None]] = []
    by_index = False
    while snapshot:
        content = stores.read_json(snapshot)
        files += content["files"]
        by_index = bool(content["index"])
        # Where a source is followed, each look adds to those before it.
        snapshot = content.get("after", "")
    return files, by_index


@dataclasses.dataclass(slots=True)
class Judged:
    """What became of each text, after the passes so far.

    Attributes:
      usable: Characters and root of the instruction, by the candidate's key.
      rejected: Why a text has no usable instruction, by the text's key.
      kept: Score and `p_best` of the pair that is kept, by the candidate's key.
      dropped: Why a text with a usable instruction has no kept pair.
      kept_before: How many of them before the last pass.
      p_best: Of the pair of each text that was rated last, by the text's key.
      bins: Of `p_best`, all that were scored.
      few: Some that went no further, by (stage, reason, language), with the hashes that
        chose them. A text of theirs may have another pair that is kept.
    """

    usable: dict[str, Asked] = dataclasses.field(default_factory=dict)
    rejected: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)
    kept_before: int = 0
    p_best: dict[str, float] = dataclasses.field(default_factory=dict)
    bins: Counter[int] = dataclasses.field(default_factory=Counter)
    few: dict[tuple[str, str, str], list[tuple[str, Refused]]] = dataclasses.field(
        default_factory=dict
    )

    def refuse(
        self, stage: str, reason: str, text: tuple[str, str], detail: str, part: str
    ) -> None:
        """Keeps one that goes no further, if it is among the few.

        Args:
          stage: `candidates` or `scores`.
          reason: Why.
          text: Language and key of its text.
          detail: For people.
          part: Where it is.
        """
        language, key = text
        item = Refused(stage=stage, reason=reason, key=key, detail=detail, part=part)
        group = stage, reason, language
        _keep_few(self.few, group, f"{key} {detail}", item, _DROPPED)


def read_passes(
    passes: Iterable[Pass], documents: stores.Stage, texts: Texts, recipe: Recipe
) -> Judged:
    """Each pass takes the texts that the passes before kept nothing of."""
    judged, left = Judged(), dict(texts)
    for each in passes:
        judged.kept_before = len(judged.kept)
        asked: dict[str, list[Instruction]] = {}
        for stage in each.candidates:
            _read_candidates(stage, left, asked, judged)
        usable = _follow_rules(asked, documents, recipe, judged)
        judged.usable |= usable
        best = _read_scores(each.scores, usable, recipe.evaluator, texts, judged)
        judged.kept |= {pair: found for pair, found in best.values()}
        for key in best:
            judged.dropped.pop(key, None)
            del left[key]
    # One pass may have found a usable instruction where another did not.
    for key in map(text_key, judged.usable):
        judged.rejected.pop(key, None)
    return judged


def _read_candidates(
    stage: stores.Stage,
    left: Texts,
    asked: dict[str, list[Instruction]],
    judged: Judged,
) -> None:
    """Adds the instructions of these texts, each text once, or why there is none."""
    seen = set()
    for part in stores.read_stage(stage):
        for row in part.rows:
            key = row["key"]
            if key in seen or key not in left:
                continue
            seen.add(key)
            if row["rejected"]:
                # What follows a colon is for people, and differs from row to row.
                reason, _, detail = row["rejected"].partition(":")
                judged.rejected[key] = reason
                text = left[key][0], key
                detail = detail.strip() or row["instruction"]
                judged.refuse("candidates", reason, text, detail, part.path)
            else:
                asked.setdefault(key, []).append((row["instruction"], part.path))


def _follow_rules(
    asked: dict[str, list[Instruction]],
    documents: stores.Stage,
    recipe: Recipe,
    judged: Judged,
) -> dict[str, Asked]:
    """The usable instructions, by the rules as they are now.

    The rules compare an instruction with its text, which is in another part.
    """
    usable: dict[str, Asked] = {}
    parts = stores.read_stage(documents)
    while asked:
        for row in next(parts).rows:
            key = document_key(row)
            for instruction, part in asked.pop(key, ()):
                if reason := instructions.reject_reason(
                    instruction, row["text"], recipe.instructions
                ):
                    judged.rejected[key] = reason
                    text = row["language"], key
                    judged.refuse("candidates", reason, text, instruction, part)
                else:
                    pair = candidate_key({"key": key, "instruction": instruction})
                    usable[pair] = len(instruction), verbs.root(instruction)
    return usable


def _read_scores(
    stage: stores.Stage,
    usable: Collection[str],
    settings: recipes.Evaluator,
    texts: Texts,
    judged: Judged,
) -> dict[str, tuple[str, tuple[float, float]]]:
    """The best pair of each text, with its score and `p_best`, by the text's key."""
    best: dict[str, tuple[str, tuple[float, float]]] = {}
    seen = set()
    for part in stores.read_stage(stage):
        for row in part.rows:
            key = row["key"]
            if key in seen or key not in usable:
                continue
            seen.add(key)
            score = from_row(Score, row, candidate=None)
            text = text_key(key)
            if reason := evaluate.drop_reason(score, settings):
                judged.dropped[text] = reason
                detail = score.rejected or f"p_best {score.p_best:.3f}"
                whose = texts[text][0], text
                judged.refuse("scores", reason, whose, detail, part.path)
            else:
                found = best.get(text)
                if found is None or (-score.score, key) < (-found[1][0], found[0]):
                    best[text] = key, (score.score, score.p_best)
            if not score.rejected:
                judged.p_best[text] = score.p_best
                bin_ = min(int(score.p_best * P_BEST_BINS), P_BEST_BINS - 1)
                judged.bins[bin_] += 1
    return best


def _keep_few(
    groups: dict[K, list[tuple[str, T]]], group: K, name: str, item: T, limit: int
) -> None:
    """Adds an item to its group, which keeps those whose names hash lowest.

    They come from all over the crawl, and are the same whatever order they come in.
    """
    few = groups.setdefault(group, [])
    bisect.insort(few, (text_digest(name), item), key=lambda pair: pair[0])
    del few[limit:]


def _show(
    final: Mapping[str, str],
    texts: Texts,
    kept: Mapping[str, tuple[float, float]],
    documents: stores.Stage,
    passes: Iterable[Pass],
) -> tuple[Shown, ...]:
    """A few of what is left, in each language; their texts are looked up again."""
    few: dict[str, list[tuple[str, str]]] = {}
    for key in final:
        _keep_few(few, texts[key][0], key, key, _SHOWN)
    keys = [key for language in LANGUAGES for _, key in few.get(language, ())]
    rows = look_up([documents], document_key, keys)
    pairs = [final[key] for key in keys if final[key]]
    candidates = [stage for each in passes for stage in each.candidates]
    asked = look_up(candidates, candidate_key, pairs)
    shown = []
    for key in keys:
        document = from_row(Document, rows[key])
        text, pair = beginning(document.text, _BEGINNING_CHARS), final[key]
        score, p_best = kept.get(pair, (None, None))
        shown.append(
            Shown(
                document=dataclasses.replace(document, text=text),
                instruction=asked[pair]["instruction"] if pair else "",
                score=score,
                p_best=p_best,
            )
        )
    return tuple(shown)


def look_up(
    stages: Iterable[stores.Stage],
    key_of: Callable[[Mapping[str, Any]], str],
    keys: Iterable[str],
) -> dict[str, Mapping[str, Any]]:
    """The rows with these keys; no more parts are read than it takes."""
    found: dict[str, Mapping[str, Any]] = {}
    missing = set(keys)
    parts = itertools.chain.from_iterable(map(stores.read_stage, stages))
    while missing:
        for row in next(parts).rows:
            if (key := key_of(row)) in missing:
                missing.remove(key)
                found[key] = row
    return found


def beginning(text: str, max_chars: int) -> str:
    """The start of a text, cut between words, or at least between characters."""
    if len(text) <= max_chars:
        return text
    end = text.rfind(" ", max_chars // 2, max_chars + 1)
    if end < 0:
        end = max_chars
        # A mark belongs to the letter before it.
        while end and unicodedata.category(text[end]).startswith("M"):
            end -= 1
    return f"{text[:end].rstrip()} …"
