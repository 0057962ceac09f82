"""How much of a study is not training: 20,000 trials of an engine that does nothing, and 200 of Keras.

    python benchmarks/study.py                   # both parts
    python benchmarks/study.py --part trials     # the queue of the 2015 paper: trials a second, stored
    python benchmarks/study.py --part keras      # 1 - sum of training_s / (wall x workers)

Everything runs on a cluster of this machine, one worker a core. Files go to a temporary directory.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
from distributed import Client
from null_engine import Null

from dnnflow.design.layers import Design
from dnnflow.design.space import Space
from dnnflow.events import Event, TrialsStored
from dnnflow.execute.cluster import ClusterSpec, open_cluster
from dnnflow.execute.dask import DaskExecutor
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.store.store import Store
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

DATA = Path(__file__).parent.parent / "pipelines" / "data"
SPACE = {
    "depth": {"int": [1, 4]},
    "units": {"choice": [16, 32, 64, 128]},
    "activation": {"choice": ["relu", "tanh"]},
    "optimizer": {"choice": ["adam", "sgd"]},
    "learning_rate": {"loguniform": [0.001, 0.1]},
    "batch_size": 32,
}
"""What the 200 Keras designs are drawn from: up to 64 networks, each with several learning rates."""
GOAL = 0.05
"""Share of the workers' time that may go into anything but training."""


def no_op(number: int) -> int:
    """Do nothing, as a Dask task of its own."""
    return number


def driver_mb() -> float:
    """Return the resident memory of this process, which the scheduler shares, in MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


def begin(name: str, designs: list[Design], dataset: Dataset, settings: Settings, engine: str) -> Study:
    """Put a new study into the store."""
    store = Store(settings.store_url)
    record = RunRecord(
        key=name, name=name, dataset_id=dataset.id, dataset_path=str(dataset.path), n_designs=len(designs),
        pipeline={"training": {"engine": engine}, "evaluation": {"select_on": "test"}},
        dataset=dataset.describe(),
    )  # fmt: skip
    store.add_study(record, designs)
    return Study(store, settings, record.study_id)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_trials(count: int, home: Path) -> None:
    """Compare trials of nothing with plain Dask tasks of nothing, on one cluster."""
    settings = Settings.from_environment({"DNNFLOW_HOME": str(home)})
    dataset = ingest(Source(url=str(DATA / "iris.csv")), Recipe(label="species"), home / "datasets")
    designs = [Design(seed=seed) for seed in range(count)]
    study = begin("trials", designs, dataset, settings, f"null_engine:{Null.__name__}")
    del designs
    memory: list[tuple[int, float]] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrialsStored):
            memory.append((event.completed, driver_mb()))

    with open_cluster(ClusterSpec()) as client:
        memory.append((0, driver_mb()))
        with listening(watch) as listener:  # as each door does
            ours = timed(lambda: study.train(DaskExecutor(client), listener=listener))
        memory.append((count, driver_mb()))
        plain = timed(lambda: plain_map(client, count))
    stored = sum(study.store.counts(study.id).values())
    print(f"{stored:,} trials of an engine that does nothing, stored in SQLite")
    print(f"  dnnflow           {ours:8.2f} s  {stored / ours:10,.0f} a second")
    print(f"  plain Client.map  {plain:8.2f} s  {count / plain:10,.0f} a second (nothing stored)")
    print("  driver and scheduler memory in MB after so many trials: "
          + ", ".join(f"{done:,}: {mb:.0f}" for done, mb in spread(memory)))  # fmt: skip


def plain_map(client: Client, count: int) -> None:
    """Run as many tasks that do nothing as Dask's users would."""
    client.gather(client.map(no_op, range(count), pure=False))


def spread(points: list[tuple[int, float]], most: int = 8) -> list[tuple[int, float]]:
    """Return at most so many of the points, the first and the last among them."""
    step = max(1, -(-(len(points) - 1) // (most - 1)))
    return [*points[:-1:step], points[-1]]


def measure_keras(count: int, epochs: int, home: Path) -> None:
    """Say where the time of a real study goes."""
    settings = Settings.from_environment({"DNNFLOW_HOME": str(home)})
    dataset = ingest(Source(url=str(DATA / "digits.csv")), Recipe(label="digit"), home / "datasets")
    designs = list(Space.from_dict(SPACE | {"epochs": epochs}).sample(count, seed=1))
    start = time.perf_counter()
    with open_cluster(ClusterSpec()) as client:
        workers = len(client.scheduler_info()["workers"])
        opened = time.perf_counter() - start
        imported = timed(lambda: client.run(import_keras))
        study = begin("keras", designs, dataset, settings, "keras")
        wall = timed(lambda: study.train(DaskExecutor(client)))
    frame = study.trials()
    print(f"{len(frame)} Keras designs of {epochs} epochs on digits, {dict(states(frame))}")
    print(f"  worker start-up, not counted below: {opened:.1f} s processes, {imported:.1f} s import of Keras")
    print_shares(frame, wall, workers)


def print_shares(frame: pd.DataFrame, wall: float, workers: int) -> None:
    """Print what the workers' time went into, and whether the goal is met."""
    capacity = wall * workers
    training, total = frame["training_s"].sum(), frame["total_s"].sum()
    shares = {
        "training (training_s)": training,
        "building and evaluating": total - training,
        "executor, queue, store, idle": capacity - total,
    }
    print(f"  wall {wall:.1f} s on {workers} workers = {capacity:.1f} s, of which")
    for what, seconds in shares.items():
        each = 1000 * seconds / len(frame)
        print(f"  {what:30}{seconds:8.1f} s {seconds / capacity:7.1%} {each:8.1f} ms a design")
    lost = 1 - training / capacity
    verdict = "meets" if lost <= GOAL else "does not meet"
    print(f"  1 - sum of training_s / (wall x workers) = {lost:.1%}: {verdict} the goal of {GOAL:.0%}")


def states(frame: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """Yield how many trials ended in which state."""
    for state, trials in frame.groupby("state"):
        yield str(state), len(trials)


def import_keras() -> None:
    """Do on a worker, before the clock runs, what its first training would do: import Keras."""
    from dnnflow.engines.process_setup import import_tensorflow, limit_threads

    limit_threads(1)
    import_tensorflow()


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["trials", "keras", "both"], default="both")
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--designs", type=int, default=200)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30, 100])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        if options.part != "keras":
            measure_trials(options.trials, Path(home) / "trials")
        if options.part != "trials":
            for epochs in options.epochs:
                measure_keras(options.designs, epochs, Path(home) / f"keras-{epochs}")


if __name__ == "__main__":
    main()
