"""What a person meets in a real browser: the whole way, and what goes wrong on it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload

from dnnflow.results.store.run_record import RunState
from tests.web.browsing import DIGITS, PHONE, Site, Tab
from tests.web.recording import insert_study

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "study.png"
LOOKS_UNDER_S = 5.0
FINISHES_UNDER_MS = 240_000


def upload(tab: Tab, file: Path | FilePayload) -> None:
    """Choose a file on the page of a new study."""
    tab.open("/new")
    tab.page.set_input_files("#file", file)


def rules_of(tab: Tab, designs: int, epochs: int = 3) -> None:
    """Set a small study's rules."""
    tab.page.fill("[name='designs']", str(designs))
    tab.page.fill("[name='space.epochs']", str(epochs))
    tab.wait(f"document.getElementById('yaml').value.includes('designs: {designs}')")


@pytest.mark.slow
def test_the_whole_way_from_a_table_to_predictions(tab: Tab, site: Site, shots: Path) -> None:
    page = tab.page
    upload(tab, DIGITS)
    page.wait_for_url("**/new/*")
    assert page.locator("[name=label]:checked").input_value() == "digit"
    assert "10 classes" in page.inner_text("#classes")
    page.get_by_label("pixel_0_0", exact=True).check()
    page.wait_for_selector("#classes .note.bad")
    assert page.locator("button.main").is_disabled()
    page.get_by_label("digit", exact=True).check()
    tab.wait("document.getElementById('classes').textContent.includes('10 classes')")
    page.get_by_role("button", name="Set the rules first").click()
    page.wait_for_url("**/rules?*")
    rules_of(tab, 24)
    page.get_by_role("button", name="Start the study").click()
    page.wait_for_url("**/studies/*")
    study = page.url
    tab.wait("+document.getElementById('done').textContent > 0", limit_s=FINISHES_UNDER_MS / 1000)
    page.reload()
    page.wait_for_selector("#state.finished", timeout=FINISHES_UNDER_MS)
    assert page.inner_text("#done") == "24"
    assert float(page.inner_text("#best").removesuffix(" %")) > 50
    page.wait_for_selector("#live-score svg rect")
    tab.picture("study-digits")
    page.get_by_role("link", name="Results").first.click()
    page.wait_for_selector("#trials tbody tr")
    assert page.locator("#trials tbody tr").count() == 24
    page.wait_for_selector("[data-plot=curves-score]")
    page.locator("#depth > summary").click()
    for plot in page.locator("[data-plot]").all():
        plot.scroll_into_view_if_needed()
    tab.wait("![...document.querySelectorAll('[data-plot]')].some(p => !p.dataset.state)")
    assert page.locator("[data-plot][data-state=failed]").count() == 0
    tab.picture("results-digits")
    assert tab.violations() == []
    with page.expect_download() as csv:
        page.get_by_role("link", name="CSV").click()
    assert len(Path(csv.value.path()).read_text().splitlines()) == 25
    end_s = time.monotonic() + 60
    while not page.get_by_role("link", name="Best model").count() and time.monotonic() < end_s:
        page.reload()  # models are saved after the last trial
    with page.expect_download() as model:
        page.get_by_role("link", name="Best model").click()
    assert Path(model.value.path()).read_bytes()[:2] == b"PK"
    predict(tab, study)
    assert tab.said == []


def predict(tab: Tab, study: str) -> None:
    """Paste three rows of the table, and see that the best model knows most of them."""
    page = tab.page
    page.goto(f"{study}/predict")
    head, *rows = DIGITS.read_text().splitlines()[:31]
    labels = [row.rpartition(",")[2] for row in rows]
    page.fill("#rows", "\n".join([head.rpartition(",")[0], *(row.rpartition(",")[0] for row in rows)]))
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#predictions-rows tr", timeout=60_000)
    found = page.locator("#predictions-rows td:nth-child(2)").all_inner_texts()
    assert len(found) == len(labels)
    right = sum(one == other for one, other in zip(found, labels, strict=True))
    assert right > len(labels) / 2
    tab.picture("predict-digits")
    assert tab.violations() == []
    page.fill("#rows", "nonsense\n1\n")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#failure:not([hidden])")
    tab.said.clear()  # the browser notes an answer of 422


HOUSES = b"rooms,rent,points,garden,lift\n" + b"".join(
    b"%d,%d.5,%d,%s,%s\n" % (i % 7, 300 + 7 * i, 37 * i % 199, b"yn"[i % 2 :][:1], b"yn"[i % 3 > 0 :][:1])
    for i in range(200)
)
"""Two columns of numbers, the whole ones many, and two of two values."""


