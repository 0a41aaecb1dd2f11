"""Say in each log line which order and which task it belongs to: as JSON, or at a line's end."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

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
        record.fields = fields
        record.context = "".join(f" {name}={value}" for name, value in fields.items())
        return True


class Json(logging.Formatter):
    """One line, one JSON object: time (UTC), level, logger, message, and what `Context` found.

    An error's traceback is in `error`, so that it stays with its line.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
