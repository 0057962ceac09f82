"""A worker's peak memory against the size of the files that it trains on: HDF5, a small dense model."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, CLASSES, FILE_ROWS = 512, 10, 25_000
"""A file has 51 MB."""
REPLICAS, BATCH = 2, 500
GOAL_BYTES = 1.5e9


def write_files(folder: Path, gigabytes: float) -> list[str]:
    """Write files of so many bytes in all, each of other rows; return their paths."""
    import h5py

    row_bytes = 4 * (FEATURES + 1)
    paths = []
    for number in range(max(REPLICAS, round(gigabytes * 1e9 / (FILE_ROWS * row_bytes)))):
        rng = np.random.default_rng(number)
        labels = rng.integers(CLASSES, size=FILE_ROWS, dtype=np.int32)
        features = rng.standard_normal((FILE_ROWS, FEATURES), np.float32)
        features[np.arange(FILE_ROWS), labels] += 3
        paths.append(str(folder / f"{number:04d}.h5"))
        with h5py.File(paths[-1], "w") as file:
            file["features"], file["labels"] = features, labels
    return paths


def make_model() -> Any:
    """Return the compiled model."""
    import keras

    layers = [keras.Input((FEATURES,)), keras.layers.Dense(32, activation="relu")]
    model = keras.Sequential([*layers, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def peak_bytes() -> int:
    """Return the most resident memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def trained(folder: Path, gigabytes: float) -> tuple[list[int], float, int]:
    """Train an epoch on a new cluster; return each worker's peak, samples a second, and the samples."""
    import dnnflow
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    paths = write_files(folder, gigabytes)
    with open_cluster(ClusterSpec(workers=REPLICAS + 1, memory_limit="0", dashboard_port=0)) as client:
        found = dnnflow.train(make_model(), paths, client=client, replicas=REPLICAS, batch_size=BATCH)
        peaks = sorted(client.run(peak_bytes).values())
    history = found["history"]
    return peaks, history.samples / history.seconds_s, history.samples


def measure(gigabytes: Sequence[float]) -> None:
    """Print each worker's peak, a size a row."""
    print(f"\none epoch of a dense model on HDF5 files, {REPLICAS} replicas and a server, batch {BATCH}")
    print(f"{'files':>9}{'samples':>12}{'samples/s':>12}{'peak of each worker':>24}")
    most = 0
    for size in gigabytes:
        folder = Path(tempfile.mkdtemp(prefix="dnnflow-memory-"))
        try:
            free = shutil.disk_usage(folder).free
            if free < 1.2e9 * size:
                raise SystemExit(
                    f"{size:g} GB need {1.2 * size:.1f} GB free in {folder}, got {free / 1e9:.1f}"
                )
            peaks, rate, samples = trained(folder, size)
        finally:
            shutil.rmtree(folder)
        most = max(most, *peaks)
        told = ", ".join(f"{peak / 1e6:,.0f}" for peak in peaks)
        print(f"{size:6g} GB{samples:12,}{rate:12,.0f}{told:>21} MB", flush=True)
    print(
        f"the largest {'meets' if most < GOAL_BYTES else 'does not meet'} the goal of {GOAL_BYTES / 1e9} GB"
    )
