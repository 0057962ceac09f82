"""Parse a table's text in blocks of columns, that stay in memory or go to disk."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError
from dnnflow.events import Listener, RowsRead
from dnnflow.table.columns.kinds import ColumnKind, FeatureColumn, check_columns, quoted
from dnnflow.table.columns.marks import MarkColumn
from dnnflow.table.columns.recipe import Recipe
from dnnflow.table.columns.statistics import KeptBlock
from dnnflow.table.store.dataset import dataset_id
from dnnflow.table.store.stage_tasks import Tasks
from dnnflow.table.text import csv_reader
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, line_of, located
from dnnflow.table.text.inference import (
    BadValue,
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


@dataclass(frozen=True)
class TableText:
    """A text with rows of a table."""

    text: Text
    dialect: Dialect
    start: int
    """Offset of its first data row."""
    first_block: int = 0
    """Number of its first block among those of the table."""
    name: str = ""
    """Stands in messages behind the number of a row and a line."""

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read: part of the dataset's identity."""
        dialect = self.dialect
        return {"delimiter": dialect.delimiter, "quote": dialect.quote, "header": dialect.header}

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"bytes": self.text.end - self.text.start, "blake3": self.text.digest}

    def first_row(self, kept: Sequence[KeptBlock]) -> int:
        """Return the number of its first row in the table."""
        return kept[self.first_block].first_row if self.first_block else 0


@dataclass(frozen=True)
class Table:
    """A table on its way to a dataset."""

    job: IngestJob
    first: TableText
    test: TableText | None = None
    """The text of the test rows, if they have one of their own."""

    @property
    def texts(self) -> list[TableText]:
        """All texts, in the order of their blocks."""
        return [self.first] if self.test is None else [self.first, self.test]

    def text_of(self, block: int) -> TableText:
        """Return the text that a block is of."""
        return self.first if self.test is None or block < self.test.first_block else self.test

    @property
    def path(self) -> Path:
        """Directory of its dataset, once its text is hashed."""
        first, recipe, test = self.first, self.job.recipe, self.test
        apart = None if test is None else {"source": test.text.digest, "reading": test.reading}
        return self.job.datasets / dataset_id(first.text.digest, first.reading, recipe, apart)


@dataclass(frozen=True)
class Parsed:
    """A table's parsed blocks, and what its columns are."""

    blocks: list[KeptBlock]
    rows: int
    columns: list[FeatureColumn]
    """The features."""
    labels: dict[str, ColumnFacts]
    """Of each label, without those of test rows that have a text of their own."""
    sources: list[Block]
    """The text of each block."""
    mark: MarkColumn | None = None
    """The column that divides the rows, if there is one."""

    def where(self, table: Table, place: BadValue) -> str:
        """Return a row's number in the table and its line in the text."""
        return _where(table, self.blocks, self.sources, place)


def parse_table(table: Table, supply: Iterator[Block]) -> Parsed:
    """Parse the text; a second time in the rare case that later blocks change the type of a column."""
    head = next(supply)
    plan = _plan(table, head)
    read = _parse_by(table, plan, chain([head], supply))
    kinds = _kinds(table, plan, read)
    text = frozenset(n for n, kind in kinds.items() if kind in (ColumnKind.TEXT, ColumnKind.BOOLEAN))
    undecided = frozenset(n for n, kind in kinds.items() if kind is ColumnKind.EMPTY)
    if text - undecided != plan.text - undecided:
        plan = replace(plan, text=text)
        read = _parse_by(table, plan, iter(read.sources))
        kinds = _kinds(table, plan, read)
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


