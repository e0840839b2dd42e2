"""Dead letters: some of what was dropped, with reasons, to look into and try again.

They are derived from the parts at the end of a run, by whoever started it; so none is
there twice, and the folder always says how the store is now. All that is bounded is how
many there are of one reason and language.
"""

import dataclasses
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from beam_pipelines import funnel as funnels
from beam_pipelines import store as stores
from beam_pipelines.funnel import Funnel

FOLDER = "dead_letters"
STAGES = ("documents", "candidates", "scores")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One of what was dropped.

    Attributes:
      reason: Why, as the funnel counts it.
      language: A key of `LANGUAGES`, or empty where it is not known.
      detail: For people: what was raised, the instruction, the rating, the length.
      id: Of the document; empty where there is none.
      url: Of the page, or empty.
      file: Where the page lies, as the recipe names it, without `source.base`.
      offset: Bytes.
      part: Of the store, below its root; without it the next run does this work again.
        Empty where no part has it: then the next run tries it anyway.
    """

    reason: str
    language: str
    detail: str
    id: str
    url: str
    file: str
    offset: int
    part: str


def write(funnel: Funnel) -> dict[str, int]:
    """Writes `dead_letters/<stage>.jsonl` for each stage; an empty one says: none.

    Args:
      funnel: Of the store.

    Returns:
      How many letters each stage has.
    """
    letters: dict[str, list[Letter]] = {stage: [] for stage in STAGES}
    letters["documents"].extend(_of_pages(funnel))
    for stage, letter in _of_results(funnel):
        letters[stage].append(letter)
    for stage, found in letters.items():
        path = FileSystems.join(funnel.root, FOLDER, f"{stage}.jsonl")
        stores.write_lines(path, map(dataclasses.asdict, found))
    return {stage: len(found) for stage, found in letters.items()}


def as_text(root: str, counts: dict[str, int]) -> str:
    """Where to look, in a line; empty if there is nothing to see."""
    told = ", ".join(f"{stage} {count:,}" for stage, count in counts.items() if count)
    folder = FileSystems.join(root, FOLDER)
    return f"Some of what was dropped, with reasons: {folder} ({told})." if told else ""


def _of_pages(funnel: Funnel) -> Iterator[Letter]:
    """Places that could not be read, then texts that became no usable document."""
    for damage in funnel.reading.damage:
        yield Letter(
            reason=damage.reason,
            language="",
            detail=damage.detail,
            id="",
            url="",
            file=damage.file,
            offset=damage.offset,
            part=_below(funnel.root, damage.part),
        )
    for _, few in sorted(funnel.reading.few.items()):
        for _, dropped in few:
            yield Letter(
                reason=dropped.reason,
                language=dropped.language,
                detail=dropped.detail or f"{dropped.chars:,} characters",
                id="",
                url=dropped.url,
                file=dropped.file,
                offset=dropped.offset,
                part=_below(funnel.root, dropped.part),
            )


def _of_results(funnel: Funnel) -> Iterator[tuple[str, Letter]]:
    """Candidates and scores that went no further; their pages are looked up."""
    stages = [funnel.documents] if funnel.documents else []
    keys = {item.key for item in funnel.refused}
    rows = funnels.look_up(stages, funnels.document_key, keys)
    for item in funnel.refused:
        row = rows[item.key]
        letter = Letter(
            reason=item.reason,
            language=row["language"],
            detail=item.detail,
            id=row["id"],
            url=row["url"],
            file=row["warc_file"],
            offset=row["warc_offset"],
            part=_below(funnel.root, item.part),
        )
        yield item.stage, letter


def _below(root: str, path: str) -> str:
    return path.removeprefix(root).lstrip("/\\")
