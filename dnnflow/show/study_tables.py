"""Prepare what is shown of a study as numbers and text: figures and pages only draw it."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dnnflow.engines.records import TrialState
from dnnflow.results.view.depth import timing
from dnnflow.results.view.study_view import StudyView
from dnnflow.results.view.tested import first_of
from dnnflow.show.run_numbers import thinned
from dnnflow.show.wording import range_in_words

MOST_POINTS = 3_000
"""With more trials than this, the report shows distributions instead of points."""
CELLS = (60, 40)
"""Columns and rows of a two-dimensional histogram."""
MOST_CLASSES = 25
"""A larger confusion matrix shows the classes with most errors only."""
MOST_CONFUSED = 10
LOG_SPAN = 50
"""Depths that span more than this factor are drawn on a logarithmic axis."""
MOST_STEPS = 300
"""A longer learning curve is thinned out."""

NAMES = {
    "depth": "hidden layers",
    "units": "units a layer",
    "units_min": "units of the narrowest layer",
    "units_max": "units of the widest layer",
    "batch_norm": "batch normalisation",
    "l2": "L2 penalty",
    "residual": "layers a residual group",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "early_stopping": "early stopping, patience",
}
"""Parameters in words, where their own name is not a word."""
FOLLOWED = {"r2": "R²"}
"""What is followed through the epochs in words, where its own name is not a word."""
PACKAGES = ("dnnflow", "numpy", "keras", "tensorflow", "scikit-learn", "distributed")
PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Points:
    """Trials one by one."""

    x: np.ndarray
    y: np.ndarray
    names: Sequence[str]
    """What each is, in words."""


@dataclass(frozen=True)
class Cells:
    """Trials counted in the cells of a grid; empty cells are left out."""

    left: np.ndarray
    right: np.ndarray
    bottom: np.ndarray
    top: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Cloud:
    """Accuracy against another measure, point by point or counted."""

    trials: Points | Cells
    logarithmic: bool
    """Whether x spans so much that it is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class ConfusionTable:
    """Counts of the best design on the rows it is measured on, and its most frequent confusions."""

    names: tuple[str, ...]
    """Classes shown, in their order."""
    counts: np.ndarray
    """Shape (true, predicted)."""
    shares: np.ndarray
    """Counts as share of the true class, shape (true, predicted)."""
    left_out: int
    """Classes not shown."""
    confused: tuple[tuple[str, str, int], ...]
    """True class, predicted class, rows; most first."""


@dataclass(frozen=True)
class Curves:
    """One measure of several designs, epoch by epoch."""

    measure: str
    """For a person, e.g. `validation accuracy`."""
    epochs: tuple[np.ndarray, ...]
    """Counted from 1."""
    values: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    ranks: tuple[int, ...]


def summary(view: StudyView) -> list[tuple[str, str]]:
    """Return what the study is and how it stands, as names and values for a person."""
    record, described = view.record, view.record.dataset
    rows = described.get("rows") or {}
    facts: list[tuple[str, Any]] = [
        ("Study", record.study_id),
        ("State", record.state.value),
        ("Begun", _moment(record.created_at)),
        ("Last change", _moment(record.updated_at)),
        ("Label", record.label),
        ("Source", _source(record.pipeline)),
        ("Rows to train", rows.get("train")),
        ("Rows to test", rows.get("test")),
        ("Rows without a label, left out", described.get("dropped_rows") or None),
        ("Features", described.get("n_features")),
        ("Classes", len(view.class_names) or None),
        ("Compared on", view.measured_on if view.measured_rows else None),
        ("Always the largest class of these", _largest_class(view.majority_rate)),
        ("Training time, summed", _duration(view.trials["training_s"].sum())),
        ("Dataset", record.dataset_id),
    ]
    known = [(name, value) for name, value in facts if value is not None]
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in known]


