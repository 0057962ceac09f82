"""One run, whoever asks for it: its numbers are computed once, and going on is the same as beginning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnnflow.api import execute, open_study, run_study
from dnnflow.cli import main as cli
from dnnflow.errors import DataError, InputError
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import OutputsSection, Pipeline
from dnnflow.results.view import study_view
from dnnflow.run import study as stored
from dnnflow.run.run import StudyRun
from dnnflow.run.study import read_stored
from dnnflow.settings import Settings
from tests.conftest import PIPELINES, begin_study

IRIS = PIPELINES / "iris.yaml"
TINY = ("executor.kind=in-process", "space.epochs=1", "space.seed=0", "designs=2", "strategy=random",
        "training.engine=keras")  # fmt: skip


def models_of(study: stored.Study) -> set[str]:
    return {path.name for path in study.settings.workspace.model(study.id, 1).parent.iterdir()}


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of studies whose numbers were computed, one for each time."""
    computed: list[str] = []

    def load_view(store: Any, study_id: str, workspace: Any) -> study_view.StudyView:
        computed.append(study_id)
        return study_view.load_view(store, study_id, workspace)

    monkeypatch.setattr(stored, "load_view", load_view)
    return computed


@pytest.fixture
def call(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call the command line in this process."""
    monkeypatch.setenv("DNNFLOW_HOME", str(settings.workspace.home))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
        return cli.guarded(cli.app, debug=False)

    return run


def test_numbers_of_a_study_are_computed_once_a_run(
    call: Callable[..., int], settings: Settings, views: list[str], tmp_path: Path
) -> None:
    """Of 50,000 designs that takes seconds; report, models, terminal and exit code show the same."""
    screen = (*TINY, "evaluation.finalists=0")
    pipeline = load_pipeline(IRIS, screen)
    sets = [
        part for item in (*screen, f"outputs.report={tmp_path / 'copy.html'}") for part in ("--set", item)
    ]
    assert call("run", str(IRIS), *sets) == 0
    assert len(views) == 1
    assert call("run", str(IRIS), *sets, "--json") == 0  # finished before
    assert len(views) == 2
    assert (tmp_path / "copy.html").is_file()
    stopped = begin_study(pipeline, settings, new=True)
    assert call("resume", stopped.id) == 0
    assert views[2:] == [stopped.id]
    assert call("show", stopped.id) == 0
    assert len(views) == 4
    with_finalists = run_study(load_pipeline(IRIS, [*TINY, "space.depth=1"]), settings=settings)
    assert views[4:] == [with_finalists.id] * 2  # of the screen, and of all


def test_a_resumed_study_ends_as_a_fresh_one(settings: Settings, tmp_path: Path) -> None:
    """Also where its table has gone: the dataset is there."""
    table, copy = tmp_path / "iris.csv", tmp_path / "copy.html"
    table.write_text((PIPELINES / "data" / "iris.csv").read_text())
    pipeline = load_pipeline(
        IRIS, [*TINY, f"dataset.source={table}", f"outputs.report={copy}", "outputs.models=1"]
    )
    stopped = begin_study(pipeline, settings)
    table.unlink()
    study = open_study(stopped.id, settings=settings).resume()
    assert study.is_finished
    assert copy.read_text() == settings.workspace.report(study.id).read_text()
    assert models_of(study) == {"best-1.keras", "ensemble.keras", "final.keras"}
    copy.unlink()
    assert study.finish().is_finished
    assert copy.is_file()


def test_an_outputs_section_that_says_nothing_stands_for_its_defaults(settings: Settings) -> None:
    stored = begin_study(load_pipeline(IRIS, TINY), settings)
    assert stored.pipeline.outputs == OutputsSection()
    assert stored.pipeline == load_pipeline(IRIS, TINY)


def test_a_study_of_another_version_goes_on_with_what_is_understood(settings: Settings) -> None:
    """An upgrade must not make a half-finished study of days useless."""
    begun = begin_study(load_pipeline(IRIS, TINY), settings)
    plain = begun.pipeline.plain()
    plain["space"]["activation"] = {"lottery": ["relu"]}
    plain["outputs"] = {"models": 1, "cloud": "https://example.org"}
    plain["training"]["turbo"] = True
    plain["forecast"] = {"days": 3}
    begun.store.renew(begun.id, pipeline=plain, dataset_path=begun.record.dataset_path)
    study = open_study(begun.id, settings=settings)
    assert study.pipeline.outputs.models == 1
    assert study.pipeline.training.engine == "keras"
    assert study.finish().is_finished
    assert models_of(study) == {"best-1.keras", "ensemble.keras", "final.keras"}


@pytest.mark.parametrize(
    "plain", [{}, {"refit": {"replicas": 1}, "executor": {"kind": "in-process"}}, {"seed": []}]
)
def test_a_stored_pipeline_is_always_one(plain: dict[str, Any]) -> None:
    assert isinstance(read_stored({**plain, "training": {"engine": "stacked"}}), Pipeline)
    assert read_stored({**plain, "training": {"engine": "stacked"}}).training.engine == "stacked"
    assert isinstance(read_stored(plain), Pipeline)


def test_the_same_run_is_found_finished(settings: Settings) -> None:
    run = StudyRun(load_pipeline(IRIS, TINY), settings)
    first = execute(run)
    assert execute(run).study.id == first.study.id == run_study(run.pipeline, settings=settings).id


def test_a_table_that_is_missing_is_said_before_a_cluster_is_waited_for(settings: Settings) -> None:
    pipeline = load_pipeline(IRIS, ["dataset.source=none.csv", 'executor={address: "tcp://127.0.0.1:1"}'])
    with pytest.raises(DataError, match=r"none\.csv"):
        execute(StudyRun(pipeline, settings))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("evaluation.metric=accuracy", "evaluation.metric of regression must be one of r2"),
        ("training.class_weight=balanced", "class_weight is for classes, got a dataset of regression"),
    ],
)
def test_what_is_for_another_task_is_refused_at_the_beginning(
    settings: Settings, changed: str, message: str
) -> None:
    pipeline = load_pipeline(IRIS, (*TINY, "dataset.label=sepal_length_cm", changed))
    with pytest.raises(InputError, match=message):
        begin_study(pipeline, settings)


def test_a_loss_of_numbers_is_refused_for_classes(settings: Settings) -> None:
    with pytest.raises(InputError, match="loss of classification is auto, got huber"):
        begin_study(load_pipeline(IRIS, (*TINY, "training.loss=huber")), settings)


def test_a_finished_study_that_is_resumed_has_its_files_written_anew(
    call: Callable[..., int], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    study = run_study(load_pipeline(IRIS, TINY), settings=settings)
    model = settings.workspace.model(study.id, 1)
    model.unlink()
    assert call("resume", study.id) == 0
    assert model.is_file()
    assert "--new" not in capsys.readouterr().err
