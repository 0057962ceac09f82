"""Describe a run as the results store keeps it: what was asked for, where it stands, what came of it."""

import difflib
import json
import math
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from dnnflow.design.layers import Design
from dnnflow.errors import ConflictError, InputError, NotFoundError
from dnnflow.events import Command, utc_now
from dnnflow.paths import canonical_json

SILENT_AFTER_S = 30.0
"""A driver on another host counts as gone once its last heartbeat is older than this."""

FIRST_PID_SPACE = 0xEFFFFFFC
"""Of the processes of a machine that are in no container (linux/proc_ns.h)."""

START_TOLERANCE_S = 2.0
"""A process' start time is derived from the clock, which may be set a little between two looks."""

MOST_NAME, MOST_NOTE, MOST_TAG, MOST_TAGS = 80, 10_000, 40, 50
"""Characters of a name, a note and a tag; tags of a run."""

_TAG = re.compile(rf"[^\s,\x00-\x1f\x7f]{{1,{MOST_TAG}}}")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RunKind(StrEnum):
    """What a run does."""

    STUDY = "study"
    TRAINING = "training"


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Asked for, and not yet begun."""
    RUNNING = "running"
    """Begun and not yet ended; whether a process drives it now, `RunRecord.is_driven` says."""
    FINISHED = "finished"
    """Nothing is left to do; of a study: every design has a trial."""
    STOPPED = "stopped"
    """Ended by a person; it can be continued."""
    FAILED = "failed"
    """Ended by an error; it can be continued."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self is RunState.FINISHED

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens unless somebody asks for it."""
        return self in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One row of the table `runs`: a study or a training that somebody asked for."""

    run_id: str = field(default_factory=lambda: new_study_id())
    """Random and URL-safe; what a user follows the run by."""
    kind: RunKind = RunKind.STUDY
    name: str
    note: str | None = None
    """What a person wrote about it."""
    tags: Sequence[str] = field(default_factory=list)
    """Words by which a person finds it."""
    state: RunState = RunState.RUNNING
    command: Command = Command.RUN
    """What a person asked for last."""
    acknowledged: Command = Command.RUN
    """What the process that drives the run has come to: a pause that is asked for takes seconds."""
    is_driven: bool = False
    """Whether a living process drove it when the row was read."""
    created_at: str = field(default_factory=utc_now)
    """UTC, ISO 8601; when it was asked for."""
    started_at: str | None = None
    """When it was begun first."""
    ended_at: str | None = None
    updated_at: str = field(default_factory=utc_now)
    """The last change of state or the last trial stored."""
    queue: str | None = None
    """Who was asked to run it; None for the process that asked for it."""
    queued_s: float | None = None
    """When it was queued, in seconds since 1970: a queue is worked off in this order. None where a process
    went on with it by itself."""
    deaths: int = 0
    """How often its process died without an answer since it was queued."""
    key: str = ""
    """Of a study: hash of dataset, designs and training settings; empty until the table is preprocessed."""
    dataset_id: str = ""
    dataset_path: str = ""
    n_designs: int = 0
    stage: str | None = None
    """What it does now, in words."""
    progress: Mapping[str, Any] | None = None
    """The last `TrialsStored` or `TrainingProgress`, as JSON types."""
    dashboard: str | None = None
    """URL of the Dask dashboard."""
    run_url: str | None = None
    """Page of the Prefect run."""
    error: str | None = None
    """Rule, value, remedy; of a run that failed."""
    outcome: Mapping[str, Any] | None = None
    """Of a finished training: its history's last row, the model's and the report's file."""
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """The whole description, as JSON types, with credentials masked."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """What `Dataset.describe()` gave, as JSON types."""

    def __post_init__(self) -> None:
        if not self.run_id:
            raise InputError("a run has an id, got an empty one; leave it out for a random id")
        if self.n_designs < 0:
            raise InputError(f"a study has 0 or more designs, got {self.n_designs}")

    @property
    def study_id(self) -> str:
        """The id of the study, which is the run's."""
        return self.run_id

    @property
    def is_open(self) -> bool:
        """Whether a process is at it, or a supervisor or a Prefect server answers for it."""
        return self.is_driven or (self.queued_s is not None and self.ended_at is None)

    @property
    def standing(self) -> RunState:
        """Where it stands for a person: one whose process died, and that nobody is to begin, has stopped."""
        is_left = self.state is RunState.RUNNING and not self.is_driven and self.queued_s is None
        return RunState.STOPPED if is_left else self.state

    @property
    def label(self) -> str | None:
        """Names of the columns that a study predicts; None where that is not known."""
        label = self.dataset.get("label")
        return ", ".join(map(str, label)) if isinstance(label, list | tuple) else label

    @property
    def has_designs(self) -> bool:
        """Whether it is a study whose table is preprocessed and whose designs are drawn."""
        return bool(self.key)


def new_study_id() -> str:
    """Return a random URL-safe id of 16 characters, which never looks like an option (`-x`)."""
    while True:
        study_id = secrets.token_urlsafe(12)
        if study_id[0].isalnum():
            return study_id


def check_study_id(study_id: str) -> None:
    """Look whether a run may have this id; it becomes a part of URLs and the name of a directory.

    Raises
    ------
    InputError
        If it may not.
    """
    if not _RUN_ID.fullmatch(study_id):
        raise InputError(
            "a study's id is 1 to 64 letters, digits, _ and -, beginning with a letter or a digit, "
            f"got {study_id!r}; leave it out for a random id"
        )


