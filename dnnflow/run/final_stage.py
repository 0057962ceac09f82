"""Train the best designs of a screen again with folds and seeds, and refit what is handed out.

What is trained follows from the screen alone, by arithmetic and not by the clock: a study that goes on trains
what is missing, and comes to the same numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.design.layers import Design
from dnnflow.engines.records import FinalOptions, Outcome, Portion
from dnnflow.engines.scoring import in_units
from dnnflow.errors import InputError
from dnnflow.events import FinalsProgress, Listener, Notice, Stage, ignore
from dnnflow.execute.portions import plan_study
from dnnflow.parameters import fields_of
from dnnflow.results.predictions.prediction_matrix import PredictionWriter
from dnnflow.results.store.database import waited
from dnnflow.results.store.final_trials import FinalStage, FinalTrial
from dnnflow.results.view.finals import Finals, refitted
from dnnflow.results.view.study_view import load_finals
from dnnflow.run.models.saved_model import write_weights
from dnnflow.run.study import driven
from dnnflow.run.trial_loop import TrialLoop
from dnnflow.table.columns.split import Part
from dnnflow.table.store.whole_dataset import WholeDataset

if TYPE_CHECKING:
    from dnnflow.execute.executor import Executor
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study

SMALL_ROWS = 5000
"""Training rows up to which finalists have folds."""
FOLDS, SEEDS = 5, 3
LEAST_FINALISTS = 3
"""Trained whatever share of the study they take."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class FinalTask:
    """One training after the screen."""

    stage: FinalStage
    finalist: str
    """Id of the design that the study compares."""
    design: Design
    """What is trained: with a seed of its own, so that no two trainings of a study are the same design."""
    part: Part
    repeat: int = 0

    @property
    def all_rows(self) -> bool:
        """Whether it is trained on the test rows, too."""
        return self.stage == "final"


def options_of(study: "Study") -> FinalOptions:
    """Return how a study's best are trained again."""
    return FinalOptions(**fields_of(FinalOptions, study.pipeline.evaluation))


def options_told(study: "Study") -> dict[str, Any]:
    """Return what of a pipeline says what is handed out, and is no part of a study's key; JSON types."""
    return {**options_of(study).model_dump(mode="json"), "models": study.pipeline.outputs.models}


def parts_of(study: "Study", options: FinalOptions) -> list[tuple[Part, int]]:
    """Return the rows that each training of a finalist holds out, and the number of its seed.

    Raises
    ------
    InputError
        If there are fewer rows, groups or instants than the folds that were asked for.
    """
    dataset, settings = study.dataset, study.job().settings
    folds = options.folds or (FOLDS if dataset.rows["train"] <= SMALL_ROWS else None)
    if folds is not None:
        parts = [(Part(folds=folds, fold=fold, repeat=repeat), repeat)
                 for repeat in range(options.repeats) for fold in range(folds)]  # fmt: skip
        try:
            dataset.part(parts[0][0])
        except InputError:
            if options.folds is not None:
                raise
        else:
            return parts
    return [(Part(holdout=settings.held_share), repeat) for repeat in range(max(SEEDS, options.repeats))]


def finalists_of(view: "StudyView", options: FinalOptions, trainings: int) -> list[str]:
    """Return the ids of the best designs of a screen, as many as their share of the arithmetic allows."""
    wanted = [place.design_id for place in view.screen[: options.finalists]]
    spent, screen = _arithmetic(view, wanted, trainings)
    most = screen * options.finalists_share / (1 - options.finalists_share)
    return wanted[: max(LEAST_FINALISTS, int(np.searchsorted(spent, most, side="right")))]


def share_of(view: "StudyView", finalists: Sequence[str], trainings: int) -> float:
    """Return the share of a study's arithmetic that its finalists take, by the epochs of the screen."""
    spent, screen = _arithmetic(view, finalists, trainings)
    return float(spent[-1] / (spent[-1] + screen)) if len(spent) else 0.0


def _arithmetic(view: "StudyView", finalists: Sequence[str], trainings: int) -> tuple[NDArray[Any], float]:
    """Return operations × epochs of the first finalists together, (finalists,), and of the screen."""
    work = view.trials["flops"].fillna(view.trials["parameters"]).fillna(1).astype(float)
    work *= view.trials["epochs_run"]
    of_design = dict(zip(view.trials["design_id"], work, strict=True))
    return np.cumsum([of_design[one] * (trainings + 1) for one in finalists]), float(work.sum())


def has_finals(study: "Study", view: "StudyView") -> bool:
    """Whether the best of a study's screen are trained again."""
    settings = study.job().settings
    return bool(settings.select_on == "validation" and options_of(study).finalists and view.screen)


def has_final_model(study: "Study", view: "StudyView") -> bool:
    """Whether what a study hands out is trained once more on all rows, after the test."""
    return options_of(study).all_rows and has_finals(study, view) and view.finals is not None


def train_finals(
    study: "Study", view: "StudyView", executor: "Executor", listener: Listener = ignore
) -> Finals | None:
    """Train the finalists with folds, then what is handed out on all training rows; return their order.

    Stopping it loses no stored training; the next call goes on with what is missing.

    Raises
    ------
    StudyStopped
        If somebody asks for it meanwhile.
    StudyError
        If another living process trains this study.
    """
    options = options_of(study)
    parts = parts_of(study, options)
    chosen = finalists_of(view, options, len(parts))
    told = f"{len(chosen)} finalists, {share_of(view, chosen, len(parts)):.0%} of the study's arithmetic"
    if len(chosen) < min(options.finalists, len(view.screen)):
        told += (f": {options.finalists} would take more than {options.finalists_share:.0%}; raise "
                 "evaluation.finalists_share for more")  # fmt: skip
    listener(Notice(told))
    designs = {design.design_id: design for design in study.designs}
    folds = [task for one in chosen for task in _fold_tasks(designs[one], parts)]
    with driven(study) as control:
        _forget_others(study, folds)
        FinalTraining(study, folds, listener).run(executor, control)
        finals = load_finals(study.store, study.record, study.settings.workspace, is_trained=True)
        if finals is not None:
            refits = [refit_task(designs[one], finals) for one in handed_out(study, finals)]
            FinalTraining(study, refits, listener).run(executor, control)
    return finals


