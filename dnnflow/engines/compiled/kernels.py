"""Train a network as machine code: products in registers, the rest as loops over what is in the cache.

A network of 3 x 64 takes 50 KB: its weights, gradients and moments stay in the cache of one core from batch
to batch, and a step starts no operations of a framework.

A layer's weights are one matrix (inputs + 1, units), whose last row is the bias; units are padded with zeros
to whole vectors, and layers follow each other in one flat array. What flows through the network is kept by
columns, (units + 1, rows): a vector holds one unit of several rows, and the last row, of ones, meets the
bias. A batch is trained in blocks of `BLOCK` rows, whose gradients are added up. When `kernel_math` alone is
edited, remove numba's cache: it watches the file of a kernel and no other.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from dnnflow.engines.compiled.kernel_math import OPTIONS, exponential, multiply, padded, tangent, transpose

_LINEAR, _RELU, _LEAKY_RELU, _ELU, _SELU, _TANH, _SIGMOID, _SOFTSIGN = range(8)
"""Places in `compiled_engine.ACTIVATIONS`."""
SGD, ADAM = range(2)
"""Kinds of optimizer; AdamW is Adam with a decay."""
_CROSS_ENTROPY, _BINARY_CROSS_ENTROPY, _SQUARED, _ABSOLUTE, _HUBER, _QUANTILE = range(6)
"""Places in `compiled_engine.LOSSES`."""
BLOCK = 32
"""Rows that flow through a network together: what three layers of 128 units make of them is 48 KB."""

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
def _activate(kind: int, values: Any) -> None:
    """Replace a layer's sums by its outputs."""
    number = values.dtype.type
    one, half = number(1), number(0.5)
    if kind == _RELU:
        for i in range(values.size):
            values[i] = 0 if values[i] <= 0 else values[i]  # NaN stays NaN
    elif kind == _LEAKY_RELU:
        for i in range(values.size):
            values[i] *= number(_LEAK) if values[i] < 0 else one
    elif kind == _TANH:
        for i in range(values.size):
            values[i] = tangent(values[i])
    elif kind == _SIGMOID:
        for i in range(values.size):
            values[i] = half * tangent(half * values[i]) + half
    elif kind == _SOFTSIGN:
        for i in range(values.size):
            values[i] /= one + abs(values[i])
    elif kind != _LINEAR:
        selu = kind == _SELU
        scale, alpha = number(_SELU_SCALE if selu else 1), number(_SELU_ALPHA if selu else 1)
        for i in range(values.size):
            x = values[i]
            values[i] = scale * (x if x > 0 else alpha * (exponential(x) - one))


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
def _gather(features: Any, order: Any, first: int, rows: int, columns: int, starts: Any, flows: Any) -> None:
    """Begin `flows` with rows `order[first:]` as columns; columns beyond them are of the first row again."""
    width = features.shape[1]
    for row in range(columns):
        starts[row] = order[first + (row if row < rows else 0)] * width
    transpose(features.ravel(), starts, columns, width, flows)


@_compiled
def _forward(sizes: Any, kinds: Any, weights: Any, columns: int, flows: Any) -> int:
    """Fill `flows`, which begin with the batch, with every layer's outputs; return where logits begin."""
    place, below = 0, 0
    for layer in range(sizes.size - 1):
        width, units = sizes[layer], sizes[layer + 1]
        flows[below + width * columns : below + (width + 1) * columns] = 1
        above, step = below + padded(width + 1) * columns, padded(units)
        multiply(weights, place, 1, step, flows, below, flows, above, units, width + 1, columns, False)
        if layer < kinds.size:
            _activate(kinds[layer], flows[above : above + units * columns])
        place, below = place + (width + 1) * step, above
    return below


