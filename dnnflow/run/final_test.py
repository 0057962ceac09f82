"""Measure what a study hands out, and baselines, once, on test rows that nothing was chosen by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dnnflow.design.layers import Design
from dnnflow.engines.baselines import BOOSTING, LINEAR, RIDGE, Predict, baselines, fitted_rows
from dnnflow.engines.epoch_rows import Block, TrainingRows
from dnnflow.engines.metrics import ACCURACY, measures, metric_of
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.scoring import in_units
from dnnflow.engines.seam import make_importable
from dnnflow.errors import DataError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.results.view.finals import Finals
from dnnflow.results.view.tested import Tested, tested_in
from dnnflow.run.ensemble_model import averaged
from dnnflow.run.final_stage import handed_out, options_of, parts_of, refit_task
from dnnflow.run.saved_model import read_weights, write_model
from dnnflow.table.columns.split import Part
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study

_BATCH_ROWS = 8192


def hand_out(
    study: "Study", view: "StudyView", listener: Listener = ignore
) -> tuple[list[Path], tuple[Tested, ...]]:
    """Write the models that are handed out, each with what it is worth on the test rows; return both.

    These are the winner, the first of the leaderboard and the ensemble; of a study without finalists, the
    first of the leaderboard. What was measured before is not measured again: the test rows are looked at
    once.
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
    measured = [one for one in known.values() if one.kind == "baseline"]
    if view.leaderboard and not measured:
        parts = parts_of(study, options_of(study)) if view.finals else []
        measured = list(measure_baselines(study, listener, list(dict.fromkeys(part for part, _ in parts))))
    tested = (*found, *measured)
    study.store.tell(study.id, outcome={"tested": [one.to_dict() for one in tested]})
    return paths, tested


@dataclass(frozen=True)
class _Handed:
    """A model to hand out: one network, or the weighted mean of several."""

    kind: Literal["design", "ensemble"]
    name: str
    path: Path
    networks: tuple[tuple[Design, Path, float], ...]
    """Design, file of its weights, and share of the output of each network."""
    rank: int | None = None
    selected: float | None = None
    design_id: str | None = None
    """Of the study's design that a single network is of."""


def _handed_out(study: "Study", view: "StudyView") -> Iterator[_Handed]:
    workspace, finals = study.settings.workspace, view.finals
    places = {place.design_id: place for place in view.leaderboard}
    wanted = [place.design_id for place in view.leaderboard[: study.pipeline.outputs.models]]
    if finals is not None:
        wanted = handed_out(study, finals)
    designs = {design.design_id: design for design in study.designs}
    is_apart = study.job().settings.select_on == "validation"
    for design_id in wanted:
        place, design = places[design_id], designs[design_id]
        if finals is not None:
            trained = refit_task(design, finals).design
            weights = workspace.final_weights(study.id, trained.design_id)
        else:
            trained, weights = design, workspace.weights(study.id, design_id)
        yield _Handed(
            "design", place.design, workspace.model(study.id, place.rank), ((trained, weights, 1.0),),
            rank=place.rank, selected=place.score if is_apart else None, design_id=design_id,
        )  # fmt: skip
    if finals is not None and finals.ensemble:
        yield _ensemble(study, finals)


def _ensemble(study: "Study", finals: Finals) -> _Handed:
    workspace, counts = study.settings.workspace, finals.ensemble
    trained = [one for one in study.store.final_trials(study.id) if one.stage == "folds"]
    total, networks = sum(counts.values()), []
    for design_id, count in counts.items():
        mine = [one.design for one in trained if one.finalist == design_id]
        networks += [
            (design, workspace.final_weights(study.id, design.design_id), count / total / len(mine))
            for design in mine
        ]
    designs = f"{len(counts)} designs" if len(counts) > 1 else "one design"
    return _Handed(
        "ensemble", f"an ensemble of {designs} ({len(networks)} networks)", workspace.ensemble(study.id),
        tuple(networks), selected=finals.ensemble_score,
    )  # fmt: skip


