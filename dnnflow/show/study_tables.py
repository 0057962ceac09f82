"""Prepare what is shown of a study as numbers and text: figures and pages only draw it."""

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dnnflow.engines.metric import Metric
from dnnflow.engines.records import TrialState
from dnnflow.results.view.depth import TimeFit, timing
from dnnflow.results.view.leaderboard import Ranked
from dnnflow.results.view.marginals import Marginal
from dnnflow.results.view.score_words import between, spread_text
from dnnflow.results.view.study_view import StudyView
from dnnflow.results.view.tested import Tested, ToldNumber
from dnnflow.show.run_numbers import thinned
from dnnflow.table.columns.column_row import share_in_words

MOST_COLUMNS = 500
"""Of a table that a report tells."""
MOST_POINTS = 3_000
"""With more trials than this, the report shows distributions instead of points."""
CELLS = (60, 40)
"""Columns and rows of a two-dimensional histogram."""
MOST_CLASSES = 25
"""A larger confusion matrix shows the classes with most errors only."""
MOST_CONFUSED = 10
LOG_SPAN = 50
"""Depths that span more than this factor are drawn on a logarithmic axis."""
SHOWN_PLACES, FEWEST_OTHERS = 10, 3
"""Places of a leaderboard that are shown at once, and of those behind the finalists at least."""
FEWEST_DEPTHS = 16
"""A spectrum of fewer depths says nothing; a study of so many is one of depth, as that of 2015."""
FEWEST_TIMED = 5
"""Depths from which on a line through training times says something..."""
LEAST_R2 = 0.8
"""...and the share of their variance that it has to explain."""
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
        ("Designs", f"{record.n_designs:,}: {_progress(view)}"),
        ("Begun", _moment(record.created_at)),
        ("Last change", _moment(record.updated_at)),
        ("Label", record.label),
        ("Source", _source(record.pipeline)),
        ("Rows to train", rows.get("train")),
        ("Rows to test", rows.get("test")),
        ("Rows without a label, left out", described.get("dropped_rows") or None),
        ("How the table was read", "; ".join(described.get("notes") or ()) or None),
        ("Features", described.get("n_features")),
        ("Classes", len(view.class_names) or None),
        ("Compared on", view.measured_on if view.measured_rows else None),
        ("Always the largest class of these", _largest_class(view)),
        ("Training time, summed", _duration(view.trials["training_s"].sum())),
        ("Dataset", record.dataset_id),
    ]
    known = [(name, value) for name, value in facts if value is not None]
    return [(name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in known]


def headline(view: StudyView) -> list[ToldNumber]:
    """Return the numbers that matter most; before the test rows were looked at, how the study stands."""
    if view.numbers:
        return list(view.numbers)
    found = [ToldNumber("designs", f"{view.record.n_designs:,}", _progress(view))]
    if view.leaderboard and view.noise:
        first, metric = view.leaderboard[0], view.metric
        rows = f"{view.finals.rows:,} rows" if view.finals else f"{view.measured_on} it was chosen on"
        note = f"95 %: {between(metric, (first.low, first.high))}, on {rows}"
        found.insert(0, ToldNumber(f"best {metric.label}", metric.text(first.score), note))
        found.append(ToldNumber("as good as the best", f"{view.noise.equal:,}", "designs, itself included"))
    return found


def _progress(view: StudyView) -> str:
    counts = view.counts
    found = [f"{counts[TrialState.COMPLETED]:,} completed"]
    told = (
        ("failed", counts[TrialState.FAILED]),
        ("lost", counts[TrialState.LOST]),
        ("waiting", view.waiting),
    )
    return ", ".join([*found, *(f"{count:,} {name}" for name, count in told if count)])


# ---- the leaderboard


@dataclass(frozen=True)
class PlaceRow:
    """One row of a leaderboard, as text for people."""

    rank: str
    """With ≈ before it where the design cannot be told from the first; empty for what has no place."""
    name: str
    score: str
    spread: str
    """± over several trainings; empty of one."""
    interval: str
    """95 %."""
    bar: tuple[float, float, float] | None
    """Left end, length and place of the score of the interval's bar, in percent of its track; None of what
    lies beyond the track, which is as long as what is shown at once."""
    place: Ranked | None = None
    is_first: bool = False
    mark: str = ""
    """Beside the training time."""
    selected: str = ""
    """Of what was tested: the score on the rows that it was chosen by."""
    model: str = ""
    """Of what was tested: rank or `ensemble`, where it is handed out."""


@dataclass(frozen=True)
class PlaceSection:
    """Rows of a leaderboard whose scores may be compared with one another: they are of the same rows."""

    title: str
    note: str
    """What these scores are."""
    rows: tuple[PlaceRow, ...]
    shown: int
    """Rows that are shown at once."""


def place_sections(view: StudyView, top: int | None = None) -> list[PlaceSection]:
    """Return the leaderboard: finalists, then the others by the screen, whose scores are of other rows."""
    marks = dict(zip((one.design_id for one in view.leaderboard), time_marks(view), strict=True))
    shown = view.leaderboard[:top]
    finalists = [one for one in shown if one.is_finalist]
    others = [one for one in shown if not one.is_finalist]
    found = []
    n_others = max(FEWEST_OTHERS, SHOWN_PLACES - len(finalists))
    if finalists and view.finals:
        times = finalists[0].trainings
        trained = "trained once more" if times == 1 else f"trained {times} times each, mean ± spread,"
        note = f"{trained} on {view.finals.rows:,} rows that each network was not fitted to"
        rows = _place_rows(finalists, marks, view.metric, SHOWN_PLACES)
        found.append(PlaceSection("Finalists", note, rows, SHOWN_PLACES))
    if others:
        seeds = max(one.trainings for one in others)
        trained = "" if seeds == 1 else f"trained {seeds} times each, mean ± spread, "
        note, title = f"{trained}on {view.measured_on}", "Designs"
        if finalists:
            title = "The others, by the screen"
            note = f"one training on {view.measured_on}" if seeds == 1 else note
            note += ", by which the finalists were chosen: not to be compared with the numbers above"
        found.append(PlaceSection(title, note, _place_rows(others, marks, view.metric, n_others), n_others))
    return found


def measured_section(view: StudyView) -> PlaceSection | None:
    """Return what is handed out and baselines, on the test rows; None before they were looked at."""
    if not view.tested:
        return None
    note = f"on {view.tested[0].rows:,} test rows, "
    note += "on which designs were chosen" if view.is_selected_on_test else "looked at once"
    handed = [one for one in view.tested if one.kind != "baseline"]
    others = sorted((one for one in view.tested if one.kind == "baseline"), key=lambda one: -one.score)
    span = _span(one.interval for one in [*handed, *others[:1]])
    rows = tuple(_tested_row(one, span, view.metric) for one in [*handed, *others])
    rows = (replace(rows[0], is_first=bool(handed)), *rows[1:])
    return PlaceSection("What is handed out, and baselines", note, rows, len(rows))


def _place_rows(
    places: Sequence[Ranked], marks: Mapping[str, str], metric: Metric, shown: int
) -> tuple[PlaceRow, ...]:
    span = _span((one.low, one.high) for one in places[:shown])
    return tuple(
        PlaceRow(
            rank=f"{'≈ ' if one.within_noise and one.rank > 1 else ''}{one.rank}",
            name=one.design,
            score=metric.text(one.score),
            spread="" if one.spread is None else spread_text(metric, one.spread),
            interval=between(metric, (one.low, one.high)),
            bar=_bar(one.low, one.high, one.score, span),
            place=one,
            is_first=one.rank == 1,
            mark=marks[one.design_id],
        )
        for one in places
    )


def _tested_row(one: Tested, span: tuple[float, float], metric: Metric) -> PlaceRow:
    low, high = one.interval or (None, None)
    model = {"ensemble": "ensemble", "design": str(one.rank)}.get(one.kind, "")
    selected = "" if one.selected is None else metric.text(one.selected)
    return PlaceRow(
        rank=str(one.rank or ""), name=one.name, score=metric.text(one.score), spread="",
        interval=between(metric, one.interval), bar=_bar(low, high, one.score, span), model=model,
        selected=selected,
    )  # fmt: skip


def _span(intervals: Iterable[tuple[float | None, float | None] | None]) -> tuple[float, float]:
    known = [(one[0], one[1]) for one in intervals if one is not None]
    lows = [low for low, _ in known if low is not None]
    highs = [high for _, high in known if high is not None]
    return min(lows, default=0.0), max(highs, default=1.0)


def _bar(
    low: float | None, high: float | None, score: float, span: tuple[float, float]
) -> tuple[float, float, float] | None:
    if low is None or high is None:
        return None
    width = (span[1] - span[0]) or 1.0
    left, right, dot = (100 * (end - span[0]) / width for end in (low, high, score))
    if not 0 <= dot <= 100:
        return None
    left, right = max(left, 0.0), min(right, 100.0)
    return round(left, 1), round(right - left, 1), round(dot, 1)


# ---- what the figures of 2015 say, where they say something


def is_depth_sweep(view: StudyView) -> bool:
    """Whether a study is one of depth, as the experiment of 2015."""
    return len(view.score_by_depth) >= FEWEST_DEPTHS


def telling_fit(view: StudyView) -> TimeFit | None:
    """Return the line through training times where it explains them."""
    fit = view.time_fit
    return fit if fit and fit.r2 >= LEAST_R2 and len(view.time_by_depth) >= FEWEST_TIMED else None


def flops_differ(trials: pd.DataFrame) -> bool:
    """Whether FLOPs say more than weights do: of plain dense networks they are twice as many."""
    ratio = (trials["flops"].astype(float) / trials["parameters"].astype(float)).dropna()
    return bool(len(ratio) and ratio.max() > 1.1 * ratio.min())


def telling(marginals: Sequence[Marginal], most: int = 3) -> list[str]:
    """Return what the parameters that explain more than chance does have explained, in words."""
    found = [one for one in marginals if one.explained > 2 * one.by_chance][:most]
    return [f"{NAMES.get(one.parameter, one.parameter)} {100 * one.explained:.0f} %" for one in found]


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


def table_columns(view: StudyView) -> list[tuple[str, ...]]:
    """Return each column of the table as name, kind, missing and different values, and what it became."""
    rows = view.record.dataset.get("column_rows") or ()
    return [
        (row["name"], row["kind"], share_in_words(row["missing"]), row["different"], row["became"])
        for row in rows[:MOST_COLUMNS]
    ]


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


def _largest_class(view: StudyView) -> str | None:
    """Say what a guess of the largest class comes to: what every design has to beat."""
    rate = view.majority_rate
    return f"{view.metric.text(rate)} {view.metric.label}" if rate is not None else None


def _moment(text: str) -> str:
    return f"{text[:19].replace('T', ' ')} UTC" if text else "–"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
