"""Describe a design, one network to try, as plain data with a content id and counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from dnnflow.design.checks import number, optimizer_value, require, schedule_value, whole
from dnnflow.errors import DesignError
from dnnflow.paths import content_id

ACTIVATIONS = (
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "softsign",
    "linear", "exponential", "hard_sigmoid", "hard_tanh", "hard_silu", "mish", "relu6", "log_sigmoid",
)  # fmt: skip
"""Elementwise Keras activations that a layer may have."""

INITIALIZERS = (
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "orthogonal", "random_normal", "random_uniform", "truncated_normal", "zeros",
)  # fmt: skip
"""Kernel initializers, with the formulas and defaults of Keras."""

OPTIMIZERS: Mapping[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "nesterov"}),
    "adam": frozenset({"beta_1", "beta_2", "epsilon", "amsgrad"}),
    "adamw": frozenset({"beta_1", "beta_2", "epsilon", "amsgrad", "weight_decay"}),
    "nadam": frozenset({"beta_1", "beta_2", "epsilon"}),
    "adamax": frozenset({"beta_1", "beta_2", "epsilon"}),
    "rmsprop": frozenset({"rho", "momentum", "epsilon", "centered"}),
    "adagrad": frozenset({"initial_accumulator_value", "epsilon"}),
    "adadelta": frozenset({"rho", "epsilon"}),
    "lion": frozenset({"beta_1", "beta_2"}),
}
"""Keras optimizers and the parameters each takes beside its learning rate."""

SCHEDULES: Mapping[str, frozenset[str]] = {
    "constant": frozenset(),
    "exponential": frozenset({"rate"}),
    "step": frozenset({"rate", "every"}),
    "cosine": frozenset({"floor"}),
    "plateau": frozenset({"rate", "patience", "min_delta", "floor"}),
}
"""Learning-rate schedules, stepped once an epoch, and their parameters."""

SCHEDULE_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "constant": {},
    "exponential": {"rate": 0.95},
    "step": {"rate": 0.5, "every": 10},
    "cosine": {"floor": 0.0},
    "plateau": {"rate": 0.1, "patience": 10, "min_delta": 1e-4, "floor": 0.0},
}
"""What a schedule's parameters are where a design does not say (plateau: those of Keras)."""

MAX_UNITS = 10**12
MAX_LAYERS = 100_000
Scalar = bool | int | float | str

_ACTIVATION_RULE = f"activation must be one of {', '.join(ACTIVATIONS)}"
_INITIALIZER_RULE = f"initializer must be one of {', '.join(INITIALIZERS)}"
_OPTIMIZER_RULE = f"optimizer must be one of {', '.join(OPTIMIZERS)}"
_SCHEDULE_RULE = f"schedule must be one of {', '.join(SCHEDULES)}"


