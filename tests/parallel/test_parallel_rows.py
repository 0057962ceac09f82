"""A replica's batches hold the rows of its leases, each once, in an order that anybody can repeat."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_parallel_leases import take

from dnnflow.errors import DataError, InputError, TimeLimitError
from dnnflow.events import Listener, ignore
from dnnflow.parallel.rows.batches import Batch, Batches, Batching, batches, leases_until_done
from dnnflow.parallel.rows.leases import Lease, Leases, lane_leases, lane_of, lanes, row_order
from dnnflow.table.rows.array_source import ArraySource
from dnnflow.table.rows.files import FileList
from dnnflow.table.rows.source import Chunk, Rows


def numbered(rows: int) -> ArraySource:
    """Rows that know their number: 16 bytes each."""
    numbers = np.arange(rows)
    return ArraySource.open((numbers.astype("float64"), numbers.astype("int32")), numbers.astype("float32"))


def numbers_of(found: list[Batch]) -> list[list[int]]:
    return [batch.inputs[1].tolist() for batch in found]


def in_order(lease: Lease, seed: int, block_rows: int = 1 << 30) -> list[int]:
    """The rows of a lease, as plain words of what `Batching` promises."""
    rows: list[int] = []
    for start in range(lease.chunk.start, lease.chunk.stop, block_rows):
        block = Chunk(lease.chunk.file, start, min(start + block_rows, lease.chunk.stop))
        rows += [start + row for row in row_order(block, seed, lease.epoch).tolist()]
    return rows[lease.skip :]


def cut(rows: list[int], size: int) -> list[list[int]]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


# Which rows


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 30), max_size=6),
    st.integers(1, 25),
    st.integers(1, 40),
    st.integers(0, 3),
    st.booleans(),
    st.integers(1, 3),
)
def test_batches_run_on_through_chunks_and_blocks(
    sizes: list[int], batch_size: int, block_rows: int, done: int, ahead: bool, epochs: int
):
    source = numbered(max(1, sum(sizes)))
    ends = np.cumsum([0, *sizes]).tolist()
    lane = [Chunk(0, start, stop) for start, stop in pairwise(ends)]
    leases = [lease for epoch in range(epochs) for lease in lane_leases(lane, epoch, done)]
    batching = Batching(batch_size, seed=5, block_bytes=block_rows * source.row_bytes)
    if ahead:
        with Batches(source, leases, batching) as made:
            found = list(made)
    else:
        found = list(batches(source, leases, batching))
    wanted = []
    for epoch in range(epochs):
        mine = [lease for lease in leases if lease.epoch == epoch]
        wanted += cut([row for lease in mine for row in in_order(lease, 5, block_rows)], batch_size)
    assert numbers_of(found) == wanted
    assert [batch.count for batch in found] == [len(rows) for rows in wanted]
    for batch in found:
        assert batch.inputs[0].tolist() == batch.targets[0].tolist() == batch.inputs[1].tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 25), st.integers(1, 40))
def test_what_a_batch_reports_as_done_are_its_rows(sizes: list[int], batch_size: int, block_rows: int):
    source = numbered(sum(sizes))
    ends = np.cumsum([0, *sizes]).tolist()
    leases = Leases([Chunk(0, a, b) for a, b in pairwise(ends)], 0, epochs=2)
    given_out = leases_until_done(lambda: take(leases, 0), lambda: leases.is_done, poll_s=0, wait_s=1)
    samples = 0
    for batch in batches(source, given_out, Batching(batch_size, block_bytes=block_rows * source.row_bytes)):
        for lease, done in batch.done:
            assert leases.advance(0, lease, done)
        samples += batch.count
        assert sum(leases.snapshot()["done"]) == samples
    assert leases.is_done


def test_small_rows_are_made_many_batches_at_once_without_a_change(monkeypatch: pytest.MonkeyPatch):
    from dnnflow.parallel.rows import batches as rows

    source, chunk = numbered(50_000), Chunk(0, 0, 50_000)
    found = list(batches(source, [Lease(0, 0, chunk)], Batching(7)))
    monkeypatch.setattr(rows, "_RUN_BYTES", 1)
    one_by_one = list(batches(source, [Lease(0, 0, chunk)], Batching(7)))
    assert numbers_of(found) == numbers_of(one_by_one) == cut(in_order(Lease(0, 0, chunk), 0), 7)
    assert [batch.done for batch in found] == [batch.done for batch in one_by_one]


def test_unshuffled_rows_come_as_they_lie():
    lease = Lease(0, 0, Chunk(0, 10, 40))
    found = list(batches(numbered(50), [lease], Batching(8, shuffle=False, block_bytes=100)))
    assert numbers_of(found) == cut(list(range(10, 40)), 8)


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("float32", "float32"), ("float64", "float64"), (None, "float64")]
)
def test_floats_become_float32_unless_asked_otherwise(dtype: str | None, wanted: str):
    (batch,) = batches(numbered(5), [Lease(0, 0, Chunk(0, 0, 5))], Batching(8, dtype=dtype))
    assert batch.inputs[0].dtype == wanted
    assert batch.inputs[1].dtype == np.int32
    assert batch.targets[0].dtype == ("float64" if dtype == "float64" else "float32")


def test_settings_that_make_no_batches_are_refused():
    for settings_of, match in (
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": 1, "seed": -1}, "seed must be >= 0"),
        ({"batch_size": 1, "queue_bytes": 0}, "queue_bytes must be >= 1"),
        ({"batch_size": 1, "dtype": "int8"}, "dtype must be float16"),
    ):
        with pytest.raises(InputError, match=match):
            Batching(**settings_of)


def test_which_rows_form_a_synchronous_step_depends_on_seed_and_step_alone():
    source = numbered(103)
    chunks = source.chunks(10)

    def steps() -> list[list[int]]:
        replicas = [
            list(batches(source, lane_of(replica, chunks, 4, seed=3, epochs=2), Batching(8, seed=3)))
            for replica in range(4)
        ]
        return [sorted(chain(*numbers_of(list(step)))) for step in zip(*replicas, strict=False)]

    assert steps() == steps()
    assert sorted(chain(*steps())) == sorted([*range(103)] * 2)
    assert [len(step) for step in steps()] == [32, 32, 32, 7] * 2


def test_a_replica_without_rows_ends():
    source = numbered(3)
    lane = lanes(source.chunks(1), 5, 0, 0)
    counts = [sum(b.count for b in batches(source, lane_leases(each, 0), Batching(4))) for each in lane]
    assert sorted(counts) == [0, 0, 1, 1, 1]


def test_keras_learns_the_same_from_batches_as_from_arrays():
    import keras

    rng = np.random.default_rng(0)
    x, y = rng.random((90, 5), dtype=np.float32), rng.integers(0, 3, 90)
    source = ArraySource.open(x, y)
    leases = list(lane_of(0, source.chunks(25), 1, seed=1, epochs=2))

    def model() -> keras.Model:
        keras.utils.set_random_seed(0)
        made = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")]
        )
        made.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        return made

    ours, plain = model(), model()
    for batch in batches(source, leases, Batching(16, seed=1)):
        ours.train_on_batch(*batch.inputs, *batch.targets)
    for epoch in range(2):
        order = [row for lease in leases if lease.epoch == epoch for row in in_order(lease, 1)]
        plain.fit(x[order], y[order], batch_size=16, shuffle=False, verbose=0)
    for mine, wanted in zip(ours.get_weights(), plain.get_weights(), strict=True):
        assert np.array_equal(mine, wanted)


# Replicas that share leases


@pytest.mark.parametrize("deadly", [False, True])
def test_replicas_train_on_every_row_once_also_when_one_dies(deadly: bool):
    source, lock = numbered(1000), threading.Lock()
    leases = Leases(source.chunks(37), 0, epochs=3)
    seen: Counter[tuple[int, int]] = Counter()

    def replica(number: int, dies_after: int | None) -> None:
        given_out = leases_until_done(
            lambda: take(leases, number), lambda: leases.is_done, poll_s=0.002, wait_s=20
        )
        with Batches(source, given_out, Batching(16)) as made:
            for step, batch in enumerate(made):
                if step == dies_after:
                    break  # with a batch in hand, and others in its queue
                with lock:
                    assert all(leases.advance(number, *done) for done in batch.done)
                    seen.update((batch.epoch, row) for row in batch.inputs[1].tolist())
        leases.give_back(number)

    dies_after = [5, 0, None] if deadly else [None] * 3
    threads = [threading.Thread(target=replica, args=each) for each in enumerate(dies_after)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert leases.is_done
    assert seen == Counter((epoch, row) for epoch in range(3) for row in range(1000))


def test_rows_that_fill_no_batch_are_not_kept_while_others_wait_for_them():
    leases = Leases(numbered(20).chunks(10), 0, epochs=1)
    other = take(leases, 1)
    assert other is not None
    given_out = leases_until_done(lambda: take(leases, 0), lambda: leases.is_done, poll_s=0.002, wait_s=20)
    with Batches(numbered(20), given_out, Batching(16)) as made:
        batch = next(made)
        assert batch.count == 10  # although 16 would fit, and the epoch has not ended
        leases.advance(0, *batch.done[0])
        leases.give_back(1)  # the other dies: its rows come here
        batch = next(made)
        assert batch.done[0][0].chunk == other.chunk
        leases.advance(0, *batch.done[0])
        assert next(made, None) is None


def test_others_that_hang_are_not_waited_for_for_ever():
    leases = Leases(numbered(10).chunks(10), 0, epochs=1)
    take(leases, 1)
    given_out = leases_until_done(lambda: take(leases, 0), lambda: leases.is_done, poll_s=0.002, wait_s=0.02)
    with pytest.raises(TimeLimitError, match="must be finished or given back within"):
        list(batches(numbered(10), given_out, Batching(4)))


# The thread


class Breaks(ArraySource):
    """A source whose second chunk cannot be read."""

    @contextmanager
    def reader(self, listen: Listener = ignore) -> Iterator:
        def read(chunk: Chunk) -> Rows:
            if chunk.start:
                raise DataError("file b is damaged")
            return self.read_whole(chunk)

        yield read

    def read_whole(self, chunk: Chunk) -> Rows:
        with ArraySource.reader(self) as read:
            return read(chunk)


def of_this_kind() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dnnflow-rows"]


def gone(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_an_error_while_reading_ahead_reaches_the_replica_behind_the_good_batches():
    source = Breaks.open(np.arange(20.0), np.arange(20.0))
    made = Batches(source, lane_leases(source.chunks(10), 0), Batching(4))
    assert [next(made).count for _ in range(2)] == [4, 4]
    with pytest.raises(DataError, match="file b is damaged"):
        next(made)
    assert next(made, None) is None
    assert gone(of_this_kind())


@pytest.mark.parametrize("taken", [0, 1, 30])
def test_closing_ends_the_thread_and_asks_for_no_more_leases(taken: int):
    asked_for: list[None] = []

    def endless() -> Iterator[Lease]:
        while True:
            asked_for.append(None)
            yield Lease(0, 0, Chunk(0, 0, 100))

    made = Batches(numbered(100), endless(), Batching(10, queue_bytes=1))
    for _ in range(taken):
        next(made)
    threads = of_this_kind()
    made.close()
    assert gone(threads)
    count = len(asked_for)
    assert next(made, None) is None
    time.sleep(0.02)
    assert len(asked_for) == count <= taken // 10 + 3
    made.close()


def test_closing_ends_a_thread_that_waits_for_others():
    leases = Leases(numbered(10).chunks(10), 0, epochs=1)
    take(leases, 1)
    given_out = leases_until_done(lambda: take(leases, 0), lambda: leases.is_done, poll_s=0.002, wait_s=20)
    made = Batches(numbered(10), given_out, Batching(4))
    threads = of_this_kind()
    made.close()
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.slow
def test_an_iterator_that_was_forgotten_ends_its_thread():
    made = Batches(numbered(100), [Lease(0, 0, Chunk(0, 0, 100))] * 50, Batching(10, queue_bytes=1))
    next(made)
    threads = of_this_kind()
    assert threads
    del made
    gc.collect()
    assert gone(threads)


def test_a_file_is_closed_when_the_replica_stops_early(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["labels"] = np.zeros((5000, 8), "f4"), np.zeros(5000)
    files = FileList.open(tmp_path / "a.h5")

    def opened() -> int:
        return sum(str(tmp_path) in os.readlink(f"/proc/self/fd/{fd}") for fd in _open_files())

    with Batches(files, lane_leases(files.chunks(100), 0), Batching(10, queue_bytes=1)) as made:
        next(made)
        assert opened() > 0
    assert opened() == 0


def _open_files() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_no_more_is_read_ahead_than_the_queue_holds():
    source, read = numbered(10_000), []

    def watched() -> Iterator[Lease]:
        for lease in lane_leases(source.chunks(10), 0):
            read.append(lease)
            yield lease

    batching = Batching(10, queue_bytes=4 * (256 << 10))
    with Batches(source, watched(), batching) as made:
        next(made)
        time.sleep(0.2)  # a thread that is not held back reads everything in this time
        assert len(read) <= 8


MEMORY = """
import sys
from pathlib import Path
import h5py, numpy as np
from dnnflow.table.rows.files import FileList
from dnnflow.parallel.rows.leases import lane_of
from dnnflow.parallel.rows.batches import Batches, Batching

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

