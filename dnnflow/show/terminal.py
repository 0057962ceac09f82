"""Print progress while a run goes on, and tables when it is done. Needs rich."""

import shlex
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from dnnflow.engines.metrics import METRICS
from dnnflow.errors import ReadingWarning
from dnnflow.events import (
    Compiling,
    Event,
    FinalsProgress,
    RowsRead,
    StageFinished,
    StageStarted,
    TrainingProgress,
    TrialsStored,
)
from dnnflow.paths import disk_bytes
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
from dnnflow.show.wording import (
    in_words,
    measures_in_words,
    pace_in_words,
    size_in_words,
    staleness_in_words,
)
from dnnflow.table.columns.column_row import share_in_words
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    from pathlib import Path

    from dnnflow.engines.records import TrialState
    from dnnflow.parallel.driver.history import History
    from dnnflow.paths import Workspace
    from dnnflow.results.store.deletion import DeletionPlan, DiskUse
    from dnnflow.results.store.run_record import RunRecord
    from dnnflow.results.view.model_score import ModelScore
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.settings import Settings
    from dnnflow.table.store.dataset import Dataset
    from dnnflow.table.store.survey import Survey

LEAST_FOLDED = 20
"""Characters of a column's text that is folded to lines of them."""
PADDING = 2
"""Characters that a column takes besides its text, at most."""
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
        self._compiling = 0

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
            case Compiling():
                if event.workers and not self._compiling:
                    self._console.print(f"  {escape(in_words(event))}")
                self._compiling = event.workers
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
        self._bar.update(self._task, completed=done, total=total, rate=escape(rate + self._also))

    def _line(self, event: Event, *, is_last: bool) -> None:
        """Print a line of progress unless the one before is only just gone."""
        if self._first or is_last or time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._first, self._last_line = False, time.monotonic()
            self._console.print(f"  {escape(in_words(event))}{self._also}")

    @property
    def _also(self) -> str:
        return f", compiling on {self._compiling}" if self._compiling else ""

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
    console.print(leaderboard_table(view, top=top, width=console.width))
    if mattered := escape(", ".join(telling(view.marginals))):
        console.print(f"What mattered, as a share of the variance: {mattered}.\n", soft_wrap=True)
    for kind in view.failures:
        console.print(f"failed  {kind.count:,} x {kind.type}: {escape(kind.message)}", soft_wrap=True)
    for note in record.dataset.get("notes") or ():
        console.print(f"table   {escape(note)}", soft_wrap=True)
    name, standing = escape(record.name), record.standing.value
    console.print(f"study   {record.study_id} ({name}, {standing})", soft_wrap=True)
    for name, text in (("tags", ", ".join(record.tags)), ("note", record.note)):
        if text:
            console.print(f"{name:<7} {escape(text)}", soft_wrap=True)
    if model.parent.is_dir():
        console.print(f"models  {escape(str(model.parent))}", soft_wrap=True)
    if report.is_file():
        console.print(f"report  {escape(str(report))}", soft_wrap=True)


def leaderboard_table(view: "StudyView", top: int = 10, width: int = 120) -> Group:
    """Return the best designs, a table for each kind of rows, and how far their order can be trusted."""
    sections, tested = place_sections(view, top), measured_section(view)
    title = f"[italic]{escape(view.record.name)}: the best designs[/italic]"
    tables = [_table(one, view.metric.label, width) for one in [*sections, *([tested] if tested else [])]]
    return Group(title, *tables, f"[dim]{escape(_caption(view))}[/dim]")


def _table(section: PlaceSection, label: str, width: int) -> Table:
    """Return a section of the leaderboard, without columns that are empty or that there is no room for."""
    table = Table(
        title=f"[bold]{escape(section.title)}[/bold]: {escape(section.note)}",
        title_justify="left",
        title_style="",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    is_spread, is_sized = any(one.spread for one in section.rows), any(one.place for one in section.rows)
    names = ["rank", label, *(["±"] if is_spread else []), "95 % interval", "design"]
    names += ["weights", "epochs", "seconds"] if is_sized else []
    rows = [
        (row.rank, row.score, *([row.spread] if is_spread else []), row.interval, row.name, *_size(row))
        for row in section.rows
    ]
    shown = _fitting(names, rows, width, folds="design", spare=("epochs", "weights", "seconds", "±"))
    for place in shown:
        if names[place] == "design":
            table.add_column("design", overflow="fold")
        else:
            table.add_column(names[place], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[place]) if place < len(row) else "" for place in shown))
    return table


