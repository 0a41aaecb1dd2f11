"""What is so now, and what was so in the last hours: one source for the page and the metrics.

Each function asks PostgreSQL (by the session that it is given) or Redis, not both, so that
the one can be away without the other's figures. Errors are the database's and Redis's own.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from celeriac import broker, rivals
from celeriac.broker import DUE
from celeriac.history import BUCKETS, OUTCOMES
from celeriac.ledger import fetch

WORKERS = zlib.crc32(b"celeriac.worker") - 2**31
"""A worker that is alive holds the advisory lock (WORKERS, id of its row)."""

MOST_QUEUES = 200
MOST_LETTERS = 50
OTHER = "(other)"


def release() -> str:
    """The release that this process runs from, or ""."""
    found = re.search(r"/releases/([^/]+)", str(Path.cwd()))
    return os.environ.get("CELERIAC_RELEASE") or (found[1] if found else "")


# -- Redis -----------------------------------------------------------------------------------


@dataclass
class Queue:
    """One queue, over all its priorities; `oldest` is in seconds."""

    name: str
    depth: int = 0
    oldest: float | None = None
    priorities: dict[int, int] = field(default_factory=dict)


def priorities(app: Celery) -> list[int]:
    options = app.conf.broker_transport_options or {}
    return list(options.get("priority_steps") or (0, 3, 6, 9))


def chosen_queues(names: Iterable[str], first: Iterable[str] = ()) -> tuple[list[str], int]:
    """At most MOST_QUEUES names, those of `first` before others, and how many are left out."""
    before = set(first)
    ordered = sorted(set(names) | before, key=lambda name: (name not in before, name))
    return ordered[:MOST_QUEUES], len(ordered[MOST_QUEUES:])


def queues(app: Celery, names: Iterable[str]) -> list[Queue]:
    """What waits in Redis, and for how long the first message of each list has been due."""
    names = list(names)
    lists = [(name, p, broker.list_name(app, name, p)) for name in names for p in priorities(app)]
    pipe = broker.client(app).pipeline(transaction=False)
    for _, _, key in lists:
        pipe.llen(key)
        pipe.lrange(broker.unprefixed(app, key), -1, -1)
    replies = iter(pipe.execute(raise_on_error=False))
    found = {name: Queue(name) for name in names}
    for name, priority, _ in lists:
        length, last = next(replies), next(replies)
        if isinstance(length, Exception):
            if "WRONGTYPE" in str(length):
                continue  # somebody else's key
            raise length
        queue = found[name]
        queue.depth += length
        if length:
            queue.priorities[priority] = length
        if isinstance(last, list) and last and (age := age_of(last[0])) is not None:
            queue.oldest = max(age, queue.oldest or 0.0)
    return list(found.values())


def age_of(message: bytes) -> float | None:
    """Seconds since the message was published or due, if it says so."""
    try:
        return max(0.0, time.time() - float(json.loads(message)["headers"][DUE]))
    except (ValueError, KeyError, TypeError):
        return None


def unacked(app: Celery) -> int:
    """Messages that workers have taken and not acknowledged, of all queues."""
    options = app.conf.broker_transport_options or {}
    return broker.client(app).hlen(options.get("unacked_key") or "unacked")


# -- PostgreSQL ------------------------------------------------------------------------------

WORKER_ROWS = f"""
SELECT w.name, w.pool, w.concurrency, w.queues, w.release, w.running, w.tasks,
       extract(epoch FROM clock_timestamp() - w.seen_at)::float8 AS seen, l.pid IS NOT NULL
FROM celeriac_worker w LEFT JOIN pg_locks l
  ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 AND l.classid::bigint = ({WORKERS}::bigint & 4294967295) AND l.objid::bigint = w.id
ORDER BY w.name, w.id
"""


@dataclass
class Worker:
    """A worker's main process, as its keeper last told; `seen` is seconds ago."""

    name: str
    pool: str
    concurrency: int
    queues: list[str]
    release: str
    running: int
    tasks: list[dict[str, Any]]
    seen: float
    alive: bool

    @property
    def saturation(self) -> float:
        return self.running / self.concurrency if self.concurrency else 0.0


def workers(session: Any) -> list[Worker]:
    """All that are alive, and for a minute those that were."""
    return [
        Worker(name, pool or "", size or 0, queues or [], rel or "", running or 0, tasks or [], *so)
        for name, pool, size, queues, rel, running, tasks, *so in (
            (*row[:3], parsed(row[3]), *row[4:6], parsed(row[6]), *row[7:])
            for row in fetch(WORKER_ROWS, [], session)
        )
    ]


