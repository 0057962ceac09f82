"""Models on their way to workers: what is built there must be what the user meant, and run nothing else."""

import json
import os
import pickle
import pickletools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from dnnflow.design.initial import initial_weights
from dnnflow.design.layers import Design, Layer, Optimizer, Reference
from dnnflow.errors import DnnflowError, InputError, NotFoundError
from dnnflow.parallel.model.devices import gpu_bytes
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.model.variables import read_vector, seeds, write_vector
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

L = keras.layers
HERE = "test_parallel_models"
ROOT = Path(__file__).parents[2]


def squared(targets, outputs):
    """A loss of one's own."""
    return keras.ops.mean(keras.ops.square(targets - outputs), axis=-1)


def doubled(x):
    """An activation of one's own."""
    return 2 * keras.ops.relu(x)


class Halved(keras.losses.Loss):
    """A loss of one's own, as a class."""

    def call(self, y_true, y_pred):
        return squared(y_true, y_pred) / 2


class Distance(keras.metrics.Mean):
    """A metric of one's own."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(keras.ops.abs(y_true - y_pred))


class Scaled(keras.layers.Layer):
    """A layer of one's own, with a weight and a statistic."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, inputs):
        self.seen.assign_add(1.0)
        return inputs * self.scale


class Subclassed(keras.Model):
    """A model as a class, that no JSON of layers describes."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.hidden, self.out = L.Dense(units), L.Dense(2)

    def build(self, shape):
        self.hidden.build(shape)
        self.out.build((None, self.units))
        self.built = True

    def call(self, inputs):
        return self.out(self.hidden(inputs))


def layered(units: int = 3) -> keras.Model:
    """Return a model of layers."""
    return keras.Sequential([keras.Input((4,)), L.Dense(units, activation="relu"), L.Dense(2)])


def subclassed(units: int = 3) -> keras.Model:
    """Return a model that only this function can make."""
    model = Subclassed(units)
    model.build((None, 4))
    return model


def a_text() -> str:
    return "no model"


def for_design(n_features: int, n_classes: int, units: int) -> keras.Model:
    """Return what a design by reference builds."""
    layers = [keras.Input((n_features,)), L.Dense(units), L.Dense(n_classes, activation="softmax")]
    return keras.Sequential(layers)


def _own_things() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation=doubled), Scaled(), L.Dense(2)])
    model.compile("adam", loss=squared, metrics=["mae", Distance(name="distance")])
    return model


def _two_sides() -> keras.Model:
    left, right = keras.Input((4,), name="left"), keras.Input((5, 2), name="right")
    flow = L.Concatenate()([left, L.LSTM(3)(right)])
    outputs = [L.Dense(1, name="number")(flow), L.Dense(3, activation="softmax", name="kind")(flow)]
    model = keras.Model([left, right], outputs)
    losses = ["mse", "sparse_categorical_crossentropy"]
    model.compile("sgd", loss=losses, loss_weights=[1.0, 0.5], metrics=[["mae"], ["accuracy"]])
    return model


def _deep() -> keras.Model:
    convolved = keras.Sequential(
        [keras.Input((6, 6, 1)), L.Conv2D(2, 3), L.BatchNormalization(), L.Flatten(), L.Dropout(0.5)],
        name="block",
    )
    convolved.get_layer(index=0).trainable = False
    model = keras.Sequential([keras.Input((6, 6, 1)), convolved, L.Dense(2)])
    model.compile("rmsprop", loss=keras.losses.Huber(delta=0.5))
    return model


MODELS = {"own_things": _own_things, "two_sides": _two_sides, "deep": _deep}


def _batch(name: str) -> tuple:
    rng = np.random.default_rng(0)
    if name == "two_sides":
        return [rng.normal(size=(5, 4)), rng.normal(size=(5, 5, 2))], [
            rng.normal(size=(5, 1)),
            np.arange(5) % 3,
        ]
    x = rng.normal(size=(5, 6, 6, 1)) if name == "deep" else rng.normal(size=(5, 4))
    return x, rng.normal(size=(5, 2))


def _same(first: keras.Model, second: keras.Model, name: str) -> None:
    """Compare what two models give and learn on a batch."""
    batch = _batch(name)
    steps = [GradientStep(first), GradientStep(second)]
    vectors = [read_vector(model) for model in (first, second)]
    assert np.array_equal(vectors[0], vectors[1])
    found = [step.gradient(vectors[0], batch) for step in steps]
    np.testing.assert_array_equal(found[0].vector, found[1].vector)
    assert steps[0].results(found[0].totals) == steps[1].results(found[1].totals)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_sent_as_data_learns_what_the_original_would(name: str) -> None:
    model = MODELS[name]()
    sent = pickle.dumps(ModelSpec.of(model))
    classes = {arg for op, arg, _ in pickletools.genops(sent) if op.name == "SHORT_BINUNICODE" and arg}
    assert "dnnflow.parallel.model.model_spec" in classes
    assert not [name for name in classes if name.startswith(("keras.src", "tensorflow"))]
    _same(pickle.loads(sent).build(), model, name)


@pytest.mark.slow
def test_the_receiving_process_needs_only_the_modules_that_are_named(tmp_path: Path) -> None:
    spec = ModelSpec.of(_own_things())
    assert spec.custom_objects == tuple(f"{HERE}:{name}" for name in ("Distance", "Scaled", "doubled"))
    (tmp_path / "spec").write_bytes(pickle.dumps(spec))
    code = "import pickle, sys; m = pickle.load(open(sys.argv[1], 'rb')).build(); print(m.count_params())"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spec")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
    )
    assert run.stdout.strip() == str(spec.build().count_params()), run.stderr[-1000:]


def test_a_model_comes_from_the_json_of_keras(tmp_path: Path) -> None:
    model = _two_sides()
    (tmp_path / "model.json").write_text(model.to_json())
    spec = ModelSpec.load(tmp_path / "model.json")
    assert spec.layout.shapes == ModelSpec.of(model).layout.shapes
    assert spec.compiled["loss"] == ["mse", "sparse_categorical_crossentropy"]
    other = ModelSpec.load(str(tmp_path / "model.json"), loss=["mae", "sparse_categorical_crossentropy"])
    assert other.compiled["loss"][0] == "mae"
    assert other.compiled["loss_weights"] == [1.0, 0.5]


def test_a_model_comes_from_the_json_of_keras_2(tmp_path: Path) -> None:
    dense = {
        "name": "dense_1",
        "batch_input_shape": [None, 4],
        "dtype": "float32",
        "units": 3,
        "activation": "relu",
    }
    layers = [{"class_name": "Dense", "config": dense}]
    config = {
        "class_name": "Sequential",
        "config": {"name": "old", "layers": layers},
        "keras_version": "2.2.4",
    }
    (tmp_path / "old.json").write_text(json.dumps(config))
    spec = ModelSpec.load(tmp_path / "old.json", loss="mse")
    assert spec.layout.shapes == ((4, 3), (3,))
    assert spec.build().layers[0].activation is keras.activations.relu


def test_a_model_comes_from_a_keras_file_with_its_weights(tmp_path: Path) -> None:
    model = _own_things()
    model.save(tmp_path / "model.keras")
    names = tuple(f"{HERE}:{name}" for name in ("Distance", "Scaled", "doubled", "squared"))
    _same(ModelSpec.load(tmp_path / "model.keras", custom_objects=names).build(), model, "own_things")


@pytest.mark.parametrize("builder", ["layered", "subclassed"])
def test_a_model_comes_from_a_function_with_parameters(builder: str) -> None:
    spec = ModelSpec.load(f"{HERE}:{builder}", {"units": 5}, loss="mse", optimizer="adam")
    assert spec.layout.shapes == ((4, 5), (5,), (5, 2), (2,))
    assert np.array_equal(read_vector(pickle.loads(pickle.dumps(spec)).build()), spec.vector)


def test_a_design_of_a_study_starts_from_its_own_weights() -> None:
    design = Design((Layer(5, batch_norm=True, dropout=0.2),), optimizer=Optimizer("sgd", 0.1), seed=7)
    spec = ModelSpec.of_design(design, 4, 3)
    for found, expected in zip(spec.build().get_weights(), initial_weights(design, 4, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert spec.optimizer == OptimizerSpec("sgd", 0.1)
    assert spec.compiled["loss"]["class_name"] == "SparseCategoricalCrossentropy"


def test_a_design_by_reference_is_built_by_its_code() -> None:
    design = Design(reference=Reference(f"{HERE}:for_design", {"units": 5}), seed=3)
    spec = ModelSpec.of_design(design, 4, 3)
    assert spec.builder == f"{HERE}:for_design"
    assert np.array_equal(spec.vector, ModelSpec.of_design(design, 4, 3).vector), "drawn from its seed"
    assert np.array_equal(read_vector(spec.build()), spec.vector)


@pytest.mark.parametrize(
    ("given", "name"),
    [("mse", "mse"), (f"{HERE}:squared", "squared"), (squared, "squared"), (f"{HERE}:Halved", "Halved"),
     (Halved(), "Halved"), (keras.losses.Huber(0.5), "Huber")],
)  # fmt: skip
def test_a_loss_is_a_name_a_reference_or_an_object(given: object, name: str) -> None:
    model = ModelSpec.of(layered(), loss=given, metrics=[f"{HERE}:Distance", "mae"]).build()
    found = model.loss
    assert (found if isinstance(found, str) else getattr(found, "__name__", type(found).__name__)) == name
    step = GradientStep(model)
    totals = step.evaluate(read_vector(model), [_batch("layered")])
    assert set(step.results(totals)) == {"loss", "distance", "mae"} or set(step.results(totals)) == {
        "loss",
        "mean",
        "mae",
    }


def test_what_is_given_replaces_what_the_model_was_compiled_with() -> None:
    spec = ModelSpec.of(_own_things(), loss="mae", optimizer=keras.optimizers.SGD(0.5, momentum=0.9))
    assert spec.compiled["loss"] == "mae"
    assert len(spec.compiled["metrics"]) == 2
    assert spec.optimizer == OptimizerSpec("sgd", 0.5, {"momentum": 0.9})


def test_an_optimizer_of_a_compiled_model_is_known_to_the_server() -> None:
    assert ModelSpec.of(_own_things()).optimizer == OptimizerSpec("adam", 0.001)
    assert ModelSpec.of(layered(), loss="mse").optimizer is None
    decayed = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 100))
    with pytest.raises(InputError, match="rate must be a number, got a CosineDecay"):
        _ = ModelSpec.of(layered(), loss="mse", optimizer=decayed).optimizer


def test_frozen_weights_travel_once_and_statistics_with_every_push() -> None:
    spec = ModelSpec.of(_deep())
    learned = [name for name in spec.layout.names if "moving" not in name]
    assert spec.layout.statistics == 2
    assert spec.layout.learned == spec.layout.size - 4
    assert not any("conv2d" in name for name in learned)
    assert [value.shape for value in spec.fixed[:2]] == [(3, 3, 1, 2), (2,)]


def test_replicas_drop_out_other_units_and_the_first_those_of_the_model() -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dropout(0.5), L.Dense(2)])
    spec = ModelSpec.of(model, loss="mse")
    drawn = [
        [variable.numpy().tolist() for variable in seeds(spec.build(replica))] for replica in (0, 1, 1, 2)
    ]
    assert drawn[0] == [variable.numpy().tolist() for variable in seeds(model)]
    assert drawn[1] == drawn[2]
    assert drawn[0] != drawn[1] != drawn[3]


def test_a_vector_of_weights_goes_into_a_model_and_back() -> None:
    model = _deep()
    vector = read_vector(model) + 1.0
    write_vector(model, vector)
    assert np.array_equal(read_vector(model), vector)
    other = replace(ModelSpec.of(model), vector=vector * 2, probe=None)
    assert np.array_equal(read_vector(other.build()), vector * 2)
    with pytest.raises(InputError, match="the vector must have the shape"):
        write_vector(model, vector[:-1])


def _with_lambda() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), L.Lambda(lambda x: x + 1), L.Dense(2)])


def _local() -> keras.Model:
    class Local(keras.layers.Dense):
        """A layer that no other process can import."""

    return keras.Sequential([keras.Input((4,)), Local(2)])


def _frozen() -> keras.Model:
    model = layered()
    model.trainable = False
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSpec.of(layered()), "must have a loss, got none"),
        (lambda: ModelSpec.of(_with_lambda(), loss="mse"), "must hold no lambda"),
        (lambda: ModelSpec.of(layered(), loss=lambda y, p: y - p), "must be importable by the workers"),
        (lambda: ModelSpec.of(_local(), loss="mse"), "must be importable"),
        (lambda: ModelSpec.of(keras.Sequential([L.Dense(2)]), loss="mse"), "it is not built"),
        (lambda: ModelSpec.of(_frozen(), loss="mse"), "none is trainable"),
        (lambda: ModelSpec.of(layered(), loss="mse", losses="mae"), "is trained for loss, .* got losses"),
        (lambda: ModelSpec.load(f"{HERE}:layered", {"width": 3}, loss="mse"), "must take its parameters"),
        (lambda: ModelSpec.load(f"{HERE}:a_text", loss="mse"), "must return a Keras model, got str"),
        (lambda: ModelSpec.load(f"{HERE}:nothing", loss="mse"), "must be importable here and on the workers"),
        (lambda: ModelSpec.load(f"{HERE}:layered", {"units": {3}}, loss="mse"), "take its param"),
        (lambda: ModelSpec.load("model.json", {"units": 3}), "parameters are for module:function"),
        (lambda: ModelSpec.load("nowhere/model.keras"), "no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_elsewhere_is_refused_with_the_rule(make, message: str) -> None:
    with pytest.raises(DnnflowError, match=message) as caught:
        make()
    assert isinstance(caught.value, InputError | NotFoundError)


def test_files_run_no_code_of_their_own(tmp_path: Path) -> None:
    code = _with_lambda()
    (tmp_path / "lambda.json").write_text(code.to_json())
    code.save(tmp_path / "lambda.keras")
    custom = _own_things()
    (tmp_path / "custom.json").write_text(custom.to_json())
    function = ["4wEAAAAAAAAA", None, None]  # of Keras 2: marshalled code
    older = {"name": "code", "batch_input_shape": [None, 4], "function": function, "function_type": "lambda"}
    layers = [{"class_name": "Lambda", "config": older}]
    config = {"class_name": "Sequential", "config": {"name": "old", "layers": layers}}
    (tmp_path / "older.json").write_text(json.dumps(config))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.keras").write_bytes(b"no archive")
    called = {"module": "os", "class_name": "function", "config": "getcwd", "registered_name": "getcwd"}
    layer = {"class_name": "Activation", "module": "keras.layers", "config": {"activation": called}}
    (tmp_path / "called.json").write_text(json.dumps(layer))
    for name in (
        "older.json",
        "lambda.json",
        "lambda.keras",
        "custom.json",
        "broken.json",
        "broken.keras",
        "called.json",
    ):
        with pytest.raises(InputError, match=rf"{name} must hold a Keras model"):
            ModelSpec.load(tmp_path / name, loss="mse")


def test_files_run_no_code_even_where_a_process_allows_it(tmp_path: Path) -> None:
    for kind in ("json", "keras"):
        path = tmp_path / f"lambda.{kind}"
        path.write_text(_with_lambda().to_json()) if kind == "json" else _with_lambda().save(path)
        keras.config.enable_unsafe_deserialization()
        try:
            with pytest.raises(InputError, match="must hold a Keras model"):
                ModelSpec.load(path, loss="mse")
        finally:
            keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)


def test_a_model_that_comes_out_otherwise_on_a_worker_is_refused() -> None:
    spec = ModelSpec.load(f"{HERE}:layered", {"units": 5}, loss="mse")
    with pytest.raises(InputError, match="must be built alike everywhere"):
        replace(spec, parameters={"units": 6}).build()


def test_what_a_replica_holds_on_its_gpus_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_bytes() == 0
    named = [SimpleNamespace(name=f"/device:GPU:{number}") for number in range(2)]
    held = {"GPU:0": {"current": 1, "peak": 5}, "GPU:1": {"current": 2, "peak": 7}}
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: named if kind == "GPU" else [])
    monkeypatch.setattr("tensorflow.config.experimental.get_memory_info", held.__getitem__)
    assert gpu_bytes() == 12
