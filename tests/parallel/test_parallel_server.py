"""The parameter server among real threads: no push is applied twice or lost, nobody waits for ever."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnflow.errors import InputError, NotFoundError, StudyError, TimeLimitError
from dnnflow.parallel.model.weights import FlatLayout
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.server.updates import GradientEnergyMatching, elastic_replica
from dnnflow.parallel.spec.algorithm import Algorithm, Kind, OptimizerSpec, PushKind, RateSchedule

SGD = OptimizerSpec("sgd", 1.0)
DEADLINE_S = 20.0
"""Longer than anything here takes; a test that needs it has failed."""
Vector = np.ndarray[Any, np.dtype[Any]]
Make = Callable[..., ParameterServer]


def vector(value: float, size: int = 3) -> Vector:
    return np.full(size, value, np.float32)


def make(size: int = 3, joined: int = 0, wait_s: float = 4 * DEADLINE_S, **algorithm: Any) -> ParameterServer:
    """Make a server of plain SGD at rate 1, which so counts pushes, and let replicas join from 0 on."""
    if algorithm.get("kind", "downpour") == "downpour":
        algorithm.setdefault("server_optimizer", SGD)
    server = ParameterServer(
        np.zeros(size, np.float32), Algorithm(**algorithm), replicas=max(joined, 1), wait_s=wait_s
    )
    for replica in range(joined):
        server.join(replica)
    return server


def push(server: ParameterServer, replica: int, step: int, version: int, *, count: int = 1,
         vector: Vector | None = None) -> PushReply:  # fmt: skip
    """Push a gradient of -1, so that weights at rate 1 count pushes."""
    given = np.full(3, -1.0, np.float32) if vector is None else vector
    return server.exchange(Push(replica, step, version, count, given, server_kind(server)))


def server_kind(server: ParameterServer) -> Any:
    return server._algorithm.push_kind


def weight(server: ParameterServer) -> float:
    return float(server.pull()[1][0])


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.001)


def has_come(server: ParameterServer, pushes: int) -> bool:
    """Say whether so many pushes are in the round, or it is over."""
    return len(server._round.pushes) in (pushes, 0)


def waits(server: ParameterServer, future: "Future[Any]", pushes: int) -> None:
    """Check that a thread is in the server and has not come out."""
    eventually(lambda: len(server._round.pushes) == pushes)
    assert not future.done()


@pytest.fixture
def threads() -> Any:
    with ThreadPoolExecutor(32) as pool:
        yield pool


# Asynchronous


def test_a_push_is_applied_when_it_comes() -> None:
    server = make(joined=2)
    reply = push(server, 0, 0, 0, count=32)
    assert (reply.version, reply.staleness, reply.samples, reply.vector.tolist()) == (1, 0, 32, [1.0] * 3)
    assert push(server, 1, 0, 0, count=10).samples == 42
    assert weight(server) == 2


def test_a_reply_is_written_where_the_caller_says() -> None:
    """A channel reuses one buffer; and weights that a replica holds must not change under its hands."""
    server, out = make(joined=1), vector(np.nan)
    assert server.exchange(Push(0, 0, 0, 1, vector(-1.0)), out).vector is out
    push(server, 0, 1, 1)
    assert out.tolist() == [1.0] * 3
    assert server.pull(0, out)[1] is out
    assert out.tolist() == [2.0] * 3


def test_a_repeated_push_is_applied_once() -> None:
    """A replica whose connection broke cannot know whether its push came, and sends it again."""
    server = make(joined=1)
    for step in (0, 0, 1, 1, 1, 0):
        reply = push(server, 0, step, 0)
    assert (weight(server), reply.version, reply.vector.tolist()) == (2, 2, [2.0] * 3)
    counts = server.statistics()
    assert (counts.pushes, counts.repeated, counts.samples) == (2, 4, 2)


def test_pushes_of_many_threads_are_all_applied_once(threads: ThreadPoolExecutor) -> None:
    """8 replicas, 200 pushes each of their own value, every third of them sent twice."""
    server = make(size=70_001, joined=8)

    def replica(index: int) -> None:
        version = 0
        for step in range(200):
            for _ in range(2 if step % 3 == 0 else 1):
                gradient = np.full(70_001, -(1 + index), np.float32)
                version = server.exchange(Push(index, step, version, 5, gradient)).version

    for done in [threads.submit(replica, index) for index in range(8)]:
        done.result(DEADLINE_S)
    counts, (version, weights) = server.statistics(), server.pull()
    assert (weights == 200 * sum(range(1, 9))).all()
    assert (version, counts.pushes, counts.samples, counts.repeated) == (1600, 1600, 8000, 8 * 67)
    assert sum(counts.staleness.values()) == 1600
    assert sum(late * n for late, n in counts.staleness.items()) > 0


def test_staleness_is_counted_and_damps() -> None:
    server = make(joined=3, damping=True, damping_rule="inverse")
    assert push(server, 0, 0, 0).staleness == 0  # +1
    assert push(server, 1, 0, 0).staleness == 1  # +1/2
    assert push(server, 2, 0, 0).staleness == 2  # +1/3
    assert push(server, 0, 1, 1).staleness == 2  # +1/3
    assert server.statistics().staleness == {0: 1, 1: 1, 2: 2}
    assert weight(server) == pytest.approx(1 + 1 / 2 + 2 / 3)


@pytest.mark.parametrize("name", ["sgd", "lion"])
def test_the_rate_follows_samples_and_can_be_set(name: str) -> None:
    """Keras' ReduceLROnPlateau on the driver must reach the server, and optimizers of Keras there."""
    optimizer = OptimizerSpec(name, 1.0)  # both step by the rate where the gradient is -1
    server = make(joined=1, server_optimizer=optimizer, schedule=RateSchedule("step", 10, 0.5))
    for step, (count, expected) in enumerate(((9, 1.0), (1, 2.0), (1, 2.5))):
        push(server, 0, step, step, count=count)
        assert weight(server) == expected
    server.set_learning_rate(4.0)
    assert server.learning_rate == 4.0
    push(server, 0, 3, 3)
    assert weight(server) == 4.5
    with pytest.raises(InputError, match=r"got 1\.0 for easgd"):
        make(kind="easgd").set_learning_rate(1.0)


