"""Gather statistics of the training rows, block by block, and fit the preprocessing of a recipe to them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import Columns, codes
from dnnflow.table.columns.dressing import NumberStyle
from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    MAX_CLASSES,
    MAX_COUNTED,
    MAX_FREQUENT,
    MAX_ONE_HOT,
    NUMERIC,
    FeatureColumn,
    Task,
    in_a_list,
)
from dnnflow.table.columns.preprocess import (
    FittedColumn,
    NumberColumn,
    Preprocessing,
    TextColumn,
    TimeColumn,
)
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.split import SplitRule, class_counts
from dnnflow.table.columns.targets import Targets
from dnnflow.table.columns.times import PARTS, TimeStyle, parts_of

MAX_FREQUENT_VALUES = 100_000
"""Distinct values of a column up to which its most frequent one is known."""
_ROUNDS = ((53, 11), (42, 11), (31, 11), (20, 11), (9, 11), (0, 9))
"""Shift and width of the bits by which the median is narrowed down, most significant first."""
_DIGITS = 1 << 11
_TOP = np.uint64(1 << 63)
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Layout:
    """What is where in the kept blocks, and which rows are whose."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    booleans: frozenset[str]
    """Texts of which upper and lower case are the same."""
    targets: Targets
    rule: SplitRule
    """Says which rows are test rows in blocks that are not marked."""
    styles: Mapping[str, NumberStyle | TimeStyle] = field(default_factory=dict)
    """How the numbers of columns are dressed."""
    times: tuple[str, ...] = ()
    """Those of the numbers that are instants."""


@dataclass(frozen=True)
class KeptBlock:
    """A parsed block, in memory or on disk."""

    path: Path
    """Its file, if it is on disk."""
    first_row: int
    """Number of its first row in the table, from 0."""
    rows: int
    held: Columns | None = None
    """Its columns, if they are in memory."""
    test: NDArray[np.bool_] | None = None
    """Shape (rows,): which rows are test rows, once that is known."""

    def read(self) -> Columns:
        """Return its columns."""
        return Columns.read(self.path) if self.held is None else self.held


@dataclass(frozen=True)
class Moments:
    """Count, range, mean and sum of squared deviations of columns; each array of shape (columns,).

    Merged by the formula of Chan, Golub and LeVeque (1979).
    """

    count: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of each column's values; 0 of none."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))

    def merge(self, other: "Moments") -> "Moments":
        """Add the rows of another block."""
        count = self.count + other.count
        with np.errstate(over="ignore", invalid="ignore"):
            share = np.divide(other.count, count, out=np.zeros(len(count)), where=count > 0)
            delta = np.where((self.count > 0) & (other.count > 0), other.mean - self.mean, 0.0)
            mean = np.where(self.count > 0, self.mean + delta * share, other.mean)
            squares = self.squares + other.squares + delta**2 * self.count * share
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Moments(count, low, high, mean, squares)

    def summary(self, column: int) -> dict[str, float | None]:
        """Return mean, standard deviation and range of a column, None where it is beyond float64."""
        named = {"mean": self.mean, "std": self.std, "min": self.low, "max": self.high}
        found = {name: float(values[column]) for name, values in named.items()}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    def with_fill(self, fill: NDArray[np.float64], missing: NDArray[np.int64]) -> "Moments":
        """Add `missing` rows that hold `fill`."""
        low, high = np.where(missing > 0, fill, np.inf), np.where(missing > 0, fill, -np.inf)
        return self.merge(Moments(missing, low, high, fill, np.zeros(len(fill))))


Counts = dict[str, int] | None
"""Training rows of each value; None if there are too many."""


