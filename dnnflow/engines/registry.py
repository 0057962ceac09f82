"""Find engines by name: those of dnnflow, those that other packages register, and `module:Class`."""

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from dnnflow.engines.seam import Engine
from dnnflow.errors import NotFoundError

ENTRY_POINTS = "dnnflow.engines"
"""Entry point group in which a package names its engine classes."""

BUILT_IN = {
    "auto": "dnnflow.engines.auto_engine:AutoEngine",
    "compiled": "dnnflow.engines.compiled.compiled_engine:CompiledEngine",
    "keras": "dnnflow.engines.keras.keras_engine:KerasEngine",
    "sklearn": "dnnflow.engines.sklearn_engine:SklearnEngine",
    "stacked": "dnnflow.engines.stacked.stacked_engine:StackedEngine",
}
"""Engines of dnnflow itself, imported when asked for."""


def engine_names() -> tuple[str, ...]:
    """Return the names `find_engine` knows, in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def find_engine(name: str) -> Engine:
    """Make a built-in engine, one registered under the entry points `dnnflow.engines`, or `module:Class`.

    Raises
    ------
    NotFoundError
        When there is no such engine, or its module or class cannot be imported.
    """
    try:
        return _load(name)
    except (ImportError, AttributeError) as error:
        raise NotFoundError(
            f"an engine must be importable, got {name!r}: {error}; install what it needs"
        ) from error


def _load(name: str) -> Engine:
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return cast(Engine, entry.load()())
    target = BUILT_IN.get(name, name)
    if ":" not in target:
        near = difflib.get_close_matches(name, engine_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise NotFoundError(
            f"engine must be one of {', '.join(engine_names())} or module:Class, got {name!r}{hint}"
        )
    loaded = EntryPoint(name, target, ENTRY_POINTS).load()
    return cast(Engine, loaded())
