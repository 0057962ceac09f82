"""Rank the best designs of a study, and say how far their order can be trusted."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import ACCURACY
from dnnflow.engines.records import TrialState
from dnnflow.results.view.finals import Finals
from dnnflow.results.view.intervals import Z_95, equal_within_noise, luck_of_the_first, wilson_interval
from dnnflow.results.view.paired import Corrected, told_apart

PLACES = 100
"""Length of the leaderboard."""
ORDER = ("score", "parameters", "design_id")
"""Accuracy first; of equals the smaller network; then the id, so that the order is always the same."""


@dataclass(frozen=True)
class Ranked:
    """One design's place."""

    rank: int
    """1 is the best."""
    design_id: str
    """Hash of the design: 64 hexadecimal digits."""
    design: str
    """In words, e.g. `3 x 64 relu, adam 0.003, batch 32`."""
    score: float
    """The study's metric, greater is better: on the rows compared on; of several trainings their mean."""
    spread: float | None
    """Standard deviation over several trainings; None of one."""
    trainings: int
    """Over seeds, and folds of a finalist."""
    is_finalist: bool
    """Whether it was trained again after the screen: finalists stand first, by these trainings' mean."""
    low: float | None
    """Lower end of the 95 % interval of `score`: of accuracy Wilson's, else normal by the row scores; None
    where the metric has none, or predictions were not kept."""
    high: float | None
    """Upper end of it."""
    within_noise: bool
    """Whether its score cannot be told from the first's (`told_apart_on`)."""
    train_score: float | None
    """Of the screen: running mean over the epoch that was kept; None but for accuracy."""
    loss: float | None
    """Of the screen, on the rows compared on."""
    depth: int | None
    """Hidden layers; None for a design by reference."""
    parameters: int | None
    """Weights of the network."""
    flops: int | None
    """Floating-point operations of one row's forward pass."""
    epochs_run: int
    """Of the screen."""
    training_s: float
    """Of the screen: seconds of fitting."""
    amortised: bool
    """Whether `training_s` is a share of a stack's."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


class ComparedBy(StrEnum):
    """How designs are told from the first."""

    PAIRED = "paired"
    """By tests on the same rows."""
    APART = "apart"
    """As if each had been measured on rows of its own."""
    NONE = "none"
    """Not at all: the metric has no such test, or predictions were not kept."""


@dataclass(frozen=True)
class Noise:
    """How far the first place of the screen can be trusted."""

    designs: int
    """Completed designs."""
    rows: int
    """Rows that each score is measured on."""
    kind: Literal["validation", "test"]
    """Which rows these are."""
    equal: int
    """Designs that cannot be told from the first, itself included."""
    luck: float
    """By how much the first's accuracy is expected to be too high, were those designs equally good; 0 of
    another metric."""
    corrected: Corrected | None = None
    """The score of the screen's best without the luck of having been chosen; None where predictions were
    not kept, or the metric is no mean over rows."""
    finalists: int = 0
    """Designs that were trained again, among which the first is."""
    smallest: int = 1
    """Rank of the smallest network among those that cannot be told from the first."""
    metric: Metric = ACCURACY
    """What they are compared by."""
    test: ComparedBy = ComparedBy.APART
    """How they are told from the first."""

    def __str__(self) -> str:
        if self.designs < 2:
            return f"One design, measured on {self.rows:,} {self.kind} rows."
        if self.test is ComparedBy.PAIRED:
            near = self._paired()
            return near + self._corrected(self.corrected) if self.corrected else f"{near} {self._chosen()}"
        return f"{self._apart() if self.test is ComparedBy.APART else self._untold()} {self._chosen()}"

    def _apart(self) -> str:
        test = f"(two-proportion z-test at 5 % on {self.rows:,} {self.kind} rows)"
        if self.equal == 1:
            return f"No other of the {self.designs:,} designs is within noise of the first {test}."
        return (
            f"{self.equal:,} of {self.designs:,} designs are within noise of the first {test}; were they "
            f"equally good, chance alone would put the first about {100 * self.luck:.1f} points too high."
        )

    def _untold(self) -> str:
        told = (
            f"{self.designs:,} designs are ordered by {self.metric.label} on {self.rows:,} {self.kind} rows, "
            "and no test tells them from the first"
        )
        if self.finalists:
            told += (
                f"; a paired bootstrap tells {self.designs - self.equal:,} of the {self.finalists:,} "
                "finalists from it"
            )
        return f"{told}."

    def _chosen(self) -> str:
        remedy = (
            "the test rows say what it is worth"
            if self.kind == "validation"
            else "set evaluation.select_on to validation"
        )
        return (
            f"The best of {self.designs:,} is chosen on the rows that it is measured on here, which "
            f"makes it look better than it is: {remedy}."
        )

    def _paired(self) -> str:
        rows = "rows" if self.finalists else f"{self.rows:,} {self.kind} rows"
        test = f"(paired tests on the same {rows}, corrected for all designs)"
        near = f"No other of the {self.designs:,} designs is as good as the first {test}."
        if self.equal > 1:
            near = f"{self.equal:,} of {self.designs:,} designs cannot be told from the first {test}"
            near += f"; the smallest of them is at rank {self.smallest:,}." if self.smallest > 1 else "."
        return near

    def _corrected(self, corrected: Corrected) -> str:
        remedy = "" if self.kind == "validation" else "; set evaluation.select_on to validation"
        # Where the best is wrong on no row, no bootstrap is: they say nothing of how sure that is
        low, high = sorted((corrected.low, corrected.high), key=self.metric.value)
        width = "" if low == high else f" ({self._number(low, 3)} to {self._number(high, 3)})"
        who = f"the best of the screen, chosen on {self.rows:,} rows," if self.finalists else "the first"
        chosen = "" if self.finalists else " on these rows"
        return (
            f" Chosen among {self.designs:,}{chosen}, {who} is expected to have "
            f"{self._number(corrected.score)}{width} on others by BBC-CV, not "
            f"{self._number(corrected.naive)}{remedy}."
        )

    def _number(self, score: float, digits: int = 4) -> str:
        return f"{score:.{digits}f}" if self.metric is ACCURACY else self.metric.text(score)


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, best first."""
    done = trials[trials["state"] == TrialState.COMPLETED.value]
    return done.sort_values(list(ORDER), ascending=[False, True, True], ignore_index=True)


