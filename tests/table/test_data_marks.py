"""A column may divide the rows: groups stay together, the latest are for the test, or the table says it."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dnnflow.table.store.column_blocks as table_module
from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import Part
from dnnflow.table.store.chunks import SPLITS, Split
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest
from dnnflow.table.text import csv_reader

ROWS = 600
WHEN = [f"20{24 - i % 7:02}-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(ROWS)]
SPLIT = [("Train", "TEST", " val", "training", "dev")[i % 5] for i in range(ROWS)]
Make = Callable[..., Dataset]


def group_of(row: Any) -> Any:
    return row * row % 41


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a dataset, with its rows' numbers as the first feature, of columns that divide the rows."""

    def made(*, block_bytes: int = 2000, where: str = "datasets", **fields) -> Dataset:
        lines = (
            f"{i},site {group_of(i)},{WHEN[i]},{SPLIT[i]},{'' if i % 50 == 7 else 'xyz'[i % 3]}\n"
            for i in range(ROWS)
        )
        (tmp_path / "table.csv").write_text("row,site,day,part,label\n" + "".join(lines))
        recipe = Recipe(label="label", scale="none", drop=("site", "day", "part"), **fields)
        return ingest(
            Source(url=str(tmp_path / "table.csv")), recipe, tmp_path / where, block_bytes=block_bytes
        )

    return made


def rows_of(dataset: Dataset, split: Split, features: int = 1) -> np.ndarray:
    assert dataset.feature_names[0] == "row"
    assert dataset.n_features == features
    return dataset.arrays(split)[0][:, 0].astype(int)


def refusal(tmp_path: Path, content: str, **fields) -> str:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(DataError) as refused:
        ingest(
            Source(url=str(tmp_path / "table.csv")),
            Recipe(label="label", **fields),
            tmp_path / "datasets",
            block_bytes=64,
        )
    assert not list((tmp_path / "datasets").iterdir())
    return str(refused.value)


def test_a_group_is_in_one_split_and_in_one_part(make: Make):
    dataset = make(groups="site")
    train, test = rows_of(dataset, "train"), rows_of(dataset, "test")
    assert not set(group_of(train)) & set(group_of(test))
    assert len(test) == pytest.approx(0.2 * (len(test) + len(train)), abs=20)
    for part in (Part(), Part(folds=3, fold=2), Part(folds=4, fold=1, repeat=2)):
        fit, held = dataset.part(part)
        assert not set(group_of(train[fit])) & set(group_of(train[held]))
        assert sorted(np.concatenate([fit, held])) == list(range(len(train)))


def test_another_seed_chooses_other_groups(make: Make):
    chosen = {tuple(rows_of(make(groups="site", split_seed=seed), "test")) for seed in range(5)}
    assert len(chosen) == 5


def test_the_test_rows_are_the_latest(make: Make):
    dataset = make(time="day", test_fraction=0.3)
    days = np.array(WHEN, dtype="datetime64[D]")
    train, test = (days[rows_of(dataset, split)] for split in SPLITS)
    assert train.max() < test.min()
    assert len(test) == pytest.approx(0.3 * 588, abs=10)
    fit, held = dataset.part(Part(holdout=0.2))
    assert train[fit].max() < train[held].min()
    fit, held = dataset.part(Part(folds=3, fold=0))
    assert train[fit].max() < train[held].min()
    assert len(fit) + len(held) < len(train)


def test_a_column_may_say_the_split(make: Make):
    dataset = make(split="part")
    train, test = rows_of(dataset, "train"), rows_of(dataset, "test")
    labelled = [i for i in range(ROWS) if i % 50 != 7]
    assert test.tolist() == [i for i in labelled if i % 5 == 1]
    assert train.tolist() == [i for i in labelled if i % 5 != 1]
    fit, held = dataset.part(Part(holdout=0.01))
    assert (set(train[fit] % 5), set(train[held] % 5)) == ({0, 3}, {2, 4})


def test_a_split_without_validation_rows_is_held_out_by_chance(tmp_path: Path):
    rows = "".join(f"{i},{('train', 'test')[i % 10 == 0]},{i % 3}\n" for i in range(100))
    (tmp_path / "a.csv").write_text(f"x,part,label\n{rows}")
    dataset = ingest(Source(url=str(tmp_path / "a.csv")), Recipe(label="label", split="part"), tmp_path / "d")
    assert dataset.manifest["marks"] == {}
    assert len(dataset.part(Part(holdout=0.2))[1]) == 18


