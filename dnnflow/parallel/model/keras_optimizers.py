"""Make Keras optimizers of their specs, and back, and a replica's own steps, fused where TensorFlow can."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnflow.design import layers as design
from dnnflow.engines.keras.keras_updates import KerasUpdate, Update, is_fused, make_update
from dnnflow.errors import InputError
from dnnflow.parallel.model.objects import reference_to
from dnnflow.parallel.model.variables import parameters_of
from dnnflow.parallel.spec.optimizer_spec import ELEMENTWISE, WHOLE_TENSOR, OptimizerSpec

_CLASSES = {
    "sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad",
    "nadam": "Nadam", "adamax": "Adamax", "adadelta": "Adadelta", "lion": "Lion", "ftrl": "Ftrl",
    "lamb": "Lamb", "adafactor": "Adafactor", "muon": "Muon",
}  # fmt: skip


def build_keras_optimizer(spec: OptimizerSpec) -> keras.optimizers.Optimizer:
    """Make the Keras optimizer that a spec names.

    Raises
    ------
    InputError
        For one that cannot be found, or that does not take its parameters.
    """
    given = {name: value for name, value in spec.parameters.items() if value is not None}
    excluded = given.pop("exclude_from_weight_decay", None)
    try:
        made = _class_of(spec.name)(learning_rate=spec.learning_rate, **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {spec.name} must take its parameters, got {given}: {error}") from error
    if not isinstance(made, keras.optimizers.Optimizer):
        raise InputError(f"{spec.name} must be a Keras optimizer, got {type(made).__name__}")
    if excluded:
        made.exclude_from_weight_decay(var_names=excluded)
    return made


def _class_of(name: str) -> Any:
    if name in _CLASSES:
        return getattr(keras.optimizers, _CLASSES[name])
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"an optimizer made by code must be importable on the server, got {name!r}: {error}; "
            "install its package there"
        ) from error


def spec_of(
    optimizer: keras.optimizers.Optimizer, *, undecayed: str | None = None, steps: int = 0
) -> OptimizerSpec:
    """Return a Keras optimizer as plain data.

    Parameters
    ----------
    undecayed
        What `exclude_from_weight_decay` was told, as `undecayed_of` gives it: a config lacks it.
    steps
        That the optimizer has taken already.

    Raises
    ------
    InputError
        For one whose rate follows a schedule of Keras, which counts the steps of one process, that has
        momenta of its own, or whose parameters are no plain values.
    """
    kind, config = type(optimizer), optimizer.get_config()
    known = kind.__name__.lower()
    own = known in ELEMENTWISE | set(WHOLE_TENSOR) and kind.__module__.startswith("keras.")
    for name, (is_refused, remedy) in _REFUSED.items():
        if is_refused(optimizer):
            raise InputError(f"an optimizer must be one rule without {name}, got {kind.__name__}; {remedy}")
    if steps:
        raise InputError(
            f"an optimizer must begin with the training, got {kind.__name__} after {steps} steps, whose "
            "momenta would be lost; compile the model again, or give an optimizer"
        )
    rate = config.pop("learning_rate")
    if not isinstance(rate, float):
        raise InputError(
            f"an optimizer's rate must be a number, got a {rate['class_name']}; give the schedule of the "
            "training, which counts samples"
        )
    defaults = {name: one.default for name, one in parameters_of(kind).items()}
    parameters = {
        name: value for name, value in config.items() if name != "name" and value != defaults.get(name, _NONE)
    }
    if undecayed:
        parameters["exclude_from_weight_decay"] = [undecayed]
    spec = OptimizerSpec(
        name=known if own else reference_to(kind),
        learning_rate=float(str(np.float32(rate))),  # 0.001 and not the float32's 0.0010000000474974513
        parameters=parameters,
    )
    rebuilt = build_keras_optimizer(spec)
    lost = [name for name, value in config.items() if name != "name" and rebuilt.get_config()[name] != value]
    if lost:
        raise InputError(
            f"an optimizer must be rebuilt with what it has, got another {', '.join(lost)} of "
            f"{kind.__name__}; its __init__ must take what its get_config returns"
        )
    return spec


_NONE = object()
_REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "loss scaling": (
        lambda optimizer: (
            isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or bool(optimizer.loss_scale_factor)
        ),
        "give the inner optimizer, and the policy mixed_bfloat16 or float32",
    ),
    "others in it": (
        lambda optimizer: "learning_rate" not in optimizer.get_config(),
        "give one of them",
    ),
    "weights of its own": (  # which Keras begins otherwise in fit than in apply
        lambda optimizer: isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW),
        "give adamw",
    ),
    "a scale_loss of its own": (
        lambda optimizer: type(optimizer).scale_loss is not keras.optimizers.Optimizer.scale_loss,
        "train with model.fit",
    ),
}


def undecayed_of(optimizer: Any) -> str | None:
    """Return the pattern of the variables' names that an optimizer does not decay; None for none.

    Raises
    ------
    InputError
        For variables that were excluded as objects.
    """
    if getattr(optimizer, "_exclude_from_weight_decay", None):
        raise InputError(
            "what is not decayed must be named, got exclude_from_weight_decay with var_list; give var_names"
        )
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return pattern.pattern if pattern else None


def make_local_update(optimizer: OptimizerSpec, weights: Sequence[keras.Variable]) -> Update:
    """Return what changes a replica's own weights by their gradients."""
    fused = _as_design(optimizer)
    if fused is not None and _is_plain(weights):
        return make_update(fused, [weight.value for weight in weights])
    return KerasUpdate(build_keras_optimizer(optimizer), weights)


def _is_plain(weights: Sequence[keras.Variable]) -> bool:
    """Say whether fused operations can change the weights: free ones, where their slots will be."""
    there = {weight.value.device for weight in weights} <= {tf.zeros(()).device}
    return there and all(weight.constraint is None and weight.dtype == "float32" for weight in weights)


def _as_design(spec: OptimizerSpec) -> design.Optimizer | None:
    """Return an optimizer that one operation of TensorFlow does, or None."""
    given = {name: value for name, value in spec.parameters.items() if value is not None}
    if spec.name not in design.OPTIMIZERS or not set(given) <= design.OPTIMIZERS[spec.name]:
        return None
    plain = {name: value for name, value in given.items() if isinstance(value, bool | int | float | str)}
    made = design.Optimizer(spec.name, spec.learning_rate, plain)
    return made if is_fused(made) else None
