"""Which models are truly worse by any metric, and how sure its score is: claims that people act on."""

from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dnnflow.engines.metric import Outputs, Truth
from dnnflow.engines.metrics import METRICS
from dnnflow.results.view.bootstrap import bootstrap_interval, told_apart_resampled
from dnnflow.results.view.paired import told_apart
from dnnflow.table.columns.kinds import Task

WITH_ROW_SCORES = ["balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "roc_auc", "rmse", "r2"]

CHANCE = 2 * (0.05 * 0.95) ** 0.5
"""Two standard deviations of a share of 5 %, times the root of the studies: it was 2 to 4 % in thousands."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small wait for each other's threads."""
    with threadpool_limits(1):
        yield


def simulated(
    rng: np.random.Generator, errors: list[float], rows: int, task: Task = Task.CLASSIFICATION
) -> tuple[Truth, Outputs]:
    """Draw models of known error on the same rows: half of it they share. Every fifth row is of class 1."""
    if task is Task.REGRESSION:
        truth = rng.normal(size=(rows, 1))
        shared = rng.normal(size=(rows, 1))
        models = [truth + error * (shared + rng.normal(size=(rows, 1))) for error in errors]
        return truth, np.stack(models).astype(np.float32)
    truth = (rng.random(rows) < 0.2).astype(np.int64)
    shared = rng.normal(size=rows)
    logits = [2.4 * truth - 1.9 + error * (shared + rng.normal(size=rows)) for error in errors]
    second = 1 / (1 + np.exp(-np.stack(logits)))
    return truth, np.stack([1 - second, second], axis=-1).astype(np.float32)


def best_first(name: str, truth: Truth, outputs: Outputs) -> Outputs:
    good = METRICS[name].row_scores(truth, outputs)
    if good is not None:
        return outputs[np.argsort(-good.mean(axis=1), kind="stable")]
    scores = [METRICS[name].score(truth, one) or 0.0 for one in outputs]
    return outputs[np.argsort(-np.array(scores), kind="stable")]


def task_of(name: str) -> Task:
    return METRICS[name].tasks[0]


@pytest.mark.parametrize("name", WITH_ROW_SCORES)
def test_of_equally_good_models_hardly_a_study_tells_one_apart(name: str) -> None:
    rng = np.random.default_rng(17)
    studies, told = 200, 0
    for _ in range(studies):
        truth, outputs = simulated(rng, [1.0] * 10, 250, task_of(name))
        good = METRICS[name].row_scores(truth, best_first(name, truth, outputs))
        assert good is not None
        told += any(told_apart(good))
    assert told / studies < 0.05 + CHANCE / studies**0.5


@pytest.mark.parametrize("name", ["average_precision", "ece"])
def test_nor_does_one_by_a_bootstrap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnnflow.results.view.bootstrap.BOOTSTRAPS", 200)
    rng = np.random.default_rng(18)
    studies, told = 150, 0
    for _ in range(studies):
        truth, outputs = simulated(rng, [1.0] * 8, 250)
        told += any(told_apart_resampled(METRICS[name], truth, best_first(name, truth, outputs)))
    assert told / studies < 0.05 + CHANCE / studies**0.5


@pytest.mark.parametrize("name", [*WITH_ROW_SCORES, "average_precision"])
def test_a_worse_model_is_told_apart_on_enough_rows(name: str) -> None:
    truth, outputs = simulated(np.random.default_rng(3), [0.8, 0.8, 1.6], 3000, task_of(name))
    good = METRICS[name].row_scores(truth, outputs)
    told = told_apart_resampled(METRICS[name], truth, outputs)
    assert told == (False, True)
    if good is not None:
        assert told_apart(good) == told


@pytest.mark.parametrize("name", ["balanced_accuracy", "mcc", "roc_auc", "average_precision", "rmse", "r2"])
def test_an_interval_covers_the_truth_nearly_as_often_as_it_says(name: str) -> None:
    """Percentiles of a bootstrap are a little narrow on few rows."""
    rng, metric = np.random.default_rng(5), METRICS[name]
    truth, (model,) = simulated(rng, [1.0], 200_000, task_of(name))
    whole = metric.score(truth, model)
    assert whole is not None
    covered = []
    for _ in range(120):
        rows = rng.choice(len(truth), 300, replace=False)
        interval = bootstrap_interval(metric, truth[rows], model[rows])
        assert interval is not None
        covered.append(interval[0] <= whole <= interval[1])
    assert np.mean(covered) > 0.88


def test_the_same_rows_have_the_same_interval_and_one_row_has_none() -> None:
    truth, (model,) = simulated(np.random.default_rng(6), [1.0], 50)
    metric = METRICS["macro_f1"]
    assert bootstrap_interval(metric, truth, model) == bootstrap_interval(metric, truth, model)
    assert bootstrap_interval(metric, truth[:1], model[:1]) is None
    assert bootstrap_interval(METRICS["roc_auc"], np.zeros(50, int), model) is None
    assert told_apart_resampled(METRICS["roc_auc"], np.zeros(50, int), np.stack([model, model])) == (False,)
    assert told_apart_resampled(metric, truth, np.stack([model, model])) == (False,)


def test_of_many_rows_fewer_bootstraps_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, (model,) = simulated(np.random.default_rng(6), [1.0], 50)
    before = bootstrap_interval(METRICS["brier"], truth, model)
    monkeypatch.setattr("dnnflow.results.view.bootstrap.MANY_ROWS", 10)
    assert bootstrap_interval(METRICS["brier"], truth, model) != before
