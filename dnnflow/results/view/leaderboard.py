"""Rank the best designs of a study, and say how far their order can be trusted."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.engines.records import TrialState
from dnnflow.results.view.finals import Finals
from dnnflow.results.view.intervals import equal_within_noise, luck_of_the_first, wilson_interval
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
    low: float
    """Lower end of the Wilson 95 % interval of `score`."""
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
    amortised: bool
    """Whether `training_s` is a share of a stack's."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Noise:
    """How far the first place of the screen can be trusted."""

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
    """The accuracy of the screen's best without the luck of having been chosen; None where predictions were
    not kept."""
    finalists: int = 0
    """Designs that were trained again, among which the first is."""
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
        rows = "rows" if self.finalists else f"{self.rows:,} {self.kind} rows"
        test = f"(paired tests on the same {rows}, corrected for all designs)"
        near = f"No other of the {self.designs:,} designs is as good as the first {test}."
        if self.equal > 1:
            near = f"{self.equal:,} of {self.designs:,} designs cannot be told from the first {test}"
            near += f"; the smallest of them is at rank {self.smallest:,}." if self.smallest > 1 else "."
        remedy = "" if self.kind == "validation" else "; set evaluation.select_on to validation"
        # Where the best is wrong on no row, no bootstrap is: they say nothing of how sure that is
        width = "" if corrected.low == corrected.high else f" ({corrected.low:.3f} to {corrected.high:.3f})"
        who = f"the best of the screen, chosen on {self.rows:,} rows," if self.finalists else "the first"
        chosen = "" if self.finalists else " on these rows"
        return (
            f"{near} Chosen among {self.designs:,}{chosen}, {who} is expected to have "
            f"{corrected.score:.4f}{width} on others by BBC-CV, not {corrected.naive:.4f}{remedy}."
        )


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, best first."""
    done = trials[trials["state"] == TrialState.COMPLETED.value]
    return done.sort_values(list(ORDER), ascending=[False, True, True], ignore_index=True)


def by_design(
    trials: pd.DataFrame, designs: "Callable[[], Mapping[str, Design]]", rows: int
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return one row a design, best first, and the ids of each one's trials: one a seed.

    A design's score is the mean over its seeds; all else is of the trial with the lowest.

    Parameters
    ----------
    trials
        Of `completed`.
    designs
        Returns designs by their ids; asked where trials differ in their seeds.
    rows
        That scores are measured on.
    """
    trials = trials.assign(rows=rows, is_finalist=False)
    if trials["seed"].nunique() < 2:
        return trials.assign(spread=np.nan, trainings=1), [[one] for one in trials["design_id"]]
    known = designs()
    seeded = trials.sort_values("seed", kind="stable")
    groups = seeded.groupby(seeded["design_id"].map(lambda one: known[one].unseeded_id), sort=False)
    found = groups.head(1).reset_index(drop=True)
    scores = groups["score"].agg(["mean", "std", "count"])
    found = found.assign(score=scores["mean"].to_numpy(), spread=scores["std"].to_numpy(),
                         trainings=scores["count"].to_numpy(),
                         members=groups["design_id"].agg(list).to_numpy())  # fmt: skip
    found = found.sort_values(list(ORDER), ascending=[False, True, True], ignore_index=True)
    return found.drop(columns="members"), found["members"].tolist()


def with_finals(best: pd.DataFrame, finals: Finals) -> pd.DataFrame:
    """Return the designs with the finalists first, in their order and with what they came to."""
    place = {one.design_id: number for number, one in enumerate(finals.finalists)}
    order = best["design_id"].map(place).fillna(len(place)).sort_values(kind="stable").index
    found = best.loc[order].reset_index(drop=True)
    first = found.index[: len(place)]
    found.loc[first, "score"] = [one.score for one in finals.finalists]
    found.loc[first, "spread"] = [math.nan if x.spread is None else x.spread for x in finals.finalists]
    found.loc[first, "trainings"] = [one.trainings for one in finals.finalists]
    found.loc[first, "rows"] = finals.rows or found.loc[first, "rows"]
    return found.assign(is_finalist=found.index < len(place))


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
    best: pd.DataFrame, designs: Mapping[str, Design], apart: Sequence[bool] | np.ndarray
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
        _ranked(rank, row, designs[row["design_id"]], is_apart=bool(is_apart))
        for rank, (row, is_apart) in enumerate(ranked, start=1)
    )


def _ranked(rank: int, row: Mapping[Any, Any], design: Design, *, is_apart: bool) -> Ranked:
    score = float(row["score"])
    low, high = wilson_interval(score, int(row["rows"]))
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


def _optional(value: Any, kind: type) -> Any:
    return None if pd.isna(value) else kind(value)


def noise(
    best: pd.DataFrame, rows: int, kind: Literal["validation", "test"], apart: np.ndarray,
    corrected: Corrected | None = None,
) -> Noise | None:  # fmt: skip
    """Return how far the first place can be trusted, None without a completed trial.

    Parameters
    ----------
    best
        Of `by_design`, or of `with_finals`.
    corrected
        Of the screen's best.
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
        luck=luck_of_the_first(float(best["score"].iloc[0]), rows, equal),
        corrected=corrected,
        finalists=int(best["is_finalist"].sum()),
        smallest=1 + int(np.where(apart, math.inf, sizes).argmin()),
    )
