"""Make a pipeline of a stored study's own, with changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dnnflow.errors import PipelineError, StudyError
from dnnflow.pipeline.pipeline_file import check_text
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunKind, RunRecord


def clone(record: RunRecord, overrides: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline of a stored study, of the name that it has now, with values laid over it.

    Parameters
    ----------
    overrides
        `section.key=value`; relative paths in them are relative to the current directory.

    Raises
    ------
    StudyError
        If the record is no study's, or its credentials are not stored.
    PipelineError
        Naming everything that is wrong with it.
    """
    text = yaml.safe_dump(cloneable(record), sort_keys=False, allow_unicode=True)
    pipeline, problems = check_text(text, overrides, folder=Path.cwd())
    if not isinstance(pipeline, Pipeline):
        told = "; ".join(f"{one.where}: {one.message}" if one.where else one.message for one in problems)
        raise PipelineError(
            f"a clone is a study's pipeline that can be run today, got {record.run_id} with "
            f"{told or 'a model, which is a training'}; lay other values over it"
        )
    return pipeline


def cloneable(record: RunRecord) -> dict[str, Any]:
    """Return the pipeline that a stored study is cloned from, as plain data.

    Raises
    ------
    StudyError
        If the record is no study's, or its credentials are not stored.
    """
    if record.kind is not RunKind.STUDY:
        raise StudyError(f"what is cloned is a study, got training {record.run_id}; run its file again")
    require_no_credentials(record, "run its pipeline file with --set")
    return {**record.pipeline, "name": record.name}


def require_no_credentials(record: RunRecord, remedy: str) -> None:
    """Look whether a study can be run from what is stored of it.

    Raises
    ------
    StudyError
        If its table needs credentials.
    """
    if (record.pipeline.get("dataset") or {}).get("storage_options"):
        raise StudyError(
            f"a study is followed by what is stored of it, got {record.run_id}, whose table needs "
            f"credentials, which are not stored; {remedy}"
        )
