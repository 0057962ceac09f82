"""Every row is trained on once an epoch, whichever replicas join, die, hang or come back."""

import json
import pickle
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import InputError
from dnnflow.parallel.rows.leases import (
    Lease,
    Leases,
    chunk_order,
    lane_leases,
    lane_of,
    lanes,
    row_order,
)
from dnnflow.table.rows.source import Chunk

Trained = Counter[tuple[int, Chunk, int]]
"""How often the row at a position of a chunk's order was trained on in an epoch."""


def some_chunks(*rows: int) -> tuple[Chunk, ...]:
    """Chunks of two files, not beginning at row 0."""
    firsts = [sum(rows[:i]) + 5 for i in range(len(rows))]
    return tuple(
        Chunk(i % 2, first, first + count) for i, (first, count) in enumerate(zip(firsts, rows, strict=True))
    )


def each_row_once(chunks: tuple[Chunk, ...], epochs: int) -> Trained:
    return Counter((e, chunk, row) for e in range(epochs) for chunk in chunks for row in range(chunk.rows))


def counts(leases: Leases) -> list[tuple[int, int, int]]:
    """Rows of each epoch that are trained on, held by a replica, and with nobody."""
    state = leases.snapshot()
    held = [0] * len(state["done"])
    for _, (_, epoch, (_, start, stop), _), done in state["held"]:
        held[epoch] += stop - start - done
    return [(done, mine, leases._total - done - mine) for done, mine in zip(state["done"], held, strict=True)]


def samples(leases: Leases) -> int:
    return sum(done for done, *_ in counts(leases))


def take(leases: Leases, replica: int) -> Lease | None:
    return next(iter(leases.take(replica)), None)


def taken(leases: Leases, replica: int) -> Lease:
    lease = take(leases, replica)
    assert lease is not None
    return lease


def finish(leases: Leases, replica: int, lease: Lease) -> bool:
    return leases.advance(replica, lease, lease.chunk.rows)


class Training:
    """Replicas at their leases; counts what the leases accepted."""

    def __init__(self, chunks: tuple[Chunk, ...], seed: int, epochs: int) -> None:
        self.chunks, self.seed, self.epochs = chunks, seed, epochs
        self.leases = Leases(chunks, seed, epochs)
        self.trained: Trained = Counter()
        self.at: dict[int, list[tuple[Lease, int]]] = {}
        """Leases of each replica, with the rows that it has done of each chunk: also of dead ones."""

    def take(self, replica: int) -> None:
        lease = take(self.leases, replica)
        if lease is not None:
            assert all(waiting == 0 for *_, waiting in counts(self.leases)[: lease.epoch])
            self.at.setdefault(replica, []).append((lease, lease.skip))

    def train(self, replica: int, rows: int) -> None:
        """Train on rows of the oldest lease."""
        if not self.at.get(replica):
            return
        lease, done = self.at[replica].pop(0)
        now = min(done + rows, lease.chunk.rows)
        if self.leases.advance(replica, lease, now):
            self.trained.update((lease.epoch, lease.chunk, row) for row in range(done, now))
            if now < lease.chunk.rows:
                self.at[replica].insert(0, (lease, now))

    def die(self, replica: int) -> None:
        """The leases are given back, but the replica is a ghost that still reports."""
        self.leases.give_back(replica)

    def crash(self) -> None:
        """The whole state goes through a file; what replicas held goes to others."""
        state = json.loads(json.dumps(self.leases.snapshot()))
        self.leases = Leases(self.chunks, self.seed, self.epochs)
        self.leases.restore(state)

    def end(self) -> None:
        """All replicas but a new one are gone."""
        for replica in list(self.at):
            self.die(replica)
        for _ in range(len(self.chunks) * self.epochs + 1):
            self.take(99)
            self.train(99, 1 << 30)


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "train", "train", "die", "crash"]),
        st.integers(0, 3),
        st.integers(0, 12),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 3), st.integers(0, 9), steps)
def test_every_row_is_trained_on_once_whatever_happens(
    rows: list[int], epochs: int, seed: int, script: list[tuple[str, int, int]]
):
    chunks = some_chunks(*rows)
    training = Training(chunks, seed, epochs)
    for step, replica, amount in script:
        match step:
            case "take":
                training.take(replica)
            case "train":
                training.train(replica, amount)
            case "die":
                training.die(replica)
            case "crash":
                training.crash()
        found = counts(training.leases)
        assert all(held >= 0 and waiting >= 0 for _, held, waiting in found)
        assert sum(done for done, *_ in found) == samples(training.leases) == training.trained.total()
        assert training.leases.is_done == (training.trained.total() == sum(rows) * epochs)
    training.end()
    assert training.trained == each_row_once(chunks, epochs)
    assert training.leases.is_done
    assert take(training.leases, 0) is None


