"""Workers of a parallel training are killed, each kind, one or all: what is lost, and that it goes on.

What each of these tests measured is a row of docs/reliability.md.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from test_parallel_train import (
    PART,
    PARTS,
    Counted,
    assert_clear,
    counting_model,
    distance,
    kill,
    loads,
    network,
    pids,
    table,
    times,
    workers,
)

from dnnflow.api import train
from dnnflow.errors import ClusterError
from dnnflow.events import Notice, ReplicaLost, TrainingProgress
from dnnflow.execute.cluster import ClusterSpec, open_cluster, own_cluster, respawn
from dnnflow.parallel.driver import actors
from dnnflow.parallel.driver import training as driver
from dnnflow.parallel.driver.placement import place

ROWS = PARTS * PART


@pytest.fixture(scope="module")
def opened() -> Iterator[Client]:
    """Three workers, which come back when they are killed."""
    with open_cluster(ClusterSpec(workers=3, memory_limit="0", dashboard_port=0)) as client:
        yield client


@pytest.fixture
def three(opened: Client) -> Client:
    """The three workers, all there."""
    deadline = time.monotonic() + 60
    while len(workers(opened)) < 3 and time.monotonic() < deadline:
        respawn(opened)
        time.sleep(0.2)
    opened.wait_for_workers(3, timeout=1)
    return opened


def placed(client: Client, **how: Any) -> tuple[list[int], list[int]]:
    """Return the processes of servers and replicas of a training that is to begin."""
    placement, found = place(workers(client), device="auto", **how), pids(client)
    return [found[one] for one in placement.servers], [found[one] for one in placement.replicas]


def count_rows(
    client: Client,
    directory: Path,
    seconds_s: float = 0.1,
    *,
    epochs: int = 2,
    check: bool = True,
    **settings: Any,
) -> Any:
    """Train twice on rows whose weights say how often each was trained on."""
    notices: list[Any] = []
    result = train(
        counting_model(ROWS), Counted(str(directory), seconds_s), client=client, batch_size=PART,
        epochs=epochs, wait_s=60, listener=notices.append, **settings,
    )  # fmt: skip
    history = result["history"]
    print(f"\n{[one for one in notices if isinstance(one, Notice | ReplicaLost)]}")
    print(history.lost_servers, history.lost, history.servers[0].samples - 2 * ROWS, history.ended_by)
    if check:
        assert_clear(client)
    return history, times(result["model"])


WAYS: dict[str, dict[str, Any]] = {
    "asynchronous": {},
    "synchronous": {"synchronous": True},
    "one of two shards": {"servers": 2},
    "one of two synchronous shards": {"servers": 2, "synchronous": True},
    "a group's": {"groups": 2, "group_every": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_a_killed_server_begins_again_and_no_row_is_lost(
    three: Client, tmp_path: Path, settings: dict[str, Any]
) -> None:
    number = settings["groups"] + 1 if "groups" in settings else settings.get("servers", 1)
    servers, _ = placed(three, servers=number, replicas=2)
    thread = kill(servers[-1], lambda: loads(tmp_path) >= 24)
    history, found = count_rows(three, tmp_path, replicas=2, shuffle=False, **settings)
    thread.join()
    assert history.lost_servers
    assert found.min() > 0
    if settings.get("synchronous"):
        assert {server.samples for server in history.servers} == {2 * ROWS}
    else:
        assert found.min() >= 2


@pytest.mark.slow
def test_a_synchronous_training_is_that_of_an_undisturbed_one_to_the_bit(three: Client) -> None:
    """Weights, momenta and rows go back together, and the same rows form the same steps again."""
    settings: dict[str, Any] = {"replicas": 2, "synchronous": True, "batch_size": 10, "epochs": 40}
    whole = train(network(), table(), client=three, **settings)["model"]
    servers, _ = placed(three, servers=1, replicas=2)
    begun = threading.Event()

    def hear(event: Any) -> None:
        if isinstance(event, TrainingProgress) and event.samples > 3000:
            begun.set()

    thread = kill(servers[0], begun.is_set)
    result = train(network(), table(), client=three, listener=hear, **settings)
    thread.join()
    history = result["history"]
    assert len(history.lost_servers) == 1
    assert history.servers[0].samples == 40 * 900
    assert distance(result["model"], whole) == 0


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_all_replicas_are_killed_at_once(
    three: Client, tmp_path: Path, replicas: int, synchronous: bool
) -> None:
    """Each loses one life: none for data that were lost with it."""
    _, victims = placed(three, servers=1, replicas=replicas)
    threads = [kill(victim, lambda: loads(tmp_path) >= 12 * replicas) for victim in victims]
    history, found = count_rows(three, tmp_path, replicas=replicas, synchronous=synchronous, shuffle=False)
    for thread in threads:
        thread.join()
    assert [totals.starts for totals in history.replicas.values()] == [2] * replicas
    assert len(history.lost) == replicas
    assert not history.lost_servers
    if synchronous:
        assert history.servers[0].samples == 2 * ROWS
        assert found.min() > 0
    else:
        assert found.min() >= 2


@pytest.mark.slow
def test_a_replica_that_hangs_is_replaced(
    three: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped, not ended: nothing tells the scheduler."""
    monkeypatch.setattr(driver, "HANG_S", 4.0)
    _, victims = placed(three, servers=1, replicas=1)
    thread = kill(victims[0], lambda: loads(tmp_path) >= 12, signal.SIGSTOP)
    try:
        history, found = count_rows(three, tmp_path, replicas=1, check=False)
    finally:
        thread.join()
        os.kill(victims[0], signal.SIGKILL)
    assert history.replicas[0].starts == 2
    assert found.min() >= 2


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_a_server_that_hangs_is_replaced(
    three: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: bool
) -> None:
    """Replicas wait for its answers, and hear from the scheduler that there is another one."""
    monkeypatch.setattr(actors, "HANG_S", 4.0)
    (server,), _ = placed(three, servers=1, replicas=2)
    thread = kill(server, lambda: loads(tmp_path) >= 24, signal.SIGSTOP)
    try:
        history, found = count_rows(three, tmp_path, replicas=2, synchronous=synchronous, check=False)
    finally:
        thread.join()
        os.kill(server, signal.SIGKILL)
    assert len(history.lost_servers) == 1
    assert found.min() >= (1 if synchronous else 2)
    assert history.servers[0].samples == 2 * ROWS or not synchronous


