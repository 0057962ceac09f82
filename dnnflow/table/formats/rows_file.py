"""Read the rows of a table of any kind into memory, as they are applied to a model."""

import tempfile
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dnnflow.errors import InputError, ReadingWarning
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.frames import is_table, label_names, open_frame
from dnnflow.table.formats.keel import KEEL_BYTES, KEEL_MISSING, read_keel
from dnnflow.table.formats.open_table import FoundTable, find_tables, open_typed
from dnnflow.table.formats.typed_source import TypedSource, TypeKind, kind_of, no_rows, text_of, told_of
from dnnflow.table.text import csv_reader
from dnnflow.table.text.source_text import binary

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS = 1 << 16


def source_of(given: Any, **reading: Any) -> Any:
    """Return the source of a path or URL, read as `reading` says; a table in memory as it is.

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(given, str | PathLike):
        return Source(url=fspath(given), **reading)
    if isinstance(given, Source):
        return given.replace(**reading)
    if reading:
        raise InputError(f"a table in memory is not read, got {', '.join(reading)} for it; leave that out")
    if not is_table(given):
        raise InputError(
            f"a table must be a path, a URL, a DataFrame, an Arrow table or a pair (X, y), got "
            f"{type(given).__name__}; give one of these"
        )
    return given


def named_labels(given: Any) -> str | tuple[str, ...]:
    """Return the labels that a table names itself: those of y in (X, y), the outputs of a KEEL file.

    Raises
    ------
    InputError
        If it names none.
    """
    names: tuple[str, ...] = ()
    if isinstance(given, tuple):
        names = label_names(given)
    elif isinstance(given, Source) and (found := find_tables(given))[0].kind == "keel":
        with binary(found[0].source) as (stream, _):
            names = read_keel(bytes(stream.read(KEEL_BYTES))).outputs
    if not names:
        raise InputError("label must name the column to predict, got none; give one")
    return names if len(names) > 1 else names[0]


def read_rows(source: Source) -> "pd.DataFrame":
    """Read new rows that fit the memory: numbers as numbers, and text as a CSV spells it.

    Raises
    ------
    DataError
        If they cannot be read, or there are none.
    """
    import pandas as pd

    frames = [_rows(one) for one in find_tables(source)]
    return _with_rows(frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True))


def row_blocks(source: Source) -> Generator["pd.DataFrame", None, None]:
    """Yield new rows in blocks, as `read_rows` reads them; raises as that."""
    frames: Iterator[pd.DataFrame]
    for found in find_tables(source):
        if found.kind in ("csv", "fwf"):
            frames = (table.to_pandas() for table in csv_reader.row_blocks(found.source))
        elif found.kind == "keel":
            frames = iter([_rows(found)])
        else:
            frames = _typed_blocks(found)
        yield from (frame for frame in frames if len(frame))


def first_block(source: Source) -> "pd.DataFrame":
    """Return the first of the blocks of new rows; raises as `read_rows`."""
    with closing(row_blocks(source)) as blocks:
        for block in blocks:
            return block
    raise no_rows()


def _typed_blocks(found: FoundTable) -> Iterator["pd.DataFrame"]:
    with tempfile.TemporaryDirectory(prefix="dnnflow-rows-") as scratch:
        table = _opened(found, Path(scratch))
        for batch in table.batches(_plain_names(table), _BATCH_ROWS):
            yield pa.Table.from_batches([_plain(batch)]).to_pandas(integer_object_nulls=True)


def _plain_names(table: TypedSource) -> list[str]:
    return [field.name for field in table.schema if kind_of(field) is not TypeKind.OTHER]


def rows_of(given: Any) -> "pd.DataFrame":
    """Return rows in memory as those of a file are read, with the index that they have.

    Raises
    ------
    InputError
        If they are no table.
    DataError
        If there are none.
    """
    with tempfile.TemporaryDirectory(prefix="dnnflow-rows-") as scratch:
        frame = _frame(open_frame(given, Path(scratch)))
    if type(given).__module__.partition(".")[0] == "pandas":
        frame.index = given.index
    return _with_rows(frame)


def _with_rows(frame: "pd.DataFrame") -> "pd.DataFrame":
    if not len(frame):
        raise no_rows()
    return frame


def _rows(found: FoundTable) -> "pd.DataFrame":
    if found.kind in ("csv", "fwf"):
        return csv_reader.read_rows(found.source)
    with tempfile.TemporaryDirectory(prefix="dnnflow-rows-") as scratch:
        if found.kind == "keel":
            return _keel_rows(found.source, Path(scratch))
        return _frame(_opened(found, Path(scratch)))


def _opened(found: FoundTable, scratch: Path) -> TypedSource:
    """Open a typed table; warnings tell what of its file was left out."""
    table = open_typed(found, scratch)
    for one in told_of(table):
        warnings.warn(f"{found.source.url}: {one}", ReadingWarning, stacklevel=2)
    return table


def _frame(table: TypedSource) -> "pd.DataFrame":
    names = _plain_names(table)
    batches = [_plain(batch) for batch in table.batches(names, _BATCH_ROWS)]
    schema = batches[0].schema if batches else pa.schema([(name, pa.string()) for name in names])
    whole = pa.Table.from_batches(batches, schema)
    frame: pd.DataFrame = whole.to_pandas(integer_object_nulls=True)  # as floats, large ones would be others
    return frame


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        column if kind_of(field) is TypeKind.NUMBER else text_of(column).dictionary_decode()
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    return pa.record_batch(columns, names=batch.schema.names)


def _keel_rows(source: Source, scratch: Path) -> "pd.DataFrame":
    """Read a KEEL file's rows as a CSV's, under the names of its header."""
    from dnnflow.table.text.source_text import open_text

    text = open_text(source.replace(quote="", delimiter=None), scratch)
    keel = read_keel(text.read(text.start, min(text.end, text.start + KEEL_BYTES)))
    rows = scratch / "rows.csv"
    rows.write_bytes(text.read(text.start + keel.length, text.end))
    read = csv_reader.read_rows(Source(url=str(rows), delimiter=",", quote="", header=False))
    named = read.set_axis(list(keel.columns), axis=1)
    tidy = named.map(str.strip, na_action="ignore")
    return tidy.mask(tidy.isin(KEEL_MISSING))
