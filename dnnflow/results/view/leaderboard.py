"""Rank the best designs of a study, and say how far their order can be trusted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.engines.records import TrialState
from dnnflow.results.view.intervals import equal_within_noise, luck_of_the_first, wilson_interval

ORDER = ("test_accuracy", "parameters", "design_id")
"""Accuracy first; of equals the smaller network; then the id, so that the order is always the same."""


@dataclass(frozen=True)
class Ranked:
    """One design's place."""

    rank: int
    """1 is the best."""
    design_id: str
    design: str
    """In words, e.g. `3 x 64 relu, adam 0.003, batch 32`."""
    test_accuracy: float
    low: float
    """Lower end of the Wilson 95 % interval of `test_accuracy`."""
    high: float
    """Upper end of it."""
    within_noise: bool
    """Whether its accuracy cannot be told from the first's (`equal_within_noise`)."""
    train_accuracy: float | None
    test_loss: float | None
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
    """Test rows that each accuracy is measured on."""
    equal: int
    """Designs that cannot be told from the first, itself included."""
    luck: float
    """By how much the first's accuracy is expected to be too high, were those designs equally good."""

    def __str__(self) -> str:
        if self.designs < 2:
            return f"One design, measured on {self.rows:,} test rows."
        test = f"(two-proportion z-test at 5 % on {self.rows:,} test rows)"
        if self.equal == 1:
            near = f"No other of the {self.designs:,} designs is within noise of the first {test}."
        else:
            near = (
                f"{self.equal:,} of {self.designs:,} designs are within noise of the first {test}; were they "
                f"equally good, chance alone would put the first about {100 * self.luck:.1f} points too high."
            )
        return (
            f"{near} The best of {self.designs:,} is optimistic, being chosen on the rows it is measured on: "
            "measure it on rows that no design has seen."
        )


def completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, best first."""
    done = trials[trials["state"] == TrialState.COMPLETED.value]
    return done.sort_values(list(ORDER), ascending=[False, True, True], ignore_index=True)


def leaderboard(best: pd.DataFrame, designs: Mapping[str, Design], rows: int) -> tuple[Ranked, ...]:
    """Return places for the first of `completed(trials)`, with designs by id and the number of test rows."""
    records = best.to_dict("records")
    first = float(records[0]["test_accuracy"]) if records else 0.0
    ranks = enumerate(records, start=1)
    return tuple(_ranked(rank, row, designs[row["design_id"]], rows, first) for rank, row in ranks)


def _ranked(rank: int, row: Mapping[Any, Any], design: Design, rows: int, first: float) -> Ranked:
    accuracy = float(row["test_accuracy"])
    low, high = wilson_interval(accuracy, rows)
    return Ranked(
        rank=rank,
        design_id=row["design_id"],
        design=design.describe(),
        test_accuracy=accuracy,
        low=low,
        high=high,
        within_noise=equal_within_noise(first, accuracy, rows),
        train_accuracy=_optional(row["train_accuracy"], float),
        test_loss=_optional(row["test_loss"], float),
        depth=_optional(row["depth"], int),
        parameters=_optional(row["parameters"], int),
        flops=_optional(row["flops"], int),
        epochs_run=int(row["epochs_run"]),
        training_s=float(row["training_s"]),
    )


def _optional(value: Any, kind: type) -> Any:
    return None if pd.isna(value) else kind(value)


def noise(best: pd.DataFrame, rows: int) -> Noise | None:
    """Return how far the first place can be trusted, None without a completed trial."""
    if best.empty:
        return None
    first = float(best["test_accuracy"].iloc[0])
    others = best["test_accuracy"].iloc[1:]
    # Sorted, best first: those equal to the first stand in front
    equal = 1 + sum(1 for _ in takewhile(lambda other: equal_within_noise(first, other, rows), others))
    return Noise(designs=len(best), rows=rows, equal=equal, luck=luck_of_the_first(first, rows, equal))
