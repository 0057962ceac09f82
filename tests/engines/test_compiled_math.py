"""What compiled networks are made of: a wrong product or exponential spoils every trial."""

from random import Random

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.engines.compiled import kernel_math as compiled_math
from dnnflow.engines.compiled.kernel_math import (
    LANES,
    TILE_ROWS,
    exponential,
    multiply,
    padded,
    tangent,
    transpose,
)

SIZES = st.integers(1, 4 * TILE_ROWS + 1)
TYPES = st.sampled_from(["f4", "f8"])


@numba.njit(**compiled_math.OPTIONS)
def each(values: np.ndarray, powers: bool) -> np.ndarray:
    found = np.empty_like(values)
    for i in range(values.size):
        found[i] = exponential(values[i]) if powers else tangent(values[i])
    return found


@settings(deadline=None)
@given(SIZES, st.integers(1, 40), st.integers(1, 5), st.booleans(), st.booleans(), TYPES)
def test_a_product_is_that_of_numpy(
    rows: int, depth: int, vectors: int, turned: bool, added: bool, dtype: str
) -> None:
    rng, columns = np.random.default_rng(rows * depth), vectors * LANES
    left, right = (
        rng.normal(size=(rows, depth)).astype(dtype),
        rng.normal(size=(depth, columns)).astype(dtype),
    )
    product = rng.normal(size=(rows, columns)).astype(dtype)
    wanted = left @ right + (product if added else 0)
    steps = (1, rows) if turned else (depth, 1)
    # What lies around the operands is not touched, nor read into the sums
    lefts, rights, products = (
        np.concatenate([[np.nan] * 3, matrix.ravel(), [np.nan] * 5]).astype(dtype)
        for matrix in (left.T if turned else left, right, product)
    )
    multiply(lefts, 3, *steps, rights, 3, products, 3, rows, depth, columns, added)
    assert np.isnan(products[:3]).all()
    assert np.isnan(products[-5:]).all()
    assert products[3:-5].reshape(rows, columns) == pytest.approx(
        wanted, abs=1e-4 if dtype == "f4" else 1e-12
    )


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5 * LANES), TYPES, st.randoms())
def test_rows_from_anywhere_become_columns(blocks: int, width: int, dtype: str, random: Random) -> None:
    rows = blocks * LANES
    table = np.arange(100 * width, dtype="f4").reshape(100, width)
    chosen = np.array([random.randrange(100) for _ in range(rows)])
    target = np.full(rows * width + 1, -1, dtype)
    transpose(table.ravel(), chosen * width, rows, width, target)
    assert (target[:-1].reshape(width, rows) == table[chosen].T).all()
    assert target[-1] == -1


def test_exponentials_are_right_to_the_last_digits() -> None:
    values = np.linspace(-87, 88, 100_001, dtype="f4")
    exact = np.exp(values.astype("f8"))
    assert np.abs(each(values, True) / exact - 1).max() < 3e-7
    assert np.isnan(each(np.array([np.nan], "f4"), True)[0])


def test_tangents_are_right_to_the_last_digits() -> None:
    values = np.linspace(-12, 12, 100_001, dtype="f4")
    assert np.abs(each(values, False) - np.tanh(values.astype("f8"))).max() < 5e-7
    assert each(np.array([0.0, 100.0, -100.0], "f4"), False) == pytest.approx([0, 1, -1], abs=1e-6)
    assert np.isnan(each(np.array([np.nan], "f4"), False)[0])


def test_padding_fills_whole_vectors() -> None:
    assert [padded(count) for count in (0, 1, LANES, LANES + 1)] == [0, LANES, LANES, 2 * LANES]
