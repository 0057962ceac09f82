"""Keep studies in order: the commands `delete`, `clean`, `rename`, `note`, `tag` and `clone`."""

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnnflow.errors import InputError
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.results.store.deletion import DeletionPlan
    from dnnflow.results.store.run_record import RunRecord
    from dnnflow.results.store.store import Store

UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MOST_AGE_S = 100 * 365 * 86400

StudyId = Annotated[str, typer.Argument(help="A study's id, the beginning of it, or its name.", metavar="ID")]
StudyIds = Annotated[
    list[str], typer.Argument(help="Ids of studies, beginnings of them, or names.", metavar="ID…")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WithDatasets = Annotated[
    bool, typer.Option("--datasets", help="Delete datasets as well that no other study uses.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def delete(
    study_ids: StudyIds, datasets: WithDatasets = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Delete studies: their trials, predictions, weights, models and reports. Asks before."""
    from dnnflow.results.store.deletion import plan_deletion
    from dnnflow.results.store.store import Store

    settings = Settings.from_environment()
    with Store(settings.store_url) as store:
        records = {record.run_id: record for record in map(store.run, study_ids)}
        plan = plan_deletion(store, settings.workspace, list(records.values()), datasets=datasets)
        _delete(plan, store, settings, yes=yes, as_json=as_json)


def clean(
    older_than: Annotated[
        str, typer.Option(help="Age of the last change: 30d; also w, h and m.", metavar="AGE")
    ],
    tag: Annotated[str | None, typer.Option(help="Only studies with this tag.")] = None,
    datasets: WithDatasets = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the studies in which nothing has changed for a time. Asks before."""
    from dnnflow.results.store.deletion import old_runs, plan_deletion
    from dnnflow.results.store.store import Store

    settings = Settings.from_environment()
    before = datetime.now(UTC) - timedelta(seconds=seconds_of(older_than))
    with Store(settings.store_url) as store:
        plan = plan_deletion(store, settings.workspace, list(old_runs(store, before, tag)), datasets=datasets,
                             unused_before=before if datasets and tag is None else None)  # fmt: skip
        _delete(plan, store, settings, yes=yes, as_json=as_json, dry_run=dry_run)


def seconds_of(age: str) -> float:
    """Return the seconds of an age as it is typed, e.g. `30d`.

    Raises
    ------
    InputError
        If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age.strip().lower())
    seconds_s = float(found[1]) * UNITS_S[found[2]] if found else -1.0
    if not 0 <= seconds_s <= MOST_AGE_S:
        raise InputError(f"an age is a number of minutes, hours, days or weeks (90m, 12h, 30d, 4w) up to a "
                         f"hundred years, got {age!r}; write for example --older-than 30d")  # fmt: skip
    return seconds_s


def _delete(plan: "DeletionPlan", store: "Store", settings: Settings, *, yes: bool, as_json: bool,
            dry_run: bool = False) -> None:  # fmt: skip
    """Say what goes, ask, and delete it."""
    from dnnflow.results.store.deletion import carry_out
    from dnnflow.show.terminal import show_deletion
    from dnnflow.show.wording import size_in_words

    if not as_json:
        show_deletion(plan)
    is_empty = not plan.runs and not plan.datasets
    if not dry_run and not is_empty:
        _confirm(yes=yes, as_json=as_json)
        carry_out(plan, store, settings.workspace)
    if as_json:
        runs = [{"study_id": one.run_id, "name": one.name, "freed_bytes": taken,
                 "dataset_kept": plan.kept.get(one.run_id)} for one, taken in plan.runs]  # fmt: skip
        datasets = [{"path": str(path), "freed_bytes": taken} for path, taken in plan.datasets.items()]
        told = {"dry_run": dry_run, "deleted": runs, "datasets": datasets, "freed_bytes": plan.freed_bytes}
        _print(json.dumps(told, indent=2))
    elif not is_empty:
        _print(f"{'would free' if dry_run else 'freed'} about {size_in_words(plan.freed_bytes)}")


def _confirm(*, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise InputError("a deletion is confirmed by a person or by --yes, got neither; add --yes")
    if not typer.confirm("Delete all of this? It cannot be undone.", default=False):
        _print("nothing was deleted")
        raise typer.Exit(1)


def rename(
    study_id: StudyId, name: Annotated[str, typer.Argument(help="A name for people, up to 80 characters.")],
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give a study another name; `dnnflow report` then writes its report anew."""
    _describe(study_id, as_json, name=name)


def note(
    study_id: StudyId, text: Annotated[str, typer.Argument(help="The note; an empty one removes it.")],
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Write a note beside a study, in place of the one before."""
    _describe(study_id, as_json, note=text)


def _describe(study_id: str, as_json: bool, **marks: str) -> None:
    from dnnflow.results.store.store import Store

    with Store(Settings.from_environment().store_url) as store:
        _tell_marks(store.describe(store.run(study_id).run_id, **marks), as_json)


def tag(
    study_id: StudyId,
    tags: Annotated[
        list[str] | None, typer.Argument(help="Words to find it by; none: those it has.", metavar="TAG…")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take these tags away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add tags to a study, or take them away; `dnnflow studies --tag` finds it by one."""
    from dnnflow.results.store.store import Store

    if remove and not tags:
        raise InputError("tags are removed by name, got none; name them before --remove")
    with Store(Settings.from_environment().store_url) as store:
        record = store.run(study_id)
        if remove and (unknown := [one for one in tags or () if one not in record.tags]):
            has = ", ".join(record.tags) or "none"
            raise InputError(f"a tag is removed that the study has ({has}), got {', '.join(unknown)}; "
                             "name one of them")  # fmt: skip
        given = tags or ()
        store.tag(record.run_id, add=() if remove else given, remove=given if remove else ())
        _tell_marks(store.run(record.run_id), as_json)


def _tell_marks(record: "RunRecord", as_json: bool) -> None:
    marks = {"study_id": record.run_id, "name": record.name, "note": record.note, "tags": list(record.tags)}
    if as_json:
        _print(json.dumps(marks, indent=2))
        return
    _print(f"study  {record.run_id}\nname   {record.name}")
    if record.tags:
        _print(f"tags   {', '.join(record.tags)}")
    if record.note:
        _print(f"note   {record.note}")


def cloned(study_id: str, overrides: "Sequence[str]", save: Path | None) -> "Pipeline | None":
    """Return a study's pipeline with changes; None where it was written to a file instead."""
    from dnnflow.paths import write_file
    from dnnflow.pipeline.pipeline_file import to_yaml
    from dnnflow.results.store.store import Store
    from dnnflow.run.clone import clone

    with Store(Settings.from_environment().store_url) as store:
        pipeline = clone(store.run(study_id), overrides)
    if save is None:
        return pipeline
    if save.exists():
        raise InputError(f"a clone is saved to a new file, got {save}, which exists; name another")
    write_file(save, to_yaml(pipeline))
    _print(f"wrote {save}; dnnflow run {save} trains it")
    return None


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
