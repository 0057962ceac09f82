"""Every metric is scikit-learn's, whatever the rows; its row scores and its bootstraps go with it."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
from sklearn import metrics as sk

from dnnflow.engines.metric import Metric, Outputs, Truth, decided
from dnnflow.engines.metrics import METRICS, MetricName, default_metric, measures, metric_of
from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task

CLASSIFICATION, MULTILABEL, REGRESSION = Task


def rows_of(task: Task, n_rows: int = 200, width: int = 3, seed: int = 0) -> tuple[Truth, Outputs]:
    rng = np.random.default_rng(seed)
    if task is REGRESSION:
        truth = rng.normal(5, 2, (n_rows, width)).astype(np.float32)
        return truth, (truth + rng.normal(0.3, 1, truth.shape)).astype(np.float32)
    if task is MULTILABEL:
        truth = (rng.random((n_rows, width)) < 0.4).astype(np.float32)
        return truth, np.clip(truth * 0.3 + rng.random(truth.shape) * 0.7, 0, 1).astype(np.float32)
    logits = rng.normal(size=(n_rows, width))
    truth = (logits + rng.normal(size=logits.shape)).argmax(axis=1).astype(np.int32)
    shares = np.exp(1.5 * logits)
    return truth, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def one_hot_mean(truth: Truth, outputs: Outputs, measure: Callable[..., float]) -> float:
    return float(np.mean([measure(truth == name, outputs[:, name]) for name in range(outputs.shape[1])
                          if (truth == name).any() and not (truth == name).all()]))  # fmt: skip


def by_label(measure: Callable[..., float], **more: Any) -> Callable[[Truth, Outputs], float]:
    return lambda truth, outputs: float(
        np.mean([measure(truth[:, i], outputs[:, i], **more) for i in range(truth.shape[1])])
    )


def ece(truth: Truth, outputs: Outputs) -> float:
    """Write Guo's equation 3 bin by bin."""
    sure, right = outputs.max(axis=1).astype(np.float64), outputs.argmax(axis=1) == truth
    total = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return total


CLASSES: dict[str, Callable[[Truth, Outputs], float]] = {
    "accuracy": lambda t, o: sk.accuracy_score(t, o.argmax(1)),
    "balanced_accuracy": lambda t, o: sk.balanced_accuracy_score(t, o.argmax(1)),
    "macro_f1": lambda t, o: sk.f1_score(t, o.argmax(1), average="macro", zero_division=0.0),
    "mcc": lambda t, o: sk.matthews_corrcoef(t, o.argmax(1)),
    "log_loss": lambda t, o: sk.log_loss(t, o / o.sum(1, keepdims=True), labels=np.arange(o.shape[1])),
    "brier": lambda t, o: sk.brier_score_loss(t, o if o.shape[1] > 2 else o[:, 1],
                                              labels=np.arange(o.shape[1])),
    "roc_auc": lambda t, o: one_hot_mean(t, o, sk.roc_auc_score),
    "average_precision": lambda t, o: (one_hot_mean(t, o, sk.average_precision_score) if o.shape[1] > 2
                                       else sk.average_precision_score(t, o[:, 1])),
    "ece": ece,
}  # fmt: skip
LABELS: dict[str, Callable[[Truth, Outputs], float]] = {
    "accuracy": lambda t, o: 1 - sk.hamming_loss(t, o > 0.5),
    "balanced_accuracy": lambda t, o: by_label(sk.balanced_accuracy_score)(t, o > 0.5),
    "macro_f1": lambda t, o: sk.f1_score(t, o > 0.5, average="macro"),
    "mcc": lambda t, o: by_label(sk.matthews_corrcoef)(t, o > 0.5),
    "log_loss": by_label(sk.log_loss, labels=[0, 1]),
    "brier": by_label(sk.brier_score_loss),
    "roc_auc": lambda t, o: sk.roc_auc_score(t, o, average="macro"),
    "average_precision": lambda t, o: sk.average_precision_score(t, o, average="macro"),
    "ece": lambda t, o: ece(t.ravel(), np.stack([1 - o.ravel(), o.ravel()], axis=1)),
}
NUMBERS: dict[str, Callable[[Truth, Outputs], float]] = {
    "r2": sk.r2_score,
    "rmse": sk.root_mean_squared_error,
    "mae": sk.mean_absolute_error,
    "mape": sk.mean_absolute_percentage_error,
    **{f"pinball_{q}": partial(sk.mean_pinball_loss, alpha=q) for q in (0.1, 0.5, 0.9)},
}
CASES = [
    *((CLASSIFICATION, name, width) for name in CLASSES for width in (2, 3, 7)),
    *((MULTILABEL, name, 4) for name in LABELS),
    *((REGRESSION, name, width) for name in NUMBERS for width in (1, 3)),
]
WANTED = {CLASSIFICATION: CLASSES, MULTILABEL: LABELS, REGRESSION: NUMBERS}