def test_a_replica_that_has_not_joined_is_refused() -> None:
    """One taken for dead, whose rows were given to another, must not go on pushing them."""
    server = make(joined=1)
    push(server, 0, 0, 0)
    server.leave(0)
    server.leave(0)
    with pytest.raises(NotFoundError, match="got a push of 0; join first"):
        push(server, 0, 1, 1)
    assert weight(server) == 1


def test_a_new_process_of_a_replica_is_not_taken_for_its_former_one() -> None:
    """Its first steps would be repeats; and what the dead one still sends must not stand in for them."""
    server = make()
    assert server.join(3) == 0
    push(server, 3, 0, 0)
    push(server, 3, 1, 1)
    server.leave(3)
    begin = server.join(3)
    push(server, 3, 2, 2)  # of the former process, late
    push(server, 3, begin, 2)
    push(server, 3, 3, 2)  # of the former process, too late
    assert (weight(server), server.statistics().repeated) == (4, 1)
    assert push(server, 3, begin + 1, 3).version == 5


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda s: s.exchange(Push(0, 0, 0, 1, vector(1.0, 4))), "3 entries, got .4,. of replica 0"),
        (
            lambda s: s.exchange(Push(0, 0, 0, 1, vector(1), PushKind.WEIGHTS)),
            "push a gradient, got a weights",
        ),
        (lambda s: make(wait_s=0), "wait_s"),
        (lambda s: ParameterServer(vector(0), Algorithm(), layout=FlatLayout(((4,),))), "shape .4,."),
        (
            lambda s: ParameterServer(vector(0), Algorithm(), layout=FlatLayout(((9,),)), shard=slice(5, 7)),
            "2,",
        ),
    ],
)
def test_what_does_not_fit_is_refused(made: Callable[[ParameterServer], Any], words: str) -> None:
    server = make(joined=1)
    with pytest.raises(InputError, match=words):
        made(server)
    assert server.statistics().pushes == 0


# The bound


