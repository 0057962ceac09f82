"""Say what a person may do next with a study, the most useful first."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from dnnflow.design.edges import Edge
from dnnflow.paths import Workspace
from dnnflow.results.view.score_words import width_text
from dnnflow.results.view.study_view import StudyView
from dnnflow.results.view.tested import Tested, best_baseline, ensemble_of, first_of

MOST = 4
"""Steps that are told."""
FEW = 0.05
"""Share of the designs that are as good as the first, at most, where more designs are offered."""
MORE = 4
"""How many times as many rows or designs are offered."""

StepKind = Literal["validation", "widen", "designs", "rows", "model", "score"]


@dataclass(frozen=True)
class NextStep:
    """Something to do next."""

    kind: StepKind
    """What it is about, for a program."""
    text: str
    """Why, in words."""
    command: str | None = None
    """For a terminal; FILE is the study's pipeline, ROWS.csv a table of the same columns."""
    model: str | None = None
    """What the step takes: a rank, `ensemble`, or `final`."""


def next_steps(view: StudyView, models: PurePath | str = "models") -> tuple[NextStep, ...]:
    """Return what may be done next with a study that was measured; nothing before.

    Parameters
    ----------
    models
        Directory of the saved models, as it is to be written in commands.
    """
    winner = first_of(view.tested)
    if winner is None:
        return ()
    why = [*_on_validation_rows(view), *_other_designs(view), *_more_rows(view, winner)]
    taken = _with_model(view, winner, PurePath(models))
    return (*why[: MOST - len(taken)], *taken)


def recommended_file(view: StudyView, workspace: Workspace) -> Path:
    """Return the file of the model that a person is told to take, whether it is there or not."""
    study_id, model = view.record.study_id, next((one.model for one in next_steps(view) if one.model), "1")
    named = {"ensemble": workspace.ensemble, "final": workspace.final_model}
    return named[model](study_id) if model in named else workspace.model(study_id, int(model))


def edges_in_words(edges: tuple[Edge, ...]) -> str:
    """Return where the best designs lie, as a sentence without its end."""
    told = ", and ".join(str(edge) for edge in edges)
    return f"{told[:1].upper()}{told[1:]}"


def _on_validation_rows(view: StudyView) -> Iterator[NextStep]:
    if view.is_selected_on_test:
        yield NextStep(
            "validation",
            "Designs were chosen on the test rows: choose them on others to know what they are worth.",
            "dnnflow run FILE --set evaluation.select_on=validation",
        )


def _other_designs(view: StudyView) -> Iterator[NextStep]:
    """Yield the wider study, or one of more designs where the best are rare."""
    if view.edges:
        told = f"{edges_in_words(view.edges)}: a wider space may hold better designs."
        yield NextStep("widen", told, f"dnnflow widen {view.record.study_id}")
        return
    designs, noise = view.record.pipeline.get("designs"), view.noise
    if isinstance(designs, int) and noise is not None and noise.equal <= max(1, FEW * noise.designs):
        told = f"{noise.equal:,} of {noise.designs:,} designs are that good: more may hold better ones."
        yield NextStep("designs", told, f"dnnflow run FILE --set designs={MORE * designs}")


def _more_rows(view: StudyView, winner: Tested) -> Iterator[NextStep]:
    """Yield what more test rows would tell, where those that there are leave the order open."""
    if winner.interval is None:
        return
    low, high = winner.interval
    rivals = [one for one in (ensemble_of(view.tested), best_baseline(view.tested)) if one is not None]
    near = [one.short for one in rivals if low <= one.score <= high]
    if not near:
        return
    now = (high - low) / 2
    then = width_text(view.metric, now / math.sqrt(MORE))  # an interval narrows with the root of the rows
    yield NextStep(
        "rows",
        f"More rows: {winner.rows:,} test rows tell {view.metric.label} to {width_text(view.metric, now)}, "
        f"too few to tell the winner from {' or '.join(near)}; "
        f"{MORE * winner.rows:,} would tell it to {then}.",
    )


def _with_model(view: StudyView, winner: Tested, models: PurePath) -> tuple[NextStep, NextStep]:
    """Return what may be done with what is to be taken: on all rows, where it was trained on them."""
    best = view.taken or winner
    model, file = "ensemble", models / "ensemble.keras"
    if best.kind == "design":
        model, file = str(best.rank), models / f"best-{best.rank}.keras"
    worth = f"{view.metric.text(best.score)} on the test rows"
    text = f"Predict new rows with {best.short} ({worth})."
    if view.final_rows:
        model, file = "final", models / "final.keras"
        text = (f"Predict new rows with {best.short}, trained once more on all {view.final_rows:,} rows. "
                f"None is left to measure that on: {worth} is of the same designs without them.")  # fmt: skip
    return (
        NextStep("model", text, f"dnnflow predict {file} ROWS.csv", model),
        NextStep(
            "score", "Measure it on new rows that have the label.", f"dnnflow score {file} ROWS.csv", model
        ),
    )
