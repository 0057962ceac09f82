"""The pages take numbers as labels, and ask where whole numbers may be classes or amounts."""

import numpy as np
import pytest

from dnnflow.web.jobs.services import Services
from tests.web.served import TestClient
from tests.web.test_pages_html import PAGE, fields_of, token_of


@pytest.fixture
def upload_id(client: TestClient) -> str:
    """Id of a table with a column of each kind of label."""
    rng = np.random.default_rng(0)
    rows = (f"{i},{rng.normal():.4f},{rng.integers(0, 500)},{'ab'[i % 2]}\n" for i in range(200))
    headers = {"Content-Type": "text/csv", "X-File-Name": "prices.csv"}
    text = "x,price,points,kind\n" + "".join(rows)
    answer = client.post("/api/v1/datasets", content=text.encode(), headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


def start_now(client: TestClient, upload_id: str, **said: str):
    token = token_of(client.get(f"/new/{upload_id}").text)
    data = {"csrf_token": token, "key": "k" * 20, **said}
    return client.post(f"/new/{upload_id}/start-now", data=data, headers=PAGE)


def dataset_of(services: Services, answer) -> dict:
    assert answer.status_code == 303, answer.text
    return dict(services.store.run(answer.headers["location"].rpartition("/")[2]).pipeline["dataset"])


def test_a_continuous_label_is_a_number_to_predict(
    client: TestClient, upload_id: str, services: Services
) -> None:
    page = client.get(f"/new/{upload_id}", params={"label": "price"}).text
    assert "price: a number to predict" in page
    assert "classes or amounts" not in page
    assert "task" not in dataset_of(services, start_now(client, upload_id, label="price"))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_many_whole_numbers_are_classes_or_amounts(
    client: TestClient, upload_id: str, services: Services, task: str
) -> None:
    page = client.get(f"/new/{upload_id}", params={"label": "points"}).text
    assert "points: classes or amounts?" in page
    assert page.count('type="radio" name="task"') == 2
    refused = start_now(client, upload_id, label="points")
    assert refused.status_code == 422
    assert "say below whether they are classes or amounts" in refused.text
    found = dataset_of(services, start_now(client, upload_id, label="points", task=task))
    assert (found["label"], found["task"]) == ("points", task)


def test_what_was_said_stands_in_the_rules(client: TestClient, upload_id: str, services: Services) -> None:
    token = token_of(client.get(f"/new/{upload_id}").text)
    data = {"csrf_token": token, "label": "points", "task": "regression"}
    lead = client.post(f"/new/{upload_id}/rules", data=data, headers=PAGE)
    page = client.get(lead.headers["location"]).text
    fields = fields_of(page) | {"designs": "3", "csrf_token": token_of(page)}
    assert fields["dataset.task"] == "regression"
    found = dataset_of(services, client.post(f"/new/{upload_id}/start", data=fields, headers=PAGE))
    assert found["task"] == "regression"


@pytest.mark.parametrize(
    ("dataset", "outputs"),
    [
        ({"label": "price"}, 1),
        ({"label": "points", "task": "regression"}, 1),
        ({"label": ["price", "points"]}, 2),
        ({"label": "kind"}, 2),
    ],
)
def test_an_estimate_knows_the_outputs(
    client: TestClient, upload_id: str, dataset: dict, outputs: int
) -> None:
    pipeline = {"dataset": {"source": f"upload:{upload_id}", **dataset}, "designs": 3}
    found = client.post("/api/v1/studies/estimate", json={"pipeline": pipeline}).json()
    assert found["valid"], found
    assert found["classes"] == outputs