def test_a_replica_that_is_too_far_ahead_waits_for_the_slowest(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, staleness_bound=2)
    for step in range(2):
        push(server, 0, step, step)
    third = threads.submit(push, server, 0, 2, 2)
    eventually(lambda: server.statistics().pushes == 3)
    time.sleep(0.05)
    assert not third.done()
    push(server, 1, 0, 0)
    reply = third.result(DEADLINE_S)
    assert (reply.version, reply.staleness, reply.vector.tolist()) == (
        4,
        0,
        [4.0] * 3,
    )  # fresh after the wait
    assert server.statistics().waited_s > 0.04


def test_the_bound_does_not_wait_for_who_has_left(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, staleness_bound=0)
    waiting = threads.submit(push, server, 0, 0, 0)
    eventually(lambda: server.statistics().pushes == 1)
    server.leave(1)
    assert waiting.result(DEADLINE_S).version == 1


def test_one_that_joins_later_need_not_catch_up() -> None:
    server = make(joined=1, staleness_bound=1)
    for step in range(5):
        push(server, 0, step, step)
    server.join(1)
    assert push(server, 0, 5, 5).version == 6


def test_the_bound_names_whom_it_waited_for_in_vain() -> None:
    server = make(joined=2, staleness_bound=0, wait_s=0.05)
    with pytest.raises(TimeLimitError, match=r"got 0 waiting 0\.05 s for replica 1"):
        push(server, 0, 0, 0)
    with pytest.raises(TimeLimitError):
        push(server, 0, 0, 0)  # the same again waits again, and is not applied again
    assert (weight(server), server.statistics().repeated) == (1, 1)


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_replica_is_ever_further_ahead_than_the_bound(threads: ThreadPoolExecutor, bound: int) -> None:
    server, done, apart = make(joined=4, staleness_bound=bound), [0] * 4, []

    def replica(index: int) -> None:
        version = 0
        for step in range(30):
            version = push(server, index, step, version).version
            done[index] = step + 1
            apart.append(done[index] - min(done))
            time.sleep(0.0005 * index)
        server.leave(index)

    for future in [threads.submit(replica, index) for index in range(4)]:
        future.result(DEADLINE_S)
    assert weight(server) == 120
    assert max(apart) <= bound + 1  # the slowest's own note may come after its push


# Synchronous


def test_a_round_is_the_mean_by_samples_applied_once(threads: ThreadPoolExecutor) -> None:
    server = make(joined=3, synchronous=True)
    given = ((32, 1.0), (32, 2.0), (16, 8.0))
    futures = [
        threads.submit(push, server, i, 0, 0, count=n, vector=vector(-v)) for i, (n, v) in enumerate(given)
    ]
    for future in futures:
        reply = future.result(DEADLINE_S)
        assert (reply.version, reply.samples, reply.staleness) == (1, 80, 0)
        assert reply.vector.tolist() == [pytest.approx(2.8)] * 3


def test_a_round_does_not_depend_on_who_comes_first(threads: ThreadPoolExecutor) -> None:
    """The same seed must give the same bits, however quick the replicas are."""
    vectors = np.random.default_rng(0).normal(size=(5, 1000)).astype(np.float32)

    def run(order: list[int]) -> Vector:
        server = make(size=1000, joined=5, synchronous=True, server_optimizer=OptimizerSpec("adam", 0.1))
        for step in range(3):
            futures = []
            for index in order:
                futures.append(
                    threads.submit(push, server, index, step, step, count=1 + index, vector=vectors[index])
                )
                eventually(partial(has_come, server, len(futures)))
            for future in futures:
                future.result(DEADLINE_S)
        return server.pull()[1]

    np.testing.assert_array_equal(run([0, 1, 2, 3, 4]), run([3, 1, 4, 0, 2]))


def test_unequal_shards_end(threads: ThreadPoolExecutor) -> None:
    """mpi_learn hangs here: a replica without more batches is waited for."""
    server = make(joined=4, synchronous=True)
    batches = (1, 3, 7, 0)

    def replica(index: int) -> None:
        version = 0
        for step in range(batches[index]):
            version = push(server, index, step, version).version
        server.leave(index)

    for future in [threads.submit(replica, index) for index in range(4)]:
        future.result(DEADLINE_S)
    assert (weight(server), server.statistics().version) == (7, 7)
    assert (server.statistics().samples, server.statistics().dropped) == (11, 0)


