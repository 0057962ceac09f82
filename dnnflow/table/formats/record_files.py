"""Read files of records: JSON, ARFF and sheets of a workbook."""

import codecs
import io
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import in_a_list, nearest, quoted, to_number
from dnnflow.table.formats.columnar import HeldTable, OpenedFile
from dnnflow.table.formats.spooled import PIECE_ROWS, SpooledTable
from dnnflow.table.formats.typed_source import foreign, mixed, no_rows, nominal
from dnnflow.table.text.first_lines import is_units_row
from dnnflow.table.text.source_text import RECORD_BYTES

_PIECE_BYTES = 16 << 20
_BEGINNING = 1 << 12
_BETWEEN = re.compile(r"\s*")
_ROW = re.compile(r" in row (\d+)$")
_LONG, _LONG_DIGITS = 2.0**63, re.compile(rb"[:\s]-?[0-9]{19,}\s*[,}]")
_CELL = re.compile(r"Error\((\w+)\)")
_TOP_ROWS = 40
"""Rows of a sheet that may stand above its table, and some of that."""
_FIRST_YEAR, _LAST_YEAR = 1800, 2100
"""Numbers that are names of columns."""
_NO_DAYS = (date(1899, 12, 30), date(1899, 12, 31))
"""On which day a workbook's time of day is, that has none."""
_ATTRIBUTE = re.compile(r"\s*@attribute\s+(?P<name>'[^']*'|\"[^\"]*\"|[^\s'\"{]+)\s*(?P<kind>.*)", re.I)
_ARFF_DATE = re.compile(r"date(?:\s+['\"]?(?P<pattern>.*?)['\"]?)?", re.I)
_PATTERN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z]+)|([^A-Za-z'])")
"""Of a date in Java: quoted text, letters that stand for a part, other marks."""
_LETTERS = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "M": "%m", "MMM": "%b", "dd": "%d", "d": "%d", "HH": "%H",
            "H": "%H", "hh": "%I", "mm": "%M", "ss": "%S", "a": "%p", "EEE": "%a"}  # fmt: skip
_NOT_AVAILABLE = "NA"
"""The error of a cell that means a missing value: #N/A."""


def open_json_lines(file: OpenedFile, place: Path) -> SpooledTable:
    """Open a file with a JSON object a line, or an array of them; its columns are kept on disk.

    Raises
    ------
    DataError
        With the row that is no object, or holds another type than the rows before it.
    """
    return SpooledTable(_json_pieces(file.path), place, file)


def _json_pieces(path: Path) -> Iterator[pa.Table]:
    row = 0
    for data in _json_lines(path):
        piece = _json_piece(data, row)
        row += piece.num_rows
        yield piece
    if not row:
        raise no_rows()


def _json_lines(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, one a line, in pieces."""
    with path.open("rb") as stream:
        is_array = stream.read(_BEGINNING).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        stream.seek(0)
        if is_array:
            with io.TextIOWrapper(stream, "utf-8-sig") as text:
                records = _array_records(text)
                while some := list(itertools.islice(records, PIECE_ROWS)):
                    yield "".join(some).encode()
            return
        while data := stream.read(_PIECE_BYTES):
            data += stream.readline()
            if data.strip():
                yield data


def _array_records(text: IO[str]) -> Iterator[str]:
    """Yield each object of a JSON array on a line of its own."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    held, row = text.read(_BEGINNING), 0
    at = held.index("[") + 1
    while True:
        begin = at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]
        if held.startswith("]", at) and not (held[at + 1 :] + text.read()).strip():
            return
        if row and held.startswith(",", at):
            at = _BETWEEN.match(held, at + 1).end()  # type: ignore[union-attr]
        elif row and at < len(held):
            raise _json_fault(row, f"{quoted(held[at : at + 10])} stands where a comma or the end should be")
        try:
            record, end = decoder.raw_decode(held, at)
            is_cut = not isinstance(record, dict)
        except ValueError as error:
            if isinstance(error, DataError):
                raise _json_fault(row + 1, str(error)) from None
            record, is_cut, end = error, True, at
        if is_cut and len(held) - begin < RECORD_BYTES and (more := text.read(_PIECE_BYTES)):
            held, at = held[begin:] + more, 0  # it may go on
            continue
        if not isinstance(record, dict):
            what = "it ends before" if at >= len(held) else f"it is {quoted(held[at : at + 40])}"
            raise _json_fault(row + 1, what)
        yield json.dumps(record) + "\n"
        at, row = end, row + 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; one that has a name twice is refused."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{quoted(twice)} is twice in it")
    return found


