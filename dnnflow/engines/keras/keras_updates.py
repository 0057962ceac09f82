"""Update weights by Keras' optimizers, or by TensorFlow's fused operations where they do the same.

Keras writes an update as some 15 operations a weight, which is half of a small network's step and most of its
tracing. TensorFlow has SGD and Adam as one operation with the same formula.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.design.layers import Optimizer
from dnnflow.engines.keras.build import OPTIMIZERS, build_optimizer


class Update(ABC):
    """What changes weights by their gradients."""

    def __init__(self, weights: Sequence[Any]) -> None:
        self._weights = weights
        self._rate: Any = None

    @abstractmethod
    def restart(self) -> None:
        """Forget all steps; called when the weights are set to those of another design."""

    def begin(self, learning_rate: Any) -> None:
        """Set the learning rate of the steps that follow; traced."""
        self._rate = learning_rate

    @abstractmethod
    def step(self, gradients: Sequence[Any]) -> None:
        """Change each weight by its gradient; traced."""


class KerasUpdate(Update):
    """A Keras optimizer."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, weights: Sequence[Any]) -> None:
        super().__init__(list(weights))
        self._optimizer = optimizer
        optimizer.build(self._weights)
        self._first = [variable.numpy() for variable in optimizer.variables]

    def restart(self) -> None:
        """Set momenta and the count of steps to where the optimizer began."""
        for variable, value in zip(self._optimizer.variables, self._first, strict=True):
            variable.assign(value)

    def begin(self, learning_rate: Any) -> None:
        """Set the optimizer's learning rate."""
        self._optimizer.learning_rate.assign(learning_rate)

    def step(self, gradients: Sequence[Any]) -> None:
        """Apply the optimizer."""
        self._optimizer.apply_gradients(zip(gradients, self._weights, strict=True))


class SgdUpdate(Update):
    """Stochastic gradient descent with momentum, as `keras.optimizers.SGD`."""

    def __init__(self, optimizer: Optimizer, weights: Sequence[Any]) -> None:
        super().__init__(weights)
        given = all_parameters(optimizer)
        self._momentum, self._nesterov = given["momentum"], given["nesterov"]
        self._momenta = _slots(weights) if self._momentum else []

    def restart(self) -> None:
        """Set momenta to zero."""
        if self._momentum:
            _reset(self._weights, self._momenta)

    def step(self, gradients: Sequence[Any]) -> None:
        """m ← momentum · m - rate · g; w ← w + m, or with Nesterov w + momentum · m - rate · g."""
        if not self._momentum:
            for weight, gradient in zip(self._weights, gradients, strict=True):
                tf.raw_ops.ResourceApplyGradientDescent(var=weight.handle, alpha=self._rate, delta=gradient)
            return
        for weight, momentum, gradient in zip(self._weights, self._momenta, gradients, strict=True):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=weight.handle, accum=momentum.handle, lr=self._rate, grad=gradient,
                momentum=self._momentum, use_nesterov=self._nesterov,
            )  # fmt: skip


class AdamUpdate(Update):
    """Adam, and AdamW with its decay of weights, as `keras.optimizers.Adam` and `AdamW`."""

    def __init__(self, optimizer: Optimizer, weights: Sequence[Any]) -> None:
        super().__init__(weights)
        self._given = all_parameters(optimizer)
        self._decay = self._given["weight_decay"]
        self._means, self._squares = _slots(weights), _slots(weights)
        self._steps = tf.Variable(0.0, trainable=False)  # exact up to 2^24 steps

    def restart(self) -> None:
        """Set moments and the count of steps to zero."""
        _reset(self._weights, self._means, self._squares)
        self._steps.assign(0.0, read_value=False)

    def step(self, gradients: Sequence[Any]) -> None:
        """Equations 1 to 4 of Kingma and Ba (2015), with the bias corrections in the rate."""
        steps = self._steps.assign_add(1.0)
        numbers = adam_numbers(self._given, steps)
        rate = numbers.pop("lr") * self._rate
        slots = zip(self._weights, self._means, self._squares, gradients, strict=True)
        for weight, mean, square, gradient in slots:
            if self._decay:
                weight.assign_sub(weight * self._decay * self._rate)
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle, m=mean.handle, v=square.handle, grad=gradient, lr=rate, **numbers
            )


def adam_numbers(given: Mapping[str, Any], count: Any) -> dict[str, Any]:
    """Return what TensorFlow's fused Adam is given, so that it does what Keras does at a rate of 1; traced.

    The operation takes 1 - beta of rounded numbers: in float32 1 - 0.999 is off by 1.3e-5, where Keras
    subtracts before it rounds. Rate and epsilon make up for it. `count` are the steps so far, this one
    included, in the type of the weights.
    """
    kind = count.dtype.as_numpy_dtype
    betas = [given["beta_1"], given["beta_2"]]
    excess = [float((kind(1) - kind(beta)) / (1 - beta)) for beta in betas]
    root = math.sqrt(excess[1])
    numbers = {
        "beta1": betas[0],
        "beta2": betas[1],
        "lr": root / excess[0],
        "epsilon": given["epsilon"] * root,
    }
    powers = {f"beta{i}_power": keras_power(beta, count) for i, beta in enumerate(betas, start=1)}
    return {name: tf.constant(value, count.dtype) for name, value in numbers.items()} | powers


def keras_power(base: float, exponent: Any) -> Any:
    """Return a power as Keras has it."""
    return tf.pow(keras_number(base, exponent.dtype), exponent)


def keras_number(value: float, dtype: Any) -> Any:
    """Return a number as Keras' `ops.cast` does, by way of float32 also where weights are float64."""
    return tf.cast(tf.constant(value, tf.float32), dtype)


def make_update(optimizer: Optimizer, weights: Sequence[Any]) -> Update:
    """Return what updates weights as a design's optimizer says."""
    if not is_fused(optimizer):
        return KerasUpdate(build_optimizer(optimizer), weights)
    return SgdUpdate(optimizer, weights) if optimizer.name == "sgd" else AdamUpdate(optimizer, weights)


def is_fused(optimizer: Optimizer) -> bool:
    """Say whether an optimizer's update is one operation a weight, for weights of any width."""
    return optimizer.name == "sgd" or (
        optimizer.name in ("adam", "adamw") and not optimizer.parameters.get("amsgrad")
    )


def all_parameters(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's parameters, those of Keras where the design gives none."""
    signature = inspect.signature(OPTIMIZERS[optimizer.name]).parameters
    return {name: given.default for name, given in signature.items()} | dict(optimizer.parameters)


def _slots(weights: Sequence[Any]) -> list[Any]:
    """Make a variable of zeros beside each weight, of any width as they are."""
    return [
        tf.Variable(np.zeros(weight.numpy().shape, np.float32), shape=weight.shape, trainable=False)
        for weight in weights
    ]


def _reset(weights: Sequence[Any], *slots: Sequence[Any]) -> None:
    """Set the slots beside each weight to zeros of the width it has now."""
    for weight, *beside in zip(weights, *slots, strict=True):
        zeros = tf.zeros_like(weight)
        for slot in beside:
            slot.assign(zeros, read_value=False)
