"""A pipeline as a flow's parameter: its fields are the run form, and a run may give only a part of them."""

from functools import partial
from typing import Annotated, Any

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import BeforeValidator, WithJsonSchema

from dnnflow.pipeline.pipeline_file import merge
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.serve.deployment_defaults import every_part_optional


def over_default(given: Any, flow: str) -> Any:
    """Lay what a deployed run was given over its deployment's default; anything else stands for itself.

    Prefect replaces a parameter as a whole: `-p pipeline='{"designs": 4}'` arrives without a dataset.

    Parameters
    ----------
    flow
        The flow whose parameter it is. Called by another flow or its task, it has a pipeline of its own,
        though Prefect names the outermost flow's deployment: parameters are read before the flow's own
        context is made.
    """
    is_called = FlowRunContext.get() is not None or TaskRunContext.get() is not None
    if not isinstance(given, dict) or is_called or runtime.deployment.id is None:
        return given
    if runtime.flow_run.flow_name != flow:  # from a thread of another flow, which has no context
        return given
    with get_client(sync_client=True) as client:
        default = client.read_deployment(runtime.deployment.id).parameters.get("pipeline", {})
    return merge(default, given)


PipelineForm = Annotated[
    Pipeline,
    BeforeValidator(partial(over_default, flow="study")),
    # The server checks a run's parameters before they are laid over the default: it may require no part.
    WithJsonSchema(every_part_optional(Pipeline.model_json_schema())),
]

TrainForm = Annotated[
    TrainPipeline,
    BeforeValidator(partial(over_default, flow="train")),
    WithJsonSchema(every_part_optional(TrainPipeline.model_json_schema())),
]
"""The same of a parallel training."""
