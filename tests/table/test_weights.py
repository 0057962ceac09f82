"""A column may say by how much each row counts: it is no feature, and stays beside the labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.store.whole_dataset import WholeDataset

Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a dataset of 60 rows, whose weights are the rows' numbers over 10."""

    def made(change: dict[int, str] | None = None, label: str = "kind", **fields: Any) -> Dataset:
        weights = {i: str(i / 10) for i in range(60)} | (change or {})
        lines = (f"{i},{i % 7},{weights[i]},{'ab'[i % 2]},{i * 1.5}\n" for i in range(60))
        path = tmp_path / "table.csv"
        path.write_text("row,more,how,kind,amount\n" + "".join(lines))
        drop = ("amount",) if label == "kind" else ("kind",)
        recipe = Recipe(label=label, scale="none", drop=drop, weights="how", **fields)
        return ingest(Source(url=str(path)), recipe, tmp_path, block_bytes=200)

    return made


@pytest.mark.parametrize("label", ["kind", "amount"])
def test_each_training_row_has_its_weight(make: Make, label: str) -> None:
    dataset = make(label=label)
    assert dataset.feature_names == ("row", "more")
    features, _ = dataset.arrays("train")
    assert dataset.weights is not None
    assert dataset.weights.dtype == np.float32
    np.testing.assert_allclose(dataset.weights, features[:, 0] / 10, rtol=1e-6)
    whole = WholeDataset.of(dataset)
    assert whole.weights is not None
    np.testing.assert_allclose(whole.weights, whole.arrays("train")[0][:, 0] / 10, rtol=1e-6)
    assert len(whole.weights) == 60
    dataset.verify()


def test_weights_stand_beside_what_divides_the_rows(make: Make) -> None:
    dataset = make(groups="more")
    assert dataset.feature_names == ("row",)
    assert dataset.marks().groups is not None
    assert dataset.weights is not None
    np.testing.assert_allclose(dataset.weights, dataset.arrays("train")[0][:, 0] / 10, rtol=1e-6)


@pytest.mark.parametrize("value", ["-1", "many", "", "inf"])
def test_a_row_to_train_on_needs_a_weight(make: Make, value: str) -> None:
    numbers = make().arrays("train")[0][:, 0].astype(int)
    row = int(numbers[5])
    with pytest.raises(DataError) as refused:
        make({row: value})
    told = str(refused.value)
    got = repr(value) if value else "none"
    assert f"row {row + 1} (line {row + 2})" in told
    assert f"column 'how' of weights: a weight must be a number >= 0, got {got}" in told


def test_a_test_row_without_a_weight_leaves_the_table_usable(make: Make) -> None:
    row = int(make().arrays("test")[0][3, 0])
    dataset = make({row: "many"})
    assert dataset.weights is not None
    assert dataset.test_weights is None
    assert WholeDataset.of(dataset).weights is None


def test_some_row_must_count(make: Make) -> None:
    with pytest.raises(DataError, match="got only 0 in column 'how'"):
        make({i: "0" for i in range(60)})


@pytest.mark.parametrize(
    "given", [{"weights": "label"}, {"weights": "g", "groups": "g"}, {"weights": "d", "drop": ("d",)}]
)
def test_the_column_is_nothing_else(given: dict) -> None:
    with pytest.raises(InputError, match="weights must name"):
        Recipe(label="label", **given)


def test_without_weights_a_dataset_is_what_it_was() -> None:
    assert "weights" not in Recipe(label="label").to_dict()
