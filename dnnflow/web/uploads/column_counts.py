"""Count the values of a column block by block, in memory that does not grow."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import codes
from dnnflow.table.columns.kinds import CONTINUOUS_CLASSES, Classes, ColumnKind, Task, number_name, to_number
from dnnflow.table.text.inference import ColumnFacts, check_label
from dnnflow.table.text.task_inference import ROWS_A_CLASS, are_times, infer_task
from dnnflow.web.uploads.profile import MOST_CLASSES, ColumnProfile

BINS = 20
"""Of the histogram a person sees."""
_CELLS = 2048
_FREQUENT = 20
"""Values that are listed of a column that cannot be the label."""


class Histogram:
    """Counts numbers of an unknown range in cells of equal width, a power of two.

    When a number falls outside, the cells are merged two by two until it fits, so that no count is lost. A
    bin made of cells is wrong by what lies in the cells at its two ends.
    """

    def __init__(self) -> None:
        self.least, self.most = math.inf, -math.inf
        self._width = 0.0
        self._first = 0
        self._counts = np.zeros(_CELLS, dtype=np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count finite numbers, at least one."""
        least, most = float(values.min()), float(values.max())
        if least < self.least or most > self.most:
            self._widen(min(least, self.least), max(most, self.most))
        places = np.floor(values / self._width).astype(np.int64) - self._first
        self._counts += np.bincount(places, minlength=_CELLS)

    def bins(self) -> tuple[int, ...]:
        """Return the counts in equal bins from `least` to `most`."""
        full = np.flatnonzero(self._counts)
        middles = (full + self._first + 0.5) * self._width
        return equal_bins(np.clip(middles, self.least, self.most), self._counts[full])

    def _widen(self, least: float, most: float) -> None:
        self.least, self.most = least, most
        span = most / (_CELLS - 2) - least / (_CELLS - 2)
        needed = max(span, max(abs(least), abs(most)) * 2.0**-50, 2.0**-1000)
        # The next power of two; both ends lie somewhere within their cells, which takes one cell more.
        width = max(2.0 ** min(math.frexp(needed)[1], 1023), self._width)
        first = math.floor(least / width)
        if self._width:
            old = np.flatnonzero(self._counts)
            middles = (old + self._first + 0.5) * (self._width / width)
            places = np.clip(np.floor(middles).astype(np.int64) - first, 0, _CELLS - 1)
            self._counts = np.bincount(places, self._counts[old], _CELLS).astype(np.int64)
        self._width, self._first = width, first


