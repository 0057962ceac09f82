"""The command line: one line for an error, an exit code for a script, JSON for a machine."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

from dnnflow.api import open_study
from dnnflow.cli import main as cli
from dnnflow.errors import InputError, PipelineError
from dnnflow.results.store.run_record import RunState
from dnnflow.results.store.store import Store
from dnnflow.run.models.saved_model import SavedModel
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import Classes, Task
from tests.conftest import PIPELINES

IRIS = str(PIPELINES / "iris.yaml")
IRIS_CSV = str(PIPELINES / "data" / "iris.csv")
QUICK = ["--set", "executor.kind=in-process", "--set", "designs=2", "--set", "space.epochs=1",
         "--set", "space.seed=0"]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def call(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("DNNFLOW_HOME", str(home))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
        code = cli.guarded(cli.app, debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def study_id(call) -> str:
    """A study of two designs; made once, found again afterwards."""
    code, out, err = call("run", IRIS, *QUICK, "--json")
    assert code == 0, err
    return json.loads(out)["study_id"]


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    for word in (
        "run",
        "validate",
        "schema",
        "ingest",
        "studies",
        "show",
        "export",
        "report",
        "predict",
        "score",
        "widen",
        "clone",
        "delete",
        "clean",
        "130",
    ):
        assert word in shown


def test_run_prints_leaderboard_study_and_report(call, study_id: str) -> None:
    code, out, err = call("run", IRIS, *QUICK)
    assert code == 0, err
    assert study_id in out
    assert "report.html" in out
    assert "accuracy" in out


def test_run_tells_each_stage(call) -> None:
    code, _, err = call("run", IRIS, *QUICK, "--new")
    assert code == 0
    assert [line.split()[0] for line in err.splitlines() if not line.startswith(" ")] == [
        "upload", "preprocess", "train", "aggregate", "finalists", "test", "final", "report",
    ]  # fmt: skip
    assert "2 of 2 designs" in err


def test_validate_exits_with_2_and_names_the_line(call, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("dataset:\n  source: a.csv\n  lable: b\ndesigns: 3\n")
    code, out, _ = call("validate", str(file))
    assert code == 2
    assert f"{file}:3: dataset.lable: unknown key" in out
    code, out, _ = call("validate", str(file), "--json")
    assert code == 2
    assert sorted(problem["line"] for problem in json.loads(out)) == [1, 3]


def test_validate_accepts_what_is_shipped(call) -> None:
    assert call("validate", IRIS)[0] == 0


def test_schema_is_json(call) -> None:
    code, out, _ = call("schema")
    assert code == 0
    assert json.loads(out)["title"] == "Pipeline"


def test_an_error_is_one_line_with_its_exit_code(call) -> None:
    code, out, err = call("run", IRIS, "--set", "dataset.label=specis")
    assert code == 3
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("dnnflow: error: ")
    assert "specis" in last
    assert "species" in last
    assert "Traceback" not in err


def test_a_broken_override_is_one_line(call) -> None:
    for command in ("run", "validate"):
        code, _, err = call(command, IRIS, "--set", "designs=[")
        assert code == 2
        assert err.startswith("dnnflow: error: the value of an override must be YAML, got 'designs=['")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    arguments = ["run", "no-such.yaml", "--json"]
    arguments.insert(place, "--debug")
    monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
    with pytest.raises(PipelineError, match=r"no-such\.yaml"):
        cli.main()


@pytest.mark.parametrize(
    "command",
    [
        ["show", "no-such-study"],
        ["report", "no-such-study"],
        ["export", "no-such-study", "--out", "/nowhere/a.csv"],
    ],
)
def test_an_unknown_study_exits_with_4(call, command: list[str]) -> None:
    assert call(*command)[0] == 4


def test_studies_lists_the_study(call, study_id: str) -> None:
    code, out, _ = call("studies", "--json")
    assert code == 0
    listed = {entry["study_id"]: entry for entry in json.loads(out)}
    assert listed[study_id]["trials"]["completed"] == 2
    assert listed[study_id]["state"] == "finished"
    assert study_id in call("studies")[1]


def test_show_gives_the_leaderboard(call, study_id: str) -> None:
    code, out, _ = call("show", study_id, "--json")
    assert code == 0
    assert [row["rank"] for row in json.loads(out)["leaderboard"]] == [1, 2]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_export_writes_every_trial(call, study_id: str, tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    out = tmp_path / f"trials{suffix}"
    assert call("export", study_id, "--out", str(out))[0] == 0
    frame = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert len(frame) == 2
    assert frame["score"].between(0, 1).all()


def test_a_study_is_found_by_its_files(call, study_id: str, home: Path, tmp_path: Path) -> None:
    import yaml

    saved = home / "studies" / study_id / "models" / "best-1.keras"
    file = tmp_path / "mine.yaml"
    plain = open_study(study_id, settings=Settings.from_environment()).record.pipeline
    file.write_text(yaml.safe_dump(dict(plain)))
    for given in (saved, file):
        code, out, err = call("show", str(given), "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["study_id"] == study_id
    assert call("report", str(file), "--out", str(tmp_path / "r.html"))[0] == 0
    file.write_text(yaml.safe_dump({**plain, "seed": 77}))
    code, _, err = call("show", str(file))
    assert code == 4
    assert f"a pipeline's study is there once it was run as it is now, got {file}" in err


@pytest.mark.slow
def test_export_writes_models_for_others(call, study_id: str, tmp_path: Path) -> None:
    out = tmp_path / "raw.keras"
    assert call("export", study_id, "--out", str(out), "--raw")[:2] == (0, f"wrote {out}\n")
    code, told, _ = call("predict", str(out), IRIS_CSV)
    assert (code, told) == (0, call("predict", study_id, IRIS_CSV)[1])
    code, _, err = call("export", study_id, "--out", str(tmp_path / "trials.csv"), "--raw")
    assert code == 2
    assert "--model and --raw are of a model, which is written as .keras or .onnx" in err
    code, _, err = call("export", study_id, "--out", str(out), "--model", "ninth")
    assert (code, "is a rank, ensemble or final, got 'ninth'" in err) == (2, True)


def test_report_is_written_anew(call, study_id: str, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    assert call("report", study_id, "--out", str(out))[0] == 0
    assert study_id in out.read_text()


def test_a_study_without_any_completed_design_exits_with_6_and_says_why(call) -> None:
    code, out, err = call("run", IRIS, *QUICK, "--set", "training.time_limit_s=0.000001")
    assert code == 6
    assert "failed  2 x TimeLimitError" in out
    assert "a study needs a design that completes, got 2 failures of TimeLimitError" in err
    assert "--failed" in err


def test_predict_gives_a_class_for_each_raw_row(call, study_id: str, home: Path, tmp_path: Path) -> None:
    model = home / "studies" / study_id / "models" / "best-1.keras"
    rows = tmp_path / "rows.csv"
    lines = (PIPELINES / "data" / "iris.csv").read_text().splitlines()
    rows.write_text("\n".join(lines[:4]) + "\n")
    code, out, err = call("predict", str(model), str(rows), "--json")
    assert code == 0, err
    predictions = json.loads(out)
    assert len(predictions) == 3
    for row in predictions:
        probabilities = [value for name, value in row.items() if name.startswith("probability of ")]
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert row["prediction"] in {name.removeprefix("probability of ") for name in row}


@pytest.mark.parametrize("kind", ["parquet", "xlsx", "jsonl", "sqlite"])
def test_rows_of_every_kind_are_predicted_and_scored(
    call, study_id: str, home: Path, tmp_path: Path, kind: str
) -> None:
    model = home / "studies" / study_id / "models" / "best-1.keras"
    frame = pd.read_csv(PIPELINES / "data" / "iris.csv").iloc[::10]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    rows = tmp_path / f"rows.{kind}"
    match kind:
        case "parquet":
            frame.to_parquet(rows)
        case "xlsx":
            frame.to_excel(rows, index=False)
        case "jsonl":
            frame.to_json(rows, orient="records", lines=True)
        case _:
            with sqlite3.connect(rows) as connection:
                frame.to_sql("flowers", connection, index=False)
    for command in ("predict", "score"):
        told = [call(command, str(model), str(path), "--json") for path in (tmp_path / "rows.csv", rows)]
        assert told[0][0] == 0, told[0][2]
        assert told[0] == told[1]


def test_predict_without_a_feature_column_names_it(call, study_id: str, home: Path, tmp_path: Path) -> None:
    model = home / "studies" / study_id / "models" / "best-1.keras"
    rows = tmp_path / "rows.csv"
    rows.write_text("sepal_length\n5.1\n")
    code, _, err = call("predict", str(model), str(rows))
    assert code == 3
    assert "column" in err


@pytest.fixture
def headerless(call, home: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A model of a table that has no header and odd delimiters, and lines of that table without labels."""
    lines = (PIPELINES / "data" / "iris.csv").read_text().replace(",", "|").splitlines()
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines[1:]) + "\n")
    over = [f"dataset.source={table}", "dataset.label=column_5", "dataset.header=false"]
    options = [option for text in over for option in ("--set", text)]
    code, out, err = call("run", IRIS, *QUICK, *options, "--json")
    assert code == 0, err
    models = home / "studies" / json.loads(out)["study_id"] / "models"
    return models / "best-1.keras", [line.rpartition("|")[0] for line in lines[1:4]]


