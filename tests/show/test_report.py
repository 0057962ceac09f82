"""The report: one file that opens anywhere, tells the truth and runs nothing that a user typed."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bokeh.models import Legend, LinearScale, LogScale, Plot
from rich.console import Console

from dnnflow.design.layers import Design, Layer, Optimizer
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.results.view.depth import bands, flatness, time_fit, timed_alike
from dnnflow.results.view.study_view import StudyView, load_view
from dnnflow.show import study_figures as figures
from dnnflow.show import study_tables as tables
from dnnflow.show.plot_numbers import numbers_of
from dnnflow.show.report import render_report, write_report
from dnnflow.show.study_figures import draw_study
from dnnflow.show.study_tables import MOST_POINTS, Cells, Points
from dnnflow.show.terminal import leaderboard_table
from dnnflow.table.store.dataset import Dataset

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
PIPELINE = {
    "name": "digits",
    "dataset": {
        "source": "https://user:hunter2@example.org/d.csv",
        "label": "digit",
        "storage_options": {"key": "AKIA-SECRET", "client_kwargs": {"password": "hunter3"}},
    },
    "designs": 40,
}


def made_trials() -> list[tuple[Design, Trial]]:
    """Forty designs of four depths, two of them failed."""
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(40):
        depth, units = 1 + index % 4, int(2 ** rng.integers(3, 9))
        design = Design(
            (Layer(units),) * depth, optimizer=Optimizer("adam", float(10 ** rng.uniform(-4, -1)))
        )
        trial = Trial(
            design_id=design.design_id,
            state=TrialState.COMPLETED,
            engine="keras",
            training_s=0.1 * depth,
            parameters=units * 64,
            flops=units * 128,
            epochs_run=3,
            score=round(float(rng.uniform(0.8, 0.99)) * 300) / 300,
            history={"loss": (2.0, 1.0, 0.5), "accuracy": (0.3, 0.6, 0.9)},
            confusion=((95, 3, 2), (0, 100, 0), (7, 0, 93)),
        )
        if index < 2:
            error = TrialError("UserError", HOSTILE, "")
            trial = Trial(design_id=design.design_id, state=TrialState.FAILED, engine="keras", error=error)
        pairs.append((design, trial))
    return pairs


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory, iris: Dataset) -> Iterator[StudyView]:
    """A finished study whose every text is hostile."""
    pairs = made_trials()
    record = RunRecord(
        run_id="s0me-Study_id",
        key="k" * 64,
        name=f"digits {HOSTILE}",
        state=RunState.FINISHED,
        dataset_id="d" * 64,
        dataset_path="/data/d",
        n_designs=len(pairs),
        pipeline=PIPELINE,
        dataset={
            **iris.describe(),
            "label": HOSTILE,
            "rows": {"train": 1200, "test": 300},
            "n_features": 64,
            "class_names": [HOSTILE, "$$x$$", "three"],
            "class_counts": {"train": [400, 400, 400], "test": [100, 100, 100]},
        },
        dashboard="http://127.0.0.1:8787/status",
    )
    with Store(f"sqlite:///{tmp_path_factory.mktemp('report')}/results.db") as store:
        store.add_study(record, [design for design, _ in pairs])
        store.add_trials(record.study_id, pairs)
        yield load_view(store, record.study_id)


@pytest.fixture(scope="module")
def page(view: StudyView) -> str:
    """The study's report."""
    return render_report(view)


class Elements(HTMLParser):
    """Collects a page's elements and, without scripts and style sheets, its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.ids: set[str | None] = set()
        self.text = ""
        self._silent = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.ids.add(dict(attrs).get("id"))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    elements = Elements(page)
    loads = [(tag, attrs) for tag, attrs in elements.found if attrs.get("src") or (tag == "link")]
    assert loads == []
    links = [
        attrs["href"]
        for tag, attrs in elements.found
        if "href" in attrs and not (attrs["href"] or "").startswith("#")
    ]
    assert links == ["http://127.0.0.1:8787/status"]  # the dashboard, for a person to follow
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    policy = [
        attrs["content"]
        for _, attrs in elements.found
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")
    assert "http" not in policy[0]


def test_what_users_typed_is_text_and_nothing_else(page: str) -> None:
    assert not re.search(r"<script>alert", page, re.IGNORECASE)
    assert not re.search(r"<img\b", page, re.IGNORECASE)
    elements = Elements(page)
    assert HOSTILE in elements.text
    scripts = [attrs for tag, attrs in elements.found if tag == "script"]
    assert len(scripts) <= 4


def test_the_page_keeps_secrets(page: str) -> None:
    assert "hunter" not in page
    assert "AKIA-SECRET" not in page
    assert "https://***@example.org/d.csv" in page


def test_the_summary_says_where_the_table_was(view: StudyView) -> None:
    assert dict(tables.summary(view))["Source"] == "https://***@example.org/d.csv"


def test_every_part_is_there(page: str, view: StudyView) -> None:
    elements = Elements(page)
    parts = "summary leaderboard layers time size parameters curves confusion depth failures again"
    assert set(parts.split()) <= elements.ids
    told = ["s0me-Study_id", "1,200", view.leaderboard[0].design, "dnnflow run pipeline.yaml"]
    told += ["better than it is", "UserError", "label: digit", "33.3 % accuracy"]
    assert [text for text in told if text not in elements.text] == []


def test_every_figure_has_its_place(page: str, view: StudyView) -> None:
    drawn = draw_study(view)
    names = "score time parameters curves-score curves-loss confusion"
    assert set(drawn) == {*names.split(), "marginal-0", "marginal-1", "marginal-2"}
    assert page.count('data-root-id="') == len(drawn)


def test_every_figure_can_be_read_as_numbers_and_no_legend_covers_one(view: StudyView) -> None:
    for name, plot in draw_study(view).items():
        tables_of_it = numbers_of(plot)
        assert tables_of_it, name
        assert all(len(row) == len(one.columns) for one in tables_of_it for row in one.rows), name
        assert not [one for one in plot.center if isinstance(one, Legend)], name


def test_a_figure_is_named_and_its_numbers_are_text(page: str, view: StudyView) -> None:
    elements = Elements(page)
    images = [attrs for _, attrs in elements.found if attrs.get("role") == "img"]
    assert len(images) == len(draw_study(view))
    assert all(attrs["aria-label"] for attrs in images)
    named = [attrs["aria-label"] for _, attrs in elements.found if attrs.get("role") == "region"]
    assert len(named) >= len(images)


def deep(view: StudyView, amortised: bool) -> StudyView:
    """Return the view with depths of 1 to 1,000 and times of a kind, which grow with them."""
    depths = np.tile(np.geomspace(1, 1000, 19).round().astype(int), 2)
    trials = view.trials.assign(
        depth=pd.array(depths, dtype="Int64"), amortised=amortised, training_s=0.01 + 0.002 * depths
    )
    return replace(
        view,
        trials=trials,
        leaderboard=tuple(replace(place, amortised=amortised) for place in view.leaderboard),
        score_by_depth=bands(trials, "score"),
        time_by_depth=bands(timed_alike(trials), "training_s"),
        time_fit=time_fit(trials),
        flatness=flatness(trials, majority=view.majority_rate),
    )


def in_terminal(view: StudyView) -> str:
    """Return what the terminal shows, without line breaks."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(leaderboard_table(view))
    return " ".join(console.export_text().split())


def test_depths_that_span_much_are_drawn_on_a_logarithmic_axis(view: StudyView) -> None:
    for figure in (draw_study(deep(view, True))["score"], draw_study(deep(view, True))["time"]):
        assert isinstance(figure.x_scale, LogScale)
    assert isinstance(draw_study(view)["score"].x_scale, LinearScale)
    assert not tables.spans_much(np.array([0.0, 100.0]))
    moved = tables.depth_points(deep(view, True).trials, "score")
    assert moved is not None
    ratio = moved.x / deep(view, True).trials["depth"].to_numpy(dtype=float)
    assert 1 < ratio.max() <= 1.03
    many_deep = deep(view, True)
    assert draw_study(replace(many_deep, trials=pd.concat([many_deep.trials] * 80)))["score"].renderers


