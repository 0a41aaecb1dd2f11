"""What customers and staff are told: thanks, a dead letter, and the way out of it."""

import pytest
from playwright.sync_api import expect
from test_operations import log_in
from test_order import EVERY_DEVICE, fits, order

# What a worker does with a task that it cannot do.
BURY = """
from celeriac.models import Dead, Outbox
from django.utils import timezone
from orders.models import Order
order = Order.objects.get(public_id="{identity}")
row = Outbox.objects.get(task_id=order.task_id)
row.delete()
fields = {{name: getattr(row, name) for name in ("task_id", "task", "queue", "message")}}
Dead.objects.create(**fields, durable=True, reason="a bug", died_at=timezone.now())
print(order.number)
"""


@EVERY_DEVICE
def test_a_customer_is_thanked_on_the_page_that_is_open(page, target, problems, shoot):
    order(page, target)
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=45_000)
    expect(page.locator("[data-messages]")).to_contain_text(
        "Your crate leaves us tomorrow morning.", timeout=60_000
    )
    assert fits(page)
    shoot("order-thanked")
    assert problems == []


@pytest.fixture
def nobody_packs(target):
    """The pool that packs is away until the test calls it back, or ends."""
    units = target.on_the_host(
        "systemctl", "list-units", "--plain", "--no-legend", target.workers("orders")
    ).split()[:1]

    def back() -> None:
        target.on_the_host("systemctl", "start", *units)

    target.on_the_host("systemctl", "stop", *units)
    yield back
    back()


@pytest.mark.spec("G6.4", "G6.5", "G6.6")
@EVERY_DEVICE
def test_an_order_that_needs_a_hand_gets_one(page, context, target, problems, shoot, nobody_packs):
    order(page, target)
    expect(page.locator("[data-stage=payment]")).to_contain_text("Paid", timeout=20_000)
    number = target.django(BURY.format(identity=page.url.strip("/").split("/")[-1]))
    number = number.splitlines()[-1]
    expect(page.locator(".stage.trouble")).to_contain_text("This needs a hand from us.")
    assert fits(page)
    shoot("order-needs-a-hand")

    staff = context.new_page()
    log_in(staff, target, "/admin/orders/order/", "Select order to change")
    row = staff.locator("#result_list tbody tr", has_text=number)
    expect(row.locator(".field-stuck img")).to_have_attribute("alt", "True")
    # Staff are told within the half minute.
    alerts = staff.locator("#result_list tbody tr", has_text="orders.pack")
    staff.goto(f"{target.url}/admin/notifications/alert/")
    for _ in range(30):
        if alerts.count():
            break
        staff.wait_for_timeout(1000)
        staff.reload()
    expect(alerts.first).to_contain_text("a bug")
    shoot("alerts", staff)

    staff.goto(f"{target.url}/admin/orders/order/")
    row.locator("input.action-select").check()
    staff.locator("select[name=action]").select_option("try_again")
    staff.locator("button[name=index]").click()
    expect(staff.locator(".messagelist")).to_contain_text("1 order is on its way again.")
    shoot("orders-sent-again", staff)
    nobody_packs()
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=60_000)
    assert problems == []
