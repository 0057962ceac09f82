"""Columns that carry nothing or too much are told, and what each column became."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

N = 300
WORDS = np.array(["red", "old", "house", "tall", "river", "slow", "green", "cat", "tree", "night"])


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, N)
    return pd.DataFrame({
        "same": 7.5, "word": "x", "empty": None, "sent": np.array(["p", "q", "r"])[label],
        "user_id": rng.permutation(10_000)[:N], "price": rng.permutation(10_000)[:N],
        "name": [f"N{value}" for value in rng.permutation(N)],
        "note": [" ".join(rng.choice(WORDS, 8)) for _ in range(N)],
        "size": rng.normal(size=N) + label, "when": pd.date_range("2024-01-01", periods=N, freq="37h"),
        "y": np.array(["a", "b", "c"])[label],
    })  # fmt: skip


def made(frame: pd.DataFrame, folder: Path, **fields) -> Dataset:
    return ingest(frame, Recipe(**{"label": "y", **fields}), folder)


def test_what_carries_nothing_is_told_and_kept(frame: pd.DataFrame, tmp_path: Path):
    dataset = made(frame, tmp_path)
    assert dataset.useless == {
        "same": "all of its values are the same", "word": "all of its values are 'x'",
        "empty": "it has no value", "user_id": "it is called an id, and each row has another number",
        "name": "it names rows, 240 different values in 240 rows",
        "note": "it is free text, 240 different in 240 rows",
    }  # fmt: skip
    for name in dataset.useless:
        assert any(note.startswith(f"column '{name}' carries nothing: ") for note in dataset.notes)
    assert {column.name for column in dataset.fitted.columns} == {*frame.columns} - {"y", "empty"}


def test_a_column_that_is_the_label_again_is_told_first_and_kept(frame: pd.DataFrame, tmp_path: Path):
    dataset = made(frame, tmp_path)
    assert dataset.notes[0].startswith("LEAK? column 'sent' alone predicts the label 'y'")
    assert sum(note.startswith("LEAK?") for note in dataset.notes) == 1
    assert "sent=p" in dataset.feature_names
    assert not made(frame, tmp_path, drop=("sent",)).notes[0].startswith("LEAK?")


def test_leaks_of_amounts_and_of_classes_by_numbers(frame: pd.DataFrame, tmp_path: Path):
    amounts = frame.assign(y=frame["size"] * 3, cost=frame["size"] * 2.2 - 1).drop(columns="size")
    (told,) = [note for note in made(amounts, tmp_path).notes if note.startswith("LEAK?")]
    assert told.startswith("LEAK? column 'cost' alone predicts the label 'y'")
    by_number = frame.assign(code=frame["y"].map({"a": 10.0, "b": 30.0, "c": 20.0})).drop(columns="sent")
    (told,) = [note for note in made(by_number, tmp_path).notes if note.startswith("LEAK?")]
    assert told.startswith("LEAK? column 'code'")


def test_strong_columns_and_rare_classes_are_no_leaks(frame: pd.DataFrame, tmp_path: Path):
    rng = np.random.default_rng(0)
    nearly = np.where(rng.random(N) < 0.1, "p", frame["sent"])
    assert not any(note.startswith("LEAK?") for note in made(frame.assign(sent=nearly), tmp_path).notes)
    rare = frame.assign(y=np.where(np.arange(N) < 6, "b", "a"))
    assert not any(note.startswith("LEAK?") for note in made(rare, tmp_path).notes)


def test_what_became_of_each_column(frame: pd.DataFrame, tmp_path: Path):
    frame.loc[:29, "size"] = None
    rows = {row.name: row for row in made(frame, tmp_path, drop=("price",), indicator=True).column_rows}
    assert (rows["y"].kind, rows["y"].became, rows["price"].kind) == ("label", "3 classes", "dropped")
    assert rows["size"].missing == pytest.approx(0.1)
    assert rows["size"].became == "a number from 0 to 1, and one where missing"
    assert (rows["sent"].different, rows["sent"].became) == ("3", "3 columns, one-hot")
    assert (rows["empty"].kind, rows["empty"].became) == ("empty", "nothing")
    assert (rows["same"].different, rows["user_id"].different) == ("1", "240")
    assert rows["when"].became == "8 columns: trend, year, day, weekday, hour"
    assert made(frame, tmp_path, drop=("price",), indicator=True).describe()["column_rows"][0]["name"] == "y"


def test_values_that_differ_in_case_alone_are_told(tmp_path: Path):
    rows = "".join(
        f"{('ja', 'Ja', 'nein')[i % 3]},{('TRUE', 'true', 'No')[i % 3]},{i},{'mM'[i % 2]}\n"
        for i in range(60)
    )
    (tmp_path / "t.csv").write_text(f"wet,open,n,y\n{rows}")
    dataset = ingest(Source(url=str(tmp_path / "t.csv")), Recipe(label="y"), tmp_path / "datasets")
    assert dataset.class_names == ("M", "m")
    alike = [note.partition(" differ in case alone")[0] for note in dataset.notes if "in case alone" in note]
    assert alike == ["column 'wet': 'Ja', 'ja'", "label 'y': 'M', 'm'"]
