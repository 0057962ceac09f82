"""What a study predicts is what its label holds: no class becomes another one, and what is new is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dnnflow
from dnnflow.api import OpenStudy
from dnnflow.events import ignore
from dnnflow.settings import Settings

ROWS = 60
SPACE: dict[str, Any] = {"depth": 1, "units": 8, "epochs": 30, "learning_rate": 0.05}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=ROWS), "c": rng.choice(["x", "z"], ROWS)})


def searched(table: Any, settings: Settings, **options: Any) -> OpenStudy:
    more = {"finalists": 0, "space": SPACE, **options}
    return dnnflow.search(table, "k", designs=2, n_jobs=1, settings=settings, listener=ignore, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes",
    [
        ("01", "1"), ("001", "002"), ("1.50", "2.50"), ("1", "2"), ("1E2", "100"), (False, True), (1, 2),
        (0.5, 2.0), (2**60, 2**60 + 2), ("True", "TRUE-ish"),
    ],
)  # fmt: skip
def test_classes_of_a_frame_are_predicted_as_they_are(classes: tuple[Any, Any], settings: Settings) -> None:
    rows = frame()
    label = pd.Series([classes[int(value > 0)] for value in rows.a], name="k")
    study = searched(rows.assign(k=label), settings, task="classification")
    found = study.predict(rows)
    assert isinstance(found, pd.Series)
    assert set(found) <= set(classes)
    assert {type(value) for value in found.tolist()} == {type(classes[0])}
    assert (found == label).mean() > 0.8
    shares = study.predict_proba(rows)
    assert sorted(map(str, shares.columns)) == sorted(map(str, classes))


@pytest.mark.slow
def test_classes_of_a_csv_that_are_no_plain_numbers_stay_apart(settings: Settings, tmp_path: Path) -> None:
    rows = frame()
    label = ["01" if value > 0 else "1" for value in rows.a]
    path = tmp_path / "t.csv"
    rows.assign(k=label).to_csv(path, index=False)
    found = searched(path, settings).predict(rows)
    assert set(found) == {"01", "1"}


@pytest.mark.slow
def test_what_the_training_rows_did_not_have_is_told(settings: Settings) -> None:
    rows = frame()
    study = searched(rows.assign(k=rows.a > 0), settings)
    with pytest.warns(UserWarning, match="60 of 60 rows have a value unlike those trained on"):
        found = study.predict(rows.assign(c="unheard of"))
    assert set(found) <= {False, True}


@pytest.mark.slow
def test_a_marker_of_the_user_is_one_for_text_labels_too(settings: Settings) -> None:
    rows = frame()
    label = ["unknown" if place < 9 else "pq"[int(value > 0)] for place, value in enumerate(rows.a)]
    study = searched(rows.assign(k=label), settings, missing_values=["unknown"])
    assert study.dataset.class_names == ("p", "q")
    assert study.dataset.dropped_rows == 9
