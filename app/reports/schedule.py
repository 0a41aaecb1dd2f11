"""The periodic tasks of the reports: after midnight, when the day before has settled."""

from maintenance.schedule import At

SCHEDULE = {
    "Sales of yesterday": At("reports.order_yesterday", minute="20", hour="0"),
    "Sales of last month": At(
        "reports.order_last_month", minute="40", hour="0", day_of_month="1", expire_seconds=86400
    ),
}
