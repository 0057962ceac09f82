"""Describe a Keras model as plain data, from which every process may build it; never a pickle."""

import json
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.keras.build import build_model, compile_model, reference_arguments
from dnnflow.engines.losses import CROSS_ENTROPY, Loss
from dnnflow.errors import InputError, NotFoundError
from dnnflow.parallel.model.devices import place_layers
from dnnflow.parallel.model.fit_rules import require_plain_fit
from dnnflow.parallel.model.kept_state import (
    LayerState,
    Probe,
    probe_inputs,
    read_layer_states,
    require_gradients_alone,
    require_same_settings,
    write_layer_states,
)
from dnnflow.parallel.model.keras_messages import keras_message
from dnnflow.parallel.model.keras_optimizers import spec_of, undecayed_of
from dnnflow.parallel.model.objects import (
    custom_scope,
    import_object,
    plain_objects,
    references_of,
    resolve_objects,
)
from dnnflow.parallel.model.older_files import drop_older, newer_file
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
    states: Mapping[int, LayerState] = field(default_factory=dict)
    """What layers keep outside variables, as vocabularies, by their place in the model."""
    probe: Probe | None = None
    """What the model answers to a drawn batch, and so must every copy."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keras' own settings of the process, which every process must have."""
    compiled: Mapping[str, Any] = field(default_factory=dict)
    """Loss, metrics and optimizer: names, `module:object`, or what Keras serializes; JSON types."""
    custom_objects: tuple[str, ...] = ()
    """`module:object` of each layer, activation, loss or metric that is not of Keras."""
    undecayed: str | None = None
    """Pattern of the names of weights that the optimizer does not decay."""
    optimizer_steps: int = 0
    """That the optimizer had taken before."""
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
        live = _live(model, training)
        compiled, others = _training_of(model, live)
        require_plain_fit(model, training)
        names = tuple(dict.fromkeys([*custom_objects, *sorted({*found, *others})]))
        fixed = tuple(np.asarray(variable.numpy()) for variable in [*frozen(model), *seeds(model)])
        optimizer = live["optimizer"]
        steps = optimizer.iterations if isinstance(optimizer, keras.optimizers.Optimizer) else 0
        spec = cls(
            **made_from, layout=layout_of(model), vector=read_vector(model), fixed=fixed, compiled=compiled,
            custom_objects=names, devices=dict(devices or {}), states=read_layer_states(model),
            probe=Probe.of(model), settings=_settings(), undecayed=undecayed_of(optimizer),
            optimizer_steps=int(steps),
        )  # fmt: skip
        spec._require_same(model, live)
        return spec

    def _require_same(self, model: keras.Model, live: Mapping[str, Any]) -> None:
        """Refuse to describe a model of which another one is built: everything that travels is compared."""
        copy = replace(self, devices={}).build()
        _require_same_variables(model, copy)
        if self.probe is not None:
            self.probe.require_same(copy, here=True)
            require_gradients_alone(copy, probe_inputs(copy, self.probe.draw))
        if not self.builder:
            for layer, other in zip(layers_of(model), layers_of(copy), strict=True):
                require_same_settings(layer, other)
        built = copy._compile_config.config
        for name in ("loss", "metrics", "weighted_metrics", "optimizer"):
            pairs = zip(keras.tree.flatten(live[name]), keras.tree.flatten(built[name]), strict=True)
            for given, made in pairs:
                require_same_settings(given, made)

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
        self._require_settings()
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
            write_layer_states(model, self.states)
            self._compile(model)
        if self.probe is not None:
            self.probe.require_same(model)
        reseed(model, replica)
        return model

    def _compile(self, model: keras.Model) -> None:
        compiled = resolve_objects(self.compiled)
        if self.undecayed:
            compiled["optimizer"].exclude_from_weight_decay(var_names=[self.undecayed])
        try:
            model.compile(**compiled, jit_compile=False)
        except TypeError as error:
            raise InputError(
                f"a model's compile must take {', '.join(_COMPILED)} and jit_compile, got "
                f"{type(model).__name__}: {error}; leave it as keras.Model has it"
            ) from error

    def _require_settings(self) -> None:
        """Refuse a process whose Keras computes otherwise."""
        found = _settings()
        wrong = [name for name, value in self.settings.items() if found[name] != value]
        if wrong:
            name = wrong[0]
            raise InputError(
                f"all processes must have Keras' {name} {self.settings[name]}, with which the model was "
                f"described, got {found[name]} here; set it on the workers, in ~/.keras/keras.json or with "
                f"client.run(keras.config.set_{name}, {self.settings[name]!r})"
            )

    @property
    def optimizer(self) -> OptimizerSpec | None:
        """The optimizer that the model was compiled with; None if with none.

        Raises
        ------
        InputError
            For one whose rate follows a schedule of Keras, which counts steps of one process.
        """
        given = self.compiled.get("optimizer")
        if given is None:
            return None
        with custom_scope(self.custom_objects):
            found = resolve_objects(given)
        if isinstance(found, str):
            found = keras.optimizers.get(found)
        return spec_of(found, undecayed=self.undecayed, steps=self.optimizer_steps)

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


def _settings() -> dict[str, Any]:
    """Return what of Keras' settings no config of a layer or loss holds."""
    return {"floatx": keras.config.floatx(), "epsilon": keras.config.epsilon()}


def _require_same_variables(model: keras.Model, copy: keras.Model) -> None:
    counts = [(len(one.variables), len(list(layers_of(one)))) for one in (model, copy)]
    if counts[0] != counts[1]:
        raise InputError(
            f"a model must be rebuilt as it is, got {counts[1][0]} variables in {counts[1][1]} layers for "
            f"{counts[0][0]} in {counts[0][1]}; give module:function that builds it"
        )
    for one, other in zip(model.variables, copy.variables, strict=True):
        if not np.array_equal(one.numpy(), other.numpy()):
            raise InputError(
                f"a weight must travel as it is, got another {one.path} in a copy; of integers above 2^24 or "
                f"{one.dtype} beside float32 keep what is needed as float32"
            )


def _live(model: keras.Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model is trained for: what is given, else what it was compiled with."""
    unknown = sorted(set(given) - set(_COMPILED))
    if unknown:
        raise InputError(f"a model is trained for {', '.join(_COMPILED)}, got {', '.join(unknown)}")
    # The objects, and not what Keras writes of them, which lacks the modules of functions
    own = model._compile_config.config if model.compiled else {}
    return {name: given[name] if given.get(name) is not None else own.get(name) for name in _COMPILED}


def _training_of(model: keras.Model, live: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Return what a model is trained for as JSON types, and references to what is not of Keras in it."""
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
            with newer_file(path) as newer:
                return keras.saving.load_model(newer, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise _unreadable(str(path), error) from error


def _deserialize(text: str, what: str) -> keras.Model:
    try:
        config = drop_older(json.loads(text))
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
    reason = keras_message(error)
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
