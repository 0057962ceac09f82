"""The doors to dnnflow, each as a user has it: commands, a script, a flow's file, requests.

Nothing in here, but for what a user types, knows a module of dnnflow.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests import waiting

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
"""How long anything is waited for before a test fails."""

STUDY_SCRIPT = "import sys, dnnflow; dnnflow.run_study(dnnflow.load_pipeline(sys.argv[1]))"
TRAIN_SCRIPT = """
import json, sys, dnnflow, keras
from distributed import Client
from pathlib import Path

given = json.loads(Path(sys.argv[1]).read_text())
name, rate = given.pop("optimizer").split(":")
given["optimizer"] = keras.optimizers.get({"class_name": name, "config": {"learning_rate": float(rate)}})
table, outputs = given.pop("table"), given.pop("outputs")
data = dnnflow.ingest(table["source"], table["label"])
with Client(given.pop("address")) as client:
    trained = dnnflow.train(given.pop("model"), str(data.path), client=client, **given)
trained["model"].save(outputs["model"])
trained["history"].frame().to_csv(outputs["history"], index=False)
trained["history"].report(Path(outputs["report"]))
"""


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """Return what `look` finds as soon as it is true."""
    return waiting.wait_for(look, PATIENCE_S, what)


class Door:
    """One way in, with a home of its own: what it made before is unknown to the other doors."""

    name = ""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = {**os.environ, **environment, "DNNFLOW_HOME": str(home)}
        self.started: list[subprocess.Popen[bytes]] = []
        home.mkdir()

    def cli(self, *arguments: str) -> str:
        """Return what a command prints, in this door's home.

        Raises
        ------
        RuntimeError
            If it ends with another exit code.
        """
        command = (sys.executable, "-m", "dnnflow", *arguments)
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout

    def at(self, home: Path) -> Self:
        """Return the same door to another home."""
        other = copy.copy(self)
        other.home, other.environment = home, {**self.environment, "DNNFLOW_HOME": str(home)}
        return other

    def close(self) -> None:
        """End what a test that failed has left."""
        for process in self.started:
            process.kill()
            process.wait()

    def begin(self, pipeline: dict[str, Any]) -> None:
        """Start a study."""
        raise NotImplementedError

    def go_on(self, pipeline: dict[str, Any], study_id: str) -> None:
        """Do what goes on with a study that ended early."""
        raise NotImplementedError

    def after_kill(self, pipeline: dict[str, Any], study_id: str) -> None:
        """Do what a study needs whose process was killed."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait until the study that was started has ended well."""
        raise NotImplementedError

    def wait_stopped(self, study_id: str) -> None:
        """Wait until a study has ended, in whatever way."""
        raise NotImplementedError

    def train(self, pipeline: dict[str, Any], model: Path) -> Path:
        """Train a model data-parallel and return the directory of what is written."""
        raise NotImplementedError

    def studies(self) -> set[str]:
        """Return the ids of all studies that have files."""
        return {path.name for path in self.home.glob("studies/*")}

    def begin_new(self, pipeline: dict[str, Any]) -> Callable[[], str]:
        """Start a study; return what gives its id, which is empty for as long as it has no files."""
        known = self.studies()
        self.begin(pipeline)
        return lambda: next(iter(self.studies() - known), "")

    def run(self, pipeline: dict[str, Any]) -> str:
        """Run a study to its end and return its id."""
        find_id = self.begin_new(pipeline)
        self.wait()
        assert find_id(), "an earlier study went on"
        return find_id()

    def cancel(self, study_id: str) -> None:
        """Have a study that is trained stop; return when it did."""
        self.cli("cancel", study_id)


class ProcessDoor(Door):
    """A door that is a process."""

    process: subprocess.Popen[bytes]

    def command(self, file: Path) -> tuple[str, ...]:
        """Return what a user types to run a study."""
        raise NotImplementedError

    def train_command(self, file: Path) -> tuple[str, ...]:
        """Return what a user types to train one model."""
        return self.command(file)

    def begin(self, pipeline: dict[str, Any]) -> None:
        """Start a study."""
        file = self.home / f"{pipeline['name']}.yaml"
        file.write_text(yaml.safe_dump(pipeline))
        self._start(self.command(file))

    def go_on(self, pipeline: dict[str, Any], study_id: str) -> None:
        """Do what goes on with a study that ended early: all the same once more."""
        self.begin(pipeline)

    after_kill = go_on

    def wait(self) -> None:
        """Wait until what was started has ended well."""
        code = self.process.wait(PATIENCE_S)
        assert code == 0, (self.home / "printed").read_text()[-4000:]

    def wait_stopped(self, study_id: str) -> None:
        """Wait until what was started has ended, in whatever way."""
        self.process.wait(PATIENCE_S)

    def train(self, pipeline: dict[str, Any], model: Path) -> Path:
        """Train a model data-parallel and return the directory of what is written."""
        out = self.home / "trained"
        out.mkdir()
        files = {"model": "model.keras", "history": "history.csv", "report": "report.html"}
        outputs = {name: str(out / file) for name, file in files.items()}
        file = self.home / "train.yaml"
        whole = {**pipeline, "model": {**pipeline["model"], "source": str(model)}, "outputs": outputs}
        file.write_text(yaml.safe_dump(whole))
        self._start(self.train_command(file))
        self.wait()
        return out

    def _start(self, command: tuple[str, ...]) -> None:
        with (self.home / "printed").open("wb") as printed:
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.home, stdout=printed, stderr=subprocess.STDOUT
            )
        self.started.append(self.process)


