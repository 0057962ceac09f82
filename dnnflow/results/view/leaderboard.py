"""Rank the best designs of a study, and say how far their order can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.engines.records import TrialState
from dnnflow.results.view.intervals import equal_within_noise, luck_of_the_first, wilson_interval
from dnnflow.results.view.paired import Corrected, bias_corrected, told_apart

ORDER = ("score", "parameters", "design_id")
"""Accuracy first; of equals the smaller network; then the id, so that the order is always the same."""


@dataclass(frozen=True)
class Ranked:
    """One design's place."""

    rank: int
    """1 is the best."""
    design_id: str
    design: str
    """In words, e.g. `3 x 64 relu, adam 0.003, batch 32`."""
    score: float
    low: float
    """Lower end of the Wilson 95 % interval of `accuracy`."""
    high: float
    """Upper end of it."""
    within_noise: bool
    """Whether its accuracy cannot be told from the first's (`told_apart_on`)."""
    train_score: float | None
    loss: float | None
    depth: int | None
    """Hidden layers; None for a design by reference."""
    parameters: int | None
    flops: int | None
    epochs_run: int
    training_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Noise:
    """How far the first place can be trusted."""

    designs: int
    """Completed designs."""
    rows: int
    """Rows that each accuracy is measured on."""
    kind: Literal["validation", "test"]
    """Which rows these are."""
    equal: int
    """Designs that cannot be told from the first, itself included."""
    luck: float
    """By how much the first's accuracy is expected to be too high, were those designs equally good."""
    corrected: Corrected | None = None
    """The first's accuracy without the luck of having been chosen; None where predictions were not kept."""
    smallest: int = 1
    """Rank of the smallest network among those that cannot be told from the first."""

    def __str__(self) -> str:
        if self.corrected is not None:
            return self._by_predictions(self.corrected)
        if self.designs < 2:
            return f"One design, measured on {self.rows:,} {self.kind} rows."
        test = f"(two-proportion z-test at 5 % on {self.rows:,} {self.kind} rows)"
        if self.equal == 1:
            near = f"No other of the {self.designs:,} designs is within noise of the first {test}."
        else:
            near = (
                f"{self.equal:,} of {self.designs:,} designs are within noise of the first {test}; were they "
                f"equally good, chance alone would put the first about {100 * self.luck:.1f} points too high."
            )
        remedy = (
            "the test rows say what it is worth"
            if self.kind == "validation"
            else "set evaluation.select_on to validation"
        )
        return (
            f"{near} The best of {self.designs:,} is chosen on the rows that it is measured on here, which "
            f"makes it look better than it is: {remedy}."
        )

    def _by_predictions(self, corrected: Corrected) -> str:
        if self.designs < 2:
            return f"One design, measured on {self.rows:,} {self.kind} rows."
        test = f"(McNemar's test on the same {self.rows:,} {self.kind} rows, corrected for all designs)"
        near = f"No other of the {self.designs:,} designs is as good as the first {test}."
        if self.equal > 1:
            near = f"{self.equal:,} of {self.designs:,} designs cannot be told from the first {test}"
            near += f"; the smallest of them is at rank {self.smallest:,}." if self.smallest > 1 else "."
        remedy = "" if self.kind == "validation" else "; set evaluation.select_on to validation"
        # Where the best is wrong on no row, no bootstrap is: they say nothing of how sure that is
        width = "" if corrected.low == corrected.high else f" ({corrected.low:.3f} to {corrected.high:.3f})"
        return (
            f"{near} Chosen among {self.designs:,} on these rows, the first is expected to have "
            f"{corrected.score:.4f}{width} on others by BBC-CV, not {corrected.naive:.4f}{remedy}."
        )


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, best first."""
    done = trials[trials["state"] == TrialState.COMPLETED.value]
    return done.sort_values(list(ORDER), ascending=[False, True, True], ignore_index=True)


def told_apart_on(right: np.ndarray | None, accuracies: np.ndarray, rows: int) -> np.ndarray:
    """Return for each design whether it can be told from the first, shape (designs,), bool.

    Parameters
    ----------
    right
        Shape (designs, rows): whether predictions are right. Without them designs are compared as if each had
        been measured on rows of its own (`equal_within_noise`), which calls more of them equal.
    accuracies
        Shape (designs,), best first.
    """
    if right is not None and len(right):
        return np.array([False, *told_apart(right)])
    return np.array([not equal_within_noise(accuracies[0], other, rows) for other in accuracies], bool)


def leaderboard(
    best: pd.DataFrame, designs: Mapping[str, Design], rows: int, apart: Sequence[bool] | np.ndarray
) -> tuple[Ranked, ...]:
    """Return places for the first of `completed(trials)`.

    Parameters
    ----------
    designs
        By their ids.
    rows
        That accuracies are measured on.
    apart
        Whether each can be told from the first (`told_apart_on`).
    """
    ranked = zip(best.to_dict("records"), apart, strict=False)
    return tuple(
        _ranked(rank, row, designs[row["design_id"]], rows, is_apart=bool(is_apart))
        for rank, (row, is_apart) in enumerate(ranked, start=1)
    )


def _ranked(rank: int, row: Mapping[Any, Any], design: Design, rows: int, *, is_apart: bool) -> Ranked:
    score = float(row["score"])
    low, high = wilson_interval(score, rows)
    return Ranked(
        rank=rank,
        design_id=row["design_id"],
        design=design.describe(),
        score=score,
        low=low,
        high=high,
        within_noise=not is_apart,
        train_score=_optional(row["train_score"], float),
        loss=_optional(row["loss"], float),
        depth=_optional(row["depth"], int),
        parameters=_optional(row["parameters"], int),
        flops=_optional(row["flops"], int),
        epochs_run=int(row["epochs_run"]),
        training_s=float(row["training_s"]),
    )


def _optional(value: Any, kind: type) -> Any:
    return None if pd.isna(value) else kind(value)


def noise(
    best: pd.DataFrame, rows: int, kind: Literal["validation", "test"], apart: np.ndarray,
    right: np.ndarray | None = None,
) -> Noise | None:  # fmt: skip
    """Return how far the first place can be trusted, None without a completed trial."""
    if best.empty:
        return None
    equal = int((~apart).sum())
    sizes = best["parameters"].astype(float).fillna(math.inf).to_numpy()
    return Noise(
        designs=len(best),
        rows=rows,
        kind=kind,
        equal=equal,
        luck=luck_of_the_first(float(best["score"].iloc[0]), rows, equal),
        corrected=bias_corrected(right) if right is not None and rows > 1 else None,
        smallest=1 + int(np.where(apart, math.inf, sizes).argmin()),
    )
