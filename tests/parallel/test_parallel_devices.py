"""Layers on devices: a model too large for one device must really run on several."""

import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest

from dnnflow.errors import ClusterError, InputError
from dnnflow.parallel.model.devices import place_layers
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec

L = keras.layers
ROOT = Path(__file__).parents[2]

TWO_DEVICES = """
    import pickle, sys
    import numpy as np
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    tf.debugging.set_log_device_placement(True)
    import keras
    from dnnflow.parallel.model.gradient import GradientStep
    from dnnflow.parallel.model.model_spec import ModelSpec
    from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

    L = keras.layers
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="far_dense")], name="block")
    inputs = keras.Input((3, 4))
    flow = L.LSTM(4, name="near_lstm")(inputs)
    flow = inner(flow)
    flow = L.BatchNormalization(name="far_norm")(flow)
    flow = L.Dense(4, activation="relu", name="near_dense")(flow)
    model = keras.Model(inputs, L.Dense(2, name="far_output")(flow))
    x, y = np.random.default_rng(0).normal(size=(5, 3, 4)), np.ones((5, 2))

    plain = ModelSpec.of(model, loss="mse")
    placed = ModelSpec.of(model, loss="mse", devices={"far_*": "CPU:1"})
    built = placed.build()
    layers = [*built.layers, built.get_layer("block").get_layer("far_dense")]
    lie = [
        (layer.name, variable.value.device)
        for layer in layers if layer.name != "block" for variable in layer.weights
    ]
    eagerly = [built(x).device, built.get_layer("near_lstm")(x).device]

    step = GradientStep(built, optimizer=OptimizerSpec("adam", 0.01))
    found = step.gradient(placed.vector, (x, y))
    moved = step.local_steps(placed.vector, [(x, y), (x, y)])
    learned = moved.totals.loss < found.totals.loss
    with open(sys.argv[1], "wb") as file:
        pickle.dump([lie, eagerly, learned, plain, (x, y), np.array(found.vector)], file)
"""


class Run(NamedTuple):
    """What a process has written."""

    placements: list[str]
    """Where TensorFlow says that each operation ran."""
    lie: list[tuple[str, str]]
    """Layer and device of each weight."""
    eagerly: list[str]
    """Devices of the outputs of the last layer and of the first."""
    learned: bool
    spec: ModelSpec
    batch: tuple[np.ndarray, np.ndarray]
    vector: np.ndarray
    """The gradient and the statistics of the batch."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A process with two devices, that is done."""
    file = tmp_path_factory.mktemp("devices") / "found"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TWO_DEVICES), str(file)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Run(done.stdout.splitlines(), *pickle.loads(file.read_bytes()))


PRODUCT = re.compile(r"(\S+): \((?:MatMul|BlockLSTM|BlockLSTMGrad)\): \S*/device:(\S+)")


def _products(lines: list[str], layer: str, *, gradient: bool) -> set[str]:
    """Return the devices on which a layer's products ran, or those of its gradient."""
    found = [match for line in lines if (match := PRODUCT.fullmatch(line.strip()))]
    return {
        match[2]
        for match in found
        if f"/{layer}" in match[1] and match[1].startswith("gradient_tape/") == gradient
    }


@pytest.mark.slow
def test_weights_lie_on_the_device_of_their_layer(run: Run) -> None:
    found = {(name.partition("_")[0], device.rpartition("device:")[2]) for name, device in run.lie}
    assert found == {("far", "CPU:1"), ("near", "CPU:0")}


def test_layers_run_on_their_device_eagerly(run: Run) -> None:
    assert [device.rpartition("device:")[2] for device in run.eagerly] == ["CPU:1", "CPU:0"]


@pytest.mark.parametrize("gradient", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("layer", "device"),
    [("far_dense", "CPU:1"), ("far_output", "CPU:1"), ("near_dense", "CPU:0"), ("near_lstm", "CPU:0")],
)
def test_layers_run_on_their_device_in_a_step(run: Run, layer: str, device: str, *, gradient: bool) -> None:
    assert _products(run.placements, layer, gradient=gradient) == {device}


def test_a_placed_model_learns_what_the_same_one_on_one_device_does(run: Run) -> None:
    expected = GradientStep(run.spec.build()).gradient(run.spec.vector, run.batch)
    assert np.allclose(run.vector, expected.vector, atol=1e-6)
    assert run.learned


def _model() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), L.Dense(3, name="dense_a"), L.Dense(2, name="dense_b")])


@pytest.mark.parametrize(
    ("devices", "kind", "message"),
    [
        ({"conv_*": "CPU:0"}, InputError, "must match a layer, got 'conv_.*dense_a, dense_b"),
        ({"dense_*": "CPU:7"}, ClusterError, r"one that this process has \(.*CPU:0.*got 'CPU:7'"),
        ({"dense_*": "fast"}, InputError, "written KIND:NUMBER, as GPU:0, got 'fast'"),
    ],
)
def test_a_device_or_layer_that_is_not_there_is_refused(
    devices: dict[str, str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        place_layers(_model(), devices)
    with pytest.raises(kind, match=message):
        ModelSpec.of(_model(), loss="mse", devices=devices).build()


@pytest.mark.parametrize("written", ["CPU:0", "/CPU:0", "/device:CPU:0", "cpu:0"])
def test_devices_may_be_written_as_tensorflow_does(written: str) -> None:
    model = _model()
    place_layers(model, {"dense_a": written})
    assert model.get_layer("dense_a").kernel.value.device.endswith("CPU:0")
