"""Get a Dask client: on a cluster of this machine's own, or on one that runs already."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster, Status
from distributed.security import Security
from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

from dnnflow.errors import ClusterError, InputError
from dnnflow.events import ClusterReady, Listener, Notice, ignore
from dnnflow.execute.callers import require_processes

CONNECT_S = 20.0
"""How long a scheduler has to answer."""
DASHBOARD_PORT = 8787
"""Dask's usual port, taken where it is free."""
LOOPBACK = "127.0.0.1"
GONE = (Status.closed, Status.failed)
"""States of a nanny that restarts no worker any more."""

OWN_CLUSTER_CONFIG = {
    # Dask waits for ever for a worker by default.
    "distributed.scheduler.no-workers-timeout": "300s",
    # Dask would close a nanny whose worker is away so long after it last went, even if it is just restarting:
    # `respawn` does it better.
    "distributed.deploy.lost-worker-timeout": "365 days",
    # The scheduler lives in this process: of the outcomes that passed it, only the last events are kept.
    "distributed.admin.low-level-log-length": 100,
    # Workers are restarted between packs when they have grown; pausing one would only keep its packs waiting.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.profile.enabled": False,
    # Each scheduler, nanny, worker and client wakes so often only to see how late it is woken: 300 times a
    # second in this process by default, 50 in each worker, while replicas wait for the processor.
    "distributed.admin.tick.interval": "500ms",
}


_WORKER = "Dask Worker process (from Nanny)"
"""Name that a nanny gives the process of its worker (distributed/nanny.py)."""
_MAIN = ("init_main_from_name", "init_main_from_path")

_lock = threading.Lock()
_users = 0
"""How many clusters are open; guarded by `_lock`."""
_original = spawn.get_preparation_data


@dataclass(frozen=True)
class ClusterSpec:
    """Which Dask cluster a run uses. With neither address nor file: one of its own, on this machine."""

    address: str | None = None
    """Of a running scheduler, `tcp://host:port` or `tls://host:port`."""
    scheduler_file: str | None = None
    """JSON file that a scheduler wrote (`dask scheduler --scheduler-file`)."""
    workers: int | None = None
    """Worker processes of an own cluster; None for one a core."""
    memory_limit: str = "auto"
    """Memory of each worker of an own cluster, e.g. `4GB`; `auto` divides the machine's, `0` is no limit."""
    tls_directory: Path | None = None
    """Directory of `dnnflow cluster certs`; needed for `tls://`, and makes an own cluster speak TLS."""
    dashboard_port: int | None = None
    """Port of an own cluster's dashboard on 127.0.0.1; None for 8787, or any where that is taken."""

    def __post_init__(self) -> None:
        if self.address and self.scheduler_file:
            raise InputError(f"a cluster has an address or a scheduler_file, got both; drop {self.address}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers must be >= 1, got {self.workers}; leave it out for one a core")
        if self.address and urlsplit(self.address).scheme not in ("tcp", "tls"):
            raise InputError(f"an address must be tcp://host:port or tls://host:port, got {self.address!r}")
        if (self.address or "").startswith("tls:") and self.tls_directory is None:
            raise InputError(
                f"a tls:// address needs certificates, got {self.address} and none; "
                "set DNNFLOW_TLS to the directory of `dnnflow cluster certs`"
            )


@contextmanager
def open_cluster(spec: ClusterSpec, listener: Listener = ignore) -> Iterator[Client]:
    """Yield a client whose cluster has workers, and close what was opened.

    An own cluster listens on 127.0.0.1 only, its dashboard too: whoever reaches a scheduler can run code.

    Raises
    ------
    ClusterError
        When the scheduler does not answer in time, or the cluster's own workers do not start.
    """
    if spec.address or spec.scheduler_file:
        with _connect(spec, listener) as client:
            yield client
    else:
        require_processes()
        with _start(spec) as client:
            listener(_ready(client))
            yield client


@contextmanager
def _start(spec: ClusterSpec) -> Iterator[Client]:
    with dask.config.set(OWN_CLUSTER_CONFIG), plain_workers(), _loop_without_interrupts() as loop:
        cluster = LocalCluster.__new__(LocalCluster)
        try:
            cluster.__init__(loop=loop, **_local_options(spec))
        except Exception as error:  # a worker that fails to start raises whatever stopped it
            raise ClusterError(f"the cluster's workers must start, got: {error}; try fewer") from error
        except BaseException:  # Ctrl-C while workers start: those that have, end too
            with suppress(Exception):
                cluster.close(timeout=CONNECT_S)
            raise
        with cluster, Client(cluster, set_as_default=False, timeout=CONNECT_S) as client:
            yield client


