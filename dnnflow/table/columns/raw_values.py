"""Read the values of new rows, as pandas has them, as the text of a CSV, as numbers or as times."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.table.columns.arrow import iso_spellings, spelled, spellings
from dnnflow.table.columns.kinds import Markers, composed, one_column

if TYPE_CHECKING:
    import pandas as pd


def as_text(value: Any) -> str | None:
    """Return a raw value as text of a CSV, without blanks around it; None if it is missing."""
    text = spelled(value)
    return None if text is None else composed(text.strip())


def by_names(frame: "pd.DataFrame", known: Iterable[str] = ()) -> "pd.DataFrame":
    """Return a frame whose columns are called by texts, as those of a table are: 0 is called '0'.

    Columns of the `known` names that are written otherwise, by blanks or Unicode's form, are called by them.
    """
    names = [str(name) for name in frame.columns]
    there = {*names}
    for name in known:
        if name not in there and (found := one_column(name, names)) != name:
            names[names.index(found)] = name
    return frame if names == [*frame.columns] else frame.set_axis(names, axis=1)


def texts_of(values: "pd.Series[Any]") -> list[str | None]:
    """Return raw values as texts of a CSV by their type, as `as_text` does of one."""
    if values.dtype.kind in "fiub":
        texts: list[str | None] = spellings(pa.Array.from_pandas(values)).to_pylist()
        return texts
    return list(map(as_text, values.tolist()))


def label_texts(values: "pd.Series[Any]") -> list[str | None]:
    """Return raw labels as texts: instants and durations as those of a table with types, others as texts."""
    import pandas as pd

    is_time = values.dtype.kind in "mM" or getattr(values.dtype, "tz", None) is not None
    if is_time or pd.api.types.infer_dtype(values, skipna=True) in ("datetime", "timedelta"):
        texts: list[str | None] = iso_spellings(pa.Array.from_pandas(values)).to_pylist()
        return texts
    return texts_of(values)


def since_epoch(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return datetime64 or timedelta64 values in seconds, as their spelling with microseconds is read."""
    micro = values.astype(f"{'datetime64' if values.dtype.kind == 'M' else 'timedelta64'}[us]")
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)


def is_text(values: "pd.Series[Any]") -> bool:
    """Say whether all values that are there are texts."""
    import pandas as pd

    return bool(values.dtype.kind == "O" and pd.api.types.infer_dtype(values, skipna=True) == "string")


def plain_numbers(values: "pd.Series[Any]", markers: Markers) -> NDArray[np.float64] | None:
    """Return texts as numbers, NaN where missing, all at once; None unless all others are plain numbers."""
    if not is_text(values):
        return None
    texts = pc.utf8_trim_whitespace(pa.Array.from_pandas(values, type=pa.string()))
    missing = pc.is_in(texts, value_set=pa.array(markers.spellings(), pa.string()))
    texts = pc.if_else(missing, pa.scalar(None, pa.string()), texts)
    try:
        found: NDArray[np.float64] = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    # Spellings of NaN and infinity are for the one who reads them one by one
    is_plain = int(np.isfinite(found).sum()) + texts.null_count == len(found)
    return np.array(found) if is_plain else None
