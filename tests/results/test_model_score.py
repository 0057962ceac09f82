"""A model is scored on rows whose label is known; what is wrong with them is told with row and value."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from dnnflow.errors import DataError
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.model_score import has_label, score_of, truth_of
from dnnflow.table.columns.kinds import Classes, Task
from dnnflow.table.columns.preprocess import Preprocessing
from dnnflow.table.columns.targets import Targets

ALL = np.ones(4, bool)


def prepared(*names: str, numeric: bool = False) -> Preprocessing:
    targets = Targets(Task.CLASSIFICATION, ("kind",), (Classes(names, numeric),))
    return Preprocessing((), targets, ("?",), clip=False)


def priced(*names: str) -> Preprocessing:
    targets = Targets(Task.REGRESSION, names, mean=(10.0,) * len(names), std=(2.0,) * len(names))
    return Preprocessing((), targets, (), clip=False)


def test_measures_and_counts_are_those_of_the_rows() -> None:
    truth, known = np.array([0, 0, 1, 0, 1]), np.array([True, True, True, False, True])
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5], [0.4, 0.6]], np.float32)
    found = score_of(truth, known, outputs, prepared("no", "yes"))
    assert (found.rows, found.left_out, found.right) == (4, 1, 3)
    assert found.measures["accuracy"] == 0.75
    assert found.confusion == ((1, 1), (0, 2))
    assert found.interval == wilson_interval(0.75, 4)
    assert found.text.startswith("75.0 % (95 %: ")
    assert found.to_dict()["labels"] == ("kind",)


def test_a_threshold_says_which_class_is_predicted() -> None:
    outputs = np.array([[0.7, 0.3], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], np.float32)
    found = score_of(np.array([1, 0, 1, 1]), ALL, outputs, prepared("no", "yes"), thresholds=(0.25,))
    assert found.right == 4


def test_numbers_are_scored_in_the_units_of_the_table() -> None:
    frame = pd.DataFrame({"price": ["8", "10", " 14 ", None], "rent": [1, 2, 3, 4.5]})
    truth, known = truth_of(priced("price", "rent"), frame)
    assert known.tolist() == [True, True, True, False]
    assert truth[known, 0].tolist() == [-1.0, 0.0, 2.0]
    outputs = truth + np.float32(0.5)
    found = score_of(truth, known, outputs, priced("price", "rent"), metric_name="rmse")
    units = (truth[known] * 2 + 10, outputs[known] * 2 + 10)
    assert found.measures["rmse"] == pytest.approx(root_mean_squared_error(*units))
    assert found.measures["mae"] == pytest.approx(mean_absolute_error(*units))
    assert (found.metric, found.text[:4], found.right, found.confusion) == ("rmse", "1.00", None, ())


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (["no", " yes ", None, "", "?"], [0, 1, None, None, None]),
        (pd.Series(["yes", np.nan], dtype=object), [1, None]),
    ],
)
def test_labels_are_read_as_in_a_table(values: object, codes: list[int | None]) -> None:
    truth, known = truth_of(prepared("no", "yes"), pd.DataFrame({"kind": values}))
    assert [code if is_known else None for code, is_known in zip(truth.tolist(), known, strict=True)] == codes


def test_numbers_are_one_class_however_they_are_written() -> None:
    frame = pd.DataFrame({"kind": ["1", "1.0", "2"]})
    assert truth_of(prepared("1", "2", numeric=True), frame)[0].tolist() == [0, 0, 1]
    numbers = pd.DataFrame({"kind": [1.0, 2.0]})
    assert truth_of(prepared("1", "2", numeric=True), numbers)[0].tolist() == [0, 1]


def test_what_is_wrong_is_told_with_row_and_value() -> None:
    known = prepared("no", "yes")
    with pytest.raises(
        DataError, match=r"row 2, column 'kind': 'maybe' is no class of the model \('no', 'yes'\)"
    ):
        truth_of(known, pd.DataFrame({"kind": ["no", "maybe"]}))
    with pytest.raises(DataError, match="must have the label 'kind' once, got it 0 times; nearest: 'kinds'"):
        truth_of(known, pd.DataFrame({"kinds": ["no"]}))
    with pytest.raises(DataError, match="must have a label, got none in column 'kind' of 2 rows"):
        truth_of(known, pd.DataFrame({"kind": [None, "?"]}))
    with pytest.raises(DataError, match="row 1, column 'price': 'cheap' is no finite number"):
        truth_of(priced("price"), pd.DataFrame({"price": ["cheap"]}))


def test_rows_without_the_label_are_known_as_such() -> None:
    known = prepared("no", "yes")
    assert has_label(known, pd.DataFrame({"kind": ["?", "no"]}))
    assert has_label(known, pd.DataFrame({"kind": ["maybe"]}))
    assert not has_label(known, pd.DataFrame({"kind": ["?", None]}))
    assert not has_label(known, pd.DataFrame({"other": ["no"]}))
