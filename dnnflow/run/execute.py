"""Do a run, stage by stage or whole: from the upload of a table to a refit."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import fsspec
import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.epoch_rows import TrainingRows, class_weights
from dnnflow.engines.losses import loss_of
from dnnflow.engines.metrics import metric_of
from dnnflow.errors import DataError, InputError, OutputError, StudyError
from dnnflow.events import Draw, Listener, Notice, Stage, StageFinished, StageStarted, ignore
from dnnflow.execute.opening import executor_on, lend, open_client
from dnnflow.paths import content_id, write_file
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunRecord, mask_credentials
from dnnflow.results.store.store import Store
from dnnflow.results.view.design_measures import store_measures
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.final_model import train_final_model
from dnnflow.run.final_stage import has_final_model, has_finals, options_told, train_finals
from dnnflow.run.final_test import hand_out
from dnnflow.run.models.model_export import save_raw_models
from dnnflow.run.refit import best_design, is_refitted, refit_design
from dnnflow.run.run import Run, StudyRun, TrainingRun
from dnnflow.run.run_row import RunRow, recorded
from dnnflow.run.study import Study
from dnnflow.run.timed_screen import TimedScreen, first_designs
from dnnflow.run.train import Trained, open_workers, outcome_of_training, train_pipeline, write_trained
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.split import Part
from dnnflow.table.formats.open_table import find_tables, names_many
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.execute.executor import Executor
    from dnnflow.parallel.driver.history import History


@dataclass(frozen=True)
class StudyEnd:
    """A study at the end of its run."""

    study: Study
    view: StudyView
    """All numbers of it: computed once a run, and handed to whoever shows or uses them."""


@dataclass(frozen=True)
class TrainingEnd:
    """A parallel training at the end of its run."""

    model: Any
    history: "History"
    written: tuple[Path, ...]
    """The model first."""


@overload
def execute(run: StudyRun, *, draw: Draw, client: "Client | None" = ...,
            listener: Listener = ...) -> StudyEnd: ...  # fmt: skip


@overload
def execute(run: TrainingRun, *, draw: Draw, client: "Client | None" = ...,
            listener: Listener = ...) -> TrainingEnd: ...  # fmt: skip


def execute(run: Run, *, draw: Draw, client: "Client | None" = None,
            listener: Listener = ignore) -> StudyEnd | TrainingEnd:  # fmt: skip
    """Do all stages of a run in this process.

    An unfinished study goes on with what is missing; one that has finished before is shown as it is, with
    the copy of the report and the refit that its pipeline asks for.

    Parameters
    ----------
    draw
        Writes reports.
    client
        A Dask client, which is left open; without one the pipeline says where to run.

    Raises
    ------
    StudyStopped
        If somebody asks for it meanwhile.
    DnnflowError
        Saying the rule, what was got and the remedy.
    """
    lend(client)
    with recorded(run, listener) as row:
        if isinstance(run, TrainingRun):
            return _execute_training(run, draw, client, row)
        end = _execute_study(run, draw, client, row)
    return replace(end, view=replace(end.view, record=end.study.record))  # it says that it has ended


def _execute_study(run: StudyRun, draw: Draw, client: "Client | None", row: RunRow) -> StudyEnd:
    if run.study is None:  # before a cluster is waited for
        upload(run.pipeline, row)
    with Workers(run, client, row) as workers:
        study = run.study or _begin_on_table(run, workers.client, row)
        report_file = study.settings.workspace.report(study.id)
        is_shown = study.is_trained and report_file.is_file() and _has_outcome(study)
        had_finished = is_shown and run.study is None  # one that is resumed has its files written anew
        if had_finished:
            row(Notice(f"study {study.id} has finished before; a new one is made with --new"))
            view = study.view()
        else:
            if not study.is_trained:
                train(study, workers.executor(), until_s=run.until_s, listener=row)
            view = aggregate(study, row)
            if has_finals(study, view):
                view = finalists(study, view, workers.executor(), row)
            view = measure_once(study, view, row)
            if has_final_model(study, view):
                view = fit_all_rows(study, view, workers.executor(), row)
    if had_finished:
        _copy_report(run, study)
    else:
        report(run, study, view, draw, row)
    refit(run, study, view, client=client, listener=row)
    row.error = why_useless(view)
    return StudyEnd(study, view)


def _has_outcome(study: Study) -> bool:
    """Whether a study was tested and trained on all rows, with the options that its pipeline has now."""
    outcome = study.record.outcome
    if outcome is None or "options" not in outcome:  # of an older one
        return outcome is not None
    return bool(outcome["options"] == options_told(study) and "final" in outcome)


def _begin_on_table(run: StudyRun, client: "Client | None", row: RunRow) -> Study:
    return begin(run, preprocess(run.pipeline, run.settings, client=client, listener=row), row, row)


def _execute_training(run: TrainingRun, draw: Draw, client: "Client | None", row: RunRow) -> TrainingEnd:
    placed = prepare_training(run, row)
    trained = train_model(placed, run.settings, client=client, listener=row)
    return TrainingEnd(trained.model, trained.history, write_training(run, trained, placed, draw, row))


def upload(pipeline: Pipeline, listener: Listener = ignore) -> None:
    """Look whether the table is there.

    Raises
    ------
    DataError
        If it cannot be reached.
    """
    url = pipeline.dataset.source
    with stage(Stage.UPLOAD, url, listener) as came_of_it:
        if names_many(url):
            found = find_tables(pipeline.source)
            came_of_it.append("a database" if found[0].kind == "sql" else f"{len(found):,} files")
            return
        try:
            file_system, path = fsspec.core.url_to_fs(url, **pipeline.dataset.storage_options)
            info = file_system.info(path)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"dataset.source must be a file that can be read, got {url}: "
                f"{error or type(error).__name__}; check the path, the address or dataset.storage_options"
            ) from error
        if info.get("type") == "directory":
            raise DataError(
                f"dataset.source must be a file, got the directory {url}; name its files by a glob"
            )
        size = info.get("size")
        came_of_it.append(f"{size:,} bytes" if size is not None else "size unknown")


def preprocess(pipeline: Pipeline, settings: Settings, *, client: "Client | None" = None,
               listener: Listener = ignore) -> Dataset:  # fmt: skip
    """Make the dataset of a pipeline, or find it again.

    Raises
    ------
    DataError
        For everything wrong with the table, with row, column and value.
    """
    lend(client)
    with stage(Stage.PREPROCESS, f"label {', '.join(pipeline.dataset.labels)}", listener) as came_of_it:
        dataset = ingest(
            pipeline.source, pipeline.recipe, settings.workspace.datasets, client=client, listener=listener
        )
        came_of_it.append(
            f"{dataset.rows['train']:,} rows to train, {dataset.rows['test']:,} to test, "
            f"{dataset.n_features} features, {dataset.n_outputs} "
            + ("classes" if dataset.task is Task.CLASSIFICATION else f"targets of {dataset.task}")
        )
    return dataset


def begin(run: StudyRun, dataset: Dataset, listener: Listener = ignore, row: RunRow | None = None) -> Study:
    """Return the study of a run on its preprocessed table: one that goes on, or a new one.

    A study that goes on takes device, executor and outputs from this run's pipeline: they are no part of its
    key.

    Parameters
    ----------
    row
        Of the run; it becomes the study's.

    Raises
    ------
    InputError
        If the metric or the loss is for another task than the table's.
    ConflictError
        If another study has the run's id.
    StudyError
        If another living process trains the study.
    """
    pipeline, store = run.pipeline, Store(run.settings.store_url)
    is_timed = pipeline.minutes is not None
    designs = first_designs(pipeline) if is_timed else draw_designs(pipeline)
    if pipeline.designs is not None and len(designs) < pipeline.designs:
        listener(Notice(f"the space holds {len(designs):,} different designs, not {pipeline.designs:,}"))
    check_parts(pipeline, dataset)
    key = study_key(pipeline, dataset, designs)
    path, plain = str(dataset.path.absolute()), mask_credentials(pipeline.plain())
    known = run.find(store, key)
    if known is not None:
        if is_timed and "minutes" not in known.pipeline:  # its time has come to so many designs
            plain = {name: value for name, value in plain.items() if name != "minutes"}
            plain["designs"] = known.pipeline["designs"]
        store.renew(known.run_id, pipeline=plain, dataset_path=path)
        store.start(known.run_id)
    else:
        known = RunRecord(
            run_id=(row.run_id if row else None) or run.new_id(store),
            key=key,
            name=pipeline.name,
            dataset_id=dataset.id,
            dataset_path=path,
            n_designs=len(designs),
            pipeline=plain,
            dataset=dataset.describe(),
        )
        store.add_study(known, designs)
    if row is not None:
        row.move_to(known.run_id)
    return Study(store, run.settings, known.run_id)


def check_parts(pipeline: Pipeline, dataset: Dataset) -> None:
    """Check that the rows that designs are compared on can be held back, before all fail for it one by one.

    Raises
    ------
    InputError
        If there are too few rows, groups or instants, the metric, the loss or weights of classes are for
        another task, or the metric is not defined on these rows.
    """
    settings = pipeline.training_settings
    metric = metric_of(settings.metric, dataset.task, dataset.n_outputs)
    loss_of(settings.loss, settings.quantile, dataset.task)
    class_weights(dataset, settings.class_weight)
    compared = TrainingRows(dataset, settings).measured_labels()
    for labels, what in ((compared, "designs are compared on"), (dataset.labels("test"), "are for the test")):
        outputs = np.full((len(labels), dataset.n_outputs), 1 / dataset.n_outputs, np.float32)
        if metric.score(labels, outputs) is None:
            raise InputError(
                f"{metric.label} needs rows that differ among those that {what}, got {len(labels):,} rows "
                "that do not; hold out more rows, or set another evaluation.metric"
            )
    if pipeline.evaluation.folds is not None:
        dataset.part(Part(folds=pipeline.evaluation.folds))


def study_key(pipeline: Pipeline, dataset: Dataset, designs: list[Design]) -> str:
    """Return what makes two studies the same: sha256 of dataset, designs and training settings.

    Of a study by time, the time and what its designs are drawn from instead of them.
    """
    training = pipeline.training_settings.identity()
    drawn: Any = [x.design_id for x in designs]
    if pipeline.minutes is not None:
        space = pipeline.space.to_space().to_dict()
        drawn = {"minutes": pipeline.minutes, "space": space, "seed": pipeline.seed}
    return content_id({"dataset": dataset.id, "designs": drawn, "training": training})


class Workers:
    """The cluster of a run: one that is given or named from the beginning, else from the first use on.

    Until then a table is preprocessed by threads of this process, so that what is wrong with it is told at
    once.
    """

    def __init__(self, run: StudyRun, client: "Client | None", listener: Listener) -> None:
        self._run, self._listener, self._stack = run, listener, ExitStack()
        self._executor: Executor | None = None
        self.client = client
        """None in this process, and before a cluster of the run's own is started."""

    def __enter__(self) -> Self:
        section = self._run.pipeline.executor
        is_named = bool(section.address or section.scheduler_file or self._run.settings.cluster)
        if self.client is not None or is_named:
            self.client = self._open()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def executor(self) -> "Executor":
        """Return what trains designs; starts a cluster where the run has to have one of its own."""
        if self._executor is None:
            self._executor = executor_on(self._open())
        return self._executor

    def _open(self) -> "Client | None":
        section = self._run.pipeline.executor.model_dump(mode="json")
        opened = open_client(section, self._run.settings, client=self.client, listener=self._listener)
        return self._stack.enter_context(opened)


