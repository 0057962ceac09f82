"""Hold what was measured once, at a study's end, on test rows that nothing was chosen by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import ACCURACY
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.score_words import between


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A model that a study hands out, or what a simple model gives on the same rows."""

    kind: Literal["design", "ensemble", "baseline"]
    """What was measured: a finalist, their ensemble, or a simple model."""
    name: str
    """The design, the ensemble or the baseline in words."""
    rank: int | None = None
    """Place on the leaderboard; of a design only."""
    design_id: str | None = None
    """Of the study's design; of a design only."""
    model_id: str | None = None
    """Hash of the networks that were tested, their shares and the adjustment; None for a baseline."""
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
    def temperature(self) -> float:
        """By which logarithms of its probabilities are divided."""
        return self.calibration.get("temperature", 1.0)

    @property
    def key(self) -> str:
        """What tells it from all others of its study."""
        return self.model_id or self.design_id or self.name

    @property
    def short(self) -> str:
        """Its name in a few words: a design without how it is trained, an ensemble without its networks."""
        if self.kind == "ensemble":
            return self.name.partition(" (")[0].removesuffix(" designs")
        parts = self.name.split(", ")
        is_plain = self.kind == "design" and len(parts) == 3 and parts[2].startswith("batch ")
        return parts[0] if is_plain else self.name

    @property
    def role(self) -> Literal["winner", "ensemble"]:
        """Which of a study's models it is."""
        return "ensemble" if self.kind == "ensemble" else "winner"

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


class ToldNumber(NamedTuple):
    """One of the numbers that every door begins with."""

    label: str
    value: str
    note: str
    """What to know about it."""


def best_baseline(tested: Sequence[Tested]) -> Tested | None:
    """Return the baseline with the best score."""
    return max((one for one in tested if one.kind == "baseline"), key=lambda one: one.score, default=None)


def ensemble_of(tested: Sequence[Tested]) -> Tested | None:
    """Return the ensemble."""
    return next((one for one in tested if one.kind == "ensemble"), None)


def told_numbers(tested: Sequence[Tested], metric: Metric = ACCURACY) -> tuple[ToldNumber, ...]:
    """Return the winner, the ensemble and the best baseline on test rows; nothing where none was measured."""
    best = first_of(tested)
    if best is None:
        return ()
    kept = "test rows" if best.selected is not None else "the test rows it was chosen on"
    found = [
        ToldNumber(
            f"{metric.label} on {kept}", metric.text(best.score),
            best.short + (f"; 95 %: {between(metric, best.interval)}" if best.interval else ""),
        )
    ]  # fmt: skip
    if ensemble := ensemble_of(tested):
        found.append(ToldNumber("the ensemble there", metric.text(ensemble.score), ensemble.name))
    if baseline := best_baseline(tested):
        found.append(ToldNumber("best baseline there", metric.text(baseline.score), baseline.name))
    return tuple(found)


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
    if best is None:
        return ""
    kept = "kept for this" if best.selected is not None else "that it was chosen on, so less on others"
    word = "" if metric is ACCURACY else f"{metric.label} "
    interval = f" ({between(metric, best.interval)})" if best.interval else ""
    said = [f"{best.short}: {word}{metric.text(best.score)} on {best.rows:,} test rows {kept}{interval}"]
    said += [f"{one.short}: {metric.text(one.score)}" for one in tested if one.kind == "ensemble"]
    others = sorted((one for one in tested if one.kind == "baseline"), key=lambda one: -one.score)
    if others:
        said.append(", ".join(f"{one.name} {metric.text(one.score)}" for one in others))
    as_good = ""
    if equal is not None and designs is not None and equal > 1:
        as_good = f" {equal:,} of {designs:,} designs are as good, as far as their rows tell (≈)."
    return f"{'; '.join(said)}.{as_good}"


def taken_of(tested: Sequence[Tested], *, prefers_small: bool) -> Tested | None:
    """Return what is to be taken for new rows: the ensemble, unless a small model is asked for."""
    return (None if prefers_small else ensemble_of(tested)) or first_of(tested)


def final_rows_in(outcome: Mapping[str, Any] | None) -> int | None:
    """Return how many rows `models/final.keras` was fitted to; None where there is none."""
    final = (outcome or {}).get("final")
    return None if final is None else int(final["rows"])


def tested_in(outcome: Mapping[str, Any] | None) -> tuple[Tested, ...]:
    """Return what the outcome of a study's row holds."""
    return tuple(Tested.from_dict(one) for one in (outcome or {}).get("tested", ()))
