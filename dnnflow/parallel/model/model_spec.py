"""Describe a Keras model as plain data, from which every process may build it; never a pickle."""

import json
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.keras.build import build_model, compile_model, reference_arguments
from dnnflow.engines.losses import CROSS_ENTROPY, Loss
from dnnflow.errors import InputError, NotFoundError
from dnnflow.parallel.model.devices import place_layers
from dnnflow.parallel.model.keras_optimizers import spec_of
from dnnflow.parallel.model.objects import (
    custom_scope,
    import_object,
    plain_objects,
    references_of,
    resolve_objects,
)
from dnnflow.parallel.model.variables import (
    frozen,
    layers_of,
    layout_of,
    read_vector,
    reseed,
    seeds,
    write_vector,
)
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

_COMPILED = ("loss", "loss_weights", "metrics", "weighted_metrics", "optimizer")
"""What of a compiled model is kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSpec:
    """A model to train: what it is, its first weights, and what it is trained for.

    Plain fields: it travels to workers as it is.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    >>> spec = ModelSpec.of(model, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> spec.layout.size
    15
    >>> spec.build().count_params()
    15
    """

    architecture: str = ""
    """JSON text of Keras; empty where `builder` is given."""
    builder: str = ""
    """`module:function` that returns the model."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the function is called with; JSON types."""
    layout: FlatLayout
    """Of the vector."""
    vector: Vector
    """First weights and statistics."""
    fixed: tuple[np.ndarray, ...] = ()
    """Weights of layers that are not trainable, then the states of random generators."""
    compiled: Mapping[str, Any] = field(default_factory=dict)
    """Loss, metrics and optimizer: names, `module:object`, or what Keras serializes; JSON types."""
    custom_objects: tuple[str, ...] = ()
    """`module:object` of each layer, activation, loss or metric that is not of Keras."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """{glob on a layer's name: device} on the workers."""

    @classmethod
    def of(cls, model: keras.Model, *, custom_objects: tuple[str, ...] = (),
           devices: Mapping[str, str] | None = None, **training: Any) -> "ModelSpec":  # fmt: skip
        """Describe a model.

        Parameters
        ----------
        model
            Built; compiled or not.
        custom_objects
            `module:object` of what is not of Keras; what can be found in the model is added.
        devices
            {glob on a layer's name: device}.
        training
            `loss`, `loss_weights`, `metrics`, `weighted_metrics`, `optimizer` as `compile` takes them, with
            `module:object` for one's own; what is not given is that of the model if it is compiled.

        Raises
        ------
        InputError
            For a model without weights or loss, or one that cannot be built elsewhere.
        """
        try:
            serialized = json.loads(model.to_json())
        except (TypeError, NotImplementedError, ValueError) as error:
            raise InputError(
                f"a model must have a config that JSON can hold, got {model.name}: {error}; give "
                "module:function that builds it"
            ) from error
        serialized.pop("compile_config", None)
        found = references_of(serialized, [value for layer in layers_of(model) for value in _parts(layer)])
        return cls._of(
            model, training, custom_objects, devices, found=found, architecture=json.dumps(serialized)
        )

    @classmethod
    def load(cls, source: str | Path, parameters: Mapping[str, Any] | None = None, *,
             custom_objects: tuple[str, ...] = (), devices: Mapping[str, str] | None = None,
             **training: Any) -> "ModelSpec":  # fmt: skip
        """Describe a model in a file or made by a function.

        Parameters
        ----------
        source
            A `.json` file of Keras' `to_json`, a `.keras` file, or `module:function` that returns a model.
        parameters
            What the function is called with.
        custom_objects, devices, training
            As for `of`. Files import nothing but Keras and what is named here.

        Raises
        ------
        NotFoundError
            If there is no such file.
        InputError
            If the file holds no model, or one that would run code of its own.
        """
        text = str(source)
        if not text.endswith((".json", ".keras")) and ":" in text:
            model = _call(text, parameters or {})
            return cls._of(
                model, training, custom_objects, devices, builder=text, parameters=parameters or {}
            )
        if parameters:
            raise InputError(f"parameters are for module:function, got {sorted(parameters)} with {text}")
        path = Path(source)
        if not path.is_file():
            raise NotFoundError(
                f"a model must be a .json or .keras file or module:function, got {text}: no such file"
            )
        model = _read(path, custom_objects)
        return cls.of(model, custom_objects=custom_objects, devices=devices, **training)

    @classmethod
    def of_design(cls, design: Design, n_features: int, n_outputs: int, *, loss: Loss = CROSS_ENTROPY,
                  devices: Mapping[str, str] | None = None, **training: Any) -> "ModelSpec":  # fmt: skip
        """Describe a design's model with its initial weights, for labels as a dataset encodes them.

        Raises
        ------
        DesignError
            For the quantile loss, which Keras has not.
        """
        model = compile_model(build_model(design, n_features, n_outputs, loss=loss), design, loss)
        if design.reference is None:
            return cls.of(model, devices=devices, **training)
        parameters = {**reference_arguments(n_features, n_outputs, loss), **design.reference.parameters}
        function = design.reference.function
        return cls._of(model, training, (), devices, builder=function, parameters=parameters)

    @classmethod
    def _of(cls, model: keras.Model, training: Mapping[str, Any], custom_objects: tuple[str, ...],
            devices: Mapping[str, str] | None, *, found: Collection[str] = (), **made_from: Any
            ) -> "ModelSpec":  # fmt: skip
        compiled, others = _training_of(model, training)
        names = tuple(dict.fromkeys([*custom_objects, *sorted({*found, *others})]))
        fixed = tuple(np.asarray(variable.numpy()) for variable in [*frozen(model), *seeds(model)])
        return cls(
            **made_from, layout=layout_of(model), vector=read_vector(model), fixed=fixed, compiled=compiled,
            custom_objects=names, devices=dict(devices or {}),
        )  # fmt: skip

    def __post_init__(self) -> None:
        if bool(self.architecture) == bool(self.builder):
            raise InputError("a model must be given by its architecture or by a builder, one of the two")
        try:
            json.dumps([self.parameters, self.compiled, self.devices])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"a model's parameters must be JSON types, got {self.parameters}: {error}"
            ) from error

    def build(self, replica: int = 0) -> keras.Model:
        """Build the model in this process, compiled, with its first weights.

        Parameters
        ----------
        replica
            Each draws other random numbers in dropout; 0 draws those of the model that was described.

        Raises
        ------
        InputError
            If what it is made of cannot be found here, or makes another model here.
        ClusterError
            If a device is missing.
        """
        with custom_scope(self.custom_objects):
            if self.builder:
                model = _call(self.builder, self.parameters)
            else:
                model = _deserialize(self.architecture, "its architecture")
            self._check(model)
            place_layers(model, self.devices)
            write_vector(model, self.vector)
            for variable, value in zip([*frozen(model), *seeds(model)], self.fixed, strict=True):
                variable.assign(value)
            model.compile(**resolve_objects(self.compiled), jit_compile=False)
        reseed(model, replica)
        return model

    @property
    def optimizer(self) -> OptimizerSpec | None:
        """The optimizer that the model was compiled with; None if with none.

        Raises
        ------
        InputError
            For one whose rate follows a schedule of Keras, which counts steps of one process.
        """
        given = self.compiled.get("optimizer")
        return None if given is None else spec_of(resolve_objects(given))

    def _check(self, model: keras.Model) -> None:
        found = layout_of(model)
        if found.shapes != self.layout.shapes:
            raise InputError(
                f"a model must be built alike everywhere: described with weights of {self.layout.shapes}, "
                f"got {found.shapes} here; are all packages of one version?"
            )
        others = [*frozen(model), *seeds(model)]
        if [tuple(variable.shape) for variable in others] != [value.shape for value in self.fixed]:
            raise InputError(
                f"a model must be built alike everywhere: described with {len(self.fixed)} frozen weights "
                f"and random generators, got {len(others)} here"
            )


def _training_of(model: keras.Model, given: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return what a model is trained for, as JSON types, and references to what is not of Keras in it."""
    unknown = sorted(set(given) - set(_COMPILED))
    if unknown:
        raise InputError(f"a model is trained for {', '.join(_COMPILED)}, got {', '.join(unknown)}")
    # The objects, and not what Keras writes of them, which lacks the modules of functions
    own = model._compile_config.config if model.compiled else {}
    live = {name: given[name] if given.get(name) is not None else own.get(name) for name in _COMPILED}
    compiled = {name: plain_objects(value) for name, value in live.items() if value is not None}
    if "loss" not in compiled and type(model).compute_loss is keras.Model.compute_loss:
        raise InputError(f"a model must have a loss, got none for {model.name}; compile it, or give loss")
    parts = [part for value in keras.tree.flatten(live) for part in _parts(value)]
    return compiled, references_of(compiled, parts)


def _parts(value: Any) -> list[Any]:
    """Return an object and what it holds, where its functions are looked for."""
    return [value, *vars(value).values()] if hasattr(value, "__dict__") else [value]


def _read(path: Path, custom_objects: tuple[str, ...]) -> keras.Model:
    """Read a model from a file of Keras, without running code that the file brings."""
    with custom_scope(custom_objects):
        if path.suffix == ".json":
            return _deserialize(path.read_text(), str(path))
        try:
            return keras.saving.load_model(path, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise _unreadable(str(path), error) from error


def _deserialize(text: str, what: str) -> keras.Model:
    try:
        config = json.loads(text)
        if "module" in config:
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        else:
            model = _deserialize_older(config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(what, error) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{what} must hold a Keras model, got {type(model).__name__}")
    return model


def _deserialize_older(config: dict[str, Any]) -> Any:
    """Build a model from the JSON of Keras 2, which names no modules."""
    from keras.src.legacy.saving.saving_utils import model_from_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that Keras 3 calls otherwise
        return model_from_config(config)


def _unreadable(what: str, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0]
    return InputError(
        f"{what} must hold a Keras model that needs nothing but Keras and custom_objects, got {reason}; "
        "name one's own layers in custom_objects as module:object, and write layers instead of lambdas"
    )


def _call(function: str, parameters: Mapping[str, Any]) -> keras.Model:
    try:
        model = import_object(function)(**parameters)
    except (TypeError, ValueError) as error:
        raise InputError(f"{function} must take its parameters, got {dict(parameters)}: {error}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{function} must return a Keras model, got {type(model).__name__}")
    return model
