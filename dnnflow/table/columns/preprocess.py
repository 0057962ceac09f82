"""Turn raw columns into network input and back, by statistics fitted on training rows.

A `Preprocessing` is plain data: it is part of a dataset's manifest and of a saved model, and needs neither
the dataset nor the CSV to be applied to new rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import Classes, Task, is_missing, nearest, quoted, to_number
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    import pandas as pd

MISSING, UNSEEN = -2, -1
"""Codes of text that is no category."""

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: encoded as (value - offset) / spread."""

    name: str
    fill: float | None
    """Takes the place of a missing value; None if there is no such value."""
    offset: float
    spread: float
    """0 for a constant column, which is encoded as 0."""
    low: float
    high: float
    """Range of the training rows after filling, in raw units."""
    indicator: bool
    """Whether a second column says where values were missing."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return (self.name, f"{self.name}_missing") if self.indicator else (self.name,)

    def encode(self, values: NDArray[np.float64], clip: bool, out: NDArray[np.float32]) -> None:
        """Write the encoded columns of values, shape (rows,), which are overwritten."""
        missing = np.isnan(values)
        if missing.any():
            if self.fill is None:
                raise DataError(
                    f"column {self.name!r} has no most frequent value (more than 100,000 different in "
                    "training), but a value is missing; fill it, or make the dataset with another `missing`"
                )
            values[missing] = self.fill
            if self.indicator:
                out[:, 1] = missing
        if clip:
            np.clip(values, self.low, self.high, out=values)
        with np.errstate(over="ignore"):  # what is too large for float32 is moved to its ends by the caller
            values -= self.offset
            values /= self.spread or np.inf  # what is divided by infinity is 0, as a constant shall be
            out[:, 0] = values

    def decode(self, encoded: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return raw values, NaN where the indicator says missing."""
        values = encoded[:, 0].astype(np.float64) * self.spread + self.offset
        return np.where(encoded[:, 1] > 0.5, np.nan, values) if self.indicator else values


