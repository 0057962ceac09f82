"""Train dense networks as machine code, one at a time, in the cache of one core."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Optimizer, count_flops, residual_sources
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows
from dnnflow.engines.loop import Network, Result, Weights, check_memory, fit_and_measure, train_designs
from dnnflow.engines.losses import LossKind
from dnnflow.engines.process_setup import limit_threads
from dnnflow.engines.seam import Fitted, TrainingContext

_PLAIN = ("linear", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softsign")
"""Activations whose slope follows from their output."""
ACTIVATIONS = (
    *_PLAIN, "gelu", "silu", "softplus", "exponential", "hard_sigmoid", "hard_tanh", "hard_silu", "mish",
    "relu6", "log_sigmoid",
)  # fmt: skip
"""All of them. `activations` knows them by their places here."""
LOSSES = tuple(LossKind)
"""All of them; `kernels` knows them by their places here, too."""
if TYPE_CHECKING:
    from dnnflow.engines.compiled.wide_kernels import WideNetwork

_compiled: set[tuple[object, ...]] = set()
"""Types that this process has machine code for."""
_MEASURED_ROWS = 32
"""Rows that flow through a network together where nothing is learned."""
_ALIKE = np.empty(0, np.float32)
"""Weights of rows that all count alike."""
_CALL_FLOPS = 2e9
"""Arithmetic of one call of machine code, well under a second: limits are checked between calls."""
_KINDS = ("sgd", "adam", "amsgrad", "nadam", "adamax", "rmsprop", "adagrad", "adadelta", "lion")
"""What updates weights. `kernel_updates` knows them by their places here."""
_SLOTS = {
    "sgd": 1, "adam": 2, "amsgrad": 3, "nadam": 2, "adamax": 2, "rmsprop": 3, "adagrad": 1, "adadelta": 2,
    "lion": 1,
}  # fmt: skip
"""Numbers that are kept beside a weight."""
_MOMENTS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "sgd": {"momentum": 0.0, "nesterov": False},
    "adam": _MOMENTS, "adamw": {**_MOMENTS, "weight_decay": 0.004}, "nadam": _MOMENTS, "adamax": _MOMENTS,
    "rmsprop": {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False},
    "adagrad": {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "adadelta": {"rho": 0.95, "epsilon": 1e-7},
    "lion": {"beta_1": 0.9, "beta_2": 0.99},
}  # fmt: skip
"""Of Keras' optimizers."""


