"""Train any design, one at a time, on TensorFlow with the arithmetic of Keras."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Optimizer, count_flops, count_parameters, residual_sources
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows
from dnnflow.engines.loop import Network, Result, Weights, check_memory, fit_and_measure, train_designs
from dnnflow.engines.losses import Loss
from dnnflow.engines.process_setup import import_tensorflow, keep_freed_memory, limit_threads
from dnnflow.engines.seam import Engine, Fitted, TrainingContext
from dnnflow.engines.tensors import Rows, Tensors, graphs_as_written, on_device

if TYPE_CHECKING:
    from dnnflow.engines.keras.keras_program import KerasProgram

_KEPT_PROGRAMS = 64
_KEPT_PARAMETERS = 1_000_000
"""A program with more weights is not kept: its tracing is a small part of its time."""

_CALL_FLOPS = 2e9
_CALL_STEPS = 1000
"""A call of TensorFlow takes at most so much work, well under a second: limits are checked between calls."""
_REFERENCE_STEPS = 20
"""The same for designs by reference, whose work per step is not known."""


class KerasEngine(Engine):
    """Trains designs as Keras' `model.fit` does, in a loop that runs inside TensorFlow.

    Programs (a network, its optimizer and the traced loop) are kept and reused by designs that differ only in
    seed, learning rate, schedule, batch size, epochs, initializers or, with SGD and Adam, the layers' widths;
    a design's numbers do not depend on who came before.
    Not thread-safe: one training at a time.
    """

    name = "keras"

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[object, ...], KerasProgram] = OrderedDict()
        self._tensors = Tensors()

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in order; take its weights before the next one is asked for."""
        limit_threads(1)
        keep_freed_memory()
        import_tensorflow()
        return train_designs(self._fit, designs, context, engine=self.name)

    def _fit(self, design: Design, context: TrainingContext) -> Result:
        if design.reference is None:
            check_memory(design, context)
        with on_device(context.device), graphs_as_written() if _is_plain(design) else nullcontext():
            program = self._program(design, context)
            rows = TrainingRows.of(context)
            network = KerasNetwork(program, design, rows, self._tensors)
            return fit_and_measure(network, design, context)

    def _program(self, design: Design, context: TrainingContext) -> "KerasProgram":
        """Return a program at the start of the design's training."""
        from dnnflow.engines.keras.keras_updates import is_fused

        n_features, n_outputs = context.dataset.n_features, context.dataset.n_outputs
        loss, is_weighted = context.loss, context.is_weighted
        if design.reference is not None:
            return _from_reference(design, n_features, n_outputs, loss, is_weighted)
        any_width = is_fused(design.optimizer)
        residual = residual_sources(design, n_features)
        shape = _shape_of(design, any_width=any_width)
        key = (
            shape.design_id,
            tuple(residual.items()),
            n_features,
            n_outputs,
            context.device,
            loss,
            is_weighted,
        )
        weights = initial_weights(design, n_features, n_outputs)
        program = self._programs.pop(key, None) or _from_layers(
            shape, residual, weights, n_features, any_width=any_width, loss=loss, is_weighted=is_weighted
        )
        _restart(program, design, weights)
        if count_parameters(design, n_features, n_outputs) <= _KEPT_PARAMETERS:
            self._programs[key] = program
            while len(self._programs) > _KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        return program


class KerasNetwork(Network):
    """A design's program on its way through the epochs."""

    def __init__(
        self, program: "KerasProgram", design: Design, rows: TrainingRows, tensors: "Tensors"
    ) -> None:
        super().__init__(rows, design.batch_size, design.batch_size * _call_steps(design, rows))
        self._program = program
        self._tensors = tensors
        # For one evaluation of small layers a trace does not pay; code may hold loops over time.
        self._traced = rows.has_validation or design.reference is not None

    @property
    def is_compiled(self) -> bool:
        """Whether the program has its graphs."""
        return self._program.is_traced(measuring=self._traced)

    def compile(self, first: RowBlock, measured: RowBlock | None) -> None:
        """Trace the program."""
        self._program.trace(self._tensors.of(first), measuring=self._traced)

    def prepare(self, block: RowBlock) -> Rows:
        """Return a block as tensors."""
        return self._tensors.of(block)

    def train_rows(self, block: Any, first: int, last: int, learning_rate: float) -> tuple[float, float]:
        """Learn from the rows `order[first:last]` of a block; return two sums over them (`followed`)."""
        return self._program.train(block, self.batch_size, first, last, learning_rate)

    def evaluate(self, block: RowBlock) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order."""
        return self._program.evaluate(self._tensors.of(block), traced=self._traced)

    def weights(self) -> Weights:
        """Copy the weights, in the order of the Keras model."""
        return self._program.weights()

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        self._program.set_weights(weights)


def _from_reference(
    design: Design, n_features: int, n_outputs: int, loss: Loss, is_weighted: bool
) -> "KerasProgram":
    from dnnflow.engines.keras.build import build_model, build_optimizer
    from dnnflow.engines.keras.keras_program import KerasProgram, ModelNetwork
    from dnnflow.engines.keras.keras_updates import KerasUpdate

    model = build_model(design, n_features, n_outputs, loss=loss)
    optimizer = model.optimizer if model.compiled else build_optimizer(design.optimizer)
    network = ModelNetwork(model, n_outputs, loss)
    update = KerasUpdate(optimizer, network.trainable)
    return KerasProgram(network, update, n_features, n_outputs, is_weighted=is_weighted)


def _from_layers(
    shape: Design, residual: dict[int, int], weights: Weights, n_features: int, *, any_width: bool,
    loss: Loss, is_weighted: bool,
) -> "KerasProgram":  # fmt: skip
    from dnnflow.engines.keras.keras_program import KerasProgram, PlainLayers
    from dnnflow.engines.keras.keras_updates import make_update

    stack = PlainLayers(shape, residual, weights, any_width=any_width, loss=loss)
    update = make_update(shape.optimizer, stack.trainable)
    return KerasProgram(stack, update, n_features, len(weights[-1]), is_weighted=is_weighted)


def _restart(program: "KerasProgram", design: Design, weights: Weights) -> None:
    """Bring a program to the start of a design's training."""
    from dnnflow.engines.keras.build import dropout_seed
    from dnnflow.engines.keras.keras_program import PlainLayers

    network = cast("PlainLayers", program.network)
    dropped = any(layer.dropout for layer in design.layers)
    network.restart(
        weights, [dropout_seed(design, index) for index in range(len(design.layers))] if dropped else []
    )
    program.update.restart()


def _shape_of(design: Design, *, any_width: bool) -> Design:
    """Return what of a design is built into a program: nothing that is set when a training starts."""
    layers = tuple(
        replace(layer, initializer="zeros", units=1 if any_width else layer.units) for layer in design.layers
    )
    optimizer = Optimizer(design.optimizer.name, parameters=design.optimizer.parameters)
    return Design(layers=layers, optimizer=optimizer)


def _call_steps(design: Design, rows: TrainingRows) -> int:
    """Return how many steps a call takes; by arithmetic and not by the clock, so that sums are repeatable."""
    if design.reference is not None:
        return _REFERENCE_STEPS
    flops = 3 * design.batch_size * count_flops(design, rows.dataset.n_features, rows.dataset.n_outputs)
    return max(1, min(_CALL_STEPS, math.floor(_CALL_FLOPS / flops)))


def _is_plain(design: Design) -> bool:
    return design.reference is None and not any(layer.batch_norm for layer in design.layers)
