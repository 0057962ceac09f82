"""Define what an engine is, what it is given of a study, and what it gives back."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.losses import Loss, loss_of
from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import metric_of
from dnnflow.engines.records import TrainingSettings, Trial, TrialError, TrialState
from dnnflow.errors import DesignError, InputError
from dnnflow.table.columns.split import Part

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset


def ignore_compiling(is_compiling: bool) -> None:
    """Take no notice of compilation."""


@dataclass(frozen=True)
class TrainingContext:
    """What an engine is given besides designs."""

    dataset: "Dataset"
    settings: TrainingSettings
    device: Literal["cpu", "gpu"] = "cpu"
    memory_bytes: int | None = None
    """What this process may use in all; None where no limit is known."""
    worker: str = ""
    """Who trains, for the trial's record."""
    activations: tuple[str, ...] = ()
    """All that occur in the study, where that is known."""
    plan: object = None
    """What was planned of the designs before (`Portion.plan`); who does not know it plans anew."""
    part: Part | None = None
    """Rows to hold back instead of those that the settings say; designs are then measured on these."""
    compiling: Callable[[bool], None] = ignore_compiling
    """Told when an engine begins to make machine code or a graph, and when it has it."""

    @property
    def metric(self) -> Metric:
        """What designs are compared by."""
        return metric_of(self.settings.metric, self.dataset.task, self.dataset.n_outputs)

    @property
    def loss(self) -> Loss:
        """What training makes small."""
        return loss_of(self.settings.loss, self.settings.quantile, self.dataset.task)

    @property
    def is_weighted(self) -> bool:
        """Whether the losses of some rows count more than those of others."""
        return self.settings.class_weight is not None or self.dataset.weights is not None

    @property
    def holds_rows(self) -> bool:
        """Whether training rows are held back."""
        return self.part.holds_rows if self.part else self.settings.held_share > 0


@dataclass(frozen=True)
class Fitted:
    """A finished training, still on the worker."""

    trial: Trial
    weights: Callable[[], tuple[np.ndarray, ...]] | None = None
    """Gives the trained weights in the order of the Keras model; None for a failed trial."""
    predicted: np.ndarray | None = None
    """What the design predicts for each row that it is measured on, in the dataset's order (`kept_of`); None
    for a failed trial, and where rows are read in shuffled blocks."""


class Engine(Protocol):
    """Trains designs. An engine is cheap to make and imports its library when it first trains."""

    name: str

    def refuse(self, design: Design) -> str | None:
        """Say why this engine cannot train a design, or None if it can. Asked before a study starts.

        An engine that is derived from this class can train any, unless it says otherwise.
        """
        return None

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in any order; its weights are asked for before the next one.

        What goes wrong with a design is a failed trial; what goes wrong with all of them may be raised.
        """
        ...


def check_training(design: Design, *, holds_rows: bool) -> None:
    """Check that a design can be trained where rows are held back, or are not.

    Raises
    ------
    DesignError
        When the design watches validation rows and there are none.
    """
    if design.watches_validation and not holds_rows:
        what = "early stopping" if design.early_stopping else "a plateau schedule"
        raise DesignError(f"{what} needs validation rows, got none; set holdout to e.g. 0.1")


@dataclass(frozen=True)
class Spent:
    """A design's time, or its share of its stack's."""

    started_at: str
    """UTC, ISO 8601."""
    total_s: float = 0.0
    training_s: float = 0.0
    amortised: bool = False


def make_trial(design: Design, state: TrialState, context: TrainingContext, spent: Spent, *, engine: str,
               **found: Any) -> Trial:  # fmt: skip
    """Return the record of a design whose training ended so."""
    return Trial(
        design_id=design.design_id, state=state, engine=engine, worker=context.worker, device=context.device,
        started_at=spent.started_at, total_s=spent.total_s, **found,
    )  # fmt: skip


def failed_trial(
    design: Design, error: BaseException, context: TrainingContext, spent: Spent, *, engine: str
) -> Trial:
    """Return the record of a design that could not be trained."""
    return make_trial(
        design, TrialState.FAILED, context, spent, engine=engine, error=TrialError.from_exception(error)
    )


@dataclass(frozen=True)
class StudyContext:
    """Where the rows are and how to train on them. Carries no rows."""

    dataset: str
    """Path of the dataset's directory, valid on the worker."""
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where the process has one."""
    import_paths: tuple[str, ...] = ()
    """Folders in which modules of `module:name` (engines, designs by reference) are also looked for."""
    activations: tuple[str, ...] = ()
    """All that occur in the study: stacks of mixed activations can then share a trace."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device must be auto, cpu or gpu, got {self.device!r}")


def make_importable(folders: Iterable[str]) -> None:
    """Append folders to this process's module search path, each once: what is installed comes first."""
    sys.path.extend(folder for folder in dict.fromkeys(folders) if folder not in sys.path)
