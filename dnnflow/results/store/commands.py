"""Command the process that drives a run to pause, to go on or to stop, and see whether it did."""

import time

from dnnflow.errors import StudyError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState
from dnnflow.results.store.store import Store

ANSWER_S = 15.0
"""How long an answer is waited for: a pause lets what is in flight end, which may take some seconds."""
LOOK_S = 0.2
APPEAR_S = 1.0
"""How long a process that has begun a run may take until it drives it."""

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
    named = _named(record)
    if record.state is RunState.FINISHED:
        remedy = f"; dnnflow show {run_id} shows it" if record.has_designs else ""
        raise StudyError(
            f"what is paused, resumed or cancelled has designs left, got {named}, which has finished{remedy}"
        )
    if record.state.has_ended and not record.is_driven:
        return f"{named} is stopped: no process trains it{_how_on(record, Command.CANCEL)}"
    if record.kind is RunKind.TRAINING and command is not Command.CANCEL:
        raise StudyError(f"what is paused or resumed is a study, got {named}; dnnflow cancel stops it")
    store.send_command(run_id, command)
    began_s = time.monotonic()
    deadline = began_s + answer_s
    while time.monotonic() < deadline:
        record = store.run(run_id)
        if _happened(record, command):
            break
        if record.standing is RunState.STOPPED and command is Command.CANCEL:
            if time.monotonic() < began_s + APPEAR_S:  # its process may only just be about to drive it
                time.sleep(LOOK_S)
                continue
            store.end(run_id, RunState.STOPPED)
            return (
                f"{named} is stopped: the process that trained it had gone{_how_on(record, Command.CANCEL)}"
            )
        if not record.is_driven and record.queued_s is None:
            here = f"; dnnflow resume {run_id} trains it here" if record.has_designs else ""
            return (
                f"{named} has no process that trains it now: one that is about to will {command.value}{here}"
            )
        time.sleep(LOOK_S)
    return _answer(store, record, command)


def _happened(record: RunRecord, command: Command) -> bool:
    if record.state.has_ended:
        return True
    return command is not Command.CANCEL and record.acknowledged is command


def _answer(store: Store, record: RunRecord, command: Command) -> str:
    named, done = _named(record), "nothing trained yet"
    if record.kind is RunKind.TRAINING:
        done = "its checkpoints stay"
    elif record.has_designs:
        trials = sum(store.counts(record.run_id).values())
        done = f"{trials:,} of {record.n_designs:,} designs trained"
    if record.state is RunState.FINISHED:
        return f"{named} has finished before, {done}"
    if not _happened(record, command):
        return f"{named} was asked to {command.value}, its process has not obeyed yet; {done}"
    if record.state.has_ended:
        command = Command.CANCEL
    return f"{named} {DONE[command]}, {done}{_how_on(record, command)}"


def _named(record: RunRecord) -> str:
    return f"{record.kind.value} {record.run_id}"


def _how_on(record: RunRecord, command: Command) -> str:
    """Say how a study goes on; the command line resumes no training, and nothing that is no study yet."""
    return HOW_ON[command].format(record.run_id) if record.has_designs else ""
