"""A network's training as machine code: matrix products by BLAS, the rest as loops over what is in cache.

A network of 3 x 64 takes 50 KB: its weights, gradients and moments stay in the cache of one core from batch
to batch, and a step starts no operations of a framework. Arrays are flat: kernel (in, units) and bias
(units,) of each layer, one after the other. When `compiled_math` alone is edited, remove numba's
cache: it watches the file of a kernel and no other.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from dnnflow.training.compiled_math import OPTIONS, exponentials, multiply, tangents
from dnnflow.training.compiled_rules import ACTIVATIONS

_LINEAR, _RELU, _LEAKY_RELU, _ELU, _SELU, _TANH, _SIGMOID, _SOFTSIGN = range(len(ACTIVATIONS))
SGD, ADAM = range(2)
"""Kinds of optimizer; AdamW is Adam with a decay."""

_LEAK = float(np.float32(0.2))
"""Slope of `leaky_relu` below zero: Keras' default, as TensorFlow rounds it for weights of any type."""
_SELU_SCALE, _SELU_ALPHA = 1.05070098735548049, 1.67326324235437728
"""Klambauer et al. (2017), section 3."""


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep its machine code on disk where possible."""
    try:
        return numba.njit(nogil=True, cache=True, **OPTIONS)(function)
    except RuntimeError:  # no directory that could be written to
        return numba.njit(nogil=True, **OPTIONS)(function)


@_compiled
def _activate(kind: int, values: Any, powers: Any) -> None:
    """Replace a layer's sums by its outputs."""
    one = values.dtype.type(1)
    if kind == _RELU:
        for i in range(values.size):
            values[i] = 0 if values[i] <= 0 else values[i]  # NaN stays NaN
    elif kind == _LEAKY_RELU:
        for i in range(values.size):
            values[i] *= values.dtype.type(_LEAK) if values[i] < 0 else one
    elif kind == _TANH:
        tangents(values)
    elif kind == _SIGMOID:
        half = values.dtype.type(0.5)
        for i in range(values.size):
            values[i] *= half
        tangents(values)
        for i in range(values.size):
            values[i] = half * values[i] + half
    elif kind == _SOFTSIGN:
        for i in range(values.size):
            values[i] /= one + abs(values[i])
    elif kind != _LINEAR:
        _exponential_units(kind, values, powers)


@_compiled
def _exponential_units(kind: int, values: Any, powers: Any) -> None:
    """elu and selu: scale · (x above zero, alpha · (e^x - 1) below)."""
    number = values.dtype.type
    scale, alpha = number(1), number(1)
    if kind == _SELU:
        scale, alpha = number(_SELU_SCALE), number(_SELU_ALPHA)
    below = values.copy()
    for i in range(values.size):
        below[i] = 0 if below[i] > 0 else below[i]
    exponentials(below, powers)
    for i in range(values.size):
        values[i] = scale * (values[i] if values[i] > 0 else alpha * (below[i] - number(1)))


@_compiled
def _multiply_by_slope(kind: int, outputs: Any, changes: Any) -> None:
    """Turn the loss's slope towards outputs into that towards sums."""
    number = outputs.dtype.type
    one = number(1)
    if kind == _RELU:
        for i in range(outputs.size):
            changes[i] = changes[i] if outputs[i] > 0 else number(0)
    elif kind == _LEAKY_RELU:
        for i in range(outputs.size):
            changes[i] *= one if outputs[i] > 0 else number(_LEAK)
    elif kind == _TANH:
        for i in range(outputs.size):
            changes[i] *= one - outputs[i] * outputs[i]
    elif kind == _SIGMOID:
        for i in range(outputs.size):
            changes[i] *= outputs[i] * (one - outputs[i])
    elif kind == _SOFTSIGN:
        for i in range(outputs.size):
            rest = one - abs(outputs[i])
            changes[i] *= rest * rest
    elif kind == _ELU:
        for i in range(outputs.size):
            changes[i] *= one if outputs[i] > 0 else outputs[i] + one
    elif kind == _SELU:
        scale, least = number(_SELU_SCALE), number(_SELU_SCALE * _SELU_ALPHA)
        for i in range(outputs.size):
            changes[i] *= scale if outputs[i] > 0 else outputs[i] + least


