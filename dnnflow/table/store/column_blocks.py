"""Read a table's parts in blocks of columns, that stay in memory or go to disk."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from dnnflow.errors import DataError
from dnnflow.events import RowsRead
from dnnflow.table.columns import times
from dnnflow.table.columns.dressing import COMMA, NEARLY, NumberStyle, looks_like_amount, told
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
from dnnflow.table.columns.times import TimeStyle
from dnnflow.table.formats.typed_source import (
    VALUE_BYTES,
    TypedBlock,
    TypeKind,
    check_features,
    check_marks,
    no_rows,
    parse_typed,
    time_style,
    told_of,
    type_faults,
)
from dnnflow.table.store.table_parts import (
    AnyBlock,
    Supply,
    Table,
    TablePart,
    TextPart,
    TypedPart,
    declared_text,
    label_markers,
    nominal_columns,
    with_keel,
)
from dnnflow.table.text import csv_reader
from dnnflow.table.text.blanks import BLANK
from dnnflow.table.text.column_faults import all_faults, fault, units_fault, zones_fault
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, located
from dnnflow.table.text.inference import (
    BadValue,
    BlockFacts,
    ColumnFacts,
    ParsePlan,
    check_label,
    decide,
    dressed_style,
    first_plan,
    is_dressed,
    merge_facts,
    parse_block,
)
from dnnflow.table.text.source_text import Cutter

HELD_BYTES = 512 << 20
"""Parsed columns up to so many bytes stay in memory, in this process; the others go to disk."""

_SAMPLE_BYTES = 1 << 16
_LEAST_AMOUNTS = 10
"""Different texts from which on a column of them may be amounts rather than categories."""
_LEAST_RUNNING = 9
"""Rows beyond which a column that counts them is one by more than chance."""
_MOST_NAMES = 20
"""Of columns in a message."""


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
    styles: Mapping[str, NumberStyle | TimeStyle] = field(default_factory=dict)
    """How the numbers and times of features are written."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    is_renewed: bool = False
    """Whether datasets by earlier rules read some of it otherwise."""

    def where(self, table: Table, place: BadValue) -> str:
        """Return a row's number in the table and its line in the text."""
        return _where(table, self.blocks, self.sources, place)


def parse_table(table: Table, stream: Iterator[Block] | None = None) -> Parsed:
    """Parse all parts; again in the rare case that later blocks change what a column is.

    `stream` yields the blocks of the first part, if that is a text that is still being read.
    """
    plan, supply = _plan(table, stream)
    read = _parse_by(table, plan, supply)
    while (corrected := _corrected(plan, read)) != plan:
        if not _is_learning(plan, read):
            _kinds(table, corrected, read)
        plan = corrected
        again = (block for number, block in read.sources if number == 0)
        first = again if isinstance(table.parts[0], TextPart) else None
        read = _parse_by(table, plan, table.supply(_names(plan), first))
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
    own = {name for name, style in plan.styles.items() if style.is_asked}
    is_renewed = read.is_renewed or table.is_renewed or bool(styles.keys() - own)
    notes = (*text_notes(table.texts), *typed_notes(table.parts), *_notes(plan, read, styles))
    return Parsed(read.kept, read.rows, columns, labels, read.sources, mark, styles, notes, is_renewed)


def _settled(style: NumberStyle | TimeStyle, facts: ColumnFacts) -> NumberStyle | TimeStyle:
    """Return a column's style with the unit or the zone that was found in it."""
    if isinstance(style, TimeStyle):
        has_zone = style.has_zone if style.zone_is_asked else facts.clock.zoned > 0
        return replace(style, has_zone=has_zone, is_asked=False, zone_is_asked=True)
    affix = next((one for one in sorted(facts.dress.affixes) if one), "")
    return replace(style, affix=affix, is_asked=False)


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
        kind = decide(facts, forced_text=plan.is_text(name))
        (text.add if style or learns or kind is not ColumnKind.NUMBER else text.discard)(name)
        styles.pop(name, None)
        if style is not None:
            styles[name] = style
    return replace(plan, text=frozenset(text), styles=styles)


