"""Find the models that a study has saved, as files to hand out and to apply."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnflow.engines.metrics import ACCURACY, METRICS
from dnnflow.errors import DataError, NotFoundError
from dnnflow.paths import Workspace
from dnnflow.run.models.saved_model import read_about
from dnnflow.web.contract.replies import ModelInfo

MOST_MODELS = 100
"""A pipeline's `outputs.models` is at most this."""
NAMED = {"ensemble": "the ensemble", "final": "the model on all rows"}
"""Models that have no rank, and what they are in words."""


def model_file(workspace: Workspace, study_id: str, model: str) -> Path:
    """Return the file of a study's model.

    Parameters
    ----------
    model
        A rank, 1 is the best, or one of `NAMED`.

    Raises
    ------
    NotFoundError
        If it was not saved, or is none of ours.
    """
    path = _path(workspace, study_id, model)
    if not path.is_file():
        raise NotFoundError(
            f"a model must have been saved, got {_name(model)} of {study_id}; "
            f"models are saved when a study ends, and /api/v1/studies/{study_id}/models lists them"
        )
    try:
        read_about(path)
    except DataError as error:
        raise NotFoundError(
            f"a model must be one that a study saved, got another file at {_name(model)}"
        ) from error
    return path


def saved_models(workspace: Workspace, study_id: str) -> list[ModelInfo]:
    """Return a study's models: by rank, the best first, then those without a rank."""
    found = []
    for model in [*map(str, range(1, MOST_MODELS + 1)), *NAMED]:
        path = _path(workspace, study_id, model)
        if path.is_file():
            with suppress(DataError, NotFoundError):
                found.append(_info(path, model))
    return found


def _path(workspace: Workspace, study_id: str, model: str) -> Path:
    if model == "final":
        return workspace.final_model(study_id)
    return workspace.ensemble(study_id) if model == "ensemble" else workspace.model(study_id, int(model))


def _name(model: str) -> str:
    return NAMED.get(model, f"rank {model}")


def _info(path: Path, model: str) -> ModelInfo:
    about = read_about(path)
    tested = about.get("tested") or {}
    score = tested.get("score", tested.get("accuracy", about.get("test_accuracy")))  # as older models have it
    metric = METRICS.get(about.get("metric") or ACCURACY.name, ACCURACY)
    columns = (about.get("preprocessing") or {}).get("columns") or []
    return ModelInfo(
        model=model,
        rank=None if model in NAMED else int(model),
        name=str(about.get("name") or tested.get("name") or _name(model)),
        size_bytes=path.stat().st_size,
        classes=[str(name) for name in about.get("class_names") or ()],
        columns=[str(one.get("name")) for one in columns if isinstance(one, dict) and "name" in one],
        design_id=str(about["design_id"]) if about.get("design_id") else None,
        score=float(score) if isinstance(score, int | float) else None,
        text=f"{metric.label} {metric.text(float(score))}" if isinstance(score, int | float) else None,
        is_chosen_there="score" in tested and "selected" in tested and tested["selected"] is None,
    )


def rows_to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return rows as a CSV with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue().encode()