def parsed(value: Any) -> Any:
    """JSON as a list, whether the driver has read it already or not."""
    return json.loads(value) if isinstance(value, str) else value


def configured_queues(app: Celery) -> set[str]:
    """The queues of the app's settings and routes."""
    names = {queue.name for queue in app.amqp.queues.values()} | {app.conf.task_default_queue}
    routes = app.conf.task_routes or {}
    for given in routes.values() if isinstance(routes, dict) else ():
        queue = given.get("queue") if isinstance(given, dict) else given
        if queue:
            names.add(getattr(queue, "name", queue))
    return names


def queue_names(app: Celery, session: Any) -> set[str]:
    """The queues that are consumed, routed to, owed to, or were used in the last hours."""
    names = configured_queues(app)
    for worker in workers(session):
        names.update(worker.queues)
    rows = fetch(
        "SELECT DISTINCT queue FROM celeriac_depth WHERE depth > 0"
        " AND minute > clock_timestamp() - interval '6 hours'"
        " UNION SELECT DISTINCT queue FROM celeriac_minute WHERE minute = 'epoch'"
        " UNION SELECT queue FROM (SELECT queue FROM celeriac_outbox LIMIT 1000) AS o",
        [],
        session,
    )
    separator = (app.conf.broker_transport_options or {}).get("sep") or "\x06\x16"
    names.update(queue.split(separator)[0] for (queue,) in rows)
    return {name for name in names if name and not name.startswith("(")}


@dataclass
class Owed:
    """The outbox: due and not sent, due later, sent and not done; ages in seconds."""

    due: int
    waiting: int
    sent: int
    oldest_due: float | None
    oldest_sent: float | None


def owed(session: Any) -> Owed:
    rows = fetch(
        "SELECT count(*) FILTER (WHERE sent_at IS NULL AND due_at <= clock_timestamp()),"
        " count(*) FILTER (WHERE sent_at IS NULL AND due_at > clock_timestamp()),"
        " count(*) FILTER (WHERE sent_at IS NOT NULL),"
        " extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE sent_at IS NULL"
        "   AND due_at <= clock_timestamp()))::float8,"
        " extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE sent_at IS NOT NULL"
        "   ))::float8 FROM celeriac_outbox",
        [],
        session,
    )
    return Owed(*rows[0])


def dead(session: Any) -> list[tuple[str, str, int]]:
    """Dead letters as (reason, task, how many), most first; the rest together as OTHER."""
    rows = fetch(
        "SELECT reason, task, count(*) FROM celeriac_dead GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        [],
        session,
    )
    rest = sum(count for _, _, count in rows[MOST_LETTERS:])
    return rows[:MOST_LETTERS] + ([(OTHER, OTHER, rest)] if rest else [])


@dataclass
class Beat:
    """The lease: its holders (one, or none), who waits for it, seconds since the last tick; and
    how many Beats send runs in turns, with the lease or outside of it (none is right)."""

    leaders: list[str]
    standbys: int
    ticked: float | None
    rivals: int = 0


def beat(session: Any, app: Celery) -> Beat:
    from celeriac.beat import LEASE_SPACE, Lease

    lease = Lease(app.main or "celery")
    leaders = fetch(
        "SELECT a.application_name FROM pg_stat_activity a WHERE a.pid IN"
        f" (SELECT pid {Lease.LOCKS})",
        [LEASE_SPACE, lease.key],
        session,
    )
    waiting = fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'celeriac-beat %%'"
        f" AND datname = current_database() AND pid NOT IN (SELECT pid {Lease.LOCKS})",
        [LEASE_SPACE, lease.key],
        session,
    )
    ticked = fetch(
        "SELECT extract(epoch FROM clock_timestamp() - ticked_at)::float8 FROM celeriac_tick"
        " WHERE app = %s",
        [lease.app_name[:255]],
        session,
    )
    names = [name.removeprefix("celeriac-beat ") or "somebody" for (name,) in leaders]
    sending = rivals.count(session, lease.app_name)
    return Beat(names, waiting[0][0], ticked[0][0] if ticked else None, sending)


# -- history ---------------------------------------------------------------------------------

