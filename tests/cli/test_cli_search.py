"""`dnnflow search`: a table and a label are enough."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
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


KINDS: dict[str, tuple[Callable[[pd.DataFrame, Path], object], list[str]]] = {
    "parquet": (lambda frame, path: frame.to_parquet(path), []),
    "arrow": (lambda frame, path: frame.to_feather(path), []),
    "jsonl": (lambda frame, path: frame.to_json(path, orient="records", lines=True), []),
    "xlsx": (lambda frame, path: write_sheets(frame, path), ["--sheet", "flowers"]),
    "db": (lambda frame, path: write_tables(frame, path), ["--query", "SELECT * FROM iris"]),
    "dir": (lambda frame, path: write_directory(frame, path), []),
    "data": (lambda frame, path: frame.to_parquet(path), ["--format", "parquet"]),
}


def write_sheets(frame: pd.DataFrame, path: Path) -> None:
    with pd.ExcelWriter(path) as book:
        frame.head(0).to_excel(book, sheet_name="notes", index=False)
        frame.to_excel(book, sheet_name="flowers", index=False)


def write_tables(frame: pd.DataFrame, path: Path) -> None:
    for name in ("iris", "other"):
        frame.to_sql(name, f"sqlite:///{path}", index=False)


def write_directory(frame: pd.DataFrame, path: Path) -> None:
    path.mkdir()
    for number in range(3):
        frame.iloc[number::3].to_parquet(path / f"{number}.parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_tables_of_every_kind_are_shown(call, kind: str, tmp_path: Path):
    write, options = KINDS[kind]
    path = tmp_path / f"iris.{kind}"
    write(pd.read_csv(IRIS), path)
    code, out, err = call("search", str(path), *options)
    assert code == 0, err
    assert f"{'the first 50' if kind == 'dir' else '150'} rows, 5 columns" in out
    command = out[out.index("dnnflow search") :].strip()
    assert shlex.split(command) == ["dnnflow", "search", str(path), *options, "--label", "species"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "xlsx", "db", "dir"])
def test_tables_of_every_kind_are_searched(call, kind: str, tmp_path: Path):
    write, options = KINDS[kind]
    path = tmp_path / f"iris.{kind}"
    write(pd.read_csv(IRIS), path)
    source = f"sqlite:///{path}" if kind == "db" else str(path)
    asked = ["search", source, *options, "--label", "species", *QUICK, "--json"]
    code, out, err = call(*asked)
    assert code == 0, err
    told = json.loads(out)
    assert told["pipeline"]["dataset"]["source"] == source
    assert told["trials"]["completed"] == 2
    assert json.loads(call(*asked)[1])["study_id"] == told["study_id"]


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
