"""Choose the Dask workers that hold servers, coordinator and replicas."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnnflow.errors import ClusterError

SERVER, GPU = "SERVER", "GPU"
"""Resources that workers may declare (`dask worker --resources SERVER=1`)."""


@dataclass(frozen=True)
class Placement:
    """Addresses of workers."""

    servers: tuple[str, ...]
    replicas: tuple[str, ...]
    """Of each replica, by its number."""


def place(
    workers: Mapping[str, Mapping[str, Any]], *, servers: int, replicas: int | None, device: str
) -> Placement:
    """Choose a worker for each server and replica.

    Servers go to workers that declare `SERVER`, else to those without a GPU; replicas to workers that declare
    `GPU` where the device asks for it, else to those that hold no server. Where there are too few workers, a
    server shares one with a replica: an actor has a thread of its own.

    Parameters
    ----------
    workers
        Address → what the scheduler says of it.
    replicas
        None for one on each worker that holds no server, and at least one.

    Raises
    ------
    ClusterError
        When there is no worker, none with a GPU where one is asked for, or fewer than replicas.
    """
    if not workers:
        raise ClusterError("parallel training needs at least one worker, got none; start workers first")
    having = {name: _having(workers, name) for name in (SERVER, GPU)}
    if device == "gpu" and not having[GPU]:
        raise ClusterError(
            "device gpu needs a worker that declares GPU, got none; start workers with "
            "--preload dnnflow.execute.worker, or set device: cpu"
        )
    eligible = having[GPU] if having[GPU] and device != "cpu" else list(workers)
    others = [address for address in workers if address not in eligible]
    held = _servers(having[SERVER] or others or eligible, servers)
    free = [address for address in eligible if address not in held and address not in having[SERVER]]
    wanted = replicas or max(1, len(free))
    chosen = [*free, *(address for address in eligible if address not in free)]
    if wanted > len(chosen):
        raise ClusterError(
            f"{wanted} replicas need as many workers, got {len(chosen)}; start more, or set replicas"
        )
    return Placement(tuple(held), tuple(chosen[:wanted]))


def replica_workers(workers: Mapping[str, Mapping[str, Any]], device: str) -> list[str]:
    """Return the workers that a replica may be on beside those of `place`: none that declares `SERVER`."""
    servers, gpus = (_having(workers, name) for name in (SERVER, GPU))
    wanted = gpus if device == "gpu" or (gpus and device == "auto") else list(workers)
    return [address for address in wanted if address not in servers]


def free_worker(workers: Sequence[str], placement: Placement, busy: Sequence[str]) -> str | None:
    """Return a worker for a replica whose own is gone, or None while there is none."""
    free = [address for address in workers if address not in busy]
    return next(iter([address for address in free if address not in placement.servers] or free), None)


def other_servers(
    workers: Mapping[str, Mapping[str, Any]], placement: Placement, lost: Collection[str],
    busy: Collection[str],
) -> tuple[str, ...]:  # fmt: skip
    """Return workers of all servers, with others for those that are lost; empty where no worker is left.

    Others are those that declare `SERVER`, then those that hold neither a replica nor a server.
    """
    declared = _having(workers, SERVER)
    found = [address for address in workers if address not in lost]
    found.sort(key=lambda one: (one not in declared, one in busy, one in placement.servers))
    others = itertools.cycle(found)
    return tuple(one if one in found else next(others) for one in placement.servers) if found else ()


def _having(workers: Mapping[str, Mapping[str, Any]], resource: str) -> list[str]:
    return [address for address, facts in workers.items() if facts.get("resources", {}).get(resource)]


def _servers(candidates: Sequence[str], count: int) -> list[str]:
    """Spread servers over candidates, from the last: replicas are placed from the first."""
    backwards = list(reversed(candidates))
    return [backwards[number % len(backwards)] for number in range(count)]
