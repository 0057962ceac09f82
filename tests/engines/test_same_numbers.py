"""Stacks and machine code train what real Keras trains: every activation, layer option and optimizer.

If one of these failed, a study's ranking would be that of other networks than those it names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnflow.design.layers import ACTIVATIONS, INITIALIZERS, Design, Layer, Optimizer
from dnnflow.engines.compiled.compiled_engine import CompiledNetwork
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.keras.build import build_model, build_optimizer
from dnnflow.engines.loop import Deadline, Weights
from dnnflow.engines.losses import Loss, LossKind
from dnnflow.engines.records import TrainingSettings
from dnnflow.engines.registry import find_engine
from dnnflow.engines.seam import TrainingContext
from dnnflow.engines.stacked.stack_plan import StackLimits, TableShape, plan_stacks
from dnnflow.engines.stacked.stack_program import StackProgram
from dnnflow.engines.stacked.stack_run import StackRun
from dnnflow.engines.stacked.stacked_engine import layout_of
from dnnflow.engines.tensors import Tensors
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ON_TEST = TrainingSettings(select_on="test")
BATCH = 26
"""256 rows are ten batches of it, the last one shorter."""
RATE = 2.0**-7

OPTIMIZERS = {
    "sgd": Optimizer("sgd", RATE),
    "momentum": Optimizer("sgd", RATE, {"momentum": 0.9}),
    "nesterov": Optimizer("sgd", RATE, {"momentum": 0.9, "nesterov": True}),
    "adam": Optimizer("adam", RATE),
    "amsgrad": Optimizer("adam", RATE, {"amsgrad": True}),
    "adam, other parameters": Optimizer("adam", RATE, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 0.01}),
    "adamw": Optimizer("adamw", RATE, {"weight_decay": 0.3}),
    "nadam": Optimizer("nadam", RATE),
    "adamax": Optimizer("adamax", RATE),
    "rmsprop": Optimizer("rmsprop", RATE),
    "rmsprop, momentum": Optimizer("rmsprop", RATE, {"momentum": 0.5}),
    "rmsprop, centered": Optimizer("rmsprop", RATE, {"momentum": 0.5, "centered": True}),
    "adagrad": Optimizer("adagrad", RATE),
    "adadelta": Optimizer("adadelta", 0.5),
    "lion": Optimizer("lion", 2.0**-10),
}


def rates(optimizer: Optimizer, count: int) -> list[Optimizer]:
    """The same optimizer at other rates, as designs of one stack have."""
    factors = (1.0, 0.25, 2.0, 0.5)
    return [
        Optimizer(optimizer.name, optimizer.learning_rate * factors[index % 4], optimizer.parameters)
        for index in range(count)
    ]


def stack(
    *layers: tuple[Layer, ...], optimizer: Optimizer = OPTIMIZERS["adam"], residual: int = 0
) -> list[Design]:
    """One design for each tuple of layers."""
    optimizers = rates(optimizer, len(layers))
    return [
        Design(one, residual, optimizers[seed], batch_size=BATCH, epochs=1, seed=seed)
        for seed, one in enumerate(layers)
    ]


def deep(layer: Layer, residual: int = 0) -> list[Design]:
    """Designs of 18 such layers, which run as a loop."""
    return stack(*[(layer,) * 18] * 2, optimizer=Optimizer("sgd", 2.0**-10), residual=residual)


FAMILIES = {
    "activations": stack(*((Layer(8, name), Layer(6, name)) for name in ACTIVATIONS)),
    "activations by layer": stack(
        (Layer(8, "tanh"), Layer(6, "gelu")), (Layer(8, "gelu"), Layer(6, "elu")),
        (Layer(8), Layer(6, "tanh")),
    ),
    "widths": stack(
        (Layer(8, "sigmoid"), Layer(7)), (Layer(6, "sigmoid"), Layer(8)), (Layer(8, "sigmoid"), Layer(6))
    ),
    "no hidden layer": stack((), ()),
    "initializers": stack(*((Layer(8, "tanh", initializer=name),) for name in INITIALIZERS)),
    "l2": stack((Layer(8, l2=0.1), Layer(6)), (Layer(8), Layer(6, l2=0.01)), (Layer(7, l2=0.02), Layer(6))),
    "batch normalisation": stack(
        (Layer(8, "softplus", batch_norm=True), Layer(6)), (Layer(7, "softplus", batch_norm=True), Layer(6)),
        optimizer=OPTIMIZERS["sgd"],
    ),
    "residual": stack((Layer(8, "tanh"),) * 4, (Layer(9, "tanh"),) * 4, residual=2),
    "residual with the input": stack((Layer(12, "tanh"),) * 3, (Layer(12, "tanh"),) * 3, residual=1),
    # Rounding grows through many layers: at small steps, so that it stays rounding
    "deep": deep(Layer(8, "tanh")),
    "deep and normalised": deep(Layer(8, "tanh", batch_norm=True, l2=0.01)),
    "deep and residual": deep(Layer(8, "tanh"), residual=3),
    "deep, residual with the input": deep(Layer(12, "tanh"), residual=4),
    "deep, residual by layer": deep(Layer(12, "tanh"), residual=1),
    **{
        name: stack(*[(Layer(8, "tanh"), Layer(6, "tanh"))] * 3, optimizer=optimizer)
        for name, optimizer in OPTIMIZERS.items()
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """320 rows of 12 features and 3 classes: 256 to train."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("numbers")
    features = rng.normal(size=(320, 12))
    labels = (features @ rng.normal(size=(12, 3))).argmax(axis=1)
    path = Path(folder) / "table.csv"
    names = ",".join([*(f"x{index}" for index in range(12)), "label"])
    rows = (
        ",".join([*(f"{value:.6f}" for value in row), f"c{label}"])
        for row, label in zip(features, labels, strict=True)
    )
    path.write_text("\n".join([names, *rows]) + "\n")
    return ingest(Source(url=str(path)), Recipe(label="label"), folder)