def text_notes(texts: Sequence[TextPart]) -> Iterator[str]:
    """Yield what a person should know of how the texts of a table were read."""
    guessed = [part for part in texts if part.is_guessed]
    for part in guessed[:1]:
        yield (
            f"the text{_of(guessed)} is not UTF-8 and was read as {part.encoding}; if letters are wrong, set "
            "encoding"
        )
    blank = [part for part in texts if part.dialect.delimiter == BLANK and not part.said]
    for part in blank[:1]:
        yield f"the values of the text{_of(blank)} are separated by blanks: {in_a_list(part.columns, 5)}"
    fixed = [part for part in texts if part.said.get("format") == "fwf"]
    for part in fixed[:1]:
        yield (
            f"the text{_of(fixed)} is read in columns of fixed width: {in_a_list(part.columns, 5)}; if it "
            "has none, set format to csv and delimiter to what separates values"
        )
    skipping = [part for part in texts if part.dialect.skipped]
    for part in skipping[:1]:
        yield f"lines{_of(skipping)} that are no rows are left out: {in_a_list(part.dialect.skipped, 3)}"
    odd = [part for part in texts
           if part.keel is None and part.dialect.header and looks_like_values(part.columns)]  # fmt: skip
    for part in odd[:1]:
        yield f"the first line{_of(odd)}, {in_a_list(part.columns, 5)}, is taken for names{HEADERLESS}"


def typed_notes(parts: Sequence[TablePart]) -> Iterator[str]:
    """Yield what a person should know of how the typed sources of a table were read."""
    for part in parts:
        for one in told_of(part.source) if isinstance(part, TypedPart) else ():
            yield f"{part.name}: {one}".removeprefix(": ")


def _of(parts: Sequence[TextPart]) -> str:
    """Return of which texts a note is: the first one, and how many more."""
    more = f" and {len(parts) - 1:,} more" if len(parts) > 1 else ""
    return f" {parts[0].name}{more}" if parts[0].name else more


def column_notes(
    plan: ParsePlan,
    facts: dict[str, ColumnFacts],
    rows: int,
    found: set[str],
    styles: Mapping[str, NumberStyle | TimeStyle],
) -> Iterator[str]:
    """Yield what a person should know of how the columns of a table were read.

    `found` are the user's markers of missing values that stand in it.
    """
    return _notes(plan, _Read([], [], facts, rows, found=found), styles)


def _notes(plan: ParsePlan, read: "_Read", styles: Mapping[str, NumberStyle | TimeStyle]) -> Iterator[str]:
    for name, style in styles.items():
        if isinstance(style, TimeStyle):
            asked = plan.styles.get(name)
            if asked is None or not asked.is_asked:
                yield times.told(name, style, read.facts[name].clock.example)
        elif example := read.facts[name].dress.example:
            yield told(name, style, example)
    yield from _notes_of_texts(plan, read, styles)
    yield from _notes_of_numbers(plan, read)
    if missed := [one for one in plan.markers.own if one and one not in read.found]:
        yield f"missing_values: {in_a_list(missed)} stands nowhere in the table; check how it is written"
    yield from _notes_of_counts(plan, read)


def _notes_of_texts(
    plan: ParsePlan, read: "_Read", styles: Mapping[str, NumberStyle | TimeStyle]
) -> Iterator[str]:
    """Yield what is taken for categories, and may be amounts."""
    for name in sorted(plan.declared - plan.exact - styles.keys()):
        facts = read.facts[name]
        if facts.numbers == facts.values > 0:
            yield (
                f"column {name!r} is text by its type, but all of its values are numbers: it is taken for "
                f"categories; make it a column of numbers if these are amounts, else list it in text_columns"
            )
    for name in sorted(plan.text - plan.exact - styles.keys()):
        facts = read.facts[name]
        texts = facts.texts if facts.numbers < facts.values else frozenset()
        if len(texts) >= _LEAST_AMOUNTS and sum(map(looks_like_amount, texts)) >= NEARLY * len(texts):
            yield (
                f"column {name!r} is taken for categories, though its values look like numbers or dates in a "
                f"form that is not read, such as {quoted(min(texts))}: if they are amounts, write 1234.56 or "
                "2024-12-31, else list it in text_columns"
            )


def _notes_of_numbers(plan: ParsePlan, read: "_Read") -> Iterator[str]:
    """Yield what is read as numbers, and may be something else."""
    for name in plan.doubtful:
        yield (
            f"column {name!r}: its points are read as beginning fractions, of three digits each; if they "
            f'separate thousands, set numbers: {{{name}: "{COMMA}"}}'
        )
    for name in plan.compact:
        yield (
            f"column {name!r} is read as numbers, though they may be days, such as 20241231: if they are, "
            f'set dates: {{{name}: "2024-12-31"}}'
        )
    for name in plan.digits:
        facts = read.facts[name]
        if facts.padded and not facts.is_uneven and name not in plan.text:
            yield (
                f"column {name!r} is read as numbers, but all of its values have {len(facts.padded)} digits, "
                f"and some begin with 0, such as {quoted(facts.padded)}: if they are codes, as zip codes, "
                f"keep them as text: text_columns: [{name}] (--text-column {name!r})"
            )


