"""Say what a table is made of: texts and typed sources, each with rows of it, and of which types they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from dnnflow.errors import DataError
from dnnflow.events import Listener
from dnnflow.paths import content_id
from dnnflow.table.columns.kinds import Markers
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.formats.keel import KEEL_MISSING, KeelHeader
from dnnflow.table.formats.typed_source import (
    VALUE_BYTES,
    TypedBlock,
    TypedSource,
    TypeKind,
    blocks_of,
    is_nominal,
    kind_of,
    told_of,
)
from dnnflow.table.store.dataset import dataset_id
from dnnflow.table.store.stage_tasks import Tasks
from dnnflow.table.text import csv_reader
from dnnflow.table.text.csv_reader import Block, Dialect, line_of
from dnnflow.table.text.source_text import Text


@dataclass(frozen=True)
class IngestJob:
    """What to make, where, and by what means."""

    recipe: Recipe
    datasets: Path
    scratch: Path
    tasks: Tasks
    listener: Listener
    block_bytes: int


AnyBlock = Block | TypedBlock
Supply = Iterator[tuple[int, AnyBlock]]
"""Blocks of a table, each with the number of the part that it is of."""


@dataclass(frozen=True)
class TextPart:
    """A text with rows of a table."""

    text: Text
    dialect: Dialect
    start: int
    """Offset of its first data row."""
    keel: KeelHeader | None = None
    """Its header, if that is KEEL's."""
    name: str = ""
    """Stands in messages behind the number of a row and a line."""
    encoding: str = ""
    """What it was decoded from, where that is no UTF."""
    is_guessed: bool = False
    """Whether nothing says that encoding."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Of how it is read, what its options say and neither dialect nor encoding."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        return self.dialect.columns

    @property
    def digest(self) -> str:
        """BLAKE3 of the text."""
        return self.text.digest

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read: part of the dataset's identity; nothing where the file says it."""
        if self.keel is not None:
            return {}
        dialect = self.dialect
        return {"delimiter": dialect.delimiter, "quote": dialect.quote, "header": dialect.header}

    @property
    def size(self) -> int:
        """How much there is to read, in bytes."""
        return self.text.end - self.start

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        known = {"bytes": self.text.end - self.text.start, "blake3": self.text.digest}
        known |= {"said": dict(self.said)} if self.said else {}
        return {**known, "encoding": self.encoding} if self.encoding else known

    def blocks(self, names: Sequence[str], block_bytes: int) -> Iterator[Block]:
        """Yield its rows, all columns of them."""
        return iter(csv_reader.blocks(self.text, self.start))

    def place(self, block: AnyBlock, row: int) -> str:
        """Return on which line a row of a block begins, and in which text."""
        return f" (line {line_of(self.text, self.dialect, cast(Block, block), row)}) {self.name}".rstrip()

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was hashed."""
        self.text.check_unchanged()


@dataclass(frozen=True)
class TypedPart:
    """A typed source with rows of a table."""

    source: TypedSource
    name: str = ""
    """Stands in messages behind the number of a row."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Its kind and the options by which it is read; nothing of a table in memory."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(self.source.schema.names)

    @property
    def digest(self) -> str:
        """BLAKE3 of its file or content."""
        return self.source.digest

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read: its file says it."""
        return {}

    @property
    def size(self) -> int:
        """How much there is to read, in bytes of numbers."""
        return self.source.rows * len(self.columns) * VALUE_BYTES

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        known = {"bytes": self.size, "blake3": self.digest}
        return {**known, "said": dict(self.said)} if self.said else known

    def blocks(self, names: Sequence[str], block_bytes: int) -> Iterator[TypedBlock]:
        """Yield the named columns of its rows."""
        return blocks_of(self.source, names, block_bytes)

    def place(self, block: AnyBlock, row: int) -> str:
        """Return of which table a row is."""
        return f" {self.name}".rstrip()

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        self.source.check_unchanged()


TablePart = TextPart | TypedPart


@dataclass(frozen=True)
class Table:
    """A table on its way to a dataset."""

    job: IngestJob
    rows: tuple[TablePart, ...]
    """Its files, in the order of their rows."""
    test: tuple[TablePart, ...] = ()
    """Those of the test rows, if they have some of their own."""

    @property
    def parts(self) -> tuple[TablePart, ...]:
        """All parts, in the order of their blocks."""
        return self.rows + self.test

    @property
    def texts(self) -> list[TextPart]:
        """Those of its parts that are texts."""
        return [part for part in self.parts if isinstance(part, TextPart)]

    @property
    def is_renewed(self) -> bool:
        """Whether datasets by earlier rules have another beginning of a text."""
        typed = (part.source for part in self.parts if isinstance(part, TypedPart))
        return any(part.dialect.skipped for part in self.texts) or any(map(told_of, typed))

    def path(self, *, is_renewed: bool) -> Path:
        """Return the directory of its dataset, once its text is hashed; see `dataset_id`."""
        digest, reading = _identity(self.rows)
        apart = dict(zip(("source", "reading"), _identity(self.test), strict=True)) if self.test else None
        made_of = (digest, reading, self.job.recipe, apart)
        return self.job.datasets / dataset_id(*made_of, is_renewed=is_renewed)

    def of_kind(self, kind: TypeKind) -> frozenset[str]:
        """Return the columns that are of a kind in some typed part."""
        schemas = [part.source.schema for part in self.parts if isinstance(part, TypedPart)]
        return frozenset(one.name for schema in schemas for one in schema if kind_of(one) is kind)

    def supply(self, names: Sequence[str], first: Iterator[AnyBlock] | None = None) -> Supply:
        """Yield the blocks of all parts, numbered; those of the first part may be given."""
        index = 0
        for number, part in enumerate(self.parts):
            given = number == 0 and first is not None
            for block in first if given else part.blocks(names, self.job.block_bytes):  # type: ignore[union-attr]
                yield number, replace(block, index=index)
                index += 1


def _identity(parts: Sequence[TablePart]) -> tuple[str, dict[str, Any]]:
    """Return the hash of some parts, and how they are read."""
    first = parts[0]
    if len(parts) == 1:
        return first.digest, first.reading
    return content_id([[part.digest, part.reading] for part in parts]), first.reading


def summary_of(parts: Sequence[TablePart]) -> dict[str, Any]:
    """Return what a manifest says of some parts."""
    summaries = [part.summary() for part in parts]
    if len(parts) == 1:
        return summaries[0]
    total = sum(one["bytes"] for one in summaries)
    known = {"bytes": total, "blake3": _identity(parts)[0], "files": len(parts)}
    known |= {"said": summaries[0]["said"]} if "said" in summaries[0] else {}
    encodings = {one.get("encoding", "") for one in summaries}
    return {**known, "encoding": encodings.pop()} if len(encodings) == 1 and any(encodings) else known


def declared_text(table: Table) -> frozenset[str]:
    """Return the columns that are text by their type.

    Raises
    ------
    DataError
        If they are numbers in another file.
    """
    found: dict[str, tuple[TypeKind, TablePart]] = {}
    for part in table.parts:
        for name, kind in _declared(part).items():
            known, first = found.setdefault(name, (kind, part))
            if known is not kind:
                raise DataError(
                    f"a column must be of one type in all files, but {name!r} is {known} {first.name} and "
                    f"{kind} {part.name}; convert it in one of them"
                )
    return frozenset(name for name, (kind, _) in found.items() if kind is TypeKind.TEXT)


def _declared(part: TablePart) -> dict[str, TypeKind]:
    if isinstance(part, TypedPart):
        kinds = {field.name: kind_of(field) for field in part.source.schema}
        return {n: kind for n, kind in kinds.items() if kind in (TypeKind.NUMBER, TypeKind.TEXT)}
    return dict.fromkeys(part.keel.nominal, TypeKind.TEXT) if part.keel else {}


def label_markers(table: Table) -> Markers:
    """Return what stands for a missing label.

    Where labels are text by their type, that type has missing values of its own: NA is a class.
    """
    recipe, first = table.job.recipe, table.parts[0]
    if recipe.missing_labels is None and isinstance(first, TypedPart):
        kinds = {kind_of(first.source.schema.field(name)) for name in recipe.labels}
        if TypeKind.MIXED not in kinds:
            return Markers(recipe.missing_values, ())
    markers = recipe.label_markers
    return with_keel(markers) if any(part.keel for part in table.texts) else markers


def with_keel(markers: Markers) -> Markers:
    """Return markers, and those of KEEL files."""
    return replace(markers, standard=(*markers.standard, *KEEL_MISSING))


def nominal_columns(table: Table) -> frozenset[str]:
    """Return the columns whose values are names by a file's word."""
    schemas = [part.source.schema for part in table.parts if isinstance(part, TypedPart)]
    found = {one.name for schema in schemas for one in schema if is_nominal(one)}
    return frozenset(found.union(*(part.keel.nominal for part in table.texts if part.keel)))
