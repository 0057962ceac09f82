"""Find a training's servers and coordinator, and find them again when they have moved to other workers."""

import itertools
import math
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dnnflow.errors import DnnflowError
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.rows.coordinator import Coordinator, Report
from dnnflow.parallel.rows.leases import Lease

METADATA = "dnnflow-training"
"""Under which the scheduler keeps where trainings' actors are."""
LEASES_S = 0.5
"""How long the leases that a replica takes at once are to last: a call costs 2 ms of processor time."""
ANSWER_S = 120.0
"""How long the coordinator may take to answer."""
POLL_S = 0.1
WATCH_S = 2.0
"""How often it is asked while all goes well."""
RETRY_S = 5.0
"""After which the same servers are tried again: not they, but the way to them may have broken."""


@dataclass(frozen=True)
class Generation:
    """Where a training's actors are, until one of them is lost."""

    number: int
    """From 0."""
    coordinator: Any
    servers: tuple[tuple[Any, ...], ...]
    """Of each group of replicas: those that they push to."""

    def servers_of(self, replica: int) -> tuple[Any, ...]:
        """Return the servers that a replica pushes to."""
        return self.servers[replica % len(self.servers)]


class Lookout:
    """Asks the scheduler for a training's generations; made in the thread of a replica's task.

    The scheduler is the one place that driver and replicas both reach: a replica has no address of its
    driver, and the actors are what is lost.

    Parameters
    ----------
    training
        Its name in the scheduler's metadata.
    """

    def __init__(self, training: str) -> None:
        from distributed import get_client, get_worker

        self._client, self._worker = get_client(), get_worker()
        self._key = self._worker.get_current_task()
        self._path = [METADATA, training]
        self._since_s: float | None = None
        self._has_seceded = False

    def first(self) -> Generation:
        """Return the generation that there is."""
        _, found = self._ask()
        if not found:
            raise ChannelError("a replica needs its training's servers, got none; has its driver ended?")
        return _loaded(found)

    def next(self, known: Generation, error: Exception, wait_s: float) -> Generation:
        """Return a later generation as soon as there is one, or the same one to be tried again.

        Parameters
        ----------
        error
            Why one is asked for: raised when the driver wants this replica no longer, or nothing but
            failures came of it for too long.
        wait_s
            How long that is. `went_well` ends it.
        """
        from distributed import secede

        began_s = time.monotonic()
        self._since_s = self._since_s or began_s
        if not self._has_seceded:  # a server may have to begin on this worker, whose thread this task has
            self._has_seceded = True
            secede()
        while time.monotonic() - self._since_s < wait_s and self._is_wanted():
            number, found = self._ask()
            if number > known.number:
                if found:  # nothing while servers are on their way
                    return _loaded(found)
            elif time.monotonic() - began_s > RETRY_S:
                return known
            time.sleep(POLL_S)
        raise error

    @contextmanager
    def watching(self, known: Generation, moved: Callable[[], None]) -> Iterator[None]:
        """Call `moved` when there is a later generation meanwhile, or this replica is wanted no longer.

        Of servers that hang, or that nothing comes through from, a replica hears in no other way.
        """
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(WATCH_S):
                with suppress(OSError):  # of a scheduler that does not answer now
                    if not self._is_wanted() or self._ask()[0] > known.number:
                        moved()
                        return

        threading.Thread(target=watch, name="dnnflow-lookout", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def went_well(self) -> None:
        """Note that servers have answered."""
        self._since_s = None

    def _ask(self) -> tuple[int, bytes]:
        number, pickled = self._client.get_metadata(self._path, None) or (-1, b"")
        return number, pickled

    def _is_wanted(self) -> bool:
        """Say whether the task was not cancelled, by its driver or because that has ended."""
        task = self._worker.state.tasks.get(self._key)
        return task is not None and task.state in ("executing", "long-running")


def _loaded(pickled: bytes) -> Generation:
    found: Generation = pickle.loads(pickled)
    for actor in (found.coordinator, *itertools.chain(*found.servers)):
        # On a worker it never ends; a call of an actor that is gone waits for it (distributed/actor.py)
        actor._future = None
    return found


class CoordinatorClient:
    """Asks the coordinator for one replica, over Dask or in this process."""

    def __init__(self, coordinator: Coordinator | Any, replica: int) -> None:
        self._coordinator, self._replica = coordinator, replica
        self._leased: deque[Lease] = deque()
        self._rows, self._asked_s = 1, -math.inf

    def take(self) -> Lease | None:
        """Lease rows: as many at once as lasted for a while before."""
        if not self._leased:
            lasted_s, self._asked_s = time.monotonic() - self._asked_s, time.monotonic()
            self._rows = _rows_to_lease(self._rows, lasted_s)
            self._leased.extend(answer_of(lambda: self._coordinator.take(self._replica, self._rows)))
            self._rows = max(1, sum(lease.rows for lease in self._leased))
        return self._leased.popleft() if self._leased else None

    def give_back(self) -> None:
        """Give back what a former process of this replica held."""
        answer_of(lambda: self._coordinator.give_back(self._replica))

    def is_done(self) -> bool:
        """Whether all is done."""
        return bool(answer_of(lambda: self._coordinator.is_done()))

    def report(self, report: Report) -> bool:
        """Report, and return whether to go on."""
        return bool(answer_of(lambda: self._coordinator.report(report)))


def _rows_to_lease(rows: int, lasted_s: float) -> int:
    """Return how many rows to lease at once, when so many lasted so long before."""
    if lasted_s < LEASES_S:
        return 2 * rows
    return max(1, rows // 2) if lasted_s > 2 * LEASES_S else rows


def answer_of(call: Callable[[], Any]) -> Any:
    """Return the result of a call of an actor's method, which gives a future over Dask.

    Raises
    ------
    ChannelError
        When the actor's worker has gone, or it does not answer in time.
    """
    try:
        value = call()
        return value.result(timeout=ANSWER_S) if hasattr(value, "result") else value
    except DnnflowError:
        raise
    except TimeoutError as error:
        raise ChannelError(
            f"an actor must answer within {ANSWER_S:.0f} s, got nothing; look at the server's worker"
        ) from error
    except (OSError, RuntimeError) as error:  # which of them depends on when Dask noticed
        raise ChannelError(f"an actor's worker must live, got: {error}") from error
