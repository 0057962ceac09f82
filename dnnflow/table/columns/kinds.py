"""Tell what the texts of a table's columns mean, and of which kind the columns are."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product
from typing import Any

from dnnflow.errors import DataError

MAX_CATEGORIES = 64
"""One-hot columns that a text column may become."""
MAX_CLASSES = 1_000
CONTINUOUS_CLASSES = 20
"""A label of numbers that are not all whole and has more distinct values than this is continuous."""

_MARKERS = ("", "na", "n/a", "nan", "null", "none", "?")
_BOOLEANS = frozenset({"true", "false", "yes", "no"})


class Task(StrEnum):
    """What is predicted of a row."""

    CLASSIFICATION = "classification"
    """The class of one label."""
    MULTILABEL = "multilabel"
    """Which of two values each label has."""
    REGRESSION = "regression"
    """A number for each label."""


class ColumnKind(StrEnum):
    """What the values of a column are."""

    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    EMPTY = "empty"
    """No value in any row; such a column is not used."""


@dataclass(frozen=True)
class FeatureColumn:
    """A feature column of the table."""

    name: str
    kind: ColumnKind
    missing: float
    """Share of all rows without a value, 0 to 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"name": self.name, "kind": str(self.kind), "missing": self.missing}


@cache
def _spellings(word: str) -> tuple[str, ...]:
    return tuple("".join(letters) for letters in product(*({c.lower(), c.upper()} for c in word)))


def missing_spellings(own: Sequence[str]) -> list[str]:
    """Return every text that means missing: the built-in markers in any case and the user's own."""
    return sorted({s for word in _MARKERS for s in _spellings(word)} | set(own))


def is_missing(text: str, own: Sequence[str]) -> bool:
    """Say whether a text without surrounding blanks means missing."""
    return text in own or text.lower() in _MARKERS


def is_boolean(text: str) -> bool:
    """Say whether a text is one of true, false, yes, no, in any case."""
    return text.lower() in _BOOLEANS


def to_number(text: str) -> float | None:
    """Return the number a text stands for, or None; the grammar is that of the block parser.

    Python would also take underscores and other scripts' digits, which no CSV means as numbers.
    """
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def quoted(text: str, length: int = 40) -> str:
    """Return a value as a message shows it: quoted, on one line, and cut when long."""
    return repr(text if len(text) <= length else text[:length] + "...")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the names most like `name` as a message lists them; where none is like it, the first of all."""
    known = list(names)
    lower = {k.lower(): k for k in reversed(known)}
    if near := [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3)]:
        return f"nearest: {', '.join(near)}"
    return f"there are: {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"


@dataclass(frozen=True)
class Classes:
    """The classes of a label column: texts of the table ↔ codes."""

    names: tuple[str, ...]
    """In order of their codes: by value if all are numbers, else as text."""
    numeric: bool
    """Whether the label's texts are numbers, so that `1.0` and `1` are one class."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Classes":
        """Find the classes among the distinct texts of a label column."""
        distinct = set(texts)
        numbers = [to_number(t) for t in distinct]
        if any(n is None or not math.isfinite(n) for n in numbers):
            return cls(tuple(sorted(distinct)), False)
        values = sorted({n for n in numbers if n is not None})
        return cls(tuple(number_name(v) for v in values), True)

    def codes(self, texts: Iterable[str]) -> list[int]:
        """Return the code of each text, -1 for what is no class."""
        code = {name: i for i, name in enumerate(self.names)}
        return [code.get(self._name(t), -1) for t in texts]

    def _name(self, text: str) -> str:
        number = to_number(text) if self.numeric else None
        return text if number is None else number_name(number)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"names": list(self.names), "numeric": self.numeric}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Classes":
        """Make it of what `to_dict` returned."""
        return cls(tuple(values["names"]), values["numeric"])

    def check(self, label: str) -> None:
        """Refuse what cannot be told apart by a classifier.

        Raises
        ------
        DataError
            If there is one class, or too many.
        """
        n = len(self.names)
        if n == 1:
            raise DataError(
                f"a label needs at least 2 classes, got 1 ({quoted(self.names[0])}) in column {label!r}; "
                "choose another label column"
            )
        if n > MAX_CLASSES:
            raise DataError(
                f"a label may have at most {MAX_CLASSES} classes, got more in column {label!r}; "
                "choose another label column or group its values first"
            )

    def check_counts(self, counts: Sequence[int], label: str) -> None:
        """Refuse a class with one row.

        Raises
        ------
        DataError
        """
        least = min(range(len(counts)), key=counts.__getitem__)
        if counts[least] < 2:
            remedy = "add rows of it, or remove that row"
            if self.numeric:
                remedy = "add rows of it, remove that row, or set task to regression if these are amounts"
            raise DataError(
                f"a class needs at least 2 rows (one to train, one to test), got 1 of "
                f"{quoted(self.names[least])} in column {label!r}; {remedy}"
            )


def number_name(value: float) -> str:
    """Write a number of a table as a class is named: 1 for 1.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def check_columns(names: Sequence[str], labels: tuple[str, ...], listed: dict[str, tuple[str, ...]]) -> None:
    """Refuse a header with a name twice, and a recipe (labels, lists by field) that names no column of it.

    Raises
    ------
    DataError
        Naming the column and the nearest ones.
    """
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name in seen:
            raise DataError(
                f"column names must differ, got {name!r} as columns {seen[name]} and {number}; "
                "rename one of them"
            )
        seen[name] = number
    for field, wanted in {"label": labels, **listed}.items():
        for name in wanted:
            if name not in seen:
                raise DataError(
                    f"{field} must name a column of the table, got {name!r}; {nearest(name, names)}"
                )
