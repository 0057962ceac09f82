"""Give each design to the fastest engine that can train it."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from dnnflow.design.layers import Design
from dnnflow.engines.registry import find_engine
from dnnflow.engines.seam import Engine, Fitted, TrainingContext


class AutoEngine:
    """Trains any design; its trials name the engine that did. Not thread-safe: one training at a time.

    On a processor a dense design is trained as machine code, on a GPU in a stack; the rest are Keras models.
    """

    name = "auto"

    @cached_property
    def _engines(self) -> dict[str, tuple[Engine, ...]]:
        """The engines of each device, the fastest first; the last one takes any design."""
        compiled, stacked, keras = (find_engine(name) for name in ("compiled", "stacked", "keras"))
        return {"cpu": (compiled, keras), "gpu": (stacked, keras)}

    def refuse(self, design: Design) -> str | None:
        """Refuse nothing: what no other engine takes has a Keras model."""
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, engine by engine."""
        *fast, last = self._engines[context.device]
        left = list(designs)
        for engine in fast:
            mine = [design for design in left if engine.refuse(design) is None]
            left = [design for design in left if engine.refuse(design) is not None]
            if mine:  # an engine imports its library when it trains
                yield from engine.train(mine, context)
        if left:
            yield from last.train(left, context)