def headline(view: StudyView) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: name, value, what to know about it."""
    counts = view.counts
    waiting = f"{view.waiting:,} waiting" if view.waiting else "all done"
    bad = f"{counts[TrialState.FAILED]:,} failed, {counts[TrialState.LOST]:,} lost"
    numbers: list[tuple[str, str, str]] = []
    if tested := first_of(view.tested):
        numbers.append(
            (
                "accuracy on test rows"
                if tested.selected is not None
                else "on the test rows it was chosen on",
                f"{tested.score:.4f}",
                f"95 %: {range_in_words(tested.interval)}",
            )
        )
    if others := [one for one in view.tested if one.kind == "baseline"]:
        best = max(others, key=lambda one: one.score)
        numbers.append(("best baseline there", f"{best.score:.4f}", best.name))
    numbers += [
        ("designs", f"{view.record.n_designs:,}", waiting),
        ("completed", f"{counts[TrialState.COMPLETED]:,}", bad),
    ]
    if view.leaderboard and view.noise:
        if tested is None:
            first = view.leaderboard[0]
            interval = (
                f"95 %: {range_in_words((first.low, first.high))}, on {view.measured_on} it was chosen on"
            )
            numbers.append(("best accuracy", f"{first.score:.4f}", interval))
        numbers.append(("within noise of the best", f"{view.noise.equal:,}", "designs, itself included"))
    return numbers


def cloud(trials: pd.DataFrame, column: str) -> Cloud | None:
    """Return accuracy against a column, None where it does not vary.

    Parameters
    ----------
    trials : DataFrame
        Completed trials.
    column : str
        A number that is ≥ 0; trials without it are left out.
    """
    known = trials[trials[column].notna()]
    x, y = known[column].to_numpy(dtype=float), known["score"].to_numpy(dtype=float)
    if len(np.unique(x)) < 2:
        return None
    logarithmic = bool(x.min() > 0 and x.max() / x.min() > 20)
    if len(x) > MOST_POINTS:
        return Cloud(_cells(x, y, logarithmic), logarithmic)
    return Cloud(Points(x, y, [row_name(row) for row in known.to_dict("records")]), logarithmic)


def depth_points(trials: pd.DataFrame, column: str) -> Points | None:
    """Return a column against hidden layers, trial by trial; None for more than `MOST_POINTS` of them.

    x is moved aside by up to a quarter of a layer, on a logarithmic axis by up to 3 %, the same way each
    time, so that trials do not cover one another.
    """
    known = trials[trials["depth"].notna()]
    if len(known) > MOST_POINTS:
        return None
    depth = known["depth"].to_numpy(dtype=float)
    aside = np.random.default_rng(0).uniform(-1, 1, len(known))
    moved = depth * 1.03**aside if spans_much(depth) else depth + 0.25 * aside
    names = [row_name(row) for row in known.to_dict("records")]
    return Points(moved, known[column].to_numpy(dtype=float), names)


def spans_much(depths: np.ndarray) -> bool:
    """Whether depths are drawn on a logarithmic axis: they span more than `LOG_SPAN`, without a zero."""
    return bool(len(depths) and depths.min() > 0 and depths.max() / depths.min() > LOG_SPAN)


def time_marks(view: StudyView) -> list[str]:
    """Return a mark for each place of the leaderboard: a star at a share, where others are measured alone."""
    mixed = len({place.amortised for place in view.leaderboard}) == 2
    return ["*" if mixed and place.amortised else "" for place in view.leaderboard]


def timings(view: StudyView) -> str | None:
    """Say how the training times of the leaderboard were found; None without one."""
    shared = {place.amortised for place in view.leaderboard}
    if not shared:
        return None
    return f"*: {timing(True)}, the others are {timing(False)}" if len(shared) == 2 else timing(shared.pop())


def _cells(x: np.ndarray, y: np.ndarray, logarithmic: bool) -> Cells:
    space = np.geomspace if logarithmic else np.linspace
    across = space(x.min(), x.max(), CELLS[0] + 1)
    across[[0, -1]] = x.min(), x.max()  # rounding may put the outer edges inside
    up = np.linspace(y.min(), max(y.max(), y.min() + 1e-3), CELLS[1] + 1)
    counts, *_ = np.histogram2d(x, y, bins=(across, up))
    column, row = np.nonzero(counts)
    return Cells(across[column], across[column + 1], up[row], up[row + 1], counts[column, row])


def row_name(row: Mapping[Any, Any]) -> str:
    """Say a trial's design in a few words, from its columns."""
    if isinstance(row["reference"], str):
        return row["reference"]
    shape = "no hidden layer"
    if row["depth"]:
        least, most = row["units_min"], row["units_max"]
        units = f"{least}" if least == most else f"{least}–{most}"
        shape = f"{row['depth']} x {units} {row['activation']}"
    return f"{shape}, {row['optimizer']} {row['learning_rate']:.3g}, batch {row['batch_size']}"


