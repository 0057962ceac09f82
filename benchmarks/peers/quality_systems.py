"""What answers a table within a time: dnnflow, and what its users would take instead.

Each system is a function of a table, the time until which it must have answered (of `time.time`), how many
cores it may use, and a directory of its own. It returns what it predicts for the unseen rows, by the names of
its models. Libraries are imported where they are used: a system's own imports count.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peers.quality_tables import LABEL, Table


@dataclass(frozen=True)
class Answer:
    """What one model makes of the unseen rows."""

    score: float
    says: tuple[float, float, float] | None = None
    """What the system says of it, and a 95 % interval of that, where it says so."""
    tried: int | None = None
    """Designs or settings that it was chosen from."""


@dataclass(frozen=True)
class Limits:
    """What a system may take."""

    until: float
    """When it must have answered, as `time.time` counts."""
    cores: int
    home: Path
    """A directory of its own."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """Sections of dnnflow's pipeline whose fields are other ones than those of the good rules."""

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.until - time.time()


Answers = dict[str, Answer]


# ---- dnnflow


def dnnflow(table: Table, limits: Limits) -> Answers:
    """Study the table by the good rules, with as many designs as there is time for."""
    import dnnflow as library
    from dnnflow.events import ignore
    from dnnflow.settings import Settings

    source = limits.home / "table.csv"
    table.train.to_csv(source, index=False)
    settings = Settings.from_environment({"DNNFLOW_HOME": str(limits.home)})
    rules = rules_of(table, limits)
    rules["dataset"] = {"source": str(source), "label": LABEL, "task": table.task}
    if table.task == "regression":
        rules["evaluation"] = {**rules.get("evaluation", {}), "metric": "r2"}
    rules["outputs"] = {"models": 1}
    del rules["designs"]
    minutes = max(1.0, limits.left_s - RESERVE_S) / 60
    study = library.run_study({**rules, "minutes": minutes}, settings=settings, listener=ignore)
    workspace = settings.workspace
    files = {"design": workspace.model(study.study_id, 1), "ensemble": workspace.ensemble(study.study_id)}
    answers: Answers = {}
    view = study.view()
    measured = [(one.kind, one) for one in view.tested if one.kind in files]
    if view.final_rows and view.taken:  # says what the same designs had without the test rows
        measured.append(("final", view.taken))
        files["final"] = workspace.final_model(study.study_id)
    for kind, one in measured:
        if f"dnnflow {kind}" not in answers:  # of designs the winner is first
            predicted = library.load_model(files[kind]).predict(table.features(table.unseen))
            low, high = one.interval or (-np.inf, np.inf)
            score = table.score(predicted["prediction"])
            answers[f"dnnflow {kind}"] = Answer(score, (one.score, low, high), len(study.designs))
    return answers


def rules_of(table: Table, limits: Limits) -> dict[str, Any]:
    """Return a pipeline's sections by the good rules, on workers of this machine or in this process."""
    from dnnflow.pipeline.good_rules import TableFacts, good_rules

    features = table.features(table.train)
    texts = features.select_dtypes(exclude="number")
    numbers, categories = features.shape[1] - texts.shape[1], int(texts.nunique().sum())
    rules = good_rules(TableFacts(len(features), numbers, categories, table.train[LABEL].nunique()))
    for name, changed in limits.rules.items():
        rules[name] = {**rules.get(name, {}), **changed}
    executor = {"workers": limits.cores, "dashboard_port": 0}
    return {**rules, "executor": {"kind": "in-process"} if limits.cores == 1 else executor}


# ---- scikit-learn


def prepared(estimator: Any, table: Table, *, scaled: bool) -> Any:
    """Return an estimator of raw rows: text one-hot encoded, missing values filled, numbers scaled or not."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    text = make_pipeline(SimpleImputer(strategy="most_frequent"),
                         OneHotEncoder(handle_unknown="ignore", sparse_output=False))  # fmt: skip
    columns = make_column_transformer(
        (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
        (text, make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(columns, *([StandardScaler()] if scaled else []), estimator)


def kind_of(table: Table, classifier: Any, regressor: Any, **options: Any) -> Any:
    """Return the estimator of a table's task."""
    return (classifier if table.task == "classification" else regressor)(random_state=0, **options)


def network(table: Table, **options: Any) -> Any:
    """Return scikit-learn's network behind a scaler."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    estimator = prepared(kind_of(table, MLPClassifier, MLPRegressor, **options), table, scaled=True)
    if table.task == "classification":
        return estimator
    return TransformedTargetRegressor(regressor=estimator, transformer=StandardScaler())


def linear(table: Table) -> Any:
    """Return logistic regression, or of numbers ridge regression with a penalty that is cross-validated."""
    from sklearn.linear_model import LogisticRegression, RidgeCV

    is_classes = table.task == "classification"
    estimator = LogisticRegression(max_iter=1000) if is_classes else RidgeCV(np.logspace(-3, 3, 13))
    return prepared(estimator, table, scaled=True)


def boosting(table: Table) -> Any:
    """Return scikit-learn's gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return prepared(
        kind_of(table, HistGradientBoostingClassifier, HistGradientBoostingRegressor), table, scaled=False
    )