def test_a_replica_that_leaves_in_mid_round_releases_it(threads: ThreadPoolExecutor) -> None:
    server = make(joined=3, synchronous=True)
    futures = [threads.submit(push, server, i, 0, 0) for i in (0, 1)]
    waits(server, futures[0], 2)
    server.leave(2)
    assert [future.result(DEADLINE_S).version for future in futures] == [1, 1]


def test_what_a_replica_pushed_before_it_left_counts(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, synchronous=True)
    first = threads.submit(push, server, 0, 0, 0, count=3, vector=vector(-4.0))
    waits(server, first, 1)
    server.leave(0)
    assert not first.done()
    push(server, 1, 0, 0, count=1, vector=vector(0.0))
    assert first.result(DEADLINE_S).vector.tolist() == [3.0] * 3


def test_the_last_one_may_leave_while_it_waits(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, synchronous=True)
    first = threads.submit(push, server, 0, 0, 0)
    waits(server, first, 1)
    server.leave(0)
    server.leave(1)
    assert first.result(DEADLINE_S).version == 1


def test_a_round_goes_on_without_backup_replicas(threads: ThreadPoolExecutor) -> None:
    """Of 4 replicas 3 are enough; the straggler's push is dropped and it gets fresh weights."""
    server = make(joined=4, synchronous=True, quorum=0.75)
    futures = [threads.submit(push, server, i, 0, 0) for i in range(3)]
    assert [future.result(DEADLINE_S).version for future in futures] == [1, 1, 1]
    late = push(server, 3, 0, 0, vector=vector(-100.0))
    assert (late.version, late.staleness, late.vector.tolist()) == (1, 1, [1.0] * 3)
    again = push(server, 3, 0, 0, vector=vector(-100.0))
    assert (again.version, weight(server)) == (1, 1)
    counts = server.statistics()
    assert (counts.dropped, counts.repeated, counts.samples, counts.pushes) == (1, 1, 3, 4)


def test_a_push_sent_again_while_its_round_waits_counts_once(threads: ThreadPoolExecutor) -> None:
    """The connection broke, the server's thread still waits, and the replica is back on a new one."""
    server = make(joined=2, synchronous=True)
    first = threads.submit(push, server, 0, 0, 0, count=1)
    waits(server, first, 1)
    again = threads.submit(push, server, 0, 0, 0, count=1)
    time.sleep(0.05)
    push(server, 1, 0, 0, count=1, vector=vector(-3.0))
    assert [future.result(DEADLINE_S).vector[0] for future in (first, again)] == [2.0, 2.0]
    assert (server.statistics().samples, server.statistics().pushes) == (2, 2)
    assert push(server, 0, 0, 0).version == 1
    assert server.statistics().repeated == 1


def test_a_round_that_waits_in_vain_says_for_whom_and_can_be_tried_again(threads: ThreadPoolExecutor) -> None:
    server = make(joined=3, synchronous=True, wait_s=0.05)
    with pytest.raises(TimeLimitError, match=r"within 0\.05 s, got no push of replica 1, 2;"):
        push(server, 0, 0, 0)
    assert (weight(server), server.statistics().pushes) == (0, 0)
    server.leave(1)
    server.leave(2)
    assert weight(server) == 0  # who was told that a push failed will send it again
    assert push(server, 0, 0, 0).version == 1


