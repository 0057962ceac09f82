"""Arrays and tensors in the same memory. Imports TensorFlow only when it is used."""

from typing import Any

import numpy as np

from dnnflow.parallel.model.weights import Vector

_ALIGNED_BYTES = 64
"""TensorFlow takes memory that begins at a multiple of this as it is, and copies other memory."""


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
