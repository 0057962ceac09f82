"""A study as a row of its table."""

import difflib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dnnflow.design.layers import Design
from dnnflow.errors import DnnflowError, InputError, NotFoundError
from dnnflow.paths import canonical_json
from dnnflow.results.store.schema import studies
from dnnflow.results.store.study_record import StudyRecord, StudyState, Wanted
from dnnflow.results.store.trial_rows import clean_text

RECORD_COLUMNS = tuple(column for column in studies.columns if column.name not in ("driver", "heartbeat_s"))


def study_row(record: StudyRecord) -> dict[str, Any]:
    """Return the columns of a new study."""
    row = {column.name: getattr(record, column.name) for column in RECORD_COLUMNS}
    texts = {"name": clean_text(record.name), "pipeline": json_text(record.pipeline),
             "dataset": json_text(record.dataset)}  # fmt: skip
    states = {name: getattr(record, name).value for name in ("state", "wanted", "obeyed")}
    return row | states | texts


def designs_blob(designs: Sequence[Design]) -> bytes:
    """Return what the store keeps of a study's designs."""
    lines = "\n".join(canonical_json(design.to_dict()) for design in designs)
    return zlib.compress(lines.encode(), level=3)


def designs_of_blob(blob: bytes) -> list[Design]:
    """Return the designs of what `designs_blob` gave."""
    return [Design.from_dict(json.loads(line)) for line in zlib.decompress(blob).decode().splitlines()]


def select_studies() -> sa.Select[Any]:
    """Return the query of all studies, the newest first."""
    return sa.select(*RECORD_COLUMNS).order_by(studies.c.created_at.desc(), studies.c.study_id)


def study_of_row(row: Any) -> StudyRecord:
    """Return the study of a row of `select_studies`."""
    values = dict(row._mapping)
    load: Callable[[str], Any] = json.loads
    values |= {"state": StudyState(row.state), "wanted": Wanted(row.wanted), "obeyed": Wanted(row.obeyed)}
    values |= {"pipeline": load(row.pipeline), "dataset": load(row.dataset)}
    return StudyRecord(**values)


def json_text(value: Mapping[str, Any]) -> str:
    """Return the text that a column holds for JSON types.

    Raises
    ------
    InputError
        If there is anything else in them.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"a study's pipeline and dataset are JSON types, got: {error}") from error


def several_fit(study_id: str, fitting: Sequence[str]) -> DnnflowError:
    """Return what is raised for the beginning of several ids."""
    return NotFoundError(f"a study is found by its id or a unique beginning of it, got {study_id!r}, which "
                         f"fits {', '.join(fitting)}; type more of it")  # fmt: skip


def study_not_found(study_id: str, known: Sequence[str] = ()) -> DnnflowError:
    """Return what is raised for an id that no study has; names the nearest of those known."""
    near = difflib.get_close_matches(study_id, known, n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ";"
    return NotFoundError(f"a study is found by its id or a unique beginning of it, got {study_id!r}{meant} "
                         "`dnnflow studies` lists them")  # fmt: skip
