"""Say which array of a source is which input, target or weight of a model, and how Keras is given them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Pick:
    """An array of a source, or one column of it."""

    array: int
    """Its index among the inputs, targets or weights."""
    column: int | None = None
    """Of its last axis, which stays, with one column; None for all."""

    def of(self, arrays: Arrays) -> NDArray[Any]:
        """Return the values."""
        found = arrays[self.array]
        return found if self.column is None else found[..., self.column : self.column + 1]


Form = Any
"""A `Pick`, or a dict, list or tuple of forms, as the model has its inputs; None: as they come."""


@dataclass(frozen=True)
class Binding:
    """How the arrays of a batch are given to Keras.

    Examples
    --------
    >>> first, second = np.zeros((2, 1)), np.ones((2, 1))
    >>> Binding(inputs=[Pick(1), Pick(0)]).batch((first, second), (first,), ())[0][0].tolist()
    [[1.0], [1.0]]
    """

    inputs: Form = None
    targets: Form = None
    weights: Form = None
    class_weight: Mapping[int, float] = field(default_factory=dict)
    """{class: by how much its rows count}, 1 for those that are not named; none to count all alike."""

    def batch(self, inputs: Arrays, targets: Arrays, weights: Arrays) -> tuple[Any, ...]:
        """Return (inputs, targets), or with weights (inputs, targets, weights)."""
        found = _packed(self.inputs, inputs), _packed(self.targets, targets)
        if self.class_weight:
            return *found, class_weights(targets[0], self.class_weight)
        return (*found, _packed(self.weights, weights)) if weights else found


def class_weights(targets: NDArray[Any], weights: Mapping[int, float]) -> NDArray[np.float32]:
    """Return the weight of each row's class, which is a number, or the largest of several.

    Parameters
    ----------
    targets : ndarray, shape (rows,), (rows, 1) or (rows, ..., classes)
    """
    if targets.ndim > 1:
        targets = targets[..., 0] if targets.shape[-1] == 1 else targets.argmax(axis=-1)
    classes, places = np.unique(np.round(targets).astype(int), return_inverse=True)
    each = np.array([weights.get(int(one), 1.0) for one in classes], np.float32)
    return each[places.reshape(targets.shape)]


def _packed(form: Form, arrays: Arrays) -> Any:
    match form:
        case None:
            return list(arrays) if len(arrays) > 1 else arrays[0]
        case Pick():
            return form.of(arrays)
        case Mapping():
            return {key: _packed(value, arrays) for key, value in form.items()}
    return [_packed(value, arrays) for value in form]
