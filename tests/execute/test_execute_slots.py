"""Which worker gets the next load, without a cluster."""

from typing import Any

import pytest

from dnnflow.design.layers import Design
from dnnflow.engines.records import Portion
from dnnflow.errors import ClusterError
from dnnflow.execute.packs import Load
from dnnflow.execute.slots import GRACE_S, STALLED_S, Slot, Slots, WorkerFacts, require_device

LOAD = Load((Portion((Design(),)), Portion((Design(seed=1),))))
SUSPECT = Load((Portion((Design(seed=2),)),), suspect=True)


def facts(address: str = "tcp://a:1", **changes: Any) -> WorkerFacts:
    plain = {"local_directory": "/w/1", "nanny": "tcp://a:2", "nthreads": 1, "memory_limit": 10**9}
    return WorkerFacts.from_identity(address, plain | changes)


def test_a_worker_has_one_load_running_and_one_waiting() -> None:
    slot = Slot(facts())
    for number in (1, 2):
        assert slot.can_take(suspects_wait=False)
        slot.assign(number, LOAD, now_s=0.0)
    assert not slot.can_take(suspects_wait=False)


def test_a_suspect_runs_with_nothing_else_on_its_worker() -> None:
    slot = Slot(facts())
    slot.assign(1, SUSPECT, now_s=0.0)
    assert not slot.can_take(suspects_wait=False)
    other = Slot(facts())
    other.assign(1, LOAD, now_s=0.0)
    assert not other.can_take(suspects_wait=True)


def test_a_worker_that_returns_at_its_old_address_is_another_one() -> None:
    table = Slots("auto")
    table.update({"tcp://a:1": facts()})
    table.by_address["tcp://a:1"].assign(1, LOAD, now_s=0.0)
    (gone,) = table.update({"tcp://a:1": facts(local_directory="/w/2")})
    assert gone.loads == {1: LOAD}
    assert not table.by_address["tcp://a:1"].loads


def test_workers_without_gpu_get_nothing_under_device_gpu() -> None:
    workers = {"tcp://a:1": facts(), "tcp://b:1": facts("tcp://b:1", resources={"GPU": 1})}
    table = Slots("gpu")
    table.update(workers)
    assert list(table.by_address) == ["tcp://b:1"]


def test_device_cpu_uses_gpu_workers_as_plain_ones() -> None:
    table = Slots("cpu")
    table.update({"tcp://a:1": facts(resources={"GPU": 1})})
    assert table.device_of(table.by_address["tcp://a:1"]) == "cpu"


def test_gpu_without_a_gpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(ClusterError, match=r"GPU resource, got 1 without.*set device: auto"):
        require_device("gpu", {"tcp://a:1": facts()})
    require_device("gpu", {})  # workers may still come


def test_memory_past_sixty_percent_of_the_limit_recycles_a_worker() -> None:
    slot = Slot(facts(memory_limit=10 * 10**9))
    assert not slot.weigh(10**9, None)
    assert not slot.weigh(5 * 10**9, None)
    assert slot.weigh(6 * 10**9 + 1, None)


def test_a_worker_that_needs_its_memory_from_the_start_is_not_recycled_for_ever() -> None:
    slot = Slot(facts(memory_limit=10**9))
    assert not slot.weigh(9 * 10**8, None)
    assert not slot.weigh(9 * 10**8, None)


def test_a_worker_without_a_limit_may_grow_by_two_gigabytes() -> None:
    slot = Slot(facts(memory_limit=0))
    slot.weigh(2**29, None)
    assert not slot.weigh(2**31, None)
    assert slot.weigh(2**29 + 2**31 + 1, None)


def test_a_load_past_its_designs_time_limits_hangs() -> None:
    slot = Slot(facts())
    slot.assign(1, LOAD, now_s=100.0)
    assert not slot.hangs(100.0 + 2 * 30.0 + GRACE_S, limit_s=30.0)
    assert slot.hangs(101.0 + 2 * 30.0 + GRACE_S, limit_s=30.0)
    assert not slot.hangs(1e9, limit_s=None)


def test_compiling_is_no_hanging() -> None:
    slot = Slot(facts(), is_compiling=True)
    slot.assign(1, LOAD, now_s=0.0)
    assert not slot.hangs(1e6, limit_s=1.0)


def test_a_stack_may_be_halved_down_to_single_designs_by_its_engine_before_it_hangs() -> None:
    """Five designs: whole, in parts of 3, of 2 and alone, each time up to the limits of all members."""
    slot = Slot(facts())
    five = Portion(tuple(Design(seed=seed) for seed in range(5)))
    slot.assign(1, Load((five, Portion((Design(seed=5),)))), now_s=0.0)
    longest_s = (5 * 4 + 1) * 30.0 + GRACE_S
    assert not slot.hangs(longest_s, limit_s=30.0)
    assert slot.hangs(longest_s + 1, limit_s=30.0)


def test_waiting_behind_another_load_is_not_hanging() -> None:
    slot = Slot(facts())
    slot.assign(1, LOAD, now_s=0.0)
    slot.assign(2, LOAD, now_s=0.0)
    slot.release(1, now_s=100.0)
    assert not slot.hangs(150.0, limit_s=1.0)


def test_a_paused_worker_that_runs_nothing_hangs_after_a_while() -> None:
    slot = Slot(facts(status="paused"))
    slot.assign(1, LOAD, now_s=0.0)
    assert not slot.hangs(0.0, limit_s=None)
    assert not slot.hangs(STALLED_S, limit_s=None)
    assert slot.hangs(STALLED_S + 1, limit_s=None)


def test_a_paused_worker_that_trains_is_left_alone() -> None:
    slot = Slot(facts(status="paused", metrics={"task_counts": {"executing": 1}}))
    slot.assign(1, LOAD, now_s=0.0)
    assert not any(slot.hangs(now_s, limit_s=None) for now_s in (0.0, 1e6))
