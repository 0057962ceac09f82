"""Naming and deleting studies in a real browser: by keyboard, on a phone, and for who cannot see."""

from collections.abc import Callable

import pytest

from tests.web.browsing import PHONE, Site, Tab
from tests.web.recording import insert_study


@pytest.mark.slow
def test_a_study_is_named_and_deleted_by_keyboard(tab: Tab, site: Site) -> None:
    store = site.services.store
    study_id, stays = insert_study(store, 6, name="goes"), insert_study(store, 6, name="stays")
    page = tab.page
    tab.open(f"/studies/{study_id}")
    page.get_by_role("link", name="Manage").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/manage")
    page.get_by_label("Tags").fill("old draft")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=tags][value='old draft']")
    assert store.study(study_id).tags == ["old", "draft"]
    tab.open("/")
    page.get_by_label("Mark goes of").check()
    page.get_by_role("button", name="Delete those that are marked").click()
    page.wait_for_url("**/delete?*")
    page.get_by_role("link", name="Keep it").click()
    page.wait_for_url(lambda url: url.endswith("/"))
    assert store.find(study_id) is not None
    tab.open(f"/delete?study={study_id}")
    page.get_by_role("button", name="Delete it for good").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith("/"))
    assert store.find(study_id) is None
    assert page.get_by_role("link", name="stays").count() == 1
    assert tab.said == []
    store.delete(stays)


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True])
def test_pages_have_no_barriers(open_tab: Callable[..., Tab], site: Site, phone: bool) -> None:
    store = site.services.store
    study_id = insert_study(store, 6, name="with a note")
    store.describe(study_id, note="a note", tags=["tag"])
    tab = open_tab(**({"viewport": PHONE} if phone else {}))
    for path in (f"/studies/{study_id}/manage", f"/delete?study={study_id}", "/clean?days=0", "/",
                 f"/studies/{study_id}"):  # fmt: skip
        tab.open(path)
        assert tab.violations() == [], path
        assert tab.overflow() <= 0, path
        tab.picture(f"upkeep-{path.split('?')[0].rpartition('/')[2] or 'studies'}{'-phone' if phone else ''}")
    store.delete(study_id)
