"""Text in which blanks separate values is read as a table, and never as one column."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.run.models.saved_model import SavedModel
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

TABLE = pd.DataFrame({"size": [i * 0.5 for i in range(40)], "town": ["Bad Aibling", "Ulm"] * 20,
                      "label": ["a", "b"] * 20})  # fmt: skip
PLAIN = TABLE.assign(town=["Aibling", "Ulm"] * 20)
FIXED = "".join(f"{x:<10}{y:<14}{z:>5}\n" for x, y, z in [[*TABLE.columns], *TABLE.to_numpy().tolist()])


def made(path: Path, **reading: Any) -> Dataset:
    return ingest(Source(url=str(path), **reading), Recipe(label="label"), path.parent / "datasets")


def expected(folder: Path, frame: pd.DataFrame) -> Dataset:
    frame.to_csv(folder / "plain.csv", index=False)
    return made(folder / "plain.csv")


def rows_again(dataset: Dataset, path: Path) -> pd.DataFrame:
    return SavedModel(None, dataset.fitted, dataset.class_names, {}, dataset.reading).rows(str(path))


@pytest.mark.parametrize("text", [
    PLAIN.to_string(index=False), PLAIN.to_csv(index=False, sep=" "), FIXED.replace("Bad ", ""),
    TABLE.to_csv(index=False, sep=" ").replace(" ", "  ").replace("Bad  A", "Bad A"),
])  # fmt: skip
def test_blanks_are_found_where_all_lines_have_as_many_values(text: str, tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(gzip.compress(text.encode()))
    dataset = made(path)
    same = expected(tmp_path, TABLE if "Bad" in text else PLAIN)
    assert dataset.fitted.to_dict() == same.fitted.to_dict()
    assert dataset.notes[0] == "the values of the text are separated by blanks: 'size', 'town', 'label'"
    assert (
        rows_again(dataset, path)["town"].tolist()
        == read_rows(Source(url=str(tmp_path / "plain.csv")))["town"].tolist()
    )


def test_columns_of_fixed_width_hold_blanks_and_nothing(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_text(FIXED.replace("12.5", "    "))
    with pytest.raises(
        DataError, match="if blanks separate the values, set delimiter to a blank, or format to fwf"
    ):
        made(path)
    dataset = made(path, format="fwf")
    frame = TABLE.copy()
    frame.loc[25, "size"] = None
    assert dataset.fitted.to_dict() == expected(tmp_path, frame).fitted.to_dict()
    assert rows_again(dataset, path)["town"].tolist() == TABLE["town"].tolist()
    path.write_text("".join(f"{'x' * (i % 9 + 1)}\n" for i in range(40)))
    with pytest.raises(DataError, match="needs two columns with blanks between them in all lines, got one"):
        made(path, format="fwf")


@pytest.mark.parametrize(
    "text", ["a sentence of words\n" * 3, "one two\nthree\n" * 20, "x,y z\n1,2 a\n" * 20]
)
def test_other_texts_are_what_they_were(text: str, tmp_path: Path):
    (tmp_path / "t.csv").write_text(text)
    assert "z" not in read_rows(Source(url=str(tmp_path / "t.csv"))).columns
    assert read_rows(Source(url=str(tmp_path / "t.csv"))).shape[1] <= 2


def test_a_short_row_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_text(PLAIN.to_csv(index=False, sep=" ") + "1.5 Ulm\n")
    with pytest.raises(DataError, match=r"row 41 \(line 42\) has 2 values, but the table has 3 columns"):
        made(path, delimiter=" ")
