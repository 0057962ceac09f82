"""Find layers, losses and metrics that are not of Keras by the name they are imported under."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import FunctionType
from typing import Any

import keras

from dnnflow.errors import InputError

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_OWN_PACKAGES = ("keras", "builtins")
"""Whose objects Keras finds by itself."""


def import_object(reference: str) -> Any:
    """Import what `module:object` names.

    Raises
    ------
    InputError
        If it is written otherwise, or is not there.
    """
    if not _REFERENCE.fullmatch(reference):
        raise InputError(f"code must be named module:object, got {reference!r}")
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{reference} must be importable here and on the workers, got {type(error).__name__}: {error}; "
            "install its package there"
        ) from error


def reference_to(made: Any) -> str:
    """Return `module:object` of a class or function.

    Raises
    ------
    InputError
        For one that other processes cannot import: of a script, or defined inside a function.
    """
    module, name = made.__module__, made.__qualname__
    there = getattr(sys.modules.get(module), name, None) if name.isidentifier() else None
    if module == "__main__" or there is not made:
        raise InputError(
            f"a layer, loss or metric of one's own must be importable by the workers, got {module}:{name}; "
            "define it at the top of a module that is installed there"
        )
    return f"{module}:{name}"


@contextmanager
def custom_scope(references: Iterable[str]) -> Iterator[None]:
    """Let Keras know these objects, and run no code that a config brings, whatever the process allows."""
    # Without the scope, `keras.config.enable_unsafe_deserialization` overrules safe_mode=True
    from keras.src.saving.serialization_lib import SafeModeScope

    known: dict[str, Any] = {}
    for found in map(import_object, references):
        known |= {found.__name__: found, keras.saving.get_registered_name(found): found}
    with keras.saving.CustomObjectScope(known), SafeModeScope(safe_mode=True):
        yield


def references_of(serialized: Any, live: Iterable[Any]) -> set[str]:
    """Return references to all that Keras will not find by itself.

    Parameters
    ----------
    serialized
        What Keras has written; it names classes in full, functions without their module.
    live
        Where those functions are looked for.

    Raises
    ------
    InputError
        For code without a name.
    """
    functions = {
        value.__name__: value for value in live if isinstance(value, FunctionType) and not _is_own(value)
    }
    found = set()
    for node in _nodes(serialized):
        kind, module = node["class_name"], node.get("module") or "keras"
        if kind == "__lambda__":
            raise InputError(
                "a model must hold no lambda, whose code would have to travel; write a function or a layer "
                "in a module that the workers have"
            )
        if kind == "function":
            if node["config"] in functions:
                found.add(reference_to(functions[node["config"]]))
        elif module.partition(".")[0] not in _OWN_PACKAGES and not kind.startswith("__"):
            found.add(reference_to(import_object(f"{module}:{kind}")))
    return found


def plain_objects(value: Any) -> Any:
    """Return losses, metrics or an optimizer as JSON types, nested as they are given."""
    if isinstance(value, Mapping):
        return {name: plain_objects(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_objects(item) for item in value]
    if isinstance(value, FunctionType | type):
        return reference_to(value)
    if isinstance(value, str) and ":" in value:
        import_object(value)
    return _serialized(value) if hasattr(value, "get_config") else value


def resolve_objects(value: Any) -> Any:
    """Return what `plain_objects` was given: the opposite way, in the scope of the custom objects."""
    if isinstance(value, str) and ":" in value:
        found = import_object(value)
        return found() if isinstance(found, type) else found
    if isinstance(value, Mapping):
        if {"class_name", "config"} <= value.keys():
            return keras.saving.deserialize_keras_object(deepcopy(dict(value)), safe_mode=True)  # it pops
        return {name: resolve_objects(item) for name, item in value.items()}
    return [resolve_objects(item) for item in value] if isinstance(value, list | tuple) else value


def constraint_text(constraint: Any) -> str:
    """Return a constraint of a variable as text, for `constraint_of`; empty for none.

    Raises
    ------
    InputError
        For one that a server cannot import, or whose config JSON cannot hold.
    """
    if constraint is None:
        return ""
    if isinstance(constraint, FunctionType):
        return json.dumps([reference_to(constraint), None])
    try:
        return json.dumps([reference_to(type(constraint)), constraint.get_config()])
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"a constraint must be a function, or have a config that JSON can hold, got "
            f"{type(constraint).__name__}: {error}; write it as a class with get_config"
        ) from error


def constraint_of(text: str) -> Any:
    """Return the constraint that `constraint_text` was given."""
    if not text:
        return None
    reference, config = json.loads(text)
    made = import_object(reference)
    return made if config is None else made.from_config(config)


def _serialized(value: Any) -> dict[str, Any]:
    """Serialize an object with all it was made with: Keras leaves out the delta of a Huber loss, for one."""
    plain: dict[str, Any] = keras.saving.serialize_keras_object(value)
    taken = inspect.signature(type(value)).parameters
    given = {name: item for name, item in getattr(value, "_fn_kwargs", {}).items() if name in taken}
    return plain | {"config": plain_objects(given) | plain["config"]}


def _is_own(function: FunctionType) -> bool:
    return function.__module__.partition(".")[0] in _OWN_PACKAGES


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if {"class_name", "config"} <= value.keys():
            yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)
