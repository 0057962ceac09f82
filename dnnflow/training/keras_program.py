"""A Keras model with its optimizer, traced once: the loop over batches runs inside TensorFlow.

`model.fit` spends most of a small network's time in Python, and a new model in tracing. A program takes rows,
batch size, learning rate and initial weights as inputs, so that designs which differ only in those share one.
"""

from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.training.loop import Weights
from dnnflow.training.tracing import trace

_EVALUATE_ROWS = 1024
"""Rows of a forward pass when nothing is learned; bounds the memory that activations take."""

_COUNT = tf.TensorSpec((), tf.int64)
_ORDER = tf.TensorSpec((None,), tf.int64)
_LABELS = tf.TensorSpec((None,), tf.int32)


class KerasProgram:
    """Trains and evaluates one Keras model.

    Parameters
    ----------
    model : keras.Model
        Maps (rows, n_features) to probabilities (rows, n_classes). With a loss of its own if it is compiled.
    optimizer : keras.optimizers.Optimizer
    n_features, n_classes : int
    dtype : str
        Of the features that will be given.
    """

    def __init__(
        self, model: keras.Model, optimizer: Any, n_features: int, n_classes: int, *, dtype: str = "float32"
    ) -> None:
        self.model = model
        self.n_classes = n_classes
        self._optimizer = optimizer
        self._loss = _loss_of(model, n_classes)
        optimizer.build(model.trainable_variables)
        self._weights = model.weights
        self._first = [variable.numpy() for variable in optimizer.variables]
        self._features = tf.TensorSpec((None, n_features), dtype)

    @cached_property
    def _train(self) -> Any:
        return trace(self._train_steps, (self._features, _LABELS, _ORDER, _COUNT, _COUNT, _COUNT))

    @cached_property
    def _evaluate(self) -> Any:
        return trace(self._measure, (self._features, _LABELS, _ORDER))

    def restart(self, weights: Weights, dropout_seeds: dict[str, int]) -> None:
        """Go back to the start of a training with other initial weights and other seeds of dropout layers."""
        self.set_weights(weights)
        for variable, value in zip(self._optimizer.variables, self._first, strict=True):
            variable.value.assign(value)
        for name, seed in dropout_seeds.items():
            self.model.get_layer(name).seed_generator.state.assign([seed, 0])

    def set_weights(self, weights: Weights) -> None:
        """Set the model's weights; quicker than its own method, which checks and names each."""
        for variable, value in zip(self._weights, weights, strict=True):
            variable.value.assign(value)

    def train(
        self, block: tuple[Any, Any, Any], batch_size: int, first: int, last: int, learning_rate: float
    ) -> tuple[float, int]:
        """Take the steps over `order[first:last]` of a block (features, labels, order).

        Returns
        -------
        tuple
            Sum over rows of each batch's loss, and number of right predictions made while learning. Stops at
            the first batch whose loss is not finite, and returns that loss.
        """
        self._optimizer.learning_rate.assign(learning_rate)
        loss, right = self._train(*block, *(tf.constant(n, tf.int64) for n in (batch_size, first, last)))
        return float(loss), int(right)

    def evaluate(self, block: tuple[Any, Any, Any]) -> tuple[float, np.ndarray]:
        """Return the summed loss over a block's rows and the counts [true class][predicted class]."""
        features, labels, order = block
        loss_sum, counts = 0.0, np.zeros((self.n_classes, self.n_classes), np.int64)
        for first in range(0, len(order), _EVALUATE_ROWS):
            rows = order[first : first + _EVALUATE_ROWS]
            loss, found = self._evaluate(features, labels, rows)
            loss_sum, counts = loss_sum + float(loss) * len(rows), counts + found.numpy()
        return loss_sum, counts

    def _train_steps(
        self, features: Any, labels: Any, order: Any, batch_size: Any, first: Any, last: Any
    ) -> Any:
        def step(start: Any, loss_sum: Any, right: Any) -> Any:
            rows = order[start : tf.minimum(start + batch_size, last)]  # (batch,)
            targets = tf.gather(labels, rows)  # (batch,)
            loss, predicted = self._step(tf.gather(features, rows), targets)
            count = tf.cast(tf.size(rows), tf.float64)
            return (
                start + batch_size,
                loss_sum + tf.cast(loss, tf.float64) * count,
                right + _right(predicted, targets),
            )

        def unfinished(start: Any, loss_sum: Any, right: Any) -> Any:
            return (start < last) & tf.math.is_finite(loss_sum)

        begin = (first, tf.zeros((), tf.float64), tf.zeros((), tf.int64))
        _, loss_sum, right = tf.while_loop(unfinished, step, begin, parallel_iterations=1)
        return loss_sum, right

    def _step(self, features: Any, targets: Any) -> tuple[Any, Any]:
        """Learn from one batch; return its loss and predictions (batch, classes)."""
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            predicted = self.model(features, training=True)
            loss = self._loss(targets, predicted)
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return loss, predicted

    def _measure(self, features: Any, labels: Any, rows: Any) -> Any:
        targets = tf.gather(labels, rows)  # (rows,)
        predicted = self.model(tf.gather(features, rows), training=False)  # (rows, classes)
        classes = tf.argmax(predicted, axis=1, output_type=tf.int32)
        counts = tf.math.confusion_matrix(targets, classes, self.n_classes, dtype=tf.int64)
        return self._loss(targets, predicted), counts


def _right(predicted: Any, targets: Any) -> Any:
    classes = tf.argmax(predicted, axis=1, output_type=tf.int32)
    return tf.math.count_nonzero(classes == targets)


def _loss_of(model: keras.Model, n_classes: int) -> Any:
    """Return a model's loss(targets (batch,), predicted (batch, classes)), with penalties.

    It is the model's own if it is compiled.
    """
    if not model.compiled:
        entropy = keras.losses.SparseCategoricalCrossentropy()
        return lambda targets, predicted: entropy(targets, predicted) + sum(model.losses)
    sparse = "sparse" in str(getattr(model.loss, "name", model.loss)).lower()

    def compiled(targets: Any, predicted: Any) -> Any:
        labels = targets if sparse else tf.one_hot(targets, n_classes)
        return model.compute_loss(y=labels, y_pred=predicted)

    return compiled
