"""Turn a run's events into log lines and artifacts of Prefect."""

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from dnnflow.events import (
    ClusterReady,
    Event,
    FinalsProgress,
    ReplicaLost,
    RowsRead,
    TrainingProgress,
    TrialsStored,
    WorkerLost,
)
from dnnflow.parallel.driver.history import History
from dnnflow.results.view.next_steps import next_steps
from dnnflow.results.view.study_view import StudyView
from dnnflow.show.study_tables import headline, measured_section, place_sections
from dnnflow.show.wording import in_words

LEADERBOARD_ROWS = 20
PROGRESS_EVERY_S = 3.0
LOG_EVERY_S = 10.0


def leaderboard_rows(view: StudyView) -> list[dict[str, Any]]:
    """Return the best designs as rows of a table artifact, then what was measured on test rows."""
    tested = measured_section(view)
    sections = [*place_sections(view, LEADERBOARD_ROWS), *([tested] if tested else [])]
    return [
        {
            "rank": row.rank,
            view.metric.label: f"{row.score} {row.spread}".rstrip(),
            "95 % interval": row.interval,
            "design": row.name,
            "on": section.title,
            "parameters": row.place.parameters if row.place else None,
            "training s": round(row.place.training_s, 2) if row.place else None,
        }
        for section in sections
        for row in section.rows
    ]


def leaderboard_words(view: StudyView) -> str:
    """Return what stands beside the table of the best designs."""
    notes = [f"{section.title}: {section.note}." for section in place_sections(view, LEADERBOARD_ROWS)]
    return " ".join([*([view.sentence] if view.sentence else []), *notes, str(view.noise or "")])


def in_markdown(view: StudyView, path: Path, dashboard: str | None) -> str:
    """Return a short account of a study: what its best is worth, what to do next, where its report is."""
    counts = ", ".join(f"{count:,} {state}" for state, count in view.counts.items())
    lines = [f"# Study {view.record.study_id}"]
    if view.sentence:
        lines += [f"**{view.sentence}**", ""]
    if numbers := headline(view):
        lines += ["| | | |", "|---|---|---|"]
        lines += [f"| {one.label} | **{one.value}** | {one.note} |" for one in numbers]
        lines += [""]
    if steps := next_steps(view, path.parent.absolute() / "models"):
        lines += ["What to do next:"]
        lines += [f"- {one.text}{f' `{one.command}`' if one.command else ''}" for one in steps]
        lines += [""]
    lines += [
        f"- **Designs**: {view.record.n_designs:,} ({counts})",
        f"- **Report**: `{path.absolute()}`",
    ]
    if view.noise:
        lines.append(f"- **Order**: {view.noise}")
    if dashboard:
        lines.append(f"- **Dask dashboard**: <{dashboard}>")
    return "\n".join(lines)


class Watch:
    """Listen to one run of one pipeline: everything is logged, the state of the run stands in artifacts."""

    def __init__(self, name: str) -> None:
        self.suffix = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"
        self.dashboard: str | None = None
        self._progress: Any = None
        self._shown = 0
        self._shown_at = self._logged_at = float("-inf")

    def __call__(self, event: Event) -> None:
        """Log the event, and show it in an artifact where there is one for it."""
        match event:
            case TrialsStored():
                self._show_progress(event)
                return
            case ClusterReady(dashboard=str(dashboard)):
                self.dashboard = dashboard
                create_link_artifact(dashboard, "Dask dashboard", self.key("dashboard"), "Workers and tasks.")
            case RowsRead() | TrainingProgress() | FinalsProgress() if not self._is_due_to_log():
                return
        level = logging.WARNING if isinstance(event, WorkerLost | ReplicaLost) else logging.INFO
        run_logger().log(level, in_words(event))

    def key(self, kind: str) -> str:
        """Return an artifact's key; runs of one pipeline share it, so that Prefect shows them as versions."""
        return f"{kind}-{self.suffix}"

    def _is_due_to_log(self) -> bool:
        now = time.monotonic()
        is_due = now - self._logged_at >= LOG_EVERY_S
        if is_due:
            self._logged_at = now
        return is_due

    def _show_progress(self, event: TrialsStored) -> None:
        done = event.completed + event.failed
        is_last = done == event.total and self._shown < done
        if self._is_due_to_log() or is_last:
            run_logger().info(in_words(event))
        now = time.monotonic()
        if now - self._shown_at < PROGRESS_EVERY_S and not is_last:
            return
        self._shown, self._shown_at = done, now
        percent = 100.0 * done / max(event.total, 1)
        if self._progress is None:
            self._progress = create_progress_artifact(percent, self.key("progress"), in_words(event))
        else:
            update_progress_artifact(self._progress, percent, in_words(event))

    def show_leaderboard(self, view: StudyView) -> None:
        """Show the best designs as a table."""
        create_table_artifact(leaderboard_rows(view), self.key("leaderboard"), leaderboard_words(view))

    def show_report(self, view: StudyView, path: Path) -> None:
        """Show what came of the study and where to read on."""
        create_markdown_artifact(in_markdown(view, path, self.dashboard), self.key("report"))

    def show_training(self, history: History, written: Sequence[Path]) -> None:
        """Show what a parallel training measured, one row a validation, and what it wrote."""
        rows = [{name: round(value, 4) for name, value in row.items()} for row in history.rows]
        create_table_artifact(rows, self.key("history"), f"Ended by {history.ended_by}.")
        lines = [f"- `{path.absolute()}`" for path in written]
        create_markdown_artifact("\n".join(["# Written", *lines]), self.key("files"))


def run_logger() -> "logging.Logger | logging.LoggerAdapter[Any]":
    """Return the logger of the running task or flow, or a plain one where none runs."""
    try:
        return get_run_logger()
    except MissingContextError:
        # Events of a background thread: there is no run to attach the line to.
        return logging.getLogger("dnnflow.flows")
