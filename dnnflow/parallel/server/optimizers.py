"""Keras' commonest optimizers in numpy, on one flat vector, in place and block by block.

The formulas, their order, their defaults and the rounding of their numbers are those of Keras 3, so that a
server with one replica learns what `fit` does. Blocks fit the processor's cache: weights, slots and gradient
are read from memory once an update, and nothing of the vector's length is made on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.spec.algorithm import OptimizerSpec

BLOCK = 65_536
"""Entries of a block, 256 kB of float32. With 4,096 an update of 25 million took up to twice as long."""

Numbers = tuple[Any, ...]
"""What a rule needs of one step beside vectors: rates and powers, in the type of the weights."""
Slots = Sequence[Vector]
Scratch = tuple[Vector, Vector]


def blocks(size: int) -> list[slice]:
    """Return slices of at most `BLOCK` entries that cover a vector; one empty slice for an empty vector."""
    return [slice(start, min(start + BLOCK, size)) for start in range(0, max(size, 1), BLOCK)]


def scratch_of(views: Sequence[Vector]) -> list[Scratch]:
    """Return two vectors of each view's length, which share their memory with those of the other views."""
    size, dtype = max(view.size for view in views), views[0].dtype
    a, b = np.empty(size, dtype), np.empty(size, dtype)
    return [(a[: view.size], b[: view.size]) for view in views]


def keras_number(value: float, dtype: np.dtype[Any]) -> Any:
    """Return a number as Keras' `cast` does: by way of float32, also where weights are float64."""
    return dtype.type(np.float32(value))


def sgd(x: Vector, g: Vector, slots: Slots, numbers: Numbers, scratch: Scratch) -> None:
    """Step by stochastic gradient descent, with a slot for momentum m or without.

    Without: x ← x - rate · g. With (Sutskever et al. 2013, equations 1 to 4, as Keras has them):
    m ← momentum · m - rate · g; x ← x + m, or with Nesterov's form x ← x + momentum · m - rate · g.
    """
    rate, momentum, nesterov = numbers
    a, b = scratch
    np.multiply(g, rate, out=a)
    if not slots:
        np.subtract(x, a, out=x)
        return
    (m,) = slots
    np.multiply(m, momentum, out=m)
    np.subtract(m, a, out=m)
    if not nesterov:
        np.add(x, m, out=x)
        return
    np.multiply(m, momentum, out=b)
    np.subtract(b, a, out=b)
    np.add(x, b, out=x)


def adam(x: Vector, g: Vector, slots: Slots, numbers: Numbers, scratch: Scratch) -> None:
    """Step by Adam (Kingma and Ba 2015, algorithm 1, the bias corrections in the rate α as in section 2).

    m ← m + (1 - β₁)(g - m); v ← v + (1 - β₂)(g² - v); x ← x - α · m / (√v + ε). With a third slot AMSGrad
    (Reddi et al. 2018, algorithm 2): v̂ ← max(v̂, v) stands for v in the last.
    """
    alpha, rest_1, rest_2, epsilon = numbers
    a, b = scratch
    m, v = slots[:2]
    np.subtract(g, m, out=a)
    np.multiply(a, rest_1, out=a)
    np.add(m, a, out=m)
    np.multiply(g, g, out=a)
    np.subtract(a, v, out=a)
    np.multiply(a, rest_2, out=a)
    np.add(v, a, out=v)
    if len(slots) == 3:
        v = np.maximum(slots[2], v, out=slots[2])
    np.sqrt(v, out=b)
    np.add(b, epsilon, out=b)
    np.multiply(m, alpha, out=a)
    np.divide(a, b, out=a)
    np.subtract(x, a, out=x)