def dataset_of(tab: Tab, site: Site) -> dict[str, object]:
    """Return the dataset's section of the study whose page comes, and end the study."""
    tab.page.wait_for_url("**/studies/*")
    study_id = tab.page.url.rpartition("/")[2]
    found = site.services.store.run(study_id).pipeline["dataset"]
    site.services.launcher.cancel(study_id)
    return dict(found)


def test_whole_numbers_that_may_be_amounts_are_asked_about(tab: Tab, site: Site) -> None:
    page = tab.page
    upload(tab, {"name": "houses.csv", "mimeType": "text/csv", "buffer": HOUSES})
    page.wait_for_url("**/new/*")
    page.get_by_label("points", exact=True).check()
    page.get_by_role("group", name="What are these whole numbers?").wait_for()
    assert tab.violations() == []
    page.get_by_role("button", name="Start with good rules").click()
    assert page.evaluate("document.querySelector('[name=task]:invalid') !== null")
    assert "/studies/" not in page.url
    page.get_by_label("Amounts: near numbers are alike").check()
    page.get_by_role("button", name="Start with good rules").click()
    found = dataset_of(tab, site)
    assert (found["label"], found["task"]) == ("points", "regression")
    assert tab.said == []


def test_several_labels_are_chosen_with_the_keyboard(tab: Tab, site: Site) -> None:
    page = tab.page
    upload(tab, {"name": "houses.csv", "mimeType": "text/csv", "buffer": HOUSES})
    page.wait_for_url("**/new/*")
    reach(tab, "several at once")
    page.keyboard.press("Enter")
    page.wait_for_url("**several=true")
    assert page.locator("[name=label]:checked").evaluate_all("all => all.map(one => one.value)") == ["lift"]
    focus(tab, "rent")
    page.keyboard.press("Space")
    page.wait_for_selector("#classes .note.bad")
    assert page.locator("button.main").is_disabled()
    page.keyboard.press("Space")
    focus(tab, "garden")
    page.keyboard.press("Space")
    tab.wait("document.getElementById('classes').textContent.includes('2 labels of two values each')")
    tab.picture("labels")
    assert tab.violations() == []
    assert tab.overflow() <= 0
    reach(tab, "Set the rules first")
    page.keyboard.press("Enter")
    page.wait_for_url("**/rules?*")
    assert page.inner_text(".crumbs").endswith("labels lift, garden")
    rules_of(tab, 3)
    page.get_by_role("button", name="Start the study").click()
    assert dataset_of(tab, site)["label"] == ["lift", "garden"]
    assert tab.said == []


def focus(tab: Tab, label: str) -> None:
    """Press Tab until the box of this column has the focus."""
    tab.page.evaluate("document.activeElement.blur()")
    reach(tab, label, "document.activeElement.value")


def test_three_clicks_from_a_file_to_a_study(tab: Tab, site: Site) -> None:
    upload(tab, DIGITS)  # 1: the file
    tab.page.get_by_role("button", name="Start with good rules").click()  # 2, and a third was not needed
    tab.page.wait_for_url("**/studies/*")
    study_id = tab.page.url.rpartition("/")[2]
    assert site.services.store.run(study_id).pipeline["designs"] == 200
    site.services.launcher.cancel(study_id)
    assert tab.said == []


def test_a_study_is_paused_resumed_and_cancelled(tab: Tab, site: Site, uploaded: str) -> None:
    tab.open(f"/new/{uploaded}/rules?label=digit")
    rules_of(tab, 8000, epochs=30)  # minutes of work: it must not end before it is paused
    tab.page.get_by_role("button", name="Start the study").click()
    tab.page.wait_for_url("**/studies/*")
    tab.wait("+document.getElementById('done').textContent > 0", limit_s=FINISHES_UNDER_MS / 1000)
    tab.page.get_by_role("button", name="Pause").click()
    tab.page.wait_for_selector("#state.paused", timeout=60_000)
    tab.page.get_by_role("button", name="Resume").click()
    tab.page.wait_for_selector("#state.running, #state.preparing", timeout=60_000)
    tab.page.get_by_role("button", name="Cancel").click()
    tab.page.get_by_role("button", name="Let it run").click()
    assert not tab.page.locator("#sure").is_visible()
    tab.page.get_by_role("button", name="Cancel").click()
    tab.picture("cancel", whole=False)
    tab.page.get_by_role("button", name="Cancel the study").click()
    tab.page.wait_for_selector("#state.stopped", timeout=60_000)
    assert tab.page.get_by_role("button", name="Resume").is_visible()
    assert tab.said == []


