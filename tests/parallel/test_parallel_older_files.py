"""Files of Keras 2: what Keras 3 has no more is dropped at the value that it has, and refused at another."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnflow.errors import InputError
from dnnflow.parallel.model.keras_messages import keras_message
from dnnflow.parallel.model.model_spec import ModelSpec

RECURRENT = {"name": "gru", "units": 3, "time_major": False, "implementation": 2, "reset_after": True}


def _json(path: Path, layers: list[tuple[str, dict[str, Any]]], shape: list[Any]) -> Path:
    first, given = layers[0]
    written = [(first, {**given, "batch_input_shape": [None, *shape], "dtype": "float32"}), *layers[1:]]
    nodes = [{"class_name": kind, "config": config} for kind, config in written]
    config = {
        "class_name": "Sequential",
        "config": {"name": "old", "layers": nodes},
        "keras_version": "2.9.0",
    }
    path.write_text(json.dumps(config))
    return path


LAYERS: dict[str, tuple[list[tuple[str, dict[str, Any]]], list[Any]]] = {
    "recurrent": ([("GRU", RECURRENT), ("Dense", {"units": 1, "dynamic": False})], [5, 2]),
    "lstm": ([("LSTM", {"name": "lstm", "units": 3, "time_major": False, "unit_forget_bias": True})], [5, 2]),
    "depthwise": (
        [("DepthwiseConv2D", {"name": "one", "kernel_size": [2, 2], "groups": 1})], [5, 5, 2],
    ),
    "separable": (
        [("SeparableConv2D", {
            "name": "one", "filters": 2, "kernel_size": [2, 2], "groups": 1, "kernel_regularizer": None,
            "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
        })], [5, 5, 2],
    ),
    "normalised": (
        [("BatchNormalization", {
            "name": "one", "axis": [1], "momentum": 0.9, "fused": None, "virtual_batch_size": None,
        })], [4],
    ),
    "embedded": (
        [("Embedding", {"name": "one", "input_dim": 5, "output_dim": 2, "input_length": 3})], [3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_arguments_at_the_value_that_keras_3_has_are_dropped(name: str, tmp_path: Path) -> None:
    layers, shape = LAYERS[name]
    model = ModelSpec.load(_json(tmp_path / "old.json", layers, shape), loss="mse").build()
    assert model.input_shape == (None, *shape)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("GRU", {**RECURRENT, "time_major": True}, "GRU gru with time_major=True.*has False alone"),
        ("DepthwiseConv2D", {"name": "one", "kernel_size": [2, 2], "groups": 2}, "groups=2"),
        ("BatchNormalization", {"name": "one", "virtual_batch_size": 8}, "virtual_batch_size=8"),
        ("GRU", {**RECURRENT, "warmth": 3}, "Unrecognized keyword arguments .*warmth"),
    ],
)
def test_other_values_and_arguments_are_refused_by_name(
    kind: str, given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        ModelSpec.load(_json(tmp_path / "old.json", [(kind, given)], [5, 5, 2] if "2D" in kind else [5, 2]))


def _change(path: Path, written: Path, add: dict[str, Any]) -> None:
    """Write a `.keras` file as one of late Keras 2, whose recurrent layers have more arguments."""

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("class_name") == "GRU":
                node["config"] |= add
            if node.get("class_name") == "Adam":
                node["config"] |= {"jit_compile": False, "is_legacy_optimizer": False}
            for item in node.values():
                walk(item)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    with zipfile.ZipFile(path) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                walk(config)
                content = json.dumps(config).encode()
            target.writestr(name, content)


def test_a_keras_file_of_keras_2_keeps_its_weights(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.GRU(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.save(tmp_path / "new.keras")
    _change(tmp_path / "new.keras", tmp_path / "old.keras", {"time_major": False})
    spec = ModelSpec.load(tmp_path / "old.keras")
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    np.testing.assert_allclose(spec.build()(x), model(x), rtol=1e-6)
    _change(tmp_path / "new.keras", tmp_path / "other.keras", {"time_major": True})
    with pytest.raises(InputError, match="time_major=True"):
        ModelSpec.load(tmp_path / "other.keras")


# What Keras says


CALLED = (
    "Exception encountered when calling Dense.call().\n\n\x1b[1mMatrix size-incompatible: In[0]: [2,3], "
    "In[1]: [4,5] [Op:MatMul]\x1b[0m\n\nArguments received by Dense.call():\n  • inputs=(2, 3)"
)
READ = (
    "<class 'keras.src.models.sequential.Sequential'> could not be deserialized properly. Please ensure that "
    "...\n\nconfig={'module': 'keras'}.\n\nException encountered: Error when deserializing class 'GRU' using "
    "config={'a': 1}.\n\nException encountered: Unrecognized keyword arguments passed to GRU: {'warmth': 3}"
)
TRACED = (
    'in user code:\n\n    File "/a/b.py", line 3, in call  *\n        return x + y\n\n    ValueError: '
    "Dimensions must be equal, but are 2 and 3 for '{{node add}} = AddV2[T=DT_FLOAT](x, y)'.\n"
)
GRAPH = (
    "Graph execution error:\n\nDetected at node Gather defined at (most recent call last):\n"
    'File "/a.py", line 1, in <module>\n\nindices[0,1] = 9 is not in [0, 5)\n\t [[{{node Gather}}]] [Op:f]'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CALLED, "Matrix size-incompatible: In[0]: [2,3], In[1]: [4,5] [Op:MatMul]"),
        (READ, "Unrecognized keyword arguments passed to GRU: {'warmth': 3}"),
        (TRACED, "Dimensions must be equal, but are 2 and 3"),
        (GRAPH, "indices[0,1] = 9 is not in [0, 5)"),
        ("", "ValueError"),
        ("plain", "plain"),
    ],
)
def test_the_message_is_that_of_the_first_cause(text: str, message: str) -> None:
    assert message in keras_message(ValueError(text))
    assert "\x1b" not in keras_message(ValueError(text))
