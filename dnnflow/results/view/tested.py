"""Hold what was measured once, at a study's end, on test rows that nothing was chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

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

    @property
    def key(self) -> str:
        """What tells it from all others of its study."""
        return self.design_id or (self.kind if self.kind == "ensemble" else self.name)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of `score`."""
        return wilson_interval(self.score, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Tested":
        """Build from what `to_dict` gave, also after a way through JSON."""
        known = {"accuracy": "score"}  # as it was called before
        return cls(**{known.get(name, name): value for name, value in data.items()})


def first_of(tested: Sequence[Tested]) -> Tested | None:
    """Return the winner, which stands first; None where no design was tested."""
    return next((one for one in tested if one.kind == "design"), None)


def sentence(tested: Sequence[Tested], equal: int | None = None, designs: int | None = None) -> str:
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
    low, high = best.interval
    said = (
        f"{best.name}: {100 * best.score:.1f} % on {best.rows:,} test rows {kept} "
        f"({100 * low:.1f} to {100 * high:.1f})"
    )
    beside = ", ".join(f"{one.name} {100 * one.score:.1f} %" for one in others)
    said += "".join(f"; {one.name}: {100 * one.score:.1f} %" for one in ensemble)
    said += f"; {beside}." if beside else "."
    if equal is not None and designs is not None and equal > 1:
        said += f" {equal:,} of {designs:,} designs cannot be told from it by the rows it was chosen on."
    return said


def tested_in(outcome: Mapping[str, Any] | None) -> tuple[Tested, ...]:
    """Return what the outcome of a study's row holds."""
    return tuple(Tested.from_dict(one) for one in (outcome or {}).get("tested", ()))