class CompiledEngine:
    """Trains dense designs. A design's numbers depend on nothing but itself; its time is its own.

    Not thread-safe: one training at a time.
    """

    name = "compiled"

    def refuse(self, design: Design) -> str | None:
        """Say why a design cannot be trained as machine code, or return None if it can."""
        if design.reference is not None:
            return "the compiled engine cannot train designs by reference; take engine auto or keras"
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in order; take its weights before the next one is asked for."""
        limit_threads(1)
        return train_designs(_fit, designs, context, engine=self.name)


def _fit(design: Design, context: TrainingContext) -> Result:
    check_memory(design, context)
    return fit_and_measure(CompiledNetwork(design, TrainingRows.of(context)), design, context)


class CompiledNetwork(Network):
    """A design's network on its way through the epochs."""

    def __init__(self, design: Design, rows: TrainingRows, dtype: DTypeLike = np.float32) -> None:
        n_features, n_outputs = rows.dataset.n_features, rows.dataset.n_outputs
        row_flops = 3 * count_flops(design, n_features, n_outputs)
        call_rows = design.batch_size * max(1, math.floor(_CALL_FLOPS / row_flops / design.batch_size))
        super().__init__(rows, design.batch_size, call_rows)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._layout = WeightLayout(design, n_features, n_outputs, self._dtype)
        self._kinds = np.array([ACTIVATIONS.index(layer.activation) for layer in design.layers], np.int64)
        self._loss = LOSSES.index(rows.loss.kind), np.array(rows.loss.quantile, self._dtype)[()]
        kind, numbers = _optimizer(design.optimizer)
        self._optimizer, self._numbers = _KINDS.index(kind), np.array(numbers, self._dtype)
        self._weights, self._averages = self._layout.pack(
            initial_weights(design, n_features, n_outputs, dtype)
        )
        first = design.optimizer.parameters.get("initial_accumulator_value", 0.1) if kind == "adagrad" else 0
        self._slots = np.full((_SLOTS[kind], self._weights.size), np.float32(first), self._dtype)
        self._products = np.ones(1, self._dtype)
        self._steps = 0
        self._network = None if _is_plain(design) else self._wide(design)

    def _wide(self, design: Design) -> "WideNetwork":
        """Return what `wide_kernels` takes of a design."""
        from dnnflow.engines.compiled.wide_kernels import WideNetwork

        layers, sources = design.layers, residual_sources(design, int(self._layout.sizes[0]))
        keys = [np.random.SeedSequence([design.seed, i]).generate_state(2) for i in range(len(layers))]
        return WideNetwork(
            sizes=self._layout.sizes,
            kinds=self._kinds,
            norms=np.array([layer.batch_norm for layer in layers], np.int64),
            dropouts=np.array([layer.dropout for layer in layers], self._dtype),
            penalties=np.array([layer.l2 for layer in layers], self._dtype),
            sources=np.array([sources.get(index, -1) for index in range(len(layers))], np.int64),
            keys=np.array(keys, np.uint32).reshape(len(layers), 2),
            averages=self._averages,
        )

    @property
    def _types(self) -> tuple[object, ...]:
        return self.rows.dataset.task, self.rows.is_weighted, self._dtype, self._network is None

    @property
    def is_compiled(self) -> bool:
        """Whether this process has machine code for rows of these types."""
        return self._types in _compiled

    def compile(self, first: RowBlock, measured: RowBlock | None) -> None:
        """Make the machine code, or read it from numba's cache, by work on no rows."""
        self.train_rows(first, 0, 0, 0.0)
        _compiled.add(self._types)

    def train_rows(self, block: RowBlock, first: int, last: int, learning_rate: float) -> tuple[float, float]:
        """Learn from the rows `order[first:last]` of a block; return two sums over them (`followed`)."""
        rows = block.order[first:last]
        found = self._run(block, rows, self.batch_size, learning_rate, self._outputs(0))
        self._steps += -(-len(rows) // self.batch_size)
        return found

    def evaluate(self, block: RowBlock) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order."""
        outputs = self._outputs(len(block.order))
        loss, _ = self._run(block, block.order, _MEASURED_ROWS, 0.0, outputs)
        return loss, outputs

    def _outputs(self, rows: int) -> np.ndarray:
        return np.empty((rows, self._layout.sizes[-1]), self._dtype)

    def _run(
        self, block: RowBlock, rows: np.ndarray, batch_size: int, rate: float, outputs: np.ndarray
    ) -> tuple[float, float]:
        """Learn from rows of a block, or fill `outputs` if it has rows."""
        given = block.features, block.labels, rows, batch_size
        how = (
            *self._loss, _weights_of(block), self._optimizer, self._numbers, self._dtype.type(rate),
            self._steps, self._weights, self._slots,
        )  # fmt: skip
        found: tuple[float, float]
        if self._network is None:
            from dnnflow.engines.compiled import kernels

            found = kernels.run(*given, self._layout.sizes, self._kinds, *how, outputs)
        else:
            from dnnflow.engines.compiled import wide_kernels

            found = wide_kernels.run(*given, self._network, *how, self._products, outputs)
        return found

    def weights(self) -> Weights:
        """Copy the weights, in the order of the Keras model."""
        return self._layout.unpack(self._weights, self._averages)

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        self._weights[:], self._averages[:] = self._layout.pack(weights)


class WeightLayout:
    """How the kernels keep weights: a layer's kernel and bias as one matrix, then gamma and beta.

    Units are padded with zeros. Moving averages, which are not learned, are apart.
    """

    def __init__(self, design: Design, n_features: int, n_outputs: int, dtype: np.dtype[Any]) -> None:
        self.sizes = np.array([n_features, *(layer.units for layer in design.layers), n_outputs])
        self._norms = [*(layer.batch_norm for layer in design.layers), False]
        self._dtype = dtype

    def pack(self, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return weights in the order of the Keras model as one flat array, and the moving averages."""
        given, parts, averages = iter(weights), [], [np.empty(0, self._dtype)]
        for normalized, (width, units) in zip(self._norms, pairwise(self.sizes), strict=True):
            matrix = np.zeros((width + 1 + 2 * normalized, padded_units(units)), self._dtype)
            matrix[:width, :units], matrix[width, :units] = next(given), next(given)
            if normalized:
                matrix[width + 1, :units], matrix[width + 2, :units] = next(given), next(given)
                averages += [np.asarray(next(given), self._dtype), np.asarray(next(given), self._dtype)]
            parts.append(matrix.ravel())
        return np.concatenate(parts), np.concatenate(averages)

    def unpack(self, flat: np.ndarray, averages: np.ndarray) -> Weights:
        """Return what `pack` was given."""
        found, place, average = [], 0, 0
        for normalized, (width, units) in zip(self._norms, pairwise(self.sizes), strict=True):
            rows, columns = width + 1 + 2 * normalized, padded_units(units)
            matrix = flat[place : place + rows * columns].reshape(rows, columns)[:, :units]
            found += [matrix[:width].copy(), *(row.copy() for row in matrix[width:])]
            if normalized:
                found += [averages[average : average + units].copy()]
                found += [averages[average + units : average + 2 * units].copy()]
                average += 2 * units
            place += rows * columns
        return tuple(found)


def padded_units(units: int) -> int:
    """Return how many units a layer has with those that pad it to whole vectors."""
    from dnnflow.engines.compiled.kernel_math import padded

    return int(padded(units))


def _is_plain(design: Design) -> bool:
    """Say whether `kernels` can train a design, which spares what `wide_kernels` can do besides."""
    return (
        not design.residual
        and design.optimizer.name in ("sgd", "adam", "adamw")
        and not design.optimizer.parameters.get("amsgrad")
        and all(layer.activation in _PLAIN and not (layer.batch_norm or layer.dropout or layer.l2)
                for layer in design.layers)
    )  # fmt: skip


def _weights_of(block: RowBlock) -> np.ndarray:
    return _ALIKE if block.weights is None else block.weights


def _optimizer(optimizer: Optimizer) -> tuple[str, list[float]]:
    """Return an optimizer's kind and numbers as `kernel_updates.update` takes them.

    They are rounded, and subtracted from 1, where Keras does so.
    """
    name = optimizer.name
    given: dict[str, Any] = {**DEFAULTS[name], **optimizer.parameters}
    if name == "sgd":
        return name, [_keras_number(given["momentum"]), float(given["nesterov"])]
    if name in ("adam", "adamw"):
        betas = [given["beta_1"], given["beta_2"]]
        numbers = [*map(_keras_number, betas), *(1 - beta for beta in betas), given["epsilon"]]
        return "amsgrad" if given.get("amsgrad") else "adam", [*numbers, given.get("weight_decay", 0.0)]
    if name == "nadam":
        rounded = [_keras_number(given["beta_1"]), _keras_number(given["beta_2"])]
        return name, [*rounded, *(1 - beta for beta in rounded), given["epsilon"], _keras_number(0.96)]
    if name == "adamax":
        return name, [_keras_number(given["beta_1"]), given["beta_2"], 1 - given["beta_1"], given["epsilon"]]
    if name == "lion":
        return name, [1 - given["beta_1"], 1 - given["beta_2"]]
    share = [1 - given["rho"]] if "rho" in given else []
    more = [given["momentum"], given["epsilon"], float(given["centered"])] if name == "rmsprop" else []
    return name, [*share, *(more or [given["epsilon"]])]


def _keras_number(value: float) -> float:
    """Return a number as Keras' `ops.cast` does, by way of float32 also where weights are float64."""
    return float(np.float32(value))
