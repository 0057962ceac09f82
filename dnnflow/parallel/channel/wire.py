"""Encode vectors as bytes: as they are, in two bytes an entry, or in about one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dnnflow.errors import InputError
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.spec.algorithm import WIRES

Data = NDArray[np.uint8]
"""What lies on the wire."""

BLOCK = 256
"""Entries that share a scale in int8; their scales add 4 bytes to 256."""
CHUNK = 256 * BLOCK
"""Entries encoded at a time, so that what is computed in between stays in a core's cache."""
_HALVES: dict[str, DTypeLike] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Wire:
    """How vectors of one size are written into bytes and read from them.

    `float32` sends entries as they are, float64 too. `float16` keeps 11 bits of mantissa, but
    makes values beyond 65,504 infinite and those below 3e-8 zero; `bfloat16` keeps 8 bits and the range of
    float32. `int8` sends each entry as a multiple of 1/127 of its block's largest; what that loses is kept by
    the sender and added to its next vector (error feedback: Seide et al. 2014; Karimireddy et al. 2019), so
    that it is late, not lost.

    Examples
    --------
    >>> wire = Wire("int8", size=3)
    >>> data, out = np.empty(wire.nbytes, np.uint8), np.empty(3, np.float32)
    >>> wire.encode(np.array([1.0, -0.5, 0.0], np.float32), data)
    >>> wire.decode(data, out)
    >>> out.round(2).tolist()
    [1.0, -0.5, 0.0]
    """

    name: str
    """One of `WIRES`."""
    size: int
    """Entries of the vector."""
    exact: int = 0
    """How many entries at the end travel as they are: moving statistics, which are no gradients."""
    dtype: str = "float32"
    """Of the vector on both sides."""

    def __post_init__(self) -> None:
        if self.name not in WIRES:
            raise InputError(f"a wire must be one of {', '.join(WIRES)}, got {self.name!r}")
        if not 0 <= self.exact <= self.size:
            raise InputError(f"exact must be in [0, {self.size}], the vector's length, got {self.exact}")

    @cached_property
    def plain(self) -> bool:
        """Whether the bytes are the vector itself, so that `buffer` is a view of them."""
        return self.name == "float32"

    @cached_property
    def nbytes(self) -> int:
        """Length of what travels."""
        return self._tail + self.exact * np.dtype(self.dtype).itemsize

    def buffer(self, data: Data) -> Vector:
        """Return a vector, shape (size,), to encode from or decode to; plain bytes are it themselves."""
        return data[: self.nbytes].view(self.dtype) if self.plain else np.zeros(self.size, self.dtype)

    def encode(self, vector: Vector, data: Data, residual: Vector | None = None) -> None:
        """Write a vector into bytes.

        Parameters
        ----------
        vector
            Shape (size,).
        data
            Shape (nbytes,) or longer, its memory aligned to 8 bytes.
        residual
            Shape (size - exact,): what the encodings before have lost; added, then overwritten with what this
            one loses. Only int8 uses it.
        """
        learned = self.size - self.exact
        if self.name == "int8":
            self._encode_int8(vector[:learned], data, residual)
        else:
            # What has no place in 16 bits becomes infinite, as any overflow
            with np.errstate(over="ignore", under="ignore"):
                np.copyto(self._head(data), vector[:learned], casting="unsafe")
        np.copyto(self._exact(data), vector[learned:])

    def decode(self, data: Data, out: Vector) -> None:
        """Read a vector, shape (size,), from the bytes that `encode` wrote."""
        learned = self.size - self.exact
        if self.name == "int8":
            self._decode_int8(data, out[:learned])
        else:
            np.copyto(out[:learned], self._head(data), casting="unsafe")
        np.copyto(out[learned:], self._exact(data))

    @cached_property
    def _blocks(self) -> int:
        return -(-(self.size - self.exact) // BLOCK)

    @cached_property
    def _tail(self) -> int:
        """Where the exact entries begin, a multiple of 8."""
        learned = self.size - self.exact
        if self.name == "int8":
            used = 4 * self._blocks + learned
        else:
            used = learned * np.dtype(_HALVES.get(self.name, self.dtype)).itemsize
        return used if self.plain else -(-used // 8) * 8

    def _head(self, data: Data) -> NDArray[Any]:
        kind = np.dtype(_HALVES.get(self.name, self.dtype))
        return data[: (self.size - self.exact) * kind.itemsize].view(kind)

    def _exact(self, data: Data) -> NDArray[Any]:
        return data[self._tail : self.nbytes].view(self.dtype)

    def _pieces(self, data: Data) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int8]]]:
        """Yield which entries, their blocks' scales and their codes, a chunk at a time."""
        learned = self.size - self.exact
        scales = data[: 4 * self._blocks].view(np.float32)
        codes = data[4 * self._blocks :][:learned].view(np.int8)
        whole = learned // BLOCK * BLOCK
        starts = [*range(0, whole, CHUNK), *([whole] if whole < learned else [])]
        for start, stop in pairwise([*starts, learned]):
            yield slice(start, stop), scales[start // BLOCK : -(-stop // BLOCK)], codes[start:stop]

    def _encode_int8(self, vector: Vector, data: Data, residual: Vector | None) -> None:
        for entries, scales, codes in self._pieces(data):
            values = vector[entries] if residual is None else vector[entries] + residual[entries]
            rows = values.reshape(len(scales), -1)  # (blocks, entries of a block)
            np.divide(np.abs(rows).max(axis=1), 127, out=scales, casting="same_kind")
            usable = (scales >= np.finfo(np.float32).tiny) & (scales < np.inf)
            if not usable.all():
                # The scale of a block with a NaN or an infinity says so; there is nothing to be late with
                rows = np.where(usable[:, None], rows, 0)
            inverse = np.divide(1, scales, out=np.zeros_like(scales), where=usable)
            levels = np.rint(rows * inverse[:, None])
            np.copyto(codes.reshape(rows.shape), levels, casting="unsafe")
            if residual is not None:
                steps = np.where(usable, scales, 0)[:, None]
                np.subtract(rows, levels * steps, out=residual[entries].reshape(rows.shape))

    def _decode_int8(self, data: Data, out: Vector) -> None:
        for entries, scales, codes in self._pieces(data):
            rows = out[entries].reshape(len(scales), -1)
            with np.errstate(invalid="ignore"):
                np.multiply(codes.reshape(rows.shape), scales[:, None], out=rows, casting="same_kind")
