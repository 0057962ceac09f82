"""Cut shuffled rows of leases into batches, read ahead by one thread.

Rows are shuffled within a chunk (or a block of one, where a chunk is larger than a bound) by seed, epoch and
chunk, so that which rows form a batch does not depend on who reads them.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError, TimeLimitError
from dnnflow.events import Listener, ignore
from dnnflow.parallel.rows.leases import Lease, row_order
from dnnflow.table.rows.binding import Arrays, Binding
from dnnflow.table.rows.source import Chunk, Reader, Rows, RowSource

_RUN_BYTES = 1 << 20
"""Batches are cut from one gathered run, which wakes both threads once: batches of 32 rows of 112 bytes took
60 µs each one by one; batches of 228 kB take 135 µs of processor time, and 175 in runs of one."""
_MAX_RUNS = 64  # in the queue; more of them, however small, hide no longer wait
_CLOSE_S = 5.0

Run = tuple["Batch", ...]
"""Batches that were made together."""


@dataclass(frozen=True)
class Batching:
    """How rows become batches; the same in all replicas of a training."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    dtype: str | None = "float32"
    """Floating-point numbers become this; integers stay what they are. None leaves all as stored."""
    block_bytes: int = 32 << 20
    """Chunks that are larger are read and shuffled in blocks of so many bytes."""
    queue_bytes: int = 16 << 20
    """Batches that wait for the replica, in bytes; there is always room for one."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "block_bytes", "queue_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}; raise it")
        if self.seed < 0:
            raise InputError(f"seed must be >= 0, got {self.seed}; raise it")
        if self.dtype not in (None, "float16", "float32", "float64"):
            raise InputError(f"dtype must be float16, float32, float64 or None, got {self.dtype!r}; set one")


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one step."""

    inputs: Arrays
    """Each of shape (count, ...)."""
    targets: Arrays
    weights: Arrays
    """By how much each row counts; none where all count alike."""
    binding: Binding
    """To the model."""
    epoch: int
    done: tuple[tuple[Lease, int], ...]
    """Once this batch is trained on: rows done of each lease that it has rows of, for `Leases.advance`."""

    @property
    def count(self) -> int:
        """Rows of this batch; the last of an epoch may have fewer than the others."""
        return len(self.inputs[0])

    def for_keras(self) -> tuple[Any, ...]:
        """Return inputs, targets and, where rows have them, weights as the model takes them."""
        return self.binding.batch(self.inputs, self.targets, self.weights)


def leases_until_done(
    take: Callable[[], Lease | None], is_done: Callable[[], bool], *, poll_s: float = 0.05,
    wait_s: float = 3600.0,
) -> Iterator[Lease | None]:  # fmt: skip
    """Yield leases as they are given, and None while all are with other replicas, until all is done.

    Parameters
    ----------
    take, is_done : callable
        Of `Leases`, bound to a replica, here or on another machine.
    poll_s : float
        Between two questions while nothing waits.
    patience_s : float
        How long the others may take before one of their leases is finished or comes back.

    Raises
    ------
    TimeLimitError
        If they take longer.
    """
    waits_since: float | None = None
    while True:
        lease = take()
        if lease is not None:
            waits_since = None
            yield lease
        elif is_done():
            return
        else:
            waits_since = waits_since or time.monotonic()
            if time.monotonic() - waits_since > wait_s:
                raise TimeLimitError(
                    f"leases must be finished or given back within {wait_s:.0f} s, but those of other "
                    "replicas are not; end the replicas that hang, or allow more time"
                )
            yield None
            time.sleep(poll_s)


def batches(
    source: RowSource, leases: Iterable[Lease | None], batching: Batching, listen: Listener = ignore
) -> Iterator[Batch]:
    """Yield batches of the rows of leases, read in this thread.

    Batches run on from one chunk into the next. A smaller one comes at the end of each epoch, and where the
    leases give None (see `Leases.take`), so that no row is kept back.

    Raises
    ------
    DataError
        If a chunk cannot be read.
    """
    for run in _runs(source, leases, batching, listen):
        yield from run


def _runs(
    source: RowSource, leases: Iterable[Lease | None], batching: Batching, listen: Listener
) -> Iterator[Run]:
    builder = _BatchBuilder(batching, source.row_bytes, source.binding)
    with source.reader(listen) as read:
        for lease in leases:
            if lease is None or lease.epoch != builder.epoch:
                yield from builder.rest()
            if lease is not None:
                builder.epoch = lease.epoch
                yield from _of_lease(read, lease, builder)
    yield from builder.rest()


def _of_lease(read: Reader, lease: Lease, builder: "_BatchBuilder") -> Iterator[Run]:
    chunk, block_rows = lease.chunk, builder.block_rows
    for start in range(chunk.start, chunk.stop, block_rows):
        block = Chunk(chunk.file, start, min(start + block_rows, chunk.stop))
        before = start - chunk.start
        at = max(0, lease.skip - before)
        if at >= block.rows:
            continue
        rows, order = read(block), builder.order(block, lease.epoch)
        while at < block.rows:
            some = order[at : at + builder.rows_wanted(block.rows - at)]
            at += len(some)
            yield from builder.add(_gathered(rows, some, builder.batching.dtype), lease, before + at)
        del rows  # before the next block is read


def _gathered(rows: Rows, order: NDArray[np.int64], dtype: str | None) -> Rows:
    return tuple(tuple(computed_as(array.take(order, axis=0), dtype) for array in arrays) for arrays in rows)


def computed_as(array: NDArray[Any], dtype: str | None) -> NDArray[Any]:
    """Return floating-point numbers as `Batching.dtype` says, beyond it infinite; others as they are."""
    if dtype is None or array.dtype.kind != "f" or array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