def test_every_metric_can_be_named_and_is_held_to_scikit_learn() -> None:
    assert set(METRICS) == set(get_args(MetricName)) == set(CLASSES) | set(NUMBERS)
    for task, wanted in WANTED.items():
        assert {name for name, one in METRICS.items() if task in one.tasks} == set(wanted)


@pytest.mark.parametrize(("task", "name", "width"), CASES)
def test_a_metric_is_what_scikit_learn_says(task: Task, name: str, width: int) -> None:
    metric = METRICS[name]
    truth, outputs = rows_of(task, width=width)
    score = metric.score(truth, outputs)
    assert score is not None
    assert metric.value(score) == pytest.approx(WANTED[task][name](truth, outputs), rel=2e-6)
    worse = metric.score(truth, outputs[::-1].copy())
    assert worse is not None
    assert worse < score
    assert score <= metric.ceiling


@pytest.mark.parametrize(("task", "name", "width"), CASES)
def test_row_scores_have_the_score_as_their_mean(task: Task, name: str, width: int) -> None:
    metric = METRICS[name]
    truth, outputs = rows_of(task, width=width)
    rows = metric.row_scores(truth, outputs)
    if name in ("average_precision", "ece"):
        assert rows is None
        return
    assert rows is not None
    assert rows.shape == (len(truth),)
    assert (rows.dtype == bool) == (name == "accuracy" and task is CLASSIFICATION)
    assert rows.mean(dtype=np.float64) == pytest.approx(metric.score(truth, outputs), rel=1e-5, abs=1e-6)
    other = outputs[::-1].copy()
    both = metric.row_scores(truth, np.stack([outputs, other]))
    assert both is not None
    np.testing.assert_allclose(both[0], rows)
    np.testing.assert_allclose(both[1], np.asarray(metric.row_scores(truth, other)))


