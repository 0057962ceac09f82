"""The live page's plots have a name and tell their numbers, for those who do not see them."""

from dnnflow.events import TrialResult
from dnnflow.show.live.page import StudyPanel, TrainingPanel, numbers_as_text
from dnnflow.show.live.study_tally import StudyTally


def test_each_plot_of_the_live_page_has_a_role_and_a_name() -> None:
    for panel in (StudyPanel(), TrainingPanel()):
        named = [plot.html_attributes for plot in panel.plots.values()]
        assert {one["role"] for one in named} == {"img"}
        assert len({one["aria-label"] for one in named}) == len(named)


def test_legends_stand_outside_of_the_plots() -> None:
    for panel in (StudyPanel(), TrainingPanel()):
        for plot in panel.plots.values():
            assert not {type(one).__name__ for one in plot.center} & {"Legend"}


def test_the_numbers_of_plots_are_tables() -> None:
    tally, panel = StudyTally(3), StudyPanel()
    assert numbers_as_text(panel.plots) == "<p>No numbers yet.</p>"
    tally.add([TrialResult(2, 0.75, "", lambda: "2 x 8"), TrialResult(3, 0.5, "", lambda: "3 x 8")])
    panel.show(tally.numbers())
    told = numbers_as_text(panel.plots)
    assert "<h2>Best accuracy so far</h2><table>" in told
    assert "<td>0.75</td>" in told
