"""What becomes of a person whose session has ended: the login, and then the page as it was left."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dnnflow.results.store.run_record import RunState
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.jobs.services import Services
from tests.web.browsing import Site, Tab
from tests.web.recording import insert_study
from tests.web.served import Served, TestClient, client_of, serving

TOKEN = "correct-horse-battery-staple"
PAGE = {"Accept": "text/html,application/xhtml+xml", "Origin": "http://127.0.0.1:8050"}
SCRIPT = {"Accept": "text/html", "X-CSRF-Token": "of an old session"}
BASE = "http://127.0.0.1:8050"


@pytest.fixture
def locked(make_services: Callable[..., Services]) -> Iterator[TestClient]:
    """A browser before a server that asks for a token."""
    with client_of(create_app(make_services(WebConfig(token=TOKEN)))) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "referer", "place"),
    [
        ("GET", "/studies/x?y=1", None, "next=%2Fstudies%2Fx%3Fy%3D1"),
        ("POST", "/new/x/start", f"{BASE}/new/x/rules?label=a", "next=%2Fnew%2Fx%2Frules%3Flabel%3Da&ended"),
        ("POST", "/new/x/start", None, "next=%2F&ended"),
        ("POST", "/new/x/start", "https://evil.example/new", "next=%2F&ended"),
        ("POST", "/new/x/start", "http://[", "next=%2F&ended"),
        ("GET", "/api/v1/studies/x/export", f"{BASE}/studies/x/results", "next=%2Fstudies%2Fx%2Fresults"),
        ("GET", "/api/v1/studies/x/report", None, "next=%2Fapi%2Fv1%2Fstudies%2Fx%2Freport"),
    ],
)  # fmt: skip
def test_a_browser_goes_to_the_login_and_comes_back(
    locked: TestClient, method: str, path: str, referer: str | None, place: str
) -> None:
    headers = PAGE | ({"Referer": referer} if referer else {})
    answer = locked.request(method, path, headers=headers)
    assert answer.status_code == 303
    found = answer.headers["location"]
    assert found.startswith(f"/login?{place}"), found
    form = locked.get(found, headers=PAGE)
    assert ("Your session has ended" in form.text) is ("ended" in found)


@pytest.mark.parametrize("path", ["/new/x/columns?at=1", "/studies/x/analysis", "/api/v1/studies"])
def test_a_script_learns_that_the_session_has_ended(locked: TestClient, path: str) -> None:
    answer = locked.get(path, headers=SCRIPT)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


def test_a_wrong_token_is_told_beside_the_form(locked: TestClient) -> None:
    by_form = locked.post("/login", data={"token": "wrong", "next": "/new"}, headers=PAGE)
    by_link = locked.get("/login", params={"token": "wrong", "next": "/new"}, headers=PAGE)
    for answer in (by_form, by_link):
        assert answer.status_code == 403
        assert "needs this server&#39;s token" in answer.text
        assert 'type="password"' in answer.text
        assert 'name="next" value="/new"' in answer.text
    for _ in range(10):
        answer = locked.post("/login", data={"token": "wrong"}, headers=PAGE)
    assert (answer.status_code, answer.headers["retry-after"] > "0") == (429, True)
    assert 'type="password"' in answer.text


# ---- in a browser


@pytest.fixture
def away(chromium: Browser, site: Site, shots: Path) -> Iterator[Tab]:
    """A tab that is logged in to a server that asks for a token."""
    services = replace(site.services, config=WebConfig(token=TOKEN))
    with serving(create_app(services)) as served:
        context = chromium.new_context(reduced_motion="reduce")
        yield logged_in(Tab(context.new_page(), served.url, shots), served)
        context.close()


def logged_in(tab: Tab, served: Served) -> Tab:
    tab.open(f"/login?token={TOKEN}")
    return tab


def log_in(tab: Tab) -> None:
    """Fill the form in that a page has led to."""
    tab.page.wait_for_url("**/login?*")
    assert "Your session has ended" in tab.page.inner_text("main")
    tab.page.fill("#token", "not this one, but long enough")
    tab.page.get_by_role("button", name="Log in").click()
    tab.page.wait_for_selector("[role=alert]")
    tab.picture("login-wrong")
    assert tab.violations() == []
    tab.page.fill("#token", TOKEN)
    tab.page.get_by_role("button", name="Log in").click()


def rules_page(tab: Tab) -> str:
    """Upload a table and open its rules."""
    rows = b"a,b,kind\n" + b"".join(b"%d,%d,%s\n" % (i, i * i % 7, b"xy"[i % 2 :][:1]) for i in range(40))
    tab.open("/new")
    tab.page.set_input_files("#file", {"name": "few.csv", "mimeType": "text/csv", "buffer": rows})
    tab.page.wait_for_url("**/new/*")
    tab.page.get_by_role("button", name="Set the rules first").click()
    tab.page.wait_for_url("**/rules?*")
    return tab.page.url


def test_what_was_typed_is_there_again_after_the_login(away: Tab) -> None:
    page, rules = away.page, rules_page(away)
    page.context.clear_cookies()
    page.fill("[name='designs']", "17")  # the script asks what that costs
    log_in(away)
    page.wait_for_url(rules)
    away.wait("document.getElementById('yaml').value.includes('designs: 17')")
    assert page.input_value("[name='designs']") == "17"
    page.context.clear_cookies()
    page.evaluate("document.getElementById('rules').requestSubmit()")  # before a script asks
    log_in(away)
    page.wait_for_url(rules)
    assert page.input_value("[name='designs']") == "17"
    page.reload()
    assert page.input_value("[name='designs']") != "17"


def test_scripts_lead_to_the_login(away: Tab, site: Site) -> None:
    page = away.page
    study_id = insert_study(site.services.store, 10, designs=20, state=RunState.RUNNING, name="half")
    with site.services.store.driving(study_id):
        away.open(f"/studies/{study_id}")
        page.wait_for_selector("#state.running")
        page.context.clear_cookies()
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")  # a new stream
        log_in(away)
        page.wait_for_selector("#state.running")
        page.context.clear_cookies()
        page.get_by_role("button", name="Pause").click()
        log_in(away)
        page.wait_for_selector("#state.running")
    rules = rules_page(away)
    page.goto(rules.partition("/rules")[0])
    page.context.clear_cookies()
    page.get_by_label("a", exact=True).check()
    log_in(away)
    page.wait_for_url("**/new/*")
    away.open("/new")
    page.context.clear_cookies()
    page.set_input_files("#file", {"name": "t.csv", "mimeType": "text/csv", "buffer": b"a,b\n1,x\n2,y\n"})
    log_in(away)
    page.wait_for_url("**/new")
