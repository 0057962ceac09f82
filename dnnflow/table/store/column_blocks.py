"""Parse a table's text in blocks of columns, that stay in memory or go to disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError
from dnnflow.events import Listener, RowsRead
from dnnflow.table.columns.dressing import COMMA, NumberStyle, told
from dnnflow.table.columns.kinds import (
    HEADERLESS,
    ColumnKind,
    FeatureColumn,
    check_columns,
    in_a_list,
    looks_like_values,
    quoted,
)
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
    dressed_style,
    fault,
    first_plan,
    is_dressed,
    merge_facts,
    parse_block,
    units_fault,
)
from dnnflow.table.text.source_text import Cutter, Text

HELD_BYTES = 512 << 20
"""Parsed columns up to so many bytes stay in memory, in this process; the others go to disk."""

_SAMPLE_BYTES = 1 << 16
_LEAST_RUNNING = 9
"""Rows beyond which a column that counts them is one by more than chance."""
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
    encoding: str = ""
    """What it was decoded from, where that is no UTF."""
    is_guessed: bool = False
    """Whether nothing says that encoding."""

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read: part of the dataset's identity."""
        dialect = self.dialect
        return {"delimiter": dialect.delimiter, "quote": dialect.quote, "header": dialect.header}

    def summary(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        known = {"bytes": self.text.end - self.text.start, "blake3": self.text.digest}
        return {**known, "encoding": self.encoding} if self.encoding else known

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
    def is_renewed(self) -> bool:
        """Whether datasets by earlier rules have another beginning of a text."""
        return any(one.dialect.skipped for one in self.texts)

    def path(self, *, is_renewed: bool) -> Path:
        """Return the directory of its dataset, once its text is hashed; see `dataset_id`."""
        first, recipe, test = self.first, self.job.recipe, self.test
        apart = None if test is None else {"source": test.text.digest, "reading": test.reading}
        digest = first.text.digest
        return self.job.datasets / dataset_id(digest, first.reading, recipe, apart, is_renewed=is_renewed)


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
    styles: Mapping[str, NumberStyle] = field(default_factory=dict)
    """How the numbers of features are dressed."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    is_renewed: bool = False
    """Whether datasets by earlier rules read some of it otherwise."""

    def where(self, table: Table, place: BadValue) -> str:
        """Return a row's number in the table and its line in the text."""
        return _where(table, self.blocks, self.sources, place)


def parse_table(table: Table, supply: Iterator[Block]) -> Parsed:
    """Parse the text; again in the rare case that later blocks change what a column is."""
    head = next(supply)
    plan = _plan(table, head)
    read = _parse_by(table, plan, chain([head], supply))
    while (corrected := _corrected(plan, read)) != plan:
        if not _is_learning(plan, read):
            _kinds(table, corrected, read)
        plan = corrected
        read = _parse_by(table, plan, iter(read.sources))
    kinds = _kinds(table, plan, read)
    labels = {name: read.facts[name] for name in plan.labels}
    for name, facts in labels.items():
        check_label(name, facts)
    if all(kind is ColumnKind.EMPTY for kind in kinds.values()):
        raise DataError(
            f"a table needs a feature column with values, got none besides the label "
            f"{', '.join(map(repr, labels))}; "
            "check delimiter and drop"
        )
    columns = [
        FeatureColumn(name, kind, 1 - read.facts[name].values / read.rows) for name, kind in kinds.items()
    ]
    mark = _mark(table.job.recipe, read.facts[plan.mark[0]]) if table.job.recipe.mark else None
    styles = {
        name: _settled(plan.styles[name], read.facts[name]) for name in plan.features if name in plan.styles
    }
    own = {name for name, style in plan.styles.items() if style.any_affix}
    is_renewed = read.is_renewed or table.is_renewed or bool(styles.keys() - own)
    return Parsed(read.kept, read.rows, columns, labels, read.sources, mark, styles,
                  (*_notes_of_text(table), *_notes(plan, read, styles)), is_renewed)  # fmt: skip


def _settled(style: NumberStyle, facts: ColumnFacts) -> NumberStyle:
    """Return a column's style with the unit that was found in it."""
    affix = next((one for one in sorted(facts.dress.affixes) if one), "")
    return replace(style, affix=affix, any_affix=False)


def _is_learning(plan: ParsePlan, read: "_Read") -> bool:
    """Say whether a column of numbers has dressed ones, so that all its texts are to be looked at."""
    return any(is_dressed(read.facts[n]) for n in plan.features if n not in plan.text and n not in plan.exact)


def _corrected(plan: ParsePlan, read: "_Read") -> ParsePlan:
    """Return a plan by the facts of all blocks; columns without a value stay what they are."""
    text, styles = set(plan.text), dict(plan.styles)
    for name in plan.features:
        facts = read.facts[name]
        if not facts.values:
            continue
        is_text = name in plan.text
        style = dressed_style(name, facts, plan) if is_text else None
        learns = not is_text and name not in plan.exact and is_dressed(facts)
        kind = decide(facts, forced_text=name in plan.exact)
        (text.add if style or learns or kind is not ColumnKind.NUMBER else text.discard)(name)
        styles.pop(name, None)
        if style is not None:
            styles[name] = style
    return replace(plan, text=frozenset(text), styles=styles)


def _notes_of_text(table: Table) -> Iterator[str]:
    dialect, encoding = table.first.dialect, table.first.encoding
    if table.first.is_guessed:
        yield f"the text is not UTF-8 and was read as {encoding}; if letters are wrong, set encoding"
    if dialect.skipped:
        yield f"lines that are no rows are left out: {in_a_list(dialect.skipped, 3)}"
    if dialect.header and looks_like_values(dialect.columns):
        yield f"the first line, {in_a_list(dialect.columns, 5)}, is taken for names{HEADERLESS}"


def _notes(plan: ParsePlan, read: "_Read", styles: Mapping[str, NumberStyle]) -> Iterator[str]:
    unnamed = plan.dialect.unnamed
    for name, style in styles.items():
        if example := read.facts[name].dress.example:
            yield told(name, style, example)
    for name in plan.doubtful:
        yield (
            f"column {name!r}: its points are read as beginning fractions, of three digits each; if they "
            f'separate thousands, set numbers: {{{name}: "{COMMA}"}}'
        )
    if missed := [one for one in plan.markers.own if one and one not in read.found]:
        yield f"missing_values: {in_a_list(missed)} stands nowhere in the table; check how it is written"
    for name in plan.features:
        begins = read.facts[name].begins
        if begins is not None and read.rows > _LEAST_RUNNING and begins in (0.0, 1.0):
            what = "has no name and counts" if name in unnamed else "counts"
            last = begins + read.rows - 1
            yield (
                f"column {name!r} {what} the rows, {begins:g} to {last:.0f}: it looks like a row number; "
                f"if it is, drop it: drop: [{name}]"
            )


def _mark(recipe: Recipe, facts: ColumnFacts) -> MarkColumn:
    first = facts.first_text.value if facts.first_text else ""
    return MarkColumn.of(recipe, numbers=2 * facts.numbers >= facts.values, first_text=first)


def _plan(table: Table, head: Block) -> ParsePlan:
    recipe, first = table.job.recipe, table.first
    names = first.dialect.columns
    divides, weights = tuple(recipe.mark.values()), (recipe.weights,) if recipe.weights is not None else ()
    listed = {"drop": recipe.drop, "text_columns": recipe.text_columns, "weights": weights,
              "numbers": tuple(recipe.styles), **dict.fromkeys(recipe.mark, divides)}  # fmt: skip
    check_columns(names, recipe.labels, listed)
    mark = (*divides, *weights)
    features = tuple(n for n in names if n not in (*recipe.labels, *mark, *recipe.drop))
    forced = frozenset(recipe.text_columns) & frozenset(features)
    if table.test is not None:
        _check_same(names, table.test.dialect.columns)
    quick = first.text.end - first.text.start >= csv_reader.QUICK_BYTES
    styles = {n: style for n, style in recipe.styles.items() if n in {*features, *recipe.labels}}
    draft = ParsePlan(first.dialect, recipe.labels, features, forced, recipe.markers, quick, mark,
                      recipe.label_markers, frozenset(recipe.text_columns), styles)  # fmt: skip
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
    found: set[str] = field(default_factory=set)
    """The user's markers of missing values that stand in the table."""
    is_renewed: bool = False


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
        read.found |= facts.found
        read.is_renewed |= facts.is_renewed
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
    kinds, faults = {}, []
    for name in plan.features:
        facts, style, forced = read.facts[name], plan.styles.get(name), name in plan.exact
        if style is not None and not style.any_affix:  # all of its values are numbers in that dress
            facts = replace(facts, numbers=facts.values, first_text=None)
        kinds[name] = decide(facts, forced_text=forced)
        if style is not None and facts.values:
            kinds[name] = ColumnKind.NUMBER
            faults.append(units_fault(name, facts))
        faults.append(fault(name, kinds[name], facts, forced_text=forced))
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
