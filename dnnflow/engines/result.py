"""From what an engine measured to the trial that is recorded."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.loop import Course, Weights, check_finite
from dnnflow.engines.records import Trial, TrialState
from dnnflow.engines.seam import Fitted, TrainingContext, check_training, failed_trial, now


@dataclass(frozen=True)
class Result:
    """A design that was trained and tested."""

    course: Course
    test_loss: float
    """Mean over the test rows, penalties included as Keras does."""
    confusion: np.ndarray
    """Shape (classes, classes), int64: counts [true class][predicted class]."""
    parameters: int
    flops: int | None
    weights: Callable[[], Weights]
    """Valid until the engine goes on to the next design."""
    amortised: bool = False
    """Whether the course's time is a share of a stack's."""


FitDesign = Callable[[Design, TrainingContext], Result]


def train_designs(
    fit: FitDesign, designs: Sequence[Design], context: TrainingContext, *, engine: str
) -> Iterator[Fitted]:
    """Train designs one after the other; an exception of `fit` fails its design alone."""
    for design in designs:
        started_at, start = now(), time.monotonic()
        weights: Callable[[], Weights] | None = None
        try:
            check_training(design, context.settings)
            result = fit(design, context)
            check_finite(result.test_loss, "the test rows")
            total_s = time.monotonic() - start
            trial = completed_trial(
                design, result, context, engine=engine, started_at=started_at, total_s=total_s
            )
            weights = result.weights
        except Exception as error:  # user code and libraries may raise anything: the study goes on
            total_s = time.monotonic() - start
            trial = failed_trial(
                design, error, context, engine=engine, started_at=started_at, total_s=total_s
            )
        yield Fitted(trial, weights)


def completed_trial(
    design: Design, result: Result, context: TrainingContext, *, engine: str, started_at: str, total_s: float
) -> Trial:
    """Return the record of a design that was trained and tested."""
    course, confusion = result.course, result.confusion
    fitted = course.fitted[course.kept]
    watched = course.watched[course.kept] if course.watched else None
    return Trial(
        design_id=design.design_id,
        state=TrialState.COMPLETED,
        engine=engine,
        worker=context.worker,
        device=context.device,
        started_at=started_at,
        training_s=course.training_s,
        total_s=total_s,
        amortised=result.amortised,
        parameters=result.parameters,
        flops=result.flops,
        epochs_run=len(course.fitted),
        test_accuracy=float(np.trace(confusion) / confusion.sum()),
        test_loss=result.test_loss,
        train_accuracy=fitted.accuracy,
        train_loss=fitted.loss,
        validation_accuracy=watched.accuracy if watched else None,
        validation_loss=watched.loss if watched else None,
        history=course.history(),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )
