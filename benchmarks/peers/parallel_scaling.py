"""Samples a second against replicas, to 64: simulated computing, everything else real.

A replica's computing is a wait. Server, connections, messages and updates are those of a training: the server
is an actor on one worker, the replicas are threads on another one, each with a connection of its own.
"""

import threading
import time
from typing import Any

import numpy as np

PARAMETERS = 3_263
"""Of the LSTM of the paper: 20 units on 19 features, 3 classes."""
BATCH = 100
REPLICAS = (1, 2, 4, 8, 10, 16, 32, 60, 64)
WAITS_S = (0.150, 0.015)
PAPER = {10: "~10", 60: "~30"}
"""Speed-up that the paper shows."""
GOAL = 50.0
"""Of 60 replicas that wait 150 ms."""


def exchanges(actor: Any, replicas: int, wait_s: float, measured_s: float) -> float:
    """Let replicas push and pull in threads of this process; return exchanges a second."""
    from dnnflow.parallel.channel.actor_channel import open_channel
    from dnnflow.parallel.server.messages import Push

    counts, going, started = [0] * replicas, threading.Event(), threading.Barrier(replicas + 1)
    channels = [open_channel(actor) for _ in range(replicas)]  # here, where the task's worker is known
    going.set()

    def one(replica: int) -> None:
        channel = channels[replica]
        step = channel.join(replica)
        version, weights = channel.pull(replica)
        gradient, out = np.zeros_like(weights), np.empty_like(weights)
        started.wait()
        time.sleep(wait_s * replica / replicas)  # they do not come all at once
        while going.is_set():
            time.sleep(wait_s)
            reply = channel.exchange(Push(replica, step, version, BATCH, gradient), out)
            version, step = reply.version, step + 1
            counts[replica] += 1
        channel.leave(replica)
        channel.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(replicas)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(2 * wait_s)
    before, begin = sum(counts), time.perf_counter()
    time.sleep(measured_s)
    rate = (sum(counts) - before) / (time.perf_counter() - begin)
    going.clear()
    for thread in threads:
        thread.join()
    return rate


def server_on(client: Any, address: str, replicas: int) -> Any:
    """Make a server of the LSTM's size on a worker; return its future."""
    from dnnflow.parallel.channel.server_actor import ServerActor
    from dnnflow.parallel.spec.algorithm import Algorithm

    return client.submit(
        ServerActor, np.zeros(PARAMETERS, np.float32), Algorithm(), replicas=replicas,
        actor=True, workers=[address], allow_other_workers=False, pure=False,
    )  # fmt: skip


def rate_of(client: Any, replicas: int, wait_s: float) -> float:
    """Return samples a second of so many replicas."""
    one, other = list(client.scheduler_info(n_workers=-1)["workers"])[:2]
    future = server_on(client, one, replicas)
    measured_s = max(3.0, 20 * wait_s)
    found = client.submit(
        exchanges,
        future,
        replicas,
        wait_s,
        measured_s,
        workers=[other],
        allow_other_workers=False,
        pure=False,
    )
    return BATCH * float(found.result())


def measure(rounds: int) -> None:
    """Print both curves."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    with open_cluster(ClusterSpec(workers=2, memory_limit="0", dashboard_port=0)) as client:
        for wait_s in WAITS_S:
            print(f"\nsimulated: computing is a wait of {1e3 * wait_s:.0f} ms; asynchronous, K = 1, "
                  f"{PARAMETERS:,} weights, Adam")  # fmt: skip
            print(f"{'replicas':>9}{'samples/s':>12}{'speed-up':>10}{'paper':>8}")
            first = rate_of(client, 1, wait_s)
            for replicas in REPLICAS:
                rate = rate_of(client, replicas, wait_s) if replicas > 1 else first
                paper = PAPER.get(replicas, "") if wait_s == WAITS_S[0] else ""
                print(f"{replicas:9}{rate:12,.0f}{rate / first:10.1f}{paper:>8}", flush=True)
                if replicas == 60 and wait_s == WAITS_S[0]:
                    verdict = "meets" if rate / first >= GOAL else "does not meet"
                    print(f"{'':9}{verdict} the goal of {GOAL:.0f}")
