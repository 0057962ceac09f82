"""Tell what the texts of a table's columns mean, and of which kind the columns are."""

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property
from itertools import pairwise, product
from typing import Any

from dnnflow.errors import DataError

MAX_CATEGORIES = 64
"""Different values of a text column up to which each has a column of its own, however few rows it has."""
MAX_FREQUENT = 256
"""Columns that a text column of more values becomes by default, at most; the last is for all rarer values."""
MAX_ONE_HOT = 1_000
"""One-hot columns that a text column may become where that is asked for."""
MAX_COUNTED = 100_000
"""Different values of a text column up to which each is counted; with more they are hashed."""
MAX_CLASSES = 1_000
CONTINUOUS_CLASSES = 20
"""A label of numbers that are not all whole and has more distinct values than this is continuous."""

STANDARD_MARKERS = ("na", "n/a", "nan", "null", "none", "?")
"""What stands for a missing value in any case, besides an empty field."""
STANDARD_LABEL_MARKERS = ("na", "n/a", "nan", "null", "?")
"""The same of a label, of which None is a class."""
OTHERS = "other"
"""The class of rare classes that are merged."""
_PLAIN = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.0*)?")
"""A whole number, as 1 or 1.0: its sign and its digits."""
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
    TIME = "time"
    """Dates and times."""
    DURATION = "duration"
    """Durations and times of day, in seconds."""
    EMPTY = "empty"
    """No value in any row; such a column is not used."""


NUMERIC = (ColumnKind.NUMBER, ColumnKind.TIME, ColumnKind.DURATION)
"""Kinds of columns that are kept as numbers."""


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
def in_any_case(word: str) -> tuple[str, ...]:
    """Return a word with each of its letters in lower and in upper case."""
    return tuple("".join(letters) for letters in product(*({c.lower(), c.upper()} for c in word)))


@dataclass(frozen=True)
class Markers:
    """What stands for a missing value, besides an empty field."""

    own: tuple[str, ...] = ()
    """Texts as they stand; those that are numbers mean that number."""
    standard: tuple[str, ...] = STANDARD_MARKERS
    """Words in lower case; their case does not matter."""

    def spellings(self) -> list[str]:
        """Return every text that means missing, but for other spellings of the own numbers."""
        return sorted({"", *self.own, *(s for word in self.standard for s in in_any_case(word))})

    @cached_property
    def numbers(self) -> frozenset[float]:
        """The own markers that are numbers, infinite ones among them."""
        found = map(to_number, self.own)
        return frozenset(number for number in found if number is not None and not math.isnan(number))

    @cached_property
    def _plain(self) -> frozenset[str]:
        return frozenset(map(plain_name, self.own))

    @cached_property
    def every(self) -> frozenset[str]:
        """What `spellings` returns."""
        return frozenset(self.spellings())

    def has(self, text: str) -> bool:
        """Say whether a text without surrounding blanks means missing, as it stands."""
        return text in self.every

    def has_number(self, text: str) -> bool:
        """Say the same of a text in a column of numbers: -999 finds -999.0."""
        return self.has(text) or (bool(self.numbers) and to_number(text) in self.numbers)

    def has_label(self, text: str) -> bool:
        """Say the same of a label: -999 finds -999.0, but 7 does not find 007."""
        return self.has(text) or (bool(self._plain) and plain_name(text) in self._plain)


def composed(text: str) -> str:
    """Return a text in one of the ways in which Unicode writes it (normal form C)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain_name(text: str) -> str:
    """Return a text that is a plain whole number as that number: 1 for 1.0; every other as it is."""
    found = _PLAIN.fullmatch(text)
    if found is None:
        return text
    return "0" if found[2] == "0" else found[1] + found[2]


def is_boolean(text: str) -> bool:
    """Say whether a text is one of true, false, yes, no, in any case."""
    return text.lower() in _BOOLEANS


def look_alike(names: Iterable[str]) -> tuple[list[str], str]:
    """Return the first names that a person may take for one, and what they differ in; nothing of others."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(_as_seen(name), []).append(name)
    few = next((few for few in alike.values() if len(few) > 1), [])
    differ = "case alone" if len({name.casefold() for name in few}) == 1 else "blanks, case or signs not seen"
    return few, f"{in_a_list(few)} differ in {differ}"


