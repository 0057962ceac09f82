"""Jobs that are runs of a Prefect server's deployments, asked for and watched over its REST API.

Nothing is kept here: a run's tags say which job it is. Prefect itself is not imported.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from dnnflow.errors import ConflictError, LaunchError, NotFoundError, StudyStopped
from dnnflow.events import Command
from dnnflow.paths import content_id
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import mask_credentials
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.launching import Launch, LaunchState
from dnnflow.web.jobs.places import outcome_of, with_places

TAG = "dnnflow-web"
ID_TAG = "dnnflow-job:"
DEPLOYMENT = "web"
"""Of each flow; it has no pipeline of its own, which a job's would be laid over."""
FLOWS = {"study": "study", "train": "train"}
"""Kind of a job and name of its flow."""
TIMEOUT_S = 10.0
BUSY_S = (0.5, 1.0, 2.0)
"""Waits before further tries where the server's database is busy; nothing is done twice by them."""
SHOWN = 200
"""Runs a list shows, as many as the server answers at once."""
STATES = {
    "SCHEDULED": LaunchState.QUEUED,
    "PENDING": LaunchState.QUEUED,
    "PAUSED": LaunchState.QUEUED,
    "RUNNING": LaunchState.RUNNING,
    "CANCELLING": LaunchState.RUNNING,
    "COMPLETED": LaunchState.FINISHED,
    "FAILED": LaunchState.FAILED,
    "CRASHED": LaunchState.FAILED,
    "CANCELLED": LaunchState.CANCELLED,
}

STOPPED = f"exception: {StudyStopped.__name__}: "
"""In the message of a run whose study was asked to stop, which ends as failed."""


