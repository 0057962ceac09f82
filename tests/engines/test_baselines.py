"""What one would use instead of a network predicts numbers and labels, too."""

import numpy as np
import pytest

from dnnflow.engines.baselines import BOOSTING, LINEAR, MEAN, MOST_FREQUENT, RIDGE, baselines
from dnnflow.table.columns.kinds import Task

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 3)).astype(np.float32)
NUMBERS = np.stack([FEATURES[:, 0] * 2, FEATURES[:, 1] - 1], axis=1).astype(np.float32)


def test_numbers() -> None:
    fits = baselines(2, Task.REGRESSION)
    assert list(fits) == [MEAN, RIDGE, BOOSTING]
    found = {name: fit(FEATURES, NUMBERS)(FEATURES) for name, fit in fits.items()}
    assert found[MEAN] == pytest.approx(np.tile(NUMBERS.mean(axis=0), (200, 1)), abs=1e-5)
    assert found[RIDGE] == pytest.approx(NUMBERS, abs=0.02)
    assert np.square(found[BOOSTING] - NUMBERS).mean() < 0.1


@pytest.mark.parametrize("n_targets", [1, 2])
def test_outputs_have_a_column_a_target(n_targets: int) -> None:
    for fit in baselines(2, Task.REGRESSION).values():
        assert fit(FEATURES, NUMBERS[:, :n_targets])(FEATURES[:7]).shape == (7, n_targets)


def test_labels() -> None:
    labels = (NUMBERS > [0, -1]).astype(np.float32)
    fits = baselines(2, Task.MULTILABEL)
    assert list(fits) == [MOST_FREQUENT, LINEAR, BOOSTING]
    found = {name: fit(FEATURES, labels)(FEATURES) for name, fit in fits.items()}
    assert found[MOST_FREQUENT][0] == pytest.approx(labels.mean(axis=0))
    for name in (LINEAR, BOOSTING):
        assert ((found[name] > 0.5) == labels).mean() > 0.95


def test_a_label_of_one_value_in_the_rows_is_predicted_as_that() -> None:
    labels = np.ones((200, 1), np.float32)
    for fit in baselines(2, Task.MULTILABEL).values():
        assert (fit(FEATURES, labels)(FEATURES) == 1).all()
