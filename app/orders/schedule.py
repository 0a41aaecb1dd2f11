"""The periodic tasks of the orders."""

from maintenance.schedule import Every

SCHEDULE = {"Count the orders of today": Every("orders.count_today", seconds=10)}
