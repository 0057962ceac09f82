"""Read a table's parts in blocks of columns, that stay in memory or go to disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from dnnflow.errors import DataError
from dnnflow.events import Listener, RowsRead
from dnnflow.paths import content_id
from dnnflow.table.columns.kinds import ColumnKind, FeatureColumn, check_columns, quoted
from dnnflow.table.columns.marks import MarkColumn
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.statistics import KeptBlock
from dnnflow.table.formats.keel import KEEL_MISSING, KeelHeader
from dnnflow.table.formats.typed_source import (
    VALUE_BYTES,
    TypedBlock,
    TypedSource,
    TypeKind,
    blocks_of,
    check_features,
    check_marks,
    kind_of,
    no_rows,
    parse_typed,
)
from dnnflow.table.store.dataset import dataset_id
from dnnflow.table.store.stage_tasks import Tasks
from dnnflow.table.text import csv_reader
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, line_of, located
from dnnflow.table.text.inference import (
    BadValue,
    BlockFacts,
    ColumnFacts,
    ParsePlan,
    check_label,
    decide,
    fault,
    first_plan,
    merge_facts,
    parse_block,
)
from dnnflow.table.text.source_text import Cutter, Text

HELD_BYTES = 512 << 20
"""Parsed columns up to so many bytes stay in memory, in this process; the others go to disk."""

_SAMPLE_BYTES = 1 << 16
_MOST_NAMES = 20
"""Of columns in a message."""


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
        return {"bytes": self.text.end - self.text.start, "blake3": self.text.digest}

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
        return {"bytes": self.size, "blake3": self.digest}

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
    def path(self) -> Path:
        """Directory of its dataset, once its text is hashed."""
        digest, reading = _identity(self.rows)
        apart = dict(zip(("source", "reading"), _identity(self.test), strict=True)) if self.test else None
        return self.job.datasets / dataset_id(digest, reading, self.job.recipe, apart)

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
    return {"bytes": total, "blake3": _identity(parts)[0], "files": len(parts)}


@dataclass(frozen=True)
class Parsed:
    """A table's parsed blocks, and what its columns are."""

    blocks: list[KeptBlock]
    rows: int
    columns: list[FeatureColumn]
    """The features."""
    labels: dict[str, ColumnFacts]
    """Of each label, without those of test rows that have a text of their own."""
    sources: list[tuple[int, AnyBlock]]
    """The part and what is to be read of each block."""
    mark: MarkColumn | None = None
    """The column that divides the rows, if there is one."""

    def where(self, table: Table, place: BadValue) -> str:
        """Return a row's number in the table and its line in the text."""
        return _where(table, self.blocks, self.sources, place)


def parse_table(table: Table, stream: Iterator[Block] | None = None) -> Parsed:
    """Parse all parts; a second time in the rare case that later blocks change the type of a column.

    `stream` yields the blocks of the first part, if that is a text that is still being read.
    """
    declared = _declared_text(table)
    plan, supply = _plan(table, declared, stream)
    read = _parse_by(table, plan, supply)
    kinds = _kinds(table, plan, read, declared)
    text = frozenset(n for n, kind in kinds.items() if kind in (ColumnKind.TEXT, ColumnKind.BOOLEAN))
    undecided = frozenset(n for n, kind in kinds.items() if kind is ColumnKind.EMPTY)
    if text - undecided != plan.text - undecided:
        plan = replace(plan, text=text)
        again = (block for number, block in read.sources if number == 0)
        first = again if isinstance(table.parts[0], TextPart) else None
        read = _parse_by(table, plan, table.supply(_names(plan), first))
        kinds = _kinds(table, plan, read, declared)
    labels = {name: read.facts[name] for name in plan.labels}
    for name, facts in labels.items():
        check_label(name, facts)
    if not text and ColumnKind.NUMBER not in kinds.values():
        raise DataError(
            f"a table needs a feature column with values, got none besides the label "
            f"{', '.join(map(repr, labels))}; "
            "check delimiter and drop"
        )
    columns = [
        FeatureColumn(name, kind, 1 - read.facts[name].values / read.rows) for name, kind in kinds.items()
    ]
    mark = _mark(table.job.recipe, read.facts[plan.mark[0]]) if table.job.recipe.mark else None
    return Parsed(read.kept, read.rows, columns, labels, read.sources, mark)