files = FileList.open(sys.argv[1])
chunks = files.chunks(int(sys.argv[2]))
before, rows = peak(), 0
batching = Batching(100, block_bytes=8 << 20, queue_bytes=4 << 20)
with Batches(files, lane_of(0, chunks, 1, seed=0, epochs=1), batching) as made:
    for batch in made:
        rows += batch.count
print(rows, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("chunk_rows", [3_000, 1_000_000])
def test_memory_is_that_of_blocks_whatever_the_files_size(chunk_rows: int, tmp_path: Path):
    """A user's nodes hold neither a file list of 200 MB nor, where a file is one chunk, a file of 50 MB."""
    for index in range(4):
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            file["features"] = np.full((22_000, 30, 19), index, np.float32)
            file["labels"] = np.zeros((22_000, 3), np.float32)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "*.h5"), str(chunk_rows)],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, growth = map(int, run.stdout.split())
    assert rows == 88_000
    assert growth < 40 << 20  # two blocks, the queue, and what Python and HDF5 take for themselves


def test_who_gives_leases_and_is_gone_is_not_waited_for() -> None:
    """The thread waits for an answer that may never come, while its replica has others to turn to."""
    answered = threading.Event()

    def given_out() -> Iterator[Lease | None]:
        answered.wait(30)
        yield None

    made = Batches(numbered(10), given_out(), Batching(4))
    with pytest.raises(ConnectionError), made:
        raise ConnectionError
    assert made._thread.is_alive()
    answered.set()
    made._thread.join(30)
    assert not made._thread.is_alive()
