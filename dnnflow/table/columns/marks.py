"""Read the column that divides a table's rows: their groups, their times, or the split that it names."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import Columns, codes, numbers_in
from dnnflow.table.columns.kinds import Task, quoted, to_number
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.split import Marks, grouped, latest
from dnnflow.table.columns.statistics import KeptBlock, Layout, labels_of, split_rows, strata_of
from dnnflow.table.columns.targets import Targets

TRAIN, TEST, VALIDATION = range(3)
_SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
}
_TYPES = {"groups": np.uint64, "split": np.int64, "number": np.float64, "date": np.int64, "instant": np.int64}
_RULES = {
    "split": "a value must be train, test or validation",
    "number": "a time must be a finite number where most are numbers",
    "date": "a time must be written as ISO 8601 says, without a zone like the first, e.g. 2024-05-31T18:00",
    "instant": "a time must be written as ISO 8601 says, with a zone like the first, e.g. 2024-05-31T18:00Z",
}
_KNOWN = {
    Task.CLASSIFICATION: "a class of the training rows",
    Task.MULTILABEL: "one of its two values in the training rows",
    Task.REGRESSION: "a finite number",
}
_EPOCH = datetime(1970, 1, 1)


class Fault(NamedTuple):
    """A row that cannot be placed; it counts from 1 in its block."""

    row: int
    reason: str


class MarkedBlock(NamedTuple):
    """What a block's rows are, shape (rows,) each: their strata, and the values that divide them."""

    strata: NDArray[np.int16]
    values: NDArray[Any]
    fault: Fault | None
    """The first row with a label and without a value that can be read."""


@dataclass(frozen=True)
class MarkColumn:
    """The column that divides a table's rows."""

    field: str
    """Of the recipe: groups, time or split."""
    name: str
    seed: int
    kind: str
    """What its texts are: groups, split, or times as number, date (without a zone) or instant."""

    @classmethod
    def of(cls, recipe: Recipe, *, numbers: bool, first_text: str) -> "MarkColumn":
        """Make the one that a recipe names.

        Parameters
        ----------
        numbers
            Whether most of its values are numbers.
        first_text
            The first value that is none.
        """
        ((field, name),) = recipe.mark.items()
        kind = field
        if field == "time":
            has_zone = (time := _time(first_text)) is not None and time.tzinfo is not None
            kind = "number" if numbers else "instant" if has_zone else "date"
        return cls(field, name, recipe.split_seed, kind)

    def read(self, block: KeptBlock, targets: Targets) -> MarkedBlock:
        """Read a block's rows; groups become keys drawn from the seed and their text."""
        columns = block.read()
        mine = strata_of(labels_of(columns, targets), targets)
        column = columns.text(self.name)
        texts, row_codes = column.dictionary.to_pylist(), codes(column)
        values = [self._value(text) for text in texts]
        wrong = np.array([*(value is None for value in values), True])[row_codes] & (mine >= 0)
        known = np.array([0 if v is None else v for v in (*values, None)], dtype=_TYPES[self.kind])
        return MarkedBlock(mine, known[row_codes], self._fault(wrong, [*texts, None], row_codes))

    def _value(self, text: str) -> int | float | None:
        if self.kind == "groups":
            key = hashlib.blake2b(text.encode(), digest_size=8, key=self.seed.to_bytes(8, "little"))
            return int.from_bytes(key.digest(), "little")
        if self.kind == "split":
            return _SPLITS.get(text.lower())
        if self.kind == "number":
            number = to_number(text)
            return number if number is not None and np.isfinite(number) else None
        time = _time(text)
        if time is None or (time.tzinfo is not None) != (self.kind == "instant"):
            return None
        passed = time.replace(tzinfo=None) - _EPOCH - (time.utcoffset() or timedelta())
        # To divide by timedelta(microseconds=1) takes ten times as long.
        return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds

    def _fault(
        self, wrong: NDArray[np.bool_], texts: list[str | None], row_codes: NDArray[np.int32]
    ) -> Fault | None:
        if not wrong.any():
            return None
        row = int(wrong.argmax())
        text = texts[row_codes[row]]
        got = "none" if text is None else quoted(text)
        rule = "every row with a label needs a value" if text is None else _RULES[self.kind]
        remedy = f"correct it, remove the row, or leave {self.field} out"
        return Fault(row + 1, f"column {self.name!r} of {self.field}: {rule}, got {got}; {remedy}")

    def test(self, values: NDArray[Any], strata: NDArray[np.integer], fraction: float) -> NDArray[np.bool_]:
        """Say which of all rows with a label are test rows.

        Raises
        ------
        DataError
            If the rows cannot be divided so.
        """
        if self.field == "groups":
            return grouped(values, strata, fraction)
        if self.field == "time":
            return latest(values, fraction)
        for split, name in ((TRAIN, "train"), (TEST, "test")):
            if split not in values:
                raise DataError(
                    f"column {self.name!r} of split must have rows of train and of test, got none of {name}; "
                    "mark some, or leave split out"
                )
        test: NDArray[np.bool_] = values == TEST
        return test

    def marks(self, values: NDArray[Any]) -> Marks:
        """Return what of it a dataset keeps of its training rows."""
        if self.field == "groups":
            return Marks(groups=np.unique(values, return_inverse=True)[1].astype(np.int64))
        if self.field == "time":
            return Marks(times=values)
        held = values == VALIDATION
        return Marks(validation=held) if held.any() else Marks()


