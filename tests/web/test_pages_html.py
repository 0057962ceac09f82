"""Pages without a browser: what they refuse, what they escape, and what works where scripts do not."""

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from dnnflow.pipeline.good_rules import TableFacts, good_rules, in_words
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.jobs.services import Services
from tests.web.conftest import client_of

PAGE = {"Accept": "text/html"}
TABLE = b"a,b,<b>label</b>\n" + b"".join(
    b"%d,%d,%s\n" % (i, i * i % 7, b"xyz"[i % 3 : i % 3 + 1]) for i in range(60)
)


@pytest.fixture
def upload_id(client: TestClient) -> str:
    """Id of a table whose label has a name that HTML must escape."""
    headers = {"Content-Type": "text/csv", "X-File-Name": "gr%C3%B6%C3%9Fe <1>.csv"}
    answer = client.post("/api/v1/datasets", content=TABLE, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


def token_of(text: str) -> str:
    """Return the CSRF token of a page."""
    found = re.search(r'name="csrf-token" content="([^"]+)"', text)
    assert found is not None
    return found[1]


def fields_of(text: str) -> dict[str, str]:
    """Return what a browser would send of the rules form as it is."""
    form = text[text.index('id="rules"') : text.index("</form>", text.index('id="rules"'))]
    found = dict(re.findall(r'<input[^>]*?name="([^"]+)"[^>]*?value="([^"]*)"', form))
    found |= {name: value for value, name in re.findall(r'<input value="([^"]*)"[^>]*?name="([^"]+)"', form)}
    for name, inside in re.findall(r'<select[^>]*?name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r"<option(?: value=\"([^\"]*)\")?[^>]* selected>([^<]*)", inside)
        found[name] = (chosen[1] or chosen[2]) if chosen else ""
    found |= {name: "on" for name in re.findall(r'type="checkbox"[^>]*name="([^"]+)" checked', form)}
    return {
        name: value.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
        for name, value in found.items()
    }


def test_names_are_text_and_never_markup(client: TestClient, upload_id: str) -> None:
    page = client.get(f"/new/{upload_id}").text
    assert "<b>label</b>" not in page
    assert "&lt;b&gt;label&lt;/b&gt;" in page
    assert "größe &lt;1&gt;.csv" in page


def test_a_study_starts_without_scripts(client: TestClient, upload_id: str, services: Services) -> None:
    page = client.get(f"/new/{upload_id}/rules", params={"label": "<b>label</b>"}).text
    fields = fields_of(page) | {"designs": "7", "csrf_token": token_of(page)}
    answer = client.post(f"/new/{upload_id}/start", data=fields, headers=PAGE)
    assert answer.status_code == 303, answer.text
    study_id = answer.headers["location"].rpartition("/")[2]
    record = services.store.run(study_id)
    assert record.pipeline["designs"] == 7
    assert record.pipeline["dataset"]["label"] == "<b>label</b>"
    again = client.post(f"/new/{upload_id}/start", data=fields, headers=PAGE)
    assert again.headers["location"] == answer.headers["location"], "the button was pressed twice: one study"


def test_good_rules_are_those_of_the_table(client: TestClient, upload_id: str, services: Services) -> None:
    page = client.get(f"/new/{upload_id}", params={"label": "<b>label</b>"}).text
    rules = good_rules(TableFacts(rows=60, numbers=2, categories=0, classes=3))
    assert in_words(rules) in page
    data = {"label": "<b>label</b>", "csrf_token": token_of(page)}
    answer = client.post(f"/new/{upload_id}/start-now", data=data, headers=PAGE)
    record = services.store.run(answer.headers["location"].rpartition("/")[2])
    assert {name: record.pipeline[name] for name in rules} == rules


def test_a_form_that_is_wrong_comes_back_as_it_was_filled_in(client: TestClient, upload_id: str) -> None:
    page = client.get(f"/new/{upload_id}/rules", params={"label": "<b>label</b>"}).text
    fields = fields_of(page) | {"designs": "many", "csrf_token": token_of(page)}
    answer = client.post(f"/new/{upload_id}/start", data=fields, headers=PAGE)
    assert answer.status_code == 422
    assert 'value="many"' in answer.text
    assert 'aria-invalid="true"' in answer.text


@pytest.mark.parametrize("path", ["start", "start-now", "paste", "check", "delete"])
def test_a_form_without_its_token_is_refused(client: TestClient, upload_id: str, path: str) -> None:
    answer = client.post(
        f"/new/{upload_id}/{path}", data={"label": "a", "csrf_token": "guessed"}, headers=PAGE
    )
    assert answer.status_code == 403
    assert "What helps" in answer.text
    assert client.get(f"/new/{upload_id}").status_code == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "mapping of sections"),
        ("model: {source: x}", "no model|with a model"),
        ("executor: {address: 'tcp://h:1'}\ndesigns: 1", "names no places"),
        ("space: {reference: {function: 'os:system'}}\ndesigns: 1", "names no places and no code"),
        ("foo: 1\ndesigns: 1", "unknown key"),
    ],
)
def test_yaml_that_is_pasted_is_refused_in_words(
    client: TestClient, upload_id: str, text: str, told: str
) -> None:
    page = client.get(f"/new/{upload_id}/rules", params={"label": "<b>label</b>"}).text
    data = {"yaml": text, "label": "<b>label</b>", "csrf_token": token_of(page)}
    answer = client.post(f"/new/{upload_id}/paste", data=data, headers=PAGE)
    assert answer.status_code == 422
    assert re.search(told, answer.text), answer.text


