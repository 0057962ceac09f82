"""The best of a screen are trained again with folds; the winner is refitted, the best are averaged."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from dnnflow.design.layers import Design
from dnnflow.engines.records import FinalOptions, Trial, TrialError, TrialState
from dnnflow.errors import InputError
from dnnflow.execute.local import LocalExecutor
from dnnflow.results.predictions.prediction_matrix import read_predictions
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.view.study_view import StudyView, load_finals
from dnnflow.run.execute import aggregate, finalists, measure_once
from dnnflow.run.final_stage import finalists_of, has_finals, parts_of, train_finals
from dnnflow.run.final_test import hand_out
from dnnflow.run.models.saved_model import load_model
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.columns.split import Part
from tests.conftest import begin_study
from tests.run.test_final_test import pipeline, table

FEW = ("evaluation.finalists=4", "evaluation.finalists_share=0.9", "space.seed=0")
STOPPED = "space.early_stopping={patience: 2}"


def screened(settings: Settings, *overrides: str) -> tuple[Study, StudyView]:
    study = begin_study(pipeline(*FEW, *overrides), settings)
    study.train(LocalExecutor())
    return study, study.view()


def whole(settings: Settings, *overrides: str) -> tuple[Study, StudyView]:
    study, view = screened(settings, *overrides)
    return study, measure_once(study, finalists(study, view, LocalExecutor()))


class Interrupted(Exception):
    pass


class DyingExecutor(LocalExecutor):
    """Dies after so many batches of outcomes."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def train(self, *args: object, **more: object):
        for outcomes in super().train(*args, **more):  # type: ignore[arg-type]
            yield outcomes
            self.left -= 1
            if self.left <= 0:
                raise Interrupted


@pytest.mark.slow
def test_a_study_that_dies_among_its_finalists_goes_on_to_the_same_bits(settings: Settings) -> None:
    study, view = screened(settings)
    with pytest.raises(Interrupted):
        train_finals(study, view, DyingExecutor(1))
    begun = study.store.final_trials(study.id)
    assert 0 < len(begun) < 20
    finals = train_finals(study, study.view(), LocalExecutor())
    kept = read_predictions(settings.workspace.final_predictions(study.id))
    other = replace(settings, workspace=replace(settings.workspace, home=settings.workspace.home / "other"),
                    store_url=f"{settings.store_url}.other")  # fmt: skip
    again, _ = screened(other)
    assert train_finals(again, again.view(), LocalExecutor()) == finals
    same = read_predictions(other.workspace.final_predictions(again.id))
    assert kept is not None
    assert same is not None
    ids = [one.design.design_id for one in study.store.final_trials(study.id) if one.stage == "folds"]
    np.testing.assert_array_equal(kept.of(ids), same.of(ids))
    for one in study.store.final_trials(study.id):
        paths = [x.workspace.final_weights(y.id, one.design.design_id)
                 for x, y in ((settings, study), (other, again))]  # fmt: skip
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.slow
def test_finalists_stand_first_by_the_mean_of_their_trainings(settings: Settings) -> None:
    study, view = whole(settings, STOPPED)
    finals = view.finals
    assert finals is not None
    trained = study.store.final_trials(study.id)
    for one, place in zip(finals.finalists, view.leaderboard, strict=False):
        scores = [
            float(x.trial.score or 0) for x in trained if x.stage == "folds" and x.finalist == one.design_id
        ]
        assert len(scores) == one.trainings == 5
        assert one.score == pytest.approx(np.mean(scores))
        assert one.spread == pytest.approx(np.std(scores, ddof=1))
        assert (place.design_id, place.score, place.is_finalist) == (one.design_id, one.score, True)
    assert [one.score for one in finals.finalists] == sorted(
        (x.score for x in finals.finalists), reverse=True
    )
    assert {place.design_id for place in view.screen[:4]} == {one.design_id for one in finals.finalists}
    assert not view.leaderboard[4].is_finalist
    refits = [one for one in trained if one.stage == "refit"]
    assert {one.finalist for one in refits} == {one.design_id for one in finals.finalists[:3]}
    for refit in refits:
        assert refit.design.epochs == finals.of(refit.finalist).epochs
        assert (refit.design.early_stopping, refit.trial.score) == (None, None)


@pytest.mark.slow
def test_each_row_is_predicted_by_networks_that_were_not_fitted_to_it(settings: Settings) -> None:
    study, view = screened(settings)
    finals = train_finals(study, view, LocalExecutor())
    assert finals is not None
    kept = read_predictions(settings.workspace.final_predictions(study.id))
    assert kept is not None
    for one in study.store.final_trials(study.id):
        if one.stage == "folds":
            values = kept.of([one.design.design_id])
            assert values is not None
            found = values[0]
            held = study.dataset.part(Part(folds=5, fold=one.fold))[1]
            np.testing.assert_array_equal(np.flatnonzero(~np.isnan(found[:, 0])), held)
            right = (found[held].argmax(axis=1) == study.dataset.labels("train")[held]).mean()
            assert right == pytest.approx(one.trial.score)
    assert finals.rows == study.dataset.rows["train"]