def _json(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _as_float(record: Any, *names: str) -> None:
    for name in names:
        object.__setattr__(record, name, number(name, getattr(record, name)))


def _build(kind: type, data: Mapping[str, Any], what: str) -> Any:
    if not isinstance(data, Mapping):
        raise DesignError(f"{what} must be written {{field: value}}, got {data!r}")
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise DesignError(f"{what} takes {', '.join(sorted(known))}, got {', '.join(unknown)}")
    try:
        return kind(**data)
    except TypeError as error:
        raise DesignError(f"{what} cannot be read: {error}") from error


def _check_parameters(what: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    if not given:
        return
    unknown = sorted(set(given) - known)
    require(not unknown, f"{what} takes {', '.join(sorted(known)) or 'no parameter'}", ", ".join(unknown))


class DesignPart:
    """A part of a design, or a design, as plain data."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not at their default, as JSON types."""
        out: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            default = item.default_factory() if callable(item.default_factory) else item.default
            if value != default:
                out[item.name] = _json(value)
        return out


@dataclass(frozen=True)
class Layer(DesignPart):
    """One hidden layer: dense → batch normalisation → activation → dropout."""

    units: int
    """Width of the layer, ≥ 1."""
    activation: str = "relu"
    """One of `ACTIVATIONS`."""
    dropout: float = 0.0
    """Share of outputs zeroed in training, in [0, 1)."""
    batch_norm: bool = False
    """Batch normalisation (Keras defaults) between the product and the activation."""
    initializer: str = "glorot_uniform"
    """Kernel initializer, one of `INITIALIZERS`; biases start at zero."""
    l2: float = 0.0
    """L2 penalty on the kernel, added to the loss as l2 · Σ w²."""

    def __post_init__(self) -> None:
        _as_float(self, "dropout", "l2")
        possible = whole(self.units) and 1 <= self.units <= MAX_UNITS
        require(possible, f"units must be a whole number in [1, {MAX_UNITS:,}]", self.units)
        require(self.activation in ACTIVATIONS, _ACTIVATION_RULE, self.activation)
        require(0.0 <= self.dropout < 1.0, "dropout must be in [0, 1)", self.dropout)
        require(isinstance(self.batch_norm, bool), "batch_norm must be true or false", self.batch_norm)
        require(self.initializer in INITIALIZERS, _INITIALIZER_RULE, self.initializer)
        require(0.0 <= self.l2 < float("inf"), "l2 must be >= 0", self.l2)


@dataclass(frozen=True)
class Optimizer(DesignPart):
    """A Keras optimizer and its parameters."""

    name: str = "adam"
    """One of `OPTIMIZERS`."""
    learning_rate: float = 0.001
    """Step size, > 0; with a schedule, the step size of the first epoch."""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    """What else the optimizer takes (`OPTIMIZERS[name]`); Keras' defaults where absent."""

    def __post_init__(self) -> None:
        _as_float(self, "learning_rate")
        require(self.name in OPTIMIZERS, _OPTIMIZER_RULE, self.name)
        require(0.0 < self.learning_rate < float("inf"), "learning_rate must be > 0", self.learning_rate)
        _check_parameters(f"optimizer {self.name}", self.parameters, OPTIMIZERS[self.name])
        values = {name: optimizer_value(name, value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", values)


@dataclass(frozen=True)
class Schedule(DesignPart):
    """How the learning rate changes from epoch to epoch (e counts from 0 of n epochs).

    `exponential`: lr·rateᵉ; `step`: lr·rate^⌊e/every⌋; `cosine`: from lr to floor·lr along half a cosine;
    `plateau`: lr·rate after `patience` epochs in which the validation loss fell by less than `min_delta`,
    never below `floor`·lr. What is not given is taken from `SCHEDULE_DEFAULTS`.
    """

    kind: str = "constant"
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.kind in SCHEDULES, _SCHEDULE_RULE, self.kind)
        _check_parameters(f"schedule {self.kind}", self.parameters, SCHEDULES[self.kind])
        values = {name: schedule_value(self.kind, name, value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", values)


@dataclass(frozen=True)
class EarlyStopping(DesignPart):
    """Stop when the validation loss has not improved for a while; the best epoch's weights are kept."""

    patience: int = 5
    """Epochs without improvement before stopping, ≥ 1."""
    min_delta: float = 0.0
    """What counts as an improvement of the loss, ≥ 0."""

    def __post_init__(self) -> None:
        _as_float(self, "min_delta")
        require(whole(self.patience) and self.patience >= 1, "patience must be >= 1", self.patience)
        require(0.0 <= self.min_delta < float("inf"), "min_delta must be >= 0", self.min_delta)


@dataclass(frozen=True)
class Reference(DesignPart):
    """A design given by code: `module:function` that returns a Keras model."""

    function: str
    """`module:function`; called as `function(n_features=…, n_classes=…, **parameters)`, for labels and
    numbers with `n_outputs` instead of `n_classes`.

    It returns a compiled or uncompiled Keras model that maps (rows, n_features) to probabilities of classes
    (rows, n_classes) or of labels, or to standardised numbers (rows, n_outputs). An uncompiled one gets the
    design's optimizer and the study's loss; a compiled one keeps its own.
    """
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, colon, name = str(self.function).partition(":")
        valid = bool(colon) and all(part.isidentifier() for part in [*module.split("."), name])
        require(valid, "a design's function must be written module:function", self.function)
        for name, value in self.parameters.items():
            plain = isinstance(value, bool | int | float | str)
            require(plain, f"parameter {name} must be a number, text, true or false", value)


@dataclass(frozen=True)
class Design(DesignPart):
    """One network to try and how it is trained. Hidden layers are followed by a softmax over the classes."""

    layers: tuple[Layer, ...] = ()
    """Hidden layers from input to output; empty for a softmax regression."""
    residual: int = 0
    """0: none; k ≥ 1: the input of every group of k hidden layers is added to the group's output, where
    the two have the same width (identity connections only)."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    batch_size: int = 32
    """Rows a step; the last batch of an epoch may be smaller."""
    epochs: int = 10
    early_stopping: EarlyStopping | None = None
    seed: int = 0
    """Seeds initial weights and dropout, in [0, 2⁶³)."""
    reference: Reference | None = None
    """Given instead of `layers` for a design made by code."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        count = len(self.layers)
        require(count <= MAX_LAYERS, f"a design has at most {MAX_LAYERS:,} layers", count)
        require(whole(self.residual) and self.residual >= 0, "residual must be >= 0", self.residual)
        require(whole(self.batch_size) and self.batch_size >= 1, "batch_size must be >= 1", self.batch_size)
        require(whole(self.epochs) and self.epochs >= 1, "epochs must be >= 1", self.epochs)
        require(whole(self.seed) and 0 <= self.seed < 2**63, "seed must be in [0, 2^63)", self.seed)
        if self.reference is not None and (self.layers or self.residual):
            raise DesignError("a design has either layers or a reference, got both; drop one")

    @cached_property
    def design_id(self) -> str:
        """sha256 of the canonical JSON, 64 hexadecimal digits."""
        return content_id(self.to_dict())

    @cached_property
    def unseeded_id(self) -> str:
        """sha256 of the design without its seed: what trainings of one design with several seeds share."""
        plain = self.to_dict()
        plain.pop("seed", None)
        return content_id(plain)

    @property
    def watches_validation(self) -> bool:
        """Whether training needs validation rows."""
        return self.early_stopping is not None or self.schedule.kind == "plateau"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Design":
        """Build a design from what `to_dict` gave.

        Raises
        ------
        DesignError
            For an unknown field or a value out of range.
        """
        plain = dict(data)
        layers = plain.get("layers", ())
        require(isinstance(layers, list | tuple), "layers must be a list", layers)
        plain["layers"] = tuple(_build(Layer, item, "a layer") for item in layers)
        for name, kind in _PARTS.items():
            if plain.get(name) is not None:
                plain[name] = _build(kind, plain[name], name)
        design: Design = _build(cls, plain, "a design")
        return design

    def describe(self) -> str:
        """Say the design in a few words, e.g. `3 x 64 relu, adam 0.003, batch 32`."""
        if self.reference is not None:
            given = ", ".join(f"{key}={value}" for key, value in self.reference.parameters.items())
            return f"{self.reference.function}({given})"
        step = f"{self.optimizer.name} {self.optimizer.learning_rate:.3g}"
        return f"{_describe_layers(self.layers)}, {step}, batch {self.batch_size}"


_PARTS: Mapping[str, type] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "early_stopping": EarlyStopping,
    "reference": Reference,
}


def _describe_layers(layers: tuple[Layer, ...]) -> str:
    if not layers:
        return "no hidden layer"
    units = sorted({layer.units for layer in layers})
    activations = list(dict.fromkeys(layer.activation for layer in layers))
    shape = f"{len(layers)} x {units[0]}" if len(units) == 1 else "-".join(str(x.units) for x in layers[:8])
    more = "…" if len(units) > 1 and len(layers) > 8 else ""
    return f"{shape}{more} {'/'.join(activations[:3])}{'…' if len(activations) > 3 else ''}"


def residual_sources(design: Design, n_features: int) -> dict[int, int]:
    """Return which hidden layers end a residual group: {last layer: first layer}, indices from 0.

    The input of the first layer is added to the output of the last; groups whose widths differ are absent.
    """
    step = design.residual
    if not step:
        return {}
    widths = [n_features, *(layer.units for layer in design.layers)]
    ends = range(step, len(widths), step)
    return {end - 1: end - step for end in ends if widths[end] == widths[end - step]}


def count_parameters(design: Design, n_features: int, n_outputs: int) -> int:
    """Return the number of weights, trainable or not (4 a unit for batch normalisation).

    Raises
    ------
    DesignError
        For a design by reference, whose parameters only the built model knows.
    """
    if design.reference is not None:
        raise DesignError("parameters of a design by reference are known once it is built, got one unbuilt")
    total, width = 0, n_features
    for layer in design.layers:
        total += (width + 1) * layer.units + (4 * layer.units if layer.batch_norm else 0)
        width = layer.units
    return total + (width + 1) * n_outputs


def count_flops(design: Design, n_features: int, n_outputs: int) -> int:
    """Return the floating-point operations of one row's forward pass.

    A product of (in) by (in, out) counts 2·in·out, a bias, an activation and a residual sum 1 a unit each,
    batch normalisation 2 a unit; what makes outputs of the last product, e.g. the softmax, 3 an output. A
    training step costs about three times as much.
    """
    total, width = 0, n_features
    ends = residual_sources(design, n_features)
    for index, layer in enumerate(design.layers):
        total += 2 * width * layer.units + layer.units * (2 + 2 * layer.batch_norm + (index in ends))
        width = layer.units
    return total + 2 * width * n_outputs + 4 * n_outputs


def activations_of(designs: Iterable[Design]) -> tuple[str, ...]:
    """Return the names of all activations in designs, sorted."""
    found = {layers: None for layers in (design.layers for design in designs)}
    return tuple(sorted({layer.activation for layers in found for layer in layers}))
