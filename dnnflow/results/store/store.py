"""Keep runs, the designs of studies and their trials in SQLite or PostgreSQL."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial, TrialState
from dnnflow.errors import InputError, NotFoundError
from dnnflow.events import utc_now
from dnnflow.results.store.final_trials import FinalTrials
from dnnflow.results.store.run_record import (
    RunRecord,
    designs_blob,
    designs_of_blob,
    mask_credentials,
    study_not_found,
    taken_id,
)
from dnnflow.results.store.runs import Runs, row_of
from dnnflow.results.store.schema import STUDY, final_trials, runs, study_designs, trials
from dnnflow.results.store.trial_rows import history_values, trial_of, trial_row

IDS_A_STATEMENT = 500
"""Databases limit the parameters of a statement."""

_SEED = re.compile(r',?"seed":\d+\}$')
"""At the end of a design's canonical JSON: of its keys, which are sorted, the last. Cut off 50,000 of them in
0.1 s; read as JSON they take 0.5 s, as designs 4 s."""

LONG_COLUMNS = ("confusion", "error_traceback", "history")
"""Left out of a frame of trials unless asked for."""


ROW_BYTES = 12
"""About what a short column takes, its share of the indices included."""


class Store(Runs, FinalTrials):
    """Keeps runs with their designs and trials in a SQLite file or a PostgreSQL database; see `Database`."""

    # ---- studies

    def add_study(self, record: RunRecord, designs: Sequence[Design]) -> None:
        """Add a study and the designs it is to train; a run of its id that was asked for becomes it.

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
        row = row_of(record)
        became = {name: row[name] for name in (*STUDY, "state", "updated_at", "pipeline")}
        new = self._insert(runs).values(row).on_conflict_do_update(
            index_elements=[runs.c.run_id], set_=became, where=runs.c.key.is_(None)
        )  # fmt: skip
        with self._write() as connection:
            if connection.execute(new.returning(runs.c.run_id)).first() is None:
                raise taken_id(record.run_id)
            blob = designs_blob(designs)
            connection.execute(study_designs.insert().values(study_id=record.run_id, designs=blob))

    def grow(self, study_id: str, designs: Sequence[Design]) -> None:
        """Give a study other designs, all that it has and more; its trials stay."""
        blob = designs_blob(designs)
        count = runs.update().where(runs.c.run_id == study_id).values(n_designs=len(designs))
        mine = study_designs.update().where(study_designs.c.study_id == study_id).values(designs=blob)
        with self._write() as connection:
            connection.execute(count)
            connection.execute(mine)

    def renew(self, study_id: str, *, pipeline: Mapping[str, Any], dataset_path: str) -> None:
        """Give a study that goes on what may have changed: device, executor, outputs, its data's place."""
        self._update(study_id, pipeline=mask_credentials(pipeline), dataset_path=dataset_path)

    def delete(self, run_id: str) -> None:
        """Delete a run with its designs and trials; of a SQLite file the disk gets back what they took.

        Raises
        ------
        StudyError
            If it waits or goes on.
        """
        with self._write() as connection:
            self._refuse_open(connection, run_id)
            for table in (trials, final_trials, study_designs):
                connection.execute(table.delete().where(table.c.study_id == run_id))
            connection.execute(runs.delete().where(runs.c.run_id == run_id))

    def row_bytes(self, study_id: str | None = None) -> dict[str, int]:
        """Return about how many bytes the rows of each study take, or of one, by its id."""
        found: dict[str, int] = {}
        for table, texts in (
            (study_designs, ("designs",)),
            (trials, ("design", "confusion", "history", "more_parameters", "error_traceback")),
            (final_trials, ("design", "trial")),
        ):
            lengths = [
                sa.func.coalesce(sa.func.length(table.c[name], type_=sa.BigInteger), 0) for name in texts
            ]
            length = sum(lengths, sa.literal(ROW_BYTES * len(table.columns)))
            query = sa.select(table.c.study_id, sa.func.sum(length)).group_by(table.c.study_id)
            if study_id is not None:
                query = query.where(table.c.study_id == study_id)
            with self.reading() as connection:
                for one, taken in connection.execute(query):
                    found[one] = found.get(one, 0) + int(taken)
        return found

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
            raise study_not_found(study_id)
        return designs_of_blob(blob)

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
        touched = runs.update().where(runs.c.run_id == study_id).values(updated_at=utc_now())
        # With many rows, SQLAlchemy asks the driver how many were new only if told so
        new = self._insert(trials).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        with self._write() as connection:
            if not connection.execute(touched).rowcount:
                raise study_not_found(study_id)
            return connection.execute(new, rows).rowcount

    def without_measures(self, study_id: str, names: Sequence[str]) -> list[str]:
        """Return the ids of the completed designs that have none of some measures."""
        none = sa.and_(*(trials.c[name].is_(None) for name in names))
        done = (trials.c.study_id == study_id) & (trials.c.state == TrialState.COMPLETED.value)
        with self.reading() as connection:
            query = sa.select(trials.c.design_id).where(done, none).order_by(trials.c.design_id)
            return list(connection.execute(query).scalars())

    def add_measures(
        self, study_id: str, design_ids: Sequence[str], found: Mapping[str, Sequence[float] | Any]
    ) -> None:
        """Write measures of trials, by name, one a design; NaN becomes NULL."""
        columns = {name: [float(x) if math.isfinite(x) else None for x in found[name]] for name in found}
        rows = [{"one": design_id, **{f"new_{name}": values[at] for name, values in columns.items()}}
                for at, design_id in enumerate(design_ids)]  # fmt: skip
        mine = (trials.c.study_id == study_id) & (trials.c.design_id == sa.bindparam("one"))
        with self._write() as connection:
            new = trials.update().where(mine).values(**{name: sa.bindparam(f"new_{name}") for name in found})
            connection.execute(new, rows)

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
        known = [column.name for column in trials.columns]
        wanted = [name for name in known if name not in LONG_COLUMNS] if columns is None else list(columns)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise InputError(f"a trial's columns are {', '.join(known)}, got {', '.join(unknown)}")
        query = sa.select(*(trials.c[name] for name in wanted)).where(trials.c.study_id == study_id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(trials.c.design_id)).fetchall()
        values = zip(*rows, strict=True) if rows else [()] * len(wanted)
        series = {
            name: pd.array(list(one), dtype=_dtype(trials.c[name]))
            for name, one in zip(wanted, values, strict=True)
        }
        return pd.DataFrame(series, columns=pd.Index(wanted))

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

    def unseeded(self, study_id: str) -> dict[str, str]:
        """Return what designs have beside their seeds, as canonical JSON, by the id of each with a trial."""
        query = sa.select(trials.c.design_id, trials.c.design).where(trials.c.study_id == study_id)
        with self.reading() as connection:
            return {design_id: _SEED.sub("}", text) for design_id, text in connection.execute(query)}

    def _texts(self, study_id: str, design_ids: Sequence[str], column: "sa.Column[str]") -> dict[str, str]:
        query = sa.select(trials.c.design_id, column).where(trials.c.study_id == study_id)
        found: dict[str, str] = {}
        with self.reading() as connection:
            for first in range(0, len(design_ids), IDS_A_STATEMENT):
                some = trials.c.design_id.in_(design_ids[first : first + IDS_A_STATEMENT])
                found |= {row[0]: row[1] for row in connection.execute(query.where(some))}
        return {design_id: found[design_id] for design_id in design_ids if design_id in found}


def _dtype(column: "sa.Column[Any]") -> Any:
    """Return a pandas type that takes what the column may hold: nullable where the column is."""
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return "boolean" if column.nullable else "bool"
    if isinstance(kind, sa.Integer):
        return "Int64" if column.nullable else "int64"
    return "float64" if isinstance(kind, sa.Double) else "str"