def train(study: Study, executor: "Executor", *, shard: tuple[int, int] | None = None,
          until_s: float | None = None, listener: Listener = ignore) -> int:  # fmt: skip
    """Train the missing designs of a study, or of its i-th of n parts; return how many were trained.

    Of a study by time, as many as there is time for until `until_s`, when the whole study should have ended
    (default: all its minutes from now).
    """
    if study.pipeline.minutes is not None:
        told = f"study {study.id}: as many designs as {study.pipeline.minutes:g} minutes allow"
        with stage(Stage.TRAIN, told, listener) as came_of_it:
            trained = TimedScreen(study, executor, until_s, listener).train(shard)
            came_of_it.append(f"{trained:,} designs trained, {len(study.designs):,} in all")
        return trained
    missing = len(study.missing(shard))
    part = f", part {shard[0] + 1} of {shard[1]}" if shard else ""
    with stage(
        Stage.TRAIN, f"study {study.id}: {missing:,} of {len(study.designs):,} designs{part}", listener
    ) as came_of_it:
        study.train(executor, shard=shard, listener=listener)
        came_of_it.append(f"{missing:,} designs trained")
    return missing


def aggregate(study: Study, listener: Listener = ignore) -> StudyView:
    """Rank the designs, and look at what their parameters did."""
    with stage(Stage.AGGREGATE, f"study {study.id}", listener) as came_of_it:
        store_measures(study.store, study.id, study.settings.workspace, study.dataset.task)
        view = study.view()
        came_of_it.append(f"{len(view.trials):,} designs completed")
    return view


