"""Take tables that are in memory: DataFrames, Arrow tables, and pairs of features and labels."""

import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from dnnflow.errors import DataError, InputError, ReadingWarning
from dnnflow.table.formats.columnar import HeldTable
from dnnflow.table.formats.spooled import SpooledTable, array_of
from dnnflow.table.formats.typed_source import TypedSource, TypeKind, kind_of

KINDS = "a pandas, polars or Dask DataFrame, an Arrow table, or a pair (X, y)"


def is_table(given: Any) -> bool:
    """Say whether something is a table in memory, and not the name of one."""
    return (
        isinstance(given, tuple | list) or hasattr(given, "__arrow_c_stream__") or _module(given) in _MODULES
    )


_MODULES = ("pandas", "polars", "pyarrow", "dask", "dask_expr", "numpy")


def _module(given: Any) -> str:
    return type(given).__module__.partition(".")[0]


def open_frame(given: Any, place: Path) -> TypedSource:
    """Open a table in memory; one of Dask is computed partition by partition, and kept in `place`.

    Raises
    ------
    InputError
        If it is none.
    """
    if _module(given) in ("dask", "dask_expr") and hasattr(given, "partitions"):
        return SpooledTable(_partitions(given), place)
    return HeldTable(check_names(arrow_of(given)))


def check_names(table: pa.Table) -> pa.Table:
    """Return a table, unless two of its columns have one name.

    Raises
    ------
    DataError
    """
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"column names must differ, got {twice!r} twice; rename one of them")
    return table


def _partitions(frame: Any) -> Iterator[pa.Table]:
    for number in range(frame.npartitions):
        yield check_names(arrow_of(frame.partitions[number].compute(scheduler="threads")))


def arrow_of(given: Any) -> pa.Table:
    """Return a table in memory as one of Arrow.

    Raises
    ------
    InputError
        If it is none.
    """
    if isinstance(given, tuple):
        return _pair(given)
    module = _module(given)
    if module in ("pandas", "polars") and hasattr(given, "to_frame"):  # a column
        given = given.to_frame()
    if module == "pandas" and hasattr(given, "columns"):
        return _of_pandas(given)
    if module == "polars":
        return _of_polars(given)
    if module == "numpy" or isinstance(given, list):
        return _of_array(_array(given), "column")
    if module in ("dask", "dask_expr") and hasattr(given, "compute"):
        return arrow_of(given.compute())
    if isinstance(given, pa.RecordBatch):
        return pa.Table.from_batches([given])
    if isinstance(given, pa.Table):
        return given
    if hasattr(given, "__arrow_c_stream__") and module != "pyarrow":
        return pa.table(given)
    raise InputError(f"a table must be a path, a URL, {KINDS}, got {type(given).__name__}; give one of these")


def label_names(pair: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of the label columns of a pair (X, y)."""
    return tuple(_labels(pair).column_names)


def _pair(pair: tuple[Any, ...]) -> pa.Table:
    labels = _labels(pair)
    table = arrow_of(pair[0])
    if labels.num_rows != table.num_rows:
        raise InputError(f"X and y must have as many rows, got {table.num_rows} and {labels.num_rows}")
    _tell_order(*pair)
    for field in labels.schema:
        if field.name in table.column_names:
            raise InputError(f"X must not have the label's column, got {field.name!r} in X and in y")
        table = table.append_column(field, labels.column(field.name))
    return table


def _tell_order(features: Any, labels: Any) -> None:
    """Warn where the indices of pandas say that rows of X and y belong together in another way."""
    if _module(features) != "pandas" or _module(labels) != "pandas" or features.index.equals(labels.index):
        return
    if features.index.is_unique and features.index.difference(labels.index).empty:
        warnings.warn(
            "X and y have the same index in another order, and are paired row by row, not by it; where it "
            "says which rows belong together, give y.loc[X.index]",
            ReadingWarning,
            stacklevel=6,
        )


def _labels(pair: tuple[Any, ...]) -> pa.Table:
    if len(pair) != 2:
        raise InputError(f"a pair must be (X, y), got {len(pair)} things; give features and labels")
    given = pair[1]
    if _module(given) == "pandas" and given.ndim == 1:
        return _of_pandas(given.to_frame(name="label" if given.name is None else given.name))
    if _module(given) == "polars" and hasattr(given, "to_frame"):
        return _of_polars(given.to_frame(given.name or "label"))
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return pa.table({"label": given})
    if isinstance(given, list | np.ndarray):
        return _of_array(_array(given), "label")
    return arrow_of(given)


def _array(given: Any) -> Any:
    """Return lists as an array whose cells are what they are: numpy makes texts of numbers beside texts."""
    if isinstance(given, np.ma.MaskedArray):  # what is masked is missing, and no value
        return np.ma.filled(given.astype(object), None) if given.mask.any() else given.filled()
    return np.asarray(given, dtype=None if isinstance(given, np.ndarray) else object)


def _of_array(values: Any, name: str) -> pa.Table:
    import pandas as pd

    if values.ndim not in (1, 2):
        raise InputError(f"an array of rows must have 1 or 2 dimensions, got {values.ndim}; reshape it")
    if values.dtype.names:
        return _of_pandas(pd.DataFrame(values))
    wide = values.reshape(len(values), -1)
    names = [name] if wide.shape[1] == 1 else [f"{name}_{i}" for i in range(1, wide.shape[1] + 1)]
    return _of_pandas(pd.DataFrame(wide, columns=names).infer_objects())


def _of_pandas(frame: Any) -> pa.Table:
    columns, fields = [], []
    for place, name in enumerate(frame.columns):
        values = frame.iloc[:, place]
        field, array = _series(str(name), values)
        fields.append(field)
        columns.append(array)
    if not fields:
        raise InputError("a table needs columns, got none; give a DataFrame with features and a label")
    return pa.table(columns, schema=pa.schema(fields))


def _series(name: str, values: Any) -> tuple[pa.Field, Any]:
    kind = values.dtype
    if hasattr(kind, "categories") and str(kind.categories.dtype).startswith(("interval", "period")):
        values = values.cat.rename_categories(kind.categories.map(str))  # of intervals, as of pandas.cut
    if values.dtype == object:
        return array_of(name, [None if _is_missing(value) else value for value in values.tolist()])
    try:
        array = pa.Array.from_pandas(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return array_of(name, [None if _is_missing(value) else value for value in values.tolist()])
    return pa.field(name, array.type), array


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _of_polars(frame: Any) -> pa.Table:
    import polars as pl

    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def keep_frame(given: Any, folder: Path) -> Path:
    """Write a table in memory to an Arrow file named by its content, if there is none; return its path.

    So what was in memory has a path, by which a pipeline names it and a study goes on.
    """
    table = HeldTable(check_names(arrow_of(given)))
    path = folder / f"{table.digest}.arrow"
    try:
        os.utime(path)  # who deletes what nobody uses sees that somebody is about to
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            for batch in table.batches(table.schema.names, 1 << 16):
                writer.write_batch(batch)
        aside.replace(path)
    return path


def kept_label(path: Path, name: str) -> Literal["text", "truth"] | None:
    """Return what a label of a kept frame holds by its type, where that is neither numbers nor unknown."""
    if path.suffix != ".arrow" or not path.is_file():
        return None
    with pa.memory_map(str(path)) as file:
        schema = pa.ipc.open_file(file).schema
    if name not in schema.names:
        return None
    field = schema.field(name)
    if pa.types.is_boolean(field.type):
        return "truth"
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return "text" if kind_of(field.with_type(kind)) is TypeKind.TEXT else None
