"""Trains one model on the workers of a Dask cluster: places servers and replicas, minds them, measures."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from typing import Any

import cloudpickle
import numpy as np
from distributed import Client, Future, KilledWorker

from dnnflow.data.source import Source
from dnnflow.errors import ClusterError, DnnflowError
from dnnflow.events import Listener, Notice, ReplicaLost, ignore
from dnnflow.live.publish import shown_on
from dnnflow.parallel.actor import ServerActor
from dnnflow.parallel.checkpoint import read_checkpoint, write_checkpoint
from dnnflow.parallel.coordinator import Coordinator, Report
from dnnflow.parallel.evaluator import Evaluator, Verdict
from dnnflow.parallel.history import History, WorkerLoss
from dnnflow.parallel.link import ChannelError
from dnnflow.parallel.models import ModelSpec
from dnnflow.parallel.options import TrainOptions
from dnnflow.parallel.placement import place, spare
from dnnflow.parallel.replica import Duty, run_replica
from dnnflow.parallel.rows import Batching
from dnnflow.parallel.settings import Algorithm
from dnnflow.parallel.sight import begin_history, progress_of, shown_training
from dnnflow.parallel.tally import Tally, total
from dnnflow.parallel.weights import Vector

POLL_S = 0.1
CENSUS_S = 1.0
"""How often the scheduler is asked who works."""
LIVES = 4
"""Processes that may be one replica, one after the other, before the training ends."""
ANSWER_S = 120.0
"""How long an actor may take to answer."""


class Training:
    """One parallel training; `run` once.

    Parameters
    ----------
    client : Client
        Stays the caller's.
    validation : Source, optional
        Rows to measure on; without them only the training loss is known.
    callbacks : sequence of keras.callbacks.Callback
        In this process.
    """

    def __init__(
        self, client: Client, spec: ModelSpec, source: Source, options: TrainOptions, *,
        validation: Source | None = None, callbacks: Sequence[Any] = (), listener: Listener = ignore,
        import_paths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._client, self._spec, self._source, self._options = client, spec, source, options
        self._validation, self._callbacks, self._listener = validation, tuple(callbacks), listener
        self._import_paths = tuple(import_paths)
        self._placement = place(
            self._workers(), servers=options.n_servers, replicas=options.replicas, device=options.device
        )
        self._n = len(self._placement.replicas)
        if options.groups > self._n:
            raise ClusterError(
                f"each group needs a replica, got {self._n} replicas for {options.groups} groups; start more "
                "workers, or set groups"
            )
        self._parts = spec.layout.cut(options.servers)
        self._chunks = source.chunks(source.chunk_rows(self._n, options.batch_size))
        self._where = dict(enumerate(self._placement.replicas))
        self._futures: dict[int, Future[int]] = {}
        self._actor_futures: list[Future[Any]] = []
        self._finished: set[int] = set()
        self._tallies: list[Tally] = []
        self._asked: list[tuple[dict[str, float], ThreadFuture[Verdict]]] = []
        self.history = begin_history(spec, source, options, self._n)

    def run(self) -> tuple[Any, History]:
        """Train; return the Keras model with its last weights, and what was measured.

        Raises
        ------
        ClusterError
            When servers or too many replicas are lost.
        DnnflowError, Exception
            What a replica raised.
        """
        shown = shown_training(self.history, self._where)
        # An actor's proxy takes the client that is current at its first use
        with self._client.as_current(), shown_on(self._client, shown, self._listener):
            return self._run()

    def _run(self) -> tuple[Any, History]:
        start = time.monotonic()
        try:
            self._place_actors()
            evaluator = Evaluator(
                self._spec, self._validation, self._source, self._pull, self._callbacks, self._rate()
            )
            if self._options.algorithm.synchronous:  # all, or the first to come would make rounds alone
                for replica in range(self._n):
                    for server in self._servers_of(replica):
                        self._ask(server, "join", replica)
            for replica in range(self._n):
                self._send(replica)
            self._mind(evaluator)
            self._end(evaluator)
        finally:
            self._clear()
        self.history.startup_s = self._began_s - start
        return evaluator.model, self.history

    # Beginning

    def _place_actors(self) -> None:
        options, algorithm = self._options, self._options.algorithm
        self._actor_futures = [
            self._client.submit(
                ServerActor, self._spec.vector[part or slice(None)], rule, replicas=replicas,
                layout=self._spec.layout, shard=part, wait_s=options.wait_s,
                actor=True, workers=[address], allow_other_workers=False, pure=False,
            )
            for (rule, part, replicas), address in zip(self._roles(), self._placement.servers, strict=True)
        ]  # fmt: skip
        books = self._client.submit(
            Coordinator, self._chunks, seed=options.seed, epochs=options.epochs,
            lanes=self._n if algorithm.synchronous else 0,
            actor=True, workers=[self._placement.servers[0]], allow_other_workers=False, pure=False,
        )  # fmt: skip
        self._servers = [future.result() for future in self._actor_futures]
        self._actor_futures.append(books)
        self._books = books.result()
        for actor in (self._books, *self._servers):  # here, as other threads have no current client
            self._ask(actor, "snapshot" if actor is self._books else "statistics")
        if options.restore:
            self._restore()
        if options.groups > 1:
            for group, server in enumerate(self._servers[1:]):
                self._ask(server, "climb", self._servers[0], group, options.group_every)

    def _roles(self) -> list[tuple[Algorithm, slice | None, int]]:
        """Return each server's algorithm, its part of the vector, and how many push to it; the top first."""
        options, algorithm = self._options, self._options.algorithm
        if options.groups == 1:
            whole = len(self._parts) == 1
            return [(algorithm, None if whole else part, self._n) for part in self._parts]
        # A group counts as a replica that has taken m local steps
        top = Algorithm(sync_every=max(2, options.group_every))
        return [
            (top, None, options.groups),
            *((algorithm, None, self._peers(group)) for group in range(options.groups)),
        ]

    def _peers(self, replica: int) -> int:
        """Return how many replicas a replica's group has."""
        return len(range(replica % self._options.groups, self._n, self._options.groups))

    def _servers_of(self, replica: int) -> list[Any]:
        """Return the servers that a replica pushes to."""
        groups = self._options.groups
        return self._servers if groups == 1 else [self._servers[1 + replica % groups]]

    def _restore(self) -> None:
        servers, books = read_checkpoint(str(self._options.checkpoint))
        if len(servers) != len(self._servers):
            raise ClusterError(
                f"a training goes on with as many servers as it began with, got {len(self._servers)} after "
                f"{len(servers)}; set servers={len(servers)}"
            )
        for server, snapshot in zip(self._servers, servers, strict=True):
            self._ask(server, "restore", snapshot)
        self._ask(self._books, "restore", books)
        self._restored = self.history.restored = int(servers[0]["samples"])

    def _send(self, replica: int) -> None:
        options = self._options
        duty = Duty(
            replica=replica, replicas=self._n, peers=self._peers(replica), model=self._spec,
            source=self._source, chunks=self._chunks,
            batching=Batching(options.batch_size, options.seed, options.shuffle, self._spec.layout.dtype),
            algorithm=options.algorithm, epochs=options.epochs, parts=tuple(self._parts),
            wait_s=options.wait_s, timeline=options.timeline,
        )  # fmt: skip
        self._futures[replica] = self._client.submit(
            run_replica, cloudpickle.dumps(duty), self._import_paths, self._books, *self._servers_of(replica),
            workers=[self._where[replica]], allow_other_workers=False, retries=0, pure=False,
            key=f"replica-{replica}-{self.history.replicas[replica].lives}-{id(self):x}",
        )  # fmt: skip

    # While it runs

    def _mind(self, evaluator: Evaluator) -> None:
        """Watch until all replicas have finished."""
        options = self._options
        self._began_s = time.monotonic()
        self._epoch = self._restored // self._every
        self._mark = (self._epoch + 1) * self._every
        census_s = checkpoint_s = self._began_s
        while len(self._finished) < self._n:
            time.sleep(POLL_S)
            self._collect(evaluator)
            self._finish_some()
            now = time.monotonic()
            if now - census_s > CENSUS_S:
                census_s = now
                self._replace_lost()
                self._note_servers()
            if options.checkpoint is not None and now - checkpoint_s > options.checkpoint_every_s:
                checkpoint_s = now
                self._write_checkpoint()
            if options.time_limit_s is not None and now - self._began_s > options.time_limit_s:
                self._stop("time limit")
        self.history.seconds_s = time.monotonic() - self._began_s

    @property
    def _every(self) -> int:
        return self._options.validate_every or max(1, self._source.rows)

    _restored = 0

    def _collect(self, evaluator: Evaluator) -> None:
        reports: list[Report] = self._ask(self._books, "collect")
        for report in reports:
            if not self.history.samples:  # what was before it, models being built and traced, is start-up
                self._began_s = time.monotonic() - report.compute_s - report.exchange_s - report.data_s
            self.history.add(report, time.monotonic() - self._began_s)
            if report.count:
                self._tallies.append(Tally(report.count, report.loss_sum, report.states))
        samples = self._restored + self.history.samples
        if samples >= self._mark:
            self._mark = (samples // self._every + 1) * self._every
            self._validate(evaluator)
        self._hear()
        if reports:
            elapsed_s = time.monotonic() - self._began_s
            self._listener(progress_of(self.history, self._restored, elapsed_s, len(self._futures)))

    def _note_servers(self) -> None:
        found = tuple(self._ask(server, "statistics") for server in self._servers)
        self.history.note(found, time.monotonic() - self._began_s)

    def _validate(self, evaluator: Evaluator) -> None:
        row = {
            "epoch": (self._restored + self.history.samples) / max(1, self._source.rows),
            "samples": float(self._restored + self.history.samples),
            "elapsed_s": time.monotonic() - self._began_s,
        }
        tally = total(self._tallies) if self._tallies else None
        self._tallies = []
        self._asked.append((row, evaluator.ask(self._epoch, {}, tally)))
        self._epoch += 1

    def _hear(self, *, wait: bool = False) -> None:
        """Take note of validations that have ended."""
        while self._asked and (wait or self._asked[0][1].done()):
            row, asked = self._asked.pop(0)
            verdict = asked.result()
            self.history.rows.append(row | dict(verdict.logs))
            if verdict.learning_rate is not None:
                for server in self._servers if self._options.groups == 1 else self._servers[1:]:
                    self._ask(server, "set_learning_rate", verdict.learning_rate)
            target = self._options.target
            if target is not None and target.is_reached(verdict.logs):
                self._stop("target")
            elif verdict.stop:
                self._stop("callback")

    def _stop(self, reason: str) -> None:
        if self.history.ended_by == "epochs" and len(self._finished) < self._n:
            self.history.ended_by = reason
            self._ask(self._books, "stop")

    def _finish_some(self) -> None:
        for replica, future in list(self._futures.items()):
            if not future.done():
                continue
            if future.status == "finished":
                del self._futures[replica]
                self._finished.add(replica)
                continue
            error = future.exception()
            if isinstance(error, KilledWorker) or future.status in ("lost", "cancelled"):
                self._lose(replica)
            elif isinstance(error, ChannelError):
                raise self._server_lost(str(error)) from error
            else:
                raise error.with_traceback(future.traceback())  # where on the worker it was raised

    def _replace_lost(self) -> None:
        """Find replicas and servers whose worker has gone."""
        workers = self._workers()
        gone = [address for address in self._placement.servers if address not in workers]
        if gone:
            raise self._server_lost(f"worker {gone[0]} lost")
        for replica, future in list(self._futures.items()):
            if self._where[replica] not in workers:
                future.cancel(force=True)
                self._lose(replica, workers)

    def _lose(self, replica: int, workers: Mapping[str, Any] | None = None) -> None:
        """Give a lost replica's rows back and start it again elsewhere."""
        totals = self.history.replicas[replica]
        self._listener(ReplicaLost(replica, self._where[replica]))
        lost = WorkerLoss(time.monotonic() - self._began_s, replica, self._where[replica])
        self.history.lost.append(lost)
        if totals.lives >= LIVES:
            raise ClusterError(
                f"a replica may lose its worker {LIVES - 1} times, got replica {replica} lost {totals.lives} "
                "times; if it ran out of memory, give workers more or lower batch_size"
            )
        self._ask(self._books, "give_back", replica)
        for server in self._servers_of(replica):
            self._ask(server, "leave", replica)
        totals.lives += 1
        busy = [self._where[other] for other in self._futures if other != replica]
        self._where[replica] = self._wait_for_spare(busy, workers)
        self._send(replica)

    def _wait_for_spare(self, busy: Sequence[str], workers: Mapping[str, Any] | None) -> str:
        deadline_s = time.monotonic() + self._options.wait_s
        while time.monotonic() < deadline_s:
            if address := spare(list(workers or self._workers()), self._placement, busy):
                return address
            workers = None
            time.sleep(POLL_S)
        raise ClusterError(
            f"a lost replica needs a worker, got none free for {self._options.wait_s:.0f} s; start one"
        )

    def _write_checkpoint(self) -> None:
        # The books first: rows trained on since are trained on again, and none is left out
        books = self._ask(self._books, "snapshot")
        servers = [self._ask(server, "snapshot") for server in self._servers]
        write_checkpoint(str(self._options.checkpoint), servers, books)

    # Ending

    def _end(self, evaluator: Evaluator) -> None:
        if self._options.groups > 1:
            for server in self._servers[1:]:
                self._ask(server, "end_climb")
        self._collect(evaluator)
        if self._tallies or not (self._asked or self.history.rows):
            self._validate(evaluator)
        self._hear(wait=True)
        self._note_servers()
        if self._options.checkpoint is not None:
            self._write_checkpoint()
        evaluator.end(self._pull())

    def _clear(self) -> None:
        """Leave nothing running on the cluster."""
        for future in self._futures.values():
            future.cancel(force=True)
        for server in getattr(self, "_servers", []):
            try:
                server.stop().result(timeout=10)
            except (OSError, RuntimeError, TimeoutError) as error:  # its worker has gone, and it with it
                self._listener(Notice(f"a server could not be stopped: {error}"))
        for actor in self._actor_futures:  # an error's traceback may keep this object, and them by it
            actor.cancel(force=True)

    # Asking

    def _pull(self) -> Vector:
        weights = np.empty(self._spec.layout.size, self._spec.layout.dtype)
        for server, part in zip(self._servers, self._parts, strict=False):  # of a hierarchy: the top
            weights[part] = self._ask(server, "pull")[1]
        return weights

    def _rate(self) -> float | None:
        optimizer = self._options.algorithm.used_server_optimizer
        return None if optimizer is None else optimizer.learning_rate

    def _ask(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Call an actor and wait for its answer; of one that is known to be gone even its methods are."""
        try:
            return getattr(actor, method)(*arguments).result(timeout=ANSWER_S)
        except DnnflowError:
            raise
        except (OSError, RuntimeError, TimeoutError) as error:
            raise self._server_lost(f"no answer from one ({error})") from error

    def _server_lost(self, what: str) -> ClusterError:
        remedy = " with restore" if self._options.checkpoint else ", and set a checkpoint to go on from"
        return ClusterError(f"a training needs its servers, got {what}; run it again{remedy}")

    def _workers(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found
