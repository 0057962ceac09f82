"""Route what keeps studies in order: named, cloned, measured, deleted."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from dnnflow.results.store.run_record import RunKind
from dnnflow.web.answers.request_parts import Key, RunId, StudyId, TheServices, TheViews, problems_of
from dnnflow.web.answers.upkeep import clean, delete, deletion_of, disk_of, start_clone
from dnnflow.web.api.run_routes import created_of
from dnnflow.web.contract.replies import Created, StudyStatus
from dnnflow.web.contract.upkeep_messages import Cleaned, CleanRequest, CloneRequest, StudyDisk, StudyMarks

router = APIRouter(responses=problems_of())

TO_CHANGE = problems_of(400, 403, 404, 408, 409, 413)
WithDataset = Annotated[
    bool, Query(description="Whether to delete its dataset as well, unless another run uses it.")
]


@router.patch(
    "/studies/{study_id}", operation_id="markStudy", summary="Name a study, its note and its tags",
    tags=["studies"], responses=TO_CHANGE,
)  # fmt: skip
def mark_study(study_id: StudyId, marks: StudyMarks, services: TheServices, views: TheViews) -> StudyStatus:
    """Set what is given; asked for again, nothing changes."""
    views.of_kind(RunKind.STUDY, study_id)
    services.store.describe(study_id, **marks.model_dump())
    return views.status(study_id)


@router.delete(
    "/studies/{study_id}", operation_id="deleteStudy", summary="Delete a study", tags=["studies"],
    status_code=HTTPStatus.NO_CONTENT, responses=problems_of(403, 404, 409),
)  # fmt: skip
def delete_study(
    study_id: StudyId, services: TheServices, views: TheViews, datasets: WithDataset = False
) -> None:
    """Delete a study that has ended, with its trials, predictions, weights, models and report."""
    record = views.of_kind(RunKind.STUDY, study_id)
    delete(services, deletion_of(services, [record], datasets=datasets))


@router.get(
    "/studies/{study_id}/disk", operation_id="measureStudy", summary="What a study takes on disk",
    tags=["studies"], responses=problems_of(404),
)  # fmt: skip
def measure_study(study_id: StudyId, services: TheServices, views: TheViews) -> StudyDisk:
    """Return the bytes of a study's files, of its trials, and of its dataset."""
    return disk_of(services, views.of_kind(RunKind.STUDY, study_id))


@router.post(
    "/studies/{study_id}/clone", operation_id="cloneStudy", summary="Start a study of another one's pipeline",
    tags=["studies"], status_code=HTTPStatus.CREATED, responses=TO_CHANGE,
)  # fmt: skip
def clone_study(
    study_id: StudyId, asked: CloneRequest, response: Response, services: TheServices, views: TheViews,
    key: Key = None,
) -> Created:  # fmt: skip
    """Start a study of its own, of the pipeline of another one with changes laid over it."""
    made = start_clone(services, views, study_id, asked.changes, key=key)
    response.headers["Location"] = f"/api/v1/studies/{made.run_id}"
    return created_of(made)


@router.post(
    "/studies/clean", operation_id="cleanStudies", summary="Delete old studies and trainings",
    tags=["studies"], responses=problems_of(400, 403, 408, 409, 413),
)  # fmt: skip
def clean_studies(asked: CleanRequest, services: TheServices) -> Cleaned:
    """Delete what has ended and has not changed for a time; unless told otherwise, only say what that is."""
    return clean(services, asked)


@router.delete(
    "/runs/{run_id}", operation_id="deleteRun", summary="Delete a training", tags=["runs"],
    status_code=HTTPStatus.NO_CONTENT, responses=problems_of(403, 404, 409),
)  # fmt: skip
def delete_run(run_id: RunId, services: TheServices, views: TheViews) -> None:
    """Delete a parallel training that has ended, with its model, history and report."""
    delete(services, deletion_of(services, [views.of_kind(RunKind.TRAINING, run_id)], datasets=False))
