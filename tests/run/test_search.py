"""A search makes the pipeline of any table, and the same call finds its study again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import dnnflow
from dnnflow.errors import InputError, NotFoundError, PipelineError
from dnnflow.events import Notice, ignore
from dnnflow.pipeline.good_rules import TableFacts, good_rules
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run import search as searching
from dnnflow.run.execute import preprocess
from dnnflow.run.search import SearchRequest, executor_of, search_pipeline, sections_of
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import ColumnKind
from dnnflow.table.columns.recipe import Source
from dnnflow.table.formats.given_table import GivenTable, place_table
from dnnflow.table.store.survey import survey
from tests import readme
from tests.conftest import begin_study

SPACE: dict[str, Any] = {"epochs": 10, "depth": 1, "units": 16, "activation": "tanh"}
SMALL: dict[str, Any] = {"space": SPACE, "finalists": 3}
"""Laid over the good rules: a study of some seconds."""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixty rows with their number, a name each, two features that tell the label, and one that does not."""
    rng, lines = np.random.default_rng(0), ["row,name,width,colour,kind"]
    for row in range(1, 121):
        width, red = rng.normal(), rng.random() < 0.5
        lines.append(f"{row},person {row},{width:.3f},{'red' if red else 'blue'},{'ab'[width > 0]}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def request_of(path: Path, **more) -> SearchRequest:
    return SearchRequest(sections_of(GivenTable(str(path)), "kind", {}), **more)


def notices(listened: list) -> list[str]:
    return [one.message for one in listened if isinstance(one, Notice)]


def test_the_pipeline_is_that_of_the_good_rules(table: Path, settings: Settings):
    heard: list = []
    pipeline = search_pipeline(request_of(table, name="people"), settings, listener=heard.append)
    plain = pipeline.plain()
    rules = good_rules(TableFacts(rows=120, numbers=1, categories=2, classes=2))
    assert {name: plain[name] for name in rules} == rules
    assert plain["dataset"] == {"source": str(table), "label": "kind", "drop": ["row", "name"]}
    assert notices(heard) == [
        "left out: column 'row', since it counts the rows from 1; column 'name', since it names rows, "
        "120 different values in 120 rows"
    ]


def test_a_column_that_has_another_use_is_no_feature_that_is_left_out(table: Path, settings: Settings):
    sections = sections_of(GivenTable(str(table)), "kind", {"groups": "name", "weights": "row"})
    heard: list = []
    pipeline = search_pipeline(SearchRequest(sections), settings, listener=heard.append)
    assert pipeline.dataset.drop == ()
    assert not notices(heard)


def test_names_that_begin_far_behind_are_left_out_too(
    table: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(searching, "survey", partial(survey, block_bytes=400))
    heard: list = []
    pipeline = search_pipeline(request_of(table), settings, listener=heard.append)
    assert pipeline.dataset.drop == ("row", "name")
    assert len(notices(heard)) == 2


def test_fields_go_to_their_sections_and_unknown_ones_are_refused():
    table = GivenTable("t.csv", has_classes=True)
    sections = sections_of(table, "y", {
        "metric": "f1", "scale": "none", "loss": "huber", "groups": "g", "sheet": "May",
        "space": {"depth": 2},
    })  # fmt: skip
    assert sections == {
        "dataset": {
            "source": "t.csv", "label": "y", "task": "classification", "missing_labels": [""], "sheet": "May",
        },
        "evaluation": {"metric": "f1", "groups": "g"}, "preprocess": {"scale": "none"},
        "training": {"loss": "huber"}, "space": {"depth": 2},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"got 'metirc'; nearest: 'metric'"):
        sections_of(table, "y", {"metirc": "f1"})


def test_a_label_is_asked_for_with_the_columns_there_are(table: Path):
    with pytest.raises(InputError, match=r"needs a label, got none; name one of 'row', .* label='kind'"):
        sections_of(GivenTable(str(table)), None, {})


DOORS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "sqlite": lambda frame, path: frame.to_sql("people", f"sqlite:///{path}", index=False) and None,
    "pandas": lambda frame, path: frame,
    "polars": lambda frame, path: pl.from_pandas(frame),
    "pyarrow": lambda frame, path: pa.Table.from_pandas(frame),
    "pair": lambda frame, path: (frame.drop(columns="kind"), frame["kind"]),
}
"""A table by a person's names for it: what is written gives None."""


@pytest.mark.parametrize("door", DOORS)
def test_a_table_is_searched_alike_whatever_it_is_given_in(
    door: str, table: Path, tmp_path: Path, settings: Settings
):
    def searched(given: Any) -> tuple[Any, ...]:
        placed = place_table(given, settings.workspace.frames, ["kind"])
        sections = sections_of(placed, placed.label or "kind", {})
        pipeline = search_pipeline(SearchRequest(sections, designs=20), settings)
        study = begin_study(pipeline, settings)
        dataset = study.dataset
        return (
            pipeline.dataset.drop, pipeline.plain()["space"], dataset.task, dataset.feature_names,
            dataset.class_names, [array.tobytes() for array in dataset.arrays("train")],
            [design.design_id for design in study.designs],
        )  # fmt: skip

    path = tmp_path / f"people.{door}"
    given = DOORS[door](pd.read_csv(table), path)
    assert searched(path if given is None else given) == searched(table)


def test_lists_are_left_out_and_told_dates_are_not(tmp_path: Path, settings: Settings):
    frame = pd.DataFrame({
        "width": np.arange(40) % 7 / 2, "day": pd.date_range("2024-01-01", periods=40),
        "tags": [["a"]] * 40, "kind": ["a", "b"] * 20,
    })  # fmt: skip
    heard: list = []
    table = place_table(frame, tmp_path, ["kind"])
    pipeline = search_pipeline(SearchRequest(sections_of(table, "kind", {})), settings, listener=heard.append)
    assert pipeline.dataset.drop == ("tags",)
    assert "column 'tags', since it holds list<" in notices(heard)[0]
    kept = search_pipeline(SearchRequest(sections_of(table, "kind", {"time": "day"})), settings)
    assert kept.dataset.drop == ("tags",)


@pytest.mark.parametrize(("n_jobs", "section"), [
    (None, {}), (-1, {}), (1, {"kind": "in-process"}), (np.int64(3), {"workers": 3, "dashboard_port": 0}),
])  # fmt: skip
def test_jobs_are_workers(n_jobs, section: dict):
    assert executor_of(n_jobs) == section


@pytest.mark.parametrize("n_jobs", [0, -2, True, 1.5])
def test_jobs_that_are_no_number_of_workers_are_refused(n_jobs):
    with pytest.raises(InputError, match="n_jobs must be"):
        executor_of(n_jobs)


def test_a_search_has_a_number_of_designs_or_a_time():
    with pytest.raises(InputError, match=r"got designs=3 and minutes=2; leave one of them out"):
        SearchRequest({}, designs=3, minutes=2)
    with pytest.raises(InputError, match=r"minutes must be a number > 0, got -1"):
        SearchRequest({}, minutes=-1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"designs": 0}, r"designs: .* got 0"),
        ({"space": {"widht": 3}}, r"space\.widht: Extra inputs are not permitted, got 3"),
        ({"metric": "speed"}, r"evaluation\.metric: .* got 'speed'"),
        ({"holdout": 0.0}, "holdout must be > 0"),
    ],
)
def test_what_breaks_a_rule_is_told_as_such(asked: dict, told: str, table: Path, settings: Settings):
    with pytest.raises(PipelineError, match=told):
        dnnflow.search(table, "kind", n_jobs=1, settings=settings, listener=ignore, **asked)


