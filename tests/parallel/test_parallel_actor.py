"""A parameter server on a Dask worker: both ways to it, and that nobody who waits there stops the others."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from test_parallel_channel import assert_refusals

from dnnflow.errors import InputError, TimeLimitError
from dnnflow.execute.certificates import make_certificates
from dnnflow.execute.cluster import security_of
from dnnflow.parallel.channel import actor_channel, server_actor
from dnnflow.parallel.channel.actor_channel import ActorChannel, open_channel, worker_tls
from dnnflow.parallel.channel.channel_client import ChannelClient
from dnnflow.parallel.channel.handshake import Addresses
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.channel.server_actor import ServerActor, Uplink
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import Algorithm, OptimizerSpec

ADAM = Algorithm(server_optimizer=OptimizerSpec("adam", 0.1))
SYNCHRONOUS = Algorithm(server_optimizer=OptimizerSpec("sgd", 1.0), synchronous=True)
SIZE = 1000
WAYS = {"channel": open_channel, "calls": ActorChannel}
MANY = 40
"""More replicas than any pool of threads that Dask or asyncio makes by default on a small machine."""


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def train(actor: Any, way: Callable[[Any], Any], replica: int) -> tuple[str, list[Any]]:
    """Push five times, as a replica's task does; return the kind of its channel and the replies."""
    channel = way(actor)
    step = channel.join(replica)
    version, weights = channel.pull(replica)
    replies = []
    for index in range(5):
        out = np.empty_like(weights)
        reply = channel.exchange(Push(replica, step + index, version, 10, numbers(index)), out)
        if reply.vector is not out:
            raise ValueError("the reply must be where it was asked for")
        version = reply.version
        replies.append(reply)
    channel.leave(replica)
    channel.close()
    return type(channel).__name__, replies


@pytest.fixture(autouse=True)
def _is_current(client: Client) -> Iterator[None]:
    """An actor calls by the current client, of which this process may have several."""
    with client.as_current():
        yield


@pytest.fixture
def start(client: Client) -> Iterator[Callable[..., Any]]:
    """Make a server's actor on the first worker; it ends with the test."""
    made = []

    def make(algorithm: Algorithm = ADAM, **options: Any) -> Any:
        weights = np.zeros(SIZE, np.float32)
        future = client.submit(
            ServerActor, weights, algorithm, **options, actor=True, workers=workers(client)[:1], pure=False
        )
        made.append(future)  # the actor lives as long as its future
        return future.result()

    yield make
    for future in made:
        future.result().stop().result()
        future.cancel(force=True)


def workers(client: Client) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("place", ["beside the server", "elsewhere", "driver"])
def test_a_replica_gets_the_same_replies_wherever_it_is(
    client: Client, start: Any, way: Any, place: str
) -> None:
    actor = start()
    if place == "driver":
        kind, replies = train(actor, way, 0)
    else:
        there = workers(client)[0 if place == "beside the server" else 1]
        kind, replies = client.submit(train, actor, way, 0, workers=[there], pure=False).result()
    assert kind == ("ActorChannel" if way is ActorChannel else "ChannelClient")
    server = ParameterServer(np.zeros(SIZE, np.float32), ADAM)
    step = server.join(0)
    for index, reply in enumerate(replies):
        wanted = server.exchange(Push(0, step + index, index, 10, numbers(index)))
        np.testing.assert_array_equal(reply.vector, wanted.vector)
        assert (reply.version, reply.samples) == (wanted.version, wanted.samples)
    assert actor.statistics().result().replicas == ()


