"""Who gets in, and from where: what a page on another site, a stranger or a flood of requests may not do."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from dnnflow.errors import InputError
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import Limits, UploadLimits, WebConfig
from dnnflow.web.guard.rates import Buckets, client_key
from dnnflow.web.guard.security import check_config
from dnnflow.web.guard.sessions import COOKIE, Sessions, csrf_token, keep_session, safe_place
from dnnflow.web.jobs.services import Services
from tests.web.recording import recorder
from tests.web.served import TestClient, client_of

TOKEN = "a token that is long enough"
BASE = "http://127.0.0.1:8050"


def with_page(app: FastAPI) -> FastAPI:
    """Add a page that shows its CSRF token, and a form's route, as pages do."""
    from typing import Annotated

    from fastapi import Depends, Request, Response
    from starlette.responses import HTMLResponse

    from dnnflow.web.guard.sessions import checked_form

    @app.get("/a-page")
    def page(request: Request) -> Response:
        return keep_session(request, HTMLResponse(csrf_token(request)))

    @app.post("/a-form")
    def form(fields: Annotated[dict, Depends(checked_form)]) -> dict[str, str]:
        return dict(fields)

    return app


@pytest.fixture
def locked(make_services: Callable[..., Services]) -> Iterator[TestClient]:
    """A client of an app that needs a token."""
    with client_of(with_page(create_app(make_services(WebConfig(token=TOKEN))))) as opened:
        yield opened


@pytest.fixture
def browser(make_services: Callable[..., Services]) -> Iterator[TestClient]:
    """A client of an app without a token that keeps cookies, as a browser does."""
    with client_of(with_page(create_app(make_services()))) as opened:
        yield opened


# ---- hosts: DNS rebinding


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8050", "localhost", "LOCALHOST:99", "[::1]:8050", "dnnflow.localhost"]
)
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "127.0.0.1@evil",
        "a:b:c",
        "[::",
    ],
)
def test_a_name_that_somebody_points_here_is_not(client: TestClient, host: str) -> None:
    answer = client.get("/api/v1/health", headers={"Host": host})
    assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json")
    assert "remedy" in answer.json()


def test_a_name_that_was_allowed_is_answered(make_services: Callable[..., Services]) -> None:
    with client_of(create_app(make_services(WebConfig(hosts=("train.example",))))) as opened:
        assert opened.get("/api/v1/health", headers={"Host": "train.example"}).status_code == 200


def test_others_are_served_with_a_token_only() -> None:
    with pytest.raises(InputError, match=r"needs a token, got host 0\.0\.0\.0"):
        check_config(WebConfig(host="0.0.0.0"))
    with pytest.raises(InputError, match="16 characters"):
        check_config(WebConfig(host="0.0.0.0", token="short"))
    check_config(WebConfig(host="0.0.0.0", token=TOKEN))


# ---- changes from other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_changes_nothing(
    client: TestClient, services: Services, make_study, headers: dict[str, str]
) -> None:
    study_id = make_study(2, designs=4, state="stopped")
    answer = client.post(f"/api/v1/studies/{study_id}/resume", headers=headers)
    assert answer.status_code == 403
    assert recorder(services).asked == []


def test_a_program_on_this_machine_needs_no_token(client: TestClient) -> None:
    assert client.post("/api/v1/studies", json={"pipeline": {}}).status_code == 422


def test_our_own_page_changes_things_with_its_token(browser: TestClient) -> None:
    headers = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    assert browser.post("/api/v1/studies", json={"pipeline": {}}, headers=headers).status_code == 403
    token = browser.get("/a-page").text
    assert (
        browser.post(
            "/api/v1/studies", json={"pipeline": {}}, headers={**headers, "X-CSRF-Token": token}
        ).status_code
        == 422
    )
    assert (
        browser.post(
            "/api/v1/studies", json={"pipeline": {}}, headers={**headers, "X-CSRF-Token": "x"}
        ).status_code
        == 403
    )


def test_a_form_carries_its_sessions_token(browser: TestClient) -> None:
    assert browser.post("/a-form", data={"a": "1"}).status_code == 403
    token = browser.get("/a-page").text
    assert browser.post("/a-form", data={"a": "1", "csrf_token": token}).json()["a"] == "1"
    browser.cookies.clear()
    browser.get("/a-page")
    assert browser.post("/a-form", data={"a": "1", "csrf_token": token}).status_code == 403


# ---- login


