"""Make one row of the table `trials` of a design and its trial, and the trial of the row."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from dnnflow.design.layers import Design, Layer
from dnnflow.engines.records import Trial, TrialError, TrialState
from dnnflow.paths import canonical_json
from dnnflow.results.store.schema import trials

MAX_INTEGER = 2**63 - 1
"""Largest whole number of a database column."""

MIXED = "mixed"
"""Written in a text column when a design's layers differ."""


PLAIN = tuple(field.name for field in fields(Trial) if field.name not in ("confusion", "error", "history"))
"""What of a trial is a column as it is."""


def trial_row(study_id: str, design: Design, trial: Trial) -> dict[str, Any]:
    """Return the row of one trial: its fields, its design's parameters, and both as JSON."""
    error = trial.error
    return {
        "study_id": study_id,
        **{name: convert(getattr(trial, name)) for name, convert in CONVERTERS.items()},
        **design_columns(design),
        "error_type": clean_text(error.type) if error else None,
        "error_message": clean_text(error.message) if error else None,
        "design": canonical_json(design.to_dict()),
        "confusion": _json([[int(count) for count in row] for row in trial.confusion]),
        "error_traceback": clean_text(error.traceback) if error else None,
        "history": _json({name: _numbers(values) for name, values in trial.history.items()}),
    }


def design_columns(design: Design) -> dict[str, Any]:
    """Return a design's parameters as columns that can be queried.

    `units` is the first layer's width, `activation` and `initializer` are `mixed` where layers differ,
    `dropout` and `l2` are means over the layers, `batch_norm` says whether any layer has it. Columns of
    layers are None for a design without hidden layers, and `depth` too for a design by reference.
    """
    optimizer, schedule, reference = design.optimizer, design.schedule, design.reference
    return {
        "depth": None if reference else len(design.layers),
        **_layer_columns(design.layers),
        "residual": design.residual,
        "optimizer": optimizer.name,
        "learning_rate": optimizer.learning_rate,
        "schedule": schedule.kind,
        "batch_size": min(design.batch_size, MAX_INTEGER),
        "epochs": min(design.epochs, MAX_INTEGER),
        "early_stopping": design.early_stopping.patience if design.early_stopping else None,
        "seed": design.seed,
        "reference": reference.function if reference else None,
        "more_parameters": _more_parameters(design),
    }


NO_LAYERS: dict[str, Any] = dict.fromkeys(
    ("units", "units_min", "units_max", "activation", "dropout", "batch_norm", "initializer", "l2")
)


def _layer_columns(layers: tuple[Layer, ...]) -> dict[str, Any]:
    if not layers:
        return NO_LAYERS
    first = layers[0]
    if all(layer is first or layer == first for layer in layers):
        return {"units": first.units, "units_min": first.units, "units_max": first.units,
                "activation": first.activation, "dropout": first.dropout, "batch_norm": first.batch_norm,
                "initializer": first.initializer, "l2": first.l2}  # fmt: skip
    units = [layer.units for layer in layers]
    return {
        "units": units[0],
        "units_min": min(units),
        "units_max": max(units),
        "activation": _common([layer.activation for layer in layers]),
        "dropout": sum(layer.dropout for layer in layers) / len(layers),
        "batch_norm": any(layer.batch_norm for layer in layers),
        "initializer": _common([layer.initializer for layer in layers]),
        "l2": sum(layer.l2 for layer in layers) / len(layers),
    }


def _common(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else MIXED


def _more_parameters(design: Design) -> str:
    """Return parameters that only some designs have, as JSON: `optimizer.momentum`, `reference.width`, …"""
    more = {f"optimizer.{name}": value for name, value in design.optimizer.parameters.items()}
    more |= {f"schedule.{name}": value for name, value in design.schedule.parameters.items()}
    if design.reference:
        more |= {f"reference.{name}": value for name, value in design.reference.parameters.items()}
    return _json(more)


def trial_of(row: Mapping[str, Any]) -> Trial:
    """Build the trial that a row was made from."""
    history = json.loads(row["history"])
    failed = row["error_type"] is not None
    error = TrialError(row["error_type"], row["error_message"], row["error_traceback"]) if failed else None
    return Trial(
        **{name: row[name] for name in PLAIN} | {"state": TrialState(row["state"])},
        history={name: history_values(values) for name, values in history.items()},
        confusion=tuple(tuple(counts) for counts in json.loads(row["confusion"])),
        error=error,
    )


def history_values(values: list[float | None]) -> tuple[float, ...]:
    """Return one series of a history as it was before it became JSON, which has no NaN."""
    return tuple(math.nan if value is None else value for value in values)


def clean_text(text: str) -> str:
    """Return text that every database takes: no NUL, no lone surrogates."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _numbers(values: tuple[float, ...]) -> list[float | None]:
    return [number if math.isfinite(number := float(value)) else None for value in values]


def _number(value: float | None) -> float | None:
    # NaN becomes NULL in every database, as it does in SQLite
    return None if value is None or value != value else float(value)


def _integer(value: int | None) -> int | None:
    return None if value is None else min(int(value), MAX_INTEGER)


def _as_it_is(value: Any) -> Any:
    return value


_OF_TYPE: Mapping[type, Callable[[Any], Any]] = {
    sa.Double: _number, sa.BigInteger: _integer, sa.Integer: int, sa.Boolean: bool, sa.Text: _as_it_is,
    sa.String: _as_it_is,
}  # fmt: skip
CONVERTERS = {name: _OF_TYPE[type(trials.c[name].type)] for name in PLAIN} | {"state": str}
"""What makes a column of a trial's field, which may be a number of numpy."""
