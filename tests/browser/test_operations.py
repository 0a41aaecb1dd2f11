"""The operator looks at the operations page, on every device, by day and by night."""

import re

import pytest
from playwright.sync_api import expect
from test_order import EVERY_DEVICE, fits


def log_in(page, target, path="/operations/", heading="Operations"):
    page.goto(f"{target.url}{path}")
    page.get_by_label("Username").fill(target.user)
    page.get_by_label("Password").fill(target.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name=heading)).to_be_visible()


@EVERY_DEVICE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_operator_sees_what_waits_and_runs(page, target, problems, shoot, scheme):
    page.emulate_media(color_scheme=scheme)
    log_in(page, target)
    for name in (
        "Alerts",
        "Queues",
        "Running now",
        "Workers",
        "Owed",
        "Dead letters",
        "Last deploys",
    ):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
    for pool in target.pools:
        expect(page.locator("#workers")).to_contain_text(pool)
    expect(page.locator("#workers .badge.good").first).to_have_text("alive")
    expect(page.get_by_role("img", name=re.compile("Throughput"))).to_be_visible()
    assert fits(page)
    shoot(f"operations-{scheme}")
    assert problems == []


def test_the_page_keeps_itself_up_to_date(page, target, problems):
    log_in(page, target)
    shown = page.locator("#now").text_content()
    page.evaluate("window.same = true")
    expect(page.locator("#now")).not_to_have_text(shown, timeout=20_000)
    assert page.evaluate("window.same"), "it was loaded anew"
    page.get_by_role("link", name="24 h").click()
    expect(page.get_by_role("heading", name="Last 24 hours")).to_be_visible()
    assert problems == []


def test_the_admin_leads_to_it(page, target, problems):
    log_in(page, target)
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()
    assert problems == []
