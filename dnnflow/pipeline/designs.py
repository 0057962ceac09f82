"""Draw the designs of a pipeline from its space, each one that its engine can train."""

from collections.abc import Iterator
from itertools import islice

from dnnflow.design.layers import Design
from dnnflow.engines.registry import find_engine
from dnnflow.engines.seam import check_training
from dnnflow.errors import DesignError
from dnnflow.pipeline.study_pipeline import Pipeline


def draw_designs(pipeline: Pipeline) -> list[Design]:
    """Return the designs of a pipeline, in their order.

    Raises
    ------
    DesignError
        If the space describes none, or the engine cannot train one of them.
    """
    space = pipeline.space.to_space()
    drawn: Iterator[Design]
    if pipeline.strategy == "grid" or pipeline.space.explicit:
        most = None if pipeline.designs is None else pipeline.designs * space.repetitions
        drawn = islice(space.grid(), most)
    else:
        drawn = space.sample(pipeline.designs or 1, pipeline.seed)
    designs = list(drawn)
    if not designs:
        raise DesignError("a space must hold at least one design, got none; widen its ranges")
    engine = find_engine(pipeline.training.engine)
    for design in designs:
        check_training(design, holds_rows=pipeline.training_settings.held_share > 0)
        refusal = engine.refuse(design)
        if refusal:
            raise DesignError(
                f"engine {engine.name} must be able to train every design, got {design.describe()}: "
                f"{refusal}; narrow the space or name another training.engine"
            )
    return designs