@dataclass(frozen=True)
class BlockStatistics:
    """What is fitted on one block, or on all."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    """Rows of each stratum, shape (strata,)."""
    moments: Moments
    categories: tuple[Counts, ...]
    """For each text column: training rows of each value."""
    parts: Moments
    """Of the parts of instants: for each of their columns as many as there are."""
    train_labels: Moments
    test_labels: Moments
    """Of the labels, but for classification, whose rows are counted."""

    @property
    def train_rows(self) -> int:
        """Training rows in all."""
        return int(self.train.sum())

    def merge(self, other: "BlockStatistics") -> "BlockStatistics":
        """Add the statistics of another block."""
        categories = tuple(map(merge_counts, self.categories, other.categories))
        return BlockStatistics(
            self.train + other.train,
            self.test + other.test,
            self.moments.merge(other.moments),
            categories,
            self.parts.merge(other.parts),
            self.train_labels.merge(other.train_labels),
            self.test_labels.merge(other.test_labels),
        )


def labels_of(columns: Columns, targets: Targets) -> NDArray[np.float64]:
    """Return the labels of a block's rows, (rows, labels), by `Targets.values`; NaN where missing."""
    found = np.empty((columns.rows, len(targets.names)))
    for i, name in enumerate(targets.names):
        column = columns.text(name)
        values = targets.values(i, column.dictionary)
        found[:, i] = np.append(values, np.nan)[codes(column)]
    return found


def strata_of(labels: NDArray[np.float64], targets: Targets) -> NDArray[np.int16]:
    """Return what a split divides alike: the class of each row, or 0; -1 where a label is missing.

    `labels` (rows, labels) are those of `labels_of`.
    """
    strata = labels[:, 0] if targets.task is Task.CLASSIFICATION else 0.0
    return np.where(np.isnan(labels).any(axis=1), -1.0, strata).astype(np.int16)


def label_block(block: KeptBlock, targets: Targets) -> NDArray[np.int16]:
    """Return the strata of a kept block's rows."""
    return strata_of(labels_of(block.read(), targets), targets)


def fit_block(block: KeptBlock, layout: Layout) -> tuple[BlockStatistics, NDArray[np.bool_]]:
    """Return the statistics of one block, and which of its rows, shape (rows,), are test rows."""
    columns, targets = block.read(), layout.targets
    labels = labels_of(columns, targets)
    strata = strata_of(labels, targets)
    test = _test_rows(block, layout, strata)
    rows = _divided(strata, test)
    measured = () if targets.task is Task.CLASSIFICATION else labels.T
    found = BlockStatistics(
        class_counts(strata[rows["train"]], targets.n_strata),
        class_counts(strata[rows["test"]], targets.n_strata),
        moments(columns.number(name)[rows["train"]] for name in layout.numbers),
        tuple(
            _categories(columns.text(name), rows["train"], name in layout.booleans) for name in layout.texts
        ),
        moments(
            values
            for name in layout.times
            for values in parts_of(columns.number(name)[rows["train"]]).values()
        ),
        moments(label[rows["train"]] for label in measured),
        moments(label[rows["test"]] for label in measured),
    )
    return found, test


def _training_rows(block: KeptBlock, layout: Layout) -> tuple[Columns, NDArray[np.int64]]:
    columns = block.read()
    return columns, split_rows(block, layout, labels_of(columns, layout.targets))["train"]


def split_rows(block: KeptBlock, layout: Layout, labels: NDArray[np.float64]) -> dict[str, NDArray[np.int64]]:
    """Return which of a block's rows, with these labels, belong to each split."""
    strata = strata_of(labels, layout.targets)
    return _divided(strata, _test_rows(block, layout, strata))


def _test_rows(block: KeptBlock, layout: Layout, strata: NDArray[np.int16]) -> NDArray[np.bool_]:
    return layout.rule.is_test(block.first_row, strata) if block.test is None else block.test


