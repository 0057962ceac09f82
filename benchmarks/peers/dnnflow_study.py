"""dnnflow itself: a study on a cluster of this machine, with a clock for what is not training."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from dnnflow.events import Event, TrialsStored, WorkerLost, WorkerRecycled
from peers.common import Run, Task


class Clock(WorkerPlugin):
    """Writes down, on each worker, how long the import of TensorFlow and each tracing take."""

    name = "clock"

    def __init__(self, log: Path) -> None:
        self._log = log

    def setup(self, worker: Worker) -> None:
        """Put the clock in, before an engine is imported."""
        from dnnflow.engines import process_setup

        timed_import = self._timed("import", process_setup.import_tensorflow)

        def import_tensorflow() -> None:
            if "keras" in sys.modules:
                return
            timed_import()

            from dnnflow.engines import tensors

            tensors.trace = self._timed("trace", tensors.trace)

        process_setup.import_tensorflow = import_tensorflow

    def _timed(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                with self._log.open("a") as log:
                    log.write(f"{what} {time.perf_counter() - start}\n")

        return timed


class Listener:
    """Notes when the first trial is stored, and what befalls workers."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        """Of `time.perf_counter`."""
        self.told: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, TrialsStored):
            self.first_at = self.first_at or time.perf_counter()
        elif isinstance(event, WorkerLost | WorkerRecycled):
            self.told.append(str(event))


def run(task: Task) -> Run:
    """Train a study; its time begins before its designs are drawn and ends when the last one is stored."""
    from dnnflow.execute.opening import executor_on, open_client
    from dnnflow.run.execute import begin
    from dnnflow.run.run import StudyRun

    pipeline, settings, dataset = task.pipeline(), task.settings(), task.dataset()
    listener, log = Listener(), task.home / "clock.txt"
    log.touch()
    os.environ["NUMBA_CACHE_DIR"] = str(task.home / "machine-code")  # compiled anew, which counts
    start = time.perf_counter()
    study = begin(StudyRun(pipeline, settings), dataset)
    begun = time.perf_counter()
    with open_client(pipeline.executor.model_dump(mode="json"), settings) as client:
        opened = time.perf_counter()
        client.register_plugin(Clock(log))
        study.train(executor_on(client), listener=listener)
        ended = time.perf_counter()
    import_s, traces = max(read(log, "import"), default=0.0), read(log, "trace")
    frame = study.trials()
    completed = frame[frame["state"] == "completed"]
    first_s = (listener.first_at or ended) - start
    notes = (
        f"designs drawn and stored {begun - start:.1f} s, cluster opened {opened - begun:.1f} s, TensorFlow "
        f"imported {import_s:.1f} s, first trial stored after {first_s:.1f} s of {ended - start:.1f} s",
        f"{len(traces)} traces, {sum(traces):.1f} s of all cores; "
        f"{len(frame) - len(completed)} designs did not complete",
        *listener.told,
    )
    return Run(
        seconds_s=ended - start,
        startup_s=opened - begun + import_s,
        accuracies=dict(zip(completed["design_id"], completed["score"].astype(float), strict=True)),
        tracing_s=sum(traces) / task.cores,
        notes=notes,
    )


def read(log: Path, what: str) -> list[float]:
    """Return the seconds that were written down for something."""
    lines = (line.split() for line in log.read_text().splitlines())
    return [float(seconds) for name, seconds in lines if name == what]
