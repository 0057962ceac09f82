"""dnnflow: which network design works best on your table, found by training thousands of them on Dask."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from dnnflow.api import OpenStudy as Study
    from dnnflow.api import ingest, open_study, run_study, score, search, train
    from dnnflow.design.layers import Design, Layer
    from dnnflow.design.space import Space
    from dnnflow.estimators.design_search import DesignSearchClassifier, DesignSearchRegressor
    from dnnflow.parallel.spec.algorithm import Algorithm, OptimizerSpec, RateSchedule
    from dnnflow.pipeline.pipeline_file import load_pipeline
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.run.models.saved_model import load_model
    from dnnflow.table.store.dataset import Dataset

_NAMES = {
    "ingest": "dnnflow.api",
    "open_study": "dnnflow.api",
    "run_study": "dnnflow.api",
    "score": "dnnflow.api",
    "search": "dnnflow.api",
    "DesignSearchClassifier": "dnnflow.estimators.design_search",
    "DesignSearchRegressor": "dnnflow.estimators.design_search",
    "Dataset": "dnnflow.table.store.dataset",
    "Design": "dnnflow.design.layers",
    "Layer": "dnnflow.design.layers",
    "Space": "dnnflow.design.space",
    "load_model": "dnnflow.run.models.saved_model",
    "Algorithm": "dnnflow.parallel.spec.algorithm",
    "OptimizerSpec": "dnnflow.parallel.spec.algorithm",
    "RateSchedule": "dnnflow.parallel.spec.algorithm",
    "train": "dnnflow.api",
    "Pipeline": "dnnflow.pipeline.study_pipeline",
    "load_pipeline": "dnnflow.pipeline.pipeline_file",
    "Study": "dnnflow.api:OpenStudy",
}

__all__ = [
    "Algorithm", "Dataset", "Design", "DesignSearchClassifier", "DesignSearchRegressor", "Layer",
    "OptimizerSpec", "Pipeline", "RateSchedule", "Space", "Study",
    "ingest", "load_model", "load_pipeline", "open_study", "run_study", "score", "search", "train",
]  # fmt: skip


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *globals()})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import dnnflow` itself loads nothing heavy."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dnnflow")
    if name not in _NAMES:
        raise AttributeError(f"module 'dnnflow' has no attribute {name!r}")
    module, _, other = _NAMES[name].partition(":")
    return getattr(import_module(module), other or name)
