"""Read rows of a user's own code: a class that loads parts by key, or a generator, kept in files."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError, InputError
from dnnflow.events import Listener, ignore
from dnnflow.paths import directory_aside
from dnnflow.table.rows.array_source import fields_of, loaded_rows
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import Chunk, Reader, Rows, RowSource


class Data:
    """What a user writes to bring rows of their own; any class with `chunks` and `load` will do.

    Example
    -------
    >>> import numpy as np
    >>> class Squares(Data):
    ...     def chunks(self):
    ...         return [0, 100]
    ...     def rows(self, key):
    ...         return 100
    ...     def load(self, key):
    ...         x = np.arange(key, key + 100, dtype="float32")
    ...         return x[:, None], x**2
    >>> UserSource.open(Squares()).rows
    200
    """

    def chunks(self) -> Sequence[Any]:
        """Return the keys of all parts, e.g. names of files; asked once, where the training is started."""
        raise NotImplementedError

    def load(self, key: Any) -> tuple[Any, Any]:
        """Return inputs and targets of a part, each an array (rows, ...) or a tuple, list or dict of them.

        Asked in any process and order, also more than once an epoch: a key must always give the same rows.
        A dict's arrays are taken in alphabetical order of its keys.
        """
        raise NotImplementedError

    def rows(self, key: Any) -> int:
        """Return the rows of a part; unless a class says it, every part is loaded once to count."""
        return len(loaded_rows(self.load(key), f"load({key!r})")[0][0])


@dataclass(frozen=True, kw_only=True)
class UserSource(RowSource):
    """Parts that a user's code loads; make one with `UserSource.open`."""

    maker: str | Data
    """`module:name` of a class or function that returns an object like `Data`, or such an object."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[Any, ...]

    @classmethod
    def open(cls, maker: str | Data, parameters: Mapping[str, Any] | None = None) -> "UserSource":
        """Ask for the keys and count the rows of each.

        Raises
        ------
        InputError
            If there is no such name, or what it makes is not like `Data`.
        DataError
            If there are no rows, or they are not as `Data.load` says.
        """
        parameters = dict(parameters or {})
        made = made_by(maker, parameters)
        if not (hasattr(made, "chunks") and hasattr(made, "load")):
            raise InputError(
                f"own rows need the methods chunks() and load(key), got {type(made).__name__} from "
                f"{maker!r}; write them, see dnnflow.table.rows.user_source.Data"
            )
        keys = tuple(made.chunks())
        counts = tuple(made.rows(key) if hasattr(made, "rows") else Data.rows(made, key) for key in keys)
        if not any(counts):
            raise DataError(f"own rows must be at least 1, got 0 from {maker!r}; return keys of some")
        first = keys[next(index for index, count in enumerate(counts) if count)]
        inputs, targets = fields_of(loaded_rows(made.load(first), f"load({first!r})"))
        return cls(
            inputs=inputs,
            targets=targets,
            counts=counts,
            grains=tuple(max(1, count) for count in counts),  # a part is loaded whole
            maker=maker,
            parameters=parameters,
            keys=keys,
        )

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Keep the part that was loaded last; see `RowSource.reader`."""
        made = made_by(self.maker, self.parameters)
        kept: dict[int, Rows] = {}

        def read(chunk: Chunk) -> Rows:
            if chunk.file not in kept:
                kept.clear()
                kept[chunk.file] = self._load(made, chunk.file)
            inputs, targets = kept[chunk.file]
            return chunk.of(inputs), chunk.of(targets)

        yield read

    def _load(self, made: Any, index: int) -> Rows:
        where = f"load({self.keys[index]!r})"
        rows = loaded_rows(made.load(self.keys[index]), where)
        wanted = self.inputs, self.targets
        got = fields_of(rows), len(rows[0][0])
        if got != (wanted, self.counts[index]):
            raise DataError(
                f"all parts must have the same arrays, and the rows that were counted, got {got[1]} rows of "
                f"{got[0]} from {where}, not {self.counts[index]} of {wanted}; make them alike"
            )
        return rows


def made_by(maker: Any, parameters: Mapping[str, Any]) -> Any:
    """Return what `module:name` makes when it is called with parameters; anything else as it is.

    Raises
    ------
    InputError
        If there is no such module or name.
    """
    if not isinstance(maker, str):
        return maker
    module, _, name = maker.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"own code must be named module:name and be importable, got {maker!r} ({error}); "
            "check the name, and install the module where it runs"
        ) from error
    return function(**parameters)


def keep_blocks(blocks: Iterable[tuple[Any, Any]], directory: Path | str) -> FileList:
    """Write one epoch of a generator's blocks (inputs, targets) to files, one at a time, and list them.

    Rows of a generator cannot be read in any order by many processes; those of files can. Every process must
    see the directory, which is made, and which the caller removes.

    Raises
    ------
    DataError
        If the directory is there already, or blocks have no rows or differ.
    """
    root = Path(directory).absolute()
    if root.exists():
        raise DataError(f"blocks need a new directory, got {root}, which is there; name another or delete it")
    with directory_aside(root) as aside:
        for index, block in enumerate(blocks):
            rows = loaded_rows(block, f"block {index}")
            named = zip(("features", "labels"), rows, strict=True)
            arrays: dict[str, Any] = {
                f"{name}/{i:03}": array for name, group in named for i, array in enumerate(group)
            }
            np.savez(aside / f"{index:08}.npz", **arrays)
    return FileList.open(sorted(root.glob("*.npz")))
