"""Is what a study says of its best design true? Whole studies on simulated tables whose truth is known.

    python benchmarks/honest.py                                # 200 studies of 200 designs
    python benchmarks/honest.py --designs 20000 --studies 10   # hours

A table of 400 rows is drawn from a mixture of two classes, ingested, and searched by the compiled engine. The
truth of a trained network is its accuracy on 100,000 further rows. Printed is what a study says of the design
that it hands out, less what is true, in points, and how often the 95 % interval holds the truth:

- today: chosen on validation rows, measured once on test rows;
- the leaderboard's number of that design, and the same without the luck of being chosen (BBC-CV);
- the way before (`select_on: test`): the best on the test rows, by its accuracy there.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dnnflow.design.layers import Design
from dnnflow.design.space import Space
from dnnflow.engines.compiled.compiled_engine import CompiledEngine
from dnnflow.engines.records import TrainingSettings
from dnnflow.engines.seam import Fitted, TrainingContext
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.paired import bias_corrected
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import Part
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

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


def make_dataset(rng: np.random.Generator, folder: Path) -> Dataset:
    """Return a drawn table as a dataset."""
    features, labels = draw(rng, ROWS)
    text = io.StringIO()
    np.savetxt(text, np.column_stack([features, labels]), delimiter=",", fmt=["%.6f"] * FEATURES + ["%d"],
               header=",".join([*(f"x{i}" for i in range(FEATURES)), "label"]), comments="")  # fmt: skip
    (folder / "table.csv").write_text(text.getvalue())
    return ingest(Source(url=str(folder / "table.csv")), Recipe(label="label"), folder / "datasets")


def predict(design: Design, weights: Sequence[np.ndarray], features: np.ndarray) -> np.ndarray:
    """Return classes (rows,) of a plain network."""
    flow = features
    for layer, kernel, bias in zip(design.layers, weights[:-2:2], weights[1:-2:2], strict=True):
        flow = flow @ kernel + bias
        flow = np.maximum(flow, 0) if layer.activation == "relu" else np.tanh(flow)
    return np.asarray((flow @ weights[-2] + weights[-1]).argmax(axis=1))


def search(
    designs: Sequence[Design], dataset: Dataset, settings: TrainingSettings
) -> tuple[Design, list[np.ndarray], np.ndarray]:
    """Return the first of the leaderboard, its weights, and what all predict, best first (designs, rows)."""
    places: list[tuple[tuple[float, float, str], Design, np.ndarray]] = []
    by_id = {design.design_id: design for design in designs}
    best: tuple[float, float, str] | None = None
    weights: list[np.ndarray] = []
    for fitted in CompiledEngine().train(designs, TrainingContext(dataset, settings)):
        key = key_of(fitted)
        if best is None or key < best:
            best, weights = key, list(fitted.weights()) if fitted.weights else []
        places.append((key, by_id[fitted.trial.design_id], np.asarray(fitted.predicted)))
    places.sort(key=lambda place: place[0])
    return places[0][1], weights, np.stack([place[2] for place in places])


def key_of(fitted: Fitted) -> tuple[float, float, str]:
    """Return what orders trials on the leaderboard."""
    trial = fitted.trial
    return -float(trial.score or 0.0), float(trial.parameters or 0), trial.design_id


def study(seed: int, n_designs: int) -> dict[str, Said]:
    """Do one study both ways and return what is said."""
    rng = np.random.default_rng(seed)
    drawn = enumerate(Space.from_dict(SPACE).sample(n_designs, seed))
    designs = [replace(design, seed=number) for number, design in drawn]
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(rng, Path(folder))
        raw, labels = draw(rng, TRUE_ROWS)
        rows = dataset.transform(pd.DataFrame(raw, columns=[f"x{i}" for i in range(FEATURES)]))
        names = dataset.label_names(np.arange(2)).tolist()
        codes = np.array([names.index(str(label)) for label in (0, 1)])[labels]

        def truth_of(design: Design, weights: list[np.ndarray]) -> float:
            return float((predict(design, weights, rows) == codes).mean())

        found: dict[str, Said] = {}
        settings = TrainingSettings()
        design, weights, predicted = search(designs, dataset, settings)
        truth = truth_of(design, weights)
        test_rows, test_labels = dataset.arrays("test")
        tested = float((predict(design, weights, test_rows) == test_labels).mean())
        found["today: tested once"] = Said(tested, *wilson_interval(tested, len(test_labels)), truth)
        _, held = dataset.part(Part())
        right = predicted == dataset.labels("train")[held]
        corrected = bias_corrected(right)
        naive = corrected.naive
        found["  its validation accuracy"] = Said(naive, *wilson_interval(naive, len(held)), truth)
        found["  the same by BBC-CV"] = Said(corrected.score, corrected.low, corrected.high, truth)
        design, weights, predicted = search(designs, dataset, TrainingSettings(select_on="test"))
        before = float((predicted[0] == test_labels).mean())
        found["before: best on test rows"] = Said(
            before, *wilson_interval(before, len(test_labels)), truth_of(design, weights)
        )
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
    options = parser.parse_args()
    print(f"{options.studies} studies of {options.designs:,} designs, {ROWS} rows: points of accuracy")
    show([study(seed, options.designs) for seed in range(options.studies)])


if __name__ == "__main__":
    main()
