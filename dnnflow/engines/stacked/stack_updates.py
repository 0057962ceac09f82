"""Update the weights of a stack by the formulas of Keras' optimizers, with a rate for each design.

Written as elementwise operations of TensorFlow, a step of Adam reads and writes every weight a dozen times.
TensorFlow has fused operations for SGD with momentum and for Adam, but they know a single rate. SGD's rate
goes into the gradient. Adam's cannot, as Adam divides by the gradient's size; its weights are therefore kept
in units of their design's rate, w = rate · u, in which every design's rate is 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnflow.design.layers import Optimizer
from dnnflow.engines.keras.keras_updates import adam_numbers, all_parameters, keras_number, keras_power

_SMALLEST_RATE = 1e-20
"""A rate below which no step changes a weight. It keeps units finite where a schedule ends at zero."""


class StackStep(NamedTuple):
    """One step of one array of weights, whose shape all but `rate` and `count` have."""

    weight: Any
    slots: Sequence[Any]
    gradient: Any
    rate: Any
    """(designs, 1, 1): each design's learning rate."""
    count: Any
    """Steps so far, this one included."""
    given: Mapping[str, Any]
    """The optimizer's parameters."""


class StackUpdate:
    """The learned weights of a stack and what an optimizer, but for its rate, keeps beside them.

    `ranks` are those of the arrays of weights, whose first axis is that of the designs.
    """

    def __init__(self, optimizer: Optimizer, ranks: Sequence[int], dtype: str) -> None:
        self._given = all_parameters(optimizer)
        self._formula = _FORMULAS[optimizer.name]
        self._dtype = dtype
        self.weights = [empty_variable(rank, dtype) for rank in ranks]
        count = _count_slots(optimizer.name, self._given)
        self._slots = [[empty_variable(rank, dtype) for _ in range(count)] for rank in ranks]
        self._rates = empty_variable(1, dtype)
        self._count = tf.Variable(0.0, dtype=dtype, trainable=False)  # exact up to 2^24 steps

    @property
    def per_design(self) -> list[Any]:
        """All variables with an axis of designs."""
        return [*self.weights, *(slot for slots in self._slots for slot in slots), self._rates]

    def restart(self, values: Sequence[np.ndarray], rates: np.ndarray) -> None:
        """Take weights and the learning rates (designs,) of the first epoch, and forget all steps."""
        self._rates.assign(rates)
        self._count.assign(0.0)
        first = self._given.get("initial_accumulator_value", 0.0)
        for weight, slots, value in zip(self.weights, self._slots, values, strict=True):
            weight.assign(value)
            for slot in slots:
                slot.assign(np.full(value.shape, np.float32(first), self._dtype))

    def set_rates(self, rates: np.ndarray) -> None:
        """Set the learning rates (designs,) of the steps that follow."""
        self._rates.assign(rates)

    def read(self) -> list[Any]:
        """Return the weights; traced."""
        return [weight.read_value() for weight in self.weights]

    def step(self, gradients: Sequence[Any]) -> None:
        """Change the weights by their gradients; traced."""
        count = self._count.assign_add(1.0)
        given = self._parameters(count)
        rates = self._rates_by_rank()
        for weight, slots, gradient in zip(self.weights, self._slots, gradients, strict=True):
            self._formula(StackStep(weight, slots, gradient, rates[weight.shape.rank], count, given))

    def _parameters(self, count: Any) -> Mapping[str, Any]:
        """Return what a step's formula is given; traced."""
        return self._given

    def _rates_by_rank(self) -> dict[int, Any]:
        """Return the rates beside arrays of each rank; read once a step, as small operations add up."""
        rates = self._rates.read_value()
        return {rank: _beside(rates, rank) for rank in {weight.shape.rank for weight in self.weights}}


