"""Train portions on an executor as a study's control allows: pause, go on, stop."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from dnnflow.engines.records import Outcome, Portion
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import StudyStopped
from dnnflow.events import Command, Listener, Notice
from dnnflow.execute.control import Control, Stopped
from dnnflow.results.store.store import Store

if TYPE_CHECKING:
    from dnnflow.execute.executor import Executor


class TrialLoop(ABC):
    """Trainings of a study, stored as they come."""

    def __init__(self, store: Store, study_id: str, job: StudyContext, listener: Listener) -> None:
        self._store_of_runs, self._study_id, self._job, self._listener = store, study_id, job, listener
        self._stored: set[str] = set()
        """Ids of designs that are trained."""
        self._began_s = time.monotonic()

    def _train_all(self, executor: "Executor", portions: Sequence[Portion], control: Control) -> None:
        """Train what is not stored.

        Raises
        ------
        StudyStopped
            If the control says so before all are trained.
        LostStudyError
            If another process drives the study by now.
        """
        left = list(portions)
        while left := [portion for portion in left if not self._has(portion)]:
            control.check()
            if control.command is Command.CANCEL:
                raise self._stopped()
            if control.command is Command.PAUSE:
                self._pause(control)
            else:
                with suppress(Stopped):
                    self._train(executor, left, control)
                self._report(force=True)

    def _train(self, executor: "Executor", portions: Sequence[Portion], control: Control) -> None:
        """Store every batch of outcomes before the next is awaited."""
        batches = executor.train(
            portions,
            self._job,
            keep_above=self._keep_above,
            control=control,
            listener=self._listener,
        )
        with closing(batches):  # an error here, or Ctrl-C, stops what is in flight
            for outcomes in batches:
                self._store([x for x in outcomes if x.trial.design_id not in self._stored])

    def _has(self, portion: Portion) -> bool:
        return all(design.design_id in self._stored for design in portion.designs)

    def _pause(self, control: Control) -> None:
        """Wait while the command is to pause; the time is none of the training's."""
        store, study_id, paused_s = self._store_of_runs, self._study_id, time.monotonic()
        store.acknowledge(study_id, Command.PAUSE)
        self._listener(Notice(f"paused by request, {self._progress()}; dnnflow resume {study_id} goes on"))
        control.wait()
        self._began_s += time.monotonic() - paused_s
        if control.command is Command.RUN:
            store.acknowledge(study_id, Command.RUN)
            self._listener(Notice("goes on by request"))

    def _stopped(self) -> StudyStopped:
        study_id = self._study_id
        return StudyStopped(f"a study is trained while it is wanted, got a request to stop study {study_id}, "
                            f"{self._progress()}; dnnflow resume {study_id} goes on")  # fmt: skip

    @abstractmethod
    def _keep_above(self) -> float:
        """Return the score from which on weights come along."""

    @abstractmethod
    def _store(self, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes of designs that are not stored yet."""

    @abstractmethod
    def _progress(self) -> str:
        """Say how far it is."""

    @abstractmethod
    def _report(self, *, force: bool = False) -> None:
        """Tell how far it is, not too often."""
