"""The leaderboard as people see it: scores of other rows stand apart, and figures only where they tell."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dnnflow.design.layers import Design, Layer
from dnnflow.engines.records import Trial, TrialState
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.results.view import tested as measured
from dnnflow.results.view.depth import bands, spectrum, time_fit
from dnnflow.results.view.finals import Finalist, Finals
from dnnflow.results.view.leaderboard import with_finals
from dnnflow.results.view.study_view import StudyView, load_view
from dnnflow.show.report import render_report
from dnnflow.show.study_figures import draw_study
from dnnflow.show.study_tables import (
    flops_differ,
    headline,
    is_depth_sweep,
    measured_section,
    place_sections,
    telling_fit,
)

TESTED = (
    measured.Tested(kind="design", name="1 x 9 relu, adam 0.001, batch 32", rank=1, design_id="d", score=0.93,
                    rows=300, selected=0.95),
    measured.Tested(kind="ensemble", name="an ensemble of 2 designs (4 networks)", score=0.94, rows=300),
    measured.Tested(kind="baseline", name="always 'a'", score=0.5, rows=300),
    measured.Tested(kind="baseline", name="logistic regression", score=0.9, rows=300),
)  # fmt: skip


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyView]:
    """Twenty designs after the screen, the first with the highest accuracy."""
    designs = [Design((Layer(8 + number),)) for number in range(20)]
    trials = [
        Trial(design_id=one.design_id, state=TrialState.COMPLETED, engine="keras", training_s=0.1,
              epochs_run=3, parameters=100 + number, flops=200 + number, score=(290 - number) / 300,
              confusion=((150, 0), (number + 10, 140 - number)))
        for number, one in enumerate(designs)
    ]  # fmt: skip
    record = RunRecord(run_id="s1", key="k" * 64, name="twenty", state=RunState.FINISHED, n_designs=20,
                       pipeline={"designs": 20}, dataset={"class_names": ["a", "b"]})  # fmt: skip
    with Store(f"sqlite:///{tmp_path_factory.mktemp('tables')}/results.db") as store:
        store.add_study(record, designs)
        store.add_trials(record.study_id, list(zip(designs, trials, strict=True)))
        yield load_view(store, record.study_id)


def finished(view: StudyView) -> StudyView:
    """Return the view with two finalists, the second of the screen before its first, and with tests."""
    finalists = tuple(
        Finalist(design_id=view.screen[place].design_id, score=score, spread=0.012, trainings=5, epochs=3,
                 parameters=100)
        for place, score in ((1, 0.91), (0, 0.90))
    )  # fmt: skip
    finals = Finals(finalists=finalists, rows=1200, apart=(False, False), winner=finalists[0].design_id)
    frame = pd.DataFrame([one.to_dict() for one in view.screen]).assign(rows=300)
    order = with_finals(frame, finals)["design_id"].tolist()
    known = {one.design_id: one for one in view.screen}
    scores = {one.design_id: one for one in finalists}
    places = [replace(known[one], rank=rank) for rank, one in enumerate(order, start=1)]
    places[:2] = [replace(one, score=scores[one.design_id].score, spread=0.012, trainings=5, is_finalist=True,
                          low=0.89, high=0.93) for one in places[:2]]  # fmt: skip
    return replace(view, leaderboard=tuple(places), finals=finals, tested=TESTED)


def test_finalists_and_the_screen_stand_apart_and_say_what_they_are(screened: StudyView) -> None:
    finalists, others = place_sections(finished(screened))
    assert finalists.note == (
        "trained 5 times each, mean ± spread, on 1,200 rows that each network was not fitted to"
    )
    assert [row.rank for row in finalists.rows] == ["1", "≈ 2"]
    assert (finalists.rows[0].score, finalists.rows[0].spread) == ("91.0 %", "± 1.2")
    assert "on 300 validation rows" in others.note
    assert "not to be compared with the numbers above" in others.note
    assert others.rows[0].rank == "≈ 3"
    assert others.rows[0].score > finalists.rows[0].score  # which is why they stand apart
    assert (len(finalists.rows), others.shown, len(others.rows)) == (2, 8, 18)


def test_without_finalists_there_is_one_section_of_ten_shown(screened: StudyView) -> None:
    (only,) = place_sections(screened)
    assert (only.note, only.shown, len(only.rows)) == ("on 300 validation rows", 10, 20)


def test_a_bar_spans_what_is_shown_and_what_lies_beyond_has_none(screened: StudyView) -> None:
    (only,) = place_sections(screened)
    shown = [row.bar for row in only.rows[:10] if row.bar]
    assert len(shown) == 10
    assert min(left for left, *_ in shown) == 0.0
    assert max(left + length for left, length, _ in shown) == pytest.approx(100.0, abs=0.2)
    tested = measured_section(finished(screened))
    assert tested is not None
    assert [row.bar is None for row in tested.rows] == [False, False, False, True]


def test_baselines_stand_beside_the_models_on_the_test_rows(screened: StudyView) -> None:
    assert measured_section(screened) is None
    tested = measured_section(finished(screened))
    assert tested is not None
    assert tested.note == "on 300 test rows, looked at once"
    assert [row.name for row in tested.rows][1:] == [
        "an ensemble of 2 designs (4 networks)", "logistic regression", "always 'a'",
    ]  # fmt: skip
    assert [row.model for row in tested.rows] == ["1", "ensemble", "", ""]
    assert (tested.rows[0].selected, tested.rows[2].selected) == ("95.0 %", "")


def test_the_first_numbers_are_those_of_the_test_rows_once_they_are_known(screened: StudyView) -> None:
    before = headline(screened)
    assert [one.label for one in before] == ["best accuracy", "designs", "as good as the best"]
    assert [one.value for one in headline(finished(screened))] == ["93.0 %", "94.0 %", "90.0 %"]


def test_the_report_begins_with_the_sentence_and_what_to_do_next(screened: StudyView) -> None:
    page = render_report(finished(screened))
    sentence, steps, board = (
        page.index(text) for text in ("1 x 9 relu: 93.0", "What to do next", "Finalists")
    )
    assert sentence < steps < board
    assert "dnnflow predict models/ensemble.keras ROWS.csv" in page


def sweep(view: StudyView, depths: int, *, noise_s: float = 0.0) -> StudyView:
    """Return the view with depths of 1 to so many, and times that grow with them."""
    trials = pd.concat([view.trials] * 4, ignore_index=True)
    depth = np.arange(len(trials)) % depths + 1
    spread = np.random.default_rng(0).normal(0, 1, len(trials))
    trials = trials.assign(depth=pd.array(depth, dtype="Int64"), training_s=0.1 * depth + noise_s * spread)
    by_depth = bands(trials, "score")
    return replace(view, trials=trials, score_by_depth=by_depth, spectrum=spectrum(by_depth),
                   time_by_depth=bands(trials, "training_s"), time_fit=time_fit(trials))  # fmt: skip


def test_a_spectrum_needs_sixteen_depths(screened: StudyView) -> None:
    for depths, is_drawn in ((15, False), (16, True)):
        shown = sweep(screened, depths)
        assert shown.spectrum is not None
        assert ("spectrum" in draw_study(shown)) is is_drawn
        assert is_depth_sweep(shown) is is_drawn


def test_the_figures_of_2015_are_open_in_a_study_of_depth_and_one_click_away_elsewhere(
    screened: StudyView,
) -> None:
    assert "<details open><summary>Hidden layers" in render_report(sweep(screened, 20))
    assert "<details><summary>Hidden layers" in render_report(sweep(screened, 4))


@pytest.mark.parametrize(("depths", "noise_s", "is_told"), [(5, 0.0, True), (4, 0.0, False), (5, 1.0, False)])
def test_a_line_through_times_is_told_where_it_explains_them(
    screened: StudyView, depths: int, noise_s: float, is_told: bool
) -> None:
    shown = sweep(screened, depths, noise_s=noise_s)
    assert shown.time_fit is not None
    assert (telling_fit(shown) is not None) is is_told
    assert ("The line fitted" in render_report(shown)) is is_told


def test_flops_are_drawn_where_they_are_no_multiple_of_the_weights(screened: StudyView) -> None:
    assert not flops_differ(screened.trials)
    trials = screened.trials.assign(flops=np.arange(1, 21) * 100)
    assert flops_differ(trials)
    assert "flops" in draw_study(replace(screened, trials=trials))
