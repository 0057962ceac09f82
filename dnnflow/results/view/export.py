"""Write trials, and other tables, as files for other programs."""

import io
from pathlib import Path

import pandas as pd

from dnnflow.errors import InputError
from dnnflow.paths import write_file

SUFFIXES = (".parquet", ".csv", ".json")
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is taken for a formula by spreadsheet programs."""


def export_trials(trials: pd.DataFrame, path: Path) -> None:
    """Write trials as Parquet, CSV or JSON (a list of records), after the suffix of `path`.

    In a CSV, text that a spreadsheet program would run as a formula gets a leading apostrophe.

    Raises
    ------
    InputError
        For another suffix.
    """
    write_table(_harmless(trials) if path.suffix.lower() == ".csv" else trials, path, "trials are exported")


def check_suffix(path: Path, what: str) -> None:
    """Look whether a table can be written to a file of this name.

    Raises
    ------
    InputError
        If its suffix stands for no format that is written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{what} to {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path.name!r}")


def write_table(table: pd.DataFrame, path: Path, what: str) -> None:
    """Write a table in the format that the suffix of `path` stands for; raises as `check_suffix`."""
    check_suffix(path, what)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_file(path, buffer.getvalue())
    elif suffix == ".csv":
        write_file(path, table.to_csv(index=False))
    else:
        write_file(path, table.to_json(orient="records", double_precision=15))


def _harmless(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with every text that begins like a formula neutralised."""
    texts = [name for name in trials.columns if pd.api.types.is_string_dtype(trials[name])]
    formula = {name: trials[name].str.startswith(FORMULA_SIGNS, na=False) for name in texts}
    return trials.assign(**{name: trials[name].mask(formula[name], "'" + trials[name]) for name in texts})
