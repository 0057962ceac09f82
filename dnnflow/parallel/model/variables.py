"""Read a Keras model's variables into the flat vector, and write them from it."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from dnnflow.errors import InputError
from dnnflow.parallel.model.objects import constraint_text
from dnnflow.parallel.model.weights import FlatLayout, Vector


def learned(model: keras.Model) -> list[Any]:
    """Return the variables that gradients change, in the order of the model."""
    return list(model.trainable_variables)


def statistics(model: keras.Model) -> list[Any]:
    """Return the weights that a model keeps of its data, as moving means; frozen weights are none of them.

    Nor are those that a layer was adapted with before training, which no step changes.
    """
    layers = [layer for layer in layers_of(model) if not hasattr(layer, "finalize_state")]
    kept = {id(variable) for layer in layers for variable in layer._non_trainable_variables}
    return [weight for weight in model.non_trainable_weights if id(weight) in kept]


def frozen(model: keras.Model) -> list[Any]:
    """Return the weights that never change, because their layer is not trainable."""
    moving = {id(variable) for variable in statistics(model)}
    return [weight for weight in model.non_trainable_weights if id(weight) not in moving]


def seeds(model: keras.Model) -> list[Any]:
    """Return the states of the model's random generators, as those of dropout: integers, not weights."""
    weights = {id(weight) for weight in model.weights}
    found = {id(variable): variable for variable in model.variables if id(variable) not in weights}
    return [variable for variable in found.values() if np.dtype(variable.dtype).kind in "iu"]


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return what a class of Keras' kinds is made with, those of its bases that it passes on among them."""
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base) and base is not object:
            found |= inspect.signature(vars(base)["__init__"]).parameters
    named = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: one for name, one in found.items() if one.kind not in named and name != "self"}


def forward(model: keras.Model, features: Any, *, training: bool) -> Any:
    """Return a model's outputs, called as `fit` and `evaluate` call it."""
    return model(features, training=training) if model._call_has_training_arg else model(features)


def layers_of(model: keras.Model) -> Iterator[Any]:
    """Yield the model and every layer in it, however deep; Keras has no public way to those of wrappers."""
    yield from model._flatten_layers()


def layout_of(model: keras.Model) -> FlatLayout:
    """Return where a model's variables lie in its vector: what is learned, then statistics.

    Raises
    ------
    InputError
        For a model that has no weights yet, or none to learn.
    """
    first, last = learned(model), statistics(model)
    if not first:
        why = "none is trainable" if model.weights else "it is not built"
        raise InputError(f"a model must have weights to learn, got {model.name}: {why}; build it first")
    double = all(np.dtype(variable.dtype) == np.float64 for variable in first)
    variables = [*first, *last]
    constraints = tuple(constraint_text(variable.constraint) for variable in first) + ("",) * len(last)
    return FlatLayout(
        shapes=tuple(tuple(variable.shape) for variable in variables),
        dtype="float64" if double else "float32",
        statistics=len(last),
        names=tuple(variable.path for variable in variables),
        constraints=constraints if any(constraints) else (),
    )


def read_vector(model: keras.Model) -> Vector:
    """Copy a model's weights and statistics into one vector."""
    return layout_of(model).flatten([variable.numpy() for variable in [*learned(model), *statistics(model)]])


def write_vector(model: keras.Model, vector: Vector) -> None:
    """Set a model's weights and statistics from what `read_vector` gave.

    Raises
    ------
    InputError
        For a vector of another length.
    """
    views = layout_of(model).views(vector)
    for variable, value in zip([*learned(model), *statistics(model)], views, strict=True):
        variable.assign(value)


def reseed(model: keras.Model, replica: int) -> None:
    """Give a replica random draws of its own; replica 0 draws what the model would."""
    for variable in seeds(model) if replica else ():
        state = np.asarray(variable.numpy())
        drawn = np.random.SeedSequence([*map(int, state.ravel()), replica])
        variable.assign(drawn.generate_state(state.size, np.uint32).reshape(state.shape))
