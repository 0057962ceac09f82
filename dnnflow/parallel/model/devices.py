"""Place layers of a model on devices, by the layers' names."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import keras
import tensorflow as tf

from dnnflow.errors import ClusterError, InputError
from dnnflow.parallel.model.variables import layers_of

_DEVICE = re.compile(r"/?(?:device:)?([A-Za-z]+):(\d+)")
_GRADIENTS = "gradient_tape/"
"""What TensorFlow puts before the name scope of an operation when it names those of its gradient."""


def gpu_bytes() -> int:
    """Return the most that this process has held on its GPUs so far, in bytes."""
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return sum(int(tf.config.experimental.get_memory_info(name)["peak"]) for name in names)


def place_layers(model: keras.Model, devices: Mapping[str, str]) -> None:
    """Keep layers' weights on devices, and run there what the layers compute.

    Parameters
    ----------
    model
        A built model; changed in place.
    devices
        {glob on a layer's name: device, as `GPU:1`}; the first that matches holds. A layer inside a layer
        that is placed may have a device of its own. Other layers run where TensorFlow puts them.

    Raises
    ------
    InputError
        For a glob that matches no layer, or a device written otherwise.
    ClusterError
        For a device that this process has not.
    """
    known = {pattern: _known_device(device) for pattern, device in devices.items()}
    layers = [layer for layer in layers_of(model) if layer is not model]
    for pattern in known:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(dict.fromkeys(layer.name for layer in layers))
            raise InputError(f"a glob of devices must match a layer, got {pattern!r}; the layers are {names}")
    for layer in layers:  # from the outside in, so that the inner one's device holds
        device = next((found for pattern, found in known.items() if fnmatchcase(layer.name, pattern)), None)
        if device is not None:
            _place(layer, device)


@contextmanager
def gradients_beside(model: keras.Model) -> Iterator[None]:
    """Run the gradient of each placed layer where the layer runs; TensorFlow alone would not.

    For the call that takes the gradient, in the function that has called the model. What is inside a loop of
    the gradient, as of a GRU on a CPU, goes where TensorFlow puts it.
    """
    calls = [layer.call for layer in layers_of(model) if isinstance(layer.call, PlacedCall)]
    scopes = {scope: call.device for call in calls for scope in call.scopes}
    if not scopes:
        yield
        return

    def device_of(operation: Any) -> str:
        name = operation.name.partition(_GRADIENTS)[2]
        inside = [scope for scope in scopes if name.startswith(f"{scope}/")]
        return scopes[max(inside, key=len)] if inside else str(operation.device)

    with tf.compat.v1.device(device_of):
        yield


class PlacedCall:
    """A layer's `call` on a device."""

    def __init__(self, call: Any, device: str) -> None:
        self._call = call
        self.device = device
        self.scopes: set[str] = set()
        """Name scopes of graphs in which the layer has been traced."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the layer."""
        with tf.device(self.device):
            if not tf.executing_eagerly():
                self.scopes.add(tf.get_current_name_scope())
            return self._call(*arguments, **named)


def _known_device(device: str) -> str:
    """Return a device's name as TensorFlow writes it."""
    written = _DEVICE.fullmatch(str(device))
    if written is None:
        raise InputError(f"a device must be written KIND:NUMBER, as GPU:0, got {device!r}")
    name = f"/device:{written[1].upper()}:{int(written[2])}"
    there = [found.name for found in tf.config.list_logical_devices()]
    if name not in there:
        short = ", ".join(found.removeprefix("/device:") for found in there)
        raise ClusterError(f"a device must be one that this process has ({short}), got {device!r}")
    return name


def _place(layer: Any, device: str) -> None:
    layer.call = PlacedCall(layer.call, device)
    with tf.device(device):
        for variable in layer.variables:
            variable._initialize(variable.numpy())  # Keras has no public way to move one
