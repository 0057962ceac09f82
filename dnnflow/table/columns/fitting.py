"""Statistics and a recipe → a fitted preprocessing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import Column, Kind
from dnnflow.table.columns.preprocess import FittedColumn, NumberColumn, Preprocessing, TextColumn
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.statistics import BlockStatistics, Frequencies, Layout, Moments

_LARGEST = float(np.finfo(np.float32).max)


def modes(frequencies: Sequence[Frequencies]) -> NDArray[np.float64]:
    """Return the most frequent value of each column, the smallest of several; NaN if there are too many."""
    return np.array(
        [np.nan if f is None else f[0][np.argmax(f[1])] if len(f[0]) else 0.0 for f in frequencies],
        dtype=np.float64,
    )


def check_modes(fill: NDArray[np.float64], columns: Sequence[Column]) -> None:
    """Refuse a column with missing values and too many different ones to know the most frequent.

    Raises
    ------
    DataError
    """
    numbers = [column for column in columns if column.kind is Kind.NUMBER]
    for column, value in zip(numbers, fill, strict=True):
        if column.missing and np.isnan(value):
            raise DataError(
                f"most_frequent needs at most 100,000 different values, got more in column {column.name!r}; "
                "choose zero, mean or median for `missing`"
            )


def fit(
    recipe: Recipe,
    columns: Sequence[Column],
    layout: Layout,
    statistics: BlockStatistics,
    fill: NDArray[np.float64],
) -> Preprocessing:
    """Make the preprocessing of a table.

    Parameters
    ----------
    recipe : Recipe
        What is wanted.
    columns : sequence of Column
        The feature columns in order.
    layout : Layout
        Which of them are numbers and texts.
    statistics : BlockStatistics
        Of all training rows.
    fill : ndarray, shape (number columns,)
        What takes the place of missing numbers, NaN for nothing.

    Raises
    ------
    DataError
        If a column's range does not fit the arithmetic.
    """
    missing = statistics.train_rows - statistics.moments.count
    filled = statistics.moments.with_fill(np.nan_to_num(fill), missing)
    fitted: dict[str, FittedColumn] = {}
    for i, name in enumerate(layout.numbers):
        value = None if np.isnan(fill[i]) else float(fill[i])
        fitted[name] = _number(name, recipe, filled, i, value, indicator=recipe.indicator and missing[i] > 0)
    for name, counts in zip(layout.texts, statistics.categories, strict=True):
        fitted[name] = _text(name, recipe, counts, name in layout.booleans, statistics.train_rows)
    used = tuple(fitted[column.name] for column in columns if column.name in fitted)
    return Preprocessing(used, recipe.label, layout.classes, recipe.missing_values, recipe.clip)


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
        deviation = float(np.sqrt(moments.squares[i] / moments.count[i])) if high > low else 0.0
        offset, spread = float(moments.mean[i]), deviation
    if not np.isfinite(spread) or (recipe.scale == "none" and max(abs(low), abs(high)) > _LARGEST):
        raise DataError(
            f"numbers must fit the arithmetic, but column {name!r} reaches from {low:g} to {high:g}; "
            "scale it before, or drop the column"
        )
    return NumberColumn(name, fill, offset, spread, low, high, bool(indicator))


def _text(name: str, recipe: Recipe, counts: dict[str, int], boolean: bool, rows: int) -> TextColumn:
    categories = tuple(sorted(counts))
    frequent = (
        min(counts, key=lambda c: (-counts[c], c)) if counts and recipe.missing == "most_frequent" else None
    )
    indicator = recipe.indicator and sum(counts.values()) < rows
    return TextColumn(name, boolean, categories, frequent, indicator)
