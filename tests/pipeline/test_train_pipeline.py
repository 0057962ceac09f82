"""A pipeline that is one parallel training: what it may say, and what `dnnflow run` makes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dnnflow.cli import main as cli
from dnnflow.errors import PipelineError
from dnnflow.paths import Workspace
from dnnflow.pipeline.pipeline_file import find_problems, load_any, load_pipeline, to_yaml
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.run.models.saved_model import load_model
from tests.conftest import PIPELINES

BUILDER = """
import keras


def network(units=4):
    layers = [keras.Input((6,)), keras.layers.Dense(units, "tanh"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""
FILES = {
    "name": "from files",
    "model": {"source": "own_training_network:network", "parameters": {"units": 8}},
    "data": {"source": ["part0.npz", "part1.npz"], "validation": "part2.npz"},
    "parallel": {"replicas": 2, "epochs": 3, "batch_size": 20, "overlap": True},
    "outputs": {"model": "out/net.keras", "history": "out/history.csv", "timeline": "out/timeline.json"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of 100 rows, and a module that builds a network."""
    generator = np.random.default_rng(3)
    features = generator.normal(size=(300, 6)).astype(np.float32)
    labels = (features @ generator.normal(size=(6, 3))).argmax(1)
    for number in range(3):
        rows = slice(number * 100, number * 100 + 100)
        np.savez(tmp_path / f"part{number}.npz", features=features[rows], labels=labels[rows])
    (tmp_path / "own_training_network.py").write_text(BUILDER)
    return tmp_path


def write(folder: Path, pipeline: dict[str, Any]) -> Path:
    (folder / "p.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return folder / "p.yaml"


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Call `dnnflow` in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
    code = cli.guarded(cli.app, debug=False)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_run_trains_on_files_and_writes_beside_the_pipeline(
    client, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From another directory: paths are relative to the file, those of --set to the caller."""
    import keras

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("DNNFLOW_HOME", str(folder / "home"))
    code, out, err = call(
        monkeypatch, capsys, "run", str(write(folder, FILES)), "--json",
        "--cluster", client.scheduler.address, "--set", "parallel.epochs=4",
        "--set", "outputs.history=here.json",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["samples"] == 4 * 200
    assert [row["epoch"] for row in told["rows"]] == [1, 2, 3, 4]
    assert all("val_accuracy" in row for row in told["rows"])
    written = [folder / "out" / "net.keras", elsewhere / "here.json", folder / "out" / "timeline.json"]
    assert told["files"] == [str(path) for path in written]
    assert all(path.is_file() for path in written)
    assert keras.models.load_model(written[0]).layers[0].units == 8


def test_run_trains_on_a_table_and_predicts_its_raw_rows(
    client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dnnflow.table.text.csv_reader import read_rows

    monkeypatch.setenv("DNNFLOW_HOME", str(tmp_path / "home"))
    code, out, err = call(
        monkeypatch, capsys, "run", str(PIPELINES / "train.yaml"), "--cluster", client.scheduler.address,
        "--set", "parallel.epochs=2",
    )  # fmt: skip
    assert code == 0, err
    path = Workspace(tmp_path / "home").trained("train")
    assert str(path.name) in out
    saved = load_model(path)
    table = saved.predict(read_rows(saved.source(str(PIPELINES / "data" / "digits.csv"))))
    assert len(table) == 1797


def test_a_pipeline_is_read_back_as_it_was_written(folder: Path) -> None:
    pipeline = load_any(write(folder, FILES))
    assert isinstance(pipeline, TrainPipeline)
    assert pipeline.data is not None
    assert pipeline.data.source == (str(folder / "part0.npz"), str(folder / "part1.npz"))
    assert pipeline.model.source == "own_training_network:network"
    (folder / "again.yaml").write_text(to_yaml(pipeline))
    assert load_any(folder / "again.yaml") == pipeline
    with pytest.raises(PipelineError, match="a study's pipeline has no model"):
        load_pipeline(folder / "again.yaml")


@pytest.mark.parametrize(
    ("changed", "where", "words"),
    [
        ({"model": {"source": "none.json"}}, "model.source", "no such file"),
        ({"model": {"source": "own_training_network:none"}}, "model.source", "must be importable here"),
        ({"model": {"source": "m:f", "lose": "mse"}}, "model.lose", "unknown key; known keys here: source"),
        ({"model": {}}, "model.source", "this key is required"),
        (
            {"model": {"source": "own_training_network:network", "optimizer": "adma"}},
            "model.optimizer",
            "adma",
        ),
        ({"parallel": {"epochs": 0}}, "parallel.epochs", "greater than or equal to 1"),
        ({"parallel": {"epoch": 1}}, "parallel.epoch", "unknown key; known keys here: algorithm"),
        ({"parallel": {"overlap": True, "synchronous": True}}, "parallel", "overlap is for asynchronous"),
        ({"parallel": {"target": "accuracy"}}, "parallel.target", "a target must be metric"),
        ({"parallel": {"restore": True}}, "parallel", "set checkpoint"),
        ({"executor": {"address": "nowhere"}}, "executor.address", "must be tcp://host:port"),
        ({"executor": {"kind": "in-process"}}, "", "set it to dask"),
        ({"outputs": {"model": "net.h5"}}, "outputs.model", "must end in .keras, got net.h5"),
        ({"dataset": {"source": "t.csv", "label": "y"}}, "", "give one of the two"),
        ({"designs": 3}, "designs", "unknown key"),
    ],
    ids=str,
)
def test_a_mistake_is_a_problem_with_its_place(
    folder: Path, changed: dict[str, Any], where: str, words: str
) -> None:
    problems = find_problems(write(folder, FILES | changed))
    assert any(words in problem.message and problem.where == where for problem in problems), problems


def test_a_file_may_say_of_which_kind_it_is(folder: Path) -> None:
    plain = load_any(write(folder, FILES))
    said = load_any(write(folder, FILES | {"kind": "training"}))
    assert said == plain
    assert (said.plain()["kind"], "kind" in plain.plain()) == ("training", False)
    assert find_problems(write(folder, {"kind": "training"}))[0].where == "model"
    (found,) = [
        one for one in find_problems(write(folder, FILES | {"kind": "study"})) if one.where == "model"
    ]
    assert found.message.startswith("unknown key")
    (found,) = find_problems(write(folder, FILES | {"kind": "trainign"}))
    assert (found.where, found.line) == ("kind", len((folder / "p.yaml").read_text().splitlines()))
    assert found.message == "a pipeline is of the kind study or training, got 'trainign'"


def test_validate_and_schema_know_trainings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "validate", str(write(folder, FILES)))
    assert (code, "is a valid pipeline" in out) == (0, True)
    code, out, _ = call(monkeypatch, capsys, "schema", "train")
    assert code == 0
    assert json.loads(out)["properties"]["parallel"]["description"].startswith("Algorithm")
    code, _, err = call(monkeypatch, capsys, "schema", "trian")
    assert (code, "study or train, got trian" in err) == (2, True)
