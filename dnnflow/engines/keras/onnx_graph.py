"""Write a Keras model as a graph of ONNX: the layers and operations that dnnflow's own models consist of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import onnx

from dnnflow.errors import InputError

OPSET, LABEL_OPSET, IR_VERSION = 20, 2, 10
"""Versions of the standard's operators, those for labels, and files: the first with Gelu for all."""
_DOMAIN = "ai.onnx.ml"


def onnx_model(model: keras.Model, output: str, about: Mapping[str, str]) -> onnx.ModelProto:
    """Return the graph of a model; its inputs are named as the model's.

    Parameters
    ----------
    output
        Name of the graph's output.
    about
        What the file says of itself.

    Raises
    ------
    InputError
        If the model has a layer that dnnflow makes no graph of.
    """
    graph = _Graph()
    by_name = model.input if isinstance(model.input, dict) else {one.name: one for one in model.inputs}
    names = {id(one): name for name, one in by_name.items()}
    (result,) = graph.walk(model, [names[id(one)] for one in model.inputs])
    graph.node("Identity", [result], [output])
    (last,) = model.outputs
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, model.name,
            [_value(name, one) for name, one in by_name.items()], [_value(output, last)],
            list(graph.constants.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(_DOMAIN, LABEL_OPSET)],
        ir_version=IR_VERSION, producer_name="dnnflow",
    )  # fmt: skip
    onnx.helper.set_model_props(made, dict(about))
    onnx.checker.check_model(made, full_check=True)
    return made


def _value(name: str, tensor: Any) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype("O" if tensor.dtype == "string" else tensor.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, ["rows", *tensor.shape[1:]])


