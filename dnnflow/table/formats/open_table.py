"""Tell what a table is by its first bytes, then by the end of its name, and open it."""

import glob
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.array_files import ArraysTable
from dnnflow.table.formats.columnar import OpenedFile, OrcTable, ParquetTable, open_arrow
from dnnflow.table.formats.file_kind import HEAD_BYTES, file_kind, suffix_of
from dnnflow.table.formats.record_files import open_arff, open_json_lines, open_sheet
from dnnflow.table.formats.sql_query import is_database, open_query
from dnnflow.table.formats.typed_source import TypedSource
from dnnflow.table.text.blanks import BLANK, FIXED_BYTES, kind_by_blanks, may_be_fixed
from dnnflow.table.text.source_text import binary, readable

TEXT_KINDS = ("csv", "keel", "fwf")
"""Kinds that are text with delimiters: `text` reads their rows."""

_OPTIONS = {"excel": ("sheet", "header"), "sql": ("query",), "arff": ("encoding",)}
"""Options by which a kind with types is read."""
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class FoundTable:
    """One file, directory or database of a table, and its kind."""

    source: Source
    kind: str

    @property
    def is_text(self) -> bool:
        """Whether its rows are text with delimiters."""
        return self.kind in TEXT_KINDS

    @property
    def said(self) -> dict[str, Any]:
        """How it is read, for new rows: its kind where it is no text or that is said, and options."""
        source, options = self.source, _OPTIONS.get(self.kind, ())
        given = {name: getattr(source, name) for name in options if getattr(source, name) is not None}
        kind = {} if self.is_text and source.format is None else {"format": self.kind}
        return kind | {name: value for name, value in given.items() if value is not True}


def names_many(url: str) -> bool:
    """Say whether an address is one of a database, or of a local directory or a glob."""
    path = _local(url)
    is_glob = _GLOB.search(url.partition("?")[0]) is not None
    return is_database(url) or is_glob or (path is not None and path.is_dir())


def find_tables(source: Source) -> list[FoundTable]:
    """Return what an address means: one table, or the files of one kind of a glob or directory, by name.

    Raises
    ------
    DataError
        If there is nothing, or they are of several kinds.
    """
    if source.format == "sql" or is_database(source.url):
        return [FoundTable(source, "sql")]
    found = [_separated(FoundTable(one, source.format or _kind(one))) for one in _files(source)]
    for option, wanted, what in (("query", "sql", "databases"), ("sheet", "excel", "workbooks")):
        if getattr(source, option) is not None and found[0].kind != wanted:
            raise DataError(
                f"{option} is for {what}, got one for a table of kind {found[0].kind}; leave it out"
            )
    for one in found:
        if one.kind != found[0].kind:
            raise DataError(
                f"the files of a table must be of one kind, got {found[0].kind} ({found[0].source.url}) and "
                f"{one.kind} ({one.source.url}); name those of one kind by a glob"
            )
    return found


def _separated(found: FoundTable) -> FoundTable:
    """Return a text whose values only blanks separate as such a one."""
    source = found.source
    if found.kind == "fwf":
        return FoundTable(source.replace(delimiter=BLANK), found.kind)
    if found.kind != "csv" or source.delimiter is not None or source.encoding is not None:
        return found
    with binary(source) as (stream, _), readable(source):
        head = bytes(stream.read(HEAD_BYTES) or b"")
        rest = None if len(head) < HEAD_BYTES else lambda: bytes(stream.read(FIXED_BYTES) or b"")
        kind = kind_by_blanks(head, rest, may_be_fixed=may_be_fixed(source))
    if kind is None:
        return found
    return FoundTable(source.replace(delimiter=BLANK, **({"format": kind} if kind == "fwf" else {})), kind)


def _files(source: Source) -> list[Source]:
    url = source.url
    if "://" not in url and "::" not in url:
        path = Path(url)
        if path.is_dir() and not _is_zarr(path):
            names = _directory(path)
        elif _GLOB.search(url) and not path.exists():
            found = map(Path, glob.glob(url, recursive=True))
            names = sorted(str(one) for one in found if one.is_file() or _is_zarr(one))
        else:
            return [source]
    elif _GLOB.search(url.partition("?")[0]) and not url.startswith(("http://", "https://")):
        import fsspec

        with readable(source):
            opened, inner = fsspec.core.url_to_fs(url, **dict(source.storage_options))
            names = sorted(opened.unstrip_protocol(one) for one in opened.glob(inner))
    else:
        return [source]
    if not names:
        raise DataError(f"a glob or directory must hold at least one table, got {url}; check it")
    return [source.replace(url=name) for name in names]