def test_a_file_can_be_dropped(tab: Tab) -> None:
    tab.open("/new")
    dropped = tab.page.evaluate_handle(
        """() => {
          const dropped = new DataTransfer();
          const rows = Array.from({length: 40}, (_, i) => `${i},${i % 2 ? "x" : "y"}`);
          const text = ["a,class", ...rows, ""].join("\\n");
          dropped.items.add(new File([text], "größe 1.csv", {type: "text/csv"}));
          return dropped;
        }"""
    )
    tab.page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    tab.page.wait_for_url("**/new/*")
    assert tab.page.inner_text("h1") == "größe 1.csv"
    assert tab.page.locator("[name=label]:checked").input_value() == "class"
    assert tab.said == []


def test_a_bad_file_is_named_by_row_and_column_and_gone(tab: Tab, site: Site) -> None:
    before = len(site.services.uploads.all())
    bad = b"a,b,label\n1,2,x\n3,4,y\n5,6\n7,8,x\n"
    upload(tab, {"name": "bad.csv", "mimeType": "text/csv", "buffer": bad})
    tab.page.wait_for_selector("#failure:not([hidden])")
    told = tab.page.inner_text("#failure")
    assert "row 3" in told or "line 4" in told, told
    assert tab.page.locator("#file").is_visible()
    assert len(site.services.uploads.all()) == before
    tab.picture("bad-file")
    assert tab.violations() == []


def test_fifty_thousand_trials_are_painted_from_counts(tab: Tab, site: Site) -> None:
    study_id = insert_study(
        site.services.store, 50_000, failed=40, name="wide search", state=RunState.RUNNING
    )
    received = []
    tab.page.on("response", lambda answer: received.append(answer))
    start_s = time.monotonic()
    tab.open(f"/studies/{study_id}")
    tab.page.wait_for_selector("#live-score svg rect")
    spent_s = time.monotonic() - start_s
    assert tab.page.inner_text("#done") == "50,000"
    assert tab.page.inner_text("#failed") == "40"
    sizes = [
        len(answer.body()) for answer in received if "event-stream" not in answer.headers["content-type"]
    ]
    assert sum(sizes) < 200_000, sizes
    assert spent_s < LOOKS_UNDER_S, spent_s
    tab.picture("study-50000")
    tab.open(f"/studies/{study_id}/results")
    assert tab.page.locator("#trials tbody tr").count() == 50
    assert tab.said == []


