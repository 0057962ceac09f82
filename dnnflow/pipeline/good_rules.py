"""Say what a study of a table starts from where nobody has set anything: rules tried on other tables.

What was tried, the numbers, and the commands that print them: `docs/recipes.md`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DESIGNS = ((20_000, 200), (100_000, 100), (math.inf, 50))
"""Rows up to which a study has so many designs: a matter of time, not of what wins."""


@dataclass(frozen=True)
class TableFacts:
    """What of a table rules may depend on; today it is the number of rows."""

    rows: int
    numbers: int
    """Feature columns of numbers."""
    categories: int
    """Different values of all other feature columns together."""
    classes: int


def good_rules(table: TableFacts) -> dict[str, Any]:
    """Return the sections preprocess, space, designs and strategy of a pipeline, as JSON types.

    Examples
    --------
    >>> good_rules(TableFacts(rows=1797, numbers=64, categories=0, classes=10))["preprocess"]
    {'missing': 'median', 'scale': 'standard'}
    """
    return {
        "preprocess": {"missing": "median", "scale": "standard"},
        "space": {
            "depth": {"int": [1, 3]},
            "units": {"choice": [32, 64, 128, 256]},
            "activation": {"choice": ["relu", "leaky_relu", "tanh"]},
            "learning_rate": {"loguniform": [0.0005, 0.01]},
            "batch_size": {"choice": [32, 64, 128]},
            "epochs": 100,
            "early_stopping": {"patience": 10},
        },
        "designs": next(designs for most, designs in DESIGNS if table.rows <= most),
        "strategy": "random",
    }


def in_words(rules: Mapping[str, Any]) -> str:
    """Return rules of `good_rules` for a person."""
    space, steps = rules["space"], rules["preprocess"]
    depth, units, activation, rate, batch = (
        _values(space[name]) for name in ("depth", "units", "activation", "learning_rate", "batch_size")
    )
    return (
        f"{rules['designs']} designs of {depth} hidden layers with {units} units, {activation}, Adam with a "
        f"learning rate of {rate}, batches of {batch} rows, up to {space['epochs']} epochs, fewer once "
        f"{space['early_stopping']['patience']} bring no improvement; {steps['scale']} scaling; the "
        "fastest engine."
    )


def _values(parameter: Any) -> str:
    """Return the values of a space's parameter: `32, 64 or 128`, `1 to 3`."""
    if not isinstance(parameter, Mapping):
        return str(parameter)
    ((kind, values),) = parameter.items()
    if kind != "choice":
        return f"{values[0]} to {values[1]}"
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