def _directory(path: Path) -> list[str]:
    inside = sorted(one for one in path.iterdir() if not one.name.startswith((".", "_")))
    folder = next((one for one in inside if one.is_dir() and not _is_zarr(one)), None)
    if folder is not None:
        raise DataError(
            f"a directory of a table must hold files only, got the directory {folder.name} in {path}; the "
            f"names of directories are no columns: name the files by a glob such as {path}/*/*.parquet"
        )
    return [str(one) for one in inside]


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _kind(source: Source) -> str:
    path = _local(source.url)
    if path is not None and path.is_dir():
        return "zarr"
    suffix = suffix_of(source.url)
    if suffix == ".zarr":
        return "zarr"
    with binary(source) as (stream, _), readable(source):
        head = bytes(stream.read(HEAD_BYTES) or b"")
    return file_kind(head, suffix, is_delimited=source.delimiter is not None)


def open_typed(found: FoundTable, place: Path) -> TypedSource:
    """Open a table with types; what must be kept of it on disk goes to `place`, an empty directory.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    source, kind = found.source, found.kind
    if kind == "sql":
        path = _local(source.url)
        if path is not None:
            place.mkdir(parents=True, exist_ok=True)
            return open_query(f"sqlite:///{local_file(source, place)}", source.query, place)
        return open_query(source.url, source.query, place)
    if kind == "zarr":
        return ArraysTable("zarr", _zarr(source, place), None)
    path = local_file(source, place)
    with _explained(source, kind):
        opened: TypedSource = _OPENERS[kind](OpenedFile.of(path, _read_as(source, kind)), source, place)
        return opened


def _read_as(source: Source, kind: str) -> str:
    """Return what besides a file's bytes says what is read of it; nothing where that is as usual."""
    if kind == "excel":
        return (source.sheet or "") + ("" if source.header else "\0without a header")
    return source.encoding or "" if kind == "arff" else ""


def _arrow(file: OpenedFile, source: Source, place: Path) -> Any:
    with file.path.open("rb") as stream:
        return open_arrow(file, stream.read(8))


_OPENERS: dict[str, Any] = {
    "parquet": lambda file, source, place: ParquetTable(file),
    "arrow": _arrow,
    "orc": lambda file, source, place: OrcTable(file),
    "jsonl": lambda file, source, place: open_json_lines(file, place),
    "arff": lambda file, source, place: open_arff(file, place, source.encoding),
    "excel": lambda file, source, place: open_sheet(file, source.sheet, header=source.header),
    "npz": lambda file, source, place: ArraysTable("npz", file.path, file),
    "hdf5": lambda file, source, place: ArraysTable("hdf5", file.path, file),
}


@contextmanager
def _explained(source: Source, kind: str) -> Iterator[None]:
    """Turn a library's error into one that says what to do."""
    import pyarrow as pa

    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        EOFError,
        KeyError,
        ImportError,
        zipfile.BadZipFile,
    ) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join((str(error) or type(error).__name__).split())[:300]
        raise DataError(
            f"a table of kind {kind} must be readable, but {source.url} is not: {reason}; write it anew, or "
            "set format to what it is"
        ) from error


def local_file(source: Source, place: Path) -> Path:
    """Return a local file of a source, decompressed; a copy in `place` where it is remote or compressed."""
    path = _local(source.url)
    with ExitStack() as stack:
        stream, compressed = stack.enter_context(binary(source))
        if path is not None and not compressed:
            return path
        place.mkdir(parents=True, exist_ok=True)
        copy = place / "copy"
        with readable(source), copy.open("wb") as out:
            shutil.copyfileobj(stream, out, 4 << 20)
    return copy


def _zarr(source: Source, place: Path) -> Path:
    path = _local(source.url)
    if path is not None:
        return path
    import fsspec

    with readable(source):
        opened, inner = fsspec.core.url_to_fs(source.url, **dict(source.storage_options))
        opened.get(inner.rstrip("/") + "/", f"{place / 'copy'}/", recursive=True)
    return place / "copy"


def _local(url: str) -> Path | None:
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url or "::" in url else Path(url)