@pytest.mark.slow
def test_the_ensemble_is_one_keras_model_that_gives_what_is_said_of_it(settings: Settings) -> None:
    study, view = whole(settings)
    (said,) = [one for one in view.tested if one.kind == "ensemble"]
    finals = view.finals
    assert finals is not None
    path = settings.workspace.ensemble(study.id)
    features, labels = study.dataset.arrays("test")
    model = load_model(path)
    raw = study.dataset.inverse(features)
    predicted = model.predict(raw)["prediction"].to_numpy()
    assert (predicted == study.dataset.label_names(labels)).mean() == said.score
    plain = keras.saving.load_model(path, compile=False)
    outputs = np.asarray(plain(features))
    np.testing.assert_allclose(outputs.sum(axis=1), 1.0, rtol=1e-5)
    members = model.about["members"]
    assert sum(one["share"] for one in members) == pytest.approx(1.0)
    assert len(members) == 5 * len(finals.ensemble)
    assert f"{said.short}: {100 * said.score:.1f} %" in view.sentence


@pytest.mark.slow
def test_no_label_of_a_test_row_has_a_say_in_finalists(settings: Settings, tmp_path: object) -> None:
    """Poisoned test labels change the test numbers and not one bit of anything else."""
    found = []
    for name in ("clean", "poisoned"):
        source = table(tmp_path / f"{name}.csv", poisoned=name == "poisoned")  # type: ignore[operator]
        found.append(whole(settings, f"dataset.source={source}", "dataset.label=kind",
                           "evaluation.split=which", "designs=12"))  # fmt: skip
    (clean, clean_view), (poisoned, poisoned_view) = found
    assert clean_view.finals == poisoned_view.finals
    for right, wrong in zip(clean_view.tested, poisoned_view.tested, strict=True):
        assert (right.name, right.selected) == (wrong.name, wrong.selected)
    for one in clean.store.final_trials(clean.id):
        name = one.design.design_id
        weights = [
            settings.workspace.final_weights(study.id, name).read_bytes() for study in (clean, poisoned)
        ]
        assert weights[0] == weights[1]


@pytest.mark.slow
def test_what_was_tested_stays_when_weights_are_gone(settings: Settings) -> None:
    study, view = whole(settings)
    for one in study.store.final_trials(study.id):
        settings.workspace.final_weights(study.id, one.design.design_id).unlink()
    assert hand_out(study, study.view())[1] == view.tested


@pytest.mark.slow
def test_finalists_are_trained_anew_with_what_failed(settings: Settings) -> None:
    study, view = screened(settings)
    train_finals(study, view, LocalExecutor())
    assert study.forget_failed() == 0
    before = {one.design.design_id for one in study.store.final_trials(study.id)}
    design = Design(seed=99)
    error = TrialError("MemoryError", "too big", "")
    lost = Trial(design_id=design.design_id, state=TrialState.FAILED, engine="keras", error=error)
    study.store.add_final_trials(
        study.id, [FinalTrial("folds", view.screen[0].design_id, design, 0, 1, lost)]
    )
    assert study.forget_failed() == 1
    assert study.store.final_trials(study.id) == []
    assert study.is_trained
    train_finals(study, study.view(), LocalExecutor())
    assert {one.design.design_id for one in study.store.final_trials(study.id)} == before


def test_finalists_take_no_more_than_their_share(settings: Settings) -> None:
    _, view = screened(settings)
    work = (view.trials["flops"] * view.trials["epochs_run"]).astype(float)
    for share in (0.1, 0.5, 0.8):
        chosen = finalists_of(view, FinalOptions(finalists=20, finalists_share=share), 5)
        assert chosen == [place.design_id for place in view.screen[: len(chosen)]]
        spent = 6 * work.set_axis(view.trials["design_id"])[chosen].sum()  # five folds and a refit
        assert spent / (spent + work.sum()) <= share or len(chosen) == 3
    assert len(finalists_of(view, FinalOptions(finalists=2, finalists_share=0.99), 5)) == 2


