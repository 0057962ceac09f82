"""Train one model on the workers of a Dask cluster: place servers and replicas, watch them, measure."""

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cloudpickle
from distributed import Client, Future, KilledWorker

from dnnflow.errors import ClusterError
from dnnflow.events import Listener, Notice, ReplicaLost, announced, ignore
from dnnflow.execute.cluster import workers_of
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.driver.actors import ActorLostError, PlacementError, TrainingActors, TrainingState
from dnnflow.parallel.driver.callbacks import require_heard
from dnnflow.parallel.driver.checkpoint import read_checkpoint, write_checkpoint
from dnnflow.parallel.driver.describe import begin_history, begun_training, progress_of
from dnnflow.parallel.driver.history import History, ReplicaTotals, ServerLoss, WorkerLoss
from dnnflow.parallel.driver.keeper import Keeper
from dnnflow.parallel.driver.placement import free_worker, other_servers, place, replica_workers
from dnnflow.parallel.driver.validations import Evaluator, Validations
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.replica.lookout import METADATA
from dnnflow.parallel.replica.replica import Pickled, ReplicaConfig, run_replica
from dnnflow.parallel.rows.batches import Batching
from dnnflow.parallel.spec.train_options import TrainOptions
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

POLL_S = 0.1
COLLECT_S = 0.5
"""How often replicas' reports are fetched once there are some: a call wakes three processes."""
CHECK_S = 1.0
"""How often the scheduler is asked which workers there are."""
MAX_STARTS = 4
"""Processes in a row that may be one replica, or hold the servers, before the training ends."""
CALM_S = 120.0
"""A process that lives longer is no longer one in a row."""
FORGET_S = 30.0
"""How long calls of former servers and coordinators are answered, so that nobody waits for them."""
SILENCE_S = 300.0
"""How long a replica may take to begin, to be built and to trace its model."""
HANG_S = 60.0
"""How long it may then be silent before another worker takes its place."""