def rmsprop(x: Vector, g: Vector, slots: Slots, numbers: Numbers, scratch: Scratch) -> None:
    """Step by RMSprop (Tieleman and Hinton 2012, lecture 6.5; centred as in Graves 2013, equations 38 to 45).

    v ← ρ · v + (1 - ρ) · g²; u = rate · g / √(v + ε); x ← x - u. With momentum: m ← momentum · m + u;
    x ← x - m. Centred: ḡ ← ρ · ḡ + (1 - ρ) · g, and v - ḡ² stands for v in u.
    """
    rate, rho, rest, epsilon, momentum = numbers
    a, b = scratch
    v = slots[0]
    np.multiply(g, g, out=a)
    np.multiply(a, rest, out=a)
    np.multiply(v, rho, out=v)
    np.add(v, a, out=v)
    root = v
    if len(slots) == 2 + bool(momentum):
        mean = slots[-1]
        np.multiply(g, rest, out=a)
        np.multiply(mean, rho, out=mean)
        np.add(mean, a, out=mean)
        np.multiply(mean, mean, out=b)
        root = np.subtract(v, b, out=b)
    np.add(root, epsilon, out=b)
    np.sqrt(b, out=b)
    np.multiply(g, rate, out=a)
    np.divide(a, b, out=a)
    if momentum:
        m = slots[1]
        np.multiply(m, momentum, out=m)
        a = np.add(m, a, out=m)
    np.subtract(x, a, out=x)


def adagrad(x: Vector, g: Vector, slots: Slots, numbers: Numbers, scratch: Scratch) -> None:
    """Step by Adagrad (Duchi et al. 2011, figure 1, diagonal): s ← s + g²; x ← x - rate · g / √(s + ε)."""
    rate, epsilon = numbers
    a, b = scratch
    (total,) = slots
    np.multiply(g, g, out=a)
    np.add(total, a, out=total)
    np.add(total, epsilon, out=b)
    np.sqrt(b, out=b)
    np.multiply(g, rate, out=a)
    np.divide(a, b, out=a)
    np.subtract(x, a, out=x)


def decay(x: Vector, weight_decay: Any, rate: Any, scratch: Scratch) -> None:
    """Shrink weights beside the gradient: x ← x - rate · weight_decay · x.

    Decoupled decay (Loshchilov and Hutter 2019, algorithm 2), before the step, as Keras has it.
    """
    np.multiply(x, weight_decay, out=scratch[0])
    np.multiply(scratch[0], rate, out=scratch[0])
    np.subtract(x, scratch[0], out=x)


Given = Mapping[str, Any]
NumbersOfStep = Callable[[Any, int], Numbers]
"""From the rate, in the type of the weights, and the count of steps."""


def _constants(dtype: np.dtype[Any], *values: float) -> Numbers:
    """Return numbers as arrays without a dimension: numpy takes half as long with them as with floats."""
    return tuple(np.array(value, dtype) for value in values)


def _sgd_numbers(given: Given, dtype: np.dtype[Any]) -> NumbersOfStep:
    momentum = np.array(keras_number(given["momentum"], dtype))
    return lambda rate, _: (np.array(rate), momentum, given["nesterov"])


def _adam_numbers(given: Given, dtype: np.dtype[Any]) -> NumbersOfStep:
    constants = _constants(dtype, 1 - given["beta_1"], 1 - given["beta_2"], given["epsilon"])
    beta_1, beta_2 = (keras_number(given[name], dtype) for name in ("beta_1", "beta_2"))
    one = dtype.type(1)

    def numbers(rate: Any, steps: int) -> Numbers:
        power = dtype.type(steps)
        alpha = rate * np.sqrt(one - beta_2**power) / (one - beta_1**power)
        return np.array(alpha), *constants

    return numbers


def _rmsprop_numbers(given: Given, dtype: np.dtype[Any]) -> NumbersOfStep:
    rho, momentum = given["rho"], given["momentum"]
    constants = _constants(dtype, rho, 1 - rho, given["epsilon"], momentum)
    return lambda rate, _: (np.array(rate), *constants)


def _adagrad_numbers(given: Given, dtype: np.dtype[Any]) -> NumbersOfStep:
    constants = _constants(dtype, given["epsilon"])
    return lambda rate, _: (np.array(rate), *constants)


def _sgd_slots(given: Given) -> dict[str, float]:
    return {"momentum": 0.0} if given["momentum"] else {}


def _adam_slots(given: Given) -> dict[str, float]:
    return {"mean": 0.0, "square": 0.0} | ({"square_max": 0.0} if given["amsgrad"] else {})


