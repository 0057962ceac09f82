"""Look at the columns of a table before anything is said of it: what they hold, which may be the label."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import codes, numbers_in
from dnnflow.table.columns.column_worth import text_worth
from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    MAX_CLASSES,
    STANDARD_LABEL_MARKERS,
    STANDARD_MARKERS,
    ColumnKind,
    Markers,
    check_columns,
)
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.keel import KEEL_MISSING, KeelHeader
from dnnflow.table.formats.open_table import find_tables
from dnnflow.table.formats.typed_source import TypeKind, kind_of, no_rows, type_in_words
from dnnflow.table.store.column_blocks import parse_any
from dnnflow.table.store.ingest import open_parts
from dnnflow.table.store.table_parts import TablePart, TextPart
from dnnflow.table.text.csv_reader import Dialect
from dnnflow.table.text.inference import BlockFacts, ColumnFacts, ParsePlan
from dnnflow.table.text.source_text import BLOCK_BYTES

USUAL_LABELS = (
    "label", "class", "target", "y", "species", "diagnosis", "outcome", "category", "digit", "quality",
)  # fmt: skip
"""Names of columns that are guessed to be the label, the most telling first."""
FEWEST_NUMBERED = 10
"""Rows from which on a column of 0, 1, 2, … is taken for their numbers."""
_EXAMPLES = 3


@dataclass
class SurveyedColumn:
    """What a column of a table holds, in the rows that were looked at."""

    name: str
    is_text: bool = False
    """Whether it is text by its type, whatever it looks like."""
    no_feature: str = ""
    """Its type, where no feature may be of that."""
    facts: ColumnFacts = field(default_factory=ColumnFacts)
    examples: list[str] = field(default_factory=list)
    counts_from: float | None = None
    """0 or 1 of a column that counts the rows from there; None of another."""

    @property
    def values(self) -> int:
        """Rows with a value."""
        return self.facts.values

    @property
    def texts(self) -> frozenset[str]:
        """Different values, and some more where they are more than a label may have."""
        return self.facts.texts

    @property
    def kind(self) -> ColumnKind:
        """What the column is."""
        if not self.values:
            return ColumnKind.EMPTY
        if (time := self.facts.clock.style(self.values)) is not None:
            return ColumnKind.TIME if time.is_instant else ColumnKind.DURATION
        is_dressed = self.facts.dress.example and self.facts.dress.style(self.values) is not None
        if is_dressed or (2 * self.facts.numbers >= self.values and not self.is_text):
            return ColumnKind.NUMBER
        return ColumnKind.BOOLEAN if self.facts.boolean else ColumnKind.TEXT

    @property
    def distinct(self) -> str:
        """How many values differ, in words."""
        return f"{len(self.texts):,}" if len(self.texts) <= MAX_CLASSES else f"over {MAX_CLASSES:,}"

    @property
    def counts_rows(self) -> bool:
        """Whether it counts the rows, of which there are enough to say so."""
        return self.counts_from is not None and self.values >= FEWEST_NUMBERED

    @property
    def why_useless(self) -> str:
        """Why no network learns from it; empty of a column that may be a feature."""
        if self.no_feature:
            return f"it holds {self.no_feature}, which is neither numbers, text nor dates"
        if self.counts_rows:
            return f"it counts the rows from {self.counts_from:.0f}"
        is_known = self.kind is ColumnKind.TEXT and len(self.texts) <= MAX_CLASSES
        is_doubtful = self.facts.dress.are_meant(self.values) or self.facts.clock.are_meant(self.values)
        if is_known and not is_doubtful and len(self.texts) > 1:  # in doubt a dataset tells what to do
            return text_worth(self.texts, self.values, self.values)
        return ""

    @property
    def may_be_label(self) -> bool:
        """Whether it has at least two values, and not too many for classes unless they are amounts."""
        is_text = self.kind is not ColumnKind.NUMBER
        if self.kind in (ColumnKind.TIME, ColumnKind.DURATION):
            return False
        if self.no_feature or self.counts_rows:
            return False
        missing = {text.lower() for text in self.facts.gone} - {"", *STANDARD_LABEL_MARKERS}
        return 2 <= len(self.texts) + len(missing) <= (MAX_CATEGORIES if is_text else np.inf)


@dataclass(frozen=True)
class Survey:
    """A table, or its first rows, looked at."""

    rows: int
    is_whole: bool
    """Whether all rows were looked at."""
    columns: tuple[SurveyedColumn, ...]
    outputs: tuple[str, ...] = ()
    """Columns to predict, of a file that names them."""

    @property
    def label(self) -> str | None:
        """The column that is most likely the label: an output, usually called so, or the last that may be."""
        if self.outputs:
            return self.outputs[0]
        fit = {one.name: one for one in self.columns if one.may_be_label}
        lower = {name.strip().lower(): name for name in reversed(fit)}
        usual = next((lower[name] for name in USUAL_LABELS if name in lower), None)
        return usual or next(reversed(fit), None)

    def useless(self, but: Sequence[str] = ()) -> Mapping[str, str]:
        """Return the columns that no network learns from, and why; `but` those that are something else."""
        return {one.name: one.why_useless for one in self.columns if one.why_useless and one.name not in but}


def survey(
    source: Source, *, missing_values: Sequence[str] = (), whole_table: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Survey:  # fmt: skip
    """Look at the columns of a table of any kind in its first block of rows, or in all of them.

    Files of other columns than the first has are left out: whoever reads the table refuses them.

    Raises
    ------
    DataError
        If it cannot be read, or two columns have one name.
    """
    files = find_tables(source)
    with tempfile.TemporaryDirectory(prefix="dnnflow-survey-") as scratch:
        parts = open_parts(files if whole_table else files[:1], Path(scratch) / "part", block_bytes)
        check_columns(parts[0].columns, (), {})
        parts = [one for one in parts if set(one.columns) == set(parts[0].columns)]
        columns, rows, is_whole = list(_columns(parts[0])), 0, len(parts) == len(files)
        names = tuple(one.name for one in columns if not one.no_feature)
        for part in parts:
            before, plan = rows, _plan(part, names, missing_values)
            for block in part.blocks(names, block_bytes):
                if rows and not whole_table:
                    is_whole = False
                    break
                found = parse_any(block, plan, None)
                if found.error:
                    row, reason = found.error
                    raise DataError(f"row {rows - before + row}{part.place(block, row)} {reason}")
                _look(columns, found, rows)
                rows += found.rows
    if not rows:
        raise no_rows()
    keel = _keel(parts[0])
    return Survey(rows, is_whole, tuple(columns), keel.outputs if keel else ())


def _columns(part: TablePart) -> Iterator[SurveyedColumn]:
    """Yield the columns of a table, of which nothing but the type is known."""
    if isinstance(part, TextPart):
        keel = _keel(part)
        yield from (SurveyedColumn(name, keel is not None and name in keel.nominal) for name in part.columns)
        return
    for one in part.source.schema:
        kind = kind_of(one)
        no_feature = {TypeKind.OTHER: type_in_words(one).removeprefix("of ")}
        yield SurveyedColumn(one.name, kind is TypeKind.TEXT, no_feature.get(kind, ""))


def _keel(part: TablePart) -> KeelHeader | None:
    return part.keel if isinstance(part, TextPart) else None


def _plan(part: TablePart, names: tuple[str, ...], missing_values: Sequence[str]) -> ParsePlan:
    """Return how to parse the named columns as text, with as many of their values as a label may have."""
    dialect = part.dialect if isinstance(part, TextPart) else Dialect("", "", True, part.columns)
    markers = Markers(tuple(missing_values), (*STANDARD_MARKERS, *(KEEL_MISSING if _keel(part) else ())))
    return ParsePlan(dialect, names, (), frozenset(), markers, label_markers=markers)


def _look(columns: Sequence[SurveyedColumn], found: BlockFacts, first_row: int) -> None:
    """Add the values of a block to what is known of columns."""
    for column in columns:
        if column.name in found.columns and found.kept is not None:
            column.facts = column.facts.merge(found.columns[column.name], MAX_CLASSES)
            _look_at_values(column, found.kept.text(column.name), first_row)


def _look_at_values(column: SurveyedColumn, array: Any, first_row: int) -> None:
    """Add examples, and see whether the column still counts the rows."""
    row_codes, texts = codes(array), array.dictionary
    if len(column.examples) < _EXAMPLES:
        _, first = np.unique(row_codes, return_index=True)
        some = row_codes[np.sort(first)[: _EXAMPLES + 1]]
        new = [texts[code].as_py() for code in some.tolist() if code < len(texts)]
        column.examples = list(dict.fromkeys([*column.examples, *new]))[:_EXAMPLES]
    if not len(row_codes) or (first_row and column.counts_from is None):
        return
    values = np.append(numbers_in(texts), np.nan)[row_codes]
    begin = float(values[0]) if column.counts_from is None else column.counts_from
    wanted = np.arange(len(values)) + first_row + begin
    column.counts_from = begin if begin in (0.0, 1.0) and np.array_equal(values, wanted) else None