def _json_fault(row: int, reason: str) -> DataError:
    return DataError(
        f"row {row}: each record must be a JSON object, with values of one type a column, but {reason}; "
        "correct that record"
    )


def _json_piece(data: bytes, row: int) -> pa.Table:
    from pyarrow import json as arrow_json

    whole = arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
    try:
        piece = arrow_json.read_json(pa.BufferReader(data), whole)
        dates = [field.name for field in piece.schema if pa.types.is_timestamp(field.type)]
        if dates:  # JSON has no dates: what looks like one is text
            texts = pa.schema([(name, pa.string()) for name in dates])
            how = arrow_json.ParseOptions(explicit_schema=texts)
            piece = arrow_json.read_json(pa.BufferReader(data), whole, how).select(piece.column_names)
        return _without_nested(_without_long(piece, data), row)
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split()).removeprefix("JSON parse error: ")
        at = row + 1
        if found := _ROW.search(reason):
            reason, at = reason[: found.start()], row + int(found[1]) + 1
        raise _json_fault(at, reason) from None


def _without_nested(piece: pa.Table, row: int) -> pa.Table:
    """Mark columns of objects or lists: no table has such values."""
    for place, field in enumerate(piece.schema):
        if pa.types.is_nested(field.type):
            column = piece.column(place)
            first = int(np.argmax(column.is_valid().to_numpy()))
            what = "lists" if pa.types.is_list(field.type) else "objects"
            marked = foreign(field.name, f"{what}, the first in row {row + first + 1}")
            piece = piece.set_column(place, marked, pa.nulls(len(piece), marked.type))
    return piece


def _without_long(piece: pa.Table, data: bytes) -> pa.Table:
    """Mark columns with whole numbers that no type holds: Arrow reads them as floats, and ids become one."""
    for place, field in enumerate(piece.schema):
        if pa.types.is_floating(field.type):
            most = pc.max(pc.abs(piece.column(place))).as_py()
            if most is not None and most >= _LONG and _LONG_DIGITS.search(data):
                marked = foreign(field.name, "whole numbers beyond 64 bits")
                piece = piece.set_column(place, marked, pa.nulls(len(piece), marked.type))
    return piece


def open_arff(file: OpenedFile, place: Path, encoding: str | None) -> SpooledTable:
    """Open an ARFF file by its own types; its columns are kept on disk.

    Raises
    ------
    DataError
        With the line that is wrong.
    """
    return SpooledTable(_arff_pieces(file.path, encoding or "utf-8-sig"), place, file)


