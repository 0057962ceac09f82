"""Tell which columns carry nothing or too much: constants, names of rows, free text, the label again."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    ColumnKind,
    FeatureColumn,
    Task,
    look_alike,
    quoted,
)
from dnnflow.table.columns.preprocess import NumberColumn, Preprocessing, TextColumn
from dnnflow.table.columns.statistics import BlockStatistics, Layout, Moments

LEAST_LEAK_ROWS = 100
"""Rows from which on a column that predicts the label alone does so by more than chance."""
_OWN_VALUE, _FREE_WORDS, _FREE_VALUES = 0.9, 4.0, 0.5
_BINS = 64
_LEAST_NAMES = 2
_ID = re.compile(r"(?:^|[_\s.-])(?i:id|ids|uid|uuid|guid)$|[a-z](?:Id|ID)$|^(?i:id)[_\s.-]")
_LEFT_ERRORS, _LEAST_ERRORS = 0.02, 10
"""Share of the errors of always the largest class that a leak leaves, and errors that there must be."""
_KEPT, _LONGEST_ID = 2.0**53, 1e21
"""Whole numbers that a float tells from the next end, and those that may be ids."""


def worthless(
    columns: Sequence[FeatureColumn], layout: Layout, statistics: BlockStatistics
) -> dict[str, str]:
    """Return the columns of which no network learns, and why, by the training rows."""
    found = {column.name: "it has no value" for column in columns if column.kind is ColumnKind.EMPTY}
    moments, rows = statistics.moments, statistics.train_rows
    for i, name in enumerate(layout.numbers):
        if moments.count[i] == rows and moments.low[i] == moments.high[i]:
            found[name] = "all of its values are the same"
    for name, counts in zip(layout.texts, statistics.categories, strict=True):
        if counts and (reason := text_worth(counts, sum(counts.values()), rows)):
            found[name] = reason
    return {column.name: found[column.name] for column in columns if column.name in found}


def text_worth(texts: Collection[str], values: int, rows: int) -> str:
    """Say why no network learns from a column of these different texts; nothing where one may.

    It has so many values, in so many rows.
    """
    if len(texts) == 1 and values == rows:
        return f"all of its values are {quoted(next(iter(texts)))}"
    if len(texts) <= MAX_CATEGORIES:
        return ""
    words = sum(text.count(" ") + 1 for text in texts) / len(texts)
    if words >= _FREE_WORDS and len(texts) >= _FREE_VALUES * values:
        return f"it is free text, {len(texts):,} different in {values:,} rows"
    if len(texts) >= _OWN_VALUE * values:
        return f"it names rows, {len(texts):,} different values in {values:,} rows"
    return ""


def row_ids(
    preprocessing: Preprocessing, features: NDArray[np.float32], moments: Moments, numbers: Sequence[str]
) -> dict[str, str]:
    """Return the columns of numbers that are called ids and differ in each row, and why they carry nothing.

    `features` (rows, n_features) are some training rows; `moments` are of the columns `numbers`.
    """
    found, at = dict[str, str](), 0
    for column in preprocessing.columns:
        if isinstance(column, NumberColumn) and _ID.search(column.name) and len(features) > MAX_CATEGORIES:
            place = numbers.index(column.name)
            is_whole = all(float(of[place]).is_integer() for of in (moments.low, moments.high))
            if is_whole and len(np.unique(features[:, at])) == len(features):
                found[column.name] = "it is called an id, and each row has another number"
        at += len(column.feature_names)
    return found


def names_among_values(preprocessing: Preprocessing) -> list[str]:
    """Return the columns of text, the label among them, one of whose values is their name, if most are so.

    A first line that was no header is the likely reason, where there are several.
    """
    targets, columns = preprocessing.targets, preprocessing.columns
    texts = {one.name: {*one.categories, *one.rare} for one in columns if isinstance(one, TextColumn)}
    texts |= {name: {*one.names} for name, one in zip(targets.names, targets.classes, strict=False)}
    found = [name for name, values in texts.items() if name in values]
    return found if len(found) >= max(_LEAST_NAMES, len(texts) / 2) else []


def category_notes(preprocessing: Preprocessing, useless: Collection[str]) -> Iterator[str]:
    """Yield what to know of text columns of many values, or of values alike, but for useless ones."""
    for column in preprocessing.columns:
        if not isinstance(column, TextColumn) or column.name in useless:
            continue
        alike, differ = look_alike(column.categories)
        if alike:
            yield (
                f"column {column.name!r}: {differ}, and are categories of their own; write them in one way "
                "if they are one"
            )
        if column.other:
            few = len(column.categories)
            yield (
                f"column {column.name!r} has {few + column.n_rare:,} different values: {few} frequent ones "
                f"have a column each, {column.n_rare:,} share one; categories says otherwise"
            )
        elif column.buckets:
            yield (
                f"column {column.name!r} has {different(column)} different values, which are hashed to "
                f"{column.buckets} columns: several share one, and new rows are not told of unknown ones"
            )


def long_numbers(preprocessing: Preprocessing) -> Iterator[str]:
    """Yield the columns of whole numbers with more digits than a float of 64 bits keeps, as ids have."""
    for column in preprocessing.columns:
        if isinstance(column, NumberColumn) and column.style is None:
            most = max(abs(column.low), abs(column.high))
            if _KEPT <= most < _LONGEST_ID:
                yield (
                    f"column {column.name!r} has whole numbers up to {most:.0f}, of which 16 digits are "
                    "kept, so that some are alike; if they are ids, list it in text_columns or drop it"
                )


def different(column: TextColumn) -> str:
    """Return how many values a text column has among the training rows, in words."""
    return f"{len(column.categories) + column.n_rare:,}" if column.n_rare >= 0 else "over 100,000"


def leaks(
    preprocessing: Preprocessing, features: NDArray[np.float32], labels: NDArray[Any]
) -> dict[str, str]:
    """Return the columns that predict a label alone, and which one.

    Parameters
    ----------
    features
        Some training rows, shape (rows, n_features), of which every other one says what the rest have.
    labels
        Theirs, as a dataset keeps them.
    """
    targets, found, at = preprocessing.targets, dict[str, str](), 0
    known = labels.reshape(len(labels), -1)
    for column in preprocessing.columns:
        width = len(column.feature_names)
        block = features[:, at : at + width]
        at += width
        if len(features) < LEAST_LEAK_ROWS or not width:
            continue
        values = block[:, 0] if not isinstance(column, TextColumn) else _hot(block)
        for name, label in zip(targets.names, known.T, strict=True):
            tell = _tells_amount if targets.task is Task.REGRESSION else _tells_class
            if tell(values, label.astype(np.float64)):
                found[column.name] = name
    return found


def _hot(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the place of the column that is set, -1 of none."""
    return np.where(block.max(axis=1) > 0, block.argmax(axis=1), -1).astype(np.float32)


