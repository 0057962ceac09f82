"""What the kernels of the compiled engine are made of: products of matrices, exponentials, tangents.

Each is a function without a body that numba replaces, by the type of the arrays, when a kernel is compiled:
in float32 by what is fast, in float64, which only tests use, by what is exact.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import scipy_openblas64
from numba import types
from numba.extending import overload

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""A division by zero gives infinity: where it may raise, no loop with a division is vectorised."""


_HIGHEST = 88.0
"""float32 holds no larger power of e."""


def _link_blas() -> Any:
    """Return OpenBLAS' product of float32 matrices, as a function that compiled code calls by name.

    Of a package of its own: numba's `np.dot` calls the BLAS of SciPy, by way of checks and an older version,
    which took half as long again for networks of a study (32 x 64 by 64 x 64: 44 GFLOP/s instead of 71).
    """
    address = ctypes.cast(scipy_openblas64.dll.scipy_cblas_sgemm64_, ctypes.c_void_p).value
    llvmlite.binding.add_symbol("dnnflow_sgemm", address)
    flag, size, number, place = types.int32, types.int64, types.float32, types.uintp
    sizes, left, right = (size,) * 3, (place, size), (place, size)
    return types.ExternalFunction(
        "dnnflow_sgemm", types.void(flag, flag, flag, *sizes, number, *left, *right, number, place, size)
    )


_sgemm = _link_blas()
_BY_ROWS, _AS_IT_IS, _TRANSPOSED = 101, 111, 112
"""Constants of CBLAS."""


def multiply(left: Any, right: Any, product: Any, left_turned: Any, right_turned: Any) -> None:
    """Write left · right to `product`, of matrices in C order, either of them transposed where so said."""


@overload(multiply, jit_options=OPTIONS)  # type: ignore[untyped-decorator]
def _of_multiply(
    left: Any, right: Any, product: Any, left_turned: Any, right_turned: Any
) -> Callable[..., None]:
    return _multiply_float32 if product.dtype == numba.float32 else _multiply_float64


def _multiply_float32(left: Any, right: Any, product: Any, left_turned: Any, right_turned: Any) -> None:
    one, zero = np.float32(1), np.float32(0)
    rows, columns = product.shape
    _sgemm(
        np.int32(_BY_ROWS), np.int32(_TRANSPOSED if left_turned else _AS_IT_IS),
        np.int32(_TRANSPOSED if right_turned else _AS_IT_IS), rows, columns, left.size // rows,
        one, left.ctypes.data, left.shape[1], right.ctypes.data, right.shape[1], zero,
        product.ctypes.data, columns,
    )  # fmt: skip


def _multiply_float64(left: Any, right: Any, product: Any, left_turned: Any, right_turned: Any) -> None:
    if left_turned:
        np.dot(left.T, right, product)
    elif right_turned:
        np.dot(left, right.T, product)
    else:
        np.dot(left, right, product)


def exponentials(values: Any, powers: Any) -> None:
    """Replace values by their exponentials; `powers` (at least as many, int32) is scratch."""


def tangents(values: Any) -> None:
    """Replace values by their hyperbolic tangents."""


@overload(exponentials, jit_options=OPTIONS)  # type: ignore[untyped-decorator]
def _of_exponentials(values: Any, powers: Any) -> Callable[..., None]:
    if values.dtype == numba.float32:
        return _exponentials_float32
    return _exponentials_float64


def _exponentials_float64(values: Any, powers: Any) -> None:
    for i in range(values.size):
        values[i] = np.exp(values[i])


def _exponentials_float32(values: Any, powers: Any) -> None:
    """e^x = 2^k · e^r with |r| <= ln(2) / 2, whose polynomial is right to 1 ulp (Cephes, `expf`).

    A loop that calls the C library is not vectorised, and takes eight times as long.
    """
    single = np.float32
    for i in range(values.size):
        x = values[i]
        x = single(_HIGHEST) if x > single(_HIGHEST) else x
        x = single(-87.0) if x < single(-87.0) else x  # NaN stays NaN
        k = np.floor(x * single(1.44269504088896341) + single(0.5))
        r = x - k * single(0.693359375) + k * single(2.12194440e-4)
        p = single(1.9875691500e-4)
        p = p * r + single(1.3981999507e-3)
        p = p * r + single(8.3334519073e-3)
        p = p * r + single(4.1665795894e-2)
        p = p * r + single(1.6666665459e-1)
        p = p * r + single(5.0000001201e-1)
        values[i] = p * (r * r) + r + single(1)
        powers[i] = (np.int32(k) + np.int32(127)) << np.int32(23)  # the bits of 2^k
    scales = powers.view(np.float32)
    for i in range(values.size):
        values[i] *= scales[i]


@overload(tangents, jit_options=OPTIONS)  # type: ignore[untyped-decorator]
def _of_tangents(values: Any) -> Callable[..., None]:
    return _tangents_float32 if values.dtype == numba.float32 else _tangents_float64


def _tangents_float64(values: Any) -> None:
    for i in range(values.size):
        values[i] = np.tanh(values[i])


def _tangents_float32(values: Any) -> None:
    """The rational approximation of Eigen, TensorFlow's: right to some ulp, 1 beyond ±7.9."""
    single = np.float32
    for i in range(values.size):
        x = values[i]
        x = single(7.90531110763549805) if x > single(7.90531110763549805) else x
        x = single(-7.90531110763549805) if x < single(-7.90531110763549805) else x
        s = x * x
        p = single(-2.76076847742355e-16) * s + single(2.00018790482477e-13)
        p = p * s + single(-8.60467152213735e-11)
        p = p * s + single(5.12229709037114e-08)
        p = p * s + single(1.48572235717979e-05)
        p = p * s + single(6.37261928875436e-04)
        p = p * s + single(4.89352455891786e-03)
        q = single(1.19825839466702e-06) * s + single(1.18534705686654e-04)
        q = q * s + single(2.26843463243900e-03)
        q = q * s + single(4.89352518554385e-03)
        values[i] = x * p / q
