"""The package's own names, and what Python's door takes for a pipeline."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dnnflow
from dnnflow.errors import InputError, PipelineError
from dnnflow.events import Event, StageStarted, ignore
from dnnflow.pipeline.pipeline_file import as_pipeline, load_pipeline
from dnnflow.settings import Settings
from tests.conftest import PIPELINES

IRIS = PIPELINES / "iris.yaml"
TINY = {
    "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"},
    "space": {"epochs": np.int64(1), "units": (4, 8)},
    "designs": 1,
    "executor": {"kind": "in-process"},
    "evaluation": {"finalists": 0},
    "outputs": {"models": 0},
}


def test_dir_lists_the_public_names_without_importing_them() -> None:
    code = (
        "import dnnflow, sys; print(*dir(dnnflow)); print('tensorflow' in sys.modules, dnnflow.__version__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, told = ran.stdout.splitlines()
    assert {*dnnflow.__all__, "__version__", "run_study"} <= set(names.split())
    assert told == f"False {version('dnnflow')}"


def test_a_pipeline_is_a_file_its_path_or_a_mapping() -> None:
    pipeline = load_pipeline(IRIS)
    assert as_pipeline(pipeline) is pipeline
    assert as_pipeline(str(IRIS)) == as_pipeline(IRIS) == pipeline
    made = as_pipeline(TINY)
    assert made.plain()["space"] == {"epochs": 1, "units": {"choice": [4, 8]}}
    assert made.name == "study"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"a": [1]}), "got a DataFrame; write a table to a file and name it in dataset.source"),
        (3, "a study's pipeline is a Pipeline, the path of a YAML file or a mapping .*, got a int"),
        ({**TINY, "designs": object()}, "holds texts, numbers, lists and mappings, got object"),
    ],
)
def test_what_is_no_pipeline_is_refused(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dnnflow.run_study(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**TINY, "desings": 3}, "the mapping is not a valid pipeline: desings: unknown key"),
        ({"model": {"source": "m.json"}, "data": {"source": "x"}}, "got a mapping that has one|not a valid"),
        ("nowhere.yaml", "a pipeline must be a readable YAML file, got nowhere.yaml"),
    ],
)
def test_a_pipeline_with_a_mistake_is_refused(given: object, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        dnnflow.run_study(given)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_study_shows_its_progress_unless_somebody_listens(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    study = dnnflow.run_study(TINY, settings=settings)
    assert "1 of 1 designs" in capsys.readouterr().err
    assert repr(study) == f"<study {study.id} (study): finished, 1 of 1 designs trained>"
    told = list[Event]()
    dnnflow.run_study(TINY, settings=settings, new=True, listener=told.append)
    assert any(isinstance(event, StageStarted) for event in told)
    dnnflow.run_study(TINY, settings=settings, new=True, listener=ignore)
    assert capsys.readouterr().err == ""


def test_a_model_is_read_by_a_path_as_text(tmp_path: Path) -> None:
    file = tmp_path / "no.keras"
    file.write_text("x")
    with pytest.raises(InputError, match=r"a model must be a \.keras file"):
        dnnflow.load_model(str(file))