@_compiled
def _softmax(logits: Any, columns: int, shares: Any, most: Any) -> None:
    """Fill `shares` (classes · columns,) with probabilities: e^(logit - highest) / total over classes.

    The rows of `most` (2, columns) become each column's highest logit, and its total.
    """
    highest, totals = most[0], most[1]
    classes = logits.size // columns
    for column in range(columns):
        highest[column], totals[column] = logits[column], 0
    for begin in range(columns, classes * columns, columns):
        for column in range(columns):
            x = logits[begin + column]
            highest[column] = x if x > highest[column] else highest[column]
    for begin in range(0, classes * columns, columns):
        for column in range(columns):
            share = exponential(logits[begin + column] - highest[column])
            shares[begin + column] = share
            totals[column] += share
    for begin in range(0, classes * columns, columns):
        for column in range(columns):
            shares[begin + column] /= totals[column]


@_compiled
def _losses(logits: Any, labels: Any, order: Any, first: int, rows: int, most: Any) -> Any:
    """Return the sum of cross-entropies, log(sum) - (logit of the label - max), after `_softmax`."""
    columns, loss, product = most.shape[1], 0.0, 1.0
    for row in range(rows):
        label = labels[order[first + row]]
        loss -= logits[label * columns + row] - most[0, row]
        product *= most[1, row]
        if product > 1e200:  # one logarithm for many rows
            loss, product = loss + np.log(product), 1.0
    return loss + np.log(product)


@_compiled
def _hits(logits: Any, labels: Any, order: Any, first: int, rows: int, most: Any) -> int:
    """Count the rows whose highest logit, the first of equals, is the label's."""
    columns, right = most.shape[1], 0
    for row in range(rows):
        label = labels[order[first + row]]
        if logits[label * columns + row] == most[0, row]:
            right += 1
            for earlier in range(label):
                if logits[earlier * columns + row] == most[0, row]:
                    right -= 1
                    break
    return right


@_compiled
def _weighted_losses(
    logits: Any, labels: Any, order: Any, first: int, rows: int, most: Any, row_weights: Any
) -> float:
    """Return the sum of cross-entropies, each times its row's weight, after `_softmax`."""
    columns, loss = most.shape[1], 0.0
    for row in range(rows):
        place = order[first + row]
        own = np.log(most[1, row]) + most[0, row] - logits[labels[place] * columns + row]
        loss += own * row_weights[place]
    return loss


@_compiled
def _loss_of(kind: int, quantile: Any, half: Any, value: Any, target: Any) -> Any:
    """Return the loss of one output, and its slope; of a label's, `value` is the logit.

    `half` is 1/2 in the type of the weights.
    """
    zero, one, ahead = half - half, half + half, value - target
    if kind == _BINARY_CROSS_ENTROPY:
        share = half * tangent(half * value) + half
        most = value if value > 0 else zero
        return most - value * target + np.log1p(exponential(-abs(value))), share - target
    if kind == _SQUARED:
        return ahead * ahead, ahead + ahead
    size = abs(ahead)
    if kind == _HUBER and size <= one:
        return half * ahead * ahead, ahead
    if kind == _QUANTILE:
        slope = -quantile if ahead <= 0 else one - quantile
        return slope * ahead, slope
    slope = one if ahead > 0 else (-one if ahead < 0 else zero)
    return (size - half if kind == _HUBER else size), slope


@_compiled
def _number_losses(
    labels: Any, order: Any, first: int, rows: int, logits: Any, slopes: Any, columns: int, kind: int,
    quantile: Any, row_weights: Any,
) -> Any:  # fmt: skip
    """Fill `slopes` with those of the rows' losses, each the mean over outputs; return what `_head` does."""
    number, n_outputs = slopes.dtype.type, labels.shape[1]
    share, half, loss, found = number(n_outputs), number(0.5), 0.0, 0.0
    slopes[: n_outputs * columns] = 0
    for output in range(n_outputs):
        begin = output * columns
        for row in range(rows):
            place = order[first + row]
            value, target = logits[begin + row], number(labels[place, output])
            own, slope = _loss_of(kind, quantile, half, value, target)
            slopes[begin + row] = slope / share
            loss += own * (row_weights[place] if row_weights.size else 1.0)
            if kind == _BINARY_CROSS_ENTROPY:
                found += 1.0 if (value > 0) == (target > 0) else 0.0
            else:
                found += (value - target) * (value - target)
    return loss / n_outputs, found / n_outputs


