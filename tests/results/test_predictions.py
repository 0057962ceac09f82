"""What designs predict is kept row by row: measures that are asked for later need no training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from dnnflow.errors import DataError
from dnnflow.results.predictions import prediction_matrix
from dnnflow.results.predictions.prediction_matrix import PredictionWriter, read_predictions

TRUTH = np.array([0, 1, 2, 1, 0], np.int32)


def name(number: int) -> str:
    return f"{number + 1:064x}"


def codes(*given: int) -> np.ndarray:
    return np.array(given, np.uint8)


def writer(path: Path, n_designs: int = 4, truth: np.ndarray = TRUTH) -> PredictionWriter:
    return PredictionWriter(path, n_designs, lambda: truth)


def test_what_was_written_is_read_by_design(tmp_path: Path) -> None:
    path = tmp_path / "predictions"
    assert read_predictions(path) is None
    first = writer(path)
    first.append({})
    assert not path.exists()
    first.append({name(2): codes(0, 1, 2, 1, 0), name(0): codes(1, 1, 1, 1, 1)})
    writer(path).append({name(3): codes(2, 2, 2, 2, 2)})  # a process that goes on
    found = read_predictions(path)
    assert found is not None
    assert found.design_ids == (name(2), name(0), name(3))
    assert found.values.tolist() == [[0, 1, 2, 1, 0], [1, 1, 1, 1, 1], [2, 2, 2, 2, 2]]
    classes = found.of([name(3), name(2)])
    assert classes is not None
    assert (classes == found.truth).tolist() == [[False, False, True, False, False], [True] * 5]
    assert found.of([name(1)]) is None
    assert found.values.dtype == np.uint8
    assert found.truth.tolist() == TRUTH.tolist()


def test_of_a_design_that_was_trained_twice_the_last_counts(tmp_path: Path) -> None:
    one = writer(tmp_path / "p")
    one.append({name(1): codes(0, 0, 0, 0, 0)})
    one.append({name(0): codes(1, 1, 1, 1, 1), name(1): codes(2, 2, 2, 2, 2)})
    found = read_predictions(tmp_path / "p")
    assert found is not None
    assert dict(zip(found.design_ids, found.values.tolist(), strict=True)) == {
        name(0): [1] * 5,
        name(1): [2] * 5,
    }


@pytest.mark.parametrize("dies_at", ["classes", "designs"])
def test_a_writer_that_died_leaves_whole_designs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    path = tmp_path / "p"
    writer(path).append({name(0): codes(0, 1, 2, 1, 0)})
    group: Any = zarr.open_group(path, mode="a")
    group["classes"].resize((3, 5))
    if dies_at == "designs":
        group["designs"].resize((3, 32))
    found = read_predictions(path)
    assert found is not None
    assert (found.design_ids, found.values.tolist()) == ((name(0),), [TRUTH.tolist()])
    writer(path).append({name(3): codes(1, 1, 1, 1, 1)})
    found = read_predictions(path)
    assert found is not None
    assert (found.design_ids, found.values[1].tolist()) == ((name(0), name(3)), [1] * 5)


def test_predictions_for_other_rows_are_not_mixed(tmp_path: Path) -> None:
    writer(tmp_path / "p").append({name(0): codes(0, 1, 2, 1, 0)})
    with pytest.raises(DataError, match=r"all of the same rows, got others in .*; delete that"):
        writer(tmp_path / "p", truth=TRUTH[::-1].copy() + 1).append({name(1): codes(0, 1, 2, 1, 0)})


def test_a_matrix_that_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_matrix, "MAX_BYTES", 19)
    one = writer(tmp_path / "p")
    one.append({name(0): codes(0, 1, 2, 1, 0)})
    assert one.is_too_large
    assert read_predictions(tmp_path / "p") is None


def test_a_matrix_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    writer(tmp_path / "p").append({name(0): codes(0, 1, 2, 1, 0)})
    (tmp_path / "p" / "truth" / "zarr.json").unlink()
    with pytest.raises(DataError, match=r"must be readable, got KeyError in .*; delete that directory"):
        read_predictions(tmp_path / "p")


def test_many_designs_take_one_byte_a_row(tmp_path: Path) -> None:
    one, rng = writer(tmp_path / "p", 600), np.random.default_rng(0)
    drawn = rng.integers(0, 3, (600, 5)).astype(np.uint8)
    for first in range(0, 600, 77):
        one.append({name(first + i): row for i, row in enumerate(drawn[first : first + 77])})
    found = read_predictions(tmp_path / "p")
    assert found is not None
    np.testing.assert_array_equal(found.values, drawn)
