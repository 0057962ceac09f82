"""What a person sees first of a study, on its page and over REST: what its best is worth, what to do next."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from dnnflow.results.store.run_record import RunState
from dnnflow.results.view import tested as measured
from dnnflow.run.models.saved_model import load_model, write_model
from dnnflow.table.store.dataset import Dataset
from dnnflow.web.jobs.services import Services
from tests.web.recording import design, recorder
from tests.web.test_pages_html import PAGE, token_of

AT_THE_EDGE = {
    "name": "iris",
    "dataset": {"source": "/data/iris.csv", "label": "species"},
    "space": {"depth": {"int": [0, 7]}, "learning_rate": {"loguniform": [0.003, 0.03]}},
    "designs": 24,
}
"""The best of the made-up trials have the lowest learning rate of this space."""
INSIDE = {**AT_THE_EDGE, "space": {"depth": {"int": [0, 99]}, "learning_rate": {"loguniform": [1e-5, 10.0]}}}
TESTED = (
    measured.Tested(kind="design", name="2 x 24 selu, adam 0.003, batch 32", rank=1, design_id="d", score=0.9,
                    rows=30, selected=0.95),
    measured.Tested(kind="ensemble", name="an ensemble of 3 designs (15 networks)", score=0.93, rows=30),
    measured.Tested(kind="baseline", name="always 'setosa'", score=0.33, rows=30),
)  # fmt: skip


@pytest.fixture
def make_tested(services: Services, make_study: Callable[..., str]) -> Callable[..., str]:
    """A function that inserts a finished study whose best was measured on test rows."""

    def make(pipeline: dict[str, Any] = AT_THE_EDGE, trials: int = 24) -> str:
        study_id = make_study(trials, pipeline=pipeline)
        services.store.tell(study_id, outcome={"tested": [one.to_dict() for one in TESTED]})
        return study_id

    return make


def results(client: TestClient, study_id: str) -> str:
    """Return the results page without its markup's line breaks."""
    answer = client.get(f"/studies/{study_id}/results", headers=PAGE)
    assert answer.status_code == 200
    return " ".join(answer.text.split())


def test_the_page_begins_with_the_sentence_the_numbers_and_what_to_do_next(
    client: TestClient, make_tested: Callable[..., str]
) -> None:
    page = results(client, make_tested())
    told = ["2 x 24 selu: 90.0", "the ensemble there", "What to do next", ">Leaderboard<", ">All trials</h2>"]
    assert sorted(told, key=page.index) == told
    assert "always &#39;setosa&#39; 33.0" in page
    assert page.count('<tr class="first">') == 2
    assert "10 more designs" not in page
    assert "14 more designs" in page


def test_the_leaderboard_over_rest_says_all_that_the_page_says(
    client: TestClient, make_tested: Callable[..., str]
) -> None:
    found = client.get(f"/api/v1/studies/{make_tested()}/leaderboard").json()
    assert found["sentence"].startswith("2 x 24 selu: 90.0 % on 30 test rows kept for this")
    assert [one["kind"] for one in found["next_steps"]] == ["widen", "rows", "model", "score"]
    assert found["edges"] == ["the best have the lowest learning rate of the space, 0.003"]
    assert found["finalist_rows"] is None
    assert {"rank", "score", "low", "high", "within_noise", "trainings", "spread", "is_finalist"} <= set(
        found["places"][0]
    )


