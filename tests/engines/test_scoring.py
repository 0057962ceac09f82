"""A trial's score is the study's metric, and what is kept of it says the same."""

import numpy as np
import pytest

from dnnflow.design.layers import Design, Layer, Optimizer
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.metric import decided
from dnnflow.engines.metrics import METRICS
from dnnflow.engines.records import TrainingSettings
from dnnflow.engines.registry import find_engine
from dnnflow.engines.scoring import MeasuredRows, halved, kept_of
from dnnflow.engines.seam import TrainingContext
from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.targets import Targets
from dnnflow.table.store.dataset import Dataset

SMALL = Design((Layer(8),), optimizer=Optimizer("adam", 0.02), epochs=3)


@pytest.mark.parametrize("engine", ["compiled", "keras", "stacked"])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "mcc", "log_loss", "roc_auc"])
def test_the_score_of_a_trial_is_the_metric_of_what_is_kept(engine: str, name: str, iris: Dataset) -> None:
    settings = TrainingSettings(metric=None if name == "accuracy" else name)  # type: ignore[arg-type]
    metric = METRICS[name]
    (fitted,) = find_engine(engine).train([SMALL], TrainingContext(iris, settings))
    kept, trial = fitted.predicted, fitted.trial
    assert kept is not None
    assert kept.dtype == (np.float16 if metric.needs == "probabilities" else np.uint8)
    truth = TrainingRows(iris, settings).measured_labels()
    assert trial.score == pytest.approx(metric.score(truth, kept), abs=2e-3)
    assert (trial.train_score is None) == (trial.validation_score is None) == (name != "accuracy")
    classes = decided(Task.CLASSIFICATION, kept)
    assert np.trace(np.array(trial.confusion)) == (classes == truth).sum()
    assert set(trial.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_half_precision_leaves_every_class_as_it_is() -> None:
    rng = np.random.default_rng(0)
    shares = (0.5 + rng.normal(size=5000) * 1e-4).astype(np.float32)
    outputs = np.stack([1 - shares, shares], axis=1)
    assert (outputs.astype(np.float16).argmax(axis=1) != outputs.argmax(axis=1)).any()
    for task, given in ((Task.CLASSIFICATION, outputs), (Task.MULTILABEL, outputs)):
        kept = halved(given, task)
        np.testing.assert_array_equal(decided(task, kept), decided(task, given))
        np.testing.assert_allclose(kept, given, atol=1e-3)


def test_numbers_are_kept_in_single_precision(iris: Dataset) -> None:
    targets = Targets(Task.REGRESSION, ("price",), mean=(250_000.0,), std=(1000.0,))
    numbers = np.full((3, 1), 0.125, np.float32)
    kept = kept_of(MeasuredRows(0.0, numbers, numbers, targets), iris, METRICS["rmse"], whole=True)
    assert kept.dtype == np.float32
    assert kept.tolist() == [[250_125.0]] * 3, "in the table's units"


def test_the_metric_is_part_of_a_study_only_where_it_is_named() -> None:
    plain = TrainingSettings().identity()
    assert "metric" not in plain
    assert TrainingSettings(metric="mcc").identity() == {**plain, "metric": "mcc"}
    with pytest.raises(InputError, match=r"metric must be one of accuracy, .*, got 'f2'"):
        TrainingSettings(metric="f2")  # type: ignore[arg-type]