@dataclass(frozen=True)
class TextColumn:
    """A column of text or booleans: one-hot encoded; what was not seen in training is all zero."""

    name: str
    boolean: bool
    """Whether upper and lower case are the same."""
    categories: tuple[str, ...]
    fill: str | None
    """Takes the place of a missing value; None to leave it all zero."""
    indicator: bool

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        names = tuple(f"{self.name}={category}" for category in self.categories)
        return (*names, f"{self.name}_missing") if self.indicator else names

    def codes(self, texts: Iterable[str | None]) -> NDArray[np.int64]:
        """Return each text's code; `MISSING` for None and `UNSEEN` for what is no category."""
        code: dict[str | None, int] = {category: i for i, category in enumerate(self.categories)}
        found = (MISSING if t is None else code.get(t.lower() if self.boolean else t, UNSEEN) for t in texts)
        return np.fromiter(found, dtype=np.int64)

    def encode(self, codes: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the encoded columns of codes, shape (rows,), into zeros."""
        missing = codes == MISSING
        if self.indicator:
            out[:, -1] = missing
        if self.fill is not None:
            codes = np.where(missing, self.categories.index(self.fill), codes)
        rows = np.flatnonzero(codes >= 0)
        out[rows, codes[rows]] = 1.0

    def decode(self, encoded: NDArray[np.float32]) -> NDArray[np.object_]:
        """Return texts, None where no category is set or the indicator says missing."""
        names = np.array([*self.categories, None], dtype=object)
        hot = encoded[:, : len(self.categories)]
        if not self.categories:
            return np.full(len(encoded), None, dtype=object)
        codes = np.where(hot.max(axis=1) > 0.5, hot.argmax(axis=1), len(self.categories))
        if self.indicator:
            codes = np.where(encoded[:, -1] > 0.5, len(self.categories), codes)
        return np.asarray(names[codes], dtype=object)


FittedColumn = NumberColumn | TextColumn


@dataclass(frozen=True)
class Preprocessing:
    """All that is needed to apply a model to raw rows."""

    columns: tuple[FittedColumn, ...]
    """In the order of the network's input."""
    targets: Targets
    missing_values: tuple[str, ...]
    clip: bool

    @property
    def classes(self) -> Classes:
        """The label's classes; none where it is no classification."""
        return self.targets.classes[0] if self.targets.task is Task.CLASSIFICATION else Classes((), False)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def n_features(self) -> int:
        """Width of the network's input."""
        return len(self.feature_names)

    def encode(self, columns: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Return float32 (rows, n_features) of `self.columns`: numbers (NaN where missing) or codes."""
        rows = len(columns[0]) if columns else 0
        out = np.zeros((rows, self.n_features), dtype=np.float32)
        self.encode_into((np.array(values) for values in columns), out)
        return out

    def encode_into(self, columns: Iterable[NDArray[Any]], out: NDArray[np.float32]) -> None:
        """Encode raw columns, which are overwritten, into zeros of shape (rows, n_features).

        Column by column, while it is in the processor's cache: to stack them first took three times as long.
        """
        at = 0
        for column, values in zip(self.columns, columns, strict=True):
            width = len(column.feature_names)
            if isinstance(column, NumberColumn):
                column.encode(values, self.clip, out[:, at : at + width])
            else:
                column.encode(values, out[:, at : at + width])
            at += width
        with np.errstate(over="ignore", invalid="ignore"):
            total = out.sum()
        if not np.isfinite(total):
            np.clip(out, -_LARGEST, _LARGEST, out=out)

    def transform(self, frame: "pd.DataFrame") -> NDArray[np.float32]:
        """Encode raw rows as float32 (rows, n_features).

        The frame needs every feature column of the training table, as numbers or as text of a CSV; other
        columns are ignored.

        Raises
        ------
        DataError
            If a column is not there, or a value of a number column is not a finite number.
        """
        names = [str(name) for name in frame.columns]
        for column in self.columns:
            if names.count(column.name) != 1:
                rule = f"new rows must have the column {column.name!r} once"
                raise DataError(
                    f"{rule}, got it {names.count(column.name)} times; {nearest(column.name, names)}"
                )
        return self.encode([self._raw(column, frame[column.name]) for column in self.columns])

    def _raw(self, column: FittedColumn, values: "pd.Series[Any]") -> NDArray[Any]:
        if isinstance(column, TextColumn):
            return column.codes(_text(v, self.missing_values) for v in values.tolist())
        if values.dtype.kind in "fiu":
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found = (
                _number(column.name, i, v, self.missing_values) for i, v in enumerate(values.tolist(), 1)
            )
            numbers = np.fromiter(found, dtype=np.float64)
        if (infinite := np.isinf(numbers)).any():
            row = int(np.argmax(infinite))
            raise _not_a_number(column.name, row + 1, str(values.iloc[row]))
        return numbers

    def inverse(self, features: NDArray[np.float32]) -> "pd.DataFrame":
        """Return raw rows of network input, shape (rows, n_features): numbers in raw units, texts as text."""
        import pandas as pd

        decoded: dict[str, Any] = {}
        at = 0
        for column in self.columns:
            width = len(column.feature_names)
            decoded[column.name] = column.decode(features[:, at : at + width])
            at += width
        return pd.DataFrame(decoded, index=range(len(features)))

    def label_names(self, codes: Sequence[int] | NDArray[np.integer]) -> NDArray[np.object_]:
        """Return the class names of codes."""
        return self.targets.decode(np.asarray(codes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; those of classification as they were before there was anything else."""
        targets: dict[str, Any] = {"targets": self.targets.to_dict()}
        if self.targets.task is Task.CLASSIFICATION:
            targets = {"label": self.targets.names[0], "classes": self.classes.to_dict()}
        return {
            "columns": [_column_dict(column) for column in self.columns],
            **targets,
            "missing_values": list(self.missing_values),
            "clip": self.clip,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Make a preprocessing of what `to_dict` returned.

        Raises
        ------
        DataError
            If the values are not those of a preprocessing.
        """
        try:
            return cls(
                tuple(_column(dict(column)) for column in values["columns"]),
                _targets(values),
                tuple(values["missing_values"]),
                values["clip"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"a preprocessing must be what dnnflow wrote, got other values ({reason})"
            ) from error


def _targets(values: Mapping[str, Any]) -> Targets:
    if "targets" in values:
        return Targets.from_dict(values["targets"])
    return Targets(Task.CLASSIFICATION, (values["label"],), (Classes.from_dict(values["classes"]),))


def _column_dict(column: FittedColumn) -> dict[str, Any]:
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(column).items()}
    return {"type": "number" if isinstance(column, NumberColumn) else "text", **values}


def _column(values: dict[str, Any]) -> FittedColumn:
    if values.pop("type") == "number":
        return NumberColumn(**values)
    return TextColumn(**values | {"categories": tuple(values["categories"])})


def _text(value: Any, own: Sequence[str]) -> str | None:
    """Return a value as text of a CSV, None if it is missing."""
    if value is None or value != value:  # NaN and its like differ from themselves
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if is_missing(text, own) else text


def _number(name: str, row: int, value: Any, own: Sequence[str]) -> float:
    text = None if value is None else str(value).strip()
    if text is None or text == "<NA>" or is_missing(text, own):
        return np.nan
    number = to_number(text)
    if number is None or np.isinf(number):
        raise _not_a_number(name, row, text)
    return number


def _not_a_number(name: str, row: int, text: str) -> DataError:
    return DataError(
        f"row {row}, column {name!r}: {quoted(text)} is not a finite number, as the training rows had; "
        "correct it or leave it empty"
    )
