"""Making sales reports: many parts at once, then one task that puts them together.

A report's period is cut into weeks, each a task, and a chord owes the writing when the last of them
has ended. A day that is over is counted once and kept, so a part that runs again, or whose days
another report has counted, has little left to do.
"""

import csv
import io
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

from celery import chord, uuid
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Count, F, Sum
from django.utils import timezone

from celeriac import deadletters
from maintenance.schedule import create_clocked_task
from orders.models import OrderLine
from payments.models import Payment

from .models import Day, Report

logger = logging.getLogger(__name__)

PART_DAYS = 7
MOST_DAYS = 366
# A payment is dated when its transaction begins, and is seen when that ends.
SETTLE = timedelta(minutes=10)


def today() -> date:
    """Days are those of UTC."""
    return timezone.now().astimezone(UTC).date()


def is_over(day: date) -> bool:
    """Whether nothing can be sold on that day any more, so that its figures may be kept."""
    return day < (timezone.now().astimezone(UTC) - SETTLE).date()


def order_report(
    first: date, last: date, asked_by: AbstractBaseUser | None = None
) -> tuple[Report, bool]:
    """The report for these days, and whether it is a new one, whose tasks are owed now.

    A period that is over has one report, whoever asks; one that includes today gets a new one each
    time. Raises ValueError for a period that is reversed, too long or in the future.
    """
    if not first <= last <= today() or (last - first).days >= MOST_DAYS:
        raise ValueError(f"no report can be made from {first} to {last}")
    key = f"{first} to {last}" + ("" if is_over(last) else f" {uuid()}")
    with transaction.atomic():
        report, created = Report.objects.get_or_create(
            key=key, defaults={"first_day": first, "last_day": last, "asked_by": asked_by}
        )
        if created:
            _owe_parts(report)
    return report, created


def order_tonight(first: date, last: date) -> datetime:
    """Have the report made at the next 02:00 UTC, when it is quiet; returns the moment.

    A row of the schedule, not an ETA: staff can see it, move it and stop it.
    """
    moment = datetime.combine(today(), time(2), UTC)
    if moment <= timezone.now():
        moment += timedelta(days=1)
    create_clocked_task(
        f"Sales report from {first} to {last}",
        "reports.order",
        moment,
        {"first": f"{first}", "last": f"{last}"},
    )
    return moment


def _owe_parts(report: Report) -> None:
    """Fan out and join, in the transaction of the report: chords of durable tasks are owed too."""
    from . import tasks

    last = min(report.last_day, today() - timedelta(days=1))
    starts = list(_days(report.first_day, last))[::PART_DAYS]
    parts = [
        tasks.count.si(f"{start}", f"{min(start + timedelta(days=PART_DAYS - 1), last)}").set(
            task_id=uuid()
        )
        for start in starts
    ]
    write = tasks.write.si(report.pk)
    # Of today alone there is nothing to count beforehand.
    joined = chord(parts)(write) if parts else write.delay()
    report.part_ids, report.write_id = [part.id for part in parts], joined.id
    report.save(update_fields=["part_ids", "write_id"])


def count(first: date, last: date) -> None:
    """Count the days of a part that nobody has counted. Each day is kept as soon as it is there."""
    for day in _missing(first, last):
        Day.objects.get_or_create(day=day, defaults=_figures(day))


def missing(first: date, last: date) -> int:
    """How many of these days are still to be counted."""
    return sum(1 for _ in _missing(first, last))


def write(report_id: int) -> dict[str, int]:
    """Write the report from its days; a day that is not over is counted now, and not kept."""
    report = Report.objects.get(pk=report_id)
    kept = {row.day: row for row in Day.objects.filter(day__range=_period(report))}
    days = [
        kept.get(day) or Day(day=day, **_figures(day))
        for day in _days(report.first_day, report.last_day)
    ]
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["day", "orders", "product", "quantity", "cents"])
    rows = 0
    for day in days:
        for name, quantity, cents in day.products:
            table.writerow([day.day, day.orders, _plain(name), quantity, cents])
            rows += 1
    report.csv = out.getvalue()
    report.orders = sum(day.orders for day in days)
    report.cents = sum(day.cents for day in days)
    report.finished_at = report.finished_at or timezone.now()
    report.save(update_fields=["csv", "orders", "cents", "finished_at"])
    logger.info("report %s written: %d days, %d rows", report.pk, len(days), rows)
    return {"days": len(days), "rows": rows, "orders": report.orders, "cents": report.cents}


def try_again(report: Report) -> int:
    """Send a report that is stuck on its way again (staff); returns how many tasks.

    By a replay of its dead letters; or anew, if somebody has discarded one.
    """
    with transaction.atomic():
        report = Report.objects.select_for_update().get(pk=report.pk)
        if not is_stuck(report):
            return 0
        replayed = deadletters.replay(report.letters)
        if not replayed:
            _owe_parts(report)
        return replayed or len(report.part_ids) + 1


def is_stuck(report: Report) -> bool:
    """Whether it waits for staff: a task of it is a dead letter, or none is owed any more."""
    return not report.finished_at and (report.letters.exists() or not report.owed.exists())


def progress(report: Report) -> dict[str, object]:
    """Where a report stands, in plain words, for its page."""
    days = (report.last_day - report.first_day).days + 1
    counted = days - missing(report.first_day, report.last_day)
    stuck = is_stuck(report)
    if report.finished_at:
        words = f"Done: {report.orders} order{'' if report.orders == 1 else 's'}."
    elif stuck:
        words = "A part could not be done. What is counted is kept; look at the dead letters."
    elif missing(report.first_day, report.last_day):
        words = f"Counting: {counted} of {days} days\u2026"
    else:
        words = "All days are counted. Writing the table\u2026"
    return {
        "words": words,
        "done": counted,
        "of": days,
        "finished": report.finished_at is not None,
        "stuck": stuck,
    }


def _figures(day: date) -> dict[str, object]:
    start = datetime.combine(day, time(), UTC)
    paid = {"paid_at__gte": start, "paid_at__lt": start + timedelta(days=1)}
    total = Payment.objects.filter(**paid).aggregate(orders=Count("pk"), cents=Sum("amount_cents"))
    lines = (
        OrderLine.objects.filter(**{f"order__payment__{name}": at for name, at in paid.items()})
        .values("product__name")
        .annotate(many=Sum("quantity"), worth=Sum(F("quantity") * F("price_cents")))
        .order_by("product__name")
    )
    products = [[line["product__name"], line["many"], line["worth"]] for line in lines]
    return {"orders": total["orders"], "cents": total["cents"] or 0, "products": products}


def _missing(first: date, last: date) -> Iterator[date]:
    """The days that are over and not counted yet."""
    counted = set(Day.objects.filter(day__range=(first, last)).values_list("day", flat=True))
    return (day for day in _days(first, last) if is_over(day) and day not in counted)


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def _period(report: Report) -> tuple[date, date]:
    return report.first_day, report.last_day


def _plain(name: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
