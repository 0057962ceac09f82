"""Compute in vector instructions: products of matrices by tiles, transpositions, exponentials, tangents.

A tile is a small product of matrices whose sums stay in registers from the first row to the last. Its
operands are read where they lie, not packed first: what a network multiplies fits the cache, and packing
costs a library that is made for large matrices up to half of its speed here.

`exponential` and `tangent` are functions without a body that numba replaces, by the type of their argument,
when a kernel is compiled: in float32 by what a loop does in vector instructions, in float64, which only
tests use, by what is exact.
"""

import math
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable

_INDEX = ir.IntType(64)


def _lanes() -> tuple[int, int]:
    """Return how many float32 a register holds, and how many rows of two vectors the registers hold."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 12
    if features.get("avx"):
        return 8, 6
    return 4, 6


LANES, TILE_ROWS = _lanes()
"""Of float32 in a vector; of a tile. A tile of float64 has the same shape, in twice as many registers."""


def tile_of(rows: int, vectors: int) -> Any:
    """Return a function for compiled code that multiplies a tile of this shape.

    `(added, left, left_place, row_step, depth_step, right, right_place, right_step, product, product_place,
    product_step, depth)` writes, or adds where `added`, left · right to the product (rows, vectors · LANES).
    All three are flat arrays. Entry (i, k) of left is at `left_place + i · row_step + k · depth_step`; row k
    of right begins at `right_place + k · right_step`, row i of the product at `product_place + i ·
    product_step`. Every entry is summed in the order of k, of which there are `depth`, at least one.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(
        context: Any, added: Any, left: Any, left_place: Any, row_step: Any, depth_step: Any,
        right: Any, right_place: Any, right_step: Any,
        product: Any, product_place: Any, product_step: Any, depth: Any,
    ) -> Any:  # fmt: skip
        given = (left, left_place, row_step, depth_step, right, right_place, right_step)
        signature = types.void(added, *given, product, product_place, product_step, depth)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            left, right, product = (
                _at(context, builder, signature.args[place], args[place], args[place + 1])
                for place in (1, 5, 8)
            )
            _Tile(builder, rows, vectors, left.type.pointee).emit(
                (left, args[3], args[4]), (right, args[7]), (product, args[10]), added=args[0], depth=args[11]
            )
            return context.get_dummy_value()

        return signature, generate

    return tile


class _Tile:
    """Emits the loop over k, with a sum in a register for each vector of the product."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int, number: Any) -> None:
        self._builder = builder
        self._rows, self._vectors = rows, vectors
        self._vector = ir.VectorType(number, LANES)

    def emit(self, left: Any, right: Any, product: Any, *, added: Any, depth: Any) -> None:
        builder, (product, product_step) = self._builder, product
        places = [
            [_vector_at(builder, product, builder.mul(_INDEX(i), product_step), j, self._vector)
             for j in range(self._vectors)]
            for i in range(self._rows)
        ]  # fmt: skip
        first = builder.block
        again, loop, end = (builder.append_basic_block(name) for name in ("again", "depth", "store"))
        builder.cbranch(added, again, loop)
        builder.position_at_end(again)
        kept = [[builder.load(place, align=4) for place in row] for row in places]
        builder.branch(loop)
        builder.position_at_end(loop)
        sums = [[builder.phi(self._vector) for _ in row] for row in places]
        for row, old in zip(sums, kept, strict=True):
            for total, value in zip(row, old, strict=True):
                total.add_incoming(ir.Constant(self._vector, [0.0] * LANES), first)
                total.add_incoming(value, again)
        more = self._step(left, right, sums, before=(first, again), depth=depth, end=end)
        for row, new in zip(places, more, strict=True):
            for place, value in zip(row, new, strict=True):
                builder.store(value, place, align=4)

    def _step(
        self, left: Any, right: Any, sums: Any, *, before: Any, depth: Any, end: Any
    ) -> list[list[Any]]:
        """Emit the body of the loop: a column of left times a row of right, added to the sums."""
        builder, loop = self._builder, self._builder.block
        (left, row_step, depth_step), (right, right_step) = left, right
        k, column, line = (builder.phi(kind) for kind in (_INDEX, left.type, right.type))
        vectors = [
            builder.load(_vector_at(builder, line, _INDEX(0), j, self._vector), align=4)
            for j in range(self._vectors)
        ]
        more = []
        for i, row in enumerate(sums):
            entry = builder.load(builder.gep(column, [builder.mul(_INDEX(i), row_step)]))
            spread = _spread(builder, entry, self._vector)
            products = [builder.fmul(spread, vector, flags=("contract",)) for vector in vectors]
            more.append(
                [
                    builder.fadd(one, total, flags=("contract",))
                    for one, total in zip(products, row, strict=True)
                ]
            )
        for row, new in zip(sums, more, strict=True):
            for total, value in zip(row, new, strict=True):
                total.add_incoming(value, loop)
        following = builder.add(k, _INDEX(1))
        for value, begin, then in (
            (k, _INDEX(0), following),
            (column, left, builder.gep(column, [depth_step])),
            (line, right, builder.gep(line, [right_step])),
        ):
            for block in before:
                value.add_incoming(begin, block)
            value.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, end)
        builder.position_at_end(end)
        return more


@intrinsic  # type: ignore[untyped-decorator]
def transpose_block(
    context: Any,
    source: Any,
    starts: Any,
    first: Any,
    column: Any,
    target: Any,
    target_place: Any,
    target_step: Any,
) -> Any:
    """Copy LANES columns of LANES rows, which begin at `starts[first:]`, as rows of another matrix."""
    signature = types.void(source, starts, first, column, target, target_place, target_step)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        source = _at(context, builder, signature.args[0], args[0], args[3])
        begins = _at(context, builder, signature.args[1], args[1], args[2])
        target = _at(context, builder, signature.args[4], args[4], args[5])
        vector, wanted = (ir.VectorType(kind.type.pointee, LANES) for kind in (source, target))
        lines = []
        for i in range(LANES):
            place = builder.load(builder.gep(begins, [_INDEX(i)]))
            line = builder.load(_vector_at(builder, source, place, 0, vector), align=4)
            lines.append(line if vector == wanted else builder.fpext(line, wanted))
        for _ in range(LANES.bit_length() - 1):
            lines = _interleaved(builder, lines)
        for i, line in enumerate(lines):
            row = _vector_at(builder, target, builder.mul(_INDEX(i), args[6]), 0, wanted)
            builder.store(line, row, align=4)
        return context.get_dummy_value()

    return signature, generate


def _interleaved(builder: ir.IRBuilder, lines: list[Any]) -> list[Any]:
    """Shuffle the entries of lines as cards: line i with line i + half. Log2(lines) times, it transposes."""
    half, kind = len(lines) // 2, ir.VectorType(ir.IntType(32), len(lines))
    found = []
    for i in range(half):
        for first in (0, half):
            order = [first + place // 2 + place % 2 * len(lines) for place in range(len(lines))]
            found.append(builder.shuffle_vector(lines[i], lines[i + half], ir.Constant(kind, order)))
    return found


@intrinsic  # type: ignore[untyped-decorator]
def float_of_bits(context: Any, bits: Any) -> Any:
    """Return the float32 that 32 bits are."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def _at(context: Any, builder: ir.IRBuilder, kind: Any, array: Any, place: Any) -> Any:
    """Return the address of an entry of a flat array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


def _vector_at(builder: ir.IRBuilder, base: Any, offset: Any, index: int, vector: Any) -> Any:
    place = builder.gep(base, [builder.add(offset, _INDEX(index * LANES))])
    return builder.bitcast(place, vector.as_pointer())


def _spread(builder: ir.IRBuilder, entry: Any, vector: Any) -> Any:
    """Return a vector of one entry, again and again."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, entry, ir.IntType(32)(0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, everywhere)


OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}
"""A division by zero gives infinity: where it may raise, no loop with a division is vectorised."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel, with the kernel."""
    return numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile what Python calls when it first does, and keep its machine code on disk where possible."""
    try:
        return numba.njit(nogil=True, cache=True, no_cfunc_wrapper=True, **OPTIONS)(function)
    except RuntimeError:  # no directory that could be written to
        return numba.njit(nogil=True, no_cfunc_wrapper=True, **OPTIONS)(function)


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


def log_of_one_plus(x: Any) -> Any:
    """Return log(1 + x) of x in [0, 1]."""


def error_function(x: Any) -> Any:
    """Return erf(x)."""


def _by_type(single: Callable[[Any], Any], double: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what tells numba the function in a stub's place."""

    def choose(x: Any) -> Callable[[Any], Any]:
        return single if x == numba.float32 else double

    return choose


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


def _log_of_one_plus_float32(x: Any) -> Any:
    """2 · artanh(x / (2 + x)) by its series, to 2e-8 of itself."""
    single = np.float32
    s = x / (single(2) + x)
    t = s * s
    p = single(1 / 13) * t + single(1 / 11)
    p = p * t + single(1 / 9)
    p = p * t + single(1 / 7)
    p = p * t + single(1 / 5)
    p = p * t + single(1 / 3)
    p = p * t + single(1)
    return single(2) * s * p


def _error_function_float32(x: Any) -> Any:
    """Formula 7.1.26 of Abramowitz and Stegun (1964), to 1.5e-7."""
    single = np.float32
    size = abs(x)
    t = single(1) / (single(1) + single(0.3275911) * size)
    p = single(1.061405429) * t - single(1.453152027)
    p = p * t + single(1.421413741)
    p = p * t - single(0.284496736)
    p = p * t + single(0.254829592)
    value = single(1) - p * t * exponential(-size * size)
    return value if x >= 0 else -value


def _log_of_one_plus_float64(x: Any) -> Any:
    return np.log1p(x)


def _error_function_float64(x: Any) -> Any:
    return math.erf(x)


def _exponential_float64(x: Any) -> Any:
    return np.exp(x)


def _tangent_float64(x: Any) -> Any:
    return np.tanh(x)


_INLINE = {**OPTIONS, "forceinline": True}
"""A loop that calls a function is not vectorised."""
# numba compares whole signatures: annotations must be those of what is stood for
overload(exponential, jit_options=_INLINE)(_by_type(_exponential_float32, _exponential_float64))
overload(tangent, jit_options=_INLINE)(_by_type(_tangent_float32, _tangent_float64))
overload(log_of_one_plus, jit_options=_INLINE)(_by_type(_log_of_one_plus_float32, _log_of_one_plus_float64))
overload(error_function, jit_options=_INLINE)(_by_type(_error_function_float32, _error_function_float64))


def _summing(function: Callable[..., Any]) -> Any:
    """Compile a function whose sums may be made in any order, and so in vector instructions."""
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})(function)


@_summing
def total(values: Any) -> Any:
    """Return the sum of values."""
    found = values.dtype.type(0)
    for i in range(values.size):
        found += values[i]
    return found


@_summing
def total_product(values: Any, others: Any) -> Any:
    """Return the sum of products."""
    found = values.dtype.type(0)
    for i in range(values.size):
        found += values[i] * others[i]
    return found