def _arff_pieces(path: Path, encoding: str) -> Iterator[pa.Table]:
    import arff

    row = 0
    with path.open(encoding=encoding, newline=None) as stream:
        try:
            is_sparse = _is_sparse(stream)
            dates: dict[str, str] = {}
            lines = _plain_header(stream, dates)
            read = arff.load(lines, return_type=arff.LOD_GEN if is_sparse else arff.DENSE_GEN)
            attributes = read["attributes"]
            blank = [_unset(kind) for _, kind in attributes]
            some: list[Any] = []
            for one in read["data"]:
                row += 1
                some.append([one.get(i, value) for i, value in enumerate(blank)] if is_sparse else one)
                if len(some) == PIECE_ROWS:
                    yield _arff_piece(attributes, dates, some, row)
                    some = []
            if not row:
                raise no_rows()
            if some:
                yield _arff_piece(attributes, dates, some, row)
        except UnicodeDecodeError:
            raise DataError(
                f"an ARFF file must be text in one encoding, but it is not {encoding.removesuffix('-sig')}; "
                "set encoding (e.g. latin-1)"
            ) from None
        except (arff.ArffException, ValueError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            place = f"row {row + 1}: " if "line -1" in reason else ""
            reason = re.sub(r"(,| in| at)* line -1\b", "", reason)
            raise DataError(
                f"{place}an ARFF file must be as its header says, but {reason}; correct the file"
            ) from None


def _plain_header(stream: Any, dates: dict[str, str]) -> Iterator[str]:
    """Yield the lines of an ARFF file with blanks in place of tabs, and dates as text, in its header.

    The patterns of dates are put into `dates`, by attribute.
    """
    for line in stream:
        if line.lstrip().lower().startswith("@data"):
            yield line
            break
        found = _ATTRIBUTE.match(line)
        if found is None:
            yield line
            continue
        name, kind = found["name"], found["kind"].strip()
        if date := _ARFF_DATE.fullmatch(kind):
            dates[name.strip("'\"")] = date["pattern"] or "yyyy-MM-dd'T'HH:mm:ss"
            kind = "STRING"
        yield f"@ATTRIBUTE {name} {kind}\n"
    yield from stream


def _is_sparse(stream: Any) -> bool:
    """Say whether rows are given as index and value, and go back to the beginning."""
    lines = (line.strip() for line in stream)
    behind = itertools.dropwhile(lambda line: not line.lower().startswith("@data"), lines)
    next(behind, None)
    first = next((line for line in behind if line and not line.startswith("%")), "")
    stream.seek(0)
    return first.startswith("{")


def _unset(kind: Any) -> Any:
    """Return the value that a sparse row does not name: zero, or the first of the nominal ones."""
    if isinstance(kind, list):
        return kind[0]
    return "" if kind.upper() == "STRING" else 0.0


def _arff_piece(
    attributes: Sequence[tuple[str, Any]], dates: Mapping[str, str], rows: Sequence[Sequence[Any]], last: int
) -> pa.Table:
    columns, fields = [], []
    for (name, kind), values in zip(attributes, zip(*rows, strict=True), strict=True):
        if name in dates:
            instants = _instants(name, values, dates[name], last - len(rows))
            fields.append(pa.field(name, pa.timestamp("us") if instants is not None else pa.string()))
            columns.append(pa.array(values if instants is None else instants, fields[-1].type))
            continue
        is_number = isinstance(kind, str) and kind.upper() in ("NUMERIC", "REAL", "INTEGER")
        field = pa.field(name, pa.float64() if is_number else pa.string())
        fields.append(nominal(name) if isinstance(kind, list) else field)
        columns.append(pa.array(list(values), field.type))
    return pa.table(columns, schema=pa.schema(fields))


def _instants(name: str, values: Sequence[Any], pattern: str, rows: int) -> list[datetime | None] | None:
    """Return the dates of an attribute by its pattern; None by a pattern that is not known."""
    form = ""
    for quote, letters, mark in _PATTERN.findall(pattern):
        if letters and letters not in _LETTERS:
            return None
        form += _LETTERS[letters] if letters else (quote or mark or "'").replace("%", "%%")
    found: list[datetime | None] = []
    for row, value in enumerate(values, rows + 1):
        try:
            found.append(None if value is None else datetime.strptime(value.strip(), form))
        except ValueError:
            raise DataError(
                f"row {row}, column {name!r}: {quoted(value)} is no date as the header says ({pattern}); "
                "correct it"
            ) from None
    return found


def open_sheet(file: OpenedFile, sheet: str | None, *, header: bool) -> HeldTable:
    """Open a sheet of a workbook, the first by default; it is held in memory.

    Raises
    ------
    DataError
        If there is no such sheet, a name twice, or a formula that failed.
    """
    import fastexcel

    logging.getLogger("fastexcel").setLevel(logging.ERROR)  # an empty column is nothing to warn of
    try:
        workbook = fastexcel.read_excel(file.path)
        if sheet is not None and sheet not in workbook.sheet_names:
            raise DataError(
                f"sheet must name one of the workbook, got {sheet!r}; {nearest(sheet, workbook.sheet_names)}"
            )
        told, wanted = list[str](), sheet or _first_seen(workbook)
        if sheet is None and len(workbook.sheet_names) > 1:
            names = in_a_list(workbook.sheet_names)
            told.append(f"of the sheets {names} {wanted!r} is read; sheet says another")
        table, left = _sheet(workbook, wanted, header)
        if left:
            told.append(f"rows that are none of the table are left out: {in_a_list(left, 3)}")
        return HeldTable(table, file, told)
    except fastexcel.FastExcelError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"a workbook must be readable, but {reason}; save it anew as .xlsx, or unpack a ZIP that is none"
        ) from None


