"""Print progress while a run goes on, and tables when it is done. Needs rich."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from dnnflow.engines.metrics import METRICS
from dnnflow.events import (
    Event,
    FinalsProgress,
    RowsRead,
    StageFinished,
    StageStarted,
    TrainingProgress,
    TrialsStored,
)
from dnnflow.results.view.next_steps import next_steps
from dnnflow.show.study_tables import (
    PlaceRow,
    PlaceSection,
    measured_section,
    place_sections,
    telling,
    telling_fit,
    timings,
)
from dnnflow.show.wording import in_words, measures_in_words, pace_in_words, staleness_in_words
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    from pathlib import Path

    from dnnflow.engines.records import TrialState
    from dnnflow.parallel.driver.history import History
    from dnnflow.paths import Workspace
    from dnnflow.results.store.run_record import RunRecord
    from dnnflow.results.view.model_score import ModelScore
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.table.store.dataset import Dataset

PLAIN_EVERY_S = 5.0
"""Without a terminal, progress is a line this often."""


class Progress:
    """A listener that shows events: a live bar on a terminal, plain lines elsewhere, on stderr.

    Parameters
    ----------
    stages
        Whether to name the stages: of a run that has but one there is nothing to tell apart.
    """

    def __init__(self, *, quiet: bool = False, stages: bool = True) -> None:
        self._stages = stages
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar = Bar(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._live = self._console.is_terminal and not quiet
        self._last_line = 0.0
        self._first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._end_bar()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case StageStarted() | StageFinished() if not self._stages:
                self._end_bar()
            case StageStarted():
                self._console.print(f"[bold]{event.stage.value}[/bold] {escape(event.detail)}")
            case StageFinished():
                self._end_bar()
                self._console.print(f"  done in {event.seconds_s:.1f} s: {escape(event.detail)}")
            case TrialsStored():
                done = event.completed + event.failed
                self._advance(event, "designs", done, event.total, pace_in_words(event))
            case FinalsProgress():
                self._advance(event, "trainings", event.done, event.total, "")
            case TrainingProgress():
                self._advance(event, "samples", event.samples, event.total, measures_in_words(event))
            case RowsRead():
                if self._live and event.total_bytes is not None:
                    rows = f"{event.rows:,} rows"
                    self._advance(event, "bytes", event.read_bytes, event.total_bytes, rows)
            case _:
                self._console.print(f"  {escape(in_words(event))}")

    def _advance(self, event: Event, unit: str, done: int, total: int, rate: str) -> None:
        """Move the bar, or print a line."""
        if not self._live:
            self._line(event, is_last=done >= total)
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(unit, total=total, rate="")
        self._bar.update(self._task, completed=done, rate=escape(rate))

    def _line(self, event: Event, *, is_last: bool) -> None:
        """Print a line of progress unless the one before is only just gone."""
        if self._first or is_last or time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._first, self._last_line = False, time.monotonic()
            self._console.print(f"  {escape(in_words(event))}")

    def _end_bar(self) -> None:
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None


def show_study(view: "StudyView", workspace: "Workspace", top: int = 10) -> None:
    """Print what a study's best is worth, what to do next, its leaderboard, and where its files are."""
    console, record = Console(highlight=False), view.record
    report, model = workspace.report(record.study_id), workspace.model(record.study_id, 1)
    if view.sentence:
        console.print(f"[bold]{escape(view.sentence)}[/bold]", soft_wrap=True)
    if steps := next_steps(view, model.parent):
        console.print("\nnext", soft_wrap=True)
    for step in steps:
        console.print(f"  {escape(step.text)}", soft_wrap=True)
        if step.command:
            console.print(f"    [cyan]{escape(step.command)}[/cyan]", soft_wrap=True)
    console.print(leaderboard_table(view, top=top))
    if mattered := telling(view.marginals):
        console.print(f"What mattered, as a share of the variance: {', '.join(mattered)}.\n", soft_wrap=True)
    for kind in view.failures:
        console.print(f"failed  {kind.count:,} x {kind.type}: {escape(kind.message)}", soft_wrap=True)
    for note in record.dataset.get("notes") or ():
        console.print(f"table   {escape(note)}", soft_wrap=True)
    console.print(f"study   {record.study_id} ({record.name}, {record.state.value})", soft_wrap=True)
    if model.parent.is_dir():
        console.print(f"models  {model.parent}", soft_wrap=True)
    if report.is_file():
        console.print(f"report  {report}", soft_wrap=True)


def leaderboard_table(view: "StudyView", top: int = 10) -> Group:
    """Return the best designs, a table for each kind of rows, and how far their order can be trusted."""
    sections, tested = place_sections(view, top), measured_section(view)
    title = f"[italic]{escape(view.record.name)}: the best designs[/italic]"
    tables = [_table(one, view.metric.label) for one in [*sections, *([tested] if tested else [])]]
    return Group(title, *tables, f"[dim]{escape(_caption(view))}[/dim]")


