"""Put a table that is in memory where a study reads tables: a CSV, found again by what it holds."""

import hashlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.kinds import check_columns, is_missing, quoted

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"
"""What the targets of a pair (X, y) are called where they have no name."""


@dataclass(frozen=True)
class GivenTable:
    """A table that a study can read: fields of a pipeline's `dataset`."""

    source: str
    """Path or URL."""
    label: str | tuple[str, ...] | None = None
    """Of a pair (X, y): the columns of y."""
    text_columns: tuple[str, ...] = ()
    """Columns of a frame that hold text, also where it looks like numbers."""
    has_classes: bool = False
    """Whether the one label of a frame holds texts or truth values."""
    name: str = "table"
    """For people."""


def place_table(table: Any, folder: Path, labels: Sequence[str] = ()) -> GivenTable:
    """Return how a study reads a table; one in memory is written to a CSV of its hash in `folder`.

    Numbers come back as they are, bit for bit; text stays text, truth values are `true` and `false`, times
    are written by ISO 8601.

    Parameters
    ----------
    table
        Path or URL, a DataFrame (pandas, polars, pyarrow, Dask), or a pair (X, y) of frames or arrays. Frames
        are held in memory whole.
    labels
        The columns to predict, where they are known; those of a pair are y's.

    Raises
    ------
    InputError
        If it is nothing of these.
    DataError
        If a column's values are no numbers, texts, truth values or times, names of columns are not told
        apart, or a class would be taken for a missing value.
    """
    if isinstance(table, str | os.PathLike):
        source = os.fspath(table)
        return GivenTable(source, name=Path(source).name.partition(".")[0] or "table")
    frame = table
    if isinstance(table, tuple):
        frame, labels = _joined(*table) if len(table) == 2 else (None, ())
    frame = as_pandas(frame)
    if frame is None:
        raise InputError(
            "a table must be a path, a URL, a DataFrame of pandas, polars, pyarrow or Dask, or a pair "
            f"(X, y), got {type(table).__name__}; make it one of these"
        )
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    check_columns(list(frame.columns), tuple(labels), {})
    for name in labels:
        _check_classes(frame[name])
    columns = {name: _as_written(name, frame[name]) for name in frame.columns}
    path = _write(frame.assign(**{name: one.values for name, one in columns.items()}), folder)
    return GivenTable(
        str(path),
        None if not isinstance(table, tuple) else labels[0] if len(labels) == 1 else tuple(labels),
        tuple(name for name, one in columns.items() if one.is_text),
        has_classes=len(labels) == 1 and not columns[labels[0]].is_number,
    )


def _check_classes(frame: "pd.Series[Any]") -> None:
    """Refuse classes that a CSV takes for missing values: their rows would be left out.

    Raises
    ------
    DataError
    """
    for value in frame.dropna().unique():
        if isinstance(value, str) and is_missing(value.strip(), ()):
            raise DataError(
                f"a class must not be written as a missing value is, got {quoted(value)} in column "
                f"{str(frame.name)!r}; rename it"
            )


def as_pandas(table: Any) -> "pd.DataFrame | None":
    """Return a DataFrame of pandas, polars, pyarrow or Dask as one of pandas; None of anything else."""
    import pandas as pd

    if hasattr(table, "collect") and hasattr(table, "lazy"):  # polars' lazy frame
        table = table.collect()
    if hasattr(table, "__dask_graph__") and hasattr(table, "compute"):
        table = table.compute()
    if hasattr(table, "to_pandas"):
        table = table.to_pandas()
    return table if isinstance(table, pd.DataFrame) else None


def rows_of(rows: Any) -> "pd.DataFrame":
    """Return rows to predict as a DataFrame; the columns of an array are x0, x1, …, as of a pair (X, y).

    Raises
    ------
    InputError
        If they are no table.
    """
    import pandas as pd

    found = as_pandas(rows)
    if found is not None:
        return found
    values = np.asarray(rows)
    if values.ndim != 2:
        raise InputError(
            f"rows must be a DataFrame or an array of rows and columns, got the shape {values.shape}"
        )
    return pd.DataFrame(values, columns=[f"x{place}" for place in range(values.shape[1])])


def _joined(rows: Any, targets: Any) -> "tuple[pd.DataFrame, tuple[str, ...]]":
    """Return the rows of a pair (X, y) with their targets as the last columns, and the names of these."""
    import pandas as pd

    features, labels = rows_of(rows), as_pandas(targets)
    if labels is None:
        values = np.asarray(targets)
        if values.ndim not in (1, 2):
            raise InputError(f"y of a pair (X, y) must have one or two axes, got the shape {values.shape}")
        labels = pd.DataFrame(values)
        named = getattr(targets, "name", None)
        many = values.ndim == 2 and values.shape[1] > 1
        labels.columns = [f"{named or LABEL}{place if many else ''}" for place in range(labels.shape[1])]
    if len(features) != len(labels):
        raise InputError(
            f"X and y of a pair must have as many rows, got {len(features):,} and {len(labels):,}; "
            "give y of the same rows"
        )
    names = tuple(map(str, labels.columns))
    joined = pd.concat([features.reset_index(drop=True), labels.reset_index(drop=True)], axis=1)
    return joined, names


class _Written(NamedTuple):
    """A column as it is written."""

    values: "pd.Series[Any]"
    is_text: bool = False
    """Whether it is to be taken as text, whatever it looks like."""
    is_number: bool = False


def _as_written(name: str, values: "pd.Series[Any]") -> _Written:
    """Return a column as it is written, and what it is."""
    import pandas as pd

    if name != name.strip() or not name:
        raise DataError(f"a column needs a name without blanks around it, got {name!r}; rename it")
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _Written(_as_text(name, values.astype(object)), is_text=True)
    values = values.infer_objects()
    kind = values.dtype
    if pd.api.types.is_bool_dtype(kind):
        return _Written(values.map({True: "true", False: "false"}).astype(object))
    if pd.api.types.is_float_dtype(kind):
        # The shortest text of a float32 is another float64
        return _Written(values.astype("float64"), is_number=True)
    if pd.api.types.is_integer_dtype(kind):
        return _Written(values, is_number=True)
    if pd.api.types.is_datetime64_any_dtype(kind):
        values = values.map(lambda at: at.isoformat(), na_action="ignore").astype(object)
        return _Written(values, is_text=True)
    return _Written(_as_text(name, values), is_text=True)


def _as_text(name: str, values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return texts, and numbers among them as they are written; None where there is no value."""

    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool | np.bool_):
            return "true" if value else "false"
        if isinstance(value, int | float | np.number):
            return repr(float(value)) if isinstance(value, float | np.floating) else str(int(value))
        if hasattr(value, "isoformat"):
            return str(value.isoformat())
        if type(value).__name__ == "Decimal":
            return str(value)
        raise DataError(
            f"a column holds numbers, texts, truth values or times, got a value of type "
            f"{type(value).__name__} in column {name!r}; drop the column, or make it several"
        )

    return values.map(text, na_action="ignore").astype(object)


def _write(frame: "pd.DataFrame", folder: Path) -> Path:
    """Write a frame to a CSV that is called by its hash, unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{uuid.uuid4().hex}.csv"
    try:
        frame.to_csv(aside, index=False, lineterminator="\n")
        with aside.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = folder / f"{digest[:32]}.csv"
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path.absolute()
