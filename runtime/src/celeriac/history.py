"""What tasks did: counts and two histograms a minute, for each task and queue, in PostgreSQL.

A message carries the time it was published, or was due; the worker's main process counts how
each task ended, how long it ran (runtime) and how late it started (latency), for every pool.
The keeper writes the counts every `WRITE_SECONDS` into the minute of PostgreSQL's clock, and
adds them to a row for all time, so that those rows are counters that never go down.

Bounded: rows are made for tasks that the worker knows and queues that it consumes; anything
else is `UNKNOWN`. Minutes are kept for `KEEP_HOURS`.

Limits: a worker that is killed takes up to `WRITE_SECONDS` of counts with it; an answer of
PostgreSQL that is lost may count them twice. Latency compares the clocks of two hosts, and is
known only for messages whose publisher has "celeriac" in INSTALLED_APPS. A copy of a durable
task that is dropped, and a task that raises Ignore, is not counted.
"""

import json
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery import current_app, signals
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import maybe_make_aware

from celeriac.broker import DUE, HEADER

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Upper bounds in seconds; one more bucket takes what is longer."""

OUTCOMES = ("succeeded", "failed", "retried", "rejected")
UNKNOWN = "(unknown)"
WRITE_SECONDS = 5.0
KEEP_HOURS = 48

ADD = "(SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY n)"
SUMS = (*OUTCOMES, "runtime_sum", "latency_sum")
WRITE = f"""
INSERT INTO celeriac_minute AS m (minute, task, queue, {", ".join(SUMS)}, runtime, latency)
SELECT at.minute, v.* FROM jsonb_to_recordset(%s::jsonb) AS v (
    task text, queue text, {", ".join(f"{name} bigint" for name in OUTCOMES)},
    runtime_sum float8, latency_sum float8, runtime bigint[], latency bigint[])
CROSS JOIN (VALUES (date_trunc('minute', clock_timestamp())), ('epoch')) AS at (minute)
ORDER BY 1, 2, 3
ON CONFLICT (task, queue, minute) DO UPDATE SET
    {", ".join(f"{name} = m.{name} + excluded.{name}" for name in SUMS)},
    runtime = {ADD} FROM unnest(m.runtime, excluded.runtime) WITH ORDINALITY AS u (a, b, n)),
    latency = {ADD} FROM unnest(m.latency, excluded.latency) WITH ORDINALITY AS u (a, b, n))
"""

_done: deque[tuple[str, str, str, float | None, float | None]] = deque(maxlen=200_000)


# -- where tasks are published ---------------------------------------------------------------


def connect() -> None:
    """Stamp every message that this process publishes."""
    signals.before_task_publish.connect(stamp, weak=False)


def stamp(headers: Any = None, **_: Any) -> None:
    """Note when the task may start, in seconds since the epoch."""
    if isinstance(headers, dict):
        headers[DUE] = due(headers.get("eta"))


def due(eta: str | None) -> float:
    if eta:
        try:
            at = maybe_make_aware(datetime.fromisoformat(eta), current_app.timezone)
        except ValueError:
            pass
        else:
            return at.timestamp()
    return round(time.time(), 3)


# -- in a worker's main process --------------------------------------------------------------


def connect_requests() -> None:
    """Count how tasks end in this worker; before its consumer starts."""
    from celery.worker import strategy

    strategy.create_request_cls = counting(strategy.create_request_cls)
    signals.task_unknown.connect(on_unread, weak=False)
    signals.task_rejected.connect(on_unread, weak=False)


def counting(create: Callable[..., type]) -> Callable[..., type]:
    """Celery's factory of request classes, one for each task, with our count in them."""

    def create_request_cls(*args: Any, **kwargs: Any) -> type:
        base: Any = create(*args, **kwargs)

        class Request(base):
            celeriac_runtime: float | None = None
            celeriac_counted = False

            def on_success(self, outcome: Any, **kwargs: Any) -> Any:
                failed, _, self.celeriac_runtime = outcome
                if not failed:
                    ended(self, "succeeded")
                return super().on_success(outcome, **kwargs)

            def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
                if kind := outcome_of(self, exc_info):
                    ended(self, kind)
                return super().on_failure(exc_info, *args, **kwargs)

            def on_timeout(self, soft: bool, timeout: float) -> Any:
                if not soft:
                    ended(self, "failed")
                return super().on_timeout(soft, timeout)

        return Request

    return create_request_cls


def outcome_of(request: Any, exc_info: Any) -> str:
    """How a task that did not succeed ended; "" for what is no end."""
    from celery.worker import state

    error = exc_info.exception
    if isinstance(error, ExceptionWithTraceback):
        error = error.exc
    if isinstance(error, Retry):
        return "retried"
    if isinstance(error, Reject):
        return "rejected"
    if isinstance(error, Ignore | Terminated) or state.should_terminate:
        return ""
    lost = isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt)
    return "retried" if lost and request._request_dict.get(HEADER) is not None else "failed"


