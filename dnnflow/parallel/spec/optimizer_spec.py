"""Optimizers and learning rates of a parallel training, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dnnflow.design.checks import optimizer_value, whole
from dnnflow.design.layers import OPTIMIZERS as DESIGN_OPTIMIZERS
from dnnflow.errors import InputError

ELEMENTWISE = frozenset(
    {"sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "adamax", "adadelta", "lion", "ftrl"}
)
"""Keras optimizers that change each weight by its own gradient alone, so that any slice can be kept apart."""

WHOLE_TENSOR: Mapping[str, str] = {
    "lamb": "its rate follows the norm of each layer's weights",
    "adafactor": "it keeps sums over the rows and columns of each layer's weights",
    "muon": "it orthogonalises the matrix of each layer's weights",
}
"""Keras optimizers that look at whole tensors, and why a slice of the vector is not enough for them."""

_WHOLE_PARAMETERS: Mapping[str, str] = {
    "clipnorm": "it clips by the norm of each layer's gradient",
    "global_clipnorm": "it clips by the norm of the whole gradient",
    "exclude_from_weight_decay": "it knows what not to decay by the names of layers",
}
_COMMON = frozenset(
    {
        "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum",
        "ema_overwrite_frequency", "gradient_accumulation_steps", "exclude_from_weight_decay",
    }
)  # fmt: skip
"""What every optimizer of Keras takes."""

_RULES_OF_SAMPLES: Mapping[str, str] = {
    "constant": "lr",
    "exponential": "lr · rate^(samples / every)",
    "step": "lr · rate^⌊samples / every⌋",
    "cosine": "from lr to floor · lr along half a cosine of `every` samples",
}
SCHEDULES = tuple(_RULES_OF_SAMPLES)
"""Learning-rate schedules; their argument is samples, never pushes."""

Plain = bool | int | float | str | list[str] | None


def require(condition: bool, rule: str, got: object) -> None:
    """Raise `InputError` with the rule and what was got, unless the condition holds."""
    if not condition:
        raise InputError(f"{rule}, got {got!r}")


def is_number(value: object) -> bool:
    """Say whether a value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping's entries, which must all be fields."""
    require(isinstance(data, Mapping), f"{kind.__name__} must be written {{field: value}}", data)
    known = [item.name for item in fields(kind)]
    unknown = sorted(set(data) - set(known))
    require(not unknown, f"{kind.__name__} takes {', '.join(known)}", ", ".join(unknown))
    return dict(data)


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer of Keras, or one of the user's; `design.layers.Optimizer` has only those of designs."""

    name: str = "adam"
    """One of `ELEMENTWISE` and `WHOLE_TENSOR`, or `module:Class` for a Keras optimizer made by code."""
    learning_rate: float = 0.001
    """Step size of the first sample, > 0."""
    parameters: Mapping[str, Plain] = field(default_factory=dict)
    """What else the optimizer takes; Keras' defaults where absent. `exclude_from_weight_decay` is a list of
    parts of variables' names."""

    def __post_init__(self) -> None:
        known = sorted(ELEMENTWISE | set(WHOLE_TENSOR))
        rule = f"an optimizer must be one of {', '.join(known)}, or module:Class"
        require(isinstance(self.name, str) and (self.name in known or ":" in self.name), rule, self.name)
        require(is_number(self.learning_rate), "learning_rate must be a number", self.learning_rate)
        positive = 0.0 < self.learning_rate < float("inf")
        require(positive, "learning_rate must be > 0", self.learning_rate)
        object.__setattr__(self, "learning_rate", float(self.learning_rate))
        values = {name: _parameter(self.name, name, value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", values)

    @property
    def whole_reason(self) -> str | None:
        """Why the rule needs whole tensors, in words; None for one that goes entry by entry."""
        if ":" in self.name:
            return "nothing is known of the rule of an optimizer made by code"
        given = [why for name, why in _WHOLE_PARAMETERS.items() if self.parameters.get(name) is not None]
        return WHOLE_TENSOR.get(self.name) or next(iter(given), None)

    def require_elementwise(self, shards: int) -> None:
        """Refuse an optimizer that cannot be kept in shards.

        Raises
        ------
        InputError
            For more than one shard and a rule that looks at whole tensors.
        """
        if shards > 1 and self.whole_reason:
            given = ", ".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items())])
            raise InputError(
                f"an optimizer on several servers must go weight by weight, got {given} on {shards} servers: "
                f"{self.whole_reason}; use one server, or one of {', '.join(sorted(ELEMENTWISE))}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "OptimizerSpec":
        """Build from what `to_dict` gave."""
        return cls(**read_fields(cls, data))


def _parameter(optimizer: str, name: str, value: Any) -> Plain:
    """Return a parameter as the JSON type it is, or refuse it; what only Keras knows is left to Keras."""
    own = DESIGN_OPTIMIZERS.get(optimizer)
    if own is not None:
        known = own | _COMMON
        require(name in known, f"optimizer {optimizer} takes {', '.join(sorted(known))}", name)
        if name in own and value is not None:
            return optimizer_value(name, value)
    if isinstance(value, list | tuple):
        require(all(isinstance(v, str) for v in value), f"parameter {name} must be a list of texts", value)
        return list(value)
    allowed = value is None or isinstance(value, bool | int | float | str)
    require(allowed, f"parameter {name} must be a number, text, true, false or a list of texts", value)
    plain: Plain = value
    return plain


@dataclass(frozen=True)
class RateSchedule:
    """How the learning rate falls with the samples seen by all replicas together."""

    kind: str = "constant"
    """One of `SCHEDULES`."""
    every: int | None = None
    """Samples between two steps, to one factor of `rate`, or of the half cosine; ≥ 1."""
    rate: float = 0.5
    """Factor of `exponential` and `step`, in (0, 1]."""
    floor: float = 0.0
    """Where `cosine` ends, as a share of the first rate, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.kind in SCHEDULES, f"a schedule must be one of {', '.join(SCHEDULES)}", self.kind)
        rule = f"every must be a number of samples >= 1 ({self.kind}: {_RULES_OF_SAMPLES[self.kind]})"
        given = whole(self.every) and (self.every or 0) >= 1
        require(given or (self.every is None and self.kind == "constant"), rule, self.every)
        require(is_number(self.rate) and 0 < self.rate <= 1, "rate must be in (0, 1]", self.rate)
        require(is_number(self.floor) and 0 <= self.floor <= 1, "floor must be in [0, 1]", self.floor)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RateSchedule":
        """Build from JSON types."""
        return cls(**read_fields(cls, data))
