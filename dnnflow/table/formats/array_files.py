"""Read files of arrays as a table: each array is a column, or several side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dnnflow.errors import DataError
from dnnflow.table.formats.columnar import OpenedFile
from dnnflow.table.formats.typed_source import content_digest

_KINDS = "biufSUOT"


@dataclass(frozen=True)
class _Place:
    """Where the values of a column are: an array, and which of its columns or fields."""

    array: str
    part: int | str | None


class ArraysTable:
    """The arrays of a file, read slice by slice; those of an .npz whole, one after the other."""

    def __init__(self, kind: str, path: Path, file: OpenedFile | None) -> None:
        self._kind, self._path, self._file = kind, path, file
        with _opened(kind, path) as arrays:
            if not arrays:
                raise DataError(
                    "a table needs arrays, got a file with none; give one with features and labels"
                )
            self.rows = _common_rows(arrays)
            self._places = dict(_columns(arrays))
            fields = [
                pa.field(name, _type(_part(arrays, place, 0, 1))) for name, place in self._places.items()
            ]
        self.schema: pa.Schema = pa.schema(fields)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of its file, or of its content."""
        return self._file.digest if self._file is not None else content_digest(self)

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the named columns in order, in batches of at most `rows` rows."""
        wanted = pa.schema([self.schema.field(name) for name in names])
        with _opened(self._kind, self._path) as arrays:
            for start in range(0, self.rows, rows):
                stop, read = min(start + rows, self.rows), dict[str, Any]()
                columns = []
                for name, field in zip(names, wanted, strict=True):
                    place = self._places[name]
                    if place.array not in read:
                        read[place.array] = np.asarray(arrays[place.array][start:stop])
                    columns.append(_arrow(_of(read[place.array], place.part), field.type))
                yield pa.record_batch(columns, schema=wanted)

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        if self._file is not None:
            self._file.check()


@contextmanager
def _opened(kind: str, path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the arrays of a file by their names."""
    with ExitStack() as stack:
        if kind == "hdf5":
            import h5py

            file = stack.enter_context(h5py.File(path, "r"))
            found = _arrays(file.items())  # in the order of their making, where the file keeps it
            yield {n: a.asstr() if h5py.check_string_dtype(a.dtype) else a for n, a in found}
        elif kind == "zarr":
            import zarr

            top = zarr.open(str(path), mode="r")
            yield dict(_arrays(sorted(top.members()))) if isinstance(top, zarr.Group) else {"column": top}
        else:
            stream = stack.enter_context(path.open("rb"))  # that numpy leaves open, where it finds no archive
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                yield {"column": loaded}
            else:
                yield {name: loaded[name] for name in stack.enter_context(loaded).files}


def _arrays(members: Iterable[tuple[str, Any]], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a group and of those in it."""
    for name, one in members:
        if hasattr(one, "shape"):
            yield above + name, one
        else:
            inside = sorted(one.members()) if hasattr(one, "members") else one.items()
            yield from _arrays(inside, f"{above}{name}/")


def _common_rows(arrays: Mapping[str, Any]) -> int:
    lengths = {name: one.shape[0] if one.shape else 0 for name, one in arrays.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(
                f"the arrays of a table must have as many rows, got {lengths[first]} of {first!r} and "
                f"{length} of {name!r}; leave one out of the file"
            )
    return int(lengths[first])


def _columns(arrays: Mapping[str, Any]) -> Iterator[tuple[str, _Place]]:
    for name, one in arrays.items():
        if len(one.shape) > 2:
            raise DataError(
                f"the arrays of a table have 1 or 2 dimensions, got {len(one.shape)} of {name!r}; reshape it "
                "to one row a sample"
            )
        fields = getattr(one.dtype, "names", None)
        if fields:
            yield from ((field, _Place(name, field)) for field in fields)
        elif len(one.shape) == 1:
            yield name, _Place(name, None)
        else:
            width = one.shape[1]
            yield from ((f"{name}_{i + 1}" if width > 1 else name, _Place(name, i)) for i in range(width))


def _part(arrays: Mapping[str, Any], place: _Place, start: int, stop: int) -> Any:
    return _of(np.asarray(arrays[place.array][start:stop]), place.part)


def _of(values: Any, part: int | str | None) -> Any:
    if part is None:
        return values
    return values[part] if isinstance(part, str) else values[:, part]


def _type(values: Any) -> pa.DataType:
    if values.dtype.kind == "M":
        return pa.timestamp("us")
    if values.dtype.kind not in _KINDS:
        raise DataError(
            f"the arrays of a table must hold numbers, booleans or text, got {values.dtype}; convert it"
        )
    return pa.string() if values.dtype.kind in "SUOT" else pa.from_numpy_dtype(values.dtype.newbyteorder("="))


def _arrow(values: Any, kind: pa.DataType) -> Any:
    if kind == pa.string():
        texts = [
            v.decode() if isinstance(v, bytes) else None if v is None else str(v) for v in values.tolist()
        ]
        return pa.array(texts, kind)
    return pa.array(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))), kind)
