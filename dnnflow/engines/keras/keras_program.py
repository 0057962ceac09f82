"""Trace a network with its optimizer once: the loop over batches runs inside TensorFlow.

`model.fit` spends most of a small network's time in Python, and a new model in tracing. A program takes rows,
batch size, learning rate and initial weights as inputs, so that designs which differ only in those share one.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.design.layers import Design
from dnnflow.engines.keras.build import loss_function
from dnnflow.engines.keras.keras_updates import Update
from dnnflow.engines.keras.tensor_losses import (
    followed_sum,
    followed_type,
    labels_spec,
    mean_of,
    outputs_of,
    row_losses,
)
from dnnflow.engines.loop import Weights
from dnnflow.engines.losses import CROSS_ENTROPY, Loss, LossKind
from dnnflow.engines.tensors import Rows, trace

_EVALUATE_ROWS = 1024
"""Rows of a forward pass when nothing is learned; bounds the memory that activations take."""
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.99, 1e-3
"""Keras' defaults of batch normalisation."""
_NORM_WEIGHTS = 4
COUNT = tf.TensorSpec((), tf.int64)
ORDER = tf.TensorSpec((None,), tf.int64)
WEIGHTS = tf.TensorSpec((None,), tf.float32)
_RATE = tf.TensorSpec((), tf.float32)


class ModelNetwork:
    """A Keras model that code has made."""

    def __init__(self, model: keras.Model, n_outputs: int, loss: Loss = CROSS_ENTROPY) -> None:
        self._model = model
        self.kind = loss
        self._loss = _loss_of(model, n_outputs, loss)
        self.variables = model.weights
        self.trainable = model.trainable_variables

    def forward(self, features: Any, *, training: bool) -> Any:
        """Return outputs (rows, outputs)."""
        return self._model(features, training=training)

    def loss(self, targets: Any, outputs: Any, weights: Any) -> Any:
        """Return the loss the model was compiled with, or else the study's, plus penalties."""
        return self._loss(targets, outputs, weights)

    def outputs(self, outputs: Any) -> Any:
        """Return the model's outputs as they are."""
        return outputs

    def followed(self, targets: Any, outputs: Any) -> Any:
        """Return the sum over rows of what is followed."""
        return followed_sum(self.kind, targets, outputs, threshold=0.5)