class Training:
    """One parallel training; `run` once.

    Parameters
    ----------
    client : Client
        Stays the caller's.
    validation : RowSource, optional
        Rows to measure on; without them only the training loss is known.
    callbacks : sequence of keras.callbacks.Callback
        In this process.
    """

    def __init__(
        self, client: Client, spec: "ModelSpec", source: RowSource, options: TrainOptions, *,
        validation: RowSource | None = None, callbacks: Sequence[Any] = (), listener: Listener = ignore,
        import_paths: Sequence[str] = (),
    ) -> None:  # fmt: skip
        options.require_applied(constrained=bool(spec.layout.constraints))
        require_heard(callbacks)
        self._client, self._spec, self._source, self._options = client, spec, source, options
        self._validation, self._callbacks, self._listener = validation, tuple(callbacks), listener
        self._import_paths = tuple(import_paths)
        self._checkpoint = read_checkpoint(str(options.checkpoint), listener) if options.restore else None
        self._futures: dict[int, Future[int]] = {}
        self._last_report_s: dict[int, float] = {}  # when a replica was sent, or has reported last
        self._waiting_since_s: dict[int, float] = {}  # since when a replica waits for a worker
        self._finished: set[int] = set()
        self._told: set[str] = set()
        self._reported: set[int] = set()  # replicas whose process has reported
        self._hung: set[str] = set()  # workers whose replica fell silent
        self._lives = Lives()
        self._name = uuid4().hex  # by which the scheduler knows where the actors are
        self._generation = 0
        self._keeper: Keeper | None = None
        self._former: list[tuple[float, TrainingActors]] = []  # stopped, and since when
        self._written: TrainingState | None = None  # the state of the last checkpoint
        self._last_weights: Vector | None = None  # when nothing more is asked of servers
        self._is_ended = False
        self._chunk_rows = 0
        self._is_served = threading.Event()  # not while servers begin again
        self._set_rate: float | None = None  # by a callback
        self._choose_workers()

    def _choose_workers(self) -> None:
        options = self._options
        self._placement = place(
            self._workers(), servers=options.n_servers, replicas=options.replicas, device=options.device
        )
        self._n_replicas = len(self._placement.replicas)
        if options.groups > self._n_replicas:
            raise ClusterError(
                f"each group needs a replica, got {self._n_replicas} replicas for {options.groups} groups; "
                "start more workers, or set groups"
            )
        self._worker_of = dict(enumerate(self._placement.replicas))
        self._actors = TrainingActors(
            self._client, self._spec, options, self._placement.servers, self._n_replicas
        )
        self.history = begin_history(self._spec, self._source, options, self._n_replicas)

    def _rows_of_a_chunk(self) -> int:
        """Return how the rows are divided: of a training that goes on as before, with fewer replicas too."""
        if self._checkpoint is not None and (known := self._checkpoint.coordinator.get("chunk_rows")):
            return int(known)
        return self._source.chunk_rows(self._n_replicas, self._options.batch_size)

    def run(self) -> tuple[Any, History]:
        """Train; return the Keras model with its last weights, and what was measured.

        Raises
        ------
        ClusterError
            When too many servers or replicas are lost, no worker is left, or a replica does not begin.
        DnnflowError, Exception
            What a replica raised.
        """
        begun = begun_training(self._client, lambda: (self.history, self._worker_of))
        # An actor's proxy takes the client that is current at its first use
        with self._client.as_current(), announced(begun, self._listener):
            return self._run()

    def _run(self) -> tuple[Any, History]:
        start = time.monotonic()
        try:
            self._place_actors()
            evaluator = Evaluator(
                self._spec, self._validation, self._source, self._pull, self._callbacks, self._rate()
            )
            if self._checkpoint is not None:
                self.history.restored = int(self._checkpoint.servers[0]["samples"])
            self._validations = Validations(
                evaluator, self.history, rows=self._source.rows, every=self._options.validate_every
            )
            for replica in range(self._n_replicas):
                self._submit(replica)
            self._validations.began_s = time.monotonic()
            while True:
                try:
                    self._watch()
                    self._end_servers()
                    break
                except ActorLostError as error:
                    self._recover(error)
            self._end(evaluator)
        finally:
            self._clean_up()
        self.history.startup_s = self._validations.began_s - start
        return evaluator.model, self.history

    # Beginning

    def _place_actors(self) -> None:
        """Make the actors, which hold what replicas are given; on others, if a worker is lost meanwhile."""
        for attempt in range(MAX_STARTS):
            self._chunk_rows = self._rows_of_a_chunk()
            self._chunks = self._source.chunks(self._chunk_rows)
            self._parcel = Pickled.of(self._make_replica_config())
            try:
                self._begin_actors(self._checkpoint, range(self._n_replicas))
                return
            except (PlacementError, ActorLostError):
                self._actors.stop(self._listener)
                if attempt == MAX_STARTS - 1:
                    raise
                time.sleep(CHECK_S)
                self._choose_workers()

    def _begin_actors(self, state: TrainingState | None, replicas: Iterable[int]) -> None:
        """Make the actors with a state, or the first weights, and tell replicas where they are."""
        actors = self._actors
        actors.place(self._chunks, self._chunk_rows, self._parcel)
        if state is not None:
            actors.restore(state)
        if self._set_rate is not None:
            actors.set_learning_rate(self._set_rate)
        actors.begin_groups()
        if self._options.algorithm.synchronous:
            actors.join(replicas)
        if self.history.ended_by != "epochs":
            actors.call(actors.coordinator, "stop")
        if (held := state or actors.snapshot()) is not None:
            self._keeper = Keeper(actors, held, self._options.copy_every_s)
        pickled = cloudpickle.dumps(actors.generation(self._generation))
        self._client.set_metadata([METADATA, self._name], (self._generation, pickled))
        self._is_served.set()

    def _make_replica_config(self) -> ReplicaConfig:
        """Return what all replicas are given.

        It lies with the coordinator, from where they fetch it: it leaves this process once, however many
        replicas there are, and once more when the coordinator is lost.
        """
        options = self._options
        return ReplicaConfig(
            replica=0, replicas=self._n_replicas, peers=1, model=self._spec, source=self._source,
            chunks=self._chunks,
            batching=Batching(options.batch_size, options.seed, options.shuffle, self._spec.layout.dtype),
            algorithm=options.algorithm, epochs=options.epochs, parts=tuple(self._actors.parts),
            timeline=options.timeline, wait_s=options.wait_s,
        )  # fmt: skip

    def _submit(self, replica: int) -> None:
        self._reported.discard(replica)
        self._last_report_s[replica] = time.monotonic()
        self._futures[replica] = self._client.submit(
            run_replica, self._name, replica, self._actors.group_size(replica), self._import_paths,
            workers=[self._worker_of[replica]], allow_other_workers=False, retries=0, pure=False,
            # A key that was used before would bring back a task that is still at the former training
            key=f"replica-{replica}-{self.history.replicas[replica].starts}-{uuid4().hex}",
        )  # fmt: skip

    # While it runs

    def _watch(self) -> None:
        options = self._options
        checked_s = checkpoint_s = collected_s = time.monotonic()
        while len(self._finished) < self._n_replicas:
            time.sleep(POLL_S)
            self._actors.check()
            now = time.monotonic()
            if now - collected_s > (COLLECT_S if self.history.samples else 0):
                collected_s = now
                self._collect()
            self._apply_validations()
            self._take_finished()
            if now - checked_s > CHECK_S:
                checked_s = now
                self._check_workers()
                self._note_servers()
            if options.checkpoint is not None and now - checkpoint_s > options.checkpoint_every_s:
                checkpoint_s = now
                self._write_checkpoint(self._keeper.state if self._keeper else None)
            if options.time_limit_s is not None and now - self._validations.began_s > options.time_limit_s:
                self._stop("time limit")
        self.history.seconds_s = time.monotonic() - self._validations.began_s

    def _collect(self) -> None:
        reports = self._actors.collect()
        for report in reports:
            if not self.history.samples:  # what was before it, models being built and traced, is start-up
                spent_s = report.compute_s + report.exchange_s + report.data_s
                self._validations.began_s = time.monotonic() - spent_s
            self._last_report_s[report.replica] = time.monotonic()
            self._reported.add(report.replica)
            self.history.add(report, self._elapsed_s())
            self._validations.note(report)
        self._validations.update(self._options.epochs)
        if reports:
            self._listener(progress_of(self.history, self._elapsed_s(), len(self._futures)))

    def _pull(self) -> Vector:
        """Return the weights, if need be of the servers that take the place of lost ones."""
        deadline_s = time.monotonic() + self._options.wait_s
        while self._last_weights is None:
            with suppress(ActorLostError):
                if self._is_served.wait(POLL_S):
                    return self._actors.pull()
            if self._is_ended or time.monotonic() > deadline_s:
                raise _lost_error("no answer of them", self._options)
        return self._last_weights

    def _apply_validations(self, *, wait: bool = False) -> None:
        """Do what validations that have ended ask for."""
        rate = None
        for result in self._validations.finished(wait=wait):
            rate = rate if result.learning_rate is None else result.learning_rate
            target = self._options.target
            if target is not None and target.is_reached(result.logs):
                self._stop("target")
            elif result.stop:
                self._stop("callback")
        if rate is not None and self._last_weights is None:
            self._set_rate = rate
            self._actors.set_learning_rate(rate)

    def _stop(self, reason: str) -> None:
        if self.history.ended_by == "epochs" and len(self._finished) < self._n_replicas:
            self.history.ended_by = reason
            self._actors.call(self._actors.coordinator, "stop")

    def _take_finished(self) -> None:
        for replica, future in list(self._futures.items()):
            if not future.done():
                continue
            if future.status == "finished":
                del self._futures[replica]
                self._finished.add(replica)
                continue
            error = future.exception()
            if isinstance(error, KilledWorker) or future.status in ("lost", "cancelled"):
                self._handle_lost(replica)
            elif isinstance(error, ChannelError):
                raise _lost_error(str(error), self._options) from error
            else:
                raise error.with_traceback(future.traceback())  # where on the worker it was raised

    def _check_workers(self) -> None:
        """Find replicas whose worker has gone or hangs, and workers for those without one."""
        everyone = self._workers()
        self._hung &= everyone.keys()
        workers = {one: facts for one, facts in everyone.items() if one not in self._hung}
        for replica, future in list(self._futures.items()):
            silent_s = time.monotonic() - self._last_report_s[replica]
            if replica in self._reported and silent_s > HANG_S:
                self._hung.add(self._worker_of[replica])
                workers.pop(self._worker_of[replica], None)
            if self._worker_of[replica] not in workers:
                future.cancel(force=True)
                self._handle_lost(replica)
            elif silent_s > SILENCE_S:
                raise ClusterError(
                    f"a replica must begin, and then report, within {SILENCE_S:.0f} s, got nothing of "
                    f"replica {replica} on {self._worker_of[replica]}; look whether that worker hangs or has "
                    "another task, and restart it"
                )
        self._restart_lost(workers)
        self._use_new_workers(workers)
        for stopped_s, actors in list(self._former):
            if time.monotonic() - stopped_s > FORGET_S:  # replicas have heard of their end by now
                actors.forget()
                self._former.remove((stopped_s, actors))

    def _handle_lost(self, replica: int) -> None:
        """Give a lost replica's rows back; it starts again when there is a worker for it."""
        totals = self.history.replicas[replica]
        self._listener(ReplicaLost(replica, self._worker_of[replica]))
        self.history.lost.append(WorkerLoss(self._elapsed_s(), replica, self._worker_of[replica]))
        if (deaths := self._lives.lose(replica)) >= MAX_STARTS:
            raise ClusterError(
                f"a replica may lose its worker {MAX_STARTS - 1} times in a row, got replica {replica} lost "
                f"{deaths} times; if it ran out of memory, give workers more or lower batch_size"
            )
        totals.starts += 1
        del self._futures[replica]
        self._waiting_since_s[replica] = time.monotonic()
        self._actors.release(replica)

    def _restart_lost(self, workers: Mapping[str, Any]) -> None:
        """Start lost replicas again on workers that are free; none where there is nothing left to do."""
        others_ended = bool(self._finished) and not self._futures and not self._options.algorithm.synchronous
        if others_ended or self.history.ended_by != "epochs":
            self._finished |= self._waiting_since_s.keys()
            self._waiting_since_s.clear()
        for replica, since_s in list(self._waiting_since_s.items()):
            address = free_worker(
                list(workers), self._placement, [self._worker_of[other] for other in self._futures]
            )
            if address is not None:
                del self._waiting_since_s[replica]
                self._worker_of[replica] = address
                self._submit(replica)
            elif time.monotonic() - since_s > self._options.wait_s:
                raise ClusterError(
                    f"a lost replica needs a worker, got none free for {self._options.wait_s:.0f} s; "
                    "start one"
                )

    def _recover(self, error: ActorLostError) -> None:
        """Let servers begin again with the state that was kept, on workers that are there.

        Raises
        ------
        ClusterError
            When they are lost again and again, or no worker is there for them.
        """
        began_s = time.monotonic()
        deadline_s, is_told = began_s + self._options.wait_s, False
        self._is_served.clear()
        if self._keeper is None:
            raise _lost_error(str(error), self._options) from error
        state, lost = self._keeper.end(), self._lost_servers()
        self._hung.update(lost)
        if (deaths := self._lives.lose("server")) >= MAX_STARTS:
            raise _lost_error(f"them lost {deaths} times in a row, the last time: {error}", self._options)
        # Replicas that wait for an answer give it up, and the thread that a server may have to begin in
        self._generation += 1
        self._client.set_metadata([METADATA, self._name], (self._generation, b""))
        while True:
            if not self._former or self._former[-1][1] is not self._actors:
                self._actors.stop_servers()
                self._former.append((time.monotonic(), self._actors))
            workers = self._workers()
            busy = [self._worker_of[replica] for replica in self._futures]
            addresses = other_servers(workers, self._placement, {*lost, *self._hung}, busy)
            try:
                if addresses:
                    self._begin_again(state, addresses)
                    break
            except (PlacementError, ActorLostError):
                lost = self._lost_servers()
                self._hung.update(lost)
            if not is_told:
                is_told = True
                self._listener(
                    Notice(f"servers were lost ({error}); it waits for a worker, {self._options.wait_s:g} s")
                )
            if time.monotonic() > deadline_s:
                raise _lost_error(
                    f"no worker for them within {self._options.wait_s:g} s ({error})", self._options
                ) from error
            time.sleep(POLL_S)
        self._note_recovery(lost, began_s, state)

    def _lost_servers(self) -> list[str]:
        """Return the workers of servers that are gone, or that do not answer."""
        workers = self._workers()
        return [
            address
            for address, server in zip(self._placement.servers, self._actors.servers, strict=False)
            if address not in workers or not self._actors.answers(server)
        ]

    def _begin_again(self, state: TrainingState, addresses: tuple[str, ...]) -> None:
        """Make the actors on these workers, and let replicas go on there; those that had ended, too.

        Rows of a replica that had ended may be among those that are trained on again.
        """
        self._placement = replace(self._placement, servers=addresses)
        self._actors = TrainingActors(self._client, self._spec, self._options, addresses, self._n_replicas)
        workers, again = self._workers(), set()
        if self.history.ended_by == "epochs":
            again = {replica for replica in self._finished if self._worker_of[replica] in workers}
        self._begin_actors(state, sorted(again | self._futures.keys()))
        if self.history.ended_by == "epochs":
            self._waiting_since_s |= dict.fromkeys(self._finished - again, time.monotonic())
            self._finished.clear()
        for replica in self._futures:
            self._last_report_s[replica] = time.monotonic()
        for replica in again:
            self._submit(replica)

    def _note_recovery(self, lost: Sequence[str], began_s: float, state: TrainingState) -> None:
        loss = ServerLoss(
            began_s - self._validations.began_s, tuple(lost), time.monotonic() - began_s,
            began_s - max(state.taken_s, self._validations.began_s),
        )  # fmt: skip
        self.history.lost_servers.append(loss)
        self._listener(
            Notice(
                f"a server was lost with {'worker ' + ', '.join(lost) if lost else 'its worker'}; it goes "
                f"on at {', '.join(dict.fromkeys(self._placement.servers))} after {loss.seconds_s:.1f} s, "
                f"and {loss.work_s:.1f} s of work are done again"
            )
        )

    def _use_new_workers(self, workers: Mapping[str, Any]) -> None:
        """Start a further replica on each worker that has come, unless their number is given or decides rows.

        Which rows form a step of synchronous training depends on the number of replicas.
        """
        options = self._options
        if options.replicas is not None or options.algorithm.synchronous or self._finished:
            return
        if self._waiting_since_s or self.history.ended_by != "epochs":
            return
        busy = {self._worker_of[replica] for replica in self._futures}
        for address in replica_workers(workers, options.device):
            if address in busy or address in self._placement.servers:
                continue
            replica = self._n_replicas
            self._n_replicas += 1
            self.history.replicas[replica] = ReplicaTotals()
            self._worker_of[replica] = address
            self._listener(Notice(f"worker {address} has come, and trains as replica {replica}"))
            self._submit(replica)

    def _write_checkpoint(self, state: TrainingState | None) -> None:
        """Write a checkpoint; the training goes on without one that cannot be written, and the last stays."""
        if state is None or state is self._written:
            return
        try:
            write_checkpoint(str(self._options.checkpoint), state)
            self._written = state
        except OSError as error:  # what is trained is worth more than its copy
            told = f"no checkpoint: {error}; the training goes on, and the last one stays"
            if told not in self._told:
                self._told.add(told)
                self._listener(Notice(told))

    def _note_servers(self) -> None:
        self.history.note(self._actors.statistics(), self._elapsed_s())

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._validations.began_s

    # Ending

    def _end_servers(self) -> None:
        """Take from the servers what is left, for which nothing more is asked of them."""
        self._actors.end_groups()
        self._collect()
        self._note_servers()
        kept = self._keeper.end() if self._keeper else None
        if self._options.checkpoint is not None:
            self._write_checkpoint(self._actors.snapshot() or kept)
        self._actors.finish()
        self._last_weights = self._actors.pull()

    def _end(self, evaluator: Evaluator) -> None:
        self._validations.end(self._options.epochs)
        self._apply_validations(wait=True)
        evaluator.end(self._pull())

    def _clean_up(self) -> None:
        self._is_ended = True
        if self._keeper is not None:
            self._keeper.end()
        for future in self._futures.values():
            future.cancel(force=True)
        self._actors.stop(self._listener)
        for _, actors in self._former:
            actors.forget()
        with suppress(OSError):  # of a scheduler that is gone
            self._client.set_metadata([METADATA, self._name], None)

    def _rate(self) -> float | None:
        optimizer = self._options.algorithm.used_server_optimizer
        return None if optimizer is None else optimizer.learning_rate

    def _workers(self) -> Mapping[str, Any]:
        return workers_of(self._client)


class Lives:
    """Counts who dies again and again: a death after a while of work is the first again."""

    def __init__(self) -> None:
        self._deaths: dict[int | str, tuple[int, float]] = {}

    def lose(self, who: int | str) -> int:
        """Count a death, and return how many there were in a row."""
        deaths, last_s = self._deaths.get(who, (0, -math.inf))
        now_s = time.monotonic()
        deaths = 1 if now_s - last_s > CALM_S else deaths + 1
        self._deaths[who] = deaths, now_s
        return deaths


def _lost_error(what: str, options: TrainOptions) -> ClusterError:
    """Return the error that ends a training for want of servers."""
    remedy = " with restore" if options.checkpoint else ", and set a checkpoint to go on from"
    return ClusterError(f"a training needs its servers, got {what}; run it again{remedy}")
