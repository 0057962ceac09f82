"""Train what is missing of a study: everything is stored, the best are kept."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnnflow.design.layers import Design, activations_of
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.records import Outcome, Portion, Trial, TrialState
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import DamagedError, LostStudyError, StoreError
from dnnflow.events import (
    Listener,
    Notice,
    StudyBegun,
    TrialResult,
    TrialsEnded,
    TrialsStored,
    announced,
    ignore,
)
from dnnflow.execute.control import Control, control_from
from dnnflow.execute.portions import StudyPlan, designs_of, plan_study
from dnnflow.pipeline.pipeline_checks import validate_leniently
from dnnflow.pipeline.study_pipeline import DatasetSection, Pipeline
from dnnflow.results.predictions.prediction_matrix import MAX_BYTES, PredictionWriter
from dnnflow.results.store.database import patient, waited
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.results.view.study_view import StudyView, load_view
from dnnflow.run.models.saved_model import BestWeights, LeaderboardKey
from dnnflow.run.time_left import TimeLeft, expected_times
from dnnflow.run.trial_loop import TrialLoop
from dnnflow.settings import Settings
from dnnflow.table.store.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd

    from dnnflow.execute.executor import Executor

NEEDED_TO_GO_ON = ("training", "evaluation", "executor", "outputs")
"""Sections of a stored pipeline that a study goes on with."""
STORED = ("design_id", "state", "score", "parameters", "error_type")
"""What a study that goes on needs to know of the trials that it has."""
DESIGNS_PER_SHARD = 50
PORTIONS_PER_SHARD = 8
"""At the end of a shard workers wait for the last portion: they should have had several before."""
MAX_SHARDS = 10
PROGRESS_S = 0.2
"""Progress is reported at most this often."""


class Shard(NamedTuple):
    """A part of a study's designs that is one task run."""

    number: int
    """1 for the first."""
    of: int


