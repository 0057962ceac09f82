"""Bind rows to a model by names, and try the first of them, before a training starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from dnnflow.errors import InputError
from dnnflow.parallel.model.gradient import GradientStep
from dnnflow.parallel.model.model_spec import ModelSpec
from dnnflow.parallel.rows.batches import Batching, batches
from dnnflow.parallel.rows.leases import Lease
from dnnflow.table.rows.binding import Binding, Form, Pick
from dnnflow.table.rows.source import Chunk, Field, RowSource

_ELEMENTWISE = {
    *("meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror", "meansquaredlogarithmicerror"),
    *("huber", "logcosh", "poisson", "kldivergence", "binarycrossentropy", "categoricalcrossentropy"),
    *("hinge", "squaredhinge", "binaryfocalcrossentropy", "categoricalfocalcrossentropy"),
}
"""Losses of Keras whose targets have the outputs' shape; another would be repeated to it without a word."""
_SPARSE = "sparsecategoricalcrossentropy"


@dataclass(frozen=True)
class _Side:
    """Inputs or outputs of a model, flat."""

    kind: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...]
    """Of one row; None where it is not to be compared."""
    pack: Callable[[list[Any]], Form]
    """Return one thing for each name in the model's structure."""
    aliases: tuple[str, ...] = ()
    """Other names of the same."""
    ordered: bool = True
    """Whether a place alone says which of them is meant."""


class BoundRows:
    """Binds sources to one model, which is built here once.

    Parameters
    ----------
    spec
        Of the model.
    batch_size
        Of the training.
    """

    def __init__(self, spec: ModelSpec, batch_size: int) -> None:
        self._spec, self._batch_size = spec, batch_size
        self._model = spec.build()
        self._inputs, self._outputs = _inputs_of(self._model), _outputs_of(self._model)

    def bind(
        self, source: RowSource, what: str = "the rows", class_weight: Mapping[int, float] | None = None
    ) -> RowSource:
        """Return a source whose batches the model takes.

        Raises
        ------
        InputError
            If names, shapes or types are not those of the model, or the model refuses the first row.
        """
        source = replace(source, binding=self._binding(source, what, class_weight))
        self._try(source, what)
        return source

    def _binding(self, source: RowSource, what: str, class_weight: Mapping[int, float] | None) -> Binding:
        place = f"{what} ({source.file_name(source.first_row().file)})"
        inputs = _bound(self._inputs, source.inputs, place, "input")
        targets = _bound(self._outputs, source.targets, place, "target")
        weights = _bound_weights(self._outputs, source.weights, place)
        return Binding(inputs, targets, weights, _checked(class_weight, source))

    def _try(self, source: RowSource, what: str) -> None:
        first = source.first_row()
        rows = min(source.counts[first.file], self._batch_size)
        where = f"{what}, row 0 of {source.file_name(first.file)}"
        batch = self._batch(source, first)
        _check_whole_numbers(self._model, batch, where)
        try:
            GradientStep(self._model).check(batch)
        except InputError as error:
            if rows == 1:
                raise InputError(f"{where}: {error}") from error
            try:  # a layer may need as many rows as a batch has
                GradientStep(self._model).check(self._batch(source, Chunk(first.file, 0, rows)))
            except InputError:
                raise InputError(f"{where}: {error}") from error

    def _batch(self, source: RowSource, chunk: Chunk) -> tuple[Any, ...]:
        batching = Batching(chunk.rows, shuffle=False, dtype=self._spec.layout.dtype)
        return next(iter(batches(source, [Lease(0, 0, chunk)], batching))).for_keras()


