"""Compute a study's results as numbers, ready to be shown by a report, a page or a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dnnflow.design.edges import Edge, edges_of
from dnnflow.design.layers import Design
from dnnflow.design.space import Space
from dnnflow.engines.metric import Metric
from dnnflow.engines.metrics import ACCURACY, metric_of
from dnnflow.engines.records import FinalOptions, Trial, TrialState
from dnnflow.engines.scoring import EPOCH_MEASURES
from dnnflow.errors import DesignError
from dnnflow.paths import Workspace
from dnnflow.results.predictions.prediction_matrix import KeptPredictions, read_predictions
from dnnflow.results.store.run_record import RunRecord
from dnnflow.results.store.store import Store
from dnnflow.results.view.depth import (
    Band,
    Flatness,
    Spectrum,
    TimeFit,
    bands,
    flatness,
    spectrum,
    time_fit,
    timed_alike,
)
from dnnflow.results.view.finals import Finals, finals_of
from dnnflow.results.view.intervals import standard_error
from dnnflow.results.view.leaderboard import (
    PLACES,
    ComparedBy,
    Noise,
    Ranked,
    by_design,
    completed,
    leaderboard,
    noise,
    told_apart_on,
    with_finals,
)
from dnnflow.results.view.marginals import PARAMETERS, Marginal, marginals
from dnnflow.results.view.paired import bias_corrected
from dnnflow.results.view.target_points import TargetPoints, finalist_points, screen_points
from dnnflow.results.view.tested import (
    Tested,
    ToldNumber,
    final_rows_in,
    sentence,
    taken_of,
    tested_in,
    told_numbers,
)
from dnnflow.table.columns.kinds import Task

_BLOCK = 1 << 23
"""Most numbers of outputs that row scores are computed of at once."""
CURVES = 10
"""Learning curves are shown for so many of the best."""

COLUMNS = (
    "design_id", "state", "training_s", "amortised", "total_s", "queue_s", "parameters", "flops",
    "epochs_run", "score", "loss", "train_score", *PARAMETERS, "more_parameters",
    "error_type", "error_message", "started_at", "engine", "device",
)  # fmt: skip
"""What a view needs of every trial."""


@dataclass(frozen=True)
class FailureKind:
    """Trials that failed with the same type of error."""

    type: str
    """Name of the exception's class."""
    count: int
    message: str
    """The most frequent message."""
    design_id: str
    """One design that failed with this message."""
    design: str
    """The same in words."""


