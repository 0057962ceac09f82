"""Lay a model's arrays into one flat vector, and back without a copy. No TensorFlow until it is used."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.errors import InputError

Vector = NDArray[np.floating[Any]]
"""One-dimensional and contiguous."""
_ALIGNED_BYTES = 64
"""TensorFlow takes memory that begins at a multiple of this as it is, and copies other memory."""


@dataclass(frozen=True)
class FlatLayout:
    """Where each array of a model lies in the flat vector of all of them, one after the other.

    Examples
    --------
    >>> layout = FlatLayout.of([np.ones((2, 3)), np.zeros(4)])
    >>> layout.size
    10
    >>> [view.shape for view in layout.views(layout.flatten([np.ones((2, 3)), np.zeros(4)]))]
    [(2, 3), (4,)]
    """

    shapes: tuple[tuple[int, ...], ...]
    """Of each array, in the order of the vector: what is learned first, then statistics."""
    dtype: str = "float32"
    """Of the vector, a floating type of numpy."""
    statistics: int = 0
    """How many arrays at the end are statistics: averaged over replicas, never learned by gradients."""
    names: tuple[str, ...] = ()
    """Paths of the arrays' variables, as `dense/kernel`, for optimizers that go by name; may be empty."""
    constraints: tuple[str, ...] = ()
    """What each array must obey after a step, as `constraint_text` gives it; empty where nothing."""

    def __post_init__(self) -> None:
        shapes = tuple(tuple(int(length) for length in shape) for shape in self.shapes)
        object.__setattr__(self, "shapes", shapes)  # JSON has made lists of them
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "constraints", tuple(self.constraints))
        negative = [shape for shape in shapes if min(shape, default=0) < 0]
        if negative:
            raise InputError(
                f"shapes must be known, all lengths >= 0, got {negative[0]}; build the model first"
            )
        if np.dtype(self.dtype).kind != "f":
            raise InputError(f"dtype must be a floating type, got {self.dtype!r}; use float32")
        if not 0 <= self.statistics <= len(shapes):
            raise InputError(f"statistics must be in [0, {len(shapes)}], got {self.statistics}")
        if self.names and len(self.names) != len(shapes):
            raise InputError(f"names must be one an array, {len(shapes)}, got {len(self.names)}")
        if self.constraints and len(self.constraints) != len(shapes):
            raise InputError(f"constraints must be one an array, {len(shapes)}, got {len(self.constraints)}")

    @classmethod
    def of(cls, arrays: Sequence[Any], *, dtype: str = "float32", statistics: int = 0) -> "FlatLayout":
        """Return the layout of arrays, the last `statistics` of which are not learned."""
        return cls(tuple(np.shape(array) for array in arrays), dtype, statistics)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each array begins, and where the last one ends."""
        return tuple(itertools.accumulate(map(math.prod, self.shapes), initial=0))

    @property
    def size(self) -> int:
        """Length of the vector."""
        return self.offsets[-1]

    @property
    def learned(self) -> int:
        """How many leading entries of the vector are learned; those behind are statistics."""
        return self.offsets[len(self.shapes) - self.statistics]

    def flatten(self, arrays: Sequence[Any], out: Vector | None = None) -> Vector:
        """Write arrays into one vector.

        Parameters
        ----------
        arrays
            As many as the layout has, of its shapes.
        out
            Vector, shape (size,), to write to; a new one without it.

        Raises
        ------
        InputError
            For arrays or a vector of other shapes.
        """
        found = tuple(np.shape(array) for array in arrays)
        if found != self.shapes:
            raise InputError(f"arrays must have the shapes {self.shapes}, got {found}; is it the same model?")
        vector = np.empty(self.size, self.dtype) if out is None else self._checked(out)
        for view, array in zip(self.views(vector), arrays, strict=True):
            view[...] = array
        return vector

    def views(self, vector: Vector) -> list[NDArray[Any]]:
        """Return each array as a view of the vector, so that writing to one writes to the other."""
        self._checked(vector)
        cuts = itertools.pairwise(self.offsets)
        return [
            vector[start:stop].reshape(shape)
            for (start, stop), shape in zip(cuts, self.shapes, strict=True)
        ]  # fmt: skip

    def cut(self, n: int) -> list[slice]:
        """Return n contiguous slices that cover the vector; their lengths differ by at most one.

        Raises
        ------
        InputError
            For fewer than one slice, or more than there are entries.
        """
        if not 1 <= n <= max(self.size, 1):
            raise InputError(
                f"the number of servers must be in [1, {self.size}], the weights of the model, got {n}"
            )
        ends = [self.size * index // n for index in range(n + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(ends)]

    def _checked(self, vector: Vector) -> Vector:
        if vector.shape != (self.size,):
            raise InputError(f"the vector must have the shape ({self.size},), got {vector.shape}")
        if not vector.flags.c_contiguous:
            raise InputError("the vector must be contiguous, got a strided one; copy it first")
        return vector


def aligned_vector(size: int, dtype: str = "float32") -> Vector:
    """Return a vector of zeros that becomes a tensor without a copy (25 million weights: 90 ms each time)."""
    item = np.dtype(dtype).itemsize
    memory = np.zeros(size * item + _ALIGNED_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNED_BYTES
    vector: Vector = memory[start : start + size * item].view(dtype)
    return vector


def as_tensor(array: np.ndarray) -> Any:
    """Return an array as a tensor, in its own memory if TensorFlow can use that.

    Whoever changes the array changes the tensor. TensorFlow changes the memory itself only where nothing
    else holds it: keep the tensor while a variable may have taken a slice of it.
    """
    import tensorflow as tf

    if (
        array.dtype.kind in "fiu"
        and array.flags.c_contiguous
        and array.flags.writeable  # DLPack passes no other
        and array.__array_interface__["data"][0] % _ALIGNED_BYTES == 0
    ):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def as_array(tensor: Any) -> np.ndarray:
    """Return a tensor as a read-only array, in its own memory if it lies on the CPU."""
    return np.asarray(memoryview(tensor if tensor.device.endswith("CPU:0") else tensor.cpu()))
