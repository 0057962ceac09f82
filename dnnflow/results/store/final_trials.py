"""Keep the trainings of a study after its screen: of finalists with folds, and of what is handed out."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.results.store.database import Database
from dnnflow.results.store.run_record import study_not_found
from dnnflow.results.store.schema import final_trials, runs
from dnnflow.results.store.trial_rows import clean_text

FinalStage = Literal["folds", "refit", "final"]


@dataclass(frozen=True)
class FinalTrial:
    """One training of a finalist: a design of the study, with a seed of its own."""

    stage: FinalStage
    finalist: str
    """Id of the design that the study compares."""
    design: Design
    """What was trained."""
    fold: int
    repeat: int
    trial: Trial

    @property
    def is_completed(self) -> bool:
        """Whether it ended well."""
        return self.trial.state is TrialState.COMPLETED


class FinalTrials(Database):
    """What a store keeps of a study's trainings after its screen."""

    def add_final_trials(self, study_id: str, found: Sequence[FinalTrial]) -> None:
        """Add trainings; of a design that was trained before, the first one stays.

        Raises
        ------
        NotFoundError
            If there is no such study.
        """
        rows = [_row(study_id, one) for one in found]
        if not rows:
            return
        with self._write() as connection:
            if connection.execute(sa.select(runs.c.run_id).where(runs.c.run_id == study_id)).first() is None:
                raise study_not_found(study_id)
            connection.execute(self._insert(final_trials).on_conflict_do_nothing(), rows)

    def final_trials(self, study_id: str) -> list[FinalTrial]:
        """Return all such trainings of a study, by finalist, repeat and fold."""
        query = sa.select(final_trials).where(final_trials.c.study_id == study_id)
        place = [final_trials.c[name] for name in ("stage", "finalist", "repeat", "fold")]
        with self.reading() as connection:
            return [_read(dict(row)) for row in connection.execute(query.order_by(*place)).mappings()]

    def forget_final_trials(self, study_id: str, *, but: Collection[str] = ()) -> None:
        """Delete such trainings of a study, but those of some designs, so that they are done again."""
        with self._write() as connection:
            mine = sa.select(final_trials.c.design_id).where(final_trials.c.study_id == study_id)
            for design_id in set(connection.execute(mine).scalars()) - set(but):
                one = (final_trials.c.study_id == study_id) & (final_trials.c.design_id == design_id)
                connection.execute(final_trials.delete().where(one))


def _row(study_id: str, one: FinalTrial) -> dict[str, Any]:
    trial = {name: value for name, value in asdict(one.trial).items() if value is not None}
    if error := trial.get("error"):
        trial["error"] = {name: clean_text(text) for name, text in error.items()}
    return {
        "study_id": study_id, "design_id": one.design.design_id, "stage": one.stage, "finalist": one.finalist,
        "fold": one.fold, "repeat": one.repeat, "design": one.design.to_dict(), "trial": trial,
    }  # fmt: skip


def _read(row: dict[str, Any]) -> FinalTrial:
    plain = {name: value for name, value in row["trial"].items() if name in _KNOWN}
    plain["state"] = TrialState(plain["state"])
    plain["history"] = {name: tuple(values) for name, values in plain.get("history", {}).items()}
    plain["confusion"] = tuple(map(tuple, plain.get("confusion", ())))
    if plain.get("error"):
        plain["error"] = TrialError(**plain["error"])
    return FinalTrial(
        stage=row["stage"], finalist=row["finalist"], design=Design.from_dict(row["design"]),
        fold=row["fold"], repeat=row["repeat"], trial=Trial(**plain),
    )  # fmt: skip


_KNOWN = frozenset(field.name for field in fields(Trial))
"""What a trial holds now: another version may have written more."""