def _mark(recipe: Recipe, facts: ColumnFacts) -> MarkColumn:
    first = facts.first_text.value if facts.first_text else ""
    return MarkColumn.of(recipe, numbers=2 * facts.numbers >= facts.values, first_text=first)


def _names(plan: ParsePlan) -> tuple[str, ...]:
    """Return the columns that are read."""
    return (*plan.features, *plan.labels, *plan.mark)


def _plan(table: Table, declared: frozenset[str], stream: Iterator[Block] | None) -> tuple[ParsePlan, Supply]:
    """Return how to parse a table, and its blocks."""
    first, draft = table.parts[0], _draft(table, declared)
    if isinstance(first, TypedPart):
        kinds = {name: kind_of(first.source.schema.field(name)) for name in draft.features}
        plan = replace(draft, text=draft.text | {n for n, kind in kinds.items() if kind is TypeKind.MIXED})
        return plan, table.supply(_names(plan))
    coming = first.blocks((), table.job.block_bytes) if stream is None else stream
    head = next(coming)
    cutter = Cutter(first.dialect.quote.encode(), head.start, _SAMPLE_BYTES)
    cutter.feed(head.read())
    sample = replace(head, end=min([*cutter.cuts, head.end]), held=None)
    try:
        plan = first_plan(sample, draft)
    except RowError as error:
        raise located(error, 0, first.text, first.dialect, head) from None
    return plan, table.supply(_names(plan), chain([head], coming))


def _draft(table: Table, declared: frozenset[str]) -> ParsePlan:
    """Return what is known of how to parse a table before its rows are seen."""
    recipe, first = table.job.recipe, table.parts[0]
    names = first.columns
    divides, weights = tuple(recipe.mark.values()), (recipe.weights,) if recipe.weights is not None else ()
    listed = {"drop": recipe.drop, "text_columns": recipe.text_columns, "weights": weights,
              **dict.fromkeys(recipe.mark, divides)}  # fmt: skip
    check_columns(names, recipe.labels, listed)
    mark = (*divides, *weights)
    features = tuple(n for n in names if n not in (*recipe.labels, *mark, *recipe.drop))
    for part in table.parts:
        if part is not first:
            _check_same(names, part, is_test=part in table.test)
        if isinstance(part, TypedPart):
            check_features(part.source.schema, (*features, *recipe.labels))
            check_marks(part.source.schema, mark)
    is_text = isinstance(first, TextPart)
    quick = is_text and first.size >= csv_reader.QUICK_BYTES
    dialect = first.dialect if isinstance(first, TextPart) else Dialect("", "", True, names)
    has_keel = any(isinstance(part, TextPart) and part.keel for part in table.parts)
    missing = (*recipe.missing_values, *KEEL_MISSING) if has_keel else recipe.missing_values
    forced = (frozenset(recipe.text_columns) | declared) & frozenset(features)
    return ParsePlan(dialect, recipe.labels, features, forced, missing, quick, mark)


def _declared_text(table: Table) -> frozenset[str]:
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


