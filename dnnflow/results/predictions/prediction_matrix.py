"""Append what each design predicts to a zarr array, and read it back with the true classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dnnflow.errors import DataError

MAX_BYTES = 512 << 20
"""A larger matrix is not kept."""

_CHUNK_BYTES = 4 << 20
_CHUNK_DESIGNS = 256
_ID_BYTES = 32  # of a sha256
_CLASSES, _DESIGNS, _TRUTH = "classes", "designs", "truth"


@dataclass(frozen=True)
class KeptPredictions:
    """What designs predict, as it was read."""

    truth: NDArray[Any]
    """What is true of the rows that designs are compared on: class codes (rows,), else (rows, outputs)."""
    values: NDArray[Any]
    """Shape (designs, rows): predicted class codes; or (designs, rows, outputs): probabilities in float16, or
    numbers; NaN for rows that a design was fitted to."""
    design_ids: tuple[str, ...]
    """Whose rows of `values` these are."""

    def of(self, design_ids: Sequence[str]) -> NDArray[Any] | None:
        """Return what these designs predict, (designs, rows, ...); None where one of them is not there."""
        row_of = {design_id: row for row, design_id in enumerate(self.design_ids)}
        if any(design_id not in row_of for design_id in design_ids):
            return None
        return self.values[[row_of[design_id] for design_id in design_ids]]


class PredictionWriter:
    """Writes what the designs of a study predict, in one process; of a design written twice the last counts.

    Parameters
    ----------
    path
        A directory; made by the first `append`.
    n_designs
        Of the study.
    truth
        Returns the class codes (rows,) of the rows that designs are compared on.
    """

    def __init__(self, path: Path, n_designs: int, truth: Callable[[], NDArray[np.integer]]) -> None:
        self._path, self._n_designs, self._truth = path, n_designs, truth
        self._group: zarr.Group | None = None
        self.is_too_large = False
        """Whether the matrix would be larger than `MAX_BYTES`; nothing is then written."""

    def append(self, predicted: Mapping[str, NDArray[Any]]) -> None:
        """Write what some designs predict, (rows,) or (rows, outputs), by the design's id.

        Raises
        ------
        DataError
            If the predictions that are there are of other rows.
        """
        if not predicted or self.is_too_large:
            return
        if self._group is None:
            first = next(iter(predicted.values()))
            self.is_too_large = self._n_designs * first.nbytes > MAX_BYTES
            if self.is_too_large:
                return
            self._group = self._opened(first)
        designs, classes = _array(self._group, _DESIGNS), _array(self._group, _CLASSES)
        begin, end = designs.shape[0], designs.shape[0] + len(predicted)
        classes.resize((end, *classes.shape[1:]))
        classes[begin:end] = np.stack(list(predicted.values()))
        designs.resize((end, _ID_BYTES))  # after what it counts
        designs[begin:end] = np.frombuffer(bytes.fromhex("".join(predicted)), np.uint8).reshape(-1, _ID_BYTES)

    def _opened(self, first: NDArray[Any]) -> zarr.Group:
        group, truth = zarr.open_group(self._path, mode="a"), self._truth()
        if _DESIGNS not in group:
            designs = max(1, min(_CHUNK_DESIGNS, _CHUNK_BYTES // max(1, first.nbytes)))
            codes = truth.astype(first.dtype if first.dtype.kind in "iu" else truth.dtype)
            group.create_array(_TRUTH, data=codes, overwrite=True)
            group.create_array(_CLASSES, shape=(0, *first.shape), chunks=(designs, *first.shape),
                               dtype=first.dtype, overwrite=True)  # fmt: skip
            group.create_array(_DESIGNS, shape=(0, _ID_BYTES), chunks=(4096, _ID_BYTES), dtype=np.uint8)
        elif not np.array_equal(_read(group, _TRUTH), truth):
            raise DataError(
                f"a study's predictions are all of the same rows, got others in {self._path}; delete that "
                "directory, or run the study with --new"
            )
        return group


def read_predictions(path: Path) -> KeptPredictions | None:
    """Return what was written; None where nothing was kept.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    if not path.is_dir():
        return None
    try:
        group = zarr.open_group(path, mode="r")
        designs, truth = _read(group, _DESIGNS), _read(group, _TRUTH)
        classes = np.asarray(_array(group, _CLASSES)[: len(designs)])
    except (KeyError, OSError, ValueError) as error:
        raise DataError(
            f"a study's predictions must be readable, got {type(error).__name__} in {path}; "
            "delete that directory: what is computed from it is then left out"
        ) from error
    # Of a design that was trained twice the last one counts; a process that died may have left an empty id
    rows = {design.tobytes().hex(): row for row, design in enumerate(designs) if design.any()}
    return KeptPredictions(truth, classes[list(rows.values())], tuple(rows))


def _array(group: zarr.Group, name: str) -> "zarr.Array[zarr.core.metadata.v3.ArrayV3Metadata]":
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def _read(group: zarr.Group, name: str) -> NDArray[np.integer]:
    return np.asarray(_array(group, name)[:])