def _plan(table: Table, head: Block) -> ParsePlan:
    recipe, first = table.job.recipe, table.first
    names = first.dialect.columns
    divides, weights = tuple(recipe.mark.values()), (recipe.weights,) if recipe.weights is not None else ()
    listed = {"drop": recipe.drop, "text_columns": recipe.text_columns, "weights": weights,
              **dict.fromkeys(recipe.mark, divides)}  # fmt: skip
    check_columns(names, recipe.labels, listed)
    mark = (*divides, *weights)
    features = tuple(n for n in names if n not in (*recipe.labels, *mark, *recipe.drop))
    forced = frozenset(recipe.text_columns) & frozenset(features)
    if table.test is not None:
        _check_same(names, table.test.dialect.columns)
    quick = first.text.end - first.text.start >= csv_reader.QUICK_BYTES
    draft = ParsePlan(first.dialect, recipe.labels, features, forced, recipe.missing_values, quick, mark)
    cutter = Cutter(first.dialect.quote.encode(), head.start, _SAMPLE_BYTES)
    cutter.feed(head.read())
    sample = replace(head, end=min([*cutter.cuts, head.end]), held=None)
    try:
        return first_plan(sample, draft)
    except RowError as error:
        raise located(error, 0, first.text, first.dialect, head) from None


def _check_same(names: Sequence[str], test_names: Sequence[str]) -> None:
    """Refuse test rows with other columns than the table's; their order does not matter."""
    if sorted(names) != sorted(test_names):
        raise DataError(
            f"test_source must have the columns of the table, in any order: {_listed(names, test_names)}; "
            f"got {_listed(test_names, names)}; give it the same header"
        )


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return names of columns as a message lists them: those that the others have not come first."""
    ordered = sorted(names, key=lambda name: name in others)
    return ", ".join(map(quoted, ordered[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)


@dataclass
class _Read:
    """The blocks parsed so far."""

    sources: list[Block]
    kept: list[KeptBlock]
    facts: dict[str, ColumnFacts]
    rows: int = 0
    done: int = 0
    """Text that was parsed, in bytes."""
    held: int = 0
    """Memory that kept blocks take, in bytes."""


def _parse_by(table: Table, plan: ParsePlan, supply: Iterable[Block]) -> _Read:
    read = _Read([], [], {name: ColumnFacts() for name in (*plan.features, *plan.labels, *plan.mark)})
    limit = HELD_BYTES if table.job.tasks.in_process else 0
    total = sum(one.text.end - one.start for one in table.texts)

    def calls() -> Iterator[tuple[Block, ParsePlan, Path | None]]:
        for block in supply:
            read.sources.append(replace(block, held=None))
            own = replace(plan, dialect=table.text_of(block.index).dialect)
            yield block, own, _path(table, block) if read.held >= limit else None

    for i, facts in enumerate(table.job.tasks.run("parse", parse_block, calls())):
        block, own = read.sources[i], table.text_of(i)
        if facts.error:
            row, reason = facts.error
            before = read.rows - own.first_row(read.kept) if i > own.first_block else 0
            raise located(
                RowError(row, f"{own.name} {reason}".lstrip()), before, own.text, own.dialect, block
            )
        if own is table.test:
            for name in plan.labels:
                del facts.columns[name]
        merge_facts(read.facts, facts, plan)
        read.kept.append(KeptBlock(_path(table, block), read.rows, facts.rows, facts.kept))
        read.held += facts.kept.nbytes if facts.kept is not None else 0
        read.rows += facts.rows
        read.done += block.end - block.start
        table.job.listener(RowsRead(read.rows, read.done, total))
    return read


def _path(table: Table, block: Block) -> Path:
    return table.job.scratch / f"{block.index}.npy"


def _kinds(table: Table, plan: ParsePlan, read: _Read) -> dict[str, ColumnKind]:
    """Decide what the features are, and refuse the first value that does not fit."""
    forced = set(table.job.recipe.text_columns)
    kinds = {n: decide(read.facts[n], forced_text=n in forced) for n in plan.features}
    faults = [fault(n, kind, read.facts[n], forced_text=n in forced) for n, kind in kinds.items()]
    placed = [(place, reason) for place, reason in faults if place is not None]
    if placed:
        place, reason = min(placed, key=lambda p: (p[0].block, p[0].row))
        raise DataError(f"{_where(table, read.kept, read.sources, place)}, {reason}")
    for _, reason in faults:
        if reason:
            raise DataError(reason)
    return kinds


def _where(table: Table, kept: list[KeptBlock], sources: list[Block], place: BadValue) -> str:
    own = table.text_of(place.block)
    row = kept[place.block].first_row - own.first_row(kept) + place.row
    line = line_of(own.text, own.dialect, sources[place.block], place.row)
    return f"row {row} (line {line}) {own.name}".rstrip()