@dataclass
class _BatchBuilder:
    batching: Batching
    row_bytes: int
    binding: Binding
    epoch: int = 0
    _parts: list[Rows] = field(default_factory=list)
    _count: int = 0
    _done: dict[Lease, int] = field(default_factory=dict)

    @property
    def block_rows(self) -> int:
        """Rows that are read at once."""
        return max(1, self.batching.block_bytes // self.row_bytes)

    def order(self, block: Chunk, epoch: int) -> NDArray[np.int64]:
        if self.batching.shuffle:
            return row_order(block, self.batching.seed, epoch)
        return np.arange(block.rows)

    def rows_wanted(self, left: int) -> int:
        """Return how many of the rows left to add next: what fills a batch, or a run of whole ones."""
        size = self.batching.batch_size
        if self._count or left < size:
            return size - self._count
        return size * min(left // size, max(1, _RUN_BYTES // (size * self.row_bytes)))

    def add(self, rows: Rows, lease: Lease, done: int) -> Iterator[Run]:
        """Add as many rows as were wanted, up to the first `done` of a lease; yield what is full."""
        count, size = len(rows[0][0]), self.batching.batch_size
        if count > size:
            ends = range(size, count + 1, size)
            yield tuple(self._batch(_cut(rows, end - size, end), {lease: done - count + end}) for end in ends)
            return
        self._parts.append(rows)
        self._count += count
        self._done[lease] = done
        if self._count == size:
            yield from self.rest()

    def rest(self) -> Iterator[Run]:
        """Yield what there is as a batch, if there is anything."""
        if self._count:
            batch = self._batch(tuple(map(_joined, zip(*self._parts, strict=True))), self._done)
            self._parts, self._count, self._done = [], 0, {}
            yield (batch,)

    def _batch(self, rows: Rows, done: dict[Lease, int]) -> Batch:
        weights = rows[2] if len(rows) > 2 else ()
        return Batch(rows[0], rows[1], weights, self.binding, self.epoch, tuple(done.items()))


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    return tuple(tuple(array[start:stop] for array in arrays) for arrays in rows)


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))


class _End:
    """Stands in the queue behind the last batch."""


@dataclass(frozen=True)
class _Pipe:
    """What the thread and the replica share; neither knows more of the other."""

    waiting: "queue.Queue[Run | _End | BaseException]"
    stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self.stopped.set()
        while True:  # makes room: a thread that waits for it sees that it is to end
            try:
                self.waiting.get_nowait()
            except queue.Empty:
                return

    def until_stopped(self, leases: Iterable[Lease | None]) -> Iterator[Lease | None]:
        for lease in leases:
            yield lease
            if self.stopped.is_set():  # before another lease is asked for, which nobody would train on
                return


def _fill(pipe: _Pipe, made: Any) -> None:
    last: _End | BaseException = _End()
    try:
        with closing(made):  # the file is closed too
            for run in made:
                pipe.waiting.put(run)
                if pipe.stopped.is_set():
                    return
    except BaseException as error:
        last = error  # raised where the batches are taken
    pipe.waiting.put(last)


class Batches:
    """Batches of a replica, read ahead by one thread; iterate once, and close (or use `with`).

    Memory is that of a block, the batch that is being filled and the queue, whatever the source's size.

    Parameters
    ----------
    source : RowSource
        What chunks are of.
    leases : iterable of Lease or None
        `lane_of(...)`, `lane_leases(...)` or `leases_until_done(...)`; used in the thread.
    batching : Batching
        The same for all replicas.
    listen : callable
        Hears notices, in the thread.
    """

    def __init__(
        self, source: RowSource, leases: Iterable[Lease | None], batching: Batching, listen: Listener = ignore
    ) -> None:
        room = batching.queue_bytes // max(batching.batch_size * source.row_bytes, _RUN_BYTES)
        self._pipe = _Pipe(queue.Queue(max(1, min(_MAX_RUNS, room))))
        self._run: Iterator[Batch] = iter(())
        # The thread knows the pipe, not this object: an iterator that was forgotten ends its thread.
        self._finalizer = weakref.finalize(self, self._pipe.stop)
        made = _runs(source, self._pipe.until_stopped(leases), batching, listen)
        self._thread = threading.Thread(
            target=_fill, args=(self._pipe, made), name="dnnflow-rows", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        return self._next(None)

    def next_within(self, seconds_s: float) -> Batch | None:
        """Return the next batch, or None where none comes in time or there is no other."""
        try:
            return self._next(seconds_s)
        except (StopIteration, queue.Empty):
            return None

    def _next(self, timeout_s: float | None) -> Batch:
        batch = next(self._run, None)
        while batch is None:
            if self._pipe.stopped.is_set():
                raise StopIteration
            item = self._pipe.waiting.get(timeout=timeout_s)
            if not isinstance(item, tuple):
                self.close()
                raise StopIteration if isinstance(item, _End) else item
            self._run = iter(item)
            batch = next(self._run, None)
        return batch

    def close(self) -> None:
        """End the thread; what is not trained on stays with its leases.

        A read that has begun is not cut off: the thread ends behind it, and this waits a few seconds at most.
        """
        self._run = iter(())
        deadline = time.monotonic() + _CLOSE_S
        while True:
            self._pipe.stop()
            self._thread.join(0.01)
            if not self._thread.is_alive() or time.monotonic() > deadline:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ConnectionError):  # who gives leases may be gone: the thread ends when it knows
            self._pipe.stop()
        else:
            self.close()
