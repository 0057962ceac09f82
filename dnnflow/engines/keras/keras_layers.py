"""A design of our own vocabulary on TensorFlow: the arithmetic of its Keras model, without the model's cost.

A Keras model of three hidden layers and its optimizer take 29 ms to build, the variables alone 3 ms. These
have no fixed widths, so that networks of all widths share one trace. The numbers are those of
`dnnflow.engines.keras.build.build_model`: a test compares every activation and optimizer with `model.fit`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from dnnflow.design.layers import Design
from dnnflow.engines.loop import Weights

_MOMENTUM, _EPSILON = 0.99, 1e-3
"""Keras' defaults of batch normalisation."""
_NORM_WEIGHTS = 4


class PlainLayers:
    """Hidden layers and a softmax.

    Parameters
    ----------
    design : Design
        Its layers; units and initializers are not looked at, widths are those of `weights`.
    residual : mapping of int to int
        {last layer: first layer} of each residual group.
    weights : tuple of ndarray
        In the order of `dnnflow.design.initial`.
    any_width : bool
        Whether `restart` may bring weights of other widths.
    """

    def __init__(
        self, design: Design, residual: Mapping[int, int], weights: Weights, *, any_width: bool
    ) -> None:
        self._layers = design.layers
        self._activations = [keras.activations.get(layer.activation) for layer in design.layers]
        self._residual = residual
        self._seeds = tf.Variable(tf.zeros((len(design.layers), 2), tf.int32), trainable=False)
        self.variables = [
            tf.Variable(value, trainable=learned, shape=[None] * value.ndim if any_width else None)
            for value, learned in zip(weights, _learned(design), strict=True)
        ]
        self.trainable = [variable for variable in self.variables if variable.trainable]

    def restart(self, weights: Weights, dropout_seeds: Sequence[int]) -> None:
        """Take other weights, and a seed for each hidden layer's dropout."""
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value, read_value=False)
        if dropout_seeds:
            self._seeds.assign([[seed, 0] for seed in dropout_seeds], read_value=False)

    def forward(self, features: Any, *, training: bool) -> Any:
        """Return logits (rows, classes) of features (rows, n_features)."""
        weights = iter(self.variables)
        seeds = self._draw_seeds() if training else None
        outputs = [features]  # of the input and of each hidden layer: (rows, width)
        for index, layer in enumerate(self._layers):
            flow = _dense(outputs[-1], next(weights), next(weights))
            if layer.batch_norm:
                flow = _normalize(flow, [next(weights) for _ in range(_NORM_WEIGHTS)], training)
            flow = self._activations[index](flow)
            if layer.dropout and seeds is not None:
                flow = tf.nn.experimental.stateless_dropout(flow, layer.dropout, seed=seeds[index])
            if index in self._residual:
                flow = flow + outputs[self._residual[index]]
            outputs.append(flow)
        return _dense(outputs[-1], next(weights), next(weights))

    def loss(self, targets: Any, logits: Any) -> Any:
        """Return the mean cross-entropy over rows plus penalties."""
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)  # (rows,)
        return sum(self._penalties(), start=tf.reduce_mean(entropy))

    def probabilities(self, logits: Any) -> Any:
        """Return class probabilities (rows, classes), as the Keras model would."""
        return tf.nn.softmax(logits)

    def _penalties(self) -> list[Any]:
        kernels = [variable for variable in self.variables if variable.shape.rank == 2]
        return [
            layer.l2 * tf.reduce_sum(tf.square(kernel))
            for layer, kernel in zip(self._layers, kernels, strict=False)
            if layer.l2
        ]

    def _draw_seeds(self) -> Any:
        """Return this step's seed of each layer's dropout, counted up as Keras' generators do."""
        if not any(layer.dropout for layer in self._layers):
            return None
        seeds = self._seeds.read_value()  # (layers, 2)
        self._seeds.assign(seeds + tf.constant([[0, 1]]))
        return seeds


def _learned(design: Design) -> list[bool]:
    """Say of each weight whether it is learned; moving averages are not."""
    learned = [[True] * 4 + [False] * 2 if layer.batch_norm else [True] * 2 for layer in design.layers]
    return [*(one for layer in learned for one in layer), True, True]


def _dense(flow: Any, kernel: Any, bias: Any) -> Any:
    return tf.nn.bias_add(tf.matmul(flow, kernel), bias)


def _normalize(flow: Any, weights: list[Any], training: bool) -> Any:
    """Normalise over rows, in training by the batch's own moments, which the moving ones follow."""
    gamma, beta, *moving = weights
    moments = moving
    if training:
        moments = tf.nn.moments(flow, axes=[0])
        for average, moment in zip(moving, moments, strict=True):
            average.assign(average * _MOMENTUM + moment * (1.0 - _MOMENTUM))
    return tf.nn.batch_normalization(flow, *moments, beta, gamma, _EPSILON)
