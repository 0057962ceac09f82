"""Read Parquet files: columns of numbers, row group by row group."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.rows.file_arrays import Header, Names, RowNames
from dnnflow.table.rows.file_names import is_local, open_binary
from dnnflow.table.rows.source import Field, Rows

_BATCH_BYTES = 4 << 20
_BUFFER_BYTES = 64 << 10  # a column; without buffers Arrow holds a row group twice, with them what it decodes
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
_LEAST_ROWS = 1024  # of a batch: what is before a range is decoded in batches too


@dataclass(frozen=True)
class ParquetColumns:
    """Columns that are one input or target: numbers side by side, or one column of fixed-size lists."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def field(self) -> Field:
        """What they are to a model."""
        name, columns = ", ".join(self.names), self.names if self.shape == (len(self.names),) else ()
        key = self.names[0] if len(self.names) == 1 else ""
        return Field(name, self.shape, self.dtype.name, key, ordered=True, columns=columns)

    def values(self, table: Any) -> NDArray[Any]:
        """Return a table's values, shape (rows, ...)."""
        found = np.empty((table.num_rows, *self.shape), self.dtype)
        side_by_side = len(self.names) > 1 or self.shape == (1,)
        for index, name in enumerate(self.names):
            column = table[name]
            if column.null_count:
                raise DataError(
                    f"a Parquet file's columns must have no missing values, but {name} has "
                    f"{column.null_count}; fill them, or drop those rows"
                )
            if side_by_side and not _is_list(column.type):
                found[:, index] = column.to_numpy()
            else:
                flat = column.combine_chunks().flatten() if _is_list(column.type) else column
                found[...] = flat.to_numpy(zero_copy_only=False).reshape(found.shape)
        return found


class TableFile:
    """An open Parquet file."""

    def __init__(self, path: str, names: RowNames) -> None:
        import pyarrow.parquet as pq

        with ExitStack() as stack:
            place = path if is_local(path) else stack.enter_context(open_binary(path))
            self._file = stack.enter_context(
                pq.ParquetFile(place, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            )
            schema = self._file.schema_arrow
            targets, weights = (_named(side, schema.names) for side in (names.labels, names.weights))
            known = [name for name in schema.names if name not in index_columns(schema)]
            chosen = _features(names.features, [*targets, *weights], known, schema.names)
            inputs = _grouped(chosen, schema, single=False)
            labels = _grouped(targets, schema, single=isinstance(names.labels, str))
            self._sides = inputs, labels, _grouped(weights, schema, single=len(weights) == 1)
            self._opened = stack.pop_all()
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups)]).astype(int)
        self._position = -1
        self._left: Any = None
        self._coming: Iterator[Any] = iter(())

    def header(self) -> Header:
        """Return rows and fields."""
        return Header(
            int(self._starts[-1]),
            int(max(np.diff(self._starts), default=1)) or 1,
            *(tuple(columns.field for columns in side) for side in self._sides),
        )

    def read(self, start: int, stop: int) -> Rows:
        """Read rows; a range that begins where the last one ended goes on decoding there."""
        import pyarrow as pa

        table = pa.Table.from_batches(self._batches(start, stop), self._schema())
        return tuple(tuple(columns.values(table) for columns in side) for side in self._sides if side)

    def close(self) -> None:
        """Close the file."""
        self._left, self._coming = None, iter(())
        self._opened.close()

    def _schema(self) -> Any:
        import pyarrow as pa

        schema = self._file.schema_arrow
        return pa.schema([schema.field(name) for name in self._names()])

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for columns in self._columns() for name in columns.names))

    def _columns(self) -> Iterator[ParquetColumns]:
        return chain.from_iterable(self._sides)

    def _batches(self, start: int, stop: int) -> Iterator[Any]:
        if start != self._position:
            self._seek(start, stop - start)
        while self._position < stop and (batch := self._next(stop - self._position)) is not None:
            self._position += batch.num_rows
            yield batch.select(self._names())

    def _next(self, rows: int) -> Any:
        """Return the next batch, cut to `rows`; None at the end."""
        batch = self._left if self._left is not None else next(self._coming, None)
        self._left = batch.slice(rows) if batch is not None and batch.num_rows > rows else None
        return batch if batch is None else batch.slice(0, rows)

    def _seek(self, start: int, rows: int) -> None:
        group = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
        row_bytes = max(1, sum(columns.field.row_bytes for columns in self._columns()))
        self._coming = self._from(group, max(1, min(_BATCH_BYTES // row_bytes, max(rows, _LEAST_ROWS))))
        self._left, self._position = None, int(self._starts[group])
        while self._position < start and (batch := self._next(start - self._position)) is not None:
            self._position += batch.num_rows

    def _from(self, group: int, rows: int) -> Iterator[Any]:
        # One row group at a time: of several Arrow would read all ahead. One thread: the others train.
        for index in range(group, self._file.num_row_groups):
            yield from self._file.iter_batches(
                rows, row_groups=[index], columns=self._names(), use_threads=False
            )


def _named(names: Names, known: Sequence[str]) -> list[str]:
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise DataError(
                f"a Parquet file must have the named columns, got {name}, it has {', '.join(known[:20])}; "
                "name those that are meant"
            )
    return wanted


def _features(
    names: Names, others: Sequence[str], known: Sequence[str], all_names: Sequence[str]
) -> list[str]:
    """Return the columns named, or where nobody named any all that are no label, weight or row label."""
    if names == "features" and names not in all_names:
        return [name for name in known if name not in others]
    return _named(names, all_names)


def index_columns(schema: Any) -> set[str]:
    """Return the columns that are row labels of pandas: as its metadata say, or by the names it gives."""
    unnamed = {name for name in schema.names if _UNNAMED_INDEX.fullmatch(name)}
    try:
        known = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError):
        return unnamed
    return unnamed | {name for name in known if isinstance(name, str)}


def _grouped(names: Sequence[str], schema: Any, *, single: bool) -> list[ParquetColumns]:
    types = {name: schema.field(name).type for name in names}
    lists = [name for name in names if _is_list(types[name])]
    if lists and len(lists) < len(names):
        other = next(name for name in names if name not in lists)
        raise DataError(
            f"columns must be all numbers or all fixed-size lists, got {lists[0]} (lists) beside {other}; "
            "name one kind"
        )
    if lists:
        kinds = {name: _dtype(name, types[name].value_type) for name in lists}
        return [ParquetColumns((name,), (types[name].list_size,), kinds[name]) for name in lists]
    dtypes = [_dtype(name, types[name]) for name in names]
    return (
        [ParquetColumns(tuple(names), () if single else (len(names),), np.result_type(*dtypes))]
        if names
        else []
    )


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(kind))


def _dtype(name: str, kind: Any) -> np.dtype[Any]:
    import pyarrow as pa

    types = pa.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise DataError(
            f"a Parquet file's columns must be numbers or fixed-size lists of them, but {name} is {kind}; "
            "convert it, or name the columns to use"
        )
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype
