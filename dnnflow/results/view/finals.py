"""Order the finalists of a study by all their trainings; choose the winner and the ensemble among them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnnflow.design.layers import Design
from dnnflow.engines.loop import Patience
from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import ACCURACY, measures
from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.view.bootstrap import told_apart_resampled
from dnnflow.results.view.ensemble import greedy
from dnnflow.results.view.intervals import standard_error
from dnnflow.results.view.paired import told_apart
from dnnflow.table.columns.kinds import Task

_LEAST_SHARE = 1e-7


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best designs of the screen, after it was trained again."""

    design_id: str
    score: float
    """Mean over its trainings, each on rows that it was not fitted to."""
    spread: float | None
    """Standard deviation over its trainings; None of one."""
    trainings: int
    epochs: int
    """Mean of the epochs whose weights were kept, rounded."""
    parameters: int | None
    error: float | None = None
    """Standard error of the score by the rows that it was measured on; None where these do not say."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """All metrics of the task, as they are usually written, of its outputs for rows it was not fitted to; of
    several for a row their mean."""


@dataclass(frozen=True, kw_only=True)
class Finals:
    """The finalists of a study, best first, and what is handed out of them."""

    finalists: tuple[Finalist, ...]
    rows: int
    """Rows that each was measured on, over its trainings."""
    apart: tuple[bool, ...]
    """Whether each can be told from the first, by a paired test on the same rows."""
    winner: str
    """Design id."""
    ensemble: Mapping[str, int] = field(default_factory=dict)
    """How often each design counts in the average, by its id. What is averaged are the networks of its
    trainings: five of them were worth more than one that is trained on all rows (docs/recipes.md)."""
    ensemble_score: float | None = None
    """On the rows that its members were chosen by, each network on rows it was not fitted to."""
    ensemble_measures: Mapping[str, float] = field(default_factory=dict)
    """All metrics of the task on these rows."""

    def of(self, design_id: str) -> Finalist:
        """Return a finalist by its design."""
        return next(one for one in self.finalists if one.design_id == design_id)


def finals_of(
    trainings: Sequence[FinalTrial], predictions: KeptPredictions | None, *, metric: Metric = ACCURACY,
    task: Task = Task.CLASSIFICATION, prefer: Literal["accurate", "small"] = "accurate", members: int = 8,
) -> Finals | None:  # fmt: skip
    """Return the order of the finalists that have completed all their trainings; None without any.

    Parameters
    ----------
    trainings
        With folds, of all finalists.
    predictions
        Of these trainings; without them no finalist is told from the first, and nothing is averaged.
    members
        Most different designs of the ensemble.
    """
    groups = by_finalist(trainings)
    wanted = max(map(len, groups.values()), default=0)
    whole = [found for found in groups.values()
             if len(found) == wanted and all(one.is_completed for one in found)
             and any(one.trial.score is not None for one in found)]  # fmt: skip
    if not whole:
        return None
    by_id = {one.design_id: one for one in map(_finalist, whole)}
    order = sorted(by_id.values(), key=lambda one: (-one.score, one.parameters or 0, one.design_id))
    outputs = truth = None
    if predictions is not None:
        outputs, truth = out_of_fold([groups[one.design_id] for one in order], predictions)
    if outputs is None or truth is None:
        return Finals(finalists=tuple(order), rows=0, apart=(False,) * len(order), winner=order[0].design_id)
    good = metric.row_scores(truth, outputs)
    told = told_apart(good) if good is not None else told_apart_resampled(metric, truth, outputs)
    apart = (False, *told)
    sizes = [one.parameters or np.inf for one in order]
    winner = int(np.where(apart, np.inf, sizes).argmin()) if prefer == "small" else 0
    chosen = greedy(outputs, partial(fit_of, truth=truth, task=task), members) if members else {}
    mean = averaged_outputs(outputs, chosen) if chosen else None
    return Finals(
        finalists=tuple(_measured(order, metric, task, truth, outputs)),
        rows=len(truth),
        apart=apart,
        winner=order[winner].design_id,
        ensemble={order[place].design_id: count for place, count in chosen.items()},
        ensemble_score=None if mean is None else metric.score(truth, mean),
        ensemble_measures={} if mean is None else measures(task, truth, mean),
    )


def by_finalist(trainings: Sequence[FinalTrial]) -> dict[str, list[FinalTrial]]:
    """Return the trainings with folds of each finalist, by its id."""
    groups: dict[str, list[FinalTrial]] = {}
    for one in trainings:
        if one.stage == "folds":
            groups.setdefault(one.finalist, []).append(one)
    return groups


def averaged_outputs(outputs: NDArray[Any], counts: Mapping[int, int]) -> NDArray[Any]:
    """Return the mean of models' outputs (models, rows, outputs), each counted so often."""
    total = np.tensordot(list(counts.values()), outputs[list(counts)], 1)  # (rows, outputs)
    return np.asarray(total / sum(counts.values()))