@pytest.mark.slow
def test_the_accuracy_of_guessing_stands_in_the_figure_of_depth(view: StudyView) -> None:
    def legends(figure: Plot) -> set[str]:
        return {item.label.value for item in figure.legend[0].items}

    assert "always the largest class: 0.3333" in legends(draw_study(view)["score"])
    assert not any("largest" in text for text in legends(draw_study(view)["time"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("amortised", "told"), [(False, "measured alone"), (True, "share of a stack's time")]
)
def test_every_training_time_says_how_it_was_found(view: StudyView, amortised: bool, told: str) -> None:
    shown = deep(view, amortised)
    text = Elements(render_report(shown)).text
    assert f"Training time: {told}." in text
    assert f"The line fitted through 38 trials ({told}):" in text
    assert draw_study(shown)["time"].yaxis.axis_label == f"training time, s ({told})"
    said = in_terminal(shown)
    assert f"Seconds of training: {told}." in said
    assert f"38 trials, {told}." in said


def test_shares_among_measured_times_are_marked_and_not_compared(view: StudyView) -> None:
    trials = view.trials.assign(amortised=[True, *[False] * 37])
    places = (replace(view.leaderboard[0], amortised=True), *view.leaderboard[1:])
    by_depth = bands(timed_alike(trials), "training_s")
    text = Elements(
        render_report(replace(view, trials=trials, leaderboard=places, time_by_depth=by_depth))
    ).text
    first, second = (f"{place.training_s:.2f} s" for place in view.leaderboard[:2])
    assert f"{first}*" in text
    assert f"{second}*" not in text.replace(f"{first}*", "", 1)
    assert "*: share of a stack's time, the others are measured alone." in text
    assert "37 of 38 trials are shown" in text


def test_the_verdict_on_flatness_is_told_on_the_page_and_in_the_terminal(view: StudyView) -> None:
    shown = deep(view, False)
    assert shown.flatness is not None
    assert str(shown.flatness) in Elements(render_report(shown)).text
    assert "Flat beyond 500 hidden layers: too few (4 trials of 2 depths" in str(shown.flatness)
    said = in_terminal(shown)
    assert "Flat beyond 500 hidden layers: too few" in said


def test_links_inside_the_page_lead_somewhere(page: str) -> None:
    elements = Elements(page)
    targets = {attrs["href"][1:] for _, attrs in elements.found if (attrs.get("href") or "").startswith("#")}  # type: ignore[index]
    assert targets <= elements.ids


def test_an_address_that_is_a_script_is_no_link(view: StudyView) -> None:
    page = render_report(replace(view, record=replace(view.record, dashboard="javascript:alert(1)")))
    assert "javascript:alert" not in page


@pytest.mark.slow
def test_the_file_replaces_an_older_one_whole(view: StudyView, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(view, path)
    write_report(view, str(path))
    assert path.read_text().rstrip().endswith("</html>")
    assert list(path.parent.iterdir()) == [path]


def test_a_study_without_results_has_a_report(view: StudyView) -> None:
    nothing = replace(
        view, counts=dict.fromkeys(TrialState, 0), trials=view.trials.head(0), leaderboard=(), noise=None,
        marginals=(), score_by_depth=(), time_by_depth=(), time_fit=None, spectrum=None, curves=(),
        best=None, failures=(),
    )  # fmt: skip
    text = Elements(render_report(nothing)).text
    assert "No design has been trained to its end." in text
    assert "40 waiting" in text


# ---- many trials


def many(view: StudyView, count: int) -> StudyView:
    """Return a view of so many completed trials, made from the few by repetition with noise."""
    rng = np.random.default_rng(1)
    trials = view.trials.sample(count, replace=True, random_state=1, ignore_index=True)
    trials["score"] = (trials["score"] - rng.uniform(0, 0.1, count)).clip(0, 1)
    trials["parameters"] += rng.integers(0, 100_000, count)
    trials["training_s"] += rng.normal(0, 0.01, count)
    return replace(
        view,
        trials=trials,
        score_by_depth=bands(trials, "score"),
        time_by_depth=bands(trials, "training_s"),
        time_fit=time_fit(trials),
    )


def test_fifty_thousand_trials_stay_a_small_page(view: StudyView) -> None:
    page = render_report(many(view, 50_000))
    assert len(page.encode()) < 6_000_000
    assert "Each box holds the middle half" in page


def test_many_trials_are_counted_not_drawn_one_by_one(view: StudyView) -> None:
    trials = many(view, MOST_POINTS + 1).trials
    cloud = tables.cloud(trials, "parameters")
    assert cloud is not None
    assert isinstance(cloud.trials, Cells)
    assert cloud.trials.counts.sum() == MOST_POINTS + 1
    assert cloud.trials.counts.min() > 0
    assert (cloud.trials.left < cloud.trials.right).all()
    assert (cloud.trials.bottom < cloud.trials.top).all()
    assert cloud.trials.left.min() == trials["parameters"].min()
    assert cloud.trials.right.max() == trials["parameters"].max()
    assert tables.depth_points(trials, "score") is None


# ---- the numbers behind the figures


def test_few_trials_are_points_with_names(view: StudyView) -> None:
    cloud = tables.cloud(view.trials, "parameters")
    assert cloud is not None
    assert isinstance(cloud.trials, Points)
    assert cloud.logarithmic
    assert len(cloud.trials.names) == 38
    assert re.fullmatch(r"\d x \d+ relu, adam [\d.e-]+, batch 32", cloud.trials.names[0])
    depth = tables.depth_points(view.trials, "score")
    assert depth is not None
    assert np.abs(depth.x - view.trials["depth"].to_numpy(dtype=float)).max() <= 0.25
    assert np.array_equal(depth.y, view.trials["score"])


def test_a_size_that_is_the_same_everywhere_is_not_drawn(view: StudyView) -> None:
    same = view.trials.assign(parameters=pd.array([5] * len(view.trials), dtype="Int64"))
    assert tables.cloud(same, "parameters") is None
    assert tables.cloud(view.trials.assign(flops=pd.array([None] * 38, dtype="Int64")), "flops") is None


def test_confusions_are_shares_of_the_true_class(view: StudyView) -> None:
    found = tables.confusion(view)
    assert found is not None
    assert found.names == (HOSTILE, "$$x$$", "three")
    assert found.shares[0].tolist() == [0.95, 0.03, 0.02]
    assert found.confused == (("three", HOSTILE, 7), (HOSTILE, "$$x$$", 3), (HOSTILE, "three", 2))
    assert found.left_out == 0


def test_of_many_classes_those_with_most_errors_are_shown(view: StudyView) -> None:
    counts = np.eye(60, dtype=int) * 10
    counts[50, 7] = 4
    assert view.best is not None
    best = replace(view.best, confusion=tuple(map(tuple, counts.tolist())))
    found = tables.confusion(replace(view, best=best))
    assert found is not None
    assert (len(found.names), found.left_out, found.counts.shape) == (25, 35, (25, 25))
    assert {"7", "50"} <= set(found.names)
    assert found.confused == (("50", "7", 4),)
    assert figures.confusion_figure(found).x_range.factors == list(found.names)


def test_curves_are_of_validation_rows_only_where_all_have_them(view: StudyView) -> None:
    training = tables.curves(view, "accuracy")
    assert training is not None
    assert training.measure == "training accuracy"
    assert training.epochs[0].tolist() == [1, 2, 3]
    watched = tuple(replace(c, history={**c.history, "val_accuracy": (0.1, 0.2)}) for c in view.curves)
    validation = tables.curves(replace(view, curves=watched), "accuracy")
    assert validation is not None
    assert (validation.measure, validation.values[0].tolist()) == ("validation accuracy", [0.1, 0.2])
    some = tables.curves(replace(view, curves=(watched[0], *view.curves[1:])), "accuracy")
    assert some is not None
    assert some.measure == "training accuracy"


def test_long_curves_are_thinned_out_from_first_to_last(view: StudyView) -> None:
    long = replace(view.curves[0], history={"loss": tuple(map(float, range(5000)))})
    found = tables.curves(replace(view, curves=(long,)), "loss")
    assert found is not None
    assert len(found.values[0]) == tables.MOST_STEPS
    assert (found.epochs[0][0], found.epochs[0][-1], found.values[0][-1]) == (1, 5000, 4999.0)


def test_names_on_an_axis_are_short_distinct_and_no_formula() -> None:
    shown = figures._labels(["x" * 100, "x" * 99 + "y", "$$a$$", "\\[b\\]", "", "a"])
    assert len(set(shown)) == 6
    assert all(len(label) <= 26 for label in shown)
    assert not any("$$" in label or "\\[" in label for label in shown)


def test_a_vast_interval_does_not_stretch_the_axis(view: StudyView) -> None:
    groups = tuple(replace(group, interval=(-50.0, 50.0)) for group in view.marginals[0].groups)
    start, end = figures._span(groups)
    assert -1 < start < min(group.mean for group in groups)
    assert max(group.best for group in groups) < end < 2


# ---- elsewhere


def test_the_terminal_shows_the_same_leaderboard(view: StudyView) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(leaderboard_table(replace(view, record=replace(view.record, name="[red]x[/red]")), top=3))
    text = console.export_text()
    assert "[red]x[/red]: the best designs" in text
    for place in view.leaderboard[:3]:
        assert place.design in text
        assert f"{100 * place.score:.1f} %" in text
    assert view.leaderboard[3].design not in text
    assert "better than it is" in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_every_figure(page: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "report.html"
    path.write_text(page)
    options = "--headless --no-sandbox --disable-gpu --disable-background-networking --enable-logging=stderr"
    more = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"]
    command = [browser, *options.split(), *more, path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.count('class="bk-Figure"') == page.count('data-root-id="')
    told = [line for line in run.stderr.splitlines() if "CONSOLE" in line and "[bokeh" not in line]
    assert told == []