@dataclass(frozen=True)
class LearningCurve:
    """How one of the best designs learned."""

    rank: int
    design: str
    history: Mapping[str, tuple[float, ...]]
    """Per epoch: `loss`, `accuracy` or `r2`, and both with `val_` where there are validation rows."""


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """All numbers that a report, a page or a terminal shows of a study."""

    record: RunRecord
    counts: Mapping[TrialState, int]
    trials: pd.DataFrame = field(repr=False)
    """One row a completed trial, best first, with the columns `COLUMNS`."""
    leaderboard: tuple[Ranked, ...]
    """The best designs, at most `PLACES`: finalists first, then the others by the screen."""
    screen: tuple[Ranked, ...]
    """The best designs by the screen alone, at most `PLACES`."""
    finals: Finals | None
    """The finalists and what is handed out of them; None before they are trained, and without any."""
    metric: Metric = ACCURACY
    """What designs are compared by."""
    noise: Noise | None
    """How far the first place can be trusted; None without a completed trial."""
    marginals: tuple[Marginal, ...]
    """The parameter that explains most first."""
    score_by_depth: tuple[Band, ...]
    time_by_depth: tuple[Band, ...]
    """Training seconds of trials that are timed alike: all measured alone, or all shares of stacks' times."""
    time_fit: TimeFit | None
    """Training seconds against hidden layers, of the same trials; it says which they are."""
    flatness: Flatness | None
    """Whether accuracy stays the same from `depth.BEYOND` hidden layers on; None without such a trial."""
    spectrum: Spectrum | None
    curves: tuple[LearningCurve, ...]
    best: Trial | None
    """The best design's trial, with its confusion counts."""
    failures: tuple[FailureKind, ...]
    """The most frequent first."""
    edges: tuple[Edge, ...] = ()
    """Where the best designs lie at the edge of the study's space, or still learn at their last epoch."""
    points: tuple[TargetPoints, ...] = ()
    """Of numbers, what is predicted beside what is true, target by target: by the first finalist, without any
    by the best of the screen."""
    tested: tuple[Tested, ...] = ()
    """What is handed out, best first, then baselines: measured once, on test rows."""
    final_rows: int | None = None
    """Rows, all of the table, that `taken` was fitted to once more after the test; None where it was not."""

    @property
    def waiting(self) -> int:
        """Designs without a trial."""
        return self.record.n_designs - sum(self.counts.values())

    @property
    def is_selected_on_test(self) -> bool:
        """Whether designs are compared on the test rows: none is left that says what the best is worth."""
        return is_selected_on_test(self.record)

    @property
    def taken(self) -> Tested | None:
        """What is to be taken for new rows; None where nothing was measured."""
        return taken_of(self.tested, prefers_small=_prefers_small(self.record))

    @property
    def measured_rows(self) -> int:
        """Rows that designs are compared on; 0 where that is not known."""
        return self.noise.rows if self.noise else 0

    @property
    def measured_on(self) -> str:
        """Return the rows that designs are compared on, in words."""
        kind = "test" if self.is_selected_on_test else "validation"
        return f"{self.measured_rows:,} {kind} rows"

    @property
    def sentence(self) -> str:
        """Say what the best design is worth; empty where nothing was measured on test rows."""
        if self.noise is None:
            return ""
        equal = None if self.noise.test is ComparedBy.NONE else self.noise.equal
        return sentence(self.tested, equal, self.noise.designs, metric=self.metric)

    @property
    def numbers(self) -> tuple[ToldNumber, ...]:
        """The winner, the ensemble and the best baseline on test rows; empty where nothing was measured."""
        return told_numbers(self.tested, self.metric)

    @property
    def majority_rate(self) -> float | None:
        """Accuracy on these rows of always guessing their largest class; None where it is not known."""
        return _majority_rate(self.best)

    @property
    def followed(self) -> str:
        """What histories have beside the loss: accuracy, or r2 of numbers."""
        return EPOCH_MEASURES[task_of_study(self.record)]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the confusion counts."""
        names = self.record.dataset.get("class_names") or ()
        size = len(self.best.confusion) if self.best else 0
        return tuple(map(str, names)) if len(names) == size or not size else tuple(map(str, range(size)))


def load_view(store: Store, study_id: str, workspace: Workspace | None = None) -> StudyView:
    """Read a study's trials and compute everything that is shown of them.

    Parameters
    ----------
    workspace
        Where what the designs predict is kept, if it is.

    Raises
    ------
    NotFoundError
        If there is no such study.
    """
    record = store.study(study_id)
    every = store.frame(record.study_id, columns=COLUMNS)
    done = completed(every)
    kept = read_predictions(workspace.predictions(record.study_id)) if workspace else None
    finals = load_finals(store, record, workspace) if workspace else None
    order = _order(store, record, done, kept, finals)
    metric, designs = order.metric, store.designs_of(record.study_id, order.shown)
    places = leaderboard(order.ordered, designs, order.told, metric)
    best = store.trial(record.study_id, places[0].design_id) if places else None
    by_depth = bands(done, "score")
    curves = _curves(store, record.study_id, places[:CURVES])
    return StudyView(
        record=record,
        counts=store.counts(record.study_id),
        trials=done,
        leaderboard=places,
        screen=leaderboard(order.screened, designs, order.apart, metric),
        finals=finals,
        metric=metric,
        noise=order.noise,
        marginals=marginals(done),
        score_by_depth=by_depth,
        time_by_depth=bands(timed_alike(done), "training_s"),
        time_fit=time_fit(done),
        flatness=flatness(done, majority=_majority_rate(best) if metric is ACCURACY else None),
        spectrum=spectrum(by_depth),
        curves=curves,
        edges=_edges(record, [designs[place.design_id] for place in places[:CURVES]], curves),
        best=best,
        failures=_failures(store, record.study_id, every),
        points=_points(store, record, workspace, finals, [one.design_id for one in places[:1]], kept),
        tested=tested_in(record.outcome),
        final_rows=final_rows_in(record.outcome),
    )


@dataclass(frozen=True)
class _Order:
    """A study's designs, one row each, in the order of the screen and in the order with finalists."""

    metric: Metric
    screened: pd.DataFrame
    """Best first."""
    apart: np.ndarray
    """Whether each of `screened` can be told from the first, shape (designs,), bool."""
    ordered: pd.DataFrame
    """With finalists first; `screened` without any."""
    told: np.ndarray
    """Whether each of `ordered` can be told from the first, shape (designs,), bool."""
    noise: Noise | None

    @property
    def shown(self) -> list[str]:
        """Ids of the designs of both leaderboards."""
        return [*self.screened["design_id"].head(PLACES), *self.ordered["design_id"].head(PLACES)]


