"""New rows are read as the table trained on was; where they are of another form that is told, or refused."""

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError, ReadingWarning
from dnnflow.run.models.saved_model import NOTE, SavedModel
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


class Halves:
    """Says of each row that both classes are as likely."""

    def predict_on_batch(self, features: np.ndarray) -> np.ndarray:
        return np.full((len(features), 2), 0.5)


def notes_on(model: SavedModel, rows: pd.DataFrame) -> list[str]:
    table = replace(model, model=Halves()).predict(rows)
    return table[NOTE].tolist() if NOTE in table else [""] * len(rows)


def complete(model: SavedModel) -> SavedModel:
    """Return a model as it is saved of a table without missing values."""
    return replace(model, about={"complete": ["id", "city", "size"]})


@pytest.mark.parametrize("marker", ["?", "NA", "", "  ", "null"])
def test_a_value_is_told_to_be_missing_where_none_was(marker: str, tmp_path: Path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    model = trained(tmp_path / "t.csv", tmp_path)
    new = TABLE.head(3).astype({"size": object})
    new.loc[1, "size"], new.loc[2, "city"] = marker, marker
    new.to_csv(tmp_path / "new.csv", index=False)
    rows, _ = read(model, tmp_path / "new.csv")
    assert notes_on(model, rows) == ["", "", ""]  # of models saved before, nothing is known
    first, number, text = notes_on(complete(model), rows)
    assert first == ""
    for note, name in ((number, "size"), (text, "city")):
        assert note.startswith(f"column '{name}' has ")
        assert ("no value" if not marker.strip() else f"'{marker}', which stands for a missing value") in note
        assert "the table trained on had a value in each row" in note
    assert "and is taken as 0" in number


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.sampled_from([-1, 1]), st.sampled_from(["", ".0"]))
def test_nines_beyond_the_training_rows_are_told_and_can_be_named(digits: int, sign: int, ending: str):
    with tempfile.TemporaryDirectory() as folder:
        TABLE.to_csv(Path(folder, "t.csv"), index=False)
        model = complete(trained(Path(folder, "t.csv"), Path(folder)))
    nines = f"{sign * (10**digits - 1)}"
    new = TABLE.head(2).astype(str).assign(size=[nines + ending, "1e8"])
    said, other = notes_on(model, new)
    assert other == ""
    assert f"{nines} is beyond the training rows (0" in said
    assert f"--missing-value {nines})" in said
    (named, _) = notes_on(model.with_missing_values([nines]), new)
    assert "which stands for a missing value" in named


def test_a_number_of_nines_among_those_trained_on_is_a_number(tmp_path: Path):
    TABLE.assign(size=range(80, 120)).to_csv(tmp_path / "t.csv", index=False)
    model = complete(trained(tmp_path / "t.csv", tmp_path))
    assert notes_on(model, TABLE.head(1).assign(size="99")) == [""]


def test_a_text_among_numbers_is_refused_with_its_rows_and_a_remedy_that_works(tmp_path: Path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    model = trained(tmp_path / "t.csv", tmp_path)
    new = TABLE.head(9).astype({"size": object})
    new.loc[::2, "size"] = "gone"
    with pytest.raises(DataError) as refused:
        model.preprocessing.transform(new)
    assert "row 1, column 'size': 'gone' is not a finite number" in str(refused.value)
    assert "(so in 5 rows: 1, 3, 5, 7, 9)" in str(refused.value)
    assert "name it in missing_values (--missing-value 'gone')" in str(refused.value)
    assert np.isnan(model.with_missing_values(["gone"]).preprocessing.read(new)[2]).sum() == 5
    with pytest.raises(InputError, match="must be a list of texts, got 'none'"):
        model.with_missing_values("none")


def test_new_rows_may_be_of_another_encoding_quote_and_kind(tmp_path: Path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    model = trained(tmp_path / "t.csv", tmp_path)
    quoted = TABLE.assign(city="Gen,f")
    quoted.to_csv(tmp_path / "new.csv", index=False, quotechar="'")
    assert read(model, tmp_path / "new.csv", quote="'")[0]["city"].tolist() == ["Gen,f"] * 40
    TABLE.assign(city="Łódź").to_csv(tmp_path / "new.csv", index=False, encoding="cp1250")
    assert read(model, tmp_path / "new.csv", encoding="cp1250")[0]["city"].tolist() == ["Łódź"] * 40
    (tmp_path / "new.txt").write_text(TABLE.to_string(index=False))
    assert len(read(model, tmp_path / "new.txt", format="fwf")[0]) == 40