def forest(table: Table, cores: int) -> Any:
    """Return scikit-learn's random forest."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    return prepared(
        kind_of(table, RandomForestClassifier, RandomForestRegressor, n_jobs=cores), table, scaled=False
    )


def untuned(make: Callable[[Table, Limits], Any]) -> Callable[[Table, Limits], Answers]:
    """Return a system that fits an estimator as it comes."""

    def run(table: Table, limits: Limits) -> Answers:
        fitted = make(table, limits).fit(table.features(table.train), table.train[LABEL])
        return {"": Answer(table.score(fitted.predict(table.features(table.unseen))))}

    return run


NETWORKS = {
    "hidden_layer_sizes": [(32,), (64,), (128,), (256,), (64, 64), (128, 128), (256, 256), (128, 128, 128)],
    "activation": ["relu", "tanh"],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0],
    "learning_rate_init": [3e-4, 1e-3, 3e-3, 1e-2],
    "batch_size": [32, 64, 128, 256],
    "early_stopping": [False, True],
    "max_iter": [100, 200],
}
TREES = {
    "learning_rate": [0.02, 0.05, 0.1, 0.2], "max_iter": [50, 100, 200, 400],
    "max_leaf_nodes": [7, 15, 31, 63, 127], "min_samples_leaf": [2, 5, 10, 20, 50],
    "l2_regularization": [0.0, 0.1, 1.0, 10.0], "max_features": [0.3, 0.6, 1.0],
}  # fmt: skip


def searched(
    make: Callable[[Table, Limits], Any], space: Mapping[str, Any]
) -> Callable[[Table, Limits], Answers]:
    """Return a system that draws settings of an estimator until the time ends: cross-validated, refitted."""

    def run(table: Table, limits: Limits) -> Answers:
        from sklearn.model_selection import RandomizedSearchCV

        estimator, rows = make(table, limits), table.features(table.train)
        last = next(name for name in estimator.get_params() if name.endswith("__" + next(iter(space))))
        named = {last.rpartition("__")[0] + "__" + name: values for name, values in space.items()}
        best, most, tried = (-np.inf, {}), 0.0, 0
        while not tried or limits.left_s > 1.6 * most:  # a trial, and the best one on all rows
            begun = time.time()
            search = RandomizedSearchCV(
                estimator, named, n_iter=1, cv=3, random_state=tried, refit=False, n_jobs=limits.cores
            ).fit(rows, table.train[LABEL])
            best = max(best, (search.best_score_, search.best_params_), key=lambda one: one[0])
            most, tried = max(most, time.time() - begun), tried + 1
        fitted = estimator.set_params(**best[1]).fit(rows, table.train[LABEL])
        score = table.score(fitted.predict(table.features(table.unseen)))
        return {"": Answer(score, tried=tried)}

    return run


# ---- Keras


RESERVE_S = 2.0
"""For predictions after a search."""
BATCHES = [32, 64, 128, 256]


class KerasTask:
    """A table as a search over Keras models sees it: scaled rows, a fifth of them held out."""

    def __init__(self, table: Table, limits: Limits) -> None:
        from sklearn.model_selection import train_test_split

        self.table, self.limits = table, limits
        self._columns = prepared("passthrough", table, scaled=True)
        rows, labels = self._columns.fit_transform(table.features(table.train)), table.train[LABEL]
        if table.task == "classification":
            self.names, targets = np.unique(labels, return_inverse=True)
        else:
            self.mean, self.spread = labels.mean(), labels.std()
            targets = (labels.to_numpy() - self.mean) / self.spread
        split = train_test_split(rows.astype(np.float32), targets, test_size=0.2, random_state=0)
        self.fit_rows, self.held_rows, self.fit_targets, self.held_targets = split
        self.best: tuple[float, Any] | None = None
        self.tried = 0

    def build(
        self, number: Callable[..., int], real: Callable[..., float], choice: Callable[..., Any]
    ) -> Any:
        """Return a compiled model of what a library suggests."""
        import keras

        stack = [keras.Input((self.fit_rows.shape[1],))]
        units, activation = choice("units", [32, 64, 128, 256]), choice("activation", ["relu", "tanh"])
        dropout = choice("dropout", [0.0, 0.1, 0.3])
        for _ in range(number("depth", 1, 3)):
            stack += [keras.layers.Dense(units, activation), keras.layers.Dropout(dropout)]
        classes = len(self.names) if self.table.task == "classification" else None
        stack.append(keras.layers.Dense(classes, "softmax") if classes else keras.layers.Dense(1))
        model = keras.Sequential(stack)
        loss = "sparse_categorical_crossentropy" if classes else "mse"
        model.compile(keras.optimizers.Adam(real("learning_rate", 3e-4, 1e-2)), loss)
        return model

    def callbacks(self) -> list[Any]:
        """Return early stopping, and the end of the time."""
        import keras

        limits = self.limits

        class Deadline(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                if limits.left_s < RESERVE_S:
                    self.model.stop_training = True

        return [keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True), Deadline()]

    def fit(self, model: Any, batch_size: int) -> float:
        """Train a model and return its lowest loss on the rows held out; the best of all is kept."""
        history = model.fit(
            self.fit_rows, self.fit_targets, validation_data=(self.held_rows, self.held_targets), epochs=100,
            batch_size=batch_size, callbacks=self.callbacks(), verbose=0,
        )  # fmt: skip
        loss, self.tried = float(min(history.history["val_loss"])), self.tried + 1
        if self.best is None or loss < self.best[0]:
            self.best = loss, model
        return loss

    def answer(self) -> Answers:
        """Return what the best model makes of the unseen rows."""
        if self.best is None:
            return {}
        rows = self._columns.transform(self.table.features(self.table.unseen)).astype(np.float32)
        outputs = self.best[1].predict(rows, batch_size=4096, verbose=0)
        if self.table.task == "classification":
            predicted = self.names[outputs.argmax(axis=1)]
        else:
            predicted = outputs[:, 0] * self.spread + self.mean
        return {"": Answer(self.table.score(predicted), tried=self.tried)}


def optuna_keras(table: Table, limits: Limits) -> Answers:
    """Search over Keras models with Optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = KerasTask(table, limits)

    def objective(trial: Any) -> float:
        def real(name: str, low: float, high: float) -> float:
            return trial.suggest_float(name, low, high, log=True)

        model = task.build(trial.suggest_int, real, trial.suggest_categorical)
        return task.fit(model, trial.suggest_categorical("batch_size", BATCHES))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, timeout=max(1.0, limits.left_s - RESERVE_S))
    return task.answer()