def _notes_of_counts(plan: ParsePlan, read: "_Read") -> Iterator[str]:
    """Yield columns that count the rows."""
    for name in plan.features:
        begins = read.facts[name].begins
        if begins is not None and read.rows > _LEAST_RUNNING and begins in (0.0, 1.0):
            what = "has no name and counts" if name in plan.dialect.unnamed else "counts"
            last = begins + read.rows - 1
            yield (
                f"column {name!r} {what} the rows, {begins:g} to {last:.0f}: it looks like a row number; "
                f"if it is, drop it: drop: [{name}]"
            )


def _mark(recipe: Recipe, facts: ColumnFacts) -> MarkColumn:
    first = facts.first_text.value if facts.first_text else ""
    return MarkColumn.of(recipe, numbers=2 * facts.numbers >= facts.values, first_text=first)


def _names(plan: ParsePlan) -> tuple[str, ...]:
    """Return the columns that are read."""
    return (*plan.features, *plan.labels, *plan.mark)


def _plan(table: Table, stream: Iterator[Block] | None) -> tuple[ParsePlan, Supply]:
    """Return how to parse a table, and its blocks."""
    first, draft = table.parts[0], _draft(table)
    if isinstance(first, TypedPart):
        looked_at = frozenset(draft.features) & (table.of_kind(TypeKind.MIXED) | draft.styles.keys())
        plan = replace(draft, text=draft.text | looked_at)
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


def _draft(table: Table) -> ParsePlan:
    """Return what is known of how to parse a table before its rows are seen."""
    recipe, first = table.job.recipe, table.parts[0]
    names = first.columns
    divides, weights = tuple(recipe.mark.values()), (recipe.weights,) if recipe.weights is not None else ()
    listed = {"drop": recipe.drop, "text_columns": recipe.text_columns, "weights": weights,
              "numbers": tuple(recipe.styles), **dict.fromkeys(recipe.mark, divides)}  # fmt: skip
    check_columns(names, recipe.labels, listed)
    mark = (*divides, *weights)
    features = tuple(n for n in names if n not in (*recipe.labels, *mark, *recipe.drop))
    for part in table.parts:
        if part is not first:
            _check_same(names, part, is_test=part in table.test)
        if isinstance(part, TypedPart):
            check_features(part.source.schema, recipe.labels)
            check_marks(part.source.schema, mark)
    quick = isinstance(first, TextPart) and first.size >= csv_reader.QUICK_BYTES
    dialect = first.dialect if isinstance(first, TextPart) else Dialect("", "", True, names)
    declared, nominal = declared_text(table) & {*features}, nominal_columns(table) & {*features}
    forced = frozenset(recipe.text_columns) & {*features}
    markers = with_keel(recipe.markers) if any(part.keel for part in table.texts) else recipe.markers
    usable = tuple(name for name in features if name not in table.of_kind(TypeKind.OTHER))
    styles = {**_time_styles(table, {*usable} - {*recipe.text_columns}),
              **_styles(table, {*features, *recipe.labels})}  # fmt: skip
    timed = {name for name, style in styles.items() if isinstance(style, TimeStyle)}
    return ParsePlan(
        dialect, recipe.labels, usable, forced | declared | timed, markers, quick, mark, label_markers(table),
        frozenset(recipe.text_columns) | nominal, declared, styles,
    )  # fmt: skip


def _time_styles(table: Table, names: Collection[str]) -> dict[str, TimeStyle]:
    """Return how the instants and durations of columns are spelled that are such by their type."""
    schemas = [part.source.schema for part in table.parts if isinstance(part, TypedPart)]
    found = ((one.name, time_style(one)) for schema in schemas for one in schema if one.name in names)
    return {name: style for name, style in found if style is not None}


