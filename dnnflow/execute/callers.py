"""Look from where a run is called: with whose client, in a task of a Dask worker, on an event loop."""

import asyncio
import multiprocessing
from typing import TYPE_CHECKING, Any

from dnnflow.errors import ClusterError, InputError

if TYPE_CHECKING:
    from distributed import Client


def require_usable(client: "Client | None") -> None:
    """Look whether a caller's client can be waited for; None is no client.

    Raises
    ------
    InputError
        If it is no client, or an asynchronous one whose event loop this thread runs.
    ClusterError
        If it is closed.
    """
    if client is None:
        return
    from distributed import Client

    if not isinstance(client, Client):
        raise InputError(
            f"client must be a Dask client, got {type(client).__name__}; pass distributed.Client(...) of it"
        )
    address = _address(client)
    if client.asynchronous:
        raise InputError(
            f"a client is waited for, got one of {address} on whose event loop this is called, which would "
            "wait for itself; call dnnflow in a thread, with the same client: "
            "await asyncio.to_thread(lambda: …)"
        )
    if client.status in ("closed", "closing"):
        raise ClusterError(f"client must be connected, got one of {address} that is closed; make another one")


def leave_pool() -> None:
    """Give back the thread of a Dask task that calls this, as the task is about to wait for others.

    Its worker takes other tasks meanwhile, those that are waited for among them (`distributed.secede`); the
    calling one goes on beside them. Does nothing elsewhere.

    Raises
    ------
    InputError
        If the task is a coroutine: its worker could do nothing until it ends.
    """
    from distributed import secede

    if own_worker() is None:
        return
    if is_on_event_loop():
        raise InputError(
            "a task that waits for others runs in a thread of its worker, got a coroutine, which would hold "
            "the worker's event loop; make the task a plain function (def instead of async def)"
        )
    try:
        secede()
    except (KeyError, AttributeError):  # it has left already; a thread that the task has started
        return


def own_worker() -> str | None:
    """Return the address of the Dask worker in whose task this is called, None elsewhere."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return None


def require_processes() -> None:
    """Look whether this process may start others, as a cluster of this machine needs.

    Raises
    ------
    ClusterError
        If not: in a worker of a Dask cluster, or of a pool of `multiprocessing`.
    """
    if not multiprocessing.current_process().daemon:
        return
    if own_worker() is not None:
        remedy = "pass client=distributed.get_client() to use the cluster that this worker is of"
    else:
        remedy = "pass a client, or name a running cluster (DNNFLOW_CLUSTER)"
    raise ClusterError(
        "a cluster of this machine is started by a process that may start others, got a worker process, "
        f"which may not; {remedy}, or train in this process (executor.kind: in-process, n_jobs=1)"
    )


def is_on_event_loop() -> bool:
    """Whether this thread runs an event loop now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _address(client: Any) -> str:
    scheduler = getattr(client, "scheduler", None)
    return str(getattr(scheduler, "address", None) or "a scheduler that is not known")
