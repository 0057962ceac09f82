"""However a table is written, the same values come out of it."""

import gzip
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError
from dnnflow.events import RowsRead
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text.csv_reader import read_rows
from dnnflow.table.text.source_text import open_text

ROWS = [(i, i * 0.25 - 3, ["Zürich", "Genève", 'a "b", c'][i % 3], i % 2) for i in range(60)]
HEADER = ("count", "size", "city", "label")


def written(delimiter: str = ",", newline: str = "\n", quote: str = '"', header: bool = True) -> str:
    def quoted(value) -> str:
        return (
            f"{quote}{str(value).replace(quote, quote * 2)}{quote}" if isinstance(value, str) else str(value)
        )

    rows = [HEADER, *ROWS] if header else ROWS
    return "".join(delimiter.join(quoted(v) for v in row) + newline for row in rows)


def made(tmp_path: Path, content: bytes, name: str = "table.csv", label: str = "label", **reading) -> Dataset:
    (tmp_path / name).write_bytes(content)
    return ingest(Source(url=str(tmp_path / name), **reading), Recipe(label=label), tmp_path / "datasets")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return made(tmp_path_factory.mktemp("plain"), written().encode())


def same(a: Dataset, b: Dataset) -> bool:
    return all(
        np.array_equal(x, y)
        for split in ("train", "test")
        for x, y in zip(a.arrays(split), b.arrays(split), strict=True)
    )


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [(e, said) for e in ("utf-8-sig", "utf-16", "utf-32", "latin-1") for said in (True, False)]
    + [("utf-16-le", True), ("cp1252", True)],
)
def test_encodings_are_detected_or_said(plain: Dataset, tmp_path: Path, encoding: str, said: bool):
    dataset = made(tmp_path, written().encode(encoding), encoding=encoding if said else None)
    assert dataset.id == plain.id
    assert same(dataset, plain)
    assert "city=Zürich" in dataset.feature_names


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compression_is_seen_whatever_the_name(plain: Dataset, tmp_path: Path, compress):
    dataset = made(tmp_path, compress(written().encode()), "table.data")
    assert dataset.id == plain.id


def test_latin_1_far_behind_the_beginning(tmp_path: Path):
    content = written() + "".join(f"{i},0,city,{i % 2}\n" for i in range(400_000)) + "1,1,Zürich,1\n"
    dataset = made(tmp_path, content.encode("latin-1"))
    assert "city=Zürich" in dataset.feature_names
    assert dataset.rows["train"] + dataset.rows["test"] == 400_061


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters_are_found(plain: Dataset, tmp_path: Path, delimiter: str, newline: str):
    dataset = made(tmp_path, written(delimiter, newline).encode())
    assert same(dataset, plain)


def test_any_delimiter_and_quote_can_be_said(plain: Dataset, tmp_path: Path):
    dataset = made(tmp_path, written("^", quote="'").encode(), delimiter="^", quote="'")
    assert same(dataset, plain)


def test_without_header_columns_are_numbered(plain: Dataset, tmp_path: Path):
    dataset = made(tmp_path, written(header=False).encode(), header=False, label="column_4")
    assert same(dataset, plain)
    assert dataset.feature_names[:2] == ("column_1", "column_2")


def test_a_file_without_quoting(tmp_path: Path):
    content = "".join(f'{i},5" pipe,{i % 2}\n' for i in range(10))
    dataset = made(tmp_path, f"a,b,label\n{content}".encode(), quote="")
    assert dataset.feature_names == ("a", 'b=5" pipe')


def test_no_newline_at_the_end(plain: Dataset, tmp_path: Path):
    assert same(made(tmp_path, written().rstrip("\n").encode()), plain)


def test_a_url_that_fsspec_knows(plain: Dataset, tmp_path: Path):
    with fsspec.open("memory://tables/a.csv.gz", "wb") as file:
        file.write(gzip.compress(written().encode()))
    dataset = ingest(Source(url="memory://tables/a.csv.gz"), Recipe(label="label"), tmp_path)
    assert dataset.id == plain.id
    assert [p.name for p in tmp_path.iterdir()] == [dataset.id]


def test_a_copy_is_made_for_readers_elsewhere(tmp_path: Path):
    (tmp_path / "table.csv").write_text("\ufeff" + written(), encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    source = Source(url=str(tmp_path / "table.csv"))
    here, there = open_text(source, tmp_path), open_text(source, tmp_path / "scratch", copy=True)
    assert there.path.parent == tmp_path / "scratch"
    assert there.digest == here.digest
    assert there.read(there.start, there.end) == here.read(here.start, here.end) == written().encode()


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path):
    (tmp_path / "table.csv").write_text(written())
    text = open_text(Source(url=str(tmp_path / "table.csv")), tmp_path)
    text.check_unchanged()
    (tmp_path / "table.csv").write_text(written() + "1,2,x,1\n")
    with pytest.raises(DataError, match=r"a table must not change while it is read, but table\.csv did"):
        text.check_unchanged()


