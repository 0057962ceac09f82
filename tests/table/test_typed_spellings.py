"""Texts of a table with types mean what they mean in a CSV: else a file of another kind is read otherwise."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.run.models.saved_model import SavedModel
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.rows_file import read_rows, rows_of
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ROWS = 60
WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "t.parquet": lambda frame, path: frame.to_parquet(path, row_group_size=17),
    "polars.parquet": lambda frame, path: pl.from_pandas(frame).write_parquet(path),
    "t.xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "t.jsonl": lambda frame, path: path.write_text(
        frame.to_json(orient="records", lines=True, force_ascii=False), encoding="utf-8"
    ),
}


def made(source: Any, folder: Path, **recipe: Any) -> Dataset:
    given = Source(url=str(source)) if isinstance(source, Path) else source
    return ingest(given, Recipe(**{"label": "label", **recipe}), folder / "datasets", block_bytes=1024)


def same(one: Dataset, other: Dataset) -> None:
    """Compare all that a model would see, and what a person is told."""
    fitted, wanted = one.fitted.to_dict(), other.fitted.to_dict()
    assert {**fitted, "missing_labels": None} == {**wanted, "missing_labels": None}
    assert (one.class_names, one.dropped_rows, one.notes) == (
        other.class_names,
        other.dropped_rows,
        other.notes,
    )
    for split in ("train", "test"):
        for a, b in zip(one.arrays(split), other.arrays(split), strict=True):
            np.testing.assert_array_equal(a, b)


def table(**columns: Any) -> pd.DataFrame:
    """Make a table of those columns, and a label where none is given."""
    return pd.DataFrame({"y": np.arange(ROWS) % 7, "label": ["a", "b"] * (ROWS // 2)} | columns)


DRESSED = {
    "decimal commas and a currency": [f"{i},{i % 10}5 €" for i in range(ROWS)],
    "separators of thousands": [f"{i + 1},{i % 10}50.{i % 10}" for i in range(ROWS)],
    "percent, some missing": [None if i % 9 == 0 else f"{i}.5%" for i in range(ROWS)],
    "another minus sign": [f"−{i}.25" for i in range(ROWS)],
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dress", DRESSED)
def test_dressed_numbers_are_read_alike(dress: str, name: str, tmp_path: Path):
    frame = table(x=DRESSED[dress])
    WRITERS["t.csv"](frame, tmp_path / "plain.csv")
    WRITERS[name](frame, tmp_path / name)
    expected, dataset = made(tmp_path / "plain.csv", tmp_path), made(tmp_path / name, tmp_path)
    same(dataset, expected)
    assert sorted(dataset.feature_names) == ["x", "y"]
    assert "is read as numbers" in " ".join(dataset.notes)
    rows = read_rows(Source(url=str(tmp_path / name)))
    wanted = expected.transform(read_rows(Source(url=str(tmp_path / "plain.csv"))))
    np.testing.assert_array_equal(dataset.transform(rows), wanted)
    np.testing.assert_array_equal(dataset.transform(rows_of(frame)), wanted)


@pytest.mark.parametrize("name", WRITERS)
def test_doubtful_numbers_are_refused_and_the_remedies_work(name: str, tmp_path: Path):
    frame = table(x=[f"{i + 1},250" if i % 2 else str(i) for i in range(ROWS)])
    WRITERS[name](frame, tmp_path / name)
    with pytest.raises(DataError, match=r"^row 2.*'2,250' .*numbers: \{x: \"1,234\.56\"\}"):
        made(tmp_path / name, tmp_path)
    for example, number in (("1.234,56", 60.25), ("1,234.56", 60_250)):
        dataset = made(tmp_path / name, tmp_path, numbers={"x": example}, scale="none")
        place = dataset.feature_names.index("x")
        assert max(dataset.arrays(split)[0][:, place].max() for split in ("train", "test")) == number
    assert "y" in made(tmp_path / name, tmp_path, text_columns=("x",)).feature_names


TEXTS = ["a", "A", " a ", "é", "é", "TRUE", "true", "False", "1", "1.0", "01", "1E0", "-999", "-999.0",
         "None", "NA", "null", "?", ".", "9007199254740993", "9007199254740992", ""]  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.sampled_from(TEXTS), min_size=2, max_size=6, unique=True),
    missing_values=st.sampled_from([(), ("-999",), ("a", "1.0")]),
    missing_labels=st.sampled_from([None, (), ("None", "1")]),
    rare_classes=st.sampled_from(["refuse", "drop", "merge"]),
    text_columns=st.sampled_from([(), ("label",)]),
    features=st.lists(st.sampled_from(TEXTS), max_size=12),
)
def test_texts_are_those_of_a_csv(labels: list[str], features: list[str], **recipe: Any):
    texts = [*features, *(["z", "q"] * ROWS)][:ROWS]
    frame = table(label=[*labels, *(labels[:2] * ROWS)][:ROWS], x=texts)
    with TemporaryDirectory() as place:
        folder = Path(place)
        WRITERS["t.csv"](frame, folder / "t.csv")
        said = dict(recipe)
        if said["missing_labels"] is None:  # of a type that has missing values of its own
            said["missing_labels"] = said["missing_values"]
        expected, found = outcome(folder / "t.csv", folder, **said), outcome(frame, folder, **recipe)
        if isinstance(expected, Dataset) and isinstance(found, Dataset):
            same(found, expected)
        else:
            assert found == expected


def outcome(source: Any, folder: Path, **recipe: Any) -> Dataset | str:
    """Make a dataset, or return why not, without the line."""
    try:
        return made(source, folder, **recipe)
    except DataError as error:
        return re.sub(r" \(line \d+\)", "", str(error))


@pytest.mark.parametrize("big", [2, 10**15, 2**53])
def test_numbers_of_a_label_are_classes_by_value(big: int, tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    table(label=[1, big] * (ROWS // 2)).to_parquet(folder / "a.parquet")
    table(label=[1.0, float(big)] * (ROWS // 2)).to_parquet(folder / "b.parquet")
    assert made(folder, tmp_path).class_names == ("1", str(big))


def test_markers_of_typed_numbers_and_labels(tmp_path: Path):
    frame = table(x=[-999.0, *np.arange(ROWS - 1.0)], label=[-999, 1, 2, -999] * (ROWS // 4))
    dataset = made(frame, tmp_path, missing_values=("-999", "none such"))
    assert dataset.missing_share["x"] == pytest.approx(1 / ROWS)
    assert (dataset.class_names, dataset.dropped_rows) == (("1", "2"), ROWS // 2)
    told = [note for note in dataset.notes if "stands nowhere" in note]
    assert len(told) == 1
    assert told[0].startswith("missing_values: 'none such' stands nowhere")


def test_a_header_that_names_values_is_believed(tmp_path: Path):
    (tmp_path / "t.dat").write_text(
        "@relation t\n@attribute x {10%, 20%}\n@attribute y real [0, 9]\n@attribute label {01, 1}\n"
        "@outputs label\n@data\n" + "10%, 0.5, 01\n20%, <null>, 1\n" * 20
    )
    (tmp_path / "t.arff").write_text(
        "@relation t\n@attribute x {10%, 20%}\n@attribute y real\n@attribute label {01, 1}\n@data\n"
        + "10%, 0.5, 01\n20%, ?, 1\n" * 20
    )
    for name in ("t.dat", "t.arff"):
        dataset = made(tmp_path / name, tmp_path)
        assert dataset.feature_names == ("x=10%", "x=20%", "y")
        assert sorted(dataset.class_names) == ["01", "1"]


@pytest.mark.parametrize("numbers", [{}, {"x": "1.234,56"}])
def test_cells_of_numbers_beside_decimal_commas_are_refused(numbers: dict[str, str], tmp_path: Path):
    frame = table(x=pd.Series([1.234 if i % 2 else "2,5" for i in range(ROWS)], dtype=object))
    with pytest.raises(DataError, match="column 'x': cells must be all numbers where a comma"):
        made(frame, tmp_path, numbers=numbers)


@pytest.mark.parametrize("numbers", [{}, {"x": "1.234,56"}])
def test_numbers_by_type_beside_dressed_ones_of_another_file(numbers: dict[str, str], tmp_path: Path):
    WRITERS["t.csv"](table(x=[f"{i},5" for i in range(ROWS)]), tmp_path / "t.csv")
    table(x=np.arange(ROWS) + 0.125).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"numbers must be written in one way|'0,5' is not a number"):
        made(tmp_path / "t.csv", tmp_path, numbers=numbers, test_source=str(tmp_path / "t.parquet"))
    same_numbers = table(x=np.arange(ROWS) + 0.125)
    assert made(same_numbers, tmp_path, numbers=numbers).feature_names == ("y", "x")


def test_what_is_told_of_several_texts(tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    rows = "1;ü\n2;ö\n" * 20
    for name in ("a.csv", "b.csv"):
        (folder / name).write_bytes(f"# of a machine\nx;label\n{rows}".encode("latin-1"))
    dataset = made(folder, tmp_path)
    assert dataset.reading["encoding"] == "latin-1"
    text, lines, *_ = dataset.notes
    assert text.startswith(f"the text of {folder}/a.csv and 1 more is not UTF-8 and was read as latin-1")
    assert lines == f"lines of {folder}/a.csv and 1 more that are no rows are left out: '# of a machine'"
    saved = SavedModel(None, dataset.fitted, dataset.class_names, {}, dataset.reading)
    assert (saved.source(str(folder)).encoding, saved.source(str(folder)).delimiter) == ("latin-1", ";")
    (folder / "b.csv").write_text(f"x;label\n{rows}", encoding="utf-8")
    assert saved.source(str(folder)).encoding is None
    table().to_parquet(tmp_path / "t.parquet")
    assert saved.source(str(tmp_path / "t.parquet")) == Source(url=str(tmp_path / "t.parquet"))


def test_dictionaries_are_an_encoding_of_text(tmp_path: Path):
    plain = pa.table({"x": [f"{i % 9}.5 kg" for i in range(ROWS)], "label": ["a", "b"] * (ROWS // 2)})
    coded = plain.set_column(0, "x", plain["x"].combine_chunks().dictionary_encode())
    same(made(coded, tmp_path), made(plain, tmp_path))
    assert made(coded, tmp_path).feature_names == ("x",)