def keras_tuner(table: Table, limits: Limits) -> Answers:
    """Search over Keras models with KerasTuner."""
    import keras_tuner as library

    task = KerasTask(table, limits)

    class Model(library.HyperModel):
        def build(self, hp: Any) -> Any:
            def real(name: str, low: float, high: float) -> float:
                return hp.Float(name, low, high, sampling="log")

            return task.build(hp.Int, real, hp.Choice)

        def fit(self, hp: Any, model: Any, **named: Any) -> float:
            return task.fit(model, hp.Choice("batch_size", BATCHES))

    class Search(library.RandomSearch):
        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            if limits.left_s < RESERVE_S:
                self.oracle.max_trials = 1  # no further one

    Search(Model(), max_trials=10**6, seed=0, directory=str(limits.home)).search(verbose=0)
    return task.answer()


# ---- others


def realmlp(table: Table, limits: Limits) -> Answers:
    """Fit RealMLP with its tuned defaults (Holzmueller et al., 2024)."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    make = RealMLP_TD_Classifier if table.task == "classification" else RealMLP_TD_Regressor
    fitted = make(device="cpu", n_threads=limits.cores, random_state=0)
    fitted.fit(table.features(table.train), table.train[LABEL])
    return {"": Answer(table.score(fitted.predict(table.features(table.unseen))))}


def autogluon(table: Table, limits: Limits) -> Answers:
    """Let AutoGluon stack what it has."""
    from autogluon.tabular import TabularPredictor

    predictor = TabularPredictor(LABEL, path=str(limits.home / "autogluon"), verbosity=0)
    predictor.fit(table.train, time_limit=limits.left_s - RESERVE_S, num_cpus=limits.cores)
    return {"": Answer(table.score(predictor.predict(table.features(table.unseen))))}


@dataclass(frozen=True)
class System:
    """A system, and what it needs."""

    run: Callable[[Table, Limits], Answers]
    package: str = "sklearn"
    install: str = ""
    tasks: tuple[str, ...] = ("classification", "regression")

    @property
    def is_there(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.package) is not None


SYSTEMS: Mapping[str, System] = {
    "dnnflow": System(dnnflow, "dnnflow"),
    "network": System(untuned(lambda table, limits: network(table))),
    "linear": System(untuned(lambda table, limits: linear(table))),
    "boosting": System(untuned(lambda table, limits: boosting(table))),
    "forest": System(untuned(lambda table, limits: forest(table, limits.cores))),
    "network searched": System(searched(lambda table, limits: network(table), NETWORKS)),
    "boosting searched": System(searched(lambda table, limits: boosting(table), TREES)),
    "optuna + keras": System(optuna_keras, "optuna", "pip install optuna"),
    "keras tuner": System(keras_tuner, "keras_tuner", "pip install keras-tuner tensorboard"),
    "realmlp": System(realmlp, "pytabkit", "pip install pytabkit"),
    "autogluon": System(autogluon, "autogluon", "pip install autogluon.tabular"),
}
"""Those named after their kind are scikit-learn's: MLP, HistGradientBoosting, RandomForest, and logistic or
ridge regression."""
