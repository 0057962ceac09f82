"""A study's leaderboard as text for a terminal."""

from rich import box
from rich.markup import escape
from rich.table import Table

from dnnflow.results.view.study_view import StudyView
from dnnflow.show.study_tables import time_marks, timings


def leaderboard_table(view: StudyView, top: int = 10) -> Table:
    """Return the best designs as a table; the caption says how far its order can be trusted."""
    title = f"{escape(view.record.name)}: the best designs"
    table = Table(
        title=title,
        caption=_caption(view),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("rank", "accuracy", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("design", overflow="fold")
    for name in ("weights", "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    marks = time_marks(view)
    for place, mark in zip(view.leaderboard[:top], marks, strict=False):
        table.add_row(
            f"{'≈ ' if place.within_noise and place.rank > 1 else ''}{place.rank}",
            f"{place.test_accuracy:.4f}",
            f"{place.low:.3f} – {place.high:.3f}",
            escape(place.design),
            "" if place.parameters is None else f"{place.parameters:,}",
            str(place.epochs_run),
            f"{place.training_s:.2f}{mark}",
        )
    return table


def _caption(view: StudyView) -> str:
    if view.noise is None:
        return "No design has been trained to its end yet."
    lines = [f"≈ {view.noise}" if view.noise.equal > 1 else str(view.noise)]
    lines += [f"Seconds of training: {timings(view)}."]
    if view.flatness:
        lines += [str(view.flatness)]
        lines += [f"Training time: {view.time_fit}."] if view.time_fit else []
    return "\n".join(lines)
