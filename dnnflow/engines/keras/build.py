"""Build the Keras model of a design. Imports Keras: loaded by what trains or saves models."""

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Layer, Optimizer, Reference, residual_sources
from dnnflow.engines.losses import CROSS_ENTROPY, Loss, LossKind
from dnnflow.errors import DesignError

OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "adamax": keras.optimizers.Adamax,
    "rmsprop": keras.optimizers.RMSprop,
    "adagrad": keras.optimizers.Adagrad,
    "adadelta": keras.optimizers.Adadelta,
    "lion": keras.optimizers.Lion,
}
"""The classes behind the names that a design may give."""
LOSSES: dict[LossKind, Callable[[], keras.losses.Loss]] = {
    LossKind.CROSS_ENTROPY: keras.losses.SparseCategoricalCrossentropy,
    LossKind.BINARY_CROSS_ENTROPY: keras.losses.BinaryCrossentropy,
    LossKind.MEAN_SQUARED_ERROR: keras.losses.MeanSquaredError,
    LossKind.MEAN_ABSOLUTE_ERROR: keras.losses.MeanAbsoluteError,
    LossKind.HUBER: keras.losses.Huber,
}
"""The losses that Keras has."""


def build_model(
    design: Design, n_features: int, n_outputs: int, *, loss: Loss = CROSS_ENTROPY, dtype: str = "float32"
) -> keras.Model:
    """Build a design's functional Keras model with its initial weights.

    It maps (rows, n_features) to (rows, n_outputs): probabilities of classes or of labels, or standardised
    numbers, as the loss needs them. It is not compiled, except by the code of a design by reference, which
    also chooses its type.

    Raises
    ------
    DesignError
        For a design by reference whose code cannot be found or returns no such model.
    """
    if design.reference is not None:
        return _call(design.reference, design.seed, n_features, n_outputs, loss)
    model = _stack(design, n_features, n_outputs, loss, dtype)
    model.set_weights(list(initial_weights(design, n_features, n_outputs, dtype)))
    return model


def compile_model(model: keras.Model, design: Design, loss: Loss = CROSS_ENTROPY) -> keras.Model:
    """Compile a model with its design's optimizer, as its user would, and return it; a compiled one stays.

    Raises
    ------
    DesignError
        For the quantile loss, which Keras has not, so that a file with it could not be read.
    """
    if model.compiled:
        return model
    if loss.kind not in LOSSES:
        raise DesignError(
            f"a compiled Keras model needs a loss that Keras has, got {loss.kind}; take mean_absolute_error, "
            "or leave refit out"
        )
    metrics = {"linear": [], "softmax": ["accuracy"], "sigmoid": ["binary_accuracy"]}[loss.activation]
    model.compile(build_optimizer(design.optimizer), loss=LOSSES[loss.kind](), metrics=metrics,
                  jit_compile=False)  # fmt: skip
    return model


def loss_function(loss: Loss) -> keras.losses.Loss:
    """Return a loss as Keras takes it."""
    return LOSSES[loss.kind]() if loss.kind in LOSSES else _QuantileLoss(loss.quantile)


class _QuantileLoss(keras.losses.Loss):  # type: ignore[misc]
    def __init__(self, quantile: float) -> None:
        super().__init__()
        self._quantile = quantile

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(quantile_losses(y_pred - y_true, self._quantile), axis=-1)


def quantile_losses(ahead: Any, quantile: float) -> Any:
    """Return the quantile loss of each difference of output and target."""
    return keras.ops.maximum(-quantile * ahead, (1 - quantile) * ahead)


def build_optimizer(optimizer: Optimizer) -> keras.optimizers.Optimizer:
    """Make the Keras optimizer that a design names, at the learning rate of the first epoch."""
    return OPTIMIZERS[optimizer.name](learning_rate=optimizer.learning_rate, **optimizer.parameters)


def dropout_seed(design: Design, index: int) -> int:
    """Return the seed of a hidden layer's dropout, drawn from the design's seed and the layer's index."""
    return int(np.random.SeedSequence([design.seed, index]).generate_state(1)[0] >> 1)


def _stack(design: Design, n_features: int, n_outputs: int, loss: Loss, dtype: str) -> keras.Model:
    inputs = keras.Input((n_features,), name="features", dtype=dtype)
    sources = residual_sources(design, n_features)
    outputs = [inputs]  # of the input and of each hidden layer: (rows, width)
    for index, layer in enumerate(design.layers):
        flow = _hidden(outputs[-1], layer, index, dropout_seed(design, index) if layer.dropout else 0, dtype)
        if index in sources:
            flow = keras.layers.Add(name=f"residual_{index}", dtype=dtype)([flow, outputs[sources[index]]])
        outputs.append(flow)
    last = keras.layers.Dense(n_outputs, activation=loss.activation, name="output", dtype=dtype)
    output = last(outputs[-1])
    return keras.Model(inputs, output)


def _hidden(flow: Any, layer: Layer, index: int, seed: int, dtype: str) -> Any:
    regularizer = keras.regularizers.L2(layer.l2) if layer.l2 else None
    activation = None if layer.batch_norm else layer.activation
    flow = keras.layers.Dense(
        layer.units,
        activation=activation,
        kernel_initializer=layer.initializer,
        kernel_regularizer=regularizer,
        name=f"layer_{index}",
        dtype=dtype,
    )(flow)
    if layer.batch_norm:
        flow = keras.layers.BatchNormalization(name=f"batch_norm_{index}", dtype=dtype)(flow)
        flow = keras.layers.Activation(layer.activation, name=f"activation_{index}", dtype=dtype)(flow)
    if layer.dropout:
        flow = keras.layers.Dropout(layer.dropout, seed=seed, name=f"dropout_{index}", dtype=dtype)(flow)
    return flow


def _call(reference: Reference, seed: int, n_features: int, n_outputs: int, loss: Loss) -> keras.Model:
    """Call the code of a design by reference and check what it returns."""
    keras.utils.set_random_seed(seed % 2**32)
    shape_of = reference_arguments(n_features, n_outputs, loss)
    model = _find(reference.function)(**shape_of, **reference.parameters)
    if not isinstance(model, keras.Model):
        raise DesignError(f"{reference.function} must return a Keras model, got {type(model).__name__}")
    shape = tuple(model(np.zeros((1, n_features), np.float32), training=False).shape)
    if shape != (1, n_outputs):
        raise DesignError(
            f"{reference.function} must map (rows, {n_features}) to (rows, {n_outputs}), "
            f"got {shape} for one row; end it with Dense({list(shape_of)[1]}, '{loss.activation}')"
        )
    return model


def reference_arguments(n_features: int, n_outputs: int, loss: Loss) -> dict[str, int]:
    """Return what the code of a design by reference is called with besides its parameters.

    Classes are `n_classes`; labels and numbers `n_outputs`.
    """
    outputs = "n_classes" if loss.activation == "softmax" else "n_outputs"
    return {"n_features": n_features, outputs: n_outputs}


def _find(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DesignError(
            f"a design's function must be importable on the worker, got {function!r}: {error}; "
            "install its package there"
        ) from error
    return found
