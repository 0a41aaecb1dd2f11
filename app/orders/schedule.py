"""The periodic tasks of the orders."""

from maintenance.schedule import At, Every

SCHEDULE = {
    "Resume stalled orders": Every("orders.resume_stalled", seconds=5),
    "Count the orders of today": At("orders.count_today", minute="*", expire_seconds=50),
}
