"""Time what each metric costs a design, and all measures of a screen: `python benchmarks/metric_costs.py`.

The screen of 50,000 designs on digits has 287 validation rows; the compiled engine trains one in about 24 ms.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from dnnflow.engines.metrics import METRICS
from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.view.design_measures import measures_of_designs
from dnnflow.table.columns.kinds import Task


def seconds(call: Callable[[], object], times: int) -> float:
    """Return the mean seconds of a call, after one that is not counted."""
    call()
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=287)
    parser.add_argument("--designs", type=int, default=50_000)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for classes in (2, 10):
        truth = rng.integers(classes, size=given.rows)
        outputs = rng.random((given.rows, classes)).astype(np.float32)
        outputs[np.arange(given.rows), truth] += 1
        outputs /= outputs.sum(axis=1, keepdims=True)
        for name, metric in METRICS.items():
            if Task.CLASSIFICATION in metric.tasks:
                spent = seconds(partial(metric.score, truth, outputs), 50)
                print(f"{classes:2} classes  {name:18} {1000 * spent:7.2f} ms a design")
    codes = rng.integers(10, size=(given.designs, given.rows)).astype(np.uint8)
    kept, every = KeptPredictions(codes[0], codes, ()), np.arange(given.designs)
    spent = seconds(lambda: measures_of_designs(kept, every, Task.CLASSIFICATION), 1)
    print(f"all measures of {given.designs:,} designs: {spent:.2f} s")


if __name__ == "__main__":
    main()
