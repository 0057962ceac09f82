"""Numbers of studies for pages and the API alike: counted by the database, kept while nothing has changed."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dnnflow.engines.records import TrialState
from dnnflow.errors import LaunchError, NotFoundError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.view.overview import RECENT_S, Grid, Totals, count_trials, grid, totals
from dnnflow.web.contract.replies import (
    Best,
    CellGrid,
    DatasetFacts,
    Live,
    StateName,
    StudyStatus,
    StudySummary,
)
from dnnflow.web.jobs.launching import Launch, LaunchState
from dnnflow.web.jobs.services import Services

MOST_KEPT = 64
"""Studies whose counts are kept."""
WINDOW_S = 30.0
"""Trials of the last seconds tell the rate."""
COST_FACTOR = 10.0
"""Counting a study anew waits until so many times the counting's own time has passed."""
MOST_CLASS_NAMES = 1000


@dataclass
class Counted:
    """What was counted of a study, and when."""

    stored: int
    state: RunState
    totals: Totals
    best: Best | None
    live: Live
    cost_s: float
    at_s: float
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))
    """(monotonic seconds, trials) of looks while it ran."""


class Views:
    """Looks at studies, in the store and at the launcher; safe for threads.

    Methods block: they are called from threads, never from the event loop.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._counted: OrderedDict[str, Counted] = OrderedDict()
        self._lock = threading.Lock()
        self._counting = threading.Lock()

    # ---- who is there

    def record(self, study_id: str) -> RunRecord | None:
        """Return the store's record of exactly this study, or None."""
        try:
            record = self._services.store.study(study_id)
        except NotFoundError:
            return None
        return record if record.study_id == study_id else None

    def launch(self, study_id: str) -> Launch | None:
        """Return what the launcher knows of a job, or None."""
        try:
            return self._services.launcher.get(study_id)
        except NotFoundError:
            return None

    def stored(self, study_id: str) -> RunRecord:
        """Return the record of a study that has begun.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        record = self.record(study_id)
        if record is None:
            raise _not_found(study_id)
        return record

    # ---- where it stands

    def status(self, study_id: str, *, live: bool = True) -> StudyStatus:
        """Return where a study stands, launched from here or not.

        Raises
        ------
        NotFoundError
            If neither the store nor the launcher knows it.
        """
        record = self.record(study_id)
        try:
            launch = self.launch(study_id)
        except LaunchError:  # who launched it is away: what is stored is still there
            if record is None:
                raise
            launch = None
        if launch is not None and launch.kind != "study":
            launch = None
        if record is not None:
            return self._status_of_record(record, launch, live=live)
        if launch is not None:
            return status_of_launch(launch)
        raise _not_found(study_id)

    def _status_of_record(self, record: RunRecord, launch: Launch | None, *, live: bool) -> StudyStatus:
        counted = self.counted(record)
        is_driven = record.state is RunState.RUNNING and self._is_driven(record.study_id)
        state = state_of(record, launch, is_driven=is_driven, stored=counted.stored)
        counts = counted.totals.counts
        missing = max(0, record.n_designs - counted.stored)
        rate = self._rate(counted) if state in ("running", "pausing") else None
        return StudyStatus(
            study_id=record.study_id,
            name=record.name,
            state=state,
            stage=launch.stage if launch is not None and not launch.state.has_ended else None,
            queue_place=launch.queue_place if launch is not None else None,
            total=record.n_designs,
            completed=counts[TrialState.COMPLETED],
            failed=counts[TrialState.FAILED] + counts[TrialState.LOST],
            missing=missing,
            rate=rate,
            eta_s=missing / rate if rate else None,
            best=counted.best,
            elapsed_s=_elapsed_s(record, is_over=not is_driven),
            training_s=counted.totals.training_s,
            wanted=record.command.value,
            dashboard=link(record.dashboard or (launch.dashboard if launch else None)),
            run_url=link(launch.run_url if launch else None),
            error=launch.error if launch is not None and state == "failed" else None,
            created_at=record.created_at,
            updated_at=record.updated_at,
            dataset=dataset_facts(record.dataset),
            live=counted.live if live else None,
        )

    def _launches(self) -> Sequence[Launch]:
        """Return all launches; none while who launched them is away: what is stored is still listed."""
        try:
            return self._services.launcher.all()
        except LaunchError:
            return ()

    def summaries(self, *, after: tuple[str, str] | None = None, limit: int = 50) -> list[StudySummary]:
        """Return studies and parallel trainings, the newest first.

        Parameters
        ----------
        after
            `created_at` and id of the last one before.
        """
        launches = {one.launch_id: one for one in self._launches()}
        records = {one.study_id: one for one in self._services.store.studies()}
        moments = {key: one.created_at for key, one in launches.items()}
        moments |= {key: one.created_at for key, one in records.items()}
        places = sorted(((moment, key) for key, moment in moments.items()), reverse=True)
        shown = [place for place in places if after is None or place < after][:limit]
        return [
            self._summary(records[key], launches.get(key))
            if key in records
            else summary_of_launch(launches[key])
            for _, key in shown
        ]

    def _summary(self, record: RunRecord, launch: Launch | None) -> StudySummary:
        status = self._status_of_record(record, launch, live=False)
        return StudySummary(
            study_id=record.study_id,
            name=record.name,
            state=status.state,
            total=status.total,
            completed=status.completed,
            failed=status.failed,
            best_accuracy=status.best.accuracy if status.best else None,
            created_at=status.created_at,
            updated_at=status.updated_at,
        )

    def _is_driven(self, study_id: str) -> bool:
        return self._services.store.driver(study_id) is not None

    # ---- counting

    def counted(self, record: RunRecord) -> Counted:
        """Return a study's counts, counted anew where there are other trials than before."""
        stored = count_trials(self._services.store, record.study_id)
        known = self._known(record, stored)
        if known is None:
            with self._counting:  # one count at a time: others then find it done
                known = self._known(record, stored) or self._count(record, stored)
        return known

    def _known(self, record: RunRecord, stored: int) -> Counted | None:
        now = time.monotonic()
        with self._lock:
            known = self._counted.get(record.study_id)
            if known is None:
                return None
            self._counted.move_to_end(record.study_id)
            if record.state is RunState.RUNNING and (not known.pace or now - known.pace[-1][0] >= 0.5):
                known.pace.append((now, stored))
            same = known.stored == stored and known.state is record.state
            fresh = now - known.at_s < COST_FACTOR * known.cost_s and record.state is RunState.RUNNING
            return known if same or (fresh and known.stored <= stored) else None

    def _count(self, record: RunRecord, stored: int) -> Counted:
        store, study_id, start_s = self._services.store, record.study_id, time.monotonic()
        found = totals(store, study_id)
        best = None
        if found.best_design_id is not None and found.best_accuracy is not None:
            design = store.designs_of(study_id, [found.best_design_id])[found.best_design_id]
            best = Best(accuracy=found.best_accuracy, design_id=design.design_id, design=design.describe())
        live = Live(
            accuracy=_cells(grid(store, study_id, "test_accuracy")),
            time=_cells(grid(store, study_id, "training_s")),
        )
        now = time.monotonic()
        counted = Counted(found.stored, record.state, found, best, live, now - start_s, now)
        with self._lock:
            before = self._counted.get(study_id)
            if before is not None:
                counted.pace = before.pace
            elif record.state is RunState.RUNNING:
                counted.pace.append((now, stored))
            self._counted[study_id] = counted
            self._counted.move_to_end(study_id)
            while len(self._counted) > MOST_KEPT:
                self._counted.popitem(last=False)
        return counted

    def _rate(self, counted: Counted) -> float | None:
        """Return trials a second: of the last looks where they span some seconds, else of the store's."""
        now = time.monotonic()
        with self._lock:
            looks = [(at_s, n) for at_s, n in counted.pace if now - at_s <= WINDOW_S]
        if len(looks) > 1 and looks[-1][0] - looks[0][0] >= 5.0 and looks[-1][1] > looks[0][1]:
            return (looks[-1][1] - looks[0][1]) / (looks[-1][0] - looks[0][0])
        first = counted.totals.first_at
        if first is None:
            return None
        since_s = max(1.0, _seconds_since(first))
        if counted.totals.recent:
            return counted.totals.recent / min(RECENT_S, since_s)
        return counted.totals.stored / since_s


