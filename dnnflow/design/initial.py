"""Draw initial weights by numpy from (design seed, layer), so that every engine starts from the same ones.

The order of weights is the same everywhere: for each hidden layer kernel and bias, then, with batch
normalisation, gamma, beta, moving mean and moving variance; at the end the output layer's kernel and bias.
It is the order of `keras.Model.get_weights()` for the models of `dnnflow.engines.keras.build`.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from dnnflow.design.layers import Design, Layer
from dnnflow.errors import DesignError

Shape = tuple[int, ...]

_TRUNCATED_STDDEV = 0.87962566103423978
"""Standard deviation of a unit normal truncated at ±2 (Keras, `VarianceScaling`)."""


def weight_names(design: Design) -> tuple[str, ...]:
    """Return the names of a design's weights in their order, e.g. `layer_0/kernel`."""
    return tuple(name for name, _ in _weights(design, 1, 1))


def weight_shapes(design: Design, n_features: int, n_outputs: int) -> tuple[Shape, ...]:
    """Return the shapes of a design's weights in their order; kernels are (in, out)."""
    return tuple(shape for _, shape in _weights(design, n_features, n_outputs))


def initial_weights(
    design: Design, n_features: int, n_outputs: int, dtype: DTypeLike = np.float32
) -> tuple[np.ndarray, ...]:
    """Draw a design's initial weights, in the order of `weight_names`.

    Each layer's kernel has a generator of its own, Philox keyed by (design seed, index of the layer), so that
    a change in one layer leaves the others' weights as they were. Draws are made in float64: a float32 weight
    is the rounded float64 one.

    Raises
    ------
    DesignError
        For a design by reference, whose code draws its own weights.
    """
    weights: list[np.ndarray] = []
    for index, (layer, width) in enumerate(_layers(design, n_features)):
        kernel = draw_kernel(layer.initializer, width, layer.units, seed=design.seed, index=index)
        weights += [kernel.astype(dtype), np.zeros(layer.units, dtype)]
        if layer.batch_norm:
            weights += [fill(layer.units, dtype) for fill in (np.ones, np.zeros, np.zeros, np.ones)]
    width = design.layers[-1].units if design.layers else n_features
    kernel = draw_kernel("glorot_uniform", width, n_outputs, seed=design.seed, index=len(design.layers))
    return (*weights, kernel.astype(dtype), np.zeros(n_outputs, dtype))


def draw_kernel(initializer: str, fan_in: int, fan_out: int, *, seed: int, index: int) -> np.ndarray:
    """Draw the kernel (fan_in, fan_out), float64, of a layer after its initializer's Keras formula."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    shape = (fan_in, fan_out)
    family, _, kind = initializer.partition("_")
    if initializer == "zeros":
        return np.zeros(shape)
    if initializer == "orthogonal":
        return _orthogonal(rng, shape)
    if initializer == "random_normal":
        return 0.05 * rng.standard_normal(shape)
    if initializer == "truncated_normal":
        return 0.05 * _truncated_normal(rng, shape)
    if initializer == "random_uniform":
        return rng.uniform(-0.05, 0.05, shape)
    fan = (fan_in + fan_out) / 2 if family == "glorot" else fan_in
    variance = (2.0 if family == "he" else 1.0) / fan
    if kind == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)
    return math.sqrt(variance) / _TRUNCATED_STDDEV * _truncated_normal(rng, shape)


def _truncated_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Draw unit normals, each again until it lies within ±2."""
    drawn = rng.standard_normal(shape)
    outside = np.abs(drawn) > 2
    while outside.any():
        drawn[outside] = rng.standard_normal(int(outside.sum()))
        outside = np.abs(drawn) > 2
    return drawn


def _orthogonal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return orthonormal columns (or rows, where there are more columns), uniform over such matrices."""
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.sign(np.diag(r))  # makes the factorisation unique, and the distribution uniform
    return np.ascontiguousarray(q if rows >= columns else q.T)


def _layers(design: Design, n_features: int) -> Iterator[tuple[Layer, int]]:
    """Yield each hidden layer with the width of its input."""
    if design.reference is not None:
        raise DesignError(
            "weights are drawn for designs given by layers, got one by reference; build its model"
        )
    width = n_features
    for layer in design.layers:
        yield layer, width
        width = layer.units


def _weights(design: Design, n_features: int, n_outputs: int) -> Iterator[tuple[str, Shape]]:
    for index, (layer, width) in enumerate(_layers(design, n_features)):
        yield f"layer_{index}/kernel", (width, layer.units)
        yield f"layer_{index}/bias", (layer.units,)
        if layer.batch_norm:
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                yield f"layer_{index}/{name}", (layer.units,)
    width = design.layers[-1].units if design.layers else n_features
    yield "output/kernel", (width, n_outputs)
    yield "output/bias", (n_outputs,)
