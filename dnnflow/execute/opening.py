"""Open the executor that a pipeline asks for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dnnflow.events import Listener, ignore
from dnnflow.execute.executor import Executor
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.execute.cluster import ClusterSpec


def cluster_spec(executor: Mapping[str, Any], settings: Settings) -> "ClusterSpec":
    """Return the cluster that an executor section names, else the installation's, else an embedded one."""
    from dnnflow.execute.cluster import ClusterSpec

    named = executor.get("address") or executor.get("scheduler_file")
    return ClusterSpec(
        address=executor.get("address") or (None if named else settings.cluster),
        scheduler_file=executor.get("scheduler_file"),
        workers=executor.get("workers"),
        memory_limit=executor.get("memory_limit", "auto"),
        tls_directory=settings.tls_directory,
        dashboard_port=executor.get("dashboard_port"),
    )


@contextmanager
def open_client(executor: Mapping[str, Any], settings: Settings, *, client: "Client | None" = None,
                listener: Listener = ignore) -> Iterator["Client | None"]:  # fmt: skip
    """Yield a Dask client: the given one (left open), or a new one; None for the in-process executor.

    A Dask task that calls this leaves its worker's thread pool, which would else wait for itself.

    Raises
    ------
    InputError
        If the given one cannot be waited for.
    ClusterError
        If it is closed; see `open_cluster`, too.
    """
    if client is not None:
        lend(client)
        yield client
    elif executor.get("kind", "dask") == "in-process":
        yield None
    else:
        from dnnflow.execute.callers import leave_pool
        from dnnflow.execute.cluster import open_cluster

        leave_pool()
        with open_cluster(cluster_spec(executor, settings), listener) as opened:
            yield opened


def lend(client: "Client | None") -> None:
    """Look whether a caller's client can be used, and leave the pool of the worker whose task this is."""
    if client is not None:
        from dnnflow.execute.callers import leave_pool, require_usable

        require_usable(client)
        leave_pool()


def executor_on(client: "Client | None") -> Executor:
    """Return the executor of a client; without one, the executor of this process."""
    if client is None:
        from dnnflow.execute.local import LocalExecutor

        return LocalExecutor()
    from dnnflow.execute.dask import DaskExecutor

    return DaskExecutor(client)
