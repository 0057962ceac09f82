"""Score a saved model on rows whose label is known: classes, several labels, or numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dnnflow.engines.metric import Metric, decided
from dnnflow.engines.metrics import ACCURACY, measures, metric_of
from dnnflow.engines.scoring import confusion, in_units
from dnnflow.errors import DataError
from dnnflow.results.view.bootstrap import bootstrap_interval
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.score_words import between
from dnnflow.table.columns.kinds import Task, nearest, quoted
from dnnflow.table.columns.raw_values import by_names
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    import pandas as pd

    from dnnflow.table.columns.preprocess import Preprocessing

MOST_NAMED = 10
"""Classes that an error names."""


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """What a model gives on rows whose label is known."""

    labels: tuple[str, ...]
    """Columns of the labels."""
    rows: int
    """Rows that are scored."""
    left_out: int
    """Rows without a label."""
    metric: str
    """Name of the metric that the model was chosen by."""
    label: str
    """The same for people."""
    text: str
    """What it is on these rows, for people, with its 95 % interval."""
    interval: tuple[float, float] | None
    """Of its score, greater is better: Wilson's for accuracy, else by rows drawn again."""
    measures: Mapping[str, float]
    """All metrics of the task by name, as they are usually written."""
    fitted_rows: int | None = None
    """All rows of its study's table, where the model was fitted to the test rows, too: on these it looks
    better than it is."""
    right: int | None = None
    """Rows whose class is predicted; None of labels and numbers."""
    classes: tuple[str, ...] = ()
    """In the order of `confusion`; empty of labels and numbers."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows, [true class][predicted class]; empty of labels and numbers."""
    notes: tuple[str, ...] = ()
    """What to know of the rows: how they were read, values unlike those trained on."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


def has_label(preprocessing: "Preprocessing", rows: "pd.DataFrame") -> bool:
    """Whether rows have each label's column, and some row a label in all of them."""
    rows = by_names(rows, preprocessing.targets.names)
    names = list(rows.columns)
    if any(names.count(name) != 1 for name in preprocessing.targets.names):
        return False
    texts = [preprocessing.labels_of(i, rows[name]) for i, name in enumerate(preprocessing.targets.names)]
    return any(all(text is not None for text in row) for row in zip(*texts, strict=True))


def truth_of(preprocessing: "Preprocessing", rows: "pd.DataFrame") -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the labels of rows as a network is trained on them, and which rows have all of them.

    Raises
    ------
    DataError
        If a label has no column, or something in it that the model does not know, or no row is labelled.
    """
    rows = by_names(rows, preprocessing.targets.names)
    targets, names = preprocessing.targets, list(rows.columns)
    values, known = [], np.ones(len(rows), bool)
    for place, column in enumerate(targets.names):
        if names.count(column) != 1:
            raise DataError(
                f"rows to be scored must have the label {column!r} once, got it {names.count(column)} times; "
                f"{nearest(column, names)}"
            )
        texts = preprocessing.labels_of(place, rows[column])
        found = targets.values(place, pa.array(texts, pa.string()))
        is_there = np.array([text is not None for text in texts], bool)
        if (strange := is_there & ~np.isfinite(found)).any():
            row = int(np.argmax(strange))
            raise DataError(
                f"row {row + 1}, column {column!r}: {quoted(str(texts[row]))} is {_rule(targets, place)}; "
                "correct it, or leave it empty to leave the row out"
            )
        values.append(found)
        known &= is_there
    if not known.any():
        columns = " and ".join(map(repr, targets.names))
        raise DataError(
            f"rows to be scored must have a label, got none in column {columns} of {len(rows):,} rows; apply "
            "the model to them with predict"
        )
    return targets.encode(np.where(known[:, None], np.stack(values, axis=1), 0.0)), known


def score_of(
    truth: NDArray[Any], known: NDArray[np.bool_], outputs: NDArray[np.floating[Any]],
    preprocessing: "Preprocessing", *, metric_name: str | None = None,
    thresholds: tuple[float, ...] | None = None,
) -> ModelScore:  # fmt: skip
    """Return what outputs (rows, outputs) give beside the truth of `truth_of`.

    Parameters
    ----------
    metric_name
        What the model was chosen by; the task's own by default.
    thresholds
        Of the model: see `decided`.
    """
    targets = preprocessing.targets
    true, given = in_units(targets, truth[known]), in_units(targets, outputs[known])
    metric = metric_of(metric_name, targets.task, targets.n_outputs)
    score, interval = _with_interval(metric, targets.task, true, given, thresholds)
    facts: dict[str, Any] = {}
    if targets.task is Task.CLASSIFICATION:
        counts = confusion(true, decided(targets.task, given, thresholds), targets.n_outputs)
        facts = {"right": int(np.trace(counts)), "classes": targets.classes[0].names,
                 "confusion": tuple(map(tuple, counts.tolist()))}  # fmt: skip
    return ModelScore(
        labels=targets.names, rows=int(known.sum()), left_out=int((~known).sum()), metric=metric.name,
        label=metric.label, text=_in_words(metric, score, interval), interval=interval,
        measures=measures(targets.task, true, given, thresholds), **facts,
    )  # fmt: skip


def _with_interval(
    metric: Metric, task: Task, truth: NDArray[Any], outputs: NDArray[Any],
    thresholds: tuple[float, ...] | None,
) -> tuple[float | None, tuple[float, float] | None]:  # fmt: skip
    given = decided(task, outputs, thresholds) if metric.needs == "classes" else outputs
    score = metric.score(truth, given)
    if score is None:
        return None, None
    if metric is ACCURACY and task is Task.CLASSIFICATION:
        return score, wilson_interval(score, len(truth))
    return score, bootstrap_interval(metric, truth, given)


def _in_words(metric: Metric, score: float | None, interval: tuple[float, float] | None) -> str:
    if score is None:
        return "not defined on these rows"
    return metric.text(score) + (f" (95 %: {between(metric, interval)})" if interval else "")


def _rule(targets: Targets, place: int) -> str:
    """Say why a text is no label."""
    if targets.task is Task.REGRESSION:
        return "no finite number"
    known = targets.classes[place].names
    shown = ", ".join(map(quoted, known[:MOST_NAMED])) + (", …" if len(known) > MOST_NAMED else "")
    return f"no class of the model ({shown})"
