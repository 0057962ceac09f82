"""Command the process that drives a run to pause, to go on or to stop, and see whether it did."""

import time

from dnnflow.errors import StudyError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState
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
    record = store.run(study_id)
    return record.is_driven and record.command is Command.PAUSE


def request(store: Store, run_id: str, command: Command, *, answer_s: float = ANSWER_S) -> str:
    """Send a command to a run, wait for it to happen, and return what happened in words.

    Raises
    ------
    StudyError
        If the run has finished, or is a training, which is not paused.
    """
    record = store.run(run_id)
    if record.state is RunState.FINISHED:
        raise StudyError(
            f"what is paused, resumed or cancelled has designs left, got study {run_id}, which has "
            f"finished; dnnflow show {run_id} shows it"
        )
    if record.state.has_ended and not record.is_driven:
        return f"study {run_id} is stopped: no process trains it; dnnflow resume {run_id} goes on"
    if record.kind is RunKind.TRAINING and command is not Command.CANCEL:
        raise StudyError(
            f"what is paused or resumed is a study, got training {run_id}; dnnflow cancel stops it"
        )
    store.send_command(run_id, command)
    deadline = time.monotonic() + answer_s
    while time.monotonic() < deadline:
        record = store.run(run_id)
        if _happened(record, command):
            break
        if not record.is_driven and record.queued_s is None:
            return (
                f"study {run_id} has no process that trains it now: one that is about to will "
                f"{command.value}; dnnflow resume {run_id} trains it here"
            )
        time.sleep(LOOK_S)
    return _answer(store, record, command)


def _happened(record: RunRecord, command: Command) -> bool:
    if record.state.has_ended:
        return True
    return command is not Command.CANCEL and record.acknowledged is command


def _answer(store: Store, record: RunRecord, command: Command) -> str:
    run_id, trials = record.run_id, sum(store.counts(record.run_id).values())
    done = (
        f"{trials:,} of {record.n_designs:,} designs trained" if record.has_designs else "nothing trained yet"
    )
    if record.state is RunState.FINISHED:
        return f"study {run_id} has finished before, {done}"
    if not _happened(record, command):
        return f"study {run_id} was asked to {command.value}, its process has not obeyed yet; {done}"
    if record.state.has_ended:
        command = Command.CANCEL
    return f"study {run_id} {DONE[command]}, {done}{HOW_ON[command].format(run_id)}"
