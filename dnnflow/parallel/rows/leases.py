"""Assign rows to replicas: leases, first come first served, or lanes that depend on seed and epoch alone.

Both see to it that every row is trained on once an epoch, whichever replicas join, die or come back. Nothing
here knows of clusters, files or models.
"""

import heapq
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError
from dnnflow.paths import content_id
from dnnflow.table.rows.source import Chunk

_CHUNKS, _ROWS = range(2)  # keeps the uses of one seed apart


def _order(n: int, *position: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(position)))
    return generator.permutation(n)


def chunk_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits `n` chunks."""
    return _order(n, seed, _CHUNKS, epoch)


def row_order(chunk: Chunk, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the rows of a chunk, counted from its first."""
    return _order(chunk.rows, seed, _ROWS, epoch, chunk.file, chunk.start)


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows of a chunk that one replica is to train on in one epoch."""

    number: int
    """Of all leases of a training, in the order in which they were given; in a lane, its place there."""
    epoch: int
    """From 0."""
    chunk: Chunk
    skip: int = 0
    """Rows, of the chunk in this epoch's order, that were trained on before."""

    @property
    def rows(self) -> int:
        """Rows to train on."""
        return self.chunk.rows - self.skip


@dataclass
class _Held:
    replica: int
    lease: Lease
    done: int
    """Rows of the chunk that are trained on, those skipped included."""