def _fitting(
    names: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, folds: str, spare: Sequence[str]
) -> list[int]:
    """Return the columns of a table that a screen has room for, in order.

    Parameters
    ----------
    width
        Characters of the screen.
    folds
        The column whose text may take several lines: it keeps `LEAST_FOLDED` characters where it needs them.
    spare
        Columns that may be left out, the first one first.
    """
    needs = {
        name: max([len(name), *(len(row[place]) for row in rows if place < len(row))]) + PADDING
        for place, name in enumerate(names)
    }
    needs[folds] = min(needs[folds], LEAST_FOLDED + PADDING)
    left_out = set[str]()
    for name in spare:
        if sum(need for one, need in needs.items() if one not in left_out) > width:
            left_out.add(name)
    return [place for place, name in enumerate(names) if name not in left_out]


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
    console.print(f"{escape(', '.join(found.labels))}: {right}{left_out}", soft_wrap=True)
    console.print(f"{found.label:<18} {found.text}")
    if found.fitted_rows:
        seen = f"fitted to all {found.fitted_rows:,} rows of its study"
        console.print(f"{seen}: on those it looks better than it is", soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
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
    console.print(f"ended by   {escape(str(history.ended_by))}")
    apart = ("epoch", "samples", "elapsed_s", "evaluation_s")
    for name, value in (history.rows[-1] if history.rows else {}).items():
        if name not in apart:
            console.print(f"{escape(name):<10} {value:.4f}")
    if history.staleness:
        console.print(f"staleness  {staleness_in_words(history.staleness)}", soft_wrap=True)
    console.print(replica_table(history))
    for path in written:
        console.print(f"wrote      {escape(str(path))}", soft_wrap=True)


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


def show_studies(records: "Sequence[tuple[RunRecord, Mapping[TrialState, int]]]",
                 uses: "Sequence[DiskUse] | None" = None) -> None:  # fmt: skip
    """Print a table of studies, with the disk that each takes where that is given."""
    from dnnflow.results.view.study_view import measured_best, metric_of_study

    console = Console(highlight=False)
    names = ("study", "state", "made (UTC)", "trials", "failed", *(["disk"] if uses else []), "test rows",
             "name")  # fmt: skip
    rows = []
    for at, (record, counts) in enumerate(records):
        by_name = {state.value: count for state, count in counts.items()}
        trials = sum(by_name.values())
        failed = trials - by_name.get("completed", 0)
        made_at = record.created_at[:16].replace("T", " ")
        told = f"{trials:,} of {record.n_designs:,}"
        named = " ".join([record.name, *(f"#{tag}" for tag in record.tags)])
        disk = [size_in_words(uses[at].own_bytes)] if uses else []
        best = measured_best(record)
        worth = "" if best is None else f"{best.role} {metric_of_study(record).text(best.score)}"
        rows.append((record.study_id, record.standing.value, made_at, told, f"{failed:,}", *disk, worth,
                     named))  # fmt: skip
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown = _fitting(names, rows, console.width, folds="name", spare=("failed", "made (UTC)", "test rows"))
    for place in shown:
        table.add_column(names[place], no_wrap=names[place] != "name", overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[place]) for place in shown))
    console.print(table)
    if uses:
        pairs = zip(records, uses, strict=True)
        datasets = {record.dataset_id: use.dataset_bytes for (record, _), use in pairs}
        own = size_in_words(sum(use.own_bytes for use in uses))
        console.print(f"in all  {own}, and {size_in_words(sum(datasets.values()))} of their datasets "
                      f"({len(datasets):,})", soft_wrap=True)  # fmt: skip


