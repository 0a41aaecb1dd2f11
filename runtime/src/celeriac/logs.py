"""Log lines that can be followed, from a request into its tasks and their retries.

    LOGGING = celeriac.logs.config()

is all that a project's settings need. Web server, workers and Beat then write JSON lines to stderr,
which the journal keeps. A line names the request and the task that it is about, and whatever
`about(order=17)` adds.

A request's id is its header X-Request-ID, which nginx sets; under gunicorn it is taken by itself
(gunicorn.py), elsewhere by `celeriac.logs.RequestIdMiddleware`. It travels in the header of each
task's message, also when that waits in the outbox, and on to the tasks that a task calls.

Arguments of tasks and what they return are never logged: they may be anybody's data.
"""

import json
import logging
import logging.config
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from celery import current_task

HEADER = "celeriac_request"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
# What a proxy or a caller may have made up is not written down as it is.
_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
# Syslog's numbers; the journal takes "<3>" at the beginning of a line for its priority.
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

_request: ContextVar[str] = ContextVar("celeriac_request", default="")
_about: ContextVar[Mapping[str, Any]] = ContextVar("celeriac_about")


def config(level: str = "INFO", style: str = "json") -> dict[str, Any]:
    """What Django's LOGGING should be; `style` is json, or plain for people.

    Celery's workers and Beat take it as well. Raises ValueError for a level or style that is none.
    """
    if level not in LEVELS:
        raise ValueError(f"{level!r} is no level; write one of {', '.join(LEVELS)}")
    if style not in ("json", "plain"):
        raise ValueError(f"{style!r} is no style; write json or plain")
    from celery import signals

    signals.setup_logging.connect(use_settings, dispatch_uid="celeriac.logs", weak=False)
    connect()
    said = {"handlers": [], "level": level, "propagate": True}
    # At DEBUG these show the arguments of tasks and of queries.
    quieter = said | {"level": "INFO" if level == "DEBUG" else level}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": "celeriac.logs.Context"}},
        "formatters": {
            "json": {"()": "celeriac.logs.Json"},
            "plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s%(context)s"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": style,
                "filters": ["context"],
            },
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Django's own handlers would print only in DEBUG, and a second time.
            "django": said,
            "django.server": said,
            "celery": said,
            "celery.task": said,
            "celery.pool": quieter,
            "django.db.backends": quieter,
        },
    }


def use_settings(**_: Any) -> None:
    """Let workers and Beat log as the web does; Celery would set up handlers of its own."""
    from celery.app import trace
    from django.conf import settings

    # As private as the arguments: what a task returns.
    trace.LOG_SUCCESS = SUCCESS
    logging.config.dictConfig(settings.LOGGING)


def connect() -> None:
    """Let every call of a task carry the id of the request that it came from."""
    from celery import signals

    signals.before_task_publish.connect(stamp, dispatch_uid="celeriac.logs", weak=False)


def stamp(headers: Any = None, **_: Any) -> None:
    """Without a request, as under Beat, the first task's own id goes along with all that follow."""
    if headers is not None and (found := request_id() or headers.get("root_id")):
        headers[HEADER] = found


def begin(given: str = "") -> str:
    """A request begins, with the id that it brought if that is one. Returns its id."""
    found = given if _ID.fullmatch(given) else uuid.uuid4().hex
    _request.set(found)
    return found


def end() -> None:
    """The request is answered."""
    _request.set("")


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Every line logged inside names these, e.g. `about(order=17)`."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def request_id() -> str:
    """The id of the request that is answered, or that the running task came from; or ""."""
    task = _task()
    return str((task and task.get(HEADER)) or _request.get())


def fields(record: logging.LogRecord | None = None) -> dict[str, Any]:
    """What a line written now is about; `record` may be Celery's own about a task."""
    found = dict(_about.get({}))
    if request := request_id():
        found["request"] = request
    if task := _task():
        found |= {"task": current_task.name, "task_id": task.id, "attempt": task.retries + 1}
    elif isinstance(told := getattr(record, "data", None), Mapping) and "id" in told:
        found |= {"task": told.get("name"), "task_id": told["id"]}
    return found


def _task() -> Any:
    """The request of the task that runs, if one does."""
    request = current_task.request if current_task else None
    return request if request and request.id else None


class Context(logging.Filter):
    """Adds `fields`, and `context` for formats of text, to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = fields(record)
        record.fields = found
        record.context = "".join(f" {name}={value}" for name, value in found.items())
        return True


class Json(logging.Formatter):
    """One line, one JSON object: time (UTC), level, logger, message, and what it is about.

    An error's traceback is in `error`, so that it stays with its line.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(getattr(record, "fields", None) or fields(record)),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False, default=str)
        if "JOURNAL_STREAM" in os.environ:
            return f"<{_PRIORITIES.get(record.levelname, 6)}>{text}"
        return text


class RequestIdMiddleware:
    """Takes the request's id where gunicorn's own workers do not: under ASGI, in `runserver`."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction

        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self.is_async:
            return self.answer(request)
        begin(request.headers.get("X-Request-ID", ""))
        try:
            return self.get_response(request)
        finally:
            end()

    async def answer(self, request: Any) -> Any:
        begin(request.headers.get("X-Request-ID", ""))
        try:
            return await self.get_response(request)
        finally:
            end()
