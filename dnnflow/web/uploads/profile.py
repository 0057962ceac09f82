"""Describe an uploaded table as plain values, for the page where a label is chosen."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_CLASSES = 1000
"""A label with more classes is refused."""


@dataclass(frozen=True)
class ColumnProfile:
    """One column of a table."""

    name: str
    kind: str
    """`number`, `text`, `boolean` or `empty`, as the study will take it; `other` where it does not."""
    missing: int
    """Rows without a value."""
    distinct: int
    """Different values, counted up to `MOST_CLASSES` + 1."""
    histogram: tuple[int, ...] = ()
    """Of a column of numbers: rows in equal bins from `least` to `most`."""
    least: float | None = None
    most: float | None = None
    values: tuple[tuple[str, int], ...] = ()
    """The most frequent values and their rows; all of them where the column may be a label."""
    label_problem: str | None = None
    """Why it cannot be the label: rule, value, remedy; None where it can."""
    feature_problem: str | None = None
    """Why it must be dropped, or be the label, as it is: rule, value, remedy; None where it may stay."""
    asks: bool = False
    """Whether it must be said of a label if its whole numbers are classes or amounts."""
    is_amount: bool = False
    """Whether the numbers of a label are amounts, where nothing is said: not all are whole."""
    label_missing: int = 0
    """Rows without a label, if it is the label: None is a class of a label, and no value of a feature."""
    label_notes: tuple[str, ...] = ()
    """What a person should know of its classes, if it is the label."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ColumnProfile":
        """Return the column of JSON types."""
        histogram = tuple(int(rows) for rows in data["histogram"])
        values = tuple((str(value), int(rows)) for value, rows in data["values"])
        notes = tuple(map(str, data.get("label_notes", ())))
        return cls(**{**data, "histogram": histogram, "values": values, "label_notes": notes})


@dataclass(frozen=True)
class Profile:
    """A table that was read to its end."""

    rows: int
    text_bytes: int
    """Unpacked."""
    columns: tuple[ColumnProfile, ...]
    first_rows: tuple[tuple[str, ...], ...]
    """As written in the file, at most 10."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Kind, delimiter, quote, encoding and header as they were found out, and what else was said: fields of
    the pipeline's `dataset`."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the table was read."""
    parts: tuple[str, ...] = ()
    """Sheets of a workbook, or tables of a database, of which one was read."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Profile":
        """Return what `to_dict` gave, also after a way through JSON."""
        return cls(
            rows=int(data["rows"]),
            text_bytes=int(data["text_bytes"]),
            columns=tuple(ColumnProfile.from_dict(column) for column in data["columns"]),
            first_rows=tuple(tuple(map(str, row)) for row in data["first_rows"]),
            reading=dict(data["reading"]),
            notes=tuple(map(str, data.get("notes", ()))),
            parts=tuple(map(str, data.get("parts", ()))),
        )
