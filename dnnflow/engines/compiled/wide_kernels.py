"""Train any dense network as machine code: normalised, with dropout, penalties and residual sums.

Weights and what flows are laid out as in `kernels`. A normalised layer has two rows more in the flat array of
weights, gamma and beta. Beside what a layer gives to the next, the slope of it towards the layer's sums is
kept, so that an activation is called once a step. The names of the classes here are part of what numba keeps
on disk, and fails to read where they are gone: a class that is renamed needs a file of another name.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from dnnflow.engines.compiled.activations import activate_with_slopes
from dnnflow.engines.compiled.heads import head
from dnnflow.engines.compiled.kernel_math import (
    OPTIONS,
    compiled,
    kernel,
    multiply,
    padded,
    total,
    total_product,
    transpose,
)
from dnnflow.engines.compiled.kernel_updates import update
from dnnflow.engines.compiled.kernels import BLOCK, gather, write_outputs

_MOMENTUM, _EPSILON = 0.99, 1e-3
"""Keras' defaults of batch normalisation."""


class WideNetwork(NamedTuple):
    """What a network is, by hidden layer; numbers are of the type of its weights."""

    sizes: Any
    """Of the input, each hidden layer and the output, int64."""
    kinds: Any
    """Places in `compiled_engine.ACTIVATIONS`, int64."""
    norms: Any
    """1 where a layer is normalised, int64."""
    dropouts: Any
    penalties: Any
    """L2, of kernels."""
    sources: Any
    """Which layer's input is added to the output, or -1, int64."""
    keys: Any
    """(layers, 2) uint32, which dropout is drawn from."""
    averages: Any
    """Moving mean and variance of each normalised layer, one after the other; changed."""


class _Buffers(NamedTuple):
    flows: Any
    """Inputs and outputs of layers, each (units + 1, columns), at `heights` times columns."""
    slopes: Any
    """Of outputs towards a layer's sums, or normalised sums, at the same places."""
    hats: Any
    """Normalised sums before gamma and beta, at the same places."""
    changes: Any
    """Slopes of the loss towards outputs, at the same places."""
    scales: Any
    """1 / standard deviation of each unit of the normalised layers, by `heights`."""
    turned: Any
    most: Any
    starts: Any
    heights: Any
    """Of what lies before each layer's input, and at last before the logits; int64."""
    places: Any
    """Of each layer's weights; int64."""
    filled: Any
    """Whether there are changes of a layer's input."""


@compiled
def _buffers(network: Any, weights: Any, block: int) -> Any:
    n_layers, widest = network.sizes.size, np.int64(0)
    heights, places = np.zeros(n_layers, np.int64), np.zeros(n_layers, np.int64)
    for layer in range(n_layers):
        width = network.sizes[layer]
        widest = max(widest, padded(width))
        if layer + 1 < n_layers:
            step = padded(network.sizes[layer + 1])
            rows = width + 1 + (2 * network.norms[layer] if layer < network.norms.size else 0)
            heights[layer + 1] = heights[layer] + padded(width + 1)
            places[layer + 1] = places[layer] + rows * step
    height = heights[-1] + padded(network.sizes[-1] + 1)
    kind, size = weights.dtype, height * block
    return _Buffers(
        np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind),
        np.zeros(height, kind), np.zeros(widest * block, kind), np.zeros(2 * block, kind),
        np.zeros(max(widest, block), np.int64), heights, places, np.zeros(n_layers, np.bool_),
    )  # fmt: skip


@compiled
def _forward(
    network: Any, weights: Any, buffers: Any, rows: int, columns: int, step: int, first: int, batch_size: int,
    learns: bool,
) -> None:  # fmt: skip
    """Let rows of a batch, from `first` on, flow through a network; keep what `_backward` needs."""
    heights, average = buffers.heights, np.int64(0)
    for layer in range(network.kinds.size + 1):
        values = _sums(network, weights, buffers, layer, columns)
        if layer == network.kinds.size:
            return
        begin = heights[layer + 1] * columns
        slopes = buffers.slopes[begin : begin + values.size]
        if network.norms[layer]:
            if learns:
                _normalize(network, weights, buffers, layer, average, rows, values)
            else:
                _normalize_by_averages(network, weights, buffers, layer, average, values)
            average += 2 * network.sizes[layer + 1]
        activate_with_slopes(network.kinds[layer], values, slopes)
        rate = network.dropouts[layer]
        if learns and rate > 0:
            drop(rate, network.keys[layer], step, first, batch_size, columns, values, slopes)
        if network.sources[layer] >= 0:
            source = heights[network.sources[layer]] * columns
            for i in range(values.size):
                values[i] += buffers.flows[source + i]