class StackAdam(StackUpdate):
    """Adam and AdamW by TensorFlow's fused operation, on weights in units of their design's rate."""

    def restart(self, values: Sequence[np.ndarray], rates: np.ndarray) -> None:
        """Take weights and rates as `StackUpdate` does."""
        rates = np.maximum(rates, _SMALLEST_RATE).astype(self._dtype)
        super().restart([value / _beside(rates, value.ndim) for value in values], rates)

    def set_rates(self, rates: np.ndarray) -> None:
        """Set the rates and express the weights in them."""
        before, rates = self._rates.numpy(), np.maximum(rates, _SMALLEST_RATE).astype(self._dtype)
        if np.array_equal(before, rates):
            return
        self._rates.assign(rates)
        for weight in self.weights:
            weight.assign(weight * _beside(before / rates, weight.shape.rank))

    def read(self) -> list[Any]:
        """Return the weights; traced."""
        rates = self._rates_by_rank()
        return [weight * rates[weight.shape.rank] for weight in self.weights]

    def _parameters(self, count: Any) -> Mapping[str, Any]:
        return {**self._given, "numbers": adam_numbers(self._given, count)}


class StackNadam(StackUpdate):
    """Nadam, whose momentum changes from step to step: the product of all so far goes into its formula."""

    def __init__(self, optimizer: Optimizer, ranks: Sequence[int], dtype: str) -> None:
        super().__init__(optimizer, ranks, dtype)
        self._product = tf.Variable(1.0, dtype=dtype, trainable=False)

    def restart(self, values: Sequence[np.ndarray], rates: np.ndarray) -> None:
        """Take weights and rates as `StackUpdate` does."""
        super().restart(values, rates)
        self._product.assign(1.0)

    def _parameters(self, count: Any) -> Mapping[str, Any]:
        momentum = _nadam_momentum(self._given["beta_1"], count)
        return {**self._given, "product": self._product.assign(self._product * momentum)}


def make_update(optimizer: Optimizer, ranks: Sequence[int], dtype: str) -> StackUpdate:
    """Return the update of an optimizer for arrays of these ranks."""
    kinds = {"adam": StackAdam, "adamw": StackAdam, "nadam": StackNadam}
    return kinds.get(optimizer.name, StackUpdate)(optimizer, ranks, dtype)


def _adam(step: StackStep) -> None:
    """Equations 1 to 4 of Kingma and Ba (2015); the weight is in units of the rate."""
    given, slots = step.given, step.slots
    if given.get("weight_decay"):
        step.weight.assign_sub(step.weight * given["weight_decay"] * step.rate, read_value=False)
    arguments = {
        "var": step.weight.handle, "m": slots[0].handle, "v": slots[1].handle, "grad": step.gradient,
        **given["numbers"],
    }  # fmt: skip
    if given["amsgrad"]:
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=slots[2].handle, **arguments)
    else:
        tf.raw_ops.ResourceApplyAdam(**arguments)


def _sgd(step: StackStep) -> None:
    """m ← momentum · m - rate · g; w ← w + m, or with Nesterov w + momentum · m - rate · g."""
    change = step.gradient * step.rate
    if not step.slots:
        step.weight.assign_sub(change, read_value=False)
        return
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=step.weight.handle, accum=step.slots[0].handle, lr=tf.ones((), change.dtype), grad=change,
        momentum=keras_number(step.given["momentum"], change.dtype), use_nesterov=step.given["nesterov"],
    )  # fmt: skip


def _nadam(step: StackStep) -> None:
    """Dozat (2016)."""
    mean, square = step.slots
    given, gradient = step.given, step.gradient
    now, following = (_nadam_momentum(given["beta_1"], step.count + ahead) for ahead in (0.0, 1.0))
    _follow(mean, gradient, keras_number(given["beta_1"], gradient.dtype))
    _follow(square, tf.square(gradient), keras_number(given["beta_2"], gradient.dtype))
    product = given["product"]
    ahead = following * mean / (1 - product * following) + (1 - now) * gradient / (1 - product)
    root = tf.sqrt(square / (1 - keras_power(given["beta_2"], step.count)))
    step.weight.assign_sub(ahead * step.rate / (root + given["epsilon"]), read_value=False)