def finalists(study: Study, view: StudyView, executor: "Executor", listener: Listener = ignore) -> StudyView:
    """Train the best designs again, with folds and seeds; return the view with their order.

    Nothing is trained where no design completed, the pipeline asks for no finalist, or designs are compared
    on test rows.
    """
    with stage(Stage.FINALISTS, f"study {study.id}", listener) as came_of_it:
        finals = train_finals(study, view, executor, listener)
        if finals is None:
            came_of_it.append("no finalist completed all its trainings")
            return view
        first = finals.finalists[0]
        came_of_it.append(f"{len(finals.finalists)} designs trained {first.trainings} times each")
        came_of_it += [f"{len(finals.ensemble)} of them in the ensemble"] if finals.ensemble else []
    return study.view()


def measure_once(study: Study, view: StudyView, listener: Listener = ignore) -> StudyView:
    """Save the best models, measured on the test rows beside baselines; return the view with the numbers."""
    with stage(Stage.TEST, f"study {study.id}", listener) as came_of_it:
        saved, tested = hand_out(study, view, listener)
        came_of_it.append(f"{len(saved)} models saved")
        came_of_it += [f"{one.name} {one.score:.4f}" for one in tested if one.rank == 1 or one.rank is None]
        came_of_it += _for_raw_rows(study, listener)
    return replace(view, tested=tested, final_rows=None)


