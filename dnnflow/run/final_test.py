"""Measure what a study hands out, and baselines, once, on test rows that nothing was chosen by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dnnflow.engines.baselines import BOOSTING, LARGEST_CLASS, LINEAR, RIDGE, Predict, baselines, fitted_rows
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows
from dnnflow.engines.metric import Metric, decided
from dnnflow.engines.metrics import ACCURACY, METRICS, measures, metric_of
from dnnflow.engines.scoring import in_units
from dnnflow.errors import InputError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.results.predictions.prediction_matrix import KeptPredictions, read_predictions
from dnnflow.results.store.final_trials import FinalTrial
from dnnflow.results.view.bootstrap import bootstrap_interval
from dnnflow.results.view.finals import Finals, averaged_outputs, by_finalist, out_of_fold
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.tested import Tested, tested_in
from dnnflow.run.adjustment import Adjustment, adjustment
from dnnflow.run.ensemble_model import KeptNetwork, build_mean, described, model_id, with_temperature
from dnnflow.run.final_stage import (
    handed_out,
    has_final_model,
    options_of,
    options_told,
    parts_of,
    refit_task,
)
from dnnflow.run.models.saved_model import write_model
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.split import Part
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    import keras

    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study

_BATCH_ROWS = 8192
MOST_OUTPUTS = 1 << 26
"""Numbers that are kept of what a model gives for the test rows, 256 MiB, where only classes matter."""
Rows = tuple[NDArray[Any], NDArray[Any]]
"""What is true of some rows, (rows,) or (rows, outputs), and what is predicted for them (rows, outputs)."""


def hand_out(
    study: "Study", view: "StudyView", listener: Listener = ignore
) -> tuple[list[Path], tuple[Tested, ...]]:
    """Write the models that are handed out, each with what it is worth on the test rows; return both.

    These are the winner, the first of the leaderboard and the ensemble; of a study without finalists, the
    first of the leaderboard. What was measured before is not measured again: the test rows are looked at
    once by each model.
    """
    known = {one.key: one for one in tested_in(study.record.outcome)}
    paths: list[Path] = []
    found: list[Tested] = []
    for handed in _handed_out(study, view):
        one = _write(study, handed, known)
        if one is None:
            listener(Notice(f"no model of {handed.name} is saved: its weights were not kept"))
            continue
        paths.append(handed.path)
        found.append(one)
    measured = _known_baselines(study)
    if view.leaderboard and not measured:
        measured = _baselines(study, listener, has_folds=view.finals is not None)
    tested = (*found, *measured)
    outcome = {"tested": [one.to_dict() for one in tested], "options": options_told(study),
               **({} if has_final_model(study, view) else {"final": None})}  # fmt: skip
    study.store.tell(study.id, outcome=outcome)
    return paths, tested


def measure_baselines_first(study: "Study", listener: Listener = ignore) -> None:
    """Measure the baselines before designs are trained, so that it is known how long they take."""
    if _known_baselines(study):
        return
    is_apart = study.job().settings.select_on == "validation"
    measured = _baselines(study, listener, has_folds=bool(is_apart and options_of(study).finalists))
    outcome = {"tested": [one.to_dict() for one in measured], "options": options_told(study)}
    study.store.tell(study.id, outcome=outcome)


def _known_baselines(study: "Study") -> list[Tested]:
    """Return what is known of them; with other options they were fitted to other rows than the models."""
    outcome = study.record.outcome or {}
    is_alike = outcome.get("options") == options_told(study)
    return [one for one in tested_in(outcome) if one.kind == "baseline" and is_alike]


def _baselines(study: "Study", listener: Listener, *, has_folds: bool) -> list[Tested]:
    parts = parts_of(study, options_of(study)) if has_folds else []
    return list(measure_baselines(study, listener, list(dict.fromkeys(part for part, _ in parts))))


@dataclass(frozen=True)
class _Handed:
    """A model to hand out: one network, or the weighted mean of several."""

    kind: Literal["design", "ensemble"]
    name: str
    path: Path
    networks: tuple[KeptNetwork, ...]
    rank: int | None = None
    selected: float | None = None
    design_id: str | None = None
    """Of the study's design that a single network is of."""
    held_out: Rows | None = None
    """What is true of rows that its networks were not fitted to, and what they give for these; None where
    that is not kept."""


def _handed_out(study: "Study", view: "StudyView") -> Iterator[_Handed]:
    workspace, finals = study.settings.workspace, view.finals
    places = {place.design_id: place for place in view.leaderboard}
    wanted = [place.design_id for place in view.leaderboard[: study.pipeline.outputs.models]]
    if finals is not None:
        wanted = handed_out(study, finals)
    kept = HeldOut.of_study(study) if finals is not None else None
    designs = {design.design_id: design for design in study.designs}
    is_apart = study.job().settings.select_on == "validation"
    for design_id in wanted:
        held_out = None if kept is None else kept.of(design_id)
        place, design = places[design_id], designs[design_id]
        if finals is not None:
            trained = refit_task(design, finals).design
            weights = workspace.final_weights(study.id, trained.design_id)
        else:
            trained, weights = design, workspace.weights(study.id, design_id)
        yield _Handed(
            "design", place.design, workspace.model(study.id, place.rank),
            (KeptNetwork(trained, weights, 1.0),), rank=place.rank,
            selected=place.score if is_apart else None, design_id=design_id, held_out=held_out,
        )  # fmt: skip
    if finals is not None and finals.ensemble:
        yield _ensemble(study, finals, None if kept is None else kept.of_mean(finals.ensemble))


