"""Keep runs: who asked for what, where it stands, who drives it, and what waits in a queue."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa

from dnnflow.errors import ConflictError, LostStudyError, StoreError, StudyError
from dnnflow.events import Command, utc_now
from dnnflow.paths import content_id
from dnnflow.results.store.database import Database
from dnnflow.results.store.run_record import (
    Driver,
    RunKind,
    RunRecord,
    RunState,
    check_name,
    check_note,
    check_study_id,
    check_tags,
    finite,
    mask_credentials,
    several_fit,
    study_not_found,
)
from dnnflow.results.store.schema import STUDY, queues, runs
from dnnflow.results.store.trial_rows import clean_text

HEARTBEAT_S = 5.0
"""How often `Store.driving` says that it is alive; a sixth of the silence that counts as gone."""

HIDDEN = ("driver", "heartbeat_s", "idempotency_key", "digest", "request")
"""Columns of a run that are no part of its record."""

_driven: set[tuple[str, str]] = set()
"""Store and run of each `Store.driving` of this process."""
_driven_lock = Lock()


class News(TypedDict, total=False):
    """What a driver tells of its run while it goes on; None removes what was told before."""

    stage: str | None
    progress: Mapping[str, Any] | None
    dashboard: str | None
    run_url: str | None
    outcome: Mapping[str, Any] | None
    started_at: str


class Runs(Database):
    """The table of runs; see `Database`."""

    # ---- runs

    def ask(self, run_id: str, kind: RunKind, name: str, pipeline: Mapping[str, Any], *,
            key: str | None = None, queue: str | None = None) -> RunRecord:  # fmt: skip
        """Add a run that somebody asks for, and return it: queued.

        Parameters
        ----------
        pipeline
            As JSON types; credentials in it are masked in the record, and kept for its driver only.
        key
            Idempotency key: the same key, queue and pipeline give the run that was made first.
        queue
            Who is to run it, see `take_next`; None for the calling process.

        Raises
        ------
        ConflictError
            If the id is taken, or the key was used with another pipeline.
        """
        check_study_id(run_id)
        digest, hashed = content_id(pipeline), None if key is None else content_id(key)
        queued_s = None if queue is None else time.time()
        record = RunRecord(run_id=run_id, kind=kind, name=clean_text(name), state=RunState.QUEUED,
                           queue=queue, queued_s=queued_s, pipeline=mask_credentials(pipeline))  # fmt: skip
        secret = dict(pipeline) if record.pipeline != pipeline else None
        if self.add(record, idempotency_key=hashed, digest=digest, request=secret):
            return record
        same = self._select(runs.c.queue == queue, runs.c.idempotency_key == hashed)
        with self.reading() as connection:
            found = connection.execute(same.add_columns(runs.c.digest)).first() if hashed else None
        if found is None:
            raise ConflictError(f"a job has an id of its own, got {run_id} again; take a new one")
        if found.digest != digest:
            raise ConflictError(f"an idempotency key stands for one pipeline, got the key of job "
                                f"{found.run_id} with another; take a new key")  # fmt: skip
        return _record(found)

    def add(self, record: RunRecord, **hidden: Any) -> bool:
        """Add a run with the columns of `HIDDEN`; return False if its id or its idempotency key is taken."""
        row = row_of(record) | hidden
        new = self._insert(runs).values(row).on_conflict_do_nothing().returning(runs.c.run_id)
        with self._write() as connection:
            return connection.execute(new).first() is not None

    def adopt(self, record: RunRecord, **hidden: Any) -> None:
        """Add a run that an older dnnflow has begun; a study of its id gets what only the record knows."""
        row = row_of(record) | hidden
        known = ("started_at", "ended_at", "queue", "queued_s", "run_url", "error", "progress", "outcome")
        is_over = runs.c.state == RunState.FINISHED
        state = sa.case((is_over, runs.c.state), else_=sa.literal(record.state, runs.c.state.type))
        part = {name: row[name] for name in (*known, *hidden)} | {"state": state}
        if record.outcome is None:  # what a study has measured of itself stays
            del part["outcome"]
        query = self._insert(runs).values(row).on_conflict_do_update(
            index_elements=[runs.c.run_id], set_=part, where=runs.c.queue.is_(None)
        )  # fmt: skip
        with self._write() as connection:
            connection.execute(query)

    def run(self, run_id: str) -> RunRecord:
        """Return the run with this id, else the only one whose id begins so or that has this name.

        Raises
        ------
        NotFoundError
            If there is none, or several; names the nearest.
        """
        return self._look_up(run_id)

    def study(self, study_id: str) -> RunRecord:
        """Return what `run` does, of studies that have designs.

        Raises
        ------
        NotFoundError
            If there is none, or several; names the nearest.
        """
        return self._look_up(study_id, runs.c.key.is_not(None))

    def _look_up(self, run_id: str, *conditions: "sa.ColumnElement[bool]") -> RunRecord:
        is_exact = runs.c.run_id == run_id
        fits = (sa.func.substr(runs.c.run_id, 1, len(run_id)) == run_id) | (runs.c.name == run_id)
        order = (sa.case((is_exact, 0), else_=1), runs.c.created_at.desc(), runs.c.run_id)
        found = self._records(fits, *conditions, order=order, limit=4) if run_id else []
        if found and (len(found) == 1 or found[0].run_id == run_id):
            return found[0]
        if found:
            raise several_fit(run_id, found)
        with self.reading() as connection:
            rows = connection.execute(sa.select(runs.c.run_id, runs.c.name).where(*conditions)).all()
        raise study_not_found(run_id, list(dict.fromkeys(text for row in rows for text in row)))

    def find(self, run_id: str) -> RunRecord | None:
        """Return the run with exactly this id, or None."""
        return next(iter(self._records(runs.c.run_id == run_id)), None)

    def runs(self, kind: RunKind | None = None) -> list[RunRecord]:
        """Return all runs, or those of a kind, the newest first."""
        return self._records(*([runs.c.kind == kind] if kind else []))

    def studies(self) -> list[RunRecord]:
        """Return all studies that have designs, the newest first."""
        return self._records(runs.c.key.is_not(None))

    def study_of(self, key: str) -> RunRecord | None:
        """Return the newest unfinished study of this key, else the newest finished one, or None."""
        is_finished = sa.case((runs.c.state == RunState.FINISHED, 1), else_=0)
        found = self._records(runs.c.key == key, order=(is_finished, runs.c.created_at.desc()), limit=1)
        return next(iter(found), None)

    def _records(self, *conditions: "sa.ColumnElement[bool]", order: Sequence[Any] = (),
                 limit: int | None = None) -> list[RunRecord]:  # fmt: skip
        query = self._select(*conditions).order_by(*(order or (runs.c.created_at.desc(), runs.c.run_id)))
        with self.reading() as connection:
            return [_record(row) for row in connection.execute(query.limit(limit))]

    def _select(self, *conditions: "sa.ColumnElement[bool]") -> sa.Select[Any]:
        columns = [column for column in runs.columns if column.name not in HIDDEN]
        return sa.select(*columns, runs.c.driver, self._silent_s(runs)).where(*conditions)

    def request(self, run_id: str) -> Mapping[str, Any]:
        """Return a run's pipeline with its credentials, for who runs it; masked, once it is finished."""
        query = sa.select(sa.func.coalesce(runs.c.request, runs.c.pipeline).cast(sa.Text))
        with self.reading() as connection:
            text = connection.execute(query.where(runs.c.run_id == run_id)).scalar()
        if text is None:
            raise study_not_found(run_id)
        pipeline: Mapping[str, Any] = json.loads(text)
        return pipeline

    def describe(self, run_id: str, *, name: str | None = None, note: str | None = None,
                 tags: Sequence[str] | None = None) -> RunRecord:  # fmt: skip
        """Give a run another name, note or tags, and return it; None leaves what is there.

        Raises
        ------
        InputError
            If one of them is too long, or a tag no tag.
        """
        values: dict[str, Any] = {}
        if name is not None:
            values["name"] = check_name(clean_text(name))
        if note is not None:
            values["note"] = check_note(clean_text(note))
        if tags is not None:
            values["tags"] = check_tags(map(clean_text, tags)) or None
        if values:
            self._update(run_id, **values)
        return self.run(run_id)

    def tag(self, run_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
        """Add and remove tags of a run, whoever else does so meanwhile; return those that it has then.

        Raises
        ------
        InputError
            If one of those to add is no tag, or there are too many.
        """
        query = sa.select(runs.c.tags).where(runs.c.run_id == run_id).with_for_update()
        with self._write() as connection:
            row = connection.execute(query).first()
            if row is None:
                raise study_not_found(run_id)
            tags = check_tags([*(tag for tag in row.tags or () if tag not in remove), *map(clean_text, add)])
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(tags=tags or None))
        return tags

    def _refuse_open(self, connection: sa.Connection, run_id: str) -> None:
        """Keep a run from being begun until the transaction ends.

        Raises
        ------
        StudyError
            If it waits or goes on.
        """
        row = connection.execute(self._select(runs.c.run_id == run_id).with_for_update()).first()
        if row is None:
            raise study_not_found(run_id)
        record = _record(row)
        if record.is_open:
            doing = "is running" if record.is_driven or record.state is not RunState.QUEUED else "is queued"
            raise StudyError(f"what is deleted has ended, got {record.kind} {run_id}, which {doing}; "
                             f"dnnflow cancel {run_id} first")  # fmt: skip

    def drop(self, run_id: str) -> None:
        """Forget a run that was asked for, and is no study yet; does nothing to others."""
        with self._write() as connection:
            connection.execute(runs.delete().where(runs.c.run_id == run_id, runs.c.key.is_(None)))

    # ---- where a run stands

    def set_state(self, run_id: str, state: RunState) -> None:
        """Set where a run stands."""
        self._update(run_id, state=state, updated_at=utc_now())

    def tell(self, run_id: str, **news: Unpack[News]) -> None:
        """Keep what a run does now, for those who look at it."""
        self._update(run_id, **finite(news))

    def start(self, run_id: str) -> None:
        """Say that a run is about to go on in this process, whatever was commanded before.

        Does nothing while another process drives it, or a supervisor has taken it: what is commanded stands.
        """
        begun = {"command": Command.RUN, "acknowledged": Command.RUN, "state": RunState.RUNNING,
                 "started_at": sa.func.coalesce(runs.c.started_at, utc_now()), "ended_at": None,
                 "error": None, "queued_s": None}  # fmt: skip
        is_taken = runs.c.queued_s.is_not(None) & (runs.c.state == RunState.RUNNING)
        is_open = (runs.c.run_id == run_id) & (runs.c.state != RunState.FINISHED) & ~is_taken
        with self._write() as connection:
            if self._living_driver(connection, runs, run_id) is None:
                connection.execute(runs.update().where(is_open).values(begun))

    def end(self, run_id: str, state: RunState, *, error: str | None = None,
            outcome: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        """Say how a run ended; a study whose designs all have trials stays finished, whatever came after."""
        is_over = runs.c.state == RunState.FINISHED
        now = utc_now()
        ended: dict[str, Any] = {
            "state": sa.case((is_over, runs.c.state), else_=sa.literal(state, runs.c.state.type)),
            "updated_at": sa.case((is_over, runs.c.updated_at), else_=now),
            "ended_at": now,
            "error": error,
        }
        if outcome is not None:
            ended["outcome"] = finite(outcome)
        if state is RunState.FINISHED:
            ended["request"] = None
        self._update(run_id, **ended)

    def command(self, run_id: str, driver: Driver | None = None) -> Command:
        """Return what is commanded of a run; one value, for who asks often.

        Parameters
        ----------
        driver
            Who asks because it drives the run.

        Raises
        ------
        LostStudyError
            If another process does by now.
        """
        query = sa.select(runs.c.command, runs.c.driver).where(runs.c.run_id == run_id)
        with self.reading() as connection:
            if (row := connection.execute(query).first()) is None:
                raise study_not_found(run_id)
        held = Driver.parse(row.driver) if row.driver else None
        if driver is not None and not (held is not None and held.same_process(driver)):
            by = f"process {held.pid} on {held.host}" if held is not None else "nobody"
            raise LostStudyError(
                f"a study is driven by one process at a time, got study {run_id} driven by {by} while this "
                "process was suspended or cut off; it ends here, and all that it stored stays: follow it by "
                f"dnnflow show {run_id}"
            )
        return Command(row.command)

    def send_command(self, run_id: str, command: Command) -> None:
        """Command a run; who drives it acts within a second, and one that is queued is cancelled at once."""
        values: dict[str, Any] = {"command": command}
        if command is Command.CANCEL:
            waits = runs.c.state == RunState.QUEUED
            stopped = sa.literal(RunState.STOPPED, runs.c.state.type)
            values["state"] = sa.case((waits, stopped), else_=runs.c.state)
            values["ended_at"] = sa.case((waits, utc_now()), else_=runs.c.ended_at)
        self._update(run_id, **values)

    def acknowledge(self, run_id: str, command: Command) -> None:
        """Say what the process that drives a run has come to."""
        self._update(run_id, acknowledged=command)

    def _update(self, run_id: str, **values: Any) -> None:
        query = runs.update().where(runs.c.run_id == run_id).values(**values)
        with self._write() as connection:
            changed = connection.execute(query)
        if not changed.rowcount:
            raise study_not_found(run_id)

    # ---- queues

    def enqueue(self, run_id: str, queue: str) -> bool:
        """Queue a run once more that ended unfinished and whose process has ended; return whether it did so.

        Does nothing to others.
        """
        values = {"state": RunState.QUEUED, "queue": queue, "queued_s": time.time(), "deaths": 0,
                  "command": Command.RUN, "acknowledged": Command.RUN, "ended_at": None, "error": None,
                  "stage": None, "progress": None}  # fmt: skip
        open_states = (RunState.STOPPED, RunState.FAILED)
        left_alone = runs.c.queued_s.is_(None) & runs.c.state.in_((RunState.QUEUED, RunState.RUNNING))
        may = (runs.c.run_id == run_id) & (runs.c.state.in_(open_states) | left_alone)
        with self._write() as connection:
            if self._living_driver(connection, runs, run_id) is not None:
                return False
            return connection.execute(runs.update().where(may).values(values)).rowcount > 0

    def reopen(self, run_id: str, state: RunState) -> None:
        """Say that a run waits or goes on, whatever was stored; a finished study stays so."""
        is_over = (runs.c.kind == RunKind.STUDY) & (runs.c.state == RunState.FINISHED)
        differs = (runs.c.state != state) | runs.c.ended_at.is_not(None)
        query = runs.update().where(runs.c.run_id == run_id, differs, ~is_over)
        with self._write() as connection:
            connection.execute(query.values(state=state, ended_at=None, updated_at=utc_now()))

    def waiting(self, queue: str) -> list[str]:
        """Return the ids of the runs that wait in a queue, the next one first."""
        query = sa.select(runs.c.run_id).where(*_is_open(queue), runs.c.state == RunState.QUEUED)
        with self.reading() as connection:
            return list(connection.execute(query.order_by(runs.c.queued_s, runs.c.run_id)).scalars())

    def take_next(self, queue: str) -> RunRecord | None:
        """Take the run that has waited longest, which then is running; None if none waits.

        Those who take from one queue at the same moment do so one after another, each the run that then has
        waited longest. The record is that before it was taken.
        """
        waiting = self._select(*_is_open(queue), runs.c.state == RunState.QUEUED)
        waiting = waiting.order_by(runs.c.queued_s, runs.c.run_id).with_for_update()
        taken = {"state": RunState.RUNNING, "started_at": sa.func.coalesce(runs.c.started_at, utc_now()),
                 "ended_at": None, "error": None, "stage": None, "progress": None,
                 "driver": None, "heartbeat_s": None, "updated_at": utc_now()}  # fmt: skip
        with self._write() as connection:
            self._lock_queue(connection, queue)
            records = map(_record, connection.execute(waiting))
            first = next((record for record in records if not record.is_driven), None)
            if first is not None:
                connection.execute(runs.update().where(runs.c.run_id == first.run_id).values(taken))
        return first

    def _lock_queue(self, connection: sa.Connection, queue: str) -> None:
        """Let nobody else take from a queue, or begin to supervise it, until the transaction ends."""
        connection.execute(self._insert(queues).values(name=queue).on_conflict_do_nothing())
        connection.execute(sa.select(queues.c.name).where(queues.c.name == queue).with_for_update())

    def has_work(self, queue: str) -> bool:
        """Whether a run of a queue waits, runs, or was left by who ran it."""
        return bool(self._records(*_is_open(queue), limit=1))

    def left_behind(self, queue: str) -> list[RunRecord]:
        """Return the runs of a queue that were begun, have not ended, and that nobody drives."""
        begun = self._records(*_is_open(queue), runs.c.state != RunState.QUEUED)
        return [record for record in begun if not record.is_driven]

    def give_back(self, run_id: str, *, has_died: bool) -> None:
        """Let a run that was taken and did not end wait again, at its old place."""
        self._update(run_id, state=RunState.QUEUED, deaths=runs.c.deaths + int(has_died), ended_at=None,
                     driver=None, heartbeat_s=None)  # fmt: skip

    @contextmanager
    def supervising(self, queue: str) -> Iterator[bool]:
        """Be the only one who works off a queue, for the block; yields whether that is so."""
        mine = Driver.this_process()
        with self._write() as connection:
            self._lock_queue(connection, queue)
            is_alone = self._claim(connection, queues, queue, mine) is None
        if not is_alone:
            yield False
            return
        with self._beating(queues, queue, mine):
            yield True

    def is_supervised(self, queue: str) -> bool:
        """Whether a living process works off a queue."""
        query = sa.select(queues.c.driver, self._silent_s(queues)).where(queues.c.name == queue)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return row is not None and _is_alive(row.driver, row.silent_s)

    # ---- who drives a run

    def claim(self, run_id: str, driver: Driver | None = None) -> Driver:
        """Make a process (this one by default) the one that drives a run, and return it.

        A driver that died is replaced at once, if it ran on this host; else once it has been silent for
        `SILENT_AFTER_S`.

        Raises
        ------
        StudyError
            If another living process drives the run.
        """
        mine = driver or Driver.this_process()
        with self._write() as connection:
            other = self._claim(connection, runs, run_id, mine)
        if other is not None:
            raise StudyError(
                f"a study is driven by one process at a time, got study {run_id} driven by process "
                f"{other.pid} on {other.host}; wait for it, stop it, or start a new study with --new"
            )
        return mine

    def heartbeat(self, run_id: str, driver: Driver) -> None:
        """Say that a run's driver is alive.

        Raises
        ------
        StudyError
            If another process has taken over.
        """
        self._heartbeat(runs, run_id, driver)

    def release(self, run_id: str, driver: Driver) -> None:
        """Stop driving a run; does nothing if another process drives it by now."""
        self._release(runs, run_id, driver)

    def driver(self, run_id: str) -> Driver | None:
        """Return the living process that drives a run, or None."""
        with self.reading() as connection:
            return self._living_driver(connection, runs, run_id)

    @contextmanager
    def driving(self, run_id: str) -> Iterator[Driver]:
        """Claim a run for the block and send heartbeats meanwhile; within another such block it does nothing.

        Raises
        ------
        StudyError
            If another living process drives the run.
        """
        mark = (self.url, run_id)
        with _driven_lock:
            is_outermost = mark not in _driven
            _driven.add(mark)
        if not is_outermost:
            yield Driver.this_process()
            return
        try:
            driver = self.claim(run_id)
            with self._beating(runs, run_id, driver):
                yield driver
        finally:
            _driven.discard(mark)

    @contextmanager
    def _beating(self, table: sa.Table, name: str, driver: Driver) -> Iterator[None]:
        stop = Event()
        thread = Thread(target=self._beat, args=(table, name, driver, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(StoreError):  # of a process that has ended the next one sees that
                self._release(table, name, driver)

    def _beat(self, table: sa.Table, name: str, driver: Driver, stop: Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                self._heartbeat(table, name, driver)
            except StoreError:  # a store that is briefly away: the next beat may reach it
                continue
            except StudyError:
                return

    def _claim(self, connection: sa.Connection, table: sa.Table, name: str, mine: Driver) -> Driver | None:
        """Make a process the driver of a row, unless another living one is, which is returned."""
        other = self._living_driver(connection, table, name)
        if other is not None and not other.same_process(mine):
            return other
        claimed = {"driver": str(mine), "heartbeat_s": self._clock}
        connection.execute(table.update().where(_name(table) == name).values(claimed))
        return None

    def _heartbeat(self, table: sa.Table, name: str, driver: Driver) -> None:
        query = table.update().where(_name(table) == name, table.c.driver == str(driver))
        with self._write() as connection:
            if not connection.execute(query.values(heartbeat_s=self._clock)).rowcount:
                raise StudyError(
                    f"a study is driven by one process at a time, got study {name} taken by another; "
                    "stop one of the two"
                )

    def _release(self, table: sa.Table, name: str, driver: Driver) -> None:
        query = table.update().where(_name(table) == name, table.c.driver == str(driver))
        with self._write() as connection:
            connection.execute(query.values(driver=None, heartbeat_s=None))

    def _living_driver(self, connection: sa.Connection, table: sa.Table, name: str) -> Driver | None:
        query = sa.select(table.c.driver, self._silent_s(table)).where(_name(table) == name)
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            raise study_not_found(name)
        return Driver.parse(row.driver) if _is_alive(row.driver, row.silent_s) else None

    def _silent_s(self, table: sa.Table) -> "sa.Label[float]":
        return sa.func.coalesce(self._clock - table.c.heartbeat_s, 0.0).label("silent_s")


def row_of(record: RunRecord) -> dict[str, Any]:
    """Return the columns of a new run; what it has not got yet is NULL."""
    row = {column.name: getattr(record, column.name) for column in runs.columns if column.name not in HIDDEN}
    row |= {"name": clean_text(record.name), "pipeline": mask_credentials(record.pipeline)}
    if not record.has_designs:
        row |= dict.fromkeys(STUDY)
    return row


def _record(row: "sa.Row[Any]") -> RunRecord:
    values = {name: value for name, value in row._mapping.items() if value is not None}
    is_driven = _is_alive(values.pop("driver", None), values.pop("silent_s"))
    values.pop("digest", None)
    return RunRecord(**values, is_driven=is_driven)


def _is_open(queue: str) -> "tuple[sa.ColumnElement[bool], ...]":
    return runs.c.queue == queue, runs.c.queued_s.is_not(None), runs.c.ended_at.is_(None)


def _is_alive(driver: str | None, silent_s: float) -> bool:
    return driver is not None and Driver.parse(driver).is_alive(float(silent_s))


def _name(table: sa.Table) -> "sa.Column[str]":
    return next(iter(table.primary_key.columns))
