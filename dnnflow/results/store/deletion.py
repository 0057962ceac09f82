"""Tell what runs and datasets take on disk, and delete them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dnnflow.errors import StudyError
from dnnflow.paths import Workspace, disk_bytes, remove_directory
from dnnflow.results.store.run_record import RunRecord, check_study_id
from dnnflow.results.store.store import Store

_DATASET_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_FRAME = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}\.arrow")


@dataclass(frozen=True)
class DiskUse:
    """What a run takes on disk; `_bytes`."""

    files_bytes: int
    """Of predictions, weights, models, report and log."""
    rows_bytes: int
    """Of its trials in the results store, about."""
    dataset_bytes: int
    """Of its dataset, and of the table in memory that it was made of; other studies may use them as well."""

    @property
    def own_bytes(self) -> int:
        """What deleting the run gives back."""
        return self.files_bytes + self.rows_bytes


@dataclass(frozen=True)
class DeletionPlan:
    """What goes when some runs are deleted, and what it gives back."""

    runs: list[tuple[RunRecord, int]]
    """With the bytes that each takes for itself."""
    datasets: dict[Path, int]
    """Directories of datasets and files of tables that were given in memory, and their bytes."""
    kept: dict[str, str]
    """Why the dataset of a run stays that was to go as well, by the run's id."""

    @property
    def freed_bytes(self) -> int:
        """What the disk gets back, about."""
        return sum(taken for _, taken in self.runs) + sum(self.datasets.values())


def disk_uses(store: Store, workspace: Workspace, records: Sequence[RunRecord]) -> list[DiskUse]:
    """Return what each of some runs takes."""
    rows = store.row_bytes(records[0].run_id if len(records) == 1 else None)
    datasets = {one: disk_bytes(workspace.dataset(one)) for one in {record.dataset_id for record in records}
                if _DATASET_ID.fullmatch(one)}  # fmt: skip
    return [
        DiskUse(sum(map(disk_bytes, _folders(workspace, one.run_id))), rows.get(one.run_id, 0),
                datasets.get(one.dataset_id, 0) + sum(map(disk_bytes, _frames(workspace, one))))
        for one in records
    ]  # fmt: skip


def unused_datasets(store: Store, workspace: Workspace) -> list[Path]:
    """Return the datasets, and tables that were given in memory, that no run uses.

    None while a run prepares its table, which may be one of them.
    """
    records = store.runs()
    if any(_is_prepared(one) for one in records):
        return []
    used = {one.dataset_id for one in records}
    read = {path for one in records for path in _frames(workspace, one)}
    datasets = [path for path in sorted(workspace.datasets.glob("*"))
                if path.is_dir() and path.name not in used and _DATASET_ID.fullmatch(path.name)]  # fmt: skip
    return datasets + [path for path in sorted(workspace.frames.glob("*.arrow")) if path not in read]


def _frames(workspace: Workspace, record: RunRecord) -> list[Path]:
    """Return the tables that were given in memory which a run's pipeline names."""
    names = dict.fromkeys(_FRAME.findall(json.dumps(dict(record.pipeline), default=str)))
    return [path for name in names if (path := workspace.frames / name).is_file()]


def plan_deletion(store: Store, workspace: Workspace, records: Sequence[RunRecord], *, datasets: bool = False,
                  unused_before: datetime | None = None) -> DeletionPlan:  # fmt: skip
    """Say what goes when runs are deleted: rows, predictions, weights, models, reports and logs.

    Files that their pipelines named elsewhere stay, and so do the tables that datasets were made of, but for
    those that were given in memory and kept for them.

    Parameters
    ----------
    datasets
        Whether to delete their datasets, and tables that were given in memory, where no other run uses them.
    unused_before
        Whether to delete datasets that were made before and that no run uses.

    Raises
    ------
    StudyError
        If one of the runs waits or goes on.
    """
    if going := [one.run_id for one in records if one.is_open]:
        raise StudyError(f"what is deleted has ended, got {', '.join(going)}, which waits or is running; "
                         f"dnnflow cancel {going[0]} first")  # fmt: skip
    taken = [use.own_bytes for use in disk_uses(store, workspace, records)]
    paths, kept = list[Path](), dict[str, str]()
    others = [one for one in store.runs() if one.run_id not in {record.run_id for record in records}]
    for record in records if datasets else ():
        paths += _free_frames(workspace, record, records, others)
        if not record.has_designs:
            continue
        if why := _why_kept(record, workspace, others):
            kept[record.run_id] = why
        else:
            paths.append(workspace.dataset(record.dataset_id))
    if unused_before is not None:
        paths += [path for path in unused_datasets(store, workspace)
                  if _changed(path) < unused_before]  # fmt: skip
    sizes = {path: disk_bytes(path) for path in dict.fromkeys(paths)}
    return DeletionPlan(list(zip(records, taken, strict=True)), sizes, kept)


def carry_out(plan: DeletionPlan, store: Store, workspace: Workspace) -> None:
    """Delete what a plan names; a dataset that a run uses by now stays.

    Raises
    ------
    StudyError
        If one of the runs goes on by now; those before it are deleted.
    StoreError
        If a file cannot be removed.
    """
    for record, _ in plan.runs:
        check_study_id(record.run_id)  # it becomes a path
        store.delete(record.run_id)
        for folder in _folders(workspace, record.run_id):
            remove_directory(folder)
    if plan.runs and not any(one.is_driven for one in store.runs()):  # who trains does not wait for it
        store.shrink()
    if plan.datasets:
        for path in unused_datasets(store, workspace):
            if path in plan.datasets:
                remove_directory(path)


def _free_frames(
    workspace: Workspace, record: RunRecord, records: Sequence[RunRecord], others: Sequence[RunRecord]
) -> Iterator[Path]:
    """Yield the tables of a run, given in memory, that nobody needs who is not deleted."""
    newest = max(_newest(one) for one in records)
    for path in _frames(workspace, record):
        is_taken = _changed(path) > newest  # by a search that has no row yet
        if not is_taken and not any(path in _frames(workspace, one) for one in others):
            yield path


def _why_kept(record: RunRecord, workspace: Workspace, others: Sequence[RunRecord]) -> str | None:
    """Say why a run's dataset stays when the run is deleted; None where nothing speaks for it."""
    path = workspace.dataset(record.dataset_id)
    if Path(record.dataset_path).absolute() != path.absolute() or not _DATASET_ID.fullmatch(path.name):
        return "it lies elsewhere"
    for other in others:
        if other.dataset_id == record.dataset_id:
            return f"{other.kind} {other.run_id} uses it"
        if _is_prepared(other):
            return f"{other.kind} {other.run_id} is being prepared and may use it"
    return None


def _is_prepared(record: RunRecord) -> bool:
    """Whether a run may read a dataset that its row does not name: a training never does."""
    return record.is_open and not record.has_designs


def old_runs(store: Store, before: datetime, tag: str | None = None) -> Iterator[RunRecord]:
    """Yield the runs that have ended, with nothing new since a time, and a tag where one is given."""
    for record in store.runs():
        if _newest(record) < before and not record.is_open and (tag is None or tag in record.tags):
            yield record


def _newest(record: RunRecord) -> datetime:
    """Return when something of a run changed last."""
    moments = (record.ended_at, record.updated_at, record.created_at)
    return max(_moment(one) for one in moments if one)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _folders(workspace: Workspace, run_id: str) -> list[Path]:
    return [workspace.study(run_id), workspace.launch(run_id)]
