"""The engine that trains a plain dense network as machine code, one at a time, in the cache of one core."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Optimizer, count_flops, count_parameters
from dnnflow.engines.compiled.compiled_rules import ACTIVATIONS, why_not_compiled
from dnnflow.engines.epoch_rows import Block, TrainingRows, in_memory
from dnnflow.engines.loop import Deadline, Measure, Weights, check_finite, fit
from dnnflow.engines.result import Result, train_designs
from dnnflow.engines.seam import Fitted, TrainingContext
from dnnflow.engines.threads import limit_threads
from dnnflow.engines.training_memory import check_memory

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
        """Refuse what has no machine code, with the reason."""
        return why_not_compiled(design)

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in order; take its weights before the next one is asked for."""
        limit_threads(1)
        return train_designs(_fit, designs, context, engine=self.name)


def _fit(design: Design, context: TrainingContext) -> Result:
    check_memory(design, context)
    dataset = context.dataset
    rows = TrainingRows(dataset, context.settings.validation_fraction, not in_memory(context))
    network = CompiledNetwork(design, rows, dataset.n_features, dataset.n_classes)
    course = fit(network, design, context.settings.time_limit_s)
    test, confusion = network.measure(rows.test())
    return Result(
        course=course,
        test_loss=test.loss,
        confusion=confusion,
        parameters=count_parameters(design, dataset.n_features, dataset.n_classes),
        flops=count_flops(design, dataset.n_features, dataset.n_classes),
        weights=network.weights,
    )


class CompiledNetwork:
    """A design's network on its way through the epochs."""

    def __init__(
        self, design: Design, rows: TrainingRows, n_features: int, n_classes: int,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        from dnnflow.engines.compiled import kernel_math as compiled_math
        from dnnflow.engines.compiled import kernels as compiled_kernels

        self._kernels, self._padded = compiled_kernels, compiled_math.padded
        self._rows = rows
        self._batch_size = design.batch_size
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._sizes = np.array([n_features, *(layer.units for layer in design.layers), n_classes])
        self._kinds = np.array([ACTIVATIONS.index(layer.activation) for layer in design.layers], np.int64)
        self._optimizer, numbers = _optimizer(design.optimizer, compiled_kernels)
        self._numbers = np.array(numbers, self._dtype)
        self._weights = self._laid_out(initial_weights(design, n_features, n_classes, dtype))
        n_slots = 2 if self._optimizer == compiled_kernels.ADAM else 1
        self._slots = np.zeros((n_slots, self._weights.size), self._dtype)
        self._steps = 0
        row_flops = 3 * count_flops(design, n_features, n_classes)
        self._call_rows = design.batch_size * max(1, math.floor(_CALL_FLOPS / row_flops / design.batch_size))

    def train_epoch(self, epoch: int, learning_rate: float, deadline: Deadline) -> Measure:
        """Train on every row once and return running means over the epoch."""
        loss_sum, right, count = 0.0, 0, 0
        for features, labels, order in self._rows.epoch(epoch, self._batch_size):
            for first in range(0, len(order), self._call_rows):
                rows = order[first : first + self._call_rows]
                loss, hits = self._kernels.train(
                    features, labels, rows, self._batch_size, self._sizes, self._kinds, self._optimizer,
                    self._numbers, self._dtype.type(learning_rate), self._steps, self._weights, self._slots,
                )  # fmt: skip
                self._steps += -(-len(rows) // self._batch_size)
                loss_sum, right, count = loss_sum + loss, right + hits, count + len(rows)
                check_finite(loss, f"epoch {epoch + 1}")
                deadline.check(f"in epoch {epoch + 1}")
        return Measure(loss_sum / count, right / count)

    def validate(self) -> Measure | None:
        """Measure the validation part, or None where there is none."""
        if self._rows.validation_fraction == 0:
            return None
        return self.measure(self._rows.validation())[0]

    def measure(self, blocks: Iterator[Block]) -> tuple[Measure, np.ndarray]:
        """Return the measures over some rows, and the counts [true class][predicted class]."""
        loss_sum, counts = 0.0, np.zeros((self._sizes[-1],) * 2, np.int64)
        for features, labels, order in blocks:
            loss_sum += self._kernels.measure(
                features, labels, order, self._sizes, self._kinds, self._weights, counts
            )
        total = int(counts.sum())
        return Measure(loss_sum / total, float(np.trace(counts) / total)), counts

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


def _optimizer(optimizer: Optimizer, kernels: Any) -> tuple[int, list[float]]:
    """Return an optimizer's kind and numbers as `compiled_kernels.train` takes them."""
    given: dict[str, Any] = {**_DEFAULTS, **optimizer.parameters}
    if optimizer.name == "sgd":
        return kernels.SGD, [_keras_number(given["momentum"]), float(given["nesterov"])]
    betas = [given["beta_1"], given["beta_2"]]
    numbers = [*map(_keras_number, betas), *(1 - beta for beta in betas), given["epsilon"]]
    return kernels.ADAM, [*numbers, given["weight_decay"] if optimizer.name == "adamw" else 0.0]


def _keras_number(value: float) -> float:
    """Return a number as Keras' `ops.cast` does, by way of float32 also where weights are float64."""
    return float(np.float32(value))
