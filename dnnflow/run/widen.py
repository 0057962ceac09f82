"""Make the study that follows another: the same, in a space that goes on where its best designs ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dnnflow.design.edges import Edge, widened
from dnnflow.errors import InputError, NotFoundError, StudyError
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunRecord, mask_credentials
from dnnflow.results.store.store import Store
from dnnflow.results.view.study_view import load_view
from dnnflow.run.clone import require_no_credentials
from dnnflow.run.models.saved_model import read_about
from dnnflow.settings import Settings

SAME = ("dataset", "preprocess", "space", "designs", "strategy", "seed")
"""Parts of a pipeline that say which study it is."""


def widened_pipeline(pipeline: Pipeline, edges: tuple[Edge, ...]) -> Pipeline:
    """Return a pipeline whose space goes on beyond its edges."""
    plain = pipeline.plain()
    return Pipeline.model_validate({**plain, "space": widened(plain.get("space", {}), edges)})


def follow_up(pipeline: Pipeline, settings: Settings) -> tuple[Pipeline, tuple[Edge, ...]]:
    """Return the wider pipeline after the newest study of this one, and where its best designs ended.

    Raises
    ------
    NotFoundError
        If there is no finished study of this pipeline.
    StudyError
        If the best designs lie inside its space.
    """
    with Store(settings.store_url) as store:
        record = study_of(pipeline, store)
        if record is None:
            raise NotFoundError(
                f"a space is widened by what its study found, got no finished study of {pipeline.name}; "
                "run it without --widen first"
            )
        edges = load_view(store, record.run_id, settings.workspace).edges
    require_edges(record, edges)
    return widened_pipeline(pipeline, edges), edges


def require_edges(record: RunRecord, edges: tuple[Edge, ...]) -> None:
    """Look whether there is anything to widen.

    Raises
    ------
    StudyError
        If the best designs lie inside the study's space.
    """
    if not edges:
        raise StudyError(
            f"a space is widened where its best designs lie at its edge, got {record.run_id}, whose lie "
            "inside; add designs or rows instead"
        )


def wider_study(record: RunRecord, edges: tuple[Edge, ...]) -> Pipeline:
    """Return the wider pipeline after a stored study.

    Raises
    ------
    StudyError
        If there is nothing to widen, or its pipeline cannot be run as it is stored.
    """
    require_edges(record, edges)
    require_no_credentials(record, "run its pipeline with --widen")
    try:
        return widened_pipeline(Pipeline.model_validate(record.pipeline), edges)
    except ValidationError as error:
        raise StudyError(
            f"a study is followed by what is stored of it, got {record.run_id}, whose pipeline is of another "
            f"version ({error.error_count()} problems); run its pipeline with --widen"
        ) from error


def space_changes(before: Pipeline, after: Pipeline) -> dict[str, tuple[Any, Any]]:
    """Return how the spaces of two pipelines differ, as they are written: {parameter: (before, after)}."""
    old, new = (_space(one) for one in (before, after))
    names = dict.fromkeys([*new, *old])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _space(pipeline: Pipeline) -> Mapping[str, Any]:
    found: Mapping[str, Any] = pipeline.plain().get("space", {})
    return found


def study_of(pipeline: Pipeline, store: Store, *, finished: bool = True) -> RunRecord | None:
    """Return the newest study of a pipeline; `finished` leaves out those that are not."""
    plain = mask_credentials(pipeline.plain())
    # A study by time is stored with the number of designs that came of it
    same = [name for name in SAME if name != "designs" or pipeline.minutes is None]
    wanted = [plain.get(name) for name in same]
    for record in store.studies():
        if (record.state.is_finished or not finished) and [
            record.pipeline.get(name) for name in same
        ] == wanted:
            return record
    return None


def study_of_file(path: Path, store: Store) -> str:
    """Return the id of the study that a model's file says, or of the newest of a pipeline's file.

    Raises
    ------
    NotFoundError
        If the pipeline was not run.
    InputError
        If the model is none of a study.
    """
    if path.suffix == ".keras":
        if found := read_about(path).get("study_id"):
            return str(found)
        raise InputError(f"a study's model says which study saved it, got {path}, which does not; name the "
                         "study by its id, which dnnflow studies lists")  # fmt: skip
    record = study_of(load_pipeline(path), store, finished=False)
    if record is None:
        raise NotFoundError(
            f"a pipeline's study is there once it was run as it is now, got {path}, which was not; "
            f"dnnflow run {path}, or name a study by its id, which dnnflow studies lists"
        )
    return record.run_id
