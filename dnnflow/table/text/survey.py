"""Look at the columns of a table before anything is said of it: what they hold, which may be the label."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnnflow.table.columns.arrow import TEXT, codes, numbers_in, whole
from dnnflow.table.columns.kinds import (
    MAX_CATEGORIES,
    MAX_CLASSES,
    ColumnKind,
    check_columns,
    is_boolean,
    is_missing,
    to_number,
)
from dnnflow.table.text.csv_reader import RowError, blocks, located, parse, read_dialect, unreadable
from dnnflow.table.text.source_text import BLOCK_BYTES, TextSource, open_text

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
    values: int = 0
    """Rows with a value."""
    numbers: int = 0
    """Of these, how many are numbers."""
    texts: set[str] = field(default_factory=set)
    """Different values, at most one more than a label may have classes."""
    examples: list[str] = field(default_factory=list)
    is_boolean: bool = True
    counts_from: float | None = None
    """0 or 1 of a column that counts the rows from there; None of another."""

    @property
    def kind(self) -> ColumnKind:
        """What the column is."""
        if not self.values:
            return ColumnKind.EMPTY
        if 2 * self.numbers >= self.values:
            return ColumnKind.NUMBER
        return ColumnKind.BOOLEAN if self.is_boolean else ColumnKind.TEXT

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
        if self.counts_rows:
            return f"it counts the rows from {self.counts_from:.0f}"
        if self.kind is ColumnKind.TEXT and len(self.texts) > MAX_CATEGORIES:
            return f"it is text with more than {MAX_CATEGORIES} different values"
        return ""

    @property
    def may_be_label(self) -> bool:
        """Whether it has at least two values, and not too many for classes unless they are amounts."""
        is_text = self.kind is not ColumnKind.NUMBER
        return not self.counts_rows and 2 <= len(self.texts) <= (MAX_CATEGORIES if is_text else np.inf)


@dataclass(frozen=True)
class Survey:
    """A table, or its first rows, looked at."""

    rows: int
    is_whole: bool
    """Whether all rows were looked at."""
    columns: tuple[SurveyedColumn, ...]

    @property
    def label(self) -> str | None:
        """The column that is most likely the label: of a usual name, else the last that may be one."""
        fit = {one.name: one for one in self.columns if one.may_be_label}
        lower = {name.strip().lower(): name for name in reversed(fit)}
        usual = next((lower[name] for name in USUAL_LABELS if name in lower), None)
        return usual or next(reversed(fit), None)

    def useless(self, but: Sequence[str] = ()) -> Mapping[str, str]:
        """Return the columns that no network learns from, and why; `but` those that are something else."""
        return {one.name: one.why_useless for one in self.columns if one.why_useless and one.name not in but}


def survey(
    source: TextSource, *, missing_values: Sequence[str] = (), whole_table: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Survey:  # fmt: skip
    """Look at a table's columns in its first block of text, or in all of it.

    Raises
    ------
    DataError
        If it cannot be read, or two columns have one name.
    """
    with tempfile.TemporaryDirectory(prefix="dnnflow-survey-") as scratch:
        text = open_text(source, Path(scratch), block_bytes=block_bytes)
        dialect, start = read_dialect(text, source)
        check_columns(dialect.columns, (), {})
        found = tuple(map(SurveyedColumn, dialect.columns))
        supply, rows = blocks(text, start), 0
        looked_at = supply if whole_table else supply[:1]
        for block in looked_at:
            try:
                table = parse(block.read(), dialect, dict.fromkeys(dialect.columns, TEXT))
            except RowError as error:
                raise located(error, rows, text, dialect, block) from None
            except pa.ArrowInvalid as error:
                raise unreadable(error) from None
            for column in found:
                _look(column, whole(table, column.name), missing_values, rows)
            rows += table.num_rows
    return Survey(rows, len(looked_at) == len(supply), found)


def _look(column: SurveyedColumn, array: pa.DictionaryArray, own: Sequence[str], first_row: int) -> None:
    """Add the values of a block to what is known of a column."""
    written = [text.strip() for text in array.dictionary.to_pylist()]
    row_codes = codes(array)
    counts = np.bincount(row_codes, minlength=len(written) + 1)[: len(written)]
    present = [
        (text, int(count))
        for text, count in zip(written, counts, strict=True)
        if count and not is_missing(text, own)
    ]
    column.values += sum(count for _, count in present)
    column.numbers += sum(count for text, count in present if to_number(text) is not None)
    column.is_boolean &= all(is_boolean(text) for text, _ in present)
    known = (text for text, _ in present if len(column.texts) <= MAX_CLASSES)
    column.texts.update(known)
    column.examples += [text for text, _ in present[: _EXAMPLES - len(column.examples)]]
    if not first_row and len(row_codes):
        column.counts_from = {"0": 0.0, "1": 1.0}.get([*written, ""][row_codes[0]])
    if column.counts_from is not None:
        values = np.append(numbers_in(array.dictionary), np.nan)[row_codes]
        wanted = np.arange(len(values)) + first_row + column.counts_from
        column.counts_from = column.counts_from if np.array_equal(values, wanted) else None
