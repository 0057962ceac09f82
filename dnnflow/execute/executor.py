"""Define what an executor is: the seam between a study and where its trials run."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from dnnflow.engines.records import Outcome, Portion
from dnnflow.engines.seam import StudyContext
from dnnflow.events import Listener, ignore
from dnnflow.execute.control import Control

if TYPE_CHECKING:
    from distributed import Client


def never() -> float:
    """Keep no weights."""
    return float("inf")


class Executor(Protocol):
    """Trains portions of designs somewhere."""

    @property
    def slots(self) -> int:
        """How many portions train at the same time, as far as is known now."""
        ...

    @property
    def dashboard(self) -> str | None:
        """URL of a page that shows the workers, where there is one."""
        ...

    @property
    def client(self) -> "Client | None":
        """The Dask client, where there is one."""
        ...

    def train(self, portions: Sequence[Portion], study: StudyContext, *,
              keep_above: Callable[[], float] = never, control: Control | None = None,
              listener: Listener = ignore) -> Generator[list[Outcome], None, None]:  # fmt: skip
        """Yield the outcome of every design exactly once, in lists, as they finish.

        An engine gets the designs of a portion together. Only when workers die with a portion is it cut.

        Closing the generator (`contextlib.closing`), or an exception in it, stops what is in flight.

        Parameters
        ----------
        portions
            What to train, in this order; a design in several portions is trained with the first.
        study
            Dataset, training settings and device.
        keep_above
            Asked for each task that is made: the accuracy from which on weights come along.
        control
            Says when nothing more is to be handed out and when what is in flight is to be stopped; the
            generator then ends, without an outcome of every design.
        listener
            Told of lost and recycled workers.

        Raises
        ------
        ClusterError
            When there is no worker, or none of the wanted device.
        DnnflowError
            When no worker can do the job, for the reason the last of them gave.
        """
        ...


def with_queue_s(outcome: Outcome, submitted_at: float) -> Outcome:
    """Date a trial's start from its submission, as far as the clocks of two machines allow."""
    if not outcome.trial.started_at:
        return outcome
    started_at = datetime.fromisoformat(outcome.trial.started_at).timestamp()
    queue_s = max(0.0, started_at - submitted_at)
    return replace(outcome, trial=replace(outcome.trial, queue_s=queue_s))
