"""Convert columns between pyarrow and numpy, and keep blocks of them on disk.

pyarrow's `to_numpy` and `pyarrow.array` import pandas: 0.5 to 2 s and 60 MB that a worker that only ingests
need not pay.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.table.columns.kinds import to_number

TEXT = pa.dictionary(pa.int32(), pa.string())
"""How text is parsed and kept: codes and the block's own distinct values."""
_INTEGERS = 2.0**63
"""A whole number below this is spelled as an integer."""
_SPELLED_ALIKE = (1e-4, 1e9)
"""Between these Python and Arrow spell fractions alike."""


def spellings(array: Any) -> Any:
    """Return a pyarrow array's values as a CSV spells them; NaN as null."""
    kind, types = array.type, pa.types
    if types.is_duration(kind):
        micro = pc.cast(pc.cast(array, pa.duration("us"), safe=False), pa.int64())
        size = pc.cast(pc.divide(pc.cast(pc.abs(micro), pa.float64()), 1e6), pa.string())
        sign = pc.if_else(pc.less(micro, 0), "-PT", "PT")
        return pc.binary_join_element_wise(sign, size, "S", "")
    if types.is_timestamp(kind) and kind.unit == "ns":
        array = pc.cast(array, pa.timestamp("us", kind.tz), safe=False)
    written = pc.cast(array, pa.string())
    if types.is_decimal(kind) and kind.scale > 0:
        if pc.any(pc.match_substring(written, "E")).as_py():  # of a small one
            return spellings(pc.cast(array, pa.float64(), safe=False))
        return pc.utf8_rtrim(pc.utf8_rtrim(written, "0"), ".")
    if types.is_floating(array.type):
        written = pc.if_else(pc.is_nan(array), pa.scalar(None, pa.string()), written)
        values = pc.cast(array, pa.float64())
        is_whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), _INTEGERS))
        written = pc.if_else(is_whole, pc.cast(pc.cast(values, pa.int64(), safe=False), pa.string()), written)
    return written


def iso_spellings(array: Any) -> Any:
    """Return what `spellings` does, whatever an instant's unit is: 2024-01-31 10:30:00+01:00."""
    if not pa.types.is_timestamp(array.type):
        return spellings(array)
    texts = spellings(pc.cast(array, pa.timestamp("us", array.type.tz), safe=False))
    texts = pc.replace_substring_regex(texts, r"\.0+([+-]\d{4}|Z)?$", r"\1")
    return pc.replace_substring_regex(texts, r"([+-]\d\d)(\d\d)$", r"\1:\2")


def spelled(value: Any) -> str | None:
    """Return a Python value as a CSV spells it, and `spellings` an array of such; None if it is missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, Decimal | float | np.floating):
        return _spelled_number(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _spelled_number(value: Any) -> str | None:
    if value != value:
        return None
    if value == int(value) if abs(value) < _INTEGERS else isinstance(value, Decimal):
        return str(int(value))
    least, most = _SPELLED_ALIKE
    if type(value) is float and least < abs(value) < most:
        return repr(value)
    given = float(value) if isinstance(value, Decimal) else value
    text: str = spellings(pa.array([given]))[0].as_py()
    return text


@dataclass(frozen=True)
class Columns:
    """The columns of a block of rows, in memory."""

    places: dict[str, int]
    """Which row of `values` is whose."""
    values: NDArray[np.float64]
    """Columns of numbers, shape (columns, rows), NaN where missing.

    One array of several megabytes: numpy asks for huge pages then, and 450 MB cost 0.04 s of page faults
    instead of 0.2 s.
    """
    texts: pa.Table
    """Columns of text."""

    @classmethod
    def of(cls, names: Sequence[str], values: Sequence[NDArray[np.float64]], texts: pa.Table) -> "Columns":
        """Make it of separate columns."""
        stacked = np.array(values, dtype=np.float64).reshape(len(names), texts.num_rows)
        return cls({name: i for i, name in enumerate(names)}, stacked, texts)

    def with_texts(self, columns: Sequence[Any]) -> "Columns":
        """Return the same with other columns of text in place of all, in their order."""
        return replace(self, texts=pa.table(list(columns), schema=self.texts.schema.remove_metadata()))

    def with_numbers(self, columns: Mapping[str, NDArray[np.float64]]) -> "Columns":
        """Return the same with columns of text kept as these numbers, (rows,) each."""
        places = {**self.places, **{name: len(self.places) + i for i, name in enumerate(columns)}}
        values = np.concatenate([self.values, np.array([*columns.values()])])
        return Columns(places, values, self.texts.drop_columns([*columns]))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.values.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.values.nbytes + int(self.texts.nbytes)

    def number(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, shape (rows,), NaN where missing."""
        values: NDArray[np.float64] = self.values[self.places[name]]
        return values

    def text(self, name: str) -> Any:
        """Return a column of text, as codes and distinct values."""
        return whole(self.texts, name)

    def write(self, path: Path) -> None:
        """Keep it on disk: numbers in one file, text in another one beside it."""
        np.save(path, self.values)
        schema = self.texts.schema.with_metadata({"places": json.dumps(self.places)})
        with pa.OSFile(str(_beside(path)), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(self.texts.combine_chunks())

    @classmethod
    def read(cls, path: Path) -> "Columns":
        """Return what was kept on disk."""
        with pa.OSFile(str(_beside(path)), "rb") as file:
            texts = pa.ipc.open_file(file).read_all()
        places = json.loads(texts.schema.metadata[b"places"])
        return cls(places, np.load(path), texts)


def _beside(path: Path) -> Path:
    return path.with_suffix(".arrow")


def whole(table: pa.Table, name: str) -> Any:
    """Return a column of a block as one array."""
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    chunks = column.unify_dictionaries().chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], column.type)


def numbers(array: Any) -> NDArray[np.float64]:
    """Return numbers, shape (rows,), NaN where missing."""
    values = _values(array, np.dtype(np.float64))
    return np.where(_present(array), values, np.nan) if array.null_count else values


def numbers_in(texts: Any) -> NDArray[np.float64]:
    """Return the number that each text stands for, shape (texts,), NaN where it stands for none."""
    try:
        return numbers(texts.cast(pa.float64()))  # in a tenth of the time, but all texts must be numbers
    except pa.ArrowInvalid:
        found = map(to_number, texts.to_pylist())
        return np.array([np.nan if number is None else number for number in found], dtype=np.float64)


def codes(array: Any) -> NDArray[np.int32]:
    """Return the codes of text, shape (rows,), the number of distinct values where missing."""
    indices = array.indices
    values = _values(indices, np.dtype(np.int32))
    if not indices.null_count:
        return values
    return np.where(_present(indices), values, np.int32(len(array.dictionary)))


def text_column(row_codes: NDArray[np.int32], missing: NDArray[np.bool_], dictionary: Any) -> Any:
    """Return a column of text of the rows' codes in a dictionary."""
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    indices = pa.Array.from_buffers(pa.int32(), len(row_codes), [valid, pa.py_buffer(row_codes)])
    return pa.DictionaryArray.from_arrays(indices, dictionary)


def _present(array: Any) -> NDArray[np.bool_]:
    bits = np.frombuffer(array.buffers()[0], np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :].view(
        np.bool_
    )


def _values(array: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, kind)
    return np.frombuffer(buffer, kind, count=len(array), offset=array.offset * kind.itemsize)