def _table(section: PlaceSection, label: str) -> Table:
    """Return a section of the leaderboard; a column that is empty is left out."""
    table = Table(
        title=f"[bold]{escape(section.title)}[/bold]: {escape(section.note)}",
        title_justify="left",
        title_style="",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    is_spread, is_sized = any(one.spread for one in section.rows), any(one.place for one in section.rows)
    for name in ("rank", label, *(["±"] if is_spread else []), "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("design", overflow="fold")
    for name in ("weights", "epochs", "seconds") if is_sized else ():
        table.add_column(name, justify="right", no_wrap=True)
    for row in section.rows:
        measured = (row.score, *([row.spread] if is_spread else []), row.interval)
        table.add_row(row.rank, *measured, escape(row.name), *_size(row))
    return table


def _size(row: PlaceRow) -> tuple[str, ...]:
    """Return weights, epochs and seconds of a design."""
    if row.place is None:
        return ()
    weights = "" if row.place.parameters is None else f"{row.place.parameters:,}"
    return weights, str(row.place.epochs_run), f"{row.place.training_s:.2f}{row.mark}"


def _caption(view: "StudyView") -> str:
    if view.noise is None:
        return "No design has been trained to its end yet."
    lines = [f"≈ {view.noise}" if view.noise.equal > 1 else str(view.noise)]
    lines += [f"Seconds of training: {timings(view)}."]
    if view.flatness:
        lines += [str(view.flatness)]
        fit = telling_fit(view)
        lines += [f"Training time: {fit}."] if fit else []
    return "\n".join(lines)


def show_score(found: "ModelScore") -> None:
    """Print what a model gives on rows whose label is known, then class by class."""
    console = Console(highlight=False)
    left_out = f", {found.left_out:,} without a label left out" if found.left_out else ""
    right = f"{found.rows:,} rows" if found.right is None else f"{found.right:,} of {found.rows:,} rows right"
    console.print(f"{', '.join(found.labels)}: {right}{left_out}", soft_wrap=True)
    console.print(f"{found.label:<18} {found.text}")
    if found.fitted_rows:
        seen = f"fitted to all {found.fitted_rows:,} rows of its study"
        console.print(f"{seen}: on those it looks better than it is", soft_wrap=True)
    for name, value in found.measures.items():
        if name != found.metric:
            console.print(f"{METRICS[name].label:<18} {METRICS[name].told(value)}")
    if not found.classes:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in ("rows", "right", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    for code, (name, row) in enumerate(zip(found.classes, found.confusion, strict=True)):
        predicted = sum(counts[code] for counts in found.confusion)
        table.add_row(escape(name), f"{sum(row):,}", f"{row[code]:,}", f"{predicted:,}")
    console.print(table)


def show_training(history: "History", written: "Sequence[Path]") -> None:
    """Print what a parallel training measured, and which files it wrote."""
    console = Console(highlight=False)
    rate = history.samples / max(history.seconds_s, 1e-9)
    console.print(f"samples    {history.samples:,} in {history.seconds_s:.1f} s, {rate:,.0f} a second "
                  f"(start-up {history.startup_s:.1f} s apart)")  # fmt: skip
    console.print(f"ended by   {history.ended_by}")
    apart = ("epoch", "samples", "elapsed_s", "evaluation_s")
    for name, value in (history.rows[-1] if history.rows else {}).items():
        if name not in apart:
            console.print(f"{name:<10} {value:.4f}")
    if history.staleness:
        console.print(f"staleness  {staleness_in_words(history.staleness)}", soft_wrap=True)
    console.print(replica_table(history))
    for path in written:
        console.print(f"wrote      {path}", soft_wrap=True)


def replica_table(history: "History") -> Table:
    """Return where each replica's seconds went."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    on_gpu = any(totals.gpu_bytes for totals in history.replicas.values())
    names = ("replica", "samples", "pushes", "compute s", "exchange s", "data s", "MB", "starts")
    for name in (*names, *(["GPU MB"] * on_gpu)):
        table.add_column(name, justify="right", no_wrap=True)
    for number, totals in sorted(history.replicas.items()):
        table.add_row(str(number), f"{totals.samples:,}", f"{totals.pushes:,}", f"{totals.compute_s:.2f}",
                      f"{totals.exchange_s:.2f}", f"{totals.data_s:.2f}",
                      f"{totals.resident_bytes / 1e6:,.0f}", str(totals.starts),
                      *[f"{totals.gpu_bytes / 1e6:,.0f}"] * on_gpu)  # fmt: skip
    return table


def show_studies(records: "Sequence[tuple[RunRecord, Mapping[TrialState, int]]]") -> None:
    """Print a table of studies."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("study", "state", "made (UTC)", "trials", "failed"):
        table.add_column(name, no_wrap=True)
    table.add_column("name", overflow="fold")
    for record, counts in records:
        by_name = {state.value: count for state, count in counts.items()}
        trials = sum(by_name.values())
        failed = trials - by_name.get("completed", 0)
        made_at = record.created_at[:16].replace("T", " ")
        table.add_row(record.study_id, record.state.value, made_at, f"{trials:,} of {record.n_designs:,}",
                      f"{failed:,}", escape(record.name))  # fmt: skip
    Console(highlight=False).print(table)


def show_dataset(dataset: "Dataset") -> None:
    """Print what a dataset holds."""
    console = Console(highlight=False)
    console.print(f"dataset   {dataset.id}", soft_wrap=True)
    console.print(f"path      {dataset.path}", soft_wrap=True)
    console.print(f"rows      {dataset.rows['train']:,} to train, {dataset.rows['test']:,} to test")
    console.print(f"features  {dataset.n_features:,}")
    if dataset.task is Task.CLASSIFICATION:
        console.print(f"classes   {dataset.n_classes}: {', '.join(dataset.class_names[:12])}", soft_wrap=True)
    else:
        told = f"{len(dataset.targets.names)} of {dataset.task}: {', '.join(dataset.targets.names[:12])}"
        console.print(f"targets   {told}", soft_wrap=True)
    for note in dataset.notes:
        console.print(f"note      {escape(note)}", soft_wrap=True)
