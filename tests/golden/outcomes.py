"""What came of a study or a training, without its times: what must be the same through every door."""

import io
import os
import signal
import zipfile
from pathlib import Path
from threading import Lock
from typing import Any
from unittest import mock

import h5py
import numpy as np

import dnnflow
from tests.golden.doors import ROOT, wait_for

NUMBERS = ("parameters", "flops", "epochs_run", "score", "train_score")
"""Of a trial; they are the same to the last digit."""
LOSSES = ("loss", "train_loss")
IRIS = {"source": str(ROOT / "pipelines" / "data" / "iris.csv"), "label": "species"}
DESIGNS = 8
_ENVIRONMENT = Lock()


def small(name: str, report: Path | None = None, **changed: Any) -> dict[str, Any]:
    """Return a study of eight designs on iris, trained one after the other in one process."""
    return {
        "name": name,
        "dataset": IRIS,
        "space": {
            "depth": {"choice": [1, 2]},
            "units": {"choice": [4, 8]},
            "activation": {"choice": ["relu", "tanh"]},
            "learning_rate": 0.01,
            "epochs": 3,
            "batch_size": 16,
        },
        "strategy": "grid",
        "training": {"engine": "keras"},
        "executor": {"kind": "in-process"},
        "outputs": {"models": 1, **({"report": str(report)} if report else {})},
        **changed,
    }


def with_refit(name: str, report: Path | None = None, **changed: Any) -> dict[str, Any]:
    """Return the same on a Dask cluster, with the best design trained once more on the whole table."""
    refit = {"replicas": 2, "epochs": 2, "synchronous": True}
    return small(name, report, executor={"kind": "dask"}, refit=refit, **changed)


TRAINING: dict[str, Any] = {
    "name": "golden-train",
    "model": {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "optimizer": "adam:0.01"},
    "dataset": IRIS,
    "parallel": {"replicas": 2, "epochs": 3, "batch_size": 10, "synchronous": True},
}
"""A parallel training that gives the same numbers each time: the server waits for both replicas."""


def study_of(home: Path, study_id: str) -> Any:
    """Open a study of a door's home."""
    with _ENVIRONMENT, mock.patch.dict(os.environ, {"DNNFLOW_HOME": str(home)}):
        return dnnflow.open_study(study_id)


def trials_of(home: Path, study_id: str) -> dict[str, dict[str, Any]]:
    """Return what is stored of each design's training, by design."""
    frame = study_of(home, study_id).trials()
    assert frame["design_id"].is_unique, "a design has two trials"
    columns = ["design", "state", "engine", "started_at", *NUMBERS, *LOSSES]
    return frame.set_index("design_id")[columns].to_dict("index")


def finals_of(study: Any) -> dict[str, dict[str, Any]]:
    """Return what is stored of each training after the screen, by what was trained."""
    return {
        one.design.design_id: {
            "stage": one.stage, "finalist": one.finalist, "fold": one.fold,
            "epochs_run": one.trial.epochs_run, "score": one.trial.score,
        }
        for one in study.store.final_trials(study.id)
    }  # fmt: skip


def comparable(trials: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return trials without their times; losses as far as they are the same on any executor."""
    return {
        design: {name: round(value, 6) if name in LOSSES else value for name, value in trial.items()
                 if name != "started_at"}
        for design, trial in sorted(trials.items())
    }  # fmt: skip


def files_of(home: Path, study_id: str) -> list[str]:
    """Return the names of all files in a study's directory."""
    folder = home / "studies" / study_id
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """Return the layers' arrays of a `.keras` file by their place in it."""
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and name.startswith("layers/"):
                found[name] = item[()]

        file.visititems(look)
    assert found
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    """Check that two models are the same as far as rounding allows."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


class Gate:
    """How many designs the engine `gated` may train of one study before it waits."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder / str(number)
        self._folder.mkdir(parents=True)
        self._limit, self._trained = self._folder / "limit", self._folder / "trained"
        self._trained.touch()
        self.training = {"engine": "gated", "time_limit_s": float(number)}
        """The section of the study's pipeline."""

    def open(self) -> None:
        """Let everything be trained."""
        self._limit.unlink(missing_ok=True)

    def close_after(self, count: int) -> None:
        """Let so many designs be trained in all."""
        aside = self._folder / "aside"
        aside.write_text(str(count))
        os.replace(aside, self._limit)

    @property
    def trained(self) -> list[list[str]]:
        """Design and process of every training, in order."""
        return [line.split() for line in self._trained.read_text().splitlines()]

    def wait(self, count: int) -> None:
        """Wait until so many designs were trained in all: now all who train wait."""
        wait_for(lambda: len(self.trained) >= count, f"{count} designs are trained")

    def kill_trainer(self) -> None:
        """End the process that trained last as a lack of memory would."""
        os.kill(int(self.trained[-1][1]), signal.SIGKILL)
