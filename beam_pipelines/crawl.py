"""What a source offers to read: files that are named, or what a crawl lists.

A crawl's path lists name its files; its columnar index tells, for each record, which
languages were detected and where it lies, so that records of a rare language can be
fetched alone.
"""

import hashlib
import io
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from isal import isal_zlib

from beam_pipelines import language, remote  # noqa: F401  (remote: http for Beam)
from beam_pipelines.members import INFLATE_ERRORS
from beam_pipelines.recipe import Source
from beam_pipelines.schema import Capture

# A crawl lists about 100,000 paths of 140 characters.
_MAX_LIST_BYTES = 256 << 20
# Paths come from outside and are joined to a root: they must stay below it.
_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.=+/-]*", re.ASCII)

_COLUMNS = (
    "fetch_status",
    "content_mime_detected",
    "content_languages",
    "warc_filename",
    "warc_record_offset",
    "warc_record_length",
)
_HTML = ("text/html", "application/xhtml+xml")

# A run of records may hold so much that was not asked for, as a share of what was.
_MAX_GAP_SHARE = 1 / 32
_MAX_RUN_BYTES = 8 << 20


def source_files(
    source: Source, *, grows: bool = False
) -> list[tuple[str, int | None]]:
    """The files of a source: path below its root, and size in bytes.

    A crawl's path list tells no sizes: asking for 90,000 would take hours here, so the
    workers that read the files ask.

    Args:
      source: Of a recipe.
      grows: Whether files are still to come: a pattern may match none yet.

    Raises:
      ValueError: A pattern matches nothing, or a path list is not usable.
      OSError: A path list cannot be had.
    """
    if source.crawl:
        listed = _listed(source, f"{source.kind}.paths.gz")
        if source.max_files:
            listed = sorted(listed, key=path_key)[: source.max_files]
        return [(path, None) for path in sorted(listed)]
    root, files = source.root, {}
    for pattern in (*source.warc, *source.wet):
        full = full_path(root, pattern)
        found = FileSystems.match([full])[0].metadata_list
        if not found and not grows:
            raise ValueError(
                f"source: {full!r} matches no file. Was it made? Relative paths "
                "are taken from the folder that the command runs in."
            )
        for metadata in found:
            path = metadata.path
            if root:
                path = path.removeprefix(root).lstrip("/\\")
            files[path] = metadata.size_in_bytes
    return sorted(files.items())


def index_files(source: Source) -> list[str]:
    """The Parquet files of the crawl's columnar index, below the source's root.

    Raises:
      ValueError: The list names none.
      OSError: The list cannot be had.
    """
    name = "cc-index-table.paths.gz"
    files = [path for path in _listed(source, name) if "/subset=warc/" in path]
    if not files:
        raise ValueError(f"{name} of {source.crawl} names no file of subset=warc.")
    return sorted(files)


def path_key(path: str) -> str:
    """16 hexadecimal digits that stand for a path, in an order of their own."""
    return hashlib.blake2b(path.encode(), digest_size=8).hexdigest()


def full_path(root: str, path: str) -> str:
    """Where a file of the source lies."""
    return FileSystems.join(root, path) if root else path


def open_file(root: str, path: str) -> BinaryIO:
    """A file of the source, its bytes as they are."""
    full = full_path(root, path)
    return FileSystems.open(full, compression_type=CompressionTypes.UNCOMPRESSED)


def file_size(root: str, path: str) -> int:
    """The size of a file of the source, in bytes.

    Raises:
      OSError: It is not there, or cannot be asked for.
    """
    full = full_path(root, path)
    found = FileSystems.match([full])[0].metadata_list
    if len(found) != 1:
        raise FileNotFoundError(f"{full} is not there.")
    return found[0].size_in_bytes