class KerasProgram:
    """Trains and evaluates one network; `update` is of its trainable variables."""

    def __init__(
        self, network: "ModelNetwork | PlainLayers", update: Update, n_features: int, n_outputs: int, *,
        is_weighted: bool = False,
    ) -> None:  # fmt: skip
        self.network = network
        self.update = update
        self._is_weighted = is_weighted
        features = tf.TensorSpec((None, n_features), tf.float32)
        self._rows = (features, labels_spec(network.kind, n_outputs), ORDER, WEIGHTS)

    @cached_property
    def _train(self) -> Any:
        return trace(self._train_steps, (*self._rows, COUNT, COUNT, COUNT, _RATE))

    @cached_property
    def _traced_measure(self) -> Any:
        return trace(self._measure, self._rows)

    def is_traced(self, *, measuring: bool) -> bool:
        """Whether the graph of a training is there, and with `measuring` that of a measurement."""
        return "_train" in vars(self) and (not measuring or "_traced_measure" in vars(self))

    def trace(self, block: Rows, *, measuring: bool) -> None:
        """Make the graphs, and run that of the training for no step."""
        self.train(block, 1, 0, 0, 0.0)
        if measuring:
            _ = self._traced_measure

    def weights(self) -> Weights:
        """Copy the weights."""
        return tuple(variable.numpy() for variable in self.network.variables)

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        for variable, value in zip(self.network.variables, weights, strict=True):
            variable.assign(value)

    def train(
        self, block: Rows, batch_size: int, first: int, last: int, learning_rate: float
    ) -> tuple[float, float]:
        """Take the steps over `order[first:last]` of a block.

        Return the sum over rows of each batch's loss, and that of what is followed, by outputs before each
        step. Stops at the first batch whose loss is not finite, and returns that loss.
        """
        counts = [tf.constant(n, tf.int64) for n in (batch_size, first, last)]
        loss, found = self._train(*block, *counts, tf.constant(learning_rate, tf.float32))
        return float(loss), float(found)

    def evaluate(self, block: Rows, *, traced: bool) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order.

        With `traced` the first evaluation costs as much as some twenty without, the later ones half as much.
        """
        features, labels, order, weights = block
        measure = self._traced_measure if traced else self._measure
        loss_sum, found = 0.0, []
        for rows in _blocks(order):
            loss, outputs = (one.numpy() for one in measure(features, labels, rows, weights))
            loss_sum += float(loss) * len(outputs)
            found.append(outputs)
        return loss_sum, np.concatenate(found)

    def _train_steps(
        self, features: Any, labels: Any, order: Any, weights: Any, batch_size: Any, first: Any, last: Any,
        rate: Any,
    ) -> Any:  # fmt: skip
        self.update.begin(rate)

        def step(start: Any, loss_sum: Any, found: Any) -> Any:
            rows = order[start : tf.minimum(start + batch_size, last)]  # (batch,)
            targets = tf.gather(labels, rows)  # (batch,) or (batch, outputs)
            loss, predicted = self._step(tf.gather(features, rows), targets, self._weights_of(weights, rows))
            count = tf.cast(tf.size(rows), tf.float64)
            return (
                start + batch_size,
                loss_sum + tf.cast(loss, tf.float64) * count,
                found + self.network.followed(targets, predicted),
            )

        def unfinished(start: Any, loss_sum: Any, found: Any) -> Any:
            return (start < last) & tf.math.is_finite(loss_sum)

        begin = (first, tf.zeros((), tf.float64), tf.zeros((), followed_type(self.network.kind)))
        _, loss_sum, found = tf.while_loop(unfinished, step, begin, parallel_iterations=1)
        return loss_sum, found

    def _step(self, features: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        """Learn from one batch; return its loss and what the network gave before."""
        with tf.GradientTape() as tape:
            outputs = self.network.forward(features, training=True)
            loss = self.network.loss(targets, outputs, weights)
        self.update.step(tape.gradient(loss, self.network.trainable))
        return loss, outputs

    def _measure(self, features: Any, labels: Any, rows: Any, weights: Any) -> Any:
        """Return the mean loss over rows, and their outputs (rows, outputs)."""
        targets = tf.gather(labels, rows)  # (rows,) or (rows, outputs)
        outputs = self.network.forward(tf.gather(features, rows), training=False)
        loss = self.network.loss(targets, outputs, self._weights_of(weights, rows))
        return loss, self.network.outputs(outputs)

    def _weights_of(self, weights: Any, rows: Any) -> Any:
        return tf.gather(weights, rows) if self._is_weighted else None


def _blocks(order: Any) -> list[Any]:
    """Divide rows into blocks of at most `_EVALUATE_ROWS`; slicing costs a tenth of a small evaluation."""
    count = len(order)
    if 0 < count <= _EVALUATE_ROWS:
        return [order]
    return [order[first : first + _EVALUATE_ROWS] for first in range(0, count, _EVALUATE_ROWS)]


def _loss_of(model: keras.Model, n_outputs: int, loss: Loss) -> Any:
    """Return a model's loss(targets, predicted, weights), with penalties.

    It is the model's own if it is compiled.
    """
    if not model.compiled:
        own = loss_function(loss)
        return lambda targets, predicted, weights: own(targets, predicted, weights) + sum(model.losses)
    sparse = "sparse" in str(getattr(model.loss, "name", model.loss)).lower()
    one_hot = loss.activation == "softmax" and not sparse

    def compiled(targets: Any, predicted: Any, weights: Any) -> Any:
        labels = tf.one_hot(targets, n_outputs) if one_hot else targets
        return model.compute_loss(y=labels, y_pred=predicted, sample_weight=weights)

    return compiled


class PlainLayers:
    """Hidden layers and an output layer.

    Of the design, units and initializers are not looked at: widths are those of `weights`, which are in the
    order of `dnnflow.design.initial`, and with `any_width` those of the weights that `restart` brings.
    `residual` is {last layer: first layer} of each residual group.
    """

    def __init__(
        self, design: Design, residual: Mapping[int, int], weights: Weights, *, any_width: bool,
        loss: Loss = CROSS_ENTROPY,
    ) -> None:  # fmt: skip
        self.kind = loss
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
        """Return the sums of the last layer (rows, outputs) for features (rows, n_features)."""
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

    def loss(self, targets: Any, logits: Any, weights: Any) -> Any:
        """Return the mean loss over rows plus penalties."""
        if self.kind.kind is LossKind.CROSS_ENTROPY:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)  # (rows,)
        else:
            losses = row_losses(self.kind, targets, logits)
        return sum(self._penalties(), start=mean_of(losses, weights))

    def outputs(self, logits: Any) -> Any:
        """Return outputs (rows, outputs), as the Keras model would."""
        return outputs_of(self.kind, logits)

    def followed(self, targets: Any, logits: Any) -> Any:
        """Return the sum over rows of what is followed."""
        return followed_sum(self.kind, targets, logits)

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
            average.assign(average * BATCH_NORM_MOMENTUM + moment * (1.0 - BATCH_NORM_MOMENTUM))
    return tf.nn.batch_normalization(flow, *moments, beta, gamma, BATCH_NORM_EPSILON)
