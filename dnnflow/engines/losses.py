"""Name the loss that networks are trained with, by what is predicted and what a study asks for."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from dnnflow.errors import InputError
from dnnflow.table.columns.kinds import Task

LossName = Literal["auto", "mean_squared_error", "mean_absolute_error", "huber", "quantile"]


class LossKind(StrEnum):
    """A loss of a row, which is the mean over the network's outputs: d is output minus target."""

    CROSS_ENTROPY = "cross_entropy"
    """-log p of the row's class."""
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    """-log p of each label's value."""
    MEAN_SQUARED_ERROR = "mean_squared_error"
    """d²."""
    MEAN_ABSOLUTE_ERROR = "mean_absolute_error"
    """|d|."""
    HUBER = "huber"
    """d² / 2 up to 1, above |d| - 1/2 (Huber, Robust estimation of a location parameter, 1964)."""
    QUANTILE = "quantile"
    """q·(-d) of what is too low, (1 - q)·d of what is too high (Koenker and Bassett, Regression quantiles,
    1978)."""


@dataclass(frozen=True)
class Loss:
    """What training makes small, as Keras has it: the mean over outputs, then over rows."""

    kind: LossKind = LossKind.CROSS_ENTROPY
    quantile: float = 0.5
    """Of the quantile loss: 0 to 1."""

    @property
    def activation(self) -> Literal["softmax", "sigmoid", "linear"]:
        """Of the output layer."""
        if self.kind is LossKind.CROSS_ENTROPY:
            return "softmax"
        return "sigmoid" if self.kind is LossKind.BINARY_CROSS_ENTROPY else "linear"


CROSS_ENTROPY = Loss()
_DEFAULTS = {
    Task.CLASSIFICATION: LossKind.CROSS_ENTROPY,
    Task.MULTILABEL: LossKind.BINARY_CROSS_ENTROPY,
    Task.REGRESSION: LossKind.MEAN_SQUARED_ERROR,
}


def loss_of(name: LossName, quantile: float, task: Task) -> Loss:
    """Return the loss that a study asks for, else that of its task.

    Raises
    ------
    InputError
        If it is for another task.
    """
    if name == "auto":
        return Loss(_DEFAULTS[task])
    if task is not Task.REGRESSION:
        raise InputError(
            f"training.loss of {task} is auto, got {name}, which is for numbers; leave it out, or set "
            "dataset.task to regression"
        )
    return Loss(LossKind(name), quantile)
