"""A pipeline as a flow's parameter: its fields are the run form, and a run may give only a part of them."""

from typing import Annotated, Any

from prefect import runtime
from prefect.client.orchestration import get_client
from pydantic import BeforeValidator, WithJsonSchema

from dnnflow.pipeline.pipeline_file import merge
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.serve.deployment_defaults import every_part_optional


def over_default(given: Any) -> Any:
    """Lay what a run was given over its deployment's default; without a deployment, it stands for itself.

    Prefect replaces a parameter as a whole: `-p pipeline='{"designs": 4}'` arrives without a dataset.
    """
    if not isinstance(given, dict) or runtime.deployment.id is None:
        return given
    with get_client(sync_client=True) as client:
        default = client.read_deployment(runtime.deployment.id).parameters.get("pipeline", {})
    return merge(default, given)


PipelineForm = Annotated[
    Pipeline,
    BeforeValidator(over_default),
    # The server checks a run's parameters before they are laid over the default: it may require no part.
    WithJsonSchema(every_part_optional(Pipeline.model_json_schema())),
]

TrainForm = Annotated[
    TrainPipeline,
    BeforeValidator(over_default),
    WithJsonSchema(every_part_optional(TrainPipeline.model_json_schema())),
]
"""The same of a parallel training."""