@_compiled
def _gather(features: Any, order: Any, first: int, batch: Any) -> None:
    """Copy rows `order[first:]` into a batch (rows, features)."""
    for row in range(batch.shape[0]):
        source = features[order[first + row]]
        for column in range(batch.shape[1]):
            batch[row, column] = source[column]


@_compiled
def _forward(batch: Any, sizes: Any, kinds: Any, weights: Any, outputs: Any, powers: Any) -> None:
    """Fill `outputs` with those of every layer, (rows, units) one after the other; logits are the last."""
    rows, flow = batch.shape[0], batch
    place, begin = 0, 0
    for layer in range(sizes.size - 1):
        width, units = sizes[layer], sizes[layer + 1]
        middle, end = place + width * units, begin + rows * units
        kernel, bias = weights[place:middle].reshape((width, units)), weights[middle : middle + units]
        sums = outputs[begin:end].reshape((rows, units))
        multiply(flow, kernel, sums, False, False)
        for row in range(rows):
            for unit in range(units):
                sums[row, unit] += bias[unit]
        if layer < kinds.size:
            _activate(kinds[layer], outputs[begin:end], powers)
        flow, place, begin = sums, middle + units, end


@_compiled
def _softmax(logits: Any, labels: Any, order: Any, first: int, changes: Any, powers: Any) -> Any:
    """Fill `changes` (rows · classes,) with probabilities; return the sum of cross-entropies, and of hits."""
    rows, classes = logits.shape
    shares = changes.reshape((rows, classes))
    loss, right = 0.0, 0
    for row in range(rows):
        most, place = logits[row, 0], 0
        for column in range(1, classes):
            if logits[row, column] > most:
                most, place = logits[row, column], column
        for column in range(classes):
            shares[row, column] = logits[row, column] - most
        label = labels[order[first + row]]
        right += place == label
        loss -= shares[row, label]
    exponentials(changes, powers)
    for row in range(rows):
        total = changes.dtype.type(0)
        for column in range(classes):
            total += shares[row, column]
        loss += np.log(total)
        for column in range(classes):
            shares[row, column] /= total
    return loss, right


@_compiled
def _backward(
    batch: Any, sizes: Any, kinds: Any, weights: Any, outputs: Any, changes: Any, gradient: Any
) -> None:
    """Fill `gradient`; the first row of `changes` (2, ...) begins with the loss's slopes towards logits."""
    rows, current = batch.shape[0], 0
    place, begin = gradient.size, rows * sizes[1:].sum()
    for layer in range(sizes.size - 2, -1, -1):
        width, units = sizes[layer], sizes[layer + 1]
        place, begin = place - (width + 1) * units, begin - rows * units
        middle = place + width * units
        towards = changes[current, : rows * units].reshape((rows, units))
        bias = gradient[middle : middle + units]
        bias[:] = 0
        for row in range(rows):
            for unit in range(units):
                bias[unit] += towards[row, unit]
        slopes = gradient[place:middle].reshape((width, units))
        if layer == 0:
            multiply(batch, towards, slopes, True, False)
            return
        flat = outputs[begin - rows * width : begin]
        multiply(flat.reshape((rows, width)), towards, slopes, True, False)
        current = 1 - current
        below = changes[current, : rows * width]
        kernel = weights[place:middle].reshape((width, units))
        multiply(towards, kernel, below.reshape((rows, width)), False, True)
        _multiply_by_slope(kinds[layer - 1], flat, below)


@_compiled
def _sgd(weights: Any, gradient: Any, momenta: Any, rate: Any, momentum: Any, nesterov: bool) -> None:
    """m ← momentum · m - rate · g; w ← w + m, or with Nesterov w + momentum · m - rate · g."""
    if momentum == 0:
        for i in range(weights.size):
            weights[i] -= rate * gradient[i]
        return
    for i in range(weights.size):
        momenta[i] = momentum * momenta[i] - rate * gradient[i]
        weights[i] += momentum * momenta[i] - rate * gradient[i] if nesterov else momenta[i]


