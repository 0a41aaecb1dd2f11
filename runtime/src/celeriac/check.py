"""Hold a Celery app against the topology that is about to run it.

    python -m celeriac.check --app config [--database | --pooled] [--facts] < topology.json

The topology is what `celery_workers` says, as JSON on stdin:

    {"workers": [{"name": "cpu", "queues": ["orders"], "pool": "prefork", "concurrency": 2,
                  "stop_timeout": 300, "hosts": 1, "pgbouncer": false}],
     "postgresql_max_connections": 100, "web_connections": 8, "pgbouncer_connections": 0}

Prints `error: …` and `warning: …` lines that name the thing, its value and what to write
instead. Exits 1 on any error, else 0. Imports the app, sends nothing to the broker, and
reads the database only with --database (for periodic tasks kept there). With --pooled it looks
only whether the settings suit PgBouncer, in the environment of a worker that goes through it.
With --facts a line `facts: {…}` says which tasks and migrations the release has, as skew.py does.

Limits: a router that needs a task's arguments cannot be followed (a warning says so), and
a queue given only at the call, in apply_async(queue=…), cannot be seen.
"""

import argparse
import json
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from celeriac.skew import knowledge

REDIS_MAX_CONNECTIONS = 10  # kombu's own default
REDIS_VISIBILITY_TIMEOUT = 3600  # kombu's own default
RESERVED_CONNECTIONS = 5  # superuser_reserved_connections, and one for a person and a backup
BEAT_CONNECTIONS = 2  # the lease and the schedule
GREEN_POOLS = ("gevent", "eventlet")


@dataclass(frozen=True)
class Pool:
    """One item of `celery_workers`."""

    name: str
    queues: tuple[str, ...] = ()
    pool: str = "prefork"
    concurrency: int | None = None
    stop_timeout: float | None = None
    hosts: int = 1
    pgbouncer: bool = False

    @property
    def slots(self) -> int:
        return 1 if self.pool == "solo" else self.concurrency or os.cpu_count() or 1


@dataclass(frozen=True)
class Topology:
    """What the inventory is about to run."""

    workers: tuple[Pool, ...]
    postgresql_max_connections: int | None = None
    web_connections: int = 0
    pgbouncer_connections: int = 0

    @classmethod
    def read(cls, text: str) -> "Topology":
        """Parse the JSON; raises ValueError or TypeError with a name in its text."""
        data = json.loads(text)
        pools = tuple(
            Pool(**{**item, "queues": tuple(item.get("queues") or ())})
            for item in data.pop("workers")
        )
        return cls(workers=pools, **data)


def load(name: str) -> Celery:
    """The app with every task module imported, as a worker would have it."""
    app = find_app(name)
    app.loader.import_default_modules()
    app.finalize()
    return app


class Routes:
    """Which of the app's tasks go to which queue."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.problems: list[str] = []
        self.queues: dict[str, set[str]] = defaultdict(set)
        for name in sorted(app.tasks):
            if not name.startswith("celery."):
                self.add(name, {})

    def add(self, task_name: str, options: dict[str, Any], label: str = "") -> None:
        """Follow one task with the options of a schedule entry, if any."""
        task = self.app.tasks.get(task_name)
        if options.get("queue") is None and options.get("exchange"):
            return
        given = {
            key: value
            for key in ("queue", "exchange", "routing_key")
            if (value := options.get(key) or getattr(task, key, None))
        }
        try:
            queue = self.app.amqp.router.route(given, task_name, (), {}, task_type=task)["queue"]
        except Exception as error:
            self.problems.append(
                f"warning: the queue of {label or 'task'} {task_name} cannot be told: its route "
                f"raised {type(error).__name__}: {error}. Check by hand that a pool in "
                "celery_workers consumes it."
            )
        else:
            self.queues[getattr(queue, "name", queue)].add(label or task_name)


def names(items: Any, limit: int = 5) -> str:
    """A short list for people."""
    items = sorted(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def check_broker(app: Celery) -> Iterator[str]:
    try:
        transport(app)
    except Exception as error:
        yield (
            f"error: the app's broker_url cannot be used: {type(error).__name__}: {error}. Write "
            "CELERY_BROKER_URL = 'redis://:password@host:6379/0' or 'amqp://…' in its settings."
        )
    if not (app.conf.broker_read_url or app.conf.broker_url):
        yield (
            "error: the app has no broker_url. Write CELERY_BROKER_URL = "
            "os.environ['CELERY_BROKER_URL'] in its settings."
        )
    for setting in ("accept_content", "result_accept_content"):
        if any("pickle" in kind or "python-serialize" in kind for kind in app.conf[setting] or ()):
            yield (
                f"error: {setting} allows pickle, so whoever can write to the broker can run code. "
                f"Write CELERY_{setting.upper()} = ['json']."
            )


def consumed_queues(app: Celery, pool: Pool) -> list[str]:
    """The real names of the queues that a pool consumes."""
    queues = app.amqp.queues
    wanted = pool.queues or tuple(queues)
    return [getattr(queues.aliases.get(name), "name", name) for name in wanted]


def check_queues(app: Celery, topology: Topology, routes: Routes) -> Iterator[str]:
    yield from routes.problems
    consumers = defaultdict(list)
    for pool in topology.workers:
        for queue in consumed_queues(app, pool):
            consumers[queue].append(pool.name)
    for queue, tasks in sorted(routes.queues.items()):
        if queue not in consumers:
            yield (
                f"error: queue {queue!r} has no consumer, but {names(tasks)} "
                f"{'is' if len(tasks) == 1 else 'are'} routed there. Add {queue!r} to the queues "
                "of an item in celery_workers, or route "
                f"{'it' if len(tasks) == 1 else 'them'} elsewhere."
            )
    default = app.conf.task_default_queue
    if default not in consumers and default not in routes.queues:
        yield (
            f"warning: no pool consumes the default queue {default!r}, where Celery's own tasks go "
            f"(celery.backend_cleanup, celery.chord_unlock). Add {default!r} to the queues of an "
            "item in celery_workers."
        )
    for queue, pools in sorted(consumers.items()):
        if queue not in routes.queues and queue != default:
            yield (
                f"warning: celery_workers item {names(pools)} consumes {queue!r}, but no task is "
                "routed there. Remove it from queues, or correct its spelling, unless it is only "
                "used at the call, in apply_async(queue=…)."
            )


def hard_limit(app: Celery, task_name: str) -> float | None:
    """The task's hard time limit in seconds, or the global one."""
    limit = getattr(app.tasks.get(task_name), "time_limit", None)
    return limit if limit is not None else app.conf.task_time_limit


