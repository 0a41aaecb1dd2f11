"""Put the order and the task that a log line belongs to at its end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from celery import current_task

_order: ContextVar[int | None] = ContextVar("order", default=None)


@contextmanager
def about_order(order_id: int) -> Iterator[None]:
    """Every line logged inside names this order."""
    token = _order.set(order_id)
    try:
        yield
    finally:
        _order.reset(token)


class Context(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        fields = {}
        if (order_id := _order.get()) is not None:
            fields["order"] = order_id
        if current_task and current_task.request.id:
            fields["task"] = current_task.name
            fields["task_id"] = current_task.request.id
            fields["attempt"] = current_task.request.retries + 1
        record.context = "".join(f" {name}={value}" for name, value in fields.items())
        return True
