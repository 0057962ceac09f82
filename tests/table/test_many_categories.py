"""Text columns of many values: frequent ones have columns, the rest share one, or all are hashed."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.table.columns import statistics
from dnnflow.table.columns.preprocess import Preprocessing, TextColumn
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest


def made(cities: list[str], folder: Path, *, block_bytes: int = 1 << 20, **fields: Any) -> Dataset:
    lines = (f"{city},{i % 7},{'ab'[i % 2]}\n" for i, city in enumerate(cities))
    (folder / "t.csv").write_text("city,x,y\n" + "".join(lines), encoding="utf-8")
    recipe = Recipe(label="y", **fields)
    return ingest(Source(url=str(folder / "t.csv")), recipe, folder / "d", block_bytes=block_bytes)


def city_of(dataset: Dataset) -> TextColumn:
    column = dataset.fitted.columns[0]
    assert isinstance(column, TextColumn)
    return column


MANY = [*(f"c{i % 90}" for i in range(900)), *(f"rare{i}" for i in range(40))]


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_frequent_values_have_columns_and_the_others_share_one(tmp_path: Path, block_bytes: int):
    dataset = made(MANY, tmp_path, block_bytes=block_bytes)
    city = city_of(dataset)
    assert city.categories == tuple(sorted({f"c{i}" for i in range(90)}))
    assert set(city.rare) < {f"rare{i}" for i in range(40)}
    assert dataset.feature_names[90] == "city_other"
    rows = pd.DataFrame({"city": ["c1", city.rare[0], "never", None], "x": 1})
    encoded = dataset.transform(rows)[:, :91]
    c1 = dataset.feature_names.index("city=c1")
    assert [one.nonzero()[0].tolist() for one in encoded] == [[c1], [90], [90], []]
    notes = dataset.fitted.notes(rows)
    assert [bool(note) for note in notes] == [False, False, True, False]
    assert notes[2].startswith("column 'city': 'never' is none of the categories of the training rows")
    assert notes[2].endswith("and counts as other")
    assert Preprocessing.from_dict(dataset.preprocessing()) == dataset.fitted
    assert any(f"has {90 + city.n_rare} different values: 90 frequent" in note for note in dataset.notes)
    assert dataset.inverse(dataset.transform(rows))["city"].tolist()[:3] == ["c1", "other", "other"]


def test_at_most_255_have_columns(tmp_path: Path):
    dataset = made([f"c{i % 400:03}" for i in range(4000)], tmp_path)
    city = city_of(dataset)
    assert (len(city.categories), city.n_rare, len(city.rare)) == (255, 145, 145)


def test_hashed_values_are_in_the_same_column_everywhere(tmp_path: Path):
    dataset = made(MANY, tmp_path, categories="hash", hash_columns=16)
    assert dataset.feature_names[:2] == ("city_hash0", "city_hash1")
    assert dataset.n_features == 17
    rows = pd.DataFrame({"city": [*MANY[:50], "never", None], "x": 1})
    encoded = dataset.transform(rows)[:, :16]
    assert encoded.sum(axis=1).tolist() == [1.0] * 51 + [0.0]
    assert not any(dataset.fitted.notes(rows))
    assert Preprocessing.from_dict(dataset.preprocessing()) == dataset.fitted


def test_one_column_each_where_that_is_asked_for(tmp_path: Path):
    assert made(MANY, tmp_path, categories="onehot").n_features > 115
    many = [f"c{i}" for i in range(3000)]
    with pytest.raises(DataError, match=r"at most 1,000 values, got more in 'city'; set categories"):
        made(many, tmp_path, categories="onehot")


def test_too_many_to_count_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(statistics, "MAX_COUNTED", 80)
    for block_bytes in (64, 1 << 20):
        folder = tmp_path / str(block_bytes)
        folder.mkdir()
        dataset = made(MANY, folder, block_bytes=block_bytes)
        assert dataset.n_features == 65
        assert any(
            "over 100,000 different values, which are hashed to 64 columns" in n for n in dataset.notes
        )


def test_few_values_are_what_they_were(tmp_path: Path):
    few = [f"c{i % 64}" for i in range(640)]
    dataset = made(few, tmp_path)
    assert dataset.n_features == 65
    assert set(dataset.preprocessing()["columns"][0]) == {
        "type", "name", "boolean", "categories", "fill", "indicator",
    }  # fmt: skip
    assert {"categories", "hash_columns", "dates"}.isdisjoint(dataset.recipe.to_dict())


@given(st.lists(st.integers(0, 120), min_size=200, max_size=300), st.sampled_from(["auto", "hash"]))
@settings(max_examples=15, deadline=None)
def test_every_door_gives_the_same_features(numbers: list[int], categories: str):
    frame = pd.DataFrame({
        "city": [f"stadt {n}" for n in numbers], "x": np.arange(len(numbers)) % 3,
        "y": ["a", "b"] * (len(numbers) // 2) + ["a"] * (len(numbers) % 2),
    })  # fmt: skip
    recipe = Recipe.from_dict({"label": "y", "categories": categories})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        frame.to_csv(place / "t.csv", index=False)
        frame.astype({"city": "category"}).to_parquet(place / "t.parquet")
        sources = [Source(url=str(place / f"t.{kind}")) for kind in ("csv", "parquet")]
        first, *others = [ingest(one, recipe, place / "d") for one in (*sources, frame)]
        for other in others:
            assert other.feature_names == first.feature_names
            assert np.array_equal(other.arrays("train")[0], first.arrays("train")[0])
            assert np.array_equal(other.transform(frame), first.transform(frame))
        told = [bool(note) for note in first.fitted.notes(frame)]
        city = city_of(first)
        seen = {*city.categories, *city.rare}
        assert told == [categories == "auto" and text not in seen for text in frame["city"]] or city.buckets
