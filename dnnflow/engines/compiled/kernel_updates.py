"""Change weights by their gradients, by the formulas of Keras' optimizers."""

from typing import Any

import numpy as np
from numba.extending import register_jitable

from dnnflow.engines.compiled.kernel_math import OPTIONS, compiled

SGD, ADAM, AMSGRAD, NADAM, ADAMAX, RMSPROP, ADAGRAD, ADADELTA, LION = range(9)
"""Kinds of optimizer; AdamW is Adam with a decay."""


@compiled
def sgd(weights: Any, gradient: Any, momenta: Any, rate: Any, momentum: Any, nesterov: bool) -> None:
    """m ← momentum · m - rate · g; w ← w + m, or with Nesterov w + momentum · m - rate · g."""
    if momentum == 0:
        for i in range(weights.size):
            weights[i] -= rate * gradient[i]
        return
    for i in range(weights.size):
        momenta[i] = momentum * momenta[i] - rate * gradient[i]
        weights[i] += momentum * momenta[i] - rate * gradient[i] if nesterov else momenta[i]


@compiled
def adam(weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any) -> None:
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


@register_jitable(**OPTIONS)  # type: ignore[untyped-decorator]
def _followed(average: Any, value: Any, share: Any) -> Any:
    """Return an average that has moved by a share towards a value."""
    return average + (value - average) * share


@compiled
def _amsgrad(weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any) -> None:
    """Reddi, Kale and Kumar (2018): Adam by the largest square so far."""
    beta_1, beta_2, share_1, share_2, epsilon, decay = numbers
    one, steps = weights.dtype.type(1), weights.dtype.type(count)
    step = rate * np.sqrt(one - beta_2**steps) / (one - beta_1**steps)
    for i in range(weights.size):
        weights[i] -= weights[i] * decay * rate
        slots[0, i] = _followed(slots[0, i], gradient[i], share_1)
        slots[1, i] = _followed(slots[1, i], gradient[i] * gradient[i], share_2)
        slots[2, i] = max(slots[2, i], slots[1, i])
        weights[i] -= slots[0, i] * step / (np.sqrt(slots[2, i]) + epsilon)


@compiled
def _nadam(
    weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any, products: Any
) -> None:
    """Dozat (2016), whose momentum changes from step to step; `products` (1,) is that of all so far."""
    beta_1, beta_2, share_1, share_2, epsilon, decline = numbers
    one, half, steps = weights.dtype.type(1), weights.dtype.type(0.5), weights.dtype.type(count)
    now = beta_1 * (one - half * decline**steps)
    following = beta_1 * (one - half * decline ** (steps + one))
    products[0] *= now
    ahead, here = following / (one - products[0] * following), (one - now) / (one - products[0])
    correction = one - beta_2**steps
    for i in range(weights.size):
        slots[0, i] = _followed(slots[0, i], gradient[i], share_1)
        slots[1, i] = _followed(slots[1, i], gradient[i] * gradient[i], share_2)
        change = ahead * slots[0, i] + here * gradient[i]
        weights[i] -= change * rate / (np.sqrt(slots[1, i] / correction) + epsilon)


@compiled
def _adamax(weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any) -> None:
    """Section 7.1 of Kingma and Ba (2015)."""
    power, beta_2, share_1, epsilon = numbers[:4]
    step = rate / (weights.dtype.type(1) - power ** weights.dtype.type(count))
    for i in range(weights.size):
        slots[0, i] = _followed(slots[0, i], gradient[i], share_1)
        slots[1, i] = max(beta_2 * slots[1, i], abs(gradient[i]))
        weights[i] -= slots[0, i] * step / (slots[1, i] + epsilon)


@compiled
def _rmsprop(weights: Any, gradient: Any, slots: Any, rate: Any, numbers: Any) -> None:
    """Tieleman and Hinton (2012); centered as in Graves (2013)."""
    share, momentum, epsilon, centered = numbers[:4]
    for i in range(weights.size):
        slots[0, i] = _followed(slots[0, i], gradient[i] * gradient[i], share)
        slots[1, i] = _followed(slots[1, i], gradient[i], share)
        variance = slots[0, i] + epsilon - centered * slots[1, i] * slots[1, i]
        slots[2, i] = momentum * slots[2, i] + rate * gradient[i] / np.sqrt(variance)
        weights[i] -= slots[2, i]


@compiled
def _adagrad(weights: Any, gradient: Any, slots: Any, rate: Any, numbers: Any) -> None:
    """Duchi, Hazan and Singer (2011)."""
    for i in range(weights.size):
        slots[0, i] += gradient[i] * gradient[i]
        weights[i] -= rate * gradient[i] / np.sqrt(slots[0, i] + numbers[0])


@compiled
def _adadelta(weights: Any, gradient: Any, slots: Any, rate: Any, numbers: Any) -> None:
    """Algorithm 1 of Zeiler (2012)."""
    share, epsilon = numbers[:2]
    for i in range(weights.size):
        slots[0, i] = _followed(slots[0, i], gradient[i] * gradient[i], share)
        change = np.sqrt(slots[1, i] + epsilon) * gradient[i] / np.sqrt(slots[0, i] + epsilon)
        slots[1, i] = _followed(slots[1, i], change * change, share)
        weights[i] -= rate * change


@compiled
def _lion(weights: Any, gradient: Any, slots: Any, rate: Any, numbers: Any) -> None:
    """Chen et al. (2023)."""
    for i in range(weights.size):
        blend = _followed(slots[0, i], gradient[i], numbers[0])
        weights[i] -= rate * np.sign(blend)
        slots[0, i] = _followed(slots[0, i], gradient[i], numbers[1])


@compiled
def update(
    optimizer: int, weights: Any, gradient: Any, slots: Any, rate: Any, count: int, numbers: Any,
    products: Any,
) -> None:  # fmt: skip
    """Change weights (weights,) and an optimizer's slots (slots, weights) by a gradient.

    `count` are the steps, this one included; `numbers` as `compiled_engine` gives them.
    """
    if optimizer == SGD:
        sgd(weights, gradient, slots[0], rate, numbers[0], numbers[1] != 0)
    elif optimizer == ADAM:
        adam(weights, gradient, slots, rate, count, numbers)
    elif optimizer == AMSGRAD:
        _amsgrad(weights, gradient, slots, rate, count, numbers)
    elif optimizer == NADAM:
        _nadam(weights, gradient, slots, rate, count, numbers, products)
    elif optimizer == ADAMAX:
        _adamax(weights, gradient, slots, rate, count, numbers)
    elif optimizer == RMSPROP:
        _rmsprop(weights, gradient, slots, rate, numbers)
    elif optimizer == ADAGRAD:
        _adagrad(weights, gradient, slots, rate, numbers)
    elif optimizer == ADADELTA:
        _adadelta(weights, gradient, slots, rate, numbers)
    else:
        _lion(weights, gradient, slots, rate, numbers)
