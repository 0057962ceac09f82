"""Columns between pyarrow and numpy, and blocks of them on disk.

pyarrow's own `to_numpy` imports pandas (0.5 to 2 s and 60 MB, which a worker that only ingests need not pay).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    chunks = table.column(name).unify_dictionaries().chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks) if chunks else _empty(table, name)


def _empty(table: pa.Table, name: str) -> Any:
    return pa.array([], table.column(name).type)


def numbers(array: Any) -> NDArray[np.float64]:
    """Return numbers, shape (rows,), NaN where missing."""
    return _values(pc.fill_null(array, np.nan) if array.null_count else array, np.dtype(np.float64))


def codes(array: Any) -> NDArray[np.int32]:
    """Return the codes of text, shape (rows,), the number of distinct values where missing."""
    indices = array.indices
    missing = pa.scalar(len(array.dictionary), pa.int32())
    return _values(pc.fill_null(indices, missing) if indices.null_count else indices, np.dtype(np.int32))


def _values(array: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, kind)
    return np.frombuffer(buffer, kind, count=len(array), offset=array.offset * kind.itemsize)