@dataclass(frozen=True)
class Study:
    """One dataset × many designs, in the store. Safe to open in several processes; one at a time trains."""

    store: Store
    settings: Settings
    study_id: str

    @property
    def record(self) -> RunRecord:
        """The study as the store has it now."""
        return self.store.study(self.study_id)

    @property
    def id(self) -> str:
        """The random id by which a person follows the study."""
        return self.study_id

    @property
    def about(self) -> list[tuple[str, str]]:
        """Return what the study is, as names and values for a person."""
        facts = [
            ("Study", self.id),
            ("Label", self.record.label),
            ("Engine", self.pipeline.training.engine),
        ]
        return [(name, str(value)) for name, value in facts if value is not None]

    @property
    def key(self) -> str:
        """Hash of dataset, designs and training settings: what makes two studies the same."""
        return self.record.key

    @cached_property
    def pipeline(self) -> Pipeline:
        """The description of the study; of one that another version stored, what is understood today."""
        return read_stored(self.record.pipeline)

    @cached_property
    def designs(self) -> list[Design]:
        """Every design of the study, in its order."""
        return self.store.designs(self.study_id)

    @cached_property
    def dataset(self) -> Dataset:
        """The preprocessed table."""
        return Dataset.open(Path(self.record.dataset_path))

    @cached_property
    def plan(self) -> StudyPlan:
        """What is trained together; made of all designs of the study, whatever has been trained before."""
        return plan_study(self.designs, self.job().settings, lambda: self.dataset)

    @property
    def is_finished(self) -> bool:
        """Whether all its stages have ended well."""
        return self.record.state is RunState.FINISHED

    @property
    def is_trained(self) -> bool:
        """Whether every design has a trial, and a study by time knows how many it has."""
        return (
            self.pipeline.minutes is None
            and sum(self.store.counts(self.study_id).values()) >= self.record.n_designs
        )

    def missing(self, shard: tuple[int, int] | None = None) -> list[Design]:
        """Return the designs without a trial; `shard` (i, n) looks at the i-th of n parts only."""
        finished = self.store.finished(self.study_id)
        designs = self.designs if shard is None else designs_of(self.plan.shard(*shard))
        return [design for design in designs if design.design_id not in finished]

    def trials(self) -> "pd.DataFrame":
        """Return one row a finished trial: the design's parameters, metrics, times, errors."""
        return self.store.frame(self.study_id)

    def view(self) -> StudyView:
        """Return leaderboard, marginals, curves and failures, ready to be shown."""
        return load_view(self.store, self.study_id, self.settings.workspace)

    @property
    def best(self) -> "pd.Series[Any] | None":
        """The best completed trial's row of `trials()`, or None."""
        frame = self.trials()
        frame = frame[frame["state"] == TrialState.COMPLETED.value]
        if frame.empty:
            return None
        return frame.sort_values(["score", "parameters", "design_id"], ascending=[False, True, True]).iloc[0]

    def train(self, executor: "Executor", *, shard: tuple[int, int] | None = None,
              ends_s: float | None = None, listener: Listener = ignore) -> None:  # fmt: skip
        """Train the designs that are missing and store their trials as they come.

        Stopping it (Ctrl-C, or a crash) loses no stored trial; the next call goes on with what is missing.
        A stack with a missing member is trained whole, so that its numbers are those of the first attempt;
        members that have a trial keep it.

        Parameters
        ----------
        ends_s
            When the designs of a study by time should be trained, those of later rounds too, as
            `time.monotonic` counts.

        Raises
        ------
        StudyStopped
            If somebody asks for it meanwhile (`dnnflow cancel`).
        StudyError
            If another living process trains this study.
        """
        if self.record.state is RunState.STOPPED and shard is None:
            self.store.start(self.study_id)
        with self.store.driving(self.study_id):
            missing = self.missing(shard)
            try:
                if missing:
                    if shard is None or shard[0] == 0:
                        self._require_sound_dataset()
                    self.store.set_state(self.study_id, RunState.RUNNING)
                    self.store.tell(self.study_id, dashboard=executor.dashboard)
                    plan = self.plan
                    if ends_s is not None:  # a round has stacks of its own: none is trained twice
                        plan = plan_study(missing, self.job().settings, lambda: self.dataset)
                    elif plan.summary and (shard is None or shard[0] == 0):
                        listener(Notice(plan.summary))
                    with driven(self) as control:
                        StudyTraining(self, listener, ends_s).run(
                            executor, plan.containing(missing, shard), control
                        )
            except LostStudyError:  # its state is the other's
                raise
            except BaseException:
                with suppress(StoreError), patient(None):
                    self.store.set_state(self.study_id, RunState.STOPPED)
                raise

    def _require_sound_dataset(self) -> None:
        """Look whether the rows that a study goes on with are those that it began with."""
        if not sum(self.store.counts(self.study_id).values()):
            return
        try:
            self.dataset.verify()
        except DamagedError as error:
            raise DamagedError(
                f"{error}: the command that began study {self.study_id} does so, and goes on with it"
            ) from error

    def grow(self, designs: Sequence[Design]) -> None:
        """Give a study by time the designs of its next round, which those that it has begin."""
        self.store.grow(self.study_id, designs)
        for name in ("designs", "plan"):
            self.__dict__.pop(name, None)

    def settle(self, designs: int) -> None:
        """Say that a study by time has all its designs: its pipeline has their number from now on."""
        record = self.record
        plain = {name: value for name, value in record.pipeline.items() if name != "minutes"}
        pipeline = {**plain, "designs": designs}
        self.store.renew(self.study_id, pipeline=pipeline, dataset_path=record.dataset_path)
        self.__dict__.pop("pipeline", None)

    def forget_failed(self) -> int:
        """Forget the trials that did not complete, so that they are trained again; return how many.

        Finalists are then trained anew, too: others may be among the best.
        """
        with self.store.driving(self.study_id):
            forgotten = self.store.forget_failed(self.study_id)
            forgotten += sum(not one.is_completed for one in self.store.final_trials(self.study_id))
            if forgotten:
                self.store.forget_final_trials(self.study_id)
                self.store.set_state(self.study_id, RunState.STOPPED)
        return forgotten

    def job(self) -> StudyContext:
        """Return what every task of this study needs to know."""
        pipeline = self.pipeline
        return StudyContext(
            dataset=self.record.dataset_path,
            settings=pipeline.training_settings,
            device=pipeline.training.device,
            import_paths=(pipeline.space.code_folder,) if pipeline.space.code_folder else (),
            activations=activations_of(self.designs),
        )


