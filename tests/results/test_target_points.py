"""What is predicted beside what is true: of rows no network was fitted to, and not too many."""

import numpy as np

from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.view.target_points import MOST_POINTS, screen_points, target_points


def test_each_target_has_its_rows() -> None:
    truth = np.array([[1.0, 10.0], [2.0, 20.0]])
    price, rent = target_points(["price", "rent"], truth, truth + np.array([[1, 0], [0, -5]]))
    assert (price.name, price.rows) == ("price", 2)
    assert price.residuals.tolist() == [-1, 0]
    assert rent.predicted.tolist() == [10, 15]


def test_of_many_rows_some_are_drawn_the_same_each_time() -> None:
    truth = np.arange(5000.0)[:, None]
    one, again = (target_points(["y"], truth, truth)[0] for _ in range(2))
    assert len(one.truth) == MOST_POINTS
    assert one.rows == 5000
    assert one.truth.tolist() == again.truth.tolist()


def test_without_predictions_there_are_none() -> None:
    kept = KeptPredictions(np.zeros((2, 1)), np.zeros((1, 2, 1)), ("a",))
    assert screen_points(["y"], "b", kept) == ()
    assert screen_points(["y"], "a", None) == ()
    assert len(screen_points(["y"], "a", kept)) == 1
