"""Classes are the spellings of a label: what is one class, and what is missing, is told."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.errors import DataError, InputError
from dnnflow.table.columns.kinds import Classes, Task
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.dataset import Dataset, dataset_id
from dnnflow.table.store.ingest import ingest


def labelled(labels: Sequence[str], folder: Path, *, block_bytes: int = 1 << 20, **fields) -> Dataset:
    """Make a dataset whose label has these texts, each three times."""
    rows = [f'{i * 7 % 11},{i % 3},"{label}"\n' for i, label in enumerate([*labels] * 3)]
    table = folder / "table.csv"
    table.write_text("size,kind,grade\n" + "".join(rows), encoding="utf-8")
    recipe = Recipe(**{"label": "grade", **fields})
    return ingest(Source(url=str(table)), recipe, folder / "datasets", block_bytes=block_bytes)


def counted(dataset: Dataset) -> dict[str, int]:
    """Return how many rows each class has."""
    totals = np.sum([dataset.class_counts[split] for split in ("train", "test")], axis=0)
    return dict(zip(dataset.class_names, totals.tolist(), strict=True))


@pytest.mark.parametrize("block_bytes", [30, 1 << 20])
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["07", "7", "007"], {"07", "7", "007"}),
        (["2E3", "2000", "20E2"], {"2E3", "2000", "20E2"}),
        (["9007199254740993", "9007199254740992"], {"9007199254740993", "9007199254740992"}),
        (["3.1", "3.10"], {"3.1", "3.10"}),
        (["4", "4.0", "5."], {"4", "5"}),
        (["-2", "-2.00", "+2"], {"-2", "+2"}),
        (["TRUE", "True", "no"], {"true", "no"}),
        (["TRUE", "NO"], {"TRUE", "NO"}),
        (["Øre", "Ø\u200are"], {"Øre", "Ø\u200are"}),
        (["r\u00e9el", "re\u0301el", "faux"], {"r\u00e9el", "faux"}),
        (["hit", " hit", "hit\u00a0", "miss "], {"hit", "miss"}),
    ],
)
def test_spellings_that_mean_the_same_are_one_class(
    tmp_path: Path, labels: list[str], classes: set[str], block_bytes: int
):
    dataset = labelled(labels, tmp_path, block_bytes=block_bytes)
    assert set(dataset.class_names) == classes
    assert sum(counted(dataset).values()) == 3 * len(labels)


def test_what_is_one_class_is_told(tmp_path: Path):
    assert "label 'grade': '4', '4.0' are one class, '4'" in labelled(["4", "4.0", "5"], tmp_path).notes
    apart = labelled(["07", "7"], tmp_path).notes[0]
    assert apart.startswith(
        "label 'grade': '07', '7' are one number in several spellings, and classes of their"
    )


def test_a_label_in_text_columns_is_text_as_it_stands(tmp_path: Path):
    dataset = labelled(["4", "4.0", "True", "true"], tmp_path, text_columns=("grade",))
    assert dataset.class_names == ("4", "4.0", "True", "true")
    amounts = [f"{i}.5" for i in range(30)]
    assert labelled(amounts, tmp_path).task is Task.REGRESSION
    assert labelled(amounts, tmp_path, text_columns=("grade",)).n_classes == 30
    with pytest.raises(InputError, match="regression needs a label of numbers, got 'grade' in text_columns"):
        Recipe(label="grade", task="regression", text_columns=("grade",))


def test_labels_of_two_values_may_be_texts_as_they_stand(tmp_path: Path):
    rows = "".join(f"{i % 7},{('yes', 'YES')[i % 2]},{('1', '1.0', '0')[i % 3]}\n" for i in range(36))
    (tmp_path / "a.csv").write_text("x,late,far\n" + rows)
    source = Source(url=str(tmp_path / "a.csv"))
    labels = ("late", "far")
    exact = Recipe(label=labels, text_columns=("late",), task="multilabel")
    dataset = ingest(source, exact, tmp_path / "datasets")
    assert [classes.names for classes in dataset.targets.classes] == [("YES", "yes"), ("0", "1")]
    with pytest.raises(DataError, match=r"multilabel has two values, got '0' besides '1' and '1\.0'"):
        ingest(source, exact.replace(text_columns=labels), tmp_path / "datasets")
    with pytest.raises(DataError, match="needs two different values, got one in column 'late'"):
        ingest(source, exact.replace(text_columns=()), tmp_path / "datasets")


spelled = st.one_of(
    st.from_regex(r"[-+]?0{0,2}[0-9]{1,2}(\.[0-9]{0,2})?(E[0-3])?", fullmatch=True),
    st.integers(2**53, 2**60).map(str),
    st.sampled_from(["x", "yes", "Yes", "none", "é", "e\u0301", "1e3"]),
)


@settings(max_examples=60, derandomize=True)
@given(st.lists(spelled, min_size=2, max_size=12, unique=True))
def test_no_two_classes_are_merged_but_plain_whole_numbers_and_truth_values(texts: list[str]):
    classes = Classes.of(texts)
    together: dict[int, set[str]] = {}
    for text, code in zip(texts, classes.codes(texts), strict=True):
        assert code >= 0
        together.setdefault(code, set()).add(text)
    for group in together.values():
        if len(group) > 1:
            are_truths = {text.lower() for text in group} <= {"yes"}
            assert are_truths or all(float(text).is_integer() and "E" not in text for text in group)
            assert are_truths or not any(text.lstrip("-").startswith(("00", "+")) for text in group)
            assert len({text.lower() if are_truths else str(int(float(text))) for text in group}) == 1
    assert len(set(classes.names)) == len(together)
    assert Classes.from_dict(classes.to_dict()) == classes
    exact = Classes.of(texts, exact=True)
    assert sorted(exact.names) == sorted(texts)
    assert exact.codes(exact.names) == [*range(len(texts))]


# ---- missing labels


def test_none_is_a_class_and_that_is_told(tmp_path: Path):
    dataset = labelled(["None", "Mild", "Severe"], tmp_path)
    assert counted(dataset) == {"Mild": 3, "None": 3, "Severe": 3}
    assert dataset.notes == (
        "label 'grade': 'None' is taken for a class; if it stands for a missing label, set missing_labels: "
        "[None]",
    )


@pytest.mark.parametrize(
    ("fields", "classes"),
    [
        ({}, {"EU", "none", "-9"}),
        ({"missing_labels": ()}, {"EU", "none", "-9", "NA", "null"}),
        ({"missing_labels": ("none", "NA")}, {"EU", "-9", "null"}),
        ({"missing_labels": ("-9.0",)}, {"EU", "none", "NA", "null"}),
        ({"missing_values": ("-9",)}, {"EU", "none"}),
        ({"missing_values": ("-9",), "missing_labels": ("none",)}, {"EU", "-9", "NA", "null"}),
        ({"standard_missing": False}, {"EU", "none", "-9", "NA", "null"}),
    ],
)
def test_what_stands_for_a_missing_label_can_be_said(tmp_path: Path, fields: dict, classes: set[str]):
    labels = ["EU", "none", "-9", "NA", "null", ""]
    dataset = labelled(labels, tmp_path, **fields)
    assert set(dataset.class_names) == classes
    gone = 3 * (len(labels) - len(classes))
    assert dataset.dropped_rows == gone
    (told,) = [note for note in dataset.notes if "left out" in note]
    assert told.startswith(f"{gone} of 18 rows are left out, as their label is missing (")
    assert "empty 3" in told


def test_a_marker_is_found_by_its_number_but_a_code_is_not(tmp_path: Path):
    assert set(labelled(["7", "007", "8"], tmp_path, missing_labels=("7.0",)).class_names) == {"007", "8"}


def test_what_is_told_of_a_table_is_said_to_whoever_listens(tmp_path: Path):
    from dnnflow.events import Notice

    dataset = labelled(["a", "b", ""], tmp_path)
    heard: list = []
    for _ in range(2):  # made, and found again
        ingest(Source(url=str(tmp_path / "table.csv")), Recipe(label="grade", split_seed=1), tmp_path / "two",
               listener=heard.append)  # fmt: skip
    told = [event.message for event in heard if isinstance(event, Notice)]
    assert told == [*dataset.notes, *dataset.notes]
    assert len(told) == 2


# ---- classes of a single row


def rare(folder: Path, **fields) -> Dataset:
    labels = ["a"] * 12 + ["b"] * 12 + ["u", "v", "w"]
    rows = "".join(f"{i * 7 % 11},{i % 3},{label}\n" for i, label in enumerate(labels))
    (folder / "table.csv").write_text(f"size,kind,grade\n{rows}")
    recipe = Recipe(label="grade", **fields)
    return ingest(Source(url=str(folder / "table.csv")), recipe, folder / "datasets", block_bytes=60)


def test_all_classes_of_a_single_row_are_told_at_once(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        rare(tmp_path)
    assert str(refused.value) == (
        "a class needs at least 2 rows (one to train, one to test), got 1 of 'u', 'v', 'w' in column "
        "'grade'; add rows, or remove those, or set rare_classes to drop or merge"
    )


def test_classes_of_a_single_row_are_dropped_or_merged(tmp_path: Path):
    dropped, merged = rare(tmp_path, rare_classes="drop"), rare(tmp_path, rare_classes="merge")
    assert counted(dropped) == {"a": 12, "b": 12}
    assert counted(merged) == {"a": 12, "b": 12, "other": 3}
    assert "label 'grade': 3 classes of a single row are left out: 'u', 'v', 'w'" in dropped.notes
    assert "label 'grade': 3 classes of a single row are one class, 'other': 'u', 'v', 'w'" in merged.notes
    assert merged.fitted.classes.codes(["u", "w", "other", "x"]) == [2, 2, 2, -1]
    assert dropped.dropped_rows == 3
    assert not any("label is missing" in note for note in dropped.notes)


# ---- identity


@pytest.mark.parametrize(
    ("labels", "same"),
    [
        (["a", "b"], True),
        (["1", "2.0"], True),
        (["0.5", "2.25"], True),
        (["TRUE", "FALSE"], True),
        (["01", "2"], False),
        (["None", "a"], False),
        (["True", "true", "false"], False),
        (["1E2", "3"], False),
    ],
)
def test_only_tables_that_mean_something_else_now_have_another_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str], same: bool
):
    """A dataset by earlier rules is found again where they read it alike, and left alone where not."""
    (tmp_path / "now").mkdir()
    (tmp_path / "without rules").mkdir()
    now = labelled(labels, tmp_path / "now").id
    name = "dnnflow.table.store.table_parts.dataset_id"
    monkeypatch.setattr(name, lambda *made_of, is_renewed: dataset_id(*made_of))
    assert (labelled(labels, tmp_path / "without rules").id == now) is same


def test_a_dataset_by_earlier_rules_is_opened_where_nothing_changed(tmp_path: Path):
    import json

    from dnnflow.table.store.dataset import sealed

    first = labelled(["a", "b"], tmp_path)
    manifest = {name: value for name, value in first.manifest.items() if name != "rules"}
    (first.path / "manifest.json").write_text(sealed({**manifest, "written": "before"}))
    again = labelled(["a", "b"], tmp_path)
    assert again.id == first.id
    assert json.loads((again.path / "manifest.json").read_bytes())["written"] == "before"


@settings(max_examples=15, derandomize=True)
@given(st.lists(st.sampled_from(["01", "1", "1.0", "x", "NONE", "", "na", "é", "e\u0301", " x"]), min_size=8))
def test_every_row_is_of_its_class_or_counted_as_left_out(labels: list[str]):
    known = Counter(text for text in labels if text not in ("", "na"))
    if len({"é" if text == "e\u0301" else text.strip() for text in known}) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = labelled(labels, Path(folder), block_bytes=40)
        assert dataset.dropped_rows == 3 * sum(text in ("", "na") for text in labels)
        assert sum(dataset.rows.values()) == 3 * sum(known.values())
        assert "01" not in known or counted(dataset)["01"] == 3 * known["01"]


def test_a_label_of_rare_classes_alone_is_refused_in_words(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("a,label\n" + "".join(f"{place},name {place}\n" for place in range(9)))
    said = "got 9 of a single row each in column 'label', and too few once these are {}: 'name 0'"
    for rule, done in (("drop", "dropped"), ("merge", "merged")):
        recipe = Recipe.from_dict({"label": "label", "rare_classes": rule})
        with pytest.raises(DataError, match=said.format(done)):
            ingest(Source(url=str(table)), recipe, tmp_path / "datasets")


@pytest.mark.parametrize(
    ("one", "other"),
    [("red", "red\u200b"), ("New York", "New  York"), ("New York", "New\u00a0York"), ("Ａ1", "A1")],
)
def test_classes_and_categories_that_look_alike_are_told(one: str, other: str, tmp_path: Path):
    told = f"{one!r}, {other!r}" if one < other else f"{other!r}, {one!r}"
    notes = labelled([one, other, "far"], tmp_path).notes
    assert [note for note in notes if told in note and "differ in blanks, case or signs not seen" in note]
    (tmp_path / "f.csv").write_text("place,y\n" + f"{one},a\n{other},b\nfar,a\n" * 5, encoding="utf-8")
    dataset = ingest(Source(url=str(tmp_path / "f.csv")), Recipe(label="y"), tmp_path / "datasets")
    assert [note for note in dataset.notes if told in note and "categories of their own" in note]


def test_spellings_of_a_number_beside_words_are_told(tmp_path: Path):
    dataset = labelled(["1", "1.0", "unknown"], tmp_path)
    assert dataset.n_classes == 3
    assert any("'1', '1.0' are one number in several spellings" in note for note in dataset.notes)


def test_merging_a_single_rare_class_is_no_remedy(tmp_path: Path):
    rows = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "t.csv").write_text("x,y\n" + rows + "7,c\n")
    source = Source(url=str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=r"or set rare_classes to drop$"):
        ingest(source, Recipe(label="y", rare_classes="merge"), tmp_path / "d")
    assert ingest(source, Recipe(label="y", rare_classes="drop"), tmp_path / "d").n_classes == 2


@pytest.mark.parametrize("odd", ["n/k", "-", "<5", "inf"])
def test_amounts_with_an_odd_value_are_no_classes(odd: str, tmp_path: Path):
    amounts = [f"{i * 7 % 50}.5" for i in range(50)] * 3
    with pytest.raises(DataError, match=f"amounts must have numbers only, got '{odd}' beside many"):
        labelled([*amounts, odd], tmp_path)
    found = labelled([*amounts, odd], tmp_path, missing_values=(odd,))
    assert (found.task, found.dropped_rows) == (Task.REGRESSION, 3)
    assert labelled([*amounts, odd], tmp_path, task="classification").n_classes == 51


def test_classes_by_number_with_one_in_words_are_classes(tmp_path: Path):
    dataset = labelled([*(f"{i % 30}" for i in range(600)), "unknown"], tmp_path)
    assert (dataset.task, dataset.n_classes) == (Task.CLASSIFICATION, 31)