def _order(
    store: Store, record: RunRecord, done: pd.DataFrame, kept: KeptPredictions | None, finals: Finals | None
) -> _Order:
    metric, rows = metric_of_study(record), _measured_rows(store, record, done, kept)
    screened, members = by_design(done, lambda: store.unseeded(record.study_id), rows)
    good = _row_scores(members, kept, metric)
    if good is not None and metric is not ACCURACY and rows > 1:
        screened.loc[: PLACES - 1, "error"] = [standard_error(one) for one in good[:PLACES]]
    apart = told_apart_on(good, screened["score"].to_numpy(), rows, metric)
    ordered, told = screened, apart
    if finals is not None:
        ordered = with_finals(screened, finals)
        told = _told_with_finals(screened, ordered, finals, good, rows, metric)
    return _Order(metric, screened, apart, ordered, told, _noise(record, ordered, told, good, rows))


def _noise(
    record: RunRecord, ordered: pd.DataFrame, told: np.ndarray, good: np.ndarray | None, rows: int
) -> Noise | None:
    metric = metric_of_study(record)
    corrected = bias_corrected(good) if good is not None and rows > 1 and metric.is_additive else None
    return noise(
        ordered,
        rows,
        "test" if is_selected_on_test(record) else "validation",
        told,
        corrected,
        metric=metric,
        is_paired=good is not None,
    )


def load_finals(
    store: Store, record: RunRecord, workspace: Workspace, *, is_trained: bool = False
) -> Finals | None:
    """Return the order of a study's finalists; None before all of them are trained, and without any.

    Parameters
    ----------
    is_trained
        Whether it is known that they are; else what came after them tells.
    """
    found = store.final_trials(record.study_id)
    if not is_trained and not any(one.stage == "refit" for one in found):
        return None
    given = record.pipeline.get("evaluation") or {}
    options = FinalOptions(**{name: given[name] for name in FinalOptions.model_fields if name in given})
    predictions = read_predictions(workspace.final_predictions(record.study_id))
    return finals_of(
        found, predictions, metric=metric_of_study(record), task=task_of_study(record),
        prefer=options.prefer, members=options.ensemble,
    )  # fmt: skip


def task_of_study(record: RunRecord) -> Task:
    """Return what a study's table has to predict; older ones have classes."""
    return Task(record.dataset.get("task", Task.CLASSIFICATION))


def measured_best(record: RunRecord) -> Tested | None:
    """Return what is to be taken of a study, if it was measured on rows that it was not chosen on."""
    taken = taken_of(tested_in(record.outcome), prefers_small=_prefers_small(record))
    return None if taken is None or is_selected_on_test(record) else taken


def _prefers_small(record: RunRecord) -> bool:
    return (record.pipeline.get("evaluation") or {}).get("prefer") == "small"


def metric_of_study(record: RunRecord) -> Metric:
    """Return what a study compares designs by."""
    named = (record.pipeline.get("evaluation") or {}).get("metric")
    return metric_of(named, task_of_study(record), len(record.dataset.get("targets") or ()))


