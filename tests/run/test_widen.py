"""A study whose best designs lie at the edge of its space is followed by a wider one."""

from dataclasses import replace

import pytest

from dnnflow.design.edges import Edge
from dnnflow.errors import NotFoundError, StudyError
from dnnflow.execute.local import LocalExecutor
from dnnflow.results.store.run_record import RunState
from dnnflow.run.widen import follow_up, space_changes, widened_pipeline, wider_study
from dnnflow.settings import Settings
from tests.conftest import begin_study
from tests.run.test_final_test import pipeline


def test_the_wider_study_is_another_one_of_the_same_table(settings: Settings) -> None:
    given = pipeline("space.seed=0", "space.epochs=1", "space.units={choice: [1, 2]}", "space.depth=1")
    with pytest.raises(NotFoundError, match="run it without --widen first"):
        follow_up(given, settings)
    study = begin_study(given, settings)
    study.train(LocalExecutor())
    study.store.end(study.id, RunState.FINISHED)
    assert study.view().edges
    wider, edges = follow_up(given, settings)
    assert edges == study.view().edges
    assert {one.parameter for one in edges} >= {"epochs"}
    assert wider.space.epochs == 4
    assert wider.dataset == given.dataset
    assert begin_study(wider, settings).id != study.id
    with pytest.raises(NotFoundError):
        follow_up(wider, settings)


def test_a_study_inside_its_space_has_nothing_to_widen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pipeline("space.seed=0", "space.epochs=1", "designs=2")
    study = begin_study(given, settings)
    study.store.end(study.id, RunState.FINISHED)
    monkeypatch.setattr("dnnflow.results.view.study_view.edges_of", lambda *given: ())
    with pytest.raises(StudyError, match="lie inside; add designs or rows instead"):
        follow_up(given, settings)


def test_a_wider_pipeline_says_all_that_the_first_said() -> None:
    given = pipeline("evaluation.finalists=7")
    wider = widened_pipeline(given, (Edge("units", "high", 16),))
    assert wider.evaluation == given.evaluation
    assert wider.space.units != given.space.units


def test_a_stored_study_is_followed_by_its_id(settings: Settings) -> None:
    study = begin_study(pipeline("space.units={choice: [1, 2]}", "space.depth=1"), settings)
    edges = (Edge("units", "high", 2),)
    wider = wider_study(study.record, edges)
    assert space_changes(study.pipeline, wider) == {
        "units": ({"choice": [1, 2]}, wider.plain()["space"]["units"])
    }
    assert wider.dataset == study.pipeline.dataset
    with pytest.raises(StudyError, match="lie inside; add designs or rows instead"):
        wider_study(study.record, ())


def test_what_is_stored_without_credentials_or_by_another_version_is_not_followed(settings: Settings) -> None:
    record, edges = begin_study(pipeline(), settings).record, (Edge("units", "high", 2),)
    masked = {**record.pipeline["dataset"], "storage_options": {"key": "…"}}
    with pytest.raises(StudyError, match="needs credentials, which are not stored"):
        wider_study(replace(record, pipeline={**record.pipeline, "dataset": masked}), edges)
    with pytest.raises(StudyError, match="is of another version"):
        wider_study(replace(record, pipeline={**record.pipeline, "wings": 2}), edges)
