"""Hold optimizers and learning rates of a parallel training, as plain data."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dnnflow.design.checks import optimizer_value
from dnnflow.design.layers import OPTIMIZERS as DESIGN_OPTIMIZERS
from dnnflow.errors import InputError
from dnnflow.parameters import CheckedParameters, require

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


class OptimizerSpec(CheckedParameters):
    """An optimizer of Keras, or one of the user's; `design.layers.Optimizer` has only those of designs."""

    name: str = "adam"
    """One of `ELEMENTWISE` and `WHOLE_TENSOR`, or `module:Class` for a Keras optimizer made by code."""
    learning_rate: float = Field(default=0.001, gt=0.0, allow_inf_nan=False)
    """Step size of the first sample."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """What else the optimizer takes; Keras' defaults where absent. `exclude_from_weight_decay` is a list of
    parts of variables' names."""

    def __init__(self, /, *values: Any, **given: Any) -> None:
        super().__init__(*values, **given)

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = sorted(ELEMENTWISE | set(WHOLE_TENSOR))
        rule = f"an optimizer must be one of {', '.join(known)}, or module:Class"
        require(name in known or ":" in name, rule, name)
        return name

    @field_validator("parameters")
    @classmethod
    def _are_plain(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        optimizer = info.data.get("name", ":")
        return {name: _parameter(optimizer, name, value) for name, value in parameters.items()}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `adam`, `adam:0.01`, `module:Class` or `module:Class:0.01`.

        Raises
        ------
        InputError
            For an optimizer that there is not, or a rate that is none.
        """
        name, colon, rate = text.rpartition(":")
        try:
            learning_rate = float(rate)
        except ValueError:  # what follows the colon is no number
            return cls(text)
        return cls(name, learning_rate) if colon else cls(text)

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


def require_constraints_kept(server: OptimizerSpec | None, *, shards: int, groups: int = 1) -> None:
    """Refuse constraints of weights where no server applies them to whole tensors.

    Parameters
    ----------
    server
        What the server steps with; None where it averages or adds.

    Raises
    ------
    InputError
        For an algorithm without a server's optimizer, several shards, or groups.
    """
    if server is None or shards > 1 or groups > 1:
        given = "an algorithm whose server has no optimizer" if server is None else f"{shards} servers"
        raise InputError(
            "constraints of weights are kept by one server with an optimizer, got "
            f"{f'{groups} groups' if groups > 1 else given}; use downpour or diloco, servers=1 and groups=1, "
            "or leave constraints out"
        )


def _parameter(optimizer: str, name: str, value: Any) -> Plain:
    """Return a parameter as the JSON type it is, or refuse it; what only Keras knows is left to Keras."""
    scale = "losses are not scaled: leave loss_scale_factor out, and use mixed_bfloat16 or float32"
    require(name != "loss_scale_factor" or value is None, scale, value)
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


class RateSchedule(CheckedParameters):
    """How the learning rate falls with the samples seen by all replicas together."""

    kind: str = "constant"
    """One of `SCHEDULES`."""
    every: int | None = None
    """Samples between two steps, to one factor of `rate`, or of the half cosine; ≥ 1."""
    rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """Factor of `exponential` and `step`."""
    floor: float = Field(default=0.0, ge=0.0, le=1.0)
    """Where `cosine` ends, as a share of the first rate."""

    def __init__(self, /, *values: Any, **given: Any) -> None:
        super().__init__(*values, **given)

    @model_validator(mode="after")
    def _has_samples(self) -> Self:
        require(self.kind in SCHEDULES, f"a schedule must be one of {', '.join(SCHEDULES)}", self.kind)
        rule = f"every must be a number of samples >= 1 ({self.kind}: {_RULES_OF_SAMPLES[self.kind]})"
        require(self.kind == "constant" if self.every is None else self.every >= 1, rule, self.every)
        return self

    def __str__(self) -> str:
        return self.kind if self.every is None else f"{self.kind} every {self.every:,} samples"
