"""From CSV to report: how long the whole job takes, how the driver's memory goes, how the report opens."""

import threading
import time

import psutil

from dnnflow.events import Event, Stage, StageFinished, StageStarted, TrialsStored, WorkerLost, WorkerRecycled
from dnnflow.run.study import Study
from peers.browser import open_page
from peers.common import Task

GOAL_DESIGNS = 50_000
GOAL_S = 900.0
GOAL_OPEN_S = 5.0
QUARTERS = 4
SAMPLE_S = 0.2


class Watch:
    """Samples the driver's memory, and listens to a study; tells what happens as it does."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._told = 0
        self.peak_mb = 0.0
        self.training_peak_mb = 0.0
        """Until the last trial is stored; models are saved by Keras, which the driver imports then."""
        self.marks: list[tuple[int, float]] = []
        """Trials stored, and resident MB by then."""

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def listen(self, event: Event) -> None:
        """Note the memory at each quarter of the trials, and print how long each stage took."""
        if isinstance(event, TrialsStored):
            stored = event.completed + event.failed
            quarter = QUARTERS * stored // event.total
            if quarter > self._told:
                self._told = quarter
                self.marks.append((stored, self._resident_mb()))
        elif isinstance(event, StageStarted) and event.stage is Stage.TRAIN:
            self.marks.append((0, self._resident_mb()))
        elif isinstance(event, StageFinished):
            if event.stage is Stage.TRAIN:
                self.training_peak_mb = self.peak_mb
            print(f"  {event.stage.value:12}{event.seconds_s:9.1f} s  {event.detail}", flush=True)
        elif isinstance(event, WorkerLost | WorkerRecycled):
            print(f"  {event}", flush=True)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak_mb = max(self.peak_mb, self._resident_mb())

    def _resident_mb(self) -> float:
        return float(self._process.memory_info().rss) / 1e6


def measure(task: Task) -> None:
    """Run the whole job and print it."""
    from dnnflow.api import execute
    from dnnflow.run.run import StudyRun

    print(f"{task.n_designs:,} designs on {task.cores} workers, engine {task.engine}, from CSV to report")
    start = time.perf_counter()
    with Watch() as watch:
        study = execute(StudyRun(task.pipeline(), task.settings()), listener=watch.listen).study
    wall_s = time.perf_counter() - start
    show_study(study, task, wall_s)
    marks = ", ".join(f"{stored:,}: {mb:.0f}" for stored, mb in watch.marks)
    print(f"driver's memory in MB after so many trials: {marks}; at most {watch.training_peak_mb:.0f} while "
          f"training, {watch.peak_mb:.0f} in all")  # fmt: skip
    show_report(task, study)


def show_study(study: Study, task: Task, wall_s: float) -> None:
    """Print how the trials ended and how long everything took."""
    counts = {state.value: count for state, count in study.store.counts(study.id).items() if count}
    rate = 3600 * counts.get("completed", 0) / wall_s
    best = study.best
    print(f"{wall_s:.1f} s in all, {rate:,.0f} designs an hour, {counts}, "
          f"best accuracy {'-' if best is None else format(best['score'], '.4f')}")  # fmt: skip
    if task.n_designs == GOAL_DESIGNS:  # of fewer, start-up would be too large a part
        verdict = "meets" if wall_s <= GOAL_S else "does not meet"
        print(f"{verdict} the goal of {GOAL_S:.0f} s")
    store_mb = sum(one.stat().st_size for one in task.home.glob("*.db*")) / 1e6
    print(f"store: {store_mb:.1f} MB")


def show_report(task: Task, study: Study) -> None:
    """Print the report's size and how long a browser takes to open it, three times."""
    path = task.settings().workspace.report(study.id)
    print(f"report: {path.stat().st_size / 1e6:.2f} MB")
    for _ in range(3):
        opened = open_page(path)
        if opened is None:
            print("  not opened: no Chromium is installed")
            return
        verdict = "meets" if opened.drawn_s <= GOAL_OPEN_S else "does not meet"
        print(f"  loaded after {opened.loaded_s:.2f} s, {opened.figures} figures drawn after "
              f"{opened.drawn_s:.2f} s: {verdict} the goal of {GOAL_OPEN_S:.0f} s")  # fmt: skip