class _Graph:
    """Nodes that compute what a Keras model does."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._names: dict[int, str] = {}
        """Of the values of Keras tensors, by their ids."""
        self._kept: list[Any] = []
        """These tensors, so that no other gets the id of one."""

    def walk(self, model: keras.Model, given: Sequence[str]) -> list[str]:
        """Add a model's nodes and return the names of its outputs, given those of its inputs."""
        functional = keras.Model(model.inputs, model.outputs)
        inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype) for one in model.inputs]
        self._remember(inputs, given)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            found = layer(*args, **kwargs)
            self._remember(keras.tree.flatten(found), self._names_of(layer, args, kwargs))
            return found

        copy = keras.models.clone_model(
            functional, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call
        )
        return [self._names[id(one)] for one in copy.outputs]

    def _remember(self, tensors: Sequence[Any], names: Sequence[str]) -> None:
        self._kept += tensors
        self._names |= {id(one): name for one, name in zip(tensors, names, strict=True)}

    def _names_of(self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Add the nodes of a layer or an operation and return the names of what comes of it."""
        if isinstance(layer, keras.Model):
            return self.walk(layer, [self._names[id(one)] for one in keras.tree.flatten(args[0])])
        flat = keras.tree.flatten(list(args))
        dtype = next((one.dtype for one in reversed(flat) if keras.utils.is_keras_tensor(one)), "float32")
        make = _LAYERS.get(type(layer).__name__)
        if make is None:
            raise InputError(
                f"dnnflow writes ONNX graphs of the layers that its designs have, got {type(layer).__name__} "
                f"({layer.name}); take the .keras file, and tf2onnx for that layer"
            )
        return [make(self, layer, [self._input(one, dtype) for one in flat], dict(kwargs))]

    def _input(self, given: Any, dtype: str) -> Any:
        """Return the name of a Keras tensor, or of a constant; whole numbers and flags as they are."""
        if keras.utils.is_keras_tensor(given):
            return self._names[id(given)]
        if isinstance(given, float) or (isinstance(given, np.ndarray) and given.dtype.kind == "f"):
            return self.constant(np.asarray(given, dtype=dtype if dtype in ("float32", "float64") else None))
        return given

    def constant(self, array: Any) -> str:
        """Return the name of an array."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = onnx.numpy_helper.from_array(np.asarray(array), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        names = list(outputs) or [f"value_{len(self.nodes)}"]
        domain = _DOMAIN if kind == "LabelEncoder" else None
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def activate(self, activation: Callable[..., Any], value: str) -> str:
        """Add an activation of Keras."""
        name = keras.activations.serialize(activation)
        if name not in _ACTIVATIONS:
            raise InputError(f"dnnflow writes ONNX graphs of its designs' activations, got {name}; take the "
                             ".keras file")  # fmt: skip
        return _ACTIVATIONS[name](self, value)


_Activation = Callable[[_Graph, str], str]
_Make = Callable[[_Graph, Any, list[Any], dict[str, Any]], str]


def _activation(kind: str, **attributes: Any) -> _Activation:
    return lambda graph, x: graph.node(kind, [x], **attributes)


def _clipped(low: float, high: float) -> _Activation:
    return lambda graph, x: graph.node(
        "Clip", [x, graph.constant(np.float32(low)), graph.constant(np.float32(high))]
    )


def _log_sigmoid(graph: _Graph, x: str) -> str:
    return graph.node("Neg", [graph.node("Softplus", [graph.node("Neg", [x])])])


_ACTIVATIONS: dict[str, _Activation] = {
    "linear": lambda _, x: x,
    "relu": _activation("Relu"),
    "leaky_relu": _activation("LeakyRelu", alpha=0.2),
    "elu": _activation("Elu"),
    "selu": _activation("Selu"),
    "gelu": _activation("Gelu"),
    "silu": lambda graph, x: graph.node("Mul", [x, graph.node("Sigmoid", [x])]),
    "tanh": _activation("Tanh"),
    "sigmoid": _activation("Sigmoid"),
    "softplus": _activation("Softplus"),
    "softsign": _activation("Softsign"),
    "exponential": _activation("Exp"),
    "hard_sigmoid": _activation("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_silu": _activation("HardSwish"),
    "hard_tanh": _clipped(-1.0, 1.0),
    "relu6": _clipped(0.0, 6.0),
    "mish": _activation("Mish"),
    "log_sigmoid": _log_sigmoid,
    "softmax": _activation("Softmax", axis=-1),
}


def _dense(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    weights = [graph.constant(array) for array in layer.get_weights()]
    return graph.activate(layer.activation, graph.node("Gemm", [inputs[0], *weights]))


def _batch_norm(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    arrays = [graph.constant(array) for array in layer.get_weights()]  # scale, offset, mean, variance
    return graph.node("BatchNormalization", [inputs[0], *arrays], epsilon=layer.epsilon)


def _rescaling(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    scaled = graph.node("Mul", [inputs[0], graph.constant(np.float32(layer.scale))])
    return graph.node("Add", [scaled, graph.constant(np.float32(layer.offset))])


def _lookup(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    texts = layer.get_config()["vocabulary"]
    return graph.node("LabelEncoder", inputs, keys_strings=texts, default_int64=0,
                      values_int64s=list(range(1, len(texts) + 1)))  # fmt: skip


def _embedding(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    return graph.node("Gather", [graph.constant(layer.get_weights()[0]), inputs[0]])


def _take(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    return graph.node("Gather", [inputs[0], graph.constant(np.asarray(inputs[1], dtype=np.int64))], axis=1)


def _reshape(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    return graph.node("Reshape", [inputs[0], graph.constant(np.array([-1, *layer.target_shape]))])


def _finite(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    either = graph.node("Or", [graph.node("IsNaN", inputs), graph.node("IsInf", inputs)])
    return graph.node("Not", [either])


def _cast(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    return graph.node("Cast", inputs[:1], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(layer.dtype)))


def _sum(graph: _Graph, layer: Any, inputs: list[Any], _: dict[str, Any]) -> str:
    return graph.node("ReduceSum", [inputs[0], graph.constant(np.ravel(layer.axis))], keepdims=1)


def _operation(kind: str, **attributes: Any) -> _Make:
    return lambda graph, _layer, inputs, _: graph.node(kind, inputs, **attributes)


_LAYERS: dict[str, _Make] = {
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "Activation": lambda graph, layer, inputs, _: graph.activate(layer.activation, inputs[0]),
    "Dropout": lambda _graph, _layer, inputs, _: str(inputs[0]),
    "Rescaling": _rescaling,
    "StringLookup": _lookup,
    "Embedding": _embedding,
    "Reshape": _reshape,
    "Take": _take,
    "Isfinite": _finite,
    "Cast": _cast,
    "Sum": _sum,
    "Isnan": _operation("IsNaN"),
    "Concatenate": _operation("Concat", axis=1),
    **{name: _operation(kind) for name, kind in {
        "Add": "Sum", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "Maximum": "Max",
        "Minimum": "Min", "Where": "Where", "Equal": "Equal", "LogicalOr": "Or", "Log": "Log",
    }.items()},
}  # fmt: skip
"""What dnnflow's models consist of, and what that is in ONNX."""
