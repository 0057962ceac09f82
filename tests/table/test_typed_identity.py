"""Two readings of a table are two datasets."""

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from dnnflow.api import ingest
from dnnflow.errors import DataError


def test_cells_of_several_types_are_no_text(tmp_path: Path) -> None:
    texts = [str(place % 7) for place in range(60)]
    label = ["p", "q"] * 30
    as_text = pd.DataFrame({"a": texts, "k": label}, dtype=object)
    mixed = as_text.assign(a=pd.Series([int(one) if place % 2 else one for place, one in enumerate(texts)],
                                       dtype=object))  # fmt: skip
    for first, second in ((as_text, mixed), (mixed, as_text)):
        out = tmp_path / str(first is mixed)
        widths = [ingest(table, "k", out=out).n_features for table in (first, second)]
        assert sorted(widths) == [1, 7]


def test_a_sheet_with_and_without_a_header_are_two_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    rows = pd.DataFrame({"a": range(40), "b": range(40), "column_3": ["p", "q"] * 20})
    rows.to_excel(path, index=False)
    assert ingest(path, "column_3", out=tmp_path).feature_names == ("a", "b")
    with pytest.raises(DataError):
        ingest(path, "column_3", out=tmp_path, header=False)


def test_another_encoding_of_an_arff_file_is_another_table(tmp_path: Path) -> None:
    path = tmp_path / "t.arff"
    text = "@relation t\n@attribute c string\n@attribute k {p,q}\n@data\n"
    text += "".join(f"{'é' if place % 2 else 'à'},{'pq'[place % 2]}\n" for place in range(40))
    path.write_bytes(text.encode("latin-1"))
    names = [ingest(path, "k", out=tmp_path, encoding=encoding).feature_names
             for encoding in ("cp1251", "latin-1")]  # fmt: skip
    assert names[0] != names[1]
    assert any("é" in name for name in names[1])


def test_large_ids_beside_missing_ones_stay_themselves() -> None:
    from dnnflow.table.formats.rows_file import rows_of

    ids = pd.array([2**60 + 2, None, 7], dtype="Int64")
    assert rows_of(pd.DataFrame({"id": ids})).id.tolist() == [2**60 + 2, None, 7]


def test_numbers_that_are_text_by_their_type_are_told(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [str(place % 7) for place in range(60)], "k": ["p", "q"] * 30})
    dataset = ingest(rows, "k", out=tmp_path)
    assert dataset.n_features == 7
    assert [note[:48] for note in dataset.notes] == ["column 'a' is text by its type, but all of its v"]
    assert ingest(rows, "k", out=tmp_path, text_columns=("a",)).notes == ()


def test_a_table_is_the_same_of_every_library(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "x": [0.5, None] * 30, "n": range(60), "c": ["u", "v", None] * 20, "b": [True, False] * 30,
        "at": pd.date_range("2020-01-01", periods=60), "label": ["p", "NA"] * 30,
    })  # fmt: skip
    same = [frame, frame.assign(c=frame["c"].astype("category")), pl.from_pandas(frame),
            pa.Table.from_pandas(frame, preserve_index=False)]  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    sets = [ingest(one, "label", out=tmp_path, drop=("at",)) for one in same]
    assert len({one.id for one in sets}) == 1
    other = ingest(frame.assign(c="w"), "label", out=tmp_path, drop=("at",))
    assert other.id != sets[0].id
    sets.append(ingest(tmp_path / "t.parquet", "label", out=tmp_path, drop=("at",)))
    engine = sa.create_engine(f"sqlite:///{tmp_path / 't.db'}")
    frame.to_sql("t", engine, index=False)
    engine.dispose()
    sets.append(ingest(tmp_path / "t.db", "label", out=tmp_path, drop=("at",)))
    assert all(one.class_names == ("NA", "p") and not one.dropped_rows for one in sets)
    assert all("'NA' is taken for a class" in " ".join(one.notes) for one in sets)


def test_cells_of_lists_keep_their_types(tmp_path: Path) -> None:
    rows = [[place * 0.5, "uv"[place % 2]] for place in range(60)]
    dataset = ingest((rows, ["p", None, "q"] * 20), out=tmp_path)
    assert dataset.feature_names == ("column_1", "column_2=u", "column_2=v")
    assert (dataset.class_names, dataset.dropped_rows) == (("p", "q"), 20)
