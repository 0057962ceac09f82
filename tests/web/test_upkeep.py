"""Studies are named, cloned and deleted over REST and on pages; nothing goes that is needed."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dnnflow.events import utc_now
from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.web.jobs.services import Services
from tests.conftest import PIPELINES
from tests.web.recording import recorder
from tests.web.served import TestClient
from tests.web.test_pages_html import PAGE, token_of

MakeStudy = Callable[..., str]
PIPELINE = {"name": "iris", "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"},
            "space": {"depth": {"int": [1, 3]}, "units": 16, "epochs": 1}, "designs": 24}  # fmt: skip


def report(services: Services, study_id: str) -> Path:
    path = services.settings.workspace.report(study_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a report" * 1000)
    return path


# ---- REST


def test_marks_are_set_and_leave_the_rest(client: TestClient, make_study: MakeStudy) -> None:
    study_id = make_study()
    base = f"/api/v1/studies/{study_id}"
    for _ in range(2):
        found = client.patch(base, json={"note": "the first", "tags": ["kept", "paper"]}).json()
        assert (found["name"], found["note"], found["tags"]) == ("iris", "the first", ["kept", "paper"])
    assert client.patch(base, json={"name": "flowers"}).json()["tags"] == ["kept", "paper"]
    assert client.get(base).json()["name"] == "flowers"
    other = make_study()
    listed = client.get("/api/v1/studies?tag=kept").json()["studies"]
    assert [(one["study_id"], one["tags"]) for one in listed] == [(study_id, ["kept", "paper"])]
    assert len(client.get("/api/v1/studies").json()["studies"]) == 2
    assert client.patch(base, json={"note": "", "tags": []}).json()["note"] is None
    for body in ({"tags": ["two words"]}, {"name": "  "}, {"name": "x" * 81}, {"nmae": "x"}):
        refused = client.patch(f"/api/v1/studies/{other}", json=body)
        assert refused.status_code == 422, body
        assert refused.headers["content-type"] == "application/problem+json"
    assert client.patch("/api/v1/studies/nobody", json={"name": "x"}).status_code == 404


def test_a_deleted_study_is_gone(client: TestClient, services: Services, make_study: MakeStudy) -> None:
    study_id = make_study()
    file, base = report(services, study_id), f"/api/v1/studies/{study_id}"
    disk = client.get(f"{base}/disk").json()
    assert disk["files_bytes"] >= 8000
    assert disk["rows_bytes"] > 0
    assert client.delete(base).status_code == 204
    assert not file.exists()
    assert client.get(base).status_code == 404
    assert client.get("/api/v1/studies").json()["studies"] == []
    assert client.delete(base).status_code == 404


def test_what_waits_is_not_deleted(client: TestClient, services: Services, make_study: MakeStudy) -> None:
    for kind, route in ((RunKind.STUDY, "studies"), (RunKind.TRAINING, "runs")):
        run_id = services.store.ask(
            f"waiting-{kind}", kind, "waiting", {"designs": 3}, queue="recorded"
        ).run_id
        refused = client.delete(f"/api/v1/{route}/{run_id}")
        assert refused.status_code == 409
        assert refused.json()["remedy"].startswith("dnnflow cancel")
        assert services.store.find(run_id) is not None
        recorder(services).set(run_id, state=RunState.STOPPED, ended_at=utc_now())
        other = "runs" if route == "studies" else "studies"
        assert client.delete(f"/api/v1/{other}/{run_id}").status_code == 404, "of another kind"
        assert client.delete(f"/api/v1/{route}/{run_id}").status_code == 204


def test_clean_says_what_it_would_do_unless_told_to_do_it(
    client: TestClient, services: Services, make_study: MakeStudy
) -> None:
    old, _ = make_study(name="old"), make_study(name="new")
    long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    recorder(services).set(old, created_at=long_ago, updated_at=long_ago)
    for _ in range(2):
        found = client.post("/api/v1/studies/clean", json={"older_than_days": 30}).json()
        assert [one["run_id"] for one in found["runs"]] == [old]
        assert found["dry_run"]
    done = client.post("/api/v1/studies/clean", json={"older_than_days": 30, "dry_run": False}).json()
    assert [one["run_id"] for one in done["runs"]] == [old]
    again = client.post("/api/v1/studies/clean", json={"older_than_days": 30, "dry_run": False}).json()
    assert again["runs"] == []
    assert [one.name for one in services.store.runs()] == ["new"]
    assert client.post("/api/v1/studies/clean", json={"older_than_days": -1}).status_code == 422


def test_a_clone_is_the_pipeline_with_changes(
    client: TestClient, services: Services, make_study: MakeStudy
) -> None:
    study_id = make_study(pipeline=PIPELINE)
    services.store.describe(study_id, name="flowers")
    path, headers = f"/api/v1/studies/{study_id}/clone", {"Idempotency-Key": "a-key"}
    body = {"changes": {"designs": 7, "space": {"units": {"choice": [8, 32]}}}}
    made = client.post(path, json=body, headers=headers)
    assert made.status_code == 201, made.text
    pipeline = recorder(services).pipelines[made.json()["study_id"]].plain()
    assert (pipeline["name"], pipeline["designs"]) == ("flowers", 7)
    assert pipeline["space"] == {"depth": {"int": [1, 3]}, "units": {"choice": [8, 32]}, "epochs": 1}
    assert pipeline["dataset"]["source"] == PIPELINE["dataset"]["source"]  # type: ignore[index]
    assert client.post(path, json=body, headers=headers).json()["study_id"] == made.json()["study_id"]
    assert client.post(path, json={"changes": {}}, headers=headers).status_code == 409
    assert client.post(path, json={}).status_code == 201


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"space": {"reference": "os:system"}}, "names no places and no code"),
        ({"space": {"explicit": [{"reference": "os:system"}]}}, "names no code"),
        ({"space.reference": "os:system"}, "unknown key"),
        ({"dataset": {"source": "/etc/passwd"}}, "takes its table from an upload"),
        ({"dataset": {"storage_options": {"key": "x"}}}, "names no places"),
        ({"evaluation": {"test_source": "/etc/passwd"}}, "names no places"),
        ({"outputs": {"report": "/tmp/x.html"}}, "names no places"),
        ({"executor": {"address": "tcp://10.0.0.1:1"}}, "names no places"),
        ({"kind": "training", "model": {"source": "os:system"}}, "model.source|dataset|unknown|model"),
        ({"designs": "many"}, "designs"),
        ({"depht": 3}, "unknown key"),
    ],
)
def test_changes_name_no_places_and_no_code(
    client: TestClient, services: Services, make_study: MakeStudy, changes: dict[str, object], rule: str
) -> None:
    study_id = make_study(pipeline=PIPELINE)
    refused = client.post(f"/api/v1/studies/{study_id}/clone", json={"changes": changes})
    assert refused.status_code == 422, refused.text
    assert re.search(rule, refused.json()["detail"])
    assert len(services.store.runs()) == 1


def test_credentials_are_not_cloned(client: TestClient, make_study: MakeStudy) -> None:
    dataset = {**PIPELINE["dataset"], "storage_options": {"key": "…"}}  # type: ignore[dict-item]
    study_id = make_study(pipeline={**PIPELINE, "dataset": dataset})
    refused = client.post(f"/api/v1/studies/{study_id}/clone", json={"changes": {}})
    assert refused.status_code == 409
    assert "credentials" in refused.json()["detail"]


# ---- pages, as a browser without scripts uses them


def test_the_page_names_a_study(client: TestClient, services: Services, make_study: MakeStudy) -> None:
    study_id = make_study()
    path = f"/studies/{study_id}"
    shown = client.get(f"{path}/manage", headers=PAGE).text
    form = {"csrf_token": token_of(shown), "name": "<b>new</b>", "note": "a\r\nb", "tags": "kept, paper"}
    assert client.post(f"{path}/marks", data=form, headers=PAGE).status_code == 303
    record = services.store.study(study_id)
    assert (record.name, record.note, record.tags) == ("<b>new</b>", "a\nb", ["kept", "paper"])
    for page in (path, f"{path}/manage", "/", "/?tag=kept", f"/delete?study={study_id}"):
        text = client.get(page, headers=PAGE).text
        assert "&lt;b&gt;new&lt;/b&gt;" in text, page
        assert "<b>new</b>" not in text, page
    assert "#paper" in client.get("/").text
    assert study_id not in client.get("/?tag=nothing").text
    wrong = client.post(f"{path}/marks", data={**form, "tags": "x" * 50, "note": "typed"}, headers=PAGE)
    assert wrong.status_code == 422
    assert "a tag has 1 to 40 characters" in wrong.text
    assert "typed" in wrong.text, "what was typed is not lost"
    assert client.post(f"{path}/marks", data={"name": "x"}, headers=PAGE).status_code == 403


def test_the_page_asks_before_it_deletes(
    client: TestClient, services: Services, make_study: MakeStudy
) -> None:
    first, second, stays = make_study(name="first"), make_study(name="second"), make_study(name="third")
    going = services.store.ask("going", RunKind.STUDY, "going", {"designs": 3}, queue="recorded").run_id
    file = report(services, first)
    shown = client.get("/delete", params={"study": [first, second, going]}, headers=PAGE).text
    assert file.is_file()
    assert "going (going) waits or is running and stays" in shown
    assert shown.index("Keep them") < shown.index("Delete them for good"), "the first is not what destroys"
    studies = re.search(r'name="studies" value="([^"]*)"', shown)
    assert studies is not None
    assert studies[1].split() == [first, second]
    form = {"csrf_token": token_of(shown), "studies": studies[1]}
    assert client.post("/delete", data={"studies": studies[1]}, headers=PAGE).status_code == 403
    assert client.post("/delete", data=form, headers=PAGE).headers["location"] == "/"
    assert {one.run_id for one in services.store.runs()} == {stays, going}
    assert not file.exists()
    assert client.get("/delete", params={"study": first}, headers=PAGE).status_code == 404
    assert "No study is marked" in client.get("/delete", headers=PAGE).text


def test_the_page_finds_old_ones(client: TestClient, services: Services, make_study: MakeStudy) -> None:
    old, new = make_study(), make_study()
    long_ago = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    recorder(services).set(old, created_at=long_ago, updated_at=long_ago)
    shown = client.get("/clean", headers=PAGE).text
    assert old in shown
    assert new not in shown
    assert "Nothing has gone without a change for so long" in client.get("/clean?days=100", headers=PAGE).text
    assert client.get("/clean?days=many", headers=PAGE).status_code == 422


def test_the_page_clones(client: TestClient, services: Services, make_study: MakeStudy) -> None:
    study_id = make_study(pipeline=PIPELINE)
    path = f"/studies/{study_id}/clone"
    shown = client.get(f"/studies/{study_id}/manage", headers=PAGE).text
    assert "designs: 24" in shown
    assert "label: species" in shown
    assert str(PIPELINES) not in shown, "a place of the server"
    key = re.search(r'name="key" value="([^"]+)"', shown)
    assert key is not None
    form = {"csrf_token": token_of(shown), "key": key[1], "changes": "designs: 5\n"}
    answer = client.post(path, data=form, headers=PAGE)
    made = answer.headers["location"].rpartition("/")[2]
    assert services.store.run(made).pipeline["designs"] == 5
    assert client.post(path, data=form, headers=PAGE).headers["location"] == answer.headers["location"]
    for text, told in (
        ("designs: many", "designs"),
        ("a: [", "not valid YAML"),
        ("- 1", "changes are a mapping"),
    ):
        wrong = client.post(path, data={**form, "changes": text}, headers=PAGE)
        assert wrong.status_code == 422, text
        assert told in wrong.text
        assert text in wrong.text, "what was typed is not lost"
