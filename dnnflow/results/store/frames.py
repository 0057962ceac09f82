"""Rows of the table `trials` as a pandas DataFrame whose types do not depend on what the rows hold."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from dnnflow.errors import InputError
from dnnflow.results.store.schema import trials

LONG_COLUMNS = ("confusion", "error_traceback", "history")
"""Left out unless asked for."""


def select_trials(columns: Sequence[str] | None) -> sa.Select[Any]:
    """Return a query for these columns, or for all but the long ones.

    Raises
    ------
    InputError
        For a column that is not there.
    """
    known = [column.name for column in trials.columns]
    wanted = [name for name in known if name not in LONG_COLUMNS] if columns is None else list(columns)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InputError(f"a trial's columns are {', '.join(known)}, got {', '.join(unknown)}")
    return sa.select(*(trials.c[name] for name in wanted))


def read_frame(connection: sa.Connection, query: sa.Select[Any]) -> pd.DataFrame:
    """Run a query for columns of `trials` and return its rows, column types after the table's."""
    names = [column.name for column in query.selected_columns]
    rows = connection.execute(query).fetchall()
    values = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    columns = {
        name: pd.array(list(series), dtype=_dtype(trials.c[name]))
        for name, series in zip(names, values, strict=True)
    }
    return pd.DataFrame(columns, columns=pd.Index(names))


def _dtype(column: "sa.Column[Any]") -> Any:
    """Return a pandas type that takes what the column may hold: nullable where the column is."""
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return "boolean" if column.nullable else "bool"
    if isinstance(kind, sa.Integer):
        return "Int64" if column.nullable else "int64"
    return "float64" if isinstance(kind, sa.Double) else "str"
