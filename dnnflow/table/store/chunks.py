"""Lay out a dataset's arrays on disk: zarr v3, whole rows a chunk, no codec.

Chunks are written and read here, as plain bytes: a chunk is then one sequential file, and its checksum tells
damage that zarr would return as zeros. Any library for zarr v3 reads the arrays too.
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from dnnflow.errors import DamagedError
from dnnflow.table.columns.arrow import codes
from dnnflow.table.columns.preprocess import FittedColumn, Preprocessing, TextColumn
from dnnflow.table.columns.split import Marks
from dnnflow.table.columns.statistics import KeptBlock, Layout, labels_of, split_rows
from dnnflow.table.columns.targets import Targets

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")

_CHUNK_BYTES = 2 << 20


def chunk_rows(rows: int, n_features: int, targets: Targets) -> int:
    """Return how many rows a chunk has: about 2 MiB of features or labels, but no more than there are."""
    return max(1, min(rows, _CHUNK_BYTES // (4 * max(n_features, *targets.shape, 1))))


class BlockRows(NamedTuple):
    """Rows of one kept block that belong to a chunk: of its rows in the split, `rows` from `skip` on."""

    block: KeptBlock
    skip: int
    rows: int


@dataclass(frozen=True)
class SplitChunk:
    """A chunk of a split to be written."""

    split: Split
    index: int
    parts: tuple[BlockRows, ...]


def chunks(split: Split, blocks: Sequence[KeptBlock], counts: Sequence[int], size: int) -> list[SplitChunk]:
    """Divide the rows of a split, `counts` in each block, into chunks of `size` rows."""
    found: list[SplitChunk] = []
    parts: list[BlockRows] = []
    space = size
    for block, count in zip(blocks, counts, strict=True):
        skip = 0
        while skip < count:
            rows = min(space, count - skip)
            parts.append(BlockRows(block, skip, rows))
            skip, space = skip + rows, space - rows
            if not space:
                found.append(SplitChunk(split, len(found), tuple(parts)))
                parts, space = [], size
    return [*found, SplitChunk(split, len(found), tuple(parts))] if parts else found


def create_arrays(root: Path, split: Split, rows: int, preprocessing: Preprocessing, size: int) -> None:
    """Write zarr's metadata of a split's arrays `X` and `y`, in chunks of `size` rows."""
    n_features, targets = preprocessing.n_features, preprocessing.targets
    _create(root / split / "X", [rows, n_features], [size, n_features], "float32")
    _create(root / split / "y", [rows, *targets.shape], [size, *targets.shape], targets.dtype)


def _create(path: Path, shape: list[int], chunk: list[int], kind: str) -> None:
    # As the zarr v3 specification says; to import zarr for these lines takes 0.4 s, more than most tables.
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": kind,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 0,
        "attributes": {},
    }
    path.mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps(metadata))


def chunk_paths(root: Path, split: Split, index: int, targets: Targets) -> tuple[Path, Path]:
    """Return the files of a chunk of `X` and of `y`."""
    labels = root / split / "y" / "c" / str(index)
    return root / split / "X" / "c" / str(index) / "0", labels / "0" if targets.shape else labels


def _empty_labels(rows: int, targets: Targets) -> NDArray[Any]:
    return np.zeros((rows, *targets.shape), dtype=np.dtype(targets.dtype).newbyteorder("<"))


def write_chunk(
    chunk: SplitChunk, layout: Layout, preprocessing: Preprocessing, size: int, root: Path
) -> tuple[str, str]:
    """Encode and write one chunk of `size` rows; return the BLAKE3 hashes of its two files."""
    features = np.zeros((size, preprocessing.n_features), dtype="<f4")  # the last chunk is padded
    labels = _empty_labels(size, preprocessing.targets)
    at = 0
    for part in chunk.parts:
        end = at + part.rows
        labels[at:end] = _encode(part, chunk.split, layout, preprocessing, features[at:end])
        at = end
    paths = chunk_paths(root, chunk.split, chunk.index, preprocessing.targets)
    return _write(paths[0], features), _write(paths[1], labels)


def _encode(
    part: BlockRows, split: Split, layout: Layout, preprocessing: Preprocessing, out: NDArray[np.float32]
) -> NDArray[Any]:
    """Write a part's rows into zeros, and return their encoded labels."""
    kept = part.block.read()
    labels = labels_of(kept, layout.targets)
    rows = split_rows(part.block, layout, labels)[split][part.skip : part.skip + part.rows]

    def column(fitted: FittedColumn) -> NDArray[Any]:
        if not isinstance(fitted, TextColumn):
            return kept.number(fitted.name)[rows]
        texts = kept.text(fitted.name)
        known = fitted.codes([*texts.dictionary.to_pylist(), None])
        return known[codes(texts)[rows]]

    preprocessing.encode_into(map(column, preprocessing.columns), out)
    return preprocessing.targets.encode(labels[rows])


