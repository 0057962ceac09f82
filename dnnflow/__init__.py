"""dnnflow: which network design works best on your table, found by training thousands of them on Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnnflow.api import ingest, open_study, run_study
    from dnnflow.data.dataset import Dataset
    from dnnflow.design.layers import Design, Layer
    from dnnflow.design.space import Space
    from dnnflow.models import load_model
    from dnnflow.parallel.settings import Algorithm, OptimizerSpec, RateSchedule
    from dnnflow.parallel.train import train
    from dnnflow.pipeline import Pipeline
    from dnnflow.pipeline_file import load_pipeline
    from dnnflow.study import Study

_NAMES = {
    "ingest": "dnnflow.api",
    "open_study": "dnnflow.api",
    "run_study": "dnnflow.api",
    "Dataset": "dnnflow.data.dataset",
    "Design": "dnnflow.design.layers",
    "Layer": "dnnflow.design.layers",
    "Space": "dnnflow.design.space",
    "load_model": "dnnflow.models",
    "Algorithm": "dnnflow.parallel.settings",
    "OptimizerSpec": "dnnflow.parallel.settings",
    "RateSchedule": "dnnflow.parallel.settings",
    "train": "dnnflow.parallel.train",
    "Pipeline": "dnnflow.pipeline",
    "load_pipeline": "dnnflow.pipeline_file",
    "Study": "dnnflow.study",
}

__all__ = [
    "Algorithm", "Dataset", "Design", "Layer", "OptimizerSpec", "Pipeline", "RateSchedule", "Space", "Study",
    "ingest", "load_model", "load_pipeline", "open_study", "run_study", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import dnnflow` itself loads nothing heavy."""
    if name not in _NAMES:
        raise AttributeError(f"module 'dnnflow' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)