def test_one_click_starts_the_wider_study_and_a_second_one_finds_it(
    client: TestClient, make_tested: Callable[..., str], services: Services
) -> None:
    study_id = make_tested()
    page = results(client, study_id)
    assert "learning_rate" in page.partition("What to do next")[2].partition("Leaderboard")[0]
    assert client.post(f"/studies/{study_id}/widen", headers=PAGE).status_code == 403
    form = {"csrf_token": token_of(page)}
    answers = [
        client.post(f"/studies/{study_id}/widen", data=form, headers=PAGE, follow_redirects=False)
        for _ in range(2)
    ]
    assert [one.status_code for one in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    ((_, made),) = recorder(services).asked
    wider = recorder(services).pipelines[made].plain()
    assert wider["space"]["learning_rate"]["loguniform"] == pytest.approx([0.00075, 0.03])
    assert wider["dataset"] == AT_THE_EDGE["dataset"]


def test_the_wider_study_over_rest_says_what_changes(
    client: TestClient, make_tested: Callable[..., str]
) -> None:
    answer = client.post(f"/api/v1/studies/{make_tested()}/widen")
    assert answer.status_code == 201
    found = answer.json()
    assert answer.headers["location"] == f"/api/v1/studies/{found['study_id']}"
    (change,) = found["changes"]
    assert (change["parameter"], change["before"]) == ("learning_rate", {"loguniform": [0.003, 0.03]})


def test_without_an_edge_there_is_no_wider_study_and_the_page_says_why(
    client: TestClient, make_tested: Callable[..., str]
) -> None:
    study_id = make_tested(INSIDE)
    page = results(client, study_id)
    assert re.search(r"<button[^>]* disabled[^>]*>Run a wider study</button>", page)
    assert "The best designs lie inside the space" in page
    answer = client.post(f"/api/v1/studies/{study_id}/widen")
    assert answer.status_code == 409
    assert "lie inside the space" in answer.json()["detail"]


def test_a_table_that_needs_credentials_is_widened_by_its_own_pipeline(
    client: TestClient, make_tested: Callable[..., str]
) -> None:
    dataset = {**AT_THE_EDGE["dataset"], "storage_options": {"key": "…"}}  # type: ignore[dict-item]
    answer = client.post(f"/api/v1/studies/{make_tested({**AT_THE_EDGE, 'dataset': dataset})}/widen")
    assert answer.status_code == 409
    assert "run its pipeline with --widen" in answer.json()["detail"]


def test_of_a_large_study_the_leaderboard_comes_after_the_page(
    client: TestClient, make_tested: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnflow.web.answers.study_results.QUICK", 10)
    study_id = make_tested()
    page = results(client, study_id)
    assert "2 x 24 selu: 90.0" in page
    assert f'id="findings" data-source="/studies/{study_id}/findings"' in page
    assert "What to do next" not in page
    part = client.get(f"/studies/{study_id}/findings", headers=PAGE).text
    assert "What to do next" in part
    assert 'name="csrf_token"' in part
    assert "What to do next" in results(client, study_id)  # by now it is known


def test_stages_are_told_while_a_study_runs(
    client: TestClient, make_study: Callable[..., str], services: Services
) -> None:
    study_id = make_study(24, state=RunState.RUNNING)
    with services.store.driving(study_id):
        for told, shown, current in (
            ("finalists: 12 of 20 trainings", "finalists: 12 of 20 trainings", "Finalists"),
            (f"train: study {study_id}: 3 of 24 designs", "train: 3 of 24 designs", "Screen"),
            (f"test: study {study_id}", "test", "Test"),
        ):
            services.store.tell(study_id, stage=told)
            page = client.get(f"/studies/{study_id}", headers=PAGE).text
            assert f'id="stage">{shown}</span>' in page
            assert re.findall(r'aria-current="step"><b>\d</b>(\w+)', page) == [current]


# ---- models


@pytest.fixture
def with_ensemble(saved: str, services: Services, iris: Dataset) -> str:
    """A study with the model of its best, and with an ensemble."""
    from dnnflow.engines.keras.build import build_model

    path = services.settings.workspace.ensemble(saved)
    record = {"tested": {**TESTED[1].to_dict(), "selected": None}}
    write_model(path, build_model(design(10), iris.n_features, iris.n_classes), iris, record)
    return saved


def labelled(iris: Dataset, rows: int = 12) -> tuple[str, list[str]]:
    """Return rows of iris as a CSV with their label, and these labels."""
    features, labels = iris.arrays("train")
    frame = iris.inverse(features[:rows])
    frame["species"] = iris.label_names(labels[:rows])
    return frame.to_csv(index=False), frame["species"].tolist()


@pytest.mark.slow
def test_the_ensemble_is_a_model_beside_the_ranks(
    client: TestClient, with_ensemble: str, services: Services, iris: Dataset
) -> None:
    base = f"/api/v1/studies/{with_ensemble}/models"
    best, ensemble = client.get(base).json()["models"]
    assert (best["model"], best["rank"]) == ("1", 1)
    assert (ensemble["model"], ensemble["rank"], ensemble["score"]) == ("ensemble", None, 0.93)
    assert ensemble["name"] == "an ensemble of 3 designs (15 networks)"
    assert ensemble["is_chosen_there"]
    file = services.settings.workspace.ensemble(with_ensemble)
    assert client.get(f"{base}/ensemble").content == file.read_bytes()
    assert client.get(f"{base}/mean").status_code == 422
    page = client.get(f"/studies/{with_ensemble}/predict?model=ensemble", headers=PAGE).text
    assert re.search(r'<option value="ensemble" selected>an ensemble of 3 designs', page)
    assert "on the test rows that it was chosen on" in page
    assert "these accuracies are too high" in page


@pytest.mark.slow
def test_the_model_on_all_rows_is_told_without_a_number(
    client: TestClient, with_ensemble: str, services: Services, iris: Dataset
) -> None:
    from dnnflow.engines.keras.build import build_model

    path, name = (
        services.settings.workspace.final_model(with_ensemble),
        "an ensemble, trained on all 150 rows",
    )
    record = {"name": name, "rows": 150, "tested_before": TESTED[1].to_dict()}
    write_model(path, build_model(design(10), iris.n_features, iris.n_classes), iris, record)
    base = f"/api/v1/studies/{with_ensemble}/models"
    final = client.get(base).json()["models"][-1]
    assert (final["model"], final["rank"], final["name"]) == ("final", None, name)
    assert (final["score"], final["text"], final["is_chosen_there"]) == (None, None, False)
    assert client.get(f"{base}/final").content == path.read_bytes()
    page = client.get(f"/studies/{with_ensemble}/predict?model=final", headers=PAGE).text
    assert f'<option value="final" selected>{name}</option>' in page
    shown = client.get(f"/studies/{with_ensemble}/results", headers=PAGE).text
    assert "Model on all rows (.keras)" in shown
    for model in ("1", "ensemble", "final"):
        for query in ("raw=true", "raw=true&amp;format=onnx", "format=onnx"):
            assert f'href="{base}/{model}?{query}"' in shown
    scored = client.post(
        f"{base}/final/score", content=labelled(iris)[0], headers={"Content-Type": "text/csv"}
    )
    assert scored.json()["fitted_rows"] == 150


@pytest.mark.slow
def test_rows_with_the_label_are_scored(
    client: TestClient, with_ensemble: str, services: Services, iris: Dataset
) -> None:
    text, labels = labelled(iris)
    base = f"/api/v1/studies/{with_ensemble}/models/ensemble"
    sent = {"content": text, "headers": {"Content-Type": "text/csv"}}
    predicted = client.post(f"{base}/predict", **sent).json()
    right = sum(one == label for one, label in zip(predicted["predictions"], labels, strict=True))
    scored = client.post(f"{base}/score", **sent).json()
    assert (scored["rows"], scored["right"], scored["labels"]) == (12, right, ["species"])
    assert scored["measures"]["accuracy"] == pytest.approx(right / 12)
    assert sum(map(sum, scored["confusion"])) == 12
    assert predicted["score"] == scored
    model = load_model(services.settings.workspace.ensemble(with_ensemble))
    assert model.preprocessing.targets.names == ("species",)


@pytest.mark.slow
def test_rows_that_cannot_be_scored_are_refused_with_row_and_value_and_predicted_all_the_same(
    client: TestClient, with_ensemble: str, iris: Dataset
) -> None:
    text, labels = labelled(iris)
    base = f"/api/v1/studies/{with_ensemble}/models/ensemble"
    headers = {"Content-Type": "text/csv"}
    wrong = text.replace(labels[0], "daisy", 1)
    refused = client.post(f"{base}/score", content=wrong, headers=headers)
    assert refused.status_code == 422
    assert "row 1, column 'species': 'daisy' is no class of the model ('setosa'" in refused.json()["detail"]
    predicted = client.post(f"{base}/predict", content=wrong, headers=headers).json()
    assert len(predicted["predictions"]) == 12
    assert "'daisy' is no class" in predicted["score_problem"]
    bare = "\n".join(line.rpartition(",")[0] for line in text.splitlines()) + "\n"
    refused = client.post(f"{base}/score", content=bare, headers=headers)
    assert "must have the label 'species' once, got it 0 times" in refused.json()["detail"]
    assert client.post(f"{base}/predict", content=bare, headers=headers).json()["score"] is None
