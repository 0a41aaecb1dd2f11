"""People: they place an order and watch it, and the operator looks behind the counter."""

import re

import pytest
from playwright.sync_api import Error, Page, expect

EVERY_DEVICE = pytest.mark.parametrize("device", ["desktop", "phone"], indirect=True)


def fits(page: Page) -> bool:
    """Tell whether nothing sticks out at the side."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_browser_without_the_ca_warns(stranger, target):
    """So that the other tests show that the certificate is trusted, not ignored."""
    if target.ca is None:
        pytest.skip("the operator's certificate")
    page = stranger.new_page()
    with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
        page.goto(target.url)


@pytest.mark.spec("G1.1", "G4.5", "G4.6", "D7.1.4")
@EVERY_DEVICE
def test_an_order_is_placed_and_seen_to_finish(page, target, problems, shoot):
    page.goto(f"{target.url}/")
    assert fits(page)
    shoot("front")
    more = page.get_by_role("button", name=re.compile("^One .* more$"))
    for number in (0, 0, 1, 3):
        more.nth(number).click()
    page.get_by_label("Your name").fill("Ada Root")
    page.get_by_label("Your e-mail").fill("ada@example.org")
    expect(page.locator("[data-count]")).to_have_text("4 roots")
    shoot("front-filled")
    page.get_by_role("button", name="Place the order").click()

    page.wait_for_url("**/orders/*/")
    page.evaluate(
        "window.seen = []; new MutationObserver(() => {"
        " const step = document.querySelector('[data-order]').dataset.step;"
        " if (window.seen.at(-1) !== step) window.seen.push(step);"
        "}).observe(document.querySelector('[data-order]'), {attributes: true})"
    )
    shoot("order-on-its-way")
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=45_000)
    expect(page.locator(".stage.done")).to_have_count(6)
    # Still there, so it was one page all the time; and it moved more than once.
    seen = page.evaluate("window.seen")
    assert seen[-1] == "done"
    assert len(seen) >= 2
    expect(page.locator("[data-crate] img")).to_be_visible()
    assert page.evaluate("document.querySelector('[data-crate] img').naturalWidth") > 0
    assert fits(page)
    shoot("order-done")
    assert problems == []


def order(page: Page, target, card: str = "") -> None:
    """Order one root, and look at the order's page."""
    page.goto(f"{target.url}/")
    page.get_by_role("button", name=re.compile("^One .* more$")).first.click()
    page.get_by_label("Your name").fill("Ada Root")
    page.get_by_label("Your e-mail").fill("ada@example.org")
    if card:
        page.get_by_text("Pay with a test card").click()
        page.get_by_label("A card that").select_option(card)
    page.get_by_role("button", name="Place the order").click()
    page.wait_for_url("**/orders/*/")


@pytest.mark.spec("G3.4", "D1.2.5")
@pytest.mark.parametrize("queue", ["payments", "orders"])
def test_an_order_goes_on_when_its_worker_is_killed(page, target, problems, queue):
    order(page, target)
    target.on_the_host("systemctl", "kill", "--signal=KILL", target.workers(queue))
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=45_000)
    assert problems == []


@pytest.mark.spec("G6.3", "D7.1.5")
@EVERY_DEVICE
def test_a_payment_that_is_tried_again_is_told_in_plain_words(page, target, problems, shoot):
    order(page, target, card="flaky")
    expect(page.locator(".stage.trouble")).to_contain_text(
        "The bank does not answer. We are trying again."
    )
    shoot("order-tried-again")
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=45_000)
    assert fits(page)
    assert problems == []


@EVERY_DEVICE
def test_a_declined_card_is_told_kindly(page, target, problems, shoot):
    order(page, target, card="declined")
    expect(page.locator("[data-headline]")).to_have_text(
        "We are sorry, this did not work.", timeout=30_000
    )
    expect(page.locator(".stage.failed")).to_contain_text("declined")
    shoot("order-declined")
    assert problems == []


@pytest.mark.spec("D3.2.1", "D3.2.2", "D6.2.2")
def test_the_operator_logs_in_to_the_admin(page, target, problems, shoot):
    page.goto(f"{target.url}/admin/")
    page.get_by_label("Username").fill(target.user)
    page.get_by_label("Password").fill(target.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#content h1")).to_have_text("Site administration")
    shoot("admin")
    page.goto(f"{target.url}/admin/django_celery_beat/periodictask/")
    expect(page.locator("#result_list")).to_contain_text("Count the orders of today")
    shoot("admin-schedule")
    page.goto(f"{target.url}/admin/orders/order/")
    shoot("admin-orders")
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_role("heading", name="Operations", exact=True)).to_be_visible()
    for pool in target.pools:
        expect(page.locator("#workers")).to_contain_text(f"{pool}-")
    assert fits(page)
    shoot("operations")
    assert problems == []


def test_a_wrong_password_does_not_open_the_admin(page, target):
    page.goto(f"{target.url}/admin/")
    page.get_by_label("Username").fill(target.user)
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".errornote")).to_be_visible()


@pytest.mark.login
@pytest.mark.spec("G7.1", "D5.1.1", "D5.1.3", "D7.1.3", "D7.2.3")
def test_flower_shows_every_pool_online(page, target, problems, shoot):
    page.goto(f"{target.url}{target.flower}")
    for pool in target.pools:
        # An older release may still be listed, as offline.
        rows = page.locator("#workers-table tbody tr", has_text=f"{pool}-")
        expect(rows.filter(has_text="Online")).to_have_count(1)
    shoot("flower")
    page.goto(f"{target.url}{target.flower}tasks")
    expect(page.locator("#tasks-table tbody")).to_contain_text("orders.")
    shoot("flower-tasks")
    assert problems == []


def test_flower_shows_nothing_without_the_password(page, target):
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
        page.goto(f"{target.url}{target.flower}")