def _write(path: Path, array: NDArray[np.generic]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    data = array.data.cast("B")
    aside.write_bytes(data)
    os.replace(aside, path)  # a task that ran twice leaves one whole file
    return blake3(data).hexdigest()


def write_marks(root: Path, split: Split, marks: Marks) -> dict[str, tuple[str, str]]:
    """Write what is known of a split's rows as arrays beside theirs; return type and BLAKE3 hash of each."""
    written = {}
    for name, values in vars(marks).items():
        if values is not None:
            kind, shape = str(values.dtype), [len(values)]
            _create(root / split / name, shape, shape, kind)
            written[name] = kind, _write(mark_path(root, split, name), values)
    return written


def mark_path(root: Path, split: Split, name: str) -> Path:
    """Return the file of an array of marks: one chunk."""
    return root / split / name / "c" / "0"


def read_mark(path: Path, rows: int, kind: str, checksum: str) -> NDArray[Any]:
    """Read and verify an array of marks, shape (rows,).

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    values = np.empty(rows, dtype=kind)
    _read(path, checksum, values, rows)
    return values


@dataclass(frozen=True)
class Stored:
    """A split's arrays on disk."""

    root: Path
    split: Split
    rows: int
    n_features: int
    size: int
    """Rows of a chunk."""
    checksums: Sequence[tuple[str, str]]
    """BLAKE3 of the files of `X` and `y`, chunk by chunk."""
    targets: Targets

    def lengths(self, wanted: Sequence[int]) -> list[int]:
        """Return how many rows of chunks are rows of the split; the last chunk is padded."""
        return [min(self.size, self.rows - index * self.size) for index in wanted]

    def paths(self, index: int) -> tuple[Path, Path]:
        """Return the files of a chunk of `X` and of `y`."""
        return chunk_paths(self.root, self.split, index, self.targets)

    @property
    def row_bytes(self) -> tuple[int, int]:
        """Bytes of a row of `X` and of `y`."""
        return 4 * self.n_features, 4 * prod(self.targets.shape)


def read_labels(stored: Stored) -> NDArray[Any]:
    """Read and verify the labels of a split, (rows,) int32 or (rows, outputs) float32, without its features.

    Raises
    ------
    DataError
        If a chunk is missing or damaged.
    """
    labels = _empty_labels(stored.rows, stored.targets)
    for index, (_, checksum) in enumerate(stored.checksums):
        _, path = stored.paths(index)
        _read(path, checksum, labels[index * stored.size : (index + 1) * stored.size], stored.size)
    return labels


def read_chunks(stored: Stored, wanted: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Read and verify chunks of a split, in the order wanted: (rows, n_features) float32, and labels.

    Raises
    ------
    DataError
        If a chunk is not there or is not what was written.
    """
    lengths, n_features = stored.lengths(wanted), stored.n_features
    features = np.empty((sum(lengths), n_features), dtype="<f4")
    labels = _empty_labels(sum(lengths), stored.targets)
    at = 0
    for index, length in zip(wanted, lengths, strict=True):
        for path, checksum, out in zip(
            stored.paths(index), stored.checksums[index], (features, labels), strict=True
        ):
            _read(path, checksum, out[at : at + length], stored.size)
        at += length
    return features, labels


def _read(path: Path, checksum: str, out: NDArray[np.generic], size: int) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error)) from error
    if blake3(data).hexdigest() != checksum:
        raise _damaged(path, "its checksum differs")
    out[...] = np.frombuffer(data, dtype=out.dtype).reshape(size, *out.shape[1:])[: len(out)]


def _damaged(path: Path, reason: str) -> DamagedError:
    return DamagedError(
        f"a dataset's chunks must be as they were written, but {path} is not ({reason}); "
        "delete the dataset's directory and make it again"
    )
