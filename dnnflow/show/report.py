"""Write a run's report: one HTML file that needs neither network nor server."""

from pathlib import Path
from typing import TYPE_CHECKING

from dnnflow.paths import write_file

if TYPE_CHECKING:
    from dnnflow.parallel.driver.history import History
    from dnnflow.results.view.study_view import StudyView


def write_report(numbers: "StudyView | History", path: str | Path) -> Path:
    """Write the report of a study or a parallel training as one self-contained file; return its path.

    Parameters
    ----------
    path
        Replaced if it is there.
    """
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.show.study_report import render_report
    from dnnflow.show.training_report import render_training_report

    text = render_report(numbers) if isinstance(numbers, StudyView) else render_training_report(numbers)
    write_file(Path(path), text)
    return Path(path)
