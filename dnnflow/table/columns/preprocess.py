"""Turn raw columns into network input and back, by statistics fitted on training rows.

A `Preprocessing` is plain data: it is part of a dataset's manifest and of a saved model, and needs neither
the dataset nor the CSV to be applied to new rows.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.dressing import NumberStyle, styles_of
from dnnflow.table.columns.iso_times import read_times
from dnnflow.table.columns.kinds import (
    OTHERS,
    STANDARD_LABEL_MARKERS,
    STANDARD_MARKERS,
    Classes,
    Markers,
    Task,
    in_a_list,
    looks_like_values,
    nearest,
    quoted,
    to_number,
)
from dnnflow.table.columns.raw_values import (
    as_text,
    by_names,
    is_text,
    label_texts,
    plain_numbers,
    since_epoch,
    texts_of,
)
from dnnflow.table.columns.row_faults import WrongText, never_missing, not_a_number, rows_of
from dnnflow.table.columns.targets import Targets
from dnnflow.table.columns.times import LONGEST_MONTH, PERIODS, TimeStyle, parts_of

if TYPE_CHECKING:
    import pandas as pd

RULES = 2
"""Of models by version 1, None was a missing label."""
MISSING, UNSEEN = -2, -1
"""Codes of text that is no category."""

_LARGEST = np.finfo(np.float32).max
_NINES = [sign * (10.0**digits - 1) for digits in range(2, 11) for sign in (-1, 1)]
"""Numbers that often stand for missing ones: 99, -999, …"""
_HEADERLESS = (
    "; if the first line has values and no names, set header to false (--no-header): the columns are those "
    "of the table trained on"
)


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
    style: NumberStyle | TimeStyle | None = None
    """How texts of it are written, if not as plain numbers; durations are kept in seconds."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        return (self.name, f"{self.name}_missing") if self.indicator else (self.name,)

    def may_be_markers(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say which numbers, as -999, may stand for a missing value: beyond the training rows, all nines."""
        beyond = (values < self.low) | (values > self.high)
        return beyond & np.isin(values, _NINES) if beyond.any() else beyond

    def marker(self, value: float) -> str:
        """Say of a number that it may stand for a missing value."""
        return (
            f"column {self.name!r}: {value:.0f} is beyond the training rows ({self.low:g} to {self.high:g}); "
            f"if it stands for a missing value, name it in missing_values (--missing-value {value:.0f})"
        )

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
class TimeColumn:
    """A column of instants: their trend as a number, and those of their parts that vary.

    Parts that begin anew become sine and cosine of their share of the period; of a missing instant all parts
    are 0.
    """

    trend: NumberColumn
    """Of seconds since 1970; its name and style are the column's."""
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the table's column."""
        return self.trend.name

    @property
    def style(self) -> TimeStyle:
        """How texts of it are written."""
        style = self.trend.style
        return style if isinstance(style, TimeStyle) else TimeStyle("ymd")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        waves = ((f"{p}_sin", f"{p}_cos") if p in PERIODS else (p,) for p in self.parts)
        return (*self.trend.feature_names, *(f"{self.name}_{one}" for wave in waves for one in wave))

    def encode(self, values: NDArray[np.float64], clip: bool, out: NDArray[np.float32]) -> None:
        """Write the encoded columns of seconds, shape (rows,), which are overwritten."""
        at = len(self.trend.feature_names)
        found = parts_of(values)
        missing = np.isnan(values)
        self.trend.encode(values, clip, out[:, :at])
        for part in self.parts:
            if part in PERIODS:
                angle = found[part] * (2 * np.pi / PERIODS[part])
                out[:, at], out[:, at + 1] = np.sin(angle), np.cos(angle)
                out[missing, at : at + 2] = 0
                at += 2
            else:
                out[:, at] = found[part] / (LONGEST_MONTH - 1)
                out[missing, at] = 0
                at += 1

    def decode(self, encoded: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return seconds since 1970, as precise as the trend is."""
        return self.trend.decode(encoded)


@dataclass(frozen=True)
class TextColumn:
    """A column of text or booleans: one-hot encoded; what was not seen in training is all zero.

    With `other`, categories are the frequent values, and all others share a column; with `buckets`, each
    value is in one of so many columns, by its hash.
    """

    name: str
    boolean: bool
    """Whether upper and lower case are the same."""
    categories: tuple[str, ...]
    fill: str | None
    """Takes the place of a missing value; None to leave it all zero."""
    indicator: bool
    other: bool = False
    """Whether there is a column for all values that are no categories."""
    rare: tuple[str, ...] = ()
    """Such values of the training rows, if they are few enough to be known."""
    n_rare: int = 0
    """How many there are; of hashed values all, and -1 if they were too many to count."""
    buckets: int = 0
    """Columns of hashed values; 0 of those that are not hashed."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        names = tuple(f"{self.name}={category}" for category in self.categories)
        names += tuple(f"{self.name}_hash{bucket}" for bucket in range(self.buckets))
        names += (f"{self.name}_{OTHERS}",) if self.other else ()
        return (*names, f"{self.name}_missing") if self.indicator else names

    def codes(self, texts: Iterable[str | None]) -> NDArray[np.int64]:
        """Return each text's code; `MISSING` for None and `UNSEEN` for what is no category."""
        code: dict[str | None, int] = {category: i for i, category in enumerate(self.categories)}
        if self.buckets:
            found = (MISSING if text is None else _bucket(text, self.buckets) for text in texts)
        else:
            found = (
                MISSING if t is None else code.get(t.lower() if self.boolean else t, UNSEEN) for t in texts
            )
        return np.fromiter(found, dtype=np.int64)

    def strangers(self, texts: Sequence[str | None]) -> NDArray[np.int64]:
        """Return which texts the training rows had not, where that is known; their places."""
        if self.buckets or len(self.rare) < self.n_rare:
            return np.empty(0, dtype=np.int64)
        rare = {*self.rare}
        unseen = np.flatnonzero(self.codes(texts) == UNSEEN)
        return np.array([row for row in unseen.tolist() if texts[row] not in rare], dtype=np.int64)

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
        known = (*self.categories, *self.rare)
        near = nearest(text, known) if known else "none"
        return f"{said} ({near}){f', and counts as {OTHERS}' if self.other else ''}"

    def encode(self, codes: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the encoded columns of codes, shape (rows,), into zeros."""
        missing = codes == MISSING
        if self.indicator:
            out[:, -1] = missing
        if self.fill is not None:
            (fill,) = self.codes([self.fill])
            codes = np.where(missing, fill, codes)
        if self.other:
            codes = np.where(codes == UNSEEN, len(self.categories), codes)
        rows = np.flatnonzero(codes >= 0)
        out[rows, codes[rows]] = 1.0

    def decode(self, encoded: NDArray[np.float32]) -> NDArray[np.object_]:
        """Return texts, None where no category is set, it is hashed, or the indicator says missing."""
        known = (*self.categories, *((OTHERS,) if self.other else ()))
        names = np.array([*known, None], dtype=object)
        hot = encoded[:, : len(known)]
        if not known:
            return np.full(len(encoded), None, dtype=object)
        codes = np.where(hot.max(axis=1) > 0.5, hot.argmax(axis=1), len(known))
        if self.indicator:
            codes = np.where(encoded[:, -1] > 0.5, len(known), codes)
        return np.asarray(names[codes], dtype=object)


FittedColumn = NumberColumn | TextColumn | TimeColumn


def _bucket(text: str, buckets: int) -> int:
    """Return the column of a hashed value, by BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % buckets


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
    label_numbers: tuple[str, ...] = ()
    """How the numbers of labels are written, as `Recipe.numbers` says it."""

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

    def labels_of(self, place: int, values: "pd.Series[Any]") -> list[str | None]:
        """Return a label's raw values as a table's, None where they are missing; `place` is the label's."""
        classes = self.targets.classes[place] if self.targets.classes else None
        is_number = values.dtype.kind in "fiu"
        style = None if is_number else self._label_styles.get(self.targets.names[place])
        markers = self.label_markers
        is_missing = markers.has if classes is not None and classes.exact else markers.has_label

        def tidied(text: str | None) -> str | None:
            if text is None or (classes is not None and classes.knows(text)):
                return text
            return None if is_missing(text) else text if style is None else style.plainly(text)

        return [tidied(text) for text in label_texts(values)]

    @cached_property
    def _label_styles(self) -> dict[str, NumberStyle]:
        return styles_of(self.label_numbers)

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
            if isinstance(column, TextColumn):
                column.encode(values, out[:, at : at + width])
            else:
                column.encode(values, self.clip, out[:, at : at + width])
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
        return self.encode(self.read(frame, first_row=first_row))

    def read(self, frame: "pd.DataFrame", *, first_row: int = 0) -> list[NDArray[Any]]:
        """Return what raw rows hold in each column: numbers, NaN where missing, or codes; as `transform`."""
        frame = by_names(frame, [column.name for column in self.columns])
        self._check_columns([*frame.columns])
        return [self._raw(column, frame[column.name], first_row) for column in self.columns]

    def _check_columns(self, names: Sequence[str]) -> None:
        wrong = [column.name for column in self.columns if names.count(column.name) != 1]
        if not wrong:
            return
        first = wrong[0]
        more = f" (neither {in_a_list(wrong[1:])})" if len(wrong) > 1 else ""
        raise DataError(
            f"new rows must have the column {first!r} once{more}, got it {names.count(first)} times; "
            f"{nearest(first, names)}{_HEADERLESS if looks_like_values(names) else ''}"
        )

    def notes(
        self, frame: "pd.DataFrame", read: Sequence[NDArray[Any]] | None = None,
        complete: Collection[str] = (),
    ) -> list[str]:  # fmt: skip
        """Return what to know of each raw row before its prediction is believed; an empty text for most.

        That is a text that the training rows did not have, which is encoded as none of their categories; a
        missing value where no row of the table had one; a number that may stand for a missing value.

        Parameters
        ----------
        read
            What `read` returns of the rows, if it is known.
        complete
            Columns that have a value in all rows of the table trained on.
        """
        frame = by_names(frame, [column.name for column in self.columns])
        found: dict[int, list[str]] = {}
        for column, values in zip(self.columns, self.read(frame) if read is None else read, strict=True):
            if isinstance(column, TextColumn):
                texts, rows = self._texts(frame[column.name])
                places = column.strangers(texts).tolist()
                said = {place: column.unseen(texts[place] or "") for place in places}
                for row in np.flatnonzero(np.isin(rows, places)).tolist():
                    found.setdefault(row, []).append(said[int(rows[row])])
            elif isinstance(column, NumberColumn) and column.style is None:
                for row in np.flatnonzero(column.may_be_markers(values)).tolist():
                    found.setdefault(row, []).append(column.marker(float(values[row])))
            if column.name in complete:
                missing = values == MISSING if isinstance(column, TextColumn) else np.isnan(values)
                for row in np.flatnonzero(missing).tolist():
                    text = as_text(frame[column.name].iloc[row])
                    found.setdefault(row, []).append(never_missing(column.name, _fill_of(column), text))
        notes = [""] * len(frame)
        for row, of_row in found.items():
            notes[row] = "; ".join(of_row)
        return notes

    def _raw(self, column: FittedColumn, values: "pd.Series[Any]", first_row: int) -> NDArray[Any]:
        if isinstance(column, TextColumn):
            texts, rows = self._texts(values)
            return column.codes(texts)[rows]
        if isinstance(column.style, TimeStyle):
            return self._seconds(column.style, column, values, first_row)
        plain = None if column.style is not None else plain_numbers(values, self.markers)
        if values.dtype.kind in "fiu":
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        elif plain is not None:
            numbers = plain
        else:
            found = (_number(column, value, self.markers) for value in values.tolist())
            try:
                numbers = np.fromiter(found, dtype=np.float64)
            except WrongText as wrong:
                raise not_a_number(
                    column.name, column.style, rows_of(values, wrong.text, first_row), wrong.text
                ) from None
        if self.markers.numbers:
            numbers = np.where(np.isin(numbers, [*self.markers.numbers]), np.nan, numbers)
        if (infinite := np.isinf(numbers)).any():
            row = int(np.argmax(infinite))
            raise not_a_number(column.name, column.style, [first_row + row + 1], str(values.iloc[row]))
        return numbers

    def _texts(self, values: "pd.Series[Any]") -> tuple[list[str | None], NDArray[np.int64]]:
        """Return texts of raw values, None for missing, and the place of each row's in them, shape (rows,).

        Each distinct text is looked at once; of other values, equal ones may be spelled in several ways.
        """
        import pandas as pd

        if is_text(values):
            found, distinct = pd.factorize(values)
            texts = [*map(as_text, distinct.tolist()), None]
            rows = np.where(found < 0, len(texts) - 1, found)
        else:
            texts, rows = texts_of(values), np.arange(len(values))
        return [None if text is None or self.markers.has(text) else text for text in texts], rows

    def _seconds(
        self, style: TimeStyle, column: NumberColumn | TimeColumn, values: "pd.Series[Any]", first_row: int
    ) -> NDArray[np.float64]:
        """Return the seconds of new rows' instants or durations, NaN where missing."""
        kind, zone = values.dtype.kind, getattr(values.dtype, "tz", None)
        if (
            isinstance(values.dtype, np.dtype)
            and kind in "mM"
            and (kind == "M") == style.is_instant
            and (kind == "m" or not style.has_zone)
        ):
            return since_epoch(values.to_numpy())
        if zone is not None and style.is_instant and style.has_zone:
            return since_epoch(values.dt.tz_convert(None).to_numpy())
        texts, rows = self._texts(values)
        known = pa.array(texts, pa.string()).dictionary_encode()
        seconds = np.append(read_times(style, known.dictionary), np.nan)
        found: NDArray[np.float64] = seconds[known.indices.fill_null(-1).to_numpy()][rows]
        for row in np.flatnonzero(np.isnan(found)).tolist():
            if (text := texts[int(rows[row])]) is not None:
                raise not_a_number(column.name, column.style, rows_of(values, text, first_row), text)
        return found

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
            **({"label_numbers": list(self.label_numbers)} if self.label_numbers else {}),
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
                tuple(values.get("label_numbers", ())),
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
    if isinstance(column, TimeColumn):
        return {**_column_dict(column.trend), "type": "time", "parts": list(column.parts)}
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(column).items()}
    if isinstance(column, TextColumn):
        plain = {one.name for one in fields(column) if one.default == getattr(column, one.name)}
        return {"type": "text", **{name: value for name, value in values.items() if name not in plain}}
    del values["style"]
    return {"type": "number", **values} | ({"style": column.style.to_dict()} if column.style else {})


def _column(values: dict[str, Any]) -> FittedColumn:
    kind = values.pop("type")
    if kind == "text":
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return TextColumn(**values)
    parts, style = values.pop("parts", ()), values.pop("style", None)
    find = TimeStyle.from_dict if style and "form" in style else NumberStyle.from_dict
    number = NumberColumn(**values, style=style and find(style))
    return TimeColumn(number, tuple(parts)) if kind == "time" else number


def _fill_of(column: FittedColumn) -> str | float | None:
    """Return what takes the place of a missing value; None of times, which have no plain number."""
    return None if isinstance(column, TimeColumn) else column.fill


def _number(column: NumberColumn, value: Any, markers: Markers) -> float:
    text = as_text(value)
    if text is None or markers.has_number(text):
        return np.nan
    is_plain = column.style is None or isinstance(value, int | float)
    number = to_number(text) if is_plain or column.style is None else column.style.read(text)
    if number is None or np.isinf(number):
        raise WrongText(text)
    return number
