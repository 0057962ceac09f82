"""Make a source of rows of whatever a user gives for parallel training."""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnnflow.errors import InputError
from dnnflow.table.rows.array_source import ArraySource, DatasetSource
from dnnflow.table.rows.file_arrays import Names
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import RowSource
from dnnflow.table.rows.user_source import UserSource, keep_blocks, made_by
from dnnflow.table.store.chunks import SPLITS, Split
from dnnflow.table.store.dataset import MANIFEST, Dataset

_OWN_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Reading:
    """How what a user gives is to be read; each field matters for some kinds only."""

    features: Names = "features"
    """Names of arrays or groups, or of Parquet columns."""
    labels: Names = "labels"
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
    given : RowSource, Dataset, Data, pair of arrays, str, path or sequence of paths
        A string is `module:name` of own code (a `Data` class, a function that returns one, or a generator
        function), a dataset's directory, or files as `FileList.open` takes them. A tuple of two things that
        are not paths is (inputs, targets).
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
        case (inputs, targets) if isinstance(given, tuple) and not _is_path(inputs):
            return ArraySource.open(inputs, targets)
        case _ if hasattr(given, "chunks") and hasattr(given, "load"):
            return UserSource.open(given)
        case str() | os.PathLike() | list() | tuple() | Iterator():
            return FileList.open(
                given, features=reading.features, labels=reading.labels, cache_dir=reading.cache_dir
            )
    raise InputError(
        "rows must come from a dataset, files, arrays (inputs, targets) or own code, got "
        f"{type(given).__name__}; give one of these"
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _own_source(name: str, reading: Reading) -> RowSource:
    made = made_by(name, reading.parameters)
    if not isinstance(made, Iterator):
        return UserSource.open(name, reading.parameters)
    if reading.cache_dir is None:
        raise InputError(
            f"a generator's blocks are kept in files, so it needs a directory, got none for {name!r}; "
            "set cache_dir to one that all workers see, or write chunks() and load(key)"
        )
    return keep_blocks(made, Path(reading.cache_dir) / f"blocks-{uuid.uuid4().hex}")