def test_the_same_text_and_recipe_is_found_again(tmp_path: Path):
    events: list = []
    first = made(tmp_path, written().encode())
    (tmp_path / "elsewhere.csv").write_bytes(written().encode())
    source = Source(url=str(tmp_path / "elsewhere.csv"))
    again = ingest(source, Recipe(label="label"), tmp_path / "datasets", listener=events.append)
    other = ingest(source, Recipe(label="label", split_seed=1), tmp_path / "datasets", listener=events.append)
    assert again.id == first.id != other.id
    assert [e.rows for e in events if isinstance(e, RowsRead)] == [60]  # of the other recipe only


@pytest.mark.parametrize("block_bytes", [1, 97, 1000])
@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_and_workers_change_nothing(plain: Dataset, tmp_path: Path, block_bytes: int, workers: int):
    (tmp_path / "table.csv").write_text(written())
    source = Source(url=str(tmp_path / "table.csv"))
    dataset = ingest(
        source, Recipe(label="label"), tmp_path / "datasets", workers=workers, block_bytes=block_bytes
    )
    assert dataset.id == plain.id
    assert same(dataset, plain)
    assert dataset.manifest == plain.manifest


def test_types_are_those_of_the_whole_column(tmp_path: Path):
    """Numbers in the first blocks, text in most others: the column is text, and `01` is not `1`."""
    values = ["1", "01"] * 30 + ["x", "y"] * 60
    content = "a,code,label\n" + "".join(f"{i},{v},{i % 2}\n" for i, v in enumerate(values))
    (tmp_path / "table.csv").write_text(content)
    source = Source(url=str(tmp_path / "table.csv"))
    dataset = ingest(source, Recipe(label="label"), tmp_path / "datasets", block_bytes=128)
    assert dataset.feature_names == ("a", "code=01", "code=1", "code=x", "code=y")


def test_a_column_missing_in_the_first_blocks_may_be_anything(tmp_path: Path):
    rows = [(i, "" if i < 50 else "red", "" if i < 50 else 2, "" if i < 50 else "Yes") for i in range(120)]
    content = "a,color,n,flag,label\n" + "".join(f"{a},{b},{c},{d},{a % 2}\n" for a, b, c, d in rows)
    (tmp_path / "table.csv").write_text(content)
    dataset = ingest(
        Source(url=str(tmp_path / "table.csv")), Recipe(label="label"), tmp_path, block_bytes=128
    )
    assert dataset.feature_names == ("a", "color=red", "n", "flag=yes")
    assert [str(c.kind) for c in dataset.schema] == ["number", "text", "number", "boolean"]


def test_missing_markers_and_blanks_are_understood(tmp_path: Path):
    marks = ["", "NA", "n/a", "NaN", "NULL", "None", "?", " na ", "-99", '""']
    content = "a,b,label\n" + "".join(f"{m},{m},{i % 2}\n1, red ,1\n2,red,0\n" for i, m in enumerate(marks))
    (tmp_path / "table.csv").write_text(content)
    recipe = Recipe(label="label", missing_values=("-99",))
    dataset = ingest(Source(url=str(tmp_path / "table.csv")), recipe, tmp_path / "datasets")
    assert dataset.missing_share == pytest.approx({"a": 1 / 3, "b": 1 / 3})
    assert dataset.feature_names == ("a", "b=red")


def test_rows_without_a_label_are_dropped_and_counted(tmp_path: Path):
    content = "a,label\n" + "".join(f"{i},{'' if i % 5 == 0 else i % 2}\n" for i in range(50))
    dataset = made(tmp_path, content.encode())
    assert dataset.dropped_rows == 10
    assert sum(dataset.rows.values()) == 40
    kept = np.concatenate([dataset.inverse(dataset.arrays(s)[0])["a"] for s in ("train", "test")])
    assert sorted(kept.round().astype(int)) == [i for i in range(50) if i % 5]


def test_whole_numbers_of_a_label_are_classes_by_value(tmp_path: Path):
    content = "a,label\n" + "".join(f"{i},{v}\n" for i, v in enumerate(["10", "2", "2.0", " 10.0", "2."] * 4))
    assert made(tmp_path, content.encode()).class_names == ("2", "10")


def test_rows_to_predict_are_read_as_they_stand(tmp_path: Path):
    (tmp_path / "rows.csv").write_text('a;b\n1;"x;\ny"\n;NA\n')
    frame = read_rows(Source(url=str(tmp_path / "rows.csv")))
    assert frame.to_dict("list") == {"a": ["1", ""], "b": ["x;\ny", "NA"]}


def test_ragged_rows_to_predict_are_refused(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("a;b\n1;2\n3\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\) has 1 values, but the table has 2 columns"):
        read_rows(Source(url=str(tmp_path / "rows.csv")))


cells = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from('\n",;'), max_size=6
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=12))
def test_what_a_csv_writer_writes_is_read(tmp_path: Path, rows: list[tuple[str, str, str]]):
    import csv

    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    frame = read_rows(Source(url=str(tmp_path / "rows.csv"), delimiter=","))
    assert [tuple(row) for row in frame.itertuples(index=False)] == rows