class WeighedBlock(NamedTuple):
    """By how much a block's rows count, float32."""

    weights: NDArray[np.float32]
    """Shape (training rows,)."""
    test: NDArray[np.float32]
    """Shape (test rows,); NaN where none can be read."""
    fault: Fault | None
    """The first training row without a weight that can be read."""


def weigh_block(block: KeptBlock, layout: Layout, name: str) -> WeighedBlock:
    """Read the weights of a block's rows from a column."""
    columns = block.read()
    rows = split_rows(block, layout, labels_of(columns, layout.targets))
    column = columns.text(name)
    numbers = numbers_in(column)
    found = np.where(np.isfinite(numbers) & (numbers >= 0), numbers, np.nan).astype(np.float32)
    wrong = np.isnan(found[rows["train"]])
    if not wrong.any():
        return WeighedBlock(found[rows["train"]], found[rows["test"]], None)
    row = int(rows["train"][wrong.argmax()])
    texts = column.dictionary.to_pylist()
    place = codes(column)[row]
    got = quoted(texts[place]) if place < len(texts) else "none"
    rule = f"column {name!r} of weights: a weight must be a number >= 0, got {got}"
    reason = f"{rule}; correct it, or remove the row"
    nothing = np.empty(0, np.float32)
    return WeighedBlock(nothing, nothing, Fault(row + 1, reason))


def mark_block(block: KeptBlock, column: MarkColumn, targets: Targets) -> MarkedBlock:
    """Read how a kept block's rows are divided."""
    return column.read(block, targets)


def test_block(block: KeptBlock, targets: Targets) -> MarkedBlock:
    """Read a block of test rows only, whose labels must be such as the training rows have."""
    columns = block.read()
    labels = labels_of(columns, targets)
    found = (_unknown_label(columns, name, label, targets.task)
             for name, label in zip(targets.names, labels.T, strict=True))  # fmt: skip
    fault = min((one for one in found if one is not None), key=lambda one: one.row, default=None)
    return MarkedBlock(strata_of(labels, targets), np.empty(0), fault)


def _unknown_label(columns: Columns, name: str, label: NDArray[np.float64], task: Task) -> Fault | None:
    """Return the first row whose text in a label's column stands for no value of it."""
    column = columns.text(name)
    texts, row_codes = column.dictionary.to_pylist(), codes(column)
    unknown = ~np.isfinite(label) & (row_codes < len(texts))
    if not unknown.any():
        return None
    row = int(unknown.argmax())
    text, rule = quoted(texts[row_codes[row]]), f"a label of test_source must be {_KNOWN[task]}"
    return Fault(row + 1, f"column {name!r}: {rule}, got {text}; correct it, or remove the row")


def check_training_rows(fitted: NDArray[np.integer], targets: Targets, *, field: str) -> None:
    """Refuse a class without rows to train on, or none at all, given the strata of the rows that train.

    Raises
    ------
    DataError
    """
    counts = np.bincount(fitted, minlength=targets.n_strata)
    if counts.all():
        return
    if targets.task is not Task.CLASSIFICATION:
        raise DataError(
            f"a table needs rows with labels to train on, got none as {field} divides the rows; divide them "
            "differently"
        )
    name, label = quoted(targets.classes[0].names[int(counts.argmin())]), targets.names[0]
    raise DataError(
        f"each class needs rows to train on, got none of {name} in "
        f"column {label!r}, as {field} divides the rows; divide them differently, or remove that class"
    )


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
