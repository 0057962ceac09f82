"""Choose the test rows, the rows to watch, and the order in which rows are trained on.

All of it comes from Philox, a counter-based generator (Salmon et al., 2011): a number is a function of a
key and a position, so no answer depends on how the rows were cut into blocks or who computed them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError

EXACT_SPLIT_ROWS = 1_000_000
"""Up to so many labelled rows the split is exact and stratified."""

_WORDS = 4  # Philox4x64 makes four 64-bit words for each value of its counter
_SPLIT, _EPOCH, _VALIDATION = range(3)  # keeps the uses of one seed apart


def _philox(seed: int, use: int, counter: int = 0, epoch: int = 0) -> np.random.Philox:
    # The counter has 256 bits: the low 128 count, the high ones hold what must not overlap.
    high = (use << 192) | (epoch << 128)
    return np.random.Philox(key=seed, counter=high | counter)


def row_keys(seed: int, first_row: int, rows: int, *, use: int = _SPLIT) -> NDArray[np.uint64]:
    """Return the keys (rows,), uint64, of consecutive rows; `first_row` is a number in the whole table."""
    skip = first_row % _WORDS
    generator = _philox(seed, use, first_row // _WORDS)
    return np.asarray(generator.random_raw(skip + rows)[skip:], dtype=np.uint64)


@dataclass(frozen=True)
class SplitRule:
    """For each class, the last (key, row) that is a test row."""

    seed: int
    last_key: NDArray[np.uint64]
    """Shape (classes,)."""
    last_row: NDArray[np.int64]
    """Shape (classes,): settles which of two rows with the same key comes first."""

    def is_test(self, first_row: int, classes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Say which of consecutive rows are test rows; a row without a label (class -1) never is."""
        keys = row_keys(self.seed, first_row, len(classes))
        rows = np.arange(first_row, first_row + len(classes))
        key, row = self.last_key[classes], self.last_row[classes]
        before: NDArray[np.bool_] = (keys < key) | ((keys == key) & (rows <= row))
        return before & (classes >= 0)


def exact_rule(seed: int, fraction: float, classes: NDArray[np.integer]) -> SplitRule:
    """Make the rule by which the round(fraction x n) rows of each class with the smallest keys are test.

    `classes` (rows,) are those of the whole table, -1 where the label is missing; each needs two rows.
    """
    keys = row_keys(seed, 0, len(classes))
    order = np.lexsort((np.arange(len(keys)), keys, classes))
    bounds = np.searchsorted(classes[order], np.arange(int(classes.max()) + 2))
    sizes = np.diff(bounds)
    tests = np.clip([round(fraction * int(n)) for n in sizes], 1, sizes - 1)
    last = order[bounds[:-1] + tests - 1]
    return SplitRule(seed, keys[last], last.astype(np.int64))


def threshold_rule(seed: int, fraction: float, n_classes: int) -> SplitRule:
    """Make the rule by which rows with key < fraction (of 2^64) are test."""
    last = np.full(n_classes, int(fraction * 2.0**64), dtype=np.uint64)
    return SplitRule(seed, last, np.full(n_classes, -1, dtype=np.int64))


def epoch_order(n_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the rows, int64: the same permutation for all engines."""
    return np.random.Generator(_philox(seed, _EPOCH, epoch=epoch)).permutation(n_rows)


def validation_rows(n_rows: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers, int64 and ascending, of a part to train on and of a part to watch.

    The second has round(fraction x n_rows) rows; both have at least one.

    Raises
    ------
    InputError
        If there are fewer than two rows, or the fraction is not in (0, 1).
    """
    if not 0.0 < fraction < 1.0:
        raise InputError(f"validation_fraction must be in (0, 1) to divide rows, got {fraction}")
    if n_rows < 2:
        raise InputError(f"a validation part needs at least 2 training rows, got {n_rows}; leave it out")
    held = min(max(round(fraction * n_rows), 1), n_rows - 1)
    order = np.argsort(row_keys(seed, 0, n_rows, use=_VALIDATION), kind="stable").astype(np.int64)
    return np.sort(order[held:]), np.sort(order[:held])


def class_counts(classes: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Count the rows of each class; class -1 is not counted."""
    return np.bincount(classes[classes >= 0], minlength=n_classes).astype(np.int64)