def _as_seen(text: str) -> str:
    """Return a text without what is hardly seen: case, width, kinds and number of blanks, invisible signs."""
    if not text.isascii():
        plain = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    return " ".join(text.split()).casefold()


def one_column(name: str, columns: Collection[str]) -> str:
    """Return the column that a name means, where it is written in another way than there.

    That is, with other blanks around it, or in another of Unicode's forms; else the name as it is.
    """
    if name in columns:
        return name
    found = [one for one in columns if composed(one.strip()) == composed(name.strip())]
    return found[0] if len(found) == 1 else name


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
        return f"nearest: {', '.join(map(repr, near))}"
    return f"there are: {', '.join(map(repr, known[:5]))}{', ...' if len(known) > 5 else ''}"


@dataclass(frozen=True)
class Classes:
    """The classes of a label column: texts of the table ↔ codes."""

    names: tuple[str, ...]
    """In order of their codes: by value if all are numbers, else as text; merged ones come last."""
    numeric: bool
    """Whether the label's texts are numbers, so that `1.0` and `1` are one class; `01` is another."""
    exact: bool = False
    """Whether classes are texts as they stand: `1.0` and `1`, `True` and `true` differ."""
    merged: tuple[str, ...] = ()
    """Classes that the last one stands for."""

    @classmethod
    def of(cls, texts: Iterable[str], *, exact: bool = False) -> "Classes":
        """Find the classes among the distinct texts of a label column."""
        distinct = set(texts)
        if exact:
            return cls(tuple(sorted(distinct)), False, exact=True)
        numbers = [to_number(t) for t in distinct]
        if all(n is not None and math.isfinite(n) for n in numbers):
            return cls(tuple(sorted(set(map(plain_name, distinct)), key=_by_value)), True)
        folded = {text.lower() for text in distinct}
        if folded <= _BOOLEANS and len(folded) < len(distinct):
            distinct = folded
        return cls(tuple(sorted(distinct)), False)

    def codes(self, texts: Iterable[str | None]) -> list[int]:
        """Return the code of each text, -1 for what is no class."""
        return [-1 if text is None else self._code(text) for text in texts]

    def knows(self, text: str) -> bool:
        """Say whether a text is of a class."""
        return self._code(text) >= 0

    def _code(self, text: str) -> int:
        found = self._exact.get(text, -1)
        return found if found >= 0 or self.exact else self._alike.get(self._one(text), -1)

    @cached_property
    def _exact(self) -> dict[str, int]:
        last = len(self.names) - 1
        return {**dict.fromkeys(self.merged, last), **{name: i for i, name in enumerate(self.names)}}

    @cached_property
    def _alike(self) -> dict[str, int]:
        return {self._one(name): code for name, code in self._exact.items()}

    @cached_property
    def _are_booleans(self) -> bool:
        return all(map(is_boolean, self.names))

    def _one(self, text: str) -> str:
        if self.numeric:
            return plain_name(text)
        return text.lower() if self._are_booleans else text

    def spelled(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """Return the spellings of each class that has several among these texts."""
        found: dict[str, list[str]] = {}
        for text in sorted(texts):
            if (code := self._code(text)) >= 0 and self.names[code] != OTHERS:
                found.setdefault(self.names[code], []).append(text)
        return {name: spellings for name, spellings in found.items() if len(spellings) > 1}

    def without(self, rare: Sequence[str], *, merge: bool) -> "Classes":
        """Return the classes without rare ones: their rows have no label, or are of one class together."""
        kept = tuple(name for name in self.names if name not in rare)
        if not merge:
            return replace(self, names=kept)
        return replace(self, names=(*(n for n in kept if n != OTHERS), OTHERS), merged=tuple(rare))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        more: dict[str, Any] = {"exact": True} if self.exact else {}
        more |= {"merged": list(self.merged)} if self.merged else {}
        return {"names": list(self.names), "numeric": self.numeric, **more}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Classes":
        """Make it of what `to_dict` returned."""
        merged = tuple(values.get("merged", ()))
        return cls(tuple(values["names"]), values["numeric"], values.get("exact", False), merged)

    def check(self, label: str) -> None:
        """Refuse what cannot be told apart by a classifier.

        Raises
        ------
        DataError
            If there is one class, or too many.
        """
        n = len(self.names)
        if n < 2:
            of_it = f" ({quoted(self.names[0])})" if n else ""
            raise DataError(
                f"a label needs at least 2 classes, got {n}{of_it} in column {label!r}; choose another label "
                "column"
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
        rare = self.rare(counts)
        if rare:
            remedy = "add rows of it, or remove that row" if len(rare) == 1 else "add rows, or remove those"
            is_merged = bool(self.merged)
            remedy += f", or set rare_classes to {'drop' if is_merged else 'drop or merge'}"
            if self.numeric:
                remedy += ", or task to regression if these are amounts"
            raise DataError(
                f"a class needs at least 2 rows (one to train, one to test), got 1 of "
                f"{in_a_list(rare)} in column {label!r}; {remedy}"
            )

    def rare(self, counts: Sequence[int]) -> list[str]:
        """Return the classes with a single row."""
        return [name for name, count in zip(self.names, counts, strict=True) if count < 2]


def _by_value(text: str) -> tuple[float, int, str]:
    number = to_number(text) or 0.0
    return number, len(text) if number >= 0 else -len(text), text


def in_a_list(texts: Sequence[str], most: int = 10) -> str:
    """Return values as a message lists them."""
    rest = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(map(quoted, texts[:most])) + rest


def number_name(value: float) -> str:
    """Write a number of a table as a class is named: 1 for 1.0."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def looks_like_values(names: Sequence[str]) -> bool:
    """Say whether a header looks like a row of values: half of it numbers, but no years and no counting."""
    numbers = [number for number in map(to_number, names) if number is not None]
    if 2 * len(numbers) < len(names) or not numbers:
        return False
    steps = {b - a for a, b in pairwise(numbers)}
    is_counting = steps <= {1.0} and len(numbers) == len(set(numbers)) and all(map(float.is_integer, numbers))
    return not (is_counting and len(numbers) > 1) and not all(1800 <= n <= 2100 for n in numbers)


HEADERLESS = (
    "; if the first line has values and no names, set header to false (--no-header): column_1, column_2, …"
)


BLANKS = (
    "; if blanks separate the values, set delimiter to a blank, or format to fwf for columns of fixed width"
)


_SEPARATING = re.compile(r"[:^~!&#/*+=]")
"""What may separate values where delimiters do not."""


def check_columns(names: Sequence[str], labels: tuple[str, ...], listed: dict[str, tuple[str, ...]]) -> None:
    """Refuse a header with a name twice, and a recipe (labels, lists by field) that names no column of it.

    Raises
    ------
    DataError
        Naming the column and the nearest ones.
    """
    hint = HEADERLESS if looks_like_values(names) else ""
    if len(names) == 1 and len(names[0].split()) > 1:
        hint = BLANKS
    elif len(names) == 1 and (found := _SEPARATING.search(names[0])):
        hint = f"; if {found[0]!r} separates the values, set delimiter to it (--delimiter {found[0]!r})"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        hint = hint or HEADERLESS
        first = names.index(twice[0]) + 1
        raise DataError(
            f"column names must differ, got {twice[0]!r} as columns {first} and "
            f"{names.index(twice[0], first) + 1}; rename one of them{hint}"
        )
    known = set(names)
    for field, wanted in {"label": labels, **listed}.items():
        for name in wanted:
            if name not in known:
                raise DataError(
                    f"{field} must name a column of the table, got {name!r}; {nearest(name, names)}{hint}"
                )
