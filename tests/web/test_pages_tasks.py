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
    kinds = ("a,y", "b,n", "a,n")
    rows = (f"{i},{rng.normal():.4f},{rng.integers(0, 500)},{kinds[i % 3]}\n" for i in range(200))
    headers = {"Content-Type": "text/csv", "X-File-Name": "prices.csv"}
    text = "x,price,points,kind,sold\n" + "".join(rows)
    answer = client.post("/api/v1/datasets", content=text.encode(), headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


def start_now(client: TestClient, upload_id: str, **said: str | list[str]):
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


@pytest.mark.parametrize(("labels", "task"), [(["price", "points"], "numbers"), (["kind", "sold"], "labels")])
def test_several_columns_are_predicted_at_once(
    client: TestClient, upload_id: str, services: Services, labels: list[str], task: str
) -> None:
    page = client.get(f"/new/{upload_id}", params={"label": labels}).text
    assert page.count('type="checkbox" name="label"') == 5
    assert f"2 {task}" in page
    assert "classes or amounts" not in page
    assert dataset_of(services, start_now(client, upload_id, label=labels))["label"] == labels
    data = {"csrf_token": token_of(page), "label": labels}
    lead = client.post(f"/new/{upload_id}/rules", data=data, headers=PAGE)
    page = client.get(lead.headers["location"]).text
    assert f"labels <b>{labels[0]}, {labels[1]}</b>" in page
    fields = fields_of(page) | {"designs": "3", "csrf_token": token_of(page), "label": labels}
    found = dataset_of(services, client.post(f"/new/{upload_id}/start", data=fields, headers=PAGE))
    assert found["label"] == labels


def test_columns_that_cannot_be_labels_together_say_why(client: TestClient, upload_id: str) -> None:
    refused = start_now(client, upload_id, label=["kind", "price"])
    assert refused.status_code == 422
    assert "different values in price and no numbers in kind; leave one out" in refused.text
    assert "No column is chosen" in client.get(f"/new/{upload_id}/columns").text


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
