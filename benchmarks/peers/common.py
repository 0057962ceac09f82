"""What all systems are given: the same designs, the same rows, the same cores.

Libraries are imported where they are used: threads are counted when numpy and TensorFlow are first imported.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design
from dnnflow.engines.process_setup import limit_threads

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    import numpy as np

    from dnnflow.engines.records import Outcome
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.settings import Settings
    from dnnflow.table.store.dataset import Dataset

DATA = Path(__file__).parents[2] / "pipelines" / "data"
SPACE = {
    "depth": {"int": [1, 5]},
    "units": {"choice": [16, 32, 64, 128]},
    "activation": {"choice": ["relu", "tanh"]},
    "optimizer": "adam",
    "learning_rate": {"loguniform": [0.001, 0.01]},
    "batch_size": 32,
    "epochs": 10,
}
SPACES = {
    "plain": SPACE,
    "wide": {
        **SPACE,
        "activation": {"choice": ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid"]},
        "per_layer": ["units", "activation"],
        "dropout": {"choice": [0.0, 0.1, 0.3]},
        "batch_norm": {"choice": [False, True]},
        "optimizer": {"choice": ["adam", "nadam", "rmsprop"]},
        "batch_size": {"choice": [16, 32, 64]},
    },
}
"""All systems draw from one of these; the first n designs of one list are the same for any n."""
SEED = 1
START_S = 300.0
"""How long a peer's processes may take to import what they need."""

Arrays = tuple["np.ndarray", "np.ndarray", "np.ndarray", "np.ndarray"]
"""Features and labels to train on, features and labels to test on: (rows, 64) float32, (rows,) int32."""
Train = Callable[[Design, Arrays], float]
"""Trains a design and returns its test accuracy."""


@dataclass(frozen=True)
class Task:
    """What one run of a system is to do."""

    home: Path
    """A directory of its own for what it writes."""
    n_designs: int
    cores: int
    engine: str
    """Of dnnflow."""
    space: str = "plain"
    """One of `SPACES`."""

    def pipeline(self) -> "Pipeline":
        """Return the study that dnnflow runs; its designs are everybody's."""
        from dnnflow.pipeline.study_pipeline import Pipeline

        return Pipeline.model_validate({
            "name": "designs-per-hour",
            "dataset": {"source": str(DATA / "digits.csv"), "label": "digit"},
            "space": SPACES[self.space],
            "designs": self.n_designs,
            "seed": SEED,
            "training": {"engine": self.engine},
            "evaluation": {"select_on": "test"},  # peers train and measure on the same rows
            "executor": {"workers": self.cores, "dashboard_port": 0},
        })  # fmt: skip

    def settings(self) -> "Settings":
        """Return settings that keep everything in the task's directory, whatever the environment says."""
        from dnnflow.settings import Settings

        return Settings.from_environment({"DNNFLOW_HOME": str(self.home)})

    def designs(self) -> list[Design]:
        """Return the first designs of the list."""
        from dnnflow.design.space import Space

        return list(Space.from_dict(SPACES[self.space]).sample(self.n_designs, SEED))

    def dataset(self) -> "Dataset":
        """Return the preprocessed table."""
        from dnnflow.run.execute import preprocess

        return preprocess(self.pipeline(), self.settings())

    def arrays(self) -> Arrays:
        """Return the table's rows as dnnflow trains and tests on them."""
        dataset = self.dataset()
        return (*dataset.arrays("train"), *dataset.arrays("test"))


@dataclass(frozen=True)
class Run:
    """What came of a task."""

    seconds_s: float
    """For dnnflow with start-up and tracing, for its peers without start-up."""
    startup_s: float
    accuracies: dict[str, float] = field(default_factory=dict)
    """Test accuracy of each design that completed, by design id."""
    tracing_s: float | None = None
    """Share of a core's time that went into tracing, where it can be told apart."""
    notes: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Completed designs an hour."""
        return 3600 * len(self.accuracies) / self.seconds_s


_arrays: list[Arrays] = []
"""Of this worker process; filled by `_begin`."""


def on_each_core(prepare: Callable[[], None], train: Train, task: Task) -> Run:
    """Train the designs one at a time in one process a core, each of one thread.

    Parameters
    ----------
    prepare
        Called first in each process; imports what the peer needs.
    train
        Called for each design, by whichever process is free.
    """
    limit_threads(1)  # the processes take over the variables
    designs, arrays = task.designs(), task.arrays()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(task.cores + 1)
    start = time.perf_counter()
    with context.Pool(task.cores, _begin, (prepare, arrays, barrier)) as pool:
        barrier.wait(START_S)
        begun = time.perf_counter()
        found = dict(pool.imap_unordered(_Job(train), designs, chunksize=1))
        ended = time.perf_counter()
    return Run(ended - begun, begun - start, found)


def _begin(prepare: Callable[[], None], arrays: Arrays, barrier: "Barrier") -> None:
    limit_threads(1)
    prepare()
    _arrays.append(arrays)
    barrier.wait(START_S)


@dataclass(frozen=True)
class _Job:
    train: Train

    def __call__(self, design: Design) -> tuple[str, float]:
        return design.design_id, self.train(design, _arrays[0])


def train_here(task: Task) -> Iterator["Outcome"]:
    """Yield the outcomes of the task's designs, trained in this process on one thread as a worker would."""
    limit_threads(1)
    from dnnflow.execute.local import LocalExecutor
    from dnnflow.run.execute import begin
    from dnnflow.run.run import StudyRun

    study = begin(StudyRun(task.pipeline(), task.settings(), new=True), task.dataset())
    for outcomes in LocalExecutor().train(study.plan.portions, study.job()):
        yield from outcomes