def _bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bin of each value: its own where they are few, else bins of equal size."""
    edges = np.unique(values[::2])
    if len(edges) > _BINS:
        edges = np.unique(np.quantile(values[::2], np.linspace(0, 1, _BINS + 1)))
    return np.searchsorted(edges, values, side="right")


def _tells_class(values: NDArray[np.float32], label: NDArray[np.float64]) -> bool:
    names, classes = np.unique(label, return_inverse=True)
    bins = _bins(values)
    counts = np.zeros((int(bins.max()) + 1, len(names)), dtype=np.int64)
    np.add.at(counts, (bins[::2], classes[::2]), 1)
    largest = int(counts.sum(axis=0).argmax())
    said = np.where(counts.any(axis=1), counts.argmax(axis=1), largest)
    rest = classes[1::2]
    errors = int((said[bins[1::2]] != rest).sum())
    missed = int((rest != largest).sum())
    return missed >= _LEAST_ERRORS and errors <= _LEFT_ERRORS * missed


def _tells_amount(values: NDArray[np.float32], label: NDArray[np.float64]) -> bool:
    bins = _bins(values)
    known = np.bincount(bins[::2], minlength=int(bins.max()) + 1)
    sums = np.bincount(bins[::2], label[::2], len(known))
    places = np.bincount(bins[::2], values[::2], len(known))
    is_there = known > 0
    said = np.interp(values[1::2], places[is_there] / known[is_there], sums[is_there] / known[is_there])
    rest = label[1::2]
    spread = float(((rest - rest.mean()) ** 2).sum())
    return spread > 0 and float(((said - rest) ** 2).sum()) <= 0.005 * spread


def worth_notes(useless: Mapping[str, str], leaking: Mapping[str, str]) -> Iterator[str]:
    """Yield what a person should know of columns that carry nothing or too much."""
    for name, label in leaking.items():
        yield (
            f"LEAK? column {name!r} alone predicts the label {label!r} nearly without error: if it is known "
            f"only once the label is, drop it: drop: [{name}] (--drop {name!r})"
        )
    for name, reason in useless.items():
        yield f"column {name!r} carries nothing: {reason}; drop it: drop: [{name}]"
