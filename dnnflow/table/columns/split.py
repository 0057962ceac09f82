"""Choose the test rows, the rows held out for validation, and the order in which rows are trained on.

All of it comes from Philox, a counter-based generator (Salmon et al., 2011): a number is a function of a
key and a position, so no answer depends on how the rows were cut into blocks or who computed them.
"""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError, InputError
from dnnflow.parameters import require

EXACT_SPLIT_ROWS = 1_000_000
"""Up to so many labelled rows the split is exact and stratified."""

_WORDS = 4  # Philox4x64 makes four 64-bit words for each value of its counter
_SPLIT, _EPOCH, _VALIDATION = range(3)  # keeps the uses of one seed apart


def _philox(seed: int, use: int, counter: int = 0, epoch: int = 0) -> np.random.Philox:
    # The counter has 256 bits: the low 128 count, the high ones hold what must not overlap.
    high = (use << 192) | (epoch << 128)
    return np.random.Philox(key=seed, counter=high | counter)


def row_keys(
    seed: int, first_row: int, rows: int, *, use: int = _SPLIT, repeat: int = 0
) -> NDArray[np.uint64]:
    """Return the keys (rows,), uint64, of consecutive rows; `first_row` is a number in the whole table."""
    skip = first_row % _WORDS
    generator = _philox(seed, use, first_row // _WORDS, epoch=repeat)
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


@dataclass(frozen=True)
class Part:
    """Which training rows are held out for validation: a share of them, or one of several folds.

    Raises
    ------
    InputError
        If a field breaks its rule.
    """

    holdout: float = 0.2
    """Share of the rows to hold out, in [0, 1); 0 for none; without meaning where there are folds."""
    folds: int | None = None
    """Number of parts of which each is held out in turn, >= 2."""
    fold: int = 0
    """Which of the folds is held out, from 0."""
    repeat: int = 0
    """Number of the drawing: each has holdout and folds of its own, except by time, which draws nothing."""

    def __post_init__(self) -> None:
        require(0.0 <= self.holdout < 1.0, "holdout must be in [0, 1)", self.holdout)
        require(self.folds is None or self.folds >= 2, "folds must be >= 2, or left out", self.folds)
        most = (self.folds or 1) - 1
        require(0 <= self.fold <= most, f"fold must be a number of a fold, 0 to {most}", self.fold)
        require(0 <= self.repeat < 2**63, "repeat must be in [0, 2^63)", self.repeat)

    @property
    def holds_rows(self) -> bool:
        """Whether any row is held out."""
        return self.folds is not None or self.holdout > 0


@dataclass(frozen=True)
class Marks:
    """What is known of rows besides their labels; at most one of groups, times and validation."""

    groups: NDArray[np.int64] | None = None
    """Shape (rows,): number of each row's group, from 0."""
    times: NDArray[np.int64] | NDArray[np.float64] | None = None
    """Shape (rows,)."""
    validation: NDArray[np.bool_] | None = None
    """Shape (rows,): whether the table says that a row is for validation."""
    weights: NDArray[np.float32] | None = None
    """Shape (rows,): by how much the loss of a row counts."""


RowNumbers = NDArray[np.int64]
"""Numbers of rows, ascending."""


def divide(
    part: Part, seed: int, classes: NDArray[np.integer], marks: Marks | None = None
) -> tuple[RowNumbers, RowNumbers]:
    """Return the numbers of the rows to fit and of those held out, of rows with these classes (rows,).

    Together they are all rows, but for folds by time: fold f is fitted on what comes before its window, and
    rows behind it are in neither. Rows that the table marks for validation are the holdout, whatever its
    share (0 apart); to folds they are rows like the others. Only without marks are classes held out alike.

    Raises
    ------
    InputError
        If there are fewer than two rows, or fewer rows, groups or instants than the part needs.
    """
    n_rows, marks = len(classes), marks or Marks()
    if not part.holds_rows:
        return np.arange(n_rows), np.empty(0, dtype=np.int64)
    if n_rows < (least := part.folds or 2):
        what = "a validation part needs" if part.folds is None else f"{part.folds} folds need"
        raise InputError(f"{what} at least {least} training rows, got {n_rows}; ask for fewer, or add rows")
    if marks.times is not None and part.folds is not None:
        return _window(part.folds, part.fold, marks.times)
    if marks.validation is not None and part.folds is None:
        held = marks.validation
    elif marks.times is not None:
        held = latest(marks.times, part.holdout)
    elif marks.groups is not None:
        held = _held_groups(part, seed, classes, marks.groups)
    else:
        held = _held_by_class(part, seed, classes)
    return np.flatnonzero(~held), np.flatnonzero(held)


def _held_by_class(part: Part, seed: int, classes: NDArray[np.integer]) -> NDArray[np.bool_]:
    keys = row_keys(seed, 0, len(classes), use=_VALIDATION, repeat=part.repeat)
    order = np.lexsort((keys, classes))
    place = np.arange(len(classes))
    if part.folds is not None:  # dealt in turn, on from class to class
        chosen = place % part.folds == part.fold
    else:
        sizes = np.bincount(classes)
        wanted = np.clip(np.rint(part.holdout * sizes), 0, np.maximum(sizes - 1, 0)).astype(np.int64)
        if not wanted.any():
            wanted[sizes.argmax()] = 1
        chosen = place - np.repeat(np.cumsum(sizes) - sizes, sizes) < np.repeat(wanted, sizes)
    held = np.empty(len(classes), dtype=np.bool_)
    held[order] = chosen
    return held


def _held_groups(
    part: Part, seed: int, classes: NDArray[np.integer], groups: NDArray[np.int64]
) -> NDArray[np.bool_]:
    keys = row_keys(seed, 0, int(groups.max()) + 1, use=_VALIDATION, repeat=part.repeat)
    if part.folds is None:
        return grouped(keys[groups], classes, part.holdout)
    names, mine, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < part.folds:
        raise InputError(
            f"{part.folds} folds need at least {part.folds} groups of training rows, got {len(names)}; "
            "ask for fewer folds"
        )
    order = np.argsort(keys[names], kind="stable")
    fold_of = np.empty(len(names), dtype=np.int64)
    filled = [(0, fold) for fold in range(part.folds)]
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        rows, fold = filled[0]  # the fold with the fewest rows so far
        fold_of[group] = fold
        heapq.heapreplace(filled, (rows + size, fold))
    held: NDArray[np.bool_] = fold_of[mine] == part.fold
    return held


def grouped(keys: NDArray[np.uint64], classes: NDArray[np.integer], share: float) -> NDArray[np.bool_]:
    """Say which rows to hold out, whole groups: as near to the share of rows as their order allows.

    Groups are taken in the order of their keys (rows,), which are the same for rows of one group, while they
    fit; those that are larger than the share stand last, by size. The last group with rows of a class is
    never taken, so that every class keeps rows.

    Raises
    ------
    DataError
        If there is one group, or each one has all rows of a class.
    """
    names, mine, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(
            f"a split by groups needs at least 2 groups, got {len(names)}; choose another column for groups"
        )
    wanted = share * len(keys)
    order = np.argsort(np.where(sizes > wanted, sizes, 0), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    last = np.full(int(classes.max()) + 1, -1)
    np.maximum.at(last, classes, place[mine])
    free = np.ones(len(names), dtype=np.bool_)
    free[order[last[last >= 0]]] = False
    if not free.any():
        free = _spare(mine, classes, sizes)
    chosen = _nearest_sum(sizes, free, wanted)
    held: NDArray[np.bool_] = chosen[mine]
    return held


def _spare(
    mine: NDArray[np.int64], classes: NDArray[np.integer], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Find the smallest group, given each row's and their sizes, that has no class for itself."""
    pairs = np.unique(np.stack([classes, mine]), axis=1)
    groups_of = np.bincount(pairs[0])
    spare = np.ones(len(sizes), dtype=np.bool_)
    spare[pairs[1][groups_of[pairs[0]] == 1]] = False
    if not spare.any():
        raise DataError(
            f"each class must keep rows to train on, but each of the {len(sizes)} groups has all rows of "
            "one; choose another column for groups, or add rows"
        )
    smallest = np.flatnonzero(spare)[sizes[spare].argmin()]
    found: NDArray[np.bool_] = np.arange(len(sizes)) == smallest
    return found


def _nearest_sum(sizes: NDArray[np.int64], free: NDArray[np.bool_], wanted: float) -> NDArray[np.bool_]:
    """Choose from free groups in their order those that fit; then one more if that comes nearer."""
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    fitting, space = [], wanted
    for group, size in zip(np.flatnonzero(free).tolist(), sizes[free].tolist(), strict=True):
        if size <= space:
            fitting.append(group)
            space -= size
    chosen[fitting] = True
    left = np.flatnonzero(free & ~chosen)
    if len(left):
        smallest = left[sizes[left].argmin()]
        if not chosen.any() or sizes[smallest] - space < space:
            chosen[smallest] = True
    return chosen


def latest(times: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Say which rows are the latest, as near to the share as may be; rows of one instant stay together.

    Raises
    ------
    DataError
        If there is one instant only.
    """
    instants = np.sort(times)
    (start,) = _window_starts(instants, [(1 - share) * len(times)])
    held: NDArray[np.bool_] = times >= instants[start]
    return held


def _window(folds: int, fold: int, times: NDArray[Any]) -> tuple[RowNumbers, RowNumbers]:
    """Return the rows before a window, and those in it; the first of folds + 1 windows is never held out."""
    instants = np.sort(times)
    starts = _window_starts(instants, [i * len(times) / (folds + 1) for i in range(1, folds + 1)])
    begin = instants[starts[fold]]
    inside = times >= begin
    if fold + 1 < folds:
        inside &= times < instants[starts[fold + 1]]
    return np.flatnonzero(times < begin), np.flatnonzero(inside)


def _window_starts(instants: NDArray[Any], wanted: list[float]) -> list[int]:
    """Return the places nearest to those wanted, ascending, where ordered instants change."""
    changes = np.flatnonzero(instants[1:] != instants[:-1]) + 1
    if len(changes) < len(wanted):
        raise DataError(
            f"a division by time into {len(wanted) + 1} parts needs at least {len(wanted) + 1} instants, "
            f"got {len(changes) + 1}; choose another column for time, or fewer folds"
        )
    found: list[int] = []
    for number, place in enumerate(wanted):
        low, high = (found[-1] + 1 if found else 0), len(changes) - len(wanted) + number
        right = int(np.clip(np.searchsorted(changes, place), low, high))
        left = max(right - 1, low)
        found.append(left if place - changes[left] < changes[right] - place else right)
    return [int(changes[i]) for i in found]


def class_counts(classes: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Count the rows of each class; class -1 is not counted."""
    return np.bincount(classes[classes >= 0], minlength=n_classes).astype(np.int64)
