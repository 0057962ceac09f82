"""Carry what layers keep beside variables, and show that a rebuilt model is the one that was described."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import keras
import numpy as np

from dnnflow.errors import InputError
from dnnflow.parallel.model.keras_messages import keras_message
from dnnflow.parallel.model.variables import forward, frozen, layers_of, learned, parameters_of

_ROWS = 4
_DRAWS = ((8, True), (64, True), (8, False), (64, False))
"""What a probe tries in turn: length of axes that a model leaves open, and whether integers are of tables."""
_MOST_WORDS = 64
_MOST_OUTPUTS = 4096
"""Numbers of one output that are compared, evenly spread over it."""
_EPSILONS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_HERE = 16
"""Units of the last place that a rebuilt copy may be off in this process."""
_UNCOMPARED = ("name", "dtype", "trainable", "seed")  # the state of a generator is compared instead
_CONFIGURED = (keras.constraints.Constraint, keras.regularizers.Regularizer)
_REMEDY = (
    "give what is missing in get_config and save_own_variables, or module:function that builds the model"
)


@dataclass(frozen=True, eq=False)
class LayerState:
    """What a layer would write to a file of Keras that none of its variables holds, as a vocabulary."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def read_layer_states(model: keras.Model) -> dict[int, LayerState]:
    """Return the states of layers that keep some, by the layer's place in the model.

    Raises
    ------
    InputError
        For a layer that cannot save its state.
    """
    found = {}
    for index, layer in enumerate(layers_of(model)):
        try:
            state = LayerState(_read_values(layer), _read_files(layer))
        except Exception as error:
            raise InputError(
                f"a layer's state must be one that Keras can save, got {layer.name}: {keras_message(error)}; "
                "adapt it, or give its vocabulary, before training"
            ) from error
        if state.values or state.files:
            found[index] = state
    return found


def write_layer_states(model: keras.Model, states: Mapping[int, LayerState]) -> None:
    """Set what `read_layer_states` gave, and whatever layers have derived from their variables."""
    for index, layer in enumerate(layers_of(model)):
        state = states.get(index, LayerState())
        if state.values:
            layer.load_own_variables(dict(state.values))
        elif hasattr(layer, "finalize_state") and layer.variables:  # of adapted statistics
            store: dict[str, Any] = {}
            layer.save_own_variables(store)
            layer.load_own_variables({name: _array(value) for name, value in store.items()})
        if state.files:
            with tempfile.TemporaryDirectory() as directory:
                for name, content in state.files.items():
                    path = Path(directory, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                layer.load_assets(directory)


def _read_values(layer: Any) -> dict[str, np.ndarray]:
    if type(layer).save_own_variables is keras.Layer.save_own_variables:
        return {}
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    own = {id(variable) for variable in layer.variables}
    if all(id(value) in own for value in store.values()):
        return {}
    return {name: _array(value) for name, value in store.items()}


def _read_files(layer: Any) -> dict[str, bytes]:
    if not hasattr(layer, "save_assets"):
        return {}
    with tempfile.TemporaryDirectory() as directory:
        layer.save_assets(directory)
        paths = [path for path in sorted(Path(directory).rglob("*")) if path.is_file()]
        return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


@dataclass(frozen=True, eq=False)
class Probe:
    """What a model answers to a drawn batch, for its copies to answer the same."""

    draw: int
    """Of `_DRAWS`; it seeds the batch, too."""
    outputs: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, model: keras.Model) -> "Probe | None":
        """Return what a model answers without training.

        None for a model whose inputs are not known before data come, or that answers differently each time.
        """
        for draw in range(len(_DRAWS)):
            inputs = probe_inputs(model, draw)
            if inputs is None:
                return None
            try:
                first, second = _outputs(model, inputs), _outputs(model, inputs)
            except Exception:  # of any layer's code, for a batch that it does not take
                continue
            probe = cls(draw, first)
            return None if probe._difference(second, _HERE * _epsilon(model)) else probe
        return None

    def require_same(self, model: keras.Model, *, here: bool = False) -> None:
        """Refuse a copy that answers otherwise.

        Parameters
        ----------
        here
            Whether it was built in the process of the original: it may be off by 16 units of the last place
            of the largest number then, by the root of the unit (float32: 3e-4) on other machines.

        Raises
        ------
        InputError
            If it does, or does not answer.
        """
        epsilon = _epsilon(model)
        try:
            found = _outputs(model, probe_inputs(model, self.draw))
        except Exception as error:
            raise InputError(
                f"a model must answer wherever it is built, got {model.name}: {keras_message(error)}; "
                f"{_REMEDY}"
            ) from error
        difference = self._difference(found, _HERE * epsilon if here else math.sqrt(epsilon))
        if difference:
            raise InputError(
                f"a model must answer the same wherever it is built, got {difference} in a copy of "
                f"{model.name}: something that it keeps outside its weights does not travel; {_REMEDY}"
            )

    def _difference(self, found: tuple[np.ndarray, ...], rounding: float) -> str:
        """Return where answers differ by more than rounding, in words; empty if nowhere."""
        if [array.shape for array in found] != [array.shape for array in self.outputs]:
            return "outputs of other shapes"
        for one, other in zip(self.outputs, found, strict=True):
            if one.dtype.kind != "f":
                if not np.array_equal(one, other):
                    return "other outputs"
                continue
            finite = one[np.isfinite(one)]
            largest = float(np.abs(finite).max(initial=0.0))
            if not np.allclose(one, other, rtol=0.0, atol=rounding * largest, equal_nan=True):
                return f"outputs off by {float(np.nanmax(np.abs(one - other))):.3g} of {largest:.3g}"
        return ""