@compiled
def _sums(network: Any, weights: Any, buffers: Any, layer: int, columns: int) -> Any:
    """Fill a layer's place in the flows with its sums (units, columns), and return that place."""
    flows, width, units = buffers.flows, network.sizes[layer], network.sizes[layer + 1]
    below, above = buffers.heights[layer] * columns, buffers.heights[layer + 1] * columns
    flows[below + width * columns : below + (width + 1) * columns] = 1
    multiply(
        weights, buffers.places[layer], 1, padded(units), flows, below, flows, above, units, width + 1,
        columns, False,
    )  # fmt: skip
    return flows[above : above + units * columns]


@compiled
def _normalize_by_averages(
    network: Any, weights: Any, buffers: Any, layer: int, average: int, values: Any
) -> None:
    number, units = values.dtype.type, network.sizes[layer + 1]
    gamma = buffers.places[layer] + (network.sizes[layer] + 1) * padded(units)
    beta, columns = gamma + padded(units), values.size // units
    for unit in range(units):
        mean, variance = network.averages[average + unit], network.averages[average + units + unit]
        scale = weights[gamma + unit] / np.sqrt(variance + number(_EPSILON))
        shift = weights[beta + unit] - mean * scale
        for i in range(unit * columns, (unit + 1) * columns):
            values[i] = values[i] * scale + shift


@compiled
def _normalize(
    network: Any, weights: Any, buffers: Any, layer: int, average: int, rows: int, values: Any
) -> None:
    """Normalise by the batch's own moments (Ioffe and Szegedy, 2015), which the moving ones follow.

    What is beyond `rows` counts nowhere.
    """
    number, units, averages = values.dtype.type, network.sizes[layer + 1], network.averages
    gamma = buffers.places[layer] + (network.sizes[layer] + 1) * padded(units)
    beta, columns, count = gamma + padded(units), values.size // units, number(rows)
    begin, kept, share = buffers.heights[layer + 1] * columns, number(_MOMENTUM), number(1.0 - _MOMENTUM)
    for unit in range(units):
        line = values[unit * columns : (unit + 1) * columns]
        hats = buffers.hats[begin + unit * columns : begin + (unit + 1) * columns]
        mean = total(line[:rows]) / count
        for i in range(columns):
            hats[i] = line[i] - mean
        hats[rows:] = 0
        variance = total_product(hats, hats) / count
        scale = number(1) / np.sqrt(variance + number(_EPSILON))
        buffers.scales[buffers.heights[layer + 1] + unit] = scale
        for i in range(columns):
            hats[i] *= scale
            line[i] = weights[gamma + unit] * hats[i] + weights[beta + unit]
        for place, moment in ((average + unit, mean), (average + units + unit, variance)):
            averages[place] = averages[place] * kept + moment * share


@compiled
def _normalize_backward(
    network: Any, weights: Any, buffers: Any, layer: int, rows: int, towards: Any, gradient: Any
) -> None:
    """Turn slopes towards normalised sums into those towards sums, and set those of gamma and beta."""
    number, units = towards.dtype.type, network.sizes[layer + 1]
    gamma = buffers.places[layer] + (network.sizes[layer] + 1) * padded(units)
    beta, columns, count = gamma + padded(units), towards.size // units, number(rows)
    begin = buffers.heights[layer + 1] * columns
    for unit in range(units):
        line = towards[unit * columns : (unit + 1) * columns]
        hats = buffers.hats[begin + unit * columns : begin + (unit + 1) * columns]
        line[rows:] = 0
        shift, scale = total(line), total_product(line, hats)
        gradient[beta + unit], gradient[gamma + unit] = shift, scale
        factor = weights[gamma + unit] * buffers.scales[buffers.heights[layer + 1] + unit]
        shift, scale = shift / count, scale / count
        for i in range(columns):
            line[i] = factor * (line[i] - shift - hats[i] * scale)


