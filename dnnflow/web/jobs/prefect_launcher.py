"""Have runs done as flow runs of a Prefect server's deployments, asked for and watched over its REST API.

A flow run's tags say which run it is; the run's row follows the flow run's state while no process drives it.
Prefect itself is not imported.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from dnnflow.errors import ConflictError, LaunchError, NotFoundError, StudyStopped
from dnnflow.events import Command
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState, brought_up, mask_credentials
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.launching import ENDING_EVERY_S, ENDING_S, kind_of, run_not_found
from dnnflow.web.jobs.places import outcome_of, with_places

TAG = "dnnflow-web"
ID_TAG = "dnnflow-job:"
DEPLOYMENT = "web"
"""Of each flow; it has no pipeline of its own, which a job's would be laid over."""
FLOWS = {RunKind.STUDY: "study", RunKind.TRAINING: "train"}
"""Kind of a run and name of its flow."""
TIMEOUT_S = 10.0
BUSY_S = (0.5, 1.0, 2.0)
"""Waits before further tries where the server's database is busy; nothing is done twice by them."""
SHOWN = 200
"""Runs a list shows, as many as the server answers at once."""
STATES = {
    "SCHEDULED": RunState.QUEUED,
    "PENDING": RunState.QUEUED,
    "PAUSED": RunState.QUEUED,
    "RUNNING": RunState.RUNNING,
    "CANCELLING": RunState.RUNNING,
    "COMPLETED": RunState.FINISHED,
    "FAILED": RunState.FAILED,
    "CRASHED": RunState.FAILED,
    "CANCELLED": RunState.STOPPED,
}
QUEUE = "prefect"
"""Of the rows of its runs; no supervisor takes them."""

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
        self._directory, self._store = directory.absolute(), Store(settings.store_url)
        user, _, password = (auth or "").partition(":")
        self._client = httpx.Client(
            base_url=self._api,
            auth=httpx.BasicAuth(user, password) if auth else None,
            timeout=TIMEOUT_S,
        )

    def launch(self, pipeline: Pipeline | TrainPipeline, run_id: str, *, key: str | None = None) -> RunRecord:
        """Ask for a flow run; see `Launcher`."""
        kind, plain = kind_of(pipeline), pipeline.plain()
        record = self._store.ask(run_id, kind, pipeline.name, plain, key=key, queue=QUEUE)
        if record.run_url is not None:  # made before, with the same key
            return record
        parameters: dict[str, Any] = {"pipeline": plain, "study_id": record.run_id}
        if kind is RunKind.TRAINING:
            placed = with_places(plain, self._directory / record.run_id, restore=False)
            parameters = {"pipeline": placed.plain(), "run_id": record.run_id}
        body = {
            "name": pipeline.name,
            "parameters": parameters,
            "tags": [TAG, f"{ID_TAG}{record.run_id}"],
            "idempotency_key": f"{TAG}:{record.run_id}",
        }
        try:
            deployment = self._deployment(FLOWS[kind])
            run = self._call("POST", f"/deployments/{deployment}/create_flow_run", body)
        except LaunchError:
            self._store.drop(record.run_id)
            raise
        return self._follow(run)

    def refresh(self, run_id: str | None = None) -> None:
        """Have the rows follow the newest flow runs, or that of one run."""
        record = self._store.find(run_id) if run_id is not None else None
        if record is None or record.queue == QUEUE:
            for run in self._runs([TAG] if run_id is None else [TAG, f"{ID_TAG}{run_id}"]):
                self._follow(run)

    def resume(self, run_id: str) -> RunRecord:
        """Have a flow run that has ended started again; its study goes on with what is missing."""
        run = self._run(run_id)
        deadline_s = time.monotonic() + ENDING_S
        while self._follow(run).ended_at is not None and not STATES[run["state_type"]].has_ended:
            if time.monotonic() > deadline_s:
                raise ConflictError(
                    f"a run is resumed when Prefect knows of its end, got {run['state_type']} for {run_id}; "
                    "try again in a moment"
                )
            time.sleep(ENDING_EVERY_S)
            run = self._run(run_id)
        if STATES[run["state_type"]].has_ended:
            state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "resumed from dnnflow web"}
            self._set_state(run, state)
            self._store.enqueue(run_id, QUEUE)
        return self._follow(self._run(run_id))

    def cancel(self, run_id: str) -> RunRecord:
        """End a run: a study that is driven is asked first; otherwise, or if asked again, Prefect ends it."""
        run = self._run(run_id)
        record = self._follow(run)
        if not STATES[run["state_type"]].has_ended:
            self._store.send_command(run_id, Command.CANCEL)
            if not (record.has_designs and record.is_driven and record.command is not Command.CANCEL):
                self._set_state(run, {"type": "CANCELLING", "message": "cancelled from dnnflow web"})
        return self._follow(self._run(run_id))

    def log(self, run_id: str) -> str:
        """Return nothing: the flow run's page has its log."""
        self._run(run_id)
        return ""

    def close(self) -> None:
        """Close the connections to the server and to the store."""
        self._client.close()
        self._store.close()

    def _deployment(self, flow: str) -> str:
        try:
            found = self._call("GET", f"/deployments/name/{quote(flow)}/{DEPLOYMENT}")
        except NotFoundError as error:
            raise LaunchError(
                f"a job needs the deployment {flow}/{DEPLOYMENT}, got none at {self._api}; register those of "
                "prefect.yaml with prefect --no-prompt deploy --all"
            ) from error
        return str(found["id"])

    def _run(self, run_id: str) -> dict[str, Any]:
        runs = self._runs([TAG, f"{ID_TAG}{run_id}"])
        if not runs:
            raise run_not_found(run_id)
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

    def _follow(self, run: Mapping[str, Any]) -> RunRecord:
        """Bring a run's row up to date with its flow run, and return it; a driver tells its state itself."""
        run_id, state, page = _id_of(run), _state_of(run), self._page(run)
        stage = None if state.has_ended else str(run.get("state_name") or "")
        record = self._store.find(run_id)
        if record is None or record.queue is None:
            self._store.adopt(self._record(run))
            record = self._store.run(run_id)
        if record.run_url != page:
            self._store.tell(run_id, run_url=page)
        if record.started_at is None and run.get("start_time"):
            self._store.tell(run_id, started_at=run["start_time"])
        if not record.is_driven:
            if record.stage != stage:
                self._store.tell(run_id, stage=stage)
            if state.has_ended and record.ended_at is None:
                message = (run.get("state") or {}).get(
                    "message"
                ) or f"the run ended as {run.get('state_name')}"
                error = _reason(message) if state is RunState.FAILED else None
                is_trained = record.kind is RunKind.TRAINING and state is RunState.FINISHED
                outcome = outcome_of(run["parameters"]["pipeline"]) if is_trained else None
                self._store.end(run_id, state, error=error, outcome=outcome)
            elif not state.has_ended and record.command is not Command.CANCEL and _is_news(run, record):
                self._store.reopen(run_id, state)
        return self._store.run(run_id)

    def _record(self, run: Mapping[str, Any]) -> RunRecord:
        """Return the row of a flow run that an older dnnflow asked for."""
        pipeline, created_at = run["parameters"]["pipeline"], str(run["created"])
        kind = RunKind.STUDY if "study_id" in run["parameters"] else RunKind.TRAINING
        return RunRecord(run_id=_id_of(run), kind=kind, name=str(pipeline.get("name", kind)),
                         state=RunState.QUEUED, queue=QUEUE, queued_s=0.0, created_at=created_at,
                         updated_at=created_at, pipeline=mask_credentials(brought_up(pipeline)))  # fmt: skip

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


def _state_of(run: Mapping[str, Any]) -> RunState:
    state = STATES.get(run["state_type"], RunState.QUEUED)
    message = (run.get("state") or {}).get("message") or ""
    return RunState.STOPPED if state is RunState.FAILED and STOPPED in message else state


def _is_news(run: Mapping[str, Any], record: RunRecord) -> bool:
    """Whether a flow run came to its state after its row ended: the driver says so before Prefect does."""
    since = (run.get("state") or {}).get("timestamp")
    if record.ended_at is None or since is None:
        return True
    return datetime.fromisoformat(since) > datetime.fromisoformat(record.ended_at)


def _reason(message: str) -> str:
    """Return what an error said, without what Prefect puts before it."""
    text = message.removeprefix("Flow run encountered an exception: ")
    name, colon, rest = text.partition(": ")
    return " ".join((rest if colon and name.isidentifier() else text).split())
