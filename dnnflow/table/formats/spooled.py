"""Keep the pieces of a table whose types are known when all of it was read, and read them as of one type."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnflow.table.columns.arrow import spelled, spellings
from dnnflow.table.formats.columnar import OpenedFile
from dnnflow.table.formats.typed_source import TypeKind, content_digest, foreign, kind_of, mixed

PIECE_ROWS = 1 << 16
_CELLS = (str, bytes, int, float, Decimal, np.integer, np.floating, np.bool_, date, time, timedelta, UUID)
"""What a cell of a column of several types may be, besides nothing: what has one spelling as text."""


class SpooledTable:
    """Pieces of a table in files, each with its own types: those of all are the widest."""

    def __init__(self, pieces: Iterable[pa.Table], place: Path, file: OpenedFile | None = None) -> None:
        self._file, self._paths = file, list[Path]()
        self.rows = 0
        fields: dict[str, pa.Field] = {}
        for number, piece in enumerate(pieces):
            self._paths.append(place / f"piece-{number}.arrow")
            with pa.OSFile(str(self._paths[-1]), "wb") as out, pa.ipc.new_file(out, piece.schema) as writer:
                writer.write_table(piece)
            self.rows += piece.num_rows
            for field in piece.schema:
                known = fields.get(field.name)
                fields[field.name] = field if known is None else _widest(known, field)
        self.schema: pa.Schema = pa.schema(list(fields.values()))

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of its file, or of its content."""
        return self._file.digest if self._file is not None else content_digest(self)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        wanted = pa.schema([self.schema.field(name) for name in names])
        for path in self._paths:
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as opened:
                table = opened.read_all()
            columns = [_column(table, field) for field in wanted]
            yield from pa.table(columns, schema=wanted).to_batches(max_chunksize=rows)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        if self._file is not None:
            self._file.check()


def _widest(one: pa.Field, other: pa.Field) -> pa.Field:
    """Return the field that holds the values of both."""
    if other.equals(one, check_metadata=True) or pa.types.is_null(other.type):
        return one
    if pa.types.is_null(one.type):
        return other
    kinds = {kind_of(one), kind_of(other)}
    if kinds == {TypeKind.NUMBER}:
        return pa.field(one.name, pa.float64())
    if kinds == {TypeKind.TEXT} and not (_is_boolean(one) or _is_boolean(other)):
        return pa.field(one.name, pa.string())
    if TypeKind.OTHER in kinds:
        return one if kind_of(one) is TypeKind.OTHER else other
    return mixed(one.name)


def _is_boolean(field: pa.Field) -> bool:
    return bool(pa.types.is_boolean(field.type))


def _column(table: pa.Table, field: pa.Field) -> Any:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if kind_of(field) is TypeKind.OTHER:
        return pa.nulls(table.num_rows, field.type)  # a column of that type is refused where it is used
    if pa.types.is_string(field.type):
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        return pa.chunked_array([spellings(chunk) for chunk in column.chunks], pa.string())
    return pc.cast(column, field.type, safe=False)


def array_of(name: str, values: Sequence[Any]) -> tuple[pa.Field, pa.Array]:
    """Return Python values as a column; those of several types as text."""
    if any(isinstance(value, Decimal) for value in values):
        are_whole = all(v is None or isinstance(v, int) or _is_whole(v) for v in values if not _is_nan(v))
        values = [_number_of(value, whole=are_whole) for value in values]
    try:
        array = pa.array(values)
        return pa.field(name, array.type), array
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        if strange := next((v for v in values if v is not None and not isinstance(v, _CELLS)), None):
            texts = [None if value is None else repr(value).encode() for value in values]
            return foreign(name, type(strange).__name__), pa.array(texts, pa.binary())
        return mixed(name), pa.array([spelled(value) for value in values], pa.string())


def _is_nan(value: Any) -> bool:
    return isinstance(value, Decimal) and value.is_nan()


def _is_whole(value: Any) -> bool:
    return isinstance(value, Decimal) and value.is_finite() and value == int(value)


def _number_of(value: Any, *, whole: bool) -> Any:
    """Return a decimal number as an integer, which keeps all its digits, or as a float; NaN as missing."""
    if not isinstance(value, Decimal):
        return value
    if _is_nan(value):
        return None
    return int(value) if whole else float(value)


def table_of(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return rows of Python values as a table."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    made = [array_of(name, list(values)) for name, values in zip(names, columns, strict=True)]
    return pa.table([array for _, array in made], schema=pa.schema([field for field, _ in made]))
