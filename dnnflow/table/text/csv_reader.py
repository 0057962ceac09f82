"""Parse blocks of a CSV into columns, with errors that name row, line and column.

On 1.1 GB of numbers polars took 2.2 s of processor time and pyarrow 3.3 s. But polars fills short rows
without a word, and takes twice as long when it looks for all spellings of missing values; so it gets plain
blocks only, and whatever it refuses or may have got wrong is read again by pyarrow, which has the errors: it
reports the row and the width of a ragged row.
"""

import csv
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv

from dnnflow.errors import DataError, ReadingWarning
from dnnflow.table.columns.arrow import Columns
from dnnflow.table.columns.kinds import HEADERLESS, quoted
from dnnflow.table.text.first_lines import (
    csv_records,
    find_preamble,
    is_units_row,
    records,
    sniff,
)
from dnnflow.table.text.source_text import Text, TextSource, open_text

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

QUICK_BYTES = 64 << 20
"""Smaller texts are not worth the import of polars (0.25 s)."""
_SAMPLE_BYTES = 1 << 16
_PIECE_BYTES = 4 << 20
_HEADER_BYTES = 16 << 20
_STEP_BYTES = 1 << 20
"""What pyarrow parses at a time: 2.8 s of processor time for 1.1 GB, 4.2 s in steps of 16 MiB."""


class RowError(DataError):
    """A row cannot be read; `row` counts from 1 in its block."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row} {reason}")
        self.row, self.reason = row, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.row, self.reason)


class Dialect(NamedTuple):
    """How the values of a text are separated, and what its columns are called."""

    delimiter: str
    quote: str
    header: bool
    columns: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Lines that are no rows: above the header, and one of units below it."""
    unnamed: frozenset[str] = frozenset()
    """Columns that the header gives no name."""


@dataclass(frozen=True)
class Block:
    """A run of whole records of a text."""

    index: int
    path: Path
    start: int
    end: int
    held: bytes | None = None
    """Its text, if it was read already."""

    def read(self) -> bytes:
        """Return the block's text."""
        if self.held is not None:
            return self.held
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


def read_dialect(text: Text, source: TextSource) -> tuple[Dialect, int]:
    """Find delimiter and columns of a text, and the offset of its first data row.

    Raises
    ------
    DataError
        If the text has a header only, or its first record cannot be read.
    """
    above = find_preamble(text, source)
    begin = text.start + above.length
    raw = text.read(begin, min(begin + _SAMPLE_BYTES, text.end))
    is_whole = begin + len(raw) == text.end
    try:
        delimiter = source.delimiter or above.delimiter or sniff(raw, source.quote, whole=is_whole)
        head, length = _first_record(text, begin, source.quote, delimiter)
        rows = records(raw, source.quote, delimiter, whole=is_whole)
    except csv.Error as error:
        raise DataError(
            f"the first record must be readable, but {error}; check delimiter and quote"
        ) from None
    if not source.header:
        names = tuple(f"column_{i}" for i in range(1, len(head) + 1))
        return Dialect(delimiter, source.quote, False, names, above.lines), begin
    start, skipped = begin + length, above.lines
    if is_units_row(rows[1:]):
        _, length = _first_record(text, start, source.quote, delimiter)
        start, skipped = start + length, (*skipped, delimiter.join(rows[1]))
    if start >= text.end or not any(text.read(a, b).strip() for a, b in _ranges(start, text.end)):
        raise DataError(
            "a table needs rows, got a header only; give a CSV with data, or say it has no header"
        )
    names = tuple(name.strip() or f"column_{i}" for i, name in enumerate(head, 1))
    unnamed = frozenset(f"column_{i}" for i, name in enumerate(head, 1) if not name.strip())
    return Dialect(delimiter, source.quote, True, names, skipped, unnamed), start