@pytest.fixture(scope="module")
def known(site: Site) -> dict[str, str]:
    """Pages of every kind, by a name."""
    done = insert_study(site.services.store, 120, failed=3)
    other = insert_study(site.services.store, 60, name="iris again")
    best = site.services.store.frame(done).sort_values("score", ascending=False)["design_id"].iloc[0]
    failed = site.services.store.frame(done).query("state == 'failed'")["design_id"].iloc[0]
    return {
        "studies": "/", "new": "/new", "help": "/about", "login": "/login", "study": f"/studies/{done}",
        "results": f"/studies/{done}/results", "trial": f"/studies/{done}/trials/{best}",
        "failure": f"/studies/{done}/trials/{failed}", "predict": f"/studies/{done}/predict",
        "compare": f"/compare?a={done}&b={other}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def uploaded(site: Site) -> str:
    """Id of a table that is there."""
    import httpx

    headers = {"Content-Type": "text/csv", "X-File-Name": "digits.csv"}
    answer = httpx.post(
        f"{site.url}/api/v1/datasets", content=DIGITS.read_bytes(), headers=headers, timeout=60
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


LOOKS: dict[str, dict[str, object]] = {
    "light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": PHONE, "has_touch": True},
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_can_be_read_by_everybody(
    look: str, known: dict[str, str], uploaded: str, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab(**LOOKS[look])
    pages = known | {"label": f"/new/{uploaded}", "rules": f"/new/{uploaded}/rules?label=digit"}
    for name, path in pages.items():
        tab.open(path)
        if name == "results":
            tab.page.wait_for_selector("[data-plot]")
        tab.picture(f"{name}-{look}")
        if look != "phone":
            assert tab.violations() == [], name
        assert tab.overflow() <= 0, name
        assert tab.said == [], name


def test_keyboard_alone_starts_a_study_and_cancels_it(tab: Tab, uploaded: str, site: Site) -> None:
    page = tab.page
    tab.open(f"/new/{uploaded}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    reach(tab, "Start with good rules")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/studies/*")
    reach(tab, "Cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sure[open]")
    reach(tab, "Cancel the study")
    page.keyboard.press("Enter")
    page.wait_for_selector("#state.stopped", timeout=60_000)


def reach(tab: Tab, words: str, asked: str = "document.activeElement.textContent.trim()") -> None:
    """Press Tab until the element with these words has the focus."""
    for _ in range(120):
        if tab.page.evaluate(asked) == words:
            return
        tab.page.keyboard.press("Tab")
    pytest.fail(f"Tab must reach {words!r}")


def test_rules_are_checked_as_they_are_typed_and_yaml_goes_both_ways(tab: Tab, uploaded: str) -> None:
    page = tab.page
    tab.open(f"/new/{uploaded}/rules?label=digit")
    assert "depth: {int: [1, 3]}" in page.input_value("#yaml")
    page.fill("#space-depth", "one, two")
    page.wait_for_selector("[data-path='space.depth'] .wrong:not(:empty)")
    assert page.get_attribute("#space-depth", "aria-invalid") == "true"
    page.get_by_role("button", name="Start the study").click()
    page.wait_for_selector("#troubles .note")
    assert page.input_value("#space-depth") == "one, two"
    tab.picture("rules-wrong")
    assert tab.violations() == []
    tab.said.clear()  # the browser notes an answer of 422
    page.select_option("[name='space.depth:form']", "choice")
    page.fill("#space-depth", "1, 3")
    tab.wait("document.getElementById('yaml').value.includes('depth: {choice: [1, 3]}')")
    assert page.locator("[data-path='space.depth'] .wrong:not(:empty)").count() == 0
    page.fill("#yaml", "space: {depth: {int: [2, 4]}, activation: selu}\ndesigns: 7\nname: pasted\n")
    page.get_by_role("button", name="Take over into the form").click()
    tab.wait("document.querySelector('[name=designs]').value === '7'")
    assert page.input_value("#space-depth") == "2, 4"
    assert page.input_value("#space-activation") == "selu"
    assert page.input_value("[name=name]") == "pasted"
    assert tab.said == []


def test_a_page_says_that_the_server_is_away_and_comes_back(
    tab: Tab, known: dict[str, str], site: Site
) -> None:
    study_id = insert_study(site.services.store, 10, designs=20, state=RunState.RUNNING, name="half")
    with site.services.store.driving(study_id):
        tab.open(f"/studies/{study_id}")
        tab.page.wait_for_selector("#state.running")
        tab.page.context.set_offline(True)
        tab.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        tab.page.wait_for_selector("#away:not([hidden])")
        tab.picture("away", whole=False)
        tab.page.context.set_offline(False)
        tab.page.wait_for_selector("#away", state="hidden", timeout=30_000)


def test_a_page_outlives_its_server(open_tab: Callable[..., Tab], site: Site) -> None:
    study_id = insert_study(site.services.store, 10, designs=20, state=RunState.RUNNING, name="half")
    tab = open_tab()
    with site.services.store.driving(study_id):
        with site.another() as (url, port):
            tab.page.goto(f"{url}/studies/{study_id}")
            tab.page.wait_for_selector("#state.running")
        tab.page.wait_for_selector("#away:not([hidden])", timeout=30_000)
        with site.another(port):
            tab.page.wait_for_selector("#away", state="hidden", timeout=30_000)
            assert tab.page.inner_text("#done") == "10"


@pytest.mark.skipif("DNNFLOW_SCREENSHOTS" not in os.environ, reason="makes a picture for the README")
def test_picture_of_a_study(open_tab: Callable[..., Tab], uploaded: str, site: Site) -> None:
    tab = open_tab(viewport={"width": 1080, "height": 850})
    tab.open(f"/new/{uploaded}/rules?label=digit")
    rules_of(tab, 1000, epochs=10)
    tab.page.get_by_role("button", name="Start the study").click()
    tab.page.wait_for_url("**/studies/*")
    trained = "document.getElementById('done').textContent.replace(',', '')"
    tab.wait(f"+{trained} > 400", limit_s=FINISHES_UNDER_MS / 1000)
    tab.page.screenshot(path=PICTURE)
    assert PICTURE.stat().st_size < 300_000
    site.services.launcher.cancel(tab.page.url.rpartition("/")[2])
    tab.page.wait_for_selector("#state.stopped, #state.finished", timeout=60_000)


def test_what_is_not_there_is_told_in_words(tab: Tab) -> None:
    answer = tab.page.goto(f"{tab.url}/studies/nobody-has-this")
    assert answer is not None
    assert answer.status == 404
    assert "What helps" in tab.page.inner_text("main")
    tab.picture("not-found")
    assert tab.violations() == []
