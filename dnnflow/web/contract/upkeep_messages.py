"""Define what is sent and answered where studies are named, cloned and deleted."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dnnflow.results.store.run_record import MOST_NAME, MOST_NOTE, MOST_TAG, MOST_TAGS
from dnnflow.web.contract.replies import ApiReply


class ApiRequest(BaseModel):
    """Base of bodies: unknown keys are refused."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class StudyMarks(ApiRequest):
    """What a person calls a study; what is absent or null stays as it is."""

    name: str | None = Field(default=None, max_length=MOST_NAME, examples=["iris, wider"])
    """A name for people; blanks around it go."""
    note: str | None = Field(default=None, max_length=MOST_NOTE)
    """A note; an empty one removes it."""
    tags: list[Annotated[str, Field(min_length=1, max_length=MOST_TAG)]] | None = Field(
        default=None, max_length=MOST_TAGS, examples=[["paper", "kept"]]
    )
    """All tags, words without blanks and commas; an empty list removes them."""


class CloneRequest(ApiRequest):
    """How a clone differs from its study."""

    changes: dict[str, Any] = Field(default_factory=dict, examples=[{"designs": 500}])
    """A part of a pipeline, laid over the study's; of `dataset.source` an upload, `upload:ID`."""


class CleanRequest(ApiRequest):
    """Which studies and trainings are old."""

    older_than_days: float = Field(ge=0, le=36500, examples=[30])
    """Since the last change of a run."""
    tag: str | None = Field(default=None, max_length=MOST_TAG)
    """Only runs with this tag."""
    datasets: bool = False
    """Whether to delete their datasets where no other run uses them, and, without `tag`, older ones that none
    uses."""
    dry_run: bool = True
    """Whether only to say what would be deleted."""


class StudyDisk(ApiReply):
    """What a study takes on disk, in bytes."""

    files_bytes: int
    """Predictions, weights, models, report, log."""
    rows_bytes: int
    """Its trials in the results store, about."""
    dataset_bytes: int
    """Its dataset, which other studies may use as well."""


class DeletedRun(ApiReply):
    """A study or training that was deleted, or would be."""

    run_id: str
    """What was its id."""
    name: str
    """What it was called."""
    freed_bytes: int
    """What it took for itself, about."""
    dataset_kept: str | None
    """Why its dataset stays, where that was to go as well."""


class Cleaned(ApiReply):
    """What was deleted, or would be."""

    dry_run: bool
    """Whether nothing was deleted."""
    runs: list[DeletedRun]
    """Studies and trainings, the newest first."""
    datasets: list[str]
    """Ids of datasets."""
    freed_bytes: int
    """In all, about."""
