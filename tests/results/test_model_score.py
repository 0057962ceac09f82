"""A model is scored on rows whose label is known; what is wrong with them is told with row and value."""

import numpy as np
import pandas as pd
import pytest

from dnnflow.errors import DataError
from dnnflow.results.view.intervals import wilson_interval
from dnnflow.results.view.model_score import MISSING, has_label, score_of, truth_of
from dnnflow.table.columns.kinds import Classes
from dnnflow.table.columns.preprocess import Preprocessing


def prepared(*names: str, numeric: bool = False) -> Preprocessing:
    return Preprocessing((), "kind", Classes(names, numeric), ("?",), clip=False)


def test_measures_and_counts_are_those_of_the_rows() -> None:
    truth = np.array([0, 0, 1, MISSING, 1])
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5], [0.4, 0.6]], np.float32)
    found = score_of(truth, outputs, prepared("no", "yes"))
    assert (found.rows, found.left_out, found.right) == (4, 1, 3)
    assert found.measures == {"accuracy": 0.75}
    assert found.confusion == ((1, 1), (0, 2))
    assert found.interval == wilson_interval(0.75, 4)
    assert found.to_dict()["label"] == "kind"


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (["no", " yes ", None, "", "?"], [0, 1, MISSING, MISSING, MISSING]),
        (pd.Series(["yes", np.nan], dtype=object), [1, MISSING]),
    ],
)
def test_labels_are_read_as_in_a_table(values: object, codes: list[int]) -> None:
    assert truth_of(prepared("no", "yes"), pd.DataFrame({"kind": values})).tolist() == codes


def test_numbers_are_one_class_however_they_are_written() -> None:
    frame = pd.DataFrame({"kind": ["1", "1.0", "2"]})
    assert truth_of(prepared("1", "2", numeric=True), frame).tolist() == [0, 0, 1]
    assert truth_of(prepared("1", "2", numeric=True), pd.DataFrame({"kind": [1.0, 2.0]})).tolist() == [0, 1]


def test_what_is_wrong_is_told_with_row_and_value() -> None:
    known = prepared("no", "yes")
    with pytest.raises(
        DataError, match=r"row 2, column 'kind': 'maybe' is no class of the model \('no', 'yes'\)"
    ):
        truth_of(known, pd.DataFrame({"kind": ["no", "maybe"]}))
    with pytest.raises(DataError, match="must have the label 'kind' once, got it 0 times; nearest: kinds"):
        truth_of(known, pd.DataFrame({"kinds": ["no"]}))
    with pytest.raises(DataError, match="must have a label, got none in column 'kind' of 2 rows"):
        truth_of(known, pd.DataFrame({"kind": [None, "?"]}))


def test_rows_without_the_label_are_known_as_such() -> None:
    known = prepared("no", "yes")
    assert has_label(known, pd.DataFrame({"kind": ["?", "no"]}))
    assert has_label(known, pd.DataFrame({"kind": ["maybe"]}))
    assert not has_label(known, pd.DataFrame({"kind": ["?", None]}))
    assert not has_label(known, pd.DataFrame({"other": ["no"]}))
