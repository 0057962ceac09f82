"""Asking the process that trains a study to pause, to go on or to stop, and seeing whether it did."""

import time

from dnnflow.errors import StudyError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store

ANSWER_S = 15.0
"""How long an answer is waited for: a pause lets what is in flight end, which may take some seconds."""
LOOK_S = 0.2

DONE = {Command.RUN: "goes on", Command.PAUSE: "is paused", Command.CANCEL: "is stopped"}
HOW_ON = {
    Command.RUN: "",
    Command.PAUSE: "; dnnflow resume {0} goes on, dnnflow cancel {0} stops it",
    Command.CANCEL: "; dnnflow resume {0} goes on",
}


def is_paused(store: Store, study_id: str) -> bool:
    """Whether a living process that drives a study was asked to pause."""
    return store.command(study_id) is Command.PAUSE and store.driver(study_id) is not None


def request(store: Store, study_id: str, wanted: Command, *, answer_s: float = ANSWER_S) -> str:
    """Say what is wanted of a study, wait for it to happen, and return what happened in words.

    Raises
    ------
    StudyError
        If the study has finished.
    """
    record = store.study(study_id)
    if record.state is RunState.FINISHED:
        raise StudyError(
            f"what is paused, resumed or cancelled has designs left, got study {study_id}, which has "
            f"finished; dnnflow show {study_id} shows it"
        )
    if record.state is RunState.STOPPED and store.driver(study_id) is None:
        return f"study {study_id} is stopped: no process trains it; dnnflow resume {study_id} goes on"
    store.send_command(study_id, wanted)
    deadline = time.monotonic() + answer_s
    while time.monotonic() < deadline:
        is_driven = store.driver(study_id) is not None  # asked first: a process says how it ended, then ends
        if _happened(record := store.study(study_id), wanted):
            break
        if not is_driven:
            return (
                f"study {study_id} has no process that trains it now: one that is about to will "
                f"{wanted.value}; dnnflow resume {study_id} trains it here"
            )
        time.sleep(LOOK_S)
    return _answer(store, record, wanted)


def _happened(record: RunRecord, wanted: Command) -> bool:
    if record.state is not RunState.RUNNING:
        return True
    return wanted is not Command.CANCEL and record.acknowledged is wanted


def _answer(store: Store, record: RunRecord, wanted: Command) -> str:
    study_id, trials = record.study_id, sum(store.counts(record.study_id).values())
    done = f"{trials:,} of {record.n_designs:,} designs trained"
    if record.state is RunState.FINISHED:
        return f"study {study_id} has finished before, {done}"
    if not _happened(record, wanted):
        return f"study {study_id} was asked to {wanted.value}, its process has not obeyed yet; {done}"
    if record.state is RunState.STOPPED:
        wanted = Command.CANCEL
    return f"study {study_id} {DONE[wanted]}, {done}{HOW_ON[wanted].format(study_id)}"
