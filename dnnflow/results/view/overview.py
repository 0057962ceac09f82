"""Have the database count a study: a page may ask for these numbers every second."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dnnflow.engines.records import TrialState
from dnnflow.results.store.schema import MEASURES, trials
from dnnflow.results.store.store import Store

BINS = 40
"""Columns and rows of a grid at most."""
OUTLIERS = 0.02
"""Share of the trials that may lie far above the others and then all stand in a grid's last row."""
FAR = 2.5
"""How many times the value that those are above is far: the first trials of a study compile."""
RECENT_S = 60.0
"""Trials that began so shortly ago tell the rate now."""


@dataclass(frozen=True)
class Totals:
    """Counts of a study's trials."""

    counts: Mapping[TrialState, int]
    recent: int
    """Trials that began in the last `RECENT_S`."""
    first_at: str | None
    """When the first trial began; UTC, ISO 8601."""
    last_at: str | None
    best_score: float | None
    best_design_id: str | None
    training_s: float
    """Summed."""

    @property
    def stored(self) -> int:
        """Trials in any state."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Grid:
    """Completed trials counted by hidden layers and a measure."""

    first_depth: int
    depth_width: int
    """Hidden layers that a column spans."""
    low: float
    """Of the measure, the lower edge of the first row."""
    height: float
    """What a row spans."""
    cells: tuple[tuple[int, int, int], ...]
    """(column, row, trials) of each cell that holds a trial."""
    is_cut: bool = False
    """Whether the last row also holds trials far above it."""


def count_trials(store: Store, study_id: str) -> int:
    """Return how many trials a study has, in any state."""
    query = sa.select(sa.func.count()).select_from(trials).where(trials.c.study_id == study_id)
    with store.reading() as connection:
        return int(connection.execute(query).scalar() or 0)


def totals(store: Store, study_id: str) -> Totals:
    """Count a study's trials."""
    since = (datetime.now(UTC) - timedelta(seconds=RECENT_S)).isoformat(timespec="milliseconds")
    began = sa.func.nullif(trials.c.started_at, "")
    query = sa.select(
        trials.c.state,
        sa.func.count(),
        sa.func.sum(sa.case((trials.c.started_at >= since, 1), else_=0)),
        sa.func.min(began),
        sa.func.max(began),
        sa.func.sum(trials.c.training_s),
        sa.func.max(trials.c.score),
    ).where(trials.c.study_id == study_id)
    with store.reading() as connection:
        rows = connection.execute(query.group_by(trials.c.state)).all()
        best = next((row[6] for row in rows if row[0] == TrialState.COMPLETED.value), None)
        best_id = None if best is None else connection.execute(_first_with(study_id, best)).scalar()
    counts = {row[0]: int(row[1]) for row in rows}
    return Totals(
        counts={state: counts.get(state.value, 0) for state in TrialState},
        recent=sum(int(row[2]) for row in rows),
        first_at=min((row[3] for row in rows if row[3]), default=None),
        last_at=max((row[4] for row in rows if row[4]), default=None),
        best_score=best,
        best_design_id=best_id,
        training_s=float(sum(row[5] or 0.0 for row in rows)),
    )


def _first_with(study_id: str, score: float) -> sa.Select[Any]:
    """Return a query for the first on the leaderboard: of equals the smaller network, then the id."""
    is_best = (trials.c.study_id == study_id) & (trials.c.score == score)
    done = trials.c.state == TrialState.COMPLETED.value
    size = sa.func.coalesce(trials.c.parameters, 2**62)
    return sa.select(trials.c.design_id).where(is_best, done).order_by(size, trials.c.design_id).limit(1)


