"""The README's Python example as a script, as people write it: without `if __name__ == "__main__"`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import readme

TESTS = Path(__file__).parents[1]
ENGINE = """
import os, signal
from pathlib import Path
from executor_engines import Instant

class Once(Instant):
    '''Takes its worker along the first time, so that another has to be started.'''
    def work(self, design):
        try:
            Path("killed").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
"""
PIPELINE = """
name: tiny
dataset: {{source: table.csv, label: y}}
space: {{depth: {{int: [1, 2]}}, epochs: 1, seed: {{int: [0, 1]}}}}
strategy: grid
training: {{engine: "{engine}"}}
executor: {executor}
outputs: {{models: 0}}
"""


def run_example(folder: Path, engine: str, executor: str) -> "subprocess.CompletedProcess[str]":
    """Run the example in a folder that is not its own, on a tiny pipeline."""
    (example,) = readme.blocks("Five doors to the same job")
    assert "pipelines/iris.yaml" in example
    (folder / "scripts").mkdir()
    script = folder / "scripts" / "script.py"
    script.write_text("print('once', flush=True)\n" + example.replace("pipelines/iris.yaml", "tiny.yaml"))
    (folder / "table.csv").write_text("x,y\n1,a\n2,b\n3,a\n4,b\n5,a\n6,b\n")
    (folder / "tiny.yaml").write_text(PIPELINE.format(engine=engine, executor=executor))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TF_", "DNNFLOW"))
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=120)  # fmt: skip


@pytest.mark.slow
def test_an_unguarded_script_runs_once_whatever_workers_it_loses(tmp_path: Path) -> None:
    """Each worker would run the script again, and those started after a loss too.

    Its engine lies in the current folder, which is not the script's.
    """
    (tmp_path / "beside_script.py").write_text(ENGINE)
    done = run_example(tmp_path, "beside_script:Once", "{workers: 1, dashboard_port: 0}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n"
    assert (tmp_path / "killed").exists(), "no worker was lost"
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_training_in_the_scripts_own_process_writes_its_progress_and_nothing_else(tmp_path: Path) -> None:
    """TensorFlow complains of GPUs that it does not find."""
    done = run_example(tmp_path, "keras", "{kind: in-process}")
    assert (done.returncode, done.stdout) == (0, "once\n")
    stages = ("upload", "preprocess", "train", "aggregate", "finalists", "test", "final", "report", "  ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(stages)] == []
