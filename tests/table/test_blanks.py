"""Text in which blanks separate values is read as a table, and never as one column."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.run.models.saved_model import SavedModel
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.open_table import find_tables
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text.blanks import is_fixed_width

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
    path.write_text(FIXED.replace("12.5", "    ").replace("town", "    "))
    with pytest.raises(
        DataError, match="if blanks separate the values, set delimiter to a blank, or format to fwf"
    ):
        made(path)
    path.write_text(FIXED.replace("12.5", "    "))
    dataset = made(path, format="fwf")
    assert made(path).id == dataset.id
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


WORDS = st.text("abcdefgh", min_size=1, max_size=6)
NAMES = st.lists(WORDS, min_size=2, max_size=4, unique=True)


@st.composite
def fixed_tables(draw: st.DrawFn) -> tuple[pd.DataFrame, list[int], str]:
    """Return texts with blanks inside and without values, the width of each column, and where they stand."""
    names, rows = draw(NAMES), draw(st.integers(5, 12))
    values = st.one_of(WORDS, st.just(""), st.tuples(WORDS, WORDS).map(" ".join))
    frame = pd.DataFrame({name: draw(st.lists(values, min_size=rows, max_size=rows)) for name in names})
    frame.iloc[: rows // 2 + 1] = frame.iloc[: rows // 2 + 1].replace("", "x")  # most have a value
    frame[names[0]] = frame[names[0]].replace("", "q")  # a line of blanks is no row
    frame.iloc[0], frame.iloc[1] = (
        "xxxxxxxxxxxxx",
        "y z",
    )  # no gap is in all rows, and not all have as many words
    return frame, [frame[name].str.len().max() for name in names], draw(st.sampled_from("<>"))


@settings(max_examples=40, deadline=None)
@given(fixed_tables())
def test_fixed_width_is_found_where_it_is_beyond_doubt(given_table: tuple[pd.DataFrame, list[int], str]):
    frame, widths, side = given_table
    lines = [[*frame.columns], *frame.to_numpy().tolist()]
    padded = ("  ".join(f"{v:{side}{w}}" for v, w in zip(line, widths, strict=True)) for line in lines)
    text = "".join(line.rstrip() + "\n" for line in padded)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.txt")
        path.write_text(text)
        rows = read_rows(Source(url=str(path)))
    assert [*rows.columns] == [*frame.columns]
    assert rows.fillna("").to_numpy().tolist() == frame.to_numpy().tolist()


FIXED_ROWS = [("size", "town", "label"), ("1.5", "Bad Aibling", "a"), ("10", "Ulm", "b"), ("2", "", "a")]


def test_what_was_found_is_told_and_read_so_again(tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_text("".join(f"{x:<6}{y:<14}{z}\n" for x, y, z in [FIXED_ROWS[0], *FIXED_ROWS[1:] * 5]))
    dataset = made(path)
    assert dataset.notes[0].startswith("the text is read in columns of fixed width: 'size', 'town', 'label'")
    assert dataset.reading["format"] == "fwf"
    assert len(rows_again(dataset, path)) == 15


@pytest.mark.parametrize("change", [
    lambda text: text + "1   2   3   4   5   6   7   8   9\n",  # a line across the gaps
    lambda text: text.replace("size", "    "), lambda text: text.replace("town", "to,n"),
    lambda text: text.replace("  ", "\t"), lambda text: text.replace("Ulm ", "  Ulm"),
])  # fmt: skip
def test_in_doubt_it_is_refused_with_what_to_say(change: Callable[[str], str], tmp_path: Path):
    text = "".join(f"{x:<6}{y:<14}{z}\n" for x, y, z in [FIXED_ROWS[0], *FIXED_ROWS[1:] * 5])
    assert not is_fixed_width(change(text).encode(), whole=True)
    long = change(text * 1 + "3     Köln          a\n" * 4000)
    (tmp_path / "t.txt").write_text(long)
    assert find_tables(Source(url=str(tmp_path / "t.txt")))[0].kind == "csv"


@pytest.mark.parametrize("text", [
    "Dear reader,\n\nthis is  a letter\nof some lines\nand no table\nat all.\n",
    "  a poem of\n  two words in\n  each line or\n  three that\n  seem  to be\n  columns of it\n",
    "Results 2024\na,b\n1,2\n3,4\n5,6\n7,8\n", "name comment\nx,y z\na,b\nc,d e f\n1,2\n",
])  # fmt: skip
def test_other_texts_are_no_columns_of_fixed_width(text: str):
    assert not is_fixed_width(text.encode(), whole=True)