def test_a_column_that_cannot_be_the_label_says_why(client: TestClient, upload_id: str) -> None:
    answer = client.get(f"/new/{upload_id}/rules", params={"label": "nothing"}, headers=PAGE)
    assert answer.status_code == 422
    assert "must be one of the table" in answer.text
    assert client.get(f"/new/{upload_id}/columns?at=99", headers=PAGE).status_code == 404


def test_a_table_is_forgotten_on_demand(client: TestClient, upload_id: str, services: Services) -> None:
    token = token_of(client.get("/new").text)
    answer = client.post(f"/new/{upload_id}/delete", data={"csrf_token": token}, headers=PAGE)
    assert answer.status_code == 303
    assert services.uploads.all() == []
    assert client.get(f"/new/{upload_id}", headers=PAGE).status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    ["/studies/nobody", "/studies/nobody/results", "/studies/nobody/predict", "/runs/nobody", "/nothing-here",
     "/studies/nobody/trials/x", "/compare?a=x&b=y", "/new/nobody", "/?after=nonsense"],
)  # fmt: skip
def test_what_is_not_there_is_a_page_that_helps(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=PAGE)
    assert answer.status_code in (404, 422)
    assert "text/html" in answer.headers["content-type"]
    assert "What helps" in answer.text


def test_a_study_is_controlled_without_scripts(
    client: TestClient, make_study: Callable[..., str], services: Services
) -> None:
    study_id = make_study(5, designs=20, state=RunState.RUNNING)
    with services.store.driving(study_id):
        page = client.get(f"/studies/{study_id}")
        answer = client.post(
            f"/studies/{study_id}/pause", data={"csrf_token": token_of(page.text)}, headers=PAGE
        )
        assert answer.status_code == 303
        assert services.store.study(study_id).command == "pause"
        assert client.post(f"/studies/{study_id}/pause", headers=PAGE).status_code == 403
        assert client.post(f"/studies/{study_id}/explode", headers=PAGE).status_code in (403, 404)


def test_a_study_whose_designs_are_trained_says_what_it_does(
    client: TestClient, make_study: Callable[..., str], services: Services
) -> None:
    for trained, is_said in ((4, True), (3, False)):
        study_id = make_study(trained, designs=4, state=RunState.RUNNING)
        with services.store.driving(study_id):
            services.store.tell(study_id, stage="finalists: 3 of 20 trainings")
            assert (">finalists: 3 of 20" in client.get(f"/studies/{study_id}").text) is is_said


@pytest.mark.parametrize(
    ("query", "rows"),
    [("", 50), ("state=failed", 2), ("state=all&depth=3", 9), ("min_score=0.96", None),
     ("sort=-depth&column=depth&column=seed", 50), ("min_score=&depth=", 50), ("min_score=-1e-3", 50)],
)  # fmt: skip
def test_trials_are_filtered_and_sorted_by_address(
    client: TestClient, make_study: Callable[..., str], query: str, rows: int | None
) -> None:
    study_id = make_study(70, failed=2)
    answer = client.get(f"/studies/{study_id}/results?{query}", headers=PAGE)
    assert answer.status_code == 200
    table = answer.text.partition('id="trials"')[2].partition("</table>")[0]
    found = table.count("/trials/")
    assert found == rows if rows is not None else 0 < found < 50
    assert "too <b>big</b>" not in answer.text


@pytest.mark.parametrize(
    ("query", "told"),
    [("min_score=x", "got &#39;x&#39;"), ("min_score=0,9", "with a point"), ("min_score=nan", "A score is"),
     ("depth=1-3", "one whole number"), ("depth=1e300", "one whole number"), ("depth=-1", "whole number"),
     ("min_accuracy=abc", "min_score"), ("min_accuracy=0.9", "min_score"), ("sort=nonsense", "sort"),
     ("column=nonsense", "column"), ("state=done", "state")],
)  # fmt: skip
def test_a_filter_that_cannot_be_is_refused_in_words(
    client: TestClient, make_study: Callable[..., str], query: str, told: str
) -> None:
    answer = client.get(f"/studies/{make_study(5)}/results?{query}", headers=PAGE)
    assert answer.status_code == 422
    assert told in answer.text
    assert 'id="trials"' not in answer.text


