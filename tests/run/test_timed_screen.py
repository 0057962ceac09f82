"""A study that has a time uses it, and is the study of the number of designs that came of it."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnnflow.api import open_study, run_study
from dnnflow.engines.records import FinalOptions
from dnnflow.events import Event, Notice, TrialsStored, ignore
from dnnflow.execute.local import LocalExecutor
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunState
from dnnflow.run import timed_screen
from dnnflow.run.study import shards
from dnnflow.run.timed_screen import EndTime, designs_that_fit, first_designs, with_designs
from dnnflow.run.widen import study_of
from dnnflow.settings import Settings
from tests.conftest import PIPELINES, begin_study

SPACE: dict[str, Any] = {
    "depth": 1, "units": {"choice": [4, 8]}, "epochs": 3, "learning_rate": {"loguniform": [0.001, 0.1]},
}  # fmt: skip


def pipeline(**more: Any) -> Pipeline:
    plain = {
        "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"}, "space": SPACE,
        "executor": {"kind": "in-process"}, "evaluation": {"finalists": 3}, "outputs": {"models": 1},
        "minutes": 5,
    }  # fmt: skip
    return Pipeline.model_validate({**plain, **more})


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch):
    """Say how many designs fit, round by round, whatever the machine takes."""

    def say(*numbers: int) -> None:
        left = iter(numbers)
        monkeypatch.setattr(timed_screen, "ROUND_SHARE", 1.0)
        monkeypatch.setattr(timed_screen, "LEAST_SHARE", 0.0)
        monkeypatch.setattr(timed_screen, "MOST_SHARE", 1e9)
        monkeypatch.setattr(timed_screen, "designs_that_fit", lambda have, *more: next(left, have))

    return say


@given(
    have=st.integers(1, 200), left_s=st.floats(0, 1e4), design_s=st.floats(1e-3, 10), end_s=st.floats(0, 100)
)
def test_as_many_designs_fit_as_leave_time_for_what_follows(
    have: int, left_s: float, design_s: float, end_s: float
) -> None:
    def ends(total: int) -> float:
        return end_s + 0.3 * design_s * min(total, 20)

    fit = designs_that_fit(have, left_s, design_s, ends)
    assert have <= fit <= timed_screen.MOST_DESIGNS
    if fit > have:
        assert (fit - have) * design_s + ends(fit) <= left_s
    if fit < timed_screen.MOST_DESIGNS:
        assert (fit + 1 - have) * design_s + ends(fit + 1) > left_s


def test_more_designs_have_more_finalists_up_to_their_number() -> None:
    options = FinalOptions(finalists=10, ensemble=4)
    end_s = EndTime(np.full(10, 2.0), np.full(10, 1.0), 1.0, trainings=5, options=options, members=2)
    taken = [end_s(designs) for designs in (1, 3, 10, 100, 200, 1000)]
    assert all(first <= second for first, second in pairwise(taken))
    assert end_s(1) < end_s(3) == end_s(10)  # three are trained whatever they take
    assert end_s(1000) == timed_screen.END_S + 10 * 6 * 2.0 + 1.25 * 2 * 5 * 2.0
    none = EndTime(np.empty(0), np.empty(0), 1.0, trainings=0, options=FinalOptions(finalists=0), members=0)
    assert none(1000) == timed_screen.END_S


@pytest.mark.parametrize("length", range(1, 14))
def test_what_is_drawn_first_is_drawn_of_more_designs_too(length: int) -> None:
    """Of a space that can be counted, too, from half of which on others are drawn."""
    space = {"depth": 1, "units": {"int": [1, length]}, "epochs": 1}
    asked = pipeline(space=space)
    first = first_designs(asked)
    sizes = {timed_screen._drawable(wanted, asked) for wanted in range(len(first), 20)}
    assert max(sizes) == length
    for size in sizes:
        found = {one.design_id for one in draw_designs(with_designs(asked, size))}
        assert found >= {one.design_id for one in first}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"designs": 3}, "got designs=3 and minutes=5; leave one of them out"),
        ({"strategy": "grid", "space": {"depth": 1}}, "got strategy grid; set strategy: random"),
        ({"minutes": 0}, "greater than 0"),
        ({"minutes": None}, "add designs: 100 or minutes: 5"),
    ],
)
def test_a_time_stands_for_a_number_of_drawn_designs(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pipeline(**more)


def test_a_study_by_time_is_one_part_until_its_number_is_known(settings: Settings) -> None:
    study = begin_study(pipeline(), settings)
    assert (len(study.designs), study.is_trained, len(shards(study))) == (4, False, 1)
    assert begin_study(pipeline(), settings).id == study.id
    assert begin_study(pipeline(minutes=6), settings).id != study.id
    assert begin_study(pipeline(seed=1), settings).id != study.id


SCORES = ["design_id", "score", "loss", "train_score", "epochs_run"]


def scores(study: Any) -> pd.DataFrame:
    return study.trials()[SCORES].sort_values("design_id", ignore_index=True)


@pytest.mark.slow
def test_a_study_by_time_is_the_one_of_its_number_of_designs(settings: Settings, rounds: Any) -> None:
    rounds(10, 10, 17)
    heard: list[Event] = []
    study = run_study(pipeline(), settings=settings, listener=heard.append)
    assert (study.pipeline.designs, study.pipeline.minutes, len(study.designs)) == (10, None, 10)
    assert study.record.state is RunState.FINISHED
    told = [one.message for one in heard if isinstance(one, Notice)]
    assert any("goes on to 10 designs" in one for one in told)
    left = [one.eta_s for one in heard if isinstance(one, TrialsStored)]
    assert all(one is not None and 0 <= one <= 300 for one in left)
    # The same description finds it, finished
    assert run_study(pipeline(), settings=settings, listener=ignore).id == study.id
    assert open_study(study.id, settings=settings).finish(listener=ignore).pipeline.designs == 10
    assert study_of(pipeline(), study.store) is not None
    # A number of designs comes to the same
    plain = {name: value for name, value in pipeline().plain().items() if name != "minutes"}
    other = run_study({**plain, "designs": 10}, settings=settings, listener=ignore)
    assert other.id != study.id
    assert [one.design_id for one in other.designs] == [one.design_id for one in study.designs]
    pd.testing.assert_frame_equal(scores(study), scores(other))
    assert [one.score for one in study.view().tested] == [one.score for one in other.view().tested]
    assert [one.name for one in study.view().tested] == [one.name for one in other.view().tested]


@pytest.mark.slow
def test_a_study_by_time_that_is_interrupted_goes_on(settings: Settings, rounds: Any) -> None:
    rounds(9)

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialsStored) and event.total == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(pipeline(), settings=settings, listener=interrupt)
    (record,) = studies_of(settings)
    assert (record.n_designs, record.state, record.pipeline["minutes"]) == (9, RunState.STOPPED, 5)
    rounds(12)
    study = run_study(pipeline(), settings=settings, listener=ignore)
    assert (study.id, len(study.trials())) == (record.run_id, 12)
    assert study.pipeline.designs == 12


def studies_of(settings: Settings) -> list[Any]:
    from dnnflow.results.store.store import Store

    with Store(settings.store_url) as store:
        return store.studies()


@pytest.mark.slow
def test_a_whole_space_is_enough(settings: Settings, rounds: Any) -> None:
    rounds(100, 100)
    space = {"depth": 1, "units": {"int": [1, 12]}, "epochs": 1}
    study = run_study(pipeline(space=space), settings=settings, listener=ignore)
    assert study.pipeline.designs == len(study.trials()) == 12


@pytest.mark.slow
def test_designs_that_all_fail_end_the_study(settings: Settings, tmp_path: Path, rounds: Any) -> None:
    rounds(50, 50)
    failing = {"training": {"time_limit_s": 1e-9}}
    heard: list[Event] = []
    study = run_study(pipeline(**failing), settings=settings, listener=heard.append)
    assert len(study.designs) == 4
    assert study.record.state is RunState.FAILED
    assert any(isinstance(one, Notice) and "none of 4 designs completed" in one.message for one in heard)


@pytest.mark.slow
def test_a_round_trains_its_own_designs_alone(
    settings: Settings, rounds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the stacks of rounds before, of which those of all designs have members."""
    trained: list[str] = []
    train = LocalExecutor.train

    def count(self: LocalExecutor, portions: Any, *given: Any, **more: Any) -> Any:
        trained.extend(design.design_id for portion in portions for design in portion.designs)
        return train(self, portions, *given, **more)

    monkeypatch.setattr(LocalExecutor, "train", count)
    rounds(12, 30)
    study = run_study(pipeline(evaluation={"finalists": 0}), settings=settings, listener=ignore)
    assert sorted(trained) == sorted(one.design_id for one in study.designs)
    assert len(trained) == 30
