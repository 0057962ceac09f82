"""Measure what each parameter of the designs did to the accuracy, all others mixed as they were drawn."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dnnflow.results.view.intervals import MeanOfTrials, mean_interval

PARAMETERS = (
    "depth", "units", "units_min", "units_max", "activation", "dropout", "batch_norm", "initializer", "l2",
    "residual", "optimizer", "learning_rate", "schedule", "batch_size", "epochs", "early_stopping", "seed",
    "reference",
)  # fmt: skip
"""Columns of a trial that say what its design is."""

MOST_VALUES = 12
"""A number with more distinct values than this is cut into bins of about as many trials each."""
BINS = 8
MOST_TEXTS = 20
"""Of a text with more distinct values than this, the rarest are put together."""
OTHERS = "others"


@dataclass(frozen=True, kw_only=True)
class Group(MeanOfTrials):
    """The accuracy of trials that share a value of a parameter."""

    label: str
    median: float
    best: float


@dataclass(frozen=True)
class Marginal:
    """Accuracy against one parameter."""

    parameter: str
    groups: tuple[Group, ...]
    """In the order of their values."""
    explained: float
    """η²: share of the accuracies' variance that lies between the groups, 0 to 1."""
    by_chance: float
    """What η² is expected to be for a parameter without any effect."""
    binned: bool
    """Whether the groups are ranges of a number."""


def marginals(completed: pd.DataFrame) -> tuple[Marginal, ...]:
    """Return one `Marginal` for each parameter that varies, the one that explains most first."""
    score = completed["score"].to_numpy()
    found = (marginal(name, column, score) for name, column in _varying(completed))
    return tuple(sorted((item for item in found if item), key=lambda item: (-item.explained, item.parameter)))


def marginal(name: str, column: "pd.Series[Any]", score: np.ndarray) -> Marginal | None:
    """Return how accuracy (trials,) goes with one parameter, None where it does not vary.

    Trials without a value of it are left out.
    """
    present = column.notna().to_numpy()
    codes, labels, binned = _grouped(column[present])
    values = score[present]
    if len(labels) < 2:
        return None
    groups = tuple(_group(label, values[codes == code]) for code, label in enumerate(labels))
    total = float(((values - values.mean()) ** 2).sum())
    between = sum(group.n * (group.mean - float(values.mean())) ** 2 for group in groups)
    return Marginal(
        parameter=name,
        groups=groups,
        explained=between / total if total > 0 else 0.0,
        by_chance=(len(groups) - 1) / (len(values) - 1),
        binned=binned,
    )


def _group(label: str, values: np.ndarray) -> Group:
    return Group(
        label=label,
        n=len(values),
        mean=float(values.mean()),
        interval=mean_interval(values),
        median=float(np.median(values)),
        best=float(values.max()),
    )


def _varying(trials: pd.DataFrame) -> "Iterator[tuple[str, pd.Series[Any]]]":
    same_units = (trials["units_min"].eq(trials["units_max"]) | trials["units"].isna()).all()
    skipped = {"units_min", "units_max"} if same_units else {"units"}
    for name in PARAMETERS:
        if name not in skipped:
            column = trials[name]
            # No early stopping is a choice; no width (a design without layers) is not
            yield name, column.astype(object).fillna("none") if name == "early_stopping" else column
    texts = trials["more_parameters"]
    if (texts != "{}").any():
        more = pd.DataFrame([json.loads(text) for text in texts], index=trials.index)
        yield from ((str(name), more[name]) for name in sorted(more.columns))


def _grouped(column: "pd.Series[Any]") -> tuple[np.ndarray, list[str], bool]:
    """Return the group of every value (numbers from 0), the groups' labels, and whether they are ranges."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric and column.nunique() > MOST_VALUES:
        return _ranges(column.to_numpy(dtype=float))
    if column.nunique() > MOST_TEXTS:
        kept = column.value_counts().index[:MOST_TEXTS]
        column = column.where(column.isin(kept), OTHERS)
    values = sorted(column.unique(), key=lambda value: (isinstance(value, str), value))
    codes = column.map({value: code for code, value in enumerate(values)})
    return codes.to_numpy(dtype=int), [_label(value) for value in values], False


def _ranges(values: np.ndarray) -> tuple[np.ndarray, list[str], bool]:
    inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    codes = np.searchsorted(inner, values, side="right")
    used, codes = np.unique(codes, return_inverse=True)
    spans = [values[codes == code] for code in range(len(used))]
    return codes, [f"{_label(float(x.min()))} – {_label(float(x.max()))}" for x in spans], True


def _label(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    return str(value)