def brought_up(plain: Mapping[str, Any], *, is_begun: bool = False) -> dict[str, Any]:
    """Return the pipeline of an older dnnflow as one of today; of a begun study it says what went without."""
    evaluation: dict[str, Any] = {"select_on": "test"} if is_begun else {}
    found = dict(plain)
    for section, old, new in (("training", "validation_fraction", "holdout"),
                              ("dataset", "test_fraction", "test_fraction")):  # fmt: skip
        if plain.get(section):
            found[section] = {name: value for name, value in plain[section].items() if name != old}
            if value := plain[section].get(old):
                evaluation[new] = value
    return {**found, "evaluation": evaluation} if evaluation else found


def taken_id(study_id: str) -> ConflictError:
    """Return what is raised for the id of another study."""
    return ConflictError(f"a new study has an id of its own, got {study_id}, which another study has; "
                         "leave it out for a random id")  # fmt: skip


def check_name(name: str) -> str:
    """Return a run's name without blanks around it.

    Raises
    ------
    InputError
        If there is none, or it is too long.
    """
    plain = " ".join(name.split())
    if not 0 < len(plain) <= MOST_NAME:
        raise InputError(f"a study's name has 1 to {MOST_NAME} characters, got {len(plain)}; shorten it")
    return plain


def check_note(note: str) -> str | None:
    """Return a note without blanks around it; None of an empty one.

    Raises
    ------
    InputError
        If it is too long.
    """
    plain = note.strip()
    if len(plain) > MOST_NOTE:
        raise InputError(f"a note has {MOST_NOTE:,} characters or less, got {len(plain):,}; shorten it")
    return plain or None


def check_tags(tags: Iterable[str]) -> list[str]:
    """Return tags without repeats, in their order.

    Raises
    ------
    InputError
        If one is no tag, or there are too many.
    """
    found = list(dict.fromkeys(tags))
    for tag in found:
        if not _TAG.fullmatch(tag):
            raise InputError(f"a tag has 1 to {MOST_TAG} characters without blanks and commas, got "
                             f"{tag[: 2 * MOST_TAG]!r}; write two words as two tags")  # fmt: skip
    if len(found) > MOST_TAGS:
        raise InputError(f"a study has at most {MOST_TAGS} tags, got {len(found)}; remove some")
    return found


def several_fit(study_id: str, fitting: Sequence[RunRecord]) -> NotFoundError:
    """Return what is raised for a name that several studies have, or the beginning of several ids."""
    names = ", ".join(f"{record.run_id} ({record.name})" for record in fitting)
    return NotFoundError(f"a study is found by its id, a unique beginning of it or its name, got "
                         f"{study_id!r}, which fits {names}; type one of these ids")  # fmt: skip


def study_not_found(study_id: str, known: Sequence[str] = ()) -> NotFoundError:
    """Return what is raised for an id that no study has; names the nearest of those known."""
    near = difflib.get_close_matches(study_id, known, n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    return NotFoundError(f"a study is found by its id, a unique beginning of it or its name, got "
                         f"{study_id!r}{meant} `dnnflow studies` lists them")  # fmt: skip


def safe_link(address: str | None) -> str | None:
    """Return an address that is safe to be followed, or None."""
    return address if address and address.startswith(("http://", "https://")) else None


def mask_credentials(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pipeline as JSON types with the credentials of its table's file system masked."""
    dataset = plain.get("dataset") or {}
    options = dataset.get("storage_options")
    if not options:
        return dict(plain)
    return {**plain, "dataset": {**dataset, "storage_options": dict.fromkeys(options, "…")}}


def finite(value: Any) -> Any:
    """Return JSON types without NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def designs_blob(designs: Sequence[Design]) -> bytes:
    """Return what the store keeps of a study's designs."""
    lines = "\n".join(canonical_json(design.to_dict()) for design in designs)
    return zlib.compress(lines.encode(), level=3)


def designs_of_blob(blob: bytes) -> list[Design]:
    """Return the designs of what `designs_blob` gave."""
    return [Design.from_dict(json.loads(line)) for line in zlib.decompress(blob).decode().splitlines()]


def own_host() -> str:
    """Name where this process runs, so that processes of one name see each other's numbers.

    Containers may share a host's name and still number their processes each for itself.
    """
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # another system than Linux
        return socket.gethostname()
    return socket.gethostname() if space == FIRST_PID_SPACE else f"{socket.gethostname()} ({space:x})"


@dataclass(frozen=True)
class Driver:
    """One process, told apart from a later one with the same number by when it began."""

    host: str
    """See `own_host`."""
    pid: int
    started_s: float
    """Seconds since 1970, UTC."""

    @classmethod
    def this_process(cls) -> "Driver":
        """Describe the calling process."""
        return cls(own_host(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> "Driver":
        """Read what `str(driver)` gave."""
        host, pid, started_s = text.rsplit(":", 2)
        return cls(host, int(pid), float(started_s))

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started_s:.3f}"

    def same_process(self, other: "Driver") -> bool:
        """Whether both mean the same process."""
        near = abs(self.started_s - other.started_s) < START_TOLERANCE_S
        return near and (self.host, self.pid) == (other.host, other.pid)

    def is_alive(self, silent_s: float) -> bool:
        """Whether the process still runs; of another host only its silence is known.

        Parameters
        ----------
        silent_s : float
            Seconds since its last heartbeat.
        """
        if self.host != own_host():
            return silent_s < SILENT_AFTER_S
        try:
            process = psutil.Process(self.pid)
            running = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return running and abs(process.create_time() - self.started_s) < START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it exists and belongs to somebody else
            return silent_s < SILENT_AFTER_S
