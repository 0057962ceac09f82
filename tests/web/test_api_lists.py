"""What lists of the API can be asked for, and what the API says of itself."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI

from dnnflow.results.store.run_record import RunKind, RunRecord, RunState
from dnnflow.web.jobs.services import Services
from tests.web.served import TestClient


def test_every_field_and_parameter_is_described(app: FastAPI) -> None:
    document = app.openapi()
    bare = [
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, said in schema.get("properties", {}).items()
        if not said.get("description")
    ]
    bare += [
        f"{method} {path} {parameter['name']}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert not bare


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/v1/datasets", "GET, OPTIONS, POST, PUT"),
        ("/api/v1/datasets/x", "DELETE, GET, OPTIONS"),
        ("/api/v1/studies/x/pause", "OPTIONS, POST"),
        ("/login", "GET, OPTIONS, POST"),
    ],
)
def test_options_tells_all_methods(client: TestClient, path: str, methods: str) -> None:
    answer = client.options(path)
    assert (answer.status_code, answer.headers["allow"], answer.text) == (204, methods, "")
    refused = client.patch(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    assert client.options("/api/v1/nothing").status_code == 404


def test_trials_tell_the_fields_that_are_asked_for(
    client: TestClient, make_study: Callable[..., str]
) -> None:
    base = f"/api/v1/studies/{make_study(30, failed=2)}/trials"
    whole = client.get(base, params={"limit": 3}).json()
    some = client.get(base, params={"limit": 3, "fields": "design_id,score,design"}).json()
    kept = ("design_id", "score", "design")
    assert some["trials"] == [{name: one[name] for name in kept} for one in whole["trials"]]
    assert (some["matching"], some["next_cursor"]) == (whole["matching"], whole["next_cursor"])
    after = client.get(base, params={"fields": "loss", "cursor": some["next_cursor"]}).json()
    assert set(after["trials"][0]) == {"loss"}
    refused = client.get(base, params={"fields": "score,accurracy"})
    assert refused.status_code == 422
    assert "got 'accurracy'" in refused.json()["detail"]
    assert client.get(base, params={"fields": "score,"}).status_code == 422


@pytest.mark.parametrize(
    ("filters", "rows"),
    [("activation=relu", 8), ("activation=gelu", 0), ("optimizer=adam", 30), ("engine=keras&state=failed", 2),
     ("engine=stacked", 0), ("activation=tanh&depth=1", 2)],
)  # fmt: skip
def test_trials_are_filtered(
    client: TestClient, make_study: Callable[..., str], filters: str, rows: int
) -> None:
    found = client.get(f"/api/v1/studies/{make_study(30, failed=2)}/trials?{filters}").json()
    assert (found["matching"], len(found["trials"])) == (rows, rows)


@pytest.mark.parametrize(
    ("filters", "names"),
    [("", ["replicas", "Iris wide", "iris", "wine"]), ("name=IRIS", ["Iris wide", "iris"]),
     ("state=stopped", ["wine"]), ("state=finished&name=iris", ["Iris wide", "iris"]),
     ("kind=train", ["replicas"]), ("kind=study&state=running", []), ("name=iris&limit=1", ["Iris wide"])],
)  # fmt: skip
def test_studies_are_filtered_before_they_are_cut_into_pages(
    client: TestClient, services: Services, filters: str, names: list[str]
) -> None:
    def add(name: str, hour: int, **more: object) -> None:
        said = {"run_id": f"run-{hour}", "key": "k" * 64, "created_at": f"2026-01-01T0{hour}:00:00+00:00"}
        services.store.add(RunRecord(name=name, **(said | more)))  # type: ignore[arg-type]

    add("wine", 1, state=RunState.STOPPED)
    add("iris", 2, state=RunState.FINISHED)
    add("Iris wide", 3, state=RunState.FINISHED)
    add("replicas", 4, key="", kind=RunKind.TRAINING, state=RunState.QUEUED, queue="recorded", queued_s=1.0)
    found = client.get(f"/api/v1/studies?{filters}").json()
    assert [one["name"] for one in found["studies"]] == names
    if "limit" in filters:
        again = client.get(f"/api/v1/studies?{filters}&cursor={found['next_cursor']}").json()
        assert ([one["name"] for one in again["studies"]], again["next_cursor"]) == (["iris"], None)
    runs = client.get("/api/v1/runs?state=queued&name=REPL").json()["runs"]
    assert [one["name"] for one in runs] == ["replicas"]
    assert client.get("/api/v1/runs?state=finished").json()["runs"] == []


def test_uploads_are_found_by_a_part_of_their_name(client: TestClient) -> None:
    for name in ("wine.csv", "Iris.csv"):
        headers = {"Content-Type": "text/csv", "X-File-Name": name}
        client.post("/api/v1/datasets", content=b"a,b\n" + b"1,x\n2,y\n" * 20, headers=headers)
    found = client.get("/api/v1/datasets?name=iris").json()["datasets"]
    assert [one["name"] for one in found] == ["Iris.csv"]
