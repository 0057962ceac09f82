"""`make quickstart`: one command, nothing to start or configure, nothing left running."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dnnflow.pipeline.pipeline_file import load_pipeline, to_yaml

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).parents[2]


def quickstart(pipeline: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a pipeline as `make quickstart` runs the shipped one."""
    return subprocess.run(
        (sys.executable, str(ROOT / "flows" / "quickstart.py"), str(pipeline)),
        cwd=home,
        env={**os.environ, "DNNFLOW_HOME": str(home / "home"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def word(pattern: str, text: str) -> str:
    """Return what the pattern's group finds in a line of the text."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, text
    return found.group(1)


def still_running(port: str) -> list[list[str]]:
    """Return the command lines that name the port of a Prefect server."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in found if "uvicorn" in command and port in command]


@pytest.mark.slow
def test_a_first_run_needs_one_command(tmp_path: Path) -> None:
    whole = load_pipeline(ROOT / "pipelines" / "iris.yaml")
    small = whole.model_copy(
        update={
            "designs": 3,
            "space": whole.space.model_copy(update={"epochs": 1, "seed": 0}),
            "executor": whole.executor.model_copy(update={"workers": 1, "dashboard_port": 0}),
            "outputs": whole.outputs.model_copy(update={"models": 0}),
        }
    )
    pipeline = tmp_path / "small.yaml"
    pipeline.write_text(to_yaml(small))
    done = quickstart(pipeline, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout
    stages = ("upload:", "preprocess:", "train:", "aggregate:", "finalists:", "report:")
    assert [lines.index(stage) for stage in stages] == sorted(lines.index(stage) for stage in stages)
    assert "3 of 3 designs" in lines
    study_id = word(r"^study +(\S+) ", lines)
    report = Path(word(r"^report +(\S+)$", lines))
    assert report == tmp_path / "home" / "studies" / study_id / "report.html"
    assert report.is_file()
    assert still_running(word(r"port (\d+)", lines)) == []


@pytest.mark.slow
def test_a_pipeline_with_a_mistake_ends_at_once_with_its_line(tmp_path: Path) -> None:
    pipeline = tmp_path / "wrong.yaml"
    pipeline.write_text("dataset:\n  source: table.csv\n  label: y\ndesings: 4\n")
    done = quickstart(pipeline, tmp_path)
    assert done.returncode == 2
    assert "line 4: desings: unknown key" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert still_running(word(r"port (\d+)", done.stdout)) == []