def _forget_others(study: "Study", folds: Sequence[FinalTask]) -> None:
    """Forget trainings by other options: they would count for finalists that have folds of their own now."""
    wanted = {task.design.design_id for task in folds}
    trained = [one for one in study.store.final_trials(study.id) if one.stage == "folds"]
    if any(one.design.design_id not in wanted for one in trained):
        study.store.forget_final_trials(study.id, but=wanted)


def handed_out(study: "Study", finals: Finals) -> list[str]:
    """Return the ids of the finalists whose models are saved: the winner, and the first of the order."""
    first = [one.design_id for one in finals.finalists[: study.pipeline.outputs.models]]
    return list(dict.fromkeys([finals.winner, *first]))


def _fold_tasks(design: Design, parts: Sequence[tuple[Part, int]]) -> Iterator[FinalTask]:
    for number, (part, repeat) in enumerate(parts, start=1):
        # Other folds are other trainings: a study whose options change takes none of the others for its own
        seeded = replace(design, seed=(design.seed + number + 1000 * (part.folds or 0)) % MAX_SEED)
        yield FinalTask("folds", design.design_id, seeded, part, repeat)


def refit_task(design: Design, finals: Finals) -> FinalTask:
    """Return the training of a finalist on all training rows, for the epochs that its folds found."""
    to_fit = refitted(design, finals.of(design.design_id).epochs)
    part = Part(holdout=0.0) if not to_fit.watches_validation else Part()
    return FinalTask("refit", design.design_id, replace(to_fit, seed=(design.seed + 1000) % MAX_SEED), part)


class FinalTraining(TrialLoop):
    """Trains tasks of one stage, and keeps weights, predictions and trials, in this order."""

    def __init__(self, study: "Study", tasks: Sequence[FinalTask], listener: Listener) -> None:
        super().__init__(study.store, study.id, study.job(), listener)
        self._study = study
        self._tasks = {task.design.design_id: task for task in tasks}
        self._stage = Stage.FINAL if any(task.all_rows for task in tasks) else Stage.FINALISTS
        self._stored = {one.design.design_id for one in study.store.final_trials(study.id)}
        self._reported = -1
        self._predictions = PredictionWriter(
            study.settings.workspace.final_predictions(study.id), len(tasks), self._truth
        )

    def run(self, executor: "Executor", control: Any) -> None:
        """Train what is missing, portion by portion."""
        portions = list(self._portions())
        self._train_all(executor, portions, control)

    def _portions(self) -> Iterator[Portion]:
        """Yield the tasks of each part as its engine trains them together."""
        settings, all_rows = self._study.job().settings, self._stage is Stage.FINAL
        dataset = WholeDataset.of(self._study.dataset) if all_rows else self._study.dataset
        by_part: dict[Part, list[Design]] = {}
        for task in self._tasks.values():
            by_part.setdefault(task.part, []).append(task.design)
        for part, designs in by_part.items():
            for portion in plan_study(designs, settings, lambda: dataset).portions:
                yield replace(portion, part=part, all_rows=all_rows)

    def _keep_above(self) -> float:
        return -math.inf

    def _store(self, outcomes: Sequence[Outcome]) -> None:
        study, found, predicted = self._study, [], {}
        for outcome in outcomes:
            task = self._tasks[outcome.trial.design_id]
            if outcome.weights:
                path = study.settings.workspace.final_weights(study.id, task.design.design_id)
                waited(partial(write_weights, path, outcome.weights))
            if outcome.predicted is not None and task.stage == "folds":
                predicted[task.design.design_id] = self._in_rows(outcome.predicted, task.part)
            found.append(
                FinalTrial(task.stage, task.finalist, task.design, task.part.fold, task.repeat, outcome.trial)
            )
        waited(lambda: self._predictions.append(predicted))
        waited(lambda: study.store.add_final_trials(study.id, found))
        self._stored |= {one.design.design_id for one in found}
        self._report()

    def _truth(self) -> NDArray[np.integer]:
        part = next(iter(self._tasks.values())).part
        dataset = self._study.dataset
        labels = in_units(dataset.targets, dataset.labels("train"))
        return labels if part.folds is not None else labels[self._study.dataset.part(part)[1]]

    def _in_rows(self, predicted: NDArray[Any], part: Part) -> NDArray[Any]:
        """Return predictions (held rows, outputs) in their places among all training rows, NaN elsewhere."""
        if part.folds is None:
            return predicted
        placed = np.full((self._study.dataset.rows["train"], *predicted.shape[1:]), np.nan, predicted.dtype)
        placed[self._study.dataset.part(part)[1]] = predicted
        return placed

    @property
    def _done(self) -> int:
        return sum(design_id in self._stored for design_id in self._tasks)

    def _progress(self) -> str:
        what = "on all rows" if self._stage is Stage.FINAL else "of finalists"
        return f"with {self._done:,} of {len(self._tasks):,} trainings {what} done"

    def _report(self, *, force: bool = False) -> None:
        if self._done != self._reported:
            self._reported = self._done
            self._listener(FinalsProgress(self._stage, self._done, len(self._tasks)))
