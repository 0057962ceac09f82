"""What the kernels of the compiled engine are made of: products of matrices, exponentials, tangents.

`exponential` and `tangent` are functions without a body that numba replaces, by the type of their argument,
when a kernel is compiled: in float32 by what a loop does in vector instructions, in float64, which only
tests use, by what is exact.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload, register_jitable

from dnnflow.engines.compiled.tiles import LANES, TILE_ROWS, float_of_bits, tile_of, transpose_block

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""A division by zero gives infinity: where it may raise, no loop with a division is vectorised."""

_SOME_ROWS = TILE_ROWS // 3 * 2
"""Of a tile for what is left: 64 rows are ten tiles of six and one of four."""
_large, _medium, _line = tile_of(TILE_ROWS, 2), tile_of(_SOME_ROWS, 2), tile_of(1, 2)
_narrow, _narrow_line = tile_of(TILE_ROWS, 1), tile_of(1, 1)
_HIGHEST = 88.0
"""float32 holds no larger power of e."""


@register_jitable  # type: ignore[untyped-decorator]
def padded(count: int) -> int:
    """Return the least multiple of `LANES` that is not below a count."""
    return -(-count // LANES) * LANES


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def multiply(
    left: Any, left_place: int, row_step: int, depth_step: int, right: Any, right_place: int,
    product: Any, product_place: int, rows: int, depth: int, columns: int, added: bool,
) -> None:  # fmt: skip
    """Write, or add where `added`, left (rows, depth) · right (depth, columns) to a product (rows, columns).

    All are parts of flat arrays. Entry (i, k) of left is at `left_place + i · row_step + k · depth_step`;
    right and the product are in C order. `columns` is a multiple of `LANES`.
    """
    for column in range(0, columns, 2 * LANES):
        wide, row = column + LANES < columns, 0
        while row < rows:
            left_now, here, rest = (
                left_place + row * row_step,
                product_place + row * columns + column,
                rows - row,
            )
            places = (
                added, left, left_now, row_step, depth_step, right, right_place + column, columns,
                product, here, columns, depth,
            )  # fmt: skip
            if wide and rest >= TILE_ROWS:
                _large(*places)
                row += TILE_ROWS
            elif wide and rest >= _SOME_ROWS:
                _medium(*places)
                row += _SOME_ROWS
            elif wide:
                _line(*places)
                row += 1
            elif rest >= TILE_ROWS:
                _narrow(*places)
                row += TILE_ROWS
            else:
                _narrow_line(*places)
                row += 1


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def transpose(source: Any, starts: Any, rows: int, width: int, target: Any) -> None:
    """Write rows (rows, width), each of which begins at its place in `starts`, as columns (width, rows).

    `rows` is a multiple of `LANES`.
    """
    if width < LANES:
        for row in range(rows):
            for column in range(width):
                target[column * rows + row] = source[starts[row] + column]
        return
    for row in range(0, rows, LANES):
        for place in range(0, width, LANES):
            column = min(place, width - LANES)  # the last block may overlap the one before
            transpose_block(source, starts, row, column, target, column * rows + row, rows)


def exponential(x: Any) -> Any:
    """Return e^x."""


def tangent(x: Any) -> Any:
    """Return the hyperbolic tangent of x."""


@overload(exponential, jit_options=OPTIONS)  # type: ignore[untyped-decorator]
def _of_exponential(x: Any) -> Callable[[Any], Any]:
    return _exponential_float32 if x == numba.float32 else _exponential_float64


def _exponential_float64(x: Any) -> Any:
    return np.exp(x)


def _exponential_float32(x: Any) -> Any:
    """e^x = 2^k · e^r with |r| <= ln(2) / 2, whose polynomial is right to 1 ulp (Cephes, `expf`).

    A loop that calls the C library is not vectorised, and takes eight times as long.
    """
    single = np.float32
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
    return (p * (r * r) + r + single(1)) * float_of_bits((np.int32(k) + np.int32(127)) << np.int32(23))


@overload(tangent, jit_options=OPTIONS)  # type: ignore[untyped-decorator]
def _of_tangent(x: Any) -> Callable[[Any], Any]:
    return _tangent_float32 if x == numba.float32 else _tangent_float64


def _tangent_float64(x: Any) -> Any:
    return np.tanh(x)


def _tangent_float32(x: Any) -> Any:
    """The rational approximation of Eigen, TensorFlow's: right to some ulp, 1 beyond ±7.9."""
    single = np.float32
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
    return x * p / q