def test_predict_reads_rows_as_the_table_of_the_training(call, headerless, tmp_path: Path) -> None:
    model, lines = headerless
    rows = tmp_path / "rows.csv"
    rows.write_text(lines[0] + "\n")  # one row: no other tells what delimiter it has
    code, out, err = call("predict", str(model), str(rows), "--json")
    assert code == 0, err
    assert len(json.loads(out)) == 1


def test_predict_reads_rows_that_are_written_otherwise(call, headerless, tmp_path: Path) -> None:
    model, lines = headerless
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["column_1|column_2|column_3|column_4", *lines]).replace("|", ";") + "\n")
    code, out, err = call("predict", str(model), str(rows), "--delimiter", ";", "--header", "--json")
    assert code == 0, err
    assert len(json.loads(out)) == 3


def test_predict_refuses_a_file_that_is_no_model(call, tmp_path: Path) -> None:
    table = str(PIPELINES / "data" / "iris.csv")
    code, _, err = call("predict", table, table)
    assert code == 3
    assert "a model must be a .keras file that a study saved" in err
    code, _, err = call("predict", IRIS, table)
    assert code == 4
    assert f"got {IRIS!r}: a pipeline's study is there once it was run" in err


@pytest.fixture
def rows_with_ids(tmp_path: Path) -> Path:
    lines = (PIPELINES / "data" / "iris.csv").read_text().splitlines()
    rows = tmp_path / "rows.csv"
    named = [f"{'id' if number == 0 else f'00{number}'},{line}" for number, line in enumerate(lines[:4])]
    rows.write_text("\n".join(named) + "\n")
    return rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_predictions_are_written_as_their_file_is_called_beside_columns_that_are_kept(
    call, study_id: str, rows_with_ids: Path, tmp_path: Path, suffix: str
) -> None:
    written = tmp_path / f"predicted{suffix}"
    code, out, err = call(
        "predict", study_id, str(rows_with_ids), "--out", str(written), "--keep", "id", "--keep", "species"
    )
    assert code == 0, err
    assert out == f"wrote {written}: 3 rows\n"
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        ".csv": lambda path: pd.read_csv(path, dtype={"id": str}),
        ".json": lambda path: pd.read_json(path, dtype={"id": str}),
    }
    table = readers[suffix](written)
    assert list(table.columns[:3]) == ["id", "species", "prediction"]
    assert list(table["id"]) == ["001", "002", "003"]


