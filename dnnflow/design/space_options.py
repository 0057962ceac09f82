"""List the parameters of a space, as they are written in a pipeline."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from dnnflow.design.draws import Parameter, as_choice
from dnnflow.parameters import Parameters


class ScheduleSection(Parameters):
    """How the learning rate changes from epoch to epoch."""

    kind: Literal["constant", "exponential", "step", "cosine", "plateau"]
    """Its course."""
    parameters: dict[str, float] = Field(default={})
    """exponential: rate; step: rate, every; cosine: floor; plateau: rate, patience, min_delta, floor."""


class ScheduleChoice(Parameters):
    """One of several schedules."""

    choice: tuple[str | ScheduleSection, ...] = Field(min_length=1)
    """The schedules to choose from."""


class EarlyStoppingSection(Parameters):
    """Stop when the validation loss has not improved for a while."""

    patience: int = Field(default=5, ge=1)
    """Epochs without improvement."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """What counts as an improvement of the loss."""


class EarlyStoppingChoice(Parameters):
    """One of several rules to stop by; null for none."""

    choice: tuple[EarlyStoppingSection | None, ...] = Field(min_length=1)
    """The rules to choose from."""


def _choice_or_one(value: Any) -> str:
    """Say whether one thing is written or a choice of some."""
    is_choice = "choice" in value if isinstance(value, Mapping) else hasattr(value, "choice")
    if is_choice:
        return "choice"
    return "name" if isinstance(value, str) else "none" if value is None else "constant"


ScheduleParameter = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[ScheduleSection, Tag("constant")]
    | Annotated[ScheduleChoice, Tag("choice")],
    Discriminator(_choice_or_one),
    BeforeValidator(as_choice),
]
EarlyStoppingParameter = Annotated[
    Annotated[None, Tag("none")]
    | Annotated[EarlyStoppingSection, Tag("constant")]
    | Annotated[EarlyStoppingChoice, Tag("choice")],
    Discriminator(_choice_or_one),
    BeforeValidator(as_choice),
]


class ReferenceSection(Parameters):
    """Designs made by code instead of layers."""

    function: str
    """`module:function`, called with n_features, n_classes (n_outputs of labels and numbers) and the
    parameters; returns a Keras model."""
    parameters: dict[str, Parameter] = Field(default={})
    """What the function is called with."""


class SpaceOptions(Parameters):
    """The designs to draw from: each parameter a constant, a choice or a range.

    `[16, 32]` is one of two values, as `{choice: [16, 32]}` is; a range has a key: `{int: [16, 32]}`.
    """

    depth: Parameter = 2
    """Number of hidden layers."""
    units: Parameter = 64
    """Width of the hidden layers."""
    activation: Parameter = "relu"
    """Activation of the hidden layers."""
    dropout: Parameter = 0.0
    """Share of a layer's outputs zeroed in training."""
    batch_norm: Parameter = False
    """Batch normalisation before the activation."""
    initializer: Parameter = "glorot_uniform"
    """How weights start."""
    l2: Parameter = 0.0
    """L2 penalty on the kernels."""
    residual: Parameter = 0
    """k ≥ 1: identity connections around every k hidden layers of one width."""
    per_layer: tuple[str, ...] = ()
    """Parameters drawn anew for each layer (units, activation, dropout, …) instead of once for all layers."""
    optimizer: Parameter = "adam"
    """Name of the Keras optimizer."""
    learning_rate: Parameter = 0.001
    """Step size."""
    optimizer_parameters: dict[str, Parameter] = Field(default={})
    """What else the optimizer takes, e.g. momentum."""
    schedule: ScheduleParameter = "constant"
    """Learning-rate schedule: a name, {kind: …, parameters: {…}}, or a choice of those."""
    batch_size: Parameter = 32
    """Rows a step."""
    epochs: Parameter = 10
    """Passes over the training rows."""
    early_stopping: EarlyStoppingParameter = None
    """{patience: …, min_delta: …} of the validation loss, or a choice; watches the validation rows."""
    seed: Parameter = 0
    """Seed of initial weights and dropout. {int: [0, 4]} trains each design five times: these are repetitions
    of one design, whose value is their mean, and `designs` does not count them."""
    reference: ReferenceSection | None = None
    """Designs made by code; the parameters about layers are then unused."""
