"""A table in memory reaches a study as it is: numbers bit for bit, text as text, or it is refused."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dnnflow.errors import DataError, InputError, ReadingWarning
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.given_table import place_table
from dnnflow.table.formats.rows_file import read_rows, rows_of
from dnnflow.table.store.ingest import ingest

FRAME = pd.DataFrame({
    "size": [0.1, 1 / 3, np.nan, 1e300], "count": [1, 2, 3, 2**53], "old": [True, False, True, True],
    "code": ["01", "1", "a,b", None],
})  # fmt: skip


def kept(table, folder: Path) -> pd.DataFrame:
    return read_rows(Source(url=place_table(table, folder).source))


@pytest.mark.parametrize(
    "convert",
    [
        lambda frame: frame, pl.from_pandas, lambda frame: pl.from_pandas(frame).lazy(),
        lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    ],
    ids=["pandas", "polars", "lazy", "pyarrow"],
)  # fmt: skip
def test_frames_of_all_libraries_keep_values_and_types(convert, tmp_path: Path):
    pd.testing.assert_frame_equal(kept(convert(FRAME), tmp_path), rows_of(FRAME))
    assert place_table(convert(FRAME), tmp_path) == place_table(convert(FRAME), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_frame_of_dask_is_the_same_table(tmp_path: Path):
    dd = pytest.importorskip("dask.dataframe")
    parts = dd.from_pandas(FRAME, npartitions=2)
    pd.testing.assert_frame_equal(kept(parts, tmp_path), rows_of(FRAME))


def test_text_stays_text_whatever_it_looks_like(tmp_path: Path):
    frame = pd.DataFrame({"code": ["01", "1", "001", "2"] * 5, "size": range(20), "kind": ["x", "y"] * 10})
    table = place_table(frame, tmp_path, ["kind"])
    dataset = ingest(Source(url=table.source), Recipe(label="kind"), tmp_path / "datasets")
    assert {"code=01", "code=1", "code=001", "code=2"} < set(dataset.feature_names)


@pytest.mark.parametrize(
    ("labels", "has_classes"),
    [
        (["a", "b", "a"], True), (["1", "2", "1"], True), ([True, False, True], True),
        (pd.Categorical([1, 2, 1]), True), ([1, 2, 1], False), ([0.5, 1.5, 0.5], False),
    ],
)  # fmt: skip
def test_labels_of_text_by_their_type_are_classes(labels, has_classes: bool, tmp_path: Path):
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0], "kind": labels})
    assert place_table(frame, tmp_path, ["kind"]).has_classes is has_classes
    assert place_table((frame[["size"]], frame["kind"]), tmp_path).has_classes is has_classes


def test_a_pair_of_arrays_names_its_columns(tmp_path: Path):
    table = place_table((np.eye(3), np.array([1, 0, 1])), tmp_path)
    assert table.label == "label"
    features = ["column_1", "column_2", "column_3"]
    assert list(read_rows(Source(url=table.source)).columns) == [*features, "label"]
    assert list(rows_of(np.eye(3)).columns) == list(rows_of(np.eye(3).tolist()).columns) == features


def test_a_pair_may_have_several_targets(tmp_path: Path):
    targets = pd.DataFrame({"price": [1.0, 2.0, 3.0], "rent": [3.0, 4.0, 5.0]})
    table = place_table((np.eye(3), targets), tmp_path)
    assert (table.label, table.has_classes) == (("price", "rent"), False)
    dataset = ingest(Source(url=table.source), Recipe(label=table.label or ""), tmp_path / "datasets")
    assert dataset.task is Task.REGRESSION


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tables/wine.csv.gz", "wine"), (Path("wine.parquet"), "wine"), ("parts/*.parquet", "table"),
        ("https://host/wine.csv?token=secret", "wine"), ("sqlite:///home/wine.db", "wine"),
        ("postgresql://me:secret@host/wine", "wine"), ("postgresql://me:secret@host", "table"),
    ],
)  # fmt: skip
def test_a_path_is_taken_as_it_is_and_called_by_its_name(source, name: str, tmp_path: Path):
    table = place_table(source, tmp_path)
    assert (table.source, table.name, table.has_classes) == (str(source), name, False)


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        (7, InputError, "a table must be a path"),
        ((np.eye(3), np.zeros(2)), InputError, "as many rows, got 3 and 2"),
        ((np.zeros((3, 1, 1)), np.zeros(3)), InputError, "1 or 2 dimensions, got 3"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), DataError, "got 'a' twice"),
    ],
)
def test_what_is_no_table_is_refused(table, error, told: str, tmp_path: Path):
    with pytest.raises(error, match=told):
        place_table(table, tmp_path)


@pytest.mark.parametrize("written", [" size ", "si\u0301ze", "size"])
def test_columns_are_found_in_other_blanks_and_forms_of_unicode(written: str, tmp_path: Path):
    plain = "size" if written.strip() == "size" else "s\u00edze"
    frame = pd.DataFrame({plain: np.arange(20.0), "kind": ["x", "y"] * 10})
    dataset = ingest(frame.rename(columns={plain: written}), Recipe(label=" kind"), tmp_path)
    wanted = dataset.transform(frame.rename(columns={plain: written}))
    assert np.array_equal(dataset.transform(frame), wanted)
    ambiguous = frame.rename(columns={plain: f"{plain} "}).assign(**{f" {plain}": 1.0})
    if written == plain:
        with pytest.raises(DataError, match="must have the column"):
            dataset.transform(ambiguous)


def test_a_recipe_means_columns_in_other_blanks(tmp_path: Path):
    frame = pd.DataFrame({"size ": np.arange(20.0), " id": range(20), "kind": ["x", "y"] * 10})
    dataset = ingest(frame, Recipe(label="kind", drop=("id",), text_columns=("size",)), tmp_path)
    assert dataset.recipe.drop == (" id",)
    assert dataset.n_features == 16  # of its training rows


def test_what_is_no_number_among_decimals_and_what_is_masked_is_missing(tmp_path: Path):
    sizes = [Decimal("NaN") if i % 5 == 0 else Decimal(i) / 8 for i in range(20)]
    frame = pd.DataFrame({"size": sizes, "kind": ["x", "y"] * 10})
    assert ingest(frame, Recipe(label="kind"), tmp_path).missing_share == {"size": pytest.approx(0.2)}
    with pytest.raises(DataError, match="numbers must be finite"):
        ingest(
            frame.assign(size=pd.Series([Decimal("Infinity"), *sizes[1:]], dtype=object)),
            Recipe(label="kind"),
            tmp_path,
        )
    values = np.column_stack([np.arange(20.0), np.arange(20) % 2])
    masked = np.ma.masked_array(values, mask=np.column_stack([np.arange(20) % 5 == 0, np.zeros(20, bool)]))
    dataset = ingest(masked, Recipe(label="column_2"), tmp_path)
    assert dataset.missing_share == {"column_1": pytest.approx(0.2)}
    assert dataset.class_names == ("0", "1")


def test_a_dataset_encodes_rows_of_every_library(tmp_path: Path):
    frame = pd.DataFrame({"size": np.arange(20.0), "town": ["Ulm", "Bonn"] * 10, "kind": ["x", "y"] * 10})
    dataset = ingest(frame, Recipe(label="kind"), tmp_path)
    wanted = dataset.transform(frame)
    for other in (pl.from_pandas(frame), pl.from_pandas(frame).lazy(), pa.Table.from_pandas(frame)):
        assert dataset.transform(other).tobytes() == wanted.tobytes()
    values = np.column_stack([np.arange(20.0), np.arange(20.0), np.arange(20) % 2])
    numbers = ingest(values, Recipe(label="column_3"), tmp_path)
    assert (
        numbers.transform(values[:, :2]).tolist()
        == numbers.transform(pd.DataFrame(values[:, :2], columns=["column_1", "column_2"])).tolist()
    )


def test_a_pair_whose_indices_are_in_another_order_is_told(tmp_path: Path):
    sizes, kinds = pd.DataFrame({"size": range(20)}), pd.Series(["x", "y"] * 10, name="kind")
    with pytest.warns(ReadingWarning, match="paired row by row"):
        ingest((sizes, kinds[::-1]), Recipe(label="kind"), tmp_path)
    for labels in (kinds, kinds.set_axis(range(100, 120)), kinds.to_numpy()):
        label = "kind" if isinstance(labels, pd.Series) else "label"
        ingest((sizes, labels), Recipe(label=label), tmp_path)  # without a warning, which is an error here
