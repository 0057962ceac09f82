"""A table's columns are told before its label is known, and what no network learns from."""

from pathlib import Path

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
        "row": "it counts the rows from 0", "name": "it is text with more than 64 different values",
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
