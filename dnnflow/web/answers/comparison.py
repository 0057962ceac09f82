"""Two studies side by side."""

from collections.abc import Mapping
from typing import Any

from dnnflow.results.view.intervals import equal_within_noise
from dnnflow.results.view.study_view import StudyView
from dnnflow.web.answers.study_results import Results
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.replies import Compared, Comparison, Difference

PLACES = 10
MOST_DIFFERENCES = 200
HIDDEN = ("dataset.source", "dataset.storage_options")
"""Of pipelines, what is not compared: places of the server."""


def compare(views: Views, results: Results, first: str, second: str) -> Comparison:
    """Return how two studies stand beside one another.

    Raises
    ------
    NotFoundError
        If one of them is not there.
    """
    a, b = results.view(first), results.view(second)
    return Comparison(
        a=_compared(views, first, a),
        b=_compared(views, second, b),
        same_table=a.record.dataset_id == b.record.dataset_id,
        best_difference=_difference(a, b),
        within_noise=_within_noise(a, b),
        pipeline=_differences(a.record.pipeline, b.record.pipeline),
    )


def _compared(views: Views, study_id: str, view: StudyView) -> Compared:
    return Compared(
        status=views.status(study_id, live=False),
        places=list(view.leaderboard[:PLACES]),
        median_accuracy=_median(view, "test_accuracy"),
        median_training_s=_median(view, "training_s"),
        test_rows=view.test_rows,
        majority_rate=view.majority_rate,
    )


def _median(view: StudyView, column: str) -> float | None:
    return float(view.trials[column].median()) if len(view.trials) else None


def _difference(a: StudyView, b: StudyView) -> float | None:
    if not a.leaderboard or not b.leaderboard:
        return None
    return b.leaderboard[0].test_accuracy - a.leaderboard[0].test_accuracy


def _within_noise(a: StudyView, b: StudyView) -> bool | None:
    """Whether the two best cannot be told apart on the smaller number of test rows."""
    if not a.leaderboard or not b.leaderboard:
        return None
    rows = min(a.test_rows, b.test_rows)
    return bool(equal_within_noise(a.leaderboard[0].test_accuracy, b.leaderboard[0].test_accuracy, rows))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    left, right = dict(_flat(a)), dict(_flat(b))
    keys = [key for key in [*left, *(key for key in right if key not in left)] if not key.startswith(HIDDEN)]
    return [
        Difference(where=key, a=left.get(key), b=right.get(key))
        for key in keys
        if left.get(key) != right.get(key)
    ][:MOST_DIFFERENCES]


def _flat(value: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        found += _flat(item, f"{where}{key}.") if isinstance(item, Mapping) else [(f"{where}{key}", item)]
    return found