def _inputs_of(model: keras.Model) -> _Side | None:
    """Return the inputs of a model; None for one that says none, as one with a `call` of its own."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:
        tensors = getattr(model, "inputs", None) if isinstance(model, keras.Sequential) else None
        structure = tensors[0] if tensors else None
    if structure is None:
        return None
    return _side("input", structure, [one.name for one in keras.tree.flatten(structure)])


def _outputs_of(model: keras.Model) -> _Side | None:
    structure = getattr(model, "_outputs_struct", None)
    if structure is None:
        tensors = getattr(model, "outputs", None) if isinstance(model, keras.Sequential) else None
        structure = tensors[0] if tensors else None
    if structure is None:
        return None
    flat = keras.tree.flatten(structure)
    names = list(getattr(model, "output_names", None) or [one.name for one in flat])
    side = _side("output", structure, names)
    return replace(side, shapes=tuple(_target_shapes(model, side)))


def _side(kind: str, structure: Any, names: Sequence[str]) -> _Side:
    flat = keras.tree.flatten(structure)
    is_dict = isinstance(structure, dict) and len(structure) == len(flat)
    return _Side(
        kind,
        tuple(sorted(structure)) if is_dict else tuple(names),
        tuple(tuple(one.shape[1:]) for one in flat),
        lambda leaves: keras.tree.pack_sequence_as(structure, leaves),
        tuple(names) if is_dict else (),
        ordered=not is_dict or list(structure) == sorted(structure),
    )


def _target_shapes(model: keras.Model, side: _Side) -> list[tuple[int | None, ...] | None]:
    """Return the shapes that the losses of Keras want of targets; None for other losses."""
    loss = model.loss
    if isinstance(loss, Mapping):
        losses = [loss.get(name) for name in side.names]
    elif isinstance(loss, list | tuple):
        losses = list(loss)
    else:
        losses = [loss] * len(side.shapes)
    if len(losses) != len(side.shapes):
        return [None] * len(side.shapes)
    return [_target_shape(one, shape) for one, shape in zip(losses, side.shapes, strict=True)]


def _target_shape(loss: Any, shape: tuple[int | None, ...] | None) -> tuple[int | None, ...] | None:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__).replace("_", "").lower()
    if not (getattr(loss, "__module__", None) or type(loss).__module__).startswith("keras"):
        return None
    if name == _SPARSE and shape:
        return shape[:-1]
    return shape if name in _ELEMENTWISE else None


def _bound(side: _Side | None, fields: Sequence[Field], place: str, kind: str) -> Form:
    if side is None:
        named = len(fields) > 1 or (fields and fields[0].key)
        if named and all(field.key and not field.ordered for field in fields):
            return {field.key: Pick(index) for index, field in enumerate(fields)}
        return None
    picks = _picks(side, fields, place, kind)
    for name, shape, pick in zip(side.names, side.shapes, picks, strict=True):
        field = fields[pick.array]
        got = field.shape if pick.column is None else (*field.shape[:-1], 1)
        if shape is not None and not _fits(shape, got):
            raise InputError(
                f"the model takes {_words(shape)} as {kind} {name}, but {field.name} of {place} is "
                f"{_words(got)}; give rows of that shape, or change the model"
            )
    return side.pack(picks) if len(picks) > 1 else (None if len(fields) == 1 else picks[0])


def _picks(side: _Side, fields: Sequence[Field], place: str, kind: str) -> list[Pick]:
    for names in (side.names, side.aliases):
        if names and (found := _by_name(names, fields)):
            return found
    may_be_placed = all(not field.key or field.ordered for field in fields) or len(fields) == 1
    if len(side.names) == len(fields) and may_be_placed and (side.ordered or len(fields) == 1):
        return [Pick(index) for index in range(len(fields))]
    columns = [name for field in fields if len(fields) == 1 for name in field.columns]
    got = columns or [field.key or field.name for field in fields]
    raise InputError(
        f"the {kind}s of {place} must be named as the model's, or be as many in its order; the model has "
        f"{', '.join(side.names)}, got {', '.join(got)}; name them as the model does, or list them in its "
        f"order"
    )


def _by_name(names: Sequence[str], fields: Sequence[Field]) -> list[Pick] | None:
    """Return what has these names, as arrays or columns of the only one; None unless all are found."""
    keys = [field.key for field in fields]
    if len(names) == len(set(names)) and len(keys) == len(set(keys)) and set(names) <= set(keys):
        return [Pick(keys.index(name)) for name in names]
    if len(fields) == 1 and len(names) > 1 and set(names) <= set(fields[0].columns):
        return [Pick(0, fields[0].columns.index(name)) for name in names]
    return None


def _bound_weights(side: _Side | None, fields: Sequence[Field], place: str) -> Form:
    if not fields:
        return None
    if side is None:
        return _bound(None, fields, place, "weight")
    if len(fields) == 1 and (not fields[0].key or fields[0].ordered or len(side.names) == 1):
        return side.pack([Pick(0)] * len(side.names))
    return side.pack(_picks(side, fields, place, "weight"))


def _checked(weights: Mapping[int, float] | None, source: RowSource) -> Mapping[int, float]:
    """Return the weights of classes.

    Raises
    ------
    InputError
        Where Keras refuses them, or they are no numbers of classes.
    """
    if not weights:
        return {}
    if source.weights:
        raise InputError(
            "rows are weighted by class or one by one, got class_weight for rows that have weights; "
            "multiply them, and leave class_weight out"
        )
    if len(source.targets) > 1:
        raise InputError(
            f"class_weight is for models with one output, got {len(source.targets)} targets; give each row "
            "weights instead"
        )
    try:
        found = {int(label): float(weight) for label, weight in weights.items()}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"class_weight must be {{class: weight}} with the numbers of classes, got {dict(weights)}; "
            "number them as the targets do"
        ) from error
    if not all(np.isfinite(weight) for weight in found.values()):
        raise InputError(f"class_weight must be finite, got {found}; change those that are not")
    return found


def _fits(wanted: tuple[int | None, ...], got: tuple[int, ...]) -> bool:
    """Say whether Keras takes a shape for another: a last axis of 1 may be there or not."""
    if len(got) == len(wanted) + 1 and got[-1] == 1:
        got = got[:-1]
    elif len(got) + 1 == len(wanted) and wanted[-1] == 1:
        got = (*got, 1)
    return len(got) == len(wanted) and all(a is None or a == b for a, b in zip(wanted, got, strict=True))


def _words(shape: Sequence[int | None]) -> str:
    return str(tuple(shape))


def _check_whole_numbers(model: keras.Model, batch: tuple[Any, ...], where: str) -> None:
    """Refuse fractions where a model takes integers, which Keras would cut off."""
    tensors = getattr(model, "inputs", None) or ()
    arrays = keras.tree.flatten(batch[0])
    for tensor, array in zip(tensors, arrays, strict=False):
        whole = np.dtype(tensor.dtype).kind in "iu" if tensor.dtype != "string" else False
        if whole and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
            raise InputError(
                f"the model takes {tensor.dtype} as input {tensor.name}, but {where} has {array.ravel()[0]}; "
                "give whole numbers, or change the model's input to float32"
            )
