"""Find the models that a study has saved, as files to hand out and to apply."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnnflow.errors import DataError, NotFoundError
from dnnflow.paths import Workspace
from dnnflow.run.saved_model import read_about
from dnnflow.web.contract.replies import ModelInfo

MOST_MODELS = 100
"""A pipeline's `outputs.models` is at most this."""


def model_file(workspace: Workspace, study_id: str, rank: int) -> Path:
    """Return the file of a study's model.

    Raises
    ------
    NotFoundError
        If it was not saved, or is none of ours.
    """
    path = workspace.model(study_id, rank)
    if not path.is_file():
        raise NotFoundError(
            f"a model must have been saved, got rank {rank} of {study_id}; "
            f"models are saved when a study ends, and /api/v1/studies/{study_id}/models lists them"
        )
    try:
        read_about(path)
    except DataError as error:
        raise NotFoundError(
            f"a model must be one that a study saved, got another file at rank {rank}"
        ) from error
    return path


def saved_models(workspace: Workspace, study_id: str) -> list[ModelInfo]:
    """Return a study's models, the best first."""
    found = []
    for rank in range(1, MOST_MODELS + 1):
        path = workspace.model(study_id, rank)
        if path.is_file():
            with suppress(DataError, NotFoundError):
                found.append(_info(path, rank))
    return found


def _info(path: Path, rank: int) -> ModelInfo:
    about = read_about(path)
    tested = about.get("tested") or {}
    score = tested.get("score", tested.get("accuracy", about.get("test_accuracy")))  # as older models have it
    columns = (about.get("preprocessing") or {}).get("columns") or []
    return ModelInfo(
        rank=rank,
        size_bytes=path.stat().st_size,
        classes=[str(name) for name in about.get("class_names") or ()],
        columns=[str(one.get("name")) for one in columns if isinstance(one, dict) and "name" in one],
        design_id=str(about["design_id"]) if about.get("design_id") else None,
        score=float(score) if isinstance(score, int | float) else None,
    )


def rows_to_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return rows as a CSV with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue().encode()
