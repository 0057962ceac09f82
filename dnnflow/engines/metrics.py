"""List the metrics that a study may compare designs by, and compute all of a task."""

from collections.abc import Mapping
from typing import Literal

from dnnflow.engines.count_metrics import COUNT_METRICS
from dnnflow.engines.metric import Metric, Outputs, Truth, decided
from dnnflow.engines.probability_metrics import PROBABILITY_METRICS
from dnnflow.engines.value_metrics import VALUE_METRICS
from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task

MetricName = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "roc_auc", "average_precision",
    "ece", "r2", "rmse", "mae", "mape", "pinball_0.1", "pinball_0.5", "pinball_0.9",
]  # fmt: skip

METRICS: Mapping[str, Metric] = {
    one.name: one for one in (*COUNT_METRICS, *PROBABILITY_METRICS, *VALUE_METRICS)
}
ACCURACY = METRICS["accuracy"]


def default_metric(task: Task, n_targets: int = 1) -> Metric:
    """Return what designs are compared by where nothing is said.

    The share of rows whose class is right, or of labels; of one number RMSE, of several, whose units may
    differ, R².
    """
    if task is not Task.REGRESSION:
        return ACCURACY
    return METRICS["rmse" if n_targets == 1 else "r2"]


def metric_of(name: str | None, task: Task = Task.CLASSIFICATION, n_targets: int = 1) -> Metric:
    """Return the metric that a study names, else the default of its task.

    Raises
    ------
    InputError
        If there is no such metric, or it is for another task.
    """
    if name is None:
        return default_metric(task, n_targets)
    found = METRICS.get(name)
    if found is None or task not in found.tasks:
        fitting = ", ".join(one.name for one in METRICS.values() if task in one.tasks)
        raise InputError(
            f"evaluation.metric of {task.value} must be one of {fitting}, got {name}; take one of these, or "
            "leave it out"
        )
    return found


def measures(
    task: Task, truth: Truth, outputs: Outputs, thresholds: "float | tuple[float, ...] | None" = None
) -> dict[str, float]:
    """Return all metrics of a task by name, as they are usually written.

    Those are left out that the rows leave undefined, and, where only classes are known, those of
    probabilities.

    Parameters
    ----------
    thresholds
        See `decided`.
    """
    found = {}
    are_classes = task is not Task.REGRESSION and outputs.dtype.kind in "iub"
    for metric in METRICS.values():
        if task not in metric.tasks or (are_classes and metric.needs == "probabilities"):
            continue
        given = decided(task, outputs, thresholds) if metric.needs == "classes" else outputs
        score = metric.score(truth, given)
        if score is not None:
            found[metric.name] = metric.value(score)
    return found