@contextmanager
def _loop_without_interrupts() -> Iterator[IOLoop]:
    """Yield a running event loop whose thread, and the processes started from it, leave Ctrl-C alone.

    A terminal sends it to this process and to all workers, which would each end with a traceback, those that
    start in the midst of an import; the driver alone acts upon it, and ends them. Signal masks are inherited.
    """
    resource_tracker.ensure_running()  # its start unblocks SIGINT in the thread that first spawns a process
    runner = LoopRunner(asynchronous=False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()


def _local_options(spec: ClusterSpec) -> dict[str, Any]:
    port = spec.dashboard_port if spec.dashboard_port is not None else _dashboard_port()
    return {
        "n_workers": spec.workers or len(os.sched_getaffinity(0)),
        "threads_per_worker": 1,
        "processes": True,
        "host": LOOPBACK,
        "dashboard_address": f"{LOOPBACK}:{port}",
        "memory_limit": spec.memory_limit,
        "security": security_of(spec.tls_directory) if spec.tls_directory else None,
        "preload": ["dnnflow.execute.worker"],
        # Lost workers are told as events; Dask's own warnings would repeat them between lines of progress.
        "silence_logs": logging.CRITICAL,
    }


@contextmanager
def _connect(spec: ClusterSpec, listener: Listener) -> Iterator[Client]:
    where = spec.address or spec.scheduler_file
    if spec.scheduler_file and not Path(spec.scheduler_file).is_file():
        raise ClusterError(f"no file {where}; start `dask scheduler --scheduler-file {where}` first")
    plain = (spec.address or "").startswith("tcp:")
    security = security_of(spec.tls_directory) if spec.tls_directory and not plain else None
    try:
        client = Client(address=spec.address, scheduler_file=spec.scheduler_file, timeout=CONNECT_S,
                        security=security, set_as_default=False)  # fmt: skip
    except (OSError, TimeoutError, TypeError) as error:
        raise ClusterError(
            f"a scheduler must answer within {CONNECT_S:.0f} s, got none at {where} ({error}); "
            f"start it (dask scheduler), or leave the cluster out to run on this machine"
        ) from error
    with client:
        _warn_if_open(client.scheduler.address, listener)
        listener(_ready(client))
        yield client


def _ready(client: Client) -> ClusterReady:
    workers = len(workers_of(client))
    return ClusterReady(client.scheduler.address, client.dashboard_link or None, workers)


def _warn_if_open(address: str, listener: Listener) -> None:
    url = urlsplit(address)
    host = url.hostname or ""
    if url.scheme == "tcp" and not (host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host)):
        listener(Notice(
            f"{address} is not encrypted: whoever reaches this port can run code on the cluster; "
            "use tls:// with certificates of `dnnflow cluster certs`"
        ))  # fmt: skip


def security_of(directory: Path) -> Security:
    """Return Dask's security settings for a directory of `dnnflow cluster certs`.

    Raises
    ------
    ClusterError
        When a file is missing.
    """
    names = ("ca.pem", "cert.pem", "key.pem")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ClusterError(
            f"a TLS directory has {', '.join(names)}, got none of {', '.join(missing)} in {directory}; "
            "make them with `dnnflow cluster certs`"
        )
    ca, cert, key = (str(directory / name) for name in names)
    roles = {f"tls_{role}_{part}": file for role in ("client", "scheduler", "worker")
             for part, file in (("cert", cert), ("key", key))}  # fmt: skip
    return Security(require_encryption=True, tls_ca_file=ca, **roles)


def _dashboard_port() -> int:
    """Return 8787 where nobody listens, else 0 for any free port."""
    with socket.socket() as probe:
        return 0 if probe.connect_ex((LOOPBACK, DASHBOARD_PORT)) == 0 else DASHBOARD_PORT


def own_cluster(client: Client) -> LocalCluster | None:
    """Return the cluster of this process that a client belongs to, None for any other."""
    return client.cluster if isinstance(client.cluster, LocalCluster) else None


def workers_of(client: Client) -> dict[str, Any]:
    """Return what the scheduler says of each worker, by address.

    Not `Client.scheduler_info`: another of the client's own questions, every two seconds and for no worker,
    may come between its question and its answer, which then has none.
    """
    found: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


def respawn(client: Client) -> None:
    """Replace workers of our own cluster that nobody restarts any more.

    A nanny closes itself when the process it has just started dies (distributed/nanny.py, `instantiate`); the
    cluster makes a new one when that one is forgotten and it is told its size again.
    """
    cluster = own_cluster(client)
    if cluster is not None:
        cluster.loop.add_callback(_replace_closed, cluster)


def _replace_closed(cluster: LocalCluster) -> None:
    for name in [name for name, nanny in cluster.workers.items() if nanny.status in GONE]:
        del cluster.workers[name]
    if cluster.status is Status.running and set(cluster.worker_spec) - set(cluster.workers):
        cluster.scale(len(cluster.worker_spec))


@contextmanager
def plain_workers() -> Iterator[None]:
    """Let nannies start workers, now and after a loss, that do not import the driver's `__main__`.

    multiprocessing imports it again in every process it spawns, so that a script without
    `if __name__ == "__main__"` would run once more in each worker. Workers of dnnflow need nothing of it: a
    function of a script travels by value. Processes other than workers start as ever.
    """
    global _users
    with _lock:
        _users += 1
        # Looked up by multiprocessing at each start, also from the nannies' own threads.
        spawn.get_preparation_data = _preparation
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                spawn.get_preparation_data = _original


def _preparation(name: str) -> dict[str, Any]:
    """Return what multiprocessing passes to a new process about this one."""
    given = _original(name)
    if name != _WORKER:
        return given
    folder = given["dir"]
    # A console script has its own folder in the search path, not the one it was called in.
    path = given["sys_path"] if folder in given["sys_path"] else [*given["sys_path"], folder]
    return {key: value for key, value in given.items() if key not in _MAIN} | {"sys_path": path}