def check_limits(app: Celery, topology: Topology, routes: Routes) -> Iterator[str]:
    limits = {
        name: hard_limit(app, name) for name in sorted(app.tasks) if not name.startswith("celery.")
    }
    unlimited = [name for name, limit in limits.items() if limit is None]
    if unlimited:
        yield (
            f"warning: {names(unlimited)} {'has' if len(unlimited) == 1 else 'have'} no hard time "
            "limit, so a stuck task holds its slot for ever. Write CELERY_TASK_TIME_LIMIT, or "
            "time_limit on the task."
        )
    if transport(app) == "redis":
        options = app.conf.broker_transport_options or {}
        visible = options.get("visibility_timeout", REDIS_VISIBILITY_TIMEOUT)
        for name, limit in limits.items():
            if limit and limit >= visible:
                yield (
                    f"error: {name} may run {limit:g} s, but after a visibility_timeout of "
                    f"{visible:g} s Redis gives it to a second worker. Lower its time_limit, or "
                    "raise visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS above it."
                )
    for pool in topology.workers:
        if pool.stop_timeout is None:
            continue
        tasks = {
            task
            for queue in consumed_queues(app, pool)
            for task in routes.queues.get(queue, ())
            if limits.get(task)
        }
        slowest = max(tasks, key=lambda task: (limits[task], task), default=None)
        if slowest and pool.stop_timeout < limits[slowest]:
            yield (
                f"error: celery_workers item {pool.name}: stop_timeout is {pool.stop_timeout:g}, "
                f"but {slowest} may run {limits[slowest]:g} s and would be cut off. Write "
                f"stop_timeout: {limits[slowest]:g} or more, or lower the task's time_limit."
            )


def sessions(app: Celery, pool: Pool, routes: Routes) -> int:
    """How many a task of this pool may hold: its own, unless that is PgBouncer's, and with
    atomic=False one more for its lock."""
    tasks = {task for queue in consumed_queues(app, pool) for task in routes.queues.get(queue, ())}
    found = [app.tasks[name] for name in tasks if name in app.tasks]
    long = any(getattr(task, "durable", False) and not task.atomic for task in found)
    return (not pool.pgbouncer) + long


def check_connections(app: Celery, topology: Topology, routes: Routes) -> Iterator[str]:
    if transport(app) == "redis":
        options = app.conf.broker_transport_options or {}
        allowed = options.get("max_connections", REDIS_MAX_CONNECTIONS)
        for pool in topology.workers:
            if pool.pool in GREEN_POOLS and allowed is not None and pool.slots >= allowed:
                yield (
                    f"error: celery_workers item {pool.name}: concurrency is {pool.slots} with "
                    f"pool {pool.pool}, but the broker connection allows max_connections of "
                    f"{allowed}; acknowledgements would fail and tasks run twice. Write "
                    f"'max_connections': {pool.slots + 20} in CELERY_BROKER_TRANSPORT_OPTIONS, or "
                    "lower concurrency."
                )
    limit = topology.postgresql_max_connections
    if limit is None:
        return
    slots = sum(pool.slots * pool.hosts * sessions(app, pool, routes) for pool in topology.workers)
    keepers = sum(pool.hosts for pool in topology.workers)
    web, pooled = topology.web_connections, topology.pgbouncer_connections
    needed = 2 * (slots + keepers + web + BEAT_CONNECTIONS) + pooled + RESERVED_CONNECTIONS
    if needed > limit:
        yield (
            f"error: PostgreSQL allows max_connections of {limit}, but up to {needed} may be open: "
            f"{slots} by tasks, {keepers} by workers that look after durable tasks, {web} by web "
            f"and {BEAT_CONNECTIONS} by Beat, twice while a deploy runs the old and the new "
            f"release together, {f'{pooled} by PgBouncer, ' if pooled else ''}and "
            f"{RESERVED_CONNECTIONS} kept free. Write max_connections: {needed} in "
            "postgresql_config, or lower concurrency in celery_workers."
        )


