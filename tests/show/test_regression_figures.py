"""The figures of regression: one pair for each target, in the table's units."""

import numpy as np

from dnnflow.results.view.target_points import target_points
from dnnflow.show.regression_figures import regression_figures


def test_each_target_has_two_figures() -> None:
    truth = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 15.0]])
    drawn = regression_figures(target_points(["price", "$$rent$$"], truth, truth + 0.5))
    assert sorted(drawn) == ["predicted-0", "predicted-1", "residuals-0", "residuals-1"]
    source = drawn["residuals-0"].renderers[0].data_source
    assert np.asarray(source.data["residual"]).tolist() == [-0.5, -0.5, -0.5]
    assert "$$" not in drawn["predicted-1"].xaxis[0].axis_label


def test_without_points_nothing_is_drawn() -> None:
    assert regression_figures(()) == {}
