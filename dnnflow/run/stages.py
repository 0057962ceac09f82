"""The stages of a study as plain functions, called alike by the command line, Python, flows and the web."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec

from dnnflow.design.layers import Design
from dnnflow.engines.seam import now
from dnnflow.errors import DataError, StudyError
from dnnflow.events import Draw, Listener, Notice, Stage, StageFinished, StageStarted, ignore
from dnnflow.execute.opening import executor_on, open_client
from dnnflow.paths import content_id
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import (
    RunRecord,
    RunState,
    check_study_id,
    mask_credentials,
    new_study_id,
    taken_id,
)
from dnnflow.results.store.store import Store
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.refit import best_design, is_refitted, refit_design
from dnnflow.run.study import Study
from dnnflow.run.train import open_workers
from dnnflow.settings import Settings
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.execute.executor import Executor


@dataclass(frozen=True)
class Upload:
    """A table that is there and can be read."""

    url: str
    size_bytes: int | None
    """As stored (compressed); None where the file system does not say."""


def upload(pipeline: Pipeline, listener: Listener = ignore) -> Upload:
    """Look whether the table is there.

    Raises
    ------
    DataError
        If it cannot be reached.
    """
    url = pipeline.dataset.source
    with stage(Stage.UPLOAD, url, listener) as told:
        try:
            file_system, path = fsspec.core.url_to_fs(url, **pipeline.dataset.storage_options)
            info = file_system.info(path)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"dataset.source must be a file that can be read, got {url}: "
                f"{error or type(error).__name__}; check the path, the address or dataset.storage_options"
            ) from error
        if info.get("type") == "directory":
            raise DataError(f"dataset.source must be a file, got the directory {url}; name a CSV in it")
        size = info.get("size")
        told.append(f"{size:,} bytes" if size is not None else "size unknown")
    return Upload(url, size)


def preprocess(pipeline: Pipeline, settings: Settings, *, client: "Client | None" = None,
               listener: Listener = ignore) -> Dataset:  # fmt: skip
    """Make the dataset of a pipeline, or find it again.

    Raises
    ------
    DataError
        For everything wrong with the table, with row, column and value.
    """
    with stage(Stage.PREPROCESS, f"label {pipeline.dataset.label}", listener) as told:
        dataset = ingest(
            pipeline.source, pipeline.recipe, settings.workspace.datasets, client=client, listener=listener
        )
        told.append(
            f"{dataset.rows['train']:,} rows to train, {dataset.rows['test']:,} to test, "
            f"{dataset.n_features} features, {dataset.n_classes} classes"
        )
    return dataset


def begin(pipeline: Pipeline, dataset: Dataset, settings: Settings, *, new: bool = False,
          study_id: str | None = None, listener: Listener = ignore) -> Study:  # fmt: skip
    """Return the study of a pipeline: the one of the same key, else (or with `new`) a new one.

    A study that goes on takes device, executor and outputs from this pipeline: they are no part of its key.

    Parameters
    ----------
    study_id
        The id of a new study; the study that has it already goes on, if it is of the same key.

    Raises
    ------
    ConflictError
        If another study has this id.
    InputError
        If it is no id.
    """
    if study_id is not None:
        check_study_id(study_id)
    store = Store(settings.store_url)
    designs = draw_designs(pipeline)
    if pipeline.designs is not None and len(designs) < pipeline.designs:
        listener(Notice(f"the space holds {len(designs):,} different designs, not {pipeline.designs:,}"))
    key = study_key(pipeline, dataset, designs)
    known = _known(store, key, new=new, study_id=study_id)
    path = str(dataset.path.absolute())
    plain = mask_credentials(pipeline.plain())
    if known is not None:
        store.renew(known.study_id, pipeline=plain, dataset_path=path)
        store.start(known.study_id)
    else:
        known = RunRecord(
            run_id=study_id or new_study_id(),
            key=key,
            name=pipeline.name,
            state=RunState.RUNNING,
            created_at=now(),
            updated_at=now(),
            dataset_id=dataset.id,
            dataset_path=path,
            n_designs=len(designs),
            pipeline=plain,
            dataset=dataset.describe(),
            dashboard=None,
        )
        store.add_study(known, designs)
    return Study(store, settings, known.study_id)


def _known(store: Store, key: str, *, new: bool, study_id: str | None) -> RunRecord | None:
    """Return the study that goes on, None where a new one is to be made."""
    if study_id is None:
        return None if new else store.study_of(key)
    held = store.find(study_id)
    if held is not None and (new or held.key != key):
        raise taken_id(study_id)
    return held


def study_key(pipeline: Pipeline, dataset: Dataset, designs: list[Design]) -> str:
    """Return what makes two studies the same: sha256 of dataset, designs and training settings."""
    training = pipeline.training_settings.to_dict()
    return content_id(
        {"dataset": dataset.id, "designs": [x.design_id for x in designs], "training": training}
    )


@contextmanager
def open_named_client(pipeline: Pipeline, settings: Settings, *, client: "Client | None" = None,
                      listener: Listener = ignore) -> Iterator["Client | None"]:  # fmt: skip
    """Yield a client of the cluster that is given or named; None where one is yet to be started.

    A table is then preprocessed by threads of this process, so that what is wrong with it is told at once.
    """
    section = pipeline.executor.model_dump(mode="json")
    named = bool(section["address"] or section["scheduler_file"] or settings.cluster)
    if client is None and not (named and section["kind"] == "dask"):
        yield None
    else:
        with open_client(section, settings, client=client, listener=listener) as opened:
            yield opened


@contextmanager
def open_executor(pipeline: Pipeline, settings: Settings, *, client: "Client | None" = None,
                  listener: Listener = ignore) -> Iterator["Executor"]:  # fmt: skip
    """Yield the executor a pipeline asks for; a cluster started for it ends with the block."""
    section = pipeline.executor.model_dump(mode="json")
    with open_client(section, settings, client=client, listener=listener) as opened:
        yield executor_on(opened)


def train(study: Study, executor: "Executor", *, shard: tuple[int, int] | None = None,
          listener: Listener = ignore) -> int:  # fmt: skip
    """Train the missing designs of a study, or of its i-th of n parts; return how many were trained."""
    missing = len(study.missing(shard))
    part = f", part {shard[0] + 1} of {shard[1]}" if shard else ""
    with stage(
        Stage.TRAIN, f"study {study.id}: {missing:,} of {len(study.designs):,} designs{part}", listener
    ) as told:
        study.train(executor, shard=shard, listener=listener)
        told.append(f"{missing:,} designs trained")
    return missing


def aggregate(study: Study, listener: Listener = ignore) -> StudyView:
    """Rank the designs, look at what their parameters did, save the best models."""
    with stage(Stage.AGGREGATE, f"study {study.id}", listener) as told:
        saved = study.save_models(listener)
        view = study.view()
        told.append(f"{len(saved)} models saved")
    return view


def report(study: Study, draw: Draw, listener: Listener = ignore, path: str | None = None) -> Path:
    """Write the HTML report of a study, and a copy at `path` if given; return the study's own."""
    with stage(Stage.REPORT, f"study {study.id}", listener) as told:
        view = study.view()
        written = draw(view, study.settings.workspace.report(study.id))
        if path:
            draw(view, Path(path))
        told.append(str(written))
    return written


