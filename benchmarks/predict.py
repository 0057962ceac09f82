"""How fast `dnnflow predict` writes the predictions of a file, and in how much memory.

A small study is run first; then its best network and its ensemble predict tables of 28 features, a CSV and a
Parquet file, of two sizes: memory is to stay. Each prediction is a process of its own, start-up included.

    python benchmarks/predict.py                 # 200,000 and 1,000,000 rows
    python benchmarks/predict.py --rows 100000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from ingest import children, resident, write_table

TRAINED_ROWS = 4_000


def train(directory: Path) -> Path:
    """Run a small study; return the directory of its models."""
    table = directory / "trained.csv"
    write_table(table, TRAINED_ROWS)
    home = directory / "home"
    command = [sys.executable, "-m", "dnnflow", "--home", str(home), "search", str(table)]
    subprocess.run([*command, "--label", "label", "--designs", "6"], check=True, capture_output=True)
    return next(home.glob("studies/*/models"))


def measure(model: Path, rows: Path, out: Path) -> tuple[float, float, float]:
    """Return seconds on the clock, of processors, and the largest resident memory in GB."""
    start = time.monotonic()
    command = [sys.executable, "-m", "dnnflow", "predict", str(model), str(rows), "--out", str(out)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak, processor = 0, 0.0
    while process.poll() is None:
        try:
            times = process.cpu_times()
            processor = times.user + times.system
        except psutil.NoSuchProcess:
            break
        peak = max(peak, resident(process), *map(resident, children(process)))
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"prediction failed with exit code {process.returncode}")
    return time.monotonic() - start, processor, peak / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--models", type=Path, help="directory of models that this made before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnnflow-predict-") as scratch:
        directory = Path(scratch)
        models = arguments.models or train(directory)
        print(f"{psutil.cpu_count()} cores; {'':18}{'clock':>10}{'processor':>12}{'peak':>10}")
        for rows in (arguments.rows // 5, arguments.rows):
            write_table(directory / "rows.csv", rows)
            for name in ("best-1", "ensemble"):
                for suffix in (".csv", ".parquet"):
                    found = measure(
                        models / f"{name}.keras", directory / f"rows{suffix}", directory / f"out{suffix}"
                    )
                    title = f"{name}, {rows:,} rows {suffix}"
                    print(f"{title:34}{found[0]:8.1f} s{found[1]:10.1f} s{found[2]:7.2f} GB", flush=True)


if __name__ == "__main__":
    main()
