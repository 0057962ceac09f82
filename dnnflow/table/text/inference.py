"""Infer the types of columns over all blocks of a table.

A block is parsed by a plan (which columns are text). Its facts say how far the plan held; the facts of all
blocks together decide. A column is a number when at least half of its values are; then the first value that
is not is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dnnflow.errors import DataError
from dnnflow.table.columns.arrow import TEXT, Columns, codes, numbers, numbers_in, text_column, whole
from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    MAX_CLASSES,
    ColumnKind,
    is_boolean,
    is_missing,
    missing_spellings,
    quoted,
    to_number,
)
from dnnflow.table.text.csv_reader import Block, Dialect, RowError, parse, read_quickly, unreadable

_COMMA_NUMBER = re.compile(r"[-+]?\d+(,\d+)+(\.\d*)?")
"""1,5 or 1,234.5: one-hot encoding such numbers would be silently wrong."""


@dataclass(frozen=True)
class ParsePlan:
    """How to parse a table's blocks."""

    dialect: Dialect
    labels: tuple[str, ...]
    features: tuple[str, ...]
    text: frozenset[str]
    """Features to parse as text; the others are numbers."""
    missing_values: tuple[str, ...]
    quick: bool = False
    """Whether to try the quick reader first."""
    mark: tuple[str, ...] = ()
    """The column that divides the rows, if there is one, then that of their weights; parsed as text."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Features to parse as numbers."""
        return tuple(name for name in self.features if name not in self.text)

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns to parse as text, the labels among them."""
        return (*(name for name in self.features if name in self.text), *self.labels, *self.mark)

    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each wanted column."""
        features = {n: TEXT if n in self.text else pa.float64() for n in self.features}
        return {**features, **dict.fromkeys((*self.labels, *self.mark), TEXT)}


class BadValue(NamedTuple):
    """A value that breaks a rule; the row counts from 1 in its block."""

    block: int
    row: int
    value: str


@dataclass(frozen=True)
class ColumnFacts:
    """What the values of a column are, in some blocks."""

    values: int = 0
    """Rows that are not missing."""
    numbers: int = 0
    """Of these, how many are numbers."""
    boolean: bool = True
    """Whether no value has been other than true, false, yes or no."""
    texts: frozenset[str] = frozenset()
    """Distinct values, of a column parsed as text; no more are added once there are too many."""
    first_text: BadValue | None = None
    """The first value that is not a number."""
    first_infinite: BadValue | None = None
    fractions: bool = False
    """Whether some value of a column parsed as text is a number that is not whole."""

    def merge(self, other: "ColumnFacts", limit: int) -> "ColumnFacts":
        """Add the facts of blocks that come later."""
        return ColumnFacts(
            self.values + other.values,
            self.numbers + other.numbers,
            self.boolean and other.boolean,
            self.texts if len(self.texts) > limit else self.texts | other.texts,
            self.first_text or other.first_text,
            self.first_infinite or other.first_infinite,
            self.fractions or other.fractions,
        )


@dataclass(frozen=True)
class BlockFacts:
    """What one parsed block is like."""

    rows: int
    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    """Of the features, the labels and the column that divides the rows."""
    kept: Columns | None = None
    """The columns, unless they were written to a file."""
    error: tuple[int, str] | None = None
    """Row (from 1 in the block) and reason, if a row cannot be read."""


def parse_block(block: Block, plan: ParsePlan, spill: Path | None) -> BlockFacts:
    """Parse one block, keep its columns in the file `spill` if there is one, and say what they are like."""
    data = block.read()
    try:
        columns, facts = _parse_columns(data, plan, block.index)
    except RowError as error:
        return BlockFacts(0, error=(error.row, error.reason))
    return described(columns, facts, plan, block.index, spill)


