"""Workers of a parallel training are killed, each kind, one or all: what is lost, and that it goes on.

What they measure is in docs/reliability.md: `pytest --log-cli-level=INFO`, of this module's own lines.
"""

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
    loads,
    network,
    pids,
    table,
    times,
    workers,
)

from dnnflow.api import train
from dnnflow.errors import ClusterError
from dnnflow.events import ReplicaLost, TrainingProgress
from dnnflow.execute.cluster import ClusterSpec, open_cluster, own_cluster, respawn
from dnnflow.parallel.driver import actors
from dnnflow.parallel.driver import training as driver
from dnnflow.parallel.driver.placement import place

LOG = logging.getLogger(__name__)
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
    while time.monotonic() < deadline:
        with suppress(OSError):  # one that was killed is not known to be gone yet
            if len(pids(opened)) == 3:
                break
        respawn(opened)
        time.sleep(0.2)
    return opened


def placed(client: Client, **how: Any) -> tuple[list[int], list[int]]:
    """Return the processes of servers and replicas of a training that is to begin."""
    placement, found = place(workers(client), device="auto", **how), pids(client)
    return [found[one] for one in placement.servers], [found[one] for one in placement.replicas]


class Strike(threading.Thread):
    """Sends signals once something is true, and knows when it did."""

    def __init__(
        self, victims: Sequence[int], when: Callable[[], bool], how: signal.Signals = signal.SIGKILL
    ) -> None:
        super().__init__()
        self._victims, self._when, self._how = victims, when, how
        self.struck_s = math.inf
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while not self._when() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.struck_s = time.monotonic()
        for victim in self._victims:
            os.kill(victim, self._how)


def count_rows(
    client: Client,
    directory: Path,
    strike: Strike | None = None,
    *,
    seconds_s: float = 0.1,
    epochs: int = 2,
    check: bool = True,
    **settings: Any,
) -> Any:
    """Train on rows whose weights say how often each was trained on, and log what a strike cost."""
    heard: list[tuple[float, Any]] = []
    result = train(
        counting_model(ROWS), Counted(str(directory), seconds_s), client=client, batch_size=PART,
        epochs=epochs, wait_s=60, listener=lambda event: heard.append((time.monotonic(), event)),
        shuffle=False, **settings,
    )  # fmt: skip
    history, found = result["history"], times(result["model"])
    if strike is not None:
        strike.join()
        told = [(at_s, one.samples) for at_s, one in heard if isinstance(one, TrainingProgress)]
        before = max((samples for at_s, samples in told if at_s < strike.struck_s), default=0)
        # What was reported before, but not yet collected, comes within a second
        lost_s = min(at_s for at_s, one in heard if isinstance(one, ReplicaLost) or "was lost" in str(one))
        going_on_s = [at_s - strike.struck_s for at_s, samples in told if at_s > lost_s and samples > before]
        LOG.info(
            "noticed after %.1f s, rows again from %.1f s on, %d rows trained on again, servers %s",
            lost_s - strike.struck_s, min(going_on_s, default=0.0),
            history.servers[-1 if "groups" not in settings else 0].samples - epochs * ROWS,
            [(round(one.seconds_s, 1), round(one.work_s, 1)) for one in history.lost_servers],
        )  # fmt: skip
    if check:
        assert_clear(client)
    return history, found


WAYS: dict[str, dict[str, Any]] = {
    "asynchronous": {},
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
    strike = Strike(servers[-1:], lambda: loads(tmp_path) >= 24)
    history, found = count_rows(three, tmp_path, strike, replicas=2, **settings)
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

    strike = Strike(servers, begun.is_set)
    result = train(network(), table(), client=three, listener=hear, **settings)
    strike.join()
    history = result["history"]
    assert len(history.lost_servers) == 1
    assert history.servers[0].samples == 40 * 900
    assert distance(result["model"], whole) == 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["server", "replica"])
def test_every_epoch_is_validated_though_one_dies(three: Client, victim: str) -> None:
    """What a process did not report before it died keeps no later epoch from its row."""
    servers, replicas = placed(three, servers=1, replicas=2)
    begun = threading.Event()

    def hear(event: Any) -> None:
        if isinstance(event, TrainingProgress) and event.samples > 3000:
            begun.set()

    strike = Strike(servers if victim == "server" else replicas[-1:], begun.is_set)
    result = train(network(), table(), client=three, listener=hear, validation=table(), replicas=2,
                   synchronous=True, batch_size=10, epochs=30)  # fmt: skip
    strike.join()
    history = result["history"]
    assert len(history.lost_servers if victim == "server" else history.lost) == 1
    losses = [row["val_loss"] for row in history.rows]
    assert [row["epoch"] for row in history.rows] == list(range(1, 31))
    assert max(losses) <= 2 * losses[0], "weights of no server were measured"


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "synchronous"), [(1, False), (2, True)])
def test_all_replicas_are_killed_at_once(
    three: Client, tmp_path: Path, replicas: int, synchronous: bool
) -> None:
    """Each loses one life: none for data that were lost with it."""
    _, victims = placed(three, servers=1, replicas=replicas)
    strike = Strike(victims, lambda: loads(tmp_path) >= 12 * replicas)
    history, found = count_rows(three, tmp_path, strike, replicas=replicas, synchronous=synchronous)
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
    strike = Strike(victims, lambda: loads(tmp_path) >= 12, signal.SIGSTOP)
    try:
        history, found = count_rows(three, tmp_path, strike, replicas=1, check=False)
    finally:
        os.kill(victims[0], signal.SIGKILL)
    assert history.replicas[0].starts == 2
    assert found.min() >= 2


@pytest.mark.slow
def test_a_server_that_hangs_is_replaced(
    three: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replicas wait for its answers, and hear from the scheduler that there is another one."""
    monkeypatch.setattr(actors, "HANG_S", 4.0)
    servers, _ = placed(three, servers=1, replicas=2)
    strike = Strike(servers, lambda: loads(tmp_path) >= 24, signal.SIGSTOP)
    try:
        history, found = count_rows(three, tmp_path, strike, replicas=2, synchronous=True, check=False)
    finally:
        os.kill(servers[0], signal.SIGKILL)
    assert len(history.lost_servers) == 1
    assert found.min() > 0
    assert history.servers[0].samples == 2 * ROWS


@pytest.mark.slow
def test_a_worker_that_joins_is_used(three: Client, tmp_path: Path) -> None:
    cluster = own_cluster(three)
    assert cluster is not None
    cluster.scale(2)
    while len(workers(three)) > 2:
        time.sleep(0.1)
    comes = threading.Thread(target=when, args=(lambda: loads(tmp_path) >= 6, lambda: cluster.scale(3)))
    comes.start()
    history, found = count_rows(three, tmp_path, seconds_s=0.5, epochs=4)
    comes.join()
    assert len(history.replicas) == 2
    assert history.replicas[1].samples > 0
    assert set(found) == {4.0}


def when(true: Callable[[], bool], act: Callable[[], None]) -> None:
    """Do something once something is true."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    act()


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
            strike = Strike([one.pid for one in started], lambda: loads(tmp_path) >= 3)
            notices: list[Any] = []
            with pytest.raises(ClusterError, match="no worker for them within 2 s") as caught:
                train(
                    counting_model(ROWS), Counted(str(tmp_path)), client=client, batch_size=PART,
                    replicas=1, wait_s=2, listener=notices.append,
                )  # fmt: skip
            assert caught.value.exit_code == 5
            assert any("waits for a worker" in str(one) for one in notices)
            strike.join()
        finally:
            for one in started:
                one.kill()
                one.wait()