def captures_in(stream: BinaryIO, languages: Collection[str]) -> Iterator[Capture]:
    """The records of one file of the columnar index that declare wanted languages.

    Args:
      stream: A seekable Parquet file in Common Crawl's schema.
      languages: Keys of `LANGUAGES`.

    Raises:
      ValueError: A column is missing, or a value cannot be.
    """
    # Columns are read one at a time, so large buffers would fetch their neighbours.
    raw: Any = getattr(stream, "raw", stream)
    columns = io.BufferedReader(raw, 1 << 20)
    table = pq.ParquetFile(pa.PythonFile(columns, mode="r"), pre_buffer=True)
    if missing := set(_COLUMNS) - set(table.schema_arrow.names):
        raise ValueError(
            f"the index has no column {', '.join(sorted(missing))}. Crawls before "
            "CC-MAIN-2018-39 declare no languages; read them without index."
        )
    codes = "|".join(sorted(language.crawl_codes(languages)))
    wanted = rf"(^|,)({codes})(,|$)"
    for batch in table.iter_batches(columns=list(_COLUMNS)):
        declared = batch["content_languages"].cast(pa.string())
        chosen = pc.and_(
            pc.fill_null(pc.match_substring_regex(declared, wanted), False),
            pc.and_(
                pc.equal(batch["fetch_status"], 200),
                pc.is_in(
                    batch["content_mime_detected"].cast(pa.string()), pa.array(_HTML)
                ),
            ),
        )
        for row in batch.filter(chosen, null_selection_behavior="drop").to_pylist():
            path = row["warc_filename"]
            if not _PATH.fullmatch(path):
                raise ValueError(f"the index names a file {path!r}, which is no path.")
            yield Capture(
                warc_file=path,
                warc_offset=row["warc_record_offset"],
                warc_length=row["warc_record_length"],
                languages=tuple(row["content_languages"].split(",")),
            )


def runs(captures: Iterable[Capture]) -> Iterator[list[Capture]]:
    """Captures of one file, sorted, near ones together: each run is one request.

    What lies between the records of a run is at most 1/32 of them.
    """
    run: list[Capture] = []
    wanted = 0
    for capture in sorted(set(captures), key=_place):
        if run:
            begin, end = run[0].warc_offset, _end(run[-1])
            span = _end(capture) - begin
            gaps = span - wanted - capture.warc_length
            near = gaps <= _MAX_GAP_SHARE * wanted and capture.warc_offset >= end
            if not near or span > _MAX_RUN_BYTES:
                yield run
                run, wanted = [], 0
        run.append(capture)
        wanted += capture.warc_length
    if run:
        yield run


def read_exactly(stream: BinaryIO, offset: int, length: int) -> bytes:
    """Bytes of a file and no others; fewer only where the file ends.

    Buffered streams fetch megabytes ahead, so what is below them is asked.
    """
    raw = getattr(stream, "raw", stream)
    raw.seek(offset)
    pieces: list[bytes] = []
    while length > 0 and (piece := raw.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _place(capture: Capture) -> tuple[int, int]:
    return capture.warc_offset, capture.warc_length


def _end(capture: Capture) -> int:
    return capture.warc_offset + capture.warc_length


def _listed(source: Source, name: str) -> list[str]:
    """The paths in one of the crawl's lists."""
    path = f"crawl-data/{source.crawl}/{name}"
    full = full_path(source.root, path)
    try:
        with open_file(source.root, path) as stream:
            content = stream.read()
    except FileNotFoundError as error:
        raise ValueError(
            f"source.crawl: there is no {full}. Is {source.crawl!r} the name of a "
            "crawl, as CC-MAIN-2026-04 is, and is source.base right?"
        ) from error
    try:
        inflate = isal_zlib.decompressobj(wbits=31)
        text = inflate.decompress(content, _MAX_LIST_BYTES)
    except INFLATE_ERRORS as error:
        raise ValueError(f"{full} is no gzip file: {error}.") from error
    if not inflate.eof:
        raise ValueError(
            f"{full} ends early, or holds more than {_MAX_LIST_BYTES:,} bytes."
        )
    paths = text.decode("utf-8", "replace").split()
    for path in paths:
        if not _PATH.fullmatch(path):
            raise ValueError(f"{full} names {path!r}, which is no path below the root.")
    return paths
