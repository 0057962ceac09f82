"""The engine that gives each design to the fastest one that can train it."""

from collections.abc import Iterator, Sequence

from dnnflow.design.layers import Design
from dnnflow.engines.compiled.compiled_engine import CompiledEngine
from dnnflow.engines.compiled.compiled_rules import why_not_compiled
from dnnflow.engines.keras.keras_engine import KerasEngine
from dnnflow.engines.seam import Engine, Fitted, TrainingContext
from dnnflow.engines.stacked.stack_plan import why_not
from dnnflow.engines.stacked.stacked_engine import StackedEngine


class AutoEngine:
    """Trains any design; its trials name the engine that did. Not thread-safe: one training at a time.

    On a processor a plain dense design is trained as machine code, on a GPU in a stack. Other dense designs
    are stacked on both; the rest are Keras models.
    """

    name = "auto"

    def __init__(self) -> None:
        self._compiled, self._stacked, self._keras = CompiledEngine(), StackedEngine(), KerasEngine()

    def refuse(self, design: Design) -> str | None:
        """Refuse nothing: what no other engine takes has a Keras model."""
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, engine by engine."""
        for engine in (self._compiled, self._stacked, self._keras):
            mine = [design for design in designs if self._engine_of(design, context) is engine]
            if mine:  # an engine imports its library when it trains
                yield from engine.train(mine, context)

    def _engine_of(self, design: Design, context: TrainingContext) -> Engine:
        if context.device == "cpu" and why_not_compiled(design) is None:
            return self._compiled
        return self._stacked if why_not(design) is None else self._keras