@pytest.mark.parametrize(("task", "name", "width"), CASES)
def test_row_scores_are_the_derivative_with_respect_to_a_row(task: Task, name: str, width: int) -> None:
    """A row that counts a little more moves the score by its row score's distance from the mean."""
    metric = METRICS[name]
    truth, outputs = rows_of(task, n_rows=60, width=width)
    rows = metric.row_scores(truth, outputs)
    if rows is None:
        return
    step = 1e-4
    weights = np.ones((len(truth), len(truth))) + step * np.eye(len(truth))
    score = metric.score(truth, outputs)
    assert score is not None
    base = metric.resampled(truth, outputs, np.ones((1, len(truth))))[0]
    moved = (metric.resampled(truth, outputs, weights) - base) / step * len(truth)
    np.testing.assert_allclose(rows.astype(np.float64) - score, moved, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(("task", "name", "width"), CASES)
def test_rows_drawn_again_have_the_score_of_just_these_rows(task: Task, name: str, width: int) -> None:
    metric = METRICS[name]
    truth, outputs = rows_of(task, n_rows=50, width=width)
    drawn = np.random.default_rng(1).integers(50, size=(20, 50))
    weights = np.stack([np.bincount(one, minlength=50) for one in drawn]).astype(np.float32)
    found = metric.resampled(truth, outputs, weights)
    wanted = [metric.score(truth[one], outputs[one]) for one in drawn]
    np.testing.assert_allclose(found, [np.nan if x is None else x for x in wanted], rtol=1e-5, atol=1e-6)


def test_ties_count_half_and_precision_is_of_the_whole_group() -> None:
    truth = np.array([0, 1, 0, 1, 1, 0])
    second = np.array([0.1, 0.5, 0.5, 0.5, 0.9, 0.9], np.float32)
    outputs = np.stack([1 - second, second], axis=1)
    weights = np.ones((1, 6))
    for name, wanted in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        assert METRICS[name].score(truth, outputs) == pytest.approx(wanted(truth, second))
        assert METRICS[name].resampled(truth, outputs, weights)[0] == pytest.approx(wanted(truth, second))
    rows = METRICS["roc_auc"].row_scores(truth, outputs)
    assert rows is not None
    assert rows.mean() == pytest.approx(sk.roc_auc_score(truth, second))


def test_placement_values_have_the_variance_of_delong() -> None:
    truth, outputs = rows_of(CLASSIFICATION, n_rows=80, width=2)
    rows = METRICS["roc_auc"].row_scores(truth, outputs)
    assert rows is not None
    ahead = outputs[truth == 1, 1][:, None] - outputs[truth == 0, 1]
    psi = (ahead > 0) + 0.5 * (ahead == 0)
    wanted = psi.mean(1).var() / psi.shape[0] + psi.mean(0).var() / psi.shape[1]
    assert rows.var(dtype=np.float64) / len(rows) == pytest.approx(wanted, rel=1e-4)


def test_a_class_that_does_not_occur_is_left_out() -> None:
    truth, outputs = rows_of(CLASSIFICATION, width=4)
    kept = truth != 3
    truth, outputs = truth[kept], outputs[kept]
    found = measures(CLASSIFICATION, truth, outputs)
    assert set(found) == set(CLASSES)
    for name in CLASSES:
        warns = pytest.warns(UserWarning, match="not in y_true")
        with warns if name == "balanced_accuracy" else nullcontext():
            assert found[name] == pytest.approx(CLASSES[name](truth, outputs), rel=2e-6)


def test_what_is_undefined_is_left_out_and_never_a_nan() -> None:
    outputs = rows_of(CLASSIFICATION, n_rows=9, width=2)[1]
    found = measures(CLASSIFICATION, np.zeros(9, np.int32), outputs)
    assert set(CLASSES) - set(found) == {"roc_auc", "average_precision"}
    assert np.isfinite(list(found.values())).all()
    assert found["mcc"] == 0.0
    labels, given = rows_of(MULTILABEL, n_rows=9, width=2)
    labels[:, 0] = 1.0
    assert set(measures(MULTILABEL, labels, given)) == set(LABELS)
    labels[:] = 1.0
    assert set(LABELS) - set(measures(MULTILABEL, labels, given)) == {"roc_auc", "average_precision"}
    numbers, given = rows_of(REGRESSION, n_rows=1, width=1)
    assert "r2" not in measures(REGRESSION, numbers, given)
    constant = np.ones((5, 1), np.float32)
    assert measures(REGRESSION, constant, constant)["r2"] == 1.0
    assert measures(REGRESSION, constant, constant + 1)["r2"] == 0.0
    rows = METRICS["r2"].row_scores(constant, constant + 1)
    assert rows is not None
    assert rows.mean() == 0.0
    assert METRICS["rmse"].score(constant, np.full((5, 1), np.inf)) is None
    assert METRICS["accuracy"].score(np.empty(0, np.int32), np.empty((0, 2), np.float32)) is None


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_probability_of_nothing_costs_no_more_than_rounding_has(sure: float) -> None:
    outputs = np.array([[sure, 1 - sure]] * 4, np.float32)
    score = METRICS["log_loss"].score(np.array([0, 0, 1, 1]), outputs)
    assert score == pytest.approx(np.log(np.finfo(np.float32).eps) / 2, rel=1e-3)


def test_probabilities_kept_in_half_precision_are_normalised() -> None:
    truth, outputs = rows_of(CLASSIFICATION, width=7)
    whole, half = (measures(CLASSIFICATION, truth, one) for one in (outputs, outputs.astype(np.float16)))
    assert half == pytest.approx(whole, abs=2e-3)


@pytest.mark.parametrize("task", [CLASSIFICATION, MULTILABEL])
def test_classes_alone_have_the_metrics_of_classes(task: Task) -> None:
    truth, outputs = rows_of(task, width=2)
    whole, classes = measures(task, truth, outputs), measures(task, truth, decided(task, outputs))
    assert set(classes) == {"accuracy", "balanced_accuracy", "macro_f1", "mcc"}
    assert classes == {name: whole[name] for name in classes}


def test_a_threshold_moves_what_is_predicted_and_no_probability() -> None:
    truth, outputs = rows_of(CLASSIFICATION, width=2)
    whole, moved = measures(CLASSIFICATION, truth, outputs), measures(CLASSIFICATION, truth, outputs, 0.3)
    assert moved["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(truth, outputs[:, 1] > np.float32(0.3))
    )
    assert moved["log_loss"] == whole["log_loss"]
    labels, given = rows_of(MULTILABEL, width=2)
    assert measures(MULTILABEL, labels, given, (0.4, 0.6))["accuracy"] == pytest.approx(
        (labels == (given > np.array([0.4, 0.6]))).mean()
    )


def test_without_a_name_there_is_one_for_each_task() -> None:
    assert default_metric(CLASSIFICATION).name == default_metric(MULTILABEL, 5).name == "accuracy"
    assert default_metric(REGRESSION).name == "rmse"
    assert default_metric(REGRESSION, 2).name == "r2"
    assert metric_of(None) is METRICS["accuracy"]
    assert metric_of("mae", REGRESSION) is METRICS["mae"]
    with pytest.raises(InputError, match=r"metric of regression must be one of r2, .*, got accuracy; take"):
        metric_of("accuracy", REGRESSION)
    with pytest.raises(InputError, match=r"metric of classification must be one of accuracy, .*, got f2"):
        metric_of("f2")


@pytest.mark.parametrize(
    ("name", "score", "text"),
    [
        ("accuracy", 0.9312, "93.1 %"), ("log_loss", -0.32149, "0.321"), ("log_loss", 0.0, "0.00"),
        ("rmse", -12345.6, "12,346"), ("rmse", -3.2099, "3.21"), ("r2", -0.5, "-0.500"),
        ("mape", -0.125, "12.5 %"), ("mcc", 0.87654, "0.877"), ("mae", -0.0001234, "0.000123"),
    ],
)  # fmt: skip
def test_a_score_is_told_as_the_metric_is_written(name: str, score: float, text: str) -> None:
    assert METRICS[name].text(score) == text


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda one: one.name)
def test_many_models_at_once_are_the_models_one_by_one(metric: Metric) -> None:
    """What is counted in blocks is counted alike."""
    for task in metric.tasks:
        truth, _ = rows_of(task, n_rows=40)
        many = np.stack([rows_of(task, n_rows=40, seed=seed)[1] for seed in range(5)])
        rows = metric.row_scores(truth, many)
        if rows is not None:
            for one, wanted in zip(rows, many, strict=True):
                np.testing.assert_allclose(one, np.asarray(metric.row_scores(truth, wanted)), rtol=1e-6)