@pytest.mark.parametrize("fields", [{"groups": "site"}, {"time": "day"}, {"split": "part"}])
def test_neither_blocks_nor_parsers_nor_memory_matter(
    make: Make, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
):
    made = [make(where="whole", block_bytes=1 << 20, **fields), make(where="cut", block_bytes=300, **fields)]
    monkeypatch.setattr(csv_reader, "QUICK_BYTES", 0)
    made.append(make(where="quick", block_bytes=700, **fields))
    monkeypatch.setattr(table_module, "HELD_BYTES", 0)
    made.append(make(where="disk", block_bytes=500, **fields))
    assert all(one.manifest == made[0].manifest for one in made)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), times=st.lists(st.integers(-50, 50), min_size=10, max_size=60))
def test_any_groups_and_any_times(tmp_path: Path, data: st.DataObject, times: list[int]):
    groups = data.draw(st.lists(st.integers(0, 7), min_size=len(times), max_size=len(times)))
    lines = "".join(f"{i},{g},{t},{i % 2}\n" for i, (g, t) in enumerate(zip(groups, times, strict=True)))
    (tmp_path / "a.csv").write_text(f"row,g,t,label\n{lines}")
    for field, name, values in (("groups", "g", groups), ("time", "t", times)):
        recipe = Recipe.from_dict({"label": "label", "scale": "none", field: name})
        made: list[Any] = []
        for block_bytes in (40, 1 << 20):
            shutil.rmtree(tmp_path / "sets", ignore_errors=True)
            try:
                dataset = ingest(
                    Source(url=str(tmp_path / "a.csv")), recipe, tmp_path / "sets", block_bytes=block_bytes
                )
            except DataError as error:
                made.append(str(error))
                continue
            made.append(dataset.manifest)
            train, test = (set(np.array(values)[rows_of(dataset, s, 2)]) for s in SPLITS)
            assert not train & test
            if field == "time":
                assert max(train) < min(test)
        assert made[0] == made[1]


