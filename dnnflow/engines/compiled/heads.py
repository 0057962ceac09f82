"""Compute a network's loss, its outputs, and the slope towards the sums of its last layer."""

from typing import Any

import numpy as np

from dnnflow.engines.compiled.kernel_math import compiled, exponential, tangent

_CROSS_ENTROPY, _BINARY_CROSS_ENTROPY, _SQUARED, _ABSOLUTE, _HUBER, _QUANTILE = range(6)
"""Places in `compiled_engine.LOSSES`."""


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
def _number_losses(
    labels: Any, order: Any, first: int, rows: int, logits: Any, slopes: Any, columns: int, kind: int,
    quantile: Any, row_weights: Any,
) -> Any:  # fmt: skip
    """Fill `slopes` with those of the rows' losses, each the mean over outputs; return as `head` does."""
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


@compiled
def head(
    labels: Any, order: Any, first: int, rows: int, logits: Any, found: Any, most: Any, kind: int,
    quantile: Any, row_weights: Any, learns: bool,
) -> Any:  # fmt: skip
    """Fill `found` with the loss's slopes towards logits, or else with outputs; return two sums over rows.

    They are of losses, and of what is followed: rows whose class was predicted; of labels the shares that
    were; of numbers squared errors, each the mean over targets. Where labels have one axis, the loss is the
    cross-entropy.
    """
    columns = most.shape[1]
    if labels.ndim == 1:  # known when this is compiled
        _softmax(logits, columns, found, most)
        if row_weights.size:
            loss = _weighted_losses(logits, labels, order, first, rows, most, row_weights)
        else:
            loss = _losses(logits, labels, order, first, rows, most)
        followed = _hits(logits, labels, order, first, rows, most)
        if learns:
            for row in range(rows):
                found[labels[order[first + row]] * columns + row] -= 1
    else:
        loss, followed = _number_losses(
            labels, order, first, rows, logits, found, columns, kind, quantile, row_weights
        )
        if not learns:
            _fill_outputs(logits, found, kind)
    if learns and row_weights.size:
        for begin in range(0, logits.size, columns):
            for row in range(rows):
                found[begin + row] *= found.dtype.type(row_weights[order[first + row]])
    return loss, followed


@compiled
def _fill_outputs(logits: Any, outputs: Any, kind: int) -> None:
    """Fill `outputs` with probabilities of labels, or with numbers."""
    half = outputs.dtype.type(0.5)
    for i in range(logits.size):
        x = logits[i]
        outputs[i] = half * tangent(half * x) + half if kind == _BINARY_CROSS_ENTROPY else x