@_compiled
def _adam(weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any) -> None:
    """Equations 1 to 4 of Kingma and Ba (2015), as Keras has them: bias corrections in the rate."""
    beta_1, beta_2, share_1, share_2, epsilon, decay = numbers
    means, squares, one = slots[0], slots[1], weights.dtype.type(1)
    steps = weights.dtype.type(count)
    step = rate * np.sqrt(one - beta_2**steps) / (one - beta_1**steps)
    if decay != 0:
        for i in range(weights.size):
            weights[i] -= weights[i] * decay * rate
    for i in range(weights.size):
        means[i] += (gradient[i] - means[i]) * share_1
        squares[i] += (gradient[i] * gradient[i] - squares[i]) * share_2
        weights[i] -= means[i] * step / (np.sqrt(squares[i]) + epsilon)


@_compiled
def train(
    features: Any, labels: Any, order: Any, batch_size: int, sizes: Any, kinds: Any, optimizer: int,
    numbers: Any, rate: Any, count: int, weights: Any, slots: Any,
) -> Any:  # fmt: skip
    """Learn from the rows of `order` in batches, the last of which may be smaller.

    Parameters
    ----------
    features, labels, order
        (rows, features) float32, (rows,) int32, and which rows, int64.
    sizes
        Of the input, each hidden layer and the classes, int64.
    kinds
        Places in `ACTIVATIONS`, of each hidden layer, int64.
    optimizer, numbers
        `SGD` with (momentum, nesterov), or `ADAM` with its betas as powers are taken of, 1 - betas, epsilon,
        decay; in the type of the weights.
    rate
        The learning rate, in the type of the weights.
    count
        Steps before these.
    weights, slots
        (weights,) and (slots, weights); changed.

    Returns
    -------
    loss, right
        Sum of cross-entropies over rows, each as measured before its step; rows whose class was predicted.
    """
    most, n_sums = min(batch_size, order.size), sizes[1:].sum()
    memory = np.empty((most, sizes[0]), weights.dtype)
    outputs, changes = (
        np.empty(most * n_sums, weights.dtype),
        np.empty((2, most * sizes.max()), weights.dtype),
    )
    powers, gradient = np.empty(most * sizes.max(), np.int32), np.empty_like(weights)
    loss, right = 0.0, 0
    for first in range(0, order.size, batch_size):
        rows = min(batch_size, order.size - first)
        batch = memory[:rows]
        _gather(features, order, first, batch)
        _forward(batch, sizes, kinds, weights, outputs, powers)
        n_logits = rows * sizes[-1]
        logits = outputs[rows * n_sums - n_logits : rows * n_sums].reshape((rows, sizes[-1]))
        slopes = changes[0, :n_logits]
        one, hits = _softmax(logits, labels, order, first, slopes, powers)
        loss, right = loss + one, right + hits
        for row in range(rows):
            slopes[row * sizes[-1] + labels[order[first + row]]] -= 1
        for i in range(n_logits):
            slopes[i] /= weights.dtype.type(rows)
        _backward(batch, sizes, kinds, weights, outputs, changes, gradient)
        count += 1
        if optimizer == ADAM:
            _adam(weights, gradient, slots, rate, count, numbers)
        else:
            _sgd(weights, gradient, slots[0], rate, numbers[0], numbers[1] != 0)
    return loss, right


@_compiled
def measure(
    features: Any, labels: Any, order: Any, block: int, sizes: Any, kinds: Any, weights: Any, counts: Any
) -> float:
    """Add up, in `counts` [true class][predicted class], the rows of `order`; return their summed loss."""
    most, n_sums = min(block, order.size), sizes[1:].sum()
    memory = np.empty((most, sizes[0]), weights.dtype)
    outputs, shares = np.empty(most * n_sums, weights.dtype), np.empty(most * sizes[-1], weights.dtype)
    powers, loss = np.empty(most * sizes.max(), np.int32), 0.0
    for first in range(0, order.size, block):
        rows = min(block, order.size - first)
        batch = memory[:rows]
        _gather(features, order, first, batch)
        _forward(batch, sizes, kinds, weights, outputs, powers)
        logits = outputs[rows * (n_sums - sizes[-1]) : rows * n_sums].reshape((rows, sizes[-1]))
        loss += _softmax(logits, labels, order, first, shares[: logits.size], powers)[0]
        # As the Keras model predicts: probabilities may be equal where logits are not
        for row in range(rows):
            mine = shares[row * sizes[-1] : (row + 1) * sizes[-1]]
            counts[labels[order[first + row]], mine.argmax()] += 1
    return loss
