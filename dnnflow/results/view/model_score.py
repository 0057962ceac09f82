"""Score a saved model on rows whose label is known."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.table.columns.kinds import is_missing, nearest, quoted

if TYPE_CHECKING:
    import pandas as pd

    from dnnflow.table.columns.preprocess import Preprocessing

MISSING, UNKNOWN = -2, -1
MOST_NAMED = 10
"""Classes that an error names."""


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """What a model gives on rows whose label is known."""

    label: str
    """Column of the label."""
    rows: int
    """Rows that are scored."""
    left_out: int
    """Rows without a label."""
    right: int
    """Rows whose class is predicted."""
    interval: tuple[float, float]
    """Wilson 95 % interval of the share of these."""
    measures: Mapping[str, float]
    """Measures by name, as they are usually written."""
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Rows, [true class][predicted class]."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


def has_label(preprocessing: "Preprocessing", rows: "pd.DataFrame") -> bool:
    """Whether rows have the label's column, and a label in it."""
    column = preprocessing.label
    return list(map(str, rows.columns)).count(column) == 1 and bool(
        (_labels(preprocessing, rows[column].tolist()) != MISSING).any()
    )


def truth_of(preprocessing: "Preprocessing", rows: "pd.DataFrame") -> NDArray[np.int64]:
    """Return the class of each row, `MISSING` where there is none.

    Raises
    ------
    DataError
        If there is no column of the label, or something in it that is no class of the model.
    """
    column, names = preprocessing.label, [str(name) for name in rows.columns]
    if names.count(column) != 1:
        raise DataError(
            f"rows to be scored must have the label {column!r} once, got it {names.count(column)} times; "
            f"nearest: {nearest(column, names)}"
        )
    values = rows[column].tolist()
    codes = _labels(preprocessing, values)
    if (codes == UNKNOWN).any():
        row = int(np.argmax(codes == UNKNOWN))
        known = preprocessing.classes.names
        shown = ", ".join(map(quoted, known[:MOST_NAMED])) + (", …" if len(known) > MOST_NAMED else "")
        raise DataError(
            f"row {row + 1}, column {column!r}: {quoted(str(values[row]))} is no class of the model "
            f"({shown}); correct it, or leave it empty to leave the row out"
        )
    if (codes == MISSING).all():
        raise DataError(
            f"rows to be scored must have a label, got none in column {column!r} of {len(rows):,} rows; "
            "apply the model to them with predict"
        )
    return codes


def score_of(
    truth: NDArray[np.int64], outputs: NDArray[np.floating[Any]], preprocessing: "Preprocessing"
) -> ModelScore:
    """Return what outputs (rows, classes) give beside the truth (rows,) of `truth_of`."""
    known = truth != MISSING
    truth, outputs = truth[known], outputs[known]
    n_classes = len(preprocessing.classes.names)
    codes = truth * n_classes + outputs.argmax(axis=1)
    confusion = np.bincount(codes, minlength=n_classes**2).reshape(n_classes, n_classes)
    right = int(np.trace(confusion))
    return ModelScore(
        label=preprocessing.label,
        rows=len(truth),
        left_out=int((~known).sum()),
        right=right,
        interval=wilson_interval(right / len(truth), len(truth)),
        measures=measures(truth, outputs),
        classes=preprocessing.classes.names,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def measures(truth: NDArray[np.int64], outputs: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return how good outputs (rows, classes) are, by the measure's name."""
    return {"accuracy": float((outputs.argmax(axis=1) == truth).mean())}


def _labels(preprocessing: "Preprocessing", values: Sequence[Any]) -> NDArray[np.int64]:
    texts = [None if value is None or value != value else _text(value) for value in values]
    found = preprocessing.classes.codes(text or "" for text in texts)
    missing = np.array(
        [text is None or is_missing(text, preprocessing.missing_values) for text in texts], dtype=bool
    )
    return np.where(missing, MISSING, np.asarray(found, dtype=np.int64))


def _text(value: Any) -> str:
    """Return a value as the text of a CSV."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
