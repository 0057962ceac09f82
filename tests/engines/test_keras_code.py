"""A design as Python of Keras alone: it runs, and its network is the one that is trained."""

from typing import Any

import keras
import numpy as np
import pytest

from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule
from dnnflow.engines.keras.build import LOSSES, OPTIMIZERS, build_model, compile_model
from dnnflow.engines.keras.keras_code import LOSS_CLASSES, OPTIMIZER_CLASSES, keras_code
from dnnflow.engines.loop import LearningRate
from dnnflow.engines.losses import CROSS_ENTROPY, Loss, LossKind

DESIGNS = [
    Design((), epochs=2),
    Design((Layer(8, "relu"), Layer(8, "tanh", dropout=0.25)), residual=1, epochs=2),
    Design(
        (Layer(8, "gelu", batch_norm=True, l2=0.01, initializer="he_normal"), Layer(4)),
        optimizer=Optimizer("sgd", 0.05, parameters={"momentum": 0.9, "nesterov": True}),
        schedule=Schedule("plateau", {"patience": 3}), early_stopping=EarlyStopping(2), epochs=2,
    ),
]  # fmt: skip


def run(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(code, "design.py", "exec"), found)
    return found


def config(model: keras.Model) -> list[Any]:
    layers = [layer.get_config() for layer in model.layers]
    return [{key: value for key, value in one.items() if key != "seed"} for one in layers]


@pytest.mark.parametrize("design", DESIGNS)
def test_the_code_builds_the_network_that_is_trained(design: Design) -> None:
    found = run(keras_code(design, 8, 3, CROSS_ENTROPY))
    model, wanted = found["build_model"](), compile_model(build_model(design, 8, 3), design)
    assert config(model) == config(wanted)
    optimizers = [
        type(one.optimizer)(**one.optimizer.get_config() | {"name": "x"}) for one in (model, wanted)
    ]
    assert optimizers[0].get_config() == optimizers[1].get_config()
    assert type(model.loss).__name__ == type(wanted.loss).__name__
    x, y = np.random.default_rng(0).random((32, 8), np.float32), np.arange(32) % 3
    history = found["fit"](model, x, y, validation_data=(x, y))
    assert len(history.history["loss"]) == 2


@pytest.mark.parametrize("kind", ["exponential", "step", "cosine"])
def test_the_learning_rate_changes_as_in_the_study(kind: str) -> None:
    design = Design((), epochs=25, optimizer=Optimizer("sgd", 0.1), schedule=Schedule(kind))
    found = run(keras_code(design, 2, 2, CROSS_ENTROPY))
    model = found["build_model"]()
    x, y = np.zeros((4, 2), np.float32), np.zeros(4, int)
    rates = found["fit"](model, x, y).history["learning_rate"]
    assert rates == pytest.approx([LearningRate(design).at(epoch) for epoch in range(25)], rel=1e-5)


def test_numbers_have_the_loss_of_the_study() -> None:
    found = run(keras_code(DESIGNS[0], 2, 1, Loss(LossKind.QUANTILE, 0.9)))
    assert float(found["quantile_loss"](np.array([[1.0]]), np.array([[0.0]]))[0]) == pytest.approx(0.9)
    assert set(LOSS_CLASSES) == set(LOSSES)
    assert {name: getattr(keras.optimizers, one) for name, one in OPTIMIZER_CLASSES.items()} == OPTIMIZERS


def test_a_design_by_reference_is_called_as_in_the_study() -> None:
    design = Design(reference=Reference("mine:network", {"width": 3}), epochs=4)
    code = keras_code(design, 5, 2, CROSS_ENTROPY)
    assert "from mine import network" in code
    assert "return network(n_features=5, n_classes=2, width=3)" in code