def ended(request: Any, kind: str) -> None:
    """Take one task's end down; Celery tells of a hard time limit twice."""
    if request.celeriac_counted:
        return
    request.celeriac_counted = True
    start, runtime = request.time_start, request.celeriac_runtime
    if runtime is None and start:
        runtime = max(0.0, time.time() - start)
    published = request._request_dict.get(DUE)
    known = start and isinstance(published, int | float)
    late = max(0.0, start - published) if known else None
    queue = (request.delivery_info or {}).get("routing_key") or ""
    _done.append((request.task.name, queue, kind, runtime, late))


def on_unread(message: Any = None, **_: Any) -> None:
    """A message of no known task, or not readable as one."""
    queue = (getattr(message, "delivery_info", None) or {}).get("routing_key") or ""
    _done.append((UNKNOWN, queue, "rejected", None, None))


# -- in the keeper -----------------------------------------------------------------------------


class Sum:
    """What one task did in one queue since the last write."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.runtime_sum = self.latency_sum = 0.0
        self.runtime = [0] * (len(BUCKETS) + 1)
        self.latency = [0] * (len(BUCKETS) + 1)


class Tally:
    """Adds up what `ended` took down; used by the keeper's thread only."""

    def __init__(self, queues: Callable[[], Any]) -> None:
        self.queues = queues
        self.names: dict[str, str] = {}
        self.sums: dict[tuple[str, str], Sum] = {}
        self.written_at = time.monotonic()

    def add_up(self) -> None:
        while _done:
            task, routing_key, kind, runtime, late = _done.popleft()
            found = self.sums.setdefault((task, self.queue(routing_key)), Sum())
            found.counts[kind] += 1
            if runtime is not None:
                found.runtime_sum += runtime
                found.runtime[bisect_left(BUCKETS, runtime)] += 1
            if late is not None:
                found.latency_sum += late
                found.latency[bisect_left(BUCKETS, late)] += 1

    def queue(self, routing_key: str) -> str:
        """The queue that the message came from, one of those that this worker consumes."""
        if routing_key not in self.names:
            consumed = list(self.queues().values())
            self.names = {q.routing_key: q.name for q in consumed} | {
                q.name: q.name for q in consumed
            }
        return self.names.get(routing_key, UNKNOWN)

    def write(self, session: Any, at_once: bool = False) -> None:
        """Write what was added up, when it is time; raises what the database raises."""
        if not self.sums or (not at_once and time.monotonic() - self.written_at < WRITE_SECONDS):
            return
        rows = [
            {"task": task, "queue": queue, **found.counts}
            | {name: value for name, value in vars(found).items() if name != "counts"}
            for (task, queue), found in self.sums.items()
        ]
        with session.cursor() as cursor:
            cursor.execute(WRITE, [json.dumps(rows)])
        self.sums.clear()
        self.written_at = time.monotonic()


def note_depths(session: Any, queues: list[tuple[str, int, float | None]]) -> None:
    """Write (queue, messages, age of the oldest in seconds) into this minute."""
    with session.cursor() as cursor:
        for name, depth, oldest in queues:
            cursor.execute(
                "INSERT INTO celeriac_depth (minute, queue, depth, oldest)"
                " VALUES (date_trunc('minute', clock_timestamp()), %s, %s, %s)"
                " ON CONFLICT (queue, minute) DO UPDATE"
                " SET depth = excluded.depth, oldest = excluded.oldest",
                [name[:255], depth, oldest],
            )


def tidy(session: Any) -> None:
    """Forget old minutes, and Beats that have not ticked as long."""
    with session.cursor() as cursor:
        for table, column in (
            ("celeriac_minute", "minute"),
            ("celeriac_depth", "minute"),
            ("celeriac_tick", "ticked_at"),
            ("celeriac_beat", "last_at"),
        ):
            cursor.execute(
                f"DELETE FROM {table} WHERE {column} > 'epoch'"
                f" AND {column} < clock_timestamp() - make_interval(hours => %s)",
                [KEEP_HOURS],
            )


# -- in Beat -----------------------------------------------------------------------------------


def ticked(session: Any, app_name: str, leader: str) -> None:
    """Note that this leader has just ticked; does nothing without the tables."""
    from django.apps import apps

    if not apps.is_installed("celeriac"):
        return
    with session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO celeriac_tick (app, leader, ticked_at) VALUES (%s, %s, clock_timestamp())"
            " ON CONFLICT (app) DO UPDATE"
            " SET leader = excluded.leader, ticked_at = excluded.ticked_at",
            [app_name[:255], leader[:255]],
        )
