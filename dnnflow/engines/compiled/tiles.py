"""Vector instructions that a compiler does not find by itself: tiles of products, blocks of transpositions.

A tile is a small product of matrices whose sums stay in registers from the first row to the last. Its
operands are read where they lie, not packed first: what a network multiplies fits the cache, and packing
costs a library that is made for large matrices up to half of its speed here.
"""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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
