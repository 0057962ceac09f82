"""Export trials as a file for other programs."""

import io
from pathlib import Path

import pandas as pd

from dnnflow.errors import InputError
from dnnflow.paths import write_file

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
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        buffer = io.BytesIO()
        trials.to_parquet(buffer, index=False)
        write_file(path, buffer.getvalue())
    elif suffix == ".csv":
        write_file(path, _harmless(trials).to_csv(index=False))
    elif suffix == ".json":
        write_file(path, trials.to_json(orient="records", double_precision=15))
    else:
        raise InputError(f"trials are exported to .parquet, .csv or .json, got {path.name!r}")


def _harmless(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with every text that begins like a formula neutralised."""
    texts = [name for name in trials.columns if pd.api.types.is_string_dtype(trials[name])]
    formula = {name: trials[name].str.startswith(FORMULA_SIGNS, na=False) for name in texts}
    return trials.assign(**{name: trials[name].mask(formula[name], "'" + trials[name]) for name in texts})
