"""Workbooks, ARFF files and databases as people make them: titles, times of day, hidden sheets, dates."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, time
from pathlib import Path
from typing import Any

import openpyxl  # type: ignore[import-untyped]
import pytest

from dnnflow.errors import DataError, ReadingWarning
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ROWS: list[list[Any]] = [[i + 0.5, "uv"[i % 2], "ab"[i % 3 % 2]] for i in range(30)]


def made(path: Path, **how: Any) -> Dataset:
    """Make a dataset, and compare it with its rows as new ones."""
    source = Source(url=str(path))
    dataset = ingest(source, Recipe(**{"label": "y", **how}), path.parent / "datasets")
    rows = sorted(row.tobytes() for split in ("train", "test") for row in dataset.arrays(split)[0])
    assert sorted(row.tobytes() for row in dataset.transform(read_rows(source))) == rows
    return dataset


def book(path: Path, above: Sequence[Sequence[Any]], change: Callable[[Any], object] = bool) -> Path:
    """Write a workbook of a sheet with rows above its table."""
    written = openpyxl.Workbook()
    for row in (*above, *ROWS):
        written.active.append(list(row))
    change(written)
    written.save(path)
    return path


HEADER = ["x", "t", "y"]


@pytest.mark.filterwarnings("ignore::dnnflow.errors.ReadingWarning")
@pytest.mark.parametrize(
    ("above", "told"),
    [
        ([HEADER], None),
        ([["Sales 2024"], HEADER], "'Sales 2024'"),
        ([["Sales 2024"], [], ["by us"], HEADER], "'Sales 2024', 'by us'"),
        ([[], [], HEADER], None),
        ([HEADER, ["kg", None, "-"]], "'kg, -'"),
        ([["Sales"], [], HEADER, ["[kg]", "", ""]], "'Sales', '[kg]'"),
    ],
)
def test_titles_and_units_of_a_sheet_are_left_out_and_told(
    above: list[Any], told: str | None, tmp_path: Path
):
    dataset = made(book(tmp_path / "b.xlsx", above))
    assert dataset.feature_names == ("x", "t=u", "t=v")
    assert sum(dataset.rows.values()) == 30
    left = [note for note in dataset.notes if "none of the table" in note]
    assert [note.partition("left out: ")[2] for note in left] == ([told] if told else [])


def test_new_rows_of_a_sheet_tell_of_its_titles(tmp_path: Path):
    book(tmp_path / "b.xlsx", [["Sales 2024"], HEADER])
    with pytest.warns(ReadingWarning, match="'Sales 2024'"):
        assert len(read_rows(Source(url=str(tmp_path / "b.xlsx")))) == 30


@pytest.mark.filterwarnings("ignore::dnnflow.errors.ReadingWarning")
def test_the_first_sheet_that_is_seen_is_read_and_told(tmp_path: Path):
    def hide(written: Any) -> None:
        first = written.create_sheet("notes", 0)
        first.sheet_state = "hidden"
        first.append(["x", "y"])

    dataset = made(book(tmp_path / "b.xlsx", [HEADER], hide))
    assert dataset.n_features == 3
    assert any("'Sheet' is read; sheet says another" in note for note in dataset.notes)


def test_times_of_day_in_a_workbook_are_those_of_a_csv(tmp_path: Path):
    written = openpyxl.Workbook()
    written.active.append(["at", "y"])
    texts = ["at,y\n"]
    for i in range(30):
        written.active.append([time(i % 24, 5), "ab"[i % 2]])
        texts.append(f"{i % 24:02}:05:00,{'ab'[i % 2]}\n")
    written.save(tmp_path / "b.xlsx")
    (tmp_path / "b.csv").write_text("".join(texts))
    sheet, text = made(tmp_path / "b.xlsx"), made(tmp_path / "b.csv")
    assert sheet.arrays("train")[0].tobytes() == text.arrays("train")[0].tobytes()
    assert [column.kind for column in sheet.schema] == ["duration"]


def arff(path: Path, kind: str, values: Sequence[str]) -> Path:
    rows = "".join(f"{value},{'ab'[i % 2]}\n" for i, value in enumerate(values))
    path.write_text(f"@relation r\n@attribute\tat\t{kind}\n@attribute 'y' {{a, b}}\n@data\n{rows}")
    return path


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("date", "%Y-%m-%dT%H:%M:%S"), ("DATE 'dd/MM/yyyy'", "%d/%m/%Y"), ('date "MM-dd-yy"', "%m-%d-%y"),
        ("date yyyy-MM-dd", "%Y-%m-%d"), ("date \"d.M.yyyy HH:mm 'Uhr'\"", "%d.%m.%Y %H:%M Uhr"),
    ],
)  # fmt: skip
def test_dates_of_arff_are_read_by_the_pattern_of_their_header(kind: str, form: str, tmp_path: Path):
    days = [datetime(2024, 1 + i % 12, 1 + i % 7) for i in range(30)]
    dataset = made(arff(tmp_path / "t.arff", kind, [f"'{day.strftime(form)}'" for day in days]), scale="none")
    found = sorted(value for split in ("train", "test") for value in dataset.arrays(split)[0][:, 0].tolist())
    assert len(found) == 30
    assert [column.kind for column in dataset.schema] == ["time"]
    plain = arff(tmp_path / "u.arff", "date yyyy-MM-dd", [f"{day:%Y-%m-%d}" for day in days])
    assert dataset.arrays("train")[0].tobytes() == made(plain, scale="none").arrays("train")[0].tobytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1"] * 20 + ["x"], "row 21: an ARFF file must be as its header says, but Invalid numerical value"),
        ([], "a table needs rows, got none"),
    ],
)
def test_faults_of_arff_have_their_row(values: list[str], message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        made(arff(tmp_path / "t.arff", "numeric", values))


def test_a_date_that_breaks_the_pattern_of_arff_has_its_row(tmp_path: Path):
    with pytest.raises(DataError, match="row 3, column 'at': '2024-01-01' is no date as the header says"):
        made(arff(tmp_path / "t.arff", "date 'dd/MM/yyyy'", ["01/01/2024", "02/01/2024", "2024-01-01"]))


def database(path: Path, kind: str, values: Sequence[Any]) -> Path:
    connection = sqlite3.connect(path)
    connection.execute(f"create table t (x {kind}, y text)")
    rows = [(value, "ab"[i % 2]) for i, value in enumerate(values)]
    connection.executemany("insert into t values (?, ?)", rows)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        ("timestamp", [1_700_000_000 + i for i in range(30)], "number"),
        ("datetime", [f"2024-01-{i % 28 + 1:02} 10:00:00" for i in range(30)], "time"),
        ("date", [f"{i % 28 + 1}/1/2024" for i in range(30)], "time"),
        ("boolean", [i % 2 for i in range(30)], "boolean"),
        ("boolean", ["yes", "no"] * 15, "boolean"),
        ("boolean", list(range(30)), "number"),
    ],
)
def test_columns_of_sqlite_hold_what_is_stored_whatever_they_are_called(
    kind: str, values: list[Any], wanted: str, tmp_path: Path
):
    assert [column.kind for column in made(database(tmp_path / "t.db", kind, values)).schema] == [wanted]


def test_decimals_of_sqlite_keep_their_digits(tmp_path: Path):
    path = database(tmp_path / "t.db", "decimal(10, 2)", [i * 0.12345 for i in range(30)])
    dataset = made(path, scale="none")
    found = sorted(value for split in ("train", "test") for value in dataset.arrays(split)[0][:, 0].tolist())
    assert found[1] == pytest.approx(0.12345, rel=1e-6)