class CommandLine(ProcessDoor):
    """`dnnflow run FILE`."""

    name = "cli"

    def command(self, file: Path) -> tuple[str, ...]:
        return (sys.executable, "-m", "dnnflow", "run", str(file), "--json")


class Python(ProcessDoor):
    """`dnnflow.run_study` and `dnnflow.train` in a script."""

    name = "python"

    def command(self, file: Path) -> tuple[str, ...]:
        return (sys.executable, "-c", STUDY_SCRIPT, str(file))

    def train_command(self, file: Path) -> tuple[str, ...]:
        given = yaml.safe_load(file.read_text())
        model = dict(given["model"])
        call = {
            **given["parallel"],
            "model": model["source"],
            "loss": model["loss"],
            "metrics": model["metrics"],
            "optimizer": model["optimizer"],
            "table": given["dataset"],
            "outputs": given["outputs"],
            "address": self.environment["DNNFLOW_CLUSTER"],
        }
        file.write_text(json.dumps(call))
        return (sys.executable, "-c", TRAIN_SCRIPT, str(file))


class Flow(ProcessDoor):
    """The flows, as `make quickstart` runs them on a Prefect server."""

    name = "flow"

    def command(self, file: Path) -> tuple[str, ...]:
        return (sys.executable, str(ROOT / "flows" / "run_pipeline.py"), str(file))


class Rest(Door):
    """Requests to `dnnflow web`, which runs jobs by its embedded launcher."""

    name = "rest"

    def close(self) -> None:
        """End the connection."""
        self.client.close()

    def connect(self, url: str) -> None:
        """Say where the server is."""
        self.client = httpx.Client(base_url=f"{url}api/v1", timeout=60)
        self._sources: dict[str, str] = {}
        self._study_id = ""

    def sent(self, pipeline: dict[str, Any]) -> dict[str, Any]:
        """Return a pipeline as it is sent: with an upload as its table, without places."""
        path = pipeline["dataset"]["source"]
        if path not in self._sources:
            headers = {"Content-Type": "text/csv", "X-File-Name": Path(path).name}
            answer = self.client.post("/datasets", content=Path(path).read_bytes(), headers=headers)
            self._sources[path] = answer.raise_for_status().json()["source"]
        outputs = {key: value for key, value in pipeline.get("outputs", {}).items() if key != "report"}
        dataset = {**pipeline["dataset"], "source": self._sources[path]}
        return {**pipeline, "dataset": dataset, **({"outputs": outputs} if outputs else {})}

    def get(self, path: str) -> Any:
        """Return an answer's JSON."""
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> Any:
        """Return the JSON of the answer to a request that changes something."""
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def begin(self, pipeline: dict[str, Any]) -> None:
        """Start a study."""
        self._study_id = self.post("/studies", {"pipeline": self.sent(pipeline)})["study_id"]

    def after_kill(self, pipeline: dict[str, Any], study_id: str) -> None:
        """Do nothing: the launcher starts a job once more whose process died."""

    def go_on(self, pipeline: dict[str, Any], study_id: str) -> None:
        """Resume a study that was cancelled."""
        self.post(f"/studies/{study_id}/resume")

    def cancel(self, study_id: str) -> None:
        """Ask for the end of a study that is trained."""
        self.post(f"/studies/{study_id}/cancel")

    def wait(self) -> None:
        """Wait until the study begun last is finished."""
        self.wait_for("finished", self._study_id)

    def wait_stopped(self, study_id: str) -> None:
        """Wait until a cancelled study can be resumed."""
        self.wait_for("stopped", study_id)

    def wait_for(self, state: str, study_id: str) -> None:
        """Wait until a study is in a state."""

        def look() -> bool:
            status = self.get(f"/studies/{study_id}")
            assert status["state"] != "failed", status["error"]
            return bool(status["state"] == state)

        wait_for(look, f"study {study_id} is {state}")

    def train(self, pipeline: dict[str, Any], model: Path) -> Path:
        """Train a model of a study data-parallel and return the directory of what is written.

        A sent pipeline names no files: `model` is `home/studies/ID/models/best-RANK.keras`.
        """
        study_id, rank = model.parts[-3], model.stem.removeprefix("best-")
        whole = {**pipeline, "model": {**pipeline["model"], "source": f"study:{study_id}/{rank}"}}
        run_id = self.post("/runs", {"pipeline": self.sent(whole)})["run_id"]

        def look() -> bool:
            status = self.get(f"/runs/{run_id}")
            assert status["state"] != "failed", status["error"]
            return bool(status["state"] == "finished")

        wait_for(look, "the training is finished")
        return next(path.parent for path in self.home.rglob("history.csv") if run_id in path.parts)