def _for_raw_rows(study: Study, listener: Listener) -> list[str]:
    """Save models for raw rows, too, if the pipeline says so; return what came of it."""
    if not study.pipeline.outputs.raw:
        return []
    folder = study.settings.workspace.final_model(study.id).parent
    return [f"{len(save_raw_models(folder, listener))} models for raw rows"]


def fit_all_rows(
    study: Study, view: StudyView, executor: "Executor", listener: Listener = ignore
) -> StudyView:
    """Train what is handed out once more on all rows, test rows too; return the view that tells of it."""
    with stage(Stage.FINAL, f"study {study.id}", listener) as came_of_it:
        final = train_final_model(study, view, executor, listener)
        came_of_it.append(
            "nothing was trained on all rows" if final is None else f"{final.path}: {final.name}"
        )
        came_of_it += _for_raw_rows(study, listener)
    return replace(view, final_rows=None if final is None else final.rows)


def report(run: StudyRun, study: Study, view: StudyView, draw: Draw,
           listener: Listener = ignore) -> Path:  # fmt: skip
    """Write the HTML report of a study, and a copy where the pipeline says; return the study's own."""
    written = study.settings.workspace.report(study.id)
    with stage(Stage.REPORT, f"study {study.id}", listener) as came_of_it:
        draw(view, written)
        _copy_report(run, study)
        came_of_it.append(str(written))
    return written


