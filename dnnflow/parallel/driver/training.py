"""Train one model on the workers of a Dask cluster: place servers and replicas, watch them, measure."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker

from dnnflow.errors import ClusterError, OutputError
from dnnflow.events import Listener, Notice, ReplicaLost, announced, ignore
from dnnflow.execute.cluster import workers_of
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.driver.actors import PlacementError, TrainingActors
from dnnflow.parallel.driver.callbacks import require_heard
from dnnflow.parallel.driver.checkpoint import read_checkpoint, write_checkpoint
from dnnflow.parallel.driver.describe import begin_history, begun_training, progress_of
from dnnflow.parallel.driver.history import History, WorkerLoss
from dnnflow.parallel.driver.placement import free_worker, place
from dnnflow.parallel.driver.validations import Evaluator, Validations
from dnnflow.parallel.replica.replica import Pickled, ReplicaConfig, run_replica
from dnnflow.parallel.rows.batches import Batching
from dnnflow.parallel.rows.coordinator import Report
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
"""Processes that may be one replica, one after the other, before the training ends."""
SILENCE_S = 300.0
"""How long a replica may take to begin, and between two reports."""


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
        self._checkpoint = read_checkpoint(str(options.checkpoint)) if options.restore else None
        self._futures: dict[int, Future[int]] = {}
        self._last_report_s: dict[int, float] = {}  # when a replica was sent, or has reported last
        self._waiting_since_s: dict[int, float] = {}  # since when a replica waits for a worker
        self._finished: set[int] = set()
        self._told: set[str] = set()
        self._replica_config: Future[Pickled] | None = None
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
        if self._checkpoint is not None and (known := self._checkpoint[1].get("chunk_rows")):
            return int(known)
        return self._source.chunk_rows(self._n_replicas, self._options.batch_size)

    def run(self) -> tuple[Any, History]:
        """Train; return the Keras model with its last weights, and what was measured.

        Raises
        ------
        ClusterError
            When servers or too many replicas are lost, or one does not begin.
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
            if self._checkpoint is not None:
                self._actors.restore(*self._checkpoint)
            self._actors.begin_groups()
            evaluator = Evaluator(
                self._spec, self._validation, self._source, self._actors.pull, self._callbacks, self._rate()
            )
            if self._checkpoint is not None:
                self.history.restored = int(self._checkpoint[0][0]["samples"])
            self._validations = Validations(
                evaluator, self.history, rows=self._source.rows, every=self._options.validate_every
            )
            if self._options.algorithm.synchronous:
                self._actors.join()
            for replica in range(self._n_replicas):
                self._submit(replica)
            self._watch()
            self._end(evaluator)
        finally:
            self._clean_up()
        self.history.startup_s = self._validations.began_s - start
        return evaluator.model, self.history

    # Beginning

    def _place_actors(self) -> None:
        """Make the actors, and bring a worker what replicas are given; others, if one is lost meanwhile."""
        for attempt in range(MAX_STARTS):
            rows = self._rows_of_a_chunk()
            self._chunks = self._source.chunks(rows)
            try:
                self._actors.place(self._chunks, rows)
                self._replica_config = self._actors.scatter(
                    Pickled.of(self._make_replica_config()), self._placement.servers[0]
                )
                return
            except PlacementError:
                self._actors.stop(self._listener)
                if attempt == MAX_STARTS - 1:
                    raise
                time.sleep(CHECK_S)
                self._choose_workers()

    def _make_replica_config(self) -> ReplicaConfig:
        """Return what all replicas are given.

        It lies on the first server's worker, from where the others fetch it: it leaves this process once,
        however many replicas there are, and is lost only with the training.
        """
        options = self._options
        return ReplicaConfig(
            replica=0, replicas=self._n_replicas, peers=1, model=self._spec, source=self._source,
            chunks=self._chunks,
            batching=Batching(options.batch_size, options.seed, options.shuffle, self._spec.layout.dtype),
            algorithm=options.algorithm, epochs=options.epochs, parts=tuple(self._actors.parts),
            timeline=options.timeline,
        )  # fmt: skip

    def _submit(self, replica: int) -> None:
        self._last_report_s[replica] = time.monotonic()
        self._futures[replica] = self._client.submit(
            run_replica, self._replica_config, replica, self._actors.group_size(replica), self._import_paths,
            self._actors.coordinator, *self._actors.servers_of(replica),
            workers=[self._worker_of[replica]], allow_other_workers=False, retries=0, pure=False,
            # A key that was used before would bring back a task that is still at the former training
            key=f"replica-{replica}-{self.history.replicas[replica].starts}-{uuid4().hex}",
        )  # fmt: skip

    # While it runs

    def _watch(self) -> None:
        options = self._options
        checked_s = checkpoint_s = collected_s = began_s = time.monotonic()
        self._validations.began_s = began_s
        while len(self._finished) < self._n_replicas:
            time.sleep(POLL_S)
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
                self._write_checkpoint()
            if options.time_limit_s is not None and now - self._validations.began_s > options.time_limit_s:
                self._stop("time limit")
        self.history.seconds_s = time.monotonic() - self._validations.began_s

    def _collect(self) -> None:
        reports: list[Report] = self._actors.call(self._actors.coordinator, "collect")
        for report in reports:
            if not self.history.samples:  # what was before it, models being built and traced, is start-up
                spent_s = report.compute_s + report.exchange_s + report.data_s
                self._validations.began_s = time.monotonic() - spent_s
            self._last_report_s[report.replica] = time.monotonic()
            self.history.add(report, self._elapsed_s())
            self._validations.note(report)
        self._validations.update(self._options.epochs)
        if reports:
            self._listener(progress_of(self.history, self._elapsed_s(), len(self._futures)))

    def _apply_validations(self, *, wait: bool = False) -> None:
        """Do what validations that have ended ask for."""
        for result in self._validations.finished(wait=wait):
            if result.learning_rate is not None:
                self._actors.set_learning_rate(result.learning_rate)
            target = self._options.target
            if target is not None and target.is_reached(result.logs):
                self._stop("target")
            elif result.stop:
                self._stop("callback")

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
                raise self._actors.lost_error(str(error)) from error
            else:
                raise error.with_traceback(future.traceback())  # where on the worker it was raised

    def _check_workers(self) -> None:
        """Find replicas and servers whose worker has gone, and workers for replicas without one."""
        workers = self._workers()
        gone = [address for address in self._placement.servers if address not in workers]
        if gone:
            raise self._actors.lost_error(f"worker {gone[0]} lost")
        for replica, future in list(self._futures.items()):
            if self._worker_of[replica] not in workers:
                future.cancel(force=True)
                self._handle_lost(replica)
            elif time.monotonic() - self._last_report_s[replica] > SILENCE_S:
                raise ClusterError(
                    f"a replica must begin, and then report, within {SILENCE_S:.0f} s, got nothing of "
                    f"replica {replica} on {self._worker_of[replica]}; look whether that worker hangs or has "
                    "another task, and restart it"
                )
        self._restart_lost(workers)

    def _handle_lost(self, replica: int) -> None:
        """Give a lost replica's rows back; it starts again when there is a worker for it."""
        totals = self.history.replicas[replica]
        self._listener(ReplicaLost(replica, self._worker_of[replica]))
        self.history.lost.append(WorkerLoss(self._elapsed_s(), replica, self._worker_of[replica]))
        if totals.starts >= MAX_STARTS:
            raise ClusterError(
                f"a replica may lose its worker {MAX_STARTS - 1} times, got replica {replica} lost "
                f"{totals.starts} times; if it ran out of memory, give workers more or lower batch_size"
            )
        self._actors.release(replica)
        totals.starts += 1
        del self._futures[replica]
        self._waiting_since_s[replica] = time.monotonic()

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

    def _write_checkpoint(self) -> None:
        """Write a checkpoint; the training goes on without one that cannot be written, and the last stays."""
        try:
            write_checkpoint(str(self._options.checkpoint), *self._actors.snapshot())
        except OutputError as error:
            told = f"no checkpoint: {error}; the training goes on, and the last one stays"
            if told not in self._told:
                self._told.add(told)
                self._listener(Notice(told))

    def _note_servers(self) -> None:
        self.history.note(self._actors.statistics(), self._elapsed_s())

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._validations.began_s

    # Ending

    def _end(self, evaluator: Evaluator) -> None:
        self._actors.end_groups()
        self._collect()
        self._validations.end()
        self._apply_validations(wait=True)
        self._note_servers()
        if self._options.checkpoint is not None:
            self._write_checkpoint()
        self._actors.finish()
        evaluator.end(self._actors.pull())

    def _clean_up(self) -> None:
        for future in self._futures.values():
            future.cancel(force=True)
        if self._replica_config is not None:
            self._replica_config.release()
        self._actors.stop(self._listener)

    def _rate(self) -> float | None:
        optimizer = self._options.algorithm.used_server_optimizer
        return None if optimizer is None else optimizer.learning_rate

    def _workers(self) -> Mapping[str, Any]:
        return workers_of(self._client)