def test_predict_refuses_before_it_computes(call, study_id: str, rows_with_ids: Path, tmp_path: Path) -> None:
    rows = str(rows_with_ids)
    code, _, err = call("predict", study_id, rows, "--out", str(tmp_path / "p.xls"))
    assert (code, "predictions are written to .parquet, .csv or .json, got 'p.xls'" in err) == (2, True)
    code, _, err = call("predict", study_id, rows, "--keep", "ids")
    assert (code, "a column to keep is one of the rows, got 'ids'" in err, "nearest: 'id'" in err) == (
        2, True, True,
    )  # fmt: skip
    code, _, err = call("predict", study_id, rows, "--threshold", "0.3")
    assert (code, "a threshold is for two classes, got a model of 3 classes" in err) == (2, True)
    code, _, err = call("predict", "no-such-study", rows)
    assert (code, "a model is a .keras file that a study saved, or a study that saved one" in err) == (
        4,
        True,
    )


def test_a_model_of_two_classes_takes_another_threshold() -> None:
    classes = Classes(("no", "yes"), numeric=False)
    preprocessing = SimpleNamespace(targets=SimpleNamespace(task=Task.CLASSIFICATION, names=("sick",)))
    model = SavedModel(None, preprocessing, classes.names, {"thresholds": None})  # type: ignore[arg-type]
    assert model.with_thresholds([0.2]).thresholds == (0.2,)
    with pytest.raises(InputError, match=r"takes 1 threshold \(sick\), got 2"):
        model.with_thresholds([0.2, 0.3])
    with pytest.raises(InputError, match=r"a threshold is a probability in \[0, 1\], got 20"):
        model.with_thresholds([20])