def _first_seen(workbook: Any) -> str:
    """Return the first sheet that is not hidden."""
    names: list[str] = workbook.sheet_names
    seen = (one for one in names if workbook.load_sheet(one, n_rows=0).visible == "visible")
    return names[0] if len(names) == 1 else next(seen, names[0])


def _sheet(workbook: Any, sheet: str, header: bool) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the table of a sheet, and the rows above it or of units that are none of it."""
    names: list[str] = []
    how: dict[str, Any] = {"skip_whitespace_tail_rows": True}
    first = workbook.load_sheet(sheet, header_row=None, n_rows=_TOP_ROWS, dtypes="string", **how)
    rows = [[str(cell or "").strip() for cell in row.values()] for row in first.to_arrow().to_pylist()]
    if not rows or not rows[0]:
        raise no_rows()
    every = workbook.load_sheet(sheet, header_row=None, n_rows=1, dtypes="string", skip_rows=0, **how)
    above = every.total_height - first.total_height  # empty rows
    count = _titles(rows, header)
    left = rows[:count]
    if header:
        names = [text or f"column_{i}" for i, text in enumerate(rows[count], 1)]
        if is_units_row(rows[count + 1 :]):
            left, count = [*left, rows[count + 1]], count + 1
    how |= {"header_row": None, "skip_rows": above + count + header, "schema_sample_rows": None}
    typed = workbook.load_sheet(sheet, **how).to_arrow()
    texts, errors = workbook.load_sheet(sheet, dtypes="string", **how).to_arrow_with_errors()
    names = names or [f"column_{i}" for i in range(1, typed.num_columns + 1)]
    _check_cells(errors, names)
    fields, columns = [], []
    for name, values, text in zip(names, typed.columns, texts.columns, strict=True):
        kept, spelled = _cells(values, text)
        fields.append(mixed(name) if spelled else pa.field(name, kept.type))
        columns.append(kept)
    said = tuple(", ".join(filter(None, row)) for row in left)
    return pa.table(columns, schema=pa.schema(fields)), tuple(filter(None, said))


def _titles(rows: Sequence[Sequence[str]], header: bool) -> int:
    """Return how many rows at the top have a single cell at most, where those below have several."""
    filled = [sum(map(bool, row)) for row in rows]
    count = next((i for i, cells in enumerate(filled) if cells > 1), 0)
    below = filled[count:]
    is_table = len(below) >= 3 and sum(cells > 1 for cells in below) >= 0.9 * len(below)
    if not is_table or not header:
        return count if is_table else 0
    numbers = [number for number in map(to_number, rows[count]) if number is not None]
    is_headed = below[0] > len(rows[0]) / 2 and all(_FIRST_YEAR <= one <= _LAST_YEAR for one in numbers)
    return count if is_headed else 0


def _cells(values: pa.Array, texts: pa.Array) -> tuple[pa.Array, bool]:
    """Return a column by the type of its cells, or as text where they have several."""
    if texts.null_count == len(texts):
        return pa.nulls(len(texts)), False
    if pa.types.is_string(values.type) or values.null_count > texts.null_count:
        return texts, True
    if pa.types.is_timestamp(values.type):
        days = pc.cast(pc.floor_temporal(values, unit="day"), pa.date32())
        if pc.all(pc.is_in(days, value_set=pa.array(_NO_DAYS), skip_nulls=True)).as_py():
            return pc.cast(values, pa.time64("us")), False
    return values, False


def _check_cells(errors: Any, names: Sequence[str]) -> None:
    for error in errors.errors if errors is not None else ():
        found = _CELL.search(error.detail)
        if found and found[1] != _NOT_AVAILABLE:
            row, column = error.offset_position
            raise DataError(
                f"row {row + 1}, column {quoted(names[column])}: a cell must hold a value, got the error "
                f"{found[1]}; correct its formula, or clear it"
            )