class Leases:
    """Who trains on which chunk, asynchronously; thread-safe.

    Chunks come in an order drawn from (seed, epoch); those of the next epoch when none of this one waits. A
    lease that was not finished goes, without the rows that are known to be trained on, to whoever asks next.

    Parameters
    ----------
    chunks : sequence of Chunk
        All rows of an epoch, each once.
    seed : int
        From 0.
    epochs : int
        How often each row is trained on.
    """

    def __init__(self, chunks: Sequence[Chunk], seed: int, epochs: int) -> None:
        if seed < 0 or epochs < 1:
            raise InputError(
                f"leases need a seed >= 0 and at least 1 epoch, got seed {seed} and {epochs} epochs; "
                "raise them"
            )
        self._chunks = tuple(chunk for chunk in chunks if chunk.rows)
        self._total = sum(chunk.rows for chunk in self._chunks)
        self._seed, self._epochs = seed, epochs
        self._lock = threading.Lock()
        self._number = 0
        self._held: dict[int, _Held] = {}
        self._returned: list[tuple[int, Chunk, int]] = []  # a heap: earlier epochs first
        self._done = [0] * epochs
        self._data = content_id({"seed": seed, "chunks": [astuple(chunk) for chunk in self._chunks]})
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._next = epoch, 0
        self._order = chunk_order(len(self._chunks), self._seed, epoch)

    def take(self, replica: int, rows: int = 1, readers: int = 1) -> tuple[Lease, ...]:
        """Return leases of the next rows, of one epoch; empty where none wait now.

        A replica that is given none must train on what it has of unfinished leases, and may ask again: there
        may be rows again as long as `is_done` is false.

        Parameters
        ----------
        rows
            As many leases as it takes to have them; one at least.
        readers
            Who share the chunks: one takes no more than its share of an epoch, and of the last epoch half its
            share of what is left, so that all end at about the same time.
        """
        with self._lock:
            last = self._epoch + 1 == self._epochs
            left = len(self._chunks) - (self._next if last else 0)
            most = max(1, left // (readers * (2 if last else 1)))
            found: list[Lease] = []
            while len(found) < most and sum(lease.rows for lease in found) < rows:
                if found and not self._returned and self._next == len(self._chunks):
                    break
                lease = self._take(replica)
                if lease is None:
                    break
                found.append(lease)
            return tuple(found)

    def _take(self, replica: int) -> Lease | None:
        found = heapq.heappop(self._returned) if self._returned else self._fresh()
        if found is None:
            return None
        epoch, chunk, done = found
        lease = Lease(self._number, epoch, chunk, done)
        self._held[lease.number] = _Held(replica, lease, done)
        self._number += 1
        return lease

    def _fresh(self) -> tuple[int, Chunk, int] | None:
        if self._next == len(self._chunks):
            if self._epoch + 1 == self._epochs or not self._chunks:
                return None
            self._begin(self._epoch + 1)
        self._next += 1
        return self._epoch, self._chunks[self._order[self._next - 1]], 0

    def advance(self, replica: int, lease: Lease, done: int) -> bool:
        """Note that the first `done` rows of a lease's chunk, in the epoch's order, are trained on.

        Reports may come late or twice; the furthest counts. All rows done is the end of the lease.

        Returns
        -------
        bool
            False where the lease is no longer the replica's: it was given back, and what the replica trained
            on since is not counted.

        Raises
        ------
        InputError
            If the chunk has fewer rows.
        """
        if not 0 <= done <= lease.chunk.rows:
            raise InputError(
                f"rows done must be between 0 and the chunk's {lease.chunk.rows}, got {done}; count them anew"
            )
        with self._lock:
            held = self._held.get(lease.number)
            if held is None or held.replica != replica or held.lease != lease:
                return False
            self._done[lease.epoch] += max(0, done - held.done)
            held.done = max(held.done, done)
            if held.done == lease.chunk.rows:
                del self._held[lease.number]
            return True

    def give_back(self, replica: int) -> tuple[Lease, ...]:
        """Take all leases from a replica that is gone, for others; return them as they were.

        Also for a replica that starts again under its old number: what it held before is nobody's.
        """
        with self._lock:
            gone = [held for held in self._held.values() if held.replica == replica]
            for held in gone:
                self._return(held)
            return tuple(held.lease for held in gone)

    def _return(self, held: _Held) -> None:
        del self._held[held.lease.number]
        heapq.heappush(self._returned, (held.lease.epoch, held.lease.chunk, held.done))

    @property
    def is_done(self) -> bool:
        """Whether every row of every epoch is trained on."""
        with self._lock:
            return sum(self._done) == self._total * self._epochs

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as plain JSON values."""
        with self._lock:
            return {
                "data": self._data,
                "epoch": self._epoch,
                "next": self._next,
                "number": self._number,
                "done": list(self._done),
                "returned": [[epoch, astuple(chunk), done] for epoch, chunk, done in self._returned],
                "held": [[held.replica, astuple(held.lease), held.done] for held in self._held.values()],
            }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot was taken; more epochs than it had may follow. Leases of then go to others.

        Raises
        ------
        InputError
            If the snapshot is of other chunks or another seed, or has more epochs.
        """
        if snapshot["data"] != self._data or len(snapshot["done"]) > self._epochs:
            raise InputError(
                "leases can go on only with the same chunks and seed and no fewer epochs, got a snapshot of "
                f"other ones or of {len(snapshot['done'])} epochs, not {self._epochs}; start anew, or set "
                "the same"
            )
        with self._lock:
            self._begin(snapshot["epoch"])
            self._next, self._number = snapshot["next"], snapshot["number"]
            self._done = [*snapshot["done"], *[0] * (self._epochs - len(snapshot["done"]))]
            self._returned = [(epoch, Chunk(*chunk), done) for epoch, chunk, done in snapshot["returned"]]
            heapq.heapify(self._returned)
            self._held = {}
            for _, (_, epoch, chunk, _), done in snapshot["held"]:
                heapq.heappush(self._returned, (epoch, Chunk(*chunk), done))


def lanes(chunks: Sequence[Chunk], n: int, seed: int, epoch: int) -> tuple[tuple[Chunk, ...], ...]:
    """Divide an epoch's chunks into `n` lanes whose rows differ by at most one, by seed and epoch alone.

    Chunks are cut where a lane ends; with fewer rows than lanes some lanes are empty.

    Raises
    ------
    InputError
        If `n` is below 1.
    """
    if n < 1:
        raise InputError(f"there must be at least 1 lane, got {n}; raise the number of replicas")
    shuffled = [chunks[index] for index in chunk_order(len(chunks), seed, epoch)]
    total = sum(chunk.rows for chunk in shuffled)
    return tuple(
        tuple(_between(shuffled, start, stop))
        for start, stop in pairwise([total * lane // n for lane in range(n + 1)])
    )


def lane_rows(chunks: Sequence[Chunk], n: int, lane: int) -> int:
    """Return the rows of one of `n` lanes; as many in each epoch."""
    total = sum(chunk.rows for chunk in chunks)
    return total * (lane + 1) // n - total * lane // n


def _between(chunks: Sequence[Chunk], start: int, stop: int) -> Iterator[Chunk]:
    """Yield the rows `start` to `stop` of chunks in a row."""
    at = 0
    for chunk in chunks:
        first, last = max(start, at), min(stop, at + chunk.rows)
        if first < last:
            yield Chunk(chunk.file, chunk.start + first - at, chunk.start + last - at)
        at += chunk.rows


def lane_leases(lane: Sequence[Chunk], epoch: int, done: int = 0) -> tuple[Lease, ...]:
    """Return what is left of a lane behind its first `done` rows, for a replica that comes back to it."""
    found, at = [], 0
    for number, chunk in enumerate(lane):
        skip = min(max(done - at, 0), chunk.rows)
        if skip < chunk.rows:
            found.append(Lease(number, epoch, chunk, skip))
        at += chunk.rows
    return tuple(found)


def lane_of(
    replica: int, chunks: Sequence[Chunk], n: int, *, seed: int, epochs: int, first_epoch: int = 0,
    done: int = 0,
) -> Iterator[Lease]:  # fmt: skip
    """Yield one of `n` replicas' rows of epoch after epoch, from behind `done` rows of the first epoch on."""
    for epoch in range(first_epoch, epochs):
        lane = lanes(chunks, n, seed, epoch)[replica]
        yield from lane_leases(lane, epoch, done if epoch == first_epoch else 0)
