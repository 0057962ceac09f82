"""Apply server optimizers that only Keras has. Imports TensorFlow: loaded for them alone."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.parallel.model.keras_optimizers import build_keras_optimizer
from dnnflow.parallel.model.objects import constraint_of
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.server_rules import ServerRule
from dnnflow.parallel.server.updates import weighted_mean
from dnnflow.parallel.spec.algorithm import OptimizerSpec


class KerasRule(ServerRule):
    """A Keras optimizer on one flat variable, or on one variable for each array of the model."""

    def __init__(self, spec: OptimizerSpec, weights: Vector, layout: FlatLayout | None) -> None:
        """Begin with a vector of weights, which later updates change in place.

        Parameters
        ----------
        layout
            Of the model, whose learned arrays get a variable each; None for one flat variable.
        """
        self._weights = weights
        self._scratch: Any = None
        learned = layout.shapes[: len(layout.shapes) - layout.statistics] if layout else (weights.shape,)
        names = layout.names if layout and layout.names else [f"weights_{i}" for i in range(len(learned))]
        self._shapes = learned
        with tf.device("CPU"):  # a server's optimizer leaves the GPU to replicas
            self._variables = [
                _variable(shape, name, weights.dtype) for shape, name in zip(learned, names, strict=False)
            ]
            self._optimizer = build_keras_optimizer(spec)
            constraints = layout.constraints if layout else ()
            for variable, text in zip(self._variables, constraints, strict=False):
                variable.constraint = constraint_of(text)
            self._assign(tf.constant(weights))
            self._optimizer.build(self._variables)
        self._step = tf.function(self._apply)

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], strength: float, out: Vector | None
    ) -> None:
        """Step with the mean; `out` gets the weights after it."""
        size = self._weights.size
        parts = [vector[:size] for vector in pushed]
        if len(parts) > 1 and self._scratch is None:
            self._scratch = np.empty((2, size), self._weights.dtype)
        mean = weighted_mean(parts, shares, *self._scratch) if len(parts) > 1 else parts[0]
        with tf.device("CPU"):
            self._optimizer.learning_rate.assign(strength)
            stepped = self._step(tf.constant(self._weights), tf.constant(mean, self._weights.dtype))
        self._weights[...] = stepped.numpy()
        if out is not None:
            out[:size] = self._weights

    def finish(self) -> None:
        if not int(self._optimizer.iterations):  # moving averages begin at zero
            return
        with tf.device("CPU"):
            self._assign(tf.constant(self._weights))
            self._optimizer.finalize_variable_values(self._variables)
        self._weights[...] = np.concatenate([variable.numpy().ravel() for variable in self._variables])

    def state(self) -> dict[str, Any]:
        variables = enumerate(self._optimizer.variables)
        return {f"slot/{index}": np.array(variable.numpy()) for index, variable in variables}

    def restore(self, state: Mapping[str, Any]) -> None:
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(state[f"slot/{index}"])

    def _apply(self, weights: Any, gradient: Any) -> Any:
        """Return the weights after a step; traced once."""
        self._assign(weights)
        self._optimizer.apply_gradients(zip(self._split(gradient), self._variables, strict=True))
        return tf.concat([tf.reshape(variable.value, [-1]) for variable in self._variables], axis=0)

    def _assign(self, weights: Any) -> None:
        for variable, value in zip(self._variables, self._split(weights), strict=True):
            variable.assign(value)

    def _split(self, vector: Any) -> list[Any]:
        sizes = [math.prod(shape) for shape in self._shapes]
        parts = zip(tf.split(vector, sizes), self._shapes, strict=True)
        return [tf.reshape(part, shape) for part, shape in parts]


def _variable(shape: tuple[int, ...], path: str, dtype: Any) -> keras.Variable:
    """Make a variable of zeros with the path that it has in the model."""
    scope, _, name = path.rpartition("/")
    with keras.name_scope(scope.replace("/", "_")) if scope else nullcontext():
        return keras.Variable(np.zeros(shape, dtype), dtype=str(dtype), name=name)
