"""Record what a training leaves behind: a trial, and what belongs to it."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dnnflow.engines.losses import LossName
from dnnflow.engines.metrics import MetricName
from dnnflow.errors import InputError
from dnnflow.parameters import CheckedParameters, Parameters

if TYPE_CHECKING:
    import numpy as np

    from dnnflow.design.layers import Design
    from dnnflow.table.columns.split import Part


DEFAULT_HOLDOUT = 0.2
"""Share of the training rows that designs are compared on."""


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
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Seconds of training after which a design fails."""
    measured_alone: bool = False
    """Train every design by itself, so that its training time is its own and no share of a stack's."""
    stack_mb: float = Field(default=8.0, gt=0.0)
    """Memory in MiB of a stack's weights, gradients and moments: 8 stay in a processor's cache; where all
    workers have GPUs, take a tenth of their memory."""
    loss: LossName = "auto"
    """What training makes small. auto: cross-entropy of classes, binary cross-entropy of labels, mean squared
    error of numbers; the others are for numbers. All are of standardised targets, so that huber turns from
    squares to distances at one standard deviation."""
    quantile: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Which quantile the loss `quantile` fits, 0.9 for what nine of ten rows stay below."""

    class_weight: (
        Literal["balanced"] | dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] | None
    ) = None
    """By how much the loss of a row counts, by its class: balanced, so that all classes weigh alike, or a
    weight for each that is named, 1 for the others. Losses of training and validation rows are weighted;
    scores are not."""

    @model_validator(mode="after")
    def _has_a_loss_for_its_quantile(self) -> Self:
        if self.loss != "quantile" and self.quantile != 0.5:
            raise InputError(
                f"quantile has no meaning with loss {self.loss}, got {self.quantile}; leave it out, or set "
                "loss: quantile"
            )
        if self.engine == "sklearn" and self.loss not in ("auto", "mean_squared_error"):
            raise InputError(
                f"engine sklearn has no loss but the squared error, got {self.loss}; take engine auto"
            )
        return self


class SelectionOptions(Parameters):
    """Which rows designs are compared on, and by what."""

    metric: MetricName | None = None
    """What designs are compared by; default: accuracy (of several labels the share that is right), RMSE of
    one number, R² of several. All other metrics of the task are told of what is handed out."""
    select_on: Literal["validation", "test"] = "validation"
    """validation: rows held back from training, so that the test rows say what the chosen design is worth;
    test: the test rows themselves, as in the paper of 2015, which makes the best look better than it is."""
    holdout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of the training rows held back as validation rows, which early stopping watches too; default:
    0.2, and none with select_on test."""

    @model_validator(mode="after")
    def _has_rows_to_select_on(self) -> Self:
        if self.select_on == "validation" and self.holdout == 0:
            raise InputError(
                "holdout must be > 0 to select designs on validation rows, got 0; leave it out, or set "
                "select_on: test"
            )
        return self

    @property
    def held_share(self) -> float:
        """Share of the training rows held back, 0 to 1."""
        if self.holdout is None:
            return DEFAULT_HOLDOUT if self.select_on == "validation" else 0.0
        return self.holdout


class FinalOptions(Parameters):
    """How the best of the screen are trained again, and what is made of them."""

    finalists: int = Field(default=20, ge=0, le=1000)
    """How many of the best designs are trained again with folds, at most: the order among them is by the mean
    of these trainings; 0 to hand out the first of the screen."""
    folds: int | None = Field(default=None, ge=2, le=100)
    """Folds of the training rows for finalists; default: 5 up to 5,000 training rows, above that the rows
    which the screen holds back, with three seeds."""
    repeats: int = Field(default=1, ge=1, le=100)
    """How often the folds are drawn anew, each time with another seed."""
    finalists_share: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Most share of the study's arithmetic that finalists, the refit, the ensemble and the last training on
    all rows may take; it makes finalists fewer, never fewer than three."""
    prefer: Literal["accurate", "small"] = "accurate"
    """Which finalist wins: accurate, the first; small, the smallest that cannot be told from the first."""
    ensemble: int = Field(default=8, ge=0, le=100)
    """Most finalists whose probabilities are averaged as one more model; 0 for none."""
    all_rows: bool = True
    """After the test, train what is handed out once more on all rows, the test rows too, as
    models/final.keras: for new rows. Nothing is left to measure it on; what the test said is of the same
    designs without these rows, as a rule a little less."""


class TrainingSettings(SelectionOptions, TrainingOptions, CheckedParameters):
    """How a study trains, and what it compares designs on: part of what makes two studies the same."""

    def identity(self) -> dict[str, Any]:
        """Return what makes two studies the same, as JSON types; of older studies, as it was written then."""
        implied = {"loss": "auto", "quantile": 0.5, "class_weight": None}
        options = {
            name: value for name, value in self.to_dict().items()
            if name in TrainingOptions.model_fields and (name not in implied or value != implied[name])
        }  # fmt: skip
        selected = {} if self.select_on == "test" else {"select_on": self.select_on}
        metric = {} if self.metric is None else {"metric": self.metric}
        return {**options, "validation_fraction": self.held_share, **selected, **metric}


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
    score: float | None = None
    """The study's metric on the rows that designs are compared on, greater is better; None where a training
    held nothing back."""
    loss: float | None = None
    train_score: float | None = None
    """Running mean over the epoch whose weights were kept (the last; with early stopping the best); None
    where the metric is not accuracy: no other is followed through the epochs."""
    train_loss: float | None = None
    validation_score: float | None = None
    validation_loss: float | None = None
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per epoch: `loss` and `accuracy`, or of numbers `r2` (`EPOCH_MEASURES`), and both with `val_` before
    them where there are validation rows."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts on the rows that the study selects on, [true class][predicted class]; empty but for
    classification."""
    error: TrialError | None = None

    def __post_init__(self) -> None:
        if (self.state is TrialState.COMPLETED) != (self.error is None):
            raise InputError(
                f"a trial has an error exactly when it is not completed, got {self.state}, {self.error}"
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trial on its way from a worker to the driver."""

    trial: Trial
    weights: "tuple[np.ndarray, ...] | None" = None
    """The trained weights in the order of the Keras model, for trials good enough to be kept."""
    predicted: "np.ndarray | None" = None
    """What is kept of the predictions for the rows that were measured (`Fitted.predicted`)."""


@dataclass(frozen=True, slots=True)
class Portion:
    """Designs that one call of an engine trains together: a stack, or a single design."""

    designs: "tuple[Design, ...]"
    cost: float = 1.0
    """Expected time relative to other portions; in seconds where a planner has estimated it."""
    plan: object = None
    """What an engine has planned of these designs, e.g. a `Stack`: the engine is given it on the worker."""
    part: "Part | None" = None
    """Rows to hold back instead of those that the study's settings say."""
    all_rows: bool = False
    """Whether test rows are training rows, too."""

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
    """Score from which on a trial's weights are sent along."""
