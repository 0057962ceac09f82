"""Where a study stands, whoever runs it: what people decide by whether to wait."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dnnflow.errors import LaunchError
from dnnflow.events import Command, utc_now
from dnnflow.pipeline.study_pipeline import DatasetSection, Pipeline
from dnnflow.results.store.run_record import Driver, RunKind, RunState
from dnnflow.web.answers import watch as watch_module
from dnnflow.web.jobs.services import Services
from tests.waiting import wait_for
from tests.web.recording import design, recorder, trial
from tests.web.served import Served, TestClient

PIPELINE = Pipeline(dataset=DatasetSection(source="iris.csv", label="species"), designs=24, name="iris")


def status(client: TestClient, study_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/studies/{study_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def driven(services: Services, run_id: str, kind: RunKind, stage: str) -> Iterator[None]:
    """Be the process that drives a run of the command line, which is in a stage."""
    services.store.ask(run_id, kind, run_id, {"name": run_id})
    services.store.start(run_id)
    services.store.tell(run_id, stage=stage)
    with services.store.driving(run_id):
        yield


def test_a_launched_study_has_a_page_before_the_store_knows_it(
    client: TestClient, services: Services
) -> None:
    services.launcher.launch(PIPELINE, "study-0")
    shown = status(client, "study-0")
    assert (shown["state"], shown["total"], shown["completed"], shown["dataset"]) == ("queued", 24, 0, None)
    recorder(services).set("study-0", state=RunState.RUNNING, stage="preprocess: label species")
    shown = status(client, "study-0")
    assert (shown["state"], shown["stage"]) == ("preparing", "preprocess: label species")
    recorder(services).set(
        "study-0", state=RunState.FAILED, ended_at=utc_now(), error="row 3 is bad; mend it"
    )
    shown = status(client, "study-0")
    assert (shown["state"], shown["error"], shown["stage"]) == ("failed", "row 3 is bad; mend it", None)


def test_a_study_that_is_driven_runs_and_one_that_nobody_drives_has_stopped(
    client: TestClient, services: Services, make_study: Callable[..., str]
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    assert status(client, study_id)["state"] == "stopped"
    with services.store.driving(study_id):
        shown = status(client, study_id)
        assert (shown["state"], shown["missing"]) == ("running", 4)
        assert shown["rate"] > 0
        assert shown["eta_s"] is None
        services.store.tell(study_id, progress={"eta_s": 7.5})  # the run's own estimate
        assert status(client, study_id)["eta_s"] == 7.5
        services.store.send_command(study_id, Command.PAUSE)
        assert status(client, study_id)["state"] == "pausing"
        services.store.acknowledge(study_id, Command.PAUSE)
        assert (status(client, study_id)["state"], status(client, study_id)["rate"]) == ("paused", None)


def test_a_training_of_the_command_line_whose_process_died_has_stopped(
    client: TestClient, services: Services
) -> None:
    with driven(services, "t", RunKind.TRAINING, "train: m.json, data-parallel"):
        assert client.get("/api/v1/runs/t").json()["state"] == "running"
    shown = client.get("/api/v1/runs/t").json()
    assert (shown["state"], shown["stage"]) == ("cancelled", None)
    assert client.post("/api/v1/runs/t/cancel").status_code == 409
    [listed] = client.get("/api/v1/studies").json()["studies"]
    assert listed["state"] == "stopped"


def test_a_training_has_a_report_where_it_lies_in_the_workspace(
    client: TestClient, services: Services, tmp_path: Path
) -> None:
    """One of the command line writes it anywhere; the server hands out files of its own only."""
    own, other = services.settings.workspace.home / "own.html", tmp_path / "elsewhere" / "other.html"
    for run_id, path in (("own", own), ("other", other)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("<p>a report</p>")
        services.store.ask(run_id, RunKind.TRAINING, run_id, {"name": run_id})
        services.store.end(run_id, RunState.FINISHED, outcome={"report": str(path)})
        is_there = client.get(f"/api/v1/runs/{run_id}").json()["has_report"]
        assert is_there is (path is own)
        assert client.get(f"/api/v1/runs/{run_id}/report").status_code == (200 if is_there else 404)


def test_a_study_of_the_command_line_is_cancelled_while_its_table_is_read(
    client: TestClient, services: Services
) -> None:
    with driven(services, "s", RunKind.STUDY, "preprocess: label species"):
        assert act(client, "s", "cancel")[0] == 200
        assert services.store.command("s") is Command.CANCEL
    assert (status(client, "s")["state"], status(client, "s")["stage"]) == ("stopped", None)


def test_of_a_failed_job_the_error_is_shown_even_if_trials_are_there(
    client: TestClient, services: Services, make_study: Callable[..., str]
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    recorder(services).set(study_id, state=RunState.FAILED, ended_at=utc_now(), error="no worker; start one")
    assert (status(client, study_id)["state"], status(client, study_id)["error"]) == (
        "failed",
        "no worker; start one",
    )


def test_an_id_is_whole_or_nothing(client: TestClient, make_study: Callable[..., str]) -> None:
    study_id = make_study(4)
    for guess in (study_id[:-1], study_id[:3], study_id + "x", "%2e%2e", "-"):
        answer = client.get(f"/api/v1/studies/{guess}")
        assert answer.status_code == 404
        assert study_id not in answer.text.replace(guess, "")


def test_the_counts_are_new_as_soon_as_there_are_trials(
    client: TestClient, services: Services, make_study: Callable[..., str]
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    with services.store.driving(study_id):
        assert status(client, study_id)["completed"] == 4
        services.store.add_trials(study_id, [(design(4), trial(design(4), 4))])
        # counting waits for ten times what it took
        wait_for(lambda: status(client, study_id)["completed"] == 5, 30, "the counting of a new trial")


def test_the_grid_counts_every_completed_trial_at_its_depth(client: TestClient, make_study) -> None:
    study_id = make_study(240, failed=40)
    live = status(client, study_id)["live"]
    for grid in (live["score"], live["time"]):
        assert sum(count for _, _, count in grid["cells"]) == 200
        by_depth: dict[int, int] = {}
        for column, row, count in grid["cells"]:
            assert 0 <= row < 40
            depth = grid["first_depth"] + column * grid["depth_width"]
            by_depth[depth] = by_depth.get(depth, 0) + count
        assert by_depth == dict.fromkeys(range(8), 25)
    accuracies = {(20 + 5 + (index * 7) % 5) / 30 for index in range(40, 240)}
    rows = {row for _, row, _ in live["score"]["cells"]}
    low, height = live["score"]["low"], live["score"]["height"]
    assert rows == {min(39, int((accuracy - low) / height + 1e-9)) for accuracy in accuracies}


def test_a_million_layers_are_forty_columns(client: TestClient, services: Services) -> None:
    from dataclasses import replace

    from dnnflow.results.store.run_record import RunRecord

    made = [replace(design(7), layers=design(1).layers * depth) for depth in (1, 50, 399, 400)]
    record = RunRecord(key="k", name="deep", dataset_id="d", dataset_path="/", n_designs=4)
    services.store.add_study(record, made)
    services.store.add_trials(record.study_id, [(one, trial(one, 3)) for one in made])
    grid = status(client, record.study_id)["live"]["score"]
    assert grid["depth_width"] == 10
    assert [column for column, _, _ in grid["cells"]] == [0, 4, 39, 39] or len(grid["cells"]) == 3


# ---- pause, resume, cancel


def act(client: TestClient, study_id: str, what: str) -> tuple[int, str]:
    answer = client.post(f"/api/v1/studies/{study_id}/{what}")
    return answer.status_code, answer.json().get("state", answer.json().get("detail"))


def test_a_driven_study_is_asked_through_the_store(
    client: TestClient, services: Services, make_study
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    with services.store.driving(study_id):
        assert act(client, study_id, "pause") == (200, "pausing")
        assert services.store.command(study_id) is Command.PAUSE
        assert act(client, study_id, "resume")[0] == 200
        assert services.store.command(study_id) is Command.RUN
        assert act(client, study_id, "cancel")[0] == 200
        assert services.store.command(study_id) is Command.CANCEL
    assert recorder(services).asked == []


def test_a_queued_study_is_cancelled_and_resumed_by_its_launcher(
    client: TestClient, services: Services
) -> None:
    services.launcher.launch(PIPELINE, "study-0")
    assert act(client, "study-0", "pause")[0] == 409
    assert act(client, "study-0", "cancel") == (200, "stopped")
    assert act(client, "study-0", "resume") == (200, "queued")
    assert recorder(services).asked == [("launch", "study-0"), ("cancel", "study-0"), ("resume", "study-0")]


def test_a_study_that_stopped_is_resumed_by_the_launcher(
    client: TestClient, services: Services, make_study
) -> None:
    study_id = make_study(4, designs=8, state=RunState.STOPPED)
    assert act(client, study_id, "resume")[0] == 200
    assert recorder(services).asked[-1] == ("resume", study_id)


def test_what_has_finished_stays_so(client: TestClient, services: Services, make_study) -> None:
    study_id = make_study(4)
    for what in ("pause", "resume", "cancel"):
        assert act(client, study_id, what)[0] == 409
    assert recorder(services).asked == []


# ---- streams


def events_of(url: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    with httpx.stream("GET", url, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


@pytest.mark.slow
def test_a_stream_tells_changes_and_the_end(serve_app: Served, services: Services, make_study) -> None:
    study_id = make_study(4, designs=6, state=RunState.RUNNING)

    def train() -> None:
        with services.store.driving(study_id):
            for index in (4, 5):
                time.sleep(1.5)
                services.store.add_trials(study_id, [(design(index), trial(design(index), index))])
            services.store.set_state(study_id, RunState.FINISHED)

    services.store.claim(study_id, Driver.this_process())
    thread = threading.Thread(target=train)
    thread.start()
    events = events_of(f"{serve_app.url}/api/v1/studies/{study_id}/events")
    thread.join()
    assert events[-1] == ("end", {})
    counts = [data["completed"] for name, data in events if name == "status"]
    assert counts == sorted(set(counts)) or counts[-1] == 6
    assert events[-2][1]["state"] == "finished"


@pytest.mark.slow
def test_a_stream_says_nothing_while_nothing_changes_and_ends_when_asked(
    serve_app: Served, services, make_study
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    with services.store.driving(study_id):
        services.store.send_command(study_id, Command.PAUSE)
        services.store.acknowledge(study_id, Command.PAUSE)
        start = time.monotonic()
        events = events_of(f"{serve_app.url}/api/v1/studies/{study_id}/events?max_s=3")
        assert [name for name, _ in events] == ["status"]
        assert time.monotonic() - start > 2.5


@pytest.mark.slow
def test_many_who_watch_one_study_cost_one_look_a_second(
    serve_app: Served, services: Services, make_study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    looks = []
    original = serve_app.app.state.views.status

    def counted(*args: Any, **options: Any) -> object:
        looks.append(args)
        return original(*args, **options)

    monkeypatch.setattr(serve_app.app.state.views, "status", counted)
    with services.store.driving(study_id):
        url = f"{serve_app.url}/api/v1/studies/{study_id}/events?max_s=3"
        threads = [threading.Thread(target=events_of, args=(url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(looks) <= 8 + 8  # one look of each at its beginning, then one a second for all


def test_a_stream_too_many_is_told_when_to_come_back(
    make_services: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnnflow.web.app import create_app
    from dnnflow.web.contract.web_config import Limits, WebConfig
    from tests.web.recording import insert_study
    from tests.web.served import client_of

    services = make_services(WebConfig(limits=Limits(streams=0)))
    study_id = insert_study(services.store, 2)
    answer = client_of(create_app(services)).get(f"/api/v1/studies/{study_id}/events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_a_server_that_ends_does_not_wait_for_who_watches(services: Services, make_study) -> None:
    from dnnflow.web.app import create_app
    from tests.web.served import serving

    study_id = make_study(4, designs=8, state=RunState.RUNNING)
    with services.store.driving(study_id), serving(create_app(services)) as served:
        url = f"{served.url}/api/v1/studies/{study_id}/events"
        thread = threading.Thread(target=events_of, args=(url,))
        thread.start()
        while not served.app.state.watch.open:
            time.sleep(0.05)
        start = time.monotonic()
    thread.join(timeout=10)
    assert time.monotonic() - start < 4.5  # less than the grace that others have
    assert not thread.is_alive()


def test_a_stream_stays_below_a_megabyte_a_minute() -> None:
    assert watch_module.BYTES_S * 60 < 1_000_000


def test_what_is_stored_is_shown_while_the_launcher_is_away(
    client: TestClient, services: Services, make_study: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Prefect server that restarts takes no result away."""
    study_id = make_study(4, designs=4, state=RunState.FINISHED)

    def away(*_: object) -> object:
        raise LaunchError("a Prefect server must answer, got nothing; start it")

    monkeypatch.setattr(type(services.launcher), "refresh", away)
    assert status(client, study_id)["state"] == "finished"
    assert study_id in client.get("/api/v1/studies").text
    assert study_id in client.get("/").text
    assert client.get("/api/v1/metrics").status_code == 200
    answer = client.get("/api/v1/studies/no-such-study")
    assert answer.status_code == 503
    assert "a Prefect server must answer" in answer.json()["rule"]


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.RUNNING])
def test_a_study_is_finishing_until_its_models_are_saved(
    client: TestClient, make_study: Callable[..., str], services: Services, state: RunState
) -> None:
    study_id = make_study(4, state=state)
    with services.store.driving(study_id):
        services.store.tell(study_id, stage="report: models")
        status = client.get(f"/api/v1/studies/{study_id}").json()
        assert (status["state"], status["completed"], status["stage"]) == ("finishing", 4, "report: models")
        page = client.get(f"/studies/{study_id}").text
        assert ">finishing<" in page
        assert "report: models" in page
        assert "are saved when the study ends" in client.get(f"/studies/{study_id}/results").text
        answer = client.post(f"/api/v1/studies/{study_id}/pause")  # finalists can wait, too
        assert answer.status_code == (409 if state is RunState.FINISHED else 200)
    services.store.end(study_id, RunState.FINISHED)
    assert client.get(f"/api/v1/studies/{study_id}").json()["state"] == "finished"


def test_a_supervised_study_is_finishing_until_its_supervisor_has_ended_it(
    client: TestClient, make_study: Callable[..., str], services: Services
) -> None:
    study_id = make_study(4)
    services.store._update(study_id, queue="recorded", queued_s=1.0)
    assert client.get("/api/v1/studies").json()["studies"][0]["state"] == "finishing"
    services.store.end(study_id, RunState.FINISHED)
    assert client.get("/api/v1/studies").json()["studies"][0]["state"] == "finished"