def confusion(view: StudyView) -> ConfusionTable | None:
    """Return the best design's confusions, None where none are known."""
    if view.best is None or not view.best.confusion:
        return None
    counts = np.array(view.best.confusion)  # (true, predicted)
    names = view.class_names
    off = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(off, axis=None, kind="stable")[::-1][:MOST_CONFUSED]
    pairs = [divmod(int(cell), len(counts)) for cell in order]
    confused = tuple((names[i], names[j], int(off[i, j])) for i, j in pairs if off[i, j])
    kept = np.arange(len(counts))
    if len(counts) > MOST_CLASSES:
        errors = off.sum(axis=0) + off.sum(axis=1)
        kept = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    square = np.ix_(kept, kept)
    return ConfusionTable(
        names=tuple(names[k] for k in kept),
        counts=counts[square],
        shares=shares[square],
        left_out=len(counts) - len(kept),
        confused=confused,
    )


def curves(view: StudyView, measure: str) -> Curves | None:
    """Return a measure of the best designs by epoch: on validation rows where all have them."""
    if not view.curves:
        return None
    watched = all(f"val_{measure}" in curve.history for curve in view.curves)
    key, word = (f"val_{measure}", "validation") if watched else (measure, "training")
    shown = [curve for curve in view.curves if curve.history.get(key)]
    if not shown:
        return None
    steps = [np.array(thinned(len(curve.history[key]), MOST_STEPS)) for curve in shown]
    return Curves(
        measure=f"{word} {FOLLOWED.get(measure, measure)}",
        epochs=tuple(step + 1 for step in steps),
        values=tuple(np.asarray(curve.history[key])[step] for curve, step in zip(shown, steps, strict=True)),
        names=tuple(curve.design for curve in shown),
        ranks=tuple(curve.rank for curve in shown),
    )


def pipeline_text(view: StudyView) -> str:
    """Return the study's pipeline as YAML, without what may be secret."""
    shown = _without_secrets(dict(view.record.pipeline))
    return PASSWORD.sub("***@", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100))


def versions() -> list[tuple[str, str]]:
    """Return the versions of what trains, as installed where the report is written."""
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _without_secrets(value: Any) -> Any:
    """Return JSON types with the values of every `storage_options` hidden: they hold passwords and keys."""
    if isinstance(value, Mapping):
        hidden = {"storage_options": dict.fromkeys(value.get("storage_options") or {}, "***")}
        return {key: hidden.get(key, _without_secrets(item)) for key, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list | tuple) else value


def _source(pipeline: Mapping[str, Any]) -> str | None:
    """Return where the table was read from, without a password in it."""
    source = (pipeline.get("dataset") or {}).get("source")
    return PASSWORD.sub("***@", str(source)) if source else None


def _largest_class(rate: float | None) -> str | None:
    """Say what accuracy a guess of the largest class has: what every design has to beat."""
    return f"{rate:.4f} accuracy" if rate is not None else None


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC" if text else "–"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