def _row_scores(
    members: Sequence[Sequence[str]], found: KeptPredictions | None, metric: Metric
) -> np.ndarray | None:
    """Return the row scores of designs, (designs, rows): of several seeds the mean; None without any."""
    if found is None or not members:
        return None
    outputs = found.of([design_id for group in members for design_id in group])
    if outputs is None or (metric.needs == "probabilities" and outputs.dtype.kind in "iub"):
        return None
    size = max(1, _BLOCK // max(1, outputs[0].size))
    blocks = [metric.row_scores(found.truth, outputs[at : at + size]) for at in range(0, len(outputs), size)]
    known = [block for block in blocks if block is not None]
    if len(known) < len(blocks):
        return None
    good = np.concatenate(known)
    if all(len(group) == 1 for group in members):
        return good
    starts = np.cumsum([0, *map(len, members)])[:-1]
    sums = np.add.reduceat(good, starts, axis=0, dtype=np.float32)
    return np.asarray(sums / np.array([[len(group)] for group in members], np.float32))


def _told_with_finals(
    screened: pd.DataFrame, ordered: pd.DataFrame, finals: Finals, good: np.ndarray | None, rows: int,
    metric: Metric,
) -> np.ndarray:  # fmt: skip
    """Return for each design whether it can be told from the first finalist, in the order with finalists.

    Finalists are compared by their own trainings, all others with the first one's in the screen.
    """
    place = pd.Series(screened.index, index=screened["design_id"])[ordered["design_id"]].to_numpy()
    n_finalists = len(finals.finalists)
    others = [place[0], *place[n_finalists:]]
    behind = told_apart_on(
        None if good is None else good[others], screened["score"].to_numpy()[others], rows, metric
    )
    return np.concatenate([finals.apart, behind[1:]]).astype(bool)


def is_selected_on_test(record: RunRecord) -> bool:
    """Say whether a study compares designs on the test rows."""
    return (record.pipeline.get("evaluation") or {}).get("select_on") == "test"


def _points(
    store: Store, record: RunRecord, workspace: Workspace | None, finals: Finals | None, best: Sequence[str],
    kept: KeptPredictions | None,
) -> tuple[TargetPoints, ...]:  # fmt: skip
    if task_of_study(record) is not Task.REGRESSION or workspace is None or not best:
        return ()
    names = [str(one["name"]) for one in record.dataset.get("targets") or ()]
    if finals is None:
        return screen_points(names, best[0], kept)
    trainings, path = store.final_trials(record.study_id), workspace.final_predictions(record.study_id)
    return finalist_points(names, finals, trainings, read_predictions(path))


def _measured_rows(store: Store, record: RunRecord, done: pd.DataFrame, kept: KeptPredictions | None) -> int:
    some = store.trial(record.study_id, str(done["design_id"].iloc[0])) if len(done) else None
    counted = sum(map(sum, some.confusion)) if some else 0
    if not counted and kept is not None:
        counted = len(kept.truth)
    rows = record.dataset.get("rows") or {}  # of an engine that counts nothing
    return int(counted or (rows.get("test") or 0 if is_selected_on_test(record) else 0))


def _majority_rate(best: Trial | None) -> float | None:
    counts = [sum(row) for row in best.confusion] if best else []
    return max(counts) / sum(counts) if sum(counts) else None


def _curves(store: Store, study_id: str, places: Sequence[Ranked]) -> tuple[LearningCurve, ...]:
    histories = store.histories(study_id, [place.design_id for place in places])
    curves = (LearningCurve(place.rank, place.design, histories[place.design_id]) for place in places)
    return tuple(curve for curve in curves if curve.history)


def _edges(record: RunRecord, best: Sequence[Design], curves: Sequence[LearningCurve]) -> tuple[Edge, ...]:
    """Return where a study's best designs lie at the edge of its space; of one that is not read, nothing."""
    written = dict(record.pipeline.get("space") or {})
    written.pop("code_folder", None)
    if "explicit" in written:
        return ()
    try:
        space = Space.from_dict(written)
    except DesignError:  # another version's
        return ()
    rising = [_still_rises(best[curve.rank - 1], curve.history) for curve in curves]
    return edges_of(space, best, rising)


def _still_rises(design: Design, history: Mapping[str, tuple[float, ...]]) -> bool:
    """Whether the validation loss was lowest in the last twentieth of the epochs that a design may take."""
    losses = history.get("val_loss", ())
    if len(losses) < design.epochs:
        return False
    return int(np.argmin(losses)) >= design.epochs - max(1, design.epochs // 20)


def _failures(store: Store, study_id: str, trials: pd.DataFrame) -> tuple[FailureKind, ...]:
    failed = trials[trials["error_type"].notna()]
    examples = {str(kind): _example(group) for kind, group in failed.groupby("error_type")}
    designs = store.designs_of(study_id, [design_id for design_id, _ in examples.values()])
    counts = failed["error_type"].value_counts()
    return tuple(
        FailureKind(kind, int(counts[kind]), examples[kind][1], examples[kind][0],
                    designs[examples[kind][0]].describe())
        for kind in sorted(examples, key=lambda kind: (-int(counts[kind]), kind))
    )  # fmt: skip


def _example(group: pd.DataFrame) -> tuple[str, str]:
    """Return the design id and text of the most frequent message."""
    message = group["error_message"].value_counts().index[0]
    return str(group["design_id"][group["error_message"] == message].iloc[0]), str(message)
