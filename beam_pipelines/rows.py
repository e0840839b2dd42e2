"""Rows of instruction data, ours or others': a TFDS folder, JSON lines, a JSON list."""

import dataclasses
import gzip
import itertools
import json
import typing
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from beam_pipelines.schema import LANGUAGES

_COLUMNS = ("instruction", "output", "output_language")
_CODES = {name.name.lower(): code for code, name in LANGUAGES.items()} | {
    code: code for code in LANGUAGES
}
# A column that none of so many first rows has is missing from the data set.
_FIRST_ROWS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instruction and its output.

    Attributes:
      where: For a person to find it again: `data.jsonl:7`, or `train[6]`.
      instruction: English, or meant to be.
      output: In `language`, or meant to be.
      language: A key of `LANGUAGES`.
      domain: The registered domain of its page; empty where there is no such column.
    """

    where: str
    instruction: str
    output: str
    language: str
    domain: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
      where: As a row's.
      reason: What is wrong with it.
    """

    where: str
    reason: str


def read(path: str) -> Iterator[Row | BadRow]:
    """The rows of a data set, one after another; a bad one costs only itself.

    JSON lines and TFDS folders are streamed; a JSON list is parsed as a whole.

    Args:
      path: A folder that `tfds build` wrote, or one above it; or a file that ends in
        .jsonl, .json, .jsonl.gz or .json.gz. Columns are `instruction`, `output`,
        `output_language` (ISO 639-1, or the name in English) and perhaps `domain`.

    Raises:
      ValueError: It is neither, or has no such columns.
    """
    found = _of_folder(path) if Path(path).is_dir() else of_file(path)
    first = list(itertools.islice(found, _FIRST_ROWS))
    there = {name for _, row in first if isinstance(row, Mapping) for name in row}
    if there and (missing := [name for name in _COLUMNS if name not in there]):
        raise ValueError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(sorted(map(repr, there)))}."
        )
    for where, row in itertools.chain(first, found):
        yield _row(where, row)


def of_file(path: str) -> Iterator[tuple[str, Any]]:
    """Where each JSON value of a file stands, and the value: of a line, or of a list.

    A line that is none is its error, a `ValueError`.

    Raises:
      ValueError: It has another ending, or is a .json file that is no JSON.
      OSError: It cannot be read, or its gzip is damaged from the start.
    """
    name = Path(path).name
    plain = name.removesuffix(".gz")
    if not plain.endswith((".jsonl", ".json")):
        raise ValueError(
            f"{path}: expected a folder of a TFDS data set, or a file that ends in "
            ".jsonl, .json, .jsonl.gz or .json.gz."
        )
    with _open(path) as stream:
        if plain.endswith(".jsonl"):
            yield from _lines(name, stream)
            return
        try:
            values = json.load(stream)
        except (ValueError, RecursionError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
    for number, value in enumerate(values if isinstance(values, list) else [values]):
        yield f"{name}[{number}]", value


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return typing.cast(IO[bytes], gzip.open(path, "rb"))
    return open(path, "rb")


def _lines(name: str, stream: IO[bytes]) -> Iterator[tuple[str, Any]]:
    number = 0
    while True:
        number += 1
        where = f"{name}:{number}"
        try:
            line = stream.readline()
        except (
            EOFError,
            OSError,
            zlib.error,
        ) as error:  # A clipped archive gives what it had.
            yield where, ValueError(f"unreadable from here on: {error}")
            return
        if not line:
            return
        if not line.strip():
            continue
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, ValueError(f"no JSON: {error}")


def _row(where: str, values: Any) -> Row | BadRow:
    if isinstance(values, ValueError):
        return BadRow(where=where, reason=str(values).partition(": ")[0])
    if not isinstance(values, Mapping):
        return BadRow(where=where, reason="no object")
    texts = {}
    for name in _COLUMNS:
        if name not in values:
            return BadRow(where=where, reason=f"no {name}")
        text = values[name]
        if isinstance(text, bytes):  # TFDS has texts as UTF-8.
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            return BadRow(where=where, reason=f"{name} is no text")
        if not text.strip():
            return BadRow(where=where, reason=f"empty {name}")
        texts[name] = text
    code = _CODES.get(texts["output_language"].strip().lower())
    if code is None:
        return BadRow(where=where, reason="output_language is none of ours")
    domain = values.get("domain", "")
    if isinstance(domain, bytes):
        domain = domain.decode("utf-8", "replace")
    return Row(
        where=where,
        instruction=texts["instruction"],
        output=texts["output"],
        language=code,
        domain=domain if isinstance(domain, str) else "",
    )


def _of_folder(path: str) -> Iterator[tuple[str, Any]]:
    # Imported here: most data sets of others are files.
    import tensorflow_datasets as tfds

    folder = _version_folder(Path(path))
    try:
        splits = tfds.builder_from_directory(folder).as_data_source()
    except NotImplementedError as error:
        raise ValueError(f"{folder} is not in array_record files: {error}") from None
    for name, source in splits.items():
        for number in range(len(source)):
            yield f"{name}[{number}]", source[number]


def _version_folder(path: Path) -> Path:
    """The one data set below a folder, in its newest version.

    Raises:
      ValueError: There is none, or more than one.
    """
    found = {file.parent for file in path.rglob("dataset_info.json")}
    if not found:
        raise ValueError(f"No data set in {path}. Was it built? `tfds build` does it.")
    names = sorted({folder.parent for folder in found})
    if len(names) > 1:
        raise ValueError(
            f"{path} holds several data sets; name one of "
            f"{', '.join(map(str, sorted(names)))}."
        )
    return max(found, key=lambda folder: _version(folder.name))


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))
