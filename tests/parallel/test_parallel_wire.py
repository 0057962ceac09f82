"""How vectors are written on the wire: what is lost of them, and that nothing else is."""

import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.channel.wire import BLOCK, CHUNK, Wire
from dnnflow.parallel.spec.algorithm import WIRES

SIZES = [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7, CHUNK, 2 * CHUNK + BLOCK + 1]
RELATIVE = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest error of an entry, as a share of it."""


def vector(size: int, seed: int = 1, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(dtype)


def travel(wire: Wire, given: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
    """Return what arrives of a vector."""
    data, out = np.zeros(wire.nbytes, np.uint8), np.full(wire.size, np.nan, wire.dtype)
    wire.encode(given, data, residual)
    wire.decode(data, out)
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WIRES)
def test_entries_arrive_as_exact_as_the_wire_promises(name: str, size: int) -> None:
    given = vector(size)
    out = travel(Wire(name, size), given)
    if name == "int8":
        for start in range(0, size, BLOCK):
            block = slice(start, start + BLOCK)
            step = np.abs(given[block]).max() / 127
            assert np.abs(out[block] - given[block]).max() <= 0.501 * step
    else:
        smallest = 2.0**-25 if name == "float16" else 0.0
        assert (np.abs(out - given) <= RELATIVE[name] * np.abs(given) + smallest).all()


@pytest.mark.parametrize("name", WIRES)
def test_moving_statistics_are_never_rounded(name: str) -> None:
    given = np.concatenate([vector(BLOCK + 3), 1e6 * vector(5, seed=2)])
    out = travel(Wire(name, given.size, exact=5), given)
    np.testing.assert_array_equal(out[-5:], given[-5:])


@pytest.mark.parametrize(("name", "share"), [("float16", 0.5), ("bfloat16", 0.5), ("int8", 0.26)])
def test_a_wire_saves_what_it_is_for(name: str, share: float) -> None:
    assert Wire(name, 1_000_000).nbytes <= share * 4_000_000


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_diverged_gradient_is_seen_at_the_other_end(name: str, broken: float) -> None:
    given = vector(3 * BLOCK)
    given[BLOCK + 1] = broken
    out = travel(Wire(name, given.size), given)
    assert not np.isfinite(out[BLOCK + 1])
    assert np.isfinite(out[:BLOCK]).all()
    assert np.isfinite(out[2 * BLOCK :]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_int8_loses_arrives_with_later_pushes(dtype: str) -> None:
    wire = Wire("int8", 1000, exact=10, dtype=dtype)
    given = vector(1000, dtype=dtype)
    given[0] = 100.0  # hides its block's small entries below one level
    residual = np.zeros(990, dtype)
    total = sum(travel(wire, given, residual) for _ in range(200))
    step = 100.0 / 127
    assert np.abs(total - 200 * given).max() <= 1.01 * step
    without = 200 * travel(wire, given)
    assert np.abs(without - 200 * given).max() > 10 * step


def test_one_infinite_gradient_does_not_stay_in_what_is_sent_later() -> None:
    wire, residual = Wire("int8", BLOCK), np.zeros(BLOCK, np.float32)
    bad = vector(BLOCK)
    bad[3] = np.inf
    travel(wire, bad, residual)
    assert np.isfinite(travel(wire, vector(BLOCK), residual)).all()


def test_blocks_of_zeros_and_of_the_smallest_numbers_are_no_error() -> None:
    given = np.zeros(2 * BLOCK, np.float32)
    given[BLOCK:] = 1e-45
    assert np.abs(travel(Wire("int8", given.size), given)).max() <= 1e-45


def test_float16_overflow_is_infinite_and_bfloat16_has_room() -> None:
    given = np.array([70_000.0], np.float32)
    assert np.isinf(travel(Wire("float16", 1), given)).all()
    assert np.isfinite(travel(Wire("bfloat16", 1), given)).all()


def test_unknown_wires_are_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"float32, float16, bfloat16, int8, got 'int4'"):
        Wire("int4", 3)
    with pytest.raises(InputError, match=r"exact must be in \[0, 3\]"):
        Wire("int8", 3, exact=4)
