"""A launcher that runs nothing, and studies made by inserting trials."""

from dataclasses import dataclass, field, replace

from dnnflow.design.layers import Design, Layer, Optimizer
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.events import Command, utc_now
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunRecord, RunState, new_study_id
from dnnflow.results.store.store import Store
from dnnflow.web.jobs.launching import kind_of
from dnnflow.web.jobs.services import Services


@dataclass
class RecordingLauncher:
    """Takes every run and does none; `asked` says what was asked of it, in order."""

    store: Store
    asked: list[tuple[str, str]] = field(default_factory=list)
    pipelines: dict[str, Pipeline | TrainPipeline] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "a recorder"

    def launch(self, pipeline: Pipeline | TrainPipeline, run_id: str, *, key: str | None = None) -> RunRecord:
        kind = kind_of(pipeline)
        made = self.store.ask(run_id, kind, pipeline.name, pipeline.plain(), key=key, queue=QUEUE)
        if made.run_id == run_id:
            self.pipelines[run_id] = pipeline
            self.asked.append(("launch", run_id))
        return made

    def refresh(self, run_id: str | None = None) -> None:
        """Do nothing: the store is all there is."""

    def resume(self, run_id: str) -> RunRecord:
        self.asked.append(("resume", run_id))
        self.store.enqueue(run_id, QUEUE)
        return self.store.run(run_id)

    def cancel(self, run_id: str) -> RunRecord:
        self.asked.append(("cancel", run_id))
        self.store.send_command(run_id, Command.CANCEL)
        return self.set(run_id, state=RunState.STOPPED, ended_at=utc_now())

    def log(self, run_id: str) -> str:
        return f"log of {self.store.run(run_id).name}"

    def set(self, run_id: str, **changes: object) -> RunRecord:
        """Change what is known of a run, as its end would."""
        self.store._update(run_id, **changes)
        return self.store.run(run_id)


def recorder(services: Services) -> RecordingLauncher:
    """Return the launcher of services that record."""
    assert isinstance(services.launcher, RecordingLauncher)
    return services.launcher


QUEUE = "recorded"
DESCRIBED = {
    "dataset_id": "d" * 64,
    "label": "species",
    "class_names": ["setosa", "versicolor", "virginica"],
    "n_features": 4,
    "rows": {"train": 120, "test": 30},
    "dropped_rows": 0,
    "class_counts": {"train": [40, 40, 40], "test": [10, 10, 10]},
}
"""What `Dataset.describe()` may give."""
EPOCHS = 5


def insert_study(
    store: Store,
    trials: int = 24,
    *,
    designs: int | None = None,
    failed: int = 0,
    state: RunState = RunState.FINISHED,
    name: str = "iris",
    pipeline: dict[str, object] | None = None,
    study_id: str | None = None,
) -> str:
    """Insert a study with trials whose numbers are made up, and return its id.

    Parameters
    ----------
    trials
        In all; the first `failed` of them have failed.
    designs
        Designs of the study; as many as trials by default.
    """
    drawn = [design(index) for index in range(designs or trials)]
    plain = {"name": name, "dataset": {"source": "iris.csv", "label": "species"}, "designs": len(drawn)}
    record = RunRecord(key="k" * 64, name=name, state=RunState(state), dataset_id="d" * 64,
                         n_designs=len(drawn), dataset_path="/nowhere", pipeline=pipeline or plain,
                         dataset=DESCRIBED, run_id=study_id or new_study_id())  # fmt: skip
    store.add_study(record, drawn)
    for first in range(0, trials, 5000):
        some = range(first, min(trials, first + 5000))
        store.add_trials(
            record.study_id, [(drawn[i], trial(drawn[i], i, has_failed=i < failed)) for i in some]
        )
    return record.study_id


def design(index: int) -> Design:
    """Return the design of that number; no two are alike."""
    depth, units = index % 8, 8 * (1 + index % 4)
    activation = ("relu", "tanh", "selu")[index % 3]
    layers = tuple(Layer(units=units, activation=activation) for _ in range(depth))
    return Design(
        layers=layers, optimizer=Optimizer("adam", 0.001 * (1 + index % 5)), epochs=EPOCHS, seed=index
    )


def trial(made: Design, index: int, *, has_failed: bool = False) -> Trial:
    """Return a trial of a design."""
    error = TrialError("MemoryError", "too <b>big</b>", "Traceback …\nMemoryError: too <b>big</b>")
    failed = Trial(design_id=made.design_id, state=TrialState.FAILED, error=error, engine="keras",
                   worker="tcp://127.0.0.1:1", started_at=utc_now(), queue_s=0.1,
                   training_s=0.5 + 0.1 * len(made.layers), total_s=1.0)  # fmt: skip
    if has_failed:
        return failed
    right = 5 + (index * 7) % 5
    score = (20 + right) / 30
    history = {
        "loss": tuple(1.0 / (1 + epoch + index % 3) for epoch in range(EPOCHS)),
        "accuracy": tuple(min(1.0, 0.5 + 0.1 * epoch) for epoch in range(EPOCHS)),
    }
    return replace(
        failed,
        state=TrialState.COMPLETED,
        error=None,
        score=score,
        loss=float("nan") if index % 11 == 0 else 0.3,
        train_score=0.95,
        train_loss=0.2,
        parameters=100 + 40 * len(made.layers),
        flops=200 + 80 * len(made.layers),
        epochs_run=EPOCHS,
        history=history,
        confusion=((10, 0, 0), (0, 10, 0), (0, 10 - right, right)),
    )
