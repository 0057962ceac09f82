"""Hold what was measured once, at a study's end, on test rows that nothing was chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import ACCURACY
from dnnflow.results.view.intervals import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A model that a study hands out, or what a simple model gives on the same rows."""

    kind: Literal["design", "ensemble", "baseline"]
    name: str
    """The design, the ensemble or the baseline in words."""
    rank: int | None = None
    """Place on the leaderboard; of a design only."""
    design_id: str | None = None
    score: float
    """The study's metric on the test rows, greater is better."""
    rows: int
    """Test rows."""
    selected: float | None = None
    """The same on the rows that it was chosen by, where these are others; of a finalist its mean."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """All metrics of the task on the test rows, as they are usually written; none of an older study."""
    low: float | None = None
    """Lower end of the 95 % interval of `score`: Wilson's of accuracy, else of rows drawn again."""
    high: float | None = None
    """Upper end of it; None where the rows give none, and of an older study, whose metric is accuracy."""
    calibration: Mapping[str, float] = field(default_factory=dict)
    """By which temperature probabilities were scaled, and the calibration error before and after, on rows
    that the networks were not fitted to: see `Adjustment`."""
    thresholds: tuple[float, ...] | None = None
    """Probability of the second of two classes, or of each label, above which it is predicted; None where the
    likeliest is."""

    @property
    def key(self) -> str:
        """What tells it from all others of its study."""
        return self.design_id or (self.kind if self.kind == "ensemble" else self.name)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of `score`; None where the rows give none."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return None if self.measures else wilson_interval(self.score, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Tested":
        """Build from what `to_dict` gave, also after a way through JSON."""
        known = {"accuracy": "score"}  # as it was called before
        plain = {known.get(name, name): value for name, value in data.items()}
        if plain.get("thresholds") is not None:
            plain["thresholds"] = tuple(plain["thresholds"])
        return cls(**plain)


def first_of(tested: Sequence[Tested]) -> Tested | None:
    """Return the winner, which stands first; None where no design was tested."""
    return next((one for one in tested if one.kind == "design"), None)


def sentence(
    tested: Sequence[Tested], equal: int | None = None, designs: int | None = None, *,
    metric: Metric = ACCURACY,
) -> str:  # fmt: skip
    """Say what the best design is worth, beside what one would use instead; empty where nothing was measured.

    Parameters
    ----------
    equal, designs
        Designs that cannot be told from the first, itself included, and all that completed.
    """
    best = first_of(tested)
    ensemble = [one for one in tested if one.kind == "ensemble"]
    others = sorted((one for one in tested if one.kind == "baseline"), key=lambda one: -one.score)
    if best is None:
        return ""
    kept = "kept for this" if best.selected is not None else "that it was chosen on, so less on others"
    word = "" if metric is ACCURACY else f"{metric.label} "
    said = f"{best.name}: {word}{metric.text(best.score)} on {best.rows:,} test rows {kept}"
    if best.interval is not None:
        low, high = (metric.text(score) for score in sorted(best.interval, key=metric.value))
        said += f" ({low.removesuffix(' %')} to {high.removesuffix(' %')})"
    beside = ", ".join(f"{one.name} {metric.text(one.score)}" for one in others)
    said += "".join(f"; {one.name}: {metric.text(one.score)}" for one in ensemble)
    said += f"; {beside}." if beside else "."
    if equal is not None and designs is not None and equal > 1:
        said += f" {equal:,} of {designs:,} designs cannot be told from it by the rows it was chosen on."
    return said


def tested_in(outcome: Mapping[str, Any] | None) -> tuple[Tested, ...]:
    """Return what the outcome of a study's row holds."""
    return tuple(Tested.from_dict(one) for one in (outcome or {}).get("tested", ()))
