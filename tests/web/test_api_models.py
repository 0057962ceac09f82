"""Models over REST: applied by a process that may die or hang without taking the server along."""

import os
import signal
import time
from pathlib import Path

import pytest

from dnnflow.errors import BusyError, TimeLimitError
from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.jobs.services import Services
from tests.web.served import TestClient

ROW = {"sepal_length_cm": 5.1, "sepal_width_cm": 3.5, "petal_length_cm": 1.4, "petal_width_cm": 0.2}
CSV = {"Content-Type": "text/csv"}

pytestmark = pytest.mark.slow


def predict(client: TestClient, study_id: str, **how: object):
    return client.post(f"/api/v1/studies/{study_id}/models/1/predict", **how)


def test_rows_are_predicted_however_they_are_sent(client: TestClient, saved: str) -> None:
    as_mappings = predict(client, saved, json={"rows": [ROW]})
    assert as_mappings.status_code == 200, as_mappings.text
    as_lists = predict(client, saved, json={"columns": list(ROW), "rows": [list(ROW.values())]})
    text = f"{','.join(ROW)}\n{','.join(map(str, ROW.values()))}\n"
    as_csv = predict(client, saved, content=text, headers=CSV)
    semicolons = predict(
        client, saved, content=text.replace(",", ";"), headers=CSV, params={"delimiter": ";"}
    )
    assert as_mappings.json() == as_lists.json() == as_csv.json() == semicolons.json()
    found = as_csv.json()
    assert found["classes"] == ["setosa", "versicolor", "virginica"]
    best = max(range(3), key=lambda code: found["probabilities"][0][code])
    assert found["predictions"] == [found["classes"][best]]


def test_rows_that_do_not_fit_are_explained(client: TestClient, saved: str) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"json": {"rows": [{"sepal_length_cm": 5.1}]}}, "sepal_width_cm"),
        ({"json": {"rows": [{**ROW, "petal_width_cm": "wide"}]}}, "petal_width_cm"),
        ({"json": {"rows": []}}, "columns"),
        ({"json": {"columns": ["a"], "rows": [[1, 2]]}}, "value for each column"),
        ({"content": "a,a\n1,2\n", "headers": CSV}, "twice"),
        ({"content": "", "headers": CSV}, "empty"),
    ]
    for how, told in wrong:
        answer = predict(client, saved, **how)
        assert (answer.status_code, told in answer.text) == (422, True), answer.text
        assert "/tmp" not in answer.text
    assert predict(client, saved, content="x", headers={"Content-Type": "image/png"}).status_code == 415


def test_how_rows_are_written_is_said_and_told(client: TestClient, saved: str) -> None:
    """Another encoding is told; other markers of missing values are refused, unless they are named."""
    names = ",".join([*ROW, "café"])
    sent = f"{names}\n5.1,3.5,1.4,0.2,x\n5.1,gone,-999,0.2,y\n".encode("latin-1")
    refused = predict(client, saved, content=sent, headers=CSV)
    assert refused.status_code == 422
    assert "row 2, column 'sepal_width_cm': 'gone' is not a finite number" in refused.text
    found = predict(client, saved, content=sent, headers=CSV, params={"missing_values": ["gone", "x"]}).json()
    (note,) = found["reading_notes"]
    assert "the text of the rows is not UTF-8 and was read as latin-1" in note
    first, second = found["notes"]
    assert first == ""
    assert "'gone', which stands for a missing value" in second
    assert "-999 is beyond the training rows" in second
    said = {"missing_values": ["gone", "-999"], "encoding": "latin-1", "quote": "'"}
    assert predict(client, saved, content=sent, headers=CSV, params=said).json()["reading_notes"] == []
    wrong = predict(client, saved, content=sent, headers=CSV, params={"encoding": "latin-x"})
    assert (wrong.status_code, "must be one that Python knows" in wrong.text) == (422, True), wrong.text


def test_more_rows_than_allowed_are_refused(client: TestClient, saved: str) -> None:
    text = ",".join(ROW) + "\n" + "1,1,1,1\n" * 100_001
    answer = predict(client, saved, content=text, headers=CSV)
    assert (answer.status_code, "100,000" in answer.text) == (413, True)


def test_a_process_that_died_is_replaced(services: Services, saved: str) -> None:
    predictions = Predictions()
    path = services.settings.workspace.model(saved, 1)
    text = (",".join(ROW) + "\n1,1,1,1\n").encode()
    try:
        first = predictions.predict(path, text, rows=10)
        assert predictions._process is not None
        os.kill(predictions._process.pid, signal.SIGKILL)
        assert predictions.predict(path, text, rows=10) == first
    finally:
        predictions.close()


def test_what_takes_too_long_is_given_up(services: Services, saved: str) -> None:
    predictions = Predictions(deadline_s=0.05)
    start = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"within 0\.05 s"):
        predictions.predict(services.settings.workspace.model(saved, 1), b"a\n1\n", rows=10)
    assert time.monotonic() - start < 5
    assert predictions._process is None


def test_a_model_that_is_none_of_ours_is_not_given_out(
    client: TestClient, services: Services, make_study
) -> None:
    study_id = make_study(4)
    path = services.settings.workspace.model(study_id, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK something else")
    assert client.get(f"/api/v1/studies/{study_id}/models/1").status_code == 404
    assert client.get(f"/api/v1/studies/{study_id}/models").json() == {"models": []}
    assert predict(client, study_id, json={"rows": [ROW]}).status_code == 404


def test_models_are_listed_and_downloaded(client: TestClient, services: Services, saved: str) -> None:
    listed = client.get(f"/api/v1/studies/{saved}/models").json()["models"]
    assert [(one["rank"], one["columns"], one["score"]) for one in listed] == [(1, list(ROW), 0.9)]
    assert listed[0]["classes"] == ["setosa", "versicolor", "virginica"]
    answer = client.get(f"/api/v1/studies/{saved}/models/1")
    assert answer.content == Path(services.settings.workspace.model(saved, 1)).read_bytes()


@pytest.mark.parametrize(("query", "beginning"), [("raw=true", b"PK"), ("raw=true&format=onnx", b"\x08")])
def test_a_model_for_others_is_downloaded(
    client: TestClient, saved: str, query: str, beginning: bytes
) -> None:
    answer = client.get(f"/api/v1/studies/{saved}/models/1?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.content[: len(beginning)] == beginning
    ending = "onnx" if "onnx" in query else "keras"
    assert f"{saved}-1-raw.{ending}" in answer.headers["content-disposition"]
    assert client.get(f"/api/v1/studies/{saved}/models/1?format=pb").status_code == 422


def test_a_crowd_is_told_to_come_back() -> None:
    predictions = Predictions()
    for _ in range(8):
        assert predictions._waiting.acquire(blocking=False)
    with pytest.raises(BusyError, match="may wait"):
        predictions.predict(Path("x"), b"", rows=1)
