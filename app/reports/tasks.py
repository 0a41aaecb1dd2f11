"""Reports: the longest work of the shop, on processor cores (prefork), in a queue of its own."""

from datetime import date, timedelta

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection

from . import services


@shared_task(
    name="reports.count",
    bind=True,
    atomic=False,
    # Its rests are tries without an end; one that gets nowhere fails, see below.
    max_retries=None,
    soft_time_limit=60,
    time_limit=90,
)
def count(self: Task, first: str, last: str) -> None:
    """Count the days of one part (ISO dates), keeping each as soon as it is there (atomic=False).

    At the soft limit it stops, and another run does the rest; one in which not a single day was
    counted is a failure. Safe to run again: what is counted is not counted again.
    """
    days = date.fromisoformat(first), date.fromisoformat(last)
    before = services.missing(*days)
    try:
        services.count(*days)
    except SoftTimeLimitExceeded as limit:
        # It may have come in the middle of a statement.
        connection.close()
        if services.missing(*days) == before:
            raise
        raise self.retry(countdown=0) from limit


@shared_task(name="reports.write", ignore_result=False, soft_time_limit=60, time_limit=90)
def write(report_id: int) -> dict[str, int]:
    """Put the days together. Safe to run again: it writes the same. Returns days, rows, orders
    and cents, which the result backend keeps: somebody may ask what a report said.
    """
    return services.write(report_id)


@shared_task(name="reports.order", soft_time_limit=20, time_limit=30)
def order(first: str, last: str) -> None:
    """Order the report for these days (ISO dates). A second run leaves it as it is."""
    services.order_report(date.fromisoformat(first), date.fromisoformat(last))


@shared_task(name="reports.order_yesterday", soft_time_limit=20, time_limit=30)
def order_yesterday() -> None:
    """Order the report of the day that has ended. A second run finds it there."""
    yesterday = services.today() - timedelta(days=1)
    services.order_report(yesterday, yesterday)


@shared_task(name="reports.order_last_month", soft_time_limit=20, time_limit=30)
def order_last_month() -> None:
    """Order the report of the month that has ended. A second run finds it there."""
    last = services.today().replace(day=1) - timedelta(days=1)
    services.order_report(last.replace(day=1), last)