def test_leases_are_first_come_first_served_in_the_seeds_order():
    chunks = some_chunks(10, 20, 30, 40)
    leases = Leases(chunks, 7, epochs=2)
    got = [taken(leases, replica) for replica in (0, 1, 1, 0, 2)]
    wanted = [chunks[index] for epoch in (0, 1) for index in chunk_order(4, 7, epoch)][:5]
    assert [lease.chunk for lease in got] == wanted
    assert [lease.epoch for lease in got] == [0, 0, 0, 0, 1]
    assert counts(leases) == [(0, 100, 0), (0, wanted[4].rows, 100 - wanted[4].rows)]
    assert [lease.number for lease in got] == [0, 1, 2, 3, 4]


def test_orders_differ_between_epochs_seeds_and_chunks():
    orders = [chunk_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    orders += [
        row_order(Chunk(file, start, start + 50), 0, 0).tolist() for file in (0, 1) for start in (0, 50)
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
    assert row_order(Chunk(1, 50, 100), 0, 0).tolist() == orders[-1]


def test_a_dead_replica_costs_only_what_it_did_not_report():
    leases = Leases(some_chunks(10, 10), 0, epochs=1)
    first, second = taken(leases, 0), taken(leases, 0)
    assert leases.advance(0, first, 4)
    assert leases.give_back(0) == (first, second)
    resumed = [taken(leases, 1), taken(leases, 1)]
    assert {(lease.chunk, lease.skip, lease.rows) for lease in resumed} == {
        (first.chunk, 4, 6),
        (second.chunk, 0, 10),
    }
    assert take(leases, 1) is None
    assert not leases.is_done
    assert all(finish(leases, 1, lease) for lease in resumed)
    assert leases.is_done
    assert samples(leases) == 20


def test_a_replica_that_was_given_up_is_told_and_not_counted():
    leases = Leases(some_chunks(10), 0, epochs=1)
    lost = taken(leases, 0)
    leases.give_back(0)
    assert not finish(leases, 0, lost)
    again = taken(leases, 0)  # it comes back under its old number, to the same chunk
    assert not finish(leases, 0, lost)
    assert not finish(leases, 1, again)
    assert finish(leases, 0, again)
    assert not finish(leases, 0, again)
    assert samples(leases) == 10


def test_a_lease_given_after_the_snapshot_is_not_taken_for_another_of_its_number():
    leases = Leases(some_chunks(10, 10), 0, epochs=1)
    held = taken(leases, 0)
    state = leases.snapshot()
    late = taken(leases, 1)
    leases.restore(state)  # the server dies, and nobody knows of the second lease any more
    again = taken(leases, 1)
    assert (again.number, again.chunk) == (late.number, held.chunk)
    assert not finish(leases, 1, late)
    assert samples(leases) == 0


def test_reports_may_come_twice_and_late():
    leases = Leases(some_chunks(10), 0, epochs=1)
    lease = taken(leases, 0)
    assert all(leases.advance(0, lease, done) for done in (6, 6, 3, 7))
    assert samples(leases) == 7
    with pytest.raises(InputError, match="between 0 and the chunk's 10, got 11"):
        leases.advance(0, lease, 11)


def test_leases_of_nothing_are_done():
    for leases in (Leases((), 0, 3), Leases(some_chunks(0, 0), 0, 3)):
        assert leases.is_done
        assert take(leases, 0) is None
    with pytest.raises(InputError, match="at least 1 epoch, got seed 0 and 0 epochs"):
        Leases((), 0, 0)


def test_a_snapshot_goes_on_with_more_epochs_but_not_with_other_data():
    leases = Leases(some_chunks(10, 20), 3, epochs=1)
    while (lease := take(leases, 0)) is not None:
        finish(leases, 0, lease)
    longer = Leases(some_chunks(10, 20), 3, epochs=2)
    longer.restore(leases.snapshot())
    assert counts(longer) == [(30, 0, 0), (0, 0, 30)]
    assert taken(longer, 0).epoch == 1
    for other in (Leases(some_chunks(10, 21), 3, 1), Leases(some_chunks(10, 20), 4, 1)):
        with pytest.raises(InputError, match="same chunks and seed"):
            other.restore(leases.snapshot())
    with pytest.raises(InputError, match="of 2 epochs, not 1"):
        leases.restore(longer.snapshot())


def test_threads_share_leases_without_losing_or_doubling_rows():
    chunks = some_chunks(*range(1, 60))
    leases, lock = Leases(chunks, 0, epochs=3), threading.Lock()
    seen: Counter[tuple[int, Chunk]] = Counter()

    def replica(number: int) -> None:
        while (lease := take(leases, number)) is not None:
            with lock:
                seen[lease.epoch, lease.chunk] += 1
            leases.advance(number, lease, lease.chunk.rows // 2)
            finish(leases, number, lease)

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leases.is_done
    assert seen == Counter((epoch, chunk) for epoch in range(3) for chunk in chunks)


def test_a_lease_travels():
    lease = Lease(3, 1, Chunk(0, 5, 9), 2)
    assert pickle.loads(pickle.dumps(lease)) == lease
    assert lease.rows == 2


# Lanes


def rows_of(chunks: tuple[Chunk, ...]) -> list[tuple[int, int]]:
    return [(chunk.file, row) for chunk in chunks for row in range(chunk.start, chunk.stop)]


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_lanes_hold_every_row_once_and_are_nearly_equal(rows: list[int], n: int, seed: int, epoch: int):
    chunks = some_chunks(*rows)
    dealt = lanes(chunks, n, seed, epoch)
    assert len(dealt) == n
    assert sorted(row for lane in dealt for row in rows_of(lane)) == sorted(rows_of(chunks))
    sizes = [len(rows_of(lane)) for lane in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert dealt == lanes(chunks, n, seed, epoch)


def test_lanes_change_with_epoch_and_seed():
    chunks = some_chunks(*[10] * 20)
    assert len({lanes(chunks, 4, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4
    with pytest.raises(InputError, match="at least 1 lane, got 0"):
        lanes(chunks, 0, 0, 0)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 20), max_size=8),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15), st.booleans()), max_size=30),
)
def test_an_epoch_in_lanes_ends_whoever_dies(rows: list[int], n: int, script: list[tuple[int, int, bool]]):
    """Replicas train on some rows; one that dies comes back to its lane."""
    chunks = some_chunks(*rows)
    trained: Counter[tuple[Chunk, int]] = Counter()
    dealt = lanes(chunks, n, 0, 0)
    left = [list(lane_leases(lane, 0)) for lane in dealt]

    def train(number: int, amount: int) -> None:
        while left[number] and amount > 0:
            lease = left[number].pop(0)
            done = min(lease.skip + amount, lease.chunk.rows)
            amount -= done - lease.skip
            trained.update((lease.chunk, row) for row in range(lease.skip, done))
            if done < lease.chunk.rows:
                left[number].insert(0, Lease(lease.number, 0, lease.chunk, done))

    for replica, amount, dies in script:
        number = replica % n
        train(number, amount)
        if dies:
            done = sum(chunk.rows for chunk in dealt[number]) - sum(lease.rows for lease in left[number])
            left[number] = list(lane_leases(dealt[number], 0, done))
    for number in range(n):
        train(number, 1 << 30)
    pieces = [chunk for lane in dealt for chunk in lane]
    assert trained == Counter((chunk, row) for chunk in pieces for row in range(chunk.rows))


def test_a_replica_comes_back_to_its_lane_where_it_was():
    lane = some_chunks(5, 3, 8)
    assert lane_leases(lane, 2, done=6) == (Lease(1, 2, lane[1], 1), Lease(2, 2, lane[2], 0))
    assert lane_leases(lane, 2, done=16) == ()
    chunks = some_chunks(9, 9)
    whole = list(lane_of(1, chunks, 2, seed=0, epochs=3))
    assert [lease.epoch for lease in whole] == sorted(lease.epoch for lease in whole)
    assert sum(lease.rows for lease in whole) == 27
    rest = list(lane_of(1, chunks, 2, seed=0, epochs=3, first_epoch=1, done=4))
    assert sum(lease.rows for lease in rest) == 14
    assert rest[-1] == whole[-1]


def test_several_leases_are_a_share_of_an_epoch_at_most_and_fewer_at_the_end() -> None:
    chunks = [Chunk(0, start, start + 10) for start in range(0, 160, 10)]
    leases = Leases(chunks, seed=0, epochs=2)
    assert len(leases.take(0, 1, readers=2)) == 1
    assert len(leases.take(0, 35, readers=2)) == 4
    assert len(leases.take(1, 10_000, readers=2)) == 8  # half the epoch
    rest = leases.take(0, 10_000, readers=2)
    assert [lease.epoch for lease in rest] == [0, 0, 0]  # and none of the next
    sizes = []
    while found := leases.take(0, 10_000, readers=2):
        assert {lease.epoch for lease in found} == {1}
        sizes.append(len(found))
    assert sum(sizes) == 16
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-1] == 1