@_compiled
def _head(
    labels: Any, order: Any, first: int, rows: int, logits: Any, slopes: Any, most: Any, kind: int,
    quantile: Any, row_weights: Any,
) -> Any:  # fmt: skip
    """Fill `slopes` with those of the summed loss towards logits; return two sums over the rows.

    They are of losses, and of what is followed: rows whose class was predicted; of labels the shares that
    were; of numbers squared errors, each the mean over targets. Where labels have one axis, the loss is the
    cross-entropy.
    """
    columns = most.shape[1]
    if labels.ndim == 1:  # known when this is compiled
        _softmax(logits, columns, slopes, most)
        if row_weights.size:
            loss = _weighted_losses(logits, labels, order, first, rows, most, row_weights)
        else:
            loss = _losses(logits, labels, order, first, rows, most)
        found = _hits(logits, labels, order, first, rows, most)
        for row in range(rows):
            slopes[labels[order[first + row]] * columns + row] -= 1
    else:
        loss, found = _number_losses(
            labels, order, first, rows, logits, slopes, columns, kind, quantile, row_weights
        )
    if row_weights.size:
        for begin in range(0, logits.size, columns):
            for row in range(rows):
                slopes[begin + row] *= slopes.dtype.type(row_weights[order[first + row]])
    return loss, found


@_compiled
def _backward(
    sizes: Any, kinds: Any, weights: Any, rows: int, columns: int, flows: Any, changes: Any, turned: Any,
    starts: Any, gradient: Any, added: bool,
) -> None:  # fmt: skip
    """Fill `gradient`, or add to it; the first of `changes` (2, ...) begins with slopes towards logits."""
    place, below, current = gradient.size, 0, 0
    for width in sizes[:-1]:
        below += padded(width + 1) * columns
    for layer in range(sizes.size - 2, -1, -1):
        width, units = sizes[layer], sizes[layer + 1]
        step = padded(units)
        place, below = place - (width + 1) * step, below - padded(width + 1) * columns
        towards = changes[current]
        if layer > 0:
            current = 1 - current
            onwards = changes[current]
            multiply(weights, place, step, 1, towards, 0, onwards, 0, width, units, columns, False)
            end = below + width * columns
            _multiply_by_slope(kinds[layer - 1], flows[below:end], onwards[: width * columns])
        towards[units * columns : step * columns] = 0
        for unit in range(step):
            starts[unit] = unit * columns
        transpose(towards, starts, step, columns, turned)
        multiply(flows, below, columns, 1, turned, 0, gradient, place, width + 1, rows, step, added)


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
    features: Any, labels: Any, order: Any, batch_size: int, sizes: Any, kinds: Any, kind: int, quantile: Any,
    row_weights: Any, optimizer: int, numbers: Any, rate: Any, count: int, weights: Any, slots: Any,
) -> Any:  # fmt: skip
    """Learn from the rows of `order` in batches, the last of which may be smaller.

    Parameters
    ----------
    features, labels, order
        (rows, features) float32; (rows,) int32, or (rows, outputs) float32; and which rows, int64.
    sizes
        Of the input, each hidden layer and the output, int64.
    kinds
        Places in `compiled_engine.ACTIVATIONS`, of each hidden layer, int64.
    kind, quantile
        Place in `compiled_engine.LOSSES`, and the quantile of that loss, in the type of the weights.
    row_weights
        (rows,) float32, by which each row's loss counts; of length 0 where all count alike.
    optimizer, numbers
        `SGD` with (momentum, nesterov), or `ADAM` with its betas as powers are taken of, 1 - betas, epsilon,
        decay; in the type of the weights.
    rate
        The learning rate, in the type of the weights.
    count
        Steps before these.
    weights, slots
        (weights,) and (slots, weights), padded; changed.

    Returns
    -------
    loss, right
        Sum of losses over rows, each as measured before its step; that of what is followed (`_head`).
    """
    flows, changes, turned, most, starts = _buffers(sizes, weights)
    gradient, n_outputs = np.zeros_like(weights), sizes[-1]
    loss, right = 0.0, 0
    for batch in range(0, order.size, batch_size):
        batch_rows = min(batch_size, order.size - batch)
        share = weights.dtype.type(batch_rows)
        for first in range(batch, batch + batch_rows, BLOCK):
            rows = min(BLOCK, batch + batch_rows - first)
            columns = padded(rows)
            _gather(features, order, first, rows, columns, starts, flows)
            begin = _forward(sizes, kinds, weights, columns, flows)
            logits, slopes = flows[begin : begin + n_outputs * columns], changes[0]
            scratch = most[: 2 * columns].reshape((2, columns))
            found, hits = _head(
                labels, order, first, rows, logits, slopes, scratch, kind, quantile, row_weights
            )
            loss += found
            right += hits
            for i in range(n_outputs * columns):
                slopes[i] /= share
            _backward(
                sizes, kinds, weights, rows, columns, flows, changes, turned, starts, gradient, first > batch
            )
        count += 1
        if optimizer == ADAM:
            _adam(weights, gradient, slots, rate, count, numbers)
        else:
            _sgd(weights, gradient, slots[0], rate, numbers[0], numbers[1] != 0)
    return loss, right


