"""Columns between pyarrow and numpy, and blocks of them on disk.

pyarrow's `to_numpy` and `pyarrow.array` import pandas: 0.5 to 2 s and 60 MB that a worker that only ingests
need not pay.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

TEXT = pa.dictionary(pa.int32(), pa.string())
"""How text is parsed and kept: codes and the block's own distinct values."""


def write_block(table: pa.Table, path: Path) -> None:
    """Keep a block's columns uncompressed, so that they can be mapped."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_block(path: Path) -> pa.Table:
    """Return a kept block."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


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


def codes(array: Any) -> NDArray[np.int32]:
    """Return the codes of text, shape (rows,), the number of distinct values where missing."""
    indices = array.indices
    values = _values(indices, np.dtype(np.int32))
    if not indices.null_count:
        return values
    return np.where(_present(indices), values, np.int32(len(array.dictionary)))


def number_column(values: NDArray[np.float64]) -> Any:
    """Return a column of numbers; a missing one is NaN."""
    return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)])


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
