"""A parallel training as a job: its files lie in the job's directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnflow.events import Listener
from dnnflow.settings import Settings
from dnnflow.train_pipeline import TrainPipeline
from dnnflow.web.jobs import Job


def run_train(job: Job, settings: Settings, *, continued: bool, listener: Listener) -> Mapping[str, Any]:
    """Train and write model, history and report; return what of it pages show."""
    from dnnflow.train_stages import run_training, write_trained

    pipeline = with_places(job.request["pipeline"], job.path, continued=continued)
    done, trained = run_training(pipeline, settings, listener=listener)
    write_trained(trained, done)
    rows, files = trained.history.rows, done.files
    return {
        "rows": trained.history.samples,
        "seconds_s": trained.history.seconds_s,
        "last": rows[-1] if rows else None,
        "model": files.out.name,
        "report": files.report.name if files.report else None,
    }


def with_places(plain: Mapping[str, Any], directory: Path, *, continued: bool) -> TrainPipeline:
    """Return the pipeline with its files, and a checkpoint to go on from, in the job's directory."""
    outputs = {"model": str(directory / "model.keras"), "report": str(directory / "report.html"),
               "history": str(directory / "history.json")}  # fmt: skip
    parallel = dict(plain.get("parallel") or {})
    parallel.setdefault("checkpoint", str(directory / "checkpoint"))
    if continued and Path(parallel["checkpoint"]).is_dir():
        parallel["restore"] = True
    return TrainPipeline.model_validate({**plain, "outputs": outputs, "parallel": parallel})
