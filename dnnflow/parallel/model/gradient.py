"""Compute flat gradients of flat weights, one call of TensorFlow a batch."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dnnflow.engines.tensors import trace
from dnnflow.errors import InputError
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.model.devices import gradients_beside
from dnnflow.parallel.model.fit_rules import without_optimizer
from dnnflow.parallel.model.kept_state import require_gradients_alone
from dnnflow.parallel.model.keras_messages import keras_message
from dnnflow.parallel.model.keras_optimizers import make_local_update
from dnnflow.parallel.model.recurrent import fused_lstm
from dnnflow.parallel.model.variables import forward, layout_of, learned, seeds, statistics
from dnnflow.parallel.model.weights import FlatLayout, Vector, as_array, as_tensor
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

Batch = Sequence[Any]
"""(features, labels) or (features, labels, sample weights); arrays, or lists or dicts of them."""
Dims = tuple[tuple[int | None, ...], ...]
"""Of each array of a batch, behind the batch axis; None where they differ from batch to batch."""


class StepResult(NamedTuple):
    """A step's gradient or weights, and its loss and metrics."""

    vector: Vector
    """Read-only. The gradient, or after local steps the weights; behind it the statistics after the step."""
    totals: BatchTotals


class GradientStep:
    """Computes on one model, whose weights it sets from a flat vector.

    The vector holds what is learned, then statistics as moving means (`layout`). Gradient, loss and metrics
    are those of Keras' `train_on_batch`. Not thread-safe; TensorFlow works without the interpreter's lock, so
    that other threads go on meanwhile.

    Parameters
    ----------
    model : keras.Model
        Built and compiled with loss and metrics, e.g. by `ModelSpec.build`. Belongs to the step from now on.
    optimizer : OptimizerSpec, optional
        For `local_steps`.
    jit_compile : bool
        Compile batches of the largest size so far with XLA, which takes 1 to 10 s. One thread, batches of
        100: GRU of 20 units 11.1 to 3.5 ms, Conv1D 3.4 to 2.3 ms, dense layers 1.1 to 1.1 and 15.4 to 12.9
        ms, but Conv2D 11 to 37 ms, and an LSTM is not fused. XLA draws other numbers for dropout.

    Raises
    ------
    InputError
        For a model that is not compiled, or whose metrics cannot be added.
    """

    def __init__(
        self, model: keras.Model, *, optimizer: OptimizerSpec | None = None, jit_compile: bool = False
    ) -> None:
        if not model.compiled:
            raise InputError(
                f"a model must be compiled with its loss, got {model.name}; build it by ModelSpec.build"
            )
        self.layout: FlatLayout = layout_of(model)
        self._model = model
        self._learned, self._statistics = learned(model), statistics(model)
        self._optimizer = optimizer
        self._update: Any = make_local_update(optimizer, self._learned) if optimizer else None
        self._jit_compile = jit_compile
        self._states: list[Any] | None = None
        self._structure: Any = None
        self._dtypes: list[Any] = []
        self._dims: Dims = ()
        self._rows = 0
        self._functions: dict[tuple[Any, ...], Any] = {}
        self._tensor: Any = None

    def gradient(self, weights: Vector, batch: Batch) -> StepResult:
        """Return the gradient of the batch's mean loss.

        Parameters
        ----------
        weights
            Vector, shape (layout.size,); taken without a copy if made by `aligned_vector`. It must not
            change before the call returns.
        batch
            Of any number of rows.

        Raises
        ------
        InputError
            For a batch that does not fit the model.
        """
        arrays = self._arrays(batch)
        self._tensor = self._weights(weights)
        vector, *measured = self._run("gradient", [self._tensor], arrays)
        return StepResult(as_array(vector), _totals(arrays, measured))

    def check(self, batch: Batch) -> None:
        """Compute loss and metrics of the first batch, at the weights there are, for nothing but errors.

        Raises
        ------
        InputError
            For a batch that does not fit the model.
        """
        self._arrays(batch)

    def local_steps(
        self, weights: Vector, batches: Iterable[Batch], learning_rate: float | None = None
    ) -> StepResult:
        """StepResult once a batch with the replica's own optimizer, which goes on from call to call.

        Parameters
        ----------
        weights
            Where the steps begin; not changed.
        learning_rate
            For these steps; that of the optimizer without it.

        Returns
        -------
        StepResult
            The weights after the steps, and the tally of all batches.

        Raises
        ------
        InputError
            Without an optimizer or a batch.
        """
        if self._optimizer is None:
            raise InputError("local steps need an optimizer, got none; give one to GradientStep")
        rate = self._optimizer.learning_rate if learning_rate is None else learning_rate
        self.set(weights)
        tallies = []
        for batch in batches:
            arrays = self._arrays(batch)
            measured = self._run("local", [tf.constant(rate, tf.float32)], arrays)
            tallies.append(_totals(arrays, measured))
        if not tallies:
            raise InputError("local steps must have a batch, got none")
        return StepResult(as_array(self._reader()()), total(tallies))

    def evaluate(self, weights: Vector, batches: Iterable[Batch]) -> BatchTotals:
        """Measure loss and metrics, as Keras' `evaluate` does; `results` puts names to them."""
        self.set(weights)
        tallies = []
        for batch in batches:
            arrays = self._arrays(batch)
            tallies.append(_totals(arrays, self._run("evaluate", [], arrays)))
        return total(tallies)

    def results(self, totals: BatchTotals) -> dict[str, float]:
        """Return loss and metrics under the names that `fit` gives them.

        Raises
        ------
        InputError
            Before the first batch, when the metrics are not made yet.
        """
        if self._states is None:
            raise InputError("metrics have names once a batch has been seen, got none yet")
        sizes = [math.prod(variable.shape) for variable in self._states]
        if totals.states.size != sum(sizes):
            raise InputError(
                f"a tally must be of batches with these metrics, {sum(sizes)} numbers, got "
                f"{totals.states.size}; is it of the same model?"
            )
        parts = np.split(totals.states, np.cumsum(sizes)[:-1]) if sizes else []
        for variable, part in zip(self._states, parts, strict=True):
            variable.assign(part.reshape(variable.shape))
        named: dict[str, float] = {}
        for name, value in self._model.get_metrics_result().items():
            flat = np.ravel(np.asarray(value))  # a value a class, as of F1Score, has their numbers behind it
            names = [name] if flat.size == 1 else [f"{name}_{index}" for index in range(flat.size)]
            named |= zip(names, map(float, flat), strict=True)
        own_loss = "loss" in named and all(m is not self._model._loss_tracker for m in self._model.metrics)
        return named if own_loss else named | {"loss": totals.loss}

    def get(self) -> Vector:
        """Copy weights and statistics as they are now."""
        return np.array(self._reader()().numpy())

    def set(self, weights: Vector) -> None:
        """Set weights and statistics."""
        tensor = self._weights(weights)
        self._cached("set", lambda: trace(self._assign, [self._vector_spec]))(tensor)
        self._tensor = tensor

    @property
    def _vector_spec(self) -> Any:
        return tf.TensorSpec((self.layout.size,), self.layout.dtype)

    def _weights(self, weights: Vector) -> Any:
        """Return a vector as a tensor.

        It is held while variables may lie in its memory: TensorFlow then copies before it changes one, and
        the caller's vector stays as it is.
        """
        if weights.shape != (self.layout.size,):
            raise InputError(f"weights must have the shape ({self.layout.size},), got {weights.shape}")
        return as_tensor(np.asarray(weights, self.layout.dtype))

    def _reader(self) -> Any:
        return self._cached("get", lambda: trace(lambda: self._flat([], self._learned), []))

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = make()
        return found

    def _arrays(self, batch: Batch) -> list[np.ndarray]:
        """Return a batch's arrays in the types of the first batch."""
        parts = keras.utils.unpack_x_y_sample_weight(tuple(batch))
        arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(parts) if leaf is not None]
        if self._states is None:
            self._begin(parts, arrays)
        if len(arrays) != len(self._dtypes):
            raise InputError(f"batches must all have {len(self._dtypes)} arrays, got {len(arrays)}")
        rows = len(arrays[0])
        if not rows or any(len(array) != rows for array in arrays):
            shapes = [array.shape for array in arrays]
            raise InputError(f"a batch's arrays must have as many rows, at least one, got {shapes}")
        return [
            array if array.dtype == dtype else array.astype(dtype)
            for array, dtype in zip(arrays, self._dtypes, strict=True)
        ]

    def _begin(self, parts: Any, arrays: Sequence[np.ndarray]) -> None:
        """Make the metrics, which Keras does at the first batch, and take the batch's form."""
        structure = keras.tree.map_structure(lambda leaf: leaf is not None, parts)
        dtypes = [_computed(array.dtype) for array in arrays]
        leaves = [tf.constant(array, dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
        # Recurrent layers draw a mask of dropout although they use none
        before = [(variable, variable.numpy()) for variable in [*seeds(self._model), *self._statistics]]
        with _batch_errors(arrays), without_optimizer(self._model):
            self._measure(*_pack(structure, leaves))
            once = [variable.numpy() for variable in _metric_states(self._model)]
            if once:
                self._measure(*_pack(structure, leaves))
            require_gradients_alone(self._model, _pack(structure, leaves)[0])
        for variable, value in before:
            variable.assign(value)
        states = _metric_states(self._model)
        twice = [variable.numpy() for variable in states]
        self._model.reset_metrics()
        if any(np.any(variable.numpy()) for variable in states):
            names = ", ".join(variable.path for variable in states if np.any(variable.numpy()))
            raise InputError(f"metrics must start at zero, so that replicas' can be added, got {names}")
        _require_sums(states, once, twice)
        self._structure, self._dtypes, self._states = structure, dtypes, states

    def _run(self, kind: str, first: Sequence[Any], arrays: Sequence[np.ndarray]) -> Any:
        with _batch_errors(arrays):
            return self._function(kind, arrays)(*first, *map(as_tensor, arrays))

    def _function(self, kind: str, arrays: Sequence[np.ndarray]) -> Any:
        """Return the traced function for a batch: one for all numbers of rows, two if other axes differ."""
        rows, dims = len(arrays[0]), tuple(array.shape[1:] for array in arrays)
        self._rows = max(rows, self._rows)
        compiled = self._jit_compile and rows == self._rows and kind != "evaluate"
        return self._cached((kind, compiled, dims), lambda: self._relaxed(kind, compiled, dims))

    def _relaxed(self, kind: str, compiled: bool, dims: Dims) -> Any:
        self._dims = _common(self._dims or dims, dims)
        return self._cached(
            (kind, compiled, self._dims, "traced"), lambda: self._traced(kind, compiled, self._dims)
        )

    def _traced(self, kind: str, compiled: bool, dims: Dims) -> Any:
        body, first = {
            "gradient": (self._gradient, [self._vector_spec]),
            "local": (self._local, [tf.TensorSpec((), tf.float32)]),
            "evaluate": (self._evaluate, []),
        }[kind]
        specs = [
            tf.TensorSpec((None, *dim), dtype) for dim, dtype in zip(dims, self._dtypes, strict=True)
        ]  # fmt: skip
        with nullcontext() if compiled else fused_lstm(self._model, self._rows):
            return trace(tf.function(body, jit_compile=True) if compiled else body, [*first, *specs])

    def _gradient(self, weights: Any, *arrays: Any) -> Any:
        self._assign(weights)
        loss, gradients, states = self._learn(arrays)
        return self._flat(gradients, []), loss, states

    def _local(self, rate: Any, *arrays: Any) -> Any:
        loss, gradients, states = self._learn(arrays)
        self._update.begin(rate)
        self._update.step(gradients)
        return loss, states

    def _evaluate(self, *arrays: Any) -> Any:
        self._reset()
        return self._measure(*_pack(self._structure, arrays)), self._read_states()

    def _measure(self, features: Any, targets: Any, sample_weight: Any) -> Any:
        """Return the loss without learning, and update the metrics."""
        outputs = forward(self._model, features, training=False)
        loss = self._model._compute_loss(features, targets, outputs, sample_weight, training=False)
        self._model.compute_metrics(features, targets, outputs, sample_weight)
        return loss

    def _learn(self, arrays: Sequence[Any]) -> tuple[Any, list[Any], Any]:
        """Return loss, gradients of the learned variables and the metrics' states."""
        self._reset()
        features, targets, sample_weight = _pack(self._structure, arrays)
        values = [variable.value for variable in self._learned]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            outputs = forward(self._model, features, training=True)
            loss = self._model._compute_loss(features, targets, outputs, sample_weight, training=True)
        with gradients_beside(self._model):
            gradients = tape.gradient(loss, values)
        self._require_connected(gradients)
        self._model.compute_metrics(features, targets, outputs, sample_weight)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients], self._read_states()

    def _require_connected(self, gradients: Sequence[Any]) -> None:
        """Refuse weights without a gradient, which Keras' optimizers pass over and do not decay."""
        pairs = zip(self._learned, gradients, strict=True)
        lonely = [variable.path for variable, gradient in pairs if gradient is None]
        if lonely:
            raise InputError(
                f"weights that are learned must take part in the loss, got none of {', '.join(lonely)}; set "
                "trainable = False for their layers, or give their output a loss"
            )

    def _assign(self, weights: Any) -> None:
        """Set each variable from its slice, which shares memory where it is aligned; a split's never does."""
        cuts = zip(self.layout.offsets, self.layout.offsets[1:], strict=False)
        for variable, (start, stop) in zip([*self._learned, *self._statistics], cuts, strict=True):
            part = tf.reshape(tf.slice(weights, [start], [stop - start]), variable.shape)
            variable.value.assign(tf.cast(part, variable.dtype), read_value=False)

    def _flat(self, first: Sequence[Any], variables: Sequence[Any]) -> Any:
        values = [*first, *(variable.value for variable in [*variables, *self._statistics])]
        return tf.concat([tf.reshape(tf.cast(value, self.layout.dtype), [-1]) for value in values], axis=0)

    def _reset(self) -> None:
        """Set the metrics to zero, so that they count one batch."""
        for variable in self._states or ():
            variable.assign(tf.zeros(variable.shape, variable.dtype))

    def _read_states(self) -> Any:
        parts = [tf.reshape(tf.cast(variable.value, tf.float32), [-1]) for variable in self._states or ()]
        return tf.concat(parts, axis=0) if parts else tf.zeros(0)


@contextmanager
def _batch_errors(arrays: Sequence[np.ndarray]) -> Iterator[None]:
    """Say of errors of Keras and TensorFlow that the batch is at fault."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, tf.errors.InvalidArgumentError) as error:
        shapes = [array.shape for array in arrays]
        raise InputError(
            f"a batch must fit the model and its loss, got {shapes}: {keras_message(error)}"
        ) from error


def _totals(arrays: Sequence[np.ndarray], measured: Any) -> BatchTotals:
    loss, states = measured
    count = len(arrays[0])
    return BatchTotals(count, float(loss) * count, as_array(states).astype(np.float64))


def _metric_states(model: keras.Model) -> list[Any]:
    """Return the variables of all metrics but the loss, which tallies keep themselves."""
    own = {id(variable) for variable in model._loss_tracker.variables}
    return [variable for metric in model.metrics for variable in metric.variables if id(variable) not in own]


def _require_sums(states: Sequence[Any], once: Sequence[np.ndarray], twice: Sequence[np.ndarray]) -> None:
    """Refuse metrics that do not add up: the same batch twice must count twice."""
    wrong = [
        variable.path
        for variable, value, double in zip(states, once, twice, strict=True)
        if not np.allclose(double, 2.0 * value.astype(np.float64), rtol=1e-5, equal_nan=True)
    ]
    if wrong:
        raise InputError(
            f"metrics must keep sums and counts, so that replicas' can be added, got {', '.join(wrong)}; "
            "leave that metric out, and measure it with model.evaluate afterwards"
        )


def _pack(structure: Any, leaves: Iterable[Any]) -> Any:
    """Return features, targets and sample weights from the arrays of a batch, None where there are none."""
    left = iter(leaves)
    return keras.tree.map_structure(lambda there: next(left) if there else None, structure)


def _computed(dtype: np.dtype[Any]) -> Any:
    """Return the type in which an array is computed with: float64 becomes Keras' own, as in `fit`."""
    return np.dtype(keras.config.floatx()) if dtype == np.float64 else dtype


def _common(first: Dims, second: Dims) -> Dims:
    """Return lengths that hold for both, None where they differ."""
    if [len(dim) for dim in first] != [len(dim) for dim in second]:
        raise InputError(f"batches must have the same number of axes, got {second} after {first}")
    return tuple(
        tuple(a if a == b else None for a, b in zip(one, other, strict=True))
        for one, other in zip(first, second, strict=True)
    )