@pytest.fixture(scope="module")
def other_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """320 rows of 12 features with one number, two numbers, or three labels to predict: 256 to train."""
    rng, folder = np.random.default_rng(6), tmp_path_factory.mktemp("others")
    features = rng.normal(size=(320, 12))
    sums = features @ rng.normal(size=(12, 3)) + rng.normal(size=(320, 3))
    columns = {
        **{f"x{index}": features[:, index] for index in range(12)},
        "price": 100 * sums[:, 0] + 500, "rent": sums[:, 1],
        **{f"is_{index}": (sums[:, index] > 0.5).astype(int) for index in range(3)},
        "kind": sums.argmax(axis=1), "counts": rng.integers(0, 4, 320),
    }  # fmt: skip
    path = folder / "table.csv"
    rows = zip(*(map(str, values.tolist()) for values in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *map(",".join, rows)]) + "\n")
    labels = ("is_0", "is_1", "is_2")

    def table(*label: str, **how: Any) -> Dataset:
        drop = {"price", "rent", *labels, "kind", "counts"} - {*label, how.get("weights")}
        return ingest(Source(url=str(path)), Recipe(label=label, drop=tuple(sorted(drop)), **how), folder)

    return {
        "number": table("price"),
        "numbers": table("price", "rent"),
        "labels": table(*labels),
        "weighted classes": table("kind", weights="counts"),
        "weighted labels": table(*labels, weights="counts"),
        "weighted numbers": table("price", "rent", weights="counts"),
        "classes": table("kind"),
    }