@contextmanager
def driven(study: Study) -> Iterator[Control]:
    """Drive a study in this process for the block; yields what is commanded meanwhile.

    Raises
    ------
    StudyError
        If another living process drives it; `LostStudyError` of the control's `check`, if one does later.
    """
    with (
        study.store.driving(study.id) as driver,
        control_from(lambda: study.store.command(study.id, driver)) as control,
    ):
        yield control


def shards(study: Study) -> list[Shard]:
    """Return the parts of a study: several, where each has enough portions to keep its workers busy.

    None of a study that is trained; one of a study by time, whose designs are not known yet.
    """
    if study.is_trained:
        return []
    if study.pipeline.minutes is not None:
        return [Shard(1, 1)]
    designs, portions = len(study.designs), len(study.plan.portions)
    count = min(MAX_SHARDS, math.ceil(designs / DESIGNS_PER_SHARD), max(1, portions // PORTIONS_PER_SHARD))
    return [Shard(number, count) for number in range(1, count + 1)]


def read_stored(plain: Mapping[str, Any]) -> Pipeline:
    """Return a stored pipeline; of one that another version wrote, what is understood today.

    Its designs and its dataset are stored beside it: a study goes on without what they were made from.
    """
    pipeline, _ = validate_leniently(plain)
    if pipeline is None:
        needed = {name: plain[name] for name in NEEDED_TO_GO_ON if name in plain}
        pipeline, _ = validate_leniently(needed)
    return pipeline or Pipeline(dataset=DatasetSection(source="-", label="-"), designs=1)


class StudyTraining(TrialLoop):
    """One training of a study's missing designs: stores trials, keeps the best weights, reports progress."""

    def __init__(self, study: Study, listener: Listener, ends_s: float | None = None) -> None:
        super().__init__(study.store, study.id, study.job(), listener)
        self._study, self._ends_s = study, ends_s
        self._designs = {design.design_id: design for design in study.designs}
        frame = study.store.frame(study.id, columns=STORED)
        completed = frame[frame["state"] == TrialState.COMPLETED.value]
        keys = [LeaderboardKey.of(*row) for row in completed[["design_id", "score", "parameters"]].to_numpy()]
        self._stored = set(frame["design_id"])
        self._before = [self._result_of_row(row) for row in frame.to_dict("records")]
        self._completed, self._failed, self._trained = len(completed), len(frame) - len(completed), 0
        self._best = min(keys, default=None)
        directory = study.settings.workspace.weights_directory(study.id)
        self._keeper = BestWeights(directory, study.pipeline.outputs.models, _repeated(study.designs))
        by_id = {key.design_id: key for key in keys}
        for design_id in frame["design_id"]:
            self._keeper.count(design_id, by_id.get(design_id))
        self._predictions = PredictionWriter(
            study.settings.workspace.predictions(study.id),
            len(self._designs),
            lambda: TrainingRows(study.dataset, study.job().settings).measured_labels(),
        )
        self._time_left = TimeLeft(expected_times(study.designs, study.dataset), self._stored)
        self._reported_s, self._reported = 0.0, -1

    def run(self, executor: "Executor", portions: Sequence[Portion], control: Control) -> None:
        """Train portions on an executor, as the control allows.

        Raises
        ------
        StudyStopped
            If it says so before all are trained.
        """
        study = self._study
        begun = StudyBegun(study.record.name, study.about, len(self._designs), self._before, executor.client)
        with announced(begun, self._listener):
            self._train_all(executor, portions, control)

    def _keep_above(self) -> float:
        return self._keeper.threshold()

    def _progress(self) -> str:
        return f"with {self._completed + self._failed:,} of {len(self._designs):,} designs trained"

    def _store(self, outcomes: Sequence[Outcome]) -> None:
        trials = [outcome.trial for outcome in outcomes]
        waited(lambda: self._keep_predictions(outcomes))
        keys = []
        for outcome, trial in zip(outcomes, trials, strict=True):
            key = None
            if trial.score is not None:
                key = LeaderboardKey.of(trial.design_id, trial.score, trial.parameters)
                keys.append(key)
            waited(partial(self._keeper.count, trial.design_id, key, outcome.weights))
        # The weights of the best are on disk before their trial counts as done
        pairs = [(self._designs[trial.design_id], trial) for trial in trials]
        waited(lambda: self._study.store.add_trials(self._study.id, pairs))
        self._stored |= {trial.design_id for trial in trials}
        self._completed, self._trained = self._completed + len(keys), self._trained + len(trials)
        self._failed += len(trials) - len(keys)
        self._best = min([*keys, *([self._best] if self._best else [])], default=None)
        self._time_left.observe([trial.design_id for trial in trials], time.monotonic() - self._began_s)
        self._listener(TrialsEnded([self._result(trial) for trial in trials]))
        self._report()

    def _keep_predictions(self, outcomes: Sequence[Outcome]) -> None:
        writer, was_too_large = self._predictions, self._predictions.is_too_large
        writer.append({one.trial.design_id: one.predicted for one in outcomes if one.predicted is not None})
        if writer.is_too_large and not was_too_large:
            self._listener(Notice(
                f"predictions of {len(self._designs):,} designs would take over {MAX_BYTES >> 20} MiB and "
                "are not kept: designs are compared by their accuracies alone"
            ))  # fmt: skip

    def _result(self, trial: Trial) -> TrialResult:
        error = trial.error.type if trial.error else ""
        return _result(self._designs[trial.design_id], trial.score, error)

    def _result_of_row(self, row: Mapping[Any, Any]) -> TrialResult:
        score = float(row["score"]) if row["state"] == TrialState.COMPLETED.value else None
        error = row["error_type"]
        return _result(self._designs[row["design_id"]], score, error if isinstance(error, str) else "")

    def _report(self, *, force: bool = False) -> None:
        elapsed_s = time.monotonic() - self._began_s
        is_soon = elapsed_s - self._reported_s < PROGRESS_S
        if self._reported == self._trained or (is_soon and not force):
            return
        self._reported_s, self._reported = elapsed_s, self._trained
        rate = self._trained / elapsed_s if elapsed_s > 0 else 0.0
        best = self._best
        self._listener(
            TrialsStored(
                total=len(self._designs),
                completed=self._completed,
                failed=self._failed,
                elapsed_s=elapsed_s,
                rate=rate,
                eta_s=self._time_left.estimate(elapsed_s)
                if self._ends_s is None
                else max(0.0, self._ends_s - time.monotonic()),
                best_score=-best.minus_score if best else None,
                best_design=self._designs[best.design_id].describe() if best else None,
            )
        )


def _repeated(designs: Sequence[Design]) -> dict[str, list[str]]:
    """Return by the id of each design with several seeds the ids of it with all, the lowest seed first."""
    if len({design.seed for design in designs}) < 2:
        return {}
    groups: dict[str, list[str]] = {}
    for design in sorted(designs, key=lambda one: one.seed):
        groups.setdefault(design.unseeded_id, []).append(design.design_id)
    return {one: group for group in groups.values() if len(group) > 1 for one in group}


def _result(design: Design, score: float | None, error: str) -> TrialResult:
    depth = None if design.reference else len(design.layers)
    return TrialResult(depth, score, error, design.describe)