def show_survey(found: "Survey", name: str, reading: "Mapping[str, str]") -> None:
    """Print what the columns of a table hold, and which is most likely the label.

    `reading` are the options, and their values, that the table was read by.
    """
    console = Console(highlight=False)
    looked_at = "" if found.is_whole else "the first "
    rows = f"{found.rows:,} rows, {len(found.columns):,} columns"
    console.print(f"{escape(name)}: {looked_at}{rows}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("column", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("missing", justify="right", no_wrap=True)
    table.add_column("different", justify="right", no_wrap=True)
    table.add_column("such as", overflow="fold")
    for one in found.columns:
        is_label = one.name == found.label
        name_, missing = escape(one.name), found.rows - one.values
        told = f"left out: {one.why_useless}" if one.why_useless else ", ".join(one.examples)
        table.add_row(
            f"[bold]{name_}[/bold]" if is_label else name_, str(one.kind), f"{missing:,}" if missing else "",
            one.distinct, escape(told),
        )  # fmt: skip
    console.print(table)
    if found.label is None:
        console.print("No column looks like a label: name one with --label.")
    else:
        options = [word for option, value in {**reading, "label": found.label}.items()
                   for word in (f"--{option}", value) if word]  # fmt: skip
        command = shlex.join(["dnnflow", "search", name, *options])
        console.print(f"The label may be {escape(repr(found.label))}:\n  [cyan]{escape(command)}[/cyan]",
                      soft_wrap=True)  # fmt: skip


@contextmanager
def notes_told() -> Iterator[None]:
    """Print how new rows were read on stderr, where that may not be meant."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", ReadingWarning)
        try:
            yield
        finally:
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            told = (str(note.message) for note in noted if issubclass(note.category, ReadingWarning))
            for text in dict.fromkeys(told):
                console.print(f"note: {escape(text)}")


def show_home(settings: "Settings", unused: "Sequence[Path]" = ()) -> None:
    """Print where studies are kept, and which datasets none of them uses."""
    console, home = Console(highlight=False), settings.workspace.home.absolute()
    if unused:
        taken = size_in_words(sum(map(disk_bytes, unused)))
        console.print(f"unused  {taken} of datasets that no study uses ({len(unused):,}); "
                      "dnnflow clean --older-than 30d --datasets removes them", soft_wrap=True)  # fmt: skip
    place = f"{home} (of this directory)" if settings.is_local else str(home)
    console.print(f"home    {escape(place)}; --home or DNNFLOW_HOME names another", soft_wrap=True)
    if settings.store_url != settings.workspace.store_url:
        console.print("store   of DNNFLOW_STORE", soft_wrap=True)


def show_deletion(plan: "DeletionPlan") -> None:
    """Print what is about to be deleted."""
    console = Console(highlight=False)
    if not plan.runs and not plan.datasets:
        console.print("nothing to delete")
    for record, taken in plan.runs:
        made_at = record.created_at[:16].replace("T", " ")
        facts = (made_at, record.state.value, size_in_words(taken), record.name)
        what = "  ".join([f"{record.kind.value} {record.run_id}", *facts])
        console.print(escape(what), soft_wrap=True)
        if why := plan.kept.get(record.run_id):
            console.print(escape(f"  its dataset stays: {why}"), soft_wrap=True)
    for path, taken in plan.datasets.items():
        console.print(escape(f"dataset {path}  {size_in_words(taken)}"), soft_wrap=True)


MOST_COLUMNS = 60
"""Of a dataset that are printed."""


def show_dataset(dataset: "Dataset", *, is_kept: bool = True) -> None:
    """Print what a dataset holds, and where it is kept."""
    console = Console(highlight=False)
    if is_kept:
        console.print(f"dataset   {dataset.id}", soft_wrap=True)
        console.print(f"path      {escape(str(dataset.path))}", soft_wrap=True)
    console.print(f"rows      {dataset.rows['train']:,} to train, {dataset.rows['test']:,} to test")
    console.print(f"features  {dataset.n_features:,}")
    if dataset.task is Task.CLASSIFICATION:
        names = escape(", ".join(dataset.class_names[:12]))
        console.print(f"classes   {dataset.n_classes}: {names}", soft_wrap=True)
    else:
        told = f"{len(dataset.targets.names)} of {dataset.task}: {', '.join(dataset.targets.names[:12])}"
        console.print(f"targets   {escape(told)}", soft_wrap=True)
    for note in dataset.notes:
        console.print(f"note      {escape(note)}", soft_wrap=True)
    _show_column_rows(console, dataset)


def _show_column_rows(console: Console, dataset: "Dataset") -> None:
    """Print of each column of a dataset what it holds and became; of many the first ones."""
    rows = dataset.column_rows
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("column", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("missing", justify="right", no_wrap=True)
    table.add_column("different", justify="right", no_wrap=True)
    table.add_column("became", overflow="fold")
    for row in rows[:MOST_COLUMNS]:
        missing = share_in_words(row.missing)
        table.add_row(escape(row.name), row.kind, missing, row.different, escape(row.became))
    console.print(table)
    if len(rows) > MOST_COLUMNS:
        console.print(f"… {len(rows) - MOST_COLUMNS:,} more columns; --json tells all")
