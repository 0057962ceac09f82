"""The engine that stacks what can be stacked and leaves the rest to Keras."""

from collections.abc import Iterator, Sequence

from dnnflow.design.layers import Design
from dnnflow.training.engine import Fitted, TrainingContext
from dnnflow.training.keras_engine import KerasEngine
from dnnflow.training.stack_plan import why_not
from dnnflow.training.stacked_engine import StackedEngine


class AutoEngine:
    """Trains any design; its trials name the engine that did. Not thread-safe: one training at a time."""

    name = "auto"

    def __init__(self) -> None:
        self._stacked, self._keras = StackedEngine(), KerasEngine()

    def refuse(self, design: Design) -> str | None:
        """Refuse nothing: what cannot be stacked has a Keras model."""
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design: stacks first."""
        yield from self._stacked.train([design for design in designs if why_not(design) is None], context)
        yield from self._keras.train([design for design in designs if why_not(design) is not None], context)