@pytest.mark.slow
def test_a_worker_that_joins_is_used(three: Client, tmp_path: Path) -> None:
    cluster = own_cluster(three)
    assert cluster is not None
    cluster.scale(2)
    while len(workers(three)) > 2:
        time.sleep(0.1)
    began = threading.Timer(0.0, wait_then(lambda: loads(tmp_path) >= 6, lambda: cluster.scale(3)))
    began.start()
    history, found = count_rows(three, tmp_path, 0.5, epochs=4)
    began.join()
    assert len(history.replicas) == 2
    assert history.replicas[1].samples > 0
    assert set(found) == {4.0}


def wait_then(when: Callable[[], bool], act: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does something once something is true."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    return wait


@pytest.mark.slow
def test_without_a_worker_it_ends_with_a_sentence(tmp_path: Path) -> None:
    """Nothing brings these two back."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=False) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        command = [
            sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-nanny",
            "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path),
        ]  # fmt: skip
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        started = [subprocess.Popen(command, env=paths, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            client.wait_for_workers(2, timeout=60)
            threads = [kill(one.pid, lambda: loads(tmp_path) >= 3) for one in started]
            notices: list[Any] = []
            with pytest.raises(ClusterError, match="no worker for them within 2 s") as caught:
                train(
                    counting_model(ROWS), Counted(str(tmp_path)), client=client, batch_size=PART,
                    replicas=1, wait_s=2, listener=notices.append,
                )  # fmt: skip
            assert caught.value.exit_code == 5
            assert any("waits for a worker" in str(one) for one in notices)
            for thread in threads:
                thread.join()
        finally:
            for one in started:
                one.kill()
                one.wait()
