"""Which worker holds a server and which a replica: numbers and names only, no cluster."""

from collections.abc import Mapping
from typing import Any

import pytest

from dnnflow.errors import ClusterError
from dnnflow.parallel.driver.placement import (
    GPU,
    SERVER,
    Placement,
    free_worker,
    other_servers,
    place,
    replica_workers,
)

Workers = Mapping[str, Mapping[str, Any]]


def having(**resources: str) -> Workers:
    """Return workers as the scheduler describes them, with one resource each; an empty name for none."""
    return {name: {"resources": {kind: 1.0} if kind else {}} for name, kind in resources.items()}


PLAIN = having(a="", b="", c="", d="")


def test_a_replica_on_each_worker_without_a_server() -> None:
    assert place(PLAIN, servers=1, replicas=None, device="auto") == Placement(("d",), ("a", "b", "c"))
    assert place(PLAIN, servers=2, replicas=None, device="auto") == Placement(("d", "c"), ("a", "b"))


def test_fewer_replicas_than_workers_keep_off_the_servers() -> None:
    assert place(PLAIN, servers=1, replicas=2, device="cpu") == Placement(("d",), ("a", "b"))


def test_replicas_share_with_servers_only_where_there_is_no_other_worker() -> None:
    assert place(PLAIN, servers=1, replicas=4, device="auto") == Placement(("d",), ("a", "b", "c", "d"))
    one = having(a="")
    assert place(one, servers=1, replicas=None, device="auto") == Placement(("a",), ("a",))


def test_more_servers_than_workers_share_them() -> None:
    found = place(having(a="", b=""), servers=3, replicas=None, device="auto")
    assert found == Placement(("b", "a", "b"), ("a",))


def test_servers_go_to_workers_that_declare_it() -> None:
    workers = having(a="", b=SERVER, c="", d=SERVER)
    assert place(workers, servers=1, replicas=None, device="auto") == Placement(("d",), ("a", "c"))
    assert place(workers, servers=2, replicas=None, device="auto") == Placement(("d", "b"), ("a", "c"))


def test_a_worker_that_declares_servers_has_a_replica_only_when_others_do_not_suffice() -> None:
    workers = having(a="", b=SERVER)
    assert place(workers, servers=1, replicas=None, device="auto").replicas == ("a",)
    assert place(workers, servers=1, replicas=2, device="auto").replicas == ("a", "b")


@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_replicas_go_to_gpus_and_servers_elsewhere(device: str) -> None:
    workers = having(a="", b=GPU, c=GPU, d="")
    assert place(workers, servers=1, replicas=None, device=device) == Placement(("d",), ("b", "c"))


def test_where_all_workers_have_a_gpu_a_server_takes_one() -> None:
    workers = having(a=GPU, b=GPU, c=GPU)
    assert place(workers, servers=1, replicas=None, device="gpu") == Placement(("c",), ("a", "b"))


def test_device_cpu_uses_all_workers() -> None:
    workers = having(a="", b=GPU)
    assert set(place(workers, servers=1, replicas=2, device="cpu").replicas) == {"a", "b"}


def test_a_resource_of_zero_is_none() -> None:
    workers = {"a": {"resources": {GPU: 0}}, "b": {}}
    with pytest.raises(ClusterError, match="a worker that declares GPU, got none"):
        place(workers, servers=1, replicas=None, device="gpu")


def test_what_the_cluster_cannot_hold_is_refused() -> None:
    with pytest.raises(ClusterError, match="at least one worker, got none"):
        place({}, servers=1, replicas=None, device="auto")
    with pytest.raises(ClusterError, match="5 replicas need as many workers, got 4"):
        place(PLAIN, servers=1, replicas=5, device="auto")
    with pytest.raises(ClusterError, match="2 replicas need as many workers, got 1"):
        place(having(a="", b=GPU), servers=1, replicas=2, device="gpu")


def test_a_lost_replica_goes_to_a_worker_without_a_server_if_there_is_one() -> None:
    placement = place(PLAIN, servers=1, replicas=2, device="auto")
    assert free_worker(["d", "b", "c"], placement, busy=["b"]) == "c"
    assert free_worker(["d", "b"], placement, busy=["b"]) == "d"
    assert free_worker(["b"], placement, busy=["b"]) is None


def test_lost_servers_go_where_no_replica_is_and_the_others_stay() -> None:
    workers = having(a="", b="", c="", d="")
    placement = Placement(("x", "b", "y"), ("a", "c"))
    assert other_servers(workers, placement, ["x", "y"], busy=["a", "c"]) == ("d", "b", "b")
    assert other_servers({**workers, **having(s=SERVER)}, placement, ["x"], busy=[]) == ("s", "b", "a")


def test_servers_share_the_last_worker_and_none_is_none() -> None:
    placement = Placement(("x", "y"), ("a",))
    assert other_servers(having(a=""), placement, ["x", "y"], busy=["a"]) == ("a", "a")
    assert other_servers(having(x=""), placement, ["x"], busy=[]) == ()


def test_further_replicas_keep_off_servers_and_take_gpus_first() -> None:
    workers = having(a="", g=GPU, s=SERVER)
    assert replica_workers(workers, "auto") == ["g"]
    assert replica_workers(workers, "cpu") == ["a", "g"]
    assert replica_workers(having(a="", s=SERVER), "auto") == ["a"]
    assert replica_workers(having(a=""), "gpu") == []