def _rmsprop_slots(given: Given) -> dict[str, float]:
    names = {"square": True, "momentum": given["momentum"], "mean": given["centered"]}
    return {name: 0.0 for name, used in names.items() if used}


def _adagrad_slots(given: Given) -> dict[str, float]:
    return {"square_sum": given["initial_accumulator_value"]}


@dataclass(frozen=True)
class _Rule:
    change: Callable[[Vector, Vector, Slots, Numbers, Scratch], None]
    numbers: Callable[[Given, np.dtype[Any]], NumbersOfStep]
    slots: Callable[[Given], dict[str, float]]
    """What is kept beside the weights, and its first value."""
    defaults: Given
    """Keras' parameters and their defaults."""


_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}
_RULES: Mapping[str, _Rule] = {
    "sgd": _Rule(sgd, _sgd_numbers, _sgd_slots, {"momentum": 0.0, "nesterov": False, "weight_decay": None}),
    "adam": _Rule(adam, _adam_numbers, _adam_slots, _ADAM | {"weight_decay": None}),
    "adamw": _Rule(adam, _adam_numbers, _adam_slots, _ADAM | {"weight_decay": 0.004}),
    "rmsprop": _Rule(
        rmsprop, _rmsprop_numbers, _rmsprop_slots,
        {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False, "weight_decay": None},
    ),
    "adagrad": _Rule(
        adagrad, _adagrad_numbers, _adagrad_slots,
        {"initial_accumulator_value": 0.1, "epsilon": 1e-7, "weight_decay": None},
    ),
}  # fmt: skip


def is_flat(spec: OptimizerSpec) -> bool:
    """Say whether an optimizer is one of this module, with all of its parameters."""
    used = {name for name, value in spec.parameters.items() if value is not None}
    return spec.name in _RULES and used <= set(_RULES[spec.name].defaults)


class FlatOptimizer:
    """An optimizer's state beside the vector that it changes.

    Not thread-safe: whoever calls it holds a lock.

    Attributes
    ----------
    slots
        What the optimizer keeps for each weight, by name; vectors of the weights' shape.
    steps
        How many updates were begun.
    parts
        The blocks in which the vector is changed, each by `change`.
    """

    def __init__(self, spec: OptimizerSpec, weights: Vector) -> None:
        """Begin with a vector of weights, which later updates change in place."""
        rule, dtype = _RULES[spec.name], weights.dtype
        parameters = {name: value for name, value in spec.parameters.items() if value is not None}
        given: Given = {**rule.defaults, **parameters}
        self._change, self._numbers_of, self._dtype = rule.change, rule.numbers(given, dtype), dtype
        weight_decay = given["weight_decay"]
        self._weight_decay = None if weight_decay is None else np.array(keras_number(weight_decay, dtype))
        slots = rule.slots(given).items()
        self.slots: dict[str, Vector] = {
            name: np.full_like(weights, keras_number(first, dtype)) for name, first in slots
        }
        self.steps = 0
        self.parts = blocks(weights.size)
        self.views = [weights[part] for part in self.parts]
        self._slot_views = [[slot[part] for slot in self.slots.values()] for part in self.parts]
        self._scratch = scratch_of(self.views)
        self._given_rate, self._rate = 0.0, dtype.type(0)
        self._numbers: Numbers = ()

    def begin(self, rate: float) -> None:
        """Begin an update at a learning rate; `change` then is called once for each of `parts`."""
        self.steps += 1
        if rate != self._given_rate:
            self._given_rate, self._rate = rate, keras_number(rate, self._dtype)
        self._numbers = self._numbers_of(self._rate, self.steps)

    def change(self, index: int, gradient: Vector) -> None:
        """Change the block of an index by its gradient."""
        weights, scratch = self.views[index], self._scratch[index]
        if self._weight_decay is not None:
            decay(weights, self._weight_decay, np.array(self._rate), scratch)
        self._change(weights, gradient, self._slot_views[index], self._numbers, scratch)

    def apply(self, gradient: Vector, rate: float) -> None:
        """Change the whole vector by its gradient."""
        self.begin(rate)
        for index, part in enumerate(self.parts):
            self.change(index, gradient[part])
