"""Say what studies take on disk, clone them and delete them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dnnflow.errors import NotFoundError
from dnnflow.results.store.deletion import (
    DeletionPlan,
    carry_out,
    disk_uses,
    old_runs,
    plan_deletion,
)
from dnnflow.results.store.run_record import RunKind, RunRecord, new_study_id
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.upkeep_messages import Cleaned, CleanRequest, DeletedRun, StudyDisk
from dnnflow.web.jobs.intake import accept_clone
from dnnflow.web.jobs.services import Services


def disk_of(services: Services, record: RunRecord) -> StudyDisk:
    """Return what a study takes."""
    (use,) = disk_uses(services.store, services.settings.workspace, [record])
    return StudyDisk(**vars(use))


def records_of(views: Views, run_ids: Sequence[str]) -> list[RunRecord]:
    """Return the rows of studies and trainings as they stand now.

    Raises
    ------
    NotFoundError
        If there is none of an id.
    """
    found = []
    for run_id in dict.fromkeys(run_ids):
        if (record := views.record(run_id)) is None:
            raise NotFoundError(f"a study is found by its whole id, got {run_id[:64]!r}, which nobody has; "
                                "/api/v1/studies lists them")  # fmt: skip
        found.append(record)
    return found


def deletion_of(services: Services, records: Sequence[RunRecord], *, datasets: bool) -> DeletionPlan:
    """Return what goes when runs are deleted.

    Raises
    ------
    StudyError
        If one of them waits or goes on.
    """
    return plan_deletion(services.store, services.settings.workspace, records, datasets=datasets)


def delete(services: Services, plan: DeletionPlan) -> None:
    """Delete what a plan names; see `carry_out`."""
    carry_out(plan, services.store, services.settings.workspace)


def clean(services: Services, asked: CleanRequest) -> Cleaned:
    """Delete runs in which nothing has changed for a time, or say which these are."""
    before = datetime.now(UTC) - timedelta(days=asked.older_than_days)
    plan = plan_deletion(
        services.store, services.settings.workspace, list(old_runs(services.store, before, asked.tag)),
        datasets=asked.datasets, unused_before=before if asked.datasets and asked.tag is None else None,
    )  # fmt: skip
    if not asked.dry_run:
        delete(services, plan)
    return Cleaned(
        dry_run=asked.dry_run,
        runs=[
            DeletedRun(run_id=one.run_id, name=one.name, freed_bytes=taken,
                       dataset_kept=plan.kept.get(one.run_id)) for one, taken in plan.runs
        ],
        datasets=[path.name for path in plan.datasets],
        freed_bytes=plan.freed_bytes,
    )  # fmt: skip


def start_clone(
    services: Services, views: Views, study_id: str, changes: Any, *, key: str | None = None
) -> RunRecord:
    """Hand over a study of another one's pipeline, with changes.

    Raises
    ------
    NotFoundError
        If there is no such study.
    StudyError
        If its credentials are not stored.
    Refusal
        With everything that is wrong with the changes.
    """
    pipeline = accept_clone(services, views.of_kind(RunKind.STUDY, study_id), changes)
    return services.launcher.launch(pipeline, new_study_id(), key=key)


def marks_of(form: Mapping[str, str]) -> dict[str, Any]:
    """Return what a form says of a study's name, note and tags."""
    tags = form.get("tags", "").replace(",", " ").split()
    return {"name": form.get("name", ""), "note": form.get("note", "").replace("\r\n", "\n"), "tags": tags}
