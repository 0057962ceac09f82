"""Labels become what a network is trained on and come back; the task is what they, or the recipe, say."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import dnnflow.table.store.ingest as ingest_module
from dnnflow.errors import DataError
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.columns.split import Part
from dnnflow.table.columns.targets import Targets
from dnnflow.table.rows.array_source import DatasetSource
from dnnflow.table.rows.source import Chunk
from dnnflow.table.store import chunks
from dnnflow.table.store.chunks import SPLITS, Split
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest

ROWS = 300
BLOCK_BYTES = 700
Made = Callable[..., Dataset]
Table = Mapping[str, Sequence[Any]]


def price(row: Any) -> Any:
    return row * 37 % 101 / 8 - 4


def is_large(row: Any) -> Any:
    return row % 7 < 3


TABLE: Table = {
    "price": [price(i) for i in range(ROWS)],
    "rent": ["" if i % 60 == 7 else price(i) * 100 + 0.25 for i in range(ROWS)],
    "large": [("TRUE" if is_large(i) else "false") for i in range(ROWS)],
    "near": [("1.0" if i % 2 else "0") for i in range(ROWS)],
    "far": [("?" if i % 50 == 3 else "ab"[i % 3 == 0]) for i in range(ROWS)],
}


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """Make a dataset of some columns of a table; its feature is the number of the row."""

    def made(label: str | list[str], table: Table = TABLE, *, block_bytes: int = BLOCK_BYTES,
             where: str = "datasets", **fields: Any) -> Dataset:  # fmt: skip
        wanted = [label] if isinstance(label, str) else label
        columns = {"row": range(len(table[wanted[0]])), **{n: v for n, v in table.items() if n in wanted}}
        columns |= {n: table[n] for n in (fields.get("groups"), fields.get("time")) if n}
        lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
        path = tmp_path / "table.csv"
        path.write_text("\n".join([",".join(columns), *lines, ""]))
        recipe = Recipe.from_dict({"label": label, "scale": "none", **fields})
        return ingest(Source(url=str(path)), recipe, tmp_path / where, block_bytes=block_bytes)

    return made


def rows_of(dataset: Dataset) -> dict[Split, np.ndarray]:
    return {split: dataset.arrays(split)[0][:, 0].astype(int) for split in SPLITS}


# ---- the task that labels say


LABELS = {
    "text": (["x", "y", "z"] * 30, Task.CLASSIFICATION),
    "booleans": (["true", "false"] * 30, Task.CLASSIFICATION),
    "few fractions": ([i % 20 / 8 for i in range(80)], Task.CLASSIFICATION),
    "fractions": ([i % 21 / 8 for i in range(84)], Task.REGRESSION),
    "one fraction": ([*range(40), 0.5] * 3, Task.REGRESSION),
    "many fractions": ([i / 8 for i in range(3000)], Task.REGRESSION),
    "a fraction late": ([*range(1000, 3000), 9.5], Task.REGRESSION),
    "few whole numbers": ([i % 20 for i in range(60)], Task.CLASSIFICATION),
    "whole numbers that return": ([i % 21 for i in range(420)], Task.CLASSIFICATION),
    "whole numbers written as fractions": ([f"{i % 21}.0" for i in range(420)], Task.CLASSIFICATION),
    "numbers and text": (["a", *range(60)] * 2, Task.CLASSIFICATION),
}


@pytest.mark.parametrize("name", LABELS)
def test_one_label_says_its_task(make: Made, name: str):
    values, task = LABELS[name]
    assert make("y", {"y": values}).task is task


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["large", "near"], Task.MULTILABEL),
        (["large", "far"], Task.MULTILABEL),
        (["price", "near"], Task.REGRESSION),
        (["price", "rent"], Task.REGRESSION),
    ],
)
def test_several_labels_say_their_task(make: Made, labels: list[str], task: Task):
    dataset = make(labels)
    assert (dataset.task, dataset.n_outputs, dataset.n_classes, dataset.class_names) == (task, 2, 0, ())


def test_several_labels_of_no_task_are_refused(make: Made):
    with pytest.raises(DataError) as refused:
        make(["large", "price"])
    assert str(refused.value) == (
        "several labels must have two different values each, or all be numbers, got 101 different values in "
        "column 'price' and text in column 'large'; leave labels out"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [i % 21 for i in range(419)],
            "a label of 21 different whole numbers in 419 rows may be classes or amounts, got column 'y'; "
            "set task to classification or regression",
        ),
        (
            [i % 1001 for i in range(30_000)],
            "a label of more than 1000 different whole numbers may be amounts, or names such as ids, got "
            "column 'y'; set task to regression, or choose another label",
        ),
    ],
)
def test_whole_numbers_that_may_be_either_are_asked_about(make: Made, values: list[int], message: str):
    with pytest.raises(DataError) as asked:
        make("y", {"y": values}, block_bytes=1 << 16)
    assert str(asked.value) == message
    assert make("y", {"y": values}, task="regression", block_bytes=1 << 16).task is Task.REGRESSION
    if "classification" in message:
        assert make("y", {"y": values}, task="classification").n_classes == 21


def test_numbers_are_classes_if_the_recipe_says_so(make: Made):
    dataset = make("price", task="classification")
    assert dataset.n_classes == 101
    assert dataset.class_names[:2] == ("-4", "-3.875")
    assert dataset.labels("train").dtype == np.int32
    with pytest.raises(DataError, match="a label may have at most 1000 classes, got more in column 'y'"):
        make("y", {"y": [i % 1001 / 8 for i in range(3003)]}, task="classification")


@pytest.mark.parametrize("task", ["auto", "regression"])
@pytest.mark.parametrize(
    ("value", "words"),
    [("oops", "'oops' is not a number, as regression needs"), ("-inf", "numbers must be finite, got '-inf'")],
)
def test_a_target_that_is_no_number_is_named(make: Made, task: str, value: str, words: str):
    values = [*(i / 8 for i in range(1500)), value, "later"]
    with pytest.raises(DataError) as refused:
        make("y", {"y": values[: 1501 if value == "-inf" else 1502]}, task=task)
    assert str(refused.value) == (
        f"row 1501 (line 1502), column 'y': {words}; correct it, name it in missing_values, or set another "
        "task"
    )


def test_of_several_bad_targets_the_first_is_named(make: Made):
    table = {"a": [*range(80), "late"], "b": [*range(70), "early", *range(10)]}
    with pytest.raises(DataError, match=r"^row 71 \(line 72\), column 'b': 'early' is not a number"):
        make(["a", "b"], table, task="regression")


def test_a_third_value_of_a_label_is_named(make: Made):
    table = {"a": ["", *["yes", "NO", "no", "?"] * 30, "maybe", "never"], "b": [0, 1] * 61 + [0]}
    with pytest.raises(DataError) as refused:
        make(["a", "b"], table, task="multilabel")
    assert str(refused.value) == (
        "row 122 (line 123), column 'a': a label of multilabel has two values, got 'maybe' besides 'yes' and "
        "'no'; correct it, name it in missing_values, leave that label out, or set another task"
    )


def test_a_label_of_one_value_is_no_label_of_two(make: Made):
    table = {"a": [0] * 40, "b": [0, 1] * 20}
    with pytest.raises(DataError) as refused:
        make(["a", "b"], table, task="multilabel")
    assert str(refused.value) == (
        "a label of multilabel needs two different values, got one in column 'a'; leave that label out"
    )


@pytest.mark.parametrize("value", [5, 0.1])
def test_a_target_that_never_changes_is_refused(make: Made, value: float):
    with pytest.raises(DataError) as refused:
        make(["price", "y"], {"price": TABLE["price"], "y": [value] * ROWS}, task="regression")
    assert str(refused.value) == (
        f"a target must have different values in the training rows, got only {value} in column 'y'; choose "
        "another label, or other test rows"
    )


@pytest.mark.parametrize("values", [["-1.5e308", "1.5e308"] * 20, ["1e-200", "2e-200"] * 20])
def test_a_target_beyond_the_arithmetic_is_refused(make: Made, values: list[str]):
    with pytest.raises(DataError, match=r"numbers must fit the arithmetic, but column 'y' reaches from "):
        make("y", {"y": values}, task="regression")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": [1.5, "", 2], "b": ["", 2, 3]}, "needs at least 2 rows with a value in each of its labels"),
        ({"a": [1.5, "", ""], "b": ["", 2, 3]}, r"\(one to train, one to test\), got 0; add rows"),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"time": "when"}])
def test_too_few_rows_with_all_labels(make: Made, table: Table, message: str, fields: dict[str, str]):
    with pytest.raises(DataError, match=message):
        make(["a", "b"], {**table, "when": [1, 2, 3]}, task="regression", **fields)


# ---- what is stored


@pytest.mark.parametrize("chunk_bytes", [1 << 21, 4 * 64])
def test_targets_are_standardised_by_training_rows(
    make: Made, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
):
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", chunk_bytes)
    dataset = make(["price", "rent"])
    rows = rows_of(dataset)
    kept = [i for i in range(ROWS) if TABLE["rent"][i] != ""]
    assert sorted([*rows["train"], *rows["test"]]) == kept
    assert dataset.dropped_rows == ROWS - len(kept)
    assert dataset.rows == {"train": round(0.8 * len(kept)), "test": round(0.2 * len(kept))}
    raw = {split: np.stack([price(mine), price(mine) * 100 + 0.25], axis=1) for split, mine in rows.items()}
    mean, std = raw["train"].mean(axis=0), raw["train"].std(axis=0)
    assert dataset.targets.mean == pytest.approx(mean, rel=1e-12)
    assert dataset.targets.std == pytest.approx(std, rel=1e-12)
    for split in SPLITS:
        features, labels = dataset.arrays(split)
        assert (labels.dtype, labels.shape) == (np.dtype(np.float32), (len(features), 2))
        assert labels == pytest.approx((raw[split] - mean) / std, abs=1e-6)
        assert dataset.targets.decode(labels) == pytest.approx(raw[split], rel=1e-5, abs=1e-4)
        stored = zarr.open_array(dataset.path / split / "y", mode="r")
        assert np.array_equal(stored[:], labels)
        assert np.array_equal(Dataset.open(dataset.path).labels(split), labels)
        assert dataset.split_bytes(split) == features.nbytes + labels.nbytes
    dataset.verify()


def test_two_values_become_0_and_1(make: Made):
    dataset = make(["large", "near", "far"])
    rows = rows_of(dataset)
    assert not any(i % 50 == 3 for mine in rows.values() for i in mine)
    for split, mine in rows.items():
        labels = dataset.labels(split)
        assert labels.dtype == np.float32
        assert np.array_equal(labels, np.stack([is_large(mine), mine % 2, mine % 3 == 0], axis=1))
        names = dataset.targets.decode(labels)
        assert names[0].tolist() == [
            "true" if is_large(mine[0]) else "false", "01"[mine[0] % 2], "ab"[int(mine[0] % 3 == 0)]
        ]  # fmt: skip
    assert dataset.targets.decode(np.array([[0.4, 0.6, 0.5]])).tolist() == [["false", "1", "a"]]


@pytest.mark.parametrize("label", ["price", ["large", "near"]])
def test_blocks_of_rows_hold_their_labels(
    make: Made, monkeypatch: pytest.MonkeyPatch, label: str | list[str]
):
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 4 * 10)
    dataset = make(label)
    features, labels = dataset.arrays("train")
    by_row = dict(zip(features[:, 0].tolist(), labels.tolist(), strict=True))
    for blocks in (dataset.shuffled_blocks("train", epoch=1), dataset.batches("train", 32, epoch=1)):
        seen = [
            (row, mine) for x, y in blocks for row, mine in zip(x[:, 0].tolist(), y.tolist(), strict=True)
        ]
        assert len(seen) == len(by_row)
        assert dict(seen) == by_row


def test_a_damaged_label_is_noticed(make: Made):
    dataset = make(["price", "rent"])
    chunk = dataset.path / "train" / "y" / "c" / "0" / "0"
    chunk.write_bytes(bytes(1) + chunk.read_bytes()[1:-1] + b"\x7f")
    with pytest.raises(DataError, match=r"train/y/c/0/0 is not \(its checksum differs\)"):
        Dataset.open(dataset.path).labels("train")
    chunk.unlink()
    with pytest.raises(DataError, match="chunk train/y/c/0/0 is missing"):
        Dataset.open(dataset.path)


def test_chunks_of_many_targets_are_not_larger_than_others():
    targets = Targets(Task.REGRESSION, tuple(map(str, range(4096))))
    assert chunks.chunk_rows(10**6, 4, targets) == 128


def test_a_dataset_says_what_its_targets_are(make: Made):
    said = json.loads(json.dumps(make(["price", "rent"]).describe()))
    assert (said["label"], said["task"], said["class_names"]) == (["price", "rent"], "regression", [])
    rows = rows_of(make(["price", "rent"]))
    for split in SPLITS:
        values = price(rows[split])
        found = said["targets"][0][split]
        assert [found["min"], found["max"]] == [values.min(), values.max()]
        assert [found["mean"], found["std"]] == pytest.approx([values.mean(), values.std()])
    assert [one["name"] for one in said["targets"]] == ["price", "rent"]
    shares = make(["large", "near"]).describe()["targets"]
    assert shares[1]["train"]["mean"] == pytest.approx(make(["large", "near"]).labels("train")[:, 1].mean())
    assert make("large").describe() | {"task": "classification", "targets": []} == make("large").describe()


@pytest.mark.parametrize("label", ["price", ["price", "rent"], ["large", "near"], "large"])
@pytest.mark.parametrize("exact_rows", [10**6, 100])
def test_the_blocks_do_not_matter(
    make: Made, monkeypatch: pytest.MonkeyPatch, label: str | list[str], exact_rows: int
):
    monkeypatch.setattr(ingest_module, "EXACT_SPLIT_ROWS", exact_rows)
    one, many = make(label, block_bytes=1 << 20, where="one"), make(label, block_bytes=300, where="many")
    assert one.id == many.id
    for split in SPLITS:
        assert np.array_equal(one.arrays(split)[0], many.arrays(split)[0])
        assert one.labels(split) == pytest.approx(many.labels(split), abs=1e-6)


# ---- which rows are for the test and for validation


@pytest.mark.parametrize("label", ["price", ["large", "near"]])
def test_rows_are_divided_whatever_their_labels(make: Made, label: str | list[str]):
    dataset = make(label)
    assert dataset.rows == {"train": 240, "test": 60}
    assert dataset.class_counts == {"train": (240,), "test": (60,)}
    assert not np.array_equal(rows_of(dataset)["test"], rows_of(make(label, split_seed=1))["test"])
    fit, held = dataset.part(Part(holdout=0.25))
    assert (len(fit), len(held)) == (180, 60)
    folds = [dataset.part(Part(folds=5, fold=fold))[1] for fold in range(5)]
    assert sorted(np.concatenate(folds)) == list(range(240))
    assert {len(fold) for fold in folds} == {48}


def test_groups_and_times_divide_rows_of_targets(make: Made):
    table = {**TABLE, "site": [i * i % 41 for i in range(ROWS)], "day": [i // 2 for i in range(ROWS)]}
    rows = rows_of(make("price", table, groups="site"))
    sites = {split: {i * i % 41 for i in mine.tolist()} for split, mine in rows.items()}
    assert not sites["train"] & sites["test"]
    dataset = make("price", table, time="day")
    rows = rows_of(dataset)
    assert rows["test"].tolist() == list(range(240, 300))
    fit, held = dataset.part(Part(folds=3, fold=1))
    assert rows["train"][fit].max() < rows["train"][held].min()


def test_test_rows_of_a_table_of_their_own(make: Made, tmp_path: Path):
    other = tmp_path / "test.csv"
    other.write_text("rent,row,price\n7,1000,2.5\n,1001,3\n1e300,1002,-8\n")
    dataset = make(["price", "rent"], test_source=str(other))
    assert rows_of(dataset)["test"].tolist() == [1000, 1002]
    assert dataset.targets.decode(dataset.labels("test"))[0] == pytest.approx([2.5, 7])
    assert np.isfinite(dataset.labels("test")).all()
    for value, words in (("cheap", "'cheap'"), ("inf", "'inf'")):
        other.write_text(f"rent,row,price\n7,1000,2.5\n8,1001,{value}\n")
        with pytest.raises(DataError) as refused:
            make(["price", "rent"], test_source=str(other))
        assert str(refused.value) == (
            "row 2 (line 3) of test_source, column 'price': a label of test_source must be a finite number, "
            f"got {words}; correct it, or remove the row"
        )
    other.write_text("near,row,large\n1,1,true\n0,2,maybe\n")
    with pytest.raises(DataError, match="must be one of its two values in the training rows, got 'maybe'"):
        make(["large", "near"], test_source=str(other))


# ---- what is saved with a model


@pytest.mark.parametrize("label", ["price", ["price", "rent"], ["large", "near", "far"], "large"])
def test_targets_are_saved_and_read_back(make: Made, label: str | list[str]):
    dataset = make(label)
    saved = json.loads(json.dumps(dataset.preprocessing()))
    assert Preprocessing.from_dict(saved) == dataset.fitted
    assert ("targets" in saved) == (dataset.task is not Task.CLASSIFICATION)


def test_what_older_models_saved_is_read():
    older = {"columns": [], "label": "kind", "classes": {"names": ["a", "b"], "numeric": False},
             "missing_values": [], "clip": False}  # fmt: skip
    read = Preprocessing.from_dict(older)
    assert (read.targets.task, read.targets.names, read.classes.names) == (
        Task.CLASSIFICATION, ("kind",), ("a", "b")
    )  # fmt: skip
    assert read.label_names([1, 0]).tolist() == ["b", "a"]
    assert read.to_dict() == older


@pytest.mark.parametrize("broken", [{"task": "ranking"}, {"names": None}, {"classes": [{}]}])
def test_other_targets_are_refused(make: Made, broken: dict[str, Any]):
    saved = make(["large", "near"]).preprocessing()
    with pytest.raises(DataError, match="a preprocessing must be what dnnflow wrote"):
        Preprocessing.from_dict(saved | {"targets": saved["targets"] | broken})


NUMBERS = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=40))
def test_numbers_come_back(rows: list[tuple[float, float]]):
    values = np.array(rows)
    spread = values.std(axis=0)
    if not (spread > 1e-6 * np.abs(values).max(axis=0)).all():
        return
    targets = Targets(Task.REGRESSION, ("a", "b")).fit(values.mean(0), spread, values.min(0), values.max(0))
    encoded = targets.encode(values)
    assert (encoded.dtype, encoded.shape) == (np.dtype(np.float32), values.shape)
    assert (np.abs(targets.decode(encoded) - values) <= 1e-5 * np.ptp(values, axis=0)).all()


@given(
    st.sampled_from([("no", "YES"), ("0", "1.0"), ("-3", "20"), ("false", "true"), ("A", "a"), ("b", "a")]),
    st.lists(st.booleans(), min_size=1, max_size=30),
)
def test_texts_of_two_values_come_back(pair: tuple[str, str], chosen: list[bool]):
    targets = Targets.of(Task.MULTILABEL, {"a": pair})
    values = targets.values(0, pa.array([pair[one] for one in chosen]))
    decoded = targets.decode(targets.encode(values[:, None]))[:, 0]
    assert np.array_equal(targets.values(0, pa.array(decoded.tolist())), values)
    assert len(set(decoded)) == len(set(chosen))
    assert np.isnan(targets.values(0, pa.array(["other"]))).all()


# ---- what reads datasets


@pytest.mark.parametrize("label", ["price", ["large", "near"]])
def test_a_parallel_training_reads_targets(
    make: Made, monkeypatch: pytest.MonkeyPatch, label: str | list[str]
):
    monkeypatch.setattr(chunks, "_CHUNK_BYTES", 4 * 50)
    dataset = make(label)
    source = DatasetSource.open(dataset.path)
    assert [(one.shape, one.dtype) for one in source.targets] == [((dataset.n_outputs,), "float32")]
    with source.reader() as read:
        (features,), (labels,) = read(Chunk(0, 30, 170))
    assert np.array_equal(features, dataset.arrays("train")[0][30:170])
    assert np.array_equal(labels, dataset.labels("train")[30:170])


def test_the_task_is_part_of_an_id_where_it_is_said(make: Made):
    ids = {make("near", **fields).id for fields in ({}, {"task": "auto"})}
    ids |= {make(["near"]).id}
    assert len(ids) == 1
    assert Recipe(label=("near",)).to_dict() == Recipe(label="near").to_dict()
    assert make("near", task="classification").id not in ids
    assert make(["price", "rent"]).id != make(["rent", "price"]).id
    recipe = Recipe.from_dict({"label": ["price", "rent"], "task": "regression"})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.labels == ("price", "rent")


def test_classes_spelled_in_too_many_ways_are_refused_and_no_row_is_lost(tmp_path: Path) -> None:
    rows = [f"{row},{number}{'.' + '0' * row if row else ''}" for row in range(600) for number in (1, 2)]
    (tmp_path / "t.csv").write_text("x,kind\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="spelled in at most 1000 ways, got more in column 'kind'"):
        ingest(Source(url=str(tmp_path / "t.csv")), Recipe(label="kind"), tmp_path / "datasets")