def equal_bins(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Return how many rows lie in equal bins from the least to the most of some values."""
    if not len(values):
        return ()
    least, most = float(values.min()), float(values.max())
    half = most / 2 - least / 2  # halves, for the difference itself may be no float64
    if half == 0.0:
        return (*(0,) * (BINS // 2), int(counts.sum()), *(0,) * (BINS - BINS // 2 - 1))
    places = np.minimum(((values / 2 - least / 2) / half * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(places, counts, BINS).astype(np.int64).tolist())


class NumberCounts:
    """Counts the values of a column of numbers."""

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._values: dict[float, int] = {}
        self._many = False

    @property
    def is_many(self) -> bool:
        """Whether there are too many values for classes."""
        return self._many

    def add(self, values: NDArray[np.float64]) -> None:
        """Count a block's values; NaN is missing, and infinite ones are refused elsewhere."""
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
        if not len(values):
            return
        self._histogram.add(values)
        if not self._many:
            self._count(values[: 4 * MOST_CLASSES])
        if not self._many:
            self._count(values[4 * MOST_CLASSES :])

    def _count(self, values: NDArray[np.float64]) -> None:
        found, counts = np.unique(values + 0.0, return_counts=True)
        if len(found) > MOST_CLASSES:
            self._have_many(found)
            return
        for value, count in zip(found.tolist(), counts.tolist(), strict=True):
            self._values[value] = self._values.get(value, 0) + count
        if len(self._values) > MOST_CLASSES:
            self._have_many(np.array([*self._values]))

    def _have_many(self, values: NDArray[np.float64]) -> None:
        """Stop to count values; keep as many as show that they are too many for classes."""
        self._many = True
        self._values = dict.fromkeys(values[: MOST_CLASSES + 1].tolist(), 0)

    def profile(
        self, name: str, kind: ColumnKind, rows: int, facts: ColumnFacts, label: "LabelCounts"
    ) -> ColumnProfile:
        """Return the column's profile."""
        histogram = self._histogram
        named = {number_name(value): count for value, count in self._values.items()}
        as_label = label.described(name, rows, named, facts)
        problem = as_label["label_problem"]
        if not named:
            return ColumnProfile(name, kind, rows - facts.values, 0, **as_label)
        if self._many:
            bins = histogram.bins()
        else:
            counts = np.array([*self._values.values()], dtype=np.int64)
            bins = equal_bins(np.array([*self._values]), counts)
        is_whole = all(value.is_integer() for value in self._values)
        may_be_amounts = problem is None and len(self._values) > CONTINUOUS_CLASSES
        is_rare = self._many or len(self._values) * ROWS_A_CLASS > facts.values
        return ColumnProfile(
            name,
            kind,
            rows - facts.values,
            MOST_CLASSES + 1 if self._many else len(label.classes or named),
            bins,
            histogram.least,
            histogram.most,
            asks=may_be_amounts and is_whole and is_rare,
            is_amount=may_be_amounts and not is_whole,
            **({} if self._many else {"values": _frequent(named, whole=problem is None)}) | as_label,
        )


class TextCounts:
    """Counts the values of a column of text."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._many = False

    def add(self, column: Any) -> None:
        """Count a block's values, given as codes and distinct values."""
        if self._many:
            return
        add_texts(self._values, column)
        if len(self._values) > MOST_CLASSES:
            self._many = True
            self._values = dict([*self._values.items()][: MOST_CLASSES + 1])

    def profile(
        self, name: str, kind: ColumnKind, rows: int, facts: ColumnFacts, label: "LabelCounts"
    ) -> ColumnProfile:
        """Return the column's profile."""
        as_label = label.described(name, rows, self._values, facts)
        values = () if self._many else _frequent(self._values, whole=as_label["label_problem"] is None)
        may_be_amounts = as_label["label_problem"] is None and are_times(facts)
        as_label |= {"asks": may_be_amounts and len(self._values) > CONTINUOUS_CLASSES}
        return ColumnProfile(
            name, kind, rows - facts.values, len(self._values), **{"values": values} | as_label
        )


class LabelCounts:
    """Counts the spellings of a column as those of a label, as long as they are few enough for classes."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._facts = ColumnFacts()
        self.is_many = False
        """Whether there are too many spellings; then no more are counted."""

    def add(self, column: Any, facts: ColumnFacts) -> None:
        """Count a block's values, given as codes and distinct values."""
        self._facts = self._facts.merge(facts, MOST_CLASSES)
        add_texts(self._texts, column)
        self.is_many = len(self._texts) > MOST_CLASSES

    @property
    def classes(self) -> dict[str, int]:
        """Rows of each class; empty where there are too many."""
        if self.is_many:
            return {}
        classes = Classes.of(self._texts)
        rows = [0] * len(classes.names)
        for code, count in zip(classes.codes(self._texts), self._texts.values(), strict=True):
            rows[code] += count
        return dict(zip(classes.names, rows, strict=True))

    def described(
        self, name: str, rows: int, counts: Mapping[str, int], facts: ColumnFacts
    ) -> dict[str, Any]:
        """Return what the column would be as the label: fields of its profile.

        Parameters
        ----------
        name
            Of the column.
        rows
            Of the table.
        counts, facts
            Of the column as a feature, which count where there are too many spellings.
        """
        if self.is_many:
            problem = label_problem(name, counts, facts)
            if problem is None and not _are_amounts(counts, facts):
                problem = (
                    f"the classes of a label may be spelled in at most {MOST_CLASSES} ways, got more in "
                    f"column {name!r}; write each number in one way"
                )
            return {"label_problem": problem, "label_missing": rows - facts.values}
        problem, found = label_problem(name, self._texts, self._facts), self.classes
        return {
            "label_problem": problem,
            "label_missing": rows - self._facts.values,
            "label_notes": () if problem else tuple(self._notes(name, rows)),
            "values": _frequent(found, whole=problem is None),
        }

    def _notes(self, name: str, rows: int) -> Iterator[str]:
        """Yield what a person should know of the classes, in the words of the intake."""
        from dnnflow.table.columns.targets import Targets
        from dnnflow.table.store.column_blocks import Parsed
        from dnnflow.table.store.table_targets import label_notes

        facts = replace(self._facts, texts=frozenset(self._texts))
        is_amount = _are_amounts(self._texts, facts)
        task = Task.REGRESSION if is_amount else Task.CLASSIFICATION
        targets = Targets.of(task, {name: facts.texts})
        yield from label_notes(targets, Parsed([], rows, [], {name: facts}, []), rows - facts.values)


def add_texts(total: dict[str, int], column: Any) -> None:
    """Add the rows of each text of a column, given as codes and distinct values."""
    texts: list[str] = column.dictionary.to_pylist()
    counts = np.bincount(codes(column), minlength=len(texts) + 1)[:-1].tolist()
    for text, count in zip(texts, counts, strict=True):
        if count:
            total[text] = total.get(text, 0) + count


def label_problem(name: str, counts: Mapping[str, int], facts: ColumnFacts) -> str | None:
    """Return why a column with these values cannot be the label, in the words of the intake; None if it can.

    Parameters
    ----------
    name
        Of the column.
    counts
        Rows of each value; of `MOST_CLASSES` + 1 values at most, where there are more.
    facts
        Of the column.
    """
    try:
        check_label(name, facts)
        if _are_amounts(counts, facts):
            return None  # amounts, or classes if the task says so
        if facts.numbers < facts.values and not are_times(facts):  # classes, if the task says so
            infer_task({name: facts})  # dressed numbers that may be amounts
        classes = Classes.of(counts)
        classes.check(name)
        rows = [0] * len(classes.names)
        for code, count in zip(classes.codes(counts), counts.values(), strict=True):
            rows[code] += count
        classes.check_counts(rows, name)
    except DataError as error:
        return str(error)
    return None


def _are_amounts(counts: Mapping[str, int], facts: ColumnFacts) -> bool:
    """Say whether a label with these values is one of amounts, or may be: that is asked then."""
    if facts.numbers < facts.values or facts.first_infinite is not None:
        return False
    values = set(map(to_number, counts))
    if len(values) <= CONTINUOUS_CLASSES:
        return False
    is_whole = all(value is not None and value.is_integer() for value in values)
    return not is_whole or len(values) > MOST_CLASSES or len(values) * ROWS_A_CLASS > facts.values


def _frequent(counts: Mapping[str, int], *, whole: bool) -> tuple[tuple[str, int], ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ordered if whole else ordered[:_FREQUENT])
