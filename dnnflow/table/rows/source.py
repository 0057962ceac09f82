"""Define a source of rows for parallel training: what files, tables, arrays and user code have in common.

A source is plain data (paths, names, counts) that travels to every process that reads; nothing is opened
before a reader asks for rows.
"""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError, InputError
from dnnflow.events import Listener, ignore
from dnnflow.table.rows.binding import Arrays, Binding

Rows = tuple[Arrays, ...]
"""Inputs, targets and, where rows have them, weights; each an array of shape (rows, ...)."""

CHUNK_BYTES = 16 << 20
"""Rows are shuffled within a chunk, and a chunk is what a lost replica's successor has to look at again."""
_CHUNKS_A_READER = 16  # at an epoch's end a reader waits for at most a sixteenth of what it read


@dataclass(frozen=True, order=True, slots=True)
class Chunk:
    """Consecutive rows of one file."""

    file: int
    """Index of the file (or key) in its source, from 0."""
    start: int
    """First row, from 0."""
    stop: int
    """Behind the last row."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.stop - self.start

    def of(self, arrays: Arrays) -> Arrays:
        """Return views of these rows of a file's arrays."""
        return tuple(array[self.start : self.stop] for array in arrays)


Reader = Callable[[Chunk], Rows]


@dataclass(frozen=True)
class Field:
    """One input or target of a model, as its source holds it."""

    name: str
    shape: tuple[int, ...]
    """Of one row: () for a number."""
    dtype: str
    """NumPy's name of it, e.g. `float32`."""
    key: str = ""
    """By which it was given in a mapping or group; empty where its place says what it is."""
    ordered: bool = False
    """Whether its place was chosen too, so that the key need not be a name of the model."""
    columns: tuple[str, ...] = ()
    """Names along the last axis, where a table has them."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, name: str, array: NDArray[Any], key: str = "", columns: tuple[str, ...] = ()) -> "Field":
        """Return the field of an array of shape (rows, ...)."""
        return cls(name, tuple(array.shape[1:]), array.dtype.name, key, columns=columns)


@dataclass(frozen=True, kw_only=True)
class RowSource(ABC):
    """Rows that can be read in any order by any process."""

    inputs: tuple[Field, ...]
    targets: tuple[Field, ...]
    weights: tuple[Field, ...] = ()
    """By how much each row counts, once or for each target; empty where all count alike."""
    binding: Binding = dataclasses.field(default_factory=Binding)
    """To the model that is trained; by default in the order of the fields."""
    counts: tuple[int, ...]
    """Rows of each file."""
    grains: tuple[int, ...]
    """Rows that each file must decode at once; 1 where any range costs what it holds."""

    @abstractmethod
    def reader(self, listen: Listener = ignore) -> AbstractContextManager[Reader]:
        """Open what is needed to read one chunk after the other, in one thread.

        `listen` hears what a person should know, e.g. that a file could not be copied.
        """

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(self.counts)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all inputs and targets, as they are stored."""
        return max(1, sum(field.row_bytes for field in (*self.inputs, *self.targets, *self.weights)))

    def file_name(self, file: int) -> str:
        """Return what a file (or key) is called in sentences."""
        return f"part {file}"

    def first_row(self) -> Chunk:
        """Return where the first row is."""
        file = next(index for index, count in enumerate(self.counts) if count)
        return Chunk(file, 0, 1)

    def read(self, chunk: Chunk) -> Rows:
        """Read one chunk; to read several, keep a `reader` open.

        Raises
        ------
        DataError
            If a file is gone, damaged or not what it was.
        """
        with self.reader() as read:
            return read(chunk)

    def chunks(self, rows: int) -> tuple[Chunk, ...]:
        """Divide all rows into chunks of about `rows` rows, none across two files.

        Chunks of a file are nearly equal, end where its storage chunks (or row groups) end, and are larger
        than asked only where such a storage chunk is.

        Raises
        ------
        InputError
            If `rows` is below 1.
        """
        if rows < 1:
            raise InputError(f"a chunk must have at least 1 row, got {rows}; give a larger number")
        return tuple(
            chunk
            for file, (count, grain) in enumerate(zip(self.counts, self.grains, strict=True))
            for chunk in _cut(file, count, grain, rows)
        )

    def chunk_rows(self, readers: int, batch_size: int, chunk_bytes: int = CHUNK_BYTES) -> int:
        """Return rows of a chunk: a batch at least, some megabytes at most, many chunks a reader."""
        shared = ceil(self.rows / (readers * _CHUNKS_A_READER))
        return max(1, min(batch_size, self.rows), min(shared, chunk_bytes // self.row_bytes))


def _cut(file: int, count: int, grain: int, rows: int) -> Iterator[Chunk]:
    grains = ceil(count / grain)
    pieces = ceil(grains / max(1, rows // grain))
    bounds = [min(count, grains * piece // max(pieces, 1) * grain) for piece in range(pieces + 1)]
    for start, stop in pairwise(bounds):
        yield Chunk(file, start, stop)


def check_fields(
    inputs: tuple[Field, ...], targets: tuple[Field, ...], where: str, weights: tuple[Field, ...] = ()
) -> None:
    """Refuse a source without inputs or targets, or whose values are no numbers.

    Raises
    ------
    DataError
    """
    for kind, fields in (("input", inputs), ("target", targets)):
        if not fields:
            raise DataError(f"a source needs at least one {kind}, got none from {where}; name one")
    for field in (*inputs, *targets, *weights):
        if not _is_number(field.dtype):
            raise DataError(
                f"inputs and targets must be numbers, but {field.name} of {where} is {field.dtype}; "
                "convert it, or leave it out"
            )


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return what to sort names by, so that numbers in them sort as numbers.

    Examples
    --------
    >>> sorted(["jet_10", "jet_2", "jet_1"], key=natural_key)
    ['jet_1', 'jet_2', 'jet_10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:  # names of texts, e.g. str32, are none that NumPy takes
        return False
