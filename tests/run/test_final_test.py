"""What is handed out is measured once, on rows that nothing was chosen by."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnnflow.engines.baselines import BOOSTING, LINEAR
from dnnflow.errors import InputError
from dnnflow.events import Notice, ignore
from dnnflow.execute.local import LocalExecutor
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.predictions.prediction_matrix import read_predictions
from dnnflow.results.view.paired import told_apart
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.execute import aggregate, measure_once
from dnnflow.run.models.saved_model import load_model
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.columns.split import Part
from tests.conftest import PIPELINES, begin_study

ROWS = 240
LARGEST = "always 'setosa'"


def pipeline(*overrides: str) -> Pipeline:
    return load_pipeline(PIPELINES / "iris.yaml", ["space.epochs=4", "executor.kind=in-process", *overrides])


def done(pipeline: Pipeline, settings: Settings) -> tuple[Study, StudyView]:
    study = begin_study(pipeline, settings)
    study.train(LocalExecutor())
    return study, measure_once(study, aggregate(study))


def table(path: Path, *, poisoned: bool) -> Path:
    """Write a table of two classes whose test rows are marked; `poisoned` turns their labels round."""
    rng = np.random.default_rng(4)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["a", "b", "c", "kind", "which"])
    for row in range(ROWS):
        features = rng.normal(size=3)
        is_yes, is_test = features.sum() + rng.normal() > 0, row % 4 == 0
        label = "yes" if is_yes != (poisoned and is_test) else "no"
        writer.writerow([*map(str, features), label, "test" if is_test else "train"])
    path.write_text(text.getvalue())
    return path


def test_no_label_of_a_test_row_has_a_say_in_what_is_chosen(settings: Settings, tmp_path: Path) -> None:
    """Poisoned test labels change the test numbers and not one bit of anything else."""
    found = []
    for name in ("clean", "poisoned"):
        source = table(tmp_path / f"{name}.csv", poisoned=name == "poisoned")
        found.append(
            done(
                pipeline(f"dataset.source={source}", "dataset.label=kind", "evaluation.split=which"), settings
            )
        )
    (study, clean), (other, poisoned) = found
    assert study.id != other.id
    times = ["study_id", "started_at", "queue_s", "training_s", "total_s", "worker"]
    frames = [
        one.trials().drop(columns=times).sort_values("design_id", ignore_index=True) for one, _ in found
    ]
    pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)
    assert [place.design_id for place in clean.leaderboard] == [
        place.design_id for place in poisoned.leaderboard
    ]
    kept = [read_predictions(settings.workspace.predictions(one.id)) for one, _ in found]
    assert kept[0] is not None
    assert kept[1] is not None
    np.testing.assert_array_equal(kept[0].values, kept[1].values)
    assert str(clean.noise) == str(poisoned.noise)
    for right, wrong in zip(clean.tested, poisoned.tested, strict=True):
        assert (right.name, right.selected) == (wrong.name, wrong.selected)
    assert clean.tested[0].score > 0.6 > 0.5 > poisoned.tested[0].score


@pytest.mark.parametrize("seeds", ["0", "{int: [0, 2]}"])
def test_what_designs_predict_is_kept_row_by_row(settings: Settings, seeds: str) -> None:
    """Another measure, or a test of two designs, needs no training."""
    study, view = done(pipeline(f"space.seed={seeds}"), settings)
    kept = read_predictions(settings.workspace.predictions(study.id))
    assert kept is not None
    ids = view.trials["design_id"].tolist()
    classes = kept.of(ids)
    assert classes is not None
    right = classes == kept.truth
    assert right.mean(axis=1).tolist() == pytest.approx(view.trials["score"].tolist())
    assert view.noise is not None
    assert view.noise.corrected is not None
    assert view.noise.corrected.naive == pytest.approx(view.leaderboard[0].score)
    assert view.noise.corrected.low <= view.noise.corrected.score <= view.noise.corrected.high
    unseeded = {one.design_id: one.unseeded_id for one in study.designs}
    if seeds != "0":  # trainings with several seeds are one design, whose rows are right in a share of them
        members = [[unseeded[one] == unseeded[place.design_id] for one in ids] for place in view.screen]
        right = np.stack([right[mine].mean(axis=0) for mine in members])
    assert [place.score for place in view.screen] == pytest.approx(right.mean(axis=1).tolist())
    assert view.noise.equal == 1 + sum(not apart for apart in told_apart(right))
    assert "paired tests on the same 24 validation rows, corrected for all designs" in str(view.noise)


@pytest.mark.slow
def test_a_study_whose_predictions_were_not_kept_is_compared_without_them(settings: Settings) -> None:
    study, _ = done(pipeline(), settings)
    shutil.rmtree(settings.workspace.predictions(study.id))
    noise = study.view().noise
    assert noise is not None
    assert noise.corrected is None
    assert "two-proportion z-test" in str(noise)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["0", "{int: [0, 2]}"])
def test_a_handed_out_model_has_the_accuracy_it_is_said_to_have(settings: Settings, seeds: str) -> None:
    study, view = done(pipeline(f"space.seed={seeds}"), settings)
    kept = {path.stem for path in settings.workspace.weights_directory(study.id).glob("*.npz")}
    assert kept == {place.design_id for place in view.leaderboard[:3]}
    models = [one for one in view.tested if one.kind == "design"]
    assert [one.rank for one in models] == [1, 2, 3]
    features, labels = study.dataset.arrays("test")
    raw = study.dataset.inverse(features)
    for one in models:
        assert one.rank is not None
        model = load_model(settings.workspace.model(study.id, one.rank))
        predicted = model.predict(raw)["prediction"].to_numpy()
        right = int((predicted == study.dataset.label_names(labels)).sum())
        assert (right / len(labels), len(labels)) == (one.score, one.rows)
        assert model.about["tested"]["score"] == one.score
        assert one.selected == view.leaderboard[one.rank - 1].score
        assert one.interval is not None
        assert one.interval[0] < one.score <= one.interval[1]


def test_baselines_are_what_scikit_learn_gives_on_the_same_rows(settings: Settings) -> None:
    study, view = done(pipeline("outputs.models=0"), settings)
    assert [one.name for one in view.tested] == [LARGEST, LINEAR, BOOSTING]
    fitted, held = study.dataset.part(Part())
    features, labels = study.dataset.arrays("train")
    features, labels = features[fitted], labels[fitted]
    assert (len(fitted), len(held)) == (96, 24)
    test_features, test_labels = study.dataset.arrays("test")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels)
    found = {one.name: one for one in view.tested}
    assert found[LINEAR].score == pytest.approx(linear.score(test_features, test_labels))
    assert found[LARGEST].score == np.bincount(test_labels).max() / len(test_labels)
    assert found[BOOSTING].score > 0.8
    assert view.sentence == ""  # without a model nothing is said of one


@pytest.mark.slow
def test_a_baseline_that_saw_a_part_of_the_rows_is_named_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnflow.run.final_test.fitted_rows", lambda *shape: 40)
    _, view = done(pipeline("outputs.models=0"), settings)
    assert [one.name for one in view.tested] == [
        LARGEST,
        f"{LINEAR} on 40 rows",
        f"{BOOSTING} on 40 rows",
    ]


@pytest.mark.slow
def test_a_baseline_that_fails_is_told_and_costs_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(features: np.ndarray, labels: np.ndarray) -> None:
        raise ValueError("too few of a class")

    monkeypatch.setattr("dnnflow.engines.baselines._boosting", fails)
    study = begin_study(pipeline(), settings)
    study.train(LocalExecutor())
    heard: list[object] = []
    view = measure_once(study, aggregate(study), heard.append)
    assert Notice("gradient boosting could not be measured, got ValueError: too few of a class") in heard
    assert [one.name for one in view.tested][-2:] == [LARGEST, LINEAR]
    assert settings.workspace.model(study.id, 1).is_file()


@pytest.mark.slow
def test_test_rows_are_looked_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study, view = done(pipeline(), settings)
    monkeypatch.setattr("dnnflow.engines.epoch_rows.TrainingRows.test", lambda self: iter([]))
    again = measure_once(study, aggregate(study), ignore)
    assert again.tested == view.tested
    assert study.view().tested == view.tested


@pytest.mark.slow
def test_a_study_that_selects_on_test_rows_says_so(settings: Settings) -> None:
    _, view = done(pipeline("evaluation.select_on=test", "space.seed=0"), settings)
    assert (view.measured_on, view.tested[0].selected) == ("30 test rows", None)
    assert view.tested[0].score == view.leaderboard[0].score
    assert "on 30 test rows that it was chosen on, so less on others" in view.sentence
    assert "set evaluation.select_on to validation" in str(view.noise)


@pytest.mark.slow
def test_what_the_best_is_worth_is_said_in_one_sentence(settings: Settings) -> None:
    _, view = done(pipeline(), settings)
    best = view.tested[0]
    assert view.sentence.startswith(f"{best.short}: {100 * best.score:.1f} % on 30 test rows kept for this (")
    assert "logistic regression " in view.sentence
    assert f"{LARGEST} 33.3 %" in view.sentence
    assert "24 validation rows" in str(view.noise)


def test_a_metric_of_another_task_or_of_one_class_is_refused_before_anything_trains(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"metric of classification must be one of .*, got rmse; take"):
        begin_study(pipeline("evaluation.metric=rmse"), settings)
    rows = [f"{row},{int(row >= 30)},{'train' if row < 60 else 'test'}" for row in range(80)]
    source = tmp_path / "ordered.csv"
    source.write_text("\n".join(["a,kind,which", *rows]))
    one_class = pipeline(f"dataset.source={source}", "dataset.label=kind", "evaluation.split=which")
    with pytest.raises(InputError, match="ROC-AUC needs rows that differ among those that are for the test"):
        begin_study(with_metric(one_class, "roc_auc"), settings)


def with_metric(given: Pipeline, name: str) -> Pipeline:
    plain = given.plain()
    return Pipeline.model_validate({**plain, "evaluation": {**plain["evaluation"], "metric": name}})


def test_a_weighted_table_is_tested_as_any_other(settings: Settings, tmp_path: Path) -> None:
    """Weights are of the training's loss: who predicts needs none, be there finalists or not."""
    frame = pd.read_csv(PIPELINES / "data" / "iris.csv").assign(how=1.0)
    source = tmp_path / "weighted.csv"
    frame.to_csv(source, index=False)
    _, view = done(pipeline(f"dataset.source={source}", "dataset.weights=how"), settings)
    assert {one.name for one in view.tested if one.kind == "baseline"} >= {LARGEST, LINEAR, BOOSTING}
    assert any(one.kind == "design" for one in view.tested)