def test_the_next_page_of_trials_goes_on_where_the_first_ends(
    client: TestClient, make_study: Callable[..., str]
) -> None:
    study_id = make_study(70)
    first = client.get(f"/studies/{study_id}/results").text
    address = re.search(r'href="([^"]*after=[^"#]*)', first)
    assert address is not None
    second = client.get(address[1].replace("&amp;", "&")).text
    ids = [set(re.findall(r"/trials/(\w+)", text[text.index('id="trials"') :])) for text in (first, second)]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 70


def test_a_parallel_training_has_a_page_of_its_own(client: TestClient, services: Services) -> None:
    services.store.add(RunRecord(
        run_id="run1", kind=RunKind.TRAINING, name="two replicas", queue="recorded", queued_s=1.0,
        created_at="2026-01-01T00:00:00+00:00", stage="epoch 3", dashboard="javascript:alert(1)",
        progress={"samples": 500, "total": 1000, "rate": 12.5, "loss": 0.25, "measures": {"val_loss": 0.5},
                  "replicas": 2, "elapsed_s": 4.0},
    ))  # fmt: skip
    page = client.get("/runs/run1").text
    assert "epoch 3" in page
    assert "500" in page
    assert "javascript:" not in page
    assert "two replicas" in client.get("/").text
    answer = client.post("/runs/run1/cancel", data={"csrf_token": token_of(page)}, headers=PAGE)
    assert answer.status_code == 303
    assert ("cancel", "run1") in services.launcher.asked  # type: ignore[attr-defined]


def test_a_link_with_the_token_logs_in_and_goes_on(make_services: Callable[..., Services]) -> None:
    from dnnflow.web.app import create_app

    token = "correct-horse-battery-staple"
    with client_of(create_app(make_services(WebConfig(token=token)))) as client:
        asked = client.get("/new", headers=PAGE)
        assert asked.headers["location"] == "/login?next=%2Fnew"
        assert 'type="password"' in client.get(asked.headers["location"]).text
        assert client.get("/login", params={"token": "wrong"}, headers=PAGE).status_code == 403
        logged_in = client.get("/login", params={"token": token, "next": "/new"})
        assert logged_in.headers["location"] == "/new"
        page = client.get("/new", headers=PAGE)
        assert page.status_code == 200
        assert "Log out" in page.text


@pytest.mark.slow
def test_pages_hold_no_script_and_no_style_of_their_own(
    client: TestClient, make_study: Callable[..., str], upload_id: str
) -> None:
    study_id = make_study(20, failed=1)
    for path in ("/", "/new", f"/new/{upload_id}", f"/studies/{study_id}",
                 f"/studies/{study_id}/results",
                 f"/studies/{study_id}/analysis", f"/studies/{study_id}/predict", "/about",
                 "/login"):  # fmt: skip
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*(src=|application/json))", text), path
        assert not re.search(r"\son\w+=|style=|<style|https?://(?!127\.0\.0\.1)", text), path


def test_a_text_may_be_said_to_have_columns_of_fixed_width(client: TestClient) -> None:
    """Where that is in doubt, as a column without a name: first rows are shown, then it is read so."""
    rows = "".join(f"{a:<6}{b:<9}{c}\n" for a, b, c in [("1.5", "Ulm", "x"), ("10", "Bad Ems", "y")] * 9)
    sent = client.post("/api/v1/datasets?delimiter=|", content=f"{'size':<15}kind\n{rows}",
                       headers={"Content-Type": "text/csv"})  # fmt: skip
    assert "set delimiter to a blank, or format to fwf" in sent.text
    sent = client.post("/api/v1/datasets?delimiter=%20&header=false", content=rows.replace("Bad Ems", "Ems"),
                       headers={"Content-Type": "text/csv"})  # fmt: skip
    address = f"/new/{sent.json()['upload_id']}"
    page = client.get(address).text
    assert '<option value="fwf">columns of fixed width</option>' in page
    data = {"csrf_token": token_of(page), "format": "fwf", "header": "no"}
    assert "column_3" in client.post(f"{address}/first-rows", data=data).text
    assert client.post(f"{address}/reading", data=data, headers=PAGE).status_code == 303
    found = client.get(f"/api/v1/datasets/{sent.json()['upload_id']}").json()
    assert (found["reading"]["format"], found["asked"]) == ("fwf", {"format": "fwf", "header": False})
