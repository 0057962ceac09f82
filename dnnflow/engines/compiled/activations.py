"""Compute activations and their slopes, a layer at a time.

The slope of a plain activation follows from its output. Another one is a small function of a layer's sum that
gives both, and a branch in `activate_with_slopes`.
"""

import math
from typing import Any

import numpy as np
from numba.extending import register_jitable

from dnnflow.engines.compiled.kernel_math import (
    OPTIONS,
    compiled,
    error_function,
    exponential,
    log_of_one_plus,
    tangent,
)

_LINEAR, _RELU, _LEAKY_RELU, _ELU, _SELU, _TANH, _SIGMOID, _SOFTSIGN = range(8)
"""Places in `compiled_engine.ACTIVATIONS` of those whose slope follows from their output."""
N_PLAIN = 8
"""How many these are."""
(_GELU, _SILU, _SOFTPLUS, _EXPONENTIAL, _HARD_SIGMOID, _HARD_TANH, _HARD_SILU, _MISH, _RELU6,
 _LOG_SIGMOID) = range(N_PLAIN, 18)  # fmt: skip
"""Places of the others."""

_LEAK = float(np.float32(0.2))
"""Slope of `leaky_relu` below zero: Keras' default, as TensorFlow rounds it for weights of any type."""
_SELU_SCALE, _SELU_ALPHA = 1.05070098735548049, 1.67326324235437728
"""Klambauer et al. (2017), section 3."""
_ROOT_HALF = float(np.float32(0.5**0.5))
"""As TensorFlow rounds it for weights of any type."""
_PEAK = math.pi**-0.5
"""The slope of erf at 0, halved."""


@compiled
def activate(kind: int, values: Any) -> None:
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


@compiled
def multiply_by_slope(kind: int, outputs: Any, changes: Any) -> None:
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


def _of_sums(function: Any) -> Any:
    """Make a function of a layer's sum and the type of numbers part of the loops that call it."""
    return register_jitable(**OPTIONS, forceinline=True)(function)


@_of_sums
def _share(x: Any, number: Any) -> Any:
    """Return the logistic function."""
    return number(0.5) * tangent(number(0.5) * x) + number(0.5)


@_of_sums
def _gelu(x: Any, number: Any) -> Any:
    """Hendrycks and Gimpel (2016), exact: x times the normal distribution up to x."""
    y = x * number(_ROOT_HALF)
    below = number(0.5) + number(0.5) * error_function(y)
    return x * below, below + y * exponential(-y * y) * number(_PEAK)


@_of_sums
def _silu(x: Any, number: Any) -> Any:
    share = _share(x, number)
    return x * share, share * (number(1) + x * (number(1) - share))


@_of_sums
def _softplus(x: Any, number: Any) -> Any:
    above = x if x > 0 else number(0)
    return above + log_of_one_plus(exponential(-abs(x))), _share(x, number)


@_of_sums
def _log_sigmoid(x: Any, number: Any) -> Any:
    value, share = _softplus(-x, number)
    return -value, share


@_of_sums
def _exponential(x: Any, number: Any) -> Any:
    value = exponential(x)
    return value, value


@_of_sums
def _clipped(x: Any, least: Any, most: Any, number: Any) -> Any:
    """Return x within bounds, and 1 where it was; NaN stays NaN."""
    value = least if x < least else (most if x > most else x)
    return value, (number(0) if x <= least or x >= most else number(1))


@_of_sums
def _hard_sigmoid(x: Any, number: Any) -> Any:
    value, within = _clipped(x / number(6) + number(0.5), number(0), number(1), number)
    return value, within / number(6)


@_of_sums
def _hard_silu(x: Any, number: Any) -> Any:
    share, slope = _hard_sigmoid(x, number)
    return x * share, share + x * slope


@_of_sums
def _hard_tanh(x: Any, number: Any) -> Any:
    return _clipped(x, number(-1), number(1), number)


@_of_sums
def _relu6(x: Any, number: Any) -> Any:
    return _clipped(x, number(0), number(6), number)


@_of_sums
def _mish(x: Any, number: Any) -> Any:
    """Misra (2019): x · tanh(softplus(x)), where tanh(log(1 + w)) = (w² + 2w) / (w² + 2w + 2)."""
    power = exponential(x if x < 20 else number(20))
    rising = power * (power + number(2))
    bent = rising / (rising + number(2))
    bent = bent if x < 20 else number(1)
    return x * bent, bent + x * (number(1) - bent * bent) * _share(x, number)


@compiled
def activate_with_slopes(kind: int, values: Any, slopes: Any) -> None:
    """Replace a layer's sums by its outputs, and fill `slopes` with those at the sums."""
    number = values.dtype.type
    if kind < N_PLAIN:
        activate(kind, values)
        slopes[:] = 1
        multiply_by_slope(kind, values, slopes)
    elif kind == _GELU:
        for i in range(values.size):
            values[i], slopes[i] = _gelu(values[i], number)
    elif kind == _SILU:
        for i in range(values.size):
            values[i], slopes[i] = _silu(values[i], number)
    elif kind == _SOFTPLUS:
        for i in range(values.size):
            values[i], slopes[i] = _softplus(values[i], number)
    elif kind == _EXPONENTIAL:
        for i in range(values.size):
            values[i], slopes[i] = _exponential(values[i], number)
    elif kind == _HARD_SIGMOID:
        for i in range(values.size):
            values[i], slopes[i] = _hard_sigmoid(values[i], number)
    elif kind == _HARD_TANH:
        for i in range(values.size):
            values[i], slopes[i] = _hard_tanh(values[i], number)
    elif kind == _HARD_SILU:
        for i in range(values.size):
            values[i], slopes[i] = _hard_silu(values[i], number)
    elif kind == _MISH:
        for i in range(values.size):
            values[i], slopes[i] = _mish(values[i], number)
    elif kind == _RELU6:
        for i in range(values.size):
            values[i], slopes[i] = _relu6(values[i], number)
    elif kind == _LOG_SIGMOID:
        for i in range(values.size):
            values[i], slopes[i] = _log_sigmoid(values[i], number)
