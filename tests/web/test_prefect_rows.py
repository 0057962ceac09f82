"""The row of a run that Prefect does says how it ended, whoever learns of it first."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.prefect_launcher import ID_TAG, QUEUE, TAG, PrefectLauncher


@pytest.fixture
def flow_run() -> dict[str, Any]:
    """A flow run as a Prefect server describes it; tests change it."""
    return {"id": "f", "name": "a study", "tags": [TAG, f"{ID_TAG}a"], "created": "2026-01-01T00:00:00Z",
            "start_time": None, "parameters": {"pipeline": {"name": "a study"}, "study_id": "a"}}  # fmt: skip


@pytest.fixture
def launcher(
    flow_run: dict[str, Any], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrefectLauncher]:
    server = httpx.MockTransport(lambda request: httpx.Response(200, json=[flow_run]))
    with closing(PrefectLauncher("http://prefect", tmp_path, settings)) as opened:
        monkeypatch.setattr(opened, "_client", httpx.Client(transport=server, base_url="http://prefect/api"))
        yield opened


def now(after_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=after_s)).isoformat().replace("+00:00", "Z")


def test_an_end_that_prefect_has_not_heard_of_stands(
    launcher: PrefectLauncher, flow_run: dict[str, Any], settings: Settings
) -> None:
    with Store(settings.store_url) as store:
        store.ask("a", RunKind.STUDY, "a study", {"name": "a study"}, queue=QUEUE)
        flow_run |= {"state_type": "RUNNING", "state_name": "Running", "state": {"timestamp": now(-5)}}
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
