"""How fast a table becomes a dataset, and in how much memory: a CSV, and a Parquet file of the same rows.

Beside it run pandas + scikit-learn, polars, and bare reads. Each contender has a process of its own, and all
take turns, several rounds. The memory is that of the process and its children, sampled. The processor time is
the whole process's: it tells more than the clock where other work shares the machine. The table is made from
a seed in a temporary directory and removed.

    python benchmarks/ingest.py                  # 2,000,000 rows x 28 features + label, 1.1 GB
    python benchmarks/ingest.py --rows 100000    # a small one
    python benchmarks/ingest.py --rows 20000 --features 5000    # a wide one
    python benchmarks/ingest.py --large          # also dnnflow on five times the rows: its memory stays
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

FEATURES = 28
NAMES = [f"feature_{i}" for i in range(FEATURES)]


def write_table(path: Path, rows: int) -> None:
    """Write the table: normal features, and a label that depends on the first.

    Of the Parquet files one is as polars writes it (zstd), one as pandas does (snappy).
    """
    import polars as pl

    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        step = max(1, 100_000 * FEATURES // len(NAMES))
        for start in range(0, rows, step):
            features = rng.standard_normal((min(step, rows - start), len(NAMES)))
            label = (features[:, 0] + rng.standard_normal(len(features)) > 0).astype(int)
            frame = pl.DataFrame(dict(zip(NAMES, features.T, strict=True)) | {"label": label})
            frame.write_csv(file, include_header=start == 0)
    # Not read whole: five times the rows would not fit the memory of a small machine
    pl.scan_csv(path).sink_parquet(path.with_suffix(".parquet"))
    pl.scan_csv(path).sink_parquet(path.with_suffix(".snappy"), compression="snappy")


def run_dnnflow(path: Path) -> None:
    """Preprocess out of core, to a dataset on disk."""
    from dnnflow.table.columns.recipe import Recipe, Source
    from dnnflow.table.store.ingest import ingest

    with tempfile.TemporaryDirectory(dir=path.parent) as datasets:
        dataset = ingest(Source(url=str(path)), Recipe(label="label"), Path(datasets))
        check(dataset.rows["train"], dataset.rows["test"])


def run_parquet(path: Path) -> None:
    """Preprocess the Parquet file of the same rows out of core, to a dataset on disk."""
    run_dnnflow(path.with_suffix(".parquet"))


def run_snappy(path: Path) -> None:
    """Preprocess the Parquet file that is compressed as pandas does it."""
    run_dnnflow(path.with_suffix(".snappy"))


def run_pandas(path: Path) -> None:
    """Preprocess in memory with pandas and scikit-learn."""
    import pandas as pd
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelEncoder, MinMaxScaler

    frame = pd.read_csv(path)
    label = LabelEncoder().fit_transform(frame.pop("label")).astype(np.int32)
    train, test, _, _ = train_test_split(
        frame.fillna(0), label, test_size=0.2, stratify=label, random_state=0
    )
    scaler = MinMaxScaler().fit(train)
    arrays = [np.ascontiguousarray(scaler.transform(part), dtype=np.float32) for part in (train, test)]
    check(*map(len, arrays))


def run_polars(path: Path) -> None:
    """Preprocess in memory with polars."""
    preprocess_by_polars(path)


def run_polars_to_disk(path: Path) -> None:
    """Preprocess in memory with polars, and write the result to disk as dnnflow does."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        for name, array in preprocess_by_polars(path).items():
            np.save(Path(directory) / f"{name}.npy", array)


