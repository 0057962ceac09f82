"""Train what a study hands out once more after its test, on all rows: for new ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design
from dnnflow.errors import DataError, NotFoundError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.results.view.finals import Finals
from dnnflow.results.view.study_view import metric_of_study
from dnnflow.results.view.tested import Tested
from dnnflow.run.ensemble_model import KeptNetwork, build_mean, described, model_id, with_temperature
from dnnflow.run.final_stage import (
    MAX_SEED,
    FinalTask,
    FinalTraining,
    options_of,
    parts_of,
    refit_task,
)
from dnnflow.run.models.saved_model import read_about, write_model
from dnnflow.run.study import driven
from dnnflow.table.columns.split import Part

if TYPE_CHECKING:
    from dnnflow.execute.executor import Executor
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study

_FIRST_SEED = 1_000_000
"""Added to a design's seed: further than any fold, of which 100 times 100 add up to 110,000."""


@dataclass(frozen=True)
class FinalModel:
    """What is trained on all rows: the designs of one model that was tested, each with seeds of its own."""

    study: "Study"
    tested: Tested
    """The model before: of the same designs, without the test rows."""
    tasks: tuple[FinalTask, ...]
    shares: tuple[float, ...]
    """Of the output, task by task."""

    @classmethod
    def of(cls, study: "Study", tested: Tested, finals: Finals) -> "FinalModel":
        """Return that of the ensemble, or of a finalist, which is a single network.

        A member of the ensemble has as many networks as it had trainings. Where these had folds, they have
        folds of all rows: each stops by the rows that it holds out. Folds by group or time are known of the
        training rows only, and where there is one holdout, most rows are in all trainings: then each network
        is fitted to all rows, for the epochs that its trainings found.
        """
        designs, counts = {design.design_id: design for design in study.designs}, dict(finals.ensemble)
        parts = parts_of(study, options_of(study))
        if tested.kind == "design":
            counts, parts = {str(tested.design_id): 1}, [(Part(holdout=0.0), 0)]
        marks = study.dataset.marks()
        is_folded = parts[0][0].folds is not None and marks.groups is None and marks.times is None
        tasks: list[FinalTask] = []
        for one in counts:
            design = designs[one]
            tasks += _folds(design, parts) if is_folded else _refits(design, finals, len(parts))
        total = sum(counts.values()) * len(parts)
        return cls(study, tested, tuple(tasks), tuple(counts[one.finalist] / total for one in tasks))

    @property
    def path(self) -> Path:
        """The file."""
        return self.study.settings.workspace.final_model(self.study.id)

    @property
    def rows(self) -> int:
        """All rows with a label."""
        return sum(self.study.dataset.rows.values())

    @property
    def name(self) -> str:
        """The model in words."""
        networks = f" ({len(self.tasks)} networks)" if len(self.tasks) > 1 else ""
        return f"{self.tested.short}{networks}, trained on all {self.rows:,} rows"

    @property
    def networks(self) -> tuple[KeptNetwork, ...]:
        """Its networks, where their weights are kept."""
        workspace, study_id = self.study.settings.workspace, self.study.id
        return tuple(
            KeptNetwork(task.design, workspace.final_weights(study_id, task.design.design_id), share)
            for task, share in zip(self.tasks, self.shares, strict=True)
        )

    @property
    def model_id(self) -> str:
        """Hash of what it is."""
        return model_id(self.networks, self.tested.temperature, self.tested.thresholds)

    @property
    def is_written(self) -> bool:
        """Whether the file is there, of the same networks."""
        try:
            return bool(read_about(self.path).get("model_id") == self.model_id)
        except (NotFoundError, DataError):
            return False

    def write(self) -> bool:
        """Write the file; return whether the weights for it are kept.

        Temperature and thresholds are those of the tested model: no row is left to find others on.
        """
        study, dataset, tested = self.study, self.study.dataset, self.tested
        model = build_mean(study, self.networks)
        if model is None:
            return False
        if tested.temperature != 1.0:
            model = with_temperature(model, tested.temperature, dataset.task, dataset.n_features)
        record = {
            "study_id": study.id, "design_id": tested.design_id, "model_id": self.model_id, "name": self.name,
            "metric": metric_of_study(study.record).name, "rows": self.rows,
            "tested_before": tested.to_dict(), "thresholds": tested.thresholds,
            "calibration": dict(tested.calibration),
            **described(self.networks),
        }  # fmt: skip
        write_model(self.path, model, dataset, record)
        return True


def train_final_model(
    study: "Study", view: "StudyView", executor: "Executor", listener: Listener = ignore
) -> FinalModel | None:
    """Train what is to be taken for new rows on all rows and save it; None where that cannot be.

    What is there already of the same networks stays. Stopping it loses no stored training; the next call goes
    on with what is missing, and comes to the same bits.

    Raises
    ------
    StudyStopped
        If somebody asks for it meanwhile.
    StudyError
        If another living process trains this study.
    """
    final = None
    tested, finals = view.taken, view.finals
    if study.dataset.weights is not None and study.dataset.test_weights is None:
        listener(Notice(
            "a model on all rows needs a weight >= 0 for each of them, got test rows without; take the "
            "models that were tested, or add the weights to the table"
        ))  # fmt: skip
    elif tested is not None and finals is not None:
        final = FinalModel.of(study, tested, finals)
        if not final.is_written:
            networks = len(final.tasks)
            listener(Notice(f"{networks:,} trainings on all {final.rows:,} rows; evaluation.all_rows: false "
                            "leaves them out"))  # fmt: skip
            _train(final, executor, listener)
            if not final.write():
                listener(Notice(f"no model on all rows is saved: not all of its {len(final.tasks)} trainings "
                                f"completed; dnnflow resume {study.id} --failed repeats them"))  # fmt: skip
                final = None
    study.store.tell(study.id, outcome={
        **(study.record.outcome or {}),
        "final": None if final is None else {"rows": final.rows, "model_id": final.model_id},
    })  # fmt: skip
    return final


def _train(final: FinalModel, executor: "Executor", listener: Listener) -> None:
    study = final.study
    with driven(study) as control:
        _forget_others(final)
        FinalTraining(study, final.tasks, listener).run(executor, control)


def _forget_others(final: FinalModel) -> None:
    """Forget trainings on all rows for another model: a stack's bits are those of all its members."""
    study, wanted = final.study, {task.design.design_id for task in final.tasks}
    trained = study.store.final_trials(study.id)
    if any(one.stage == "final" and one.design.design_id not in wanted for one in trained):
        others = {one.design.design_id for one in trained if one.stage != "final"}
        study.store.forget_final_trials(study.id, but=others)


def _refits(design: Design, finals: Finals, count: int) -> Iterator[FinalTask]:
    """Yield trainings on all rows, for as many epochs as the finalist's trainings kept."""
    refit = refit_task(design, finals)
    for number in range(count):
        yield replace(refit, stage="final", design=_seeded(refit.design, design.seed, number))


def _folds(design: Design, parts: Sequence[tuple[Part, int]]) -> Iterator[FinalTask]:
    """Yield trainings that hold out a fold of all rows each."""
    for number, (part, repeat) in enumerate(parts):
        yield FinalTask("final", design.design_id, _seeded(design, design.seed, number), part, repeat)


def _seeded(design: Design, first: int, number: int) -> Design:
    return replace(design, seed=(first + _FIRST_SEED + number) % MAX_SEED)
