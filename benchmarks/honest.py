"""Is what a study says true? Whole studies on simulated tables whose truth is known.

    python benchmarks/honest.py                                # 200 studies of 200 designs, one a core
    python benchmarks/honest.py --designs 20000 --studies 10   # an hour

A table of 400 rows is drawn from a mixture of two classes and goes through all stages of a study, in one
process. The truth of a model is its accuracy on 100,000 further rows. Printed is what is said of it less what
is true, in points, and how often the 95 % interval holds the truth:

- the winner and the ensemble, measured once on test rows, and what they had on the rows they were chosen by;
- the best of the screen on its validation rows, and the same without the luck of being chosen (BBC-CV);
- the way before (`select_on: test`): the best on the test rows, by its accuracy there.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.engines.compiled.compiled_engine import CompiledEngine
from dnnflow.engines.records import TrainingSettings
from dnnflow.engines.seam import TrainingContext
from dnnflow.execute.local import LocalExecutor
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.run.execute import begin, finalists, measure_once, preprocess
from dnnflow.run.models.saved_model import load_model, read_weights
from dnnflow.run.run import StudyRun
from dnnflow.settings import Settings
from dnnflow.table.store.dataset import Dataset

ROWS, FEATURES, TRUE_ROWS = 400, 6, 100_000
SPACE = {
    "depth": {"int": [1, 3]}, "units": {"choice": [4, 8, 16]}, "activation": {"choice": ["relu", "tanh"]},
    "learning_rate": {"loguniform": [0.001, 0.03]}, "epochs": 8, "batch_size": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What is said of a design, and what is true, as shares of right predictions."""

    score: float
    low: float
    high: float
    truth: float


def draw(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (rows, FEATURES) and classes (rows,) of which about 80 % can be known."""
    labels = rng.integers(0, 2, rows)
    features = rng.normal(size=(rows, FEATURES))
    features[:, 0] += 1.1 * labels
    features[:, 1] += np.where(labels, features[:, 2], -features[:, 2]) * 0.6
    return features, labels


def write_table(rng: np.random.Generator, folder: Path) -> Path:
    """Write a drawn table as a CSV and return its path."""
    features, labels = draw(rng, ROWS)
    path = folder / "table.csv"
    np.savetxt(path, np.column_stack([features, labels]), delimiter=",", fmt=["%.6f"] * FEATURES + ["%d"],
               header=",".join([*(f"x{i}" for i in range(FEATURES)), "label"]), comments="")  # fmt: skip
    return path


def predict(design: Design, weights: Sequence[np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return classes (rows,) of a plain network."""
    flow = features
    for layer, kernel, bias in zip(design.layers, weights[:-2:2], weights[1:-2:2], strict=True):
        flow = flow @ kernel + bias
        flow = np.maximum(flow, 0) if layer.activation == "relu" else np.tanh(flow)
    return np.asarray((flow @ weights[-2] + weights[-1]).argmax(axis=1))


def best_on_test_rows(designs: Sequence[Design], dataset: Dataset) -> tuple[Design, list[np.ndarray], float]:
    """Return the first design by its accuracy on test rows, its weights, and that accuracy."""
    by_id = {design.design_id: design for design in designs}
    best, weights = (np.inf, 0.0, ""), list[np.ndarray]()
    context = TrainingContext(dataset, TrainingSettings(select_on="test"))
    for fitted in CompiledEngine().train(designs, context):
        trial = fitted.trial
        key = -float(trial.score or 0.0), float(trial.parameters or 0), trial.design_id
        if key < best and fitted.weights:
            best, weights = key, list(fitted.weights())
    return by_id[best[2]], weights, -best[0]


def study(seed: int, n_designs: int) -> dict[str, Said]:
    """Do one study and return what is said."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_environment({"DNNFLOW_HOME": str(Path(folder) / "home")})
        workspace = settings.workspace
        pipeline = Pipeline.model_validate({
            "dataset": {"source": str(write_table(rng, Path(folder))), "label": "label"}, "space": SPACE,
            "designs": n_designs, "seed": seed, "outputs": {"models": 1},
        })  # fmt: skip
        run, executor = StudyRun(pipeline, settings), LocalExecutor()
        held = begin(run, preprocess(pipeline, settings))
        held.train(executor)
        screened = held.view()
        view = measure_once(held, finalists(held, screened, executor))
        raw, labels = draw(rng, TRUE_ROWS)
        rows = held.dataset.transform(pd.DataFrame(raw, columns=[f"x{i}" for i in range(FEATURES)]))
        names = held.dataset.label_names(np.arange(2)).tolist()
        codes = np.array([names.index(str(label)) for label in (0, 1)])[labels]
        found: dict[str, Said] = {}
        files = workspace.model(held.id, 1), workspace.ensemble(held.id)
        for one, path in zip(view.tested, files, strict=False):
            outputs = load_model(path).model.predict(rows, batch_size=8192, verbose=0)
            truth = float((outputs.argmax(axis=1) == codes).mean())
            found[f"{one.kind}: tested once"] = Said(one.score, *one.interval, truth)
            chosen, among = float(one.selected or 0.0), view.finals.rows
            found[f"  {one.kind}, as chosen"] = Said(chosen, *wilson_interval(chosen, among), truth)
        first = screened.leaderboard[0]
        best = next(design for design in held.designs if design.design_id == first.design_id)
        weights = read_weights(workspace.weights(held.id, first.design_id))
        truth = float((predict(best, weights, rows) == codes).mean())
        found["screen: validation accuracy"] = Said(first.score, first.low, first.high, truth)
        corrected = screened.noise.corrected
        found["  the same by BBC-CV"] = Said(corrected.score, corrected.low, corrected.high, truth)
        design, weights, before = best_on_test_rows(held.designs, held.dataset)
        found["before: best on test rows"] = Said(
            before, *wilson_interval(before, held.dataset.rows["test"]),
            float((predict(design, weights, rows) == codes).mean()),
        )  # fmt: skip
    return found


def show(found: Sequence[dict[str, Said]]) -> None:
    """Print bias and coverage of each way."""
    print(f"{'':28}{'says':>8}{'true':>8}{'bias':>8}{'±':>7}{'95 % interval holds':>22}")
    for name in found[0]:
        said = [one[name] for one in found]
        bias = np.array([100 * (one.score - one.truth) for one in said])
        holds = np.mean([one.low <= one.truth <= one.high for one in said])
        says, true = (100 * np.mean([getattr(one, field) for one in said]) for field in ("score", "truth"))
        print(f"{name:28}{says:>8.2f}{true:>8.2f}{bias.mean():>+8.2f}"
              f"{1.96 * bias.std(ddof=1) / len(bias) ** 0.5:>7.2f}{100 * holds:>20.1f} %")  # fmt: skip


def main() -> None:
    """Do the studies that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--designs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="studies at the same time")
    options = parser.parse_args()
    print(f"{options.studies} studies of {options.designs:,} designs, {ROWS} rows: points of accuracy")
    # Processes that begin anew: TensorFlow survives no fork
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        studied = pool.map(partial(study, n_designs=options.designs), range(options.studies))
        show(list(studied))


if __name__ == "__main__":
    main()
