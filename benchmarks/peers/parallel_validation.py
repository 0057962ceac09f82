"""Samples a second against how often is validated: by the server, which waits meanwhile, and by an evaluator.

Simulated: 20 replicas wait 150 ms instead of computing. Servers, channels, updates and validations are real,
and both sides validate by the same code. The paper's master validates between two updates, and nobody is
answered meanwhile: here the server's lock is held. Our evaluator takes a snapshot, in another process.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dnnflow.parallel.channel.server_actor import ServerActor
from peers import parallel_lstm, parallel_scaling

REPLICAS, WAIT_S, MEASURED_S = 20, 0.150, 10.0
EVERY = (400, 200, 100, 50)
"""Updates between two validations."""
ROWS = 19_000
"""Of a validation."""
POLL_S = 0.1
"""How often the evaluator's side looks at the count of updates, as the driver of a training does."""


def make_evaluator(pull: Callable[[], Any]) -> Any:
    """Return the evaluator of a training, with the LSTM and its rows."""
    from dnnflow.parallel.driver.validations import Evaluator
    from dnnflow.parallel.model.model_spec import ModelSpec
    from dnnflow.table.rows.sources import Reading, open_source

    spec = ModelSpec.of(parallel_lstm.make_model())
    source = open_source(parallel_lstm.rows(count=ROWS), Reading())
    made = Evaluator(spec, source, source, pull)
    made.ask(0, {}, None).result()  # traces
    return made


class MasterActor(ServerActor):
    """A server that validates by itself, every so many updates, and answers nobody meanwhile."""

    def begin(self, every: int) -> float:
        """Begin to validate; return the seconds that one takes."""
        from dnnflow.engines.process_setup import limit_threads

        limit_threads(1)
        evaluator = make_evaluator(lambda: np.zeros(parallel_scaling.PARAMETERS, np.float32))
        start = time.perf_counter()
        evaluator.ask(0, {}, None).result()
        seconds_s = time.perf_counter() - start
        self._ended, self._done = threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, args=(evaluator, every))
        self._thread.start()
        return seconds_s

    def _watch(self, evaluator: Any, every: int) -> None:
        mark = every
        while not self._ended.wait(0.001):
            if self._server.version >= mark:
                with self._server._lock:
                    evaluator.ask(0, {}, None).result()
                    mark = (self._server.version // every + 1) * every
                self._done += 1

    def end(self) -> int:
        """Validate no more; return how often it was."""
        self._ended.set()
        self._thread.join()
        return self._done


def by_master(client: Any, every: int) -> tuple[float, int, float]:
    """Return samples a second, validations, and the seconds of one, where the server validates."""
    future = actor_of(client, MasterActor)
    actor = future.result()
    seconds_s = actor.begin(every).result()
    rate = replicas_on(client, future).result()
    return rate, actor.end().result(), seconds_s


def by_evaluator(client: Any, every: int | None) -> tuple[float, int]:
    """Return samples a second, and validations, where this process validates; None for never."""
    future = actor_of(client, ServerActor)
    actor = future.result()
    with evaluator_of(actor) as validate:
        running, done = replicas_on(client, future), 0
        mark = every
        while not running.done():
            time.sleep(POLL_S)
            if mark is not None and (version := actor.statistics().result().version) >= mark:
                validate()
                done, mark = done + 1, (version // every + 1) * every
        return running.result(), done


@contextlib.contextmanager
def evaluator_of(actor: Any) -> Iterator[Callable[[], Any]]:
    """Give what validates a server's weights once."""
    actor.statistics().result()  # here: the evaluator's thread has no current client
    made = make_evaluator(lambda: actor.pull().result()[1])
    yield lambda: made.ask(0, {}, None).result()
    made.end(actor.pull().result()[1])


def actor_of(client: Any, kind: type[ServerActor]) -> Any:
    """Make a server on the first worker; return its future."""
    from dnnflow.parallel.spec.algorithm import Algorithm

    address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
    return client.submit(
        kind, np.zeros(parallel_scaling.PARAMETERS, np.float32), Algorithm(), replicas=REPLICAS,
        actor=True, workers=[address], allow_other_workers=False, pure=False,
    )  # fmt: skip


def replicas_on(client: Any, future: Any) -> Any:
    """Let replicas exchange on the second worker; return the future of their samples a second."""
    other = list(client.scheduler_info(n_workers=-1)["workers"])[1]
    return client.submit(samples_a_second, future, workers=[other], allow_other_workers=False, pure=False)


def samples_a_second(actor: Any) -> float:
    """Return the samples a second of all replicas."""
    exchanges = parallel_scaling.exchanges(actor, REPLICAS, WAIT_S, MEASURED_S)
    return parallel_scaling.BATCH * exchanges


def measure(rounds: int) -> None:
    """Print both sides, alternated, relative to no validation."""
    from dnnflow.engines.process_setup import limit_threads
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    limit_threads(1)
    never: list[float] = []
    found: dict[tuple[str, int], list[tuple[float, int]]] = {}
    taken: list[float] = []
    spec = ClusterSpec(workers=2, memory_limit="0", dashboard_port=0)
    with open_cluster(spec) as client, client.as_current():
        for _ in range(rounds):
            never.append(by_evaluator(client, None)[0])
            for every in EVERY:
                rate, done, seconds_s = by_master(client, every)
                taken.append(seconds_s)
                found.setdefault(("server", every), []).append((rate / never[-1], done))
                rate, done = by_evaluator(client, every)
                found.setdefault(("evaluator", every), []).append((rate / never[-1], done))
    wait_ms, rate, seconds_s = 1e3 * WAIT_S, statistics.median(never), statistics.median(taken)
    print(f"\nsimulated: {REPLICAS} replicas, computing is a wait of {wait_ms:.0f} ms; medians of {rounds}")
    print(f"without validation {rate:,.0f} samples/s; one of {ROWS:,} rows takes {seconds_s:.2f} s")
    print(f"{'every':>6} updates{'on the server':>16}{'validations':>13}{'by the evaluator':>18}"
          f"{'validations':>13}")  # fmt: skip
    for every in EVERY:
        cells = [
            tuple(statistics.median(column) for column in zip(*found[side, every], strict=True))
            for side in ("server", "evaluator")
        ]
        print(f"{every:6}{'':8}" + "".join(f"{rate:16.2f}{done:13.0f}" for rate, done in cells))