@register_jitable(**OPTIONS)  # type: ignore[untyped-decorator]
def _mixed(x: Any) -> Any:
    """Return 32 bits in which each bit of x counts: a hash of low bias (Wellons, 2018)."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x7FEB352D))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@compiled
def drop(
    rate: Any, key: Any, step: int, first: int, batch_size: int, columns: int, values: Any, slopes: Any
) -> None:
    """Zero a share of outputs, and scale up the others (Srivastava et al., 2014).

    What is drawn depends on the layer's key, the step, the unit and the row's place in its batch alone.
    """
    number, limit = values.dtype.type, np.uint32(np.float64(rate) * 4294967296.0)
    before = _mixed(np.uint32(key[0] + np.uint32(_mixed(np.uint32(step)))))
    after = _mixed(np.uint32(key[1] ^ before))
    scale, zero = number(1) / (number(1) - rate), number(0)
    for begin in range(0, values.size, columns):
        place = np.uint32(begin // columns * batch_size + first)
        for i in range(columns):
            drawn = _mixed(np.uint32(_mixed(np.uint32(place + np.uint32(i)) ^ before) + after))
            factor = scale if drawn >= limit else zero
            values[begin + i] *= factor
            slopes[begin + i] *= factor


@compiled
def _backward(
    network: Any, weights: Any, buffers: Any, rows: int, columns: int, gradient: Any, added: bool
) -> None:
    """Fill `gradient`, or add to it, by slopes towards logits."""
    changes, flows, turned, starts = buffers.changes, buffers.flows, buffers.turned, buffers.starts
    buffers.filled[:] = False
    for layer in range(network.kinds.size, -1, -1):
        width, units = network.sizes[layer], network.sizes[layer + 1]
        place, step = buffers.places[layer], padded(units)
        below, above = buffers.heights[layer] * columns, buffers.heights[layer + 1] * columns
        towards = changes[above : above + units * columns]
        if layer < network.kinds.size:
            _pass_to_source(network, buffers, layer, columns, towards)
            for i in range(towards.size):
                towards[i] *= buffers.slopes[above + i]
            if network.norms[layer]:
                _normalize_backward(network, weights, buffers, layer, rows, towards, gradient)
        if layer > 0:
            multiply(
                weights, place, step, 1, changes, above, changes, below, width, units, columns,
                buffers.filled[layer],
            )  # fmt: skip
        changes[above + units * columns : above + step * columns] = 0
        for unit in range(step):
            starts[unit] = above + unit * columns
        transpose(changes, starts, step, columns, turned)
        multiply(flows, below, columns, 1, turned, 0, gradient, place, width + 1, rows, step, added)


@compiled
def _pass_to_source(network: Any, buffers: Any, layer: int, columns: int, towards: Any) -> None:
    """Add slopes towards a layer's output to those towards what was added to it."""
    source = network.sources[layer]
    if source > 0:
        begin = buffers.heights[source] * columns
        others = buffers.changes[begin : begin + towards.size]
        if not buffers.filled[source]:
            others[:] = 0
            buffers.filled[source] = True
        for i in range(towards.size):
            others[i] += towards[i]


@compiled
def _penalize(network: Any, weights: Any, places: Any, gradient: Any) -> float:
    """Add the slopes of the penalties to a gradient, and return the penalties."""
    found = 0.0
    for layer in range(network.penalties.size):
        penalty, begin = network.penalties[layer], places[layer]
        if penalty > 0:
            end = begin + network.sizes[layer] * padded(network.sizes[layer + 1])
            kernel = weights[begin:end]
            found += penalty * total_product(kernel, kernel)
            for i in range(begin, end):
                gradient[i] += (penalty + penalty) * weights[i]
    return found


@kernel
def run(
    features: Any, labels: Any, order: Any, batch_size: int, network: Any, kind: int, quantile: Any,
    row_weights: Any, optimizer: int, numbers: Any, rate: Any, count: int, weights: Any, slots: Any,
    products: Any, outputs: Any,
) -> Any:  # fmt: skip
    """Learn from the rows of `order` in batches, or fill `outputs`, as `kernels.run` does.

    `products` (1,) is Nadam's, of its momenta so far; changed.
    """
    learns = outputs.shape[0] == 0
    whole = learns and network.norms.any()  # the moments of a batch are those of all its rows
    block = padded(min(batch_size, order.size)) if whole else np.int64(BLOCK)
    buffers, gradient = _buffers(network, weights, block), np.zeros_like(weights)
    n_outputs, loss, followed = network.sizes[-1], 0.0, 0
    for batch in range(0, order.size, batch_size):
        batch_rows = min(batch_size, order.size - batch)
        share = weights.dtype.type(batch_rows)
        for first in range(batch, batch + batch_rows, block):
            rows = min(block, batch + batch_rows - first)
            columns = padded(rows)
            gather(features, order, first, rows, columns, buffers.starts, buffers.flows)
            _forward(network, weights, buffers, rows, columns, count, first - batch, batch_size, learns)
            begin = buffers.heights[-1] * columns
            logits = buffers.flows[begin : begin + n_outputs * columns]
            found = buffers.changes[begin : begin + n_outputs * columns]
            most = buffers.most[: 2 * columns].reshape((2, columns))
            losses, hits = head(
                labels, order, first, rows, logits, found, most, kind, quantile, row_weights, learns
            )
            loss += losses
            followed += hits
            if learns:
                for i in range(n_outputs * columns):
                    found[i] /= share
                _backward(network, weights, buffers, rows, columns, gradient, first > batch)
            else:
                write_outputs(found, first, rows, columns, outputs)
        loss += _penalize(network, weights, buffers.places, gradient) * batch_rows
        if learns:
            count += 1
            update(optimizer, weights, gradient, slots, rate, count, numbers, products)
    return loss, followed
