"""Say what is wrong, or unlike the table trained on, with a value of new rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dnnflow.errors import DataError
from dnnflow.table.columns.dressing import NumberStyle
from dnnflow.table.columns.kinds import quoted
from dnnflow.table.columns.raw_values import as_text
from dnnflow.table.columns.times import TimeStyle

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 5
"""Rows that a message names."""


class WrongText(ValueError):
    """A text of a column of numbers that is none."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def rows_of(values: "pd.Series[Any]", text: str, first_row: int) -> list[int]:
    """Return the rows with a text, counted from `first_row`."""
    return [row for row, value in enumerate(values.tolist(), first_row + 1) if as_text(value) == text]


def never_missing(name: str, fill: str | float | None, text: str | None) -> str:
    """Say of a missing value that no row of the table trained on had one in that column."""
    what = "has no value" if not text else f"has {quoted(text)}, which stands for a missing value"
    shown = quoted(fill) if isinstance(fill, str) else f"{fill:g}" if fill is not None else ""
    taken = f", and is taken as {shown}" if shown else ""
    return f"column {name!r} {what}{taken}: the table trained on had a value in each row"


def not_a_number(
    name: str, style: NumberStyle | TimeStyle | None, rows: Sequence[int], text: str
) -> DataError:
    """Return the error of a text that is no number or time in these rows of a column written in a style."""
    what, as_they_had, more = "a finite number", "as the training rows had", ""
    if isinstance(style, TimeStyle):
        what = "a date" if style.is_instant else "a duration"
        zone = f" {'with' if style.has_zone else 'without'} a zone"
        as_they_had += f", written like {style.example}{' and' + zone if style.is_instant else ''}"
    elif style is not None:
        as_they_had += f", written like {style.example}{f' with {style.affix!r}' if style.affix else ''}"
    if len(rows) > 1:
        named = ", ".join(f"{one:,}" for one in rows[:_MOST_ROWS])
        more = f" (so in {len(rows):,} rows: {named}{', …' if len(rows) > _MOST_ROWS else ''})"
    return DataError(
        f"row {rows[0]}, column {name!r}: {quoted(text)} is not {what}{more}, {as_they_had}; correct it or "
        f"leave it empty, or name it in missing_values (--missing-value {text!r})"
    )
