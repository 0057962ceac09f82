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
from dnnflow.table.columns.dressing import NumberStyle
from dnnflow.table.columns.kinds import (
    STANDARD_LABEL_MARKERS,
    STANDARD_MARKERS,
    Classes,
    Markers,
    Task,
    composed,
    in_a_list,
    nearest,
    quoted,
    to_number,
)
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    import pandas as pd

RULES = 2
"""Of models by version 1, None was a missing label."""
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
    style: NumberStyle | None = None
    """How texts of it are written, if not as plain numbers."""

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

    def unseen(self, text: str) -> str:
        """Say of a text that it is no category."""
        said = f"column {self.name!r}: {quoted(text)} is none of the categories of the training rows"
        for wrong, right in (("latin-1", "utf-8"), ("utf-8", "latin-1")):
            try:
                other = text.encode(wrong).decode(right)
            except UnicodeError:
                continue
            if other in self.categories:
                return f"{said}, where {quoted(other)} stands: the text is of another encoding"
        near = nearest(text, self.categories) if self.categories else "none"
        return f"{said} ({near})"

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
    standard_missing: bool = True
    """Whether NA and its like stand for a missing value, too."""
    missing_labels: tuple[str, ...] | None = None
    """What stands for a missing label, if that is said."""
    rules: int = RULES
    """Version of the rules by which texts are read."""

    @cached_property
    def markers(self) -> Markers:
        """What stands for a missing value."""
        return Markers(self.missing_values, STANDARD_MARKERS if self.standard_missing else ())

    @cached_property
    def label_markers(self) -> Markers:
        """What stands for a missing label."""
        if self.missing_labels is not None:
            return Markers(self.missing_labels, ())
        standard = STANDARD_LABEL_MARKERS if self.rules > 1 else STANDARD_MARKERS
        return Markers(self.missing_values, standard if self.standard_missing else ())

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

    def transform(self, frame: "pd.DataFrame", *, first_row: int = 0) -> NDArray[np.float32]:
        """Encode raw rows as float32 (rows, n_features).

        The frame needs every feature column of the training table, as numbers or as text of a CSV; other
        columns are ignored. Messages count rows from `first_row`, where the frame is a part of a table.

        Raises
        ------
        DataError
            If a column is not there, or a value of a number column is not a finite number.
        """
        self._check_columns([str(name) for name in frame.columns])
        return self.encode([self._raw(column, frame[column.name], first_row) for column in self.columns])

    def _check_columns(self, names: Sequence[str]) -> None:
        wrong = [column.name for column in self.columns if names.count(column.name) != 1]
        if not wrong:
            return
        first = wrong[0]
        more = f" (neither {in_a_list(wrong[1:])})" if len(wrong) > 1 else ""
        raise DataError(
            f"new rows must have the column {first!r} once{more}, got it {names.count(first)} times; "
            f"{nearest(first, names)}"
        )

    def notes(self, frame: "pd.DataFrame") -> list[str]:
        """Return what to know of each raw row before its prediction is believed; an empty text for most.

        That is a text that the training rows did not have: it is encoded as none of their categories.
        """
        found: list[list[str]] = [[] for _ in range(len(frame))]
        for column in self.columns:
            if not isinstance(column, TextColumn):
                continue
            texts, rows = _texts(frame[column.name], self.markers)
            places = np.flatnonzero(column.codes(texts) == UNSEEN).tolist()
            said = {place: column.unseen(texts[place] or "") for place in places}
            for row in np.flatnonzero(np.isin(rows, places)).tolist():
                found[row].append(said[int(rows[row])])
        return ["; ".join(of_row) for of_row in found]

    def _raw(self, column: FittedColumn, values: "pd.Series[Any]", first_row: int) -> NDArray[Any]:
        if isinstance(column, TextColumn):
            texts, rows = _texts(values, self.markers)
            return column.codes(texts)[rows]
        plain = None if column.style is not None else _plain_numbers(values, self.markers)
        if values.dtype.kind in "fiu":
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        elif plain is not None:
            numbers = plain
        else:
            numbered = enumerate(values.tolist(), first_row + 1)
            found = (_number(column, row, value, self.markers) for row, value in numbered)
            numbers = np.fromiter(found, dtype=np.float64)
        if self.markers.numbers:
            numbers = np.where(np.isin(numbers, [*self.markers.numbers]), np.nan, numbers)
        if (infinite := np.isinf(numbers)).any():
            row = int(np.argmax(infinite))
            raise _not_a_number(column, first_row + row + 1, str(values.iloc[row]))
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
            **({"rules": self.rules} if self.rules > 1 else {}),
            **({} if self.standard_missing else {"standard_missing": False}),
            **({} if self.missing_labels is None else {"missing_labels": list(self.missing_labels)}),
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
                values.get("standard_missing", True),
                tuple(values["missing_labels"]) if "missing_labels" in values else None,
                values.get("rules", 1),
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
    if isinstance(column, TextColumn):
        return {"type": "text", **values}
    del values["style"]
    return {"type": "number", **values} | ({"style": column.style.to_dict()} if column.style else {})


def _column(values: dict[str, Any]) -> FittedColumn:
    if values.pop("type") == "number":
        style = values.pop("style", None)
        return NumberColumn(**values, style=style and NumberStyle.from_dict(style))
    return TextColumn(**values | {"categories": tuple(values["categories"])})


def as_text(value: Any) -> str | None:
    """Return a raw value as text of a CSV, without blanks around it; None if it is missing."""
    if value is None or value != value or str(value) == "<NA>":  # NaN and its like differ from themselves
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return composed(str(value).strip())


def _text(value: Any, markers: Markers) -> str | None:
    text = as_text(value)
    return None if text is None or markers.has(text) else text


def _is_text(values: "pd.Series[Any]") -> bool:
    import pandas as pd

    return bool(values.dtype.kind == "O" and pd.api.types.infer_dtype(values, skipna=True) == "string")


def _texts(values: "pd.Series[Any]", markers: Markers) -> tuple[list[str | None], NDArray[np.int64]]:
    """Return texts of raw values, None for missing, and the place of each row's in them, shape (rows,).

    Each distinct text is looked at once; of other values, equal ones may be spelled in several ways.
    """
    if not _is_text(values):
        return [_text(value, markers) for value in values.tolist()], np.arange(len(values))
    import pandas as pd

    rows, distinct = pd.factorize(values)
    texts = [*(_text(value, markers) for value in distinct.tolist()), None]
    return texts, np.where(rows < 0, len(texts) - 1, rows)


def _plain_numbers(values: "pd.Series[Any]", markers: Markers) -> NDArray[np.float64] | None:
    """Return texts as numbers, NaN where missing, all at once; None unless all others are plain numbers."""
    if not _is_text(values):
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

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


def _number(column: NumberColumn, row: int, value: Any, markers: Markers) -> float:
    text = as_text(value)
    if text is None or markers.has_number(text):
        return np.nan
    is_plain = column.style is None or isinstance(value, int | float)
    number = to_number(text) if is_plain or column.style is None else column.style.read(text)
    if number is None or np.isinf(number):
        raise _not_a_number(column, row, text)
    return number


def _not_a_number(column: NumberColumn, row: int, text: str) -> DataError:
    as_they_had = "as the training rows had"
    if column.style is not None:
        unit = f" with {column.style.affix!r}" if column.style.affix else ""
        as_they_had += f", written like {column.style.example}{unit}"
    return DataError(
        f"row {row}, column {column.name!r}: {quoted(text)} is not a finite number, {as_they_had}; "
        "correct it or leave it empty"
    )
