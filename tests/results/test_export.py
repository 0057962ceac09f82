"""Exported trials: read by other programs, and harmless in a spreadsheet."""

from pathlib import Path

import pandas as pd
import pytest

from dnnflow.errors import InputError
from dnnflow.results.view.export import export_trials


@pytest.fixture
def trials() -> pd.DataFrame:
    """Two trials, one with text that a spreadsheet program would run."""
    return pd.DataFrame(
        {
            "design_id": pd.array(["a", "b"], dtype="str"),
            "depth": pd.array([2, None], dtype="Int64"),
            "score": [0.1 + 0.2, float("nan")],
            "error_message": pd.array([None, "=cmd|' /C calc'!A0"], dtype="str"),
        }
    )


def test_parquet_keeps_values_and_types(trials: pd.DataFrame, tmp_path: Path) -> None:
    export_trials(trials, tmp_path / "out" / "trials.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "trials.parquet"), trials)


def test_csv_is_read_back(trials: pd.DataFrame, tmp_path: Path) -> None:
    export_trials(trials, tmp_path / "trials.CSV")
    read = pd.read_csv(tmp_path / "trials.CSV")
    assert read["score"][0] == trials["score"][0]
    assert read["depth"].tolist()[0] == 2
    assert read["error_message"].isna().tolist() == [True, False]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", '=HYPERLINK("x")'])
def test_formulas_are_neutralised_in_csv(tmp_path: Path, text: str) -> None:
    frame = pd.DataFrame({"error_message": pd.array([text, "a=1"], dtype="str"), "n": [-1, 2]})
    export_trials(frame, tmp_path / "trials.csv")
    read = pd.read_csv(tmp_path / "trials.csv", lineterminator="\n")
    assert read["error_message"].tolist() == ["'" + text, "a=1"]
    assert read["n"].tolist() == [-1, 2]


def test_json_is_a_list_of_records(trials: pd.DataFrame, tmp_path: Path) -> None:
    import json

    export_trials(trials, tmp_path / "trials.json")
    first, second = json.loads((tmp_path / "trials.json").read_text())
    assert first == {"design_id": "a", "depth": 2, "score": pytest.approx(0.3), "error_message": None}
    assert (second["depth"], second["score"]) == (None, None)


def test_another_suffix_is_refused(trials: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exported to \.parquet, \.csv or \.json, got 'trials\.xlsx'"):
        export_trials(trials, tmp_path / "trials.xlsx")
    assert not list(tmp_path.iterdir())
