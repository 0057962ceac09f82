"""Does accuracy stop changing at 500 to 700 hidden layers? The 2015 paper's experiment, on four tables.

    python benchmarks/depth.py                                    # everything
    python benchmarks/depth.py --tables iris --variants plain     # a part of it

Every network has hidden layers as wide as its table has features, as in the paper: 40 depths from 1 to 1,000,
evenly spaced in logarithm, 5 seeds each. The tables are those that dnnflow ships and a generated one of
100,000 rows. Training times come from designs trained one at a time, in a study of their own on one worker,
whose traces were made before. Files go to a temporary directory.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from distributed import Client

from dnnflow.design.layers import Design
from dnnflow.design.space import Space
from dnnflow.engines.records import TrialState
from dnnflow.execute.cluster import ClusterSpec, open_cluster
from dnnflow.execute.dask import DaskExecutor
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.store.store import Store
from dnnflow.results.view.depth import Band, points
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

DATA = Path(__file__).parent.parent / "pipelines" / "data"
DEPTHS = {"log_int": [1, 1000, 40]}
SEEDS = 5
TIMED = {"log_int": [20, 1000, 8]}
"""Depths measured alone. They all run as loops, so that one trace serves them."""
SHOWN = (1, 4, 16, 65, 256, 547, 1000)
"""Depths whose accuracy is printed."""
GENERATED_ROWS, GENERATED_FEATURES, GENERATED_CLASSES = 100_000, 10, 3

VARIANTS = {
    "plain": {},
    "residual": {"residual": 1, "initializer": "random_normal"},
    "batch norm": {"batch_norm": True},
}
"""What a space adds. Residual sums start with small weights (standard deviation 0.05): with He's, each layer
adds about as much as it gets, and outputs overflow float32 within some hundred layers."""


@dataclass(frozen=True)
class Table:
    """A table and how long networks are trained on it."""

    label: str
    epochs: int
    batch_size: int


TABLES = {
    "iris": Table("species", 40, 32),
    "breast-cancer": Table("diagnosis", 8, 64),
    "digits": Table("digit", 6, 128),
    "generated": Table("class", 1, 1000),
}


@dataclass(frozen=True)
class Outcome:
    """What one table and variant gave."""

    table: str
    variant: str
    view: StudyView
    seconds: float
    alone: StudyView
    """Of the designs that were measured alone."""

    @property
    def unfinished(self) -> int:
        """Designs that failed or were lost."""
        return self.view.counts[TrialState.FAILED] + self.view.counts[TrialState.LOST]


def generate(path: Path) -> None:
    """Write a table: three clusters a class, in features that are mixtures of fewer that matter."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, GENERATED_CLASSES, GENERATED_ROWS)
    centres = rng.normal(0, 2, (GENERATED_CLASSES, 3, 5))
    points = centres[labels, rng.integers(0, 3, GENERATED_ROWS)] + rng.normal(size=(GENERATED_ROWS, 5))
    mixed = points @ rng.normal(size=(5, GENERATED_FEATURES))  # (rows, features)
    frame = pd.DataFrame(mixed + rng.normal(0, 0.5, mixed.shape)).round(4).add_prefix("x")
    frame.assign(**{"class": np.array(["a", "b", "c"])[labels]}).to_csv(path, index=False)


def read_table(name: str, home: Path) -> Dataset:
    """Preprocess one of the tables."""
    path = DATA / f"{name}.csv"
    if name == "generated":
        path = home / "generated.csv"
        generate(path)
    return ingest(Source(url=str(path)), Recipe(label=TABLES[name].label), home / "datasets")


def designs_of(name: str, variant: str, dataset: Dataset, **more: object) -> list[Design]:
    """Return networks of all depths, as wide as the table has features."""
    table = TABLES[name]
    space = {
        "depth": DEPTHS, "units": dataset.n_features, "initializer": "he_uniform", "learning_rate": 0.003,
        "epochs": table.epochs, "batch_size": table.batch_size, **VARIANTS[variant], **more,
    }  # fmt: skip
    return list(Space.from_dict(space).grid())


def train(
    client: Client, dataset: Dataset, designs: Sequence[Design], home: Path, **training: bool
) -> StudyView:
    """Train designs as a new study, and return its numbers."""
    settings = Settings.from_environment({"DNNFLOW_HOME": str(home)})
    store = Store(settings.store_url)
    record = RunRecord(
        key="depth", name="depth", dataset_id=dataset.id, dataset_path=str(dataset.path),
        n_designs=len(designs),
        pipeline={"training": training, "evaluation": {"select_on": "test"}, "outputs": {"models": 0}},
        dataset=dataset.describe(),
    )  # fmt: skip
    store.add_study(record, designs)
    study = Study(store, settings, record.study_id)
    study.train(DaskExecutor(client))
    return study.view()


