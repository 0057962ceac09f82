"""A table in memory reaches a study as it is: numbers bit for bit, text as text, or it is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.given_table import place_table, rows_of
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text.csv_reader import read_rows

FRAME = pd.DataFrame({
    "size": [0.1, 1 / 3, np.nan, 1e300], "count": [1, 2, 3, 2**53], "old": [True, False, True, True],
    "code": ["01", "1", "a,b", None],
})  # fmt: skip


def written(table, folder: Path) -> pd.DataFrame:
    return read_rows(Source(url=place_table(table, folder).source))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_numbers_come_back_bit_for_bit(tmp_path_factory, numbers: list[float]):
    found = written(pd.DataFrame({"a": numbers, "b": 1}), tmp_path_factory.mktemp("frames"))["a"]
    assert np.array_equal(found.astype(float), numbers)


def test_a_float32_is_the_same_number(tmp_path: Path):
    numbers = np.array([0.1, 1 / 3, 1e-20], np.float32)
    found = written(pd.DataFrame({"a": numbers, "b": 1}), tmp_path)["a"]
    assert np.array_equal(found.astype(float), numbers.astype(float))


@pytest.mark.parametrize(
    "convert",
    [
        lambda frame: frame, pl.from_pandas, lambda frame: pl.from_pandas(frame).lazy(),
        pa.Table.from_pandas,
    ],
    ids=["pandas", "polars", "lazy", "pyarrow"],
)  # fmt: skip
def test_frames_of_all_libraries_are_the_same_table(convert, tmp_path: Path):
    assert place_table(convert(FRAME), tmp_path) == place_table(FRAME, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_frame_of_dask_is_the_same_table(tmp_path: Path):
    dd = pytest.importorskip("dask.dataframe")
    # Of Dask, text without a value is another missing value
    whole = FRAME.dropna()
    assert place_table(dd.from_pandas(whole, npartitions=2), tmp_path) == place_table(whole, tmp_path)


def test_text_stays_text_whatever_it_looks_like(tmp_path: Path):
    frame = pd.DataFrame({"code": ["01", "1", "001", "2"] * 5, "size": range(20), "kind": ["x", "y"] * 10})
    table = place_table(frame, tmp_path, ["kind"])
    assert table.text_columns == ("code", "kind")
    assert table.has_classes
    recipe = Recipe(label="kind", text_columns=table.text_columns)
    dataset = ingest(Source(url=table.source), recipe, tmp_path / "datasets")
    assert {"code=01", "code=1", "code=001", "code=2"} < set(dataset.feature_names)


def test_categories_of_numbers_are_text(tmp_path: Path):
    frame = pd.DataFrame({"kind": pd.Categorical([1, 2, 1]), "size": [1.0, 2.0, 3.0]})
    assert place_table(frame, tmp_path).text_columns == ("kind",)


def test_a_pair_of_arrays_names_its_columns(tmp_path: Path):
    table = place_table((np.eye(3), np.array([1, 0, 1])), tmp_path)
    assert table.label == "label"
    assert list(read_rows(Source(url=table.source)).columns) == ["x0", "x1", "x2", "label"]
    assert list(rows_of(np.eye(3)).columns) == ["x0", "x1", "x2"]


def test_a_pair_may_have_several_targets(tmp_path: Path):
    targets = pd.DataFrame({"price": [1.0, 2.0, 3.0], "rent": [3.0, 4.0, 5.0]})
    assert place_table((np.eye(3), targets), tmp_path).label == ("price", "rent")


def test_a_path_is_taken_as_it_is(tmp_path: Path):
    table = place_table(Path("tables/wine.csv.gz"), tmp_path)
    assert (table.source, table.name, table.text_columns) == ("tables/wine.csv.gz", "wine", ())


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        (7, InputError, "a table must be a path"),
        ((np.eye(3), np.zeros(2)), InputError, "as many rows, got 3 and 2"),
        ((np.zeros(3), np.zeros(3)), InputError, r"rows and columns, got the shape \(3,\)"),
        (pd.DataFrame({"a": [[1], [2]]}), DataError, "a value of type list in column 'a'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), DataError, "got 'a' as columns 1 and 2"),
        (pd.DataFrame({" a": [1], "b": [2]}), DataError, "without blanks around it, got ' a'"),
    ],
)
def test_what_is_no_table_is_refused(table, error, told: str, tmp_path: Path):
    with pytest.raises(error, match=told):
        place_table(table, tmp_path)


@pytest.mark.parametrize("spelling", ["None", "NA", "null ", "?"])
def test_a_class_that_reads_as_missing_is_refused(spelling: str, tmp_path: Path):
    frame = pd.DataFrame({"kind": ["some", spelling, "some"], "size": [1, 2, 3]})
    with pytest.raises(DataError, match="must not be written as a missing value is, got"):
        place_table(frame, tmp_path, ["kind"])