def blocks(text: Text, start: int) -> list[Block]:
    """Divide the data rows of a text at its cuts."""
    ends = [cut for cut in text.cuts if cut > start]
    starts = [start, *ends[:-1]]
    return [Block(i, text.path, a, b) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]


def parse(
    data: bytes,
    dialect: Dialect,
    types: dict[str, pa.DataType],
    missing: Sequence[str] = (),
) -> pa.Table:
    """Parse whole records of UTF-8 text without a header.

    Columns without a type are skipped; texts in `missing` become null in columns of numbers.

    Raises
    ------
    RowError
        If a row has not as many values as there are columns.
    pyarrow.ArrowInvalid
        If a value is not of its column's type.
    """
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    def read(size: int) -> pa.Table:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                use_threads=False, column_names=list(dialect.columns), block_size=size
            ),
            parse_options=_parse_options(data, dialect, refuse),
            convert_options=_convert_options(types, missing),
            # For columns that are kept: 3.6 s of processor time for 1.1 GB, 4.0 to 4.8 s with the default.
            memory_pool=pa.system_memory_pool(),
        )

    try:
        try:
            return read(_STEP_BYTES)
        except pa.ArrowInvalid as error:
            if ragged or "straddling" not in str(error):
                raise
            return read(len(data) + 1)  # for a record that is longer than a step
    except pa.ArrowInvalid:
        if not data.strip():
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        if not ragged:
            raise  # a value that is not of its column's type
        row = ragged[0]
    reason = f"has {row.actual_columns} values, but the table has {row.expected_columns} columns"
    remedy = "fix the row, or check delimiter and quote"
    if row.number == 1 and row.actual_columns == row.expected_columns + 1:
        remedy += ", or begin the first line with a delimiter where the first column has no name"
    raise RowError(row.number, f"{reason}; {remedy}")


def _convert_options(types: dict[str, pa.DataType], missing: Sequence[str]) -> Any:
    return pa.csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=list(missing),
        strings_can_be_null=False,
        quoted_strings_can_be_null=True,
    )


def _parse_options(data: bytes, dialect: Dialect, refuse: Any) -> Any:
    return pa.csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=bool(dialect.quote) and dialect.quote.encode() in data,
        invalid_row_handler=refuse,
    )


def line_of(text: Text, dialect: Dialect, block: Block, row: int) -> int:
    """Return the line of the text, from 1, on which the `row`-th record (from 1) of a block begins."""
    before = sum(text.read(a, b).count(b"\n") for a, b in _ranges(text.start, block.start))
    return before + line_in(block.read(), dialect, row)


def line_in(data: bytes, dialect: Dialect, row: int) -> int:
    """Return the line, from 1, on which the `row`-th record (from 1) of some whole records begins."""
    reader = csv_records(data.decode(errors="replace"), dialect.delimiter, dialect.quote)
    line = 1
    for values in reader:
        row -= bool(values)  # blank lines are no rows
        if row == 0:
            break
        line = reader.line_num + 1
    return line


