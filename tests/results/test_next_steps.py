"""What a person may do next is told where it applies, the most useful first."""

from dataclasses import replace
from typing import Any

import pytest

from dnnflow.design.edges import Edge
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.view import tested
from dnnflow.results.view.leaderboard import Noise
from dnnflow.results.view.next_steps import NextStep, next_steps
from dnnflow.results.view.study_view import StudyView

WINNER = tested.Tested(kind="design", name="2 x 8 relu, adam 0.1, batch 8", rank=1, design_id="d", score=0.93,
                       rows=360, selected=0.95)  # fmt: skip
ENSEMBLE = tested.Tested(kind="ensemble", name="an ensemble of 6 designs (30 networks)", score=0.9, rows=360,
                         selected=0.96)  # fmt: skip
WEAK = tested.Tested(kind="baseline", name="logistic regression", score=0.5, rows=360, selected=0.5)


def view(
    *measured: tested.Tested, equal: int = 30, edges: tuple[Edge, ...] = (), **evaluation: Any
) -> StudyView:
    """Return a view with what next steps are made from."""
    record = RunRecord(run_id="s1", name="iris", pipeline={"designs": 60, "evaluation": evaluation})
    noise = Noise(designs=60, rows=100, kind="validation", equal=equal, luck=0.0)
    nothing: Any = dict.fromkeys(
        ("counts", "trials", "finals", "marginals", "score_by_depth", "time_by_depth", "time_fit", "flatness",
         "spectrum", "curves", "best", "failures", "leaderboard", "screen"), ()
    )  # fmt: skip
    return StudyView(record=record, noise=noise, tested=measured, edges=edges, **nothing)


def kinds(steps: tuple[NextStep, ...]) -> list[str]:
    return [step.kind for step in steps]


def test_nothing_is_told_before_the_winner_is_measured() -> None:
    assert next_steps(view(WEAK)) == ()


def test_a_wider_space_comes_first_and_names_the_edge() -> None:
    edges = (Edge("learning_rate", "low", 0.001), Edge("epochs", "high", 8, is_rising=True))
    steps = next_steps(view(WINNER, WEAK, edges=edges))
    assert kinds(steps) == ["widen", "model", "score"]
    assert steps[0].text == (
        "The best have the lowest learning rate of the space, 0.001, and learning curves of the best still "
        "rise at the last of 8 epochs: a wider space may hold better designs."
    )
    assert steps[0].command == "dnnflow widen s1"


def test_more_rows_are_offered_where_they_leave_the_order_open() -> None:
    near = replace(WEAK, name="gradient boosting", score=0.94)
    rows = next_steps(view(WINNER, ENSEMBLE, near))[0]
    assert rows.kind == "rows"
    assert "360 test rows tell accuracy to ± 2.7 points" in rows.text
    assert "the winner from an ensemble of 6 or gradient boosting; 1,440 would" in rows.text
    assert rows.text.endswith("tell it to ± 1.3 points.")
    assert "rows" not in kinds(next_steps(view(WINNER, WEAK)))


@pytest.mark.parametrize(("equal", "is_offered"), [(1, True), (3, True), (4, False)])
def test_more_designs_are_offered_where_the_best_are_rare(equal: int, is_offered: bool) -> None:
    steps = next_steps(view(WINNER, WEAK, equal=equal))
    assert ("designs" in kinds(steps)) is is_offered
    if is_offered:
        assert steps[0].command == "dnnflow run FILE --set designs=240"


def test_the_ensemble_is_the_model_to_take_unless_a_small_one_is_asked_for() -> None:
    *_, model, score = next_steps(view(WINNER, ENSEMBLE, WEAK), "/home/models")
    assert model.text == "Predict new rows with an ensemble of 6 (90.0 % on the test rows)."
    assert model.command == "dnnflow predict /home/models/ensemble.keras ROWS.csv"
    assert (model.model, score.model) == ("ensemble", "ensemble")
    *_, model, _ = next_steps(view(replace(WINNER, rank=2), ENSEMBLE, prefer="small"))
    assert (model.model, model.command) == ("2", "dnnflow predict models/best-2.keras ROWS.csv")


def test_the_model_on_all_rows_is_taken_for_new_ones_and_is_told_to_be_unmeasured() -> None:
    *_, model, score = next_steps(replace(view(WINNER, ENSEMBLE, WEAK), final_rows=1797), "/home/models")
    assert model.text == (
        "Predict new rows with an ensemble of 6, trained once more on all 1,797 rows. None is left to "
        "measure that on: 90.0 % on the test rows is of the same designs without them."
    )
    assert model.command == "dnnflow predict /home/models/final.keras ROWS.csv"
    assert (model.model, score.model) == ("final", "final")
    *_, model, _ = next_steps(replace(view(WINNER, ENSEMBLE, prefer="small"), final_rows=10))
    assert model.text.startswith("Predict new rows with 2 x 8 relu, trained once more on all 10 rows.")


def test_designs_chosen_on_test_rows_are_told_first_and_four_steps_at_most() -> None:
    near = replace(WEAK, score=0.94)
    steps = next_steps(view(WINNER, near, edges=(Edge("units", "high", 64),), select_on="test"))
    assert kinds(steps) == ["validation", "widen", "model", "score"]
