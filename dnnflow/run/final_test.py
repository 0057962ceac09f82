"""Measure what a study hands out, and baselines, once, on test rows that nothing was chosen by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dnnflow.design.layers import Design
from dnnflow.engines.baselines import LARGEST_CLASS, Predict, baselines, fitted_rows
from dnnflow.engines.epoch_rows import Block, TrainingRows
from dnnflow.engines.process_setup import import_tensorflow
from dnnflow.engines.seam import make_importable
from dnnflow.events import Listener, Notice, ignore
from dnnflow.results.view.finals import Finals
from dnnflow.results.view.tested import Tested, tested_in
from dnnflow.run.ensemble_model import averaged
from dnnflow.run.final_stage import handed_out, options_of, parts_of, refit_task
from dnnflow.run.saved_model import read_weights, write_model
from dnnflow.table.columns.split import Part

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
    members = []
    for (design, _, share), arrays in zip(handed.networks, weights, strict=True):
        network = build_model(design, dataset.n_features, dataset.n_classes)
        network.set_weights(arrays)
        members.append((network, share))
    model = members[0][0] if handed.kind == "design" else averaged(members, dataset.n_features)

    def predict(features: NDArray[np.float32]) -> NDArray[np.integer]:
        outputs = [np.asarray(model(features[at : at + _BATCH_ROWS], training=False))
                   for at in range(0, len(features), _BATCH_ROWS)]  # fmt: skip
        return np.asarray(np.concatenate(outputs).argmax(axis=1))

    if before is None:
        rows = TrainingRows(dataset, study.job().settings, blocks=True)
        counts = count(predict, rows.test(), dataset.n_classes)
        before = _tested(counts, kind=handed.kind, name=handed.name, design_id=handed.design_id)
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
    rows, n_classes = TrainingRows(dataset, settings, blocks=True), dataset.n_classes
    limit = fitted_rows(dataset.rows["train"], dataset.n_features, n_classes)
    whole = replace(rows, part=Part(holdout=0.0)) if parts else rows
    held = [replace(rows, part=part) for part in parts or ()] or [rows]
    features, labels = _first(whole.epoch(0, 1), limit)
    is_part = len(labels) == limit < dataset.rows["train"]
    for name, fit in baselines().items():
        try:
            # Threads that wait for each other took ten times the processor where others worked, too
            with threadpool_limits(1):
                predict = fit(features, labels)
                selected = None
                if settings.select_on == "validation":
                    fits = [fit(*_first(one.epoch(0, 1), limit)) for one in held] if parts else [predict]
                    shares = [_share_right(count(one, some.validation(), n_classes))
                              for one, some in zip(fits, held, strict=True)]  # fmt: skip
                    selected = float(np.mean(shares))
                counts = count(predict, rows.test(), n_classes)
        except Exception as error:  # a library may raise anything: the study does without this one
            listener(Notice(f"{name} could not be measured, got {type(error).__name__}: {error}"))
        else:
            told = f"{name} on {limit:,} rows" if is_part else name
            if name == LARGEST_CLASS:
                told = f"always {str(dataset.class_names[int(predict(features[:1])[0])])!r}"
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