def _write(study: "Study", handed: _Handed, known: Mapping[str, Tested]) -> Tested | None:
    """Write a model; return its numbers, or None where its weights are gone."""
    weights = [read_weights(path) for _, path, _ in handed.networks]
    before = known.get(handed.design_id or handed.kind)
    if any(one is None for one in weights):
        return before if before is not None and handed.path.is_file() else None
    make_importable(study.job().import_paths)
    import_tensorflow()
    from dnnflow.engines.keras.build import build_model

    dataset = study.dataset
    rows = TrainingRows(dataset, study.job().settings, blocks=True)
    members = []
    for (design, _, share), arrays in zip(handed.networks, weights, strict=True):
        network = build_model(design, dataset.n_features, dataset.n_outputs, loss=rows.loss)
        network.set_weights(arrays)
        members.append((network, share))
    model = members[0][0] if handed.kind == "design" else averaged(members, dataset.n_features)

    def predict(features: NDArray[np.float32]) -> NDArray[np.floating]:
        outputs = [np.asarray(model(features[at : at + _BATCH_ROWS], training=False))
                   for at in range(0, len(features), _BATCH_ROWS)]  # fmt: skip
        return np.concatenate(outputs)

    if before is None:
        before = _tested(rows, measured(predict, rows.test(), dataset.targets), kind=handed.kind,
                         name=handed.name, design_id=handed.design_id)  # fmt: skip
    tested = replace(before, rank=handed.rank, selected=handed.selected)
    record = {"study_id": study.id, "design_id": handed.design_id, "score": handed.selected,
              "tested": tested.to_dict(), **_described(handed)}  # fmt: skip
    write_model(handed.path, model, dataset, record)
    return tested


def _described(handed: _Handed) -> dict[str, Any]:
    """Return the designs of a model, as JSON types."""
    if handed.kind == "design":
        return {"design": handed.networks[0][0].to_dict()}
    return {"members": [{"design": design.to_dict(), "share": share} for design, _, share in handed.networks]}


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
    rows, targets = TrainingRows(dataset, settings, blocks=True), dataset.targets
    metric = metric_of(settings.metric, dataset.task, dataset.n_outputs)
    limit = fitted_rows(dataset.rows["train"], dataset.n_features, dataset.n_outputs)
    whole = replace(rows, part=Part(holdout=0.0)) if parts else rows
    held = [replace(rows, part=part) for part in parts or ()] or [rows]
    features, labels = _first(whole.epoch(0, 1), limit)
    is_part = len(labels) == limit < dataset.rows["train"]
    for name, fit in baselines(dataset.task).items():
        try:
            # Threads that wait for each other took ten times the processor where others worked, too
            with threadpool_limits(1):
                predict = fit(features, labels)
                selected = None
                if settings.select_on == "validation":
                    fits = [fit(*_first(one.epoch(0, 1), limit)) for one in held] if parts else [predict]
                    scores = [metric.score(*measured(one, some.validation(), targets))
                              for one, some in zip(fits, held, strict=True)]  # fmt: skip
                    selected = float(np.mean([one for one in scores if one is not None]))
                on_test = measured(predict, rows.test(), targets)
        except Exception as error:  # a library may raise anything: the study does without this one
            listener(Notice(f"{name} could not be measured, got {type(error).__name__}: {error}"))
        else:
            told = f"{name} on {limit:,} rows" if is_part and name in (LINEAR, RIDGE, BOOSTING) else name
            yield _tested(rows, on_test, kind="baseline", name=told, selected=selected)


def measured(
    predict: Predict, blocks: Iterable[Block], targets: Targets
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what is true of some rows, and what is predicted, as metrics take both."""
    truth, outputs = [], []
    for block in blocks:
        truth.append(block.labels[block.order])
        outputs.append(predict(block.features[block.order]))
    return in_units(targets, np.concatenate(truth)), in_units(targets, np.concatenate(outputs))


def _first(blocks: Iterable[Block], limit: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
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


def _tested(rows: TrainingRows, found: tuple[NDArray[Any], NDArray[Any]], **facts: Any) -> Tested:
    task = rows.dataset.task
    metric = metric_of(rows.settings.metric, task, rows.dataset.n_outputs)
    score = metric.score(*found)
    if score is None:
        raise DataError(
            f"{metric.label} needs test rows that differ, got {len(found[0]):,} that do not; keep more rows "
            "for the test"
        )
    every = {} if metric is ACCURACY else measures(task, *found)
    return Tested(score=score, rows=len(found[0]), measures=every, **facts)
