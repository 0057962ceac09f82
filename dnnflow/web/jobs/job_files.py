"""Jobs of the embedded launcher: one directory each, written by server, supervisor and child alike.

request.json says what is to be run and is written once; state.json where the job stands, changed under one
lock; progress.json and answer.json are written by the child that runs it; log.txt is what that printed.
"""

import fcntl
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dnnflow.errors import NotFoundError
from dnnflow.paths import content_id, write_file
from dnnflow.web.jobs.launching import Launch, LaunchState

_LAUNCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LOG_BYTES = 256 * 1024
"""Of the end of a log that is shown; a file holds up to twice as much."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a job stands."""

    state: LaunchState = LaunchState.QUEUED
    queued_s: float = 0.0
    """When it was queued, in seconds since 1970; jobs are taken in this order."""
    started_at: str | None = None
    ended_at: str | None = None
    error: str | None = None
    deaths: int = 0
    """How often its child died without an answer since it was queued."""
    continued: bool = False
    """Whether it has been begun before."""
    interrupt_s: float | None = None
    """When the child of a cancelled job is to be interrupted, in seconds since 1970."""


@dataclass(frozen=True)
class Job:
    """A job's directory."""

    path: Path

    @property
    def launch_id(self) -> str:
        """Name of the directory."""
        return self.path.name

    @cached_property
    def request(self) -> Mapping[str, Any]:
        """What is to be run: kind, name, created_at, pipeline and digest of the pipeline."""
        return dict(_read(self.path / "request.json"))

    @property
    def standing(self) -> Standing:
        """Where it stands now."""
        data = _read(self.path / "state.json")
        return Standing(**{**data, "state": LaunchState(data["state"])})

    @property
    def progress(self) -> Mapping[str, Any]:
        """What the child last told: stage, dashboard, progress."""
        return dict(_read(self.path / "progress.json", missing={}))

    @property
    def answer(self) -> Mapping[str, Any] | None:
        """How the child ended: state, and error or outcome; None while there is no answer."""
        answer: Mapping[str, Any] | None = _read(self.path / "answer.json", missing=None)
        return answer

    def tell(self, progress: Mapping[str, Any]) -> None:
        """Write what the child does now."""
        write_file(self.path / "progress.json", json.dumps(progress))

    def reply(self, answer: Mapping[str, Any]) -> None:
        """Write how the child ended."""
        write_file(self.path / "answer.json", json.dumps(answer))

    def forget_answer(self) -> None:
        """Remove what an earlier child said."""
        for name in ("answer.json", "progress.json"):
            (self.path / name).unlink(missing_ok=True)

    @property
    def log_file(self) -> Path:
        """What the child printed."""
        return self.path / "log.txt"

    def log(self) -> str:
        """Return the end of what the child printed."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(self.log_file.stat().st_size - LOG_BYTES, 0))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


class Jobs:
    """All jobs below one directory; safe for threads and processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock under which jobs are added and their standing is changed."""
        with locked(self.directory / "changes.lock"):
            yield

    def add(self, launch_id: str, request: Mapping[str, Any]) -> Job:
        """Queue a job; the lock is held."""
        job = Job(self.directory / launch_id)
        job.path.mkdir(mode=0o700)
        write_file(job.path / "state.json", _standing_text(Standing(queued_s=time.time())))
        write_file(job.path / "request.json", json.dumps(request))  # with it, it is there
        return job

    def change(self, job: Job, **changes: Any) -> Standing:
        """Change where a job stands; the lock is held."""
        standing = replace(job.standing, **changes)
        write_file(job.path / "state.json", _standing_text(standing))
        return standing

    def find(self, launch_id: str) -> Job:
        """Return a job.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        job = Job(self.directory / launch_id)
        if not _LAUNCH_ID.fullmatch(launch_id) or not (job.path / "request.json").is_file():
            raise NotFoundError(
                f"a job is found by its id, got {launch_id!r}; GET /api/v1/studies and /api/v1/runs list them"
            )
        return job

    def all(self) -> list[Job]:
        """Return all jobs, in no order."""
        return [Job(path.parent) for path in self.directory.glob("*/request.json")]

    def queue(self) -> list[Job]:
        """Return the jobs that wait, the next one first."""
        waiting = [(job.standing, job) for job in self.all()]
        queued = [(one.queued_s, job) for one, job in waiting if one.state is LaunchState.QUEUED]
        return [job for _, job in sorted(queued, key=lambda pair: (pair[0], pair[1].launch_id))]

    def of_key(self, key: str) -> str | None:
        """Return the id of the job that was made with an idempotency key, or None."""
        found: Mapping[str, Any] = _read(self._key_file(key), missing={})
        return found.get("launch_id")

    def keep_key(self, key: str, launch_id: str) -> None:
        """Keep which job was made with a key; the lock is held."""
        write_file(self._key_file(key), json.dumps({"launch_id": launch_id}))

    def launch(self, job: Job, place: int | None = None) -> Launch:
        """Return a job as pages and API show it."""
        request, standing, told, answer = job.request, job.standing, job.progress, job.answer or {}
        runs = standing.state is LaunchState.RUNNING
        return Launch(
            launch_id=job.launch_id,
            kind=request["kind"],
            name=request["name"],
            state=standing.state,
            created_at=request["created_at"],
            started_at=standing.started_at,
            ended_at=standing.ended_at,
            pipeline=request["shown"],
            stage=told.get("stage") if runs else None,
            queue_place=place,
            error=standing.error,
            dashboard=told.get("dashboard") if runs else None,
            progress=told.get("progress"),
            outcome=answer.get("outcome") if standing.state is LaunchState.FINISHED else None,
        )

    @property
    def supervisor_lock(self) -> Path:
        """The file that a living supervisor holds locked."""
        return self.directory / "supervisor.lock"

    def _key_file(self, key: str) -> Path:
        return self.directory / "keys" / f"{content_id(key)}.json"


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock for the block; yield whether it is held, which is certain with `wait`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _standing_text(standing: Standing) -> str:
    return json.dumps(asdict(standing))


_REQUIRED: Any = object()


def _read(path: Path, missing: Any = _REQUIRED) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        if missing is _REQUIRED:
            raise
        return missing
