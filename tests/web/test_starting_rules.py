"""Good rules leave out what a search does, and tell of leaks before a study begins, by page and REST."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run.search import SearchRequest, look_at_columns, search_pipeline
from dnnflow.settings import Settings
from dnnflow.web.jobs.services import Services
from tests.web.recording import RecordingLauncher
from tests.web.served import TestClient
from tests.web.test_pages_html import PAGE, token_of

USELESS = ["row", "name", "same", "nothing", "patient_id"]


def table_of(*, has_leak: bool) -> bytes:
    """Return a CSV with columns that carry nothing, and perhaps one that is the label again."""
    rng = np.random.default_rng(4)
    lines = ["row,name,same,nothing,patient_id,width,colour,code,kind"]
    ids = rng.permutation(5000)
    for row in range(300):
        width, red = rng.normal(), rng.random() < 0.5
        kind = "ab"[width + rng.normal() > 0]
        code = {"a": 7, "b": 9}[kind] if has_leak else rng.integers(9)
        lines.append(f"{row},person {row},5,,{ids[row]},{width:.3f},{'red' if red else 'blue'},{code},{kind}")
    return ("\n".join(lines) + "\n").encode()


def sent(client: TestClient, body: bytes) -> str:
    answer = client.post("/api/v1/datasets", content=body, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


def test_rest_pages_and_a_search_leave_out_the_same(
    client: TestClient, services: Services, tmp_path: Path, settings: Settings
) -> None:
    body = table_of(has_leak=False)
    upload_id = sent(client, body)
    found = client.get(f"/api/v1/datasets/{upload_id}/rules", params={"label": "kind"}).json()
    assert found["problem"] is None
    assert sorted(found["left_out"]) == sorted(USELESS)
    (tmp_path / "table.csv").write_bytes(body)
    sections = {"dataset": {"source": str(tmp_path / "table.csv"), "label": "kind"}}
    assert dict(look_at_columns(sections).left_out) == found["left_out"]
    searched = search_pipeline(SearchRequest(sections), settings).dataset.drop
    assert sorted(found["pipeline"]["dataset"]["drop"]) == sorted(searched)
    assert client.post("/api/v1/studies", json={"pipeline": found["pipeline"]}).status_code == 201

    page = client.get(f"/new/{upload_id}/findings", params={"label": "kind"}).text
    rules = client.get(f"/new/{upload_id}/rules", params={"label": "kind"}).text
    for name, why in found["left_out"].items():
        assert f"<strong>{name}</strong>: {why}".replace("'", "&#39;") in page.replace("&#34;", '"')
        assert f"<strong>{name}</strong>" in rules
    token = token_of(client.get(f"/new/{upload_id}").text)
    data = {"csrf_token": token, "label": "kind", "key": "k" * 16}
    answer = client.post(f"/new/{upload_id}/start-now", data=data, headers=PAGE)
    assert answer.status_code == 303, answer.text
    study_id = urlsplit(answer.headers["location"]).path.rpartition("/")[2]
    assert isinstance(services.launcher, RecordingLauncher)
    pipeline = services.launcher.pipelines[study_id]
    assert isinstance(pipeline, Pipeline)
    assert sorted(pipeline.dataset.drop) == sorted(searched)


def test_a_leak_is_told_before_a_study_begins(client: TestClient) -> None:
    upload_id = sent(client, table_of(has_leak=True))
    page = client.get(f"/new/{upload_id}/findings", params={"label": "kind"}).text
    assert "LEAK? column &#39;code&#39; alone predicts the label" in page
    data = {"csrf_token": token_of(client.get(f"/new/{upload_id}").text), "label": "kind", "key": "k" * 16}
    first = client.post(f"/new/{upload_id}/start-now", data=data, headers=PAGE)
    assert (first.status_code, "LEAK?" in first.text) == (200, True)
    told = client.post(f"/new/{upload_id}/start-now", data={**data, "told": "columns"}, headers=PAGE)
    assert told.status_code == 303
    assert not parse_qs(urlsplit(told.headers["location"]).query)


@pytest.mark.parametrize(
    ("body", "label", "word"),
    [
        (b"a,b\n1,x\n2,x\n3,y\n", "b", "a class needs at least 2 rows"),
        (
            b"a,a b\n1,x\n2,x\n3,y\n4,y\n",
            "c",
            "a label is a column of the table, got 'c'; there are: 'a', 'a b'",
        ),
    ],
)
def test_what_stands_in_the_way_is_told(client: TestClient, body: bytes, label: str, word: str) -> None:
    answer = client.get(f"/api/v1/datasets/{sent(client, body)}/rules", params={"label": label})
    told = answer.json()
    assert word in (told["problem"] if answer.status_code == 200 else told["detail"])
