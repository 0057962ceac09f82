"""Train a pack of designs in this process: what a task does on a worker."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dnnflow.design.layers import Design
from dnnflow.engines.records import Outcome, Pack, Portion, TrialState
from dnnflow.engines.registry import find_engine
from dnnflow.engines.seam import (
    Engine,
    Fitted,
    Spent,
    StudyContext,
    TrainingContext,
    failed_trial,
    make_importable,
)
from dnnflow.errors import DamagedError
from dnnflow.events import utc_now

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset

Report = Callable[[list[Outcome]], None]


def run_pack(
    pack: Pack,
    study: StudyContext,
    *,
    report: Report | None = None,
    flush_s: float = 1.0,
    context: TrainingContext | None = None,
) -> list[Outcome]:
    """Train a pack portion by portion, and return the outcomes that were not yet reported, one a design.

    `report` is called with the outcomes finished since its last call, at most once each `flush_s` seconds, so
    that little is lost when the process dies.

    Raises
    ------
    DnnflowError
        For what is wrong with the study (no such dataset, no such engine), never with a design.
    """
    make_importable(study.import_paths)
    engine = _engine(study.settings.engine)
    context = context or training_context(study)
    waiting: list[Outcome] = []
    flushed = time.monotonic()
    for portion in pack.portions:
        for fitted in _train(engine, portion.designs, _in_portion(context, portion)):
            waiting.append(_outcome(fitted, pack.keep_above))
            if report is not None and time.monotonic() - flushed >= flush_s:
                report(waiting)
                waiting, flushed = [], time.monotonic()
    return waiting


def _in_portion(context: TrainingContext, portion: Portion) -> TrainingContext:
    """Return what an engine is given of a portion: its plan and its rows."""
    from dnnflow.table.store.whole_dataset import WholeDataset

    dataset = WholeDataset.of(context.dataset) if portion.all_rows else context.dataset
    return replace(context, dataset=dataset, plan=portion.plan, part=portion.part)


def training_context(
    study: StudyContext,
    *,
    worker: str = "",
    device: Literal["cpu", "gpu"] | None = None,
    memory_bytes: int | None = None,
) -> TrainingContext:
    """Open the study's dataset (once a process) and say where this process trains.

    Without a device it is found from the study and this machine; without a worker it is host and process id.
    """
    return TrainingContext(
        dataset=open_dataset(study.dataset),
        settings=study.settings,
        device=device or _device(study.device),
        memory_bytes=memory_bytes,
        worker=worker or f"{socket.gethostname()}:{os.getpid()}",
        activations=study.activations,
    )


@lru_cache(maxsize=2)
def open_dataset(path: str) -> "Dataset":
    """Open a dataset and keep it: packs of one study follow one another on a worker."""
    from dnnflow.table.store.dataset import Dataset

    return Dataset.open(path)


@cache
def _engine(name: str) -> Engine:
    """Keep an engine for the life of the process: it may keep compiled programs."""
    return find_engine(name)


@cache
def _device(wanted: str) -> Literal["cpu", "gpu"]:
    if wanted != "auto":
        return "gpu" if wanted == "gpu" else "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "gpu" if Path("/proc/driver/nvidia/gpus").is_dir() and not hidden else "cpu"


def _train(engine: Engine, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
    """Yield one `Fitted` a design even from an engine with a bug: what it did not train has failed."""
    done: set[str] = set()
    started_at, start = utc_now(), time.monotonic()
    try:
        for fitted in engine.train(designs, context):
            yield fitted
            done.add(fitted.trial.design_id)
        error: Exception = RuntimeError(
            f"engine {engine.name} must yield a trial a design, got {len(done)}; report it"
        )
    except DamagedError:  # this process cannot read the rows; another may
        raise
    except Exception as raised:  # an engine is somebody else's code
        error = raised
    # Not those after the last one: an engine may tell of a stack's failures first.
    spent = Spent(started_at, time.monotonic() - start)
    for design in [x for x in designs if x.design_id not in done]:
        yield Fitted(failed_trial(design, error, context, spent, engine=engine.name))


def _outcome(fitted: Fitted, keep_above: float) -> Outcome:
    trial = fitted.trial
    score = trial.score
    keep = trial.state is TrialState.COMPLETED and (score is None or score >= keep_above)
    weights = fitted.weights() if keep and fitted.weights is not None else None
    return Outcome(trial, weights, fitted.predicted)
