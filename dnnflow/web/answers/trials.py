"""Answer with trials of a study: rows of a list, and one with everything."""

import json
import math
from collections.abc import Mapping
from typing import Any

from dnnflow.design.layers import Design
from dnnflow.engines.records import Trial
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.store.store import Store
from dnnflow.results.view.overview import TrialQuery, count_matching, trial_rows
from dnnflow.web.answers.request_parts import cut_page
from dnnflow.web.contract.replies import TrialDetail, TrialPage, TrialRow

_FIELDS = tuple(name for name in TrialRow.model_fields if name != "design")


def trial_page(store: Store, study_id: str, query: TrialQuery) -> TrialPage:
    """Return trials of a study, and where their list goes on.

    Parameters
    ----------
    query
        Its limit is the page's length.
    """
    more = TrialQuery(**{**vars(query), "limit": query.limit + 1})
    rows = trial_rows(store, study_id, more)
    shown, cursor = cut_page(rows, query.limit, lambda row: (_plain(row[query.sort]), row["design_id"]))
    return TrialPage(
        trials=[trial_row(row) for row in shown],
        matching=count_matching(store, study_id, query),
        next_cursor=cursor,
    )


def trial_row(row: Mapping[str, Any]) -> TrialRow:
    """Return a row of the table `trials` as a reply."""
    return TrialRow(**_columns(row), design=_design(row).describe())


def trial_detail(store: Store, record: RunRecord, design_id: str) -> TrialDetail:
    """Return everything that is known of one trial.

    Raises
    ------
    NotFoundError
        If the design has no trial in this study.
    """
    trial: Trial = store.trial(record.study_id, design_id)
    design = store.designs_of(record.study_id, [design_id])[design_id]
    row = trial_columns(store, record.study_id, design_id)
    names = [str(name) for name in record.dataset.get("class_names") or ()]
    size = len(trial.confusion)
    return TrialDetail(
        **_columns(row),
        design=design.describe(),
        description=design.to_dict(),
        history={name: [_finite(value) for value in values] for name, values in trial.history.items()},
        confusion=[list(counts) for counts in trial.confusion],
        class_names=names if len(names) == size or not size else [str(i) for i in range(size)],
        error_traceback=trial.error.traceback if trial.error else None,
    )


def trial_columns(store: Store, study_id: str, design_id: str) -> Mapping[str, Any]:
    """Return the columns of one trial that is there."""
    return trial_rows(store, study_id, TrialQuery(design_id=design_id, sort="design_id", limit=1))[0]


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _finite(row[name]) for name in _FIELDS}


def _design(row: Mapping[str, Any]) -> Design:
    return Design.from_dict(json.loads(row["design"]))


def _finite(value: Any) -> Any:
    """Return a value as JSON can say it: no NaN, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Return a value for a cursor: infinities as text."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value