def _ensemble(study: "Study", finals: Finals, held_out: Rows | None) -> _Handed:
    workspace, counts = study.settings.workspace, finals.ensemble
    trained = [one for one in study.store.final_trials(study.id) if one.stage == "folds"]
    total, networks = sum(counts.values()), []
    for design_id, count in counts.items():
        mine = [one.design for one in trained if one.finalist == design_id]
        networks += [
            KeptNetwork(one, workspace.final_weights(study.id, one.design_id), count / total / len(mine))
            for one in mine
        ]
    designs = f"{len(counts)} designs" if len(counts) > 1 else "one design"
    return _Handed(
        "ensemble", f"an ensemble of {designs} ({len(networks)} networks)", workspace.ensemble(study.id),
        tuple(networks), selected=finals.ensemble_score, held_out=held_out,
    )  # fmt: skip


def _write(study: "Study", handed: _Handed, known: Mapping[str, Tested]) -> Tested | None:
    """Write a model; return its numbers, or None where its weights are gone."""
    model = build_mean(study, handed.networks)
    if model is None:
        of_file = (one for one in known.values()
                   if (one.kind, one.design_id) == (handed.kind, handed.design_id))  # fmt: skip
        return next(of_file, None) if handed.path.is_file() else None
    dataset = study.dataset
    rows = _rows(study)
    metric = _metric(study)
    adjusted = _adjustment(metric, dataset.targets, handed, model, rows)
    if adjusted.temperature != 1.0:
        model = with_temperature(model, adjusted.temperature, dataset.task, dataset.n_features)
    made = model_id(handed.networks, adjusted.temperature, adjusted.thresholds)
    before = known.get(made)
    if before is None:
        found = _rows_of(_predict_with(model), rows.test(), metric, dataset.targets, adjusted.thresholds)
        before = _tested(metric, dataset.task, found, adjusted, kind=handed.kind, name=handed.name,
                         design_id=handed.design_id, model_id=made)  # fmt: skip
    tested = replace(before, rank=handed.rank, selected=handed.selected)
    record = {"study_id": study.id, "design_id": handed.design_id, "metric": metric.name,
              "score": handed.selected,
              "tested": tested.to_dict(), "thresholds": adjusted.thresholds,
              "calibration": adjusted.calibration, **described(handed.networks)}  # fmt: skip
    write_model(handed.path, model, dataset, record)
    return tested


def _rows(study: "Study") -> TrainingRows:
    """Return a study's rows, read block by block and without their weights."""
    return TrainingRows(study.dataset, study.job().settings, blocks=True, is_weighing=False)


def _metric(study: "Study") -> Metric:
    dataset = study.dataset
    return metric_of(study.job().settings.metric, dataset.task, dataset.n_outputs)


def _adjustment(
    metric: Metric, targets: Targets, handed: _Handed, model: "keras.Model", rows: TrainingRows
) -> Adjustment:
    """Find how a model is adjusted: by rows that its networks were not fitted to, where there are some."""
    held_out = handed.held_out
    if held_out is None and rows.settings.select_on == "validation" and len(handed.networks) == 1:
        held_out = _rows_of(_predict_with(model), rows.validation(), METRICS["log_loss"], targets)
    return Adjustment() if held_out is None else adjustment(metric, targets.task, *held_out)


