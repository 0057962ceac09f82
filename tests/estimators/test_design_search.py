"""The estimators are scikit-learn's in every respect that it checks, and work inside of its tools."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dnnflow import DesignSearchClassifier, DesignSearchRegressor
from dnnflow.design.layers import Design
from dnnflow.errors import DataError, InputError
from dnnflow.results.store.store import Store
from dnnflow.run.models.saved_model import load_model
from dnnflow.settings import Settings

pytestmark = pytest.mark.slow

SPACE = {
    "epochs": 40, "depth": 1, "units": 32, "activation": "tanh", "batch_size": 32,
    "learning_rate": {"loguniform": [0.015, 0.03]},
}  # fmt: skip
SMALL: dict[str, Any] = {"designs": 2, "options": {"space": SPACE, "finalists": 0}}
"""Fits of a second or two."""
NOT_ALIKE = (
    "rows are drawn for validation and test, and one of weight 2 is not drawn as two of weight 1 are; those "
    "of weight 0 are left out"
)


def not_applicable(estimator: Any) -> dict[str, str]:
    """Return the checks that do not apply, and why."""
    return {"check_sample_weight_equivalence_on_dense_data": NOT_ALIKE}


@parametrize_with_checks(
    [kind(**{**SMALL, "designs": 1}) for kind in (DesignSearchClassifier, DesignSearchRegressor)],
    expected_failed_checks=not_applicable,
)
def test_scikit_learns_checks(estimator: Any, check: Any):
    check(estimator)


@pytest.fixture(scope="module")
def iris() -> tuple[pd.DataFrame, pd.Series]:
    """Rows and the names of their classes."""
    rows, classes = load_iris(return_X_y=True, as_frame=True)
    return rows, classes.map(dict(enumerate("abc")))


@pytest.fixture(scope="module")
def fitted(iris) -> DesignSearchClassifier:
    return DesignSearchClassifier(**SMALL).fit(*iris)


def test_a_fit_leaves_what_was_found(fitted: DesignSearchClassifier, iris):
    rows, classes = iris
    assert fitted.score(rows, classes) > 0.9
    assert list(fitted.classes_) == ["a", "b", "c"]
    assert list(fitted.feature_names_in_) == list(rows.columns)
    assert list(fitted.search_results_["rank"]) == [1, 2]
    assert isinstance(fitted.best_design_, Design)
    assert fitted.best_design_.design_id == fitted.search_results_["design_id"][0]


def test_a_pickle_holds_the_model_and_no_study(fitted: DesignSearchClassifier, iris):
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(iris[0]), fitted.predict_proba(iris[0]))
    assert not hasattr(clone(fitted), "classes_")


def test_a_row_is_predicted_the_same_whatever_is_beside_it(fitted: DesignSearchClassifier, iris):
    whole = fitted.predict_proba(iris[0])
    alone = np.concatenate([fitted.predict_proba(iris[0].iloc[[row]]) for row in range(0, 150, 15)])
    assert np.allclose(alone, whole[::15], rtol=1e-12, atol=0)


def test_the_same_seed_finds_the_same_and_another_one_something_else(iris):
    first, again, other = (
        DesignSearchClassifier(**SMALL, random_state=seed).fit(*iris).predict_proba(iris[0])
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_it_is_cross_validated_searched_and_piped(iris):
    estimator = make_pipeline(StandardScaler(), DesignSearchClassifier(**SMALL))
    assert cross_val_score(estimator, *iris, cv=3).min() > 0.8
    grid = GridSearchCV(DesignSearchClassifier(**SMALL), {"designs": [1, 2]}, cv=2).fit(*iris)
    assert set(grid.best_params_) == {"designs"}
    assert len(grid.best_estimator_.search_results_) == grid.best_params_["designs"]


def test_the_ensemble_of_finalists_predicts_trained_on_all_rows(iris, tmp_path: Path):
    options = {"space": {**SPACE, "epochs": 10}}
    estimator = DesignSearchClassifier(designs=3, options=options, home=tmp_path)
    assert estimator.fit(*iris).score(*iris) > 0.8
    assert estimator.search_results_["is_finalist"].all()
    workspace = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path)}).workspace
    last = load_model(workspace.final_model(estimator.study_id_))
    expected = last.predict(iris[0]).drop(columns="prediction")
    assert last.about["rows"] == 150
    assert np.allclose(estimator.predict_proba(iris[0]), expected, atol=1e-4)


def test_text_and_missing_values_are_features():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"colour": rng.choice(["01", "1"], 80), "size": rng.normal(size=80)})
    frame["day"] = pd.date_range("2024-01-01", periods=80)
    classes = np.where(frame["colour"] == "01", 10, 20)
    frame.loc[::7, "size"] = np.nan
    estimator = DesignSearchClassifier(**SMALL).fit(frame, classes)
    assert np.array_equal(estimator.predict(frame), classes)
    with pytest.raises(DataError, match="column 'tags' is list<"):
        estimator.fit(frame.assign(tags=pd.Series([["a"]] * 80)), classes)
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(frame.rename(columns={"size": "weight"}))
    with pytest.raises(InputError, match="rows must be a DataFrame"):
        estimator.predict(frame.to_numpy())


def test_several_numbers_are_predicted_at_once():
    rows, targets = make_regression(120, 3, n_targets=2, random_state=0)
    estimator = DesignSearchRegressor(**SMALL).fit(rows, targets)
    assert estimator.predict(rows).shape == (120, 2)
    assert estimator.score(rows, targets) > 0.8


def test_a_home_keeps_the_study(iris, tmp_path: Path):
    estimator = DesignSearchClassifier(**SMALL, home=tmp_path).fit(*iris)
    settings = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path)})
    with Store(settings.store_url) as store:
        assert [one.run_id for one in store.studies()] == [estimator.study_id_]


def test_a_class_of_one_row_is_refused(iris):
    with pytest.raises(DataError, match="a class needs at least 2 rows"):
        DesignSearchClassifier(**SMALL).fit(iris[0][:101], iris[1][:101])


@pytest.mark.cluster
def test_a_client_trains_and_is_shared_with_clones(client, iris):
    estimator = DesignSearchClassifier(**SMALL, client=client)
    assert clone(estimator).client is client
    assert estimator.fit(*iris).score(*iris) > 0.9
    address = pickle.loads(pickle.dumps(estimator)).client
    assert address == client.scheduler.address
    assert DesignSearchClassifier(**SMALL, client=address).fit(*iris).score(*iris) > 0.9


def test_a_category_that_is_new_is_told_and_stops_nothing():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.normal(size=60), "c": rng.choice(["x", "z"], 60)})
    new = rows.assign(c=["new", *rows.c[1:]])
    with pytest.warns(UserWarning, match="1 of 60 rows have a value unlike those trained on"):
        shares = DesignSearchClassifier(**SMALL).fit(rows, rows.a > 0).predict_proba(new)
    assert shares.shape == (60, 2)
    with pytest.warns(UserWarning, match="1 of 60 rows"):
        assert DesignSearchRegressor(**SMALL).fit(rows, rows.a).predict(new).shape == (60,)


def test_classes_that_are_left_out_have_no_probability():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2))
    labels = np.array(["rare", *np.where(rows[1:, 0] > 0, "p", "q")])
    options = {**SMALL["options"], "rare_classes": "drop"}
    fitted = DesignSearchClassifier(designs=2, options=options).fit(rows, labels)
    shares = fitted.predict_proba(rows)
    assert shares.shape == (60, 3)
    assert not shares[:, list(fitted.classes_).index("rare")].any()
    assert (fitted.classes_[shares.argmax(axis=1)] == fitted.predict(rows)).all()
    with pytest.raises(InputError, match="merge them in y"):
        DesignSearchClassifier(options={"rare_classes": "merge"}).fit(rows, labels)
