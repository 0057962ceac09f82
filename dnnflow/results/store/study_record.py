"""A study as the results store keeps it."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dnnflow.errors import ConflictError, InputError


class StudyState(StrEnum):
    """Where a study stands."""

    RUNNING = "running"
    """Begun and not yet ended; whether a process drives it now, `Store.driver` says."""
    FINISHED = "finished"
    """Every design has a trial."""
    STOPPED = "stopped"
    """Interrupted by a person; it can be continued."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self is StudyState.FINISHED


class Wanted(StrEnum):
    """What is wanted of a study that is not finished; who trains it obeys within a second."""

    RUN = "run"
    PAUSE = "pause"
    """Nothing more is handed out; the process and its cluster wait."""
    CANCEL = "cancel"
    """What is in flight is stopped, and the process ends; what has been stored stays."""


_STUDY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def new_study_id() -> str:
    """Return a random URL-safe study id of 16 characters, which never looks like an option (`-x`)."""
    while True:
        study_id = secrets.token_urlsafe(12)
        if study_id[0].isalnum():
            return study_id


def check_study_id(study_id: str) -> None:
    """Look whether a study may have this id; it becomes a part of URLs and the name of a directory.

    Raises
    ------
    InputError
        If it may not.
    """
    if not _STUDY_ID.fullmatch(study_id):
        raise InputError(
            "a study's id is 1 to 64 letters, digits, _ and -, beginning with a letter or a digit, "
            f"got {study_id!r}; leave it out for a random id"
        )


def taken_id(study_id: str) -> ConflictError:
    """Return what is raised for the id of another study."""
    return ConflictError(f"a new study has an id of its own, got {study_id}, which another study has; "
                         "leave it out for a random id")  # fmt: skip


def utc_now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """One dataset and the designs to train on it."""

    study_id: str = field(default_factory=new_study_id)
    """Random and URL-safe; what a user follows the study by."""
    key: str
    """Hash of dataset, designs and training settings: equal keys are the same study."""
    name: str
    state: StudyState = StudyState.RUNNING
    created_at: str = field(default_factory=utc_now)
    """UTC, ISO 8601."""
    updated_at: str = field(default_factory=utc_now)
    """UTC, ISO 8601; the last change of state or the last trial stored."""
    dataset_id: str
    dataset_path: str
    n_designs: int
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """The whole pipeline description, as JSON types."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """What `Dataset.describe()` gave, as JSON types."""
    dashboard: str | None = None
    """URL of the Dask dashboard."""
    wanted: Wanted = Wanted.RUN
    """What a person asked for last."""
    obeyed: Wanted = Wanted.RUN
    """What the process that drives the study has come to: a pause that is wanted takes seconds."""

    def __post_init__(self) -> None:
        if not self.study_id:
            raise InputError("a study has an id, got an empty one; leave it out for a random id")
        if self.n_designs < 0:
            raise InputError(f"a study has 0 or more designs, got {self.n_designs}")
