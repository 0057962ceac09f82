"""Say where runs stand, for pages and API alike; the database counts, and the numbers are kept a while."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

from dnnflow.engines.records import TrialState
from dnnflow.errors import LaunchError, NotFoundError
from dnnflow.events import Command
from dnnflow.paths import Workspace
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState, safe_link
from dnnflow.results.view.overview import RECENT_S, Grid, Totals, count_trials, grid, totals
from dnnflow.results.view.study_view import measured_best, metric_of_study
from dnnflow.web.contract.replies import (
    Best,
    CellGrid,
    DatasetFacts,
    Live,
    StateName,
    StudyStatus,
    StudySummary,
)
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

    @property
    def workspace(self) -> Workspace:
        """Where files of this installation lie."""
        return self._services.settings.workspace

    # ---- who is there

    def record(self, run_id: str) -> RunRecord | None:
        """Return the row of exactly this run as it stands now, or None.

        Raises
        ------
        LaunchError
            If the store does not know it, and who launches runs is away.
        """
        away = self._refresh(run_id)
        record = self._services.store.find(run_id)
        if record is None and away is not None:
            raise away
        return record

    def of_kind(self, kind: RunKind, run_id: str) -> RunRecord:
        """Return the row of exactly this study or training as it stands now.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        record = self.record(run_id)
        if record is None or record.kind is not kind:
            raise _not_found(kind, run_id)
        return record

    def stored(self, study_id: str) -> RunRecord:
        """Return the row of a study that has begun.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        record = self._services.store.find(study_id)
        if record is None or not record.has_designs:
            raise _not_found(RunKind.STUDY, study_id)
        return record

    def _refresh(self, run_id: str | None = None) -> LaunchError | None:
        try:
            self._services.launcher.refresh(run_id)
        except LaunchError as error:  # who launched it is away: what is stored is still there
            return error
        return None

    # ---- where it stands

    def status(self, study_id: str, *, live: bool = True) -> StudyStatus:
        """Return where a study stands, launched from here or not.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        return self._status(self.of_kind(RunKind.STUDY, study_id), live=live)

    def _status(self, record: RunRecord, *, live: bool) -> StudyStatus:
        counted = self.counted(record) if record.has_designs else None
        stored = counted.stored if counted else 0
        state = state_of(record, stored)
        counts = counted.totals.counts if counted else dict.fromkeys(TrialState, 0)
        total = record.n_designs if counted else _designs_asked_for(record)
        missing = None if total is None else max(0, total - stored)
        rate = self._rate(counted) if counted and state in ("running", "pausing") else None
        return StudyStatus(
            study_id=record.run_id,
            name=record.name,
            note=record.note,
            tags=list(record.tags),
            state=state,
            stage=_stage(record) if record.ended_at is None and state != "stopped" else None,
            queue_place=self.queue_place(record),
            total=total,
            completed=counts[TrialState.COMPLETED],
            failed=counts[TrialState.FAILED] + counts[TrialState.LOST],
            missing=missing,
            rate=rate,
            eta_s=(record.progress or {}).get("eta_s") if state in ("running", "pausing") else None,
            best=counted.best if counted else None,
            elapsed_s=_elapsed_s(record),
            training_s=counted.totals.training_s if counted else 0.0,
            wanted=record.command.value,
            dashboard=safe_link(record.dashboard),
            run_url=safe_link(record.run_url),
            error=record.error if state == "failed" else None,
            created_at=record.created_at,
            updated_at=_updated_at(record),
            dataset=dataset_facts(record.dataset),
            live=counted.live if counted and live else None,
        )

    def queue_place(self, record: RunRecord) -> int | None:
        """Return how many runs are before one that waits for a supervisor."""
        if record.queue is None or record.state is not RunState.QUEUED:
            return None
        waiting = self._services.store.waiting(record.queue)
        return waiting.index(record.run_id) if record.run_id in waiting else None

    def trainings(self) -> list[RunRecord]:
        """Return all parallel trainings, the newest first."""
        self._refresh()
        return sorted(self._services.store.runs(RunKind.TRAINING), key=place_of, reverse=True)

    def summaries(
        self,
        *,
        after: tuple[str, str] | None = None,
        limit: int = 50,
        state: StateName | None = None,
        kind: Literal["study", "train"] | None = None,
        name: str | None = None,
        tag: str | None = None,
    ) -> list[StudySummary]:
        """Return studies and parallel trainings, the newest first.

        Parameters
        ----------
        after
            `created_at` and id of the last one before.
        state, kind, name, tag
            Only such; of a name a part.
        """
        self._refresh()
        records = sorted(self._services.store.runs(), key=place_of, reverse=True)
        left = (one for one in records if after is None or place_of(one) < after)
        found = (
            self._summary(record)
            for record in left
            if is_named(record.name, name) and tag in (None, *record.tags)
        )
        fitting = (one for one in found if state in (None, one.state) and kind in (None, one.kind))
        return list(islice(fitting, limit))

    def _summary(self, record: RunRecord) -> StudySummary:
        status = self._status(record, live=False)
        is_training = record.kind is RunKind.TRAINING
        measured = None if is_training else measured_best(record)
        score = status.best.score if status.best else None
        if measured is not None:
            score = measured.score
        return StudySummary(
            study_id=record.run_id,
            kind="train" if is_training else "study",
            name=record.name,
            tags=status.tags,
            state="running" if is_training and status.state == "preparing" else status.state,
            total=status.total,
            completed=status.completed,
            failed=status.failed,
            best_score=score,
            best_text=None if score is None else metric_of_study(record).text(score),
            best_of=measured.role if measured else "screen" if status.best else None,
            created_at=status.created_at,
            updated_at=status.updated_at,
        )

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
        if found.best_design_id is not None and found.best_score is not None:
            design = store.designs_of(study_id, [found.best_design_id])[found.best_design_id]
            metric = metric_of_study(record)
            best = Best(
                score=found.best_score, text=metric.text(found.best_score), metric=metric.label,
                design_id=design.design_id, design=design.describe(),
            )  # fmt: skip
        live = Live(
            score=_cells(grid(store, study_id, "score")),
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


def state_of(record: RunRecord, stored: int = 0) -> StateName:
    """Say where a run stands by its row, and of a study by the number of its trials."""
    is_launched = record.queued_s is not None  # then a supervisor or a Prefect server answers for it
    begun: StateName = "running" if stored else "preparing"
    if record.has_designs and stored >= record.n_designs:
        begun = "finishing"
    match record.state:
        case RunState.FINISHED:
            is_going_on = record.is_driven or (is_launched and record.ended_at is None)
            return "finishing" if record.has_designs and is_going_on else "finished"
        case RunState.FAILED:
            return "failed"
        case RunState.QUEUED if is_launched:
            return "queued"
        case RunState.RUNNING | RunState.QUEUED if record.is_driven:
            if record.command is Command.PAUSE and record.has_designs:
                return "paused" if record.acknowledged is Command.PAUSE else "pausing"
            return begun
        case RunState.RUNNING if is_launched:
            return begun
    return "stopped"


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
        label=label_text(described),
        classes_names=names[:MOST_CLASS_NAMES],
        notes=[str(note) for note in described.get("notes") or ()],
    )