class PrefectLauncher:
    """Asks a Prefect server for runs of the deployments `study/web` and `train/web`.

    Parameters
    ----------
    url
        Of the server or of its API.
    directory
        Where trainings write their files; the flows' machine and this one share it.
    settings
        Of the store that both share.
    auth
        user:password, where the server asks for it.
    pages
        Address of the server as browsers reach it; default: `url`.
    """

    name = "a Prefect server"

    def __init__(self, url: str, directory: Path, settings: Settings, *,
                 auth: str | None = None, pages: str | None = None) -> None:  # fmt: skip
        base = url.rstrip("/").removesuffix("/api")
        self._pages, self._api = (pages or base).rstrip("/").removesuffix("/api"), f"{base}/api"
        self._directory, self._settings = directory.absolute(), settings
        user, _, password = (auth or "").partition(":")
        self._client = httpx.Client(
            base_url=self._api,
            auth=httpx.BasicAuth(user, password) if auth else None,
            timeout=TIMEOUT_S,
        )

    def launch(self, pipeline: Pipeline | TrainPipeline, launch_id: str, *, key: str | None = None) -> Launch:
        """Ask for a run; see `Launcher`."""
        kind = "study" if isinstance(pipeline, Pipeline) else "train"
        plain = pipeline.plain()
        parameters: dict[str, Any] = {"pipeline": plain}
        if kind == "study":
            parameters["study_id"] = launch_id
        else:
            placed = with_places(plain, self._directory / launch_id, restore=False)
            parameters["pipeline"] = placed.plain()
        digest = content_id(plain)
        body = {
            "name": pipeline.name,
            "parameters": parameters,
            "tags": [TAG, f"{ID_TAG}{launch_id}", f"dnnflow-pipeline:{digest}"],
            "idempotency_key": f"{TAG}:{content_id(key) if key is not None else launch_id}",
        }
        deployment = self._deployment(FLOWS[kind])
        run = self._call("POST", f"/deployments/{deployment}/create_flow_run", body)
        if f"dnnflow-pipeline:{digest}" not in run["tags"]:
            raise ConflictError(
                f"an idempotency key stands for one pipeline, got the key of job {_id_of(run)} with another; "
                "take a new key"
            )
        return self._shown(run)

    def get(self, launch_id: str) -> Launch:
        """Return a job as it stands now; see `Launcher`."""
        return self._shown(self._run(launch_id), outcome=True)

    def all(self) -> Sequence[Launch]:
        """Return the newest jobs."""
        return [self._shown(run) for run in self._runs([TAG])]

    def resume(self, launch_id: str) -> Launch:
        """Have a run that has ended started again; its study goes on with what is missing."""
        run = self._run(launch_id)
        if STATES[run["state_type"]].has_ended:
            self._want(run, Command.RUN)
            state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "resumed from dnnflow web"}
            self._set_state(run, state)
        return self.get(launch_id)

    def cancel(self, launch_id: str) -> Launch:
        """End a run: a study that is driven is asked first; otherwise, or if asked again, Prefect ends it."""
        run = self._run(launch_id)
        if not STATES[run["state_type"]].has_ended and not self._obeys(run):
            self._set_state(run, {"type": "CANCELLING", "message": "cancelled from dnnflow web"})
        return self.get(launch_id)

    def log(self, launch_id: str) -> str:
        """Return nothing: the run's page has its log."""
        self._run(launch_id)
        return ""

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    def _deployment(self, flow: str) -> str:
        try:
            found = self._call("GET", f"/deployments/name/{quote(flow)}/{DEPLOYMENT}")
        except NotFoundError as error:
            raise LaunchError(
                f"a job needs the deployment {flow}/{DEPLOYMENT}, got none at {self._api}; register those of "
                "prefect.yaml with prefect --no-prompt deploy --all"
            ) from error
        return str(found["id"])

    def _run(self, launch_id: str) -> dict[str, Any]:
        runs = self._runs([TAG, f"{ID_TAG}{launch_id}"])
        if not runs:
            raise NotFoundError(
                f"a job is found by its id, got {launch_id!r}; GET /api/v1/studies and /api/v1/runs list them"
            )
        return runs[0]

    def _runs(self, tags: Sequence[str]) -> list[dict[str, Any]]:
        chosen = {"tags": {"all_": list(tags)}}
        body = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": SHOWN}
        runs: list[dict[str, Any]] = self._call("POST", "/flow_runs/filter", body)
        return sorted(runs, key=lambda run: str(run["created"]), reverse=True)

    def _set_state(self, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        answer = self._call("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": False})
        if answer["status"] not in ("ACCEPT", "WAIT"):
            reason = answer.get("details", {}).get("reason") or "no reason given"
            raise LaunchError(
                f"a run changes as Prefect allows, got a refusal of {state['type']} for "
                f"{_id_of(run)}: {reason}; see {self._page(run)}"
            )

    def _want(self, run: Mapping[str, Any], wanted: Command) -> None:
        if _kind_of(run) == "study":
            with suppress(NotFoundError), Store(self._settings.store_url) as store:
                store.send_command(_id_of(run), wanted)

    def _obeys(self, run: Mapping[str, Any]) -> bool:
        """Ask the study of a run to stop; return whether somebody not asked before reads that."""
        study_id = _id_of(run)
        if _kind_of(run) != "study":
            return False
        with Store(self._settings.store_url) as store:
            record = store.find(study_id)
            if record is None:
                return False
            store.send_command(study_id, Command.CANCEL)
            return record.command is not Command.CANCEL and store.driver(study_id) is not None

    def _shown(self, run: Mapping[str, Any], *, outcome: bool = False) -> Launch:
        kind, state = _kind_of(run), _state_of(run)
        pipeline = run["parameters"]["pipeline"]
        is_trained = outcome and kind == "train" and state is LaunchState.FINISHED
        message = (run.get("state") or {}).get("message") or f"the run ended as {run.get('state_name')}"
        return Launch(
            launch_id=_id_of(run),
            kind=kind,
            name=str(pipeline.get("name", kind)),
            state=state,
            created_at=str(run["created"]),
            started_at=run.get("start_time"),
            ended_at=run.get("end_time") if state.has_ended else None,
            pipeline=mask_credentials(pipeline),
            stage=None if state.has_ended else str(run.get("state_name") or ""),
            error=_reason(message) if state is LaunchState.FAILED else None,
            run_url=self._page(run),
            outcome=outcome_of(pipeline) if is_trained else None,
        )

    def _page(self, run: Mapping[str, Any]) -> str:
        return f"{self._pages}/runs/flow-run/{run['id']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
            for wait_s in BUSY_S:
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
                time.sleep(wait_s)
                response = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise LaunchError(
                f"jobs run on the Prefect server at {self._api}, got no answer: "
                f"{str(error) or type(error).__name__}; start it, or give its address with --prefect"
            ) from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFoundError(f"the Prefect server must know {path}, got 404; see {self._pages}")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise LaunchError(
                f"the Prefect server at {self._api} must let dnnflow in, got {response.status_code}; "
                "set PREFECT_API_AUTH_STRING=user:password"
            )
        if response.is_error:
            raise LaunchError(
                f"the Prefect server must accept a job, got {response.status_code} for {path}: "
                f"{_reason(response.text)[:500]}; see {self._pages}"
            )
        return response.json() if response.content else None


def _id_of(run: Mapping[str, Any]) -> str:
    return next((tag.removeprefix(ID_TAG) for tag in run["tags"] if tag.startswith(ID_TAG)), "")


def _state_of(run: Mapping[str, Any]) -> LaunchState:
    state = STATES.get(run["state_type"], LaunchState.QUEUED)
    message = (run.get("state") or {}).get("message") or ""
    return LaunchState.CANCELLED if state is LaunchState.FAILED and STOPPED in message else state


def _kind_of(run: Mapping[str, Any]) -> str:
    return "study" if "study_id" in run["parameters"] else "train"


def _reason(message: str) -> str:
    """Return what an error said, without what Prefect puts before it."""
    text = message.removeprefix("Flow run encountered an exception: ")
    name, colon, rest = text.partition(": ")
    return " ".join((rest if colon and name.isidentifier() else text).split())