def refit(study: Study, pipeline: Pipeline, *, client: "Client | None" = None,
          listener: Listener = ignore) -> Path | None:  # fmt: skip
    """Train the best design on the whole table, if the pipeline says so; return the model's file.

    None without a refit section, or where no design completed. A model that was trained so before is kept.
    """
    section = pipeline.refit
    design = best_design(study) if section is not None else None
    if section is None or design is None:
        return None
    if is_refitted(study, design, section):
        return study.settings.workspace.refit(study.id)
    detail = f"study {study.id}: {design.describe()} on training and test rows"
    with stage(Stage.REFIT, detail, listener) as told:
        plain = pipeline.executor.model_dump(mode="json", exclude_unset=True)
        with open_workers(plain, study.settings, client=client, listener=listener) as opened:
            path, history = refit_design(study, design, section, opened, listener)
        told.append(f"{history.samples:,} samples in {history.seconds_s:.1f} s")
        told.append(f"{path}; no row was held out, so its accuracy was not measured")
    return path


def run_pipeline(pipeline: Pipeline, settings: Settings, *, client: "Client | None" = None, new: bool = False,
                 study_id: str | None = None, listener: Listener = ignore,
                 draw: Draw | None = None) -> Study:  # fmt: skip
    """Run all stages of a pipeline in this process: the whole job without Prefect.

    A study of the same key that is unfinished is continued; a finished one is returned as it is. `study_id`
    is the id of a new study, as in `begin`. Without `draw` no report is written.
    """
    if study_id is not None:  # before hours of preprocessing
        check_study_id(study_id)
    upload(pipeline, listener)
    with open_named_client(pipeline, settings, client=client, listener=listener) as named:
        dataset = preprocess(pipeline, settings, client=named, listener=listener)
        study = begin(pipeline, dataset, settings, new=new, study_id=study_id, listener=listener)
        if study.is_finished and settings.workspace.report(study.id).is_file():
            listener(Notice(f"study {study.id} has finished before; a new one is made with --new"))
            if pipeline.outputs.report and draw is not None:
                draw(study.view(), Path(pipeline.outputs.report))
            refit(study, pipeline, client=named, listener=listener)
            return study
        with open_executor(pipeline, settings, client=named, listener=listener) as executor:
            train(study, executor, listener=listener)
    aggregate(study, listener)
    if draw is not None:
        report(study, draw, listener, pipeline.outputs.report)
    refit(study, pipeline, client=client, listener=listener)
    return study


def require_success(study: Study) -> None:
    """Say why, if no design of a finished study completed.

    Raises
    ------
    StudyError
        With the most frequent failure.
    """
    view = study.view()
    if view.noise is None and view.failures:
        worst = view.failures[0]
        raise StudyError(
            f"a study needs a design that completes, got {worst.count:,} failures of {worst.type}: "
            f"{worst.message}; mend what it says, then dnnflow resume {study.id} --failed"
        )


@contextmanager
def stage(stage: Stage, detail: str, listener: Listener) -> Iterator[list[str]]:
    """Tell when a stage starts and ends; what the block appends to the list is told at the end."""
    start = time.monotonic()
    listener(StageStarted(stage, detail))
    told: list[str] = []
    yield told
    listener(StageFinished(stage, time.monotonic() - start, ", ".join(told)))