def described(
    columns: Columns, facts: dict[str, ColumnFacts], plan: ParsePlan, index: int, spill: Path | None
) -> BlockFacts:
    """Say what the columns of a block are like, besides the facts known of some, and keep them tidied."""
    texts = []
    for name in columns.texts.column_names:
        facts[name], tidy = _text_facts(columns.text(name), plan.missing_values, index)
        texts.append(tidy)
    if texts:
        columns = columns.with_texts(texts)  # all at once: one by one takes the square of their number
    facts = {**_number_facts(columns, index), **facts}
    if spill is not None:
        columns.write(spill)
    capped = {name: _capped(column, _limit(name, plan)) for name, column in facts.items()}
    return BlockFacts(columns.rows, capped, columns if spill is None else None)


def _limit(name: str, plan: ParsePlan) -> int:
    return MAX_CLASSES if name in plan.labels else MAX_CATEGORIES


def _capped(facts: ColumnFacts, limit: int) -> ColumnFacts:
    if len(facts.texts) <= limit + 1:
        return facts
    return replace(facts, texts=frozenset(nsmallest(limit + 1, facts.texts)))


def _parse_columns(data: bytes, plan: ParsePlan, index: int) -> tuple[Columns, dict[str, ColumnFacts]]:
    """Parse by plan; where text stands in a column of numbers, also return that column's facts."""
    if plan.quick and (columns := read_quickly(data, plan.dialect, plan.numbers, plan.texts)) is not None:
        return columns, {}
    markers = missing_spellings(plan.missing_values)
    types = plan.types()
    try:
        table = parse(data, plan.dialect, types, markers)
        values = [numbers(whole(table, name)) for name in plan.numbers]
        return Columns.of(plan.numbers, values, table.select(plan.texts)), {}
    except pa.ArrowInvalid:
        pass  # some number is none: find out where, at the price of a second parse of this block
    try:
        table = parse(data, plan.dialect, dict.fromkeys(types, TEXT), markers)
    except pa.ArrowInvalid as error:
        raise unreadable(error) from None
    corrected, values = {}, []
    for name in plan.numbers:
        facts, column = numbers_of_text(whole(table, name), plan.missing_values, index)
        if facts.first_text is not None:
            corrected[name] = facts
        values.append(column)
    return Columns.of(plan.numbers, values, table.select(plan.texts)), corrected


def numbers_of_text(
    column: pa.DictionaryArray, own: Sequence[str], index: int
) -> tuple[ColumnFacts, NDArray[np.float64]]:
    """Return a text column's facts without its texts, and the number each row stands for, NaN without."""
    facts, tidy = _text_facts(column, own, index)
    values: NDArray[np.float64] = np.append(numbers_in(tidy.dictionary), np.nan)[codes(tidy)]
    return replace(facts, texts=frozenset()), values


def _text_facts(
    column: pa.DictionaryArray, own: Sequence[str], index: int
) -> tuple[ColumnFacts, pa.DictionaryArray]:
    """Return the facts of a text column, and the column without blanks around values."""
    dictionary = pc.utf8_trim_whitespace(column.dictionary)
    texts: list[str] = dictionary.to_pylist()
    gone = np.array([*(is_missing(text, own) for text in texts), True])
    row_codes = codes(column)
    tidy = text_column(row_codes, gone[row_codes], dictionary)
    row_codes = np.where(gone[row_codes], len(texts), row_codes)
    counts = np.bincount(row_codes, minlength=len(texts) + 1)[: len(texts)]
    present = [text for text, count in zip(texts, counts, strict=True) if count]
    values = [to_number(text) for text in texts]
    numeric = np.array([value is not None for value in values], dtype=bool)
    known = np.array([0.0 if value is None else value for value in values])
    infinite = np.isinf(known)
    facts = ColumnFacts(
        int(counts.sum()),
        int(counts[numeric].sum()),
        all(is_boolean(text) for text in present),
        frozenset(present),
        _first(~numeric & (counts > 0), row_codes, texts, index),
        _first(infinite & (counts > 0), row_codes, texts, index),
        bool((np.isfinite(known) & (known != np.floor(known)) & (counts > 0)).any()),
    )
    return facts, tidy


def _first(wanted: np.ndarray, row_codes: np.ndarray, texts: list[str], index: int) -> BadValue | None:
    """Return the place of the first row whose code is wanted."""
    if not wanted.any():
        return None
    row = int(np.argmax(np.append(wanted, False)[row_codes]))
    return BadValue(index, row + 1, texts[row_codes[row]])