def state_of(record: RunRecord, launch: Launch | None, *, is_driven: bool, stored: int) -> StateName:
    """Say where a study stands by what store and launcher know of it."""
    if record.state is RunState.FINISHED:
        return "finished"
    if not is_driven and launch is not None and launch.state is LaunchState.QUEUED:
        return "queued"
    if is_driven:
        if record.command is Command.PAUSE:
            return "paused" if record.acknowledged is Command.PAUSE else "pausing"
        return "running" if stored else "preparing"
    if launch is not None and launch.state is LaunchState.RUNNING:
        return "running" if stored else "preparing"
    if launch is not None and launch.state is LaunchState.FAILED:
        return "failed"
    return "stopped"


LAUNCH_STATES: Mapping[LaunchState, StateName] = {
    LaunchState.QUEUED: "queued",
    LaunchState.RUNNING: "preparing",
    LaunchState.FINISHED: "finished",
    LaunchState.FAILED: "failed",
    LaunchState.CANCELLED: "stopped",
}


def status_of_launch(launch: Launch) -> StudyStatus:
    """Return where a study stands that the store does not yet know."""
    designs = launch.pipeline.get("designs")
    return StudyStatus(
        study_id=launch.launch_id,
        name=launch.name,
        state=LAUNCH_STATES[launch.state],
        stage=launch.stage if not launch.state.has_ended else None,
        queue_place=launch.queue_place,
        total=designs if isinstance(designs, int) else None,
        completed=0,
        failed=0,
        missing=designs if isinstance(designs, int) else None,
        rate=None,
        eta_s=None,
        best=None,
        elapsed_s=_seconds_between(launch.created_at, launch.ended_at),
        training_s=0.0,
        wanted="cancel" if launch.state is LaunchState.CANCELLED else "run",
        dashboard=link(launch.dashboard),
        run_url=link(launch.run_url),
        error=launch.error,
        created_at=launch.created_at,
        updated_at=launch.ended_at or launch.started_at or launch.created_at,
        dataset=None,
        live=None,
    )


