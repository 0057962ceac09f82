"""A large table is read by a quicker parser, and nobody can tell by what comes out."""

from pathlib import Path

import numpy as np
import pytest

from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text import csv_reader as quick_reader
from dnnflow.table.text.csv_reader import Dialect, read_quickly

DIALECT = Dialect(",", '"', True, ("a", "b", "c"))
ROWS = [(i * 0.1, 1 / (i + 1), "xyz"[i % 3]) for i in range(300)]


@pytest.fixture(params=["quick", "exact"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(quick_reader, "QUICK_BYTES", 0 if request.param == "quick" else 1 << 40)
    return str(request.param)


def written(rows: list[tuple]) -> str:
    return "a,b,label\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def made(tmp_path: Path, content: str, **recipe) -> Dataset:
    (tmp_path / "table.csv").write_text(content)
    return ingest(
        Source(url=str(tmp_path / "table.csv")),
        Recipe(label="label", **recipe),
        tmp_path / "datasets",
        block_bytes=1000,
    )


@pytest.mark.parametrize(
    "odd",
    [
        [],
        [("", "", "x"), (1.5, "", "")],
        [("NA", "?", "null")],
        [("nan", "NULL", " y ")],
        [("1e-310", "-0.0", "x"), ("123456789012345678901234567890", "+.5", "x"), ("0.1e-5", "1.", "z")],
        [(" 1.5", "2 ", "x")],
        [('"1.5"', 2, '"x"')],
        [(2, 3, "x\r"), (2, 4, "y")],
        [(-99, 0.5, "x")],
    ],
)
def test_both_parsers_make_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: list[tuple]
):
    content = written([*ROWS, *odd, *ROWS])
    own = ("-99",) if odd and odd[0][0] == -99 else ()
    found = []
    for name, least in (("quick", 0), ("exact", 1 << 40)):
        monkeypatch.setattr(quick_reader, "QUICK_BYTES", least)
        (tmp_path / name).mkdir()
        found.append(made(tmp_path / name, content, missing_values=own))
    assert found[0].manifest == found[1].manifest
    for split in ("train", "test"):
        assert np.array_equal(found[0].arrays(split)[0], found[1].arrays(split)[0])


@pytest.mark.parametrize("row", ["1,2", "1,2,x,4", "1", "1,2,\n3"])
def test_a_ragged_row_is_refused(tmp_path: Path, reader: str, row: str):
    content = f"{written(ROWS)}{row}\n{written(ROWS[:5])[len('a,b,label') + 1 :]}"
    with pytest.raises(DataError, match=r"row 30[12] \(line 30[23]\) has [124] values, but the table has 3"):
        made(tmp_path, content)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("oops", 1, "x"), r"row 301 \(line 302\), column 'a': 'oops' is not a number"),
        ((1, "-inf", "x"), r"row 301 \(line 302\), column 'b': numbers must be finite, got '-inf'"),
    ],
)
def test_what_is_no_finite_number_is_refused(tmp_path: Path, reader: str, row: tuple, message: str):
    with pytest.raises(DataError, match=message):
        made(tmp_path, written([*ROWS, row, *ROWS]))


def test_blank_lines_are_no_rows(tmp_path: Path, reader: str):
    lines = written(ROWS).splitlines(keepends=True)
    dataset = made(tmp_path, "".join([*lines[:50], "\n\n", *lines[50:]]))
    assert sum(dataset.rows.values()) == 300
    assert dataset.dropped_rows == 0


def test_plain_text_is_read_quickly():
    columns = read_quickly(b"1,2,x\n,4.5,\n", DIALECT, ("a", "b"), ("c",))
    assert columns is not None
    assert np.array_equal(columns.values, [[1, np.nan], [2, 4.5]], equal_nan=True)
    assert columns.text("c").to_pylist() == ["x", None]


@pytest.mark.parametrize("data", [b'1,2,"x"\n', b"1,2,x\r\n", b"1,2,x\n3\n", b"1,2,x,4\n", b"1,x,x\n"])
def test_what_may_mean_something_else_is_left_to_the_exact_parser(data: bytes):
    assert read_quickly(data, DIALECT, ("a", "b"), ("c",)) is None


def test_a_quoted_value_may_span_blocks(tmp_path: Path):
    rows = "".join(f'{i},"line\nline {i % 3}",{i % 2}\n' for i in range(200))
    dataset = made(tmp_path, f"a,b,label\n{rows}")
    assert dataset.feature_names == ("a", "b=line\nline 0", "b=line\nline 1", "b=line\nline 2")
    assert sum(dataset.rows.values()) == 200


def test_a_table_of_text_only_keeps_its_rows():
    from dnnflow.table.text.csv_reader import Dialect, read_quickly

    columns = read_quickly(b"x,y\nz,y\n", Dialect(",", '"', False, ("a", "b")), (), ("a", "b"))
    assert columns is not None
    assert columns.rows == 2