def sweep(name: str, variants: Sequence[str], home: Path) -> list[Outcome]:
    """Train every variant on a table: all seeds on two workers, then some designs alone on one."""
    dataset = read_table(name, home)
    found = []
    with open_cluster(ClusterSpec(workers=2)) as client:
        for variant in variants:
            designs = designs_of(name, variant, dataset, seed={"int": [0, SEEDS - 1]})
            start = time.perf_counter()
            view = train(client, dataset, designs, home)
            found.append((variant, view, time.perf_counter() - start))
            print(f"{name}, {variant}: {len(designs)} designs in {found[-1][-1]:.0f} s", flush=True)
    with open_cluster(ClusterSpec(workers=1)) as client:
        return [
            Outcome(name, variant, view, seconds, measure_alone(client, name, variant, dataset, home))
            for variant, view, seconds in found
        ]


def measure_alone(client: Client, name: str, variant: str, dataset: Dataset, home: Path) -> StudyView:
    """Train the designs of `TIMED` one at a time; a short one before them makes the trace."""
    first = designs_of(name, variant, dataset, depth=20, epochs=1)
    train(client, dataset, first, home, measured_alone=True)
    timed = designs_of(name, variant, dataset, depth=TIMED)
    return train(client, dataset, timed, home, measured_alone=True)


def numbers(outcomes: Sequence[Outcome]) -> str:
    """Return three tables in Markdown: accuracy, flatness and time."""
    return "\n\n".join([accuracies(outcomes), tests(outcomes), times(outcomes)])


def accuracies(outcomes: Sequence[Outcome]) -> str:
    """Return mean accuracy in per cent and the half-width of its 95 % interval, by depth."""
    rows = []
    for one in outcomes:
        bands = {band.depth: band for band in one.view.score_by_depth}
        shown = [_accuracy(bands.get(depth)) for depth in SHOWN]
        guess = one.view.majority_rate or 0.0
        rows.append([one.table, one.variant, *shown, f"{100 * guess:.1f}", str(one.unfinished)])
    head = ["table", "variant", *(f"{depth:,}" for depth in SHOWN), "largest class", "failed"]
    return _markdown(head, rows)


def _accuracy(band: Band | None) -> str:
    if band is None:
        return "–"
    half = f" ± {100 * (band.interval[1] - band.mean):.1f}" if band.interval else ""
    return f"{100 * band.mean:.1f}{half}"


def tests(outcomes: Sequence[Outcome]) -> str:
    """Return the test of flatness."""
    head = ["table", "variant", "flat beyond 500", "points a doubling (95 %)", "mean beyond 500", "trials"]
    return _markdown([*head, "only guesses"], [_test(one) for one in outcomes])


def _test(one: Outcome) -> list[str]:
    flat = one.view.flatness
    if flat is None:
        return [one.table, one.variant, "no trial", "–", "–", "0", "–"]
    slope = "–"
    if flat.interval:
        slope = f"{points(flat.slope)} ({' to '.join(map(points, flat.interval))})"
    return [
        one.table, one.variant, flat.verdict, slope,
        f"{100 * flat.mean:.1f}", str(flat.n), "yes" if flat.at_majority else "no",
    ]  # fmt: skip


def times(outcomes: Sequence[Outcome]) -> str:
    """Return the line of time over depth, and how long the whole sweep took."""
    head = ["table", "variant", "ms a hidden layer", "intercept, ms", "R²", "timed", "sweep, s"]
    return _markdown(head, [_time(one) for one in outcomes])


def _time(one: Outcome) -> list[str]:
    line = one.alone.time_fit
    fitted = ["–"] * 3 + ["0"]
    if line is not None and not line.amortised:
        fitted = [f"{1000 * line.slope:.2f}", f"{1000 * line.intercept:.0f}", f"{line.r2:.4f}", str(line.n)]
    return [one.table, one.variant, *fitted, f"{one.seconds:.0f}"]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the tables and variants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for name in options.tables:
            # At once: the tables to come may take long
            print(numbers(sweep(name, options.variants, Path(home))), flush=True)


if __name__ == "__main__":
    main()
