"""Read rows in memory, and rows of a preprocessed table, as sources for parallel training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.events import Listener, ignore
from dnnflow.table.rows.source import (
    Chunk,
    Field,
    Reader,
    Rows,
    RowSource,
    check_fields,
    natural_key,
)
from dnnflow.table.store.chunks import Split, read_chunks
from dnnflow.table.store.dataset import Dataset, open_cached


@dataclass(frozen=True, eq=False)
class GivenArray:
    """An array as somebody gave it."""

    values: NDArray[Any]
    key: str = ""
    """Of the mapping that it was in."""
    columns: tuple[str, ...] = ()
    """Of a data frame."""


Given = tuple[GivenArray, ...]


def given_arrays(values: Any, key: str = "") -> Given:
    """Return one array or frame, or a tuple, list or dict of them, flat; a dict's in order of its keys."""
    if isinstance(values, Mapping):
        names = sorted(map(str, values), key=natural_key)
        named = {str(name): value for name, value in values.items()}
        return tuple(one for name in names for one in given_arrays(named[name], _joined(key, name)))
    if isinstance(values, list | tuple):
        keys = [_joined(key, str(index)) if key and len(values) > 1 else key for index in range(len(values))]
        return tuple(
            one for name, value in zip(keys, values, strict=True) for one in given_arrays(value, name)
        )
    if hasattr(values, "to_numpy") and hasattr(values, "columns"):
        return (GivenArray(_numbers_of_frame(values), key, tuple(map(str, values.columns))),)
    if hasattr(values, "to_numpy") and hasattr(values, "to_frame"):  # a column, which Keras takes as one
        return (GivenArray(_numbers_of_frame(values.to_frame()), key),)
    return (GivenArray(np.asarray(values), key),)


def _joined(key: str, name: str) -> str:
    return f"{key}/{name}" if key else name


def _numbers_of_frame(frame: Any) -> NDArray[Any]:
    """Return a frame's values, shape (rows, columns), of the type that holds all; missing ones are NaN."""
    arrays = [np.asarray(frame[name]) for name in frame.columns]
    for index, array in enumerate(arrays):
        if array.dtype.kind not in "biuf":
            try:  # numbers that may be missing
                arrays[index] = frame[frame.columns[index]].to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"a frame's columns must be numbers, but {frame.columns[index]} is {array.dtype}; "
                    "convert it, or leave it out"
                ) from error
    return np.stack(arrays, axis=1) if arrays else np.zeros((len(frame), 0))


def given_rows(loaded: Any, where: str) -> tuple[Given, ...]:
    """Return inputs, targets and, where there are, weights, each of as many rows.

    Raises
    ------
    DataError
        If it is no pair or triple, or an array has no rows' axis or another number of rows.
    """
    if isinstance(loaded, list | tuple) and len(loaded) == 3 and loaded[2] is None:
        loaded = loaded[:2]
    if not isinstance(loaded, list | tuple) or len(loaded) not in (2, 3):
        got = f"{len(loaded)} parts" if isinstance(loaded, list | tuple) else type(loaded).__name__
        raise DataError(
            f"rows must be a pair (inputs, targets), or (inputs, targets, weights), got {got} from {where}; "
            "give both"
        )
    sides = tuple(given_arrays(side) for side in loaded)
    arrays = [one.values for side in sides for one in side]
    if any(array.ndim == 0 for array in arrays):
        raise DataError(
            f"arrays must have rows as their first axis, got a single number from {where}; add the axis, "
            "or divide the rows into batches"
        )
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise DataError(
            f"all inputs, targets and weights must have as many rows, got {lengths} from {where}; "
            "cut the longer"
        )
    fields = fields_of(sides)
    check_fields(fields[0], fields[1], where, fields[2])
    return sides


def arrays_of(sides: tuple[Given, ...]) -> Rows:
    """Return the arrays alone."""
    return tuple(tuple(one.values for one in side) for side in sides)


