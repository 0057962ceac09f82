"""A table's columns are told before its label is known, and what no network learns from."""

from pathlib import Path

import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import ColumnKind
from dnnflow.table.columns.recipe import Source
from dnnflow.table.store.survey import Survey, survey


def looked_at(text: str, tmp_path: Path, **options) -> Survey:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return survey(Source(url=str(path)), **options)


def table_of(rows: int) -> str:
    lines = [f"{n},person {n},{n % 7}.5,{'yes' if n % 2 else 'no'},,{'ab'[n % 2]}" for n in range(rows)]
    return "\n".join(["row,name,size,paid,empty,kind", *lines]) + "\n"


def test_kinds_missing_and_different_values_are_counted(tmp_path: Path):
    found = {one.name: one for one in looked_at(table_of(100), tmp_path).columns}
    assert [one.kind for one in found.values()] == [
        ColumnKind.NUMBER, ColumnKind.TEXT, ColumnKind.NUMBER, ColumnKind.BOOLEAN, ColumnKind.EMPTY,
        ColumnKind.TEXT,
    ]  # fmt: skip
    assert (found["empty"].values, found["kind"].distinct, found["size"].distinct) == (0, "2", "7")
    assert found["size"].examples == ["0.5", "1.5", "2.5"]


def test_row_numbers_and_names_are_no_features(tmp_path: Path):
    assert looked_at(table_of(100), tmp_path).useless() == {
        "row": "it counts the rows from 0", "name": "it names rows, 100 different values in 100 rows",
    }  # fmt: skip
    assert not looked_at(table_of(100), tmp_path).useless(("row", "name"))


@pytest.mark.parametrize(
    "numbers",
    [
        [*range(2, 40)], [*range(38, 0, -1)], [0, *range(2, 40)], [*range(37), 36],
        [0.5 + n for n in range(38)],
    ],
)  # fmt: skip
def test_other_numbers_do_not_count_the_rows(numbers: list[float], tmp_path: Path):
    text = "at,kind\n" + "".join(f"{n},{'ab'[i % 2]}\n" for i, n in enumerate(numbers))
    assert not looked_at(text, tmp_path).useless()


def test_few_rows_are_not_said_to_be_counted(tmp_path: Path):
    assert not looked_at("at,kind\n" + "".join(f"{n},a\n" for n in range(5)), tmp_path).useless()


def test_rows_are_counted_over_all_blocks(tmp_path: Path):
    lines = [f"{n},{'ab'[n % 2]}" for n in range(1, 400)]
    text = "\n".join(["at,kind", *lines]) + "\n"
    whole = looked_at(text, tmp_path, block_bytes=100, whole_table=True)
    assert whole.is_whole
    assert whole.rows == 399
    assert whole.useless() == {"at": "it counts the rows from 1"}
    broken = text.replace("\n300,", "\n299,")
    assert not looked_at(broken, tmp_path, block_bytes=100, whole_table=True).useless()
    first = looked_at(broken, tmp_path, block_bytes=100)
    assert not first.is_whole
    assert first.rows < 399


def test_types_say_what_is_text_and_what_is_no_feature(tmp_path: Path):
    frame = pd.DataFrame({
        "code": ["01", "02"] * 10, "size": [1.5, None] * 10, "paid": [True, False] * 10,
        "grade": pd.Categorical(["1", "2"] * 10), "day": pd.date_range("2024-01-01", periods=20),
        "tags": [[1]] * 20, "row": range(20),
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    found = survey(Source(url=str(tmp_path / "t.parquet")))
    assert (found.rows, found.is_whole, found.label) == (20, True, "grade")
    assert [one.kind for one in found.columns[:4]] == [
        ColumnKind.TEXT, ColumnKind.NUMBER, ColumnKind.BOOLEAN, ColumnKind.TEXT,
    ]  # fmt: skip
    assert (found.columns[1].values, found.columns[1].examples) == (10, ["1.5"])
    assert found.columns[4].kind is ColumnKind.TIME
    assert list(found.useless()) == ["tags", "row"]


def test_the_first_rows_of_a_typed_table_are_looked_at_or_all(tmp_path: Path):
    pd.DataFrame({"at": range(400), "kind": ["a", "b"] * 200}).to_parquet(tmp_path / "t.parquet")
    source = Source(url=str(tmp_path / "t.parquet"))
    first = survey(source, block_bytes=1600)
    assert (first.rows, first.is_whole) == (50, False)
    whole = survey(source, block_bytes=1600, whole_table=True)
    assert (whole.rows, whole.is_whole, list(whole.useless())) == (400, True, ["at"])


def test_the_first_file_of_several_is_looked_at_or_all(tmp_path: Path):
    for number in range(3):
        rows = "".join(f"{n},{'ab'[n % 2]}\n" for n in range(20 * number, 20 * number + 20))
        (tmp_path / f"{number}.csv").write_text(f"at,kind\n{rows}")
    source = Source(url=str(tmp_path))
    assert (survey(source).rows, survey(source).is_whole) == (20, False)
    whole = survey(source, whole_table=True)
    assert (whole.rows, whole.is_whole, list(whole.useless())) == (60, True, ["at"])
    (tmp_path / "1.csv").write_text("at,other\n1,2\n")
    assert survey(source, whole_table=True).rows == 40


def test_outputs_of_a_keel_file_are_its_label(tmp_path: Path):
    text = (
        "@relation r\n@attribute code {1, 2}\n@attribute class {a, b}\n@inputs class\n@outputs code\n@data\n"
    )
    (tmp_path / "t.dat").write_text(text + "1, a\n2, b\n<null>, a\n")
    found = survey(Source(url=str(tmp_path / "t.dat")))
    assert (found.label, found.rows, found.columns[0].values) == ("code", 3, 2)
    assert found.columns[0].kind is ColumnKind.TEXT


@pytest.mark.parametrize(
    ("header", "label"),
    [("size,kind,class", "class"), ("target,size,kind", "target"), ("size,at,kind", "kind")],
)
def test_the_likely_label_has_a_usual_name_or_is_the_last(header: str, label: str, tmp_path: Path):
    rows = "".join(f"{n % 3},{n % 4},{'ab'[n % 2]}\n" for n in range(30))
    assert looked_at(f"{header}\n{rows}", tmp_path).label == label


def test_names_and_row_numbers_are_no_label(tmp_path: Path):
    assert looked_at(table_of(100), tmp_path).label == "kind"
    rows = "".join(f"{n % 4},person {n}\n" for n in range(100))
    assert looked_at(f"size,name\n{rows}", tmp_path).label == "size"


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="column names must differ"):
        looked_at("a,a\n1,2\n", tmp_path)


def test_a_short_row_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"row 2 \(line 3\) has 1 values"):
        looked_at("a,b\n1,2\n3\n", tmp_path)


def test_none_is_a_value_of_a_label_that_is_proposed(tmp_path: Path):
    rows = "".join(f"{i * 7 % 11},{['None', 'flu'][i % 2]}\n" for i in range(20))
    assert looked_at("size,y\n" + rows, tmp_path).label == "y"
    assert looked_at("size,y\n" + rows.replace("None", "NA"), tmp_path).label == "size"
