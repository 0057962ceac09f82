"""Fit scikit-learn's way: a search for the best network design is the fit, its best model predicts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from dnnflow.errors import DataError, InputError, NotFoundError
from dnnflow.pipeline.pipeline_file import merge
from dnnflow.results.view.leaderboard_frame import leaderboard_frame
from dnnflow.results.view.next_steps import recommended_file
from dnnflow.run.execute import StudyEnd, execute, require_success
from dnnflow.run.models.saved_model import PROBABILITY, SavedModel, load_model, warned
from dnnflow.run.run import StudyRun
from dnnflow.run.search import SearchRequest, executor_of, search_pipeline, sections_of
from dnnflow.settings import Settings
from dnnflow.table.formats.frames import arrow_of, is_table
from dnnflow.table.formats.given_table import place_table
from dnnflow.table.formats.rows_file import rows_of
from dnnflow.table.formats.typed_source import TypeKind, check_features, kind_of

if TYPE_CHECKING:
    from distributed import Client

WEIGHTS = "sample_weight"
"""Column of a table's weights."""
MODELS = 8
"""Models that a process keeps open."""


class DesignSearch(BaseEstimator):  # type: ignore[misc]
    """What the estimators have in common; see `DesignSearchClassifier`."""

    _task: str

    def __init__(
        self, *, designs: int | None = None, minutes: float | None = None, metric: str | None = None,
        test_fraction: float = 0.1, options: Mapping[str, Any] | None = None,
        random_state: Any = None, n_jobs: int | None = None, client: "Client | str | None" = None,
        home: str | Path | None = None,
    ) -> None:  # fmt: skip
        self.designs = designs
        self.minutes = minutes
        self.metric = metric
        self.test_fraction = test_fraction
        self.options = options
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.client = client
        self.home = home

    def __sklearn_tags__(self) -> Any:
        """Say that values may be missing."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted copy; a Dask client is shared, as it cannot be copied."""
        client, self.client = self.client, None
        try:
            copy: Self = super().__sklearn_clone__()
        finally:
            self.client = client
        copy.client = client
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: of a Dask client the scheduler's address, to which it connects then."""
        state: dict[str, Any] = dict(super().__getstate__())
        if state.get("client") is not None and not isinstance(state["client"], str):
            state["client"] = state["client"].scheduler.address
        return state

    def _fit(self, rows: Any, targets: NDArray[Any], sample_weight: NDArray[Any] | None) -> Self:
        """Search on rows that `_counted` has returned, and keep the model and what was found."""
        features = self._frame(rows)
        columns = [f"y{place}" for place in range(targets.shape[1])] if targets.ndim > 1 else ["y"]
        labels = pd.DataFrame(targets)
        labels.columns = pd.Index(_free(columns, features))
        named = dict(self.options or {})
        if sample_weight is not None:
            (column,) = _free([WEIGHTS], [*features, *labels])
            features, named = features.assign(**{column: sample_weight}), {**named, "weights": column}
        with self._settings() as settings:
            table = place_table((features, labels), settings.workspace.frames)
            # Two rows at least, as a score of numbers needs
            named.setdefault("test_fraction", min(0.5, max(self.test_fraction, 2 / len(features))))
            end = self._search(sections_of(table, None, named), settings)
            try:
                require_success(end.view)
                self._keep(end)
            finally:
                end.study.store.close()
        return self

    def _search(self, sections: Mapping[str, Any], settings: Settings) -> StudyEnd:
        seed = 0
        if self.random_state is not None:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        is_address = isinstance(self.client, str)
        client = None if is_address else self.client
        executor = {"address": self.client} if is_address else executor_of(self.n_jobs or 1)
        own = {
            "dataset": {"task": self._task, "seed": seed}, "seed": seed,
            "evaluation": {"metric": self.metric},
            "executor": {} if client is not None else executor, "outputs": {"models": 1},
        }  # fmt: skip
        request = SearchRequest(merge(own, sections), designs=self.designs, minutes=self.minutes, looks=False)
        pipeline = search_pipeline(request, settings, client=client)
        run = StudyRun(pipeline, settings, began_s=request.began_s)
        return execute(run, draw=_draw_nothing, client=client)

    def _keep(self, end: StudyEnd) -> None:
        study, view = end.study, end.view
        file = recommended_file(view, study.settings.workspace)
        if not file.is_file():
            raise NotFoundError(f"a search ends with a model, got none of study {study.id}; fit again")
        self._model_bytes = file.read_bytes()
        self.search_results_ = leaderboard_frame(view)
        found = {design.design_id: design for design in study.designs}
        self.best_design_ = found[view.leaderboard[0].design_id]
        self.study_id_ = study.id

    @contextmanager
    def _settings(self) -> Iterator[Settings]:
        """Yield settings whose workspace is `home`, else one that is removed again."""
        with TemporaryDirectory(prefix="dnnflow-search-") as temporary:
            settings = Settings.from_environment({"DNNFLOW_HOME": str(self.home or temporary)})
            settings.workspace.require_writable()
            yield settings

    def _checked(self, rows: Any, targets: Any, **checks: Any) -> tuple[Any, NDArray[Any]]:
        """Check rows and targets to fit as scikit-learn does, and keep names and number of the columns.

        Rows become an array, but for a DataFrame with columns that hold no numbers.
        """
        frame = _frame_with_texts(rows)
        self._has_texts = frame is not None
        if frame is None:
            checks |= {"ensure_all_finite": "allow-nan", "ensure_min_samples": 2}
            found: tuple[Any, NDArray[Any]] = validate_data(self, rows, targets, **checks)
            return found
        values = np.asarray(validate_data(self, y=targets, **checks))
        validate_data(self, frame, skip_check_array=True)  # the last one says which columns there are
        check_consistent_length(frame, values)
        return frame, values

    def _new_rows(self, rows: Any) -> Any:
        """Check rows to predict: they must have the columns of those that it was fitted to."""
        if not self._has_texts:
            return validate_data(self, rows, reset=False, ensure_all_finite="allow-nan")
        if not _is_frame(rows):
            raise InputError(
                f"rows must be a DataFrame, as those it was fitted to, got {type(rows).__name__}"
            )
        frame = rows_of(rows)
        validate_data(self, frame, reset=False, skip_check_array=True)
        return frame

    def _counted(self, rows: Any, targets: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return rows, targets and weights, without those of weight 0, as if they were not there."""
        if sample_weight is None:
            return rows, targets, None
        weights = _check_sample_weight(sample_weight, rows, ensure_non_negative=True)
        return rows[weights > 0], targets[weights > 0], weights[weights > 0]

    def _frame(self, rows: Any) -> pd.DataFrame:
        """Return checked rows under the names that they have in the study."""
        if isinstance(rows, pd.DataFrame):
            return rows.reset_index(drop=True)
        names = getattr(self, "feature_names_in_", None)
        return rows_of(rows) if names is None else pd.DataFrame(rows, columns=pd.Index(names))

    def _predicted(self, rows: Any) -> pd.DataFrame:
        check_is_fitted(self)
        return warned(_opened(self._model_bytes).predict(self._frame(self._new_rows(rows))))


class DesignSearchClassifier(ClassifierMixin, DesignSearch):  # type: ignore[misc]
    """Finds the network design that classifies a table best, and predicts with the best model of it.

    Each fit is a study by the good rules: designs are compared on held-out rows, the best are trained again
    with folds, and the ensemble of them, or the winner, is trained once more on all rows to predict. It is
    kept in a temporary directory, unless `home` is given; the model goes along with the estimator.

    Parameters
    ----------
    designs : int, optional
        How many designs to train; default: what the good rules say, 200 of a small table.
    minutes : float, optional
        How long a fit may take, instead.
    metric : str, optional
        What designs are compared by; default: accuracy.
    test_fraction : float
        Share of the rows kept to say what the model is worth, before it is trained once more on all. With
        `finalists: 0` or `all_rows: False` among the options it is not fitted to them.
    options : mapping, optional
        Fields of a pipeline's sections dataset, evaluation, preprocess and training by their names
        (`holdout`, `finalists`, …), or whole sections: {"space": {"depth": 2}}.
    random_state : int or RandomState, optional
        Seeds designs, weights and the split; default: 0, so that a fit can be repeated.
    n_jobs : int, optional
        Worker processes; None and 1: this process, -1: one a core.
    client : distributed.Client or str, optional
        A Dask client, or the address of a scheduler, to train on instead.
    home : path, optional
        Where studies are kept; a fit that was stopped then goes on.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
    n_features_in_, feature_names_in_
        Of the rows that it was fitted to.
    search_results_ : DataFrame
        The best designs, one row each: their score, its interval, weights, seconds.
    best_design_ : Design
        The first of them.
    study_id_ : str
        The study, where `home` was given.

    Examples
    --------
    ::

        cross_val_score(dnnflow.DesignSearchClassifier(designs=20), X, y)
    """

    _task = "classification"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Search on rows (array or DataFrame; NaN is a missing value) and their classes.

        Raises
        ------
        DataError
            If the rows cannot be used, e.g. a class of a single row.
        """
        if (self.options or {}).get("rare_classes") == "merge":
            raise InputError(
                "a classifier predicts the classes it is given, got rare_classes='merge'; merge them in y"
            )
        rows, targets = self._checked(X, y)
        targets = column_or_1d(targets, warn=True)
        check_classification_targets(targets)
        rows, targets, sample_weight = self._counted(rows, targets, sample_weight)
        self.classes_, codes = np.unique(targets, return_inverse=True)
        single = self.classes_[np.bincount(codes) == 1]
        if len(single) and (self.options or {}).get("rare_classes") != "drop":
            raise DataError(
                f"a class needs at least 2 rows (one to train, one to test), got 1 of {single[0]!r}; add "
                "rows of it, leave that row out, or set options={'rare_classes': 'drop'}"
            )
        if len(self.classes_) < 2:
            raise InputError(f"a classifier needs at least 2 classes, got 1 class ({self.classes_[0]!r})")
        return self._fit(rows, codes, sample_weight)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each row, shape (rows,)."""
        codes = self._predicted(X)["prediction"].astype(int)
        found: NDArray[Any] = self.classes_[codes]
        return found

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class for each row, shape (rows, classes)."""
        table = self._predicted(X)
        shares = np.zeros((len(table), len(self.classes_)))
        for name in table.columns:
            if name.startswith(PROBABILITY):  # of a class by its code; rare ones may have been left out
                shares[:, int(name.removeprefix(PROBABILITY))] = table[name]
        found: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return found


class DesignSearchRegressor(RegressorMixin, DesignSearch):  # type: ignore[misc]
    """Finds the network design that predicts a table's numbers best, and predicts with the best model of it.

    Parameters and attributes are those of `DesignSearchClassifier`, without classes; designs are compared by
    RMSE, of several targets by R², unless `metric` says otherwise.
    """

    _task = "regression"

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Search on rows (array or DataFrame; NaN is a missing value) and their numbers.

        Parameters
        ----------
        y
            Shape (rows,) or (rows, targets).

        Raises
        ------
        DataError
            If the rows cannot be used, e.g. a target of one value.
        """
        rows, targets = self._checked(X, y, multi_output=True, y_numeric=True)
        self._is_flat = targets.ndim == 1
        rows, targets, sample_weight = self._counted(rows, targets.astype(np.float64), sample_weight)
        return self._fit(rows, targets, sample_weight)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the number of each row, shape (rows,), or (rows, targets) as it was fitted."""
        found: NDArray[np.float64] = self._predicted(X).to_numpy(np.float64)
        return found[:, 0] if self._is_flat else found


def _is_frame(rows: Any) -> bool:
    return is_table(rows) and not isinstance(rows, tuple | list | np.ndarray)


def _frame_with_texts(rows: Any) -> pd.DataFrame | None:
    """Return the rows of a frame with a column that holds no numbers; None of others."""
    if not _is_frame(rows):
        return None
    schema = arrow_of(rows).schema
    if all(kind_of(one) is TypeKind.NUMBER or pa.types.is_boolean(one.type) for one in schema):
        return None
    check_features(schema, schema.names)
    return rows_of(rows)


def _free(names: list[str], taken: Any) -> list[str]:
    """Return names that no column has, with underscores at their ends where needed."""
    known = set(taken)
    while known & set(names):
        names = [f"{name}_" for name in names]
    return names


def _draw_nothing(run: Any, path: Path) -> Path:
    return path


@lru_cache(maxsize=MODELS)
def _opened(content: bytes) -> SavedModel:
    """Return a model of the bytes of its file."""
    with TemporaryDirectory(prefix="dnnflow-model-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        saved = load_model(path)
    return replace(saved, model=Float64Network(saved.model))


class Float64Network:
    """A network whose outputs for a row are the same whatever rows are beside it, up to rounding.

    In float32 a matrix product's last digits depend on how many rows it has.
    """

    def __init__(self, model: Any) -> None:
        import keras

        self._model = keras.models.model_from_json(model.to_json().replace('"float32"', '"float64"'))
        self._model.set_weights(model.get_weights())

    def predict_on_batch(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the outputs (rows, outputs) of rows (rows, features), without making a graph of it first."""
        return np.asarray(self._model(rows.astype(np.float64), training=False))
