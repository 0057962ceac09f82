"""The row of a run that Prefect does says how it ended, whoever learns of it first."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dnnflow.errors import ConflictError
from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs import prefect_launcher
from dnnflow.web.jobs.prefect_launcher import ID_TAG, QUEUE, TAG, PrefectLauncher


@pytest.fixture
def flow_run() -> dict[str, Any]:
    """A flow run as a Prefect server describes it; tests change it."""
    return {"id": "f", "name": "a study", "tags": [TAG, f"{ID_TAG}a"], "created": "2026-01-01T00:00:00Z",
            "start_time": None, "parameters": {"pipeline": {"name": "a study"}, "study_id": "a"}}  # fmt: skip


@pytest.fixture
def ends_in() -> Iterator[bool]:
    """Whether the server hears of the run's end, question by question; never, unless a test says so."""
    return iter([])


@pytest.fixture
def launcher(
    flow_run: dict[str, Any],
    ends_in: Iterator[bool],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PrefectLauncher]:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/set_state"):
            flow_run.update(state_type="SCHEDULED", state={"timestamp": now()})
            return httpx.Response(200, json={"status": "ACCEPT"})
        if next(ends_in, False):
            flow_run.update(state_type="FAILED", state={"timestamp": now()})
        return httpx.Response(200, json=[flow_run])

    server = httpx.MockTransport(answer)
    with closing(PrefectLauncher("http://prefect", tmp_path, settings)) as opened:
        monkeypatch.setattr(opened, "_client", httpx.Client(transport=server, base_url="http://prefect/api"))
        yield opened


def now(after_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=after_s)).isoformat().replace("+00:00", "Z")


def begin(store: Store, flow_run: dict[str, Any]) -> None:
    store.ask("a", RunKind.STUDY, "a study", {"name": "a study"}, queue=QUEUE)
    flow_run.update(state_type="RUNNING", state_name="Running", state={"timestamp": now(-5)})


def test_an_end_that_prefect_has_not_heard_of_stands(
    launcher: PrefectLauncher, flow_run: dict[str, Any], settings: Settings
) -> None:
    with Store(settings.store_url) as store:
        begin(store, flow_run)
        launcher.refresh("a")
        assert store.run("a").state is RunState.RUNNING
        store.end("a", RunState.FAILED, error="the table must exist")
        launcher.refresh("a")
        ended = store.run("a")
        assert (ended.state, ended.error) == (RunState.FAILED, "the table must exist")
        # One who has Prefect try again is heard: that came after the end
        flow_run["state"] = {"timestamp": now(5)}
        launcher.refresh("a")
        assert (store.run("a").state, store.run("a").ended_at) == (RunState.RUNNING, None)


@pytest.mark.parametrize("ends_in", [iter([False, False, False, True])])
def test_a_run_is_resumed_although_prefect_hears_of_its_end_late(
    launcher: PrefectLauncher, flow_run: dict[str, Any], settings: Settings
) -> None:
    with Store(settings.store_url) as store:
        begin(store, flow_run)
        launcher.refresh("a")
        store.end("a", RunState.FAILED, error="the table must exist")
        assert launcher.resume("a").state is RunState.QUEUED


def test_a_run_whose_end_prefect_never_hears_of_is_not_resumed_without_a_word(
    launcher: PrefectLauncher, flow_run: dict[str, Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_launcher, "ENDING_S", 0.0)
    with Store(settings.store_url) as store:
        begin(store, flow_run)
        store.end("a", RunState.FAILED, error="the table must exist")
        with pytest.raises(ConflictError, match="got RUNNING for a; try again"):
            launcher.resume("a")
