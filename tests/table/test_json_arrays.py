"""A JSON array of records is read as the same records a line each; what is no table is told with its row."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats import record_files
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.ingest import ingest
from dnnflow.table.store.survey import survey

CELLS = {"x": st.integers(-(2**60), 2**60) | st.none(), "f": st.floats(-1e9, 1e9).map(lambda v: v + 0.25),
         "t": st.text(max_size=5) | st.none(), "b": st.booleans()}  # fmt: skip
RECORDS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=9)


def rows_of_file(path: Path, text: str) -> pd.DataFrame:
    path.write_text(text, encoding="utf-8")
    return read_rows(Source(url=str(path)))


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.sampled_from([None, 0, 3]), st.booleans(), st.integers(1, 40))
def test_an_array_is_its_records_a_line_each(
    records: list[dict[str, Any]], indent: int | None, is_ascii: bool, piece: int
):
    """However it is laid out, and wherever it is cut in pieces."""
    array = json.dumps(records, indent=indent, ensure_ascii=is_ascii)
    lines = "\n".join(map(json.dumps, records))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        expected = rows_of_file(Path(folder, "t.jsonl"), lines)
        patched.setattr(record_files, "_PIECE_BYTES", piece)
        patched.setattr(record_files, "_BEGINNING", 8)
        found = rows_of_file(Path(folder, "t.json"), f"\ufeff \n{array}\n")
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("name", ["t.json", "t.txt", "t.json.gz"])
def test_what_pandas_writes_is_read(name: str, tmp_path: Path):
    frame = pd.DataFrame({"x": [1.5, None, 3.0] * 8, "code": ["01", "1", "é"] * 8, "y": list("abc") * 8})
    frame.to_json(tmp_path / name, orient="records")
    dataset = ingest(Source(url=str(tmp_path / name)), Recipe(label="code"), tmp_path / "datasets")
    assert (sum(dataset.rows.values()), [*dataset.class_names]) == (24, ["01", "1", "é"])
    assert len(read_rows(Source(url=str(tmp_path / name)))) == 24


@pytest.mark.parametrize(("text", "row", "reason"), [
    ('[{"x": 1}, {"x": "a"}]', 2, "changed from number to string"), ('[{"x": 1}, 5]', 2, "but it is '5]'"),
    ("[[1, 2]]", 1, r"but it is '\[1, 2\]\]'"), ('[{"x": 1}, {"x": 2', 2, "but it is"),
    ('[{"x": 1} {"x": 2}]', 1, "stands where a comma or the end should be"),
    ('[{"x": 1},', 2, "it ends before"),
    ('[{"x": 1}, {"x": 1, "x": 2}]', 2, "'x' is twice in it"), ('[{"x": 1},]', 2, r"but it is '\]'"),
    ('[{"x": 1}] more', 1, "stands where"),
])  # fmt: skip
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_what_is_no_array_of_records_is_told_with_its_row(
    text: str, row: int, reason: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record_files, "_PIECE_BYTES", piece)
    monkeypatch.setattr(record_files, "_BEGINNING", 8)
    with pytest.raises(DataError, match=rf"row {row}: each record must be a JSON object.*{reason}"):
        rows_of_file(tmp_path / "t.json", text)


def test_an_empty_array_has_no_rows(tmp_path: Path):
    with pytest.raises(DataError, match="a table needs rows"):
        rows_of_file(tmp_path / "t.json", "[ ]\n")


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_objects_and_lists_are_refused_with_row_and_column(name: str, tmp_path: Path):
    """They can be dropped, and a search leaves them out."""
    rows: list[dict[str, Any]] = [{"x": i, "place": None, "tags": ["a"], "y": "ab"[i % 2]} for i in range(20)]
    rows[2]["place"] = {"town": "Ulm"}
    text = json.dumps(rows) if name == "t.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    source = Source(url=str(tmp_path / name))
    with pytest.raises(DataError) as refused:
        ingest(source, Recipe(label="y"), tmp_path / "datasets")
    assert "column 'place' is of objects, the first in row 3" in str(refused.value)
    assert "column 'tags' is of lists, the first in row 1" in str(refused.value)
    dataset = ingest(source, Recipe(label="y", drop=("place", "tags")), tmp_path / "datasets")
    assert dataset.feature_names == ("x",)
    assert "objects, the first in row 3" in survey(source).useless()["place"]