def preprocess_by_polars(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of both splits."""
    import polars as pl

    frame = pl.read_csv(path).fill_null(0)
    test = np.random.default_rng(0).random(frame.height) < 0.2
    classes = frame["label"].unique().sort()
    label = frame.select(
        pl.col("label").replace_strict(classes, range(len(classes)), return_dtype=pl.Int32)
    ).to_numpy()
    train = frame.filter(pl.Series(~test)).select(NAMES)
    low, high = train.min().row(0), train.max().row(0)
    scaled = [((pl.col(n) - a) / (b - a)).cast(pl.Float32) for n, a, b in zip(NAMES, low, high, strict=True)]
    parts = {"train": train, "test": frame.filter(pl.Series(test)).select(NAMES)}
    arrays = {name: np.ascontiguousarray(part.select(scaled).to_numpy()) for name, part in parts.items()}
    check(*map(len, arrays.values()))
    return arrays | {"labels": label}


def read_pandas(path: Path) -> None:
    """Read only, pandas."""
    import pandas as pd

    check(len(pd.read_csv(path)), 1)


def read_polars(path: Path) -> None:
    """Read only, polars."""
    import polars as pl

    check(pl.read_csv(path).height, 1)


def read_pyarrow(path: Path) -> None:
    """Read only, pyarrow's stream of 1 MB blocks."""
    import pyarrow.csv

    options = pyarrow.csv.ReadOptions(block_size=1 << 20)
    check(sum(batch.num_rows for batch in pyarrow.csv.open_csv(path, read_options=options)), 1)


def check(train: int, test: int) -> None:
    """Fail if rows were lost on the way."""
    if not train or not test:
        raise SystemExit(f"a contender must use all rows, got {train} and {test}")


CONTENDERS = {
    "dnnflow (to disk)": run_dnnflow,
    "dnnflow, Parquet": run_parquet,
    "dnnflow, snappy": run_snappy,
    "pandas + scikit-learn": run_pandas,
    "polars": run_polars,
    "polars (to disk)": run_polars_to_disk,
    "read: pandas": read_pandas,
    "read: polars": read_polars,
    "read: pyarrow 1 MB": read_pyarrow,
}


@dataclass(frozen=True)
class Run:
    """One run of a contender."""

    seconds_s: float
    """On the clock, without the start of Python."""
    processor_s: float
    """Of all cores, with the start of Python."""
    peak_gb: float
    """Resident memory of all its processes."""


def measure(contender: str, path: Path) -> Run:
    """Run a contender in a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--contender", contender, "--table", str(path)]
    command += ["--features", str(len(NAMES))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(tree))
            time.sleep(0.02)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{contender} failed with exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(float(said), processor, peak / 1e9)


def resident(process: psutil.Process) -> int:
    """Return the resident memory of a process and its children, in bytes."""
    total = 0
    for one in [process, *children(process)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def children(process: psutil.Process) -> list[psutil.Process]:
    """Return a process's descendants, none if it has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def show(title: str, rows: int, runs: list[Run], ours: Run | None = None) -> None:
    """Print a contender's line: medians over its runs, and their ratio to ours."""
    run = middle(runs)
    spread = f"{min(r.seconds_s for r in runs):.1f}-{max(r.seconds_s for r in runs):.1f}"
    line = f"{title:22}{run.seconds_s:8.2f} s {spread:>10}{run.processor_s:8.2f} s"
    line += f"{rows / run.seconds_s / 1e3:9.0f} k rows/s{run.peak_gb:7.2f} GB"
    if ours:
        line += f"{run.seconds_s / ours.seconds_s:8.2f} x{run.processor_s / ours.processor_s:8.2f} x"
    print(line)


def middle(runs: list[Run]) -> Run:
    """Return the medians of several runs' times, and the largest of their memories."""
    return Run(
        statistics.median(r.seconds_s for r in runs),
        statistics.median(r.processor_s for r in runs),
        max(r.peak_gb for r in runs),
    )


def compare(path: Path, rows: int, rounds: int) -> None:
    """Run all contenders in turn and print them beside each other."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            runs[name].append(measure(name, path))
    print(f"{'':22}{'median':>10} {'range':>10}{'processor':>10}{'speed':>18}{'peak':>10}", end="")
    print(f"{'time/ours':>10}{'proc./ours':>10}")
    for name, found in runs.items():
        show(name, rows, found, middle(runs["dnnflow (to disk)"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also dnnflow on five times the rows")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    NAMES[:] = [f"feature_{i}" for i in range(arguments.features)]
    if arguments.contender:
        start = time.monotonic()
        CONTENDERS[arguments.contender](arguments.table)
        print(time.monotonic() - start)
        return
    with tempfile.TemporaryDirectory(prefix="dnnflow-ingest-") as directory:
        path = Path(directory) / "table.csv"
        write_table(path, arguments.rows)
        size = path.stat().st_size / 1e9
        shape = f"{arguments.rows:,} rows x {arguments.features} + label"
        print(f"{shape}, {size:.2f} GB, {psutil.cpu_count()} cores")
        compare(path, arguments.rows, arguments.rounds)
        if arguments.large:
            write_table(path, 5 * arguments.rows)
            show("dnnflow, 5 x the rows", 5 * arguments.rows, [measure("dnnflow (to disk)", path)])


if __name__ == "__main__":
    main()