def test_where_no_channel_can_be_made_calls_of_the_actor_do_its_work(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = start()
    nowhere = Addresses("/nowhere/server", "127.0.0.1", 1)
    monkeypatch.setattr(actor_channel, "ChannelClient", lambda _, token, **__: ChannelClient(nowhere, token))
    kind, replies = train(actor, open_channel, 0)
    assert kind == "ActorChannel"
    assert replies[-1].version == 5


def test_replicas_that_wait_for_each_other_block_neither_the_actor_nor_its_worker(
    client: Client, start: Any
) -> None:
    actor = start(SYNCHRONOUS, replicas=MANY)
    steps = [actor.join(replica).result() for replica in range(MANY)]
    pushes = [Push(replica, steps[replica], 0, 1, np.ones(SIZE, np.float32)) for replica in range(MANY)]
    waiting = [actor.exchange(push) for push in pushes[:-1]]
    assert len(actor.statistics().result().replicas) == MANY
    assert client.submit(sum, [1, 2], workers=workers(client)[:1], pure=False).result() == 3
    assert not any(future.done() for future in waiting)
    assert actor.exchange(pushes[-1]).result().version == 1
    assert {future.result().version for future in waiting} == {1}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_the_server_refuses_is_the_same_error_both_ways(start: Any, way: Any) -> None:
    channel = way(start(SYNCHRONOUS, wait_s=0.2))
    push = Push(1, 0, 0, 1, np.ones(SIZE, np.float32))
    assert_refusals(channel, push, lambda: channel.join(0))
    push.vector = np.ones(3, np.float32)
    with pytest.raises(InputError, match=f"must have {SIZE} entries"):
        channel.exchange(push)
    channel.close()


def test_an_answer_that_does_not_come_is_an_error(start: Any) -> None:
    actor = start(SYNCHRONOUS)
    actor.join(0).result()
    channel = ActorChannel(actor, answer_s=0.3)
    with pytest.raises(TimeLimitError, match=r"within 0\.3 s"):
        channel.exchange(Push(0, actor.join(1).result(), 0, 1, np.ones(SIZE, np.float32)))


def test_a_server_goes_on_in_another_actor_where_its_snapshot_was_taken(start: Any) -> None:
    first = start()
    train(first, open_channel, 0)
    snapshot = first.snapshot().result()
    second = start()
    second.restore(snapshot).result()
    version, weights = second.pull().result()
    assert version == 5
    np.testing.assert_array_equal(weights, first.pull().result()[1])
    for actor in (first, second):
        actor.set_learning_rate(0.5).result()
    replies = [train(actor, open_channel, 1)[1][-1] for actor in (first, second)]
    np.testing.assert_array_equal(replies[0].vector, replies[1].vector)


def test_moving_statistics_of_a_shard_are_known_to_its_wire(start: Any) -> None:
    layout = FlatLayout(((SIZE - 10,), (SIZE // 2 + 10,), (SIZE // 2,)), statistics=2)
    actor = start(layout=layout, shard=slice(SIZE // 2, SIZE // 2 + SIZE))
    channel = open_channel(actor, wire="int8")
    assert isinstance(channel, ChannelClient)
    with channel:
        given = numbers(0)
        channel.exchange(Push(0, channel.join(0), 0, 1, given))
        learned = SIZE - 10 - SIZE // 2
        np.testing.assert_array_equal(channel.pull()[1][learned:], given[learned:])


def threads_on(client: Client) -> dict[str, list[str]]:
    """Return the threads of channels and servers, by worker."""
    return client.run(
        lambda: [thread.name for thread in threading.enumerate() if thread.name.startswith("dnnflow-")]
    )


def files_on(client: Client) -> list[str]:
    def sockets(dask_worker: Any) -> list[str]:
        return [str(path) for path in Path(dask_worker.local_directory).glob("dnnflow-*")]

    return [name for names in client.run(sockets).values() for name in names]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["stopped", "dropped"])
def test_nothing_is_left_on_the_worker_of_a_server_that_has_ended(client: Client, how: str) -> None:
    future = client.submit(ServerActor, np.zeros(SIZE, np.float32), ADAM, actor=True, pure=False)
    actor = future.result()
    channel = open_channel(actor)
    channel.join(0)
    assert files_on(client)
    if how == "stopped":
        actor.stop().result()
        actor.stop().result()
    else:
        del actor, future
    wait_until(lambda: not files_on(client) and not any(threads_on(client).values()))
    with pytest.raises(ChannelError):
        channel.pull()


def test_each_server_draws_a_token_of_its_own(start: Any) -> None:
    first, second = start(), start()
    assert len(first.token().result()) == 32
    assert first.token().result() != second.token().result()


@pytest.mark.cluster
def test_on_a_cluster_with_tls_other_machines_come_in_by_tls_only(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    security = security_of(tmp_path)
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tls://",
        security=security,
        dashboard_address=":0",
    )
    with cluster, Client(cluster, security=security, set_as_default=False) as client, client.as_current():
        future = client.submit(ServerActor, np.zeros(SIZE, np.float32), ADAM, actor=True)
        actor = future.result()
        found = actor.address().result()
        assert found.encrypted
        elsewhere = Addresses(None, found.host, found.port, found.encrypted)
        token = actor.token().result()

        def join() -> int:
            with ChannelClient(elsewhere, token, tls=worker_tls()) as channel:
                return channel.join(0)

        assert client.submit(join).result() == 0
        with pytest.raises(ChannelError, match="speaks TLS"):
            ChannelClient(elsewhere, token).join(0)
        actor.stop().result()


@pytest.mark.cluster
def test_threads_of_one_process_need_no_port(tmp_path: Path) -> None:
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster, set_as_default=False) as client, client.as_current():
        future = client.submit(ServerActor, np.zeros(SIZE, np.float32), ADAM, actor=True)
        actor = future.result()
        assert actor.address().result().host is None
        given = numbers(0)
        channel = ActorChannel(actor)
        channel.exchange(Push(0, channel.join(0), 0, 1, given))
        np.testing.assert_array_equal(given, numbers(0))  # Dask has passed the array itself
        assert train(actor, open_channel, 1)[0] == "ChannelClient"
        actor.stop().result()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_server_whose_worker_died_is_an_error_at_once(client: Client, way: Any) -> None:
    future = client.submit(
        ServerActor, np.zeros(SIZE, np.float32), ADAM, actor=True, workers=workers(client)[:1], pure=False
    )
    channel = way(future.result())
    push = Push(0, channel.join(0), 0, 1, numbers(0))
    before = set(workers(client))
    client.submit(os._exit, 1, workers=workers(client)[:1], pure=False, retries=0)
    wait_until(lambda: not before <= set(workers(client)))
    with pytest.raises(ChannelError):
        channel.exchange(push)
    channel.close()
    wait_until(lambda: len(workers(client)) == len(before))
    del future
    assert not files_on(client)  # Dask has removed them with the worker's directory


class Above:
    """A way to the server above whose answer to a push comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.answers, self.closed = threading.Event(), threading.Event(), False

    def join(self, replica: int) -> int:
        return 0

    def pull(self, replica: int) -> tuple[int, Vector]:
        return 0, np.zeros(3, np.float32)

    def exchange(self, push: Push, out: Vector) -> PushReply:
        self.asked.set()
        assert self.answers.wait(60)
        out[...] = 0
        return PushReply(1, push.count, out, 0)

    def leave(self, replica: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_a_server_above_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the training hangs at its end, for nobody knows what."""
    monkeypatch.setattr(server_actor, "END_S", 0.1)
    above: Any = Above()
    server = ParameterServer(np.zeros(3, np.float32), Algorithm(server_optimizer=OptimizerSpec("sgd", 1.0)))
    uplink = Uplink(server, above, group=0, every=1)
    step = server.join(0)
    server.exchange(Push(0, step, 0, 32, np.ones(3, np.float32)))
    assert above.asked.wait(60)
    with pytest.raises(TimeLimitError, match=r"must answer a group's push within 0.1 s"):
        uplink.end()
    above.answers.set()
    monkeypatch.setattr(server_actor, "END_S", 60.0)
    uplink.end()
    assert above.closed
