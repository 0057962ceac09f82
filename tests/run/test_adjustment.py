"""What a model says is adjusted on rows that it was not fitted to, and what is said of it holds."""

import keras
import numpy as np
import pytest

from dnnflow.engines.metrics import METRICS
from dnnflow.execute.local import LocalExecutor
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.adjustment import Adjustment, adjustment, chosen_thresholds, tempered
from dnnflow.run.ensemble_model import averaged, with_temperature
from dnnflow.run.execute import aggregate, finalists, measure_once
from dnnflow.run.models.saved_model import load_model
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import Task
from tests.conftest import PIPELINES, begin_study
from tests.run.test_final_test import pipeline

CLASSIFICATION, MULTILABEL, REGRESSION = Task


def too_sure(
    rows: int, classes: int, *, factor: float = 2.5, share: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels from probabilities, and give these with their logits times a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes))
    logits[:, 0] += np.log((1 - share) / share)
    shares = tempered(CLASSIFICATION, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    truth = np.array([rng.choice(classes, p=one / one.sum()) for one in shares])
    return truth, tempered(CLASSIFICATION, shares, 1 / factor).astype(np.float32)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_temperature_is_by_what_logits_were_too_large(factor: float) -> None:
    truth, outputs = too_sure(4000, 4, factor=factor)
    found = adjustment(METRICS["accuracy"], CLASSIFICATION, truth, outputs)
    assert found.temperature == pytest.approx(factor, rel=0.1)
    assert found.ece_before is not None
    assert found.ece_after is not None
    assert found.ece_after < 0.03
    if factor != 1.0:
        assert found.ece_after < found.ece_before / 2
    assert found.thresholds is None


def test_labels_have_one_temperature_for_all() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4000, 3))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    outputs = (1 / (1 + np.exp(-2 * logits))).astype(np.float32)
    found = adjustment(METRICS["accuracy"], MULTILABEL, truth, outputs)
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    np.testing.assert_allclose(tempered(MULTILABEL, outputs, 2.0), 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_no_class_changes_by_a_temperature(temperature: float) -> None:
    _, outputs = too_sure(3000, 5)
    scaled = tempered(CLASSIFICATION, outputs, temperature)
    np.testing.assert_array_equal(scaled.argmax(axis=1), outputs.argmax(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1.0, rtol=1e-5)


def test_where_nothing_is_gained_or_known_nothing_is_adjusted() -> None:
    truth, outputs = too_sure(15, 3)
    assert adjustment(METRICS["accuracy"], CLASSIFICATION, truth, outputs) == Adjustment()
    numbers = np.zeros((100, 1), np.float32)
    assert adjustment(METRICS["rmse"], REGRESSION, numbers, numbers) == Adjustment()
    assert Adjustment().calibration == {}


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "mcc"])
def test_a_threshold_is_chosen_where_classes_are_of_unlike_size(name: str) -> None:
    truth, outputs = too_sure(10_000, 2, factor=1.0, share=0.08)
    metric = METRICS[name]
    found = chosen_thresholds(metric, CLASSIFICATION, truth, outputs)
    assert found is not None
    assert 0.02 < found[0] < 0.4
    fresh, given = too_sure(3000, 2, factor=1.0, share=0.08, seed=9)
    moved = metric.score(fresh, (given[:, 1] > found[0]).astype(int))
    before = metric.score(fresh, given)
    assert moved is not None
    assert before is not None
    assert moved > before


def test_none_is_chosen_for_accuracy_for_many_classes_or_within_noise() -> None:
    truth, outputs = too_sure(3000, 2, factor=1.0, share=0.08)
    assert chosen_thresholds(METRICS["accuracy"], CLASSIFICATION, truth, outputs) is None
    assert chosen_thresholds(METRICS["roc_auc"], CLASSIFICATION, truth, outputs) is None
    many = too_sure(500, 3, share=0.08)
    assert chosen_thresholds(METRICS["mcc"], CLASSIFICATION, *many) is None
    told = [
        chosen_thresholds(METRICS["balanced_accuracy"], CLASSIFICATION, *too_sure(200, 2, seed=seed))
        for seed in range(40)
    ]
    assert sum(one is not None for one in told) <= 4


