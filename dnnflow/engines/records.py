"""Record what a training leaves behind: a trial, and what belongs to it."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dnnflow.errors import InputError
from dnnflow.parameters import CheckedParameters, Parameters

if TYPE_CHECKING:
    import numpy as np

    from dnnflow.design.layers import Design


class TrialState(StrEnum):
    """How a trial ended. Designs without a trial are waiting or running."""

    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    """Its worker died each time it was run."""


class TrainingOptions(Parameters):
    """How a study trains, besides what each design says."""

    engine: str = "auto"
    """auto (the fastest that can train a design), compiled, stacked, keras, sklearn, or one of a package."""
    validation_fraction: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training rows held back for early stopping and plateau schedules."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Seconds of training after which a design fails."""
    measured_alone: bool = False
    """Train every design by itself, so that its training time is its own and no share of a stack's."""
    stack_mb: float = Field(default=8.0, gt=0.0)
    """Memory in MiB of a stack's weights, gradients and moments: 8 stay in a processor's cache; where all
    workers have GPUs, take a tenth of their memory."""


class TrainingSettings(TrainingOptions, CheckedParameters):
    """How a study trains: part of what makes two studies the same."""


@dataclass(frozen=True, slots=True)
class TrialError:
    """Why a trial failed."""

    type: str
    """Name of the exception's class."""
    message: str
    traceback: str

    @classmethod
    def from_exception(cls, error: BaseException) -> "TrialError":
        """Keep what a person needs of an exception, as text."""
        lines = traceback.format_exception(error)
        return cls(type(error).__name__, str(error) or type(error).__name__, "".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One design's training in a study."""

    design_id: str
    state: TrialState
    engine: str
    """Name of the engine that trained it."""
    worker: str = ""
    """Address of the Dask worker, or host and process id."""
    device: Literal["cpu", "gpu"] = "cpu"
    started_at: str = ""
    """UTC, ISO 8601."""
    queue_s: float = 0.0
    """From submission to start."""
    training_s: float = 0.0
    """Spent fitting; building and evaluating left out."""
    total_s: float = 0.0
    """From start to end on the worker: build, fit, evaluate."""
    amortised: bool = False
    """Whether `training_s` is a share of the time of a stack of designs."""
    parameters: int | None = None
    """Weights of the network."""
    flops: int | None = None
    """Floating-point operations of one row's forward pass."""
    epochs_run: int = 0
    test_accuracy: float | None = None
    """argmax of the prediction against argmax of the label, 0 to 1."""
    test_loss: float | None = None
    train_accuracy: float | None = None
    """Running mean over the epoch whose weights were kept (the last; with early stopping the best)."""
    train_loss: float | None = None
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per epoch: `loss`, `accuracy`, and `val_loss`, `val_accuracy` where there is a validation part."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts on the test rows, [true class][predicted class]."""
    error: TrialError | None = None

    def __post_init__(self) -> None:
        if (self.state is TrialState.COMPLETED) != (self.error is None):
            raise InputError(
                f"a trial has an error exactly when it is not completed, got {self.state}, {self.error}"
            )
        if self.state is TrialState.COMPLETED and self.test_accuracy is None:
            raise InputError("a completed trial has a test accuracy, got None")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trial on its way from a worker to the driver."""

    trial: Trial
    weights: "tuple[np.ndarray, ...] | None" = None
    """The trained weights in the order of the Keras model, for trials good enough to be kept."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Designs that one call of an engine trains together: a stack, or a single design."""

    designs: "tuple[Design, ...]"
    cost: float = 1.0
    """Expected time relative to other portions; in seconds where a planner has estimated it."""
    plan: object = None
    """What an engine has planned of these designs, e.g. a `Stack`: the engine is given it on the worker."""

    def __post_init__(self) -> None:
        if not self.designs:
            raise InputError("a portion must hold at least one design, got none; leave it out")
        if not 0 < self.cost < float("inf"):
            raise InputError(f"the cost of a portion must be > 0 and finite, got {self.cost}")


@dataclass(frozen=True, slots=True)
class Pack:
    """What one task trains: portions, one after the other."""

    portions: tuple[Portion, ...]
    keep_above: float = float("inf")
    """Test accuracy from which on a trial's weights are sent along."""
