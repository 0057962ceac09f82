"""Studies are named, found, copied and deleted from the command line, and nothing is deleted unasked."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from dnnflow.cli import main as cli
from dnnflow.cli.upkeep_commands import seconds_of
from dnnflow.errors import InputError
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from tests.conftest import PIPELINES
from tests.web.recording import insert_study

PIPELINE = {"name": "iris", "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"},
            "space": {"depth": {"int": [1, 3]}, "units": 16, "epochs": 1}, "designs": 4,
            "executor": {"kind": "in-process"}}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"DNNFLOW_HOME": str(tmp_path / "home")})


@pytest.fixture
def store(settings: Settings):
    with Store(settings.store_url) as opened:
        yield opened


@pytest.fixture
def study_id(store: Store) -> str:
    return insert_study(store, 6, pipeline=dict(PIPELINE))


@pytest.fixture
def call(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("DNNFLOW_HOME", str(settings.workspace.home))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dnnflow", *arguments])
        code = cli.guarded(cli.app, debug=False)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def report(settings: Settings, study_id: str) -> Path:
    path = settings.workspace.report(study_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a report" * 1000)
    return path


def test_the_version_is_told() -> None:
    run = subprocess.run([sys.executable, "-m", "dnnflow", "--version"], capture_output=True, text=True,
                         check=True)  # fmt: skip
    assert run.stdout.startswith("dnnflow 0.")


def test_bash_completes_commands_and_options() -> None:
    def complete(words: str, at: int) -> list[str]:
        more = {"_DNNFLOW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        run = subprocess.run([Path(sys.executable).with_name("dnnflow")], capture_output=True, text=True,
                             env={**os.environ, **more}, check=False)  # fmt: skip
        return run.stdout.split()

    assert complete("dnnflow re", 1) == ["resume", "report", "rename"]
    assert "--dry-run" in complete("dnnflow clean --d", 2)
    assert "--replicas" in complete("dnnflow train m d --rep", 4), "options made of a model's fields, too"


def test_delete_asks_and_then_leaves_nothing(
    call, store: Store, settings: Settings, study_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = report(settings, study_id)
    code, _, err = call("delete", study_id)
    assert (code, err) == (2, "dnnflow: error: a deletion is confirmed by a person or by --yes, got neither; "
                              "add --yes\n")  # fmt: skip
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *given, **more: False)
    code, out, _ = call("delete", study_id)
    assert code == 1
    assert "nothing was deleted" in out
    assert file.is_file()
    monkeypatch.setattr("typer.confirm", lambda *given, **more: True)
    code, out, _ = call("delete", "iris")
    assert code == 0
    assert study_id in out
    assert "freed about" in out
    assert not file.parent.exists()
    assert store.runs() == []


def test_several_go_at_once_or_none(call, store: Store) -> None:
    done, runs = insert_study(store, 2), insert_study(store, 2, state=RunState.RUNNING)
    store.claim(runs)
    code, _, err = call("delete", done, runs, "--yes")
    assert code == 6
    assert f"dnnflow cancel {runs} first" in err
    assert len(store.runs()) == 2
    other = insert_study(store, 2)
    code, out, _ = call("delete", done, other, done, "--yes", "--json")
    assert code == 0
    assert [one["study_id"] for one in json.loads(out)["deleted"]] == [done, other]
    assert [one.run_id for one in store.runs()] == [runs]
    assert call("delete", done, "--yes")[0] == 4


def test_clean_deletes_what_is_old(call, store: Store, settings: Settings) -> None:
    old, new = insert_study(store, 3, name="old"), insert_study(store, 3, name="new")
    long_ago = datetime.now(UTC) - timedelta(days=40)
    store._update(old, created_at=long_ago.isoformat(), updated_at=long_ago.isoformat())
    unused, young = (settings.workspace.dataset(letter * 64) for letter in "ab")
    for path in (unused, young):
        path.mkdir(parents=True)
    os.utime(unused, (long_ago.timestamp(), long_ago.timestamp()))
    code, out, _ = call("clean", "--older-than", "30d", "--datasets", "--dry-run")
    assert code == 0
    assert old in out
    assert new not in out
    assert str(unused) in out
    assert str(young) not in out
    assert "would free about" in out
    assert len(store.runs()) == 2
    assert unused.is_dir()
    assert "nothing to delete" in call("clean", "--older-than", "50d")[1]
    assert call("clean", "--older-than", "30d")[0] == 2, "nobody was asked"
    code, out, _ = call("clean", "--older-than", "30d", "--datasets", "--yes", "--json")
    assert code == 0
    assert [one["study_id"] for one in json.loads(out)["deleted"]] == [old]
    assert [one.run_id for one in store.runs()] == [new]
    assert not unused.exists()
    assert young.is_dir()


@pytest.mark.parametrize("age", ["", "30", "d", "-3d", "3 days", "1e9d", "nan", "infd"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    with pytest.raises(InputError, match=r"an age is a number .* got"):
        seconds_of(age)


def test_ages() -> None:
    assert [seconds_of(age) for age in ("90m", "1.5h", "30d", " 2W ")] == [5400, 5400, 2592000, 1209600]


def test_marks_are_written_and_found(call, store: Store, study_id: str) -> None:
    other = insert_study(store, 2, name="other")
    assert call("rename", study_id[:6], "flowers")[0] == 0
    assert call("note", "flowers", "the first one")[0] == 0
    assert call("tag", "flowers", "kept", "paper")[0] == 0
    code, out, _ = call("tag", "flowers", "paper", "--remove", "--json")
    assert code == 0
    assert json.loads(out) == {"study_id": study_id, "name": "flowers", "note": "the first one",
                               "tags": ["kept"]}  # fmt: skip
    code, out, _ = call("studies", "--tag", "kept")
    assert "flowers #kept" in out
    assert other not in out
    assert [one["tags"] for one in json.loads(call("studies", "--json")[1])] == [[], ["kept"]]
    code, _, err = call("tag", "flowers", "paper", "--remove")
    assert code == 2
    assert "the study has (kept), got paper" in err
    assert call("tag", "flowers", "--remove")[0] == 2


def test_studies_say_their_disk_and_their_home(call, settings: Settings, study_id: str) -> None:
    report(settings, study_id)
    (settings.workspace.dataset("b" * 64)).mkdir(parents=True)
    code, out, _ = call("studies", "--size")
    assert code == 0
    assert "kB" in out
    assert "of datasets that no study uses (1)" in out
    assert f"home    {settings.workspace.home}" in out
    (one,) = json.loads(call("studies", "--size", "--json")[1])
    assert one["files_bytes"] >= 8000
    assert one["rows_bytes"] > 0
    assert "disk " not in call("studies")[1]


def test_home_is_an_option_and_that_of_a_directory_is_told(
    call, tmp_path: Path, study_id: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study_id not in call("--home", str(tmp_path / "other"), "studies")[1]
    monkeypatch.delenv("DNNFLOW_HOME")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dnnflow-home").symlink_to(settings.workspace.home)
    code, out, err = call("studies")
    assert code == 0
    assert study_id in out
    assert err == (f"dnnflow: using {tmp_path}/dnnflow-home, since this directory has one; --home or "
                   "DNNFLOW_HOME names another\n")  # fmt: skip


def test_a_clone_is_saved_with_changes(call, store: Store, study_id: str, tmp_path: Path) -> None:
    store.describe(study_id, name="flowers")
    file = tmp_path / "clone.yaml"
    code, out, _ = call("clone", study_id, "--set", "designs=9", "--set", "space.depth={choice: [1, 4]}",
                        "--save", str(file))  # fmt: skip
    assert code == 0
    assert f"wrote {file}" in out
    plain = yaml.safe_load(file.read_text())
    assert (plain["name"], plain["designs"]) == ("flowers", 9)
    assert plain["space"] == {"depth": {"choice": [1, 4]}, "units": 16, "epochs": 1}
    code, _, err = call("clone", study_id, "--save", str(file))
    assert code == 2
    assert "which exists; name another" in err
    code, _, err = call("clone", study_id, "--set", "designs=none", "--save", str(tmp_path / "b.yaml"))
    assert code == 2
    assert "designs" in err
    assert not (tmp_path / "b.yaml").exists()


def test_what_is_not_stored_is_not_cloned(call, store: Store) -> None:
    secret = {**PIPELINE, "dataset": {**PIPELINE["dataset"], "storage_options": {"key": "a key"}}}  # type: ignore[dict-item]
    study_id = insert_study(store, 2, pipeline=secret)
    code, _, err = call("clone", study_id)
    assert code == 6
    assert "credentials, which are not stored" in err
    store.add(RunRecord(run_id="training", kind="training", name="a training"))  # type: ignore[arg-type]
    assert "what is cloned is a study" in call("clone", "training")[2]


@pytest.mark.slow
def test_a_clone_is_a_study_of_its_own(call, store: Store, study_id: str) -> None:
    code, out, err = call(
        "clone", study_id, "--set", "designs=2", "--set", "evaluation.finalists=0", "--json"
    )
    assert code == 0, err
    made = json.loads(out)["study_id"]
    assert made != study_id
    assert store.study(made).n_designs == 2