def _nadam_momentum(beta_1: float, count: Any) -> Any:
    return keras_number(beta_1, count.dtype) * (1 - 0.5 * keras_power(0.96, count))


def _adamax(step: StackStep) -> None:
    """Section 7.1 of Kingma and Ba (2015)."""
    mean, norm = step.slots
    given = step.given
    _follow(mean, step.gradient, given["beta_1"])
    norm.assign(tf.maximum(given["beta_2"] * norm, tf.abs(step.gradient)))
    scale = (1 - keras_power(given["beta_1"], step.count)) * (norm + given["epsilon"])
    step.weight.assign_sub(step.rate * mean / scale, read_value=False)


def _rmsprop(step: StackStep) -> None:
    """Tieleman and Hinton (2012); centered as in Graves (2013)."""
    slots, given, gradient = list(step.slots), step.given, step.gradient
    square = slots.pop(0)
    _follow(square, tf.square(gradient), given["rho"])
    variance = square + given["epsilon"]
    if given["centered"]:
        mean = slots.pop(0)
        _follow(mean, gradient, given["rho"])
        variance -= tf.square(mean)
    change = step.rate * gradient / tf.sqrt(variance)
    if slots:
        change = slots[0].assign(given["momentum"] * slots[0] + change)
    step.weight.assign_sub(change, read_value=False)


def _adagrad(step: StackStep) -> None:
    """Duchi, Hazan and Singer (2011)."""
    total = step.slots[0].assign_add(tf.square(step.gradient))
    change = step.rate * step.gradient / tf.sqrt(total + step.given["epsilon"])
    step.weight.assign_sub(change, read_value=False)


def _adadelta(step: StackStep) -> None:
    """Algorithm 1 of Zeiler (2012)."""
    gradients, changes = step.slots
    epsilon, rho = step.given["epsilon"], step.given["rho"]
    _follow(gradients, tf.square(step.gradient), rho)
    change = tf.sqrt(changes + epsilon) * step.gradient / tf.sqrt(gradients + epsilon)
    _follow(changes, tf.square(change), rho)
    step.weight.assign_sub(step.rate * change, read_value=False)


def _lion(step: StackStep) -> None:
    """Chen et al. (2023)."""
    (mean,) = step.slots
    given = step.given
    blend = mean * given["beta_1"] + step.gradient * (1 - given["beta_1"])
    step.weight.assign_sub(step.rate * tf.sign(blend), read_value=False)
    _follow(mean, step.gradient, given["beta_2"])


_FORMULAS: dict[str, Callable[[StackStep], None]] = {
    "sgd": _sgd, "adam": _adam, "adamw": _adam, "nadam": _nadam, "adamax": _adamax, "rmsprop": _rmsprop,
    "adagrad": _adagrad, "adadelta": _adadelta, "lion": _lion,
}  # fmt: skip


def _count_slots(name: str, given: Mapping[str, Any]) -> int:
    counts = {"adagrad": 1, "lion": 1}
    if name == "sgd":
        return bool(given["momentum"])
    if name == "rmsprop":
        return 1 + bool(given["centered"]) + bool(given["momentum"])
    return counts.get(name, 2) + bool(given.get("amsgrad"))


def _follow(average: Any, value: Any, share: Any) -> None:
    """Move an average towards a value: average ← share · average + (1 - share) · value."""
    average.assign_add((value - average) * (1 - share), read_value=False)


def _beside(per_design: Any, rank: int) -> Any:
    """Give (designs,) as many axes as what it is multiplied with: (designs, 1, 1)."""
    shape = (-1, *[1] * (rank - 1))
    return per_design.reshape(shape) if isinstance(per_design, np.ndarray) else tf.reshape(per_design, shape)


def empty_variable(rank: int, dtype: str) -> Any:
    """Make a variable of any size, with nothing in it."""
    return tf.Variable(np.zeros((0,) * rank, dtype), shape=[None] * rank, trainable=False)
