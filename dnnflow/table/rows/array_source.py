"""Read rows in memory, and rows of a preprocessed table, as sources for parallel training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError
from dnnflow.events import Listener, ignore
from dnnflow.table.rows.source import Arrays, Chunk, Field, Reader, Rows, RowSource, check_fields
from dnnflow.table.store.chunks import Split, read_chunks
from dnnflow.table.store.dataset import open_cached


def as_arrays(values: Any) -> Arrays:
    """Return one array, or a tuple, list or dict of them, as a flat tuple; a dict's in order of its keys."""
    if isinstance(values, Mapping):
        return tuple(array for key in sorted(values) for array in as_arrays(values[key]))
    if isinstance(values, list | tuple):
        return tuple(array for value in values for array in as_arrays(value))
    return (np.asarray(values),)


def loaded_rows(loaded: Any, where: str) -> Rows:
    """Return inputs and targets as tuples of arrays of as many rows.

    Raises
    ------
    DataError
        If it is no pair, or an array has no rows' axis or another number of rows.
    """
    if not isinstance(loaded, list | tuple) or len(loaded) != 2:
        raise DataError(
            f"rows must be a pair (inputs, targets), got {type(loaded).__name__} from {where}; give both"
        )
    inputs, targets = as_arrays(loaded[0]), as_arrays(loaded[1])
    if any(array.ndim == 0 for array in (*inputs, *targets)):
        raise DataError(
            f"arrays must have rows as their first axis, got a single number from {where}; add the axis"
        )
    lengths = [len(array) for array in (*inputs, *targets)]
    if len(set(lengths)) > 1:
        raise DataError(
            f"all inputs and targets must have as many rows, got {lengths} from {where}; cut the longer"
        )
    check_fields(*fields_of((inputs, targets)), where)
    return inputs, targets


def fields_of(rows: Rows) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Return what arrays are to a model."""
    inputs = tuple(Field.of(f"input {index}", array) for index, array in enumerate(rows[0]))
    return inputs, tuple(Field.of(f"target {index}", array) for index, array in enumerate(rows[1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource(RowSource):
    """Rows in memory; they travel to wherever the source goes, so keep large ones in files."""

    input_arrays: Arrays
    target_arrays: Arrays

    @classmethod
    def open(cls, inputs: Any, targets: Any) -> "ArraySource":
        """Take one array (rows, ...), or a tuple, list or dict of them, for each.

        Raises
        ------
        DataError
            If there are no rows, arrays differ in rows, or are not numbers.
        """
        rows = loaded_rows((inputs, targets), "arrays")
        count = len(rows[0][0])
        if not count:
            raise DataError("arrays must have at least 1 row, got 0; give some")
        fields = fields_of(rows)
        return cls(
            inputs=fields[0],
            targets=fields[1],
            counts=(count,),
            grains=(1,),
            input_arrays=rows[0],
            target_arrays=rows[1],
        )

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Read views of the arrays; see `RowSource.reader`."""
        yield lambda chunk: (chunk.of(self.input_arrays), chunk.of(self.target_arrays))


@dataclass(frozen=True, kw_only=True)
class DatasetSource(RowSource):
    """Splits of a preprocessed table, a file each; make one with `DatasetSource.open`."""

    path: str
    splits: tuple[Split, ...]

    @classmethod
    def open(cls, path: str | Path, *splits: Split) -> "DatasetSource":
        """Open the dataset in a directory; inputs are its encoded columns, targets its labels.

        These are the classes' numbers, () int32, or of another task (outputs,) float32. Without any split the
        rows are the training rows.

        Raises
        ------
        DataError
            If there is no valid dataset.
        """
        dataset, splits = open_cached(Path(path).absolute()), splits or ("train",)
        return cls(
            inputs=(Field("X", (dataset.n_features,), "float32"),),
            targets=(Field("y", dataset.targets.shape, dataset.targets.dtype),),
            counts=tuple(dataset.rows[split] for split in splits),
            grains=tuple(dataset.stored(split).size for split in splits),
            path=str(dataset.path),
            splits=splits,
        )

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Read the dataset's chunks and compare their checksums; see `RowSource.reader`."""
        yield self._read

    def _read(self, chunk: Chunk) -> Rows:
        stored = open_cached(Path(self.path)).stored(self.splits[chunk.file])
        first, last = chunk.start // stored.size, -(-chunk.stop // stored.size)
        features, labels = read_chunks(stored, range(first, last))
        rows = slice(chunk.start - first * stored.size, chunk.stop - first * stored.size)
        return (features[rows],), (labels[rows],)
