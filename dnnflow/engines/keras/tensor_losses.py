"""Compute the losses of labels and numbers, and what is followed beside them, as tensors; traced."""

from typing import Any

import tensorflow as tf

from dnnflow.engines.keras.build import quantile_losses
from dnnflow.engines.losses import Loss, LossKind


def row_losses(loss: Loss, targets: Any, values: Any) -> Any:
    """Return each row's loss, the mean over outputs, (..., rows).

    `targets` are (rows, outputs), `values` (..., rows, outputs): numbers, or logits of labels.
    """
    targets = tf.broadcast_to(tf.cast(targets, values.dtype), tf.shape(values))
    if loss.kind is LossKind.BINARY_CROSS_ENTROPY:
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=values)
    else:
        each = _of_difference(loss, values - targets)
    return tf.reduce_mean(each, axis=-1)


def _of_difference(loss: Loss, ahead: Any) -> Any:
    if loss.kind is LossKind.MEAN_SQUARED_ERROR:
        return tf.square(ahead)
    if loss.kind is LossKind.QUANTILE:
        return quantile_losses(ahead, loss.quantile)
    size = tf.abs(ahead)
    if loss.kind is LossKind.MEAN_ABSOLUTE_ERROR:
        return size
    return tf.where(size <= 1, tf.square(ahead) / 2, size - 0.5)


def mean_of(losses: Any, weights: Any) -> Any:
    """Return the mean of losses (..., rows) times weights (rows,), if there are any, over rows."""
    return tf.reduce_mean(losses if weights is None else losses * tf.cast(weights, losses.dtype), axis=-1)


def followed_sum(loss: Loss, targets: Any, values: Any, threshold: float = 0.0) -> Any:
    """Return the sum over rows of what is followed (`engines.scoring.followed`), (...).

    Rows whose class is right, int64; else the mean over outputs of those that are right, or of squared
    errors, float64.

    Parameters
    ----------
    targets, values
        (rows,) or (rows, outputs), and (..., rows, outputs).
    threshold
        Of values, above which a label's second value is predicted.
    """
    if loss.kind is LossKind.CROSS_ENTROPY:
        classes = tf.argmax(values, axis=-1, output_type=tf.int32)
        return tf.math.count_nonzero(classes == targets, axis=-1)
    targets = tf.cast(targets, values.dtype)
    if loss.kind is LossKind.BINARY_CROSS_ENTROPY:
        each = tf.cast(tf.equal(values > threshold, targets > 0.5), values.dtype)
    else:
        each = tf.square(values - targets)
    return tf.cast(tf.reduce_sum(tf.reduce_mean(each, axis=-1), axis=-1), tf.float64)


def followed_type(loss: Loss) -> Any:
    """Return the type of `followed_sum`."""
    return tf.int64 if loss.kind is LossKind.CROSS_ENTROPY else tf.float64


def outputs_of(loss: Loss, values: Any) -> Any:
    """Return what the Keras model would give for the sums of its last layer, (..., rows, outputs)."""
    if loss.kind is LossKind.CROSS_ENTROPY:
        return tf.nn.softmax(values)
    return tf.nn.sigmoid(values) if loss.kind is LossKind.BINARY_CROSS_ENTROPY else values


def labels_spec(loss: Loss, n_outputs: int) -> Any:
    """Return the shape and type of a table's labels."""
    if loss.kind is LossKind.CROSS_ENTROPY:
        return tf.TensorSpec((None,), tf.int32)
    return tf.TensorSpec((None, n_outputs), tf.float32)
