"""Read files of named arrays, HDF5, zarr and npz, a range of rows at a time.

Where a name is a group, its arrays are several inputs (or targets), also those of groups in it: the model's
of these names. They come in alphabetical order of their keys, numbers in them as numbers.
"""

import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import lcm, prod
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.rows.binding import Arrays
from dnnflow.table.rows.file_names import is_local, open_binary
from dnnflow.table.rows.source import Field, Rows, natural_key

Names = str | Sequence[str]

_CACHE_BYTES = 16 << 20
"""HDF5's own megabyte is less than one storage chunk of many files, which would be decoded each time."""
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name


class StoredArray(Protocol):
    """An array in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Read a range of rows."""


Leaves = list[tuple[str, StoredArray]]
"""Arrays with their full names."""


@dataclass(frozen=True)
class RowNames:
    """Which arrays, groups or columns of a file are what."""

    features: Names = "features"
    labels: Names = "labels"
    weights: Names = ()

    def sides(self) -> tuple[Names, Names, Names]:
        """Return the names of inputs, targets and weights."""
        return self.features, self.labels, self.weights


@dataclass(frozen=True)
class Header:
    """What a file says about its rows."""

    count: int
    grain: int
    """Rows that must be decoded at once; 1 where any range costs what it holds."""
    inputs: tuple[Field, ...]
    targets: tuple[Field, ...]
    weights: tuple[Field, ...] = ()


class ArrayFile:
    """An open file whose inputs, targets and weights are arrays of it.

    Parameters
    ----------
    names
        What was asked for.
    sides
        The arrays of inputs, targets and weights.
    """

    def __init__(self, names: RowNames, sides: Sequence[Leaves], opened: ExitStack) -> None:
        self._names, self._sides, self._opened = names, sides, opened

    def header(self) -> Header:
        """Return rows and fields.

        Raises
        ------
        DataError
            If an array has no rows' axis, or another number of rows than the others.
        """
        arrays = [leaf for side in self._sides for leaf in side]
        for name, array in arrays:
            if not array.shape:
                raise DataError(
                    f"an array must have rows as its first axis, but {name} is one number; leave it out"
                )
        counts = {name: array.shape[0] for name, array in arrays}
        if len(set(counts.values())) > 1:
            raise DataError(f"all arrays of a file must have as many rows, got {counts}; cut the longer ones")
        count = next(iter(counts.values()), 0)
        # Storage chunks of a label are often longer than those of a feature: ends that suit both are rare.
        grains = sorted({min(_storage_rows(array), max(count, 1)) for _, array in arrays}, reverse=True)
        grain = lcm(*grains)
        return Header(
            count,
            grain if grain <= 4 * grains[0] else grains[0],
            *(
                tuple(_field(name, array, _as_names(names)) for name, array in side)
                for names, side in zip(self._names.sides(), self._sides, strict=True)
            ),
        )

    def read(self, start: int, stop: int) -> Rows:
        """Read rows of all arrays, in this machine's byte order."""
        return tuple(_read(side, start, stop) for side in self._sides if side)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def _field(name: str, array: StoredArray, named: Sequence[str]) -> Field:
    """Return what an array is: one that was named itself, or one of a group that was."""
    group = next((f"{one}/" for one in named if name.startswith(f"{one}/")), "")
    key = name.removeprefix(group) if group else name.rpartition("/")[2]
    return Field(name, tuple(array.shape[1:]), array.dtype.name, key, ordered=not group)


def _storage_rows(array: StoredArray) -> int:
    sizes = getattr(array, "shards", None) or getattr(array, "chunks", None)
    return max(1, int(sizes[0])) if sizes else 1


def _read(leaves: Leaves, start: int, stop: int) -> Arrays:
    arrays = (np.asarray(array[start:stop]) for _, array in leaves)
    return tuple(array.astype(array.dtype.newbyteorder("="), copy=False) for array in arrays)


def open_hdf5(path: str, names: RowNames) -> ArrayFile:
    """Open an HDF5 file."""
    import h5py

    with ExitStack() as stack:
        place = path if is_local(path) else stack.enter_context(open_binary(path))
        file = stack.enter_context(h5py.File(place, "r", rdcc_nbytes=_CACHE_BYTES))
        raw = stack.enter_context(open_binary(path)) if is_local(path) else None

        def leaves(names: Names) -> Leaves:
            return [(name, _flat_hdf5(array, raw)) for name, array in _walk(file, names, h5py.Dataset)]

        return ArrayFile(names, [leaves(side) for side in names.sides()], stack.pop_all())


