"""The results store: studies, their designs and their trials in SQLite or PostgreSQL."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial, TrialState
from dnnflow.errors import InputError, NotFoundError, StoreError, StudyError
from dnnflow.results.store import frames, study_rows
from dnnflow.results.store.driving_process import Driver
from dnnflow.results.store.schema import (
    open_engine,
    prepare_schema,
    store_url,
    studies,
    study_designs,
    trials,
)
from dnnflow.results.store.study_record import StudyRecord, StudyState, Wanted, taken_id, utc_now
from dnnflow.results.store.trial_rows import history_values, trial_of, trial_row

HEARTBEAT_S = 5.0
"""How often `Store.driving` says that it is alive; a sixth of the silence that counts as gone."""

IDS_A_STATEMENT = 500
"""Databases limit the parameters of a statement."""


class Store:
    """Keeps studies in a SQLite file or a PostgreSQL database; safe for threads and processes.

    Parameters
    ----------
    url : str
        `sqlite:///FILE` or `postgresql://USER@HOST/NAME`. Tables are made on first use.

    Raises
    ------
    StoreError
        From every method, when the database cannot be reached, read or written.
    """

    def __init__(self, url: str) -> None:
        self._url = store_url(url)
        self._engine = open_engine(self._url)
        try:
            with self._write() as connection:
                prepare_schema(connection)
        except BaseException:
            self._engine.dispose()
            raise
        dialect = self._engine.dialect.name
        self._insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        # With many rows, SQLAlchemy asks the driver how many were new only if told so
        self._insert_trials = (
            self._insert(trials).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        )
        self._clock: sa.ColumnElement[float] = (
            sa.extract("epoch", sa.func.clock_timestamp()).cast(sa.Double)
            if dialect == "postgresql"
            else sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Double)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The store's URL without a password."""
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections; the store may be used again and then opens new ones."""
        self._engine.dispose()

    # ---- studies

    def add_study(self, record: StudyRecord, designs: Sequence[Design]) -> None:
        """Add a study and the designs it is to train.

        Raises
        ------
        InputError
            If `record.n_designs` is not the number of designs.
        ConflictError
            If another study has its id.
        """
        if record.n_designs != len(designs):
            raise InputError(f"a study's n_designs is its number of designs, got {record.n_designs} "
                             f"for {len(designs)} designs")  # fmt: skip
        row, blob = study_rows.study_row(record), study_rows.designs_blob(designs)
        new = self._insert(studies).values(row).on_conflict_do_nothing().returning(studies.c.study_id)
        with self._write() as connection:
            if connection.execute(new).first() is None:
                raise taken_id(record.study_id)
            connection.execute(study_designs.insert().values(study_id=record.study_id, designs=blob))

    def study(self, study_id: str) -> StudyRecord:
        """Return the study with this id, or with the only id that begins so.

        Raises
        ------
        NotFoundError
            If there is none, or several; names the nearest.
        """
        prefix = sa.func.substr(studies.c.study_id, 1, len(study_id)) == study_id
        with self.reading() as connection:
            rows = connection.execute(study_rows.select_studies().where(prefix).limit(4)).all()
            exact = [row for row in rows if row.study_id == study_id]
            if exact or (len(rows) == 1 and study_id):
                return study_rows.study_of_row(exact[0] if exact else rows[0])
            known = connection.execute(sa.select(studies.c.study_id)).scalars().all()
        if rows and study_id:
            raise study_rows.several_fit(study_id, [row.study_id for row in rows])
        raise study_rows.study_not_found(study_id, known)

    def find(self, study_id: str) -> StudyRecord | None:
        """Return the study with exactly this id, or None."""
        query = study_rows.select_studies().where(studies.c.study_id == study_id)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return study_rows.study_of_row(row) if row else None

    def studies(self) -> list[StudyRecord]:
        """Return all studies, the newest first."""
        with self.reading() as connection:
            return [study_rows.study_of_row(row) for row in connection.execute(study_rows.select_studies())]

    def study_of(self, key: str) -> StudyRecord | None:
        """Return the newest unfinished study of this key, else the newest finished one, or None."""
        is_finished = sa.case((studies.c.state == StudyState.FINISHED.value, 1), else_=0)
        query = study_rows.select_studies().where(studies.c.key == key).order_by(None)
        query = query.order_by(is_finished, studies.c.created_at.desc()).limit(1)
        with self.reading() as connection:
            row = connection.execute(query).first()
        return study_rows.study_of_row(row) if row else None

    def renew(self, study_id: str, *, pipeline: Mapping[str, Any], dataset_path: str) -> None:
        """Give a study that goes on what may have changed: device, executor, outputs, its data's place."""
        self._update(study_id, pipeline=study_rows.json_text(pipeline), dataset_path=dataset_path)

    def forget_failed(self, study_id: str) -> int:
        """Delete the trials that did not complete, so that they are trained again; return how many."""
        failed = (trials.c.study_id == study_id) & (trials.c.state != TrialState.COMPLETED.value)
        with self._write() as connection:
            return int(connection.execute(trials.delete().where(failed)).rowcount)

    def designs(self, study_id: str) -> list[Design]:
        """Return all designs of a study, in the order they were added."""
        with self.reading() as connection:
            query = sa.select(study_designs.c.designs).where(study_designs.c.study_id == study_id)
            blob = connection.execute(query).scalar()
        if blob is None:
            raise study_rows.study_not_found(study_id)
        return study_rows.designs_of_blob(blob)

    def set_state(self, study_id: str, state: StudyState) -> None:
        """Set where a study stands."""
        self._update(study_id, state=state.value, updated_at=utc_now())

    def set_dashboard(self, study_id: str, dashboard: str | None) -> None:
        """Set the URL of the Dask dashboard that shows a study."""
        self._update(study_id, dashboard=dashboard)

    # ---- what is wanted of a study

    def wanted(self, study_id: str) -> Wanted:
        """Return what is wanted of a study; one value, for who asks often."""
        query = sa.select(studies.c.wanted).where(studies.c.study_id == study_id)
        with self.reading() as connection:
            if (value := connection.execute(query).scalar()) is None:
                raise study_rows.study_not_found(study_id)
        return Wanted(value)

    def set_wanted(self, study_id: str, wanted: Wanted) -> None:
        """Say what is wanted of a study; who trains it obeys within a second."""
        self._update(study_id, wanted=wanted.value)

    def set_obeyed(self, study_id: str, wanted: Wanted) -> None:
        """Say what the process that drives a study has come to."""
        self._update(study_id, obeyed=wanted.value)

    def start(self, study_id: str) -> None:
        """Say that a study is about to go on, whatever was wanted before; not while another process does."""
        run = {"wanted": Wanted.RUN.value, "obeyed": Wanted.RUN.value, "state": StudyState.RUNNING.value}
        is_open = (studies.c.study_id == study_id) & (studies.c.state != StudyState.FINISHED.value)
        with self._write() as connection:
            other, silent_s = self._driver(connection, study_id)
            if not (other and other.is_alive(silent_s)):
                connection.execute(studies.update().where(is_open).values(run))

    def _update(self, study_id: str, **values: Any) -> None:
        query = studies.update().where(studies.c.study_id == study_id).values(**values)
        with self._write() as connection:
            changed = connection.execute(query)
        if not changed.rowcount:
            raise study_rows.study_not_found(study_id)

    # ---- who drives a study

    def claim(self, study_id: str, driver: Driver | None = None) -> Driver:
        """Make a process (this one by default) the one that drives a study, and return it.

        A driver that died is replaced at once, if it ran on this host; else once it has been silent for
        `driver.SILENT_AFTER_S`.

        Raises
        ------
        StudyError
            If another living process drives the study.
        """
        mine = driver or Driver.this_process()
        with self._write() as connection:
            other, silent_s = self._driver(connection, study_id)
            if other and not other.same_process(mine) and other.is_alive(silent_s):
                raise StudyError(
                    f"a study is driven by one process at a time, got study {study_id} driven by process "
                    f"{other.pid} on {other.host}; wait for it, stop it, or start a new study with --new"
                )
            values = {"driver": str(mine), "heartbeat_s": self._clock}
            connection.execute(studies.update().where(studies.c.study_id == study_id).values(values))
        return mine

    def heartbeat(self, study_id: str, driver: Driver) -> None:
        """Say that a study's driver is alive.

        Raises
        ------
        StudyError
            If another process has taken over.
        """
        query = studies.update().where(studies.c.study_id == study_id, studies.c.driver == str(driver))
        with self._write() as connection:
            if not connection.execute(query.values(heartbeat_s=self._clock)).rowcount:
                raise StudyError(
                    f"a study is driven by one process at a time, got study {study_id} taken by another; "
                    "stop one of the two"
                )

    def release(self, study_id: str, driver: Driver) -> None:
        """Stop driving a study; does nothing if another process drives it by now."""
        query = studies.update().where(studies.c.study_id == study_id, studies.c.driver == str(driver))
        with self._write() as connection:
            connection.execute(query.values(driver=None, heartbeat_s=None))

    def driver(self, study_id: str) -> Driver | None:
        """Return the living process that drives a study, or None."""
        with self.reading() as connection:
            driver, silent_s = self._driver(connection, study_id)
        return driver if driver and driver.is_alive(silent_s) else None

    @contextmanager
    def driving(self, study_id: str) -> Iterator[Driver]:
        """Claim a study for the block and send heartbeats meanwhile.

        Raises
        ------
        StudyError
            If another living process drives the study.
        """
        driver = self.claim(study_id)
        stop = Event()
        thread = Thread(target=self._beat, args=(study_id, driver, stop), daemon=True)
        thread.start()
        try:
            yield driver
        finally:
            stop.set()
            thread.join()
            self.release(study_id, driver)

    def _beat(self, study_id: str, driver: Driver, stop: Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                self.heartbeat(study_id, driver)
            except StoreError:  # a store that is briefly away: the next beat may reach it
                continue
            except StudyError:
                return

    def _driver(self, connection: sa.Connection, study_id: str) -> tuple[Driver | None, float]:
        silent_s = sa.func.coalesce(self._clock - studies.c.heartbeat_s, 0.0)
        query = sa.select(studies.c.driver, silent_s).where(studies.c.study_id == study_id)
        row = connection.execute(query.with_for_update()).first()
        if row is None:
            raise study_rows.study_not_found(study_id)
        return (Driver.parse(row[0]) if row[0] else None), float(row[1])

    # ---- trials

    def add_trials(self, study_id: str, pairs: Sequence[tuple[Design, Trial]]) -> int:
        """Add trials with their designs in one transaction; a design that has a trial keeps its first.

        Returns
        -------
        int
            How many were new.
        """
        if not pairs:
            return 0
        rows = [trial_row(study_id, design, trial) for design, trial in pairs]
        touched = studies.update().where(studies.c.study_id == study_id).values(updated_at=utc_now())
        with self._write() as connection:
            if not connection.execute(touched).rowcount:
                raise study_rows.study_not_found(study_id)
            return connection.execute(self._insert_trials, rows).rowcount

    def finished(self, study_id: str) -> set[str]:
        """Return the ids of all designs that have a trial, whatever its state."""
        with self.reading() as connection:
            query = sa.select(trials.c.design_id).where(trials.c.study_id == study_id)
            return set(connection.execute(query).scalars())

    def counts(self, study_id: str) -> dict[TrialState, int]:
        """Return the number of trials in each state, zeros too."""
        query = sa.select(trials.c.state, sa.func.count()).where(trials.c.study_id == study_id)
        with self.reading() as connection:
            found = {state: count for state, count in connection.execute(query.group_by(trials.c.state))}
        return {state: found.get(state.value, 0) for state in TrialState}

    def frame(self, study_id: str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row a trial, ordered by design id.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns of the table `trials`; all but `history`, `confusion` and `error_traceback` by default.
        """
        query = frames.select_trials(columns).where(trials.c.study_id == study_id)
        with self.reading() as connection:
            return frames.read_frame(connection, query.order_by(trials.c.design_id))

    def trial(self, study_id: str, design_id: str) -> Trial:
        """Return one trial with its history, confusion counts and error.

        Raises
        ------
        NotFoundError
            If the design has no trial in this study.
        """
        query = sa.select(trials).where(trials.c.study_id == study_id, trials.c.design_id == design_id)
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(
                f"a trial is found by study and design id, got design {design_id!r}, which has none in study "
                f"{study_id}; `dnnflow export {study_id}` lists them"
            )
        return trial_of(dict(row))

    def histories(self, study_id: str, design_ids: Sequence[str]) -> dict[str, dict[str, tuple[float, ...]]]:
        """Return the per-epoch history of each of these designs that has a trial, by design id."""
        found = self._texts(study_id, design_ids, trials.c.history)
        return {
            design_id: {name: history_values(values) for name, values in json.loads(text).items()}
            for design_id, text in found.items()
        }

    def designs_of(self, study_id: str, design_ids: Sequence[str]) -> dict[str, Design]:
        """Return each of these designs that has a trial, by design id."""
        found = self._texts(study_id, design_ids, trials.c.design)
        return {design_id: Design.from_dict(json.loads(text)) for design_id, text in found.items()}

    def _texts(self, study_id: str, design_ids: Sequence[str], column: "sa.Column[str]") -> dict[str, str]:
        query = sa.select(trials.c.design_id, column).where(trials.c.study_id == study_id)
        found: dict[str, str] = {}
        with self.reading() as connection:
            for first in range(0, len(design_ids), IDS_A_STATEMENT):
                some = trials.c.design_id.in_(design_ids[first : first + IDS_A_STATEMENT])
                found |= {row[0]: row[1] for row in connection.execute(query.where(some))}
        return {design_id: found[design_id] for design_id in design_ids if design_id in found}

    # ---- connections

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection for queries of modules beside this one."""
        with self._guard(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._guard(), self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StoreError(f"the store {self.url} must be readable and writable, got: {cause}; "
                             "check DNNFLOW_STORE") from error  # fmt: skip
