"""All metrics of classes stand beside each trial, computed once and after the fact."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.store.schema import MEASURES
from dnnflow.results.view.design_measures import measures_of_designs, store_measures
from dnnflow.results.view.export import export_trials
from dnnflow.results.view.overview import TrialQuery, trial_rows
from dnnflow.run.execute import aggregate
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import Task
from tests.conftest import begin_study
from tests.run.test_final_test import pipeline

CLASSES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")


def test_measures_of_many_designs_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnnflow.results.view.design_measures._BLOCK", 100)
    rng = np.random.default_rng(0)
    truth, codes = rng.integers(3, size=40), rng.integers(4, size=(9, 40)).astype(np.uint8)
    found = measures_of_designs(KeptPredictions(truth, codes, ()), np.arange(9), Task.CLASSIFICATION)
    assert tuple(found) == CLASSES
    for place, one in enumerate(codes):
        assert found["accuracy"][place] == pytest.approx(sk.accuracy_score(truth, one))
        assert found["mcc"][place] == pytest.approx(sk.matthews_corrcoef(truth, one))
        assert found["macro_f1"][place] == pytest.approx(sk.f1_score(truth, one, average="macro"))


def test_numbers_have_the_measures_of_numbers() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 2)).astype(np.float32)
    outputs = truth + rng.normal(size=(4, 30, 2)).astype(np.float32)
    found = measures_of_designs(KeptPredictions(truth, outputs, ()), np.array([2, 0]), Task.REGRESSION)
    assert tuple(found) == ("r2", "rmse", "mae")
    for row, one in enumerate([outputs[2], outputs[0]]):
        assert found["r2"][row] == pytest.approx(sk.r2_score(truth, one), rel=1e-5)
        assert found["rmse"][row] == pytest.approx(sk.root_mean_squared_error(truth, one), rel=1e-5)
        assert found["mae"][row] == pytest.approx(sk.mean_absolute_error(truth, one), rel=1e-5)


def test_trials_can_be_sorted_by_them_once_the_screen_has_ended(settings: Settings, tmp_path: Path) -> None:
    from dnnflow.execute.local import LocalExecutor

    study = begin_study(pipeline("evaluation.metric=log_loss"), settings)
    study.train(LocalExecutor())
    assert study.trials()["mcc"].isna().all()
    aggregate(study)
    trials = study.trials()
    for name in MEASURES:
        assert trials[name].notna().all() == (name in CLASSES)
    best = trial_rows(study.store, study.id, TrialQuery(sort="macro_f1"))[0]
    assert best["macro_f1"] == trials["macro_f1"].max()
    for _, row in trials.iterrows():
        counts = np.array(study.store.trial(study.id, row["design_id"]).confusion)
        assert row["accuracy"] == pytest.approx(np.trace(counts) / counts.sum())
        assert row["score"] == pytest.approx(-row["loss"], rel=1e-3)
    export_trials(trials, tmp_path / "trials.csv")
    assert "balanced_accuracy" in (tmp_path / "trials.csv").read_text().splitlines()[0]
    where = study.settings.workspace
    assert store_measures(study.store, study.id, where, Task.CLASSIFICATION) == 0
