"""From designs to Keras models: what a person downloads must be the network that was described."""

import keras
import numpy as np
import pytest

from dnnflow.design.layers import (
    ACTIVATIONS,
    OPTIMIZERS,
    Design,
    Layer,
    Optimizer,
    Reference,
    count_parameters,
)
from dnnflow.engines.keras.build import build_model, build_optimizer, compile_model
from dnnflow.engines.losses import Loss, LossKind
from dnnflow.errors import DesignError


def conv(n_features: int, n_classes: int, width: int = 2) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Reshape((n_features, 1)),
            keras.layers.Conv1D(4, width, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(n_classes, activation="softmax"),
        ]
    )


def too_narrow(n_features: int, n_classes: int) -> keras.Model:
    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(n_classes - 1)])


def no_model(n_features: int, n_classes: int) -> str:
    return "a model"


def test_layers_come_in_the_order_of_the_vocabulary() -> None:
    design = Design((Layer(4, batch_norm=True, dropout=0.5, l2=0.01), Layer(4)), residual=1)
    kinds = [type(layer).__name__ for layer in build_model(design, 4, 3).layers]
    hidden = ["Dense", "BatchNormalization", "Activation", "Dropout", "Add", "Dense", "Add"]
    assert kinds == ["InputLayer", *hidden, "Dense"]


def test_a_residual_network_adds_what_it_says() -> None:
    design = Design((Layer(4, "linear"), Layer(4, "linear")), residual=2)
    model = build_model(design, 4, 3)
    first, b1, second, b2, out, b3 = model.get_weights()
    x = np.random.default_rng(0).random((5, 4), np.float32)
    logits = ((x @ first + b1) @ second + b2 + x) @ out + b3
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def test_counted_parameters_are_those_of_the_model() -> None:
    design = Design((Layer(7, batch_norm=True), Layer(5), Layer(5, dropout=0.1)), residual=1)
    assert count_parameters(design, 4, 3) == build_model(design, 4, 3).count_params()


def test_every_activation_is_known_to_keras() -> None:
    model = build_model(Design(tuple(Layer(2, activation) for activation in ACTIVATIONS)), 4, 3)
    assert np.isfinite(model(np.ones((1, 4), np.float32))).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_its_parameters(name: str) -> None:
    flags = {"nesterov", "amsgrad", "centered"}
    parameters = {key: True if key in flags else 0.5 for key in OPTIMIZERS[name]}
    optimizer = build_optimizer(Optimizer(name, 0.25, parameters))
    config = optimizer.get_config()
    assert {key: config[key] for key in parameters} == parameters
    assert float(optimizer.learning_rate) == 0.25


def test_a_model_by_reference_is_built_from_its_seed() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        design = Design(reference=Reference(f"{__name__}:conv", {"width": 3}), seed=seed)
        return list(build_model(design, 4, 3).get_weights())

    one, again, other = weights(1), weights(1), weights(2)
    assert one[0].shape == (3, 1, 4)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("too_narrow", r"must map \(rows, 4\) to \(rows, 3\), got \(1, 2\)"),
        ("no_model", "must return a Keras model, got str"),
        ("missing", "must be importable on the worker"),
    ],
)
def test_code_that_gives_no_classifier_is_refused(function: str, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        build_model(Design(reference=Reference(f"{__name__}:{function}")), 4, 3)


def test_a_compiled_model_trains_as_its_user_would() -> None:
    model = compile_model(build_model(Design((Layer(8),)), 4, 3), Design((Layer(8),)))
    x, y = np.random.default_rng(0).random((30, 4), np.float32), np.arange(30) % 3
    before = model.evaluate(x, y, verbose=0)[0]
    model.fit(x, y, epochs=2, verbose=0)
    assert model.evaluate(x, y, verbose=0)[0] < before


def numbers(n_features: int, n_outputs: int) -> keras.Model:
    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(n_outputs)])


def test_code_is_told_outputs_where_there_are_no_classes() -> None:
    design = Design(reference=Reference(f"{__name__}:numbers"))
    model = build_model(design, 4, 2, loss=Loss(LossKind.MEAN_SQUARED_ERROR))
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize(
    ("kind", "activation", "loss"),
    [
        (LossKind.CROSS_ENTROPY, "softmax", keras.losses.SparseCategoricalCrossentropy),
        (LossKind.BINARY_CROSS_ENTROPY, "sigmoid", keras.losses.BinaryCrossentropy),
        (LossKind.HUBER, "linear", keras.losses.Huber),
    ],
)
def test_the_last_layer_and_the_loss_are_the_tasks(kind: LossKind, activation: str, loss: type) -> None:
    design = Design((Layer(4),))
    model = compile_model(build_model(design, 3, 2, loss=Loss(kind)), design, Loss(kind))
    assert model.layers[-1].activation.__name__ == activation
    assert isinstance(model.loss, loss)


def test_a_loss_that_keras_has_not_is_not_compiled() -> None:
    design, loss = Design((Layer(4),)), Loss(LossKind.QUANTILE, 0.9)
    with pytest.raises(DesignError, match="needs a loss that Keras has, got quantile"):
        compile_model(build_model(design, 3, 2, loss=loss), design, loss)
