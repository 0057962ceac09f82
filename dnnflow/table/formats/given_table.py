"""Put a table that is in memory where a study reads tables: an Arrow file, found again by what it holds."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dnnflow.table.formats.frames import arrow_of, check_names, keep_frame, label_names
from dnnflow.table.formats.typed_source import TypeKind, kind_of


@dataclass(frozen=True)
class GivenTable:
    """A table that a study can read: fields of a pipeline's `dataset`."""

    source: str
    """Path or URL."""
    label: str | tuple[str, ...] | None = None
    """Of a pair (X, y): the columns of y."""
    has_classes: bool = False
    """Whether the one label of a table in memory is text, categories or truth values by its type: then no
    text of it means that there is none."""
    name: str = "table"
    """For people."""


def place_table(table: Any, folder: Path, labels: Sequence[str] = ()) -> GivenTable:
    """Return how a study reads a table; one in memory is written to an Arrow file in `folder`.

    Parameters
    ----------
    table
        Path or URL, a DataFrame (pandas, polars, pyarrow, Dask), or a pair (X, y) of frames or arrays. Frames
        are held in memory whole.
    labels
        The columns to predict, where they are known; those of a pair are y's.

    Raises
    ------
    InputError
        If it is nothing of these.
    DataError
        If names of columns are not told apart.
    """
    if isinstance(table, str | os.PathLike):
        source = os.fspath(table)
        return GivenTable(source, name=_name_of(source))
    arrow = check_names(arrow_of(table))
    is_pair = isinstance(table, tuple)
    labels = label_names(table) if is_pair else labels
    kinds = {name: kind_of(arrow.schema.field(name)) for name in labels if name in arrow.column_names}
    return GivenTable(
        str(keep_frame(arrow, folder).absolute()),
        None if not is_pair else labels[0] if len(labels) == 1 else tuple(labels),
        has_classes=list(kinds.values()) == [TypeKind.TEXT],
    )


def _name_of(source: str) -> str:
    """Return what people call a file, directory or database, without its ending."""
    path = urlsplit(source).path if "://" in source else source
    return Path(path).name.partition(".")[0].strip("*?") or "table"
