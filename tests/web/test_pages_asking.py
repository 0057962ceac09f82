"""What pages ask before something is lost, and what need not be done twice."""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from dnnflow.results.store.run_record import RunKind, RunRecord, RunState
from dnnflow.web.jobs.services import Services
from tests.web.browsing import Site, Tab
from tests.web.recording import insert_study, recorder
from tests.web.served import TestClient
from tests.web.test_pages_html import PAGE, token_of

ROWS = b"a,b,kind\n" + b"".join(b"%d,%d,%s\n" % (i, i * i % 37, b"xy"[i % 2 :][:1]) for i in range(90))
FOCUSED = "document.activeElement.textContent.trim()"


def sent(url: str, name: str) -> str:
    """Upload a table and return its id."""
    headers = {"Content-Type": "text/csv", "X-File-Name": name}
    answer = httpx.post(f"{url}/api/v1/datasets", content=ROWS, headers=headers, timeout=60)
    return str(answer.json()["upload_id"])


def test_deleting_a_table_asks_without_scripts_too(client: TestClient, services: Services) -> None:
    client.post("/api/v1/datasets", content=ROWS, headers={"Content-Type": "text/csv"})
    (upload,) = services.uploads.all()
    address = f"/new/{upload.upload_id}/delete"
    assert f'href="{address}"' in client.get("/new").text
    asked = client.get(address, headers=PAGE)
    assert services.uploads.all() == [upload]
    assert "A study that has not finished" not in asked.text
    client.post(address, data={"csrf_token": token_of(asked.text)}, headers=PAGE)
    assert services.uploads.all() == []


def test_deleting_a_table_says_that_a_study_needs_it(client: TestClient, services: Services) -> None:
    client.post("/api/v1/datasets", content=ROWS, headers={"Content-Type": "text/csv"})
    (upload,) = services.uploads.all()
    pipeline = {"dataset": {"source": f"upload:{upload.upload_id}", "label": "kind"}, "designs": 9}
    assert client.post("/api/v1/studies", json={"pipeline": pipeline}).status_code == 201
    assert recorder(services).asked
    asked = client.get(f"/new/{upload.upload_id}/delete", headers=PAGE)
    assert "A study that has not finished" in asked.text


@pytest.mark.parametrize("step", ["start", "start-now", "paste"])
def test_a_forms_address_leads_to_where_it_begins(client: TestClient, services: Services, step: str) -> None:
    client.post("/api/v1/datasets", content=ROWS, headers={"Content-Type": "text/csv"})
    (upload,) = services.uploads.all()
    answer = client.get(f"/new/{upload.upload_id}/{step}", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/new/{upload.upload_id}")


# ---- in a browser


def test_keeping_is_nearer_than_deleting(tab: Tab, site: Site) -> None:
    upload_id = sent(site.url, "few rows.csv")
    tab.open("/new")
    tab.page.get_by_role("link", name="Delete few rows.csv").first.click()
    tab.page.wait_for_url("**/delete")
    tab.picture("delete")
    assert tab.violations() == []
    tab.page.get_by_role("link", name="Keep it").click()
    tab.page.wait_for_url("**/new")
    assert upload_id in {one.upload_id for one in site.services.uploads.all()}
    tab.open(f"/new/{upload_id}/delete")
    tab.page.get_by_role("button", name="Delete the table").click()
    tab.page.wait_for_url("**/new")
    assert upload_id not in {one.upload_id for one in site.services.uploads.all()}
    assert tab.said == []


def test_a_dialog_begins_with_the_answer_that_changes_nothing(tab: Tab, site: Site) -> None:
    study_id = insert_study(site.services.store, 3, designs=9, state=RunState.RUNNING, name="asked")
    with site.services.store.driving(study_id):
        tab.open(f"/studies/{study_id}")
        tab.page.get_by_role("button", name="Cancel").click()
        assert tab.page.evaluate(FOCUSED) == "Let it run"
        tab.picture("cancel-study", whole=False)
        assert tab.violations() == []
        tab.page.keyboard.press("Enter")
        assert not tab.page.locator("#sure").is_visible()
        tab.page.get_by_role("button", name="Cancel").click()
        tab.page.keyboard.press("Escape")
        assert site.services.store.study(study_id).command == "run"


def test_cancelling_a_training_asks(tab: Tab, site: Site) -> None:
    run_id = f"training-{id(tab)}"
    site.services.store.add(RunRecord(run_id=run_id, kind=RunKind.TRAINING, name="replicas"))
    with site.services.store.driving(run_id):
        tab.open(f"/runs/{run_id}")
        tab.page.get_by_role("button", name="Cancel").click()
        assert tab.page.evaluate(FOCUSED) == "Let it run"
        assert tab.violations() == []
        tab.page.keyboard.press("Enter")
        assert site.services.store.run(run_id).command == "run"


@pytest.mark.parametrize("fails", ["in the network", "by a fault of the table"])
def test_an_upload_is_tried_again_without_choosing_the_file(tab: Tab, fails: str) -> None:
    page = tab.page
    tab.open("/new")
    if fails == "in the network":
        page.context.set_offline(True)
    else:
        page.route("**/api/v1/datasets", lambda route: route.fulfill(status=503, json={"detail": "not now"}))
    page.set_input_files("#file", {"name": "again.csv", "mimeType": "text/csv", "buffer": ROWS})
    page.wait_for_selector("#failure:not([hidden])")
    tab.picture("upload-again")
    assert tab.violations() == []
    page.context.set_offline(False)
    page.unroute("**/api/v1/datasets")
    page.get_by_role("button", name="Try again.csv again").click()
    page.wait_for_url("**/new/*")
    assert page.inner_text("h1") == "again.csv"


def test_a_file_that_has_changed_is_to_be_chosen_once_more(tab: Tab, tmp_path: Path) -> None:
    table = tmp_path / "changed.csv"
    table.write_bytes(b"a,b,kind\n1,2\n")
    tab.open("/new")
    tab.page.set_input_files("#file", table)
    tab.page.wait_for_selector("#failure:not([hidden])")
    table.write_bytes(ROWS)
    later = table.stat().st_mtime + 60  # Chromium compares seconds
    os.utime(table, (later, later))
    tab.page.get_by_role("button", name="Try changed.csv again").click()
    tab.page.wait_for_selector("#failure:not([hidden]):has-text('choose it once more')")
    assert tab.page.locator("#file").is_visible()
    tab.page.set_input_files("#file", table)
    tab.page.wait_for_url("**/new/*")


def test_the_buttons_stand_above_the_classes(open_tab: Callable[..., Tab], site: Site) -> None:
    tab = open_tab()
    tab.open(f"/new/{sent(site.url, 'order.csv')}")
    page = tab.page
    heading, button = page.locator("#classes h2"), page.locator("button[data-start]").first
    page.get_by_label("kind", exact=True).check()
    tab.wait("document.getElementById('classes').textContent.includes('2 classes')")
    assert button.bounding_box()["y"] < heading.bounding_box()["y"]  # type: ignore[index]
    page.get_by_label("b", exact=True).check()  # whole numbers: classes or amounts?
    tab.wait("document.getElementById('classes').textContent.includes('b:')")
    tab.picture("label-order")
    assert tab.violations() == []
    page.route("**/columns?*", lambda route: route.abort())
    page.get_by_label("a", exact=True).check()
    page.wait_for_selector("#classes .note.bad")
    assert "does not answer" in page.inner_text("#classes")
    assert button.is_disabled()