TIMES = {
    "number": [str(v) for v in (-1.5, 0, 2, 1e3, 1e10)],
    "date": ["1969-12-31", "2024-01-01", "2024-01-01 00:00:01", "2024-01-01T00:00:01.5", "2024-02-01"],
    "instant": [
        "0001-01-01T00:00+02:00",
        "2024-01-01T03:00+02:00",
        "2024-01-01T02:00Z",
        "2024-01-01 01:30-01:00",
        "2024-01-02T00:00Z",
    ],
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_ordered_as_they_pass(tmp_path: Path, kind: str):
    for cut in range(1, len(TIMES[kind])):
        lines = [f"{i},{t},{label}\n" for i, t in enumerate(TIMES[kind]) for label in "ab"]
        (tmp_path / "a.csv").write_text("x,t,label\n" + "".join(lines[::-1]))
        recipe = Recipe(label="label", time="t", test_fraction=1 - cut / len(TIMES[kind]), scale="none")
        dataset = ingest(Source(url=str(tmp_path / "a.csv")), recipe, tmp_path / "sets")
        found = [set(dataset.arrays(s)[0][:, 0].astype(int)) for s in SPLITS]
        assert found == [set(range(cut)), set(range(cut, len(TIMES[kind])))]
        assert dataset.manifest["marks"]["times"][0] == ("float64" if kind == "number" else "int64")


PARTS = ("train", "test")
GOOD = "".join(f"{i},{i % 4},2024-01-{i % 20 + 1:02},{PARTS[i % 2]},{'ab'[i % 3 == 0]}\n" for i in range(40))
HEAD = "a,g,t,s,label\n"
DATE = "a time must be written as ISO 8601 says, without a zone like the first, e.g. 2024-05-31T18:00"


@pytest.mark.parametrize(
    ("fields", "row", "message"),
    [
        (
            {"groups": "g"},
            "7,NA,2024-01-01,test,a",
            "column 'g' of groups: every row with a label needs a value, got none",
        ),
        ({"time": "t"}, "7,1,,test,a", "column 't' of time: every row with a label needs a value, got none"),
        (
            {"time": "t"},
            "7,1,31.12.2024,test,a",
            f"column 't' of time: {DATE}, got '31.12.2024'",
        ),
        (
            {"time": "t"},
            "7,1,2024-01-01T00:00Z,test,a",
            f"column 't' of time: {DATE}, got '2024-01-01T00:00Z'",
        ),
        (
            {"time": "g"},
            "7,late,2024-01-01,test,a",
            "column 'g' of time: a time must be a finite number where most are numbers, got 'late'",
        ),
        (
            {"time": "g"},
            "7,inf,2024-01-01,test,a",
            "column 'g' of time: a time must be a finite number where most are numbers, got 'inf'",
        ),
        (
            {"split": "s"},
            "7,1,2024-01-01,tset,a",
            "column 's' of split: a value must be train, test or validation, got 'tset'",
        ),
        (
            {"split": "s"},
            "7,1,2024-01-01,?,a",
            "column 's' of split: every row with a label needs a value, got none",
        ),
    ],
)
def test_a_value_that_places_no_row(tmp_path: Path, fields: dict[str, str], row: str, message: str):
    ((field, _),) = fields.items()
    assert refusal(tmp_path, f"{HEAD}{GOOD}{row}\n{GOOD}", **fields) == (
        f"row 41 (line 42), {message}; correct it, remove the row, or leave {field} out"
    )


def test_rows_without_a_label_need_no_place(tmp_path: Path):
    (tmp_path / "a.csv").write_text(f"{HEAD}{GOOD}7,,,,\n")
    for fields in ({"groups": "g"}, {"time": "t"}, {"split": "s"}):
        recipe = Recipe.from_dict({"label": "label", **fields})
        assert ingest(Source(url=str(tmp_path / "a.csv")), recipe, tmp_path / "sets").dropped_rows == 1


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (HEAD + GOOD, {"groups": "h"}, "groups must name a column of the table, got 'h'; there are: "),
        (HEAD + GOOD, {"time": "T2"}, "time must name a column of the table, got 'T2'; nearest: 't'"),
        (
            "a,g,label\n1,x,a\n2,x,b\n",
            {"groups": "g"},
            "a split by groups needs at least 2 groups, got 1; choose",
        ),
        (
            "a,g,label\n1,x,a\n2,y,b\n",
            {"groups": "g"},
            "each class must keep rows to train on, but each of the 2 groups has all rows of one; ",
        ),
        (
            "a,g,label\n1,5,a\n2,5,b\n",
            {"time": "g"},
            "a division by time into 2 parts needs at least 2 instants, got 1; choose",
        ),
        (
            "a,g,label\n1,5,a\n2,6,b\n",
            {"time": "g"},
            "each class needs rows to train on, got none of 'b' in column 'label', as time divides the",
        ),
        (
            "a,g,label\n1,train,a\n2,train,b\n",
            {"split": "g"},
            "column 'g' of split must have rows of train and of test, got none of test; mark",
        ),
        (
            "a,g,label\n1,train,a\n2,val,b\n3,test,b\n",
            {"split": "g"},
            "each class needs rows to train on, got none of 'b' in column 'label', as split divides the",
        ),
    ],
)
def test_rows_that_cannot_be_divided(tmp_path: Path, content: str, fields: dict[str, str], message: str):
    assert refusal(tmp_path, content, **fields).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": ""}, "groups must name a column, got an empty text; leave it out"),
        (
            {"groups": "a", "time": "b"},
            "only one of groups, time, split and test_source may divide the rows, got groups and",
        ),
        (
            {"split": "a", "test_fraction": 0.3},
            "test_fraction has no meaning beside split, got 0.3; leave one of them out",
        ),
        ({"test_source": ""}, "test_source must name a file, got an empty text; leave it out"),
        ({"test_source": "b.csv", "groups": "b"}, "may divide the rows, got groups and test_source; keep"),
        ({"test_source": "b.csv", "test_fraction": 0.3}, "test_fraction has no meaning beside test_source"),
        ({"time": "y"}, "time must name another column than the label, got 'y'; leave it out"),
        ({"split": 3}, "split must be a text, got 3"),
    ],
)
def test_a_recipe_that_divides_in_no_sensible_way(fields: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        Recipe.from_dict({"label": "y"} | fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"groups": "site"}, "groups"), ({"time": "day"}, "times"), ({"split": "part"}, "validation")],
)
def test_what_is_kept_of_rows_is_sealed_as_they_are(
    make: Make, tmp_path: Path, fields: dict[str, str], name: str
):
    dataset = make(**fields)
    values = getattr(dataset.marks(), name)
    assert np.array_equal(zarr.open_array(dataset.path / "train" / name, mode="r")[:], values)
    assert len(values) == dataset.rows["train"]
    file = dataset.path / "train" / name / "c" / "0"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    opened = Dataset.open(dataset.path)
    for read in (opened.verify, opened.marks, lambda: opened.part(Part())):
        with pytest.raises(DataError, match=rf"train/{name}/c/0 is not \(its checksum differs\); delete"):
            read()
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"chunk train/{name}/c/0 is missing or cut short"):
        Dataset.open(dataset.path)


