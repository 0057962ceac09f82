"""The seam between a study and whatever trains its designs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.records import TrainingSettings, Trial, TrialError, TrialState
from dnnflow.errors import DesignError

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset


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


@dataclass(frozen=True)
class Fitted:
    """A finished training, still on the worker."""

    trial: Trial
    weights: Callable[[], tuple[np.ndarray, ...]] | None = None
    """Gives the trained weights in the order of the Keras model; None for a failed trial."""


class Engine(Protocol):
    """Trains designs. An engine is cheap to make and imports its library when it first trains."""

    name: str

    def refuse(self, design: Design) -> str | None:
        """Say why this engine cannot train a design, or None if it can. Asked before a study starts."""
        ...

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, in any order; its weights are asked for before the next one.

        What goes wrong with a design is a failed trial; what goes wrong with all of them may be raised.
        """
        ...


def check_training(design: Design, settings: TrainingSettings) -> None:
    """Check that a design can be trained with a study's settings.

    Raises
    ------
    DesignError
        When the design watches a validation part and there is none.
    """
    if design.watches_validation and settings.validation_fraction == 0:
        what = "early stopping" if design.early_stopping else "a plateau schedule"
        raise DesignError(f"{what} needs a validation part, got validation_fraction=0; set it to e.g. 0.1")


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def failed_trial(design: Design, error: BaseException, context: TrainingContext, *, engine: str,
                 started_at: str, total_s: float) -> Trial:  # fmt: skip
    """Return the record of a design that could not be trained."""
    return Trial(
        design_id=design.design_id,
        state=TrialState.FAILED,
        engine=engine,
        worker=context.worker,
        device=context.device,
        started_at=started_at,
        total_s=total_s,
        error=TrialError.from_exception(error),
    )