def test_folds_are_by_the_size_of_the_table(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin_study(pipeline(*FEW), settings)
    assert parts_of(study, FinalOptions()) == [(Part(folds=5, fold=fold), 0) for fold in range(5)]
    twice = parts_of(study, FinalOptions(folds=3, repeats=2))
    assert twice == [(Part(folds=3, fold=fold, repeat=repeat), repeat)
                     for repeat in range(2) for fold in range(3)]  # fmt: skip
    monkeypatch.setattr("dnnflow.run.final_stage.SMALL_ROWS", 100)
    assert parts_of(study, FinalOptions()) == [(Part(holdout=0.2), repeat) for repeat in range(3)]
    monkeypatch.setattr("dnnflow.run.final_stage.FOLDS", 100)
    with pytest.raises(InputError, match="121 folds need at least 121 training rows"):
        parts_of(study, FinalOptions(folds=100).model_copy(update={"folds": 121}))


@pytest.mark.slow
def test_with_a_holdout_each_finalist_has_several_seeds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnflow.run.final_stage.SMALL_ROWS", 10)
    study, view = whole(settings)
    assert view.finals is not None
    assert [one.trainings for one in view.finals.finalists] == [3] * 4
    assert view.finals.rows == 24
    seeds = {one.design.seed for one in study.store.final_trials(study.id) if one.stage == "folds"}
    assert seeds == {1, 2, 3}


def test_without_validation_rows_or_finalists_there_is_no_such_stage(settings: Settings) -> None:
    for override in ("evaluation.select_on=test", "evaluation.finalists=0"):
        study = begin_study(pipeline("space.seed=0", override), settings)
        study.train(LocalExecutor())
        assert not has_finals(study, study.view())
        assert load_finals(study.store, study.record, settings.workspace) is None


@pytest.mark.slow
def test_the_smallest_wins_where_it_is_preferred(settings: Settings) -> None:
    _, view = whole(settings, "evaluation.prefer=small", "outputs.models=1")
    finals = view.finals
    assert finals is not None
    equal = [one for one, told in zip(finals.finalists, finals.apart, strict=True) if not told]
    assert finals.winner == min(equal, key=lambda one: one.parameters or 0).design_id
    assert view.tested[0].design_id == finals.winner
    assert view.sentence.startswith(f"{view.tested[0].short}: ")


@pytest.mark.slow
def test_other_options_for_finalists_are_other_trainings_and_other_tests(settings: Settings) -> None:
    """A finished study of the same key takes no training and no number of other options for its own."""
    study, view = whole(settings)
    again, other = whole(settings, "evaluation.folds=3")
    assert again.id == study.id
    assert other.finals is not None
    assert {one.trainings for one in other.finals.finalists} == {3}
    ensembles = [next(one for one in each.tested if one.kind == "ensemble") for each in (view, other)]
    assert ensembles[0].model_id != ensembles[1].model_id
    features, labels = again.dataset.arrays("test")
    predicted = load_model(settings.workspace.ensemble(again.id)).predict(again.dataset.inverse(features))
    right = predicted["prediction"].to_numpy() == again.dataset.label_names(labels)
    assert right.mean() == ensembles[1].score
    home = replace(settings.workspace, home=settings.workspace.home / "fresh")
    fresh = replace(settings, store_url=f"{settings.store_url}.fresh", workspace=home)
    anew = whole(fresh, "evaluation.folds=3")[1]
    assert (anew.finals, anew.tested) == (other.finals, other.tested)


@pytest.mark.slow
def test_baselines_are_fitted_to_the_rows_of_the_models_beside_them(settings: Settings) -> None:
    """A study without finalists has baselines of the screen's rows; they are none of one with finalists."""
    study, view = screened(settings, "evaluation.finalists=0")
    before = measure_once(study, view).tested
    again, after = whole(settings)
    assert again.id == study.id
    home = replace(settings.workspace, home=settings.workspace.home / "fresh")
    fresh = whole(replace(settings, store_url=f"{settings.store_url}.fresh", workspace=home))[1].tested
    baselines = [[one for one in each if one.kind == "baseline"] for each in (before, after.tested, fresh)]
    assert baselines[1] == baselines[2] != baselines[0]


@pytest.mark.slow
def test_seeds_repeat_designs(settings: Settings) -> None:
    study = begin_study(pipeline("space.seed={int: [0, 2]}", "evaluation.finalists=3"), settings)
    study.train(LocalExecutor())
    view = study.view()
    designs = {design.design_id: design for design in study.designs}
    assert view.noise is not None
    assert view.noise.designs == len(designs) / 3
    trials = study.trials().set_index("design_id")["score"]
    for place in view.leaderboard:
        group = [one.design_id for one in designs.values()
                 if one.unseeded_id == designs[place.design_id].unseeded_id]  # fmt: skip
        assert (place.trainings, len(group)) == (3, 3)
        assert place.score == pytest.approx(trials[group].mean())
        assert place.spread == pytest.approx(trials[group].std())
    view = finalists(study, aggregate(study), LocalExecutor())
    assert len([place for place in view.leaderboard if place.is_finalist]) == 3
    assert isinstance(view.trials, pd.DataFrame)
