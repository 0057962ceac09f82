"""Plots of pages for everybody: a name, a role, and the same numbers as a table."""

from collections.abc import Callable

import pytest

from tests.web.browsing import PHONE, Site, Tab
from tests.web.recording import insert_study


@pytest.mark.parametrize("look", [{"color_scheme": "dark"}, {"viewport": PHONE, "has_touch": True}])
def test_a_plot_has_a_name_and_its_numbers(
    look: dict[str, object], open_tab: Callable[..., Tab], site: Site
) -> None:
    tab = open_tab(**look)
    page = tab.page
    tab.open(f"/studies/{insert_study(site.services.store, 60)}/results")
    page.wait_for_selector("[data-plot]")
    page.locator("#depth > summary").click()
    for place in page.locator("[data-plot]").all():
        place.scroll_into_view_if_needed()
    tab.wait("![...document.querySelectorAll('[data-plot]')].some(p => p.dataset.state !== 'drawn')")
    assert page.get_by_role("img", name="Training time against hidden layers").count() == 1
    page.locator("summary", has_text="Numbers of: Training time").click()
    table = page.get_by_role("region", name="Numbers of: Training time against hidden layers").first
    table.wait_for()
    assert "hidden layers" in table.inner_text()
    assert table.locator("tbody tr").count() == 8
    for summary in page.locator("[data-numbers] summary").all():
        if not summary.locator("xpath=..").get_attribute("open") is not None:
            summary.click()
    tab.wait("[...document.querySelectorAll('[data-numbers]')].every(d => !d.open || d.querySelector('td'))")
    tab.picture(f"plots-{look.get('color_scheme', 'phone')}")
    assert tab.violations() == []
    assert tab.overflow() <= 0
    assert tab.said == []