def test_an_update_that_fails_fails_for_all_of_the_round(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread applies for all: its error must not leave the others waiting."""
    server = make(joined=2, synchronous=True)

    def fail(*_: Any) -> None:
        raise FloatingPointError("no such number")

    with monkeypatch.context() as patch:
        patch.setattr(server._state._rule, "apply", fail)
        futures = [threads.submit(push, server, i, 0, 0) for i in range(2)]
        for future in futures:
            with pytest.raises(FloatingPointError, match="no such number"):
                future.result(DEADLINE_S)
    futures = [threads.submit(push, server, i, 0, 0) for i in range(2)]
    assert [future.result(DEADLINE_S).version for future in futures] == [1, 1]


def test_one_that_joins_takes_part_from_then_on(threads: ThreadPoolExecutor) -> None:
    server = make(joined=1, synchronous=True)
    push(server, 0, 0, 0)
    step = server.join(1)
    version, _ = server.pull(1)
    futures = [threads.submit(push, server, 0, 1, 1), threads.submit(push, server, 1, step, version)]
    assert [future.result(DEADLINE_S).version for future in futures] == [2, 2]


def test_synchronous_elastic_averaging_replies_the_weights_before_the_round(
    threads: ThreadPoolExecutor,
) -> None:
    server = make(joined=2, kind="easgd", synchronous=True, elastic_force=0.5)
    for step, (before, after) in enumerate(((0.0, 0.5), (0.5, 0.75))):
        futures = [
            threads.submit(push, server, i, step, step, vector=vector(v)) for i, v in enumerate((0.0, 2.0))
        ]
        for future in futures:
            reply = future.result(DEADLINE_S)
            assert (reply.vector[0], reply.version) == (before, step + 1)
        assert weight(server) == after


def test_replicas_come_and_go_and_nothing_hangs(threads: ThreadPoolExecutor) -> None:
    """12 replicas with few or many batches join late, leave early or die in mid-round without a word."""
    server, generator = make(joined=12, synchronous=True, quorum=0.8), np.random.default_rng(5)
    batches = generator.integers(0, 40, 12)

    def replica(index: int, begin: int) -> None:
        version, _ = server.pull()
        for step in range(int(batches[index])):
            version = push(server, index, begin + step, version).version
        if index % 3:
            server.leave(index)

    futures = {index: threads.submit(replica, index, 0) for index in range(12)}
    for index in range(0, 12, 3):  # those that die: somebody notices
        futures[index].add_done_callback(partial(lambda left, _: server.leave(left), index))
    batches = np.append(batches, [0, 20])
    futures[13] = threads.submit(replica, 13, server.join(13))
    for future in futures.values():
        future.result(DEADLINE_S)
    counts = server.statistics()
    assert counts.pushes == batches.sum()
    assert counts.samples == counts.pushes - counts.dropped
    assert server.statistics().replicas == ()


# State

ALGORITHMS = {
    "sgd": Algorithm(server_optimizer=OptimizerSpec("sgd", 0.1, {"momentum": 0.9, "nesterov": True})),
    "adam": Algorithm(
        server_optimizer=OptimizerSpec("adam", 0.1, {"amsgrad": True}),
        schedule=RateSchedule("exponential", 20, 0.5),
        damping=True,
    ),
    "rmsprop": Algorithm(server_optimizer=OptimizerSpec("rmsprop", 0.1, {"momentum": 0.9, "centered": True})),
    "adagrad": Algorithm(server_optimizer=OptimizerSpec("adagrad", 0.1)),
    "nadam": Algorithm(server_optimizer=OptimizerSpec("nadam", 0.1)),
    "lamb": Algorithm(server_optimizer=OptimizerSpec("lamb", 0.1)),
    "easgd": Algorithm(kind=Kind.EASGD),
    "gem": Algorithm(kind=Kind.GEM),
    "diloco": Algorithm(kind=Kind.DILOCO),
}
LAYOUT = FlatLayout(((4, 3), (3,), (2,)), statistics=1)


def go_on(server: ParameterServer, steps: range) -> list[tuple[int, int, int, bytes]]:
    """Push the same from two replicas, of growing staleness, and return every reply."""
    replies = []
    for step in steps:
        for replica in (0, 1):
            given = np.random.default_rng([step, replica]).normal(size=LAYOUT.size).astype(np.float32)
            version = max(2 * step - step % 3, 0)
            reply = server.exchange(Push(replica, step, version, 7, given, server_kind(server)))
            replies.append((reply.version, reply.staleness, reply.samples, reply.vector.tobytes()))
    return replies


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_restored_server_goes_on_bit_by_bit(name: str, tmp_path: Path) -> None:
    """By way of a file, as a checkpoint goes; what follows must be what would have followed."""

    def begin() -> ParameterServer:
        server = ParameterServer(
            np.ones(LAYOUT.size, np.float32), ALGORITHMS[name], replicas=2, layout=LAYOUT
        )
        server.join(0)
        server.join(1)
        return server

    server = begin()
    go_on(server, range(5))
    if server.learning_rate:
        server.set_learning_rate(0.03)
    snapshot = server.snapshot()
    expected = go_on(server, range(5, 10)), server.statistics()
    np.savez(tmp_path / "state.npz", **snapshot)
    restored = begin()
    go_on(restored, range(2))
    with np.load(tmp_path / "state.npz") as stored:
        restored.restore(stored)
    assert restored.statistics().replicas == ()
    for replica in (0, 1):
        assert restored.join(replica) == 1 << 20
    assert go_on(restored, range(4, 5))[-1][0] == 10  # repeats of what the snapshot holds
    assert (go_on(restored, range(5, 10)), restored.statistics().version) == (
        expected[0],
        expected[1].version,
    )
    assert restored.statistics().staleness == expected[1].staleness


def test_a_snapshot_is_a_copy(threads: ThreadPoolExecutor) -> None:
    server = make(joined=1, server_optimizer=OptimizerSpec("adam", 0.1))
    push(server, 0, 0, 0)
    snapshot = server.snapshot()
    kept = {name: np.copy(value) for name, value in snapshot.items()}
    push(server, 0, 1, 1)
    for name, value in kept.items():
        np.testing.assert_array_equal(snapshot[name], value)


@pytest.mark.parametrize("other", ["size", "optimizer"])
def test_the_snapshot_of_another_run_is_refused_and_changes_nothing(other: str) -> None:
    server = make(joined=1)
    push(server, 0, 0, 0)
    stranger = make(4) if other == "size" else make()
    if other == "optimizer":
        server = make(joined=1, server_optimizer=OptimizerSpec("adam", 1.0))
    before = server.snapshot()
    with pytest.raises(InputError, match="a snapshot must be of 3 weights and the same optimizer"):
        server.restore(stranger.snapshot())
    assert server.snapshot()["weights"].tolist() == before["weights"].tolist()
    assert server.statistics().replicas == (0,)


def test_threads_that_wait_while_a_server_goes_back_are_told(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, synchronous=True)
    snapshot = server.snapshot()
    waiting = threads.submit(push, server, 0, 0, 0)
    waits(server, waiting, 1)
    server.restore(snapshot)
    with pytest.raises(StudyError, match="join and push again"):
        waiting.result(DEADLINE_S)
    server.join(0)
    assert push(server, 0, 0, 0).version == 1


def test_a_snapshot_in_mid_round_holds_none_of_it(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, synchronous=True)
    waiting = threads.submit(push, server, 0, 0, 0)
    waits(server, waiting, 1)
    snapshot = server.snapshot()
    push(server, 1, 0, 0)
    waiting.result(DEADLINE_S)
    restored = make(synchronous=True)
    restored.restore(snapshot)
    restored.join(0)
    assert (push(restored, 0, 0, 0).version, weight(restored)) == (1, 1)


# Above and below other servers


def test_a_server_below_another_keeps_what_came_meanwhile() -> None:
    """A group's server that were overwritten by the reply from above would lose its group's last pushes."""
    top, below = make(joined=1), make(joined=2)
    push(below, 0, 0, 0)
    version, start = below.pull()
    push(below, 1, 0, version)  # while the way up and down takes
    push(top, 0, 0, 0, vector=vector(-5.0))
    reply = top.exchange(Push(0, 1, 1, 1, vector(0.0) - start))
    below.move(start, reply.vector)
    assert (weight(top), weight(below)) == (6, 7)


def test_statistics_of_batch_normalisation_go_round_the_optimizer() -> None:
    layout = FlatLayout(((2,), (2,)), statistics=1)
    algorithm = Algorithm(server_optimizer=SGD)
    server = ParameterServer(np.zeros(4, np.float32), algorithm, replicas=2, layout=layout)
    shards = [
        ParameterServer(np.zeros(2, np.float32), algorithm, replicas=2, layout=layout, shard=cut)
        for cut in (slice(0, 2), slice(2, 4))
    ]
    given = np.array([-1, -2, 8, 16], np.float32)
    for one in (server, *shards):
        one.join(0)
        one.join(1)
    whole = server.exchange(Push(0, 0, 0, 1, given)).vector
    parts = [
        shard.exchange(Push(0, 0, 0, 1, part)).vector
        for shard, part in zip(shards, (given[:2], given[2:]), strict=True)
    ]
    assert whole.tolist() == np.concatenate(parts).tolist() == [1, 2, 4, 8]


# What it is for

KINDS = {
    "downpour": Algorithm(server_optimizer=OptimizerSpec("sgd", 0.05), damping=True),
    "downpour, synchronous": Algorithm(server_optimizer=OptimizerSpec("adam", 0.05), synchronous=True),
    "downpour, local steps": Algorithm(sync_every=4, damping=True),
    "downpour, bounded": Algorithm(server_optimizer=OptimizerSpec("sgd", 0.05), staleness_bound=1),
    "easgd": Algorithm(kind=Kind.EASGD, sync_every=4),
    "easgd, synchronous": Algorithm(kind=Kind.EASGD, sync_every=4, synchronous=True),
    "gem": Algorithm(kind=Kind.GEM, gem_rate=0.02),
    "diloco": Algorithm(kind=Kind.DILOCO, sync_every=10, synchronous=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_algorithm_finds_the_weights(name: str, threads: ThreadPoolExecutor) -> None:
    """Linear regression by three replicas in threads, each with rows of its own, must end near the truth."""
    algorithm, generator = KINDS[name], np.random.default_rng(1)
    truth = generator.normal(size=6).astype(np.float32)
    server = ParameterServer(np.zeros(6, np.float32), algorithm, replicas=3, wait_s=DEADLINE_S)
    for joining in range(3):
        server.join(joining)

    def gradient(weights: Vector, rows: Vector) -> Vector:
        return rows.T @ (rows @ (weights - truth)) / len(rows)

    def replica(index: int) -> None:
        rows = np.random.default_rng([2, index]).normal(size=(64, 6)).astype(np.float32)
        version, x = server.pull(index)
        weights, gem = x.copy(), GradientEnergyMatching(x)
        for step in range(150):
            if algorithm.push_kind == "gradient":
                given = gradient(weights, rows)
            elif algorithm.kind == "gem":
                version, x = server.pull(index)
                given = gem.update(gradient(weights, rows), x, algorithm.used_gem_rate, np.empty_like(x))
            else:
                before = weights.copy()
                for _ in range(algorithm.sync_every):
                    weights -= 0.05 * gradient(weights, rows)
                given = weights if algorithm.kind == "easgd" else before - weights
            reply = server.exchange(Push(index, step, version, 64, given, algorithm.push_kind))
            version = reply.version
            if algorithm.kind == "easgd":
                elastic_replica(weights, reply.vector, algorithm.elastic_share(3))
            else:
                weights = reply.vector
        server.leave(index)

    for future in [threads.submit(replica, index) for index in range(3)]:
        future.result(DEADLINE_S)
    assert np.abs(server.pull()[1] - truth).max() < 0.05


def test_a_servers_state_says_which_rows_it_is_of() -> None:
    """Repeats do not count, what comes too late for its round does: it is done with."""
    server = make(joined=1)
    push(server, 0, 0, 0, count=5)
    push(server, 0, 1, 1, count=3)
    push(server, 0, 1, 1, count=3)
    assert (server.rows_of(0), server.rows_of(1)) == (8, 0)
    other = make()
    other.restore(server.snapshot())
    assert other.rows_of(0) == 8


def test_what_a_replica_has_in_a_round_is_taken_out_when_it_comes_again(threads: ThreadPoolExecutor) -> None:
    server = make(joined=2, synchronous=True)
    first = threads.submit(push, server, 0, 0, 0, count=5)
    eventually(lambda: 0 in server._round.pushes)
    server.join(0)
    assert not server._round.pushes
    again = [threads.submit(push, server, 0, 0, 0, count=4), threads.submit(push, server, 1, 0, 0, count=4)]
    for one in (first, *again):
        assert one.result(DEADLINE_S).version == 1
    assert (server.rows_of(0), server.rows_of(1)) == (4, 4)
