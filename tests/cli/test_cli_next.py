"""What a person does after a study on the command line: reads what it is worth, scores it, widens it."""

import json
from pathlib import Path

import pytest

import dnnflow
from tests.cli.test_cli import IRIS, QUICK, call, home, study_id  # noqa: F401
from tests.conftest import PIPELINES

TABLE = str(PIPELINES / "data" / "iris.csv")


@pytest.fixture
def model(call, study_id: str, home: Path) -> str:  # noqa: F811
    """The best model of a study of iris."""
    return str(home / "studies" / study_id / "models" / "best-1.keras")


def test_show_begins_with_the_sentence_and_says_what_to_do_next(call, study_id: str, home: Path) -> None:  # noqa: F811
    code, out, _ = call("show", study_id)
    assert code == 0
    told = ["% on 30 test rows kept for this (", "next\n", f"dnnflow score {home}", "the best designs"]
    assert sorted(told, key=out.index) == told
    found = json.loads(call("show", study_id, "--json")[1])
    assert found["sentence"] in out
    assert [step["kind"] for step in found["next_steps"]][-2:] == ["model", "score"]
    assert {one["kind"] for one in found["tested"]} >= {"design", "baseline"}


def test_score_says_how_good_a_model_is_on_rows_with_the_label(call, model: str) -> None:  # noqa: F811
    code, out, err = call("score", model, TABLE, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["rows"], found["labels"], len(found["classes"])) == (150, ["species"], 3)
    assert found["measures"]["accuracy"] == found["right"] / 150
    code, out, _ = call("score", model, TABLE)
    assert f"species: {found['right']} of 150 rows right" in out
    assert f"{100 * found['right'] / 150:.1f} %" in out
    scored = dnnflow.score(model, TABLE)
    assert scored.to_dict()["right"] == found["right"]


def test_score_refuses_rows_without_the_label_and_classes_that_the_model_has_not(
    call, model: str, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    lines = Path(TABLE).read_text().splitlines()[:4]
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    code, _, err = call("score", model, str(rows))
    assert code == 3
    assert "must have the label 'species' once, got it 0 times" in err
    rows.write_text("\n".join([*lines[:3], lines[3].rpartition(",")[0] + ",daisy"]) + "\n")
    code, _, err = call("score", model, str(rows))
    assert code == 3
    assert "row 3, column 'species': 'daisy' is no class of the model" in err


@pytest.mark.slow
def test_widen_runs_the_wider_study_after_one(call) -> None:  # noqa: F811
    narrow = ["--set", "space.learning_rate={choice: [0.0001, 0.0002]}", "--set", "space.epochs=2"]
    code, out, err = call("run", IRIS, *QUICK, *narrow, "--json")
    assert code == 0, err
    first = json.loads(out)["study_id"]
    code, out, err = call("widen", first)
    assert code == 0, err
    assert "wider: " in out
    assert f"study   {first}" not in out
