"""Pipelines that come from outside: what they may name, and what `upload:ID` stands for.

A pipeline file is trusted like a program: it may name paths, addresses and code. One that was sent to the
server may not; the server fills in the places that it knows itself.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dnnflow.engines.registry import engine_names
from dnnflow.errors import NotFoundError
from dnnflow.pipeline.pipeline_file import check_text, merge
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunRecord
from dnnflow.run.clone import cloneable
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.jobs.services import Services

UPLOAD = "upload:"
STUDY_MODEL = "study:"
MOST_TEXT = 512 * 1024
"""Characters of a pipeline as text."""

NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
OPTIMIZER = re.compile(r"[A-Za-z_]\w{0,63}(:[0-9.]{1,20}(e-?\d{1,3})?)?", re.ASCII)
CHECKED = 256
"""Designs that are drawn to see whether a pipeline is right; the driver draws and checks all of them."""
MOST_DESIGNS = 1_000_000

_READING = "how an upload is read is said where it is sent, or by PUT /api/v1/datasets/{upload_id}/reading"

PLACES: Mapping[str, str] = {
    "dataset.storage_options": "remove it: it says how a place is reached",
    "dataset.format": f"remove it: {_READING}",
    "dataset.sheet": f"remove it: {_READING}",
    "dataset.query": f"remove it: {_READING}",
    "evaluation.test_source": "remove it: upload one table, and name its column of train and test in split",
    "space.reference": "remove it: it names code; describe layers instead",
    "space.code_folder": "remove it: it names code",
    "executor.address": "remove it: jobs run on the cluster that the server was started with",
    "executor.scheduler_file": "remove it: jobs run on the cluster that the server was started with",
    "outputs.report": "remove it: the report is at /api/v1/studies/{study_id}/report",
    "outputs.model": "remove it: the server names the file",
    "outputs.history": "remove it: the server names the file",
    "outputs.timeline": "remove it: the server names the file",
    "data": "remove it: rows come from an upload, dataset.source: upload:ID",
    "model.code_folder": "remove it: it names code",
    "parallel.checkpoint": "remove it: it names a place",
    "parallel.restore": "remove it: it names a place",
}
"""Fields that name a place or code, and what to do instead."""

DEFAULTS: tuple[Any, ...] = (None, {}, [], "", False)
"""Values of those fields that name nothing."""


def accept(services: Services, data: Any, *, text: str | None = None) -> Pipeline | TrainPipeline:
    """Return the pipeline that plain data describe, with the server's own places filled in.

    Parameters
    ----------
    data
        Of JSON, or of `read_yaml`.
    text
        The YAML that `data` was read from, so that problems are named by its lines.

    Raises
    ------
    Refusal
        With every problem.
    """
    if not isinstance(data, Mapping):
        raise _refusal([FieldProblem(where="pipeline", message="a pipeline is a mapping of sections")])
    refused = [*find_places(data)]
    overrides = [] if refused else [*_resolved(services, data, refused)]
    if refused:
        raise _refusal(refused)
    return _checked(services, data, overrides, text)


def _checked(
    services: Services, data: Mapping[str, Any], overrides: list[str], text: str | None = None
) -> Pipeline | TrainPipeline:
    wanted = data.get("designs")
    capped = isinstance(wanted, int) and not isinstance(wanted, bool) and CHECKED < wanted <= MOST_DESIGNS
    if capped:
        overrides.append(f"designs={CHECKED}")
    try:
        written = text if text is not None else yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False)
        pipeline, problems = check_text(written, overrides, folder=services.settings.workspace.home)
    except (RecursionError, yaml.YAMLError, ValueError) as error:
        raise _refusal([FieldProblem(where="pipeline", message=f"it cannot be read: {error}")]) from error
    if problems or pipeline is None:
        raise _refusal(
            [
                FieldProblem(
                    where=one.where or "pipeline", message=one.message, line=one.line if text else None
                )
                for one in problems
            ]
        )
    return pipeline.model_copy(update={"designs": wanted}) if capped else pipeline


def accept_study(services: Services, data: Any, text: str | None = None) -> Pipeline:
    """Return what `accept` does of a study.

    Raises
    ------
    Refusal
        With every problem, or for a training.
    """
    pipeline = accept(services, data, text=text)
    if isinstance(pipeline, TrainPipeline):
        raise Refusal(422, "a study's pipeline has no model, got one; POST a training to /api/v1/runs")
    return pipeline


def accept_clone(services: Services, record: RunRecord, changes: Any) -> Pipeline:
    """Return the pipeline of a stored study with changes that were sent laid over it.

    Parameters
    ----------
    changes
        Part of a pipeline, as plain data. What it does not name stays, the server's own places among it.

    Raises
    ------
    Refusal
        With every problem.
    StudyError
        If the record is no study's, or its credentials are not stored.
    """
    if not isinstance(changes, Mapping):
        raise _refusal([FieldProblem(where="changes", message="changes are a mapping of sections")])
    plain = cloneable(record)
    refused = [*find_places(changes)]
    is_other_table = _at(changes, "dataset.source") is not None
    overrides = [*_resolved(services, changes, refused)] if is_other_table and not refused else []
    if refused:
        raise _refusal(refused)
    pipeline = _checked(services, merge(plain, changes), overrides)
    if isinstance(pipeline, TrainPipeline):
        raise Refusal(422, "a study's pipeline has no model, got one; POST a training to /api/v1/runs")
    return pipeline


def read_yaml(text: str) -> Any:
    """Return plain data of YAML text.

    Raises
    ------
    Refusal
        If it is too long, no YAML, or written with aliases, by which few bytes become many.
    """
    if len(text) > MOST_TEXT:
        raise Refusal(413, f"a pipeline has {MOST_TEXT:,} characters or less, got {len(text):,}")
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else None
                message = f"aliases (*{event.anchor}) are not taken; write the value out"
                raise _refusal([FieldProblem(where="pipeline", message=message, line=line)])
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error or "nested too deeply").split())
        problem = FieldProblem(
            where="pipeline", message=f"not valid YAML: {reason}", line=mark.line + 1 if mark else None
        )
        raise _refusal([problem]) from error


def find_places(data: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield what names a place or code that a sender may not name."""
    for where, remedy in PLACES.items():
        if _at(data, where) not in DEFAULTS:
            yield FieldProblem(where=where, message=f"a sent pipeline names no places and no code; {remedy}")
    explicit = _at(data, "space.explicit")
    for index, design in enumerate(explicit if isinstance(explicit, list) else ()):
        if isinstance(design, Mapping) and design.get("reference") is not None:
            yield FieldProblem(
                where=f"space.explicit.{index}.reference",
                message="a sent pipeline names no code; describe layers instead",
            )
    engine = _at(data, "training.engine")
    if engine is not None and engine not in engine_names():
        names = ", ".join(engine_names())
        yield FieldProblem(
            where="training.engine", message=f"an engine is one of {names}, got {str(engine)[:80]!r}"
        )
    yield from _find_code(data)


