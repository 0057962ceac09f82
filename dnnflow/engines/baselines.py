"""Fit what a person would use instead of a network: the largest class or the mean, a linear model, trees."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.table.columns.kinds import Task

Predict = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
"""Features (rows, features) to outputs (rows, outputs): probabilities, or standardised numbers."""
Fit = Callable[[NDArray[np.float32], NDArray[Any]], Predict]
"""Features (rows, features) and labels, as networks are trained on them, to what is fitted to them."""

LARGEST_CLASS = "always the largest class"
LINEAR = "logistic regression"
BOOSTING = "gradient boosting"
MOST_FREQUENT = "always the more frequent value"
MEAN = "always the mean"
RIDGE = "ridge regression"

MAX_VALUES = 20_000_000
"""Numbers of a table, times trees a round, that a baseline is fitted to at most; of a larger table it sees
some rows, drawn at random, and is named so."""


def fitted_rows(rows: int, n_features: int, n_outputs: int) -> int:
    """Return to how many rows of a table baselines are fitted."""
    trees = 1 if n_outputs == 2 else n_outputs
    return min(rows, max(1000, MAX_VALUES // max(1, n_features * trees)))


def baselines(n_outputs: int, task: Task = Task.CLASSIFICATION) -> Mapping[str, Fit]:
    """Return what fits each baseline of a task; the first looks at no feature.

    Some classes may not occur in the rows. Of several targets or labels, boosted trees and logistic
    regression are fitted one by one.
    """
    if task is Task.REGRESSION:
        return {MEAN: _frequency, RIDGE: _ridge, BOOSTING: _for_each(_boosted_numbers)}
    if task is Task.MULTILABEL:
        of_label = {LINEAR: _linear_model, BOOSTING: _boosted_classes}
        return {MOST_FREQUENT: _frequency, **{name: _for_each(make) for name, make in of_label.items()}}
    fits = {LARGEST_CLASS: _largest_class, LINEAR: _linear, BOOSTING: _boosting}
    return {name: partial(_fitted, fit, n_outputs) for name, fit in fits.items()}


def _fitted(
    fit: Fit, n_classes: int, features: NDArray[np.float32], labels: NDArray[np.int32]
) -> Predict:  # fmt: skip
    predict = fit(features, labels)

    def whole(rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        shares = predict(rows)
        return np.pad(shares, ((0, 0), (0, n_classes - shares.shape[1])))

    return whole


def _frequency(features: NDArray[np.float32], labels: NDArray[np.float32]) -> Predict:
    """Predict each target's mean, or how frequent each label's second value is."""
    mean = labels.mean(axis=0, dtype=np.float64)
    return lambda rows: np.tile(mean, (len(rows), 1))


def _ridge(features: NDArray[np.float32], labels: NDArray[np.float32]) -> Predict:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    model.fit(features.astype(np.float64), labels)
    return lambda rows: np.asarray(model.predict(rows.astype(np.float64))).reshape(len(rows), -1)


def _for_each(make: Callable[[], Any]) -> Fit:
    """Return what fits a model to each column of labels."""

    def fit(features: NDArray[np.float32], labels: NDArray[np.float32]) -> Predict:
        models = [_fitted_column(make(), features, column) for column in labels.T]
        return lambda rows: np.stack([model(rows) for model in models], axis=1)

    return fit


def _fitted_column(model: Any, features: NDArray[np.float32], column: NDArray[np.float32]) -> Predict:
    import warnings

    if len(np.unique(column)) < 2:  # which classifiers of scikit-learn refuse
        return lambda rows: np.full(len(rows), column[0], np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a linear model that has not quite converged is a baseline still
        model.fit(features, column)
    if hasattr(model, "predict_proba"):
        return lambda rows: np.asarray(model.predict_proba(rows)[:, 1])
    return lambda rows: np.asarray(model.predict(rows))


def _linear_model() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _boosted_classes() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(early_stopping=False, random_state=0)


def _boosted_numbers() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(early_stopping=False, random_state=0)


def _linear(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    return _sklearn(_linear_model(), features, labels)


def _boosting(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    return _sklearn(_boosted_classes(), features, labels)


def _largest_class(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    """Give each row the classes' shares of the rows: the largest is the likeliest."""
    shares = np.bincount(labels) / len(labels)
    return lambda rows: np.tile(shares, (len(rows), 1))


def _sklearn(model: Any, features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    import warnings

    if len(np.unique(labels)) < 2:  # which scikit-learn refuses
        return _largest_class(features, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a linear model that has not quite converged is a baseline still
        model.fit(features, labels)

    def predict(rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        shares = np.zeros((len(rows), int(model.classes_.max()) + 1))
        shares[:, model.classes_] = model.predict_proba(rows)
        return shares

    return predict