def label_text(described: Mapping[str, Any]) -> str:
    """Return the names of the columns that are predicted."""
    label = described.get("label") or ""
    return label if isinstance(label, str) else ", ".join(map(str, label))


def _cells(found: Grid | None) -> CellGrid | None:
    return None if found is None else CellGrid.model_validate(found, from_attributes=True)


def is_named(name: str, part: str | None) -> bool:
    """Whether a name has a part, in upper or lower case."""
    return part is None or part.casefold() in name.casefold()


def place_of(record: RunRecord) -> tuple[str, str]:
    """Return what lists are ordered by, the last first."""
    return record.created_at, record.run_id


def _designs_asked_for(record: RunRecord) -> int | None:
    designs = record.pipeline.get("designs")
    return designs if isinstance(designs, int) else None


def _updated_at(record: RunRecord) -> str:
    """Return when a study changed last, or what is no study yet."""
    return (
        record.updated_at if record.has_designs else record.ended_at or record.started_at or record.created_at
    )


def _stage(record: RunRecord) -> str | None:
    """Return what is done now, without the id of the study."""
    told = f"study {record.run_id}"
    return record.stage and record.stage.replace(f"{told}: ", "").removesuffix(f": {told}")


def _elapsed_s(record: RunRecord) -> float | None:
    """Return the seconds since a run was begun, to now or to its last change."""
    is_over = record.ended_at is not None or (record.has_designs and not record.is_driven)
    return _seconds_between(record.started_at or record.created_at, _updated_at(record) if is_over else None)


def _seconds_since(moment: str) -> float:
    return _seconds_between(moment, None) or 0.0


def _seconds_between(first: str, last: str | None) -> float | None:
    try:
        start = datetime.fromisoformat(first)
        end = datetime.fromisoformat(last) if last else datetime.now(UTC)
        return max(0.0, (end - start).total_seconds())
    except (TypeError, ValueError):  # written by another program, or without a zone
        return None


def _not_found(kind: RunKind, run_id: str) -> NotFoundError:
    what, route = ("study", "studies") if kind is RunKind.STUDY else ("training", "runs")
    return NotFoundError(
        f"a {what} is found by its whole id, got {run_id[:64]!r}, which nobody has; "
        f"/api/v1/{route} lists them"
    )