TOTALS = f"""
SELECT task, queue, {", ".join(OUTCOMES)}, runtime_sum, latency_sum, runtime, latency
FROM celeriac_minute WHERE minute = 'epoch' ORDER BY task, queue
"""

SERIES = f"""
WITH m AS MATERIALIZED (
    SELECT (floor(extract(epoch FROM minute) / %s) * %s)::bigint AS at, * FROM celeriac_minute
    WHERE minute >= clock_timestamp() - make_interval(secs => %s)),
counts AS (
    SELECT at, {", ".join(f"sum({name})::bigint AS {name}" for name in OUTCOMES)}
    FROM m GROUP BY at),
cells AS (
    SELECT at, n, sum(r)::bigint AS r, sum(l)::bigint AS l
    FROM m, unnest(m.runtime, m.latency) WITH ORDINALITY AS u (r, l, n) GROUP BY at, n),
histograms AS (
    SELECT at, array_agg(r ORDER BY n) AS runtime, array_agg(l ORDER BY n) AS latency
    FROM cells GROUP BY at)
SELECT * FROM counts JOIN histograms USING (at) ORDER BY at
"""


@dataclass
class Total:
    """What a task did in a queue since the tables were made."""

    task: str
    queue: str
    outcomes: dict[str, int]
    runtime_sum: float
    latency_sum: float
    runtime: list[int]
    latency: list[int]


def totals(session: Any) -> list[Total]:
    width = len(OUTCOMES)
    return [
        Total(task, queue, dict(zip(OUTCOMES, rest[:width], strict=True)), *rest[width:])
        for task, queue, *rest in fetch(TOTALS, [], session)
    ]


@dataclass
class Point:
    """All tasks together, in `step` seconds from `at` on (seconds since the epoch)."""

    at: int
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    rejected: int = 0
    runtime: list[int] = field(default_factory=list)
    latency: list[int] = field(default_factory=list)


def series(session: Any, hours: int, step: int) -> list[Point]:
    """One point for every `step` seconds of the last hours, also where nothing happened."""
    now = fetch("SELECT extract(epoch FROM clock_timestamp())::float8", [], session)[0][0]
    rows = {
        row[0]: Point(*row) for row in fetch(SERIES, [step, step, hours * 3600 + step], session)
    }
    end = int(now // step) * step
    return [rows.get(at, Point(at)) for at in range(end - hours * 3600 + step, end + step, step)]


BY_TASK = f"""
WITH m AS MATERIALIZED (
    SELECT * FROM celeriac_minute
    WHERE minute > 'epoch' AND minute >= clock_timestamp() - make_interval(hours => %s)),
counts AS (
    SELECT task, {", ".join(f"sum({name})::bigint AS {name}" for name in OUTCOMES)}
    FROM m GROUP BY task),
cells AS (
    SELECT task, n, sum(r)::bigint AS r, sum(l)::bigint AS l
    FROM m, unnest(m.runtime, m.latency) WITH ORDINALITY AS u (r, l, n) GROUP BY task, n),
histograms AS (
    SELECT task, array_agg(r ORDER BY n) AS runtime, array_agg(l ORDER BY n) AS latency
    FROM cells GROUP BY task)
SELECT * FROM counts JOIN histograms USING (task)
ORDER BY succeeded + failed + retried + rejected DESC, task LIMIT 20
"""


@dataclass
class Summary:
    """What one task did in the last hours."""

    task: str
    succeeded: int
    failed: int
    retried: int
    rejected: int
    runtime: list[int]
    latency: list[int]

    @property
    def runtime_p50(self) -> float | None:
        return quantile(self.runtime, 0.5)

    @property
    def runtime_p95(self) -> float | None:
        return quantile(self.runtime, 0.95)

    @property
    def latency_p95(self) -> float | None:
        return quantile(self.latency, 0.95)


def by_task(session: Any, hours: int) -> list[Summary]:
    """The busiest tasks of the last hours."""
    return [Summary(*row) for row in fetch(BY_TASK, [hours], session)]


def quantile(counts: list[int], q: float) -> float | None:
    """The value below which `q` of the counts lie, as Prometheus estimates it."""
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0
    for index, count in enumerate(counts[: len(BUCKETS)]):
        if count and below + count >= rank:
            low = BUCKETS[index - 1] if index else 0.0
            return low + (BUCKETS[index] - low) * (rank - below) / count
        below += count
    return float(BUCKETS[-1])
