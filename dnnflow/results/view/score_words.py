"""Write scores for people: the only place that says what the study's metric is called, and how it is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ShownMetric:
    """How the score of a study is told."""

    label: str
    """For people."""
    is_share: bool = True
    """Whether it is told in percent."""
    greater_is_better: bool = True
    """Of its value; of its score greater always is."""

    def text(self, score: float) -> str:
        """Return a score for people, e.g. `93.1 %`."""
        value = score if self.greater_is_better else -score
        return f"{100 * value:.1f} %" if self.is_share else f"{value:,.3g}"


ACCURACY = ShownMetric("accuracy")


def bare(metric: ShownMetric, score: float) -> str:
    """Return a score without its unit, where the unit stands beside it."""
    return metric.text(score).removesuffix(" %")


def between(metric: ShownMetric, low: float, high: float) -> str:
    """Return an interval of a score, e.g. `90.9 – 95.9`; of an error its least value first."""
    ends = (low, high) if metric.greater_is_better else (high, low)
    return " – ".join(bare(metric, end) for end in ends)


def spread_text(metric: ShownMetric, spread: float) -> str:
    """Return a standard deviation of scores, e.g. `± 1.2`."""
    return f"± {bare(metric, spread if metric.greater_is_better else -spread)}"


def width_text(metric: ShownMetric, width: float) -> str:
    """Return half an interval of a score, e.g. `± 2.5 points`."""
    return f"{spread_text(metric, width)}{' points' if metric.is_share else ''}"