def test_a_stranger_sees_nothing(locked: TestClient) -> None:
    answer = locked.get("/api/v1/studies")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="dnnflow"')
    assert locked.get("/api/v1/openapi.json").status_code == 401
    page = locked.get("/studies/x?y=1", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fstudies%2Fx%3Fy%3D1")
    assert locked.get("/api/v1/health").status_code == 200


def test_a_program_shows_its_token(locked: TestClient) -> None:
    assert locked.get("/api/v1/studies", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.get("/api/v1/studies", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert locked.get("/api/v1/studies", headers={"Authorization": "Bearer"}).status_code == 401
    assert locked.get("/api/v1/studies", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401


def test_a_person_logs_in_and_out(locked: TestClient) -> None:
    answer = locked.post("/login", data={"token": TOKEN, "next": "/studies/x"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/x")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert locked.get("/api/v1/studies").status_code == 200
    token = locked.get("/a-page").text
    assert locked.post("/api/v1/studies", json={"pipeline": {}}).status_code == 403
    assert (
        locked.post("/api/v1/studies", json={"pipeline": {}}, headers={"X-CSRF-Token": token}).status_code
        == 422
    )
    kept = locked.cookies[COOKIE]
    assert locked.post("/logout", data={"csrf_token": token}).status_code == 303
    locked.cookies.set(COOKIE, kept)
    assert locked.get("/api/v1/studies").status_code == 401


def test_over_https_the_cookie_never_travels_without(locked: TestClient) -> None:
    locked.base_url = "https://127.0.0.1:8050"
    assert "secure" in locked.post("/login", data={"token": TOKEN}).headers["set-cookie"].lower()


def test_a_wrong_token_makes_no_session_and_guessing_is_slow(locked: TestClient) -> None:
    answers = [locked.post("/login", data={"token": f"guess {i}"}) for i in range(11)]
    assert [one.status_code for one in answers] == [403] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert not any("set-cookie" in one.headers for one in answers)
    assert locked.get("/api/v1/studies", headers={"Authorization": "Bearer x"}).status_code == 429


def test_a_session_outlives_a_restart_but_not_another_token() -> None:
    session = Sessions(TOKEN, b"s" * 32).new(logged_in=True)
    assert Sessions(TOKEN, b"s" * 32).is_valid(session, logged_in=True)
    assert not Sessions(TOKEN + "2", b"s" * 32).is_valid(session)
    assert not Sessions(TOKEN, b"t" * 32).is_valid(session)


def test_a_browser_without_login_cannot_make_itself_logged_in() -> None:
    sessions = Sessions(TOKEN, b"s" * 32)
    anonymous = sessions.new(logged_in=False)
    assert sessions.is_valid(anonymous)
    assert not sessions.is_valid(anonymous, logged_in=True)
    assert not sessions.is_valid("in" + anonymous[2:], logged_in=True)
    for broken in ("", "a.b.c.d", "in.1.x", anonymous + "0", None, "in..." + "0" * 64):
        assert not sessions.is_valid(broken)


def test_a_login_forgets_after_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(TOKEN, b"s" * 32)
    session = sessions.new(logged_in=True)
    now = time.time()
    later = SimpleNamespace(time=lambda: now + 8 * 86400)
    monkeypatch.setattr("dnnflow.web.guard.sessions.time", later)
    assert not sessions.is_valid(session)


@pytest.mark.parametrize(
    "place", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nb", ""]
)
def test_a_login_leads_to_this_server_only(place: str) -> None:
    assert safe_place(place) == "/"


# ---- how much and how often


def test_a_flood_is_answered_with_when_to_come_back(make_services: Callable[..., Services]) -> None:
    with client_of(create_app(make_services(WebConfig(limits=Limits(requests_s=1, burst=5))))) as opened:
        answers = [opened.get("/api/v1/health") for _ in range(7)]
    assert [one.status_code for one in answers][:5] == [200] * 5
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"]


def test_the_table_of_clients_does_not_grow() -> None:
    buckets = Buckets(1.0, 2.0)
    for index in range(5000):
        buckets.take(str(index))
    assert len(buckets._buckets) == 4096


def test_one_customers_addresses_are_one_client() -> None:
    assert client_key("2001:db8::1") == client_key("2001:db8::ffff:2")
    assert client_key("::ffff:192.0.2.1") == client_key("192.0.2.1")


@pytest.mark.parametrize("path", ["/api/v1/studies", "/login", "/api/v1/studies/x/models/1/predict"])
def test_a_large_body_is_refused_before_it_is_kept(make_services: Callable[..., Services], path: str) -> None:
    limits = Limits(body_bytes=1000, predict_bytes=1000)
    with client_of(create_app(make_services(WebConfig(limits=limits)))) as opened:
        kind = "application/x-www-form-urlencoded" if path == "/login" else "application/json"
        declared = opened.post(path, content=b"x" * 1001, headers={"Content-Type": kind})
        streamed = opened.post(path, content=iter([b"x" * 600] * 2), headers={"Content-Type": kind})
    for answer in (declared, streamed):
        assert (answer.status_code, answer.json()["title"]) == (413, "Too large")


def test_an_upload_may_be_larger_than_other_bodies(make_services: Callable[..., Services]) -> None:
    limits = Limits(body_bytes=100, upload=UploadLimits(stored_bytes=10_000))
    with client_of(create_app(make_services(WebConfig(limits=limits)))) as opened:
        rows = b"a,b\n" + b"1,x\n2,y\n" * 200
        assert (
            opened.post("/api/v1/datasets", content=rows, headers={"Content-Type": "text/csv"}).status_code
            == 201
        )
        assert (
            opened.post(
                "/api/v1/datasets", content=rows * 10, headers={"Content-Type": "text/csv"}
            ).status_code
            == 413
        )


# ---- what every response says


def test_headers_are_on_every_response(client: TestClient) -> None:
    for path in ("/api/v1/health", "/api/v1/none", "/nothing", "/static/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert re.search(r"script-src 'self'(;|$)", policy), path
        assert "unsafe-eval" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "server" not in headers
    assert client.get("/api/v1/health").headers["cache-control"] == "no-store"


@pytest.mark.slow
def test_a_report_runs_as_a_stranger(client: TestClient, make_study) -> None:
    policy = client.get(f"/api/v1/studies/{make_study(3)}/report").headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy


def test_a_fault_tells_the_client_nothing(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret path /etc/passwd")

    monkeypatch.setattr(app.state.views, "summaries", broken)
    answer = client.get("/api/v1/studies")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/bokeh/../../x"]
)
def test_files_are_those_of_their_folder(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_logs_line_has_no_query() -> None:
    import logging

    from dnnflow.web.guard.security import WithoutQueries

    record = logging.LogRecord("uvicorn.access", 20, "", 0, '%s - "%s %s HTTP/%s" %d',
                               ("127.0.0.1:1", "GET", "/login?token=secret", "1.1", 200), None)  # fmt: skip
    assert WithoutQueries().filter(record)
    assert "secret" not in record.getMessage()


@pytest.mark.slow
def test_the_server_never_imports_what_trains(tmp_path) -> None:
    code = (
        "import sys; from dnnflow.settings import Settings; from dnnflow.results.store.store import Store;"
        "from dnnflow.web.app import create_app; from dnnflow.web.jobs.services import Services;"
        "from dnnflow.web.contract.web_config import WebConfig;"
        "from dnnflow.web.uploads.uploads import Uploads; from tests.web.recording import *;"
        "from tests.web.served import client_of; from pathlib import Path;"
        f"s = Settings.from_environment({{'DNNFLOW_HOME': {str(tmp_path)!r}}}); store = Store(s.store_url);"
        "u = Uploads(s.workspace.home / 'uploads', WebConfig().limits.upload);"
        "app = create_app(Services(WebConfig(), s, store, u, RecordingLauncher(store)));"
        "i = insert_study(store, 24); c = client_of(app);"
        "up = c.post('/api/v1/datasets', content=Path('pipelines/data/iris.csv').read_bytes(),"
        " headers={'Content-Type': 'text/csv'}).json()['upload_id'];"
        "p = {'dataset': {'source': 'upload:' + up, 'label': 'species'}, 'designs': 20,"
        " 'executor': {'memory_limit': '2GB'}};"
        "codes = [c.post('/api/v1/studies', json={'pipeline': p}).status_code,"
        " c.post('/api/v1/studies/estimate', json={'pipeline': p}).status_code];"
        "codes += [c.get(f'/api/v1/studies/{i}' + x).status_code for x in"
        " ('', '/trials', '/leaderboard', '/plots', '/plots/score', '/report', '/models', '/export')];"
        "heavy = {'tensorflow', 'keras', 'dask', 'distributed', 'prefect', 'numba'} & set(sys.modules);"
        "print(codes, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{[201] + [200] * 9} []", done.stderr[-2000:]
