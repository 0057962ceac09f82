"""Train a plain network as machine code: products in registers, the rest as loops over what is in the cache.

A network of 3 x 64 takes 50 KB: its weights, gradients and moments stay in the cache of one core from batch
to batch, and a step starts no operations of a framework.

A layer's weights are one matrix (inputs + 1, units), whose last row is the bias; units are padded with zeros
to whole vectors, and layers follow each other in one flat array. What flows through the network is kept by
columns, (units + 1, rows): a vector holds one unit of several rows, and the last row, of ones, meets the
bias. A batch is trained in blocks of `BLOCK` rows, whose gradients are added up. When what is called here is
edited, remove numba's cache: it watches the file of a kernel and no other.
"""

from typing import Any

import numpy as np

from dnnflow.engines.compiled.activations import activate, multiply_by_slope
from dnnflow.engines.compiled.heads import head
from dnnflow.engines.compiled.kernel_math import compiled, kernel, multiply, padded, transpose
from dnnflow.engines.compiled.kernel_updates import ADAM, adam, sgd

BLOCK = 32
"""Rows that flow through a network together: what three layers of 128 units make of them is 48 KB."""


@compiled
def gather(features: Any, order: Any, first: int, rows: int, columns: int, starts: Any, flows: Any) -> None:
    """Begin `flows` with rows `order[first:]` as columns; columns beyond them are of the first row again."""
    width = features.shape[1]
    for row in range(columns):
        starts[row] = order[first + (row if row < rows else 0)] * width
    transpose(features.ravel(), starts, columns, width, flows)


@compiled
def _forward(sizes: Any, kinds: Any, weights: Any, columns: int, flows: Any) -> Any:
    """Fill `flows`, which begin with the batch, with every layer's outputs; return where logits begin."""
    place, below = np.int64(0), np.int64(0)
    for layer in range(sizes.size - 1):
        width, units = sizes[layer], sizes[layer + 1]
        flows[below + width * columns : below + (width + 1) * columns] = 1
        above, step = below + padded(width + 1) * columns, padded(units)
        multiply(weights, place, 1, step, flows, below, flows, above, units, width + 1, columns, False)
        if layer < kinds.size:
            activate(kinds[layer], flows[above : above + units * columns])
        place, below = place + (width + 1) * step, above
    return below


@compiled
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
            multiply_by_slope(kinds[layer - 1], flows[below:end], onwards[: width * columns])
        towards[units * columns : step * columns] = 0
        for unit in range(step):
            starts[unit] = unit * columns
        transpose(towards, starts, step, columns, turned)
        multiply(flows, below, columns, 1, turned, 0, gradient, place, width + 1, rows, step, added)


@kernel
def run(
    features: Any, labels: Any, order: Any, batch_size: int, sizes: Any, kinds: Any, kind: int, quantile: Any,
    row_weights: Any, optimizer: int, numbers: Any, rate: Any, count: int, weights: Any, slots: Any,
    outputs: Any,
) -> Any:  # fmt: skip
    """Learn from the rows of `order` in batches, the last of which may be smaller; or fill `outputs`.

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
        (weights,) and (slots, weights), padded; changed where something is learned.
    outputs
        (rows of `order`, outputs), for probabilities or numbers; of no rows where something is learned. Both
        are one function, as half of it, which takes seconds to compile, is the same.

    Returns
    -------
    loss, followed
        Sum of losses over rows, each as measured before its step; that of what is followed (`head`).
    """
    learns = outputs.shape[0] == 0
    flows, changes, turned, most, starts = buffers(sizes, weights)
    gradient, n_outputs = np.zeros_like(weights), sizes[-1]
    loss, followed = 0.0, 0
    for batch in range(0, order.size, batch_size):
        batch_rows = min(batch_size, order.size - batch)
        share = weights.dtype.type(batch_rows)
        for first in range(batch, batch + batch_rows, BLOCK):
            rows = min(BLOCK, batch + batch_rows - first)
            columns = padded(rows)
            gather(features, order, first, rows, columns, starts, flows)
            begin = _forward(sizes, kinds, weights, columns, flows)
            logits, found = flows[begin : begin + n_outputs * columns], changes[0]
            scratch = most[: 2 * columns].reshape((2, columns))
            losses, hits = head(
                labels, order, first, rows, logits, found, scratch, kind, quantile, row_weights, learns
            )
            loss += losses
            followed += hits
            if learns:
                for i in range(n_outputs * columns):
                    found[i] /= share
                _backward(
                    sizes, kinds, weights, rows, columns, flows, changes, turned, starts, gradient,
                    first > batch,
                )  # fmt: skip
            else:
                write_outputs(found, first, rows, columns, outputs)
        if learns:
            count += 1
            if optimizer == ADAM:
                adam(weights, gradient, slots, rate, count, numbers)
            else:
                sgd(weights, gradient, slots[0], rate, numbers[0], numbers[1] != 0)
    return loss, followed


@compiled
def write_outputs(found: Any, first: int, rows: int, columns: int, outputs: Any) -> None:
    """Write what is kept by columns, (outputs, columns), as rows from `first` on."""
    for row in range(rows):
        for output in range(outputs.shape[1]):
            outputs[first + row, output] = found[output * columns + row]


@compiled
def buffers(sizes: Any, weights: Any) -> Any:
    """Return arrays for what flows forwards, slopes, a transposed matrix, two numbers a row, and places."""
    height, widest = 0, 0
    for size in sizes:
        height, widest = height + padded(size + 1), max(widest, padded(size))
    kind = weights.dtype
    return (
        np.zeros(height * BLOCK, kind), np.zeros((2, widest * BLOCK), kind), np.zeros(widest * BLOCK, kind),
        np.zeros(2 * BLOCK, kind), np.zeros(max(widest, BLOCK), np.int64),
    )  # fmt: skip
