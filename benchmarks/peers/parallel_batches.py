"""Samples a second of 20 replicas against the batch size; a replica's computing is a wait of its real length.

The wait is the measured time of a Keras step of that batch size, times what makes batches of 100 wait 150 ms.
"""

import time

from peers import parallel_lstm, parallel_scaling

SIZES = (10, 100, 500, 1000)
PAPER = {10: 0.1, 100: 1.0, 500: 3.0, 1000: 4.1}
"""Table I of the paper: relative to batches of 100."""
REPLICAS = 20
WAIT_S = 0.150


def step_s(size: int, repeats: int = 30) -> float:
    """Return the seconds of Keras' `train_on_batch`."""
    model = parallel_lstm.make_model()
    features, labels = parallel_lstm.rows(count=size)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        model.train_on_batch(features, labels)
        times.append(time.perf_counter() - start)
    return sorted(times[3:])[repeats // 2]


def measure(rounds: int) -> None:
    """Print the table."""
    from dnnflow.engines.process_setup import limit_threads
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    limit_threads(1)
    steps = {size: step_s(size) for size in SIZES}
    factor = WAIT_S / steps[100]
    with open_cluster(ClusterSpec(workers=2, memory_limit="0", dashboard_port=0)) as client:
        rates = {
            size: parallel_scaling.rate_of(client, REPLICAS, factor * steps[size])
            * size
            / parallel_scaling.BATCH
            for size in SIZES
        }
    print(f"\nsimulated: {REPLICAS} replicas; computing is a wait of {factor:.0f} times a Keras step")
    print(f"{'batch':>6}{'Keras step':>13}{'wait':>10}{'samples/s':>12}{'of batch 100':>14}{'paper':>8}")
    for size in SIZES:
        print(f"{size:6}{1e3 * steps[size]:10.2f} ms{1e3 * factor * steps[size]:7.0f} ms{rates[size]:12,.0f}"
              f"{rates[size] / rates[100]:14.2f}{PAPER[size]:8.1f}")  # fmt: skip
