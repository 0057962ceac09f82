"""After the test, what is handed out is trained once more on all rows, test rows too."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from dnnflow.engines.keras.build import build_model
from dnnflow.engines.records import Portion
from dnnflow.events import Event, FinalsProgress, Notice, Stage, StageStarted
from dnnflow.execute.local import LocalExecutor
from dnnflow.results.view.next_steps import next_steps
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.adjustment import tempered
from dnnflow.run.execute import finalists, fit_all_rows, measure_once
from dnnflow.run.models.saved_model import load_model, read_about, read_weights
from dnnflow.run.run import StudyRun
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from tests.golden.outcomes import weights_of
from tests.run.test_final_stage import FEW, Interrupted, screened, whole
from tests.run.test_final_test import pipeline, table

STOPPED = "space.early_stopping={patience: 2}"
PLATEAU = "space.schedule={kind: plateau, parameters: {patience: 1}}"


class NeverExecutor(LocalExecutor):
    """Trains nothing: a study that asks it has nothing to train."""

    def train(self, *args: object, **more: object):
        raise AssertionError("something was trained again")
        yield


class FirstExecutor(LocalExecutor):
    """Dies after the first portion."""

    def train(self, portions: Sequence[Portion], *args: object, **more: object):
        yield from super().train(portions[:1], *args, **more)  # type: ignore[arg-type]
        raise Interrupted


def fitted(settings: Settings, *overrides: str) -> tuple[Study, StudyView]:
    study, view = whole(settings, *overrides)
    return study, fit_all_rows(study, view, LocalExecutor())


def at(settings: Settings, name: str) -> Settings:
    """Return the settings of another home."""
    workspace = replace(settings.workspace, home=settings.workspace.home / name)
    return replace(settings, workspace=workspace, store_url=f"{settings.store_url}.{name}")


def final_designs(study: Study) -> dict[str, str]:
    """Return what was trained on all rows → the design of the study that it is of."""
    found = study.store.final_trials(study.id)
    return {one.design.design_id: one.finalist for one in found if one.stage == "final"}


@pytest.mark.slow
@pytest.mark.parametrize("is_folded", [True, False])
def test_the_file_is_the_mean_of_networks_that_were_trained_on_all_rows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, is_folded: bool
) -> None:
    if not is_folded:
        monkeypatch.setattr("dnnflow.run.final_stage.SMALL_ROWS", 100)
    study, view = fitted(settings, STOPPED)
    finals, path = view.finals, settings.workspace.final_model(study.id)
    assert finals is not None
    trained = study.store.final_trials(study.id)
    mine = [one for one in trained if one.stage == "final"]
    networks = 5 if is_folded else 3
    assert len(mine) == networks * len(finals.ensemble)
    assert len({one.design.design_id for one in trained}) == len(trained)
    for one in mine:
        if is_folded:  # stopped by its fold of all rows
            assert sum(map(sum, one.trial.confusion)) == 30
            assert one.design.early_stopping is not None
        else:
            assert one.design.epochs == finals.of(one.finalist).epochs
            assert (one.design.early_stopping, one.trial.score) == (None, None)
    dataset, (tested,) = study.dataset, [one for one in view.tested if one.kind == "ensemble"]
    features, labels = dataset.arrays("test")
    mean, total = np.zeros((len(labels), dataset.n_outputs)), sum(finals.ensemble.values())
    for one in mine:
        network = build_model(one.design, dataset.n_features, dataset.n_outputs)
        network.set_weights(read_weights(settings.workspace.final_weights(study.id, one.design.design_id)))
        mean += np.asarray(network(features)) * finals.ensemble[one.finalist] / total / networks
    plain = keras.saving.load_model(path, compile=False, safe_mode=True)
    expected = tempered(dataset.task, mean, tested.temperature)
    np.testing.assert_allclose(np.asarray(plain(features)), expected, atol=1e-5)
    assert tested.temperature != 1.0
    about = read_about(path)
    assert (about["rows"], view.final_rows, study.view().final_rows) == (150, 150, 150)
    assert about["tested_before"] == tested.to_dict()
    assert not {"tested", "score"} & set(about)
    assert about["name"].endswith(f"({len(mine)} networks), trained on all 150 rows")
    assert about["calibration"] == tested.calibration
    raw = dataset.inverse(features)
    raw["species"] = dataset.label_names(labels)
    assert load_model(path).score(raw).fitted_rows == 150
    ensemble = load_model(settings.workspace.ensemble(study.id)).score(raw)
    assert (ensemble.measures["accuracy"], ensemble.fitted_rows) == (tested.score, None)


@pytest.mark.slow
def test_a_study_that_dies_among_its_last_trainings_goes_on_to_the_same_bits(settings: Settings) -> None:
    engine = "training.engine=compiled"  # one network a portion
    study, view = whole(settings, engine)
    with pytest.raises(Interrupted):
        fit_all_rows(study, view, FirstExecutor())
    begun = final_designs(study)
    assert not settings.workspace.final_model(study.id).is_file()
    assert study.view().final_rows is None
    view = measure_once(study, finalists(study, study.view(), NeverExecutor()))
    fit_all_rows(study, view, LocalExecutor())
    other = at(settings, "other")
    again, _ = fitted(other, engine)
    assert 0 < len(begun) < len(final_designs(study))
    assert final_designs(study) == final_designs(again)
    for one in final_designs(study):
        same = [x.workspace.final_weights(y.id, one).read_bytes()
                for x, y in ((settings, study), (other, again))]  # fmt: skip
        assert same[0] == same[1]
    files = [weights_of(x.workspace.final_model(y.id)) for x, y in ((settings, study), (other, again))]
    assert files[0].keys() == files[1].keys()
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])


@pytest.mark.slow
def test_test_rows_have_a_say_in_it_and_in_nothing_else(settings: Settings, tmp_path: Path) -> None:
    """Poisoned test labels change the model on all rows, and no other."""
    found: dict[str, list[dict[str, np.ndarray]]] = {"ensemble": [], "final_model": []}
    for name in ("clean", "poisoned"):
        source = table(tmp_path / f"{name}.csv", poisoned=name == "poisoned")
        study, _ = fitted(settings, f"dataset.source={source}", "dataset.label=kind",
                          "evaluation.split=which", "designs=12")  # fmt: skip
        for kind, files in found.items():
            files.append(weights_of(getattr(settings.workspace, kind)(study.id)))
    for kind, (clean, poisoned) in found.items():
        assert clean.keys() == poisoned.keys()
        is_same = all(np.array_equal(clean[name], poisoned[name]) for name in clean)
        assert is_same is (kind == "ensemble")


@pytest.mark.slow
@pytest.mark.parametrize("override", ["evaluation.ensemble=0", "evaluation.prefer=small"])
def test_without_an_ensemble_it_is_the_winner(settings: Settings, override: str) -> None:
    study, view = fitted(settings, override)
    assert view.finals is not None
    assert list(final_designs(study).values()) == [view.finals.winner]
    about = read_about(settings.workspace.final_model(study.id))
    assert (about["design_id"], about["tested_before"]["rank"]) == (view.finals.winner, view.tested[0].rank)
    model = next_steps(view, "models")[-2]
    assert (model.model, model.command) == ("final", "dnnflow predict models/final.keras ROWS.csv")
    assert "trained once more on all 150 rows. None is left to measure that on" in model.text


@pytest.mark.slow
def test_a_plateau_schedule_keeps_rows_to_watch(settings: Settings) -> None:
    study, view = fitted(settings, PLATEAU)
    assert view.final_rows == 150
    mine = [one for one in study.store.final_trials(study.id) if one.stage == "final"]
    assert {sum(map(sum, one.trial.confusion)) for one in mine} == {30}  # a fifth of 150
    assert all(one.design.schedule.kind == "plateau" for one in mine)


@pytest.mark.slow
def test_what_is_there_of_the_same_networks_is_not_trained_again(settings: Settings) -> None:
    study, view = fitted(settings)
    path = settings.workspace.final_model(study.id)
    for one in final_designs(study):
        settings.workspace.final_weights(study.id, one).unlink()
    written = path.read_bytes()
    view = measure_once(study, finalists(study, study.view(), NeverExecutor()))
    assert fit_all_rows(study, view, NeverExecutor()).final_rows == 150
    assert path.read_bytes() == written


@pytest.mark.slow
def test_other_members_are_another_model(settings: Settings) -> None:
    """A finished study of the same key takes no training of another ensemble for its own."""
    study, _ = fitted(settings)
    again, other = fitted(settings, "evaluation.folds=3", "evaluation.ensemble=2")
    assert again.id == study.id
    fresh, anew = fitted(at(settings, "fresh"), "evaluation.folds=3", "evaluation.ensemble=2")
    assert final_designs(again) == final_designs(fresh)
    assert (anew.tested, anew.final_rows) == (other.tested, other.final_rows)
    files = [weights_of(one.settings.workspace.final_model(one.id)) for one in (again, fresh)]
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0])


@pytest.mark.slow
def test_it_is_a_stage_of_its_own_unless_it_is_not_wanted(settings: Settings) -> None:
    from dnnflow.api import execute, run_study

    events: list[Event] = []
    study = run_study(pipeline(*FEW), settings=settings, listener=events.append)
    path = settings.workspace.final_model(study.id)
    assert path.is_file()
    assert {one.stage for one in events if isinstance(one, FinalsProgress)} == {Stage.FINALISTS, Stage.FINAL}
    events.clear()
    execute(StudyRun(pipeline(*FEW), settings), listener=events.append)  # it has finished before
    assert [one.stage for one in events if isinstance(one, StageStarted)] == [Stage.UPLOAD, Stage.PREPROCESS]
    study.store.tell(
        study.id, outcome={x: y for x, y in (study.record.outcome or {}).items() if x != "final"}
    )
    path.unlink()
    events.clear()
    execute(StudyRun(pipeline(*FEW), settings), listener=events.append)  # its process died before
    assert Stage.FINAL in [one.stage for one in events if isinstance(one, StageStarted)]
    assert path.is_file()
    for override in ("evaluation.all_rows=false", "evaluation.select_on=test", "evaluation.finalists=0"):
        other, events[:] = at(settings, override[-5:]), []
        study = run_study(pipeline(*FEW, override), settings=other, listener=events.append)
        assert Stage.FINAL not in [one.stage for one in events if isinstance(one, StageStarted)]
        assert not other.workspace.final_model(study.id).is_file()
        assert "final" not in {step.model for step in next_steps(study.view())}


@pytest.mark.slow
def test_rows_have_their_weights_in_it_too(settings: Settings, tmp_path: Path) -> None:
    lines = table(tmp_path / "plain.csv", poisoned=False).read_text().splitlines()
    heard: list[Event] = []
    for last, is_made in (("7.5", True), ("none", False)):
        weighed = [f"{line},{i % 3}" for i, line in enumerate(lines)]
        weighed[0], weighed[1] = f"{lines[0]},how", f"{lines[1]},{last}"  # of a test row
        source = tmp_path / f"{last}.csv"
        source.write_text("\n".join(weighed))
        study, view = whole(settings, f"dataset.source={source}", "dataset.label=kind", "designs=12",
                            "evaluation.split=which", "dataset.weights=how")  # fmt: skip
        view = fit_all_rows(study, view, LocalExecutor(), heard.append)
        assert (view.final_rows is not None) is is_made
        assert settings.workspace.final_model(study.id).is_file() is is_made
        told = [one.message for one in heard if isinstance(one, Notice) and "a weight >= 0" in one.message]
        assert bool(told) is not is_made


@pytest.mark.slow
def test_a_training_that_fails_is_told_and_costs_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, view = whole(settings)

    def fails(*shape: object) -> None:
        raise MemoryError("too big")

    heard: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr("dnnflow.table.store.whole_dataset.WholeDataset._load", fails)
        after = fit_all_rows(study, view, LocalExecutor(), heard.append)
    assert (after.final_rows, after.tested) == (None, view.tested)
    told = [one.message for one in heard if isinstance(one, Notice)]
    assert told[-1].startswith("no model on all rows is saved: not all of its ")
    assert not settings.workspace.final_model(study.id).is_file()


def test_a_screen_alone_is_not_trained_on_all_rows(settings: Settings) -> None:
    from dnnflow.run.final_stage import has_final_model

    study, view = screened(settings)
    assert not has_final_model(study, view)