def _measured(order: Sequence[Finalist], metric: Metric, task: Task, truth: NDArray[Any],
              outputs: NDArray[Any]) -> Iterator[Finalist]:  # fmt: skip
    """Yield finalists with what their outputs (finalists, rows, outputs) say."""
    for one, mine in zip(order, outputs, strict=True):
        good = metric.row_scores(truth, mine)
        error = None if good is None or len(good) < 2 else standard_error(good)
        yield replace(one, error=error, measures=measures(task, truth, mine))


def _finalist(trainings: list[FinalTrial]) -> Finalist:
    scores = [one.trial.score for one in trainings if one.trial.score is not None]
    return Finalist(
        design_id=trainings[0].finalist,
        score=float(np.mean(scores)),
        spread=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        trainings=len(trainings),
        epochs=max(1, round(float(np.mean([epochs_kept(one) for one in trainings])))),
        parameters=trainings[0].trial.parameters,
    )


def epochs_kept(training: FinalTrial) -> int:
    """Return after how many epochs a training had the weights that it ended with."""
    watched = training.trial.history.get("val_loss", ())
    if training.design.early_stopping is None or not watched:
        return training.trial.epochs_run
    patience = Patience(training.design.early_stopping)
    return max(epoch for epoch, loss in enumerate(watched, 1) if patience.improves(loss) or epoch == 1)


def refitted(design: Design, epochs: int) -> Design:
    """Return a design to be trained for so many epochs, on all training rows.

    A plateau schedule watches validation rows: such a design stays as it is, and keeps its holdout.
    """
    if design.schedule.kind == "plateau":
        return design
    return replace(design, epochs=epochs, early_stopping=None)


def out_of_fold(
    groups: Sequence[Sequence[FinalTrial]], predictions: KeptPredictions
) -> tuple[NDArray[np.floating[Any]] | None, NDArray[np.integer] | None]:
    """Return the mean over trainings of each finalist's outputs for a row, and the truth of the row.

    Rows that no training of a finalist was held out from, as folds by time have them, are left out.
    """
    means = []
    for trainings in groups:
        found = predictions.of([one.design.design_id for one in trainings])
        if found is None:
            return None, None
        with np.errstate(invalid="ignore"):
            known = ~np.isnan(found[..., 0])
            total = np.where(known[..., None], found, 0).sum(axis=0, dtype=np.float32)
            means.append(total / known.sum(axis=0)[:, None])
    outputs = np.stack(means)  # (finalists, rows, outputs)
    measured = np.isfinite(outputs[..., 0]).all(axis=0)
    return outputs[:, measured], predictions.truth[measured]


def fit_of(outputs: NDArray[np.floating[Any]], truth: NDArray[Any], task: Task) -> float:
    """Return how well outputs (rows, outputs) fit: what networks are trained for, whatever the metric.

    The mean logarithm of the probability of what is true; of numbers minus the mean squared error, each
    target in units of its standard deviation. On few rows it is a steadier guide than accuracy: 0.2 to 0.4
    points more on unseen rows (docs/recipes.md).
    """
    if task is Task.REGRESSION:
        spread = truth.std(axis=0)
        return -float((((outputs - truth) / np.where(spread > 0, spread, 1.0)) ** 2).mean())
    if task is Task.CLASSIFICATION:
        likely = outputs[np.arange(len(truth)), truth]
    else:
        likely = np.where(truth > 0, outputs, 1 - outputs)
    return float(np.log(np.clip(likely, _LEAST_SHARE, 1.0)).mean())