def _divided(strata: NDArray[np.int16], test: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    return {"train": np.flatnonzero((strata >= 0) & ~test), "test": np.flatnonzero(test)}


def _present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    missing = np.isnan(values)
    return values[~missing] if missing.any() else values


def moments(columns: Iterable[NDArray[np.float64]]) -> Moments:
    """Return the moments of columns, in which NaN is missing."""
    with np.errstate(over="ignore", invalid="ignore"):  # refused later, with the column's name
        found = np.array([_moments(values) for values in columns], dtype=np.float64).reshape(-1, 5).T
    return Moments(found[0].astype(np.int64), *found[1:])


def _moments(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Return count, lowest, highest, mean and sum of squared deviations of a column.

    The sum is not a dot product: for more than 10,000 values OpenBLAS starts threads of its own, which wait
    actively and took ten times the processor time.
    """
    if len(values) and np.isnan(low := values.min()):
        values = _present(values)
        low = values.min() if len(values) else np.inf
    if not len(values):
        return 0, np.inf, -np.inf, 0.0, 0.0
    mean = values.mean()
    deviation = values - mean
    deviation *= deviation
    return len(values), low, values.max(), mean, deviation.sum()


def merge_counts(a: Counts, b: Counts) -> Counts:
    """Add the counts of two parts."""
    if a is None or b is None:
        return None
    for value, count in b.items():
        a[value] = a.get(value, 0) + count
    return a if len(a) <= MAX_COUNTED else None


def _categories(column: Any, train: NDArray[np.int64], boolean: bool) -> Counts:
    texts = column.dictionary.to_pylist()
    found = np.bincount(codes(column)[train], minlength=len(texts) + 1).tolist()
    counts: dict[str, int] = {}
    for text, count in zip(texts, found, strict=False):
        name = text.lower() if boolean else text
        if count:
            counts[name] = counts.get(name, 0) + count
    return counts if len(counts) <= MAX_COUNTED else None


Frequencies = tuple[NDArray[np.float64], NDArray[np.int64]] | None
"""Distinct values, ascending, and their counts; None if there are too many."""


def frequency_block(block: KeptBlock, layout: Layout) -> list[Frequencies]:
    """Count the distinct training values of each column of numbers."""
    columns, train = _training_rows(block, layout)
    found: list[Frequencies] = []
    for name in layout.numbers:
        values, counts = np.unique(_present(columns.number(name)[train]) + 0.0, return_counts=True)
        found.append((values, counts.astype(np.int64)))
    return found


def merge_frequencies(a: Frequencies, b: Frequencies) -> Frequencies:
    """Add the counts of two parts."""
    if a is None or b is None:
        return None
    values, where = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    if len(values) > MAX_FREQUENT_VALUES:
        return None
    counts = np.bincount(where, weights=np.concatenate([a[1], b[1]]), minlength=len(values))
    return values, counts.astype(np.int64)


def merge_all_frequencies(a: Sequence[Frequencies], b: Sequence[Frequencies]) -> list[Frequencies]:
    """Add the counts of two parts, column by column."""
    return [merge_frequencies(x, y) for x, y in zip(a, b, strict=True)]


@dataclass(frozen=True)
class MedianSearch:
    """Narrows down the two middle values of each column, a few bits a round; exact for any number of rows.

    The bits of a float64 are mapped to an integer of the same order. Counts of its leading bits are a sketch
    that merges by addition; six rounds over the kept blocks leave no error of rank.
    """

    ranks: NDArray[np.int64]
    """Rank wanted among the values with the prefix, from 0; shape (columns, 2)."""
    prefixes: NDArray[np.uint64]
    """Leading bits found so far, shape (columns, 2)."""
    round: int = 0

    @classmethod
    def start(cls, count: NDArray[np.int64]) -> "MedianSearch":
        """Begin, given the number of values in each column."""
        ranks = np.stack([np.maximum(count - 1, 0) // 2, count // 2], axis=1)
        return cls(ranks, np.zeros(ranks.shape, dtype=np.uint64))

    @property
    def finished(self) -> bool:
        """Whether all bits are known."""
        return self.round == len(_ROUNDS)

    def narrow(self, counts: NDArray[np.int64]) -> "MedianSearch":
        """Take the next bits, given how many values have each, shape (columns, 2, 2048)."""
        _, width = _ROUNDS[self.round]
        below = np.cumsum(counts, axis=2)
        digits = np.minimum((below <= self.ranks[:, :, None]).sum(axis=2), (1 << width) - 1)
        before = np.take_along_axis(below - counts, digits[:, :, None], axis=2)[:, :, 0]
        prefixes = (self.prefixes << np.uint64(width)) | digits.astype(np.uint64)
        return MedianSearch(self.ranks - before, prefixes, self.round + 1)

    def medians(self) -> NDArray[np.float64]:
        """Return the mean of both middle values, shape (columns,)."""
        bits = np.where(self.prefixes & _TOP, self.prefixes ^ _TOP, ~self.prefixes)
        middle = bits.view(np.float64)
        return middle[:, 0] + (middle[:, 1] - middle[:, 0]) / 2


def median_block(block: KeptBlock, layout: Layout, search: MedianSearch) -> NDArray[np.int64]:
    """Count a block's training values by their next bits, shape (columns, 2, 2048)."""
    columns, train = _training_rows(block, layout)
    present = (_present(columns.number(name)[train]) for name in layout.numbers)
    counts = [count_bits(values, search, i) for i, values in enumerate(present)]
    return np.array(counts, dtype=np.int64).reshape(len(counts), 2, _DIGITS)


def count_bits(values: NDArray[np.float64], search: MedianSearch, column: int) -> NDArray[np.int64]:
    """Count one column's values by their next bits, for both prefixes; shape (2, 2048)."""
    shift, width = _ROUNDS[search.round]
    bits = (values + 0.0).view(np.uint64)  # + 0.0 makes one zero of the two
    keys = np.where(bits & _TOP, ~bits, bits | _TOP)
    counts = np.empty((2, _DIGITS), dtype=np.int64)
    for i, prefix in enumerate(search.prefixes[column]):
        chosen = keys[keys >> np.uint64(shift + width) == prefix] if search.round else keys
        digits = (chosen >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        counts[i] = np.bincount(digits.astype(np.int64), minlength=_DIGITS)
    return counts


def modes(frequencies: Sequence[Frequencies]) -> NDArray[np.float64]:
    """Return the most frequent value of each column, the smallest of several; NaN if there are too many."""
    return np.array(
        [np.nan if f is None else f[0][np.argmax(f[1])] if len(f[0]) else 0.0 for f in frequencies],
        dtype=np.float64,
    )


def check_modes(fill: NDArray[np.float64], columns: Sequence[FeatureColumn]) -> None:
    """Refuse a column with missing values and too many different ones to know the most frequent.

    Raises
    ------
    DataError
    """
    numbers = [column for column in columns if column.kind in NUMERIC]
    for column, value in zip(numbers, fill, strict=True):
        if column.missing and np.isnan(value):
            raise DataError(
                f"most_frequent needs at most 100,000 different values, got more in column {column.name!r}; "
                "choose zero, mean or median for `missing`"
            )


def fit_preprocessing(
    recipe: Recipe,
    columns: Sequence[FeatureColumn],
    layout: Layout,
    statistics: BlockStatistics,
    fill: NDArray[np.float64],
) -> Preprocessing:
    """Make the preprocessing of a table from the statistics of all training rows.

    `fill` (number columns,) takes the place of missing numbers, NaN for nothing.

    Raises
    ------
    DataError
        If a column's range does not fit the arithmetic or it has too many values for one-hot columns, or a
        target is the same in all rows.
    """
    missing = statistics.train_rows - statistics.moments.count
    filled = statistics.moments.with_fill(np.nan_to_num(fill), missing)
    fitted: dict[str, FittedColumn] = {}
    for i, name in enumerate(layout.numbers):
        value = None if np.isnan(fill[i]) else float(fill[i])
        column = _number(name, recipe, filled, i, value, indicator=recipe.indicator and missing[i] > 0)
        column = replace(column, style=layout.styles.get(name))
        fitted[name] = column if name not in layout.times else TimeColumn(column, _varying(
            layout.times.index(name), statistics.parts))  # fmt: skip
    _check_one_hot(recipe, layout, statistics)
    for name, counts in zip(layout.texts, statistics.categories, strict=True):
        fitted[name] = _text(name, recipe, counts, name in layout.booleans, statistics.train_rows)
    used = tuple(fitted[column.name] for column in columns if column.name in fitted)
    labels = statistics.train_labels
    targets = layout.targets.fit(labels.mean, labels.std, labels.low, labels.high)
    return Preprocessing(
        used, targets, recipe.missing_values, recipe.clip, recipe.standard_missing, recipe.missing_labels,
        label_numbers=tuple(text for text in recipe.numbers if text.rpartition("=")[0] in recipe.labels),
    )  # fmt: skip


def _number(
    name: str, recipe: Recipe, moments: Moments, i: int, fill: float | None, *, indicator: bool
) -> NumberColumn:
    low, high = float(moments.low[i]), float(moments.high[i])
    if not moments.count[i]:
        low = high = 0.0
    offset, spread = 0.0, 1.0
    if recipe.scale == "minmax":
        offset, spread = low, high - low
    elif recipe.scale == "standard":
        # A constant column is told by its range: its deviation is rounding noise, not exactly 0.
        deviation = float(moments.std[i]) if high > low else 0.0
        offset, spread = float(moments.mean[i]), deviation
    if not np.isfinite(spread) or (recipe.scale == "none" and max(abs(low), abs(high)) > _LARGEST):
        raise DataError(
            f"numbers must fit the arithmetic, but column {name!r} reaches from {low:g} to {high:g}; "
            "scale it before, or drop the column"
        )
    return NumberColumn(name, fill, offset, spread, low, high, bool(indicator))


def _varying(place: int, parts: Moments) -> tuple[str, ...]:
    """Return which parts of a column of instants differ among the training rows."""
    first = place * len(PARTS)
    return tuple(part for i, part in enumerate(PARTS, first) if parts.low[i] < parts.high[i])


def _check_one_hot(recipe: Recipe, layout: Layout, statistics: BlockStatistics) -> None:
    """Refuse columns with too many values for a column each, if that is asked for."""
    if recipe.categories != "onehot":
        return
    pairs = zip(layout.texts, statistics.categories, strict=True)
    wide = [name for name, counts in pairs if counts is None or len(counts) > MAX_ONE_HOT]
    if wide:
        raise DataError(
            f"one-hot columns may have at most {MAX_ONE_HOT:,} values, got more in {in_a_list(wide)}; set "
            f"categories to auto or hash (--categories auto), or drop: [{', '.join(wide)}]"
        )


def _text(name: str, recipe: Recipe, counts: Counts, boolean: bool, rows: int) -> TextColumn:
    if counts is None or (recipe.categories == "hash" and len(counts) > MAX_CATEGORIES):
        n_values, different = (-1, -1) if counts is None else (sum(counts.values()), len(counts))
        indicator = recipe.indicator and n_values < rows
        return TextColumn(name, boolean, (), None, indicator, n_rare=different, buckets=recipe.hash_columns)
    by_count = sorted(counts, key=lambda c: (-counts[c], c))
    filled = by_count[0] if counts and recipe.missing == "most_frequent" else None
    indicator = recipe.indicator and sum(counts.values()) < rows
    if len(counts) <= MAX_CATEGORIES or recipe.categories == "onehot":
        return TextColumn(name, boolean, tuple(sorted(counts)), filled, indicator)
    frequent = {value for value in by_count[: MAX_FREQUENT - 1] if counts[value] > 1}
    rare = sorted(counts.keys() - frequent)
    known = tuple(rare) if len(rare) <= MAX_CLASSES else ()
    return TextColumn(name, boolean, tuple(sorted(frequent)), filled, indicator, True, known, len(rare))
