"""Measure what a study hands out, and baselines, once, on test rows that nothing was chosen by."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dnnflow.engines.baselines import LARGEST_CLASS, Predict, baselines, fitted_rows
from dnnflow.engines.epoch_rows import Block, TrainingRows
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.seam import make_importable
from dnnflow.events import Listener, Notice, ignore
from dnnflow.results.view.leaderboard import Ranked
from dnnflow.results.view.tested import Tested, tested_in
from dnnflow.run.saved_model import read_weights, write_model

if TYPE_CHECKING:
    from dnnflow.results.view.study_view import StudyView
    from dnnflow.run.study import Study

_BATCH_ROWS = 8192


def hand_out(
    study: "Study", view: "StudyView", listener: Listener = ignore
) -> tuple[list[Path], tuple[Tested, ...]]:
    """Write the best designs' models, each with what it is worth on the test rows; return paths and numbers.

    What was measured before is not measured again: the test rows are looked at once.
    """
    known = tested_in(study.record.outcome)
    by_design = {one.design_id: one for one in known if one.kind == "design"}
    paths: list[Path] = []
    found: list[Tested] = []
    for place in view.leaderboard[: study.pipeline.outputs.models]:
        path = study.settings.workspace.model(study.id, place.rank)
        one = _write(study, place, path, by_design.get(place.design_id))
        if one is None:
            listener(Notice(f"no model is saved at rank {place.rank}: its weights were not kept"))
            continue
        paths.append(path)
        found.append(one)
    measured = [one for one in known if one.kind == "baseline"]
    if view.leaderboard and not measured:
        measured = list(measure_baselines(study, listener))
    tested = (*found, *measured)
    study.store.tell(study.id, outcome={"tested": [one.to_dict() for one in tested]})
    return paths, tested


def _write(study: "Study", place: Ranked, path: Path, known: Tested | None) -> Tested | None:
    """Write the model of a place; return its numbers, or None where its weights are gone."""
    weights = read_weights(study.settings.workspace.weights(study.id, place.design_id))
    if weights is None:
        return None
    make_importable(study.job().import_paths)
    import_tensorflow()
    from dnnflow.engines.keras.build import build_model

    dataset = study.dataset
    design = next(one for one in study.designs if one.design_id == place.design_id)
    model = build_model(design, dataset.n_features, dataset.n_classes)
    model.set_weights(weights)

    def predict(features: NDArray[np.float32]) -> NDArray[np.integer]:
        outputs = [np.asarray(model(features[at : at + _BATCH_ROWS], training=False))
                   for at in range(0, len(features), _BATCH_ROWS)]  # fmt: skip
        return np.asarray(np.concatenate(outputs).argmax(axis=1))

    if known is None:
        rows = TrainingRows(dataset, study.job().settings, blocks=True)
        counts = count(predict, rows.test(), dataset.n_classes)
        known = _tested(counts, kind="design", name=place.design, design_id=place.design_id)
    is_apart = study.job().settings.select_on == "validation"
    tested = replace(known, rank=place.rank, selected=place.score if is_apart else None)
    record = {"design": design.to_dict(), "study_id": study.id, "design_id": place.design_id,
              "score": place.score, "tested": tested.to_dict()}  # fmt: skip
    write_model(path, model, dataset, record)
    return tested


def measure_baselines(study: "Study", listener: Listener) -> Iterator[Tested]:
    """Yield what simple models give that are fitted to the rows the designs were fitted to."""
    dataset, settings = study.dataset, study.job().settings
    rows, n_classes = TrainingRows(dataset, settings, blocks=True), dataset.n_classes
    limit = fitted_rows(dataset.rows["train"], dataset.n_features, n_classes)
    features, labels = _first(rows.epoch(0, 1), limit)
    is_part = len(labels) == limit < dataset.rows["train"]
    for name, fit in baselines().items():
        try:
            # Threads that wait for each other took ten times the processor where others worked, too
            with threadpool_limits(1):
                predict = fit(features, labels)
                selected = None
                if settings.select_on == "validation":
                    selected = _share_right(count(predict, rows.validation(), n_classes))
                counts = count(predict, rows.test(), n_classes)
        except Exception as error:  # a library may raise anything: the study does without this one
            listener(Notice(f"{name} could not be measured, got {type(error).__name__}: {error}"))
        else:
            told = f"{name} on {limit:,} rows" if is_part and name != LARGEST_CLASS else name
            yield _tested(counts, kind="baseline", name=told, selected=selected)


def count(predict: Predict, blocks: Iterable[Block], n_classes: int) -> NDArray[np.int64]:
    """Return counts (classes, classes) of some rows, [true class][predicted class]."""
    counts = np.zeros(n_classes**2, np.int64)
    for features, labels, order in blocks:
        codes = labels[order].astype(np.int64) * n_classes + predict(features[order])
        counts += np.bincount(codes, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes)


def _first(blocks: Iterable[Block], limit: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the first rows of blocks, at most `limit`."""
    features, labels, rows = [], [], 0
    for block in blocks:
        order = block[2][: limit - rows]
        features.append(block[0][order])
        labels.append(block[1][order])
        rows += len(order)
        if rows >= limit:
            break
    return np.concatenate(features), np.concatenate(labels)


def _share_right(counts: NDArray[np.int64]) -> float:
    return float(np.trace(counts) / counts.sum())


def _tested(counts: NDArray[np.int64], **facts: Any) -> Tested:
    return Tested(score=_share_right(counts), rows=int(counts.sum()), **facts)