def test_the_marks_stay_what_they_are(make: Make):
    """A change here would split every dataset anew under the same id."""
    assert sorted(set(group_of(rows_of(make(groups="site"), "test")))) == [2, 21, 36, 39]


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., Dataset]:
    """Make a dataset of a table, a=0, 1, …, and of test rows as they are given."""

    def made(test: str, *, block_bytes: int = 100, where: str = "sets", **fields) -> Dataset:
        rows = "".join(f"{i},{i % 5},{'xy'[i % 2]}\n" for i in range(60))
        (tmp_path / "train.csv").write_text(f"a,b,label\n{rows}")
        (tmp_path / "test.csv").write_text(test)
        recipe = Recipe(label="label", test_source=str(tmp_path / "test.csv"), scale="none", **fields)
        source = Source(url=str(tmp_path / "train.csv"))
        return ingest(source, recipe, tmp_path / where, block_bytes=block_bytes)

    return made


TESTS = "".join(f"{'yx'[i % 2]},{i + 100},{i % 5}\n" for i in range(30))


def test_test_rows_of_a_second_table(two: Callable[..., Dataset]):
    dataset = two(f"label,a,b\n,7,7\n{TESTS}")
    assert rows_of_a(dataset, "train") == list(range(60))
    assert rows_of_a(dataset, "test") == list(range(100, 130))
    assert dataset.arrays("test")[1].tolist() == [1, 0] * 15
    assert dataset.class_counts == {"train": (30, 30), "test": (15, 15)}
    assert dataset.dropped_rows == 1
    assert len(dataset.part(Part(holdout=0.5))[1]) == 30
    whole = two(f"label,a,b\n,7,7\n{TESTS}", block_bytes=1 << 20, where="whole")
    assert whole.manifest == dataset.manifest


def rows_of_a(dataset: Dataset, split: Split) -> list[int]:
    assert dataset.feature_names[0] == "a"
    return dataset.arrays(split)[0][:, 0].astype(int).tolist()


def test_the_text_of_the_test_rows_is_part_of_the_identity_but_not_its_place(
    two: Callable[..., Dataset], tmp_path: Path
):
    first = two(f"label,a,b\n{TESTS}")
    assert two(f"label,a,b\n{TESTS}").id == first.id
    assert two(f"label,a,b\n{TESTS[:-8]}").id != first.id
    assert "test.csv" not in (first.path / "manifest.json").read_text()
    (tmp_path / "moved.csv.gz").write_bytes(gzip.compress(f"label,a,b\n{TESTS}".encode()))
    recipe = Recipe(label="label", test_source=str(tmp_path / "moved.csv.gz"), scale="none")
    assert ingest(Source(url=str(tmp_path / "train.csv")), recipe, tmp_path / "sets").id == first.id


def test_a_value_of_the_test_rows_may_make_a_column_text(two: Callable[..., Dataset]):
    with pytest.raises(
        DataError, match=r"row 31 \(line 32\) of test_source, column 'b': 'red' is not a number"
    ):
        two(f"label,a,b\n{TESTS}x,1,red\n")
    dataset = two(f"label,a,b\n{TESTS}x,1,red\n", text_columns=("b",))
    assert dataset.feature_names == ("a", *(f"b={i}" for i in range(5)))
    assert not dataset.arrays("test")[0][-1, 1:].any()


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "label,a,c\nx,1,2\n",
            "test_source must have the columns of the table, in any order: "
            "'b', 'a', 'label'; got 'c', 'label', 'a'; give it the same header",
        ),
        (
            f"label,a,b\n{TESTS}z,1,2\n",
            "row 31 (line 32) of test_source, column 'label': "
            "a label of test_source must be a class of the training rows, got 'z'; "
            "correct it, or remove the row",
        ),
        (
            f"label,a,b\n{TESTS}z,1\n",
            "row 31 (line 32) of test_source has 2 values, but the table has 3 columns; "
            "fix the row, or check delimiter and quote",
        ),
        ("label,a,b\n,1,2\n", "test_source needs rows with a label, got none; give a table of labelled rows"),
    ],
)
def test_test_rows_that_do_not_fit(two: Callable[..., Dataset], tmp_path: Path, test: str, message: str):
    with pytest.raises(DataError) as refused:
        two(test)
    assert str(refused.value) == message
    assert not list((tmp_path / "sets").iterdir())


def test_the_same_table_twice_tests_nothing(two: Callable[..., Dataset], tmp_path: Path):
    with pytest.raises(
        DataError, match=r"test_source must be another table, got the text of .*train.csv; leave"
    ):
        two("a,b,label\n" + "".join(f"{i},{i % 5},{'xy'[i % 2]}\n" for i in range(60)))


def test_a_second_table_that_is_not_there(two: Callable[..., Dataset], tmp_path: Path):
    two(f"label,a,b\n{TESTS}")
    recipe = Recipe(label="label", test_source=str(tmp_path / "none.csv"))
    with pytest.raises(
        DataError, match=r"a table must exist, but there is no file .*none.csv; check the path"
    ):
        ingest(Source(url=str(tmp_path / "train.csv")), recipe, tmp_path / "sets")