def by_design(
    trials: pd.DataFrame, unseeded: "Callable[[], Mapping[str, str]]", rows: int
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return one row a design, best first, and the ids of each one's trials: one a seed.

    A design's score is the mean over its seeds; all else is of the trial with the lowest.

    Parameters
    ----------
    trials
        Of `completed`.
    unseeded
        Returns by design id what only trainings of one design share; asked where trials differ in seeds.
    rows
        That scores are measured on.
    """
    trials = trials.assign(rows=rows, is_finalist=False, error=np.nan)
    if trials["seed"].nunique() < 2:
        return trials.assign(spread=np.nan, trainings=1), [[one] for one in trials["design_id"]]
    seeded = trials.sort_values("seed", kind="stable")
    shared, members = seeded["design_id"].map(unseeded()), defaultdict[str, list[str]](list)
    for design, design_id in zip(shared, seeded["design_id"], strict=True):
        members[design].append(design_id)
    groups = seeded.groupby(shared, sort=False)
    found = groups.head(1).reset_index(drop=True)
    scores = groups["score"].agg([fmean, "std", "count"])  # exact: equals are equal whatever their order
    found = found.assign(score=scores["fmean"].to_numpy(), spread=scores["std"].to_numpy(),
                         trainings=scores["count"].to_numpy())  # fmt: skip
    found = found.sort_values(list(ORDER), ascending=[False, True, True])
    in_groups = list(members.values())
    return found.reset_index(drop=True), [in_groups[at] for at in found.index]


def with_finals(best: pd.DataFrame, finals: Finals) -> pd.DataFrame:
    """Return the designs with the finalists first, in their order and with what they came to."""
    place = {one.design_id: number for number, one in enumerate(finals.finalists)}
    order = best["design_id"].map(place).fillna(len(place)).sort_values(kind="stable").index
    found = best.loc[order].reset_index(drop=True)
    first = found.index[: len(place)]
    found.loc[first, "score"] = [one.score for one in finals.finalists]
    found.loc[first, "spread"] = [math.nan if x.spread is None else x.spread for x in finals.finalists]
    found.loc[first, "error"] = [math.nan if x.error is None else x.error for x in finals.finalists]
    found.loc[first, "trainings"] = [one.trainings for one in finals.finalists]
    found.loc[first, "rows"] = finals.rows or found.loc[first, "rows"]
    return found.assign(is_finalist=found.index < len(place))


def told_apart_on(
    right: np.ndarray | None, scores: np.ndarray, rows: int, metric: Metric = ACCURACY
) -> np.ndarray:
    """Return for each design whether it can be told from the first, shape (designs,), bool.

    Parameters
    ----------
    right
        Shape (designs, rows): row scores. Without them designs are compared by accuracy as if each had been
        measured on rows of its own (`equal_within_noise`), which calls more of them equal, and by another
        metric not at all.
    scores
        Shape (designs,), best first.
    """
    if right is not None and len(right):
        return np.array([False, *told_apart(right)])
    if metric is not ACCURACY:
        return np.zeros(len(scores), bool)
    return np.array([not equal_within_noise(scores[0], other, rows) for other in scores], bool)


def leaderboard(
    best: pd.DataFrame,
    designs: Mapping[str, Design],
    apart: Sequence[bool] | np.ndarray,
    metric: Metric = ACCURACY,
) -> tuple[Ranked, ...]:
    """Return places for the first of `by_design`, or of `with_finals`.

    Parameters
    ----------
    designs
        By their ids.
    apart
        Whether each can be told from the first (`told_apart_on`).
    """
    ranked = zip(best.head(PLACES).to_dict("records"), apart, strict=False)
    return tuple(
        _ranked(rank, row, designs[row["design_id"]], metric, is_apart=bool(is_apart))
        for rank, (row, is_apart) in enumerate(ranked, start=1)
    )


def _ranked(rank: int, row: Mapping[Any, Any], design: Design, metric: Metric, *, is_apart: bool) -> Ranked:
    score = float(row["score"])
    low, high = _interval(metric, score, int(row["rows"]), _optional(row["error"], float))
    return Ranked(
        rank=rank,
        design_id=row["design_id"],
        design=design.describe(),
        score=score,
        spread=_optional(row["spread"], float),
        trainings=int(row["trainings"]),
        is_finalist=bool(row["is_finalist"]),
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
        amortised=bool(row["amortised"]),
    )


def _interval(
    metric: Metric, score: float, rows: int, error: float | None
) -> tuple[float | None, float | None]:
    if metric is ACCURACY:
        return wilson_interval(score, rows)
    if error is None:
        return None, None
    return score - Z_95 * error, min(metric.ceiling, score + Z_95 * error)


def _optional(value: Any, kind: type) -> Any:
    return None if pd.isna(value) else kind(value)


def noise(
    best: pd.DataFrame, rows: int, kind: Literal["validation", "test"], apart: np.ndarray,
    corrected: Corrected | None = None, *, metric: Metric = ACCURACY, is_paired: bool = False,
) -> Noise | None:  # fmt: skip
    """Return how far the first place can be trusted, None without a completed trial.

    Parameters
    ----------
    best
        Of `by_design`, or of `with_finals`.
    corrected
        Of the screen's best.
    is_paired
        Whether designs were compared by their row scores.
    """
    if best.empty:
        return None
    equal = int((~apart).sum())
    sizes = best["parameters"].astype(float).fillna(math.inf).to_numpy()
    return Noise(
        designs=len(best),
        rows=rows,
        kind=kind,
        equal=equal,
        luck=luck_of_the_first(float(best["score"].iloc[0]), rows, equal) if metric is ACCURACY else 0.0,
        corrected=corrected,
        finalists=int(best["is_finalist"].sum()),
        smallest=1 + int(np.where(apart, math.inf, sizes).argmin()),
        metric=metric,
        test=_comparison(metric, is_paired=is_paired),
    )


def _comparison(metric: Metric, *, is_paired: bool) -> ComparedBy:
    if is_paired:
        return ComparedBy.PAIRED
    return ComparedBy.APART if metric is ACCURACY else ComparedBy.NONE
