"""A loss fits the task, weights count rows, and studies of before keep their keys."""

import numpy as np
import pytest

from dnnflow.engines.epoch_rows import TrainingRows, class_weights
from dnnflow.engines.losses import Loss, LossKind, loss_of
from dnnflow.engines.records import TrainingSettings
from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task
from dnnflow.table.store.dataset import Dataset


@pytest.mark.parametrize(
    ("task", "kind", "activation"),
    [
        (Task.CLASSIFICATION, LossKind.CROSS_ENTROPY, "softmax"),
        (Task.MULTILABEL, LossKind.BINARY_CROSS_ENTROPY, "sigmoid"),
        (Task.REGRESSION, LossKind.MEAN_SQUARED_ERROR, "linear"),
    ],
)
def test_each_task_has_a_loss_of_its_own(task: Task, kind: LossKind, activation: str) -> None:
    found = loss_of("auto", 0.5, task)
    assert (found.kind, found.activation) == (kind, activation)


def test_losses_of_numbers_are_for_numbers() -> None:
    assert loss_of("quantile", 0.9, Task.REGRESSION) == Loss(LossKind.QUANTILE, 0.9)
    with pytest.raises(InputError, match=r"loss of classification is auto, got huber.*dataset\.task"):
        loss_of("huber", 0.5, Task.CLASSIFICATION)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantile": 0.9}, r"quantile has no meaning with loss auto, got 0\.9"),
        ({"loss": "quantile", "quantile": 1.0}, r"quantile"),
        ({"engine": "sklearn", "loss": "huber"}, r"sklearn has no loss but the squared error, got huber"),
        ({"class_weight": {"a": -1.0}}, r"class_weight"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**given)


def test_what_is_not_given_is_no_part_of_a_study() -> None:
    """Studies of before have the key that they had."""
    assert {"loss", "quantile", "class_weight"} & set(TrainingSettings().identity()) == set()
    given = TrainingSettings(loss="quantile", quantile=0.9, class_weight="balanced").identity()
    assert (given["loss"], given["quantile"], given["class_weight"]) == ("quantile", 0.9, "balanced")


def test_balanced_classes_weigh_alike(breast_cancer: Dataset) -> None:
    rows = TrainingRows(breast_cancer, TrainingSettings(class_weight="balanced"))
    labels, weights = breast_cancer.labels("train"), rows.weights
    assert weights is not None
    sums = np.bincount(labels, weights)
    assert sums == pytest.approx([len(labels) / 2] * 2, rel=1e-5)
    (block,) = rows.test()
    assert block.weights is not None
    assert block.weights.tolist() == [1.0] * len(block.labels), "test rows count alike"


def test_named_classes_have_their_weight_and_unknown_ones_are_refused(iris: Dataset) -> None:
    found = class_weights(iris, {"setosa": 3.0})
    assert found is not None
    assert found.tolist() == [3.0, 1.0, 1.0]
    with pytest.raises(InputError, match=r"class_weight names classes of the table, got 'rose'"):
        class_weights(iris, {"rose": 2.0})
    assert TrainingRows(iris, TrainingSettings()).weights is None