def row_blocks(source: TextSource) -> Iterator[pa.Table]:
    """Yield the new rows of a CSV in blocks: texts as they stand there, markers of missing values too.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="dnnflow-rows-") as scratch:
        text = open_text(source, Path(scratch))
        dialect, start = read_dialect(text, source)
        if text.guessed:
            warnings.warn(
                f"the text of {source.url} is not UTF-8 and was read as {text.guessed}; if letters are "
                "wrong, write it as UTF-8",
                ReadingWarning,
                stacklevel=2,
            )
        if dialect.skipped:
            lines = ", ".join(map(quoted, dialect.skipped))
            warnings.warn(
                f"lines of {source.url} that are no rows are left out: {lines}", ReadingWarning, stacklevel=2
            )
        types = {name: pa.string() for name in dialect.columns}
        if len(types) < len(dialect.columns):
            twice = next(n for n in dialect.columns if dialect.columns.count(n) > 1)
            raise DataError(f"column names must differ, got {twice!r} twice; rename one of them{HEADERLESS}")
        rows = 0
        for block in blocks(text, start):
            try:
                table = parse(block.read(), dialect, types)
            except RowError as error:
                raise located(error, rows, text, dialect, block) from None
            except pa.ArrowInvalid as error:
                raise unreadable(error) from None
            rows += table.num_rows
            yield table


def read_rows(source: TextSource) -> "pd.DataFrame":
    """Read a CSV of new rows that fits the memory; see `row_blocks`."""
    frame: pd.DataFrame = pa.concat_tables(row_blocks(source)).to_pandas()
    return frame


def located(error: RowError, first_row: int, text: Text, dialect: Dialect, block: Block) -> DataError:
    """Return a block's error with the row's number in the table and its line in the text."""
    line = line_of(text, dialect, block, error.row)
    return DataError(f"row {first_row + error.row} (line {line}) {error.reason}")


def unreadable(error: Exception) -> DataError:
    """Return the error of a block that pyarrow cannot parse, for a reason that is none of the above."""
    reason = " ".join(str(error).split())
    return DataError(f"a table must be a readable CSV, but {reason}; check delimiter and quote")


def _ranges(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Divide a range of a text into pieces that fit the memory."""
    for at in range(start, end, _PIECE_BYTES):
        yield at, min(at + _PIECE_BYTES, end)


def _first_record(text: Text, start: int, quote: str, delimiter: str) -> tuple[list[str], int]:
    """Return the first record's values from `start` on, and how many bytes it and blank lines before take."""
    raw = text.read(start, min(start + _HEADER_BYTES, text.end))
    size = min(_SAMPLE_BYTES, len(raw))
    while True:
        content = raw[:size].decode(errors="ignore")
        reader = csv_records(content, delimiter, quote)
        values: list[str] = next((row for row in reader if row), [])
        used = "".join(islice(io.StringIO(content, newline=""), reader.line_num))
        if size == len(raw) or len(used) < len(content):
            return values, len(used.encode())
        size = min(4 * size, len(raw))


def read_quickly(
    data: bytes, dialect: Dialect, numbers: Sequence[str], texts: Sequence[str]
) -> Columns | None:
    """Parse whole records of UTF-8 text without a header; None if another parser must say what they mean."""
    if not _is_plain(data, dialect):
        return None
    import polars as pl

    schema: dict[str, type[pl.DataType]] = dict.fromkeys(dialect.columns, pl.String)
    schema.update(dict.fromkeys(numbers, pl.Float64))
    try:
        frame = pl.read_csv(
            data,
            has_header=False,
            schema=schema,
            separator=dialect.delimiter,
            quote_char=None,
            infer_schema=False,
            glob=False,
        )
    except (pl.exceptions.PolarsError, ValueError):
        return None
    if _has_short_rows(data, dialect, frame):
        return None
    # In one call, that runs in polars' own threads.
    values = frame.select(numbers).to_numpy(order="fortran").T.reshape(len(numbers), frame.height)
    kept = frame.select(texts).to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
    for place, name in enumerate(texts):
        kept = kept.set_column(place, name, kept.column(name).dictionary_encode())
    return Columns({name: i for i, name in enumerate(numbers)}, values, kept)


def _is_plain(data: bytes, dialect: Dialect) -> bool:
    """Say whether lines are records and delimiters end values, without exception."""
    if len(dialect.delimiter.encode()) > 1 or len(dialect.columns) < 2 or b"\r" in data:
        return False
    return not dialect.quote or dialect.quote.encode() not in data


def _has_short_rows(data: bytes, dialect: Dialect, frame: "pl.DataFrame") -> bool:
    """Say whether a row was short or blank; polars fills it, up to its last column."""
    if not frame[:, -1].null_count():
        return False
    return data.count(dialect.delimiter.encode()) != frame.height * (frame.width - 1)
