"""Read rows of a user's own code: a class that loads parts by key, or a generator, kept in files."""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError, InputError
from dnnflow.events import Listener, ignore
from dnnflow.paths import directory_aside
from dnnflow.table.rows.array_source import (
    ArraySource,
    Given,
    GivenArray,
    arrays_of,
    fields_of,
    given_rows,
)
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import Chunk, Reader, Rows, RowSource

MOST_HELD_BYTES = 1 << 30
"""Of a generator's blocks that are held in memory, from which they travel to each replica."""


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

    def load(self, key: Any) -> tuple[Any, ...]:
        """Return inputs, targets and perhaps weights: arrays (rows, ...), or tuples, lists or dicts of them.

        Asked in any process and order, also more than once an epoch: a key must always give the same rows.
        A dict's arrays go to the model's inputs or outputs of these names.
        """
        raise NotImplementedError

    def rows(self, key: Any) -> int:
        """Return the rows of a part; unless a class says it, every part is loaded once to count."""
        return len(given_rows(self.load(key), f"load({key!r})")[0][0].values)


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
        inputs, targets, weights = fields_of(given_rows(made.load(first), f"load({first!r})"))
        return cls(
            inputs=inputs,
            targets=targets,
            weights=weights,
            counts=counts,
            grains=tuple(max(1, count) for count in counts),  # a part is loaded whole
            maker=maker,
            parameters=parameters,
            keys=keys,
        )

    def file_name(self, file: int) -> str:
        """Return the key."""
        return f"load({self.keys[file]!r})"

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator[Reader]:
        """Keep the part that was loaded last; see `RowSource.reader`."""
        made = made_by(self.maker, self.parameters)
        kept: dict[int, Rows] = {}

        def read(chunk: Chunk) -> Rows:
            if chunk.file not in kept:
                kept.clear()
                kept[chunk.file] = self._load(made, chunk.file)
            return tuple(chunk.of(side) for side in kept[chunk.file])

        yield read

    def _load(self, made: Any, index: int) -> Rows:
        where = f"load({self.keys[index]!r})"
        rows = given_rows(made.load(self.keys[index]), where)
        wanted = self.inputs, self.targets, self.weights
        got = fields_of(rows), len(rows[0][0].values)
        if got != (wanted, self.counts[index]):
            raise DataError(
                f"all parts must have the same arrays, and the rows that were counted, got {got[1]} rows of "
                f"{got[0]} from {where}, not {self.counts[index]} of {wanted}; make them alike"
            )
        return arrays_of(rows)


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


@dataclass(frozen=True)
class IndexedBatches(Data):
    """Batches that an object with `len` and an index gives in any order, as Keras' `PyDataset` does."""

    given: Any

    def chunks(self) -> Sequence[Any]:
        """Return the indices."""
        try:
            return range(len(self.given))
        except (TypeError, NotImplementedError) as error:
            raise InputError(
                f"a PyDataset must have a length, got {type(self.given).__name__} without; define __len__"
            ) from error

    def load(self, key: Any) -> tuple[Any, ...]:
        """Return a batch."""
        found: tuple[Any, ...] = self.given[key]
        return found


def hold_blocks(blocks: Iterable[Any]) -> ArraySource:
    """Put one epoch of a generator's blocks (inputs, targets, perhaps weights) together in memory.

    Raises
    ------
    DataError
        If blocks have no rows or differ, or are too many for memory.
    """
    held: list[tuple[Given, ...]] = []
    held_bytes = 0
    for index, block in enumerate(blocks):
        held.append(given_rows(block, f"block {index}"))
        _check_block(held[0], held[-1], index)
        held_bytes += sum(one.values.nbytes for side in held[-1] for one in side)
        if held_bytes > MOST_HELD_BYTES:
            raise DataError(
                f"the blocks of one epoch must end, and fit in {MOST_HELD_BYTES >> 20} MiB, got more in "
                f"{index + 1} blocks; cut what is endless by itertools.islice(generator, blocks), or set "
                "cache_dir, where they are kept in files"
            )
    if not held:
        raise DataError("a generator must give at least 1 block, got 0; was it used up before?")
    sides = [
        tuple(
            GivenArray(np.concatenate([one.values for one in same]), same[0].key, same[0].columns)
            for same in zip(*side, strict=True)
        )
        for side in zip(*held, strict=True)
    ]
    return ArraySource.of(tuple(sides))


def keep_blocks(blocks: Iterable[Any], directory: Path | str) -> RowSource:
    """Write one epoch of a generator's blocks to files, one at a time, and list them.

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
    first: tuple[Given, ...] | None = None
    with directory_aside(root) as aside:
        for index, block in enumerate(blocks):
            given = given_rows(block, f"block {index}")
            first = first or given
            _check_block(first, given, index)
            np.savez(aside / f"{index:08}.npz", **_numbered(given))
    if first is None:
        raise DataError("a generator must give at least 1 block, got 0; was it used up before?")
    names = [tuple(name for name in _numbered(first) if name.startswith(side)) for side in _SIDES]
    files = FileList.open(sorted(root.glob("*.npz")), features=names[0], labels=names[1], weights=names[2])
    inputs, targets, weights = fields_of(first)  # by the names that they were given by
    return replace(files, inputs=inputs, targets=targets, weights=weights)


_SIDES = ("features", "labels", "weights")


def _numbered(given: tuple[Given, ...]) -> dict[str, Any]:
    named = zip(_SIDES, given, strict=False)
    return {f"{name}/{i:03}": one.values for name, side in named for i, one in enumerate(side)}


def _check_block(first: tuple[Given, ...], block: tuple[Given, ...], index: int) -> None:
    wanted, got = fields_of(first), fields_of(block)
    if wanted != got:
        raise DataError(
            f"all blocks must have the same arrays, got {got} in block {index}, not {wanted} as in block 0; "
            "make them alike"
        )
