"""Initial weights: every engine starts from the same ones, drawn after Keras' formulas."""

import keras
import numpy as np
import pytest

from dnnflow.design.initial import draw_kernel, initial_weights, weight_names, weight_shapes
from dnnflow.design.layers import INITIALIZERS, Design, Layer, Reference
from dnnflow.engines.keras.build import build_model
from dnnflow.errors import DesignError

DESIGN = Design((Layer(6, batch_norm=True), Layer(5, dropout=0.1), Layer(5)), residual=1, seed=3)


def test_weights_have_the_order_of_the_keras_model() -> None:
    model = build_model(DESIGN, 4, 3)
    weights = initial_weights(DESIGN, 4, 3)
    given = model.get_weights()
    assert [w.shape for w in given] == [w.shape for w in weights] == list(weight_shapes(DESIGN, 4, 3))
    assert all(np.array_equal(a, b) for a, b in zip(given, weights, strict=True))
    assert [weight.name for weight in model.weights] == [name.split("/")[1] for name in weight_names(DESIGN)]


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name not in ("zeros", "orthogonal")])
def test_a_kernel_is_distributed_as_keras_draws_it(name: str) -> None:
    ours = draw_kernel(name, 300, 200, seed=1, index=0)
    keras.utils.set_random_seed(5)
    theirs = np.asarray(keras.initializers.get(name)((300, 200)))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert abs(ours.mean()) < 4 * ours.std() / np.sqrt(ours.size)
    # the ends of uniform and truncated distributions; the largest of normal ones
    assert np.abs(ours).max() == pytest.approx(
        np.abs(theirs).max(), rel=0.15 if name == "random_normal" else 0.01
    )


@pytest.mark.parametrize(("fan_in", "fan_out"), [(20, 8), (8, 20), (8, 8)])
def test_an_orthogonal_kernel_is_orthogonal(fan_in: int, fan_out: int) -> None:
    kernel = draw_kernel("orthogonal", fan_in, fan_out, seed=1, index=0)
    assert kernel.shape == (fan_in, fan_out)
    small = kernel.T @ kernel if fan_in >= fan_out else kernel @ kernel.T
    np.testing.assert_allclose(small, np.eye(min(fan_in, fan_out)), atol=1e-12)


def test_a_layer_keeps_its_weights_when_others_change() -> None:
    one = initial_weights(Design((Layer(6), Layer(5))), 4, 3)
    other = initial_weights(Design((Layer(6, initializer="he_normal"), Layer(5))), 4, 3)
    assert not np.array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[2], other[2])


def test_seeds_and_layers_draw_different_weights() -> None:
    kernels = [
        draw_kernel("he_normal", 6, 6, seed=seed, index=i) for seed in (0, 1, 2**63 - 1) for i in (0, 1)
    ]
    assert len({kernel.tobytes() for kernel in kernels}) == 6


def test_float32_weights_are_the_rounded_float64_ones() -> None:
    for small, large in zip(
        initial_weights(DESIGN, 4, 3), initial_weights(DESIGN, 4, 3, np.float64), strict=True
    ):
        assert small.dtype == np.float32
        np.testing.assert_array_equal(small, large.astype(np.float32))


def test_a_known_draw_stays_what_it_was() -> None:
    # A stored trial is repeated from its design alone: other weights would give other numbers.
    kernel = draw_kernel("glorot_uniform", 2, 2, seed=7, index=1)
    np.testing.assert_allclose(kernel.ravel(), KNOWN, rtol=1e-12)


KNOWN = [0.9368485776632935, -0.32078925591020513, 0.04181204147435924, -0.41202928011498574]


def test_a_design_by_reference_has_no_drawn_weights() -> None:
    with pytest.raises(DesignError, match="got one by reference; build its model"):
        initial_weights(Design(reference=Reference("m:f")), 4, 3)
