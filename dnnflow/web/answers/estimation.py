"""Estimate what a pipeline would train."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import median
from typing import Any

from dnnflow.design.layers import Design, activations_of, count_flops, count_parameters
from dnnflow.engines.stacked.stack_plan import (
    FLOPS_S,
    StackLimits,
    TableShape,
    plan_stacks,
    why_not,
)
from dnnflow.errors import DnnflowError, NotFoundError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.table.columns.kinds import MAX_FREQUENT
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import Estimate, Spread
from dnnflow.web.jobs.intake import UPLOAD, accept_study
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.profile import Profile

SAMPLE = 128
"""Designs that are drawn for an estimate."""
STEP_S = {"keras": 2.5e-3, "sklearn": 4e-4}
"""Of one batch besides its arithmetic, in engines that train design by design."""
KERAS_BUILD_S = 1.0
"""For building and tracing one Keras model."""
START_S = 4.0
"""For starting workers and preparing the table."""


def estimate(services: Services, data: Any, text: str | None = None) -> Estimate:
    """Return what a sent pipeline would train, or what is wrong with it."""
    try:
        pipeline = accept_study(services, data, text)
    except Refusal as refusal:
        found = list(refusal.errors) or [FieldProblem(where="pipeline", message=str(refusal.detail))]
        return _invalid(found)
    source = str((data.get("dataset") or {}).get("source") or "")
    try:
        profile = services.uploads.get(source.removeprefix(UPLOAD)).profile
        return estimate_of(pipeline, profile)
    except NotFoundError as error:
        return _invalid([FieldProblem(where="dataset.source", message=str(error))])
    except DnnflowError as error:
        return _invalid([FieldProblem(where="space", message=str(error))])


def estimate_of(pipeline: Pipeline, profile: Profile) -> Estimate:
    """Return what a valid pipeline would train on a table; pages and API call this.

    Raises
    ------
    DesignError
        If its space describes no design.
    """
    total, designs = sample(pipeline)
    features, outputs = shape_of(pipeline, profile)
    rows = round(profile.rows * (1 - pipeline.recipe.test_fraction))
    rows -= round(pipeline.training_settings.held_share * rows)
    sizes = [count_parameters(one, features, outputs) for one in designs if one.reference is None]
    cost_s = cost_of(designs, TableShape(rows, features, outputs), pipeline) * total / max(1, len(designs))
    cores = pipeline.executor.workers or os.cpu_count() or 1
    by_time_s = None if pipeline.minutes is None else 60 * pipeline.minutes
    return Estimate(
        valid=True,
        designs=total if by_time_s is None else None,
        sampled=len(designs),
        features=features,
        classes=outputs,
        parameters=Spread(least=min(sizes), median=median(sizes), most=max(sizes)) if sizes else None,
        processor_s=cost_s if by_time_s is None else by_time_s * cores,
        seconds_s=by_time_s or START_S + cost_s / max(1, min(cores, total)),
        problems=[],
    )


def sample(pipeline: Pipeline) -> tuple[int, list[Design]]:
    """Return how many designs a pipeline has, and some of them."""
    space = pipeline.space.to_space()
    length = space.length()
    wanted = SAMPLE if pipeline.minutes is not None else pipeline.designs
    total = min((one for one in (length, wanted) if one is not None), default=1) * space.repetitions
    if pipeline.space.explicit or (pipeline.strategy == "grid" and total <= SAMPLE):
        return total, list(islice(space.grid(), min(total, SAMPLE)))
    return total, list(space.sample(min(total, SAMPLE), pipeline.seed))


def shape_of(pipeline: Pipeline, profile: Profile) -> tuple[int, int]:
    """Return network inputs and outputs, as the profile lets expect them."""
    data, steps = pipeline.dataset, pipeline.preprocess
    unused = {*data.drop, *pipeline.recipe.mark.values(), data.weights}
    features = 0
    outputs = len(data.labels)
    for column in profile.columns:
        if column.name in data.labels:
            is_number = data.task == "regression" or (data.task == "auto" and column.is_amount)
            if len(data.labels) == 1 and not is_number and data.task != "multilabel":
                outputs = max(2, column.distinct)
        elif column.name not in unused:
            is_text = column.kind == "text" or column.name in data.text_columns
            features += min(column.distinct, MAX_FREQUENT) if is_text else 1
            features += int(steps.indicator and column.missing > 0)
    return max(1, features), outputs


def cost_of(designs: Sequence[Design], shape: TableShape, pipeline: Pipeline) -> float:
    """Return seconds of one core that training these designs takes, roughly."""
    engine = pipeline.training.engine
    is_stacking = engine in ("auto", "stacked", "compiled")
    stacked = [one for one in designs if is_stacking and why_not(one) is None]
    others = [one for one in designs if not (is_stacking and why_not(one) is None)]
    limits = StackLimits.of(pipeline.training_settings, activations=activations_of(stacked))
    cost_s = sum(stack.cost_s for stack in plan_stacks(stacked, shape, limits)) if stacked else 0.0
    return cost_s + sum(_alone_s(one, shape, engine) for one in others)


def _alone_s(design: Design, shape: TableShape, engine: str) -> float:
    steps = design.epochs * -(-shape.n_rows // design.batch_size)
    flops = 0 if design.reference else 3 * count_flops(design, shape.n_features, shape.n_outputs)
    build_s = 0.0 if engine == "sklearn" else KERAS_BUILD_S
    step_s = STEP_S.get(engine, STEP_S["keras"])
    return build_s + steps * step_s + design.epochs * shape.n_rows * flops / FLOPS_S


def _invalid(problems: Sequence[FieldProblem]) -> Estimate:
    nothing: Mapping[str, Any] = dict.fromkeys(
        ("designs", "features", "classes", "parameters", "processor_s", "seconds_s")
    )
    return Estimate(valid=False, sampled=0, problems=list(problems), **nothing)
