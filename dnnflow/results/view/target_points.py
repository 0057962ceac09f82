"""Put what the best design predicts beside what is true, number by number, for the figures of regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.results.predictions.prediction_matrix import KeptPredictions
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.view.finals import Finals, by_finalist, out_of_fold

MOST_POINTS = 2000
"""Of more rows, so many are drawn."""


@dataclass(frozen=True)
class TargetPoints:
    """One target of some rows that no network was fitted to, in the table's units."""

    name: str
    truth: NDArray[np.float64]
    """Shape (rows,)."""
    predicted: NDArray[np.float64]
    """Shape (rows,)."""
    rows: int
    """All such rows, of which these are some."""

    @property
    def residuals(self) -> NDArray[np.float64]:
        """What is true minus what is predicted, (rows,)."""
        return self.truth - self.predicted


def finalist_points(
    names: Sequence[str], finals: Finals, trainings: Sequence[FinalTrial], kept: KeptPredictions | None
) -> tuple[TargetPoints, ...]:
    """Return each target's points, by the first finalist's networks for rows they were not fitted to."""
    if kept is None:
        return ()
    mine = by_finalist(trainings)[finals.finalists[0].design_id]
    outputs, truth = out_of_fold([mine], kept)
    return () if outputs is None or truth is None else target_points(names, truth, outputs[0])


def screen_points(
    names: Sequence[str], design_id: str, kept: KeptPredictions | None
) -> tuple[TargetPoints, ...]:
    """Return each target's points, by a design's predictions for the rows that the screen compares on."""
    found = None if kept is None else kept.of([design_id])
    return () if kept is None or found is None else target_points(names, kept.truth, found[0])


def target_points(
    names: Sequence[str], truth: NDArray[Any], outputs: NDArray[Any]
) -> tuple[TargetPoints, ...]:
    """Return the points of targets, whose truth and outputs are both (rows, targets)."""
    rows = np.arange(len(truth))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
    columns = zip(names, truth[rows].T, outputs[rows].T, strict=True)
    return tuple(
        TargetPoints(name, np.asarray(true, np.float64), np.asarray(said, np.float64), len(truth))
        for name, true, said in columns
    )
