"""Fit what a person would use instead of a network: the largest class, a linear model, boosted trees."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
"""Features (rows, features) to probabilities (rows, classes)."""
Fit = Callable[[NDArray[np.float32], NDArray[np.int32]], Predict]
"""Features (rows, features) and class codes (rows,) to what is fitted to them."""

LARGEST_CLASS = "always the largest class"
LINEAR = "logistic regression"
BOOSTING = "gradient boosting"

MAX_VALUES = 20_000_000
"""Numbers of a table, times trees a round, that a baseline is fitted to at most; of a larger table it sees
some rows, drawn at random, and is named so."""


def fitted_rows(rows: int, n_features: int, n_classes: int) -> int:
    """Return to how many rows of a table baselines are fitted."""
    trees = 1 if n_classes == 2 else n_classes
    return min(rows, max(1000, MAX_VALUES // max(1, n_features * trees)))


def baselines(n_classes: int) -> Mapping[str, Fit]:
    """Return what fits each baseline to rows, in which some of the classes may not occur."""
    fits = {LARGEST_CLASS: _largest_class, LINEAR: _linear, BOOSTING: _boosting}
    return {name: partial(_fitted, fit, n_classes) for name, fit in fits.items()}


def _fitted(
    fit: Fit, n_classes: int, features: NDArray[np.float32], labels: NDArray[np.int32]
) -> Predict:  # fmt: skip
    predict = fit(features, labels)

    def whole(rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        shares = predict(rows)
        return np.pad(shares, ((0, 0), (0, n_classes - shares.shape[1])))

    return whole


def _largest_class(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    """Give each row the classes' shares of the rows: the largest is the likeliest."""
    shares = np.bincount(labels) / len(labels)
    return lambda rows: np.tile(shares, (len(rows), 1))


def _linear(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _sklearn(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), features, labels)


def _boosting(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Predict:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _sklearn(HistGradientBoostingClassifier(early_stopping=False, random_state=0), features, labels)


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
