"""Put a table's preprocessing before a network as layers of Keras: plain Keras then takes raw rows.

Only layers and operations of Keras are used, so that the file is read in its safe mode without this package.
"""

import math
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.kinds import Task, in_any_case
from dnnflow.table.columns.preprocess import FittedColumn, NumberColumn, Preprocessing, TextColumn, TimeColumn
from dnnflow.table.columns.targets import Targets
from dnnflow.table.columns.times import TimeStyle

NETWORK = "network"
"""Name of the layer that is the network."""
PREPROCESSING = "preprocessing"
OUTPUTS = "predictions"
UNSEEN = ("no category of the table", "another one")
"""Texts that stand for those that the training rows had not."""
_LARGEST = float(np.finfo(np.float32).max)
_PRECISION = 1e-6
"""Largest difference of encoded values."""


def raw_model(preprocessing: Preprocessing, network: keras.Model) -> keras.Model:
    """Return a model that takes raw rows and gives probabilities, or numbers in the table's units.

    It takes a mapping of each column's name to its values, (rows,) or (rows, 1): numbers as float64, NaN
    where missing; texts as the table has them, without blanks around, an empty one or a marker where
    missing. Text that the training rows had not is encoded as no category. A row with a missing number that
    nothing was to take the place of, or with an infinite one, comes out as NaN.

    Parameters
    ----------
    network
        From (rows, preprocessing.n_features) to (rows, outputs). It becomes a layer of the model.

    Raises
    ------
    InputError
        If layers of Keras cannot say what becomes of a column.
    """
    encoder = _encoder(preprocessing)
    _check(preprocessing, encoder)
    columns = preprocessing.columns
    names = _input_names([column.name for column in columns])
    inputs = [keras.Input((1,), dtype=_dtype(column), name=name)
              for column, name in zip(columns, names, strict=True)]  # fmt: skip
    features, unknown = encoder(inputs)
    network.name = NETWORK
    outputs = _in_units(preprocessing.targets)([network(features), unknown])
    by_name = {column.name: one for column, one in zip(columns, inputs, strict=True)}
    with warnings.catch_warnings():  # a name with a slash cannot be that of a layer
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.Model(by_name, outputs, name="raw")


def coarse_columns(preprocessing: Preprocessing) -> list[str]:
    """Return the columns whose numbers lose more than `_PRECISION` of their spread in float32."""
    step = float(np.finfo(np.float32).eps) / 2
    return [
        column.name
        for column in preprocessing.columns
        if isinstance(column, NumberColumn) and column.spread
        and step * max(abs(column.low), abs(column.high)) > _PRECISION * column.spread
    ]  # fmt: skip


def _dtype(column: object) -> str:
    return "string" if isinstance(column, TextColumn) else "float64"


def _input_names(names: Sequence[str]) -> list[str]:
    """Return the names of layers for columns, which are their own where Keras allows it."""
    taken = {NETWORK, PREPROCESSING, OUTPUTS, ""}
    return [f"column {place}" if name in taken or "/" in name else name for place, name in enumerate(names)]


def _encoder(preprocessing: Preprocessing) -> keras.Model:
    """Return the model from raw columns to features, (rows, n_features), and NaN for rows not to be known."""
    columns = preprocessing.columns
    for column in columns:
        if isinstance(column, TextColumn):
            if column.buckets:
                raise _inexpressible(column.name, "its texts are hashed")
        elif isinstance(column, TimeColumn) or isinstance(column.style, TimeStyle):
            raise _inexpressible(column.name, "it holds dates, times or durations")
    inputs = [keras.Input((1,), dtype=_dtype(column), name=f"column_{place}")
              for place, column in enumerate(columns)]  # fmt: skip
    numbers = [(place, column) for place, column in enumerate(columns) if isinstance(column, NumberColumn)]
    pieces: list[Any] = []
    unknown: Any = None
    order: dict[tuple[int, int], int] = {}
    """Place among the pieces, by column and place among its features."""
    if numbers:
        raw = _joined([inputs[place] for place, _ in numbers])  # (rows, numbers) float64
        values, missing, unknown = _numbers(raw, [column for _, column in numbers], preprocessing)
        pieces += [values, missing]
        order |= {(place, 0): at for at, (place, _) in enumerate(numbers)}
        order |= {(place, 1): len(numbers) + at for at, (place, one) in enumerate(numbers) if one.indicator}
    width = 2 * len(numbers)
    for place, column in enumerate(columns):
        if isinstance(column, TextColumn) and column.feature_names:
            pieces.append(_text(inputs[place], column, preprocessing))
            order |= {(place, at): width + at for at in range(len(column.feature_names))}
            width += len(column.feature_names)
    if unknown is None:
        unknown = keras.ops.multiply(keras.ops.sum(pieces[0], axis=1, keepdims=True), 0.0)
    places = np.array([order[key] for key in sorted(order)], dtype=np.int32)
    features = keras.ops.take(_joined(pieces), places, axis=1)
    return keras.Model(inputs, [features, unknown], name=PREPROCESSING)