def _styles(table: Table, names: Collection[str]) -> dict[str, NumberStyle | TimeStyle]:
    """Return how the recipe says that numbers and dates are written, of columns that have texts.

    Raises
    ------
    DataError
        If one is numbers by its type in another file.
    """
    styles = {name: style for name, style in table.job.recipe.styles.items() if name in names}
    typed = styles.keys() & (
        table.of_kind(TypeKind.NUMBER) | table.of_kind(TypeKind.TIME) | table.of_kind(TypeKind.SPAN)
    )
    for name in typed & table.of_kind(TypeKind.NUMBER):
        if not all(isinstance(part, TypedPart) for part in table.parts):
            raise _written_twice(name, styles[name].example)
    return {name: style for name, style in styles.items() if name not in typed}


def _written_twice(name: str, example: str) -> DataError:
    return DataError(
        f"a column's numbers must be written in one way in all files, but {name!r} has text such as "
        f"{quoted(example)} in one and numbers in another; convert it in one of them"
    )


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
    found: set[str] = field(default_factory=set)
    """The user's markers of missing values that stand in the table."""
    is_renewed: bool = False


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
        read.found |= facts.found
        read.is_renewed |= facts.is_renewed
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


def _kinds(table: Table, plan: ParsePlan, read: _Read) -> dict[str, ColumnKind]:
    """Decide what the features are, and refuse the first value that does not fit."""
    kinds, faults = {}, dict[str, tuple[BadValue | None, str]]()

    def add(name: str, place: BadValue | None, reason: str) -> None:
        if reason:
            faults.setdefault(name, (place, reason))

    for name in plan.features:
        facts, style, forced = read.facts[name], plan.styles.get(name), name in plan.exact
        if style is not None and not style.is_asked:  # all of its values are numbers in that dress
            facts = replace(facts, numbers=facts.values, first_text=None)
        kinds[name] = decide(facts, forced_text=plan.is_text(name))
        if style is not None and facts.values:
            kinds[name] = _kind_of_style(style)
            add(name, *(units_fault if isinstance(style, NumberStyle) else zones_fault)(name, facts))
        add(name, *fault(name, kinds[name], facts, forced_text=forced, is_declared=name in plan.declared))
    for name, reason in _cell_faults(table, plan, read):
        add(name, None, reason)
    _refuse(table, read, faults, {*plan.labels, *plan.mark, *table.job.recipe.drop})
    return kinds


def _kind_of_style(style: NumberStyle | TimeStyle) -> ColumnKind:
    if isinstance(style, NumberStyle):
        return ColumnKind.NUMBER
    return ColumnKind.TIME if style.is_instant else ColumnKind.DURATION


def _refuse(
    table: Table, read: _Read, faults: Mapping[str, tuple[BadValue | None, str]], others: Collection[str]
) -> None:
    """Refuse the columns that cannot be used, all at once; `others` are not to be used.

    Raises
    ------
    DataError
    """
    placed = {name: place for name, (place, _) in faults.items() if place is not None}
    ordered = sorted(placed, key=lambda name: (placed[name].block, placed[name].row))
    reasons = {
        name: f"{_where(table, read.kept, read.sources, placed[name])}, {faults[name][1]}" for name in ordered
    }
    reasons |= {name: reason for name, (_, reason) in faults.items() if name not in placed}
    for part in table.parts:
        if isinstance(part, TypedPart):
            names = [name for name in part.columns if name not in others]
            reasons |= type_faults(part.source.schema, names)
    if reasons:
        raise DataError(all_faults(reasons))


def _cell_faults(table: Table, plan: ParsePlan, read: _Read) -> Iterator[tuple[str, str]]:
    """Say which dressed numbers stand beside cells of numbers, which are spelled with a point."""
    for name, style in plan.styles.items():
        if isinstance(style, TimeStyle):
            continue
        dress = read.facts[name].dress
        if name in table.of_kind(TypeKind.NUMBER):
            raise _written_twice(name, dress.example)
        if style.comma and dress.pointed and name in table.of_kind(TypeKind.MIXED):
            reason = "cells must be all numbers where a comma begins fractions, as one such as 1.234 may be a"
            yield (
                name,
                f"column {name!r}: {reason} number or a text; convert them to numbers, or drop the column",
            )


def _where(table: Table, kept: list[KeptBlock], sources: list[tuple[int, AnyBlock]], place: BadValue) -> str:
    """Return the number of a row in its part, and where else it is found."""
    number, block = sources[place.block]
    first = next(i for i, (one, _) in enumerate(sources) if one == number)
    before = 0 if first == place.block else kept[place.block - 1].first_row + kept[place.block - 1].rows
    row = before - (kept[first].first_row if first < len(kept) and before else 0) + place.row
    return f"row {row}{table.parts[number].place(block, place.row)}"