def grid(store: Store, study_id: str, measure: str) -> Grid | None:
    """Count completed trials by hidden layers and `accuracy` or `training_s`; None without any."""
    value, depth = trials.c[measure], trials.c.depth
    done = (trials.c.study_id == study_id, trials.c.state == TrialState.COMPLETED.value,
            depth.is_not(None), value.is_not(None))  # fmt: skip
    edges = sa.select(sa.func.min(depth), sa.func.max(depth), sa.func.min(value), sa.func.max(value))
    with store.reading() as connection:
        shallow, deep, low, high = connection.execute(edges.where(*done)).one()
        if shallow is None:
            return None
        usual = connection.execute(_above_usual(value, done)).scalar()
        is_cut = usual is not None and low < usual and high - low > FAR * (usual - low)
        high = usual if is_cut else high
        width = -(-(deep - shallow + 1) // BINS)
        height = (high - low) / BINS or 1e-3
        column = (depth - shallow) / sa.literal_column(str(width))
        row = (value - low) / height
        column, row = _floor(column, connection), _floor(row, connection)
        cells = sa.select(column, row, sa.func.count()).where(*done).group_by(column, row)
        found = connection.execute(cells).all()
    # The largest value lies on the upper edge or beyond: it belongs to the last row
    counted: dict[tuple[int, int], int] = {}
    for x, y, count in found:
        place = (int(x), min(int(y), BINS - 1))
        counted[place] = counted.get(place, 0) + int(count)
    ordered = tuple((x, y, count) for (x, y), count in sorted(counted.items()))
    return Grid(int(shallow), int(width), float(low), float(height), ordered, is_cut)


def _above_usual(value: "sa.ColumnElement[Any]", done: Sequence[Any]) -> sa.Select[Any]:
    """Return a query for the value that no more than `OUTLIERS` of the trials are above."""
    count = sa.select(sa.cast(sa.func.count() * OUTLIERS, sa.Integer)).where(*done)
    return sa.select(value).where(*done).order_by(value.desc()).limit(1).offset(count.scalar_subquery())


def _floor(value: "sa.ColumnElement[Any]", connection: sa.Connection) -> "sa.ColumnElement[Any]":
    """Cut a number ≥ 0 to a whole one: PostgreSQL's cast rounds, and SQLite may lack floor."""
    down = sa.func.floor(value) if connection.dialect.name == "postgresql" else value
    return sa.cast(down, sa.Integer)


@dataclass(frozen=True)
class TrialQuery:
    """Which trials of a study, in which order, from where on."""

    state: TrialState | None = None
    min_score: float | None = None
    depth: int | None = None
    error_type: str | None = None
    activation: str | None = None
    optimizer: str | None = None
    engine: str | None = None
    design_id: str | None = None
    sort: str = "score"
    """A column of `SORTS`."""
    descending: bool = True
    after: tuple[float | str | None, str] | None = None
    """Value of the sort's column and design id of the last trial before."""
    limit: int = 50


SORTS = ("score", "train_score", "loss", "training_s", "depth", "parameters", "units",
         "learning_rate", "batch_size", "epochs_run", "started_at", "design_id", *MEASURES)  # fmt: skip
"""Columns that trials can be sorted by; rows without a value stand last."""

LISTED = tuple(
    column for column in trials.columns
    if column.name not in ("study_id", "confusion", "error_traceback", "history", "more_parameters")
)  # fmt: skip
"""What a list of trials shows."""


def trial_rows(store: Store, study_id: str, query: TrialQuery) -> list[dict[str, Any]]:
    """Return trials as columns, at most `query.limit`."""
    column = trials.c[query.sort]
    order = column.desc() if query.descending else column.asc()
    statement = (
        sa.select(*LISTED)
        .where(trials.c.study_id == study_id, *_filters(query))
        .order_by(column.is_(None), order, trials.c.design_id)
        .limit(query.limit)
    )
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def count_matching(store: Store, study_id: str, query: TrialQuery) -> int:
    """Return how many trials a query's filters leave."""
    statement = sa.select(sa.func.count()).select_from(trials)
    with store.reading() as connection:
        found = connection.execute(
            statement.where(trials.c.study_id == study_id, *_filters(query, after=False))
        )
        return int(found.scalar() or 0)


def _filters(query: TrialQuery, *, after: bool = True) -> "Iterator[sa.ColumnElement[bool]]":
    for name in ("state", "depth", "error_type", "activation", "optimizer", "engine", "design_id"):
        if (wanted := getattr(query, name)) is not None:
            yield trials.c[name] == wanted
    if query.min_score is not None:
        yield trials.c.score >= query.min_score
    if after and query.after is not None:
        yield _behind(query, *query.after)


def _behind(query: TrialQuery, value: Any, design_id: str) -> "sa.ColumnElement[bool]":
    column = trials.c[query.sort]
    if value is None:
        return sa.and_(column.is_(None), trials.c.design_id > design_id)
    beyond = column < value if query.descending else column > value
    return sa.or_(beyond, sa.and_(column == value, trials.c.design_id > design_id), column.is_(None))


def failure_kinds(store: Store, study_id: str) -> Sequence[tuple[str, int, str, str]]:
    """Return (type of error, trials, a message, a design that failed so), the most frequent first."""
    n = sa.func.count()
    query = (
        sa.select(
            trials.c.error_type, n, sa.func.min(trials.c.error_message), sa.func.min(trials.c.design_id)
        )
        .where(trials.c.study_id == study_id, trials.c.error_type.is_not(None))
        .group_by(trials.c.error_type)
        .order_by(n.desc(), trials.c.error_type)
    )
    with store.reading() as connection:
        return [(row[0], int(row[1]), row[2] or "", row[3]) for row in connection.execute(query)]
