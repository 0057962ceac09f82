"""Lay the weights of a stack's designs together: arrays with one slice a design, padded with zeros.

Pure numpy. A padded unit has zeros in all its weights, gamma of batch normalisation included, and its output
is masked: it contributes nothing, and its weights stay zero under every optimizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import DTypeLike

from dnnflow.engines.loop import Weights

_LEARNED = (True, True, True, True, False, False)
"""Kernel, bias, gamma, beta, moving mean, moving variance of a layer."""


@dataclass(frozen=True)
class StackLayout:
    """Which weights of a design go where in a stack.

    Every array begins with the axis of designs. Where hidden layers run as a loop, those after the first lie
    side by side along a second axis: a kernel is then (designs, layers, in, out). There are two such layers
    at least.
    """

    widths: tuple[int, ...]
    """Units of each hidden layer: the largest of the stack's designs."""
    batch_norm: tuple[bool, ...]
    """Of each hidden layer."""
    n_features: int
    n_outputs: int
    looped: bool = False

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Padded shape of each weight of a design, in its order; a vector is (1, units)."""
        shapes: list[tuple[int, ...]] = []
        inputs = (self.n_features, *self.widths)
        for width, units, normalized in zip(inputs, self.widths, self.batch_norm, strict=False):
            shapes += [(width, units), *[(1, units)] * (5 if normalized else 1)]
        return [*shapes, (inputs[-1], self.n_outputs), (1, self.n_outputs)]

    @cached_property
    def places(self) -> list[tuple[int, ...]]:
        """The weights of a design that each array holds: one, or one of every hidden layer but the first."""
        counts = [6 if normalized else 2 for normalized in self.batch_norm]
        firsts = [0, *accumulate(counts)]
        if not self.looped:
            return [(index,) for index in range(len(self.shapes))]
        first, hidden = range(counts[0]), range(counts[1])
        return [
            *((index,) for index in first),
            *(tuple(start + offset for start in firsts[1:-1]) for offset in hidden),
            (firsts[-1],),
            (firsts[-1] + 1,),
        ]

    @cached_property
    def learned(self) -> list[bool]:
        """Whether each array is learned; moving averages are not."""
        layers = self.batch_norm[:2] if self.looped else self.batch_norm
        hidden = [flag for normalized in layers for flag in _LEARNED[: 6 if normalized else 2]]
        return [*hidden, True, True]

    @cached_property
    def ranks(self) -> list[int]:
        """Number of axes of each array."""
        return [4 if len(place) > 1 else 3 for place in self.places]

    @cached_property
    def kernels(self) -> list[int]:
        """Positions of the hidden layers' kernels among the arrays that are learned."""
        layers = self.batch_norm[:2] if self.looped else self.batch_norm
        counts = [4 if normalized else 2 for normalized in layers]
        return [0, *accumulate(counts)][: len(counts)]

    def pack(self, designs: Sequence[Weights], dtype: DTypeLike = np.float32) -> list[np.ndarray]:
        """Return a stack's arrays from each design's weights (in the order of its Keras model)."""
        arrays = []
        for place in self.places:
            deep = (len(place),) if len(place) > 1 else ()
            array = np.zeros((len(designs), *deep, *self.shapes[place[0]]), dtype)
            for position, weights in enumerate(designs):
                for target, index in zip(_layers(array[position], place), place, strict=True):
                    weight = np.atleast_2d(weights[index])
                    target[: weight.shape[0], : weight.shape[1]] = weight
            arrays.append(array)
        return arrays

    def unpack(self, arrays: Sequence[np.ndarray], position: int, like: Sequence[tuple[int, ...]]) -> Weights:
        """Return a copy of the weights of the design at a position, in its shapes `like`."""
        weights: list[np.ndarray] = [np.empty(0)] * len(like)
        for array, place in zip(arrays, self.places, strict=True):
            for source, index in zip(_layers(array[position], place), place, strict=True):
                rows, columns = like[index] if len(like[index]) == 2 else (1, *like[index])
                weights[index] = source[:rows, :columns].reshape(like[index]).copy()
        return tuple(weights)


def _layers(array: np.ndarray, place: tuple[int, ...]) -> Sequence[np.ndarray]:
    """Return the weights that one design's slice of an array holds."""
    return list(array) if len(place) > 1 else [array]
