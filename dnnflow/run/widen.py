"""Make the study that follows another: the same, in a space that goes on where its best designs ended."""

from dnnflow.design.edges import Edge, widened
from dnnflow.errors import NotFoundError, StudyError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunRecord, mask_credentials
from dnnflow.results.store.store import Store
from dnnflow.results.view.study_view import load_view
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
        record = _study_of(pipeline, store)
        if record is None:
            raise NotFoundError(
                f"a space is widened by what its study found, got no finished study of {pipeline.name}; "
                "run it without --widen first"
            )
        edges = load_view(store, record.run_id, settings.workspace).edges
    if not edges:
        raise StudyError(
            f"a space is widened where its best designs lie at its edge, got {record.run_id}, whose lie "
            "inside; add designs or rows instead"
        )
    return widened_pipeline(pipeline, edges), edges


def _study_of(pipeline: Pipeline, store: Store) -> RunRecord | None:
    plain = mask_credentials(pipeline.plain())
    wanted = [plain.get(name) for name in SAME]
    for record in store.studies():
        if record.state.is_finished and [record.pipeline.get(name) for name in SAME] == wanted:
            return record
    return None
