"""Turn the labels of a table into what a network is trained on, and what it says back into labels."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import numbers_in
from dnnflow.table.columns.kinds import Classes, Task, is_boolean, number_name, to_number

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Targets:
    """What a model predicts. Plain data: part of a dataset's manifest and of a saved model."""

    task: Task
    names: tuple[str, ...]
    """The label columns: one of classification, else one for each output of the network."""
    classes: tuple[Classes, ...] = ()
    """Of classification the label's; of multilabel the two of each label, which are encoded as 0 and 1."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Of regression: mean and standard deviation of each target over the training rows, in its own units."""

    @classmethod
    def of(cls, task: Task, texts: Mapping[str, Iterable[str]], exact: Collection[str] = ()) -> "Targets":
        """Make the targets of label columns, given the distinct texts of each, before they are fitted.

        `exact` names the labels whose classes are texts as they stand.
        """
        if task is Task.REGRESSION:
            return cls(task, tuple(texts))
        find = Classes.of if task is Task.CLASSIFICATION else two_values
        return cls(task, tuple(texts), tuple(find(t, exact=name in exact) for name, t in texts.items()))

    @property
    def n_outputs(self) -> int:
        """Width of a network's output: classes, or labels."""
        return len(self.classes[0].names) if self.task is Task.CLASSIFICATION else len(self.names)

    @property
    def n_strata(self) -> int:
        """Into how many strata rows are divided, each split alike: classes, else one."""
        return len(self.classes[0].names) if self.task is Task.CLASSIFICATION else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row's encoded label: () for the code of a class, else (outputs,)."""
        return () if self.task is Task.CLASSIFICATION else (len(self.names),)

    @property
    def dtype(self) -> str:
        """Of encoded labels."""
        return "int32" if self.task is Task.CLASSIFICATION else "float32"

    def values(self, label: int, column: Any) -> NDArray[np.float64]:
        """Return what each text of a label's column stands for: a number, or a class's code; else NaN.

        `column` is a pyarrow array of texts.
        """
        if self.task is Task.REGRESSION:
            return numbers_in(column)
        texts = column.to_pylist()
        codes = np.array(self.classes[label].codes(texts), dtype=np.float64)
        codes[codes < 0] = np.nan
        return codes

    def encode(self, values: NDArray[np.float64]) -> NDArray[Any]:
        """Return values, shape (rows, labels), as a network's targets.

        Codes of classes become (rows,) int32; everything else (rows, outputs) float32: numbers minus `mean`
        over `std`, codes of two values as they are.
        """
        if self.task is Task.CLASSIFICATION:
            return values[:, 0].astype(np.int32)
        if self.task is Task.REGRESSION:
            with np.errstate(over="ignore"):  # what is too large for float32 is moved to its ends
                values = (values - self.mean) / self.std
            values = np.clip(values, -_LARGEST, _LARGEST)
        return values.astype(np.float32)

    def decode(self, encoded: NDArray[Any]) -> NDArray[Any]:
        """Return what encoded labels, or a network's predictions of them, stand for in the table.

        Codes of classes, shape (rows,), become their names; of (rows, outputs), numbers become float64 in the
        table's units, and a probability the text of the likelier value, the first of two at 0.5.
        """
        if self.task is Task.REGRESSION:
            numbers: NDArray[np.float64] = np.asarray(encoded, dtype=np.float64) * self.std + self.mean
            return numbers
        if self.task is Task.CLASSIFICATION:
            names: NDArray[np.object_] = np.array(self.classes[0].names, dtype=object)
            return names[np.asarray(encoded, dtype=np.int64)]
        second = np.asarray(encoded) > 0.5
        pairs = np.array([classes.names for classes in self.classes], dtype=object)  # (labels, 2)
        return np.where(second, pairs[:, 1], pairs[:, 0])

    def fit(self, mean: NDArray[np.float64], std: NDArray[np.float64], low: NDArray[np.float64],
            high: NDArray[np.float64]) -> "Targets":  # fmt: skip
        """Return the targets with mean and standard deviation, (labels,) each, of the training rows.

        `low` and `high` are their range.

        Raises
        ------
        DataError
            If a target has the same value in all training rows, or its range does not fit the arithmetic.
        """
        if self.task is not Task.REGRESSION:
            return self
        for name, least, most, spread in zip(
            self.names, low.tolist(), high.tolist(), std.tolist(), strict=True
        ):
            if least == most:
                raise DataError(
                    "a target must have different values in the training rows, got only "
                    f"{number_name(least)} in column {name!r}; choose another label, or other test rows"
                )
            if not 0 < spread < np.inf:
                raise DataError(
                    f"numbers must fit the arithmetic, but column {name!r} reaches from {least:g} to "
                    f"{most:g}; scale it before, or choose another label"
                )
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def check_counts(self, counts: Sequence[int]) -> None:
        """Refuse too few rows to train and to test, given the rows of each class, or all rows as one.

        Raises
        ------
        DataError
        """
        if self.task is Task.CLASSIFICATION:
            self.classes[0].check_counts(counts, self.names[0])
        elif sum(counts) < 2:
            what = "a value in each of its labels" if len(self.names) > 1 else "a label"
            raise DataError(
                f"a table needs at least 2 rows with {what} (one to train, one to test), got {sum(counts)}; "
                "add rows, or choose another label"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "task": str(self.task),
            "names": list(self.names),
            "classes": [classes.to_dict() for classes in self.classes],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Targets":
        """Make it of what `to_dict` returned."""
        return cls(
            Task(values["task"]),
            tuple(values["names"]),
            tuple(map(Classes.from_dict, values["classes"])),
            tuple(values["mean"]),
            tuple(values["std"]),
        )


def two_values(texts: Iterable[str], *, exact: bool = False) -> Classes:
    """Find the values of a label that is to have two: true and True are one, as 1 and 1.0 are."""
    return Classes.of(texts if exact else map(_one_spelling, texts), exact=exact)


def _one_spelling(text: str) -> str:
    return text.lower() if is_boolean(text) else text


def earlier_names(task: Task, texts: Iterable[str]) -> tuple[str, ...]:
    """Return the names that classes had by the rules before: those of numbers were their values'."""
    distinct = set(map(_one_spelling, texts) if task is Task.MULTILABEL else texts)
    numbers = [to_number(text) for text in distinct]
    finite = {number for number in numbers if number is not None and math.isfinite(number)}
    if len(numbers) > sum(number is not None and math.isfinite(number) for number in numbers):
        return tuple(sorted(distinct))
    return tuple(number_name(value) for value in sorted(finite))
