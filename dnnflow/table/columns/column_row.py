"""Tell of each column of a table what it holds, and what it became."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.table.columns.column_worth import different
from dnnflow.table.columns.kinds import OTHERS, ColumnKind, FeatureColumn
from dnnflow.table.columns.preprocess import FittedColumn, Preprocessing, TextColumn, TimeColumn
from dnnflow.table.columns.recipe import Recipe

MOST_DIFFERENT = 1_000
_SCALED = {"minmax": "from 0 to 1", "standard": "of mean 0 and deviation 1", "none": "as it is"}


@dataclass(frozen=True)
class ColumnRow:
    """What a person is told of a column."""

    name: str
    kind: str
    missing: float | None
    """Share of all rows; None where it is not known."""
    different: str
    """Different values among the training rows, in words; empty where they are not known."""
    became: str
    """What of the network's input, or output."""


def share_in_words(share: float | None) -> str:
    """Return a share of rows in percent; empty of none, or where it is not known."""
    if not share:
        return ""
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def different_numbers(features: NDArray[np.float32], *, is_whole: bool) -> str:
    """Return how many values a column of numbers has, in words, by some training rows or all of them."""
    found = len(np.unique(features))
    if found > MOST_DIFFERENT:
        return f"over {MOST_DIFFERENT:,}"
    return f"{found:,}" if is_whole else f"{found:,} or more"


def different_values(
    preprocessing: Preprocessing, features: NDArray[np.float32], *, is_whole: bool
) -> dict[str, str]:
    """Return how many values each column has, given some encoded training rows or all of them."""
    found, at = {}, 0
    for column in preprocessing.columns:
        if isinstance(column, TextColumn):
            found[column.name] = different(column)
        else:
            found[column.name] = different_numbers(features[:, at], is_whole=is_whole)
        at += len(column.feature_names)
    return found


def became(column: FittedColumn, scale: str) -> str:
    """Say what of the network's input a column is."""
    if isinstance(column, TimeColumn):
        what = f"{len(column.feature_names)} columns: {', '.join(('trend', *column.parts))}"
    elif isinstance(column, TextColumn):
        n = len(column.categories)
        parts = [f"{n} column{'s' if n > 1 else ''}, one-hot"] if n else []
        parts += [f"one for {column.n_rare:,} {OTHERS} values"] if column.other else []
        what = ", and ".join(parts) or "nothing"
        if column.buckets:
            what = f"{column.buckets} columns, hashed"
    else:
        what = f"a number {_SCALED[scale]}"
    is_told = column.trend.indicator if isinstance(column, TimeColumn) else column.indicator
    return f"{what}, and one where missing" if is_told else what


def column_rows(
    recipe: Recipe, schema: Sequence[FeatureColumn], preprocessing: Preprocessing, counts: Mapping[str, str]
) -> Iterator[ColumnRow]:
    """Yield the rows of a dataset's columns, labels first; `counts` are of `different_values`, if known."""
    targets = preprocessing.targets
    for place, name in enumerate(targets.names):
        of_it = targets.classes[place].names if targets.classes else ()
        yield ColumnRow(name, "label", None, f"{len(of_it):,}" if of_it else "",
                        f"{len(of_it):,} classes" if of_it else "a target")  # fmt: skip
    fitted = {column.name: column for column in preprocessing.columns}
    for column in schema:
        if column.kind is ColumnKind.EMPTY or column.name not in fitted:
            told = "nothing"
        else:
            told = became(fitted[column.name], recipe.scale)
        yield ColumnRow(column.name, str(column.kind), column.missing, counts.get(column.name, ""), told)
    apart: dict[str, Any] = {**recipe.mark, **({"weights": recipe.weights} if recipe.weights else {})}
    for field, name in apart.items():
        yield ColumnRow(name, field, None, "", "no feature")
    for name in recipe.drop:
        yield ColumnRow(name, "dropped", None, "", "no feature")
