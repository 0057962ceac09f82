"""Read configs of Keras 2: arguments that Keras 3 has no more are dropped where they say what it does."""

import inspect
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from dnnflow.errors import InputError
from dnnflow.parallel.model.variables import parameters_of

_CONFIG = "config.json"
_ANY = object()
"""Of an argument that changes no number: how something is computed, or what was not used."""
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "time_major": (False,),
    "dynamic": (False,),
    "ragged": (False, None),
    "type_spec": (None,),
    "renorm": (False,),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "fused": (_ANY,),
    "groups": (1,),
    "reverse_state_order": (False,),
    "causal": (False,),
    "input_length": (_ANY,),
    "experimental_run_tf_function": (_ANY,),
    "jit_compile": (_ANY,),
    "is_legacy_optimizer": (_ANY,),
    "decay": (0, 0.0, None),
    "experimental_autocast": (True, None),
}
"""Of Keras 2: an argument that Keras 3 does not take, and the values that stand for what Keras 3 does."""
_UNUSED: Mapping[str, tuple[str, ...]] = {
    name: ("kernel_initializer", "kernel_regularizer", "kernel_constraint", "filters")
    for name in ("DepthwiseConv1D", "DepthwiseConv2D")
} | {
    name: ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
    for name in ("SeparableConv1D", "SeparableConv2D", "SeparableConvolution1D", "SeparableConvolution2D")
}
"""What configs of these layers have from their base class, whose kernel they have not."""


def drop_older(config: Any) -> Any:
    """Return a config without arguments of Keras 2 that Keras 3 has at their value.

    Raises
    ------
    InputError
        For another value: the model would be another one.
    """
    if isinstance(config, list):
        return [drop_older(item) for item in config]
    if not isinstance(config, dict):
        return config
    found = {name: drop_older(item) for name, item in config.items()}
    kind = _class_of(found)
    if kind is not None:
        found["config"] = _without_older(kind, found["config"])
    return found


@contextmanager
def newer_file(path: Path) -> Iterator[Path]:
    """Give a `.keras` file that Keras 3 reads: the file itself, or a copy of it with another config.

    Raises
    ------
    InputError
        As `drop_older`.
    """
    with zipfile.ZipFile(path) as archive:
        text = archive.read(_CONFIG)
        config = json.loads(text)
        newer = drop_older(config)
        if newer == config:
            yield path
            return
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory, path.name)
            with zipfile.ZipFile(copy, "w") as written:
                for member in archive.infolist():
                    if member.filename == _CONFIG:
                        written.writestr(_CONFIG, json.dumps(newer))
                        continue
                    with archive.open(member) as source, written.open(member.filename, "w") as target:
                        shutil.copyfileobj(source, target)
            yield copy


def _class_of(node: Mapping[str, Any]) -> Any:
    """Return the class of Keras whose config a node is; None for what is none, or is of one's own."""
    name = node.get("class_name")
    if not isinstance(name, str) or not isinstance(node.get("config"), dict):
        return None
    if str(node.get("module") or "keras").partition(".")[0] != "keras":
        return None
    name = name.rpartition(">")[2]
    places = (keras.layers, keras.optimizers, keras.models)
    found = [getattr(place, name) for place in places if inspect.isclass(getattr(place, name, None))]
    return found[0] if found else None


def _shaped_newer(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with shapes as Keras 3 has them: by itself it takes the batch for one more axis."""
    left = dict(config)
    if not issubclass(kind, keras.Layer) or issubclass(kind, keras.layers.InputLayer):
        return left
    shape = left.pop("batch_input_shape", None)
    if shape:
        left.setdefault("input_shape", shape[1:])
    axis = left.get("axis")
    if kind is keras.layers.BatchNormalization and isinstance(axis, list) and len(axis) == 1:
        left["axis"] = axis[0]
    return left


def _without_older(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    config = _shaped_newer(kind, config)
    taken, unused = parameters_of(kind), _UNUSED.get(kind.__name__, ())
    left = {}
    for name, value in config.items():
        if name in taken or (name not in _FIXED and name not in unused):
            left[name] = value
        elif name in _FIXED and _FIXED[name] != (_ANY,) and value not in _FIXED[name]:
            raise InputError(
                f"a file of Keras 2 must hold what Keras 3 can do, got {kind.__name__} "
                f"{config.get('name', '')} with {name}={value!r}, where Keras 3 has {_FIXED[name][0]!r} "
                "alone; build the model without it, or train it where Keras 2 is"
            )
    return left