def test_the_time_is_part_of_the_name_and_nothing_is_too_long():
    request = SearchRequest({}, minutes=2.5, name="a" * 100)
    assert len(request.title) == 80
    assert request.title.endswith("a, 2.5 min")
    assert replace(request, minutes=None).title == "a" * 80


def test_a_search_by_time_leaves_the_number_of_designs_open(table: Path, settings: Settings):
    plain = search_pipeline(request_of(table, minutes=2.5), settings).plain()
    assert (plain["minutes"], plain["name"], "designs" in plain) == (2.5, "search, 2.5 min", False)


@pytest.mark.slow
def test_a_frame_is_searched_and_predicted(settings: Settings, table: Path):
    frame = pd.read_csv(table)

    def search():
        return dnnflow.search(frame, "kind", designs=4, n_jobs=1, settings=settings,
                              listener=ignore, **SMALL)  # fmt: skip

    study = search()
    assert search().id == study.id
    assert repr(study) == f"<study {study.id} (kind of table): finished, 4 of 4 designs trained>"
    assert "<iframe" in study._repr_html_()
    assert study.model.about["rows"] == 120  # the last one, trained on all
    predicted = study.predict(frame)
    assert (predicted == frame["kind"]).mean() > 0.9
    assert study.predict(frame[60:]).equals(predicted[60:])
    shares = study.predict_proba(frame)
    assert list(shares.columns) == ["a", "b"]
    assert np.allclose(shares.sum(axis=1), 1)
    assert (shares.idxmax(axis=1) == predicted).all()
    assert predicted.equals(study.predict(table))
    assert len(study.leaderboard()) == 4
    assert study.figure("depth") is not None


