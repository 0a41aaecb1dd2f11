"""Staff order a report, see it being counted, and take its table with them."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect
from test_operations import log_in
from test_order import EVERY_DEVICE, fits, order

TODAY = datetime.now(UTC).date()


def ask(page, first, last):
    page.get_by_label("First day").fill(f"{first}")
    page.get_by_label("Last day").fill(f"{last}")
    page.get_by_role("button", name="Make the report").click()


@EVERY_DEVICE
def test_a_report_is_ordered_and_downloaded(page, target, problems, shoot):
    order(page, target)
    expect(page.locator("[data-headline]")).to_have_text("All done. Thank you!", timeout=45_000)
    log_in(page, target, "/reports/", "Sales reports")
    assert fits(page)
    shoot("reports")
    ask(page, TODAY - timedelta(days=40), TODAY)
    page.wait_for_url(re.compile(r"/reports/\d+/"))
    expect(page.locator("[data-words]")).to_have_text(re.compile(r"Done: \d+ orders?\."))
    expect(page.locator("progress")).to_have_attribute("value", "41")
    expect(page.locator(".total")).to_contain_text("€")
    assert fits(page)
    shoot("report-done")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the table (CSV)").click()
    assert download.value.path().read_text().startswith("day,orders,product,quantity,cents")
    assert problems == []


def test_a_period_that_cannot_be_says_why(page, target, shoot):
    log_in(page, target, "/reports/", "Sales reports")
    ask(page, TODAY, TODAY - timedelta(days=1))
    expect(page.get_by_role("alert")).to_have_text("The first day is after the last one.")
    shoot("reports-refused")


@pytest.mark.spec("D3.2.2")
def test_one_for_tonight_waits_in_the_schedule(page, target, problems, shoot):
    log_in(page, target, "/reports/", "Sales reports")
    page.get_by_role("button", name="Tonight at 2").click()
    expect(page.get_by_role("status")).to_have_text(
        re.compile(r"It will be made on \d+ \w+ at 02:00 UTC\.")
    )
    shoot("reports-tonight")
    page.goto(f"{target.url}/admin/django_celery_beat/periodictask/")
    expect(page.locator("#result_list")).to_contain_text("Sales report from")
    assert problems == []


# Day by day, with one that no other test has counted, so that there is something to do.
STUCK = """
from datetime import date, timedelta
from reports.models import Day, Report
day = (Day.objects.order_by("day").values_list("day", flat=True).first() or date(2021, 1, 1))
day -= timedelta(days=1)
report = Report.objects.create(key=f"stuck {day}", first_day=day, last_day=day, part_ids=["gone"])
print(report.get_absolute_url())
"""


@EVERY_DEVICE
def test_a_report_that_is_stuck_says_so_and_is_sent_on_its_way_again(page, target, problems, shoot):
    """As when somebody has discarded the dead letter of a part."""
    path = target.django(STUCK).splitlines()[-1]
    page.goto(f"{target.url}{path}")
    page.get_by_label("Username").fill(target.user)
    page.get_by_label("Password").fill(target.password)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("[data-words]")).to_contain_text("A part could not be done.")
    assert fits(page)
    shoot("report-stuck")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("[data-words]")).to_have_text("Done: 0 orders.")
    assert problems == []


def test_a_customer_sees_none(page, target):
    page.goto(f"{target.url}/reports/")
    expect(page.get_by_label("Username")).to_be_visible()