def test_each_label_has_a_threshold_of_its_own() -> None:
    rng = np.random.default_rng(3)
    shares = np.stack([rng.beta(1, 9, 3000), rng.beta(9, 1, 3000)], axis=1)
    truth = (rng.random(shares.shape) < shares).astype(np.float32)
    found = chosen_thresholds(METRICS["balanced_accuracy"], MULTILABEL, truth, shares.astype(np.float32))
    assert found is not None
    assert found[0] < 0.3
    assert found[1] > 0.7


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("is_ensemble", [False, True])
def test_a_scaled_model_is_plain_keras(kind: str, is_ensemble: bool, tmp_path: object) -> None:
    task = MULTILABEL if kind == "sigmoid" else CLASSIFICATION
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=kind)])
    if is_ensemble:
        model = averaged([(model, 1.0)], 4)
    features = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    before = np.asarray(model(features))
    scaled = with_temperature(model, 1.7, task, 4)
    assert len(scaled.layers) > 2 if is_ensemble else scaled is model
    path = f"{tmp_path}/model.keras"
    scaled.save(path)
    plain = keras.saving.load_model(path, compile=False, safe_mode=True)
    np.testing.assert_allclose(np.asarray(plain(features)), tempered(task, before, 1.7), atol=1e-6)


def whole(settings: Settings, *overrides: str) -> tuple[Study, StudyView]:
    few = ("evaluation.finalists=3", "evaluation.finalists_share=0.9", "space.seed=0", "outputs.models=2")
    table = (f"dataset.source={PIPELINES}/data/breast-cancer.csv", "dataset.label=diagnosis")
    study = begin_study(pipeline(*few, *table, *overrides), settings)
    study.train(LocalExecutor())
    return study, measure_once(study, finalists(study, aggregate(study), LocalExecutor()))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["balanced_accuracy", "log_loss"])
def test_what_is_recorded_is_what_the_file_gives_to_the_row(settings: Settings, metric: str) -> None:
    study, view = whole(settings, f"evaluation.metric={metric}")
    assert view.metric is METRICS[metric]
    features, labels = study.dataset.arrays("test")
    raw = study.dataset.inverse(features)
    handed = [one for one in view.tested if one.kind != "baseline"]
    assert len(handed) == 3
    for one in handed:
        path = (
            settings.workspace.model(study.id, one.rank)
            if one.rank
            else settings.workspace.ensemble(study.id)
        )
        model = load_model(path)
        found = model.predict(raw)
        classes = found["prediction"].to_numpy()
        assert (classes == study.dataset.label_names(labels)).mean() == one.measures["accuracy"]
        shares = found.filter(like="probability").to_numpy()
        assert one.measures["log_loss"] == pytest.approx(
            -(METRICS["log_loss"].score(labels, shares) or 0), rel=1e-4
        )
        assert one.measures["ece"] == pytest.approx(-(METRICS["ece"].score(labels, shares) or 0), abs=1e-4)
        assert model.about["tested"]["measures"] == one.measures
        assert model.about["calibration"] == one.calibration
        assert model.thresholds == one.thresholds
        assert one.calibration["ece_after"] <= one.calibration["ece_before"] + 0.02
        assert one.interval is not None
        assert one.interval[0] <= one.score <= one.interval[1]
        assert view.metric.value(one.score) == one.measures[metric]
    again = study.view().tested
    assert again == view.tested
    assert {"r2", "rmse"}.isdisjoint(handed[0].measures)
    assert view.finals is not None
    for finalist in view.finals.finalists:
        assert finalist.measures[metric] == pytest.approx(view.metric.value(finalist.score), abs=0.05)