def _find_code(data: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Yield names of a training's model that are no plain names: `module:object` is code."""
    metrics = _at(data, "model.metrics")
    given = [("loss", _at(data, "model.loss")), ("optimizer", _at(data, "model.optimizer"))]
    given += [("metrics", one) for one in (metrics if isinstance(metrics, list) else [metrics])]
    for field, value in given:
        pattern = OPTIMIZER if field == "optimizer" else NAME
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            message = f"a sent pipeline names no code, got {str(value)[:80]!r}; give a name that Keras knows"
            yield FieldProblem(where=f"model.{field}", message=message)


def _at(data: Mapping[str, Any], where: str) -> Any:
    found: Any = data
    for part in where.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _resolved(services: Services, data: Mapping[str, Any], refused: list[FieldProblem]) -> Iterator[str]:
    """Yield overrides for what stands for places of the server; what cannot be found goes to `refused`."""
    source = _at(data, "dataset.source")
    if not isinstance(source, str) or not source.startswith(UPLOAD):
        got = f", got {source[:100]!r}" if isinstance(source, str) else ""
        refused.append(
            FieldProblem(
                where="dataset.source",
                message=f"a sent pipeline takes its table from an upload, upload:ID{got}; "
                "POST the table to /api/v1/datasets first",
            )
        )
        return
    try:
        upload = services.uploads.get(source.removeprefix(UPLOAD))
    except NotFoundError as error:
        refused.append(FieldProblem(where="dataset.source", message=str(error)))
        return
    yield f"dataset.source={json.dumps(str(upload.path.absolute()))}"
    for name, value in upload.profile.reading.items():
        if _at(data, f"dataset.{name}") is None and value is not None:
            yield f"dataset.{name}={json.dumps(value)}"
    if "model" in data:
        yield from _resolved_model(services, data, refused)


def _resolved_model(
    services: Services, data: Mapping[str, Any], refused: list[FieldProblem]
) -> Iterator[str]:
    source = str(_at(data, "model.source") or "")
    study_id, _, rank = source.removeprefix(STUDY_MODEL).partition("/")
    path: Path | None = None
    if source.startswith(STUDY_MODEL) and rank.isdecimal() and len(rank) < 4:
        try:
            record = services.store.study(study_id)
        except NotFoundError:
            record = None
        if record is not None and record.study_id == study_id:
            path = services.settings.workspace.model(study_id, int(rank))
    if path is None or not path.is_file():
        refused.append(
            FieldProblem(
                where="model.source",
                message=f"a sent pipeline trains a model of a study, study:ID/RANK, got {source[:100]!r}; "
                "/api/v1/studies/{study_id}/models lists them",
            )
        )
        return
    yield f"model.source={json.dumps(str(path.absolute()))}"


def _refusal(problems: list[FieldProblem]) -> Refusal:
    told = "; ".join(
        f"{f'line {one.line}: ' if one.line else ''}{one.where}: {one.message}" for one in problems[:20]
    )
    return Refusal(422, f"a pipeline must be valid, got {told}", errors=problems)


def uploads_in_use(services: Services) -> set[str]:
    """Return the uploads that a job or study which has not finished reads when it begins or goes on."""
    needed = [
        one.pipeline
        for one in services.store.runs()
        if not (one.state.is_finished if one.has_designs else one.state.has_ended)
    ]
    sources = [pipeline.get("dataset", {}).get("source", "") for pipeline in needed]
    return {Path(source).parent.name for source in sources if source}
