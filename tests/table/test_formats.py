"""A table is the same whatever it is written in: a person would lose numbers, or a class, quietly."""

import json
import sqlite3
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import zarr
from pyarrow import feather, orc

import dnnflow
from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.formats.columnar import HeldTable
from dnnflow.table.formats.frames import keep_frame
from dnnflow.table.formats.rows_file import read_rows, rows_of
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ROWS = 300


def table() -> pd.DataFrame:
    """Make a table with each type that a column may have, and values missing."""
    rng = np.random.default_rng(4)
    size = rng.normal(size=ROWS)
    size[::7] = np.nan
    town = rng.choice(["Ulm", "Bad Aibling", "Köln"], ROWS).astype(object)
    town[::11] = None
    return pd.DataFrame({
        "count": rng.integers(-5, 2_000_000, ROWS),
        "size": size,
        "town": town,
        "open": rng.random(ROWS) < 0.5,
        "grade": pd.Categorical(rng.choice(["low", "mid", "high"], ROWS)),
        "label": rng.choice(["plum", "pear", "fig"], ROWS),
    })  # fmt: skip


def write_arff(frame: pd.DataFrame, path: Path) -> None:
    import arff

    kinds: dict[str, Any] = {"count": "INTEGER", "size": "REAL", "town": "STRING", "open": ["false", "true"]}
    attributes = [(name, kinds.get(name) or sorted(set(frame[name]))) for name in map(str, frame)]
    rows = [[None if pd.isna(v) else str(v).lower() if isinstance(v, bool) else v for v in row]
            for row in frame.astype(object).itertuples(index=False)]  # fmt: skip
    path.write_text(
        arff.dumps({"relation": "shop", "attributes": attributes, "data": rows}), encoding="utf-8"
    )


