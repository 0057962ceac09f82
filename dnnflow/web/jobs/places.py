"""Place the files of a parallel training that was started from the web, and read what pages show of them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnflow.pipeline.training_pipeline import TrainPipeline


def with_places(plain: Mapping[str, Any], directory: Path, *, restore: bool) -> TrainPipeline:
    """Return a training whose files lie in a directory, with a checkpoint there to go on from.

    Parameters
    ----------
    restore
        Whether to go on from the checkpoint, if there is one.
    """
    outputs = {
        "model": str(directory / "model.keras"),
        "report": str(directory / "report.html"),
        "history": str(directory / "history.csv"),
    }
    parallel = dict(plain.get("parallel") or {})
    parallel.setdefault("checkpoint", str(directory / "checkpoint"))
    if restore and (Path(parallel["checkpoint"]) / "checkpoint.npz").is_file():
        parallel["restore"] = True
    return TrainPipeline.model_validate({**plain, "outputs": outputs, "parallel": parallel})


def outcome_of(plain: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the last row of a training's history, and its files; None where they cannot be read."""
    files = plain.get("outputs") or {}
    try:
        with Path(files["history"]).open(newline="") as history:
            rows = list(csv.DictReader(history))
    except (OSError, KeyError):
        return None
    return {
        "last": {name: float(value) for name, value in rows[-1].items() if value} if rows else None,
        "model": files["model"],
        "report": files["report"],
    }
