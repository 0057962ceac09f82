"""Make rows of jobs that an older dnnflow kept as files in directories of their own."""

import fcntl
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnflow.errors import LaunchError
from dnnflow.events import Command
from dnnflow.paths import content_id
from dnnflow.results.store.run_record import (
    RunKind,
    RunRecord,
    RunState,
    brought_up,
    finite,
    mask_credentials,
)
from dnnflow.results.store.store import Store

STATES = {
    "queued": RunState.QUEUED,
    "running": RunState.RUNNING,
    "finished": RunState.FINISHED,
    "failed": RunState.FAILED,
    "cancelled": RunState.STOPPED,
}


def import_jobs(directory: Path, store: Store, queue: str) -> None:
    """Add the jobs of a directory that are not yet in the store; once a job is there, its request is renamed.

    One that ran is as one whose supervisor died: the next supervisor goes on with it. Logs and what trainings
    wrote stay where they are.

    Raises
    ------
    LaunchError
        If a supervisor of the older dnnflow, which outlives its server, still runs one.
    """
    if any(directory.glob("*/request.json")) and _is_supervised(directory):
        raise LaunchError(
            f"jobs of an older dnnflow are taken over once its supervisor has ended, got one that runs those "
            f"of {directory}; wait for it or stop it"
        )
    keys = {_read(path).get("launch_id"): path.stem for path in directory.glob("keys/*.json")}
    for path in directory.glob("*/request.json"):
        request = _read(path)
        if not request:  # another process has just imported it
            continue
        record = _record(path.parent, request, queue)
        store.adopt(
            record,
            idempotency_key=keys.get(record.run_id),
            digest=content_id(request["pipeline"]),
            request=wanted if (wanted := brought_up(request["pipeline"])) != record.pipeline else None,
        )
        with suppress(FileNotFoundError):
            path.rename(path.with_name("imported.json"))


def _is_supervised(directory: Path) -> bool:
    try:
        with (directory / "supervisor.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _record(directory: Path, request: dict[str, Any], queue: str) -> RunRecord:
    standing, told, answer = (_read(directory / f"{name}.json") for name in ("state", "progress", "answer"))
    created_at = request["created_at"]
    return RunRecord(
        run_id=directory.name,
        kind=RunKind.STUDY if request["kind"] == "study" else RunKind.TRAINING,
        name=request["name"],
        state=STATES[standing.get("state", "queued")],
        command=Command.CANCEL if standing.get("state") == "cancelled" else Command.RUN,
        created_at=created_at,
        started_at=standing.get("started_at"),
        ended_at=standing.get("ended_at"),
        updated_at=standing.get("ended_at") or standing.get("started_at") or created_at,
        queue=queue,
        queued_s=standing.get("queued_s", 0.0),
        error=standing.get("error"),
        progress=finite(told.get("progress")),
        outcome=finite(answer.get("outcome")),
        pipeline=mask_credentials(brought_up(request["pipeline"])),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