def _flat_hdf5(dataset: Any, raw: IO[bytes] | None) -> StoredArray:
    """Return a dataset, read past HDF5 where its values lie in the file as they are in memory.

    HDF5 holds the interpreter's lock while it reads, so that a training beside it waits; and a plain read
    was twice to four times as fast.
    """
    if raw is not None and dataset.shape and _lies_flat(dataset, raw.name):
        offset = dataset.id.get_offset()
        if offset is not None:  # None for storage chunks, and where nothing was written yet
            return FlatArray(raw, offset, dataset.shape, dataset.dtype)
    array: StoredArray = dataset
    return array


def _lies_flat(dataset: Any, path: str) -> bool:
    elsewhere = dataset.external or dataset.is_virtual or not os.path.samefile(dataset.file.filename, path)
    same_values = dataset.dtype.kind in "iuf" and dataset.dtype.itemsize == dataset.id.get_type().get_size()
    return same_values and not elsewhere


def open_zarr(path: str, names: RowNames) -> ArrayFile:
    """Open a zarr group."""
    import zarr

    group = zarr.open_group(path, mode="r")

    def leaves(names: Names) -> Leaves:
        return list(_walk(group, names, zarr.Array))

    return ArrayFile(names, [leaves(side) for side in names.sides()], ExitStack())


def _walk(group: Any, names: Names, leaf: type) -> Iterator[tuple[str, Any]]:
    for name in _as_names(names):
        if name not in group:
            raise _no_such_name(name, group)
        yield from _under(name, group[name], leaf)


def _under(name: str, node: Any, leaf: type) -> Iterator[tuple[str, Any]]:
    if isinstance(node, leaf):
        yield name, node
        return
    for key in sorted(node, key=natural_key):
        yield from _under(f"{name}/{key}", node[key], leaf)


def _as_names(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _no_such_name(name: str, names: Iterable[str]) -> DataError:
    known = ", ".join(sorted(names)) or "none"
    return DataError(
        f"a file must have the named arrays, got {name}, it has {known}; name those that are meant"
    )


def open_npz(path: str, names: RowNames) -> ArrayFile:
    """Open an npz file; names with a slash (`features/a`) are a group."""
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_binary(path))))
        raw = stack.enter_context(open_binary(path))
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def leaves(names: Names) -> Leaves:
            found = [key for name in _as_names(names) for key in _keys(name, members)]
            return [(key, _member(archive, members[key], raw, stack)) for key in found]

        return ArrayFile(names, [leaves(side) for side in names.sides()], stack.pop_all())


def _keys(name: str, members: Mapping[str, Any]) -> list[str]:
    found = (
        [name]
        if name in members
        else sorted((key for key in members if key.startswith(f"{name}/")), key=natural_key)
    )
    if not found:
        raise _no_such_name(name, members)
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: IO[bytes], stack: ExitStack) -> StoredArray:
    stream = stack.enter_context(archive.open(info))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if info.compress_type != zipfile.ZIP_STORED:
        return FlatArray(stream, stream.tell(), shape, dtype, fortran)
    # A member that is not compressed lies in the file as it is: a range of it costs one seek.
    raw.seek(info.header_offset)
    name, extra = struct.unpack("<HH", raw.read(_LOCAL_HEADER)[26:])
    offset = info.header_offset + _LOCAL_HEADER + name + extra + stream.tell()
    return FlatArray(raw, offset, shape, dtype, fortran)


@dataclass(frozen=True)
class FlatArray:
    """An array whose values lie one behind the other in a stream."""

    stream: IO[bytes]
    offset: int
    """Byte of the first value."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False
    """Whether the first index runs fastest, as in what pandas saves: rows are then not together."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Read a range of rows."""
        start, stop, _ = rows.indices(self.shape[0])
        count, width = max(0, stop - start), prod(self.shape[1:])
        if not self.fortran or len(self.shape) < 2:
            values = np.empty((count, *self.shape[1:]), self.dtype)
            self._fill(values, start * width)
            return values
        columns = np.empty((width, count), self.dtype)
        for column in range(width):
            self._fill(columns[column], column * self.shape[0] + start)
        # (..., second axis, rows) backwards is (rows, second axis, ...)
        return np.ascontiguousarray(columns.reshape(*reversed(self.shape[1:]), count).T)

    def _fill(self, values: NDArray[Any], first: int) -> None:
        if not values.size:
            return
        self.stream.seek(self.offset + first * self.dtype.itemsize)
        space = values.view(np.uint8).reshape(-1).data
        while space:
            got: int = self.stream.readinto(space)  # type: ignore[attr-defined]
            if not got:
                raise EOFError(f"{len(space)} bytes are missing at its end")
            space = space[got:]