def write_keel(frame: pd.DataFrame, path: Path) -> None:
    lines = ["@relation shop", "@attribute count integer [-5, 2000000]", "@attribute size real[-9.0,9.0]",
             "@attribute town {Ulm, Bad Aibling, Köln}", "@attribute open{true,false}",
             "@attribute grade {low, mid, high}", "@attribute label {plum, pear, fig}",
             "@inputs count, size, town, open, grade", "@outputs label", "@data"]  # fmt: skip
    for row in frame.astype(object).itertuples(index=False):
        lines.append(", ".join("<null>" if pd.isna(v) else str(v) for v in row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(frame: pd.DataFrame, path: Path) -> None:
    path.write_text(frame.to_json(orient="records", lines=True, force_ascii=False, double_precision=15))


def write_exact_jsonl(frame: pd.DataFrame, path: Path) -> None:
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    path.write_text("\n".join(json.dumps(row) for row in rows))


def write_arrays(frame: pd.DataFrame) -> dict[str, Any]:
    texts = {name: frame[name].astype(object).where(frame[name].notna(), "").to_numpy(str)
             for name in ("town", "grade", "label")}  # fmt: skip
    return {
        name: texts.get(name, frame[name].to_numpy() if name not in texts else None)
        for name in map(str, frame)
    }


def write_hdf5(frame: pd.DataFrame, path: Path) -> None:
    with h5py.File(path, "w", track_order=True) as file:
        for name, values in write_arrays(frame).items():
            file[name] = values.astype(h5py.string_dtype()) if values.dtype.kind == "U" else values


def write_zarr(frame: pd.DataFrame, path: Path) -> None:
    group = zarr.open_group(str(path), mode="w")
    for name, values in write_arrays(frame).items():
        with warnings.catch_warnings(action="ignore"):
            group.create_array(name, data=values)


def write_sqlite(frame: pd.DataFrame, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    frame.astype({"grade": str}).to_sql("shop", engine, index=False)
    engine.dispose()


def write_orc(frame: pd.DataFrame, path: Path) -> None:
    orc.write_table(pa.Table.from_pandas(frame.astype({"grade": str})), path)


def write_arrow_stream(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=77)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "t.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "t.parquet": lambda frame, path: frame.to_parquet(path, row_group_size=70),
    "polars.parquet": lambda frame, path: pl.from_pandas(frame).write_parquet(path, row_group_size=99),
    "index.parquet": lambda frame, path: frame.sample(frac=1, random_state=0).sort_index().to_parquet(path),
    "t.feather": lambda frame, path: feather.write_feather(frame, path, chunksize=50),
    "t.arrow": write_arrow_stream,
    "t.orc": write_orc,
    "t.jsonl": write_exact_jsonl,
    "t.xlsx": lambda frame, path: frame.to_excel(path, index=False),
    "t.sqlite": write_sqlite,
    "t.arff": write_arff,
    "t.dat": write_keel,
    "t.npz": lambda frame, path: np.savez(path, **write_arrays(frame)),
    "t.h5": write_hdf5,
    "t.zarr": write_zarr,
}


def made(source: Any, folder: Path, **recipe: Any) -> Dataset:
    given = Source(url=str(source)) if isinstance(source, str | Path) else source
    return ingest(given, Recipe(**{"label": "label", **recipe}), folder / "datasets", block_bytes=4096)


def same(one: Dataset, other: Dataset) -> None:
    """Compare all that a model would see."""
    assert one.fitted.to_dict()["columns"] == other.fitted.to_dict()["columns"]
    assert [n.lower() for n in one.class_names] == [n.lower() for n in other.class_names]
    for split in ("train", "test"):
        for a, b in zip(one.arrays(split), other.arrays(split), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def expected(tmp_path: Path) -> Dataset:
    path = tmp_path / "expected.csv"
    table().to_csv(path, index=False)
    return made(path, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_bits_of_the_csv(name: str, expected: Dataset, tmp_path: Path):
    path = tmp_path / name
    WRITERS[name](table(), path)
    if name == "t.zarr":  # which keeps no order of arrays
        table()[sorted(map(str, table()))].to_csv(tmp_path / "sorted.csv", index=False)
        expected = made(tmp_path / "sorted.csv", tmp_path)
    same(made(path, tmp_path), expected)
    assert made(path, tmp_path).path == made(path, tmp_path).path


FRAMES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda frame: frame,
    "pandas of objects": lambda frame: frame.astype(object),
    "pandas nullable": lambda frame: frame.convert_dtypes(),
    "polars": pl.from_pandas,
    "polars, lazy": lambda frame: pl.from_pandas(frame).lazy(),
    "arrow": pa.Table.from_pandas,
    "pair": lambda frame: (frame.drop(columns="label"), frame["label"]),
    "pair with an array": lambda frame: (frame.drop(columns="label"), frame["label"].to_numpy()),
    "dask": lambda frame: __import__("dask.dataframe").dataframe.from_pandas(frame, npartitions=3),
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_gives_the_bits_of_the_csv(name: str, expected: Dataset, tmp_path: Path):
    frame = FRAMES[name](table())
    same(made(frame, tmp_path), expected)


def test_a_frame_is_found_again_however_its_rows_are_divided(tmp_path: Path):
    whole = pa.Table.from_pandas(table())
    divided = pa.concat_tables([whole.slice(0, 100), whole.slice(100)])
    assert made(whole, tmp_path).id == made(divided, tmp_path).id == made(table(), tmp_path).id
    other = table()
    other["count"] += 1
    assert made(other, tmp_path).id != made(whole, tmp_path).id


def test_a_kept_frame_is_the_frame(expected: Dataset, tmp_path: Path):
    path = keep_frame(table(), tmp_path / "frames")
    assert path == keep_frame(table(), tmp_path / "frames")
    same(made(path, tmp_path), expected)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_new_rows_are_some(suffix: str, tmp_path: Path):
    WRITERS[f"t.{suffix}"](table().head(0), tmp_path / f"t.{suffix}")
    with pytest.raises(DataError, match="needs rows, got"):
        read_rows(Source(url=str(tmp_path / f"t.{suffix}")))
    with pytest.raises(DataError, match="needs rows, got none"):
        rows_of(table().head(0))


def test_rows_of_pandas_keep_their_index():
    some = table().iloc[5:30:2]
    assert rows_of(some).index.equals(some.index)
    assert rows_of(some["size"]).index.equals(some.index)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_files_of_one_kind_are_one_table(suffix: str, expected: Dataset, tmp_path: Path):
    frame, folder = table(), tmp_path / "parts"
    folder.mkdir()
    for number, start in enumerate(range(0, ROWS, 110)):
        WRITERS[f"t.{suffix}"](frame.iloc[start : start + 110], folder / f"{number}.{suffix}")
    same(made(folder, tmp_path), expected)
    same(made(f"{tmp_path}/pa*/*.{suffix}", tmp_path), expected)


def test_files_of_two_kinds_are_refused(tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    table().to_csv(folder / "a.csv", index=False)
    table().to_parquet(folder / "b.parquet")
    with pytest.raises(DataError, match=r"one kind, got csv \(.*a\.csv\) and parquet \(.*b\.parquet\)"):
        made(folder, tmp_path)


def test_a_column_that_is_text_in_one_file_and_numbers_in_another(tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    pd.DataFrame({"x": [1, 2], "label": ["a", "b"]}).to_parquet(folder / "a.parquet")
    pd.DataFrame({"x": ["1", "2"], "label": ["a", "b"]}).to_parquet(folder / "b.parquet")
    with pytest.raises(DataError, match=r"'x' is number of .*a\.parquet and text of .*b\.parquet"):
        made(folder, tmp_path)


def test_a_wrong_value_is_told_with_its_file_and_row(tmp_path: Path):
    folder = tmp_path / "parts"
    folder.mkdir()
    good = pd.DataFrame({"x": np.arange(50.0), "label": ["a", "b"] * 25})
    good.to_parquet(folder / "a.parquet")
    good.assign(x=[*range(41), np.inf, *range(8)]).to_parquet(folder / "b.parquet")
    with pytest.raises(DataError, match=r"^row 42 of .*b\.parquet, column 'x': numbers must be finite"):
        made(folder, tmp_path)


@pytest.mark.parametrize("first", ["csv", "parquet"])
@pytest.mark.parametrize("second", ["csv", "parquet"])
def test_test_rows_of_another_file(first: str, second: str, tmp_path: Path):
    frame = table()
    for name, rows in (("a", frame.iloc[:200]), ("b", frame.iloc[200:])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        rows.to_parquet(tmp_path / f"{name}.parquet")
    wanted = made(tmp_path / "a.csv", tmp_path, test_source=str(tmp_path / "b.csv"))
    same(made(tmp_path / f"a.{first}", tmp_path, test_source=str(tmp_path / f"b.{second}")), wanted)
    assert wanted.rows == {"train": 200, "test": 100}


def test_types_are_not_inferred_again(tmp_path: Path):
    frame = pd.DataFrame({"zip": ["01067", "10115"] * 30, "x": np.arange(60.0), "label": ["a", "b"] * 30})
    frame.to_parquet(tmp_path / "t.parquet")
    dataset = made(tmp_path / "t.parquet", tmp_path)
    assert dataset.feature_names == ("zip=01067", "zip=10115", "x")


def test_a_label_of_integers_keeps_them_apart(tmp_path: Path):
    ids = [9007199254740993, 9007199254740992] * 30
    frame = pd.DataFrame({"x": np.arange(60.0), "label": pd.array(ids, dtype="int64")})
    labels = frame["label"].map(str)
    assert labels.nunique() == 2
    texts = made(frame.assign(label=labels.map("id {}".format)), tmp_path)
    assert len(texts.class_names) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"a": 1}] * 40, r"'x' is struct<a: int64>; drop it"),
        ([[1, 2]] * 40, r"'x' is list<"),
        ([b"a"] * 40, r"'x' is binary"),
    ],
)
def test_types_that_are_no_feature_are_refused_by_name(values: Any, said: str, tmp_path: Path):
    frame = pd.DataFrame({"x": values, "y": np.arange(40.0), "label": ["a", "b"] * 20})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=said):
        made(tmp_path / "t.parquet", tmp_path)
    assert made(tmp_path / "t.parquet", tmp_path, drop=("x",)).feature_names == ("y",)


def test_time_divides_the_rows_of_a_typed_table(tmp_path: Path):
    when = pd.date_range("2020", periods=40, tz="Europe/Berlin")
    frame = pd.DataFrame({"when": when, "y": np.arange(40.0), "label": ["a", "b"] * 20})
    frame.to_parquet(tmp_path / "t.parquet")
    features, _ = made(tmp_path / "t.parquet", tmp_path, time="when", scale="none").arrays("test")
    assert features[:, 0].min() == 32


def test_a_sheet_by_name_and_cells_of_several_types(tmp_path: Path):
    path = tmp_path / "t.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"a": [1]}).to_excel(book, sheet_name="notes", index=False)
        frame = pd.DataFrame({"x": [1, "NA", 2.5, 4] * 10, "y": ["n", "o"] * 20, "label": ["a", "b"] * 20})
        frame.to_excel(book, sheet_name="rows", index=False)
    dataset = made(Source(url=str(path), sheet="rows"), tmp_path)
    assert dataset.feature_names == ("x", "y=n", "y=o")
    assert dataset.missing_share["x"] == 0.25
    with pytest.raises(DataError, match=r"sheet must name one of the workbook, got 'Rows'; nearest: 'rows'"):
        made(Source(url=str(path), sheet="Rows"), tmp_path)
    frame = frame.assign(x=pd.Series([1, "about 2", 2.5, 4] * 10, dtype=object))
    frame.to_excel(tmp_path / "u.xlsx", index=False)
    with pytest.raises(DataError, match=r"^row 2, column 'x': 'about 2' is not a number"):
        made(tmp_path / "u.xlsx", tmp_path)


def test_a_query_and_what_a_database_has(tmp_path: Path):
    with sqlite3.connect(tmp_path / "t.db") as connection:
        table().astype({"grade": str}).to_sql("shop", connection, index=False)
        connection.execute("create table other (a)")
    url = f"sqlite:///{tmp_path}/t.db"
    with pytest.raises(DataError, match=r"needs a query, got none; set query to .* other, shop"):
        made(Source(url=url), tmp_path)
    chosen = made(Source(url=url, query="select count, size, label from shop where open"), tmp_path)
    assert chosen.feature_names == ("count", "size")
    with pytest.raises(DataError, match=r"cannot read sqlite:.*no such column"):
        made(Source(url=url, query="select none_such from shop"), tmp_path)
    with pytest.raises(DataError, match=r"column names must differ, got 'count' twice"):
        made(Source(url=url, query="select count, size as count from shop"), tmp_path)


def test_postgresql_is_asked_once_and_its_types_are_kept(postgres: str, tmp_path: Path):
    amounts: Any = [Decimal(2**60 + i % 3) for i in range(ROWS)]
    frame = table().assign(amount=amounts)
    engine = sa.create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    frame.to_sql("sold", engine, index=False, dtype={"amount": sa.Numeric(30, 0)})
    engine.dispose()
    query = "SELECT * FROM sold WHERE label LIKE '%' AND label <> ':a' AND 1::int = 1 ORDER BY amount"
    dataset = made(Source(url=postgres, query=query), tmp_path, drop=("amount",))
    assert sum(dataset.rows.values()) == len(frame)
    assert dataset.reading["query"] == query
    assert len(read_rows(Source(url=postgres.replace("postgresql:", "postgres:"), query="sold"))) == len(
        frame
    )
    ids = made(
        Source(url=postgres, query="sold"), tmp_path, label="amount", task="classification", drop=("label",)
    )
    assert ids.class_names == tuple(str(2**60 + i) for i in range(3))
    with pytest.raises(DataError, match=r'cannot read .*relation "gone" does not exist'):
        made(Source(url=postgres, query="SELECT * FROM gone"), tmp_path)
    with pytest.raises(
        DataError, match="query must be a SELECT or the name of a table, got 'sald'; nearest: 'sold'"
    ):
        made(Source(url=postgres, query="sald"), tmp_path)


def test_a_sheet_may_begin_anywhere(tmp_path: Path):
    texts = table().assign(x="u").astype(str)[["x", "label"]]
    texts.to_excel(tmp_path / "t.xlsx", index=False, startrow=3, startcol=2)
    rows = read_rows(Source(url=str(tmp_path / "t.xlsx")))
    assert (len(rows), rows["label"].tolist()) == (len(texts), texts["label"].tolist())
    texts.to_excel(tmp_path / "bare.xlsx", index=False, startrow=3, header=False)
    assert len(read_rows(Source(url=str(tmp_path / "bare.xlsx"), header=False))) == len(texts)


@pytest.mark.parametrize("cell", [1 + 2j, {3}, object(), pd.Interval(0, 1), Path("a")])
def test_what_has_no_spelling_is_no_category(cell: object, tmp_path: Path):
    frame = table().assign(odd=pd.Series([cell, "a"] * (len(table()) // 2), dtype=object))
    with pytest.raises(DataError, match=f"but column 'odd' is of {type(cell).__name__}; drop it"):
        made(frame, tmp_path)
    assert "odd" not in made(frame, tmp_path, drop=("odd",)).feature_names


def test_whole_numbers_that_no_type_holds_are_refused(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(f'{{"x": {i % 7}, "id": {2**70 + i % 2}, "label": "{"ab"[i % 2]}"}}\n' for i in range(40))
    )
    for recipe in ({}, {"label": "id", "drop": ("label",)}):
        with pytest.raises(
            DataError, match="but column 'id' is of whole numbers beyond 64 bits; drop it, or conv"
        ):
            made(path, tmp_path, **recipe)
    assert made(path, tmp_path, drop=("id",)).feature_names == ("x",)
    path.write_text("".join(f'{{"x": {i % 7 + 0.5}e30, "label": "{"ab"[i % 2]}"}}\n' for i in range(40)))
    assert made(path, tmp_path).feature_names == ("x",)


def test_bins_of_numbers_are_categories(tmp_path: Path):
    frame = table().assign(bin=pd.cut(np.arange(len(table())), [-1, 9, 1000]))
    dataset = made(frame, tmp_path)
    assert [name for name in dataset.feature_names if "bin" in name] == ["bin=(-1, 9]", "bin=(9, 1000]"]
    assert not any(dataset.fitted.notes(rows_of(frame)))


def test_json_of_two_types_is_told_with_its_row(tmp_path: Path):
    lines = ['{"x": 1, "label": "a"}'] * 5 + ['{"x": "one", "label": "a"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"^row 6: .*Column\(/x\) changed from number to string"):
        made(tmp_path / "t.jsonl", tmp_path)


def test_json_dates_are_dates(tmp_path: Path):
    rows = [{"x": i, "day": f"2020-01-0{i % 2 + 1}", "label": "ab"[i % 2]} for i in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    waves = ("day_year_sin", "day_year_cos", "day_day", "day_weekday_sin", "day_weekday_cos")
    assert made(tmp_path / "t.jsonl", tmp_path).feature_names == ("x", "day", *waves)


def test_keel_says_what_is_nominal_and_where_a_row_is_wrong(tmp_path: Path):
    path = tmp_path / "t.dat"
    head = "@relation t\n@attribute 'a b' {1, 2}\n@attribute x real [0, 9]\n@attribute y {0, 1}\n"
    head += "@outputs y\n@data\n"
    path.write_text(head + "1, 0.5, 0\n2, <null>, 1\n" * 20)
    dataset = made(path, tmp_path, label="y")
    assert dataset.feature_names == ("a b=1", "a b=2", "x")
    path.write_text(head + "1, 0.5, 0\n2, <null>, 1\n" * 20 + "1, 2\n")
    with pytest.raises(DataError, match=r"^row 41 \(line 47\) has 2 values, but the table has 3 columns"):
        made(path, tmp_path, label="y")


def test_sparse_arff(tmp_path: Path):
    path = tmp_path / "t.arff"
    rows = "{0 1.5, 1 b}\n{}\n{1 b}\n{0 2}\n" * 10
    path.write_text(f"@relation t\n@attribute x numeric\n@attribute label {{a,b}}\n@data\n{rows}")
    dataset = made(path, tmp_path, scale="none")
    assert dataset.class_names == ("a", "b")
    assert sorted({float(v) for v in dataset.arrays("train")[0][:, 0]}) == [0.0, 1.5, 2.0]


def test_arrays_side_by_side(tmp_path: Path):
    features = np.arange(80.0).reshape(40, 2)
    np.savez(tmp_path / "t.npz", features=features, labels=np.arange(40) % 2)
    dataset = made(tmp_path / "t.npz", tmp_path, label="labels")
    assert dataset.feature_names == ("features_1", "features_2")
    np.savez(tmp_path / "u.npz", features=features, labels=np.arange(39) % 2)
    with pytest.raises(DataError, match=r"as many rows, got 40 of 'features' and 39 of 'labels'"):
        made(tmp_path / "u.npz", tmp_path, label="labels")


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.orc", "t.xlsx", "t.npz", "t.h5", "t.sqlite"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    WRITERS[name](table(), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        made(path, tmp_path)
    assert not list((tmp_path / "datasets").iterdir())


def test_a_remote_file(expected: Dataset, tmp_path: Path):
    import fsspec

    table().to_parquet(tmp_path / "t.parquet")
    with fsspec.open("memory://shop/t.parquet", "wb") as file:
        file.write((tmp_path / "t.parquet").read_bytes())
    same(made("memory://shop/t.parquet", tmp_path), expected)
    same(made("memory://shop/*.parquet", tmp_path), expected)


def test_no_rows_and_wrong_things(tmp_path: Path):
    table().iloc[:0].to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="a table needs rows, got none"):
        made(tmp_path / "t.parquet", tmp_path)
    with pytest.raises(InputError, match="must have as many rows, got 300 and 2"):
        made((table().drop(columns="label"), ["a", "b"]), tmp_path)
    with pytest.raises(InputError, match="a table must be a path, a URL, a pandas"):
        made(3, tmp_path)


def test_dictionaries_of_parts_are_one(tmp_path: Path):
    one = pa.table({"x": pa.array(["a", "b"] * 20).dictionary_encode(), "label": ["u", "v"] * 20})
    two = pa.table({"x": pa.array(["c", "b"] * 20).dictionary_encode(), "label": ["u", "v"] * 20})
    pq.write_table(pa.concat_tables([one, two]), tmp_path / "t.parquet", row_group_size=30)
    features = made(tmp_path / "t.parquet", tmp_path).feature_names
    assert features == made(pa.concat_tables([one, two]), tmp_path).feature_names == ("x=a", "x=b", "x=c")


@pytest.mark.parametrize("name", WRITERS)
def test_new_rows_of_every_format_are_encoded_alike(name: str, expected: Dataset, tmp_path: Path):
    path = tmp_path / name
    WRITERS[name](table(), path)
    rows = read_rows(Source(url=str(path)))
    plain = read_rows(Source(url=str(tmp_path / "expected.csv")))
    np.testing.assert_array_equal(expected.transform(rows), expected.transform(plain))
    assert rows["label"].tolist() == plain["label"].tolist()


@pytest.mark.parametrize("name", [n for n in FRAMES if "pair" not in n])
def test_new_rows_of_every_frame_are_encoded_alike(name: str, expected: Dataset, tmp_path: Path):
    plain = read_rows(Source(url=str(tmp_path / "expected.csv")))
    rows = rows_of(FRAMES[name](table()))
    np.testing.assert_array_equal(expected.transform(rows), expected.transform(plain))


def test_a_label_that_the_table_names(expected: Dataset, tmp_path: Path):
    write_keel(table(), tmp_path / "t.dat")
    same(dnnflow.ingest(tmp_path / "t.dat", out=tmp_path / "sets"), expected)
    same(dnnflow.ingest((table().drop(columns="label"), table()["label"]), out=tmp_path / "sets"), expected)
    with pytest.raises(InputError, match="label must name the column to predict, got none"):
        dnnflow.ingest(tmp_path / "expected.csv", out=tmp_path / "sets")
    with pytest.raises(InputError, match="a table in memory is not read, got delimiter for it"):
        dnnflow.ingest(table(), "label", out=tmp_path / "sets", delimiter=";")


def test_a_delimiter_says_that_a_file_is_text(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("@relation;label\n" + "1;a\n2;b\n" * 20)
    assert made(Source(url=str(path), delimiter=";"), tmp_path).feature_names == ("@relation",)


def test_options_that_have_no_meaning(tmp_path: Path):
    table().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="query is for databases, got one for a table of kind csv"):
        made(Source(url=str(tmp_path / "t.csv"), query="select 1"), tmp_path)
    with pytest.raises(DataError, match="sheet is for workbooks, got one for a table of kind csv"):
        made(Source(url=str(tmp_path / "t.csv"), sheet="x"), tmp_path)
    with pytest.raises(DataError, match="of kind parquet must be readable"):
        made(Source(url=str(tmp_path / "t.csv"), format="parquet"), tmp_path)


def test_names_twice_and_files_that_are_not_there(tmp_path: Path):
    frame = pd.DataFrame([[1.0, 2.0, "a"], [3.0, 4.0, "b"]] * 20, columns=["x", "x", "label"])
    with pytest.raises(DataError, match="column names must differ, got 'x' twice"):
        made(frame, tmp_path)
    for url in (f"sqlite:///{tmp_path}/none.db", f"{tmp_path}/none.parquet", f"{tmp_path}/none*.parquet"):
        with pytest.raises(DataError, match=r"there is no file|must hold at least one table"):
            made(Source(url=url), tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_every_type_has_a_digest():
    values: dict[pa.DataType, list[Any]] = {
        pa.float32(): [1, None], pa.int8(): [1, None], pa.uint64(): [1, None], pa.decimal128(9, 2): [1, None],
        pa.large_string(): ["a", None], pa.string_view(): ["a", None], pa.binary(): [b"a", None],
        pa.date32(): [1, None], pa.timestamp("ns", "UTC"): [1, None], pa.duration("s"): [1, None],
        pa.bool_(): [True, None], pa.list_(pa.int32()): [[1], None],
    }  # fmt: skip
    columns = {str(kind): pa.array(given, kind) for kind, given in values.items()}
    swapped = {str(kind): pa.array(given[::-1], kind) for kind, given in values.items()}
    tables = [columns, *({**columns, name: array} for name, array in swapped.items())]
    assert len({HeldTable(pa.table(one)).digest for one in tables}) == len(tables)
    assert HeldTable(pa.table(columns)).digest == HeldTable(pa.table(columns)).digest


@pytest.mark.parametrize("kind", [pa.float32(), pa.int8(), pa.uint64(), pa.decimal128(9, 2), pa.float16()])
def test_every_type_of_number_is_a_number(kind: Any, tmp_path: Path):
    values = np.arange(40) % 7 / (1 if pa.types.is_integer(kind) else 2)
    given = pa.array(values.astype(np.float16), kind) if kind == pa.float16() else pa.array(values).cast(kind)
    features, _ = made(pa.table({"x": given, "label": ["a", "b"] * 20}), tmp_path, scale="none").arrays(
        "train"
    )
    assert set(features[:, 0].tolist()) <= set(values.tolist())
