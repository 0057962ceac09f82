"""A run is called in tasks of Dask, on event loops, with clients of all kinds."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, get_client

from dnnflow.design.layers import Design
from dnnflow.engines.records import Portion, TrainingSettings
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import ClusterError, InputError
from dnnflow.execute.callers import leave_pool, own_worker, require_processes, require_usable
from dnnflow.execute.cluster import workers_of
from dnnflow.execute.dask import DaskExecutor, DaskOptions


def test_outside_of_dask_nothing_happens() -> None:
    require_usable(None)
    require_processes()
    leave_pool()
    assert own_worker() is None


def test_what_is_no_client_is_named() -> None:
    with pytest.raises(InputError, match="must be a Dask client, got SimpleNamespace"):
        require_usable(SimpleNamespace(scheduler_address="tcp://a:1"))


def test_a_closed_client_is_refused(cluster: Client) -> None:
    with Client(cluster.scheduler.address, set_as_default=False) as other:
        require_usable(other)
    with pytest.raises(ClusterError, match="closed; make another one"):
        require_usable(other)


def test_a_client_of_the_running_loop_is_refused_and_used_in_a_thread(cluster: Client) -> None:
    async def call() -> int:
        address = cluster.scheduler.address
        async with Client(address, asynchronous=True, set_as_default=False) as other:
            with pytest.raises(InputError, match=r"await asyncio\.to_thread"):
                require_usable(other)

            def in_a_thread() -> int:
                require_usable(other)
                return len(workers_of(other))

            return await asyncio.to_thread(in_a_thread)

    assert asyncio.run(call()) == 2


def test_a_task_that_waits_for_its_own_worker_gets_it(cluster: Client) -> None:
    def waits(address: str) -> tuple[str | None, int]:
        from dnnflow.execute.callers import leave_pool, own_worker

        leave_pool()
        leave_pool()  # a second time it has left already
        answer = get_client().submit(lambda: 42, workers=[address], allow_other_workers=False, pure=False)
        return own_worker(), answer.result(timeout=30)

    address = next(iter(workers_of(cluster)))
    found = cluster.submit(waits, address, workers=[address], allow_other_workers=False, pure=False)
    assert found.result(timeout=60) == (address, 42)


def test_a_task_is_told_what_to_do_instead_of_starting_a_cluster(cluster: Client) -> None:
    def starts() -> None:
        from dnnflow.execute.callers import require_processes

        require_processes()

    with pytest.raises(ClusterError, match=r"client=distributed\.get_client\(\)"):
        cluster.submit(starts, pure=False).result(timeout=60)


def test_a_task_that_is_a_coroutine_is_refused(cluster: Client) -> None:
    async def waits() -> None:
        from dnnflow.execute.callers import leave_pool

        leave_pool()

    with pytest.raises(InputError, match="def instead of async def"):
        cluster.submit(waits, pure=False).result(timeout=60)


def test_a_process_of_a_pool_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.current_process", lambda: SimpleNamespace(daemon=True))
    with pytest.raises(ClusterError, match="may not; pass a client"):
        require_processes()


def test_a_run_on_workers_that_others_hold_ends_with_a_sentence(cluster: Client, iris: Any) -> None:
    held = [
        cluster.submit(time.sleep, 120, workers=[address], allow_other_workers=False, pure=False)
        for address in workers_of(cluster)
    ]
    study = StudyContext(dataset=str(iris.path), settings=TrainingSettings(engine="compiled"))
    executor = DaskExecutor(cluster, DaskOptions(wait_for_workers_s=2.0))
    try:
        with pytest.raises(ClusterError, match="got 2 that other tasks have held for 2 s"):
            list(executor.train([Portion((Design(seed=one),)) for one in range(4)], study))
    finally:
        cluster.cancel(held, force=True)
        cluster.restart(wait_for_workers=False)