def _joined(tensors: Sequence[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else keras.ops.concatenate(tensors, axis=1)


def _numbers(raw: Any, columns: Sequence[NumberColumn], preprocessing: Preprocessing) -> tuple[Any, Any, Any]:
    """Return encoded numbers and where they were missing, (rows, columns) float32, and (rows, 1) unknown."""
    ops = keras.ops
    missing = ops.isnan(raw)
    for marker in sorted({value for one in preprocessing.markers.numbers for value in (one, _single(one))}):
        missing = ops.logical_or(
            missing, ops.equal(raw, np.array([marker]))
        )  # a plain float would be float32
    fill = np.array([math.nan if column.fill is None else column.fill for column in columns])
    values = ops.where(missing, fill, raw)
    is_known = ops.isfinite(values)
    ends = np.array([_ends(column, preprocessing.clip) for column in columns])  # (columns, 2)
    values = ops.minimum(ops.maximum(values, ends[:, 0]), ends[:, 1])
    offset = np.array([column.offset for column in columns])
    spread = np.array([column.spread or 1.0 for column in columns])
    values = ops.divide(ops.subtract(values, offset), spread)
    values = ops.minimum(ops.maximum(values, -_LARGEST), _LARGEST)
    unknown = ops.sum(ops.where(is_known, 0.0, math.nan), axis=1, keepdims=True)
    return ops.cast(values, "float32"), ops.cast(missing, "float32"), ops.cast(unknown, "float32")


def _ends(column: NumberColumn, clip: bool) -> tuple[float, float]:
    """Return what a column's values are moved to; the offset of a constant, which is encoded as 0."""
    if not column.spread:
        return column.offset, column.offset
    largest = float(np.finfo(np.float64).max)
    return (column.low, column.high) if clip else (-largest, largest)


def _single(value: float) -> float:
    """Return what float32 makes of a number, which is how Keras' `predict` hands it on."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _text(raw: Any, column: TextColumn, preprocessing: Preprocessing) -> Any:
    """Return an encoded column of text, (rows, features) float32."""
    texts = _texts(column, preprocessing)
    unseen = next(text for text in map(str, range(len(texts) + 1)) if text not in texts)
    known = keras.layers.StringLookup(vocabulary=texts, mask_token=None)(raw)  # 0 for what is not known
    table = _encoded(preprocessing, column, [unseen, *texts])  # (texts, features)
    rows = keras.layers.Embedding(*table.shape, trainable=False)
    rows.build()
    rows.set_weights([table])
    return keras.layers.Reshape((table.shape[1],))(rows(known))


def _texts(column: TextColumn, preprocessing: Preprocessing) -> list[str]:
    """Return all texts that a column is known to have, as they may be written; missing ones first."""
    known = [*column.categories, *(unicodedata.normalize("NFD", text) for text in column.categories)]
    if column.boolean:
        known = [form for text in column.categories for form in in_any_case(text)]
    return list(dict.fromkeys([*preprocessing.markers.spellings(), *known]))


def _encoded(preprocessing: Preprocessing, column: FittedColumn, values: Any) -> NDArray[np.float32]:
    """Return what the preprocessing makes of values of one of its columns, (values, features)."""
    alone = replace(preprocessing, columns=(column,))
    return alone.transform(pd.DataFrame({column.name: pd.Series(values, dtype=_pandas_type(column))}))


def _pandas_type(column: object) -> str:
    return "object" if isinstance(column, TextColumn) else "float64"


def _check(preprocessing: Preprocessing, encoder: keras.Model) -> None:
    """Refuse an encoder that makes something else of a column than the preprocessing does.

    Raises
    ------
    InputError
        Naming the column.
    """
    probes = [_probes(column, preprocessing) for column in preprocessing.columns]
    rows = max(map(len, probes))
    values = [np.resize(np.array(one, dtype=_pandas_type(column)), rows)
              for one, column in zip(probes, preprocessing.columns, strict=True)]  # fmt: skip
    features = np.asarray(encoder.predict_on_batch([one[:, None] for one in values])[0])
    at = 0
    for column, given in zip(preprocessing.columns, values, strict=True):
        try:
            expected = _encoded(preprocessing, column, given)
        except DataError as error:
            raise _inexpressible(column.name, str(error)) from error
        mine = features[:, at : at + expected.shape[1]]
        wrong = ~(np.abs(mine - expected) <= _PRECISION * np.maximum(1.0, np.abs(expected)))  # NaN, too
        if wrong.any():
            raise _inexpressible(column.name, f"{given[wrong.any(axis=1)][0]!r} would become something else")
        at += expected.shape[1]


def _probes(column: FittedColumn, preprocessing: Preprocessing) -> list[Any]:
    """Return raw values of a column, of all kinds that it may have."""
    if not isinstance(column, NumberColumn):
        return [*_texts(column, preprocessing), *UNSEEN] if isinstance(column, TextColumn) else []
    low, high, spread = column.low, column.high, column.spread or 1.0
    missing = [] if column.fill is None else [math.nan, *preprocessing.markers.numbers]
    return [low, high, low / 2 + high / 2, low - spread, high + 2.5 * spread, 0.0, *missing]


def _inexpressible(name: str, why: str) -> InputError:
    return InputError(
        f"layers of Keras must be able to say what becomes of a column, got column {name!r}: {why}; export "
        "the model without its preprocessing (without --raw or raw=True), or apply it with dnnflow predict"
    )


def _in_units(targets: Targets) -> keras.Model:
    """Return the model from outputs and unknown rows to what is predicted, in the table's units."""
    outputs = keras.Input((targets.n_outputs,), name="outputs")
    unknown = keras.Input((1,), name="unknown")
    found: Any = outputs
    if targets.task is Task.REGRESSION:
        found = keras.ops.multiply(keras.ops.cast(found, "float64"), np.array(targets.std))
        found = keras.ops.add(found, np.array(targets.mean))
    found = keras.ops.add(found, keras.ops.cast(unknown, found.dtype))
    return keras.Model([outputs, unknown], found, name=OUTPUTS)
