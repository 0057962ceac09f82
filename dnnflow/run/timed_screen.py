"""Train a study that has a time instead of a number of designs: in rounds, until no further one would fit.

Designs are drawn by their number from the study's seed. A study of n designs is the beginning of one of more
that is drawn so, and what came of a time is the study of that number of designs.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from dnnflow.design.layers import Design
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.records import FinalOptions, TrialState
from dnnflow.events import Listener, Notice, ignore
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run.final_stage import LEAST_FINALISTS, options_of, parts_of
from dnnflow.run.final_test import measure_baselines_first
from dnnflow.run.time_left import expected_times
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    import pandas as pd

    from dnnflow.execute.executor import Executor
    from dnnflow.run.study import Study

FIRST_DESIGNS = 4
"""Of the first round: what a design takes is not known before."""
GROWTH = 8
"""A study has at most this many times the designs of the round before: its pace may have been chance."""
ROUND_SHARE = 0.5
"""Of the designs that would fit: on a machine that becomes half as fast, they still do."""
LEAST_SHARE, MOST_SHARE = 0.02, 0.15
"""Of the time: a shorter round is not begun; a longer one would end late where the machine gets busy."""
LATE = 5
"""Times that: a study that will end later says so."""
MOST_DESIGNS = 100_000
SAMPLE = 256
"""Designs of a space whose arithmetic says what its mean one takes, and which the engine must be able to
train."""
END_S = 6.0
"""For what takes its time whatever the number of designs is: models are built, measured, drawn."""
ALL_ROWS = 1.25
"""How much longer a training takes with the test rows."""
COLUMNS = ("design_id", "state", "score", "parameters", "flops", "epochs_run", "training_s")


def first_designs(pipeline: Pipeline) -> list[Design]:
    """Return the designs of the first round of a study by time.

    Raises
    ------
    DesignError
        If the space describes none, or the engine cannot train some of them.
    """
    draw_designs(with_designs(pipeline, SAMPLE))
    return draw_designs(with_designs(pipeline, _drawable(FIRST_DESIGNS, pipeline)))


def with_designs(pipeline: Pipeline, designs: int) -> Pipeline:
    """Return a pipeline with a number of designs, and no time."""
    return pipeline.model_copy(update={"designs": designs, "minutes": None})


def designs_that_fit(have: int, left_s: float, design_s: float, end_s: Callable[[int], float]) -> int:
    """Return up to how many designs a study may go on, so that all is done in time; at least those it has.

    Parameters
    ----------
    have
        Designs that are trained.
    design_s
        Seconds that a further one takes.
    end_s
        Seconds that a study of so many designs takes after its screen; more for more designs.
    """

    def needed_s(total: int) -> float:
        return (total - have) * design_s + end_s(total)

    totals = range(have, max(MOST_DESIGNS, have) + 1)
    return have + max(0, bisect_right(totals, left_s, key=needed_s) - 1)


@dataclass(frozen=True)
class EndTime:
    """What the stages after a screen take: by the best of it, and the rules that make them finalists."""

    seconds_s: NDArray[np.float64]
    """Of one training of each of the best designs, (finalists,)."""
    work: NDArray[np.float64]
    """Its operations, (finalists,)."""
    screen_work: float
    """Of a mean design."""
    trainings: int
    """Of each finalist with folds."""
    options: FinalOptions
    members: int
    """Of the ensemble: that of numbers has as a rule as many as it may, that of classes half of them."""

    @classmethod
    def of(cls, trials: "pd.DataFrame", workers: float, study: "Study") -> Self:
        """Return that of a screen so far: of `COLUMNS`, with as many trainings at a time."""
        work = (trials["flops"].fillna(trials["parameters"]).fillna(1) * trials["epochs_run"]).astype(float)
        options, has_finals = options_of(study), study.job().settings.select_on == "validation"
        count = options.finalists if has_finals else 0
        order = trials.assign(work=work).sort_values(["score", "parameters"], ascending=[False, True])
        best = order[: max(1, count)]

        def of_best(name: str) -> NDArray[np.float64]:
            known = best[name].to_numpy(float)
            return np.append(known, np.full(count, known.mean()))[:count]

        trainings = len(parts_of(study, options)) if count else 0
        most = options.ensemble
        members = most if study.dataset.task is Task.REGRESSION else math.ceil(most / 2)
        times_s, mean = of_best("training_s") / workers, float(work.mean())
        return cls(times_s, of_best("work"), mean, trainings, options, members)

    def __call__(self, designs: int) -> float:
        """Return the seconds that a study of so many designs takes after its screen."""
        if not len(self.work):
            return END_S
        share = self.options.finalists_share
        most = designs * self.screen_work * share / (1 - share)
        spent = np.cumsum(self.work) * (self.trainings + 1)
        count = min(designs, max(LEAST_FINALISTS, int(np.searchsorted(spent, most, side="right"))))
        end_s = END_S + float(self.seconds_s[:count].sum()) * (self.trainings + 1)
        if self.options.all_rows:
            networks = self.trainings * min(self.members, count) or 1
            end_s += ALL_ROWS * networks * float(self.seconds_s[:count].mean())
        return end_s


class TimedScreen:
    """Trains a study's designs round by round; each round's pace says how large the next one may be.

    Stopped between or in rounds (Ctrl-C, a crash), the next call goes on with what is missing.
    """

    def __init__(
        self, study: "Study", executor: "Executor", until_s: float | None, listener: Listener = ignore
    ) -> None:
        """Train nothing yet.

        Parameters
        ----------
        until_s
            When the study should have ended, as `time.monotonic` counts; None for all its minutes from now.
        """
        self._study, self._executor, self._listener = study, executor, listener
        self._pipeline = study.pipeline
        minutes = self._pipeline.minutes or 0.0
        self._until_s = time.monotonic() + 60 * minutes if until_s is None else until_s
        self._least_s, self._most_s = (share * 60 * minutes for share in (LEAST_SHARE, MOST_SHARE))
        self._repetitions = self._pipeline.space.to_space().repetitions
        sample = draw_designs(with_designs(self._pipeline, SAMPLE))
        self._mean_cost = float(np.mean(list(expected_times(sample, study.dataset).values())))

    def train(self, shard: tuple[int, int] | None = None) -> int:
        """Train until no further round would fit, and fix the study's number of designs; return how many."""
        study, trained = self._study, 0
        with study.store.driving(study.id):
            # What takes the same time for any number of designs is done first: then it is known
            import_tensorflow()
            measure_baselines_first(study, self._listener)
            ends_s = self._until_s
            while True:
                missing, begun_s = study.missing(), time.monotonic()
                study.train(self._executor, shard=shard, ends_s=ends_s, listener=self._listener)
                trained += len(missing)
                wanted, ends_s = self._next(missing, time.monotonic() - begun_s)
                if wanted <= self._have:
                    break
                study.grow(draw_designs(with_designs(self._pipeline, wanted)))
            study.settle(self._have)
        return trained

    @property
    def _have(self) -> int:
        return len(self._study.designs) // self._repetitions

    def _next(self, trained: list[Design], took_s: float) -> tuple[int, float]:
        """Return how many designs the study goes on to, and when its screen should end then."""
        study, have, slots = self._study, self._have, self._executor.slots
        trials = study.store.frame(study.id, columns=COLUMNS)
        left_s = self._until_s - time.monotonic()
        if not (trials["state"] == TrialState.COMPLETED.value).any():
            self._tell(f"none of {have:,} designs completed: no other is begun")
            return have, self._until_s
        of_round = trials[trials["design_id"].isin([one.design_id for one in trained])]
        if len(of_round) <= FIRST_DESIGNS * self._repetitions:  # it paid for the start
            of_round, workers = trials, float(min(slots, len(trials)))
            took_s = float(trials["training_s"].sum()) / workers
        else:
            workers = min(float(slots), max(1.0, float(of_round["training_s"].sum()) / took_s))
        costs = expected_times(study.designs, study.dataset)
        per_cost_s = took_s / sum(costs[one] for one in of_round["design_id"])
        design_s = per_cost_s * self._mean_cost * self._repetitions
        end_s = EndTime.of(trials, workers, study)
        fit = designs_that_fit(have, left_s, design_s, end_s)
        wanted = have
        if (fit - have) * design_s >= self._least_s:
            most = _drawable(fit, self._pipeline)
            # All of a space, or a part of what fits: the next round knows better
            is_all = most != fit or most == self._pipeline.space.to_space().length()
            new = min(math.ceil(ROUND_SHARE * (fit - have)), math.ceil(self._most_s / design_s))
            wanted = most if is_all else min(GROWTH * have, have + new)
        return self._told(have, wanted, design_s, left_s, end_s)

    def _told(
        self, have: int, wanted: int, design_s: float, left_s: float, end_s: EndTime
    ) -> tuple[int, float]:
        rest = f"finalists, test and last training take about {end_s(wanted):.0f} s"
        each = f"{have:,} designs, {design_s:.2g} s each"
        if wanted > have:
            self._tell(f"{each}: {left_s:.0f} s left, of which {rest}; goes on to {wanted:,} designs")
        elif end_s(have) > left_s + LATE * self._least_s:
            self._tell(f"{each}: {rest}, {end_s(have) - left_s:.0f} s more than there is left; take more "
                       "minutes, or fewer evaluation.finalists")  # fmt: skip
        else:
            self._tell(f"{each}: {left_s:.0f} s left, {rest}; no other round fits")
        return wanted, self._until_s - end_s(wanted)

    def _tell(self, message: str) -> None:
        self._listener(Notice(message))


def _drawable(wanted: int, pipeline: Pipeline) -> int:
    """Return how many designs are drawn where so many are wanted.

    A space that can be counted is drawn otherwise from half of its designs on: fewer, or all of them.
    """
    length = pipeline.space.to_space().length()
    if length is None or 2 * wanted < length:
        return wanted
    return length if wanted >= length else max(1, (length - 1) // 2)
