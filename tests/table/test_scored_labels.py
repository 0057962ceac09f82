"""A model is scored on what a dataset takes: labels that are one class there are one class here."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from dnnflow.errors import DataError
from dnnflow.results.view.model_score import truth_of
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.rows_file import read_rows, rows_of
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ROWS = 40


def frame(label: Any) -> pd.DataFrame:
    values = label if hasattr(label, "dtype") else list(label)
    repeated = [values[i % len(values)] for i in range(ROWS)]
    kind = getattr(label, "dtype", None)
    return pd.DataFrame({"x": np.arange(ROWS) % 7, "label": pd.Series(repeated, dtype=kind or object)})


def of_csv(text: str) -> Callable[[Path], Source]:
    def written(folder: Path) -> Source:
        path = folder / "t.csv"
        cells = text.split("|")
        path.write_text("x,label\n" + "".join(f"{i % 7},{cells[i % len(cells)]}\n" for i in range(ROWS)))
        return Source(url=str(path))

    return written


def of_parquet(label: Any) -> Callable[[Path], Source]:
    def written(folder: Path) -> Source:
        frame(label).to_parquet(folder / "t.parquet")
        return Source(url=str(folder / "t.parquet"))

    return written


LABELS: dict[str, Callable[[Path], Any]] = {
    "text of numbers": of_csv("1.0|2.0"),
    "codes": of_csv("01|1|1E2"),
    "truth in any case": of_csv("TRUE|false|True"),
    "blanks and a missing one": of_csv(" a|b |NA|None"),
    "single precision": of_parquet(np.array([0.1, 0.7, 1.0], np.float32)),
    "double precision": of_parquet(np.array([0.1, 12345678901.5, 1e300, 1.5e-7])),
    "large whole numbers": of_parquet(np.array([2**60, 2**60 + 1])),
    "integers with missing ones": of_parquet(pd.array([1, 2, None], dtype="Int64")),
    "truth values": of_parquet(np.array([True, False])),
    "decimals": of_parquet([Decimal("1.50"), Decimal("2.00"), Decimal("0.25")]),
    "long decimals": of_parquet([Decimal("12345678901234567890"), Decimal("12345678901234567891")]),
    "texts NA and null": of_parquet(["NA", "null", "b", None]),
    "categories of numbers": of_parquet(pd.Categorical([1, 2, 2])),
    "a frame of floats": lambda _: frame(np.array([0.1, 0.7], np.float32)),
    "a frame of objects": lambda _: frame([True, "yes", 2.0, Decimal("3.50"), 12345678901.5, 1e-7]),
    "polars": lambda _: pl.from_pandas(frame(["NA", "b"])),
}  # fmt: skip


def made(given: Any, folder: Path, **recipe: Any) -> Dataset:
    return ingest(given, Recipe(**{"label": "label", **recipe}), folder / "datasets")


def rows_in(given: Any) -> pd.DataFrame:
    return read_rows(given) if isinstance(given, Source) else rows_of(given)


@pytest.mark.parametrize("exact", [(), ("label",)])
@pytest.mark.parametrize("name", LABELS)
def test_a_table_is_scored_as_it_was_read(name: str, exact: tuple[str, ...], tmp_path: Path):
    given = LABELS[name](tmp_path)
    dataset = made(given, tmp_path, text_columns=exact)
    truth, known = truth_of(dataset.fitted, rows_in(given))
    assert int((~known).sum()) == dataset.dropped_rows
    of_each = np.bincount(truth[known], minlength=dataset.n_classes)
    assert of_each.tolist() == [sum(of) for of in zip(*dataset.class_counts.values(), strict=True)]


@pytest.mark.parametrize("exact", [(), ("label",)])
@pytest.mark.parametrize(("first", "second"), [
    ("text of numbers", "double precision"), ("text of numbers", "integers with missing ones"),
    ("codes", "categories of numbers"), ("codes", "text of numbers"),
    ("truth in any case", "truth values"), ("a frame of floats", "single precision"),
])  # fmt: skip
def test_rows_of_another_kind_are_scored_as_they_would_be_test_rows(
    first: str, second: str, exact: tuple[str, ...], tmp_path: Path
):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    rows = LABELS[second](other)
    given = LABELS[first](one)
    dataset = made(given, tmp_path, text_columns=exact)
    try:
        tested = made(given, tmp_path, text_columns=exact, test_source=rows.url)
    except DataError:
        with pytest.raises(DataError):
            truth_of(dataset.fitted, rows_in(rows))
        return
    truth, known = truth_of(dataset.fitted, rows_in(rows))
    assert np.bincount(truth[known], minlength=dataset.n_classes).tolist() == [*tested.class_counts["test"]]


def test_labels_that_are_written_with_commas_are_scored_by_that(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("x;label\n" + "".join(f"{i % 7};{i}.000,5\n" for i in range(1, ROWS)))
    source = Source(url=str(path))
    dataset = made(source, tmp_path, numbers={"label": "1.234,56"}, task="regression")
    fitted = type(dataset.fitted).from_dict(dataset.fitted.to_dict())
    truth, _ = truth_of(fitted, read_rows(source))
    assert fitted.targets.decode(truth)[:3].ravel().tolist() == pytest.approx([1000.5, 2000.5, 3000.5])
    as_numbers = pd.DataFrame({"label": [1.234, 1000.5]})
    truth, _ = truth_of(fitted, as_numbers)
    assert fitted.targets.decode(truth).ravel().tolist() == pytest.approx([1.234, 1000.5], abs=1e-3)


@pytest.mark.parametrize("kind", ["float32", "float64", "bool", "Int64"])
def test_texts_of_typed_features_are_found_again(kind: str, tmp_path: Path):
    values: Any = np.array([0.1, 1, 12345678901.5, 1e-7] if "float" in kind else [0, 1])
    as_type: Any = kind
    table = frame(["a", "b"]).assign(f=pd.Series(np.resize(values, ROWS)).astype(as_type))
    table.to_parquet(tmp_path / "t.parquet")
    dataset = made(Source(url=str(tmp_path / "t.parquet")), tmp_path, text_columns=("f",))
    for rows in (read_rows(Source(url=str(tmp_path / "t.parquet"))), rows_of(table), table):
        assert not any(dataset.fitted.notes(rows))


def test_rows_as_pandas_holds_them(tmp_path: Path):
    columns: Any = [0, ("a", 1), "s", "label"]
    rows = pd.DataFrame(
        [[i % 5, ["u", "v"][i % 2], i % 3, "pq"[i % 2]] for i in range(ROWS)], columns=columns
    )
    dataset = made(rows, tmp_path, text_columns=("s",))
    odd = rows.astype({0: pd.SparseDtype("int64")}).astype({"s": "Float32"})
    odd.iloc[3, 1] = pd.NA
    assert not any(dataset.fitted.notes(odd))
    assert dataset.fitted.transform(odd)[4:].tolist() == dataset.fitted.transform(rows_of(rows))[4:].tolist()
    assert truth_of(dataset.fitted, odd)[1].all()