def fields_of(sides: tuple[Given, ...]) -> tuple[tuple[Field, ...], ...]:
    """Return what inputs, targets and weights are to a model."""
    found = [
        tuple(
            Field.of(one.key or f"{kind} {index}", one.values, one.key, one.columns)
            for index, one in enumerate(side)
        )
        for kind, side in zip(("input", "target", "weight"), sides, strict=False)
    ]
    return (*found, ()) if len(found) == 2 else tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource(RowSource):
    """Rows in memory; they travel to wherever the source goes, so keep large ones in files."""

    arrays: Rows

    @classmethod
    def open(cls, inputs: Any, targets: Any, weights: Any = None) -> "ArraySource":
        """Take one array (rows, ...) or data frame, or a tuple, list or dict of them, for each.

        Raises
        ------
        DataError
            If there are no rows, arrays differ in rows, or are not numbers.
        """
        return cls.of(given_rows((inputs, targets, weights), "arrays"))

    @classmethod
    def of(cls, given: tuple[Given, ...]) -> "ArraySource":
        """Take what `given_rows` returned."""
        rows = arrays_of(given)
        count = len(rows[0][0])
        if not count:
            raise DataError("arrays must have at least 1 row, got 0; give some")
        fields = fields_of(given)
        return cls(
            inputs=fields[0],
            targets=fields[1],
            weights=fields[2],
            counts=(count,),
            grains=(1,),
            arrays=rows,
        )

    def file_name(self, file: int) -> str:
        """Return what all arrays are called."""
        return "the arrays"

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Read views of the arrays; see `RowSource.reader`."""
        yield lambda chunk: tuple(chunk.of(side) for side in self.arrays)


@dataclass(frozen=True, kw_only=True)
class DatasetSource(RowSource):
    """Splits of a preprocessed table, a file each; make one with `DatasetSource.open`."""

    path: str
    splits: tuple[Split, ...]

    @classmethod
    def open(cls, path: str | Path, *splits: Split) -> "DatasetSource":
        """Open the dataset in a directory; inputs are its encoded columns, targets its labels.

        These are the classes' numbers, () int32, or of another task (outputs,) float32. Without any split the
        rows are the training rows. Rows count by the weights that the table has of all of them; test rows
        alone, on which is measured, all count alike.

        Raises
        ------
        DataError
            If there is no valid dataset.
        """
        dataset, splits = open_cached(Path(path).absolute()), splits or ("train",)
        weighted = "train" in splits and all(_weights(dataset, split) is not None for split in splits)
        return cls(
            inputs=(Field("X", (dataset.n_features,), "float32"),),
            targets=(Field("y", dataset.targets.shape, dataset.targets.dtype),),
            weights=(Field("weights", (), "float32"),) if weighted else (),
            counts=tuple(dataset.rows[split] for split in splits),
            grains=tuple(dataset.stored(split).size for split in splits),
            path=str(dataset.path),
            splits=splits,
        )

    def file_name(self, file: int) -> str:
        """Return which rows of which dataset these are."""
        return f"the {self.splits[file]} rows of {self.path}"

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Read the dataset's chunks and compare their checksums; see `RowSource.reader`."""
        yield self._read

    def _read(self, chunk: Chunk) -> Rows:
        dataset, split = open_cached(Path(self.path)), self.splits[chunk.file]
        stored = dataset.stored(split)
        first, last = chunk.start // stored.size, -(-chunk.stop // stored.size)
        features, labels = read_chunks(stored, range(first, last))
        rows = slice(chunk.start - first * stored.size, chunk.stop - first * stored.size)
        found = (features[rows],), (labels[rows],)
        weights = _weights(dataset, split) if self.weights else None
        return found if weights is None else (*found, chunk.of((weights,)))


def _weights(dataset: Dataset, split: Split) -> NDArray[np.float32] | None:
    return dataset.weights if split == "train" else dataset.test_weights