def summary_of_launch(launch: Launch) -> StudySummary:
    """Return a job as the list shows it that the store does not know."""
    designs = launch.pipeline.get("designs")
    state = LAUNCH_STATES[launch.state]
    is_training = launch.kind == "train"
    return StudySummary(
        study_id=launch.launch_id,
        kind="train" if is_training else "study",
        name=launch.name,
        state="running" if is_training and state == "preparing" else state,
        total=designs if isinstance(designs, int) else None,
        completed=0,
        failed=0,
        best_accuracy=None,
        created_at=launch.created_at,
        updated_at=launch.ended_at or launch.started_at or launch.created_at,
    )


def dataset_facts(described: Mapping[str, Any]) -> DatasetFacts | None:
    """Return what a page shows of `Dataset.describe()`; None where a record has none."""
    rows = described.get("rows") or {}
    if not rows:
        return None
    names = [str(name) for name in described.get("class_names") or ()]
    train, test = int(rows.get("train") or 0), int(rows.get("test") or 0)
    return DatasetFacts(
        rows=train + test,
        train_rows=train,
        test_rows=test,
        features=int(described.get("n_features") or 0),
        classes=len(names),
        label=str(described.get("label") or ""),
        classes_names=names[:MOST_CLASS_NAMES],
    )


def _cells(found: Grid | None) -> CellGrid | None:
    if found is None:
        return None
    return CellGrid(
        first_depth=found.first_depth,
        depth_width=found.depth_width,
        low=found.low,
        height=found.height,
        cells=list(found.cells),
        is_cut=found.is_cut,
    )


def _elapsed_s(record: RunRecord, *, is_over: bool) -> float | None:
    return _seconds_between(record.created_at, record.updated_at if is_over else None)


def _seconds_since(moment: str) -> float:
    return _seconds_between(moment, None) or 0.0


def _seconds_between(first: str, last: str | None) -> float | None:
    try:
        start = datetime.fromisoformat(first)
        end = datetime.fromisoformat(last) if last else datetime.now(UTC)
        return max(0.0, (end - start).total_seconds())
    except (TypeError, ValueError):  # written by another program, or without a zone
        return None


def link(address: str | None) -> str | None:
    """Return an address that is safe to be followed, or None."""
    return address if address and address.startswith(("http://", "https://")) else None


def _not_found(study_id: str) -> NotFoundError:
    shown = study_id[:64]
    return NotFoundError(
        f"a study is found by its whole id, got {shown!r}, which nobody has; /api/v1/studies lists them"
    )
