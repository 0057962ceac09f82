"""The seam between a study and where its trials run."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from dnnflow.design.layers import Design
from dnnflow.events import Listener, ignore
from dnnflow.training.job import Job
from dnnflow.training.records import Outcome


def never() -> float:
    """Keep no weights."""
    return float("inf")


class Executor(Protocol):
    """Trains designs somewhere."""

    @property
    def slots(self) -> int:
        """How many designs train at the same time, as far as is known now."""
        ...

    @property
    def dashboard(self) -> str | None:
        """URL of a page that shows the workers, where there is one."""
        ...

    def train(self, designs: Sequence[Design], job: Job, *, keep_above: Callable[[], float] = never,
              listener: Listener = ignore) -> Generator[list[Outcome], None, None]:  # fmt: skip
        """Yield the outcome of every design exactly once, in lists, as they finish.

        Closing the generator (`contextlib.closing`), or an exception in it, stops what is in flight.

        Parameters
        ----------
        designs
            What to train; designs with equal ids are trained once.
        job
            Dataset, training settings and device.
        keep_above
            Asked for each task that is made: the test accuracy from which on weights come along.
        listener
            Told of lost and recycled workers.

        Raises
        ------
        ClusterError
            When there is no worker, or none of the wanted device.
        """
        ...
