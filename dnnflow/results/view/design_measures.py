"""Compute metrics of all designs of a screen after the fact, from what they predict."""

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.count_metrics import CountMetric, count_classes
from dnnflow.engines.metric import Metric, Outputs, Truth, decided
from dnnflow.engines.metrics import METRICS
from dnnflow.paths import Workspace
from dnnflow.results.predictions.prediction_matrix import KeptPredictions, read_predictions
from dnnflow.results.store.schema import MEASURES
from dnnflow.results.store.store import Store
from dnnflow.table.columns.kinds import Task

_BLOCK = 1 << 23
"""Most numbers of outputs that are looked at at once."""


def store_measures(store: Store, study_id: str, workspace: Workspace, task: Task) -> int:
    """Write the metrics `MEASURES` of the trials that have none yet; return of how many these are.

    Nothing is written where predictions were not kept.
    """
    missing = store.without_measures(study_id, _names(task))
    kept = read_predictions(workspace.predictions(study_id)) if missing else None
    if kept is None:
        return 0
    place = {design_id: row for row, design_id in enumerate(kept.design_ids)}
    known = [design_id for design_id in missing if design_id in place]
    if known:
        found = measures_of_designs(kept, np.array([place[one] for one in known]), task)
        store.add_measures(study_id, known, found)
    return len(known)


def measures_of_designs(
    kept: KeptPredictions, rows: NDArray[np.int64], task: Task
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics `MEASURES` of designs, as they are usually written, shape (designs,) each.

    Parameters
    ----------
    rows
        Of `kept.values`, shape (designs,).
    """
    size = max(1, _BLOCK // max(1, kept.values[0].size))
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _names(task)}
    for first in range(0, len(rows), size):
        outputs = kept.values[rows[first : first + size]]
        counts = None if task is Task.REGRESSION else count_classes(kept.truth, decided(task, outputs))
        for name, blocks in found.items():
            metric = METRICS[name]
            if isinstance(metric, CountMetric) and counts is not None:
                blocks.append(metric.of(counts, task))
            else:
                blocks.append(_mean_scores(metric, kept.truth, outputs))
    return {name: np.concatenate(blocks) for name, blocks in found.items()}


def _mean_scores(metric: Metric, truth: Truth, outputs: Outputs) -> NDArray[np.float64]:
    """Return a metric's values of models by its row scores, whose mean it is."""
    good = metric.row_scores(truth, outputs)
    if good is None:
        return np.full(len(outputs), np.nan)
    means = good.mean(axis=-1, dtype=np.float64)
    return np.asarray(means if metric.greater_is_better else 0.0 - means)


def _names(task: Task) -> tuple[str, ...]:
    return tuple(name for name in MEASURES if task in METRICS[name].tasks)