@pytest.fixture(params=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The type of weights, in which Keras also counts losses and rates meanwhile."""
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    yield request.param
    keras.config.set_floatx(before)


def by_stack(
    designs: list[Design], dataset: Dataset, dtype: str, settings: TrainingSettings = ON_TEST
) -> list[Weights]:
    (stack,) = plan_stacks(designs, TableShape(256, dataset.n_features, dataset.n_outputs), StackLimits())
    layout, rows = layout_of(stack, dataset), TrainingRows(dataset, settings)
    program = StackProgram(
        stack.signature, layout, dtype, loss=rows.loss, is_weighted=rows.weights is not None
    )
    trained = {
        member.design.design_id: member.weights
        for member in StackRun(stack, layout, program, rows, Tensors()).fit(Deadline(None))
    }
    return [trained[design.design_id] for design in designs]


def by_machine_code(
    design: Design, dataset: Dataset, dtype: str, settings: TrainingSettings = ON_TEST
) -> Weights:
    network = CompiledNetwork(design, TrainingRows(dataset, settings), dtype)
    network.train_epoch(0, design.optimizer.learning_rate, Deadline(None))
    return network.weights()


def by_keras(design: Design, dataset: Dataset, dtype: str, settings: TrainingSettings = ON_TEST) -> Weights:
    rows = TrainingRows(dataset, settings)
    model = build_model(design, dataset.n_features, dataset.n_outputs, loss=rows.loss, dtype=dtype)
    model.compile(build_optimizer(design.optimizer), keras_loss(rows.loss), run_eagerly=True)
    (block,) = rows.epoch(0, design.batch_size)
    for first in range(0, len(block.order), design.batch_size):
        batch = block.order[first : first + design.batch_size]
        weights = None if block.weights is None else block.weights[batch]
        model.train_on_batch(block.features[batch].astype(dtype), block.labels[batch], weights)
    return tuple(model.get_weights())


def keras_loss(loss: Loss) -> object:
    """The loss as a user of Keras writes it."""
    if loss.kind is LossKind.QUANTILE:

        def pinball(y_true: Any, y_pred: Any) -> Any:
            below = keras.ops.cast(y_true, y_pred.dtype) - y_pred
            high = keras.ops.where(below > 0, loss.quantile * below, (loss.quantile - 1) * below)
            return keras.ops.mean(high, axis=-1)

        return pinball
    return {
        LossKind.CROSS_ENTROPY: keras.losses.SparseCategoricalCrossentropy,
        LossKind.BINARY_CROSS_ENTROPY: keras.losses.BinaryCrossentropy,
        LossKind.MEAN_SQUARED_ERROR: keras.losses.MeanSquaredError,
        LossKind.MEAN_ABSOLUTE_ERROR: keras.losses.MeanAbsoluteError,
        LossKind.HUBER: keras.losses.Huber,
    }[loss.kind]()


COMPILED: dict[str, tuple[tuple[Layer, ...], Optimizer]] = {
    **{name: ((Layer(8, name), Layer(6, name)), OPTIMIZERS["adam"]) for name in ACTIVATIONS},
    "no hidden layer, nadam": ((), OPTIMIZERS["nadam"]),
    "layers that differ": (
        (Layer(9, "elu"), Layer(5, "sigmoid"), Layer(7, "linear"), Layer(3, "selu")), OPTIMIZERS["adam"],
    ),
    "deep": ((Layer(8, "tanh"),) * 40, Optimizer("sgd", 2.0**-10)),
    "normalised layers of many widths": (
        (Layer(33, "gelu", batch_norm=True), Layer(17, "mish"), Layer(5, "silu", batch_norm=True, l2=0.01)),
        OPTIMIZERS["momentum"],
    ),
}  # fmt: skip


def assert_alike(design: Design, ours: Weights, theirs: Weights, dtype: str, *, more: float = 1) -> None:
    bound = more * (1e-8 if dtype == "float64" else 1e-5)
    assert [weight.shape for weight in ours] == [weight.shape for weight in theirs]
    for name, one, other in zip(range(len(ours)), ours, theirs, strict=True):
        # What begins at zero has hardly moved; the bias of a normalised layer has no gradient at all
        size = max(float(np.linalg.norm(other)), 1e-2)
        assert np.linalg.norm(one - other) <= bound * size, (design.describe(), name)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_ends_an_epoch_with_the_weights_of_keras(family: str, table: Dataset, dtype: str) -> None:
    designs = FAMILIES[family]
    for design, ours in zip(designs, by_stack(designs, table, dtype), strict=True):
        assert_alike(design, ours, by_keras(design, table, dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_machine_code_ends_an_epoch_with_the_weights_of_keras(name: str, table: Dataset, dtype: str) -> None:
    layers, optimizer = COMPILED[name]
    design = Design(layers, optimizer=optimizer, batch_size=BATCH, epochs=1)
    assert_alike(design, by_machine_code(design, table, dtype), by_keras(design, table, dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_machine_code_trains_what_a_stack_does(family: str, table: Dataset, dtype: str) -> None:
    for design in FAMILIES[family]:
        # Rounding of 18 normalisations, each of which divides by a small deviation
        more = 2 if family == "deep and normalised" else 1
        ours, theirs = by_machine_code(design, table, dtype), by_keras(design, table, dtype)
        assert_alike(design, ours, theirs, dtype, more=more)


WIDE = (Layer(33, "gelu", l2=0.01), Layer(33, "sigmoid"), Layer(50, "tanh"))
NORMALIZED = (Layer(33, "tanh", batch_norm=True), Layer(33, "sigmoid", l2=0.01), Layer(50, "tanh"))


@pytest.mark.parametrize("layers", [WIDE[1:], WIDE, NORMALIZED], ids=["plain", "wide", "normalised"])
@pytest.mark.parametrize("batch_size", [32, 70, 256])
def test_machine_code_takes_batches_of_any_size(
    batch_size: int, layers: tuple[Layer, ...], table: Dataset, dtype: str
) -> None:
    """A batch of more rows than a block has goes through the network in parts, or whole."""
    residual = 2 if layers is NORMALIZED else 0
    optimizer = OPTIMIZERS["sgd" if layers is NORMALIZED else "adam"]
    design = Design(layers, residual, optimizer, batch_size=batch_size, epochs=1)
    assert_alike(design, by_machine_code(design, table, dtype), by_keras(design, table, dtype), dtype)


LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "labels": ("labels", {}),
    "squared error": ("number", {}),
    "squared error of two": ("numbers", {}),
    "absolute error": ("numbers", {"loss": "mean_absolute_error"}),
    "huber": ("numbers", {"loss": "huber"}),
    "quantile": ("numbers", {"loss": "quantile", "quantile": 0.8}),
    "weighted classes": ("weighted classes", {}),
    "weighted classes, balanced": ("weighted classes", {"class_weight": "balanced"}),
    "balanced classes": ("classes", {"class_weight": "balanced"}),
    "weights of classes": ("classes", {"class_weight": {"0": 3.0, "2": 0.5}}),
    "weighted labels": ("weighted labels", {}),
    "weighted absolute error": ("weighted numbers", {"loss": "mean_absolute_error"}),
}
"""By name: the table, and what of a training's settings names the loss."""
# Adam makes whole steps of the rounding that is the gradient of a normalised layer's bias
OF_WIDE = stack((Layer(8, "gelu", batch_norm=True), Layer(6, "tanh", l2=0.01)), optimizer=OPTIMIZERS["sgd"])
OF_LOSSES = stack(*((Layer(8, "tanh"), Layer(units, "tanh")) for units in (6, 8, 7)))


@pytest.mark.parametrize("name", LOSSES)
def test_machine_code_has_the_losses_of_keras(
    name: str, other_tables: dict[str, Dataset], dtype: str
) -> None:
    table, given = LOSSES[name]
    settings, dataset = ON_TEST.replace(**given), other_tables[table]
    for design in [*OF_LOSSES[:1], *OF_WIDE]:
        ours = by_machine_code(design, dataset, dtype, settings)
        assert_alike(design, ours, by_keras(design, dataset, dtype, settings), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_stack_has_the_losses_of_keras(name: str, other_tables: dict[str, Dataset], dtype: str) -> None:
    table, given = LOSSES[name]
    settings, dataset = ON_TEST.replace(**given), other_tables[table]
    ours = by_stack(OF_LOSSES, dataset, dtype, settings)
    for design, weights in zip(OF_LOSSES, ours, strict=True):
        assert_alike(design, weights, by_keras(design, dataset, dtype, settings), dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_all_engines_measure_the_same(name: str, other_tables: dict[str, Dataset]) -> None:
    """Losses, what is followed, scores and predictions of engines are of one network."""
    table, given = LOSSES[name]
    context = TrainingContext(other_tables[table], TrainingSettings(**given))
    design = Design((Layer(8, "tanh"),), optimizer=Optimizer("adam", 0.01), batch_size=64, epochs=2)
    names = [
        "keras",
        "compiled",
        "stacked",
        *(["sklearn"] if table in ("labels", "number", "numbers") and not given else []),
    ]
    (first, *others) = [next(iter(find_engine(one).train([design], context))) for one in names]
    assert first.trial.error is None
    for other in others:
        assert other.trial.error is None, other.trial.error
        for field in ("score", "loss", "train_loss", "validation_loss"):
            assert getattr(other.trial, field) == pytest.approx(getattr(first.trial, field), rel=1e-4), field
        assert list(other.trial.history) == list(first.trial.history)
        assert other.trial.confusion == first.trial.confusion
        measure = "r2" if "number" in table else "accuracy"
        if other.trial.engine != "sklearn":  # which measures at the end of an epoch
            assert other.trial.history[measure] == pytest.approx(first.trial.history[measure], abs=1e-4)
        assert other.trial.history[f"val_{measure}"] == pytest.approx(
            first.trial.history[f"val_{measure}"], abs=1e-4
        )
        assert first.predicted is not None
        assert other.predicted is not None
        np.testing.assert_allclose(other.predicted, first.predicted, rtol=1e-3, atol=1e-2)
        assert first.weights is not None
        assert other.weights is not None
        for one, theirs in zip(other.weights(), first.weights(), strict=True):
            np.testing.assert_allclose(one, theirs, atol=1e-4)
