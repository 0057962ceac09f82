"""Studies over REST."""

import pytest

from tests.web.served import TestClient


def test_a_study_is_listed_and_shown(client: TestClient, make_study) -> None:
    study_id = make_study(24, failed=2)
    listed = client.get("/api/v1/studies").json()
    assert [one["study_id"] for one in listed["studies"]] == [study_id]
    shown = client.get(f"/api/v1/studies/{study_id}").json()
    assert (shown["state"], shown["completed"], shown["failed"], shown["missing"]) == ("finished", 22, 2, 0)
    assert sum(count for _, _, count in shown["live"]["score"]["cells"]) == 22


def test_health(client: TestClient) -> None:
    assert client.get("/api/v1/health").json()["status"] == "ok"


@pytest.mark.slow
def test_results(client: TestClient, make_study) -> None:
    study_id = make_study(24, failed=2)
    base = f"/api/v1/studies/{study_id}"
    for path in ("trials", "leaderboard", "failures", "plots", "export", "export?format=parquet", "report"):
        answer = client.get(f"{base}/{path}")
        assert answer.status_code == 200, (path, answer.text[:500])
    for name in client.get(f"{base}/plots").json()["plots"]:
        assert "doc" in client.get(f"{base}/plots/{name}").json()
        assert client.get(f"{base}/plots/{name}/numbers").json()["tables"][0]["rows"], name
    design_id = client.get(f"{base}/trials").json()["trials"][0]["design_id"]
    assert client.get(f"{base}/trials/{design_id}").json()["history"]["loss"]
    assert client.get(f"/api/v1/compare?a={study_id}&b={study_id}").status_code == 200


def test_events_of_a_finished_study_end_at_once(client: TestClient, make_study) -> None:
    study_id = make_study(24)
    text = client.get(f"/api/v1/studies/{study_id}/events?max_s=5").text
    assert [line for line in text.splitlines() if line.startswith("event")] == ["event: status", "event: end"]


def test_openapi(client: TestClient) -> None:
    assert client.get("/api/v1/openapi.json").status_code == 200


@pytest.mark.parametrize("path", ["/studies", "/studies/{}/trials", "/datasets", "/studies/{}/export"])
def test_a_parameter_that_is_misspelt_is_refused(client: TestClient, make_study, path: str) -> None:
    answer = client.get(f"/api/v1{path.format(make_study(2))}?min_accuracy=0.9")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "min_accuracy"
