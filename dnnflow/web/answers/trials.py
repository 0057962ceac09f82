"""Answer with trials of a study: rows of a list, and one with everything."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial
from dnnflow.results.store.run_record import RunRecord, finite
from dnnflow.results.store.store import Store
from dnnflow.results.view.overview import TrialQuery, count_matching, failure_kinds, trial_rows
from dnnflow.web.answers.request_parts import cut_page
from dnnflow.web.contract.trial_replies import Failure, TrialDetail, TrialPage, TrialRow

_FIELDS = tuple(name for name in TrialRow.model_fields if name != "design")


def trial_page(
    store: Store, study_id: str, query: TrialQuery, fields: Collection[str] | None = None
) -> TrialPage:
    """Return trials of a study, and where their list goes on.

    Parameters
    ----------
    query
        Its limit is the page's length.
    fields
        Names of what is told of each trial; everything by default.
    """
    rows = trial_rows(store, study_id, replace(query, limit=query.limit + 1))
    on_page, cursor = cut_page(rows, query.limit, lambda row: (_plain(row[query.sort]), row["design_id"]))
    return TrialPage(
        trials=[trial_row(row) for row in on_page]
        if fields is None
        else [trial_part(row, fields) for row in on_page],
        matching=count_matching(store, study_id, query),
        next_cursor=cursor,
    )


def trial_row(row: Mapping[str, Any]) -> TrialRow:
    """Return a row of the table `trials` as a reply."""
    design = Design.from_dict(json.loads(row["design"]))
    return TrialRow(**finite({name: row[name] for name in _FIELDS}), design=design.describe())


def trial_part(row: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return some fields of a trial; its design is read only for its words."""
    part: dict[str, Any] = finite({name: row[name] for name in _FIELDS if name in fields})
    return part | ({"design": trial_row(row).design} if "design" in fields else {})


def trial_detail(store: Store, record: RunRecord, design_id: str) -> TrialDetail:
    """Return everything that is known of one trial.

    Raises
    ------
    NotFoundError
        If the design has no trial in this study.
    """
    trial: Trial = store.trial(record.study_id, design_id)
    design = store.designs_of(record.study_id, [design_id])[design_id]
    query = TrialQuery(design_id=design_id, sort="design_id", limit=1)
    row = trial_row(trial_rows(store, record.study_id, query)[0])
    names = [str(name) for name in record.dataset.get("class_names") or ()]
    size = len(trial.confusion)
    return TrialDetail(
        **vars(row),
        description=design.to_dict(),
        history=finite(trial.history),
        confusion=[list(counts) for counts in trial.confusion],
        class_names=names if len(names) == size or not size else [str(i) for i in range(size)],
        error_traceback=trial.error.traceback if trial.error else None,
    )


def failures_of(store: Store, study_id: str) -> list[Failure]:
    """Return how often which error ended a training, the most frequent first."""
    return [
        Failure(type=kind, count=count, message=message, design_id=design_id)
        for kind, count, message, design_id in failure_kinds(store, study_id)
    ]


def _plain(value: Any) -> Any:
    """Return a value for a cursor: infinities as text."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value