def _check_same(names: Sequence[str], part: TablePart, *, is_test: bool) -> None:
    """Refuse a part with other columns than the first has; their order does not matter."""
    test_names = part.columns
    if sorted(names) != sorted(test_names):
        rule = "test_source" if is_test else f"each file, such as that {part.name},"
        raise DataError(
            f"{rule} must have the columns of the table, in any order: {_listed(names, test_names)}; "
            f"got {_listed(test_names, names)}; give it the same header"
        )


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return names of columns as a message lists them: those that the others have not come first."""
    ordered = sorted(names, key=lambda name: name in others)
    return ", ".join(map(quoted, ordered[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)


@dataclass
class _Read:
    """The blocks parsed so far."""

    sources: list[tuple[int, AnyBlock]]
    kept: list[KeptBlock]
    facts: dict[str, ColumnFacts]
    rows: int = 0
    done: int = 0
    """Text that was parsed, in bytes."""
    held: int = 0
    """Memory that kept blocks take, in bytes."""


def _parse_by(table: Table, plan: ParsePlan, supply: Supply) -> _Read:
    read = _Read([], [], {name: ColumnFacts() for name in (*plan.features, *plan.labels, *plan.mark)})
    limit = HELD_BYTES if table.job.tasks.in_process else 0
    total = sum(part.size for part in table.parts)

    def calls() -> Iterator[tuple[AnyBlock, ParsePlan, Path | None]]:
        for number, block in supply:
            read.sources.append((number, replace(block, held=None)))
            part = table.parts[number]
            own = replace(plan, dialect=part.dialect) if isinstance(part, TextPart) else plan
            if isinstance(block, TypedBlock) and not table.job.tasks.in_process:
                block = block.written(_path(table, block).with_suffix(".typed"))
            yield block, own, _path(table, block) if read.held >= limit else None

    for i, facts in enumerate(table.job.tasks.run("parse", parse_any, calls())):
        number, block = read.sources[i]
        if facts.error:
            row, reason = facts.error
            raise DataError(f"{_where(table, read.kept, read.sources, BadValue(i, row, ''))} {reason}")
        if number >= len(table.rows):
            for name in plan.labels:
                del facts.columns[name]
        merge_facts(read.facts, facts, plan)
        read.kept.append(KeptBlock(_path(table, block), read.rows, facts.rows, facts.kept))
        read.held += facts.kept.nbytes if facts.kept is not None else 0
        read.rows += facts.rows
        read.done += _size(block, table.parts[number])
        table.job.listener(RowsRead(read.rows, read.done, total))
    if not read.rows:
        raise no_rows()
    return read


def parse_any(block: AnyBlock, plan: ParsePlan, spill: Path | None) -> BlockFacts:
    """Parse one block of text, or of a typed source."""
    if isinstance(block, TypedBlock):
        return parse_typed(block, plan, spill)
    return parse_block(block, plan, spill)


def _size(block: AnyBlock, part: TablePart) -> int:
    if isinstance(block, TypedBlock):
        return block.rows * len(part.columns) * VALUE_BYTES
    return block.end - block.start


def _path(table: Table, block: AnyBlock) -> Path:
    return table.job.scratch / f"{block.index}.npy"


def _kinds(table: Table, plan: ParsePlan, read: _Read, declared: frozenset[str]) -> dict[str, ColumnKind]:
    """Decide what the features are, and refuse the first value that does not fit."""
    forced = set(table.job.recipe.text_columns)
    kinds = {n: decide(read.facts[n], forced_text=n in forced or n in declared) for n in plan.features}
    faults = [fault(n, kind, read.facts[n], forced_text=n in forced) for n, kind in kinds.items()]
    placed = [(place, reason) for place, reason in faults if place is not None]
    if placed:
        place, reason = min(placed, key=lambda p: (p[0].block, p[0].row))
        raise DataError(f"{_where(table, read.kept, read.sources, place)}, {reason}")
    for _, reason in faults:
        if reason:
            raise DataError(reason)
    return kinds


def _where(table: Table, kept: list[KeptBlock], sources: list[tuple[int, AnyBlock]], place: BadValue) -> str:
    """Return the number of a row in its part, and where else it is found."""
    number, block = sources[place.block]
    first = next(i for i, (one, _) in enumerate(sources) if one == number)
    before = 0 if first == place.block else kept[place.block - 1].first_row + kept[place.block - 1].rows
    row = before - (kept[first].first_row if first < len(kept) and before else 0) + place.row
    return f"row {row}{table.parts[number].place(block, place.row)}"