def _number_facts(columns: Columns, index: int) -> dict[str, ColumnFacts]:
    rows = columns.rows
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells that nothing is missing or infinite, which is so in most blocks.
        finite = np.isfinite(columns.values.sum())
    if finite:
        return dict.fromkeys(columns.places, ColumnFacts(rows, rows, boolean=rows == 0))
    return {name: _facts_of_numbers(columns.number(name), index) for name in columns.places}


def _facts_of_numbers(values: NDArray[np.float64], index: int) -> ColumnFacts:
    infinite = np.isinf(values)
    place = None
    if infinite.any():
        row = int(np.argmax(infinite))
        place = BadValue(index, row + 1, str(values[row]))
    count = len(values) - int(np.count_nonzero(np.isnan(values)))
    return ColumnFacts(count, count, boolean=count == 0, first_infinite=place)


def merge_facts(total: dict[str, ColumnFacts], block: BlockFacts, plan: ParsePlan) -> None:
    """Add a block's facts to those of the blocks before it."""
    for name, column in block.columns.items():
        total[name] = total[name].merge(column, _limit(name, plan))


def decide(facts: ColumnFacts, *, forced_text: bool) -> ColumnKind:
    """Return the kind of a column."""
    if not facts.values:
        return ColumnKind.EMPTY
    if not forced_text and 2 * facts.numbers >= facts.values:
        return ColumnKind.NUMBER
    return ColumnKind.BOOLEAN if facts.boolean else ColumnKind.TEXT


def fault(
    name: str, kind: ColumnKind, facts: ColumnFacts, *, forced_text: bool
) -> tuple[BadValue | None, str]:
    """Return what is wrong with a column of that kind: where, and in words; ("" if nothing is)."""
    commas = bool(facts.texts) and all(map(_COMMA_NUMBER.fullmatch, facts.texts))
    if kind is ColumnKind.TEXT and commas and not forced_text:
        remedy = "write numbers with a point and without separators, or list the column in text_columns"
        place = facts.first_text
        value = quoted(place.value) if place else quoted(min(facts.texts))
        return place, f"column {name!r}: {value} has a comma, which is no part of a number; {remedy}"
    if kind is ColumnKind.NUMBER and (place := facts.first_text):
        remedy = "name it in missing_values, list the column in text_columns, or drop the column"
        return place, f"column {name!r}: {quoted(place.value)} is not a number; {remedy}"
    if kind is ColumnKind.NUMBER and (place := facts.first_infinite):
        remedy = "name it in missing_values, or drop the column"
        return place, f"column {name!r}: numbers must be finite, got {quoted(place.value)}; {remedy}"
    if kind is ColumnKind.TEXT and len(facts.texts) > MAX_CATEGORIES:
        return None, (
            f"a text column may have at most {MAX_CATEGORIES} different values, got more in column {name!r}; "
            "drop the column"
        )
    return None, ""


def first_plan(sample: Block, draft: ParsePlan) -> ParsePlan:
    """Return a plan by the types of the first records; later blocks may still prove it wrong.

    Raises
    ------
    RowError
        If a row of the sample cannot be read.
    """
    everything = replace(draft, text=frozenset(draft.features), quick=False)
    facts = parse_block(sample, everything, None)
    if facts.error:
        raise RowError(*facts.error)
    text = {n for n in draft.features if 2 * facts.columns[n].numbers < facts.columns[n].values}
    plan = replace(draft, text=frozenset(text | draft.text))
    return replace(plan, quick=plan.quick and _is_quick(sample, plan))


def _is_quick(sample: Block, plan: ParsePlan) -> bool:
    """Say whether the quick reader understands the sample, and no number means missing."""
    if any(to_number(marker) is not None for marker in plan.missing_values):
        return False
    return read_quickly(sample.read(), plan.dialect, plan.numbers, plan.texts) is not None


def check_label(label: str, facts: ColumnFacts) -> None:
    """Refuse a label column without values.

    Raises
    ------
    DataError
    """
    if not facts.values:
        raise DataError(
            f"a label column needs values, but all of {label!r} are missing; choose another column"
        )
