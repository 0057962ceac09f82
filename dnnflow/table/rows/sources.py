"""Make a source of rows of whatever a user gives for parallel training."""

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import InputError
from dnnflow.table.rows.array_source import ArraySource, DatasetSource
from dnnflow.table.rows.file_arrays import Names
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import RowSource
from dnnflow.table.rows.user_source import IndexedBatches, UserSource, hold_blocks, keep_blocks, made_by
from dnnflow.table.store.chunks import SPLITS, Split
from dnnflow.table.store.dataset import MANIFEST, Dataset

_ENDLESS = -1  # cardinality of a tf.data.Dataset
_OWN_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Reading:
    """How what a user gives is to be read; each field matters for some kinds only."""

    features: Names = "features"
    """Names of arrays or groups, or of Parquet columns."""
    labels: Names = "labels"
    weights: Names = ()
    """Of the arrays or columns that say by how much a row counts; none for all alike."""
    split: Split = "train"
    """Which rows of a dataset."""
    cache_dir: str | None = None
    """Where machines keep copies of files, and blocks of a generator are kept."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """For own code named `module:name`."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(
                f"split must be one of {', '.join(SPLITS)}, got {self.split!r}; name one of them"
            )


def open_source(given: Any, reading: Reading | None = None) -> RowSource:
    """Make a source of what a user gives.

    Parameters
    ----------
    given : RowSource, Dataset, Data, pair or triple of arrays, str, path or sequence of paths, or batches
        A string is `module:name` of own code (a `Data` class, a function that returns one, or a generator
        function), a dataset's directory, or files as `FileList.open` takes them. A tuple or list of two or
        three things that are not paths is (inputs, targets) or (inputs, targets, weights). A frame, or a dict
        of arrays, has columns or keys that `reading` names. What gives batches of rows (`PyDataset`,
        `tf.data.Dataset`, a generator) gives those of one epoch.
    reading : Reading, optional

    Raises
    ------
    InputError, DataError
        If it is none of these, or cannot be read.
    """
    reading = reading or Reading()
    match given:
        case RowSource():
            return given
        case Dataset():
            return DatasetSource.open(given.path, reading.split)
        case str() if _OWN_CODE.fullmatch(given) and not os.path.exists(given):
            return _own_source(given, reading)
        case str() | os.PathLike() if os.path.isfile(os.path.join(given, MANIFEST)):
            return DatasetSource.open(os.fspath(given), reading.split)
        case [inputs, _] | [inputs, _, _] if not _is_path(inputs):
            return ArraySource.open(*given)
        case Mapping():
            return ArraySource.open(*_named_sides(given, reading, list(given)))
        case _ if hasattr(given, "to_numpy") and hasattr(given, "columns"):
            return _of_frame(given, reading)
        case _ if hasattr(given, "chunks") and hasattr(given, "load"):
            return UserSource.open(given)
        case _ if hasattr(given, "__getitem__") and hasattr(given, "on_epoch_end"):
            return UserSource.open(IndexedBatches(given))
        case str() | os.PathLike():
            return _files(given, reading)
        case list() | tuple() if all(map(_is_path, given)):
            return _files(given, reading)
        case Iterable() if not isinstance(given, list | tuple) and not hasattr(given, "shape"):
            return _of_iterable(given, reading)
    got = (
        f"{type(given).__name__} of {len(given)}" if isinstance(given, list | tuple) else type(given).__name__
    )
    raise InputError(
        "rows must come from a dataset, files, arrays (inputs, targets) or (inputs, targets, weights), "
        f"batches, a frame or own code, got {got}; give one of these"
    )


def with_weights(data: Any, sample_weight: Any) -> Any:
    """Return rows with the weights that were given beside them.

    Raises
    ------
    InputError
        For rows that are no pair of arrays.
    """
    if sample_weight is None:
        return data
    if not isinstance(data, list | tuple) or len(data) != 2 or _is_path(data[0]):
        raise InputError(
            "sample_weight is given beside a pair of arrays (inputs, targets), got it beside "
            f"{type(data).__name__}; let batches have weights as their third part, or name those of files by "
            "weights="
        )
    return (*data, sample_weight)


def _files(given: Any, reading: Reading) -> FileList:
    return FileList.open(
        given, features=reading.features, labels=reading.labels, weights=reading.weights,
        cache_dir=reading.cache_dir,
    )  # fmt: skip


def _named_sides(given: Any, reading: Reading, known: Sequence[Any]) -> Iterator[Any]:
    """Yield inputs, targets and perhaps weights of a mapping, by the names that are asked for."""
    for side in ("features", "labels", "weights"):
        names = getattr(reading, side)
        missing = [name for name in _listed(names) if name not in known]
        if missing:
            raise InputError(
                f"the names of {side} must be among those given, got {', '.join(map(str, missing))}, there "
                f"are {', '.join(map(str, known))}; name them by {side}=, or give (inputs, targets)"
            )
        if names:
            yield given[names] if isinstance(names, str) else {name: given[name] for name in names}


def _of_frame(frame: Any, reading: Reading) -> RowSource:
    """Make a source of a frame as of a Parquet file: all that is no label or weight is one input."""
    known, features = list(frame.columns), reading.features
    if features == "features" and features not in known:
        others = {*_listed(reading.labels), *_listed(reading.weights)}
        features = tuple(name for name in known if name not in others)
    wanted = {*_listed(reading.labels), *_listed(reading.weights)}
    columns = {name: np.asarray(frame[name]) for name in known if name in wanted}
    sides = [*_named_sides(columns, replace(reading, features=()), known)]
    return ArraySource.open(frame[list(_listed(features))], *sides)


def _listed(names: Names) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _of_iterable(given: Any, reading: Reading) -> RowSource:
    """Make a source of an iterator of paths, or of what gives the batches of one epoch."""
    if hasattr(given, "as_numpy_iterator"):
        if int(given.cardinality()) == _ENDLESS:
            raise InputError("a tf.data.Dataset must end, got one that repeats for ever; cut it by take(n)")
        given = given.as_numpy_iterator()
    items = iter(given)
    first = next(items, None)
    if first is None:
        raise InputError("an iterator must give rows or paths, got nothing; was it used up before?")
    items = chain([first], items)
    return _files(items, reading) if _is_path(first) else _blocks(items, reading)


def _blocks(blocks: Iterable[Any], reading: Reading) -> RowSource:
    if reading.cache_dir is None:
        return hold_blocks(blocks)
    return keep_blocks(blocks, Path(reading.cache_dir) / f"blocks-{uuid.uuid4().hex}")


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _own_source(name: str, reading: Reading) -> RowSource:
    made = made_by(name, reading.parameters)
    if isinstance(made, Iterator) or hasattr(made, "as_numpy_iterator"):
        return _of_iterable(made, reading)
    if hasattr(made, "__getitem__") and hasattr(made, "on_epoch_end"):
        return UserSource.open(IndexedBatches(made))
    return UserSource.open(name, reading.parameters)
