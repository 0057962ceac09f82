"""`dnnflow search`: a table and a label are enough."""

import json
from pathlib import Path

import pytest
import yaml

from dnnflow.cli import main as cli
from tests.conftest import PIPELINES

IRIS = str(PIPELINES / "data" / "iris.csv")
QUICK = ["--designs", "2", "--set", "executor.kind=in-process", "--set", "space.epochs=2",
         "--finalists", "0"]  # fmt: skip


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("DNNFLOW_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
        code = cli.guarded(cli.app, debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_without_a_label_the_columns_are_shown_and_one_is_proposed(call):
    code, out, _ = call("search", IRIS)
    assert code == 0
    assert "150 rows, 5 columns" in out
    assert "setosa, versicolor, virginica" in out
    assert f"dnnflow search {IRIS} --label species" in out


def test_columns_are_told_to_machines(call):
    code, out, _ = call("search", IRIS, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["rows"], told["label"], len(told["columns"])) == (150, "species", 5)
    assert told["columns"][-1]["kind"] == "text"


@pytest.mark.slow
def test_a_search_prints_its_pipeline_and_is_found_again(call, tmp_path: Path):
    code, out, err = call("search", IRIS, "--label", "species", *QUICK)
    assert code == 0, err
    printed = yaml.safe_load(out[: out.index("\n\n")])
    assert printed["designs"] == 2
    assert printed["dataset"] == {"source": IRIS, "label": "species"}
    saved = tmp_path / "mine.yaml"
    code, out, err = call("search", IRIS, "--label", "species", *QUICK, "--save", str(saved), "--json")
    told = json.loads(out)
    assert code == 0, err
    assert told["pipeline"] == printed == yaml.safe_load(saved.read_text())
    assert call("validate", str(saved))[0] == 0
    code, out, err = call("run", str(saved), "--json")
    assert code == 0, err
    assert json.loads(out)["study_id"] == told["study_id"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--label", "kind"], 3, "label must name a column of the table, got 'kind'"),
        (["--label", "species", "--designs", "2", "--minutes", "1"], 2, "leave one of them out"),
        (["--label", "species", "--set", "designs=3"], 2, "take --designs"),
        (["--label", "species", "--set", "space.widht=3"], 2, "unknown key"),
        (["--label", "species", "--metric", "speed"], 2, "--metric"),
    ],
)
def test_what_is_wrong_is_one_line(call, options: list[str], code: int, told: str):
    found, _, err = call("search", IRIS, *options)
    assert found == code
    assert told in err
    assert "Traceback" not in err


def test_a_table_that_is_not_there_is_said(call):
    for options in ([], ["--label", "kind"]):
        code, _, err = call("search", "none.csv", *options)
        assert code == 3
        assert "none.csv" in err
