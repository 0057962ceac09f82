"""Engines that behave as a test wants; workers import them by the name `executor_engines:Class`.

What a design does is said by its seed. Each training leaves a line `seed pid` in a file beside the dataset,
so that tests see what ran, and how often; each call of an engine that ends leaves a line with all its seeds.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial, TrialState
from dnnflow.engines.seam import Engine, Fitted, TrainingContext
from dnnflow.errors import DamagedError
from dnnflow.events import utc_now


def log_of(context: TrainingContext) -> Path:
    """Return the file that trainings are written to: beside the dataset, which every worker knows."""
    return Path(context.dataset.path).parent / "trained.log"


class Instant(Engine):
    """Takes no time."""

    name = "instant"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        for design in designs:
            yield self.fit(design, context)
        with log_of(context).with_name("calls.log").open("a") as log:
            log.write(f"{[design.seed for design in designs]}\n")

    def fit(self, design: Design, context: TrainingContext) -> Fitted:
        started_at = utc_now()
        self.work(design)
        with log_of(context).open("a") as log:
            log.write(f"{design.seed} {os.getpid()}\n")
        trial = Trial(
            design_id=design.design_id, state=TrialState.COMPLETED, engine=self.name, worker=context.worker,
            device=context.device, started_at=started_at, score=0.5,
        )  # fmt: skip
        return Fitted(trial, weights=lambda: ())

    def work(self, design: Design) -> None:
        """Do nothing."""


class Unreadable(Instant):
    """Cannot read its rows in the process that asks first."""

    name = "unreadable"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        time.sleep(0.05)
        first = log_of(context).with_name("unreadable")
        with suppress(FileExistsError), first.open("x") as file:
            file.write(str(os.getpid()))
        if first.read_text() == str(os.getpid()):
            raise DamagedError("a dataset's chunks must be as they were written")
        yield from super().train(designs, context)


class Short(Instant):
    """Takes 20 ms a design."""

    name = "short"

    def work(self, design: Design) -> None:
        time.sleep(0.02)


class Endless(Instant):
    """Takes for ever from design 4 on, in small steps."""

    name = "endless"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        for design in designs:
            while design.seed >= 4:
                with log_of(context).open("a") as log:
                    log.write("tick 0\n")
                time.sleep(0.02)
            yield self.fit(design, context)


class Gated(Instant):
    """Trains the first designs in 0.1 s each, and waits with the others: a study lasts until it is let go.

    How many those are, the file `go` beside the dataset says; without it, six.
    """

    name = "gated"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        gate = log_of(context).with_name("go")
        for design in designs:
            while design.seed >= (int(gate.read_text()) if gate.exists() else 6):
                time.sleep(0.02)
            time.sleep(0.1)
            yield self.fit(design, context)


class LastEndless(Instant):
    """Design 19 takes for ever, the others no time."""

    name = "last-endless"

    def work(self, design: Design) -> None:
        while design.seed == 19:
            time.sleep(0.02)


class Crashing(Short):
    """Design 13 takes its process along."""

    name = "crashing"

    def work(self, design: Design) -> None:
        super().work(design)
        if design.seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)


class CrashingStack(Instant):
    """Trains all designs at once; design 13 takes its process along, and with it what was trained."""

    name = "crashing-stack"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        if any(design.seed == 13 for design in designs):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().train(designs, context)


class Raising(Instant):
    """Has a bug that design 13 shows."""

    name = "raising"

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        for design in designs:
            if design.seed == 13:
                raise ValueError("13")
            yield self.fit(design, context)


class Growing(Instant):
    """Keeps 20 MB a design for ever."""

    name = "growing"
    kept: list[bytearray] = []  # noqa: RUF012  (it is meant to be shared: that is the leak)

    def work(self, design: Design) -> None:
        self.kept.append(bytearray(os.urandom(1)) * 20_000_000)
        time.sleep(0.3)