def probe_inputs(model: keras.Model, draw: int) -> Any:
    """Return a drawn batch in the structure of a model's inputs; None if they are not known."""
    length, of_tables = _DRAWS[draw]
    rng = np.random.default_rng(draw)
    words = _words(model) if of_tables else []

    def drawn(leaf: Any) -> np.ndarray:
        shape = [_ROWS if leaf.shape[0] is None else leaf.shape[0]]
        shape += [length if size is None else size for size in leaf.shape[1:]]
        dtype = str(leaf.dtype)
        known = [word for word in words if isinstance(word, str) == (dtype == "string")]
        if dtype == "string":
            return np.asarray(rng.choice([*known, "probe"], shape), object)
        if "int" in dtype or dtype == "bool":
            return np.asarray(rng.choice([*known, 0, 1], shape)).astype(dtype)
        floats: np.ndarray = 3.0 * rng.normal(size=shape)
        return floats.astype(dtype if dtype in ("float64", "float32") else "float32")

    structure = _inputs_of(model)
    return None if structure is None else keras.tree.map_structure(drawn, structure)


def _inputs_of(model: keras.Model) -> Any:
    """Return a model's inputs, nested as they are given; None if only its code knows them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.built and model.inputs else None
    if (structure := getattr(model, "_inputs_struct", None)) is not None:
        return structure
    shapes = list((getattr(model, "_build_shapes_dict", None) or {}).values())
    if len(shapes) == 1 and isinstance(shapes[0], tuple | list) and len(shapes[0]) > 1:
        shape = tuple(shapes[0])
        if all(size is None or isinstance(size, int) for size in shape):
            return keras.KerasTensor(shape, dtype=model.input_dtype)
    return None


def _words(model: keras.Model) -> list[Any]:
    """Return some entries of each table in a model, the last ones among them."""
    found: list[Any] = []
    for layer in layers_of(model):
        if hasattr(layer, "get_vocabulary"):
            vocabulary = [word.item() if hasattr(word, "item") else word for word in layer.get_vocabulary()]
            found += vocabulary[:: max(1, len(vocabulary) // _MOST_WORDS)] + vocabulary[-2:]
    return found


def _outputs(model: keras.Model, inputs: Any) -> tuple[np.ndarray, ...]:
    with _unchanged(model):
        flat = keras.tree.flatten(forward(model, inputs, training=False))
        return tuple(_sample(keras.ops.convert_to_numpy(output)) for output in flat if output is not None)


def _sample(output: np.ndarray) -> np.ndarray:
    flat = np.asarray(output).ravel()
    flat = flat[:: max(1, math.ceil(flat.size / _MOST_OUTPUTS))]
    wide = flat.dtype.kind in "fV" and flat.dtype != np.float64  # V: bfloat16
    return flat.astype(np.float32) if wide else flat


@contextmanager
def _unchanged(model: keras.Model) -> Iterator[None]:
    """Leave a model's variables, random generators among them, as they were."""
    before = [(variable, variable.numpy()) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _epsilon(model: keras.Model) -> float:
    """Return the unit of the last place of the coarsest type in which a model computes."""
    return max(_EPSILONS.get(layer.compute_dtype, 0.0) for layer in layers_of(model)) or _EPSILONS["float32"]


def require_gradients_alone(model: keras.Model, inputs: Any) -> None:
    """Refuse a model whose forward pass changes weights that gradients are to change, or that are frozen.

    The model's variables are as before then.

    Raises
    ------
    InputError
        For such a model: a server that applies gradients would never know.
    """
    weights = [*learned(model), *frozen(model)]
    with _unchanged(model):
        before = [variable.numpy() for variable in weights]
        forward(model, inputs, training=True)
        changed = [
            variable.path
            for variable, value in zip(weights, before, strict=True)
            if not np.array_equal(variable.numpy(), value)
        ]
    if changed:
        raise InputError(
            f"weights must be changed by gradients alone, got {', '.join(changed)} changed in the forward "
            "pass by its layer, as SpectralNormalization does; use a kernel_constraint, or train with "
            "model.fit"
        )


def require_same_settings(original: Any, rebuilt: Any) -> None:
    """Refuse a layer, loss, metric or constraint whose copy was made with other arguments.

    Raises
    ------
    InputError
        For one whose `get_config` leaves out an argument that it was made with.
    """
    if isinstance(original, str | FunctionType | type) or original is None:
        return
    if type(original) is not type(rebuilt):
        raise InputError(
            f"a part of a model must be rebuilt as it is, got {type(rebuilt).__name__} for a "
            f"{type(original).__name__}; {_REMEDY}"
        )
    names = [name for name in parameters_of(type(original)) if name not in _UNCOMPARED]
    for name in [*names, *(f"_{name}" for name in names), "_fn_kwargs"]:
        one, other = vars(original).get(name), vars(rebuilt).get(name)
        if isinstance(one, _CONFIGURED):
            require_same_settings(one, other)
        elif not _is_equal(one, other):
            raise InputError(
                f"{type(original).__name__} must be rebuilt with the {name.lstrip('_')} that it has, got "
                f"{other!r} for {one!r}; its get_config must return it"
            )


def _is_equal(one: Any, other: Any) -> bool:
    """Compare plain values and functions; what is neither is taken to be equal."""
    if isinstance(one, FunctionType) or isinstance(other, FunctionType):
        return one is other
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    try:
        return json.dumps(one) == json.dumps(other)
    except (TypeError, ValueError):
        return True
