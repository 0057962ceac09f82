"""Server optimizers that only Keras has. Imports TensorFlow: loaded for them alone."""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.errors import InputError
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.updates import weighted_mean
from dnnflow.parallel.spec.algorithm import OptimizerSpec

_CLASSES = {
    "sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad",
    "nadam": "Nadam", "adamax": "Adamax", "adadelta": "Adadelta", "lion": "Lion", "ftrl": "Ftrl",
    "lamb": "Lamb", "adafactor": "Adafactor", "muon": "Muon",
}  # fmt: skip


def build_keras_optimizer(spec: OptimizerSpec) -> keras.optimizers.Optimizer:
    """Make the Keras optimizer that a spec names.

    Raises
    ------
    InputError
        For one that cannot be found, or that does not take its parameters.
    """
    given = {name: value for name, value in spec.parameters.items() if value is not None}
    excluded = given.pop("exclude_from_weight_decay", None)
    try:
        made = _class_of(spec.name)(learning_rate=spec.learning_rate, **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {spec.name} must take its parameters, got {given}: {error}") from error
    if not isinstance(made, keras.optimizers.Optimizer):
        raise InputError(f"{spec.name} must be a Keras optimizer, got {type(made).__name__}")
    if excluded:
        made.exclude_from_weight_decay(var_names=excluded)
    return made


def _class_of(name: str) -> Any:
    if name in _CLASSES:
        return getattr(keras.optimizers, _CLASSES[name])
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"an optimizer made by code must be importable on the server, got {name!r}: {error}; "
            "install its package there"
        ) from error


class KerasRule:
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

    def state(self) -> dict[str, Any]:
        """Return the optimizer's variables."""
        variables = enumerate(self._optimizer.variables)
        return {f"slot/{index}": np.array(variable.numpy()) for index, variable in variables}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the optimizer's variables."""
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(state[f"slot/{index}"])

    def _apply(self, weights: Any, gradient: Any) -> Any:
        """Return the weights after a step; traced once."""
        self._assign(weights)
        self._optimizer.apply(self._split(gradient), self._variables)
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
    if not scope:
        return keras.Variable(np.zeros(shape, dtype), dtype=str(dtype), name=name)
    with keras.name_scope(scope.replace("/", "_")):
        return keras.Variable(np.zeros(shape, dtype), dtype=str(dtype), name=name)