def check_pooled(databases: dict[str, Any], durable: bool) -> Iterator[str]:
    """What PgBouncer in transaction mode asks of Django's DATABASES."""
    default = databases["default"]
    options = default.get("OPTIONS") or {}
    reasons = {
        "pool": "PgBouncer is the pool",
        "prepare_threshold": "a prepared statement belongs to one session",
        "options": "its sessions are shared; use SET LOCAL, or ALTER ROLE",
    }
    where = "for a pool that goes through PgBouncer. Where DATABASE_DIRECT_URL is set,"
    if durable and "celeriac" not in databases:
        yield (
            f"error: DATABASES has no 'celeriac' {where} write DATABASES['celeriac'] with what "
            "that says: durable tasks need sessions of their own."
        )
    if not default.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield (
            f"error: DATABASES['default'] allows server-side cursors {where} write "
            "DATABASES['default']['DISABLE_SERVER_SIDE_CURSORS'] = True: a cursor does not outlive "
            "its transaction."
        )
    for name, why in reasons.items():
        if options.get(name) is not None:
            yield (
                f"error: DATABASES['default']['OPTIONS'] has {name!r} {where} leave it out: {why}."
            )


def transport(app: Celery) -> str:
    """The broker's kind, such as "redis", "amqp" or "memory"."""
    return app.connection_for_read().transport.driver_type


def check_schedule(app: Celery, routes: Routes, database: bool) -> Iterator[str]:
    """Unregistered tasks in the schedule; known ones are added to the routes."""
    entries = [
        (f"beat_schedule entry {name!r}", entry.get("task"), entry.get("options") or {})
        for name, entry in (app.conf.beat_schedule or {}).items()
    ]
    if database:
        try:
            entries += periodic_tasks()
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield f"warning: periodic tasks in the database were not checked: {reason}"
    for label, task, options in entries:
        if task in app.tasks:
            routes.add(task, options, label)
        else:
            yield (
                f"error: {label} runs {task!r}, which is not registered. Correct the name, or "
                "import its module (autodiscover_tasks() finds tasks.py in INSTALLED_APPS); "
                f"registered are {names(n for n in app.tasks if not n.startswith('celery.'))}."
            )


def periodic_tasks() -> list[tuple[str, str, dict[str, Any]]]:
    """Enabled periodic tasks of django-celery-beat; none before its migrations ran."""
    from django.apps import apps
    from django.db import connection

    if not apps.is_installed("django_celery_beat"):
        return []
    model = apps.get_model("django_celery_beat", "PeriodicTask")
    if model._meta.db_table not in connection.introspection.table_names():
        return []
    return [
        (
            f"periodic task {row.name!r}",
            row.task,
            {"queue": row.queue, "exchange": row.exchange, "routing_key": row.routing_key},
        )
        for row in model.objects.filter(enabled=True).order_by("name")
    ]


def check(app: Celery, topology: Topology, database: bool = False) -> list[str]:
    """All findings, errors first."""
    findings = list(check_broker(app))
    if findings:
        return findings
    routes = Routes(app)
    findings += check_schedule(app, routes, database)
    findings += check_queues(app, topology, routes)
    findings += check_limits(app, topology, routes)
    findings += check_connections(app, topology, routes)
    return sorted(findings, key=lambda line: not line.startswith("error"))


def pooled() -> list[str]:
    """The findings about the settings of a Django project in this environment."""
    from django.apps import apps
    from django.conf import settings

    return list(check_pooled(settings.DATABASES, apps.is_installed("celeriac")))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celeriac.check")
    parser.add_argument("--app", required=True, help="the Celery app, as in `celery -A`")
    parser.add_argument(
        "--database", action="store_true", help="check periodic tasks in the database too"
    )
    parser.add_argument(
        "--pooled", action="store_true", help="check only whether the settings suit PgBouncer"
    )
    parser.add_argument(
        "--facts", action="store_true", help="also print the names of all tasks and migrations"
    )
    options = parser.parse_args(arguments)
    try:
        topology = Topology.read(sys.stdin.read())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        print(f"error: the topology on stdin cannot be read: {type(error).__name__}: {error}")
        return 1
    try:
        app = load(options.app)
    except Exception as error:
        print(
            f"error: the Celery app {options.app!r} cannot be loaded: "
            f"{type(error).__name__}: {error}\n{traceback.format_exc()}",
            end="",
        )
        return 1
    findings = pooled() if options.pooled else check(app, topology, options.database)
    for line in findings:
        print(line)
    if options.facts:
        print(f"facts: {json.dumps(knowledge(app))}")
    return int(any(line.startswith("error") for line in findings))


if __name__ == "__main__":
    sys.exit(main())
