"""Check and profile an upload that has types, or a header in its own language: it was received whole."""

import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from dnnflow.errors import DataError, DnnflowError, LimitError
from dnnflow.table.columns.kinds import STANDARD_LABEL_MARKERS, STANDARD_MARKERS, Markers, quoted
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.keel import KEEL_MISSING
from dnnflow.table.formats.open_table import FoundTable
from dnnflow.table.formats.sql_query import open_sqlite
from dnnflow.table.formats.typed_source import (
    TypeKind,
    check_features,
    is_nominal,
    kind_of,
    no_rows,
    text_of,
)
from dnnflow.table.store.column_blocks import typed_notes
from dnnflow.table.store.ingest import open_parts
from dnnflow.table.store.table_parts import TablePart, TextPart, TypedPart
from dnnflow.table.text.csv_reader import Dialect, RowError
from dnnflow.table.text.inference import BadValue, ColumnFacts, ParsePlan
from dnnflow.web.contract.web_config import UploadLimits
from dnnflow.web.uploads.profile import ColumnProfile, Profile
from dnnflow.web.uploads.table_counts import TableCounts
from dnnflow.web.uploads.text_profile import (
    BLOCK_BYTES,
    SentSource,
    check_columns_of,
    check_rows,
    first_rows,
)

_NOTHING = ColumnFacts()
_FIRST_ROWS, _SHOWN = 10, 1000
_HEAD_BYTES = 1 << 16
_MOST_PARTS = 500
_EXPANSION_BYTES = 10 << 20


def profile_typed(
    path: Path, kind: str, source: SentSource, limits: UploadLimits, scratch: Path, *, only_look: bool
) -> Profile:
    """Check every row of a table and profile its columns.

    Parameters
    ----------
    path
        Of the file, without compression.
    kind
        What it is.
    source
        How it is read; its `url` is the sender's name of it.
    limits
        More is refused.
    scratch
        A directory for what must be kept on disk meanwhile.
    only_look
        Whether to return names and first rows only.

    Raises
    ------
    DataError
        If no dataset can be made of it.
    LimitError
        If it is larger than allowed.
    """
    try:
        _check_file(path, kind, limits)
        parts, query = _parts(path, kind), source.query
        if kind == "sql" and (asked := _select(query, parts)):
            most = _FIRST_ROWS if only_look else limits.rows + 1
            _check_query(path, asked, parts, most, limits)
            query = f"SELECT * FROM ({asked}) LIMIT {most}" if only_look else query
        given = Source(url=str(path), format=cast(Any, kind), encoding=source.encoding, header=source.header,
                       quote=source.quote, sheet=source.sheet, query=query)  # fmt: skip
        (part,) = open_parts([FoundTable(given, kind)], scratch / "rows", BLOCK_BYTES)
        table = _TypedTable(part, kind, source, limits)
        return table.look() if only_look else table.profile(path.stat().st_size, parts)
    except DnnflowError as error:  # the sender knows the file by another name
        told = str(error)
        for place in (f"sqlite:///{path}", str(path)):
            told = told.replace(place, source.url)
        raise type(error)(told) from None


class _TypedTable:
    """A table of one file."""

    def __init__(self, part: TablePart, kind: str, source: SentSource, limits: UploadLimits) -> None:
        self._part, self._kind, self._source, self._limits = part, kind, source, limits
        check_columns_of(part.columns, limits)
        if isinstance(part, TypedPart):
            check_rows(part.source.rows, limits)
        self._refused = dict(_refused(part, check_features))

    def look(self) -> Profile:
        """Return names and first rows."""
        columns = tuple(ColumnProfile(name, "", 0, 0) for name in self._part.columns)
        return Profile(0, 0, columns, self._first_rows())

    def profile(self, size: int, parts: Sequence[str]) -> Profile:
        """Check and count all rows, and once more where text stands among numbers: it was not counted."""
        found = self._read(frozenset())
        if found.mixed:
            found = self._read(found.mixed)
        if not found.rows:
            raise no_rows()
        columns = tuple(found.columns(lambda place: self._where(found, place), self._refused))
        notes = (*typed_notes([self._part]), *found.notes())
        return Profile(found.rows, size, columns, self._first_rows(), self._reading(), notes,
                       tuple(parts[:_MOST_PARTS]))  # fmt: skip

    def _reading(self) -> dict[str, Any]:
        given = self._source
        of_kind: dict[str, dict[str, Any]] = {
            "excel": {"sheet": given.sheet, "header": given.header}, "sql": {"query": given.query},
            "arff": {"encoding": given.encoding}, "keel": {"encoding": given.encoding},
        }  # fmt: skip
        found = {name: value for name, value in of_kind.get(self._kind, {}).items() if value is not None}
        return {"format": self._kind, **found}

    def _read(self, texts: frozenset[str]) -> TableCounts:
        found, part = TableCounts.of(self._plan(texts)), self._part
        names = tuple(name for name in part.columns if name not in self._refused)
        for block in part.blocks(names, BLOCK_BYTES):
            try:
                found.add(block)
            except RowError as error:
                where = self._where(found, BadValue(block.index, error.row, ""))
                raise DataError(f"{where} {error.reason}") from None
            check_rows(found.rows, self._limits)
        for name in self._refused:
            found.facts[name] = _NOTHING
        found.facts = {name: found.facts[name] for name in part.columns}
        return found

    def _plan(self, texts: frozenset[str]) -> ParsePlan:
        """Return how to parse all columns as features."""
        part, missing = self._part, tuple(self._source.missing_values)
        names = tuple(name for name in part.columns if name not in self._refused)
        more: tuple[str, ...] = ()
        if isinstance(part, TextPart):
            declared = nominal = frozenset(part.keel.nominal if part.keel else ())
            dialect, more = part.dialect, KEEL_MISSING
        else:
            fields = [part.source.schema.field(name) for name in names]
            no_numbers = (TypeKind.NUMBER, TypeKind.MIXED)
            declared = frozenset(one.name for one in fields if kind_of(one) not in no_numbers)
            nominal = frozenset(one.name for one in fields if is_nominal(one))
            dialect = Dialect("", "", True, part.columns)
        return ParsePlan(
            dialect, (), names, declared | texts, Markers(missing, (*STANDARD_MARKERS, *more)),
            label_markers=Markers(missing, (*STANDARD_LABEL_MARKERS, *more)), exact=nominal,
            declared=declared,
        )  # fmt: skip

    def _where(self, found: TableCounts, place: BadValue) -> str:
        before, row = found.first_rows[place.block], place.row
        if not isinstance(self._part, TextPart):
            return f"row {before + row}"
        blocks = self._part.blocks((), BLOCK_BYTES)
        block = next(one for one in blocks if one.index == place.block)
        return f"row {before + row}{self._part.place(block, row)}"

    def _first_rows(self) -> tuple[tuple[str, ...], ...]:
        part = self._part
        if isinstance(part, TextPart):
            end = min(part.text.end, part.start + _HEAD_BYTES)
            return first_rows(part.text.read(part.start, end), part.dialect)
        batch = next(part.source.batches(part.columns, _FIRST_ROWS), None)
        if batch is None:
            return ()
        shown = [_spelled(column) for column in batch.columns]
        return tuple(tuple(text[:_SHOWN] for text in row) for row in zip(*shown, strict=True))[:_FIRST_ROWS]