def _copy_report(run: StudyRun, study: Study) -> None:
    if run.pipeline.outputs.report:
        report = study.settings.workspace.report(study.id)
        try:
            write_file(Path(run.pipeline.outputs.report), report.read_bytes())
        except OutputError as error:
            raise OutputError(f"{error}; the report of study {study.id} is in {report}") from error


def refit(run: StudyRun, study: Study, view: StudyView, *, client: "Client | None" = None,
          listener: Listener = ignore) -> Path | None:  # fmt: skip
    """Train the best design on the whole table, if the pipeline says so; return the model's file.

    None without a refit section, or where no design completed. A model that was trained so before is kept.
    """
    section = run.pipeline.refit
    design = best_design(study, view) if section is not None else None
    if section is None or design is None:
        return None
    if is_refitted(study, design, section):
        return study.settings.workspace.refit(study.id)
    detail = f"study {study.id}: {design.describe()} on training and test rows"
    plain = run.pipeline.executor.model_dump(mode="json", exclude_unset=True)
    with (
        stage(Stage.REFIT, detail, listener) as came_of_it,
        open_workers(plain, run.settings, client=client, listener=listener) as opened,
    ):
        path, history = refit_design(study, design, section, opened, listener)
        came_of_it.append(f"{history.samples:,} samples in {history.seconds_s:.1f} s")
        came_of_it.append(f"{path}; no row was held out, so its accuracy was not measured")
    return path


def why_useless(view: StudyView) -> str | None:
    """Say why no design of a finished study completed: the most frequent failure; None where one did."""
    if view.noise is not None or not view.failures:
        return None
    worst = view.failures[0]
    return (
        f"a study needs a design that completes, got {worst.count:,} failures of {worst.type}: "
        f"{worst.message}; mend what it says, then dnnflow resume {view.record.study_id} --failed"
    )


def require_success(view: StudyView) -> None:
    """Look whether a design of a finished study completed.

    Raises
    ------
    StudyError
        With the most frequent failure.
    """
    if why := why_useless(view):
        raise StudyError(why)


def prepare_training(run: TrainingRun, listener: Listener = ignore) -> TrainPipeline:
    """Prepare the table of a parallel training, if there is one, and return the training with its rows.

    Raises
    ------
    DataError
        For everything wrong with the table.
    """
    table, workspace = run.pipeline.table, run.settings.workspace
    if table is None:
        return run.pipeline.placed(workspace)
    upload(table, listener)
    dataset = preprocess(table, run.settings, listener=listener)
    return run.pipeline.placed(workspace, str(dataset.path))


def train_model(placed: TrainPipeline, settings: Settings, *, client: "Client | None" = None,
                listener: Listener = ignore) -> Trained:  # fmt: skip
    """Train as a pipeline says whose rows are there."""
    with stage(Stage.TRAIN, f"{placed.model.source}, data-parallel", listener) as came_of_it:
        trained = train_pipeline(placed, settings, client=client, listener=listener)
        came_of_it.append(f"{trained.history.samples:,} samples in {trained.history.seconds_s:.1f} s")
    return trained


def write_training(
    run: TrainingRun, trained: Trained, placed: TrainPipeline, draw: Draw, row: RunRow
) -> tuple[Path, ...]:  # fmt: skip
    """Write a training's files, the model first, and what its row keeps of it.

    Raises
    ------
    OutputError
        If one cannot be written where it was asked to, and where it is instead.
    """
    written = write_trained(trained, placed, draw, run.settings.workspace.saved(row.run_id))
    row.outcome = outcome_of_training(trained, written.files)
    if written.problems:
        raise OutputError(". ".join(written.problems))
    return tuple(written.files)


@contextmanager
def stage(stage: Stage, detail: str, listener: Listener) -> Iterator[list[str]]:
    """Tell when a stage starts and ends; what the block appends to the list is said at the end."""
    start = time.monotonic()
    listener(StageStarted(stage, detail))
    came_of_it: list[str] = []
    yield came_of_it
    listener(StageFinished(stage, ", ".join(came_of_it), time.monotonic() - start))
