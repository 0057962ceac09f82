"""Return a leaderboard as a DataFrame, for notebooks and scripts."""

import pandas as pd

from dnnflow.results.view.study_view import StudyView


def leaderboard_frame(view: StudyView) -> pd.DataFrame:
    """Return the places of a leaderboard, best first, one row each: the fields of `Ranked`.

    Behind `design` stands a column named as the metric, with the score as it is usually written.
    """
    frame = pd.DataFrame([place.to_dict() for place in view.leaderboard])
    if not frame.empty:
        metric = view.metric
        frame.insert(3, metric.name, [metric.value(score) for score in frame["score"]])
    return frame
