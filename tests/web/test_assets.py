"""What pages load: kept by browsers for good, under addresses that change with the content."""

import re
import shutil
from pathlib import Path

import pytest

from dnnflow.web.pages import assets
from tests.web.served import TestClient

LOADED = re.compile(r'(?:src|href)="(/static/[^"]+)"')


def test_what_a_page_loads_is_kept_for_good_and_compressed(client: TestClient, make_study) -> None:
    addresses = {
        found
        for path in ("/", "/new", f"/studies/{make_study(3)}/results")
        for found in LOADED.findall(client.get(path).text)
    }
    assert any("bokeh.min.js" in one for one in addresses)
    for one in addresses:
        answer = client.get(one, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, one
        assert "immutable" in answer.headers["cache-control"]
        if not one.endswith(".svg"):
            assert answer.headers["content-encoding"] == "gzip", one
            assert client.get(one, headers={"Accept-Encoding": "identity"}).content == answer.content
        again = client.get(one, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.headers["cache-control"]) == (304, answer.headers["cache-control"])


def test_scripts_that_scripts_import_are_beside_them(client: TestClient) -> None:
    for path in sorted(assets.STATIC.glob("*.js")):
        for name in re.findall(r'from "\./([\w.]+)"', path.read_text()):
            assert client.get(assets.address(name)).status_code == 200, (path.name, name)


@pytest.mark.parametrize(
    "path", ["/static/api.js", "/static/0123456789abcdef/api.js", "/static/bokeh/1.0/js/bokeh.min.js"]
)
def test_an_address_of_other_content_is_not_answered(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")


def test_an_address_changes_with_any_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = assets.mark.__wrapped__()
    shutil.copytree(assets.STATIC, tmp_path / "static")
    monkeypatch.setattr(assets, "STATIC", tmp_path / "static")
    assert assets.mark.__wrapped__() == before
    script = tmp_path / "static" / "api.js"
    script.write_text(script.read_text() + "\n")
    assert assets.mark.__wrapped__() != before


def test_pages_with_a_token_and_streams_are_not_compressed(client: TestClient, make_study) -> None:
    study_id = make_study(30)
    headers = {"Accept-Encoding": "gzip"}
    for path in (f"/studies/{study_id}", f"/api/v1/studies/{study_id}/events?max_s=0"):
        assert "content-encoding" not in client.get(path, headers=headers).headers
    plot = client.get(f"/api/v1/studies/{study_id}/plots/score", headers=headers)
    assert plot.headers["content-encoding"] == "gzip"