@_compiled
def _buffers(sizes: Any, weights: Any) -> Any:
    """Return arrays for what flows forwards, slopes, a transposed matrix, two numbers a row, and places."""
    height, widest = 0, 0
    for size in sizes:
        height, widest = height + padded(size + 1), max(widest, padded(size))
    kind = weights.dtype
    return (
        np.zeros(height * BLOCK, kind), np.zeros((2, widest * BLOCK), kind), np.zeros(widest * BLOCK, kind),
        np.zeros(2 * BLOCK, kind), np.zeros(max(widest, BLOCK), np.int64),
    )  # fmt: skip


@_compiled
def _outputs(
    labels: Any, order: Any, first: int, rows: int, logits: Any, shares: Any, most: Any, kind: int,
    quantile: Any, row_weights: Any,
) -> float:  # fmt: skip
    """Fill `shares` with a network's outputs; return the summed loss."""
    columns, half = most.shape[1], shares.dtype.type(0.5)
    if labels.ndim == 1:  # known when this is compiled
        _softmax(logits, columns, shares, most)
        if row_weights.size:
            loss = _weighted_losses(logits, labels, order, first, rows, most, row_weights)
        else:
            loss = _losses(logits, labels, order, first, rows, most)
    else:
        loss, _ = _number_losses(
            labels, order, first, rows, logits, shares, columns, kind, quantile, row_weights
        )
        for i in range(logits.size):
            x = logits[i]
            shares[i] = half * tangent(half * x) + half if kind == _BINARY_CROSS_ENTROPY else x
    return float(loss)


@_compiled
def measure(
    features: Any, labels: Any, order: Any, sizes: Any, kinds: Any, kind: int, quantile: Any,
    row_weights: Any, weights: Any, outputs: Any,
) -> float:  # fmt: skip
    """Write probabilities, or numbers, of rows into `outputs` (rows, outputs); return their summed loss.

    Parameters are as for `train`.
    """
    flows, changes, _, most, starts = _buffers(sizes, weights)
    shares, n_outputs, loss = changes[0], sizes[-1], 0.0
    for first in range(0, order.size, BLOCK):
        rows = min(BLOCK, order.size - first)
        columns = padded(rows)
        _gather(features, order, first, rows, columns, starts, flows)
        begin = _forward(sizes, kinds, weights, columns, flows)
        logits, scratch = (
            flows[begin : begin + n_outputs * columns],
            most[: 2 * columns].reshape((2, columns)),
        )
        loss += _outputs(labels, order, first, rows, logits, shares, scratch, kind, quantile, row_weights)
        for row in range(rows):
            for output in range(n_outputs):
                outputs[first + row, output] = shares[output * columns + row]
    return loss
