"""New rows are read as the table trained on was; where they are of another form that is told, or refused."""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from dnnflow.errors import DataError, ReadingWarning
from dnnflow.run.models.saved_model import SavedModel
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest

TABLE = pd.DataFrame({"id": range(40), "city": ["Zürich", "Genf"] * 20, "size": [i * 0.5 for i in range(40)],
                      "label": ["a", "b"] * 20})  # fmt: skip


def trained(
    url: Path | str, folder: Path, label: str = "label", drop: tuple[str, ...] = (), **reading: Any
) -> SavedModel:
    source = Source(url=str(url), **reading)
    dataset = ingest(source, Recipe(label=label, drop=drop), folder / "datasets")
    return SavedModel(None, dataset.fitted, dataset.class_names, {}, dataset.reading)


def read(model: SavedModel, path: Path | str, **given: Any) -> tuple[pd.DataFrame, list[str]]:
    """Return rows, and what is told of them."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        rows = model.rows(str(path), **given)
    assert {note.category for note in noted} <= {ReadingWarning}
    model.preprocessing.transform(rows)
    return rows, [str(note.message) for note in noted]


def test_a_sheet_without_a_header_is_read_so_again(tmp_path: Path):
    with pd.ExcelWriter(tmp_path / "t.xlsx") as book:
        pd.DataFrame({"notes": ["none"]}).to_excel(book, sheet_name="about", index=False)
        TABLE.to_excel(book, sheet_name="rows", header=False, index=False)
    model = trained(tmp_path / "t.xlsx", tmp_path, "column_4", sheet="rows", header=False)
    rows, told = read(model, tmp_path / "t.xlsx")
    assert (len(rows), [*rows.columns], told) == (40, ["column_1", "column_2", "column_3", "column_4"], [])
    TABLE.to_csv(tmp_path / "t.csv", header=False, index=False)
    assert len(read(model, tmp_path / "t.csv")[0]) == 40


def test_a_database_is_asked_the_same_again(tmp_path: Path):
    for name in ("one", "two"):
        engine = sa.create_engine(f"sqlite:///{tmp_path / name}.db")
        TABLE.to_sql("rows", engine, index=False)
        TABLE.head(2).to_sql("others", engine, index=False)
        engine.dispose()
    model = trained(tmp_path / "one.db", tmp_path, query="rows")
    assert len(read(model, tmp_path / "two.db")[0]) == 40
    assert len(read(model, tmp_path / "two.db", query="others")[0]) == 2


@pytest.mark.parametrize("dropped", [(), ("id",)])
def test_rows_without_a_header_have_the_names_of_the_table(dropped: tuple[str, ...], tmp_path: Path):
    path = tmp_path / "t.csv"
    TABLE[["label", "id", "city", "size"]].to_csv(path, index=False)
    model, rows = trained(path, tmp_path, drop=dropped), tmp_path / "rows.csv"
    TABLE[["label", "id", "city", "size"]].to_csv(rows, index=False, header=False)
    assert read(model, rows, header=False)[0]["city"].tolist() == TABLE["city"].tolist()
    TABLE[["city", "size"]].to_csv(rows, index=False, header=False)
    if dropped:
        assert read(model, rows, header=False)[0]["size"].astype(float).tolist() == TABLE["size"].tolist()
    with pytest.raises(DataError, match=r"--no-header"):
        read(model, rows)
    TABLE[["id", "city", "size"]].to_csv(rows, index=False, header=False)
    if dropped:  # the label may be there instead of the id
        with pytest.raises(
            DataError, match="got 3 columns, which are some of these in several ways; give the"
        ):
            read(model, rows, header=False)
    else:
        assert read(model, rows, header=False)[0]["id"].astype(int).tolist() == TABLE["id"].tolist()
    TABLE[["size"]].to_csv(rows, index=False, header=False)
    with pytest.raises(DataError, match="got 1 columns, which are some of these in no way"):
        read(model, rows, header=False)


def test_another_delimiter_is_found_and_told(tmp_path: Path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    model = trained(tmp_path / "t.csv", tmp_path)
    TABLE.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    rows, told = read(model, tmp_path / "rows.csv")
    assert [*rows.columns] == [*TABLE.columns]
    assert [note[:36] for note in told] == ["new rows are not separated by ',' as"]
    TABLE.to_csv(tmp_path / "rows.csv", index=False, sep=";", decimal=",")
    with pytest.raises(DataError, match="row 1, column 'size': '0,0' is not a finite number"):
        read(model, tmp_path / "rows.csv")


def test_another_encoding_is_told(tmp_path: Path):
    for name, encoding in (("new.csv", "utf-8"), ("old.csv", "latin-1")):
        TABLE.to_csv(tmp_path / name, index=False, encoding=encoding)
    for first, second, word in (
        ("new.csv", "old.csv", "is not UTF-8 and was read as latin-1"),
        ("old.csv", "new.csv", "new rows are UTF-8, the table trained on was "),
    ):
        model = trained(tmp_path / first, tmp_path / first.removesuffix(".csv"))
        rows, told = read(model, tmp_path / second)
        assert len(told) == 1
        assert word in told[0]
        assert not any(model.preprocessing.notes(rows))
        assert read(model, tmp_path / first)[1] == []


def test_what_was_said_to_be_text_is_text_again(tmp_path: Path):
    path = tmp_path / "t.dat"
    path.write_text("@relation;label\n" + "1;a\n2;b\n" * 20)
    model = trained(path, tmp_path, format="csv")
    assert len(read(model, path)[0]) == 40
    TABLE.assign(**{"@relation": 1}).to_parquet(tmp_path / "t.parquet")
    assert len(read(model, tmp_path / "t.parquet")[0]) == 40