def _refused(part: TablePart, check: Callable[[pa.Schema, Sequence[str]], None]) -> Iterator[tuple[str, str]]:
    """Yield the columns of types that a check refuses, and why."""
    if isinstance(part, TextPart):
        return
    for field in part.source.schema:
        try:
            check(part.source.schema, (field.name,))
        except DataError as error:
            yield field.name, str(error)


def _spelled(column: pa.Array) -> list[str]:
    try:
        return [text or "" for text in text_of(column).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return ["" if value is None else str(value) for value in column.to_pylist()]


def _parts(path: Path, kind: str) -> list[str]:
    """Return the names of a workbook's sheets, or of a database's tables."""
    if kind == "excel":
        import fastexcel

        try:
            return list(fastexcel.read_excel(path).sheet_names)
        except fastexcel.FastExcelError:
            return []  # told where it is opened
    if kind == "sql":
        try:
            with closing(open_sqlite(path)) as opened:
                rows = opened.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') "
                    "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid"
                ).fetchall()
        except sqlite3.Error:
            return []
        return [str(name) for (name,) in rows]
    return []


def _select(query: str | None, tables: Sequence[str]) -> str | None:
    """Return a query as one that can stand in brackets; None where it is refused by name later."""
    if query is not None and len(query.split()) > 1:
        return f"{query}\n"
    name = tables[0] if query is None and len(tables) == 1 else query
    return None if name not in tables else 'SELECT * FROM "{}"'.format(str(name).replace('"', '""'))


def _check_query(path: Path, query: str, tables: Sequence[str], most: int, limits: UploadLimits) -> None:
    """Refuse what is no SELECT, and one that finds more rows than allowed before any is kept.

    Raises
    ------
    DataError, LimitError
    """
    try:
        with closing(open_sqlite(path)) as opened:
            counted = f"SELECT count(*) FROM (SELECT 1 FROM ({query}) LIMIT {most})"
            check_rows(opened.execute(counted).fetchone()[0], limits)
    except (sqlite3.Error, sqlite3.Warning) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"a query must be one SELECT of the database's own tables, got {quoted(query.strip())}: "
            f"{reason}; there are: {', '.join(map(quoted, tables[:20]))}"
        ) from None


def _check_file(path: Path, kind: str, limits: UploadLimits) -> None:
    """Refuse a file that reaches for others, or unpacks to more than allowed.

    Raises
    ------
    DataError, LimitError
    """
    if kind == "hdf5":
        _check_hdf5(path)
    if kind == "zarr":
        raise DataError("an upload is one file, got zarr, which is a directory; send NPZ, HDF5 or Parquet")
    if kind in ("excel", "npz") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
        share = unpacked / max(1, path.stat().st_size)
        if unpacked > limits.text_bytes or (unpacked > _EXPANSION_BYTES and share > limits.expansion):
            raise LimitError(
                f"a compressed table may unpack to at most {limits.expansion:g} times its size and "
                f"{limits.text_bytes} bytes, got {unpacked} bytes, {share:.0f} times; send it as Parquet or "
                "CSV"
            )


def _check_hdf5(path: Path) -> None:
    import h5py

    def elsewhere(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"a link to another file at {name!r}"
        one = file.get(name) if isinstance(link, h5py.HardLink) else None
        if isinstance(one, h5py.Dataset) and (one.external or one.is_virtual):
            return f"{name!r} with its values in another file"
        return None

    try:
        with h5py.File(path, "r") as file:
            found = file.visititems_links(elsewhere)
    except OSError:
        return  # told where it is opened
    if found:
        raise DataError(f"an uploaded HDF5 file must hold its arrays itself, got {found}; copy them into it")