def _predict_with(model: "keras.Model") -> Predict:
    def predict(features: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        outputs = [np.asarray(model(features[at : at + _BATCH_ROWS], training=False))
                   for at in range(0, len(features), _BATCH_ROWS)]  # fmt: skip
        return np.concatenate(outputs)

    return predict


def measure_baselines(
    study: "Study", listener: Listener, parts: Sequence[Part] | None = None
) -> Iterator[Tested]:
    """Yield what simple models give that are fitted to the rows that networks were fitted to.

    Parameters
    ----------
    parts
        What finalists held out, each once: baselines are then chosen by the same rows, and fitted to all
        training rows for the test. Without, they are fitted to the rows of the screen.
    """
    dataset, settings = study.dataset, study.job().settings
    rows = _rows(study)
    limit = fitted_rows(dataset.rows["train"], dataset.n_features, dataset.n_outputs)
    whole = replace(rows, part=Part(holdout=0.0)) if parts else rows
    held = [replace(rows, part=part) for part in parts or ()] or [rows]
    features, labels = _first(whole.epoch(0, 1), limit)
    is_part = len(labels) == limit < dataset.rows["train"]
    metric, targets = _metric(study), dataset.targets
    for name, fit in baselines(dataset.task, dataset.n_outputs).items():
        try:
            # Threads that wait for each other took ten times the processor where others worked, too
            with threadpool_limits(1):
                predict = fit(features, labels)
                selected = None
                if settings.select_on == "validation":
                    fits = [fit(*_first(one.epoch(0, 1), limit)) for one in held] if parts else [predict]
                    scores = [_score(metric, targets.task, _rows_of(one, some.validation(), metric, targets))
                              for one, some in zip(fits, held, strict=True)]  # fmt: skip
                    selected = float(np.mean(scores))
                found = _rows_of(predict, rows.test(), metric, targets)
        except Exception as error:  # a library may raise anything: the study does without this one
            listener(Notice(f"{name} could not be measured, got {type(error).__name__}: {error}"))
        else:
            told = f"{name} on {limit:,} rows" if is_part and name in (LINEAR, RIDGE, BOOSTING) else name
            if name == LARGEST_CLASS:
                told = f"always {str(dataset.class_names[int(predict(features[:1]).argmax())])!r}"
            facts = {"kind": "baseline", "name": told, "selected": selected}
            yield _tested(metric, targets.task, found, Adjustment(), **facts)


def _rows_of(
    predict: Predict, blocks: Iterable[RowBlock], metric: Metric, targets: Targets,
    thresholds: tuple[float, ...] | None = None,
) -> Rows:  # fmt: skip
    """Return what is true of some rows, and what is predicted for them: probabilities, or numbers in units.

    Where these were too large to be kept, and only classes matter, the classes.
    """
    truth: list[NDArray[Any]] = []
    outputs: list[NDArray[Any]] = []
    kept = 0
    for block in blocks:
        found = predict(block.features[block.order]).astype(np.float32)
        kept += found.size
        if metric.needs == "classes" and kept > MOST_OUTPUTS:
            found = decided(targets.task, found, thresholds)
            outputs = [decided(targets.task, one, thresholds) for one in outputs]
        truth.append(block.labels[block.order])
        outputs.append(found)
    return in_units(targets, np.concatenate(truth)), in_units(targets, np.concatenate(outputs))


def _first(blocks: Iterable[RowBlock], limit: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return the first rows of blocks, at most `limit`."""
    features, labels, rows = [], [], 0
    for block in blocks:
        order = block.order[: limit - rows]
        features.append(block.features[order])
        labels.append(block.labels[order])
        rows += len(order)
        if rows >= limit:
            break
    return np.concatenate(features), np.concatenate(labels)


def _score(
    metric: Metric, task: Task, found: Rows, thresholds: tuple[float, ...] | None = None
) -> float:  # fmt: skip
    """Return the score of some rows.

    Raises
    ------
    InputError
        If they leave it undefined.
    """
    truth, outputs = found
    score = metric.score(truth, decided(task, outputs, thresholds) if metric.needs == "classes" else outputs)
    if score is None:
        raise InputError(
            f"{metric.label} needs rows that differ and finite outputs, got {len(truth):,} rows on which it "
            "is not defined; set another evaluation.metric"
        )
    return score


def _tested(metric: Metric, task: Task, found: Rows, adjusted: Adjustment, **facts: Any) -> Tested:
    truth, outputs = found
    score = _score(metric, task, found, adjusted.thresholds)
    if metric is ACCURACY and task is Task.CLASSIFICATION:
        interval: tuple[float | None, float | None] = wilson_interval(score, len(truth))
    else:
        given = decided(task, outputs, adjusted.thresholds) if metric.needs == "classes" else outputs
        interval = bootstrap_interval(metric, truth, given) or (None, None)
    return Tested(
        score=score, rows=len(truth), measures=measures(task, truth, outputs, adjusted.thresholds),
        low=interval[0], high=interval[1], calibration=adjusted.calibration, thresholds=adjusted.thresholds,
        **facts,
    )  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """What finalists' networks give for rows that they were not fitted to."""

    trainings: Mapping[str, Sequence[FinalTrial]]
    """With folds, by finalist."""
    kept: KeptPredictions

    @classmethod
    def of_study(cls, study: "Study") -> "HeldOut | None":
        """Read what a study kept; None where it kept nothing."""
        kept = read_predictions(study.settings.workspace.final_predictions(study.id))
        return None if kept is None else cls(by_finalist(study.store.final_trials(study.id)), kept)

    def of(self, design_id: str) -> Rows | None:
        """Return the rows of one finalist: a row as often as it was held out."""
        found = self.kept.of([one.design.design_id for one in self.trainings[design_id]])
        if found is None:
            return None
        known = ~np.isnan(found[..., 0])  # (trainings, rows)
        truth = np.broadcast_to(self.kept.truth, (len(found), *self.kept.truth.shape))
        return truth[known], found[known]

    def of_mean(self, counts: Mapping[str, int]) -> Rows | None:
        """Return the rows of the mean of finalists, each counted so often."""
        outputs, truth = out_of_fold([self.trainings[design_id] for design_id in counts], self.kept)
        if outputs is None or truth is None:
            return None
        return truth, averaged_outputs(outputs, dict(enumerate(counts.values())))