def test_validate_looks_at_the_table_where_it_is_asked_to(call, home: Path) -> None:
    code, out, err = call("validate", IRIS, "--data")
    assert code == 0, err
    assert "120 to train, 30 to test" in out
    assert not list(home.glob("datasets/*/validate*"))
    code, out, err = call("validate", IRIS, "--data", "--set", "dataset.label=bmi")
    assert (code, out) == (3, "")
    assert "got 'bmi'; there are: 'sepal_length_cm', " in err


def test_ctrl_c_is_a_sentence(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dnnflow.pipeline.pipeline_file.find_problems", interrupt)
    code, out, err = call("validate", IRIS)
    assert (code, out) == (130, "")
    assert err == "dnnflow: error: stopped; run the same command again to go on with what is missing\n"


@pytest.mark.slow
@pytest.mark.cluster
def test_ctrl_c_while_workers_train_leaves_a_stopped_study_and_no_traceback(tmp_path: Path) -> None:
    """A terminal sends it to all processes: to the driver and to its workers."""
    options = ["--set", "executor.workers=1", "--set", "space.epochs=5000", "--set", "designs=9"]
    environment = os.environ | {"DNNFLOW_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "dnnflow", "run", IRIS, *options], stderr=subprocess.PIPE, text=True,
        env=environment, start_new_session=True, preexec_fn=_heed_interrupts,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if line.startswith("train "):
                os.killpg(process.pid, signal.SIGINT)
    assert process.returncode == 130
    assert told[-1].startswith("dnnflow: error: stopped; ")
    assert not any("Traceback" in line for line in told)
    [record] = Store(Settings.from_environment(environment).store_url).runs()
    assert (record.state, record.is_driven) == (RunState.STOPPED, False)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ingest_prints_what_the_dataset_holds(call, tmp_path: Path) -> None:
    source = str(PIPELINES / "data" / "iris.csv")
    code, out, err = call("ingest", source, "--label", "species", "--out", str(tmp_path / "sets"), "--json")
    assert code == 0, err
    told = json.loads(out)
    assert Path(told["path"]).parent == tmp_path / "sets"
    assert told["rows"] == {"train": 120, "test": 30}
    assert (
        "120 to train, 30 to test"
        in call("ingest", source, "--label", "species", "--out", str(tmp_path / "sets"))[1]
    )


def test_ingest_prints_what_to_know_of_the_table_once(call, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a;b;y\n" + "".join(f"{i % 7},5;{i % 3};{('x', 'y', 'NA')[i % 3]}\n" for i in range(30)))
    code, out, err = call("ingest", str(table), "--label", "y", "--out", str(tmp_path / "sets"))
    assert code == 0
    told = [line for line in out.splitlines() if line.startswith("note ")]
    assert told[0].endswith(
        "column 'a' is read as numbers, '0,5' as 0.5; if it is text, list it in text_columns"
    )
    assert "10 of 30 rows are left out, as their label is missing ('NA' 10)" in told[1]
    assert "left out" not in err
    more = ("--missing-label", "", "--number-column", "a=1.234,56", "--rare-classes", "merge")
    dataset = call("ingest", str(table), "--label", "y", "--out", str(tmp_path / "sets"), *more, "--json")
    assert json.loads(dataset[1])["class_names"] == ["NA", "x", "y"]


def test_ingest_takes_several_labels(call, tmp_path: Path) -> None:
    arguments = ["ingest", str(PIPELINES / "data" / "iris.csv"), "--out", str(tmp_path), "--json"]
    labels = ["--label", "petal_width_cm", "--label", "petal_length_cm"]
    code, out, err = call(*arguments, *labels, "--drop", "species", "--task", "regression")
    assert code == 0, err
    told = json.loads(out)
    assert (told["label"], told["task"]) == (["petal_width_cm", "petal_length_cm"], "regression")
    assert [one["name"] for one in told["targets"]] == told["label"]
