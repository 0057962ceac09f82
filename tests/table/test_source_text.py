"""The text of a file is what is in it: packed, marked twice, or in UTF-16 without a mark."""

import bz2
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.rows_file import read_rows
from dnnflow.table.store.ingest import ingest

TEXT = "town;size;y\n" + "".join(f"Köln {i % 3};{i}.25;{'ab'[i % 2]}\n" for i in range(30))
WANTED = {"town": "Köln 2", "size": "29.25", "y": "b"}


def zipped(path: Path, members: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def check(path: Path, folder: Path, **how: Any) -> None:
    """Compare the last of new rows with the text, and a dataset of it."""
    source = Source(url=str(path), **how)
    rows = read_rows(source)
    assert len(rows) == 30
    assert rows.iloc[-1].to_dict() == WANTED
    dataset = ingest(source, Recipe(label="y"), folder / "d")
    assert sum(dataset.rows.values()) == 30
    assert dataset.feature_names == ("town=Köln 0", "town=Köln 1", "town=Köln 2", "size")


@pytest.mark.filterwarnings("ignore::dnnflow.errors.ReadingWarning")
@pytest.mark.parametrize("marks", [0, 1, 2, 3])
def test_no_byte_order_mark_takes_from_the_end(marks: int, tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" * marks + TEXT.encode())
    check(tmp_path / "t.csv", tmp_path)


def test_packed_files_are_read(tmp_path: Path):
    (tmp_path / "t.csv.bz2").write_bytes(bz2.compress(TEXT.encode()))
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress(TEXT.encode()))
    zipped(tmp_path / "t.zip", {"in/t.csv": TEXT, "__MACOSX/in/._t.csv": "x"})
    for name in ("t.csv.bz2", "t.csv.xz", "t.zip"):
        check(tmp_path / name, tmp_path)
    pd.DataFrame({"size": range(30), "y": ["a", "b"] * 15}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet.xz").write_bytes(lzma.compress((tmp_path / "t.parquet").read_bytes()))
    assert len(read_rows(Source(url=str(tmp_path / "t.parquet.xz")))) == 30


def test_archives_of_several_files_and_packed_files_cut_short_are_refused(tmp_path: Path):
    zipped(tmp_path / "t.zip", {"a.csv": TEXT, "b.csv": TEXT})
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress(TEXT.encode())[:-9])
    (tmp_path / "cut.zip").write_bytes((tmp_path / "t.zip").read_bytes()[:50])
    with pytest.raises(DataError, match=r"an archive must hold one table, got 'a\.csv', 'b\.csv'"):
        read_rows(Source(url=str(tmp_path / "t.zip")))
    for name in ("t.csv.xz", "cut.zip"):
        with pytest.raises(DataError, match="cannot read"):
            read_rows(Source(url=str(tmp_path / name)))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(encoding: str, tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(TEXT.encode(encoding))
    with pytest.raises(DataError, match=f"set encoding to {encoding}"):
        read_rows(Source(url=str(tmp_path / "t.csv")))
    check(tmp_path / "t.csv", tmp_path, encoding=encoding)
