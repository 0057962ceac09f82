"""Write scores for people, beside `Metric.text`."""

from dnnflow.engines.metric import Metric


def bare(metric: Metric, score: float) -> str:
    """Return a score without its unit, where the unit stands beside it."""
    return metric.text(score).removesuffix(" %")


def between(metric: Metric, interval: tuple[float | None, float | None] | None) -> str:
    """Return an interval of a score, e.g. `90.9 – 95.9`, of an error its least value first; – without one."""
    low, high = interval or (None, None)
    if low is None or high is None:
        return "–"
    ends = (low, high) if metric.greater_is_better else (high, low)
    return " – ".join(bare(metric, end) for end in ends)


def spread_text(metric: Metric, spread: float) -> str:
    """Return a standard deviation of scores, e.g. `± 1.2`."""
    return f"± {bare(metric, spread if metric.greater_is_better else -spread)}"


def width_text(metric: Metric, width: float) -> str:
    """Return half an interval of a score, e.g. `± 2.5 points`."""
    return f"{spread_text(metric, width)}{' points' if metric.is_share else ''}"