@pytest.mark.slow
def test_a_pair_of_arrays_is_searched_and_predicted(settings: Settings):
    rows = np.random.default_rng(0).normal(size=(80, 2))
    study = dnnflow.search((rows, rows[:, 0] * 1000), designs=4, n_jobs=1, settings=settings,
                           listener=ignore, **SMALL)  # fmt: skip
    assert np.corrcoef(study.predict(rows), rows[:, 0])[0, 1] > 0.8
    with pytest.raises(InputError, match="probabilities are of classes"):
        study.predict_proba(rows)


@pytest.mark.slow
def test_classes_that_are_numbers_are_predicted_as_numbers(settings: Settings):
    rows = np.random.default_rng(0).normal(size=(80, 2))
    classes = np.where(rows[:, 0] > 0, 7, 3)
    study = dnnflow.search((rows, classes), designs=2, n_jobs=1, settings=settings,
                           listener=ignore, **SMALL)  # fmt: skip
    assert set(study.predict(rows)) == {3, 7}
    assert study.predict_proba(rows).columns.equals(pd.Index([3, 7]))


def test_a_study_without_a_model_says_so(settings: Settings, iris):
    from dnnflow.pipeline.study_pipeline import Pipeline
    from tests.conftest import PIPELINES

    source = {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"}
    study = begin_study(Pipeline.model_validate({"dataset": source, "designs": 2}), settings)
    opened = dnnflow.open_study(study.id, settings=settings)
    with pytest.raises(NotFoundError, match="which has none; dnnflow resume"):
        opened.predict(pd.DataFrame())


@pytest.mark.slow
def test_the_readmes_three_lines_work(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DNNFLOW_HOME", str(tmp_path / "home"))
    code = readme.blocks("One command, three lines")[-1]
    small = 'designs=2, n_jobs=1, finalists=0, space={"epochs": 2}'
    frame = pd.read_csv(table)
    names: dict[str, Any] = {"frame": frame, "new_rows": frame.drop(columns="kind")}
    exec(code.replace("minutes=5", small), names)
    assert len(names["study"].predict(names["new_rows"])) == len(frame)


@pytest.mark.parametrize("spelling", ["None", "NA", "null", "?"])
@pytest.mark.parametrize("kind", ["object", "category"])
def test_a_class_that_reads_as_missing_in_a_text_is_a_class_of_a_frame(
    spelling: str, kind: str, settings: Settings
):
    frame = pd.DataFrame({"kind": ["some", spelling, None] * 8, "size": range(24)}).astype({"kind": kind})
    given = place_table(frame, settings.workspace.frames, ["kind"])
    pipeline = Pipeline.model_validate({**sections_of(given, "kind", {}), "designs": 1})
    dataset = preprocess(pipeline, settings)
    assert dataset.class_names == tuple(sorted(["some", spelling]))
    assert dataset.dropped_rows == 8


@pytest.mark.parametrize("style", ["{:,}.5 kg", "€{:,}.50"])
def test_numbers_in_a_dress_are_no_text_that_nothing_is_learned_from(style: str, tmp_path: Path) -> None:
    lines = ["price;kind", *(f"{style.format(1000 + 37 * row)};{'ab'[row % 2]}" for row in range(100))]
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(lines))
    column = survey(Source(url=str(path))).columns[0]
    assert (column.kind, column.why_useless) == (ColumnKind.NUMBER, "")
