"""Train plain dense networks as machine code, one at a time, in the cache of one core."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Optimizer, count_flops
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows
from dnnflow.engines.loop import Network, Result, Weights, check_memory, fit_and_measure, train_designs
from dnnflow.engines.losses import LossKind
from dnnflow.engines.process_setup import limit_threads
from dnnflow.engines.seam import Fitted, TrainingContext

ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softsign")
"""Those whose slope follows from their output. `kernels` knows them by their places here."""
LOSSES = tuple(LossKind)
"""All of them; `kernels` knows them by their places here, too."""
OPTIMIZERS = ("sgd", "adam", "adamw")
_compiled: set[tuple[object, ...]] = set()
"""Types that this process has machine code for."""
_ALIKE = np.empty(0, np.float32)
"""Weights of rows that all count alike."""
_CALL_FLOPS = 2e9
"""Arithmetic of one call of machine code, well under a second: limits are checked between calls."""
_DEFAULTS = {
    "momentum": 0.0, "nesterov": False,
    "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "weight_decay": 0.004,
}  # fmt: skip
"""Of Keras' optimizers."""


class CompiledEngine:
    """Trains plain dense designs. A design's numbers depend on nothing but itself; its time is its own.

    Not thread-safe: one training at a time.
    """

    name = "compiled"

    def refuse(self, design: Design) -> str | None:
        """Say why a design cannot be trained as machine code, or return None if it can."""
        if design.reference is not None:
            return "the compiled engine cannot train designs by reference; take engine auto or keras"
        if design.residual:
            return _refusal("no residual connections", f"residual {design.residual}")
        for layer in design.layers:
            if layer.activation not in ACTIVATIONS:
                return _refusal(f"the activations {', '.join(ACTIVATIONS)}", layer.activation)
            for name in ("batch_norm", "dropout", "l2"):
                if getattr(layer, name):
                    return _refusal(f"no {name}", f"{getattr(layer, name)}")
        optimizer = design.optimizer
        if optimizer.name not in OPTIMIZERS or optimizer.parameters.get("amsgrad"):
            return _refusal("the optimizers sgd, adam and adamw without amsgrad", optimizer.name)
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in order; take its weights before the next one is asked for."""
        limit_threads(1)
        return train_designs(_fit, designs, context, engine=self.name)


def _refusal(rule: str, got: str) -> str:
    return f"the compiled engine takes {rule}, got {got}; take engine auto"


def _fit(design: Design, context: TrainingContext) -> Result:
    check_memory(design, context)
    return fit_and_measure(CompiledNetwork(design, TrainingRows.of(context)), design, context)


class CompiledNetwork(Network):
    """A design's network on its way through the epochs."""

    def __init__(self, design: Design, rows: TrainingRows, dtype: DTypeLike = np.float32) -> None:
        from dnnflow.engines.compiled import kernel_math, kernels

        n_features, n_outputs = rows.dataset.n_features, rows.dataset.n_outputs
        row_flops = 3 * count_flops(design, n_features, n_outputs)
        call_rows = design.batch_size * max(1, math.floor(_CALL_FLOPS / row_flops / design.batch_size))
        super().__init__(rows, design.batch_size, call_rows)
        self._kernels, self._padded = kernels, kernel_math.padded
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._sizes = np.array([n_features, *(layer.units for layer in design.layers), n_outputs])
        self._kinds = np.array([ACTIVATIONS.index(layer.activation) for layer in design.layers], np.int64)
        self._loss = LOSSES.index(rows.loss.kind), np.array(rows.loss.quantile, self._dtype)[()]
        self._optimizer, numbers = _optimizer(design.optimizer, kernels)
        self._numbers = np.array(numbers, self._dtype)
        self._weights = self._laid_out(initial_weights(design, n_features, n_outputs, dtype))
        n_slots = 2 if self._optimizer == kernels.ADAM else 1
        self._slots = np.zeros((n_slots, self._weights.size), self._dtype)
        self._steps = 0

    @property
    def _types(self) -> tuple[object, ...]:
        return self.rows.dataset.task, self.rows.is_weighted, self._dtype

    @property
    def is_compiled(self) -> bool:
        """Whether this process has machine code for rows of these types."""
        return self._types in _compiled

    def compile(self, first: RowBlock, measured: RowBlock | None) -> None:
        """Make the machine code, or read it from numba's cache, by work on no rows."""
        self.train_rows(first, 0, 0, 0.0)
        if measured is not None:
            self.evaluate(measured._replace(order=measured.order[:0]))
        _compiled.add(self._types)

    def train_rows(self, block: RowBlock, first: int, last: int, learning_rate: float) -> tuple[float, float]:
        """Learn from the rows `order[first:last]` of a block; return two sums over them (`followed`)."""
        rows = block.order[first:last]
        loss, right = self._kernels.train(
            block.features, block.labels, rows, self.batch_size, self._sizes, self._kinds, *self._loss,
            _weights_of(block), self._optimizer, self._numbers, self._dtype.type(learning_rate), self._steps,
            self._weights, self._slots,
        )  # fmt: skip
        self._steps += -(-len(rows) // self.batch_size)
        return loss, right

    def evaluate(self, block: RowBlock) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order."""
        outputs = np.empty((len(block.order), self._sizes[-1]), self._dtype)
        loss: float = self._kernels.measure(
            block.features, block.labels, block.order, self._sizes, self._kinds, *self._loss,
            _weights_of(block), self._weights, outputs,
        )  # fmt: skip
        return loss, outputs

    def weights(self) -> Weights:
        """Copy the weights, in the order of the Keras model."""
        found, place = [], 0
        for width, units in pairwise(self._sizes):
            matrix = self._matrix(self._weights, place, width, units)
            found += [matrix[:-1, :units].copy(), matrix[-1, :units].copy()]
            place += matrix.size
        return tuple(found)

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        self._weights[:] = self._laid_out(weights)

    def _laid_out(self, weights: Weights) -> np.ndarray:
        """Return weights as the kernels keep them: kernel and bias as one matrix, units padded with zeros."""
        layers = list(zip(pairwise(self._sizes), weights[::2], weights[1::2], strict=True))
        found = np.zeros(sum((w + 1) * self._padded(u) for (w, u), *_ in layers), self._dtype)
        place = 0
        for (width, units), kernel, bias in layers:
            matrix = self._matrix(found, place, width, units)
            matrix[:-1, :units], matrix[-1, :units] = kernel, bias
            place += matrix.size
        return found

    def _matrix(self, weights: np.ndarray, place: int, width: int, units: int) -> np.ndarray:
        columns = self._padded(units)
        return weights[place : place + (width + 1) * columns].reshape(width + 1, columns)


def _weights_of(block: RowBlock) -> np.ndarray:
    return _ALIKE if block.weights is None else block.weights


def _optimizer(optimizer: Optimizer, kernels: Any) -> tuple[int, list[float]]:
    """Return an optimizer's kind and numbers as `kernels.train` takes them."""
    given: dict[str, Any] = {**_DEFAULTS, **optimizer.parameters}
    if optimizer.name == "sgd":
        return kernels.SGD, [_keras_number(given["momentum"]), float(given["nesterov"])]
    betas = [given["beta_1"], given["beta_2"]]
    numbers = [*map(_keras_number, betas), *(1 - beta for beta in betas), given["epsilon"]]
    return kernels.ADAM, [*numbers, given["weight_decay"] if optimizer.name == "adamw" else 0.0]


def _keras_number(value: float) -> float:
    """Return a number as Keras' `ops.cast` does, by way of float32 also where weights are float64."""
    return float(np.float32(value))
