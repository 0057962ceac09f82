"""`refit` in a pipeline: a study's best design trained once more on the whole table, and saved."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnflow.api import execute
from dnnflow.errors import PipelineError
from dnnflow.events import Notice, Stage, StageFinished, StageStarted
from dnnflow.pipeline.pipeline_file import find_problems, load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run.models.saved_model import MEMBER
from dnnflow.run.run import StudyRun
from dnnflow.settings import Settings
from dnnflow.table.rows.array_source import DatasetSource
from tests.conftest import PIPELINES

IRIS: dict[str, Any] = {
    "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"},
    "space": {"depth": 1, "units": {"choice": [8, 16]}, "epochs": 2, "learning_rate": 0.01},
    "designs": 2,
}
REFIT = {"replicas": 2, "epochs": 3, "batch_size": 10}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    place = tmp_path_factory.mktemp("home")
    return Settings.from_environment({"DNNFLOW_HOME": str(place)})


def run(client, home: Settings, refit: dict | None) -> tuple[list, Path]:
    """Run the pipeline; return its events and where the refitted model would be."""
    events: list = []
    pipeline = Pipeline.model_validate(IRIS | ({"refit": refit} if refit else {}))
    study = execute(StudyRun(pipeline, home), client=client, listener=events.append).study
    return events, home.workspace.refit(study.id)


def forget_option(path: Path, option: str) -> None:
    """Write a model's file without one option of its refit."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members[MEMBER])
    del about["refit"][option]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, MEMBER: json.dumps(about).encode()}.items():
            archive.writestr(name, content)


def stages_of(events: list) -> list[Stage]:
    return [event.stage for event in events if isinstance(event, StageStarted)]


def test_a_pipeline_without_refit_trains_nothing_more(client, home: Settings) -> None:
    events, path = run(client, home, None)
    assert Stage.REFIT not in stages_of(events)
    assert not path.exists()


def test_the_best_design_is_trained_on_every_row_and_predicts_raw_rows(client, home: Settings) -> None:
    """Also where the study has finished before: refit is no part of what makes two studies the same."""
    from dnnflow.run.models.saved_model import load_model
    from dnnflow.table.text.csv_reader import read_rows

    events, path = run(client, home, REFIT)
    assert stages_of(events)[-1] is Stage.REFIT
    (ended,) = [x for x in events if isinstance(x, StageFinished) and x.stage is Stage.REFIT]
    assert "450 samples" in ended.detail  # 120 rows to train and 30 to test, three times
    assert "no row was held out" in ended.detail
    saved = load_model(path)
    assert saved.about["rows"] == 150
    assert saved.about["refit"]["replicas"] == 2
    assert "score" not in saved.about  # there is none
    table = saved.predict(read_rows(saved.source(str(PIPELINES / "data" / "iris.csv"))))
    assert len(table) == 150

    forget_option(path, "servers")  # as if it had been written before there was that option
    before = path.stat().st_mtime_ns
    again, _ = run(client, home, REFIT)
    assert Stage.REFIT not in stages_of(again)
    assert path.stat().st_mtime_ns == before
    longer, _ = run(client, home, REFIT | {"epochs": 4})  # asked for otherwise, it is trained anew
    assert Stage.REFIT in stages_of(longer)
    assert load_model(path).about["refit"]["epochs"] == 4


def test_what_a_refit_leaves_out_of_the_design_is_told(client, settings: Settings) -> None:
    events: list = []
    space = IRIS["space"] | {"schedule": "cosine", "epochs": 1}
    refit = {"replicas": 1, "algorithm": "diloco", "sync_every": 5, "synchronous": True}
    pipeline = Pipeline.model_validate(IRIS | {"space": space, "refit": refit})
    execute(StudyRun(pipeline, settings), client=client, listener=events.append)
    told = [event.message for event in events if isinstance(event, Notice)]
    assert any("constant learning rate" in message for message in told), told


def test_the_whole_table_has_each_row_once(iris) -> None:
    source = DatasetSource.open(iris.path, "train", "test")
    rows = [source.read(chunk) for chunk in source.chunks(50)]
    got = np.concatenate([np.column_stack([*inputs, *targets]) for inputs, targets in rows])
    splits = [DatasetSource.open(iris.path, split) for split in ("train", "test")]
    parts = [part.read(chunk) for part in splits for chunk in part.chunks(1000)]
    wanted = np.concatenate([np.column_stack([*inputs, *targets]) for inputs, targets in parts])
    assert got.shape == (source.rows, iris.n_features + 1) == (150, 5)
    assert np.array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])


@pytest.mark.parametrize(
    ("refit", "words"),
    [
        ("{replicas: 0}", "greater than or equal to 1"),
        ("{algorithm: hogwild}", "downpour"),
        ("{algorithm: gem, synchronous: true}", "gem works asynchronously"),
        ("{synchronous: true, staleness_bound: 3}", "staleness_bound is for asynchronous"),
        ("{replica: 2}", "unknown key"),
    ],
)
def test_a_refit_that_cannot_be_is_a_problem_with_its_line(tmp_path: Path, refit: str, words: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"dataset:\n  source: {IRIS['dataset']['source']}\n  label: species\n"
                    f"designs: 2\nrefit: {refit}\n")  # fmt: skip
    problems = find_problems(file, [])
    assert any(words in problem.message and problem.line == 5 for problem in problems), problems


def test_refit_needs_workers(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"dataset: {{source: {IRIS['dataset']['source']}, label: species}}\n"
                    "designs: 2\nexecutor: {kind: in-process}\nrefit: {replicas: 2}\n")  # fmt: skip
    with pytest.raises(PipelineError, match="set it to dask"):
        load_pipeline(file, [])


def test_a_part_of_the_section_is_set_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"dataset: {{source: {IRIS['dataset']['source']}, label: species}}\n"
                    "designs: 2\nrefit: {replicas: 2}\n")  # fmt: skip
    section = load_pipeline(file, ["refit.epochs=7"]).refit
    assert section is not None
    assert (section.replicas, section.epochs) == (2, 7)
