"""Numbers and labels are predicted through every door, and come to the same.

Who has a table of amounts would else find a door that only knows classes.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dnnflow
from dnnflow.results.view.study_view import StudyView
from tests.golden.doors import Door, Rest, wait_for
from tests.golden.outcomes import small, study_of

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(900)]

LABELS: dict[str, Any] = {
    "one": {"label": "price", "drop": ["rent"]},
    "two": {"label": ["price", "rent"]},
}
ROW = {"size": 2.0, "age": 0.5}


@pytest.fixture(scope="session")
def table(golden: Path) -> Path:
    """120 rows: a price of 1,000 and 100 for each unit of size, and a rent."""
    rng = np.random.default_rng(3)
    size, age = rng.uniform(0, 3, 120), rng.uniform(0, 1, 120)
    price = 1000 + 100 * size + rng.normal(size=120)
    rent = size - age + rng.normal(scale=0.05, size=120)
    path = golden / "prices.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["size", "age", "price", "rent"])
        writer.writerows(np.stack([size, age, price, rent], axis=1).round(5).tolist())
    return path


@pytest.fixture(scope="session")
def seen() -> dict[str, StudyView]:
    """What the first door came to, by targets."""
    return {}


@pytest.mark.parametrize("targets", LABELS)
def test_numbers_are_predicted_by_every_door(
    door: Door, targets: str, table: Path, seen: dict[str, StudyView]
) -> None:
    space = {**small("")["space"], "epochs": 30, "learning_rate": 0.03}
    dataset = {"source": str(table), **LABELS[targets]}
    changed: dict[str, Any] = {"dataset": dataset, "space": space, "evaluation": {"finalists": 3, "folds": 3}}
    if targets == "one":
        changed |= {
            "executor": {"kind": "dask"}, "refit": {"replicas": 2, "epochs": 2, "synchronous": True},
        }  # fmt: skip
    study_id = door.run(small(f"numbers-{targets}", **changed))
    study = study_of(door.home, study_id)
    if isinstance(door, Rest):  # where it is finished before its models are measured
        wait_for(lambda: study.view().tested, "the models are measured")
    view = study.view()
    assert view.metric.name == {"one": "rmse", "two": "r2"}[targets]
    found = {one.name: one.score for one in view.tested}
    first = view.tested[0]
    assert first.score > found["always the mean"] + (5 if targets == "one" else 0.5)
    assert {"ridge regression", "gradient boosting"} < set(found)
    assert [len(one.truth) for one in view.points] == [96] * len(study.dataset.targets.names)
    before = seen.setdefault(targets, view)
    assert [one.score for one in view.leaderboard] == pytest.approx(
        [one.score for one in before.leaderboard], rel=1e-5
    )
    assert found == pytest.approx({one.name: one.score for one in before.tested}, rel=1e-4)
    assert_predicts(door, study_id, targets)


def assert_predicts(door: Door, study_id: str, targets: str) -> None:
    """Check that a door applies the best model to a new row, in the table's units."""
    if isinstance(door, Rest):
        wait_for(lambda: door.get(f"/studies/{study_id}/models")["models"], "models are saved")
        answer = door.post(f"/studies/{study_id}/models/1/predict", {"rows": [ROW]})
        (values,) = answer["values"]
        assert answer["targets"] == (["prediction"] if targets == "one" else ["price", "rent"])
        assert answer["classes"] == []
    else:
        rows, out = door.home / "row.csv", door.home / "predicted.csv"
        rows.write_text("size,age\n2.0,0.5\n")
        model = door.home / "studies" / study_id / "models" / "best-1.keras"
        printed = door.cli("predict", str(model), str(rows))
        out.write_text(printed)
        (row,) = csv.DictReader(printed.splitlines())
        assert list(row) == (["prediction"] if targets == "one" else ["price", "rent"])
        values = [float(value) for value in row.values()]
    assert values[0] == pytest.approx(1200, abs=40)


def test_labels_are_predicted(golden: Path, doors: dict[str, Door]) -> None:
    """A model says of each label its text, and how probable its second value is."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(120, 2))
    rows = [(*row, "yes" if row[0] > 0 else "no", int(row[1] > 0)) for row in x.round(5).tolist()]
    path = golden / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "is_a", "is_b"), *rows])
    space = {**small("")["space"], "epochs": 30, "learning_rate": 0.03}
    dataset = {"source": str(path), "label": ["is_a", "is_b"]}
    door = doors["cli"]
    study_id = door.run(small("labels", dataset=dataset, space=space))
    study = study_of(door.home, study_id)
    view = study.view()
    assert view.metric.name == "accuracy"
    assert view.tested[0].score > 0.9
    model = dnnflow.load_model(door.home / "studies" / study_id / "models" / "best-1.keras")
    import pandas as pd

    told = model.predict(pd.DataFrame({"a": [2.0, -2.0], "b": [-2.0, 2.0]}))
    assert list(told.columns) == ["is_a", "is_b", "probability of is_a=yes", "probability of is_b=1"]
    assert told[["is_a", "is_b"]].to_numpy().tolist() == [["yes", "0"], ["no", "1"]]
    assert (told.iloc[0, 2:].to_numpy() > 0.5).tolist() == [True, False]
